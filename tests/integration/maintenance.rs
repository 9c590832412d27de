//! The tools, as an operator runs them: beside a server and without one, on a whole store and on one that is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use crate::content::{Random, content, sha256_hex};
use crate::server::{FILES, SCOPE, Server, files_below, program, wait_until};

/// How a tool's run came out.
pub(crate) struct Run {
    code: Option<i32>,
    output: String,
    pub(crate) errors: String,
}

impl Run {
    /// Gives what it said.
    pub(crate) fn assert_code(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.output, self.errors);
        self.output
    }

    /// Whether it found nothing wrong.
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a tool on the store in `directory`.
pub(crate) fn tool(directory: &Path, arguments: &[&str]) -> Run {
    tool_on(directory, None, arguments)
}

/// Runs a tool on the store in `directory` and in a database elsewhere.
pub(crate) fn tool_on(directory: &Path, database_url: Option<&str>, arguments: &[&str]) -> Run {
    let mut command = program();
    command.args(arguments).arg("--data-dir").arg(directory);
    command.envs(database_url.map(|url| ("DATABASE_URL", url)));
    let output = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("what it says is UTF-8");
    Run { code: output.status.code(), output: text(output.stdout), errors: text(output.stderr) }
}

/// Does something to the database that no program of ours would do.
pub(crate) fn sql(directory: &Path, statement: &str) {
    let options = SqliteConnectOptions::new().filename(directory.join("metadata.db"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection: SqliteConnection = options.connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

pub(crate) fn put(server: &Server, key: &str, body: &[u8]) -> Value {
    let response = server.request("PUT", &target(key), &[], body);
    assert!(matches!(response.status, 200 | 201), "{response:?}");
    response.json()
}

pub(crate) fn delete(server: &Server, key: &str) {
    assert_eq!(server.request("DELETE", &target(key), &[], b"").status, 204);
}

pub(crate) fn target(key: &str) -> String {
    format!("/v1/keys/models/acme/{key}")
}

/// The one file of a content.
pub(crate) fn file_of(server: &Server, body: &[u8]) -> PathBuf {
    let hash = sha256_hex(body);
    let files = server.files("blobs");
    let own: Vec<_> = files.into_iter().filter(|path| path.to_string_lossy().contains(&hash)).collect();
    assert_eq!(own.len(), 1, "{own:?}");
    own.into_iter().next().unwrap()
}

/// Every file below a directory, with the hash of its bytes.
fn everything(directory: &Path) -> BTreeMap<PathBuf, String> {
    // SQLite's shared memory belongs to whoever has the database open; nothing is kept there.
    let kept = |path: &PathBuf| !path.to_string_lossy().ends_with("-shm");
    let files = files_below(directory).into_iter().filter(kept);
    files.map(|path| (path.clone(), sha256_hex(&fs::read(path).unwrap()))).collect()
}

/// The findings of `validate --json` that found something.
fn findings(directory: &Path) -> BTreeMap<String, u64> {
    let run = tool(directory, &["validate", "--json"]);
    let report: Value = serde_json::from_str(&run.output).expect("it is JSON");
    let findings = report["findings"].as_array().unwrap().iter();
    let found: BTreeMap<_, _> = findings
        .map(|finding| (finding["name"].as_str().unwrap().to_owned(), finding["count"].as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(report["clean"], found.is_empty());
    assert_eq!(run.code, Some(if found.is_empty() { 0 } else { 1 }), "{}", run.errors);
    found
}

fn found<const N: usize>(findings: [(&str, u64); N]) -> BTreeMap<String, u64> {
    findings.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn a_whole_store_is_clean_beside_its_server_and_without_it() {
    let mut server = Server::start();
    let directory = server.directory();
    for (seed, length) in [0, 1, 16_384, 300_000].into_iter().enumerate() {
        put(&server, &format!("k{seed}"), &content(seed as u64, length));
    }
    for round in ["beside the server", "without it"] {
        assert_eq!(findings(directory.path()), found([]), "{round}");
        assert!(tool(directory.path(), &["validate"]).assert_code(0).ends_with("\nclean\n"));
        let scrubbed = tool(directory.path(), &["scrub"]).assert_code(0);
        assert!(scrubbed.contains("scrubbed 4 blobs"), "{scrubbed}");
        assert_eq!(tool(directory.path(), &["gc"]).assert_code(0), "nothing is over its grace\n");
        if round == "beside the server" {
            server.terminate();
            server.wait();
        }
    }
}

#[test]
fn gc_says_what_would_go_and_why_and_then_it_goes() {
    let server = Server::start_with(&FILES);
    let directory = server.directory();
    let (gone, kept) = (content(1, 5000), content(2, 5000));
    put(&server, "gone", &gone);
    put(&server, "kept", &kept);
    delete(&server, "gone");
    let file = file_of(&server, &gone);
    let name = file.file_name().unwrap().to_str().unwrap();

    let grace = tool(directory.path(), &["gc", "--dry-run"]).assert_code(0);
    assert!(grace.starts_with(&format!("would keep hot {name}")), "{grace}");
    let foretold = tool(directory.path(), &["gc", "--dry-run", "--gc-grace-secs", "0"]).assert_code(0);
    assert!(foretold.starts_with(&format!("would remove hot {name}")), "{foretold}");
    assert_eq!(foretold.lines().count(), 1, "{foretold}");
    assert!(file.exists(), "it was only said");

    let done = tool(directory.path(), &["gc", "--gc-grace-secs", "0"]).assert_code(0);
    assert!(done.starts_with("removed 1 blobs that nothing referred to, 4.88 KiB"), "{done}");
    assert!(!file.exists());
    assert_eq!(server.get(&target("kept")).body, kept);
    assert_eq!(findings(directory.path()), found([]));
}

#[test]
fn what_a_killed_server_left_is_found_and_swept_and_nothing_else() {
    let mut server = Server::start_with(&FILES);
    let directory = server.directory();
    let body = content(1, 3000);
    put(&server, "k", &body);
    let file = file_of(&server, &body);
    server.kill();
    // As an upload leaves it that was linked and never committed.
    let (blob, number) = file.to_str().unwrap().rsplit_once('-').unwrap();
    let left = PathBuf::from(format!("{blob}-{number}ff"));
    let (hash, _) = blob.rsplit_once('-').unwrap();
    let unknown = PathBuf::from(format!("{hash}-00000000000000aa-1"));
    let strange = file.with_file_name("README");
    let temporary = PathBuf::from(format!("{}/hot/tmp/", directory.path().display()));
    let (_, instance) = blob.rsplit_once('-').unwrap();
    let temporary = temporary.join(format!("{instance}-7"));
    for path in [&left, &unknown, &strange, &temporary] {
        fs::write(path, "left").unwrap();
    }
    let expected =
        found([("files_left_by_ended_runs", 1), ("files_of_unknown_runs", 1), ("strange_files", 1)]);
    assert_eq!(findings(directory.path()), expected);

    let before = everything(directory.path());
    let foretold = tool(directory.path(), &["gc", "--dry-run"]).assert_code(0);
    assert!(foretold.contains(left.file_name().unwrap().to_str().unwrap()), "{foretold}");
    assert!(foretold.contains(temporary.to_str().unwrap()), "{foretold}");
    assert_eq!(everything(directory.path()), before, "a dry run changes nothing");

    let done = tool(directory.path(), &["gc"]).assert_code(0);
    assert!(done.contains("removed 2 files"), "{done}");
    assert!(!left.exists() && !temporary.exists());
    assert!(unknown.exists() && strange.exists() && file.exists());
    tool(directory.path(), &["gc", "--unknown-runs"]).assert_code(0);
    assert!(!unknown.exists());
    assert!(strange.exists() && file.exists(), "what this program did not name is nobody's garbage");
    let server = Server::start_on(&directory, &[]);
    assert_eq!(server.get(&target("k")).body, body);
}

#[test]
fn an_unfinished_upload_of_a_killed_server_is_cleared_by_gc() {
    let mut server = Server::start();
    let directory = server.directory();
    let mut connection = server.connect();
    connection.send(b"PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n");
    connection.send(content(1, 3_000_000));
    let writing = format!("{SCOPE}&status=WRITING");
    wait_until("the reservation", || (!server.list(&writing).is_empty()).then_some(()));
    assert_eq!(findings(directory.path()), found([]), "its run goes on");
    server.kill();
    assert_eq!(findings(directory.path()), found([]), "it might be starting again");
    let foretold = tool(directory.path(), &["gc", "--dry-run"]).assert_code(0);
    assert!(!foretold.contains("cleared"), "{foretold}");
    let done = tool(directory.path(), &["gc"]).assert_code(0);
    assert!(done.starts_with("cleared 1 uploads"), "{done}");
    assert_eq!(findings(directory.path()), found([]));
}

#[test]
fn a_tool_that_is_given_another_data_directory_takes_nobody_for_dead() {
    let server = Server::start();
    let directory = server.directory();
    let mut connection = server.connect();
    connection.send(b"PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n");
    connection.send(content(1, 3_000_000));
    let writing = format!("{SCOPE}&status=WRITING");
    wait_until("the reservation", || (!server.list(&writing).is_empty()).then_some(()));
    // That of another store, which nobody serves.
    let other = a_store();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let url = format!("sqlite://{}", path("metadata.db"));
    let [hot, cold] = [path("hot"), path("cold")];
    let flags = ["--database-url", &url, "--hot-storage-root", &hot, "--cold-storage-root", &cold];
    let arguments: Vec<_> = ["gc", "--gc-grace-secs", "0"].into_iter().chain(flags).collect();
    tool(other.path(), &arguments).assert_code(0);
    assert_eq!(server.list(&writing).len(), 1, "its run goes on");
    connection.send(&content(1, 9_000_000)[3_000_000..]);
    assert_eq!(connection.response().status, 201);
    assert!(server.get(&target("k")).body == content(1, 9_000_000));
}

#[test]
fn gc_that_cannot_list_a_directory_removes_nothing() {
    let mut server = Server::start_with(&FILES);
    let directory = server.directory();
    let body = content(1, 3000);
    put(&server, "k", &body);
    let file = file_of(&server, &body);
    server.kill();
    let left = PathBuf::from(format!("{}ff", file.display()));
    fs::write(&left, "left").unwrap();
    let shards = directory.path().join("hot/blobs");
    // The first of them, so that the one with the leftover comes later.
    let first = shards.join("00");
    fs::remove_dir_all(&first).unwrap();
    let run = tool(directory.path(), &["gc"]);
    assert!(run.errors.contains("cannot list"), "{}", run.errors);
    run.assert_code(1);
    assert!(left.exists());
    fs::create_dir(&first).unwrap();
    tool(directory.path(), &["gc"]).assert_code(0);
    assert!(!left.exists());
}

#[test]
fn wrong_counts_and_lost_files_are_reported_and_mended_on_demand() {
    let mut server = Server::start_with(&FILES);
    let directory = server.directory();
    let bodies: Vec<_> = (0..4).map(|seed| content(seed, 2000 + seed as usize)).collect();
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
    }
    let lost = file_of(&server, &bodies[3]);
    server.kill();
    sql(directory.path(), "UPDATE blobs SET ref_count = 7 WHERE size_bytes = 2000");
    sql(directory.path(), "UPDATE blobs SET ref_count = 0, zero_since = 0 WHERE size_bytes = 2001");
    fs::remove_file(lost).unwrap();
    let expected = found([("wrong_counts", 2), ("blobs_without_file", 1)]);
    assert_eq!(findings(directory.path()), expected);

    // Without any grace: what is wrongly counted as zero must not go all the same.
    let grace = ["--gc-grace-secs", "0"];
    let report = tool(directory.path(), &["gc", grace[0], grace[1]]).assert_code(1);
    assert!(report.contains("counted as 7, named by 1 objects"), "{report}");
    assert!(report.contains("its file is gone"), "{report}");
    assert_eq!(findings(directory.path()), expected, "it was only reported");
    tool(directory.path(), &["gc", "--repair", "--dry-run", grace[0], grace[1]]).assert_code(1);
    assert_eq!(findings(directory.path()), expected, "a dry run changes nothing");
    let report = tool(directory.path(), &["gc", "--repair", grace[0], grace[1]]).assert_code(1);
    assert!(report.contains("counted 2 blobs anew") && report.contains("marked as damaged"), "{report}");
    assert_eq!(findings(directory.path()), found([("blobs_without_file", 1), ("damaged_blobs", 1)]));

    let server = Server::start_on(&directory, &[]);
    server.get(&target("k3")).assert_problem(500, "blob_damaged", "its file is lost");
    put(&server, "again", &bodies[3]);
    for (number, body) in bodies.iter().enumerate() {
        assert!(server.get(&target(&format!("k{number}"))).body == *body, "k{number}");
        delete(&server, &format!("k{number}"));
    }
    delete(&server, "again");
    tool(directory.path(), &["gc", "--gc-grace-secs", "0"]).assert_code(0);
    assert_eq!(server.files("blobs"), Vec::<PathBuf>::new(), "the counts were right");
}

#[test]
fn scrub_finds_what_has_changed_on_the_disk_and_it_is_served_no_more() {
    let server = Server::start_with(&FILES);
    let directory = server.directory();
    let bodies: Vec<_> = [100, 20_000, 3 << 20]
        .into_iter()
        .enumerate()
        .map(|(seed, length)| content(seed as u64, length))
        .collect();
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
        // So that it is in every cache.
        assert_eq!(server.get(&target(&format!("k{number}"))).status, 200);
        let file = file_of(&server, body);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, &bytes).unwrap();
    }
    put(&server, "whole", b"whole");
    let report = tool(directory.path(), &["scrub"]).assert_code(1);
    assert_eq!(report.matches("its bytes have the hash").count(), 3, "{report}");
    assert!(report.contains("3 of them are damaged"), "{report}");
    assert_eq!(findings(directory.path()), found([("damaged_blobs", 3)]));
    for number in 0..3 {
        let target = target(&format!("k{number}"));
        wait_until("the damage is known", || (server.get(&target).status == 500).then_some(()));
        server.get(&target).assert_problem(500, "blob_damaged", &target);
        assert_eq!(server.request("HEAD", &target, &[], b"").status, 200, "what needs no bytes is answered");
    }
    assert_eq!(server.get(&target("whole")).body, b"whole");
    tool(directory.path(), &["scrub"]).assert_code(1);

    // One way to mend it is to bring the content again, under any name; another to bring the bytes back.
    put(&server, "again", &bodies[0]);
    put(&server, "again", &bodies[1]);
    fs::write(file_of(&server, &bodies[2]), &bodies[2]).unwrap();
    let report = tool(directory.path(), &["scrub"]).assert_code(0);
    assert!(report.contains("no longer marked"), "{report}");
    for (number, body) in bodies.iter().enumerate() {
        let target = target(&format!("k{number}"));
        wait_until("it is served again", || (server.get(&target).status == 200).then_some(()));
        assert!(server.get(&target).body == *body, "{target}");
    }
    // The altered copies that were replaced are garbage.
    tool(directory.path(), &["gc"]).assert_code(0);
    assert_eq!(server.files("blobs").len(), 4);
    assert_eq!(findings(directory.path()), found([]));
}

#[test]
fn a_backup_of_a_busy_store_can_be_restored() {
    const STABLE: usize = 200;
    let server = Arc::new(Server::start());
    let directory = server.directory();
    let stable: Vec<_> = (0..STABLE).map(|seed| content(seed as u64, 1 + seed * 97)).collect();
    for (number, body) in stable.iter().enumerate() {
        put(&server, &format!("stable/{number}"), body);
    }
    put(&server, "versions", b"one");
    put(&server, "versions", b"two");
    let stop = AtomicBool::new(false);
    let target_directory = tempfile::tempdir().unwrap();
    let (linked, copied) = (target_directory.path().join("linked"), target_directory.path().join("copied"));
    thread::scope(|scope| {
        for client in 0..3 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut random = Random::new(client);
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("busy/{client}");
                    put(server, &key, &content(random.below(20), 10_000));
                    delete(server, &key);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                tool(directory.path(), &["gc", "--gc-grace-secs", "0"]).assert_code(0);
            }
        });
        for (path, flags) in [(&linked, &[][..]), (&copied, &["--copy"][..])] {
            let mut arguments = vec!["backup", path.to_str().unwrap()];
            arguments.extend(flags);
            let run = tool(directory.path(), &arguments);
            // Before the assertion, which would leave the others running.
            if run.code != Some(0) || flags.len() == 1 {
                stop.store(true, Ordering::Relaxed);
            }
            run.assert_code(0);
        }
    });
    assert_eq!(findings(directory.path()), found([]));
    for backup in [&linked, &copied] {
        let restored = Arc::new(tempfile::tempdir().unwrap());
        let said = tool(restored.path(), &["restore", backup.to_str().unwrap()]).assert_code(0);
        assert!(said.contains("objects from the backup of 2"), "{said}");
        assert_eq!(findings(restored.path()), found([]));
        tool(restored.path(), &["scrub"]).assert_code(0);
        let server = Server::start_on(&restored, &[]);
        for (number, body) in stable.iter().enumerate() {
            assert!(server.get(&target(&format!("stable/{number}"))).body == *body, "stable/{number}");
        }
        assert_eq!(server.get(&target("versions")).body, b"two", "the order of commits is kept");
        put(&server, "versions", b"three");
        assert_eq!(server.get(&target("versions")).body, b"three");
        assert_same_objects(&server, backup);
    }
}

/// Whatever the backup lists is listed by the server, and is served.
fn assert_same_objects(server: &Server, backup: &Path) {
    let metadata = fs::read_to_string(backup.join("metadata.jsonl")).unwrap();
    let mut objects = 0;
    for line in metadata.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let object = &line["object"];
        if object["status"] == "COMMITTED" {
            objects += 1;
            let response = server.get(&format!("/v1/objects/{}", object["id"].as_str().unwrap()));
            assert_eq!(response.status, 200, "{object}");
            assert_eq!(sha256_hex(&response.body), object["content_hash"], "{object}");
        }
    }
    assert_eq!(server.list(&format!("{SCOPE}&limit=1000")).len(), objects + 1, "and the one put since");
}

#[test]
fn a_backup_holds_the_collector_back() {
    let server = Server::start_with(&FILES);
    let directory = server.directory();
    let body = content(1, 3000);
    put(&server, "k", &body);
    let file = file_of(&server, &body);
    // As a backup leaves it for as long as it runs.
    sql(directory.path(), "INSERT INTO holds (id, purpose, started_at) VALUES (1, 'backup', 0)");
    delete(&server, "k");
    let said = tool(directory.path(), &["gc", "--gc-grace-secs", "0"]).assert_code(0);
    assert!(said.contains("a backup is running"), "{said}");
    assert!(file.exists());
    assert_eq!(findings(directory.path()), found([]), "it is garbage that waits");
    sql(directory.path(), "DELETE FROM holds");
    tool(directory.path(), &["gc", "--gc-grace-secs", "0"]).assert_code(0);
    assert!(!file.exists());
}

#[test]
fn what_is_damaged_is_left_out_of_a_backup_by_name_and_known_after_a_restore() {
    let server = Server::start_with(&FILES);
    let directory = server.directory();
    let (whole, lost, altered) = (content(1, 3000), content(2, 3000), content(3, 3000));
    for (key, body) in [("whole", &whole), ("lost", &lost), ("altered", &altered)] {
        put(&server, key, body);
    }
    fs::remove_file(file_of(&server, &lost)).unwrap();
    fs::write(file_of(&server, &altered), content(4, 3000)).unwrap();
    let target_directory = tempfile::tempdir().unwrap();
    let backup = target_directory.path().join("backup");
    let said = tool(directory.path(), &["backup", "--copy", backup.to_str().unwrap()]).assert_code(1);
    assert!(said.contains("its file is gone") && said.contains("not those that were stored"), "{said}");

    let restored = Arc::new(tempfile::tempdir().unwrap());
    let said = tool(restored.path(), &["restore", backup.to_str().unwrap()]).assert_code(1);
    assert!(said.contains("2 blobs were damaged"), "{said}");
    let server = Server::start_on(&restored, &[]);
    assert_eq!(server.get(&target("whole")).body, whole);
    for (key, body) in [("lost", &lost), ("altered", &altered)] {
        server.get(&target(key)).assert_problem(500, "blob_damaged", key);
        put(&server, "again", body);
        assert!(server.get(&target(key)).body == *body, "{key}");
    }
}

#[test]
fn a_restore_that_cannot_be_right_touches_nothing() {
    let server = Server::start();
    let directory = server.directory();
    put(&server, "k", &content(1, 3000));
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    tool(directory.path(), &["backup", backup.to_str().unwrap()]).assert_code(0);
    let manifest = fs::read_to_string(backup.join("manifest.json")).unwrap();
    let metadata = fs::read_to_string(backup.join("metadata.jsonl")).unwrap();
    let blob = files_below(&backup.join("hot")).into_iter().next().unwrap();

    let refuse = |target: &Path, words: &str| {
        let run = tool(target, &["restore", backup.to_str().unwrap()]);
        assert!(run.errors.contains(words), "{words}: {}", run.errors);
        run.assert_code(2);
    };
    let empty = place.path().join("empty");
    let restored = |manifest: &str, metadata: &str| {
        fs::write(backup.join("manifest.json"), manifest).unwrap();
        fs::write(backup.join("metadata.jsonl"), metadata).unwrap();
    };
    restored(&manifest.replace("\"format\": 1", "\"format\": 4"), &metadata);
    refuse(&empty, "has the backup format 4");
    restored("{", &metadata);
    refuse(&empty, "manifest.json is damaged");
    restored(&manifest, &metadata.replace("models", "modems"));
    refuse(&empty, "metadata.jsonl is damaged: it has the hash");
    restored(&manifest, &metadata.replace("COMMITTED", "FINISHED"));
    refuse(&empty, "metadata.jsonl is damaged: line 2");
    restored(&manifest, &metadata);
    fs::rename(&blob, place.path().join("aside")).unwrap();
    refuse(&empty, "cannot be read");
    fs::write(&blob, "short").unwrap();
    refuse(&empty, "is damaged: 5 bytes instead of 3000");
    fs::rename(place.path().join("aside"), &blob).unwrap();
    fs::rename(backup.join("manifest.json"), place.path().join("manifest")).unwrap();
    refuse(&empty, "is not a finished backup");
    fs::rename(place.path().join("manifest"), backup.join("manifest.json")).unwrap();
    assert!(!empty.exists(), "nothing was made");

    let before = everything(directory.path());
    refuse(directory.path(), "holds objects already");
    assert_eq!(everything(directory.path()), before);
    // A root with objects, and no database that knows of them.
    let orphaned = tempfile::tempdir().unwrap();
    fs::rename(directory.path().join("hot"), orphaned.path().join("hot")).unwrap();
    let before = everything(orphaned.path());
    refuse(orphaned.path(), "does not belong to this database");
    assert_eq!(everything(orphaned.path()), before);
    fs::rename(orphaned.path().join("hot"), directory.path().join("hot")).unwrap();
    tool(&empty, &["restore", backup.to_str().unwrap()]).assert_code(0);
}

#[test]
fn an_interrupted_restore_is_run_again() {
    let server = Server::start();
    let bodies: Vec<_> = (0..5).map(|seed| content(seed, 3000)).collect();
    for (number, body) in bodies.iter().enumerate() {
        put(&server, &format!("k{number}"), body);
    }
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    tool(server.directory().path(), &["backup", "--copy", backup.to_str().unwrap()]).assert_code(0);
    // What can be put in its place is, and then the last blob's bytes turn out altered.
    let blob = files_below(&backup.join("hot")).into_iter().max().unwrap();
    let whole = fs::read(&blob).unwrap();
    fs::write(&blob, content(9, 3000)).unwrap();
    let restored = Arc::new(tempfile::tempdir().unwrap());
    let run = tool(restored.path(), &["restore", "--copy", backup.to_str().unwrap()]);
    assert!(run.errors.contains("not those that were backed up"), "{}", run.errors);
    run.assert_code(2);
    fs::write(&blob, whole).unwrap();
    tool(restored.path(), &["restore", "--copy", backup.to_str().unwrap()]).assert_code(0);
    assert_eq!(findings(restored.path()), found([]));
    let server = Server::start_on(&restored, &[]);
    for (number, body) in bodies.iter().enumerate() {
        assert!(server.get(&target(&format!("k{number}"))).body == *body, "k{number}");
    }
}

/// A store that no server has, with one object in it.
fn a_store() -> Arc<TempDir> {
    let mut server = Server::start();
    put(&server, "k", b"x");
    server.terminate();
    server.wait();
    server.directory()
}

#[test]
fn a_tool_names_what_it_cannot_use_and_touches_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (empty, foreign, text) =
        (place.path().join("empty"), place.path().join("foreign"), place.path().join("text"));
    for directory in [&empty, &foreign, &text] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(text.join("metadata.db"), "certainly not a database, though it is long enough").unwrap();
    sqlite_of_somebody_else(&foreign);
    let (newer, older, missing_root, own) = (a_store(), a_store(), a_store(), a_store());
    sql(
        newer.path(),
        "INSERT INTO _sqlx_migrations VALUES (999, 'future', CURRENT_TIMESTAMP, TRUE, x'00', 1)",
    );
    sql(older.path(), "DELETE FROM _sqlx_migrations WHERE version > 1");
    fs::remove_dir_all(missing_root.path().join("cold")).unwrap();
    let strange_root = own.path().join("hot");

    let missing = place.path().join("missing");
    let backup = place.path().join("backup");
    let before = everything(place.path());
    let stores = [&newer, &older, &missing_root].map(|store| everything(store.path()));
    for command in [&["gc"][..], &["gc", "--dry-run"], &["scrub"], &["validate"], &["backup", "DIR"]] {
        let command: Vec<_> =
            command.iter().map(|word| if *word == "DIR" { backup.to_str().unwrap() } else { word }).collect();
        let refuse = |directory: &Path, flags: &[&str], words: &str| {
            let arguments: Vec<_> = command.iter().chain(flags).copied().collect();
            let run = tool(directory, &arguments);
            assert_eq!(run.code, Some(2), "{arguments:?}: {}{}", run.output, run.errors);
            assert_eq!(run.output, "", "{arguments:?}");
            assert!(run.errors.contains(words), "{arguments:?} on {words}: {}", run.errors);
        };
        refuse(&missing, &[], "there is no database at sqlite://");
        refuse(&empty, &[], "there is no database at sqlite://");
        refuse(&text, &[], "is not a database of JustStorage");
        refuse(&foreign, &[], "is not a database of JustStorage");
        refuse(newer.path(), &[], "has the schema 999, and this program knows 9 at most");
        refuse(older.path(), &[], "has the schema 1, and this program needs 9");
        refuse(missing_root.path(), &[], "cold storage root");
        let flags = ["--hot-storage-root", strange_root.to_str().unwrap()];
        refuse(newer.path(), &flags, "has the schema 999");
        refuse(a_store().path(), &flags, "the hot storage root");
        refuse(
            &missing,
            &["--database-url", "postgres://me:secret@h:x/d"],
            "DATABASE_URL: postgres:// is followed by",
        );
        refuse(&missing, &["--database-url", "postgres://127.0.0.1:1/d"], "the database cannot be opened");
        refuse(&missing, &["--no-such-flag"], "--no-such-flag");
    }
    assert_eq!(everything(place.path()), before);
    for (store, before) in [&newer, &older, &missing_root].into_iter().zip(stores) {
        assert_eq!(everything(store.path()), before);
    }
    assert!(!missing.exists() && !backup.exists());
    let run = tool(&missing, &["validate", "--database-url", "postgres://me:secret@h:x/d"]);
    assert!(!run.errors.contains("secret"), "{}", run.errors);
}

fn sqlite_of_somebody_else(directory: &Path) {
    let options = SqliteConnectOptions::new().filename(directory.join("metadata.db")).create_if_missing(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection: SqliteConnection = options.connect().await.unwrap();
        sqlx::raw_sql("CREATE TABLE objects (id INTEGER)").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_backup_goes_into_a_new_directory() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "mine").unwrap();
    let directory = server.directory();
    let run = tool(directory.path(), &["backup", place.path().to_str().unwrap()]);
    assert!(run.errors.contains("is not empty"), "{}", run.errors);
    run.assert_code(2);
    assert_eq!(everything(place.path()).len(), 1);
    let file = place.path().join("file");
    let run = tool(directory.path(), &["backup", file.to_str().unwrap()]);
    assert_eq!(run.code, Some(2), "{}", run.errors);
}
