//! A store of blobs in memory.

use std::cell::RefCell;
use std::collections::HashMap;

use super::block_on;
use crate::application::errors::{ReceiveError, StoreError};
use crate::application::ports::{
    BlobReader, BlobStore, BlobUpload, BodyState, BufferSize, ByteBuffer, ByteSource, Published, ReadPace,
    ReadProgress, Section,
};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ByteRange, ContentHash, InstanceId, Place, StorageClass, TenantId};
use sha2::{Digest as _, Sha256};

#[derive(Default)]
struct FakeStoreState {
    blobs: HashMap<BlobLocation, Vec<u8>>,
    written: u64,
    publish_error: Option<StoreError>,
}

#[derive(Default)]
pub(crate) struct FakeStore(std::rc::Rc<RefCell<FakeStoreState>>);

impl FakeStore {
    pub(crate) fn blob_count(&self) -> usize {
        self.0.borrow().blobs.len()
    }

    /// Changes a byte of a blob.
    pub(crate) fn damage(&self, location: &BlobLocation) {
        self.0.borrow_mut().blobs.get_mut(location).unwrap()[0] ^= 1;
    }

    pub(crate) fn fail_next_publish(&self, error: StoreError) {
        self.0.borrow_mut().publish_error = Some(error);
    }
}

pub(crate) struct FakeUpload {
    store: std::rc::Rc<RefCell<FakeStoreState>>,
    storage_class: StorageClass,
    bytes: Vec<u8>,
}

const FIRST_BYTES: usize = 16 * 1024;

impl BlobUpload for FakeUpload {
    type Buffer = Vec<u8>;

    async fn receive_first(
        &mut self,
        source: &mut impl ByteSource<Vec<u8>>,
    ) -> Result<BodyState, ReceiveError> {
        while self.bytes.len() < FIRST_BYTES {
            let (progress, bytes) = source.read(std::mem::take(&mut self.bytes), ReadPace::Patient).await;
            self.bytes = bytes;
            if progress? == ReadProgress::End {
                return Ok(BodyState::Ended);
            }
        }
        Ok(BodyState::Open)
    }

    async fn receive_rest(&mut self, source: &mut impl ByteSource<Vec<u8>>) -> Result<(), ReceiveError> {
        loop {
            let (progress, bytes) = source.read(std::mem::take(&mut self.bytes), ReadPace::Brisk).await;
            self.bytes = bytes;
            if progress? == ReadProgress::End {
                return Ok(());
            }
        }
    }

    fn content(&self) -> (ContentHash, u64) {
        (ContentHash::from_bytes(Sha256::digest(&self.bytes).into()), self.bytes.len() as u64)
    }

    async fn publish(self) -> Result<Published<Vec<u8>>, StoreError> {
        let content_hash = self.content().0;
        let mut state = self.store.borrow_mut();
        if let Some(error) = state.publish_error.take() {
            return Err(error);
        }
        state.written += 1;
        let place = Place::File { instance: InstanceId::from_i64(1), number: state.written };
        let location = BlobLocation { storage_class: self.storage_class, content_hash, place };
        state.blobs.insert(location, self.bytes);
        Ok(Published::Stored(place))
    }
}

impl ByteBuffer for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn append(&mut self, bytes: &[u8]) -> usize {
        self.extend_from_slice(bytes);
        bytes.len()
    }

    fn clear(&mut self) {
        Vec::clear(self);
    }
}

impl BlobReader for Vec<u8> {
    type Buffer = Self;
    type Source = Self;

    fn in_memory(&self, part: ByteRange) -> Option<Section<'_, Self>> {
        Some(Section { source: self, offset: part.offset, length: part.length })
    }

    async fn read_exact(
        &self,
        mut bytes: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> (Result<(), StoreError>, Vec<u8>) {
        let Some(part) = self.get(offset as usize..offset as usize + length) else {
            return (Err(StoreError::Damaged), bytes);
        };
        bytes.extend_from_slice(part);
        (Ok(()), bytes)
    }

    async fn read_buffer(&self, buffer: Self, offset: u64, bytes_max: usize) -> Result<Self, StoreError> {
        let (result, bytes) = self.read_exact(buffer, offset, bytes_max).await;
        result.map(|()| bytes)
    }
}

impl BlobStore for FakeStore {
    type Buffer = Vec<u8>;
    type Upload = FakeUpload;
    type Reader = Vec<u8>;

    fn begin(
        &self,
        storage_class: StorageClass,
        _: Option<u64>,
        _: &TenantId,
    ) -> Result<FakeUpload, StoreError> {
        Ok(FakeUpload { store: self.0.clone(), storage_class, bytes: Vec::new() })
    }

    async fn open(&self, location: &BlobLocation, size_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.0.borrow().blobs.get(location).cloned().ok_or(StoreError::Missing)?;
        if bytes.len() as u64 == size_bytes { Ok(bytes) } else { Err(StoreError::Damaged) }
    }

    fn lend(&self, _: BufferSize, _: &TenantId) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    async fn check(&self, _: StorageClass) -> Result<(), StoreError> {
        Ok(())
    }

    async fn discard(&self, location: &BlobLocation) {
        self.0.borrow_mut().blobs.remove(location);
    }
}

#[test]
fn the_fake_store_keeps_the_contract() {
    block_on(crate::application::contract::store_contract(FakeStore::default(), |body| body));
}
