//! Objects by their ids, read from the log without the database: the same answers as from that, and never those of a moment
//! that is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::content::{Random, content};
use crate::raw::Response;
use crate::server::{SCOPE, Server};

/// How often the database has been asked what a name means.
fn asked(server: &Server) -> u64 {
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("activestorage_cache_misses_total "));
    line.unwrap().parse().unwrap()
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

fn target(object: &Value) -> String {
    format!("/v1/objects/{}", id(object))
}

/// Stores objects of all kinds that go to packs, and waits until the database has them.
fn store(server: &Server, count: u64) -> Vec<(Value, Vec<u8>)> {
    let mut connection = server.connect();
    let mut store = |number: u64| {
        let body = content(number, [0, 1, 700, 930, 4096, 20_000][number as usize % 6] + number as usize);
        let class = if number.is_multiple_of(5) { "&storage_class=cold" } else { "" };
        let key = if number.is_multiple_of(3) { format!("&key=k/{number}") } else { String::new() };
        let long = "x".repeat(if number.is_multiple_of(7) { 3000 } else { 5 });
        let fields =
            [("Content-Type", "model/x-weights"), ("X-Object-Meta-step", "9"), ("X-Object-Meta-note", &long)];
        let stored = connection.exchange("POST", &format!("/v1/objects?{SCOPE}{class}{key}"), &fields, &body);
        assert_eq!(stored.status, 201, "{stored:?}");
        (stored.json(), body)
    };
    let stored = (0..count).map(&mut store).collect();
    // A list waits until all of it has been applied.
    server.list(SCOPE);
    stored
}

/// What an answer says of its object.
fn told(answer: &Response) -> Vec<(String, String)> {
    let differs = |name: &str| matches!(name, "Date" | "X-Request-Id");
    answer.headers.iter().filter(|(name, _)| !differs(name)).cloned().collect()
}

#[test]
fn what_was_committed_is_read_without_the_database_as_with_it() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_on(&directory, &[]);
    let stored = store(&server, 60);
    let before = asked(&server);
    let mut answers = Vec::new();
    for (object, body) in &stored {
        let answer = server.get(&target(object));
        assert_eq!((answer.status, &answer.body), (200, body), "{object}");
        assert_eq!(server.get(&format!("{}/info", target(object))).json(), *object);
        answers.push(told(&answer));
    }
    assert_eq!(asked(&server), before);

    server.stop();
    let server = Server::start_on(&directory, &[]);
    for ((object, body), before) in stored.iter().zip(&answers) {
        let answer = server.get(&target(object));
        assert_eq!((answer.status, &answer.body, &told(&answer)), (200, body, before), "{object}");
    }
    assert_eq!(asked(&server), stored.len() as u64, "after a start each is asked for once");
}

#[test]
fn what_has_been_changed_or_removed_is_not_read_as_it_was() {
    let server = Server::start();
    let stored = store(&server, 40);
    let mut connection = server.connect();
    for (number, (object, body)) in stored.iter().enumerate() {
        let target = target(object);
        // Some have been read before, and are remembered.
        if number % 8 < 4 {
            assert_eq!(server.get(&target).status, 200);
        }
        let patch = |patch: Value| {
            let fields = [("Content-Type", "application/merge-patch+json")];
            let patched = server.request("PATCH", &target, &fields, patch.to_string().as_bytes());
            assert_eq!(patched.status, 200, "{patched:?}");
        };
        match number % 4 {
            0 => {
                assert_eq!(connection.exchange("DELETE", &target, &[], b"").status, 204);
                assert_eq!(server.get(&target).status, 404);
                continue;
            }
            1 => patch(json!({"metadata": {"step": "10"}})),
            2 => {
                let class = if object["storage_class"] == "hot" { "cold" } else { "hot" };
                patch(json!({"storage_class": class}));
            }
            _ => patch(json!({"key": format!("new/{number}")})),
        }
        let info = server.get(&format!("{target}/info")).json();
        let expected = match number % 4 {
            1 => ("metadata", info["metadata"]["step"] == "10"),
            2 => ("storage_class", info["storage_class"] != object["storage_class"]),
            _ => ("key", info["key"] == format!("new/{number}")),
        };
        assert!(expected.1, "{}: {info}", expected.0);
        assert_eq!(server.get(&target).body, *body);
    }
}

#[test]
fn a_version_that_is_no_longer_the_newest_is_read_by_its_id() {
    let server = Server::start();
    let mut versions = Vec::new();
    for number in 0..5 {
        let body = content(number, 100);
        let put = server.request("PUT", "/v1/keys/models/acme/k", &[], &body);
        assert!(matches!(put.status, 200 | 201), "{put:?}");
        versions.push((put.json(), body));
    }
    for (object, body) in &versions {
        assert_eq!(server.get(&target(object)).body, *body);
    }
    assert_eq!(server.request("DELETE", "/v1/keys/models/acme/k", &[], b"").status, 204);
    for (object, _) in &versions {
        assert_eq!(server.get(&target(object)).status, 404);
    }
}

#[test]
fn whoever_reads_while_others_write_sees_what_has_been_acknowledged_or_later() {
    let server = Arc::new(Server::start());
    let stored: Arc<Vec<_>> = Arc::new(store(&server, 30));
    let done = Arc::new(AtomicBool::new(false));
    let told: Arc<Vec<_>> = Arc::new(stored.iter().map(|_| AtomicU64::new(9)).collect());
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (server, stored) = (server.clone(), stored.clone());
            let (told, done) = (told.clone(), done.clone());
            thread::spawn(move || {
                let (mut connection, mut random) = (server.connect(), Random::new(reader));
                while !done.load(Ordering::Relaxed) {
                    let index = random.below(stored.len() as u64) as usize;
                    let (object, body) = &stored[index];
                    let least = told[index].load(Ordering::SeqCst);
                    let answer = connection.exchange("GET", &target(object), &[], b"");
                    assert_eq!((answer.status, &answer.body), (200, body));
                    let step: u64 = answer.header("X-Object-Meta-step").unwrap().parse().unwrap();
                    assert!(step >= least, "{step} after {least} had been acknowledged");
                }
            })
        })
        .collect();
    let mut connection = server.connect();
    let fields = [("Content-Type", "application/merge-patch+json")];
    for step in 10..20_u64 {
        for ((object, _), told) in stored.iter().zip(told.iter()) {
            let patch = json!({"metadata": {"step": step.to_string()}}).to_string();
            let patched = connection.exchange("PATCH", &target(object), &fields, patch.as_bytes());
            assert_eq!(patched.status, 200, "{patched:?}");
            told.store(step, Ordering::SeqCst);
            let answer = connection.exchange("GET", &target(object), &[], b"");
            assert_eq!(answer.header("X-Object-Meta-step"), Some(step.to_string().as_str()));
        }
    }
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}
