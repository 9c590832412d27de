//! What the server does when its disks fill up, fail or hang, on real file systems: what it answers, that what can be
//! read is read, that nothing acknowledged is lost, and that it goes on by itself where it may. Each scenario has disks
//! and a server of its own, and all run at once: they mostly wait.

mod disk;
mod witness;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use self::disk::{Disk, FailingDisk, OverbookedDisk, within_patience};
use self::witness::{Answer, LARGE_BYTES, SMALL_BYTES, Witness};
use crate::disk::FileSystem::{self, Ext4, Xfs};
use crate::server::{Places, Server};

/// Limits short enough for the scenarios, and long enough for a busy machine.
const TIMEOUTS: [&str; 6] =
    ["--storage-timeout-secs", "4", "--metadata-timeout-secs", "4", "--drain-timeout-secs", "1"];

/// What a scenario is given.
struct Place {
    binary: PathBuf,
    /// For its disks and whatever else it has.
    directory: PathBuf,
}

type Scenario = (&'static str, fn(&Place) -> Result<usize>);

const SCENARIOS: [Scenario; 15] = [
    ("full, ext4", |place| full(place, Ext4, 40, 1)),
    ("full, xfs", |place| full(place, Xfs, 300, 150)),
    ("full under the database", database_full),
    ("no inodes left", no_inodes),
    ("full when it syncs, ext4", |place| overbooked(place, Ext4)),
    ("full when it syncs, xfs", |place| overbooked(place, Xfs)),
    ("full when the database syncs, xfs", overbooked_database),
    ("roots fail, ext4", |place| roots_fail(place, Ext4, 64)),
    ("roots fail, xfs", |place| roots_fail(place, Xfs, 320)),
    ("database fails, ext4", |place| database_fails(place, Ext4, 64)),
    ("database fails, xfs", |place| database_fails(place, Xfs, 320)),
    ("everything hangs", everything_hangs),
    ("roots hang", roots_hang),
    ("database hangs", database_hangs),
    ("ended while it hangs", ended_while_it_hangs),
];

/// Runs all scenarios whose names begin with `only`, and tells how each ended.
pub(crate) fn run(binary: &Path, directory: &Path, only: &str) -> Result<()> {
    ensure!(is_root()?, "disks are made and mounted: this needs root");
    fs::create_dir_all(directory)?;
    ensure!(fs::read_dir(directory)?.next().is_none(), "{} is not empty", directory.display());
    let failed = std::thread::scope(|scope| {
        let scenarios: Vec<_> = SCENARIOS
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| name.starts_with(only))
            .map(|(number, (name, scenario))| {
                let place = Place { binary: binary.into(), directory: directory.join(number.to_string()) };
                scope.spawn(move || tell(name, &place, *scenario))
            })
            .collect();
        scenarios.into_iter().filter_map(|scenario| scenario.join().ok()).filter(|held| !held).count()
    });
    if failed > 0 {
        bail!("{failed} scenarios have failed");
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    Ok(Command::new("id").arg("-u").output()?.stdout == b"0\n")
}

fn tell(name: &str, place: &Place, scenario: fn(&Place) -> Result<usize>) -> bool {
    let started = Instant::now();
    let result = fs::create_dir_all(&place.directory).map_err(Into::into).and_then(|()| scenario(place));
    let _ = fs::remove_dir_all(&place.directory);
    let seconds = started.elapsed().as_secs();
    match &result {
        Ok(objects) => println!("{name}: as it should be, {objects} objects, {seconds} s"),
        Err(error) => println!("{name}: FAILED after {seconds} s: {error:#}"),
    }
    result.is_ok()
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A server with all of its data in one directory.
    fn server_in(&self, data: &Path) -> Result<Witness> {
        Witness::start(&self.binary, &Places::together(data.into()), &TIMEOUTS)
    }

    /// A server whose roots are elsewhere than its database.
    fn server_of(&self, data: &Path, roots: &Path) -> Result<Witness> {
        Witness::start(&self.binary, &Places::apart(data.into(), roots.into()), &TIMEOUTS)
    }

    /// Starts the server again after its disk has been taken away and brought back, and reads everything.
    fn check_after(&self, witness: Witness, remount: impl FnOnce() -> Result<()>) -> Result<Witness> {
        self.check_ended(witness, Server::stop, remount)
    }

    /// The same for a server that ends in another way.
    fn check_ended(
        &self,
        witness: Witness,
        end: impl FnOnce(Server) -> Result<()>,
        remount: impl FnOnce() -> Result<()>,
    ) -> Result<Witness> {
        let places = witness.places().clone();
        let start = || {
            remount()?;
            Server::start_with(&self.binary, &places, &TIMEOUTS)
        };
        let witness = witness.restart(end, start)?;
        witness.check().context("after a restart")?;
        witness.must_be_ready()?;
        Ok(witness)
    }
}

/// Uploads fill a small disk that the database shares. Reads and deletes go on, and a delete makes room again.
fn full(place: &Place, file_system: FileSystem, megabytes: u64, occupied: u64) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), file_system, megabytes << 20)?;
    disk.occupy(occupied)?;
    let data = disk.path().join("data");
    let mut witness = place.server_in(&data)?;
    for length in [8 << 20, LARGE_BYTES] {
        witness.put_until_refused(length)?.must_be(507, "no_space")?;
    }
    // What the last refused upload had been given comes free in the file system's own time, and is room again.
    within_patience("see that the disk is full", || {
        witness.put_until_refused(SMALL_BYTES)?.must_be(507, "no_space")?;
        Ok(witness.must_not_be_ready("hot_storage").is_ok().then_some(()))
    })?;
    witness.check()?;
    // Open files must not keep the space of what is deleted.
    for _ in 0..3 {
        witness.delete_oldest()?;
    }
    witness.put_until_taken(LARGE_BYTES)?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// The database's own disk is full, by something else's doing. Uploads go on when that has gone.
fn database_full(place: &Place) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), Ext4, 32 << 20)?;
    let (data, roots) = (disk.path().join("data"), place.path("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    witness.must_put(SMALL_BYTES)?;
    // It is seen, and so in the database.
    witness.check()?;
    let filler = disk.path().join("filler");
    fill(&filler)?;
    let mut refusal = witness.put_until_refused(SMALL_BYTES)?;
    if acknowledges_by_log() && refusal.status == 503 {
        // It is in the log, and the database had room when it was last looked at.
        refusal.must_be(503, "metadata_unavailable")?;
        refusal = witness.put_until_refused(SMALL_BYTES)?;
    }
    refusal.must_be(507, "no_space")?;
    witness.put_until_refused(LARGE_BYTES)?.must_be(507, "no_space")?;
    witness.must_not_be_ready_for("database")?;
    witness.check_oldest()?;
    if !acknowledges_by_log() {
        // With the log, what has been acknowledged and has no room in the database yet cannot be read.
        witness.check()?;
    }
    fs::remove_file(filler)?;
    witness.put_until_taken(LARGE_BYTES)?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// Whether the servers under test answer when the log is durable, and the database follows.
fn acknowledges_by_log() -> bool {
    !std::env::var("ACK").is_ok_and(|ack| ack == "database")
}

/// Writes until the disk is full to its last block.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for bytes in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0xaa; bytes]).is_ok() {}
    }
    Ok(())
}

/// Bytes would fit, files do not.
fn no_inodes(place: &Place) -> Result<usize> {
    // 512 of them are directories.
    let disk = Disk::tmpfs(place.path("memory"), "size=64M,nr_inodes=560")?;
    let (data, roots) = (place.path("data"), disk.path().join("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    // The large ones first: of those each has a file, whatever becomes of the small ones.
    witness.put_until_refused(LARGE_BYTES)?.must_be(507, "no_space")?;
    witness.put_until_refused(SMALL_BYTES)?.must_be(507, "no_space")?;
    witness.must_not_be_ready("hot_storage")?;
    witness.check()?;
    // A start makes packs of its own.
    for _ in 0..10 {
        witness.delete_oldest()?;
    }
    witness.put_until_taken(LARGE_BYTES)?;
    let witness = place.check_after(witness, || Ok(()))?;
    witness.check_files()?;
    witness.finish()
}

/// The disk says that it is full only when it syncs. What is acknowledged all the same has to be there. ext4 turns
/// read-only when it meets that with what it notes itself, and then has to be mounted again.
fn overbooked(place: &Place, file_system: FileSystem) -> Result<usize> {
    let mut disk = OverbookedDisk::new(&place.path("disk"), file_system)?;
    let (data, roots) = (place.path("data"), disk.path().join("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    // What is under way when it does so is answered with the error.
    let gave_up = |answer: &Answer| {
        matches!(file_system, Ext4) && matches!(&*answer.code, "storage_read_only" | "storage_error")
    };
    for length in [LARGE_BYTES, SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        let refusal = witness.put_until_refused(length)?;
        if !gave_up(&refusal) {
            refusal.must_be(507, "no_space")?;
        }
    }
    witness.check()?;
    disk.make_room()?;
    within_patience("have an upload taken again", || {
        let answer = witness.put(LARGE_BYTES)?;
        Ok((answer.status == 201 || gave_up(&answer)).then_some(()))
    })?;
    let mut witness = place.check_after(witness, || disk.remount())?;
    witness.must_put(LARGE_BYTES)?;
    witness.check_files()?;
    witness.finish()
}

/// The same, with the database on that disk too. On ext4 its journal would have no room either.
fn overbooked_database(place: &Place) -> Result<usize> {
    let mut disk = OverbookedDisk::new(&place.path("disk"), Xfs)?;
    let data = disk.path().join("data");
    let mut witness = place.server_in(&data)?;
    for length in [LARGE_BYTES, SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        let refusal = witness.put_until_refused(length)?;
        ensure!(matches!(refusal.status, 503 | 507), "a full disk is answered {refusal}");
    }
    witness.check()?;
    disk.make_room()?;
    witness.put_until_taken(LARGE_BYTES)?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// Syncs fail with EIO. Three in a row, and the root is read-only until a restart.
fn roots_fail(place: &Place, file_system: FileSystem, megabytes: u64) -> Result<usize> {
    let mut disk = FailingDisk::new(&place.path("disk"), file_system, megabytes << 20)?;
    let (data, roots) = (place.path("data"), disk.path().join("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    // On such a device an upload may take longer than it waits.
    for length in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        witness.put_until_taken(length)?;
    }
    disk.fail(true)?;
    for _ in 0..3 {
        witness.put(SMALL_BYTES)?.must_be(503, "storage_error")?;
    }
    // Also when the disk would take them again: nobody knows what it has lost.
    for fails in [true, false] {
        disk.fail(fails)?;
        for length in [SMALL_BYTES, LARGE_BYTES] {
            witness.put(length)?.must_be(503, "storage_read_only")?;
        }
        witness.must_not_be_ready("hot_storage")?;
        witness.check()?;
    }
    let mut witness = place.check_after(witness, || disk.remount())?;
    witness.must_put(LARGE_BYTES)?;
    witness.check_files()?;
    witness.finish()
}

/// The database's sync fails with EIO: it takes no more writes until a restart.
fn database_fails(place: &Place, file_system: FileSystem, megabytes: u64) -> Result<usize> {
    let mut disk = FailingDisk::new(&place.path("disk"), file_system, megabytes << 20)?;
    let (data, roots) = (disk.path().join("data"), place.path("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    for length in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        witness.must_put(length)?;
    }
    for fails in [true, false] {
        if fails {
            disk.fail(true)?;
            if acknowledges_by_log() {
                // The log is elsewhere, and what it has taken stays true. Readiness has the database sync.
                witness.must_put(SMALL_BYTES)?;
                witness.must_not_be_ready_for("database")?;
            }
        }
        for length in [SMALL_BYTES, LARGE_BYTES] {
            witness.put(length)?.must_be(503, "metadata_unavailable")?;
        }
        witness.must_not_be_ready_for("database")?;
        witness.check_oldest()?;
        if !acknowledges_by_log() {
            witness.check()?;
        }
        if fails {
            disk.fail(false)?;
        }
    }
    let mut witness = place.check_after(witness, || disk.remount())?;
    witness.must_put(LARGE_BYTES)?;
    witness.check_files()?;
    witness.finish()
}

/// No write to anything ends. Every request does, and what was waited for leaves nothing behind.
fn everything_hangs(place: &Place) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), Ext4, 64 << 20)?;
    let data = disk.path().join("data");
    let mut witness = place.server_in(&data)?;
    for length in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        witness.must_put(length)?;
    }
    witness.check_oldest()?;
    // The next read is of what no connection of the database has seen, and has to note that in its shared memory.
    witness.must_put(SMALL_BYTES)?;
    let frozen = disk.freeze()?;
    witness.must_live()?;
    for length in [SMALL_BYTES, LARGE_BYTES] {
        witness.put(length)?.must_be(503, "storage_timeout")?;
    }
    witness.read_newest()?.must_be(503, "metadata_unavailable")?;
    witness.check_oldest().context("a cached object")?;
    witness.must_not_be_ready("hot_storage")?;
    witness.must_live()?;
    frozen.thaw()?;
    witness.put_until_taken(LARGE_BYTES)?;
    witness.check()?;
    witness.check_files().context("before a restart")?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// The roots hang and the database does not: everything is read still.
fn roots_hang(place: &Place) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), Xfs, 300 << 20)?;
    let (data, roots) = (place.path("data"), disk.path().join("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    for length in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        witness.must_put(length)?;
    }
    let frozen = disk.freeze()?;
    // More of them than a core has helpers that write.
    let server = witness.server().port();
    let uploads: Vec<_> = (0..60).map(|number| std::thread::spawn(move || hang(server, number))).collect();
    witness.check()?;
    for length in [SMALL_BYTES, LARGE_BYTES] {
        witness.put(length)?.must_be(503, "storage_timeout")?;
    }
    witness.must_not_be_ready("hot_storage")?;
    witness.must_live()?;
    for upload in uploads {
        ensure!(upload.join().is_ok_and(|refused| refused), "an upload to a root that hangs is not refused");
    }
    frozen.thaw()?;
    witness.put_until_taken(LARGE_BYTES)?;
    witness.check_files().context("before a restart")?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// Whether a small upload is refused.
fn hang(port: u16, number: u32) -> bool {
    witness::exchange(port, "PUT", &format!("/v1/keys/crash/hanging/{number}"), b"hanging")
        .is_ok_and(|answer| answer.status == 503)
}

/// The database hangs and the roots do not: what is cached is read still, and what was waited for may happen later.
fn database_hangs(place: &Place) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), Ext4, 64 << 20)?;
    let (data, roots) = (disk.path().join("data"), place.path("roots"));
    let mut witness = place.server_of(&data, &roots)?;
    for length in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        witness.must_put(length)?;
    }
    witness.check_oldest()?;
    let frozen = disk.freeze()?;
    if acknowledges_by_log() {
        // Nothing about a new key has to be asked, and the log does not hang.
        witness.must_put(SMALL_BYTES)?;
    } else {
        witness.put(SMALL_BYTES)?.must_be(503, "metadata_unavailable")?;
    }
    witness.put(LARGE_BYTES)?.must_be(503, "metadata_unavailable")?;
    witness.check_oldest().context("a cached object")?;
    witness.must_not_be_ready_for("database")?;
    witness.must_live()?;
    frozen.thaw()?;
    witness.put_until_taken(LARGE_BYTES)?;
    witness.check()?;
    let witness = place.check_after(witness, || disk.remount())?;
    witness.check_files()?;
    witness.finish()
}

/// SIGTERM while everything hangs: it drains to its limit, and is gone when the disk lets it go.
fn ended_while_it_hangs(place: &Place) -> Result<usize> {
    let mut disk = Disk::image(&place.path("disk"), Xfs, 300 << 20)?;
    let data = disk.path().join("data");
    let mut witness = place.server_in(&data)?;
    witness.must_put(LARGE_BYTES)?;
    let frozen = disk.freeze()?;
    witness.put(SMALL_BYTES)?.must_be(503, "storage_timeout")?;
    witness.server().terminate()?;
    within_patience("see the server stop to listen", || Ok(witness.must_live().is_err().then_some(())))?;
    frozen.thaw()?;
    let mut witness = place.check_ended(witness, Server::reap, || disk.remount())?;
    witness.must_put(LARGE_BYTES)?;
    witness.check_files()?;
    witness.finish()
}
