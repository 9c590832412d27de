//! An upload that is open: bytes are received into pooled blocks, hashed where they lie, and written through the page
//! cache, since pieces begin and end at any byte. Now and then, and at the end of each piece, what has been written is
//! synced, and then noted: so a note never tells of bytes that are not durable. Runs on a data-plane core; what blocks
//! goes to its helper threads.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use paired_sha256::Sha256;
use rustix::fs::{FlockOperation, flock};

use super::super::blob_file::{remove_blob, sync_shard};
use super::super::file_store::{FileStoreParts, helper_failed};
use super::super::hashing::HASH_BYTES_MAX;
use super::super::root::StorageRoot;
use super::record::{Slot, write_slot};
use super::{Paths, finish, sync_entries, sync_file};
use crate::application::errors::{SourceError, StoreError};
use crate::application::ports::{ByteSource, ReadPace, ReadProgress};
use crate::application::staging::{
    Checksum, StagedOrder, StagedProgress, StagedUpload, StagingError, StagingSession,
};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, Place, TenantId, Timestamp, UploadId};
use crate::infrastructure::data_plane::buffers::{Block, BufferPool};
use crate::infrastructure::data_plane::helpers::HelperPool;
use crate::infrastructure::data_plane::runtime::{DataFile, Task, spawn, spawn_unless_ended};
use crate::infrastructure::metrics::{Phase, note_since};

/// How many writes of one upload the kernel works on at once.
const WRITES_IN_FLIGHT_MAX: usize = 2;
/// A small block that filled within this time earns its upload a large one.
const FAST_FILL: Duration = Duration::from_millis(50);
/// The most bytes of one read of what is here already: hashed at a stretch, they hold the core for under 100 µs.
const READ_BYTES_MAX: u64 = 128 * 1024;
/// So many bytes at the most come again after a crash, of a sender that is fast…
const NOTE_BYTES: u64 = 32 * 1024 * 1024;
/// …and those of so long, of one that is slow.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);

/// The files of an upload, and what stands in them.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) state: File,
    pub(super) bytes: File,
    pub(super) slot: Slot,
    pub(super) order: StagedOrder,
}

/// An upload that is open here, and nowhere else.
pub struct StagedFile {
    parts: Rc<FileStoreParts>,
    root: Arc<StorageRoot>,
    paths: Paths,
    upload: StagedUpload,
    /// The last note that is durable.
    slot: Slot,
    /// The lock is the kernel's for as long as any of these is open.
    files: Arc<Files>,
    data: Option<Rc<DataFile>>,
    writes: Writes,
}

#[derive(Debug)]
struct Files {
    state: File,
    bytes: File,
}

/// What is on its way to the disk.
#[derive(Default)]
struct Writes {
    in_flight: VecDeque<Task<std::io::Result<Block>>>,
    /// A note that is being made beside them.
    note: Option<(Slot, Task<Result<(), StoreError>>)>,
}

/// How far a piece has come.
struct Piece {
    /// Where the next write goes.
    offset: u64,
    hasher: Sha256,
    block: Block,
    fill_started: Instant,
    noted_at: Instant,
    noted_offset: u64,
}

impl StagedFile {
    pub(super) fn new(
        parts: Rc<FileStoreParts>,
        root: Arc<StorageRoot>,
        paths: Paths,
        locked: Locked,
    ) -> Result<Self, StoreError> {
        let Locked { state, bytes, slot, order } = locked;
        let second = bytes.try_clone().map_err(|error| StoreError::io("duplicate a descriptor", error))?;
        let data = DataFile::from_std(second, parts.driver, parts.helpers.writing(root.class()))
            .map_err(|error| StoreError::io("register the bytes of an upload", error))?;
        let upload = StagedUpload { order, progress: slot.progress };
        let files = Arc::new(Files { state, bytes });
        let data = Some(Rc::new(data));
        Ok(Self { parts, root, paths, upload, slot, files, data, writes: Writes::default() })
    }

    fn helpers(&self) -> &Rc<HelperPool> {
        self.parts.helpers.writing(self.root.class())
    }

    fn data(&self) -> &Rc<DataFile> {
        match &self.data {
            Some(data) => data,
            None => crate::invariant::broken("an upload has its file until it is dropped"),
        }
    }

    fn tenant_id(&self) -> &TenantId {
        &self.upload.order.object.scope.tenant_id
    }

    fn id(&self) -> &UploadId {
        &self.upload.order.id
    }

    /// Appends bytes that are here to a block.
    async fn read_block(
        &self,
        block: Block,
        offset: u64,
        bytes_max: usize,
    ) -> Result<(usize, Block), StoreError> {
        let bytes_max = bytes_max.min(block.room());
        let read = self.data().read_block_at(block, bytes_max, offset).await;
        read.map_err(|error| StoreError::io("read the bytes of an upload", error))
    }

    async fn write(&mut self, block: Block, offset: u64) -> Result<Option<Block>, StoreError> {
        let data = self.data().clone();
        let write = spawn(async move { data.write_block_at(block, offset).await });
        self.writes.in_flight.push_back(write);
        let too_many = self.writes.in_flight.len() > WRITES_IN_FLIGHT_MAX;
        if too_many { self.finish_oldest_write().await } else { Ok(None) }
    }

    async fn finish_oldest_write(&mut self) -> Result<Option<Block>, StoreError> {
        let limit = self.helpers().limit().clone();
        let Some(write) = self.writes.in_flight.front_mut() else { return Ok(None) };
        let started = Instant::now();
        // One that is late stays where it is, and the lock with it.
        let written = limit.within(write).await;
        note_since(Phase::Write, started);
        let written = written.ok_or(StoreError::TimedOut)?;
        self.writes.in_flight.pop_front();
        let mut block = written.map_err(|error| StoreError::io("write the bytes of an upload", error))?;
        block.clear();
        Ok(Some(block))
    }

    /// Writes what the block holds, and goes on with an empty one of the size that the sender deserves.
    async fn write_and_replace_block(&mut self, mut piece: Piece, fast: bool) -> Result<Piece, StoreError> {
        let (full, offset) = (piece.block, piece.offset);
        piece.offset += full.len() as u64;
        let returned = self.write(full, offset).await?;
        let fresh = match returned.filter(|block| block.is_large() == fast) {
            Some(block) => Some(block),
            None if fast => {
                let large = self.parts.buffers.large_block(self.tenant_id());
                large.or_else(|| self.parts.buffers.small_block_to_receive())
            }
            None => self.parts.buffers.small_block_to_receive(),
        };
        piece.block = match fresh {
            Some(block) => block,
            // The pool is empty: go on with a block of this very upload, once it is written.
            None => self.finish_oldest_write().await?.ok_or(StoreError::Overloaded)?,
        };
        piece.fill_started = Instant::now();
        Ok(piece)
    }

    /// Takes all of a body that comes and has room. The second is how it ended.
    async fn take(
        &mut self,
        source: &mut impl ByteSource<Block>,
        mut checksum: Option<&mut Checksum>,
        kept_for: Duration,
    ) -> Result<(Piece, Result<(), SourceError>), StoreError> {
        // Where it breaks off before a block is worth it, what has come is still taken: the next read tells why.
        let _ = source.gather().await;
        let StagedProgress { offset, length, .. } = self.upload.progress;
        let now = Instant::now();
        let mut piece = Piece {
            offset,
            hasher: self.slot.hasher.clone(),
            block: self.parts.buffers.small_block_to_receive().ok_or(StoreError::Overloaded)?,
            fill_started: now,
            noted_at: now,
            noted_offset: offset,
        };
        loop {
            if piece.block.room() == 0 {
                let fast = piece.block.is_large() || piece.fill_started.elapsed() < FAST_FILL;
                piece = self.write_and_replace_block(piece, fast).await?;
                if checksum.is_none() {
                    self.note_if_due(&mut piece, kept_for).await?;
                }
            }
            let holds_much = piece.block.is_large() || !self.writes.in_flight.is_empty();
            let pace = if holds_much { ReadPace::Brisk } else { ReadPace::Patient };
            let (progress, block) = source.read(piece.block, pace).await;
            piece.block = block;
            match progress {
                Ok(ReadProgress::Bytes(count)) => {
                    let start = piece.block.len() - count;
                    let room = length.map_or(u64::MAX, |length| length - piece.offset);
                    let end = room.min(piece.block.len() as u64) as usize;
                    let is_too_much = end < piece.block.len();
                    piece.block.truncate(end);
                    let fresh = start.min(end)..end;
                    let hashing = &self.parts.hashing;
                    (piece.hasher, piece.block) =
                        hashing.hash(piece.hasher, piece.block, fresh.clone(), source).await;
                    if let Some(checksum) = &mut checksum {
                        for (index, slice) in piece.block.bytes()[fresh].chunks(HASH_BYTES_MAX).enumerate() {
                            if index > 0 {
                                source.take_turns().await;
                            }
                            let started = Instant::now();
                            checksum.update(slice);
                            note_since(Phase::Hash, started);
                        }
                    }
                    if is_too_much {
                        let bytes_max = length.unwrap_or(u64::MAX);
                        return Ok((piece, Err(SourceError::TooLarge { bytes_max })));
                    }
                }
                // No more than a small block is kept for a slow sender.
                Ok(ReadProgress::Stalled) => {
                    if piece.block.is_large() {
                        piece = self.write_and_replace_block(piece, false).await?;
                    }
                    while self.finish_oldest_write().await?.is_some() {}
                }
                Ok(ReadProgress::End) => return Ok((piece, Ok(()))),
                Err(error) => return Ok((piece, Err(error))),
            }
        }
    }

    /// Notes what has been written, beside what still comes, if it is time.
    async fn note_if_due(&mut self, piece: &mut Piece, kept_for: Duration) -> Result<(), StoreError> {
        let is_due =
            piece.offset - piece.noted_offset >= NOTE_BYTES || piece.noted_at.elapsed() >= NOTE_INTERVAL;
        if !is_due {
            return Ok(());
        }
        // All writes before; and the hash is that of just these bytes, since the block is empty.
        while self.finish_oldest_write().await?.is_some() {}
        self.finish_note().await?;
        self.begin_note(piece.offset, piece.hasher.clone(), kept_for);
        (piece.noted_at, piece.noted_offset) = (Instant::now(), piece.offset);
        Ok(())
    }

    fn begin_note(&mut self, offset: u64, hasher: Sha256, kept_for: Duration) {
        let expires_at = Timestamp::from(SystemTime::now() + kept_for);
        let progress = StagedProgress { offset, expires_at, ..self.upload.progress };
        let slot = Slot { number: self.slot.number + 1, progress, hasher };
        let (files, root, id, noted) = (self.files.clone(), self.root.clone(), *self.id(), slot.clone());
        let paths = self.paths.clone();
        let (helpers, metrics) = (self.helpers().clone(), self.parts.metrics.clone());
        let note = spawn(async move {
            let (root_metrics, started) = (metrics.root(root.class()), Instant::now());
            let job = move || note(&files, &root, &paths, &id, &noted);
            let noted = helpers.run(job).await.map_err(helper_failed).flatten();
            match noted {
                Ok(()) => root_metrics.file_syncs.record(started.elapsed()),
                Err(_) => root_metrics.failed_syncs.add(1),
            }
            noted
        });
        self.writes.note = Some((slot, note));
    }

    async fn finish_note(&mut self) -> Result<(), StoreError> {
        let Some((slot, note)) = self.writes.note.take() else { return Ok(()) };
        let started = Instant::now();
        let noted = note.await;
        note_since(Phase::Sync, started);
        noted?;
        self.upload.progress = slot.progress;
        self.slot = slot;
        Ok(())
    }

    async fn settle(&mut self, mut piece: Piece, kept_for: Duration) -> Result<(), StoreError> {
        if !piece.block.is_empty() {
            let (block, offset) = (piece.block, piece.offset);
            piece.offset += block.len() as u64;
            self.write(block, offset).await?;
        }
        while self.finish_oldest_write().await?.is_some() {}
        self.finish_note().await?;
        self.begin_note(piece.offset, piece.hasher, kept_for);
        self.finish_note().await
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &Paths) -> std::io::Result<T> + Send + 'static,
        operation: &'static str,
    ) -> Result<T, StoreError> {
        let (files, paths) = (self.files.clone(), self.paths.clone());
        let done = self.helpers().run(move || job(&files, &paths)).await.map_err(helper_failed)?;
        done.map_err(|error| StoreError::io(operation, error))
    }
}

/// Makes the bytes durable, and then the note of them. What a failed sync covered is given up: nothing tells any more
/// what of the file is on the disk.
fn note(
    files: &Files,
    root: &StorageRoot,
    paths: &Paths,
    id: &UploadId,
    slot: &Slot,
) -> Result<(), StoreError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    root.check_room(0).map_err(failed("look for room"))?;
    let noted = sync_file(&files.bytes).map_err(failed("sync the bytes of an upload")).and_then(|()| {
        write_slot(&files.state, id, slot).map_err(failed("write the state of an upload"))?;
        sync_file(&files.state).map_err(failed("sync the state of an upload"))
    });
    match &noted {
        Ok(()) => root.note_sync(true),
        Err(StoreError::NoSpace) => {}
        Err(_) => {
            root.note_sync(false);
            let _ = paths.remove();
        }
    }
    noted
}

/// Gives the bytes a second name, as a blob, durably.
fn link(paths: &Paths, root: &StorageRoot, location: &BlobLocation) -> Result<(), StoreError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    root.check_room(0).map_err(failed("look for room"))?;
    std::fs::hard_link(&paths.bytes, root.blob_path(location)).map_err(failed("link a blob file"))?;
    let synced = sync_shard(root, location);
    root.note_sync(synced.is_ok());
    if synced.is_err() {
        // Nothing will ever name it.
        let _ = remove_blob(root, location);
    }
    synced.map_err(failed("sync a blob directory"))
}

impl StagingSession for StagedFile {
    type Buffer = Block;

    fn upload(&self) -> &StagedUpload {
        &self.upload
    }

    fn set_length(&mut self, length: u64) {
        self.upload.progress.length = Some(length);
    }

    async fn receive(
        &mut self,
        source: &mut impl ByteSource<Block>,
        mut checksum: Option<Checksum>,
        kept_for: Duration,
    ) -> Result<(), StagingError> {
        if self.root.is_read_only() {
            return Err(StoreError::ReadOnly.into());
        }
        let (piece, ended) = self.take(source, checksum.as_mut(), kept_for).await?;
        if let Some(checksum) = checksum {
            if ended.is_ok() && checksum.matches() {
                return Ok(self.settle(piece, kept_for).await?);
            }
            // Of what was not checked nothing counts. Its writes end before anybody else has the upload.
            while self.finish_oldest_write().await?.is_some() {}
            ended?;
            return Err(StagingError::ChecksumMismatch);
        }
        self.settle(piece, kept_for).await?;
        Ok(ended?)
    }

    fn content_hash(&self) -> ContentHash {
        ContentHash::from_bytes(self.slot.hasher.finish())
    }

    async fn publish(&self) -> Result<Place, StoreError> {
        let (place, content_hash) = (self.parts.places.next(), self.content_hash());
        let location = BlobLocation { storage_class: self.root.class(), content_hash, place };
        let (root, paths) = (self.root.clone(), self.paths.clone());
        let undone = root.clone();
        let undo = move |linked: Result<(), StoreError>| {
            if linked.is_ok() {
                // Too late for anybody to name it.
                let _ = remove_blob(&undone, &location);
            }
        };
        let publish = move || link(&paths, &root, &location);
        let started = Instant::now();
        let published = self.helpers().run_or_undo(publish, undo).await.map_err(helper_failed).flatten();
        note_since(Phase::Sync, started);
        published.map(|()| place)
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let progress = StagedProgress { is_done: true, ..self.upload.progress };
        let (number, hasher) = (self.slot.number + 1, self.slot.hasher.clone());
        let (slot, id) = (Slot { number, progress, hasher }, *self.id());
        self.upload.progress = progress;
        self.run(move |files, paths| finish(&files.state, paths, &id, &slot), "note the end of an upload")
            .await
    }

    async fn remove(&mut self) -> Result<(), StoreError> {
        self.run(|_, paths| paths.remove_durably(), "remove an upload").await
    }

    async fn release(self) {
        // While a write is on its way, the lock goes with it.
        if self.writes.in_flight.is_empty() && self.writes.note.is_none() {
            let unlock = |files: &Files, _: &Paths| Ok(flock(&files.state, FlockOperation::Unlock)?);
            // Where this fails, the lock goes when the file is closed.
            let _ = self.run(unlock, "unlock an upload").await;
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let (writes, data) = (std::mem::take(&mut self.writes), self.data.take());
        let files = Closing { files: Some(self.files.clone()), helpers: self.helpers().clone() };
        spawn_unless_ended(async move {
            for write in writes.in_flight {
                // Its outcome is of no interest any more, but whoever comes next must not write before it.
                let _ = write.await;
            }
            if let Some((_, note)) = writes.note {
                let _ = note.await;
            }
            if let Some(data) = data.and_then(Rc::into_inner) {
                data.close().await;
            }
            drop(files);
        });
    }
}

/// Files on their way to a helper thread, where closing them may take its time.
struct Closing {
    files: Option<Arc<Files>>,
    helpers: Rc<HelperPool>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.helpers.dispose(self.files.take());
    }
}

/// Uploads that are open to be read, one after the other.
#[derive(Default)]
pub struct StagedParts {
    sessions: Vec<StagedFile>,
    /// Which of them comes when.
    order: Vec<usize>,
    /// How far the reading has come: in which of those, and where.
    position: (usize, u64),
    /// Why it has ended early.
    failure: Option<StoreError>,
}

impl StagedParts {
    pub(super) fn has(&self, id: &UploadId) -> bool {
        self.sessions.iter().any(|session| session.id() == id)
    }

    pub(super) fn push(&mut self, session: StagedFile) {
        self.order.push(self.sessions.len());
        self.sessions.push(session);
    }

    pub(super) fn repeat(&mut self, id: &UploadId) {
        self.order.extend(self.sessions.iter().position(|session| session.id() == id));
    }

    pub(super) fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    pub(super) fn uploads(&self) -> Vec<StagedUpload> {
        self.order.iter().map(|index| self.sessions[*index].upload.clone()).collect()
    }

    /// Removes all of them, with a sync for each directory that they are in.
    pub(super) async fn remove(self) -> Result<(), StoreError> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for session in &self.sessions {
            session.run(|_, paths| paths.remove(), "remove a part of an upload").await?;
            if !directories.contains(&session.paths.directory) {
                directories.push(session.paths.directory.clone());
            }
        }
        if let Some(session) = self.sessions.first() {
            let sync = move |_: &Files, _: &Paths| directories.iter().try_for_each(|path| sync_entries(path));
            session.run(sync, "sync a directory of uploads").await?;
        }
        for session in self.sessions {
            session.release().await;
        }
        Ok(())
    }
}

impl ByteSource<Block> for StagedParts {
    async fn read(&mut self, block: Block, _: ReadPace) -> (Result<ReadProgress, SourceError>, Block) {
        loop {
            let (index, offset) = self.position;
            let Some(session) = self.order.get(index).and_then(|index| self.sessions.get(*index)) else {
                return (Ok(ReadProgress::End), block);
            };
            if offset == session.upload.progress.offset {
                self.position = (index + 1, 0);
                continue;
            }
            let left = session.upload.progress.offset - offset;
            return match session.read_block(block, offset, left.min(READ_BYTES_MAX) as usize).await {
                Ok((0, back)) => {
                    self.failure = Some(StoreError::Damaged);
                    (Err(SourceError::Disconnected), back)
                }
                Ok((count, back)) => {
                    self.position.1 += count as u64;
                    (Ok(ReadProgress::Bytes(count)), back)
                }
                Err(error) => {
                    self.failure = Some(error);
                    // The block that was lent is the read's, which may still write to it.
                    (Err(SourceError::Disconnected), BufferPool::sole_large_block())
                }
            };
        }
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(None)
    }
}
