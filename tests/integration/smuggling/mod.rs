//! Request smuggling and desynchronisation: messages that two parties could read differently. Either such a message is
//! refused once, with the end of the connection, and nothing of it is kept; or there is one way to read it, and then
//! what stands behind its end is the next request, and nothing before its end ever is. Rows are data: what is sent,
//! what has to come back, and the section of RFC 9112 (message syntax) or RFC 9110 (semantics) that it comes from.

mod chunks;
mod expect;
mod heads;
mod lengths;
mod paths;
mod pipelines;
mod targets;

use crate::raw::Connection;
use crate::server::{SCOPE, Server};

/// A route that stores what it is sent.
const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

/// What an attacker would like to be taken for a request of its own.
const SMUGGLED: &str = "PUT /v1/keys/models/acme/smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";

/// An honest request.
const HONEST: &str = "GET /health HTTP/1.1\r\nHost: h\r\nX-Request-Id: honest\r\n\r\n";

/// One message.
struct Row {
    section: &'static str,
    name: String,
    message: Vec<u8>,
    answer: Answer,
}

/// What has to come back.
enum Answer {
    /// This status and code, and the end of the connection.
    Refused(u16, &'static str),
    /// This status, and what stands behind the message is the next request.
    Taken(u16),
    /// The same, from the echo: the body as it was understood.
    Echoed(&'static str),
}

fn row(section: &'static str, name: impl Into<String>, message: impl Into<Vec<u8>>, answer: Answer) -> Row {
    Row { section, name: name.into(), message: message.into(), answer }
}

/// An upload with these fields, each without its line end.
fn upload(fields: &str, body: &str) -> String {
    format!("POST {UPLOAD} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}")
}

/// A body that comes back as it was understood.
fn echo(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}")
}

/// A body of one chunk, with these lines as its trailer section.
fn one_chunk(bytes: &str, trailers: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n0\r\n{trailers}\r\n", bytes.len())
}

/// How the bytes come.
#[derive(Debug, Clone, Copy)]
enum Arrival {
    AtOnce,
    /// In one packet with an honest request before it, as it would through a shared connection.
    BehindAnother,
    /// Each byte by itself, or a few where there are many.
    Piecemeal,
}

/// Sends each message in every way, with another request behind it, and holds the server to its answer.
fn assert_answered(rows: &[Row]) {
    let server = Server::start();
    for row in rows {
        for arrival in [Arrival::AtOnce, Arrival::BehindAnother, Arrival::Piecemeal] {
            let case = format!("{}: {}, {arrival:?}", row.section, row.name);
            match row.answer {
                Answer::Refused(status, code) => assert_refused(&server, row, arrival, (status, code), &case),
                Answer::Taken(status) => assert_taken(&server, row, arrival, (status, None), &case),
                Answer::Echoed(body) => assert_taken(&server, row, arrival, (200, Some(body)), &case),
            }
        }
        assert!(server.list(SCOPE).is_empty(), "{}: {}", row.section, row.name);
    }
    server.assert_nothing_kept("none of them");
}

fn assert_refused(server: &Server, row: &Row, arrival: Arrival, expected: (u16, &str), case: &str) {
    let (status, code) = expected;
    let mut connection = server.connect();
    send(&mut connection, &[&row.message, SMUGGLED.as_bytes()].concat(), arrival);
    let response = connection.response();
    if matches!(arrival, Arrival::Piecemeal) {
        // What is wrong may show earlier, and then be another thing.
        assert!((400..600).contains(&response.status), "{case}: {response:?}");
    } else {
        response.assert_problem(status, code, case);
    }
    assert!(response.closes(), "{case}: {response:?}");
    connection.assert_closed();
}

fn assert_taken(server: &Server, row: &Row, arrival: Arrival, expected: (u16, Option<&str>), case: &str) {
    let (status, body) = expected;
    let mut connection = server.connect();
    send(&mut connection, &[&row.message, HONEST.as_bytes()].concat(), arrival);
    let response = connection.read_response(row.message.starts_with(b"HEAD ")).expect("the server answers");
    assert_eq!(response.status, status, "{case}: {response:?}");
    if let Some(body) = body {
        assert_eq!(String::from_utf8_lossy(&response.body), body, "{case}");
    }
    if response.closes() {
        // The message itself asked for that, or nobody wanted its body before it was there.
        connection.assert_closed();
    } else {
        assert_honest_is_next(&mut connection, case);
    }
}

fn send(connection: &mut Connection, bytes: &[u8], arrival: Arrival) {
    match arrival {
        Arrival::AtOnce => connection.send(bytes),
        Arrival::BehindAnother => {
            connection.send([HONEST.as_bytes(), bytes].concat());
            assert_honest_is_next(connection, "before");
        }
        Arrival::Piecemeal => {
            let piece = bytes.len().div_ceil(500);
            // Whoever is refused in the middle need not be read to the end.
            let _ = bytes.chunks(piece).try_for_each(|piece| connection.try_send(piece));
        }
    }
}

/// The next answer is that of the honest request, and of no other.
fn assert_honest_is_next(connection: &mut Connection, case: &str) {
    let response = connection.response();
    assert_eq!((response.status, response.header("X-Request-Id")), (200, Some("honest")), "{case}");
}
