//! `GET /v1/keys/{namespace}/{tenant_id}/{key…}?versions`: all committed versions of a key, newest first.

use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::service::Service;
use super::super::signed_url::Escaped;
use super::Response;
use super::list::{Listing, limit};
use crate::application::key_listing::VersionQuery;
use crate::application::ports::{BlobStore, ObjectRepository};
use crate::application::use_cases::VersionCursor;
use crate::domain::entities::KeyPath;

const VERSIONS: &str = "versions";
const PARAMETERS: [&str; 3] = [VERSIONS, "limit", "cursor"];

/// Whether a request for a key is one for its versions.
pub(super) fn is_asked_for(head: &RequestHead) -> bool {
    let name = |pair: &str| pair.split('=').next() == Some(VERSIONS);
    head.query().is_some_and(|query| query.split('&').any(name))
}

/// Whoever may read a key may read its versions: each of them by its id as well.
pub(super) async fn list<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    key_path: KeyPath,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &PARAMETERS)?;
    let nothing = |value: &str| if value.is_empty() { Ok(()) } else { Err("it has no value") };
    parameters.parsed(VERSIONS, nothing)?;
    let mut query = VersionQuery { key_path, limit: limit(&parameters)?, before: None };
    if let Some(token) = parameters.get("cursor") {
        query.before = Some(VersionCursor::decode(token, &query)?.before);
    }
    let page = service.repository.list_versions(query.clone()).await?;
    // What was there on the page before may have gone meanwhile; a key that has nothing from the first on is none.
    if page.objects.is_empty() && query.before.is_none() {
        return Err(Problem::not_found());
    }
    let next_cursor = page.next.map(|before| VersionCursor { before }.encode(&query));
    let KeyPath { scope, key } = &query.key_path;
    let path = format!("/v1/keys/{}/{}/{}", scope.namespace, scope.tenant_id, Escaped(key.as_str()));
    let listing = Listing { path: &path, parameters: &parameters, names: &PARAMETERS };
    Ok(listing.page(&page.objects, &[], next_cursor))
}
