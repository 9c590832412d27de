//! The object: a caller's name, metadata and promise for one content.

use super::BlobLocation;
use crate::domain::value_objects::{
    ContentHash, ContentType, CurrentVersion, Key, Metadata, Namespace, ObjectId, ObjectStatus, Place,
    StorageClass, TenantId, Timestamp,
};

/// The two names that an object is filed under, and that every listing stays inside of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// The family of objects.
    pub namespace: Namespace,
    /// Whose they are.
    pub tenant_id: TenantId,
}

/// A key in its scope: what the newest committed version is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath {
    /// Where the key is a name.
    pub scope: Scope,
    /// The name.
    pub key: Key,
}

/// One version of something stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name in the store.
    pub id: ObjectId,
    /// Where it is filed.
    pub scope: Scope,
    /// The caller's name for it, if it has one.
    pub key: Option<Key>,
    /// Whether it can be served.
    pub status: ObjectStatus,
    /// Which root its bytes are in.
    pub storage_class: StorageClass,
    /// Its content; not known while it is being written.
    pub content_hash: Option<ContentHash>,
    /// Its size in bytes; not known while it is being written.
    pub size_bytes: Option<u64>,
    /// Its media type.
    pub content_type: ContentType,
    /// The caller's words about it.
    pub metadata: Metadata,
    /// When its upload began.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Object {
    /// The key in its scope, if the object has one.
    pub fn key_path(&self) -> Option<KeyPath> {
        self.key.clone().map(|key| KeyPath { scope: self.scope.clone(), key })
    }
}

/// A committed object together with where its bytes lie: what a download needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// The object, committed.
    pub object: Object,
    /// Its content.
    pub content_hash: ContentHash,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Which written copy serves it.
    pub place: Place,
    /// Whether that copy is known to be lost or altered, so that it must not be served.
    pub damaged: bool,
}

impl StoredObject {
    /// Where the bytes lie.
    pub fn location(&self) -> BlobLocation {
        BlobLocation {
            storage_class: self.object.storage_class,
            content_hash: self.content_hash,
            place: self.place,
        }
    }

    /// What conditions are held against.
    pub fn current_version(&self) -> CurrentVersion {
        CurrentVersion { content_hash: self.content_hash, updated_at: self.object.updated_at }
    }
}
