//! Cuts at moments that chance alone rarely meets.
//!
//! ```text
//! a batch, a piece of an upload     a client says that it has sent half of it
//! uploads are joined                a client says that it has asked for it
//! blobs move to another pack        a pack is there that no core writes
//! the database is copied            the copy has its file, and not its name
//! changes of the log are applied    a start has written to the database, and does not say yet that it is done
//! ```
//! What is seen of the last three is seen in the server's directories, by its files alone.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::server::Places;
use crate::under_way::{Long, UnderWay};

/// How often files are looked at.
const LOOK: Duration = Duration::from_micros(200);
/// A moment that has not come for so long is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest time from the moment that was waited for to the cut: about as long as what begins there takes.
const DELAY_MICROS_MAX: u64 = 12_000;
/// The collector merges packs that are short once there are more of them in a root than this.
const SHORT_PACKS_MAX: usize = 16;
/// In the place of the number of the core that writes it, a pack's header has this where blobs were moved to it.
const NO_CORE: [u8; 4] = u32::MAX.to_le_bytes();
/// Where that stands in it.
const CORE: std::ops::Range<usize> = 32..36;

/// The moment that a cut is to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Half of it is sent.
    Request(Long),
    /// Blobs are moved out of packs that are mostly dead, or short.
    Compaction,
    /// A copy of the database is made.
    Snapshot,
}

impl Aim {
    /// One that can be met now, or none.
    pub(crate) fn any(places: &Places, random: &mut Random) -> Option<Self> {
        let packs = [places.hot(), places.cold()].map(|root| packs_of(&root).len());
        if packs.iter().any(|count| *count > SHORT_PACKS_MAX) {
            // The next start has something to do.
            return [Some(Self::Compaction), Some(Self::Snapshot), None][random.index(3)];
        }
        match random.below(7) {
            0 => Some(Self::Request(Long::Batch)),
            1 => Some(Self::Request(Long::Piece)),
            2 => Some(Self::Request(Long::Join)),
            3 => Some(Self::Snapshot).filter(|_| packs.iter().any(|count| *count > 0)),
            _ => None,
        }
    }

    /// Whether it may come before the server listens.
    pub(crate) fn is_of_starts(self) -> bool {
        !matches!(self, Self::Request(_))
    }
}

/// Waits for the moment that a cut is to meet.
pub(crate) struct Watch<'a> {
    aim: Aim,
    places: &'a Places,
    under_way: &'a UnderWay,
    /// The packs that there are, and what is left of a copy that was cut off.
    packs: HashSet<PathBuf>,
    leftover: Option<Stamp>,
}

/// What tells a file from one of the same name that was there before.
type Stamp = (u64, i64, i64);

impl<'a> Watch<'a> {
    /// What is there now is not what is waited for.
    pub(crate) fn begin(aim: Aim, places: &'a Places, under_way: &'a UnderWay) -> Self {
        let packs = all_packs(places).into_iter().collect();
        Self { aim, places, under_way, packs, leftover: stamp(&unfinished_copy(places)) }
    }

    pub(crate) fn aim(&self) -> Aim {
        self.aim
    }

    /// Waits for the moment and for a random while behind it, and says whether what began then still goes on. The cut has
    /// to follow at once.
    pub(crate) fn wait(&mut self, random: &mut Random) -> bool {
        if let Aim::Request(long) = self.aim {
            // One that begins from now on.
            self.under_way.take_halfway(long);
        }
        let started = Instant::now();
        while !self.sees() {
            if started.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        let before = all_packs(self.places);
        std::thread::sleep(Duration::from_micros(random.below(DELAY_MICROS_MAX)));
        match self.aim {
            Aim::Request(long) => self.under_way.is_running(long),
            // The packs that are emptied go last.
            Aim::Compaction => before.iter().all(|pack| pack.exists()),
            Aim::Snapshot => unfinished_copy(self.places).exists(),
        }
    }

    fn sees(&mut self) -> bool {
        match self.aim {
            Aim::Request(long) => self.under_way.take_halfway(long),
            Aim::Compaction => {
                let new: Vec<_> =
                    all_packs(self.places).into_iter().filter(|pack| !self.packs.contains(pack)).collect();
                for pack in new {
                    match header_core(&pack) {
                        Some(NO_CORE) => return true,
                        // Not this one.
                        Some(_) => drop(self.packs.insert(pack)),
                        None => {}
                    }
                }
                false
            }
            Aim::Snapshot => {
                let now = stamp(&unfinished_copy(self.places));
                now.is_some() && now != self.leftover
            }
        }
    }
}

/// Tells that a start has come to its first writes.
pub(crate) struct StartWatch {
    log: PathBuf,
    before: Option<Stamp>,
}

impl StartWatch {
    /// For the next start.
    pub(crate) fn begin(places: &Places) -> Self {
        let log = places.database_log();
        Self { before: stamp(&log), log }
    }

    /// Whether the database's own log has been written since.
    pub(crate) fn sees(&self) -> bool {
        let now = stamp(&self.log);
        now.is_some() && now != self.before
    }

    /// Waits for that, and for a random while behind it.
    pub(crate) fn wait(&self, random: &mut Random) {
        let started = Instant::now();
        while !self.sees() && started.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
        }
        std::thread::sleep(Duration::from_micros(random.below(2 * DELAY_MICROS_MAX)));
    }
}

fn unfinished_copy(places: &Places) -> PathBuf {
    places.hot().join("snapshots/unfinished")
}

/// Any write changes the time.
fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.ctime(), file.ctime_nsec()))
}

fn all_packs(places: &Places) -> Vec<PathBuf> {
    [places.hot(), places.cold()].iter().flat_map(|root| packs_of(root)).collect()
}

/// The packs of a root, which may not be there yet.
fn packs_of(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("packs")) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).collect()
}

/// What stands in a pack's header for the core that writes it, once it has one.
fn header_core(pack: &Path) -> Option<[u8; 4]> {
    let mut header = [0; CORE.end];
    File::open(pack).ok()?.read_exact(&mut header).ok()?;
    // Before it is written, a pack of a core is zeros.
    (header[0] != 0).then(|| header[CORE].try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, which goes when it is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("aim-{name}-{}", std::process::id()));
            for directory in ["hot/packs", "cold/packs", "hot/snapshots"] {
                fs::create_dir_all(path.join(directory)).unwrap();
            }
            Self(path)
        }

        fn places(&self) -> Places {
            Places::together(self.0.clone())
        }

        fn write_pack(&self, name: &str, core: u32) {
            let mut header = [1; 4096];
            header[CORE].copy_from_slice(&core.to_le_bytes());
            fs::write(self.0.join(name), header).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_pack_is_seen_that_no_core_writes() {
        let scratch = Scratch::new("packs");
        let (places, under_way) = (scratch.places(), UnderWay::default());
        scratch.write_pack("cold/packs/1.pack", u32::MAX);
        let mut watch = Watch::begin(Aim::Compaction, &places, &under_way);
        assert!(!watch.sees(), "it was there before");
        scratch.write_pack("hot/packs/2.pack", 0);
        assert!(!watch.sees());
        fs::write(scratch.0.join("hot/packs/3.pack"), "").unwrap();
        assert!(!watch.sees(), "nothing is known of it yet");
        scratch.write_pack("hot/packs/3.pack", u32::MAX);
        assert!(watch.sees());
    }

    #[test]
    fn a_copy_is_seen_that_was_not_left_over() {
        let scratch = Scratch::new("copies");
        let (places, under_way) = (scratch.places(), UnderWay::default());
        let copy = unfinished_copy(&places);
        fs::write(&copy, "cut off").unwrap();
        let mut watch = Watch::begin(Aim::Snapshot, &places, &under_way);
        assert!(!watch.sees());
        let new = scratch.0.join("new");
        fs::write(&new, "new").unwrap();
        fs::rename(new, copy).unwrap();
        assert!(watch.sees() && watch.wait(&mut Random::new(1)));
    }

    #[test]
    fn a_start_is_seen_by_what_it_writes() {
        let scratch = Scratch::new("starts");
        let places = scratch.places();
        let watch = StartWatch::begin(&places);
        assert!(!watch.sees());
        fs::write(places.database_log(), "1").unwrap();
        assert!(watch.sees());
    }

    #[test]
    fn many_packs_are_aimed_at() {
        let scratch = Scratch::new("many");
        let places = scratch.places();
        let mut random = Random::new(3);
        let aims =
            |random: &mut Random| (0..60).filter_map(|_| Aim::any(&places, random)).collect::<Vec<_>>();
        let requests = aims(&mut random);
        assert!(requests.iter().all(|aim| !aim.is_of_starts()) && !requests.is_empty());
        for number in 0..=SHORT_PACKS_MAX {
            scratch.write_pack(&format!("cold/packs/{number}.pack"), 0);
        }
        let starts = aims(&mut random);
        assert!(starts.contains(&Aim::Compaction) && starts.contains(&Aim::Snapshot));
        assert!(starts.iter().all(|aim| aim.is_of_starts()));
    }
}
