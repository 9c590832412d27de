//! Request targets and Host (RFC 9112 §3.2): forms, authorities, two hosts or none.

use super::Answer::{Refused, Taken};
use super::{assert_answered, row};

#[test]
fn a_target_of_another_form_than_its_method_has_is_refused() {
    let rows = [
        "GET health HTTP/1.1",
        "GET * HTTP/1.1",
        "GET h:80 HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET .. HTTP/1.1",
        "GET \\health HTTP/1.1",
        "POST * HTTP/1.1",
        "OPTIONS health HTTP/1.1",
        "OPTIONS ** HTTP/1.1",
        "OPTIONS *? HTTP/1.1",
        "OPTIONS h:80 HTTP/1.1",
        "CONNECT * HTTP/1.1",
        "CONNECT health?a HTTP/1.1",
        "CONNECT u@h:80 HTTP/1.1",
        "GET ftp://h/health HTTP/1.1",
        "GET file:///health HTTP/1.1",
        "GET http:/health HTTP/1.1",
        "GET http:health HTTP/1.1",
        "GET http:///health HTTP/1.1",
        "GET http://?a HTTP/1.1",
        "GET http://:80/health HTTP/1.1",
        "GET http://h:x/health HTTP/1.1",
        "GET http://h:80:80/health HTTP/1.1",
        "GET http://h\\other/health HTTP/1.1",
        "GET http://[::1/health HTTP/1.1",
        "GET http://[::1]x/health HTTP/1.1",
        "GET http://h,<other>/health HTTP/1.1",
        "GET /health#a HTTP/1.1",
        "GET /h\u{e4}lth HTTP/1.1",
        "GET /\u{ff0f}health HTTP/1.1",
    ]
    .map(|line| {
        let message = format!("{line}\r\nHost: h\r\n\r\n");
        row("RFC 9112 §3.2", line, message, Refused(400, "malformed_request"))
    });
    assert_answered(&rows);
    // RFC 9110 §4.2.4: who somebody claims to be has no place in a target, and hides where it leads.
    let rows = ["user@h", "user:password@h:80", "h@other", "@h", "a%40b@h"].map(|authority| {
        let message = format!("GET http://{authority}/health HTTP/1.1\r\nHost: h\r\n\r\n");
        row("RFC 9110 §4.2.4", authority, message, Refused(400, "malformed_request"))
    });
    assert_answered(&rows);
}

#[test]
fn a_target_of_the_absolute_form_is_its_path_whatever_host_stands_beside_it() {
    // RFC 9112 §3.2.2: Host is ignored beside such a target; but it has to be there, and to be one.
    let rows =
        ["http://other/health", "HTTP://h:80/health", "https://other/health", "http://[::1]:80/health"].map(
            |target| {
                let message = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
                row("RFC 9112 §3.2.2", target, message, Taken(200))
            },
        );
    assert_answered(&rows);
    let rows = [
        ("GET http://h/http://other/health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET //health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET //other/health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET /http://h/health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET /../health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET /health/../health HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET /%2fhealth HTTP/1.1\r\nHost: h", Taken(404)),
        ("GET /health%20HTTP/1.1%0d%0aX:%20y HTTP/1.1\r\nHost: h", Taken(404)),
        ("OPTIONS * HTTP/1.1\r\nHost: h", Taken(404)),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80", Taken(404)),
        ("CONNECT /health HTTP/1.1\r\nHost: h", Taken(405)),
        ("GET http://other/health HTTP/1.1", Refused(400, "invalid_host")),
        ("GET http://other/health HTTP/1.1\r\nHost: a\r\nHost: other", Refused(400, "invalid_host")),
    ];
    let rows = rows.map(|(head, answer)| row("RFC 9112 §3.2", head, format!("{head}\r\n\r\n"), answer));
    assert_answered(&rows);
}

#[test]
fn a_request_without_exactly_one_host_is_refused() {
    // RFC 9112 §3.2: a server must answer 400 to no Host, two of them, or an invalid one.
    let mut rows = Vec::new();
    for fields in [
        "X: y",
        "Host: h\r\nHost: h",
        "Host: h\r\nHost: other",
        "Host: h\r\nX: y\r\nhOST: h",
        "Host: h\r\nhost:",
        "Host:\r\nHost: h",
        "Host: a b",
        "Host: a, b",
        "Host: a\tb",
        "Host: a/b",
        "Host: /",
        "Host: a\\b",
        "Host: a?b",
        "Host: a#b",
        "Host: user@h",
        "Host: @h",
        "Host: http://h",
        "Host: h\u{e4}",
        "Host: <h>",
        "Host: \"h\"",
        "Host: {h}",
        "Host: h|x",
        "Host: h^x",
        "Host: h:x",
        "Host: h:-1",
        "Host: h:80:80",
        "Host: h:80x",
        "Host: ::1",
        "Host: :80",
        "Host: [::1",
        "Host: ::1]",
        "Host: [::1]x",
        "Host: [::1]80",
        "Host: []",
        "Host: [h/x]",
        "Host: h[::1]",
    ] {
        for target in ["/v1/keys/models/acme/k", "http://h/v1/keys/models/acme/k"] {
            let message = format!("PUT {target} HTTP/1.1\r\n{fields}\r\nContent-Length: 1\r\n\r\nx");
            let name = format!("{fields:?} for {target}");
            rows.push(row("RFC 9112 §3.2", name, message, Refused(400, "invalid_host")));
        }
    }
    // HTTP/1.0 knew no Host, but two are two there as well.
    let message = "GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n";
    rows.push(row("RFC 9112 §3.2", "two in HTTP/1.0", message, Refused(400, "invalid_host")));
    assert_answered(&rows);
}

#[test]
fn a_host_that_is_one_is_taken() {
    let hosts = [
        "h",
        "H.example:8080",
        "h:",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:8080",
        "a_b-c~d",
        "a%20b",
        "",
        "\t h \t",
    ];
    let rows = hosts.map(|host| {
        let message = format!("GET /health HTTP/1.1\r\nhOsT:{host}\r\n\r\n");
        row("RFC 9110 §7.2", format!("{host:?}"), message, Taken(200))
    });
    assert_answered(&rows);
}
