//! The blob store of one core: in two roots, a file for each large blob and packs for the small ones.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;

use super::blob_file::{open_blob, remove_blob};
use super::blob_upload::FileUpload;
use super::hashing::Hashing;
use super::pack_files::PackFiles;
use super::pack_log::PackLog;
use super::pack_reader::PackedBlob;
use super::pack_run::{RunBlob, read_run};
use super::root::Roots;
use crate::application::errors::StoreError;
use crate::application::ports::{self, BlobStore, BufferSize, Section};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ByteRange, InstanceId, Place, StorageClass, TenantId};
use crate::infrastructure::data_plane::buffers::{ALIGNMENT_BYTES, Block, BufferPool};
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::data_plane::descriptors::OpenFiles;
use crate::infrastructure::data_plane::helpers::{
    HelperError, HelperPool, READ_HELPERS_MAX, WRITE_HELPERS_MAX,
};
use crate::infrastructure::data_plane::runtime::{DataFile, IoDriver, spawn};
use crate::infrastructure::metrics::CoreMetrics;

/// Numbers the writes of this process, over all cores.
#[derive(Debug)]
pub struct PlaceSequence {
    instance: InstanceId,
    next: AtomicU64,
}

impl PlaceSequence {
    /// Starts at the first place of `instance`.
    pub fn new(instance: InstanceId) -> Self {
        Self { instance, next: AtomicU64::new(1) }
    }

    /// A place that no other write ever gets.
    pub fn next(&self) -> Place {
        Place::File { instance: self.instance, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

/// What a core's store is made of.
pub struct FileStoreParts {
    /// Where the files are.
    pub roots: Roots,
    /// Where blocks of memory come from.
    pub buffers: BufferPool,
    /// Who makes the system calls that block, for each root.
    pub helpers: RootHelpers,
    /// How files are read and written.
    pub driver: IoDriver,
    /// Where places come from.
    pub places: Arc<PlaceSequence>,
    /// Where small blobs go.
    pub packs: Rc<Packs>,
    /// How many files are kept open for reading. One that is removed meanwhile is closed by
    /// [`FileStore::close_removed`], so that its space is free.
    pub open_files: OpenFiles,
    /// Where what uploads receive is hashed.
    pub hashing: Hashing,
    /// Where the core counts.
    pub metrics: Arc<CoreMetrics>,
}

/// The packs of a core, and what goes into them.
pub struct Packs {
    /// The logs of both roots.
    pub hot: Rc<PackLog>,
    /// And of the other.
    pub cold: Rc<PackLog>,
    /// The largest blob that goes into a pack; 0 sends each to a file of its own.
    pub blob_bytes_max: usize,
    /// Whether bytes wait for the change that names them, and are written with it.
    pub with_changes: bool,
}

impl Packs {
    /// The log that a change without bytes goes to: that of its own root, or of the one that still takes writes.
    pub fn for_change(&self, class: StorageClass) -> &Rc<PackLog> {
        let other = match class {
            StorageClass::Hot => &self.cold,
            StorageClass::Cold => &self.hot,
        };
        if self.of(class).is_read_only() { other } else { self.of(class) }
    }

    /// Whether a blob of so many bytes goes into a pack.
    pub fn take(&self, bytes: u64) -> bool {
        self.blob_bytes_max > 0 && bytes <= self.blob_bytes_max as u64
    }

    /// The log of a root.
    pub fn of(&self, class: StorageClass) -> &Rc<PackLog> {
        match class {
            StorageClass::Hot => &self.hot,
            StorageClass::Cold => &self.cold,
        }
    }
}

/// The helpers of a core, apart for each root and for writing and reading: a disk that hangs keeps those who write to
/// it until it goes on, and they must not keep anyone from the other root, or from what can still be read.
pub struct RootHelpers {
    hot: Lanes,
    cold: Lanes,
}

struct Lanes {
    write: Rc<HelperPool>,
    read: Rc<HelperPool>,
}

impl RootHelpers {
    /// Pools that wait up to `limit`, and whose threads call `prepare_thread` first.
    pub fn new(limit: &WaitLimit, prepare_thread: impl Fn() + Clone + Send + Sync + 'static) -> Self {
        let pool = |threads_max| Rc::new(HelperPool::new(threads_max, limit.clone(), prepare_thread.clone()));
        let lanes = || Lanes { write: pool(WRITE_HELPERS_MAX), read: pool(READ_HELPERS_MAX) };
        Self { hot: lanes(), cold: lanes() }
    }

    /// Those who write to a root.
    pub fn writing(&self, class: StorageClass) -> &Rc<HelperPool> {
        &self.of(class).write
    }

    /// Those who read from a root.
    pub fn reading(&self, class: StorageClass) -> &Rc<HelperPool> {
        &self.of(class).read
    }

    fn of(&self, class: StorageClass) -> &Lanes {
        match class {
            StorageClass::Hot => &self.hot,
            StorageClass::Cold => &self.cold,
        }
    }
}

/// The store of one core.
pub struct FileStore {
    parts: Rc<FileStoreParts>,
    open: RefCell<LruCache<BlobLocation, Rc<FileReader>>>,
    packs: Rc<PackFiles>,
}

/// An open blob.
#[derive(Clone)]
pub enum BlobReader {
    /// In a file of its own.
    File(Rc<FileReader>),
    /// In a pack.
    Packed(PackedBlob),
}

/// An open blob file. It is never written again, so that it can be read by any number of downloads at once.
pub struct FileReader {
    file: DataFile,
    /// The same file around the page cache, for large blobs that are read seldom.
    direct: Option<DataFile>,
    size_bytes: u64,
}

impl ports::BlobReader for BlobReader {
    type Buffer = Block;
    type Source = DataFile;

    fn in_memory(&self, part: ByteRange) -> Option<Section<'_, DataFile>> {
        match self {
            Self::File(reader) => reader.in_memory(part),
            // Its bytes are looked at before they are sent.
            Self::Packed(_) => None,
        }
    }

    async fn read_exact(
        &self,
        bytes: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> (Result<(), StoreError>, Vec<u8>) {
        match self {
            Self::File(reader) => reader.read_exact(bytes, offset, length).await,
            Self::Packed(blob) => blob.read_exact(bytes, offset, length).await,
        }
    }

    async fn read_buffer(&self, block: Block, offset: u64, bytes_max: usize) -> Result<Block, StoreError> {
        match self {
            Self::File(reader) => reader.read_buffer(block, offset, bytes_max).await,
            Self::Packed(blob) => blob.read_buffer(block, offset, bytes_max).await,
        }
    }
}

impl FileReader {
    fn in_memory(&self, part: ByteRange) -> Option<Section<'_, DataFile>> {
        let (offset, length) = (part.offset, part.length);
        self.file.is_in_memory(offset, length).then_some(Section { source: &self.file, offset, length })
    }

    async fn read_exact(
        &self,
        mut bytes: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> (Result<(), StoreError>, Vec<u8>) {
        bytes.reserve_exact(length);
        let start = bytes.len();
        // Most small blobs are in memory: one system call here is cheaper than a round through the ring.
        self.file.read_cached(&mut bytes, length, offset);
        let cached = bytes.len() - start;
        if cached == length {
            return (Ok(()), bytes);
        }
        // Into memory of its own, which may be lost: in `bytes` are the answers to earlier requests.
        match self.read_from_disk(offset + cached as u64, length - cached).await {
            Ok(rest) => {
                bytes.extend_from_slice(&rest);
                (Ok(()), bytes)
            }
            Err(error) => (Err(error), bytes),
        }
    }

    async fn read_buffer(&self, block: Block, offset: u64, bytes_max: usize) -> Result<Block, StoreError> {
        let end = block.len() + block.room().min(bytes_max);
        let mut block = match &self.direct {
            Some(direct) if block.is_empty() => read_direct(direct, block, offset, end).await?,
            _ => block,
        };
        // What is left of a direct read is left because the file is short, or the offset asked for too much.
        let mut position = offset + block.len() as u64;
        while block.len() < end {
            let missing = end - block.len();
            let read = self.file.read_block_at(block, missing, position).await;
            let (count, back) = read.map_err(|error| StoreError::io("read a blob", error))?;
            block = back;
            if count == 0 {
                return Err(StoreError::Damaged);
            }
            position += count as u64;
        }
        Ok(block)
    }

    async fn read_from_disk(&self, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let (missing, position) = (length - bytes.len(), offset + bytes.len() as u64);
            let before = bytes.len();
            let read = self.file.read_at(bytes, missing, position).await;
            bytes = read.map_err(|error| StoreError::io("read a blob", error))?;
            if bytes.len() == before {
                return Err(StoreError::Damaged);
            }
        }
        Ok(bytes)
    }
}

/// Fills an empty block up to `length` bytes from `offset` on, around the page cache: from the page's beginning to the
/// end of the last page. A block that has no room for both gets nothing.
async fn read_direct(file: &DataFile, block: Block, offset: u64, length: usize) -> Result<Block, StoreError> {
    let lead = (offset % ALIGNMENT_BYTES as u64) as usize;
    let aligned = (lead + length).next_multiple_of(ALIGNMENT_BYTES);
    if aligned > block.room() {
        return Ok(block);
    }
    let read = file.read_block_at(block, aligned, offset - lead as u64).await;
    let (_, mut block) = read.map_err(|error| StoreError::io("read a blob", error))?;
    block.truncate(lead + length);
    block.drop_front(lead);
    Ok(block)
}

impl FileStore {
    /// A store of these parts.
    pub fn new(parts: FileStoreParts) -> Self {
        let open = RefCell::new(LruCache::new(parts.open_files.blobs_max));
        let parts = Rc::new(parts);
        let packs = PackFiles::new(parts.clone(), parts.open_files.packs_max);
        Self { parts, open, packs }
    }

    /// The packs that it reads from.
    pub fn pack_files(&self) -> &Rc<PackFiles> {
        &self.packs
    }

    pub(super) fn parts(&self) -> &Rc<FileStoreParts> {
        &self.parts
    }

    /// Begins to make the packs that the first uploads go to.
    pub fn prepare(&self) {
        if self.parts.packs.blob_bytes_max > 0 || self.parts.packs.with_changes {
            // The other root's are made when they are first asked for.
            self.parts.packs.of(StorageClass::Hot).prepare();
        }
    }

    async fn open_file(
        &self,
        location: &BlobLocation,
        size_bytes: u64,
    ) -> Result<Rc<FileReader>, StoreError> {
        let cached = self.open.borrow_mut().get(location).cloned();
        if let Some(reader) = cached {
            return Ok(reader);
        }
        let (root, location) = (self.parts.roots.of(location.storage_class).clone(), *location);
        let helpers = self.parts.helpers.reading(location.storage_class);
        let open = move || open_blob(&root, &location, size_bytes);
        let (file, direct) = helpers.run(open).await.map_err(helper_failed)??;
        let register = |file| {
            DataFile::from_std(file, self.parts.driver, helpers)
                .map_err(|error| StoreError::io("register a blob", error))
        };
        let (file, direct) = (register(file)?, direct.map(register).transpose()?);
        let reader = Rc::new(FileReader { file, direct, size_bytes });
        self.open.borrow_mut().put(location, reader.clone());
        Ok(reader)
    }

    /// Closes the blobs that have been removed while they were open here, by whomever. To be called now and then; a
    /// look at all of them takes about 100 µs.
    pub fn close_removed(&self) {
        self.packs.close_removed();
        let removed: Vec<_> = {
            let open = self.open.borrow();
            open.iter()
                .filter(|(_, reader)| reader.file.is_removed())
                .map(|(location, _)| *location)
                .collect()
        };
        for location in removed {
            let reader = self.open.borrow_mut().pop(&location);
            // Where a download still reads from it, that closes it at its end.
            if let Some(reader) = reader.and_then(Rc::into_inner) {
                let helpers = self.parts.helpers.writing(location.storage_class).clone();
                // A read that has been given up may keep it open for long.
                drop(spawn(async move {
                    reader.file.close_removed(&helpers).await;
                    if let Some(direct) = reader.direct {
                        direct.close_removed(&helpers).await;
                    }
                }));
            }
        }
    }
}

impl BlobStore for FileStore {
    type Buffer = Block;
    type Upload = FileUpload;
    type Reader = BlobReader;

    fn begin(
        &self,
        storage_class: StorageClass,
        length_bytes: Option<u64>,
        tenant_id: &TenantId,
    ) -> Result<FileUpload, StoreError> {
        let root = self.parts.roots.of(storage_class).clone();
        FileUpload::new(self.parts.clone(), root, tenant_id.clone(), length_bytes)
    }

    async fn open(&self, location: &BlobLocation, size_bytes: u64) -> Result<BlobReader, StoreError> {
        let Place::Pack { pack, offset } = location.place else {
            let reader = self.open_file(location, size_bytes).await?;
            let whole = reader.size_bytes == size_bytes;
            return if whole { Ok(BlobReader::File(reader)) } else { Err(StoreError::Damaged) };
        };
        let file = self.packs.open(location.storage_class, pack).await?;
        let source = (file, self.packs.recent().clone());
        let blob = PackedBlob::new(source, (pack, offset), location.content_hash, size_bytes);
        Ok(BlobReader::Packed(blob))
    }

    fn read_run(
        &self,
        blobs: impl Iterator<Item = (BlobLocation, u64)> + Clone,
        scratch: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> usize {
        let pack_of = |location: &BlobLocation| Some((location.storage_class, location.place.pack()?));
        let first = blobs.clone().next().and_then(|(location, _)| pack_of(&location));
        let file = first.and_then(|(class, pack)| self.packs.opened(class, pack));
        let (Some(first), Some(file)) = (first, file) else { return 0 };
        let in_pack = blobs.map_while(|(location, size_bytes)| match location.place {
            Place::Pack { offset, .. } if pack_of(&location) == Some(first) => {
                Some(RunBlob { offset, content_hash: location.content_hash, size_bytes })
            }
            _ => None,
        });
        read_run((&file, first.1), in_pack, scratch, take)
    }

    fn leaves_loose(&self, bytes: u64) -> bool {
        self.parts.packs.with_changes && self.parts.packs.take(bytes)
    }

    fn lend(&self, size: BufferSize, tenant_id: &TenantId) -> Option<Block> {
        match size {
            BufferSize::Small => self.parts.buffers.small_block(),
            BufferSize::Large => self.parts.buffers.large_block(tenant_id),
        }
    }

    async fn check(&self, storage_class: StorageClass) -> Result<(), StoreError> {
        let root = self.parts.roots.of(storage_class).clone();
        let probe = move || match root.is_read_only() {
            true => Err(StoreError::ReadOnly),
            false => root.probe_write().map_err(|error| StoreError::io("write to the root", error)),
        };
        self.parts.helpers.writing(storage_class).run(probe).await.map_err(helper_failed)?
    }

    async fn discard(&self, location: &BlobLocation) {
        if location.place.pack().is_some() {
            // Its pack counts only what has been named; the rest goes when the pack does.
            return;
        }
        self.open.borrow_mut().pop(location);
        let (root, location) = (self.parts.roots.of(location.storage_class).clone(), *location);
        let helpers = self.parts.helpers.writing(location.storage_class);
        // Nothing else would ever remove it before the next start.
        let removed = helpers.run_in_any_case(move || remove_blob(&root, &location)).await;
        if let Err(error) = removed.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, hash = %location.content_hash, "an unused copy could not be removed; the next start sweeps it");
        }
    }
}

pub(super) fn helper_failed(error: HelperError) -> StoreError {
    match error {
        HelperError::Overloaded => StoreError::Overloaded,
        HelperError::TimedOut => StoreError::TimedOut,
        HelperError::Lost => {
            StoreError::Io { operation: "run a storage helper", source: io::Error::other(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack_log::PackLogParts;
    use super::*;
    use std::time::{Duration, Instant};

    use futures_util::FutureExt as _;

    use crate::application::contract::store_contract;
    use crate::application::errors::{ReceiveError, SourceError};
    use crate::application::fakes::FakeSource;
    use crate::application::ports::{BlobUpload as _, ByteSource, Published, ReadPace, ReadProgress};
    use crate::domain::value_objects::ContentHash;
    use crate::infrastructure::data_plane::deadline_list::DeadlineList;
    use crate::infrastructure::data_plane::{buffers, runtime};

    /// Gives a fake body in blocks, and now and then nothing, so that large blocks are given up too.
    struct BlockSource {
        body: FakeSource,
        reads: usize,
    }

    impl ByteSource<Block> for BlockSource {
        async fn read(
            &mut self,
            mut block: Block,
            pace: ReadPace,
        ) -> (Result<ReadProgress, SourceError>, Block) {
            self.reads += 1;
            if pace == ReadPace::Brisk && self.reads.is_multiple_of(29) {
                return (Ok(ReadProgress::Stalled), block);
            }
            // Odd sizes, so that nothing is aligned by chance.
            self.body.set_piece_bytes_max(block.room().min(15_001));
            let (progress, bytes) = self.body.read(Vec::new(), pace).await;
            assert_eq!(block.append(&bytes), bytes.len());
            (progress, block)
        }

        fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
            ByteSource::<Vec<u8>>::declared_hash(&self.body)
        }
    }

    /// Gives so many bytes, then nothing for as long as it is asked briskly, and breaks off once it is not: what the
    /// upload holds then, it would hold for as long as its sender likes.
    struct StallingSource {
        bytes_left: usize,
        buffers: BufferPool,
        bytes_held: usize,
    }

    impl ByteSource<Block> for StallingSource {
        async fn read(
            &mut self,
            mut block: Block,
            pace: ReadPace,
        ) -> (Result<ReadProgress, SourceError>, Block) {
            if self.bytes_left > 0 {
                let count = block.append(&vec![7; self.bytes_left.min(15_001)]);
                self.bytes_left -= count;
                return (Ok(ReadProgress::Bytes(count)), block);
            }
            if pace == ReadPace::Brisk {
                return (Ok(ReadProgress::Stalled), block);
            }
            self.bytes_held = self.buffers.bytes_lent();
            (Err(SourceError::Disconnected), block)
        }

        fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
            Ok(None)
        }
    }

    /// Gives so many bytes without a pause, and then breaks off.
    struct BreakingSource(usize);

    impl ByteSource<Block> for BreakingSource {
        async fn read(
            &mut self,
            mut block: Block,
            _: ReadPace,
        ) -> (Result<ReadProgress, SourceError>, Block) {
            let count = block.append(&vec![7; self.0.min(15_001)]);
            self.0 -= count;
            let progress = (count > 0).then_some(ReadProgress::Bytes(count));
            (progress.ok_or(SourceError::Disconnected), block)
        }

        fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
            Ok(None)
        }
    }

    /// Logs of a core that is alone, for blobs up to `blob_bytes_max`.
    fn packs(roots: &Roots, helpers: &RootHelpers, driver: IoDriver, blob_bytes_max: usize) -> Rc<Packs> {
        let log = |class| {
            PackLog::new(PackLogParts {
                root: roots.of(class).clone(),
                helpers: helpers.writing(class).clone(),
                driver,
                instance: InstanceId::generate(),
                core: 0,
                order: None,
                open: Arc::default(),
                metrics: Arc::default(),
            })
        };
        let (hot, cold) = (log(StorageClass::Hot), log(StorageClass::Cold));
        Rc::new(Packs { hot, cold, blob_bytes_max, with_changes: false })
    }

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn keeps_the_contract(driver: IoDriver, unnamed_files: bool, blob_bytes_max: usize) {
        let directory = tempfile::tempdir().unwrap();
        let (hot, cold) = (directory.path().join("hot"), directory.path().join("cold"));
        let mut roots = Roots::open(&hot, &cold).unwrap();
        if !unnamed_files {
            roots = roots.without_unnamed_files();
        }
        let buffers = BufferPool::new(8 * buffers::LARGE_BLOCK_BYTES);
        let (lent, lending, path) = (buffers.clone(), buffers.clone(), directory.path().to_path_buf());
        let contract = async move {
            let helpers = RootHelpers::new(&WaitLimit::none(), || ());
            let parts = FileStoreParts {
                packs: packs(&roots, &helpers, driver, blob_bytes_max),
                roots,
                buffers,
                helpers,
                driver,
                places: Arc::new(PlaceSequence::new(InstanceId::generate())),
                open_files: OpenFiles::default(),
                hashing: Hashing::default(),
                metrics: Arc::default(),
            };
            let adapt = |body| BlockSource { body, reads: 0 };
            store_contract(FileStore::new(parts), adapt).await;
            // What an abandoned upload still had under way ends in its own time.
            let begin = Instant::now();
            while begin.elapsed() < PATIENCE && (lending.bytes_lent() > 0 || !walk(&path).is_empty()) {
                runtime::sleep(Duration::from_millis(5)).await;
            }
        };
        runtime::run(driver, contract).unwrap();
        assert_eq!(lent.bytes_lent(), 0, "every block came back");
        let left = walk(directory.path());
        assert!(left.is_empty(), "nothing is left: {left:?}");
    }

    /// Stores a body, and opens it.
    async fn stored(store: &FileStore, class: StorageClass, body: &[u8]) -> BlobReader {
        let tenant_id = TenantId::parse("a").unwrap();
        let mut upload = store.begin(class, Some(body.len() as u64), &tenant_id).unwrap();
        let mut source = BlockSource { body: FakeSource::of(body), reads: 0 };
        if upload.receive_first(&mut source).await.unwrap() == ports::BodyState::Open {
            upload.receive_rest(&mut source).await.unwrap();
        }
        let (content_hash, size_bytes) = upload.content();
        let Published::Stored(place) = upload.publish().await.unwrap() else { panic!("there is no log") };
        store.open(&BlobLocation { storage_class: class, content_hash, place }, size_bytes).await.unwrap()
    }

    fn a_store(directory: &tempfile::TempDir, driver: IoDriver) -> FileStore {
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold"));
        let (roots, helpers) = (roots.unwrap(), RootHelpers::new(&WaitLimit::none(), || ()));
        FileStore::new(FileStoreParts {
            packs: packs(&roots, &helpers, driver, 0),
            roots,
            buffers: BufferPool::new(8 * buffers::LARGE_BLOCK_BYTES),
            helpers,
            driver,
            places: Arc::new(PlaceSequence::new(InstanceId::generate())),
            open_files: OpenFiles::default(),
            hashing: Hashing::default(),
            metrics: Arc::default(),
        })
    }

    #[test]
    fn a_part_of_a_large_blob_is_the_same_through_the_page_cache_and_around_it() {
        let body: Vec<u8> = (0..3_000_001).map(|index| (index * 31 % 251) as u8).collect();
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let directory = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
            let test = async {
                let store = a_store(&directory, driver);
                for class in [StorageClass::Hot, StorageClass::Cold] {
                    let reader = stored(&store, class, &body).await;
                    let around = class == StorageClass::Cold && store.parts.roots.of(class).has_direct_io();
                    assert!(matches!(&reader, BlobReader::File(file) if file.direct.is_some() == around));
                    // The beginning and the end of pages, of a block, and of the blob; what fits a block with its
                    // page's beginning, and what does not.
                    for offset in [0, 1, 4095, 4096, 4097, 999_999, 3_000_000 - 8192, 3_000_000] {
                        for count in [1, 4096, 12_288, 12_289, 16_383, 16_384] {
                            let count = count.min(body.len() - offset);
                            let block = store.parts.buffers.small_block().unwrap();
                            let block =
                                ports::BlobReader::read_buffer(&reader, block, offset as u64, count).await;
                            let expected = &body[offset..offset + count];
                            assert!(block.unwrap().bytes() == expected, "{class} {offset} {count}");
                        }
                    }
                    let block = store.parts.buffers.small_block().unwrap();
                    let behind = ports::BlobReader::read_buffer(&reader, block, 2_999_000, 5_000).await;
                    assert!(matches!(behind, Err(StoreError::Damaged)), "there is no byte behind the last");
                }
            };
            runtime::run(driver, test).unwrap();
        }
    }

    #[test]
    fn a_part_is_in_memory_only_if_all_of_it_is() {
        let directory = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let body = vec![7; 5_000_000];
        let test = async {
            let store = a_store(&directory, IoDriver::IoUring);
            let reader = stored(&store, StorageClass::Hot, &body).await;
            let in_memory = |offset, length| {
                let part = ByteRange { offset, length };
                let section = ports::BlobReader::in_memory(&reader, part);
                section.map(|section| (section.offset, section.length))
            };
            if !store.parts.roots.of(StorageClass::Hot).has_direct_io() {
                return;
            }
            assert_eq!(in_memory(0, 4096), None, "it was written around the page cache");
            let block = store.parts.buffers.small_block().unwrap();
            ports::BlobReader::read_buffer(&reader, block, 4096, 4096).await.unwrap();
            // Kernels before 6.5, and filters of system calls, never say that anything is.
            if in_memory(4096, 4096).is_some() {
                assert_eq!(in_memory(5000, 100), Some((5000, 100)));
                assert_eq!(in_memory(0, 5_000_000), None);
                assert_eq!(in_memory(4_999_000, 2_000), None);
                assert_eq!(in_memory(5_000_000, 1), None);
                assert_eq!(in_memory(0, 0), None);
            }
        };
        runtime::run(IoDriver::IoUring, test).unwrap();
    }

    #[test]
    fn a_removed_blob_does_not_stay_open() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let directory = tempfile::tempdir().unwrap();
            let test = async {
                let store = a_store(&directory, driver);
                let mut locations = Vec::new();
                for byte in [1, 2] {
                    let mut upload =
                        store.begin(StorageClass::Hot, None, &TenantId::parse("a").unwrap()).unwrap();
                    let mut source = BlockSource { body: FakeSource::of(&[byte]), reads: 0 };
                    upload.receive_first(&mut source).await.unwrap();
                    let (content_hash, size_bytes) = upload.content();
                    let Published::Stored(place) = upload.publish().await.unwrap() else {
                        panic!("there is no log")
                    };
                    let location = BlobLocation { storage_class: StorageClass::Hot, content_hash, place };
                    store.open(&location, size_bytes).await.unwrap();
                    locations.push(location);
                }
                remove_blob(store.parts.roots.of(StorageClass::Hot), &locations[0]).unwrap();
                store.close_removed();
                let open = store.open.borrow();
                assert!(!open.contains(&locations[0]) && open.contains(&locations[1]));
            };
            runtime::run(driver, test).unwrap();
        }
    }

    #[test]
    fn an_upload_that_stalls_holds_one_small_block() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let directory = tempfile::tempdir().unwrap();
            let test = async {
                let store = a_store(&directory, driver);
                for bytes in [20_000, 100_000, 3_000_000] {
                    let tenant_id = TenantId::parse("a").unwrap();
                    let buffers = store.parts.buffers.clone();
                    let mut source = StallingSource { bytes_left: bytes, buffers, bytes_held: 0 };
                    let mut upload = store.begin(StorageClass::Hot, None, &tenant_id).unwrap();
                    upload.receive_first(&mut source).await.unwrap();
                    let received = upload.receive_rest(&mut source).await;
                    assert!(matches!(received, Err(ReceiveError::Source(SourceError::Disconnected))));
                    assert_eq!(source.bytes_held, buffers::SMALL_BLOCK_BYTES, "after {bytes}");
                }
            };
            runtime::run(driver, test).unwrap();
        }
    }

    #[test]
    fn a_body_that_breaks_off_before_it_fills_a_large_block_has_made_no_file() {
        let large = buffers::LARGE_BLOCK_BYTES;
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let directory = tempfile::tempdir().unwrap();
            let test = async {
                let store = a_store(&directory, driver);
                for (bytes, has_file) in
                    [(20_000, false), (large - 1, false), (large, true), (3 * large, true)]
                {
                    let mut source = BreakingSource(bytes);
                    let mut upload =
                        store.begin(StorageClass::Hot, None, &TenantId::parse("a").unwrap()).unwrap();
                    upload.receive_first(&mut source).await.unwrap();
                    let received = upload.receive_rest(&mut source).await;
                    assert!(matches!(received, Err(ReceiveError::Source(SourceError::Disconnected))));
                    assert_eq!(upload.has_file(), has_file, "after {bytes}");
                }
            };
            runtime::run(driver, test).unwrap();
        }
    }

    #[test]
    fn an_upload_to_a_root_that_hangs_ends_in_time_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let (buffers, deadlines) = (BufferPool::new(8 * buffers::LARGE_BLOCK_BYTES), DeadlineList::new());
        let (limit, lent) = (Duration::from_secs(30), buffers.clone());
        // No helper begins its work before the gate is opened.
        let gate = Arc::new(std::sync::Mutex::new(()));
        let (closed, waiting) = (gate.lock().unwrap(), gate.clone());
        let hang = move || drop(waiting.lock().unwrap());
        let test = async {
            let helpers = RootHelpers::new(&WaitLimit::new(&deadlines, limit), hang);
            let store = FileStore::new(FileStoreParts {
                packs: packs(&roots, &helpers, IoDriver::IoUring, 0),
                roots,
                buffers,
                helpers,
                driver: IoDriver::IoUring,
                places: Arc::new(PlaceSequence::new(InstanceId::generate())),
                open_files: OpenFiles::default(),
                hashing: Hashing::default(),
                metrics: Arc::default(),
            });
            let tenant_id = TenantId::parse("a").unwrap();
            let begin = || store.begin(StorageClass::Hot, None, &tenant_id).unwrap();
            let source = |length| BlockSource { body: FakeSource::of(&vec![7; length]), reads: 0 };
            let (mut small, mut large) = (begin(), begin());
            small.receive_first(&mut source(9)).await.unwrap();
            let mut body = source(2 * buffers::LARGE_BLOCK_BYTES);
            large.receive_first(&mut body).await.unwrap();
            let mut small = Box::pin(small.publish());
            let mut large = Box::pin(large.receive_rest(&mut body));
            assert!(small.as_mut().now_or_never().is_none());
            assert!(large.as_mut().now_or_never().is_none());
            deadlines.sweep(Instant::now() + 2 * limit);
            assert!(matches!(small.await, Err(StoreError::TimedOut)));
            assert!(matches!(large.await, Err(ReceiveError::Store(StoreError::TimedOut))));
            drop(closed);
            // The first write behind them is done when they are.
            store.check(StorageClass::Hot).await.unwrap();
        };
        runtime::run(IoDriver::IoUring, test).unwrap();
        assert_eq!(lent.bytes_lent(), 0);
        let mut left = walk(directory.path());
        left.retain(|path| path.extension().is_none_or(|extension| extension != "pack"));
        assert!(left.is_empty(), "nothing is left: {left:?}");
    }

    fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] });
        // Packs are made ahead, and stay.
        files.filter(|path| path.extension().is_none_or(|extension| extension != "pack")).collect()
    }

    #[test]
    fn the_file_store_keeps_the_contract_on_io_uring() {
        keeps_the_contract(IoDriver::IoUring, true, 0);
    }

    #[test]
    fn the_file_store_keeps_the_contract_on_epoll() {
        keeps_the_contract(IoDriver::Epoll, true, 0);
    }

    #[test]
    fn the_file_store_keeps_the_contract_where_files_must_have_names() {
        keeps_the_contract(IoDriver::IoUring, false, 0);
    }

    #[test]
    fn the_file_store_keeps_the_contract_with_packs() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            keeps_the_contract(driver, true, 65_536);
        }
    }
}
