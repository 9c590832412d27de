//! What the store keeps: objects, the blobs that their bytes are, and how much of it each tenant has.

mod blob;
mod object;
mod quota;

pub use blob::BlobLocation;
pub use object::{KeyPath, Object, Scope, StoredObject};
pub use quota::{Quota, QuotaLimits, Usage, UsageChange};
