//! What belongs to one server at a time: a data directory, and a SQLite file wherever it is.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::root::{make_durable_directory, sync_directory};

const LOCK_FILE: &str = "lock";
/// Behind the name of the database's file, as SQLite names its own companions of it.
const DATABASE_LOCK_SUFFIX: &str = "-lock";

/// Why something cannot be had for oneself.
#[derive(Debug, Error)]
pub enum LockError {
    /// The data directory cannot be made or locked.
    #[error("DATA_DIR {path}: cannot {operation}")]
    Directory {
        /// Where it should be.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database's lock cannot be opened or locked.
    #[error("the lock of the database {path} cannot be had")]
    Database {
        /// Which database.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else has the data directory.
    #[error("DATA_DIR {0} is in use by another server")]
    DirectoryInUse(PathBuf),
    /// Somebody else has the database.
    #[error("the database {0} is in use by another server")]
    DatabaseInUse(PathBuf),
}

/// Keeps others from a data directory, as long as it lives; the kernel gives it up with the process, however that
/// ends.
#[derive(Debug)]
pub struct DataDirectoryLock(#[expect(dead_code, reason = "what counts is that it is open")] File);

impl DataDirectoryLock {
    /// Locks the directory, and makes it first if it is not there.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        make_durable_directory(path).map_err(directory_failed(path, "make it"))?;
        let locked = open(&path.join(LOCK_FILE), Missing::Make).and_then(lock);
        match locked.map_err(directory_failed(path, "lock it"))? {
            Some(file) => Ok(Self(file)),
            None => Err(LockError::DirectoryInUse(path.into())),
        }
    }

    /// Whether a server has the directory; makes nothing.
    pub fn is_held(path: &Path) -> bool {
        let locked = open(&path.join(LOCK_FILE), Missing::Refuse).and_then(lock);
        matches!(locked, Ok(None))
    }

    /// Makes the names of what was made in the directory durable.
    ///
    /// # Errors
    /// [`LockError::Directory`].
    pub fn make_durable(path: &Path) -> Result<(), LockError> {
        sync_directory(path).map_err(directory_failed(path, "sync it"))
    }
}

/// Keeps others from a SQLite file. Two servers on one would each sweep what the other is writing, and two data
/// directories do not keep them apart.
#[derive(Debug)]
pub struct DatabaseLock(#[expect(dead_code, reason = "what counts is that it is open")] File);

/// Whether a server has a database.
#[derive(Debug)]
pub enum DatabaseUse {
    /// None has, and none will as long as this lives.
    Free(DatabaseLock),
    /// One has.
    InUse,
    /// None has ever had it, or what had it did not say so.
    Unknown,
}

impl DatabaseLock {
    /// Locks the database, whose directory has to be there.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(database: &Path) -> Result<Self, LockError> {
        let locked = lock_path(database).and_then(|path| open(&path, Missing::Make)).and_then(lock);
        match locked.map_err(database_failed(database))? {
            Some(file) => Ok(Self(file)),
            None => Err(LockError::DatabaseInUse(database.into())),
        }
    }

    /// Locks the database if no server has it; makes nothing.
    ///
    /// # Errors
    /// [`LockError::Database`].
    pub fn look(database: &Path) -> Result<DatabaseUse, LockError> {
        let locked = lock_path(database).and_then(|path| open(&path, Missing::Refuse)).and_then(lock);
        match locked {
            Ok(Some(file)) => Ok(DatabaseUse::Free(Self(file))),
            Ok(None) => Ok(DatabaseUse::InUse),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DatabaseUse::Unknown),
            Err(error) => Err(database_failed(database)(error)),
        }
    }
}

/// The same for every way to write the database's path.
fn lock_path(database: &Path) -> io::Result<PathBuf> {
    let directory = match database.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut name: OsString = database.file_name().ok_or(io::ErrorKind::InvalidInput)?.into();
    name.push(DATABASE_LOCK_SUFFIX);
    Ok(directory.canonicalize()?.join(name))
}

enum Missing {
    Make,
    Refuse,
}

fn open(path: &Path, missing: Missing) -> io::Result<File> {
    File::options().create(matches!(missing, Missing::Make)).truncate(false).write(true).open(path)
}

fn lock(file: File) -> io::Result<Option<File>> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn directory_failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> LockError {
    move |source| LockError::Directory { path: path.into(), operation, source }
}

fn database_failed(path: &Path) -> impl FnOnce(io::Error) -> LockError {
    move |source| LockError::Database { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_a_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/data");
        assert!(!DataDirectoryLock::is_held(&path));
        assert!(!path.exists(), "looking makes nothing");
        let lock = DataDirectoryLock::acquire(&path).unwrap();
        assert!(DataDirectoryLock::is_held(&path));
        assert!(matches!(DataDirectoryLock::acquire(&path), Err(LockError::DirectoryInUse(_))));
        drop(lock);
        assert!(!DataDirectoryLock::is_held(&path));
        assert!(DataDirectoryLock::acquire(&path).is_ok());
    }

    #[test]
    fn one_at_a_time_has_a_database_and_looking_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.db");
        assert!(matches!(DatabaseLock::look(&path), Ok(DatabaseUse::Unknown)));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let lock = DatabaseLock::acquire(&path).unwrap();
        // However the path is written.
        let otherwise = directory.path().join(".").join("m.db");
        assert!(matches!(DatabaseLock::acquire(&otherwise), Err(LockError::DatabaseInUse(_))));
        assert!(matches!(DatabaseLock::look(&otherwise), Ok(DatabaseUse::InUse)));
        assert!(DatabaseLock::acquire(&directory.path().join("other.db")).is_ok());
        drop(lock);
        let Ok(DatabaseUse::Free(lock)) = DatabaseLock::look(&path) else { panic!("nobody has it") };
        assert!(matches!(DatabaseLock::look(&path), Ok(DatabaseUse::InUse)));
        drop(lock);
    }
}
