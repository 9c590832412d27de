//! `GET` and `PUT /v1/tenants/{tenant_id}`: what a tenant has and may have, for the operator.

use serde::Deserialize;

use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::Response;
use crate::application::dto::TenantDto;
use crate::application::ports::{BlobStore, ObjectRepository};
use crate::domain::entities::{Quota, QuotaLimits};
use crate::domain::value_objects::TenantId;

/// The largest body: two numbers with their names.
const BODY_BYTES_MAX: usize = 1024;

/// `GET /v1/tenants/{tenant_id}`. One that nothing is known of has nothing and may have anything.
pub(super) async fn show<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    tenant_id: TenantId,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    check_operator(head)?;
    let quota = service.repository.quota(&tenant_id).await?;
    Ok(answer(&tenant_id, quota))
}

/// `PUT /v1/tenants/{tenant_id}`: these limits instead of those that it had.
pub(super) async fn set<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    tenant_id: TenantId,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    check_operator(head)?;
    let limits = parse_limits(&body.read_whole(BODY_BYTES_MAX).await?)?;
    let quota = service.repository.set_limits(&tenant_id, limits).await?;
    Ok(answer(&tenant_id, quota))
}

/// Refuses whoever is not the operator with the scope `admin`. There are no credentials yet: whoever reaches the port may
/// do everything.
fn check_operator(_head: &RequestHead) -> Result<(), Problem> {
    Ok(())
}

/// What a `PUT` carries. A limit that is left out is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    #[serde(default)]
    bytes_max: Option<u64>,
    #[serde(default)]
    objects_max: Option<u64>,
}

fn parse_limits(body: &[u8]) -> Result<QuotaLimits, Problem> {
    let invalid = |detail: String| Problem::new(400, "invalid_limits", detail);
    // A list of values would be read as if they stood under their names.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("it is not a JSON object".to_owned()));
    }
    let LimitsBody { bytes_max, objects_max } =
        serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    if [bytes_max, objects_max].into_iter().flatten().any(|limit| limit > QuotaLimits::LIMIT_MAX) {
        return Err(invalid(format!("a limit is at most {}", QuotaLimits::LIMIT_MAX)));
    }
    Ok(QuotaLimits { bytes_max, objects_max })
}

fn answer<Reader>(tenant_id: &TenantId, quota: Quota) -> Response<Reader> {
    // A struct of texts and numbers always has a JSON form.
    Response::json(200, serde_json::to_vec(&TenantDto::new(tenant_id, quota)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_none_and_nothing_else() {
        let limits = |bytes_max, objects_max| Some(QuotaLimits { bytes_max, objects_max });
        let parsed = |body: &str| parse_limits(body.as_bytes()).ok();
        assert_eq!(parsed(r#"{"bytes_max":10,"objects_max":null}"#), limits(Some(10), None));
        assert_eq!(parsed(r#"{"objects_max":0}"#), limits(None, Some(0)));
        assert_eq!(parsed("{}"), limits(None, None));
        assert_eq!(parsed(r#"{"bytes_max":9223372036854775807}"#), limits(Some(i64::MAX as u64), None));
        for body in [
            "",
            "null",
            "[]",
            "{",
            r#"{"bytes_max":9223372036854775808}"#,
            r#"{"bytes_max":-1}"#,
            r#"{"bytes_max":1.5}"#,
            r#"{"bytes_max":"10"}"#,
            r#"{"bytes_max":1,"bytes_max":2}"#,
            r#"{"bytes":1}"#,
            r#"{"bytes_max":1} x"#,
        ] {
            assert!(parsed(body).is_none(), "{body}");
        }
    }
}
