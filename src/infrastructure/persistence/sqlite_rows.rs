//! Rows on their way into statements of SQLite that have places for a fixed number of them ([`ByRows`]).

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteRow, SqliteTransaction};
use sqlx::{Arguments as _, Encode, Sqlite, Type};

use super::batch::{BatchContext, BlobKey, HeldBlob};
use super::columns::{class_number, metadata_json, status_number};
use super::queries::{ByRows, FEW_ROWS, MANY_ROWS};
use crate::domain::entities::{KeyPath, Object};
use crate::domain::value_objects::{Key, ObjectStatus};

/// Executes `statement` for all `rows`, whose values `bind` adds.
pub(super) async fn execute<T>(
    transaction: &mut SqliteTransaction<'_>,
    statement: &ByRows,
    rows: &[T],
    mut bind: impl FnMut(&mut Values, &T),
) -> sqlx::Result<()> {
    for turn in turns(statement, rows) {
        let mut values = Values::default();
        turn.rows.iter().for_each(|row| bind(&mut values, row));
        sqlx::query_with(turn.text, values.finish()?).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// What `statement` finds for all `rows`, whose values `bind` adds. `last` adds those that stand behind the rows.
pub(super) async fn fetch<T>(
    transaction: &mut SqliteTransaction<'_>,
    statement: &ByRows,
    rows: &[T],
    mut bind: impl FnMut(&mut Values, &T),
    last: impl Fn(&mut Values),
) -> sqlx::Result<Vec<SqliteRow>> {
    let mut found = Vec::new();
    for turn in turns(statement, rows) {
        let mut values = Values::default();
        turn.rows.iter().for_each(|row| bind(&mut values, row));
        let row_values = values.count() / turn.rows.len();
        (values.count()..turn.row_count * row_values).for_each(|_| values.add(None::<i64>));
        last(&mut values);
        found.extend(sqlx::query_with(turn.text, values.finish()?).fetch_all(&mut **transaction).await?);
    }
    Ok(found)
}

/// Rows that one execution takes.
struct Turn<'r, T> {
    text: &'static str,
    /// How many it has places for.
    row_count: usize,
    rows: &'r [T],
}

fn turns<'r, T>(statement: &ByRows, rows: &'r [T]) -> impl Iterator<Item = Turn<'r, T>> {
    let (few, many) = (statement.few, statement.many);
    rows.chunks(MANY_ROWS).map(move |rows| match rows.len() {
        ..=FEW_ROWS => Turn { text: few, row_count: FEW_ROWS, rows },
        _ => Turn { text: many, row_count: MANY_ROWS, rows },
    })
}

/// The values of one execution. Those that are missing at the end are NULL.
#[derive(Default)]
pub(super) struct Values {
    arguments: SqliteArguments,
    failure: Option<BoxDynError>,
}

impl Values {
    pub(super) fn add<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) {
        if let Err(error) = self.arguments.add(value) {
            self.failure.get_or_insert(error);
        }
    }

    fn count(&self) -> usize {
        self.arguments.len()
    }

    fn finish(self) -> sqlx::Result<SqliteArguments> {
        self.failure.map_or(Ok(self.arguments), |error| Err(sqlx::Error::Encode(error)))
    }
}

/// The texts that hardly differ from object to object: the same one is kept once for as many rows as follow each other.
pub(super) struct ObjectRows<'c> {
    /// The sequences of those that their blobs name.
    first_objects: &'c HashSet<u64>,
    namespace: RepeatedText,
    tenant_id: RepeatedText,
    content_type: RepeatedText,
    metadata: RepeatedText,
}

#[derive(Default)]
struct RepeatedText(Option<Arc<str>>);

impl RepeatedText {
    fn of(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(last) if **last == *text => last.clone(),
            _ => self.0.insert(text.into()).clone(),
        }
    }
}

impl<'c> ObjectRows<'c> {
    /// Rows that are stored together with blobs of which these are the first objects.
    pub(super) fn beside(first_objects: &'c HashSet<u64>) -> Self {
        let (namespace, tenant_id, content_type, metadata) = Default::default();
        Self { first_objects, namespace, tenant_id, content_type, metadata }
    }

    /// A row of `objects`.
    pub(super) fn bind(
        &mut self,
        values: &mut Values,
        (sequence, object): &(u64, Object),
        context: BatchContext,
    ) {
        let forgotten_since = (object.status == ObjectStatus::Deleted).then_some(context.tick.cast_signed());
        values.add(sequence.cast_signed());
        values.add(&object.id.as_bytes()[..]);
        values.add(self.namespace.of(object.scope.namespace.as_str()));
        values.add(self.tenant_id.of(object.scope.tenant_id.as_str()));
        values.add(object.key.as_ref().map(Key::as_str));
        values.add(status_number(object.status));
        values.add(class_number(object.storage_class));
        values.add(object.content_hash.as_ref().map(|hash| &hash.as_bytes()[..]));
        values.add(object.size_bytes.map(u64::cast_signed));
        values.add(self.content_type.of(object.content_type.as_str()));
        values.add(self.metadata.of(&metadata_json(&object.metadata)));
        values.add(context.writer.to_i64());
        values.add(object.created_at.as_millis());
        values.add(object.updated_at.as_millis());
        values.add(forgotten_since);
        values.add(!self.first_objects.contains(sequence));
    }
}

/// A row of `blobs`.
pub(super) fn bind_blob(values: &mut Values, (key, blob): &(BlobKey, HeldBlob), context: BatchContext) {
    bind_blob_key(values, key);
    values.add(blob.size_bytes.cast_signed());
    values.add(blob.ref_count.cast_signed());
    values.add(blob.place.to_string());
    values.add(blob.damaged);
    values.add((blob.ref_count == 0).then_some(context.tick.cast_signed()));
    values.add(blob.first_object.cast_signed());
}

/// What a row of `blobs` is found by.
pub(super) fn bind_blob_key(values: &mut Values, (hash, class): &BlobKey) {
    values.add(&hash.as_bytes()[..]);
    values.add(class_number(*class));
}

/// What the versions of a key are found by.
pub(super) fn bind_key(values: &mut Values, path: &KeyPath) {
    values.add(path.scope.namespace.as_str());
    values.add(path.scope.tenant_id.as_str());
    values.add(path.key.as_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_turn_in_the_statement_that_it_fits() {
        let statement = ByRows { few: "few", many: "many" };
        for (count, lengths) in [
            (0, &[][..]),
            (1, &[("few", 1)]),
            (FEW_ROWS, &[("few", FEW_ROWS)]),
            (FEW_ROWS + 1, &[("many", FEW_ROWS + 1)]),
            (MANY_ROWS, &[("many", MANY_ROWS)]),
            (MANY_ROWS + 1, &[("many", MANY_ROWS), ("few", 1)]),
        ] {
            let rows: Vec<_> = (0..count).collect();
            let turns: Vec<_> = turns(&statement, &rows).collect();
            let of_turns: Vec<_> = turns.iter().map(|turn| (turn.text, turn.rows.len())).collect();
            assert_eq!(of_turns, lengths);
            assert!(turns.iter().all(|turn| turn.rows.len() <= turn.row_count));
            assert_eq!(turns.iter().flat_map(|turn| turn.rows).copied().collect::<Vec<_>>(), rows);
        }
    }
}
