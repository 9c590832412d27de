//! Applying what the log has and the database has not, before anything is served.

use tokio::task::spawn_blocking;

use super::batch::{BatchContext, LogContext, PackChange};
use super::database::Database;
use super::group_commit::log_context;
use super::metadata_plane::StartError;
use crate::domain::value_objects::{InstanceId, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::BATCH_WRITES_MAX;
use crate::infrastructure::storage::{
    LeftoverPacks, LogReplay, ReplayError, ReplayedPack, Roots, remove_packs,
};

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReplayReport {
    /// Changes that were in the log alone.
    pub(crate) applied: u64,
    /// The last change that is in the database now.
    pub(crate) last_sequence: u64,
}

/// Applies, in their order, all changes of the log that come after what the database has. Nobody may write to a pack
/// meanwhile: afterwards each ends where its log does.
pub(crate) async fn replay(
    database: &Database,
    roots: &Roots,
    context: BatchContext,
) -> Result<ReplayReport, StartError> {
    let known = database.known_ends().await?;
    let (begun, applied) = (roots.clone(), known.applied_sequence);
    let mut log = blocking(move || LogReplay::begin(&begun, &known, LeftoverPacks::Go)).await?;
    let mut report = ReplayReport { applied: 0, last_sequence: applied };
    loop {
        let (read, changes) = blocking(move || {
            let changes = log.next_changes(BATCH_WRITES_MAX)?;
            Ok((log, changes))
        })
        .await?;
        log = read;
        if changes.is_empty() {
            break;
        }
        report.applied += changes.len() as u64;
        let log: LogContext = log_context(changes.iter().map(|change| (change.sequence, Some(change.mark))));
        let writes: Vec<_> = changes.into_iter().map(|change| change.write).collect();
        database.apply_logged(&writes, &log, context, roots).await?;
    }
    report.last_sequence = log.last_sequence();
    let packs = blocking(move || log.finish()).await?;
    note_ends(database, roots, &packs).await?;
    Ok(report)
}

/// As a start does it, for a tool that keeps every server away: how many changes only the log had.
pub(crate) async fn apply_log(database: &Database, roots: &Roots, now: Timestamp) -> Result<u64, StartError> {
    let context = BatchContext { writer: InstanceId::from_i64(0), now, tick: database.ticks().await? };
    Ok(replay(database, roots, context).await?.applied)
}

/// Packs with nothing in them go; of the others it is noted where they end.
async fn note_ends(database: &Database, roots: &Roots, packs: &[ReplayedPack]) -> Result<(), StartError> {
    for class in StorageClass::ALL {
        let empty: Vec<_> = packs
            .iter()
            .filter(|pack| pack.is_empty && pack.storage_class == class)
            .map(|pack| pack.pack)
            .collect();
        let root = roots.of(class).clone();
        blocking(move || remove_packs(&root, &empty).map_err(|source| ReplayError::List { class, source }))
            .await?;
    }
    let ends: Vec<_> = packs
        .iter()
        .filter(|pack| !pack.is_empty)
        .map(|pack| PackChange {
            pack: pack.pack,
            storage_class: pack.storage_class,
            live_bytes: 0,
            applied_end: pack.end,
            last_sequence: 0,
            ended_at: None,
        })
        .collect();
    if !ends.is_empty() {
        // In a synced transaction, and so with all that was applied before it.
        database.put_packs(&ends).await?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReplayError> + Send + 'static,
) -> Result<T, StartError> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| StartError::Thread(std::io::Error::other(error)))?.map_err(StartError::Log)
}
