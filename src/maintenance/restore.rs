//! `just_storage restore DIR`: fills an empty store from a backup.
//!
//! ```text
//! check the whole backup ─► check that the store is empty ─► bytes ─► sync ─► metadata, in one transaction
//! ```
//! Until that transaction the store stays empty, so that an interrupted restore is simply run again. Names, ids, dates
//! and the order of commits are those of the backup; the storage roots get identities of their own. Rules of namespaces
//! rest at first: what they would delete may be what the backup is restored for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use tokio::task::spawn_blocking;

use super::audit::{AuditTrail, ToolChange};
use super::backup_format::{BackupError, Manifest, MetadataReader, blob_path};
use super::progress::Progress;
use super::store::tell_not_kept;
use super::transfer::{Transfer, Transferred, sync_file_system};
use super::{MaintenanceError, Verdict};
use crate::config::{AuditArguments, StoreArguments, StorePaths};
use crate::domain::entities::{ClockMark, ClockMarks};
use crate::domain::value_objects::{StorageClass, Timestamp};
use crate::infrastructure::persistence::{
    BlobRow, Database, DatabaseSettings, DatabaseUrl, ExportedRow, ImportedRows, OpenError, claim_root,
    keep_policies,
};
use crate::infrastructure::storage::{DataDirectoryLock, DatabaseLock, Roots, StorageRoot};

/// How many rows are put into the database at once.
const ROWS_AT_ONCE: usize = 1000;
/// What `restore` is told.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The backup
    directory: PathBuf,
    /// Copy every byte, also where a hard link would do
    #[arg(long)]
    copy: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

pub(super) async fn restore(arguments: RestoreArguments) -> Result<Verdict, MaintenanceError> {
    let directory = arguments.directory;
    let paths = arguments.store.into_paths()?;
    let manifest = Manifest::read(&directory)?;
    let checked = check_backup(&directory, &manifest)?;
    check_target(&paths).await?;
    let audit = AuditTrail::open(arguments.audit)?;

    let _data_directory = DataDirectoryLock::acquire(&paths.data_dir)?;
    let _database = paths.database_url.file().map(DatabaseLock::acquire).transpose()?;
    let roots = Roots::open(&paths.hot_storage_root, &paths.cold_storage_root)?;
    let database = Database::open(&paths.database_url, DatabaseSettings::OF_TOOL).await?;
    if !database.is_empty().await? {
        return Err(MaintenanceError::NotEmpty(paths.database_url.to_string()));
    }
    for class in StorageClass::ALL {
        claim_root(&database, roots.of(class)).await?;
    }
    let now = Timestamp::from(SystemTime::now());
    if checked.has_rules {
        database.set_clock_marks(ClockMarks::resting(ClockMark { wall: now, tick: checked.ticks })).await?;
    }
    place_bytes(&directory, &manifest, &roots, Transfer { copy: arguments.copy }).await?;
    put_rows(&database, &directory, (checked.ticks, now)).await?;
    if let Err(error) = keep_policies(&database, &roots).await {
        tell_not_kept(&error);
    }
    database.close().await;
    DataDirectoryLock::make_durable(&paths.data_dir)?;
    println!("restored {} objects from the backup of {}", manifest.objects, manifest.created_at);
    let (backup_created_at, objects) = (manifest.created_at.as_str(), manifest.objects);
    audit.tell(ToolChange::Restored { backup_created_at, objects })?;
    if manifest.damaged_blobs > 0 {
        println!("{} blobs were damaged when it was made, and still are", manifest.damaged_blobs);
        return Ok(Verdict::NotClean);
    }
    Ok(Verdict::Clean)
}

/// What a backup turned out to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Checked {
    /// How far the clock was.
    ticks: u64,
    has_rules: bool,
}

/// Reads all of it but the bytes themselves.
fn check_backup(directory: &Path, manifest: &Manifest) -> Result<Checked, BackupError> {
    let mut metadata = MetadataReader::open(directory)?;
    let mut checked = Checked::default();
    while let Some(row) = metadata.next()? {
        match row {
            ExportedRow::Clock { ticks } => checked.ticks = ticks,
            ExportedRow::Rule { .. } => checked.has_rules = true,
            ExportedRow::Limits { .. } | ExportedRow::Object { .. } => {}
            ExportedRow::Blob(blob) => check_file(directory, &blob)?,
        }
    }
    metadata.check(manifest)?;
    Ok(checked)
}

fn check_file(directory: &Path, blob: &BlobRow) -> Result<(), BackupError> {
    let path = blob_path(directory, &blob.location);
    match fs::symlink_metadata(&path) {
        _ if blob.damaged => Ok(()),
        Ok(metadata) if metadata.len() == blob.size_bytes => Ok(()),
        Ok(metadata) => {
            let what = format!("{} bytes instead of {}", metadata.len(), blob.size_bytes);
            Err(BackupError::Damaged { path, what })
        }
        Err(error) => Err(BackupError::Io(path, error)),
    }
}

/// What can be said of the target before anything is made there.
async fn check_target(paths: &StorePaths) -> Result<(), MaintenanceError> {
    let url = &paths.database_url;
    let database = match (Database::open_existing(url).await, url) {
        (Ok(database), _) => Some(database),
        (Err(OpenError::Missing(_) | OpenError::Older { .. }), _) => None,
        // A new database of PostgreSQL is there and has no tables.
        (Err(OpenError::Foreign(_)), DatabaseUrl::Postgres(_)) => None,
        (Err(error), _) => return Err(error.into()),
    };
    if let Some(database) = &database
        && !database.is_empty().await?
    {
        return Err(MaintenanceError::NotEmpty(url.to_string()));
    }
    for (class, path) in
        [(StorageClass::Hot, &paths.hot_storage_root), (StorageClass::Cold, &paths.cold_storage_root)]
    {
        let Ok(root) = StorageRoot::open_existing(class, path) else { continue };
        let known = match &database {
            Some(database) => database.root(class).await?.map(|row| row.identity),
            None => None,
        };
        if root.read_identity()?.is_some_and(|identity| known != Some(identity)) {
            return Err(MaintenanceError::ForeignRoot { class, path: path.clone() });
        }
    }
    Ok(())
}

async fn place_bytes(
    directory: &Path,
    manifest: &Manifest,
    roots: &Roots,
    transfer: Transfer,
) -> Result<(), MaintenanceError> {
    let mut progress = Progress::new("restored", manifest.bytes);
    let mut metadata = MetadataReader::open(directory)?;
    while let Some(row) = metadata.next()? {
        let ExportedRow::Blob(blob) = row else { continue };
        if !blob.damaged {
            place_blob(directory, roots, transfer, blob).await?;
        }
        progress.add_bytes(blob.size_bytes);
        progress.add_blob();
    }
    progress.finish();
    for class in StorageClass::ALL {
        let path = roots.of(class).path();
        sync_file_system(path).map_err(MaintenanceError::files("sync", path))?;
    }
    Ok(())
}

async fn place_blob(
    directory: &Path,
    roots: &Roots,
    transfer: Transfer,
    blob: BlobRow,
) -> Result<(), MaintenanceError> {
    let source = blob_path(directory, &blob.location);
    let target = roots.of(blob.location.storage_class).blob_path(&blob.location);
    let (from, to) = (source.clone(), target.clone());
    let done = spawn_blocking(move || transfer.run(&from, &to, &blob)).await;
    match done.map_err(std::io::Error::other).flatten().map_err(MaintenanceError::files("write", target))? {
        Transferred::Whole => Ok(()),
        Transferred::Missing => Err(damaged(source, "it is gone")),
        Transferred::Altered => Err(damaged(source, "its bytes are not those that were backed up")),
    }
}

fn damaged(path: PathBuf, what: &str) -> MaintenanceError {
    BackupError::Damaged { path, what: what.into() }.into()
}

async fn put_rows(
    database: &Database,
    directory: &Path,
    (ticks, now): (u64, Timestamp),
) -> Result<(), MaintenanceError> {
    let mut metadata = MetadataReader::open(directory)?;
    let mut next = || -> std::io::Result<Option<ImportedRows>> {
        let mut rows = ImportedRows::default();
        while rows.len() < ROWS_AT_ONCE {
            match metadata.next().map_err(std::io::Error::other)? {
                Some(ExportedRow::Clock { .. }) => {}
                Some(ExportedRow::Limits { tenant_id, limits }) => rows.limits.push((tenant_id, limits)),
                Some(ExportedRow::Rule { namespace, rule }) => rows.rules.push((namespace, rule, now)),
                Some(ExportedRow::Object { sequence, object }) => rows.objects.push((sequence, *object)),
                Some(ExportedRow::Blob(blob)) => rows.blobs.push(blob),
                None => break,
            }
        }
        Ok((rows.len() > 0).then_some(rows))
    };
    Ok(database.import(ticks, &mut next).await?)
}
