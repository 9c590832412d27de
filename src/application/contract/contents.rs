//! Contents: who has them, and what keeps them.

use super::samples::{a_commit, commit, key_path};
use crate::application::fakes::a_scope;
use crate::application::ports::{CommitOutcome, Freshness, ObjectCommit, ObjectName, ObjectRepository};
use crate::domain::entities::Reach;
use crate::domain::value_objects::{ContentHash, EntityTags, Precondition, StorageClass};

pub(super) async fn the_same_content_shares_its_place<R: ObjectRepository>(repository: &R) {
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

pub(super) fn reach_of(tenant_id: &str, namespaces: Option<&[&str]>) -> Reach {
    Reach::parse(tenant_id, namespaces.map(|names| names.iter().copied())).unwrap()
}

pub(super) async fn a_content_is_there_for_whoever_has_it(repository: &impl ObjectRepository) {
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

pub(super) async fn a_lease_outlives_the_object_that_it_was_taken_by(repository: &impl ObjectRepository) {
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

pub(super) async fn a_reference_takes_the_copy_that_is_there<R: ObjectRepository>(repository: &R) {
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
