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

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::application::ports::ObjectName;
use crate::domain::entities::StoredObject;

const SHARDS: usize = 64;
/// How many names are remembered in all.
pub const NAMES_CACHED_MAX: usize = 64 * 512;
/// An object with more metadata than this is not remembered, so that the cache's size stays bounded.
const METADATA_BYTES_CACHED_MAX: usize = 1024;

/// Names and the committed objects that they mean.
pub struct ObjectCache {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    generation: u64,
    objects: LruCache<ObjectName, Arc<StoredObject>>,
}

/// The state of a shard before a query.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

impl Default for ObjectCache {
    fn default() -> Self {
        let capacity = NonZeroUsize::MIN.saturating_add(NAMES_CACHED_MAX / SHARDS - 1);
        let shard = || Mutex::new(Shard { generation: 0, objects: LruCache::new(capacity) });
        Self { hasher: RandomState::new(), shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }
}

impl ObjectCache {
    /// What `name` means, if it is remembered.
    pub fn get(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
        self.shard(name).objects.get(name).cloned()
    }

    /// To be taken before the query whose answer will be filled in.
    pub fn ticket(&self, name: &ObjectName) -> Ticket {
        Ticket(self.shard(name).generation)
    }

    /// Remembers the answer of a query, unless the shard has changed since `ticket`.
    pub fn fill(&self, ticket: Ticket, name: &ObjectName, object: Arc<StoredObject>) {
        let metadata_bytes: usize =
            object.object.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut shard = self.shard(name);
        if shard.generation == ticket.0 && metadata_bytes <= METADATA_BYTES_CACHED_MAX {
            shard.objects.put(name.clone(), object);
        }
    }

    /// To be called after a change has committed, and before it is answered.
    pub fn forget(&self, name: &ObjectName) {
        let mut shard = self.shard(name);
        shard.generation += 1;
        shard.objects.pop(name);
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
    fn the_number_of_names_is_bounded() {
        let cache = ObjectCache::default();
        let stored = Arc::new(a_commit(None, 1, 1).stored);
        for _ in 0..2 * NAMES_CACHED_MAX {
            let name = ObjectName::Id(crate::domain::value_objects::ObjectId::generate());
            cache.fill(cache.ticket(&name), &name, stored.clone());
        }
        let cached: usize = cache.shards.iter().map(|shard| lock(shard).objects.len()).sum();
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
