//! What is left free of the file system that an embedded database lives on. A change that the log has taken cannot be
//! refused any more, and deleting objects, which makes room again, takes room first: so uploads stop before there is
//! none.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// What uploads leave free for the database: its log and what a checkpoint of it adds, twice over.
const RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// And at most one part in so many of a small file system.
const RESERVE_PART: u64 = 10;

/// The room that a database needs on its file system.
#[derive(Debug, Clone)]
pub struct DatabaseRoom {
    directory: PathBuf,
    reserve_bytes: u64,
}

impl DatabaseRoom {
    /// Of a database in `directory`.
    ///
    /// # Errors
    /// Its file system cannot be looked at.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let reserve_bytes = (size_bytes(directory)? / RESERVE_PART).min(RESERVE_BYTES_MAX);
        Ok(Self { directory: directory.into(), reserve_bytes })
    }

    /// As on a file system of which so much would be left free.
    #[cfg(test)]
    pub(crate) fn reserving(reserve_bytes: u64) -> Self {
        Self { directory: "/".into(), reserve_bytes }
    }

    /// Where the database is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What uploads to the same file system leave free, in bytes.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// So much of the database's log is written before a checkpoint, in bytes: then that and what the checkpoint adds to
    /// the database fit half of the reserve.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.reserve_bytes / 4
    }

    /// Whether half of that has gone: by now the database is to be given no more objects, whoever fills the disk.
    pub fn is_short(&self) -> bool {
        // Whoever writes next finds out what is wrong with a file system that cannot be looked at.
        free_bytes(&self.directory).is_ok_and(|free| free < self.reserve_bytes / 2)
    }
}

/// What is free on the file system of a path, in bytes.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let room = statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// The size of the file system of a path, in bytes.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn size_bytes(path: &Path) -> io::Result<u64> {
    let size = statvfs(path)?;
    Ok(size.f_blocks.saturating_mul(size.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_short_of_room_when_half_of_its_reserve_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut room = DatabaseRoom::of(directory.path()).unwrap();
        assert!(room.reserve_bytes() <= RESERVE_BYTES_MAX);
        let free = free_bytes(directory.path()).unwrap();
        room.reserve_bytes = free;
        assert!(!room.is_short());
        room.reserve_bytes = 4 * free;
        assert!(room.is_short());
    }
}
