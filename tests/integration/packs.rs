//! Packs as they are seen from outside: what they hold survives, is checked, moves, and gives its space back; and they
//! are the log that a lost database is made anew from.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::content::content;
use crate::maintenance::sql;
use crate::raw::{Response, request};
use crate::server::{SCOPE, Server, files_below, program, refused, serve_command, wait_until};

/// Flags of a server whose log is the point of durability.
const LOG: [&str; 2] = ["--ack", "log"];

fn put(server: &Server, key: &str, body: &[u8]) {
    let response = server.request("PUT", &target(key), &[], body);
    assert!(matches!(response.status, 200 | 201), "{response:?}");
}

fn target(key: &str) -> String {
    format!("/v1/keys/models/acme/{key}")
}

fn packs(directory: &Path) -> Vec<PathBuf> {
    files_below(&directory.join("hot/packs"))
}

/// The pack that some bytes lie in, and where.
fn find_in_packs(directory: &Path, body: &[u8]) -> (PathBuf, u64) {
    let found = packs(directory).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(body.len()).position(|window| window == body)?;
        Some((path, at as u64))
    });
    found.expect("the bytes are in a pack")
}

fn flip_byte(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn tool(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg(arguments[0]).arg("--data-dir").arg(directory).args(&arguments[1..]);
    command.output().unwrap()
}

#[test]
fn small_blobs_have_no_file_of_their_own_and_survive_a_kill() {
    for ack in ["log", "database"] {
        let flags = ["--ack", ack, "--pack-blob-bytes-max", "65536"];
        let mut server = Server::start_with(&flags);
        let directory = server.directory();
        let bodies: Vec<_> =
            [0, 1, 4096, 16_384, 16_385, 65_536, 65_537].map(|length| content(length as u64, length)).into();
        for body in &bodies {
            put(&server, &format!("k{}", body.len()), body);
        }
        assert_eq!(server.files("blobs").len(), 1, "{ack}: only the largest is a file");
        let delete = server.request("DELETE", &target("k1"), &[], b"");
        assert_eq!(delete.status, 204);
        server.kill();

        let server = Server::start_on(&directory, &[]);
        for body in bodies.iter().filter(|body| body.len() != 1) {
            let key = target(&format!("k{}", body.len()));
            assert!(server.get(&key).body == *body, "{ack}: {key}");
            if body.len() > 20 {
                let part = server.request("GET", &key, &[("Range", "bytes=10-19")], b"");
                assert!(part.body == body[10..20], "{ack}: a part of {key}");
            }
        }
        assert_eq!(server.get(&target("k1")).status, 404, "{ack}: what was deleted stays so");
    }
}

#[test]
fn a_key_is_new_once_also_over_a_kill() {
    let mut server = Server::start_with(&LOG);
    let directory = server.directory();
    let status = |server: &Server, method: &str, key: &str, fields: &[(&str, &str)]| {
        server.request(method, &target(key), fields, &content(1, 100)).status
    };
    let unless_there = [("If-None-Match", "*")];
    let if_there = [("If-Match", "*")];
    for run in 0..3 {
        for number in 0..100 {
            let key = format!("{run}/{number}");
            assert_eq!(status(&server, "PUT", &key, &if_there), 412, "{key}");
            assert_eq!(status(&server, "PUT", &key, &unless_there), 201, "{key}");
            assert_eq!(status(&server, "GET", &key, &[]), 200, "{key}: it is seen at once");
            assert_eq!(status(&server, "PUT", &key, &unless_there), 412, "{key}");
            assert_eq!(status(&server, "PUT", &key, &[]), 200, "{key}");
        }
        server.kill();
        server = Server::start_on(&directory, &LOG);
        for number in 0..50 {
            let key = format!("{run}/{number}");
            assert_eq!(status(&server, "PUT", &key, &unless_there), 412, "{key}: it is known after a kill");
            assert_eq!(status(&server, "DELETE", &key, &[]), 204, "{key}");
            assert_eq!(status(&server, "PUT", &key, &[]), 201, "{key}: it was deleted");
        }
    }
}

#[test]
fn an_object_without_a_key_is_seen_as_soon_as_it_is_answered() {
    let server = Server::start_with(&LOG);
    for number in 0..200u64 {
        let object = server.create(&content(number, 100));
        let id = object["id"].as_str().unwrap();
        assert_eq!(server.get(&format!("/v1/objects/{id}/info")).status, 200, "number {number}");
        assert_eq!(server.list(SCOPE).len() as u64, number + 1);
    }
}

#[test]
fn an_altered_byte_of_a_packed_blob_is_damage_and_scrub_finds_it() {
    let server = Server::start_with(&LOG);
    let directory = server.directory();
    let body = content(1, 5_000);
    put(&server, "k", &body);
    let (pack, offset) = find_in_packs(directory.path(), &body);
    flip_byte(&pack, offset + 100);
    server.get(&target("k")).assert_problem(500, "blob_damaged", "one bit is wrong");
    let scrub = tool(directory.path(), &["scrub"]);
    assert_eq!(scrub.status.code(), Some(1));
    // The next upload of the content brings it back.
    put(&server, "k", &body);
    wait_until("the new copy serves", || (server.get(&target("k")).body == body).then_some(()));
}

/// A `GET` of a damaged blob is refused, or cut off before its end.
fn assert_refused_or_cut(server: &Server, target: &str, case: &str) {
    let mut connection = server.connect();
    connection.send(request("GET", target, &[], b""));
    match connection.read_response(false) {
        Ok(response) => drop(response.assert_problem(500, "blob_damaged", case)),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{case}"),
    }
}

#[test]
fn a_longer_packed_blob_with_an_altered_byte_is_never_sent_whole() {
    // In one part, in two, and in as many as the largest has.
    for length in [16_384, 16_385, 40_960, 524_288] {
        let server = Server::start_with(&["--ack", "log", "--pack-blob-bytes-max", "524288"]);
        let (key, body) = (target("k"), content(1, length));
        put(&server, "k", &body);
        let (pack, offset) = find_in_packs(server.directory().path(), &body);
        for at in [0, length / 2, length - 1] {
            flip_byte(&pack, offset + at as u64);
            assert_refused_or_cut(&server, &key, &format!("byte {at} of {length}"));
            flip_byte(&pack, offset + at as u64);
            assert!(server.get(&key).body == body, "{length} bytes, mended");
        }
    }
}

/// What is asked for of a blob of 60,000 bytes: the whole, and parts that are read at once and in blocks, from the first
/// byte on and from a later one, one and several.
const RANGES: [Option<&str>; 8] = [
    None,
    Some("bytes=0-"),
    Some("bytes=0-9"),
    Some("bytes=0-29999"),
    Some("bytes=59990-"),
    Some("bytes=30000-"),
    Some("bytes=20-29,0-9"),
    Some("bytes=30000-59999,0-9"),
];

fn get_part(server: &Server, key: &str, range: Option<&str>) -> Response {
    let fields: Vec<_> = range.map(|range| ("Range", range)).into_iter().collect();
    server.request("GET", &target(key), &fields, b"")
}

#[test]
fn no_part_of_a_blob_is_read_behind_a_damaged_header() {
    let server = Server::start_with(&LOG);
    let body = content(1, 60_000);
    put(&server, "k", &body);
    let (pack, offset) = find_in_packs(server.directory().path(), &body);
    let header = offset - 96;
    // Its magic, the pack, the place, the length, the hash.
    for field in [0, 8, 16, 32, 48] {
        flip_byte(&pack, header + field);
        for range in RANGES {
            let case = format!("byte {field} of the header, {range:?}");
            get_part(&server, "k", range).assert_problem(500, "blob_damaged", &case);
        }
        flip_byte(&pack, header + field);
    }
    for range in RANGES {
        assert!(matches!(get_part(&server, "k", range).status, 200 | 206), "{range:?}");
    }
}

/// Every place in a pack where these bytes are.
fn places_of(path: &Path, body: &[u8]) -> Vec<u64> {
    let bytes = fs::read(path).unwrap();
    let is_there = |(_, window): &(usize, &[u8])| *window == body;
    bytes.windows(body.len()).enumerate().filter(is_there).map(|(at, _)| at as u64).collect()
}

#[test]
fn a_place_that_turns_out_wrong_when_it_is_read_is_looked_up_once_more() {
    // Read at once, and in blocks.
    for length in [5_000, 60_000] {
        let server = Server::start_with(&["--cores", "1", LOG[0], LOG[1]]);
        let body = content(1, length);
        for key in ["a", "b"] {
            put(&server, key, &body);
        }
        let directory = server.directory();
        let (pack, first) = find_in_packs(directory.path(), &body);
        let places = places_of(&pack, &body);
        assert!(places.len() == 2 && places[0] == first, "each upload logs its bytes: {places:?}");
        // In the object cache is the place of the first.
        flip_byte(&pack, places[0] - 96);
        get_part(&server, "a", None).assert_problem(500, "blob_damaged", "the database names it too");
        let name = pack.file_stem().unwrap().to_str().unwrap();
        sql(directory.path(), &format!("UPDATE blobs SET place = '{name}:{:x}'", places[1] - 96));
        for range in [None, Some("bytes=100-199")] {
            let part = get_part(&server, "a", range);
            let expected = if range.is_some() { &body[100..200] } else { &body[..] };
            assert!(part.body == expected, "{length} bytes, {range:?}: {}", part.status);
        }
        flip_byte(&pack, places[1] - 96);
        get_part(&server, "a", None).assert_problem(500, "blob_damaged", "both are damaged");
    }
}

#[test]
fn a_pack_in_the_place_of_another_is_damage() {
    let body = content(1, 60_000);
    let [server, other] = [0, 1].map(|_| Server::start_with(&LOG));
    for server in [&server, &other] {
        put(server, "k", &body);
    }
    let (pack, offset) = find_in_packs(server.directory().path(), &body);
    let (strange, at) = find_in_packs(other.directory().path(), &body);
    assert_eq!(offset, at, "only the pack is another");
    fs::copy(strange, pack.with_extension("new")).unwrap();
    fs::rename(pack.with_extension("new"), &pack).unwrap();
    for range in RANGES {
        let case = format!("{range:?}");
        get_part(&server, "k", range).assert_problem(500, "blob_damaged", &case);
    }
}

#[test]
fn rot_in_an_acknowledged_batch_stops_the_start_by_name() {
    let mut server = Server::start_with(&["--cores", "1", LOG[0], LOG[1]]);
    let directory = server.directory();
    let bodies = [content(1, 9_000), content(2, 9_000), content(3, 9_000)];
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
    }
    server.kill();
    let (pack, offset) = find_in_packs(directory.path(), &bodies[1]);
    flip_byte(&pack, offset);
    // As if the database had none of it.
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(directory.path().join(name));
    }
    let refusal = tool(directory.path(), &["rebuild"]);
    let said = String::from_utf8(refusal.stderr).unwrap();
    assert_eq!(refusal.status.code(), Some(2), "{said}");
    let name = pack.file_stem().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("is damaged at"), "{said}");
    flip_byte(&pack, offset);
    fs::remove_file(directory.path().join("metadata.db")).unwrap();
    assert_eq!(tool(directory.path(), &["rebuild"]).status.code(), Some(0));
}

#[test]
fn a_lost_database_is_made_anew() {
    let server = Server::start_with(&LOG);
    let directory = server.directory();
    for number in 0..50u64 {
        put(&server, &format!("k{number}"), &content(number, 300 + number as usize));
        put(&server, &format!("large{}", number % 5), &content(number, 100_000));
    }
    for number in 0..10 {
        assert_eq!(server.request("DELETE", &target(&format!("k{number}")), &[], b"").status, 204);
    }
    let before = server.list(&format!("{SCOPE}&limit=1000"));
    server.stop();
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(directory.path().join(name));
    }
    let refusal = refused(serve_command(directory.path(), &[]));
    assert!(refusal.stderr.contains("just_storage rebuild"), "{}", refusal.stderr);
    // The refused start has made an empty one.
    let _ = fs::remove_file(directory.path().join("metadata.db"));
    let rebuilt = tool(directory.path(), &["rebuild"]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    assert_eq!(tool(directory.path(), &["rebuild"]).status.code(), Some(2), "it is there now");
    let server = Server::start_on(&directory, &[]);
    assert_eq!(server.list(&format!("{SCOPE}&limit=1000")), before);
    for number in 10..50u64 {
        assert!(server.get(&target(&format!("k{number}"))).body == content(number, 300 + number as usize));
    }
}

#[test]
fn a_backup_takes_blobs_out_of_packs_and_is_restored() {
    let server = Server::start_with(&LOG);
    let directory = server.directory();
    for number in 0..20u64 {
        put(&server, &format!("k{number}"), &content(number, 1_000));
    }
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let made = tool(directory.path(), &["backup", backup.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    let restored = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let filled = tool(restored.path(), &["restore", backup.to_str().unwrap()]);
    assert_eq!(filled.status.code(), Some(0), "{}", String::from_utf8_lossy(&filled.stderr));
    let server = Server::start_on(&restored, &[]);
    for number in 0..20u64 {
        assert!(server.get(&target(&format!("k{number}"))).body == content(number, 1_000));
    }
    assert_eq!(tool(restored.path(), &["validate"]).status.code(), Some(0));
}

#[test]
fn the_largest_blob_that_a_pack_can_be_told_to_take_lies_in_one() {
    let server = Server::start_with(&["--ack", "log", "--pack-blob-bytes-max", "524288"]);
    for length in [524_288, 524_289] {
        let body = content(length as u64, length);
        put(&server, &format!("k{length}"), &body);
        assert!(server.get(&target(&format!("k{length}"))).body == body);
    }
    assert_eq!(server.files("blobs").len(), 1, "one byte more is a file");
}
