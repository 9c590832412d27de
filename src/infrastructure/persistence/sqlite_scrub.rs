//! How far the scrub of servers is, on SQLite.

use sqlx::sqlite::SqliteRow;

use super::columns::{class_number, undecodable};
use super::errors::DatabaseError;
use super::queries;
use super::scrub::ScrubState;
use super::sqlite::SqliteDatabase;
use super::sqlite_columns::{column, storage_class};
use crate::domain::value_objects::{ContentHash, Timestamp};

impl SqliteDatabase {
    pub(super) async fn scrub_state(&self) -> Result<Option<ScrubState>, DatabaseError> {
        let row = sqlx::query(queries::SCRUB_STATE).fetch_optional(&self.readers).await;
        let state = row.and_then(|row| row.as_ref().map(state).transpose());
        state.map_err(DatabaseError::of("read how far the scrub is"))
    }

    pub(super) async fn put_scrub_state(
        &self,
        state: &ScrubState,
        seen: Option<u64>,
    ) -> Result<bool, DatabaseError> {
        let query = sqlx::query(queries::PUT_SCRUB_STATE)
            .bind(seen.map(u64::cast_signed))
            .bind(state.beats.cast_signed())
            .bind(state.is_running)
            .bind(state.started_at.as_millis())
            .bind(state.finished_at.map(Timestamp::as_millis))
            .bind(state.after.as_ref().map(|(hash, _)| &hash.as_bytes()[..]))
            .bind(state.after.map(|(_, class)| class_number(class)))
            .bind(state.blobs.cast_signed())
            .bind(state.bytes.cast_signed())
            .bind(state.damaged.cast_signed());
        self.in_transaction(async |transaction| {
            let put = query.execute(&mut **transaction).await.map(|done| done.rows_affected() > 0);
            put.map_err(DatabaseError::of("note how far the scrub is"))
        })
        .await
    }

    pub(super) async fn damaged_blobs(&self) -> Result<u64, DatabaseError> {
        let row = sqlx::query(queries::DAMAGED_BLOBS).fetch_one(&self.readers).await;
        let count = row.and_then(|row| column::<i64>(&row, 0));
        count.map(i64::cast_unsigned).map_err(DatabaseError::of("count damaged blobs"))
    }
}

fn state(row: &SqliteRow) -> sqlx::Result<ScrubState> {
    let after = match column::<Option<&[u8]>>(row, 4)? {
        Some(hash) => Some((ContentHash::from_slice(hash).map_err(undecodable)?, storage_class(row, 5)?)),
        None => None,
    };
    Ok(ScrubState {
        beats: column::<i64>(row, 0)?.cast_unsigned(),
        is_running: column(row, 1)?,
        started_at: Timestamp::from_millis(column(row, 2)?),
        finished_at: column::<Option<i64>>(row, 3)?.map(Timestamp::from_millis),
        after,
        blobs: column::<i64>(row, 6)?.cast_unsigned(),
        bytes: column::<i64>(row, 7)?.cast_unsigned(),
        damaged: column::<i64>(row, 8)?.cast_unsigned(),
    })
}
