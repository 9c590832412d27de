//! What has been counted in a run: operations, bytes, latencies and failures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use crate::failure::{Failure, FailureKind};

/// Longer latencies count as this one, which is longer than any run.
const LATENCY_US_MAX: u64 = 2 * 3_600 * 1_000_000;
/// Latencies are kept to a tenth of a percent.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How often one kind of failure happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailureCount {
    /// The number of them.
    pub(crate) count: u64,
    /// What was known about the first of them.
    pub(crate) first_detail: String,
}

/// Counts the operations of all connections. There is one for a run, since a histogram is too large to have one for
/// each of a thousand connections.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Operations that were answered as expected.
    pub(crate) operations: u64,
    /// The bytes of their bodies.
    pub(crate) body_bytes: u64,
    /// Their latencies in microseconds.
    pub(crate) latencies_us: Histogram<u64>,
    /// The others, by kind.
    pub(crate) failures: BTreeMap<FailureKind, FailureCount>,
    /// How often a connection had to be opened anew.
    pub(crate) reconnects: u64,
}

/// Nothing counted of what is told in microseconds.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)
        .context("the histogram could not be made")
}

/// A time as it is counted.
pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Tally {
    /// Nothing counted.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            operations: 0,
            body_bytes: 0,
            latencies_us: histogram()?,
            failures: BTreeMap::new(),
            reconnects: 0,
        })
    }

    /// Counts an operation that was answered as expected.
    pub(crate) fn count_operation(&mut self, latency: Duration, body_bytes: u64) {
        self.operations += 1;
        self.body_bytes += body_bytes;
        self.latencies_us.saturating_record(microseconds(latency));
    }

    /// Counts one that was not.
    pub(crate) fn count_failure(&mut self, failure: Failure) {
        self.failures
            .entry(failure.kind)
            .and_modify(|known| known.count += 1)
            .or_insert(FailureCount { count: 1, first_detail: failure.detail });
    }

    /// Counts operations that were given up because the time to finish them was over.
    pub(crate) fn count_unfinished(&mut self, unfinished: usize) {
        for _ in 0..unfinished {
            self.count_failure(Failure::new(FailureKind::Unfinished, "the time to finish was over"));
        }
    }

    /// All failures of all kinds.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failures.values().map(|known| known.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_keep_the_first_detail() {
        let mut tally = Tally::new().unwrap();
        tally.count_failure(Failure::status(503, b"busy"));
        tally.count_failure(Failure::status(503, b"later"));
        tally.count_failure(Failure::status(413, b"large"));
        assert_eq!(tally.failures_total(), 3);
        let busy = &tally.failures[&FailureKind::Status(503)];
        assert_eq!((busy.count, busy.first_detail.as_str()), (2, "busy"));
    }

    #[test]
    fn latencies_outside_the_bounds_are_kept_at_them() {
        let mut tally = Tally::new().unwrap();
        tally.count_operation(Duration::ZERO, 1);
        tally.count_operation(Duration::from_secs(1_000_000), 2);
        assert_eq!((tally.operations, tally.body_bytes, tally.latencies_us.len()), (2, 3, 2));
        assert!(tally.latencies_us.max() >= LATENCY_US_MAX);
    }
}
