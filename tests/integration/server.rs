//! The real program as a child process, in a directory of its own and on a port that the kernel chose.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::raw::{Connection, Fields, Response};

/// Longer than anything here takes on a busy machine; a test that runs into it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// A scope that most tests store under.
pub(crate) const SCOPE: &str = "namespace=models&tenant_id=acme";

/// Flags of a server that gives each blob a file of its own, however small: for tests that look at those files.
pub(crate) const FILES: [&str; 2] = ["--pack-blob-bytes-max", "0"];

/// Asks again until there is an answer; what never comes fails the test.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        thread::sleep(LOOK);
    }
}

/// The program with nothing of this process's settings in its environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_just_storage"));
    command.env_clear();
    // What the machine, coverage tools and sanitizers need; no setting has such a name.
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE", "ASAN_OPTIONS", "LSAN_OPTIONS"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The program as it serves in `directory`.
pub(crate) fn serve_command(directory: &Path, flags: &[&str]) -> Command {
    let mut command = program();
    command.args(["serve", "--dev", "--listen-addr", "127.0.0.1:0"]);
    // Many tests break a blob and look what a reader is told: a scrub could find it first, and have it mended. Those that are
    // about the scrub say when it comes.
    command.env("SCRUB_INTERVAL_SECS", "0");
    command.arg("--data-dir").arg(directory).args(flags);
    command
}

/// A start that came to nothing.
pub(crate) struct Refusal {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

/// Starts the program and waits for it to end by itself; that it serves instead fails the test.
pub(crate) fn refused(mut command: Command) -> Refusal {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = Server::spawn(&mut command, None);
    let status = wait_until("a refusal", || {
        let lines = server.log_lines();
        assert!(!lines.iter().any(|line| line.contains("listening on")), "the server serves: {lines:#?}");
        server.child.try_wait().expect("the server can be waited for")
    });
    server.join_reader();
    Refusal { code: status.code(), stderr: server.log_lines().join("\n") }
}

/// A server that runs, and is killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Unspecified until it listens.
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    directory: Option<Arc<TempDir>>,
}

impl Server {
    /// A server with nothing in it.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with further flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_on(&Arc::new(tempfile::tempdir().expect("there is room for a directory")), flags)
    }

    /// A server on what another one left.
    pub(crate) fn start_on(directory: &Arc<TempDir>, flags: &[&str]) -> Self {
        let mut command = serve_command(directory.path(), flags);
        command.args(["--log-format", "json"]);
        Self::listening(command, directory)
    }

    /// Starts `command`, which is to serve in `directory` and log as JSON, and waits until it listens.
    pub(crate) fn listening(mut command: Command, directory: &Arc<TempDir>) -> Self {
        let mut server = Self::spawn(&mut command, Some(directory.clone()));
        let line = server.wait_for_line("listening", |line| {
            line["message"].as_str().is_some_and(|message| message.starts_with("listening on"))
        });
        let address = line["address"].as_str().expect("the line has the address");
        server.address = address.parse().expect("an address is one");
        server
    }

    /// Starts `command` and finds out from the kernel where it listens, for servers that log otherwise or not at all.
    pub(crate) fn unannounced(mut command: Command, directory: &Arc<TempDir>) -> Self {
        let mut server = Self::spawn(&mut command, Some(directory.clone()));
        server.address = wait_until("a listening socket", || {
            let ended = server.child.try_wait().expect("the server can be waited for");
            assert!(ended.is_none(), "the server has ended ({ended:?}): {:#?}", server.log_lines());
            listening_port(server.child.id()).map(|port| ([127, 0, 0, 1], port).into())
        });
        server
    }

    fn spawn(command: &mut Command, directory: Option<Arc<TempDir>>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("its standard error is a pipe");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        // Reads to the end whatever becomes of the test: a full pipe would stop the server's log.
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                sink.lock().unwrap().push(line.expect("the log is UTF-8"));
            }
        });
        Self { child, address: ([0, 0, 0, 0], 0).into(), lines, reader: Some(reader), directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its data is. Kept as long as anybody holds it.
    pub(crate) fn directory(&self) -> Arc<TempDir> {
        self.directory.clone().expect("the server has a directory")
    }

    /// An absolute URL.
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, target: &str, fields: Fields<'_>, body: &[u8]) -> Response {
        self.connect().exchange(method, target, fields, body)
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    /// Stores an object without a key and gives its ObjectDto.
    pub(crate) fn create(&self, body: &[u8]) -> Value {
        let response = self.request("POST", &format!("/v1/objects?{SCOPE}"), &[], body);
        assert_eq!(response.status, 201, "{response:?}");
        response.json()
    }

    /// What a listing with these parameters shows, all pages of it.
    pub(crate) fn list(&self, query: &str) -> Vec<Value> {
        self.connect().list(query)
    }

    /// Every file of this kind below both roots: `blobs` or `tmp`.
    pub(crate) fn files(&self, kind: &str) -> Vec<PathBuf> {
        let directory = self.directory();
        let roots = ["hot", "cold"].map(|root| directory.path().join(root).join(kind));
        roots.iter().flat_map(|root| files_below(root)).collect()
    }

    /// Holds that nothing is kept of what was sent: no object in any state, no blob, no temporary file. What is
    /// taken back after the answer (a reservation, a file without a name) is waited for.
    pub(crate) fn assert_nothing_kept(&self, case: &str) {
        self.assert_nothing_kept_of(case, |query| self.list(query));
    }

    /// The same, where a listing is asked for in another way.
    pub(crate) fn assert_nothing_kept_of(&self, case: &str, mut list: impl FnMut(&str) -> Vec<Value>) {
        for status in ["COMMITTED", "DELETING", "DELETED"] {
            let listed = list(&format!("{SCOPE}&status={status}"));
            assert!(listed.is_empty(), "{case}: {listed:?}");
        }
        wait_until(case, || list(&format!("{SCOPE}&status=WRITING")).is_empty().then_some(()));
        assert_eq!(self.files("blobs"), Vec::<PathBuf>::new(), "{case}");
        // The probe of /health/ready is the only file that comes and goes there by itself.
        wait_until(case, || self.files("tmp").is_empty().then_some(()));
    }

    /// The lines of the log so far.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line of the JSON log.
    pub(crate) fn wait_for_line(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, || {
            let ended = self.child.try_wait().expect("the server can be waited for");
            let lines = self.log_lines();
            let json = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = json.into_iter().find(|line| is_it(line));
            assert!(found.is_some() || ended.is_none(), "the server has ended ({ended:?}): {lines:#?}");
            found
        })
    }

    /// What each of its descriptors leads to (proc(5)).
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the server runs");
        // One that is closed meanwhile has no target any more.
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets.map(|target| target.to_string_lossy().into_owned()).collect()
    }

    /// How many of them are sockets of a network: of clients, but for a few that are always there. Each core makes local ones of its
    /// own while it starts, which are not counted.
    pub(crate) fn sockets(&self) -> usize {
        let descriptors = self.descriptors();
        let local = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists local sockets");
        let local: HashSet<_> = local.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
        let inodes =
            descriptors.iter().filter_map(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.filter(|inode| !local.contains(inode)).count()
    }

    /// Ends it without any warning, as `kill -9` or the kernel's out-of-memory killer does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.wait();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has an id");
        kill_process(pid, signal).expect("the server can be signalled");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_until("the server's end", || self.child.try_wait().expect("the server can be waited for"))
    }

    /// Asks it to end, waits, and gives its exit status and everything it logged.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.terminate();
        let status = self.wait();
        self.join_reader();
        (status, self.log_lines())
    }

    /// Waits for the last line.
    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log can be read");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.log_lines();
            eprintln!("the server's last lines:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// The port of the process's first listening IPv4 socket (proc(5): the inodes of its descriptors, found in
/// `/proc/net/tcp` in state 0A).
fn listening_port(pid: u32) -> Option<u16> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let sockets: Vec<String> = targets
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = rows.find(|row| row[3] == "0A" && sockets.iter().any(|inode| inode == row[9]))?;
    u16::from_str_radix(own[1].split_once(':')?.1, 16).ok()
}

/// All files below a directory, which may be missing.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a directory can be listed").path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
