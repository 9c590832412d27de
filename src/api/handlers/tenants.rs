//! `GET` and `PUT /v1/tenants/{tenant_id}`: what a tenant has and may have, for the operator.

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::{Response, parse_object};
use crate::application::dto::TenantDto;
use crate::application::ports::{BlobStore, ObjectRepository};
use crate::domain::entities::{Forbidden, Permission, Principal, Quota, QuotaLimits};
use crate::domain::value_objects::TenantId;

/// The largest body: two numbers with their names.
const BODY_BYTES_MAX: usize = 1024;

/// `GET /v1/tenants/{tenant_id}`. One that nothing is known of has nothing and may have anything.
pub(super) async fn show<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    tenant_id: TenantId,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    check_operator(principal)?;
    Parameters::parse(head.query(), &[])?;
    let quota = service.repository.quota(&tenant_id).await?;
    Ok(answer(&tenant_id, quota))
}

/// `PUT /v1/tenants/{tenant_id}`: these limits instead of those that it had.
pub(super) async fn set<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    tenant_id: TenantId,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    check_operator(principal)?;
    Parameters::parse(head.query(), &[])?;
    let limits = parse_limits(&body.read_whole(BODY_BYTES_MAX).await?)?;
    let quota = service.repository.set_limits(&tenant_id, limits).await?;
    let mut response = answer(&tenant_id, quota);
    response.change = service.audit_log.is_on().then(|| Box::new(Change::Limits(limits)));
    Ok(response)
}

/// Refuses whoever is not the operator with the scope `admin`: a tenant sees and sets no limits, its own neither. Where
/// no credentials are asked for, everybody is the operator.
fn check_operator(principal: &Principal) -> Result<(), Problem> {
    principal.check_permission(Permission::Admin)?;
    match principal.reach.tenant_id() {
        None => Ok(()),
        Some(_) => Err(Forbidden::Scope.into()),
    }
}

/// What a `PUT` carries. A limit that is left out is none.
#[derive(Deserialize, ToSchema)]
#[schema(as = Limits)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct LimitsBody {
    #[serde(default)]
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    bytes_max: Option<u64>,
    #[serde(default)]
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    objects_max: Option<u64>,
}

fn parse_limits(body: &[u8]) -> Result<QuotaLimits, Problem> {
    let invalid = |detail: String| Problem::new(400, "invalid_limits", detail);
    let LimitsBody { bytes_max, objects_max } = parse_object(body).map_err(invalid)?;
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
    use crate::domain::entities::{Permissions, Reach};

    #[test]
    fn only_the_operator_with_the_scope_is_let_in() {
        let principal = |tenant_id: &str, scope: &str| Principal {
            credential_id: None,
            reach: Reach::parse(tenant_id, None::<[&str; 0]>).unwrap(),
            permissions: Permissions::of_words(scope),
        };
        let refused = |principal: &Principal| {
            check_operator(principal).err().map(|problem| (problem.status, problem.code))
        };
        assert_eq!(refused(&principal("*", "admin")), None);
        assert_eq!(refused(&Principal::anybody()), None);
        for (tenant_id, scope) in [("*", "read write delete"), ("acme", "admin"), ("acme", "read")] {
            assert_eq!(
                refused(&principal(tenant_id, scope)),
                Some((403, "forbidden")),
                "{tenant_id} {scope}"
            );
        }
        assert_eq!(refused(&Principal::nobody()), Some((403, "forbidden")));
    }

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
