//! What a message may be at most, at its edges; and what a client sees that sends on after it was refused.

use crate::content::{chunked, content, etag};
use crate::raw::{Fields, request};
use crate::server::{FILES, SCOPE, Server};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

#[test]
fn a_body_over_the_limit_is_refused_and_one_at_it_is_taken() {
    // Below and above what is held in memory until the end of a body.
    for limit in [1000, 50_000] {
        let server = Server::start_with(&["--body-bytes-max", &limit.to_string()]);
        let over = content(1, limit + 1);
        for (fields, sent) in [
            (&[][..], over.clone()),
            (&[("Transfer-Encoding", "chunked")], chunked(&over, 999, &[])),
            (&[("Transfer-Encoding", "chunked")], chunked(&over, over.len(), &[])),
        ] {
            let case = format!("limit {limit}, {fields:?}");
            let mut connection = server.connect();
            let response = connection.exchange("POST", UPLOAD, fields, &sent);
            response.assert_problem(413, "body_too_large", &case);
            assert!(response.closes(), "{case}");
            connection.assert_closed();
            server.assert_nothing_kept(&case);
        }
        let exact = &over[..limit];
        assert_eq!(server.request("POST", UPLOAD, &[], exact).status, 201);
        let fields = [("Transfer-Encoding", "chunked")];
        assert_eq!(server.request("POST", UPLOAD, &fields, &chunked(exact, 999, &[])).status, 201);
        assert_eq!(server.list(SCOPE).len(), 2);
    }
}

#[test]
fn a_body_that_says_it_is_over_the_limit_is_refused_before_its_first_byte() {
    let server = Server::start_with(&["--body-bytes-max", "1000"]);
    for length in ["1001", "18446744073709551615"] {
        let mut connection = server.connect();
        connection.send(format!("POST {UPLOAD} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        let response = connection.response();
        response.assert_problem(413, "body_too_large", length);
        assert!(response.closes());
        connection.assert_closed();
    }
}

#[test]
fn a_request_line_over_the_limit_is_refused_and_one_at_it_is_taken() {
    let server = Server::start_with(&["--request-line-bytes-max", "1024"]);
    // Counted without its CRLF: `GET /v1/keys/models/acme/… HTTP/1.1`.
    let line = |bytes: usize| format!("GET /health?{} HTTP/1.1", "x".repeat(bytes - 21));
    assert_eq!(line(1024).len(), 1024);
    let rest = "\r\nHost: h\r\n\r\n";
    let mut connection = server.connect();
    connection.send(format!("{}{rest}", line(1024)));
    connection.response().assert_problem(400, "unknown_parameter", "at the limit it is read");
    // The second never ends: it is refused without waiting for its end.
    for (case, message) in [("one byte over", line(1025) + rest), ("endless", line(4096))] {
        let mut connection = server.connect();
        connection.send(message);
        let response = connection.response();
        response.assert_problem(414, "request_line_too_long", case);
        assert!(response.closes(), "{case}");
        connection.assert_closed();
    }
}

#[test]
fn a_header_section_over_the_limit_is_refused_and_one_at_it_is_taken() {
    let server = Server::start_with(&["--header-bytes-max", "1024"]);
    // Its field lines with their line ends: `Host: h`, and a long one.
    let head = |bytes: usize| format!("GET /health HTTP/1.1\r\nHost: h\r\nX: {}\r\n", "x".repeat(bytes - 14));
    let mut connection = server.connect();
    connection.send(head(1024) + "\r\n");
    assert_eq!(connection.response().status, 200);
    let endless = format!("GET /health HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(4096));
    for (case, message) in [("one byte over", head(1025) + "\r\n"), ("endless", endless)] {
        let mut connection = server.connect();
        connection.send(message);
        let response = connection.response();
        response.assert_problem(431, "header_too_large", case);
        assert!(response.closes(), "{case}");
        connection.assert_closed();
    }
}

#[test]
fn header_fields_are_counted() {
    let server = Server::start_with(&["--header-fields-max", "8"]);
    let head =
        |count: usize| format!("GET /health HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    let mut connection = server.connect();
    connection.send(head(8));
    assert_eq!(connection.response().status, 200);
    connection.send(head(9));
    let response = connection.response();
    response.assert_problem(431, "header_too_large", "nine of eight");
    assert!(response.closes());
    connection.assert_closed();
}

#[test]
fn an_echo_is_small() {
    let server = Server::start();
    let whole = content(1, 64 * 1024);
    assert!(server.request("POST", "/", &[], &whole).body == whole);
    let mut connection = server.connect();
    let response = connection.exchange("POST", "/", &[], &content(1, 64 * 1024 + 1));
    response.assert_problem(413, "body_too_large", "one byte over");
}

#[test]
fn a_client_that_sends_on_after_it_was_refused_still_reads_the_answer() {
    let server = Server::start_with(&["--body-bytes-max", "600000", FILES[0], FILES[1]]);
    let there = "/v1/keys/models/acme/there";
    assert_eq!(server.request("PUT", there, &[], b"x").status, 201);
    let body = content(1, 512 * 1024);
    let (absent, length) = (etag(b"absent"), body.len().to_string());
    let long = (body.len() * 2).to_string();
    let rows: [(&str, &str, Fields<'_>, u16); 9] = [
        ("POST", "/v1/objects?namespace=models", &[("Content-Length", &length)], 400),
        ("PUT", "/nowhere", &[("Content-Length", &length)], 404),
        ("PUT", "/health", &[("Content-Length", &length)], 405),
        ("PUT", there, &[("Content-Length", &length), ("If-None-Match", "*")], 412),
        ("PUT", there, &[("Content-Length", &length), ("If-Match", &absent)], 412),
        ("POST", UPLOAD, &[("Content-Length", &long)], 413),
        ("POST", UPLOAD, &[("Content-Length", &length), ("Content-Encoding", "gzip")], 415),
        ("POST", UPLOAD, &[("Content-Length", &length), ("Expect", "200-ok")], 417),
        ("POST", UPLOAD, &[("Content-Length", &length), ("Transfer-Encoding", "chunked")], 400),
    ];
    for (method, target, fields, status) in rows {
        let case = format!("{method} {target} {fields:?}");
        let head: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut connection = server.connect();
        connection.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{head}\r\n"));
        // In pieces, as clients do: the refusal comes in the middle of it, and none of it is answered with a reset.
        for piece in body.chunks(16 * 1024) {
            connection.send(piece);
        }
        let response = connection.response();
        assert_eq!(response.status, status, "{case}: {response:?}");
        assert!(response.closes(), "{case}");
        connection.assert_closed();
    }
    assert_eq!((server.list(SCOPE).len(), server.files("blobs").len()), (1, 1));
}

#[test]
fn a_client_that_passes_the_limit_in_chunks_still_reads_the_answer() {
    let server = Server::start_with(&["--body-bytes-max", "100000"]);
    let mut connection = server.connect();
    connection.send(request("POST", UPLOAD, &[("Transfer-Encoding", "chunked")], b""));
    for piece in chunked(&content(1, 512 * 1024), 10_000, &[]).chunks(16 * 1024) {
        connection.send(piece);
    }
    let response = connection.response();
    response.assert_problem(413, "body_too_large", "in chunks");
    assert!(response.closes());
    connection.assert_closed();
    server.assert_nothing_kept("in chunks");
}

/// Many distributions allow 1,024 descriptors unless one asks; the server inherits it.
fn raise_descriptors() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

#[test]
fn uploads_past_the_memory_for_bodies_are_told_to_come_back_and_harm_no_other() {
    // 8 MiB on one core are 512 blocks of 16 KiB, an eighth of them is kept for what is sent and a sixteenth for what has
    // come whole, and every upload of which more has come than its connection holds by itself has one at least.
    const BLOCKS: usize = 416;
    let sent = content(1, 5000);
    raise_descriptors();
    // On a busy machine the last of them waits long for its last byte.
    let patient = ["--body-timeout-secs=600", "--body-bytes-per-second-min=1"];
    let one_small_core = ["--cores=1", "--buffer-bytes-max=8388608"];
    let mut server = Server::start_with(&[one_small_core, patient].concat());
    let mut uploads: Vec<_> = (0..BLOCKS + 8)
        .map(|n| {
            let mut connection = server.connect();
            connection.send(format!("PUT /v1/keys/models/acme/{n} HTTP/1.1\r\nHost: h\r\n"));
            connection.send("Content-Length: 5001\r\n\r\n");
            connection.send(&sent);
            connection
        })
        .collect();
    server.wait_for_line("one too many", |line| line["status"] == 503);
    let whole = server.request("PUT", "/v1/keys/models/acme/whole", &[], b"x");
    assert_eq!(whole.status, 201, "what has come whole waits for nobody");
    // All others go on: which were too many, their answers tell.
    let mut refused = 0;
    for (n, upload) in uploads.iter_mut().enumerate() {
        if upload.try_send("f").is_err() || upload.status_ahead() == 503 {
            refused += 1;
            let response = upload.response();
            response.assert_problem(503, "overloaded", &n.to_string());
            assert!(response.header("Retry-After").unwrap().parse::<u32>().is_ok());
        } else {
            let response = upload.response();
            assert_eq!(response.status, 201, "{n}: {response:?}");
        }
    }
    assert!((1..=8).contains(&refused), "{refused}");
    assert_eq!(server.list(&format!("{SCOPE}&limit=1000")).len(), BLOCKS + 8 - refused + 1);
    drop(uploads);
    let after = server.request("PUT", "/v1/keys/models/acme/after", &[], b"x");
    assert_eq!(after.status, 201, "there is room again");
}

#[test]
fn any_number_of_small_bodies_that_have_come_whole_are_stored_in_turn() {
    // With 8 MiB for bodies on one core, 128 are stored at once, and 480 would find a block of memory.
    const BODIES: usize = 2000;
    raise_descriptors();
    let server = Server::start_with(&["--cores=1", "--buffer-bytes-max=8388608"]);
    let mut uploads: Vec<_> = (0..BODIES).map(|_| server.connect()).collect();
    for (n, upload) in uploads.iter_mut().enumerate() {
        let head =
            format!("PUT /v1/keys/models/acme/{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 4096\r\n\r\n");
        upload.send([head.as_bytes(), &content(n as u64, 4096)].concat());
    }
    for (n, upload) in uploads.iter_mut().enumerate() {
        let response = upload.response();
        assert_eq!(response.status, 201, "{n}: {response:?}");
    }
}
