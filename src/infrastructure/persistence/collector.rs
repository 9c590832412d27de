//! The collector: what nothing refers to is forgotten first, in a transaction, and only then removed.
//!
//! ```text
//! blobs (count 0, no lease, grace over) ─► one transaction ─► garbage ─► file removed ─► garbage row removed
//! ```
//! A crash at any point leaves a garbage row whose file is there or not; the next cycle goes on from it. A new upload
//! of the same content while its old copy is garbage makes a new blob row at a new place, which nothing here names.
//! While there is a hold ([`super::holds`]), the way ends at `garbage`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::spawn_blocking;

use super::database::Database;
use super::errors::DatabaseError;
use super::group_commit::Latch;
use super::holds::HoldWatch;
use super::pack_space::{PackSpace, Reclaimed};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::metrics::PlaneMetrics;
use crate::infrastructure::storage::{BlobFile, Roots, remove_blob_files};

/// How often a cycle that takes long tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How what nothing refers to is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcSettings {
    /// Between two cycles.
    pub interval: Duration,
    /// What is forgotten in one transaction at most. A cycle goes on until nothing is left to do.
    pub batch_size: u32,
    /// For how long nothing must have referred to it.
    pub grace: Duration,
}

/// The database's own clock, in milliseconds: what was stored, and the monotonic time since the start. If a crash
/// loses the last stretch, the clock is late, and what waits for it waits longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GraceClock {
    stored: u64,
    started: Instant,
}

impl GraceClock {
    pub(super) fn starting_at(stored: u64) -> Self {
        Self { stored, started: Instant::now() }
    }

    pub(super) fn now(&self) -> u64 {
        self.stored + millis(self.started.elapsed())
    }
}

/// What one transaction of a cycle forgot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Collected {
    /// Blobs that are garbage now.
    pub(super) blobs: u64,
    /// Rows of objects that were forgotten long ago.
    pub(super) objects: u64,
    /// Leases that have ended.
    pub(super) leases: u64,
}

/// A place whose bytes are to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) file: BlobFile,
    pub(super) size_bytes: u64,
}

/// Works in cycles until it is dropped.
pub(crate) struct Collector {
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    pub(super) roots: Roots,
    pub(super) ticks: GraceClock,
    pub(super) settings: GcSettings,
    pub(super) holds: HoldWatch,
    /// Where this process owns the packs.
    pub(super) packs: Option<PackSpace>,
    pub(super) metrics: Arc<PlaneMetrics>,
}

/// What a cycle has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CycleReport {
    /// Places whose bytes were removed.
    pub blobs: u64,
    /// How many bytes that were.
    pub bytes: u64,
    /// Rows of objects that were forgotten long ago.
    pub objects: u64,
    /// Whether a hold keeps bytes from being removed.
    pub held: bool,
    /// What was given back of packs.
    pub packs: Reclaimed,
}

impl Collector {
    /// For a cycle by a tool. The clock stands where a server has stored it last: late by a cycle at most, and what is
    /// late collects nothing early.
    pub(crate) async fn of_tool(
        database: Arc<Database>,
        roots: Roots,
        settings: GcSettings,
    ) -> Result<Self, DatabaseError> {
        let ticks = GraceClock::starting_at(database.ticks().await?);
        Ok(Self {
            database,
            latch: Latch::default(),
            roots,
            ticks,
            settings,
            holds: HoldWatch::default(),
            packs: None,
            metrics: Arc::default(),
        })
    }

    /// The first cycle comes at once: what a former run had left to do is not left for longer than it takes.
    pub(super) async fn run(mut self) {
        while !self.latch.is_set() {
            let mut told = Instant::now();
            let log_progress = |report: &CycleReport| {
                if told.elapsed() >= PROGRESS_INTERVAL {
                    told = Instant::now();
                    log_report(report, "removing what nothing refers to");
                }
            };
            let ended = self.cycle(log_progress).await;
            match &ended {
                Ok(_) => self.metrics.gc_runs.add(1),
                Err(_) => self.metrics.gc_failed_runs.add(1),
            }
            match ended {
                Ok(report) => {
                    log_report(&report, "removed what nothing refers to");
                    tracing::debug!(blobs = report.blobs, "the collector has ended a cycle");
                }
                Err(CycleError::Database(error)) => drop(self.latch.judge(&error)),
                Err(CycleError::Files(error)) => {
                    tracing::warn!(%error, "garbage could not be removed; the next cycle tries again");
                }
            }
            tokio::time::sleep(self.settings.interval).await;
        }
    }

    /// Works off the whole backlog, and tells `progress` after each step. Any error ends the cycle, and nothing more
    /// is removed in it.
    pub(crate) async fn cycle(
        &mut self,
        mut progress: impl FnMut(&CycleReport),
    ) -> Result<CycleReport, CycleError> {
        let mut report = CycleReport::default();
        loop {
            let collected = self.collect().await?;
            report.objects += collected.objects;
            let garbage = self.garbage(&mut report).await?;
            self.metrics.gc_held.set(report.held.into());
            if garbage.is_empty() && collected == Collected::default() {
                if let Some(packs) = self.packs.as_ref().filter(|_| !report.held) {
                    report.packs = packs.reclaim().await?;
                    self.metrics.packs_removed.add(report.packs.packs);
                    self.metrics.pack_blobs_moved.add(report.packs.moved);
                }
                return Ok(report);
            }
            self.remove(&garbage).await?;
            let (blobs, bytes) =
                (garbage.len() as u64, garbage.iter().map(|garbage| garbage.size_bytes).sum::<u64>());
            self.metrics.gc_deleted_blobs.add(blobs);
            self.metrics.gc_deleted_bytes.add(bytes);
            (report.blobs, report.bytes) = (report.blobs + blobs, report.bytes + bytes);
            progress(&report);
        }
    }

    /// Forgets what is over the grace. The first of a cycle's steps: this, [`garbage`](Self::garbage),
    /// [`remove_files`](Self::remove_files), [`Database::forget_garbage`], in this order.
    pub(super) async fn collect(&self) -> Result<Collected, DatabaseError> {
        let (grace, batch) = (millis(self.settings.grace), self.settings.batch_size);
        self.database.collect(self.ticks.now(), grace, batch).await
    }

    /// What may be removed now.
    pub(super) async fn garbage(&mut self, report: &mut CycleReport) -> Result<Vec<Garbage>, DatabaseError> {
        let holds = self.database.holds().await?;
        let abandoned = self.holds.observe(&holds, Instant::now());
        report.held = holds.len() > abandoned.len();
        for hold in &abandoned {
            if self.database.forget_hold(*hold).await? {
                tracing::warn!(hold = hold.id, "a backup that is no longer running held back the collector");
            }
        }
        let abandoned: Vec<_> = abandoned.iter().map(|hold| hold.id).collect();
        self.database.garbage(self.settings.batch_size, &abandoned).await
    }

    async fn remove(&self, garbage: &[Garbage]) -> Result<(), CycleError> {
        if garbage.is_empty() {
            return Ok(());
        }
        self.remove_files(garbage).await?;
        Ok(self.database.forget_garbage(garbage).await?)
    }

    pub(super) async fn remove_files(&self, garbage: &[Garbage]) -> Result<(), CycleError> {
        // What lies in a pack goes with its pack, once little else does.
        let files = garbage.iter().map(|garbage| garbage.file).filter(|file| file.place.pack().is_none());
        let (roots, files) = (self.roots.clone(), files.collect::<Vec<_>>());
        let removed = spawn_blocking(move || {
            StorageClass::ALL.into_iter().try_for_each(|class| {
                let of_class: Vec<_> =
                    files.iter().copied().filter(|file| file.storage_class == class).collect();
                remove_blob_files(roots.of(class), &of_class)
            })
        });
        removed.await.map_err(std::io::Error::other).flatten().map_err(CycleError::Files)
    }
}

/// Why a cycle ended before its work did.
#[derive(Debug, Error)]
pub(crate) enum CycleError {
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Bytes could not be removed; their rows are still there.
    #[error("garbage could not be removed")]
    Files(#[source] std::io::Error),
}

fn log_report(report: &CycleReport, message: &str) {
    let CycleReport { blobs, bytes, objects, held, packs } = *report;
    if packs != Reclaimed::default() {
        let Reclaimed { packs, bytes, moved } = packs;
        tracing::info!(packs, bytes, moved_blobs = moved, "gave back the space of packs");
    }
    if held {
        tracing::info!("a backup is running: no bytes are removed until it has ended");
    }
    if blobs > 0 || objects > 0 {
        tracing::info!(blobs, bytes, forgotten_objects = objects, "{message}");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchContext;
    use super::super::database::{DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::ports::ObjectCommit;
    use crate::domain::value_objects::{InstanceId, Precondition, Timestamp};
    use crate::infrastructure::plane_channel::Write;

    const SETTINGS: DatabaseSettings = DatabaseSettings { max_connections: 1, ..DatabaseSettings::OF_TEST };
    const GRACE: Duration = Duration::from_secs(600);

    struct World {
        directory: tempfile::TempDir,
        collector: Collector,
        next_sequence: u64,
    }

    impl World {
        async fn new(batch_size: u32) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
            let url = DatabaseUrl::in_directory(directory.path());
            let database = Arc::new(Database::open(&url, SETTINGS).await.unwrap());
            let collector = Collector {
                database,
                latch: Latch::default(),
                roots,
                ticks: GraceClock::starting_at(0),
                settings: GcSettings { interval: Duration::from_secs(60), batch_size, grace: GRACE },
                holds: HoldWatch::default(),
                packs: None,
                metrics: Arc::default(),
            };
            Self { directory, collector, next_sequence: 1 }
        }

        /// The clock stands at so many milliseconds from now on.
        fn set_clock(&mut self, ticks: u64) {
            self.collector.ticks = GraceClock::starting_at(ticks);
        }

        async fn apply(&mut self, writes: &[Write]) {
            let (writer, now) = (InstanceId::from_i64(7), Timestamp::from_millis(0));
            let context = BatchContext { writer, now, tick: self.collector.ticks.now() };
            self.collector.database.apply(writes, &mut self.next_sequence, context).await.unwrap();
        }

        /// Commits an object with a file of its own.
        async fn put(&mut self, content: u8, number: u64) -> ObjectCommit {
            let commit = a_commit(None, content, number);
            let path = self.path_of(&commit);
            std::fs::write(path, vec![content; usize::from(content)]).unwrap();
            self.apply(&[Write::Commit(commit.clone())]).await;
            commit
        }

        async fn delete(&mut self, commit: &ObjectCommit) {
            let (id, precondition) = (commit.stored.object.id, Precondition::default());
            self.apply(&[Write::Delete { id, precondition }]).await;
        }

        fn path_of(&self, commit: &ObjectCommit) -> std::path::PathBuf {
            let location = commit.stored.location();
            let hash = location.content_hash.to_string();
            self.directory.path().join(format!("hot/blobs/{}/{hash}-{}", &hash[..2], location.place))
        }

        async fn cycle(&mut self) -> CycleReport {
            self.collector.cycle(|_| ()).await.unwrap()
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_blob_goes_after_its_last_reference_and_the_grace() {
        block_on(async {
            let mut world = World::new(100).await;
            let (first, second) = (world.put(9, 1).await, a_commit(None, 9, 2));
            world.apply(&[Write::Commit(second.clone())]).await;
            world.delete(&first).await;
            world.set_clock(10_000_000);
            // The row of the deleted object goes; the blob has a reference still.
            assert_eq!(world.cycle().await, CycleReport { objects: 1, ..CycleReport::default() });
            world.delete(&second).await;
            world.set_clock(10_599_000);
            assert_eq!(world.cycle().await, CycleReport::default(), "the grace is not over");
            assert!(world.path_of(&first).exists());
            world.set_clock(10_700_000);
            assert_eq!(
                world.cycle().await,
                CycleReport { blobs: 1, bytes: 9, objects: 1, ..CycleReport::default() }
            );
            assert!(!world.path_of(&first).exists());
            assert_eq!(world.cycle().await, CycleReport::default());
        });
    }

    #[test]
    fn a_new_upload_of_a_collected_content_is_another_copy() {
        block_on(async {
            let mut world = World::new(100).await;
            let old = world.put(5, 1).await;
            world.delete(&old).await;
            world.set_clock(10_000_000);
            // Forgotten, but its bytes not removed yet: then the same content comes again.
            let forgotten =
                world.collector.database.collect(world.collector.ticks.now(), 0, 100).await.unwrap();
            assert_eq!(forgotten.blobs, 1);
            let new = world.put(5, 2).await;
            assert_eq!(world.cycle().await.blobs, 1);
            assert!(!world.path_of(&old).exists());
            assert!(world.path_of(&new).exists(), "the newer copy is not touched");
        });
    }

    #[test]
    fn a_reference_within_the_grace_saves_the_blob() {
        block_on(async {
            let mut world = World::new(100).await;
            let first = world.put(5, 1).await;
            world.delete(&first).await;
            world.apply(&[Write::Commit(a_commit(None, 5, 2))]).await;
            world.set_clock(10_000_000);
            assert_eq!(world.cycle().await.blobs, 0);
            assert!(world.path_of(&first).exists());
        });
    }

    #[test]
    fn one_cycle_works_off_the_whole_backlog() {
        block_on(async {
            let mut world = World::new(3).await;
            for content in 1..=20 {
                let commit = world.put(content, content.into()).await;
                world.delete(&commit).await;
            }
            world.set_clock(10_000_000);
            let report = world.cycle().await;
            assert_eq!((report.blobs, report.objects), (20, 20));
            let counted = &world.collector.metrics;
            assert_eq!((counted.gc_deleted_blobs.get(), counted.gc_deleted_bytes.get()), (20, report.bytes));
        });
    }

    #[test]
    fn neither_downtime_nor_a_step_of_the_wall_clock_ages_anything() {
        block_on(async {
            let mut world = World::new(100).await;
            world.set_clock(5_000_000);
            let commit = world.put(5, 1).await;
            world.delete(&commit).await;
            assert_eq!(world.cycle().await, CycleReport::default());
            // Whatever passed outside, the next run goes on where the clock was stored.
            let stored = world.collector.database.ticks().await.unwrap();
            assert!((5_000_000..5_100_000).contains(&stored), "{stored}");
            // A run whose clock was lost is late, and collects nothing early.
            world.set_clock(0);
            assert_eq!(world.cycle().await, CycleReport::default());
            assert!(world.collector.database.ticks().await.unwrap() >= stored, "the clock never goes back");
        });
    }

    #[test]
    fn bytes_that_cannot_be_removed_keep_their_row() {
        block_on(async {
            let mut world = World::new(100).await;
            let commit = world.put(5, 1).await;
            world.delete(&commit).await;
            world.set_clock(10_000_000);
            // A directory in the file's place cannot be unlinked.
            std::fs::remove_file(world.path_of(&commit)).unwrap();
            std::fs::create_dir(world.path_of(&commit)).unwrap();
            assert!(matches!(world.collector.cycle(|_| ()).await, Err(CycleError::Files(_))));
            std::fs::remove_dir(world.path_of(&commit)).unwrap();
            assert_eq!(world.cycle().await.blobs, 1, "gone already is as good as removed");
            assert_eq!(world.cycle().await, CycleReport::default());
        });
    }
}
