//! What tenants have by its content, and leases on that, on PostgreSQL.

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::columns::undecodable;
use super::contents::{CONTENTS_AT_ONCE, HeldContent, LeaseTerm, each_to_be_read, to_be_read};
use super::errors::{DatabaseError, is_race};
use super::postgres::PostgresDatabase;
use super::postgres_queries as queries;
use super::postgres_rows::{PgQuery, blob_location, column, names};
use crate::domain::entities::{Reach, Scope, StoredContent, StoredObject};
use crate::domain::value_objects::{ContentHash, Namespace, ObjectId, TenantId, Timestamp};

/// How often a transaction is tried that gets in the way of others: it takes rows in an order of its own.
const TRIES_MAX: u32 = 8;

impl PostgresDatabase {
    pub(super) async fn find_content(
        &self,
        hash: &ContentHash,
        reach: &Reach,
    ) -> Result<Option<StoredObject>, DatabaseError> {
        let rows = self.rows(bind(queries::CONTENTS, std::slice::from_ref(hash), reach)).await;
        let held = rows.and_then(|rows| held_contents(&rows, reach));
        held.map(to_be_read).map_err(DatabaseError::of("find a content"))
    }

    /// As on SQLite.
    pub(super) async fn find_contents(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
    ) -> Result<Vec<StoredObject>, DatabaseError> {
        let mut found = Vec::new();
        for hashes in hashes.chunks(CONTENTS_AT_ONCE) {
            let rows = self.rows(bind(queries::CONTENTS, hashes, reach)).await;
            let held = rows.and_then(|rows| held_contents(&rows, reach));
            found.extend(each_to_be_read(held.map_err(DatabaseError::of("find contents"))?));
        }
        Ok(found)
    }

    /// As on SQLite.
    pub(super) async fn lease(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
        term: LeaseTerm,
    ) -> Result<Vec<StoredContent>, DatabaseError> {
        let mut leased = Vec::new();
        for chunk in hashes.chunks(CONTENTS_AT_ONCE) {
            let rows = self.rows(bind(queries::CONTENTS, chunk, reach)).await;
            let held = rows.and_then(|rows| held_contents(&rows, reach));
            let mut held = held.map_err(DatabaseError::of("look for contents"))?;
            let wanting = HeldContent::wanting(&held, term);
            if !wanting.is_empty() {
                held.retain(|held| !wanting.contains(&held.location.content_hash));
                let wanting: Vec<_> = chunk.iter().filter(|hash| wanting.contains(hash)).copied().collect();
                let taken = self.take_leases(&wanting, reach, term).await;
                held.extend(taken.map_err(DatabaseError::of("lease contents"))?);
            }
            leased.extend(held.iter().filter(|held| held.is_held(term)).map(HeldContent::stored));
        }
        Ok(leased)
    }

    /// The statement that takes the leases changes the rows of the blobs first: a collector that has one of them in hand
    /// makes it wait, and then finds it no more, or has to look at the row as it is now.
    async fn take_leases(
        &self,
        hashes: &[ContentHash],
        reach: &Reach,
        term: LeaseTerm,
    ) -> sqlx::Result<Vec<HeldContent>> {
        let take = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            let lease = bind(queries::LEASE_CONTENTS, hashes, reach)
                .bind(term.tick.cast_signed())
                .bind(term.ticks.cast_signed());
            lease.execute(&mut *transaction).await?;
            let rows = bind(queries::CONTENTS, hashes, reach).fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            held_contents(&rows, reach)
        };
        let mut tries = 1;
        loop {
            match self.ask(take).await {
                Err(error) if is_race(&error) && tries < TRIES_MAX => tries += 1,
                result => return result,
            }
        }
    }
}

/// Hashes, the tenant and the namespaces.
fn bind<'q>(text: &'static str, hashes: &[ContentHash], reach: &Reach) -> PgQuery<'q> {
    sqlx::query(text)
        .bind(hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect::<Vec<_>>())
        .bind(reach.tenant_id().map(TenantId::as_str).map(str::to_owned))
        .bind(names(reach))
}

fn held_contents(rows: &[PgRow], reach: &Reach) -> sqlx::Result<Vec<HeldContent>> {
    let Some(tenant_id) = reach.tenant_id() else { return Ok(Vec::new()) };
    let decode = |row: &PgRow| {
        let namespace = Namespace::parse(column(row, 8)?).map_err(undecodable)?;
        let object_id = ObjectId::from_slice(column::<Uuid>(row, 7)?.as_bytes()).map_err(undecodable)?;
        Ok(HeldContent {
            location: blob_location(row)?,
            size_bytes: column::<i64>(row, 3)?.cast_unsigned(),
            damaged: column(row, 4)?,
            is_named: column(row, 5)?,
            lease_end: column::<i64>(row, 6)?.cast_unsigned(),
            object_id,
            scope: Scope { namespace, tenant_id: tenant_id.clone() },
            updated_at: Timestamp::from_millis(column(row, 9)?),
        })
    };
    rows.iter().map(decode).collect()
}
