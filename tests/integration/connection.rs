//! Connections: how requests follow each other on one, in whatever pieces they come, and how it ends.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::content::{chunked, content, sha256_hex};
use crate::raw::{Connection, Fields, request};
use crate::server::{SCOPE, Server, wait_until};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";
const KEY: &str = "/v1/keys/models/acme/k";

#[test]
fn a_connection_serves_request_after_request() {
    let server = Server::start();
    let mut connection = server.connect();
    for round in 0..20 {
        let body = content(round, 3000 * round as usize);
        let put = connection.exchange("PUT", KEY, &[], &body);
        assert_eq!(put.status, if round == 0 { 201 } else { 200 });
        let get = connection.exchange("GET", KEY, &[], b"");
        assert!(get.body == body);
        let missing = connection.exchange("GET", "/v1/keys/models/acme/missing", &[], b"");
        assert_eq!(missing.status, 404, "an error of one request is not the end of all");
        for response in [put, get, missing] {
            assert_eq!(response.header("Connection"), None, "HTTP/1.1 goes on without saying so");
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_each_seeing_the_one_before() {
    let server = Server::start();
    let (small, large) = (content(1, 100), content(2, 200_000));
    let mut packet = Vec::new();
    let mut count = 0;
    let mut add = |method: &str, body: &[u8]| {
        let id = count.to_string();
        packet.extend(request(method, KEY, &[("X-Request-Id", &id)], body));
        count += 1;
    };
    add("GET", b"");
    add("PUT", &small);
    add("GET", b"");
    add("HEAD", b"");
    add("PUT", &large);
    add("GET", b"");
    add("DELETE", b"");
    add("GET", b"");
    add("PUT", &small);
    add("GET", b"");

    let mut connection = server.connect();
    let mut sender = connection.sender();
    // The whole packet does not fit into the socket's buffers while the answers are not read.
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &packet));
    let expected: [(u16, Option<&[u8]>); 10] = [
        (404, None),
        (201, None),
        (200, Some(&small)),
        (200, Some(b"")),
        (200, None),
        (200, Some(&large)),
        (204, Some(b"")),
        (404, None),
        (201, None),
        (200, Some(&small)),
    ];
    for (index, (status, body)) in expected.into_iter().enumerate() {
        let response = connection.read_response(index == 3).unwrap();
        assert_eq!(response.header("X-Request-Id"), Some(index.to_string().as_str()));
        assert_eq!(response.status, status, "request {index}");
        if let Some(body) = body {
            assert!(response.body == body, "request {index}");
        }
    }
    sending.join().unwrap().unwrap();
}

#[test]
fn many_reads_in_one_packet_are_all_answered() {
    let server = Server::start();
    let bodies: Vec<Vec<u8>> = [0, 1, 5000, 16_384, 16_385, 40_000]
        .into_iter()
        .map(|length| content(length as u64, length))
        .collect();
    let targets: Vec<String> = bodies
        .iter()
        .map(|body| format!("/v1/objects/{}", server.create(body)["id"].as_str().unwrap()))
        .collect();
    let packet: Vec<u8> =
        (0..60).flat_map(|index| request("GET", &targets[index % targets.len()], &[], b"")).collect();
    let mut connection = server.connect();
    connection.send(packet);
    for index in 0..60 {
        assert!(connection.response().body == bodies[index % bodies.len()], "answer {index}");
    }
}

/// The first read of a large blob comes from the disk, the second out of memory, a part begins anywhere, and the
/// connection serves small answers between them as ever.
#[test]
fn large_reads_follow_each_other_on_one_connection_however_they_are_sent() {
    for driver in ["io-uring", "epoll"] {
        let server = Server::start_with(&["--io-driver", driver]);
        for class in ["hot", "cold"] {
            let (large, small) = (content(3, 5_000_001), content(4, 100));
            let stored =
                server.request("POST", &format!("{UPLOAD}&storage_class={class}"), &[], &large).json();
            let large_target = format!("/v1/objects/{}", stored["id"].as_str().unwrap());
            let small_target = format!("/v1/objects/{}", server.create(&small)["id"].as_str().unwrap());
            let mut packet = Vec::new();
            for range in ["bytes=0-", "bytes=0-", "bytes=4097-2100000", "bytes=4000001-", "bytes=9-99999"] {
                packet.extend(request("GET", &large_target, &[("Range", range)], b""));
                packet.extend(request("GET", &small_target, &[], b""));
            }
            let mut connection = server.connect();
            connection.send(packet);
            for part in
                [&large[..], &large[..], &large[4097..2_100_001], &large[4_000_001..], &large[9..100_000]]
            {
                let response = connection.response();
                assert!(response.status == 206 && response.body == part, "{driver} {class} {}", part.len());
                assert!(connection.response().body == small);
            }
        }
    }
}

/// An id that the server made names its core: `<instance>-<core>-<number>`.
fn core_of(connection: &mut Connection) -> String {
    let response = connection.exchange("GET", "/health", &[], b"");
    let id = response.header("X-Request-Id").unwrap();
    id.rsplit('-').nth(1).unwrap().to_owned()
}

#[test]
fn connections_are_spread_evenly_over_the_cores_and_again_when_some_have_gone() {
    for driver in ["io-uring", "epoll"] {
        let server = Server::start_with(&["--cores", "2", "--io-driver", driver]);
        let mut connections: Vec<_> = (0..64).map(|_| server.connect()).collect();
        let cores: Vec<_> = connections.iter_mut().map(core_of).collect();
        let on_first = cores.iter().filter(|core| *core == "0").count();
        assert!((31..=33).contains(&on_first), "{driver}: {on_first} of 64 on the first core");

        let mut cores = cores.iter();
        connections.retain(|_| cores.next().is_some_and(|core| core == "0"));
        // The server sees by and by that the others have gone: then all new ones go where they were.
        wait_until("a new connection comes where there are fewest", || {
            let mut more: Vec<_> = (0..8).map(|_| server.connect()).collect();
            more.iter_mut().all(|connection| core_of(connection) == "1").then_some(())
        });
    }
}

#[test]
fn http_1_0_ends_after_one_answer_unless_it_asks_to_go_on() {
    let server = Server::start();
    let mut connection = server.connect();
    connection.send("GET /health HTTP/1.0\r\n\r\n");
    let response = connection.response();
    assert_eq!(response.status, 200);
    assert!(response.closes());
    connection.assert_closed();

    let mut connection = server.connect();
    for _ in 0..3 {
        connection.send("GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let response = connection.response();
        let goes_on =
            response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
        assert!(goes_on, "whoever speaks HTTP/1.0 has to be told: {response:?}");
    }
    connection.send("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(connection.response().body, b"hello");
    connection.assert_closed();
}

#[test]
fn a_connection_ends_when_the_client_says_so() {
    let server = Server::start();
    for value in ["close", "Close", "x, close", "keep-alive, CLOSE"] {
        let mut connection = server.connect();
        assert_eq!(connection.exchange("GET", "/health", &[("Connection", "x")], b"").status, 200);
        // What stands behind it in the same packet is not served (RFC 9112 §9.6).
        let last = request("PUT", KEY, &[("Connection", value)], b"kept");
        connection.send([last, request("DELETE", KEY, &[], b"")].concat());
        let response = connection.response();
        assert!(matches!(response.status, 200 | 201));
        assert!(response.closes(), "{value}");
        connection.assert_closed();
        assert_eq!(server.get(KEY).body, b"kept");
    }
}

#[test]
fn a_client_that_closes_its_half_still_gets_its_answers() {
    let server = Server::start();
    let mut connection = server.connect();
    connection.send([request("PUT", KEY, &[], b"kept"), request("GET", KEY, &[], b"")].concat());
    connection.finish_sending();
    assert_eq!(connection.response().status, 201);
    assert_eq!(connection.response().body, b"kept");
    connection.assert_closed();
}

#[test]
fn requests_that_come_byte_by_byte_are_the_same() {
    let server = Server::start();
    let mut connection = server.connect();
    let body = chunked(b"some bytes", 3, &["X-Trailer: x"]);
    for message in [
        request("PUT", KEY, &[("X-Object-Meta-A", "b")], b"some bytes"),
        request("PUT", KEY, &[("Transfer-Encoding", "chunked")], &body),
        request("GET", KEY, &[("Range", "bytes=2-5")], b""),
    ] {
        for byte in message {
            connection.send([byte]);
        }
    }
    assert_eq!(connection.response().status, 201);
    assert_eq!(connection.response().status, 200);
    assert_eq!(connection.response().body, b"me b");
}

#[test]
fn a_chunked_body_may_be_cut_anywhere_on_its_way() {
    let server = Server::start();
    let body = content(1, 60_000);
    for chunk_bytes in [5000, 17_000, 60_000] {
        let sent = chunked(&body, chunk_bytes, &["X-Trailer: x"]);
        for piece_bytes in [997, 4099, 16_384, 16_391] {
            let mut connection = server.connect();
            connection.send(request("POST", UPLOAD, &[("Transfer-Encoding", "chunked")], b""));
            for piece in sent.chunks(piece_bytes) {
                connection.send(piece);
            }
            let response = connection.response();
            let case = format!("chunks of {chunk_bytes} in pieces of {piece_bytes}");
            assert_eq!(response.status, 201, "{case}: {response:?}");
            assert_eq!(response.json()["content_hash"], sha256_hex(&body), "{case}");
        }
    }
}

#[test]
fn a_request_id_of_the_callers_is_given_back_and_any_other_replaced() {
    let server = Server::start();
    let longest = "i".repeat(128);
    for own in ["a", "0193-abc/def", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", &longest] {
        for target in ["/health", "/v1/objects/x"] {
            let response = server.request("GET", target, &[("X-Request-Id", own)], b"");
            assert_eq!(response.header("X-Request-Id"), Some(own), "{target}");
        }
        let problem = server.request("GET", "/v1/objects/x", &[("X-Request-Id", own)], b"");
        assert_eq!(problem.json()["request_id"], own);
    }
    let too_long = "i".repeat(129);
    let mut given = BTreeSet::new();
    let rows: [Fields<'_>; 7] = [
        &[],
        &[("X-Request-Id", "")],
        &[("X-Request-Id", "two words")],
        &[("X-Request-Id", "a\tb")],
        &[("X-Request-Id", "\u{e4}")],
        &[("X-Request-Id", &too_long)],
        &[("X-Request-Id", "one"), ("X-Request-Id", "other")],
    ];
    for fields in rows {
        let response = server.request("GET", "/health", fields, b"");
        let id = response.header("X-Request-Id").unwrap().to_owned();
        assert!(
            !id.is_empty() && id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic()),
            "{id:?}"
        );
        assert!(fields.iter().all(|(_, own)| *own != id), "{fields:?}");
        assert!(given.insert(id), "no two requests are given the same id");
    }
    // A message that cannot be read has one as well.
    let mut connection = server.connect();
    connection.send("nonsense\r\n\r\n");
    assert!(given.insert(connection.response().header("X-Request-Id").unwrap().to_owned()));
}

#[test]
fn a_body_that_nobody_asked_for_is_dropped_and_the_next_request_served() {
    let server = Server::start();
    assert_eq!(server.request("PUT", KEY, &[], b"kept").status, 201);
    let chunks = chunked(b"GET /v1/objects/x HTTP/1.1\r\nHost: h\r\n\r\n", 9, &[]);
    for (method, target, status) in [
        ("GET", "/health", 200),
        ("GET", KEY, 200),
        ("GET", "/nowhere", 404),
        ("POST", "/v1/objects", 400),
        ("DELETE", "/v1/keys/models/acme/missing", 404),
    ] {
        for (fields, body) in [(&[][..], &b"hello"[..]), (&[("Transfer-Encoding", "chunked")], &chunks)] {
            let mut connection = server.connect();
            connection.send([request(method, target, fields, body), request("GET", KEY, &[], b"")].concat());
            let response = connection.response();
            assert_eq!((response.status, response.header("Connection")), (status, None), "{method} {target}");
            assert_eq!(connection.response().body, b"kept", "after {method} {target}");
        }
    }
}

#[test]
fn a_body_that_nobody_asked_for_and_that_comes_late_is_never_taken_for_a_request() {
    let server = Server::start();
    let late = request("PUT", KEY, &[], b"smuggled");
    let mut connection = server.connect();
    connection.send(format!("GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", late.len()));
    let response = connection.response();
    assert_eq!(response.status, 200);
    connection.send(&late);
    if response.closes() {
        connection.assert_closed();
    } else {
        assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
    }
    server.assert_nothing_kept("a late body");
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_body_leaves_nothing() {
    goes_away_in_the_middle_of_a_body(drop);
}

#[test]
fn a_client_that_resets_the_connection_in_the_middle_of_a_body_leaves_nothing() {
    goes_away_in_the_middle_of_a_body(Connection::reset);
}

fn goes_away_in_the_middle_of_a_body(go: fn(Connection)) {
    let mut server = Server::start();
    let body = content(1, 400_000);
    let counted = ("Content-Length: 400000\r\n", body.clone());
    let chunks = ("Transfer-Encoding: chunked\r\n", chunked(&body, 30_000, &[]));
    for (fields, whole) in [counted, chunks] {
        // Nothing of it, a part that is held in memory, one that is being written, and all but the last byte.
        for sent in [0, 10, 100_000, whole.len() - 1] {
            let (id, case) = (format!("gone-{}-{sent}", whole.len()), format!("{fields}{sent} bytes"));
            let mut connection = server.connect();
            connection.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\n{fields}\r\n"));
            connection.send(&whole[..sent]);
            if sent >= 100_000 {
                wait_until(&case, || server.list(&format!("{SCOPE}&status=WRITING")).pop());
            }
            go(connection);
            let line = server.wait_for_line(&case, |line| line["request_id"] == id.as_str());
            assert_eq!(line["status"], 400, "{case}");
            server.assert_nothing_kept(&case);
        }
    }
}

#[test]
fn a_body_that_ends_before_its_length_is_told_so() {
    let server = Server::start();
    for (length, sent) in [(100, 10), (400_000, 100_000)] {
        let mut connection = server.connect();
        connection.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        connection.send(content(1, sent));
        connection.finish_sending();
        let response = connection.response();
        response.assert_problem(400, "body_incomplete", &format!("{sent} of {length}"));
        assert!(response.closes());
        connection.assert_closed();
        server.assert_nothing_kept("half a body");
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_an_answer_harms_nobody() {
    let server = Server::start();
    let body = content(1, 8 << 20);
    let target = format!("/v1/objects/{}", server.create(&body)["id"].as_str().unwrap());
    for _ in 0..20 {
        server.connect().send(request("GET", &target, &[], b""));
    }
    assert!(server.get(&target).body == body);
}

#[test]
fn a_connection_too_many_is_told_to_come_back() {
    let server = Server::start_with(&["--connections-max", "1", "--cores", "1"]);
    let mut first = server.connect();
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200);
    for _ in 0..10 {
        let mut second = server.connect();
        let response = second.response();
        assert_eq!(response.status, 503);
        assert!(response.header("Retry-After").unwrap().parse::<u32>().is_ok());
        assert!(response.closes());
        second.assert_closed();
    }
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200, "the first one is not disturbed");
    drop(first);
    wait_until("room for a connection", || {
        let response = server.connect().try_exchange("GET", "/health", &[], b"");
        response.is_ok_and(|response| response.status == 200).then_some(())
    });
}

#[test]
fn a_connection_too_many_is_answered_as_every_other_error_is() {
    let server = Server::start_with(&["--connections-max", "1", "--cores", "1"]);
    let mut first = server.connect();
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200);
    let response = server.connect().response();
    assert_eq!(response.status, 503);
    assert!(response.header("X-Request-Id").is_some(), "every response has one: {response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
}

#[test]
fn a_connection_too_many_reads_its_answer_though_it_has_sent_a_request() {
    let server = Server::start_with(&["--connections-max", "1", "--cores", "1"]);
    let mut first = server.connect();
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200);
    for round in 0..20 {
        let mut second = server.connect();
        // As clients do, which send as soon as they are connected.
        second.send([request("PUT", KEY, &[], b""), content(1, 100_000)].concat());
        assert_eq!(second.response().status, 503, "round {round}");
        second.assert_closed();
    }
}

#[test]
fn the_root_says_what_this_is_and_gives_bodies_back_as_they_were_understood() {
    let server = Server::start();
    let response = server.get("/");
    assert_eq!((response.status, &response.json()["service"]), (200, &Value::from("JustStorage")));
    let head = server.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("Content-Length")), (200, response.header("Content-Length")));

    let mut connection = server.connect();
    for length in [0, 1, 5000, 40_000] {
        let body = content(1, length);
        assert!(connection.exchange("POST", "/", &[], &body).body == body, "{length} bytes");
        let (fields, sent) = ([("Transfer-Encoding", "chunked")], chunked(&body, 777, &["X: y"]));
        let response = connection.exchange("POST", "/", &fields, &sent);
        assert!(response.body == body, "{length} bytes in chunks");
        // What somebody else sent must not become a page of this origin.
        assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(response.header("Content-Type"), Some("application/octet-stream"));
    }
    server.assert_nothing_kept("an echo");
}
