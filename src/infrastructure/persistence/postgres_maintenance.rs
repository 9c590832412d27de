//! What tools ask of PostgreSQL, as one more client of it.

use std::io;

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::batch::BatchContext;
use super::columns::{class_number, undecodable};
use super::database::{DatabaseSettings, DatabaseUrl};
use super::errors::DatabaseError;
use super::holds::{Hold, HoldId};
use super::maintenance::{
    AppliedMigration, BlobFilter, BlobRow, Check, CopyError, ExportedRow, Finding, ImportedRows, InstanceRow,
    Miscount, OpenError, check_schema,
};
use super::postgres::{PostgresDatabase, migrator};
use super::postgres_lifecycle::{put_rule, rule_of_namespace};
use super::postgres_queries as queries;
use super::postgres_rows::{
    bind_blob_keys, bind_ids, blob_location, column, content_hash, object, storage_class,
};
use super::postgres_tenants::{WRONG_USAGE, put_limits, quotas};
use super::postgres_writer::{PostgresWriter, store};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, InstanceId, ObjectId, StorageClass, Timestamp};

/// Objects that are to be found by their content, and are by neither way.
macro_rules! unfound {
    () => {
        "o.status = 1 AND NOT o.indexed AND NOT EXISTS (
            SELECT 1 FROM blobs AS b WHERE b.content_hash = o.content_hash
              AND b.storage_class = o.storage_class AND b.first_object = o.sequence)"
    };
}

/// Rows that contradict each other, by what is wrong with them.
const CHECKS: [Check; 10] = [
    Check {
        name: "objects_without_blob",
        statement: "SELECT o.id::text FROM objects AS o WHERE o.status = 1 AND NOT EXISTS (
                SELECT 1 FROM blobs AS b
                WHERE b.content_hash = o.content_hash AND b.storage_class = o.storage_class)",
    },
    Check {
        name: "objects_of_another_size",
        statement: "SELECT o.id::text FROM objects AS o JOIN blobs AS b
              ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
            WHERE o.status = 1 AND o.size_bytes IS DISTINCT FROM b.size_bytes",
    },
    Check {
        name: "wrong_counts",
        statement: "SELECT encode(b.content_hash, 'hex') || ': ' || b.ref_count || ' instead of ' || coalesce(n.objects, 0)
            FROM blobs AS b LEFT JOIN (
                SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
            ) AS n ON n.content_hash = b.content_hash AND n.storage_class = b.storage_class
            WHERE b.ref_count <> coalesce(n.objects, 0)",
    },
    WRONG_USAGE,
    Check {
        name: "objects_found_by_no_content",
        statement: concat!("SELECT o.id::text FROM objects AS o WHERE ", unfound!()),
    },
    Check {
        name: "wrong_grace",
        statement: "SELECT encode(content_hash, 'hex') FROM blobs WHERE (ref_count = 0) <> (zero_since IS NOT NULL)",
    },
    Check {
        name: "garbage_that_serves",
        statement: "SELECT encode(g.content_hash, 'hex') || '-' || g.place FROM garbage AS g JOIN blobs AS b
              ON b.content_hash = g.content_hash AND b.storage_class = g.storage_class WHERE b.place = g.place",
    },
    Check {
        name: "forgotten_at_no_time",
        statement: "SELECT id::text FROM objects WHERE (status = 3) <> (forgotten_since IS NOT NULL)",
    },
    Check {
        name: "reservations_of_ended_runs",
        statement: "SELECT o.id::text FROM objects AS o WHERE o.status = 0 AND NOT EXISTS (
                SELECT 1 FROM instances AS i WHERE i.id = o.writer AND NOT i.ended)",
    },
    Check {
        name: "damaged_blobs",
        statement: "SELECT encode(content_hash, 'hex') || '-' || place FROM blobs WHERE damaged",
    },
];

/// Uploads that nobody goes on with.
macro_rules! abandoned {
    () => {
        "WHERE status = 0 AND writer = ANY (ARRAY (SELECT id FROM instances WHERE ended))"
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
            "(content_hash, storage_class) > ($1, $2) ORDER BY content_hash, storage_class LIMIT $3"
        )
    };
}

/// The counts of blobs as their objects say they are. `$1`: hashes, `$2`: classes.
const RECOUNT: &str = "
    UPDATE blobs AS b SET ref_count = n.objects,
        zero_since = CASE WHEN n.objects > 0 THEN NULL ELSE coalesce(b.zero_since, (SELECT ticks FROM clock)) END
    FROM (SELECT k.content_hash, k.storage_class, coalesce(c.objects, 0) AS objects
          FROM unnest($1::bytea[], $2::smallint[]) AS k (content_hash, storage_class) LEFT JOIN (
              SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
          ) AS c ON c.content_hash = k.content_hash AND c.storage_class = k.storage_class) AS n
    WHERE b.content_hash = n.content_hash AND b.storage_class = n.storage_class
      AND (b.ref_count <> n.objects OR (n.objects = 0) <> (b.zero_since IS NOT NULL))";

/// Blobs whose count is not the number of their objects.
const MISCOUNTS: &str = "
    SELECT b.content_hash, b.storage_class, b.ref_count, coalesce(n.objects, 0)
    FROM blobs AS b LEFT JOIN (
        SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
    ) AS n ON n.content_hash = b.content_hash AND n.storage_class = b.storage_class
    WHERE b.ref_count <> coalesce(n.objects, 0) OR (b.ref_count = 0) <> (b.zero_since IS NOT NULL) LIMIT $1";

const UNFOUND_OBJECTS: &str = concat!("SELECT o.id FROM objects AS o WHERE ", unfound!(), " LIMIT $1");

/// `$1`: ids
const INDEX_OBJECTS: &str =
    concat!("UPDATE objects AS o SET indexed = true WHERE o.id = ANY ($1::uuid[]) AND ", unfound!());

impl PostgresDatabase {
    pub(super) async fn open_existing(
        url: &DatabaseUrl,
        options: PgConnectOptions,
    ) -> Result<Self, OpenError> {
        let unreachable = |operation| {
            let url = url.clone();
            move |source| OpenError::Unreachable { url, source: DatabaseError { operation, source } }
        };
        // A server's session is tuned for looking rows up one by one; a tool goes through whole tables.
        let options =
            options.application_name("just_storage tool").options([("client_min_messages", "warning")]);
        // A pool would go on trying where nobody listens.
        let connect = timeout(DatabaseSettings::OF_TOOL.acquire_timeout, options.connect())
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut connection = connect.map_err(unreachable("open the database"))?;
        let applied = match applied_migrations(&mut connection).await {
            Ok(applied) => applied,
            Err(error) if error.as_database_error().is_some() => {
                return Err(OpenError::Foreign(url.clone()));
            }
            Err(error) => return Err(unreachable("read the schema's version")(error)),
        };
        check_schema(url, &applied, &migrator())?;
        let readers = PgPoolOptions::new()
            .max_connections(DatabaseSettings::OF_TOOL.max_connections)
            .acquire_timeout(DatabaseSettings::OF_TOOL.acquire_timeout)
            .connect_lazy_with(options.clone());
        let writer = PostgresWriter::new(options, DatabaseSettings::OF_TOOL);
        Ok(Self { readers, answer_timeout: DatabaseSettings::OF_TOOL.answer_timeout, writer })
    }

    pub(super) async fn holds(&self) -> Result<Vec<Hold>, DatabaseError> {
        let rows = self.rows(sqlx::query("SELECT id, beats FROM holds")).await;
        let hold = |row: &PgRow| Ok(Hold { id: column(row, 0)?, beats: column(row, 1)? });
        rows.and_then(|rows| rows.iter().map(hold).collect()).map_err(DatabaseError::of("read the holds"))
    }

    pub(super) async fn forget_hold(&self, hold: Hold) -> Result<bool, DatabaseError> {
        let query =
            sqlx::query("DELETE FROM holds WHERE id = $1 AND beats = $2").bind(hold.id).bind(hold.beats);
        let done = self.change(query).await.map(|rows| rows > 0);
        done.map_err(DatabaseError::of("forget an abandoned hold"))
    }

    pub(super) async fn outside_changes(&self) -> Result<u64, DatabaseError> {
        let row = self.row(sqlx::query("SELECT outside_changes FROM clock WHERE id = 1")).await;
        let changes = row.and_then(|row| column::<i64>(&row, 0));
        changes.map(i64::cast_unsigned).map_err(DatabaseError::of("look for changes by tools"))
    }

    pub(super) async fn take_hold(
        &self,
        id: HoldId,
        purpose: &str,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let query = sqlx::query("INSERT INTO holds (id, purpose, started_at) VALUES ($1, $2, $3)");
        let taken = query.bind(id).bind(purpose).bind(now.as_millis()).execute(&self.readers).await;
        taken.map(drop).map_err(DatabaseError::of("take a hold"))
    }

    pub(super) async fn renew_hold(&self, id: HoldId) -> Result<bool, DatabaseError> {
        let query = sqlx::query("UPDATE holds SET beats = beats + 1 WHERE id = $1").bind(id);
        let renewed = query.execute(&self.readers).await.map(|done| done.rows_affected() > 0);
        renewed.map_err(DatabaseError::of("renew a hold"))
    }

    pub(super) async fn release_hold(&self, id: HoldId) -> Result<(), DatabaseError> {
        let released = sqlx::query("DELETE FROM holds WHERE id = $1").bind(id).execute(&self.readers).await;
        released.map(drop).map_err(DatabaseError::of("release a hold"))
    }

    pub(super) async fn instances(&self) -> Result<Vec<InstanceRow>, DatabaseError> {
        let query = sqlx::query(
            "SELECT i.id, i.node, i.ended, extract(epoch FROM now() - n.heartbeat_at)::bigint
             FROM instances AS i LEFT JOIN nodes AS n ON n.name = i.node AND n.instance = i.id",
        );
        let rows = query.fetch_all(&self.readers).await;
        let instance = |row: &PgRow| {
            Ok(InstanceRow {
                id: InstanceId::from_i64(column(row, 0)?),
                node: Some(column(row, 1)?),
                ended: column(row, 2)?,
                heartbeat_age_secs: column(row, 3)?,
            })
        };
        let instances = rows.and_then(|rows| rows.iter().map(instance).collect());
        instances.map_err(DatabaseError::of("read the instances"))
    }

    pub(super) async fn end_instances_of(&self, node: &str) -> Result<u64, DatabaseError> {
        let ended = sqlx::query(queries::END_INSTANCES_OF_NODE).bind(node).execute(&self.readers).await;
        ended.map(|done| done.rows_affected()).map_err(DatabaseError::of("end the runs of a server"))
    }

    pub(super) async fn abandoned_reservations(&self) -> Result<u64, DatabaseError> {
        let row =
            sqlx::query(concat!("SELECT count(*) FROM objects ", abandoned!())).fetch_one(&self.readers);
        let count = row.await.and_then(|row| column::<i64>(&row, 0));
        count.map(i64::cast_unsigned).map_err(DatabaseError::of("count unfinished uploads"))
    }

    pub(super) async fn clear_reservations(&self) -> Result<u64, DatabaseError> {
        let cleared = sqlx::query(concat!("DELETE FROM objects ", abandoned!())).execute(&self.readers).await;
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
        let query = sqlx::query(statement).bind(hash).bind(class).bind(i64::from(limit));
        let rows = self.rows(query).await;
        rows.and_then(|rows| rows.iter().map(blob_row).collect()).map_err(DatabaseError::of("read blobs"))
    }

    pub(super) async fn blob(
        &self,
        (hash, class): (ContentHash, StorageClass),
    ) -> Result<Option<BlobRow>, DatabaseError> {
        let statement =
            concat!("SELECT ", blob_columns!(), " FROM blobs WHERE content_hash = $1 AND storage_class = $2");
        let query = sqlx::query(statement).bind(&hash.as_bytes()[..]).bind(class_number(class));
        let row = self.optional_row(query).await;
        row.and_then(|row| row.as_ref().map(blob_row).transpose()).map_err(DatabaseError::of("read a blob"))
    }

    pub(super) async fn garbage_totals(&self) -> Result<(u64, u64), DatabaseError> {
        let query = sqlx::query("SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM garbage");
        let row = query.fetch_one(&self.readers).await;
        let totals = row.and_then(|row| Ok((column::<i64>(&row, 0)?, column::<i64>(&row, 1)?)));
        totals
            .map(|(places, bytes)| (places.cast_unsigned(), bytes.cast_unsigned()))
            .map_err(DatabaseError::of("count the garbage"))
    }

    pub(super) async fn mark(&self, copy: &BlobLocation, damaged: bool) -> Result<bool, DatabaseError> {
        let mark = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            let query = sqlx::query(
                "UPDATE blobs SET damaged = $4 WHERE content_hash = $1 AND storage_class = $2 AND place = $3",
            )
            .bind(&copy.content_hash.as_bytes()[..])
            .bind(class_number(copy.storage_class))
            .bind(copy.place.to_string())
            .bind(damaged);
            let serves = query.execute(&mut *transaction).await?.rows_affected() > 0;
            sqlx::query(queries::NOTE_OUTSIDE_CHANGE).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(serves)
        };
        self.ask(mark).await.map_err(DatabaseError::of("mark a blob"))
    }

    pub(super) async fn miscounts(&self, limit: u32) -> Result<Vec<Miscount>, DatabaseError> {
        let rows = sqlx::query(MISCOUNTS).bind(i64::from(limit)).fetch_all(&self.readers).await;
        let miscount = |row: &PgRow| {
            let key = (content_hash(row)?, storage_class(row, 1)?);
            Ok(Miscount { key, ref_count: column(row, 2)?, objects: column(row, 3)? })
        };
        let miscounts = rows.and_then(|rows| rows.iter().map(miscount).collect());
        miscounts.map_err(DatabaseError::of("compare the counts with the objects"))
    }

    pub(super) async fn recount(&self, keys: &[(ContentHash, StorageClass)]) -> Result<u64, DatabaseError> {
        let recount = async {
            let mut transaction = self.readers.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            // Every batch changes a row of this table first: none runs between the counting and the change.
            sqlx::query("LOCK TABLE instances IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
            let query = bind_blob_keys(sqlx::query(RECOUNT), keys.iter().copied());
            let mended = query.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(mended)
        };
        recount.await.map_err(DatabaseError::of("count blobs anew"))
    }

    pub(super) async fn unfound_objects(&self, limit: u32) -> Result<Vec<ObjectId>, DatabaseError> {
        let rows = sqlx::query(UNFOUND_OBJECTS).bind(i64::from(limit)).fetch_all(&self.readers).await;
        let id = |row: &PgRow| column::<Uuid>(row, 0).map(|id| ObjectId::from_slice(id.as_bytes()));
        let ids = rows.and_then(|rows| rows.iter().map(|row| id(row)?.map_err(undecodable)).collect());
        ids.map_err(DatabaseError::of("look for objects that no content finds"))
    }

    pub(super) async fn index_objects(&self, ids: &[ObjectId]) -> Result<u64, DatabaseError> {
        let index = async {
            let mut transaction = self.readers.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            // Every batch changes a row of this table first: no blob is given another first object meanwhile.
            sqlx::query("LOCK TABLE instances IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
            let query = bind_ids(sqlx::query(INDEX_OBJECTS), ids.iter());
            let indexed = query.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(indexed)
        };
        index.await.map_err(DatabaseError::of("index objects by content"))
    }

    pub(super) async fn check_rows(&self) -> Result<Vec<(&'static str, Finding)>, DatabaseError> {
        let mut findings = Vec::new();
        for check in &CHECKS {
            let mut finding = Finding::default();
            let mut rows = sqlx::query(check.statement).fetch(&self.readers);
            while let Some(row) = rows.try_next().await.map_err(DatabaseError::of("check the rows"))? {
                let text: String = column(&row, 0).map_err(DatabaseError::of("check the rows"))?;
                finding.add(|| text);
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
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut snapshot = self.readers.begin_with(begin).await.map_err(failed())?;
        let clock = sqlx::query(queries::TICKS).fetch_one(&mut *snapshot).await;
        let ticks = clock.and_then(|row| column::<i64>(&row, 0)).map_err(failed())?;
        take(ExportedRow::Clock { ticks: ticks.cast_unsigned() })?;
        let limited = sqlx::query(queries::QUOTAS).fetch_all(&mut *snapshot).await;
        for (tenant_id, quota) in limited.and_then(|rows| quotas(&rows)).map_err(failed())? {
            take(ExportedRow::Limits { tenant_id, limits: quota.limits })?;
        }
        let rules = sqlx::query(queries::LIFECYCLE_RULES_AFTER).bind("").bind(i64::MAX);
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
        let mut transaction = self.readers.begin().await.map_err(failed())?;
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
        let clock = sqlx::query(queries::STORE_TICKS).bind(ticks.cast_signed());
        clock.execute(&mut *transaction).await.map_err(failed())?;
        // The next batch takes its block behind everything that was restored.
        let sequence = "SELECT setval('objects_sequence', coalesce(max(sequence), 0) + 1024) FROM objects";
        sqlx::query(sequence).execute(&mut *transaction).await.map_err(failed())?;
        Ok(transaction.commit().await.map_err(failed())?)
    }
}

async fn applied_migrations(connection: &mut PgConnection) -> sqlx::Result<Vec<AppliedMigration>> {
    let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations").fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok(AppliedMigration { version: row.try_get(0)?, checksum: row.try_get(1)? }))
        .collect()
}

fn blob_row(row: &PgRow) -> sqlx::Result<BlobRow> {
    Ok(BlobRow {
        location: blob_location(row)?,
        size_bytes: column::<i64>(row, 3)?.cast_unsigned(),
        ref_count: column(row, 4)?,
        zero_since: column::<Option<i64>>(row, 5)?.map(i64::cast_unsigned),
        damaged: column(row, 6)?,
        leased_until: column::<i64>(row, 7)?.cast_unsigned(),
    })
}
