//! The server under test, as a process.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::Client;

/// How long a server that listens may not be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a server keeps what it keeps.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    data: PathBuf,
    roots: PathBuf,
}

impl Places {
    /// Everything in one directory.
    pub(crate) fn together(directory: PathBuf) -> Self {
        Self { data: directory.clone(), roots: directory }
    }

    /// The database in one directory, and the roots in another.
    pub(crate) fn apart(data: PathBuf, roots: PathBuf) -> Self {
        Self { data, roots }
    }

    pub(crate) fn hot(&self) -> PathBuf {
        self.roots.join("hot")
    }

    pub(crate) fn cold(&self) -> PathBuf {
        self.roots.join("cold")
    }

    /// What the embedded database writes first of all.
    pub(crate) fn database_log(&self) -> PathBuf {
        self.data.join("metadata.db-wal")
    }

    /// For every command of the program that works on them.
    pub(crate) fn arguments(&self) -> [OsString; 6] {
        [
            "--data-dir".into(),
            self.data.clone().into(),
            "--hot-storage-root".into(),
            self.hot().into(),
            "--cold-storage-root".into(),
            self.cold().into(),
        ]
    }
}

/// A running server. Killed when dropped.
pub(crate) struct Server {
    process: Mutex<Child>,
    heard: Arc<Heard>,
    port: u16,
    listening_after: Duration,
    ready_after: Duration,
}

/// What the log of a server has told so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// Where it listens.
    pub(crate) port: Option<u16>,
    /// How many changes only the log of changes had.
    pub(crate) applied: Option<u64>,
    /// What it said before it listened.
    text: String,
    has_ended: bool,
}

/// The same, while somebody listens.
#[derive(Default)]
struct Heard {
    said: Mutex<Said>,
    news: Condvar,
}

impl Heard {
    /// Reads all that a server says, so that it never waits for us.
    fn listen(&self, log: ChildStderr) {
        for line in BufReader::new(log).lines() {
            let Ok(line) = line else { break };
            self.note(|said| said.note(&line));
        }
        self.note(|said| said.has_ended = true);
    }

    fn note(&self, note: impl FnOnce(&mut Said)) {
        if let Ok(mut said) = self.said.lock() {
            note(&mut said);
            self.news.notify_all();
        }
    }

    /// Waits until this is so, or there is nothing more to come.
    fn wait_until(&self, is_so: impl Fn(&Said) -> bool) -> Result<Said> {
        let panicked = |_| anyhow::anyhow!("a panic held what was heard");
        let mut said = self.said.lock().map_err(|_| anyhow::anyhow!("a panic held what was heard"))?;
        while !is_so(&said) && !said.has_ended {
            said = self.news.wait(said).map_err(panicked)?;
        }
        Ok(said.clone())
    }
}

impl Said {
    fn note(&mut self, line: &str) {
        if self.port.is_none() {
            self.text.push_str(line);
            self.text.push('\n');
        }
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { return };
        self.port = self.port.or_else(|| port_in(&event));
        self.applied = self.applied.or_else(|| event["changes"].as_u64());
    }
}

impl Server {
    /// Starts it on a free port and waits until it listens and says that it is ready.
    pub(crate) fn start(binary: &Path, places: &Places) -> Result<Self> {
        Self::start_with(binary, places, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub(crate) fn start_with(binary: &Path, places: &Places, arguments: &[&str]) -> Result<Self> {
        let started = Instant::now();
        let mut server = Self::spawn(binary, places, arguments)?;
        let said = server.heard.wait_until(|said| said.port.is_some())?;
        server.port = said.port.with_context(|| format!("the server did not start: {}", said.text))?;
        server.listening_after = started.elapsed();
        wait_until_ready(server.port)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn begin(binary: &Path, places: &Places) -> Result<Self> {
        Self::spawn(binary, places, &[])
    }

    fn spawn(binary: &Path, places: &Places, arguments: &[&str]) -> Result<Self> {
        let mut command = command(binary, places);
        let mut process =
            command.args(arguments).stderr(Stdio::piped()).spawn().context("start the server")?;
        let log = process.stderr.take();
        let heard = Arc::new(Heard::default());
        let (listening_after, ready_after) = Default::default();
        // From here on it is killed, whatever goes wrong.
        let server = Self {
            process: Mutex::new(process),
            heard: heard.clone(),
            port: 0,
            listening_after,
            ready_after,
        };
        let log = log.context("the server has a log")?;
        std::thread::spawn(move || heard.listen(log));
        Ok(server)
    }

    /// Where it listens, as soon as it does; nothing if it ends before.
    pub(crate) fn wait_for_port(&self) -> Result<Option<u16>> {
        Ok(self.heard.wait_until(|said| said.port.is_some())?.port)
    }

    /// How many changes only the log had when it started.
    pub(crate) fn applied_changes(&self) -> Result<u64> {
        Ok(self.heard.wait_until(|_| true)?.applied.unwrap_or(0))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From its start to its first word that it listens.
    pub(crate) fn listening_after(&self) -> Duration {
        self.listening_after
    }

    /// From its start to its first answer that it is ready.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// `kill -9`
    pub(crate) fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the server"))?;
        process.kill().context("kill the server")
    }

    /// SIGTERM
    pub(crate) fn terminate(&self) -> Result<()> {
        let process = self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the server"))?;
        let sent = Command::new("kill").args(["-TERM", &process.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { bail!("kill ended with {sent}") }
    }

    /// Waits for the end of a killed server.
    pub(crate) fn reap(self) -> Result<()> {
        self.reap_heard().map(drop)
    }

    /// The same, and all that it has said.
    pub(crate) fn reap_heard(self) -> Result<Said> {
        let mut process = self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the server"))?;
        process.wait().context("wait for the server")?;
        self.heard.wait_until(|_| false)
    }

    /// Ends it in order.
    pub(crate) fn stop(self) -> Result<()> {
        self.terminate()?;
        let mut process = self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the server"))?;
        let ended = process.wait()?;
        if ended.success() { Ok(()) } else { bail!("the server ended with {ended}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut process) = self.process.lock() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn command(binary: &Path, places: &Places) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["serve", "--dev", "--listen-addr", "127.0.0.1:0"])
        .args(["--log-format", "json", "--log-level", "info"])
        .args(["--gc-interval-secs", "10", "--gc-grace-secs", "0"])
        .args(places.arguments());
    command
}

/// The port that an event says the server listens on.
fn port_in(event: &serde_json::Value) -> Option<u16> {
    event["address"].as_str()?.rsplit(':').next()?.parse().ok()
}

fn wait_until_ready(port: u16) -> Result<()> {
    let started = Instant::now();
    let mut client = Client::new(port);
    loop {
        let answer = client.get("/health/ready");
        match answer {
            Ok(answer) if answer.status == 200 => return Ok(()),
            _ if started.elapsed() < READY_TIMEOUT => std::thread::sleep(Duration::from_millis(1)),
            Ok(answer) => bail!("the server is not ready: {}", String::from_utf8_lossy(&answer.body)),
            Err(error) => return Err(error.context("the server is not ready")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        let mut said = Said::default();
        lines.iter().for_each(|line| said.note(line));
        said
    }

    #[test]
    fn the_port_is_in_the_line_that_says_where_the_server_listens() {
        let port = |line| said(&[line]).port;
        assert_eq!(port(r#"{"level":"INFO","address":"127.0.0.1:4711","cores":2}"#), Some(4711));
        assert_eq!(port(r#"{"level":"INFO","address":"[::1]:80"}"#), Some(80));
        for other in [r#"{"level":"INFO","removed":3}"#, "just_storage: no", "", r#"{"address":"x"}"#] {
            assert_eq!(port(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_said_before_it_listens_is_kept() {
        let heard = said(&["just_storage: no", r#"{"changes":7}"#]);
        assert_eq!((heard.port, heard.applied), (None, Some(7)));
        assert!(heard.text.starts_with("just_storage: no\n"));
        let heard = said(&[r#"{"address":"[::1]:80"}"#, "more"]);
        assert_eq!((heard.port, heard.applied, heard.text.contains("more")), (Some(80), None, false));
    }

    #[test]
    fn roots_are_below_the_data_unless_they_are_apart() {
        let together = Places::together("/d".into());
        assert_eq!((together.hot(), together.cold()), ("/d/hot".into(), "/d/cold".into()));
        let apart = Places::apart("/d".into(), "/r".into());
        let arguments =
            ["--data-dir", "/d", "--hot-storage-root", "/r/hot", "--cold-storage-root", "/r/cold"];
        assert_eq!(apart.arguments(), arguments.map(OsString::from));
    }
}
