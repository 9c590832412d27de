//! `POST /v1/sign`: a URL that lets others do one thing that whoever asks may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::audit_log::{Change, SignedUrl};
use super::super::authentication::{
    Access, Shown, invalid_token, needed_permission, shown, unauthenticated, unauthorized,
};
use super::super::errors::Problem;
use super::super::http1::{Method, RequestHead, check_file_name};
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::router::{Route, find};
use super::super::service::Service;
use super::super::signed_url::{Target, Terms, parse_digest, parse_method};
use super::{DOWNLOAD, Response, parse_object, scope_of};
use crate::application::ports::{ApiKeyRepository, BlobStore, Clock, ObjectName, ObjectRepository};
use crate::domain::entities::{Principal, Scope};
use crate::domain::value_objects::{ContentHash, Key, StorageClass, Timestamp};

/// The longest that a URL is good for: seven days.
pub(crate) const SIGNED_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
/// The largest body: a path with the longest key, each byte of it escaped, and a little more.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// What a body asks for, as it is written.
#[derive(Deserialize, ToSchema)]
#[schema(as = SignRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct SignBody {
    #[schema(pattern = "^(GET|HEAD|POST|PUT|DELETE)$")]
    method: String,
    /// Path and query as of the request that is to be let in.
    path: String,
    #[schema(minimum = 1, maximum = 604_800)]
    expires_in_seconds: u64,
    #[serde(default)]
    size_bytes: Option<u64>,
    #[serde(default)]
    #[schema(pattern = "^sha256:[0-9a-f]{64}$")]
    digest: Option<String>,
}

/// What is given for it.
#[derive(Serialize, ToSchema)]
#[schema(as = SignedUrl)]
pub(in crate::api) struct SignedDto {
    url: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// What a body asks for.
#[derive(Debug)]
struct SignOrder {
    method: Method,
    path: String,
    expires_in_seconds: u64,
    size_bytes: Option<u64>,
    digest: Option<ContentHash>,
}

/// `POST /v1/sign`. Whoever asks is looked at anew, and can sign what they could do themselves at this moment.
pub(super) async fn sign<S: BlobStore, R: ObjectRepository + ApiKeyRepository, C: Clock>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let Access::Credentials { signatures: Some(signatures), .. } = &service.access else {
        let detail = "this server has no secret to sign URLs with (URL_SIGNING_KEY)";
        return Err(Problem::new(501, "no_signing_key", detail));
    };
    // No URL of this path is ever signed, so that none signs another.
    let Shown::Credential(credential) = shown(head)? else { return Err(unauthorized()) };
    let order = parse_order(&body.read_whole(BODY_BYTES_MAX).await?)?;
    let present = signatures.present(credential, &service.repository, &service.clock).await;
    let signer = present.map_err(unauthenticated)?;
    let target = parse_target(&order, &signer.principal)?;
    if (order.size_bytes.is_some() || order.digest.is_some()) && !target.is_upload(order.method) {
        let reason = "only an upload has a size and a digest";
        let name = if order.size_bytes.is_some() { "size_bytes" } else { "digest" };
        return Err(invalid(name, reason));
    }
    if let Some(needed) = needed_permission(&target.route(), order.method) {
        signer.principal.check_permission(needed)?;
    }
    let scope = find_scope(service, &target, &signer.principal).await?;
    let now = service.clock.now();
    let until = later(now, order.expires_in_seconds);
    let until = signer.expires_at.map_or(until, |expires_at| until.min(expires_at));
    if until <= now {
        // A token whose clock is a little behind is good for a request, and ends too soon for a URL.
        return Err(invalid_token());
    }
    let terms = Terms {
        method: order.method,
        scope,
        signer: signer.signer.clone(),
        until,
        size_bytes: order.size_bytes,
        digest: order.digest,
    };
    let url = terms.sign(&target, |message| signatures.sign(&signer, message));
    let answer = SignedDto { url, expires_at: until.to_string() };
    // A struct of texts always has a JSON form.
    let mut response = Response::json(200, serde_json::to_vec(&answer).unwrap_or_default());
    response.change = service.audit_log.is_on().then(|| {
        let (key, object_id) = match target {
            Target::Object(id, _) | Target::ObjectInfo(id) => (None, Some(id)),
            Target::Key(path, _) => (Some(path.key), None),
            Target::NewObject { key, .. } => (key, None),
        };
        let (method, scope) = (terms.method.as_str(), terms.scope);
        Box::new(Change::Signed(SignedUrl { method, scope, key, object_id, until }))
    });
    Ok(response)
}

fn parse_order(body: &[u8]) -> Result<SignOrder, Problem> {
    let unreadable = |detail: String| Problem::new(400, "invalid_sign_request", detail);
    let SignBody { method, path, expires_in_seconds, size_bytes, digest } =
        parse_object(body).map_err(unreadable)?;
    let method = parse_method(&method);
    let method = method.ok_or_else(|| invalid("method", "it is GET, HEAD, POST, PUT or DELETE"))?;
    if !(1..=SIGNED_SECONDS_MAX).contains(&expires_in_seconds) {
        return Err(invalid("expires_in_seconds", "it is 1 to 604800, which is seven days"));
    }
    let digest = digest.map(|text| {
        parse_digest(&text).ok_or_else(|| invalid("digest", "it is sha256: and 64 hexadecimal digits"))
    });
    Ok(SignOrder { method, path, expires_in_seconds, size_bytes, digest: digest.transpose()? })
}

/// What a path means, by the rules for that of a request.
fn parse_target(order: &SignOrder, principal: &Principal) -> Result<Target, Problem> {
    if !order.path.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#') {
        return Err(invalid("path", "it is escaped as in a request"));
    }
    let (path, query) = match order.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (order.path.as_str(), None),
    };
    let route = find(path).map_err(|problem| invalid("path", &problem.detail))?;
    if !route.methods().contains(&order.method) {
        return Err(invalid("method", "the path does not have it"));
    }
    let target = match route {
        Route::Objects if order.method == Method::Post => return parse_new_object(query, principal),
        Route::Object(id) => return Ok(Target::Object(id, parse_file_name(query, order.method)?)),
        Route::ObjectInfo(id) => Target::ObjectInfo(id),
        Route::Key(path) => return Ok(Target::Key(path, parse_file_name(query, order.method)?)),
        Route::Objects
        | Route::Root
        | Route::Health
        | Route::Ready
        | Route::OpenApi
        | Route::Metrics
        | Route::Blob(_)
        | Route::MissingBlobs
        | Route::Tenant(_)
        // An upload in pieces is many requests, and no URL is signed for more than one.
        | Route::Uploads
        | Route::Upload(_)
        | Route::Lifecycle(_)
        | Route::Sign
        | Route::BatchGet
        | Route::BatchPut
        | Route::BatchDelete => {
            return Err(invalid("path", "it is not that of one object or key"));
        }
    };
    Parameters::parse(query, &[])?;
    Ok(target)
}

/// As which file what is read is to be kept.
fn parse_file_name(query: Option<&str>, method: Method) -> Result<Option<String>, Problem> {
    let known: &[_] = if matches!(method, Method::Get | Method::Head) { &[DOWNLOAD] } else { &[] };
    let parameters = Parameters::parse(query, known)?;
    parameters.parsed(DOWNLOAD, |name| check_file_name(name).map(|()| name.to_owned()))
}

fn parse_new_object(query: Option<&str>, principal: &Principal) -> Result<Target, Problem> {
    // What an upload takes besides is refused until it is written into the URL, and not left out of it.
    let parameters = Parameters::parse(query, &["namespace", "tenant_id", "key", "storage_class"])?;
    Ok(Target::NewObject {
        scope: scope_of(&parameters, principal)?,
        key: parameters.parsed("key", Key::parse)?,
        storage_class: parameters.parsed("storage_class", StorageClass::parse)?,
    })
}

/// Where the target is filed, if the principal reaches it. An object says that itself, once and for all.
async fn find_scope<S, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    target: &Target,
    principal: &Principal,
) -> Result<Scope, Problem> {
    let scope = match target {
        Target::Object(id, _) | Target::ObjectInfo(id) => {
            let name = ObjectName::of_id(*id, &principal.reach);
            service.repository.inspect(&name).await?.ok_or_else(Problem::not_found)?.scope
        }
        Target::Key(path, _) => path.scope.clone(),
        Target::NewObject { scope, .. } => scope.clone(),
    };
    principal.check_scope(&scope)?;
    Ok(scope)
}

fn later(now: Timestamp, seconds: u64) -> Timestamp {
    let millis = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    Timestamp::from_millis(now.as_millis().saturating_add(millis))
}

fn invalid(name: &str, reason: &str) -> Problem {
    Problem::parameter("invalid_parameter", name, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Option<(u16, &'static str, Option<String>)> {
        let parsed = parse_order(body.as_bytes())
            .and_then(|order| parse_target(&order, &Principal::anybody()).map(|target| (order, target)));
        parsed.err().map(|problem| (problem.status, problem.code, problem.parameter))
    }

    #[test]
    fn an_order_is_what_it_should_be_and_nothing_else() {
        let order = |method: &str, path: &str, more: &str| {
            format!(r#"{{"method":"{method}","path":"{path}","expires_in_seconds":60{more}}}"#)
        };
        let digest = "ab".repeat(32);
        let id = "0193a5c0-0000-7000-8000-000000000000";
        for body in [
            order("GET", "/v1/keys/models/acme/k", ""),
            order("HEAD", &format!("/v1/objects/{id}"), ""),
            order("DELETE", &format!("/v1/objects/{id}"), r#","size_bytes":null"#),
            order("GET", &format!("/v1/objects/{id}/info"), ""),
            order(
                "PUT",
                "/v1/keys/models/acme/a%20b",
                &format!(r#","size_bytes":0,"digest":"sha256:{digest}""#),
            ),
            order("POST", "/v1/objects?namespace=models&tenant_id=acme&key=a+b&storage_class=cold", ""),
            order("GET", "/v1/keys/models/acme/k?download=a%20b", ""),
            order("HEAD", &format!("/v1/objects/{id}?download"), ""),
        ] {
            assert_eq!(refused(&body), None, "{body}");
        }
        for body in [
            "",
            "[]",
            "{",
            r#"["GET","/v1/keys/models/acme/k",60]"#,
            r#"{"method":"GET","path":"/v1/keys/models/acme/k"}"#,
            &order("GET", "/v1/keys/models/acme/k", r#","x":1"#),
            &order("GET", "/v1/keys/models/acme/k", r#","expires_in_seconds":60"#),
            &order("PUT", "/v1/keys/models/acme/k", r#","size_bytes":-1"#),
            &order("PUT", "/v1/keys/models/acme/k", r#","size_bytes":1.5"#),
            &format!("{} x", order("GET", "/v1/keys/models/acme/k", "")),
        ] {
            assert_eq!(refused(body), Some((400, "invalid_sign_request", None)), "{body}");
        }
        for (method, path, more, code, parameter) in [
            ("get", "/v1/keys/models/acme/k", "", "invalid_parameter", "method"),
            ("PATCH", "/v1/keys/models/acme/k", "", "invalid_parameter", "method"),
            ("POST", "/v1/keys/models/acme/k", "", "invalid_parameter", "method"),
            ("PUT", "/v1/objects/0193a5c0-0000-7000-8000-000000000000", "", "invalid_parameter", "method"),
            ("GET", "/v1/keys/models/acme/ä", "", "invalid_parameter", "path"),
            ("GET", "/v1/keys/models/acme/a b", "", "invalid_parameter", "path"),
            ("GET", "/v1/keys/models/acme/k#f", "", "invalid_parameter", "path"),
            ("GET", "/v1/keys/models/acme/../k", "", "invalid_parameter", "path"),
            ("GET", "http://h/v1/keys/models/acme/k", "", "invalid_parameter", "path"),
            ("GET", "/v1/objects/1", "", "invalid_parameter", "path"),
            ("GET", "/v1/objects?namespace=models&tenant_id=acme", "", "invalid_parameter", "path"),
            ("GET", "/", "", "invalid_parameter", "path"),
            ("GET", "/health", "", "invalid_parameter", "path"),
            ("GET", "/v1/tenants/acme", "", "invalid_parameter", "path"),
            ("POST", "/v1/blobs/missing", "", "invalid_parameter", "path"),
            ("POST", "/v1/sign", "", "invalid_parameter", "path"),
            ("POST", "/v1/batch/get", "", "invalid_parameter", "path"),
            ("GET", "/v1/keys/models/acme/k?versions", "", "unknown_parameter", "versions"),
            ("GET", "/v1/keys/models/acme/k?download=a%2Fb", "", "invalid_parameter", "download"),
            ("GET", "/v1/keys/models/acme/k?download=a&download=b", "", "repeated_parameter", "download"),
            ("PUT", "/v1/keys/models/acme/k?download=a", "", "unknown_parameter", "download"),
            (
                "GET",
                "/v1/objects/0193a5c0-0000-7000-8000-000000000000/info?download=a",
                "",
                "unknown_parameter",
                "download",
            ),
            ("GET", "/v1/keys/models/acme/k?signed_by=me", "", "unknown_parameter", "signed_by"),
            ("POST", "/v1/objects?namespace=models", "", "missing_parameter", "tenant_id"),
            ("PUT", "/v1/keys/models/acme/k", r#","digest":"sha-256:ab""#, "invalid_parameter", "digest"),
        ] {
            let body = order(method, path, more);
            assert_eq!(refused(&body), Some((400, code, Some(parameter.to_owned()))), "{body}");
        }
    }

    #[test]
    fn a_url_is_good_for_a_second_at_least_and_seven_days_at_most() {
        for (seconds, taken) in [("0", false), ("1", true), ("604800", true), ("604801", false)] {
            let body =
                format!(r#"{{"method":"GET","path":"/v1/keys/a/b/c","expires_in_seconds":{seconds}}}"#);
            assert_eq!(refused(&body).is_none(), taken, "{seconds}");
        }
        assert_eq!(SIGNED_SECONDS_MAX, 604_800);
    }
}
