//! What the store keeps: objects, and the blobs that their bytes are; and who may ask for them.

mod api_key;
mod blob;
mod object;
mod principal;

pub use api_key::{ApiKey, ApiKeyId};
pub use blob::BlobLocation;
pub use object::{KeyPath, Object, Scope, StoredObject};
pub use principal::{CredentialId, Forbidden, Permission, Permissions, Principal, Reach};
