//! A block device with a volatile write cache, as most real ones have.
//!
//! ```text
//! file system ─► loop ─► nbdfuse ─► nbdkit: cache in memory ──flush──► image
//! ```
//! What the loop device writes stays in nbdkit's cache until the file system flushes the device; killed, nbdkit
//! forgets it. Loop devices flush for a forced write (FUA) too, so that one is never weaker than on a real disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::disk::unmount;

/// How long either program may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The smallest unit of the cache, so that a flushed block takes no unflushed neighbour with it.
const CACHE_BLOCK: &str = "cache-min-block-size=4096";

/// The two programs that make it, while it is attached.
pub(crate) struct VolatileDevice {
    /// Where nbdkit keeps its cache, in a file without a name.
    directory: PathBuf,
    socket: PathBuf,
    /// The file that nbdfuse makes look like the device.
    node: PathBuf,
    nbdkit: Option<Child>,
    nbdfuse: Option<Child>,
}

impl VolatileDevice {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        // nbdkit changes its working directory.
        let directory = directory.canonicalize()?;
        let (socket, node) = (directory.join("socket"), directory.join("device"));
        File::create(&node)?;
        Ok(Self { directory, socket, node, nbdkit: None, nbdfuse: None })
    }

    /// Starts with an empty cache on the image, and says where the device is.
    pub(crate) fn attach(&mut self, image: &Path) -> Result<&Path> {
        let running = self.directory.join("nbdkit.pid");
        let _ = (fs::remove_file(&self.socket), fs::remove_file(&running));
        let nbdkit = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--filter=cache", "--unix"])
            .arg(&self.socket)
            .arg("--pidfile")
            .arg(&running)
            .arg("file")
            .arg(image.canonicalize()?)
            .args(["cache=writeback", CACHE_BLOCK])
            .env("TMPDIR", &self.directory)
            .spawn()
            .context("start nbdkit")?;
        wait_for(&running, self.nbdkit.insert(nbdkit))?;

        let running = self.directory.join("nbdfuse.pid");
        let _ = fs::remove_file(&running);
        let nbdfuse = Command::new("nbdfuse")
            .arg("--pidfile")
            .arg(&running)
            .arg(&self.node)
            .arg("--unix")
            .arg(&self.socket)
            // It says at length that it has lost its server, which is the point.
            .stderr(Stdio::null())
            .spawn()
            .context("start nbdfuse")?;
        wait_for(&running, self.nbdfuse.insert(nbdfuse))?;
        Ok(&self.node)
    }

    /// Forgets all that was not flushed.
    pub(crate) fn lose(&mut self) -> Result<()> {
        let nbdkit = self.nbdkit.as_mut().context("the device is attached")?;
        nbdkit.kill().context("kill nbdkit")
    }

    /// Ends both programs. The file system must have been unmounted.
    pub(crate) fn detach(&mut self) -> Result<()> {
        if let Some(mut nbdfuse) = self.nbdfuse.take() {
            // It ends with its mount.
            unmount(&self.node)?;
            nbdfuse.wait().context("wait for nbdfuse")?;
        }
        if let Some(mut nbdkit) = self.nbdkit.take() {
            nbdkit.kill().context("kill nbdkit")?;
            nbdkit.wait().context("wait for nbdkit")?;
        }
        Ok(())
    }
}

/// A program writes its file once it serves.
fn wait_for(running: &Path, program: &mut Child) -> Result<()> {
    let started = Instant::now();
    while fs::metadata(running).map_or(0, |file| file.len()) == 0 {
        if let Some(ended) = program.try_wait()? {
            bail!("{} was to be written, and its program ended with {ended}", running.display());
        }
        if started.elapsed() > START_TIMEOUT {
            bail!("{} is not written", running.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
