//! API keys on PostgreSQL. Tools give them out and take them back, beside the servers; the servers look them up.

use sqlx::postgres::PgRow;

use super::columns::undecodable;
use super::errors::DatabaseError;
use super::postgres::PostgresDatabase;
use super::postgres_queries as queries;
use super::postgres_rows::{column, names};
use crate::domain::entities::{ApiKey, ApiKeyId, Permissions, Reach};
use crate::domain::value_objects::Timestamp;

impl PostgresDatabase {
    pub(super) async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, DatabaseError> {
        let query = sqlx::query(queries::API_KEY).bind(id.as_u64().cast_signed());
        let row = self.optional_row(query).await;
        let key = row.and_then(|row| row.as_ref().map(api_key).transpose());
        key.map_err(DatabaseError::of("find an API key"))
    }

    pub(super) async fn api_keys(&self) -> Result<Vec<ApiKey>, DatabaseError> {
        let rows = self.rows(sqlx::query(queries::API_KEYS)).await;
        let keys = rows.and_then(|rows| rows.iter().map(api_key).collect());
        keys.map_err(DatabaseError::of("read the API keys"))
    }

    pub(super) async fn put_api_key(&self, key: &ApiKey) -> Result<(), DatabaseError> {
        let query = sqlx::query(queries::PUT_API_KEY)
            .bind(key.id.as_u64().cast_signed())
            .bind(&key.secret_hash[..])
            .bind(key.reach.tenant())
            .bind(names(&key.reach))
            .bind(key.permissions.to_string())
            .bind(key.label.as_deref())
            .bind(key.created_at.as_millis())
            .bind(key.expires_at.map(Timestamp::as_millis));
        self.change(query).await.map(drop).map_err(DatabaseError::of("keep an API key"))
    }

    pub(super) async fn revoke_api_key(&self, id: ApiKeyId, now: Timestamp) -> Result<bool, DatabaseError> {
        let query = sqlx::query(queries::REVOKE_API_KEY).bind(id.as_u64().cast_signed());
        let revoked = self.change(query.bind(now.as_millis())).await;
        revoked.map(|rows| rows > 0).map_err(DatabaseError::of("revoke an API key"))
    }
}

/// Reads a row of `API_KEY`.
fn api_key(row: &PgRow) -> sqlx::Result<ApiKey> {
    let namespaces: Option<Vec<String>> = column(row, 3)?;
    let namespaces = namespaces.as_ref().map(|names| names.iter().map(String::as_str));
    let moment = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    Ok(ApiKey {
        id: ApiKeyId::from_u64(column::<i64>(row, 0)?.cast_unsigned()),
        secret_hash: column::<&[u8]>(row, 1)?.try_into().map_err(undecodable)?,
        reach: Reach::parse(column(row, 2)?, namespaces).map_err(undecodable)?,
        permissions: Permissions::of_words(column(row, 4)?),
        label: column(row, 5)?,
        created_at: Timestamp::from_millis(column(row, 6)?),
        expires_at: moment(column(row, 7)?),
        revoked_at: moment(column(row, 8)?),
    })
}
