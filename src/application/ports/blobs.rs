//! The bytes of objects: where they come from, where they are kept, and how they are read.

use super::super::errors::{ReceiveError, SourceError, StoreError};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ByteRange, ContentHash, Place, StorageClass, TenantId};

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
