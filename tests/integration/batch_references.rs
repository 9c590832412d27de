//! Many objects of contents that are there, in one request that brings no bytes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::content::{content, sha256_hex};
use crate::raw::Response;
use crate::server::{FILES, SCOPE, Server, wait_until};
use crate::tokens::{claims, strict_server, token, token_of};

const PUT: &str = "/v1/batch/put?namespace=models&tenant_id=acme";
const JSON: (&str, &str) = ("Content-Type", "application/json; charset=utf-8");
const ABSENT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn upload(server: &Server, key: &str, bytes: &[u8]) -> Value {
    let response = server.request("PUT", &format!("/v1/keys/models/acme/{key}"), &[], bytes);
    assert!(matches!(response.status, 200 | 201));
    response.json()
}

/// A key, and the hash of what it is to name.
fn item(key: &str, hash: &str) -> Value {
    json!({"key": key, "digest": format!("sha256:{hash}")})
}

fn list(items: &[Value]) -> Vec<u8> {
    json!({ "items": items }).to_string().into_bytes()
}

fn results(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.header("Content-Type"), Some("application/x-ndjson"));
    let lines = response.body.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn told(results: &[Value]) -> Vec<(u64, &str)> {
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
    }
    let status = |result: &Value| result["status"].as_u64().unwrap();
    results.iter().map(|result| (status(result), result["code"].as_str().unwrap_or(""))).collect()
}

fn refer(server: &Server, items: &[Value]) -> Vec<Value> {
    results(&server.request("POST", PUT, &[JSON], &list(items)))
}

#[test]
fn each_item_becomes_an_object_of_its_content_or_says_why_not() {
    for arguments in [&[][..], &FILES, &["--ack", "database"]] {
        let server = Server::start_with(arguments);
        let (small, large) = (content(1, 4000), content(2, 300_000));
        let hashes = [&small, &large].map(|bytes| sha256_hex(bytes));
        let first = upload(&server, "a", &small);
        upload(&server, "b", &large);
        let path = format!("{PUT}&prefix=to/");
        let mut typed = item("typed", &hashes[0]);
        typed["content_type"] = json!("text/plain");
        let items = [
            item("1", &hashes[0]),
            item("2", &hashes[1]),
            item("none", ABSENT),
            item("../x", &hashes[0]),
            item("3", &hashes[0].to_uppercase()),
            typed,
        ];
        let fields = [JSON, ("X-Object-Meta-Turn", "second")];
        let referred = results(&server.request("POST", &path, &fields, &list(&items)));
        let expected = [(201, ""), (201, ""), (404, "not_found"), (400, "invalid_key"), (201, ""), (201, "")];
        assert_eq!(told(&referred), expected, "{referred:#?}");
        assert_eq!((&referred[1]["name"], &referred[1]["key"]), (&json!("2"), &json!("to/2")));
        assert_eq!(
            (&referred[1]["content_hash"], &referred[1]["size_bytes"]),
            (&json!(hashes[1]), &json!(300_000))
        );
        assert_ne!(referred[0]["id"], first["id"]);
        for (key, bytes, content_type) in [
            ("to/1", &small, "application/octet-stream"),
            ("to/2", &large, "application/octet-stream"),
            ("to/typed", &small, "text/plain"),
        ] {
            let response = server.get(&format!("/v1/keys/models/acme/{key}"));
            assert!(response.status == 200 && response.body == *bytes, "{key}");
            assert_eq!(response.header("Content-Type"), Some(content_type));
            assert_eq!(response.header("X-Object-Meta-turn"), Some("second"));
        }
        // Another version of a key, and another class.
        assert_eq!(told(&refer(&server, &[item("to/1", &hashes[1])])), [(200, "")]);
        assert!(server.get("/v1/keys/models/acme/to/1").body == large);
        let cold = server.request(
            "POST",
            &format!("{PUT}&storage_class=cold"),
            &[JSON],
            &list(&[item("c", &hashes[1])]),
        );
        assert_eq!(told(&results(&cold)), [(201, "")]);
        let copy = server.get(&format!("/v1/objects/{}", results(&cold)[0]["id"].as_str().unwrap()));
        assert!(copy.body == large);
        assert_eq!(refer(&server, &[]), Vec::<Value>::new());
    }
}

#[test]
fn ten_thousand_references_are_a_batch_and_stand_after_a_crash() {
    let mut server = Server::start();
    let contents: Vec<_> = (0..50).map(|seed| content(seed, 500)).collect();
    for (number, bytes) in contents.iter().enumerate() {
        upload(&server, &format!("from/{number}"), bytes);
    }
    let hashes: Vec<_> = contents.iter().map(|bytes| sha256_hex(bytes)).collect();
    let items: Vec<_> =
        (0..10_000).map(|number| item(&format!("to/{number}"), &hashes[number % 50])).collect();
    let referred = refer(&server, &items);
    assert!(told(&referred).iter().all(|told| *told == (201, "")));
    let more = [&items[..], &[item("one-more", &hashes[0])]].concat();
    let response = server.request("POST", PUT, &[JSON], &list(&more));
    response.assert_problem(400, "invalid_batch", "one more");
    let directory = server.directory();
    server.kill();
    let server = Server::start_on(&directory, &[]);
    for number in [0, 777, 9_999] {
        assert!(server.get(&format!("/v1/keys/models/acme/to/{number}")).body == contents[number % 50]);
    }
    let tenant = server.get("/v1/tenants/acme").json();
    assert_eq!(tenant["objects"], 10_050);
}

#[test]
fn what_is_no_list_is_refused_whole() {
    let server = Server::start();
    let hash = sha256_hex(b"x");
    for (body, member) in [
        (b"{}".to_vec(), None),
        (b"[]".to_vec(), None),
        (list(&[json!({"key": "k"})]), None),
        (list(&[item("k", "00")]), Some("items[0].digest")),
        (list(&[item("k", &hash), item("k", ABSENT)]), Some("items[1].key")),
    ] {
        let response = server.request("POST", PUT, &[JSON], &body);
        let problem = response.assert_problem(400, "invalid_batch", &String::from_utf8_lossy(&body));
        assert_eq!(problem["parameter"].as_str(), member);
    }
    for name in ["If-Modified-Since", "Content-Digest", "Repr-Digest"] {
        let response = server.request("POST", PUT, &[JSON, (name, "*")], &list(&[item("k", &hash)]));
        response.assert_problem(501, "not_implemented", name);
    }
    let padded = [&list(&[item("k", &hash)])[..], &vec![b' '; 2 * 1024 * 1024]].concat();
    server.request("POST", PUT, &[JSON], &padded).assert_problem(413, "body_too_large", "padded");
    // Without its type it is read as an archive.
    let response = server.request("POST", PUT, &[], &list(&[item("k", &hash)]));
    response.assert_problem(400, "invalid_archive", "no type");
}

#[test]
fn conditions_of_the_head_hold_for_each_reference() {
    let server = Server::start();
    upload(&server, "a", &content(1, 4000));
    upload(&server, "b", &content(2, 4000));
    let [a, b] = [1, 2].map(|seed| sha256_hex(&content(seed, 4000)));
    let under = |condition: (&str, &str), items: &[Value]| {
        let made = results(&server.request("POST", PUT, &[JSON, condition], &list(items)));
        told(&made).into_iter().map(|(status, code)| (status, code.to_owned())).collect::<Vec<_>>()
    };
    let failed = || (412, "precondition_failed".to_owned());
    let made = |status| (status, String::new());
    assert_eq!(under(("If-None-Match", "*"), &[item("a", &b), item("new", &b)]), [failed(), made(201)]);
    let tag = format!("\"sha256-{a}\"");
    assert_eq!(under(("If-Match", &tag), &[item("a", &b), item("b", &a)]), [made(200), failed()]);
    assert_eq!(server.get("/v1/keys/models/acme/a").body, content(2, 4000));
    assert_eq!(server.get("/v1/keys/models/acme/b").body, content(2, 4000));
}

#[test]
fn quotas_hold_for_each_reference() {
    let server = Server::start();
    upload(&server, "a", &content(1, 4000));
    let limits = br#"{"bytes_max":9000,"objects_max":null}"#;
    assert_eq!(server.request("PUT", "/v1/tenants/acme", &[], limits).status, 200);
    let hash = sha256_hex(&content(1, 4000));
    let referred = refer(&server, &[item("b", &hash), item("c", &hash)]);
    // They are made beside each other.
    let mut told = told(&referred);
    told.sort_unstable();
    assert_eq!(told, [(201, ""), (507, "quota_exceeded")]);
    assert_eq!(server.get("/v1/tenants/acme").json()["bytes"], 8000);
}

#[test]
fn a_tenant_refers_to_its_own_and_learns_of_nothing_else() {
    let server = strict_server(&[]);
    let field = |token: String| format!("Bearer {token}");
    let (acme, other) = (field(token_of("acme")), field(token_of("other")));
    let mut reach = claims("acme", "write");
    reach["namespaces"] = json!(["data"]);
    let elsewhere = field(token(&reach));
    let exchange = |target: &str, field: &str, body: &[u8]| {
        server.request("POST", target, &[("Authorization", field), JSON], body)
    };
    let stored =
        server.request("PUT", "/v1/keys/models/acme/k", &[("Authorization", acme.as_str())], b"secret");
    assert_eq!(stored.status, 201);
    let items = list(&[item("k2", &sha256_hex(b"secret")), item("k3", ABSENT)]);
    let absent = (404, "not_found");
    for (target, field) in [
        ("/v1/batch/put?namespace=models&tenant_id=other", &other),
        ("/v1/batch/put?namespace=data&tenant_id=acme", &elsewhere),
    ] {
        let referred = results(&exchange(target, field, &items));
        assert_eq!(told(&referred), [absent, absent]);
        assert_eq!(referred[0]["detail"], referred[1]["detail"]);
    }
    exchange(PUT, &other, &items).assert_problem(403, "forbidden", "keys of another");
    // From one namespace to another, for whoever reaches both.
    let referred = results(&exchange("/v1/batch/put?namespace=data&tenant_id=acme", &acme, &items));
    assert_eq!(told(&referred), [(201, ""), absent]);
}

#[test]
fn every_reference_has_its_line_in_the_audit_log() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let path = directory.path().join("audit.log");
    let server = Server::start_on(&directory, &["--audit-log-file", path.to_str().unwrap()]);
    upload(&server, "a", b"one");
    let hash = sha256_hex(b"one");
    let referred = refer(&server, &[item("b", &hash), item("none", ABSENT), item("c", &hash)]);
    let lines = wait_until("lines of the audit log", || {
        let text = std::fs::read(&path).ok()?;
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        (lines.len() >= 4).then_some(lines)
    });
    let told: Vec<_> =
        lines.iter().map(|line| (line["event"].as_str().unwrap(), line["key"].as_str())).collect();
    let created = "object_created";
    assert_eq!(told, [(created, Some("a")), (created, Some("b")), (created, Some("c")), ("changed", None)]);
    assert_eq!((&lines[2]["object_id"], &lines[2]["bytes_in"]), (&referred[2]["id"], &json!(0)));
}

#[test]
fn a_content_whose_copy_is_lost_is_missing() {
    let server = Server::start_with(&FILES);
    upload(&server, "a", &content(1, 5000));
    let hash = sha256_hex(&content(1, 5000));
    for file in server.files("blobs") {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(told(&refer(&server, &[item("b", &hash)])), [(404, "not_found")]);
    assert_eq!(server.list(SCOPE).len(), 1);
}
