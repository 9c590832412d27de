//! What tenants have and may have, on SQLite.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::sqlite::{SqliteRow, SqliteTransaction};

use super::batch::growing_tenants;
use super::columns::{limit_column, quota_of_columns, undecodable};
use super::errors::DatabaseError;
use super::maintenance::{Check, Finding};
use super::queries;
use super::sqlite::SqliteDatabase;
use super::sqlite_columns::column;
use crate::domain::entities::{Quota, QuotaLimits, UsageChange};
use crate::domain::value_objects::TenantId;
use crate::infrastructure::plane_channel::Write;

/// Tenants whose usage is not what their objects amount to.
pub(super) const WRONG_USAGE: Check = Check {
    name: "wrong_usage",
    statement: "
        WITH counted AS (
            SELECT tenant_id, coalesce(sum(size_bytes), 0) AS bytes, count(*) AS objects
            FROM objects WHERE status = 1 GROUP BY tenant_id)
        SELECT t.tenant_id || ': ' || coalesce(u.bytes, 0) || ' bytes in ' || coalesce(u.objects, 0)
            || ' objects instead of ' || coalesce(c.bytes, 0) || ' in ' || coalesce(c.objects, 0)
        FROM (SELECT tenant_id FROM tenant_usage UNION SELECT tenant_id FROM counted) AS t
        LEFT JOIN tenant_usage AS u ON u.tenant_id = t.tenant_id
        LEFT JOIN counted AS c ON c.tenant_id = t.tenant_id
        WHERE coalesce(u.bytes, 0) <> coalesce(c.bytes, 0) OR coalesce(u.objects, 0) <> coalesce(c.objects, 0)
        ORDER BY t.tenant_id",
};

const TENANTS: &str = "
    SELECT t.tenant_id, l.bytes_max, l.objects_max, u.bytes, u.objects
    FROM (SELECT tenant_id FROM tenant_usage UNION SELECT tenant_id FROM tenant_limits) AS t
    LEFT JOIN tenant_limits AS l ON l.tenant_id = t.tenant_id
    LEFT JOIN tenant_usage AS u ON u.tenant_id = t.tenant_id
    ORDER BY t.tenant_id";

const FORGET_USAGE: &str = "DELETE FROM tenant_usage";
const COUNT_USAGE: &str = "
    INSERT INTO tenant_usage (tenant_id, bytes, objects)
    SELECT tenant_id, coalesce(sum(size_bytes), 0), count(*) FROM objects WHERE status = 1 GROUP BY tenant_id";

impl SqliteDatabase {
    pub(super) async fn tenants(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError> {
        let rows = sqlx::query(TENANTS).fetch_all(&self.readers).await;
        rows.and_then(|rows| quotas(&rows)).map_err(DatabaseError::of("read the tenants"))
    }

    pub(super) async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, DatabaseError> {
        let query = sqlx::query(queries::QUOTAS_OF).bind(json!([tenant_id.as_str()]).to_string());
        let row = query.fetch_one(&self.readers).await;
        let quota = row.and_then(|row| quota(&row)).map(|(_, quota)| quota);
        quota.map_err(DatabaseError::of("read what a tenant has"))
    }

    /// On the connection that writes: it never waits for readers, and nothing is changed meanwhile.
    pub(super) async fn quotas(&self) -> Result<Vec<(TenantId, Quota)>, DatabaseError> {
        let rows = sqlx::query(queries::QUOTAS).fetch_all(&self.writer).await;
        rows.and_then(|rows| quotas(&rows)).map_err(DatabaseError::of("read what tenants may have"))
    }

    pub(super) async fn set_limits(
        &self,
        tenant_id: &TenantId,
        limits: QuotaLimits,
    ) -> Result<(), DatabaseError> {
        self.in_transaction(async |transaction| {
            let set = async {
                put_limits(transaction, tenant_id, limits).await?;
                sqlx::query(queries::NOTE_OUTSIDE_CHANGE).execute(&mut **transaction).await
            };
            set.await.map(|_| ()).map_err(DatabaseError::of("set what a tenant may have"))
        })
        .await
    }

    pub(super) async fn wrong_usage(&self) -> Result<Finding, DatabaseError> {
        let failed = || DatabaseError::of("compare what tenants have with their objects");
        let rows = sqlx::query(WRONG_USAGE.statement).fetch_all(&self.readers).await.map_err(failed())?;
        let mut finding = Finding::default();
        for row in &rows {
            let text: String = column(row, 0).map_err(failed())?;
            finding.add(|| text);
        }
        Ok(finding)
    }

    pub(super) async fn recount_usage(&self) -> Result<(), DatabaseError> {
        self.in_transaction(async |transaction| {
            for statement in [FORGET_USAGE, COUNT_USAGE, queries::NOTE_OUTSIDE_CHANGE] {
                let done = sqlx::query(statement).execute(&mut **transaction).await;
                done.map_err(DatabaseError::of("count what tenants have anew"))?;
            }
            Ok(())
        })
        .await
    }
}

/// Gives a tenant these limits instead of those that it had.
pub(super) async fn put_limits(
    transaction: &mut SqliteTransaction<'_>,
    tenant_id: &TenantId,
    limits: QuotaLimits,
) -> sqlx::Result<()> {
    let query = sqlx::query(queries::SET_LIMITS)
        .bind(tenant_id.as_str())
        .bind(limit_column(limits.bytes_max))
        .bind(limit_column(limits.objects_max));
    query.execute(&mut **transaction).await?;
    let forget = sqlx::query(queries::DROP_LIMITS).bind(tenant_id.as_str());
    forget.execute(&mut **transaction).await.map(|_| ())
}

/// What the tenants have and may have that `writes` add to, of those that have limits.
pub(super) async fn load_quotas(
    transaction: &mut SqliteTransaction<'_>,
    writes: &[Write],
) -> sqlx::Result<HashMap<TenantId, Quota>> {
    let tenants = growing_tenants(writes);
    if tenants.is_empty() {
        return Ok(HashMap::new());
    }
    let tenants = tenants.into_iter().map(|tenant_id| tenant_id.as_str().into()).collect();
    let query = sqlx::query(queries::QUOTAS_OF).bind(Value::Array(tenants).to_string());
    let quotas = quotas(&query.fetch_all(&mut **transaction).await?)?;
    Ok(quotas.into_iter().filter(|(_, quota)| !quota.limits.is_none()).collect())
}

/// The values of [`queries::PUT_USAGE`].
pub(super) fn usage_json(usage: &[(TenantId, UsageChange)]) -> String {
    let row = |(tenant_id, change): &(TenantId, UsageChange)| {
        json!([tenant_id.as_str(), change.bytes, change.objects])
    };
    Value::Array(usage.iter().map(row).collect()).to_string()
}

pub(super) fn quotas(rows: &[SqliteRow]) -> sqlx::Result<Vec<(TenantId, Quota)>> {
    rows.iter().map(quota).collect()
}

fn quota(row: &SqliteRow) -> sqlx::Result<(TenantId, Quota)> {
    let tenant_id = TenantId::parse(column(row, 0)?).map_err(undecodable)?;
    let limits = [column(row, 1)?, column(row, 2)?];
    Ok((tenant_id, quota_of_columns(limits, [column(row, 3)?, column(row, 4)?])))
}
