//! What a tenant has, and what it may have at most.

/// What committed objects amount to. Bytes are logical ones: a content that many objects name counts for each of them,
/// and so does each version of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many bytes.
    pub bytes: u64,
    /// How many objects.
    pub objects: u64,
}

impl Usage {
    /// What one object of so many bytes counts for.
    pub fn of_object(bytes: u64) -> Self {
        Self { bytes, objects: 1 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            objects: self.objects.saturating_add(other.objects),
        }
    }

    /// What is left without a part of it.
    #[must_use]
    pub fn minus(self, part: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(part.bytes),
            objects: self.objects.saturating_sub(part.objects),
        }
    }

    /// What it is after a change.
    #[must_use]
    pub fn changed_by(self, change: UsageChange) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(change.bytes),
            objects: self.objects.saturating_add_signed(change.objects),
        }
    }
}

/// What has been added to a tenant's usage, and taken from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageChange {
    /// How many bytes more.
    pub bytes: i64,
    /// How many objects more.
    pub objects: i64,
}

impl UsageChange {
    /// One more object of so many bytes.
    pub fn add_object(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes.cast_signed());
        self.objects += 1;
    }

    /// One object of so many bytes less.
    pub fn take_object(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes.cast_signed());
        self.objects -= 1;
    }

    /// Whether all is as it was.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What an operator lets a tenant have at most. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// How many bytes.
    pub bytes_max: Option<u64>,
    /// How many objects.
    pub objects_max: Option<u64>,
}

impl QuotaLimits {
    /// The largest limit: what every database can hold.
    pub const LIMIT_MAX: u64 = i64::MAX as u64;

    /// Whether there are none.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether a usage is within them. Exactly full is.
    pub fn admit(self, usage: Usage) -> bool {
        self.bytes_max.is_none_or(|max| usage.bytes <= max)
            && self.objects_max.is_none_or(|max| usage.objects <= max)
    }
}

/// What a tenant has, and what it may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// What its committed objects amount to.
    pub usage: Usage,
    /// What they may amount to.
    pub limits: QuotaLimits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_full_is_within_the_limits_and_one_more_is_not() {
        let limits = QuotaLimits { bytes_max: Some(10), objects_max: Some(2) };
        assert!(limits.admit(Usage { bytes: 10, objects: 2 }));
        assert!(!limits.admit(Usage { bytes: 11, objects: 2 }));
        assert!(!limits.admit(Usage { bytes: 10, objects: 3 }));
        assert!(QuotaLimits::default().admit(Usage { bytes: u64::MAX, objects: u64::MAX }));
        assert!(!QuotaLimits { bytes_max: Some(0), objects_max: None }.admit(Usage { bytes: 1, objects: 1 }));
    }

    #[test]
    fn changes_add_up_and_never_wrap() {
        let mut change = UsageChange::default();
        change.add_object(7);
        change.add_object(5);
        change.take_object(5);
        assert_eq!(Usage::default().changed_by(change), Usage::of_object(7));
        change.take_object(7);
        assert!(change.is_none());
        change.take_object(7);
        assert_eq!(Usage::of_object(3).changed_by(change), Usage::default());
        assert_eq!(
            Usage::of_object(u64::MAX).plus(Usage::of_object(1)),
            Usage { bytes: u64::MAX, objects: 2 }
        );
    }
}
