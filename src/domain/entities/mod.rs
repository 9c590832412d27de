//! What the store keeps: objects, the blobs that their bytes are, how much of it each tenant has, and for how long; and who
//! may ask for them.

mod api_key;
mod blob;
mod lifecycle;
mod object;
mod principal;
mod quota;

pub use api_key::{ApiKey, ApiKeyId};
pub use blob::{BlobLocation, StoredContent};
pub use lifecycle::{ClockMark, ClockMarks, Day, DueAction, LifecycleRule, ObjectFacts, StandingRule};
pub use object::{KeyPath, Object, Scope, StoredObject};
pub use principal::{CredentialId, Forbidden, Permission, Permissions, Principal, Reach};
pub use quota::{Quota, QuotaLimits, Usage, UsageChange};
