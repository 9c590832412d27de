//! A PostgreSQL server for one test: started in a directory of its own, gone with the test, however that ends.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::database::{DatabaseSettings, DatabaseUrl};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) const SETTINGS: DatabaseSettings = DatabaseSettings {
    max_connections: 4,
    min_connections: 1,
    acquire_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(60),
    max_lifetime: Duration::from_secs(60),
};

pub(super) struct ThrowawayPostgres {
    directory: tempfile::TempDir,
    pub(super) port: u16,
    server: Child,
    databases: AtomicU32,
}

impl ThrowawayPostgres {
    pub(super) fn start() -> Self {
        assert!(
            Path::new(PROGRAMS).join("initdb").exists(),
            "there is no PostgreSQL to test on: apt-get install postgresql-15"
        );
        let directory = tempfile::Builder::new().prefix("throwaway-postgres-").tempdir().unwrap();
        if geteuid().is_root() {
            run(Command::new("chown").arg("postgres:").arg(directory.path()));
        }
        let mut initdb = as_postgres("initdb", directory.path());
        run(initdb.args([
            "--no-sync",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale",
            "C",
            "-D",
            "data",
        ]));
        // Only a crash of the machine could tell fsync from its absence.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = launch(directory.path(), port);
        let started = Self { directory, port, server, databases: AtomicU32::new(0) };
        started.wait_until_ready();
        started
    }

    /// An empty database.
    pub(super) fn database(&self) -> DatabaseUrl {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(as_postgres("createdb", self.directory.path()).args(self.address()).arg(&name));
        self.url_through(self.port, &name).parse().unwrap()
    }

    /// The latest database, as it is reached through another port.
    pub(super) fn latest_through(&self, port: u16) -> DatabaseUrl {
        let latest = self.databases.load(Ordering::Relaxed) - 1;
        self.url_through(port, &format!("d{latest}")).parse().unwrap()
    }

    /// What the latest database answers: fields by `|`, rows by lines.
    pub(super) fn ask(&self, query: &str) -> String {
        let latest = format!("d{}", self.databases.load(Ordering::Relaxed) - 1);
        let mut psql = as_postgres("psql", self.directory.path());
        let output = psql.args(self.address()).args(["-XqtA", "-d", &latest, "-c", query]).output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// As when its machine is switched off.
    pub(super) fn crash(&mut self) {
        let id = Pid::from_child(&self.server);
        kill_process(id, Signal::QUIT).unwrap();
        self.server.wait().unwrap();
    }

    pub(super) fn start_again(&mut self) {
        self.server = launch(self.directory.path(), self.port);
        self.wait_until_ready();
    }

    fn url_through(&self, port: u16, name: &str) -> String {
        format!("postgres://postgres:secret@127.0.0.1:{port}/{name}")
    }

    fn address(&self) -> [String; 6] {
        ["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()].map(str::to_owned)
    }

    fn wait_until_ready(&self) {
        let begin = Instant::now();
        let port = self.port.to_string();
        loop {
            let mut ready = as_postgres("pg_isready", self.directory.path());
            if ready.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success() {
                return;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(begin.elapsed() < START_TIMEOUT, "PostgreSQL does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.server), Signal::QUIT);
        let _ = self.server.wait();
    }
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
    let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let port = port.to_string();
    let mut postgres = as_postgres("postgres", directory);
    postgres.args(["-D", "data", "-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
    postgres.arg("-c").arg(format!("unix_socket_directories={}", directory.display()));
    postgres.stderr(log).spawn().unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
