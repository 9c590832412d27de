//! Stores of blobs.

use crate::application::errors::{SourceError, StoreError};
use crate::application::fakes::{FakeSource, a_scope};
use crate::application::ports::{BlobReader, BlobStore, BlobUpload, BodyState, ByteSource, Published};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::StorageClass;
use sha2::{Digest as _, Sha256};

/// Whether opening a blob as one of another length, or reading it so, tells that it is not as it should be.
async fn is_damaged<S: BlobStore>(store: &S, location: &BlobLocation, size_bytes: u64) -> bool {
    match store.open(location, size_bytes).await {
        Err(StoreError::Damaged) => true,
        Ok(reader) => {
            let (read, _) = reader.read_exact(Vec::new(), 0, size_bytes as usize).await;
            matches!(read, Err(StoreError::Damaged))
        }
        Err(_) => false,
    }
}

/// Runs every case on one store. `adapt` makes the store's kind of source.
pub(crate) async fn store_contract<S, B>(store: S, adapt: impl Fn(FakeSource) -> B)
where
    S: BlobStore,
    B: ByteSource<S::Buffer>,
{
    let tenant_id = a_scope("models", "acme").tenant_id;
    for length in [0usize, 1, 4095, 4096, 4097, 16_384, 16_385, 100_000, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let body: Vec<u8> = (0..length).map(|index| (index * 31 % 251) as u8).collect();
        for length_bytes in [None, Some(length as u64)] {
            let mut source = adapt(FakeSource::of(&body));
            let mut upload = store.begin(StorageClass::Hot, length_bytes, &tenant_id).unwrap();
            if upload.receive_first(&mut source).await.unwrap() == BodyState::Open {
                upload.receive_rest(&mut source).await.unwrap();
            }
            let (content_hash, size_bytes) = upload.content();
            assert_eq!(content_hash.as_bytes()[..], Sha256::digest(&body)[..]);
            assert_eq!(size_bytes, length as u64);
            let Published::Stored(place) = upload.publish().await.unwrap() else {
                panic!("a store without a log leaves nothing loose")
            };
            let location = BlobLocation { storage_class: StorageClass::Hot, content_hash, place };
            let reader = store.open(&location, size_bytes).await.unwrap();
            let (result, bytes) = reader.read_exact(b"head".to_vec(), 0, body.len()).await;
            result.unwrap();
            assert!(bytes[4..] == body, "length {length}");
            let (result, _) = reader.read_exact(Vec::new(), 1, body.len()).await;
            assert!(
                length == 0 || matches!(result, Err(StoreError::Damaged)),
                "there is no byte behind the last"
            );
            assert!(is_damaged(&store, &location, size_bytes + 1).await);
            let cold = BlobLocation { storage_class: StorageClass::Cold, ..location };
            assert!(matches!(store.open(&cold, size_bytes).await, Err(StoreError::Missing)));
            store.discard(&location).await;
            // What lies in a pack goes with its pack.
            let gone = matches!(store.open(&location, size_bytes).await, Err(StoreError::Missing));
            assert!(gone || place.pack().is_some());
            store.discard(&location).await;
        }
    }
    let mut source = adapt(FakeSource::of(&[1; 200_000]).ending_with(SourceError::Disconnected));
    let mut upload = store.begin(StorageClass::Cold, Some(1 << 30), &tenant_id).unwrap();
    assert_eq!(upload.receive_first(&mut source).await.unwrap(), BodyState::Open);
    assert!(upload.receive_rest(&mut source).await.is_err());
}
