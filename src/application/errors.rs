//! What can go wrong below a use case, in the words of the store.

use std::io;

use thiserror::Error;

use crate::domain::value_objects::ContentHash;

/// A tenant has no room for what was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the tenant's quota has no room for this")]
pub struct QuotaExceeded;

/// Why the bytes of an upload stopped coming. The sender's doing in every case.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The connection ended before the body did.
    #[error("the connection ended before the body did")]
    Disconnected,
    /// The sender was slower than the minimum rate.
    #[error("the body came slower than the minimum rate")]
    TooSlow,
    /// The body is larger than this server takes.
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit that it passed.
        bytes_max: u64,
    },
    /// The framing of the body is broken.
    #[error("the body is malformed: {rule}")]
    Malformed {
        /// The rule that it broke.
        rule: &'static str,
    },
    /// The digest that was sent with the body cannot be read.
    #[error("the digest field cannot be read")]
    DigestInvalid,
    /// There are more of them than the sender's tenant may store.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
}

/// Why the blob store could not do as asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The root's file system is full.
    #[error("no space is left on the storage root")]
    NoSpace,
    /// Syncs on this root have failed, or its file system has been mounted read-only, by whomever; it takes no writes
    /// until a restart, or until it can be written again.
    #[error("the storage root is read-only")]
    ReadOnly,
    /// More work than its queue or buffers hold; nothing was done.
    #[error("the storage engine has too much to do")]
    Overloaded,
    /// The root has not answered within the time it has. Nothing that was asked of it will be seen to have happened.
    #[error("the storage root does not answer")]
    TimedOut,
    /// The blob is not where the metadata says.
    #[error("the blob is not at its place")]
    Missing,
    /// The blob is there, but not as it was written.
    #[error("the blob is not as it was written")]
    Damaged,
    /// The operating system refused.
    #[error("cannot {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Names the operation that failed, and tells a disk that is full, read-only or hanging from the rest.
    pub fn io(operation: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            // A file system that could not write its own journal turns itself read-only.
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io { operation, source },
        }
    }
}

/// Why the metadata plane gave no answer. Its own log has the cause: a whole batch shares one, so it is told
/// there once and not once for each caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RepositoryError {
    /// Its queue is full; nothing was done.
    #[error("the metadata queue is full")]
    Overloaded,
    /// The database has no space left; nothing was done.
    #[error("the database has no space left")]
    NoSpace,
    /// The database does not answer, or stopped while it worked. A write may or may not have happened: whoever
    /// wrote bytes for it must leave them where they are.
    #[error("the database does not answer")]
    Unavailable,
}

/// Why bytes were not taken: the sender, or the store.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The sender's doing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store's doing.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an upload made no object.
#[derive(Debug, Error)]
pub enum UploadError {
    /// The bytes stopped coming.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// They could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They could not be named.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// They are not what the sender said they were.
    #[error("the bytes have the hash {actual}, not {declared}")]
    DigestMismatch {
        /// What the sender declared.
        declared: ContentHash,
        /// What came in.
        actual: ContentHash,
    },
    /// What is there now is not what the sender asked for.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// The sender's tenant may not store as much.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// The sender's tenant does not have the content that is referred to.
    #[error("the tenant has no such content")]
    ContentMissing,
    /// The content that is referred to has another size than the sender may store.
    #[error("the content has {actual} bytes, and not {expected}")]
    SizeMismatch {
        /// How many it had to have.
        expected: u64,
        /// How many it has.
        actual: u64,
    },
}

impl From<ReceiveError> for UploadError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Source(error) => Self::Source(error),
            ReceiveError::Store(error) => Self::Store(error),
        }
    }
}

/// Why a download gave no bytes.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// They could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They could not be found.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}
