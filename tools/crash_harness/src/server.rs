//! The server under test, as a process.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A running server. Killed when dropped.
pub(crate) struct Server {
    process: Mutex<Child>,
    port: u16,
    ready_after: Duration,
}

impl Server {
    /// Starts it on a free port and waits until it listens.
    pub(crate) fn start(binary: &Path, data: &Path) -> Result<Self> {
        Self::start_with(binary, data, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub(crate) fn start_with(binary: &Path, data: &Path, arguments: &[String]) -> Result<Self> {
        let started = Instant::now();
        let mut process = Command::new(binary)
            .args([
                "serve",
                "--dev",
                "--listen-addr",
                "127.0.0.1:0",
                "--log-format",
                "json",
                "--log-level",
                "info",
            ])
            .args(["--gc-interval-secs", "10", "--gc-grace-secs", "0", "--data-dir"])
            .arg(data)
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let log = process.stderr.take().context("the server has a log")?;
        let mut lines = BufReader::new(log);
        let port = match wait_for_port(&mut lines) {
            Ok(port) => port,
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                return Err(error);
            }
        };
        // Whatever it still says is read, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Self { process: Mutex::new(process), port, ready_after: started.elapsed() })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

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

fn wait_for_port(lines: &mut BufReader<std::process::ChildStderr>) -> Result<u16> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("the server did not start: {said}");
        }
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = event["address"].as_str() {
            let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            return port.context("the address has a port");
        }
        said.push_str(&line);
    }
}

/// An empty file of so many bytes.
pub(crate) fn sparse_file(path: &Path, bytes: u64) -> Result<()> {
    Ok(File::create(path)?.set_len(bytes)?)
}
