//! The ports, implemented: files and rings on the data plane, SQL on the metadata plane, and the channel between.

pub mod audit_file;
pub mod backlog;
pub mod data_plane;
pub mod known_keys;
pub mod lifecycle_channel;
pub mod machine;
pub mod metrics;
pub mod persistence;
pub mod plane_channel;
pub mod quota_ledger;
pub mod record_index;
pub mod storage;
