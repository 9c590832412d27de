//! The metadata plane: one thread, one tokio runtime, one database. The only place that knows SQL. It never
//! touches a socket or a ring; cores talk to it through the plane channel alone.

mod batch;
mod collector;
mod database;
mod errors;
mod group_commit;
mod metadata_plane;
mod queries;
mod recovery;
mod sqlite;

pub use collector::GcSettings;
pub use database::{DatabaseSettings, DatabaseUrl, DatabaseUrlError};
pub use metadata_plane::{MetadataPlane, StartError};
