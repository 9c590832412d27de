//! Says when the operations of an open loop become due.
//!
//! The runtime's own timers have steps of a millisecond, in which twenty operations of a fast run would become due at
//! once. A timer of the kernel wakes this task for each of them, or for all that have become due while the thread was
//! busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::load_loop::Pace;

/// The task that issues operations; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Pacer(Option<JoinHandle<()>>);

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
        let issue = async move {
            let mut issued = 0_usize;
            while Instant::now() < end {
                let wanted = (started.elapsed().as_secs_f64() * rate_per_second) as usize + 1;
                due.add_permits(wanted.saturating_sub(issued));
                issued = issued.max(wanted);
                if timer.readable().await.is_err() {
                    break;
                }
                // How often it has fired is not needed, since what is due is counted by the clock.
                let _ = timer.try_read(&mut [0_u8; 8]);
            }
            due.close();
        };
        Ok(Self(Some(tokio::spawn(issue))))
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
