//! One file for each thing that a caller can have done.

mod apply_lifecycle;
mod delete_object;
mod download_object;
mod list_keys;
mod list_objects;
mod metered_source;
mod refer_to_content;
mod resume_upload;
mod stored_source;
mod update_object;
mod upload_object;

pub use apply_lifecycle::{DueOutcome, PassKeeper, PassReport, PassStep, apply_lifecycle};
pub use delete_object::delete_object;
pub use download_object::{Download, download_object};
pub use list_keys::{KeyCursor, VersionCursor};
pub use list_objects::{Cursor, InvalidCursor};
pub use refer_to_content::{refer_to_content, refer_to_found};
pub use resume_upload::{
    Piece, ResumeLimits, Resumed, can_join, create_upload, join_uploads, look_at_upload, resume_upload,
    terminate_upload,
};
pub use stored_source::StoredSource;
pub use update_object::{MetadataPatch, ObjectPatch, UpdateError, Updated, update_object};
pub use upload_object::{UploadOrder, Uploaded, begin_upload, begin_whole, upload_object};
