//! What a data-plane core is made of. Nothing here runs SQL, and nothing here blocks a core.

pub mod buffers;
pub mod core_shares;
pub mod deadline_list;
pub mod descriptors;
pub mod helpers;
pub mod metadata_client;
pub mod object_cache;
pub mod read_notes;
pub mod recorded_objects;
pub mod runtime;
pub mod tls;
pub mod tls_configuration;
