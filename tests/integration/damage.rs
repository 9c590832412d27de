//! Blobs that are not as they were written: told as damage or cut off, and never served as if they were whole.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::content::content;
use crate::raw::request;
use crate::server::{FILES, SCOPE, Server};

/// Stores an object and gives its target and its file, which nobody has opened yet.
fn create(server: &Server, body: &[u8]) -> (String, PathBuf) {
    let object = server.create(body);
    let hash = object["content_hash"].as_str().unwrap();
    let own = |path: &PathBuf| path.to_string_lossy().contains(hash);
    let file = server.files("blobs").into_iter().find(own).expect("the blob is a file");
    (format!("/v1/objects/{}", object["id"].as_str().unwrap()), file)
}

fn cut(file: &Path, length: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
}

#[test]
fn a_blob_that_is_missing_or_of_another_length_is_damage() {
    let mut server = Server::start_with(&FILES);
    let whole = server.create(b"whole");
    for length in [100, 16_385, 3 << 20] {
        for (seed, damage) in ["missing", "shorter", "empty", "longer"].into_iter().enumerate() {
            let (target, file) = create(&server, &content(seed as u64, length));
            match damage {
                "missing" => fs::remove_file(&file).unwrap(),
                "shorter" => cut(&file, length as u64 - 1),
                "empty" => cut(&file, 0),
                _ => cut(&file, length as u64 + 1),
            }
            let mut connection = server.connect();
            for range in [None, Some(("Range", "bytes=0-9")), Some(("Range", "bytes=20-29,0-9"))] {
                let case = format!("{length} bytes, {damage}, {range:?}");
                let response = connection.exchange("GET", &target, range.as_slice(), b"");
                let problem = response.assert_problem(500, "blob_damaged", &case);
                let text = problem.to_string();
                assert!(
                    !text.contains("hot") && !text.contains("tmp"),
                    "nothing of what is behind it: {text}"
                );
            }
            // What needs no bytes is answered, and other objects are served.
            assert_eq!(connection.exchange("GET", &format!("{target}/info"), &[], b"").status, 200);
            let target = format!("/v1/objects/{}", whole["id"].as_str().unwrap());
            assert_eq!(connection.exchange("GET", &target, &[], b"").body, b"whole");
        }
    }
    server.wait_for_line("the log tells it", |line| line["level"] == "ERROR");
}

#[test]
fn a_blob_that_turns_out_damaged_while_it_is_sent_is_cut_off() {
    let server = Server::start();
    // More than both sockets' buffers hold, so that the end is not read before the client reads.
    let (target, file) = create(&server, &content(1, 64 << 20));
    let mut connection = server.connect();
    connection.send(request("GET", &target, &[], b""));
    assert_eq!(connection.status_ahead(), 200);
    cut(&file, 1 << 20);
    assert!(
        connection.read_response(false).is_err(),
        "a promised length that is not met ends the connection"
    );
    assert_eq!(server.list(SCOPE).len(), 1, "the server goes on");
}

#[test]
fn a_part_that_turns_out_damaged_behind_one_that_was_sent_cuts_the_answer_off() {
    let server = Server::start();
    for (seed, second) in [(1, "33500000-33500009"), (2, "33000000-33500009")] {
        let (target, file) = create(&server, &content(seed, 32 << 20));
        let mut connection = server.connect();
        let range = format!("bytes=0-25165823,{second}");
        connection.send(request("GET", &target, &[("Range", &range)], b""));
        assert_eq!(connection.status_ahead(), 206);
        // The first part stays whole, and is more than both sockets' buffers hold.
        cut(&file, 28 << 20);
        let mut received = Vec::new();
        connection.stream().read_to_end(&mut received).unwrap();
        // Its beginning was read with the head.
        assert!(received.len() > 23 << 20, "the first part comes: {}", received.len());
        let text = String::from_utf8_lossy(&received[received.len() - 2000..]);
        assert!(!text.contains("HTTP/1.1"), "there is no other answer in the middle of one: {text}");
        assert!(!text.ends_with("--\r\n"), "it does not look as if it had ended: {text}");
    }
    assert_eq!(server.list(SCOPE).len(), 2, "the server goes on");
}

#[test]
fn a_blob_that_is_known_to_be_damaged_is_whole_again_once_it_is_uploaded_again() {
    let server = Server::start_with(&FILES);
    for (seed, damage) in ["missing", "shorter"].into_iter().enumerate() {
        for length in [100, 100_000] {
            let body = content(seed as u64, length);
            let (target, file) = create(&server, &body);
            match damage {
                "missing" => fs::remove_file(&file).unwrap(),
                _ => cut(&file, length as u64 - 1),
            }
            server.get(&target).assert_problem(500, "blob_damaged", damage);
            // Whoever is told 201 has his bytes stored, whatever became of those that were there before.
            let again = format!("/v1/objects/{}", server.create(&body)["id"].as_str().unwrap());
            for target in [again, target] {
                let response = server.get(&target);
                let case = format!("{damage}, {length} bytes: {}", response.status);
                assert!(response.status == 200 && response.body == body, "{case}");
            }
        }
    }
}
