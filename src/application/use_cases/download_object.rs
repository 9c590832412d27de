//! Finding an object and opening its bytes.

use std::sync::Arc;

use crate::application::errors::{DownloadError, StoreError};
use crate::application::ports::{BlobStore, Freshness, ObjectName, ObjectRepository};
use crate::domain::entities::StoredObject;

/// What came of asking for an object.
#[derive(Debug)]
pub enum Download<R, A> {
    /// There is no such committed object.
    NotFound,
    /// The object alone was enough for an answer; its bytes were not touched.
    Answered(A),
    /// The object, and its bytes ready to be read.
    Open {
        /// The object.
        object: Arc<StoredObject>,
        /// Its bytes.
        reader: R,
    },
}

/// Looks `name` up as `freshness` says, lets `answer` decide whether the object alone is enough (a condition, `HEAD`, a
/// range that cannot be met), and opens the bytes otherwise.
///
/// The place that the cache remembers may have been given up a moment ago; then it is looked up once more. Whoever finds
/// that only when the bytes are read begins again with [`Freshness::Current`].
///
/// # Errors
/// [`DownloadError`]; a blob that the database names and the disk does not have is [`StoreError::Missing`].
pub async fn download_object<S: BlobStore, R: ObjectRepository, A>(
    store: &S,
    repository: &R,
    name: &ObjectName,
    mut freshness: Freshness,
    answer: impl Fn(&Arc<StoredObject>) -> Option<A>,
) -> Result<Download<S::Reader, A>, DownloadError> {
    loop {
        let Some(object) = repository.find(name, freshness).await? else { return Ok(Download::NotFound) };
        if let Some(answer) = answer(&object) {
            return Ok(Download::Answered(answer));
        }
        let opened = match object.damaged {
            true => Err(StoreError::Damaged),
            false => store.open(&object.location(), object.size_bytes).await,
        };
        match opened {
            Ok(reader) => return Ok(Download::Open { object, reader }),
            Err(StoreError::Missing | StoreError::Damaged) if freshness == Freshness::Cached => {
                freshness = Freshness::Current;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::{FakeClock, FakeRepository, FakeSource, FakeStore, an_order, block_on};
    use crate::application::use_cases::upload_object;

    fn no_answer(_: &Arc<StoredObject>) -> Option<()> {
        None
    }

    #[test]
    fn an_uploaded_object_opens_and_a_strange_one_is_not_found() {
        let (store, repository, clock) =
            (FakeStore::default(), FakeRepository::default(), FakeClock::default());
        let ports = (&store, &repository, &clock);
        let uploaded = block_on(upload_object(ports, an_order(None), &mut FakeSource::of(b"hello"))).unwrap();
        let name = ObjectName::Id(uploaded.object.id);
        let Ok(Download::Open { object, reader }) =
            block_on(download_object(&store, &repository, &name, Freshness::Cached, no_answer))
        else {
            panic!("the object opens");
        };
        assert_eq!((object.size_bytes, reader.as_slice()), (5, &b"hello"[..]));

        let strange = ObjectName::Id(crate::domain::value_objects::ObjectId::generate());
        let found = block_on(download_object(&store, &repository, &strange, Freshness::Cached, no_answer));
        assert!(matches!(found, Ok(Download::NotFound)));
    }

    #[test]
    fn a_place_that_is_gone_is_looked_up_once_more_and_then_reported() {
        let (store, repository, clock) =
            (FakeStore::default(), FakeRepository::default(), FakeClock::default());
        let ports = (&store, &repository, &clock);
        let uploaded = block_on(upload_object(ports, an_order(None), &mut FakeSource::of(b"hello"))).unwrap();
        let name = ObjectName::Id(uploaded.object.id);
        let stored = block_on(repository.find(&name, Freshness::Current)).unwrap().unwrap();
        block_on(store.discard(&stored.location()));
        let before = repository.find_count();
        let error =
            block_on(download_object(&store, &repository, &name, Freshness::Cached, no_answer)).unwrap_err();
        assert!(matches!(error, DownloadError::Store(StoreError::Missing)));
        assert_eq!(repository.find_count() - before, 2);
        let current = Freshness::Current;
        let error = block_on(download_object(&store, &repository, &name, current, no_answer)).unwrap_err();
        assert!(matches!(error, DownloadError::Store(StoreError::Missing)));
        assert_eq!(repository.find_count() - before, 3, "nobody knows better");
    }
}
