//! Rules for what becomes of objects with time.

use super::samples::{a_commit, commit};
use crate::application::fakes::{a_scope, block_on};
use crate::application::lifecycle::LifecycleRepository;
use crate::application::ports::{ObjectCommit, ObjectRepository};
use crate::domain::entities::{DueAction, LifecycleRule};
use crate::domain::value_objects::{
    Key, Namespace, ObjectId, ObjectStatus, Precondition, StorageClass, Timestamp,
};

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
