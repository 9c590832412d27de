//! What clients are in the middle of, for whoever aims a cut at it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A request that takes more than a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Long {
    /// Of many changes.
    Batch,
    /// The next bytes of an upload.
    Piece,
    /// Uploads that become one object.
    Join,
}

/// How many of each are under way, and whether one has just been sent by half.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    batches: Count,
    pieces: Count,
    joins: Count,
}

#[derive(Debug, Default)]
struct Count {
    running: AtomicU64,
    is_halfway: AtomicBool,
}

impl UnderWay {
    fn of(&self, long: Long) -> &Count {
        match long {
            Long::Batch => &self.batches,
            Long::Piece => &self.pieces,
            Long::Join => &self.joins,
        }
    }

    /// One begins; it ends when what this gives is dropped.
    pub(crate) fn begin(&self, long: Long) -> Running<'_> {
        let count = self.of(long);
        count.running.fetch_add(1, Ordering::SeqCst);
        Running(count)
    }

    /// Whether one is under way.
    pub(crate) fn is_running(&self, long: Long) -> bool {
        self.of(long).running.load(Ordering::SeqCst) > 0
    }

    /// Whether one has been sent by half since this was asked last.
    pub(crate) fn take_halfway(&self, long: Long) -> bool {
        self.of(long).is_halfway.swap(false, Ordering::SeqCst)
    }
}

/// A request that is under way.
pub(crate) struct Running<'a>(&'a Count);

impl Running<'_> {
    /// Half of it has been sent.
    pub(crate) fn is_halfway(&self) {
        self.0.is_halfway.store(true, Ordering::SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_under_way_until_its_end() {
        let under_way = UnderWay::default();
        let one = under_way.begin(Long::Batch);
        let two = under_way.begin(Long::Batch);
        assert!(under_way.is_running(Long::Batch) && !under_way.is_running(Long::Piece));
        two.is_halfway();
        assert!(!under_way.take_halfway(Long::Piece));
        assert!(under_way.take_halfway(Long::Batch) && !under_way.take_halfway(Long::Batch));
        drop(one);
        assert!(under_way.is_running(Long::Batch));
        drop(two);
        assert!(!under_way.is_running(Long::Batch));
    }
}
