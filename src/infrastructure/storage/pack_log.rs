//! One core's way into the packs of one root: what comes is written batch by batch, each batch one durable write. Runs
//! on a data-plane core; packs are made ahead by its helper threads.
//!
//! ```text
//! append ─┐                                              ┌─► durable: sent on in the order of the log, then answered
//! append ─┼─► a batch that fills ──► one batch in flight ┤
//! append ─┘   (the rest waits)                           └─► failed: the pack is given up at the end of its last good batch
//! ```
//! An idle log writes at once; a busy one writes everything that came while the batch before was in flight. Only what comes
//! one behind the other, and nobody waits for yet, waits for a moment for more of it. The two batches are the halves of a
//! huge page, by turns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::file_store::helper_failed;
use super::filling::{Entry, Filling, Sealed};
use super::log_entry::{Body, Change, Content, ContentBytes, Pace};
use super::log_record;
use super::pack_copy::OpenPacks;
use super::pack_file::{create_pack, remove_pack};
use super::pack_format::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchLink, PACK_BLOCK_BYTES, PackHeader};
use super::root::StorageRoot;
use crate::application::errors::StoreError;
use crate::domain::value_objects::{InstanceId, PackId, Place};
use crate::infrastructure::data_plane::buffers::{Block, BufferPool};
use crate::infrastructure::data_plane::helpers::HelperPool;
use crate::infrastructure::data_plane::runtime::{DataFile, IoDriver, Task, spawn, within};
use crate::infrastructure::metrics::{CoreMetrics, Phase, RootMetrics, note};
use crate::infrastructure::plane_channel::{LogOrder, PackMark, Write};

/// The length of a run's first packs: an idle server takes little of a disk.
const PACK_BYTES_FIRST: u64 = 4 * 1024 * 1024;
/// The length of packs once a run has filled some: each is twice as long as the one before, up to this.
const PACK_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// And up to one part in so many of a small file system.
const PACK_PART: u64 = 64;
/// The end of a pack that takes only records without bytes, so that on a full disk objects can still be deleted.
const BYTELESS_RESERVE_BYTES: u64 = 256 * 1024;

/// How long a change waits for others [that follow it](Pace::OthersFollow), or up to 1 ms longer…
const GATHER: Duration = Duration::from_millis(1);
/// …and up to how many bytes of them.
const GATHERED_BYTES_MAX: usize = BATCH_BYTES_MAX / 2;
/// How many batches' memory is kept: of one that is in flight, and of one that fills.
const SPARE_BLOCKS_MAX: usize = 2;

/// What a log needs to be.
pub struct PackLogParts {
    /// Where its packs are.
    pub root: Arc<StorageRoot>,
    /// Who makes them.
    pub helpers: Rc<HelperPool>,
    /// How they are written.
    pub driver: IoDriver,
    /// This run of the process.
    pub instance: InstanceId,
    /// Which of its cores this is.
    pub core: u32,
    /// The order of all changes, where the log gives it.
    pub order: Option<Arc<LogOrder>>,
    /// The packs that are being written to.
    pub open: Arc<OpenPacks>,
    /// Where the core counts.
    pub metrics: Arc<CoreMetrics>,
}

/// The log of one core in one root.
pub struct PackLog {
    parts: PackLogParts,
    next_entry: Cell<u64>,
    writing: Cell<bool>,
    state: RefCell<State>,
    /// Memory for what is appended next.
    details: RefCell<Vec<u8>>,
    /// Whom to wake when what is gathered is to be written.
    gathering: RefCell<Option<Waker>>,
}

struct State {
    current: Option<OpenPack>,
    next: Option<Task<Result<OpenPack, StoreError>>>,
    next_pack_bytes: u64,
    /// The next batch, once something has come for it.
    filling: Option<Filling>,
    /// What the next batch has no room for. Where anything waits, all that comes waits behind it.
    waiting: VecDeque<Waiting>,
    /// What batches fill that are not in flight: two, as a rule.
    spare: Vec<Block>,
    /// Whether somebody waits for what has not been written.
    is_waited_for: bool,
}

/// An entry whose bytes are not in a batch yet.
struct Waiting {
    entry: Entry,
    body: Body,
    details: Vec<u8>,
}

/// A pack that batches are written to.
struct OpenPack {
    file: Rc<DataFile>,
    pack: PackId,
    pack_bytes: u64,
    /// Where the next batch begins.
    position: u64,
    link: BatchLink,
}

/// What is on its way into the log. It goes there also where nobody waits for it.
pub struct Appending {
    log: Rc<PackLog>,
    number: u64,
    started: Instant,
    place: oneshot::Receiver<Result<Durable, StoreError>>,
}

impl Appending {
    /// Waits until it is durable, and says where.
    ///
    /// # Errors
    /// As [`append_change`](PackLog::append_change).
    pub async fn durable(self) -> Result<Place, StoreError> {
        let Self { log, number, started, mut place } = self;
        let gone = || StoreError::io("write the log", std::io::Error::other("the log has ended"));
        // Each batch has a limit of its own; this one is for many batches that are all slow.
        let durable = match log.parts.helpers.limit().within_since(started, &mut place).await {
            None if log.withdraw(number) => return Err(StoreError::TimedOut),
            // It is in the batch in flight, which nobody can take back: what comes of that has to be known.
            None => place.await,
            Some(durable) => durable,
        };
        let Durable { place, written_in } = durable.map_err(|_| gone())??;
        note(Phase::Sync, written_in);
        note(Phase::Queue, started.elapsed().saturating_sub(written_in));
        Ok(place)
    }
}

/// What whoever waits for it is told.
pub(super) struct Durable {
    place: Place,
    /// How long the write of its batch took. The rest of the time it has waited for its turn.
    written_in: Duration,
}

/// A batch that is ready to be written.
struct Batch {
    block: Block,
    offset: u64,
    end: u64,
    next_link: BatchLink,
    written: Vec<(Place, Entry)>,
}

impl PackLog {
    /// A log without a pack yet.
    pub fn new(parts: PackLogParts) -> Rc<Self> {
        let state = State {
            current: None,
            next: None,
            next_pack_bytes: PACK_BYTES_FIRST,
            filling: None,
            waiting: VecDeque::new(),
            spare: Vec::new(),
            is_waited_for: false,
        };
        Rc::new(Self {
            parts,
            next_entry: Cell::new(0),
            writing: Cell::new(false),
            state: RefCell::new(state),
            details: RefCell::default(),
            gathering: RefCell::default(),
        })
    }

    /// Begins to make the first pack, so that the first upload finds it.
    pub fn prepare(&self) {
        let mut state = self.state.borrow_mut();
        if state.current.is_none() && state.next.is_none() {
            state.next = Some(self.make_pack(state.next_pack_bytes));
        }
    }

    /// Whether the root has turned read-only.
    pub fn is_read_only(&self) -> bool {
        self.parts.root.is_read_only()
    }

    /// Makes bytes durable, without a name.
    ///
    /// # Errors
    /// [`StoreError`]: nothing names them, and nothing will.
    pub async fn append_content(self: &Rc<Self>, content: Content<'_>) -> Result<Place, StoreError> {
        self.append(Some(content), None).await
    }

    /// Makes a change durable, its bytes with it if it brings any, and sends it on to the metadata plane.
    ///
    /// # Errors
    /// [`StoreError`]: it has not happened, and never will.
    pub async fn append_change(
        self: &Rc<Self>,
        change: Change,
        content: Option<Content<'_>>,
    ) -> Result<Place, StoreError> {
        self.append(content, Some(change)).await
    }

    /// As [`append_change`](Self::append_change), up to where nothing is left but to wait.
    ///
    /// # Errors
    /// As [`append_change`](Self::append_change); nothing is on its way then.
    pub fn begin_change(
        self: &Rc<Self>,
        change: Change,
        content: Option<Content<'_>>,
        pace: Pace,
    ) -> Result<Appending, StoreError> {
        self.begin(content, Some(change), pace)
    }

    /// Writes what waits for others to follow.
    pub fn hasten(&self) {
        let mut state = self.state.borrow_mut();
        if state.filling.as_ref().is_some_and(|filling| !filling.is_empty()) {
            state.is_waited_for = true;
            drop(state);
            self.end_gathering();
        }
    }

    fn end_gathering(&self) {
        if let Some(waker) = self.gathering.take() {
            waker.wake();
        }
    }

    async fn append(
        self: &Rc<Self>,
        content: Option<Content<'_>>,
        change: Option<Change>,
    ) -> Result<Place, StoreError> {
        self.begin(content, change, Pace::Now)?.durable().await
    }

    fn begin(
        self: &Rc<Self>,
        content: Option<Content<'_>>,
        change: Option<Change>,
        pace: Pace,
    ) -> Result<Appending, StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let mut details = self.details.take();
        details.clear();
        if let Some(change) = &change {
            log_record::encode(&change.write, content.is_some(), &mut details);
        }
        let (durable, place) = oneshot::channel();
        let started = Instant::now();
        let number = self.next_entry.get();
        self.next_entry.set(number + 1);
        let (content_hash, bytes) = content.map(|content| (content.content_hash, content.bytes)).unzip();
        let body = bytes.as_ref().map_or(&[][..], |bytes| bytes.bytes());
        let entry = Entry {
            number,
            content_hash,
            body_bytes: length_in_record(body),
            // Now, since they have just been hashed.
            body_checksum: crc32c::crc32c(body),
            details_bytes: length_in_record(&details),
            change,
            durable,
        };
        if BATCH_HEADER_BYTES + entry.record_bytes() > BATCH_BYTES_MAX {
            // A precondition can be as long as a header section, whose limit is a setting.
            return Err(StoreError::io("write the log", std::io::ErrorKind::FileTooLarge.into()));
        }
        if self.put(entry, bytes, details, pace) {
            self.end_gathering();
        }
        if !self.writing.replace(true) {
            // It runs after whatever else is ready on this core now, and takes what that appends with it.
            drop(spawn(self.clone().write_all()));
        }
        Ok(Appending { log: self.clone(), number, started, place })
    }

    /// Puts an entry into the batch that fills, or where it waits for the one after that. Says whether it is time to write.
    fn put(&self, entry: Entry, bytes: Option<ContentBytes<'_>>, details: Vec<u8>, pace: Pace) -> bool {
        let state = &mut *self.state.borrow_mut();
        let mut filling = state.take_filling();
        if state.waiting.is_empty() && filling.has_room(&entry) {
            filling.push(entry, bytes.as_ref().map_or(&[][..], |bytes| bytes.bytes()), &details);
            self.details.replace(details);
        } else {
            let body = bytes.map_or(Body::None, ContentBytes::keep);
            state.waiting.push_back(Waiting { entry, body, details });
        }
        state.filling = Some(filling);
        state.is_waited_for |= pace == Pace::Now;
        !state.gathers()
    }

    fn metrics(&self) -> &RootMetrics {
        self.parts.metrics.root(self.parts.root.class())
    }

    /// Takes back what has not been written yet, and says whether that was so.
    fn withdraw(&self, number: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let is_meant = |entry: &Entry| entry.number == number;
        let withdrawn = state.filling.as_mut().map(|filling| filling.take_out(is_meant)).unwrap_or_default();
        if !withdrawn.is_empty() {
            return true;
        }
        let index = state.waiting.iter().position(|waiting| is_meant(&waiting.entry));
        index.is_some_and(|index| state.waiting.remove(index).is_some())
    }

    /// Writes batches until nothing waits.
    async fn write_all(self: Rc<Self>) {
        while self.state.borrow_mut().fill() {
            self.gather().await;
            if let Err(error) = self.make_room().await {
                self.fail_what_has_no_room(error);
            }
            let Some(batch) = self.next_batch() else { continue };
            self.write(batch).await;
        }
        self.writing.set(false);
    }

    /// Waits for more, where it is known to come and nobody waits for what is here.
    async fn gather(&self) {
        if !self.state.borrow().gathers() {
            return;
        }
        let is_time = poll_fn(|context| {
            if !self.state.borrow().gathers() {
                return Poll::Ready(());
            }
            self.gathering.replace(Some(context.waker().clone()));
            Poll::Pending
        });
        let _ = within(GATHER, is_time).await;
        self.gathering.take();
    }

    /// Makes sure that the first of those that wait fits the current pack.
    async fn make_room(&self) -> Result<(), StoreError> {
        if self.first_fits() {
            return Ok(());
        }
        let next = {
            let mut state = self.state.borrow_mut();
            let pack_bytes = state.next_pack_bytes;
            state.next.take().unwrap_or_else(|| self.make_pack(pack_bytes))
        };
        let made = next.await?;
        let mut state = self.state.borrow_mut();
        state.next_pack_bytes = length_of_next_pack(made.pack_bytes, self.parts.root.size_bytes());
        let full = state.current.replace(made);
        drop(state);
        if let Some(full) = full {
            self.close(full);
        }
        Ok(())
    }

    fn first_fits(&self) -> bool {
        let state = self.state.borrow();
        let first = state.filling.as_ref().and_then(|filling| filling.entries().next());
        let (Some(first), Some(current)) = (first, &state.current) else { return first.is_none() };
        current.fits(first, BATCH_HEADER_BYTES)
    }

    fn make_pack(&self, pack_bytes: u64) -> Task<Result<OpenPack, StoreError>> {
        let PackLogParts { root, helpers, driver, instance, core, .. } = &self.parts;
        let (root, helpers, driver) = (root.clone(), helpers.clone(), *driver);
        let (instance, core, storage_class) = (*instance, *core, root.class());
        let pack = PackId::generate();
        let open = self.parts.open.clone();
        open.add(pack);
        spawn(async move {
            let undo_root = root.clone();
            let create =
                move || create_pack(&root, &PackHeader { pack, pack_bytes, instance, core, storage_class });
            let undo = move |made: Result<_, _>| {
                if made.is_ok() {
                    remove_pack(&undo_root, pack);
                }
            };
            let made = helpers.run_or_undo(create, undo).await.map_err(helper_failed).flatten();
            let file = made.and_then(|file| {
                DataFile::from_std(file, driver, &helpers)
                    .map_err(|error| StoreError::io("register a pack", error))
            });
            let file = file.inspect_err(|_| open.remove(pack))?;
            let (file, position) = (Rc::new(file), PACK_BLOCK_BYTES as u64);
            Ok(OpenPack { file, pack, pack_bytes, position, link: BatchLink::FIRST })
        })
    }

    /// There is no other pack to be had: what does not fit the current one is refused.
    fn fail_what_has_no_room(&self, error: StoreError) {
        let mut refused = Vec::new();
        {
            let State { current, filling, waiting, .. } = &mut *self.state.borrow_mut();
            let fits = |entry: &Entry| {
                current.as_ref().is_some_and(|current| current.fits(entry, BATCH_HEADER_BYTES))
            };
            if let Some(filling) = filling {
                refused = filling.take_out(|entry| !fits(entry));
            }
            for entry in std::mem::take(waiting) {
                match fits(&entry.entry) {
                    true => waiting.push_back(entry),
                    false => refused.push(entry.entry),
                }
            }
        }
        let mut error = Some(error);
        refused.into_iter().for_each(|entry| entry.fail(error.take().unwrap_or(StoreError::NoSpace)));
    }

    /// All of the batch that fits the current pack, in its order.
    fn next_batch(&self) -> Option<Batch> {
        let state = &mut *self.state.borrow_mut();
        let (pack, offset, link) =
            state.current.as_ref().map(|current| (current.pack, current.position, current.link))?;
        let mut filling = state.filling.take()?;
        let fitting = state.current.as_ref().map_or(0, |current| current.fitting(&filling));
        if fitting == 0 {
            state.filling = Some(filling);
            return None;
        }
        if fitting < filling.entries().count() {
            let block = state.take_spare();
            state.filling = Some(filling.split_off(fitting, block));
        }
        let Sealed { block, entries, next_link } = filling.seal((pack, offset), link);
        // Whoever waits may wait for something of the rest.
        state.is_waited_for &= state.filling.is_some() || !state.waiting.is_empty();
        state.fill();
        let end = offset + block.len() as u64;
        Some(Batch { block, offset, end, next_link, written: entries })
    }

    async fn write(&self, batch: Batch) {
        let Some((file, pack)) =
            self.state.borrow().current.as_ref().map(|current| (current.file.clone(), current.pack))
        else {
            crate::invariant::broken("a batch is made for the current pack")
        };
        let (block, offset, started) = (batch.block, batch.offset, Instant::now());
        let mut write = spawn(async move { file.write_block_at(block, offset).await });
        let result = match self.parts.helpers.limit().within(&mut write).await {
            // Whatever it was, it is not known what of the batch is there now.
            Some(result) => result.map_err(|source| StoreError::Io { operation: "write the log", source }),
            None => Err(StoreError::TimedOut),
        };
        match result {
            Ok(block) => {
                self.parts.root.note_sync(true);
                let (records, bytes) = (batch.written.len(), batch.end - batch.offset);
                let written_in = started.elapsed();
                self.metrics().note_log_batch(records, bytes, written_in);
                self.note_written(block, batch.end, batch.next_link);
                self.send_on(pack, batch.offset..batch.end, batch.written, written_in);
            }
            Err(error) => self.give_up(pack, &error, batch.offset, batch.written),
        }
    }

    fn note_written(&self, block: Block, end: u64, next_link: BatchLink) {
        let state = &mut *self.state.borrow_mut();
        state.spare.push(block);
        state.spare.truncate(SPARE_BLOCKS_MAX);
        if let Some(current) = &mut state.current {
            (current.position, current.link) = (end, next_link);
            if current.is_half_full() && state.next.is_none() {
                state.next = Some(self.make_pack(state.next_pack_bytes));
            }
        }
    }

    /// The batch is durable: the metadata plane learns of its changes in their order, and then those who wait do.
    fn send_on(&self, pack: PackId, range: Range<u64>, written: Vec<(Place, Entry)>, written_in: Duration) {
        let storage_class = self.parts.root.class();
        let sequence_of = |change: &Option<Change>| change.as_ref().map(|change| change.ticket.sequence());
        let last = written.iter().filter_map(|(_, entry)| sequence_of(&entry.change)).max();
        let mut acknowledged = 0;
        let mut answers = Vec::with_capacity(written.len());
        for (place, Entry { change, durable, .. }) in written {
            if let Some(Change { write, ticket, reply }) = change {
                if reply.is_none() {
                    acknowledged = ticket.sequence();
                }
                let applied_end = if Some(ticket.sequence()) == last { range.end } else { range.start };
                ticket.send(write, reply, Some(PackMark { pack, storage_class, applied_end }));
            }
            answers.push((durable, place));
        }
        if let Some(order) = &self.parts.order {
            order.acknowledge(acknowledged);
        }
        for (durable, place) in answers {
            let _ = durable.send(Ok(Durable { place, written_in }));
        }
    }

    /// Closes a pack that is written no more, and whose changes have been sent on, once nothing is in flight to it.
    fn close(&self, full: OpenPack) {
        // Without an order nobody knows when what was written has been named.
        if self.parts.order.is_some() {
            self.parts.open.remove(full.pack);
        }
        if let Some(file) = Rc::into_inner(full.file) {
            drop(spawn(file.close()));
        }
    }

    /// What a failed write has left is not known, and it is not tried again: the pack ends before it, which the
    /// metadata plane notes durably before it goes on to anything that came later.
    fn give_up(&self, pack: PackId, error: &StoreError, end: u64, written: Vec<(Place, Entry)>) {
        tracing::error!(%pack, %error, "the log could not be written; its pack is given up");
        self.metrics().failed_syncs.add(1);
        if matches!(error, StoreError::Io { .. }) {
            self.parts.root.note_sync(false);
        }
        if let Some(current) = self.state.borrow_mut().current.take() {
            self.close(current);
        }
        let storage_class = self.parts.root.class();
        let mut end_of_pack = Some(Write::EndPack { pack, storage_class, end });
        for (_, Entry { change, durable, .. }) in written {
            if let (Some(change), Some(write)) = (change, end_of_pack.take()) {
                change.ticket.send(write, None, None);
            }
            let _ = durable.send(Err(again(error)));
        }
    }
}

/// The same error for each of those that shared the write.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::NoSpace => StoreError::NoSpace,
        StoreError::ReadOnly => StoreError::ReadOnly,
        StoreError::TimedOut => StoreError::TimedOut,
        StoreError::Overloaded => StoreError::Overloaded,
        StoreError::Missing => StoreError::Missing,
        StoreError::Damaged => StoreError::Damaged,
        StoreError::Io { operation, source } => {
            StoreError::Io { operation, source: std::io::Error::from(source.kind()) }
        }
    }
}

impl OpenPack {
    /// Whether it is time to make the next one.
    fn is_half_full(&self) -> bool {
        self.position > self.pack_bytes / 2
    }

    /// Whether an entry fits behind `batch_bytes` of a batch.
    fn fits(&self, entry: &Entry, batch_bytes: usize) -> bool {
        let batch_bytes = batch_bytes + entry.record_bytes();
        let padded = batch_bytes.next_multiple_of(PACK_BLOCK_BYTES) as u64;
        let reserve = if entry.content_hash.is_some() { BYTELESS_RESERVE_BYTES } else { 0 };
        batch_bytes <= BATCH_BYTES_MAX && self.position + padded + reserve <= self.pack_bytes
    }

    /// How many of the first records of a batch fit.
    fn fitting(&self, filling: &Filling) -> usize {
        let mut batch_bytes = BATCH_HEADER_BYTES;
        let fits = |entry: &&Entry| {
            let fits = self.fits(entry, batch_bytes);
            batch_bytes += entry.record_bytes();
            fits
        };
        filling.entries().take_while(fits).count()
    }
}

impl State {
    /// Whether what is here may wait for more.
    fn gathers(&self) -> bool {
        let has_room = |filling: &Filling| !filling.is_empty() && filling.len() < GATHERED_BYTES_MAX;
        !self.is_waited_for && self.waiting.is_empty() && self.filling.as_ref().is_some_and(has_room)
    }

    /// The batch that fills; a new one, if there is none.
    fn take_filling(&mut self) -> Filling {
        match self.filling.take() {
            Some(filling) => filling,
            None => Filling::new(self.take_spare()),
        }
    }

    /// Memory for a batch: there is none at first, and where the disk has kept it.
    fn take_spare(&mut self) -> Block {
        self.spare.pop().unwrap_or_else(|| {
            let [block, other] = BufferPool::sole_large_blocks();
            self.spare.push(other);
            block
        })
    }

    /// Moves what waits into the batch that fills, as far as it has room, and says whether there is anything in it.
    fn fill(&mut self) -> bool {
        if !self.waiting.is_empty() {
            let mut filling = self.take_filling();
            while let Some(Waiting { entry, body, details }) =
                self.waiting.pop_front_if(|waiting| filling.has_room(&waiting.entry))
            {
                filling.push(entry, body.bytes(), &details);
            }
            self.filling = Some(filling);
        }
        self.filling.as_ref().is_some_and(|filling| !filling.is_empty())
    }
}

/// Twice the length of the one before, where that is not too much of its file system.
fn length_of_next_pack(pack_bytes: u64, root_bytes: u64) -> u64 {
    let most = (root_bytes / PACK_PART).min(PACK_BYTES_MAX);
    if 2 * pack_bytes <= most { 2 * pack_bytes } else { pack_bytes }
}

fn length_in_record(part: &[u8]) -> u32 {
    match u32::try_from(part.len()) {
        Ok(length) => length,
        Err(_) => crate::invariant::broken("no part of a record is longer than a batch"),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::super::root::Roots;
    use super::*;
    use crate::domain::value_objects::{ContentHash, ObjectId, Precondition, StorageClass};
    use crate::infrastructure::data_plane::deadline_list::{DeadlineList, WaitLimit};
    use crate::infrastructure::plane_channel::{DataEnd, Durability, plane_channel};

    const LIMIT: Duration = Duration::from_secs(30);

    /// A log whose batches are not written, as if one were in flight.
    fn a_log(directory: &std::path::Path, data_end: &DataEnd, deadlines: &Rc<DeadlineList>) -> Rc<PackLog> {
        let roots = Roots::open(&directory.join("hot"), &directory.join("cold")).unwrap();
        let log = PackLog::new(PackLogParts {
            root: roots.of(StorageClass::Hot).clone(),
            helpers: Rc::new(HelperPool::new(1, WaitLimit::new(deadlines, LIMIT), || ())),
            driver: IoDriver::Epoll,
            instance: InstanceId::from_i64(1),
            core: 0,
            order: data_end.order().cloned(),
            open: Arc::default(),
            metrics: Arc::default(),
        });
        log.writing.set(true);
        log
    }

    fn a_change(data_end: &DataEnd) -> Change {
        let write = Write::Delete { id: ObjectId::generate(), precondition: Precondition::default() };
        Change { ticket: data_end.ticket(&write).unwrap(), write, reply: None }
    }

    #[test]
    fn what_has_waited_too_long_to_be_written_never_is() {
        let directory = tempfile::tempdir().unwrap();
        let (data_end, mut metadata_end) = plane_channel(Durability::Log);
        let deadlines = DeadlineList::new();
        let log = a_log(directory.path(), &data_end, &deadlines);
        let change = a_change(&data_end);
        let sequence = change.ticket.sequence();
        let mut appending = pin!(log.append_change(change, None));
        assert!(appending.as_mut().now_or_never().is_none());
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        assert!(matches!(appending.now_or_never(), Some(Err(StoreError::TimedOut))));
        assert!(!log.state.borrow_mut().fill(), "nothing is left to be written");
        let sent = metadata_end.writes.try_recv().unwrap();
        assert_eq!((sent.write, sent.sequence), (Write::Void, Some(sequence)));
    }

    #[test]
    fn what_others_follow_waits_until_there_is_enough_or_somebody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let (data_end, _metadata_end) = plane_channel(Durability::Log);
        let deadlines = DeadlineList::new();
        let begin = |log: &Rc<PackLog>, body_bytes: usize, pace| {
            let content_hash = ContentHash::from_bytes([1; 32]);
            let content = Content { content_hash, bytes: ContentBytes::Lent(&vec![1; body_bytes]) };
            log.begin_change(a_change(&data_end), Some(content), pace).unwrap()
        };
        let gathers = |log: &Rc<PackLog>| log.state.borrow().gathers();
        let log = a_log(directory.path(), &data_end, &deadlines);
        log.hasten();
        assert!(!gathers(&log), "there is nothing");
        let _first = begin(&log, 100, Pace::OthersFollow);
        assert!(gathers(&log));
        log.hasten();
        assert!(!gathers(&log), "somebody waits");

        let log = a_log(directory.path(), &data_end, &deadlines);
        let _first = begin(&log, 100, Pace::OthersFollow);
        let _second = begin(&log, 100, Pace::Now);
        assert!(!gathers(&log), "it is written with one that comes alone");

        let log = a_log(directory.path(), &data_end, &deadlines);
        let _first = begin(&log, GATHERED_BYTES_MAX / 2, Pace::OthersFollow);
        assert!(gathers(&log));
        let _second = begin(&log, GATHERED_BYTES_MAX / 2, Pace::OthersFollow);
        assert!(!gathers(&log), "there is enough");
        let _third = begin(&log, BATCH_BYTES_MAX / 2, Pace::OthersFollow);
        assert_eq!(log.state.borrow().waiting.len(), 1, "what has no room waits");
        assert!(log.withdraw(0) && log.withdraw(2) && !log.withdraw(2));
        assert!(gathers(&log));
    }

    #[test]
    fn packs_grow_up_to_a_part_of_their_file_system() {
        let (first, large_disk) = (PACK_BYTES_FIRST, 1 << 40);
        assert_eq!(length_of_next_pack(first, large_disk), 2 * first);
        assert_eq!(length_of_next_pack(PACK_BYTES_MAX, large_disk), PACK_BYTES_MAX);
        assert_eq!(length_of_next_pack(first, 2 * first * PACK_PART), 2 * first);
        assert_eq!(length_of_next_pack(first, 2 * first * PACK_PART - 1), first);
        assert_eq!(length_of_next_pack(first, 0), first);
    }
}
