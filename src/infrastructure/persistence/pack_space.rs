//! Giving back the space of packs: what is still needed of one that is mostly dead moves to another, and one that
//! nothing is needed of is removed.
//!
//! ```text
//! live blobs ─► new pack, synced ─► one transaction: places move ─► …
//! nothing lives in it ─► a copy of the database that has all its changes ─► file removed ─► row removed
//! ```
//! A pack is part of the log too: without the copy of the database, what it has of changes would be lost with it, and
//! could not be applied to an older copy any more.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::batch::PackChange;
use super::collector::CycleError;
use super::database::{Database, PackRow};
use super::snapshot::take_snapshot;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{InstanceId, PackId, Place, StorageClass};
use crate::fault_injection::gc_interval;
use crate::infrastructure::plane_channel::LogOrder;
use crate::infrastructure::storage::{OpenPacks, PackCopy, PackScan, Roots, records, remove_packs};

/// Dead packs are removed once they are so many bytes, and a quarter of what lives: each removal costs a copy of the
/// database.
const DEAD_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// A pack shorter than this is merged with others once there are many: each start of the server leaves some.
const SHORT_PACK_BYTES: u64 = 4 * 1024 * 1024;
/// So many short packs are left alone.
const SHORT_PACKS_MAX: usize = 16;
/// How many blobs move in one transaction at most.
const MOVES_MAX: usize = 1000;

/// The packs that this server owns.
pub(crate) struct PackSpace {
    pub(super) database: Arc<Database>,
    pub(super) roots: Roots,
    pub(super) instance: InstanceId,
    pub(super) open: Arc<OpenPacks>,
    pub(super) order: Option<Arc<LogOrder>>,
}

/// What a step gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    pub(crate) packs: u64,
    pub(crate) bytes: u64,
    /// Blobs that moved to another pack.
    pub(crate) moved: u64,
}

/// A pack that nobody writes any more, all of whose changes are in the database.
#[derive(Debug, Clone, Copy)]
struct Settled {
    row: PackRow,
    file_bytes: u64,
}

impl PackSpace {
    /// Does what is to be done now. Not while a backup reads: it knows places of before.
    pub(super) async fn reclaim(&self) -> Result<Reclaimed, CycleError> {
        let mut reclaimed = Reclaimed::default();
        let packs = self.settled().await?;
        for sources in to_compact(&packs) {
            reclaimed.moved += self.compact(&sources).await?;
        }
        let packs = if reclaimed.moved > 0 { self.settled().await? } else { packs };
        let live_bytes: u64 = packs.iter().map(|pack| pack.row.live_bytes).sum();
        let dead: Vec<_> = packs.iter().filter(|pack| pack.row.live_bytes == 0).copied().collect();
        let dead_bytes: u64 = dead.iter().map(|pack| pack.file_bytes).sum();
        if dead_bytes >= DEAD_BYTES_MIN.max(live_bytes / 4) || dead_bytes > 0 && gc_interval().is_some() {
            take_snapshot(&self.database, &self.roots).await?;
            self.remove(&dead).await?;
            (reclaimed.packs, reclaimed.bytes) = (dead.len() as u64, dead_bytes);
        }
        Ok(reclaimed)
    }

    async fn settled(&self) -> Result<Vec<Settled>, CycleError> {
        // One that is made from now on is neither among these nor, for certain, among those that are open.
        let known: HashSet<_> = self.database.packs().await?.into_iter().map(|row| row.pack).collect();
        let open = self.open.all();
        if let Some(order) = &self.order {
            // What is in the packs that were not open then has been sent on, and is applied in its turn.
            order.is_applied(order.last_taken(), || false).await;
        }
        let rows = self.database.packs().await?;
        let roots = self.roots.clone();
        let look = move || {
            let is_settled = |row: &PackRow| known.contains(&row.pack) && !open.contains(&row.pack);
            let settled = rows.into_iter().filter(is_settled).map(|row| {
                let path = roots.of(row.storage_class).pack_path(row.pack);
                let file_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
                Settled { row, file_bytes }
            });
            settled.collect()
        };
        spawn_blocking(look).await.map_err(|error| CycleError::Files(std::io::Error::other(error)))
    }

    /// Moves what lives in some packs of one root to a new one, and says how many blobs that were.
    async fn compact(&self, sources: &[Settled]) -> Result<u64, CycleError> {
        let Some(first) = sources.first() else { return Ok(0) };
        let class = first.row.storage_class;
        let live_bytes: u64 = sources.iter().map(|source| source.row.live_bytes).sum();
        let (root, instance) = (self.roots.of(class).clone(), self.instance);
        let mut copy = blocking(move || PackCopy::create(&root, instance, live_bytes)).await?;
        let mut moves = Vec::new();
        for source in sources {
            let found = self.live_blobs(class, source.row.pack).await?;
            let root = self.roots.of(class).clone();
            let (back, moved) = blocking(move || {
                let moved = found.into_iter().map(|from| Ok((from, copy.append(&root, &from)?)));
                let moved = moved.collect::<std::io::Result<Vec<_>>>()?;
                Ok((copy, moved))
            })
            .await?;
            copy = back;
            moves.extend(moved.into_iter().filter_map(|(from, to)| Some((from, to?))));
        }
        if moves.is_empty() {
            // What is left there waits for the collector, or is damaged and stays where it is.
            let discard = move || {
                copy.discard();
                Ok(())
            };
            blocking(discard).await?;
            return Ok(0);
        }
        let (pack, end) = blocking(move || copy.finish()).await?;
        let made = PackChange {
            pack,
            storage_class: class,
            live_bytes: 0,
            applied_end: end,
            last_sequence: 0,
            ended_at: None,
        };
        self.database.put_packs(&[made]).await?;
        let mut moved = 0;
        for moves in moves.chunks(MOVES_MAX) {
            moved += self.database.move_blobs(moves).await?;
        }
        Ok(moved)
    }

    /// The blobs that are served from a pack.
    async fn live_blobs(
        &self,
        storage_class: StorageClass,
        pack: PackId,
    ) -> Result<Vec<BlobLocation>, CycleError> {
        let root = self.roots.of(storage_class).clone();
        let all = blocking(move || {
            let mut found = Vec::new();
            let scan = PackScan::begin(&root, pack, 0, None).map_err(std::io::Error::other)?;
            let Some(mut scan) = scan else { return Ok(found) };
            while let Some(batch) = scan.next_batch().map_err(std::io::Error::other)? {
                for record in records(&batch.bytes, pack, batch.offset) {
                    let header = record.map_err(std::io::Error::other)?.header;
                    let place = Place::Pack { pack, offset: header.offset };
                    // A change without bytes of its own is never what a row names.
                    found.push(BlobLocation { storage_class, content_hash: header.content_hash, place });
                }
            }
            Ok(found)
        })
        .await?;
        let mut live = Vec::new();
        for some in all.chunks(MOVES_MAX) {
            live.extend(self.database.served_places(some).await?);
        }
        Ok(live)
    }

    async fn remove(&self, dead: &[Settled]) -> Result<(), CycleError> {
        for class in StorageClass::ALL {
            let packs: Vec<_> =
                dead.iter().map(|pack| pack.row).filter(|row| row.storage_class == class).collect();
            let ids: Vec<_> = packs.iter().map(|row| row.pack).collect();
            let root = self.roots.of(class).clone();
            blocking(move || remove_packs(&root, &ids)).await?;
        }
        for pack in dead {
            self.database.forget_pack(pack.row.pack).await?;
        }
        Ok(())
    }
}

/// What is to be moved, each time into one new pack: a long pack by itself once less than half of it lives, short ones
/// together once there are many.
fn to_compact(packs: &[Settled]) -> Vec<Vec<Settled>> {
    let lives = |pack: &&Settled| pack.row.live_bytes > 0;
    let is_short = |pack: &Settled| pack.file_bytes < SHORT_PACK_BYTES;
    let is_sparse = |pack: &Settled| pack.row.live_bytes < pack.file_bytes / 2;
    let mut groups: Vec<Vec<Settled>> = packs
        .iter()
        .filter(lives)
        .filter(|pack| is_sparse(pack) && !is_short(pack))
        .map(|pack| vec![*pack])
        .collect();
    for class in StorageClass::ALL {
        let of_class = packs.iter().filter(lives).filter(|pack| pack.row.storage_class == class);
        let short: Vec<_> = of_class.filter(|pack| is_short(pack)).copied().collect();
        if short.len() > SHORT_PACKS_MAX {
            groups.push(short);
        }
    }
    groups
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, CycleError> {
    spawn_blocking(work).await.map_err(std::io::Error::other).flatten().map_err(CycleError::Files)
}

#[cfg(test)]
mod tests {
    use super::super::database::{DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::infrastructure::plane_channel::{Durability, Write, plane_channel};

    const SETTINGS: DatabaseSettings = DatabaseSettings::OF_TEST;

    fn dead_pack(pack: PackId) -> PackChange {
        let storage_class = StorageClass::Hot;
        PackChange { pack, storage_class, live_bytes: 0, applied_end: 8192, last_sequence: 1, ended_at: None }
    }

    #[tokio::test]
    async fn a_pack_that_is_made_meanwhile_is_not_settled() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Arc::new(Database::open(&url, SETTINGS).await.unwrap());
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        let order = metadata_end.order.unwrap();
        let open = Arc::new(OpenPacks::default());
        let space = PackSpace {
            database: database.clone(),
            roots,
            instance: InstanceId::generate(),
            open: open.clone(),
            order: Some(order.clone()),
        };
        let (old, new) = (PackId::from_u64(1), PackId::from_u64(2));
        database.put_packs(&[dead_pack(old)]).await.unwrap();
        order.start_at(1);
        let ticket = data_end.ticket(&Write::Void).unwrap();
        let meanwhile = async {
            // Now it knows what is open, and waits for this.
            order.wanted().await;
            open.add(new);
            database.put_packs(&[dead_pack(new)]).await.unwrap();
            order.note_applied(ticket.sequence());
        };
        let (settled, ()) = tokio::join!(space.settled(), meanwhile);
        let settled: Vec<_> = settled.unwrap().iter().map(|settled| settled.row.pack).collect();
        assert_eq!(settled, [old]);
    }
}
