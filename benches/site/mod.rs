//! Parts of a server in a throw-away directory: roots, cores, and a metadata plane with a database of its own.
#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use just_storage::api::SystemClock;
use just_storage::application::errors::SourceError;
use just_storage::application::ports::{
    BlobReader as _, BlobStore as _, BlobUpload as _, BodyState, BufferSize, ByteSource, Published, ReadPace,
    ReadProgress,
};
use just_storage::domain::entities::BlobLocation;
use just_storage::domain::value_objects::{ContentHash, InstanceId, StorageClass};
use just_storage::infrastructure::data_plane::buffers::{Block, BufferPool, LARGE_BLOCK_BYTES};
use just_storage::infrastructure::data_plane::deadline_list::{DeadlineList, WaitLimit};
use just_storage::infrastructure::data_plane::descriptors::OpenFiles;
use just_storage::infrastructure::data_plane::runtime::{IoDriver, probe_io_uring, run, spawn};
use just_storage::infrastructure::persistence::{
    DatabaseSettings, DatabaseUrl, GcSettings, MetadataPlane, ScrubSettings,
};
use just_storage::infrastructure::plane_channel::{DataEnd, Durability, plane_channel};
use just_storage::infrastructure::storage::{
    FileStore, FileStoreParts, Hashing, PackLog, PackLogParts, Packs, PlaceSequence, RootHelpers, Roots,
};
use tempfile::TempDir;

use crate::samples::tenant_id;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a core may lend: enough for everything that runs here at once.
const BUFFER_BYTES: usize = 64 * LARGE_BLOCK_BYTES;

/// Two roots and what numbers their files.
pub(crate) struct Site {
    directory: TempDir,
    roots: Roots,
    instance: InstanceId,
    places: Arc<PlaceSequence>,
}

impl Site {
    /// Below `target/`, since a directory for temporary files is often in memory.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let path = |name| directory.path().join(name);
        let roots = Roots::open(&path("hot"), &path("cold")).expect("two roots");
        let instance = InstanceId::generate();
        Self { roots, instance, places: Arc::new(PlaceSequence::new(instance)), directory }
    }

    /// Runs `work` on this thread as on a core, with a store over the roots.
    pub(crate) fn on_core<T>(&self, work: impl AsyncFnOnce(FileStore, WaitLimit) -> T) -> T {
        let driver = driver();
        let core = async {
            let deadlines = DeadlineList::new();
            let limit = WaitLimit::new(&deadlines, PATIENCE);
            drop(spawn(async move { deadlines.sweep_forever().await }));
            let helpers = RootHelpers::new(&limit, || {});
            let store = FileStore::new(FileStoreParts {
                packs: self.packs(&helpers, driver),
                roots: self.roots.clone(),
                buffers: BufferPool::new(BUFFER_BYTES),
                helpers,
                driver,
                places: self.places.clone(),
                open_files: OpenFiles::default(),
                hashing: Hashing::default(),
                metrics: Arc::default(),
            });
            work(store, limit).await
        };
        run(driver, core).expect("a core")
    }

    /// Small blobs go to packs, each by itself.
    fn packs(&self, helpers: &RootHelpers, driver: IoDriver) -> Rc<Packs> {
        let log = |class| {
            PackLog::new(PackLogParts {
                root: self.roots.of(class).clone(),
                helpers: helpers.writing(class).clone(),
                driver,
                instance: self.instance,
                core: 0,
                order: None,
                open: Arc::default(),
                metrics: Arc::default(),
            })
        };
        let (hot, cold) = (log(StorageClass::Hot), log(StorageClass::Cold));
        Rc::new(Packs { hot, cold, blob_bytes_max: 64 * 1024, with_changes: false })
    }

    /// Starts a metadata plane, which ends when its sender is dropped.
    pub(crate) fn start_metadata_plane(&self) -> (DataEnd, JoinHandle<()>) {
        let (data_end, metadata_end) = plane_channel(Durability::Transaction);
        let plane = MetadataPlane {
            open_packs: Arc::default(),
            room: None,
            url: DatabaseUrl::in_directory(self.directory.path()),
            settings: DatabaseSettings {
                max_connections: 8,
                min_connections: 1,
                acquire_timeout: PATIENCE,
                answer_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                max_lifetime: PATIENCE,
            },
            roots: self.roots.clone(),
            instance: self.instance,
            node: "bench".to_owned(),
            clock: SystemClock,
            gc: GcSettings { interval: PATIENCE, batch_size: 1000, grace: PATIENCE },
            scrub: ScrubSettings::NEVER,
            on_outside_change: Box::new(|| {}),
            index: None,
            metrics: Arc::default(),
        };
        let thread = plane.start(metadata_end).expect("a metadata plane");
        (data_end, thread)
    }
}

/// The ring, where there is one.
pub(crate) fn driver() -> IoDriver {
    match probe_io_uring() {
        Ok(()) => IoDriver::IoUring,
        Err(_) => IoDriver::Epoll,
    }
}

/// As much as a socket gives at once, so that hashing runs in the slices that it has in daily life.
pub(crate) const PIECE_BYTES: usize = 128 * 1024;

/// A body that is in memory already.
pub(crate) struct BodyInMemory<'b> {
    rest: &'b [u8],
}

impl<'b> BodyInMemory<'b> {
    pub(crate) fn new(body: &'b [u8]) -> Self {
        Self { rest: body }
    }
}

impl ByteSource<Block> for BodyInMemory<'_> {
    async fn read(&mut self, mut block: Block, _: ReadPace) -> (Result<ReadProgress, SourceError>, Block) {
        let piece = &self.rest[..self.rest.len().min(PIECE_BYTES)];
        let count = block.append(piece);
        self.rest = &self.rest[count..];
        let progress = if count == 0 { ReadProgress::End } else { ReadProgress::Bytes(count) };
        (Ok(progress), block)
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(None)
    }
}

/// Stores a blob durably.
pub(crate) async fn put(store: &FileStore, class: StorageClass, body: &[u8]) -> BlobLocation {
    let mut upload = store.begin(class, Some(body.len() as u64), &tenant_id()).expect("an upload");
    let mut source = BodyInMemory::new(body);
    if upload.receive_first(&mut source).await.expect("bytes are taken") == BodyState::Open {
        upload.receive_rest(&mut source).await.expect("bytes are taken");
    }
    let (content_hash, _) = upload.content();
    let place = match upload.publish().await.expect("the blob is durable") {
        Published::Stored(place) => Some(place),
        Published::Loose(_) => None,
    };
    let place = place.expect("there is no log to wait for");
    BlobLocation { storage_class: class, content_hash, place }
}

/// Reads a small blob behind what `bytes` holds, as its answer's head.
pub(crate) async fn get_small(
    store: &FileStore,
    location: &BlobLocation,
    bytes: Vec<u8>,
    length: usize,
) -> Vec<u8> {
    let reader = store.open(location, length as u64).await.expect("the blob opens");
    let (result, bytes) = reader.read_exact(bytes, 0, length).await;
    result.expect("the blob is read");
    bytes
}

/// Reads a large blob through one large block, and says how many bytes came.
pub(crate) async fn get_large(store: &FileStore, location: &BlobLocation, length: u64) -> u64 {
    let reader = store.open(location, length).await.expect("the blob opens");
    let mut block = store.lend(BufferSize::Large, &tenant_id()).expect("a large block");
    let mut offset = 0;
    while offset < length {
        block.clear();
        let missing = usize::try_from(length - offset).unwrap_or(usize::MAX);
        block = reader.read_buffer(block, offset, missing).await.expect("the blob is read");
        offset += block.len() as u64;
    }
    offset
}
