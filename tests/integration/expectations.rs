//! `Expect: 100-continue` (RFC 9110 §10.1.1): whoever asks is told before the body whether it is worth sending.

use crate::content::{chunked, content, etag};
use crate::server::{SCOPE, Server};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

fn head(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{fields}\r\n")
}

#[test]
fn the_body_is_asked_for_before_it_is_sent() {
    let server = Server::start();
    for length in [1, 1000, 100_000] {
        let body = content(1, length);
        let counted = (format!("Content-Length: {length}\r\n"), body.clone());
        let chunks = ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&body, 5000, &[]));
        for (fields, sent) in [counted, chunks] {
            for (method, target) in [("POST", UPLOAD), ("PUT", "/v1/keys/models/acme/k")] {
                let mut connection = server.connect();
                connection.send(head(method, target, &fields));
                assert_eq!(connection.interim(), 100, "{length} bytes, {fields}");
                connection.send(&sent);
                let response = connection.response();
                assert_eq!(response.interim, [0_u16; 0], "it is asked for once");
                assert_eq!((response.status / 100, &response.json()["size_bytes"]), (2, &length.into()));
                assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
            }
        }
    }
}

#[test]
fn the_expectation_is_known_in_any_case() {
    let server = Server::start();
    for value in ["100-continue", "100-Continue", "100-CONTINUE"] {
        let mut connection = server.connect();
        connection.send(format!(
            "POST {UPLOAD} HTTP/1.1\r\nHost: h\r\nExpect: {value}\r\nContent-Length: 1\r\n\r\n"
        ));
        assert_eq!(connection.interim(), 100, "{value}");
        connection.send("x");
        assert_eq!(connection.response().status, 201);
    }
}

#[test]
fn a_client_that_does_not_wait_is_served_as_well() {
    let server = Server::start();
    let mut connection = server.connect();
    for body in [content(1, 10), content(2, 100_000)] {
        let fields = format!("Content-Length: {}\r\n", body.len());
        connection.send([head("POST", UPLOAD, &fields).as_bytes(), &body].concat());
        assert_eq!(connection.response().status, 201);
    }
}

#[test]
fn a_refusal_comes_instead_of_the_question_for_the_body() {
    let server = Server::start_with(&["--body-bytes-max", "1000000"]);
    let there = "/v1/keys/models/acme/there";
    assert_eq!(server.request("PUT", there, &[], b"x").status, 201);
    let absent = format!("If-Match: {}\r\n", etag(b"absent"));
    for (method, target, fields, status) in [
        ("PUT", "/nowhere", "", 404),
        ("PUT", "/v1/blobs/x", "", 400),
        ("PUT", "/health", "", 405),
        ("POST", "/v1/objects", "", 400),
        ("POST", "/v1/objects?namespace=models&tenant_id=acme&x=1", "", 400),
        ("PUT", "/v1/keys/models/acme/a//b", "", 400),
        ("POST", UPLOAD, "Content-Type: none\r\n", 400),
        ("POST", UPLOAD, "X-Object-Meta-A: \t\u{e4}\r\n", 400),
        ("POST", UPLOAD, "Repr-Digest: none\r\n", 400),
        ("POST", UPLOAD, "Content-Range: bytes 0-9/10\r\n", 400),
        ("PUT", there, "If-None-Match: *\r\n", 412),
        ("PUT", there, absent.as_str(), 412),
        ("POST", UPLOAD, "Content-Encoding: gzip\r\n", 415),
        ("POST", UPLOAD, "Expect: something\r\n", 417),
        ("POST", UPLOAD, "X-Blob-Reference: x\r\n", 400),
        ("BREW", UPLOAD, "", 501),
    ] {
        for length in [10, 900_000] {
            let case = format!("{method} {target} {fields:?}, {length} bytes");
            let mut connection = server.connect();
            connection.send(head(method, target, &format!("{fields}Content-Length: {length}\r\n")));
            let response = connection.response();
            assert_eq!((response.status, response.interim.as_slice()), (status, &[][..]), "{case}");
            // The body was never asked for; whether it comes cannot be known, so the connection ends.
            assert!(response.closes(), "{case}");
            connection.assert_closed();
        }
    }
    let mut connection = server.connect();
    connection.send(head("POST", UPLOAD, "Content-Length: 1000001\r\n"));
    let response = connection.response();
    assert_eq!((response.status, response.interim.as_slice()), (413, &[][..]));
    assert_eq!(server.list(SCOPE).len(), 1);
}

#[test]
fn any_other_expectation_fails() {
    let server = Server::start();
    for (method, target) in [("GET", "/health"), ("POST", UPLOAD), ("PUT", "/v1/keys/models/acme/k")] {
        for value in ["200-ok", "100-continued", "100", "", "100-continue, x", "100-continue;x=y"] {
            let response = server.request(method, target, &[("Expect", value)], b"");
            response.assert_problem(417, "expectation_failed", value);
        }
    }
    server.assert_nothing_kept("no expectation was met");
}

#[test]
fn http_1_0_is_never_answered_with_100() {
    let server = Server::start();
    let mut connection = server.connect();
    let (first, rest) = (b"first", b"rest");
    connection.send(format!("POST {UPLOAD} HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"));
    connection.send(first);
    connection.send(rest);
    let response = connection.response();
    assert_eq!((response.status, response.interim.as_slice()), (201, &[][..]));
}

#[test]
fn a_request_without_a_body_is_not_asked_for_one() {
    let server = Server::start();
    let mut connection = server.connect();
    for message in [head("GET", "/health", ""), head("POST", UPLOAD, "Content-Length: 0\r\n")] {
        connection.send(&message);
        let response = connection.response();
        assert_eq!((response.status / 100, response.interim.as_slice()), (2, &[][..]), "{message}");
    }
}
