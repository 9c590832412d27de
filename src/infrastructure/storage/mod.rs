//! The bytes: two roots of blob files, each file written once under a name that no other write ever gets.
//!
//! ```text
//! {root}/just_storage.root          whose root this is
//! {root}/blobs/ab/<hash>-<place>    the blobs, by the first two digits of their hash
//! {root}/tmp/<place>                uploads in progress, only where the file system has no unnamed files
//! ```

mod blob_file;
mod blob_upload;
mod file_store;
mod locks;
mod root;
mod sweep;

pub use blob_file::blob_length;
pub use file_store::{BlobReader, FileStore, FileStoreParts, PlaceSequence, RootHelpers};
pub use locks::{DataDirectoryLock, DatabaseLock, DatabaseUse, LockError};
pub use root::{RootError, RootIdentity, Roots, StorageRoot};
pub use sweep::{
    BlobFile, ShardListing, blob_files_of, list_shard, remove_blob_files, remove_temporary_files_of,
    temporary_files_of,
};
