//! The program as a client, against the real server and against one that says what no real one does.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::content::{content, etag, sha256_hex};
use crate::scripted::{Scripted, Step, answer};
use crate::server::{Server, files_below, program};
use crate::tokens::{claims, strict_server, token, token_of};

/// The exit codes of `docs/CLIENT.md`.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const REFUSED: i32 = 4;
const MISMATCH: i32 = 5;
const UNREACHABLE: i32 = 6;
const DECLINED: i32 = 7;

/// More than is sent in one piece.
const LARGE: usize = 3 * 1024 * 1024 + 5;
/// The smallest file that the server is asked about in any case.
const REFERENCED: usize = 64 * 1024;

/// One run of the program.
struct Ran {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("what is said is UTF-8");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: output.status.code().expect("it ends by itself"), stdout: output.stdout, stderr }
    }

    fn ends(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout);
        assert_eq!(self.code, code, "stderr: {}\nstdout: {stdout}", self.stderr);
        self
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("a list is UTF-8")
    }

    /// Standard output as lines of JSON.
    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = program();
    command.env("JUST_STORAGE_URL", url).args(arguments).stdin(Stdio::null());
    command
}

fn run_at(url: &str, arguments: &[&str]) -> Ran {
    Ran::of(command(url, arguments).output().expect("the program starts"))
}

fn run(server: &Server, arguments: &[&str]) -> Ran {
    run_at(&server.url(""), arguments)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of these tests is UTF-8")
}

/// A directory with these files below it.
fn tree(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

/// Every file below a directory with its bytes.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = files_below(directory)
        .into_iter()
        .map(|path| (path.strip_prefix(directory).unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// As the interface shows an object.
fn object(key: &str, bytes: &[u8]) -> Value {
    json!({
        "id": "0193a000-0000-7000-8000-000000000001", "namespace": "models", "tenant_id": "acme", "key": key,
        "status": "COMMITTED", "storage_class": "hot", "content_hash": sha256_hex(bytes),
        "size_bytes": bytes.len(), "content_type": "application/octet-stream", "metadata": {},
        "created_at": "2026-11-23T21:10:00.000Z", "updated_at": "2026-11-23T21:10:00.000Z",
    })
}

fn page(objects: &[Value]) -> Step {
    let page = json!({"objects": objects, "common_prefixes": [], "next_cursor": null});
    answer("200 OK", &[], page.to_string().as_bytes())
}

#[test]
fn a_directory_with_names_of_every_kind_comes_back_equal() {
    let (server, large, deep) = (Server::start(), content(1, LARGE), format!("{}x", "d/".repeat(60)));
    let names = [
        "a b/c d",
        "ä/ö/ü-日本語",
        "%",
        "%2F",
        "100%25",
        "+",
        "#",
        "?",
        "a?b=c&d",
        "a;b=c",
        "[x]",
        "'\"`$(x)",
        "\\",
        ".hidden",
        "...",
        "~",
        "-rf",
        "*",
        deep.as_str(),
        "e\u{301}",
        "\u{e9}",
        "a:b",
        "id:x",
        "<&>",
        "|^{}",
    ];
    let mut files: Vec<(&str, Vec<u8>)> =
        names.iter().enumerate().map(|(index, name)| (*name, content(index as u64, index * 37))).collect();
    files.push(("empty", Vec::new()));
    files.push(("large/weights.bin", large));
    files.push(("exactly 1 MiB", content(2, 1024 * 1024)));
    files.push(("1 MiB and a byte", content(3, 1024 * 1024 + 1)));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let (here, back) = (tree(&files), tempfile::tempdir().unwrap());

    let sent = run(&server, &["put", text(here.path()), "models/acme/set/", "--json"]).ends(0);
    assert_eq!(sent.lines().len(), files.len());
    assert!(sent.lines().iter().all(|line| line["outcome"] == "sent"));
    assert_eq!(server.list("namespace=models&tenant_id=acme").len(), files.len());

    let destination = back.path().join("new/set");
    let fetched = run(&server, &["get", "models/acme/set/", text(&destination), "-j", "3"]).ends(0);
    assert!(
        fetched.stdout.is_empty() && fetched.stderr.starts_with("fetched 29 files, "),
        "{}",
        fetched.stderr
    );
    assert_eq!(contents(&destination), contents(here.path()));
    run(&server, &["verify", text(here.path()), "models/acme/set"]).ends(0);

    // A second time there is nothing to do, in either direction.
    let again = run(&server, &["get", "models/acme/set/", text(&destination), "--json"]).ends(0);
    assert!(again.lines().iter().all(|line| line["outcome"] == "kept"));
    let again = run(&server, &["put", "--update", text(here.path()), "models/acme/set", "--json"]).ends(0);
    assert!(again.lines().iter().all(|line| line["outcome"] == "kept"));

    for (name, bytes) in &files {
        let address = format!("models/acme/set/{name}");
        assert_eq!(run(&server, &["cat", "--", &address]).ends(0).stdout, *bytes, "{name}");
    }
    run(&server, &["rm", "-r", "models/acme/set/"]).ends(0);
    assert!(server.list("namespace=models&tenant_id=acme").is_empty());
}

#[test]
fn many_small_files_go_up_and_come_back_equal() {
    let (server, here, back) = (Server::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in 0..12 {
        fs::create_dir(here.path().join(directory.to_string())).unwrap();
        for file in 0..100 {
            let bytes = content(directory * 1000 + file, 64 + file as usize);
            fs::write(here.path().join(format!("{directory}/{file}")), bytes).unwrap();
        }
    }
    let sent = run(&server, &["put", text(here.path()), "models/acme/many/", "-j", "16"]).ends(0);
    assert!(sent.stderr.starts_with("sent 1,200 files, "), "{}", sent.stderr);
    // More than a page of a listing.
    run(&server, &["get", "models/acme/many/", text(back.path()), "-j", "16"]).ends(0);
    assert_eq!(contents(back.path()), contents(here.path()));
}

#[test]
fn what_the_server_has_is_not_sent_again() {
    let (server, here) = (Server::start(), tempfile::tempdir().unwrap());
    for file in 0..1100_u64 {
        let length = match file {
            7 => LARGE,
            _ if file % 100 == 50 => REFERENCED,
            8 => REFERENCED - 1,
            _ => 64 + file as usize,
        };
        fs::write(here.path().join(file.to_string()), content(file, length)).unwrap();
    }
    let source = text(here.path());
    run(&server, &["put", source, "models/acme/a/"]).ends(0);
    fs::write(here.path().join("new"), content(2000, REFERENCED)).unwrap();
    let words = ["--meta", "turn=second", "--content-type", "text/plain", "--json"];
    let sent = run(&server, &[&["put", source, "models/acme/b/"][..], &words].concat()).ends(0);
    assert_eq!(sent.lines().len(), 1101);
    for line in sent.lines() {
        assert_eq!((&line["outcome"], line["id"].is_string()), (&json!("sent"), true), "{line}");
    }
    let puts = |below: &str| {
        let lines = server.log_lines();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = |line: &Value| {
            line["method"] == "PUT" && line["path"].as_str().is_some_and(|path| path.contains(below))
        };
        let bytes: Vec<_> = lines.filter(ours).map(|line| line["bytes_in"].as_u64().unwrap()).collect();
        (bytes.len(), bytes.iter().sum::<u64>())
    };
    crate::server::wait_until("the log has it", || (puts("/b/").0 > 0).then_some(()));
    assert_eq!(puts("/b/"), (1, REFERENCED as u64), "all but the one new file were only named");
    run(&server, &["verify", source, "models/acme/b/"]).ends(0);
    let stat = &run(&server, &["stat", "models/acme/b/9", "--json"]).ends(0).lines()[0];
    assert_eq!(stat["metadata"], json!({"turn": "second"}));
    assert_eq!(stat["content_type"], "text/plain");
    // Where it has few of the small ones, these are sent.
    let other = tempfile::tempdir().unwrap();
    for file in 0..200_u64 {
        let seed = if file < 40 { file } else { 5000 + file };
        fs::write(other.path().join(format!("{file:03}")), content(seed, 64 + file as usize)).unwrap();
    }
    run(&server, &["put", text(other.path()), "models/acme/d/"]).ends(0);
    run(&server, &["verify", text(other.path()), "models/acme/d/"]).ends(0);
    crate::server::wait_until("the log has them", || (puts("/d/").0 >= 186).then_some(()));
    assert!(puts("/d/").0 < 200, "some were asked about, ahead of the others");
    // Of one file nothing is asked.
    run(&server, &["put", text(&here.path().join("new")), "models/acme/c/"]).ends(0);
    crate::server::wait_until("the log has it", || (puts("/c/").0 == 1).then_some(()));
    assert_eq!(puts("/c/").1, REFERENCED as u64);
}

#[test]
fn a_server_that_knows_no_references_is_sent_the_bytes() {
    let server = Server::start();
    let here = tree(&[("1", &content(1, REFERENCED)), ("2", &content(2, 10))]);
    let source = text(here.path());
    let put = ["put", source, "models/acme/a/", "-j", "1"];
    let forward = || Step::Forward(server.address());
    let lines = |lines: &[Value]| {
        let body = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        answer("200 OK", &[("Content-Type", "application/x-ndjson")], body.as_bytes())
    };
    let done = |index: usize, content_hash: &str| {
        let id = "0193a5c0-0000-7000-8000-000000000000";
        json!({"index": index, "status": 201, "id": id, "content_hash": content_hash, "size_bytes": 1})
    };
    let missing = |index: usize| json!({"index": index, "status": 404, "code": "not_found"});
    let refusal = |status: &str| answer(status, &[], b"{}");
    for (steps, requests) in [
        (vec![refusal("404 Not Found"), forward(), forward()], 3),
        (vec![refusal("405 Method Not Allowed"), forward(), forward()], 3),
        (vec![refusal("400 Bad Request"), forward(), forward()], 3),
        (vec![answer("200 OK", &[], b"no JSON"), forward(), forward()], 3),
        (vec![answer("200 OK", &[], b""), forward(), forward()], 3),
        // What may pass is waited for.
        (vec![refusal("503 Service Unavailable"), lines(&[missing(0), missing(1)]), forward(), forward()], 4),
        // It says that it has made something else of it.
        (vec![lines(&[done(0, &"0".repeat(64)), missing(1), done(2, "")]), forward(), forward()], 3),
    ] {
        let proxy = Scripted::start(steps);
        run_at(&proxy.url(), &put).ends(0);
        assert_eq!(proxy.requests().len(), requests, "{:#?}", proxy.requests());
        run(&server, &["verify", source, "models/acme/a/"]).ends(0);
        run(&server, &["rm", "--recursive", "models/acme/a/"]).ends(0);
    }
}

#[test]
fn one_file_goes_where_it_is_told() {
    let server = Server::start();
    let here = tree(&[("weights.bin", b"some weights")]);
    let (file, root) = (here.path().join("weights.bin"), text(here.path()));
    let flags = ["--content-type", "text/plain", "--meta", "Framework=torch", "--meta", "a=b c"];
    run(&server, &[&["put", text(&file), "models/acme/exact"], &flags[..]].concat()).ends(0);
    run(&server, &["put", text(&file), "models/acme/below/"]).ends(0);
    run(&server, &["put", text(&file), "models/acme"]).ends(0);

    let stat = run(&server, &["stat", "models/acme/exact", "--json"]).ends(0).lines().remove(0);
    assert_eq!(stat["metadata"], json!({"framework": "torch", "a": "b c"}));
    assert_eq!((&stat["content_type"], &stat["size_bytes"]), (&json!("text/plain"), &json!(12)));
    assert_eq!(stat["content_hash"], sha256_hex(b"some weights"));
    let id = format!("id:{}", stat["id"].as_str().unwrap());
    let by_id = run(&server, &["stat", &id]).ends(0);
    assert!(by_id.text().contains("metadata      framework=torch\n"), "{}", by_id.text());

    let listed = run(&server, &["ls", "models/acme"]).ends(0);
    let names: Vec<_> = listed.text().lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(names, ["exact", "weights.bin", "below/"], "{}", listed.text());
    let listed = run(&server, &["ls", "models/acme/", "--json"]).ends(0).lines();
    let keys: Vec<_> = listed.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["below/weights.bin", "exact", "weights.bin"]);
    assert_eq!(run(&server, &["ls", "-r", "models/acme/below/"]).ends(0).text().lines().count(), 1);
    run(&server, &["ls", "models/acme/nothing/"]).ends(NOT_FOUND);
    run(&server, &["ls", "models/other"]).ends(0);

    for (address, destination, expected) in [
        ("models/acme/exact", "as named", "as named"),
        ("models/acme/below/weights.bin", "directory/", "directory/weights.bin"),
        (id.as_str(), "directory", "directory/exact"),
    ] {
        let destination = format!("{root}/{destination}");
        run(&server, &["get", address, &destination]).ends(0);
        assert_eq!(fs::read(here.path().join(expected)).unwrap(), b"some weights", "{expected}");
    }
    // Without a destination it is the directory where one is.
    let mut here_below = command(&server.url(""), &["get", "models/acme/exact"]);
    fs::create_dir(here.path().join("cwd")).unwrap();
    Ran::of(here_below.current_dir(here.path().join("cwd")).output().unwrap()).ends(0);
    assert_eq!(fs::read(here.path().join("cwd/exact")).unwrap(), b"some weights");
    assert_eq!(files_below(here.path()).len(), 5, "no partial file stays");
}

#[test]
fn standard_input_becomes_an_object_and_an_object_standard_output() {
    let (server, bytes) = (Server::start(), content(4, LARGE));
    let mut child = command(&server.url(""), &["put", "-", "models/acme/stream", "--json"]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let sent = Ran::of(child.wait_with_output().unwrap()).ends(0);
    assert_eq!(sent.lines()[0]["content_hash"], sha256_hex(&bytes));
    assert_eq!(run(&server, &["cat", "models/acme/stream"]).ends(0).stdout, bytes);
    run(&server, &["put", "-", "models/acme/"]).ends(USAGE);
}

#[test]
fn nothing_is_sent_where_a_name_cannot_be_a_key() {
    let server = Server::start();
    let here = tree(&[("a", b"1"), ("z", b"2")]);
    fs::write(here.path().join(OsStr::from_bytes(b"not \xff text")), "3").unwrap();
    let ran = run(&server, &["put", text(here.path()), "models/acme/", "--json"]).ends(USAGE);
    assert!(ran.stderr.contains("UTF-8") && ran.stderr.contains("not \\xFF text"), "{}", ran.stderr);
    assert_eq!(ran.lines()[0]["kind"], "usage");
    assert!(server.list("namespace=models&tenant_id=acme").is_empty());

    // Two files that would be one object, several files to one key, and addresses that are none.
    let other = tree(&[("a", b"1"), ("b", b"2")]);
    let (one, two) = (other.path().join("a"), other.path().join("b"));
    let link = other.path().join("circle");
    symlink(".", link).unwrap();
    let same = tree(&[("a", b"3")]);
    let same = same.path().join("a");
    for arguments in [
        &["put", text(&one), text(&same), "models/acme/"][..],
        &["put", text(&one), text(&two), "models/acme/key"],
        &["put", text(other.path()), "models/acme/"],
        &["put", text(&one), "models"],
        &["put", text(&one), "id:0193a000-0000-7000-8000-000000000001"],
        &["put", text(&one), "models/acme/k", "--meta", "x"],
        &["put", text(&one), "models/acme/k", "-j", "0"],
        &["put", text(&one), "models/acme/k", "-j", "257"],
        &["put", text(&one), "models/acme/k", "--url", "ftp://h"],
        &["put", text(&one), "models/acme/k", "--url", "http://user:secret@h"],
        &["put", text(&one), "models/acme/k", "--token", "a", "--token-file", "b"],
        &["get", "models/acme/../k"],
        &["cat", "models/acme/"],
        &["stat", "models/acme/"],
        &["rm", "models/acme/"],
    ] {
        let ran = run(&server, arguments).ends(USAGE);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    }
    assert!(server.list("namespace=models&tenant_id=acme").is_empty());
}

#[test]
fn every_kind_of_end_has_its_exit_code() {
    let server = Server::start_with(&["--body-bytes-max", "100"]);
    let here = tree(&[("small", b"1"), ("dir/a", b"1"), ("dir/b", b"2"), ("large", &[7; 101])]);
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    for arguments in [
        &["get", "models/acme/no", &path("no")][..],
        &["get", "models/acme/no/", &path("no")],
        &["get", "id:0193a000-0000-7000-8000-000000000001", &path("no")],
        &["cat", "models/acme/no"],
        &["stat", "models/acme/no"],
        &["ls", "models/acme/no"],
        &["rm", "models/acme/no"],
        &["rm", "-r", "models/acme/no/"],
        &["verify", &path("small"), "models/acme/no"],
    ] {
        run(&server, arguments).ends(NOT_FOUND);
        assert!(!here.path().join("no").exists());
    }
    let declined = run(&server, &["put", &path("large"), "models/acme/", "--json"]).ends(DECLINED);
    assert_eq!(
        (&declined.lines()[0]["outcome"], &declined.lines()[0]["kind"]),
        (&json!("failed"), &json!("declined"))
    );
    run(&server, &["put", &path("large"), &path("small"), "models/acme/"]).ends(FAILED);
    run(&server, &["rm", "models/acme/small", "models/acme/no"]).ends(FAILED);
    run(&server, &["put", &path("nowhere"), "models/acme/"]).ends(FAILED);
    run(&server, &["get", "models/acme/small", &path("no/such/directory")]).ends(NOT_FOUND);

    run(&server, &["put", &path("dir"), "models/acme/dir/"]).ends(0);
    run(&server, &["get", "models/acme/dir/a", &path("no/such/directory")]).ends(FAILED);
    run(&server, &["verify", &path("dir"), "models/acme/dir/"]).ends(0);
    fs::write(here.path().join("dir/a"), "3").unwrap();
    fs::rename(here.path().join("dir/b"), here.path().join("dir/c")).unwrap();
    let ran = run(&server, &["verify", &path("dir"), "models/acme/dir/", "--json"]).ends(MISMATCH);
    let mut outcomes: Vec<_> =
        ran.lines().iter().map(|line| line["outcome"].as_str().unwrap().to_owned()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["differs", "extra", "missing"]);
    let ran = run(&server, &["verify", &path("dir"), "models/acme/dir/", "-j", "1"]).ends(MISMATCH);
    assert_eq!(ran.text(), "differs models/acme/dir/a\nmissing models/acme/dir/c\nextra models/acme/dir/b\n");
    fs::write(here.path().join("dir/a"), "1").unwrap();
    fs::rename(here.path().join("dir/c"), here.path().join("dir/b")).unwrap();
    fs::write(here.path().join("dir/b"), "2").unwrap();
    run(&server, &["put", &path("small"), "models/acme/dir/z"]).ends(0);
    run(&server, &["verify", &path("dir"), "models/acme/dir/"]).ends(MISMATCH);
    run(&server, &["verify", &path("dir"), "models/acme/dir/", "--one-way"]).ends(0);

    // Nobody listens at port 1.
    let ran = run_at("http://127.0.0.1:1", &["put", &path("dir"), "models/acme/", "--tries", "2", "--json"]);
    let ran = ran.ends(UNREACHABLE);
    assert_eq!(ran.stderr.matches("cannot reach http://127.0.0.1:1").count(), 1, "{}", ran.stderr);
    assert!(ran.lines().iter().all(|line| line["kind"] == "unreachable"));
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let server = strict_server(&[]);
    let here = tree(&[("f", b"1")]);
    let file = here.path().join("f");
    let (good, reader) = (token_of("acme"), token(&claims("acme", "read")));
    let put = ["put", text(&file), "models/acme/"];
    let with = |value: &str| {
        let mut command = command(&server.url(""), &put);
        Ran::of(command.env("JUST_STORAGE_TOKEN", value).output().unwrap())
    };
    run(&server, &put).ends(REFUSED);
    let refused = with(&reader).ends(REFUSED);
    assert!(refused.stderr.contains("403"), "{}", refused.stderr);
    let bad = with("jsk_no_such_key").ends(REFUSED);
    assert!(!bad.stderr.contains("no_such_key"), "{}", bad.stderr);
    with("two\nlines").ends(USAGE);
    with(&good).ends(0);

    fs::write(here.path().join("token"), format!("{good}\n")).unwrap();
    let token_file = here.path().join("token");
    run(&server, &["cat", "models/acme/f", "--token-file", text(&token_file)]).ends(0);
    run(&server, &["cat", "models/acme/f", "--token", &good]).ends(0);
    let mut help = command(&server.url(""), &["put", "--help"]);
    let help = Ran::of(help.env("JUST_STORAGE_TOKEN", "a-secret").output().unwrap()).ends(0);
    assert!(help.text().contains("JUST_STORAGE_TOKEN") && !help.text().contains("a-secret"));
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (server, here, bytes) = (Server::start(), tempfile::tempdir().unwrap(), content(5, LARGE));
    let file = here.path().join("f");
    let put = server.request("PUT", "/v1/keys/models/acme/f", &[], &bytes);
    assert_eq!(put.status, 201);
    let real = server.address();
    let get = ["get", "models/acme/f", text(&file)];

    // Within one run: twice cut off, each time somewhat further.
    let steps =
        [Step::Forward(real), Step::Cut(real, 1 << 20), Step::Cut(real, 1 << 20), Step::Forward(real)];
    let proxy = Scripted::start(steps.into());
    run_at(&proxy.url(), &get).ends(0);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let requests = proxy.requests();
    assert!(!requests[1].contains("range: "), "{}", requests[1]);
    for request in &requests[2..] {
        assert!(request.contains("range: bytes="), "{request}");
        assert!(request.contains(&format!("if-range: {}", etag(&bytes))), "{request}");
    }
    // To standard output as well, where nothing can be taken back.
    let proxy = Scripted::start(vec![Step::Cut(real, 1 << 20), Step::Forward(real)]);
    assert_eq!(run_at(&proxy.url(), &["cat", "models/acme/f"]).ends(0).stdout, bytes);

    // In a later run: what the first has brought stays, and is not asked for again.
    fs::remove_file(&file).unwrap();
    let proxy = Scripted::start(vec![Step::Forward(real), Step::Cut(real, 1 << 20)]);
    run_at(&proxy.url(), &[&get[..], &["--tries", "1"]].concat()).ends(UNREACHABLE);
    let left = files_below(here.path());
    assert!(!file.exists() && left.len() == 1, "{left:?}");
    let brought = fs::metadata(&left[0]).unwrap().len();
    assert!(brought > 1 << 19, "{brought}");
    let proxy = Scripted::start(vec![Step::Forward(real), Step::Forward(real)]);
    run_at(&proxy.url(), &get).ends(0);
    assert!(proxy.requests()[1].contains(&format!("range: bytes={brought}-")), "{}", proxy.requests()[1]);
    assert_eq!((fs::read(&file).unwrap(), files_below(here.path()).len()), (bytes, 1));
}

#[test]
fn a_new_version_is_fetched_whole_where_it_comes_in_between() {
    let (server, here) = (Server::start(), tempfile::tempdir().unwrap());
    let (old, new, file) = (content(6, LARGE), content(7, LARGE + 9), here.path().join("f"));
    let put = |bytes: &[u8]| server.request("PUT", "/v1/keys/models/acme/f", &[], bytes);
    put(&old);
    let real = server.address();
    let proxy = Scripted::start(vec![Step::Forward(real), Step::Cut(real, 1 << 20)]);
    let get = ["get", "models/acme/f", text(&file), "--tries", "1"];
    run_at(&proxy.url(), &get).ends(UNREACHABLE);
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: {}\r\nContent-Length: {LARGE}\r\n\r\n",
        etag(&old)
    );
    put(&new);
    // The old version is what was seen; the new one is what is there when it is asked for.
    let proxy = Scripted::start(vec![Step::Answer(head.into_bytes()), Step::Forward(real)]);
    run_at(&proxy.url(), &get).ends(0);
    assert!(proxy.requests()[1].contains("if-range: "), "{}", proxy.requests()[1]);
    assert_eq!((fs::read(&file).unwrap(), files_below(here.path()).len()), (new, 1));
}

#[test]
fn bytes_that_are_not_what_the_server_named_are_thrown_away() {
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("f");
    let (tag, length) = (etag(b"right"), ("Content-Length", "5"));
    let wrong = || answer("200 OK", &[("ETag", &tag), length], b"wrong");
    let head = || {
        Step::Answer(
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nETag: {tag}\r\nContent-Length: 5\r\n\r\n")
                .into_bytes(),
        )
    };
    let ran = run_at(&Scripted::start(vec![head(), wrong()]).url(), &["get", "models/acme/f", text(&file)]);
    let ran = ran.ends(MISMATCH);
    assert!(ran.stderr.contains(&sha256_hex(b"wrong")) && ran.stderr.contains(&sha256_hex(b"right")));
    assert_eq!(files_below(here.path()), Vec::<PathBuf>::new());
    run_at(&Scripted::start(vec![wrong()]).url(), &["cat", "models/acme/f"]).ends(MISMATCH);

    // A directory with one wrong file and one right one is wrong.
    let objects = page(&[object("d/a", b"right"), object("d/b", b"right")]);
    let right = answer("200 OK", &[("ETag", &tag), length], b"right");
    let server = Scripted::start(vec![objects, wrong(), right]);
    run_at(&server.url(), &["get", "models/acme/d/", text(here.path()), "-j", "1"]).ends(MISMATCH);
    assert_eq!(contents(here.path()), [(PathBuf::from("b"), b"right".to_vec())]);

    // A server that stored other bytes than were sent has them taken away again.
    fs::write(&file, "sent").unwrap();
    let stored = answer("201 Created", &[], object("f", b"stored").to_string().as_bytes());
    let server = Scripted::start(vec![stored, answer("204 No Content", &[], b"")]);
    run_at(&server.url(), &["put", text(&file), "models/acme/f"]).ends(MISMATCH);
    let requests = server.requests();
    assert!(
        requests[1].starts_with("DELETE /v1/objects/0193a000-0000-7000-8000-000000000001 "),
        "{requests:?}"
    );
    let refused = br#"{"code":"digest_mismatch","detail":"no"}"#;
    let server = Scripted::start(vec![answer("400 Bad Request", &[], refused)]);
    run_at(&server.url(), &["put", text(&file), "models/acme/f"]).ends(MISMATCH);
}

#[test]
fn what_may_pass_is_tried_again_and_only_so_often() {
    let (server, here) = (Server::start(), tree(&[("f", b"1")]));
    let file = here.path().join("f");
    let put = ["put", text(&file), "models/acme/f"];
    let busy = || answer("503 Service Unavailable", &[("Retry-After", "0")], b"{}");
    let many = || answer("429 Too Many Requests", &[("Retry-After", "0")], b"");
    let proxy =
        Scripted::start(vec![busy(), many(), Step::Answer(Vec::new()), Step::Forward(server.address())]);
    run_at(&proxy.url(), &put).ends(0);
    assert_eq!(proxy.requests().len(), 4);
    let proxy = Scripted::start(vec![busy(), busy(), busy()]);
    run_at(&proxy.url(), &[&put[..], &["--tries", "3"]].concat()).ends(DECLINED);
    assert_eq!(proxy.requests().len(), 3);
    // Other errors stay, so that nothing is gained by asking again.
    let proxy = Scripted::start(vec![answer("507 Insufficient Storage", &[], b""), busy()]);
    run_at(&proxy.url(), &put).ends(DECLINED);
    assert_eq!(proxy.requests().len(), 1);
    // A redirection is not followed: the token is for one server.
    let elsewhere = answer("307 Temporary Redirect", &[("Location", &server.url("/"))], b"");
    let proxy = Scripted::start(vec![elsewhere]);
    run_at(&proxy.url(), &[&put[..], &["--token", "secret"]].concat()).ends(DECLINED);
    assert!(proxy.requests()[0].contains("authorization: Bearer secret\r\n"));
    // A removal whose answer was lost has been done.
    let gone = answer("404 Not Found", &[], b"{}");
    run_at(&Scripted::start(vec![Step::Answer(Vec::new()), gone]).url(), &["rm", "models/acme/f"]).ends(0);
}

#[test]
fn a_server_leads_nowhere_outside_of_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    for key in ["../f", "/f", "d/../../f", "d//f", "d/./f", "d/a\nb", "."] {
        let here = outside.path().join("here");
        let server = Scripted::start(vec![page(&[object(key, b"x")])]);
        run_at(&server.url(), &["get", "models/acme/", text(&here)]).ends(DECLINED);
        assert_eq!(files_below(outside.path()), Vec::<PathBuf>::new(), "{key}");
    }
    // Nor does a link that was there before.
    let here = tree(&[]);
    symlink(outside.path(), here.path().join("link")).unwrap();
    let server = Scripted::start(vec![page(&[object("link/f", b"x")])]);
    run_at(&server.url(), &["get", "models/acme/", text(here.path())]).ends(FAILED);
    assert_eq!(files_below(outside.path()), Vec::<PathBuf>::new());
    // What is no server of this kind is no reason to panic.
    for nonsense in [&b"x"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"] {
        let steps = (0..5).map(|_| Step::Answer(nonsense.to_vec())).collect();
        let ran = run_at(&Scripted::start(steps).url(), &["ls", "models/acme"]);
        assert!([UNREACHABLE, DECLINED].contains(&ran.code), "{}", ran.stderr);
    }
}

#[test]
fn a_server_that_knows_prefixes_is_asked_for_one() {
    // Sorted by key; versions of a key in whatever order.
    let (mut older, newer) = (object("a/k", b"old"), object("a/k", b"new"));
    older["id"] = json!("0193a000-0000-7000-8000-000000000000");
    for versions in [[older.clone(), newer.clone()], [newer, older]] {
        let server = Scripted::start(vec![page(&versions)]);
        let listed = run_at(&server.url(), &["ls", "models/acme/a/", "--json"]).ends(0).lines();
        assert_eq!((listed.len(), &listed[0]["content_hash"]), (1, &json!(sha256_hex(b"new"))));
        assert!(server.requests()[0].contains("&prefix=a/"), "{:?}", server.requests());
    }
}

#[test]
fn a_level_is_asked_for_alone_and_found_out_where_a_server_cannot_tell() {
    let (names, told) = (["a/d/x", "a/d/y", "a/e", "b"], ["e", "d/"]);
    let listed = |url: &str| {
        let listed = run_at(url, &["ls", "models/acme/a/"]).ends(0);
        let last = |line: &str| line.rsplit("a/").next().unwrap().to_owned();
        (listed.text().lines().map(last).collect::<Vec<_>>(), listed.text().contains("2 below"))
    };
    let server = Server::start();
    for name in names {
        assert_eq!(server.request("PUT", &format!("/v1/keys/models/acme/{name}"), &[], b"x").status, 201);
    }
    assert_eq!(listed(&server.url("")), (told.map(str::to_owned).to_vec(), false));
    run(&server, &["ls", "models/acme/a/d/"]).ends(0);
    run(&server, &["ls", "models/acme/a/d/x/"]).ends(NOT_FOUND);
    let stat = run(&server, &["stat", "models/acme/a/d/x", "--json"]).ends(0).lines().remove(0);
    assert_eq!(stat["key"], "a/d/x");

    let refused = br#"{"code":"unknown_parameter","detail":"no","parameter":"prefix"}"#;
    let all = page(&names.map(|name| object(name, b"x")));
    let former = Scripted::start(vec![answer("400 Bad Request", &[], refused), all]);
    assert_eq!(listed(&former.url()), (told.map(str::to_owned).to_vec(), true));
    let requests = former.requests();
    assert!(
        requests[0].contains("&prefix=a/&delimiter=/ ") && !requests[1].contains("prefix"),
        "{requests:?}"
    );

    for strange in ["a/d", "a/../", "b/", "a//", "a/\n/"] {
        let page = json!({"objects": [], "common_prefixes": [strange], "next_cursor": null});
        let server = Scripted::start(vec![answer("200 OK", &[], page.to_string().as_bytes())]);
        run_at(&server.url(), &["ls", "models/acme/a/"]).ends(DECLINED);
    }
}

#[test]
fn what_is_left_of_a_broken_get_is_no_file() {
    let (server, here, bytes) = (Server::start(), tempfile::tempdir().unwrap(), content(8, LARGE));
    assert_eq!(server.request("PUT", "/v1/keys/models/acme/d/f", &[], &bytes).status, 201);
    let source = text(here.path());
    let listing = page(&[object("d/f", &bytes)]);
    let proxy = Scripted::start(vec![listing, Step::Cut(server.address(), 1 << 20)]);
    run_at(&proxy.url(), &["get", "models/acme/d/", source, "--tries", "1"]).ends(UNREACHABLE);
    assert_eq!(files_below(here.path()).len(), 1, "a beginning is there");
    let ran = run(&server, &["verify", source, "models/acme/d/"]).ends(MISMATCH);
    assert_eq!(ran.text(), "extra models/acme/d/f\n");
    run(&server, &["put", source, "models/acme/elsewhere/"]).ends(0);
    assert_eq!(server.list("namespace=models&tenant_id=acme").len(), 1);
}

#[test]
fn a_key_that_is_a_directory_here_too_fails_alone_and_leaves_nothing() {
    let (server, here) = (Server::start(), tempfile::tempdir().unwrap());
    for key in ["d/a", "d/a/b", "d/z"] {
        assert_eq!(server.request("PUT", &format!("/v1/keys/models/acme/{key}"), &[], b"x").status, 201);
    }
    fs::create_dir(here.path().join("a")).unwrap();
    for _ in 0..2 {
        let ran = run(&server, &["get", "models/acme/d/", text(here.path())]).ends(FAILED);
        assert!(ran.stderr.contains("cannot write") && ran.stderr.contains("/a: "), "{}", ran.stderr);
        let files = contents(here.path()).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(files, [PathBuf::from("a/b"), PathBuf::from("z")]);
    }
}

#[test]
fn a_file_is_verified_where_put_has_sent_it() {
    let (server, here) = (Server::start(), tree(&[("f", b"1"), ("g", b"2")]));
    let (file, other) = (here.path().join("f"), here.path().join("g"));
    for below in ["models/acme/d/", "models/acme"] {
        run(&server, &["verify", text(&file), below]).ends(NOT_FOUND);
        run(&server, &["put", text(&file), below]).ends(0);
        run(&server, &["verify", text(&file), below]).ends(0);
        run(&server, &["verify", text(&other), below]).ends(NOT_FOUND);
    }
    fs::write(&file, "3").unwrap();
    let ran = run(&server, &["verify", text(&file), "models/acme/d/"]).ends(MISMATCH);
    assert_eq!(ran.text(), "differs models/acme/d/f\n");
}

#[test]
fn whoever_leaves_out_the_last_slash_is_told_what_lies_below() {
    let (server, here) = (Server::start(), tree(&[("f", b"1")]));
    run(&server, &["put", text(here.path()), "models/acme/d"]).ends(0);
    for arguments in [&["ls", "models/acme/d"][..], &["stat", "models/acme/d"], &["get", "models/acme/d"]] {
        let ran = run(&server, arguments).ends(NOT_FOUND);
        assert!(ran.stderr.contains("what lies below it is models/acme/d/\n"), "{}", ran.stderr);
    }
    // What only begins in the same way does not.
    let ran = run(&server, &["ls", "models/acme/d/f"]).ends(0);
    assert_eq!(ran.text().lines().count(), 1);
    for address in ["models/acme/d/", "models/acme/d/f"].map(|address| format!("{address}x")) {
        let ran = run(&server, &["ls", &address]).ends(NOT_FOUND);
        assert!(ran.stderr.ends_with("there is no such object\n"), "{}", ran.stderr);
    }
}

#[test]
fn a_file_that_is_longer_than_it_says_is_not_sent() {
    let server = Server::start();
    let ran = run(&server, &["put", "/proc/self/limits", "models/acme/f"]).ends(FAILED);
    assert!(ran.stderr.contains("changed while it was read; the server keeps nothing"), "{}", ran.stderr);
    assert!(server.list("namespace=models&tenant_id=acme").is_empty());
}

#[test]
fn completions_and_manual_pages_are_made() {
    let here = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run_at("http://h", &["completions", shell]).ends(0);
        assert!(["put", "verify", "token-file"].iter().all(|word| script.text().contains(word)), "{shell}");
        if shell == "bash" {
            let path = here.path().join("completions");
            fs::write(&path, &script.stdout).unwrap();
            assert!(Command::new("bash").arg("-n").arg(path).status().unwrap().success());
        }
    }
    assert!(run_at("http://h", &["man"]).ends(0).text().contains(".TH just_storage 1"));
    let page = run_at("http://h", &["man", "put"]).ends(0);
    assert!(page.text().contains("JUST_STORAGE_URL"), "{}", page.text());
    run_at("http://h", &["man", "nothing"]).ends(USAGE);
    run_at("http://h", &["man", "--directory", text(here.path())]).ends(0);
    for name in ["just_storage.1", "just_storage-put.1", "just_storage-tenant-set.1"] {
        assert!(here.path().join(name).exists(), "{name}");
    }
    assert!(files_below(here.path()).iter().all(|path| !text(path).contains("-help")));
}
