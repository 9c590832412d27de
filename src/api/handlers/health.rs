//! Whether the process lives, and whether it can do its work.

use std::pin::pin;

use serde_json::json;

use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::service::Service;
use super::Response;
use crate::application::ports::{BlobStore, ObjectRepository};
use crate::domain::value_objects::StorageClass;

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
    let mut answer = json!({
        "status": if ready { "ready" } else { "not ready" },
        "checks": {
            "database": verdict(database),
            "hot_storage": verdict(hot),
            "cold_storage": verdict(cold),
        },
    });
    if service.audit_log.is_on() {
        answer["checks"]["audit_log"] = verdict(audit).into();
    }
    Ok(Response::json(if ready { 200 } else { 503 }, answer.to_string().into_bytes()))
}
