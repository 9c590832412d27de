//! What commits and deletes make of an object, its key and its copy.

use super::samples::{a_commit, a_query, by_key, commit, found, key_path};
use crate::application::fakes::an_object;
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, Freshness, ListQuery, ObjectCommit, ObjectName, ObjectRepository,
};
use crate::domain::entities::{BlobLocation, Usage};
use crate::domain::value_objects::{ContentHash, EntityTags, ObjectId, ObjectStatus, Precondition};

pub(super) async fn a_reservation_is_seen_and_can_be_taken_back(repository: &impl ObjectRepository) {
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

pub(super) async fn the_newest_version_of_a_key_serves<R: ObjectRepository>(repository: &R) {
    let first = commit(repository, a_commit(Some("k"), 1, 1)).await;
    let second = a_commit(Some("k"), 2, 2);
    let second_id = second.stored.object.id;
    let outcome = repository.commit(second.clone(), R::Room::default()).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Committed { replaced: true, place: second.stored.place });
    assert_eq!(found(repository, &by_key("k")).await, Some(second_id));
    assert_eq!(found(repository, &ObjectName::Id(first)).await, Some(first));
}

pub(super) async fn conditional_commits_compare_and_swap<R: ObjectRepository>(repository: &R) {
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

pub(super) async fn deletes_forget_and_reveal(repository: &impl ObjectRepository) {
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

/// Whoever was not told what came of a commit of an upload in pieces commits the same object again, from another place.
pub(super) async fn what_is_committed_again_is_one_object<R: ObjectRepository>(repository: &R) {
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

pub(super) async fn a_lost_copy_is_mended_once(repository: &impl ObjectRepository) {
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
