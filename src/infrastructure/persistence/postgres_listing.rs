//! Listings by key, and of the versions of a key, on PostgreSQL.

use sqlx::postgres::PgRow;

use super::columns::class_number;
use super::errors::DatabaseError;
use super::key_walk::KeyWalk;
use super::postgres::PostgresDatabase;
use super::postgres_queries as queries;
use super::postgres_rows::{column, object, page};
use crate::application::key_listing::{KeyPage, KeyQuery, VersionQuery, WalkedKey};
use crate::application::ports::ListPage;

impl PostgresDatabase {
    pub(super) async fn list_keys(&self, query: &KeyQuery) -> Result<KeyPage, DatabaseError> {
        let text =
            if query.storage_class.is_some() { queries::LIST_KEYS_OF_CLASS } else { queries::LIST_KEYS };
        let walk = KeyWalk::of(query);
        let mut statement = sqlx::query(text)
            .bind(query.scope.namespace.as_str())
            .bind(query.scope.tenant_id.as_str())
            .bind(walk.from)
            .bind(walk.up_to)
            .bind(walk.prefix_characters)
            .bind(walk.delimiter)
            .bind(walk.beyond)
            .bind(walk.wanted);
        if let Some(class) = query.storage_class {
            statement = statement.bind(class_number(class)).bind(walk.looked_at_max);
        }
        let rows = self.rows(statement).await;
        let walked = rows.and_then(|rows| rows.iter().map(walked_key).collect());
        walked.map(|walked| KeyPage::of_walk(query, walked)).map_err(DatabaseError::of("list keys"))
    }

    pub(super) async fn list_versions(&self, query: &VersionQuery) -> Result<ListPage, DatabaseError> {
        let statement = sqlx::query(queries::LIST_VERSIONS)
            .bind(query.key_path.scope.namespace.as_str())
            .bind(query.key_path.scope.tenant_id.as_str())
            .bind(query.key_path.key.as_str())
            .bind(query.before.map_or(i64::MAX, u64::cast_signed))
            // One more than asked for tells whether there is a next page.
            .bind(i64::from(query.limit) + 1);
        let rows = self.rows(statement).await;
        rows.and_then(|rows| page(&rows, query.limit as usize)).map_err(DatabaseError::of("list versions"))
    }
}

/// Reads `object_columns!`, which may all be NULL, and behind them the key and whether it is shown.
fn walked_key(row: &PgRow) -> sqlx::Result<WalkedKey> {
    let object = column::<Option<i64>>(row, 0)?.map(|_| object(row)).transpose()?;
    Ok(WalkedKey { key: column(row, 13)?, is_shown: column(row, 14)?, object })
}
