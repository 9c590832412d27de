//! How often a credential may ask, whichever core it asks; and what becomes of floods of keys that nobody has.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::maintenance::tool_on;
use crate::raw::{Connection, Response};
use crate::server::{Server, wait_until};
use crate::tokens::{claims, strict_server, token, token_of};

const KEY: &str = "/v1/keys/models/acme/k";
const BURST: u64 = 20;

/// A server on two cores that lets a burst of 20 through, and then one request a second.
fn limited_server() -> Server {
    strict_server(&["--cores", "2", "--rate-limit-per-second", "1", "--rate-limit-burst", "20"])
}

/// An API key of a tenant, as it is shown.
fn api_key_of(server: &Server, tenant_id: &str) -> String {
    let arguments = ["key", "create", "--tenant", tenant_id, "--scope", "read,write"];
    tool_on(server.directory().path(), None, &arguments).assert_code(0).trim_end().to_owned()
}

fn bearer(credential: &str) -> String {
    format!("Bearer {credential}")
}

fn get(connection: &mut Connection, authorization: &str) -> Response {
    connection.exchange("GET", KEY, &[("Authorization", authorization)], b"")
}

/// Asks until that is too much, and holds what was let through to be the burst and what the time that it took has paid.
fn spend(connections: &mut [Connection], authorization: &str, case: &str) -> Response {
    let (begun, mut through) = (Instant::now(), 0);
    let refusal = wait_until(case, || {
        // All of them in turn, so that each core has its part in it.
        let answers: Vec<Response> =
            connections.iter_mut().map(|connection| get(connection, authorization)).collect();
        through += answers.iter().filter(|answer| answer.status == 404).count() as u64;
        answers.into_iter().find(|answer| answer.status != 404)
    });
    refusal.assert_problem(429, "rate_limited", case);
    assert!(!refusal.closes(), "{case}: the connection goes on");
    let paid = begun.elapsed().as_secs() + 1;
    assert!((BURST..=BURST + paid).contains(&through), "{case}: {through} and {paid} s");
    refusal
}

fn wait_as_told(refusal: &Response) {
    let seconds = refusal.header("Retry-After").and_then(|seconds| seconds.parse().ok());
    thread::sleep(Duration::from_secs(seconds.expect("it says when to come back")));
}

#[test]
fn a_credential_is_refused_past_its_burst_until_it_has_waited_as_told() {
    let server = limited_server();
    let mut connection = [server.connect()];
    let (one, other) = (bearer(&token_of("acme")), bearer(&token_of("*")));
    let key = bearer(&api_key_of(&server, "acme"));
    for (credential, next) in [(&one, &other), (&other, &key), (&key, &key)] {
        let refusal = spend(&mut connection, credential, credential);
        if next != credential {
            assert_eq!(get(&mut connection[0], next).status, 404, "another one has a rate of its own");
        }
        wait_as_told(&refusal);
        assert_eq!(get(&mut connection[0], credential).status, 404, "{credential}");
    }
    // The same name in another tenant is another holder.
    let own = bearer(&token(&claims("other", "read")));
    get(&mut connection[0], &own).assert_problem(
        403,
        "forbidden",
        "it is let through, as far as its rate goes",
    );
}

#[test]
fn two_cores_count_as_one() {
    let server = limited_server();
    let mut connections: Vec<_> = std::iter::repeat_with(|| server.connect()).take(4).collect();
    let core = |response: Response| {
        let request_id = response.header("X-Request-Id").unwrap().to_owned();
        request_id.rsplit('-').nth(1).unwrap().to_owned()
    };
    let health = |connection: &mut Connection| connection.exchange("GET", "/health", &[], b"");
    let cores: BTreeSet<String> = connections.iter_mut().map(|connection| core(health(connection))).collect();
    assert_eq!(cores.len(), 2, "{cores:?}");
    for credential in [token_of("acme"), api_key_of(&server, "acme")] {
        spend(&mut connections, &bearer(&credential), &credential);
    }
}

#[test]
fn what_comes_too_soon_is_refused_before_its_body_is_asked_for() {
    let server = limited_server();
    let (mut connection, token) = ([server.connect()], token_of("acme"));
    let authorization = bearer(&token);
    // More of it is spent than comes back while this test runs on the busiest machine.
    let too_soon = |connection: &mut Connection, head: &str| {
        wait_until("a refusal", || {
            // In one piece: a body that has yet to come is not waited for.
            let body = if head.is_empty() { "hello" } else { "" };
            connection.send(format!(
                "PUT {KEY} HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\nContent-Length: 5\r\n{head}\r\n{body}"
            ));
            let response = connection.response();
            (response.status == 429).then_some(response)
        })
    };
    spend(&mut connection, &authorization, "a burst");
    let refusal = too_soon(&mut server.connect(), "Expect: 100-continue\r\n");
    assert_eq!((&refusal.interim[..], refusal.closes()), (&[][..], true));
    let refusal = too_soon(&mut connection[0], "");
    assert!(!refusal.closes(), "a body that has come already is passed over");

    let head = wait_until("a refusal without a body", || {
        let head = connection[0].exchange("HEAD", KEY, &[("Authorization", &authorization)], b"");
        (head.status == 429).then_some(head)
    });
    assert!(head.body.is_empty() && head.header("Retry-After").is_some());
    for target in ["/", "/health", "/health/ready"] {
        let response = connection[0].exchange("GET", target, &[("Authorization", &authorization)], b"");
        assert_eq!(response.status, 200, "{target} asks nobody who they are");
    }
    let (_, lines) = server.stop();
    let refused: Vec<_> = lines.iter().filter(|line| line.contains("\"status\":429")).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|line| line.contains("\"credential\":\"jwt:tester\"")), "{refused:?}");
}

#[test]
fn without_a_rate_nobody_is_limited() {
    let server = strict_server(&[]);
    let (mut connection, authorization) = (server.connect(), bearer(&token_of("acme")));
    assert!((0..200).all(|_| get(&mut connection, &authorization).status == 404));
}

#[test]
fn a_flood_of_keys_that_nobody_has_keeps_out_nobody_who_has_one() {
    let server = strict_server(&["--cores", "2"]);
    let (flooding, sent) = (AtomicBool::new(true), AtomicU64::new(0));
    let authorization = bearer(&token_of("acme"));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut connection = server.connect();
                while flooding.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let guess = format!("jsk_{number:016x}_{}", "A".repeat(43));
                    get(&mut connection, &bearer(&guess)).assert_problem(401, "invalid_token", "a guess");
                }
            });
        }
        let mut connection = server.connect();
        for round in 1..=5 {
            let enough = round * 1000;
            wait_until("the flood", || (sent.load(Ordering::Relaxed) > enough).then_some(()));
            let key = bearer(&api_key_of(&server, "acme"));
            assert_eq!(get(&mut connection, &key).status, 404, "a key that is new is good at once");
            let put = connection.exchange("PUT", KEY, &[("Authorization", &authorization)], b"body");
            assert!(put.status < 300, "{put:?}");
            let delete = connection.exchange("DELETE", KEY, &[("Authorization", &authorization)], b"");
            assert_eq!(delete.status, 204, "{delete:?}");
        }
        flooding.store(false, Ordering::Relaxed);
    });
}
