//! Objects are found as they were committed, and nothing else is.

use super::contents::reach_of;
use super::samples::{a_commit, a_query, by_key, commit, found, key_path};
use crate::application::fakes::{a_scope, an_object};
use crate::application::ports::{DeleteOutcome, Freshness, ListQuery, ObjectName, ObjectRepository};
use crate::domain::entities::{KeyPath, Object, Reach};
use crate::domain::value_objects::{
    ContentHash, Key, ObjectId, ObjectStatus, Precondition, StorageClass, Timestamp,
};

pub(super) async fn committed_objects_are_found_by_id_and_key(repository: &impl ObjectRepository) {
    let id = commit(repository, a_commit(Some("k"), 1, 1)).await;
    assert_eq!(found(repository, &ObjectName::Id(id)).await, Some(id));
    assert_eq!(found(repository, &by_key("k")).await, Some(id));
    assert_eq!(found(repository, &by_key("other")).await, None);
    let elsewhere = KeyPath { scope: a_scope("models", "other"), key: Key::parse("k").unwrap() };
    assert_eq!(found(repository, &ObjectName::Key(elsewhere)).await, None);
    assert_eq!(found(repository, &ObjectName::Id(ObjectId::generate())).await, None);
}

pub(super) async fn an_id_out_of_reach_is_one_that_does_not_exist(repository: &impl ObjectRepository) {
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

pub(super) async fn many_are_found_as_each_is(repository: &impl ObjectRepository) {
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

pub(super) async fn listings_page_newest_first(repository: &impl ObjectRepository) {
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

pub(super) async fn everything_of_an_object_comes_back(repository: &impl ObjectRepository) {
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
