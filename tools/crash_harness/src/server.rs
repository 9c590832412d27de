//! The server under test, as a process.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Mutex;
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
    port: u16,
    listening_after: Duration,
    ready_after: Duration,
}

impl Server {
    /// Starts it on a free port and waits until it listens and says that it is ready.
    pub(crate) fn start(binary: &Path, places: &Places) -> Result<Self> {
        Self::start_with(binary, places, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub(crate) fn start_with(binary: &Path, places: &Places, arguments: &[&str]) -> Result<Self> {
        let started = Instant::now();
        let mut command = command(binary, places);
        let mut process =
            command.args(arguments).stderr(Stdio::piped()).spawn().context("start the server")?;
        let log = process.stderr.take().context("the server has a log");
        // From here on it is killed, whatever goes wrong.
        let mut server = Self::of(process);
        let mut lines = BufReader::new(log?);
        server.port = wait_for_port(&mut lines)?;
        server.listening_after = started.elapsed();
        // Whatever it still says is read, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        wait_until_ready(server.port)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn begin(binary: &Path, places: &Places) -> Result<Self> {
        let process = command(binary, places).stderr(Stdio::null()).spawn().context("start the server")?;
        Ok(Self::of(process))
    }

    fn of(process: Child) -> Self {
        let (listening_after, ready_after) = Default::default();
        Self { process: Mutex::new(process), port: 0, listening_after, ready_after }
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
        let mut process = self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the server"))?;
        process.wait().context("wait for the server").map(drop)
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

fn wait_for_port(lines: &mut BufReader<ChildStderr>) -> Result<u16> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("the server did not start: {said}");
        }
        if let Some(port) = port_in(&line) {
            return Ok(port);
        }
        said.push_str(&line);
    }
}

/// The port that a line of the log says the server listens on.
fn port_in(line: &str) -> Option<u16> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
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

    #[test]
    fn the_port_is_in_the_line_that_says_where_the_server_listens() {
        assert_eq!(port_in(r#"{"level":"INFO","address":"127.0.0.1:4711","cores":2}"#), Some(4711));
        assert_eq!(port_in(r#"{"level":"INFO","address":"[::1]:80"}"#), Some(80));
        for other in [r#"{"level":"INFO","removed":3}"#, "just_storage: no", "", r#"{"address":"x"}"#] {
            assert_eq!(port_in(other), None, "{other}");
        }
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
