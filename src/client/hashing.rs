//! SHA-256 of what passes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::errors::ClientError;
use super::local_tree::LocalFile;
use super::transfers::{Next, in_parallel};
use crate::domain::value_objects::ContentHash;

/// What a file is read by, and a body written by.
pub(super) const COPY_BYTES: usize = 256 * 1024;
/// The least that a file is read by, also where it says that it is shorter.
const READ_BYTES_MIN: usize = 4 * 1024;

pub(super) fn finish(hasher: Sha256) -> ContentHash {
    ContentHash::from_bytes(hasher.finalize().into())
}

/// The hash of all that is left of a file, and how long that is; `tell` is told of each piece.
pub(super) fn hash_rest(file: &mut File, mut tell: impl FnMut(&[u8])) -> io::Result<(Sha256, u64)> {
    // With a byte to see the end by. Memory that a small file does not fill would cost more than its hash does.
    let whole = file.metadata()?.len().saturating_add(1);
    let buffer_bytes = usize::try_from(whole).unwrap_or(COPY_BYTES).clamp(READ_BYTES_MIN, COPY_BYTES);
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; buffer_bytes]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, length)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
                tell(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The hash of a file.
pub(super) fn hash_file(path: &Path, mut tell: impl FnMut(u64)) -> Result<ContentHash, ClientError> {
    let mut file = File::open(path).map_err(ClientError::files("open", path))?;
    let hashed = hash_rest(&mut file, |bytes| tell(bytes.len() as u64));
    Ok(finish(hashed.map_err(ClientError::files("read", path))?.0))
}

/// The hashes of those of the files that are wanted and have none yet, some at a time. One that cannot be read has none then.
pub(super) fn hash_files(
    files: &[LocalFile],
    wanted: &[usize],
    hashes: &mut [Option<ContentHash>],
    workers: u16,
) {
    let wanted: Vec<_> = wanted.iter().copied().filter(|index| hashes[*index].is_none()).collect();
    let hashed = Mutex::new(hashes);
    in_parallel(&wanted, workers, |index| {
        if let Ok(hash) = hash_file(&files[*index].path, |_| {}) {
            hashed.lock().unwrap_or_else(PoisonError::into_inner)[*index] = Some(hash);
        }
        Next::Continue
    });
}

/// A reader that hashes what is read, and keeps why it failed: what comes back from the connection
/// otherwise does not tell a broken file from a broken line.
pub(super) struct HashingReader<'a, R> {
    inner: io::Take<R>,
    length_is_known: bool,
    pub(super) hasher: Sha256,
    pub(super) failure: Option<io::Error>,
    tell: &'a dyn Fn(u64),
}

impl<'a, R: Read> HashingReader<'a, R> {
    /// Up to `length`, which has to come, or to the end.
    pub(super) fn new(inner: R, length: Option<u64>, tell: &'a dyn Fn(u64)) -> Self {
        let inner = inner.take(length.unwrap_or(u64::MAX));
        Self { inner, length_is_known: length.is_some(), hasher: Sha256::new(), failure: None, tell }
    }

    fn left(&self) -> u64 {
        self.inner.limit()
    }
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A body that ends before its length would be waited for without end.
                Ok(0) if self.left() > 0 && self.length_is_known => {
                    break Err(io::ErrorKind::UnexpectedEof.into());
                }
                read => break read,
            }
        };
        let count = read.map_err(|error: io::Error| {
            let kind = error.kind();
            self.failure = Some(error);
            io::Error::from(kind)
        })?;
        self.hasher.update(&buffer[..count]);
        (self.tell)(count as u64);
        Ok(count)
    }
}
