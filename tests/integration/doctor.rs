//! `just_storage doctor` on machines that are well and on some that are not.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::Value;

use crate::server::{FILES, Server, files_below, program, refused, serve_command};
use crate::site::Site;

/// What was found, by what it is about.
struct Diagnosis {
    code: Option<i32>,
    checks: BTreeMap<String, Value>,
    text: String,
}

impl Diagnosis {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let report: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)));
        let checks = report["checks"].as_array().unwrap().iter();
        let checks: BTreeMap<_, _> =
            checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect();
        let fit = checks.values().all(|check| check["state"] != "wrong");
        assert_eq!(report["fit"], fit, "{text}");
        Self { code: output.status.code(), checks, text }
    }

    /// Holds that this is wrong, and that the reason and the way to mend it have these words.
    fn assert_wrong(&self, name: &str, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        let check = &self.checks[name];
        assert_eq!(check["state"], "wrong", "{}", self.text);
        for word in words {
            assert!(check.to_string().contains(word), "{word}: {check}");
        }
    }

    fn assert_state(&self, name: &str, state: &str) {
        assert_eq!(self.checks[name]["state"], state, "{name}: {}", self.text);
    }
}

/// `doctor` for a server of one's own machine in `directory`, of few connections.
fn doctor(directory: &Path, flags: &[&str]) -> Command {
    let mut command = program();
    command
        .args(["doctor", "--dev", "--json", "--connections-max=16", "--data-dir"])
        .arg(directory)
        .args(flags);
    if !flags.iter().any(|flag| flag.starts_with("--listen-addr")) {
        command.arg("--listen-addr=127.0.0.1:0");
    }
    command
}

fn diagnosis(directory: &Path, flags: &[&str]) -> Diagnosis {
    Diagnosis::of(&doctor(directory, flags).output().unwrap())
}

#[test]
fn a_machine_that_is_well_is_told_so_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("not/there/yet");
    let found = diagnosis(&data, &[]);
    assert_eq!(found.code, Some(0), "{}", found.text);
    for name in ["kernel", "io_uring", "descriptors", "address", "data", "hot", "cold", "clock"] {
        found.assert_state(name, "right");
    }
    assert!(found.checks["database"]["found"].as_str().unwrap().contains("made at the first start"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing has been made");

    let text = program().args(["doctor", "--dev", "--connections-max=16", "--data-dir"]).arg(&data).output();
    let text = String::from_utf8(text.unwrap().stdout).unwrap();
    assert!(text.lines().all(|line| ["right", "poor", "WRONG", "fit"].iter().any(|w| line.starts_with(w))));
}

#[test]
fn a_store_that_is_served_is_well_beside_its_server() {
    let server = Server::start_with(&FILES);
    server.create(b"kept");
    let directory = server.directory();
    let before = files_below(directory.path());
    let address = format!("--listen-addr={}", server.address());
    let found = diagnosis(directory.path(), &[&address]);
    assert_eq!(found.code, Some(0), "{}", found.text);
    for name in
        ["database", "hot_identity", "cold_identity", "hot_direct_io", "hot_unnamed", "hot_allocation"]
    {
        found.assert_state(name, "right");
    }
    assert!(found.checks["address"]["found"].as_str().unwrap().contains("a server runs on this store"));
    let sorted = |mut files: Vec<_>| {
        files.sort();
        files
    };
    assert_eq!(sorted(files_below(directory.path())), sorted(before), "nothing is left behind");
    server.create(b"and goes on");
    assert_eq!(server.stop().0.code(), Some(0));
    assert_eq!(diagnosis(directory.path(), &[]).code, Some(0), "and without it");
}

#[test]
fn a_file_in_the_way_of_a_root_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hot"), "").unwrap();
    let found = diagnosis(directory.path(), &[]);
    found.assert_wrong("hot", &["/hot is no directory", "out of the way"]);
    found.assert_state("cold", "right");
    // A server says the same in its own words.
    assert_eq!(refused(serve_command(directory.path(), &[])).code, Some(1));
}

#[test]
fn a_root_that_takes_no_writes_is_named() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody can write there, whoever they are; and what cannot be reached at all is told too.
    let found =
        diagnosis(directory.path(), &["--hot-storage-root=/proc/hot", "--cold-storage-root=/dev/null/cold"]);
    found.assert_wrong("hot", &["/proc takes no writes"]);
    found.assert_wrong("cold", &["/dev/null is no directory"]);
}

#[test]
fn a_root_that_is_mounted_read_only_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    // In a namespace of mounts of its own, which ends with the command.
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mkdir -p \"$1/hot\" && mount -t tmpfs -o ro none \"$1/hot\" && shift && exec \"$@\"");
    command.arg("sh").arg(path).arg(env!("CARGO_BIN_EXE_just_storage"));
    command.args(["doctor", "--dev", "--json", "--connections-max=16", "--listen-addr=127.0.0.1:0"]);
    command.arg("--data-dir").arg(path);
    let found = Diagnosis::of(&command.output().unwrap());
    found.assert_wrong("hot", &["takes no writes", "mount it to be written to"]);
    found.assert_state("cold", "right");
}

#[test]
fn too_few_descriptors_are_told_with_what_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1500 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_just_storage")]);
    command.args(["doctor", "--dev", "--json", "--cores=1", "--listen-addr=127.0.0.1:0", "--data-dir"]);
    command.arg(directory.path());
    let found = Diagnosis::of(&command.output().unwrap());
    found.assert_state("descriptors", "poor");
    for words in ["1,500 allowed", "LimitNOFILE=", "CONNECTIONS_MAX=1140"] {
        assert!(found.checks["descriptors"].to_string().contains(words), "{words}: {}", found.text);
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1500 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_just_storage")]);
    command.args(["doctor", "--dev", "--json", "--cores=1", "--listen-addr=127.0.0.1:0"]);
    command.arg("--connections-max=1140").arg("--data-dir").arg(directory.path());
    Diagnosis::of(&command.output().unwrap()).assert_state("descriptors", "right");
}

#[test]
fn a_server_raises_its_limit_of_descriptors_by_itself() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_just_storage")]);
    command.args(["serve", "--dev", "--listen-addr=127.0.0.1:0", "--log-format=json", "--data-dir"]);
    command.arg(directory.path());
    let server = Server::listening(command, &directory);
    let connections: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for mut connection in connections {
        assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
    }
}

#[test]
fn a_database_that_is_not_there_is_named_without_its_password() {
    let directory = tempfile::tempdir().unwrap();
    let found = diagnosis(directory.path(), &["--database-url=postgres://me:secret@127.0.0.1:1/d"]);
    found.assert_wrong("database", &["postgres://me@127.0.0.1:1/d", "pg_hba.conf"]);
    assert!(!found.text.contains("secret"), "{}", found.text);
}

#[test]
fn a_database_of_another_program_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("metadata.db"), "something else, and long enough".repeat(100))
        .unwrap();
    diagnosis(directory.path(), &[]).assert_wrong("database", &["is not a database of JustStorage"]);
}

#[test]
fn a_root_whose_disk_is_not_mounted_is_named() {
    let server = Server::start();
    let directory = server.directory();
    assert_eq!(server.stop().0.code(), Some(0));
    std::fs::rename(directory.path().join("hot"), directory.path().join("aside")).unwrap();
    std::fs::create_dir(directory.path().join("hot")).unwrap();
    let found = diagnosis(directory.path(), &[]);
    found.assert_wrong("hot_identity", &["is its disk mounted?"]);
    found.assert_state("cold_identity", "right");
    std::fs::remove_dir(directory.path().join("hot")).unwrap();
    std::fs::rename(directory.path().join("aside"), directory.path().join("hot")).unwrap();
    assert_eq!(diagnosis(directory.path(), &[]).code, Some(0));
}

#[test]
fn an_address_that_another_program_has_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let found = diagnosis(directory.path(), &[&format!("--listen-addr={address}")]);
    found.assert_wrong("address", &[&address, "is taken"]);
}

#[test]
fn a_clock_before_what_has_been_written_is_named() {
    let server = Server::start();
    let directory = server.directory();
    assert_eq!(server.stop().0.code(), Some(0));
    for (moment, words) in [("2026-02-01 00:00:00", "before"), ("2001-02-03 04:05:06", "has long been")] {
        let mut command = Command::new("faketime");
        command.arg(moment).arg(env!("CARGO_BIN_EXE_just_storage"));
        command.args(["doctor", "--dev", "--json", "--connections-max=16", "--listen-addr=127.0.0.1:0"]);
        command.arg("--data-dir").arg(directory.path());
        Diagnosis::of(&command.output().unwrap()).assert_wrong("clock", &[words, "time service"]);
    }
}

/// Runs a command that is refused io_uring, as container runtimes do by default: a filter of two decisions (seccomp(2))
/// gives EPERM to system call 425 and lets all others through.
const WITHOUT_RINGS: &str = r#"
import ctypes, os, struct, sys
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
steps = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 425), (RETURN, 0, 0, 0x00050001), (RETURN, 0, 0, 0x7FFF0000)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(filter))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execvp(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn io_uring_that_is_refused_is_poor_and_wrong_where_it_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    diagnosis(directory.path(), &["--io-driver=io-uring"]).assert_state("io_uring", "right");
    let refused = |driver: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", WITHOUT_RINGS, env!("CARGO_BIN_EXE_just_storage"), "doctor", "--dev", "--json"]);
        command.args([
            "--connections-max=16",
            "--listen-addr=127.0.0.1:0",
            "--io-driver",
            driver,
            "--data-dir",
        ]);
        Diagnosis::of(&command.arg(directory.path()).output().unwrap())
    };
    let found = refused("auto");
    found.assert_state("io_uring", "poor");
    assert_eq!(found.code, Some(0), "{}", found.text);
    refused("io-uring").assert_wrong("io_uring", &["it is refused", "io_uring_setup", "seccomp.json"]);
    refused("epoll").assert_state("io_uring", "right");
}

#[test]
fn nobody_who_could_get_in_is_poor_and_told_how_to_make_a_key() {
    let server = Server::start();
    let directory = server.directory();
    let found = diagnosis(directory.path(), &["--auth-mode=required"]);
    found.assert_state("credentials", "poor");
    assert!(found.checks["credentials"]["remedy"].as_str().unwrap().contains("just_storage key create"));
    let mut key = program();
    key.args(["key", "create", "--tenant=acme", "--scope=read", "--data-dir"]).arg(directory.path());
    assert!(key.output().unwrap().status.success());
    diagnosis(directory.path(), &["--auth-mode=required"]).assert_state("credentials", "right");
}

#[test]
fn a_wrong_setting_is_refused_as_by_serve() {
    let directory = tempfile::tempdir().unwrap();
    for flags in [&["--cores=0"][..], &["--db-min-connections=9", "--db-max-connections=3"]] {
        let output = doctor(directory.path(), flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn postgresql_is_looked_at_before_and_after_the_first_start() {
    let site = Site::new();
    let flags = [format!("--database-url={}", site.url)];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let found = diagnosis(site.directory.path(), &flags);
    assert_eq!(found.code, Some(0), "{}", found.text);
    found.assert_state("database", "poor");
    let server = site.start("a", &[]);
    let roots = ["hot", "cold"]
        .map(|root| format!("--{root}-storage-root={}/{root}", site.directory.path().display()));
    let address = format!("--listen-addr={}", server.address());
    let flags = [&flags[..], &roots.each_ref().map(String::as_str), &[&address]].concat();
    let found = diagnosis(&site.directory.path().join("a"), &flags);
    assert_eq!(found.code, Some(0), "{}", found.text);
    for name in ["database", "hot_identity", "cold_identity", "address"] {
        found.assert_state(name, "right");
    }
    assert_eq!(server.stop().0.code(), Some(0));
}
