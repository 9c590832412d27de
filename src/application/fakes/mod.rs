//! In-memory ports for the tests of the use cases: plain maps that do at once what the real ones do durably.

mod repository;
mod source;
mod store;

pub(crate) use repository::FakeRepository;
pub(crate) use source::FakeSource;
pub(crate) use store::FakeStore;

use std::cell::Cell;

use crate::application::ports::Clock;
use crate::application::use_cases::UploadOrder;
use crate::domain::entities::{ApiKey, ApiKeyId, Object, Permissions, Reach, Scope};
use crate::domain::value_objects::{
    ContentType, Key, Metadata, Namespace, ObjectId, ObjectStatus, Precondition, StorageClass, TenantId,
    Timestamp,
};

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn a_scope(namespace: &str, tenant_id: &str) -> Scope {
    Scope { namespace: Namespace::parse(namespace).unwrap(), tenant_id: TenantId::parse(tenant_id).unwrap() }
}

pub(crate) fn an_object(namespace: &str, tenant_id: &str, key: Option<&str>) -> Object {
    Object {
        id: ObjectId::generate(),
        scope: a_scope(namespace, tenant_id),
        key: key.map(|key| Key::parse(key).unwrap()),
        status: ObjectStatus::Committed,
        storage_class: StorageClass::Hot,
        content_hash: None,
        size_bytes: None,
        content_type: ContentType::octet_stream(),
        metadata: Metadata::default(),
        created_at: Timestamp::from_millis(1_000),
        updated_at: Timestamp::from_millis(1_000),
    }
}

/// A key with a secret that nobody has.
pub(crate) fn an_api_key(id: ApiKeyId) -> ApiKey {
    ApiKey {
        id,
        secret_hash: [0; 32],
        reach: Reach::parse("acme", Some(["models", "data"])).unwrap(),
        permissions: Permissions::of_words("read write"),
        label: Some("a \"label\"".into()),
        created_at: Timestamp::from_millis(1_000),
        expires_at: None,
        revoked_at: None,
    }
}

pub(crate) fn an_order(key: Option<&str>) -> UploadOrder {
    UploadOrder {
        scope: a_scope("models", "acme"),
        key: key.map(|key| Key::parse(key).unwrap()),
        storage_class: StorageClass::Hot,
        content_type: ContentType::octet_stream(),
        metadata: Metadata::default(),
        length_bytes: None,
        precondition: Precondition::default(),
    }
}

#[derive(Default)]
pub(crate) struct FakeClock(Cell<i64>);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.0.set(self.0.get() + 1);
        Timestamp::from_millis(self.0.get())
    }
}
