//! Values that are checked once, when they are made, and trusted from then on.

mod byte_range;
mod content_hash;
mod content_type;
mod key;
mod key_prefix;
mod metadata;
mod names;
mod object_id;
mod object_status;
mod place;
mod precondition;
mod storage_class;
mod timestamp;
mod upload_id;

pub use byte_range::{ByteRange, RangeRequest};
pub use content_hash::ContentHash;
pub use content_type::ContentType;
pub(crate) use content_type::is_token;
pub use key::Key;
pub use key_prefix::{Delimiter, KeyPrefix};
pub use metadata::Metadata;
pub use names::{Namespace, TenantId};
pub use object_id::ObjectId;
pub use object_status::ObjectStatus;
pub use place::{InstanceId, PackId, Place};
pub use precondition::{CurrentVersion, EntityTags, Precondition};
pub use storage_class::StorageClass;
pub use timestamp::Timestamp;
pub use upload_id::{TenantMark, UploadId};
