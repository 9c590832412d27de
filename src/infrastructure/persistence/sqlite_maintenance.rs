//! What tools ask of SQLite. They open the file beside the server, which SQLite allows: a reader sees the state of one
//! moment, and a writer waits for the server's transactions to end.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{Row as _, SqlitePool};

use super::batch::BatchContext;
use super::columns::{class_number, undecodable};
use super::database::DatabaseUrl;
use super::errors::DatabaseError;
use super::holds::{Hold, HoldId};
use super::maintenance::{
    AppliedMigration, BlobFilter, BlobRow, Check, CopyError, ExportedRow, Finding, ImportedRows, InstanceRow,
    Miscount, OpenError, check_schema,
};
use super::queries;
use super::sqlite::{SqliteDatabase, ids_json, migrator, store};
use super::sqlite_columns::{blob_location, column, content_hash, object, storage_class};
use super::sqlite_lifecycle::{put_rule, rule_of_namespace};
use super::sqlite_tenants::{WRONG_USAGE, put_limits, quotas};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, InstanceId, ObjectId, StorageClass, Timestamp};

/// How long a tool waits for a busy server's transactions: it has to catch a moment between two of them.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// The files of SQLite begin so (<https://www.sqlite.org/fileformat.html>, 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Objects that are to be found by their content, and are by neither way.
macro_rules! unfound {
    () => {
        "o.status = 1 AND o.indexed = 0 AND NOT EXISTS (
            SELECT 1 FROM blobs AS b WHERE b.content_hash = o.content_hash
              AND b.storage_class = o.storage_class AND b.first_object = o.sequence)"
    };
}

/// Rows that contradict each other, by what is wrong with them.
const CHECKS: [Check; 10] = [
    Check {
        name: "objects_without_blob",
        statement: "SELECT lower(hex(o.id)) FROM objects AS o WHERE o.status = 1 AND NOT EXISTS (
                SELECT 1 FROM blobs AS b
                WHERE b.content_hash = o.content_hash AND b.storage_class = o.storage_class)",
    },
    Check {
        name: "objects_of_another_size",
        statement: "SELECT lower(hex(o.id)) FROM objects AS o JOIN blobs AS b
              ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
            WHERE o.status = 1 AND o.size_bytes IS NOT b.size_bytes",
    },
    Check {
        name: "wrong_counts",
        statement: "SELECT lower(hex(b.content_hash)) || ': ' || b.ref_count || ' instead of ' || coalesce(n.objects, 0)
            FROM blobs AS b LEFT JOIN (
                SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
            ) AS n ON n.content_hash = b.content_hash AND n.storage_class = b.storage_class
            WHERE b.ref_count <> coalesce(n.objects, 0)",
    },
    WRONG_USAGE,
    Check {
        name: "objects_found_by_no_content",
        statement: concat!("SELECT lower(hex(o.id)) FROM objects AS o WHERE ", unfound!()),
    },
    Check {
        name: "wrong_grace",
        statement: "SELECT lower(hex(content_hash)) FROM blobs WHERE (ref_count = 0) <> (zero_since IS NOT NULL)",
    },
    Check {
        name: "garbage_that_serves",
        statement: "SELECT lower(hex(g.content_hash)) || '-' || g.place FROM garbage AS g JOIN blobs AS b
              ON b.content_hash = g.content_hash AND b.storage_class = g.storage_class WHERE b.place = g.place",
    },
    Check {
        name: "forgotten_at_no_time",
        statement: "SELECT lower(hex(id)) FROM objects WHERE (status = 3) <> (forgotten_since IS NOT NULL)",
    },
    Check {
        name: "reservations_of_ended_runs",
        statement: "SELECT lower(hex(o.id)) FROM objects AS o WHERE o.status = 0 AND NOT EXISTS (
                SELECT 1 FROM instances AS i WHERE i.id = o.writer AND i.ended = 0)",
    },
    Check {
        name: "damaged_blobs",
        statement: "SELECT lower(hex(content_hash)) || '-' || place FROM blobs WHERE damaged <> 0",
    },
];

/// Uploads that nobody goes on with.
macro_rules! abandoned {
    () => {
        "WHERE status = 0 AND writer IN (SELECT id FROM instances WHERE ended = 1)"
    };
}

macro_rules! blob_columns {
    () => {
        "content_hash, storage_class, place, size_bytes, ref_count, zero_since, damaged, leased_until"
    };
}

macro_rules! blob_page {
    ($filter:literal) => {
        concat!(
            "SELECT ",
            blob_columns!(),
            " FROM blobs WHERE ",
            $filter,
            "(content_hash, storage_class) > (?1, ?2) ORDER BY content_hash, storage_class LIMIT ?3"
        )
    };
}

/// The counts of blobs as their objects say they are. `?1`: `[["<hash>", class], …]`
const RECOUNT: &str = "
    UPDATE blobs SET ref_count = n.objects,
        zero_since = CASE WHEN n.objects > 0 THEN NULL ELSE coalesce(zero_since, (SELECT ticks FROM clock)) END
    FROM (SELECT unhex(j.value ->> 0) AS content_hash, j.value ->> 1 AS storage_class, coalesce(c.objects, 0) AS objects
          FROM json_each(?1) AS j LEFT JOIN (
              SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
          ) AS c ON c.content_hash = unhex(j.value ->> 0) AND c.storage_class = j.value ->> 1) AS n
    WHERE blobs.content_hash = n.content_hash AND blobs.storage_class = n.storage_class
      AND (blobs.ref_count <> n.objects OR (n.objects = 0) <> (blobs.zero_since IS NOT NULL))";

/// Blobs whose count is not the number of their objects.
const MISCOUNTS: &str = "
    SELECT b.content_hash, b.storage_class, b.ref_count, coalesce(n.objects, 0)
    FROM blobs AS b LEFT JOIN (
        SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
    ) AS n ON n.content_hash = b.content_hash AND n.storage_class = b.storage_class
    WHERE b.ref_count <> coalesce(n.objects, 0) OR (b.ref_count = 0) <> (b.zero_since IS NOT NULL) LIMIT ?1";

const UNFOUND_OBJECTS: &str = concat!("SELECT o.id FROM objects AS o WHERE ", unfound!(), " LIMIT ?1");

/// `?1`: `["<id>", …]`
const INDEX_OBJECTS: &str = concat!(
    "UPDATE objects AS o SET indexed = 1 WHERE o.id IN (SELECT unhex(value) FROM json_each(?1)) AND ",
    unfound!()
);

impl SqliteDatabase {
    pub(super) async fn open_existing(url: &DatabaseUrl, path: &Path) -> Result<Self, OpenError> {
        check_file(url, path)?;
        let unreachable = |operation| {
            let url = url.clone();
            move |source| OpenError::Unreachable { url, source: DatabaseError { operation, source } }
        };
        // Nothing is told about the journal: that of a foreign file must stay as it is.
        let options =
            SqliteConnectOptions::new().filename(path).foreign_keys(false).busy_timeout(BUSY_TIMEOUT);
        let reading = options.clone().pragma("query_only", "1");
        let readers = SqlitePoolOptions::new().max_connections(2).connect_with(reading).await;
        let readers = readers.map_err(unreachable("open the database"))?;
        let checked = match applied_migrations(&readers).await {
            Ok(applied) => check_schema(url, &applied, &migrator()),
            Err(error) if error.as_database_error().is_some() => Err(OpenError::Foreign(url.clone())),
            Err(error) => Err(unreachable("read the schema's version")(error)),
        };
        if let Err(refused) = checked {
            // Not left to the end of the process, which would leave an empty log file beside the database.
            readers.close().await;
            return Err(refused);
        }
        let writer = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
        Ok(Self::of_pools(path, writer, readers))
    }

    pub(super) async fn holds(&self) -> Result<Vec<Hold>, DatabaseError> {
        let rows = sqlx::query("SELECT id, beats FROM holds").fetch_all(&self.readers).await;
        let hold = |row: &SqliteRow| Ok(Hold { id: column(row, 0)?, beats: column(row, 1)? });
        rows.and_then(|rows| rows.iter().map(hold).collect()).map_err(DatabaseError::of("read the holds"))
    }

    pub(super) async fn forget_hold(&self, hold: Hold) -> Result<bool, DatabaseError> {
        let query =
            sqlx::query("DELETE FROM holds WHERE id = ?1 AND beats = ?2").bind(hold.id).bind(hold.beats);
        let done = query.execute(&self.writer).await.map(|done| done.rows_affected() > 0);
        done.map_err(DatabaseError::of("forget an abandoned hold"))
    }

    pub(super) async fn outside_changes(&self) -> Result<u64, DatabaseError> {
        let row = sqlx::query("SELECT outside_changes FROM clock").fetch_one(&self.readers).await;
        let changes = row.and_then(|row| column::<i64>(&row, 0));
        changes.map(i64::cast_unsigned).map_err(DatabaseError::of("look for changes by tools"))
    }

    pub(super) async fn take_hold(
        &self,
        id: HoldId,
        purpose: &str,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let query = sqlx::query("INSERT INTO holds (id, purpose, started_at) VALUES (?1, ?2, ?3)");
        let taken = query.bind(id).bind(purpose).bind(now.as_millis()).execute(&self.writer).await;
        taken.map(drop).map_err(DatabaseError::of("take a hold"))
    }

    pub(super) async fn renew_hold(&self, id: HoldId) -> Result<bool, DatabaseError> {
        let query = sqlx::query("UPDATE holds SET beats = beats + 1 WHERE id = ?1").bind(id);
        let renewed = query.execute(&self.writer).await.map(|done| done.rows_affected() > 0);
        renewed.map_err(DatabaseError::of("renew a hold"))
    }

    pub(super) async fn release_hold(&self, id: HoldId) -> Result<(), DatabaseError> {
        let released = sqlx::query("DELETE FROM holds WHERE id = ?1").bind(id).execute(&self.writer).await;
        released.map(drop).map_err(DatabaseError::of("release a hold"))
    }

    pub(super) async fn instances(&self) -> Result<Vec<InstanceRow>, DatabaseError> {
        let rows = sqlx::query("SELECT id, ended FROM instances").fetch_all(&self.readers).await;
        let instance = |row: &SqliteRow| {
            let id = InstanceId::from_i64(column(row, 0)?);
            Ok(InstanceRow { id, node: None, ended: column(row, 1)?, heartbeat_age_secs: None })
        };
        let instances = rows.and_then(|rows| rows.iter().map(instance).collect());
        instances.map_err(DatabaseError::of("read the instances"))
    }

    pub(super) async fn end_instances_of(&self, _: &str) -> Result<u64, DatabaseError> {
        let ended = sqlx::query("UPDATE instances SET ended = 1 WHERE ended = 0").execute(&self.writer).await;
        ended.map(|done| done.rows_affected()).map_err(DatabaseError::of("end the runs of the server"))
    }

    pub(super) async fn abandoned_reservations(&self) -> Result<u64, DatabaseError> {
        let row =
            sqlx::query(concat!("SELECT count(*) FROM objects ", abandoned!())).fetch_one(&self.readers);
        let count = row.await.and_then(|row| column::<i64>(&row, 0));
        count.map(i64::cast_unsigned).map_err(DatabaseError::of("count unfinished uploads"))
    }

    pub(super) async fn clear_reservations(&self) -> Result<u64, DatabaseError> {
        let cleared = sqlx::query(concat!("DELETE FROM objects ", abandoned!())).execute(&self.writer).await;
        cleared.map(|done| done.rows_affected()).map_err(DatabaseError::of("clear unfinished uploads"))
    }

    pub(super) async fn blob_page(
        &self,
        filter: BlobFilter,
        after: Option<(ContentHash, StorageClass)>,
        limit: u32,
    ) -> Result<Vec<BlobRow>, DatabaseError> {
        let statement = match filter {
            BlobFilter::All => blob_page!(""),
            BlobFilter::Unreferenced => blob_page!("ref_count = 0 AND "),
        };
        // An empty text of bytes comes before every hash.
        let (hash, class) = match &after {
            Some((hash, class)) => (&hash.as_bytes()[..], class_number(*class)),
            None => (&[][..], -1),
        };
        let rows = sqlx::query(statement).bind(hash).bind(class).bind(limit).fetch_all(&self.readers).await;
        rows.and_then(|rows| rows.iter().map(blob_row).collect()).map_err(DatabaseError::of("read blobs"))
    }

    pub(super) async fn blob(
        &self,
        (hash, class): (ContentHash, StorageClass),
    ) -> Result<Option<BlobRow>, DatabaseError> {
        let statement =
            concat!("SELECT ", blob_columns!(), " FROM blobs WHERE content_hash = ?1 AND storage_class = ?2");
        let query = sqlx::query(statement).bind(&hash.as_bytes()[..]).bind(class_number(class));
        let row = query.fetch_optional(&self.readers).await;
        row.and_then(|row| row.as_ref().map(blob_row).transpose()).map_err(DatabaseError::of("read a blob"))
    }

    pub(super) async fn garbage_totals(&self) -> Result<(u64, u64), DatabaseError> {
        let query = sqlx::query("SELECT count(*), coalesce(sum(size_bytes), 0) FROM garbage");
        let row = query.fetch_one(&self.readers).await;
        let totals = row.and_then(|row| Ok((column::<i64>(&row, 0)?, column::<i64>(&row, 1)?)));
        totals
            .map(|(places, bytes)| (places.cast_unsigned(), bytes.cast_unsigned()))
            .map_err(DatabaseError::of("count the garbage"))
    }

    pub(super) async fn mark(&self, copy: &BlobLocation, damaged: bool) -> Result<bool, DatabaseError> {
        self.in_transaction(async |transaction| {
            let mark = async {
                let query = sqlx::query(
                    "UPDATE blobs SET damaged = ?4
                     WHERE content_hash = ?1 AND storage_class = ?2 AND place = ?3",
                )
                .bind(&copy.content_hash.as_bytes()[..])
                .bind(class_number(copy.storage_class))
                .bind(copy.place.to_string())
                .bind(damaged);
                let serves = query.execute(&mut **transaction).await?.rows_affected() > 0;
                sqlx::query(queries::NOTE_OUTSIDE_CHANGE).execute(&mut **transaction).await?;
                Ok(serves)
            };
            mark.await.map_err(DatabaseError::of("mark a blob"))
        })
        .await
    }

    pub(super) async fn miscounts(&self, limit: u32) -> Result<Vec<Miscount>, DatabaseError> {
        let rows = sqlx::query(MISCOUNTS).bind(limit).fetch_all(&self.readers).await;
        let miscount = |row: &SqliteRow| {
            let key = (content_hash(row, 0)?, storage_class(row, 1)?);
            Ok(Miscount { key, ref_count: column(row, 2)?, objects: column(row, 3)? })
        };
        let miscounts = rows.and_then(|rows| rows.iter().map(miscount).collect());
        miscounts.map_err(DatabaseError::of("compare the counts with the objects"))
    }

    pub(super) async fn recount(&self, keys: &[(ContentHash, StorageClass)]) -> Result<u64, DatabaseError> {
        let keys = keys.iter().map(|(hash, class)| json!([hash.to_string(), class_number(*class)]));
        let recount = async {
            let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
            let query = sqlx::query(RECOUNT).bind(Value::Array(keys.collect()).to_string());
            let mended = query.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(mended)
        };
        recount.await.map_err(DatabaseError::of("count blobs anew"))
    }

    pub(super) async fn unfound_objects(&self, limit: u32) -> Result<Vec<ObjectId>, DatabaseError> {
        let rows = sqlx::query(UNFOUND_OBJECTS).bind(limit).fetch_all(&self.readers).await;
        let id = |row: &SqliteRow| ObjectId::from_slice(column(row, 0)?).map_err(undecodable);
        let ids = rows.and_then(|rows| rows.iter().map(id).collect());
        ids.map_err(DatabaseError::of("look for objects that no content finds"))
    }

    pub(super) async fn index_objects(&self, ids: &[ObjectId]) -> Result<u64, DatabaseError> {
        self.in_transaction(async |transaction| {
            let query = sqlx::query(INDEX_OBJECTS).bind(ids_json(ids.iter()));
            let indexed = query.execute(&mut **transaction).await;
            indexed.map(|done| done.rows_affected()).map_err(DatabaseError::of("index objects by content"))
        })
        .await
    }

    pub(super) async fn check_rows(&self) -> Result<Vec<(&'static str, Finding)>, DatabaseError> {
        let mut findings = Vec::new();
        let integrity = Check { name: "database_damage", statement: "PRAGMA integrity_check" };
        for check in std::iter::once(&integrity).chain(&CHECKS) {
            let mut finding = Finding::default();
            let mut rows = sqlx::query(check.statement).fetch(&self.readers);
            while let Some(row) = rows.try_next().await.map_err(DatabaseError::of("check the rows"))? {
                let text: String = column(&row, 0).map_err(DatabaseError::of("check the rows"))?;
                // What SQLite says of a whole database.
                if text != "ok" {
                    finding.add(|| text);
                }
            }
            findings.push((check.name, finding));
        }
        Ok(findings)
    }

    pub(super) async fn export(
        &self,
        take: &mut dyn FnMut(ExportedRow) -> io::Result<()>,
    ) -> Result<(), CopyError> {
        let failed = || DatabaseError::of("copy the metadata");
        // What the first statement sees, all of them see.
        let mut snapshot = self.readers.begin().await.map_err(failed())?;
        let clock = sqlx::query(queries::TICKS).fetch_one(&mut *snapshot).await;
        let ticks = clock.and_then(|row| column::<i64>(&row, 0)).map_err(failed())?;
        take(ExportedRow::Clock { ticks: ticks.cast_unsigned() })?;
        let limited = sqlx::query(queries::QUOTAS).fetch_all(&mut *snapshot).await;
        for (tenant_id, quota) in limited.and_then(|rows| quotas(&rows)).map_err(failed())? {
            take(ExportedRow::Limits { tenant_id, limits: quota.limits })?;
        }
        let rules = sqlx::query(queries::LIFECYCLE_RULES_AFTER).bind("").bind(u32::MAX);
        let rules = rules.fetch_all(&mut *snapshot).await.map_err(failed())?;
        for row in &rules {
            let (namespace, standing) = rule_of_namespace(row).map_err(failed())?;
            take(ExportedRow::Rule { namespace, rule: standing.rule })?;
        }
        let mut rows = sqlx::query(queries::EXPORT_OBJECTS).fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await.map_err(failed())? {
            let sequence = column::<i64>(&row, 0).map_err(failed())?.cast_unsigned();
            let object = Box::new(object(&row).map_err(failed())?);
            take(ExportedRow::Object { sequence, object })?;
        }
        drop(rows);
        let statement = concat!(
            "SELECT ",
            blob_columns!(),
            " FROM blobs WHERE ref_count > 0 ORDER BY content_hash, storage_class"
        );
        let mut rows = sqlx::query(statement).fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await.map_err(failed())? {
            take(ExportedRow::Blob(blob_row(&row).map_err(failed())?))?;
        }
        Ok(())
    }

    pub(super) async fn is_empty(&self) -> Result<bool, DatabaseError> {
        let query = sqlx::query("SELECT EXISTS (SELECT 1 FROM objects) OR EXISTS (SELECT 1 FROM blobs)");
        let filled = query.fetch_one(&self.readers).await.and_then(|row| column::<bool>(&row, 0));
        filled.map(|filled| !filled).map_err(DatabaseError::of("look whether the database is empty"))
    }

    pub(super) async fn import(
        &self,
        ticks: u64,
        next: &mut dyn FnMut() -> io::Result<Option<ImportedRows>>,
    ) -> Result<(), CopyError> {
        let failed = || DatabaseError::of("restore the metadata");
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        let context = BatchContext::of_import(ticks);
        while let Some(rows) = next()? {
            for (tenant_id, limits) in &rows.limits {
                put_limits(&mut transaction, tenant_id, *limits).await.map_err(failed())?;
            }
            for (namespace, rule, noted_since) in &rows.rules {
                put_rule(&mut transaction, namespace, *rule, *noted_since).await.map_err(failed())?;
            }
            store(&mut transaction, &rows.into_changes(), context).await.map_err(failed())?;
        }
        let clock = sqlx::query("UPDATE clock SET ticks = max(ticks, ?1)").bind(ticks.cast_signed());
        clock.execute(&mut *transaction).await.map_err(failed())?;
        Ok(transaction.commit().await.map_err(failed())?)
    }
}

/// SQLite would make the file, or take an empty one for a new database.
fn check_file(url: &DatabaseUrl, path: &Path) -> Result<(), OpenError> {
    use std::io::Read as _;
    let mut magic = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == MAGIC => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing(url.clone())),
        Ok(()) => Err(OpenError::Foreign(url.clone())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(OpenError::Foreign(url.clone())),
        Err(error) => Err(OpenError::Unreachable {
            url: url.clone(),
            source: DatabaseError { operation: "read the file", source: error.into() },
        }),
    }
}

async fn applied_migrations(pool: &SqlitePool) -> sqlx::Result<Vec<AppliedMigration>> {
    let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations").fetch_all(pool).await?;
    rows.iter()
        .map(|row| Ok(AppliedMigration { version: row.try_get(0)?, checksum: row.try_get(1)? }))
        .collect()
}

fn blob_row(row: &SqliteRow) -> sqlx::Result<BlobRow> {
    Ok(BlobRow {
        location: blob_location(row)?,
        size_bytes: column::<i64>(row, 3)?.cast_unsigned(),
        ref_count: column(row, 4)?,
        zero_since: column::<Option<i64>>(row, 5)?.map(i64::cast_unsigned),
        damaged: column(row, 6)?,
        leased_until: column::<i64>(row, 7)?.cast_unsigned(),
    })
}
