//! Removing uploads whose time is over. Everything here blocks.
//!
//! One that somebody is at is left alone, and so is one whose state cannot be read: what cannot be told to be over is not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::record::read_slot;
use super::{BYTES, DONE, OPEN, Paths, STATE, lock, put_away, remove_if_there};
use crate::domain::value_objects::{StorageClass, TenantMark, Timestamp, UploadId};
use crate::infrastructure::storage::root::StorageRoot;

/// Removes what has expired at `now`, and bytes that no state tells of.
///
/// # Errors
/// Of the first directory or file that cannot be looked at or removed.
pub(super) fn remove_expired(root: &StorageRoot, now: Timestamp) -> io::Result<usize> {
    let mut removed = 0;
    for kind in [OPEN, DONE] {
        for tenant in entries(&root.uploads_path().join(kind))? {
            for path in entries(&tenant)? {
                let extension = path.extension().and_then(|extension| extension.to_str());
                removed += usize::from(match extension {
                    Some(STATE) => remove_if_expired(root, &path, now)?,
                    Some(BYTES) => remove_if_nobodys(&path)?,
                    // This program did not name it.
                    _ => false,
                });
            }
        }
    }
    Ok(removed)
}

/// What is in a directory, which may not be there yet.
fn entries(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn remove_if_expired(root: &StorageRoot, state: &Path, now: Timestamp) -> io::Result<bool> {
    let class = root.class();
    let file = match File::options().read(true).write(true).open(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let is_over = |file: &File| -> io::Result<bool> {
        let Some(id) = id_of(state, class) else { return Ok(false) };
        Ok(read_slot(file, &id)?.is_some_and(|slot| slot.progress.expires_at <= now))
    };
    // Looked at before it is locked, so that whoever comes to one that goes on is not turned away; and after, since it
    // may have gone on.
    if !is_over(&file)? {
        put_away_if_done(root, &file, state)?;
        return Ok(false);
    }
    if !lock(&file)? || !is_over(&file)? {
        return Ok(false);
    }
    remove_if_there(state)?;
    remove_if_there(&state.with_extension(BYTES))?;
    Ok(true)
}

/// Ends what a crash has cut off behind the note that the object is there.
fn put_away_if_done(root: &StorageRoot, file: &File, state: &Path) -> io::Result<()> {
    let Some(id) = id_of(state, root.class()) else { return Ok(()) };
    let paths = Paths::of(root, &id);
    let is_done = read_slot(file, &id)?.is_some_and(|slot| slot.progress.is_done);
    if !is_done || *state != *paths.state || !lock(file)? {
        return Ok(());
    }
    match put_away(&paths) {
        // Whoever had the lock before has done it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        put_away => put_away,
    }
}

fn remove_if_nobodys(bytes: &Path) -> io::Result<bool> {
    if fs::exists(bytes.with_extension(STATE))? {
        return Ok(false);
    }
    match fs::remove_file(bytes) {
        Ok(()) => Ok(true),
        // They went with their state, since the directory was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The upload of a state's path.
fn id_of(state: &Path, class: StorageClass) -> Option<UploadId> {
    let random = state.file_stem()?.to_str()?;
    let tenant = state.parent()?.file_name()?.to_str()?;
    let tenant = TenantMark::from_u64(u64::from_str_radix(tenant, 16).ok()?);
    UploadId::parse(&format!("{class}-{tenant}-{random}")).ok()
}

#[cfg(test)]
mod tests {
    use super::super::open_bytes;
    use super::super::record::{Slot, write_first, write_slot};
    use super::*;
    use crate::application::fakes::an_object;
    use crate::application::staging::{StagedOrder, StagedProgress, StagedRole, StagedUpload};
    use crate::domain::value_objects::Precondition;

    const NOW: Timestamp = Timestamp::from_millis(10_000);

    /// Makes the files of an upload that is over at that time, with a byte.
    fn make(root: &StorageRoot, expires_at: i64) -> (Paths, File, UploadId) {
        let id = UploadId::generate(StorageClass::Hot, TenantMark::from_u64(9));
        let order = StagedOrder {
            id,
            object: an_object("models", "acme", None),
            precondition: Precondition::default(),
            declared: None,
            words: "".into(),
            role: StagedRole::Whole,
        };
        let expires_at = Timestamp::from_millis(expires_at);
        let progress = StagedProgress { offset: 0, length: Some(1), expires_at, is_done: false };
        let paths = Paths::of(root, &id);
        fs::create_dir_all(&paths.directory).unwrap();
        let state = File::options().read(true).write(true).create_new(true).open(&paths.state).unwrap();
        write_first(&state, &StagedUpload { order, progress }).unwrap();
        open_bytes(&paths.bytes).unwrap();
        (paths, state, id)
    }

    fn are_there(paths: &Paths) -> (bool, bool) {
        (paths.state.exists(), paths.bytes.exists())
    }

    #[test]
    fn what_is_over_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Hot, directory.path()).unwrap();
        assert_eq!(remove_expired(&root, NOW).unwrap(), 0, "there is none");
        let (over, _, _) = make(&root, 10_000);
        let (waiting, _, _) = make(&root, 10_001);
        let (went_on, state, id) = make(&root, 5);
        let progress = StagedProgress {
            offset: 0,
            length: Some(1),
            expires_at: Timestamp::from_millis(20_000),
            is_done: false,
        };
        write_slot(&state, &id, &Slot { number: 1, ..Slot::first(progress) }).unwrap();
        let (in_use, held, _) = make(&root, 5);
        assert!(lock(&held).unwrap());
        let (damaged, state, _) = make(&root, 5);
        state.set_len(7).unwrap();
        let (orphan, _, _) = make(&root, 5);
        fs::remove_file(&orphan.state).unwrap();
        let stranger = over.directory.join("README");
        fs::write(&stranger, "not ours").unwrap();
        let (done, _, _) = make(&root, 5);
        fs::create_dir_all(&done.done_directory).unwrap();
        fs::rename(&done.state, &done.done).unwrap();
        fs::remove_file(&done.bytes).unwrap();

        assert_eq!(remove_expired(&root, NOW).unwrap(), 3);
        assert_eq!(are_there(&over), (false, false));
        assert_eq!(are_there(&orphan), (false, false));
        assert!(!done.done.exists());
        for left in [&waiting, &went_on, &in_use, &damaged] {
            assert_eq!(are_there(left), (true, true));
        }
        assert!(stranger.exists());
        drop(held);
        assert_eq!(remove_expired(&root, NOW).unwrap(), 1);
        assert_eq!(are_there(&in_use), (false, false));
    }
}
