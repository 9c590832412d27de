//! What listings by key and of versions find, held to a model that reads everything and passes over nothing. Run on the
//! fake and on both databases; every case has a tenant of its own.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use super::contract::a_commit;
use super::fakes::{a_scope, block_on};
use super::key_listing::{KEYS_PASSED_OVER_MAX, KeyPage, KeyPosition, KeyQuery, VersionQuery};
use super::ports::{CommitOutcome, DeleteOutcome, ObjectCommit, ObjectRepository};
use crate::domain::entities::{KeyPath, Object, Scope};
use crate::domain::value_objects::{
    Delimiter, Key, KeyPrefix, ObjectId, Precondition, StorageClass, TenantId,
};

/// Cases of the comparison with the model.
const CASES: u32 = 24;

/// Runs every case on one repository.
pub(crate) fn key_listing_contract<R: ObjectRepository>(repository: &R) {
    block_on(async {
        keys_are_in_the_order_of_their_bytes_and_each_is_there_once(repository).await;
        the_last_keys_that_there_can_be_are_found(repository).await;
        a_page_passes_over_so_many_keys_and_no_more(repository).await;
        versions_page_newest_first(repository).await;
    });
    lists_what_the_model_lists(repository);
}

/// A commit under a tenant's key.
fn of_tenant(tenant_id: &str, key: Option<&str>, storage_class: StorageClass) -> ObjectCommit {
    let mut commit = a_commit(key, 1, 1);
    commit.stored.object.scope = a_scope("models", tenant_id);
    commit.stored.object.storage_class = storage_class;
    commit
}

/// Commits all of them, in this order: writes are queued when they are first polled.
async fn commit_all<R: ObjectRepository>(repository: &R, commits: Vec<ObjectCommit>) -> Vec<Object> {
    let objects = commits.iter().map(|commit| commit.stored.object.clone()).collect();
    let commits = commits.into_iter().map(|commit| repository.commit(commit, R::Room::default()));
    for outcome in join_all(commits).await {
        assert!(matches!(outcome, Ok(CommitOutcome::Committed { .. })), "{outcome:?}");
    }
    objects
}

async fn commit_keys<R: ObjectRepository>(repository: &R, tenant_id: &str, keys: &[&str]) -> Vec<Object> {
    let commits = keys.iter().map(|key| of_tenant(tenant_id, Some(key), StorageClass::Hot)).collect();
    commit_all(repository, commits).await
}

fn a_query(tenant_id: &str, prefix: &str, delimiter: Option<&str>) -> KeyQuery {
    KeyQuery {
        scope: a_scope("models", tenant_id),
        prefix: KeyPrefix::parse(prefix).unwrap(),
        delimiter: delimiter.map(|delimiter| Delimiter::parse(delimiter).unwrap()),
        storage_class: None,
        limit: 1000,
        after: None,
    }
}

/// What stands in a page: keys and common prefixes.
fn shown(page: &KeyPage) -> (Vec<&str>, Vec<&str>) {
    let keys = page.objects.iter().map(|object| object.key.as_ref().unwrap().as_str());
    (keys.collect(), page.common_prefixes.iter().map(String::as_str).collect())
}

/// All pages of a listing as one.
async fn walk(repository: &impl ObjectRepository, query: &KeyQuery) -> KeyPage {
    let (mut all, mut query) = (KeyPage::default(), query.clone());
    loop {
        let page = repository.list_keys(query.clone()).await.unwrap();
        let count = page.objects.len() + page.common_prefixes.len();
        assert!(count <= query.limit as usize, "{query:?}: {page:?}");
        all.objects.extend(page.objects);
        all.common_prefixes.extend(page.common_prefixes);
        let Some(next) = page.next else { return all };
        assert!(query.storage_class.is_some() || count == query.limit as usize, "a page with a next is full");
        assert!(query.after.is_none_or(|before| end(&before) < end(&next)), "{next:?}");
        query.after = Some(next);
    }
}

/// Where the next page goes on: behind a key, or behind all that begin so. A page that had passed over some of those keys
/// for their class can be followed by one that ends with what they have in common.
fn end(position: &KeyPosition) -> String {
    match position {
        KeyPosition::Key(text) => text.clone(),
        KeyPosition::Common(text) => text.clone() + &"\u{10ffff}".repeat(Key::BYTES_MAX / 4),
    }
}

async fn keys_are_in_the_order_of_their_bytes_and_each_is_there_once<R: ObjectRepository>(repository: &R) {
    let keys =
        ["b", "a/b", "ä", "B", "a", "a.b", "a%b", "a_b", "\u{e000}", "\u{d7ff}", "\u{1f600}", "a/b/c", "a0"];
    commit_keys(repository, "order", &keys).await;
    let newest = commit_keys(repository, "order", &["a", "a/b"]).await;
    let nameless = of_tenant("order", None, StorageClass::Hot);
    commit_all(repository, vec![nameless]).await;
    commit_keys(repository, "order-", &["a", "c"]).await;
    let list =
        async |prefix, delimiter| repository.list_keys(a_query("order", prefix, delimiter)).await.unwrap();

    let page = list("", None).await;
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(shown(&page), (sorted, vec![]));
    assert_eq!((&page.objects[1], page.next.as_ref()), (&newest[0], None), "it is the newest version");
    assert_eq!(shown(&list("a", None).await).0, ["a", "a%b", "a.b", "a/b", "a/b/c", "a0", "a_b"]);
    assert_eq!(shown(&list("a/", None).await).0, ["a/b", "a/b/c"]);
    for nothing in ["%", "a\\", "/", "a//", "ab", "A", "a/b/c/"] {
        assert_eq!(list(nothing, None).await, KeyPage::default(), "{nothing}");
    }
    assert_eq!(shown(&list("a", Some("/")).await), (vec!["a", "a%b", "a.b", "a0", "a_b"], vec!["a/"]));
    assert_eq!(shown(&list("a/", Some("/")).await), (vec!["a/b"], vec!["a/b/"]));
    assert_eq!(shown(&list("a/b", Some("/")).await), (vec!["a/b"], vec!["a/b/"]));
    assert_eq!(shown(&list("a/b/", Some("/")).await), (vec!["a/b/c"], vec![]));
    assert_eq!(shown(&list("a", Some("b")).await).1, ["a%b", "a.b", "a/b", "a_b"]);

    // What is forgotten is not there, and what it had hidden is.
    let forget = async |object: &Object| {
        let outcome = repository.delete(object.id, Precondition::default()).await.unwrap();
        assert!(matches!(outcome, DeleteOutcome::Deleted { .. }));
    };
    forget(&newest[0]).await;
    let page = list("a", Some("/")).await;
    assert!(page.objects[0].key == newest[0].key && page.objects[0].id != newest[0].id);
    forget(&page.objects[0]).await;
    assert_eq!(shown(&list("a", Some("/")).await).0[0], "a%b");
}

async fn the_last_keys_that_there_can_be_are_found<R: ObjectRepository>(repository: &R) {
    let last = "\u{10ffff}";
    let (longest, under) = (last.repeat(256), format!("a/{}k", last.repeat(255)));
    let keys = ["a/", &under, last, &format!("{last}/k"), &longest];
    let mut keys: Vec<&str> = keys.into_iter().filter(|key| Key::parse(key).is_ok()).collect();
    commit_keys(repository, "last", &keys).await;
    keys.sort_unstable();
    for limit in [1, 2, 1000] {
        let list = async |prefix, delimiter| {
            walk(repository, &KeyQuery { limit, ..a_query("last", prefix, delimiter) }).await
        };
        assert_eq!(shown(&list("", None).await).0, keys);
        assert_eq!(shown(&list(last, None).await).0, keys[1..]);
        assert_eq!(shown(&list(&longest, None).await).0, [&longest]);
        assert_eq!(shown(&list("", Some(last)).await), (vec![], vec!["a/\u{10ffff}", last]));
        assert_eq!(shown(&list("", Some("/")).await), (vec![last, &*longest], vec!["a/", "\u{10ffff}/"]));
    }
}

async fn a_page_passes_over_so_many_keys_and_no_more<R: ObjectRepository>(repository: &R) {
    let hot = (0..KEYS_PASSED_OVER_MAX + 2).map(|number| format!("d/{number:04}"));
    let hot: Vec<_> = hot.map(|key| of_tenant("passed", Some(&key), StorageClass::Hot)).collect();
    for some in hot.chunks(200) {
        commit_all(repository, some.to_vec()).await;
    }
    let cold = ["a", "d/z", "z"].map(|key| of_tenant("passed", Some(key), StorageClass::Cold));
    commit_all(repository, cold.into()).await;
    let cold =
        KeyQuery { storage_class: Some(StorageClass::Cold), limit: 2, ..a_query("passed", "", Some("/")) };
    let first = repository.list_keys(cold.clone()).await.unwrap();
    // Two that are shown, one that would tell that there is more, and a thousand: the last of these is just behind.
    let reached = KeyPosition::Key(format!("d/{:04}", KEYS_PASSED_OVER_MAX + 1));
    assert_eq!((shown(&first), &first.next), ((vec!["a"], vec![]), &Some(reached)));
    let rest = repository.list_keys(KeyQuery { after: first.next, ..cold.clone() }).await.unwrap();
    assert_eq!((shown(&rest), &rest.next), ((vec!["z"], vec!["d/"]), &None));
    let within = repository.list_keys(KeyQuery { limit: 3, ..cold.clone() }).await.unwrap();
    assert_eq!(
        (shown(&within), &within.next),
        ((vec!["a"], vec!["d/"]), &Some(KeyPosition::Common("d/".into())))
    );
    let all = walk(repository, &KeyQuery { limit: 1000, ..cold }).await;
    assert_eq!(shown(&all), (vec!["a", "z"], vec!["d/"]));
}

async fn versions_page_newest_first<R: ObjectRepository>(repository: &R) {
    let mut versions =
        commit_keys(repository, "versions", &["k", "kk", "k", "j", "k", "k", "k/k", "k"]).await;
    commit_keys(repository, "versions-", &["k"]).await;
    let key = Key::parse("k").unwrap();
    versions.retain(|object| object.key.as_ref() == Some(&key));
    versions.reverse();
    repository.delete(versions.remove(1).id, Precondition::default()).await.unwrap();
    for limit in [1, 2, 3, 4, 5, 1000] {
        let key_path = KeyPath { scope: a_scope("models", "versions"), key: key.clone() };
        let (mut found, mut query) = (Vec::new(), VersionQuery { key_path, limit, before: None });
        loop {
            let page = repository.list_versions(query.clone()).await.unwrap();
            assert!(page.objects.len() == limit as usize || page.next.is_none());
            found.extend(page.objects);
            query.before = page.next;
            if query.before.is_none() {
                break;
            }
        }
        assert_eq!(found, versions, "limit {limit}");
    }
    let key_path = KeyPath { scope: a_scope("models", "versions"), key: Key::parse("none").unwrap() };
    let none = repository.list_versions(VersionQuery { key_path, limit: 1, before: None }).await.unwrap();
    assert!(none.objects.is_empty() && none.next.is_none());
}

/// A character of keys: those that patterns mean something by, that are near to each other, or that take more than a byte.
fn a_character() -> impl Strategy<Value = &'static str> {
    select(
        &[
            "a",
            "b",
            "/",
            "/",
            "%",
            "_",
            "\\",
            " ",
            "Z",
            "~",
            "ä",
            "\u{d7ff}",
            "\u{e000}",
            "\u{ffff}",
            "\u{10000}",
            "\u{10ffff}",
        ][..],
    )
}

fn a_text(characters: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(a_character(), characters).prop_map(|characters| characters.concat())
}

/// A version of a key, in which class, and whether it is deleted again.
fn a_version() -> impl Strategy<Value = (String, StorageClass, bool)> {
    let key = a_text(1..6).prop_filter("a key", |key| Key::parse(key).is_ok());
    (key, a_class(), prop::bool::weighted(0.15))
}

fn a_class() -> impl Strategy<Value = StorageClass> {
    select(&[StorageClass::Hot, StorageClass::Cold][..])
}

/// A question: the key that its prefix is from and how much of it, or another text; delimiter, class and limit.
type Question = ((Index, Index, Option<String>), Option<String>, Option<StorageClass>, u32);

fn a_question() -> impl Strategy<Value = Question> {
    (
        (any::<Index>(), any::<Index>(), prop::option::weighted(0.2, a_text(0..3))),
        prop::option::weighted(0.8, prop_oneof![Just("/".to_owned()), a_text(1..3)]),
        prop::option::weighted(0.3, a_class()),
        prop_oneof![1..6u32, Just(1000)],
    )
}

fn lists_what_the_model_lists(repository: &impl ObjectRepository) {
    let config =
        Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let cases = (vec(a_version(), 1..50), vec(any::<Index>(), 0..20), vec(a_question(), 12));
    let number = Cell::new(0);
    let ran = TestRunner::new(config).run(&cases, |(mut versions, again, questions)| {
        // Some keys have several versions.
        for index in again {
            let (key, class, _) = index.get(&versions).clone();
            let other = if class == StorageClass::Hot { StorageClass::Cold } else { StorageClass::Hot };
            versions.push((key, other, false));
        }
        number.set(number.get() + 1);
        let scope = a_scope("models", &format!("case-{}", number.get()));
        block_on(compare(repository, &scope, &versions, &questions));
        Ok(())
    });
    ran.unwrap();
}

async fn compare<R: ObjectRepository>(
    repository: &R,
    scope: &Scope,
    versions: &[(String, StorageClass, bool)],
    questions: &[Question],
) {
    let tenant_id = TenantId::as_str(&scope.tenant_id);
    let commits = versions.iter().map(|(key, class, _)| of_tenant(tenant_id, Some(key), *class)).collect();
    let objects = commit_all(repository, commits).await;
    let is_deleted = |index: usize| versions[index].2;
    let deleted =
        objects.iter().enumerate().filter(|(index, _)| is_deleted(*index)).map(|(_, object)| object.id);
    let deleted: Vec<ObjectId> = deleted.collect();
    for outcome in join_all(deleted.iter().map(|id| repository.delete(*id, Precondition::default()))).await {
        outcome.unwrap();
    }
    let left = objects.iter().filter(|object| !deleted.contains(&object.id));
    let newest: BTreeMap<&str, &Object> =
        left.map(|object| (object.key.as_ref().unwrap().as_str(), object)).collect();
    for ((key, length, other), delimiter, storage_class, limit) in questions {
        let key = &key.get(versions).0;
        let ends: Vec<usize> = key.char_indices().map(|(index, _)| index).chain([key.len()]).collect();
        let prefix = other.as_deref().unwrap_or(&key[..*length.get(&ends)]);
        let query = KeyQuery {
            storage_class: *storage_class,
            limit: *limit,
            ..a_query(tenant_id, prefix, delimiter.as_deref())
        };
        let (mut expected, mut common_prefixes) = (Vec::new(), BTreeSet::new());
        for (key, object) in &newest {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            if storage_class.is_some_and(|class| object.storage_class != class) {
                continue;
            }
            match delimiter.as_ref().and_then(|delimiter| rest.split_once(delimiter.as_str())) {
                Some((level, _)) => {
                    common_prefixes
                        .insert(format!("{prefix}{level}{}", delimiter.as_deref().unwrap_or_default()));
                }
                None => expected.push((*object).clone()),
            }
        }
        let found = walk(repository, &query).await;
        let common_prefixes: Vec<_> = common_prefixes.into_iter().collect();
        assert_eq!((&found.objects, &found.common_prefixes), (&expected, &common_prefixes), "{query:?}");
    }
}
