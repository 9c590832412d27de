//! Uploads that come in pieces: each is two files, its bytes and what is known of them.
//!
//! ```text
//! {root}/uploads/open/<tenant>/<id>.state     how far it is, the hash until there, and what was said of it (record.rs)
//! {root}/uploads/open/<tenant>/<id>.bytes     the bytes, which become the blob's file by a second name
//! {root}/uploads/done/<tenant>/<id>.state     the same file once the object is there, for whoever asks again
//! ```
//! Whoever changes an upload holds a lock (flock(2)) on its state file, on whatever core or server that is; the kernel
//! gives it up with the process. The state has its name before there are bytes, and is the first to go, so that bytes
//! without a state are nobody's.

mod record;
mod session;
mod sweep;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use self::record::{Slot, read_order, read_slot, write_first, write_slot};
use self::session::{Locked, StagedFile, StagedParts};
use super::file_store::{FileStore, helper_failed};
use super::root::{StorageRoot, make_durable_directory, sync_directory};
use crate::application::errors::StoreError;
use crate::application::staging::{Opened, PARTS_MAX, StagedUpload, StagingError, UploadStaging, Waiting};
use crate::domain::value_objects::{Place, StorageClass, UploadId};
use crate::fault_injection::{DurableSync, skips};
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::metrics::{Phase, note_since};

const OPEN: &str = "open";
const DONE: &str = "done";
const STATE: &str = "state";
const BYTES: &str = "bytes";

/// Where the files of one upload are.
#[derive(Debug, Clone)]
struct Paths {
    /// The directory of its tenant's.
    directory: PathBuf,
    state: PathBuf,
    bytes: PathBuf,
    done_directory: PathBuf,
    done: PathBuf,
}

impl Paths {
    /// Made of nothing but what an [`UploadId`] is made of.
    fn of(root: &StorageRoot, id: &UploadId) -> Self {
        let tenant = id.tenant_mark().to_string();
        let directory = root.uploads_path().join(OPEN).join(&tenant);
        let done_directory = root.uploads_path().join(DONE).join(tenant);
        let name = |kind| format!("{}.{kind}", id.random().simple());
        Self {
            state: directory.join(name(STATE)),
            bytes: directory.join(name(BYTES)),
            directory,
            done: done_directory.join(name(STATE)),
            done_directory,
        }
    }

    /// Removes both files, the state first: without it there is no upload. Whoever does holds the lock.
    fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.state)?;
        remove_if_there(&self.bytes)
    }

    /// The same, and no power cut brings it back: whoever gave it up has been told that it is gone.
    fn remove_durably(&self) -> io::Result<()> {
        self.remove()?;
        sync_entries(&self.directory)
    }

    /// Removes what is known of one whose object is there, durably too.
    fn forget_done(&self) -> io::Result<()> {
        remove_if_there(&self.done)?;
        self.remove_durably()?;
        // Where it had not been put away yet, there may be none.
        match sync_entries(&self.done_directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_file(file: &File) -> io::Result<()> {
    if skips(DurableSync::File) { Ok(()) } else { file.sync_data() }
}

fn sync_entries(directory: &std::path::Path) -> io::Result<()> {
    if skips(DurableSync::Directory) { Ok(()) } else { sync_directory(directory) }
}

/// Takes the lock, if nobody has it.
fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file of bytes, made if it is not there. Like that of any blob, which it is to be.
fn open_bytes(path: &std::path::Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(File::from(open(path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)?))
}

/// What a tenant has waiting.
fn count_waiting(paths: &Paths) -> io::Result<Waiting> {
    let entries = match fs::read_dir(&paths.directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Waiting::default()),
        entries => entries?,
    };
    let mut waiting = Waiting::default();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(STATE) => waiting.uploads += 1,
            // One that has gone meanwhile takes nothing.
            Some(BYTES) => waiting.bytes += entry.metadata().map_or(0, |metadata| metadata.len()),
            _ => {}
        }
    }
    Ok(waiting)
}

/// Makes the files of an upload, durably: the state is whole when it gets its name.
fn create(
    root: &StorageRoot,
    paths: &Paths,
    place: Place,
    upload: &StagedUpload,
) -> Result<Locked, StoreError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    root.check_room(0).map_err(failed("look for room"))?;
    // Under the name of an upload of this run until then: the next start sweeps what a crash leaves.
    let temporary = root.temporary_file_path(place);
    let make = || {
        let state = File::options().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
        lock(&state)?;
        write_first(&state, upload)?;
        Ok(state)
    };
    let state = make().map_err(failed("write the state of an upload"))?;
    let synced = sync_file(&state);
    root.note_sync(synced.is_ok());
    synced.map_err(failed("sync the state of an upload"))?;
    make_durable_directory(&paths.directory).map_err(failed("make a directory of uploads"))?;
    fs::rename(&temporary, &paths.state).map_err(failed("name the state of an upload"))?;
    let bytes = open_bytes(&paths.bytes).map_err(failed("make the bytes of an upload"))?;
    let synced = sync_entries(&paths.directory);
    root.note_sync(synced.is_ok());
    if synced.is_err() {
        let _ = paths.remove();
    }
    synced.map_err(failed("sync a directory of uploads"))?;
    Ok(Locked { state, bytes, slot: Slot::first(upload.progress), order: upload.order.clone() })
}

/// Opens an upload, locked.
fn open_locked(paths: &Paths, id: &UploadId) -> Result<Opened<Locked>, StagingError> {
    let failed = |operation| move |error| StoreError::io(operation, error);
    let state = match File::options().read(true).write(true).open(&paths.state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return look_at(&paths.done, id, Standing::Done).map(Opened::Done);
        }
        state => state.map_err(failed("open the state of an upload"))?,
    };
    if !lock(&state).map_err(failed("lock an upload"))? {
        return Err(StagingError::Locked);
    }
    // Whoever had the lock until now may have removed it.
    let links =
        rustix::fs::fstat(&state).map_err(|error| StoreError::io("look at an upload", error.into()))?;
    if links.st_nlink == 0 {
        return Err(StagingError::NotFound);
    }
    let (slot, order) = read(&state, id)?;
    if slot.progress.is_done {
        return Ok(Opened::Done(StagedUpload { order, progress: slot.progress }));
    }
    let bytes = open_bytes(&paths.bytes).map_err(failed("open the bytes of an upload"))?;
    let length = bytes.metadata().map_err(failed("look at the bytes of an upload"))?.len();
    if length < slot.progress.offset {
        tracing::error!(upload = %id, length, "the bytes of an upload are fewer than were acknowledged");
        return Err(StoreError::Damaged.into());
    }
    if length > slot.progress.offset {
        // What came and was never acknowledged comes again, or something else does.
        bytes.set_len(slot.progress.offset).map_err(failed("cut the bytes of an upload"))?;
    }
    Ok(Opened::Session(Locked { state, bytes, slot, order }))
}

/// Whether what is told of a state has to be made durable first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Done,
}

/// An upload as its state tells it, without a lock.
fn look_at(path: &std::path::Path, id: &UploadId, standing: Standing) -> Result<StagedUpload, StagingError> {
    let state = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StagingError::NotFound),
        state => state.map_err(|error| StoreError::io("open the state of an upload", error))?,
    };
    let (slot, order) = read(&state, id)?;
    if standing == Standing::Open {
        // It may have been written a moment ago. The bytes that it tells of were durable before.
        sync_file(&state).map_err(|error| StoreError::io("sync the state of an upload", error))?;
    }
    Ok(StagedUpload { order, progress: slot.progress })
}

fn read(
    state: &File,
    id: &UploadId,
) -> Result<(Slot, crate::application::staging::StagedOrder), StagingError> {
    let failed = |error| StoreError::io("read the state of an upload", error);
    let slot = read_slot(state, id).map_err(failed)?;
    match slot.zip(read_order(state, id).map_err(failed)?) {
        Some(read) => Ok(read),
        None => {
            tracing::error!(upload = %id, "the state of an upload is damaged");
            Err(StoreError::Damaged.into())
        }
    }
}

/// Notes that the object is there: bytes are given up, and the state is kept apart from those that wait.
fn finish(state: &File, paths: &Paths, id: &UploadId, slot: &Slot) -> io::Result<()> {
    write_slot(state, id, slot)?;
    sync_file(state)?;
    put_away(paths)
}

/// What a crash cuts off of this, or a power cut takes back, is found with the note that it is done; the sweep goes on.
fn put_away(paths: &Paths) -> io::Result<()> {
    make_durable_directory(&paths.done_directory)?;
    fs::rename(&paths.state, &paths.done)?;
    remove_if_there(&paths.bytes)
}

impl FileStore {
    async fn with_paths<T: Send + 'static>(
        &self,
        id: &UploadId,
        job: impl FnOnce(&Arc<StorageRoot>, &Paths) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let class = id.storage_class();
        let (root, id) = (self.parts().roots.of(class).clone(), *id);
        let job = move || job(&root, &Paths::of(&root, &id));
        self.parts().helpers.writing(class).run(job).await.map_err(helper_failed)
    }

    /// Removes the uploads whose time is over, and says how many there were.
    pub async fn remove_expired_uploads(&self, now: crate::domain::value_objects::Timestamp) -> usize {
        let mut removed = 0;
        for class in StorageClass::ALL {
            let root = self.parts().roots.of(class).clone();
            let swept =
                self.parts().helpers.writing(class).run(move || sweep::remove_expired(&root, now)).await;
            match swept.map_err(io::Error::other).flatten() {
                Ok(count) => removed += count,
                Err(error) => {
                    tracing::warn!(%error, %class, "uploads that have expired could not be removed; that is tried again");
                }
            }
        }
        removed
    }
}

impl UploadStaging for FileStore {
    type Buffer = Block;
    type Session = StagedFile;
    type Parts = StagedParts;

    async fn waiting(&self, id: &UploadId) -> Result<Waiting, StoreError> {
        let waiting = self.with_paths(id, |_, paths| count_waiting(paths)).await?;
        waiting.map_err(|error| StoreError::io("list uploads", error))
    }

    async fn create(&self, upload: StagedUpload) -> Result<StagedFile, StoreError> {
        let (id, place) = (upload.order.id, self.parts().places.next());
        if self.parts().roots.of(id.storage_class()).is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let started = Instant::now();
        let locked = self.with_paths(&id, move |root, paths| create(root, paths, place, &upload)).await;
        note_since(Phase::Sync, started);
        let locked = locked??;
        self.session(id, locked)
    }

    async fn look(&self, id: &UploadId) -> Result<StagedUpload, StagingError> {
        let id = *id;
        self.with_paths(&id, move |_, paths| match look_at(&paths.state, &id, Standing::Open) {
            Err(StagingError::NotFound) => look_at(&paths.done, &id, Standing::Done),
            found => found,
        })
        .await?
    }

    async fn resume(&self, id: &UploadId) -> Result<Opened<StagedFile>, StagingError> {
        let id = *id;
        match self.with_paths(&id, move |_, paths| open_locked(paths, &id)).await?? {
            Opened::Done(upload) => Ok(Opened::Done(upload)),
            Opened::Session(locked) => Ok(Opened::Session(self.session(id, locked)?)),
        }
    }

    async fn forget_done(&self, id: &UploadId) -> Result<(), StoreError> {
        let forgotten = self.with_paths(id, |_, paths| paths.forget_done());
        forgotten.await?.map_err(|error| StoreError::io("remove an upload", error))
    }

    async fn parts(&self, ids: &[UploadId]) -> Result<(StagedParts, Vec<StagedUpload>), StagingError> {
        if ids.len() > PARTS_MAX {
            return Err(StoreError::Overloaded.into());
        }
        let mut parts = StagedParts::default();
        for id in ids {
            if parts.has(id) {
                parts.repeat(id);
                continue;
            }
            let refused = |reason| Err(StagingError::NotAPart { part: *id, reason });
            match self.resume(id).await {
                Ok(Opened::Session(session)) => parts.push(session),
                Ok(Opened::Done(_)) | Err(StagingError::NotFound) => {
                    return refused("there is no such upload");
                }
                Err(error) => return Err(error),
            }
        }
        let found = parts.uploads();
        Ok((parts, found))
    }

    fn take_failure(parts: &mut StagedParts) -> Option<StoreError> {
        parts.take_failure()
    }

    async fn remove_parts(&self, parts: StagedParts) -> Result<(), StoreError> {
        parts.remove().await
    }
}

impl FileStore {
    fn session(&self, id: UploadId, locked: Locked) -> Result<StagedFile, StoreError> {
        let root = self.parts().roots.of(id.storage_class()).clone();
        let paths = Paths::of(&root, &id);
        StagedFile::new(self.parts().clone(), root, paths, locked)
    }
}
