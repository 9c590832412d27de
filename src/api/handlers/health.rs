//! Whether the process lives, and whether it can do its work.

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

/// `GET /health/ready`: asks the database, and writes to both roots.
pub(super) async fn ready<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let (database, hot, cold) = futures_util::join!(
        service.repository.check(),
        service.store.check(StorageClass::Hot),
        service.store.check(StorageClass::Cold),
    );
    let ready = database.is_ok() && hot.is_ok() && cold.is_ok();
    let verdict = |works: bool| if works { "ok" } else { "failed" };
    let answer = json!({
        "status": if ready { "ready" } else { "not ready" },
        "checks": {
            "database": verdict(database.is_ok()),
            "hot_storage": verdict(hot.is_ok()),
            "cold_storage": verdict(cold.is_ok()),
        },
    });
    Ok(Response::json(if ready { 200 } else { 503 }, answer.to_string().into_bytes()))
}
