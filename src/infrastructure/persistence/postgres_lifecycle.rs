//! The rules of namespaces and what they look at, on PostgreSQL.

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::columns::{class_number, undecodable};
use super::errors::DatabaseError;
use super::lifecycle::{
    AgesPage, LifecycleFacts, VersionRow, behind_every_key, clock_marks, standing_rule, tenant_text,
};
use super::postgres::PostgresDatabase;
use super::postgres_queries as queries;
use super::postgres_rows::{bind_ids, column, object, uuid_of};
use crate::domain::entities::{ClockMarks, Day, LifecycleRule, Scope, StandingRule};
use crate::domain::value_objects::{Key, Namespace, ObjectId, StorageClass, TenantId, Timestamp};

/// How many columns `object_columns!` has.
const OBJECT_COLUMNS: usize = 13;

impl PostgresDatabase {
    pub(super) async fn lifecycle_rule(
        &self,
        namespace: &Namespace,
    ) -> Result<Option<StandingRule>, DatabaseError> {
        let row = self.optional_row(sqlx::query(queries::LIFECYCLE_RULE).bind(namespace.as_str())).await;
        let rule = row.and_then(|row| row.as_ref().map(rule_of_namespace).transpose());
        rule.map(|rule| rule.map(|(_, standing)| standing))
            .map_err(DatabaseError::of("read a namespace's rule"))
    }

    pub(super) async fn lifecycle_rules_after(
        &self,
        after: Option<&Namespace>,
        limit: u32,
    ) -> Result<Vec<(Namespace, StandingRule)>, DatabaseError> {
        let query = sqlx::query(queries::LIFECYCLE_RULES_AFTER);
        let rows = self.rows(query.bind(after.map_or("", Namespace::as_str)).bind(i64::from(limit))).await;
        let rules = rows.and_then(|rows| rows.iter().map(rule_of_namespace).collect());
        rules.map_err(DatabaseError::of("read the rules of namespaces"))
    }

    pub(super) async fn set_lifecycle_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let set = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            put_rule(&mut transaction, namespace, rule, now).await?;
            sqlx::query(queries::NOTE_OUTSIDE_CHANGE).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        self.ask(set).await.map_err(DatabaseError::of("set a namespace's rule"))
    }

    pub(super) async fn next_tenant(
        &self,
        namespace: &Namespace,
        after: Option<&TenantId>,
    ) -> Result<Option<TenantId>, DatabaseError> {
        let query = sqlx::query(queries::NEXT_TENANT).bind(namespace.as_str()).bind(tenant_text(after));
        let row = self.optional_row(query).await;
        let tenant = |row: &PgRow| TenantId::parse(column(row, 0)?).map_err(undecodable);
        let next = row.and_then(|row| row.as_ref().map(tenant).transpose());
        next.map_err(DatabaseError::of("look for the next tenant"))
    }

    pub(super) async fn ages_end(
        &self,
        scope: &Scope,
        (class, after): (StorageClass, u64),
        limit: u32,
    ) -> Result<Option<u64>, DatabaseError> {
        let query = sqlx::query(queries::AGES_END)
            .bind(scope.namespace.as_str())
            .bind(scope.tenant_id.as_str())
            .bind(class_number(class))
            .bind(after.cast_signed())
            .bind(i64::from(limit));
        let last = self.row(query).await.and_then(|row| column::<Option<i64>>(&row, 0));
        last.map(|last| last.map(i64::cast_unsigned)).map_err(DatabaseError::of("go through objects by age"))
    }

    pub(super) async fn ages(
        &self,
        page: AgesPage<'_>,
    ) -> Result<Vec<(ObjectId, Timestamp, Option<Day>)>, DatabaseError> {
        let query = sqlx::query(queries::AGES)
            .bind(page.scope.namespace.as_str())
            .bind(page.scope.tenant_id.as_str())
            .bind(class_number(page.storage_class))
            .bind(page.after.cast_signed())
            .bind(page.last.cast_signed())
            .bind(page.made_until.as_millis());
        let age = |row: &PgRow| {
            let last_read = column::<Option<i32>>(row, 2)?.map(Day::from_number);
            Ok((object_id(row, 0)?, Timestamp::from_millis(column(row, 1)?), last_read))
        };
        let ages = self.rows(query).await.and_then(|rows| rows.iter().map(age).collect());
        ages.map_err(DatabaseError::of("go through objects by age"))
    }

    pub(super) async fn versions_before(
        &self,
        scope: &Scope,
        before: Option<(&Key, u64)>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, DatabaseError> {
        let key = before.map_or_else(behind_every_key, |(key, _)| key.as_str().to_owned());
        let query = sqlx::query(queries::VERSIONS_BEFORE)
            .bind(scope.namespace.as_str())
            .bind(scope.tenant_id.as_str())
            .bind(key)
            .bind(before.map_or(0, |(_, sequence)| sequence.cast_signed()))
            .bind(i64::from(limit));
        let versions = self.rows(query).await.and_then(|rows| rows.iter().map(version).collect());
        versions.map_err(DatabaseError::of("go through versions"))
    }

    pub(super) async fn lifecycle_facts(
        &self,
        id: ObjectId,
        versions_counted: u32,
    ) -> Result<Option<LifecycleFacts>, DatabaseError> {
        let query =
            sqlx::query(queries::LIFECYCLE_FACTS).bind(uuid_of(&id)).bind(i64::from(versions_counted));
        let facts = |row: PgRow| {
            Ok(LifecycleFacts {
                object: object(&row)?,
                last_read: column::<Option<i32>>(&row, OBJECT_COLUMNS)?.map(Day::from_number),
                newer_versions: column::<i64>(&row, OBJECT_COLUMNS + 1)?.cast_unsigned(),
                standing: standing(&row, OBJECT_COLUMNS + 2)?,
            })
        };
        let facts = self.optional_row(query).await.and_then(|row| row.map(facts).transpose());
        facts.map_err(DatabaseError::of("look at an object's life"))
    }

    pub(super) async fn note_reads(&self, ids: &[ObjectId], day: Day) -> Result<(), DatabaseError> {
        let query = bind_ids(sqlx::query(queries::NOTE_READS), ids.iter()).bind(day.number());
        self.change(query).await.map(|_| ()).map_err(DatabaseError::of("note what was read"))
    }

    pub(super) async fn forget_reads(&self, before: Day, limit: u32) -> Result<u64, DatabaseError> {
        let query = sqlx::query(queries::FORGET_READS).bind(before.number()).bind(i64::from(limit));
        self.change(query).await.map_err(DatabaseError::of("forget old reads"))
    }

    pub(super) async fn clock_marks(&self) -> Result<Option<ClockMarks>, DatabaseError> {
        let marks = |row: PgRow| {
            let trusted = [column(&row, 0)?, column(&row, 1)?];
            Ok(clock_marks(trusted, [column(&row, 2)?, column(&row, 3)?]))
        };
        let row = self.optional_row(sqlx::query(queries::LIFECYCLE_CLOCK)).await;
        let marks = row.and_then(|row| row.map(marks).transpose());
        marks.map_err(DatabaseError::of("read how the clocks stood"))
    }

    pub(super) async fn set_clock_marks(&self, marks: ClockMarks) -> Result<(), DatabaseError> {
        let ClockMarks { trusted, leapt } = marks;
        let query = sqlx::query(queries::SET_LIFECYCLE_CLOCK)
            .bind(trusted.wall.as_millis())
            .bind(trusted.tick.cast_signed())
            .bind(leapt.map(|mark| mark.wall.as_millis()))
            .bind(leapt.map(|mark| mark.tick.cast_signed()));
        self.change(query).await.map(|_| ()).map_err(DatabaseError::of("note how the clocks stand"))
    }
}

/// Gives a namespace this rule instead of the one that it had.
pub(super) async fn put_rule(
    connection: &mut PgConnection,
    namespace: &Namespace,
    rule: LifecycleRule,
    now: Timestamp,
) -> sqlx::Result<()> {
    let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
    let query = if rule.is_none() {
        sqlx::query(queries::DROP_LIFECYCLE_RULE).bind(namespace.as_str())
    } else {
        sqlx::query(queries::SET_LIFECYCLE_RULE)
            .bind(namespace.as_str())
            .bind(number(rule.cold_after_days))
            .bind(number(rule.delete_after_days))
            .bind(number(rule.keep_versions))
            .bind(now.as_millis())
    };
    query.execute(&mut *connection).await.map(|_| ())
}

pub(super) fn rule_of_namespace(row: &PgRow) -> sqlx::Result<(Namespace, StandingRule)> {
    Ok((Namespace::parse(column(row, 0)?).map_err(undecodable)?, standing(row, 1)?))
}

/// Reads a rule from this column on.
fn standing(row: &PgRow, first: usize) -> sqlx::Result<StandingRule> {
    let number = |index| Ok::<_, sqlx::Error>(column::<Option<i32>>(row, index)?.map(i64::from));
    let numbers = [number(first)?, number(first + 1)?, number(first + 2)?];
    Ok(standing_rule(numbers, column(row, first + 3)?))
}

fn version(row: &PgRow) -> sqlx::Result<VersionRow> {
    Ok(VersionRow {
        key: Key::parse(column(row, 0)?).map_err(undecodable)?,
        sequence: column::<i64>(row, 1)?.cast_unsigned(),
        id: object_id(row, 2)?,
    })
}

fn object_id(row: &PgRow, index: usize) -> sqlx::Result<ObjectId> {
    ObjectId::from_slice(column::<Uuid>(row, index)?.as_bytes()).map_err(undecodable)
}
