//! Reads a stored blob from its disk, to compare it with its hash. Everything here blocks.
//!
//! What is asked is whether the disk still has it, so that reads go around the page cache where the file system can do that:
//! a copy in memory proves nothing, and what is read once must not push out what is in use. Elsewhere the page cache
//! forgets it behind the read.

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::fs::{Advice, Mode, OFlags, fadvise, fcntl_setfl, open};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use sha2::{Digest as _, Sha256};

use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader};
use super::root::StorageRoot;
use super::stored_blob::file_path;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, PackId, Place};

/// What is read at once.
pub const READ_BYTES: usize = 1 << 20;
/// What direct reads begin and end at, in the file and in memory: no disk has larger sectors.
const ALIGNMENT: usize = 4096;
/// `RWF_DONTCACHE` (preadv2(2), Linux 6.14): what a read brings into the page cache leaves it at once, and what was there
/// before, because it is in use, stays.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Memory for the bytes of one read, aligned as direct reads want it.
pub struct ReadBuffer(Vec<u8>);

impl Default for ReadBuffer {
    fn default() -> Self {
        Self(vec![0; READ_BYTES + ALIGNMENT])
    }
}

impl ReadBuffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        // An offset that cannot be said (which no real machine does) would make the read fail, and nothing worse.
        let start = self.0.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        &mut self.0[start..start + READ_BYTES]
    }
}

/// How bytes come from a file without staying in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Around the page cache.
    Direct,
    /// Through it, and out of it at once.
    Uncached,
    /// Through it, and then it is asked to forget them.
    Forgotten,
}

/// A blob on its way from the disk.
pub struct BlobReading {
    file: File,
    way: Way,
    /// Where in the file the next byte is.
    position: u64,
    /// Where the blob ends.
    end: u64,
    length: u64,
    hasher: Sha256,
}

impl BlobReading {
    /// Opens a stored blob; `None` if it is not at its place.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(
        root: &StorageRoot,
        location: &BlobLocation,
        buffer: &mut ReadBuffer,
    ) -> io::Result<Option<Self>> {
        let Some((file, way)) = open_around_cache(root, location)? else { return Ok(None) };
        let mut reading = Self { file, way, position: 0, end: 0, length: 0, hasher: Sha256::new() };
        match location.place {
            Place::File { .. } => reading.end = reading.file.metadata()?.len(),
            Place::Pack { pack, offset } => {
                let Some(header) = reading.record_at((pack, offset), location, buffer)? else {
                    return Ok(None);
                };
                reading.position = offset + RECORD_HEADER_BYTES as u64;
                reading.end = reading.position + u64::from(header.body_bytes);
            }
        }
        reading.length = reading.end - reading.position;
        Ok(Some(reading))
    }

    /// How long the blob is, as its file or its record says.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the next piece, and gives its length: 0 at the end of the blob, or of a file that has been cut meanwhile.
    ///
    /// # Errors
    /// What the system said.
    pub fn read_piece(&mut self, buffer: &mut ReadBuffer) -> io::Result<u64> {
        let piece = self.read(buffer)?;
        let count = piece.len() as u64;
        self.hasher.update(&buffer.bytes_mut()[piece]);
        self.position += count;
        Ok(count)
    }

    /// The hash of all that has been read.
    pub fn content_hash(self) -> ContentHash {
        ContentHash::from_bytes(self.hasher.finalize().into())
    }

    /// The header of the record at this place, if it is the blob's.
    fn record_at(
        &mut self,
        (pack, offset): (PackId, u64),
        location: &BlobLocation,
        buffer: &mut ReadBuffer,
    ) -> io::Result<Option<RecordHeader>> {
        (self.position, self.end) = (offset, offset.saturating_add(RECORD_HEADER_BYTES as u64));
        let piece = self.read(buffer)?;
        let header = RecordHeader::decode(&buffer.bytes_mut()[piece]).ok();
        Ok(header
            .filter(|header| header.is_of(pack, offset, &location.content_hash, header.body_bytes.into())))
    }

    /// Reads from the position on, and says where in the buffer those bytes are: as many as fit, up to the end.
    fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<std::ops::Range<usize>> {
        let bytes = buffer.bytes_mut();
        loop {
            let before = (self.position % ALIGNMENT as u64) as usize;
            let missing = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
            // Whole blocks, of which the blob begins and ends somewhere: what belongs to others is read with it.
            let wanted = before.saturating_add(missing).min(READ_BYTES);
            let wanted = if self.way == Way::Direct { wanted.next_multiple_of(ALIGNMENT) } else { wanted };
            let flags = if self.way == Way::Uncached { DONT_CACHE } else { ReadWriteFlags::empty() };
            let from = self.position - before as u64;
            match preadv2(&self.file, &mut [IoSliceMut::new(&mut bytes[..wanted])], from, flags) {
                Ok(count) => {
                    if self.way == Way::Forgotten {
                        // It is a wish.
                        let length = std::num::NonZeroU64::new(count as u64);
                        let _ = fadvise(&self.file, from, length, Advice::DontNeed);
                    }
                    return Ok(before..count.min(before.saturating_add(missing)).max(before));
                }
                Err(Errno::INTR) => {}
                // The file system opens files for direct reads, and wants them to be otherwise aligned.
                Err(Errno::INVAL) if self.way == Way::Direct => {
                    fcntl_setfl(&self.file, OFlags::empty())?;
                    self.way = Way::Uncached;
                }
                // This kernel or file system does not know it.
                Err(Errno::OPNOTSUPP | Errno::INVAL) if self.way == Way::Uncached => {
                    self.way = Way::Forgotten;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn open_around_cache(root: &StorageRoot, location: &BlobLocation) -> io::Result<Option<(File, Way)>> {
    let path = file_path(root, location);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = match open(&path, flags | OFlags::DIRECT, Mode::empty()) {
        // open(2): the file system does not do that.
        Err(Errno::INVAL) => (open(&path, flags, Mode::empty()), Way::Uncached),
        opened => (opened, Way::Direct),
    };
    match opened {
        (Ok(file), way) => Ok(Some((file.into(), way))),
        (Err(Errno::NOENT), _) => Ok(None),
        (Err(error), _) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::value_objects::{InstanceId, StorageClass};
    use crate::infrastructure::storage::{PackCopy, Roots, sha256};

    /// On the file system of the build, which knows direct reads wherever that of temporary files does not.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap()
    }

    fn roots(directory: &Path) -> Roots {
        Roots::open(&directory.join("hot"), &directory.join("cold")).unwrap()
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 % 251) as u8).collect()
    }

    /// Makes a file of a blob.
    fn stored(root: &StorageRoot, body: &[u8]) -> BlobLocation {
        let place = Place::File { instance: InstanceId::from_i64(7), number: body.len() as u64 };
        let location = BlobLocation { storage_class: StorageClass::Hot, content_hash: sha256(body), place };
        std::fs::write(root.blob_path(&location), body).unwrap();
        location
    }

    /// What is at its place: the hash and how many bytes it is of.
    fn read(root: &StorageRoot, location: &BlobLocation, way: Option<Way>) -> Option<(ContentHash, u64)> {
        let mut buffer = ReadBuffer::default();
        let mut reading = BlobReading::open(root, location, &mut buffer).unwrap()?;
        if let Some(way) = way {
            reading.file = File::open(file_path(root, location)).unwrap();
            reading.way = way;
        }
        let mut length = 0;
        loop {
            match reading.read_piece(&mut buffer).unwrap() {
                0 => break,
                count => length += count,
            }
        }
        Some((reading.content_hash(), length))
    }

    #[test]
    fn a_file_of_any_length_is_read_whole_in_every_way() {
        let directory = directory();
        let roots = roots(directory.path());
        let root = roots.of(StorageClass::Hot);
        for length in [0, 1, 4095, 4096, 4097, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES + 5]
        {
            let body = body(length);
            let location = stored(root, &body);
            for way in [None, Some(Way::Uncached), Some(Way::Forgotten)] {
                let expected = Some((location.content_hash, length as u64));
                assert_eq!(read(root, &location, way), expected, "{length} {way:?}");
            }
        }
    }

    #[test]
    fn records_of_a_pack_are_read_wherever_they_begin_and_end() {
        let directory = directory();
        let roots = roots(directory.path());
        let root = roots.of(StorageClass::Hot);
        let mut pack = PackCopy::create(root, InstanceId::from_i64(7), 1 << 20).unwrap();
        let bodies: Vec<_> = [1, 4000, 4096, 100, 512 * 1024, 3].map(body).into();
        let places = bodies.iter().map(|body| {
            let from = stored(root, body);
            let place = pack.append(root, &from).unwrap().unwrap();
            BlobLocation { place, ..from }
        });
        let places: Vec<_> = places.collect();
        pack.finish().unwrap();
        for (location, body) in places.iter().zip(&bodies) {
            for way in [None, Some(Way::Uncached), Some(Way::Forgotten)] {
                let expected = Some((location.content_hash, body.len() as u64));
                assert_eq!(read(root, location, way), expected, "{way:?}");
            }
            // What lies there is not just any record.
            let other = BlobLocation { content_hash: sha256(b"another"), ..*location };
            assert_eq!(read(root, &other, None), None);
            let Place::Pack { pack, offset } = location.place else { panic!("it is in a pack") };
            for offset in [offset + 1, 1 << 40] {
                let moved = BlobLocation { place: Place::Pack { pack, offset }, ..*location };
                assert_eq!(read(root, &moved, None), None);
            }
        }
    }

    #[test]
    fn what_is_gone_is_told_from_what_is_altered() {
        let directory = directory();
        let roots = roots(directory.path());
        let root = roots.of(StorageClass::Hot);
        let location = stored(root, &body(9000));
        let path = root.blob_path(&location);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(root, &location, None), Some((sha256(&bytes), 9000)));
        std::fs::write(&path, &bytes[..10]).unwrap();
        assert_eq!(read(root, &location, None), Some((sha256(&bytes[..10]), 10)));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(root, &location, None), None);
    }
}
