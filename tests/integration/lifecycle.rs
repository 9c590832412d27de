//! How the server starts, stops and starts again, and what it says of its health.

use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::content::{content, etag};
use crate::server::{FILES, SCOPE, Server, program, refused, serve_command, wait_until};

const KEY: &str = "/v1/keys/models/acme/k";

#[test]
fn sigterm_lets_a_running_upload_finish_and_takes_no_new_connection() {
    let mut server = Server::start();
    let body = content(1, 400_000);
    let mut upload = server.connect();
    upload.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    upload.send(&body[..100_000]);
    wait_until("the upload runs", || server.list(&format!("{SCOPE}&status=WRITING")).pop());

    server.terminate();
    wait_until("new connections are refused", || TcpStream::connect(server.address()).is_err().then_some(()));
    upload.send(&body[100_000..]);
    let response = upload.response();
    assert_eq!(response.status, 201, "{response:?}");
    assert!(response.closes(), "there will be no other request");
    upload.assert_closed();
    assert_eq!(server.wait().code(), Some(0));

    let again = Server::start_on(&server.directory(), &[]);
    assert!(again.get(KEY).body == body);
    assert_eq!(again.list(SCOPE), [response.json()]);
}

#[test]
fn sigterm_closes_idle_connections_without_a_word() {
    let mut server = Server::start();
    let (mut silent, mut served) = (server.connect(), server.connect());
    assert_eq!(served.exchange("GET", "/health", &[], b"").status, 200);
    server.terminate();
    silent.assert_closed();
    served.assert_closed();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn an_upload_that_outlasts_the_drain_limit_is_cut_and_leaves_nothing() {
    let mut server = Server::start_with(&["--drain-timeout-secs", "1"]);
    for _ in 0..3 {
        // Held open by the thread that forgets it.
        let mut stuck = server.connect();
        stuck.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n"));
        stuck.send(content(1, 100_000));
        std::mem::forget(stuck);
    }
    let writing = format!("{SCOPE}&status=WRITING");
    wait_until("the uploads run", || (server.list(&writing).len() == 3).then_some(()));
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    Server::start_on(&server.directory(), &[]).assert_nothing_kept("cut uploads");
}

/// Objects of every kind, and what a client could see of them.
fn fill(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut served = Vec::new();
    for (seed, length) in [(1, 0), (2, 10), (3, 16_385), (4, 2 << 20)] {
        let body = content(seed, length);
        let target = format!("/v1/keys/models/acme/size/{length}");
        let fields = [("Content-Type", "model/x"), ("X-Object-Meta-A", "b")];
        assert_eq!(server.request("PUT", &target, &fields, &body).status, 201);
        served.push((target, body));
        let cold = server.request(
            "POST",
            &format!("/v1/objects?{SCOPE}&storage_class=cold"),
            &[],
            &content(seed, length),
        );
        let target = format!("/v1/objects/{}", cold.json()["id"].as_str().unwrap());
        served.push((target, content(seed, length)));
    }
    for version in [&b"old"[..], b"new"] {
        assert!(server.request("PUT", KEY, &[], version).status < 300);
    }
    served.push((KEY.to_owned(), b"new".to_vec()));
    assert_eq!(server.request("PUT", "/v1/keys/models/acme/gone", &[], b"gone").status, 201);
    assert_eq!(server.request("DELETE", "/v1/keys/models/acme/gone", &[], b"").status, 204);
    served
}

fn assert_goes_on(directory: &Arc<TempDir>, served: &[(String, Vec<u8>)], before: &[Value]) {
    let server = Server::start_on(directory, &[]);
    assert_eq!(server.list(SCOPE), before, "the same objects in the same order");
    for (target, body) in served {
        let response = server.get(target);
        assert!(response.status == 200 && response.body == *body, "{target}: {}", response.status);
        assert_eq!(response.header("ETag"), Some(etag(body).as_str()));
    }
    assert_eq!(server.get("/v1/keys/models/acme/gone").status, 404);
    let fields = [("If-None-Match", "*")];
    assert_eq!(server.request("PUT", KEY, &fields, b"x").status, 412, "conditions see what was there");
    // What comes now is newer than all that was.
    let newest = server.create(b"after the start");
    assert_eq!(server.list(SCOPE)[0], newest);
    let target = format!("/v1/objects/{}", newest["id"].as_str().unwrap());
    assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
}

#[test]
fn a_second_start_goes_on_with_everything_after_a_stop_and_after_a_kill() {
    let server = Server::start();
    let (served, directory) = (fill(&server), server.directory());
    let before = server.list(SCOPE);
    let (status, lines) = server.stop();
    assert_eq!(status.code(), Some(0));
    assert!(lines.iter().any(|line| line.contains(r#""message":"stopped""#)), "{lines:#?}");
    assert_goes_on(&directory, &served, &before);

    let mut server = Server::start_on(&directory, &[]);
    server.kill();
    assert_goes_on(&directory, &served, &before);
}

#[test]
fn a_start_clears_what_unfinished_uploads_left() {
    let mut server = Server::start_with(&FILES);
    let directory = server.directory();
    let mut unfinished = server.connect();
    unfinished.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n"));
    unfinished.send(content(1, 100_000));
    let writing = wait_until("the upload runs", || server.list(&format!("{SCOPE}&status=WRITING")).pop());
    let kept = server.create(b"kept");
    server.kill();
    // What a crash between linking a file and its transaction leaves: a blob file of a run that is over, which no
    // object names. Its name is that of a real one but for the hash.
    let real = server.files("blobs").pop().unwrap();
    let place = real.file_name().unwrap().to_str().unwrap()[64..].to_owned();
    let orphan = directory.path().join("hot/blobs/ab").join("ab".repeat(32) + &place);
    std::fs::write(&orphan, "orphan").unwrap();
    let strange = directory.path().join("hot/blobs/ab/README");
    std::fs::write(&strange, "put there by a person").unwrap();

    let mut server = Server::start_on(&directory, &[]);
    assert!(server.list(&format!("{SCOPE}&status=WRITING")).is_empty());
    let target = format!("/v1/objects/{}/info", writing["id"].as_str().unwrap());
    assert_eq!(server.get(&target).status, 404);
    server.wait_for_line("the sweep", |line| {
        line["message"] == "swept files that former runs left without an object" && line["removed"] == 1
    });
    assert!(!orphan.exists(), "nothing names it");
    assert!(strange.exists(), "what this program did not name is not its garbage");
    assert_eq!(server.list(SCOPE), [kept]);
    assert_eq!(
        server.get(&format!("/v1/objects/{}", server.list(SCOPE)[0]["id"].as_str().unwrap())).body,
        b"kept"
    );
}

#[test]
fn a_second_server_on_the_same_data_is_refused_and_harms_nobody() {
    let server = Server::start();
    server.create(b"kept");
    let directory = server.directory();
    let refusal = refused(serve_command(directory.path(), &[]));
    assert_eq!(refusal.code, Some(1));
    let sentence = format!("DATA_DIR {} is in use by another server", directory.path().display());
    assert!(refusal.stderr.contains(&sentence), "{}", refusal.stderr);
    server.create(b"still served");
    assert_eq!(server.list(SCOPE).len(), 2);
}

#[test]
fn a_database_in_use_is_refused_whatever_the_data_directory() {
    let server = Server::start();
    let directory = server.directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let other = tempfile::tempdir().unwrap();
    let flags = [
        format!("--database-url=sqlite://{}", path("./metadata.db")),
        format!("--hot-storage-root={}", path("hot")),
        format!("--cold-storage-root={}", path("cold")),
    ];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let refusal = refused(serve_command(other.path(), &flags));
    assert_eq!(refusal.code, Some(1));
    assert!(refusal.stderr.contains("metadata.db is in use by another server"), "{}", refusal.stderr);
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["serve", "--dev", "--listen-addr", &address, "--data-dir"]).arg(directory.path());
    let refusal = refused(command);
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(refusal.stderr.contains(&format!("LISTEN_ADDR {address}")), "{}", refusal.stderr);
}

#[test]
fn an_address_that_another_server_serves_is_refused() {
    // Every core listens for itself on the same address. A server of other data must not join them: then each would
    // get a share of the requests, and what one has taken in the other has never heard of.
    let server = Server::start();
    let (address, directory) = (server.address().to_string(), tempfile::tempdir().unwrap());
    let mut command = program();
    command.args(["serve", "--dev", "--listen-addr", &address, "--data-dir"]).arg(directory.path());
    let refusal = refused(command);
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(refusal.stderr.contains(&format!("LISTEN_ADDR {address}")), "{}", refusal.stderr);
}

#[test]
fn both_io_drivers_serve_the_same() {
    for driver in ["epoll", "io-uring"] {
        let server = Server::start_with(&["--io-driver", driver]);
        let mut connection = server.connect();
        for length in [0, 1, 16_384, 16_385, 1 << 20, (5 << 20) + 3] {
            let body = content(length as u64, length);
            let target = format!("/v1/keys/models/acme/{length}");
            assert_eq!(
                connection.exchange("PUT", &target, &[], &body).status,
                201,
                "{driver}: {length} bytes"
            );
            assert!(connection.exchange("GET", &target, &[], b"").body == body, "{driver}: {length} bytes");
            if length > 2 {
                let range = format!("bytes={}-", length / 2);
                let part = connection.exchange("GET", &target, &[("Range", &range)], b"");
                assert!(part.status == 206 && part.body == body[length / 2..], "{driver}: {range}");
            }
        }
        let mut gone = server.connect();
        gone.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n"));
        gone.send(content(1, 100_000));
        drop(gone);
        wait_until("nothing is being written", || {
            server.list(&format!("{SCOPE}&status=WRITING")).is_empty().then_some(())
        });
        assert_eq!(server.list(SCOPE).len(), 6);
        assert_eq!(server.stop().0.code(), Some(0), "{driver}");
    }
}

#[test]
fn a_server_of_any_number_of_cores_serves_the_same_objects() {
    let server = Server::start_with(&["--cores", "5"]);
    server.request("PUT", KEY, &[], b"one");
    // New connections land on any of the cores: each sees what another one changed a moment ago.
    for round in 0..50 {
        let body = content(round, 100);
        assert_eq!(server.request("PUT", KEY, &[], &body).status, 200);
        for _ in 0..5 {
            assert!(server.get(KEY).body == body, "round {round}");
        }
    }
    assert_eq!(server.request("DELETE", KEY, &[], b"").status, 204);
    for _ in 0..10 {
        assert_eq!(server.get(KEY).status, 404);
    }
}

#[test]
fn health_says_that_the_process_lives_and_ready_that_it_can_work() {
    let server = Server::start();
    let health = server.get("/health");
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok"})));
    let ready = server.get("/health/ready");
    let checks = json!({"database": "ok", "hot_storage": "ok", "cold_storage": "ok"});
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "ready", "checks": checks})));
    assert_eq!(server.request("HEAD", "/health/ready", &[], b"").status, 200);
    for response in [health, ready] {
        assert_eq!(response.header("Cache-Control"), Some("no-store"), "a probe must not see an old answer");
    }

    for class in ["hot", "cold"] {
        let temporary = server.directory().path().join(class).join("tmp");
        std::fs::remove_dir_all(&temporary).unwrap();
        let ready = server.get("/health/ready");
        let mut checks = checks_of(&ready.json());
        assert_eq!(ready.status, 503, "{checks:?}");
        assert_eq!(checks.remove(&format!("{class}_storage")).as_deref(), Some("failed"));
        assert!(checks.values().all(|verdict| verdict == "ok"), "{checks:?}");
        assert_eq!(server.get("/health").status, 200, "the process lives nevertheless");
        std::fs::create_dir(&temporary).unwrap();
        assert_eq!(server.get("/health/ready").status, 200, "and works again");
    }
}

fn checks_of(ready: &Value) -> std::collections::BTreeMap<String, String> {
    assert_eq!(ready["status"], "not ready");
    serde_json::from_value(ready["checks"].clone()).unwrap()
}
