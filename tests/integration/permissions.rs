//! Every route and method with every kind of credential. A route that is added to the router has to be added here.

use std::collections::BTreeSet;

use just_storage::api::http1::{HeadLimits, HeadParser, Method, RequestHead};
use just_storage::api::{Route, needed_permission, route};
use serde_json::json;

use crate::content::sha256_hex;
use crate::raw::{Connection, Response};
use crate::server::Server;
use crate::tokens::{SECRET, claims, now, strict_server, token, token_of};

/// All methods there are.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// A route by the name that the router gives it, a target of it in the tenant `acme` and the namespace `models`, what
/// each of its methods needs, and what the target itself names.
struct Entry {
    name: &'static str,
    target: String,
    needs: &'static [(&'static str, &'static str)],
    names: Names,
}

/// What a target names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Nothing that belongs to a tenant, or an id, which says nothing of its scope.
    NoScope,
    Scope,
    /// A tenant, of which the operator alone may ask.
    Tenant,
    /// A tenant, and something that it has in a namespace.
    TenantAlone,
    /// A tenant, and nothing that it has.
    TenantForAnybody,
    /// A namespace, of which the operator who reaches it alone may ask.
    Namespace,
    /// The server, of which whoever has the scope is told as much as is for everybody.
    Server,
}

const NOTHING: &str = "";
/// An upload that is not there.
const AN_UPLOAD: &str = "hot-0123456789abcdef-0123456789abcdef0123456789abcdef";
/// What a URL is to be signed for, which is what the signer needs.
const SIGN_BODY: &[u8] = br#"{"method":"GET","path":"/v1/keys/models/acme/k","expires_in_seconds":60}"#;

/// What batches ask for.
const BATCH_GET_BODY: &[u8] = br#"{"items":[{"key":"k"}]}"#;
const BATCH_DELETE_BODY: &[u8] = br#"{"items":[{"key":"another"}]}"#;

/// The objects and uploads that the targets are about are made anew for each request.
fn entries(id: &str, upload: &str) -> [Entry; 19] {
    let entry = |name, target: String, needs, names| Entry { name, target, needs, names };
    [
        entry(
            "Root",
            "/".into(),
            &[("GET", NOTHING), ("HEAD", NOTHING), ("POST", NOTHING)][..],
            Names::NoScope,
        ),
        entry("Health", "/health".into(), &[("GET", NOTHING), ("HEAD", NOTHING)], Names::NoScope),
        entry("Ready", "/health/ready".into(), &[("GET", NOTHING), ("HEAD", NOTHING)], Names::NoScope),
        entry("OpenApi", "/openapi.json".into(), &[("GET", NOTHING), ("HEAD", NOTHING)], Names::NoScope),
        entry("Metrics", "/metrics".into(), &[("GET", "admin"), ("HEAD", "admin")], Names::Server),
        entry(
            "Objects",
            "/v1/objects?namespace=models&tenant_id=acme".into(),
            &[("GET", "read"), ("HEAD", "read"), ("POST", "write")],
            Names::Scope,
        ),
        entry(
            "Object",
            format!("/v1/objects/{id}"),
            &[("GET", "read"), ("HEAD", "read"), ("PATCH", "write"), ("DELETE", "delete")],
            Names::NoScope,
        ),
        entry(
            "ObjectInfo",
            format!("/v1/objects/{id}/info"),
            &[("GET", "read"), ("HEAD", "read")],
            Names::NoScope,
        ),
        entry(
            "Key",
            "/v1/keys/models/acme/k".into(),
            &[("GET", "read"), ("HEAD", "read"), ("PUT", "write"), ("DELETE", "delete")],
            Names::Scope,
        ),
        entry(
            "Blob",
            format!("/v1/blobs/sha256:{}?tenant_id=acme", sha256_hex(b"body")),
            &[("GET", "read"), ("HEAD", "read")],
            Names::TenantAlone,
        ),
        entry(
            "MissingBlobs",
            "/v1/blobs/missing?tenant_id=acme".into(),
            &[("POST", "write")],
            Names::TenantForAnybody,
        ),
        entry(
            "Tenant",
            "/v1/tenants/acme".into(),
            &[("GET", "admin"), ("HEAD", "admin"), ("PUT", "admin")],
            Names::Tenant,
        ),
        entry(
            "Lifecycle",
            "/v1/namespaces/models/lifecycle".into(),
            &[("GET", "admin"), ("HEAD", "admin"), ("PUT", "admin")],
            Names::Namespace,
        ),
        entry("Sign", "/v1/sign".into(), &[("POST", "read")], Names::Scope),
        entry(
            "BatchGet",
            "/v1/batch/get?namespace=models&tenant_id=acme".into(),
            &[("POST", "read")],
            Names::Scope,
        ),
        entry(
            "BatchPut",
            "/v1/batch/put?namespace=models&tenant_id=acme".into(),
            &[("POST", "write")],
            Names::Scope,
        ),
        entry(
            "BatchDelete",
            "/v1/batch/delete?namespace=models&tenant_id=acme".into(),
            &[("POST", "delete")],
            Names::Scope,
        ),
        entry(
            "Uploads",
            "/v1/uploads?namespace=models&tenant_id=acme".into(),
            &[("POST", "write"), ("OPTIONS", "write")],
            Names::Scope,
        ),
        entry(
            "Upload",
            format!("/v1/uploads/{}", if upload.is_empty() { AN_UPLOAD } else { upload }),
            &[("HEAD", "write"), ("POST", "write"), ("PATCH", "write"), ("DELETE", "write")],
            Names::NoScope,
        ),
    ]
}

/// The route of a target, as the server finds it.
fn route_of(method: &str, target: &str) -> (RequestHead, Option<Route>) {
    let limits = HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 8192, fields_max: 10 };
    let mut head = RequestHead::default();
    let text = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    HeadParser::default().parse(text.as_bytes(), &limits, &mut head).unwrap();
    let found = route(&head).ok();
    (head, found)
}

#[test]
fn every_route_of_the_router_has_its_entry() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/router.rs")).unwrap();
    let variants = source.split("pub enum Route {").nth(1).unwrap().split("\n}").next().unwrap();
    let variants = variants.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    let word = |line: &str| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
    let routes: BTreeSet<String> = variants.map(word).collect();
    let entries = entries("0193a5c0-0000-7000-8000-000000000000", "");
    let known: BTreeSet<String> = entries.iter().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(routes, known, "a new route says here what it needs");
    for entry in &entries {
        let (_, found) = route_of(entry.needs[0].0, &entry.target);
        let found = found.expect("the path has the method");
        assert_eq!(word(&format!("{found:?}")), entry.name);
        let methods: BTreeSet<&str> = found.methods().iter().map(|method| method.as_str()).collect();
        let known: BTreeSet<&str> = entry.needs.iter().map(|(method, _)| *method).collect();
        assert_eq!(methods, known, "a new method of {} says here what it needs", entry.name);
        for (method, needed) in entry.needs {
            let (head, _) = route_of(method, &entry.target);
            let told = needed_permission(&found, head.method()).map_or(NOTHING, |needed| needed.as_str());
            let expected = if entry.name == "Sign" { NOTHING } else { needed };
            assert_eq!(told, expected, "{method} {}: what signing needs stands in the body", entry.name);
        }
    }
    assert_eq!(needed_permission(&Route::Objects, Method::Unknown).unwrap().as_str(), "admin");
}

/// Stores what the targets are about, and gives its id.
fn store(operator: &mut Connection) -> String {
    let field = format!("Bearer {}", token_of("*"));
    let fields = [("Authorization", field.as_str())];
    let target = "/v1/objects?namespace=models&tenant_id=acme&key=k";
    let response = operator.exchange("POST", target, &fields, b"body");
    assert_eq!(response.status, 201, "{response:?}");
    response.json()["id"].as_str().unwrap().to_owned()
}

/// Makes an upload that the targets are about, and gives its id.
fn begin_upload(operator: &mut Connection) -> String {
    let field = format!("Bearer {}", token_of("*"));
    let fields = [("Authorization", field.as_str()), ("Tus-Resumable", "1.0.0"), ("Upload-Length", "10")];
    let target = "/v1/uploads?namespace=models&tenant_id=acme";
    let response = operator.exchange("POST", target, &fields, b"");
    assert_eq!(response.status, 201, "{response:?}");
    response.header("Location").unwrap().strip_prefix("/v1/uploads/").unwrap().to_owned()
}

/// What comes of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It does what it does for everybody.
    Done,
    Unauthorized(&'static str),
    Forbidden,
    /// Nothing is there for it.
    NotFound,
}

/// Every kind of credential: its name, its token, and what comes of it where `needed` is needed.
fn credentials(entry: &Entry, needed: &str) -> Vec<(String, Option<String>, Outcome)> {
    let every = "read write delete admin";
    let but =
        |left_out: &str| every.split(' ').filter(|word| *word != left_out).collect::<Vec<_>>().join(" ");
    let out_of_reach = match entry.names {
        Names::NoScope => Outcome::NotFound,
        Names::Scope | Names::Tenant | Names::TenantAlone | Names::TenantForAnybody | Names::Namespace => {
            Outcome::Forbidden
        }
        Names::Server => Outcome::Done,
    };
    let is_for_operator = matches!(entry.names, Names::Tenant | Names::Namespace);
    // Limits are for all namespaces of a tenant at once: which ones the operator reaches is of no account.
    let elsewhere = match entry.names {
        Names::TenantAlone => Outcome::NotFound,
        Names::TenantForAnybody | Names::Tenant => Outcome::Done,
        _ => out_of_reach,
    };
    let in_no_namespace = if is_for_operator { out_of_reach } else { elsewhere };
    let own = if is_for_operator { Outcome::Forbidden } else { Outcome::Done };
    let with = |tenant_id: &str, scope: &str, namespaces: Option<&[&str]>| {
        let mut claims = claims(tenant_id, scope);
        if let Some(namespaces) = namespaces {
            claims["namespaces"] = json!(namespaces);
        }
        Some(token(&claims))
    };
    let mut expired = claims("acme", every);
    expired["exp"] = json!(now() - 3600);
    let kinds = [
        ("none", None, Outcome::Unauthorized("unauthorized")),
        ("bad", Some(format!("{}x", token_of("acme"))), Outcome::Unauthorized("invalid_token")),
        ("expired", Some(token(&expired)), Outcome::Unauthorized("invalid_token")),
        ("of another tenant", with("other", every, None), out_of_reach),
        ("of a tenant named alike", with("acm", every, None), out_of_reach),
        ("without the scope", with("acme", &but(needed), None), Outcome::Forbidden),
        ("without any scope", with("acme", "", None), Outcome::Forbidden),
        ("of another tenant, without the scope", with("other", &but(needed), None), Outcome::Forbidden),
        ("of other namespaces", with("acme", every, Some(&["data", "model"])), in_no_namespace),
        ("of no namespace", with("acme", every, Some(&[])), in_no_namespace),
        ("of the operator in other namespaces", with("*", every, Some(&["data"])), elsewhere),
        ("of the operator", with("*", every, None), Outcome::Done),
        ("of the operator without the scope", with("*", &but(needed), None), Outcome::Forbidden),
        ("of the tenant", with("acme", needed, None), own),
        ("of the tenant in this namespace", with("acme", needed, Some(&["data", "models"])), own),
    ];
    let public = needed == NOTHING;
    let outcome = |outcome| if public { Outcome::Done } else { outcome };
    kinds.into_iter().map(|(kind, token, told)| (kind.to_owned(), token, outcome(told))).collect()
}

fn assert_outcome(response: &Response, method: &str, outcome: Outcome, case: &str) {
    let problem = |status, code: &str| match method {
        "HEAD" => assert_eq!(response.status, status, "{case}"),
        _ => drop(response.assert_problem(status, code, case)),
    };
    let challenge = response.header("WWW-Authenticate");
    match outcome {
        Outcome::Done => assert!(matches!(response.status, 200 | 201 | 204), "{case}: {response:?}"),
        Outcome::NotFound => problem(404, "not_found"),
        Outcome::Forbidden => problem(403, "forbidden"),
        Outcome::Unauthorized(code) => {
            problem(401, code);
            assert!(challenge.unwrap().starts_with("Bearer realm=\"just_storage\""), "{case}");
            assert_eq!(
                challenge.unwrap().contains("error=\"invalid_token\""),
                code == "invalid_token",
                "{case}"
            );
        }
    }
    if matches!(outcome, Outcome::Done | Outcome::NotFound) {
        assert_eq!(challenge, None, "{case}");
    }
}

#[test]
fn every_route_and_method_lets_in_whom_it_should_and_nobody_else() {
    let server = strict_server(&["--url-signing-key", SECRET, "--uploads-max", "10000"]);
    let (mut operator, mut connection) = (server.connect(), server.connect());
    let mut cases = 0;
    for index in 0..entries("", "").len() {
        for method in METHODS {
            let needed = entries("", "")[index].needs.iter().find(|(known, _)| *known == method);
            let kinds =
                credentials(&entries("", "")[index], needed.map_or("read", |(_, needed)| needed)).len();
            for kind in 0..kinds {
                let (id, upload) = (store(&mut operator), begin_upload(&mut operator));
                let entry = &entries(&id, &upload)[index];
                let (name, token, outcome) =
                    credentials(entry, needed.map_or("read", |(_, needed)| needed)).swap_remove(kind);
                let case = format!("{method} {} with a credential that is {name}", entry.target);
                let field = token.map(|token| format!("Bearer {token}"));
                let fields: Vec<_> = field.iter().map(|field| ("Authorization", field.as_str())).collect();
                let response = exchange(&mut connection, method, &entry.target, &fields);
                match needed {
                    Some(_) => assert_outcome(&response, method, outcome, &case),
                    None => {
                        assert_eq!(response.status, 405, "{case}: whoever asks, there is no such method");
                        assert!(response.header("Allow").is_some(), "{case}");
                    }
                }
                assert_eq!(
                    there(&mut operator, &id),
                    // What is known of an upload goes, and no object.
                    response.status != 204 || entry.name.starts_with("Upload"),
                    "{case}: what was not allowed is not done"
                );
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 19 * 8 * 15);
}

fn exchange(connection: &mut Connection, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    // An object like any other, and limits that limit nothing.
    let body: &[u8] = match method {
        "POST" if target == "/v1/sign" => SIGN_BODY,
        "POST" if target.starts_with("/v1/blobs/") => br#"{"digests":[]}"#,
        "POST" if target.starts_with("/v1/batch/get") => BATCH_GET_BODY,
        "POST" if target.starts_with("/v1/batch/delete") => BATCH_DELETE_BODY,
        // An archive of nothing.
        "POST" if target.starts_with("/v1/batch/put") => &[0; 1024],
        "POST" | "PUT" | "PATCH" => b"{}",
        _ => b"",
    };
    if !target.starts_with("/v1/uploads") {
        let patch = ("Content-Type", "application/merge-patch+json");
        let patch = if method == "PATCH" { &[patch][..] } else { &[] };
        return connection.exchange(method, target, &[fields, patch].concat(), body);
    }
    let mut fields = Vec::from(fields);
    let is_new = !target.starts_with("/v1/uploads/");
    fields.extend([("Tus-Resumable", "1.0.0"), ("Content-Type", "application/offset+octet-stream")]);
    fields.push(if is_new { ("Upload-Length", "2") } else { ("Upload-Offset", "0") });
    fields.extend((method == "POST" && !is_new).then_some(("X-HTTP-Method-Override", "PATCH")));
    connection.exchange(method, target, &fields, body)
}

fn there(operator: &mut Connection, id: &str) -> bool {
    let field = format!("Bearer {}", token_of("*"));
    let response = operator.exchange("HEAD", &format!("/v1/objects/{id}"), &[("Authorization", &field)], b"");
    response.status == 200
}

#[test]
fn a_body_is_not_asked_for_from_whom_it_would_not_be_taken() {
    let server = strict_server(&[]);
    let other = format!("Bearer {}", token_of("other"));
    let reader = format!("Bearer {}", token(&claims("acme", "read")));
    for (method, target) in [
        ("POST", "/v1/objects?namespace=models&tenant_id=acme"),
        ("PUT", "/v1/keys/models/acme/k"),
        ("PUT", "/v1/tenants/acme"),
        ("POST", "/v1/batch/put?namespace=models&tenant_id=acme"),
        ("POST", "/v1/batch/delete?namespace=models&tenant_id=acme"),
        ("PUT", "/v1/namespaces/models/lifecycle"),
    ] {
        for (field, status) in
            [(None, 401), (Some("Bearer x"), 401), (Some(&*other), 403), (Some(&*reader), 403)]
        {
            let mut connection = server.connect();
            let field = field.map_or(String::new(), |field| format!("Authorization: {field}\r\n"));
            connection.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n{field}\r\n"
            ));
            let response = connection.response();
            assert_eq!((response.status, &response.interim[..]), (status, &[][..]), "{method} {target}");
            assert!(response.closes());
            connection.assert_closed();

            // A body that has come already is passed over, and the connection goes on.
            let mut connection = server.connect();
            connection.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n{field}\r\nhello\
                 GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
            ));
            let statuses = (connection.response().status, connection.response().status);
            assert_eq!(statuses, (status, 200), "{method} {target}");
        }
    }
}

#[test]
fn two_credentials_are_one_too_many() {
    let server = strict_server(&[]);
    let field = format!("Bearer {}", token_of("acme"));
    let key = "jsk_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for fields in [
        &[("Authorization", &*field), ("X-API-Key", key)][..],
        &[("Authorization", &*field), ("Authorization", &*field)],
        &[("X-API-Key", key), ("x-api-key", key)],
    ] {
        let response = server.request("GET", "/v1/keys/models/acme/k", fields, b"");
        response.assert_problem(400, "repeated_credential", "two credentials");
        let challenge = "Bearer realm=\"just_storage\", error=\"invalid_request\"";
        assert_eq!(response.header("WWW-Authenticate"), Some(challenge));
    }
}

#[test]
fn where_no_credential_is_asked_for_none_is_looked_at() {
    let server = Server::start();
    for field in ["Bearer nonsense", "Basic YTpi", ""] {
        let response = server.request("PUT", "/v1/keys/models/acme/k", &[("Authorization", field)], b"body");
        assert!(matches!(response.status, 200 | 201), "{response:?}");
    }
}
