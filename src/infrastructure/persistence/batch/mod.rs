//! What a batch of writes means: the same as its writes one after the other.
//!
//! The database loads what the batch touches ([`Touched`] says what that is, [`Held`] is what was there), the batch
//! is applied to that in memory, in order, and the database stores the [`Changes`], all in one transaction. So the
//! rules stand once, in plain code without SQL, and every batch is few statements whatever its size.

mod held;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::collector::Garbage;
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, ObjectCommit, ObjectUpdate, SeenObject, UpdateOutcome,
};
use crate::domain::entities::{BlobLocation, KeyPath, Object, Usage, UsageChange};
use crate::domain::value_objects::{
    InstanceId, ObjectId, ObjectStatus, PackId, Place, Precondition, StorageClass, TenantId, Timestamp,
};
use crate::infrastructure::plane_channel::{PackMark, Write, WriteOutcome};
use crate::infrastructure::storage::RECORD_HEADER_BYTES;

pub(super) use self::held::{BlobKey, Held, HeldBlob, HeldObject, Touched, VersionCount, growing_tenants};

/// What has to be stored, each kind in one statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Rows to insert, or to replace by id.
    pub(super) put: Vec<(u64, Object)>,
    /// Committed rows that become `DELETED`.
    pub(super) delete: Vec<ObjectId>,
    /// Rows in `WRITING` that go.
    pub(super) abandon: Vec<ObjectId>,
    /// Blob rows as they are now.
    pub(super) blobs: Vec<(BlobKey, HeldBlob)>,
    /// The sequences of the objects that a blob row names as its first, changed here or not. All others have to stand in the
    /// index by content, which is never wrong; and no object may be in neither.
    pub(super) first_objects: HashSet<u64>,
    /// Places that blob rows named before, and no row names any more.
    pub(super) garbage: Vec<Garbage>,
    /// What tenants have more than before, or less.
    pub(super) usage: Vec<(TenantId, UsageChange)>,
    /// Whether something has to be written, whatever it is.
    pub(super) check: bool,
    /// What has changed about packs.
    pub(super) packs: Vec<PackChange>,
    /// The last change of the log that is in the database with this batch.
    pub(super) applied_sequence: Option<u64>,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Of each write, in their order.
    pub(super) outcomes: Vec<WriteOutcome>,
    /// What tenants have more than before, or less.
    pub(super) usage: Vec<(TenantId, UsageChange)>,
}

/// What a batch changes about a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackChange {
    pub(super) pack: PackId,
    pub(super) storage_class: StorageClass,
    /// How many bytes more of it blob rows or garbage name.
    pub(super) live_bytes: i64,
    /// How far its log is in the database; 0 where nothing is known of that.
    pub(super) applied_end: u64,
    /// The last change that is in it, as far as has been applied; 0 where nothing is known of that.
    pub(super) last_sequence: u64,
    /// Where its log ends, if it had to be given up.
    pub(super) ended_at: Option<u64>,
}

/// What a blob in a pack counts for.
pub(super) fn packed_bytes(size_bytes: u64) -> i64 {
    // A blob is far smaller than half of all numbers.
    (size_bytes + RECORD_HEADER_BYTES as u64).cast_signed()
}

/// Whether a transaction is durable when it has committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Synced {
    /// It is, and so is every one before it.
    Now,
    /// The log is; the database comes to be so in its own time.
    #[default]
    Later,
}

/// What the log knows of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogContext {
    /// The place of each write in the order of all changes.
    pub(super) sequences: Vec<u64>,
    /// How far the packs are applied then that the changes are in, and the last change of each.
    pub(super) marks: Vec<(PackMark, u64)>,
    /// Whether the batch has to be in the database durably too, before anything that comes later.
    pub(super) synced: Synced,
}

/// Who writes a batch, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchContext {
    pub(super) writer: InstanceId,
    /// By the wall clock, for people.
    pub(super) now: Timestamp,
    /// By the database's own clock, for the collector.
    pub(super) tick: u64,
}

impl BatchContext {
    /// For rows that come from a backup: no run of this store has written them.
    pub(super) fn of_import(tick: u64) -> Self {
        Self { writer: InstanceId::from_i64(0), now: Timestamp::from_millis(0), tick }
    }
}

/// Applies `writes` in order to what is held. `next_sequence` moves on by one for each row that is put.
pub(super) fn apply(
    writes: &[Write],
    held: Held,
    next_sequence: &mut u64,
    now: Timestamp,
) -> (Vec<WriteOutcome>, Changes) {
    let mut batch = Batch::new(held, next_sequence, now, Unreferenced::Serves);
    let outcomes = writes.iter().map(|write| batch.apply(write)).collect();
    (outcomes, batch.changes())
}

/// Applies `writes` of the log in order to what is held. What comes out depends on what is held and on the writes
/// alone, so that it is the same whenever they are applied again.
pub(super) fn apply_logged(
    writes: &[Write],
    log: &LogContext,
    held: Held,
    now: Timestamp,
) -> (Vec<WriteOutcome>, Changes) {
    if writes.len() != log.sequences.len() {
        crate::invariant::broken("each write of the log has its place in the order");
    }
    let mut sequence = 0;
    let mut batch = Batch::new(held, &mut sequence, now, Unreferenced::IsReplaced);
    let mut outcomes = Vec::with_capacity(writes.len());
    for (write, sequence) in writes.iter().zip(&log.sequences) {
        *batch.next_sequence = *sequence;
        outcomes.push(batch.apply(write));
    }
    log.marks.iter().for_each(|(mark, sequence)| batch.note_mark(mark, *sequence));
    let mut changes = batch.changes();
    changes.applied_sequence = log.sequences.last().copied();
    (outcomes, changes)
}

/// What becomes of a copy that nothing refers to when its content comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreferenced {
    /// It serves again.
    Serves,
    /// The new copy takes its place. When the log is applied again, the old one may be gone by then.
    IsReplaced,
}

/// The copy of a content that comes with an object.
struct Offered {
    size_bytes: u64,
    place: Place,
    /// Whole bytes have just come there. Otherwise it is where the content was a moment ago.
    brings_bytes: bool,
}

struct Batch<'a> {
    held: Held,
    /// The committed versions of each touched key, by sequence.
    versions: HashMap<KeyPath, BTreeMap<u64, ObjectId>>,
    /// Rows made or replaced by this batch.
    put: BTreeMap<ObjectId, (u64, Object)>,
    delete: BTreeSet<ObjectId>,
    abandon: BTreeSet<ObjectId>,
    changed_blobs: BTreeSet<BlobKey>,
    usage: BTreeMap<TenantId, UsageChange>,
    garbage: Vec<Garbage>,
    check: bool,
    packs: BTreeMap<PackId, PackChange>,
    next_sequence: &'a mut u64,
    now: Timestamp,
    unreferenced: Unreferenced,
}

impl<'a> Batch<'a> {
    fn new(held: Held, next_sequence: &'a mut u64, now: Timestamp, unreferenced: Unreferenced) -> Self {
        let mut versions: HashMap<KeyPath, BTreeMap<u64, ObjectId>> = HashMap::new();
        for (id, object) in &held.objects {
            if let (ObjectStatus::Committed, Some(key_path)) = (object.status, &object.key_path) {
                versions.entry(key_path.clone()).or_default().insert(object.sequence, *id);
            }
        }
        let (put, delete, abandon, changed_blobs, usage, garbage, check, packs) = Default::default();
        Self {
            held,
            versions,
            put,
            delete,
            abandon,
            changed_blobs,
            usage,
            garbage,
            check,
            packs,
            next_sequence,
            now,
            unreferenced,
        }
    }

    fn apply(&mut self, write: &Write) -> WriteOutcome {
        match write {
            Write::Reserve(object) => {
                self.put(object.clone());
                WriteOutcome::Done
            }
            Write::Abandon(id) => {
                self.abandon(*id);
                WriteOutcome::Done
            }
            Write::Check => {
                self.check = true;
                WriteOutcome::Done
            }
            Write::Void => WriteOutcome::Done,
            Write::EndPack { pack, storage_class, end } => {
                self.pack(*pack, *storage_class).ended_at = Some(*end);
                WriteOutcome::Done
            }
            Write::Commit(commit) => WriteOutcome::Committed(self.commit(commit)),
            Write::Delete { id, precondition } => WriteOutcome::Deleted(self.delete(*id, precondition)),
            Write::DeleteKey { key_path, precondition } => {
                WriteOutcome::Deleted(self.delete_key(key_path, precondition))
            }
            Write::Update(update) => WriteOutcome::Updated(self.update(update)),
            Write::Mend { lost, place } => WriteOutcome::Mended(self.mend(lost, *place)),
        }
    }

    fn commit(&mut self, commit: &ObjectCommit) -> CommitOutcome {
        let object = &commit.stored.object;
        if let Some(place) = self.place_of_committed(commit) {
            return CommitOutcome::Committed { replaced: false, place };
        }
        let newest = object.key_path().and_then(|key_path| self.newest(&key_path));
        let current = newest.and_then(|id| self.held.objects.get(&id)).and_then(HeldObject::current_version);
        if !commit.precondition.holds(current.as_ref()) {
            return CommitOutcome::PreconditionFailed;
        }
        let blob_key = (commit.stored.content_hash, object.storage_class);
        if commit.is_reference && !self.held.blobs.contains_key(&blob_key) {
            // It has gone while this waited: there was no lease on it, or that has ended.
            return CommitOutcome::ContentMissing;
        }
        let size_bytes = object.size_bytes.unwrap_or(0);
        if !self.has_room(&object.scope.tenant_id, size_bytes) {
            return CommitOutcome::QuotaExceeded;
        }
        self.change_usage(&object.scope.tenant_id, |usage| usage.add_object(size_bytes));
        let brings_bytes = !commit.is_reference;
        let sequence = *self.next_sequence;
        let place = self.count_up(
            blob_key,
            Offered { size_bytes: commit.stored.size_bytes, place: commit.stored.place, brings_bytes },
            sequence,
        );
        self.put(object.clone());
        CommitOutcome::Committed { replaced: newest.is_some(), place }
    }

    /// One more object refers to a blob, and has or will have this sequence. Which copy serves it.
    fn count_up(&mut self, blob_key: BlobKey, offered: Offered, sequence: u64) -> Place {
        let Offered { size_bytes, place, brings_bytes } = offered;
        let fresh = HeldBlob { size_bytes, ref_count: 0, place, damaged: false, first_object: 0 };
        let is_new = !self.held.blobs.contains_key(&blob_key);
        let blob = self.held.blobs.entry(blob_key).or_insert(fresh);
        let is_replaced = blob.ref_count == 0 && self.unreferenced == Unreferenced::IsReplaced;
        // A reference names the place where its content was a moment ago, and takes it as it is now.
        if brings_bytes && !is_new && (blob.damaged || is_replaced && blob.place != fresh.place) {
            self.garbage.push(blob.replace_copy(blob_key, fresh.place));
        }
        if blob.ref_count == 0 {
            blob.first_object = sequence;
        }
        blob.ref_count += 1;
        let place = blob.place;
        if brings_bytes && place == fresh.place {
            self.note_live(place, blob_key.1, fresh.size_bytes);
        }
        self.changed_blobs.insert(blob_key);
        place
    }

    /// One object fewer refers to a blob.
    fn count_down(&mut self, blob_key: Option<BlobKey>, id: ObjectId) {
        match blob_key.and_then(|key| self.held.blobs.get_mut(&key).map(|blob| (key, blob))) {
            Some((key, blob)) if blob.ref_count > 0 => {
                blob.ref_count -= 1;
                self.changed_blobs.insert(key);
            }
            // The validator finds and mends such rows; refusing the change would help nobody.
            _ => tracing::error!(%id, "the blob of a deleted or moved object has no count left"),
        }
    }

    /// The object of this sequence refers to this blob no longer. It is not to be taken for one that the blob's row names,
    /// and left out of the index by content.
    fn forget_first(&mut self, blob_key: Option<BlobKey>, sequence: u64) {
        if let Some(blob) = blob_key.and_then(|key| self.held.blobs.get_mut(&key))
            && blob.first_object == sequence
        {
            blob.first_object = 0;
        }
    }

    /// Of an object that is there already, or was, which copy serves its content: an upload in pieces whose commit was
    /// not answered is committed again, and must be no second object, nor come back.
    fn place_of_committed(&self, commit: &ObjectCommit) -> Option<Place> {
        let object = self.held.objects.get(&commit.stored.object.id)?;
        let blob = self.held.blobs.get(&(object.content_hash?, object.storage_class));
        (object.status != ObjectStatus::Writing).then(|| blob.map_or(commit.stored.place, |blob| blob.place))
    }

    /// Whether one more object is within what its tenant may have. Those without limits may have anything.
    fn has_room(&self, tenant_id: &TenantId, size_bytes: u64) -> bool {
        let Some(quota) = self.held.quotas.get(tenant_id) else { return true };
        let change = self.usage.get(tenant_id).copied().unwrap_or_default();
        quota.limits.admit(quota.usage.changed_by(change).plus(Usage::of_object(size_bytes)))
    }

    fn change_usage(&mut self, tenant_id: &TenantId, change: impl FnOnce(&mut UsageChange)) {
        match self.usage.get_mut(tenant_id) {
            Some(usage) => change(usage),
            None => change(self.usage.entry(tenant_id.clone()).or_default()),
        }
    }

    fn put(&mut self, object: Object) {
        let sequence = *self.next_sequence;
        *self.next_sequence += 1;
        self.put_at(sequence, object);
    }

    fn put_at(&mut self, sequence: u64, object: Object) {
        let key_path = object.key_path();
        if let (ObjectStatus::Committed, Some(key_path)) = (object.status, &key_path) {
            self.versions.entry(key_path.clone()).or_default().insert(sequence, object.id);
        }
        let held = HeldObject {
            sequence,
            tenant_id: object.scope.tenant_id.clone(),
            key_path,
            status: object.status,
            storage_class: object.storage_class,
            content_hash: object.content_hash,
            size_bytes: object.size_bytes,
            updated_at: object.updated_at,
        };
        self.held.objects.insert(object.id, held);
        self.abandon.remove(&object.id);
        self.put.insert(object.id, (sequence, object));
    }

    fn abandon(&mut self, id: ObjectId) {
        let writing = self.held.objects.get(&id).is_some_and(|object| object.status == ObjectStatus::Writing);
        if writing {
            self.held.objects.remove(&id);
            self.put.remove(&id);
            self.abandon.insert(id);
        }
    }

    fn delete(&mut self, id: ObjectId, precondition: &Precondition) -> DeleteOutcome {
        let committed = |object: &&HeldObject| object.status == ObjectStatus::Committed;
        let Some(object) = self.held.objects.get(&id).filter(committed) else {
            return DeleteOutcome::NotFound;
        };
        if !precondition.holds(object.current_version().as_ref()) {
            return DeleteOutcome::PreconditionFailed;
        }
        let key_path = object.key_path.clone();
        self.forget(id);
        DeleteOutcome::Deleted { ids: vec![id], key_path }
    }

    fn delete_key(&mut self, key_path: &KeyPath, precondition: &Precondition) -> DeleteOutcome {
        let versions = self.versions.get(key_path);
        let ids: Vec<_> = versions.into_iter().flat_map(BTreeMap::values).copied().collect();
        if ids.is_empty() {
            return DeleteOutcome::NotFound;
        }
        let newest = self.newest(key_path).and_then(|id| self.held.objects.get(&id));
        if !precondition.holds(newest.and_then(HeldObject::current_version).as_ref()) {
            return DeleteOutcome::PreconditionFailed;
        }
        ids.iter().for_each(|id| self.forget(*id));
        DeleteOutcome::Deleted { ids, key_path: Some(key_path.clone()) }
    }

    fn update(&mut self, update: &ObjectUpdate) -> UpdateOutcome {
        let ObjectUpdate { seen, object, copy } = update;
        let committed = |held: &&HeldObject| held.status == ObjectStatus::Committed;
        let Some(held) = self.held.objects.get(&object.id).filter(committed) else {
            return UpdateOutcome::NotFound;
        };
        let now = SeenObject { storage_class: held.storage_class, updated_at: held.updated_at };
        let moves = object.storage_class != held.storage_class;
        // Who moves it has brought a copy; nobody asks for anything else.
        if now != *seen || held.content_hash != object.content_hash || copy.is_some() != moves {
            return UpdateOutcome::Changed;
        }
        let (sequence, key_before) = (held.sequence, held.key_path.clone());
        let blob_before = held.content_hash.map(|hash| (hash, held.storage_class));
        // Who gives a key to an object, commits a version of the key. Nothing else is new about it.
        let key_path = object.key_path();
        let is_new_version = key_path.is_some() && key_path != key_before;
        let sequence_after = if is_new_version { *self.next_sequence } else { sequence };
        let place = update.copy_location().zip(*copy).map(|(location, place)| {
            self.count_down(blob_before, object.id);
            self.forget_first(blob_before, sequence);
            let offered = Offered { size_bytes: object.size_bytes.unwrap_or(0), place, brings_bytes: true };
            self.count_up((location.content_hash, location.storage_class), offered, sequence_after)
        });
        if let Some(versions) = key_before.as_ref().and_then(|key_path| self.versions.get_mut(key_path)) {
            versions.remove(&sequence);
        }
        match is_new_version {
            true => self.put(object.clone()),
            false => self.put_at(sequence, object.clone()),
        }
        UpdateOutcome::Updated { key_before, place }
    }

    fn mend(&mut self, lost: &BlobLocation, place: Place) -> bool {
        let key = (lost.content_hash, lost.storage_class);
        match self.held.blobs.get_mut(&key) {
            Some(blob) if blob.place == lost.place => {
                let size_bytes = blob.size_bytes;
                self.garbage.push(blob.replace_copy(key, place));
                self.changed_blobs.insert(key);
                self.note_live(place, lost.storage_class, size_bytes);
                true
            }
            _ => false,
        }
    }

    fn pack(&mut self, pack: PackId, storage_class: StorageClass) -> &mut PackChange {
        let fresh = PackChange {
            pack,
            storage_class,
            live_bytes: 0,
            applied_end: 0,
            last_sequence: 0,
            ended_at: None,
        };
        self.packs.entry(pack).or_insert(fresh)
    }

    /// A blob row names a place that none named before.
    fn note_live(&mut self, place: Place, storage_class: StorageClass, size_bytes: u64) {
        if let Some(pack) = place.pack() {
            self.pack(pack, storage_class).live_bytes += packed_bytes(size_bytes);
        }
    }

    fn note_mark(&mut self, mark: &PackMark, sequence: u64) {
        let change = self.pack(mark.pack, mark.storage_class);
        change.applied_end = change.applied_end.max(mark.applied_end);
        change.last_sequence = change.last_sequence.max(sequence);
    }

    /// A committed object becomes a deleted one; its blob is counted down.
    fn forget(&mut self, id: ObjectId) {
        let Some(object) = self.held.objects.get_mut(&id) else { return };
        object.status = ObjectStatus::Deleted;
        let blob_key = object.content_hash.map(|hash| (hash, object.storage_class));
        let (tenant_id, size_bytes) = (object.tenant_id.clone(), object.size_bytes.unwrap_or(0));
        if let Some(versions) = object.key_path.as_ref().and_then(|key_path| self.versions.get_mut(key_path))
        {
            versions.remove(&object.sequence);
        }
        match self.put.get_mut(&id) {
            Some((_, object)) => {
                object.status = ObjectStatus::Deleted;
                object.updated_at = self.now;
            }
            None => drop(self.delete.insert(id)),
        }
        self.change_usage(&tenant_id, |usage| usage.take_object(size_bytes));
        self.count_down(blob_key, id);
    }

    fn newest(&self, key_path: &KeyPath) -> Option<ObjectId> {
        self.versions.get(key_path)?.last_key_value().map(|(_, id)| *id)
    }

    fn changes(self) -> Changes {
        let blobs =
            self.changed_blobs.iter().filter_map(|key| self.held.blobs.get(key).map(|blob| (*key, *blob)));
        let mut put: Vec<_> = self.put.into_values().collect();
        put.sort_by_key(|(sequence, _)| *sequence);
        Changes {
            put,
            delete: self.delete.into_iter().collect(),
            abandon: self.abandon.into_iter().collect(),
            blobs: blobs.collect(),
            first_objects: self.held.blobs.values().map(|blob| blob.first_object).collect(),
            usage: self.usage.into_iter().filter(|(_, change)| !change.is_none()).collect(),
            garbage: self.garbage,
            check: self.check,
            packs: self.packs.into_values().collect(),
            applied_sequence: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;

    #[test]
    fn versions_are_looked_for_unless_there_are_none_for_certain() {
        let commit = a_commit(Some("k"), 1, 1);
        let first = ObjectCommit { is_first_version: true, ..commit.clone() };
        let keys = |commit: ObjectCommit| Touched::by(&[Write::Commit(commit)]).keys.len();
        assert_eq!((keys(commit), keys(first)), (1, 0));
    }
}
