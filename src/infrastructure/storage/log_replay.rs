//! Reading the logs of all cores back as one, in the order of their changes. Everything here blocks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fs::OpenOptions;
use std::io;

use thiserror::Error;

use super::log_record::{self, DetailsError};
use super::pack_file::{PackScan, ScanError, list_packs, remove_pack};
use super::pack_format::{FormatError, PACK_BLOCK_BYTES, RecordKind, records};
use super::root::{Roots, StorageRoot, sync_directory};
use crate::domain::value_objects::{PackId, Place, StorageClass};
use crate::infrastructure::plane_channel::{PackMark, Write};

/// Why the log cannot be applied.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A root's packs cannot be listed.
    #[error("cannot list the packs of the {class} storage root")]
    List {
        /// Which root.
        class: StorageClass,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A pack cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A pack ends before what the database has of it.
    #[error("pack {pack} is damaged: it ends at {found}, and was acknowledged up to {known}")]
    TooShort {
        /// Which pack.
        pack: PackId,
        /// Where its last whole batch ends.
        found: u64,
        /// Where the last one that is known ends.
        known: u64,
    },
    /// A record of a whole batch makes no sense.
    #[error("pack {pack} holds a record at {offset} that is none")]
    Record {
        /// Which pack.
        pack: PackId,
        /// Where its batch begins.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// A record's change cannot be read.
    #[error("pack {pack} holds a change at {offset} that cannot be read")]
    Details {
        /// Which pack.
        pack: PackId,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: DetailsError,
    },
    /// What is left of a pack that nobody writes any more cannot be given back.
    #[error("cannot cut pack {pack}")]
    Cut {
        /// Which pack.
        pack: PackId,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A change that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedChange {
    /// Its place in the order of all changes.
    pub sequence: u64,
    /// What to change.
    pub write: Write,
    /// Where it is.
    pub mark: PackMark,
}

/// What is known of a pack before it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownEnds {
    /// Everything before has been applied.
    pub applied: u64,
    /// Nothing from here on counts.
    pub ended_at: Option<u64>,
}

/// What the database knows of the log.
#[derive(Debug, Clone, Default)]
pub struct KnownLog {
    /// The last change that it has.
    pub applied_sequence: u64,
    /// The packs that it has anything of.
    pub packs: HashMap<PackId, KnownEnds>,
}

/// What becomes of packs that were never finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverPacks {
    /// They are removed: nobody writes here now.
    Go,
    /// They stay: somebody may be making them.
    Stay,
}

/// All packs of both roots, being read.
#[derive(Debug)]
pub struct LogReplay {
    roots: Roots,
    packs: Vec<PackReplay>,
    /// The next change of each pack that has one.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    after: u64,
    last_sequence: u64,
}

#[derive(Debug)]
struct PackReplay {
    scan: PackScan,
    known: KnownEnds,
    changes: VecDeque<LoggedChange>,
}

/// What a pack turned out to be, once it has been read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayedPack {
    /// Which pack.
    pub pack: PackId,
    /// Which root it is in.
    pub storage_class: StorageClass,
    /// Where its last whole batch ends.
    pub end: u64,
    /// Whether it has no batch at all.
    pub is_empty: bool,
}

impl LogReplay {
    /// Begins to read every pack from where it has been applied; changes that have been are left out.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn begin(roots: &Roots, known: &KnownLog, leftovers: LeftoverPacks) -> Result<Self, ReplayError> {
        let after = known.applied_sequence;
        let mut replay = Self {
            roots: roots.clone(),
            packs: Vec::new(),
            heads: BinaryHeap::new(),
            after,
            last_sequence: after,
        };
        for class in StorageClass::ALL {
            let root = roots.of(class);
            for pack in list_packs(root).map_err(|source| ReplayError::List { class, source })? {
                replay.add(root, pack, known.packs.get(&pack).copied(), leftovers)?;
            }
        }
        for index in 0..replay.packs.len() {
            replay.advance(index)?;
        }
        Ok(replay)
    }

    fn add(
        &mut self,
        root: &StorageRoot,
        pack: PackId,
        known: Option<KnownEnds>,
        leftovers: LeftoverPacks,
    ) -> Result<(), ReplayError> {
        let ends = known.unwrap_or_default();
        match (PackScan::begin(root, pack, ends.applied, ends.ended_at)?, leftovers) {
            // It was cut where its log ends: there is nothing to read, and no need to keep it open.
            (Some(scan), _) if known.is_some() && scan.file_bytes()? == ends.applied => {}
            (Some(scan), _) => self.packs.push(PackReplay { scan, known: ends, changes: VecDeque::new() }),
            (None, _) if known.is_some() => return Err(ScanError::Header { pack }.into()),
            // Its header comes last, so that there is nothing in it yet.
            (None, LeftoverPacks::Go) => remove_pack(root, pack),
            (None, LeftoverPacks::Stay) => {}
        }
        Ok(())
    }

    /// The next changes in their order, at most `changes_max`; none at the end.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn next_changes(&mut self, changes_max: usize) -> Result<Vec<LoggedChange>, ReplayError> {
        let mut changes = Vec::new();
        while changes.len() < changes_max
            && let Some(Reverse((_, index))) = self.heads.pop()
        {
            changes.extend(self.packs[index].changes.pop_front());
            self.advance(index)?;
        }
        self.last_sequence = changes.last().map_or(self.last_sequence, |change| change.sequence);
        Ok(changes)
    }

    /// The last change that was read.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Reads on in a pack until its next change is known.
    fn advance(&mut self, index: usize) -> Result<(), ReplayError> {
        let pack = &mut self.packs[index];
        while pack.changes.is_empty() && pack.read_batch(self.after)? {}
        if let Some(change) = pack.changes.front() {
            self.heads.push(Reverse((change.sequence, index)));
        }
        Ok(())
    }

    /// Gives back what lies behind the end of each pack, and says where those ends are. Only for packs that nobody
    /// writes any more, and once all changes have been applied.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn finish(self) -> Result<Vec<ReplayedPack>, ReplayError> {
        let mut replayed = Vec::with_capacity(self.packs.len());
        for PackReplay { scan, .. } in &self.packs {
            let (pack, storage_class) = (scan.header().pack, scan.header().storage_class);
            let (end, root) = (scan.position(), self.roots.of(storage_class));
            cut(root, pack, end).map_err(|source| ReplayError::Cut { pack, source })?;
            replayed.push(ReplayedPack {
                pack,
                storage_class,
                end,
                is_empty: end <= PACK_BLOCK_BYTES as u64,
            });
        }
        Ok(replayed)
    }
}

impl PackReplay {
    /// Takes the changes of the next batch. `false` at the end of the log.
    fn read_batch(&mut self, after: u64) -> Result<bool, ReplayError> {
        let header = *self.scan.header();
        let Some(batch) = self.scan.next_batch()? else {
            let (found, known) = (self.scan.position(), self.known.applied);
            // Where the scan began is where it was applied up to, unless the file is shorter than that.
            let is_short = self.scan.file_bytes()? < known;
            return if is_short {
                Err(ReplayError::TooShort { pack: header.pack, found, known })
            } else {
                Ok(false)
            };
        };
        let mark = PackMark { pack: header.pack, storage_class: header.storage_class, end: batch.end };
        for record in records(&batch.bytes, header.pack, batch.offset) {
            let record = record.map_err(|source| ReplayError::Record {
                pack: header.pack,
                offset: batch.offset,
                source,
            })?;
            if record.header.kind == RecordKind::Data || record.header.sequence <= after {
                continue;
            }
            let here = Place::Pack { pack: header.pack, offset: record.header.offset };
            let write = log_record::decode(record.details, record.header.content_hash, here);
            let write = write.map_err(|source| ReplayError::Details {
                pack: header.pack,
                offset: record.header.offset,
                source,
            })?;
            self.changes.push_back(LoggedChange { sequence: record.header.sequence, write, mark });
        }
        Ok(true)
    }
}

fn cut(root: &StorageRoot, pack: PackId, end: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(root.pack_path(pack))?;
    if file.metadata()?.len() > end {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Removes packs that nothing names, durably.
///
/// # Errors
/// The directory cannot be synced.
pub fn remove_packs(root: &StorageRoot, packs: &[PackId]) -> io::Result<()> {
    packs.iter().for_each(|pack| remove_pack(root, *pack));
    if packs.is_empty() { Ok(()) } else { sync_directory(&root.packs_path()) }
}
