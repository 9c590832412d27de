//! Disks that fill up, fail and hang, as loop devices and the like. All of this needs root, and is undone when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::disk::{FileSystem, sparse_file};

/// How long anything here may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted file system.
pub(super) struct Disk {
    mount: PathBuf,
    /// What `mount` is given besides the directory.
    arguments: Vec<String>,
    mounted: bool,
}

/// A file system on which no write ends. Goes on when dropped: who writes to it cannot be ended before.
pub(super) struct Frozen(Option<PathBuf>);

impl Frozen {
    /// What waits goes on.
    pub(super) fn thaw(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |mount| thaw(&mount))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(mount) = &self.0 {
            let _ = thaw(mount);
        }
    }
}

fn thaw(mount: &Path) -> Result<()> {
    run(Command::new("fsfreeze").arg("-u").arg(mount))
}

impl Disk {
    /// A file system in an image of so many bytes.
    pub(super) fn image(directory: &Path, file_system: FileSystem, bytes: u64) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let image = directory.join("image");
        sparse_file(&image, bytes)?;
        make_file_system(&image, file_system)?;
        Self::mount_new(directory.join("mount"), vec!["-o".into(), "loop".into(), text(&image)])
    }

    /// A file system in memory.
    pub(super) fn tmpfs(mount: PathBuf, options: &str) -> Result<Self> {
        let arguments = ["-t", "tmpfs", "-o", options, "none"];
        Self::mount_new(mount, arguments.map(String::from).into())
    }

    fn mount_new(mount: PathBuf, arguments: Vec<String>) -> Result<Self> {
        fs::create_dir_all(&mount)?;
        let mut disk = Self { mount, arguments, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Takes so much of its space for nothing.
    pub(super) fn occupy(&self, megabytes: u64) -> Result<()> {
        run(Command::new("fallocate").args(["-l", &format!("{megabytes}M")]).arg(self.mount.join("occupied")))
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.mount
    }

    /// Takes it away and brings it back: what has only been in memory is gone.
    pub(super) fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Every write and sync waits from now on.
    pub(super) fn freeze(&self) -> Result<Frozen> {
        run(Command::new("fsfreeze").arg("-f").arg(&self.mount))?;
        Ok(Frozen(Some(self.mount.clone())))
    }

    /// Gives a file system in memory another size.
    pub(super) fn resize(&self, size: &str) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.mount))
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(&self.arguments).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    /// The kernel takes a ring of an ended process apart in its own time, and holds files meanwhile.
    fn unmount(&mut self) -> Result<()> {
        self.mounted = false;
        unmount(&self.mount)
    }
}

fn unmount(mount: &Path) -> Result<()> {
    within_patience(&format!("unmount {}", mount.display()), || {
        let mut unmount = Command::new("umount");
        Ok(unmount.arg("-q").arg(mount).stderr(Stdio::null()).status()?.success().then_some(()))
    })
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.unmount();
        }
    }
}

/// A file system in a sparse image in a small file system in memory. It has room as far as it can tell; the blocks
/// that are not there fail when they are written back.
pub(super) struct OverbookedDisk {
    // Each is undone before what it stands on.
    disk: Disk,
    _device: LoopDevice,
    memory: Disk,
}

impl OverbookedDisk {
    pub(super) fn new(directory: &Path, file_system: FileSystem) -> Result<Self> {
        let memory = Disk::tmpfs(directory.join("memory"), "size=80M")?;
        let image = memory.path().join("image");
        sparse_file(&image, 400 << 20)?;
        match file_system {
            FileSystem::Ext4 => {
                // What it needs for itself is there, as XFS writes its log of 64 MiB when it is made: a journal that
                // could not be written would turn the file system read-only.
                let journal = ["-q", "-b", "4096", "-E", "nodiscard", "-J", "size=4,location=32M"];
                run(Command::new("mkfs.ext4").args(journal).arg(&image))?;
                run(Command::new("fallocate").args(["-l", "64M"]).arg(&image))?;
            }
            FileSystem::Xfs => make_file_system(&image, file_system)?,
        }
        let device = LoopDevice::new(&image)?;
        device.write_page_by_page()?;
        let disk = Disk::mount_new(directory.join("mount"), vec![device.0.clone()])?;
        Ok(Self { disk, _device: device, memory })
    }

    pub(super) fn path(&self) -> &Path {
        self.disk.path()
    }

    pub(super) fn remount(&mut self) -> Result<()> {
        self.disk.remount()
    }

    /// Now there is room.
    pub(super) fn make_room(&self) -> Result<()> {
        self.memory.resize("300M")
    }
}

/// A file system whose device refuses all writes with EIO when told to.
pub(super) struct FailingDisk {
    // Each is undone before what it stands on.
    disk: Disk,
    _device: LoopDevice,
    _exported: Exported,
    flag: PathBuf,
}

impl FailingDisk {
    pub(super) fn new(directory: &Path, file_system: FileSystem, bytes: u64) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let flag = directory.join("fail");
        let exported = Exported::new(directory, &flag, bytes)?;
        let device = LoopDevice::new(&exported.file)?;
        make_file_system(Path::new(&device.0), file_system)?;
        let disk = Disk::mount_new(directory.join("mount"), vec![device.0.clone()])?;
        Ok(Self { disk, _device: device, _exported: exported, flag })
    }

    pub(super) fn path(&self) -> &Path {
        self.disk.path()
    }

    pub(super) fn remount(&mut self) -> Result<()> {
        self.disk.remount()
    }

    /// Every write fails from now on, or none does.
    pub(super) fn fail(&self, fails: bool) -> Result<()> {
        match fails {
            true => File::create(&self.flag).map(drop)?,
            false => fs::remove_file(&self.flag)?,
        }
        Ok(())
    }
}

/// An image behind nbdkit's error filter, as a file.
struct Exported {
    process: Child,
    directory: PathBuf,
    file: PathBuf,
}

impl Exported {
    fn new(directory: &Path, flag: &Path, bytes: u64) -> Result<Self> {
        let (image, directory) = (directory.join("image"), directory.join("exported"));
        sparse_file(&image, bytes)?;
        fs::create_dir_all(&directory)?;
        let file = directory.join("disk");
        let process = Command::new("nbdfuse")
            .arg(&file)
            .args(["--command", "nbdkit", "-s", "--filter=error", "file"])
            .arg(&image)
            .args(["error-pwrite=EIO", "error-pwrite-rate=100%"])
            .arg(format!("error-pwrite-file={}", flag.display()))
            .stderr(Stdio::null())
            .spawn()
            .context("start nbdfuse")?;
        let exported = Self { process, directory, file };
        within_patience("see the exported image", || Ok(exported.file.exists().then_some(())))?;
        Ok(exported)
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // A loop device that is being taken apart still holds it for a moment.
        let _ = unmount(&self.directory);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A block device.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path) -> Result<Self> {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output()?;
        if !output.status.success() {
            bail!("losetup: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self(String::from_utf8(output.stdout)?.trim().to_owned()))
    }

    /// Makes it honest: the loop driver says of a write that was cut short by a full file system that it was done. One
    /// of a single page is done or not.
    fn write_page_by_page(&self) -> Result<()> {
        let name = self.0.trim_start_matches("/dev/");
        Ok(fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "4")?)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").args(["-d", &self.0]));
    }
}

fn make_file_system(device: &Path, file_system: FileSystem) -> Result<()> {
    let program = match file_system {
        FileSystem::Ext4 => "mkfs.ext4",
        FileSystem::Xfs => "mkfs.xfs",
    };
    run(Command::new(program).arg("-q").arg(device))
}

/// Looks again and again until there is something to see.
pub(super) fn within_patience<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if started.elapsed() > PATIENCE {
            bail!("gave up to {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
