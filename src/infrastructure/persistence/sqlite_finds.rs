//! Finding many objects on SQLite.

use sqlx::SqlitePool;
use uuid::Uuid;

use super::columns::undecodable;
use super::queries;
use super::sqlite_api_keys::namespaces_json;
use super::sqlite_texts::{ContentTypes, ObjectRow, rows, text};
use crate::domain::entities::{Reach, Scope, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{Key, ObjectId, TenantId};

/// How many are looked for with one statement. If each of them has as much metadata as it may, the text is some megabytes.
const FOUND_AT_ONCE: usize = 256;

/// A name's place in the caller's list, and what is known of it.
type Indexed<T> = (usize, T);

/// What is found by ids, as far as it is within reach.
pub(super) async fn find_by_id(
    readers: &SqlitePool,
    reach: Option<&Reach>,
    ids: &[Indexed<&ObjectId>],
) -> sqlx::Result<Vec<Indexed<StoredObject>>> {
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(FOUND_AT_ONCE) {
        let digits = |(_, id): &Indexed<&ObjectId>| Uuid::from_bytes(*id.as_bytes()).simple().to_string();
        let query = sqlx::query(queries::FIND_EACH_BY_ID)
            .bind(json(&ids.iter().map(digits).collect::<Vec<_>>())?)
            .bind(reach.and_then(Reach::tenant_id).map(TenantId::as_str))
            .bind(reach.and_then(Reach::namespaces).map(namespaces_json));
        let text = text(query, readers).await?;
        let mut types = ContentTypes::default();
        for row in rows::<ObjectRow<'_>>(&text)? {
            let index = ids.get(row.index()?).ok_or_else(strange)?.0;
            let (scope, key) = (row.scope()?, row.parsed_key()?);
            found.push((index, row.into_stored((scope, key), &mut types)?));
        }
    }
    Ok(found)
}

/// What is found by the keys of a scope.
pub(super) async fn find_by_key(
    readers: &SqlitePool,
    scope: &Scope,
    keys: &[Indexed<&Key>],
) -> sqlx::Result<Vec<Indexed<StoredObject>>> {
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(FOUND_AT_ONCE) {
        let query = sqlx::query(queries::FIND_EACH_BY_KEY)
            .bind(scope.namespace.as_str())
            .bind(scope.tenant_id.as_str())
            .bind(json(&keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>())?);
        let text = text(query, readers).await?;
        let mut types = ContentTypes::default();
        for row in rows::<ObjectRow<'_>>(&text)? {
            let (index, key) = *keys.get(row.index()?).ok_or_else(strange)?;
            found.push((index, row.into_stored((scope.clone(), Some(key.clone())), &mut types)?));
        }
    }
    Ok(found)
}

fn json<T: AsRef<str> + serde::Serialize>(texts: &[T]) -> sqlx::Result<String> {
    serde_json::to_string(texts).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn strange() -> sqlx::Error {
    undecodable(InvalidValue::ObjectId)
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchContext;
    use super::super::database::{Database, DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::ports::ObjectName;
    use crate::domain::entities::KeyPath;
    use crate::domain::value_objects::{ContentType, InstanceId, Timestamp};
    use crate::infrastructure::plane_channel::Write;

    #[tokio::test]
    async fn what_is_found_of_many_is_what_is_found_of_one() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap();
        let mut commits = [a_commit(Some("k \"\\/ä"), 1, u64::MAX >> 1), a_commit(None, 2, 0)];
        let object = &mut commits[0].stored.object;
        object.metadata.insert("framework", "torch \"2\" \\ ~").unwrap();
        object.content_type = ContentType::parse("text/plain; charset=\"u\\\"tf\"").unwrap();
        let (path, ids) =
            (object.key_path().unwrap(), commits.each_ref().map(|commit| commit.stored.object.id));
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        database.apply(&commits.map(Write::Commit), &mut 1, context).await.unwrap();

        let within =
            |tenant_id: &str| Reach::parse(tenant_id, Some([path.scope.namespace.as_str()])).unwrap();
        let there = [
            ObjectName::Key(path.clone()),
            ObjectName::Id(ids[0]),
            ObjectName::Id(ids[1]),
            ObjectName::of_id(ids[1], &within(path.scope.tenant_id.as_str())),
        ];
        let nothing = [
            ObjectName::Key(KeyPath { key: Key::parse("nothing").unwrap(), ..path.clone() }),
            ObjectName::Id(ObjectId::generate()),
            ObjectName::of_id(ids[1], &within("other")),
        ];
        // At both sides of where one statement ends, and the next.
        for before in [0, FOUND_AT_ONCE - 1, FOUND_AT_ONCE, 2 * FOUND_AT_ONCE - 1, 2 * FOUND_AT_ONCE] {
            let mut names: Vec<_> = nothing.iter().flat_map(|name| vec![name.clone(); before]).collect();
            names.extend_from_slice(&there);
            let found = database.find_each(&names).await.unwrap();
            assert!(found[..3 * before].iter().all(Option::is_none));
            for (name, found) in there.iter().zip(&found[3 * before..]) {
                assert!(found.is_some() && *found == database.find(name).await.unwrap(), "{name:?}");
            }
        }
    }
}
