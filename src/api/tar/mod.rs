//! Tar archives without I/O, as POSIX describes them (`pax`, "ustar Interchange Format" and "pax Interchange Format"), with
//! what GNU tar does besides: read strictly, so that no two readers can understand one differently, and written so that
//! every reader there is takes it.
//!
//! ```text
//! header (512) · content, padded to 512 · header · content … · two blocks of zeros
//! ```
//! What a header has no room for stands in an entry of its own before it: pax records (`x`), or a GNU long name (`L`).

mod header;
mod reader;
mod whole;
mod writer;

pub(super) use reader::{ArchiveError, Entry, EntryKind, OWN_RECORDS, Reader, Step};
pub use whole::{read_archive, write_archive};
pub(super) use writer::{END_BYTES, append_end, append_header, append_padding, entry_bytes};

/// What everything in an archive is padded to.
const BLOCK_BYTES: usize = 512;
