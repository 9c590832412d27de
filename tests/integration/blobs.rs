//! Contents by what they are: who has them, how long they are kept, and objects that are made of them without a byte.

use std::thread;

use serde_json::{Value, json};

use crate::content::{chunked, content, etag, repr_digest, sha256_hex};
use crate::maintenance::{sql, tool};
use crate::raw::{Connection, Response};
use crate::server::{FILES, SCOPE, Server};
use crate::throwaway_postgres::ThrowawayPostgres;
use crate::tokens::{SECRET, claims, strict_server, token, token_of, with_token};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";
const KEY: &str = "/v1/keys/models/acme/k";
const REFERENCE: &str = "X-Blob-Reference";

fn digest(body: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(body))
}

fn blob(body: &[u8]) -> String {
    format!("/v1/blobs/{}?tenant_id=acme", digest(body))
}

fn missing_of(response: &Response) -> Vec<String> {
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    assert_eq!(answer["lease_seconds"], 600);
    let missing = answer["missing"].as_array().unwrap();
    missing.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn ask_of(connection: &mut Connection, tenant_id: &str, digests: &[String]) -> Vec<String> {
    let body = json!({ "digests": digests }).to_string();
    let target = format!("/v1/blobs/missing?tenant_id={tenant_id}");
    missing_of(&connection.exchange("POST", &target, &[], body.as_bytes()))
}

/// Every way of keeping bytes and metadata that a server has.
fn on_every_kind_of_server(test: impl Fn(&Server)) {
    let postgres = ThrowawayPostgres::start();
    let url = postgres.database();
    for flags in [&[][..], &FILES, &["--ack", "database"], &["--database-url", &url]] {
        test(&Server::start_with(flags));
    }
}

#[test]
fn a_content_is_served_as_it_is_and_may_be_kept_for_ever() {
    on_every_kind_of_server(|server| {
        for body in [content(1, 5), content(2, 300_000), Vec::new()] {
            let fields = [("Content-Type", "model/x"), ("X-Object-Meta-Framework", "torch")];
            assert_eq!(server.request("PUT", KEY, &fields, &body).status, 201);
            let get = server.get(&blob(&body));
            assert!(get.status == 200 && get.body == body, "{get:?}");
            let head = server.request("HEAD", &blob(&body), &[], b"");
            assert_eq!((head.status, head.body.len()), (200, 0));
            let length = body.len().to_string();
            for response in [&get, &head] {
                for (name, value) in [
                    ("ETag", etag(&body).as_str()),
                    ("Repr-Digest", &repr_digest(&body)),
                    ("Content-Length", &length),
                    ("Content-Type", "application/octet-stream"),
                    ("Cache-Control", "private, max-age=31536000, immutable"),
                    ("Accept-Ranges", "bytes"),
                    ("Vary", "Authorization, X-API-Key"),
                    ("X-Content-Type-Options", "nosniff"),
                    ("Content-Security-Policy", "sandbox; default-src 'none'"),
                ] {
                    assert_eq!(response.header(name), Some(value), "{name}");
                }
                assert!(response.header("Last-Modified").is_some());
                assert_eq!(response.header("X-Object-Meta-framework"), None);
                let caching = response.headers.iter().filter(|(name, _)| name == "Cache-Control");
                assert_eq!(caching.count(), 1);
            }
            assert_eq!(server.request("DELETE", KEY, &[], b"").status, 204);
            let gone = server.get(&blob(&body));
            gone.assert_problem(404, "not_found", "nothing names it any more");
            assert_eq!(gone.header("Cache-Control"), Some("no-store"));
        }
    });
}

#[test]
fn ranges_and_conditions_are_those_of_objects() {
    let server = Server::start();
    let body = content(1, 1000);
    let object = server.create(&body);
    let target = blob(&body);
    let range = server.request("GET", &target, &[("Range", "bytes=10-19")], b"");
    assert_eq!((range.status, &range.body[..]), (206, &body[10..20]));
    assert_eq!(range.header("Content-Range"), Some("bytes 10-19/1000"));
    assert_eq!(range.header("Cache-Control"), Some("private, max-age=31536000, immutable"));
    let beyond = server.request("GET", &target, &[("Range", "bytes=1000-")], b"");
    beyond.assert_problem(416, "range_not_satisfiable", "beyond its end");
    let not_modified = server.request("GET", &target, &[("If-None-Match", &etag(&body))], b"");
    assert_eq!((not_modified.status, not_modified.body.len()), (304, 0));
    let failed = server.request("GET", &target, &[("If-Match", &etag(b"other"))], b"");
    failed.assert_problem(412, "precondition_failed", "another content");
    let whole = [("Range", "bytes=0-1"), ("If-Range", &*etag(b"other"))];
    assert_eq!(server.request("GET", &target, &whole, b"").status, 200);
    let of_object = server.get(&format!("/v1/objects/{}", object["id"].as_str().unwrap()));
    assert_eq!(server.get(&target).header("Last-Modified"), of_object.header("Last-Modified"));
}

#[test]
fn tenants_learn_nothing_of_each_others_contents() {
    let postgres = ThrowawayPostgres::start();
    let url = postgres.database();
    for flags in [&[][..], &["--database-url", &url]] {
        let server = strict_server(flags);
        let bodies = [content(1, 100), content(2, 300_000)];
        for (tenant, namespace) in [("acme", "models"), ("acme", "data"), ("second", "models")] {
            let body = &bodies[usize::from(namespace == "data")];
            let target = format!("/v1/objects?namespace={namespace}&tenant_id={tenant}");
            assert_eq!(with_token(&server, &token_of(tenant), "POST", &target, body).status, 201);
        }
        let absent = content(9, 100);
        let mut of_models = claims("acme", "read write");
        of_models["namespaces"] = json!(["models"]);
        let mut of_nothing = claims("acme", "read write");
        of_nothing["namespaces"] = json!([]);
        for (shown, tenant, has) in [
            // A lease is good for its whole tenant: whoever reaches least comes first.
            (token(&of_nothing), "acme", [false, false]),
            (token(&of_models), "acme", [true, false]),
            (token_of("acme"), "acme", [true, true]),
            (token_of("second"), "second", [true, false]),
            (token_of("third"), "third", [false, false]),
            (token_of("*"), "second", [true, false]),
            (token_of("*"), "nobody", [false, false]),
        ] {
            let field = format!("Bearer {shown}");
            for (body, has) in bodies.iter().zip(has) {
                let ask = |method: &str, body: &[u8], fields: &[(&str, &str)]| {
                    let target = format!("/v1/blobs/{}?tenant_id={tenant}", digest(body));
                    let fields = [&[("Authorization", &*field), ("X-Request-Id", "same")], fields].concat();
                    server.request(method, &target, &fields, b"")
                };
                for fields in [&[][..], &[("Range", "bytes=0-0")], &[("If-None-Match", "*")]] {
                    for method in ["GET", "HEAD"] {
                        let (foreign, none) = (ask(method, body, fields), ask(method, &absent, fields));
                        assert_eq!(none.status, 404);
                        assert_eq!(foreign.status != 404, has, "{tenant}: {foreign:?}");
                        if !has {
                            assert_same(&foreign, &none, [&digest(body), &digest(&absent)]);
                        }
                    }
                }
                let refer = |body: &[u8]| {
                    let target = format!("/v1/objects?namespace=models&tenant_id={tenant}");
                    let reference = digest(body);
                    let fields =
                        [("Authorization", &*field), ("X-Request-Id", "same"), (REFERENCE, &reference)];
                    server.request("POST", &target, &fields, b"")
                };
                if !has {
                    let (foreign, none) = (refer(body), refer(&absent));
                    assert_same(&foreign, &none, [&digest(body), &digest(&absent)]);
                }
            }
            let digests: Vec<_> = bodies.iter().chain([&absent]).map(|body| digest(body)).collect();
            let target = format!("/v1/blobs/missing?tenant_id={tenant}");
            let body = json!({ "digests": digests }).to_string();
            let missing = missing_of(&with_token(&server, &shown, "POST", &target, body.as_bytes()));
            let expected = digests
                .iter()
                .zip([has[0], has[1], false])
                .filter(|(_, has)| !has)
                .map(|(text, _)| text.clone());
            assert_eq!(missing, expected.collect::<Vec<_>>(), "{tenant}");
        }
    }
}

/// All but the date and the digest in the path.
fn assert_same(one: &Response, other: &Response, digests: [&str; 2]) {
    let plain = |response: &Response| {
        let headers = response.headers.iter().filter(|(name, _)| name != "Date");
        let headers: Vec<_> = headers.cloned().collect();
        let mut body = String::from_utf8(response.body.clone()).unwrap();
        for digest in digests {
            body = body.replace(digest, "…");
        }
        (response.status, headers, body)
    };
    assert_eq!(plain(one), plain(other));
}

#[test]
fn what_is_not_missing_is_kept_after_its_object() {
    on_every_kind_of_server(|server| {
        let mut connection = server.connect();
        let bodies = [content(1, 100), content(2, 300_000), content(3, 100)];
        let ids: Vec<Value> = bodies[..2].iter().map(|body| server.create(body)["id"].clone()).collect();
        let digests: Vec<_> = bodies.iter().map(|body| digest(body)).collect();
        assert_eq!(ask_of(&mut connection, "acme", &digests), digests[2..]);
        for id in ids {
            let target = format!("/v1/objects/{}", id.as_str().unwrap());
            assert_eq!(connection.exchange("DELETE", &target, &[], b"").status, 204);
        }
        // A lease is its tenant's alone.
        assert_eq!(ask_of(&mut connection, "other", &digests), digests);
        assert_eq!(ask_of(&mut connection, "acme", &digests), digests[2..]);
        for body in &bodies[..2] {
            let get = connection.exchange("GET", &blob(body), &[], b"");
            assert!(get.status == 200 && get.body == *body);
            let foreign = format!("/v1/blobs/{}?tenant_id=other", digest(body));
            connection.exchange("GET", &foreign, &[], b"").assert_problem(
                404,
                "not_found",
                "a foreign lease",
            );
            let fields = [(REFERENCE, &*digest(body))];
            let made = connection.exchange("POST", UPLOAD, &fields, b"");
            assert_eq!(made.status, 201, "{made:?}");
            let target = format!("/v1/objects/{}", made.json()["id"].as_str().unwrap());
            assert!(connection.exchange("GET", &target, &[], b"").body == *body);
        }
    });
}

#[test]
fn a_collector_keeps_what_is_leased() {
    let server = Server::start_with(&FILES);
    let (leased, not) = (content(1, 100), content(2, 100));
    let ids = [server.create(&leased), server.create(&not)].map(|object| object["id"].clone());
    assert_eq!(ask_of(&mut server.connect(), "acme", &[digest(&leased)]), Vec::<String>::new());
    for id in ids {
        let target = format!("/v1/objects/{}", id.as_str().unwrap());
        assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
    }
    let directory = server.directory();
    // As if more than the grace and less than the lease had passed.
    sql(directory.path(), "UPDATE clock SET ticks = ticks + 300000");
    let told = tool(directory.path(), &["gc", "--dry-run", "--gc-grace-secs", "60"]).assert_code(0);
    assert!(told.contains("a lease on it is good for"), "{told}");
    tool(directory.path(), &["gc", "--gc-grace-secs", "60"]).assert_code(0);
    assert_eq!(server.files("blobs").len(), 1);
    assert!(server.get(&blob(&leased)).body == leased);
    server.get(&blob(&not)).assert_problem(404, "not_found", "it was not leased");
    let made = server.request("PUT", KEY, &[(REFERENCE, &digest(&leased))], b"");
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(server.request("DELETE", KEY, &[], b"").status, 204);
    // And when the lease and the grace after it are over.
    sql(directory.path(), "UPDATE clock SET ticks = ticks + 1000000");
    tool(directory.path(), &["gc", "--gc-grace-secs", "60"]).assert_code(0);
    assert_eq!(server.files("blobs").len(), 0);
    server.get(&blob(&leased)).assert_problem(404, "not_found", "its lease is over");
    assert_eq!(ask_of(&mut server.connect(), "acme", &[digest(&leased)]), [digest(&leased)]);
}

#[test]
fn missing_tells_each_digest_once_in_its_order_and_takes_ten_thousand() {
    let server = Server::start();
    let mut connection = server.connect();
    let there = content(1, 10);
    server.create(&there);
    let absent = |number: u64| digest(&number.to_le_bytes());
    let asked = [absent(3), digest(&there), absent(1), absent(3), digest(&there), absent(2)];
    assert_eq!(ask_of(&mut connection, "acme", &asked), [absent(3), absent(1), absent(2)]);
    assert_eq!(ask_of(&mut connection, "acme", &[]), Vec::<String>::new());
    let mut many: Vec<_> = (0..9_999).map(absent).collect();
    many.push(digest(&there));
    assert_eq!(ask_of(&mut connection, "acme", &many), many[..9_999]);
    many.push(absent(10_000));
    let body = json!({ "digests": many }).to_string();
    let refused = connection.exchange("POST", "/v1/blobs/missing?tenant_id=acme", &[], body.as_bytes());
    let problem = refused.assert_problem(400, "invalid_parameter", "one too many");
    assert_eq!(problem["parameter"], "digests");
    let huge = vec![b' '; 1024 * 1024 + 1];
    let refused = connection.exchange("POST", "/v1/blobs/missing?tenant_id=acme", &[], &huge);
    refused.assert_problem(413, "body_too_large", "more than any question takes");
}

#[test]
fn bad_questions_are_told_what_is_wrong() {
    let server = Server::start();
    let hash = sha256_hex(b"x");
    for (method, target, code, parameter) in [
        ("GET", format!("/v1/blobs/sha256:{hash}"), "missing_parameter", "tenant_id"),
        ("GET", format!("/v1/blobs/sha256:{hash}?tenant_id=-"), "invalid_parameter", "tenant_id"),
        (
            "GET",
            format!("/v1/blobs/sha256:{hash}?tenant_id=a&tenant_id=a"),
            "repeated_parameter",
            "tenant_id",
        ),
        ("GET", format!("/v1/blobs/sha256:{hash}?tenant_id=a&x=1"), "unknown_parameter", "x"),
        ("GET", format!("/v1/blobs/sha256:{hash}0?tenant_id=a"), "invalid_parameter", "digest"),
        ("GET", format!("/v1/blobs/sha256:{}?tenant_id=a", &hash[1..]), "invalid_parameter", "digest"),
        ("GET", format!("/v1/blobs/sha512:{hash}?tenant_id=a"), "invalid_parameter", "digest"),
        ("GET", format!("/v1/blobs/{hash}?tenant_id=a"), "invalid_parameter", "digest"),
        ("GET", format!("/v1/blobs/sha256:{}?tenant_id=a", "g".repeat(64)), "invalid_parameter", "digest"),
        ("POST", "/v1/blobs/missing".into(), "missing_parameter", "tenant_id"),
        ("POST", "/v1/blobs/missing?tenant_id=a&x".into(), "unknown_parameter", "x"),
    ] {
        let body: &[u8] = if method == "POST" { br#"{"digests":[]}"# } else { b"" };
        let problem = server.request(method, &target, &[], body).assert_problem(400, code, &target);
        assert_eq!(problem["parameter"], parameter, "{target}");
    }
    for body in ["", "[]", "{}", r#"{"digests":{}}"#, r#"{"digests":["x"]} "#, r#"{"digests":[],"y":1}"#] {
        let refused = server.request("POST", "/v1/blobs/missing?tenant_id=a", &[], body.as_bytes());
        assert_eq!(refused.status, 400, "{body}");
    }
    for (method, target) in [("GET", "/v1/blobs/missing?tenant_id=a".to_owned()), ("PUT", blob(b"x"))] {
        assert_eq!(server.request(method, &target, &[], b"").status, 405, "{method} {target}");
    }
    // Where it would mean nothing it is refused.
    let fields = [(REFERENCE, digest(b"x"))];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (method, target) in [("GET", KEY), ("DELETE", KEY), ("GET", UPLOAD), ("GET", &blob(b"x"))] {
        let refused = server.request(method, target, &fields, b"");
        refused.assert_problem(501, "not_implemented", target);
    }
}

#[test]
fn a_reference_makes_an_object_like_any_upload() {
    on_every_kind_of_server(|server| {
        let mut connection = server.connect();
        for body in [content(1, 100), content(2, 300_000), Vec::new()] {
            assert_eq!(server.request("PUT", "/v1/keys/models/acme/first", &[], &body).status / 100, 2);
            let files = server.files("blobs").len();
            let reference = digest(&body);
            let fields = [
                (REFERENCE, reference.as_str()),
                ("Content-Type", "model/x"),
                ("X-Object-Meta-Framework", "torch"),
                ("Repr-Digest", &repr_digest(&body)),
                ("If-None-Match", "*"),
            ];
            let made = connection.exchange("PUT", KEY, &fields, b"");
            assert_eq!(made.status, 201, "{made:?}");
            let object = made.json();
            assert_eq!(made.header("ETag"), Some(etag(&body).as_str()));
            assert_eq!(object["size_bytes"], body.len());
            assert_eq!(object["metadata"], json!({"framework": "torch"}));
            let get = connection.exchange("GET", KEY, &[], b"");
            assert!(get.body == body && get.header("Content-Type") == Some("model/x"));
            let again = connection.exchange("PUT", KEY, &fields, b"");
            again.assert_problem(412, "precondition_failed", "it is there");
            let again = connection.exchange("PUT", KEY, &fields[..1], b"");
            assert_eq!(again.status, 200, "another version: {again:?}");
            let fields = &fields[..4];
            let posted = connection.exchange("POST", &format!("{UPLOAD}&key=k"), fields, b"");
            assert_eq!(posted.status, 201, "{posted:?}");
            assert_eq!(server.files("blobs").len(), files, "no copy is made");
            assert_eq!(connection.exchange("DELETE", KEY, &[], b"").status, 204);
        }
    });
}

#[test]
fn a_reference_with_a_body_or_another_digest_is_refused() {
    let server = Server::start();
    let body = content(1, 100);
    server.create(&body);
    let (reference, other) = (digest(&body), repr_digest(b"other"));
    let objects = server.list(SCOPE).len();
    for (method, target) in [("POST", UPLOAD), ("PUT", KEY)] {
        let with_body = server.request(method, target, &[(REFERENCE, &reference)], b"x");
        with_body.assert_problem(400, "body_beside_reference", "a body");
        for field in ["Repr-Digest", "Content-Digest"] {
            let refused = server.request(method, target, &[(REFERENCE, &reference), (field, &other)], b"");
            refused.assert_problem(400, "digest_mismatch", field);
        }
        let twice = [(REFERENCE, reference.as_str()), (REFERENCE, &reference)];
        server.request(method, target, &twice, b"").assert_problem(400, "invalid_parameter", "two");
        for (bytes, trailer, status) in [
            (&b""[..], None, 201),
            (b"", Some(repr_digest(&body)), 200),
            (b"", Some(other.clone()), 400),
            (b"x", None, 400),
        ] {
            let mut connection = server.connect();
            let trailer = trailer.map(|digest| format!("Repr-Digest: {digest}"));
            let chunks = chunked(bytes, 1, &trailer.iter().map(String::as_str).collect::<Vec<_>>());
            connection.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: h\r\n{REFERENCE}: {reference}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            ));
            connection.send(chunks);
            let response = connection.response();
            let expected = if method == "POST" && status == 200 { 201 } else { status };
            assert_eq!(response.status, expected, "{method} {bytes:?} {trailer:?}: {response:?}");
        }
    }
    let absent = server.request("PUT", KEY, &[(REFERENCE, &digest(b"absent"))], b"");
    absent.assert_problem(404, "not_found", "nobody has it");
    assert_eq!(server.list(SCOPE).len(), objects + 4);
}

#[test]
fn another_class_gets_a_copy_of_its_own_whoever_has_one() {
    on_every_kind_of_server(|server| {
        let cold = format!("{UPLOAD}&storage_class=cold");
        for body in [content(1, 100), content(2, 3_000_000)] {
            let reference = digest(&body);
            server.create(&body);
            let made = server.request("POST", &cold, &[(REFERENCE, &reference)], b"");
            assert_eq!(made.status, 201, "{made:?}");
            let object = made.json();
            assert_eq!(
                (&object["storage_class"], &object["content_hash"]),
                (&json!("cold"), &json!(&reference[7..]))
            );
            let target = format!("/v1/objects/{}", object["id"].as_str().unwrap());
            assert!(server.get(&target).body == body);
            let again = server.request("POST", &cold, &[(REFERENCE, &reference)], b"");
            assert_eq!(again.status, 201);
        }
    });
}

#[test]
fn a_reference_counts_towards_the_quota() {
    let server = Server::start();
    let body = content(1, 100);
    server.create(&body);
    let limits = br#"{"bytes_max":250,"objects_max":null}"#;
    assert_eq!(server.request("PUT", "/v1/tenants/acme", &[], limits).status, 200);
    let refer = || server.request("POST", UPLOAD, &[(REFERENCE, &digest(&body))], b"");
    assert_eq!(refer().status, 201);
    refer().assert_problem(507, "quota_exceeded", "three are too much");
    assert_eq!(server.get("/v1/tenants/acme").json()["bytes"], 200);
}

#[test]
fn a_damaged_content_is_missing_until_it_is_sent_again() {
    let server = Server::start_with(&FILES);
    let body = content(1, 100);
    server.create(&body);
    std::fs::remove_file(&server.files("blobs")[0]).unwrap();
    let refused = server.request("POST", UPLOAD, &[(REFERENCE, &digest(&body))], b"");
    refused.assert_problem(404, "not_found", "its copy is lost");
    tool(server.directory().path(), &["scrub"]).assert_code(1);
    assert_eq!(ask_of(&mut server.connect(), "acme", &[digest(&body)]), [digest(&body)]);
    server.get(&blob(&body)).assert_problem(500, "blob_damaged", "it is known to be lost");
    server.create(&body);
    assert_eq!(ask_of(&mut server.connect(), "acme", &[digest(&body)]), Vec::<String>::new());
    assert_eq!(server.request("POST", UPLOAD, &[(REFERENCE, &digest(&body))], b"").status, 201);
    assert!(server.get(&blob(&body)).body == body);
}

#[test]
fn what_was_made_by_reference_is_there_after_a_kill() {
    for flags in [&[][..], &FILES, &["--ack", "database"]] {
        let mut server = Server::start_with(flags);
        let bodies = [content(1, 100), content(2, 300_000)];
        for (index, body) in bodies.iter().enumerate() {
            let first = server.create(body);
            assert_eq!(ask_of(&mut server.connect(), "acme", &[digest(body)]), Vec::<String>::new());
            let target = format!("/v1/objects/{}", first["id"].as_str().unwrap());
            assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
            let key = format!("/v1/keys/models/acme/{index}");
            assert_eq!(server.request("PUT", &key, &[(REFERENCE, &digest(body))], b"").status, 201);
        }
        server.kill();
        let directory = server.directory();
        drop(server);
        let server = Server::start_on(&directory, flags);
        for (index, body) in bodies.iter().enumerate() {
            assert!(server.get(&format!("/v1/keys/models/acme/{index}")).body == *body, "{flags:?}");
        }
        server.stop();
        let told = tool(directory.path(), &["validate"]);
        told.assert_code(0);
    }
}

#[test]
fn deletes_and_references_of_one_content_at_once_leave_the_right_count() {
    for flags in [&[][..], &["--ack", "database"]] {
        let server = Server::start_with(flags);
        let body = content(1, 100);
        server.create(&body);
        let reference = digest(&body);
        thread::scope(|scope| {
            for number in 0..8 {
                let (server, reference) = (&server, reference.as_str());
                scope.spawn(move || {
                    let mut connection = server.connect();
                    let key = format!("/v1/keys/models/acme/{number}");
                    for _ in 0..50 {
                        let made = connection.exchange("PUT", &key, &[(REFERENCE, reference)], b"");
                        assert_eq!(made.status, 201, "{made:?}");
                        assert_eq!(connection.exchange("DELETE", &key, &[], b"").status, 204);
                    }
                });
            }
        });
        assert!(server.get(&blob(&body)).body == body);
        let directory = server.directory();
        server.stop();
        tool(directory.path(), &["validate"]).assert_code(0);
    }
}

/// The row of a blob names one of its objects, an index all others: no change of an object may leave it in neither.
#[test]
fn a_content_is_found_whatever_is_changed_about_its_objects() {
    for flags in [&[][..], &["--ack", "database"]] {
        let server = Server::start_with(flags);
        let body = content(1, 100);
        let target = |object: &Value| format!("/v1/objects/{}", object["id"].as_str().unwrap());
        let change = |object: &Value, patch: Value| {
            let merge = [("Content-Type", "application/merge-patch+json")];
            let changed = server.request("PATCH", &target(object), &merge, patch.to_string().as_bytes());
            assert_eq!(changed.status, 200, "{changed:?}");
            assert!(server.get(&blob(&body)).body == body, "{patch}");
        };
        let delete = |object: &Value, status| {
            assert_eq!(server.request("DELETE", &target(object), &[], b"").status, 204);
            assert_eq!(server.get(&blob(&body)).status, status);
        };
        let first = server.create(&body);
        change(&first, json!({"metadata": {"a": "1"}}));
        change(&first, json!({"key": "a"}));
        let second = server.create(&body);
        delete(&first, 200);
        change(&second, json!({"storage_class": "cold"}));
        let third = server.create(&body);
        delete(&second, 200);
        change(&third, json!({"metadata": {"a": "1"}}));
        change(&third, json!({"storage_class": "cold", "key": "b"}));
        let fourth = server.create(&body);
        change(&third, json!({"storage_class": "hot"}));
        change(&fourth, json!({"storage_class": "cold"}));
        change(&fourth, json!({"storage_class": "hot", "key": "b"}));
        delete(&third, 200);
        delete(&fourth, 404);
        let directory = server.directory();
        server.stop();
        tool(directory.path(), &["validate"]).assert_code(0);
    }
}

#[test]
fn a_signed_upload_may_refer_to_what_it_is_signed_for() {
    let server = strict_server(&["--url-signing-key", SECRET]);
    let body = content(1, 100);
    assert_eq!(with_token(&server, &token_of("acme"), "POST", UPLOAD, &body).status, 201);
    assert_eq!(with_token(&server, &token_of("acme"), "POST", UPLOAD, b"other").status, 201);
    let sign = |size: Value, digest: Value| {
        let order = json!({"method": "PUT", "path": KEY, "expires_in_seconds": 60, "size_bytes": size,
                           "digest": digest});
        let answer = with_token(&server, &token_of("acme"), "POST", "/v1/sign", order.to_string().as_bytes());
        answer.json()["url"].as_str().unwrap().to_owned()
    };
    let refer = |url: &str, body: &[u8]| server.request("PUT", url, &[(REFERENCE, &digest(body))], b"");
    let url = sign(json!(100), json!(digest(&body)));
    refer(&url, b"other").assert_problem(400, "digest_mismatch", "another content");
    assert_eq!(refer(&url, &body).status, 201);
    let url = sign(json!(100), Value::Null);
    refer(&url, b"other").assert_problem(403, "signed_size_mismatch", "another size");
    assert_eq!(refer(&url, &body).status, 200);
    server.request("PUT", &url, &[], b"").assert_problem(
        403,
        "signed_size_mismatch",
        "without a reference the body has the size",
    );
    assert_eq!(refer(&sign(Value::Null, Value::Null), &body).status, 200);
    let order =
        json!({"method": "GET", "path": format!("/v1/blobs/{}", digest(&body)), "expires_in_seconds": 60});
    let refused = with_token(&server, &token_of("acme"), "POST", "/v1/sign", order.to_string().as_bytes());
    refused.assert_problem(400, "invalid_parameter", "a content is nobody's to give away");
}
