//! Lines and fields (RFC 9112 §2–§5): ends of lines, folds, control characters, names.

use super::Answer::{Refused, Taken};
use super::{HONEST, Row, assert_answered, row};

/// A `PUT` that would be stored, with these lines among its fields.
fn with(lines: &str) -> String {
    format!("PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\n{lines}\r\nContent-Length: 1\r\n\r\nx")
}

/// The same with these lines before all other fields.
fn first(lines: &str) -> String {
    format!("PUT /v1/keys/models/acme/k HTTP/1.1\r\n{lines}\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
}

fn malformed(section: &'static str, rows: &[(&str, String)]) -> Vec<Row> {
    let one = |(name, message): &(&str, String)| {
        row(section, *name, message.as_bytes(), Refused(400, "malformed_request"))
    };
    rows.iter().map(one).collect()
}

#[test]
fn lines_that_end_in_two_ways_are_refused() {
    let head = "PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1";
    assert_answered(&malformed(
        "RFC 9112 §2.2",
        &[
            (
                "bare LF behind the request line",
                "PUT /v1/keys/models/acme/k HTTP/1.1\nHost: h\r\n\r\n".into(),
            ),
            ("bare LF behind a field", with("A: b\nC: d")),
            ("bare LF behind the first field", first("A: b\nC: d")),
            ("bare LF at the end", format!("{head}\r\n\nx")),
            ("bare LF before the end", format!("{head}\n\r\nx")),
            ("bare LF everywhere", format!("{}\n\nx", head.replace("\r\n", "\n"))),
            ("bare LF before the request", format!("\n{head}\r\n\r\nx")),
            ("LF CR", format!("{head}\n\r\n\rx")),
            ("bare CR in a value", with("A: b\rC: d")),
            ("bare CR in a name", with("A\rB: d")),
            ("bare CR behind the colon", with("A:\rb")),
            ("bare CR in the request line", head.replace(" HTTP", "\r HTTP") + "\r\n\r\nx"),
            ("bare CR behind the version", head.replace("1.1\r\n", "1.1\r\r\n") + "\r\n\r\nx"),
            ("bare CR before the request", format!("\r{head}\r\n\r\nx")),
            ("CR CR LF behind a field", with("A: b\r")),
            ("CR CR LF at the end", format!("{head}\r\n\r\r\nx")),
            ("bare CR as the end", format!("{head}\r\n\rX: y\r\n\r\nx")),
            ("a line separator is no end of a line", with("A: b\r\nC\u{2028}: d")),
            ("five empty lines before the request", format!("{}{head}\r\n\r\nx", "\r\n".repeat(5))),
            ("nothing but empty lines", "\r\n".repeat(8)),
        ],
    ));
}

#[test]
fn a_field_that_is_folded_is_refused() {
    assert_answered(&malformed(
        "RFC 9112 §5.2",
        &[
            ("with a space", with("A: b\r\n c")),
            ("with a tab", with("A: b\r\n\tc")),
            ("the first field", first("A: b\r\n c")),
            ("a field that would be a length", with("A: b\r\n Content-Length: 5")),
            ("a field of nothing", with("A:\r\n b")),
            ("nothing behind it", with("A: b\r\n ")),
            ("Host", "PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\n .example\r\n\r\n".into()),
            ("white space before the first field", first(" A: b")),
            ("a tab before the first field", first("\tA: b")),
            ("a line of a space before the first field", first(" ")),
        ],
    ));
}

#[test]
fn control_characters_are_refused_wherever_they_stand() {
    let mut rows = Vec::new();
    for byte in (0..=31).chain([127]).filter(|byte| !matches!(byte, b'\t' | b'\n')) {
        let character = char::from(byte);
        for (place, message) in [
            ("in a value", with(&format!("A: b{character}c"))),
            ("before a value", with(&format!("A: {character}b"))),
            ("in a name", with(&format!("A{character}B: c"))),
            ("before a name", with(&format!("{character}A: b"))),
            ("in the request line", format!("GET /hea{character}lth HTTP/1.1\r\nHost: h\r\n\r\n")),
            ("in the method", format!("GE{character}T /health HTTP/1.1\r\nHost: h\r\n\r\n")),
        ] {
            let name = format!("{byte:#04x} {place}");
            rows.push(row("RFC 9110 §5.5", name, message, Refused(400, "malformed_request")));
        }
    }
    assert_answered(&rows);
}

#[test]
fn a_field_line_that_is_none_is_refused() {
    assert_answered(&malformed(
        "RFC 9112 §5.1",
        &[
            ("a space before the colon", with("A : b")),
            ("a tab before the colon", with("A\t: b")),
            ("a space before the colon of the first field", first("A : b")),
            (
                "a space before the colon of a length",
                "PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length : 1\r\n\r\nx".into(),
            ),
            ("a space before the colon of Host", "GET /health HTTP/1.1\r\nHost : h\r\n\r\n".into()),
            ("no colon", with("no colon")),
            ("no name", with(": b")),
            ("nothing but a colon", with(":")),
            ("a space in a name", with("A B: c")),
        ],
    ));
    let names =
        ["A[]", "A(b)", "A,B", "A;b", "A=b", "A@b", "A\\b", "A\"b\"", "{A}", "<A>", "A?b", "A/b", "\u{e4}"];
    let rows: Vec<_> = names.iter().map(|name| (*name, with(&format!("{name}: b")))).collect();
    assert_answered(&malformed("RFC 9110 §5.6.2, a name that is no token", &rows));
}

#[test]
fn a_request_line_that_is_none_is_refused() {
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    let rows = [
        "GET  /health HTTP/1.1",
        "GET /health  HTTP/1.1",
        "GET\t/health HTTP/1.1",
        "GET /health\tHTTP/1.1",
        "GET /health HTTP/1.1 ",
        "GET /health HTTP/1.1\t",
        " GET /health HTTP/1.1",
        "GET /health x HTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "/health HTTP/1.1",
        "G(T /health HTTP/1.1",
        "\u{c7}ET /health HTTP/1.1",
        "GET /health HTTP/1.10",
        "GET /health HTTP/11",
        "GET /health HTTP/1",
        "GET /health HTTP/1.",
        "GET /health HTTP/+1.1",
        "GET /health HTTP /1.1",
        "GET /health http/1.1",
        "GET /health HTTPS/1.1",
        "GET /health ICY",
        "HTTP/1.1 200 OK",
    ]
    .map(|text| (text, line(text)));
    assert_answered(&malformed("RFC 9112 §3", &rows));
    // HTTP/0.9 had a request line of two words, and nothing behind it.
    let rows = ["GET /health", "GET /health ", "GET /"].map(|text| (text, format!("{text}\r\n\r\n")));
    assert_answered(&malformed("RFC 9112 §2.3, HTTP/0.9", &rows));
}

#[test]
fn a_version_that_is_not_spoken_is_told_so() {
    let versions = ["0.9", "1.2", "1.9", "2.0", "3.0", "9.9"];
    let mut rows: Vec<_> = versions
        .map(|version| {
            let message = format!("GET /health HTTP/{version}\r\nHost: h\r\n\r\n");
            row("RFC 9112 §2.3", version, message, Refused(505, "unsupported_version"))
        })
        .into();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    rows.push(row("RFC 9113 §3.4", "the HTTP/2 preface", preface, Refused(505, "unsupported_version")));
    assert_answered(&rows);
}

#[test]
fn what_the_standard_permits_in_a_head_is_taken() {
    let good = |lines: &str| format!("GET /health HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    assert_answered(&[
        row("RFC 9112 §2.2", "an empty line before the request line", format!("\r\n{HONEST}"), Taken(200)),
        row("RFC 9112 §2.2", "four of them", format!("\r\n\r\n\r\n\r\n{HONEST}"), Taken(200)),
        row("RFC 9112 §5.1", "white space around a value", good("A:\t b \t\r\n"), Taken(200)),
        row("RFC 9112 §5.1", "no white space, and no value", good("A:b\r\nB:\r\n"), Taken(200)),
        row("RFC 9110 §5.5", "bytes beyond ASCII in a value", good("A: \u{e4}\r\n"), Taken(200)),
        row(
            "RFC 9110 §5.6.2",
            "every character of a token",
            good("!#$%&'*+-.^_`|~09azAZ: b\r\n"),
            Taken(200),
        ),
        row(
            "RFC 9110 §7.6.1",
            "Upgrade is not obeyed",
            good("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n"),
            Taken(200),
        ),
        row(
            "RFC 9112 §9.3",
            "HTTP/1.0 that goes on",
            "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            Taken(200),
        ),
    ]);
}
