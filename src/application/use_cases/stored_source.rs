//! A stored blob as the body of an upload: how bytes get from one root to the other, or are read once more to be stored
//! anew.

use crate::application::errors::{SourceError, StoreError};
use crate::application::ports::{
    BlobReader, BlobStore, BufferSize, ByteBuffer, ByteSource, ReadPace, ReadProgress,
};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ByteRange, ContentHash, TenantId};

/// The most bytes of one read. Hashed at a stretch by whoever takes them, they hold the core for under 100 µs; the next
/// ones are waited for, so that others have their turn between.
const READ_BYTES_MAX: u64 = 128 * 1024;

/// The bytes of a blob that is stored, through one lent buffer. They declare the hash that they should have, so that a
/// damaged blob is never taken for whole.
pub struct StoredSource<'s, S: BlobStore> {
    store: &'s S,
    reader: S::Reader,
    tenant_id: &'s TenantId,
    content_hash: ContentHash,
    unread: ByteRange,
    /// From the first read until the last byte is handed on.
    lent: Option<S::Buffer>,
    /// How many bytes of the buffer have been handed on.
    handed_on: usize,
    failure: Option<StoreError>,
}

impl<'s, S> StoredSource<'s, S>
where
    S: BlobStore,
{
    /// Opens a blob, to be read on account of a tenant.
    ///
    /// # Errors
    /// As [`BlobStore::open`].
    pub async fn open(
        store: &'s S,
        location: &BlobLocation,
        size_bytes: u64,
        tenant_id: &'s TenantId,
    ) -> Result<Self, StoreError> {
        let reader = store.open(location, size_bytes).await?;
        let unread = ByteRange { offset: 0, length: size_bytes };
        let content_hash = location.content_hash;
        Ok(Self { store, reader, tenant_id, content_hash, unread, lent: None, handed_on: 0, failure: None })
    }

    /// Why a read failed, if one did: whoever took the bytes was only told that they have ended too early.
    pub fn into_failure(self) -> Option<StoreError> {
        self.failure
    }

    /// Reads on into the lent buffer, unless there is nothing more to be read.
    async fn refill(&mut self) -> Result<(), StoreError> {
        let spent = self.lent.take();
        if self.unread.length == 0 {
            return Ok(());
        }
        let lend = |size| self.store.lend(size, self.tenant_id);
        let buffer = spent.or_else(|| lend(BufferSize::Large)).or_else(|| lend(BufferSize::Small));
        let mut buffer = buffer.ok_or(StoreError::Overloaded)?;
        buffer.clear();
        // No longer than a read, so that it is a usize anywhere.
        let bytes_max = self.unread.length.min(READ_BYTES_MAX) as usize;
        let buffer = self.reader.read_buffer(buffer, self.unread.offset, bytes_max).await?;
        let count = buffer.bytes().len() as u64;
        self.unread = ByteRange { offset: self.unread.offset + count, length: self.unread.length - count };
        (self.lent, self.handed_on) = (Some(buffer), 0);
        Ok(())
    }

    fn read_ahead(&self) -> &[u8] {
        self.lent.as_ref().map_or(&[], |buffer| &buffer.bytes()[self.handed_on..])
    }
}

impl<S> ByteSource<S::Buffer> for StoredSource<'_, S>
where
    S: BlobStore,
{
    async fn read(
        &mut self,
        mut buffer: S::Buffer,
        _pace: ReadPace,
    ) -> (Result<ReadProgress, SourceError>, S::Buffer) {
        if self.read_ahead().is_empty()
            && let Err(error) = self.refill().await
        {
            self.failure = Some(error);
            return (Err(SourceError::Disconnected), buffer);
        }
        match buffer.append(self.read_ahead()) {
            0 => (Ok(ReadProgress::End), buffer),
            count => {
                self.handed_on += count;
                (Ok(ReadProgress::Bytes(count)), buffer)
            }
        }
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(Some(self.content_hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::errors::ReceiveError;
    use crate::application::fakes::{FakeSource, FakeStore, a_scope, block_on};
    use crate::application::ports::{BlobUpload, BodyState, Published};
    use crate::domain::value_objects::StorageClass;

    /// Stores what a source gives, and says where it is and how long.
    async fn stored(
        store: &FakeStore,
        storage_class: StorageClass,
        source: &mut impl ByteSource<Vec<u8>>,
    ) -> Result<(BlobLocation, u64), ReceiveError> {
        let mut upload = store.begin(storage_class, None, &a_scope("models", "acme").tenant_id)?;
        if upload.receive_first(source).await? == BodyState::Open {
            upload.receive_rest(source).await?;
        }
        let (content_hash, size_bytes) = upload.content();
        let Published::Stored(place) = upload.publish().await? else { panic!("nothing is loose here") };
        Ok((BlobLocation { storage_class, content_hash, place }, size_bytes))
    }

    #[test]
    fn a_copy_in_the_other_class_is_the_same_content() {
        let (store, tenant_id) = (FakeStore::default(), a_scope("models", "acme").tenant_id);
        let read_bytes_max = READ_BYTES_MAX as usize;
        for length in [0, 1, read_bytes_max, read_bytes_max + 1, 3 * read_bytes_max + 7] {
            let body: Vec<u8> = (0..length).map(|index| (index * 31 % 251) as u8).collect();
            let copied = async {
                let (hot, size_bytes) = stored(&store, StorageClass::Hot, &mut FakeSource::of(&body)).await?;
                let mut source = StoredSource::open(&store, &hot, size_bytes, &tenant_id).await?;
                let copy = stored(&store, StorageClass::Cold, &mut source).await?;
                assert!(source.lent.is_none(), "the buffer goes back with the last byte");
                assert_eq!(source.declared_hash().unwrap(), Some(hot.content_hash));
                assert!(source.into_failure().is_none());
                assert_eq!((copy.0.content_hash, copy.1), (hot.content_hash, length as u64));
                Ok::<_, ReceiveError>(())
            };
            block_on(copied).unwrap();
        }
        assert_eq!(store.blob_count(), 10);
    }

    #[test]
    fn a_blob_that_is_shorter_than_it_should_be_is_told_and_not_copied() {
        let (store, tenant_id) = (FakeStore::default(), a_scope("models", "acme").tenant_id);
        let test = async {
            let (hot, size_bytes) =
                stored(&store, StorageClass::Hot, &mut FakeSource::of(&[7; 200_000])).await.unwrap();
            let opened = StoredSource::open(&store, &hot, size_bytes + 1, &tenant_id).await;
            assert!(matches!(opened.err(), Some(StoreError::Damaged)));
            let mut source = StoredSource::open(&store, &hot, size_bytes, &tenant_id).await.unwrap();
            source.unread.length += 1;
            let copied = stored(&store, StorageClass::Cold, &mut source).await;
            assert!(matches!(copied, Err(ReceiveError::Source(SourceError::Disconnected))));
            assert!(matches!(source.into_failure(), Some(StoreError::Damaged)));
            assert_eq!(store.blob_count(), 1);
        };
        block_on(test);
    }
}
