//! From a routed request to a response, by way of a use case.

mod batch;
mod blobs;
mod delete;
mod download;
mod health;
mod json;
mod lifecycle;
mod list;
mod list_versions;
mod metrics;
mod patch;
mod reference;
mod root;
mod sign;
mod tenants;
mod upload;
mod uploads;

pub(super) use batch::{DeleteBody, DeleteItem, GetBody, GetItem, ReferBody, ReferItem, ResultDto};
pub(super) use blobs::{MissingBody, MissingDto};
pub(super) use download::DOWNLOAD;
pub use download::add_object_fields;
pub(super) use health::{ChecksDto, ReadinessDto};
pub(super) use lifecycle::RuleBody;
pub use metrics::{MetricsPage, WriteMetrics};
pub(super) use patch::{MERGE_PATCH, PatchBody};
pub(super) use sign::{SignBody, SignedDto};
pub(super) use tenants::LimitsBody;
pub(super) use uploads::{PATH as UPLOADS_PATH, VERSION_LINE as UPLOADS_VERSION_LINE};

use std::sync::Arc;

use super::archive_transfer::Archive;
use super::audit_log::Change;
use super::authentication::{Asker, BLOB_REFERENCE, authorise};
use super::errors::Problem;
use super::http1::{Fields, Method, RequestHead};
use super::inline_text::RequestId;
use super::multipart_transfer::BlobParts;
use super::query::Parameters;
use super::request_body::RequestBody;
use super::router::{Route, route};
use super::service::Service;
use crate::application::lifecycle::LifecycleRepository;
use crate::application::ports::{
    ApiKeyRepository, BlobStore, Clock, Freshness, ObjectName, ObjectRepository,
};
use crate::application::staging::UploadStaging;
use crate::domain::entities::{Principal, Scope, StoredObject};
use crate::domain::value_objects::{ByteRange, Namespace, ObjectId, TenantId};
use crate::infrastructure::data_plane::buffers::Block;

/// How long an answer about an object may be kept.
const CACHE_CONTROL: &str = "Cache-Control";

/// An answer.
pub(super) struct Response<Reader> {
    pub(super) status: u16,
    /// The object that it is about, if its head tells of it.
    pub(super) object: Option<Arc<StoredObject>>,
    /// What its head says besides.
    pub(super) fields: Fields,
    pub(super) body: Body<Reader>,
    /// What has been changed, where an audit log is to tell of it.
    pub(super) change: Option<Box<Change>>,
}

/// What an answer carries.
pub(super) enum Body<Reader> {
    /// Nothing, and no length either (`204`, `304`).
    None,
    /// Nothing, though it would have so many bytes (`HEAD`).
    Withheld(u64),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of a blob, sent on account of a tenant.
    Blob(Reader, ByteRange, TenantId),
    /// Several parts of one.
    Parts(Box<BlobParts<Reader>>),
    /// Parts of many blobs.
    Archive(Box<Archive>),
}

impl<Reader> Response<Reader> {
    fn json(status: u16, body: Vec<u8>) -> Self {
        let mut fields = Fields::default();
        fields.add_lines("Content-Type: application/json\r\nCache-Control: no-store\r\n");
        Self { status, object: None, fields, body: Body::Bytes(body), change: None }
    }

    /// Adds all fields of its head that are about what was asked for.
    pub(super) fn add_fields(&self, fields: &mut Fields) {
        match (&self.object, &self.body) {
            (Some(object), Body::Parts(parts)) => {
                download::add_fields_of(fields, object, &parts.multipart.content_type().to_string());
            }
            (Some(object), _) => add_object_fields(fields, object),
            (None, _) => {}
        }
        if self.object.is_some() && !self.fields.has(CACHE_CONTROL) {
            // The next version of a key may come at any time, and a delete.
            fields.add_lines("Cache-Control: private, no-cache\r\n");
        }
        fields.add_all(&self.fields);
    }

    /// The problem as an answer.
    pub(super) fn problem(problem: Problem, instance: &str, request_id: &str) -> Self {
        let json = problem.to_json(instance, request_id);
        let mut fields = problem.fields;
        fields.add_lines("Content-Type: application/problem+json\r\nCache-Control: no-store\r\n");
        Self { status: problem.status, object: None, fields, body: Body::Bytes(json), change: None }
    }
}

/// A request whose route is known, and who asks. One that comes too soon is not dropped here: the log names who sent it.
pub(super) struct Admitted {
    pub(super) route: Route,
    pub(super) asker: Asker,
}

/// Answers one request.
pub(super) async fn handle<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    request_id: &RequestId,
    Admitted { route, asker: Asker { principal, within_rate, digest, reference_bytes } }: Admitted,
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    R: ObjectRepository<Buffer = Block> + ApiKeyRepository + LifecycleRepository,
    C: Clock,
{
    within_rate?;
    authorise(&principal, &route, head.method())?;
    let by_id = |id: ObjectId| ObjectName::of_id(id, &principal.reach);
    if head.has_other_expectation() {
        return Err(Problem::new(
            417,
            "expectation_failed",
            "the only expectation that can be met is 100-continue",
        ));
    }
    refuse_misplaced_fields(head, &route)?;
    if let Some(digest) = digest {
        body.hold_to(*digest);
    }
    body.hold_reference_to(reference_bytes);
    // What stands here without a box is a part of every connection, also of one that waits: downloads, and what is smaller
    // still.
    match (route, head.method()) {
        (Route::Root, Method::Post) => root::echo(head, body).await,
        (Route::Root, _) => root::describe(head),
        (Route::Health, _) => health::alive(head),
        (Route::Ready, _) => Box::pin(health::ready(service, head)).await,
        (Route::OpenApi, _) => root::openapi(head),
        (Route::Metrics, _) => metrics::metrics(&service.metrics_page, head, &principal).await,
        (Route::Objects, Method::Post) => upload::create(service, head, body, &principal).await,
        (Route::Objects, _) => list::list(service, head, &principal).await,
        (Route::ObjectInfo(id), _) => download::info(service, head, by_id(id)).await,
        (Route::Object(id), Method::Patch) => Box::pin(patch::patch(service, head, body, by_id(id))).await,
        (Route::Object(id), Method::Delete) => Box::pin(delete::delete(service, head, by_id(id))).await,
        (Route::Object(id), _) => download::download_noted(service, head, by_id(id), Freshness::Cached).await,
        (Route::Blob(hash), _) => blobs::download_noted(service, head, hash, &principal).await,
        (Route::MissingBlobs, _) => Box::pin(blobs::missing(service, head, body, &principal)).await,
        (Route::Tenant(tenant_id), Method::Put) => {
            tenants::set(service, head, body, tenant_id, &principal).await
        }
        (Route::Tenant(tenant_id), _) => tenants::show(service, head, tenant_id, &principal).await,
        (Route::Lifecycle(namespace), Method::Put) => {
            Box::pin(lifecycle::set(service, head, body, namespace, &principal)).await
        }
        (Route::Lifecycle(namespace), _) => lifecycle::show(service, head, namespace, &principal).await,
        (Route::Sign, _) => Box::pin(sign::sign(service, head, body)).await,
        (Route::Uploads, _) => {
            let exchange = uploads::Exchange { service, head, body, principal: &principal };
            Box::pin(exchange.collection()).await
        }
        (Route::Upload(id), _) => {
            let exchange = uploads::Exchange { service, head, body, principal: &principal };
            Box::pin(exchange.one(id)).await
        }
        (Route::BatchGet, _) => Box::pin(batch::get(service, head, body, &principal)).await,
        (Route::BatchPut, _) => Box::pin(batch::put(service, head, body, (&principal, &**request_id))).await,
        (Route::BatchDelete, _) => {
            Box::pin(batch::delete(service, head, body, (&principal, &**request_id))).await
        }
        (Route::Key(path), Method::Put) => upload::put(service, head, body, path, &principal).await,
        (Route::Key(path), Method::Delete) => {
            Box::pin(delete::delete(service, head, ObjectName::Key(path))).await
        }
        (Route::Key(path), _) if list_versions::is_asked_for(head) => {
            Box::pin(list_versions::list(service, head, path)).await
        }
        (Route::Key(path), _) => {
            download::download_noted(service, head, ObjectName::Key(path), Freshness::Cached).await
        }
    }
}

/// Answers a download once more, from the place that the database names now: where the one that was remembered led, the
/// blob turned out not to be.
pub(super) async fn download_anew<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let name = match route(head)? {
        Route::Object(id) => ObjectName::of_id(id, &principal.reach),
        Route::Key(path) => ObjectName::Key(path),
        Route::Blob(hash) => {
            return blobs::download(service, head, hash, principal, Freshness::Current).await;
        }
        _ => return Err(Problem::not_found()),
    };
    download::download(service, head, name, Freshness::Current).await
}

/// The scope that a query names, if the principal may name it.
fn scope_of(parameters: &Parameters<'_>, principal: &Principal) -> Result<Scope, Problem> {
    let scope = Scope {
        namespace: parameters.required("namespace", Namespace::parse)?,
        tenant_id: parameters.required("tenant_id", TenantId::parse)?,
    };
    principal.check_scope(&scope)?;
    Ok(scope)
}

/// Fields that would change the meaning of a request, where they have none.
fn refuse_misplaced_fields(head: &RequestHead, route: &Route) -> Result<(), Problem> {
    let is_upload =
        matches!((route, head.method()), (Route::Objects, Method::Post) | (Route::Key(_), Method::Put));
    match !is_upload && head.has(BLOB_REFERENCE) {
        true => Err(Problem::not_implemented(BLOB_REFERENCE)),
        false => Ok(()),
    }
}

/// Reads a body that is one JSON object.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
fn parse_object<'b, T: serde::Deserialize<'b>>(body: &'b [u8]) -> Result<T, String> {
    // A list of values would be read as if they stood under their names.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is not a JSON object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
