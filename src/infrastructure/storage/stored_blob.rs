//! The bytes of any stored blob, wherever they lie, for tools and for whoever looks whether they are there. Everything
//! here blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader};
use super::root::StorageRoot;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{PackId, Place};

/// How long a stored blob is, or `None` if it is not at its place.
///
/// # Errors
/// What the system said.
pub fn blob_length(root: &StorageRoot, location: &BlobLocation) -> io::Result<Option<u64>> {
    match location.place {
        Place::File { .. } => found(fs::symlink_metadata(root.blob_path(location)).map(|file| file.len())),
        Place::Pack { pack, offset } => {
            let Some(file) = found(File::open(root.pack_path(pack)))? else { return Ok(None) };
            Ok(record_at(&file, pack, offset, location)?.map(|header| header.body_bytes.into()))
        }
    }
}

/// Where the bytes of a blob are in a file.
#[derive(Debug)]
pub struct Extent {
    /// The file.
    pub file: File,
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// Opens a stored blob; `None` if it is not at its place.
///
/// # Errors
/// What the system said.
pub fn open_stored(root: &StorageRoot, location: &BlobLocation) -> io::Result<Option<Extent>> {
    let Some(file) = found(File::open(file_path(root, location)))? else { return Ok(None) };
    match location.place {
        Place::File { .. } => {
            let length = file.metadata()?.len();
            Ok(Some(Extent { file, offset: 0, length }))
        }
        Place::Pack { pack, offset } => Ok(record_at(&file, pack, offset, location)?.map(|header| Extent {
            file,
            offset: offset + RECORD_HEADER_BYTES as u64,
            length: header.body_bytes.into(),
        })),
    }
}

/// The file that a blob lies in.
pub fn file_path(root: &StorageRoot, location: &BlobLocation) -> std::path::PathBuf {
    match location.place {
        Place::File { .. } => root.blob_path(location),
        Place::Pack { pack, .. } => root.pack_path(pack),
    }
}

fn record_at(
    file: &File,
    pack: PackId,
    offset: u64,
    location: &BlobLocation,
) -> io::Result<Option<RecordHeader>> {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let header = RecordHeader::decode(&bytes).ok();
    Ok(header.filter(|header| header.is_of(pack, offset, &location.content_hash, header.body_bytes.into())))
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
