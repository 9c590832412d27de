//! Messages that two parties could read differently. Each is answered once, the connection is closed, nothing of it
//! is kept, and what was hidden behind it is never served.

use crate::content::{chunked, content};
use crate::raw::request;
use crate::server::Server;

/// What an attacker would like to be taken for a request of its own.
const SMUGGLED: &str = "PUT /v1/keys/models/acme/smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";

/// Sends `message` and the smuggled request behind it on one connection.
fn assert_refused_and_closed(server: &Server, message: &[u8], status: u16, code: &str, case: &str) {
    let mut connection = server.connect();
    connection.send([message, SMUGGLED.as_bytes()].concat());
    let response = connection.response();
    response.assert_problem(status, code, case);
    assert!(response.closes(), "{case}: {response:?}");
    connection.assert_closed();
    server.assert_nothing_kept(case);
}

#[test]
fn a_message_whose_length_is_ambiguous_is_refused() {
    let server = Server::start();
    for (section, fields, status, code) in [
        ("RFC 9112 §6.1", "Content-Length: 5\r\nTransfer-Encoding: chunked", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: chunked\r\nContent-Length: 5", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: chunked\r\nContent-Length: 0", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: identity\r\nContent-Length: 5", 400, "invalid_framing"),
        ("RFC 9112 §6.3", "Content-Length: 5\r\nContent-Length: 6", 400, "invalid_framing"),
        ("RFC 9112 §6.3", "Content-Length: 5\r\nContent-Length: 5", 400, "invalid_framing"),
        ("RFC 9112 §6.3", "Content-Length: 5\r\ncontent-length: 5", 400, "invalid_framing"),
        ("RFC 9112 §6.3", "Content-Length: 5, 5", 400, "invalid_framing"),
        ("RFC 9112 §6.3", "Content-Length: 5,", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length:", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: +5", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: -5", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: 0x5", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: 5.0", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: 5 5", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: \u{665}", 400, "invalid_framing"),
        ("RFC 9110 §8.6", "Content-Length: 18446744073709551616", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: chunked, chunked", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "invalid_framing"),
        (
            "RFC 9112 §6.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
            "invalid_framing",
        ),
        ("RFC 9112 §6.3", "Transfer-Encoding: chunked, gzip", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding:", 400, "invalid_framing"),
        ("RFC 9112 §6.1", "Transfer-Encoding: \u{e4}", 501, "unknown_transfer_coding"),
        ("RFC 9112 §6.1", "Transfer-Encoding: gzip, chunked", 501, "unknown_transfer_coding"),
        (
            "RFC 9112 §6.1",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            501,
            "unknown_transfer_coding",
        ),
        ("RFC 9112 §6.1", "Transfer-Encoding: identity", 501, "unknown_transfer_coding"),
        ("RFC 9112 §6.1", "Transfer-Encoding: xchunked", 501, "unknown_transfer_coding"),
        ("RFC 9112 §6.1", "Transfer-Encoding: chunked;q=1", 501, "unknown_transfer_coding"),
        ("RFC 9112 §6.1", "Transfer-Encoding: \"chunked\"", 501, "unknown_transfer_coding"),
        ("RFC 9112 §5.1", "Transfer-Encoding : chunked", 400, "malformed_request"),
        ("RFC 9112 §5.1", "Content-Length\t: 5", 400, "malformed_request"),
        ("RFC 9110 §5.5", "Transfer-Encoding: \x0bchunked", 400, "malformed_request"),
    ] {
        let head = format!(
            "POST /v1/objects?namespace=models&tenant_id=acme HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n"
        );
        for body in ["", "hello", "5\r\nhello\r\n0\r\n\r\n"] {
            let case = format!("{section}: {fields:?} with {body:?}");
            assert_refused_and_closed(&server, format!("{head}{body}").as_bytes(), status, code, &case);
        }
    }
}

#[test]
fn http_1_0_has_no_transfer_codings() {
    let server = Server::start();
    // RFC 9112 §6.1: a server must take such a message's framing to be faulty.
    let message =
        "PUT /v1/keys/models/acme/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert_refused_and_closed(&server, message.as_bytes(), 400, "invalid_framing", "chunked in HTTP/1.0");
}

#[test]
fn a_head_that_is_malformed_is_refused() {
    let server = Server::start();
    let good = "PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\n";
    let with = |fields: &str| format!("{good}{fields}\r\nContent-Length: 1\r\n\r\nx");
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    for (section, message) in [
        (
            "RFC 9112 §2.2, bare LF in the request line",
            "PUT /v1/keys/models/acme/k HTTP/1.1\nHost: h\r\n\r\n".to_owned(),
        ),
        ("RFC 9112 §2.2, bare LF in a field", with("A: b\nC: d")),
        ("RFC 9112 §2.2, bare LF at the end", format!("{good}Content-Length: 1\r\n\nx")),
        (
            "RFC 9112 §2.2, bare LF everywhere",
            "PUT /v1/keys/models/acme/k HTTP/1.1\nHost: h\nContent-Length: 1\n\nx".into(),
        ),
        ("RFC 9112 §2.2, bare CR in a field", with("A: b\rC: d")),
        ("RFC 9112 §2.2, bare CR in the request line", line("GET /hea\rlth HTTP/1.1")),
        ("RFC 9112 §2.2, CR CR LF", with("A: b\r")),
        (
            "RFC 9112 §2.2, white space before the first field",
            line("PUT /v1/keys/models/acme/k HTTP/1.1\r\n A: b"),
        ),
        ("RFC 9110 §5.5, NUL in a value", with("A: b\0c")),
        ("RFC 9110 §5.5, NUL in a name", with("A\0: b")),
        ("RFC 9110 §5.5, NUL in the request line", line("GET /\0 HTTP/1.1")),
        ("RFC 9110 §5.5, a control character in a value", with("A: b\x07c")),
        ("RFC 9110 §5.5, DEL in a value", with("A: b\x7fc")),
        ("RFC 9112 §5.2, obs-fold with a space", with("A: b\r\n c")),
        ("RFC 9112 §5.2, obs-fold with a tab", with("A: b\r\n\tc")),
        ("RFC 9112 §5.2, obs-fold of a length", with("A: b\r\n Content-Length: 5")),
        ("RFC 9112 §5.1, a space before the colon", with("A : b")),
        ("RFC 9112 §5.1, a tab before the colon", with("A\t: b")),
        ("RFC 9112 §5, no colon", with("no colon")),
        ("RFC 9112 §5, no name", with(": b")),
        ("RFC 9110 §5.6.2, a name that is no token", with("A[]: b")),
        ("RFC 9110 §5.6.2, a name beyond ASCII", with("\u{e4}: b")),
        ("RFC 9112 §3, two spaces", line("GET  /health HTTP/1.1")),
        ("RFC 9112 §3, a tab", line("GET\t/health HTTP/1.1")),
        ("RFC 9112 §3, a space at the end", line("GET /health HTTP/1.1 ")),
        ("RFC 9112 §3, a space at the start", line(" GET /health HTTP/1.1")),
        ("RFC 9112 §3, no version", line("GET /health")),
        ("RFC 9112 §3, no target", line("GET HTTP/1.1")),
        ("RFC 9112 §3, a fourth word", line("GET /health x HTTP/1.1")),
        ("RFC 9112 §2.3, the version in small letters", line("GET /health http/1.1")),
        ("RFC 9112 §2.3, a version of other digits", line("GET /health HTTP/1.10")),
        ("RFC 9112 §3.1, a method that is no token", line("G(T /health HTTP/1.1")),
        ("RFC 9112 §3.2, a target without a slash", line("GET health HTTP/1.1")),
        ("RFC 9112 §3.2, a target of another form", line("GET * HTTP/1.1")),
        ("RFC 9112 §3.2, a target of another scheme", line("GET ftp://h/health HTTP/1.1")),
        ("RFC 9112 §3.2, a target with a fragment", line("GET /health#a HTTP/1.1")),
        ("RFC 9112 §3.2, a target beyond ASCII", line("GET /h\u{e4}lth HTTP/1.1")),
    ] {
        assert_refused_and_closed(&server, message.as_bytes(), 400, "malformed_request", section);
    }
}

#[test]
fn a_version_that_is_not_spoken_is_told_so() {
    let server = Server::start();
    for message in [
        "GET /health HTTP/2.0\r\nHost: h\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/0.9\r\n\r\n",
    ] {
        assert_refused_and_closed(&server, message.as_bytes(), 505, "unsupported_version", message);
    }
}

#[test]
fn a_request_without_exactly_one_host_is_refused() {
    let server = Server::start();
    // RFC 9112 §3.2: a server must answer 400 to no Host, two of them, or an invalid one.
    for fields in [
        "X: y",
        "Host: h\r\nHost: h",
        "Host: h\r\nHost: other",
        "Host: h\r\nhost:",
        "Host: a b",
        "Host: a/b",
        "Host: user@h",
        "Host: h\u{e4}",
        "Host: <h>",
    ] {
        let message =
            format!("PUT /v1/keys/models/acme/k HTTP/1.1\r\n{fields}\r\nContent-Length: 1\r\n\r\nx");
        assert_refused_and_closed(&server, message.as_bytes(), 400, "invalid_host", fields);
    }
    // HTTP/1.0 knew no Host, but two are two there as well.
    let message = "GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n";
    assert_refused_and_closed(&server, message.as_bytes(), 400, "invalid_host", message);
}

#[test]
fn a_bad_chunk_is_refused_at_the_start_and_in_the_middle_of_a_body() {
    let server = Server::start();
    let long_extension = format!("5;{}\r\nhello\r\n", "e".repeat(300));
    let long_trailer = format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000));
    let many_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(1500));
    // More than is held in memory until the end, so that the object is reserved when the bad chunk comes.
    let before = chunked(&content(1, 40_000), 4000, &[]);
    let before = before.strip_suffix(b"0\r\n\r\n").unwrap();
    for (section, chunk) in [
        ("RFC 9112 §7.1, no size", "\r\nhello\r\n"),
        ("RFC 9112 §7.1, no digit", "g\r\n"),
        ("RFC 9112 §7.1, a plus", "+5\r\nhello\r\n"),
        ("RFC 9112 §7.1, a minus", "-5\r\nhello\r\n"),
        ("RFC 9112 §7.1, a prefix", "0x5\r\nhello\r\n"),
        ("RFC 9112 §7.1, a space before the size", " 5\r\nhello\r\n"),
        ("RFC 9112 §7.1, a space behind the size", "5 \r\nhello\r\n"),
        ("RFC 9112 §7.1, an underscore", "1_0\r\n"),
        ("RFC 9112 §7.1, over 64 bits", "10000000000000005\r\nhello\r\n"),
        ("RFC 9112 §7.1, zeros past any length", "000000000000000005\r\nhello\r\n"),
        ("RFC 9112 §7.1, a bare LF behind the size", "5\nhello\r\n"),
        ("RFC 9112 §7.1, a bare LF behind the bytes", "5\r\nhello\n0\r\n\r\n"),
        ("RFC 9112 §7.1, a bare CR behind the bytes", "5\r\nhello\r0\r\n\r\n"),
        ("RFC 9112 §7.1, more bytes than said", "5\r\nhello!\r\n0\r\n\r\n"),
        ("RFC 9112 §7.1, a bare LF at the very end", "0\r\n\n"),
        ("RFC 9112 §7.1.1, a bare LF ends an extension", "5;a\nhello\r\n"),
        ("RFC 9112 §7.1.1, a bare CR in an extension", "5;a\rb\r\nhello\r\n"),
        ("RFC 9112 §7.1.1, NUL in an extension", "5;a\0\r\nhello\r\n"),
        ("RFC 9112 §7.1.1, an extension without its semicolon", "5 a=b\r\nhello\r\n"),
        ("RFC 9112 §7.1.1, an extension past its limit", &long_extension),
        ("RFC 9112 §7.1.2, no colon", "0\r\nno colon\r\n\r\n"),
        ("RFC 9112 §7.1.2, a space before the colon", "0\r\nA : b\r\n\r\n"),
        ("RFC 9112 §7.1.2, a fold", "0\r\nA: b\r\n c\r\n\r\n"),
        ("RFC 9112 §7.1.2, a bare LF", "0\r\nA: b\n\r\n"),
        ("RFC 9112 §7.1.2, past its limit", &long_trailer),
        ("RFC 9112 §7.1.2, past its limit in many fields", &many_trailers),
        ("RFC 9110 §6.5.1, a length", "0\r\nContent-Length: 5\r\n\r\n"),
        ("RFC 9110 §6.5.1, a coding", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("RFC 9110 §6.5.1, a host", "0\r\nHost: h\r\n\r\n"),
        ("RFC 9110 §6.5.1, a credential", "0\r\nAuthorization: Bearer x\r\n\r\n"),
    ] {
        let head = request("PUT", "/v1/keys/models/acme/k", &[("Transfer-Encoding", "chunked")], b"");
        for (place, prefix) in [("at the start", &b""[..]), ("in the middle", before)] {
            let message = [&head, prefix, chunk.as_bytes()].concat();
            assert_refused_and_closed(
                &server,
                &message,
                400,
                "invalid_framing",
                &format!("{section}, {place}"),
            );
        }
    }
}

#[test]
fn what_the_standard_permits_in_a_message_is_taken() {
    let server = Server::start();
    let mut connection = server.connect();
    for message in [
        // RFC 9112 §2.2: at least one empty line before the request line is passed over.
        "\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n",
        // §3.2.2: the absolute-form; a Host beside it is ignored.
        "GET http://other:80/health HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET HTTPS://other/health HTTP/1.1\r\nHost: h\r\n\r\n",
        // §5.1: white space around a value is not part of it, and may be missing.
        "GET /health HTTP/1.1\r\nHost:h\r\nA:\t b \t\r\nB:\r\n\r\n",
        "GET /health HTTP/1.1\r\nhOsT: [::1]:8080\r\nA: \u{e4}\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 000\r\n\r\n",
    ] {
        connection.send(message);
        let response = connection.response();
        assert_eq!(response.status, 200, "{message:?}: {response:?}");
    }
    // §7.1: extensions and trailer fields are taken and dropped; letters of either case are digits; a coding's name
    // is known in any case.
    for coding in ["chunked", "Chunked", "\tCHUNKED "] {
        let body = "a;x=y;z=\"q\"\r\n0123456789\r\n00A ;b\r\nabcdefghij\r\n000\r\nX-A: b\r\nX-B:\r\n\r\n";
        let fields = [("Transfer-Encoding", coding)];
        let response = connection.exchange("POST", "/", &fields, body.as_bytes());
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, &b"0123456789abcdefghij"[..]),
            "{coding:?}"
        );
    }
}
