//! Bodies that have come whole, with their heads, take turns at being stored (decision 0034). What they wait for then is
//! this server's disk alone, so that none of them is refused for coming with many others; and one that waits holds no
//! memory for an upload. A body that is still on its way takes no turn: its sender may take as long as it likes.

use std::pin::pin;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::errors::Problem;
use crate::application::errors::StoreError;
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::data_plane::buffers::SMALL_BLOCK_BYTES;
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::metrics::{Phase, note_since};

/// How many bodies of each class are stored at once, on all cores together: several times what a write of the log takes, and
/// no more than find room in what the database may be behind with, once there is any.
const BODIES_AT_ONCE_MAX: usize = 512;

/// The turns of one core.
pub struct UploadTurns {
    hot: Semaphore,
    cold: Semaphore,
    limit: WaitLimit,
}

impl UploadTurns {
    /// The share of one of so many cores, whose bodies have so much memory. One waits for its turn up to `limit`.
    pub fn new(cores: usize, buffer_bytes: usize, limit: WaitLimit) -> Self {
        let places = (BODIES_AT_ONCE_MAX / cores).min(buffer_bytes / SMALL_BLOCK_BYTES / 4).max(1);
        Self { hot: Semaphore::new(places), cold: Semaphore::new(places), limit }
    }

    /// A turn, in the order of asking.
    ///
    /// # Errors
    /// `503`: it takes too long.
    pub(super) async fn take(&self, storage_class: StorageClass) -> Result<SemaphorePermit<'_>, Problem> {
        let turns = match storage_class {
            StorageClass::Hot => &self.hot,
            StorageClass::Cold => &self.cold,
        };
        if let Ok(turn) = turns.try_acquire() {
            return Ok(turn);
        }
        let started = Instant::now();
        let turn = self.limit.within(pin!(turns.acquire())).await;
        note_since(Phase::Queue, started);
        // Nobody closes it.
        turn.and_then(Result::ok).ok_or_else(|| StoreError::Overloaded.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::infrastructure::data_plane::deadline_list::DeadlineList;

    #[test]
    fn the_last_turn_is_waited_for_in_order_and_classes_do_not_wait_for_each_other() {
        let turns = UploadTurns::new(2, usize::MAX, WaitLimit::none());
        let take = || turns.take(StorageClass::Hot).now_or_never();
        let mut taken: Vec<_> = (0..BODIES_AT_ONCE_MAX / 2).map(|_| take().unwrap().unwrap()).collect();
        let mut first = pin!(turns.take(StorageClass::Hot));
        let mut second = pin!(turns.take(StorageClass::Hot));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(turns.take(StorageClass::Cold).now_or_never().is_some());
        taken.pop();
        assert!(second.as_mut().now_or_never().is_none());
        let turn = first.now_or_never().unwrap().unwrap();
        assert!(take().is_none(), "those that wait are first");
        drop(turn);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn bodies_with_little_memory_leave_most_of_it_to_others() {
        let turns = UploadTurns::new(1, 8 * SMALL_BLOCK_BYTES, WaitLimit::none());
        assert_eq!(turns.hot.available_permits(), 2);
        assert_eq!(UploadTurns::new(1024, 0, WaitLimit::none()).cold.available_permits(), 1);
    }

    #[test]
    fn who_waits_too_long_is_told_to_come_back() {
        let deadlines = DeadlineList::new();
        let turns = UploadTurns::new(1, 0, WaitLimit::new(&deadlines, Duration::from_secs(1)));
        let _turn = turns.take(StorageClass::Hot).now_or_never().unwrap().unwrap();
        let mut wait = pin!(turns.take(StorageClass::Hot));
        assert!(wait.as_mut().now_or_never().is_none());
        deadlines.sweep(Instant::now() + Duration::from_secs(2));
        let refused = wait.now_or_never().unwrap().map(drop).unwrap_err();
        assert_eq!((refused.status, refused.code), (503, "overloaded"));
    }
}
