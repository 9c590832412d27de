//! Uploads that come in pieces, over any number of connections and restarts: what is kept of one, and who keeps it.
//!
//! ```text
//! create ─► open, receive, release ─► … ─► open, receive the last byte, publish, (the commit), finish
//! ```
//! What is told of an upload is durable: the bytes before its offset, and the state of their hash, so that nothing is
//! read twice. One session at a time has an upload open; whoever comes meanwhile is told so.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

use std::time::Duration;

use paired_sha256::Sha256;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use super::errors::{ReceiveError, SourceError, StoreError, UploadError};
use super::ports::ByteSource;
use crate::domain::entities::Object;
use crate::domain::value_objects::{
    ContentHash, Place, Precondition, TenantId, TenantMark, Timestamp, UploadId,
};

/// The most uploads that are joined to one. Each is open while its bytes are read.
pub const PARTS_MAX: usize = 100;

/// What stands for a tenant in the names of its uploads.
pub fn tenant_mark(tenant_id: &TenantId) -> TenantMark {
    let digest = Sha256::digest(tenant_id.as_str().as_bytes());
    let (first, _) = digest.split_at(8);
    TenantMark::from_u64(first.iter().fold(0, |mark, byte| mark << 8 | u64::from(*byte)))
}

/// What an upload is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StagedRole {
    /// It becomes an object.
    Whole,
    /// It waits to be joined with others.
    Part,
    /// It becomes an object, and its bytes are those of the parts that these words of the client name.
    Joined(Box<str>),
}

/// What is said of an upload when it is made. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedOrder {
    /// Its own name.
    pub id: UploadId,
    /// The object that it becomes, as far as that is known. It has its id from the beginning, so that no object is made
    /// twice.
    pub object: Object,
    /// What must hold for the key in the end.
    pub precondition: Precondition,
    /// What its content has to be.
    pub declared: Option<ContentHash>,
    /// The client's own words about it, given back as they came.
    pub words: Box<str>,
    /// What it is for.
    pub role: StagedRole,
}

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedProgress {
    /// Every byte before is durable.
    pub offset: u64,
    /// How long it will be, once that is known. It never changes then.
    pub length: Option<u64>,
    /// From when on it can be removed. By the wall clock: clients are told the date.
    pub expires_at: Timestamp,
    /// Whether its object is committed, and its bytes are no longer here.
    pub is_done: bool,
}

impl StagedProgress {
    /// Whether every byte is here.
    pub fn is_whole(&self) -> bool {
        self.length == Some(self.offset)
    }
}

/// An upload as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedUpload {
    /// What was said of it.
    pub order: StagedOrder,
    /// How far it has come.
    pub progress: StagedProgress,
}

/// What a tenant has waiting in one root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many uploads that are not done.
    pub uploads: usize,
    /// How many bytes of them.
    pub bytes: u64,
}

/// Why an upload does not go on.
#[derive(Debug, Error)]
pub enum StagingError {
    /// There is no such upload, or not for whoever asks.
    #[error("there is no such upload")]
    NotFound,
    /// Its time is over.
    #[error("the upload has expired")]
    Expired,
    /// Somebody else is at it.
    #[error("another request is at this upload")]
    Locked,
    /// The tenant has as many as it may have.
    #[error("the tenant has {uploads_max} unfinished uploads, which is the most")]
    TooMany {
        /// The limit.
        uploads_max: usize,
    },
    /// The sender is somewhere else.
    #[error("the upload goes on at {offset}")]
    OffsetMismatch {
        /// Where it goes on.
        offset: u64,
    },
    /// It was to have another length, or more has come already.
    #[error("the upload's length is {length}, or it has as many bytes already")]
    LengthChanged {
        /// What it is.
        length: u64,
    },
    /// The bytes that came are not what their sender says.
    #[error("the bytes of this request do not have the checksum that stands with them")]
    ChecksumMismatch,
    /// What is joined already takes no bytes.
    #[error("an upload that was joined from others takes no bytes")]
    TakesNoBytes,
    /// What was to be joined is not all there, or is no part.
    #[error("{part} cannot be joined: {reason}")]
    NotAPart {
        /// Which one.
        part: UploadId,
        /// Why.
        reason: &'static str,
    },
    /// As with any upload.
    #[error(transparent)]
    Upload(#[from] UploadError),
}

impl From<StoreError> for StagingError {
    fn from(error: StoreError) -> Self {
        Self::Upload(error.into())
    }
}

impl From<SourceError> for StagingError {
    fn from(error: SourceError) -> Self {
        Self::Upload(error.into())
    }
}

impl From<ReceiveError> for StagingError {
    fn from(error: ReceiveError) -> Self {
        Self::Upload(error.into())
    }
}

/// What the bytes of one request have to be.
#[derive(Debug, Clone)]
pub enum Checksum {
    /// SHA-1, which every server of the protocol has to know: it finds accidents, and nothing else is asked of it here.
    Sha1(Sha1, [u8; 20]),
    /// SHA-256
    Sha256(Sha256, [u8; 32]),
}

impl Checksum {
    /// The names of those that are known.
    pub const ALGORITHMS: &str = "sha256,sha1";

    /// By the algorithm's name; `None` where that or the length of the digest is not known.
    pub fn new(algorithm: &str, digest: &[u8]) -> Option<Self> {
        match algorithm {
            "sha1" => Some(Self::Sha1(Sha1::default(), digest.try_into().ok()?)),
            "sha256" => Some(Self::Sha256(Sha256::default(), digest.try_into().ok()?)),
            _ => None,
        }
    }

    /// Takes bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher, _) => hasher.update(bytes),
            Self::Sha256(hasher, _) => hasher.update(bytes),
        }
    }

    /// Whether it is that of all bytes that were taken.
    pub fn matches(&self) -> bool {
        match self {
            Self::Sha1(hasher, expected) => hasher.clone().finalize() == *expected,
            Self::Sha256(hasher, expected) => hasher.finish() == *expected,
        }
    }
}

/// Who keeps uploads, as one core uses them.
pub trait UploadStaging {
    /// What bytes are read into and written from.
    type Buffer;
    /// An upload that is open.
    type Session: StagingSession<Buffer = Self::Buffer>;
    /// The bytes of several uploads, one after the other.
    type Parts: ByteSource<Self::Buffer>;

    /// What a tenant has waiting in a root.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn waiting(&self, id: &UploadId) -> Result<Waiting, StoreError>;

    /// Makes an upload without bytes, durably, and opens it.
    ///
    /// # Errors
    /// [`StoreError`]; there is none then.
    async fn create(&self, upload: StagedUpload) -> Result<Self::Session, StoreError>;

    /// An upload as it stands, whoever has it open.
    ///
    /// # Errors
    /// [`StagingError::NotFound`] or the store's.
    async fn look(&self, id: &UploadId) -> Result<StagedUpload, StagingError>;

    /// Opens an upload, for nobody else to have it meanwhile.
    ///
    /// # Errors
    /// [`StagingError::NotFound`], [`StagingError::Locked`] or the store's.
    async fn resume(&self, id: &UploadId) -> Result<Opened<Self::Session>, StagingError>;

    /// Forgets an upload that is done, durably.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn forget_done(&self, id: &UploadId) -> Result<(), StoreError>;

    /// The bytes of whole uploads, which stay open as long as this lives. One can be there more than once.
    ///
    /// # Errors
    /// [`StagingError`] of the first that cannot be read.
    async fn parts(&self, ids: &[UploadId]) -> Result<(Self::Parts, Vec<StagedUpload>), StagingError>;

    /// Why the bytes of uploads came to an early end, where that is no fault of whoever asked for them.
    fn take_failure(parts: &mut Self::Parts) -> Option<StoreError>;

    /// Removes uploads, durably.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn remove_parts(&self, parts: Self::Parts) -> Result<(), StoreError>;
}

/// What is found where an upload is opened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is looked at where it is made, and a session is as large")]
pub enum Opened<Session> {
    /// It can go on.
    Session(Session),
    /// It is done.
    Done(StagedUpload),
}

/// One upload that is open. Dropped, it is somebody else's as soon as nothing of it is on its way any more.
pub trait StagingSession {
    /// What bytes are read into and written from.
    type Buffer;

    /// The upload as it stands. Its offset is durable.
    fn upload(&self) -> &StagedUpload;

    /// Says how long it will be. Durable with the next bytes.
    fn set_length(&mut self, length: u64);

    /// Takes bytes to the end of the body, or to where it breaks off; what came until then is durable when this returns,
    /// and the upload is kept for so long. With a checksum, all of the body counts or nothing.
    ///
    /// # Errors
    /// [`SourceError`] where the body broke off, [`SourceError::TooLarge`] where more came than the upload's length has
    /// room for, [`StagingError::ChecksumMismatch`], or the store's.
    async fn receive(
        &mut self,
        source: &mut impl ByteSource<Self::Buffer>,
        checksum: Option<Checksum>,
        kept_for: Duration,
    ) -> Result<(), StagingError>;

    /// The hash of all bytes before the offset.
    fn content_hash(&self) -> ContentHash;

    /// Gives the bytes, all of which are here, a place as a blob, durably. They stay here too.
    ///
    /// # Errors
    /// [`StoreError`]; there is no such blob then.
    async fn publish(&self) -> Result<Place, StoreError>;

    /// Notes that the object is committed, and gives up the bytes here.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn finish(&mut self) -> Result<(), StoreError>;

    /// Removes the upload and its bytes, durably.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn remove(&mut self) -> Result<(), StoreError>;

    /// Lets others have the upload, before whoever waits for this is told anything.
    async fn release(self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_their_algorithms() {
        let sha1 = [
            0xaa, 0xf4, 0xc6, 0x1d, 0xdc, 0xc5, 0xe8, 0xa2, 0xda, 0xbe, 0xde, 0x0f, 0x3b, 0x48, 0x2c, 0xd9,
            0xae, 0xa9, 0x43, 0x4d,
        ];
        let mut checksum = Checksum::new("sha1", &sha1).unwrap();
        assert!(!checksum.matches());
        checksum.update(b"hel");
        checksum.update(b"lo");
        assert!(checksum.matches());
        let sha256 = Sha256::digest(b"hello");
        let mut checksum = Checksum::new("sha256", &sha256).unwrap();
        checksum.update(b"hello");
        assert!(checksum.matches());
        checksum.update(b"!");
        assert!(!checksum.matches());
        for (algorithm, length) in [("sha1", 19), ("sha256", 33), ("SHA1", 20), ("md5", 16), ("", 0)] {
            assert!(Checksum::new(algorithm, &vec![0; length]).is_none(), "{algorithm}");
        }
    }

    #[test]
    fn tenants_have_marks_of_their_own() {
        let mark = |name| tenant_mark(&TenantId::parse(name).unwrap());
        assert_eq!(mark("acme"), mark("acme"));
        assert_ne!(mark("acme"), mark("acm"));
    }
}
