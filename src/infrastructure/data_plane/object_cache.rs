//! The one thing that cores share: which object an id or key means, and where its bytes are. A cached `GET` asks
//! no other thread.
//!
//! A fill counts only if nothing in its shard has been forgotten since before the query that it comes from. So a
//! change that commits between the query and the fill can never be papered over by the older answer:
//!
//! ```text
//! reader:  ticket ─ query(old) ───────────────────────── fill: ticket is stale, dropped
//! writer:              commit(new) ─ forget: generation + 1 ─ answer
//! ```
//!
//! Where other servers change the same database, nothing here learns of it: there an entry also has an age, which is
//! counted from before its query.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::application::ports::ObjectName;
use crate::domain::entities::StoredObject;

const SHARDS: usize = 64;
/// How many names are remembered in all.
pub const NAMES_CACHED_MAX: usize = 64 * 512;
/// How old an answer may be where other servers share the database: the documented staleness.
pub const SHARED_AGE_MAX: Duration = Duration::from_secs(1);
/// An object with more metadata than this is not remembered, so that the cache's size stays bounded.
const METADATA_BYTES_CACHED_MAX: usize = 1024;

/// Names and the committed objects that they mean.
pub struct ObjectCache {
    hasher: RandomState,
    /// `None` where nobody else changes the database.
    age_max: Option<Duration>,
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    generation: u64,
    objects: LruCache<ObjectName, Entry>,
}

struct Entry {
    object: Arc<StoredObject>,
    /// `None` is never.
    expires: Option<Instant>,
}

/// The state of a shard before a query.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    generation: u64,
    /// When the answer will be too old.
    expires: Option<Instant>,
}

impl Default for ObjectCache {
    fn default() -> Self {
        Self::new(None)
    }
}

impl ObjectCache {
    /// A cache whose entries live so long at most.
    pub fn new(age_max: Option<Duration>) -> Self {
        let capacity = NonZeroUsize::MIN.saturating_add(NAMES_CACHED_MAX / SHARDS - 1);
        let shard = || Mutex::new(Shard { generation: 0, objects: LruCache::new(capacity) });
        let shards = std::iter::repeat_with(shard).take(SHARDS).collect();
        Self { hasher: RandomState::new(), age_max, shards }
    }

    /// What `name` means, if it is remembered.
    pub fn get(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
        let mut shard = self.shard(name);
        let entry = shard.objects.get(name)?;
        if entry.expires.is_some_and(|expires| expires <= Instant::now()) {
            shard.objects.pop(name);
            return None;
        }
        Some(entry.object.clone())
    }

    /// To be taken before the query whose answer will be filled in.
    pub fn ticket(&self, name: &ObjectName) -> Ticket {
        let expires = self.age_max.map(|age_max| Instant::now() + age_max);
        Ticket { generation: self.shard(name).generation, expires }
    }

    /// Remembers the answer of a query, unless the shard has changed since `ticket`.
    pub fn fill(&self, ticket: Ticket, name: &ObjectName, object: Arc<StoredObject>) {
        let metadata_bytes: usize =
            object.object.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut shard = self.shard(name);
        if shard.generation == ticket.generation && metadata_bytes <= METADATA_BYTES_CACHED_MAX {
            shard.objects.put(name.clone(), Entry { object, expires: ticket.expires });
        }
    }

    /// To be called after a change has committed, and before it is answered.
    pub fn forget(&self, name: &ObjectName) {
        let mut shard = self.shard(name);
        shard.generation += 1;
        shard.objects.pop(name);
    }

    /// How many names are remembered now.
    pub fn names_cached(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).objects.len()).sum()
    }

    /// Forgets everything, where it is not known what has changed.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.generation += 1;
            shard.objects.clear();
        }
    }

    fn shard(&self, name: &ObjectName) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(name);
        lock(&self.shards[hash as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A shard is whole after each of its operations, so a panic elsewhere cannot have left it half changed.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;

    #[test]
    fn an_answer_from_before_a_change_is_not_remembered() {
        let cache = ObjectCache::default();
        let stored = Arc::new(a_commit(Some("k"), 1, 1).stored);
        let name = ObjectName::Id(stored.object.id);
        let ticket = cache.ticket(&name);
        cache.forget(&name);
        cache.fill(ticket, &name, stored.clone());
        assert_eq!(cache.get(&name), None);
        cache.fill(cache.ticket(&name), &name, stored.clone());
        assert_eq!(cache.get(&name), Some(stored));
        cache.clear();
        assert_eq!(cache.get(&name), None);
    }

    #[test]
    fn an_answer_lives_no_longer_than_it_may() {
        let stored = Arc::new(a_commit(Some("k"), 1, 1).stored);
        let name = ObjectName::Id(stored.object.id);
        let hour = Duration::from_secs(3600);
        for (age_max, lives) in [(None, true), (Some(hour), true), (Some(Duration::ZERO), false)] {
            let cache = ObjectCache::new(age_max);
            cache.fill(cache.ticket(&name), &name, stored.clone());
            assert_eq!(cache.get(&name).is_some(), lives, "{age_max:?}");
        }
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let cache = ObjectCache::default();
        let stored = Arc::new(a_commit(None, 1, 1).stored);
        for _ in 0..2 * NAMES_CACHED_MAX {
            let name = ObjectName::Id(crate::domain::value_objects::ObjectId::generate());
            cache.fill(cache.ticket(&name), &name, stored.clone());
        }
        let cached = cache.names_cached();
        assert!(cached <= NAMES_CACHED_MAX && cached > NAMES_CACHED_MAX / 2, "{cached}");
    }

    #[test]
    fn much_metadata_is_not_remembered() {
        let cache = ObjectCache::default();
        let mut stored = a_commit(None, 1, 1).stored;
        stored.object.metadata.insert("note", &"x".repeat(METADATA_BYTES_CACHED_MAX)).unwrap();
        let name = ObjectName::Id(stored.object.id);
        cache.fill(cache.ticket(&name), &name, Arc::new(stored));
        assert_eq!(cache.get(&name), None);
    }
}
