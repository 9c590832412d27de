//! One storage root: where its files are named, what its file system can do, whose it is, and whether it still
//! takes writes. Everything here blocks; it runs at start or on a helper thread.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, open};
use thiserror::Error;
use uuid::Uuid;

use super::room::{DatabaseRoom, free_bytes, size_bytes};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{PackId, Place, StorageClass};
use crate::infrastructure::metrics::RootFigures;

/// After so many failed syncs in a row a root takes no more writes until a restart.
pub(super) const SYNC_FAILURES_MAX: u32 = 3;

/// What must be free beyond that for a root to be ready.
const PROBE_ROOM_BYTES: u64 = 64 * 1024;

const IDENTITY_FILE: &str = "just_storage.root";
const IDENTITY_BYTES_MAX: u64 = 1024;

/// Which root a directory is, as the database knows it too. A missing or strange root stops the start, so that an
/// unmounted disk can never look like the loss of everything on it.
pub type RootIdentity = Uuid;

/// Why a root cannot be used.
#[derive(Debug, Error)]
pub enum RootError {
    /// A system call failed.
    #[error("{class} storage root {path}: cannot {operation}")]
    Io {
        /// Which root.
        class: StorageClass,
        /// Where it should be.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The identity file is not one.
    #[error("{class} storage root {path}: its {IDENTITY_FILE} is not one of this program")]
    Identity {
        /// Which root.
        class: StorageClass,
        /// Where it is.
        path: PathBuf,
    },
}

/// Both roots.
#[derive(Debug, Clone)]
pub struct Roots {
    hot: Arc<StorageRoot>,
    cold: Arc<StorageRoot>,
}

impl Roots {
    /// Opens both.
    ///
    /// # Errors
    /// [`RootError`] of the first that cannot be used.
    pub fn open(hot: &Path, cold: &Path) -> Result<Self, RootError> {
        Ok(Self {
            hot: Arc::new(StorageRoot::open(StorageClass::Hot, hot)?),
            cold: Arc::new(StorageRoot::open(StorageClass::Cold, cold)?),
        })
    }

    /// Opens both as they are: makes nothing, and writes nothing to find out what they can do.
    ///
    /// # Errors
    /// [`RootError`] of the first that is not there.
    pub fn open_existing(hot: &Path, cold: &Path) -> Result<Self, RootError> {
        Ok(Self {
            hot: Arc::new(StorageRoot::open_existing(StorageClass::Hot, hot)?),
            cold: Arc::new(StorageRoot::open_existing(StorageClass::Cold, cold)?),
        })
    }

    /// Lets uploads leave some room to a database, where it shares its file system with a root.
    ///
    /// # Errors
    /// The database's directory or a root cannot be looked at.
    pub fn leave_room_for(&self, database: &DatabaseRoom) -> io::Result<()> {
        let device = fs::metadata(database.directory())?.dev();
        for root in [&self.hot, &self.cold] {
            if fs::metadata(&root.path)?.dev() == device {
                root.reserve_bytes.store(database.reserve_bytes(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// As on a file system without `O_TMPFILE`, such as CephFS.
    #[cfg(test)]
    pub(super) fn without_unnamed_files(self) -> Self {
        let named = |root: Arc<StorageRoot>| {
            let mut root = Arc::into_inner(root).unwrap();
            root.unnamed_files = false;
            Arc::new(root)
        };
        Self { hot: named(self.hot), cold: named(self.cold) }
    }

    /// The root of a class.
    pub fn of(&self, class: StorageClass) -> &Arc<StorageRoot> {
        match class {
            StorageClass::Hot => &self.hot,
            StorageClass::Cold => &self.cold,
        }
    }
}

/// One root.
#[derive(Debug)]
pub struct StorageRoot {
    class: StorageClass,
    path: PathBuf,
    /// Whether files can be written without a name and linked in place (`O_TMPFILE`).
    unnamed_files: bool,
    /// Whether its file system takes direct I/O.
    direct_io: bool,
    /// The size of its file system.
    size_bytes: u64,
    /// What uploads leave free.
    reserve_bytes: AtomicU64,
    sync_failures: AtomicU32,
    read_only: AtomicBool,
}

impl StorageRoot {
    /// Makes the root's directories durable, if they are not there yet, and probes its file system.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn open(class: StorageClass, path: &Path) -> Result<Self, RootError> {
        let failed = |operation| move |source| RootError::Io { class, path: path.into(), operation, source };
        make_directories(path).map_err(failed("make its directories"))?;
        let mut root = Self::at(class, path);
        root.unnamed_files = root.probe(OFlags::TMPFILE);
        root.direct_io = root.probe_direct_io();
        root.size_bytes = size_bytes(path).map_err(failed("look at its file system"))?;
        root.probe_write().map_err(failed("write to it"))?;
        Ok(root)
    }

    /// Opens a root that is there, to read it or to remove from it.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn open_existing(class: StorageClass, path: &Path) -> Result<Self, RootError> {
        let root = Self::at(class, path);
        fs::read_dir(root.blobs_path()).map_err(|source| root.failed("list its blobs", source))?;
        Ok(root)
    }

    fn at(class: StorageClass, path: &Path) -> Self {
        Self {
            class,
            path: path.into(),
            unnamed_files: false,
            direct_io: false,
            size_bytes: 0,
            reserve_bytes: AtomicU64::new(0),
            sync_failures: AtomicU32::new(0),
            read_only: AtomicBool::new(false),
        }
    }

    /// Which class it is for.
    pub fn class(&self) -> StorageClass {
        self.class
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files can be written without a name (`O_TMPFILE`).
    pub fn has_unnamed_files(&self) -> bool {
        self.unnamed_files
    }

    /// The size of its file system when it was opened, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether its file system takes direct I/O.
    pub fn has_direct_io(&self) -> bool {
        self.direct_io
    }

    /// The directory of all blobs.
    pub(super) fn blobs_path(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// The directory of named temporary files.
    pub(super) fn temporary_path(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The directory that a blob's file is in. Made of two hexadecimal digits and nothing a caller ever sent.
    pub(super) fn shard_path(&self, location: &BlobLocation) -> PathBuf {
        self.blobs_path().join(format!("{:02x}", location.content_hash.as_bytes()[0]))
    }

    /// The blob's file.
    pub fn blob_path(&self, location: &BlobLocation) -> PathBuf {
        self.shard_path(location).join(format!("{}-{}", location.content_hash, location.place))
    }

    /// The directory of all packs.
    pub(super) fn packs_path(&self) -> PathBuf {
        self.path.join("packs")
    }

    /// A pack's file.
    pub fn pack_path(&self, pack: PackId) -> PathBuf {
        self.packs_path().join(format!("{pack}.pack"))
    }

    /// The directory of all uploads that come in pieces.
    pub(super) fn uploads_path(&self) -> PathBuf {
        self.path.join("uploads")
    }

    /// Where an upload is written if files must have names.
    pub(super) fn temporary_file_path(&self, place: Place) -> PathBuf {
        self.temporary_path().join(place.to_string())
    }

    /// Whether syncs have failed too often for it to be trusted with more.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Counts the outcome of a sync. A failed one is never tried again: what it covered is not durable, and the
    /// kernel may report success the next time without having written anything.
    pub(super) fn note_sync(&self, succeeded: bool) {
        if succeeded {
            self.sync_failures.store(0, Ordering::Relaxed);
        } else if self.sync_failures.fetch_add(1, Ordering::Relaxed) + 1 >= SYNC_FAILURES_MAX
            && !self.read_only.swap(true, Ordering::Relaxed)
        {
            tracing::error!(root = %self.path.display(), "storage root turned read-only: its syncs keep failing");
        }
    }

    /// What its file system has and what of it can still be written.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn room(&self) -> io::Result<RootFigures> {
        let (size_bytes, free_bytes) = (size_bytes(&self.path)?, free_bytes(&self.path)?);
        Ok(RootFigures { size_bytes, free_bytes })
    }

    /// Whether so many bytes more leave free what has to stay free.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if they do not.
    pub(super) fn check_room(&self, bytes: u64) -> io::Result<()> {
        let reserve = self.reserve_bytes.load(Ordering::Relaxed);
        if reserve == 0 {
            return Ok(());
        }
        let free = free_bytes(&self.path)?;
        if free < reserve.saturating_add(bytes) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Writes a little file and removes it again: whether the root takes writes now.
    ///
    /// # Errors
    /// What the system said.
    pub fn probe_write(&self) -> io::Result<()> {
        // As much as a small upload and what its file system notes of it may take.
        self.check_room(PROBE_ROOM_BYTES)?;
        let path = self.temporary_path().join("probe");
        let mut file = File::create(&path)?;
        file.write_all(&[0; 512])?;
        drop(file);
        match fs::remove_file(&path) {
            // Another server on the same root probes it too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Reads whose root this is, or `None` if it has not been claimed yet.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn read_identity(&self) -> Result<Option<RootIdentity>, RootError> {
        let mut text = String::new();
        let read = File::open(self.path.join(IDENTITY_FILE))
            .and_then(|file| file.take(IDENTITY_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(RootError::Identity { class: self.class, path: self.path.clone() });
            }
            Err(source) => return Err(self.failed("read its identity", source)),
        }
        let strange = || RootError::Identity { class: self.class, path: self.path.clone() };
        Uuid::try_parse(text.trim()).map(Some).map_err(|_| strange())
    }

    /// Claims the root, durably.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn write_identity(&self, identity: RootIdentity) -> Result<(), RootError> {
        // Under a name of its own: two servers may claim the root at the same time, with the same identity.
        let unfinished = self.path.join(format!("{IDENTITY_FILE}.{}", Uuid::new_v4()));
        let write = || {
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{identity}")?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path.join(IDENTITY_FILE))?;
            sync_directory(&self.path)
        };
        write().map_err(|source| self.failed("write its identity", source))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> RootError {
        RootError::Io { class: self.class, path: self.path.clone(), operation, source }
    }

    fn probe(&self, flags: OFlags) -> bool {
        open(self.blobs_path(), OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::RUSR | Mode::WUSR).is_ok()
    }

    fn probe_direct_io(&self) -> bool {
        if self.unnamed_files {
            return self.probe(OFlags::TMPFILE | OFlags::DIRECT);
        }
        let path = self.temporary_path().join("probe");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::DIRECT;
        let opened: Result<OwnedFd, _> = open(&path, flags, Mode::RUSR | Mode::WUSR);
        let _ = fs::remove_file(&path);
        opened.is_ok()
    }
}

/// Makes what is missing of the root and syncs every directory that got a new entry.
fn make_directories(path: &Path) -> io::Result<()> {
    make_durable_directory(path)?;
    for name in ["blobs", "packs", "tmp", "uploads"] {
        make_durable_directory(&path.join(name))?;
    }
    let blobs = path.join("blobs");
    let mut made = false;
    for shard in 0..=u8::MAX {
        match fs::create_dir(blobs.join(format!("{shard:02x}"))) {
            Ok(()) => made = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    if made { sync_directory(&blobs) } else { Ok(()) }
}

/// Makes a directory and those above it, each one durable in the one above.
pub(crate) fn make_durable_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && path.parent().is_some_and(|parent| parent != Path::new("")) =>
        {
            make_durable_directory(path.parent().unwrap_or(Path::new("/")))?;
            fs::create_dir(path).or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })?;
        }
        Err(error) => return Err(error),
    }
    match path.parent() {
        Some(parent) if parent == Path::new("") => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_once_and_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/hot");
        for _ in 0..2 {
            let root = StorageRoot::open(StorageClass::Hot, &path).unwrap();
            assert!(root.shard_path(&a_location(0xab)).is_dir());
            assert!(!root.is_read_only());
        }
        assert_eq!(fs::read_dir(path.join("blobs")).unwrap().count(), 256);
    }

    #[test]
    fn an_identity_is_kept_and_a_strange_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Cold, directory.path()).unwrap();
        assert_eq!(root.read_identity().unwrap(), None);
        let identity = Uuid::new_v4();
        root.write_identity(identity).unwrap();
        assert_eq!(root.read_identity().unwrap(), Some(identity));
        for strange in [&b"something else"[..], b"\xff\xfe"] {
            fs::write(directory.path().join(IDENTITY_FILE), strange).unwrap();
            assert!(matches!(root.read_identity(), Err(RootError::Identity { .. })));
        }
    }

    #[test]
    fn a_root_that_keeps_failing_takes_no_more_writes() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Hot, directory.path()).unwrap();
        for _ in 1..SYNC_FAILURES_MAX {
            root.note_sync(false);
        }
        root.note_sync(true);
        assert!(!root.is_read_only(), "failures are counted in a row");
        for _ in 0..SYNC_FAILURES_MAX {
            root.note_sync(false);
        }
        root.note_sync(true);
        assert!(root.is_read_only());
    }

    #[test]
    fn uploads_leave_room_where_the_database_shares_the_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let root = roots.of(StorageClass::Hot);
        let everything = u64::MAX / 2;
        root.check_room(everything).unwrap();
        roots.leave_room_for(&DatabaseRoom::of(Path::new("/proc")).unwrap()).unwrap();
        root.check_room(everything).unwrap();
        roots.leave_room_for(&DatabaseRoom::of(directory.path()).unwrap()).unwrap();
        root.check_room(0).unwrap();
        let error = root.check_room(everything).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_path_is_made_of_digits_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Hot, directory.path()).unwrap();
        let location = a_location(0xab);
        let expected = format!("blobs/ab/{}-{}", "ab".repeat(32), location.place);
        assert_eq!(root.blob_path(&location), directory.path().join(expected));
    }

    #[test]
    fn a_root_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StorageRoot::open(StorageClass::Hot, &file).unwrap_err();
        assert!(error.to_string().contains("hot storage root"), "{error}");
    }

    fn a_location(byte: u8) -> BlobLocation {
        let place =
            Place::File { instance: crate::domain::value_objects::InstanceId::from_i64(5), number: 1 };
        let content_hash = crate::domain::value_objects::ContentHash::from_bytes([byte; 32]);
        BlobLocation { storage_class: StorageClass::Hot, content_hash, place }
    }
}
