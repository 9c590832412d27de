//! `POST /v1/batch/put` with a list instead of an archive: each item becomes an object of a content that its tenant has, with
//! no bytes sent.
//!
//! Contents are looked up a thousand at a time, and the objects committed beside each other, so that hundreds share a write
//! of the log and a transaction. No lease is taken: what goes between the look and the commit is missing then.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::stream::{FuturesOrdered, StreamExt as _};

use super::super::super::audit_log::{Change, audit_unavailable};
use super::super::super::batches::{BATCH_NAMES_BYTES_MAX, REFERENCES_IN_FLIGHT_MAX};
use super::super::super::errors::Problem;
use super::super::super::http1::RequestHead;
use super::super::super::request_body::RequestBody;
use super::super::super::service::Service;
use super::super::Response;
use super::items::{Reference, parse_references};
use super::{Audited, ItemAudit, ResultDto, answer, once_there_is_room};
use crate::application::errors::{RepositoryError, UploadError};
use crate::application::ports::{BlobStore, Clock, ObjectName, ObjectRepository};
use crate::application::use_cases::{UploadOrder, Uploaded, refer_to_found};
use crate::domain::entities::{Forbidden, Principal, Reach, Scope, StoredObject};
use crate::domain::value_objects::Key;
use crate::infrastructure::data_plane::buffers::Block;

/// How many contents are looked up with one question.
const LOOKED_UP_AT_ONCE: usize = 1000;
/// How many commits are begun before everything else on the core has its turn.
const BEGUN_AT_A_STRETCH: usize = 16;

/// Whether the body says that it is such a list.
pub(super) fn is_list(head: &RequestHead) -> bool {
    let media_type = head.single("content-type").unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// What is true of every object of a list.
pub(super) struct Together<'r> {
    pub(super) order: UploadOrder,
    /// What keys have before what the items say.
    pub(super) prefix: &'r str,
    pub(super) principal: &'r Principal,
    pub(super) audit: ItemAudit<'r>,
}

/// Answers when every object is durable, or has failed.
pub(super) async fn refer<S, R, C>(
    service: &Service<S, R, C>,
    body: &mut RequestBody<'_>,
    Together { order, prefix, principal, audit }: Together<'_>,
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let reach = principal.reach.of_tenant(&order.scope.tenant_id).ok_or(Forbidden::Scope)?;
    let bytes = body.read_whole(BATCH_NAMES_BYTES_MAX).await?;
    let references = service.batches.read(move || parse_references(&bytes)).await?;
    let mut results =
        Results { scope: &order.scope, is_prefixed: !prefix.is_empty(), audit: &audit, lines: Vec::new() };
    let mut in_flight = FuturesOrdered::new();
    let mut index = 0;
    for window in references.chunks(LOOKED_UP_AT_ONCE) {
        let contents =
            window.iter().map(|reference| ObjectName::Content(reference.content_hash, reach.clone()));
        let contents: Vec<_> = contents.collect();
        let found = beside(&mut in_flight, &mut results, service.repository.find_each(&contents)).await;
        for (place, reference) in window.iter().enumerate() {
            let found = match &found {
                Ok(found) => Ok(found[place].clone()),
                Err(error) => Err(*error),
            };
            while in_flight.len() >= REFERENCES_IN_FLIGHT_MAX
                && let Some(item) = in_flight.next().await
            {
                results.note(item);
            }
            let told = Told { index, reference, found };
            in_flight.push_back(refer_one(service, (&order, prefix), (&reach, &audit), told));
            index += 1;
            if index.is_multiple_of(BEGUN_AT_A_STRETCH) {
                // What has been asked for is done, also where nobody waits for the answer any more.
                let _ = beside(&mut in_flight, &mut results, body.take_turns()).await;
            }
        }
    }
    while let Some(item) = in_flight.next().await {
        results.note(item);
    }
    Ok(answer(results.lines))
}

/// An item, and what the look found of it.
struct Told<'r> {
    index: usize,
    reference: &'r Reference,
    found: Result<Option<Arc<StoredObject>>, RepositoryError>,
}

/// What became of an item.
struct Item<'r> {
    index: usize,
    name: &'r str,
    key: Option<Key>,
    result: Result<Uploaded, Problem>,
}

async fn refer_one<'r, S, R, C>(
    service: &Service<S, R, C>,
    (order, prefix): (&UploadOrder, &str),
    (reach, audit): (&Reach, &ItemAudit<'_>),
    Told { index, reference, found }: Told<'r>,
) -> Item<'r>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let name = reference.name.as_str();
    let key = match Key::parse(&format!("{prefix}{name}")) {
        Ok(key) => key,
        Err(error) => {
            let problem = Problem::new(400, "invalid_key", error.to_string());
            return Item { index, name, key: None, result: Err(problem) };
        }
    };
    let content_type = reference.content_type.clone().unwrap_or_else(|| order.content_type.clone());
    let order = UploadOrder { key: Some(key.clone()), content_type, length_bytes: None, ..order.clone() };
    let result = match found {
        _ if !audit.takes_changes() => Err(audit_unavailable()),
        Ok(Some(found)) => commit(service, order, &found, reach).await.map_err(Problem::from),
        Ok(None) => Err(UploadError::ContentMissing.into()),
        Err(error) => Err(error.into()),
    };
    Item { index, name, key: Some(key), result }
}

async fn commit<S, R, C>(
    service: &Service<S, R, C>,
    order: UploadOrder,
    found: &StoredObject,
    reach: &Reach,
) -> Result<Uploaded, UploadError>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let ports = (&service.store, &service.repository, &service.clock);
    once_there_is_room(async || refer_to_found(ports, order.clone(), found, reach).await).await
}

/// Waits for `future`, while what is in flight goes on.
async fn beside<'r, F: Future>(
    in_flight: &mut FuturesOrdered<impl Future<Output = Item<'r>>>,
    results: &mut Results<'_>,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        while let Poll::Ready(Some(item)) = in_flight.poll_next_unpin(context) {
            results.note(item);
        }
        future.as_mut().poll(context)
    })
    .await
}

/// The results so far, in the order of the items.
struct Results<'r> {
    scope: &'r Scope,
    is_prefixed: bool,
    audit: &'r ItemAudit<'r>,
    lines: Vec<u8>,
}

impl Results<'_> {
    /// Writes down what became of an item.
    fn note(&mut self, Item { index, name, key, result }: Item<'_>) {
        let name = Some(&name[..name.floor_char_boundary(Key::BYTES_MAX)]);
        let audited = Audited { scope: Some(self.scope), key: key.as_ref(), object_id: None, bytes_in: 0 };
        match result {
            Ok(uploaded) => {
                let status = if uploaded.replaced { 200 } else { 201 };
                ResultDto {
                    index,
                    name,
                    key: key.as_ref().map(Key::as_str).filter(|_| self.is_prefixed),
                    status,
                    id: Some(uploaded.object.id),
                    content_hash: Some(uploaded.content_hash),
                    size_bytes: uploaded.object.size_bytes,
                    ..ResultDto::default()
                }
                .append_to(&mut self.lines);
                self.audit.tell_change(status, || Change::Stored(uploaded), &audited);
            }
            Err(problem) => {
                ResultDto { name, ..ResultDto::of_problem(index, &problem) }.append_to(&mut self.lines);
                self.audit.tell_problem(&problem, &audited);
            }
        }
    }
}
