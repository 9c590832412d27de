//! Holds: while somebody holds, the collector forgets blobs as ever and removes no bytes. A backup takes a hold before
//! its snapshot, so that every file of the snapshot stays until it has been copied.
//!
//! A holder that lives renews its hold. No clock is shared, so a collector goes by its own: a hold that it has seen
//! stand still for [`HOLD_TIMEOUT`] is abandoned.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between two renewals.
pub(crate) const HOLD_RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
/// For how long a hold counts that is not renewed.
pub(crate) const HOLD_TIMEOUT: Duration = Duration::from_secs(120);

/// A hold's name.
pub(crate) type HoldId = i64;

/// A hold as the database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(super) id: HoldId,
    /// Goes up with each renewal.
    pub(super) beats: i64,
}

/// What one collector has seen of the holds.
#[derive(Debug, Default)]
pub(super) struct HoldWatch {
    /// How each stood, and since when.
    seen: HashMap<HoldId, (i64, Instant)>,
}

impl HoldWatch {
    /// Takes note of how the holds stand now; gives those that are abandoned.
    pub(super) fn observe(&mut self, holds: &[Hold], now: Instant) -> Vec<Hold> {
        self.seen.retain(|id, _| holds.iter().any(|hold| hold.id == *id));
        let mut abandoned = Vec::new();
        for hold in holds {
            let (beats, since) = self.seen.entry(hold.id).or_insert((hold.beats, now));
            if *beats != hold.beats {
                (*beats, *since) = (hold.beats, now);
            }
            if now.saturating_duration_since(*since) >= HOLD_TIMEOUT {
                abandoned.push(*hold);
            }
        }
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_counts_as_long_as_it_is_renewed_and_its_timeout_longer() {
        let (mut watch, start) = (HoldWatch::default(), Instant::now());
        let (renewed, still) = (|beats| Hold { id: 1, beats }, Hold { id: 2, beats: 7 });
        assert!(watch.observe(&[renewed(0), still], start).is_empty(), "nothing is known of it yet");
        let nearly = start + HOLD_TIMEOUT - Duration::from_millis(1);
        assert!(watch.observe(&[renewed(1), still], nearly).is_empty());
        assert_eq!(watch.observe(&[renewed(1), still], start + HOLD_TIMEOUT), [still]);
        assert_eq!(watch.observe(&[renewed(1)], nearly + HOLD_TIMEOUT), [renewed(1)]);
        assert!(watch.observe(&[renewed(2)], nearly + HOLD_TIMEOUT).is_empty(), "its holder came back");
    }

    #[test]
    fn a_hold_that_is_gone_is_forgotten() {
        let (mut watch, start) = (HoldWatch::default(), Instant::now());
        let hold = Hold { id: 1, beats: 0 };
        watch.observe(&[hold], start);
        watch.observe(&[], start);
        assert!(watch.observe(&[hold], start + HOLD_TIMEOUT).is_empty(), "it is another one");
    }
}
