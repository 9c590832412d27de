//! Says when the operations of an open loop become due.
//!
//! The runtime's own timers have steps of a millisecond, in which twenty operations of a fast run would become due at
//! once. A timer of the kernel wakes this task for each of them, or for all that have become due while the thread was
//! busy. How late it was is written down: what the generator was late with must not be taken for the server's.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::load_loop::{LATE_START_MAX, Pace};
use crate::tally;

/// How long to wait before it is looked at again whether all operations have begun.
const PAUSE: Duration = Duration::from_millis(10);

/// The task that issues operations; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Pacer(Option<Issuing>);

#[derive(Debug)]
struct Issuing {
    task: JoinHandle<()>,
    /// How long after they were due the operations were issued, in microseconds.
    lags_us: Arc<Mutex<Histogram<u64>>>,
}

impl Pacer {
    /// Starts to issue permits at the rate of the pace, if it has one.
    pub(crate) fn start(
        pace: &Pace,
        started: Instant,
        end: Instant,
        due: Arc<Semaphore>,
    ) -> anyhow::Result<Self> {
        let Some(rate_per_second) = pace.rate_per_second else {
            return Ok(Self(None));
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("no timer could be made")?;
        let step = timespec(Duration::from_secs_f64(1.0 / rate_per_second));
        let setting = Itimerspec { it_interval: step, it_value: step };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)
            .context("the timer could not be set")?;
        // A timer is read like a pipe, eight bytes at a time, and the runtime has no other owner of a descriptor that is
        // both safe and not deprecated.
        let timer = pipe::Receiver::from_owned_fd_unchecked(timer).context("the timer cannot be watched")?;
        let lags_us = Arc::new(Mutex::new(tally::histogram()?));
        let (noted_us, warm_up) = (Arc::clone(&lags_us), pace.warm_up);
        let issue = async move {
            let mut issued = 0_usize;
            loop {
                // What is due before the end is issued, though this task may be late for it.
                let (elapsed, last) = (started.elapsed(), end - started);
                let wanted = due_until(elapsed.min(last), rate_per_second);
                due.add_permits(wanted.saturating_sub(issued));
                note_lags(&noted_us, issued..wanted, rate_per_second, warm_up, elapsed);
                issued = issued.max(wanted);
                if elapsed >= last {
                    break;
                }
                if timer.readable().await.is_err() {
                    break;
                }
                // How often it has fired is not needed, since what is due is counted by the clock.
                let _ = timer.try_read(&mut [0_u8; 8]);
            }
            // Whoever has been given a permit and does not know it yet would get none after this.
            while Instant::now() < end + LATE_START_MAX {
                tokio::time::sleep(PAUSE).await;
                if due.available_permits() == 0 {
                    break;
                }
            }
            due.close();
        };
        Ok(Self(Some(Issuing { task: tokio::spawn(issue), lags_us })))
    }

    /// Ends, and says how long after they were due the operations behind the warm-up were issued, in microseconds.
    /// Nothing was ever due in a closed loop.
    pub(crate) fn finish(self) -> Option<Histogram<u64>> {
        let issuing = self.0.as_ref()?;
        Some(issuing.lags_us.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// How many operations are due so long after the start, the first of them at the start itself.
fn due_until(elapsed: Duration, rate_per_second: f64) -> usize {
    (elapsed.as_secs_f64() * rate_per_second) as usize + 1
}

/// How long after the start an operation is due.
pub(crate) fn due_after(index: u64, rate_per_second: f64) -> Duration {
    Duration::from_secs_f64(index as f64 / rate_per_second)
}

/// Writes down how late operations are that are issued now, `elapsed` after the start, but for those of the warm-up.
fn note_lags(
    lags_us: &Mutex<Histogram<u64>>,
    indices: Range<usize>,
    rate_per_second: f64,
    warm_up: Duration,
    elapsed: Duration,
) {
    let mut lags_us = lags_us.lock().unwrap_or_else(PoisonError::into_inner);
    for index in indices {
        let due = due_after(index as u64, rate_per_second);
        if due >= warm_up {
            lags_us.saturating_record(tally::microseconds(elapsed.saturating_sub(due)));
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(issuing) = &self.0 {
            issuing.task.abort();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_due_before_the_end_is_issued() {
        for rate_per_second in [0.3, 24_123.7, 8_003.0] {
            let length = Duration::from_secs(11);
            let issued = due_until(length, rate_per_second) as u64;
            assert!(due_after(issued, rate_per_second) >= length, "{rate_per_second}");
            assert!(due_after(issued - 1, rate_per_second) <= length, "{rate_per_second}");
        }
    }

    #[test]
    fn each_operation_is_as_late_as_it_was_issued_after_it_was_due() {
        let lags_us = Mutex::new(tally::histogram().unwrap());
        // Due after 0, 1, 2 and 3 ms; the first two belong to the warm-up.
        note_lags(&lags_us, 0..4, 1_000.0, Duration::from_millis(2), Duration::from_micros(3_500));
        let lags_us = lags_us.into_inner().unwrap();
        assert_eq!((lags_us.len(), lags_us.min(), lags_us.max()), (2, 500, 1_500));
    }
}
