//! Rows of SQLite as what they mean.

use std::collections::HashMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row as _, Sqlite, Type};

use super::batch::HeldObject;
use super::census::CountedObjects;
use super::columns::{class_of_number, metadata_of_json, status_of_number, undecodable};
use super::database::RootRow;
use crate::domain::entities::{BlobLocation, KeyPath, Object, Scope, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{
    ContentHash, ContentType, Key, Namespace, ObjectId, Place, StorageClass, TenantId, Timestamp,
};

pub(super) fn held_objects(rows: &[SqliteRow]) -> sqlx::Result<HashMap<ObjectId, HeldObject>> {
    let decode = |row: &SqliteRow| {
        let id = ObjectId::from_slice(column(row, 1)?).map_err(undecodable)?;
        let (scope, key) = (scope(row)?, column::<Option<&str>>(row, 4)?);
        let (tenant_id, key) =
            (scope.tenant_id.clone(), key.map(Key::parse).transpose().map_err(undecodable)?);
        let held = HeldObject {
            sequence: column::<i64>(row, 0)?.cast_unsigned(),
            tenant_id,
            key_path: key.map(|key| KeyPath { scope, key }),
            status: status_of_number(column(row, 5)?)?,
            storage_class: storage_class(row, 6)?,
            content_hash: optional_hash(row, 7)?,
            updated_at: Timestamp::from_millis(column(row, 8)?),
            size_bytes: column::<Option<i64>>(row, 9)?.map(i64::cast_unsigned),
        };
        Ok((id, held))
    };
    rows.iter().map(decode).collect()
}

/// Reads `object_columns!`.
pub(super) fn object(row: &SqliteRow) -> sqlx::Result<Object> {
    Ok(Object {
        id: ObjectId::from_slice(column(row, 1)?).map_err(undecodable)?,
        scope: scope(row)?,
        key: column::<Option<&str>>(row, 4)?.map(Key::parse).transpose().map_err(undecodable)?,
        status: status_of_number(column(row, 5)?)?,
        storage_class: storage_class(row, 6)?,
        content_hash: optional_hash(row, 7)?,
        size_bytes: column::<Option<i64>>(row, 8)?.map(i64::cast_unsigned),
        content_type: ContentType::parse(column(row, 9)?).map_err(undecodable)?,
        metadata: metadata_of_json(column(row, 10)?)?,
        created_at: Timestamp::from_millis(column(row, 11)?),
        updated_at: Timestamp::from_millis(column(row, 12)?),
    })
}

/// Reads `object_columns!`, and the place and its state behind them.
pub(super) fn stored_object(row: &SqliteRow) -> sqlx::Result<StoredObject> {
    let object = object(row)?;
    let (Some(content_hash), Some(size_bytes)) = (object.content_hash, object.size_bytes) else {
        return Err(undecodable(InvalidValue::ContentHash));
    };
    let (place, damaged) = (place(row, 13)?, column(row, 14)?);
    Ok(StoredObject { object, content_hash, size_bytes, place, damaged })
}

pub(super) fn key_path(row: &SqliteRow) -> sqlx::Result<KeyPath> {
    let scope = Scope {
        namespace: Namespace::parse(column(row, 0)?).map_err(undecodable)?,
        tenant_id: TenantId::parse(column(row, 1)?).map_err(undecodable)?,
    };
    Ok(KeyPath { scope, key: Key::parse(column(row, 2)?).map_err(undecodable)? })
}

fn scope(row: &SqliteRow) -> sqlx::Result<Scope> {
    Ok(Scope {
        namespace: Namespace::parse(column(row, 2)?).map_err(undecodable)?,
        tenant_id: TenantId::parse(column(row, 3)?).map_err(undecodable)?,
    })
}

pub(super) fn root_row(row: &SqliteRow) -> sqlx::Result<RootRow> {
    let identity = uuid::Uuid::from_slice(column::<&[u8]>(row, 0)?).map_err(undecodable)?;
    Ok(RootRow { identity, claimed: column(row, 1)? })
}

pub(super) fn content_hash(row: &SqliteRow, index: usize) -> sqlx::Result<ContentHash> {
    ContentHash::from_slice(column(row, index)?).map_err(undecodable)
}

pub(super) fn optional_hash(row: &SqliteRow, index: usize) -> sqlx::Result<Option<ContentHash>> {
    column::<Option<&[u8]>>(row, index)?.map(ContentHash::from_slice).transpose().map_err(undecodable)
}

pub(super) fn counted_objects(row: &SqliteRow) -> sqlx::Result<CountedObjects> {
    let (owner, state) = ((column(row, 0)?, column(row, 1)?), (column(row, 2)?, column(row, 3)?));
    CountedObjects::of_columns(owner, state, [column(row, 4)?, column(row, 5)?, column(row, 6)?])
}

pub(super) fn storage_class(row: &SqliteRow, index: usize) -> sqlx::Result<StorageClass> {
    class_of_number(column(row, index)?)
}

pub(super) fn place(row: &SqliteRow, index: usize) -> sqlx::Result<Place> {
    Place::parse(column(row, index)?).map_err(undecodable)
}

/// Reads a hash, a class and a place.
pub(super) fn blob_location(row: &SqliteRow) -> sqlx::Result<BlobLocation> {
    let (content_hash, storage_class) = (content_hash(row, 0)?, storage_class(row, 1)?);
    Ok(BlobLocation { content_hash, storage_class, place: place(row, 2)? })
}

pub(super) fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
    row: &'r SqliteRow,
    index: usize,
) -> sqlx::Result<T> {
    row.try_get(index)
}
