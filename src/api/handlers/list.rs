//! `GET /v1/objects`

use std::fmt::Write as _;

use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::service::Service;
use super::{Response, scope_of};
use crate::application::dto::{ListDto, ObjectDto};
use crate::application::ports::{BlobStore, ListQuery, ObjectRepository};
use crate::application::use_cases::Cursor;
use crate::domain::entities::Principal;
use crate::domain::value_objects::{ObjectStatus, StorageClass};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

const PARAMETERS: [&str; 6] = ["namespace", "tenant_id", "storage_class", "status", "limit", "cursor"];

pub(super) async fn list<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &PARAMETERS)?;
    let mut query = ListQuery {
        scope: scope_of(&parameters, principal)?,
        status: parameters.parsed("status", ObjectStatus::parse)?.unwrap_or(ObjectStatus::Committed),
        storage_class: parameters.parsed("storage_class", StorageClass::parse)?,
        limit: parameters.parsed("limit", parse_limit)?.unwrap_or(LIMIT_DEFAULT),
        before: None,
    };
    if let Some(token) = parameters.get("cursor") {
        query.before = Some(Cursor::decode(token, &query)?.before);
    }
    let page = service.repository.list(query.clone()).await?;
    let next_cursor = page.next.map(|before| Cursor { before }.encode(&query));
    let answer = ListDto {
        objects: page.objects.iter().map(ObjectDto::from).collect(),
        common_prefixes: [],
        next_cursor: next_cursor.as_deref(),
    };
    // A struct of texts and numbers always has a JSON form.
    let mut response = Response::json(200, serde_json::to_vec(&answer).unwrap_or_default());
    if let Some(cursor) = &next_cursor {
        response.fields.add("Link", next_link(&parameters, cursor));
    }
    Ok(response)
}

fn parse_limit(text: &str) -> Result<u32, &'static str> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=LIMIT_MAX).contains(limit));
    limit.ok_or("a limit is 1 to 1000")
}

/// The same query with the next cursor (RFC 8288). All values were parsed, and need no escaping.
fn next_link(parameters: &Parameters<'_>, cursor: &str) -> String {
    let mut link = String::from("</v1/objects?");
    for name in PARAMETERS.into_iter().filter(|name| *name != "cursor") {
        if let Some(value) = parameters.get(name) {
            // Writing into a string cannot fail.
            let _ = write!(link, "{name}={value}&");
        }
    }
    let _ = write!(link, "cursor={cursor}>; rel=\"next\"");
    link
}
