//! Taking an object in: bytes first, and only when they are durable the metadata that names them.

use std::pin::pin;

use futures_util::FutureExt as _;
use futures_util::future::{Either, select, try_join};

use crate::application::errors::{QuotaExceeded, RepositoryError, StoreError, UploadError};
use crate::application::ports::{
    Begun, BlobStore, BlobUpload, BodyState, ByteBuffer as _, ByteSource, Clock, CommitOutcome, Freshness,
    LooseCommit, LooseOutcome, ObjectCommit, ObjectName, ObjectRepository, Published, Room,
};
use crate::application::use_cases::metered_source::MeteredSource;
use crate::domain::entities::{BlobLocation, Object, Scope, StoredObject};
use crate::domain::value_objects::{
    ContentHash, ContentType, Key, Metadata, ObjectId, ObjectStatus, Place, Precondition, StorageClass,
};

/// Everything that a caller says about an object before its first byte.
#[derive(Debug, Clone)]
pub struct UploadOrder {
    /// Where to file it.
    pub scope: Scope,
    /// The caller's name for it.
    pub key: Option<Key>,
    /// Which root its bytes go to.
    pub storage_class: StorageClass,
    /// Its media type.
    pub content_type: ContentType,
    /// The caller's words about it.
    pub metadata: Metadata,
    /// How many bytes will come, if the caller says.
    pub length_bytes: Option<u64>,
    /// What must hold for the key. Asks for nothing where there is no key.
    pub precondition: Precondition,
}

/// A committed upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The object as it is now.
    pub object: Object,
    /// Its content.
    pub content_hash: ContentHash,
    /// Whether the key had a version before.
    pub replaced: bool,
}

/// Streams `source` into a new object. When this returns `Ok`, bytes and metadata are durable.
///
/// # Errors
/// [`UploadError`]. No object exists then, unless the error is
/// [`RepositoryError::Unavailable`] from the commit: then it may.
pub async fn upload_object<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    ports: (&S, &R, &impl Clock),
    order: UploadOrder,
    source: &mut impl ByteSource<S::Buffer>,
) -> Result<Uploaded, UploadError> {
    let received = receive(ports, order, source).await?;
    commit(ports, received).await
}

/// Streams `source` into a new object, and returns as soon as nothing more is wanted of it. What came of the object is for
/// the future that it gives to say: beside others, so that many share what makes them durable. Where bytes go to the log
/// with the change that names them, the change has its place in the order of all changes when this returns.
///
/// # Errors
/// As [`upload_object`], before all bytes were here.
pub async fn begin_upload<'p, S, R, C, B>(
    ports: (&'p S, &'p R, &'p C),
    order: UploadOrder,
    source: &mut B,
) -> Result<Begun<'p, impl Future<Output = Result<Uploaded, UploadError>> + use<'p, S, R, C, B>>, UploadError>
where
    S: BlobStore,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
    B: ByteSource<S::Buffer>,
{
    let mut received = receive(ports, order, source).await?;
    let Some(bytes) = received.upload.take_loose() else {
        return Ok(Begun::Tended(Box::pin(commit(ports, received))));
    };
    let Received { object, content_hash, room, precondition, .. } = received;
    let (_, repository, clock) = ports;
    let commit = LooseCommit { object, content_hash, bytes: bytes.bytes(), precondition };
    begin_loose((repository, clock), commit, room).await
}

/// As [`begin_upload`], of bytes that are all in memory, with their hash. A store that does not [leave them
/// loose](BlobStore::leaves_loose) has to be given them in an upload.
///
/// # Errors
/// As [`upload_object`]; nothing is on its way then.
pub async fn begin_whole<'p, R: ObjectRepository, C: Clock>(
    (repository, clock): (&'p R, &'p C),
    mut order: UploadOrder,
    (content_hash, bytes): (ContentHash, &[u8]),
) -> Result<Begun<'p, impl Future<Output = Result<Uploaded, UploadError>> + use<'p, R, C>>, UploadError> {
    let precondition = std::mem::take(&mut order.precondition);
    let object = new_object(order, clock);
    let room = repository.reserve_room(&object.scope.tenant_id, bytes.len() as u64)?;
    refuse_early(repository, &object, &precondition).await?;
    let commit = LooseCommit { object, content_hash, bytes, precondition };
    begin_loose((repository, clock), commit, room).await
}

/// Begins to make an object of bytes that nothing names yet.
async fn begin_loose<'p, R: ObjectRepository, C: Clock>(
    (repository, clock): (&'p R, &'p C),
    mut commit: LooseCommit<&[u8]>,
    room: R::Room,
) -> Result<Begun<'p, impl Future<Output = Result<Uploaded, UploadError>> + use<'p, R, C>>, UploadError> {
    let content_hash = commit.content_hash;
    let object = committed(commit.object, content_hash, commit.bytes.len() as u64, clock);
    commit.object = object.clone();
    let uploaded = move |outcome: Result<_, _>| {
        let replaced = replaced(outcome?)?;
        Ok(Uploaded { object, content_hash, replaced })
    };
    // Async blocks would hold what has begun twice: as what they were given, and as what they wait for.
    Ok(match repository.begin_loose(commit, room).await? {
        Begun::ByItself(begun) => Begun::ByItself(begun.map(uploaded)),
        Begun::Tended(begun) => Begun::Tended(begun.map(uploaded).boxed_local()),
    })
}

/// An object whose bytes are all here, and which nothing names yet.
struct Received<U, Rm> {
    object: Object,
    content_hash: ContentHash,
    size_bytes: u64,
    upload: U,
    room: Rm,
    precondition: Precondition,
    /// Whether the database knows of it.
    is_reserved: bool,
}

/// The first half: takes in the bytes, and holds them against what was said of them.
async fn receive<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: UploadOrder,
    source: &mut impl ByteSource<S::Buffer>,
) -> Result<Received<S::Upload, R::Room>, UploadError> {
    let precondition = order.precondition.clone();
    let length_bytes = order.length_bytes;
    let object = new_object(order, clock);
    // Before the condition, which counts only where all else is well (RFC 9110 §13.2.1).
    let room = repository.reserve_room(&object.scope.tenant_id, length_bytes.unwrap_or(0))?;
    refuse_early(repository, &object, &precondition).await?;

    let mut source = MeteredSource::new(source, room, length_bytes.unwrap_or(0));
    let mut upload = store.begin(object.storage_class, length_bytes, &object.scope.tenant_id)?;
    let is_reserved = match upload.receive_first(&mut source).await? {
        BodyState::Ended => false,
        BodyState::Open => {
            let rest = pin!(async { upload.receive_rest(&mut source).await.map_err(UploadError::from) });
            match select(pin!(repository.reservation_due()), rest).await {
                Either::Left(((), rest)) => {
                    let reservation = async { repository.reserve(&object).await.map_err(UploadError::from) };
                    if let Err(error) = try_join(rest, reservation).await {
                        abandon(repository, object.id, &error).await;
                        return Err(error);
                    }
                    true
                }
                Either::Right((received, _)) => {
                    received?;
                    false
                }
            }
        }
    };
    let (content_hash, size_bytes) = upload.content();
    match accepted(source, content_hash, size_bytes) {
        Ok(room) => {
            Ok(Received { object, content_hash, size_bytes, upload, room, precondition, is_reserved })
        }
        Err(error) => {
            if is_reserved {
                abandon(repository, object.id, &error).await;
            }
            Err(error)
        }
    }
}

/// The room for a content that is what was declared.
fn accepted<B, Rm: Room>(
    source: MeteredSource<'_, impl ByteSource<B>, Rm>,
    content_hash: ContentHash,
    size_bytes: u64,
) -> Result<Rm, UploadError> {
    if let Some(declared) = source.declared_hash()?.filter(|declared| *declared != content_hash) {
        return Err(UploadError::DigestMismatch { declared, actual: content_hash });
    }
    let mut room = source.into_room();
    room.resize(size_bytes)?;
    Ok(room)
}

/// The second half: makes the bytes durable, then names them.
async fn commit<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    received: Received<S::Upload, R::Room>,
) -> Result<Uploaded, UploadError> {
    let (id, is_reserved) = (received.object.id, received.is_reserved);
    let result = finish((store, repository, clock), received).await;
    // An outcome that is not known is left to stand: if the object was committed after all, it is not ours to undo.
    if let Err(error) = &result
        && is_reserved
        && !matches!(error, UploadError::Repository(RepositoryError::Unavailable))
    {
        abandon(repository, id, error).await;
    }
    result
}

async fn finish<S: BlobStore, R: ObjectRepository<Buffer = S::Buffer>>(
    (store, repository, clock): (&S, &R, &impl Clock),
    received: Received<S::Upload, R::Room>,
) -> Result<Uploaded, UploadError> {
    let Received { object, content_hash, size_bytes, upload, room, precondition, .. } = received;
    let published = upload.publish().await?;
    let object = committed(object, content_hash, size_bytes, clock);
    let replaced = match published {
        Published::Loose(bytes) => {
            let commit = LooseCommit { object: object.clone(), content_hash, bytes, precondition };
            replaced(repository.commit_loose(commit, room).await?)?
        }
        Published::Stored(place) => {
            let object = object.clone();
            let stored = StoredObject { object, content_hash, size_bytes, place, damaged: false };
            name((store, repository), stored, precondition, room).await?
        }
    };
    Ok(Uploaded { object, content_hash, replaced })
}

/// The object as it is once it is committed.
fn committed(object: Object, content_hash: ContentHash, size_bytes: u64, clock: &impl Clock) -> Object {
    Object {
        status: ObjectStatus::Committed,
        content_hash: Some(content_hash),
        size_bytes: Some(size_bytes),
        updated_at: clock.now().max(object.created_at),
        ..object
    }
}

/// Whether the key had a version before.
fn replaced(outcome: LooseOutcome) -> Result<bool, UploadError> {
    match outcome {
        LooseOutcome::Committed { replaced } => Ok(replaced),
        LooseOutcome::PreconditionFailed => Err(UploadError::PreconditionFailed),
        LooseOutcome::QuotaExceeded => Err(QuotaExceeded.into()),
    }
}

/// Names bytes that are durable, and says whether the key had a version before.
pub(super) async fn name<S: BlobStore, R: ObjectRepository>(
    (store, repository): (&S, &R),
    stored: StoredObject,
    precondition: Precondition,
    room: R::Room,
) -> Result<bool, UploadError> {
    let commit =
        ObjectCommit { stored: stored.clone(), precondition, is_first_version: false, is_reference: false };
    let outcome = repository.commit(commit, room).await;
    let takes_its_place = match &outcome {
        Ok(CommitOutcome::Committed { place, .. }) if *place != stored.place => {
            let kept = BlobLocation { place: *place, ..stored.location() };
            takes_a_lost_place((store, repository), &kept, stored.size_bytes, stored.place).await
        }
        _ => false,
    };
    if copy_can_go(&outcome, stored.place) && !takes_its_place {
        store.discard(&stored.location()).await;
    }
    match outcome? {
        CommitOutcome::Committed { replaced, .. } => Ok(replaced),
        CommitOutcome::PreconditionFailed => Err(UploadError::PreconditionFailed),
        CommitOutcome::QuotaExceeded => Err(QuotaExceeded.into()),
        CommitOutcome::ContentMissing => Err(UploadError::ContentMissing),
    }
}

/// Whether no metadata names the copy that was just published, or ever will.
fn copy_can_go(outcome: &Result<CommitOutcome, RepositoryError>, written: Place) -> bool {
    match outcome {
        Ok(CommitOutcome::Committed { place, .. }) => *place != written,
        Ok(
            CommitOutcome::PreconditionFailed | CommitOutcome::QuotaExceeded | CommitOutcome::ContentMissing,
        ) => true,
        Err(RepositoryError::Overloaded | RepositoryError::NoSpace) => true,
        Err(RepositoryError::Unavailable) => false,
    }
}

/// Whether the copy of the content that was there before turns out lost or damaged, so that the new one has to serve
/// in its place: whoever is told that the upload is durable has bytes stored, and not only a count raised.
pub(super) async fn takes_a_lost_place<S: BlobStore, R: ObjectRepository>(
    (store, repository): (&S, &R),
    kept: &BlobLocation,
    size_bytes: u64,
    own: Place,
) -> bool {
    match store.open(kept, size_bytes).await {
        Err(StoreError::Missing | StoreError::Damaged) => {
            tracing::error!(hash = %kept.content_hash, "a stored blob is damaged; its content has just come again");
            // Where the answer is lost the new copy stays: it may be named by now. What is left of the old one is the
            // collector's.
            let mended = repository.mend(kept, own).await;
            !matches!(mended, Ok(false) | Err(RepositoryError::Overloaded | RepositoryError::NoSpace))
        }
        _ => false,
    }
}

/// Looks at the condition before any byte is asked for. What counts is the look in the transaction; this one
/// spares the sender a body that would be thrown away.
pub(super) async fn refuse_early(
    repository: &impl ObjectRepository,
    object: &Object,
    precondition: &Precondition,
) -> Result<(), UploadError> {
    let Some(key_path) = object.key_path().filter(|_| !precondition.is_empty()) else { return Ok(()) };
    let current = repository.find(&ObjectName::Key(key_path), Freshness::Cached).await?;
    match precondition.holds(current.map(|stored| stored.current_version()).as_ref()) {
        true => Ok(()),
        false => Err(UploadError::PreconditionFailed),
    }
}

/// Takes the reservation back as well as it can: what it misses, the next start clears.
async fn abandon(repository: &impl ObjectRepository, id: ObjectId, error: &UploadError) {
    let abandoned = repository.abandon(id);
    match error {
        // It is asked for and not waited for: the sender has waited for something that hangs already.
        UploadError::Store(StoreError::TimedOut) | UploadError::Repository(RepositoryError::Unavailable) => {
            let _ = abandoned.now_or_never();
        }
        _ => {
            let _ = abandoned.await;
        }
    }
}

pub(super) fn new_object(order: UploadOrder, clock: &impl Clock) -> Object {
    let now = clock.now();
    Object {
        id: ObjectId::generate(),
        scope: order.scope,
        key: order.key,
        status: ObjectStatus::Writing,
        storage_class: order.storage_class,
        content_hash: None,
        size_bytes: None,
        content_type: order.content_type,
        metadata: order.metadata,
        created_at: now,
        updated_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::errors::{SourceError, StoreError};
    use crate::application::fakes::{FakeClock, FakeRepository, FakeSource, FakeStore, an_order, block_on};
    use crate::domain::entities::QuotaLimits;
    use crate::domain::value_objects::EntityTags;

    struct World {
        store: FakeStore,
        repository: FakeRepository,
        clock: FakeClock,
    }

    impl World {
        fn new() -> Self {
            Self {
                store: FakeStore::default(),
                repository: FakeRepository::default(),
                clock: FakeClock::default(),
            }
        }

        fn upload(&self, order: UploadOrder, source: &mut FakeSource) -> Result<Uploaded, UploadError> {
            block_on(upload_object((&self.store, &self.repository, &self.clock), order, source))
        }

        fn is_empty(&self) -> bool {
            self.store.blob_count() == 0 && self.repository.object_count() == 0
        }
    }

    #[test]
    fn a_small_body_becomes_an_object_without_a_reservation() {
        let world = World::new();
        let uploaded = world.upload(an_order(Some("k")), &mut FakeSource::of(b"hello")).unwrap();
        assert_eq!(uploaded.object.size_bytes, Some(5));
        assert!(!uploaded.replaced);
        assert_eq!(world.repository.reservation_count(), 0);
        assert!(world.upload(an_order(Some("k")), &mut FakeSource::of(b"other")).unwrap().replaced);
    }

    #[test]
    fn an_upload_that_has_begun_is_committed_when_it_has_been_waited_for() {
        let world = World::new();
        let ports = (&world.store, &world.repository, &world.clock);
        let (mut small, mut large) = (FakeSource::of(b"hello"), FakeSource::of(&[7; 100_000]));
        let small = block_on(begin_upload(ports, an_order(Some("a")), &mut small)).unwrap();
        let large = block_on(begin_upload(ports, an_order(Some("b")), &mut large)).unwrap();
        assert_eq!((world.store.blob_count(), world.repository.writing_count()), (0, 1));
        fn ended<F: Future<Output = Result<Uploaded, UploadError>>>(begun: Begun<'_, F>) -> Uploaded {
            match begun {
                Begun::ByItself(begun) => block_on(begun).unwrap(),
                Begun::Tended(begun) => block_on(begun).unwrap(),
            }
        }
        let (large, small) = (ended(large), ended(small));
        assert_eq!((small.object.size_bytes, large.object.size_bytes), (Some(5), Some(100_000)));
        assert_eq!((world.store.blob_count(), world.repository.writing_count()), (2, 0));
        let mut wrong = FakeSource::of(b"hello").declaring(ContentHash::from_bytes([9; 32]));
        let begun = block_on(begin_upload(ports, an_order(None), &mut wrong));
        assert!(matches!(begun.err(), Some(UploadError::DigestMismatch { .. })));
    }

    #[test]
    fn a_large_body_is_reserved_while_it_comes_in() {
        let world = World::new();
        world.upload(an_order(None), &mut FakeSource::of(&[7; 100_000])).unwrap();
        assert_eq!(world.repository.reservation_count(), 1);
        assert_eq!(world.repository.writing_count(), 0);
    }

    #[test]
    fn a_large_body_that_is_here_at_once_is_not_reserved() {
        let world = World::new();
        world.repository.never_due();
        let uploaded = world.upload(an_order(Some("k")), &mut FakeSource::of(&[7; 100_000])).unwrap();
        assert_eq!(uploaded.object.size_bytes, Some(100_000));
        let cut = &mut FakeSource::of(&[7; 100_000]).ending_with(SourceError::Disconnected);
        assert!(world.upload(an_order(None), cut).is_err());
        assert_eq!((world.repository.reservation_count(), world.repository.object_count()), (0, 1));
    }

    #[test]
    fn the_same_content_twice_is_kept_once_per_class() {
        let world = World::new();
        world.upload(an_order(Some("a")), &mut FakeSource::of(b"same")).unwrap();
        world.upload(an_order(Some("b")), &mut FakeSource::of(b"same")).unwrap();
        assert_eq!(world.store.blob_count(), 1);
        let cold = UploadOrder { storage_class: StorageClass::Cold, ..an_order(Some("c")) };
        world.upload(cold, &mut FakeSource::of(b"same")).unwrap();
        assert_eq!(world.store.blob_count(), 2);
    }

    #[test]
    fn a_content_whose_copy_is_lost_is_served_from_the_new_one() {
        let world = World::new();
        let first = world.upload(an_order(Some("a")), &mut FakeSource::of(b"same")).unwrap();
        let name = ObjectName::Id(first.object.id);
        let lost = block_on(world.repository.find(&name, Freshness::Current)).unwrap().unwrap();
        block_on(world.store.discard(&lost.location()));
        world.upload(an_order(Some("b")), &mut FakeSource::of(b"same")).unwrap();
        let found = block_on(world.repository.find(&name, Freshness::Current)).unwrap().unwrap();
        assert_ne!(found.place, lost.place);
        assert!(block_on(world.store.open(&found.location(), 4)).is_ok());
        assert_eq!(world.store.blob_count(), 1);
    }

    #[test]
    fn a_wrong_digest_leaves_nothing() {
        for body in [&b"hello"[..], &[1; 100_000]] {
            let world = World::new();
            let mut source = FakeSource::of(body).declaring(ContentHash::from_bytes([9; 32]));
            let error = world.upload(an_order(None), &mut source).unwrap_err();
            assert!(matches!(error, UploadError::DigestMismatch { .. }));
            assert!(world.is_empty());
        }
    }

    #[test]
    fn a_body_that_breaks_off_leaves_nothing() {
        for length in [0, 10, 99_999] {
            let world = World::new();
            let mut source = FakeSource::of(&vec![1; length]).ending_with(SourceError::Disconnected);
            let error = world.upload(an_order(None), &mut source).unwrap_err();
            assert!(matches!(error, UploadError::Source(SourceError::Disconnected)));
            assert!(world.is_empty());
        }
    }

    #[test]
    fn a_failed_precondition_is_told_before_a_byte_is_read() {
        let world = World::new();
        world.upload(an_order(Some("k")), &mut FakeSource::of(b"first")).unwrap();
        let order = UploadOrder {
            precondition: Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() },
            ..an_order(Some("k"))
        };
        let mut source = FakeSource::of(b"second");
        assert!(matches!(world.upload(order, &mut source), Err(UploadError::PreconditionFailed)));
        assert_eq!(source.bytes_read(), 0);
        assert_eq!(world.store.blob_count(), 1);
    }

    #[test]
    fn a_store_that_cannot_publish_leaves_no_object() {
        let world = World::new();
        world.store.fail_next_publish(StoreError::NoSpace);
        let error = world.upload(an_order(None), &mut FakeSource::of(&[3; 100_000])).unwrap_err();
        assert!(matches!(error, UploadError::Store(StoreError::NoSpace)));
        assert!(world.is_empty());
    }

    #[test]
    fn bytes_of_an_unknown_outcome_are_left_where_they_are() {
        let world = World::new();
        world.repository.fail_next_commit(RepositoryError::Unavailable);
        assert!(world.upload(an_order(None), &mut FakeSource::of(b"hello")).is_err());
        assert_eq!(world.store.blob_count(), 1);

        let world = World::new();
        world.repository.fail_next_commit(RepositoryError::Overloaded);
        assert!(world.upload(an_order(None), &mut FakeSource::of(b"hello")).is_err());
        assert_eq!(world.store.blob_count(), 0);
    }

    impl World {
        fn limit(&self, bytes_max: u64, objects_max: u64) {
            let limits = QuotaLimits { bytes_max: Some(bytes_max), objects_max: Some(objects_max) };
            block_on(self.repository.set_limits(&an_order(None).scope.tenant_id, limits)).unwrap();
        }

        fn used_bytes(&self) -> u64 {
            block_on(self.repository.quota(&an_order(None).scope.tenant_id)).unwrap().usage.bytes
        }
    }

    #[test]
    fn what_is_promised_beyond_the_quota_is_refused_before_a_byte_is_read() {
        let world = World::new();
        world.limit(100_000, 2);
        let promising = |length| UploadOrder { length_bytes: Some(length), ..an_order(None) };
        let mut source = FakeSource::of(&[1; 100_001]);
        let error = world.upload(promising(100_001), &mut source).unwrap_err();
        assert!(matches!(error, UploadError::QuotaExceeded(_)));
        assert_eq!(source.bytes_read(), 0);
        world.upload(promising(100_000), &mut FakeSource::of(&[1; 100_000])).unwrap();
        assert!(world.upload(promising(1), &mut FakeSource::of(b"1")).is_err());
        world.upload(promising(0), &mut FakeSource::of(b"")).unwrap();
        assert!(world.upload(promising(0), &mut FakeSource::of(b"")).is_err(), "there are two objects");
        assert_eq!((world.used_bytes(), world.repository.object_count()), (100_000, 2));
    }

    #[test]
    fn a_body_of_unknown_length_is_cut_at_the_quota_and_may_fill_it() {
        let world = World::new();
        world.limit(100_000, 10);
        let mut source = FakeSource::of(&[1; 3_000_000]);
        let error = world.upload(an_order(None), &mut source).unwrap_err();
        assert!(matches!(error, UploadError::Source(SourceError::QuotaExceeded(_))));
        assert!(source.bytes_read() < 200_000);
        assert!(world.is_empty());
        world.upload(an_order(None), &mut FakeSource::of(&[1; 60_000])).unwrap();
        world.upload(an_order(None), &mut FakeSource::of(&[2; 40_000])).unwrap();
        assert_eq!(world.used_bytes(), 100_000);
        assert!(world.upload(an_order(None), &mut FakeSource::of(b"1")).is_err());
    }

    #[test]
    fn an_upload_that_ends_early_gives_its_room_back() {
        let world = World::new();
        world.limit(100_000, 1);
        let promising = UploadOrder { length_bytes: Some(100_000), ..an_order(None) };
        let mut broken = FakeSource::of(&[1; 50_000]).ending_with(SourceError::Disconnected);
        assert!(world.upload(promising.clone(), &mut broken).is_err());
        let mut hanging = FakeSource::of(&[5; 50_000]).hanging();
        let ports = (&world.store, &world.repository, &world.clock);
        let dropped = Box::pin(upload_object(ports, promising.clone(), &mut hanging)).now_or_never();
        assert!(dropped.is_none());
        world.upload(promising, &mut FakeSource::of(&[1; 100_000])).unwrap();
    }

    #[test]
    fn an_upload_that_is_dropped_half_way_leaves_no_blob() {
        let world = World::new();
        let mut source = FakeSource::of(&[5; 100_000]).hanging();
        let ports = (&world.store, &world.repository, &world.clock);
        assert!(Box::pin(upload_object(ports, an_order(None), &mut source)).now_or_never().is_none());
        assert_eq!(world.store.blob_count(), 0);
    }
}
