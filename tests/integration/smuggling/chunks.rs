//! Chunks, their extensions and the trailer section (RFC 9112 §7.1).

use super::Answer::{Echoed, Refused, Taken};
use super::{Row, SMUGGLED, UPLOAD, assert_answered, echo, one_chunk, row, upload};
use crate::content::{chunked, content};
use crate::raw::request;
use crate::server::{SCOPE, Server};

/// Each at the start of a body, and behind more than is held in memory until a body's end, so that the object is
/// reserved when it comes.
fn refused(rows: &[(&'static str, &str, &str)]) -> Vec<Row> {
    let head = request("PUT", "/v1/keys/models/acme/k", &[("Transfer-Encoding", "chunked")], b"");
    let before = chunked(&content(1, 40_000), 4000, &[]);
    let before = before.strip_suffix(b"0\r\n\r\n").unwrap();
    let mut all = Vec::new();
    for (section, name, body) in rows {
        for (place, prefix) in [("at the start", &b""[..]), ("in the middle", before)] {
            let message = [&head, prefix, body.as_bytes()].concat();
            all.push(row(section, format!("{name}, {place}"), message, Refused(400, "invalid_framing")));
        }
    }
    all
}

#[test]
fn a_chunk_size_that_is_none_is_refused() {
    let section = "RFC 9112 §7.1";
    assert_answered(&refused(&[
        (section, "no size", "\r\nhello\r\n"),
        (section, "no digit", "g\r\n"),
        (section, "a plus", "+5\r\nhello\r\n"),
        (section, "a minus", "-5\r\nhello\r\n"),
        (section, "minus nothing", "-0\r\n\r\n"),
        (section, "a prefix", "0x5\r\nhello\r\n"),
        (section, "a prefix in capitals", "0X5\r\nhello\r\n"),
        (section, "a suffix", "5h\r\nhello\r\n"),
        (section, "a fraction", "5.0\r\nhello\r\n"),
        (section, "an underscore", "1_0\r\n"),
        (section, "quotes", "\"5\"\r\nhello\r\n"),
        (section, "two sizes", "5,5\r\nhello\r\n"),
        (section, "a digit beyond ASCII", "\u{665}\r\nhello\r\n"),
        (section, "a space before the size", " 5\r\nhello\r\n"),
        (section, "a tab before the size", "\t5\r\nhello\r\n"),
        (section, "a space behind the size", "5 \r\nhello\r\n"),
        (section, "a tab behind the size", "5\t\r\nhello\r\n"),
        (section, "a space behind the last size", "0 \r\n\r\n"),
        (section, "a form feed behind the size", "5\x0c\r\nhello\r\n"),
        (section, "a vertical tab behind the size", "5\x0b\r\nhello\r\n"),
        (section, "one digit past 64 bits", "10000000000000005\r\nhello\r\n"),
        (section, "many digits past 64 bits", "fffffffffffffffffffffffffffffff5\r\nhello\r\n"),
        (section, "more zeros than digits of 64 bits", "000000000000000005\r\nhello\r\n"),
        (section, "NUL in the size", "5\0\r\nhello\r\n"),
    ]));
}

#[test]
fn a_line_of_the_framing_that_ends_in_two_ways_is_refused() {
    let section = "RFC 9112 §7.1";
    assert_answered(&refused(&[
        (section, "a bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        (section, "a bare CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        (section, "CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        (section, "a bare LF before the size", "\n5\r\nhello\r\n"),
        (section, "a bare LF behind the bytes", "5\r\nhello\n0\r\n\r\n"),
        (section, "a bare CR behind the bytes", "5\r\nhello\r0\r\n\r\n"),
        (section, "nothing behind the bytes", "5\r\nhello0\r\n\r\n"),
        (section, "two characters instead of CRLF", "5\r\nhelloxx0\r\n\r\n"),
        (section, "an empty line behind the bytes", "5\r\nhello\r\n\r\n0\r\n\r\n"),
        (section, "more bytes than said", "5\r\nhello!\r\n0\r\n\r\n"),
        (section, "fewer bytes than said", "6\r\nhello\r\n0\r\n\r\n"),
        (section, "a bare LF behind the last size", "0\n\r\n"),
        (section, "a bare LF at the very end", "0\r\n\n"),
        (section, "a bare CR at the very end", "0\r\n\rx\r\n"),
        ("RFC 9112 §7.1.1", "a bare LF ends an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("RFC 9112 §7.1.1", "a bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("RFC 9112 §7.1.1", "a bare LF in quotes", "5;a=\"\n\"\r\nhello\r\n"),
        ("RFC 9112 §7.1.1", "a bare LF in the last extension", "0;a\n\r\n"),
        ("RFC 9112 §7.1.1", "a bare CR in an extension", "5;a\rb\r\nhello\r\n"),
        ("RFC 9112 §7.1.1", "a bare CR ends an extension", "5;a\rhello\r\n"),
        ("RFC 9112 §7.1.1", "CR CR LF behind an extension", "5;a\r\r\nhello\r\n"),
    ]));
}

#[test]
fn an_extension_that_is_none_is_refused() {
    let section = "RFC 9112 §7.1.1";
    let (long, long_quoted) = ("e".repeat(300), format!("a=\"{}\"", "e".repeat(300)));
    let (long, long_quoted) = (format!("5;{long}\r\nhello\r\n"), format!("5;{long_quoted}\r\nhello\r\n"));
    let endless = format!("5;{}", "e".repeat(9000));
    assert_answered(&refused(&[
        (section, "NUL", "5;a\0\r\nhello\r\n"),
        (section, "a control character", "5;a\x08\r\nhello\r\n"),
        (section, "a form feed before it", "5\x0c;a\r\nhello\r\n"),
        (section, "no semicolon", "5 a=b\r\nhello\r\n"),
        (section, "a comma", "5,a=b\r\nhello\r\n"),
        (section, "past its limit", &long),
        (section, "past its limit in quotes", &long_quoted),
        (section, "without an end", &endless),
    ]));
}

#[test]
fn a_trailer_that_would_change_the_framing_or_the_route_is_refused() {
    let forging = [
        "Content-Length: 5",
        "content-length:0",
        "Transfer-Encoding: chunked",
        "TRANSFER-ENCODING: identity",
        "Host: other",
        "host:",
        "Authorization: Bearer x",
        "X-API-Key: x",
        "Connection: close",
        "Content-Type: text/html",
        "Content-Encoding: gzip",
        "Content-Range: bytes 0-1/2",
        "Expect: 100-continue",
        "TE: trailers",
        "Trailer: Host",
    ];
    let bodies = forging.map(|line| (line, one_chunk("hello", &format!("A: b\r\n{line}\r\n"))));
    let rows = bodies.iter().map(|(line, body)| ("RFC 9110 §6.5.1", *line, body.as_str()));
    assert_answered(&refused(&rows.collect::<Vec<_>>()));

    let (long, many) = (format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000)), "A: b\r\n".repeat(1500));
    let many = format!("0\r\n{many}\r\n");
    let section = "RFC 9112 §7.1.2";
    assert_answered(&refused(&[
        (section, "no colon", "0\r\nno colon\r\n\r\n"),
        (section, "no name", "0\r\n: b\r\n\r\n"),
        (section, "a space before the colon", "0\r\nA : b\r\n\r\n"),
        (section, "a hidden length", "0\r\nContent-Length : 5\r\n\r\n"),
        (section, "a fold", "0\r\nA: b\r\n c\r\n\r\n"),
        (section, "a fold of the first field", "0\r\n A: b\r\n\r\n"),
        (section, "a bare LF", "0\r\nA: b\n\r\n"),
        (section, "a bare CR", "0\r\nA: b\rC: d\r\n\r\n"),
        (section, "NUL", "0\r\nA: b\0\r\n\r\n"),
        (section, "a control character", "0\r\nA: b\x0b\r\n\r\n"),
        (section, "a form feed before a value", "0\r\nA:\x0cb\r\n\r\n"),
        (section, "a form feed behind a value", "0\r\nA: b\x0c\r\n\r\n"),
        (section, "a request line", "0\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n"),
        (section, "past its limit", &long),
        (section, "past its limit in many fields", &many),
    ]));
}

#[test]
fn chunks_that_can_be_read_in_one_way_are_read_in_that_way() {
    let rows = [
        "5\r\nhello\r\n0\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
        "5;a\r\nhello\r\n0;b\r\n\r\n",
        "5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\";0\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"no end\r\nhello\r\n0\r\n\r\n",
        "5 ;a = b\r\nhello\r\n0 ;a\r\n\r\n",
        "5;\r\nhello\r\n0;\r\n\r\n",
        "5\r\nhello\r\n0\r\nA: b\r\nB:\r\nC:\td \r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Content-Length: 9\r\nSet-Cookie: a\r\n\r\n",
    ];
    let fields = "Transfer-Encoding: chunked";
    assert_answered(&rows.map(|body| row("RFC 9112 §7.1", body, echo(fields, body), Echoed("hello"))));
    // Letters of either case are digits.
    let body = "a\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\n\r\n";
    let echoed = Echoed("0123456789abcdefghij");
    assert_answered(&[row("RFC 9112 §7.1", "letters", echo(fields, body), echoed)]);
    // Nothing of a trailer is merged into the header: neither a condition nor a method for the next request.
    let body =
        one_chunk("hello", "If-Match: \"x\"\r\nX-Object-Meta-A: b\r\nX-HTTP-Method-Override: DELETE\r\n");
    assert_answered(&[row("RFC 9110 §6.5.1", "not merged", echo(fields, &body), Taken(200))]);
    let server = Server::start();
    let response = {
        let mut connection = server.connect();
        connection.send(upload(fields, &body));
        connection.response()
    };
    assert_eq!((response.status, &response.json()["metadata"]), (201, &serde_json::json!({})));
}

#[test]
fn what_stands_behind_the_largest_size_is_its_content_and_never_a_request() {
    let server = Server::start();
    for size in ["ffffffffffffffff", "FFFFFFFFFFFFFFFE", "7fffffffffffffff", "8000000000000000", "100000000"]
    {
        let mut connection = server.connect();
        connection.send(request("POST", UPLOAD, &[("Transfer-Encoding", "chunked")], b""));
        connection.send(format!("{size}\r\nhello\r\n0\r\n\r\n{SMUGGLED}"));
        connection.finish_sending();
        let response = connection.response();
        response.assert_problem(400, "body_incomplete", size);
        assert!(response.closes(), "{size}");
        connection.assert_closed();
        server.assert_nothing_kept(size);
    }
    assert!(server.list(SCOPE).is_empty());
}
