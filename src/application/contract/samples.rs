//! What the cases are about, and short ways to ask.

use crate::application::fakes::{a_scope, an_object};
use crate::application::ports::{
    CommitOutcome, Freshness, ListQuery, ObjectCommit, ObjectName, ObjectRepository,
};
use crate::domain::entities::{KeyPath, StoredObject};
use crate::domain::value_objects::{
    ContentHash, InstanceId, Key, ObjectId, ObjectStatus, Place, Precondition,
};

pub(crate) fn key_path(key: &str) -> KeyPath {
    KeyPath { scope: a_scope("models", "acme"), key: Key::parse(key).unwrap() }
}

pub(super) fn by_key(key: &str) -> ObjectName {
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

pub(super) async fn commit<R: ObjectRepository>(repository: &R, commit: ObjectCommit) -> ObjectId {
    let id = commit.stored.object.id;
    assert!(matches!(
        repository.commit(commit, R::Room::default()).await.unwrap(),
        CommitOutcome::Committed { .. }
    ));
    id
}

pub(super) async fn found(repository: &impl ObjectRepository, name: &ObjectName) -> Option<ObjectId> {
    repository.find(name, Freshness::Current).await.unwrap().map(|stored| stored.object.id)
}

pub(super) fn a_query() -> ListQuery {
    ListQuery {
        scope: a_scope("models", "acme"),
        status: ObjectStatus::Committed,
        storage_class: None,
        limit: 1000,
        before: None,
    }
}
