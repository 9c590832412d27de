//! Changing what is said of an object, its key, or the class that its bytes are in.
//!
//! ```text
//! look ─► condition ─► patch ─► copy the bytes, where the class changes ─► one change: class, key and words, the counts
//!  ▲                                                                          │ the object is not as it was seen
//!  └──────────────── with the copy that is there already ◄────────────────────┘
//! ```
//! The bytes are copied whether or not the other class has the content: how long the answer takes would otherwise tell a
//! tenant what others have stored. A copy that is not needed goes as that of an upload does.

use thiserror::Error;

use super::stored_source::StoredSource;
use super::upload_object::takes_a_lost_place;
use crate::application::errors::{ReceiveError, RepositoryError, StoreError, UploadError};
use crate::application::ports::{
    BlobStore, BlobUpload, BodyState, Clock, Freshness, ObjectName, ObjectRepository, ObjectUpdate,
    Published, SeenObject, UpdateOutcome,
};
use crate::domain::entities::{BlobLocation, Object, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{ContentHash, Key, Precondition, StorageClass, Timestamp};

/// How often a change is tried on an object that others change at the same time. Of those that meet, one gets its turn
/// each time.
const TRIES_MAX: u32 = 32;

/// What is to be changed of an object (RFC 7396). The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPatch {
    /// What is said about it.
    pub metadata: Option<MetadataPatch>,
    /// Another key, or none.
    pub key: Option<Option<Key>>,
    /// Another class.
    pub storage_class: Option<StorageClass>,
}

/// What is to be changed of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataPatch {
    /// All of it goes.
    Clear,
    /// Each name is set, or goes where it has no value.
    Merge(Vec<(String, Option<String>)>),
}

/// An object after a change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The object as it is now.
    pub object: Object,
    /// Its content.
    pub content_hash: ContentHash,
    /// Whether there was anything to change.
    pub changed: bool,
}

/// Why an object was not changed.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// There is no such committed object.
    #[error("there is no such object")]
    NotFound,
    /// The object is not what the sender asked for.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// With the patch its metadata would break a rule.
    #[error(transparent)]
    Metadata(#[from] InvalidValue),
    /// Others have changed the object each time that it was tried.
    #[error("the object is being changed by others")]
    Busy,
    /// Its bytes could not be read, or not be stored in the other class. Where they are not what they were, they stay
    /// where they are.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change could not be made.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl From<UploadError> for UpdateError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Store(error) => Self::Store(error),
            UploadError::Repository(error) => Self::Repository(error),
            // Said of bytes that come from outside.
            UploadError::Source(_)
            | UploadError::DigestMismatch { .. }
            | UploadError::PreconditionFailed
            | UploadError::QuotaExceeded(_) => Self::Store(StoreError::Damaged),
        }
    }
}

impl ObjectPatch {
    /// The object as it would be, or none where it is so already. It is changed later than it was before, whatever the
    /// clock says: that date is what a change is recognised by.
    fn apply(&self, before: &Object, now: Timestamp) -> Result<Option<Object>, InvalidValue> {
        let mut object = before.clone();
        match &self.metadata {
            None => {}
            Some(MetadataPatch::Clear) => object.metadata = Default::default(),
            Some(MetadataPatch::Merge(entries)) => {
                let entries = entries.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
                object.metadata = before.metadata.merged(entries)?;
            }
        }
        if let Some(key) = &self.key {
            object.key.clone_from(key);
        }
        object.storage_class = self.storage_class.unwrap_or(before.storage_class);
        if object == *before {
            return Ok(None);
        }
        let later = Timestamp::from_millis(before.updated_at.as_millis().saturating_add(1));
        object.updated_at = now.max(later);
        Ok(Some(object))
    }
}

/// Changes what `name` means as `patch` says, if `precondition` holds. When this returns `Ok`, the change is durable.
///
/// # Errors
/// [`UpdateError`]. The object is as it was then, unless the error is [`RepositoryError::Unavailable`] from the change:
/// then it may be changed.
pub async fn update_object<S, R>(
    (store, repository, clock): (&S, &R, &impl Clock),
    name: &ObjectName,
    patch: &ObjectPatch,
    precondition: &Precondition,
) -> Result<Updated, UpdateError>
where
    S: BlobStore,
    R: ObjectRepository<Buffer = S::Buffer>,
{
    let mut own = None;
    for _ in 0..TRIES_MAX {
        let tried = try_to_update((store, repository, clock), name, patch, precondition, &mut own).await;
        if matches!(tried, Ok(None)) {
            continue;
        }
        // Where it is not known what has become of the change, its copy may be named by now.
        if let Some(copy) = own
            && !matches!(tried, Err(UpdateError::Repository(RepositoryError::Unavailable)))
        {
            store.discard(&copy).await;
        }
        return tried.and_then(|updated| updated.ok_or(UpdateError::Busy));
    }
    if let Some(copy) = own {
        store.discard(&copy).await;
    }
    Err(UpdateError::Busy)
}

/// One try; `None` if the object was changed meanwhile. `own` is a copy of its content that nothing names yet.
async fn try_to_update<S, R>(
    (store, repository, clock): (&S, &R, &impl Clock),
    name: &ObjectName,
    patch: &ObjectPatch,
    precondition: &Precondition,
    own: &mut Option<BlobLocation>,
) -> Result<Option<Updated>, UpdateError>
where
    S: BlobStore,
    R: ObjectRepository<Buffer = S::Buffer>,
{
    let stored = repository.find(name, Freshness::Current).await?.ok_or(UpdateError::NotFound)?;
    if !precondition.holds(Some(&stored.current_version())) {
        return Err(UpdateError::PreconditionFailed);
    }
    let content_hash = stored.content_hash;
    let Some(object) = patch.apply(&stored.object, clock.now())? else {
        let object = stored.object.clone();
        return Ok(Some(Updated { object, content_hash, changed: false }));
    };
    let seen = SeenObject::of(&stored.object);
    let mut update = ObjectUpdate { seen, object: object.clone(), copy: None };
    let mut loose = None;
    if object.storage_class != seen.storage_class {
        match *own {
            Some(copy) => update.copy = Some(copy.place),
            None => match copy_blob(store, &stored, object.storage_class).await {
                Ok(Published::Stored(place)) => update.copy = Some(place),
                Ok(Published::Loose(bytes)) => loose = Some(bytes),
                Err(error @ (StoreError::Missing | StoreError::Damaged)) => {
                    // The copy may have been given up a moment ago, as with a download.
                    let now = repository.find(name, Freshness::Current).await?;
                    let is_there = now.is_some_and(|now| now.location() == stored.location());
                    return if is_there { Err(error.into()) } else { Ok(None) };
                }
                Err(error) => return Err(error.into()),
            },
        }
        *own = update.copy_location();
    }
    let outcome = match loose {
        Some(bytes) => repository.update_loose(update, bytes).await?,
        None => repository.update(update).await?,
    };
    match outcome {
        UpdateOutcome::Changed => return Ok(None),
        UpdateOutcome::NotFound => return Err(UpdateError::NotFound),
        UpdateOutcome::Updated { place, .. } => {
            if let (Some(copy), Some(place)) = (*own, place) {
                let kept = BlobLocation { place, ..copy };
                let serves = copy.place == place
                    || takes_a_lost_place((store, repository), &kept, stored.size_bytes, copy.place).await;
                *own = (!serves).then_some(copy);
            }
        }
    }
    Ok(Some(Updated { object, content_hash, changed: true }))
}

/// Copies the content of an object into another class, as an upload of it would. The hash is looked at while the bytes
/// pass: what is not whole is not copied, and not lost either.
async fn copy_blob<S>(
    store: &S,
    stored: &StoredObject,
    storage_class: StorageClass,
) -> Result<Published<S::Buffer>, StoreError>
where
    S: BlobStore,
{
    if stored.damaged {
        return Err(StoreError::Damaged);
    }
    let tenant_id = &stored.object.scope.tenant_id;
    let mut source = StoredSource::open(store, &stored.location(), stored.size_bytes, tenant_id).await?;
    let mut upload = store.begin(storage_class, Some(stored.size_bytes), tenant_id)?;
    let received = async {
        match upload.receive_first(&mut source).await? {
            BodyState::Ended => Ok(()),
            BodyState::Open => upload.receive_rest(&mut source).await,
        }
    };
    match received.await {
        Ok(()) => {}
        Err(ReceiveError::Store(error)) => return Err(error),
        Err(ReceiveError::Source(_)) => return Err(source.into_failure().unwrap_or(StoreError::Damaged)),
    }
    if upload.content() != (stored.content_hash, stored.size_bytes) {
        tracing::error!(hash = %stored.content_hash, "a stored blob is damaged; it was to move to another class");
        return Err(StoreError::Damaged);
    }
    upload.publish().await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::application::fakes::{FakeClock, FakeRepository, FakeSource, FakeStore, an_order, block_on};
    use crate::application::use_cases::upload_object;
    use crate::domain::value_objects::{EntityTags, ObjectId};

    #[derive(Default)]
    struct World {
        store: FakeStore,
        repository: FakeRepository,
        clock: FakeClock,
    }

    impl World {
        fn upload(&self, key: Option<&str>, body: &[u8]) -> Object {
            let ports = (&self.store, &self.repository, &self.clock);
            block_on(upload_object(ports, an_order(key), &mut FakeSource::of(body))).unwrap().object
        }

        fn update(&self, id: ObjectId, patch: &ObjectPatch) -> Result<Updated, UpdateError> {
            self.update_if(id, patch, Precondition::default())
        }

        fn update_if(
            &self,
            id: ObjectId,
            patch: &ObjectPatch,
            precondition: Precondition,
        ) -> Result<Updated, UpdateError> {
            let ports = (&self.store, &self.repository, &self.clock);
            block_on(update_object(ports, &ObjectName::Id(id), patch, &precondition))
        }

        fn stored(&self, id: ObjectId) -> StoredObject {
            let found = block_on(self.repository.find(&ObjectName::Id(id), Freshness::Current));
            (*found.unwrap().unwrap()).clone()
        }
    }

    /// What the fake does, it does at once.
    fn at_once<F: Future>(future: F) -> F::Output {
        future.now_or_never().unwrap()
    }

    fn saying(name: &str, value: Option<&str>) -> ObjectPatch {
        let entries = vec![(name.to_owned(), value.map(str::to_owned))];
        ObjectPatch { metadata: Some(MetadataPatch::Merge(entries)), ..ObjectPatch::default() }
    }

    fn to(storage_class: StorageClass) -> ObjectPatch {
        ObjectPatch { storage_class: Some(storage_class), ..ObjectPatch::default() }
    }

    #[test]
    fn what_is_patched_changes_and_nothing_else() {
        let world = World::default();
        let before = world.upload(Some("k"), b"hello");
        let updated = world.update(before.id, &saying("a", Some("b"))).unwrap();
        assert!(updated.changed && updated.object.updated_at > before.updated_at);
        let mut expected = before.clone();
        expected.metadata.insert("a", "b").unwrap();
        expected.updated_at = updated.object.updated_at;
        assert_eq!((&updated.object, &world.stored(before.id).object), (&expected, &expected));
        let cleared = ObjectPatch { metadata: Some(MetadataPatch::Clear), ..ObjectPatch::default() };
        assert!(world.update(before.id, &cleared).unwrap().object.metadata.is_empty());
    }

    #[test]
    fn a_patch_that_changes_nothing_leaves_the_date() {
        let world = World::default();
        let before = world.upload(Some("k"), b"hello");
        let same_key = ObjectPatch { key: Some(before.key.clone()), ..ObjectPatch::default() };
        for patch in [ObjectPatch::default(), saying("a", None), to(StorageClass::Hot), same_key] {
            let updated = world.update(before.id, &patch).unwrap();
            assert_eq!((updated.object, updated.changed), (before.clone(), false));
        }
    }

    #[test]
    fn each_change_is_later_than_the_one_before_whatever_the_clock_says() {
        let before = World::default().upload(None, b"hello");
        let before = Object { updated_at: Timestamp::from_millis(5_000), ..before };
        let after = saying("a", Some("b")).apply(&before, Timestamp::from_millis(7)).unwrap().unwrap();
        assert_eq!(after.updated_at, Timestamp::from_millis(5_001));
    }

    #[test]
    fn a_move_copies_the_bytes_and_counts_them_there() {
        for length in [0, 5, 300_000] {
            let world = World::default();
            let body = vec![7; length];
            let before = world.upload(Some("k"), &body);
            let was = world.stored(before.id);
            let updated = world.update(before.id, &to(StorageClass::Cold)).unwrap();
            assert_eq!(updated.object.storage_class, StorageClass::Cold);
            let now = world.stored(before.id);
            assert_eq!((now.object.storage_class, now.content_hash), (StorageClass::Cold, was.content_hash));
            assert_eq!(block_on(world.store.open(&now.location(), length as u64)).unwrap(), body);
            assert!(block_on(world.store.open(&was.location(), length as u64)).is_ok(), "the collector's");
        }
    }

    #[test]
    fn a_copy_that_is_not_needed_goes_and_one_that_is_takes_the_place_of_a_lost_one() {
        let world = World::default();
        let (one, two) = (world.upload(Some("a"), b"same"), world.upload(Some("b"), b"same"));
        world.update(one.id, &to(StorageClass::Cold)).unwrap();
        world.update(two.id, &to(StorageClass::Cold)).unwrap();
        assert_eq!(world.stored(one.id).place, world.stored(two.id).place);
        assert_eq!(world.store.blob_count(), 2, "one in each class");

        let three = world.upload(Some("c"), b"same");
        let lost = world.stored(one.id);
        block_on(world.store.discard(&lost.location()));
        world.update(three.id, &to(StorageClass::Cold)).unwrap();
        assert_ne!(world.stored(one.id).place, lost.place);
        assert!(block_on(world.store.open(&world.stored(one.id).location(), 4)).is_ok());
    }

    #[test]
    fn bytes_that_are_not_whole_do_not_move() {
        let world = World::default();
        let before = world.upload(None, &[7; 100_000]);
        let was = world.stored(before.id);
        world.store.damage(&was.location());
        let error = world.update(before.id, &to(StorageClass::Cold)).unwrap_err();
        assert!(matches!(error, UpdateError::Store(StoreError::Damaged)));
        assert_eq!(world.stored(before.id), was);
        assert_eq!(world.store.blob_count(), 1);
    }

    #[test]
    fn a_class_that_takes_no_bytes_leaves_the_object_where_it_is() {
        let world = World::default();
        let before = world.upload(None, b"hello");
        world.store.fail_next_publish(StoreError::NoSpace);
        let error = world.update(before.id, &to(StorageClass::Cold)).unwrap_err();
        assert!(matches!(error, UpdateError::Store(StoreError::NoSpace)));
        assert_eq!(world.stored(before.id).object, before);
        assert_eq!(world.store.blob_count(), 1);
    }

    #[test]
    fn what_others_change_meanwhile_stays_and_bytes_are_copied_once() {
        let world = World::default();
        let before = world.upload(None, b"hello");
        let (others, id) = (world.repository.shared(), before.id);
        world.repository.before_update(move || {
            let stored = at_once(others.find(&ObjectName::Id(id), Freshness::Current)).unwrap().unwrap();
            let object = saying("others", Some("said")).apply(&stored.object, Timestamp::from_millis(0));
            let (seen, object) = (SeenObject::of(&stored.object), object.unwrap().unwrap());
            at_once(others.update(ObjectUpdate { seen, object, copy: None })).unwrap();
        });
        let updated = world.update(id, &to(StorageClass::Cold)).unwrap();
        assert_eq!(updated.object.metadata.iter().collect::<Vec<_>>(), [("others", "said")]);
        assert_eq!(updated.object.storage_class, StorageClass::Cold);
        assert_eq!(world.store.blob_count(), 2);
    }

    #[test]
    fn a_copy_for_an_object_that_is_gone_goes_too() {
        let world = World::default();
        let before = world.upload(None, b"hello");
        let (others, id) = (world.repository.shared(), before.id);
        world.repository.before_update(move || {
            at_once(others.delete(id, Precondition::default())).unwrap();
        });
        assert!(matches!(world.update(id, &to(StorageClass::Cold)), Err(UpdateError::NotFound)));
        assert_eq!(world.store.blob_count(), 1);
        assert!(matches!(world.update(id, &ObjectPatch::default()), Err(UpdateError::NotFound)));
    }

    #[test]
    fn a_copy_of_an_unknown_outcome_is_left_where_it_is() {
        for (error, copies) in [(RepositoryError::Unavailable, 2), (RepositoryError::Overloaded, 1)] {
            let world = World::default();
            let before = world.upload(None, b"hello");
            world.repository.fail_next_commit(error);
            let failed = world.update(before.id, &to(StorageClass::Cold)).unwrap_err();
            assert!(matches!(failed, UpdateError::Repository(told) if told == error));
            assert_eq!(world.store.blob_count(), copies);
        }
    }

    #[test]
    fn a_condition_is_held_against_what_is_there_when_it_counts() {
        let world = World::default();
        let before = world.upload(None, b"hello");
        let none = Precondition { if_match: Some(EntityTags::Hashes(vec![])), ..Precondition::default() };
        let failed = world.update_if(before.id, &saying("a", Some("b")), none).unwrap_err();
        assert!(matches!(failed, UpdateError::PreconditionFailed));
        let any = Precondition { if_match: Some(EntityTags::Any), ..Precondition::default() };
        assert!(world.update_if(before.id, &saying("a", Some("b")), any).unwrap().changed);
    }
}
