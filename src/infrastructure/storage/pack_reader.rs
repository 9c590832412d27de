//! One small blob in a pack, open for reading. Runs on a data-plane core.

use std::rc::Rc;

use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader};
use crate::application::errors::StoreError;
use crate::domain::value_objects::{ContentHash, PackId};
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::data_plane::runtime::DataFile;

/// Where one blob lies in an open pack. Each read looks whether the record there is really its, and one of the whole
/// blob whether the bytes are as they were written.
#[derive(Clone)]
pub struct PackedBlob {
    pub(super) file: Rc<DataFile>,
    pub(super) pack: PackId,
    pub(super) offset: u64,
    pub(super) content_hash: ContentHash,
    pub(super) size_bytes: u64,
}

impl PackedBlob {
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
        if !self.file.read_cached_behind(&mut header, bytes, length, self.offset) {
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
        self.check_header().await?;
        let read = self.read_from_disk(self.body_offset() + offset, length).await?;
        bytes.extend_from_slice(&read);
        Ok(())
    }

    /// As [`read_buffer`](crate::application::ports::BlobReader::read_buffer).
    pub(super) async fn read_buffer(
        &self,
        mut block: Block,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Block, StoreError> {
        if offset == 0 {
            self.check_header().await?;
        }
        let end = block.len() + block.room().min(bytes_max);
        let mut position = self.body_offset() + offset;
        while block.len() < end {
            let missing = end - block.len();
            let read = self.file.read_block_at(block, missing, position).await;
            let (count, back) = read.map_err(|error| StoreError::io("read a pack", error))?;
            block = back;
            if count == 0 {
                return Err(StoreError::Damaged);
            }
            position += count as u64;
        }
        Ok(block)
    }

    fn body_offset(&self) -> u64 {
        self.offset + RECORD_HEADER_BYTES as u64
    }

    async fn check_header(&self) -> Result<(), StoreError> {
        let header = self.read_from_disk(self.offset, RECORD_HEADER_BYTES).await?;
        self.checked(&header).map(|_| ())
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
