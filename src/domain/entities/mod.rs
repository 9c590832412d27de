//! What the store keeps: objects, and the blobs that their bytes are.

mod blob;
mod object;

pub use blob::BlobLocation;
pub use object::{KeyPath, Object, Scope, StoredObject};
