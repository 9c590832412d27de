//! Rows of PostgreSQL: how they are read, and how many of them become arrays, one a column.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Decode, Postgres, Row as _, Type};
use uuid::Uuid;

use super::batch::{BatchContext, BlobKey, HeldBlob, HeldObject, VersionCount};
use super::census::CountedObjects;
use super::collector::Garbage;
use super::columns::{
    class_number, class_of_number, metadata_json, metadata_of_json, status_number, status_of_number,
    undecodable,
};
use crate::application::ports::ListPage;
use crate::domain::entities::{BlobLocation, KeyPath, Object, Reach, Scope, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{
    ContentHash, ContentType, Key, Namespace, ObjectId, ObjectStatus, Place, StorageClass, TenantId,
    Timestamp,
};

pub(super) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

pub(super) fn bind_ids<'q, 'a>(query: PgQuery<'q>, ids: impl Iterator<Item = &'a ObjectId>) -> PgQuery<'q> {
    query.bind(ids.map(uuid_of).collect::<Vec<_>>())
}

/// An id, and who looks for it.
pub(super) fn bind_within<'q>(text: &'static str, id: &ObjectId, reach: &Reach) -> PgQuery<'q> {
    let tenant_id = reach.tenant_id().map(|tenant_id| tenant_id.as_str().to_owned());
    sqlx::query(text).bind(uuid_of(id)).bind(tenant_id).bind(names(reach))
}

/// The namespaces of a reach; `NULL` for all.
pub(super) fn names(reach: &Reach) -> Option<Vec<String>> {
    reach.namespaces().map(|names| names.iter().map(|name| name.as_str().to_owned()).collect())
}

/// Hashes and classes.
pub(super) fn bind_blob_keys<'q>(query: PgQuery<'q>, keys: impl Iterator<Item = BlobKey>) -> PgQuery<'q> {
    let (hashes, classes): (Vec<_>, Vec<_>) =
        keys.map(|(hash, class)| (hash.as_bytes().to_vec(), class_number(class))).unzip();
    query.bind(hashes).bind(classes)
}

/// Namespaces, tenants and keys, and how many versions of each; `NULL` for all.
pub(super) fn bind_keys<'q>(query: PgQuery<'q>, keys: &BTreeMap<KeyPath, VersionCount>) -> PgQuery<'q> {
    let paths = || keys.keys();
    let versions = keys.values().map(|count| match count {
        VersionCount::AtMost(count) => Some(i64::try_from(*count).unwrap_or(i64::MAX)),
        VersionCount::All => None,
    });
    query
        .bind(paths().map(|path| path.scope.namespace.as_str().to_owned()).collect::<Vec<_>>())
        .bind(paths().map(|path| path.scope.tenant_id.as_str().to_owned()).collect::<Vec<_>>())
        .bind(paths().map(|path| path.key.as_str().to_owned()).collect::<Vec<_>>())
        .bind(versions.collect::<Vec<_>>())
}

/// The rows of `objects`, who wrote them, and which of them are found by their content: all but the first of their blobs.
pub(super) fn bind_objects<'q>(
    query: PgQuery<'q>,
    rows: &[(u64, Object)],
    first_objects: &HashSet<u64>,
    context: BatchContext,
) -> PgQuery<'q> {
    fn column<T>(rows: &[(u64, Object)], value: impl Fn(&Object) -> T) -> Vec<T> {
        rows.iter().map(|(_, object)| value(object)).collect()
    }
    let forgotten_since =
        |object: &Object| (object.status == ObjectStatus::Deleted).then_some(context.tick.cast_signed());
    query
        .bind(rows.iter().map(|(sequence, _)| sequence.cast_signed()).collect::<Vec<_>>())
        .bind(column(rows, |object| uuid_of(&object.id)))
        .bind(column(rows, |object| object.scope.namespace.as_str().to_owned()))
        .bind(column(rows, |object| object.scope.tenant_id.as_str().to_owned()))
        .bind(column(rows, |object| object.key.as_ref().map(|key| key.as_str().to_owned())))
        .bind(column(rows, |object| status_number(object.status)))
        .bind(column(rows, |object| class_number(object.storage_class)))
        .bind(column(rows, |object| object.content_hash.map(|hash| hash.as_bytes().to_vec())))
        .bind(column(rows, |object| object.size_bytes.map(u64::cast_signed)))
        .bind(column(rows, |object| object.content_type.as_str().to_owned()))
        .bind(column(rows, |object| metadata_json(&object.metadata)))
        .bind(column(rows, |object| object.created_at.as_millis()))
        .bind(column(rows, |object| object.updated_at.as_millis()))
        .bind(column(rows, forgotten_since))
        .bind(context.writer.to_i64())
        .bind(rows.iter().map(|(sequence, _)| !first_objects.contains(sequence)).collect::<Vec<_>>())
}

/// The rows of `blobs`.
pub(super) fn bind_blobs<'q>(
    query: PgQuery<'q>,
    rows: &[(BlobKey, HeldBlob)],
    context: BatchContext,
) -> PgQuery<'q> {
    let zero_since = |blob: &HeldBlob| (blob.ref_count == 0).then_some(context.tick.cast_signed());
    bind_blob_keys(query, rows.iter().map(|(key, _)| *key))
        .bind(rows.iter().map(|(_, blob)| blob.size_bytes.cast_signed()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, blob)| blob.ref_count.cast_signed()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, blob)| blob.place.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, blob)| blob.damaged).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, blob)| zero_since(blob)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, blob)| blob.first_object.cast_signed()).collect::<Vec<_>>())
}

/// Hashes, classes, places and sizes.
pub(super) fn bind_garbage_rows<'q>(query: PgQuery<'q>, garbage: &[Garbage]) -> PgQuery<'q> {
    let sizes = garbage.iter().map(|garbage| garbage.size_bytes.cast_signed());
    bind_garbage(query, garbage).bind(sizes.collect::<Vec<_>>())
}

/// Hashes, classes and places.
pub(super) fn bind_garbage<'q>(query: PgQuery<'q>, garbage: &[Garbage]) -> PgQuery<'q> {
    let files = || garbage.iter().map(|garbage| garbage.file);
    bind_blob_keys(query, files().map(|file| (file.content_hash, file.storage_class)))
        .bind(files().map(|file| file.place.to_string()).collect::<Vec<_>>())
}

pub(super) fn uuid_of(id: &ObjectId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn held_objects(rows: &[PgRow]) -> sqlx::Result<HashMap<ObjectId, HeldObject>> {
    let decode = |row: &PgRow| {
        let scope = scope(row)?;
        let held = HeldObject {
            sequence: column::<i64>(row, 0)?.cast_unsigned(),
            tenant_id: scope.tenant_id.clone(),
            key_path: key(row)?.map(|key| KeyPath { scope, key }),
            status: status_of_number(column(row, 5)?)?,
            storage_class: storage_class(row, 6)?,
            content_hash: optional_hash(row, 7)?,
            updated_at: Timestamp::from_millis(column(row, 8)?),
            size_bytes: column::<Option<i64>>(row, 9)?.map(i64::cast_unsigned),
        };
        Ok((id(row)?, held))
    };
    rows.iter().map(decode).collect()
}

pub(super) fn held_blobs(rows: &[PgRow]) -> sqlx::Result<HashMap<BlobKey, HeldBlob>> {
    let decode = |row: &PgRow| {
        let blob = HeldBlob {
            size_bytes: column::<i64>(row, 2)?.cast_unsigned(),
            ref_count: column::<i64>(row, 3)?.cast_unsigned(),
            place: place(row, 4)?,
            damaged: column(row, 5)?,
            first_object: column::<i64>(row, 6)?.cast_unsigned(),
        };
        Ok(((content_hash(row)?, storage_class(row, 1)?), blob))
    };
    rows.iter().map(decode).collect()
}

/// Reads a hash, a class and a place.
pub(super) fn blob_location(row: &PgRow) -> sqlx::Result<BlobLocation> {
    let (content_hash, storage_class) = (content_hash(row)?, storage_class(row, 1)?);
    Ok(BlobLocation { content_hash, storage_class, place: place(row, 2)? })
}

/// Reads a hash, a class, a place and a size.
pub(super) fn garbage(row: &PgRow) -> sqlx::Result<Garbage> {
    Ok(Garbage { file: blob_location(row)?, size_bytes: column::<i64>(row, 3)?.cast_unsigned() })
}

/// Reads `object_columns!`.
pub(super) fn object(row: &PgRow) -> sqlx::Result<Object> {
    Ok(Object {
        id: id(row)?,
        scope: scope(row)?,
        key: key(row)?,
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
pub(super) fn stored_object(row: &PgRow) -> sqlx::Result<StoredObject> {
    let object = object(row)?;
    let (Some(content_hash), Some(size_bytes)) = (object.content_hash, object.size_bytes) else {
        return Err(undecodable(InvalidValue::ContentHash));
    };
    let (place, damaged) = (place(row, 13)?, column(row, 14)?);
    Ok(StoredObject { object, content_hash, size_bytes, place, damaged })
}

pub(super) fn page(rows: &[PgRow], limit: usize) -> sqlx::Result<ListPage> {
    let objects = rows.iter().take(limit).map(object).collect::<sqlx::Result<Vec<_>>>()?;
    let next = match rows.get(limit.wrapping_sub(1)) {
        Some(last) if rows.len() > limit => Some(column::<i64>(last, 0)?.cast_unsigned()),
        _ => None,
    };
    Ok(ListPage { objects, next })
}

pub(super) fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    index: usize,
) -> sqlx::Result<T> {
    row.try_get(index)
}

fn id(row: &PgRow) -> sqlx::Result<ObjectId> {
    ObjectId::from_slice(column::<Uuid>(row, 1)?.as_bytes()).map_err(undecodable)
}

fn scope(row: &PgRow) -> sqlx::Result<Scope> {
    Ok(Scope {
        namespace: Namespace::parse(column(row, 2)?).map_err(undecodable)?,
        tenant_id: TenantId::parse(column(row, 3)?).map_err(undecodable)?,
    })
}

fn key(row: &PgRow) -> sqlx::Result<Option<Key>> {
    column::<Option<&str>>(row, 4)?.map(Key::parse).transpose().map_err(undecodable)
}

pub(super) fn content_hash(row: &PgRow) -> sqlx::Result<ContentHash> {
    ContentHash::from_slice(column(row, 0)?).map_err(undecodable)
}

fn optional_hash(row: &PgRow, index: usize) -> sqlx::Result<Option<ContentHash>> {
    column::<Option<&[u8]>>(row, index)?.map(ContentHash::from_slice).transpose().map_err(undecodable)
}

pub(super) fn counted_objects(row: &PgRow) -> sqlx::Result<CountedObjects> {
    let (owner, state) = ((column(row, 0)?, column(row, 1)?), (column(row, 2)?, column(row, 3)?));
    CountedObjects::of_columns(owner, state, [column(row, 4)?, column(row, 5)?, column(row, 6)?])
}

pub(super) fn storage_class(row: &PgRow, index: usize) -> sqlx::Result<StorageClass> {
    class_of_number(column(row, index)?)
}

fn place(row: &PgRow, index: usize) -> sqlx::Result<Place> {
    Place::parse(column(row, index)?).map_err(undecodable)
}
