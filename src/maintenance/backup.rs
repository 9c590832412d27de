//! `just_storage backup DIR`: a consistent copy of the metadata and of all bytes that it needs, also while servers go
//! on writing.
//!
//! ```text
//! hold the collector ─► snapshot of the metadata ─► bytes: linked, or copied and hashed ─► sync ─► manifest ─► let go
//! ```
//! A blob file is never written again, so a hard link is as good as a copy as long as the disk is; `--copy` makes a
//! second one. A crash leaves a directory without a manifest, and a hold that ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use clap::Args;
use tokio::task::{JoinHandle, spawn_blocking};

use super::backup_format::{
    BackupError, FORMAT, FORMAT_WITHOUT_LIMITS, FORMAT_WITHOUT_RULES, Manifest, MetadataReader,
    MetadataWriter, blob_path,
};
use super::gc::name;
use super::progress::Progress;
use super::store::Store;
use super::transfer::{Transfer, Transferred, sync_file_system};
use super::{MaintenanceError, Verdict};
use crate::config::StoreArguments;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::Timestamp;
use crate::infrastructure::persistence::{
    BlobRow, Database, ExportedRow, HOLD_RENEWAL_INTERVAL, HOLD_TIMEOUT, HoldId,
};

/// Where the snapshot's blobs wait until their bytes are there.
const PENDING: &str = "pending";

/// What `backup` is told.
#[derive(Debug, Args)]
pub struct BackupArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// A new directory, or an empty one
    directory: PathBuf,
    /// Copy every byte, also where a hard link would do
    #[arg(long)]
    copy: bool,
}

pub(super) async fn back_up(arguments: BackupArguments) -> Result<Verdict, MaintenanceError> {
    let directory = arguments.directory;
    let paths = arguments.store.into_paths()?;
    let manifest = Store::with(&paths, async |store| {
        make_empty(&directory)?;
        let hold = CollectorHold::take(store.database.clone()).await?;
        let transfer = Transfer { copy: arguments.copy };
        let backup = Backup { store, directory: &directory, transfer };
        let made = backup.make(paths.database_url.to_string()).await;
        let held = hold.release().await;
        let manifest = made?;
        if held? { Ok(manifest) } else { Err(MaintenanceError::HoldLost) }
    })
    .await?;
    manifest.write(&directory).map_err(MaintenanceError::files("finish", &directory))?;
    println!("backed up {} objects to {}", manifest.objects, directory.display());
    Ok(if manifest.damaged_blobs == 0 { Verdict::Clean } else { Verdict::NotClean })
}

fn make_empty(directory: &Path) -> Result<(), MaintenanceError> {
    let failed = |error| BackupError::Io(directory.into(), error);
    fs::create_dir_all(directory).map_err(failed)?;
    match fs::read_dir(directory).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty(directory.into()).into()),
    }
}

struct Backup<'s> {
    store: &'s Store,
    directory: &'s Path,
    transfer: Transfer,
}

impl Backup<'_> {
    async fn make(&self, database: String) -> Result<Manifest, MaintenanceError> {
        let failed = |operation| MaintenanceError::files(operation, self.directory);
        let pending = self.directory.join(PENDING);
        fs::create_dir(&pending).map_err(failed("make a directory in"))?;
        let mut metadata = MetadataWriter::create(self.directory).map_err(failed("write to"))?;
        let mut waiting = MetadataWriter::create(&pending).map_err(failed("write to"))?;
        let (mut objects, mut bytes) = (0, 0);
        let mut format = FORMAT_WITHOUT_LIMITS;
        let mut take = |row: ExportedRow| match &row {
            ExportedRow::Blob(blob) => {
                bytes += blob.size_bytes;
                waiting.write(&row)
            }
            ExportedRow::Object { .. } => {
                objects += 1;
                metadata.write(&row)
            }
            ExportedRow::Limits { .. } => {
                format = format.max(FORMAT_WITHOUT_RULES);
                metadata.write(&row)
            }
            ExportedRow::Rule { .. } => {
                format = FORMAT;
                metadata.write(&row)
            }
            ExportedRow::Clock { .. } => metadata.write(&row),
        };
        self.store.database.export(&mut take).await?;
        waiting.finish().map_err(failed("write to"))?;
        let (blobs, damaged_blobs) = self.take_bytes(&pending, &mut metadata, bytes).await?;
        fs::remove_dir_all(&pending).map_err(failed("remove a directory from"))?;
        let metadata_sha256 = metadata.finish().map_err(failed("write to"))?;
        sync_file_system(self.directory).map_err(failed("sync"))?;
        Ok(Manifest {
            format,
            program: format!("just_storage {}", env!("CARGO_PKG_VERSION")),
            created_at: Timestamp::from(SystemTime::now()).to_string(),
            database,
            objects,
            blobs,
            bytes,
            damaged_blobs,
            metadata_sha256,
        })
    }

    /// Takes the bytes of all waiting blobs, and notes each blob as it turned out. How many there are, and how many
    /// of them are damaged.
    async fn take_bytes(
        &self,
        pending: &Path,
        metadata: &mut MetadataWriter,
        bytes_total: u64,
    ) -> Result<(u64, u64), MaintenanceError> {
        let mut progress = Progress::new("backed up", bytes_total);
        let mut waiting = MetadataReader::open(pending)?;
        let (mut blobs, mut damaged_blobs) = (0, 0);
        while let Some(row) = waiting.next()? {
            let ExportedRow::Blob(mut blob) = row else { continue };
            if let Some(what) = self.take_blob(&blob).await? {
                progress.say(&format!("{} is not in the backup: {what}", name(&blob.location)));
                blob.damaged = true;
            }
            // In the backup each is a file of its own.
            blob.location.place = blob.location.place.as_file();
            blobs += 1;
            damaged_blobs += u64::from(blob.damaged);
            metadata
                .write(&ExportedRow::Blob(blob))
                .map_err(MaintenanceError::files("write to", self.directory))?;
            progress.add_bytes(blob.size_bytes);
            progress.add_blob();
        }
        progress.finish();
        Ok((blobs, damaged_blobs))
    }

    /// What is wrong with a blob's bytes, if anything is.
    async fn take_blob(&self, blob: &BlobRow) -> Result<Option<String>, MaintenanceError> {
        if blob.damaged {
            return Ok(Some("it is known to be damaged".into()));
        }
        let root = self.store.roots.of(blob.location.storage_class).clone();
        let place = blob.location.place.as_file();
        let target = blob_path(self.directory, &BlobLocation { place, ..blob.location });
        let (transfer, row, path) = (self.transfer, *blob, target.clone());
        let done = spawn_blocking(move || {
            if let Some(shard) = path.parent() {
                fs::create_dir_all(shard)?;
            }
            transfer.run_from(&root, &path, &row)
        });
        let done = done.await.map_err(std::io::Error::other).flatten();
        match done.map_err(MaintenanceError::files("write", target))? {
            Transferred::Whole => Ok(None),
            Transferred::Missing => Ok(Some("its file is gone".into())),
            Transferred::Altered => Ok(Some("its bytes are not those that were stored".into())),
        }
    }
}

/// Keeps the collector from removing bytes, as long as it can.
struct CollectorHold {
    database: Arc<Database>,
    id: HoldId,
    lost: Arc<AtomicBool>,
    renewing: JoinHandle<()>,
}

impl CollectorHold {
    async fn take(database: Arc<Database>) -> Result<Self, MaintenanceError> {
        let id = uuid::Uuid::new_v4().as_u64_pair().1.cast_signed();
        database.take_hold(id, "backup", Timestamp::from(SystemTime::now())).await?;
        let lost = Arc::new(AtomicBool::new(false));
        let renewing = tokio::spawn(renew(database.clone(), id, lost.clone()));
        Ok(Self { database, id, lost, renewing })
    }

    /// Lets the collector go on. `false` if it may have done so before.
    async fn release(self) -> Result<bool, MaintenanceError> {
        self.renewing.abort();
        let held = !self.lost.load(Ordering::Relaxed) && self.database.renew_hold(self.id).await?;
        self.database.release_hold(self.id).await?;
        Ok(held)
    }
}

async fn renew(database: Arc<Database>, id: HoldId, lost: Arc<AtomicBool>) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(HOLD_RENEWAL_INTERVAL).await;
        match database.renew_hold(id).await {
            Ok(true) => renewed = Instant::now(),
            Ok(false) => return lost.store(true, Ordering::Relaxed),
            // The database may come back in time.
            Err(_) if renewed.elapsed() < HOLD_TIMEOUT => {}
            Err(_) => return lost.store(true, Ordering::Relaxed),
        }
    }
}
