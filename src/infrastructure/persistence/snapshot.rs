//! Copies of the database in the hot root: what packs need no longer be kept for, and what a lost database is rebuilt
//! from. A copy is whole, checked and durable before it gets its name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::collector::CycleError;
use super::database::Database;
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::storage::{Roots, make_durable_directory, sync_directory};

const DIRECTORY: &str = "snapshots";
const UNFINISHED: &str = "unfinished";

/// Makes a copy of the database as it is now, and removes older ones.
pub(super) async fn take_snapshot(database: &Database, roots: &Roots) -> Result<(), CycleError> {
    let directory = directory(roots);
    let unfinished = directory.join(UNFINISHED);
    let (made, old) = (directory.clone(), unfinished.clone());
    let prepare = move || {
        make_durable_directory(&made)?;
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    blocking(prepare).await?;
    // The copy has at least this change.
    let sequence = database.applied_sequence().await?;
    database.copy_to(&unfinished).await?;
    let publish = move || {
        File::open(&unfinished)?.sync_all()?;
        let name = format!("{sequence:020}.db");
        fs::rename(&unfinished, directory.join(&name))?;
        sync_directory(&directory)?;
        for older in list(&directory)?.into_iter().filter(|path| !path.ends_with(&name)) {
            fs::remove_file(older)?;
        }
        Ok(())
    };
    blocking(publish).await
}

/// The copies that there are, the newest first.
///
/// # Errors
/// The directory cannot be listed.
pub(crate) fn snapshots(roots: &Roots) -> io::Result<Vec<PathBuf>> {
    match list(&directory(roots)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// Where they are.
pub(super) fn directory(roots: &Roots) -> PathBuf {
    roots.of(StorageClass::Hot).path().join(DIRECTORY)
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            found.push(path);
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CycleError> {
    spawn_blocking(work).await.map_err(io::Error::other).flatten().map_err(CycleError::Files)
}
