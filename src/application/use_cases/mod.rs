//! One file for each thing that a caller can have done.

mod delete_object;
mod download_object;
mod list_objects;
mod metered_source;
mod resume_upload;
mod upload_object;

pub use delete_object::delete_object;
pub use download_object::{Download, download_object};
pub use list_objects::{Cursor, InvalidCursor};
pub use resume_upload::{
    Piece, ResumeLimits, Resumed, can_join, create_upload, join_uploads, look_at_upload, resume_upload,
    terminate_upload,
};
pub use upload_object::{UploadOrder, Uploaded, upload_object};
