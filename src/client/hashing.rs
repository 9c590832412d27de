//! SHA-256 of what passes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use paired_sha256::update_both;
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
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, buffer_of(file)?);
    buffer.resize(buffer.capacity(), 0);
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

/// Memory to read a file with.
fn buffer_of(file: &File) -> io::Result<Vec<u8>> {
    // With a byte to see the end by. Memory that a small file does not fill would cost more than its hash does.
    let whole = file.metadata()?.len().saturating_add(1);
    let buffer_bytes = usize::try_from(whole).unwrap_or(COPY_BYTES).clamp(READ_BYTES_MIN, COPY_BYTES);
    Ok(Vec::with_capacity(buffer_bytes))
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
    let note = |index: usize, hash: io::Result<ContentHash>| {
        if let Ok(hash) = hash {
            hashed.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(hash);
        }
    };
    // Few files are a processor's each; of many, two at a time take half as long.
    let together = if wanted.len() < 2 * usize::from(workers) { 1 } else { 2 };
    let parts: Vec<_> = wanted.chunks(together).collect();
    in_parallel(&parts, workers, |part| {
        match **part {
            [first, second] => match hash_both([&files[first].path, &files[second].path]) {
                Ok([first_hash, second_hash]) => {
                    note(first, Ok(first_hash));
                    note(second, Ok(second_hash));
                }
                // One of them cannot be read, and the other may.
                Err(_) => {
                    note(first, hash_alone(&files[first].path));
                    note(second, hash_alone(&files[second].path));
                }
            },
            ref one => one.iter().for_each(|index| note(*index, hash_alone(&files[*index].path))),
        }
        Next::Continue
    });
}

fn hash_alone(path: &Path) -> io::Result<ContentHash> {
    Ok(finish(hash_rest(&mut File::open(path)?, |_| {})?.0))
}

/// The hashes of two files, read and hashed beside each other.
fn hash_both(paths: [&Path; 2]) -> io::Result<[ContentHash; 2]> {
    let mut files = [File::open(paths[0])?, File::open(paths[1])?];
    let mut buffers = [buffer_of(&files[0])?, buffer_of(&files[1])?];
    let [mut first, mut second] = [paired_sha256::Sha256::new(), paired_sha256::Sha256::new()];
    loop {
        for (file, buffer) in files.iter_mut().zip(&mut buffers) {
            buffer.clear();
            // As much as there is: the two go on together as far as both do.
            file.take(COPY_BYTES as u64).read_to_end(buffer)?;
        }
        if buffers.iter().all(Vec::is_empty) {
            return Ok([first, second].map(|hasher| ContentHash::from_bytes(hasher.finish())));
        }
        update_both((&mut first, &buffers[0]), (&mut second, &buffers[1]));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entities::{KeyPath, Scope};
    use crate::domain::value_objects::{Key, Namespace, TenantId};

    fn a_file(path: std::path::PathBuf) -> LocalFile {
        let (namespace, tenant_id) = (Namespace::parse("models").unwrap(), TenantId::parse("acme").unwrap());
        let target = KeyPath { scope: Scope { namespace, tenant_id }, key: Key::parse("k").unwrap() };
        LocalFile { path, target, size_bytes: 0 }
    }

    #[test]
    fn each_file_has_its_own_hash_and_one_that_cannot_be_read_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let lengths = [0, 1, COPY_BYTES - 1, COPY_BYTES, 3 * COPY_BYTES + 7, 100, 64, 65];
        let contents: Vec<Vec<u8>> = lengths
            .iter()
            .map(|length| (0..*length).map(|index| (index * 7 + length) as u8).collect())
            .collect();
        let mut files: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(index, content)| {
                let path = directory.path().join(index.to_string());
                std::fs::write(&path, content).unwrap();
                a_file(path)
            })
            .collect();
        files.push(a_file(directory.path().join("gone")));
        let wanted: Vec<_> = (0..files.len()).collect();
        for workers in [1, 4, 16] {
            let mut hashes = vec![None; files.len()];
            hash_files(&files, &wanted, &mut hashes, workers);
            for (content, hash) in contents.iter().zip(&hashes) {
                let expected = ContentHash::from_bytes(Sha256::digest(content).into());
                assert_eq!(*hash, Some(expected), "{} bytes", content.len());
            }
            assert_eq!(hashes.last(), Some(&None));
        }
    }
}
