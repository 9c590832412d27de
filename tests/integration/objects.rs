//! Objects by id: stored, read, looked at and forgotten, whatever their size, class and framing.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::thread;
use std::time::SystemTime;

use serde_json::{Value, json};
use ureq::SendBody;

use crate::content::{chunked, content, etag, repr_digest, sha256_hex};
use crate::raw::Response;
use crate::server::{FILES, SCOPE, Server, wait_until};

/// The edges of what the server treats differently: inline and block by block (16 KiB), small and large blocks
/// (1 MiB), and bodies of several large blocks.
const SIZES: [usize; 12] =
    [0, 1, 4095, 4097, 16_383, 16_384, 16_385, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20];

/// A client that others wrote: what it understands, users' clients understand.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    config.build().new_agent()
}

fn target(object: &Value) -> String {
    format!("/v1/objects/{}", object["id"].as_str().expect("an object has an id"))
}

#[test]
fn post_answers_with_the_whole_object_and_info_says_the_same() {
    let server = Server::start();
    let fields = [("Content-Type", "text/plain; charset=utf-8"), ("X-Object-Meta-Framework", "torch 2.4")];
    let query = format!("/v1/objects?{SCOPE}&key=llama%2Fmodel+1.bin&storage_class=cold");
    let response = server.request("POST", &query, &fields, b"some bytes");

    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    assert_eq!(response.header("ETag"), Some(etag(b"some bytes").as_str()));
    let object = response.json();
    assert_eq!(response.header("Location"), Some(target(&object).as_str()));

    let id = uuid::Uuid::parse_str(object["id"].as_str().unwrap()).unwrap();
    assert_eq!(id.get_version_num(), 7);
    for date in ["created_at", "updated_at"] {
        let text = object[date].as_str().unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.len() == 24 && text.ends_with('Z'), "{text}");
    }
    let expected = json!({
        "id": object["id"], "namespace": "models", "tenant_id": "acme", "key": "llama/model 1.bin",
        "status": "COMMITTED", "storage_class": "cold",
        "content_hash": sha256_hex(b"some bytes"), "size_bytes": 10,
        "content_type": "text/plain; charset=utf-8", "metadata": {"framework": "torch 2.4"},
        "created_at": object["created_at"], "updated_at": object["updated_at"],
    });
    assert_eq!(object, expected);
    let info = server.get(&format!("{}/info", target(&object)));
    assert_eq!((info.status, info.json()), (200, expected));
}

#[test]
fn what_was_not_said_has_its_default() {
    let object = Server::start().create(b"x");
    assert_eq!(object["key"], Value::Null);
    assert_eq!(object["storage_class"], "hot");
    assert_eq!(object["content_type"], "application/octet-stream");
    assert_eq!(object["metadata"], json!({}));
}

#[test]
fn a_download_has_every_field_of_the_contract_and_head_has_the_same() {
    let server = Server::start();
    for length in [0, 9, 16_385, 3 << 20] {
        let body = content(7, length);
        let fields =
            [("Content-Type", "model/x"), ("x-object-meta-a", "1"), ("X-Object-Meta-B", "two words")];
        let object = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, &body).json();
        let get = server.get(&target(&object));
        assert_eq!(get.status, 200);
        assert!(get.body == body, "{length} bytes come back as they went");
        assert_download_fields(&get, &object, &body);

        let head = server.request("HEAD", &target(&object), &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
        let lasting = |response: &Response| {
            let own = |name: &str| !matches!(name, "Date" | "X-Request-Id");
            let fields = response.headers.iter().filter(|(name, _)| own(name)).cloned();
            fields.collect::<BTreeSet<_>>()
        };
        assert_eq!(lasting(&head), lasting(&get), "{length} bytes");
    }
}

fn assert_download_fields(response: &Response, object: &Value, body: &[u8]) {
    let expected = [
        ("ETag", etag(body)),
        ("Repr-Digest", repr_digest(body)),
        ("Content-Type", "model/x".to_owned()),
        ("Content-Length", body.len().to_string()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("Cache-Control", "private, no-cache".to_owned()),
        ("Vary", "Authorization, X-API-Key".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("Content-Security-Policy", "sandbox; default-src 'none'".to_owned()),
        ("X-Object-Meta-a", "1".to_owned()),
        ("X-Object-Meta-b", "two words".to_owned()),
    ];
    for (name, value) in &expected {
        assert_eq!(response.header(name), Some(value.as_str()), "{name}");
    }
    let updated: jiff::Timestamp = object["updated_at"].as_str().unwrap().parse().unwrap();
    let modified = httpdate::parse_http_date(response.header("Last-Modified").unwrap()).unwrap();
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(
        modified,
        updated.as_second().unsigned_abs(),
        "a date of whole seconds, never after the change"
    );
    // RFC 9110 §6.6.1: an origin server with a clock says when it answered.
    assert!(httpdate::parse_http_date(response.header("Date").unwrap()).is_ok());
    assert!(!response.header("X-Request-Id").unwrap().is_empty());
}

#[test]
fn every_size_comes_back_byte_for_byte_whatever_its_framing() {
    let (server, agent) = (Server::start(), agent());
    let url = server.url(&format!("/v1/objects?{SCOPE}"));
    for (seed, length) in SIZES.into_iter().enumerate() {
        for framing in ["Content-Length", "chunked"] {
            // Contents differ, so that none of them is served from what the other one left.
            let body = content(seed as u64 * 2 + u64::from(framing == "chunked"), length);
            let mut reader = Cursor::new(&body);
            let request = agent.post(&url);
            let sent = match framing {
                "chunked" => request.send(SendBody::from_reader(&mut reader)),
                _ => request.send(&body[..]),
            };
            let mut created = sent.unwrap();
            let object: Value = serde_json::from_slice(&created.body_mut().read_to_vec().unwrap()).unwrap();
            assert_eq!(created.status(), 201, "{length} bytes, {framing}: {object}");
            assert_eq!(object["size_bytes"], length, "{framing}");
            assert_eq!(object["content_hash"], sha256_hex(&body), "{length} bytes, {framing}");

            // Twice: from the disk, and from whatever the first time left in memory.
            for _ in 0..2 {
                let mut got = agent.get(server.url(&target(&object))).call().unwrap();
                assert_eq!(got.status(), 200);
                let got = got.body_mut().read_to_vec().unwrap();
                assert!(got == body, "{length} bytes, {framing}: they come back as they went");
            }
        }
    }
}

#[test]
fn an_empty_object_is_an_object() {
    let server = Server::start();
    let object = server.create(b"");
    assert_eq!((&object["size_bytes"], &object["content_hash"]), (&json!(0), &json!(sha256_hex(b""))));
    let got = server.get(&target(&object));
    assert_eq!((got.status, got.header("Content-Length"), got.body.len()), (200, Some("0"), 0));
}

#[test]
fn metadata_comes_back_in_lower_case_with_its_values_untouched() {
    let server = Server::start();
    let fields = [
        ("X-Object-Meta-UPPER", "Mixed Case  two spaces"),
        ("x-object-meta-empty", ""),
        ("X-Object-Meta-sym.bol_s", r#"~!@#$%^&*()"\'<>{}"#),
        ("X-Other", "not metadata"),
    ];
    let response = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, b"x");
    assert_eq!(response.status, 201, "{response:?}");
    let object = response.json();
    let expected = json!({
        "upper": "Mixed Case  two spaces", "empty": "", "sym.bol_s": r#"~!@#$%^&*()"\'<>{}"#,
    });
    assert_eq!(object["metadata"], expected);
    let got = server.get(&target(&object));
    assert_eq!(got.header("X-Object-Meta-upper"), Some("Mixed Case  two spaces"));
    assert_eq!(got.header("X-Object-Meta-empty"), Some(""));
    assert_eq!(got.header("X-Object-Meta-sym.bol_s"), Some(r#"~!@#$%^&*()"\'<>{}"#));
    assert_eq!(got.header("X-Other"), None);
}

#[test]
fn metadata_is_taken_up_to_16_kib_in_all() {
    let server = Server::start();
    let (name, value) = ("X-Object-Meta-abcd", "v".repeat(8 * 1024 - 4));
    // The second name is one byte longer, so that its value must be one shorter.
    let full = "w".repeat(8 * 1024 - 5);
    let fields = [(name, value.as_str()), ("X-Object-Meta-abcde", full.as_str())];
    let response = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, b"x");
    assert_eq!(response.status, 201, "{response:?}");
    let over = format!("{full}w");
    let fields = [(name, value.as_str()), ("X-Object-Meta-abcde", over.as_str())];
    let response = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, b"x");
    response.assert_problem(400, "invalid_metadata", "one byte over");
}

#[test]
fn content_types_are_kept_as_they_came() {
    let server = Server::start();
    for content_type in ["text/html", "application/json;charset=\"utf-8\"", "a/b; c=d; e=\"f;g\"", "X/Y"] {
        let fields = [("Content-Type", content_type)];
        let created = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, b"x").json();
        assert_eq!(created["content_type"], content_type);
        assert_eq!(server.get(&target(&created)).header("Content-Type"), Some(content_type));
    }
}

#[test]
fn a_content_is_kept_once_in_each_class_however_often_it_comes() {
    let server = Server::start_with(&FILES);
    for (seed, length) in [(1, 100), (2, 300_000)] {
        let body = content(seed, length);
        let (before, hash) = (server.files("blobs").len(), sha256_hex(&body));
        let queries = [
            format!("{SCOPE}&storage_class=hot"),
            format!("{SCOPE}&storage_class=hot&key=k"),
            "namespace=other&tenant_id=other".to_owned(),
            format!("{SCOPE}&storage_class=cold"),
            format!("{SCOPE}&storage_class=cold"),
        ];
        let objects = queries.map(|query| {
            let response = server.request("POST", &format!("/v1/objects?{query}"), &[], &body);
            assert_eq!(response.status, 201, "{response:?}");
            response.json()
        });
        assert_eq!(server.files("blobs").len() - before, 2, "one file hot and one cold of {length} bytes");
        for class in ["hot", "cold"] {
            let files = crate::server::files_below(&server.directory().path().join(class).join("blobs"));
            let name = |path: &std::path::PathBuf| path.to_string_lossy().contains(&hash);
            assert_eq!(files.iter().filter(|path| name(path)).count(), 1, "{class}: {files:?}");
        }
        // Each is an object of its own: when one goes, the others stay.
        assert_eq!(server.request("DELETE", &target(&objects[0]), &[], b"").status, 204);
        for object in &objects[1..] {
            assert!(server.get(&target(object)).body == body);
        }
    }
}

#[test]
fn the_same_content_from_many_at_once_is_kept_once() {
    let server = Server::start_with(&FILES);
    let bodies = [content(1, 1000), content(2, 200_000)];
    let objects: Vec<Value> = thread::scope(|scope| {
        let upload = |index: usize| {
            let (server, body) = (&server, &bodies[index % 2]);
            scope.spawn(move || server.create(body))
        };
        let uploads: Vec<_> = (0..16).map(upload).collect();
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    assert_eq!(server.files("blobs").len(), 2, "{:?}", server.files("blobs"));
    let ids: BTreeSet<_> = objects.iter().map(target).collect();
    assert_eq!(ids.len(), 16);
    for (index, object) in objects.iter().enumerate() {
        assert!(server.get(&target(object)).body == bodies[index % 2], "{object}");
    }
}

#[test]
fn a_cold_object_lies_in_the_cold_root_alone() {
    let server = Server::start_with(&FILES);
    let query = format!("/v1/objects?{SCOPE}&storage_class=cold");
    let created = server.request("POST", &query, &[], b"cold bytes").json();
    let files = server.files("blobs");
    assert_eq!(files.len(), 1);
    assert!(files[0].starts_with(server.directory().path().join("cold")), "{files:?}");
    assert_eq!(server.get(&target(&created)).body, b"cold bytes");
}

#[test]
fn a_deleted_object_is_gone_for_every_method() {
    let server = Server::start();
    let (gone, stays) = (server.create(b"gone"), server.create(b"stays"));
    // Read first, so that a remembered object would be noticed.
    assert_eq!(server.get(&target(&gone)).status, 200);
    let deleted = server.request("DELETE", &target(&gone), &[], b"");
    assert_eq!((deleted.status, deleted.header("Content-Length")), (204, None));
    for (method, suffix) in [("DELETE", ""), ("GET", ""), ("GET", "?"), ("DELETE", "")] {
        let response = server.request(method, &format!("{}{suffix}", target(&gone)), &[], b"");
        response.assert_problem(404, "not_found", method);
    }
    assert_eq!(server.request("HEAD", &target(&gone), &[], b"").status, 404);
    assert_eq!(server.list(SCOPE).iter().map(target).collect::<Vec<_>>(), [target(&stays)]);
    assert_eq!(server.get(&target(&stays)).body, b"stays");
}

#[test]
fn an_id_that_nobody_has_is_not_found() {
    let server = Server::start();
    let id = uuid::Uuid::now_v7();
    for (method, suffix) in [("GET", ""), ("DELETE", ""), ("GET", "/info")] {
        let response = server.request(method, &format!("/v1/objects/{id}{suffix}"), &[], b"");
        let problem = response.assert_problem(404, "not_found", method);
        assert_eq!(problem["instance"], format!("/v1/objects/{id}{suffix}"));
    }
}

#[test]
fn an_object_is_served_to_nobody_before_it_is_whole() {
    let server = Server::start();
    let body = content(5, 400_000);
    let (first, rest) = body.split_at(150_000);
    let mut upload = server.connect();
    upload.send(format!(
        "POST /v1/objects?{SCOPE}&key=slow HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n"
    ));
    upload.send(first);
    let writing = wait_until("the object is being written", || {
        server.list(&format!("{SCOPE}&status=WRITING")).into_iter().next()
    });
    let unknown = (&Value::Null, &Value::Null);
    assert_eq!(
        (&writing["content_hash"], &writing["size_bytes"]),
        unknown,
        "not left out, and not known yet"
    );
    assert_eq!((&writing["status"], &writing["key"]), (&json!("WRITING"), &json!("slow")));
    assert_eq!(server.get(&target(&writing)).status, 404);
    assert_eq!(server.get("/v1/keys/models/acme/slow").status, 404);
    assert!(server.list(SCOPE).is_empty());
    assert_eq!(server.files("blobs").len(), 0, "no file has a name before it is whole");

    upload.send(rest);
    let response = upload.response();
    assert_eq!((response.status, &response.json()["id"]), (201, &writing["id"]));
    assert!(server.get(&target(&writing)).body == body);
    assert!(server.list(&format!("{SCOPE}&status=WRITING")).is_empty());
}

#[test]
fn a_chunked_body_is_the_same_object_wherever_it_is_cut() {
    let server = Server::start_with(&FILES);
    let body = content(6, 50_000);
    for chunk_bytes in [1000, 16_384, 49_999, 50_000] {
        let sent = chunked(&body, chunk_bytes, &[]);
        let fields = [("Transfer-Encoding", "chunked")];
        let response = server.request("POST", &format!("/v1/objects?{SCOPE}"), &fields, &sent);
        assert_eq!(response.status, 201, "{response:?}");
        assert_eq!(response.json()["content_hash"], sha256_hex(&body), "chunks of {chunk_bytes}");
    }
    assert_eq!(server.files("blobs").len(), 1);
}
