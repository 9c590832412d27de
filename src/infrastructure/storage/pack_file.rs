//! The system calls of one pack: made ahead, listed, read from, given up. Everything here blocks; it runs at start, on a
//! helper thread, or in a tool.
//!
//! A pack is written with zeros from end to end before its first batch, so that a batch only ever overwrites blocks
//! that the file system has noted as written: syncing it changes nothing but the batch.
//!
//! ```text
//! zeros ─► header block ─► sync the file ─► sync the directory ─► batches, each one durable write
//! ```
//! A crash before the header leaves a file that begins with zeros and that no row names: the next start removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, fadvise, fallocate, open};
use rustix::io::Errno;
use thiserror::Error;

use super::pack_format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchHeader, BatchLink, PACK_BLOCK_BYTES, PackHeader,
};
use super::root::{StorageRoot, sync_directory};
use crate::application::errors::StoreError;
use crate::domain::value_objects::PackId;
use crate::fault_injection::{DurableSync, skips};
use crate::infrastructure::data_plane::buffers::BufferPool;

#[repr(align(4096))]
struct HeaderBlock([u8; PACK_BLOCK_BYTES]);

/// Makes a pack, zeroed and durable, ready for its first batch.
pub(super) fn create_pack(root: &Arc<StorageRoot>, header: &PackHeader) -> Result<File, StoreError> {
    let made = write_pack(root, header);
    if made.is_err() {
        remove_pack(root, header.pack);
    }
    made
}

fn write_pack(root: &Arc<StorageRoot>, header: &PackHeader) -> Result<File, StoreError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    root.check_room(header.pack_bytes).map_err(failed("look for room"))?;
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    if root.has_direct_io() {
        flags |= OFlags::DIRECT;
    }
    let permissions = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = open(root.pack_path(header.pack), flags, permissions);
    let file = File::from(file.map_err(|error| StoreError::io("create a pack", error.into()))?);
    match fallocate(&file, FallocateFlags::empty(), 0, header.pack_bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(StoreError::io("allocate a pack", error.into())),
    }
    let zeroed = zero_durably(root, &file, header);
    // A disk that fails under the zeros would fail under what is to be kept.
    if matches!(zeroed, Err(StoreError::Io { .. })) {
        root.note_sync(false);
    }
    zeroed?;
    drop(file);
    open_to_append(root, header.pack).map_err(failed("open a pack"))
}

fn zero_durably(root: &StorageRoot, file: &File, header: &PackHeader) -> Result<(), StoreError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    // Out of a huge page, of which the kernel has one to describe to the disk for each write, and not hundreds.
    let zeros = BufferPool::sole_large_block_of_zeros();
    let mut position = PACK_BLOCK_BYTES as u64;
    while position < header.pack_bytes {
        let length = (header.pack_bytes - position).min(zeros.len() as u64);
        file.write_all_at(&zeros.bytes()[..length as usize], position).map_err(failed("zero a pack"))?;
        position += length;
    }
    let block = HeaderBlock(header.encode());
    file.write_all_at(&block.0, 0).map_err(failed("write a pack's header"))?;
    let synced = if skips(DurableSync::File) { Ok(()) } else { file.sync_all() };
    let synced = synced.and_then(|()| {
        if skips(DurableSync::Directory) { Ok(()) } else { sync_directory(&root.packs_path()) }
    });
    synced.map_err(failed("sync a pack"))
}

/// Each write to it is durable when it returns.
fn open_to_append(root: &StorageRoot, pack: PackId) -> io::Result<File> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    if root.has_direct_io() {
        flags |= OFlags::DIRECT;
    }
    if !skips(DurableSync::Log) {
        flags |= OFlags::DSYNC;
    }
    Ok(File::from(open(root.pack_path(pack), flags, Mode::empty())?))
}

/// Opens a pack to read single records of it.
pub(super) fn open_pack(root: &StorageRoot, pack: PackId) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = root.pack_path(pack);
    // Nobody asks when a pack was read last. Of somebody else's file, the kernel insists on noting it.
    let opened = open(&path, flags | OFlags::NOATIME, Mode::empty()).or_else(|error| match error {
        Errno::PERM => open(&path, flags, Mode::empty()),
        error => Err(error),
    });
    let file = File::from(opened.map_err(|error| match error {
        Errno::NOENT => StoreError::Missing,
        error => StoreError::io("open a pack", error.into()),
    })?);
    // What lies behind a record is of no interest to whoever reads it, and may be about to be written.
    let _ = fadvise(&file, 0, None, Advice::Random);
    Ok(file)
}

/// Removes a pack that nothing names. Its directory is not synced.
pub(super) fn remove_pack(root: &StorageRoot, pack: PackId) {
    if let Err(error) = fs::remove_file(root.pack_path(pack))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, %pack, "a pack could not be removed; the next start tries again");
    }
}

/// The packs of a root, by the names of their files.
///
/// # Errors
/// The directory cannot be listed.
pub fn list_packs(root: &StorageRoot) -> io::Result<Vec<PackId>> {
    let mut packs = Vec::new();
    let entries = match fs::read_dir(root.packs_path()) {
        Ok(entries) => entries,
        // Of a store from before there were packs, which a tool opens as it is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(packs),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".pack"));
        packs.extend(id.and_then(|id| PackId::parse(id).ok()));
    }
    packs.sort_unstable();
    Ok(packs)
}

/// Why a pack cannot be read to its end.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The system refused.
    #[error("cannot read pack {pack}")]
    Io {
        /// Which pack.
        pack: PackId,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The first block is not a header.
    #[error("pack {pack} has no header")]
    Header {
        /// Which pack.
        pack: PackId,
    },
    /// A batch that was acknowledged is not as it was written.
    #[error("pack {pack} is damaged at {offset}: a batch that was acknowledged is not as it was written")]
    Damaged {
        /// Which pack.
        pack: PackId,
        /// Where the batch begins.
        offset: u64,
    },
}

/// Reads the batches of a pack one after the other.
#[derive(Debug)]
pub struct PackScan {
    file: File,
    header: PackHeader,
    position: u64,
    /// Where the log ends, as it was noted when its pack could not be written any more.
    end: u64,
    /// Not known before the first batch, where the scan begins further behind.
    link: Option<BatchLink>,
}

/// A batch that is whole.
#[derive(Debug)]
pub struct ScannedBatch {
    /// Where it begins.
    pub offset: u64,
    /// Where the next one begins.
    pub end: u64,
    /// Header and records.
    pub bytes: Vec<u8>,
}

impl PackScan {
    /// Begins at `from`, where a batch begins, or at the first batch; nothing from `end` on counts.
    ///
    /// # Errors
    /// [`ScanError`]; `None` is a pack that was never finished.
    pub fn begin(
        root: &StorageRoot,
        pack: PackId,
        from: u64,
        end: Option<u64>,
    ) -> Result<Option<Self>, ScanError> {
        let failed = |source| ScanError::Io { pack, source };
        let file = File::open(root.pack_path(pack)).map_err(failed)?;
        let mut block = vec![0; PACK_BLOCK_BYTES];
        let length = read_up_to(&file, &mut block, 0).map_err(failed)?;
        if block[..length].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = PackHeader::decode(&block).ok().filter(|header| header.pack == pack);
        let header = header.ok_or(ScanError::Header { pack })?;
        let first = PACK_BLOCK_BYTES as u64;
        let link = (from <= first).then_some(BatchLink::FIRST);
        Ok(Some(Self { file, header, position: from.max(first), end: end.unwrap_or(u64::MAX), link }))
    }

    /// What the pack says of itself.
    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    /// Where the next batch would begin: after the last one, where the log ends.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How long the file is.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn file_bytes(&self) -> Result<u64, ScanError> {
        let pack = self.header.pack;
        let metadata = self.file.metadata().map_err(|source| ScanError::Io { pack, source })?;
        Ok(metadata.len())
    }

    /// The next batch, or `None` at the end of the log.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn next_batch(&mut self) -> Result<Option<ScannedBatch>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let pack = self.header.pack;
        let failed = |source| ScanError::Io { pack, source };
        let mut next = self.following_batch().map_err(failed)?;
        if next.is_none() {
            if !self.has_later_batch().map_err(failed)? {
                return Ok(None);
            }
            // Both may have been written since the first look, this one before the later one.
            next = self.following_batch().map_err(failed)?;
        }
        let (header, bytes) = next.ok_or(ScanError::Damaged { pack, offset: self.position })?;
        let offset = self.position;
        self.position += header.padded_length();
        self.link = Some(header.next_link());
        Ok(Some(ScannedBatch { offset, end: self.position, bytes }))
    }

    /// The batch at the present position, if it is whole and follows the one before.
    fn following_batch(&self) -> io::Result<Option<(BatchHeader, Vec<u8>)>> {
        let read = self.batch_at(self.position)?;
        Ok(read.filter(|(header, _)| self.link.is_none_or(|link| header.link == link)))
    }

    /// The whole batch that begins at `offset`, if there is one.
    fn batch_at(&self, offset: u64) -> io::Result<Option<(BatchHeader, Vec<u8>)>> {
        let mut bytes = vec![0; PACK_BLOCK_BYTES];
        let length = read_up_to(&self.file, &mut bytes, offset)?;
        bytes.truncate(length);
        let Ok(header) = BatchHeader::decode(&bytes, self.header.pack) else { return Ok(None) };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let first = bytes.len().min(length);
        bytes.resize(length, 0);
        let rest = read_up_to(&self.file, &mut bytes[first..], offset + first as u64)?;
        let whole = first + rest == length && header.verify(&bytes);
        Ok(whole.then_some((header, bytes)))
    }

    /// Whether a whole batch begins behind the present position, as near as the next one could be. A pack has one
    /// batch in flight at most, so whatever is before such a batch had been acknowledged.
    fn has_later_batch(&self) -> io::Result<bool> {
        let step = PACK_BLOCK_BYTES as u64;
        let mut header = [0; BATCH_HEADER_BYTES];
        for offset in (1..=BATCH_BYTES_MAX as u64 / step).map(|blocks| self.position + blocks * step) {
            if offset >= self.end || read_up_to(&self.file, &mut header, offset)? < BATCH_HEADER_BYTES {
                return Ok(false);
            }
            if BatchHeader::decode(&header, self.header.pack).is_ok() && self.batch_at(offset)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
