//! The file of the audit log. A server and tools append to it at once, each line whole, and whoever rotates logs may move
//! it away at any time. Blocks, and is never used on a data-plane core.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Who may read the file where it is made: its owner, and nobody else.
const MODE: u32 = 0o600;
/// How long others that append to the file are waited for. They hold it for one write.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The file cannot be used.
#[derive(Debug, Error)]
#[error("AUDIT_LOG_FILE {path}: cannot {operation} it")]
pub struct AuditFileError {
    path: PathBuf,
    operation: &'static str,
    #[source]
    source: io::Error,
}

/// The file, open for appending.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    /// Device and number of what is open.
    identity: (u64, u64),
    /// A pipe or a terminal has no end to look at, and nobody takes back what was written to it.
    is_regular: bool,
}

impl AuditFile {
    /// Opens the file, or makes it for its owner alone. One that is there keeps its mode.
    ///
    /// # Errors
    /// [`AuditFileError`].
    pub fn open(path: &Path) -> Result<Self, AuditFileError> {
        let failed = |source| AuditFileError { path: path.to_owned(), operation: "open", source };
        // To be read too: its last byte says whether the last line is whole.
        let file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path);
        let file = file.map_err(failed)?;
        let opened = file.metadata().map_err(failed)?;
        let identity = (opened.dev(), opened.ino());
        Ok(Self { path: path.to_owned(), file, identity, is_regular: opened.is_file() })
    }

    /// Opens the path anew where it names another file by now, or none: the old one has been moved away.
    ///
    /// # Errors
    /// [`AuditFileError`].
    pub fn follow(&mut self) -> Result<(), AuditFileError> {
        match metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == self.identity => {}
            _ => *self = Self::open(&self.path)?,
        }
        Ok(())
    }

    /// Appends whole lines: all of them, or none. A crash of the process does not take them back, one of the machine may.
    ///
    /// # Errors
    /// [`AuditFileError`]: no room, as a rule.
    pub fn append(&self, lines: &[u8]) -> Result<(), AuditFileError> {
        let appended = if self.is_regular {
            self.lock().and_then(|()| {
                let appended = self.append_alone(lines);
                // What was locked by this descriptor alone can be unlocked.
                let _ = flock(&self.file, FlockOperation::Unlock);
                appended
            })
        } else {
            (&self.file).write_all(lines)
        };
        appended.map_err(|source| AuditFileError { path: self.path.clone(), operation: "write", source })
    }

    /// Keeps other processes from appending. The kernel does that for one write, but not for what follows a short one.
    fn lock(&self) -> io::Result<()> {
        const LOOK: Duration = Duration::from_millis(1);
        let started = Instant::now();
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(LOOK)
                }
                result => return Ok(result?),
            }
        }
    }

    fn append_alone(&self, lines: &[u8]) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut lines = Cow::Borrowed(lines);
        if length > 0 {
            let mut last = [0];
            self.file.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                // Somebody was killed in the middle of a write. What is left of that line stays a line of its own.
                lines.to_mut().insert(0, b'\n');
            }
        }
        let written = (&self.file).write_all(&lines);
        if written.is_err() && self.file.metadata().is_ok_and(|now| now.len() > length) {
            // Where even that fails, whoever appends next begins a new line.
            let _ = self.file.set_len(length);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{read_to_string, rename, write};

    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone_and_appended_to_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        AuditFile::open(&path).unwrap().append(b"one\n").unwrap();
        AuditFile::open(&path).unwrap().append(b"two\n").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = AuditFile::open(directory.path()).unwrap_err();
        assert!(error.to_string().starts_with("AUDIT_LOG_FILE "), "{error}");
    }

    #[test]
    fn a_line_that_stands_half_is_not_joined_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        write(&path, "ha").unwrap();
        AuditFile::open(&path).unwrap().append(b"whole\n").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "ha\nwhole\n");
    }

    #[test]
    fn it_goes_where_the_path_leads() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("audit.log"), directory.path().join("audit.log.1"));
        let mut file = AuditFile::open(&path).unwrap();
        file.append(b"one\n").unwrap();
        file.follow().unwrap();
        rename(&path, &moved).unwrap();
        file.append(b"two\n").unwrap();
        file.follow().unwrap();
        file.append(b"three\n").unwrap();
        assert_eq!(read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn whoever_holds_it_for_long_is_not_waited_for_without_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let (holder, file) = (AuditFile::open(&path).unwrap(), AuditFile::open(&path).unwrap());
        holder.lock().unwrap();
        assert!(file.append(b"one\n").is_err());
        flock(&holder.file, FlockOperation::Unlock).unwrap();
        file.append(b"one\n").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "one\n");
    }

    #[test]
    fn what_is_no_file_is_written_to_as_it_is() {
        let full = AuditFile::open(Path::new("/dev/full")).unwrap();
        let error = full.append(b"line\n").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        AuditFile::open(Path::new("/dev/null")).unwrap().append(b"line\n").unwrap();
    }
}
