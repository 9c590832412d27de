//! What the server runs on, and how it is taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::FileSystem;
use crate::server::{Server, sparse_file};

/// Something that can be cut and comes back.
pub(crate) trait Machine {
    /// Where the server keeps its data.
    fn data_directory(&self) -> PathBuf;
    /// Takes the server away, and with it whatever this machine loses.
    fn cut(&mut self, server: &Server) -> Result<()>;
    /// Makes ready for the next start, once the server is gone.
    fn recover(&mut self) -> Result<()>;
    /// Leaves nothing behind but the data.
    fn finish(&mut self) -> Result<()>;
}

/// A directory on the machine's own file system: `kill -9`.
pub(crate) struct PlainDirectory(PathBuf);

impl PlainDirectory {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        make_empty(directory)?;
        Ok(Self(directory.join("data")))
    }
}

impl Machine for PlainDirectory {
    fn data_directory(&self) -> PathBuf {
        self.0.clone()
    }

    fn cut(&mut self, server: &Server) -> Result<()> {
        server.kill()
    }

    fn recover(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A loop-mounted file system that is shut down without flushing its log: everything that was not synced is gone.
pub(crate) struct PowerCutDevice {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

const IMAGE_BYTES: u64 = 2 << 30;

impl PowerCutDevice {
    pub(crate) fn new(directory: &Path, file_system: FileSystem) -> Result<Self> {
        make_empty(directory)?;
        let (image, mount) = (directory.join("image"), directory.join("mount"));
        sparse_file(&image, IMAGE_BYTES)?;
        fs::create_dir(&mount)?;
        match file_system {
            FileSystem::Ext4 => run(Command::new("mkfs.ext4").arg("-q").arg(&image))?,
            FileSystem::Xfs => run(Command::new("mkfs.xfs").arg("-q").arg(&image))?,
        }
        let mut device = Self { image, mount, mounted: false };
        device.mount()?;
        Ok(device)
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    /// The kernel takes a ring of a killed process apart in its own time, and holds files meanwhile.
    fn unmount(&mut self) -> Result<()> {
        const ATTEMPTS: u32 = 100;
        self.mounted = false;
        for _ in 1..ATTEMPTS {
            if Command::new("umount").arg("-q").arg(&self.mount).stderr(Stdio::null()).status()?.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        run(Command::new("umount").arg(&self.mount))
    }
}

impl Machine for PowerCutDevice {
    fn data_directory(&self) -> PathBuf {
        self.mount.join("data")
    }

    fn cut(&mut self, server: &Server) -> Result<()> {
        // First the disk, with clients and server at full speed; then the process, which sees errors only.
        let shut_down = run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount));
        server.kill()?;
        shut_down
    }

    fn recover(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn finish(&mut self) -> Result<()> {
        self.unmount()
    }
}

impl Drop for PowerCutDevice {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.unmount();
        }
    }
}

fn make_empty(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    match fs::read_dir(directory)?.next() {
        None => Ok(()),
        Some(_) => bail!("{} is not empty", directory.display()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}
