//! The bytes behind objects, kept once per content and class.

use crate::domain::value_objects::{ContentHash, Place, StorageClass};

/// Everything that is needed to find one written copy of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobLocation {
    /// The root it lies in.
    pub storage_class: StorageClass,
    /// What it is.
    pub content_hash: ContentHash,
    /// Which write of it.
    pub place: Place,
}

/// A content in one of the classes: where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredContent {
    /// Which written copy serves it.
    pub location: BlobLocation,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether that copy is known to be lost or altered, so that it must not be served.
    pub damaged: bool,
}
