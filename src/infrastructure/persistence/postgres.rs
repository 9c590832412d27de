//! The repository on PostgreSQL, which several servers may share: a pool of connections that read, and one that
//! writes ([`PostgresWriter`]).

use std::collections::HashSet;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgRow};
use sqlx::{Connection as _, PgPool, Postgres, SqlSafeStr as _};
use tokio::time::timeout;

use super::batch::{Applied, BatchContext};
use super::census::CountedObjects;
use super::collector::{Collected, Garbage};
use super::columns::{class_number, status_number};
use super::database::{DatabaseSettings, RootRow};
use super::errors::{DatabaseError, WrongEncoding, silence};
use super::holds::HoldId;
use super::postgres_migrations::{PATIENCE, migrate};
use super::postgres_queries as queries;
use super::postgres_rows::{
    PgQuery, bind_blob_keys, bind_garbage, bind_within, blob_location, column, counted_objects, garbage,
    object, page, stored_object, uuid_of,
};
use super::postgres_writer::PostgresWriter;
use crate::application::ports::{ListPage, ListQuery, ObjectName};
use crate::domain::entities::{Object, StoredObject};
use crate::domain::value_objects::{InstanceId, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::Write;
use crate::infrastructure::storage::BlobFile;

/// A connection that was idle for longer is asked whether it lives before it is used.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);
/// How long the database may take to say that it is there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connections may take to be closed, once nothing is asked on them any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every connection is told about its session.
///
/// Every statement looks rows up by an index, one by one. A plan that reads a whole table would be slower, and in a
/// serializable transaction it would conflict with every write to that table. And a server that stands still in the
/// middle of a transaction must not hold its locks against the others.
const SESSION: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    // Plans that are all the same are not worth compiling.
    ("jit", "off"),
    ("idle_in_transaction_session_timeout", "5s"),
    // "already exists, skipping" is no news.
    ("client_min_messages", "warning"),
];

pub(crate) struct PostgresDatabase {
    pub(super) readers: PgPool,
    pub(super) answer_timeout: Duration,
    pub(super) writer: PostgresWriter,
}

/// A connection that is closed unless what was asked on it has been answered to the end. The pool would wait for the
/// rest of the answer, and from a database that stands still it never comes.
struct Asked {
    connection: PoolConnection<Postgres>,
    answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.close_on_drop();
        }
    }
}

pub(super) fn migrator() -> Migrator {
    let files = [
        ("objects", include_str!("../../../migrations/postgres/0001_objects.sql")),
        ("garbage", include_str!("../../../migrations/postgres/0002_garbage.sql")),
        ("maintenance", include_str!("../../../migrations/postgres/0003_maintenance.sql")),
        ("api_keys", include_str!("../../../migrations/postgres/0004_api_keys.sql")),
        ("tenants", include_str!("../../../migrations/postgres/0005_tenants.sql")),
        ("contents", include_str!("../../../migrations/postgres/0006_contents.sql")),
        ("lifecycle", include_str!("../../../migrations/postgres/0007_lifecycle.sql")),
        ("scrub", include_str!("../../../migrations/postgres/0008_scrub.sql")),
    ];
    let migration = |(version, (name, text)): (i64, (&'static str, &'static str))| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations((1..).zip(files).map(migration).collect());
    // The lock would be an advisory one. Each migration is a transaction that makes tables, which only one server
    // can; the others are refused, and look again.
    migrator.set_locking(false);
    migrator
}

impl PostgresDatabase {
    pub(super) async fn open(
        options: PgConnectOptions,
        settings: DatabaseSettings,
    ) -> Result<Self, DatabaseError> {
        let options = options.application_name("just_storage").options(SESSION);
        let readers = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .min_connections(settings.min_connections)
            .acquire_timeout(settings.acquire_timeout)
            .idle_timeout(settings.idle_timeout)
            .max_lifetime(settings.max_lifetime)
            .test_before_acquire(false)
            .before_acquire(|connection, state| {
                Box::pin(async move {
                    if state.idle_for > IDLE_TRUSTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options.clone())
            .await
            .map_err(DatabaseError::of("open the database"))?;
        let encoding = setting(&readers, "server_encoding").await?;
        if encoding != "UTF8" {
            return Err(DatabaseError::of("use the database")(WrongEncoding::into_database_error(encoding)));
        }
        migrate(&migrator(), &options, settings.acquire_timeout, PATIENCE).await?;
        warn_of_lost_commits(&readers).await?;
        let answer_timeout = settings.answer_timeout;
        Ok(Self { readers, answer_timeout, writer: PostgresWriter::new(options, settings) })
    }

    /// Has one connection answer `asking` within the time that an answer may take.
    pub(super) async fn ask<T>(
        &self,
        asking: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let mut asked = Asked { connection: self.readers.acquire().await?, answered: false };
        let answer = timeout(self.answer_timeout, asking(&mut asked.connection)).await;
        asked.answered = answer.is_ok();
        answer.unwrap_or_else(|_| Err(silence()))
    }

    pub(super) async fn optional_row(&self, query: PgQuery<'_>) -> sqlx::Result<Option<PgRow>> {
        self.ask(async |connection| query.fetch_optional(connection).await).await
    }

    pub(super) async fn row(&self, query: PgQuery<'_>) -> sqlx::Result<PgRow> {
        self.ask(async |connection| query.fetch_one(connection).await).await
    }

    pub(super) async fn rows(&self, query: PgQuery<'_>) -> sqlx::Result<Vec<PgRow>> {
        self.ask(async |connection| query.fetch_all(connection).await).await
    }

    /// Gives the number of rows that were changed.
    pub(super) async fn change(&self, query: PgQuery<'_>) -> sqlx::Result<u64> {
        self.ask(async |connection| Ok(query.execute(connection).await?.rows_affected())).await
    }

    pub(super) async fn apply(
        &self,
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Applied, DatabaseError> {
        self.writer.apply(writes, next_sequence, context).await
    }

    pub(super) async fn find(&self, name: &ObjectName) -> Result<Option<StoredObject>, DatabaseError> {
        let query = match name {
            ObjectName::Id(id) => sqlx::query(queries::FIND_BY_ID).bind(uuid_of(id)),
            ObjectName::IdWithin(id, reach) => bind_within(queries::FIND_BY_ID_WITHIN, id, reach),
            ObjectName::Content(hash, reach) => return self.find_content(hash, reach).await,
            ObjectName::Key(path) => sqlx::query(queries::FIND_BY_KEY)
                .bind(path.scope.namespace.as_str())
                .bind(path.scope.tenant_id.as_str())
                .bind(path.key.as_str()),
        };
        let row = self.optional_row(query).await;
        let found = row.and_then(|row| row.as_ref().map(stored_object).transpose());
        found.map_err(DatabaseError::of("find an object"))
    }

    pub(super) async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, DatabaseError> {
        let query = match name {
            ObjectName::Id(id) => sqlx::query(queries::INSPECT_BY_ID).bind(uuid_of(id)),
            ObjectName::IdWithin(id, reach) => bind_within(queries::INSPECT_BY_ID_WITHIN, id, reach),
            ObjectName::Key(_) | ObjectName::Content(..) => {
                return Ok(self.find(name).await?.map(|stored| stored.object));
            }
        };
        let row = self.optional_row(query).await;
        let found = row.and_then(|row| row.as_ref().map(object).transpose());
        found.map_err(DatabaseError::of("look at an object"))
    }

    pub(super) async fn count_objects(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<CountedObjects>, DatabaseError> {
        let statement = sqlx::query(queries::COUNT_OBJECTS).bind(after.cast_signed()).bind(i64::from(limit));
        let rows = self.rows(statement).await;
        let counted = rows.and_then(|rows| rows.iter().map(counted_objects).collect());
        counted.map_err(DatabaseError::of("count objects"))
    }

    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage, DatabaseError> {
        let text = if query.storage_class.is_some() { queries::LIST_CLASS } else { queries::LIST_BOTH };
        let mut statement = sqlx::query(text)
            .bind(query.scope.namespace.as_str())
            .bind(query.scope.tenant_id.as_str())
            .bind(status_number(query.status))
            .bind(query.before.map_or(i64::MAX, u64::cast_signed))
            // One more than asked for tells whether there is a next page.
            .bind(i64::from(query.limit) + 1);
        if let Some(class) = query.storage_class {
            statement = statement.bind(class_number(class));
        }
        let rows = self.rows(statement).await;
        rows.and_then(|rows| page(&rows, query.limit as usize)).map_err(DatabaseError::of("list objects"))
    }

    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        let answer = timeout(CHECK_TIMEOUT, self.change(sqlx::query("SELECT 1"))).await;
        let answer = answer.unwrap_or_else(|_| Err(silence()));
        answer.map(|_| ()).map_err(DatabaseError::of("ask the database"))
    }

    pub(super) async fn root(&self, class: StorageClass) -> Result<Option<RootRow>, DatabaseError> {
        let query = sqlx::query(queries::ROOT).bind(class_number(class));
        let row = self.optional_row(query).await;
        let row = row.and_then(|row| row.as_ref().map(root_row).transpose());
        row.map_err(DatabaseError::of("read what a root is"))
    }

    pub(super) async fn put_root(&self, class: StorageClass, row: RootRow) -> Result<RootRow, DatabaseError> {
        let query =
            sqlx::query(queries::PUT_ROOT).bind(class_number(class)).bind(row.identity).bind(row.claimed);
        let row = self.row(query).await;
        row.and_then(|row| root_row(&row)).map_err(DatabaseError::of("note what a root is"))
    }

    /// Takes the name for this instance, ends earlier instances of it, and clears their reservations. Each statement
    /// sees what the one before waited for; the row of the name holds back another start under it.
    pub(super) async fn begin_instance(
        &self,
        instance: InstanceId,
        node: &str,
        now: Timestamp,
    ) -> Result<u64, DatabaseError> {
        let begin = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            let claim = sqlx::query(queries::CLAIM_NODE).bind(node).bind(instance.to_i64());
            claim.execute(&mut *transaction).await?;
            sqlx::query(queries::END_INSTANCES_OF_NODE).bind(node).execute(&mut *transaction).await?;
            let insert = sqlx::query(queries::BEGIN_INSTANCE).bind(instance.to_i64()).bind(node);
            insert.bind(now.as_millis()).execute(&mut *transaction).await?;
            let cleared = sqlx::query(queries::CLEAR_WRITING).bind(node).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(cleared.rows_affected())
        };
        self.ask(begin).await.map_err(DatabaseError::of("note the start of the server"))
    }

    pub(super) async fn dead_instances(&self, node: &str) -> Result<Vec<InstanceId>, DatabaseError> {
        let rows = self.rows(sqlx::query(queries::DEAD_INSTANCES).bind(node)).await;
        let decode =
            |rows: Vec<PgRow>| rows.iter().map(|row| column(row, 0).map(InstanceId::from_i64)).collect();
        rows.and_then(decode).map_err(DatabaseError::of("read the instances"))
    }

    pub(super) async fn forget_instances(&self, instances: &[InstanceId]) -> Result<(), DatabaseError> {
        let ids: Vec<_> = instances.iter().map(|instance| instance.to_i64()).collect();
        let forgotten = self.change(sqlx::query(queries::FORGET_INSTANCES).bind(ids)).await;
        forgotten.map(|_| ()).map_err(DatabaseError::of("forget swept instances"))
    }

    pub(super) async fn heartbeat(
        &self,
        instance: InstanceId,
        node: &str,
    ) -> Result<Option<u64>, DatabaseError> {
        let query = sqlx::query(queries::HEARTBEAT).bind(node).bind(instance.to_i64());
        let row = self.optional_row(query).await;
        let changes = row.and_then(|row| row.map(|row| column::<i64>(&row, 0)).transpose());
        changes
            .map(|changes| changes.map(i64::cast_unsigned))
            .map_err(DatabaseError::of("renew the claim of this server's name"))
    }

    pub(super) async fn unnamed_files(&self, files: &[BlobFile]) -> Result<Vec<BlobFile>, DatabaseError> {
        let keys = files.iter().map(|file| (file.content_hash, file.storage_class));
        let query = bind_blob_keys(sqlx::query(queries::PLACES_NAMED), keys);
        let rows = self.rows(query).await;
        let named =
            rows.and_then(|rows| rows.iter().map(blob_location).collect::<sqlx::Result<HashSet<_>>>());
        let named = named.map_err(DatabaseError::of("look for the places that are named"))?;
        Ok(files.iter().filter(|file| !named.contains(file)).copied().collect())
    }

    pub(super) async fn ticks(&self) -> Result<u64, DatabaseError> {
        let row = self.row(sqlx::query(queries::TICKS)).await;
        let ticks = row.and_then(|row| column::<i64>(&row, 0));
        ticks.map(i64::cast_unsigned).map_err(DatabaseError::of("read the database's clock"))
    }

    pub(super) async fn store_ticks(&self, tick: u64) -> Result<(), DatabaseError> {
        let stored = self.change(sqlx::query(queries::STORE_TICKS).bind(tick.cast_signed())).await;
        stored.map(|_| ()).map_err(DatabaseError::of("store the database's clock"))
    }

    pub(super) async fn collect(
        &self,
        tick: u64,
        grace: u64,
        batch: u32,
    ) -> Result<Collected, DatabaseError> {
        // Before the grace period has passed for the first time, nothing can be over it.
        let horizon = tick.checked_sub(grace).map_or(-1, u64::cast_signed);
        let tick = tick.cast_signed();
        let collect = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            sqlx::query(queries::STORE_TICKS).bind(tick).execute(&mut *transaction).await?;
            let forget = sqlx::query(queries::COLLECT_BLOBS).bind(horizon).bind(i64::from(batch));
            let blobs = forget.execute(&mut *transaction).await?.rows_affected();
            let purge = sqlx::query(queries::PURGE_OBJECTS).bind(horizon).bind(i64::from(batch));
            let objects = purge.execute(&mut *transaction).await?.rows_affected();
            let forget = sqlx::query(queries::FORGET_LEASES).bind(horizon).bind(i64::from(batch));
            let leases = forget.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(Collected { blobs, objects, leases })
        };
        self.ask(collect).await.map_err(DatabaseError::of("collect what nothing refers to"))
    }

    pub(super) async fn garbage(
        &self,
        limit: u32,
        abandoned_holds: &[HoldId],
    ) -> Result<Vec<Garbage>, DatabaseError> {
        let query = sqlx::query(queries::GARBAGE).bind(i64::from(limit)).bind(abandoned_holds);
        let rows = self.rows(query).await;
        let places = rows.and_then(|rows| rows.iter().map(garbage).collect());
        places.map_err(DatabaseError::of("read the garbage"))
    }

    pub(super) async fn forget_garbage(&self, removed: &[Garbage]) -> Result<(), DatabaseError> {
        let query = bind_garbage(sqlx::query(queries::FORGET_GARBAGE), removed);
        self.change(query).await.map(|_| ()).map_err(DatabaseError::of("forget removed garbage"))
    }

    pub(super) async fn close(&self) {
        let close = async {
            self.writer.close().await;
            self.readers.close().await;
        };
        // One that stands still is cut by the end of the process.
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }
}

fn root_row(row: &PgRow) -> sqlx::Result<RootRow> {
    Ok(RootRow { identity: column(row, 0)?, claimed: column(row, 1)? })
}

/// A database that answers before it has synced takes the promise out of every `201`.
async fn warn_of_lost_commits(pool: &PgPool) -> Result<(), DatabaseError> {
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        if setting(pool, name).await? == "off" {
            tracing::warn!("the database has {name} = off: what it has committed can be lost in a crash");
        }
    }
    Ok(())
}

async fn setting(pool: &PgPool, name: &str) -> Result<String, DatabaseError> {
    let row = sqlx::query("SELECT current_setting($1)").bind(name).fetch_one(pool).await;
    row.and_then(|row| column(&row, 0)).map_err(DatabaseError::of("read the database's settings"))
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
