//! From method and path to what is meant.

use super::errors::Problem;
use super::http1::{Method, RequestHead};
use super::query::percent_decode;
use super::signed_url::parse_digest;
use crate::domain::entities::{KeyPath, Scope};
use crate::domain::value_objects::{ContentHash, Key, Namespace, ObjectId, TenantId, UploadId};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/`: what this server is; and a body sent there comes back, to see what proxies make of it.
    Root,
    /// `/health`
    Health,
    /// `/health/ready`
    Ready,
    /// `/openapi.json`: the description of all this.
    OpenApi,
    /// `/metrics`
    Metrics,
    /// `/v1/objects`
    Objects,
    /// `/v1/objects/{id}`
    Object(ObjectId),
    /// `/v1/objects/{id}/info`
    ObjectInfo(ObjectId),
    /// `/v1/keys/{namespace}/{tenant_id}/{key…}`
    Key(KeyPath),
    /// `/v1/blobs/sha256:{hex}`
    Blob(ContentHash),
    /// `/v1/blobs/missing`
    MissingBlobs,
    /// `/v1/tenants/{tenant_id}`
    Tenant(TenantId),
    /// `/v1/namespaces/{namespace}/lifecycle`
    Lifecycle(Namespace),
    /// `/v1/sign`
    Sign,
    /// `/v1/batch/get`
    BatchGet,
    /// `/v1/batch/put`
    BatchPut,
    /// `/v1/batch/delete`
    BatchDelete,
    /// `/v1/uploads`
    Uploads,
    /// `/v1/uploads/{id}`
    Upload(UploadId),
}

impl Route {
    /// The methods that the path has.
    pub fn methods(&self) -> &'static [Method] {
        match self {
            Self::Root => &[Method::Get, Method::Head, Method::Post],
            Self::Health
            | Self::Ready
            | Self::OpenApi
            | Self::Metrics
            | Self::ObjectInfo(_)
            | Self::Blob(_) => &[Method::Get, Method::Head],
            Self::Objects => &[Method::Get, Method::Head, Method::Post],
            Self::Object(_) => &[Method::Get, Method::Head, Method::Patch, Method::Delete],
            Self::Key(_) => &[Method::Get, Method::Head, Method::Put, Method::Delete],
            Self::Tenant(_) | Self::Lifecycle(_) => &[Method::Get, Method::Head, Method::Put],
            Self::Sign | Self::MissingBlobs | Self::BatchGet | Self::BatchPut | Self::BatchDelete => {
                &[Method::Post]
            }
            Self::Uploads => &[Method::Post, Method::Options],
            // A POST can say that it is one of the others.
            Self::Upload(_) => &[Method::Head, Method::Post, Method::Patch, Method::Delete],
        }
    }
}

/// Finds the route of a request.
///
/// # Errors
/// `501` for a method that nobody knows, `404` for a path that is none, `400` for a malformed part of one, `405`
/// with `Allow` for a method that the path does not have.
pub fn route(head: &RequestHead) -> Result<Route, Problem> {
    if head.method() == Method::Unknown {
        return Err(Problem::new(501, "unknown_method", "this method is not implemented"));
    }
    let route = find(head.path())?;
    let methods = route.methods();
    if methods.contains(&head.method()) {
        return Ok(route);
    }
    let detail = format!("{} is not a method of this path", head.method().as_str());
    let mut problem = Problem::new(405, "method_not_allowed", detail);
    let allowed: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
    problem.fields.add("Allow", allowed.join(", "));
    Err(problem)
}

/// Finds what a path is about, whatever the method.
///
/// # Errors
/// `404` or `400`.
pub(super) fn find(path: &str) -> Result<Route, Problem> {
    // What is asked for most comes first.
    if let Some(rest) = path.strip_prefix("/v1/keys/") {
        return key_path(rest).map(Route::Key);
    }
    if let Some(rest) = path.strip_prefix("/v1/objects/") {
        return object(rest);
    }
    if let Some(rest) = path.strip_prefix("/v1/blobs/") {
        return blob(rest);
    }
    match path {
        "/" => Ok(Route::Root),
        "/health" => Ok(Route::Health),
        "/health/ready" => Ok(Route::Ready),
        "/openapi.json" => Ok(Route::OpenApi),
        "/metrics" => Ok(Route::Metrics),
        "/v1/objects" => Ok(Route::Objects),
        "/v1/sign" => Ok(Route::Sign),
        "/v1/batch/get" => Ok(Route::BatchGet),
        "/v1/batch/put" => Ok(Route::BatchPut),
        "/v1/batch/delete" => Ok(Route::BatchDelete),
        "/v1/uploads" => Ok(Route::Uploads),
        _ => {
            if let Some(rest) = path.strip_prefix("/v1/uploads/") {
                return upload(rest).map(Route::Upload);
            }
            if let Some(rest) = path.strip_prefix("/v1/namespaces/") {
                return namespace_of_rule(rest).map(Route::Lifecycle);
            }
            let rest = path.strip_prefix("/v1/tenants/").ok_or_else(Problem::no_route)?;
            tenant(rest).map(Route::Tenant)
        }
    }
}

/// `{id}`
fn upload(rest: &str) -> Result<UploadId, Problem> {
    match rest.is_empty() || rest.contains('/') {
        true => Err(Problem::no_route()),
        false => UploadId::parse(rest).map_err(|error| Problem::parameter("invalid_parameter", "id", error)),
    }
}

/// `{id}`, or `{id}/info`.
fn object(rest: &str) -> Result<Route, Problem> {
    let object_id = |text: &str| {
        ObjectId::parse(text).map_err(|error| Problem::parameter("invalid_parameter", "id", error))
    };
    match rest.split_once('/') {
        None if rest.is_empty() => Err(Problem::no_route()),
        None => Ok(Route::Object(object_id(rest)?)),
        Some((id, "info")) => Ok(Route::ObjectInfo(object_id(id)?)),
        Some(_) => Err(Problem::no_route()),
    }
}

/// `sha256:{hex}`, or `missing`.
fn blob(rest: &str) -> Result<Route, Problem> {
    if rest.is_empty() || rest.contains('/') {
        return Err(Problem::no_route());
    }
    if rest == "missing" {
        return Ok(Route::MissingBlobs);
    }
    let digest = percent_decode(rest).and_then(|decoded| parse_digest(&decoded));
    let reason = "it is sha256: and 64 hexadecimal digits";
    digest.map(Route::Blob).ok_or_else(|| Problem::parameter("invalid_parameter", "digest", reason))
}

/// `{namespace}/{tenant_id}/{key…}`. The key is decoded as a whole, so that `%2F` in it is a `/`. A part that is empty is
/// malformed; where one is missing, the path is none.
fn key_path(rest: &str) -> Result<KeyPath, Problem> {
    if rest.is_empty() {
        return Err(Problem::no_route());
    }
    let mut parts = rest.splitn(3, '/');
    let mut part = |name: &'static str| {
        let text = parts.next().ok_or_else(Problem::no_route)?;
        let undecodable = || Problem::parameter("invalid_parameter", name, "it is not percent-encoded UTF-8");
        percent_decode(text).ok_or_else(undecodable)
    };
    let invalid = |name| move |error| Problem::parameter("invalid_parameter", name, error);
    let namespace = Namespace::parse(&part("namespace")?).map_err(invalid("namespace"))?;
    let tenant_id = TenantId::parse(&part("tenant_id")?).map_err(invalid("tenant_id"))?;
    let key = Key::parse(&part("key")?).map_err(invalid("key"))?;
    Ok(KeyPath { scope: Scope { namespace, tenant_id }, key })
}

fn tenant(rest: &str) -> Result<TenantId, Problem> {
    if rest.is_empty() || rest.contains('/') {
        return Err(Problem::no_route());
    }
    let invalid = |error: &dyn std::fmt::Display| Problem::parameter("invalid_parameter", "tenant_id", error);
    let decoded = percent_decode(rest).ok_or_else(|| invalid(&"it is not percent-encoded UTF-8"))?;
    TenantId::parse(&decoded).map_err(|error| invalid(&error))
}

/// `{namespace}/lifecycle`
fn namespace_of_rule(rest: &str) -> Result<Namespace, Problem> {
    let name = rest.strip_suffix("/lifecycle").filter(|name| !name.is_empty() && !name.contains('/'));
    let name = name.ok_or_else(Problem::no_route)?;
    let invalid = |error: &dyn std::fmt::Display| Problem::parameter("invalid_parameter", "namespace", error);
    let decoded = percent_decode(name).ok_or_else(|| invalid(&"it is not percent-encoded UTF-8"))?;
    Namespace::parse(&decoded).map_err(|error| invalid(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &str) -> u16 {
        find(path).map_or_else(|problem| problem.status, |_| 200)
    }

    #[test]
    fn every_path_of_the_contract_is_found() {
        let id = ObjectId::generate();
        assert_eq!(find(&format!("/v1/objects/{id}")).unwrap(), Route::Object(id));
        assert_eq!(find(&format!("/v1/objects/{id}/info")).unwrap(), Route::ObjectInfo(id));
        let Ok(Route::Key(path)) = find("/v1/keys/models/acme/a%2Fb/c+d%20e") else { panic!("a key") };
        assert_eq!((path.key.as_str(), path.scope.tenant_id.as_str()), ("a/b/c+d e", "acme"));
        assert_eq!(
            find("/v1/tenants/acme%2Eeu").unwrap(),
            Route::Tenant(TenantId::parse("acme.eu").unwrap())
        );
        let hash = ContentHash::from_bytes([0xab; 32]);
        for path in [format!("/v1/blobs/sha256:{hash}"), format!("/v1/blobs/sha256%3A{hash}")] {
            assert_eq!(find(&path).unwrap(), Route::Blob(hash));
        }
        assert_eq!(find("/v1/blobs/missing").unwrap(), Route::MissingBlobs);
        assert_eq!(
            find("/v1/namespaces/mo%64els/lifecycle").unwrap(),
            Route::Lifecycle(Namespace::parse("models").unwrap())
        );
        let upload = "hot-0123456789abcdef-0123456789abcdef0123456789abcdef";
        let Ok(Route::Upload(upload_id)) = find(&format!("/v1/uploads/{upload}")) else {
            panic!("an upload")
        };
        assert_eq!(upload_id.to_string(), upload);
        assert_eq!(status("/v1/uploads"), 200);
        for path in ["/", "/health", "/health/ready", "/openapi.json", "/metrics", "/v1/objects", "/v1/sign"]
        {
            assert_eq!(status(path), 200);
        }
        for (path, route) in
            [("get", Route::BatchGet), ("put", Route::BatchPut), ("delete", Route::BatchDelete)]
        {
            assert_eq!(find(&format!("/v1/batch/{path}")).unwrap(), route);
        }
    }

    #[test]
    fn paths_that_are_none_and_parts_that_are_malformed() {
        let id = ObjectId::generate();
        for path in [
            "/x",
            "/v1",
            "/v1/objects/",
            &format!("/v1/objects/{id}/x"),
            "/v1/keys/",
            "/v1/keys/a",
            "/v1/keys/a/b",
            "/v1/tenants",
            "/v1/tenants/",
            "/v1/tenants/a/b",
            "/v1/namespaces/",
            "/v1/namespaces/a",
            "/v1/namespaces//lifecycle",
            "/v1/namespaces/a/b/lifecycle",
            "/v1/namespaces/a/lifecycle/",
            "/v1/sign/",
            "/v1/batch",
            "/v1/batch/",
            "/v1/batch/get/",
            "/v1/batch/patch",
            "/v1/blobs",
            "/v1/blobs/",
            "/v1/blobs/missing/x",
            "/v1/uploads/",
            "/v1/uploads/a/b",
            "/metrics/",
        ] {
            assert_eq!(status(path), 404, "{path}");
        }
        for path in [
            "/v1/uploads/1",
            "/v1/objects/1",
            "/v1/objects/../x",
            "/v1/keys/A/b/c",
            "/v1/keys//",
            "/v1/keys//b/c",
            "/v1/keys/a/",
            "/v1/keys/a//c",
            "/v1/keys/a/b/",
            "/v1/keys/a/b//",
            "/v1/blobs/sha256:00",
            "/v1/blobs/sha256:",
            "/v1/blobs/%ff",
            "/v1/blobs/lost",
            "/v1/tenants/-a",
            "/v1/tenants/a%2Fb",
            "/v1/namespaces/A/lifecycle",
            "/v1/namespaces/a%2Fb/lifecycle",
            "/v1/namespaces/%ff/lifecycle",
            "/v1/tenants/%ff",
            "/v1/keys/a/-/c",
            "/v1/keys/a/b/c//d",
            "/v1/keys/a/b/../d",
            "/v1/keys/a/b/%2e%2e/d",
            "/v1/keys/a/b/%00",
            "/v1/keys/a/b/%ff",
            "/v1/keys/a/b/%",
            "/v1/keys/a/b/c/",
        ] {
            let expected = if path.contains("objects/../") { 404 } else { 400 };
            assert_eq!(status(path), expected, "{path}");
        }
    }
}
