//! `POST /v1/batch/get`: many objects as one tar archive.

use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::super::super::archive_transfer::{Archive, Part};
use super::super::super::batches::{BATCH_NAMES_BYTES_MAX, ITEMS_BETWEEN_TURNS, ITEMS_IN_FLIGHT_MAX};
use super::super::super::errors::Problem;
use super::super::super::http1::{Fields, RequestHead};
use super::super::super::query::Parameters;
use super::super::super::request_body::RequestBody;
use super::super::super::service::Service;
use super::super::{Body, Response};
use super::items::{Wanted, parse_wanted};
use super::{ResultDto, refuse_fields_about_one, scope_if_named};
use crate::application::errors::StoreError;
use crate::application::ports::{BlobStore, Clock, ObjectRepository};
use crate::domain::entities::{Principal, StoredObject};
use crate::domain::value_objects::ByteRange;

/// While this core looks through what was found, the database looks for the next ones.
const LOOKUPS_AT_ONCE: usize = 2;

/// Answers when all items have been looked up: so the head says how long the archive is, and whoever gets less knows it.
pub(in super::super) async fn get<S: BlobStore, R: ObjectRepository, C: Clock>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &["namespace", "tenant_id"])?;
    let scope = scope_if_named(&parameters, principal)?;
    refuse_fields_about_one(head)?;
    let place = service.batches.begin(principal.reach.tenant_id())?;
    let (bytes, reach) = (body.read_whole(BATCH_NAMES_BYTES_MAX).await?, principal.reach.clone());
    let wanted = service.batches.read(move || parse_wanted(&bytes, scope.as_ref(), &reach)).await?;
    let (mut parts, mut results, mut index) = (Vec::new(), Vec::new(), 0);
    let lookups = wanted.chunks(ITEMS_IN_FLIGHT_MAX).map(|window| async move {
        let names: Vec<_> = window.iter().map(|wanted| wanted.object.clone()).collect();
        (window, service.repository.find_each(&names).await)
    });
    let mut lookups = pin!(stream::iter(lookups).buffered(LOOKUPS_AT_ONCE));
    while let Some((window, found)) = lookups.next().await {
        for (wanted, found) in window.iter().zip(found?) {
            if let Some(object) = &found {
                service.repository.note_read(&object.object);
            }
            parts.extend(judge(index, wanted, found, &mut results));
            index += 1;
            if index % ITEMS_BETWEEN_TURNS == 0 {
                body.take_turns().await?;
            }
        }
    }
    let archive = Archive::new(parts, results, service.clock.now(), place);
    let mut fields = Fields::default();
    fields.add_lines(
        "Content-Type: application/x-tar\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
    );
    Ok(Response { status: 200, object: None, fields, body: Body::Archive(Box::new(archive)), change: None })
}

/// What is sent of an item, if anything, and its result.
fn judge(
    index: usize,
    wanted: &Wanted,
    found: Option<Arc<StoredObject>>,
    results: &mut Vec<u8>,
) -> Option<Part> {
    let name = Some(wanted.name.as_str());
    let fail = |problem: Problem, size_bytes, results: &mut Vec<u8>| {
        ResultDto { name, size_bytes, ..ResultDto::of_problem(index, &problem) }.append_to(results);
        None
    };
    let Some(object) = found else { return fail(Problem::not_found(), None, results) };
    if object.damaged {
        return fail(StoreError::Damaged.into(), None, results);
    }
    let whole = ByteRange { offset: 0, length: object.size_bytes };
    let Some(range) = wanted.range.map_or(Some(whole), |range| range.resolve(object.size_bytes)) else {
        let problem = Problem::new(416, "range_not_satisfiable", "the object has no byte in this range");
        return fail(problem, Some(object.size_bytes), results);
    };
    let content_range =
        wanted.range.map(|_| format!("bytes {}-{}/{}", range.offset, range.last(), object.size_bytes));
    let status = if content_range.is_some() { 206 } else { 200 };
    let (id, content_hash) = (Some(object.object.id), Some(object.content_hash));
    let size_bytes = Some(object.size_bytes);
    ResultDto { index, name, status, id, content_hash, size_bytes, content_range, ..ResultDto::default() }
        .append_to(results);
    Some(Part::new(wanted.name.clone(), &object, range))
}
