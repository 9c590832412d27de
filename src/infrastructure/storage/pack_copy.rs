//! A pack that is written in one go, by whoever moves blobs out of others. Everything here blocks. It is made durable as a
//! whole before anything names a place in it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::pack_file::remove_pack;
use super::pack_format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchHeader, BatchLink, PACK_BLOCK_BYTES, PackHeader, RecordHeader,
    RecordKind,
};
use super::root::{StorageRoot, sync_directory};
use super::stored_blob::open_stored;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{InstanceId, PackId, Place};

/// The packs that a core of this process writes to, or is making.
#[derive(Debug, Default)]
pub struct OpenPacks(Mutex<HashSet<PackId>>);

impl OpenPacks {
    /// Those that are open now.
    pub fn all(&self) -> HashSet<PackId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// To be called before there is a file.
    pub fn add(&self, pack: PackId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pack);
    }

    /// To be called once all that was written to it has been sent on.
    pub fn remove(&self, pack: PackId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pack);
    }
}

/// The new pack.
pub struct PackCopy {
    root: Arc<StorageRoot>,
    file: File,
    pack: PackId,
    position: u64,
    link: BatchLink,
    batch: Vec<u8>,
    records: u32,
}

impl PackCopy {
    /// A pack for about `bytes`.
    ///
    /// # Errors
    /// What the system said; [`io::ErrorKind::StorageFull`] if that would leave too little for the database.
    pub fn create(root: &Arc<StorageRoot>, instance: InstanceId, bytes: u64) -> io::Result<Self> {
        root.check_room(bytes)?;
        let pack = PackId::generate();
        let mut file = OpenOptions::new().write(true).create_new(true).open(root.pack_path(pack))?;
        let header =
            PackHeader { pack, pack_bytes: bytes, instance, core: u32::MAX, storage_class: root.class() };
        file.write_all(&header.encode())?;
        Ok(Self {
            root: root.clone(),
            file,
            pack,
            position: PACK_BLOCK_BYTES as u64,
            link: BatchLink::FIRST,
            batch: vec![0; BATCH_HEADER_BYTES],
            records: 0,
        })
    }

    /// Copies a blob, and says where it is then; `None` if it is not as it was written, and stays where it is.
    ///
    /// # Errors
    /// What the system said.
    pub fn append(&mut self, root: &StorageRoot, from: &BlobLocation) -> io::Result<Option<Place>> {
        let Some(extent) = open_stored(root, from)? else { return Ok(None) };
        let mut body = vec![0; usize::try_from(extent.length).unwrap_or(usize::MAX)];
        extent.file.read_exact_at(&mut body, extent.offset)?;
        let body_bytes = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut header = RecordHeader {
            kind: RecordKind::Data,
            pack: self.pack,
            offset: 0,
            sequence: 0,
            content_hash: from.content_hash,
            body_bytes,
            body_checksum: crc32c::crc32c(&body),
            details_bytes: 0,
        };
        if crate::infrastructure::storage::sha256(&body) != from.content_hash {
            return Ok(None);
        }
        if self.batch.len() + header.record_bytes() > BATCH_BYTES_MAX {
            self.write_batch()?;
        }
        header.offset = self.position + self.batch.len() as u64;
        header.append_record(&mut self.batch, &body, &[]);
        self.records += 1;
        Ok(Some(Place::Pack { pack: self.pack, offset: header.offset }))
    }

    fn write_batch(&mut self) -> io::Result<()> {
        if self.records > 0 {
            self.link = BatchHeader::seal(&mut self.batch, self.pack, self.link, self.records);
            self.batch.resize(self.batch.len().next_multiple_of(PACK_BLOCK_BYTES), 0);
            self.file.write_all_at(&self.batch, self.position)?;
            self.position += self.batch.len() as u64;
        }
        self.batch.clear();
        self.batch.resize(BATCH_HEADER_BYTES, 0);
        self.records = 0;
        Ok(())
    }

    /// Removes it again: there was nothing to copy.
    pub fn discard(self) {
        remove_pack(&self.root, self.pack);
    }

    /// Makes it durable: which pack it is, and where it ends.
    ///
    /// # Errors
    /// What the system said: nothing in it may be named then.
    pub fn finish(mut self) -> io::Result<(PackId, u64)> {
        self.write_batch()?;
        let synced = self.file.sync_all().and_then(|()| sync_directory(&self.root.packs_path()));
        if synced.is_err() {
            self.root.note_sync(false);
        }
        synced?;
        Ok((self.pack, self.position))
    }
}
