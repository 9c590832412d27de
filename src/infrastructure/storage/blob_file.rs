//! The system calls of one blob file, in the order that makes it durable. Everything here blocks and runs on a
//! helper thread.
//!
//! ```text
//! write ─► sync the file ─► link it in place ─► sync the directory      (then, elsewhere: the transaction)
//! ```
//! A crash before the link leaves nothing; after it, a file that no row names, which the sweep finds.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, linkat, open};

use super::root::{StorageRoot, sync_directory};
use crate::application::errors::StoreError;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{Place, StorageClass};
use crate::fault_injection::{DurableSync, skips};

/// Bodies that are known to be at least this long get their blocks allocated ahead.
const ALLOCATE_AHEAD_BYTES_MIN: u64 = 1024 * 1024;

/// Cold blobs that are at least this long are read around the page cache. Below, a second descriptor costs more than
/// the memory.
const DIRECT_READ_BYTES_MIN: u64 = 1024 * 1024;

/// How a file's bytes reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// Through the page cache: small blobs, which are often read next.
    Cached,
    /// Around it, where the file system can: large ones, at a third of the cost.
    Direct,
}

/// A file that has no name yet, or only a temporary one. Dropped, it leaves nothing.
pub(super) struct UnfinishedFile {
    file: File,
    root: Arc<StorageRoot>,
    /// Its temporary name, where files must have one.
    temporary: Option<PathBuf>,
}

impl UnfinishedFile {
    /// Makes a file for the blob at `place`, with room for `length_bytes` if that is known.
    pub(super) fn create(
        root: &Arc<StorageRoot>,
        place: Place,
        mode: WriteMode,
        length_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let unfinished =
            Self::open(root, place, mode).map_err(|error| StoreError::io("create a blob file", error))?;
        if let Some(length) = length_bytes.filter(|length| *length >= ALLOCATE_AHEAD_BYTES_MIN) {
            // Those that are not refused here are looked at again when they are published.
            root.check_room(length).map_err(|error| StoreError::io("look for room", error))?;
            match fallocate(&unfinished.file, FallocateFlags::empty(), 0, length) {
                // Not every file system can; the writes then allocate as they go.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(StoreError::io("allocate a blob file", error.into())),
            }
        }
        Ok(unfinished)
    }

    fn open(root: &Arc<StorageRoot>, place: Place, mode: WriteMode) -> io::Result<Self> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        if mode == WriteMode::Direct && root.has_direct_io() {
            flags |= OFlags::DIRECT;
        }
        let permissions = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        if root.has_unnamed_files() {
            let file = File::from(open(root.blobs_path(), flags | OFlags::TMPFILE, permissions)?);
            return Ok(Self { file, root: root.clone(), temporary: None });
        }
        let path = root.temporary_file_path(place);
        let file = File::from(open(&path, flags | OFlags::CREATE | OFlags::EXCL, permissions)?);
        Ok(Self { file, root: root.clone(), temporary: Some(path) })
    }

    /// The file, to be written.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the first `size_bytes` bytes durable under the blob's name, and cuts what padding lies behind them.
    pub(super) fn publish(mut self, location: &BlobLocation, size_bytes: u64) -> Result<(), StoreError> {
        let length =
            self.file.metadata().map_err(|error| StoreError::io("look at a blob file", error))?.len();
        self.root.check_room(0).map_err(|error| StoreError::io("look for room", error))?;
        if length != size_bytes {
            self.file.set_len(size_bytes).map_err(|error| StoreError::io("cut a blob file", error))?;
        }
        self.sync("sync a blob file", sync_file(&self.file))?;
        self.link(location).map_err(|error| StoreError::io("link a blob file", error))?;
        let synced = self.sync("sync a blob directory", sync_shard(&self.root, location));
        if synced.is_err() {
            // Nothing will ever name it. What cannot be removed either is swept at the next start.
            let _ = remove_blob(&self.root, location);
        }
        synced
    }

    fn link(&mut self, location: &BlobLocation) -> io::Result<()> {
        let path = self.root.blob_path(location);
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, path)?;
            self.temporary = None;
            return Ok(());
        }
        // open(2): the documented way to give an O_TMPFILE a name without special rights.
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn sync(&self, operation: &'static str, result: io::Result<()>) -> Result<(), StoreError> {
        let result = result.map_err(|error| StoreError::io(operation, error));
        match &result {
            Ok(()) => self.root.note_sync(true),
            // A disk that fills up late says so here. That passes, and says nothing of the disk otherwise.
            Err(StoreError::NoSpace) => {}
            Err(_) => self.root.note_sync(false),
        }
        result
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What stays behind is swept at the next start.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn sync_file(file: &File) -> io::Result<()> {
    if skips(DurableSync::File) { Ok(()) } else { file.sync_data() }
}

pub(super) fn sync_shard(root: &StorageRoot, location: &BlobLocation) -> io::Result<()> {
    if skips(DurableSync::Directory) { Ok(()) } else { sync_directory(&root.shard_path(location)) }
}

/// Opens a blob for reading and makes sure that it has its size. A large one of the class that is read seldom is opened
/// a second time, to be read around the page cache: what is read often stays in it.
pub(super) fn open_blob(
    root: &StorageRoot,
    location: &BlobLocation,
    size_bytes: u64,
) -> Result<(File, Option<File>), StoreError> {
    let path = root.blob_path(location);
    let file = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing,
        _ => StoreError::io("open a blob", error),
    })?;
    let length = file.metadata().map_err(|error| StoreError::io("look at a blob", error))?.len();
    if length != size_bytes {
        return Err(StoreError::Damaged);
    }
    let around = root.class() == StorageClass::Cold && size_bytes >= DIRECT_READ_BYTES_MIN;
    if !around || !root.has_direct_io() {
        return Ok((file, None));
    }
    let direct = open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty());
    // What cannot be opened so, or has been removed meanwhile, is still to be read the other way.
    Ok((file, direct.ok().map(File::from)))
}

/// Removes a blob's file. Its directory is not synced: if a power cut brings back what this run of the process has
/// written, the next start's sweep finds it.
pub(super) fn remove_blob(root: &StorageRoot, location: &BlobLocation) -> io::Result<()> {
    if location.place.pack().is_some() {
        crate::invariant::broken("what lies in a pack is not removed as a file");
    }
    match fs::remove_file(root.blob_path(location)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
