//! Whether the process lives, and whether it can do its work.

use std::pin::pin;

use serde::Serialize;
use utoipa::ToSchema;

use super::super::errors::{Problem, RETRY_AFTER_SECONDS};
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::service::Service;
use super::Response;
use crate::application::ports::{BlobStore, ObjectRepository};
use crate::domain::value_objects::StorageClass;

/// What was found of everything that a request may need.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
pub(in crate::api) struct ReadinessDto {
    /// Whether all of it works.
    #[schema(pattern = "^(ready|not ready)$")]
    status: &'static str,
    checks: ChecksDto,
}

/// Each is `ok` or `failed`.
#[derive(Serialize, ToSchema)]
#[schema(as = Checks)]
pub(in crate::api) struct ChecksDto {
    database: &'static str,
    hot_storage: &'static str,
    cold_storage: &'static str,
    /// Where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log: Option<&'static str>,
}

/// `GET /health`: asks nobody.
pub(super) fn alive<Reader>(head: &RequestHead) -> Result<Response<Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    Ok(Response::json(200, br#"{"status":"ok"}"#.to_vec()))
}

/// `GET /health/ready`: asks the database, and writes to both roots. What does not answer soon has failed.
pub(super) async fn ready<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let limit = &service.ready_limit;
    let database = pin!(service.repository.check());
    let (hot, cold) =
        (pin!(service.store.check(StorageClass::Hot)), pin!(service.store.check(StorageClass::Cold)));
    let (database, hot, cold) =
        futures_util::join!(limit.within(database), limit.within(hot), limit.within(cold));
    let (database, hot, cold) =
        (matches!(database, Some(Ok(()))), matches!(hot, Some(Ok(()))), matches!(cold, Some(Ok(()))));
    let audit = service.audit_log.takes_changes();
    let ready = database && hot && cold && audit;
    let verdict = |works: bool| if works { "ok" } else { "failed" };
    let answer = ReadinessDto {
        status: if ready { "ready" } else { "not ready" },
        checks: ChecksDto {
            database: verdict(database),
            hot_storage: verdict(hot),
            cold_storage: verdict(cold),
            audit_log: service.audit_log.is_on().then(|| verdict(audit)),
        },
    };
    // A struct of texts always has a JSON form.
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    if ready {
        return Ok(Response::json(200, answer));
    }
    let mut response = Response::json(503, answer);
    response.fields.add("Retry-After", RETRY_AFTER_SECONDS);
    Ok(response)
}
