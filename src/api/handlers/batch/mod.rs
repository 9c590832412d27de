//! `POST /v1/batch/…`: many objects in one request. Each item has a result of its own, in the order of the items, and none
//! keeps another from being done.

mod delete;
mod get;
mod items;
mod lines;
mod put;
mod records;
mod refer;

pub(super) use self::delete::delete;
pub(super) use self::get::get;
pub(in crate::api) use self::items::{DeleteBody, DeleteItem, GetBody, GetItem, ReferBody, ReferItem};
pub(super) use self::put::put;

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::super::access_log::AccessRecord;
use super::super::audit_log::{AuditLog, AuditRecord, Change, Note, audit_unavailable};
use super::super::errors::Problem;
use super::super::http1::{Fields, RequestHead};
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::request_timing::traceparent;
use super::{Body, Response, scope_of};
use crate::application::errors::{RepositoryError, UploadError};
use crate::domain::entities::{Principal, Scope};
use crate::domain::value_objects::{ContentHash, Key, ObjectId};

/// Fields of a head that are about one object, and that nothing here could obey.
const ABOUT_ONE: [&str; 6] = [
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "If-Modified-Since",
    "Content-Digest",
    "Repr-Digest",
];

/// What became of an item, as callers see it: one line of the answer. What there is nothing to say of is left out. How it
/// serialises is what lines are held against, which are written faster.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = BatchResult)]
pub(in crate::api) struct ResultDto<'a> {
    /// Which item, counted from zero.
    index: usize,
    /// Its name in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// The key that it is filed under, where that is not its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// What a request for it alone would be answered with.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "id_as_text")]
    #[schema(value_type = Option<String>, format = "uuid")]
    id: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hash_as_text")]
    #[schema(value_type = Option<String>, pattern = "^[0-9a-f]{64}$")]
    content_hash: Option<ContentHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    /// Which part of it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_range: Option<String>,
    /// How many versions of its key have been deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> ResultDto<'a> {
    fn of_problem(index: usize, problem: &'a Problem) -> Self {
        let Problem { status, code, detail, .. } = problem;
        Self { index, status: *status, code: Some(code), detail: Some(detail), ..Self::default() }
    }
}

fn id_as_text<S: Serializer>(id: &Option<ObjectId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.serialize_str(id.write_to(&mut [0; ObjectId::TEXT_LENGTH])),
        None => serializer.serialize_none(),
    }
}

fn hash_as_text<S: Serializer>(hash: &Option<ContentHash>, serializer: S) -> Result<S::Ok, S::Error> {
    match hash {
        Some(hash) => serializer.serialize_str(hash.to_hex().as_str()),
        None => serializer.serialize_none(),
    }
}

/// The results as an answer.
fn answer<Reader>(lines: Vec<u8>) -> Response<Reader> {
    let mut fields = Fields::default();
    fields.add_lines(
        "Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
    );
    Response { status: 200, object: None, fields, body: Body::Bytes(lines), change: None }
}

/// The scope that a query names, if it names any.
fn scope_if_named(parameters: &Parameters<'_>, principal: &Principal) -> Result<Option<Scope>, Problem> {
    let named = ["namespace", "tenant_id"].iter().any(|name| parameters.get(name).is_some());
    named.then(|| scope_of(parameters, principal)).transpose()
}

/// Refuses a head that says something that would have to hold for each item.
fn refuse_fields_about_one(head: &RequestHead) -> Result<(), Problem> {
    refuse_fields(head, &ABOUT_ONE)
}

/// Refuses a head that has one of these fields.
fn refuse_fields(head: &RequestHead, names: &[&'static str]) -> Result<(), Problem> {
    match names.iter().find(|name| head.has(name)) {
        Some(name) => Err(Problem::not_implemented(name)),
        None => Ok(()),
    }
}

/// How often an item is tried that finds the metadata plane's queue full, which is waited for each time.
const TRIES_MAX: usize = 8;

/// Stores an item, for which there is room again once others have been stored.
async fn once_there_is_room<T>(
    mut store: impl AsyncFnMut() -> Result<T, UploadError>,
) -> Result<T, UploadError> {
    for _ in 1..TRIES_MAX {
        match store().await {
            Err(UploadError::Repository(RepositoryError::Overloaded)) => {}
            stored => return stored,
        }
    }
    store().await
}

/// Tells the audit log of each item as it is done, as if it had come in a request of its own.
struct ItemAudit<'s> {
    log: &'s AuditLog,
    head: &'s RequestHead,
    request_id: &'s str,
    principal: &'s Principal,
    peer: std::net::SocketAddr,
}

/// What an item was about, and how much came for it.
struct Audited<'i> {
    scope: Option<&'i Scope>,
    key: Option<&'i Key>,
    object_id: Option<ObjectId>,
    bytes_in: u64,
}

impl<'s> ItemAudit<'s> {
    fn new(
        log: &'s AuditLog,
        head: &'s RequestHead,
        body: &RequestBody<'_>,
        (principal, request_id): (&'s Principal, &'s str),
    ) -> Self {
        Self { log, head, request_id, principal, peer: body.peer() }
    }

    /// Whether a change that is begun now will have its line.
    fn takes_changes(&self) -> bool {
        !self.log.is_on() || self.log.takes_changes()
    }

    fn tell_change(&self, status: u16, change: impl FnOnce() -> Change, audited: &Audited<'_>) {
        if self.log.is_on() {
            self.tell(status, Note::of_change(Some(Box::new(change()))), audited);
        }
    }

    /// Tells of what may have been done all the same.
    fn tell_problem(&self, problem: &Problem, audited: &Audited<'_>) {
        if self.log.is_on() && problem.status >= 500 && problem.code != audit_unavailable().code {
            let Audited { scope, key, object_id, .. } = *audited;
            self.tell(problem.status, Note::of_failed_item(problem.code, scope, key, object_id), audited);
        }
    }

    fn tell(&self, status: u16, note: Note, audited: &Audited<'_>) {
        let credential_id = self.principal.credential_id.clone();
        let request = AccessRecord {
            method: self.head.method().as_str(),
            path: self.head.path().into(),
            status,
            bytes_in: audited.bytes_in,
            bytes_out: 0,
            ended: SystemTime::now(),
            duration: Duration::ZERO,
            request_id: self.request_id.into(),
            traceparent: traceparent(self.head).map(str::to_owned),
            asker: credential_id.map(|id| (id, self.principal.reach.tenant_id().cloned())),
        };
        self.log.push(AuditRecord { request, peer: self.peer, note });
    }
}
