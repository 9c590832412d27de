//! A PostgreSQL that is gone, or stands still: whoever needs it is told so in time, and all is well again once it is
//! back, without a restart.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;

use crate::content::content;
use crate::raw::Response;
use crate::server::{SCOPE, Server, wait_until};
use crate::site::{EAGER_COLLECTORS, Site};
use crate::valve::Valve;

/// Waits that a test can sit out, and few enough connections for queries to wait for each other.
const IMPATIENT: [&str; 4] = [
    "--db-acquire-timeout-secs=2",
    "--db-answer-timeout-secs=2",
    "--db-max-connections=2",
    "--db-min-connections=1",
];

/// Two objects: one that the server has been asked for a moment ago, and one that only the database knows.
struct Stored {
    recent: Value,
    other: Value,
}

impl Stored {
    fn on(server: &Server) -> Self {
        let stored = Self { recent: server.create(b"recent"), other: server.create(b"other") };
        assert_eq!(server.get(&target(&stored.recent)).status, 200);
        stored
    }

    fn assert_there(&self, server: &Server) {
        for (object, body) in [(&self.recent, &b"recent"[..]), (&self.other, b"other")] {
            let response = server.get(&target(object));
            assert_eq!((response.status, &response.body[..]), (200, body));
        }
    }
}

fn target(object: &Value) -> String {
    format!("/v1/objects/{}", object["id"].as_str().unwrap())
}

fn assert_unavailable(response: &Response, case: &str) {
    response.assert_problem(503, "metadata_unavailable", case);
    assert_eq!(response.header("Retry-After"), Some("1"), "{case}");
}

/// Holds every kind of request to be answered as it has to be while the database is away.
fn assert_away(server: &Server, stored: &Stored) {
    let list = format!("/v1/objects?{SCOPE}");
    let key = "/v1/keys/models/acme/away";
    assert_unavailable(&server.request("PUT", key, &[], b"away"), "PUT");
    assert_unavailable(&server.request("POST", &list, &[], &[b'x'; 100_000]), "POST of a longer body");
    assert_unavailable(&server.get(&target(&stored.other)), "GET");
    assert_unavailable(&server.get(&format!("{}/info", target(&stored.other))), "GET of the info");
    assert_unavailable(&server.get(key), "GET by key");
    assert_unavailable(&server.get(&list), "GET of a list");
    assert_unavailable(&server.request("DELETE", &target(&stored.other), &[], b""), "DELETE");
    // What it was asked for a moment ago it may still know.
    let recent = server.get(&target(&stored.recent));
    assert!(matches!(recent.status, 200 | 503), "{recent:?}");
    assert_eq!(server.get("/health").status, 200, "the process lives");
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, ready.header("Retry-After")), (503, Some("1")));
    let checks = &ready.json()["checks"];
    assert_eq!(checks["database"], "failed", "{checks}");
    assert_eq!((&checks["hot_storage"], &checks["cold_storage"]), (&"ok".into(), &"ok".into()), "{checks}");
}

/// Waits until the server is ready, and holds it to have lost nothing and to work.
fn assert_back(server: &Server, stored: &Stored) {
    wait_until("readiness", || (server.get("/health/ready").status == 200).then_some(()));
    stored.assert_there(server);
    let key = "/v1/keys/models/acme/back";
    assert_eq!(server.request("PUT", key, &[], b"back").status, 201);
    assert_eq!(server.get(key).body, b"back");
    assert_eq!(server.request("DELETE", key, &[], b"").status, 204);
}

#[test]
fn a_killed_database_is_told_and_found_again() {
    let mut site = Site::new();
    let server = site.start("one", &IMPATIENT);
    for _ in 0..2 {
        let stored = Stored::on(&server);
        site.postgres.crash();
        assert_away(&server, &stored);
        site.postgres.start_again();
        assert_back(&server, &stored);
    }
    let lines = server.log_lines();
    let told = lines.iter().filter(|line| line.contains("the database is away")).count();
    assert!((1..=20).contains(&told), "it is told when it goes, and not for each request: {told}");
}

#[test]
fn what_was_acknowledged_survives_a_database_that_is_killed_while_it_commits() {
    let mut site = Site::new();
    let server = site.start("one", &EAGER_COLLECTORS);
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 0..4 {
        let (over, told) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let (server, over, told) = (&server, &over, &told);
            let writers: Vec<_> = (0..4)
                .map(|writer| scope.spawn(move || write_until(server, round * 4 + writer, over, told)))
                .collect();
            wait_until("writes", || (told.load(Ordering::Relaxed) > 20).then_some(()));
            site.postgres.crash();
            site.postgres.start_again();
            let before = told.load(Ordering::Relaxed);
            wait_until("writes again", || (told.load(Ordering::Relaxed) > before + 20).then_some(()));
            over.store(true, Ordering::Relaxed);
            acknowledged.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
    }
    // A commit whose outcome could not be found out leaves its bytes to the next start.
    drop(server);
    let server = site.start("one", &EAGER_COLLECTORS);
    for (id, seed) in &acknowledged {
        let response = server.get(&format!("/v1/objects/{id}"));
        assert!(response.status == 200 && response.body == content(*seed, BODY_BYTES), "{id}: {response:?}");
    }
    site.wait_until_in_order(&server);
}

const BODY_BYTES: usize = 1000;

/// Stores one content after the other, and gives the ids that were acknowledged with their seeds.
fn write_until(server: &Server, writer: u64, over: &AtomicBool, told: &AtomicU64) -> Vec<(String, u64)> {
    let (mut connection, mut acknowledged) = (server.connect(), Vec::new());
    let mut seeds = (writer << 32)..;
    while let (false, Some(seed)) = (over.load(Ordering::Relaxed), seeds.next()) {
        let target = format!("/v1/objects?{SCOPE}");
        let response = connection.exchange("POST", &target, &[], &content(seed, BODY_BYTES));
        match response.status {
            201 => {
                acknowledged.push((response.json()["id"].as_str().unwrap().to_owned(), seed));
                told.fetch_add(1, Ordering::Relaxed);
            }
            _ => assert_unavailable(&response, "POST"),
        }
    }
    acknowledged
}

#[test]
fn a_database_that_stands_still_keeps_nobody_waiting_for_ever() {
    let site = Site::new();
    let valve = Valve::before(site.postgres.port);
    let server = site.start_through(valve.port, "one", &IMPATIENT);
    let stored = Stored::on(&server);
    valve.close();
    assert_away(&server, &stored);
    // Each waits for what it is told at most, not for all that came before it: with two at a time, the last of these
    // would wait longer than the test.
    thread::scope(|scope| {
        let gets: Vec<_> =
            (0..200).map(|_| scope.spawn(|| server.get(&format!("/v1/objects?{SCOPE}")))).collect();
        for get in gets {
            let response = get.join().unwrap();
            assert_eq!((response.status, response.header("Retry-After")), (503, Some("1")));
        }
    });
    valve.open();
    assert_back(&server, &stored);
}

/// As a standby does, to which the address of a PostgreSQL leads after a failover by mistake.
#[test]
fn a_database_that_answers_and_takes_no_writes_is_told_and_found_again() {
    let site = Site::new();
    let server = site.start("one", &IMPATIENT);
    let stored = Stored::on(&server);
    let read_only = |value: &str| {
        site.postgres.ask(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        site.postgres.ask("SELECT pg_reload_conf()");
    };
    read_only("on");
    let ready = wait_until("it to be noticed", || {
        let ready = server.get("/health/ready");
        (ready.status == 503).then_some(ready)
    });
    assert_eq!(ready.header("Retry-After"), Some("1"));
    assert_eq!(ready.json()["checks"]["database"], "failed");
    assert_unavailable(&server.request("PUT", "/v1/keys/models/acme/k", &[], b"x"), "PUT");
    stored.assert_there(&server);
    read_only("off");
    assert_back(&server, &stored);
}

#[test]
fn a_server_ends_in_order_while_its_database_stands_still() {
    let site = Site::new();
    let valve = Valve::before(site.postgres.port);
    let server = site.start_through(valve.port, "one", &IMPATIENT);
    let stored = Stored::on(&server);
    valve.close();
    assert_unavailable(&server.get(&target(&stored.other)), "GET");
    let (status, lines) = server.stop();
    assert!(status.success(), "{lines:#?}");
}
