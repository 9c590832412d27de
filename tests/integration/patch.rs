//! `PATCH` of an object: what is said of it, its key, its class; under conditions, beside others, and after a crash.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::content::{content, etag};
use crate::raw::{Connection, Fields, Response, request};
use crate::server::{FILES, SCOPE, Server, program};

const MERGE_PATCH: (&str, &str) = ("Content-Type", "application/merge-patch+json");
/// The largest patch.
const PATCH_BYTES_MAX: usize = 64 * 1024;

fn target(object: &Value) -> String {
    format!("/v1/objects/{}", object["id"].as_str().expect("an object has an id"))
}

fn key(name: &str) -> String {
    format!("/v1/keys/models/acme/{name}")
}

fn put(server: &Server, name: &str, body: &[u8]) -> Value {
    let response = server.request("PUT", &key(name), &[], body);
    assert!(matches!(response.status, 200 | 201), "{response:?}");
    response.json()
}

fn send(connection: &mut Connection, target: &str, fields: Fields<'_>, patch: &Value) -> Response {
    let fields = [&[MERGE_PATCH], fields].concat();
    connection.exchange("PATCH", target, &fields, patch.to_string().as_bytes())
}

/// Changes an object, and gives what it is then: the same as it is afterwards.
fn patched(server: &Server, target: &str, patch: Value) -> Value {
    let response = send(&mut server.connect(), target, &[], &patch);
    assert_eq!(response.status, 200, "{patch}: {response:?}");
    let object = response.json();
    let tag = format!("\"sha256-{}\"", object["content_hash"].as_str().unwrap());
    assert_eq!(response.header("ETag"), Some(tag.as_str()));
    assert_eq!(server.get(&format!("{target}/info")).json(), object);
    object
}

fn assert_tool_is_content(tool: &str, directory: &Path) {
    let run = program().arg(tool).arg("--data-dir").arg(directory).output().expect("the program starts");
    assert!(run.status.success(), "{run:?}");
}

#[test]
fn what_is_said_of_an_object_is_merged_name_by_name() {
    let server = Server::start();
    let fields = [("X-Object-Meta-a", "1"), ("X-Object-Meta-b", "2"), ("Content-Type", "model/x")];
    let before = server.request("PUT", &key("k"), &fields, b"body").json();
    let target = target(&before);
    assert_eq!(server.get(&key("k")).status, 200, "it is remembered");
    assert_eq!(server.get(&target).status, 200);

    let after = patched(&server, &target, json!({"metadata": {"a": null, "b": "3", "c": "", "never": null}}));
    let mut expected = before.clone();
    expected["metadata"] = json!({"b": "3", "c": ""});
    assert!(after["updated_at"].as_str() > before["updated_at"].as_str());
    expected["updated_at"] = after["updated_at"].clone();
    assert_eq!(after, expected, "and nothing else changes");
    assert_eq!(server.list(SCOPE), [expected.clone()]);
    for target in [&target, &key("k")] {
        let get = server.get(target);
        assert_eq!((get.header("X-Object-Meta-a"), get.header("X-Object-Meta-b")), (None, Some("3")));
        assert_eq!(
            (get.status, &get.body[..], get.header("Content-Type")),
            (200, &b"body"[..], Some("model/x"))
        );
    }
    for nothing in [json!({}), json!({"metadata": {}}), json!({"metadata": {"b": "3"}, "key": "k"})] {
        assert_eq!(patched(&server, &target, nothing), expected, "the date stays where nothing changes");
    }
    assert_eq!(patched(&server, &target, json!({"metadata": null}))["metadata"], json!({}));
}

#[test]
fn metadata_may_be_full_after_a_patch_and_no_more() {
    let server = Server::start();
    let target = target(&put(&server, "k", b"body"));
    let most = "x".repeat(16 * 1024 - 2);
    let full = patched(&server, &target, json!({"metadata": {"a": most, "b": ""}}));
    for (patch, status) in [
        (json!({"metadata": {"b": "1"}}), 400),
        (json!({"metadata": {"c": ""}}), 400),
        (json!({"metadata": {"b": null, "c": ""}}), 200),
        (json!({"metadata": {"a": "", "d": "1"}}), 200),
    ] {
        let response = send(&mut server.connect(), &target, &[], &patch);
        match status {
            400 => {
                let problem = response.assert_problem(400, "invalid_metadata", "over");
                assert_eq!(problem["parameter"], "metadata");
                assert_eq!(server.get(&format!("{target}/info")).json(), full, "nothing has changed");
            }
            _ => assert_eq!(response.status, 200),
        }
    }
}

#[test]
fn who_gives_a_key_to_an_object_makes_the_newest_version_of_it() {
    let server = Server::start();
    let (one, two) = (put(&server, "a", b"one"), put(&server, "b", b"two"));
    let three = server.create(b"three");
    assert_eq!(server.get(&key("b")).body, b"two");
    patched(&server, &target(&one), json!({"key": "b"}));
    assert_eq!(server.get(&key("a")).status, 404);
    assert_eq!(server.get(&key("b")).body, b"one");
    patched(&server, &target(&three), json!({"key": "c/ä"}));
    assert_eq!(server.get(&key("c/%C3%A4")).body, b"three");
    let listed: Vec<Value> = server.list(SCOPE).iter().map(|object| object["id"].clone()).collect();
    assert_eq!(listed, [&three, &one, &two].map(|object| object["id"].clone()));

    patched(&server, &target(&one), json!({"key": null}));
    assert_eq!(server.get(&key("b")).body, b"two", "the version behind it");
    assert_eq!(server.get(&target(&one)).body, b"one", "it is there by its id");
    // A key that came by a patch is known to be there, and one that has gone is absent.
    assert_eq!(server.request("PUT", &key("c/%C3%A4"), &[], b"more").status, 200);
    let fields = [("If-None-Match", "*")];
    assert_eq!(server.request("PUT", &key("a"), &fields, b"new").status, 201);
    assert_eq!(server.request("PUT", &key("b"), &fields, b"new").status, 412);
    assert_eq!(server.request("DELETE", &key("b"), &[], b"").status, 204);
    assert_eq!(server.get(&target(&one)).body, b"one");
}

/// The edges of what is inside a pack, a small file, and a file of several blocks.
const SIZES: [usize; 6] = [0, 1, 16_385, 65_536, 65_537, (3 << 20) + 1];

#[test]
fn a_change_of_class_moves_the_bytes_and_nobody_notices() {
    for flags in [&["--ack", "log"][..], &["--ack", "database"], &FILES] {
        let server = Server::start_with(flags);
        for (seed, size) in SIZES.into_iter().enumerate() {
            let body = content(seed as u64, size);
            let name = format!("k{size}");
            let before = put(&server, &name, &body);
            let target = target(&before);
            for class in ["cold", "hot", "cold"] {
                assert!(server.get(&target).body == body, "{flags:?} {size}");
                let after = patched(&server, &target, json!({"storage_class": class}));
                assert_eq!(after["storage_class"], class);
                assert_eq!(after["created_at"], before["created_at"]);
                let (by_id, by_key) = (server.get(&target), server.get(&key(&name)));
                assert!(by_id.body == body && by_key.body == body, "{flags:?} {size} {class}");
                assert_eq!(by_id.header("ETag"), Some(etag(&body).as_str()));
                let listed = server.list(&format!("{SCOPE}&storage_class={class}"));
                assert!(listed.contains(&after), "{flags:?} {size} {class}");
            }
        }
        assert_eq!(server.list(&format!("{SCOPE}&storage_class=hot")), Vec::<Value>::new());
        let files = server.files("blobs");
        assert!(files.iter().any(|file| file.to_string_lossy().contains("/cold/")), "{files:?}");
        assert_tool_is_content("validate", server.directory().path());
    }
}

#[test]
fn a_content_that_is_in_the_other_class_already_is_kept_once() {
    let server = Server::start_with(&FILES);
    let body = content(1, 100_000);
    let (one, two) = (server.create(&body), server.create(&body));
    patched(&server, &target(&one), json!({"storage_class": "cold"}));
    assert_eq!(server.files("blobs").len(), 2);
    patched(&server, &target(&two), json!({"storage_class": "cold"}));
    assert_eq!(server.files("blobs").len(), 2, "the copy was not needed");
    assert!(server.get(&target(&two)).body == body);
    // One that turns out lost there gives way.
    let is_cold = |path: &std::path::PathBuf| path.to_string_lossy().contains("/cold/");
    let lost = server.files("blobs").into_iter().find(is_cold).unwrap();
    let three = server.create(&body);
    fs::remove_file(lost).unwrap();
    patched(&server, &target(&three), json!({"storage_class": "cold"}));
    for object in [one, two, three] {
        assert!(server.get(&target(&object)).body == body);
    }
}

#[test]
fn bytes_that_are_damaged_do_not_move() {
    let server = Server::start_with(&FILES);
    for (number, length) in [100, 100_000].into_iter().enumerate() {
        let before = server.create(&content(number as u64, length));
        let hash = before["content_hash"].as_str().unwrap();
        let file =
            server.files("blobs").into_iter().find(|path| path.to_string_lossy().contains(hash)).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[length / 2] ^= 1;
        fs::write(&file, bytes).unwrap();
        let files = server.files("blobs");
        let response = send(&mut server.connect(), &target(&before), &[], &json!({"storage_class": "cold"}));
        response.assert_problem(500, "blob_damaged", &length.to_string());
        assert_eq!(server.get(&format!("{}/info", target(&before))).json(), before);
        assert_eq!(server.files("blobs"), files, "nothing is left of the copy, and nothing is lost");
        let said = patched(&server, &target(&before), json!({"metadata": {"seen": "damaged"}}));
        assert_eq!(said["storage_class"], "hot", "its words need no bytes");
    }
}

#[test]
fn a_download_that_has_begun_goes_on_while_the_bytes_move() {
    let server = Server::start();
    // More than both sockets' buffers hold, so that the end is not read before the client reads.
    let body = content(1, 32 << 20);
    let target = target(&server.create(&body));
    let mut connection = server.connect();
    connection.send(request("GET", &target, &[], b""));
    assert_eq!(connection.status_ahead(), 200);
    patched(&server, &target, json!({"storage_class": "cold", "metadata": {"moved": "yes"}}));
    assert!(connection.response().body == body);
    assert!(server.get(&target).body == body);
}

#[test]
fn conditions_are_held_against_the_object_as_it_is() {
    let server = Server::start();
    let before = server.create(b"body");
    let target = target(&before);
    let (own, other) = (etag(b"body"), etag(b"other"));
    let weak = format!("W/{own}");
    let (past, future) = ("Sun, 09 Sep 2001 01:46:40 GMT", "Fri, 31 Dec 2100 23:59:59 GMT");
    for (name, value, holds) in [
        ("If-Match", own.as_str(), true),
        ("If-Match", "*", true),
        ("If-Match", other.as_str(), false),
        ("If-Match", weak.as_str(), false),
        ("If-None-Match", own.as_str(), false),
        ("If-None-Match", "*", false),
        ("If-None-Match", other.as_str(), true),
        ("If-Unmodified-Since", past, false),
        ("If-Unmodified-Since", future, true),
        ("If-Unmodified-Since", "yesterday", true),
        ("If-Modified-Since", future, true),
    ] {
        // Also where nothing would change: the condition is what is asked first.
        for patch in [json!({"metadata": {"try": format!("{name} {}", value.len())}}), json!({})] {
            let response = send(&mut server.connect(), &target, &[(name, value)], &patch);
            match holds {
                true => assert_eq!(response.status, 200, "{name}: {value}: {response:?}"),
                false => drop(response.assert_problem(412, "precondition_failed", name)),
            }
        }
    }
    let absent = format!("/v1/objects/{}", uuid::Uuid::now_v7());
    let response = send(&mut server.connect(), &absent, &[("If-Match", "*")], &json!({}));
    response.assert_problem(404, "not_found", "what is not there has no condition");
}

#[test]
fn what_is_no_merge_patch_is_refused_and_changes_nothing() {
    let server = Server::start();
    let before = server.create(b"body");
    let target = target(&before);
    let mut connection = server.connect();
    for media_type in ["application/json", "application/json-patch+json", "text/plain", "x", ""] {
        let fields = [("Content-Type", media_type)];
        let fields = if media_type.is_empty() { &[][..] } else { &fields };
        let response = connection.exchange("PATCH", &target, fields, br#"{"key":"k"}"#);
        response.assert_problem(415, "unsupported_patch", media_type);
        assert_eq!(response.header("Accept-Patch"), Some("application/merge-patch+json"), "{media_type}");
    }
    let coded = [MERGE_PATCH, ("Content-Encoding", "gzip")];
    let response = connection.exchange("PATCH", &target, &coded, b"{}");
    response.assert_problem(415, "unsupported_content_encoding", "gzip");
    for (body, code, name) in [
        ("", "invalid_patch", Value::Null),
        ("null", "invalid_patch", Value::Null),
        ("[]", "invalid_patch", Value::Null),
        ("{\"key\":", "invalid_patch", Value::Null),
        (r#"{"size_bytes":1}"#, "unknown_parameter", json!("size_bytes")),
        (r#"{"key":"k","id":null}"#, "unknown_parameter", json!("id")),
        (r#"{"key":"a/../b"}"#, "invalid_parameter", json!("key")),
        (r#"{"storage_class":"warm"}"#, "invalid_parameter", json!("storage_class")),
        (r#"{"storage_class":null}"#, "invalid_parameter", json!("storage_class")),
        (r#"{"metadata":{"A":"b"}}"#, "invalid_metadata", json!("metadata.A")),
        (r#"{"metadata":{"a":1}}"#, "invalid_metadata", json!("metadata.a")),
        (r#"{"metadata":{"a":"1","a":"2"}}"#, "repeated_parameter", json!("metadata.a")),
    ] {
        let response = connection.exchange("PATCH", &target, &[MERGE_PATCH], body.as_bytes());
        assert_eq!(response.assert_problem(400, code, body)["parameter"], name, "{body}");
    }
    let response = connection.exchange("PATCH", &format!("{target}?x=1"), &[MERGE_PATCH], b"{}");
    assert_eq!(response.assert_problem(400, "unknown_parameter", "a query")["parameter"], "x");
    let with_charset = [("Content-Type", "Application/Merge-Patch+JSON; charset=utf-8")];
    assert_eq!(connection.exchange("PATCH", &target, &with_charset, b"{}").status, 200);
    assert_eq!(server.list(SCOPE), [before]);
}

#[test]
fn a_patch_over_the_limit_is_refused_and_one_at_it_is_taken() {
    let server = Server::start();
    let target = target(&server.create(b"body"));
    let patch = |bytes: usize| {
        let patch = r#"{"key":"k"}"#;
        format!("{}{patch}", " ".repeat(bytes - patch.len()))
    };
    let at_limit = server.request("PATCH", &target, &[MERGE_PATCH], patch(PATCH_BYTES_MAX).as_bytes());
    assert_eq!((at_limit.status, &at_limit.json()["key"]), (200, &json!("k")));
    let mut connection = server.connect();
    let over = connection.exchange("PATCH", &target, &[MERGE_PATCH], patch(PATCH_BYTES_MAX + 1).as_bytes());
    over.assert_problem(413, "body_too_large", "over the limit");
    assert!(over.closes());
    connection.assert_closed();
}

#[test]
fn changes_that_meet_are_all_made() {
    for flags in [&["--ack", "log"][..], &["--ack", "database"]] {
        let server = Server::start_with(flags);
        let target = target(&put(&server, "k", &content(1, 100_000)));
        // A try is lost to a change of another alone: of 30, nobody loses the 32 that there are.
        let clients = 6;
        thread::scope(|scope| {
            for client in 0..clients {
                let (server, target) = (&server, &target);
                scope.spawn(move || {
                    let mut connection = server.connect();
                    for round in 0..5 {
                        let class = if (client + round) % 4 == 0 { json!("cold") } else { json!("hot") };
                        let name = format!("{client}.{round}");
                        let mut patch = json!({"metadata": {name: "said"}});
                        if client < 2 {
                            patch["storage_class"] = class;
                        }
                        let response = send(&mut connection, target, &[], &patch);
                        assert_eq!(response.status, 200, "{response:?}");
                    }
                });
            }
        });
        let info = server.get(&format!("{target}/info")).json();
        assert_eq!(info["metadata"].as_object().unwrap().len(), clients * 5, "{flags:?}");
        assert!(server.get(&key("k")).body == content(1, 100_000));
        assert_tool_is_content("validate", server.directory().path());
    }
}

#[test]
fn readers_beside_a_move_always_get_the_bytes() {
    let server = Server::start();
    let bodies = [content(1, 3_000), content(2, 300_000)];
    let targets = [0, 1].map(|index| target(&put(&server, &format!("k{index}"), &bodies[index])));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for index in [0, 1] {
            let (server, bodies, targets, stop) = (&server, &bodies, &targets, &stop);
            scope.spawn(move || {
                let mut connection = server.connect();
                while !stop.load(Ordering::Relaxed) {
                    for target in [&targets[index], &key(&format!("k{index}"))] {
                        let get = connection.exchange("GET", target, &[], b"");
                        assert!(get.status == 200 && get.body == bodies[index], "{}", get.status);
                    }
                }
            });
        }
        for round in 0..20 {
            for target in &targets {
                patched(
                    &server,
                    target,
                    json!({"storage_class": if round % 2 == 0 { "cold" } else { "hot" }}),
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_change_outlives_a_kill_and_the_loss_of_the_database() {
    let mut server = Server::start_with(&["--ack", "log"]);
    let directory = server.directory();
    let bodies = [content(1, 500), content(2, 100_000)];
    for (index, body) in bodies.iter().enumerate() {
        let target = target(&put(&server, &format!("k{index}"), body));
        patched(&server, &target, json!({"metadata": {"a": "1"}}));
        patched(&server, &target, json!({"key": format!("moved{index}"), "storage_class": "cold"}));
        let stale = [("If-Unmodified-Since", "Sun, 09 Sep 2001 01:46:40 GMT")];
        let refused = send(&mut server.connect(), &target, &stale, &json!({"metadata": null}));
        assert_eq!(refused.status, 412);
    }
    let before = server.list(SCOPE);
    server.kill();
    let mut server = Server::start_on(&directory, &["--ack", "log"]);
    assert_eq!(server.list(SCOPE), before);
    server.kill();
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(directory.path().join(name));
    }
    assert_tool_is_content("rebuild", directory.path());
    let server = Server::start_on(&directory, &["--ack", "log"]);
    assert_eq!(server.list(SCOPE), before);
    for (index, body) in bodies.iter().enumerate() {
        assert!(server.get(&key(&format!("moved{index}"))).body == *body);
        assert_eq!(server.get(&key(&format!("k{index}"))).status, 404);
    }
}
