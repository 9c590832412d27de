//! One small blob in a pack, open for reading. Runs on a data-plane core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::pack_files::RecentRecord;
use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader};
use crate::application::errors::StoreError;
use crate::domain::value_objects::{ContentHash, PackId};
use crate::infrastructure::data_plane::buffers::{Block, SMALL_BLOCK_BYTES};
use crate::infrastructure::data_plane::runtime::DataFile;

/// Where one blob lies in an open pack. Each read looks whether the record there is really its, and the reads of the
/// whole blob, be it one or many, whether the bytes are as they were written.
#[derive(Clone)]
pub struct PackedBlob {
    file: Rc<DataFile>,
    pack: PackId,
    offset: u64,
    content_hash: ContentHash,
    size_bytes: u64,
    /// What the reads of one download know together. A blob that fits a small block is read at once, and does without.
    download: Option<Rc<Download>>,
    /// Where its record may be in memory of this process.
    recent: Rc<RecentRecord>,
}

impl PackedBlob {
    /// The blob at this place of an open pack, for one download.
    pub(super) fn new(
        (file, recent): (Rc<DataFile>, Rc<RecentRecord>),
        (pack, offset): (PackId, u64),
        content_hash: ContentHash,
        size_bytes: u64,
    ) -> Self {
        let download = (size_bytes > SMALL_BLOCK_BYTES as u64).then(Rc::default);
        Self { file, pack, offset, content_hash, size_bytes, download, recent }
    }

    /// As [`read_exact`](crate::application::ports::BlobReader::read_exact).
    pub(super) async fn read_exact(
        &self,
        mut bytes: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> (Result<(), StoreError>, Vec<u8>) {
        let start = bytes.len();
        if offset.saturating_add(length as u64) > self.size_bytes {
            return (Err(StoreError::Damaged), bytes);
        }
        let read = match offset == 0 && length as u64 == self.size_bytes {
            true => self.read_whole(&mut bytes, length).await,
            false => self.read_part(&mut bytes, offset, length).await,
        };
        if read.is_err() {
            bytes.truncate(start);
        }
        (read, bytes)
    }

    async fn read_whole(&self, bytes: &mut Vec<u8>, length: usize) -> Result<(), StoreError> {
        let start = bytes.len();
        let mut header = [0; RECORD_HEADER_BYTES];
        bytes.reserve_exact(length);
        let recent = self.recent.read((self.pack, self.offset), RECORD_HEADER_BYTES + length, |record| {
            let (first, rest) = record.split_at(RECORD_HEADER_BYTES);
            header.copy_from_slice(first);
            bytes.extend_from_slice(rest);
        });
        if recent.is_none() && !self.file.read_cached_behind(&mut header, bytes, length, self.offset) {
            let read = self.read_from_disk(self.offset, RECORD_HEADER_BYTES + length).await?;
            let (first, rest) = read.split_at(RECORD_HEADER_BYTES);
            header.copy_from_slice(first);
            bytes.extend_from_slice(rest);
        }
        let header = self.checked(&header)?;
        let whole = crc32c::crc32c(&bytes[start..]) == header.body_checksum;
        whole.then_some(()).ok_or(StoreError::Damaged)
    }

    async fn read_part(&self, bytes: &mut Vec<u8>, offset: u64, length: usize) -> Result<(), StoreError> {
        self.body_checksum().await?;
        let read = self.read_from_disk(self.body_offset() + offset, length).await?;
        bytes.extend_from_slice(&read);
        Ok(())
    }

    /// As [`read_buffer`](crate::application::ports::BlobReader::read_buffer). Of the reads that make up the whole blob,
    /// begun in their order, the one that ends last fails if it is not as it was written: whoever hands the parts out
    /// in their order never hands out the last one then.
    pub(super) async fn read_buffer(
        &self,
        mut block: Block,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Block, StoreError> {
        let (start, length) = (block.len(), block.room().min(bytes_max));
        if offset.saturating_add(length as u64) > self.size_bytes {
            return Err(StoreError::Damaged);
        }
        // Before anything is waited for: that is the order in which the reads were begun.
        let round = self.download.as_ref().and_then(|download| download.begin_part(offset, length as u64));
        let body_checksum = self.body_checksum().await?;
        let mut position = self.body_offset() + offset;
        while block.len() < start + length {
            let missing = start + length - block.len();
            let read = self.file.read_block_at(block, missing, position).await;
            let (count, back) = read.map_err(|error| StoreError::io("read a pack", error))?;
            block = back;
            if count == 0 {
                return Err(StoreError::Damaged);
            }
            position += count as u64;
        }
        let part = &block.bytes()[start..];
        let whole = match (&self.download, round) {
            (Some(download), Some(round)) => download.end_part(round, offset, part, self.size_bytes),
            _ => (length as u64 == self.size_bytes).then(|| crc32c::crc32c(part)),
        };
        match whole {
            Some(checksum) if checksum != body_checksum => Err(StoreError::Damaged),
            _ => Ok(block),
        }
    }

    fn body_offset(&self) -> u64 {
        self.offset + RECORD_HEADER_BYTES as u64
    }

    /// The checksum that the body should have, of a header that is looked at once for each download.
    async fn body_checksum(&self) -> Result<u32, StoreError> {
        let known = self.download.as_ref().and_then(|download| download.body_checksum.get());
        if let Some(checksum) = known {
            return Ok(checksum);
        }
        let mut header = [0; RECORD_HEADER_BYTES];
        if !self.file.read_cached_behind(&mut header, &mut Vec::new(), 0, self.offset) {
            header.copy_from_slice(&self.read_from_disk(self.offset, RECORD_HEADER_BYTES).await?);
        }
        let checksum = self.checked(&header)?.body_checksum;
        if let Some(download) = &self.download {
            download.body_checksum.set(Some(checksum));
        }
        Ok(checksum)
    }

    fn checked(&self, header: &[u8]) -> Result<RecordHeader, StoreError> {
        let header = RecordHeader::decode(header).map_err(|_| StoreError::Damaged)?;
        let is_it = header.is_of(self.pack, self.offset, &self.content_hash, self.size_bytes);
        if is_it { Ok(header) } else { Err(StoreError::Damaged) }
    }

    async fn read_from_disk(&self, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let (missing, position, before) =
                (length - bytes.len(), offset + bytes.len() as u64, bytes.len());
            let read = self.file.read_at(bytes, missing, position).await;
            bytes = read.map_err(|error| StoreError::io("read a pack", error))?;
            if bytes.len() == before {
                return Err(StoreError::Damaged);
            }
        }
        Ok(bytes)
    }
}

/// What the reads of one download have found out so far.
#[derive(Default)]
struct Download {
    /// What the record's header says, once it has been looked at.
    body_checksum: Cell<Option<u32>>,
    parts: RefCell<Parts>,
}

/// The parts of a blob, which are begun in their order, and end in any.
#[derive(Default)]
struct Parts {
    /// Counts the reads from the first byte on: what belongs to an earlier one is not counted any more.
    round: u64,
    /// Up to where parts have been begun, each behind the one before.
    begun_bytes: u64,
    /// Up to where they have ended without a gap, and the checksum of that.
    ended_bytes: u64,
    checksum: u32,
    /// Those that ended before one in front of them did: as many as a download reads ahead, at most.
    early: Vec<EarlyPart>,
}

struct EarlyPart {
    offset: u64,
    length: usize,
    checksum: u32,
}

impl Download {
    /// Which round a part belongs to, or `None` if it does not begin where the one before ends.
    fn begin_part(&self, offset: u64, length: u64) -> Option<u64> {
        let mut parts = self.parts.borrow_mut();
        if offset == 0 {
            *parts = Parts { round: parts.round + 1, ..Parts::default() };
        }
        if offset != parts.begun_bytes {
            return None;
        }
        parts.begun_bytes += length;
        Some(parts.round)
    }

    /// The checksum of all `size_bytes` of the blob, if this is the part that was still missing.
    fn end_part(&self, round: u64, offset: u64, bytes: &[u8], size_bytes: u64) -> Option<u32> {
        let mut parts = self.parts.borrow_mut();
        if parts.round != round {
            return None;
        }
        if offset != parts.ended_bytes {
            let checksum = crc32c::crc32c(bytes);
            parts.early.push(EarlyPart { offset, length: bytes.len(), checksum });
            return None;
        }
        parts.checksum = crc32c::crc32c_append(parts.checksum, bytes);
        parts.ended_bytes += bytes.len() as u64;
        parts.take_early();
        (parts.ended_bytes == size_bytes).then_some(parts.checksum)
    }
}

impl Parts {
    fn take_early(&mut self) {
        while let Some(next) = self.early.iter().position(|part| part.offset == self.ended_bytes) {
            let part = self.early.swap_remove(next);
            self.checksum = crc32c::crc32c_combine(self.checksum, part.checksum, part.length);
            self.ended_bytes += part.length as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the parts of a body tell, begun in their order and ended in that of `ends`.
    fn told(download: &Download, body: &[u8], part_bytes: usize, ends: &[usize]) -> Vec<Option<u32>> {
        let parts: Vec<_> = body.chunks(part_bytes).collect();
        let offset = |part: usize| (part * part_bytes) as u64;
        let begin = |part: usize| download.begin_part(offset(part), parts[part].len() as u64).unwrap();
        let rounds: Vec<_> = (0..parts.len()).map(begin).collect();
        let end =
            |part: &usize| download.end_part(rounds[*part], offset(*part), parts[*part], body.len() as u64);
        ends.iter().map(end).collect()
    }

    proptest! {
        #[test]
        fn the_part_that_ends_last_knows_the_checksum_of_all(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            ends in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let part_bytes = body.len().div_ceil(8);
            let count = body.len().div_ceil(part_bytes);
            let ends: Vec<_> = ends.into_iter().filter(|part| *part < count).collect();
            let download = Download::default();
            // A second download by the same reader begins anew.
            for _ in 0..2 {
                let told = told(&download, &body, part_bytes, &ends);
                let (last, others) = told.split_last().unwrap();
                prop_assert_eq!(*last, Some(crc32c::crc32c(&body)));
                prop_assert!(others.iter().all(Option::is_none));
            }
        }
    }

    #[test]
    fn parts_that_do_not_follow_one_another_are_not_counted() {
        let download = Download::default();
        assert_eq!(download.begin_part(5, 5), None, "the first byte was not read");
        let round = download.begin_part(0, 5).unwrap();
        assert_eq!(download.begin_part(6, 4), None, "there is a gap");
        assert_eq!(download.begin_part(5, 5), Some(round));
        assert_eq!(download.begin_part(5, 5), None, "it is counted already");
        let anew = download.begin_part(0, 10).unwrap();
        assert_eq!(download.end_part(round, 0, b"01234", 10), None);
        assert_eq!(download.end_part(round, 5, b"56789", 10), None, "it belongs to what was begun before");
        assert_eq!(download.end_part(anew, 0, b"0123456789", 10), Some(crc32c::crc32c(b"0123456789")));
    }
}
