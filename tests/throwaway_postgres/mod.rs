//! A PostgreSQL server for one test: started in a directory of its own, gone with the test, however that ends. Where
//! there is no PostgreSQL, the test fails.
//!
//! The tests of the library and those of the whole program include this file, each for itself.
#![allow(dead_code, reason = "each of the two that include it uses a part")]

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Below those that the kernel hands out by itself (ip(7), `ip_local_port_range`), so that neither a connection nor a
/// listener on port 0 takes the port while the server is down between a crash and the next start.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Each port may be another test's; so many in a row are not.
const PORTS_TRIED_MAX: u32 = 20;

/// A server with empty databases in it, on a port of its own.
pub(crate) struct ThrowawayPostgres {
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    server: Child,
    databases: AtomicU32,
}

impl ThrowawayPostgres {
    pub(crate) fn start() -> Self {
        assert!(
            Path::new(PROGRAMS).join("initdb").exists(),
            "there is no PostgreSQL to test on: apt-get install postgresql-15"
        );
        let directory = tempfile::Builder::new().prefix("throwaway-postgres-").tempdir().unwrap();
        if geteuid().is_root() {
            run(Command::new("chown").arg("postgres:").arg(directory.path()));
        }
        let mut initdb = as_postgres("initdb", directory.path());
        initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C"]);
        run(initdb.args(["-D", "data"]));
        for _ in 0..PORTS_TRIED_MAX {
            let port = any_port();
            let mut server = launch(directory.path(), port);
            if becomes_ready(&mut server, directory.path(), port) {
                return Self { directory, port, server, databases: AtomicU32::new(0) };
            }
        }
        panic!("PostgreSQL does not start: {}", log_of(directory.path()));
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self) -> String {
        self.database_in("UTF8")
    }

    /// The same, with its text in this encoding.
    pub(crate) fn database_in(&self, encoding: &str) -> String {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = as_postgres("createdb", self.directory.path());
        run(createdb.args(self.address()).args(["-T", "template0", "-E", encoding, &name]));
        self.latest_through(self.port)
    }

    /// The same, with its text in the order of a language (ICU).
    pub(crate) fn database_in_order_of(&self, language: &str) -> String {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = as_postgres("createdb", self.directory.path());
        createdb.args(self.address()).args(["-T", "template0", "-E", "UTF8", "--locale-provider", "icu"]);
        run(createdb.args(["--icu-locale", language, &name]));
        self.latest_through(self.port)
    }

    /// The URL of the latest database, as it is reached through another port.
    pub(crate) fn latest_through(&self, port: u16) -> String {
        format!("postgres://postgres:secret@127.0.0.1:{port}/{}", self.latest())
    }

    /// What the latest database answers: fields by `|`, rows by lines.
    pub(crate) fn ask(&self, query: &str) -> String {
        let mut psql = as_postgres("psql", self.directory.path());
        psql.args(self.address()).args(["-XqtA", "-d", &self.latest(), "-c", query]);
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Begins a transaction with this statement and leaves it open.
    pub(crate) fn hold(&self, statement: &str) -> HeldTransaction {
        let mut psql = as_postgres("psql", self.directory.path());
        psql.args(self.address()).args(["-XqtA", "-v", "ON_ERROR_STOP=1", "-d", &self.latest()]);
        let mut session = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = session.stdin.take().unwrap();
        writeln!(input, "BEGIN; {statement}; SELECT 'held';").unwrap();
        let mut line = String::new();
        BufReader::new(session.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n", "{statement}");
        HeldTransaction { session, input: Some(input) }
    }

    /// As when its machine is switched off.
    pub(crate) fn crash(&mut self) {
        kill_process(Pid::from_child(&self.server), Signal::QUIT).unwrap();
        self.server.wait().unwrap();
    }

    /// On the port that it had: clients know no other.
    pub(crate) fn start_again(&mut self) {
        self.server = launch(self.directory.path(), self.port);
        let ready = becomes_ready(&mut self.server, self.directory.path(), self.port);
        assert!(ready, "PostgreSQL does not start again: {}", log_of(self.directory.path()));
    }

    fn latest(&self) -> String {
        format!("d{}", self.databases.load(Ordering::Relaxed) - 1)
    }

    fn address(&self) -> [String; 6] {
        address(self.directory.path(), self.port)
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.server), Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// A transaction that is rolled back when this is dropped.
pub(crate) struct HeldTransaction {
    session: Child,
    input: Option<ChildStdin>,
}

impl Drop for HeldTransaction {
    fn drop(&mut self) {
        // The end of its input ends the session.
        drop(self.input.take());
        let _ = self.session.wait();
    }
}

/// By its socket, which is this server's alone: at the port another one might answer.
fn address(directory: &Path, port: u16) -> [String; 6] {
    ["-h", &directory.display().to_string(), "-U", "postgres", "-p", &port.to_string()].map(str::to_owned)
}

fn any_port() -> u16 {
    let random = RandomState::new().hash_one(0);
    PORTS.start + (random % u64::from(PORTS.end - PORTS.start)) as u16
}

/// A program of PostgreSQL, which refuses to work as root.
fn as_postgres(program: &str, directory: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    // It ends with the test also when that is killed.
    command.args(["--pdeathsig", "QUIT"]).arg(Path::new(PROGRAMS).join(program)).current_dir(directory);
    command
}

fn launch(directory: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(log_path(directory)).unwrap();
    let mut postgres = as_postgres("postgres", directory);
    // Only a crash of the machine could tell fsync from its absence.
    postgres.args(["-D", "data", "-p", &port.to_string(), "-c", "fsync=off"]);
    postgres.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
    postgres.arg(format!("unix_socket_directories={}", directory.display()));
    postgres.stderr(log).spawn().unwrap()
}

/// `false` if it has ended instead, as it does where another one has the port.
fn becomes_ready(server: &mut Child, directory: &Path, port: u16) -> bool {
    let begin = Instant::now();
    loop {
        let mut ready = as_postgres("pg_isready", directory);
        if ready.arg("-q").args(address(directory, port)).status().unwrap().success() {
            return true;
        }
        if server.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begin.elapsed() < START_TIMEOUT, "PostgreSQL does not start: {}", log_of(directory));
        std::thread::sleep(LOOK);
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("log")
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(log_path(directory)).unwrap_or_default()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
