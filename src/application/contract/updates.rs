//! Updates: names, and moves between classes.

use super::samples::{a_commit, a_query, by_key, commit, found, key_path};
use crate::application::fakes::a_scope;
use crate::application::ports::{
    DeleteOutcome, Freshness, ListQuery, ObjectName, ObjectRepository, ObjectUpdate, SeenObject,
    UpdateOutcome,
};
use crate::domain::entities::{Object, Usage};
use crate::domain::value_objects::{InstanceId, Key, ObjectId, Place, Precondition, StorageClass, Timestamp};

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

pub(super) async fn updates_are_made_to_what_was_seen(repository: &impl ObjectRepository) {
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

pub(super) async fn who_gives_a_key_makes_its_newest_version(repository: &impl ObjectRepository) {
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

pub(super) async fn moves_count_a_content_where_it_is(repository: &impl ObjectRepository) {
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
