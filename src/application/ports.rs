//! What the use cases need from the world. Each port has two implementations at least: the real one and the
//! in-memory fake that the use cases are tested on.
//!
//! They are native `async fn` without `Send`: a data-plane core never moves a future to another thread, and
//! nothing on the way of a byte is boxed.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::{LocalBoxFuture, try_join_all};

use super::errors::{QuotaExceeded, ReceiveError, RepositoryError, SourceError, StoreError, UploadError};
use super::key_listing::{KeyPage, KeyQuery, VersionQuery};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, KeyPath, Object, Quota, QuotaLimits, Reach, Scope, StoredContent,
    StoredObject,
};
use crate::domain::value_objects::{
    ByteRange, ContentHash, ObjectId, ObjectStatus, Place, Precondition, StorageClass, TenantId, Timestamp,
};

/// The wall clock, for the dates that objects carry.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Where the bytes of an upload come from. `B` is the buffer of whoever stores them, so that bytes go from the
/// socket into the buffer that is written, without a copy between.
pub trait ByteSource<B> {
    /// Waits until the body is here as a whole, or enough of it for a buffer to be well used. Before that, whoever
    /// sends next to nothing should hold no buffer. What is in memory already has nothing to wait for. Says which of the
    /// two it is, as far as that is known.
    ///
    /// # Errors
    /// [`SourceError`], if the body stops before.
    async fn gather(&mut self) -> Result<BodyState, SourceError> {
        Ok(BodyState::Open)
    }

    /// Reads some bytes behind those that `buffer` holds already; 0 is the end of the body. The buffer has room.
    async fn read(&mut self, buffer: B, pace: ReadPace) -> (Result<ReadProgress, SourceError>, B);

    /// Lets everything else on the core have its turn, in the middle of work on what was read. That the sender has gone
    /// meanwhile, the next read tells.
    async fn take_turns(&mut self) {}

    /// The hash that the sender declared. In full known only once [`read`](Self::read) has returned the end:
    /// a trailer can carry it.
    ///
    /// # Errors
    /// [`SourceError::DigestInvalid`] if what was declared cannot be read.
    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError>;
}

/// How long a read may hold on to its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPace {
    /// Until bytes come: the buffer is small.
    Patient,
    /// Come back soon, with or without bytes: the buffer is a large one that others could use, or not the only one.
    Brisk,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadProgress {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing came for a while (only where the pace was [`ReadPace::Brisk`]).
    Stalled,
    /// The body has ended.
    End,
}

/// Memory that bytes are read into and written from.
pub trait ByteBuffer {
    /// The bytes that it holds.
    fn bytes(&self) -> &[u8];

    /// Copies as many bytes behind them as there is room for, and says how many those were.
    fn append(&mut self, bytes: &[u8]) -> usize;

    /// Forgets the bytes.
    fn clear(&mut self);
}

/// The blobs of both roots, as one core uses them.
pub trait BlobStore {
    /// What bytes are read into and written from.
    type Buffer: ByteBuffer;
    /// A blob that is being written.
    type Upload: BlobUpload<Buffer = Self::Buffer>;
    /// A blob that is being read.
    type Reader: BlobReader<Buffer = Self::Buffer>;

    /// Makes ready for a blob; `length_bytes` is a promise of the sender, if there was one.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] or [`StoreError::Overloaded`]; nothing was done then.
    fn begin(
        &self,
        storage_class: StorageClass,
        length_bytes: Option<u64>,
        tenant_id: &TenantId,
    ) -> Result<Self::Upload, StoreError>;

    /// Opens a blob that should have `size_bytes`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there, [`StoreError::Damaged`] if its size is another.
    async fn open(&self, location: &BlobLocation, size_bytes: u64) -> Result<Self::Reader, StoreError>;

    /// Hands the contents of the first of these small blobs to `take`, one after the other, as far as one look into memory
    /// finds them, and says how many those were. It waits for nothing; what it does not find is to be opened, which tells
    /// why. `scratch` is memory for many such looks.
    fn read_run(
        &self,
        blobs: impl Iterator<Item = (BlobLocation, u64)> + Clone,
        scratch: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> usize {
        let _ = (blobs, scratch, take);
        0
    }

    /// Whether the bytes of a blob of this size would be left [loose](Published::Loose), if they came in an upload: then they
    /// need none, where they are in memory already.
    fn leaves_loose(&self, bytes: u64) -> bool {
        let _ = bytes;
        false
    }

    /// Lends a buffer to send a blob from, or none where all are lent. A large one is lent only where there are
    /// many left.
    fn lend(&self, size: BufferSize, tenant_id: &TenantId) -> Option<Self::Buffer>;

    /// Whether a class takes writes now.
    ///
    /// # Errors
    /// What would keep a blob from being written.
    async fn check(&self, storage_class: StorageClass) -> Result<(), StoreError>;

    /// Removes a copy that no metadata names, or ever will. A failure is logged; the sweep finds it again.
    async fn discard(&self, location: &BlobLocation);
}

/// The two sizes of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferSize {
    /// What a transfer starts with.
    Small,
    /// What a fast transfer goes on with.
    Large,
}

/// Bytes that whoever sends them can take from where they are, without a buffer between.
#[derive(Debug)]
pub struct Section<'s, Source> {
    /// Where they are.
    pub source: &'s Source,
    /// Where in the source they begin.
    pub offset: u64,
    /// How many they are.
    pub length: u64,
}

/// One blob that is open for reading, by any number of downloads at once. A clone reads the same blob.
pub trait BlobReader: Clone + 'static {
    /// What large blobs are read into.
    type Buffer;
    /// What bytes can be sent from without a buffer: a file, as a rule.
    type Source;

    /// Where a part of the blob is to be had without a buffer, if all of it is in memory at this moment, so that
    /// sending it waits for no disk. `None` says nothing about the blob: its bytes are read as ever then.
    fn in_memory(&self, part: ByteRange) -> Option<Section<'_, Self::Source>>;

    /// Appends exactly `length` bytes from `offset` on to `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the blob has become shorter; `bytes` then holds less than was asked for.
    async fn read_exact(
        &self,
        bytes: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> (Result<(), StoreError>, Vec<u8>);

    /// Appends `bytes_max` bytes, or as many as there is room for, from `offset` on to a buffer. The blob has as many.
    ///
    /// # Errors
    /// As [`read_exact`](Self::read_exact).
    async fn read_buffer(
        &self,
        buffer: Self::Buffer,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Self::Buffer, StoreError>;
}

/// One blob on its way in.
pub trait BlobUpload {
    /// What bytes are read into and written from.
    type Buffer;

    /// Takes bytes until the body ends or no longer fits a small buffer.
    ///
    /// # Errors
    /// The sender's or the store's; the upload is then dropped, and nothing is left of it.
    async fn receive_first(
        &mut self,
        source: &mut impl ByteSource<Self::Buffer>,
    ) -> Result<BodyState, ReceiveError>;

    /// Takes the bytes that [`receive_first`](Self::receive_first) left, to the end of the body.
    ///
    /// # Errors
    /// As [`receive_first`](Self::receive_first).
    async fn receive_rest(&mut self, source: &mut impl ByteSource<Self::Buffer>) -> Result<(), ReceiveError>;

    /// The hash and the number of all bytes that were taken.
    fn content(&self) -> (ContentHash, u64);

    /// The bytes of a blob that [`publish`](Self::publish) would leave loose, at once. It is over then.
    fn take_loose(&mut self) -> Option<Self::Buffer> {
        None
    }

    /// Makes the blob durable in a place of its own, or readies it to become so together with its metadata.
    ///
    /// # Errors
    /// The blob is not durable, and nothing names it.
    async fn publish(self) -> Result<Published<Self::Buffer>, StoreError>;
}

/// A blob that is all here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published<B> {
    /// It is durable, and this is where.
    Stored(Place),
    /// It is small, and goes to the log with the change that names it: one write for both.
    Loose(B),
}

/// Whether a body has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyState {
    /// All of it is here.
    Ended,
    /// There may be more.
    Open,
}

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

/// What is known of a key before it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStanding {
    /// Nothing: it may be one of any number of guesses. Those wait for each other, and for nothing else to wait for them.
    Unproven,
    /// The very same key, with its secret, was good before. Nobody sends many of those who does not have them.
    Proven,
}

/// The API keys that have been given out.
pub trait ApiKeyRepository {
    /// What is kept of a key, whether or not it is still good.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn find_api_key(
        &self,
        id: ApiKeyId,
        standing: KeyStanding,
    ) -> Result<Option<ApiKey>, RepositoryError>;
}
