//! Which database, and how to reach it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

use super::batch::{Applied, BatchContext, LogContext, PackChange};
use super::census::CountedObjects;
use super::collector::{Collected, Garbage};
use super::contents::LeaseTerm;
use super::errors::DatabaseError;
use super::holds::HoldId;
use super::postgres::PostgresDatabase;
use super::sqlite::SqliteDatabase;
use crate::application::key_listing::{KeyPage, KeyQuery, VersionQuery};
use crate::application::ports::{ListPage, ListQuery, ObjectName};
use crate::domain::entities::{BlobLocation, KeyPath, Object, Reach, StoredContent, StoredObject};
use crate::domain::value_objects::{ContentHash, InstanceId, PackId, Place, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::Write;
use crate::infrastructure::storage::{BlobFile, KnownEnds, KnownLog, RootIdentity, Roots};

/// Where the metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file of this server alone.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which other servers may share.
    Postgres(PostgresUrl),
}

/// How a PostgreSQL database is reached. Its password is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        PgConnectOptions::from_str(text).map_err(DatabaseUrlError::Postgres)?;
        Ok(Self(text.into()))
    }

    pub(super) fn options(&self) -> Result<PgConnectOptions, DatabaseError> {
        PgConnectOptions::from_str(&self.0).map_err(DatabaseError::of("read the database's URL"))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(options) = self.options() else { return formatter.write_str("postgres://…") };
        let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
        write!(formatter, "postgres://{user}@{host}:{port}/{}", options.get_database().unwrap_or(user))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A database that cannot be used.
#[derive(Debug, Error)]
pub enum DatabaseUrlError {
    /// Not one of the known schemes.
    #[error("a database is sqlite://PATH, postgres://… or postgresql://…")]
    Scheme,
    /// No file is named.
    #[error("sqlite:// is followed by the path of a file")]
    NoPath,
    /// Not a URL of PostgreSQL.
    #[error("postgres:// is followed by USER:PASSWORD@HOST:PORT/DATABASE ({0})")]
    Postgres(#[source] sqlx::Error),
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return PostgresUrl::parse(text).map(Self::Postgres);
        }
        let path = text.strip_prefix("sqlite://").ok_or(DatabaseUrlError::Scheme)?;
        // A server whose metadata is gone with its process would keep no promise.
        if path.is_empty() || path.starts_with(':') || path.contains('?') {
            return Err(DatabaseUrlError::NoPath);
        }
        Ok(Self::Sqlite(path.into()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite://{}", path.display()),
            Self::Postgres(url) => url.fmt(formatter),
        }
    }
}

impl DatabaseUrl {
    /// The file that it is, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// The default: a file in the data directory.
    pub fn in_directory(data_dir: &Path) -> Self {
        Self::Sqlite(data_dir.join("metadata.db"))
    }

    /// The directory that it is in, if it is in one.
    pub fn directory(&self) -> Option<&Path> {
        let parent = self.file()?.parent()?;
        Some(if parent == Path::new("") { Path::new(".") } else { parent })
    }

    /// Whether other servers may change what is in it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(_) => true,
        }
    }
}

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// How many connections read at once, at most.
    pub max_connections: u32,
    /// How many of them stay open.
    pub min_connections: u32,
    /// How long a query waits for one.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may take over a query, or over a transaction, before its connection counts as lost.
    pub answer_timeout: Duration,
    /// After how long without use one is closed.
    pub idle_timeout: Duration,
    /// After how long in all one is closed.
    pub max_lifetime: Duration,
}

impl DatabaseSettings {
    /// For tests: few connections, and no wait that a test would not notice.
    #[cfg(test)]
    pub(crate) const OF_TEST: Self = Self {
        max_connections: 2,
        min_connections: 1,
        acquire_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(60),
    };

    /// For a tool: few connections, and more time for an answer than a server has, since it goes through whole tables.
    pub(crate) const OF_TOOL: Self = Self {
        max_connections: 2,
        min_connections: 0,
        acquire_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(3600),
        idle_timeout: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(86_400),
    };
}

/// The database, whichever it is.
pub(crate) enum Database {
    Sqlite(SqliteDatabase),
    Postgres(Box<PostgresDatabase>),
}

/// What is known of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RootRow {
    pub(crate) identity: RootIdentity,
    /// Whether the root itself holds the identity too.
    pub(super) claimed: bool,
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) pack: PackId,
    pub(crate) storage_class: StorageClass,
    /// What blob rows and garbage name of it.
    pub(crate) live_bytes: u64,
    /// How far its log is in the database.
    pub(crate) applied_end: u64,
    /// The last change in it that is in the database.
    pub(crate) last_sequence: u64,
    /// Where its log ends, if it had to be given up.
    pub(crate) ended_at: Option<u64>,
}

impl Database {
    /// Opens it and brings its schema up to date.
    pub(crate) async fn open(url: &DatabaseUrl, settings: DatabaseSettings) -> Result<Self, DatabaseError> {
        match url {
            DatabaseUrl::Sqlite(path) => SqliteDatabase::open(path, settings).await.map(Self::Sqlite),
            DatabaseUrl::Postgres(url) => {
                PostgresDatabase::open(url.options()?, settings).await.map(Box::new).map(Self::Postgres)
            }
        }
    }

    /// Applies a batch in one transaction. `Err` means that none of it can be relied on.
    pub(super) async fn apply(
        &self,
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Applied, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.apply(writes, next_sequence, context).await,
            Self::Postgres(database) => database.apply(writes, next_sequence, context).await,
        }
    }

    /// Applies a batch of the log in one transaction.
    pub(super) async fn apply_logged(
        &self,
        writes: &[Write],
        log: &LogContext,
        context: BatchContext,
        roots: &Roots,
    ) -> Result<Applied, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.apply_logged(writes, log, context, roots).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// What is known of the packs.
    pub(crate) async fn packs(&self) -> Result<Vec<PackRow>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.packs().await,
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// Adds to what is known of packs.
    pub(super) async fn put_packs(&self, packs: &[PackChange]) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.put_packs(packs).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// Forgets a pack of which nothing is needed, after its file.
    pub(crate) async fn forget_pack(&self, pack: PackId) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.forget_pack(pack).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// Some keys that have a version, in their order behind `after`: at most `limit`, and none at the end.
    pub(super) async fn keys_after(
        &self,
        after: Option<&KeyPath>,
        limit: u32,
    ) -> Result<Vec<KeyPath>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.keys_after(after, limit).await,
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// The last change of the log that is in here.
    pub(crate) async fn applied_sequence(&self) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.applied_sequence().await,
            Self::Postgres(_) => Ok(0),
        }
    }

    /// Lets blobs be served from where they have been copied to, those that still are where they were: how many.
    pub(super) async fn move_blobs(&self, moves: &[(BlobLocation, Place)]) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.move_blobs(moves).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// Those of `locations` that a blob is served from.
    pub(super) async fn served_places(
        &self,
        locations: &[BlobLocation],
    ) -> Result<Vec<BlobLocation>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.served_places(locations).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// Writes a copy of the whole database to a new file.
    pub(super) async fn copy_to(&self, target: &Path) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.copy_to(target).await,
            Self::Postgres(_) => no_log(),
        }
    }

    /// What it knows of the log.
    pub(crate) async fn known_ends(&self) -> Result<KnownLog, DatabaseError> {
        let applied_sequence = self.applied_sequence().await?;
        let ends = |row: PackRow| (row.pack, KnownEnds { applied: row.applied_end, ended_at: row.ended_at });
        Ok(KnownLog { applied_sequence, packs: self.packs().await?.into_iter().map(ends).collect() })
    }

    pub(super) async fn find(&self, name: &ObjectName) -> Result<Option<StoredObject>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.find(name).await,
            Self::Postgres(database) => database.find(name).await,
        }
    }

    pub(super) async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<StoredObject>>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.find_each(names).await,
            Self::Postgres(database) => database.find_each(names).await,
        }
    }

    pub(super) async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.inspect(name).await,
            Self::Postgres(database) => database.inspect(name).await,
        }
    }

    /// Which of the contents the one tenant of `reach` has, and where. Those that an object names are leased to it.
    pub(super) async fn lease(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
        term: LeaseTerm,
    ) -> Result<Vec<StoredContent>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.lease(hashes, reach, term).await,
            Self::Postgres(database) => database.lease(hashes, reach, term).await,
        }
    }

    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.list(query).await,
            Self::Postgres(database) => database.list(query).await,
        }
    }

    pub(super) async fn list_keys(&self, query: &KeyQuery) -> Result<KeyPage, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.list_keys(query).await,
            Self::Postgres(database) => database.list_keys(query).await,
        }
    }

    pub(super) async fn list_versions(&self, query: &VersionQuery) -> Result<ListPage, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.list_versions(query).await,
            Self::Postgres(database) => database.list_versions(query).await,
        }
    }

    /// How many of the `limit` objects behind `after`, in the order of their commits, have what in common; none at the end.
    pub(super) async fn count_objects(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<CountedObjects>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.count_objects(after, limit).await,
            Self::Postgres(database) => database.count_objects(after, limit).await,
        }
    }

    /// Whether it answers.
    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.check().await,
            Self::Postgres(database) => database.check().await,
        }
    }

    /// The sequence that the next commit takes.
    pub(super) async fn next_sequence(&self) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.next_sequence().await,
            // Each batch is given its own.
            Self::Postgres(_) => Ok(0),
        }
    }

    pub(crate) async fn root(&self, class: StorageClass) -> Result<Option<RootRow>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.root(class).await,
            Self::Postgres(database) => database.root(class).await,
        }
    }

    /// Notes what a root is, and gives what stands there then: an identity that was noted first stays, and a claim
    /// that is complete stays complete.
    pub(super) async fn put_root(&self, class: StorageClass, row: RootRow) -> Result<RootRow, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.put_root(class, row).await,
            Self::Postgres(database) => database.put_root(class, row).await,
        }
    }

    /// Makes this instance known, and clears the reservations of dead ones: where servers share the database, of
    /// earlier ones of this node's name, which can commit nothing from now on.
    pub(super) async fn begin_instance(
        &self,
        instance: InstanceId,
        node: &str,
        now: Timestamp,
    ) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.begin_instance(instance, now).await,
            Self::Postgres(database) => database.begin_instance(instance, node, now).await,
        }
    }

    /// Ended instances whose leftovers have not been swept: where servers share the database, those of this node's name.
    pub(super) async fn dead_instances(&self, node: &str) -> Result<Vec<InstanceId>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.dead_instances().await,
            Self::Postgres(database) => database.dead_instances(node).await,
        }
    }

    /// Forgets instances whose leftovers are gone.
    pub(super) async fn forget_instances(&self, instances: &[InstanceId]) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.forget_instances(instances).await,
            Self::Postgres(database) => database.forget_instances(instances).await,
        }
    }

    /// Says that this instance lives, and asks how often tools have changed something that caches must not outlive.
    /// `None` if the name of its node belongs to another one.
    pub(super) async fn heartbeat(
        &self,
        instance: InstanceId,
        node: &str,
    ) -> Result<Option<u64>, DatabaseError> {
        match self {
            // The data directory's lock keeps others away.
            Self::Sqlite(database) => database.outside_changes().await.map(Some),
            Self::Postgres(database) => database.heartbeat(instance, node).await,
        }
    }

    /// Those of `files` that no row names, neither as serving nor as garbage.
    pub(crate) async fn unnamed_files(&self, files: &[BlobFile]) -> Result<Vec<BlobFile>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.unnamed_files(files).await,
            Self::Postgres(database) => database.unnamed_files(files).await,
        }
    }

    /// The database's own clock as it was last stored, in milliseconds.
    pub(crate) async fn ticks(&self) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.ticks().await,
            Self::Postgres(database) => database.ticks().await,
        }
    }

    /// Stores how far the database's own clock is.
    pub(super) async fn store_ticks(&self, tick: u64) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.store_ticks(tick).await,
            Self::Postgres(database) => database.store_ticks(tick).await,
        }
    }

    /// In one transaction: stores the clock, and turns at most `batch` blobs that nothing has referred to for `grace`
    /// ticks into garbage; rows of objects forgotten as long ago go too.
    pub(super) async fn collect(
        &self,
        tick: u64,
        grace: u64,
        batch: u32,
    ) -> Result<Collected, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.collect(tick, grace, batch).await,
            Self::Postgres(database) => database.collect(tick, grace, batch).await,
        }
    }

    /// At most `limit` places whose bytes are to be removed: none while there is a hold that is not abandoned.
    pub(super) async fn garbage(
        &self,
        limit: u32,
        abandoned_holds: &[HoldId],
    ) -> Result<Vec<Garbage>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.garbage(limit, abandoned_holds).await,
            Self::Postgres(database) => database.garbage(limit, abandoned_holds).await,
        }
    }

    /// Forgets garbage whose bytes are gone.
    pub(super) async fn forget_garbage(&self, removed: &[Garbage]) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.forget_garbage(removed).await,
            Self::Postgres(database) => database.forget_garbage(removed).await,
        }
    }

    /// Writes everything to its main file and closes.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close().await,
        }
    }
}

/// Where other servers read the database, it is the point of durability, and nothing is applied later.
fn no_log() -> ! {
    crate::invariant::broken("a log is applied to SQLite alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_database_or_say_why_not() {
        for path in ["/data/m.db", "data/m.db"] {
            let url: DatabaseUrl = format!("sqlite://{path}").parse().unwrap();
            assert_eq!(url, DatabaseUrl::Sqlite(path.into()));
        }
        for (text, error) in [
            ("mysql://h/d", "a database is sqlite://"),
            ("", "a database is sqlite://"),
            ("sqlite://", "sqlite:// is followed by"),
            ("sqlite://:memory:", "sqlite:// is followed by"),
            ("sqlite://m.db?mode=memory", "sqlite:// is followed by"),
            ("postgres://h:port/d", "postgres:// is followed by"),
        ] {
            let told = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(told.starts_with(error), "{text}: {told}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for scheme in ["postgres", "postgresql"] {
            let url: DatabaseUrl = format!("{scheme}://me:secret@db.example:6432/store").parse().unwrap();
            assert_eq!(url.to_string(), "postgres://me@db.example:6432/store");
            assert!(!format!("{url:?}").contains("secret"));
            assert!(url.is_shared());
        }
    }
}
