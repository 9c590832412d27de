//! How a listing by key walks through the index of keys, in one statement of either database: it looks for the first key
//! from a bound on, then for the first one behind that key or behind all that have something in common with it, and so on.
//! What is passed over is not read.
//!
//! Bounds are texts, compared byte by byte, which is by characters too: UTF-8 keeps their order. Behind every key that begins
//! with `a` comes `a` with 256 times the last character behind it, since no key is long enough for that many more, and no
//! character is greater. Between a key and its next possible neighbour stands that key with [`BEHIND`] behind it, since no
//! key has control characters.

use crate::application::key_listing::{KeyPosition, KeyQuery};
use crate::domain::value_objects::{Delimiter, Key};

/// The last character there is.
const LAST: &str = "\u{10ffff}";
/// The first one that a text of PostgreSQL can have.
const BEHIND: &str = "\u{1}";

/// What a walk is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyWalk<'q> {
    /// Every key from here on …
    pub(super) from: String,
    /// … up to here.
    pub(super) up_to: String,
    /// How many characters of a key are prefix.
    pub(super) prefix_characters: i32,
    pub(super) delimiter: Option<&'q str>,
    /// What comes behind everything that begins in a certain way, put behind that.
    pub(super) beyond: String,
    /// How many keys and common prefixes are wanted: one more than are shown.
    pub(super) wanted: i32,
    /// At how many keys the walk ends.
    pub(super) looked_at_max: i32,
}

impl<'q> KeyWalk<'q> {
    pub(super) fn of(query: &'q KeyQuery) -> Self {
        let beyond = LAST.repeat(Key::BYTES_MAX / LAST.len());
        let prefix = query.prefix.as_str();
        let count = |count| i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            from: match &query.after {
                None => prefix.to_owned(),
                Some(KeyPosition::Key(key)) => format!("{key}{BEHIND}"),
                Some(KeyPosition::Common(common)) => format!("{common}{beyond}"),
            },
            up_to: format!("{prefix}{beyond}"),
            prefix_characters: count(prefix.chars().count() as u64),
            delimiter: query.delimiter.as_ref().map(Delimiter::as_str),
            beyond,
            wanted: count(u64::from(query.limit) + 1),
            looked_at_max: count(u64::from(query.keys_looked_at_max())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::a_scope;
    use crate::domain::value_objects::KeyPrefix;

    fn walk(prefix: &str, after: Option<KeyPosition>) -> (String, String) {
        let query = KeyQuery {
            scope: a_scope("models", "acme"),
            prefix: KeyPrefix::parse(prefix).unwrap(),
            delimiter: None,
            storage_class: None,
            limit: 1,
            after,
        };
        let walk = KeyWalk::of(&query);
        (walk.from, walk.up_to)
    }

    #[test]
    fn every_key_with_the_prefix_is_within_the_bounds_and_no_other() {
        let longest = |first: &str| first.to_owned() + &LAST.repeat((Key::BYTES_MAX - first.len()) / 4);
        for prefix in ["", "a", "a/", "ä", LAST, "\u{d7ff}", &"k".repeat(1024)] {
            let (from, up_to) = walk(prefix, None);
            for key in [prefix.to_owned(), format!("{prefix}\u{20}"), longest(prefix)] {
                assert!(from <= key && key <= up_to, "{prefix:?} {key:?}");
            }
        }
        let (from, up_to) = walk("a/", None);
        for key in ["a", "a.", "a0", "b", LAST] {
            assert!(key < from.as_str() || key > up_to.as_str(), "{key}");
        }
    }

    #[test]
    fn a_page_begins_behind_what_the_one_before_ended_with() {
        let (from, _) = walk("", Some(KeyPosition::Key("a".into())));
        assert!("a" < from.as_str() && from.as_str() < "a\u{20}");
        let (from, _) = walk("", Some(KeyPosition::Common("a/".into())));
        assert!("a/\u{10ffff}\u{10ffff}z" < from.as_str() && from.as_str() < "a0");
    }
}
