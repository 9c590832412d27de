//! What tools ask of a database and do to it, mostly beside a server that goes on writing. Nothing here is on the way
//! of a request but what a server asks about tools: [`Database::holds`], [`Database::forget_hold`],
//! [`Database::outside_changes`], and [`Database::api_key`] of a key that was given out.
//!
//! Whatever a tool has read may have changed by the time that it acts. So every change here names the very row that
//! was read, by its place where bytes are concerned, and says how many rows that still were.

use std::collections::BTreeMap;
use std::io;

use sqlx::migrate::Migrator;
use thiserror::Error;

use super::batch::{BlobKey, Changes};
use super::database::{Database, DatabaseUrl};
use super::errors::DatabaseError;
use super::holds::{Hold, HoldId};
use super::lifecycle::{AgesPage, LifecycleFacts, VersionRow};
use super::postgres::PostgresDatabase;
use super::scrub::ScrubState;
use super::sqlite::SqliteDatabase;
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, ClockMarks, Day, LifecycleRule, Object, Quota, QuotaLimits, Scope,
    StandingRule, UsageChange,
};
use crate::domain::value_objects::{
    ContentHash, InstanceId, Key, Namespace, ObjectId, ObjectStatus, StorageClass, TenantId, Timestamp,
};

/// How many examples of a finding are kept.
pub(crate) const EXAMPLES_MAX: usize = 10;

/// Why a tool cannot use a database. Nothing has been changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("there is no database at {0}")]
    Missing(DatabaseUrl),
    /// It is somebody else's, or not a database at all.
    #[error("{0} is not a database of JustStorage")]
    Foreign(DatabaseUrl),
    /// A later version of the program has changed its schema.
    #[error("{url} has the schema {found}, and this program knows {known} at most: use a newer program")]
    Newer {
        /// Which database.
        url: DatabaseUrl,
        /// Its schema.
        found: i64,
        /// The latest known one.
        known: i64,
    },
    /// This program's server has not run on it yet.
    #[error(
        "{url} has the schema {found}, and this program needs {known}: start its server once, which brings it up to \
         date"
    )]
    Older {
        /// Which database.
        url: DatabaseUrl,
        /// Its schema.
        found: i64,
        /// The one that is needed.
        known: i64,
    },
    /// It cannot be reached or read.
    #[error("{url}: the database cannot be opened")]
    Unreachable {
        /// Which database.
        url: DatabaseUrl,
        /// What was tried, and what it said.
        #[source]
        source: DatabaseError,
    },
}

/// A migration that a database says it has had.
pub(super) struct AppliedMigration {
    pub(super) version: i64,
    pub(super) checksum: Vec<u8>,
}

/// Compares what a database has had with what this program would give it.
pub(super) fn check_schema(
    url: &DatabaseUrl,
    applied: &[AppliedMigration],
    migrator: &Migrator,
) -> Result<(), OpenError> {
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found = applied.iter().map(|migration| migration.version).max().unwrap_or(0);
    let is_ours = |applied: &AppliedMigration| {
        migrator
            .iter()
            .find(|ours| ours.version == applied.version)
            .is_none_or(|ours| *ours.checksum == *applied.checksum)
    };
    if applied.is_empty() || !applied.iter().all(is_ours) {
        return Err(OpenError::Foreign(url.clone()));
    }
    match found.cmp(&known) {
        std::cmp::Ordering::Greater => Err(OpenError::Newer { url: url.clone(), found, known }),
        std::cmp::Ordering::Less => Err(OpenError::Older { url: url.clone(), found, known }),
        std::cmp::Ordering::Equal => Ok(()),
    }
}

/// A blob's row, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobRow {
    /// Where its copy lies.
    pub location: BlobLocation,
    /// How large it is.
    pub size_bytes: u64,
    /// How many committed objects name it.
    pub ref_count: i64,
    /// Since which tick of the database's own clock none does.
    pub zero_since: Option<u64>,
    /// Until which tick some tenant's lease is good: its grace begins then.
    pub leased_until: u64,
    /// Whether the copy is known to be lost or altered.
    pub damaged: bool,
}

/// Which blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobFilter {
    /// All of them.
    All,
    /// Those that no object names.
    Unreferenced,
}

/// A run of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceRow {
    /// The run.
    pub id: InstanceId,
    /// The server's name, where servers share the database.
    pub node: Option<String>,
    /// Whether it is over.
    pub ended: bool,
    /// How long ago the name was last renewed, in seconds, if this run has it.
    pub heartbeat_age_secs: Option<i64>,
}

/// A blob whose count is not the number of the objects that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Miscount {
    /// The blob.
    pub key: (ContentHash, StorageClass),
    /// What its row says.
    pub ref_count: i64,
    /// How many objects there are.
    pub objects: i64,
}

/// What one look at all rows found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How many rows.
    pub count: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

impl Finding {
    /// One more.
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// A look at all rows that finds those that should not be.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Gives one text a row.
    pub(super) statement: &'static str,
}

/// A part of a consistent copy of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExportedRow {
    /// The database's own clock. Comes first.
    Clock {
        /// How far it is.
        ticks: u64,
    },
    /// What a tenant may have at most.
    Limits {
        /// Whose.
        tenant_id: TenantId,
        /// The limits, one of them at least.
        limits: QuotaLimits,
    },
    /// What becomes of a namespace's objects with time.
    Rule {
        /// Which namespace.
        namespace: Namespace,
        /// The rule, one number of it at least.
        rule: LifecycleRule,
    },
    /// A committed or forgotten object. All of them come before the blobs, in the order of their sequences.
    Object {
        /// Its place in the order of commits.
        sequence: u64,
        /// The object.
        object: Box<Object>,
    },
    /// A blob that objects name.
    Blob(BlobRow),
}

/// Why a copy of the metadata ended early.
#[derive(Debug, Error)]
pub(crate) enum CopyError {
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// What was read could not be written, or the other way round.
    #[error("the copy of the metadata failed")]
    Io(#[from] io::Error),
}

/// A number of rows that are put into an empty database together.
#[derive(Debug, Default)]
pub(crate) struct ImportedRows {
    /// Objects and their sequences.
    pub objects: Vec<(u64, Object)>,
    /// Blobs.
    pub blobs: Vec<BlobRow>,
    /// What tenants may have at most.
    pub limits: Vec<(TenantId, QuotaLimits)>,
    /// What becomes of namespaces' objects with time, and from when on reads are noted for it.
    pub rules: Vec<(Namespace, LifecycleRule, Timestamp)>,
}

impl ImportedRows {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len() + self.blobs.len() + self.limits.len() + self.rules.len()
    }

    pub(super) fn into_changes(self) -> Changes {
        let blob = |row: BlobRow| {
            let key: BlobKey = (row.location.content_hash, row.location.storage_class);
            let held = super::batch::HeldBlob {
                size_bytes: row.size_bytes,
                ref_count: row.ref_count.cast_unsigned(),
                place: row.location.place,
                damaged: row.damaged,
                first_object: 0,
            };
            (key, held)
        };
        let mut usage: BTreeMap<TenantId, UsageChange> = BTreeMap::new();
        for (_, object) in &self.objects {
            if object.status == ObjectStatus::Committed {
                let usage = usage.entry(object.scope.tenant_id.clone()).or_default();
                usage.add_object(object.size_bytes.unwrap_or(0));
            }
        }
        let blobs = self.blobs.into_iter().map(blob).collect();
        Changes { put: self.objects, blobs, usage: usage.into_iter().collect(), ..Changes::default() }
    }
}

impl Database {
    /// Opens a database that is there, of the schema that this program has, and changes nothing in it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) async fn open_existing(url: &DatabaseUrl) -> Result<Self, OpenError> {
        match url {
            DatabaseUrl::Sqlite(path) => SqliteDatabase::open_existing(url, path).await.map(Self::Sqlite),
            DatabaseUrl::Postgres(address) => {
                let options = address
                    .options()
                    .map_err(|source| OpenError::Unreachable { url: url.clone(), source })?;
                PostgresDatabase::open_existing(url, options).await.map(Box::new).map(Self::Postgres)
            }
        }
    }
}

/// The same question to either database.
macro_rules! on_either {
    ($($(#[$meta:meta])* $visibility:vis async fn $name:ident(&self $(, $argument:ident: $type:ty)*) -> $output:ty;)*) => {
        impl Database {
            $($(#[$meta])* $visibility async fn $name(&self $(, $argument: $type)*) -> $output {
                match self {
                    Self::Sqlite(database) => database.$name($($argument),*).await,
                    Self::Postgres(database) => database.$name($($argument),*).await,
                }
            })*
        }
    };
}

on_either! {
    /// All holds.
    pub(crate) async fn holds(&self) -> Result<Vec<Hold>, DatabaseError>;

    /// Removes a hold that still stands as it was seen. `false` if it does not.
    pub(super) async fn forget_hold(&self, hold: Hold) -> Result<bool, DatabaseError>;

    /// Goes up with each change by a tool that caches must not outlive.
    pub(super) async fn outside_changes(&self) -> Result<u64, DatabaseError>;

    /// From now on no bytes are removed, as long as the hold is renewed.
    pub(crate) async fn take_hold(&self, id: HoldId, purpose: &str, now: Timestamp) -> Result<(), DatabaseError>;

    /// Says that the holder lives. `false` if the hold is gone: bytes may have been removed since.
    pub(crate) async fn renew_hold(&self, id: HoldId) -> Result<bool, DatabaseError>;

    /// Ends a hold.
    pub(crate) async fn release_hold(&self, id: HoldId) -> Result<(), DatabaseError>;

    /// All runs that are known.
    pub(crate) async fn instances(&self) -> Result<Vec<InstanceRow>, DatabaseError>;

    /// Ends all runs of a name, none of which commits anything from then on. On SQLite, which has no names: all
    /// runs; whoever calls this holds the data directory.
    pub(crate) async fn end_instances_of(&self, node: &str) -> Result<u64, DatabaseError>;

    /// How many uploads ended runs have left unfinished.
    pub(crate) async fn abandoned_reservations(&self) -> Result<u64, DatabaseError>;

    /// Clears them.
    pub(crate) async fn clear_reservations(&self) -> Result<u64, DatabaseError>;

    /// The next blobs behind `after`, by hash and class, at most `limit`.
    pub(crate) async fn blob_page(
        &self,
        filter: BlobFilter,
        after: Option<(ContentHash, StorageClass)>,
        limit: u32
    ) -> Result<Vec<BlobRow>, DatabaseError>;

    /// A blob as its row is now.
    pub(crate) async fn blob(&self, key: (ContentHash, StorageClass)) -> Result<Option<BlobRow>, DatabaseError>;

    /// How many places wait for their bytes to be removed, and how many bytes these are.
    pub(crate) async fn garbage_totals(&self) -> Result<(u64, u64), DatabaseError>;

    /// Notes of a copy whether it is damaged. `false` if it serves no more.
    pub(crate) async fn mark(&self, copy: &BlobLocation, damaged: bool) -> Result<bool, DatabaseError>;

    /// How many copies are known to be lost or altered.
    pub(super) async fn damaged_blobs(&self) -> Result<u64, DatabaseError>;

    /// How far the scrub of servers is, once a pass has begun.
    pub(super) async fn scrub_state(&self) -> Result<Option<ScrubState>, DatabaseError>;

    /// Notes how far it is. `false` if it is not any more as it was seen, by its beats; `None` is that it was not there.
    pub(super) async fn put_scrub_state(&self, state: &ScrubState, seen: Option<u64>) -> Result<bool, DatabaseError>;

    /// At most `limit` blobs with a wrong count.
    pub(crate) async fn miscounts(&self, limit: u32) -> Result<Vec<Miscount>, DatabaseError>;

    /// Counts these blobs anew, in one transaction: nothing comes between the counting and the change.
    pub(crate) async fn recount(&self, keys: &[(ContentHash, StorageClass)]) -> Result<u64, DatabaseError>;

    /// At most `limit` objects that nobody finds by their content: neither its blob nor the index names them.
    pub(crate) async fn unfound_objects(&self, limit: u32) -> Result<Vec<ObjectId>, DatabaseError>;

    /// Puts those of them into the index that nobody finds still, and says how many these were.
    pub(crate) async fn index_objects(&self, ids: &[ObjectId]) -> Result<u64, DatabaseError>;

    /// The limits and the usage of every tenant that has either.
    pub(crate) async fn tenants(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError>;

    /// The limits and the usage of a tenant.
    pub(crate) async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, DatabaseError>;

    /// The limits and the usage of every tenant that has limits, as they are between two batches.
    pub(super) async fn quotas(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError>;

    /// Gives a tenant these limits instead of those that it had, and tells servers so.
    pub(crate) async fn set_limits(&self, tenant_id: &TenantId, limits: QuotaLimits) -> Result<(), DatabaseError>;

    /// Tenants whose usage is not what their objects amount to.
    pub(crate) async fn wrong_usage(&self) -> Result<Finding, DatabaseError>;

    /// Counts every tenant's usage anew, in one transaction, and tells servers so.
    pub(crate) async fn recount_usage(&self) -> Result<(), DatabaseError>;

    /// Everything that rows alone can show to be wrong, by name.
    pub(crate) async fn check_rows(&self) -> Result<Vec<(&'static str, Finding)>, DatabaseError>;

    /// What is kept of an API key.
    pub(super) async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, DatabaseError>;

    /// All API keys, oldest first.
    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKey>, DatabaseError>;

    /// Keeps a new API key.
    pub(crate) async fn put_api_key(&self, key: &ApiKey) -> Result<(), DatabaseError>;

    /// Takes an API key back. `false` if there is none of this id.
    pub(crate) async fn revoke_api_key(&self, id: ApiKeyId, now: Timestamp) -> Result<bool, DatabaseError>;

    /// The rule of a namespace, if it has one.
    pub(crate) async fn lifecycle_rule(&self, namespace: &Namespace) -> Result<Option<StandingRule>, DatabaseError>;

    /// At most `limit` rules, in the order of their namespaces behind `after`.
    pub(super) async fn lifecycle_rules_after(
        &self,
        after: Option<&Namespace>,
        limit: u32
    ) -> Result<Vec<(Namespace, StandingRule)>, DatabaseError>;

    /// Gives a namespace this rule instead of the one that it had, and tells servers so.
    pub(crate) async fn set_lifecycle_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp
    ) -> Result<(), DatabaseError>;

    /// The first tenant behind `after` that has an object in a namespace.
    pub(super) async fn next_tenant(
        &self,
        namespace: &Namespace,
        after: Option<&TenantId>
    ) -> Result<Option<TenantId>, DatabaseError>;

    /// Where the next `limit` committed objects of a class behind a sequence end.
    pub(super) async fn ages_end(
        &self,
        scope: &Scope,
        behind: (StorageClass, u64),
        limit: u32
    ) -> Result<Option<u64>, DatabaseError>;

    /// Which of them were made by then, when, and on which day they were read last.
    pub(super) async fn ages(
        &self,
        page: AgesPage<'_>
    ) -> Result<Vec<(ObjectId, Timestamp, Option<Day>)>, DatabaseError>;

    /// At most `limit` versions behind one of them: from the last key to the first, of each the newest first.
    pub(super) async fn versions_before(
        &self,
        scope: &Scope,
        before: Option<(&Key, u64)>,
        limit: u32
    ) -> Result<Vec<VersionRow>, DatabaseError>;

    /// A committed object with everything that its fate hangs on, if its namespace has a rule.
    pub(super) async fn lifecycle_facts(
        &self,
        id: ObjectId,
        versions_counted: u32
    ) -> Result<Option<LifecycleFacts>, DatabaseError>;

    /// Notes that objects, each once and in their order, were read on a day.
    pub(super) async fn note_reads(&self, ids: &[ObjectId], day: Day) -> Result<(), DatabaseError>;

    /// Forgets reads before a day, at most `limit`: how many.
    pub(super) async fn forget_reads(&self, before: Day, limit: u32) -> Result<u64, DatabaseError>;

    /// How the clocks stood when they were looked at last.
    pub(super) async fn clock_marks(&self) -> Result<Option<ClockMarks>, DatabaseError>;

    /// Notes how the clocks stand.
    pub(crate) async fn set_clock_marks(&self, marks: ClockMarks) -> Result<(), DatabaseError>;

    /// Gives `take` a consistent copy of all that a restored store needs.
    pub(crate) async fn export(&self, take: &mut dyn FnMut(ExportedRow) -> io::Result<()>) -> Result<(), CopyError>;

    /// Whether it has neither objects nor blobs.
    pub(crate) async fn is_empty(&self) -> Result<bool, DatabaseError>;

    /// Puts all that `next` gives into an empty database, in one transaction.
    pub(crate) async fn import(
        &self,
        ticks: u64,
        next: &mut dyn FnMut() -> io::Result<Option<ImportedRows>>
    ) -> Result<(), CopyError>;
}
