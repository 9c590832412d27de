//! Requests that are well-formed messages and ask for what cannot be: each is refused with its status, its code and
//! the name of what is wrong, and nothing of it is kept.

use std::collections::BTreeSet;

use crate::content::{chunked, content, repr_digest};
use crate::raw::{Connection, Fields, Response, request};
use crate::server::{SCOPE, Server};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";
const KEY: &str = "/v1/keys/models/acme/k";

/// What came in, and what has to come back.
struct Case<'a> {
    method: &'a str,
    target: &'a str,
    fields: Fields<'a>,
    status: u16,
    code: &'a str,
    parameter: Option<&'a str>,
}

/// Sends each case on a connection of its own, with a body where the method has one.
fn assert_refused(server: &Server, cases: &[Case<'_>]) {
    for case in cases {
        let name = format!("{} {} {:?}", case.method, case.target, case.fields);
        let body: &[u8] = if matches!(case.method, "POST" | "PUT" | "PATCH") { b"some bytes" } else { b"" };
        let mut connection = server.connect();
        let response = connection.exchange(case.method, case.target, case.fields, body);
        let problem = response.assert_problem(case.status, case.code, &name);
        assert_eq!(problem["parameter"].as_str(), case.parameter, "{name}");
        assert_eq!(problem["instance"], case.target.split('?').next().unwrap(), "{name}");
        assert_goes_on_as_it_says(&mut connection, &response, &name);
        server.assert_nothing_kept(&name);
    }
}

/// Either the answer says `Connection: close`, and so it is; or the next request is served.
fn assert_goes_on_as_it_says(connection: &mut Connection, response: &Response, case: &str) {
    if response.closes() {
        connection.assert_closed();
    } else {
        assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200, "after {case}");
    }
}

#[test]
fn a_query_parameter_of_an_upload_that_is_wrong_is_named() {
    let (long_namespace, long_tenant, long_key) = ("n".repeat(64), "t".repeat(129), "k".repeat(1025));
    let rows = [
        ("tenant_id=acme", "missing_parameter", "namespace"),
        ("namespace=models", "missing_parameter", "tenant_id"),
        ("", "missing_parameter", "namespace"),
        ("namespace=&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=Models&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=.models&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=-&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=a/b&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=a%00&tenant_id=acme", "invalid_parameter", "namespace"),
        ("namespace=%C3%A4&tenant_id=acme", "invalid_parameter", "namespace"),
        (&format!("namespace={long_namespace}&tenant_id=acme"), "invalid_parameter", "namespace"),
        ("namespace=models&tenant_id=", "invalid_parameter", "tenant_id"),
        ("namespace=models&tenant_id=_a", "invalid_parameter", "tenant_id"),
        ("namespace=models&tenant_id=a+b", "invalid_parameter", "tenant_id"),
        ("namespace=models&tenant_id=*", "invalid_parameter", "tenant_id"),
        (&format!("namespace=models&tenant_id={long_tenant}"), "invalid_parameter", "tenant_id"),
        (&format!("{SCOPE}&key="), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=/a"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a/"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a//b"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a/./b"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=.."), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a%2F..%2Fb"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a%00"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a%0D%0Ab"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a%7F"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=a%C2%85"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=%FF"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=%C0%AF"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=%ED%A0%80"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=%4"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key=%zz"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&key={long_key}"), "invalid_parameter", "key"),
        (&format!("{SCOPE}&storage_class=warm"), "invalid_parameter", "storage_class"),
        (&format!("{SCOPE}&storage_class=HOT"), "invalid_parameter", "storage_class"),
        (&format!("{SCOPE}&storage_class="), "invalid_parameter", "storage_class"),
        (&format!("{SCOPE}&x=1"), "unknown_parameter", "x"),
        (&format!("{SCOPE}&limit=1"), "unknown_parameter", "limit"),
        (&format!("{SCOPE}&Key=a"), "unknown_parameter", "Key"),
        (&format!("{SCOPE}&namespace=models"), "repeated_parameter", "namespace"),
        (&format!("{SCOPE}&key=a&key=b"), "repeated_parameter", "key"),
        (&format!("{SCOPE}&%6Bey=a&key=a"), "repeated_parameter", "key"),
    ];
    let targets = rows.map(|(query, ..)| format!("/v1/objects?{query}"));
    let cases = rows.iter().zip(&targets).map(|((_, code, parameter), target)| Case {
        method: "POST",
        target,
        fields: &[],
        status: 400,
        code,
        parameter: Some(parameter),
    });
    assert_refused(&Server::start(), &cases.collect::<Vec<_>>());
}

#[test]
fn a_query_parameter_of_a_read_or_delete_that_is_wrong_is_named() {
    let id = uuid::Uuid::now_v7();
    let rows = [
        ("GET", "/v1/objects".to_owned(), "missing_parameter", "namespace"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=0"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=1001"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=-1"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=%2B1"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=1e2"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit="), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=99999999999999999999"), "invalid_parameter", "limit"),
        ("GET", format!("/v1/objects?{SCOPE}&status=committed"), "invalid_parameter", "status"),
        ("GET", format!("/v1/objects?{SCOPE}&status="), "invalid_parameter", "status"),
        ("GET", format!("/v1/objects?{SCOPE}&storage_class=x"), "invalid_parameter", "storage_class"),
        ("GET", format!("/v1/objects?{SCOPE}&key=a"), "unknown_parameter", "key"),
        ("GET", format!("/v1/objects?{SCOPE}&limit=1&limit=1"), "repeated_parameter", "limit"),
        ("GET", format!("/v1/objects/{id}?versions"), "unknown_parameter", "versions"),
        ("GET", format!("/v1/objects/{id}/info?x"), "unknown_parameter", "x"),
        ("DELETE", format!("/v1/objects/{id}?force=1"), "unknown_parameter", "force"),
        ("PUT", format!("{KEY}?storage_class=cold"), "unknown_parameter", "storage_class"),
        ("DELETE", format!("{KEY}?x=1"), "unknown_parameter", "x"),
        ("GET", "/health?x=1".to_owned(), "unknown_parameter", "x"),
        ("GET", "/health/ready?verbose".to_owned(), "unknown_parameter", "verbose"),
    ];
    let cases = rows.iter().map(|(method, target, code, parameter)| Case {
        method,
        target,
        fields: &[],
        status: 400,
        code,
        parameter: Some(parameter),
    });
    assert_refused(&Server::start(), &cases.collect::<Vec<_>>());
}

#[test]
fn a_part_of_a_path_that_is_malformed_is_named() {
    let digits = "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
    let mut rows: Vec<(&str, String, &str)> = Vec::new();
    for id in ["x", "1", digits, &format!("{{{}}}", uuid::Uuid::now_v7()), "../x", "%2e%2e"] {
        let escaped = id.replace('{', "%7B").replace('}', "%7D").replace('/', "%2F");
        for (method, suffix) in [("GET", ""), ("DELETE", ""), ("GET", "/info")] {
            rows.push((method, format!("/v1/objects/{escaped}{suffix}"), "id"));
        }
    }
    for (path, parameter) in [
        ("Models/acme/k", "namespace"),
        ("-/acme/k", "namespace"),
        ("a%20b/acme/k", "namespace"),
        ("%ff/acme/k", "namespace"),
        ("models/_/k", "tenant_id"),
        ("models/a%2Fb/k", "tenant_id"),
        ("models/%2e%2e/k", "tenant_id"),
        ("/acme/k", "namespace"),
        ("models//k", "tenant_id"),
        ("models/", "tenant_id"),
        ("models/acme/", "key"),
        ("models/acme/a//b", "key"),
        ("models/acme/a%2F%2Fb", "key"),
        ("models/acme/a/", "key"),
        ("models/acme//a", "key"),
        ("models/acme/.", "key"),
        ("models/acme/a/../b", "key"),
        ("models/acme/%2e%2e/b", "key"),
        ("models/acme/a/%2E/b", "key"),
        ("models/acme/%00", "key"),
        ("models/acme/a%0ab", "key"),
        ("models/acme/a%1bb", "key"),
        ("models/acme/%ff", "key"),
        ("models/acme/%", "key"),
        ("models/acme/a%4", "key"),
        ("models/acme/a%gg", "key"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            rows.push((method, format!("/v1/keys/{path}"), parameter));
        }
    }
    let cases = rows.iter().map(|(method, target, parameter)| Case {
        method,
        target,
        fields: &[],
        status: 400,
        code: "invalid_parameter",
        parameter: Some(parameter),
    });
    assert_refused(&Server::start(), &cases.collect::<Vec<_>>());
}

#[test]
fn a_path_that_is_none_is_not_found() {
    let id = uuid::Uuid::now_v7();
    let info = format!("/v1/objects/{id}/other");
    let server = Server::start();
    for target in [
        "/x",
        "/v1",
        "/v1/",
        "/v2/objects",
        "//health",
        "/health/",
        "/HEALTH",
        "/%68ealth",
        "/v1/objects/",
        &info,
        "/v1/keys",
        "/v1/keys/",
        "/v1/keys/models",
        "/v1/keys/models/acme",
        "/v1/blobs",
        "/v1/blobs/",
        "/v1/blobs/missing/x",
    ] {
        let cases = ["GET", "POST", "PUT", "DELETE"].map(|method| Case {
            method,
            target,
            fields: &[],
            status: 404,
            code: "no_route",
            parameter: None,
        });
        assert_refused(&server, &cases);
    }
}

#[test]
fn a_method_that_a_path_does_not_have_is_told_those_it_has() {
    let server = Server::start();
    let object = format!("/v1/objects/{}", uuid::Uuid::now_v7());
    let info = format!("{object}/info");
    let all = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    for (target, allowed) in [
        ("/", &["GET", "HEAD", "POST"][..]),
        ("/health", &["GET", "HEAD"]),
        ("/health/ready", &["GET", "HEAD"]),
        ("/v1/objects", &["GET", "HEAD", "POST"]),
        (object.as_str(), &["GET", "HEAD", "PATCH", "DELETE"]),
        (info.as_str(), &["GET", "HEAD"]),
        (KEY, &["GET", "HEAD", "PUT", "DELETE"]),
    ] {
        for method in all.iter().filter(|method| !allowed.contains(method)) {
            let response = server.request(method, target, &[], b"");
            response.assert_problem(405, "method_not_allowed", &format!("{method} {target}"));
            let told: BTreeSet<&str> = response.header("Allow").unwrap().split(", ").collect();
            assert_eq!(told, allowed.iter().copied().collect(), "{method} {target}");
        }
    }
}

#[test]
fn a_method_that_nobody_knows_is_not_implemented() {
    let server = Server::start();
    // Methods are case-sensitive (RFC 9110 §9.1).
    for method in ["BREW", "get", "Put", "PROPFIND", "GETGET", "M-SEARCH", "!#$%&'*+-.^_`|~"] {
        for target in ["/health", UPLOAD, KEY, "/x"] {
            let mut connection = server.connect();
            let response = connection.exchange(method, target, &[], b"");
            response.assert_problem(501, "unknown_method", method);
            assert_goes_on_as_it_says(&mut connection, &response, method);
        }
    }
}

#[test]
fn a_header_field_of_an_upload_that_is_wrong_is_refused() {
    let server = Server::start();
    let long = format!("text/{}", "x".repeat(251));
    let huge = "v".repeat(16 * 1024);
    let rows: [(Fields<'_>, u16, &str, Option<&str>); 24] = [
        (&[("Content-Range", "bytes 0-9/10")], 400, "content_range_refused", Some("Content-Range")),
        (&[("Content-Range", "bytes */10")], 400, "content_range_refused", Some("Content-Range")),
        (&[("Content-Encoding", "gzip")], 415, "unsupported_content_encoding", None),
        (&[("Content-Encoding", "identity, gzip")], 415, "unsupported_content_encoding", None),
        (
            &[("Content-Encoding", "identity"), ("Content-Encoding", "br")],
            415,
            "unsupported_content_encoding",
            None,
        ),
        (&[("Content-Encoding", "aws-chunked")], 415, "unsupported_content_encoding", None),
        (&[("Content-Type", "")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text/")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "/plain")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text /plain")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text/plain, text/html")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text/plain; charset")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text/plain; a=\"b")], 400, "invalid_content_type", Some("Content-Type")),
        (&[("Content-Type", "text/plän")], 400, "invalid_content_type", Some("Content-Type")),
        (
            &[("Content-Type", "a/b"), ("Content-Type", "a/b")],
            400,
            "invalid_content_type",
            Some("Content-Type"),
        ),
        (&[("Content-Type", &long)], 400, "invalid_content_type", Some("Content-Type")),
        (&[("X-Object-Meta-", "x")], 400, "invalid_metadata", Some("X-Object-Meta-")),
        (&[("X-Object-Meta-A", "ä")], 400, "invalid_metadata", Some("X-Object-Meta-A")),
        (&[("X-Object-Meta-A", "a\tb")], 400, "invalid_metadata", Some("X-Object-Meta-A")),
        (
            &[("X-Object-Meta-A", "1"), ("x-object-meta-a", "2")],
            400,
            "invalid_metadata",
            Some("x-object-meta-a"),
        ),
        (&[("X-Object-Meta-A", &huge)], 400, "invalid_metadata", Some("X-Object-Meta-A")),
        (&[("X-Blob-Reference", "sha256:00")], 400, "invalid_parameter", Some("X-Blob-Reference")),
        (&[("x-blob-reference", "")], 400, "invalid_parameter", Some("X-Blob-Reference")),
    ];
    for (method, target) in [("POST", UPLOAD), ("PUT", KEY)] {
        let cases = rows.map(|(fields, status, code, parameter)| Case {
            method,
            target,
            fields,
            status,
            code,
            parameter,
        });
        assert_refused(&server, &cases);
    }
    // A new object without a name has nothing that a condition could be about: refused, never ignored.
    for field in ["If-Match", "If-None-Match", "If-Unmodified-Since"] {
        let fields = [(field, "*")];
        let case = Case {
            method: "POST",
            target: UPLOAD,
            fields: &fields,
            status: 501,
            code: "not_implemented",
            parameter: Some(field),
        };
        assert_refused(&server, &[case]);
    }
    for coding in ["identity", "Identity"] {
        let response = server.request("POST", UPLOAD, &[("Content-Encoding", coding)], b"x");
        assert_eq!(response.status, 201, "{coding}");
    }
}

/// Bodies below and above what is held in memory until their end.
const DIGEST_LENGTHS: [usize; 3] = [0, 1000, 100_000];

#[test]
fn an_upload_with_a_wrong_digest_leaves_nothing() {
    let server = Server::start();
    let wrong = repr_digest(b"something else");
    for length in DIGEST_LENGTHS {
        let body = content(1, length);
        let right = repr_digest(&body);
        let trailer = format!("Repr-Digest: {wrong}");
        let in_chunks = chunked(&body, 3000, &[&trailer]);
        let chunks = ("Transfer-Encoding", "chunked");
        let different = [("Repr-Digest", right.as_str()), ("Content-Digest", wrong.as_str())];
        let rows: [(Fields<'_>, &[u8], &str); 6] = [
            (&[("Repr-Digest", &wrong)], &body, "digest_mismatch"),
            (&[("Content-Digest", &wrong)], &body, "digest_mismatch"),
            (&[chunks], &in_chunks, "digest_mismatch"),
            (&[chunks, ("Repr-Digest", &wrong)], &in_chunks, "digest_mismatch"),
            (&[chunks, ("Repr-Digest", &right)], &in_chunks, "digest_invalid"),
            (&different, &body, "digest_invalid"),
        ];
        for (fields, sent, code) in rows {
            for (method, target) in [("POST", UPLOAD), ("PUT", KEY)] {
                let name = format!("{length} bytes, {method} {fields:?}");
                let mut connection = server.connect();
                let response = connection.exchange(method, target, fields, sent);
                response.assert_problem(400, code, &name);
                assert_goes_on_as_it_says(&mut connection, &response, &name);
                server.assert_nothing_kept(&name);
            }
        }
    }
}

#[test]
fn a_digest_that_cannot_be_read_is_refused() {
    let server = Server::start();
    let right = repr_digest(b"some bytes");
    for value in [
        "",
        "sha-256",
        "sha-256=",
        "sha-256=abc",
        "sha-256=:YWJj:",
        "sha-256=::",
        "sha-256=:!!!!:",
        &right.replace(':', ""),
        &right[..right.len() - 1],
        &right.replace("sha-256", "SHA-256"),
        &format!("{right},"),
        &format!("{right}, {}", repr_digest(b"other")),
        "\u{e4}",
    ] {
        for name in ["Repr-Digest", "Content-Digest"] {
            let fields = [(name, value)];
            let response = server.request("POST", UPLOAD, &fields, b"some bytes");
            response.assert_problem(400, "digest_invalid", &format!("{fields:?}"));
        }
        let body = chunked(b"some bytes", 4, &[&format!("Repr-Digest: {value}")]);
        let response = server.request("POST", UPLOAD, &[("Transfer-Encoding", "chunked")], &body);
        response.assert_problem(400, "digest_invalid", &format!("in the trailer: {value:?}"));
        server.assert_nothing_kept(value);
    }
}

#[test]
fn a_right_digest_is_taken_in_header_and_trailer() {
    let server = Server::start();
    for length in DIGEST_LENGTHS {
        let body = content(2, length);
        let right = repr_digest(&body);
        let others = format!("sha-512=:YWJj:, {right},unixsum=:MDA=:");
        let trailer = format!("repr-digest:{right}");
        let in_chunks = chunked(&body, 777, &["X-Other: y", &trailer]);
        let chunks = ("Transfer-Encoding", "chunked");
        let rows: [(Fields<'_>, &[u8]); 6] = [
            (&[("Repr-Digest", &right)], &body),
            (&[("Repr-Digest", &right), ("Content-Digest", &right)], &body),
            (&[("Content-Digest", &others)], &body),
            // RFC 9530 §3: algorithms that are not understood are passed over.
            (&[("Repr-Digest", "sha-512=:YWJj:")], &body),
            (&[chunks], &in_chunks),
            (&[chunks, ("Repr-Digest", &right), ("Trailer", "Repr-Digest")], &in_chunks),
        ];
        for (fields, sent) in rows {
            let response = server.request("POST", UPLOAD, fields, sent);
            assert_eq!(response.status, 201, "{length} bytes, {fields:?}: {response:?}");
            assert_eq!(response.json()["size_bytes"], length);
        }
    }
}

#[test]
fn a_refused_head_request_has_the_fields_of_the_problem_and_no_body() {
    let server = Server::start();
    let mut connection = server.connect();
    connection.send(request("HEAD", "/v1/objects/x", &[], b""));
    connection.send(request("GET", "/health", &[], b""));
    let response = connection.read_response(true).unwrap();
    assert_eq!(response.status, 400);
    assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(connection.response().json()["status"], "ok", "the next answer follows at once");
}
