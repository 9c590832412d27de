//! Where fetched files go. Whatever a server calls its objects, nothing is written outside of the directory that was
//! named: each part of a name is opened from the one above it, and never through a link.
//!
//! A file is written under a name of its own beside its place, and moved there once its bytes are known to be right, so
//! that a file that is there is whole. It is not synced: what a power cut takes can be fetched again, and `verify` finds
//! it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, mkdirat, open, openat, renameat, statat, unlinkat,
};
use sha2::{Digest as _, Sha256};

use super::answers::Version;
use super::errors::ClientError;
use super::hashing;
use crate::domain::value_objects::{ContentHash, Key};

/// What partial files are called: this, and so many hexadecimal digits in between.
const PARTIAL_NAME: (&str, &str) = (".just_storage-", ".partial");
const PARTIAL_DIGITS: usize = 16;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// Whether a file of this name is what an earlier run has left of one that it was fetching.
pub(super) fn is_partial(name: &str) -> bool {
    let (before, after) = PARTIAL_NAME;
    let digits = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == PARTIAL_DIGITS && digits.bytes().all(is_digit))
}

/// A directory that files are fetched into.
pub(super) struct Destination {
    directory: OwnedFd,
    path: PathBuf,
}

impl Destination {
    /// A directory, made if it is missing.
    pub(super) fn create(path: &Path) -> Result<Self, ClientError> {
        std::fs::create_dir_all(path).map_err(ClientError::files("make", path))?;
        Self::open(path)
    }

    /// A directory that is there.
    pub(super) fn open(path: &Path) -> Result<Self, ClientError> {
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let directory = open(here, DIRECTORY, Mode::empty());
        let directory = directory.map_err(|error| ClientError::files("open", here)(error.into()))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// The place of what is called `name` below the directory, with the directories in between.
    pub(super) fn place_below(&self, name: &Key) -> Result<Place, ClientError> {
        let (mut path, mut directory) = (self.path.clone(), None);
        let mut segments = name.as_str().split('/').peekable();
        while let Some(segment) = segments.next() {
            path.push(segment);
            let above = directory.as_ref().unwrap_or(&self.directory);
            if segments.peek().is_none() {
                return Place::new(above, segment.into(), path);
            }
            let entered = enter(above, segment).map_err(ClientError::files("enter", &path))?;
            directory = Some(entered);
        }
        // A key has a segment.
        Err(ClientError::Usage("a key is not empty".to_owned()))
    }

    /// The place of a file right in the directory.
    pub(super) fn place(&self, name: &OsStr) -> Result<Place, ClientError> {
        Place::new(&self.directory, name.to_owned(), self.path.join(name))
    }
}

/// Opens a directory, and makes it where it is missing. Mostly it is there.
fn enter(above: &OwnedFd, segment: &str) -> io::Result<OwnedFd> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    match openat(above, segment, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    match mkdirat(above, segment, Mode::from_raw_mode(0o777)) {
        // Another worker was faster.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(openat(above, segment, flags, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

/// Where one file goes.
pub(super) struct Place {
    directory: OwnedFd,
    name: OsString,
    pub(super) path: PathBuf,
}

impl Place {
    fn new(directory: &OwnedFd, name: OsString, path: PathBuf) -> Result<Self, ClientError> {
        let directory = directory.try_clone().map_err(ClientError::files("open", &path))?;
        Ok(Self { directory, name, path })
    }

    /// Whether a file with these bytes is there already.
    pub(super) fn holds(&self, version: &Version) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = openat(&self.directory, &self.name, flags, Mode::empty()) else { return false };
        let mut file = File::from(file);
        let alike = file.metadata().is_ok_and(|there| there.is_file() && there.len() == version.size_bytes);
        // What cannot be read is fetched.
        alike
            && hashing::hash_rest(&mut file, |_| {})
                .is_ok_and(|(hasher, _)| hashing::finish(hasher) == version.content_hash)
    }

    fn is_directory(&self) -> bool {
        let there = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        there.is_ok_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::Directory)
    }

    /// The name under which these bytes are collected: the same in every run, and short whatever the file's own is.
    fn partial_name(&self, content_hash: ContentHash) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_encoded_bytes());
        hasher.update(content_hash.as_bytes());
        let hash = hashing::finish(hasher).to_string();
        let (before, after) = PARTIAL_NAME;
        format!("{before}{}{after}", &hash[..PARTIAL_DIGITS])
    }

    /// What an earlier run has left of these bytes, or nothing yet; for this run alone.
    pub(super) fn partial(&self, version: Version) -> Result<Partial<'_>, ClientError> {
        // Nothing is fetched that would find no place in the end.
        if self.is_directory() {
            return Err(ClientError::files("write", &self.path)(io::ErrorKind::IsADirectory.into()));
        }
        let name = self.partial_name(version.content_hash);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.directory, name.as_str(), flags, Mode::from_raw_mode(0o666));
        let file = File::from(file.map_err(|error| ClientError::files("make", &self.path)(error.into()))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ClientError::Busy(self.path.clone())),
            Err(error) => return Err(ClientError::files("lock", &self.path)(error.into())),
        }
        Ok(Partial { place: self, name, file, version })
    }
}

/// A file that is not whole yet, or not known to be.
pub(super) struct Partial<'a> {
    place: &'a Place,
    name: String,
    pub(super) file: File,
    pub(super) version: Version,
}

impl Partial<'_> {
    /// Puts it in its place, or throws it away where something else has come there meanwhile.
    pub(super) fn keep(self) -> Result<(), ClientError> {
        let Place { directory, name, path } = self.place;
        let renamed = renameat(directory, self.name.as_str(), directory, name.as_os_str());
        renamed.map_err(|error| {
            self.throw_away();
            ClientError::files("write", path)(error.into())
        })
    }

    /// Removes it.
    pub(super) fn throw_away(self) {
        // One that stays is found wrong again the next time.
        let _ = unlinkat(&self.place.directory, self.name.as_str(), AtFlags::empty());
    }

    /// The error of a failed write.
    pub(super) fn failed(&self, source: io::Error) -> ClientError {
        ClientError::files("write", &self.place.path)(source)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn version(bytes: &[u8]) -> Version {
        let content_hash = ContentHash::from_bytes(Sha256::digest(bytes).into());
        Version { content_hash, size_bytes: bytes.len() as u64 }
    }

    #[test]
    fn nothing_is_written_through_a_link_out_of_the_directory() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink(outside.path().join("file"), inside.path().join("file")).unwrap();
        let destination = Destination::open(inside.path()).unwrap();
        for name in ["out/file", "out/deeper/file"] {
            assert!(destination.place_below(&Key::parse(name).unwrap()).is_err(), "{name}");
        }
        // A link in the place of a file is replaced, not followed.
        let place = destination.place_below(&Key::parse("file").unwrap()).unwrap();
        let mut partial = place.partial(version(b"x")).unwrap();
        partial.file.write_all(b"x").unwrap();
        partial.keep().unwrap();
        assert!(fs::symlink_metadata(inside.path().join("file")).unwrap().is_file());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_partial_file_is_found_again_and_is_of_one_run() {
        let directory = tempfile::tempdir().unwrap();
        let name = "n".repeat(255);
        let place = Destination::create(&directory.path().join("a/b")).unwrap();
        let place = place.place(OsStr::new(&name)).unwrap();
        let mut partial = place.partial(version(b"xy")).unwrap();
        partial.file.write_all(b"x").unwrap();
        assert!(matches!(place.partial(version(b"xy")), Err(ClientError::Busy(_))));
        drop(partial);
        let mut partial = place.partial(version(b"xy")).unwrap();
        assert_eq!(partial.file.metadata().unwrap().len(), 1);
        assert_eq!(place.partial(version(b"other")).unwrap().file.metadata().unwrap().len(), 0);
        io::Seek::seek(&mut partial.file, io::SeekFrom::End(0)).unwrap();
        partial.file.write_all(b"y").unwrap();
        partial.keep().unwrap();
        assert!(
            place.holds(&version(b"xy")) && !place.holds(&version(b"xz")) && !place.holds(&version(b"x"))
        );
    }

    #[test]
    fn where_a_directory_is_no_partial_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let destination = Destination::open(directory.path()).unwrap();
        let place = destination.place(OsStr::new("a")).unwrap();
        let partial = place.partial(version(b"x")).unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        assert!(matches!(partial.keep(), Err(ClientError::Files { .. })));
        assert!(matches!(place.partial(version(b"x")), Err(ClientError::Files { .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn partial_files_are_known_by_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let place = Destination::open(directory.path()).unwrap().place(OsStr::new("a")).unwrap();
        let name = place.partial(version(b"x")).unwrap().name;
        assert!(is_partial(&name), "{name}");
        for other in
            ["", "a", ".just_storage", ".just_storage-.partial", ".just_storage-0123456789abcde.partial"]
        {
            assert!(!is_partial(other), "{other}");
        }
        assert!(!is_partial(&name.to_uppercase()) && !is_partial(&format!("{name}~")));
    }
}
