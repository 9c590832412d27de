//! What tenants have and may have, on PostgreSQL.

use std::collections::HashMap;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::batch::growing_tenants;
use super::columns::{limit_column, quota_of_columns, undecodable};
use super::errors::DatabaseError;
use super::maintenance::{Check, Finding};
use super::postgres::PostgresDatabase;
use super::postgres_queries as queries;
use super::postgres_rows::{PgQuery, column};
use crate::domain::entities::{Quota, QuotaLimits, UsageChange};
use crate::domain::value_objects::{InstanceId, TenantId};
use crate::infrastructure::plane_channel::Write;

/// How many rows a tenant's usage is spread over at most: servers that share one conflict, and are tried again.
const SHARDS: i64 = 16;

/// Tenants whose usage is not what their objects amount to.
pub(super) const WRONG_USAGE: Check = Check {
    name: "wrong_usage",
    statement: "
        WITH counted AS (
            SELECT tenant_id, coalesce(sum(size_bytes), 0) AS bytes, count(*) AS objects
            FROM objects WHERE status = 1 GROUP BY tenant_id),
        noted AS (
            SELECT tenant_id, sum(bytes) AS bytes, sum(objects) AS objects FROM tenant_usage GROUP BY tenant_id)
        SELECT tenant_id || ': ' || coalesce(u.bytes, 0) || ' bytes in ' || coalesce(u.objects, 0)
            || ' objects instead of ' || coalesce(c.bytes, 0) || ' in ' || coalesce(c.objects, 0)
        FROM noted AS u FULL JOIN counted AS c USING (tenant_id)
        WHERE coalesce(u.bytes, 0) <> coalesce(c.bytes, 0) OR coalesce(u.objects, 0) <> coalesce(c.objects, 0)
        ORDER BY tenant_id",
};

const TENANTS: &str = "
    SELECT tenant_id, l.bytes_max, l.objects_max, u.bytes, u.objects
    FROM (SELECT tenant_id, sum(bytes)::bigint AS bytes, sum(objects)::bigint AS objects
          FROM tenant_usage GROUP BY tenant_id) AS u
    FULL JOIN tenant_limits AS l USING (tenant_id)
    ORDER BY tenant_id";

const FORGET_USAGE: &str = "DELETE FROM tenant_usage";
const COUNT_USAGE: &str = "
    INSERT INTO tenant_usage (tenant_id, shard, bytes, objects)
    SELECT tenant_id, 0, coalesce(sum(size_bytes), 0)::bigint, count(*)
    FROM objects WHERE status = 1 GROUP BY tenant_id";

impl PostgresDatabase {
    pub(super) async fn tenants(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError> {
        let rows = self.rows(sqlx::query(TENANTS)).await;
        rows.and_then(|rows| quotas(&rows)).map_err(DatabaseError::of("read the tenants"))
    }

    pub(super) async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, DatabaseError> {
        let row = self.row(sqlx::query(queries::QUOTAS_OF).bind(vec![tenant_id.as_str().to_owned()])).await;
        let quota = row.and_then(|row| quota(&row)).map(|(_, quota)| quota);
        quota.map_err(DatabaseError::of("read what a tenant has"))
    }

    pub(super) async fn quotas(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError> {
        self.writer.quotas().await.map_err(DatabaseError::of("read what tenants may have"))
    }

    pub(super) async fn set_limits(
        &self,
        tenant_id: &TenantId,
        limits: QuotaLimits,
    ) -> Result<(), DatabaseError> {
        let set = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            put_limits(&mut transaction, tenant_id, limits).await?;
            sqlx::query(queries::NOTE_OUTSIDE_CHANGE).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        self.ask(set).await.map_err(DatabaseError::of("set what a tenant may have"))
    }

    pub(super) async fn wrong_usage(&self) -> Result<Finding, DatabaseError> {
        let failed = || DatabaseError::of("compare what tenants have with their objects");
        let mut finding = Finding::default();
        for row in &self.rows(sqlx::query(WRONG_USAGE.statement)).await.map_err(failed())? {
            let text: String = column(row, 0).map_err(failed())?;
            finding.add(|| text);
        }
        Ok(finding)
    }

    pub(super) async fn recount_usage(&self) -> Result<(), DatabaseError> {
        let recount = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            // Every batch changes a row of this table first: none runs between the counting and the change.
            sqlx::query("LOCK TABLE instances IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
            for statement in [FORGET_USAGE, COUNT_USAGE, queries::NOTE_OUTSIDE_CHANGE] {
                sqlx::query(statement).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        self.ask(recount).await.map_err(DatabaseError::of("count what tenants have anew"))
    }
}

/// Gives a tenant these limits instead of those that it had.
pub(super) async fn put_limits(
    connection: &mut PgConnection,
    tenant_id: &TenantId,
    limits: QuotaLimits,
) -> sqlx::Result<()> {
    let query = sqlx::query(queries::SET_LIMITS)
        .bind(tenant_id.as_str())
        .bind(limit_column(limits.bytes_max))
        .bind(limit_column(limits.objects_max));
    query.execute(&mut *connection).await?;
    let forget = sqlx::query(queries::DROP_LIMITS).bind(tenant_id.as_str());
    forget.execute(&mut *connection).await.map(|_| ())
}

/// What the tenants have and may have that `writes` add to, of those that have limits. What is read here, other servers'
/// batches change: of two that would pass a limit together, PostgreSQL lets one commit.
pub(super) async fn load_quotas(
    connection: &mut PgConnection,
    writes: &[Write],
) -> sqlx::Result<HashMap<TenantId, Quota>> {
    let tenants: Vec<_> =
        growing_tenants(writes).into_iter().map(|tenant_id| tenant_id.as_str().to_owned()).collect();
    if tenants.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(queries::HELD_QUOTAS).bind(tenants).fetch_all(connection).await?;
    Ok(quotas(&rows)?.into_iter().collect())
}

/// The values of [`queries::PUT_USAGE`].
pub(super) fn bind_usage<'q>(
    query: PgQuery<'q>,
    usage: &[(TenantId, UsageChange)],
    writer: InstanceId,
) -> PgQuery<'q> {
    // Less than there are shards.
    let shard = writer.to_i64().rem_euclid(SHARDS) as i16;
    query
        .bind(usage.iter().map(|(tenant_id, _)| tenant_id.as_str().to_owned()).collect::<Vec<_>>())
        .bind(usage.iter().map(|(_, change)| change.bytes).collect::<Vec<_>>())
        .bind(usage.iter().map(|(_, change)| change.objects).collect::<Vec<_>>())
        .bind(shard)
}

pub(super) fn quotas(rows: &[PgRow]) -> sqlx::Result<Vec<(TenantId, Quota)>> {
    rows.iter().map(quota).collect()
}

fn quota(row: &PgRow) -> sqlx::Result<(TenantId, Quota)> {
    let tenant_id = TenantId::parse(column(row, 0)?).map_err(undecodable)?;
    let limits = [column(row, 1)?, column(row, 2)?];
    Ok((tenant_id, quota_of_columns(limits, [column(row, 3)?, column(row, 4)?])))
}
