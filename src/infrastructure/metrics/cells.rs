//! Cells that one thread alone writes and any thread reads. So a write is a load and a store, without the locked
//! instruction that an addition by several writers takes. If two threads did write, counts would be lost, and nothing else.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that goes up; or up and down, for what is there now.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. For the one thread that writes.
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes `count` away again. For the one thread that writes.
    pub fn take(&self, count: u64) {
        self.0.store(self.get().wrapping_sub(count), Ordering::Relaxed);
    }

    /// Is `value` from now on. For the one thread that writes.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Values by how large they are: each counts in the first bucket whose bound it does not exceed.
struct Histogram<const BUCKETS: usize> {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl<const BUCKETS: usize> fmt::Debug for Histogram<BUCKETS> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.buckets.iter().map(Counter::get)).finish()
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// The last bound has no end.
    fn record(&self, bounds: &[u64; BUCKETS], value: u64) {
        let bucket = bounds.partition_point(|bound| *bound < value).min(BUCKETS - 1);
        self.buckets[bucket].add(1);
        self.sum.add(value);
    }

    fn add_to(&self, merged: &mut Merged) {
        for (sum, bucket) in merged.buckets.iter_mut().zip(&self.buckets) {
            sum.1 += bucket.get();
        }
        merged.sum += self.sum.get();
    }
}

/// Histograms of several cores, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Each bound as it is told, and how many values are in its bucket alone.
    buckets: Vec<(&'static str, u64)>,
    /// All values together, in the unit of the cells.
    sum: u64,
    /// How many of them are one of the unit that is told.
    unit: u64,
}

impl Merged {
    fn new(bounds: &[&'static str], unit: u64) -> Self {
        Self { buckets: bounds.iter().map(|bound| (*bound, 0)).collect(), sum: 0, unit }
    }

    /// Each bound and how many values do not exceed it; the last are all.
    pub fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.buckets.iter().scan(0, |count, (bound, own)| {
            *count += own;
            Some((*bound, *count))
        })
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// All values together.
    pub fn sum(&self) -> f64 {
        self.sum as f64 / self.unit as f64
    }
}

/// From 100 µs, which a cached read takes, to a minute, after which most of what waits has been given up.
const DURATION_BOUNDS: [(&str, u64); 19] = [
    ("0.0001", 100_000),
    ("0.00025", 250_000),
    ("0.0005", 500_000),
    ("0.001", 1_000_000),
    ("0.0025", 2_500_000),
    ("0.005", 5_000_000),
    ("0.01", 10_000_000),
    ("0.025", 25_000_000),
    ("0.05", 50_000_000),
    ("0.1", 100_000_000),
    ("0.25", 250_000_000),
    ("0.5", 500_000_000),
    ("1", 1_000_000_000),
    ("2.5", 2_500_000_000),
    ("5", 5_000_000_000),
    ("10", 10_000_000_000),
    ("30", 30_000_000_000),
    ("60", 60_000_000_000),
    ("+Inf", u64::MAX),
];
const DURATION_NANOS: [u64; DURATION_BOUNDS.len()] = numbers(&DURATION_BOUNDS);

/// As many as a transaction has writes at most, and one past it.
const SIZE_BOUNDS: [(&str, u64); 12] = [
    ("1", 1),
    ("2", 2),
    ("4", 4),
    ("8", 8),
    ("16", 16),
    ("32", 32),
    ("64", 64),
    ("128", 128),
    ("256", 256),
    ("512", 512),
    ("1024", 1024),
    ("+Inf", u64::MAX),
];
const SIZES: [u64; SIZE_BOUNDS.len()] = numbers(&SIZE_BOUNDS);

const fn numbers<const N: usize>(bounds: &[(&str, u64); N]) -> [u64; N] {
    let mut numbers = [0; N];
    let mut index = 0;
    while index < N {
        numbers[index] = bounds[index].1;
        index += 1;
    }
    numbers
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Durations(Histogram<{ DURATION_BOUNDS.len() }>);

impl Durations {
    /// Counts one. For the one thread that writes.
    pub fn record(&self, duration: Duration) {
        self.0.record(&DURATION_NANOS, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// All of several cores, in seconds.
    pub fn merge<'d>(all: impl IntoIterator<Item = &'d Self>) -> Merged {
        let mut merged = Merged::new(&DURATION_BOUNDS.map(|(text, _)| text), 1_000_000_000);
        all.into_iter().for_each(|durations| durations.0.add_to(&mut merged));
        merged
    }
}

/// How many things came at once.
#[derive(Debug, Default)]
pub struct Sizes(Histogram<{ SIZE_BOUNDS.len() }>);

impl Sizes {
    /// Counts one. For the one thread that writes.
    pub fn record(&self, size: usize) {
        self.0.record(&SIZES, size as u64);
    }

    /// All of several cores.
    pub fn merge<'s>(all: impl IntoIterator<Item = &'s Self>) -> Merged {
        let mut merged = Merged::new(&SIZE_BOUNDS.map(|(text, _)| text), 1);
        all.into_iter().for_each(|sizes| sizes.0.add_to(&mut merged));
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_what_they_are_called_and_ascend() {
        for (text, nanos) in &DURATION_BOUNDS[..DURATION_BOUNDS.len() - 1] {
            assert_eq!((text.parse::<f64>().unwrap() * 1e9).round() as u64, *nanos);
        }
        for (text, size) in &SIZE_BOUNDS[..SIZE_BOUNDS.len() - 1] {
            assert_eq!(text.parse::<u64>().unwrap(), *size);
        }
        assert!(DURATION_NANOS.is_sorted() && SIZES.is_sorted());
    }

    #[test]
    fn a_value_counts_in_the_first_bucket_that_it_does_not_exceed() {
        let (one, other) = (Durations::default(), Durations::default());
        one.record(Duration::from_micros(100));
        one.record(Duration::from_nanos(100_001));
        other.record(Duration::from_secs(60));
        other.record(Duration::from_secs(61));
        let merged = Durations::merge([&one, &other]);
        let cumulative: Vec<_> = merged.cumulative().collect();
        assert_eq!(cumulative[..3], [("0.0001", 1), ("0.00025", 2), ("0.0005", 2)]);
        assert_eq!(cumulative[cumulative.len() - 2..], [("60", 3), ("+Inf", 4)]);
        assert_eq!(merged.count(), 4);
        assert!((merged.sum() - 121.000_200_001).abs() < 1e-9, "{}", merged.sum());
    }

    #[test]
    fn sizes_at_the_edges() {
        let sizes = Sizes::default();
        [0, 1, 2, 3, 1024, 1025].into_iter().for_each(|size| sizes.record(size));
        let merged = Sizes::merge([&sizes]);
        let counts: Vec<u64> = merged.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[2], counts[10], counts[11]), (2, 3, 4, 5, 6));
        assert!((merged.sum() - 2055.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_there_now_goes_up_and_down() {
        let open = Counter::default();
        open.add(2);
        open.take(1);
        assert_eq!(open.get(), 1);
    }
}
