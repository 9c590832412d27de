//! What a batch touches, and what the database holds of that.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::collector::Garbage;
use crate::domain::entities::{BlobLocation, KeyPath, Quota};
use crate::domain::value_objects::{
    ContentHash, CurrentVersion, ObjectId, ObjectStatus, Place, StorageClass, TenantId, Timestamp,
};
use crate::infrastructure::plane_channel::Write;

/// A blob's row is found by these.
pub(in super::super) type BlobKey = (ContentHash, StorageClass);

/// What of an object's row the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct HeldObject {
    pub(in super::super) sequence: u64,
    pub(in super::super) tenant_id: TenantId,
    pub(in super::super) key_path: Option<KeyPath>,
    pub(in super::super) status: ObjectStatus,
    pub(in super::super) storage_class: StorageClass,
    /// `None` while it is being written.
    pub(in super::super) content_hash: Option<ContentHash>,
    /// As [`content_hash`](Self::content_hash).
    pub(in super::super) size_bytes: Option<u64>,
    pub(in super::super) updated_at: Timestamp,
}

impl HeldObject {
    pub(super) fn current_version(&self) -> Option<CurrentVersion> {
        self.content_hash.map(|content_hash| CurrentVersion { content_hash, updated_at: self.updated_at })
    }
}

/// A blob's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct HeldBlob {
    pub(in super::super) size_bytes: u64,
    pub(in super::super) ref_count: u64,
    pub(in super::super) place: Place,
    /// The copy at `place` is known to be lost or altered.
    pub(in super::super) damaged: bool,
    /// The sequence of the object that came when no other referred to it; 0 where the index by content has them all.
    pub(in super::super) first_object: u64,
}

impl HeldBlob {
    /// Another copy serves the blob from now on; the one before is garbage.
    pub(super) fn replace_copy(&mut self, (content_hash, storage_class): BlobKey, place: Place) -> Garbage {
        let file = BlobLocation { storage_class, content_hash, place: self.place };
        (self.place, self.damaged) = (place, false);
        Garbage { file, size_bytes: self.size_bytes }
    }
}

/// How many versions of a key have to be loaded, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum VersionCount {
    AtMost(usize),
    All,
}

/// What a batch touches, in the two steps in which it becomes known.
#[derive(Debug, Default)]
pub(in super::super) struct Touched {
    /// Objects that are named by their id: to be loaded first, since their keys are touched too.
    pub(in super::super) ids: BTreeSet<ObjectId>,
    /// Keys and how many of their versions may matter.
    pub(in super::super) keys: BTreeMap<KeyPath, VersionCount>,
    /// Blobs that commits refer to.
    pub(in super::super) blobs: BTreeSet<BlobKey>,
}

impl Touched {
    /// What the writes name themselves.
    pub(in super::super) fn by(writes: &[Write]) -> Self {
        let mut touched = Self::default();
        for write in writes {
            match write {
                Write::Reserve(_) | Write::Check | Write::Void | Write::EndPack { .. } => {}
                Write::Abandon(id) | Write::Delete { id, .. } => drop(touched.ids.insert(*id)),
                Write::Commit(commit) => {
                    // What is small enough for a pack had no reservation, nor had what brings no bytes.
                    if commit.stored.place.pack().is_none() && !commit.is_reference {
                        touched.ids.insert(commit.stored.object.id);
                    }
                    touched.blobs.insert((commit.stored.content_hash, commit.stored.object.storage_class));
                    if let Some(key_path) =
                        commit.stored.object.key_path().filter(|_| !commit.is_first_version)
                    {
                        touched.need(key_path, VersionCount::AtMost(1));
                    }
                }
                Write::DeleteKey { key_path, .. } => touched.need(key_path.clone(), VersionCount::All),
                Write::Update(update) => {
                    // What is behind it in its key is looked for with all other ids. In a key that is new to it, whoever
                    // comes later in the batch needs what they say themselves.
                    touched.ids.insert(update.object.id);
                    let copy = update.copy_location();
                    touched.blobs.extend(copy.map(|copy| (copy.content_hash, copy.storage_class)));
                }
                Write::Mend { lost, .. } => {
                    touched.blobs.insert((lost.content_hash, lost.storage_class));
                }
            }
        }
        touched
    }

    /// What turns out to be touched once the objects of [`ids`](Self::ids) are known: each of them that goes may
    /// reveal the version behind it.
    pub(in super::super) fn add_objects(&mut self, objects: &HashMap<ObjectId, HeldObject>) {
        for object in objects.values() {
            if let Some(key_path) = &object.key_path {
                let count = match self.keys.get(key_path) {
                    Some(VersionCount::All) => continue,
                    Some(VersionCount::AtMost(count)) => count + 1,
                    None => 2,
                };
                self.keys.insert(key_path.clone(), VersionCount::AtMost(count));
            }
        }
    }

    /// The blobs of all objects that may go.
    pub(in super::super) fn add_blobs(&mut self, objects: &HashMap<ObjectId, HeldObject>) {
        let blob = |object: &HeldObject| object.content_hash.map(|hash| (hash, object.storage_class));
        self.blobs.extend(objects.values().filter_map(blob));
    }

    fn need(&mut self, key_path: KeyPath, count: VersionCount) {
        let needed = self.keys.entry(key_path).or_insert(count);
        *needed = count.max(*needed);
    }
}

/// Whose objects the commits among the writes add to.
pub(in super::super) fn growing_tenants(writes: &[Write]) -> BTreeSet<&TenantId> {
    let commits = writes.iter().filter_map(|write| match write {
        Write::Commit(commit) => Some(commit),
        _ => None,
    });
    commits.map(|commit| &commit.stored.object.scope.tenant_id).collect()
}

/// What the database holds of what a batch touches.
#[derive(Debug, Default)]
pub(in super::super) struct Held {
    /// The objects that were named by id, and the loaded versions of every touched key.
    pub(in super::super) objects: HashMap<ObjectId, HeldObject>,
    /// The touched blobs that have a row.
    pub(in super::super) blobs: HashMap<BlobKey, HeldBlob>,
    /// Of the tenants that commits add to, those that have limits. None where the log has decided already.
    pub(in super::super) quotas: HashMap<TenantId, Quota>,
}
