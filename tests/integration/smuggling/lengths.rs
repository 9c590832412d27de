//! Where a body ends (RFC 9112 §6): CL.TE, TE.CL, TE.TE, CL.0, 0.CL, TE.0, lengths that are none or several.

use super::Answer::{Echoed, Refused, Taken};
use super::{Row, SMUGGLED, assert_answered, echo, one_chunk, row, upload};
use crate::server::{SCOPE, Server};

const FRAMING: (u16, &str) = (400, "invalid_framing");
const CODING: (u16, &str) = (501, "unknown_transfer_coding");
const SYNTAX: (u16, &str) = (400, "malformed_request");

/// Each set of fields with a body of every kind that somebody could see in it.
fn refused(sets: &[(&'static str, &str, (u16, &'static str))]) -> Vec<Row> {
    let bodies = ["", "hello", "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"];
    let rows = sets.iter().flat_map(|(section, fields, (status, code))| {
        let one = move |body| {
            let name = format!("{fields:?} with {body:?}");
            row(section, name, upload(fields, body), Refused(*status, code))
        };
        bodies.into_iter().map(one)
    });
    rows.collect()
}

#[test]
fn a_length_beside_a_coding_is_refused() {
    assert_answered(&refused(&[
        ("RFC 9112 §6.1, CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked", FRAMING),
        ("RFC 9112 §6.1, TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5", FRAMING),
        ("RFC 9112 §6.1, TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 0", FRAMING),
        ("RFC 9112 §6.1, CL.TE", "content-LENGTH:5\r\nX: y\r\ntransfer-ENCODING:chunked", FRAMING),
        ("RFC 9112 §6.1, CL.TE", "Content-Length: 5\r\nTransfer-Encoding: xchunked", FRAMING),
        ("RFC 9112 §6.1, CL.TE", "Content-Length: 5\r\nTransfer-Encoding: identity", FRAMING),
        ("RFC 9112 §6.1, CL.TE", "Content-Length: 5\r\nTransfer-Encoding:", FRAMING),
        ("RFC 9112 §6.1, TE.CL", "Transfer-Encoding: identity\r\nContent-Length: 5", FRAMING),
        ("RFC 9112 §6.1, TE.CL", "Transfer-Encoding: \tchunked \r\nContent-Length: 5", FRAMING),
    ]));
}

#[test]
fn a_coding_that_is_hidden_from_somebody_is_refused() {
    assert_answered(&refused(&[
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked, chunked", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked\r\nTransfer-encoding: x", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", CODING),
        ("RFC 9112 §6.3, TE.TE", "Transfer-Encoding: chunked, identity", FRAMING),
        ("RFC 9112 §6.3, TE.TE", "Transfer-Encoding: chunked, gzip", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: identity, chunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: gzip, chunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: identity", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: xchunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunkedx", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked x", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked;q=1", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked;", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: \"chunked\"", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: 'chunked'", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: ch\tunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: x, chun\u{212a}ed", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: \u{e4}", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked\u{a0}", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: : chunked", CODING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding:", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: ,", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: \t", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked,", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: , chunked", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding:", FRAMING),
        ("RFC 9112 §6.1, TE.TE", "Transfer-Encoding:\r\nTransfer-Encoding: chunked", FRAMING),
        ("RFC 9112 §5.1, TE.TE", "Transfer-Encoding : chunked", SYNTAX),
        ("RFC 9112 §5.1, TE.TE", "Transfer-Encoding\t: chunked", SYNTAX),
        ("RFC 9112 §5.2, TE.TE", "Transfer-Encoding:\r\n chunked", SYNTAX),
        ("RFC 9112 §5.2, TE.TE", "X: y\r\n Transfer-Encoding: chunked", SYNTAX),
        ("RFC 9112 §2.2, TE.TE", "X: y\nTransfer-Encoding: chunked", SYNTAX),
        ("RFC 9112 §2.2, TE.TE", "X: y\rTransfer-Encoding: chunked", SYNTAX),
        ("RFC 9112 §2.2, TE.TE", "Transfer-Encoding\n: chunked", SYNTAX),
        ("RFC 9110 §5.5, TE.TE", "Transfer-Encoding: \x0bchunked", SYNTAX),
        ("RFC 9110 §5.5, TE.TE", "Transfer-Encoding: chunked\x0c", SYNTAX),
        ("RFC 9110 §5.5, TE.TE", "Transfer-Encoding: chunked\0", SYNTAX),
        ("RFC 9110 §5.5, TE.TE", "Transfer-Encoding: chun\x08ked", SYNTAX),
        ("RFC 9110 §5.6.2, TE.TE", "\"Transfer-Encoding\": chunked", SYNTAX),
        ("RFC 9110 §5.6.2, TE.TE", "Transfer-Encoding\0: chunked", SYNTAX),
    ]));
}

#[test]
fn a_length_that_is_not_one_number_is_refused() {
    assert_answered(&refused(&[
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5\r\nContent-Length: 6", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5\r\nContent-Length: 5", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5\r\nX: y\r\ncontent-length: 5", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 0\r\nContent-Length: 5", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5, 5", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5,5", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5, 6", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: 5,", FRAMING),
        ("RFC 9112 §6.3, two lengths", "Content-Length: ,5", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length:", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: \t ", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: +5", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: -5", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: -0", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 0x5", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: a", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 5.0", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 5e0", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 1_0", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 5 5", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 5;", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: \"5\"", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: \u{665}", FRAMING),
        ("RFC 9110 §8.6, an odd length", "Content-Length: 5\u{a0}", FRAMING),
        ("RFC 9110 §8.6, an overflow", "Content-Length: 18446744073709551616", FRAMING),
        ("RFC 9110 §8.6, an overflow", "Content-Length: 18446744073709551621", FRAMING),
        ("RFC 9110 §8.6, an overflow", "Content-Length: -18446744073709551611", FRAMING),
        ("RFC 9110 §8.6, an overflow", "Content-Length: 99999999999999999999999999999999", FRAMING),
        ("RFC 9112 §5.1, a hidden length", "Content-Length : 5", SYNTAX),
        ("RFC 9112 §5.1, a hidden length", "Content-Length\t: 5", SYNTAX),
        ("RFC 9112 §5.2, a hidden length", "Content-Length: 5\r\n 6", SYNTAX),
        ("RFC 9112 §2.2, a hidden length", "X: y\nContent-Length: 5", SYNTAX),
        ("RFC 9110 §5.5, a hidden length", "Content-Length: 5\x0b", SYNTAX),
    ]));
}

#[test]
fn an_older_version_has_no_transfer_codings() {
    // RFC 9112 §6.1: a server must take such a message's framing to be faulty.
    let rows = ["chunked", "identity", "x", ""].map(|coding| {
        let message = format!(
            "PUT /v1/keys/models/acme/k HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\
             Transfer-Encoding: {coding}\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
        let name = format!("{coding:?} in HTTP/1.0");
        row("RFC 9112 §6.1, HTTP/1.0 with a coding", name, message, Refused(FRAMING.0, FRAMING.1))
    });
    assert_answered(&rows);
}

#[test]
fn a_framing_that_can_be_read_in_one_way_is_read_in_that_way() {
    let chunk = one_chunk("hello", "");
    let rows = [
        ("Transfer-Encoding: chunked", &*chunk),
        ("Transfer-Encoding:\tchunked\t", &chunk),
        ("Transfer-Encoding:chunked", &chunk),
        ("TRANSFER-encoding: cHuNkEd", &chunk),
        ("Transfer-Encoding: chunked\r\nTE: identity, trailers", &chunk),
        ("Transfer-Encoding: chunked\r\nTrailer: Content-Length", &chunk),
        // Whoever removes what Connection names leaves another message behind; here it is a message's end.
        ("Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding", &chunk),
        ("Content-Length: 5\r\nConnection: keep-alive, Content-Length", "hello"),
        ("Content-Length: 5", "hello"),
        ("Content-Length:5", "hello"),
        ("Content-Length:\t 5\t", "hello"),
        ("Content-Length: 0000000000000000000000000000005", "hello"),
        // Fields of other names, whatever somebody else makes of them.
        ("Content-Length: 5\r\nTransfer_Encoding: chunked", "hello"),
        ("Content-Length: 5\r\nContent_Length: 0", "hello"),
        ("Content-Length: 5\r\nX-Transfer-Encoding: chunked", "hello"),
        ("Content-Length: 5\r\nTE: chunked", "hello"),
        ("Content-Length: 5\r\nContent-Encoding: chunked", "hello"),
    ];
    let section = "RFC 9112 §6.3, one way";
    let rows = rows.map(|(fields, body)| row(section, fields, echo(fields, body), Echoed("hello")));
    assert_answered(&rows);
    // A length of nothing, and none.
    let rows = ["Content-Length: 0", "Content-Length: 000", "X: y"]
        .map(|fields| row(section, fields, echo(fields, ""), Echoed("")));
    assert_answered(&rows);
}

#[test]
fn the_body_of_a_request_that_wants_none_is_never_a_request() {
    // CL.0, 0.CL and TE.0: one party skips the body and the other takes it for what comes next.
    let mut rows = Vec::new();
    for (method, target, status) in [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/", 200),
        ("GET", "/v1/keys/models/acme/absent", 404),
        ("DELETE", "/v1/keys/models/acme/absent", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("POST", "/health", 405),
        ("OPTIONS", "/health", 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/", 405),
        ("PUT", "/v1/objects", 405),
        ("POST", "/v1/objects", 400),
        ("POST", "/v1/objects/../../health", 404),
        ("BREW", "/", 501),
        ("get", "/health", 501),
    ] {
        let counted = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
        let in_chunks = format!("Transfer-Encoding: chunked\r\n\r\n{}", one_chunk(SMUGGLED, ""));
        for (section, rest) in [("CL.0 and 0.CL", counted), ("TE.0", in_chunks)] {
            let message = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{rest}");
            rows.push(row("RFC 9112 §6.3", format!("{section}, {method} {target}"), message, Taken(status)));
        }
    }
    // A condition that fails decides before the body is looked at, and so does a field that is refused.
    for (fields, status) in [
        ("If-Match: \"x\"", 412),
        ("Content-Range: bytes 0-1/2", 400),
        ("Expect: a", 417),
        ("X-Blob-Reference: a", 400),
    ] {
        let head = "PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h";
        let message = format!("{head}\r\n{fields}\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
        rows.push(row("RFC 9112 §6.3", format!("CL.0, {fields}"), message, Taken(status)));
    }
    assert_answered(&rows);
}

#[test]
fn a_body_that_looks_like_requests_is_stored_as_it_is() {
    let server = Server::start();
    let body = SMUGGLED.repeat(300);
    let counted = upload(&format!("Content-Length: {}", body.len()), &body);
    let in_chunks = upload("Transfer-Encoding: chunked", &one_chunk(&body, ""));
    for message in [counted, in_chunks] {
        let mut connection = server.connect();
        connection.send(message);
        let response = connection.response();
        assert_eq!(response.status, 201, "{response:?}");
        let target = format!("/v1/objects/{}", response.json()["id"].as_str().unwrap());
        assert!(connection.exchange("GET", &target, &[], b"").body == body.as_bytes());
    }
    assert_eq!(server.get("/v1/keys/models/acme/smuggled").status, 404);
    assert_eq!(server.list(SCOPE).len(), 2);
}
