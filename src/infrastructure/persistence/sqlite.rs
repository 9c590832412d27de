//! The repository on SQLite: WAL, `synchronous=FULL`, one connection that writes and a pool of those that read.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous, SqliteTransaction,
};
use sqlx::{Connection as _, Row as _, SqlSafeStr as _, Sqlite, SqliteConnection, SqlitePool};

use super::batch::{
    self, Applied, BatchContext, Changes, Held, HeldBlob, LogContext, Synced, Touched, VersionCount,
};
use super::census::CountedObjects;
use super::collector::{Collected, Garbage};
use super::columns::class_number;
use super::database::{DatabaseSettings, RootRow};
use super::errors::DatabaseError;
use super::holds::HoldId;
use super::queries;
use super::sqlite_api_keys::namespaces_json;
use super::sqlite_columns::{
    blob_location, column, content_hash, counted_objects, held_objects, key_path, object, place, root_row,
    storage_class, stored_object,
};
use super::sqlite_packs::{freed_of_packs, packs_json};
use super::sqlite_rows::{ObjectRows, Values, bind_blob, bind_blob_key, bind_key, execute, fetch};
use super::sqlite_tenants::{load_quotas, usage_json};
use crate::application::ports::ObjectName;
use crate::domain::entities::{BlobLocation, KeyPath, Object, Reach, StoredObject};
use crate::domain::value_objects::{InstanceId, ObjectId, StorageClass, Timestamp};
use crate::fault_injection::{DurableSync, skips};
use crate::infrastructure::plane_channel::Write;
use crate::infrastructure::storage::{BlobFile, DatabaseRoom, Roots, blob_length};

/// How long a connection waits for another one's lock. Only a foreign program could hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Page cache of each reading connection.
const READER_CACHE_KIB: u32 = 1024;
/// Page cache of the connection that writes: large enough for the index pages that a batch touches.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
/// The size of a page of a new database, in bytes.
const PAGE_BYTES: u64 = 4096;
/// After so many pages at most the log of the database is brought into its main file. Hashes come in no order, so that
/// almost every change has an index page of its own, which a checkpoint writes once for all changes before it. Measured,
/// with a fourth of this (and of the cache half) uploads were a seventh fewer, and the slowest took twice as long.
const CHECKPOINT_PAGES_MAX: u64 = 16 * 1024;
/// And after so many at least, however small its file system.
const CHECKPOINT_PAGES_MIN: u64 = 64;

/// How long a batch waits for a look at the copies that it would share: a disk that hangs must not hold up the others.
const COPY_LOOK_LIMIT: Duration = Duration::from_secs(5);

/// What is written to see whether the disk is full: more than a few blocks that happen to be free.
const PROBE_BYTES: usize = 1024 * 1024;

pub(crate) struct SqliteDatabase {
    pub(super) path: PathBuf,
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    /// Whether the writing connection leaves its transactions to be synced later, as the log allows.
    relaxed: AtomicBool,
}

pub(super) fn migrator() -> Migrator {
    let files = [
        ("objects", include_str!("../../../migrations/sqlite/0001_objects.sql")),
        ("garbage", include_str!("../../../migrations/sqlite/0002_garbage.sql")),
        ("maintenance", include_str!("../../../migrations/sqlite/0003_maintenance.sql")),
        ("packs", include_str!("../../../migrations/sqlite/0004_packs.sql")),
        ("api_keys", include_str!("../../../migrations/sqlite/0005_api_keys.sql")),
        ("tenants", include_str!("../../../migrations/sqlite/0006_tenants.sql")),
        ("contents", include_str!("../../../migrations/sqlite/0007_contents.sql")),
        ("lifecycle", include_str!("../../../migrations/sqlite/0008_lifecycle.sql")),
        ("scrub", include_str!("../../../migrations/sqlite/0009_scrub.sql")),
    ];
    let migration = |(version, (name, text)): (i64, (&'static str, &'static str))| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations((1..).zip(files).map(migration).collect());
    // The data directory is held by flock already; nothing else migrates it.
    migrator.set_locking(false);
    migrator
}

/// After how many pages the log of a database is brought into its main file.
fn checkpoint_pages(room: &DatabaseRoom) -> u64 {
    (room.checkpoint_bytes() / PAGE_BYTES).clamp(CHECKPOINT_PAGES_MIN, CHECKPOINT_PAGES_MAX)
}

/// An id, and who looks for it.
fn bind_within<'q>(
    text: &'static str,
    id: &'q ObjectId,
    reach: &'q Reach,
) -> Query<'q, Sqlite, SqliteArguments> {
    sqlx::query(text)
        .bind(&id.as_bytes()[..])
        .bind(reach.tenant_id().map(|tenant_id| tenant_id.as_str()))
        .bind(reach.namespaces().map(namespaces_json))
}

impl SqliteDatabase {
    pub(super) async fn open(path: &Path, settings: DatabaseSettings) -> Result<Self, DatabaseError> {
        let room = DatabaseRoom::of(path.parent().unwrap_or(path));
        // Whatever is wrong with its directory, opening it will say.
        let checkpoint_pages = room.map_or(CHECKPOINT_PAGES_MAX, |room| checkpoint_pages(&room));
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(if skips(DurableSync::Database) {
                SqliteSynchronous::Off
            } else {
                SqliteSynchronous::Full
            })
            .foreign_keys(false)
            .busy_timeout(BUSY_TIMEOUT);
        let writer_options = options
            .clone()
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", checkpoint_pages.to_string())
            // What undoes one statement of a transaction need not be a file.
            .pragma("temp_store", "MEMORY");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(writer_options)
            .await
            .map_err(DatabaseError::of("open the database"))?;
        let migrated = migrator().run(&writer).await;
        migrated
            .map_err(|error| DatabaseError { operation: "migrate the database", source: error.into() })?;
        let reader_options =
            options.pragma("query_only", "1").pragma("cache_size", format!("-{READER_CACHE_KIB}"));
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.max_connections)
            .min_connections(settings.min_connections)
            .acquire_timeout(settings.acquire_timeout)
            .idle_timeout(settings.idle_timeout)
            .max_lifetime(settings.max_lifetime)
            .test_before_acquire(false)
            .connect_with(reader_options)
            .await
            .map_err(DatabaseError::of("open the database for reading"))?;
        Ok(Self::of_pools(path, writer, readers))
    }

    pub(super) fn of_pools(path: &Path, writer: SqlitePool, readers: SqlitePool) -> Self {
        Self { path: path.into(), writer, readers, relaxed: AtomicBool::new(false) }
    }

    pub(super) async fn apply(
        &self,
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Applied, DatabaseError> {
        let change = async |transaction: &mut SqliteTransaction<'_>| {
            let held = async {
                let mut held = load(transaction, writes).await?;
                held.quotas = load_quotas(transaction, writes).await?;
                Ok(held)
            };
            let held = held.await.map_err(DatabaseError::of("load what a batch touches"))?;
            let (outcomes, changes) = batch::apply(writes, held, next_sequence, context.now);
            let stored = store(transaction, &changes, context).await;
            stored.map_err(DatabaseError::of("store what a batch changes"))?;
            Ok(Applied { outcomes, usage: changes.usage })
        };
        self.in_transaction(change).await
    }

    /// Applies a batch of the log in one transaction. Before that, those copies that its commits would share are
    /// looked at: one that is lost gives way to the new one.
    pub(super) async fn apply_logged(
        &self,
        writes: &[Write],
        log: &LogContext,
        context: BatchContext,
        roots: &Roots,
    ) -> Result<Applied, DatabaseError> {
        let change = async |transaction: &mut SqliteTransaction<'_>| {
            let held = load(transaction, writes).await;
            let mut held = held.map_err(DatabaseError::of("load what a batch touches"))?;
            mark_lost_copies(&mut held, writes, roots).await;
            let (outcomes, changes) = batch::apply_logged(writes, log, held, context.now);
            let stored = store(transaction, &changes, context).await;
            stored.map_err(DatabaseError::of("store what a batch changes"))?;
            Ok(Applied { outcomes, usage: changes.usage })
        };
        self.in_transaction_synced(log.synced, change).await
    }

    /// Runs `change` in a transaction that is durable when this returns.
    pub(super) async fn in_transaction<T>(
        &self,
        change: impl AsyncFnOnce(&mut SqliteTransaction<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.in_transaction_synced(Synced::Now, change).await
    }

    /// Runs `change` in a transaction of the writing connection.
    ///
    /// The connection goes with a transaction that fails: SQLite undoes some failures by itself (a full disk) and
    /// leaves others to be undone, and sqlx believes that a transaction is open until it has undone it.
    async fn in_transaction_synced<T>(
        &self,
        synced: Synced,
        change: impl AsyncFnOnce(&mut SqliteTransaction<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let acquired = self.writer.acquire().await;
        let mut connection = acquired.map_err(DatabaseError::of("reach the database for writing"))?;
        let result = async {
            self.set_synced(&mut connection, synced).await?;
            let begin = connection.begin_with("BEGIN IMMEDIATE").await;
            let mut transaction = begin.map_err(DatabaseError::of("begin a transaction"))?;
            let changed = change(&mut transaction).await?;
            transaction.commit().await.map_err(DatabaseError::of("commit a transaction"))?;
            Ok(changed)
        };
        let error: DatabaseError = match result.await {
            Ok(changed) => return Ok(changed),
            Err(error) => error,
        };
        // The next connection is one that syncs.
        self.relaxed.store(false, Ordering::Relaxed);
        // What is said of the failure is said by whoever asked; that the connection ends too adds nothing.
        let _ = connection.close().await;
        Err(if error.is_io_error() && self.disk_is_full().await { error.of_full_disk() } else { error })
    }

    async fn set_synced(
        &self,
        connection: &mut SqliteConnection,
        synced: Synced,
    ) -> Result<(), DatabaseError> {
        let relaxed = synced == Synced::Later;
        if skips(DurableSync::Database) || self.relaxed.load(Ordering::Relaxed) == relaxed {
            return Ok(());
        }
        // In WAL mode NORMAL leaves out the sync of a transaction, and nothing else: what is in the file is always
        // some transaction's state, and a checkpoint syncs before it overwrites.
        let pragma = if relaxed { "PRAGMA synchronous = NORMAL" } else { "PRAGMA synchronous = FULL" };
        let set = sqlx::query(pragma).execute(connection).await;
        set.map_err(DatabaseError::of("choose when to sync"))?;
        self.relaxed.store(relaxed, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the disk has no room for something new. A disk that gives room to files only when they are synced lets
    /// the sync of a transaction fail, which SQLite tells like any other failure.
    ///
    /// Then what failed may or may not be found by a later start, as after every failed sync; but it takes no restart
    /// to go on: no other connection has seen it, and the next transaction writes over it before it syncs.
    async fn disk_is_full(&self) -> bool {
        let mut path = self.path.clone().into_os_string();
        path.push("-probe");
        let probe = move || {
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(&[0x5a; PROBE_BYTES])?;
                file.sync_all()
            });
            let _ = std::fs::remove_file(&path);
            written.is_err_and(|error| error.kind() == ErrorKind::StorageFull)
        };
        tokio::task::spawn_blocking(probe).await.unwrap_or(false)
    }

    pub(super) async fn find(&self, name: &ObjectName) -> Result<Option<StoredObject>, DatabaseError> {
        let row = match name {
            ObjectName::Id(id) => {
                let query = sqlx::query(queries::FIND_BY_ID).bind(&id.as_bytes()[..]);
                query.fetch_optional(&self.readers).await
            }
            ObjectName::IdWithin(id, reach) => {
                bind_within(queries::FIND_BY_ID_WITHIN, id, reach).fetch_optional(&self.readers).await
            }
            ObjectName::Content(hash, reach) => return self.find_content(hash, reach).await,
            ObjectName::Key(path) => {
                let query = sqlx::query(queries::FIND_BY_KEY)
                    .bind(path.scope.namespace.as_str())
                    .bind(path.scope.tenant_id.as_str())
                    .bind(path.key.as_str());
                query.fetch_optional(&self.readers).await
            }
        };
        let found = row.and_then(|row| row.as_ref().map(stored_object).transpose());
        found.map_err(DatabaseError::of("find an object"))
    }

    pub(super) async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, DatabaseError> {
        let query = match name {
            ObjectName::Id(id) => sqlx::query(queries::INSPECT_BY_ID).bind(&id.as_bytes()[..]),
            ObjectName::IdWithin(id, reach) => bind_within(queries::INSPECT_BY_ID_WITHIN, id, reach),
            ObjectName::Key(_) | ObjectName::Content(..) => {
                return Ok(self.find(name).await?.map(|stored| stored.object));
            }
        };
        let row = query.fetch_optional(&self.readers).await;
        let found = row.and_then(|row| row.as_ref().map(object).transpose());
        found.map_err(DatabaseError::of("look at an object"))
    }

    pub(super) async fn count_objects(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<CountedObjects>, DatabaseError> {
        let statement = sqlx::query(queries::COUNT_OBJECTS).bind(after.cast_signed()).bind(i64::from(limit));
        let rows = statement.fetch_all(&self.readers).await;
        let counted = rows.and_then(|rows| rows.iter().map(counted_objects).collect());
        counted.map_err(DatabaseError::of("count objects"))
    }

    pub(super) async fn keys_after(
        &self,
        after: Option<&KeyPath>,
        limit: u32,
    ) -> Result<Vec<KeyPath>, DatabaseError> {
        let rows = sqlx::query(queries::KEYS_AFTER)
            .bind(after.map_or("", |path| path.scope.namespace.as_str()))
            .bind(after.map_or("", |path| path.scope.tenant_id.as_str()))
            .bind(after.map_or("", |path| path.key.as_str()))
            .bind(limit)
            .fetch_all(&self.readers)
            .await;
        rows.and_then(|rows| rows.iter().map(key_path).collect()).map_err(DatabaseError::of("read the keys"))
    }

    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        let answer = sqlx::query("SELECT 1").execute(&self.readers).await;
        answer.map(|_| ()).map_err(DatabaseError::of("ask the database"))
    }

    pub(super) async fn next_sequence(&self) -> Result<u64, DatabaseError> {
        let row =
            sqlx::query("SELECT coalesce(max(sequence), 0) + 1 FROM objects").fetch_one(&self.writer).await;
        let next = row.and_then(|row| row.try_get::<i64, _>(0));
        next.map(i64::cast_unsigned).map_err(DatabaseError::of("read the last sequence"))
    }

    pub(super) async fn root(&self, class: StorageClass) -> Result<Option<RootRow>, DatabaseError> {
        let query = sqlx::query("SELECT identity, claimed FROM roots WHERE storage_class = ?1");
        let row = query.bind(class_number(class)).fetch_optional(&self.writer).await;
        row.and_then(|row| row.as_ref().map(root_row).transpose())
            .map_err(DatabaseError::of("read what a root is"))
    }

    pub(super) async fn put_root(&self, class: StorageClass, row: RootRow) -> Result<RootRow, DatabaseError> {
        let query = sqlx::query(
            "INSERT INTO roots (storage_class, identity, claimed) VALUES (?1, ?2, ?3)
             ON CONFLICT (storage_class) DO UPDATE SET claimed = max(claimed, excluded.claimed)
             RETURNING identity, claimed",
        )
        .bind(class_number(class))
        .bind(&row.identity.as_bytes()[..])
        .bind(row.claimed);
        let row = query.fetch_one(&self.writer).await;
        row.and_then(|row| root_row(&row)).map_err(DatabaseError::of("note what a root is"))
    }

    pub(super) async fn begin_instance(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, DatabaseError> {
        let begin = async |transaction: &mut SqliteTransaction<'_>| {
            let insert = sqlx::query("INSERT INTO instances (id, started_at) VALUES (?1, ?2)");
            insert.bind(instance.to_i64()).bind(now.as_millis()).execute(&mut **transaction).await?;
            let end = sqlx::query("UPDATE instances SET ended = 1 WHERE id <> ?1");
            end.bind(instance.to_i64()).execute(&mut **transaction).await?;
            let clear = sqlx::query("DELETE FROM objects WHERE status = 0");
            Ok(clear.execute(&mut **transaction).await?.rows_affected())
        };
        self.in_transaction(async |transaction| {
            begin(transaction).await.map_err(DatabaseError::of("note the start of the server"))
        })
        .await
    }

    pub(super) async fn dead_instances(&self) -> Result<Vec<InstanceId>, DatabaseError> {
        let rows = sqlx::query("SELECT id FROM instances WHERE ended = 1").fetch_all(&self.readers).await;
        let decode =
            |rows: Vec<SqliteRow>| rows.iter().map(|row| column(row, 0).map(InstanceId::from_i64)).collect();
        rows.and_then(decode).map_err(DatabaseError::of("read the instances"))
    }

    pub(super) async fn forget_instances(&self, instances: &[InstanceId]) -> Result<(), DatabaseError> {
        let ids: Vec<_> = instances.iter().map(|instance| instance.to_i64()).collect();
        let query = sqlx::query("DELETE FROM instances WHERE id IN (SELECT value FROM json_each(?1))");
        let forgotten = query.bind(json!(ids).to_string()).execute(&self.writer).await;
        forgotten.map(|_| ()).map_err(DatabaseError::of("forget swept instances"))
    }

    pub(super) async fn unnamed_files(&self, files: &[BlobFile]) -> Result<Vec<BlobFile>, DatabaseError> {
        let keys =
            files.iter().map(|file| json!([file.content_hash.to_string(), class_number(file.storage_class)]));
        let keys = Value::Array(keys.collect()).to_string();
        let rows = sqlx::query(queries::PLACES_NAMED).bind(keys).fetch_all(&self.readers).await;
        let named =
            rows.and_then(|rows| rows.iter().map(blob_location).collect::<sqlx::Result<HashSet<_>>>());
        let named = named.map_err(DatabaseError::of("look for the places that are named"))?;
        Ok(files.iter().filter(|file| !named.contains(file)).copied().collect())
    }

    pub(super) async fn ticks(&self) -> Result<u64, DatabaseError> {
        let row = sqlx::query(queries::TICKS).fetch_one(&self.readers).await;
        let ticks = row.and_then(|row| column::<i64>(&row, 0));
        ticks.map(i64::cast_unsigned).map_err(DatabaseError::of("read the clock"))
    }

    pub(super) async fn store_ticks(&self, tick: u64) -> Result<(), DatabaseError> {
        self.in_transaction(async |transaction| {
            let query = sqlx::query(queries::SET_CLOCK).bind(tick.cast_signed());
            let stored = query.execute(&mut **transaction).await;
            stored.map(|_| ()).map_err(DatabaseError::of("store the clock"))
        })
        .await
    }

    pub(super) async fn collect(
        &self,
        tick: u64,
        grace: u64,
        batch: u32,
    ) -> Result<Collected, DatabaseError> {
        let collect = async |transaction: &mut SqliteTransaction<'_>| {
            let clock = sqlx::query(queries::SET_CLOCK);
            clock.bind(tick.cast_signed()).execute(&mut **transaction).await?;
            // Before the grace period has passed for the first time, nothing can be over it.
            let Some(before) = tick.checked_sub(grace) else { return Ok(Collected::default()) };
            let (before, batch) = (before.cast_signed(), i64::from(batch));
            let mut counts = [0; 4];
            let statements = [
                queries::MOVE_TO_GARBAGE,
                queries::FORGET_BLOBS,
                queries::PURGE_OBJECTS,
                queries::FORGET_LEASES,
            ];
            for (count, statement) in counts.iter_mut().zip(statements) {
                let query = sqlx::query(statement).bind(before).bind(batch);
                *count = query.execute(&mut **transaction).await?.rows_affected();
            }
            if counts[0] != counts[1] {
                crate::invariant::broken("what becomes garbage is what stops being a blob");
            }
            Ok(Collected { blobs: counts[0], objects: counts[2], leases: counts[3] })
        };
        self.in_transaction(async |transaction| {
            collect(transaction).await.map_err(DatabaseError::of("collect garbage"))
        })
        .await
    }

    pub(super) async fn garbage(
        &self,
        limit: u32,
        abandoned_holds: &[HoldId],
    ) -> Result<Vec<Garbage>, DatabaseError> {
        let query =
            sqlx::query(queries::GARBAGE).bind(i64::from(limit)).bind(json!(abandoned_holds).to_string());
        let rows = query.fetch_all(&self.readers).await;
        let decode = |row: &SqliteRow| {
            Ok(Garbage { file: blob_location(row)?, size_bytes: column::<i64>(row, 3)?.cast_unsigned() })
        };
        let garbage = rows.and_then(|rows| rows.iter().map(decode).collect());
        garbage.map_err(DatabaseError::of("read the garbage"))
    }

    pub(super) async fn forget_garbage(&self, removed: &[Garbage]) -> Result<(), DatabaseError> {
        let keys = removed.iter().map(|garbage| {
            let BlobLocation { content_hash, storage_class, place } = garbage.file;
            json!([content_hash.to_string(), class_number(storage_class), place.to_string()])
        });
        let query = sqlx::query(queries::FORGET_GARBAGE).bind(Value::Array(keys.collect()).to_string());
        let packs = packs_json(&freed_of_packs(removed));
        self.in_transaction(async |transaction| {
            let forget = async {
                query.execute(&mut **transaction).await?;
                sqlx::query(queries::PUT_PACKS).bind(packs).execute(&mut **transaction).await
            };
            forget.await.map(|_| ()).map_err(DatabaseError::of("forget removed garbage"))
        })
        .await
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// What the database holds of all that `writes` touch.
async fn load(transaction: &mut SqliteTransaction<'_>, writes: &[Write]) -> sqlx::Result<Held> {
    let mut touched = Touched::by(writes);
    let mut held = Held::default();
    if !touched.ids.is_empty() {
        let query = sqlx::query(queries::HELD_BY_ID).bind(ids_json(touched.ids.iter()));
        held.objects = held_objects(&query.fetch_all(&mut **transaction).await?)?;
        touched.add_objects(&held.objects);
    }
    for (keys, limit) in version_queries(&touched.keys) {
        let bind = |values: &mut Values, key: &&KeyPath| bind_key(values, key);
        let rows =
            fetch(transaction, &queries::HELD_VERSIONS, &keys, bind, |values| values.add(limit)).await?;
        held.objects.extend(held_objects(&rows)?);
    }
    touched.add_blobs(&held.objects);
    let keys: Vec<_> = touched.blobs.into_iter().collect();
    for row in fetch(transaction, &queries::HELD_BLOBS, &keys, bind_blob_key, |_| ()).await? {
        let key = (content_hash(&row, 0)?, storage_class(&row, 1)?);
        let blob = HeldBlob {
            size_bytes: column::<i64>(&row, 2)?.cast_unsigned(),
            ref_count: column::<i64>(&row, 3)?.cast_unsigned(),
            place: place(&row, 4)?,
            damaged: column(&row, 5)?,
            first_object: column::<i64>(&row, 6)?.cast_unsigned(),
        };
        held.blobs.insert(key, blob);
    }
    Ok(held)
}

/// The keys of which only the newest versions matter, with the largest number that any of them needs; and the keys
/// of which all do.
fn version_queries(keys: &BTreeMap<KeyPath, VersionCount>) -> [(Vec<&KeyPath>, i64); 2] {
    let (mut newest, mut all, mut limit) = (Vec::new(), Vec::new(), 0);
    for (path, count) in keys {
        match count {
            VersionCount::AtMost(count) => {
                newest.push(path);
                limit = limit.max(i64::try_from(*count).unwrap_or(i64::MAX));
            }
            VersionCount::All => all.push(path),
        }
    }
    [(newest, limit), (all, -1)]
}

/// Stores what a batch changes.
pub(super) async fn store(
    transaction: &mut SqliteTransaction<'_>,
    changes: &Changes,
    context: BatchContext,
) -> sqlx::Result<()> {
    if changes.check {
        // A row that may be written at any time.
        let query = sqlx::query(queries::SET_CLOCK).bind(context.tick.cast_signed());
        query.execute(&mut **transaction).await?;
    }
    if !changes.abandon.is_empty() {
        let query = sqlx::query(queries::ABANDON_OBJECTS).bind(ids_json(changes.abandon.iter()));
        query.execute(&mut **transaction).await?;
    }
    if !changes.delete.is_empty() {
        let query = sqlx::query(queries::DELETE_OBJECTS)
            .bind(ids_json(changes.delete.iter()))
            .bind(context.now.as_millis())
            .bind(context.tick.cast_signed());
        query.execute(&mut **transaction).await?;
    }
    let mut objects = ObjectRows::beside(&changes.first_objects);
    let bind = |values: &mut Values, row: &_| objects.bind(values, row, context);
    execute(transaction, &queries::PUT_OBJECTS, &changes.put, bind).await?;
    let bind = |values: &mut Values, row: &_| bind_blob(values, row, context);
    execute(transaction, &queries::PUT_BLOBS, &changes.blobs, bind).await?;
    if !changes.usage.is_empty() {
        let query = sqlx::query(queries::PUT_USAGE).bind(usage_json(&changes.usage));
        query.execute(&mut **transaction).await?;
    }
    if !changes.packs.is_empty() {
        let query = sqlx::query(queries::PUT_PACKS).bind(packs_json(&changes.packs));
        query.execute(&mut **transaction).await?;
    }
    if let Some(sequence) = changes.applied_sequence {
        let query = sqlx::query(queries::SET_APPLIED_SEQUENCE).bind(sequence.cast_signed());
        query.execute(&mut **transaction).await?;
    }
    if !changes.garbage.is_empty() {
        let rows = changes.garbage.iter().map(|garbage| {
            let BlobLocation { content_hash, storage_class, place } = garbage.file;
            json!([
                content_hash.to_string(),
                class_number(storage_class),
                place.to_string(),
                garbage.size_bytes
            ])
        });
        let query = sqlx::query(queries::PUT_GARBAGE).bind(Value::Array(rows.collect()).to_string());
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Finds out which of the copies that commits and moves would share are lost or of another length.
async fn mark_lost_copies(held: &mut Held, writes: &[Write], roots: &Roots) {
    let shared = writes.iter().filter_map(|write| {
        let location = match write {
            // A reference has no other copy to offer.
            Write::Commit(commit) if commit.is_reference => return None,
            Write::Commit(commit) => commit.stored.location(),
            Write::Update(update) => update.copy_location()?,
            _ => return None,
        };
        let blob = held.blobs.get(&(location.content_hash, location.storage_class))?;
        let kept = BlobLocation { place: blob.place, ..location };
        (blob.place != location.place && !blob.damaged).then_some((kept, blob.size_bytes))
    });
    let shared: Vec<_> = shared.collect();
    if shared.is_empty() {
        return;
    }
    let roots = roots.clone();
    let look = move || {
        let is_lost = |(location, size_bytes): &(BlobLocation, u64)| {
            let length = blob_length(roots.of(location.storage_class), location);
            // What cannot be looked at now is left as it is.
            length.is_ok_and(|length| length != Some(*size_bytes))
        };
        shared.into_iter().filter(is_lost).map(|(location, _)| location).collect::<Vec<_>>()
    };
    let looked = tokio::time::timeout(COPY_LOOK_LIMIT, tokio::task::spawn_blocking(look)).await;
    for lost in looked.ok().and_then(Result::ok).unwrap_or_default() {
        tracing::error!(hash = %lost.content_hash, "a stored blob is damaged; its content has just come again");
        if let Some(blob) = held.blobs.get_mut(&(lost.content_hash, lost.storage_class)) {
            blob.damaged = true;
        }
    }
}

pub(super) fn ids_json<'a>(ids: impl Iterator<Item = &'a ObjectId>) -> String {
    Value::Array(ids.map(|id| Value::String(id_hex(id))).collect()).to_string()
}

fn id_hex(id: &ObjectId) -> String {
    uuid::Uuid::from_bytes(*id.as_bytes()).simple().to_string()
}

#[cfg(test)]
mod tests;
