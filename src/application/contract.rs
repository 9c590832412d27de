//! One contract for each port, run on the fake and on every real implementation.

use super::fakes::{FakeSource, a_scope, an_api_key, an_object, block_on};
use super::ports::{
    ApiKeyRepository, BlobReader, BlobStore, BlobUpload, BodyState, ByteSource, CommitOutcome, DeleteOutcome,
    Freshness, KeyStanding, ListQuery, ObjectCommit, ObjectName, ObjectRepository, Published, Room as _,
};
use crate::application::errors::{SourceError, StoreError};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, KeyPath, Object, Quota, QuotaLimits, Reach, StoredObject, Usage,
};
use crate::domain::value_objects::{
    ContentHash, EntityTags, InstanceId, Key, ObjectId, ObjectStatus, Place, Precondition, StorageClass,
    TenantId, Timestamp,
};
use sha2::{Digest as _, Sha256};

/// Runs every case on a repository of its own, made by `make`.
pub(crate) fn repository_contract<R: ObjectRepository>(make: impl Fn() -> R) {
    block_on(async {
        committed_objects_are_found_by_id_and_key(&make()).await;
        an_id_out_of_reach_is_one_that_does_not_exist(&make()).await;
        a_reservation_is_seen_and_can_be_taken_back(&make()).await;
        the_newest_version_of_a_key_serves(&make()).await;
        conditional_commits_compare_and_swap(&make()).await;
        deletes_forget_and_reveal(&make()).await;
        the_same_content_shares_its_place(&make()).await;
        what_is_committed_again_is_one_object(&make()).await;
        a_lost_copy_is_mended_once(&make()).await;
        listings_page_newest_first(&make()).await;
        everything_of_an_object_comes_back(&make()).await;
        usage_follows_commits_and_deletes(&make()).await;
        limits_are_kept_by_room_and_by_commit(&make()).await;
    });
}

pub(crate) fn key_path(key: &str) -> KeyPath {
    KeyPath { scope: a_scope("models", "acme"), key: Key::parse(key).unwrap() }
}

fn by_key(key: &str) -> ObjectName {
    ObjectName::Key(key_path(key))
}

/// A commit of the content `content` at the place `number`.
pub(crate) fn a_commit(key: Option<&str>, content: u8, number: u64) -> ObjectCommit {
    let content_hash = ContentHash::from_bytes([content; 32]);
    let mut object = an_object("models", "acme", key);
    object.content_hash = Some(content_hash);
    object.size_bytes = Some(u64::from(content));
    let place = Place::File { instance: InstanceId::from_i64(7), number };
    let stored = StoredObject { object, content_hash, size_bytes: u64::from(content), place, damaged: false };
    ObjectCommit { stored, precondition: Precondition::default(), is_first_version: false }
}

async fn commit<R: ObjectRepository>(repository: &R, commit: ObjectCommit) -> ObjectId {
    let id = commit.stored.object.id;
    assert!(matches!(
        repository.commit(commit, R::Room::default()).await.unwrap(),
        CommitOutcome::Committed { .. }
    ));
    id
}

async fn found(repository: &impl ObjectRepository, name: &ObjectName) -> Option<ObjectId> {
    repository.find(name, Freshness::Current).await.unwrap().map(|stored| stored.object.id)
}

async fn committed_objects_are_found_by_id_and_key(repository: &impl ObjectRepository) {
    let id = commit(repository, a_commit(Some("k"), 1, 1)).await;
    assert_eq!(found(repository, &ObjectName::Id(id)).await, Some(id));
    assert_eq!(found(repository, &by_key("k")).await, Some(id));
    assert_eq!(found(repository, &by_key("other")).await, None);
    let elsewhere = KeyPath { scope: a_scope("models", "other"), key: Key::parse("k").unwrap() };
    assert_eq!(found(repository, &ObjectName::Key(elsewhere)).await, None);
    assert_eq!(found(repository, &ObjectName::Id(ObjectId::generate())).await, None);
}

async fn an_id_out_of_reach_is_one_that_does_not_exist(repository: &impl ObjectRepository) {
    let id = commit(repository, a_commit(Some("k"), 1, 1)).await;
    let mut writing = an_object("models", "acme", None);
    writing.status = ObjectStatus::Writing;
    repository.reserve(&writing).await.unwrap();
    // Whatever is remembered of it, nobody sees it who could not before.
    for freshness in [Freshness::Current, Freshness::Cached] {
        assert!(repository.find(&ObjectName::Id(id), freshness).await.unwrap().is_some());
        for (tenant_id, namespaces, within) in [
            ("acme", None, true),
            ("acme", Some(vec!["data", "models"]), true),
            ("*", Some(vec!["models"]), true),
            ("acme", Some(vec!["data"]), false),
            ("acme", Some(vec![]), false),
            ("other", None, false),
            ("other", Some(vec!["models"]), false),
            ("*", Some(vec!["data"]), false),
        ] {
            let reach = Reach::parse(tenant_id, namespaces).unwrap();
            let name = |id| ObjectName::of_id(id, &reach);
            let found = repository.find(&name(id), freshness).await.unwrap();
            assert_eq!(found.map(|stored| stored.object.id), within.then_some(id), "{reach:?}");
            for id in [id, writing.id] {
                let inspected = repository.inspect(&name(id)).await.unwrap();
                assert_eq!(inspected.map(|object| object.id), within.then_some(id), "{reach:?}");
            }
            assert_eq!(repository.find(&name(writing.id), freshness).await.unwrap(), None);
            assert_eq!(repository.find(&name(ObjectId::generate()), freshness).await.unwrap(), None);
        }
    }
}

/// Runs on an empty repository; `put` gives out a key, or changes one.
pub(crate) async fn api_key_contract(repository: &impl ApiKeyRepository, put: impl AsyncFn(&ApiKey)) {
    let key = an_api_key(ApiKeyId::from_u64(u64::MAX));
    assert_eq!(repository.find_api_key(key.id, KeyStanding::Unproven).await.unwrap(), None);
    let moment = Timestamp::from_millis;
    let everything = ApiKey {
        reach: Reach::everything(),
        label: None,
        expires_at: Some(moment(1)),
        ..an_api_key(ApiKeyId::from_u64(1))
    };
    let nothing = ApiKey {
        reach: Reach::parse("acme", Some([])).unwrap(),
        permissions: [].into_iter().collect(),
        ..an_api_key(ApiKeyId::from_u64(2))
    };
    for key in [&key, &everything, &nothing] {
        put(key).await;
    }
    for key in [&key, &everything, &nothing] {
        for standing in [KeyStanding::Unproven, KeyStanding::Proven] {
            assert_eq!(repository.find_api_key(key.id, standing).await.unwrap().as_ref(), Some(key));
        }
    }
    let revoked = ApiKey { revoked_at: Some(moment(7)), ..key };
    put(&revoked).await;
    let found = repository.find_api_key(revoked.id, KeyStanding::Proven).await.unwrap();
    assert_eq!(found, Some(revoked), "it is known, and no good");
}

async fn a_reservation_is_seen_and_can_be_taken_back(repository: &impl ObjectRepository) {
    let mut object = an_object("models", "acme", Some("k"));
    object.status = ObjectStatus::Writing;
    let name = ObjectName::Id(object.id);
    repository.reserve(&object).await.unwrap();
    assert_eq!(repository.inspect(&name).await.unwrap(), Some(object.clone()));
    assert_eq!(found(repository, &name).await, None);
    assert_eq!(found(repository, &by_key("k")).await, None);
    let delete = repository.delete(object.id, Precondition::default()).await.unwrap();
    assert_eq!(delete, DeleteOutcome::NotFound);
    repository.abandon(object.id).await.unwrap();
    assert_eq!(repository.inspect(&name).await.unwrap(), None);

    // Reserved again, it can be committed; and a committed object cannot be abandoned.
    repository.reserve(&object).await.unwrap();
    let mut done = a_commit(Some("k"), 2, 1);
    done.stored.object.id = object.id;
    commit(repository, done).await;
    repository.abandon(object.id).await.unwrap();
    assert_eq!(found(repository, &by_key("k")).await, Some(object.id));
    let writing = ListQuery { status: ObjectStatus::Writing, ..a_query() };
    assert!(repository.list(writing).await.unwrap().objects.is_empty());
}

async fn the_newest_version_of_a_key_serves<R: ObjectRepository>(repository: &R) {
    let first = commit(repository, a_commit(Some("k"), 1, 1)).await;
    let second = a_commit(Some("k"), 2, 2);
    let second_id = second.stored.object.id;
    let outcome = repository.commit(second.clone(), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Committed { replaced: true, place: second.stored.place });
    assert_eq!(found(repository, &by_key("k")).await, Some(second_id));
    assert_eq!(found(repository, &ObjectName::Id(first)).await, Some(first));
}

async fn conditional_commits_compare_and_swap<R: ObjectRepository>(repository: &R) {
    let conditional = |content, if_match, if_none_match| {
        let precondition = Precondition { if_match, if_none_match, if_unmodified_since: None };
        ObjectCommit { precondition, ..a_commit(Some("k"), content, content.into()) }
    };
    let tags = |content: u8| Some(EntityTags::Hashes(vec![ContentHash::from_bytes([content; 32])]));
    let outcome =
        repository.commit(conditional(1, Some(EntityTags::Any), None), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::PreconditionFailed, "there is nothing to match");
    commit(repository, conditional(1, None, Some(EntityTags::Any))).await;
    let outcome =
        repository.commit(conditional(2, None, Some(EntityTags::Any)), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::PreconditionFailed, "it is there already");
    let second = commit(repository, conditional(2, tags(1), None)).await;
    let outcome = repository.commit(conditional(3, tags(1), None), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::PreconditionFailed, "another was faster");
    assert_eq!(found(repository, &by_key("k")).await, Some(second));
    let delete = Precondition { if_match: tags(1), ..Precondition::default() };
    assert_eq!(repository.delete(second, delete.clone()).await.unwrap(), DeleteOutcome::PreconditionFailed);
    assert_eq!(
        repository.delete_key(&key_path("k"), delete).await.unwrap(),
        DeleteOutcome::PreconditionFailed
    );
}

async fn deletes_forget_and_reveal(repository: &impl ObjectRepository) {
    let first = commit(repository, a_commit(Some("k"), 1, 1)).await;
    let second = commit(repository, a_commit(Some("k"), 2, 2)).await;
    let third = commit(repository, a_commit(Some("k"), 3, 3)).await;
    let forget = async |id| repository.delete(id, Precondition::default()).await.unwrap();
    assert!(matches!(forget(third).await, DeleteOutcome::Deleted { .. }));
    assert_eq!(found(repository, &by_key("k")).await, Some(second), "the version before is the newest again");
    assert_eq!(forget(third).await, DeleteOutcome::NotFound);
    assert!(matches!(forget(first).await, DeleteOutcome::Deleted { .. }));
    assert_eq!(found(repository, &by_key("k")).await, Some(second), "an old version goes without a trace");

    let fourth = commit(repository, a_commit(Some("k"), 4, 4)).await;
    let outcome = repository.delete_key(&key_path("k"), Precondition::default()).await.unwrap();
    let DeleteOutcome::Deleted { mut ids, key_path: path } = outcome else { panic!("the key was there") };
    ids.sort();
    assert_eq!((ids, path), (vec![second, fourth], Some(key_path("k"))));
    for name in [by_key("k"), ObjectName::Id(second), ObjectName::Id(fourth)] {
        assert_eq!(found(repository, &name).await, None);
        assert_eq!(repository.inspect(&name).await.unwrap(), None);
    }
    let again = repository.delete_key(&key_path("k"), Precondition::default()).await.unwrap();
    assert_eq!(again, DeleteOutcome::NotFound);
    let deleted = ListQuery { status: ObjectStatus::Deleted, ..a_query() };
    assert_eq!(repository.list(deleted).await.unwrap().objects.len(), 4);
}

async fn the_same_content_shares_its_place<R: ObjectRepository>(repository: &R) {
    let first = a_commit(None, 1, 1);
    let place = first.stored.place;
    commit(repository, first).await;
    let outcome = repository.commit(a_commit(None, 1, 2), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Committed { replaced: false, place });
    let mut cold = a_commit(None, 1, 3);
    cold.stored.object.storage_class = StorageClass::Cold;
    let own = cold.stored.place;
    let outcome = repository.commit(cold, R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Committed { replaced: false, place: own });
}

/// Whoever was not told what came of a commit of an upload in pieces commits the same object again, from another place.
async fn what_is_committed_again_is_one_object<R: ObjectRepository>(repository: &R) {
    let absent = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
    let first = ObjectCommit { precondition: absent, ..a_commit(Some("k"), 1, 1) };
    let mut again = first.clone();
    again.stored.place = again.stored.place.with_number(2);
    let id = commit(repository, first.clone()).await;
    let outcome = CommitOutcome::Committed { replaced: false, place: first.stored.place };
    for _ in 0..2 {
        assert_eq!(repository.commit(again.clone(), R::Room::default()).await.unwrap(), outcome);
    }
    let tenant_id = &first.stored.object.scope.tenant_id;
    assert_eq!(repository.quota(tenant_id).await.unwrap().usage, Usage { bytes: 1, objects: 1 });
    assert_eq!(repository.list(a_query()).await.unwrap().objects.len(), 1);
    // Forgotten meanwhile, it does not come back.
    let deleted = repository.delete(id, Precondition::default()).await.unwrap();
    assert!(matches!(deleted, DeleteOutcome::Deleted { .. }));
    let outcome = repository.commit(again, R::Room::default()).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { replaced: false, .. }));
    assert_eq!(found(repository, &ObjectName::Id(id)).await, None);
    assert_eq!(repository.quota(tenant_id).await.unwrap().usage, Usage::default());
}

async fn a_lost_copy_is_mended_once(repository: &impl ObjectRepository) {
    let first = a_commit(Some("k"), 1, 1);
    let (lost, place) = (first.stored.location(), first.stored.place.with_number(2));
    let id = commit(repository, first).await;
    assert!(repository.mend(&lost, place).await.unwrap());
    let found = repository.find(&ObjectName::Id(id), Freshness::Current).await.unwrap().unwrap();
    assert_eq!(found.place, place);
    let again = place.with_number(3);
    assert!(
        !repository.mend(&lost, again).await.unwrap(),
        "the copy at the old place serves nobody any more"
    );
    let strange = BlobLocation { content_hash: ContentHash::from_bytes([9; 32]), ..lost };
    assert!(!repository.mend(&strange, again).await.unwrap());
}

fn a_query() -> ListQuery {
    ListQuery {
        scope: a_scope("models", "acme"),
        status: ObjectStatus::Committed,
        storage_class: None,
        limit: 1000,
        before: None,
    }
}

async fn listings_page_newest_first(repository: &impl ObjectRepository) {
    let mut ids = Vec::new();
    for number in 0..7 {
        let mut one = a_commit(Some("k"), number, number.into());
        if number % 2 == 1 {
            one.stored.object.storage_class = StorageClass::Cold;
        }
        ids.push(commit(repository, one).await);
    }
    ids.reverse();
    let mut other = a_commit(None, 9, 9);
    other.stored.object.scope = a_scope("models", "other");
    commit(repository, other).await;

    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = repository.list(ListQuery { limit: 3, before, ..a_query() }).await.unwrap();
        assert!(page.objects.len() <= 3);
        seen.extend(page.objects.into_iter().map(|object| object.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let exact = repository.list(ListQuery { limit: 7, ..a_query() }).await.unwrap();
    assert_eq!((exact.objects.len(), exact.next), (7, None), "a full last page has no next");
    let cold =
        repository.list(ListQuery { storage_class: Some(StorageClass::Cold), ..a_query() }).await.unwrap();
    assert_eq!(cold.objects.len(), 3);
}

async fn everything_of_an_object_comes_back(repository: &impl ObjectRepository) {
    let mut one = a_commit(Some("ä/ö '\"\\ %_"), 1, u64::MAX >> 1);
    one.stored.object.metadata.insert("framework", "torch \"2\"").unwrap();
    one.stored.object.updated_at = Timestamp::from_millis(-5);
    one.stored.size_bytes = 1 << 40;
    one.stored.object.size_bytes = Some(1 << 40);
    let expected = one.stored.clone();
    let id = commit(repository, one).await;
    let got = repository.find(&ObjectName::Id(id), Freshness::Current).await.unwrap().unwrap();
    assert_eq!(*got, expected);
    let inspected: Object = repository.inspect(&ObjectName::Id(id)).await.unwrap().unwrap();
    assert_eq!(inspected, expected.object);
    assert_eq!(repository.list(a_query()).await.unwrap().objects, [inspected]);
}

async fn usage_follows_commits_and_deletes<R: ObjectRepository>(repository: &R) {
    let (acme, other) = (a_scope("models", "acme").tenant_id, a_scope("models", "other").tenant_id);
    assert_eq!(repository.quota(&acme).await.unwrap(), Quota::default());
    let usage = async |tenant_id: &TenantId| repository.quota(tenant_id).await.unwrap().usage;
    let first = commit(repository, a_commit(Some("k"), 1, 1)).await;
    commit(repository, a_commit(Some("k"), 20, 2)).await;
    let mut elsewhere = a_commit(None, 20, 3);
    elsewhere.stored.object.scope.namespace = a_scope("datasets", "acme").namespace;
    commit(repository, elsewhere).await;
    let mut foreign = a_commit(None, 20, 4);
    foreign.stored.object.scope = a_scope("models", "other");
    commit(repository, foreign).await;
    let counted = Usage { bytes: 41, objects: 3 };
    assert_eq!(usage(&acme).await, counted, "each version and each object of a content counts");
    assert_eq!(usage(&other).await, Usage::of_object(20));

    let mut writing = an_object("models", "acme", None);
    writing.status = ObjectStatus::Writing;
    repository.reserve(&writing).await.unwrap();
    repository.abandon(writing.id).await.unwrap();
    let if_none = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
    let refused = ObjectCommit { precondition: if_none, ..a_commit(Some("k"), 30, 5) };
    let outcome = repository.commit(refused, R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::PreconditionFailed);
    assert_eq!(usage(&acme).await, counted, "what is not committed does not count");

    repository.delete(first, Precondition::default()).await.unwrap();
    repository.delete(first, Precondition::default()).await.unwrap();
    assert_eq!(usage(&acme).await, Usage { bytes: 40, objects: 2 });
    repository.delete_key(&key_path("k"), Precondition::default()).await.unwrap();
    assert_eq!(usage(&acme).await, Usage::of_object(20));
    assert_eq!(usage(&other).await, Usage::of_object(20));
}

async fn limits_are_kept_by_room_and_by_commit<R: ObjectRepository>(repository: &R) {
    let acme = a_scope("models", "acme").tenant_id;
    let set = async |bytes_max, objects_max| {
        let limits = QuotaLimits { bytes_max, objects_max };
        let quota = repository.set_limits(&acme, limits).await.unwrap();
        assert_eq!((quota.limits, repository.quota(&acme).await.unwrap()), (limits, quota));
        quota.usage
    };
    let try_to_commit = async |content, room| {
        let outcome = repository.commit(a_commit(None, content, content.into()), room).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Committed { .. } | CommitOutcome::QuotaExceeded));
        outcome != CommitOutcome::QuotaExceeded
    };
    assert_eq!(set(Some(10), Some(3)).await, Usage::default());
    let room = repository.reserve_room(&acme, 6).unwrap();
    assert!(repository.reserve_room(&acme, 5).is_err());
    let mut small = repository.reserve_room(&acme, 3).unwrap();
    assert!(small.resize(5).is_err());
    small.resize(4).unwrap();
    assert!(repository.reserve_room(&acme, 1).is_err());
    assert!(try_to_commit(6, room).await);
    drop(small);
    assert!(!try_to_commit(5, R::Room::default()).await, "without room it is looked for in the end");
    assert!(try_to_commit(4, R::Room::default()).await, "exactly full");
    assert!(try_to_commit(0, R::Room::default()).await);
    assert!(!try_to_commit(0, R::Room::default()).await, "there are three objects");

    assert_eq!(set(Some(5), None).await, Usage { bytes: 10, objects: 3 }, "nothing is lost");
    assert!(repository.reserve_room(&acme, 0).is_err());
    assert!(!try_to_commit(0, R::Room::default()).await);
    let page = repository.list(a_query()).await.unwrap();
    for object in page.objects.iter().filter(|object| object.size_bytes == Some(6)) {
        repository.delete(object.id, Precondition::default()).await.unwrap();
    }
    assert!(try_to_commit(1, repository.reserve_room(&acme, 1).unwrap()).await, "a delete makes room");
    assert!(repository.reserve_room(&acme, 1).is_err());
    assert_eq!(set(None, None).await, Usage { bytes: 5, objects: 3 });
    assert!(try_to_commit(200, repository.reserve_room(&acme, 200).unwrap()).await);
}

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
