//! From a store to a backup and back: the bytes of one blob, linked where that can be, copied and hashed where not.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::domain::value_objects::ContentHash;
use crate::infrastructure::persistence::BlobRow;
use crate::infrastructure::storage::{StorageRoot, open_stored};

/// What is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// How bytes go over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    /// Copied in any case.
    pub(super) copy: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transferred {
    /// The target is there, whole.
    Whole,
    /// There is no source.
    Missing,
    /// The source is not what was stored; there is no target.
    Altered,
}

impl Transfer {
    /// Blocks. From a store: what lies in a pack is copied out of it.
    pub(super) fn run_from(
        self,
        root: &StorageRoot,
        target: &Path,
        row: &BlobRow,
    ) -> io::Result<Transferred> {
        if row.location.place.pack().is_none() {
            return self.run(&root.blob_path(&row.location), target, row);
        }
        if fs::exists(target)? {
            return Ok(Transferred::Whole);
        }
        let Some(extent) = open_stored(root, &row.location)? else { return Ok(Transferred::Missing) };
        let mut source = extent.file;
        source.seek(SeekFrom::Start(extent.offset))?;
        copy_to(source.take(extent.length), target, row.location.content_hash)
    }

    /// Blocks. A target that is there already is whole: it got its name last.
    pub(super) fn run(self, source: &Path, target: &Path, row: &BlobRow) -> io::Result<Transferred> {
        let length = match fs::symlink_metadata(source) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transferred::Missing),
            Err(error) => return Err(error),
        };
        if length != row.size_bytes {
            return Ok(Transferred::Altered);
        }
        if !self.copy {
            match fs::hard_link(source, target) {
                Ok(()) => return Ok(Transferred::Whole),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Transferred::Whole),
                // Another file system, or one that has no links, or a file with too many.
                Err(_) => {}
            }
        }
        if fs::exists(target)? {
            return Ok(Transferred::Whole);
        }
        copy_to(File::open(source)?, target, row.location.content_hash)
    }
}

fn copy_to(source: impl Read, target: &Path, content_hash: ContentHash) -> io::Result<Transferred> {
    let unfinished = target.with_extension("unfinished");
    let copied = copy(source, &unfinished, content_hash);
    if !matches!(copied, Ok(Transferred::Whole)) {
        // What stays behind has a name that nothing reads.
        let _ = fs::remove_file(&unfinished);
        return copied;
    }
    fs::rename(&unfinished, target)?;
    Ok(Transferred::Whole)
}

fn copy(mut source: impl Read, target: &Path, content_hash: ContentHash) -> io::Result<Transferred> {
    let mut target = File::create(target)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; COPY_BYTES]);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        target.write_all(&buffer[..count])?;
    }
    if ContentHash::from_bytes(hasher.finalize().into()) != content_hash {
        return Ok(Transferred::Altered);
    }
    target.sync_all()?;
    Ok(Transferred::Whole)
}

/// Makes everything durable that was written to the file system of `path`: names as well as bytes.
pub(super) fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}
