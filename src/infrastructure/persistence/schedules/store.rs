//! The database and the roots that one wave after the other runs on.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::database::{Database, DatabaseSettings, DatabaseUrl};
use super::shared::all_files;
use crate::domain::value_objects::InstanceId;
use crate::infrastructure::storage::{Roots, remove_blob_files};

const SETTINGS: DatabaseSettings = DatabaseSettings {
    acquire_timeout: Duration::from_secs(30),
    answer_timeout: Duration::from_secs(60),
    idle_timeout: Duration::from_secs(600),
    max_lifetime: Duration::from_secs(3600),
    ..DatabaseSettings::OF_TEST
};

pub(super) struct Store {
    _directory: tempfile::TempDir,
    pub(super) roots: Roots,
    /// One for each server: on SQLite there is one server alone.
    pub(super) servers: Vec<Arc<Database>>,
    time: Cell<u64>,
    instances: Cell<i64>,
}

impl Store {
    pub(super) async fn on_sqlite() -> Self {
        let directory = in_memory();
        let url = DatabaseUrl::in_directory(directory.path());
        Self::on(directory, &[url]).await
    }

    pub(super) async fn on(directory: tempfile::TempDir, urls: &[DatabaseUrl]) -> Self {
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let mut servers = Vec::new();
        for url in urls {
            servers.push(Arc::new(Database::open(url, SETTINGS).await.unwrap()));
        }
        Self { _directory: directory, roots, servers, time: Cell::new(0), instances: Cell::new(0) }
    }

    /// The clock of a database never goes back, so that every wave has its own stretch of it.
    pub(super) fn take_time(&self, moments: u64) -> u64 {
        let begin = self.time.get();
        self.time.set(begin + moments);
        begin
    }

    pub(super) fn next_instance(&self) -> InstanceId {
        self.instances.set(self.instances.get() + 1);
        InstanceId::from_i64(self.instances.get())
    }

    /// Leaves nothing to the next wave.
    pub(super) async fn empty(&self) {
        match &*self.servers[0] {
            Database::Sqlite(database) => {
                let empty = "DELETE FROM objects; DELETE FROM blobs; DELETE FROM garbage; DELETE FROM holds; \
                             DELETE FROM instances; DELETE FROM leases; DELETE FROM tenant_usage";
                sqlx::raw_sql(empty).execute(&database.writer).await.unwrap();
            }
            Database::Postgres(database) => {
                let empty = "TRUNCATE objects, blobs, garbage, holds, instances, leases, tenant_usage";
                sqlx::raw_sql(empty).execute(&database.readers).await.unwrap();
            }
        }
        for file in all_files(&self.roots) {
            remove_blob_files(self.roots.of(file.storage_class), &[file]).unwrap();
        }
    }
}

/// A directory that costs no disk its syncs: what is tried is the order of things, not their durability.
pub(super) fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("schedules-").tempdir_in(parent).unwrap()
}
