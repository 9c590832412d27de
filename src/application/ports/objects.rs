//! What is kept of objects beside their bytes.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::{LocalBoxFuture, try_join_all};

use super::super::errors::{QuotaExceeded, RepositoryError, UploadError};
use super::super::key_listing::{KeyPage, KeyQuery, VersionQuery};
use crate::domain::entities::{
    BlobLocation, KeyPath, Object, Quota, QuotaLimits, Reach, Scope, StoredContent, StoredObject,
};
use crate::domain::value_objects::{
    ContentHash, ObjectId, ObjectStatus, Place, Precondition, StorageClass, TenantId, Timestamp,
};

/// How an object is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// One version, by its id.
    Id(ObjectId),
    /// The same for somebody who does not reach everything. Out of reach, it is looked for as one that does not exist is:
    /// by one question to the database, which finds nothing.
    IdWithin(ObjectId, Reach),
    /// The newest committed version of a key.
    Key(KeyPath),
    /// A content, which one tenant has: an object within reach names it, or did when a lease was taken that is good still.
    /// What is found is that object as far as its bytes go, with nothing of what its owner says about them.
    Content(ContentHash, Reach),
}

/// How long a lease is good, in seconds of the time that the store runs: for a client that asks which of many contents it
/// would have to send, and then sends those one after the other. As long as the default of `GC_GRACE_SECS`, which begins
/// when it ends. What only a lease holds is not held longer by asking again, since it counts towards no quota.
pub const LEASE_SECONDS: u32 = 600;

impl ObjectName {
    /// One version, by its id, for whoever reaches so much.
    pub fn of_id(id: ObjectId, reach: &Reach) -> Self {
        match reach.is_everything() {
            true => Self::Id(id),
            false => Self::IdWithin(id, reach.clone()),
        }
    }

    /// The name that says nothing of who asks: what an object is remembered by.
    pub fn of_anybody(&self) -> Cow<'_, Self> {
        match self {
            Self::IdWithin(id, _) => Cow::Owned(Self::Id(*id)),
            Self::Id(_) | Self::Key(_) | Self::Content(..) => Cow::Borrowed(self),
        }
    }

    /// Whether it is an object's id.
    pub fn is_id(&self) -> bool {
        matches!(self, Self::Id(_) | Self::IdWithin(..))
    }

    /// Whether an object of this scope is there for whoever asks. Who may name a key is decided before.
    pub fn reaches(&self, scope: &Scope) -> bool {
        match self {
            Self::IdWithin(_, reach) | Self::Content(_, reach) => reach.includes(scope),
            Self::Id(_) | Self::Key(_) => true,
        }
    }
}

/// Whether a remembered answer will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The object cache may answer.
    Cached,
    /// The database must, because the cache has just been found wrong.
    Current,
}

/// One page's worth of a listing, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Whose objects.
    pub scope: Scope,
    /// In which state.
    pub status: ObjectStatus,
    /// In which class, or in both.
    pub storage_class: Option<StorageClass>,
    /// How many at most: 1 to 1000.
    pub limit: u32,
    /// Only those whose sequence is below this one: where the page before ended.
    pub before: Option<u64>,
}

/// What a [`ListQuery`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The objects, newest first.
    pub objects: Vec<Object>,
    /// The `before` of the next page, if there is one.
    pub next: Option<u64>,
}

/// An object whose bytes are durable, on its way to be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCommit {
    /// The object, with hash and size.
    pub stored: StoredObject,
    /// What must hold for the key, looked at in the transaction.
    pub precondition: Precondition,
    /// Whether it is known that no change before can have given the key a version: then none is looked for.
    pub is_first_version: bool,
    /// Whether it brings no bytes, but refers to a content that its tenant had a moment ago, or has a lease on. Whichever copy
    /// serves that then serves it too; without a lease there may be none any more.
    pub is_reference: bool,
}

/// An object whose bytes are not durable yet.
#[derive(Debug)]
pub struct LooseCommit<B> {
    /// The object, with hash and size.
    pub object: Object,
    /// What its bytes are.
    pub content_hash: ContentHash,
    /// They themselves.
    pub bytes: B,
    /// What must hold for the key.
    pub precondition: Precondition,
}

impl<B> LooseCommit<B> {
    /// The same with its bytes in something else.
    pub fn with_bytes<T>(self, make: impl FnOnce(B) -> T) -> LooseCommit<T> {
        let Self { object, content_hash, bytes, precondition } = self;
        LooseCommit { object, content_hash, bytes: make(bytes), precondition }
    }
}

/// What came of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The object is committed.
    Committed {
        /// Whether the key had a version before.
        replaced: bool,
        /// Which copy of the content serves it. Another than the one that was committed means that the content
        /// was there already, and the new copy can go.
        place: Place,
    },
    /// What is there now is not what was asked for; the object does not exist, and the bytes can go.
    PreconditionFailed,
    /// Its tenant may not have as much; the object does not exist, and the bytes can go.
    QuotaExceeded,
    /// It refers to a content that is not there; the object does not exist.
    ContentMissing,
}

/// A change that has its place in the order of all changes, and how it comes to its end.
pub enum Begun<'r, F: Future> {
    /// Whether anybody looks at it or not: where many wait for their ends in their order, it is enough to poll the first.
    ByItself(F),
    /// While it is polled.
    Tended(LocalBoxFuture<'r, F::Output>),
}

/// What came of a [`LooseCommit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LooseOutcome {
    /// The object is committed.
    Committed {
        /// Whether the key had a version before.
        replaced: bool,
    },
    /// As [`CommitOutcome::PreconditionFailed`].
    PreconditionFailed,
    /// As [`CommitOutcome::QuotaExceeded`].
    QuotaExceeded,
}

/// What came of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// These objects are forgotten.
    Deleted {
        /// Their ids.
        ids: Vec<ObjectId>,
        /// The key that may now mean another version, or none.
        key_path: Option<KeyPath>,
    },
    /// There is no such committed object.
    NotFound,
    /// It is not what was asked for; nothing has changed.
    PreconditionFailed,
}

/// A change of a committed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUpdate {
    /// What was read: the change is made only to that.
    pub seen: SeenObject,
    /// The object as it is to be, changed later than what was read. Its id, its scope and its content stay.
    pub object: Object,
    /// Where a durable copy of its content is in the class that it moves to; `None` where it stays in its class.
    pub copy: Option<Place>,
}

impl ObjectUpdate {
    /// The copy that it brings, if it brings one.
    pub fn copy_location(&self) -> Option<BlobLocation> {
        let (content_hash, place) = self.object.content_hash.zip(self.copy)?;
        Some(BlobLocation { storage_class: self.object.storage_class, content_hash, place })
    }
}

/// What tells whether an object is still as it was read. Its content never changes, and each change of it has a later date
/// than the one before, so that the date alone would do; the class decides which copies are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenObject {
    /// In which class it was.
    pub storage_class: StorageClass,
    /// When it had been changed last.
    pub updated_at: Timestamp,
}

impl SeenObject {
    /// What was seen of an object.
    pub fn of(object: &Object) -> Self {
        Self { storage_class: object.storage_class, updated_at: object.updated_at }
    }
}

/// What came of an [`ObjectUpdate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It is made.
    Updated {
        /// The key that the object had before, which may now mean another version, or none.
        key_before: Option<KeyPath>,
        /// Which copy serves it, where it brought one. Another than that means that the content was there already, and the
        /// new copy can go.
        place: Option<Place>,
    },
    /// There is no such committed object.
    NotFound,
    /// It is not as it was read any more; nothing has changed.
    Changed,
}

/// Room that is set aside in a tenant's quota for one object on its way, and free again when this is dropped. The default
/// holds nothing.
pub trait Room: Default {
    /// Makes it room for an object of `bytes`. Less is always to be had.
    ///
    /// # Errors
    /// [`QuotaExceeded`]; it is as large as before then.
    fn resize(&mut self, bytes: u64) -> Result<(), QuotaExceeded>;
}

/// The metadata of objects and the counts of their blobs.
pub trait ObjectRepository {
    /// What loose bytes are in.
    type Buffer;
    /// Room in a tenant's quota.
    type Room: Room;

    /// Sets room aside for one object of `bytes`, or nothing where its tenant has no limits.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: with what is there and what is on its way it would be too much.
    fn reserve_room(&self, tenant_id: &TenantId, bytes: u64) -> Result<Self::Room, QuotaExceeded>;

    /// Waits until an upload that began to be received now has lasted for so long that it is worth a note: most are over
    /// before anybody could have asked for it.
    async fn reservation_due(&self);

    /// Notes that an object is being written. Comes before its commit, if at all.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn reserve(&self, object: &Object) -> Result<(), RepositoryError>;

    /// Takes back a reservation.
    ///
    /// # Errors
    /// [`RepositoryError`]; the next start clears what is left.
    async fn abandon(&self, id: ObjectId) -> Result<(), RepositoryError>;

    /// In one transaction: finds or makes the blob row, raises its count, commits the object and its key, and counts it
    /// for its tenant. What is in `room` is counted twice at no time, and not at all at none.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` the object may or may not exist.
    async fn commit(&self, commit: ObjectCommit, room: Self::Room) -> Result<CommitOutcome, RepositoryError>;

    /// Makes bytes and object durable in one write. A copy of the content that was there before serves it only if it
    /// is still whole; one that turns out not to be needed goes by itself.
    ///
    /// # Errors
    /// The store's or the repository's, as those of [`commit`](Self::commit).
    async fn commit_loose(
        &self,
        commit: LooseCommit<Self::Buffer>,
        room: Self::Room,
    ) -> Result<LooseOutcome, UploadError>;

    /// As [`commit_loose`](Self::commit_loose), in two steps: returns when the change has its place in the order of all
    /// changes and the bytes have been copied, and leaves it to whoever waits for the future what else is done meanwhile.
    /// What has begun happens, also where that is dropped.
    ///
    /// # Errors
    /// As [`commit_loose`](Self::commit_loose); nothing has begun then.
    async fn begin_loose<'r>(
        &'r self,
        commit: LooseCommit<&[u8]>,
        room: Self::Room,
    ) -> Result<Begun<'r, impl Future<Output = Result<LooseOutcome, UploadError>> + use<'r, Self>>, UploadError>;

    /// Says that what was [begun](Self::begin_loose) is waited for now: until then it may wait for a moment, to be written with
    /// what is begun behind it.
    fn hasten(&self) {}

    /// Forgets one committed object and lowers its blob's count, in one transaction.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn delete(
        &self,
        id: ObjectId,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError>;

    /// Forgets every version of a key, in one transaction. The precondition is about the newest.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn delete_key(
        &self,
        key_path: &KeyPath,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError>;

    /// Changes a committed object if it is still as it was read, in one transaction. In another class its content is counted
    /// there and no longer where it was. With a key that it did not have it becomes the newest version of that key;
    /// otherwise it keeps its place in the order of commits.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` it may or may not have happened.
    async fn update(&self, update: ObjectUpdate) -> Result<UpdateOutcome, RepositoryError>;

    /// The same for one that moves to another class, whose bytes and the change become durable in one write. A copy that
    /// turns out not to be needed goes by itself.
    ///
    /// # Errors
    /// The store's or the repository's, as those of [`commit_loose`](Self::commit_loose).
    async fn update_loose(
        &self,
        update: ObjectUpdate,
        bytes: Self::Buffer,
    ) -> Result<UpdateOutcome, UploadError>;

    /// Lets a content be served from the durable copy at `place`, because the copy at `lost` is no good. `false` if
    /// another copy than that one serves it by now.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` it may or may not have happened.
    async fn mend(&self, lost: &BlobLocation, place: Place) -> Result<bool, RepositoryError>;

    /// A committed object and where its bytes are.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn find(
        &self,
        name: &ObjectName,
        freshness: Freshness,
    ) -> Result<Option<Arc<StoredObject>>, RepositoryError>;

    /// The same of many at once, in their order, where the object cache may answer.
    ///
    /// # Errors
    /// [`RepositoryError`], if any of them is not known.
    async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<Arc<StoredObject>>>, RepositoryError> {
        try_join_all(names.iter().map(|name| self.find(name, Freshness::Cached))).await
    }

    /// An object in any state but `DELETED`.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, RepositoryError>;

    /// Which of these contents the one tenant of `reach` has, and in which classes. What an object within reach names is
    /// leased for [`LEASE_SECONDS`]: until then, and for the grace after it, its bytes stay where they are or move as a whole.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn lease(
        &self,
        hashes: Vec<ContentHash>,
        reach: &Reach,
    ) -> Result<Vec<StoredContent>, RepositoryError>;

    /// What a tenant has and may have. One that nothing is known of has nothing and may have anything.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, RepositoryError>;

    /// Gives a tenant these limits instead of those that it had. They count here when this returns. What it has already
    /// stays, also where it is more.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` it may or may not have happened.
    async fn set_limits(&self, tenant_id: &TenantId, limits: QuotaLimits) -> Result<Quota, RepositoryError>;

    /// Notes that somebody has read an object, where a rule asks for that. Never waits.
    fn note_read(&self, _: &Object) {}

    /// Whether it answers and takes writes now, which it does by writing something of no meaning, durably.
    ///
    /// # Errors
    /// [`RepositoryError`] if it does not.
    async fn check(&self) -> Result<(), RepositoryError>;

    /// One page of a listing.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn list(&self, query: ListQuery) -> Result<ListPage, RepositoryError>;

    /// One page of a listing by key. It costs what it shows: what lies below a common prefix, and the older versions of a
    /// key, are passed over without being read.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn list_keys(&self, query: KeyQuery) -> Result<KeyPage, RepositoryError>;

    /// One page of the committed versions of a key.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn list_versions(&self, query: VersionQuery) -> Result<ListPage, RepositoryError>;
}
