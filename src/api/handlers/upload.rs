//! `POST /v1/objects` and `PUT /v1/keys/…`: a body becomes an object.

use super::super::audit_log::{AuditLog, Change};
use super::super::errors::Problem;
use super::super::http1::{BodyFraming, Conditions, RequestHead, parse_digests};
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::json::object_json;
use super::reference::{refer, reference};
use super::{Response, scope_of};
use crate::application::errors::SourceError;
use crate::application::ports::{BlobStore, Clock, ObjectRepository};
use crate::application::use_cases::{UploadOrder, Uploaded, upload_object};
use crate::domain::entities::{KeyPath, Principal, Scope};
use crate::domain::value_objects::{ContentType, Key, Metadata, Precondition, StorageClass};
use crate::infrastructure::data_plane::buffers::Block;

const METADATA_PREFIX: &str = "x-object-meta-";

/// `POST /v1/objects`
pub(super) async fn create<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let parameters = Parameters::parse(head.query(), &["namespace", "tenant_id", "key", "storage_class"])?;
    let scope = scope_of(&parameters, principal)?;
    let key = parameters.parsed("key", Key::parse)?;
    let storage_class = parameters.parsed("storage_class", StorageClass::parse)?.unwrap_or(StorageClass::Hot);
    // There is nothing yet that a condition on a new object could be about.
    for name in ["If-Match", "If-None-Match", "If-Unmodified-Since"] {
        if head.has(name) {
            return Err(Problem::not_implemented(name));
        }
    }
    let order = order(head, scope, key, storage_class, Precondition::default())?;
    let uploaded = upload(service, head, body, order, principal).await?;
    Ok(created(uploaded, 201, &service.audit_log))
}

/// `PUT /v1/keys/{namespace}/{tenant_id}/{key…}`
pub(super) async fn put<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    path: KeyPath,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    Parameters::parse(head.query(), &[])?;
    let precondition = Conditions::of(head).into_precondition();
    let order = order(head, path.scope, Some(path.key), StorageClass::Hot, precondition)?;
    let uploaded = upload(service, head, body, order, principal).await?;
    let status = if uploaded.replaced { 200 } else { 201 };
    Ok(created(uploaded, status, &service.audit_log))
}

async fn upload<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    order: UploadOrder,
    principal: &Principal,
) -> Result<Uploaded, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let bytes_max = service.limits.body_bytes_max;
    if order.length_bytes.is_some_and(|length| length > bytes_max) {
        return Err(SourceError::TooLarge { bytes_max }.into());
    }
    let digests = head.values("repr-digest").chain(head.values("content-digest"));
    if !body.declare(parse_digests(digests)?) {
        let detail = "the declared digest is not the one that the URL is signed for";
        return Err(Problem::new(400, "digest_mismatch", detail));
    }
    if let Some(content_hash) = reference(head)? {
        // This is rare, and its state would be part of every connection.
        return Box::pin(refer(service, head, body, (order, content_hash), principal)).await;
    }
    let _turn = match body.is_here() {
        true => Some(service.upload_turns.take(order.storage_class).await?),
        false => None,
    };
    let _upload = service.metrics.upload();
    let ports = (&service.store, &service.repository, &service.clock);
    // Its state is six times that of a download, and would be part of every connection.
    Ok(Box::pin(upload_object(ports, order, body)).await?)
}

fn created<Reader>(uploaded: Uploaded, status: u16, audit_log: &AuditLog) -> Response<Reader> {
    let mut response = Response::json(status, object_json(&uploaded.object));
    response.fields.add("Location", format_args!("/v1/objects/{}", uploaded.object.id));
    response.fields.add("ETag", format_args!("\"sha256-{}\"", uploaded.content_hash));
    response.change = audit_log.is_on().then(|| Box::new(Change::Stored(uploaded)));
    response
}

/// What the head says of the object, or why it cannot be taken.
pub(super) fn order(
    head: &RequestHead,
    scope: Scope,
    key: Option<Key>,
    storage_class: StorageClass,
    precondition: Precondition,
) -> Result<UploadOrder, Problem> {
    refuse_part_or_coding(head)?;
    Ok(UploadOrder {
        scope,
        key,
        storage_class,
        content_type: content_type(head)?,
        metadata: metadata(head)?,
        length_bytes: match head.framing() {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked => None,
        },
        precondition,
    })
}

/// Refuses what would not be stored as it is meant.
pub(super) fn refuse_part_or_coding(head: &RequestHead) -> Result<(), Problem> {
    // A tail must never be stored as the whole (RFC 9110 §14.5).
    if head.has("content-range") {
        let reason = "a part of an object cannot be stored as the whole";
        return Err(Problem::parameter("content_range_refused", "Content-Range", reason));
    }
    refuse_content_coding(head)
}

/// Refuses a body that would have to be decoded first.
pub(super) fn refuse_content_coding(head: &RequestHead) -> Result<(), Problem> {
    match head.list("content-encoding").filter(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        None => Ok(()),
        Some(coding) => {
            let detail =
                format!("bodies are kept as they are; the content coding {} is not taken", plain(&coding));
            Err(Problem::new(415, "unsupported_content_encoding", detail))
        }
    }
}

fn content_type(head: &RequestHead) -> Result<ContentType, Problem> {
    if !head.has("content-type") {
        return Ok(ContentType::octet_stream());
    }
    let text = head.single("content-type").unwrap_or_default();
    ContentType::parse(text)
        .map_err(|error| Problem::parameter("invalid_content_type", "Content-Type", error))
}

pub(super) fn metadata(head: &RequestHead) -> Result<Metadata, Problem> {
    let mut metadata = Metadata::default();
    for (name, value) in head.fields() {
        let prefix = name.get(..METADATA_PREFIX.len());
        if !prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(METADATA_PREFIX)) {
            continue;
        }
        let own = name[METADATA_PREFIX.len()..].to_ascii_lowercase();
        let text = std::str::from_utf8(value).unwrap_or("\u{fffd}");
        let inserted = metadata.insert(&own, text);
        inserted.map_err(|error| Problem::parameter("invalid_metadata", name, error))?;
    }
    Ok(metadata)
}

/// At most a few visible characters of what came in, to be shown to whoever sent it.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(40).collect()
}
