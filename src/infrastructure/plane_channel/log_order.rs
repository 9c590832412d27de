//! The order of all changes where there is a log: each takes its place before it is written, and all are applied in it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, mpsc, watch};

use super::{BATCH_WRITES_MAX, Reply, Write, WriteOutcome, WriteRequest};
use crate::domain::value_objects::{PackId, StorageClass};
use crate::infrastructure::backlog::{Batched, Share};
use crate::infrastructure::known_keys::KnownKeys;
use crate::infrastructure::quota_ledger::QuotaRoom;

/// How far a pack has been applied when a change in it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackMark {
    /// Which pack.
    pub pack: PackId,
    /// Which root it is in.
    pub storage_class: StorageClass,
    /// Everything before has been applied: where the change's batch begins, or ends if it is the last one in it. Changes
    /// of other cores lie between those of a batch, so that a transaction may end within it.
    pub applied_end: u64,
}

/// The order of all changes of this process, where the log is the point of durability. Every change takes the next
/// place before it is written to the log of any core, and all are applied in this order: so the database comes to be
/// what it was, whenever the log is applied again.
#[derive(Debug, Default)]
pub struct LogOrder {
    pub(super) next: AtomicU64,
    acknowledged: AtomicU64,
    short: AtomicBool,
    pub(super) stalled: AtomicBool,
    ended: AtomicBool,
    pub(super) applied: watch::Sender<u64>,
    pub(super) batched: Batched,
    keys: OnceLock<KnownKeys>,
    wanted: Notify,
    asked: AtomicBool,
    /// Whether it has been said since the last transaction that there is a whole one again.
    is_whole: AtomicBool,
}

impl LogOrder {
    /// The first change of this run gets `sequence`. To be called before there is any.
    pub fn start_at(&self, sequence: u64) {
        // No more keys than changes before.
        self.keys.get_or_init(|| KnownKeys::for_about(sequence));
        self.next.store(sequence, Ordering::SeqCst);
        self.note_applied(sequence.saturating_sub(1));
    }

    /// The keys that may have a version, once it has started.
    pub fn keys(&self) -> Option<&KnownKeys> {
        self.keys.get()
    }

    /// Notes that all changes up to this one are in the database.
    pub fn note_applied(&self, sequence: u64) {
        self.is_whole.store(false, Ordering::SeqCst);
        self.applied.send_replace(sequence);
    }

    /// The same, where so many of them were of batches.
    pub fn note_applied_with(&self, sequence: u64, batched: u64) {
        self.note_applied(sequence);
        if batched > 0 {
            // Only now: the other way round, they would count as changes that came alone for a moment.
            self.batched.note_applied(batched);
            self.wake();
        }
    }

    /// Whether all changes up to this one are in the database.
    pub fn has_applied(&self, sequence: u64) -> bool {
        *self.applied.borrow() >= sequence
    }

    /// How many changes have a place in the order and are not in the database yet.
    pub fn backlog(&self) -> u64 {
        self.behind(*self.applied.borrow())
    }

    fn behind(&self, applied: u64) -> u64 {
        self.next.load(Ordering::SeqCst).saturating_sub(1).saturating_sub(applied)
    }

    /// How many of them are in this share.
    pub(super) fn behind_in(&self, share: Share, applied: u64) -> u64 {
        self.batched.behind(share, self.behind(applied))
    }

    /// Whether whoever changes something should wait for [`room`](Self::room) first.
    pub fn is_crowded(&self, share: Share) -> bool {
        self.behind_in(share, *self.applied.borrow()) >= share.unhindered_max()
    }

    /// Waits until the database has caught up somewhat, if it is far behind: whoever changes something waits for a
    /// moment, rather than being refused.
    pub async fn room(&self, share: Share) {
        let mut applied = self.applied.subscribe();
        let has_room = |applied: u64| self.behind_in(share, applied) < share.unhindered_max();
        if share == Share::Batched && !has_room(*applied.borrow()) {
            // Nobody else has them applied before their time.
            self.ask();
        }
        // The sender is in `self`, and does not go.
        let _ = applied.wait_for(|applied| has_room(*applied)).await;
    }

    /// Whether a core has changes of a batch on their way into the log, and has work of its own with that.
    pub fn has_batch_in_hand(&self) -> bool {
        self.batched.are_in_hand()
    }

    /// Waits until the database has this change, or `gives_up` says that it never will. To be woken for that, see
    /// [`wake`](Self::wake).
    pub async fn is_applied(&self, sequence: u64, gives_up: impl Fn() -> bool) -> bool {
        let mut applied = self.applied.subscribe();
        if *applied.borrow() < sequence {
            self.ask();
        }
        let reached = applied.wait_for(|applied| *applied >= sequence || gives_up()).await;
        reached.is_ok_and(|applied| *applied >= sequence)
    }

    /// Lets all who wait look again.
    pub fn wake(&self) {
        self.applied.send_modify(|_| ());
    }

    /// The last place of the order that anybody has.
    pub fn last_taken(&self) -> u64 {
        self.next.load(Ordering::SeqCst).saturating_sub(1)
    }

    /// Waits until there is reason to look at the queue of changes: somebody waits for one of them, which is what is
    /// returned, or there is a whole transaction of such as came alone. Otherwise a change wakes nobody, except where the
    /// queue itself is waited for: a wake-up for each batch of the log would cost more than it is worth to anyone.
    pub async fn wanted(&self) -> bool {
        self.wanted.notified().await;
        self.asked.swap(false, Ordering::SeqCst)
    }

    /// Somebody waits for what has been sent, or is about to come.
    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.wanted.notify_one();
    }

    /// A change is in the queue.
    fn note_sent(&self, sequence: u64, share: Share, is_waited_for: bool) {
        self.batched.note_sent(share);
        // Those behind it have places, and may not have been sent.
        let up_to_here = || sequence.saturating_sub(*self.applied.borrow());
        if is_waited_for {
            self.ask();
        } else if share == Share::Alone
            && self.batched.behind(share, up_to_here()) >= BATCH_WRITES_MAX as u64
            && !self.is_whole.load(Ordering::Relaxed)
            && !self.is_whole.swap(true, Ordering::SeqCst)
        {
            self.wanted.notify_one();
        }
    }

    /// Notes that somebody is about to be told that a change is durable.
    pub fn acknowledge(&self, sequence: u64) {
        self.acknowledged.fetch_max(sequence, Ordering::SeqCst);
    }

    /// The last change that anybody was told of: a query that comes now has to see it.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Says that the database takes no more changes until a restart.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether the database takes no more changes until a restart.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Says whether the database is about to have no space: then it is given no new objects, and deletes still go.
    pub fn set_short(&self, short: bool) {
        self.short.store(short, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Says whether the database takes no changes, because it has no space.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }
}

/// A place in the write queue and in the order of the log. Whoever has it sends its change there in the end; dropped,
/// it sends an empty one, since all that come behind it wait for it.
#[derive(Debug)]
pub struct Ticket {
    pub(super) sequence: u64,
    pub(super) order: Arc<LogOrder>,
    pub(super) place: Option<mpsc::OwnedPermit<WriteRequest>>,
    pub(super) room: QuotaRoom,
    pub(super) share: Share,
}

impl Ticket {
    /// Its place in the order.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes along what the change holds of its tenant's quota: dropped with the ticket, or given up once it is applied.
    #[must_use]
    pub fn with_room(mut self, room: QuotaRoom) -> Self {
        self.room = room;
        self
    }

    /// Sends the change.
    pub fn send(mut self, write: Write, reply: Option<Reply<WriteOutcome>>, mark: Option<PackMark>) {
        if let Some(place) = self.place.take() {
            let (is_waited_for, room) = (reply.is_some(), std::mem::take(&mut self.room));
            let (sequence, share) = (Some(self.sequence), self.share);
            place.send(WriteRequest { write, reply, sequence, mark, room, share });
            self.order.note_sent(self.sequence, share, is_waited_for);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let (sequence, room, share) = (Some(self.sequence), QuotaRoom::default(), self.share);
            place.send(WriteRequest { write: Write::Void, reply: None, sequence, mark: None, room, share });
            self.order.note_sent(self.sequence, share, false);
        }
    }
}
