//! `GET` and `PUT /v1/namespaces/{namespace}/lifecycle`: what becomes of a namespace's objects with time, for the operator.

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::{Response, parse_object};
use crate::application::dto::LifecycleDto;
use crate::application::lifecycle::LifecycleRepository;
use crate::application::ports::{BlobStore, Clock};
use crate::domain::entities::{Forbidden, LifecycleRule, Permission, Principal};
use crate::domain::value_objects::Namespace;

/// The largest body: three numbers with their names.
const BODY_BYTES_MAX: usize = 1024;

/// `GET /v1/namespaces/{namespace}/lifecycle`. One that nothing is set for has no rule.
pub(super) async fn show<S: BlobStore, R: LifecycleRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    namespace: Namespace,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    check_operator(principal, &namespace)?;
    Parameters::parse(head.query(), &[])?;
    let rule = service.repository.lifecycle_rule(&namespace).await?;
    Ok(answer(&namespace, rule))
}

/// `PUT /v1/namespaces/{namespace}/lifecycle`: this rule instead of the one that it had.
pub(super) async fn set<S: BlobStore, R: LifecycleRepository, C: Clock>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    namespace: Namespace,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    check_operator(principal, &namespace)?;
    Parameters::parse(head.query(), &[])?;
    let rule = parse_rule(&body.read_whole(BODY_BYTES_MAX).await?)?;
    service.repository.set_lifecycle_rule(&namespace, rule, service.clock.now()).await?;
    let mut response = answer(&namespace, rule);
    response.change = service.audit_log.is_on().then(|| Box::new(Change::Lifecycle(rule)));
    Ok(response)
}

/// Refuses whoever is not the operator with the scope `admin` in this namespace: a rule reaches the objects of every tenant.
fn check_operator(principal: &Principal, namespace: &Namespace) -> Result<(), Problem> {
    principal.check_permission(Permission::Admin)?;
    let reaches = principal.reach.namespaces().is_none_or(|own| own.contains(namespace));
    match principal.reach.tenant_id() {
        None if reaches => Ok(()),
        _ => Err(Forbidden::Scope.into()),
    }
}

/// What a `PUT` carries. A number that is left out is none.
#[derive(Deserialize, ToSchema)]
#[schema(as = LifecycleRule)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RuleBody {
    /// After how many days without a read a hot object becomes a cold one.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 36_500)]
    cold_after_days: Option<u32>,
    /// After how many days an object is deleted.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 36_500)]
    delete_after_days: Option<u32>,
    /// How many versions of a key stay.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    keep_versions: Option<u32>,
}

fn parse_rule(body: &[u8]) -> Result<LifecycleRule, Problem> {
    let invalid = |detail: String| Problem::new(400, "invalid_rule", detail);
    let RuleBody { cold_after_days, delete_after_days, keep_versions } =
        parse_object(body).map_err(invalid)?;
    let rule = LifecycleRule { cold_after_days, delete_after_days, keep_versions };
    if !rule.is_within_limits() {
        let (days, versions) = (LifecycleRule::DAYS_MAX, LifecycleRule::VERSIONS_MAX);
        return Err(invalid(format!("days are 1 to {days}, and versions 1 to {versions}")));
    }
    Ok(rule)
}

fn answer<Reader>(namespace: &Namespace, rule: LifecycleRule) -> Response<Reader> {
    // A struct of texts and numbers always has a JSON form.
    Response::json(200, serde_json::to_vec(&LifecycleDto::new(namespace, rule)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entities::{Permissions, Reach};

    #[test]
    fn only_the_operator_who_reaches_the_namespace_is_let_in() {
        let namespace = Namespace::parse("models").unwrap();
        let principal =
            |tenant_id: &str, namespaces: Option<&'static [&'static str]>, scope: &str| Principal {
                credential_id: None,
                reach: Reach::parse(tenant_id, namespaces.map(|names| names.iter().copied())).unwrap(),
                permissions: Permissions::of_words(scope),
            };
        let is_let_in = |principal: &Principal| check_operator(principal, &namespace).is_ok();
        assert!(is_let_in(&principal("*", None, "admin")));
        assert!(is_let_in(&principal("*", Some(&["data", "models"]), "admin")));
        assert!(is_let_in(&Principal::anybody()));
        for (tenant_id, namespaces, scope) in [
            ("*", None, "read write delete"),
            ("*", Some(&["data"][..]), "admin"),
            ("*", Some(&[]), "admin"),
            ("acme", None, "admin"),
            ("acme", Some(&["models"]), "admin"),
        ] {
            assert!(
                !is_let_in(&principal(tenant_id, namespaces, scope)),
                "{tenant_id} {namespaces:?} {scope}"
            );
        }
    }

    #[test]
    fn a_rule_is_numbers_within_their_limits_and_nothing_else() {
        let parsed = |body: &str| parse_rule(body.as_bytes()).ok();
        let rule = |delete_after_days, keep_versions| {
            Some(LifecycleRule { cold_after_days: None, delete_after_days, keep_versions })
        };
        assert_eq!(parsed("{}"), rule(None, None));
        assert_eq!(
            parsed(r#"{"delete_after_days":36500,"keep_versions":10000}"#),
            rule(Some(36_500), Some(10_000))
        );
        assert_eq!(parsed(r#"{"delete_after_days":null,"keep_versions":1}"#), rule(None, Some(1)));
        for body in [
            "",
            "null",
            "[1]",
            r#"{"delete_after_days":0}"#,
            r#"{"delete_after_days":36501}"#,
            r#"{"keep_versions":10001}"#,
            r#"{"keep_versions":-1}"#,
            r#"{"keep_versions":1.5}"#,
            r#"{"keep_versions":"1"}"#,
            r#"{"keep_versions":1,"keep_versions":2}"#,
            r#"{"versions":1}"#,
            r#"{"cold_after_days":0}"#,
            r#"{"keep_versions":1} x"#,
        ] {
            assert!(parsed(body).is_none(), "{body}");
        }
    }
}
