//! Conditions on what is there now (RFC 9110 §13), as rules of the store and not of a protocol.

use super::{ContentHash, Timestamp};

/// The tags of an `If-Match` or `If-None-Match`. A tag that cannot be one of ours (weak, or of another form) is
/// left out when they are read: it matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`: whatever is there.
    Any,
    /// These contents.
    Hashes(Vec<ContentHash>),
}

impl EntityTags {
    fn matches(&self, current: Option<&CurrentVersion>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Hashes(hashes), Some(current)) => hashes.contains(&current.content_hash),
        }
    }
}

/// What a condition is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentVersion {
    /// The content, which is also the entity tag.
    pub content_hash: ContentHash,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What must hold for a write to go through. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precondition {
    /// `If-Match`.
    pub if_match: Option<EntityTags>,
    /// `If-None-Match`.
    pub if_none_match: Option<EntityTags>,
    /// `If-Unmodified-Since`, in whole seconds since the epoch.
    pub if_unmodified_since: Option<i64>,
}

impl Precondition {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a write may replace or remove `current`, in the order of RFC 9110 §13.2.2.
    pub fn holds(&self, current: Option<&CurrentVersion>) -> bool {
        let unchanged = match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) => tags.matches(current),
            (None, Some(since)) => current.is_none_or(|current| current.updated_at.as_seconds() <= since),
            (None, None) => true,
        };
        unchanged && self.if_none_match.as_ref().is_none_or(|tags| !tags.matches(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_on_presence_and_absence() {
        let hash = ContentHash::from_bytes([1; 32]);
        let other = ContentHash::from_bytes([2; 32]);
        let current = CurrentVersion { content_hash: hash, updated_at: Timestamp::from_millis(10_900) };
        let if_match = |tags| Precondition { if_match: Some(tags), ..Precondition::default() };
        let if_none_match = |tags| Precondition { if_none_match: Some(tags), ..Precondition::default() };
        let since = |seconds| Precondition { if_unmodified_since: Some(seconds), ..Precondition::default() };
        for (condition, on_present, on_absent) in [
            (Precondition::default(), true, true),
            (if_match(EntityTags::Any), true, false),
            (if_match(EntityTags::Hashes(vec![other, hash])), true, false),
            (if_match(EntityTags::Hashes(vec![other])), false, false),
            (if_match(EntityTags::Hashes(vec![])), false, false),
            (if_none_match(EntityTags::Any), false, true),
            (if_none_match(EntityTags::Hashes(vec![hash])), false, true),
            (if_none_match(EntityTags::Hashes(vec![other])), true, true),
            (since(10), true, true),
            (since(9), false, true),
        ] {
            assert_eq!(condition.holds(Some(&current)), on_present, "{condition:?} on presence");
            assert_eq!(condition.holds(None), on_absent, "{condition:?} on absence");
        }
    }

    #[test]
    fn a_date_is_not_looked_at_beside_tags() {
        let current = CurrentVersion {
            content_hash: ContentHash::from_bytes([1; 32]),
            updated_at: Timestamp::from_millis(10_000),
        };
        let condition = Precondition {
            if_match: Some(EntityTags::Any),
            if_unmodified_since: Some(0),
            if_none_match: None,
        };
        assert!(condition.holds(Some(&current)));
    }
}
