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
        for hashes in hashes.chunks(CONTENTS_AT_ONCE) {
            let hashes = hashes_json(hashes);
            let rows = bind(contents(reach), &hashes, reach).fetch_all(&self.readers).await;
            let held = rows.and_then(|rows| held_contents(&rows, reach));
            let mut held = held.map_err(DatabaseError::of("look for contents"))?;
            if held.iter().any(|held| held.wants_lease(term)) {
                held = self.take_leases(&hashes, reach, term).await?;
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

fn hashes_json(hashes: &[ContentHash]) -> String {
    Value::Array(hashes.iter().map(|hash| json!(hash.to_string())).collect()).to_string()
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
