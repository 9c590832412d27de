//! What a tenant has by its content, in whatever database.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::application::ports::LEASE_SECONDS;
use crate::domain::entities::{BlobLocation, Object, Scope, StoredContent, StoredObject};
use crate::domain::value_objects::{
    ContentHash, ContentType, Metadata, ObjectId, ObjectStatus, StorageClass, Timestamp,
};

/// How many contents one transaction is about at most: it holds up no batch for long.
pub(super) const CONTENTS_AT_ONCE: usize = 1000;

/// For how long a lease is taken, and when that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseTerm {
    /// By the database's own clock.
    pub(super) tick: u64,
    /// In its ticks.
    pub(super) ticks: u64,
}

impl LeaseTerm {
    /// A lease as it is promised, from this tick on.
    pub(super) fn from(tick: u64) -> Self {
        Self { tick, ticks: Duration::from_secs(LEASE_SECONDS.into()).as_millis() as u64 }
    }

    pub(super) fn end(self) -> u64 {
        self.tick.saturating_add(self.ticks)
    }

    /// Whether a lease that ends then leaves more than half of what is promised: whoever asks which contents are there, and
    /// then refers to each of them, has them leased once.
    fn is_well_covered(self, expires_at: u64) -> bool {
        expires_at >= self.tick.saturating_add(self.ticks / 2)
    }
}

/// A content in a class, as a tenant has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldContent {
    pub(super) location: BlobLocation,
    pub(super) size_bytes: u64,
    pub(super) damaged: bool,
    /// Whether an object names it, and not only a lease.
    pub(super) is_named: bool,
    /// When the tenant's lease ends; 0 where there is none.
    pub(super) lease_end: u64,
    /// The object by which the tenant has it, or had it when the lease was taken.
    pub(super) object_id: ObjectId,
    pub(super) scope: Scope,
    pub(super) updated_at: Timestamp,
}

impl HeldContent {
    /// Whether it is there for the tenant now: the database's clock as it is stored is late.
    pub(super) fn is_held(&self, term: LeaseTerm) -> bool {
        self.is_named || self.lease_end > term.tick
    }

    /// Whether it takes a lease that it does not have.
    pub(super) fn wants_lease(&self, term: LeaseTerm) -> bool {
        self.is_named && !self.damaged && !term.is_well_covered(self.lease_end)
    }

    /// Which contents have to be leased anew: nobody else's are named in the transaction that does it.
    pub(super) fn wanting(held: &[Self], term: LeaseTerm) -> HashSet<ContentHash> {
        let wanting = held.iter().filter(|held| held.wants_lease(term));
        wanting.map(|held| held.location.content_hash).collect()
    }

    pub(super) fn stored(&self) -> StoredContent {
        StoredContent { location: self.location, size_bytes: self.size_bytes, damaged: self.damaged }
    }

    /// The object as far as its bytes go.
    fn into_plain_object(self) -> StoredObject {
        let BlobLocation { storage_class, content_hash, place } = self.location;
        let object = Object {
            id: self.object_id,
            scope: self.scope,
            key: None,
            status: ObjectStatus::Committed,
            storage_class,
            content_hash: Some(content_hash),
            size_bytes: Some(self.size_bytes),
            content_type: ContentType::octet_stream(),
            metadata: Metadata::default(),
            created_at: self.updated_at,
            updated_at: self.updated_at,
        };
        StoredObject { object, content_hash, size_bytes: self.size_bytes, place, damaged: self.damaged }
    }
}

/// Of the classes in which a content is had, the one to read it from: one in which it is whole, and `hot` rather than `cold`.
pub(super) fn to_be_read(held: Vec<HeldContent>) -> Option<StoredObject> {
    let rank = |held: &HeldContent| (held.damaged, held.location.storage_class == StorageClass::Cold);
    held.into_iter().min_by_key(rank).map(HeldContent::into_plain_object)
}

/// The same of each of many contents.
pub(super) fn each_to_be_read(held: Vec<HeldContent>) -> impl Iterator<Item = StoredObject> {
    let mut contents: HashMap<_, Vec<_>> = HashMap::new();
    for held in held {
        contents.entry(held.location.content_hash).or_default().push(held);
    }
    contents.into_values().filter_map(to_be_read)
}
