//! `POST /v1/batch/delete`: many objects or keys are forgotten.

use std::pin::pin;

use futures_util::stream::{self, StreamExt as _};

use super::super::super::audit_log::{Change, audit_unavailable};
use super::super::super::batches::{BATCH_NAMES_BYTES_MAX, ITEMS_BETWEEN_TURNS, ITEMS_IN_FLIGHT_MAX};
use super::super::super::errors::Problem;
use super::super::super::http1::RequestHead;
use super::super::super::query::Parameters;
use super::super::super::request_body::RequestBody;
use super::super::super::service::Service;
use super::super::Response;
use super::items::parse_unwanted;
use super::{Audited, ItemAudit, ResultDto, answer, refuse_fields_about_one, scope_if_named};
use crate::application::errors::RepositoryError;
use crate::application::ports::{BlobStore, DeleteOutcome, ObjectName, ObjectRepository};
use crate::application::use_cases::delete_object;
use crate::domain::entities::Principal;
use crate::domain::value_objects::Precondition;

/// Answers when every item is done: many of them share a write of the log and a transaction.
pub(in super::super) async fn delete<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    (principal, request_id): (&Principal, &str),
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &["namespace", "tenant_id"])?;
    let scope = scope_if_named(&parameters, principal)?;
    refuse_fields_about_one(head)?;
    let _place = service.batches.begin(principal.reach.tenant_id())?;
    let (bytes, reach) = (body.read_whole(BATCH_NAMES_BYTES_MAX).await?, principal.reach.clone());
    let names = service.batches.read(move || parse_unwanted(&bytes, scope.as_ref(), &reach)).await?;
    let audit = ItemAudit::new(&service.audit_log, head, body, (principal, request_id));
    let deletes = stream::unfold((names.iter().enumerate(), body), async |(mut rest, body)| {
        let (index, name) = rest.next()?;
        if index % ITEMS_BETWEEN_TURNS == ITEMS_BETWEEN_TURNS - 1 {
            // What has been begun is done, whether or not anybody waits for the answer.
            let _ = body.take_turns().await;
        }
        Some((delete_one(&service.repository, name, &audit), (rest, body)))
    });
    let mut deleted = pin!(deletes.buffered(ITEMS_IN_FLIGHT_MAX).enumerate());
    let mut lines = Vec::new();
    while let Some((index, outcome)) = deleted.next().await {
        match outcome {
            Ok(versions) => {
                let versions = matches!(names[index], ObjectName::Key(_)).then_some(versions);
                ResultDto { index, status: 204, versions, ..ResultDto::default() }.append_to(&mut lines);
            }
            Err(problem) => ResultDto::of_problem(index, &problem).append_to(&mut lines),
        }
    }
    Ok(answer(lines))
}

/// How many objects are gone.
async fn delete_one(
    repository: &impl ObjectRepository,
    name: &ObjectName,
    audit: &ItemAudit<'_>,
) -> Result<usize, Problem> {
    if !audit.takes_changes() {
        return Err(audit_unavailable());
    }
    let audited = match name {
        ObjectName::Id(id) | ObjectName::IdWithin(id, _) => {
            Audited { scope: None, key: None, object_id: Some(*id), bytes_in: 0 }
        }
        // Nothing is deleted by its content.
        ObjectName::Content(..) => return Err(Problem::not_found()),
        ObjectName::Key(path) => {
            Audited { scope: Some(&path.scope), key: Some(&path.key), object_id: None, bytes_in: 0 }
        }
    };
    let deleted = match delete_object(repository, name, Precondition::default()).await {
        Err(RepositoryError::Overloaded) => delete_object(repository, name, Precondition::default()).await,
        outcome => outcome,
    };
    let problem = match deleted {
        Ok(DeleteOutcome::Deleted { ids, key_path }) => {
            let count = ids.len();
            audit.tell_change(204, || Change::Deleted { ids, key_path }, &audited);
            return Ok(count);
        }
        Ok(DeleteOutcome::NotFound) => Problem::not_found(),
        Ok(DeleteOutcome::PreconditionFailed) => Problem::precondition_failed(),
        Err(error) => error.into(),
    };
    audit.tell_problem(&problem, &audited);
    Err(problem)
}
