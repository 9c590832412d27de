//! What the service manager is told that started the program, if one did (sd_notify(3)): that it serves, reads its files
//! again, stops, and that its cores are alive. Runs on the main thread; where nobody asks (`NOTIFY_SOCKET`), it does
//! nothing. What cannot be told is not worth an end: the manager has its own limits of patience.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Names the socket that the service manager listens on: a path, or behind an `@` a name without a file.
const SOCKET: &str = "NOTIFY_SOCKET";
/// After how long without a word the watchdog bites, in microseconds, and whom (sd_watchdog_enabled(3)).
const WATCHDOG_LIMIT: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";
/// The watchdog is told so many times in the time after which it would bite.
const TOLD_PER_LIMIT: u32 = 4;

/// How often each core has come round to what it does once a second. One that hangs no longer does.
#[derive(Clone)]
pub(crate) struct CoreBeats(Arc<[AtomicU64]>);

impl CoreBeats {
    pub(crate) fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| AtomicU64::new(0)).collect())
    }

    /// The core is alive.
    pub(crate) fn beat(&self, core: usize) {
        self.0[core].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// Whoever started the program and wants to know how it is.
pub(crate) struct ServiceManager {
    beats: CoreBeats,
    watchdog: Option<Watchdog>,
}

/// Kills the program when it has not been told for too long that it lives.
struct Watchdog {
    pause: Duration,
    told: Instant,
    counts: Vec<u64>,
}

impl ServiceManager {
    /// Whether there is one.
    pub(crate) fn is_there() -> bool {
        env::var_os(SOCKET).is_some()
    }

    pub(crate) fn new(beats: CoreBeats) -> Self {
        let watchdog = watchdog_limit().filter(|_| Self::is_there()).map(|limit| Watchdog {
            pause: limit / TOLD_PER_LIMIT,
            told: Instant::now(),
            counts: beats.counts(),
        });
        Self { beats, watchdog }
    }

    /// It serves, as `status` says in words.
    pub(crate) fn ready(&self, status: &str) {
        tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// It reads its files again, and is [`ready`](Self::ready) when it has.
    pub(crate) fn reloading(&self) {
        // The moment tells the manager which of several reloads this is.
        let now = clock_gettime(ClockId::Monotonic);
        let moment_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        tell(&format!("RELOADING=1\nMONOTONIC_USEC={moment_us}\n"));
    }

    /// It takes no more connections, and ends when running requests have.
    pub(crate) fn stopping(&self) {
        tell("STOPPING=1\nSTATUS=stopping: running requests may finish\n");
    }

    /// Tells the watchdog that the program lives, if every core has shown that it does since the last time.
    pub(crate) fn note_life(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.told.elapsed() < watchdog.pause {
            return;
        }
        let counts = self.beats.counts();
        if counts.iter().zip(&watchdog.counts).all(|(now, then)| now != then) {
            tell("WATCHDOG=1\n");
            watchdog.told = Instant::now();
            watchdog.counts = counts;
        }
    }
}

/// Where there is a watchdog that watches this process.
fn watchdog_limit() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_own =
        env::var_os(WATCHDOG_PROCESS).is_none() || number(WATCHDOG_PROCESS) == Some(u64::from(process::id()));
    number(WATCHDOG_LIMIT).filter(|_| is_own).map(Duration::from_micros)
}

fn tell(state: &str) {
    if let Err(error) = send(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

fn send(state: &str) -> io::Result<()> {
    let Some(name) = env::var_os(SOCKET) else { return Ok(()) };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_hangs_keeps_the_watchdog_from_being_told() {
        let beats = CoreBeats::new(2);
        let begun = Instant::now();
        let watchdog = Watchdog { pause: Duration::ZERO, told: begun, counts: beats.counts() };
        let mut manager = ServiceManager { beats: beats.clone(), watchdog: Some(watchdog) };
        let is_told = |manager: &mut ServiceManager| {
            let before = manager.watchdog.as_ref().unwrap().counts.clone();
            manager.note_life();
            manager.watchdog.as_ref().unwrap().counts != before
        };
        assert!(!is_told(&mut manager), "no core has beaten");
        beats.beat(0);
        assert!(!is_told(&mut manager), "one has not");
        beats.beat(1);
        assert!(is_told(&mut manager));
        beats.beat(1);
        beats.beat(1);
        assert!(!is_told(&mut manager), "the other one hangs now");
    }
}
