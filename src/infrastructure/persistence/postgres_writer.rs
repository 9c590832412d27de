//! The one connection on which a server changes the metadata in PostgreSQL: each batch is a SERIALIZABLE transaction,
//! tried again where another server's came between, and asked after where its end was lost on the way.
//!
//! ```text
//! BEGIN ─► sequences, tick, transaction id ─► load ─► store ─► COMMIT ─► outcomes
//!   ▲                                                          │ connection lost
//!   └─ once more ◄─ raced (40001, 40P01, 23505), not committed ◄─ ask ─► committed: outcomes
//! ```

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::batch::{self, Applied, BatchContext, Changes, Held, Touched};
use super::database::DatabaseSettings;
use super::errors::{DatabaseError, NameTaken, Unsettled, is_race, says_unknown_transaction, silence};
use super::postgres_queries as queries;
use super::postgres_rows::{
    bind_blob_keys, bind_blobs, bind_garbage_rows, bind_ids, bind_keys, bind_objects,
};
use super::postgres_rows::{held_blobs, held_objects};
use super::postgres_tenants::{bind_usage, load_quotas, quotas};
use crate::domain::entities::Quota;
use crate::domain::value_objects::{InstanceId, TenantId};
use crate::infrastructure::plane_channel::Write;

/// How often a batch is tried. One that is alone has nobody to race with, so this many in a row means that something
/// else is wrong.
const TRIES_MAX: u32 = 16;
/// After so many tries a batch waits until it is alone. Without that, one that takes longer than the others' could
/// lose against the next of them each time.
const TRIES_BESIDE_OTHERS_MAX: u32 = 3;
/// The longest pause before the second try; it doubles each time.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// The longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// For how long the outcome of a commit whose answer was lost is asked for.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two such questions.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// The connection that writes.
pub(super) struct PostgresWriter {
    options: PgConnectOptions,
    connect_timeout: Duration,
    /// How long a transaction may take, or its COMMIT be without an answer, before the connection counts as lost.
    answer_timeout: Duration,
    /// Kept from batch to batch. It is dropped after any error that leaves its state in doubt.
    kept: Mutex<Option<PgConnection>>,
}

/// A transaction that waits for its COMMIT.
struct Prepared {
    applied: Applied,
    trace: Trace,
}

/// Whether other servers' batches run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Beside,
    Alone,
}

impl Company {
    fn of_try(number: u32) -> Self {
        if number > TRIES_BESIDE_OTHERS_MAX { Self::Alone } else { Self::Beside }
    }

    fn begin_statement(self) -> &'static str {
        match self {
            Self::Beside => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            // Every batch changes a row of this table first, so that this waits for those that run, before it looks
            // at anything, and holds back those that come.
            Self::Alone => "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE instances IN EXCLUSIVE MODE",
        }
    }
}

/// What came of one try.
enum Try {
    Done(Applied),
    /// Nothing has happened, and the same may work now.
    Again(DatabaseError),
}

/// What a transaction is recognised by afterwards.
#[derive(Debug)]
struct Trace {
    instance: InstanceId,
    /// PostgreSQL's name for it: good for asking whether it still runs. What has become of it is not to be told from
    /// that name alone: after a crash of the database it may be given to another.
    transaction_id: String,
    /// Stands in the instance's row if, and only if, it has committed.
    sequence: i64,
}

/// What became of a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Committed,
    NotCommitted,
    Unknown,
}

impl PostgresWriter {
    pub(super) fn new(options: PgConnectOptions, settings: DatabaseSettings) -> Self {
        let (connect_timeout, answer_timeout) = (settings.acquire_timeout, settings.answer_timeout);
        Self { options, connect_timeout, answer_timeout, kept: Mutex::new(None) }
    }

    /// Applies a batch in one transaction. `next_sequence` becomes what the database gives the batch.
    pub(super) async fn apply(
        &self,
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Applied, DatabaseError> {
        let mut kept = self.kept.lock().await;
        let mut tries = 1;
        loop {
            let company = Company::of_try(tries);
            let tried = self.try_to_apply((&mut kept, company), writes, next_sequence, context).await;
            match tried {
                Ok(Try::Done(applied)) => return Ok(applied),
                Ok(Try::Again(error)) if tries < TRIES_MAX => {
                    tracing::debug!(tries, error = %error.source, "a batch is tried again");
                    sleep(pause_after(tries)).await;
                    tries += 1;
                }
                Ok(Try::Again(error)) | Err(error) => return Err(error),
            }
        }
    }

    /// The limits and the usage of every tenant that has limits, as they are between two batches of this server.
    pub(super) async fn quotas(&self) -> sqlx::Result<Vec<(TenantId, Quota)>> {
        let mut kept = self.kept.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let rows = timeout(self.answer_timeout, sqlx::query(queries::QUOTAS).fetch_all(&mut connection));
        let quotas = quotas(&rows.await.unwrap_or_else(|_| Err(silence()))?)?;
        *kept = Some(connection);
        Ok(quotas)
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.kept.lock().await.take() {
            // Nothing is open on it; the database ends it by itself if the word does not arrive.
            let _ = connection.close().await;
        }
    }

    async fn try_to_apply(
        &self,
        (kept, company): (&mut Option<PgConnection>, Company),
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Try, DatabaseError> {
        let begin = self.begin(kept.take(), company).await;
        let mut connection = begin.map_err(DatabaseError::of("begin a transaction"))?;
        let prepared = timeout(self.answer_timeout, prepare(&mut connection, writes, next_sequence, context));
        let Prepared { applied, trace } = match prepared
            .await
            .unwrap_or_else(|_| Err(DatabaseError::of("prepare a transaction")(silence())))
        {
            Ok(prepared) => prepared,
            Err(error) if is_race(&error.source) => {
                if self.execute(&mut connection, "ROLLBACK").await.is_ok() {
                    *kept = Some(connection);
                }
                return Ok(Try::Again(error));
            }
            Err(error) => return Err(error),
        };
        match self.execute(&mut connection, "COMMIT").await {
            Ok(()) => {
                *kept = Some(connection);
                Ok(Try::Done(applied))
            }
            // That is an answer: the transaction has ended, and nothing has happened.
            Err(error) if is_race(&error) => {
                *kept = Some(connection);
                Ok(Try::Again(DatabaseError::of("commit a transaction")(error)))
            }
            Err(error) => {
                drop(connection);
                let failed = DatabaseError::of("commit a transaction");
                match self.settle(&trace).await {
                    Settled::Committed => Ok(Try::Done(applied)),
                    Settled::NotCommitted => Ok(Try::Again(failed(error))),
                    Settled::Unknown => Err(failed(Unsettled::after(error))),
                }
            }
        }
    }

    /// Begins on the kept connection, or on a new one: a kept one may have died since, and nothing was asked of it.
    async fn begin(&self, kept: Option<PgConnection>, company: Company) -> sqlx::Result<PgConnection> {
        let begin = company.begin_statement();
        if let Some(mut connection) = kept
            && self.execute(&mut connection, begin).await.is_ok()
        {
            return Ok(connection);
        }
        let mut connection = self.connect().await?;
        self.execute(&mut connection, begin).await?;
        Ok(connection)
    }

    async fn execute(&self, connection: &mut PgConnection, statement: &'static str) -> sqlx::Result<()> {
        let executed = timeout(self.answer_timeout, sqlx::raw_sql(statement).execute(connection)).await;
        executed.unwrap_or_else(|_| Err(silence())).map(|_| ())
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        timeout(self.connect_timeout, self.options.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Finds out what became of a commit whose answer was lost.
    async fn settle(&self, trace: &Trace) -> Settled {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while Instant::now() < deadline {
            match timeout(SETTLE_TIMEOUT, self.ask(trace)).await {
                Ok(Ok(Some(settled))) => {
                    tracing::warn!(transaction = trace.transaction_id, ?settled, "a lost commit was settled");
                    return settled;
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the outcome of a lost commit cannot be asked for yet")
                }
                Err(_) => break,
            }
            sleep(SETTLE_PAUSE).await;
        }
        Settled::Unknown
    }

    /// `None` while the transaction still runs: the database may not have seen yet that its client is gone.
    async fn ask(&self, trace: &Trace) -> sqlx::Result<Option<Settled>> {
        let mut connection = self.connect().await?;
        let status = sqlx::query(queries::TRANSACTION_STATUS).bind(&trace.transaction_id);
        match status.fetch_one(&mut connection).await {
            Ok(row) if row.try_get::<Option<&str>, _>(0)? == Some("in progress") => return Ok(None),
            Ok(_) => {}
            // The database has crashed and knows nothing of it: then it does not run either.
            Err(error) if says_unknown_transaction(&error) => {}
            Err(error) => return Err(error),
        }
        let last = sqlx::query(queries::LAST_SEQUENCE).bind(trace.instance.to_i64());
        let last = last.fetch_optional(&mut connection).await?;
        let last = last.map(|row| row.try_get::<i64, _>(0)).transpose()?;
        Ok(Some(match last {
            Some(last) if last == trace.sequence => Settled::Committed,
            Some(_) => Settled::NotCommitted,
            // Another server goes by this one's name and has swept what this one left.
            None => Settled::Unknown,
        }))
    }
}

/// Any time up to a limit, which doubles with each try.
fn pause_after(tries: u32) -> Duration {
    let longest = PAUSE_FIRST.saturating_mul(1 << (tries - 1).min(16)).min(PAUSE_MAX);
    let [random, ..] = *uuid::Uuid::new_v4().as_bytes();
    longest.mul_f64(f64::from(random) / 256.0)
}

/// Everything of a batch but its COMMIT.
async fn prepare(
    connection: &mut PgConnection,
    writes: &[Write],
    next_sequence: &mut u64,
    mut context: BatchContext,
) -> Result<Prepared, DatabaseError> {
    let (trace, tick) =
        take_sequences(connection, context).await.map_err(DatabaseError::of("take sequences for a batch"))?;
    context.tick = tick;
    *next_sequence = trace.sequence.cast_unsigned();
    let held = load(connection, writes).await.map_err(DatabaseError::of("load what a batch touches"))?;
    let (outcomes, changes) = batch::apply(writes, held, next_sequence, context.now);
    let stored = store(connection, &changes, context).await;
    stored.map_err(DatabaseError::of("store what a batch changes"))?;
    let applied = Applied { outcomes, usage: changes.usage };
    Ok(Prepared { applied, trace })
}

/// Takes a block of sequences, a tick, and what the transaction will be known by. As the first statement it has the
/// snapshot of all the others: whoever's commit they see had its sequences before.
async fn take_sequences(connection: &mut PgConnection, context: BatchContext) -> sqlx::Result<(Trace, u64)> {
    let query =
        sqlx::query(queries::BEGIN_BATCH).bind(context.writer.to_i64()).bind(context.tick.cast_signed());
    let row = query.fetch_optional(connection).await?.ok_or_else(NameTaken::into_database_error)?;
    let trace =
        Trace { instance: context.writer, sequence: row.try_get(0)?, transaction_id: row.try_get(2)? };
    Ok((trace, row.try_get::<i64, _>(1)?.cast_unsigned()))
}

/// What the database holds of all that `writes` touch: four statements at most.
async fn load(connection: &mut PgConnection, writes: &[Write]) -> sqlx::Result<Held> {
    let mut touched = Touched::by(writes);
    let mut held = Held::default();
    if !touched.ids.is_empty() {
        let query = bind_ids(sqlx::query(queries::HELD_BY_ID), touched.ids.iter());
        held.objects = held_objects(&query.fetch_all(&mut *connection).await?)?;
        touched.add_objects(&held.objects);
    }
    if !touched.keys.is_empty() {
        let query = bind_keys(sqlx::query(queries::HELD_VERSIONS), &touched.keys);
        held.objects.extend(held_objects(&query.fetch_all(&mut *connection).await?)?);
    }
    touched.add_blobs(&held.objects);
    if !touched.blobs.is_empty() {
        // Locked in order, so that two servers wait for each other instead of blocking each other.
        let query = bind_blob_keys(sqlx::query(queries::HELD_BLOBS), touched.blobs.iter().copied());
        held.blobs = held_blobs(&query.fetch_all(&mut *connection).await?)?;
    }
    held.quotas = load_quotas(connection, writes).await?;
    Ok(held)
}

/// Stores what a batch changes: six statements at most.
pub(super) async fn store(
    connection: &mut PgConnection,
    changes: &Changes,
    context: BatchContext,
) -> sqlx::Result<()> {
    if !changes.abandon.is_empty() {
        let query = bind_ids(sqlx::query(queries::ABANDON_OBJECTS), changes.abandon.iter());
        query.execute(&mut *connection).await?;
    }
    if !changes.delete.is_empty() {
        let query = bind_ids(sqlx::query(queries::DELETE_OBJECTS), changes.delete.iter())
            .bind(context.now.as_millis())
            .bind(context.tick.cast_signed());
        query.execute(&mut *connection).await?;
    }
    if !changes.put.is_empty() {
        let query = sqlx::query(queries::PUT_OBJECTS);
        let query = bind_objects(query, &changes.put, &changes.first_objects, context);
        query.execute(&mut *connection).await?;
    }
    if !changes.blobs.is_empty() {
        let query = bind_blobs(sqlx::query(queries::PUT_BLOBS), &changes.blobs, context);
        query.execute(&mut *connection).await?;
    }
    if !changes.usage.is_empty() {
        let query = bind_usage(sqlx::query(queries::PUT_USAGE), &changes.usage, context.writer);
        query.execute(&mut *connection).await?;
    }
    if !changes.garbage.is_empty() {
        let query = bind_garbage_rows(sqlx::query(queries::PUT_GARBAGE), &changes.garbage);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
