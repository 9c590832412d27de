//! What the server's own scrub tells of itself, and how much damage is known.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cells::Counter;
use super::exposition::{Exposition, Kind};
use crate::domain::value_objects::Timestamp;

/// What the scrub of this process has done, and how far that of all servers is.
#[derive(Debug, Default)]
pub struct ScrubMetrics {
    /// Blobs that were compared with their hash.
    pub checked_blobs: Counter,
    /// Bytes that were read for it.
    pub checked_bytes: Counter,
    /// Blobs that were lost or altered, and not known to be.
    pub damaged_blobs: Counter,
    /// Blobs that could not be read, for a reason that says nothing of them.
    pub unread_blobs: Counter,
    known: Mutex<Known>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    interval: Duration,
    pass: Option<ScrubPass>,
    damaged_blobs: Option<u64>,
}

/// How far a pass is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScrubPass {
    /// When it began.
    pub started_at: Timestamp,
    /// When the last one came to its end.
    pub finished_at: Option<Timestamp>,
    /// Which share of all blobs it has checked: from 0 to 1, which it stays at until the next one begins.
    pub progress: f64,
}

impl ScrubMetrics {
    /// Tells how often a pass begins; zero for never.
    pub fn set_interval(&self, interval: Duration) {
        self.known_mut().interval = interval;
    }

    /// Takes over how far the pass is.
    pub fn set_pass(&self, pass: ScrubPass) {
        self.known_mut().pass = Some(pass);
    }

    /// Takes over how many blobs are known to be lost or altered.
    pub fn set_damaged(&self, blobs: u64) {
        self.known_mut().damaged_blobs = Some(blobs);
    }

    pub(super) fn write_to(&self, text: &mut Exposition) {
        for (name, help, counter) in [
            (
                "activestorage_scrub_checked_blobs_total",
                "Blobs that the scrub has compared with their hash.",
                &self.checked_blobs,
            ),
            (
                "activestorage_scrub_checked_bytes_total",
                "Bytes that the scrub has read from the disks.",
                &self.checked_bytes,
            ),
            (
                "activestorage_scrub_damaged_blobs_total",
                "Blobs that the scrub has found lost or altered.",
                &self.damaged_blobs,
            ),
            (
                "activestorage_scrub_unread_blobs_total",
                "Blobs that the scrub could not read, for a reason that says nothing of them.",
                &self.unread_blobs,
            ),
        ] {
            text.single(name, Kind::Counter, help, counter.get());
        }
        let Known { interval, pass, damaged_blobs } = *self.known_mut();
        let help = "How often a pass of the scrub begins; 0 for never.";
        text.single("activestorage_scrub_interval_seconds", Kind::Gauge, help, interval.as_secs());
        if let Some(pass) = pass {
            let help = "When the pass of the scrub began that runs, or the last one.";
            let started = seconds(pass.started_at);
            text.single("activestorage_scrub_started_timestamp_seconds", Kind::Gauge, help, started);
            if let Some(finished) = pass.finished_at.map(seconds) {
                let help = "When the last pass of the scrub came to its end.";
                text.single("activestorage_scrub_finished_timestamp_seconds", Kind::Gauge, help, finished);
            }
            let help = "Which share of all blobs the pass of the scrub has checked.";
            text.single("activestorage_scrub_progress_ratio", Kind::Gauge, help, pass.progress);
        }
        if let Some(blobs) = damaged_blobs {
            let help = "Blobs that are known to be lost or altered, as they were last counted.";
            text.single("activestorage_damaged_blobs", Kind::Gauge, help, blobs);
        }
    }

    fn known_mut(&self) -> MutexGuard<'_, Known> {
        // Each part is replaced as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(moment: Timestamp) -> f64 {
    moment.as_millis() as f64 / 1000.0
}
