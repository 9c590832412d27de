//! `Expect` as a lever (RFC 9110 §10.1.1): one party waits for an answer before the body, the other does not.

use super::Answer::{Echoed, Refused, Taken};
use super::{HONEST, SMUGGLED, assert_answered, echo, one_chunk, row, upload};
use crate::server::Server;

#[test]
fn an_expectation_changes_nothing_about_where_a_body_ends() {
    let length = format!("Content-Length: {}", SMUGGLED.len());
    let get =
        |fields: &str| format!("GET /health HTTP/1.1\r\nHost: h\r\n{fields}\r\n{length}\r\n\r\n{SMUGGLED}");
    let section = "RFC 9110 §10.1.1";
    let mut rows = vec![
        row(section, "GET with a body", get("Expect: 100-continue"), Taken(200)),
        row(
            section,
            "GET without one",
            "GET /health HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            Taken(200),
        ),
        row(
            section,
            "twice",
            echo("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5", "hello"),
            Echoed("hello"),
        ),
        row(
            section,
            "with chunks",
            echo("Expect: 100-continue\r\nTransfer-Encoding: chunked", &one_chunk("hello", "")),
            Echoed("hello"),
        ),
        row(
            section,
            "with a length and a coding",
            upload("Expect: 100-continue\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "hello"),
            Refused(400, "invalid_framing"),
        ),
        row(
            section,
            "folded",
            upload("Expect: x\r\n 100-continue\r\nContent-Length: 5", "hello"),
            Refused(400, "malformed_request"),
        ),
        row(
            section,
            "HTTP/1.0",
            format!(
                "GET /health HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n{length}\r\n\r\n{SMUGGLED}"
            ),
            Taken(200),
        ),
    ];
    // What is not met is refused before the body is looked at; the body is a body all the same.
    for value in
        ["200-ok", "y 100-continue", "100-continue, 100-continue", "\"100-continue\"", "100-continue\t;", ""]
    {
        let fields = format!("Expect: {value}\r\n{length}");
        rows.push(row(section, format!("{value:?}"), upload(&fields, SMUGGLED), Taken(417)));
        let fields = format!("Expect: 100-continue\r\nExpect: {value}\r\n{length}");
        rows.push(row(section, format!("100-continue and {value:?}"), upload(&fields, SMUGGLED), Taken(417)));
    }
    assert_answered(&rows);
}

#[test]
fn what_is_sent_after_100_continue_is_the_body_and_nothing_else() {
    let server = Server::start();
    // A request instead of a chunk: somebody took the interim answer for the final one.
    let mut connection = server.connect();
    connection.send(upload("Expect: 100-continue\r\nTransfer-Encoding: chunked", ""));
    assert_eq!(connection.interim(), 100);
    connection.send(SMUGGLED);
    let response = connection.response();
    response.assert_problem(400, "invalid_framing", "a request instead of a chunk");
    assert!(response.closes());
    connection.assert_closed();
    server.assert_nothing_kept("a request instead of a chunk");

    // A request where a counted body is due is that body.
    let mut connection = server.connect();
    let length = SMUGGLED.len();
    connection.send(format!(
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    ));
    assert_eq!(connection.interim(), 100);
    connection.send([SMUGGLED, HONEST].concat());
    assert_eq!(connection.response().body, SMUGGLED.as_bytes());
    assert_eq!(connection.response().header("X-Request-Id"), Some("honest"));
    server.assert_nothing_kept("a request as a body");
}

#[test]
fn a_body_that_was_refused_and_comes_all_the_same_is_never_a_request() {
    let server = Server::start();
    for (line, status) in [
        ("PUT /nowhere", 404),
        ("GET /health", 200),
        ("POST /health", 405),
        ("POST /v1/objects", 400),
        ("BREW /", 501),
    ] {
        let mut connection = server.connect();
        let length = SMUGGLED.len();
        connection.send(format!(
            "{line} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        let response = connection.response();
        assert_eq!((response.status, response.interim.len()), (status, 0), "{line}: {response:?}");
        assert!(response.closes(), "{line}");
        // Whoever did not wait has sent it, or sends it now.
        let _ = connection.try_send(SMUGGLED);
        connection.assert_closed();
    }
    server.assert_nothing_kept("a late body");
}
