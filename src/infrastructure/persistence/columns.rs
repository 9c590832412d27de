//! How values stand in the columns of both databases.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::domain::entities::{Quota, QuotaLimits, Usage};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{Metadata, ObjectStatus, StorageClass};

pub(super) fn class_number(class: StorageClass) -> i16 {
    match class {
        StorageClass::Hot => 0,
        StorageClass::Cold => 1,
    }
}

pub(super) fn class_of_number(number: i16) -> sqlx::Result<StorageClass> {
    match number {
        0 => Ok(StorageClass::Hot),
        1 => Ok(StorageClass::Cold),
        _ => Err(undecodable(InvalidValue::StorageClass)),
    }
}

pub(super) fn status_number(status: ObjectStatus) -> i16 {
    match status {
        ObjectStatus::Writing => 0,
        ObjectStatus::Committed => 1,
        ObjectStatus::Deleting => 2,
        ObjectStatus::Deleted => 3,
    }
}

pub(super) fn status_of_number(number: i16) -> sqlx::Result<ObjectStatus> {
    match number {
        0 => Ok(ObjectStatus::Writing),
        1 => Ok(ObjectStatus::Committed),
        2 => Ok(ObjectStatus::Deleting),
        3 => Ok(ObjectStatus::Deleted),
        _ => Err(undecodable(InvalidValue::ObjectStatus)),
    }
}

/// The most bytes or objects and how many there are, where there is a row that says so.
pub(super) fn quota_of_columns(
    [bytes_max, objects_max]: [Option<i64>; 2],
    [bytes, objects]: [Option<i64>; 2],
) -> Quota {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let (bytes_max, objects_max) = (bytes_max.map(number), objects_max.map(number));
    let usage = Usage { bytes: bytes.map_or(0, number), objects: objects.map_or(0, number) };
    Quota { usage, limits: QuotaLimits { bytes_max, objects_max } }
}

/// A limit, as large as a column can hold.
pub(super) fn limit_column(limit: Option<u64>) -> Option<i64> {
    limit.map(|limit| limit.min(QuotaLimits::LIMIT_MAX).cast_signed())
}

/// A JSON object of strings.
pub(super) fn metadata_json(metadata: &Metadata) -> String {
    let entries: serde_json::Map<_, _> =
        metadata.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(entries).to_string()
}

/// Reads [`metadata_json`].
pub(super) fn metadata_of_json(text: &str) -> sqlx::Result<Metadata> {
    let entries: BTreeMap<JsonText<'_>, JsonText<'_>> = serde_json::from_str(text).map_err(undecodable)?;
    let mut metadata = Metadata::default();
    for (JsonText(name), JsonText(value)) in &entries {
        metadata.insert(name, value).map_err(undecodable)?;
    }
    Ok(metadata)
}

/// A text that is only copied if something in it is escaped.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct JsonText<'j>(#[serde(borrow)] Cow<'j, str>);

/// A row that this program did not write.
pub(super) fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
