//! Quotas: what a tenant may have at most, whoever uploads at once and however; and what its operator sees and sets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::content::{Random, chunked, content};
use crate::maintenance::{Run, delete, put, sql, target, tool};
use crate::raw::{Connection, Response};
use crate::server::{SCOPE, Server, wait_until};
use crate::site::Site;

const TENANT: &str = "/v1/tenants/acme";
/// Both points of durability.
const ACKS: [&[&str]; 2] = [&["--ack", "log"], &["--ack", "database"]];
const RACERS: usize = 50;
const FITTING: u64 = 10;

fn set(server: &Server, limits: Value) -> Value {
    let response = server.request("PUT", TENANT, &[], limits.to_string().as_bytes());
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Bytes and objects.
fn usage(server: &Server) -> (u64, u64) {
    let response = server.get(TENANT);
    assert_eq!(response.status, 200, "{response:?}");
    let tenant = response.json();
    (tenant["bytes"].as_u64().unwrap(), tenant["objects"].as_u64().unwrap())
}

fn post(server: &Server, body: &[u8]) -> Response {
    server.request("POST", &format!("/v1/objects?{SCOPE}"), &[], body)
}

fn assert_exceeded(response: &Response, case: &str) {
    response.assert_problem(507, "quota_exceeded", case);
}

/// Uploads from many clients at the same moment, half of them to keys; gives how many were taken.
fn race(addresses: &[SocketAddr], round: u64, length: usize) -> u64 {
    let start = &Barrier::new(RACERS);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                let mut connection = Connection::open(addresses[racer % addresses.len()]);
                scope.spawn(move || {
                    let body = content(1 + round * RACERS as u64 + racer as u64, length);
                    let key = format!("/v1/keys/models/acme/{round}/{racer}");
                    let object = format!("/v1/objects?{SCOPE}");
                    start.wait();
                    let response = match racer % 4 {
                        0 | 1 => connection.exchange("POST", &object, &[], &body),
                        _ => connection.exchange("PUT", &key, &[], &body),
                    };
                    if response.status != 201 {
                        assert_exceeded(&response, "a racer");
                    }
                    response.status
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    statuses.iter().filter(|status| **status == 201).count() as u64
}

#[test]
fn of_many_uploads_at_once_exactly_those_are_taken_that_fit() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        for (round, length) in [900, 100_000].into_iter().enumerate() {
            let length_bytes = length as u64;
            set(&server, json!({"bytes_max": FITTING * length_bytes}));
            assert_eq!(race(&[server.address()], round as u64, length), FITTING, "{flags:?}");
            assert_eq!(usage(&server), (FITTING * length_bytes, FITTING), "{flags:?}");
            let objects = server.list(SCOPE);
            assert_eq!(objects.len() as u64, FITTING);
            assert_exceeded(&post(&server, b"1"), "it is full");
            for object in objects {
                let id = object["id"].as_str().unwrap();
                assert_eq!(server.request("DELETE", &format!("/v1/objects/{id}"), &[], b"").status, 204);
            }
            assert_eq!(usage(&server), (0, 0));
        }
        set(&server, json!({"objects_max": FITTING}));
        assert_eq!(race(&[server.address()], 7, 900), FITTING, "{flags:?}");
        tool(server.directory().path(), &["validate"]).assert_code(0);
    }
}

#[test]
fn two_servers_together_take_exactly_what_fits() {
    const LENGTH: usize = 900;
    let site = Site::new();
    let servers = ["one", "two"].map(|node| site.start(node, &[]));
    let addresses = [servers[0].address(), servers[1].address()];
    for round in 0..4 {
        let bytes_max = (round + 1) * FITTING * LENGTH as u64;
        // Whoever is asked to set it knows it then, and what all have stored.
        servers.iter().for_each(|server| drop(set(server, json!({"bytes_max": bytes_max}))));
        assert_eq!(race(&addresses, round, LENGTH), FITTING, "round {round}");
        assert_eq!(usage(&servers[0]), (bytes_max, (round + 1) * FITTING));
        assert_eq!(usage(&servers[1]), usage(&servers[0]));
    }
    set(&servers[0], json!({}));
    wait_until("the other one knows that there is no limit", || {
        (post(&servers[1], b"1").status == 201).then_some(())
    });
    set(&servers[1], json!({"objects_max": 1}));
    wait_until("and that there is one again", || (post(&servers[0], b"1").status == 507).then_some(()));
    let validated = site.tool(&["validate"]);
    assert!(validated.assert_code(0).ends_with("\nclean\n"));
    site.postgres
        .ask("UPDATE tenant_usage SET bytes = bytes + 1 WHERE shard = (SELECT min(shard) FROM tenant_usage)");
    assert!(site.tool(&["validate"]).assert_code(1).contains("wrong_usage: 1 "));
    site.tool(&["gc", "--repair"]).assert_code(0);
    assert!(site.tool(&["validate"]).assert_code(0).ends_with("\nclean\n"));
}

#[test]
fn what_is_too_much_is_said_before_the_body_is_asked_for() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        set(&server, json!({"bytes_max": 100_000, "objects_max": 1}));
        let ask = |framing: &str| {
            let mut connection = server.connect();
            connection.send(format!(
                "PUT {} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{framing}\r\n\r\n",
                target("k")
            ));
            connection.response()
        };
        let response = ask("Content-Length: 100001");
        assert_exceeded(&response, "a byte too much");
        assert!(response.interim.is_empty() && response.closes());
        put(&server, "full", &content(1, 100_000));
        for framing in ["Content-Length: 0", "Transfer-Encoding: chunked"] {
            let response = ask(framing);
            assert_exceeded(&response, framing);
            assert!(response.interim.is_empty(), "{framing}");
        }
        assert_eq!(usage(&server), (100_000, 1));
    }
}

#[test]
fn a_body_of_unknown_length_is_cut_at_the_limit_and_may_reach_it() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        let send = |body: &[u8]| {
            let fields = &[("Transfer-Encoding", "chunked")];
            let sent = chunked(body, 7000, &[]);
            server.request("POST", &format!("/v1/objects?{SCOPE}"), fields, &sent)
        };
        set(&server, json!({"bytes_max": 300_000}));
        let response = send(&content(1, 900_000));
        assert_exceeded(&response, "three times as long");
        assert!(response.closes());
        assert_exceeded(&send(&content(2, 300_001)), "a byte too much");
        assert_eq!(usage(&server), (0, 0));
        assert!(server.list(SCOPE).is_empty());
        wait_until("nothing is left of it", || server.files("blobs").is_empty().then_some(()));
        assert_eq!(send(&content(3, 299_000)).status, 201);
        assert_eq!(send(&content(4, 1000)).status, 201);
        assert_eq!(usage(&server), (300_000, 2));
        assert_exceeded(&send(b"1"), "it is full");
    }
}

#[test]
fn an_upload_that_breaks_off_gives_its_room_back() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        set(&server, json!({"bytes_max": 200_000, "objects_max": 1}));
        for (framing, chunk) in [("Content-Length: 200000", ""), ("Transfer-Encoding: chunked", "30d40\r\n")]
        {
            let mut connection = server.connect();
            connection.send(format!(
                "PUT {} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{framing}\r\n\r\n",
                target("broken")
            ));
            assert_eq!(connection.interim(), 100, "{framing}");
            connection.send(chunk);
            connection.send(content(1, 100_000));
            assert_exceeded(&post(&server, b""), "an object is on its way");
            drop(connection);
            let created = wait_until("its room is free again", || {
                let response = post(&server, &content(3, 200_000));
                (response.status == 201).then(|| response.json())
            });
            let id = created["id"].as_str().unwrap();
            assert_eq!(server.request("DELETE", &format!("/v1/objects/{id}"), &[], b"").status, 204);
            assert_eq!(usage(&server), (0, 0));
        }
    }
}

#[test]
fn versions_count_until_they_are_deleted_and_limits_may_lie_below_what_is_there() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        set(&server, json!({"bytes_max": 10, "objects_max": 4}));
        for body in [&b"1234"[..], b"5678"] {
            put(&server, "k", body);
        }
        assert_exceeded(&server.request("PUT", &target("k"), &[], b"901"), "each version counts");
        assert_eq!(server.get(&target("k")).body, b"5678");
        put(&server, "other", b"12");
        assert_eq!(usage(&server), (10, 3));

        let tenant = set(&server, json!({"bytes_max": 3, "objects_max": null}));
        assert_eq!(
            tenant,
            json!({"tenant_id": "acme", "bytes": 10, "objects": 3, "bytes_max": 3, "objects_max": null})
        );
        assert_eq!(server.get(&target("other")).body, b"12", "nothing is lost");
        assert_exceeded(&post(&server, b""), "there is more than there may be");
        delete(&server, "k");
        assert_eq!(usage(&server), (2, 1));
        put(&server, "small", b"3");
        assert_exceeded(&post(&server, b"4"), "it is full");
        let elsewhere = server.request("PUT", "/v1/keys/models/other/k", &[], b"another tenant");
        assert_eq!(elsewhere.status, 201);
        set(&server, json!({}));
        put(&server, "large", &content(1, 100_000));
        assert_eq!(usage(&server), (100_003, 3));
    }
}

/// Writes and deletes small and large objects until the server is gone.
fn work(address: SocketAddr, seed: u64) {
    let Ok(mut connection) = Connection::try_open(address) else { return };
    let mut random = Random::new(seed);
    loop {
        let target = format!("/v1/keys/models/acme/{seed}/{}", random.below(4));
        let length = [10, 900, 20_000, 90_000][random.below(4) as usize];
        let answer = match random.below(4) {
            0 => connection.try_exchange("DELETE", &target, &[], b""),
            1 => {
                let body = chunked(&content(random.next(), length), 7000, &[]);
                connection.try_exchange("PUT", &target, &[("Transfer-Encoding", "chunked")], &body)
            }
            _ => connection.try_exchange("PUT", &target, &[], &content(random.next(), length)),
        };
        let Ok(response) = answer else { return };
        assert!(matches!(response.status, 200 | 201 | 204 | 404 | 507), "{response:?}");
        if response.closes() {
            match Connection::try_open(address) {
                Ok(opened) => connection = opened,
                Err(_) => return,
            }
        }
    }
}

#[test]
fn what_a_tenant_has_is_right_after_any_kill() {
    const BYTES_MAX: u64 = 600_000;
    for flags in ACKS {
        let mut server = Server::start_with(flags);
        set(&server, json!({"bytes_max": BYTES_MAX}));
        let mut random = Random::new(1);
        for round in 0..6 {
            let address = server.address();
            thread::scope(|scope| {
                (1..=4).for_each(|client| drop(scope.spawn(move || work(address, round * 4 + client))));
                // Not a wait for anything: the moment is what varies.
                thread::sleep(Duration::from_millis(100 + random.below(400)));
                server.kill();
            });
            server = Server::start_on(&server.directory(), flags);
            let objects = server.list(SCOPE);
            let bytes: u64 = objects.iter().map(|object| object["size_bytes"].as_u64().unwrap()).sum();
            assert_eq!(usage(&server), (bytes, objects.len() as u64), "{flags:?}, round {round}");
            assert!(bytes <= BYTES_MAX, "{flags:?}, round {round}: {bytes}");
            let left = BYTES_MAX - bytes;
            let promise = format!(
                "PUT {} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: ",
                target("left")
            );
            let mut connection = server.connect();
            connection.send(format!("{promise}{}\r\n\r\n", left + 1));
            assert_exceeded(&connection.response(), "what was on its way holds nothing any more");
            let mut connection = server.connect();
            connection.send(format!("{promise}{left}\r\n\r\n"));
            if left > 0 {
                assert_eq!(connection.interim(), 100);
            }
        }
        // The last start sweeps what the killed ones left while it serves already.
        wait_until("a clean store", || {
            tool(server.directory().path(), &["validate"]).succeeded().then_some(())
        });
    }
}

/// Runs `just_storage tenant …` on the store in `directory`.
fn tenant_tool(directory: &Path, arguments: &[&str]) -> Run {
    tool(directory, &[&["tenant"], arguments].concat())
}

#[test]
fn the_operator_sets_and_sees_limits_beside_the_server_and_without_it() {
    let mut server = Server::start();
    let directory = server.directory();
    let tool_of = |arguments: &[&str]| tenant_tool(directory.path(), arguments).assert_code(0);
    put(&server, "k", b"12345");
    assert_eq!(tool_of(&["list"]), "acme: 5 B (no limit) in 1 objects (no limit)\n");
    let shown: Value = serde_json::from_str(&tool_of(&["show", "acme", "--json"])).unwrap();
    assert_eq!(shown, server.get(TENANT).json());

    let said = tool_of(&["set", "acme", "--bytes-max", "1KiB", "--objects-max", "2"]);
    assert_eq!(said, "acme: 5 B (at most 1.00 KiB) in 1 objects (at most 2)\n");
    wait_until("the server knows the limit", || {
        let response = server.request("PUT", "/v1/keys/models/acme/probe", &[], &content(1, 1020));
        let refused = response.status == 507;
        if !refused {
            delete(&server, "probe");
        }
        refused.then_some(())
    });
    assert_eq!(tool_of(&["set", "acme", "--bytes-max", "none"]).matches("no limit").count(), 1);
    wait_until("the server knows that there is none", || {
        let response = server.request("PUT", &target("large"), &[], &content(1, 5000));
        (response.status == 201).then_some(())
    });
    assert_exceeded(&post(&server, b""), "the other limit stays as it was");
    set(&server, json!({"objects_max": 3}));
    assert!(tool_of(&["show", "acme"]).ends_with("in 2 objects (at most 3)\n"));
    assert!(tool_of(&["show", "nobody"]).starts_with("nobody: 0 B (no limit) in 0 objects"));

    server.kill();
    tool_of(&["set", "acme", "--objects-max", "2"]);
    let server = Server::start_on(&directory, &[]);
    assert_exceeded(&post(&server, b""), "it is known from the start");
    for arguments in [
        &["set", "acme", "--bytes-max", "-1"][..],
        &["set", "acme", "--bytes-max", "1.5GiB"],
        &["set", "acme", "--objects-max", "all"],
        &["set", "-acme", "--objects-max", "1"],
        &["show", "a/b"],
        &["show"],
    ] {
        tenant_tool(directory.path(), arguments).assert_code(2);
    }
}

#[test]
fn a_wrong_usage_is_found_and_counted_anew() {
    let mut server = Server::start();
    put(&server, "k", b"12345");
    let directory = server.directory();
    server.kill();
    tool(directory.path(), &["validate"]).assert_code(0);
    sql(
        directory.path(),
        "UPDATE tenant_usage SET bytes = 7; INSERT INTO tenant_usage VALUES ('ghost', 1, 1)",
    );
    let validated = tool(directory.path(), &["validate"]).assert_code(1);
    assert!(validated.contains("wrong_usage: 2 "), "{validated}");
    assert!(tool(directory.path(), &["gc"]).assert_code(1).contains("--repair counts it anew"));
    tool(directory.path(), &["gc", "--repair"]).assert_code(0);
    tool(directory.path(), &["validate"]).assert_code(0);
    let server = Server::start_on(&directory, &[]);
    assert_eq!(usage(&server), (5, 1));
}

#[test]
fn limits_that_are_none_are_refused_by_the_interface() {
    let server = Server::start();
    for body in [
        "",
        "null",
        "[1]",
        "{\"bytes_max\":-1}",
        "{\"bytes_max\":1e3}",
        "{\"bytes\":1}",
        "{\"bytes_max\":1}{}",
    ] {
        let response = server.request("PUT", TENANT, &[], body.as_bytes());
        response.assert_problem(400, "invalid_limits", body);
    }
    let long = format!("{{\"bytes_max\":{}1}}", " ".repeat(1024));
    server.request("PUT", TENANT, &[], long.as_bytes()).assert_problem(413, "body_too_large", "long");
    let problem = server.get("/v1/tenants/-acme").assert_problem(400, "invalid_parameter", "a bad name");
    assert_eq!(problem["parameter"], "tenant_id");
    server.get("/v1/tenants/").assert_problem(404, "no_route", "no tenant");
    server.get(&format!("{TENANT}?x=1")).assert_problem(400, "unknown_parameter", "a parameter");
    let response = server.request("DELETE", TENANT, &[], b"");
    response.assert_problem(405, "method_not_allowed", "DELETE");
    assert_eq!(response.header("Allow"), Some("GET, HEAD, PUT"));
    let untouched =
        json!({"tenant_id": "acme", "bytes": 0, "objects": 0, "bytes_max": null, "objects_max": null});
    assert_eq!(server.get(TENANT).json(), untouched);
}
