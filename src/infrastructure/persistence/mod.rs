//! The metadata plane: one thread, one tokio runtime, one database. The only place that knows SQL. It never
//! touches a socket or a ring; cores talk to it through the plane channel alone.

mod batch;
#[cfg(test)]
mod batch_pairs;
mod blob_check;
mod census;
mod collector;
mod columns;
mod contents;
mod database;
mod errors;
mod find_each;
mod finds;
mod group_commit;
mod heartbeat;
mod holds;
mod key_walk;
mod lifecycle;
mod maintenance;
#[cfg(test)]
mod maintenance_contract;
mod metadata_plane;
mod pack_space;
mod policies;
mod postgres;
mod postgres_api_keys;
mod postgres_contents;
mod postgres_lifecycle;
mod postgres_listing;
mod postgres_maintenance;
mod postgres_migrations;
mod postgres_queries;
mod postgres_rows;
mod postgres_scrub;
mod postgres_tenants;
mod postgres_writer;
mod queries;
mod quotas;
mod reader;
mod recovery;
mod replay;
#[cfg(test)]
mod schedules;
mod scrub;
mod snapshot;
mod sqlite;
mod sqlite_api_keys;
mod sqlite_columns;
mod sqlite_contents;
mod sqlite_finds;
mod sqlite_lifecycle;
mod sqlite_listing;
mod sqlite_maintenance;
mod sqlite_packs;
mod sqlite_rows;
mod sqlite_scrub;
mod sqlite_tenants;
mod sqlite_texts;
#[cfg(test)]
#[path = "../../../tests/throwaway_postgres/mod.rs"]
mod throwaway_postgres;

pub(crate) use blob_check::{CheckOutcome, Pace, Sight, conclude};
pub use collector::GcSettings;
pub(crate) use collector::{Collector, CycleError};
pub(crate) use database::Database;
pub use database::{DatabaseSettings, DatabaseUrl, DatabaseUrlError, PostgresUrl};
pub use errors::DatabaseError;
pub(crate) use holds::{HOLD_RENEWAL_INTERVAL, HOLD_TIMEOUT, HoldId};
pub use maintenance::OpenError;
pub(crate) use maintenance::{
    BlobFilter, BlobRow, CopyError, EXAMPLES_MAX, ExportedRow, Finding, ImportedRows, InstanceRow,
};
pub use metadata_plane::{MetadataPlane, StartError};
pub(crate) use policies::{Policies, PoliciesError, keep_policies, kept_policies};
pub(crate) use recovery::{adopt_root, claim_root};
pub(crate) use replay::apply_log;
pub use scrub::ScrubSettings;
pub(crate) use snapshot::snapshots;
