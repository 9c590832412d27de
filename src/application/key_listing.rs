//! Listings by key: what is asked for, and what is found. Keys are in the order of their bytes, and each is shown once, as
//! its newest committed version; what has no key is not shown.

use crate::domain::entities::{KeyPath, Object, Scope};
use crate::domain::value_objects::{Delimiter, KeyPrefix, StorageClass};

/// How many keys a page passes over at most, because their newest version is in another class than the one that is asked
/// for. A page that has come so far ends, however little it shows, and the next one goes on behind it: so no page costs
/// more than this, and none keeps a connection to the database from others for long.
pub const KEYS_PASSED_OVER_MAX: u32 = 1000;

/// One page's worth of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyQuery {
    /// Whose keys.
    pub scope: Scope,
    /// What they begin with.
    pub prefix: KeyPrefix,
    /// If there is one, keys that have it behind the prefix are shown by what they have in common.
    pub delimiter: Option<Delimiter>,
    /// Only keys whose newest version is in this class.
    pub storage_class: Option<StorageClass>,
    /// How many objects and common prefixes together at most: 1 to 1000.
    pub limit: u32,
    /// Where the page before ended.
    pub after: Option<KeyPosition>,
}

impl KeyQuery {
    /// How many keys a page may come to: one more than it shows tells whether there is a next one.
    pub fn keys_looked_at_max(&self) -> u32 {
        self.limit + 1 + if self.storage_class.is_some() { KEYS_PASSED_OVER_MAX } else { 0 }
    }

    /// What `key` has in common with others, if that is shown in its place.
    pub fn common<'k>(&self, key: &'k str) -> Option<&'k str> {
        self.prefix.common(self.delimiter.as_ref(), key)
    }
}

/// Where a page of keys ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPosition {
    /// With this key.
    Key(String),
    /// With all keys that begin like this.
    Common(String),
}

/// What a [`KeyQuery`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPage {
    /// Newest versions, in the order of their keys.
    pub objects: Vec<Object>,
    /// What other keys have in common, in order, each once.
    pub common_prefixes: Vec<String>,
    /// The `after` of the next page, if there may be one.
    pub next: Option<KeyPosition>,
}

/// One page's worth of the committed versions of a key, newest first. What it finds is a page like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionQuery {
    /// Which key.
    pub key_path: KeyPath,
    /// How many at most: 1 to 1000.
    pub limit: u32,
    /// Only those whose sequence is below this one: where the page before ended.
    pub before: Option<u64>,
}

/// A key that a listing has come to.
#[derive(Debug)]
pub struct WalkedKey {
    /// The key.
    pub key: String,
    /// Whether it is asked for.
    pub is_shown: bool,
    /// Its newest version, where it is shown by itself.
    pub object: Option<Object>,
}

impl WalkedKey {
    /// Where a listing stands that has come to it.
    pub fn position(&self, query: &KeyQuery) -> KeyPosition {
        match query.common(&self.key).filter(|_| self.is_shown) {
            Some(common) => KeyPosition::Common(common.to_owned()),
            None => KeyPosition::Key(self.key.clone()),
        }
    }
}

impl KeyPage {
    /// The page of all keys that a walk has come to, where it has gone on behind what the page shows, if there was more, and
    /// looked at no more keys than the query lets it.
    pub fn of_walk(query: &KeyQuery, walked: Vec<WalkedKey>) -> Self {
        let (mut page, mut shown) = (Self::default(), 0);
        let is_cut = walked.len() as u64 >= u64::from(query.keys_looked_at_max());
        let mut last = None;
        for walked in walked {
            if walked.is_shown && shown == query.limit {
                return Self { next: last, ..page };
            }
            shown += u32::from(walked.is_shown);
            let position = walked.position(query);
            if let KeyPosition::Common(common) = &position {
                page.common_prefixes.push(common.clone());
            }
            last = Some(position);
            page.objects.extend(walked.object);
        }
        Self { next: last.filter(|_| is_cut), ..page }
    }
}
