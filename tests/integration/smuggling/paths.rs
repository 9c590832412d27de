//! Names that would like to be paths: whatever a key is called, a file is called by 64 hexadecimal digits and by
//! numbers of the server's own, and lies below a root.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::raw::{Connection, Fields};
use crate::server::{FILES, SCOPE, Server, files_below};

const KEYS: &str = "/v1/keys/models/acme/";

/// Keys that are refused wherever they stand.
const REFUSED: [&str; 26] = [
    "..",
    "../..",
    "../../../../etc/passwd",
    "a/../../b",
    "%2e%2e",
    "%2E%2e/%2e%2E",
    ".%2e/b",
    "..%2f..%2fb",
    "a%2f..%2fb",
    "a%2F%2e%2e%2Fb",
    "%2f",
    "%2fetc%2fpasswd",
    "a%2f",
    "a%00",
    "%00",
    "a%00/../b",
    "a%0ab",
    "a%0d%0aX:%20y",
    "%7f",
    // Overlong and broken UTF-8.
    "%c0%ae%c0%ae",
    "%c0%ae%c0%ae%c0%af",
    "%e0%80%af",
    "%f0%80%80%af",
    "%ff%fe",
    "%ed%a0%80",
    "%f4%90%80%80",
];

/// Keys that look like paths to somebody, and are names here.
const TAKEN: [&str; 16] = [
    "...",
    "..a/b..",
    "%252e%252e",
    "%252fetc",
    "..%5c..%5cb",
    "c:%5cwindows",
    "con",
    "~",
    "-rf",
    "*",
    "$HOME",
    "%60id%60",
    "blobs/ab/x",
    "just_storage.root",
    "a.pack",
    "%ef%bc%8e%ef%bc%8e/%ef%bc%8f",
];

/// Everything below a directory but the server's own data.
fn outside(parent: &Path, data: &Path) -> BTreeSet<(String, Vec<u8>)> {
    let files = files_below(parent).into_iter().filter(|path| !path.starts_with(data));
    files.map(|path| (path.to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

fn is_hex(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a file of a root is called what docs/STORAGE_FORMAT.md says.
fn is_ours(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["just_storage.root"] | ["snapshots", "policies.jsonl"] => true,
        ["blobs", shard, name] => {
            let (hash, place) = name.split_once('-').unwrap_or_default();
            let (instance, number) = place.split_once('-').unwrap_or_default();
            is_hex(hash, 64..=64)
                && hash.starts_with(shard)
                && is_hex(shard, 2..=2)
                && is_hex(instance, 16..=16)
                && is_hex(number, 1..=16)
        }
        ["packs", name] => name.strip_suffix(".pack").is_some_and(|id| is_hex(id, 16..=16)),
        _ => false,
    }
}

#[test]
fn a_key_never_becomes_a_path() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("passwd"), "untouched").unwrap();
    std::fs::create_dir(parent.path().join("etc")).unwrap();
    std::fs::write(parent.path().join("etc/passwd"), "untouched").unwrap();
    for flags in [&FILES[..], &[]] {
        let directory = Arc::new(tempfile::tempdir_in(parent.path()).unwrap());
        let before = outside(parent.path(), directory.path());
        let server = Server::start_on(&directory, flags);
        for key in REFUSED {
            for (method, target) in [
                ("PUT", format!("{KEYS}{key}")),
                ("GET", format!("{KEYS}{key}")),
                ("DELETE", format!("{KEYS}{key}")),
                ("POST", format!("/v1/objects?{SCOPE}&key={key}")),
            ] {
                let response = server.request(method, &target, &[], b"");
                let problem = response.assert_problem(400, "invalid_parameter", &target);
                assert_eq!(problem["parameter"], "key", "{target}");
            }
        }
        server.assert_nothing_kept("no key was taken");
        for (number, key) in TAKEN.into_iter().enumerate() {
            let (target, body) = (format!("{KEYS}{key}"), format!("body {number}"));
            assert_eq!(server.request("PUT", &target, &[], body.as_bytes()).status, 201, "{key}");
            assert_eq!(server.get(&target).body, body.as_bytes(), "{key}");
        }
        assert_eq!(server.list(SCOPE).len(), TAKEN.len());
        for root in ["hot", "cold"] {
            let root = directory.path().join(root);
            let names = files_below(&root);
            let names: Vec<&str> =
                names.iter().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
            assert!(names.iter().all(|name| is_ours(name)), "{names:#?}");
        }
        assert_eq!(outside(parent.path(), directory.path()), before);
    }
}

#[test]
fn namespaces_and_tenants_are_no_paths_either() {
    let server = Server::start();
    for name in ["..", ".", "%2e%2e", "..%2f..", "a%2fb", "a%00", "%c0%ae", "a%5cb", "~", "", "%ff"] {
        for query in
            [format!("namespace={name}&tenant_id=acme"), format!("namespace=models&tenant_id={name}")]
        {
            let response = server.request("POST", &format!("/v1/objects?{query}"), &[], b"x");
            response.assert_problem(400, "invalid_parameter", &query);
            assert_eq!(server.get(&format!("/v1/objects?{query}")).status, 400, "{query}");
        }
    }
    server.assert_nothing_kept("no name was taken");
}

#[test]
fn nothing_but_an_id_names_an_object() {
    let server = Server::start();
    let hash = "0".repeat(64);
    for id in ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a%00", &hash, "just_storage.root", "%ff"] {
        for method in ["GET", "HEAD", "DELETE"] {
            let response =
                Connection::open(server.address()).exchange(method, &format!("/v1/objects/{id}"), &[], b"");
            assert_eq!(response.status, 400, "{method} {id}");
        }
    }
}

#[test]
fn a_name_of_a_mebibyte_is_refused_without_being_read_to_its_end() {
    let server = Server::start_with(&["--request-line-bytes-max", "65536", "--header-bytes-max", "1048576"]);
    let (key, dots) = ("k".repeat(1 << 20), "../".repeat(1 << 18));
    for name in [&key, &dots] {
        for target in [format!("{KEYS}{name}"), format!("/v1/objects?{SCOPE}&key={name}")] {
            let mut connection = server.connect();
            // The refusal comes in the middle of it.
            let _ = connection.try_send(format!("PUT {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let response = connection.response();
            response.assert_problem(414, "request_line_too_long", "a target of a mebibyte");
            assert!(response.closes());
        }
    }
    // As long as a request line may be, and still no key.
    let within: String = key.chars().take(60_000).collect();
    let target = format!("{KEYS}{within}");
    server.request("PUT", &target, &[], b"x").assert_problem(
        400,
        "invalid_parameter",
        "a key of 60,000 bytes",
    );
    // In a field, where a request may be that long, it is no more than a value.
    let value: String = key.chars().take((1 << 20) - 200).collect();
    let fields: Fields<'_> = &[("X-Object-Meta-A", &value)];
    server.request("PUT", &format!("{KEYS}k"), fields, b"x").assert_problem(
        400,
        "invalid_metadata",
        "a value",
    );
    server.assert_nothing_kept("long names");
}
