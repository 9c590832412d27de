//! The log: one line for every request, in the form that was asked for, and nothing where nothing was asked.

use std::sync::Arc;

use serde_json::Value;

use crate::content::content;
use crate::raw::Fields;
use crate::server::{Server, serve_command};

const KEY: &str = "/v1/keys/models/acme/k";

#[test]
fn every_request_is_told_in_one_json_line() {
    let server = Server::start();
    let large = content(1, 300_000);
    // Method, target, fields, body, status, and how much of a blob comes back.
    type Row<'a> = (&'a str, &'a str, Fields<'a>, &'a [u8], u16, u64);
    let rows: [Row<'_>; 11] = [
        ("PUT", KEY, &[], b"ten bytes.", 201, 0),
        ("PUT", KEY, &[], &large, 200, 0),
        ("GET", KEY, &[], b"", 200, 300_000),
        ("GET", KEY, &[("Range", "bytes=5-14")], b"", 206, 10),
        ("HEAD", KEY, &[], b"", 200, 0),
        ("GET", KEY, &[("If-None-Match", "*")], b"", 304, 0),
        ("GET", "/v1/objects/x", &[], b"", 400, 0),
        ("GET", "/v1/keys/models/acme/a%20b/\"c\\d", &[], b"", 404, 0),
        ("DELETE", KEY, &[], b"", 204, 0),
        ("PATCH", "/v1/objects", &[], b"", 405, 0),
        ("GET", "/health", &[], b"", 200, 0),
    ];
    let mut connection = server.connect();
    let mut answered = Vec::new();
    for (index, (method, target, fields, body, status, _)) in rows.iter().enumerate() {
        let id = format!("\"row\\{index}\"");
        let fields = [*fields, &[("X-Request-Id", id.as_str())]].concat();
        let response = connection.exchange(method, target, &fields, body);
        assert_eq!(response.status, *status, "{target}");
        answered.push(response.body.len() as u64);
    }
    let query =
        connection.exchange("GET", "/v1/objects?namespace=a&tenant_id=secret", &[("X-Request-Id", "q")], b"");
    assert_eq!(query.status, 200);
    let (_, lines) = server.stop();
    let lines: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    for (index, (method, target, _, body, status, bytes_out)) in rows.into_iter().enumerate() {
        let id = format!("\"row\\{index}\"");
        let mut own = lines.iter().filter(|line| line["request_id"] == id.as_str());
        let line = own.next().expect("the request has a line");
        assert!(own.next().is_none(), "and only one");
        assert_eq!((&line["method"], &line["path"]), (&method.into(), &target.into()), "{line}");
        assert_eq!((&line["status"], &line["bytes_in"]), (&status.into(), &body.len().into()), "{line}");
        // A JSON answer is as long as it is.
        let bytes_out = if bytes_out == 0 { answered[index] } else { bytes_out };
        assert_eq!(line["bytes_out"], bytes_out, "{line}");
        assert!(line["duration_us"].is_u64(), "{line}");
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"request".into()));
        assert!(line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    let line = lines.iter().find(|line| line["request_id"] == "q").unwrap();
    assert_eq!(line["path"], "/v1/objects", "a query may hold what is nobody's business");
    assert!(lines.iter().all(|line| !line.to_string().contains("secret")));
}

#[test]
fn a_message_that_could_not_be_read_is_told_too() {
    let mut server = Server::start();
    server.connect().send("nonsense\r\n\r\n");
    let line = server.wait_for_line("the refusal", |line| line["status"] == 400);
    assert_eq!((&line["method"], &line["path"]), (&"UNKNOWN".into(), &"".into()));
}

#[test]
fn a_level_above_info_tells_of_no_request() {
    for level in ["warn", "error"] {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let server =
            Server::unannounced(serve_command(directory.path(), &["--log-level", level]), &directory);
        let mut connection = server.connect();
        for (target, status) in [("/health", 200), ("/v1/objects/x", 400), ("/nowhere", 404)] {
            assert_eq!(connection.exchange("GET", target, &[], b"").status, status);
        }
        let (status, lines) = server.stop();
        assert_eq!((status.code(), lines), (Some(0), Vec::new()), "{level}");
    }
}

#[test]
fn the_text_log_says_the_same_for_people() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::unannounced(serve_command(directory.path(), &["--log-format", "text"]), &directory);
    let response = server.request("GET", "/nowhere", &[("X-Request-Id", "an-id")], b"");
    assert_eq!(response.status, 404);
    let listening = format!("listening on http://{}", server.address());
    let (status, lines) = server.stop();
    assert_eq!(status.code(), Some(0));
    assert!(lines.iter().any(|line| line.contains(&listening)), "{lines:#?}");
    let line = lines.iter().find(|line| line.contains("an-id")).expect("the request has a line");
    for words in
        ["INFO", "request method=GET path=/nowhere status=404 bytes_in=0 bytes_out=", "request_id=an-id"]
    {
        assert!(line.contains(words), "{line}");
    }
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "a file is no terminal: {lines:#?}");
}

#[test]
fn a_log_that_goes_nowhere_near_a_terminal_is_json_by_itself() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::listening(serve_command(directory.path(), &[]), &directory);
    let (_, lines) = server.stop();
    for line in lines {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
}

#[test]
fn a_trace_is_taken_in_and_logged() {
    let mut server = Server::start();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let response = server.request("GET", "/health", &[("traceparent", traceparent)], b"");
    assert_eq!(response.status, 200);
    let line = server.wait_for_line("the request", |line| line["trace_id"].is_string());
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&line["parent_id"], &line["path"]), (&"b7ad6b7169203331".into(), &"/health".into()));
    assert_eq!(server.request("GET", "/", &[("traceparent", "00-nonsense-01")], b"").status, 200);
    let line = server.wait_for_line("the other", |line| line["path"] == "/");
    assert!(line.get("trace_id").is_none(), "{line}");
}

#[test]
fn answers_say_where_their_time_went_where_they_are_told_to() {
    let timing = |flags: &[&str], length: usize| {
        let server = Server::start_with(flags);
        let response = server.request("PUT", "/v1/keys/models/acme/k", &[], &vec![7; length]);
        assert_eq!(response.status, 201);
        assert_eq!(server.get("/health").header("Server-Timing"), None, "there is nothing to tell");
        response.header("Server-Timing").map(|value| {
            let parts = value.split(", ").map(|part| {
                let (name, duration) = part.split_once(";dur=").expect(value);
                assert!(duration.parse::<f64>().is_ok_and(|millis| millis >= 0.0), "{value}");
                name.to_owned()
            });
            parts.collect::<Vec<_>>()
        })
    };
    assert_eq!(timing(&[], 10), None);
    let small = timing(&["--server-timing", "on"], 10).unwrap();
    // Just after a start the database may still be asked whether the key is new.
    assert_eq!(small.iter().filter(|name| *name != "db").collect::<Vec<_>>(), ["queue", "hash", "sync"]);
    let large = timing(&["--server-timing", "on"], 3_000_000).unwrap();
    assert_eq!(large, ["queue", "hash", "write", "sync", "db"]);
}

#[test]
fn a_request_whose_work_took_long_is_logged_with_its_phases() {
    let mut server = Server::start_with(&["--slow-request-ms", "1", "--ack", "database"]);
    // A transaction for each takes longer than a millisecond, if not at once then soon.
    let mut number = 0;
    let line = crate::server::wait_until("a slow request", || {
        number += 1;
        let target = format!("/v1/keys/models/acme/{number}");
        assert_eq!(server.request("PUT", &target, &[], &[7; 1000]).status, 201);
        let lines = server.log_lines();
        lines.iter().find(|line| line.contains("slow request")).cloned()
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["method"]), (&"WARN".into(), &"PUT".into()));
    let us = |phase: &str| line[phase].as_u64().unwrap();
    let phases: u64 =
        ["queue_us", "hash_us", "write_us", "sync_us", "db_us", "client_us"].map(us).iter().sum();
    assert!(us("duration_us") >= 1000 && phases <= us("duration_us"), "{line}");
    assert!(us("db_us") > 0, "{line}");
    server.kill();
}
