//! Group commit: whatever queued while one transaction ran is the next transaction. An idle server commits a single
//! write at once; a busy one shares each sync among hundreds.
//!
//! Where the log is the point of durability, what comes here is durable already, and the database follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::batch::{BatchContext, LogContext, Synced};
use super::collector::GraceClock;
use super::database::Database;
use super::errors::{Consequence, DatabaseError};
use super::quotas::Quotas;
use crate::application::errors::RepositoryError;
use crate::application::ports::{Clock, CommitOutcome, DeleteOutcome, UpdateOutcome};
use crate::domain::value_objects::InstanceId;
use crate::infrastructure::backlog::Share;
use crate::infrastructure::metrics::{PlaneMetrics, PlaneState};
use crate::infrastructure::plane_channel::{
    BATCH_WRITES_MAX, LogOrder, PackMark, Reply, Write, WriteOutcome, WriteRequest,
};
use crate::infrastructure::quota_ledger::QuotaRoom;
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{DatabaseRoom, Roots};

/// How long the database may be behind the log while nobody waits for it.
const APPLY_DELAY_MAX: Duration = Duration::from_millis(100);
/// The same where it is behind with changes of batches alone, and a core has more of them in hand: longer than it takes to
/// receive one, so that the database does not take from the core what the batch is to be answered with.
const BATCHED_APPLY_DELAY_MAX: Duration = Duration::from_secs(1);
/// How often to see whether there is room again.
const ROOM_LOOK: Duration = Duration::from_millis(200);
/// How long to wait before a batch of the log is applied once more.
const APPLY_PAUSE: Duration = Duration::from_millis(200);

/// Set by an I/O error of the database, never cleared: what the database says after one cannot be relied on until a
/// restart has recovered it. Set too when another server has taken this one's name.
#[derive(Debug, Clone, Default)]
pub(super) struct Latch {
    set: Arc<AtomicBool>,
    /// Whether the database was away when it was last asked: told once, not for each request that finds it so.
    away: Arc<AtomicBool>,
}

impl Latch {
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Logs an error, latches if it has to, and says what callers are told.
    pub(super) fn judge(&self, error: &DatabaseError) -> RepositoryError {
        let consequence = error.consequence();
        if error.is_lost_connection() {
            if !self.away.swap(true, Ordering::Relaxed) {
                tracing::error!(error = %error.source, "the database is away: every request that needs it is refused");
            }
            return consequence.into();
        }
        tracing::error!(error = %error.source, "the database could not {}", error.operation.trim_start_matches("cannot "));
        if consequence == Consequence::Latch {
            self.set();
        }
        consequence.into()
    }

    /// Whether the database did not answer when it was last asked.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// The database has done as it was asked.
    pub(super) fn answered(&self) {
        if self.is_away() && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }

    /// What it says, for whoever asks at any time.
    pub(super) fn state(&self) -> PlaneState {
        PlaneState { latched: self.set.clone(), away: self.away.clone() }
    }

    /// From now on no more writes are taken.
    pub(super) fn set(&self) {
        if !self.set.swap(true, Ordering::Relaxed) {
            tracing::error!("the metadata plane takes no more writes until a restart");
        }
    }
}

/// Applies the write queue until all senders are gone.
pub(super) struct GroupCommit<C> {
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    pub(super) clock: C,
    pub(super) instance: InstanceId,
    pub(super) next_sequence: u64,
    pub(super) ticks: GraceClock,
    pub(super) quotas: Arc<Quotas>,
    pub(super) metrics: Arc<PlaneMetrics>,
    /// Where the log is the point of durability.
    pub(super) log: Option<LogQueue>,
}

/// What applying the log takes.
pub(super) struct LogQueue {
    pub(super) order: Arc<LogOrder>,
    pub(super) roots: Roots,
    /// What the database needs on its disk, where that is known.
    pub(super) room: Option<DatabaseRoom>,
    /// Where cores find commits without the database.
    pub(super) index: Option<Arc<RecordIndex>>,
}

impl LogQueue {
    /// Lets cores find what has been committed where the log has it, and no longer what has been changed or removed.
    fn note_in_index(&self, writes: &[Write], outcomes: &[WriteOutcome]) {
        let Some(index) = &self.index else { return };
        let ticket = index.ticket();
        for (write, outcome) in writes.iter().zip(outcomes) {
            match (write, outcome) {
                (Write::Commit(commit), WriteOutcome::Committed(CommitOutcome::Committed { place, .. }))
                    if *place == commit.stored.place && !commit.is_reference =>
                {
                    index.note(ticket, &commit.stored);
                }
                (Write::Update(update), WriteOutcome::Updated(UpdateOutcome::Updated { .. })) => {
                    index.mark_stale(&update.object.id);
                }
                (_, WriteOutcome::Deleted(DeleteOutcome::Deleted { ids, .. })) => {
                    ids.iter().for_each(|id| index.mark_stale(id));
                }
                _ => {}
            }
        }
    }

    /// Takes no more objects while the database would soon have no room for them.
    fn look_for_room(&self) {
        if let Some(room) = &self.room {
            let is_short = room.is_short();
            match (self.order.is_short(), is_short) {
                (false, true) => tracing::warn!("the database's disk is almost full: uploads are refused"),
                (true, false) => tracing::info!("the database's disk has room again"),
                _ => {}
            }
            self.order.set_short(is_short);
        }
    }
}

impl<C: Clock> GroupCommit<C> {
    pub(super) async fn run(mut self, queue: mpsc::Receiver<WriteRequest>) {
        match self.log.take() {
            None => self.run_transactions(queue).await,
            Some(log) => self.run_log(log, queue).await,
        }
    }

    async fn run_transactions(mut self, mut queue: mpsc::Receiver<WriteRequest>) {
        let mut requests = Vec::with_capacity(BATCH_WRITES_MAX);
        while queue.recv_many(&mut requests, BATCH_WRITES_MAX).await > 0 {
            let Taken { writes, replies, rooms } = Taken::from_requests(requests.drain(..));
            if self.latch.is_set() {
                answer_all(replies, RepositoryError::Unavailable);
                continue;
            }
            let context = self.context();
            let turn = self.quotas.turn().await;
            let started = Instant::now();
            let applied = self.database.apply(&writes, &mut self.next_sequence, context).await;
            self.count(writes.len(), started, applied.is_ok());
            match applied {
                Ok(applied) => {
                    self.latch.answered();
                    self.quotas.ledger().settle(&applied.usage, rooms);
                    drop(turn);
                    answer_each(replies, applied.outcomes);
                }
                Err(error) => {
                    // What the database has counted of it, it will say itself.
                    self.quotas.ask();
                    answer_all(replies, self.latch.judge(&error));
                }
            }
        }
    }

    /// Changes arrive in the order in which they became durable, and are applied in that of their sequences: each waits
    /// for those before it. While nobody waits for the database, it is given many at once: what a transaction costs
    /// beside its changes, and pages that several of them touch, are then paid for once. Until then the queue is left
    /// alone, so that whoever sends to it wakes nobody. Those of batches are given to it later still.
    async fn run_log(self, log: LogQueue, mut queue: mpsc::Receiver<WriteRequest>) {
        let mut arrived = Vec::with_capacity(BATCH_WRITES_MAX);
        let mut waiting = Waiting::from(self.next_sequence);
        let mut is_wanted = false;
        log.look_for_room();
        loop {
            let deadline = waiting.deadline();
            tokio::select! {
                biased;
                count = queue.recv_many(&mut arrived, BATCH_WRITES_MAX), if deadline.is_none() => {
                    if count == 0 { break }
                }
                is_asked = log.order.wanted() => is_wanted |= is_asked,
                () = sleep(ROOM_LOOK), if log.order.is_short() => log.look_for_room(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    is_wanted |= waiting.is_due(log.order.has_batch_in_hand());
                }
            }
            arrived.extend(std::iter::from_fn(|| queue.try_recv().ok()));
            for request in arrived.drain(..) {
                is_wanted |= request.reply.is_some();
                waiting.put(request);
            }
            while let Some(requests) = waiting.take(is_wanted) {
                self.apply_logged(&log, requests).await;
                log.look_for_room();
            }
            // What somebody waits for may be behind a place that is still empty.
            is_wanted &= !waiting.places.is_empty();
        }
        while let Some(requests) = waiting.take(true) {
            self.apply_logged(&log, requests).await;
        }
    }

    /// Applies what is durable already. It cannot be refused any more: while the database has no space, it is tried
    /// again, and nothing new is written to the log.
    async fn apply_logged(&self, log: &LogQueue, requests: Vec<WriteRequest>) {
        let places = requests.iter().map(|request| (request.sequence.unwrap_or(0), request.mark));
        let mut context = log_context(places);
        let batched = requests.iter().filter(|request| request.share == Share::Batched).count() as u64;
        let Taken { writes, mut replies, rooms } = Taken::from_requests(requests.into_iter());
        // What ends a pack must be known before anything that was decided without it; a check is about syncing.
        let is_synced = |write: &Write| matches!(write, Write::EndPack { .. } | Write::Check);
        context.synced = if writes.iter().any(is_synced) { Synced::Now } else { Synced::Later };
        loop {
            if self.latch.is_set() {
                // What is in the log the next start applies; whoever waits for that now waits in vain.
                log.order.end();
                return answer_all(replies, RepositoryError::Unavailable);
            }
            let turn = self.quotas.turn().await;
            let started = Instant::now();
            let applied = self.database.apply_logged(&writes, &context, self.context(), &log.roots).await;
            self.count(writes.len(), started, applied.is_ok());
            match applied {
                Ok(applied) => {
                    self.latch.answered();
                    self.quotas.ledger().settle(&applied.usage, rooms);
                    drop(turn);
                    log.order.set_stalled(false);
                    // Before anybody is told, of this batch or that it is in the database.
                    log.note_in_index(&writes, &applied.outcomes);
                    let last = context.sequences.last().copied().unwrap_or(0);
                    log.order.note_applied_with(last, batched);
                    return answer_each(replies, applied.outcomes);
                }
                Err(error) => {
                    drop(turn);
                    log.order.set_stalled(self.latch.judge(&error) == RepositoryError::NoSpace);
                    if self.latch.is_set() {
                        // Before anybody hears of it, and might send more.
                        log.order.end();
                        // What of this the database has is not known, and nothing will tell of it any more.
                        log.index.iter().for_each(|index| index.clear());
                    }
                    // It will happen, but nobody knows when.
                    answer_all(replies.iter_mut().map(Option::take).collect(), RepositoryError::Unavailable);
                    if !self.latch.is_set() {
                        sleep(APPLY_PAUSE).await;
                    }
                }
            }
        }
    }

    fn count(&self, writes: usize, started: Instant, applied: bool) {
        match applied {
            true => {
                self.metrics.commits.record(started.elapsed());
                self.metrics.commit_writes.record(writes);
            }
            false => self.metrics.failed_commits.add(1),
        }
    }

    fn context(&self) -> BatchContext {
        BatchContext { writer: self.instance, now: self.clock.now(), tick: self.ticks.now() }
    }
}

/// What is in a batch of requests.
struct Taken {
    writes: Vec<Write>,
    replies: Vec<Option<Reply<WriteOutcome>>>,
    /// What they hold of quotas, until the batch has been counted.
    rooms: Vec<QuotaRoom>,
}

impl Taken {
    fn from_requests(requests: impl ExactSizeIterator<Item = WriteRequest>) -> Self {
        let (mut writes, mut replies) =
            (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
        let mut rooms = Vec::new();
        for WriteRequest { write, reply, room, .. } in requests {
            writes.push(write);
            replies.push(reply);
            rooms.extend(room.is_held().then_some(room));
        }
        Self { writes, replies, rooms }
    }
}

/// Changes of the log that have not been applied, by their places in the order.
struct Waiting {
    /// The sequence of the first place.
    next: u64,
    places: VecDeque<Option<WriteRequest>>,
    /// Since when there are any.
    since: Option<Instant>,
    /// When they are looked at again.
    next_look: Option<Instant>,
    /// How many have come that are of no batch.
    alone: usize,
}

impl Waiting {
    /// None, of which the first will have this sequence.
    fn from(next: u64) -> Self {
        Self { next, places: VecDeque::new(), since: None, next_look: None, alone: 0 }
    }

    fn put(&mut self, request: WriteRequest) {
        let place = request.sequence.and_then(|sequence| sequence.checked_sub(self.next));
        let Some(place) = place.and_then(|place| usize::try_from(place).ok()) else {
            crate::invariant::broken("a change of the log has a place in the order that is not past yet")
        };
        if self.places.len() <= place {
            self.places.resize_with(place + 1, || None);
        }
        self.alone += usize::from(request.share == Share::Alone);
        self.places[place] = Some(request);
        if self.since.is_none() {
            self.wait_from(Some(Instant::now()));
        }
    }

    fn wait_from(&mut self, since: Option<Instant>) {
        self.since = since;
        self.next_look = since.map(|since| since + APPLY_DELAY_MAX);
    }

    /// When what is ready has waited for long enough.
    fn deadline(&self) -> Option<Instant> {
        let is_ready = self.places.front().is_some_and(Option::is_some);
        self.next_look.filter(|_| is_ready)
    }

    /// Whether it has, now that the deadline has come. What is all of batches may wait for longer while a core has more of
    /// them in hand.
    fn is_due(&mut self, has_batch_in_hand: bool) -> bool {
        let waits_for_more = self.alone == 0
            && has_batch_in_hand
            && self.since.is_some_and(|since| since.elapsed() < BATCHED_APPLY_DELAY_MAX);
        if waits_for_more {
            self.next_look = Some(Instant::now() + APPLY_DELAY_MAX);
        }
        !waits_for_more
    }

    /// The next transaction, if there is one that is worth it: where enough have come that are of no batch, or whatever
    /// there is where somebody waits.
    fn take(&mut self, is_wanted: bool) -> Option<Vec<WriteRequest>> {
        if self.alone < BATCH_WRITES_MAX && !is_wanted {
            return None;
        }
        let ready = self.places.iter().take(BATCH_WRITES_MAX).take_while(|place| place.is_some()).count();
        if ready == 0 {
            return None;
        }
        self.next += ready as u64;
        let requests: Vec<_> = self.places.drain(..ready).flatten().collect();
        self.alone -= requests.iter().filter(|request| request.share == Share::Alone).count();
        self.wait_from((!self.places.is_empty()).then(Instant::now));
        Some(requests)
    }
}

/// The places of a batch's changes, and how far each of their packs is applied with them.
pub(super) fn log_context(places: impl Iterator<Item = (u64, Option<PackMark>)>) -> LogContext {
    let mut context = LogContext::default();
    for (sequence, mark) in places {
        context.sequences.push(sequence);
        let Some(mark) = mark else { continue };
        match context.marks.iter_mut().find(|(known, _)| known.pack == mark.pack) {
            Some(known) => *known = (mark, sequence),
            None => context.marks.push((mark, sequence)),
        }
    }
    context
}

fn answer_each(replies: Vec<Option<Reply<WriteOutcome>>>, outcomes: Vec<WriteOutcome>) {
    if replies.len() != outcomes.len() {
        crate::invariant::broken("a batch has an outcome for each of its writes");
    }
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        if let Some(reply) = reply {
            // A caller that has gone no longer wants to know.
            let _ = reply.send(Ok(outcome));
        }
    }
}

fn answer_all(replies: Vec<Option<Reply<WriteOutcome>>>, error: RepositoryError) {
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(waiting: &mut Waiting, sequence: u64, share: Share) {
        let room = QuotaRoom::default();
        let (write, reply, sequence, mark) = (Write::Void, None, Some(sequence), None);
        waiting.put(WriteRequest { write, reply, sequence, mark, room, share });
    }

    fn taken(waiting: &mut Waiting, is_wanted: bool) -> Option<usize> {
        waiting.take(is_wanted).map(|requests| requests.len())
    }

    #[test]
    fn a_transaction_is_whole_when_enough_have_come_that_are_of_no_batch() {
        let (whole, mut waiting) = (BATCH_WRITES_MAX as u64, Waiting::from(1));
        (1..whole).for_each(|sequence| put(&mut waiting, sequence, Share::Alone));
        assert_eq!(taken(&mut waiting, false), None);
        put(&mut waiting, whole, Share::Alone);
        assert_eq!(taken(&mut waiting, false), Some(BATCH_WRITES_MAX));
        assert!(waiting.deadline().is_none());

        // Of batches, any number waits until somebody asks.
        (1..=3 * whole).for_each(|place| put(&mut waiting, whole + place, Share::Batched));
        assert_eq!(taken(&mut waiting, false), None);
        assert_eq!(taken(&mut waiting, true), Some(BATCH_WRITES_MAX));

        // Those that come alone are not kept waiting by them.
        (1..=whole).for_each(|place| put(&mut waiting, 4 * whole + place, Share::Alone));
        assert_eq!([(); 4].map(|()| taken(&mut waiting, false)), [Some(1024), Some(1024), Some(1024), None]);
    }

    #[test]
    fn what_is_all_of_batches_waits_for_more_that_is_in_hand_up_to_a_limit() {
        let mut waiting = Waiting::from(1);
        put(&mut waiting, 1, Share::Batched);
        let first_look = waiting.deadline();
        assert!(waiting.is_due(false));
        assert!(!waiting.is_due(true) && waiting.deadline() > first_look);
        let began = waiting.since;
        waiting.since = began.and_then(|since| since.checked_sub(BATCHED_APPLY_DELAY_MAX));
        assert!(waiting.is_due(true));
        waiting.since = began;
        put(&mut waiting, 2, Share::Alone);
        assert!(waiting.is_due(true));
    }

    #[test]
    fn a_place_that_is_empty_holds_up_those_behind_it() {
        let mut waiting = Waiting::from(1);
        put(&mut waiting, 2, Share::Batched);
        assert_eq!((taken(&mut waiting, true), waiting.deadline()), (None, None));
        put(&mut waiting, 1, Share::Alone);
        assert_eq!(taken(&mut waiting, true), Some(2));
    }
}
