//! Listings on SQLite.

use std::cmp::Reverse;

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Connection as _, Sqlite, SqliteConnection};

use super::columns::{class_number, status_number};
use super::errors::DatabaseError;
use super::key_walk::KeyWalk;
use super::queries;
use super::sqlite::SqliteDatabase;
use super::sqlite_texts::{ContentTypes, KeyRow, ObjectRow, rows, text, walked_texts};
use crate::application::key_listing::{KeyPage, KeyQuery, VersionQuery, WalkedKey};
use crate::application::ports::{ListPage, ListQuery};
use crate::domain::entities::{KeyPath, Object};
use crate::domain::value_objects::ObjectStatus;

/// How many one statement yields: the text of more could be long, with as much metadata as there may be.
const LISTED_AT_ONCE: usize = 256;

impl SqliteDatabase {
    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage, DatabaseError> {
        let text = if query.storage_class.is_some() { queries::LIST_CLASS } else { queries::LIST_BOTH };
        let statement = |before, count| {
            let statement = sqlx::query(text)
                .bind(query.scope.namespace.as_str())
                .bind(query.scope.tenant_id.as_str())
                .bind(status_number(query.status))
                .bind(before)
                .bind(count);
            match query.storage_class {
                Some(class) => statement.bind(class_number(class)),
                None => statement,
            }
        };
        let object = |row: ObjectRow<'_>, types: &mut ContentTypes| {
            let key = row.parsed_key()?;
            row.into_object((query.scope.clone(), key), query.status, types)
        };
        let page = self.page((query.before, query.limit), statement, object).await;
        page.map_err(DatabaseError::of("list objects"))
    }

    pub(super) async fn list_keys(&self, query: &KeyQuery) -> Result<KeyPage, DatabaseError> {
        let walked = self.walk(query).await.map_err(DatabaseError::of("list keys"))?;
        Ok(KeyPage::of_walk(query, walked))
    }

    /// Goes from part to part as a page does.
    async fn walk(&self, query: &KeyQuery) -> sqlx::Result<Vec<WalkedKey>> {
        let mut reader = self.readers.acquire().await?;
        if (query.limit as usize) < LISTED_AT_ONCE {
            return walk_by_parts(&mut reader, query).await;
        }
        let mut snapshot = reader.begin().await?;
        let walked = walk_by_parts(&mut snapshot, query).await?;
        snapshot.rollback().await?;
        Ok(walked)
    }

    pub(super) async fn list_versions(&self, query: &VersionQuery) -> Result<ListPage, DatabaseError> {
        let KeyPath { scope, key } = &query.key_path;
        let statement = |before, count| {
            sqlx::query(queries::LIST_VERSIONS)
                .bind(scope.namespace.as_str())
                .bind(scope.tenant_id.as_str())
                .bind(key.as_str())
                .bind(before)
                .bind(count)
        };
        let object = |row: ObjectRow<'_>, types: &mut ContentTypes| {
            row.into_object((scope.clone(), Some(key.clone())), ObjectStatus::Committed, types)
        };
        let page = self.page((query.before, query.limit), statement, object).await;
        page.map_err(DatabaseError::of("list versions"))
    }

    /// One page of what a statement finds before a sequence, so many at most.
    async fn page<'q>(
        &self,
        (before, limit): (Option<u64>, u32),
        statement: impl Fn(i64, i64) -> Query<'q, Sqlite, SqliteArguments>,
        object: impl Fn(ObjectRow<'_>, &mut ContentTypes) -> sqlx::Result<Object>,
    ) -> sqlx::Result<ListPage> {
        let (before, limit) = (before.map_or(i64::MAX, u64::cast_signed), limit as usize);
        let mut reader = self.readers.acquire().await?;
        if limit < LISTED_AT_ONCE {
            return page_by_parts(&mut reader, (before, limit), statement, object).await;
        }
        // All parts of a page show the same state.
        let mut snapshot = reader.begin().await?;
        let page = page_by_parts(&mut snapshot, (before, limit), statement, object).await?;
        snapshot.rollback().await?;
        Ok(page)
    }
}

/// Each part goes on where the one before ended.
async fn page_by_parts<'q>(
    reader: &mut SqliteConnection,
    (mut before, limit): (i64, usize),
    statement: impl Fn(i64, i64) -> Query<'q, Sqlite, SqliteArguments>,
    object: impl Fn(ObjectRow<'_>, &mut ContentTypes) -> sqlx::Result<Object>,
) -> sqlx::Result<ListPage> {
    let mut objects = Vec::with_capacity(limit);
    let mut types = ContentTypes::default();
    loop {
        // One more than asked for tells whether there is a next page.
        let count = (limit - objects.len() + 1).min(LISTED_AT_ONCE);
        let text = text(statement(before, count as i64), &mut *reader).await?;
        let mut rows = rows::<ObjectRow<'_>>(&text)?;
        rows.sort_unstable_by_key(|row| Reverse(row.number));
        let is_last = rows.len() < count;
        for row in rows {
            if objects.len() == limit {
                return Ok(ListPage { objects, next: Some(before.cast_unsigned()) });
            }
            before = row.number;
            objects.push(object(row, &mut types)?);
        }
        if is_last {
            return Ok(ListPage { objects, next: None });
        }
    }
}

async fn walk_by_parts(reader: &mut SqliteConnection, query: &KeyQuery) -> sqlx::Result<Vec<WalkedKey>> {
    let (mut walked, mut part) = (Vec::new(), query.clone());
    // One more than asked for tells whether there is a next page.
    let mut wanted = query.limit as usize + 1;
    loop {
        let count = wanted.min(LISTED_AT_ONCE);
        let mut walk = KeyWalk::of(&part);
        walk.wanted = count as i32;
        walk.looked_at_max -= walked.len() as i32;
        let more = walk_on(reader, query, walk).await?;
        let shown = more.iter().filter(|walked| walked.is_shown).count();
        part.after = more.last().map(|last| last.position(query));
        walked.extend(more);
        wanted -= shown;
        if shown < count || wanted == 0 {
            return Ok(walked);
        }
    }
}

async fn walk_on(
    reader: &mut SqliteConnection,
    query: &KeyQuery,
    walk: KeyWalk<'_>,
) -> sqlx::Result<Vec<WalkedKey>> {
    let text = if query.storage_class.is_some() { queries::LIST_KEYS_OF_CLASS } else { queries::LIST_KEYS };
    let mut statement = sqlx::query(text)
        .bind(query.scope.namespace.as_str())
        .bind(query.scope.tenant_id.as_str())
        .bind(walk.from)
        .bind(walk.up_to)
        .bind(walk.prefix_characters)
        .bind(walk.delimiter)
        .bind(walk.beyond)
        .bind(walk.wanted);
    if let Some(class) = query.storage_class {
        statement = statement.bind(class_number(class)).bind(walk.looked_at_max);
    }
    let (objects, keys) = walked_texts(statement, reader).await?;
    let (mut objects, mut keys) = (rows::<ObjectRow<'_>>(&objects)?, rows::<KeyRow<'_>>(&keys)?);
    objects.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    keys.sort_unstable();
    let (mut objects, mut types) = (objects.into_iter().peekable(), ContentTypes::default());
    let walked = keys.into_iter().map(|KeyRow { key, is_shown }| {
        let row = objects.next_if(|row| row.key.as_ref() == Some(&key));
        let object = row.map(|row| {
            let name = (query.scope.clone(), row.parsed_key()?);
            row.into_object(name, ObjectStatus::Committed, &mut types)
        });
        Ok(WalkedKey { key: key.into_owned(), is_shown: is_shown != 0, object: object.transpose()? })
    });
    walked.collect()
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchContext;
    use super::super::database::{Database, DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::domain::value_objects::{ContentType, Delimiter, InstanceId, StorageClass, Timestamp};
    use crate::infrastructure::plane_channel::Write;

    /// Two parts and a little more, newest first.
    async fn store(database: &Database) -> Vec<Object> {
        let mut commits: Vec<_> = (0..2 * LISTED_AT_ONCE + 3)
            .map(|size| a_commit(Some("k \"\\/ä\u{2028}"), 1, size as u64))
            .collect();
        for commit in commits.iter_mut().step_by(3) {
            let object = &mut commit.stored.object;
            object.metadata.insert("framework", "torch \"2\" \\ ~").unwrap();
            object.content_type = ContentType::parse("text/plain; charset=\"u\\\"tf\"").unwrap();
            object.storage_class = StorageClass::Cold;
        }
        let objects = commits.iter().rev().map(|commit| commit.stored.object.clone()).collect();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        let writes: Vec<_> = commits.into_iter().map(Write::Commit).collect();
        database.apply(&writes, &mut 1, context).await.unwrap();
        objects
    }

    /// All pages of so many.
    async fn pages(limit: usize, list: impl AsyncFn(u32, Option<u64>) -> ListPage) -> Vec<Object> {
        let (mut objects, mut before) = (Vec::new(), None);
        loop {
            let page = list(limit as u32, before).await;
            let is_full = page.objects.len() == limit;
            objects.extend(page.objects);
            before = page.next;
            if before.is_none() {
                return objects;
            }
            assert!(is_full, "only the last page shows less");
        }
    }

    #[tokio::test]
    async fn a_page_of_many_parts_is_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap();
        let objects = store(&database).await;
        let key_path = objects[0].key_path().unwrap();
        let part = LISTED_AT_ONCE;
        for limit in [part - 1, part, part + 1, 2 * part, objects.len() - 1, objects.len(), objects.len() + 1]
        {
            let versions = async |limit, before| {
                let query = VersionQuery { key_path: key_path.clone(), limit, before };
                database.list_versions(&query).await.unwrap()
            };
            assert_eq!(pages(limit, versions).await, objects, "versions, {limit} a page");
            for class in [None, Some(StorageClass::Hot), Some(StorageClass::Cold)] {
                let listed = async |limit, before| {
                    let (scope, status) = (key_path.scope.clone(), ObjectStatus::Committed);
                    let query = ListQuery { scope, status, storage_class: class, limit, before };
                    database.list(&query).await.unwrap()
                };
                let is_listed = |object: &&Object| class.is_none_or(|class| class == object.storage_class);
                let expected: Vec<_> = objects.iter().filter(is_listed).cloned().collect();
                assert_eq!(pages(limit, listed).await, expected, "{class:?}, {limit} a page");
            }
        }
    }

    #[tokio::test]
    async fn a_walk_of_many_parts_is_a_walk() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap();
        let part = LISTED_AT_ONCE;
        let key = |number: usize| match number % 4 {
            0 => format!("{number:04}/\"ä\""),
            _ => format!("{number:04}"),
        };
        let mut commits: Vec<_> =
            (0..2 * part + 3).map(|number| a_commit(Some(&key(number)), 1, 1)).collect();
        for commit in commits.iter_mut().step_by(3) {
            commit.stored.object.storage_class = StorageClass::Cold;
        }
        let objects: Vec<_> = commits.iter().map(|commit| commit.stored.object.clone()).collect();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        let writes: Vec<_> = commits.into_iter().map(Write::Commit).collect();
        database.apply(&writes, &mut 1, context).await.unwrap();

        for delimiter in [None, Some("/")] {
            for class in [None, Some(StorageClass::Hot), Some(StorageClass::Cold)] {
                let is_listed = |object: &&Object| class.is_none_or(|class| class == object.storage_class);
                let is_common = |object: &&Object| {
                    delimiter.is_some() && object.key.as_ref().unwrap().as_str().contains('/')
                };
                let (common, single): (Vec<_>, Vec<_>) =
                    objects.iter().filter(is_listed).partition(is_common);
                let common: Vec<_> = common
                    .iter()
                    .map(|object| object.key.as_ref().unwrap().as_str()[..5].to_owned())
                    .collect();
                for limit in [part - 1, part, part + 1, 2 * part, objects.len() - 1, objects.len(), 1000] {
                    let mut query = KeyQuery {
                        scope: objects[0].scope.clone(),
                        prefix: Default::default(),
                        delimiter: delimiter.map(|delimiter| Delimiter::parse(delimiter).unwrap()),
                        storage_class: class,
                        limit: limit as u32,
                        after: None,
                    };
                    let mut all = KeyPage::default();
                    loop {
                        let page = database.list_keys(&query).await.unwrap();
                        let is_full = page.objects.len() + page.common_prefixes.len() == limit;
                        all.objects.extend(page.objects);
                        all.common_prefixes.extend(page.common_prefixes);
                        query.after = page.next;
                        if query.after.is_none() {
                            break;
                        }
                        assert!(is_full, "only the last page shows less");
                    }
                    assert!(all.objects.iter().eq(single.iter().copied()), "{delimiter:?} {class:?} {limit}");
                    assert_eq!(all.common_prefixes, common, "{delimiter:?} {class:?} {limit}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_being_written_is_listed_without_hash_and_size() {
        let directory = tempfile::tempdir().unwrap();
        let database =
            SqliteDatabase::open(&directory.path().join("m.db"), DatabaseSettings::OF_TEST).await.unwrap();
        let row = "INSERT INTO objects (sequence, id, namespace, tenant_id, status, storage_class, content_type, metadata,
                                        writer, created_at, updated_at)
                   VALUES (1, randomblob(16), 'models', 'acme', 0, 1, 'a/b', '{}', 1, 5, 6)";
        sqlx::query(row).execute(&database.writer).await.unwrap();
        let (scope, status) = (crate::application::fakes::a_scope("models", "acme"), ObjectStatus::Writing);
        let query = ListQuery { scope, status, storage_class: None, limit: 1, before: None };
        let page = database.list(&query).await.unwrap();
        let [object] = &page.objects[..] else { panic!("there is one") };
        assert_eq!((object.status, object.key.clone(), page.next), (ObjectStatus::Writing, None, None));
        assert_eq!((object.content_hash, object.size_bytes), (None, None));
    }
}
