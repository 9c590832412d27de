//! Which database, and how to reach it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::batch::BatchContext;
use super::collector::{Collected, Garbage};
use super::errors::DatabaseError;
use super::sqlite::SqliteDatabase;
use crate::application::ports::{ListPage, ListQuery, ObjectName};
use crate::domain::entities::{Object, StoredObject};
use crate::domain::value_objects::{InstanceId, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};
use crate::infrastructure::storage::{BlobFile, RootIdentity};

/// Where the metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file of this server alone.
    Sqlite(PathBuf),
}

/// A database that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DatabaseUrlError {
    /// Not one of the known schemes.
    #[error("a database is sqlite://PATH, postgres://… or postgresql://…")]
    Scheme,
    /// No file is named.
    #[error("sqlite:// is followed by the path of a file")]
    NoPath,
    /// Not in this version.
    #[error("this version keeps its metadata in SQLite only; use sqlite://PATH")]
    Postgres,
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Err(DatabaseUrlError::Postgres);
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
        }
    }
}

impl DatabaseUrl {
    /// The default: a file in the data directory.
    pub fn in_directory(data_dir: &Path) -> Self {
        Self::Sqlite(data_dir.join("metadata.db"))
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
    /// After how long without use one is closed.
    pub idle_timeout: Duration,
    /// After how long in all one is closed.
    pub max_lifetime: Duration,
}

/// The database, whichever it is.
pub(super) enum Database {
    Sqlite(SqliteDatabase),
}

/// What is known of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootRow {
    pub(super) identity: RootIdentity,
    /// Whether the root itself holds the identity too.
    pub(super) claimed: bool,
}

impl Database {
    /// Opens it and brings its schema up to date.
    pub(super) async fn open(url: &DatabaseUrl, settings: DatabaseSettings) -> Result<Self, DatabaseError> {
        match url {
            DatabaseUrl::Sqlite(path) => SqliteDatabase::open(path, settings).await.map(Self::Sqlite),
        }
    }

    /// Applies a batch in one transaction. `Err` means that none of it can be relied on.
    pub(super) async fn apply(
        &self,
        writes: &[Write],
        next_sequence: &mut u64,
        context: BatchContext,
    ) -> Result<Vec<WriteOutcome>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.apply(writes, next_sequence, context).await,
        }
    }

    pub(super) async fn find(&self, name: &ObjectName) -> Result<Option<StoredObject>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.find(name).await,
        }
    }

    pub(super) async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.inspect(name).await,
        }
    }

    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.list(query).await,
        }
    }

    /// Whether it answers.
    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.check().await,
        }
    }

    /// The sequence that the next commit takes.
    pub(super) async fn next_sequence(&self) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.next_sequence().await,
        }
    }

    pub(super) async fn root(&self, class: StorageClass) -> Result<Option<RootRow>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.root(class).await,
        }
    }

    pub(super) async fn put_root(&self, class: StorageClass, row: RootRow) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.put_root(class, row).await,
        }
    }

    /// Makes this instance known, and clears the reservations of all others.
    pub(super) async fn begin_instance(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.begin_instance(instance, now).await,
        }
    }

    /// All instances whose leftovers have not been swept.
    pub(super) async fn instances(&self) -> Result<Vec<InstanceId>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.instances().await,
        }
    }

    /// Forgets instances whose leftovers are gone.
    pub(super) async fn end_instances(&self, instances: &[InstanceId]) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.end_instances(instances).await,
        }
    }

    /// Those of `files` that no blob row names.
    pub(super) async fn unnamed_files(&self, files: &[BlobFile]) -> Result<Vec<BlobFile>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.unnamed_files(files).await,
        }
    }

    /// The database's own clock as it was last stored, in milliseconds.
    pub(super) async fn ticks(&self) -> Result<u64, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.ticks().await,
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
        }
    }

    /// At most `limit` places whose bytes are to be removed.
    pub(super) async fn garbage(&self, limit: u32) -> Result<Vec<Garbage>, DatabaseError> {
        match self {
            Self::Sqlite(database) => database.garbage(limit).await,
        }
    }

    /// Forgets garbage whose bytes are gone.
    pub(super) async fn forget_garbage(&self, removed: &[Garbage]) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(database) => database.forget_garbage(removed).await,
        }
    }

    /// Writes everything to its main file and closes.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_database_or_say_why_not() {
        assert_eq!("sqlite:///data/m.db".parse(), Ok(DatabaseUrl::Sqlite("/data/m.db".into())));
        assert_eq!("sqlite://data/m.db".parse(), Ok(DatabaseUrl::Sqlite("data/m.db".into())));
        for (text, error) in [
            ("postgres://h/d", DatabaseUrlError::Postgres),
            ("postgresql://h/d", DatabaseUrlError::Postgres),
            ("mysql://h/d", DatabaseUrlError::Scheme),
            ("", DatabaseUrlError::Scheme),
            ("sqlite://", DatabaseUrlError::NoPath),
            ("sqlite://:memory:", DatabaseUrlError::NoPath),
            ("sqlite://m.db?mode=memory", DatabaseUrlError::NoPath),
        ] {
            assert_eq!(text.parse::<DatabaseUrl>(), Err(error), "{text}");
        }
    }
}
