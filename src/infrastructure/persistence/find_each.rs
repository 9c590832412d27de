//! Finding many objects with few statements: one for all ids that the same credential asks for, one for all keys of a scope,
//! and one for each thousand contents.

use std::collections::{HashMap, HashSet};

use super::errors::DatabaseError;
use super::postgres::PostgresDatabase;
use super::postgres_queries;
use super::postgres_rows::{self, names as namespaces_of, uuid_of};
use super::sqlite::SqliteDatabase;
use super::sqlite_finds::{find_by_id, find_by_key};
use crate::application::ports::ObjectName;
use crate::domain::entities::{KeyPath, Reach, Scope, StoredObject};
use crate::domain::value_objects::{ContentHash, Key, ObjectId};

const OPERATION: &str = "find objects";

impl SqliteDatabase {
    /// In the order of the names.
    pub(super) async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<StoredObject>>, DatabaseError> {
        let mut found = vec![None; names.len()];
        let mut note = |some: Vec<(usize, StoredObject)>| {
            some.into_iter().for_each(|(index, object)| found[index] = Some(object));
        };
        for (reach, ids) in by_reach(names) {
            note(find_by_id(&self.readers, reach, &ids).await.map_err(DatabaseError::of(OPERATION))?);
        }
        for (scope, keys) in by_scope(names) {
            note(find_by_key(&self.readers, scope, &keys).await.map_err(DatabaseError::of(OPERATION))?);
        }
        let mut contents = HashMap::new();
        for (reach, hashes) in by_content(names) {
            let some = self.find_contents(&hashes, reach).await?;
            contents.extend(some.into_iter().map(|object| (content_within(&object, reach), object)));
        }
        for (index, name) in names.iter().enumerate() {
            if let Some(object) = contents.get(name) {
                found[index] = Some(object.clone());
            }
        }
        Ok(found)
    }
}

impl PostgresDatabase {
    /// In the order of the names.
    pub(super) async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<StoredObject>>, DatabaseError> {
        let mut found = HashMap::with_capacity(names.len());
        for (reach, ids) in by_reach(names) {
            let tenant_id = reach.and_then(Reach::tenant_id).map(|tenant_id| tenant_id.as_str().to_owned());
            let query = sqlx::query(postgres_queries::FIND_EACH_BY_ID)
                .bind(ids.into_iter().map(|(_, id)| uuid_of(id)).collect::<Vec<_>>())
                .bind(tenant_id)
                .bind(reach.and_then(namespaces_of));
            let rows = self.rows(query).await.map_err(DatabaseError::of(OPERATION))?;
            for row in &rows {
                let object = postgres_rows::stored_object(row).map_err(DatabaseError::of(OPERATION))?;
                found.insert(name_within(object.object.id, reach), object);
            }
        }
        for (scope, keys) in by_scope(names) {
            let query = sqlx::query(postgres_queries::FIND_EACH_BY_KEY)
                .bind(scope.namespace.as_str())
                .bind(scope.tenant_id.as_str())
                .bind(keys.iter().map(|(_, key)| key.as_str().to_owned()).collect::<Vec<_>>());
            let rows = self.rows(query).await.map_err(DatabaseError::of(OPERATION))?;
            for row in &rows {
                let object = postgres_rows::stored_object(row).map_err(DatabaseError::of(OPERATION))?;
                found.extend(object.object.key_path().map(|path| (ObjectName::Key(path), object)));
            }
        }
        for (reach, hashes) in by_content(names) {
            let contents = self.find_contents(&hashes, reach).await?;
            found.extend(contents.into_iter().map(|object| (content_within(&object, reach), object)));
        }
        Ok(in_order(names, &found))
    }
}

/// Ids and their places among the names.
fn by_reach(names: &[ObjectName]) -> HashMap<Option<&Reach>, Vec<(usize, &ObjectId)>> {
    let mut ids: HashMap<_, Vec<_>> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        match name {
            ObjectName::Id(id) => ids.entry(None).or_default().push((index, id)),
            ObjectName::IdWithin(id, reach) => ids.entry(Some(reach)).or_default().push((index, id)),
            ObjectName::Key(_) | ObjectName::Content(..) => {}
        }
    }
    ids
}

/// Keys and their places among the names.
fn by_scope(names: &[ObjectName]) -> HashMap<&Scope, Vec<(usize, &Key)>> {
    let mut keys: HashMap<_, Vec<_>> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let ObjectName::Key(KeyPath { scope, key }) = name {
            keys.entry(scope).or_default().push((index, key));
        }
    }
    keys
}

/// Each content once: many names may mean the same.
fn by_content(names: &[ObjectName]) -> HashMap<&Reach, Vec<ContentHash>> {
    let mut hashes: HashMap<_, HashSet<_>> = HashMap::new();
    for name in names {
        if let ObjectName::Content(hash, reach) = name {
            hashes.entry(reach).or_default().insert(*hash);
        }
    }
    hashes.into_iter().map(|(reach, hashes)| (reach, hashes.into_iter().collect())).collect()
}

fn content_within(object: &StoredObject, reach: &Reach) -> ObjectName {
    ObjectName::Content(object.content_hash, reach.clone())
}

fn name_within(id: ObjectId, reach: Option<&Reach>) -> ObjectName {
    match reach {
        None => ObjectName::Id(id),
        Some(reach) => ObjectName::IdWithin(id, reach.clone()),
    }
}

fn in_order(names: &[ObjectName], found: &HashMap<ObjectName, StoredObject>) -> Vec<Option<StoredObject>> {
    names.iter().map(|name| found.get(name).cloned()).collect()
}
