//! One contract for each port, run on the fake and on every real implementation.

use super::fakes::{FakeSource, a_scope, an_api_key, an_object, block_on};
use super::lifecycle::LifecycleRepository;
use super::ports::{
    ApiKeyRepository, BlobReader, BlobStore, BlobUpload, BodyState, ByteSource, CommitOutcome, DeleteOutcome,
    Freshness, KeyStanding, ListQuery, ObjectCommit, ObjectName, ObjectRepository, ObjectUpdate, Published,
    Room as _, SeenObject, UpdateOutcome,
};
use crate::application::errors::{SourceError, StoreError};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, DueAction, KeyPath, LifecycleRule, Object, Quota, QuotaLimits, Reach,
    StoredObject, Usage,
};
use crate::domain::value_objects::{
    ContentHash, EntityTags, InstanceId, Key, Namespace, ObjectId, ObjectStatus, Place, Precondition,
    StorageClass, TenantId, Timestamp,
};
use sha2::{Digest as _, Sha256};

/// Runs every case on a repository of its own, made by `make`.
pub(crate) fn repository_contract<R: ObjectRepository>(make: impl Fn() -> R) {
    block_on(async {
        committed_objects_are_found_by_id_and_key(&make()).await;
        an_id_out_of_reach_is_one_that_does_not_exist(&make()).await;
        many_are_found_as_each_is(&make()).await;
        a_reservation_is_seen_and_can_be_taken_back(&make()).await;
        the_newest_version_of_a_key_serves(&make()).await;
        conditional_commits_compare_and_swap(&make()).await;
        deletes_forget_and_reveal(&make()).await;
        the_same_content_shares_its_place(&make()).await;
        a_content_is_there_for_whoever_has_it(&make()).await;
        a_lease_outlives_the_object_that_it_was_taken_by(&make()).await;
        a_reference_takes_the_copy_that_is_there(&make()).await;
        what_is_committed_again_is_one_object(&make()).await;
        a_lost_copy_is_mended_once(&make()).await;
        updates_are_made_to_what_was_seen(&make()).await;
        who_gives_a_key_makes_its_newest_version(&make()).await;
        moves_count_a_content_where_it_is(&make()).await;
        listings_page_newest_first(&make()).await;
        everything_of_an_object_comes_back(&make()).await;
        usage_follows_commits_and_deletes(&make()).await;
        limits_are_kept_by_room_and_by_commit(&make()).await;
    });
}

/// Runs every case about rules on a repository of its own, made by `make`.
pub(crate) fn lifecycle_contract<R: ObjectRepository + LifecycleRepository>(make: impl Fn() -> R) {
    block_on(async {
        rules_are_set_one_by_one_and_taken_back(&make()).await;
        old_versions_are_due_and_the_newest_never(&make()).await;
        objects_are_due_for_their_age(&make()).await;
        what_is_read_is_not_moved(&make()).await;
        a_rule_reaches_every_tenant_of_its_namespace_and_no_other(&make()).await;
    });
}

const DAY_MILLIS: i64 = 86_400_000;

fn day(number: i64) -> Timestamp {
    Timestamp::from_millis(number * DAY_MILLIS)
}

fn models() -> Namespace {
    a_scope("models", "acme").namespace
}

/// A commit of something that was made on the day `created`.
fn made_on(created: i64, key: Option<&str>, content: u8) -> ObjectCommit {
    let mut commit = a_commit(key, content, content.into());
    commit.stored.object.created_at = day(created);
    commit
}

/// All that a pass at `now` would do, in no order.
async fn due(repository: &impl LifecycleRepository, now: Timestamp) -> Vec<(ObjectId, DueAction)> {
    let (mut due, mut from) = (Vec::new(), None);
    loop {
        let page = repository.due_page(from, now).await.unwrap();
        for candidate in page.candidates {
            if let Some(object) = repository.still_due(candidate, now).await.unwrap() {
                assert_eq!(object.object.id, candidate.id);
                due.push((candidate.id, object.action));
            }
        }
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    due.sort_unstable();
    due
}

fn sorted<const N: usize>(mut expected: [(ObjectId, DueAction); N]) -> [(ObjectId, DueAction); N] {
    expected.sort_unstable();
    expected
}

async fn rules_are_set_one_by_one_and_taken_back(repository: &impl LifecycleRepository) {
    let other = a_scope("data", "acme").namespace;
    assert!(repository.lifecycle_rule(&models()).await.unwrap().is_none());
    assert!(due(repository, day(9)).await.is_empty());
    let most = LifecycleRule {
        cold_after_days: Some(LifecycleRule::DAYS_MAX),
        delete_after_days: Some(1),
        keep_versions: Some(LifecycleRule::VERSIONS_MAX),
    };
    for rule in [most, LifecycleRule { cold_after_days: None, ..most }, LifecycleRule::default()] {
        repository.set_lifecycle_rule(&models(), rule, day(1)).await.unwrap();
        assert_eq!(repository.lifecycle_rule(&models()).await.unwrap(), rule);
        assert!(repository.lifecycle_rule(&other).await.unwrap().is_none());
    }
    assert!(repository.begin_pass(day(1)).await.unwrap(), "the first look at the clock is trusted");
    assert!(repository.begin_pass(day(1)).await.unwrap());
}

async fn old_versions_are_due_and_the_newest_never<R: ObjectRepository + LifecycleRepository>(
    repository: &R,
) {
    let mut versions = Vec::new();
    for content in 1..=6 {
        versions.push(commit(repository, made_on(1, Some("k"), content)).await);
        commit(repository, made_on(1, None, 100 + content)).await;
    }
    let single = commit(repository, made_on(1, Some("j"), 50)).await;
    let keep = async |kept| {
        let rule = LifecycleRule { keep_versions: Some(kept), ..LifecycleRule::default() };
        repository.set_lifecycle_rule(&models(), rule, day(1)).await.unwrap();
        due(repository, day(1)).await
    };
    let old = |id: &ObjectId| (*id, DueAction::DeleteOldVersion);
    assert!(keep(6).await.is_empty());
    let mut all_but_four: Vec<_> = versions[..2].iter().map(old).collect();
    all_but_four.sort_unstable();
    assert_eq!(keep(4).await, all_but_four);
    assert_eq!(keep(1).await.len(), 5);

    // What was found before the newest went is looked at once more.
    let page = async |from| repository.due_page(from, day(1)).await.unwrap();
    let (mut candidates, mut from) = (Vec::new(), None);
    loop {
        let page = page(from).await;
        candidates.extend(page.candidates);
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    repository.delete(versions[5], Precondition::default()).await.unwrap();
    let second_newest = candidates.iter().find(|candidate| candidate.id == versions[4]).unwrap();
    assert_eq!(repository.still_due(*second_newest, day(1)).await.unwrap(), None, "it is the newest now");
    let oldest = candidates.iter().find(|candidate| candidate.id == versions[0]).unwrap();
    let object = repository.still_due(*oldest, day(1)).await.unwrap().unwrap();
    assert_eq!(
        (object.action, object.object.key),
        (DueAction::DeleteOldVersion, Some(Key::parse("k").unwrap()))
    );
    assert!(candidates.iter().all(|candidate| candidate.id != single));
    repository.set_lifecycle_rule(&models(), LifecycleRule::default(), day(1)).await.unwrap();
    assert_eq!(repository.still_due(*oldest, day(1)).await.unwrap(), None, "the rule was taken back");
}

async fn objects_are_due_for_their_age<R: ObjectRepository + LifecycleRepository>(repository: &R) {
    let old = commit(repository, made_on(10, Some("k"), 1)).await;
    let new = commit(repository, made_on(20, Some("k"), 2)).await;
    let mut cold = made_on(10, None, 3);
    cold.stored.object.storage_class = StorageClass::Cold;
    let cold = commit(repository, cold).await;
    // Committed later, though it was begun before.
    let late = commit(repository, made_on(9, None, 4)).await;
    let mut writing = made_on(1, None, 5).stored.object;
    writing.status = ObjectStatus::Writing;
    repository.reserve(&writing).await.unwrap();
    let rule = |keep_versions| LifecycleRule {
        delete_after_days: Some(30),
        keep_versions,
        ..LifecycleRule::default()
    };
    repository.set_lifecycle_rule(&models(), rule(None), day(0)).await.unwrap();
    let age = DueAction::DeleteForAge;
    assert!(due(repository, day(38)).await.is_empty());
    assert_eq!(due(repository, day(39)).await, [(late, age)]);
    assert_eq!(due(repository, day(40)).await, sorted([(old, age), (cold, age), (late, age)]));
    assert_eq!(due(repository, day(50)).await, sorted([(old, age), (new, age), (cold, age), (late, age)]));
    // What two rules make due is due once.
    repository.set_lifecycle_rule(&models(), rule(Some(1)), day(0)).await.unwrap();
    assert_eq!(due(repository, day(38)).await, [(old, DueAction::DeleteOldVersion)]);
    assert_eq!(due(repository, day(40)).await, sorted([(old, age), (cold, age), (late, age)]));
    for id in [old, cold, late] {
        repository.delete(id, Precondition::default()).await.unwrap();
    }
    assert!(due(repository, day(40)).await.is_empty());
}

async fn what_is_read_is_not_moved<R: ObjectRepository + LifecycleRepository>(repository: &R) {
    let read = commit(repository, made_on(1, Some("k"), 1)).await;
    let unread = commit(repository, made_on(1, None, 2)).await;
    let mut cold = made_on(1, None, 3);
    cold.stored.object.storage_class = StorageClass::Cold;
    commit(repository, cold).await;
    let rule = |days| LifecycleRule { cold_after_days: Some(days), ..LifecycleRule::default() };
    repository.set_lifecycle_rule(&models(), rule(10), day(100)).await.unwrap();
    let moved = DueAction::MoveToCold;
    assert!(due(repository, day(109)).await.is_empty(), "nobody knows who read them before");
    assert_eq!(due(repository, day(110)).await, sorted([(read, moved), (unread, moved)]));
    repository.note_reads(vec![read], day(105)).await.unwrap();
    assert_eq!(due(repository, day(110)).await, [(unread, moved)]);
    // A read that is told late changes nothing, and one that is told twice neither.
    repository.note_reads(vec![read, read, ObjectId::generate()], day(101)).await.unwrap();
    assert_eq!(due(repository, day(115)).await, [(unread, moved)]);
    assert_eq!(due(repository, day(116)).await, sorted([(read, moved), (unread, moved)]));
    // A rule that goes on has its reads.
    repository.set_lifecycle_rule(&models(), rule(5), day(115)).await.unwrap();
    assert_eq!(due(repository, day(115)).await, sorted([(read, moved), (unread, moved)]));
    repository.set_lifecycle_rule(&models(), LifecycleRule::default(), day(115)).await.unwrap();
    repository.set_lifecycle_rule(&models(), rule(5), day(116)).await.unwrap();
    assert!(due(repository, day(117)).await.is_empty(), "one that begins anew has none");
}

async fn a_rule_reaches_every_tenant_of_its_namespace_and_no_other<
    R: ObjectRepository + LifecycleRepository,
>(
    repository: &R,
) {
    let mut ids = Vec::new();
    for (content, (namespace, tenant_id)) in (1_u8..).zip([
        ("models", "acme"),
        ("models", "zeta"),
        ("models", "Beta"),
        ("data", "acme"),
        ("model", "acme"),
    ]) {
        let mut commit_of = made_on(1, Some("k"), content);
        commit_of.stored.object.scope = a_scope(namespace, tenant_id);
        ids.push(commit(repository, commit_of).await);
    }
    let rule = LifecycleRule { delete_after_days: Some(1), keep_versions: Some(1), cold_after_days: None };
    repository.set_lifecycle_rule(&models(), rule, day(1)).await.unwrap();
    let empty = a_scope("a-namespace-with-nothing", "acme").namespace;
    repository.set_lifecycle_rule(&empty, rule, day(1)).await.unwrap();
    let age = DueAction::DeleteForAge;
    assert_eq!(due(repository, day(2)).await, sorted([(ids[0], age), (ids[1], age), (ids[2], age)]));
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
    ObjectCommit {
        stored,
        precondition: Precondition::default(),
        is_first_version: false,
        is_reference: false,
    }
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

async fn many_are_found_as_each_is(repository: &impl ObjectRepository) {
    let mut ids = Vec::new();
    for (number, key) in [(1, Some("a")), (2, Some("a")), (3, Some("b \"'/ä")), (4, None)] {
        ids.push(commit(repository, a_commit(key, number, u64::from(number))).await);
    }
    let mut other = a_commit(Some("a"), 5, 5);
    other.stored.object.scope = a_scope("data", "other");
    let (other_id, other_path) =
        (commit(repository, other.clone()).await, other.stored.object.key_path().unwrap());
    let within = |id, tenant_id| ObjectName::of_id(id, &Reach::parse(tenant_id, Some(["data"])).unwrap());
    let content = |content: u8, tenant_id| {
        ObjectName::Content(ContentHash::from_bytes([content; 32]), reach_of(tenant_id, None))
    };
    let names = [
        by_key("a"),
        ObjectName::Id(ids[0]),
        by_key("nothing"),
        by_key("b \"'/ä"),
        ObjectName::Id(ids[3]),
        by_key("a"),
        ObjectName::Id(ObjectId::generate()),
        ObjectName::Key(other_path),
        within(other_id, "*"),
        within(other_id, "acme"),
        within(ids[3], "*"),
        content(4, "acme"),
        content(5, "acme"),
        content(5, "other"),
        content(9, "acme"),
        content(1, "acme"),
        content(4, "acme"),
    ];
    let (first, other, last) = (Some(ids[1]), Some(other_id), Some(ids[3]));
    let by_content = [last, None, other, None, Some(ids[0]), last];
    let expected = [first, Some(ids[0]), None, Some(ids[2]), last, first, None, other, other, None, None];
    let expected = [&expected[..], &by_content[..]].concat();
    // Then also from what is remembered.
    for _ in 0..2 {
        let found = repository.find_each(&names).await.unwrap();
        let found: Vec<_> = found.iter().map(|found| found.as_ref().map(|stored| stored.object.id)).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(
        repository.delete(ids[1], Precondition::default()).await.unwrap(),
        DeleteOutcome::Deleted { ids: vec![ids[1]], key_path: Some(key_path("a")) }
    );
    let found = repository.find_each(&names[..2]).await.unwrap();
    assert!(found.iter().all(|found| found.as_ref().is_some_and(|stored| stored.object.id == ids[0])));
    assert!(repository.find_each(&[]).await.unwrap().is_empty());
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
        repository.delete_key(&key_path("k"), delete.clone()).await.unwrap(),
        DeleteOutcome::PreconditionFailed
    );
    // RFC 9110 §13.2.1: where there is nothing, there is nothing to hold a condition against.
    assert_eq!(
        repository.delete_key(&key_path("absent"), delete.clone()).await.unwrap(),
        DeleteOutcome::NotFound
    );
    assert_eq!(repository.delete(ObjectId::generate(), delete).await.unwrap(), DeleteOutcome::NotFound);
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

fn reach_of(tenant_id: &str, namespaces: Option<&[&str]>) -> Reach {
    Reach::parse(tenant_id, namespaces.map(|names| names.iter().copied())).unwrap()
}

async fn a_content_is_there_for_whoever_has_it(repository: &impl ObjectRepository) {
    let mut first = a_commit(Some("k"), 1, 1);
    first.stored.object.metadata.insert("framework", "torch").unwrap();
    let (hash, place) = (first.stored.content_hash, first.stored.place);
    let first = commit(repository, first).await;
    let mut second = a_commit(None, 1, 2);
    second.stored.object.scope = a_scope("data", "second");
    let second = commit(repository, second).await;
    let mut third = a_commit(None, 1, 3);
    third.stored.object.scope = a_scope("data", "acme");
    let third = commit(repository, third).await;
    let absent = ContentHash::from_bytes([9; 32]);
    let look = async |hash: ContentHash, reach: &Reach| {
        let name = ObjectName::Content(hash, reach.clone());
        let found = repository.find(&name, Freshness::Cached).await.unwrap();
        let inspected = repository.inspect(&name).await.unwrap();
        assert_eq!(found.as_ref().map(|found| &found.object), inspected.as_ref());
        if let Some(found) = &found {
            assert_eq!((found.content_hash, found.place, found.size_bytes), (hash, place, 1));
            let object = &found.object;
            assert!(object.key.is_none() && object.metadata.iter().next().is_none(), "{object:?}");
        }
        found.is_some()
    };
    for (tenant_id, namespaces, has) in [
        ("acme", None, true),
        ("acme", Some(&["models"][..]), true),
        ("acme", Some(&["data"]), true),
        ("acme", Some(&["other", "data"]), true),
        ("acme", Some(&["other"]), false),
        ("acme", Some(&[]), false),
        ("second", None, true),
        ("second", Some(&["data"]), true),
        ("second", Some(&["models"]), false),
        ("other", None, false),
        ("acm", None, false),
    ] {
        let reach = reach_of(tenant_id, namespaces);
        assert_eq!(look(hash, &reach).await, has, "{reach:?}");
        assert!(!look(absent, &reach).await);
    }
    // Whoever came first, and whoever goes first.
    for (id, tenant_id, namespace) in
        [(first, "acme", "models"), (third, "acme", "data"), (second, "second", "data")]
    {
        assert!(look(hash, &reach_of(tenant_id, Some(&[namespace]))).await);
        repository.delete(id, Precondition::default()).await.unwrap();
        assert!(!look(hash, &reach_of(tenant_id, Some(&[namespace]))).await);
    }
    // Its copy serves again, or another one does.
    commit(repository, a_commit(None, 1, 1)).await;
    assert!(look(hash, &reach_of("acme", None)).await);
    assert!(!look(hash, &reach_of("second", None)).await);
}

async fn a_lease_outlives_the_object_that_it_was_taken_by(repository: &impl ObjectRepository) {
    let id = commit(repository, a_commit(None, 1, 1)).await;
    let mut cold = a_commit(None, 2, 2);
    cold.stored.object.storage_class = StorageClass::Cold;
    commit(repository, cold).await;
    let hash = |content: u8| ContentHash::from_bytes([content; 32]);
    let lease = async |contents: &[u8], reach: &Reach| {
        let hashes = contents.iter().map(|content| hash(*content)).collect();
        let leased = repository.lease(hashes, reach).await.unwrap();
        let mut leased: Vec<_> = leased
            .iter()
            .map(|leased| {
                assert!(!leased.damaged);
                (leased.size_bytes, leased.location.storage_class)
            })
            .collect();
        leased.sort_unstable();
        leased
    };
    let (hot, cold) = ((1, StorageClass::Hot), (2, StorageClass::Cold));
    let acme = reach_of("acme", None);
    assert_eq!(lease(&[], &acme).await, []);
    assert_eq!(lease(&[9, 2, 1], &reach_of("other", None)).await, []);
    assert_eq!(lease(&[9, 2, 1], &reach_of("acme", Some(&["data"]))).await, []);
    assert_eq!(lease(&[9, 2, 1], &reach_of("acme", Some(&["models"]))).await, [hot, cold]);
    assert_eq!(lease(&[1], &acme).await, [hot]);
    repository.delete(id, Precondition::default()).await.unwrap();
    // A lease is the tenant's, in whatever namespace it was taken.
    for reach in [&acme, &reach_of("acme", Some(&["data"]))] {
        assert_eq!(lease(&[1, 2, 3], reach).await, [hot, cold]);
        let name = ObjectName::Content(hash(1), reach.clone());
        assert!(repository.find(&name, Freshness::Current).await.unwrap().is_some());
    }
    assert_eq!(lease(&[1, 2], &reach_of("other", None)).await, []);
}

async fn a_reference_takes_the_copy_that_is_there<R: ObjectRepository>(repository: &R) {
    let refer = async |key, content, number| {
        let reference = ObjectCommit { is_reference: true, ..a_commit(key, content, number) };
        repository.commit(reference, R::Room::default()).await.unwrap()
    };
    assert_eq!(refer(None, 1, 1).await, CommitOutcome::ContentMissing, "there is nothing to refer to");
    let first = a_commit(Some("k"), 1, 1);
    let (place, lost) = (first.stored.place, first.stored.location());
    let first = commit(repository, first).await;
    let shared = |replaced, place| CommitOutcome::Committed { replaced, place };
    assert_eq!(refer(Some("k"), 1, 1).await, shared(true, place));
    // Wherever it was when it was leased.
    assert_eq!(refer(None, 1, 7).await, shared(false, place));
    let other = place.with_number(2);
    assert!(repository.mend(&lost, other).await.unwrap());
    assert_eq!(refer(None, 1, 1).await, shared(false, other));
    repository.delete(first, Precondition::default()).await.unwrap();
    repository.delete_key(&key_path("k"), Precondition::default()).await.unwrap();
    assert_eq!(refer(Some("k"), 1, 1).await, shared(false, other));
    let only_new = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
    let reference = ObjectCommit { is_reference: true, precondition: only_new, ..a_commit(Some("k"), 1, 1) };
    let outcome = repository.commit(reference, R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::PreconditionFailed);
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

/// An update of an object as it is now.
async fn an_update(
    repository: &impl ObjectRepository,
    id: ObjectId,
    change: impl FnOnce(&mut Object),
) -> ObjectUpdate {
    let stored = repository.find(&ObjectName::Id(id), Freshness::Current).await.unwrap().unwrap();
    let mut object = stored.object.clone();
    object.updated_at = Timestamp::from_millis(object.updated_at.as_millis() + 1);
    change(&mut object);
    ObjectUpdate { seen: SeenObject::of(&stored.object), object, copy: None }
}

async fn updates_are_made_to_what_was_seen(repository: &impl ObjectRepository) {
    let first = commit(repository, a_commit(Some("k"), 1, 1)).await;
    let second = commit(repository, a_commit(Some("k"), 2, 2)).await;
    let said = |word: &'static str| move |object: &mut Object| object.metadata.insert("said", word).unwrap();
    let (one, two) =
        (an_update(repository, first, said("one")).await, an_update(repository, first, said("two")).await);
    let key_before = Some(key_path("k"));
    let updated = repository.update(one.clone()).await.unwrap();
    assert_eq!(updated, UpdateOutcome::Updated { key_before, place: None });
    assert_eq!(repository.update(two).await.unwrap(), UpdateOutcome::Changed, "another was faster");
    assert_eq!(repository.inspect(&ObjectName::Id(first)).await.unwrap(), Some(one.object.clone()));
    assert_eq!(found(repository, &by_key("k")).await, Some(second), "an old version stays an old one");
    let listed = repository.list(a_query()).await.unwrap().objects;
    assert_eq!(listed.iter().map(|object| object.id).collect::<Vec<_>>(), [second, first]);
    assert_eq!(listed[1], one.object);

    let late = an_update(repository, first, |_| ()).await;
    repository.delete(first, Precondition::default()).await.unwrap();
    assert_eq!(repository.update(late.clone()).await.unwrap(), UpdateOutcome::NotFound);
    let mut strange = late;
    strange.object.id = ObjectId::generate();
    assert_eq!(repository.update(strange).await.unwrap(), UpdateOutcome::NotFound);
}

async fn who_gives_a_key_makes_its_newest_version(repository: &impl ObjectRepository) {
    let first = commit(repository, a_commit(Some("a"), 1, 1)).await;
    let second = commit(repository, a_commit(Some("b"), 2, 2)).await;
    let third = commit(repository, a_commit(Some("b"), 3, 3)).await;
    let rename = async |id, key: Option<&str>| {
        let key = key.map(|key| Key::parse(key).unwrap());
        let update = an_update(repository, id, |object| object.key = key).await;
        match repository.update(update).await.unwrap() {
            UpdateOutcome::Updated { key_before, place: None } => key_before,
            outcome => panic!("{outcome:?}"),
        }
    };
    let listed = async || {
        let listed = repository.list(a_query()).await.unwrap().objects;
        listed.into_iter().map(|object| object.id).collect::<Vec<_>>()
    };
    assert_eq!(rename(first, Some("b")).await, Some(key_path("a")));
    assert_eq!(found(repository, &by_key("a")).await, None);
    assert_eq!(found(repository, &by_key("b")).await, Some(first), "it is the last that got the key");
    assert_eq!(listed().await, [first, third, second]);
    assert_eq!(rename(first, None).await, Some(key_path("b")));
    assert_eq!(found(repository, &by_key("b")).await, Some(third), "the version before serves again");
    assert_eq!(listed().await, [first, third, second], "without a key it stays where it is");
    assert_eq!(rename(second, Some("c")).await, Some(key_path("b")));
    assert_eq!(rename(first, Some("c")).await, None);
    assert_eq!(found(repository, &by_key("c")).await, Some(first));
    let outcome = repository.delete_key(&key_path("c"), Precondition::default()).await.unwrap();
    let DeleteOutcome::Deleted { mut ids, .. } = outcome else { panic!("the key was there") };
    ids.sort();
    assert_eq!(ids, [first, second]);
    assert_eq!(found(repository, &by_key("b")).await, Some(third));
}

async fn moves_count_a_content_where_it_is(repository: &impl ObjectRepository) {
    let one = commit(repository, a_commit(Some("k"), 5, 1)).await;
    let two = commit(repository, a_commit(None, 5, 2)).await;
    let tenant_id = a_scope("models", "acme").tenant_id;
    let place = |number| Place::File { instance: InstanceId::from_i64(7), number };
    let to = async |id, class, number| {
        let mut update = an_update(repository, id, |object| object.storage_class = class).await;
        update.copy = Some(place(number));
        match repository.update(update).await.unwrap() {
            UpdateOutcome::Updated { place: Some(place), .. } => place,
            outcome => panic!("{outcome:?}"),
        }
    };
    let location = async |id| {
        let stored = repository.find(&ObjectName::Id(id), Freshness::Current).await.unwrap().unwrap();
        (stored.object.storage_class, stored.place)
    };
    assert_eq!(to(one, StorageClass::Cold, 11).await, place(11));
    assert_eq!(location(one).await, (StorageClass::Cold, place(11)));
    assert_eq!(location(two).await, (StorageClass::Hot, place(1)), "the other one stays");
    assert_eq!(to(two, StorageClass::Cold, 12).await, place(11), "the content is there already");
    assert_eq!(location(two).await, (StorageClass::Cold, place(11)));
    let cold = ListQuery { storage_class: Some(StorageClass::Cold), ..a_query() };
    assert_eq!(repository.list(cold).await.unwrap().objects.len(), 2);
    let hot = ListQuery { storage_class: Some(StorageClass::Hot), ..a_query() };
    assert_eq!(repository.list(hot).await.unwrap().objects.len(), 0);
    assert_eq!(repository.quota(&tenant_id).await.unwrap().usage, Usage { bytes: 10, objects: 2 });
    // The row that nothing refers to any more serves again.
    assert_eq!(to(one, StorageClass::Hot, 13).await, place(1));
    assert_eq!(location(one).await, (StorageClass::Hot, place(1)));
    repository.delete(one, Precondition::default()).await.unwrap();
    repository.delete(two, Precondition::default()).await.unwrap();
    assert_eq!(repository.quota(&tenant_id).await.unwrap().usage, Usage::default());
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
