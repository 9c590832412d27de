//! The metadata plane: one thread, one tokio runtime, one database. The only place that knows SQL. It never
//! touches a socket or a ring; cores talk to it through the plane channel alone.

mod batch;
#[cfg(test)]
mod batch_pairs;
mod collector;
mod columns;
mod database;
mod errors;
mod group_commit;
mod heartbeat;
mod holds;
mod maintenance;
mod metadata_plane;
mod postgres;
mod postgres_maintenance;
mod postgres_queries;
mod postgres_rows;
mod postgres_writer;
mod queries;
mod recovery;
#[cfg(test)]
mod schedules;
mod sqlite;
mod sqlite_maintenance;
#[cfg(test)]
mod throwaway_postgres;

pub use collector::GcSettings;
pub use database::{DatabaseSettings, DatabaseUrl, DatabaseUrlError, PostgresUrl};
pub use metadata_plane::{MetadataPlane, StartError};
