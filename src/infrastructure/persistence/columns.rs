//! How values stand in the columns of both databases.

use std::collections::BTreeMap;

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

/// A JSON object of strings.
pub(super) fn metadata_json(metadata: &Metadata) -> String {
    let entries: serde_json::Map<_, _> =
        metadata.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(entries).to_string()
}

/// Reads [`metadata_json`].
pub(super) fn metadata_of_json(text: &str) -> sqlx::Result<Metadata> {
    let entries: BTreeMap<String, String> = serde_json::from_str(text).map_err(undecodable)?;
    let mut metadata = Metadata::default();
    for (name, value) in &entries {
        metadata.insert(name, value).map_err(undecodable)?;
    }
    Ok(metadata)
}

/// A row that this program did not write.
pub(super) fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
