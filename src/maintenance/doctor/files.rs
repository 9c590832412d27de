//! The directories that the server keeps things in: whether it can write there, on what file system they are, what that
//! can do, and how much is left of it. What is not there yet is judged by the directory that it would be made in.

use std::fs::{self, File};
use std::io::{self, IoSlice, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, Mode, OFlags, access, fallocate, linkat, open, statvfs,
};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use rustix::process::geteuid;
use uuid::Uuid;

use super::Check;
use crate::config::StorePaths;
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::data_plane::buffers::ALIGNMENT_BYTES;
use crate::infrastructure::storage::{DatabaseRoom, mount_of};

/// What is written to try a directory out: one block of direct I/O.
const TRIED_BYTES: usize = ALIGNMENT_BYTES;
/// Less than one part in so many is little room.
const LITTLE_ROOM_PART: u64 = 20;
/// Fewer files than these to be made is as bad as no room.
const FILES_FREE_MIN: u64 = 1024;
/// File systems of which several machines may have the same one mounted.
const SHARED: [&str; 9] = ["9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "nfs", "nfs4", "smb3"];
/// File systems that are gone with the machine's power.
const IN_MEMORY: [&str; 2] = ["ramfs", "tmpfs"];
/// Before this program was written no clock was right that it reads.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600); // 2026-01-01T00:00:00Z
/// By so much a clock may differ from that of another machine's file system.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    DataDirectory,
    Root(StorageClass),
}

/// A directory that the server has to have.
pub(super) struct Ground<'p> {
    purpose: Purpose,
    path: &'p Path,
}

impl<'p> Ground<'p> {
    pub(super) fn new(purpose: Purpose, path: &'p Path) -> Self {
        Self { purpose, path }
    }

    fn name(&self, of_it: &str) -> String {
        match self.purpose {
            Purpose::DataDirectory => format!("data{of_it}"),
            Purpose::Root(class) => format!("{class}{of_it}"),
        }
    }

    /// What is to be said of it: of a directory that cannot be written to, nothing more than that.
    pub(super) fn examine(&self, paths: &StorePaths) -> Vec<Check> {
        let (directory, is_there) = match standing(self.path) {
            Ok(directory) => (directory.clone(), directory == self.path),
            Err(check) => return vec![check.named(self.name(""))],
        };
        let tried = match self.try_out(&directory, is_there) {
            Ok(tried) => tried,
            Err(trouble) => return vec![trouble.named(self.name(""))],
        };
        let mut checks = vec![self.file_system(&directory, is_there, paths)];
        if matches!(self.purpose, Purpose::Root(_)) {
            checks.extend(tried.into_iter().map(|(name, trouble)| match trouble {
                None => Check::right(self.name(name), works(name)),
                Some(trouble) => trouble.named(self.name(name)),
            }));
        }
        checks.push(self.room(&directory, paths));
        checks
    }

    /// Tries what the server does to files there. What it cannot do without is an error.
    fn try_out(
        &self,
        directory: &Path,
        is_there: bool,
    ) -> Result<Vec<(&'static str, Option<Trouble>)>, Trouble> {
        let place = if is_there { self.writable_parts(directory)? } else { directory.to_owned() };
        let file = TriedFile::new(&place);
        file.write_durably().map_err(|error| Trouble::of_writing(&place, &error))?;
        if self.purpose == Purpose::DataDirectory {
            return Ok(Vec::new());
        }
        Ok(vec![
            (
                "_direct_io",
                file.write_direct().err().map(|error| {
                    Trouble::poor(
                        format!("direct I/O is refused ({error}); uploads go through the page cache, slower"),
                        "ext4 and XFS on a disk of this machine have it",
                    )
                }),
            ),
            ("_unnamed", TriedFile::new(&place).link_unnamed()),
            (
                "_allocation",
                file.allocate().err().map(|error| {
                    Trouble::poor(
                        format!("space cannot be allocated ahead ({error}); large uploads are slower"),
                        "ext4 and XFS have it",
                    )
                }),
            ),
        ])
    }

    /// Where to try a directory out that is there: every part of it that the server has made has to be writable.
    fn writable_parts(&self, directory: &Path) -> Result<PathBuf, Trouble> {
        let mut place = directory.to_owned();
        if matches!(self.purpose, Purpose::Root(_)) {
            for part in ["blobs", "blobs/00", "packs", "tmp"].map(|part| directory.join(part)) {
                if part.is_dir() {
                    access(&part, Access::WRITE_OK | Access::EXEC_OK)
                        .map_err(|error| Trouble::of_writing(&part, &error.into()))?;
                    place = part;
                }
            }
        }
        Ok(place)
    }

    fn file_system(&self, directory: &Path, is_there: bool, paths: &StorePaths) -> Check {
        let name = self.name("");
        let mount = mount_of(directory);
        let kind =
            mount.map_or_else(|| "a file system that is not known".to_owned(), |mount| mount.file_system);
        let place = self.path.display();
        let found = match is_there {
            true => format!("{place} is on {kind}, and takes writes"),
            false => format!("{place} is made at the first start, on {kind}"),
        };
        let owner = fs::metadata(directory).map_or(0, |metadata| metadata.uid());
        let holds_database = self.purpose == Purpose::DataDirectory && !paths.database_url.is_shared();
        if IN_MEMORY.contains(&kind.as_str()) {
            return Check::poor(name, found, "that is gone when the machine is: keep it on a disk");
        }
        if kind == "overlay" {
            return Check::poor(name, found, "that may go with the container: mount a volume there");
        }
        if SHARED.contains(&kind.as_str()) && !paths.database_url.is_shared() {
            return match holds_database {
                true => Check::wrong(
                    name,
                    found,
                    "SQLite needs a disk of this machine: set DATA_DIR or DATABASE_URL",
                ),
                false => {
                    Check::poor(name, found, "only one server may use it, unless the database is PostgreSQL")
                }
            };
        }
        if geteuid().is_root() && owner != 0 && is_there {
            let remedy =
                format!("run this as that user: setpriv --reuid {owner} --clear-groups just_storage doctor");
            return Check::poor(name, format!("{found}, which belongs to user {owner}"), remedy);
        }
        Check::right(name, found)
    }

    fn room(&self, directory: &Path, paths: &StorePaths) -> Check {
        let name = self.name("_room");
        let room = match statvfs(directory) {
            Ok(room) => room,
            Err(error) => {
                return Check::wrong(
                    name,
                    format!("its file system does not answer ({error})"),
                    "see what it hangs on",
                );
            }
        };
        let reserve = paths.database_url.directory().and_then(|database| {
            let database = standing(database).ok()?;
            let is_shared = fs::metadata(&database).ok()?.dev() == fs::metadata(directory).ok()?.dev();
            is_shared.then(|| DatabaseRoom::of(&database).ok().map(|room| room.reserve_bytes())).flatten()
        });
        let room = Room {
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
            size_bytes: room.f_blocks.saturating_mul(room.f_frsize),
            free_files: (room.f_files > 0).then_some(room.f_favail),
            reserve_bytes: reserve.unwrap_or(0),
        };
        room.judge(name)
    }
}

/// What is left of a file system.
struct Room {
    free_bytes: u64,
    size_bytes: u64,
    /// How many files can be made, where there is a limit to it.
    free_files: Option<u64>,
    /// What uploads leave to a database there.
    reserve_bytes: u64,
}

impl Room {
    fn judge(&self, name: String) -> Check {
        let files = self.free_files.map(|free| format!(", and {} files can be made", HumanCount(free)));
        let (free, size) = (BinaryBytes(self.free_bytes), BinaryBytes(self.size_bytes));
        let found = format!("{free} of {size} are free{}", files.unwrap_or_default());
        if self.free_files.is_some_and(|free| free < FILES_FREE_MIN) {
            return Check::wrong(name, found, "make a file system there that can have more files");
        }
        if self.free_bytes <= self.reserve_bytes {
            let remedy =
                format!("make room: uploads leave {} to the database", BinaryBytes(self.reserve_bytes));
            return Check::wrong(name, found, remedy);
        }
        match self.free_bytes < self.size_bytes / LITTLE_ROOM_PART {
            true => Check::poor(name, found, "make room, or take a larger disk"),
            false => Check::right(name, found),
        }
    }
}

/// What works, in words.
fn works(name: &str) -> &'static str {
    match name {
        "_direct_io" => "direct and durable writes work",
        "_unnamed" => "files are written without a name and linked into place",
        _ => "space can be allocated ahead",
    }
}

/// What is not as it should be, before it is said of what.
struct Trouble {
    is_wrong: bool,
    found: String,
    remedy: String,
}

impl Trouble {
    fn wrong(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_wrong: true, found: found.into(), remedy: remedy.into() }
    }

    fn poor(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_wrong: false, found: found.into(), remedy: remedy.into() }
    }

    /// A directory that takes no writes.
    fn of_writing(directory: &Path, error: &io::Error) -> Self {
        let directory = directory.display();
        let user = geteuid().as_raw();
        let remedy = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount it to be written to, or see why the kernel no longer does".into()
            }
            io::ErrorKind::PermissionDenied => format!("chown -R {user} {directory}, or run it as the owner"),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there".into(),
            _ => "see what the kernel says of it (dmesg)".into(),
        };
        Self::wrong(format!("{directory} takes no writes ({error})"), remedy)
    }

    fn named(self, name: String) -> Check {
        match self.is_wrong {
            true => Check::wrong(name, self.found, self.remedy),
            false => Check::poor(name, self.found, self.remedy),
        }
    }
}

/// The directory itself, or the nearest above it that is there.
fn standing(path: &Path) -> Result<PathBuf, Trouble> {
    let mut at = path;
    loop {
        let shown = if at == Path::new("") { Path::new(".") } else { at };
        match fs::metadata(shown) {
            Ok(metadata) if metadata.is_dir() => return Ok(shown.into()),
            Ok(_) => {
                let found = format!("{} is no directory", at.display());
                return Err(Trouble::wrong(found, "move it out of the way, or set another directory"));
            }
            Err(error) => match (error.kind(), at.parent()) {
                (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, Some(parent)) => at = parent,
                _ => {
                    let found = format!("{} cannot be looked at ({error})", at.display());
                    return Err(Trouble::wrong(found, "let the server's user into all directories above it"));
                }
            },
        }
    }
}

/// A file that is written to find out whether it can be, and removed with this.
struct TriedFile {
    directory: PathBuf,
    path: PathBuf,
}

impl Drop for TriedFile {
    fn drop(&mut self) {
        // Where it could not be made, there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

impl TriedFile {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.into(), path: directory.join(format!("doctor-{}", Uuid::new_v4())) }
    }

    /// Writes, syncs, and reads back.
    fn write_durably(&self) -> io::Result<()> {
        let mut file = File::options().read(true).write(true).create_new(true).open(&self.path)?;
        file.write_all(&[0x5a; TRIED_BYTES])?;
        file.sync_all()?;
        file.rewind()?;
        let mut read = Vec::new();
        file.read_to_end(&mut read)?;
        match read.len() == TRIED_BYTES && read.iter().all(|byte| *byte == 0x5a) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it reads back as something else")),
        }
    }

    /// Writes one block as the log does.
    fn write_direct(&self) -> io::Result<()> {
        let file = open(&self.path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty())?;
        let block = vec![0; 2 * TRIED_BYTES];
        let aligned = block.as_ptr().align_offset(ALIGNMENT_BYTES);
        let block = IoSlice::new(&block[aligned..aligned + TRIED_BYTES]);
        match pwritev2(&file, &[block], 0, ReadWriteFlags::DSYNC)? {
            TRIED_BYTES => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, 1 << 20)?)
    }

    /// Makes a file without a name and gives it one, as uploads do.
    fn link_unnamed(&self) -> Option<Trouble> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        let file = match open(&self.directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(error) => {
                let found =
                    format!("no files without a name ({error}); a name for the time being serves instead");
                return Some(Trouble::poor(found, "ext4 and XFS have them"));
            }
        };
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(CWD, own, CWD, &self.path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => None,
            Err(error) => {
                let remedy = match error {
                    Errno::NOENT => "mount /proc: the way to a file without a name leads through it",
                    _ => "see what the kernel's security modules say of it",
                };
                Some(Trouble::wrong(
                    format!("a file without a name cannot be linked into place ({error})"),
                    remedy,
                ))
            }
        }
    }
}

/// Whether the machine's clock can be believed: what it says is told to clients as dates.
pub(super) fn clock(paths: &StorePaths) -> Check {
    const NAME: &str = "clock";
    const REMEDY: &str = "set it, and keep it by a time service (systemd-timesyncd, chrony)";
    let now = SystemTime::now();
    let moment = |time: SystemTime| crate::domain::value_objects::Timestamp::from(time).to_string();
    if now < SystemTime::UNIX_EPOCH + CLOCK_MIN {
        return Check::wrong(NAME, format!("it says {}, which has long been", moment(now)), REMEDY);
    }
    let written = |path: &Path| Some((fs::metadata(path).ok()?.modified().ok()?, path.to_owned()));
    let mut files: Vec<_> =
        [&paths.hot_storage_root, &paths.cold_storage_root].map(|root| root.join("just_storage.root")).into();
    files.extend(paths.database_url.file().map(Path::to_owned));
    let latest = files.iter().filter_map(|path| written(path)).max();
    if let Some((time, path)) = latest.filter(|(time, _)| *time > now + CLOCK_DIFFERENCE_MAX) {
        let ahead = HumanDuration(time.duration_since(now).unwrap_or_default());
        let found = format!("it says {}, {ahead} before {} was written", moment(now), path.display());
        return Check::wrong(NAME, found, REMEDY);
    }
    for root in [&paths.hot_storage_root, &paths.cold_storage_root] {
        let difference = difference_of(root).unwrap_or_default();
        if difference > CLOCK_DIFFERENCE_MAX {
            let found =
                format!("it differs from that of {} by {}", root.display(), HumanDuration(difference));
            return Check::poor(NAME, found, "keep both machines' clocks by a time service");
        }
    }
    Check::right(NAME, format!("it says {}", moment(now)))
}

/// By how much a file that is written now says that it is not now.
fn difference_of(root: &Path) -> Option<Duration> {
    let file = TriedFile::new(&standing(root).ok()?);
    let before = SystemTime::now();
    file.write_durably().ok()?;
    let (time, after) = (fs::metadata(&file.path).ok()?.modified().ok()?, SystemTime::now());
    Some(match time < before {
        true => before.duration_since(time).ok()?,
        false => time.duration_since(after).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn room_is_little_below_a_twentieth_and_none_where_only_the_reserve_is_left() {
        for (free_bytes, free_files, state) in [
            (50, Some(1024), State::Right),
            (50, None, State::Right),
            (49, None, State::Poor),
            (11, None, State::Poor),
            (10, None, State::Wrong),
            (500, Some(1023), State::Wrong),
        ] {
            let room = Room { free_bytes, size_bytes: 1000, free_files, reserve_bytes: 10 };
            assert_eq!(room.judge("data_room".into()).state, state, "{free_bytes} {free_files:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_judged_by_what_is_above_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(standing(&directory.path().join("a/b/c")).is_ok_and(|found| found == directory.path()));
        assert!(standing(directory.path()).is_ok_and(|found| found == directory.path()));
        assert!(standing(Path::new("not-there-at-all/x")).is_ok_and(|found| found == Path::new(".")));
        assert!(standing(&file.join("x")).is_err_and(|trouble| trouble.found.contains("no directory")));
    }
}
