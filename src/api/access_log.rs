//! One line a request, written off the cores: a core hands over a small record and goes on; the log thread words it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How many records wait for the log thread at most; more are dropped and counted.
pub(super) const RECORDS_QUEUED_MAX: usize = 16 * 1024;

/// What is told of a request.
#[derive(Debug)]
pub struct AccessRecord {
    /// Its method.
    pub method: &'static str,
    /// The path of its target, without the query.
    pub path: String,
    /// The status of its answer.
    pub status: u16,
    /// Bytes of its body that were taken in.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// From the end of the head to the end of the answer.
    pub duration: Duration,
    /// Its id.
    pub request_id: String,
}

/// A core's end.
#[derive(Debug, Clone)]
pub struct AccessLog {
    records: Option<SyncSender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

/// The log thread's end.
#[derive(Debug)]
pub struct AccessLogReader {
    records: Receiver<AccessRecord>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// A log and its reader.
    pub fn new() -> (Self, AccessLogReader) {
        let (records, queue) = sync_channel(RECORDS_QUEUED_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        (
            Self { records: Some(records), dropped: dropped.clone() },
            AccessLogReader { records: queue, dropped },
        )
    }

    /// A log that nobody reads.
    pub fn off() -> Self {
        Self { records: None, dropped: Arc::default() }
    }

    /// Whether a record would be read.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// Hands a record over, or drops it where too many wait. Never waits.
    pub fn push(&self, record: AccessRecord) {
        if let Some(records) = &self.records
            && records.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AccessLogReader {
    /// Words everything that waits; `false` once the last core has gone.
    pub fn drain(&self) -> bool {
        let alive = loop {
            match self.records.try_recv() {
                Ok(record) => word(&record),
                Err(std::sync::mpsc::TryRecvError::Empty) => break true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break false,
            }
        };
        match self.dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            dropped => tracing::warn!(dropped, "requests came faster than they could be logged"),
        }
        alive
    }
}

fn word(record: &AccessRecord) {
    tracing::info!(
        target: "access",
        method = record.method,
        path = record.path,
        status = record.status,
        bytes_in = record.bytes_in,
        bytes_out = record.bytes_out,
        duration_us = u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        request_id = record.request_id,
        "request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_record() -> AccessRecord {
        AccessRecord {
            method: "GET",
            path: "/".into(),
            status: 200,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            request_id: String::new(),
        }
    }

    #[test]
    fn records_past_the_limit_are_dropped_and_counted() {
        let (log, reader) = AccessLog::new();
        (0..RECORDS_QUEUED_MAX).for_each(|_| log.push(a_record()));
        assert_eq!(log.dropped.load(Ordering::Relaxed), 0);
        log.push(a_record());
        assert_eq!(log.dropped.load(Ordering::Relaxed), 1);
        assert!(reader.drain());
        drop(log);
        assert!(!reader.drain());
    }
}
