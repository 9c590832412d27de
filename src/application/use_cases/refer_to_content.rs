//! Making an object of a content that its tenant has already: no byte of it is sent, nor, in the same class, read or
//! written.

use super::stored_source::StoredSource;
use super::upload_object::{UploadOrder, Uploaded, new_object, upload_object};
use crate::application::errors::{QuotaExceeded, StoreError, UploadError};
use crate::application::ports::{BlobStore, Clock, CommitOutcome, ObjectCommit, ObjectRepository};
use crate::domain::entities::{BlobLocation, Reach, StoredContent, StoredObject};
use crate::domain::value_objects::{ContentHash, ObjectStatus, StorageClass};

/// Files an object whose bytes are a content that the one tenant of `reach` has. When this returns `Ok`, it is durable.
///
/// The content is leased before anything else: so it is still there, wherever it has moved to, when the commit is applied,
/// and the commit need not bring it. What is there in another class is copied, whether or not somebody else has it in this
/// one: that is nobody's business.
///
/// # Errors
/// [`UploadError`]; [`ContentMissing`](UploadError::ContentMissing) also where the only copy turns out lost, so that the
/// sender sends the bytes, which mends it.
pub async fn refer_to_content<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: UploadOrder,
    content_hash: ContentHash,
    reach: &Reach,
) -> Result<Uploaded, UploadError> {
    let found = find((store, repository), content_hash, reach, order.storage_class).await?;
    let size_bytes = found.size_bytes;
    if let Some(expected) = order.length_bytes.filter(|expected| *expected != size_bytes) {
        return Err(UploadError::SizeMismatch { expected, actual: size_bytes });
    }
    if found.location.storage_class != order.storage_class {
        // This is rare, and its state would be part of every connection.
        return Box::pin(copy((store, repository, clock), order, found)).await;
    }
    share((repository, clock), order, &found.location, size_bytes).await
}

/// The same of one of many contents that have just been looked up together, and without a lease: whether the content is
/// still there is decided where the commit is applied. So a thousand of them take one question, and no transaction but that
/// of their commits.
///
/// # Errors
/// As [`refer_to_content`].
pub async fn refer_to_found<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: UploadOrder,
    found: &StoredObject,
    reach: &Reach,
) -> Result<Uploaded, UploadError> {
    let (location, size_bytes) = (found.location(), found.size_bytes);
    let is_simple = location.storage_class == order.storage_class && !found.damaged;
    if is_simple && store.open(&location, size_bytes).await.is_ok() {
        return share((repository, clock), order, &location, size_bytes).await;
    }
    // It may have moved a moment ago, be whole in the other class, or have to be copied. This is rare, and its state would be
    // part of every one of them.
    Box::pin(refer_to_content((store, repository, clock), order, location.content_hash, reach)).await
}

/// Commits an object that shares a copy of its own class.
async fn share<R: ObjectRepository>(
    (repository, clock): (&R, &impl Clock),
    order: UploadOrder,
    &BlobLocation { content_hash, place, .. }: &BlobLocation,
    size_bytes: u64,
) -> Result<Uploaded, UploadError> {
    let room = repository.reserve_room(&order.scope.tenant_id, size_bytes)?;
    let precondition = order.precondition.clone();
    let mut object = new_object(order, clock);
    object.status = ObjectStatus::Committed;
    (object.content_hash, object.size_bytes) = (Some(content_hash), Some(size_bytes));
    let stored = StoredObject { object: object.clone(), content_hash, size_bytes, place, damaged: false };
    let commit = ObjectCommit { stored, precondition, is_first_version: false, is_reference: true };
    match repository.commit(commit, room).await? {
        CommitOutcome::Committed { replaced, .. } => Ok(Uploaded { object, content_hash, replaced }),
        CommitOutcome::PreconditionFailed => Err(UploadError::PreconditionFailed),
        CommitOutcome::QuotaExceeded => Err(QuotaExceeded.into()),
        CommitOutcome::ContentMissing => Err(UploadError::ContentMissing),
    }
}

/// Stores the bytes of the other class once more, as they were sent to it.
async fn copy<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: UploadOrder,
    StoredContent { location, size_bytes, .. }: StoredContent,
) -> Result<Uploaded, UploadError> {
    let tenant_id = order.scope.tenant_id.clone();
    let mut source = StoredSource::open(store, &location, size_bytes, &tenant_id).await?;
    let order = UploadOrder { length_bytes: Some(size_bytes), ..order };
    let uploaded = upload_object((store, repository, clock), order, &mut source).await;
    match (uploaded, source.into_failure()) {
        // Whoever took the bytes was only told that they ended.
        (Err(UploadError::Source(_)), Some(failure)) => Err(failure.into()),
        (Err(UploadError::DigestMismatch { .. }), _) => Err(StoreError::Damaged.into()),
        (uploaded, _) => uploaded,
    }
}

/// Takes a lease on the content, and looks that the copy is there that it is served from: that of the wanted class, if the
/// tenant has it there.
async fn find<S: BlobStore, R: ObjectRepository>(
    (store, repository): (&S, &R),
    content_hash: ContentHash,
    reach: &Reach,
    wanted: StorageClass,
) -> Result<StoredContent, UploadError> {
    let mut lost = None;
    loop {
        let leased = repository.lease(vec![content_hash], reach).await?;
        let Some(found) = best(leased, wanted) else { return Err(UploadError::ContentMissing) };
        match store.open(&found.location, found.size_bytes).await {
            Ok(_) => return Ok(found),
            // It may have moved a moment ago.
            Err(StoreError::Missing | StoreError::Damaged) if lost != Some(found.location) => {
                lost = Some(found.location);
            }
            Err(StoreError::Missing | StoreError::Damaged) => {
                tracing::error!(hash = %content_hash, "a stored blob is damaged; its content is asked for again");
                return Err(UploadError::ContentMissing);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Of the classes in which a content is had, one in which it is whole.
fn best(leased: Vec<StoredContent>, wanted: StorageClass) -> Option<StoredContent> {
    let whole = leased.into_iter().filter(|content| !content.damaged);
    whole.max_by_key(|content| content.location.storage_class == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::{FakeClock, FakeRepository, FakeSource, FakeStore, an_order, block_on};
    use crate::application::ports::{Freshness, ObjectName};
    use crate::domain::entities::QuotaLimits;
    use crate::domain::value_objects::{EntityTags, Precondition};

    #[derive(Default)]
    struct World {
        store: FakeStore,
        repository: FakeRepository,
        clock: FakeClock,
    }

    impl World {
        fn upload(&self, order: UploadOrder, body: &[u8]) -> Uploaded {
            let ports = (&self.store, &self.repository, &self.clock);
            block_on(upload_object(ports, order, &mut FakeSource::of(body))).unwrap()
        }

        fn refer(&self, order: UploadOrder, content_hash: ContentHash) -> Result<Uploaded, UploadError> {
            let reach = Reach::everything().of_tenant(&order.scope.tenant_id).unwrap();
            let ports = (&self.store, &self.repository, &self.clock);
            block_on(refer_to_content(ports, order, content_hash, &reach))
        }

        /// As one of many.
        fn refer_to_found(&self, order: UploadOrder, found: &StoredObject) -> Result<Uploaded, UploadError> {
            let reach = Reach::everything().of_tenant(&order.scope.tenant_id).unwrap();
            let ports = (&self.store, &self.repository, &self.clock);
            block_on(refer_to_found(ports, order, found, &reach))
        }

        /// What a question about many contents finds of this one.
        fn look_up(&self, content_hash: ContentHash) -> StoredObject {
            let reach = Reach::everything().of_tenant(&an_order(None).scope.tenant_id).unwrap();
            let found = block_on(self.repository.find_each(&[ObjectName::Content(content_hash, reach)]));
            found.unwrap()[0].as_deref().unwrap().clone()
        }

        fn location(&self, uploaded: &Uploaded) -> crate::domain::entities::BlobLocation {
            let name = ObjectName::Id(uploaded.object.id);
            block_on(self.repository.find(&name, Freshness::Current)).unwrap().unwrap().location()
        }
    }

    #[test]
    fn a_reference_shares_the_copy_and_says_its_own_words() {
        let world = World::default();
        let first = world.upload(an_order(Some("a")), b"hello");
        let mut order = an_order(Some("b"));
        order.metadata.insert("framework", "torch").unwrap();
        let second = world.refer(order, first.content_hash).unwrap();
        assert!(!second.replaced && second.object.size_bytes == Some(5));
        assert_eq!(second.object.metadata.iter().count(), 1);
        assert_eq!(world.location(&second), world.location(&first));
        assert!(world.refer(an_order(Some("b")), first.content_hash).unwrap().replaced);
        assert_eq!((world.store.blob_count(), world.repository.object_count()), (1, 3));
    }

    #[test]
    fn what_the_tenant_does_not_have_is_missing_whoever_has_it() {
        let world = World::default();
        let first = world.upload(an_order(None), b"hello");
        let mut foreign = an_order(None);
        foreign.scope.tenant_id = crate::domain::value_objects::TenantId::parse("other").unwrap();
        let absent = ContentHash::from_bytes([9; 32]);
        for (order, hash) in [(foreign, first.content_hash), (an_order(None), absent)] {
            assert!(matches!(world.refer(order, hash), Err(UploadError::ContentMissing)));
        }
        assert_eq!(world.repository.object_count(), 1);
    }

    #[test]
    fn another_class_gets_a_copy_of_its_own() {
        let world = World::default();
        for body in [&b""[..], b"hello", &[7; 300_000]] {
            let first = world.upload(an_order(None), body);
            let cold = || UploadOrder { storage_class: StorageClass::Cold, ..an_order(None) };
            let second = world.refer(cold(), first.content_hash).unwrap();
            assert_eq!(second.content_hash, first.content_hash);
            assert_ne!(world.location(&second).place, world.location(&first).place);
            let third = world.refer(cold(), first.content_hash).unwrap();
            assert_eq!(world.location(&third), world.location(&second));
        }
        assert_eq!(world.store.blob_count(), 6);
    }

    #[test]
    fn conditions_quotas_and_a_size_that_was_agreed_on_hold() {
        let world = World::default();
        let first = world.upload(an_order(Some("a")), b"hello");
        let precondition = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
        let order = UploadOrder { precondition, ..an_order(Some("a")) };
        assert!(matches!(world.refer(order, first.content_hash), Err(UploadError::PreconditionFailed)));
        for (expected, is_taken) in [(4, false), (5, true), (6, false)] {
            let order = UploadOrder { length_bytes: Some(expected), ..an_order(None) };
            assert_eq!(world.refer(order, first.content_hash).is_ok(), is_taken);
        }
        let limits = QuotaLimits { bytes_max: Some(14), objects_max: None };
        block_on(world.repository.set_limits(&first.object.scope.tenant_id, limits)).unwrap();
        assert!(matches!(
            world.refer(an_order(None), first.content_hash),
            Err(UploadError::QuotaExceeded(_))
        ));
        assert_eq!(world.repository.object_count(), 2);
    }

    #[test]
    fn one_of_many_shares_the_copy_that_was_found() {
        let world = World::default();
        let first = world.upload(an_order(Some("a")), b"hello");
        let found = world.look_up(first.content_hash);
        let second = world.refer_to_found(an_order(Some("b")), &found).unwrap();
        assert!(!second.replaced && second.object.size_bytes == Some(5));
        assert_eq!(world.location(&second), world.location(&first));
        let precondition = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
        let order = UploadOrder { precondition, ..an_order(Some("b")) };
        assert!(matches!(world.refer_to_found(order, &found), Err(UploadError::PreconditionFailed)));
        let limits = QuotaLimits { bytes_max: Some(14), objects_max: None };
        block_on(world.repository.set_limits(&first.object.scope.tenant_id, limits)).unwrap();
        let refused = world.refer_to_found(an_order(None), &found);
        assert!(matches!(refused, Err(UploadError::QuotaExceeded(_))));
        assert_eq!((world.store.blob_count(), world.repository.object_count()), (1, 2));
    }

    #[test]
    fn one_of_many_that_is_not_as_it_was_found_goes_the_long_way() {
        let world = World::default();
        let first = world.upload(an_order(None), b"hello");
        let found = world.look_up(first.content_hash);
        let cold = UploadOrder { storage_class: StorageClass::Cold, ..an_order(None) };
        let copied = world.refer_to_found(cold, &found).unwrap();
        assert_eq!(world.location(&copied).storage_class, StorageClass::Cold);
        block_on(world.store.discard(&world.location(&first)));
        let lost = world.refer_to_found(an_order(None), &found);
        assert!(matches!(lost, Err(UploadError::ContentMissing)));
    }

    #[test]
    fn a_copy_that_is_lost_is_asked_for_again() {
        let world = World::default();
        let first = world.upload(an_order(None), b"hello");
        block_on(world.store.discard(&world.location(&first)));
        for class in StorageClass::ALL {
            let order = UploadOrder { storage_class: class, ..an_order(None) };
            assert!(matches!(world.refer(order, first.content_hash), Err(UploadError::ContentMissing)));
        }
    }
}
