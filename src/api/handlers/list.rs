//! `GET /v1/objects`: newest first, or by key.

use std::fmt::Write as _;

use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::service::Service;
use super::super::signed_url::Escaped;
use super::json::page_json;
use super::{Response, scope_of};
use crate::application::key_listing::KeyQuery;
use crate::application::ports::{BlobStore, ListQuery, ObjectRepository};
use crate::application::use_cases::{Cursor, KeyCursor};
use crate::domain::entities::{Object, Principal};
use crate::domain::value_objects::{Delimiter, KeyPrefix, ObjectStatus, StorageClass};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

const PARAMETERS: [&str; 8] =
    ["namespace", "tenant_id", "prefix", "delimiter", "storage_class", "status", "limit", "cursor"];

pub(super) async fn list<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &PARAMETERS)?;
    if parameters.get("prefix").or(parameters.get("delimiter")).is_some() {
        // Its state would be part of every connection.
        return Box::pin(list_keys(service, &parameters, principal)).await;
    }
    let mut query = ListQuery {
        scope: scope_of(&parameters, principal)?,
        status: parameters.parsed("status", ObjectStatus::parse)?.unwrap_or(ObjectStatus::Committed),
        storage_class: parameters.parsed("storage_class", StorageClass::parse)?,
        limit: limit(&parameters)?,
        before: None,
    };
    if let Some(token) = parameters.get("cursor") {
        query.before = Some(Cursor::decode(token, &query)?.before);
    }
    let page = service.repository.list(query.clone()).await?;
    let next_cursor = page.next.map(|before| Cursor { before }.encode(&query));
    Ok(listing(&parameters).page(&page.objects, &[], next_cursor))
}

/// By key. Only what is committed has a place among the keys.
async fn list_keys<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    parameters: &Parameters<'_>,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let mut query = KeyQuery {
        scope: scope_of(parameters, principal)?,
        prefix: parameters.parsed("prefix", KeyPrefix::parse)?.unwrap_or_default(),
        delimiter: parameters.parsed("delimiter", Delimiter::parse)?,
        storage_class: parameters.parsed("storage_class", StorageClass::parse)?,
        limit: limit(parameters)?,
        after: None,
    };
    let status = parameters.parsed("status", ObjectStatus::parse)?;
    if status.is_some_and(|status| status != ObjectStatus::Committed) {
        let reason = "a listing by prefix or delimiter is one of what is COMMITTED";
        return Err(Problem::parameter("invalid_parameter", "status", reason));
    }
    if let Some(token) = parameters.get("cursor") {
        query.after = Some(KeyCursor::decode(token, &query)?.after);
    }
    let page = service.repository.list_keys(query.clone()).await?;
    let next_cursor = page.next.map(|after| KeyCursor { after }.encode(&query));
    Ok(listing(parameters).page(&page.objects, &page.common_prefixes, next_cursor))
}

fn listing<'p>(parameters: &'p Parameters<'p>) -> Listing<'p> {
    Listing { path: "/v1/objects", parameters, names: &PARAMETERS }
}

/// How many are asked for.
///
/// # Errors
/// `400`.
pub(super) fn limit(parameters: &Parameters<'_>) -> Result<u32, Problem> {
    Ok(parameters.parsed("limit", parse_limit)?.unwrap_or(LIMIT_DEFAULT))
}

fn parse_limit(text: &str) -> Result<u32, &'static str> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=LIMIT_MAX).contains(limit));
    limit.ok_or("a limit is 1 to 1000")
}

/// What was asked for a page of.
pub(super) struct Listing<'p> {
    pub(super) path: &'p str,
    pub(super) parameters: &'p Parameters<'p>,
    /// Of the parameters that it can have.
    pub(super) names: &'p [&'static str],
}

impl Listing<'_> {
    /// A page, and where the next one is.
    pub(super) fn page<Reader>(
        &self,
        objects: &[Object],
        common_prefixes: &[String],
        next_cursor: Option<String>,
    ) -> Response<Reader> {
        let json = page_json(objects, common_prefixes, next_cursor.as_deref());
        let mut response = Response::json(200, json);
        if let Some(cursor) = &next_cursor {
            response.fields.add("Link", self.next_link(cursor));
        }
        response
    }

    /// The same query with the next cursor (RFC 8288).
    fn next_link(&self, cursor: &str) -> String {
        let mut link = format!("<{}?", self.path);
        for name in self.names.iter().filter(|name| **name != "cursor") {
            if let Some(value) = self.parameters.get(name) {
                // Writing into a string cannot fail.
                let _ = write!(link, "{name}={}&", Escaped(value));
            }
        }
        let _ = write!(link, "cursor={cursor}>; rel=\"next\"");
        link
    }
}
