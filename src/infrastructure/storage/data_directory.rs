//! The data directory, which belongs to one server at a time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::root::{make_durable_directory, sync_directory};

const LOCK_FILE: &str = "lock";

/// Why the data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirectoryError {
    /// It cannot be made or locked.
    #[error("DATA_DIR {path}: cannot {operation}")]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("DATA_DIR {0} is in use by another server")]
    InUse(PathBuf),
}

/// Keeps every server from the data directory, as long as it lives; the kernel gives it up with the process, however
/// that ends.
#[derive(Debug)]
pub struct DataDirectoryLock(#[expect(dead_code, reason = "what counts is that it is open")] File);

impl DataDirectoryLock {
    /// Locks the directory, and makes it first if it is not there.
    ///
    /// # Errors
    /// [`DataDirectoryError`].
    pub fn acquire(path: &Path) -> Result<Self, DataDirectoryError> {
        make_durable_directory(path).map_err(failed(path, "make it"))?;
        let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK_FILE));
        let lock = lock(path, file.map_err(failed(path, "open its lock"))?)?;
        lock.ok_or_else(|| DataDirectoryError::InUse(path.into()))
    }

    /// Makes the names of what was made in the directory durable.
    ///
    /// # Errors
    /// [`DataDirectoryError::Io`].
    pub fn make_durable(path: &Path) -> Result<(), DataDirectoryError> {
        sync_directory(path).map_err(failed(path, "sync it"))
    }

    /// Locks the directory if no server has it; makes nothing.
    ///
    /// # Errors
    /// [`DataDirectoryError::Io`].
    pub fn acquire_if_free(path: &Path) -> Result<Option<Self>, DataDirectoryError> {
        let file = File::options().write(true).open(path.join(LOCK_FILE));
        lock(path, file.map_err(failed(path, "open its lock"))?)
    }
}

fn lock(path: &Path, file: File) -> Result<Option<DataDirectoryLock>, DataDirectoryError> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(DataDirectoryLock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(path, "lock it")(error.into())),
    }
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> DataDirectoryError {
    move |source| DataDirectoryError::Io { path: path.into(), operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_it_and_looking_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        assert!(DataDirectoryLock::acquire_if_free(&path).is_err());
        assert!(!path.exists());
        let lock = DataDirectoryLock::acquire(&path).unwrap();
        assert!(matches!(DataDirectoryLock::acquire(&path), Err(DataDirectoryError::InUse(_))));
        assert!(DataDirectoryLock::acquire_if_free(&path).unwrap().is_none());
        drop(lock);
        assert!(DataDirectoryLock::acquire_if_free(&path).unwrap().is_some());
    }
}
