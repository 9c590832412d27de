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
