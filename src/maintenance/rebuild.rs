//! `just_storage rebuild`: makes a lost database anew, from the newest copy of it in the hot root and what the packs have
//! logged since. Without a copy, from all that the packs have. What operators had set comes from a file of its own.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;

use super::audit::{AuditTrail, ToolChange};
use super::{MaintenanceError, Verdict};
use crate::config::{AuditArguments, StoreArguments};
use crate::domain::value_objects::{StorageClass, Timestamp};
use crate::infrastructure::persistence::{
    Database, DatabaseSettings, Policies, adopt_root, apply_log, kept_policies, snapshots,
};
use crate::infrastructure::storage::{DataDirectoryLock, DatabaseLock, Roots};

/// What `rebuild` is told.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    audit: AuditArguments,
}

pub(super) async fn rebuild(arguments: RebuildArguments) -> Result<Verdict, MaintenanceError> {
    let paths = arguments.store.into_paths()?;
    let Some(file) = paths.database_url.file() else { return Err(MaintenanceError::NotRebuilt) };
    let roots = Roots::open_existing(&paths.hot_storage_root, &paths.cold_storage_root)?;
    if fs::exists(file).map_err(MaintenanceError::files("look at", file))? {
        return Err(MaintenanceError::DatabaseThere(file.into()));
    }
    let _data_directory = DataDirectoryLock::acquire(&paths.data_dir)?;
    let _database = DatabaseLock::acquire(file)?;
    let policies = kept_policies(&roots)?;
    let audit = AuditTrail::open(arguments.audit)?;
    let copies = snapshots(&roots)
        .map_err(MaintenanceError::files("list the copies in", roots.of(StorageClass::Hot).path()))?;
    match copies.first() {
        Some(copy) => {
            put_in_place(copy, file).map_err(MaintenanceError::files("copy", copy))?;
            println!("from the copy {}", copy.display());
        }
        None => println!(
            "there is no copy of the database: all that packs hold is applied, and what was deleted before they were made may be back"
        ),
    }
    let database = Database::open(&paths.database_url, DatabaseSettings::OF_TOOL).await?;
    for class in StorageClass::ALL {
        adopt_root(&database, roots.of(class)).await?;
    }
    let now = Timestamp::from(SystemTime::now());
    // Before the log, which a server would apply as well if this ended early.
    match &policies {
        Some(policies) => database.take_policies(policies, now).await?,
        None => println!("there is no copy of what operators have set: look at keys, limits and rules"),
    }
    let applied = apply_log(&database, &roots, now).await?;
    database.close().await;
    DataDirectoryLock::make_durable(&paths.data_dir)?;
    println!("rebuilt; {applied} changes came from the log");
    if let Some(Policies { keys, limits, rules }) = policies {
        let (keys, limits, rules) = (keys.len(), limits.len(), rules.len());
        println!(
            "{keys} API keys, the limits of {limits} tenants and the rules of {rules} namespaces are as they were last set"
        );
    }
    audit.tell(ToolChange::Rebuilt { changes: applied, from_copy: !copies.is_empty() })?;
    Ok(Verdict::Clean)
}

/// Under its name it is whole and durable.
fn put_in_place(copy: &Path, file: &Path) -> io::Result<()> {
    let unfinished = file.with_extension("rebuilding");
    fs::copy(copy, &unfinished)?;
    File::open(&unfinished)?.sync_all()?;
    for leftover in ["-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(leftover);
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(&unfinished, file)
}
