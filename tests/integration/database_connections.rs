//! `DB_…`: how many connections a server holds to its PostgreSQL, for how long, and how long a query waits for one.

use std::collections::BTreeSet;
use std::thread;

use crate::raw::Response;
use crate::server::{SCOPE, Server, wait_until};
use crate::site::Site;

/// Those of the server, as the database counts them: those that read, and the one that writes, which stays open.
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'just_storage'";
/// Those of them that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'just_storage' AND wait_event_type = 'Lock'";

fn list(server: &Server) -> Response {
    server.get(&format!("/v1/objects?{SCOPE}"))
}

#[test]
fn no_more_connections_read_than_are_allowed() {
    let site = Site::new();
    let server = site.start("one", &["--db-max-connections=3", "--db-min-connections=0"]);
    server.create(b"1");
    let lock = site.postgres.hold("LOCK TABLE objects");
    thread::scope(|scope| {
        let lists: Vec<_> = (0..12).map(|_| scope.spawn(|| list(&server))).collect();
        wait_until("three readers", || (site.postgres.ask(WAITING) == "3").then_some(()));
        // A write waits on a connection of its own.
        let put = scope.spawn(|| server.request("PUT", "/v1/keys/models/acme/k", &[], b"2"));
        wait_until("the writer", || (site.postgres.ask(WAITING) == "4").then_some(()));
        assert_eq!(site.postgres.ask(CONNECTIONS), "4");
        drop(lock);
        for answer in lists.into_iter().chain([put]) {
            assert!(matches!(answer.join().unwrap().status, 200 | 201), "each has its turn");
        }
    });
    assert_eq!(site.postgres.ask(CONNECTIONS), "4");
}

#[test]
fn a_query_waits_for_a_connection_as_long_as_it_may() {
    let site = Site::new();
    let few = ["--db-max-connections=1", "--db-min-connections=0", "--db-acquire-timeout-secs=2"];
    let server = site.start("one", &few);
    server.create(b"1");
    let lock = site.postgres.hold("LOCK TABLE objects");
    thread::scope(|scope| {
        let first = scope.spawn(|| list(&server));
        wait_until("the first reader", || (site.postgres.ask(WAITING) == "1").then_some(()));
        let second = list(&server);
        second.assert_problem(503, "overloaded", "no connection is free");
        assert_eq!(second.header("Retry-After"), Some("1"));
        assert_eq!(site.postgres.ask(WAITING), "1", "the first one waits still");
        drop(lock);
        assert_eq!(first.join().unwrap().status, 200);
    });
    assert_eq!(list(&server).status, 200);
}

#[test]
fn as_many_connections_as_asked_for_stay_open_and_none_for_ever() {
    let site = Site::new();
    let kept = ["--db-max-connections=5", "--db-min-connections=3", "--db-max-lifetime-secs=1"];
    let server = site.start("one", &kept);
    let ids = || -> BTreeSet<String> {
        let query = CONNECTIONS.replace("count(*)", "pid");
        site.postgres.ask(&query).lines().map(str::to_owned).collect()
    };
    let first = wait_until("three readers and the writer", || Some(ids()).filter(|ids| ids.len() == 4));
    wait_until("three other readers", || {
        let now = ids();
        (now.len() == 4 && now.intersection(&first).count() == 1).then_some(())
    });
    assert_eq!(list(&server).status, 200);
}

#[test]
fn a_connection_that_nobody_needs_is_closed() {
    let site = Site::new();
    let none = ["--db-max-connections=4", "--db-min-connections=0", "--db-idle-timeout-secs=1"];
    let server = site.start("one", &none);
    let lock = site.postgres.hold("LOCK TABLE objects");
    thread::scope(|scope| {
        let lists: Vec<_> = (0..4).map(|_| scope.spawn(|| list(&server))).collect();
        wait_until("four readers", || (site.postgres.ask(WAITING) == "4").then_some(()));
        drop(lock);
        assert!(lists.into_iter().all(|list| list.join().unwrap().status == 200));
    });
    // The heartbeat needs one now and then.
    wait_until("one reader at most", || matches!(&*site.postgres.ask(CONNECTIONS), "1" | "2").then_some(()));
}
