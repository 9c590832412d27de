//! A store as a tool opens it: what is there, and that it belongs together.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{MaintenanceError, with_causes};
use crate::config::StorePaths;
use crate::domain::value_objects::{InstanceId, StorageClass, Timestamp};
use crate::infrastructure::persistence::{
    BlobFilter, BlobRow, Database, DatabaseError, apply_log, keep_policies,
};
use crate::infrastructure::storage::{
    DatabaseLock, DatabaseUse, LeftoverPacks, LogReplay, Roots, blob_length, file_path,
};

/// How many rows are read at once.
pub(super) const PAGE_ROWS: u32 = 1000;

/// How long a running server may take to apply what its log had when the tool began.
const APPLY_LIMIT: Duration = Duration::from_secs(60);
/// How often to look whether it has.
const APPLY_LOOK: Duration = Duration::from_millis(20);

pub(super) struct Store {
    pub(super) database: Arc<Database>,
    pub(super) roots: Roots,
}

impl Store {
    /// Opens the store for `work`, and closes it whatever comes of that: SQLite keeps a log beside its file until the
    /// last connection has been closed.
    pub(super) async fn with<T>(
        paths: &StorePaths,
        work: impl AsyncFnOnce(&Self) -> Result<T, MaintenanceError>,
    ) -> Result<T, MaintenanceError> {
        let database = Arc::new(Database::open_existing(&paths.database_url).await?);
        let done = match open_roots(&database, paths).await {
            Ok(roots) => match catch_up(&database, &roots, paths).await {
                Ok(()) => work(&Self { database: database.clone(), roots }).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        database.close().await;
        done
    }

    /// All blobs, page by page.
    pub(super) fn blobs(&self, filter: BlobFilter) -> BlobPages<'_> {
        BlobPages { database: &self.database, filter, last: None }
    }

    /// What is to be seen of a blob's copy without reading it. The row is looked at once more where the copy is not
    /// there: it may have given way to another since.
    pub(super) async fn state_of(&self, row: &BlobRow) -> Result<CopyState, MaintenanceError> {
        let root = self.roots.of(row.location.storage_class);
        let failed = MaintenanceError::files("look at", file_path(root, &row.location));
        let state = match blob_length(root, &row.location).map_err(failed)? {
            Some(length) if length == row.size_bytes => return Ok(CopyState::Whole),
            Some(length) => CopyState::OfAnotherLength(length),
            None => CopyState::Missing,
        };
        Ok(if self.still_serves(row).await? { state } else { CopyState::Replaced })
    }

    /// Whether a blob is still served from the place that was read before.
    pub(super) async fn still_serves(&self, row: &BlobRow) -> Result<bool, DatabaseError> {
        let now = self.database.blob((row.location.content_hash, row.location.storage_class)).await?;
        Ok(now.is_some_and(|now| now.location == row.location))
    }
}

/// Keeps what has just been set where `rebuild` finds it. Where that cannot be, it is set all the same: a server keeps it
/// at its start.
pub(super) async fn keep_what_is_set(database: &Database, paths: &StorePaths) {
    if paths.database_url.is_shared() {
        return;
    }
    match open_roots(database, paths).await {
        Ok(roots) => {
            if let Err(error) = keep_policies(database, &roots).await {
                tell_not_kept(&error);
            }
        }
        Err(error) => tell_not_kept(&error),
    }
}

pub(super) fn tell_not_kept(error: &dyn std::error::Error) {
    eprintln!(
        "what operators have set is in the database alone until a server starts: {}",
        with_causes(error)
    );
}

/// The roots, if they are those of the database.
async fn open_roots(database: &Database, paths: &StorePaths) -> Result<Roots, MaintenanceError> {
    let roots = Roots::open_existing(&paths.hot_storage_root, &paths.cold_storage_root)?;
    for class in StorageClass::ALL {
        let root = roots.of(class);
        let known = database.root(class).await?.map(|row| row.identity);
        if known.is_none() || root.read_identity()? != known {
            return Err(MaintenanceError::ForeignRoot { class, path: root.path().into() });
        }
    }
    Ok(roots)
}

/// Sees to it that the database has all that anybody has been told is stored. A running server applies its log by
/// itself, a moment later; without one it is applied here.
async fn catch_up(database: &Database, roots: &Roots, paths: &StorePaths) -> Result<(), MaintenanceError> {
    let Some(file) = paths.database_url.file() else { return Ok(()) };
    if let DatabaseUse::Free(_lock) = DatabaseLock::look(file)? {
        let applied = apply_log(database, roots, Timestamp::from(SystemTime::now())).await?;
        if applied > 0 {
            eprintln!("applied {applied} changes that only the log had");
        }
        return Ok(());
    }
    let mut log = LogReplay::begin(roots, &database.known_ends().await?, LeftoverPacks::Stay)?;
    while !log.next_changes(PAGE_ROWS as usize)?.is_empty() {}
    let begun = Instant::now();
    while database.applied_sequence().await? < log.last_sequence() {
        if begun.elapsed() > APPLY_LIMIT {
            return Err(MaintenanceError::LogNotApplied);
        }
        tokio::time::sleep(APPLY_LOOK).await;
    }
    Ok(())
}

/// A blob's copy at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyState {
    Whole,
    OfAnotherLength(u64),
    Missing,
    /// Another copy serves now, or none.
    Replaced,
}

pub(super) struct BlobPages<'d> {
    database: &'d Database,
    filter: BlobFilter,
    last: Option<BlobRow>,
}

impl BlobPages<'_> {
    /// The next page, or nothing behind the last.
    pub(super) async fn next(&mut self) -> Result<Vec<BlobRow>, DatabaseError> {
        let after = self.last.map(|row| (row.location.content_hash, row.location.storage_class));
        let page = self.database.blob_page(self.filter, after, PAGE_ROWS).await?;
        self.last = page.last().copied().or(self.last);
        Ok(page)
    }
}

/// Which runs of servers may still write.
pub(super) enum Serving {
    /// None: this keeps every server away. SQLite alone can tell so.
    Nobody { _lock: DatabaseLock },
    /// Those whose rows do not say that they have ended.
    WhoeverHasNotEnded,
}

impl Serving {
    pub(super) fn find_out(paths: &StorePaths) -> Result<Self, MaintenanceError> {
        let Some(database) = paths.database_url.file() else { return Ok(Self::WhoeverHasNotEnded) };
        Ok(match DatabaseLock::look(database)? {
            DatabaseUse::Free(lock) => Self::Nobody { _lock: lock },
            DatabaseUse::InUse | DatabaseUse::Unknown => Self::WhoeverHasNotEnded,
        })
    }

    /// The runs as they are known now.
    pub(super) async fn runs(&self, database: &Database) -> Result<Runs, DatabaseError> {
        let (mut ended, mut alive) = (Vec::new(), Vec::new());
        for row in database.instances().await? {
            match self {
                Self::Nobody { .. } => ended.push(row.id),
                Self::WhoeverHasNotEnded if row.ended => ended.push(row.id),
                Self::WhoeverHasNotEnded => alive.push(row.id),
            }
        }
        Ok(Runs { ended, alive })
    }
}

/// The runs of servers that a database knows.
pub(super) struct Runs {
    ended: Vec<InstanceId>,
    alive: Vec<InstanceId>,
}

/// What is known of the run that wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Ended,
    Alive,
    /// Its leftovers were swept long ago, or it belongs to a store that this one was restored from.
    Unknown,
}

impl Runs {
    pub(super) fn ended(&self) -> &[InstanceId] {
        &self.ended
    }

    pub(super) fn writer(&self, instance: InstanceId) -> Writer {
        if self.alive.contains(&instance) {
            Writer::Alive
        } else if self.ended.contains(&instance) {
            Writer::Ended
        } else {
            Writer::Unknown
        }
    }
}
