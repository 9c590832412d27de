//! Brings the schema of a PostgreSQL database up to date at the start of a server, while others start, run, or are backed
//! up on it. It waits for what others hold, says whom it waits for, and not for ever.
//!
//! ```text
//! connect ─► run ─► done
//!    ▲        │ another server has just made the same thing
//!    └─ pause ┤
//!             │ no lock within LOCK_TIMEOUT_MS: gives way to those behind it, and tries again
//!             └ for PATIENCE: the start fails, and names who holds what it needs
//! ```

use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::{sleep, timeout};

use super::errors::{DatabaseError, LocksHeld, is_lock_timeout, is_race, silence};
use super::postgres_rows::column;

/// How long a migration waits for one lock. Whoever asks for the same lock behind it, such as a batch of a running server,
/// waits too; so it gives way after that, and asks again.
const LOCK_TIMEOUT_MS: &str = "2000";
/// For how long it is tried, while others hold what it needs. What it takes to do its work does not count: who holds it up
/// may be another server that brings a large database up to date.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is tried where what it makes is there already. Another server may just have made it; so many times in a
/// row, it is somebody else's.
const RACES_MAX: u32 = 20;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether it waits for somebody.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long that may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two words about it.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Who makes a session wait, those that hold on for longest first.
const HOLDERS: &str = "
    SELECT concat_ws(' ', 'session', pid, '(' || concat_ws(', ', nullif(application_name, ''), usename, state) || ')',
                     'for ' || extract(epoch FROM now() - coalesce(xact_start, query_start))::bigint || ' s')
    FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1)) ORDER BY xact_start LIMIT 4";

/// Brings the database up to date.
pub(super) async fn migrate(
    migrator: &Migrator,
    options: &PgConnectOptions,
    connect_timeout: Duration,
    patience: Duration,
) -> Result<(), DatabaseError> {
    let options = options.clone().options([("lock_timeout", LOCK_TIMEOUT_MS)]);
    let failed = || DatabaseError::of("migrate the database");
    let mut watch = Watch { options: &options, connection: None, holders: String::new(), told: None };
    let (mut waited, mut races) = (Duration::ZERO, 0);
    loop {
        let connection = timeout(connect_timeout, options.connect()).await;
        let mut connection = connection.unwrap_or_else(|_| Err(silence())).map_err(failed())?;
        let pid = sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut connection).await;
        let pid = pid.and_then(|row| column(&row, 0)).map_err(failed())?;
        if waited.is_zero() {
            tell_what_is_due(migrator, &mut connection).await;
        }
        let begun = Instant::now();
        match run(migrator, &mut connection, pid, (&mut watch, waited)).await {
            Ok(()) => {
                // Nothing is open on it; the database ends it by itself if the word does not arrive.
                let _ = connection.close().await;
                return Ok(());
            }
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if is_lock_timeout(&error) =>
            {
                if waited + begun.elapsed() >= patience {
                    return Err(failed()(LocksHeld::into_database_error(watch.holders, error)));
                }
            }
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if is_race_of_migrations(&error) && races < RACES_MAX =>
            {
                tracing::debug!(%error, "another server migrates the database");
                races += 1;
            }
            Err(error) => return Err(failed()(error.into())),
        }
        sleep(PAUSE).await;
        waited += begun.elapsed();
    }
}

/// One try, which is watched meanwhile.
async fn run(
    migrator: &Migrator,
    connection: &mut PgConnection,
    pid: i32,
    (watch, waited): (&mut Watch<'_>, Duration),
) -> Result<(), MigrateError> {
    let begun = Instant::now();
    // Larger than what else waits here, and done once.
    let mut migrating = Box::pin(migrator.run(connection));
    loop {
        tokio::select! {
            migrated = &mut migrating => return migrated,
            () = sleep(LOOK_INTERVAL) => watch.look(pid, waited + begun.elapsed()).await,
        }
    }
}

/// A large table may take its time, which nobody should have to wonder about.
async fn tell_what_is_due(migrator: &Migrator, connection: &mut PgConnection) {
    let row = sqlx::query("SELECT count(*) FROM _sqlx_migrations").fetch_one(connection).await;
    let had = row.and_then(|row| column::<i64>(&row, 0));
    let known = migrator.iter().count();
    // Where there is no such table, the database is new.
    if let Some(had) = had.ok().and_then(|had| usize::try_from(had).ok())
        && had < known
    {
        let due = known - had;
        tracing::info!(due, "bringing the schema of the database up to date");
    }
}

/// Looks whom a migration waits for.
struct Watch<'o> {
    options: &'o PgConnectOptions,
    connection: Option<PgConnection>,
    /// Those who were last seen to hold what it needs.
    holders: String,
    told: Option<Instant>,
}

impl Watch<'_> {
    async fn look(&mut self, pid: i32, waited: Duration) {
        match timeout(LOOK_TIMEOUT, self.holders_of(pid)).await {
            Ok(Ok(holders)) if !holders.is_empty() => self.holders = holders.join("; "),
            Ok(Ok(_)) => return,
            // Who speaks PostgreSQL's protocol need not have its views.
            Ok(Err(error)) => {
                return tracing::debug!(%error, "it cannot be seen whom the migration waits for");
            }
            // What was asked on it may be answered some time.
            Err(_) => return self.connection = None,
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            self.told = Some(Instant::now());
            let (holders, waited_secs) = (&self.holders, waited.as_secs());
            tracing::warn!(waited_secs, holders, "the migration of the database waits for what others hold");
        }
    }

    async fn holders_of(&mut self, pid: i32) -> sqlx::Result<Vec<String>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let rows = sqlx::query(HOLDERS).bind(pid).fetch_all(&mut connection).await?;
        self.connection = Some(connection);
        rows.iter().map(|row| column(row, 0)).collect()
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>: somebody else has just made the same thing.
fn is_race_of_migrations(error: &sqlx::Error) -> bool {
    const DUPLICATE_TABLE: &str = "42P07";
    const DUPLICATE_COLUMN: &str = "42701";
    const DUPLICATE_OBJECT: &str = "42710";
    let code = error.as_database_error().and_then(|error| error.code());
    is_race(error) || matches!(code.as_deref(), Some(DUPLICATE_TABLE | DUPLICATE_COLUMN | DUPLICATE_OBJECT))
}
