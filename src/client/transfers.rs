//! Many things at once, each in one of a few threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Does `work` on every job, in their order and up to `workers` at once, until it says that nothing more is worth it.
pub(super) fn in_parallel<T: Sync>(jobs: &[T], workers: u16, work: impl Fn(&T) -> Next + Sync) {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        while !stopped.load(Ordering::Relaxed)
            && let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if work(job) == Next::Stop {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        // This thread is one of them.
        for _ in 1..jobs.len().min(usize::from(workers)) {
            scope.spawn(worker);
        }
        worker();
    });
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Stop,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_job_is_done_once_whatever_the_number_of_workers() {
        for workers in [1, 2, 256] {
            for count in [0_u32, 1, 100] {
                let (jobs, done): (Vec<u32>, _) = ((0..count).collect(), Mutex::new(Vec::new()));
                in_parallel(&jobs, workers, |job| {
                    done.lock().unwrap().push(*job);
                    Next::Continue
                });
                let mut done = done.into_inner().unwrap();
                done.sort_unstable();
                assert_eq!(done, jobs);
            }
        }
    }

    #[test]
    fn nothing_more_is_begun_after_a_stop() {
        let (jobs, done): (Vec<u32>, _) = ((0..100).collect(), AtomicUsize::new(0));
        in_parallel(&jobs, 1, |job| {
            done.fetch_add(1, Ordering::Relaxed);
            if *job == 3 { Next::Stop } else { Next::Continue }
        });
        assert_eq!(done.into_inner(), 4);
    }
}
