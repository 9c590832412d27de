//! A small pool of threads beside each core for the system calls that block and that the ring does not do well:
//! opening, syncing, linking and removing files. Measured, syncs through the ring queue up behind the few workers
//! that monoio leaves it; here as many run at once as the disk gains from.
//!
//! A disk that hangs keeps its threads until it goes on, and nothing can make them end. So no wait for a job is
//! longer than the pool's limit, and each storage root has its own pools, one to write and one to read, so that what
//! hangs keeps nobody else waiting.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use thiserror::Error;
use tokio::sync::oneshot;

use super::deadline_list::WaitLimit;

/// How many syncs of one core run at once on one root.
pub const WRITE_HELPERS_MAX: usize = 24;
/// How many files of one root one core opens at once.
pub const READ_HELPERS_MAX: usize = 8;
/// How many jobs of one pool wait at most; more are refused.
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
    /// The job was not done within the limit. One that had not begun never will; one that had goes on.
    #[error("the storage does not answer")]
    TimedOut,
}

/// Helper threads of one core. They start when they are needed, and end when the pool is dropped and its
/// queue is empty.
pub struct HelperPool {
    shared: Arc<Shared>,
    limit: WaitLimit,
}

struct Shared {
    threads_max: usize,
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
    /// A pool of at most `threads_max` threads that each call `prepare_thread` first, to shake off the pinning of the
    /// core that starts them.
    pub fn new(
        threads_max: usize,
        limit: WaitLimit,
        prepare_thread: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (state, work, prepare_thread) = (Mutex::default(), Condvar::new(), Box::new(prepare_thread));
        Self { shared: Arc::new(Shared { threads_max, state, work, prepare_thread }), limit }
    }

    /// How long anyone waits for what this pool's files are on.
    pub fn limit(&self) -> &WaitLimit {
        &self.limit
    }

    /// Runs `job` on a helper thread, unless nobody waits for it any more when its turn comes.
    ///
    /// # Errors
    /// [`HelperError`].
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HelperError> {
        self.run_or_undo(job, drop).await
    }

    /// As [`run`](Self::run). A result that comes too late for anyone to take goes to `undo`, on the helper thread.
    ///
    /// # Errors
    /// [`HelperError`]; after [`HelperError::TimedOut`] it is certain that whatever the job does will be undone.
    pub async fn run_or_undo<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, HelperError> {
        let (reply, result) = oneshot::channel();
        self.queue(Box::new(move || {
            if reply.is_closed() {
                return;
            }
            if let Err(unwanted) = reply.send(job()) {
                undo(unwanted);
            }
        }))?;
        self.take(result).await
    }

    /// Runs `job` on a helper thread, also when nobody waits for it any more, or its queue is full.
    ///
    /// # Errors
    /// [`HelperError`]; after [`HelperError::TimedOut`] the job will be done all the same.
    pub async fn run_in_any_case<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HelperError> {
        let (reply, result) = oneshot::channel();
        self.queue_beyond_limit(Box::new(move || drop(reply.send(job()))))?;
        self.take(result).await
    }

    /// Drops `value` on a helper thread, because that may block. Never refused: there is no more to dispose of than
    /// there were files open, and the core could not do it.
    pub fn dispose(&self, value: impl Send + 'static) {
        let _ = self.queue_beyond_limit(Box::new(move || drop(value)));
    }

    async fn take<T>(&self, mut result: oneshot::Receiver<T>) -> Result<T, HelperError> {
        match self.limit.within(&mut result).await {
            Some(result) => result.map_err(|_| HelperError::Lost),
            None => {
                // From here on a result cannot be sent any more: either it is here already, or nobody gets it.
                result.close();
                result.try_recv().map_err(|_| HelperError::TimedOut)
            }
        }
    }

    fn queue(&self, job: Job) -> Result<(), HelperError> {
        if self.shared.lock().jobs.len() >= JOBS_MAX {
            return Err(HelperError::Overloaded);
        }
        self.queue_beyond_limit(job)
    }

    fn queue_beyond_limit(&self, job: Job) -> Result<(), HelperError> {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if state.idle < state.jobs.len()
            && state.threads < self.shared.threads_max
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
        self.shared.work.notify_one();
        Ok(())
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = self.shared.clone();
        thread::Builder::new().name("storage-helper".into()).spawn(move || shared.work_until_closed())?;
        Ok(())
    }
}

impl Drop for HelperPool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
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
    use std::rc::Rc;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use futures_util::FutureExt as _;

    use super::super::deadline_list::DeadlineList;
    use super::*;
    use crate::application::fakes::block_on;

    const LIMIT: Duration = Duration::from_secs(30);

    fn a_pool(threads_max: usize) -> (Rc<DeadlineList>, HelperPool) {
        let deadlines = DeadlineList::new();
        let limit = WaitLimit::new(&deadlines, LIMIT);
        (deadlines, HelperPool::new(threads_max, limit, || ()))
    }

    /// A job that hangs until the sender is dropped, and says that it has begun.
    fn a_hanging_job() -> (mpsc::Sender<()>, mpsc::Receiver<()>, impl FnOnce() -> u32 + Send + 'static) {
        let (open, gate) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let job = move || {
            let _ = begin.send(());
            let _ = gate.recv();
            7
        };
        (open, begun, job)
    }

    #[test]
    fn results_and_panics_come_back() {
        let (_, pool) = a_pool(2);
        assert_eq!(block_on(pool.run(|| 6 * 7)), Ok(42));
        assert_eq!(block_on(pool.run(|| panic!("on purpose"))), Err::<(), _>(HelperError::Lost));
        assert_eq!(block_on(pool.run(|| 1)), Ok(1));
    }

    #[test]
    fn a_job_that_hangs_is_waited_for_up_to_the_limit_and_undone_when_it_ends() {
        let (deadlines, pool) = a_pool(1);
        let (open, begun, job) = a_hanging_job();
        let (undo, undone) = mpsc::channel();
        let mut hanging = Box::pin(pool.run_or_undo(job, move |result| undo.send(result).unwrap()));
        assert_eq!(hanging.as_mut().now_or_never(), None);
        begun.recv().unwrap();
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        assert_eq!(hanging.as_mut().now_or_never(), Some(Err(HelperError::TimedOut)));
        drop(open);
        assert_eq!(undone.recv(), Ok(7));
    }

    #[test]
    fn a_result_that_comes_with_the_limit_is_taken_and_not_undone() {
        let (deadlines, pool) = a_pool(1);
        let (open, _begun, job) = a_hanging_job();
        let (undo, undone) = mpsc::channel();
        let mut job = Box::pin(pool.run_or_undo(job, move |result| undo.send(result).unwrap()));
        assert_eq!(job.as_mut().now_or_never(), None);
        drop(open);
        // The one thread has sent the result of the first job once it has done the second.
        assert_eq!(block_on(pool.run(|| 8)), Ok(8));
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        assert_eq!(block_on(job), Ok(7));
        assert!(undone.recv().is_err());
    }

    #[test]
    fn what_nobody_waits_for_is_not_begun_unless_it_has_to_be() {
        let (deadlines, pool) = a_pool(1);
        let (open, begun, job) = a_hanging_job();
        let (note, notes) = mpsc::channel();
        let noting = |name: &'static str| {
            let note = note.clone();
            move || note.send(name).unwrap()
        };
        let mut waits = [
            Box::pin(pool.run(job).map(|result| result.map(drop))).boxed_local(),
            Box::pin(pool.run(noting("unwanted"))).boxed_local(),
            Box::pin(pool.run_in_any_case(noting("in any case"))).boxed_local(),
        ];
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        begun.recv().unwrap();
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        for wait in &mut waits {
            assert_eq!(wait.now_or_never(), Some(Err(HelperError::TimedOut)));
        }
        drop(open);
        assert_eq!(notes.recv(), Ok("in any case"));
    }

    #[test]
    fn a_full_queue_refuses_and_loses_nothing() {
        let (_, pool) = a_pool(WRITE_HELPERS_MAX);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let wait = || {
            let gate = gate.clone();
            move || {
                let _ = gate.lock().unwrap().recv();
            }
        };
        block_on(async {
            let mut jobs: Vec<_> =
                (0..WRITE_HELPERS_MAX + JOBS_MAX).map(|_| Box::pin(pool.run(wait()))).collect();
            // Every thread has taken a job before the queue is filled to its edge.
            for (index, job) in jobs.iter_mut().enumerate() {
                assert!(futures_util::poll!(job).is_pending());
                while index + 1 == WRITE_HELPERS_MAX && !pool.shared.lock().jobs.is_empty() {
                    thread::yield_now();
                }
            }
            assert_eq!(pool.run(|| ()).await, Err(HelperError::Overloaded));
            let (note, notes) = mpsc::channel::<()>();
            pool.dispose(note);
            assert!(notes.try_recv().is_err());
            drop(open);
            for job in jobs {
                assert_eq!(job.await, Ok(()));
            }
            assert!(notes.recv().is_err(), "what is disposed of has been dropped");
            assert_eq!(pool.run(|| ()).await, Ok(()));
        });
    }
}
