//! Requests and an object, as they come in daily life.
#![allow(dead_code, reason = "each benchmark takes what it needs")]

use just_storage::api::http1::{HeadLimits, HeadParser, RequestHead};
use just_storage::application::credentials::NewApiKey;
use just_storage::application::errors::RepositoryError;
use just_storage::application::ports::{ApiKeyRepository, KeyStanding};
use just_storage::domain::entities::{ApiKey, ApiKeyId, Object, Permissions, Reach, Scope, StoredObject};
use just_storage::domain::value_objects::{
    ContentHash, ContentType, InstanceId, Key, Metadata, Namespace, ObjectId, ObjectStatus, Place,
    StorageClass, TenantId, Timestamp,
};

pub(crate) const HEAD_LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 32 * 1024, fields_max: 100 };

pub(crate) const GET_BY_KEY: &[u8] =
    b"GET /v1/keys/models/acme/llama/model.safetensors HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-Id: 0123456789abcdef\r\n\r\n";

pub(crate) const GET_BY_ESCAPED_KEY: &[u8] =
    b"GET /v1/keys/models/acme/llama%20%C3%A4%2Fmodel.safetensors HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

pub(crate) const GET_BY_ID: &[u8] =
    b"GET /v1/objects/0193e2f0-7b5a-7c3d-8e4f-a1b2c3d4e5f6 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

pub(crate) const GET_NOTHING: &[u8] = b"GET /favicon.ico HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

pub(crate) const GET_FROM_A_BROWSER: &[u8] =
    b"GET /v1/keys/models/acme/llama/model.safetensors HTTP/1.1\r\nHost: store.example.com\r\n\
    Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    If-None-Match: \"sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\r\n\r\n";

/// Its body is 4 KiB of sevens.
pub(crate) const PUT_BY_KEY: &[u8] =
    b"PUT /v1/keys/models/acme/llama/model.safetensors HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 4096\r\n\
    Repr-Digest: sha-256=:yax7BiSCT4RPbH89UPq5dBqJFOh4Rn6Nqu3KFDo02Qs=:\r\nX-Object-Meta-Step: 1200\r\n\r\n";

/// The head as it is after parsing.
pub(crate) fn parsed(input: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    let length = HeadParser::default().parse(input, &HEAD_LIMITS, &mut head);
    assert_eq!(length, Ok(Some(input.len())), "the sample is a head");
    head
}

/// A body of 64 KiB in chunks of so many bytes.
pub(crate) fn chunked(chunk_bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..64 * 1024 / chunk_bytes {
        body.extend_from_slice(format!("{chunk_bytes:x}\r\n").as_bytes());
        body.resize(body.len() + chunk_bytes, 7);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

pub(crate) fn tenant_id() -> TenantId {
    TenantId::parse("acme").expect("a tenant id")
}

/// A committed object of 4 KiB, the same in every run.
pub(crate) fn stored_object() -> StoredObject {
    let content_hash = ContentHash::from_slice(&[7; 32]).expect("a hash");
    let id = ObjectId::parse("0193e2f0-7b5a-7c3d-8e4f-a1b2c3d4e5f6").expect("an id");
    let mut metadata = Metadata::default();
    metadata.insert("step", "1200").expect("metadata");
    let changed_at = Timestamp::from_millis(1_795_468_200_120);
    let object = Object {
        id,
        scope: Scope { namespace: Namespace::parse("models").expect("a namespace"), tenant_id: tenant_id() },
        key: Some(Key::parse("llama/model.safetensors").expect("a key")),
        status: ObjectStatus::Committed,
        storage_class: StorageClass::Hot,
        content_hash: Some(content_hash),
        size_bytes: Some(4096),
        content_type: ContentType::octet_stream(),
        metadata,
        created_at: changed_at,
        updated_at: changed_at,
    };
    let place = Place::File { instance: InstanceId::from_i64(1), number: 1 };
    StoredObject { object, content_hash, size_bytes: 4096, place, damaged: false }
}

/// A repository that has given out one key, of the operator.
pub(crate) struct OneApiKey<'k>(pub(crate) &'k NewApiKey);

impl ApiKeyRepository for OneApiKey<'_> {
    async fn find_api_key(
        &self,
        id: ApiKeyId,
        _standing: KeyStanding,
    ) -> Result<Option<ApiKey>, RepositoryError> {
        Ok(Some(ApiKey {
            id,
            secret_hash: self.0.secret_hash(),
            reach: Reach::everything(),
            permissions: Permissions::all(),
            label: None,
            created_at: Timestamp::from_millis(0),
            expires_at: None,
            revoked_at: None,
        }))
    }
}
