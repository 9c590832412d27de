//! Many requests on one connection (RFC 9112 §9.3): where one of them is poison, what came before is answered, and what
//! comes behind is not.

use super::{HONEST, SMUGGLED};
use crate::content::content;
use crate::raw::request;
use crate::server::{SCOPE, Server};

#[test]
fn whatever_came_before_the_poison_is_answered_and_nothing_behind_it() {
    let server = Server::start();
    for poison in [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "\0",
        "GET /health\r\n\r\n",
    ] {
        let mut connection = server.connect();
        let smuggled = [poison, SMUGGLED, HONEST, poison].concat();
        connection.send([HONEST, HONEST, HONEST, &smuggled].concat());
        for _ in 0..3 {
            assert_eq!(connection.response().header("X-Request-Id"), Some("honest"), "{poison:?}");
        }
        let response = connection.response();
        assert_eq!(response.status, 400, "{poison:?}: {response:?}");
        assert!(response.closes(), "{poison:?}");
        connection.assert_closed();
        server.assert_nothing_kept(poison);
    }
}

#[test]
fn what_was_acknowledged_before_the_poison_is_kept_and_nothing_else() {
    let server = Server::start();
    let mut connection = server.connect();
    let good = request("PUT", "/v1/keys/models/acme/good", &[], &content(1, 5000));
    connection.send(
        [
            &good,
            &b"PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx"[..],
            SMUGGLED.as_bytes(),
        ]
        .concat(),
    );
    assert_eq!(connection.response().status, 201);
    connection.response().assert_problem(400, "invalid_framing", "two lengths");
    connection.assert_closed();
    let kept = server.list(SCOPE);
    assert_eq!((kept.len(), &kept[0]["key"]), (1, &"good".into()));
}

#[test]
fn a_body_cut_short_takes_what_follows_and_no_more() {
    let server = Server::start();
    // The length promises more than came before the next request: that request is a part of the body.
    let mut connection = server.connect();
    connection.send(format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\nshort{SMUGGLED}{HONEST}",
        5 + SMUGGLED.len()
    ));
    assert_eq!(connection.response().body, ["short", SMUGGLED].concat().as_bytes());
    assert_eq!(connection.response().header("X-Request-Id"), Some("honest"));
    // The length promises less: what is left over is no request, and ends the connection.
    for left_over in ["x", "hello", "\r", "x\r\n", "0\r\n\r\n"] {
        let mut connection = server.connect();
        connection.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello{left_over}{SMUGGLED}"
        ));
        assert_eq!(connection.response().body, b"hello");
        let response = connection.response();
        // A letter before a method makes another method of it, which nobody knows.
        let expected = if matches!(left_over, "x" | "hello") { 501 } else { 400 };
        assert_eq!(response.status, expected, "{left_over:?}: {response:?}");
    }
    server.assert_nothing_kept("left over");
}

#[test]
fn a_connection_that_was_told_to_end_serves_nothing_more() {
    let server = Server::start();
    for head in [
        "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
        "GET /health HTTP/1.0\r\n\r\n",
        "GET /health HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send([head, SMUGGLED].concat());
        let response = connection.response();
        assert_eq!(response.status, 200, "{head:?}");
        assert!(response.closes(), "{head:?}");
        connection.assert_closed();
    }
    server.assert_nothing_kept("behind the last request");
}
