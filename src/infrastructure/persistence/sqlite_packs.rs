//! What SQLite knows of packs, and its copies.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{Connection as _, SqliteConnection};

use super::batch::{PackChange, packed_bytes};
use super::collector::Garbage;
use super::columns::class_number;
use super::database::PackRow;
use super::errors::DatabaseError;
use super::queries;
use super::sqlite::SqliteDatabase;
use super::sqlite_columns::{blob_location, column, content_hash, storage_class};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{PackId, Place, StorageClass};

impl SqliteDatabase {
    pub(super) async fn packs(&self) -> Result<Vec<PackRow>, DatabaseError> {
        let rows = sqlx::query(queries::PACKS).fetch_all(&self.readers).await;
        rows.and_then(|rows| rows.iter().map(pack_row).collect()).map_err(DatabaseError::of("read the packs"))
    }

    pub(super) async fn forget_pack(&self, pack: PackId) -> Result<(), DatabaseError> {
        let query = sqlx::query(queries::FORGET_PACK).bind(pack.to_u64().cast_signed());
        self.in_transaction(async |transaction| {
            let forgotten = query.execute(&mut **transaction).await;
            forgotten.map(|_| ()).map_err(DatabaseError::of("forget a pack"))
        })
        .await
    }

    /// Lets blobs be served from where they have been copied to, those that still are where they were: how many.
    pub(super) async fn move_blobs(&self, moves: &[(BlobLocation, Place)]) -> Result<u64, DatabaseError> {
        let row = |(from, to): &(BlobLocation, Place)| {
            let BlobLocation { content_hash, storage_class, place } = from;
            json!([content_hash.to_string(), class_number(*storage_class), place.to_string(), to.to_string()])
        };
        let rows = Value::Array(moves.iter().map(row).collect()).to_string();
        let places: HashMap<_, _> = moves
            .iter()
            .map(|(from, to)| ((from.content_hash, from.storage_class), (from.place, *to)))
            .collect();
        self.in_transaction(async |transaction| {
            let move_all = async {
                let moved = sqlx::query(queries::MOVE_BLOBS).bind(rows);
                let moved = moved.fetch_all(&mut **transaction).await?;
                let mut packs = Vec::with_capacity(2 * moved.len());
                for row in &moved {
                    let key = (content_hash(row, 0)?, storage_class(row, 1)?);
                    let bytes = packed_bytes(column::<i64>(row, 2)?.cast_unsigned());
                    let Some((from, to)) = places.get(&key) else { continue };
                    packs.extend(pack_change(*from, key.1, -bytes));
                    packs.extend(pack_change(*to, key.1, bytes));
                }
                let noted = sqlx::query(queries::PUT_PACKS).bind(packs_json(&packs));
                noted.execute(&mut **transaction).await?;
                Ok(moved.len() as u64)
            };
            move_all.await.map_err(DatabaseError::of("move blobs to another pack"))
        })
        .await
    }

    /// Those of `locations` that a blob is served from.
    pub(super) async fn served_places(
        &self,
        locations: &[BlobLocation],
    ) -> Result<Vec<BlobLocation>, DatabaseError> {
        let keys = locations
            .iter()
            .map(|location| json!([location.content_hash.to_string(), class_number(location.storage_class)]));
        let keys = Value::Array(keys.collect()).to_string();
        let rows = sqlx::query(queries::PLACES_SERVING).bind(keys).fetch_all(&self.readers).await;
        let serving =
            rows.and_then(|rows| rows.iter().map(blob_location).collect::<sqlx::Result<HashSet<_>>>());
        let serving = serving.map_err(DatabaseError::of("look for what a pack still serves"))?;
        Ok(locations.iter().filter(|location| serving.contains(location)).copied().collect())
    }

    /// Writes a copy of the whole database as it is now, and looks whether it is whole.
    pub(super) async fn copy_to(&self, target: &Path) -> Result<(), DatabaseError> {
        let copy = async {
            let source = SqliteConnectOptions::new().filename(&self.path);
            let mut source = SqliteConnection::connect_with(&source).await?;
            let text = target.to_string_lossy().into_owned();
            sqlx::query("VACUUM INTO ?1").bind(text).execute(&mut source).await?;
            source.close().await?;
            let copy = SqliteConnectOptions::new().filename(target).read_only(true);
            let mut copy = SqliteConnection::connect_with(&copy).await?;
            let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut copy).await?;
            copy.close().await?;
            let whole = verdict == "ok";
            whole
                .then_some(())
                .ok_or_else(|| sqlx::Error::Protocol(format!("the copy is not whole: {verdict}")))
        };
        copy.await.map_err(DatabaseError::of("copy the database"))
    }

    pub(super) async fn put_packs(&self, packs: &[PackChange]) -> Result<(), DatabaseError> {
        let packs = packs_json(packs);
        self.in_transaction(async |transaction| {
            let stored = sqlx::query(queries::PUT_PACKS).bind(packs).execute(&mut **transaction).await;
            stored.map(|_| ()).map_err(DatabaseError::of("note what packs there are"))
        })
        .await
    }

    pub(super) async fn applied_sequence(&self) -> Result<u64, DatabaseError> {
        let row = sqlx::query(queries::APPLIED_SEQUENCE).fetch_one(&self.readers).await;
        let applied = row.and_then(|row| column::<i64>(&row, 0));
        applied.map(i64::cast_unsigned).map_err(DatabaseError::of("read how far the log is applied"))
    }
}

/// What packs lose with garbage that is forgotten.
pub(super) fn freed_of_packs(garbage: &[Garbage]) -> Vec<PackChange> {
    let freed = |garbage: &Garbage| {
        pack_change(garbage.file.place, garbage.file.storage_class, -packed_bytes(garbage.size_bytes))
    };
    garbage.iter().filter_map(freed).collect()
}

/// So many bytes more or less of the pack that a place is in are needed.
fn pack_change(place: Place, storage_class: StorageClass, live_bytes: i64) -> Option<PackChange> {
    let pack = place.pack()?;
    Some(PackChange { pack, storage_class, live_bytes, applied_end: 0, last_sequence: 0, ended_at: None })
}

pub(super) fn packs_json(packs: &[PackChange]) -> String {
    let row = |change: &PackChange| {
        json!([
            change.pack.to_u64().cast_signed(),
            class_number(change.storage_class),
            change.live_bytes,
            change.applied_end,
            change.last_sequence,
            change.ended_at,
        ])
    };
    Value::Array(packs.iter().map(row).collect()).to_string()
}

fn pack_row(row: &SqliteRow) -> sqlx::Result<PackRow> {
    Ok(PackRow {
        pack: PackId::from_u64(column::<i64>(row, 0)?.cast_unsigned()),
        storage_class: storage_class(row, 1)?,
        live_bytes: column::<i64>(row, 2)?.cast_unsigned(),
        applied_end: column::<i64>(row, 3)?.cast_unsigned(),
        last_sequence: column::<i64>(row, 4)?.cast_unsigned(),
        ended_at: column::<Option<i64>>(row, 5)?.map(i64::cast_unsigned),
    })
}
