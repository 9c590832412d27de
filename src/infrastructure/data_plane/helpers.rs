//! A small pool of threads beside each core for the system calls that block and that the ring does not do well:
//! opening, syncing, linking and removing files. Measured, syncs through the ring queue up behind the few workers
//! that monoio leaves it; here as many run at once as the disk gains from.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use thiserror::Error;
use tokio::sync::oneshot;

/// How many syncs of one core run at once.
pub const HELPERS_PER_CORE_MAX: usize = 24;
/// How many jobs of one core wait at most; more are refused.
pub const JOBS_MAX: usize = 4096;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HelperError {
    /// [`JOBS_MAX`] jobs wait already; nothing was done.
    #[error("the storage helpers have too much to do")]
    Overloaded,
    /// The job panicked; what it did is not known.
    #[error("a storage helper failed")]
    Lost,
}

/// The helper threads of one core. They start when they are needed, and end when the pool is dropped and its
/// queue is empty.
pub struct HelperPool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    prepare_thread: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl HelperPool {
    /// A pool whose threads call `prepare_thread` first, to shake off the pinning of the core that starts them.
    pub fn new(prepare_thread: impl Fn() + Send + Sync + 'static) -> Self {
        let prepare_thread = Box::new(prepare_thread);
        Self(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), prepare_thread }))
    }

    /// Runs `job` on a helper thread. The job runs to its end even if the future is dropped.
    ///
    /// # Errors
    /// [`HelperError`].
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HelperError> {
        let (reply, result) = oneshot::channel();
        self.queue(Box::new(move || drop(reply.send(job()))))?;
        result.await.map_err(|_| HelperError::Lost)
    }

    /// Drops `value` on a helper thread, because that may block. If the queue is full it is dropped here.
    pub fn dispose(&self, value: impl Send + 'static) {
        let _ = self.queue(Box::new(move || drop(value)));
    }

    fn queue(&self, job: Job) -> Result<(), HelperError> {
        let mut state = self.0.lock();
        if state.jobs.len() >= JOBS_MAX {
            return Err(HelperError::Overloaded);
        }
        state.jobs.push_back(job);
        if state.idle < state.jobs.len()
            && state.threads < HELPERS_PER_CORE_MAX
            && self.start_thread().is_ok()
        {
            state.threads += 1;
        }
        // Without any thread at all nobody would ever take the job.
        if state.threads == 0 {
            state.jobs.pop_back();
            return Err(HelperError::Overloaded);
        }
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = self.0.clone();
        thread::Builder::new().name("storage-helper".into()).spawn(move || shared.work_until_closed())?;
        Ok(())
    }
}

impl Drop for HelperPool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run without the lock, so that nothing can panic inside it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_until_closed(&self) {
        (self.prepare_thread)();
        while let Some(job) = self.next_job() {
            // A panic is told to whoever waits, by dropping the reply; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::block_on;

    #[test]
    fn results_and_panics_come_back() {
        let pool = HelperPool::new(|| ());
        assert_eq!(block_on(pool.run(|| 6 * 7)), Ok(42));
        assert_eq!(block_on(pool.run(|| panic!("on purpose"))), Err::<(), _>(HelperError::Lost));
        assert_eq!(block_on(pool.run(|| 1)), Ok(1));
    }

    #[test]
    fn a_full_queue_refuses_and_loses_nothing() {
        let pool = HelperPool::new(|| ());
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let wait = || {
            let gate = gate.clone();
            move || {
                let _ = gate.lock().unwrap().recv();
            }
        };
        block_on(async {
            let mut jobs: Vec<_> =
                (0..HELPERS_PER_CORE_MAX + JOBS_MAX).map(|_| Box::pin(pool.run(wait()))).collect();
            // Every thread has taken a job before the queue is filled to its edge.
            for (index, job) in jobs.iter_mut().enumerate() {
                assert!(futures_util::poll!(job).is_pending());
                while index + 1 == HELPERS_PER_CORE_MAX && !pool.0.lock().jobs.is_empty() {
                    thread::yield_now();
                }
            }
            assert_eq!(pool.run(|| ()).await, Err(HelperError::Overloaded));
            drop(open);
            for job in jobs {
                assert_eq!(job.await, Ok(()));
            }
            assert_eq!(pool.run(|| ()).await, Ok(()));
        });
    }
}
