//! Group commit: whatever queued while one transaction ran is the next transaction. An idle server commits a single
//! write at once; a busy one shares each sync among hundreds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::batch::BatchContext;
use super::collector::GraceClock;
use super::database::Database;
use super::errors::{Consequence, DatabaseError};
use crate::application::errors::RepositoryError;
use crate::application::ports::Clock;
use crate::domain::value_objects::InstanceId;
use crate::infrastructure::plane_channel::{Reply, WriteOutcome, WriteRequest};

/// The most writes of one transaction.
pub(super) const BATCH_WRITES_MAX: usize = 1024;

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
}

impl<C: Clock> GroupCommit<C> {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<WriteRequest>) {
        let mut requests = Vec::with_capacity(BATCH_WRITES_MAX);
        while queue.recv_many(&mut requests, BATCH_WRITES_MAX).await > 0 {
            let (writes, replies): (Vec<_>, Vec<_>) =
                requests.drain(..).map(|request| (request.write, request.reply)).unzip();
            if self.latch.is_set() {
                answer_all(replies, RepositoryError::Unavailable);
                continue;
            }
            let context =
                BatchContext { writer: self.instance, now: self.clock.now(), tick: self.ticks.now() };
            let applied = self.database.apply(&writes, &mut self.next_sequence, context).await;
            match applied {
                Ok(outcomes) => {
                    self.latch.answered();
                    answer_each(replies, outcomes);
                }
                Err(error) => answer_all(replies, self.latch.judge(&error)),
            }
        }
    }
}

fn answer_each(replies: Vec<Reply<WriteOutcome>>, outcomes: Vec<WriteOutcome>) {
    if replies.len() != outcomes.len() {
        crate::invariant::broken("a batch has an outcome for each of its writes");
    }
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        // A caller that has gone no longer wants to know.
        let _ = reply.send(Ok(outcome));
    }
}

fn answer_all(replies: Vec<Reply<WriteOutcome>>, error: RepositoryError) {
    for reply in replies {
        let _ = reply.send(Err(error));
    }
}
