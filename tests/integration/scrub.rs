//! The server's own scrub: bytes that change on the disk are found without anybody asking for them, told, and served no
//! more; and a pass goes on where a restart has cut it off.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::content::{content, sha256_hex};
use crate::maintenance::{file_of, put, target, tool};
use crate::server::{Server, files_below, wait_until};
use crate::site::Site;

/// A pass whenever the last one is over, as fast as the disk goes.
const EAGER: [&str; 2] = ["--scrub-interval-secs=1", "--scrub-bytes-per-second=1099511627776"];
const NEVER: &str = "--scrub-interval-secs=0";
/// Sixteen small blobs at once, and the next ones as many seconds later.
const SLOW: [&str; 2] = ["--scrub-interval-secs=3600", "--scrub-bytes-per-second=65536"];

/// How a `GET` is answered; `None` if it is cut off, as it is where damage is met in the middle.
fn status_of(server: &Server, target: &str) -> Option<u16> {
    server.connect().try_exchange("GET", target, &[], b"").ok().map(|response| response.status)
}

/// The value of a metric without labels, if it is told.
fn metric(server: &Server, name: &str) -> Option<f64> {
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Alters a byte of a small blob where it lies in a pack.
fn flip_in_pack(directory: &Path, body: &[u8]) {
    for path in files_below(&directory.join("hot/packs")) {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(body.len()).position(|window| window == body) {
            return flip(&path, at as u64 + 7);
        }
    }
    panic!("the bytes are in no pack");
}

#[test]
fn bits_that_flip_in_files_and_packs_are_found_told_and_served_no_more() {
    let server = Server::start_with(&EAGER);
    let directory = server.directory();
    let bodies = [content(1, 900), content(2, 40_000), content(3, 3 << 20), content(4, 5000)];
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
        // So that it is in every cache, that of the kernel too.
        assert_eq!(server.get(&target(&format!("k{number}"))).status, 200);
    }
    flip_in_pack(directory.path(), &bodies[0]);
    flip_in_pack(directory.path(), &bodies[1]);
    flip(&file_of(&server, &bodies[2]), 2 << 20);
    wait_until("three to be found", || {
        (metric(&server, "activestorage_scrub_damaged_blobs_total") == Some(3.0)).then_some(())
    });
    for (number, body) in bodies[..3].iter().enumerate() {
        let target = target(&format!("k{number}"));
        wait_until("the damage is known", || (status_of(&server, &target) == Some(500)).then_some(()));
        server.get(&target).assert_problem(500, "blob_damaged", &target);
        let hash = sha256_hex(body);
        let is_told = |line: &String| line.contains(&hash) && line.contains("a stored blob is damaged");
        wait_until("a line of the log", || server.log_lines().iter().any(is_told).then_some(()));
    }
    assert!(server.get(&target("k3")).body == bodies[3]);
    assert!(metric(&server, "activestorage_scrub_checked_bytes_total").unwrap() > 3e6);
    wait_until("damage to be counted", || {
        (metric(&server, "activestorage_damaged_blobs") == Some(3.0)).then_some(())
    });

    // One is mended by its content, one by its bytes.
    put(&server, "again", &bodies[2]);
    flip_in_pack_back(directory.path(), &bodies[0]);
    for number in [0, 2] {
        let target = target(&format!("k{number}"));
        wait_until("it is served again", || (status_of(&server, &target) == Some(200)).then_some(()));
        assert!(server.get(&target).body == bodies[number], "{target}");
    }
    wait_until("lines of the log", || {
        let lines = server.log_lines();
        let passes = lines.iter().filter(|line| line.contains("the scrub has read every blob")).count();
        (passes > 1 && lines.iter().any(|line| line.contains("is whole after all"))).then_some(())
    });
    assert_eq!(server.get(&target("k1")).status, 500);
    tool(directory.path(), &["scrub"]).assert_code(1);
}

/// Brings back what [`flip_in_pack`] has altered.
fn flip_in_pack_back(directory: &Path, body: &[u8]) {
    let mut altered = body.to_vec();
    altered[7] ^= 1;
    flip_in_pack(directory, &altered);
}

#[test]
fn a_pass_goes_on_where_a_restart_has_cut_it_off() {
    let server = Server::start_with(&[NEVER]);
    let directory = server.directory();
    let bodies: Vec<_> = (0..60).map(|seed| content(seed, 2000)).collect();
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
    }
    assert_eq!(metric(&server, "activestorage_scrub_interval_seconds"), Some(0.0));
    assert_eq!(metric(&server, "activestorage_scrub_started_timestamp_seconds"), None);
    assert!(server.stop().0.success());

    let progress = |server: &Server| metric(server, "activestorage_scrub_progress_ratio").unwrap_or(0.0);
    let server = Server::start_on(&directory, &SLOW);
    let before = wait_until("some to be checked", || Some(progress(&server)).filter(|ratio| *ratio > 0.0));
    let started = metric(&server, "activestorage_scrub_started_timestamp_seconds");
    assert!(started.is_some_and(|moment| moment > 1e9));
    assert_eq!(metric(&server, "activestorage_scrub_finished_timestamp_seconds"), None);
    let checked = metric(&server, "activestorage_scrub_checked_blobs_total").unwrap();
    assert!(before < 1.0 && checked < 60.0, "{before} {checked}");
    assert!(server.stop().0.success());

    let fast = [SLOW[0], EAGER[1]];
    let server = Server::start_on(&directory, &fast);
    wait_until("the pass to be over", || {
        metric(&server, "activestorage_scrub_finished_timestamp_seconds").map(drop)
    });
    assert_eq!(progress(&server), 1.0);
    assert_eq!(metric(&server, "activestorage_scrub_started_timestamp_seconds"), started, "it is the same");
    let rest = metric(&server, "activestorage_scrub_checked_blobs_total").unwrap();
    assert!(rest > 0.0 && rest <= 60.0 - checked, "{rest} behind {checked}");
    let is_told =
        |line: &String| line.contains("the scrub has read every blob") && line.contains("\"blobs\":60");
    wait_until("a line of the log", || server.log_lines().iter().any(is_told).then_some(()));
}

#[test]
fn a_kill_loses_no_more_than_the_place_of_a_pass() {
    let mut server = Server::start_with(&[NEVER]);
    let directory: Arc<_> = server.directory();
    for number in 0..20 {
        put(&server, &format!("k{number}"), &content(number, 2000));
    }
    server.kill();
    let mut server = Server::start_on(&directory, &SLOW);
    wait_until("some to be checked", || {
        metric(&server, "activestorage_scrub_progress_ratio").filter(|ratio| *ratio > 0.0)
    });
    server.kill();
    let server = Server::start_on(&directory, &[SLOW[0], EAGER[1]]);
    wait_until("the pass to be over", || {
        metric(&server, "activestorage_scrub_finished_timestamp_seconds").map(drop)
    });
    assert_eq!(metric(&server, "activestorage_scrub_damaged_blobs_total"), Some(0.0));
}

#[test]
fn a_scrub_beside_compaction_and_collection_takes_nothing_for_lost() {
    let server = Server::start_with(&[EAGER[0], EAGER[1], "--gc-interval-secs=10", "--gc-grace-secs=0"]);
    let directory = server.directory();
    for round in 0..4_u64 {
        for number in 0..150 {
            put(&server, &format!("k{number}"), &content(round * 1000 + number, 20_000));
        }
        for number in 0..100 {
            let body = content(round * 1000 + number, 300_000);
            put(&server, &format!("large{}", number % 4), &body);
        }
        for number in 0..120 {
            assert_eq!(server.request("DELETE", &target(&format!("k{number}")), &[], b"").status, 204);
        }
        tool(directory.path(), &["gc", "--gc-grace-secs=0"]).assert_code(0);
    }
    let passes =
        || server.log_lines().iter().filter(|line| line.contains("the scrub has read every blob")).count();
    let before = passes();
    wait_until("a pass behind it all", || (passes() > before + 1).then_some(()));
    assert_eq!(metric(&server, "activestorage_scrub_damaged_blobs_total"), Some(0.0));
    assert_eq!(metric(&server, "activestorage_scrub_unread_blobs_total"), Some(0.0));
    tool(directory.path(), &["validate"]).assert_code(0);
}

#[test]
fn of_two_servers_on_one_database_one_makes_the_pass() {
    let site = Site::new();
    let server = site.start("one", &[NEVER]);
    for number in 0..30 {
        put(&server, &format!("k{number}"), &content(number, 2000));
    }
    let altered = content(7, 2000);
    flip(&file_of(&server, &altered), 5);
    assert!(server.stop().0.success());
    let flags = ["--scrub-interval-secs=604800", EAGER[1]];
    let servers = [site.start("one", &flags), site.start("two", &flags)];
    let sum = |name: &str| servers.iter().filter_map(|server| metric(server, name)).sum::<f64>();
    wait_until("the pass to be over", || {
        (sum("activestorage_scrub_finished_timestamp_seconds") > 0.0).then_some(())
    });
    assert_eq!(sum("activestorage_scrub_checked_blobs_total"), 30.0);
    assert_eq!(sum("activestorage_scrub_damaged_blobs_total"), 1.0);
    for server in &servers {
        wait_until("both to know", || (status_of(server, &target("k7")) == Some(500)).then_some(()));
    }
}
