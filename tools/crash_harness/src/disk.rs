//! A file system in an image, on a device that forgets.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::volatile::VolatileDevice;

const IMAGE_BYTES: u64 = 3 << 30;

/// What kind of disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskKind {
    pub(crate) file_system: FileSystem,
    pub(crate) device: DeviceKind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DeviceKind {
    /// The image itself. What reached the device stays; what the file system still held is lost.
    Loop,
    /// A device with a write cache. What was not flushed is lost, direct writes among it.
    Volatile,
}

/// A mounted file system.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    /// Where the device has a cache.
    volatile: Option<VolatileDevice>,
    /// Where it has none: a program that waits for the word to shut the file system down. To start it only then
    /// would take as long as many requests do, and the last of them are those that a missing sync loses.
    shutter: Option<Child>,
    mounted: bool,
}

impl Disk {
    /// Makes the file system in `directory` and mounts it.
    pub(crate) fn new(directory: &Path, kind: DiskKind) -> Result<Self> {
        let (image, mount) = (directory.join("image"), directory.join("mount"));
        fs::create_dir_all(&mount)?;
        sparse_file(&image, IMAGE_BYTES)?;
        match kind.file_system {
            FileSystem::Ext4 => run(Command::new("mkfs.ext4").arg("-q").arg(&image))?,
            FileSystem::Xfs => run(Command::new("mkfs.xfs").arg("-q").arg(&image))?,
        }
        let volatile = match kind.device {
            DeviceKind::Loop => None,
            DeviceKind::Volatile => Some(VolatileDevice::new(directory)?),
        };
        let mut disk = Self { image, mount, volatile, shutter: None, mounted: false };
        disk.attach()?;
        Ok(disk)
    }

    pub(crate) fn mount_path(&self) -> &Path {
        &self.mount
    }

    /// From now on nothing reaches the image any more, and all that was not synced is lost.
    pub(crate) fn lose(&mut self) -> Result<()> {
        match &mut self.volatile {
            Some(device) => device.lose(),
            // Without a flush of the file system's log.
            None => self.end_shutter("shutdown\n"),
        }
    }

    /// Tells it a last word.
    fn end_shutter(&mut self, word: &str) -> Result<()> {
        let Some(mut shutter) = self.shutter.take() else { return Ok(()) };
        let told = shutter.stdin.take().context("it listens")?.write_all(word.as_bytes());
        let ended = shutter.wait()?;
        told.context("tell xfs_io to shut the file system down")?;
        if ended.success() { Ok(()) } else { bail!("xfs_io ended with {ended}") }
    }

    /// Mounts what the image has; the file system's journal is replayed.
    pub(crate) fn attach(&mut self) -> Result<()> {
        let device = match &mut self.volatile {
            Some(device) => device.attach(&self.image)?,
            None => &self.image,
        };
        run(Command::new("mount").args(["-o", "loop"]).arg(device).arg(&self.mount))?;
        self.mounted = true;
        if self.volatile.is_none() {
            let mut xfs_io = Command::new("xfs_io");
            xfs_io.arg("-x").arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::null());
            self.shutter = Some(xfs_io.spawn().context("start xfs_io")?);
        }
        Ok(())
    }

    /// Unmounts it and takes its device apart.
    pub(crate) fn detach(&mut self) -> Result<()> {
        self.end_shutter("")?;
        if self.mounted {
            // Tried once: who failed to unmount it here will not do better when the disk is dropped.
            self.mounted = false;
            unmount(&self.mount)?;
        }
        self.volatile.as_mut().map_or(Ok(()), VolatileDevice::detach)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

/// An empty file of so many bytes.
pub(crate) fn sparse_file(path: &Path, bytes: u64) -> Result<()> {
    Ok(File::create(path)?.set_len(bytes)?)
}

/// The kernel takes the ring of a killed process and a loop device apart in its own time, and holds files meanwhile.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    const ATTEMPTS: u32 = 1000;
    for _ in 1..ATTEMPTS {
        if Command::new("umount").arg("-q").arg(path).stderr(Stdio::null()).status()?.success() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    run(Command::new("umount").arg(path))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}
