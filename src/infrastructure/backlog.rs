//! How far the database may be behind the log, and whose changes it may be behind with.
//!
//! A request that comes by itself is one of many, which nobody sees the end of: the database has to keep up with them, and
//! soon. A batch ends: where its changes are durable, it can be answered, and the database can follow once it has a
//! processor to itself. So changes of batches have a share of their own, which takes a whole batch. Neither share is in
//! the way of the other: where batches have used up theirs, whoever comes alone still finds room.

use std::sync::atomic::{AtomicU64, Ordering};

use super::plane_channel::WRITES_QUEUED_MAX;

/// How many changes of batches are durable, or about to be, and not applied at most.
pub const BATCHED_QUEUED_MAX: usize = 12_288;
/// From so many on the next one waits: a batch of as many files as there may be needs nobody to wait.
const BATCHED_UNHINDERED_MAX: u64 = 10_000;
/// The same for changes that come alone.
const ALONE_UNHINDERED_MAX: u64 = WRITES_QUEUED_MAX as u64 * 3 / 4;

/// Whose change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Share {
    /// That of a request of its own.
    #[default]
    Alone,
    /// One of a batch's, which has many.
    Batched,
}

impl Share {
    /// From so many changes on that are not applied, the next one waits.
    pub(super) fn unhindered_max(self) -> u64 {
        match self {
            Self::Alone => ALONE_UNHINDERED_MAX,
            Self::Batched => BATCHED_UNHINDERED_MAX,
        }
    }

    /// From so many on, the next one is refused.
    pub(super) fn changes_max(self) -> u64 {
        match self {
            Self::Alone => WRITES_QUEUED_MAX as u64,
            Self::Batched => BATCHED_QUEUED_MAX as u64,
        }
    }
}

/// How many of the changes that are not applied are of batches.
#[derive(Debug, Default)]
pub(super) struct Batched {
    behind: AtomicU64,
    /// Those that have a place and have not been sent on.
    in_hand: AtomicU64,
}

impl Batched {
    /// A change of this share has got a place in the order.
    pub(super) fn note_taken(&self, share: Share) {
        if share == Share::Batched {
            self.behind.fetch_add(1, Ordering::SeqCst);
            self.in_hand.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It has been sent on.
    pub(super) fn note_sent(&self, share: Share) {
        if share == Share::Batched {
            self.in_hand.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// So many of batches are in the database.
    pub(super) fn note_applied(&self, changes: u64) {
        self.behind.fetch_sub(changes, Ordering::SeqCst);
    }

    /// Whether there are more on their way into the log.
    pub(super) fn are_in_hand(&self) -> bool {
        self.in_hand.load(Ordering::Relaxed) > 0
    }

    /// How many of `all` changes are of this share.
    pub(super) fn behind(&self, share: Share, all: u64) -> u64 {
        let batched = self.behind.load(Ordering::SeqCst);
        match share {
            Share::Alone => all.saturating_sub(batched),
            Share::Batched => batched,
        }
    }
}
