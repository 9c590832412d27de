//! What all worlds of a wave share: servers, collectors, the sweep of ended runs, and a backup.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::super::batch::BatchContext;
use super::super::collector::{Collected, Collector, CycleError, CycleReport, Garbage, GraceClock};
use super::super::database::Database;
use super::super::errors::DatabaseError;
use super::super::maintenance::{BlobRow, ExportedRow};
use super::guards::{self, Guard};
use super::wave::SHARDS;
use crate::domain::value_objects::{ContentHash, InstanceId, Place, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};
use crate::infrastructure::storage::{BlobFile, PlaceSequence, Roots, blob_files_of, remove_blob_files};

/// So much of the database's clock is one moment of a wave: far more than the test itself takes.
pub(super) const TICKS: u64 = 1_000_000_000;
/// For how many moments nothing must have referred to a blob before it is forgotten.
pub(super) const GRACE: u64 = 20;
/// For how many moments a lease is good.
pub(super) const LEASE: u64 = 30;

/// A write and whose it is: the world, and the actor in it.
pub(super) struct Pending {
    pub(super) world: usize,
    pub(super) actor: usize,
    pub(super) write: Write,
}

/// A server, as far as the metadata plane knows.
pub(super) struct Server {
    pub(super) database: Arc<Database>,
    pub(super) node: String,
    pub(super) instance: InstanceId,
    /// Runs of it that were cut off, until they have been swept.
    pub(super) ended: Vec<InstanceId>,
    pub(super) places: PlaceSequence,
    pub(super) next_sequence: u64,
    pub(super) queue: VecDeque<Pending>,
}

/// A batch on its way.
pub(super) struct BatchJob {
    pub(super) server: usize,
    pub(super) database: Arc<Database>,
    pub(super) pending: Vec<Pending>,
    pub(super) next_sequence: u64,
    pub(super) context: BatchContext,
    pub(super) without: Option<Guard>,
}

impl BatchJob {
    pub(super) async fn run(mut self) -> Result<(Self, Vec<WriteOutcome>), String> {
        let mut writes: Vec<_> = self.pending.iter().map(|pending| pending.write.clone()).collect();
        if self.without == Some(Guard::MendOfTheLostCopy) {
            guards::mend_whatever_serves(&self.database, &mut writes).await;
        }
        let applied = self.database.apply(&writes, &mut self.next_sequence, self.context).await;
        let applied = applied.map_err(|error| format!("a batch: {}", error.source))?;
        Ok((self, applied.outcomes))
    }
}

/// A collector and how far it is in its cycle.
pub(super) struct CollectorRun {
    pub(super) server: usize,
    pub(super) collector: Collector,
    position: Position,
}

enum Position {
    Start,
    /// Without [`Guard::CountInTheStatement`] or [`Guard::ForgottenFirst`].
    HasChosen(Vec<BlobRow>),
    HasForgotten,
    Knows(Vec<Garbage>),
    HasRemoved(Vec<Garbage>),
}

/// What a collector has just done.
pub(super) enum Collection {
    Chose,
    Forgot(Collected),
    Found(usize),
    Removed(Vec<BlobFile>),
    ForgotGarbage,
}

impl CollectorRun {
    pub(super) fn new(server: usize, collector: Collector) -> Self {
        Self { server, collector, position: Position::Start }
    }

    pub(super) fn is_at_start(&self) -> bool {
        matches!(self.position, Position::Start)
    }

    pub(super) fn set_clock(&mut self, time: u64) {
        self.collector.ticks = GraceClock::starting_at(time * TICKS);
    }

    /// The next step of a cycle.
    pub(super) async fn step(
        mut self,
        time: u64,
        without: Option<Guard>,
    ) -> Result<(Self, Collection), String> {
        self.set_clock(time);
        let stepped = match std::mem::replace(&mut self.position, Position::Start) {
            Position::Start
                if matches!(without, Some(Guard::CountInTheStatement | Guard::ForgottenFirst)) =>
            {
                let before = (time * TICKS).saturating_sub(GRACE * TICKS);
                let dead = guards::dead_blobs(&self.collector.database, before).await;
                Ok((Position::HasChosen(dead), Collection::Chose))
            }
            Position::HasChosen(rows) if without == Some(Guard::CountInTheStatement) => {
                guards::forget_blindly(&self.collector.database, &rows).await;
                Ok((Position::HasForgotten, Collection::Forgot(Collected::default())))
            }
            Position::HasChosen(rows) => {
                let files: Vec<_> = rows.iter().map(|row| row.location).collect();
                remove_all(&self.collector.roots, &files);
                Ok((Position::Start, Collection::Removed(files)))
            }
            Position::Start => self.forget().await,
            Position::HasForgotten => self.find(without).await,
            Position::Knows(garbage) => self.remove(garbage, without).await,
            Position::HasRemoved(garbage) => self.forget_garbage(garbage, without).await,
        };
        let (position, done) = stepped.map_err(|error| match error {
            CycleError::Database(error) => told(error),
            CycleError::Files(error) => format!("garbage could not be removed: {error}"),
        })?;
        self.position = position;
        Ok((self, done))
    }

    async fn forget(&self) -> Result<(Position, Collection), CycleError> {
        Ok((Position::HasForgotten, Collection::Forgot(self.collector.collect().await?)))
    }

    async fn find(&mut self, without: Option<Guard>) -> Result<(Position, Collection), CycleError> {
        let garbage = if without == Some(Guard::Hold) {
            let holds = self.collector.database.holds().await?;
            let all: Vec<_> = holds.iter().map(|hold| hold.id).collect();
            self.collector.database.garbage(self.collector.settings.batch_size, &all).await?
        } else {
            self.collector.garbage(&mut CycleReport::default()).await?
        };
        let found = Collection::Found(garbage.len());
        Ok((if garbage.is_empty() { Position::Start } else { Position::Knows(garbage) }, found))
    }

    async fn remove(
        &self,
        garbage: Vec<Garbage>,
        without: Option<Guard>,
    ) -> Result<(Position, Collection), CycleError> {
        let mut files: Vec<_> = garbage.iter().map(|garbage| garbage.file).collect();
        if without == Some(Guard::RemovedByPlace) {
            files = copies_of(&self.collector.roots, &files);
            remove_all(&self.collector.roots, &files);
        } else {
            self.collector.remove_files(&garbage).await?;
        }
        Ok((Position::HasRemoved(garbage), Collection::Removed(files)))
    }

    async fn forget_garbage(
        &self,
        garbage: Vec<Garbage>,
        without: Option<Guard>,
    ) -> Result<(Position, Collection), CycleError> {
        let database = &self.collector.database;
        if without == Some(Guard::GarbageForgottenByPlace) {
            guards::forget_garbage_by_content(database, &garbage).await;
        } else {
            database.forget_garbage(&garbage).await?;
        }
        Ok((Position::Start, Collection::ForgotGarbage))
    }
}

fn remove_all(roots: &Roots, files: &[BlobFile]) {
    for file in files {
        remove_blob_files(roots.of(file.storage_class), &[*file]).unwrap();
    }
}

/// Every copy of the contents of `files`.
fn copies_of(roots: &Roots, files: &[BlobFile]) -> Vec<BlobFile> {
    let hashes: HashSet<_> = files.iter().map(|file| file.content_hash).collect();
    let mut copies = all_files(roots);
    copies.retain(|copy| hashes.contains(&copy.content_hash));
    copies
}

/// Everything in both roots.
pub(super) fn all_files(roots: &Roots) -> Vec<BlobFile> {
    let mut files = Vec::new();
    for class in StorageClass::ALL {
        for shard in 0..SHARDS {
            let path = roots.of(class).path().join(format!("blobs/{shard:02x}"));
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let (hash, place) = name.split_once('-').unwrap();
                files.push(BlobFile {
                    storage_class: class,
                    content_hash: ContentHash::from_hex(hash).unwrap(),
                    place: Place::parse(place).unwrap(),
                });
            }
        }
    }
    files
}

/// The sweep of a server's ended runs: the steps of [`super::super::recovery::sweep`], all directories in each.
pub(super) enum Sweep {
    Rests,
    Knows(Vec<InstanceId>),
    Listed(Vec<InstanceId>, Vec<BlobFile>),
    HasAsked(Vec<InstanceId>, Vec<BlobFile>),
    HasRemoved(Vec<InstanceId>),
}

impl Sweep {
    /// The next step; gives what was removed in it.
    pub(super) async fn step(
        &mut self,
        server: &mut Server,
        roots: &Roots,
        without: Option<Guard>,
    ) -> Result<Vec<BlobFile>, String> {
        let mut removed = Vec::new();
        *self = match std::mem::replace(self, Self::Rests) {
            Self::Rests => {
                let mut dead = server.database.dead_instances(&server.node).await.map_err(told)?;
                if without == Some(Guard::SweepOfTheDead) {
                    dead.push(server.instance);
                }
                if dead.is_empty() { Self::Rests } else { Self::Knows(dead) }
            }
            Self::Knows(dead) => {
                let files = list(roots, &dead);
                Self::Listed(dead, files)
            }
            Self::Listed(dead, files) => {
                let unnamed = unnamed(&server.database, files, without).await?;
                Self::HasAsked(dead, unnamed)
            }
            Self::HasAsked(dead, files) => {
                remove_all(roots, &files);
                removed = files;
                Self::HasRemoved(dead)
            }
            Self::HasRemoved(dead) => {
                if without != Some(Guard::SweepOfTheDead) {
                    server.database.forget_instances(&dead).await.map_err(told)?;
                }
                server.ended.retain(|ended| !dead.contains(ended));
                Self::Rests
            }
        };
        Ok(removed)
    }
}

fn list(roots: &Roots, dead: &[InstanceId]) -> Vec<BlobFile> {
    let names = dead.iter().copied().collect();
    let directories =
        StorageClass::ALL.into_iter().flat_map(|class| (0..SHARDS).map(move |shard| (class, shard)));
    directories.flat_map(|(class, shard)| blob_files_of(roots.of(class), shard, &names).unwrap()).collect()
}

async fn unnamed(
    database: &Database,
    files: Vec<BlobFile>,
    without: Option<Guard>,
) -> Result<Vec<BlobFile>, String> {
    match without {
        Some(Guard::SweepAsks) => Ok(files),
        Some(Guard::SweepSparesGarbage) => {
            let serving = guards::serving(database, &files).await;
            Ok(files.into_iter().filter(|file| !serving.contains(file)).collect())
        }
        _ => database.unnamed_files(&files).await.map_err(told),
    }
}

fn told(error: DatabaseError) -> String {
    format!("{error}: {}", error.source)
}

/// A backup: it needs every file of its snapshot until it releases its hold.
pub(super) enum Backup {
    Rests,
    Holds,
    /// Without [`Guard::HoldFirst`].
    HasOnlyRead(Vec<BlobFile>),
    Copies(Vec<BlobFile>),
}

pub(super) const HOLD: i64 = 1;

pub(super) async fn take_hold(database: &Database) {
    database.take_hold(HOLD, "a backup", Timestamp::from_millis(0)).await.unwrap();
}

/// The files that a copy of the metadata names.
pub(super) async fn snapshot(database: &Database) -> Vec<BlobFile> {
    let mut files = Vec::new();
    let mut take = |row: ExportedRow| -> io::Result<()> {
        if let ExportedRow::Blob(row) = row {
            files.push(row.location);
        }
        Ok(())
    };
    database.export(&mut take).await.unwrap();
    files
}
