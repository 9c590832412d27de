//! What one tenant learns of another: nothing. An object of somebody else is one that does not exist.

use serde_json::json;

use crate::raw::{Connection, Response};
use crate::server::Server;
use crate::site::Site;
use crate::tokens::{SECRET, claims, strict_server, token, token_of};

/// Never given to an object.
const ABSENT: &str = "0193a5c0-1234-7abc-8def-0123456789ab";

/// Everything that an answer says, but for what differs between any two.
fn told(response: &Response, id: &str) -> String {
    let head: Vec<String> = response
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "Date" | "X-Request-Id"))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let request_id = response.header("X-Request-Id").unwrap();
    let body = String::from_utf8(response.body.clone()).unwrap();
    let body = body.replace(id, "{id}").replace(request_id, "{request_id}");
    format!("{}\n{}\n\n{body}", response.status, head.join("\n"))
}

/// What is asked of an id: method, what stands behind the id, and a field.
type Question = (&'static str, &'static str, Option<(&'static str, &'static str)>);
const QUESTIONS: [Question; 9] = [
    ("GET", "", None),
    ("HEAD", "", None),
    ("GET", "/info", None),
    ("HEAD", "/info", None),
    ("DELETE", "", None),
    ("GET", "", Some(("Range", "bytes=0-1"))),
    ("GET", "", Some(("If-None-Match", "*"))),
    ("GET", "", Some(("If-Match", "\"sha256-00\""))),
    ("DELETE", "", Some(("If-Match", "\"sha256-00\""))),
];

const READ: Question = QUESTIONS[0];
const DELETE: Question = QUESTIONS[4];

fn ask(connection: &mut Connection, token: &str, id: &str, (method, behind, field): Question) -> Response {
    let credential = format!("Bearer {token}");
    // An id of the caller's own is of the same length in every answer.
    let fields: Vec<_> = [("Authorization", credential.as_str()), ("X-Request-Id", "the-same")]
        .into_iter()
        .chain(field)
        .collect();
    connection.exchange(method, &format!("/v1/objects/{id}{behind}"), &fields, b"")
}

fn store(connection: &mut Connection, namespace: &str) -> String {
    let credential = format!("Bearer {}", token_of("acme"));
    let target = format!("/v1/objects?namespace={namespace}&tenant_id=acme");
    let response = connection.exchange("POST", &target, &[("Authorization", &credential)], b"a secret");
    assert_eq!(response.status, 201, "{response:?}");
    response.json()["id"].as_str().unwrap().to_owned()
}

fn assert_foreign_is_absent(server: &Server) {
    let mut connection = server.connect();
    let id = store(&mut connection, "models");
    let owner = token_of("acme");
    let mut elsewhere = claims("acme", "read write delete");
    elsewhere["namespaces"] = json!(["data"]);
    let mut narrow_operator = claims("*", "read write delete");
    narrow_operator["namespaces"] = json!(["data"]);
    for stranger in [token_of("other"), token(&elsewhere), token(&narrow_operator)] {
        for question in QUESTIONS {
            // Hot in the cache each time: the owner has just read it.
            assert_eq!(ask(&mut connection, &owner, &id, READ).body, b"a secret");
            let foreign = ask(&mut connection, &stranger, &id, question);
            let absent = ask(&mut connection, &stranger, ABSENT, question);
            assert_eq!(told(&foreign, &id), told(&absent, ABSENT), "{question:?}");
            assert_eq!(foreign.status, 404);
        }
    }
    assert_eq!(ask(&mut connection, &owner, &id, READ).status, 200, "it is still there");
    assert_eq!(ask(&mut connection, &owner, &id, DELETE).status, 204);
    assert_eq!(ask(&mut connection, &owner, &id, READ).status, 404);
}

#[test]
fn a_foreign_id_is_answered_as_one_that_does_not_exist() {
    assert_foreign_is_absent(&strict_server(&[]));
    assert_foreign_is_absent(&strict_server(&["--ack", "database"]));
}

#[test]
fn a_foreign_id_is_answered_as_one_that_does_not_exist_on_postgresql() {
    let site = Site::new();
    assert_foreign_is_absent(&site.start("one", &["--auth-mode", "required", "--jwt-secret", SECRET]));
}

#[test]
fn a_tenant_sees_its_own_and_names_no_other() {
    let server = strict_server(&[]);
    let mut connection = server.connect();
    store(&mut connection, "models");
    store(&mut connection, "data");
    let mut of = |tenant_id: &str, namespace: &str, of: &str| {
        let credential = format!("Bearer {}", token_of(tenant_id));
        let target = format!("/v1/objects?namespace={namespace}&tenant_id={of}");
        connection.exchange("GET", &target, &[("Authorization", &credential)], b"")
    };
    for namespace in ["models", "data"] {
        let page = of("acme", namespace, "acme");
        assert_eq!((page.status, page.json()["objects"].as_array().unwrap().len()), (200, 1));
        of("other", namespace, "acme").assert_problem(403, "forbidden", "another's list");
        of("acme", namespace, "nobody").assert_problem(403, "forbidden", "a list of nobody's");
        assert_eq!(of("*", namespace, "acme").json()["objects"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn the_log_names_the_credential_and_its_tenant_and_shows_neither_token_nor_key() {
    let server = strict_server(&[]);
    let token = token_of("acme");
    let credential = format!("Bearer {token}");
    let key = "/v1/keys/models/acme/k";
    server.request("GET", key, &[("Authorization", &credential)], b"");
    server.request("GET", "/v1/keys/models/other/k", &[("Authorization", &credential)], b"");
    server.request("GET", key, &[], b"");
    let (_, lines) = server.stop();
    let line = |path: &str, status: &str| {
        let found = lines.iter().find(|line| line.contains(path) && line.contains(status));
        serde_json::from_str::<serde_json::Value>(found.unwrap()).unwrap()
    };
    for (path, status) in [(key, r#""status":404"#), ("/other/k", r#""status":403"#)] {
        let line = line(path, status);
        assert_eq!((&line["credential"], &line["tenant_id"]), (&json!("jwt:tester"), &json!("acme")));
    }
    assert!(line(key, r#""status":401"#).get("credential").is_none());
    let all = lines.join("\n");
    assert!(!all.contains(&token) && !all.contains(SECRET));
}
