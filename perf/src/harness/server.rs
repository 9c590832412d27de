//! A server that the harness has started, and that ends with it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::connection::Connection;
use crate::harness::description::Peer;
use crate::template::{Template, Values};

/// How long a server may take until it answers, and until it has ended.
const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(100);
/// How many ports a server may have.
const PORTS: u16 = 5;

/// Where a server listens and keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The first of its ports.
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    /// What the names of its objects start with.
    pub(crate) prefix: String,
    /// The core that it runs on.
    pub(crate) core: usize,
}

impl Place {
    /// Fills in what the run has chosen.
    pub(crate) fn fill(&self, text: &str) -> anyhow::Result<String> {
        let program = std::env::current_exe().context("this program has no path")?;
        let mut text = text.replace("{port}", &self.port.to_string());
        for index in 1..PORTS {
            text = text.replace(&format!("{{port_{index}}}"), &(self.port + index).to_string());
        }
        let data = self.data.to_str().context("the data directory is not UTF-8")?;
        let program = program.to_str().context("the path of this program is not UTF-8")?;
        Ok(text.replace("{data}", data).replace("{prefix}", &self.prefix).replace("{self}", program))
    }

    /// The address of its first port.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A request of the peer's description.
    pub(crate) fn template(&self, line: &str, body_bytes: Option<u64>) -> anyhow::Result<Template> {
        Template::new(&self.fill(line)?, &self.address().to_string(), body_bytes)
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a server, waits until it answers, and makes what uploads need.
    pub(crate) async fn start(peer: &Peer, place: &Place) -> anyhow::Result<Self> {
        fs::create_dir_all(&place.data).context("the data directory cannot be made")?;
        for directory in &peer.directories {
            fs::create_dir_all(place.data.join(place.fill(directory)?))?;
        }
        for file in &peer.files {
            fs::write(place.data.join(&file.name), place.fill(&file.text)?)?;
        }
        let log = place.data.join("server.log");
        let output = File::create(&log).context("the log cannot be made")?;
        // The kernel ends it if this process is killed, which a handler could not promise.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c", &place.core.to_string()]);
        for word in &peer.start {
            command.arg(place.fill(word)?);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} could not be started", peer.name))?;
        let mut server = Self { child, log };
        server.wait_until_ready(peer, place).await?;
        for line in &peer.prepare {
            server.ask(place, line).await.with_context(|| format!("{}: `{line}`", peer.name))?;
        }
        Ok(server)
    }

    /// Its process, of which all others of it are descendants.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn wait_until_ready(&mut self, peer: &Peer, place: &Place) -> anyhow::Result<()> {
        let mut request = Vec::new();
        place.template(&format!("GET {}", peer.ready), None)?.write(Values::default(), &mut request);
        let last_moment = Instant::now() + START_TIME_MAX;
        while Instant::now() < last_moment {
            if self.child.try_wait()?.is_some() {
                bail!("{} ended: {}", peer.name, self.last_words());
            }
            if let Ok(mut connection) = Connection::open(place.address(), 0, 1 << 20).await
                && let Ok(Ok(answer)) =
                    tokio::time::timeout(Duration::from_secs(5), connection.exchange(&request)).await
                && answer.status < 500
            {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{} is not ready: {}", peer.name, self.last_words());
    }

    async fn ask(&self, place: &Place, line: &str) -> anyhow::Result<()> {
        let mut request = Vec::new();
        place.template(line, Some(0))?.write(Values::default(), &mut request);
        let exchange = async {
            let mut connection = Connection::open(place.address(), 0, 0).await?;
            connection.exchange(&request).await
        };
        match exchange.await {
            Ok(answer) => {
                ensure!(answer.is_success(), "answered with {}", answer.status);
                Ok(())
            }
            Err(failure) => bail!("{}", failure.detail),
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.trim().lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let last_moment = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < last_moment {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is: at a path, or in one of the directories of `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}
