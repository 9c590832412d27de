//! What tenants have by its content, and leases on that, on SQLite.

use serde_json::{Value, json};
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};

use super::columns::undecodable;
use super::contents::{CONTENTS_AT_ONCE, HeldContent, LeaseTerm, each_to_be_read, to_be_read};
use super::errors::DatabaseError;
use super::queries;
use super::sqlite::SqliteDatabase;
use super::sqlite_api_keys::namespaces_json;
use super::sqlite_columns::{blob_location, column};
use crate::domain::entities::{Reach, Scope, StoredContent, StoredObject};
use crate::domain::value_objects::{ContentHash, Namespace, ObjectId, TenantId, Timestamp};

impl SqliteDatabase {
    pub(super) async fn find_content(
        &self,
        hash: &ContentHash,
        reach: &Reach,
    ) -> Result<Option<StoredObject>, DatabaseError> {
        let hashes = hashes_json(std::slice::from_ref(hash));
        let rows = bind(contents(reach), &hashes, reach).fetch_all(&self.readers).await;
        let held = rows.and_then(|rows| held_contents(&rows, reach));
        held.map(to_be_read).map_err(DatabaseError::of("find a content"))
    }

    /// The same of many different ones, in any order: those that there are.
    pub(super) async fn find_contents(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
    ) -> Result<Vec<StoredObject>, DatabaseError> {
        let mut found = Vec::new();
        for hashes in hashes.chunks(CONTENTS_AT_ONCE) {
            let hashes = hashes_json(hashes);
            let rows = bind(contents(reach), &hashes, reach).fetch_all(&self.readers).await;
            let held = rows.and_then(|rows| held_contents(&rows, reach));
            found.extend(each_to_be_read(held.map_err(DatabaseError::of("find contents"))?));
        }
        Ok(found)
    }

    /// A step for each thousand of them: a look, which is all there is to it where the leases are good still, and
    /// otherwise a transaction.
    pub(super) async fn lease(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
        term: LeaseTerm,
    ) -> Result<Vec<StoredContent>, DatabaseError> {
        let mut leased = Vec::new();
        for chunk in hashes.chunks(CONTENTS_AT_ONCE) {
            let hashes = hashes_json(chunk);
            let rows = bind(contents(reach), &hashes, reach).fetch_all(&self.readers).await;
            let held = rows.and_then(|rows| held_contents(&rows, reach));
            let mut held = held.map_err(DatabaseError::of("look for contents"))?;
            let wanting = HeldContent::wanting(&held, term);
            if !wanting.is_empty() {
                held.retain(|held| !wanting.contains(&held.location.content_hash));
                let wanting = hashes_json(chunk.iter().filter(|hash| wanting.contains(hash)));
                held.extend(self.take_leases(&wanting, reach, term).await?);
            }
            leased.extend(held.iter().filter(|held| held.is_held(term)).map(HeldContent::stored));
        }
        Ok(leased)
    }

    /// What is there when this transaction has its turn, which may be less than was there before.
    async fn take_leases(
        &self,
        hashes: &str,
        reach: &Reach,
        term: LeaseTerm,
    ) -> Result<Vec<HeldContent>, DatabaseError> {
        let lease = match reach.namespaces() {
            None => queries::LEASE_CONTENTS,
            Some(_) => queries::LEASE_CONTENTS_WITHIN,
        };
        self.in_transaction(async |transaction| {
            let take = async {
                let lease = bind(lease, hashes, reach).bind(term.end().cast_signed());
                lease.execute(&mut **transaction).await?;
                bind(queries::NOTE_LEASES, hashes, reach).execute(&mut **transaction).await?;
                let rows = bind(contents(reach), hashes, reach).fetch_all(&mut **transaction).await?;
                held_contents(&rows, reach)
            };
            take.await.map_err(DatabaseError::of("lease contents"))
        })
        .await
    }
}

fn contents(reach: &Reach) -> &'static str {
    match reach.namespaces() {
        None => queries::CONTENTS,
        Some(_) => queries::CONTENTS_WITHIN,
    }
}

/// Hashes, the tenant, and the namespaces for those statements that look at them.
fn bind<'q>(text: &'static str, hashes: &'q str, reach: &'q Reach) -> Query<'q, Sqlite, SqliteArguments> {
    let query = sqlx::query(text).bind(hashes).bind(reach.tenant_id().map(TenantId::as_str));
    query.bind(reach.namespaces().map(namespaces_json))
}

fn hashes_json<'h>(hashes: impl IntoIterator<Item = &'h ContentHash>) -> String {
    Value::Array(hashes.into_iter().map(|hash| json!(hash.to_string())).collect()).to_string()
}

fn held_contents(rows: &[SqliteRow], reach: &Reach) -> sqlx::Result<Vec<HeldContent>> {
    let Some(tenant_id) = reach.tenant_id() else { return Ok(Vec::new()) };
    let decode = |row: &SqliteRow| {
        let namespace = Namespace::parse(column(row, 8)?).map_err(undecodable)?;
        Ok(HeldContent {
            location: blob_location(row)?,
            size_bytes: column::<i64>(row, 3)?.cast_unsigned(),
            damaged: column(row, 4)?,
            is_named: column(row, 5)?,
            lease_end: column::<i64>(row, 6)?.cast_unsigned(),
            object_id: ObjectId::from_slice(column(row, 7)?).map_err(undecodable)?,
            scope: Scope { namespace, tenant_id: tenant_id.clone() },
            updated_at: Timestamp::from_millis(column(row, 9)?),
        })
    };
    rows.iter().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchContext;
    use super::super::database::{Database, DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::domain::value_objects::InstanceId;
    use crate::infrastructure::plane_channel::Write;

    const SETTINGS: DatabaseSettings = DatabaseSettings::OF_TEST;

    #[tokio::test]
    async fn a_lease_writes_no_row_of_what_others_have() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&DatabaseUrl::in_directory(directory.path()), SETTINGS).await.unwrap();
        let (own, mut foreign) = (a_commit(None, 1, 1), a_commit(None, 2, 2));
        foreign.stored.object.scope.tenant_id = TenantId::parse("other").unwrap();
        let hashes = [foreign.stored.content_hash, ContentHash::from_bytes([9; 32]), own.stored.content_hash];
        let reach = Reach::everything().of_tenant(&own.stored.object.scope.tenant_id).unwrap();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        database.apply(&[Write::Commit(own), Write::Commit(foreign)], &mut 1, context).await.unwrap();
        let Database::Sqlite(sqlite) = &database else { panic!("it is SQLite") };
        let changes = async || {
            let row = sqlx::query("SELECT total_changes()").fetch_one(&sqlite.writer).await.unwrap();
            column::<i64>(&row, 0).unwrap()
        };
        // A lease and what its blob says of that; then it is good still.
        for (asked, leased, rows) in [(&hashes[..2], 0, 0), (&hashes[..], 1, 2), (&hashes[..], 1, 0)] {
            let before = changes().await;
            assert_eq!(sqlite.lease(asked, &reach, LeaseTerm::from(0)).await.unwrap().len(), leased);
            assert_eq!(changes().await - before, rows, "{asked:?}");
        }
    }
}
