//! What a start owes to the runs before it: roots that are really ours, and nothing left of uploads that died.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::database::{Database, RootRow};
use super::metadata_plane::StartError;
use crate::domain::value_objects::{InstanceId, StorageClass};
use crate::infrastructure::storage::{
    Roots, StorageRoot, blob_files_of, remove_blob_files, remove_temporary_files_of,
};

/// Makes sure that each root belongs to this database; claims it on the first start.
///
/// A claim is noted in the database first and completed there last, so that a crash at any point between leaves a
/// state from which the same claim is completed:
///
/// ```text
/// database: (id, not claimed) ─► root: id ─► database: (id, claimed)
/// ```
pub(crate) async fn claim_root(database: &Database, root: &StorageRoot) -> Result<(), StartError> {
    let class = root.class();
    let path = || root.path().to_path_buf();
    // The root first: who finds an identity there finds it in the database too, also while another server claims.
    let mut identity = root.read_identity()?;
    let row = database.root(class).await?;
    if identity.is_none() && row.is_some_and(|row| row.claimed) {
        // It may have been written between the two looks.
        identity = root.read_identity()?;
    }
    match (row, identity) {
        (Some(row), Some(identity)) if row.identity != identity => {
            Err(StartError::ForeignRoot { class, path: path() })
        }
        (Some(RootRow { claimed: true, .. }), Some(_)) => Ok(()),
        (Some(RootRow { claimed: true, .. }), None) => Err(StartError::RootMissing { class, path: path() }),
        (None, Some(_)) => Err(StartError::ForeignRoot { class, path: path() }),
        (Some(RootRow { claimed: false, identity }), _) => complete_claim(database, root, identity).await,
        (None, None) => {
            let row = RootRow { identity: Uuid::new_v4(), claimed: false };
            // Where two servers claim at the same time, both go on with what the first one noted.
            let row = database.put_root(class, row).await?;
            complete_claim(database, root, row.identity).await
        }
    }
}

/// Notes a root as it says itself that it is, in a database that was lost and is made anew.
pub(crate) async fn adopt_root(database: &Database, root: &StorageRoot) -> Result<(), StartError> {
    let class = root.class();
    match root.read_identity()? {
        Some(identity) => {
            let noted = database.put_root(class, RootRow { identity, claimed: true }).await?;
            let path = || root.path().to_path_buf();
            if noted.identity == identity {
                Ok(())
            } else {
                Err(StartError::ForeignRoot { class, path: path() })
            }
        }
        None => Err(StartError::RootMissing { class, path: root.path().to_path_buf() }),
    }
}

async fn complete_claim(database: &Database, root: &StorageRoot, identity: Uuid) -> Result<(), StartError> {
    root.write_identity(identity)?;
    database.put_root(root.class(), RootRow { identity, claimed: true }).await?;
    Ok(())
}

/// Removes what dead instances left in the roots. Runs beside the server: nobody writes under their names any more.
///
/// # Errors
/// Any listing or query error; then nothing more is removed, and the next start tries again.
pub(super) async fn sweep(
    database: Arc<Database>,
    roots: Roots,
    node: &str,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let dead = database.dead_instances(node).await?;
    if dead.is_empty() {
        return Ok(0);
    }
    let names: Arc<HashSet<InstanceId>> = Arc::new(dead.iter().copied().collect());
    let mut removed = 0;
    for class in StorageClass::ALL {
        let root = roots.of(class).clone();
        for shard in 0..=u8::MAX {
            let (listed, names) = (root.clone(), names.clone());
            let files = spawn_blocking(move || blob_files_of(&listed, shard, &names)).await??;
            if files.is_empty() {
                continue;
            }
            let garbage = database.unnamed_files(&files).await?;
            removed += garbage.len() as u64;
            let root = root.clone();
            spawn_blocking(move || remove_blob_files(&root, &garbage)).await??;
        }
        let names = names.clone();
        removed += spawn_blocking(move || remove_temporary_files_of(&root, &names)).await?? as u64;
    }
    database.forget_instances(&dead).await?;
    Ok(removed)
}
