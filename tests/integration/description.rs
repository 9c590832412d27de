//! Holds what the server answers to what `GET /openapi.json` says of it: every answer to a request that some test sends
//! has to be described there, with its media type.

use std::sync::LazyLock;

use serde_json::Value;

use crate::raw::Response;
use crate::server::Server;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let document = just_storage::api::openapi::document();
    serde_json::to_value(document).expect("the description has a JSON form")
});

/// The operation that a request is, if it is one.
fn operation(method: &str, target: &str) -> Option<&'static Value> {
    let path = target.split('?').next().unwrap_or(target);
    // An absolute target (RFC 9112 §3.2.2) means its path.
    let path =
        path.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
    let paths = DOCUMENT["paths"].as_object().expect("there are paths");
    let item =
        paths.iter().filter(|(template, _)| matches(template, path)).map(|(_, item)| item).next_back()?;
    item.get(method.to_ascii_lowercase())
}

/// Whether the path is one of the template. The last parameter of a key takes what is left, with its slashes.
fn matches(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let mut templates = template.split('/').peekable();
    while let Some(template) = templates.next() {
        let Some(segment) = segments.next() else { return false };
        let is_parameter = template.starts_with('{');
        if !is_parameter && template != segment || is_parameter && segment.is_empty() {
            return false;
        }
        if template == "{key}" && templates.peek().is_none() {
            return true;
        }
    }
    segments.next().is_none()
}

/// Fails where an answer is not described.
pub(crate) fn assert_described(method: &str, target: &str, response: &Response) {
    // What is no operation is refused by path or method.
    let Some(operation) = operation(method, target) else {
        assert!((400..600).contains(&response.status), "{method} {target} is not described: {response:?}");
        return;
    };
    // A listener that has metrics alone does not have the rest.
    if response.status == 404 && response.json_code().as_deref() == Some("no_route") {
        return;
    }
    let answer = &operation["responses"][response.status.to_string()];
    assert!(answer.is_object(), "{method} {target}: {} is not described", response.status);
    let media_type = response.header("Content-Type").filter(|_| !response.body.is_empty());
    if let Some(media_type) = media_type.filter(|_| method != "HEAD") {
        let media_type = media_type.split(';').next().unwrap_or(media_type);
        let content = answer["content"].as_object();
        let described =
            content.is_some_and(|content| content.contains_key(media_type) || content.contains_key("*/*"));
        assert!(described, "{method} {target}: {} is not described as {media_type}", response.status);
    }
}

#[test]
fn the_description_is_what_the_server_sends() {
    let server = Server::start();
    let sent = server.get("/openapi.json");
    assert_eq!(sent.status, 200);
    assert_eq!(sent.header("Content-Type"), Some("application/json"));
    assert_eq!(sent.json(), *DOCUMENT);
    assert!(DOCUMENT["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[test]
fn paths_find_their_templates() {
    for (method, target, id) in [
        ("GET", "/", "describe"),
        ("PUT", "/v1/keys/models/acme/a/b/c", "putKey"),
        ("GET", "/v1/objects/x/info?y=z", "getObjectInfo"),
        ("GET", "/v1/objects/x", "getObject"),
        ("GET", "http://host:1/v1/objects/x", "getObject"),
    ] {
        assert_eq!(operation(method, target).unwrap()["operationId"], id);
    }
    for (method, target) in
        [("GET", "/v1/keys/models/acme/"), ("PATCH", "/v1/keys/models/acme/k"), ("GET", "/x")]
    {
        assert!(operation(method, target).is_none(), "{method} {target}");
    }
}
