//! How long a client may take for what. All limits are as short as they can be set; that they hold is all that is
//! asked here, not how exactly.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::content::content;
use crate::raw::request;
use crate::server::Server;

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

/// Sends a byte now and then until the server takes no more.
fn trickle(mut stream: TcpStream, byte: u8) -> JoinHandle<()> {
    thread::spawn(move || {
        while stream.write_all(&[byte]).is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    })
}

#[test]
fn a_connection_that_is_idle_is_closed_without_a_word() {
    let server = Server::start_with(&["--idle-timeout-secs", "1"]);
    let mut silent = server.connect();
    let mut served = server.connect();
    assert_eq!(served.exchange("GET", "/health", &[], b"").status, 200);
    silent.assert_closed();
    served.assert_closed();
}

#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    let server = Server::start_with(&["--header-timeout-secs", "1"]);
    for (case, begun) in [("a first byte", "G"), ("half a head", "GET /health HTTP/1.1\r\nHost: h\r\nX: ")] {
        for trickles in [false, true] {
            let mut connection = server.connect();
            connection.send(begun);
            // Bytes that keep coming buy no time for a head.
            let trickling = trickles.then(|| trickle(connection.sender(), b'x'));
            let response = connection.response();
            response.assert_problem(408, "header_too_slow", case);
            assert!(response.closes(), "{case}");
            connection.assert_closed();
            drop(connection);
            if let Some(thread) = trickling {
                thread.join().unwrap();
            }
        }
    }
}

#[test]
fn a_second_head_that_does_not_end_is_answered_with_408_too() {
    let server = Server::start_with(&["--header-timeout-secs", "1"]);
    let mut connection = server.connect();
    connection.send([request("GET", "/health", &[], b""), b"GET /hea".to_vec()].concat());
    assert_eq!(connection.response().status, 200);
    connection.response().assert_problem(408, "header_too_slow", "the second");
    connection.assert_closed();
}

#[test]
fn a_body_that_pauses_is_answered_with_408_and_leaves_nothing() {
    let server = Server::start_with(&["--body-timeout-secs", "1"]);
    for sent in [0, 10, 100_000] {
        for framing in ["Content-Length: 400000", "Transfer-Encoding: chunked"] {
            let case = format!("{framing}, {sent} bytes");
            let mut connection = server.connect();
            connection.send(format!("POST {UPLOAD} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
            if framing.starts_with('T') {
                connection.send("61A80\r\n");
            }
            connection.send(content(1, sent));
            let response = connection.response();
            response.assert_problem(408, "body_too_slow", &case);
            assert!(response.closes(), "{case}");
            connection.assert_closed();
            server.assert_nothing_kept(&case);
        }
    }
}

#[test]
fn a_body_that_trickles_below_the_least_rate_is_answered_with_408() {
    let server = Server::start_with(&["--body-timeout-secs", "1", "--body-bytes-per-second-min", "1000"]);
    for sent in [0, 100_000] {
        let mut connection = server.connect();
        connection.send(format!("POST {UPLOAD} HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n"));
        connection.send(content(1, sent));
        let trickling = trickle(connection.sender(), b'x');
        let response = connection.response();
        response.assert_problem(408, "body_too_slow", &format!("{sent} bytes and a trickle"));
        connection.assert_closed();
        drop(connection);
        trickling.join().unwrap();
        server.assert_nothing_kept("a trickle");
    }
}

#[test]
fn a_body_that_trickles_above_the_least_rate_is_taken() {
    // Far longer in all than a pause may be: every byte buys the time for the next one.
    let server = Server::start_with(&["--body-timeout-secs", "3", "--body-bytes-per-second-min", "1"]);
    let mut connection = server.connect();
    connection.send(format!("POST {UPLOAD} HTTP/1.1\r\nHost: h\r\nContent-Length: 16\r\n\r\n"));
    for byte in b"sixteen bytes..." {
        thread::sleep(Duration::from_millis(250));
        connection.send([*byte]);
    }
    let response = connection.response();
    assert_eq!(response.status, 201, "{response:?}");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_and_harms_nobody() {
    let mut server = Server::start_with(&["--send-timeout-secs", "1"]);
    // More than both sockets' buffers hold.
    let body = content(1, 32 << 20);
    let target = format!("/v1/objects/{}", server.create(&body)["id"].as_str().unwrap());
    let mut stuck = server.connect();
    stuck.send(request("GET", &target, &[("X-Request-Id", "stuck")], b""));
    assert!(server.get(&target).body == body, "another client is served meanwhile");
    server.wait_for_line("the end of the stuck one", |line| line["request_id"] == "stuck");
    let rest = stuck.read_response(false);
    assert!(rest.is_err(), "an answer that was cut off is never completed");
}
