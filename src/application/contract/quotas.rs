//! What tenants have, and may have.

use super::samples::{a_commit, a_query, commit, key_path};
use crate::application::fakes::{a_scope, an_object};
use crate::application::ports::{CommitOutcome, ObjectCommit, ObjectRepository, Room as _};
use crate::domain::entities::{Quota, QuotaLimits, Usage};
use crate::domain::value_objects::{EntityTags, ObjectStatus, Precondition, TenantId};

pub(super) async fn usage_follows_commits_and_deletes<R: ObjectRepository>(repository: &R) {
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

pub(super) async fn limits_are_kept_by_room_and_by_commit<R: ObjectRepository>(repository: &R) {
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
