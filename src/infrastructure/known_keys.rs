//! Which keys may have a version, so that a `PUT` to a new one need not wait until the database has applied it: nothing
//! before it in the order of all changes can change what comes out.
//!
//! A Bloom filter (Bloom 1970, doi:10.1145/362686.362692) of all keys that the database has, and of every key that a
//! change has been given a place in the order for since. What it does not know is new for certain; what it knows, or
//! takes for known, the database is asked about. Keys are never taken out: of one that was deleted the database is asked.

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use fastbloom::AtomicBloomFilter;

use crate::domain::entities::KeyPath;

/// With four hashes, one new key in a hundred is taken for known when the filter is as full as it was made for.
const BITS_PER_KEY: u64 = 10;
const HASHES: u32 = 4;
/// How many keys there is room for beside those that are there at the start.
const KEYS_ADDED: u64 = 4_000_000;
/// The largest filter, in bits: 64 MiB.
const BITS_MAX: u64 = 64 << 23;
/// Whoever takes a place for a key waits for others that do so for a key of the same turn.
const TURNS: usize = 64;

/// The keys that may have a version.
#[derive(Debug)]
pub struct KnownKeys {
    filter: AtomicBloomFilter<RandomState>,
    turns: Box<[Mutex<()>]>,
    /// Whether all keys of the database are in the filter.
    complete: AtomicBool,
}

impl KnownKeys {
    /// For a database of about `keys`, none of which is known yet.
    pub fn for_about(keys: u64) -> Self {
        let bits = usize::try_from(bits_for(keys)).unwrap_or(usize::MAX);
        let filter = AtomicBloomFilter::with_num_bits(bits).hasher(RandomState::new()).hashes(HASHES);
        let turns = std::iter::repeat_with(Mutex::default).take(TURNS).collect();
        Self { filter, turns, complete: AtomicBool::new(false) }
    }

    /// Notes a key of the database.
    pub fn add(&self, key_path: &KeyPath) {
        self.filter.insert(key_path);
    }

    /// Says that all keys of the database have been noted.
    pub fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Takes a place in the order, with `take`, for a change that may give the key a version. Says too whether it is new:
    /// whether no change before that place can have given it one.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn claim<T, E>(
        &self,
        key_path: &KeyPath,
        take: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, bool), E> {
        let hash = self.filter.source_hash(key_path);
        let turn = &self.turns[hash as usize % TURNS];
        // Of two that come at once, the one that is first in the order has to be the first here.
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = take()?;
        let was_known = self.filter.insert_hash(hash);
        Ok((taken, !was_known && self.complete.load(Ordering::Acquire)))
    }
}

/// So large a filter for a database of about `keys`.
fn bits_for(keys: u64) -> u64 {
    keys.saturating_add(KEYS_ADDED).saturating_mul(BITS_PER_KEY).min(BITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;

    fn key_path(key: &str) -> KeyPath {
        a_commit(Some(key), 1, 1).stored.object.key_path().unwrap()
    }

    fn is_new(keys: &KnownKeys, key: &str) -> bool {
        keys.claim(&key_path(key), || Ok::<_, ()>(())).unwrap().1
    }

    #[test]
    fn a_key_is_new_once_and_only_when_all_are_known() {
        let keys = KnownKeys::for_about(0);
        assert!(!is_new(&keys, "early"));
        keys.add(&key_path("stored"));
        keys.complete();
        assert!(!is_new(&keys, "early"));
        assert!(!is_new(&keys, "stored"));
        assert!(is_new(&keys, "new"));
        assert!(!is_new(&keys, "new"));
    }

    #[test]
    fn a_filter_grows_with_the_database_up_to_its_limit() {
        assert_eq!(bits_for(0), KEYS_ADDED * BITS_PER_KEY);
        let most = BITS_MAX / BITS_PER_KEY - KEYS_ADDED;
        assert!(bits_for(most) < BITS_MAX);
        assert_eq!(bits_for(most + 1), BITS_MAX);
        assert_eq!(bits_for(u64::MAX), BITS_MAX);
    }

    #[test]
    fn a_key_without_a_place_stays_new() {
        let keys = KnownKeys::for_about(0);
        keys.complete();
        assert_eq!(keys.claim(&key_path("k"), || Err::<(), _>("full")), Err("full"));
        assert!(is_new(&keys, "k"));
    }

    #[test]
    fn few_new_keys_are_taken_for_known() {
        let keys = KnownKeys::for_about(0);
        keys.complete();
        let known = (0..20_000).filter(|number| !is_new(&keys, &number.to_string())).count();
        assert!(known < 20, "{known} of 20,000");
    }
}
