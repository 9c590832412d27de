//! Many objects of SQLite as one text. They do not come as rows: of a row each value is copied by itself, and each row may wake
//! the thread that waits for it, which together costs several times as much as to find it.

use std::borrow::Cow;

use serde::Deserialize;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqliteExecutor};
use uuid::Uuid;

use super::columns::{class_of_number, metadata_of_json, undecodable};
use crate::domain::entities::{Object, Scope, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{
    ContentHash, ContentType, Key, Namespace, ObjectId, ObjectStatus, Place, TenantId, Timestamp,
};

/// What a statement of `objects_text!` yields.
pub(super) async fn text(
    query: Query<'_, Sqlite, SqliteArguments>,
    database: impl SqliteExecutor<'_>,
) -> sqlx::Result<String> {
    query.fetch_one(database).await?.try_get(0)
}

/// What a statement of `walked_texts!` yields: objects, and keys.
pub(super) async fn walked_texts(
    query: Query<'_, Sqlite, SqliteArguments>,
    database: impl SqliteExecutor<'_>,
) -> sqlx::Result<(String, String)> {
    let row = query.fetch_one(database).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The rows that stand in a text.
pub(super) fn rows<'t, Row: Deserialize<'t>>(text: &'t str) -> sqlx::Result<Vec<Row>> {
    serde_json::from_str(text).map_err(undecodable)
}

/// A key that a walk has come to.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyRow<'r> {
    #[serde(borrow)]
    pub(super) key: Cow<'r, str>,
    /// Not 0 if it is asked for.
    pub(super) is_shown: u8,
}

/// What `objects_text!` yields, in its order.
#[derive(Deserialize)]
pub(super) struct ObjectRow<'r> {
    /// Which of the names that the statement was asked for it is; of a page, its sequence.
    pub(super) number: i64,
    id: &'r str,
    storage_class: i16,
    /// Empty where there is none.
    content_hash: &'r str,
    size_bytes: Option<i64>,
    #[serde(borrow)]
    content_type: Cow<'r, str>,
    #[serde(borrow)]
    metadata: Cow<'r, str>,
    created_at: i64,
    updated_at: i64,
    /// This and what follows is there where it is not known already.
    #[serde(borrow, default)]
    pub(super) key: Option<Cow<'r, str>>,
    #[serde(default)]
    place: &'r str,
    #[serde(default)]
    damaged: u8,
    #[serde(default)]
    namespace: &'r str,
    #[serde(default)]
    tenant_id: &'r str,
}

impl ObjectRow<'_> {
    pub(super) fn index(&self) -> sqlx::Result<usize> {
        usize::try_from(self.number).map_err(undecodable)
    }

    pub(super) fn scope(&self) -> sqlx::Result<Scope> {
        Ok(Scope {
            namespace: Namespace::parse(self.namespace).map_err(undecodable)?,
            tenant_id: TenantId::parse(self.tenant_id).map_err(undecodable)?,
        })
    }

    pub(super) fn parsed_key(&self) -> sqlx::Result<Option<Key>> {
        self.key.as_deref().map(Key::parse).transpose().map_err(undecodable)
    }

    pub(super) fn into_object(
        self,
        (scope, key): (Scope, Option<Key>),
        status: ObjectStatus,
        types: &mut ContentTypes,
    ) -> sqlx::Result<Object> {
        let id = Uuid::try_parse(self.id).map_err(undecodable)?;
        let digits = Some(self.content_hash).filter(|digits| !digits.is_empty());
        Ok(Object {
            id: ObjectId::from_slice(id.as_bytes()).map_err(undecodable)?,
            scope,
            key,
            status,
            storage_class: class_of_number(self.storage_class)?,
            content_hash: digits.map(ContentHash::from_hex).transpose().map_err(undecodable)?,
            size_bytes: self.size_bytes.map(i64::cast_unsigned),
            content_type: types.of(&self.content_type)?,
            metadata: metadata_of_json(&self.metadata)?,
            created_at: Timestamp::from_millis(self.created_at),
            updated_at: Timestamp::from_millis(self.updated_at),
        })
    }

    /// What is stored is committed.
    pub(super) fn into_stored(
        self,
        name: (Scope, Option<Key>),
        types: &mut ContentTypes,
    ) -> sqlx::Result<StoredObject> {
        let place = Place::parse(self.place).map_err(undecodable)?;
        let damaged = self.damaged != 0;
        let object = self.into_object(name, ObjectStatus::Committed, types)?;
        let (Some(content_hash), Some(size_bytes)) = (object.content_hash, object.size_bytes) else {
            return Err(undecodable(InvalidValue::ContentHash));
        };
        Ok(StoredObject { object, content_hash, size_bytes, place, damaged })
    }
}

/// The media type hardly differs from object to object: the same one is kept once for as many as follow each other.
#[derive(Default)]
pub(super) struct ContentTypes(Option<ContentType>);

impl ContentTypes {
    fn of(&mut self, text: &str) -> sqlx::Result<ContentType> {
        match &self.0 {
            Some(last) if last.as_str() == text => Ok(last.clone()),
            _ => Ok(self.0.insert(ContentType::parse(text).map_err(undecodable)?).clone()),
        }
    }
}
