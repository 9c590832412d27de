//! A wall clock that is wrong, or that somebody has set: the store's dates follow it, and nothing else does.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::server::{FILES, Server, serve_command, wait_until};

/// Far longer than the test takes, and far shorter than ten years.
const GRACE_SECS: &str = "86400";

/// A server whose wall clock is off by `offset`, while its monotonic one is not (libfaketime, as Debian's package
/// `faketime` has it).
fn start_at(offset: &str, directory: &Arc<TempDir>, grace_secs: &str) -> Server {
    let mut command = serve_command(
        directory.path(),
        &["--log-format", "json", "--log-level", "debug", FILES[0], FILES[1]],
    );
    command.args(["--gc-interval-secs", "10", "--gc-grace-secs", grace_secs]);
    // The loader puts the machine's own directory in the place of $LIB.
    command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
    command.env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Server::listening(command, directory)
}

/// Waits for the end of the cycle that comes with the start, and gives how many blobs were removed in it.
fn first_cycle(server: &mut Server) -> u64 {
    let line = server.wait_for_line("the first cycle", |line| {
        line["message"].as_str().is_some_and(|message| message.ends_with("has ended a cycle"))
    });
    line["blobs"].as_u64().expect("the line has a count")
}

fn year_of(object: &Value) -> i64 {
    object["created_at"].as_str().unwrap()[..4].parse().unwrap()
}

/// Stores an object and deletes it again; gives it, and its file.
fn create_and_delete(server: &Server, body: &[u8]) -> (Value, PathBuf) {
    let object = server.create(body);
    let hash = object["content_hash"].as_str().unwrap();
    let own = |path: &PathBuf| path.to_string_lossy().contains(hash);
    let file = server.files("blobs").into_iter().find(own).expect("the blob is a file");
    let target = format!("/v1/objects/{}", object["id"].as_str().unwrap());
    assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
    (object, file)
}

#[test]
fn ten_years_either_way_collect_nothing_early() {
    let server = Server::start_with(&["--gc-grace-secs", GRACE_SECS, FILES[0], FILES[1]]);
    let directory = server.directory();
    let (object, file) = create_and_delete(&server, b"deleted today");
    let (this_year, mut files) = (year_of(&object), vec![file]);
    server.stop();
    for (offset, years) in [("+10y", 10), ("-10y", -10), ("+10y", 10)] {
        let mut server = start_at(offset, &directory, GRACE_SECS);
        assert_eq!(first_cycle(&mut server), 0, "{offset}");
        let (object, file) = create_and_delete(&server, format!("deleted after {files:?}").as_bytes());
        // The offset is not made of leap days, so that the last of December may be next January there.
        let off_by = (year_of(&object) - (this_year + years)).abs();
        assert!(off_by <= 1, "the clock is not off by {offset} (apt-get install faketime): {object}");
        files.push(file);
        assert!(files.iter().all(|file| file.exists()), "{offset}: {files:?}");
        assert_eq!(server.stop().0.code(), Some(0));
    }
    // Without a grace they go, with the second cycle at the latest: what a run counted after its last cycle is lost
    // with it, so that the clock of the next one is a little late.
    let _server = start_at("-10y", &directory, "0");
    wait_until("the files are gone", || files.iter().all(|file| !file.exists()).then_some(()));
}
