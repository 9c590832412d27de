//! The bytes: two roots of blob files, each file written once under a name that no other write ever gets.
//!
//! ```text
//! {root}/just_storage.root          whose root this is
//! {root}/blobs/ab/<hash>-<place>    the blobs, by the first two digits of their hash
//! {root}/packs/<id>.pack            small blobs, many in a file, and the log of changes (docs/STORAGE_FORMAT.md)
//! {root}/tmp/<place>                uploads in progress, only where the file system has no unnamed files
//! {root}/uploads/                   uploads that come in pieces, until they are objects
//! ```

mod blob_file;
mod blob_reading;
mod blob_upload;
mod checksums;
mod file_store;
mod filling;
mod hashing;
mod locks;
mod log_entry;
pub mod log_record;
mod log_replay;
mod mount;
mod pack_copy;
mod pack_file;
mod pack_files;
pub mod pack_format;
mod pack_log;
mod pack_reader;
mod pack_run;
mod room;
mod root;
mod staging;
mod stored_blob;
mod sweep;

pub use blob_reading::{BlobReading, READ_BYTES, ReadBuffer};
pub use file_store::{BlobReader, FileStore, FileStoreParts, Packs, PlaceSequence, RootHelpers};
pub use hashing::Hashing;
pub use locks::{DataDirectoryLock, DatabaseLock, DatabaseUse, LockError};
pub use log_entry::{Change, Content, ContentBytes, Pace};
pub use log_replay::{
    KnownEnds, KnownLog, LeftoverPacks, LogReplay, LoggedChange, ReplayError, ReplayedPack, remove_packs,
};
pub use mount::{Mount, mount_of};
pub use pack_copy::{OpenPacks, PackCopy};
pub use pack_file::{PackScan, ScanError, ScannedBatch, list_packs};
pub use pack_files::{CommitLook, PackFiles};
pub use pack_format::RECORD_HEADER_BYTES;
pub use pack_format::records;
pub use pack_log::{Appending, PackLog, PackLogParts};
pub use room::DatabaseRoom;
pub use root::{RootError, RootIdentity, Roots, StorageRoot};
pub(crate) use root::{make_durable_directory, sync_directory};
pub use stored_blob::{Extent, blob_length, file_path, open_stored};
pub use sweep::{
    BlobFile, ShardListing, blob_files_of, list_shard, remove_blob_files, remove_temporary_files_of,
    temporary_files_of,
};

use sha2::Digest as _;

use crate::domain::value_objects::ContentHash;

/// What some bytes are.
fn sha256(bytes: &[u8]) -> ContentHash {
    ContentHash::from_bytes(sha2::Sha256::digest(bytes).into())
}
