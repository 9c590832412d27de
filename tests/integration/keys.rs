//! Objects by key: versions, conditions, spelling, and the command that everybody has.

use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::content::{content, etag};
use crate::server::{FILES, SCOPE, Server};

fn key(name: &str) -> String {
    format!("/v1/keys/models/acme/{name}")
}

#[test]
fn put_makes_a_key_and_then_new_versions_of_it() {
    let server = Server::start();
    let target = key("llama/model.bin");
    server.get(&target).assert_problem(404, "not_found", "before");
    let bodies = [content(1, 10), content(2, 100_000), content(3, 0), content(1, 10)];
    let mut objects: Vec<Value> = Vec::new();
    for (index, body) in bodies.iter().enumerate() {
        let fields = [("Content-Type", "model/x"), ("X-Object-Meta-Version", &index.to_string())];
        let response = server.request("PUT", &target, &fields, body);
        assert_eq!(response.status, if index == 0 { 201 } else { 200 }, "{response:?}");
        let object = response.json();
        let location = format!("/v1/objects/{}", object["id"].as_str().unwrap());
        assert_eq!(response.header("Location"), Some(location.as_str()));
        assert_eq!(response.header("ETag"), Some(etag(body).as_str()));
        assert_eq!(object["key"], "llama/model.bin");
        objects.push(object);

        let get = server.get(&target);
        assert!(get.status == 200 && get.body == *body, "version {index} serves");
        assert_eq!(get.header("ETag"), Some(etag(body).as_str()));
        assert_eq!(get.header("X-Object-Meta-version"), Some(index.to_string().as_str()));
        let head = server.request("HEAD", &target, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("Content-Length"), Some(body.len().to_string().as_str()));
    }
    // The older versions are still there by their ids, and all of them are listed.
    for (object, body) in objects.iter().zip(&bodies) {
        let get = server.get(&format!("/v1/objects/{}", object["id"].as_str().unwrap()));
        assert!(get.body == *body, "{object}");
    }
    objects.reverse();
    assert_eq!(server.list(SCOPE), objects);
}

#[test]
fn post_with_a_key_makes_a_version_of_that_key() {
    let server = Server::start();
    assert_eq!(server.request("PUT", &key("a/b"), &[], b"one").status, 201);
    let query = format!("/v1/objects?{SCOPE}&key=a/b&storage_class=cold");
    assert_eq!(server.request("POST", &query, &[], b"two").status, 201);
    assert_eq!(server.get(&key("a/b")).body, b"two");
    assert_eq!(server.request("PUT", &key("a/b"), &[], b"three").status, 200);
}

#[test]
fn delete_forgets_every_version_of_the_key_and_of_no_other() {
    let server = Server::start();
    let target = key("k");
    let ids: Vec<Value> = (0..3)
        .map(|n| server.request("PUT", &target, &[], format!("{n}").as_bytes()).json()["id"].clone())
        .collect();
    for other in ["/v1/keys/models/acme/k/below", "/v1/keys/models/other/k", "/v1/keys/other/acme/k"] {
        assert_eq!(server.request("PUT", other, &[], b"other").status, 201);
    }
    assert_eq!(server.get(&target).status, 200);
    assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
    server.request("DELETE", &target, &[], b"").assert_problem(404, "not_found", "the second time");
    assert_eq!(server.get(&target).status, 404);
    assert_eq!(server.request("HEAD", &target, &[], b"").status, 404);
    for id in ids {
        assert_eq!(server.get(&format!("/v1/objects/{}", id.as_str().unwrap())).status, 404);
    }
    for other in ["/v1/keys/models/acme/k/below", "/v1/keys/models/other/k", "/v1/keys/other/acme/k"] {
        assert_eq!(server.get(other).body, b"other", "{other}");
    }
    assert_eq!(server.request("PUT", &target, &[], b"again").status, 201, "the key is absent again");
}

#[test]
fn deleting_the_newest_version_by_id_reveals_the_one_behind_it() {
    let server = Server::start();
    let target = key("k");
    let ids: Vec<String> = (0..3)
        .map(|n| server.request("PUT", &target, &[], format!("{n}").as_bytes()).json()["id"].to_string())
        .map(|quoted| quoted.trim_matches('"').to_owned())
        .collect();
    let delete = |index: usize| {
        let response = server.request("DELETE", &format!("/v1/objects/{}", ids[index]), &[], b"");
        assert_eq!(response.status, 204);
    };
    assert_eq!(server.get(&target).body, b"2");
    delete(2);
    assert_eq!(server.get(&target).body, b"1");
    delete(0);
    assert_eq!(server.get(&target).body, b"1", "an older version goes unseen");
    delete(1);
    assert_eq!(server.get(&target).status, 404);
    assert_eq!(server.request("PUT", &target, &[], b"again").status, 201);
}

#[test]
fn if_none_match_star_creates_only_where_there_is_nothing() {
    let server = Server::start_with(&FILES);
    let (target, fields) = (key("k"), [("If-None-Match", "*")]);
    assert_eq!(server.request("PUT", &target, &fields, b"one").status, 201);
    // Small ones are refused in the transaction at the latest, large ones before the body.
    for body in [content(1, 10), content(2, 100_000)] {
        let response = server.request("PUT", &target, &fields, &body);
        response.assert_problem(412, "precondition_failed", "it is there");
    }
    assert_eq!(server.get(&target).body, b"one");
    assert_eq!((server.list(SCOPE).len(), server.files("blobs").len()), (1, 1), "nothing else is kept");
    assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
    assert_eq!(server.request("PUT", &target, &fields, b"two").status, 201);
}

#[test]
fn if_match_replaces_only_that_version() {
    let server = Server::start();
    let target = key("k");
    for value in [etag(b"one"), "*".into()] {
        let response = server.request("PUT", &target, &[("If-Match", &value)], b"two");
        response.assert_problem(412, "precondition_failed", "there is nothing to match");
    }
    assert_eq!(server.request("PUT", &target, &[], b"one").status, 201);
    for value in [etag(b"other"), format!("W/{}", etag(b"one"))] {
        let response = server.request("PUT", &target, &[("If-Match", &value)], b"two");
        response.assert_problem(412, "precondition_failed", &value);
    }
    assert_eq!(server.request("PUT", &target, &[("If-Match", &etag(b"one"))], b"two").status, 200);
    let response = server.request("PUT", &target, &[("If-Match", &etag(b"one"))], b"three");
    response.assert_problem(412, "precondition_failed", "that version is not the newest any more");
    assert_eq!(server.get(&target).body, b"two");
    assert_eq!(server.request("PUT", &target, &[("If-Match", "*")], b"three").status, 200);
}

#[test]
fn delete_of_a_key_obeys_if_match() {
    let server = Server::start();
    let target = key("k");
    assert_eq!(server.request("PUT", &target, &[], b"one").status, 201);
    let response = server.request("DELETE", &target, &[("If-Match", &etag(b"other"))], b"");
    response.assert_problem(412, "precondition_failed", "another version");
    assert_eq!(server.get(&target).body, b"one");
    assert_eq!(server.request("DELETE", &target, &[("If-Match", &etag(b"one"))], b"").status, 204);
}

#[test]
fn of_many_who_create_the_same_key_at_once_exactly_one_does() {
    const CREATORS: usize = 100;
    let server = Server::start_with(&FILES);
    // A body that fits a block is decided in one transaction; one that does not is reserved before.
    for (name, length) in [("small", 100), ("large", 100_000)] {
        let barrier = Barrier::new(CREATORS);
        let answers: Vec<(u16, Vec<u8>)> = thread::scope(|scope| {
            let create = |index: usize| {
                let (server, barrier) = (&server, &barrier);
                scope.spawn(move || {
                    let body = content(index as u64, length);
                    let mut connection = server.connect();
                    barrier.wait();
                    let fields = [("If-None-Match", "*")];
                    (connection.exchange("PUT", &key(name), &fields, &body).status, body)
                })
            };
            let threads: Vec<_> = (0..CREATORS).map(create).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let of = |status: u16| answers.iter().filter(|(own, _)| *own == status).count();
        assert_eq!((of(201), of(412)), (1, CREATORS - 1), "{name}");
        let (_, winner) = answers.iter().find(|(status, _)| *status == 201).unwrap();
        assert!(server.get(&key(name)).body == *winner, "{name}: the winner's bytes are served");
    }
    assert_eq!(
        (server.list(SCOPE).len(), server.files("blobs").len()),
        (2, 2),
        "of the losers nothing is kept"
    );
}

#[test]
fn of_many_who_replace_the_same_version_exactly_one_does() {
    let server = Server::start();
    let target = key("k");
    let mut current = b"start".to_vec();
    assert_eq!(server.request("PUT", &target, &[], &current).status, 201);
    for round in 0..5 {
        let tag = etag(&current);
        let answers: Vec<(u16, Vec<u8>)> = thread::scope(|scope| {
            let replace = |index: u64| {
                let (server, target, tag) = (&server, &target, &tag);
                scope.spawn(move || {
                    let body = content(round * 100 + index, 50);
                    (server.request("PUT", target, &[("If-Match", tag)], &body).status, body)
                })
            };
            let threads: Vec<_> = (0..8).map(replace).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<_> = answers.iter().filter(|(status, _)| *status == 200).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(answers.iter().filter(|(status, _)| *status == 412).count(), 7, "round {round}");
        current = winners[0].1.clone();
        assert!(server.get(&target).body == current);
    }
}

#[test]
fn a_read_never_shows_what_was_replaced_before_it_began() {
    const WRITERS: usize = 3;
    const VERSIONS: u64 = 100;
    let server = Server::start();
    let target = key("k");
    assert_eq!(server.request("PUT", &target, &[], b"0 0").status, 201);
    // How far each writer has been told that its versions stand.
    let acknowledged: [AtomicU64; WRITERS] = Default::default();
    let writing = AtomicUsize::new(WRITERS);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (server, target, acknowledged, writing) = (&server, &target, &acknowledged, &writing);
            scope.spawn(move || {
                let mut connection = server.connect();
                for version in 1..=VERSIONS {
                    let body = format!("{writer} {version}");
                    let status = connection.exchange("PUT", target, &[], body.as_bytes()).status;
                    assert_eq!(status, 200);
                    acknowledged[writer].store(version, Ordering::SeqCst);
                }
                writing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                let mut connection = server.connect();
                while writing.load(Ordering::SeqCst) > 0 {
                    let before = acknowledged.each_ref().map(|version| version.load(Ordering::SeqCst));
                    let body = String::from_utf8(connection.exchange("GET", &target, &[], b"").body).unwrap();
                    let (writer, version) = body.split_once(' ').unwrap();
                    let (writer, version): (usize, u64) = (writer.parse().unwrap(), version.parse().unwrap());
                    assert!(version >= before[writer], "{body} after {before:?}");
                }
            });
        }
    });
    assert!(server.get(&target).body.ends_with(b" 100"), "the last change is the last version of its writer");
    assert_eq!(server.list(SCOPE).len(), WRITERS * 100 + 1);
}

#[test]
fn a_key_is_the_same_however_it_is_spelled_and_plus_is_itself() {
    let server = Server::start();
    for (written, read, name) in [
        ("a/b", "a%2Fb", "a/b"),
        ("a%2fc", "a/c", "a/c"),
        ("%61b%63", "abc", "abc"),
        ("a+b", "a%2Bb", "a+b"),
        ("a%20b", "a%20b", "a b"),
        ("%C3%A4/%E6%97%A5%E6%9C%AC/%F0%9F%A6%80", "%c3%a4/%e6%97%a5%e6%9c%ac/%f0%9f%a6%80", "ä/日本/🦀"),
        ("100%25", "100%25", "100%"),
        ("%2525", "%2525", "%25"),
        (".hidden/..a/...", ".hidden/..a/...", ".hidden/..a/..."),
        ("~!$&'()*,;=:@", "~%21$&'()*,;=:@", "~!$&'()*,;=:@"),
        ("%22%5C%3C%3E", "%22%5c%3c%3e", "\"\\<>"),
        ("%3Fversions", "%3fversions", "?versions"),
    ] {
        let response = server.request("PUT", &key(written), &[], name.as_bytes());
        assert_eq!(response.status, 201, "{written}: {response:?}");
        assert_eq!(response.json()["key"], name, "{written}");
        for target in [written, read] {
            let get = server.get(&key(target));
            assert_eq!((get.status, get.body.as_slice()), (200, name.as_bytes()), "{target}");
        }
    }
    // Keys that differ are different keys: case, and two ways to compose the same letter.
    for (one, other) in [("Case", "case"), ("%C3%A9", "e%CC%81")] {
        assert_eq!(server.request("PUT", &key(one), &[], b"1").status, 201);
        assert_eq!(server.request("PUT", &key(other), &[], b"2").status, 201, "{one} and {other}");
    }
}

#[test]
fn a_key_may_have_1024_bytes_and_not_one_more() {
    let server = Server::start();
    // The last is 512 characters of two bytes each, written as six.
    for (longest, longer) in [
        ("k".repeat(1024), "k".repeat(1025)),
        ("k/".repeat(511) + "kk", "k/".repeat(511) + "kkk"),
        ("%C3%A4".repeat(512), "%C3%A4".repeat(512) + "k"),
    ] {
        let response = server.request("PUT", &key(&longest), &[], b"x");
        assert_eq!(response.status, 201, "{response:?}");
        assert_eq!(response.json()["key"].as_str().unwrap().len(), 1024);
        assert_eq!(server.get(&key(&longest)).body, b"x");
        let problem = server.request("PUT", &key(&longer), &[], b"x");
        let problem = problem.assert_problem(400, "invalid_parameter", "1025 bytes");
        assert_eq!(problem["parameter"], "key");
    }
}

#[test]
fn curl_puts_gets_and_resumes() {
    let curl = |arguments: &[&str]| {
        let output = Command::new("/usr/bin/curl")
            .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60"])
            .args(arguments)
            .output()
            .expect("curl is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // Over a mebibyte curl asks first: Expect: 100-continue.
    for length in [0, 1000, 3 << 20] {
        let body = content(length as u64, length);
        let (source, url) =
            (path("source"), server.url(&key(&format!("by/curl {length}").replace(' ', "%20"))));
        std::fs::write(&source, &body).unwrap();
        let answer = curl(&["--upload-file", &source, &url, "--write-out", "\n%{http_code}"]);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.ends_with("\n201"), "{answer}");
        assert!(curl(&[&url]) == body, "{length} bytes come back");

        let target = path("target");
        std::fs::write(&target, &body[..length / 3]).unwrap();
        if length > 0 {
            curl(&["--continue-at", "-", "--output", &target, &url]);
            assert!(std::fs::read(&target).unwrap() == body, "the rest of {length} bytes is added");
        }
    }
    // From a pipe its length is not known, and the body is chunked.
    let (url, body) = (server.url(&key("from/pipe")), content(9, 200_000));
    std::fs::write(path("piped"), &body).unwrap();
    let command = format!("cat '{}' | /usr/bin/curl -sSf --noproxy '*' -T - '{url}'", path("piped"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(curl(&[&url]) == body);
}
