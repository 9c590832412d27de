//! Moments of the wall clock, for people and for HTTP dates. Never used to order anything, and to age something only where
//! an operator has set a rule in days.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A moment from milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch: the resolution of HTTP dates.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let millis = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        };
        Self(millis)
    }
}

impl From<Timestamp> for SystemTime {
    /// Moments before the epoch become the epoch: HTTP dates have no others.
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(timestamp.0).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(formatter, "{moment:.3}"),
            // Outside the years -9999 to 9999, where no clock of a machine is.
            Err(_) => write!(formatter, "{}ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_rfc_3339_with_milliseconds() {
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_millis(1_795_468_200_120).to_string(), "2026-11-23T21:10:00.120Z");
    }

    #[test]
    fn it_converts_both_ways() {
        let moment = Timestamp::from_millis(1_795_468_200_120);
        assert_eq!(Timestamp::from(SystemTime::from(moment)), moment);
        assert_eq!(moment.as_seconds(), 1_795_468_200);
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_millis(5)).as_millis(), -5);
    }
}
