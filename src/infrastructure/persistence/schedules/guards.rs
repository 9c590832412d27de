//! The guards of a place, and the same store without one of them: what the schedules have to notice.

use serde_json::{Value, json};

use super::super::collector::Garbage;
use super::super::columns::class_number;
use super::super::database::Database;
use super::super::maintenance::{BlobFilter, BlobRow};
use super::super::postgres_rows::bind_blob_keys;
use crate::infrastructure::plane_channel::Write;
use crate::infrastructure::storage::BlobFile;

/// What keeps a copy that somebody needs from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Every write has a place that no other write ever gets.
    PlaceOfItsOwn,
    /// Bytes are there before a row names them.
    BytesFirst,
    /// An uploader removes its own copy only where another one serves.
    OwnCopyServes,
    /// Bytes go after the transaction that forgot them.
    ForgottenFirst,
    /// The statement that forgets a blob looks at its count itself.
    CountInTheStatement,
    /// What is removed is the place of a garbage row, and not whatever has its content.
    RemovedByPlace,
    /// A garbage row goes by its place, too.
    GarbageForgottenByPlace,
    /// A copy is replaced only if it is the one that was found lost.
    MendOfTheLostCopy,
    /// While there is a hold no bytes are removed.
    Hold,
    /// A backup's hold comes before its snapshot.
    HoldFirst,
    /// The sweep looks only at files of runs that have ended.
    SweepOfTheDead,
    /// The sweep asks which files are named.
    SweepAsks,
    /// The sweep leaves garbage to the collector, which knows of holds.
    SweepSparesGarbage,
    /// What somebody has just been told is not removed for a while.
    Grace,
    /// The statement that forgets a blob looks at its lease itself.
    Lease,
    /// Who moves an object leaves the copy that it has read to the collector.
    OldCopyStays,
}

impl Guard {
    /// Each of them.
    pub(super) const ALL: [Self; 16] = [
        Self::PlaceOfItsOwn,
        Self::BytesFirst,
        Self::OwnCopyServes,
        Self::ForgottenFirst,
        Self::CountInTheStatement,
        Self::RemovedByPlace,
        Self::GarbageForgottenByPlace,
        Self::MendOfTheLostCopy,
        Self::Hold,
        Self::HoldFirst,
        Self::SweepOfTheDead,
        Self::SweepAsks,
        Self::SweepSparesGarbage,
        Self::Grace,
        Self::Lease,
        Self::OldCopyStays,
    ];

    /// Whether only a backup could notice that it is missing.
    pub(super) fn is_for_backups(self) -> bool {
        matches!(self, Self::Hold | Self::HoldFirst | Self::SweepSparesGarbage)
    }
}

/// The blobs that a collector would forget now.
pub(super) async fn dead_blobs(database: &Database, before: u64) -> Vec<BlobRow> {
    let rows = database.blob_page(BlobFilter::Unreferenced, None, 1000).await.unwrap();
    rows.into_iter().filter(|row| row.zero_since.is_some_and(|since| since <= before)).collect()
}

/// Forgets blobs without a look at what they are by now.
pub(super) async fn forget_blindly(database: &Database, rows: &[BlobRow]) {
    let Database::Sqlite(sqlite) = database else { panic!("this is SQL of SQLite") };
    let keys = json_keys(rows.iter().map(|row| row.location));
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for statement in [
        "INSERT INTO garbage (content_hash, storage_class, place, size_bytes)
         SELECT b.content_hash, b.storage_class, b.place, b.size_bytes FROM json_each(?1) AS j CROSS JOIN blobs AS b
         WHERE b.content_hash = unhex(j.value ->> 0) AND b.storage_class = j.value ->> 1",
        "DELETE FROM blobs WHERE (content_hash, storage_class) IN (
             SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?1))",
    ] {
        sqlx::query(statement).bind(keys.clone()).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// Lets no blob know of a lease.
pub(super) async fn hide_leases(database: &Database) {
    let Database::Sqlite(sqlite) = database else { panic!("this is SQL of SQLite") };
    let statement = "UPDATE blobs SET leased_until = 0 WHERE leased_until > 0";
    sqlx::query(statement).execute(&sqlite.writer).await.unwrap();
}

/// Forgets whatever garbage is of the same contents.
pub(super) async fn forget_garbage_by_content(database: &Database, garbage: &[Garbage]) {
    let Database::Sqlite(sqlite) = database else { panic!("this is SQL of SQLite") };
    let statement = "DELETE FROM garbage WHERE (content_hash, storage_class) IN (
             SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?1))";
    let keys = json_keys(garbage.iter().map(|garbage| garbage.file));
    sqlx::query(statement).bind(keys).execute(&sqlite.writer).await.unwrap();
}

/// Lets each mending replace whatever copy serves.
pub(super) async fn mend_whatever_serves(database: &Database, writes: &mut [Write]) {
    for write in writes {
        if let Write::Mend { lost, .. } = write
            && let Some(row) = database.blob((lost.content_hash, lost.storage_class)).await.unwrap()
        {
            lost.place = row.location.place;
        }
    }
}

/// Those of `files` that serve a blob.
pub(super) async fn serving(database: &Database, files: &[BlobFile]) -> Vec<BlobFile> {
    if files.is_empty() {
        return Vec::new();
    }
    let places: Vec<String> = match database {
        Database::Sqlite(sqlite) => {
            let statement = "SELECT b.place FROM json_each(?1) AS j CROSS JOIN blobs AS b
                WHERE b.content_hash = unhex(j.value ->> 0) AND b.storage_class = j.value ->> 1
                  AND b.place = j.value ->> 2";
            let query = sqlx::query_scalar(statement).bind(json_keys(files.iter().copied()));
            query.fetch_all(&sqlite.readers).await.unwrap()
        }
        Database::Postgres(postgres) => {
            let statement =
                "SELECT b.place FROM unnest($1::bytea[], $2::smallint[]) AS n (content_hash, storage_class)
                JOIN blobs AS b ON b.content_hash = n.content_hash AND b.storage_class = n.storage_class";
            let keys = files.iter().map(|file| (file.content_hash, file.storage_class));
            let rows =
                bind_blob_keys(sqlx::query(statement), keys).fetch_all(&postgres.readers).await.unwrap();
            rows.iter().map(|row| sqlx::Row::get(row, 0)).collect()
        }
    };
    files.iter().filter(|file| places.contains(&file.place.to_string())).copied().collect()
}

fn json_keys(files: impl Iterator<Item = BlobFile>) -> String {
    let key = |file: BlobFile| {
        json!([file.content_hash.to_string(), class_number(file.storage_class), file.place.to_string()])
    };
    Value::Array(files.map(key).collect()).to_string()
}
