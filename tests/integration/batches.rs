//! Many objects in one request: archives that GNU tar and Python write and read, results in order, and what is refused.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::content::{content, sha256_hex};
use crate::raw::{Connection, Response};
use crate::server::{FILES, SCOPE, Server, wait_until};
use crate::tokens::{claims, strict_server, token, token_of};

const GET: &str = "/v1/batch/get?namespace=models&tenant_id=acme";
const PUT: &str = "/v1/batch/put?namespace=models&tenant_id=acme";
const DELETE: &str = "/v1/batch/delete?namespace=models&tenant_id=acme";
const RESULTS: &str = ".just_storage/results.jsonl";
/// What an archive ends with.
const END: [u8; 1024] = [0; 1024];

fn key(name: &str) -> String {
    format!("/v1/keys/models/acme/{name}")
}

/// The results in an answer.
fn lines(text: &[u8]) -> Vec<Value> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
}

pub(crate) fn results(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.header("Content-Type"), Some("application/x-ndjson"));
    lines(&response.body)
}

/// Status and code of each.
pub(crate) fn told(results: &[Value]) -> Vec<(u64, &str)> {
    let told = |(index, result): (usize, &Value)| {
        assert_eq!(result["index"], index);
        result["status"].as_u64().unwrap()
    };
    let statuses = results.iter().enumerate().map(told);
    statuses.zip(results).map(|(status, result)| (status, result["code"].as_str().unwrap_or(""))).collect()
}

/// One file as an archive has it, without the end.
pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name, b'0', content)
}

pub(crate) fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = content.len().next_multiple_of(512) - content.len();
    [&header, content, &vec![0; padding]].concat()
}

pub(crate) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), END.to_vec()].concat()
}

/// The files of an archive of ours: names that fit, as here.
fn unpacked(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut rest, mut files) = (archive, Vec::new());
    while rest[0] != 0 {
        let name = rest[..100].split(|byte| *byte == 0).next().unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[124..135]).unwrap(), 8).unwrap();
        files.push((String::from_utf8(name.to_vec()).unwrap(), rest[512..512 + size].to_vec()));
        rest = &rest[512 + size.next_multiple_of(512)..];
    }
    assert_eq!(rest, END);
    files
}

fn items(items: Value) -> Vec<u8> {
    json!({ "items": items }).to_string().into_bytes()
}

fn tar(arguments: &[&str], directory: &Path, input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(arguments).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("there is a tar");
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "tar {arguments:?}");
    output.stdout
}

#[test]
fn what_gnu_tar_packs_is_stored_and_what_is_fetched_it_unpacks() {
    let names = ["a", "deep/er/b", "ä ö", "dot.", &format!("{}/n", "long".repeat(60)), &"n".repeat(120)];
    let sizes = [0, 1, 511, 512, 4096, 200_000];
    let server = Server::start();
    for format in ["--format=gnu", "--format=posix", "--format=ustar"] {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files: Vec<_> = names
            .iter()
            .zip(sizes)
            // This one has no room for the longest name.
            .filter(|(name, _)| format != "--format=ustar" || name.len() <= 100)
            .enumerate()
            .map(|(index, (name, size))| (*name, content(index as u64 + format.len() as u64, size)))
            .collect();
        for (name, content) in &files {
            let path = source.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        std::os::unix::fs::symlink("a", source.path().join("link")).unwrap();
        let packed = tar(&["-c", format, "-f", "-", "."], source.path(), b"");
        let stored = results(&server.request("POST", PUT, &[], &packed));
        assert_eq!(stored.len(), files.len() + 1, "directories have no results: {stored:#?}");
        for result in &stored {
            let name = result["name"].as_str().unwrap().strip_prefix("./").unwrap();
            match files.iter().find(|(other, _)| *other == name) {
                Some((_, content)) => {
                    assert!(matches!(result["status"].as_u64(), Some(200 | 201)), "{result}");
                    assert_eq!(result["content_hash"], sha256_hex(content));
                    assert_eq!(result["size_bytes"], content.len());
                    let path = format!("/v1/objects/{}", result["id"].as_str().unwrap());
                    assert!(server.get(&path).body == *content, "{name}");
                }
                None => assert_eq!(
                    (&result["status"], &result["code"]),
                    (&json!(400), &json!("unsupported_entry"))
                ),
            }
        }
        let wanted: Vec<_> = files.iter().map(|(name, _)| json!({ "key": name })).collect();
        let fetched = server.request("POST", GET, &[], &items(json!(wanted)));
        assert_eq!((fetched.status, fetched.header("Content-Type")), (200, Some("application/x-tar")));
        tar(&["-x", "-f", "-"], target.path(), &fetched.body);
        for (name, content) in &files {
            assert!(std::fs::read(target.path().join(name)).unwrap() == *content, "{name}");
        }
        let told_of = lines(&std::fs::read(target.path().join(RESULTS)).unwrap());
        assert_eq!(told(&told_of), vec![(200, ""); files.len()]);
    }
}

#[test]
fn results_stand_in_the_order_asked_and_what_is_missing_is_no_file() {
    for flags in [&[][..], &FILES] {
        let server = Server::start_with(flags);
        let bodies = [content(1, 4096), content(2, 300_000), content(3, 0)];
        let stored: Vec<_> = ["a", "b/c", "d"]
            .iter()
            .zip(&bodies)
            .map(|(name, body)| server.request("PUT", &key(name), &[], body).json())
            .collect();
        let id = &stored[1]["id"];
        let absent = "0193a5c0-0000-7000-8000-000000000000";
        let body = items(json!([
            {"key": "b/c", "range": "bytes=-10"},
            {"key": "nothing"},
            {"id": id},
            {"id": absent},
            {"key": "a", "range": "4096-"},
            {"key": "d"},
            {"key": "d", "range": "0-"},
            {"id": id, "name": "again/c", "range": "100-299999"},
            {"key": "a"},
        ]));
        let response = server.request("POST", GET, &[], &body);
        let files = unpacked(&response.body);
        let expected = [
            ("b/c", &bodies[1][299_990..]),
            (id.as_str().unwrap(), &bodies[1]),
            ("d", &[][..]),
            ("again/c", &bodies[1][100..]),
            ("a", &bodies[0]),
        ];
        assert_eq!(files.len(), expected.len() + 1);
        for ((name, content), (expected_name, expected)) in files.iter().zip(expected) {
            assert!(name == expected_name && content == expected, "{name}");
        }
        let (name, last) = files.last().unwrap();
        assert_eq!(name, RESULTS);
        let results = lines(last);
        let range = "range_not_satisfiable";
        assert_eq!(
            told(&results),
            [
                (206, ""),
                (404, "not_found"),
                (200, ""),
                (404, "not_found"),
                (416, range),
                (200, ""),
                (416, range),
                (206, ""),
                (200, "")
            ]
        );
        assert_eq!(results[0]["content_range"], "bytes 299990-299999/300000");
        assert_eq!(
            results[1],
            json!({"index": 1, "name": "nothing", "status": 404, "code": "not_found",
            "detail": results[1]["detail"]})
        );
        assert_eq!((&results[2]["id"], &results[2]["name"]), (id, id));
        assert_eq!(results[4]["size_bytes"], 4096);
        assert_eq!(results[8]["content_hash"], sha256_hex(&bodies[0]));
        // The same once more, from what is remembered now.
        assert!(server.request("POST", GET, &[], &body).body.starts_with(&response.body[..300_000]));
    }
}

#[test]
fn thousands_of_files_go_up_come_down_and_go_away() {
    let server = Server::start();
    let bodies: Vec<_> = (0..3000).map(|n| content(n, 100 + n as usize % 900)).collect();
    let names: Vec<_> = (0..3000).map(|n| format!("many/{n}")).collect();
    let packed: Vec<_> = names.iter().zip(&bodies).map(|(name, body)| file(name, body)).collect();
    let target = format!("{PUT}&prefix=under/&storage_class=cold");
    let stored = results(&server.request("POST", &target, &[], &archive(&packed)));
    assert_eq!(told(&stored), vec![(201, ""); 3000]);
    assert_eq!((&stored[7]["name"], &stored[7]["key"]), (&json!("many/7"), &json!("under/many/7")));
    let objects = server.list(SCOPE);
    assert_eq!(objects.len(), 3000);
    assert!(objects.iter().all(|object| object["storage_class"] == "cold"));

    let wanted: Vec<_> =
        names.iter().map(|name| json!({"key": format!("under/{name}"), "name": name})).collect();
    for _ in 0..2 {
        let files = unpacked(&server.request("POST", GET, &[], &items(json!(wanted))).body);
        assert_eq!(files.len(), 3001);
        for ((file, name), body) in files.iter().zip(&names).zip(&bodies) {
            assert!(file.0 == *name && file.1 == *body, "{name}");
        }
    }
    let unwanted: Vec<_> = (0..3000)
        .map(|n| {
            if n % 2 == 0 {
                json!({"key": format!("under/many/{n}")})
            } else {
                json!({"id": stored[n]["id"]})
            }
        })
        .chain([json!({"key": "under/many/0"}), json!({"key": "absent"})])
        .collect();
    let deleted = results(&server.request("POST", DELETE, &[], &items(json!(unwanted))));
    let expected = [vec![(204, ""); 3000], vec![(404, "not_found"); 2]].concat();
    assert_eq!(told(&deleted), expected);
    assert_eq!((&deleted[0]["versions"], deleted[1].get("versions")), (&json!(1), None));
    assert_eq!(server.list(SCOPE).len(), 0);
}

#[test]
fn small_files_wait_for_the_memory_that_those_before_them_have() {
    // Blocks for 448 files that have come, and each keeps its own until it is in a file.
    let flags = [&FILES[..], &["--cores", "1", "--buffer-bytes-max", "8388608"]].concat();
    let server = Server::start_with(&flags);
    let packed: Vec<_> = (0..600).map(|n| file(&format!("many/{n}"), &content(n, 3000))).collect();
    let stored = results(&server.request("POST", PUT, &[], &archive(&packed)));
    assert_eq!(told(&stored), vec![(201, ""); 600]);
}

#[test]
fn of_two_files_of_one_name_the_later_is_the_newer() {
    let server = Server::start();
    let (large, larger) = (content(1, 100_000), content(2, 150_000));
    let parts = [
        file("k", b"first"),
        file("./k", b"second"),
        file("l", &large),
        file("l", &larger),
        file("k", b"third"),
    ];
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    assert_eq!(told(&stored), [(201, ""), (200, ""), (201, ""), (200, ""), (200, "")]);
    assert_eq!(server.get(&key("k")).body, b"third");
    assert!(server.get(&key("l")).body == larger);
    assert_eq!(server.list(SCOPE).len(), 5);
}

#[test]
fn an_archive_that_breaks_keeps_what_came_before() {
    let server = Server::start();
    let whole = archive(&[file("a", b"one"), file("b", &content(1, 100_000))]);
    let mut flipped = archive(&[file("a", b"one"), file("b", b"two")]);
    flipped[1024] = b'c';
    for (case, body, expected, detail) in [
        ("a wrong sum", flipped, vec![(200, ""), (400, "invalid_archive")], "at byte 1024 of the body"),
        (
            "no end",
            whole[..whole.len() - 1024].to_vec(),
            vec![(200, ""), (200, ""), (400, "invalid_archive")],
            "two blocks of zeros",
        ),
        (
            "cut in a file",
            whole[..90_000].to_vec(),
            vec![(200, ""), (400, "invalid_archive")],
            "at byte 90000",
        ),
        (
            "cut in a header",
            whole[..1100].to_vec(),
            vec![(200, ""), (400, "invalid_archive")],
            "at byte 1024",
        ),
        (
            "two archives",
            [whole.clone(), whole.clone()].concat(),
            vec![(200, ""), (200, ""), (400, "invalid_archive")],
            "behind the end",
        ),
    ] {
        server.request("POST", PUT, &[], &whole);
        let response = server.request("POST", PUT, &[], &body);
        let results = results(&response);
        assert_eq!(told(&results), expected, "{case}");
        let last = results.last().unwrap();
        assert!(last["detail"].as_str().unwrap().contains(detail), "{case}: {last}");
        assert!(last.get("name").is_none(), "{case}");
    }
    let problem = server.request(
        "POST",
        PUT,
        &[],
        b"no archive at all, but longer than a block would be".repeat(20).as_slice(),
    );
    problem.assert_problem(400, "invalid_archive", "nothing came before");
    server.request("POST", PUT, &[], b"").assert_problem(
        400,
        "invalid_archive",
        "an empty body is no archive",
    );
    // What `tar -cz` sends.
    let response = server.request("POST", PUT, &[], b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xd1");
    let problem = response.assert_problem(400, "invalid_archive", "a compressed archive");
    assert!(problem["detail"].as_str().unwrap().contains("is compressed"), "{problem}");
    assert_eq!(results(&server.request("POST", PUT, &[], &END)), Vec::<Value>::new());
}

#[test]
fn each_file_that_cannot_be_stored_says_why_and_the_others_are() {
    let server = Server::start();
    let parts = [
        file("/absolute", b"x"),
        file("a/../b", b"x"),
        file("slash/", b"x"),
        entry("link", b'2', b""),
        entry("hard", b'1', b""),
        entry("pipe", b'6', b""),
        entry("sparse", b'S', b"xyz"),
        entry("directory/", b'5', b""),
        file("large/../x", &content(1, 100_000)),
        file("good", b"good"),
    ];
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    let (invalid, unsupported) = ((400, "invalid_key"), (400, "unsupported_entry"));
    let mut expected = vec![invalid; 3];
    expected.extend([unsupported; 4]);
    expected.extend([invalid, (201, "")]);
    assert_eq!(told(&stored), expected);
    assert_eq!(server.list(SCOPE).len(), 1);
    assert_eq!(server.get(&key("good")).body, b"good");
}

#[test]
fn ten_thousand_files_are_a_batch_and_one_more_is_not() {
    let server = Server::start();
    let parts: Vec<_> = (0..10_001).map(|n| file(&format!("k{n}"), b"same")).collect();
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    let (last, taken) = stored.split_last().unwrap();
    assert_eq!(told(taken), vec![(201, ""); 10_000]);
    assert_eq!(
        (&last["status"], &last["code"], &last["index"]),
        (&json!(413), &json!("batch_too_large"), &json!(10_000))
    );
    assert_eq!(results(&server.request("POST", PUT, &[], &archive(&parts[1..]))).len(), 10_000);

    let names = |count: usize| items(json!(vec![json!({"key": "k0"}); count]));
    let files = unpacked(&server.request("POST", GET, &[], &names(10_000)).body);
    assert_eq!(files.len(), 10_001);
    for target in [GET, DELETE] {
        server.request("POST", target, &[], &names(10_001)).assert_problem(400, "invalid_batch", target);
        let padded = [&names(1)[..], &vec![b' '; 2 * 1024 * 1024]].concat();
        server.request("POST", target, &[], &padded).assert_problem(413, "body_too_large", target);
    }
}

#[test]
fn a_batch_that_has_just_been_answered_stands_after_a_crash() {
    let mut server = Server::start();
    let bodies: Vec<_> = (0..10_000).map(|n| content(n, 1 + n as usize % 50)).collect();
    let parts: Vec<_> = bodies.iter().enumerate().map(|(n, body)| file(&format!("k{n}"), body)).collect();
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    server.kill();
    assert_eq!(told(&stored), vec![(201, ""); 10_000]);
    let server = Server::start_on(&server.directory(), &[]);
    for number in [0, 4_095, 4_096, 9_999] {
        assert!(server.get(&key(&format!("k{number}"))).body == bodies[number], "{number}");
    }
    assert_eq!(server.get("/v1/tenants/acme").json()["objects"], 10_000);
}

#[test]
fn files_of_every_length_are_what_was_sent_wherever_a_read_ends() {
    // Around what is padded, what fits a small block, and what is hashed where it lies: each beside each.
    const LENGTHS: [usize; 12] =
        [0, 1, 511, 512, 513, 4_096, 16_384, 16_385, 65_535, 65_536, 65_537, 200_000];
    let mut server = Server::start();
    let (mut parts, mut expected, mut sent) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (first, second)) in
        LENGTHS.iter().flat_map(|first| LENGTHS.iter().map(move |second| (*first, *second))).enumerate()
    {
        for (name, length) in [(format!("{number}/a"), first), (format!("{number}/b"), second)] {
            let body = content(sent.len() as u64 + 1, length);
            parts.push(file(&name, &body));
            expected.push((201, ""));
            sent.push((name, body));
        }
        match number % 5 {
            0 => parts.push(entry(&format!("{number}/"), b'5', b"")),
            1 => {
                parts.push(file("../outside", b"never"));
                expected.push((400, "invalid_key"));
            }
            _ => {}
        }
    }
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    assert_eq!(told(&stored), expected);
    let hashes: Vec<_> = stored.iter().filter_map(|result| result["content_hash"].as_str()).collect();
    assert_eq!(hashes, sent.iter().map(|(_, body)| sha256_hex(body)).collect::<Vec<_>>());
    server.kill();
    // What is in the log is applied, and each checksum held against what stands there.
    let server = Server::start_on(&server.directory(), &[]);
    let wanted: Vec<_> = sent.iter().map(|(name, _)| json!({ "key": name })).collect();
    let files = unpacked(&server.request("POST", GET, &[], &items(json!(wanted))).body);
    assert_eq!(files.len(), sent.len() + 1);
    for (file, (name, body)) in files.iter().zip(&sent) {
        assert!(file.0 == *name && file.1 == *body, "{name}, {} bytes", body.len());
    }
}

#[test]
fn quotas_hold_for_each_file() {
    let server = Server::start();
    let limits = br#"{"bytes_max":10000,"objects_max":3}"#;
    assert_eq!(server.request("PUT", "/v1/tenants/acme", &[], limits).status, 200);
    let parts = [
        file("a", &content(1, 4000)),
        file("too-large", &content(2, 200_000)),
        file("b", &content(3, 4000)),
        file("too-much", &content(4, 4000)),
        file("c", &content(5, 10)),
        file("too-many", b""),
    ];
    let stored = results(&server.request("POST", PUT, &[], &archive(&parts)));
    let full = (507, "quota_exceeded");
    assert_eq!(told(&stored), [(201, ""), full, (201, ""), full, (201, ""), full]);
    let tenant = server.get("/v1/tenants/acme").json();
    assert_eq!((&tenant["bytes"], &tenant["objects"]), (&json!(8010), &json!(3)));
}

#[test]
fn heads_and_queries_that_mean_nothing_here_are_refused() {
    let server = Server::start();
    let (get, delete) = (items(json!([{"key": "k"}])), items(json!([{"key": "k"}])));
    let (get, delete) = (get.as_slice(), delete.as_slice());
    for (target, body) in [(GET, get), (PUT, &END[..]), (DELETE, delete)] {
        let path = target.split('?').next().unwrap();
        for (query, code) in [
            ("?namespace=models&tenant_id=acme&x=1", "unknown_parameter"),
            ("?namespace=models&namespace=models&tenant_id=acme", "repeated_parameter"),
            ("?namespace=models", "missing_parameter"),
            ("?tenant_id=acme", "missing_parameter"),
            ("?namespace=Models&tenant_id=acme", "invalid_parameter"),
            ("", "missing_parameter"),
        ] {
            server.request("POST", &format!("{path}{query}"), &[], body).assert_problem(400, code, query);
        }
        let conditions = ["If-Match", "If-None-Match", "If-Unmodified-Since"];
        let refused = conditions.into_iter().filter(|_| target != PUT);
        for name in refused.chain(["If-Modified-Since", "Repr-Digest", "Content-Digest"]) {
            let response = server.request("POST", target, &[(name, "*")], body);
            response.assert_problem(501, "not_implemented", name);
        }
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            let response = server.request(method, target, &[], b"");
            assert_eq!((response.status, response.header("Allow")), (405, Some("POST")), "{method} {target}");
        }
    }
    for prefix in ["/", "a//", "../", "%00"] {
        let response = server.request("POST", &format!("{PUT}&prefix={prefix}"), &[], &END);
        assert_eq!(response.assert_problem(400, "invalid_parameter", prefix)["parameter"], "prefix");
    }
    let fields = [("Content-Encoding", "gzip")];
    server.request("POST", PUT, &fields, &END).assert_problem(415, "unsupported_content_encoding", "gzip");
    let fields = [("Content-Range", "bytes 0-1023/2048")];
    server.request("POST", PUT, &fields, &END).assert_problem(400, "content_range_refused", "a tail");
    for target in [GET, DELETE] {
        for body in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"items":[{}]}"#,
            br#"{"items":[{"id":"x"}]}"#,
            br#"{"items":[{"key":""}]}"#,
        ] {
            let case = format!("{target}: {}", String::from_utf8_lossy(body));
            server.request("POST", target, &[], body).assert_problem(400, "invalid_batch", &case);
        }
    }
    let digest = json!([{"digest": format!("sha256:{}", sha256_hex(b"x"))}]);
    let problem = server.request("POST", DELETE, &[], &items(digest.clone()));
    problem.assert_problem(400, "invalid_batch", "nothing is deleted by its content");
    let without_scope = server.request("POST", "/v1/batch/get", &[], &items(digest));
    assert_eq!(without_scope.assert_problem(400, "missing_parameter", "whose?")["parameter"], "tenant_id");
    let empty = server.request("POST", GET, &[], &items(json!([])));
    assert_eq!(unpacked(&empty.body), [(RESULTS.to_owned(), Vec::new())]);
}

#[test]
fn contents_are_fetched_by_what_they_are_from_whoever_has_them() {
    let server = Server::start();
    for (path, content) in [("/v1/keys/models/acme/k", "mine"), ("/v1/keys/models/other/k", "theirs")] {
        assert_eq!(server.request("PUT", path, &[], content.as_bytes()).status, 201);
    }
    let digest = |content: &str| format!("sha256:{}", sha256_hex(content.as_bytes()));
    let wanted = items(json!([
        {"digest": digest("mine")},
        {"digest": digest("mine"), "range": "1-2", "name": "part"},
        {"digest": digest("theirs")},
        {"digest": digest("nobody's")},
    ]));
    let answer = server.request("POST", GET, &[], &wanted);
    assert_eq!(answer.status, 200);
    let mut files = unpacked(&answer.body);
    let (_, results) = files.pop().unwrap();
    let whole = (sha256_hex(b"mine"), b"mine".to_vec());
    assert_eq!(files, [whole, ("part".to_owned(), b"in".to_vec())]);
    let results: Vec<serde_json::Value> = results
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 206, 404, 404]);
    let told = |index: usize| (results[index]["code"].clone(), results[index]["detail"].clone());
    assert_eq!(told(2), told(3), "what others have is as good as nothing");
}

#[test]
fn an_archive_may_come_in_chunks_and_after_it_was_asked_for() {
    let server = Server::start();
    let packed = archive(&[file("a", &content(1, 5000)), file("b", &content(2, 100_000))]);
    let mut connection = server.connect();
    connection.send(format!(
        "POST {PUT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert_eq!(connection.interim(), 100);
    for piece in packed.chunks(777) {
        connection.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    connection.send("0\r\n\r\n");
    assert_eq!(told(&results(&connection.response())), [(201, ""), (201, "")]);
    // The connection goes on.
    assert!(connection.exchange("GET", &key("b"), &[], b"").body == content(2, 100_000));
    let fetched = connection.exchange("POST", GET, &[], &items(json!([{"key": "a"}, {"key": "b"}])));
    assert_eq!(unpacked(&fetched.body).len(), 3);
    assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
}

#[test]
fn what_came_before_the_connection_broke_is_kept() {
    let server = Server::start();
    let packed = archive(&[file("a", b"one"), file("b", &content(2, 100_000))]);
    let mut connection = server.connect();
    connection.send(format!("POST {PUT} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", packed.len()));
    connection.send(&packed[..50_000]);
    wait_until("the first file", || (server.get(&key("a")).status == 200).then_some(()));
    connection.reset();
    assert_eq!(server.get(&key("a")).body, b"one");
    assert_eq!(server.get(&key("b")).status, 404);
}

#[test]
fn a_core_takes_few_batches_at_once_and_others_go_on() {
    let server = Server::start_with(&["--cores", "1"]);
    let begun: Vec<Connection> = (0..4)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(format!(
                "POST {PUT} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1024\r\n\r\n"
            ));
            assert_eq!(connection.interim(), 100);
            connection
        })
        .collect();
    let body = items(json!([{"key": "k"}]));
    for target in [GET, DELETE] {
        let response = server.request("POST", target, &[], &body);
        response.assert_problem(503, "overloaded", target);
        assert!(response.header("Retry-After").is_some());
    }
    assert_eq!(server.request("PUT", &key("k"), &[], b"alone").status, 201);
    for mut connection in begun {
        connection.send(END);
        assert_eq!(results(&connection.response()), Vec::<Value>::new());
    }
    assert_eq!(server.request("POST", GET, &[], &body).status, 200);
}

#[test]
fn a_credential_reaches_in_a_batch_what_it_reaches_alone() {
    let server = strict_server(&[]);
    let field = |token: String| format!("Bearer {token}");
    let (acme, other) = (field(token_of("acme")), field(token_of("other")));
    let mut reach = claims("acme", "read write delete");
    reach["namespaces"] = json!(["data"]);
    let elsewhere = field(token(&reach));
    let exchange = |target: &str, field: &str, body: &[u8]| {
        server.request("POST", target, &[("Authorization", field)], body)
    };
    let stored = results(&exchange(PUT, &acme, &archive(&[file("k", b"secret")])));
    let by_id = items(json!([{"id": stored[0]["id"]}]));
    for foreign in [&other, &elsewhere] {
        let files = unpacked(&exchange("/v1/batch/get", foreign, &by_id).body);
        assert_eq!(files.len(), 1, "nothing but results");
        assert_eq!(told(&lines(&files[0].1)), [(404, "not_found")]);
        let deleted = results(&exchange("/v1/batch/delete", foreign, &by_id));
        assert_eq!(told(&deleted), [(404, "not_found")]);
        let by_key = items(json!([{"key": "k"}]));
        exchange(GET, foreign, &by_key).assert_problem(403, "forbidden", "keys of another");
    }
    let files = unpacked(&exchange("/v1/batch/get", &acme, &by_id).body);
    assert_eq!(files[0].1, b"secret");
    assert_eq!(told(&results(&exchange("/v1/batch/delete", &acme, &by_id))), [(204, "")]);
}

#[test]
fn every_object_of_a_batch_has_its_line_in_the_audit_log() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let path = directory.path().join("audit.log");
    let server = Server::start_on(&directory, &["--audit-log-file", path.to_str().unwrap()]);
    let fields = [("X-Request-Id", "of-the-batch")];
    let packed = archive(&[file("a", b"one"), file("../b", b"two"), file("c", &content(1, 100_000))]);
    let stored = results(&server.request("POST", PUT, &fields, &packed));
    server.request("POST", GET, &fields, &items(json!([{"key": "a"}])));
    let unwanted = items(json!([{"key": "a"}, {"key": "absent"}, {"id": stored[2]["id"]}]));
    results(&server.request("POST", DELETE, &fields, &unwanted));
    let lines = wait_until("lines of the audit log", || {
        let lines = lines(&std::fs::read(&path).ok()?);
        (lines.len() >= 6).then_some(lines)
    });
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["event"].as_str().unwrap(), line["key"].as_str(), line["status"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("object_created", Some("a"), 201),
        ("object_created", Some("c"), 201),
        ("changed", None, 200),
        ("object_deleted", Some("a"), 204),
        ("object_deleted", Some("c"), 204),
        ("changed", None, 200),
    ];
    assert_eq!(told, expected, "{lines:#?}");
    assert!(lines.iter().all(|line| line["request_id"] == "of-the-batch"));
    assert_eq!(
        (&lines[1]["content_hash"], &lines[1]["bytes_in"]),
        (&stored[2]["content_hash"], &json!(100_000))
    );
}

#[test]
fn a_damaged_file_cuts_the_archive_off_or_is_told_where_it_is_known() {
    let server = Server::start_with(&FILES);
    assert_eq!(server.request("PUT", &key("good"), &[], &content(1, 500_000)).status, 201);
    assert_eq!(server.request("PUT", &key("bad"), &[], &content(2, 500_000)).status, 201);
    let bad = sha256_hex(&content(2, 500_000));
    let file = server.files("blobs").into_iter().find(|path| path.to_string_lossy().contains(&bad)).unwrap();
    std::fs::remove_file(file).unwrap();
    let mut connection = server.connect();
    let body = items(json!([{"key": "good"}, {"key": "bad"}]));
    assert!(connection.try_exchange("POST", GET, &[], &body).is_err(), "less comes than was promised");
    let mut connection: Connection = server.connect();
    let body = items(json!([{"key": "good"}]));
    assert_eq!(unpacked(&connection.exchange("POST", GET, &[], &body).body).len(), 2);
}
