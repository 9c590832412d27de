//! One blob on its way in: bytes are received into pooled, aligned blocks, hashed where they lie, and written
//! while the next ones come in. Runs on a data-plane core; what blocks goes to its helper threads.
//!
//! ```text
//! socket ──► block being filled ──► hash of what just came (in slices, beside that of another upload)
//!                  │ full
//!                  ▼
//!            up to two writes in flight in the kernel, while the next block is received and hashed
//! ```
//! A body that may go into a pack is not written before its end: it is in one block then, and the log writes it. One
//! that fits a block and goes to a file all the same is left to one helper thread, which does everything at once.
//! A body that goes on gets a file once it has filled a large block, or its sender pauses: whoever begins very many and goes
//! away has made none. Its blocks are small while it is slow, and large while it is fast.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use paired_sha256::Sha256;

use super::blob_file::{UnfinishedFile, WriteMode, remove_blob};
use super::file_store::{FileStoreParts, helper_failed};
use super::log_entry::{Content, ContentBytes};
use super::root::StorageRoot;
use crate::application::errors::{ReceiveError, StoreError};
use crate::application::ports::{BlobUpload, BodyState, ByteSource, Published, ReadPace, ReadProgress};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, Place, TenantId};
use crate::infrastructure::data_plane::buffers::{ALIGNMENT_BYTES, Block};
use crate::infrastructure::data_plane::helpers::HelperPool;
use crate::infrastructure::data_plane::runtime::{DataFile, Task, spawn, spawn_unless_ended};
use crate::infrastructure::metrics::{Phase, note_since};

/// How many writes of one upload the kernel works on at once: one to write, one behind it.
const WRITES_IN_FLIGHT_MAX: usize = 2;
/// A small block that filled within this time earns its upload a large one.
const FAST_FILL: Duration = Duration::from_millis(50);

/// A blob that is being written.
pub struct FileUpload {
    parts: Rc<FileStoreParts>,
    root: Arc<StorageRoot>,
    tenant_id: TenantId,
    length_bytes: Option<u64>,
    place: Place,
    hasher: Sha256,
    received_bytes: u64,
    /// The block being filled; there is one from the first read until `publish`.
    block: Option<Block>,
    fill_started: Instant,
    file: Option<OpenFile>,
}

/// The file of an upload that goes on, and the writes that are under way to it.
struct OpenFile {
    /// Taken by `publish`.
    unfinished: Option<UnfinishedFile>,
    helpers: Rc<HelperPool>,
    data: Rc<DataFile>,
    /// Where the next write goes: every byte before has been written or is in flight.
    offset: u64,
    in_flight: VecDeque<Task<std::io::Result<Block>>>,
}

impl FileUpload {
    pub(super) fn new(
        parts: Rc<FileStoreParts>,
        root: Arc<StorageRoot>,
        tenant_id: TenantId,
        length_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        if root.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        // Lent later, but whoever would get none is told before it sends anything.
        if !parts.buffers.can_receive(length_bytes) {
            return Err(StoreError::Overloaded);
        }
        let place = parts.places.next();
        Ok(Self {
            parts,
            root,
            tenant_id,
            length_bytes,
            place,
            hasher: Sha256::new(),
            received_bytes: 0,
            block: None,
            fill_started: Instant::now(),
            file: None,
        })
    }

    /// Whether it has made a file.
    #[cfg(test)]
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    fn helpers(&self) -> &Rc<HelperPool> {
        self.parts.helpers.writing(self.root.class())
    }

    fn take_block(&mut self) -> Block {
        match self.block.take() {
            Some(block) => block,
            None => crate::invariant::broken("an upload has a block to fill between its reads"),
        }
    }

    /// One read into the block, and the hash of what it brought. It does not last for long where others could use what
    /// the upload holds besides.
    async fn read(
        &mut self,
        source: &mut impl ByteSource<Block>,
        holds_others: bool,
    ) -> Result<ReadProgress, ReceiveError> {
        let block = self.take_block();
        let before = block.len();
        let pace = if block.is_large() || holds_others { ReadPace::Brisk } else { ReadPace::Patient };
        let (progress, block) = source.read(block, pace).await;
        let (progress, part) = (progress?, before..block.len());
        self.received_bytes += part.len() as u64;
        let hasher = std::mem::take(&mut self.hasher);
        let (hasher, block) = self.parts.hashing.hash(hasher, block, part, source).await;
        (self.hasher, self.block) = (hasher, Some(block));
        Ok(progress)
    }

    async fn open_file(&self) -> Result<OpenFile, StoreError> {
        let (root, place, length_bytes) = (self.root.clone(), self.place, self.length_bytes);
        let create = move || {
            let unfinished = UnfinishedFile::create(&root, place, WriteMode::Direct, length_bytes)?;
            let second = unfinished.file().try_clone();
            let second = second.map_err(|error| StoreError::io("duplicate a descriptor", error))?;
            Ok::<_, StoreError>((unfinished, second))
        };
        let helpers = self.helpers();
        let (unfinished, second) = helpers.run(create).await.map_err(helper_failed)??;
        let data = DataFile::from_std(second, self.parts.driver, helpers)
            .map_err(|error| StoreError::io("register a blob file", error))?;
        Ok(OpenFile {
            unfinished: Some(unfinished),
            helpers: helpers.clone(),
            data: Rc::new(data),
            offset: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// The upload's file, which is made now if there is none yet.
    async fn take_file(&mut self) -> Result<OpenFile, StoreError> {
        match self.file.take() {
            Some(file) => Ok(file),
            None => self.open_file().await,
        }
    }

    /// Moves what has filled a small block quickly to a large one, before anything is written.
    fn grow_before_file(&mut self) -> bool {
        self.file.is_none() && self.fill_started.elapsed() < FAST_FILL && self.grow_block()
    }

    /// Hands the full block to the kernel and gets another one to fill.
    async fn write_and_replace_block(&mut self, file: &mut OpenFile) -> Result<(), StoreError> {
        let full = self.take_block();
        let fast = full.is_large() || self.fill_started.elapsed() < FAST_FILL;
        let returned = file.write(full).await?;
        let fresh = match returned.filter(|block| block.is_large() == fast) {
            Some(block) => Some(block),
            None if fast => {
                let large = self.parts.buffers.large_block(&self.tenant_id);
                large.or_else(|| self.parts.buffers.small_block_to_receive())
            }
            None => self.parts.buffers.small_block_to_receive(),
        };
        let block = match fresh {
            Some(block) => block,
            // The pool is empty: go on with a block of this very upload, once it is written.
            None => file.finish_oldest_write().await?.ok_or(StoreError::Overloaded)?,
        };
        self.block = Some(block);
        self.fill_started = Instant::now();
        Ok(())
    }

    /// Gives up what a slow sender has no use for: all blocks but a small one.
    async fn give_up_blocks(&mut self, file: &mut OpenFile) -> Result<(), StoreError> {
        if self.block.as_ref().is_some_and(Block::is_large) {
            self.shrink_block(file).await?;
        }
        while file.finish_oldest_write().await?.is_some() {}
        Ok(())
    }

    /// Gives up a large block that waits for a slow sender: what can be written is written, the rest moves.
    async fn shrink_block(&mut self, file: &mut OpenFile) -> Result<(), StoreError> {
        let Some(mut small) = self.parts.buffers.small_block_to_receive() else { return Ok(()) };
        let mut large = self.take_block();
        let aligned = large.len() - large.len() % ALIGNMENT_BYTES;
        small.append(&large.bytes()[aligned..]);
        large.truncate(aligned);
        self.block = Some(small);
        self.fill_started = Instant::now();
        if !large.is_empty() {
            file.write(large).await?;
        }
        Ok(())
    }

    /// Whether a body of `bytes` may go into a pack, as far as is known.
    fn fits_pack(&self, bytes: u64) -> bool {
        self.parts.packs.take(bytes)
    }

    /// Whether the body can still end within what a pack takes, though there is more of it.
    fn may_fit_pack(&self) -> bool {
        self.fits_pack(self.length_bytes.unwrap_or(0).max(self.received_bytes + 1))
    }

    /// Moves to a large block, if there is one and the body is not in one already.
    fn grow_block(&mut self) -> bool {
        if self.block.as_ref().is_none_or(Block::is_large) {
            return false;
        }
        let Some(mut large) = self.parts.buffers.large_block(&self.tenant_id) else { return false };
        large.append(self.take_block().bytes());
        self.block = Some(large);
        true
    }

    /// Leaves the body to the log: now, or together with the change that names it.
    async fn publish_in_pack(mut self) -> Result<Published<Block>, StoreError> {
        let bytes = self.take_block();
        if self.parts.packs.with_changes {
            return Ok(Published::Loose(bytes));
        }
        let content = Content { content_hash: self.content().0, bytes: ContentBytes::Given(bytes) };
        self.parts.packs.of(self.root.class()).append_content(content).await.map(Published::Stored)
    }

    /// Stores a body that is in one block.
    async fn publish_whole(mut self) -> Result<Place, StoreError> {
        let (location, size_bytes, root) = (self.location(), self.received_bytes, self.root.clone());
        let mut block = self.take_block();
        let mode = if block.is_large() { WriteMode::Direct } else { WriteMode::Cached };
        if mode == WriteMode::Direct {
            block.pad_to_alignment();
        }
        let block = Arc::new(Mutex::new(Some(block)));
        let handed_over = block.clone();
        let publish = move || {
            let Some(block) = take(&handed_over) else { return Err(StoreError::TimedOut) };
            let unfinished = UnfinishedFile::create(&root, location.place, mode, None)?;
            std::io::Write::write_all(&mut unfinished.file(), block.bytes())
                .map_err(|error| StoreError::io("write a blob", error))?;
            unfinished.publish(&location, size_bytes)
        };
        let published = self.run_publish(publish, location).await;
        // A job that waits behind others that hang keeps no block that is of use elsewhere.
        drop(take(&block));
        published
    }

    /// Runs a job that publishes at `location`. If it comes too late, what it published is removed again by the
    /// helper itself: nothing will ever name it.
    async fn run_publish(
        &self,
        publish: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
        location: BlobLocation,
    ) -> Result<Place, StoreError> {
        let root = self.root.clone();
        let undo = move |published: Result<(), StoreError>| {
            if published.is_ok()
                && let Err(error) = remove_blob(&root, &location)
            {
                tracing::warn!(%error, hash = %location.content_hash, "a blob that was stored too late could not be removed; the next start sweeps it");
            }
        };
        let (metrics, started) = (self.parts.metrics.root(location.storage_class), Instant::now());
        let published = self.helpers().run_or_undo(publish, undo).await.map_err(helper_failed).flatten();
        note_since(Phase::Sync, started);
        match published {
            Ok(()) => metrics.file_syncs.record(started.elapsed()),
            Err(_) => metrics.failed_syncs.add(1),
        }
        published.map(|()| location.place)
    }

    async fn publish_file(mut self, mut file: OpenFile) -> Result<Place, StoreError> {
        let (mut block, location, size_bytes) = (self.take_block(), self.location(), self.received_bytes);
        if !block.is_empty() {
            block.pad_to_alignment();
            file.write(block).await?;
        }
        while file.finish_oldest_write().await?.is_some() {}
        let Some(unfinished) = file.unfinished.take() else {
            crate::invariant::broken("an upload's file is published once");
        };
        self.run_publish(move || unfinished.publish(&location, size_bytes), location).await
    }

    fn location(&self) -> BlobLocation {
        BlobLocation { storage_class: self.root.class(), content_hash: self.content().0, place: self.place }
    }
}

fn take(block: &Mutex<Option<Block>>) -> Option<Block> {
    // The lock is held for this move only, which cannot panic.
    block.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A file that got no name, on its way to a helper thread. Whoever closes it last frees its blocks, which takes a
/// while, and on a disk that hangs for ever: it must not be the core.
struct Abandoned {
    unfinished: Option<UnfinishedFile>,
    helpers: Rc<HelperPool>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.helpers.dispose(self.unfinished.take());
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(unfinished) = self.unfinished.take() else { return };
        let abandoned = Abandoned { unfinished: Some(unfinished), helpers: self.helpers.clone() };
        let (in_flight, data) = (std::mem::take(&mut self.in_flight), self.data.clone());
        spawn_unless_ended(async move {
            for write in in_flight {
                // Its outcome is of no interest any more, but it uses the file.
                let _ = write.await;
            }
            if let Some(data) = Rc::into_inner(data) {
                data.close().await;
            }
            drop(abandoned);
        });
    }
}

impl OpenFile {
    /// Starts writing a block at the end. If too many writes are in flight then, waits for the oldest and returns
    /// its block.
    async fn write(&mut self, block: Block) -> Result<Option<Block>, StoreError> {
        let (data, offset) = (self.data.clone(), self.offset);
        self.offset += block.len() as u64;
        self.in_flight.push_back(spawn(async move { data.write_block_at(block, offset).await }));
        if self.in_flight.len() > WRITES_IN_FLIGHT_MAX { self.finish_oldest_write().await } else { Ok(None) }
    }

    async fn finish_oldest_write(&mut self) -> Result<Option<Block>, StoreError> {
        let Some(write) = self.in_flight.front_mut() else { return Ok(None) };
        // One that is late stays where it is, with its block.
        let started = Instant::now();
        let written = self.helpers.limit().within(write).await;
        note_since(Phase::Write, started);
        let written = written.ok_or(StoreError::TimedOut)?;
        self.in_flight.pop_front();
        let mut block = written.map_err(|error| StoreError::io("write a blob", error))?;
        block.clear();
        Ok(Some(block))
    }
}

impl BlobUpload for FileUpload {
    type Buffer = Block;

    async fn receive_first(
        &mut self,
        source: &mut impl ByteSource<Block>,
    ) -> Result<BodyState, ReceiveError> {
        let lent = match source.gather().await? {
            BodyState::Ended => self.parts.buffers.small_block_for_whole_body(),
            BodyState::Open => self.parts.buffers.small_block_to_receive(),
        };
        self.block = Some(lent.ok_or(StoreError::Overloaded)?);
        self.fill_started = Instant::now();
        loop {
            let full = self.block.as_ref().is_none_or(|block| block.room() == 0);
            let large = self.block.as_ref().is_some_and(Block::is_large);
            if full || large && !self.fits_pack(self.received_bytes) {
                // A body that fills the block to its last byte may have ended too, and need not be treated as a large
                // one.
                if self.length_bytes == Some(self.received_bytes) {
                    return Ok(BodyState::Ended);
                }
                if !(full && self.may_fit_pack() && self.grow_block()) {
                    return Ok(BodyState::Open);
                }
            }
            match self.read(source, false).await? {
                ReadProgress::Bytes(_) => {}
                // A large block is not kept for a slow sender.
                ReadProgress::Stalled => return Ok(BodyState::Open),
                ReadProgress::End => return Ok(BodyState::Ended),
            }
        }
    }

    async fn receive_rest(&mut self, source: &mut impl ByteSource<Block>) -> Result<(), ReceiveError> {
        loop {
            let full = self.block.as_ref().is_some_and(|block| block.room() == 0);
            if full && self.length_bytes == Some(self.received_bytes) {
                return Ok(());
            }
            if full && !self.grow_before_file() {
                let mut file = self.take_file().await?;
                self.write_and_replace_block(&mut file).await?;
                self.file = Some(file);
            }
            // Blocks that have been written come back only when they are asked for.
            let holds_others = self.file.as_ref().is_some_and(|file| !file.in_flight.is_empty());
            match self.read(source, holds_others).await? {
                ReadProgress::Bytes(_) => {}
                ReadProgress::Stalled => {
                    let mut file = self.take_file().await?;
                    self.give_up_blocks(&mut file).await?;
                    self.file = Some(file);
                }
                ReadProgress::End => return Ok(()),
            }
        }
    }

    fn content(&self) -> (ContentHash, u64) {
        (ContentHash::from_bytes(self.hasher.finish()), self.received_bytes)
    }

    fn take_loose(&mut self) -> Option<Block> {
        let is_loose =
            self.file.is_none() && self.parts.packs.with_changes && self.fits_pack(self.received_bytes);
        is_loose.then(|| self.take_block())
    }

    async fn publish(mut self) -> Result<Published<Block>, StoreError> {
        match self.file.take() {
            Some(file) => self.publish_file(file).await.map(Published::Stored),
            None if self.fits_pack(self.received_bytes) => self.publish_in_pack().await,
            None => self.publish_whole().await.map(Published::Stored),
        }
    }
}
