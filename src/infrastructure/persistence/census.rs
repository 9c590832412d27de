//! Counts what cannot be counted as it happens: objects by whom they belong to, what lives in packs, how much room there is.
//! Only while somebody asks for metrics, and never for more than a small part of the time.
//!
//! Objects are gone through in the order of their commits, some at a time: each statement is short, so that no other one
//! waits for it and no state of long ago has to be kept for it. What is committed meanwhile comes at the end; what is
//! deleted meanwhile may count once more.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::columns::{class_of_number, status_of_number, undecodable};
use super::database::Database;
use super::errors::DatabaseError;
use super::group_commit::Latch;
use crate::domain::value_objects::{Namespace, ObjectStatus, StorageClass, TenantId};
use crate::infrastructure::metrics::{ObjectCounts, PackFigures, PlaneMetrics, RootFigures};
use crate::infrastructure::plane_channel::LogOrder;
use crate::infrastructure::storage::Roots;

/// How old figures get before they are made anew.
const INTERVAL: Duration = Duration::from_secs(60);
/// A census that took long rests for so many times as long.
const REST_PART: u32 = 20;
/// How many objects one statement goes through: some ten milliseconds.
const OBJECTS_AT_ONCE: u32 = 10_000;
/// How long a file system may take to say how much room it has.
const ROOM_LIMIT: Duration = Duration::from_secs(5);

/// Objects of one page that have all of this in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CountedObjects {
    pub(super) owner: (Namespace, TenantId),
    pub(super) status: ObjectStatus,
    pub(super) storage_class: StorageClass,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// The last of them.
    pub(super) last_sequence: u64,
}

impl CountedObjects {
    pub(super) fn of_columns(
        (namespace, tenant_id): (&str, &str),
        (status, storage_class): (i16, i16),
        [objects, bytes, last_sequence]: [i64; 3],
    ) -> sqlx::Result<Self> {
        Ok(Self {
            owner: (
                Namespace::parse(namespace).map_err(undecodable)?,
                TenantId::parse(tenant_id).map_err(undecodable)?,
            ),
            status: status_of_number(status)?,
            storage_class: class_of_number(storage_class)?,
            objects: objects.cast_unsigned(),
            bytes: bytes.cast_unsigned(),
            last_sequence: last_sequence.cast_unsigned(),
        })
    }
}

/// Works until it is dropped.
pub(super) struct Census {
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    pub(super) roots: Roots,
    pub(super) metrics: Arc<PlaneMetrics>,
    /// How far the log has been applied, where there is one.
    pub(super) order: Option<Arc<LogOrder>>,
}

impl Census {
    pub(super) async fn run(self) {
        let mut looks = [None, None];
        loop {
            self.metrics.asked().await;
            let started = Instant::now();
            for (class, look) in StorageClass::ALL.into_iter().zip(&mut looks) {
                self.metrics.set_root(class, self.look_at_root(class, look).await);
            }
            if let Err(error) = self.count().await {
                let _ = self.latch.judge(&error);
            }
            sleep(INTERVAL.max(started.elapsed() * REST_PART)).await;
        }
    }

    async fn count(&self) -> Result<(), DatabaseError> {
        if let Some(order) = &self.order {
            // What was acknowledged before somebody asked is counted.
            order.is_applied(order.last_taken(), || self.latch.is_set()).await;
        }
        self.metrics.scrub.set_damaged(self.database.damaged_blobs().await?);
        let packs = self.database.packs().await?;
        for class in StorageClass::ALL {
            let mut figures = PackFigures::default();
            for row in packs.iter().filter(|row| row.storage_class == class) {
                figures.packs += 1;
                figures.live_bytes += row.live_bytes;
                figures.dead_bytes += row.applied_end.saturating_sub(row.live_bytes);
            }
            self.metrics.set_packs(class, figures);
        }
        self.metrics.set_objects(count_objects(&self.database, OBJECTS_AT_ONCE).await?);
        Ok(())
    }

    /// `None` while the file system does not answer. Nobody asks it again before it has.
    async fn look_at_root(
        &self,
        class: StorageClass,
        look: &mut Option<JoinHandle<io::Result<RootFigures>>>,
    ) -> Option<RootFigures> {
        let root = self.roots.of(class).clone();
        let running = look.get_or_insert_with(|| spawn_blocking(move || root.room()));
        let answer = timeout(ROOM_LIMIT, running).await.ok()?;
        *look = None;
        answer.ok()?.ok()
    }
}

/// Goes through all objects.
async fn count_objects(database: &Database, at_once: u32) -> Result<ObjectCounts, DatabaseError> {
    let (started, mut counts, mut after) = (Instant::now(), ObjectCounts::default(), 0);
    loop {
        let page = database.count_objects(after, at_once).await?;
        let Some(last) = page.iter().map(|counted| counted.last_sequence).max() else { break };
        for counted in page {
            let CountedObjects { owner, status, storage_class, objects, bytes, .. } = counted;
            counts.add(owner, (status, storage_class), objects, bytes);
        }
        after = last;
    }
    counts.end(SystemTime::now(), started.elapsed());
    Ok(counts)
}
