//! What is of SQLite alone: its plans, its files, and the contracts that every database keeps.

use std::sync::Arc;

use super::*;
use crate::application::contract::{a_commit, api_key_contract, lifecycle_contract, repository_contract};
use crate::application::fakes::FakeClock;
use crate::application::key_listing_contract::key_listing_contract;
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::data_plane::metadata_client::MetadataClient;
use crate::infrastructure::data_plane::object_cache::ObjectCache;
use crate::infrastructure::persistence::batch_pairs::{
    PairWorld, WRITER, every_pair_is_the_same_in_one_batch_and_in_two,
};
use crate::infrastructure::persistence::database::Database;
use crate::infrastructure::persistence::errors::Consequence;
use crate::infrastructure::persistence::maintenance_contract::{give_out_or_change, maintenance_contract};
use crate::infrastructure::persistence::{DatabaseUrl, GcSettings, MetadataPlane, ScrubSettings};
use crate::infrastructure::plane_channel::{Durability, plane_channel};
use crate::infrastructure::storage::Roots;

pub(super) const SETTINGS: DatabaseSettings = DatabaseSettings::OF_TEST;

#[test]
fn the_metadata_plane_on_sqlite_keeps_the_contract() {
    let directories = std::cell::RefCell::new(Vec::new());
    repository_contract(|| {
        let directory = tempfile::tempdir().unwrap();
        let (data_end, metadata_end) = plane_channel(Durability::Transaction);
        plane_in(&directory).start(metadata_end).unwrap();
        directories.borrow_mut().push(directory);
        MetadataClient::new(data_end, Arc::new(ObjectCache::default()), WaitLimit::none(), None)
    });
}

#[test]
fn the_metadata_plane_on_sqlite_lists_keys_as_the_model_does() {
    let directory = tempfile::tempdir().unwrap();
    let (data_end, metadata_end) = plane_channel(Durability::Transaction);
    plane_in(&directory).start(metadata_end).unwrap();
    let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), WaitLimit::none(), None);
    key_listing_contract(&client);
}

#[test]
fn the_metadata_plane_on_sqlite_keeps_the_contract_of_lifecycles() {
    let directories = std::cell::RefCell::new(Vec::new());
    lifecycle_contract(|| {
        let directory = tempfile::tempdir().unwrap();
        let (data_end, metadata_end) = plane_channel(Durability::Transaction);
        plane_in(&directory).start(metadata_end).unwrap();
        directories.borrow_mut().push(directory);
        MetadataClient::new(data_end, Arc::new(ObjectCache::default()), WaitLimit::none(), None)
    });
}

#[test]
fn the_metadata_plane_on_sqlite_keeps_the_contract_of_keys() {
    let directory = tempfile::tempdir().unwrap();
    let (data_end, metadata_end) = plane_channel(Durability::Transaction);
    plane_in(&directory).start(metadata_end).unwrap();
    let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), WaitLimit::none(), None);
    block_on_tokio(async {
        // A tool's, beside the server.
        let database = Database::open_existing(&DatabaseUrl::in_directory(directory.path())).await.unwrap();
        api_key_contract(&client, async |key| give_out_or_change(&database, key).await).await;
    });
}

#[test]
fn a_plane_that_ends_stores_how_far_its_clock_is() {
    let directory = tempfile::tempdir().unwrap();
    let (data_end, metadata_end) = plane_channel(Durability::Transaction);
    let plane = plane_in(&directory).start(metadata_end).unwrap();
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(50) {
        std::thread::yield_now();
    }
    drop(data_end);
    plane.join().unwrap();
    block_on_tokio(async {
        let path = directory.path().join("metadata.db");
        let database = SqliteDatabase::open(&path, SETTINGS).await.unwrap();
        assert!(database.ticks().await.unwrap() >= 50);
    });
}

fn plane_in(directory: &tempfile::TempDir) -> MetadataPlane<FakeClock> {
    let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
    MetadataPlane {
        open_packs: Arc::default(),
        url: DatabaseUrl::in_directory(directory.path()),
        settings: SETTINGS,
        roots,
        instance: InstanceId::generate(),
        clock: FakeClock::default(),
        node: "node".into(),
        gc: GcSettings {
            interval: Duration::from_secs(60),
            batch_size: 100,
            grace: Duration::from_secs(600),
        },
        room: None,
        scrub: ScrubSettings::NEVER,
        on_outside_change: Box::new(|| ()),
        index: None,
        metrics: Arc::default(),
    }
}

struct SqlitePairs {
    /// Goes with the database in it.
    _directory: tempfile::TempDir,
    database: Database,
}

impl SqlitePairs {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Database::open(&url, SETTINGS).await.unwrap();
        Self { _directory: directory, database }
    }
}

impl PairWorld for SqlitePairs {
    async fn emptied(&mut self) -> &Database {
        let Database::Sqlite(database) = &self.database else { panic!("it is SQLite") };
        let empty = "DELETE FROM objects; DELETE FROM blobs; DELETE FROM garbage; DELETE FROM leases; \
                     DELETE FROM tenant_usage";
        sqlx::raw_sql(empty).execute(&database.writer).await.unwrap();
        &self.database
    }

    async fn rows(&self) -> Vec<String> {
        let Database::Sqlite(database) = &self.database else { panic!("it is SQLite") };
        let mut rows = Vec::new();
        for query in [
            "SELECT hex(id) || status || ifnull(hex(content_hash), '') || updated_at || ifnull(key, '') || storage_class || metadata
                || CASE WHEN status = 1 THEN indexed ELSE '' END FROM objects ORDER BY sequence",
            "SELECT hex(content_hash) || storage_class || ref_count || place || damaged
                || CASE WHEN ref_count > 0 THEN first_object ELSE '' END FROM blobs ORDER BY 1",
            "SELECT hex(content_hash) || storage_class || place || size_bytes FROM garbage ORDER BY 1",
            "SELECT tenant_id || ' ' || bytes || ' ' || objects FROM tenant_usage WHERE objects <> 0 OR bytes <> 0",
        ] {
            for row in sqlx::query(query).fetch_all(&database.readers).await.unwrap() {
                rows.push(row.get::<String, _>(0));
            }
        }
        rows
    }
}

#[test]
fn a_batch_is_the_same_as_its_writes_one_after_the_other() {
    block_on_tokio(async {
        let mut world = SqlitePairs::new().await;
        every_pair_is_the_same_in_one_batch_and_in_two(&mut world).await;
    });
}

fn block_on_tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Every statement, and how it finds its rows: what stands behind SEARCH in its plan.
const SEARCHES: [(&str, &[&str]); 76] = [
    (queries::HELD_BY_ID, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)"]),
    (queries::HELD_VERSIONS.few, VERSIONS),
    (queries::HELD_VERSIONS.many, VERSIONS),
    (queries::HELD_BLOBS.few, BLOBS),
    (queries::HELD_BLOBS.many, BLOBS),
    (queries::PUT_OBJECTS.few, &[]),
    (queries::PUT_OBJECTS.many, &[]),
    (queries::DELETE_OBJECTS, &["objects USING INDEX sqlite_autoindex_objects_1 (id=?)"]),
    (queries::ABANDON_OBJECTS, &["objects USING INDEX sqlite_autoindex_objects_1 (id=?)"]),
    (queries::PUT_BLOBS.few, &[]),
    (queries::PUT_BLOBS.many, &[]),
    (queries::FIND_BY_ID, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)", "b USING PRIMARY KEY"]),
    (
        queries::FIND_BY_KEY,
        &["o USING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=?)", "b USING PRIMARY KEY"],
    ),
    (queries::INSPECT_BY_ID, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)"]),
    (queries::FIND_BY_ID_WITHIN, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)", "b USING PRIMARY KEY"]),
    (queries::FIND_EACH_BY_ID, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)", "b USING PRIMARY KEY"]),
    (
        queries::FIND_EACH_BY_KEY,
        &[
            "o USING INTEGER PRIMARY KEY (rowid=?)",
            "n USING COVERING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=?)",
            "b USING PRIMARY KEY",
        ],
    ),
    (queries::INSPECT_BY_ID_WITHIN, &["o USING INDEX sqlite_autoindex_objects_1 (id=?)"]),
    (queries::COUNT_OBJECTS, &["objects USING INTEGER PRIMARY KEY (rowid>?)"]),
    (queries::LIST_BOTH, LISTED),
    (queries::LIST_CLASS, LISTED),
    (queries::LIST_KEYS, WALKED),
    (queries::LIST_KEYS_OF_CLASS, WALKED),
    (
        queries::LIST_VERSIONS,
        &[
            "n USING COVERING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=? AND rowid<?)",
            HAD_OBJECT,
        ],
    ),
    (
        queries::PLACES_NAMED,
        &[
            "b USING PRIMARY KEY (content_hash=? AND storage_class=?)",
            "g USING PRIMARY KEY (content_hash=? AND storage_class=?)",
        ],
    ),
    (queries::PUT_GARBAGE, &[]),
    (queries::SET_CLOCK, &[]),
    (queries::EXPORT_OBJECTS, &[]),
    (
        queries::TICKS,
        &["blobs USING COVERING INDEX blobs_unreferenced", "objects USING COVERING INDEX objects_forgotten"],
    ),
    (queries::MOVE_TO_GARBAGE, &["blobs USING INDEX blobs_unreferenced (zero_since<?)"]),
    (
        queries::FORGET_BLOBS,
        &["blobs USING PRIMARY KEY", "blobs USING INDEX blobs_unreferenced (zero_since<?)"],
    ),
    (queries::PURGE_OBJECTS, &["objects USING COVERING INDEX objects_forgotten (forgotten_since<?)"]),
    (
        queries::FORGET_LEASES,
        &["leases USING PRIMARY KEY", "leases USING COVERING INDEX leases_expiring (expires_at<?)"],
    ),
    (queries::CONTENTS, CONTENTS),
    (queries::CONTENTS_WITHIN, CONTENTS_WITHIN),
    (queries::LEASE_CONTENTS, LEASED),
    (queries::LEASE_CONTENTS_WITHIN, LEASED_WITHIN),
    (
        queries::NOTE_LEASES,
        &[
            "blobs USING PRIMARY KEY (content_hash=?)",
            "l USING PRIMARY KEY (content_hash=? AND tenant_id=? AND storage_class=?)",
        ],
    ),
    (queries::GARBAGE, &[]),
    (queries::FORGET_GARBAGE, &["garbage USING PRIMARY KEY (content_hash=?"]),
    (queries::MOVE_BLOBS, &["blobs USING PRIMARY KEY (content_hash=? AND storage_class=?)"]),
    (queries::PLACES_SERVING, &["b USING PRIMARY KEY (content_hash=? AND storage_class=?)"]),
    (queries::PUT_PACKS, &[]),
    (queries::PACKS, &[]),
    (queries::FORGET_PACK, &["packs USING INTEGER PRIMARY KEY (rowid=?)"]),
    (
        queries::KEYS_AFTER,
        &["objects USING COVERING INDEX objects_keyed ((namespace,tenant_id,key)>(?,?,?))"],
    ),
    (queries::APPLIED_SEQUENCE, &[]),
    (queries::SET_APPLIED_SEQUENCE, &[]),
    (queries::QUOTAS_OF, &["l USING PRIMARY KEY (tenant_id=?)", "u USING PRIMARY KEY (tenant_id=?)"]),
    (queries::QUOTAS, &["u USING PRIMARY KEY (tenant_id=?)"]),
    (queries::PUT_USAGE, &[]),
    (queries::SET_LIMITS, &[]),
    (queries::DROP_LIMITS, &["tenant_limits USING PRIMARY KEY (tenant_id=?)"]),
    (queries::NOTE_OUTSIDE_CHANGE, &[]),
    (queries::API_KEY, &["api_keys USING INTEGER PRIMARY KEY (rowid=?)"]),
    (queries::API_KEYS, &[]),
    (queries::PUT_API_KEY, &[]),
    (queries::REVOKE_API_KEY, &["api_keys USING INTEGER PRIMARY KEY (rowid=?)"]),
    (queries::LIFECYCLE_RULE, &["lifecycle_rules USING PRIMARY KEY (namespace=?)"]),
    (queries::LIFECYCLE_RULES_AFTER, &["lifecycle_rules USING PRIMARY KEY (namespace>?)"]),
    (queries::SET_LIFECYCLE_RULE, &[]),
    (queries::DROP_LIFECYCLE_RULE, &["lifecycle_rules USING PRIMARY KEY (namespace=?)"]),
    (queries::NEXT_TENANT, &["objects USING COVERING INDEX objects_listed (namespace=? AND tenant_id>?)"]),
    (
        queries::AGES_END,
        &["objects USING COVERING INDEX objects_listed \
           (namespace=? AND tenant_id=? AND status=? AND storage_class=? AND rowid>?)"],
    ),
    (
        queries::AGES,
        &[
            "o USING INDEX objects_listed \
             (namespace=? AND tenant_id=? AND status=? AND storage_class=? AND rowid>? AND rowid<?)",
            "r USING PRIMARY KEY (object_id=?)",
        ],
    ),
    (
        queries::OLDER_VERSIONS,
        &["objects USING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=? AND rowid<?)"],
    ),
    (
        queries::VERSIONS_OF_KEYS_BEFORE,
        &["objects USING INDEX objects_keyed (namespace=? AND tenant_id=? AND key>? AND key<?)"],
    ),
    (
        queries::LIFECYCLE_FACTS,
        &[
            "o USING INDEX sqlite_autoindex_objects_1 (id=?)",
            "l USING PRIMARY KEY (namespace=?)",
            "r USING PRIMARY KEY (object_id=?)",
            "n USING COVERING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=? AND rowid>?)",
        ],
    ),
    (queries::NOTE_READS, &[]),
    (
        queries::FORGET_READS,
        &[
            "object_reads USING PRIMARY KEY (object_id=?)",
            "object_reads USING COVERING INDEX object_reads_by_day (day<?)",
        ],
    ),
    (queries::LIFECYCLE_CLOCK, &["lifecycle_clock USING INTEGER PRIMARY KEY (rowid=?)"]),
    (queries::SET_LIFECYCLE_CLOCK, &[]),
    (queries::SCRUB_STATE, &["scrub USING INTEGER PRIMARY KEY (rowid=?)"]),
    (queries::PUT_SCRUB_STATE, &[]),
    (queries::DAMAGED_BLOBS, &["blobs USING COVERING INDEX blobs_damaged (damaged=?)"]),
    (WRITING, &[]),
];
const VERSIONS: &[&str] = &[
    "o USING INTEGER PRIMARY KEY (rowid=?)",
    "n USING COVERING INDEX objects_keyed (namespace=? AND tenant_id=? AND key=?)",
];
const WALKED: &[&str] = &[
    "n USING COVERING INDEX objects_keyed (namespace=? AND tenant_id=? AND key>? AND key<?)",
    "v USING",
    "o USING INTEGER PRIMARY KEY (rowid=?)",
];
const BLOBS: &[&str] = &["b USING PRIMARY KEY (content_hash=? AND storage_class=?)"];
const HAD: &str =
    "h USING COVERING INDEX objects_by_content (content_hash=? AND tenant_id=? AND storage_class=?)";
const HAD_WITHIN: &str = "h USING COVERING INDEX objects_by_content (content_hash=? AND tenant_id=? AND storage_class=? AND namespace=?)";
const FIRST: &str = "h USING INTEGER PRIMARY KEY (rowid=?)";
const BLOB: &str = "b USING PRIMARY KEY (content_hash=?)";
const HAD_OBJECT: &str = "o USING INTEGER PRIMARY KEY (rowid=?)";
const LEASE: &str = "l USING PRIMARY KEY (content_hash=? AND tenant_id=? AND storage_class=?)";
const CONTENTS: &[&str] = &[BLOB, LEASE, HAD_OBJECT, FIRST, HAD];
const CONTENTS_WITHIN: &[&str] = &[BLOB, LEASE, HAD_OBJECT, FIRST, HAD_WITHIN];
const LEASED: &[&str] = &[BLOB, HAD_OBJECT, FIRST, HAD];
const LEASED_WITHIN: &[&str] = &[BLOB, HAD_OBJECT, FIRST, HAD_WITHIN];
const LISTED: &[&str] = &[
    "n USING COVERING INDEX objects_listed (namespace=? AND tenant_id=? AND status=? AND storage_class=? AND rowid<?)",
    HAD_OBJECT,
];
/// What a start clears: its index holds nothing else.
const WRITING: &str = "DELETE FROM objects WHERE status = 0";

#[test]
fn tools_may_rely_on_it() {
    block_on_tokio(async {
        let (world, other) = (SqlitePairs::new().await, SqlitePairs::new().await);
        world.database.begin_instance(WRITER, "node", Timestamp::from_millis(0)).await.unwrap();
        maintenance_contract(&world.database, &other.database).await;
    });
}

#[test]
fn writes_go_on_once_a_full_database_has_room() {
    block_on_tokio(async {
        let directory = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&directory.path().join("m.db"), SETTINGS).await.unwrap();
        let mut next_sequence = 1;
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        let mut commits = (0..).map(|number| Write::Commit(a_commit(None, 1, number)));
        // The limit belongs to the connection, as if the disk had room again for the next one.
        sqlx::query("PRAGMA max_page_count = 1").execute(&database.writer).await.unwrap();
        let error = loop {
            let write = commits.next().unwrap();
            match database.apply(&[write], &mut next_sequence, context).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.consequence(), Consequence::NoSpace);
        let write = commits.next().unwrap();
        assert!(database.apply(&[write], &mut next_sequence, context).await.is_ok());
    });
}

#[test]
fn the_indexes_of_every_statement_are_known() {
    let text = include_str!("../queries.rs");
    let count = |what: &str| text.matches(what).count();
    let statements = count("pub(super) const") - count("_ROWS: usize =") + count("= by_rows!(");
    assert_eq!(SEARCHES.len(), statements + 1, "a new statement says here what it is found by");
}

/// What is wrong with the plans of the statements.
async fn strange_plans(database: &SqliteDatabase, tables: &str) -> String {
    // What is scanned is the parameter, the keys that a walk has come to, the two halves of a page, a page, or what waits to be removed: never a table.
    const SCANS: [&str; 13] = [
        "CONSTANT ROW",
        "w",
        "8-ROW VALUES CLAUSE",
        "64-ROW VALUES CLAUSE",
        "j VIRTUAL TABLE",
        "json_each VIRTUAL TABLE",
        "(subquery",
        "page",
        "garbage",
        "holds",
        "clock",
        "tenant_limits",
        "objects USING INDEX objects_writing",
    ];
    let mut strange = String::new();
    for (query, searches) in SEARCHES {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let rows = sqlx::query(explain).fetch_all(&database.writer).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get::<String, _>("detail")).collect();
        let plan = plan.join("\n");
        let missing = searches.iter().any(|search| !plan.contains(&format!("SEARCH {search}")));
        let mut scans = plan.lines().filter_map(|line| line.strip_prefix("SCAN "));
        let scans = ![queries::EXPORT_OBJECTS, queries::PACKS, queries::API_KEYS].contains(&query)
            && scans.any(|scan| !SCANS.iter().any(|allowed| scan.starts_with(allowed)));
        let sorts = plan.contains("USE TEMP B-TREE FOR ORDER BY")
            && ![queries::LIST_BOTH, queries::API_KEYS].contains(&query);
        if missing || scans || sorts {
            strange.push_str(&format!("on {tables} tables, not by {searches:?}: {query}\n{plan}\n\n"));
        }
    }
    strange
}

/// Most of it is of one tenant and one state, and of few keys.
const FILL: &str = "
    WITH numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
    INSERT INTO objects
    SELECT n, randomblob(16), 'models', CASE WHEN n % 5000 = 0 THEN 'small' ELSE 'acme' END,
           CASE WHEN n % 2 = 0 THEN 'k' || n % 20 END, CASE n % 500 WHEN 1 THEN 3 WHEN 3 THEN 0 ELSE 1 END, n % 9 = 0,
           randomblob(32), 1, 'a/b', '{}', n % 7, 0, 0, CASE WHEN n % 500 = 1 THEN n END, n % 8 = 1
    FROM numbers;
    INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place, zero_since)
    SELECT content_hash, storage_class, 1, status = 1, 'p', forgotten_since FROM objects;
    INSERT INTO garbage SELECT content_hash, storage_class, 'p', 1 FROM objects;
    INSERT INTO leases SELECT content_hash, tenant_id, storage_class, sequence, id, namespace, 0 FROM objects;
    INSERT INTO tenant_usage SELECT 't' || sequence, 1, 1 FROM objects;
    INSERT INTO tenant_limits SELECT 't' || sequence, 1, 1 FROM objects WHERE sequence % 9 = 0;
    INSERT INTO lifecycle_rules SELECT 'n' || sequence, 1, 1, 1, 1 FROM objects WHERE sequence % 99 = 0;
    INSERT INTO object_reads SELECT id, sequence % 99 FROM objects WHERE sequence % 3 = 0";

#[test]
fn every_statement_uses_its_indexes_on_empty_tables_and_on_large_ones() {
    block_on_tokio(async {
        let directory = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&directory.path().join("m.db"), SETTINGS).await.unwrap();
        let mut strange = strange_plans(&database, "empty").await;
        sqlx::raw_sql(FILL).execute(&database.writer).await.unwrap();
        strange += &strange_plans(&database, "large").await;
        sqlx::raw_sql("ANALYZE").execute(&database.writer).await.unwrap();
        strange += &strange_plans(&database, "analysed").await;
        assert!(strange.is_empty(), "{strange}");
    });
}

#[test]
fn a_database_of_a_newer_program_is_refused() {
    block_on_tokio(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.db");
        let database = SqliteDatabase::open(&path, SETTINGS).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations VALUES (999, 'future', CURRENT_TIMESTAMP, TRUE, x'00', 1)";
        sqlx::query(newer).execute(&database.writer).await.unwrap();
        database.close().await;
        let Err(error) = SqliteDatabase::open(&path, SETTINGS).await else { panic!("it must not open") };
        assert_eq!(error.operation, "migrate the database");
    });
}

#[test]
fn what_tenants_have_is_counted_when_a_database_is_brought_up_to_date() {
    block_on_tokio(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.db");
        let database = SqliteDatabase::open(&path, SETTINGS).await.unwrap();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        let commits = [a_commit(Some("k"), 7, 1), a_commit(Some("k"), 5, 2), a_commit(None, 9, 3)];
        let tenant_id = commits[0].stored.object.scope.tenant_id.clone();
        let gone = Write::Delete { id: commits[2].stored.object.id, precondition: Default::default() };
        let writes: Vec<_> = commits.into_iter().map(Write::Commit).chain([gone]).collect();
        database.apply(&writes, &mut 1, context).await.unwrap();
        let before = "DROP TABLE tenant_usage; DROP TABLE tenant_limits;
                      DELETE FROM _sqlx_migrations WHERE description = 'tenants'";
        sqlx::raw_sql(before).execute(&database.writer).await.unwrap();
        database.close().await;
        let database = SqliteDatabase::open(&path, SETTINGS).await.unwrap();
        let usage = database.quota(&tenant_id).await.unwrap().usage;
        assert_eq!((usage.bytes, usage.objects), (12, 2));
        assert_eq!(database.wrong_usage().await.unwrap().count, 0);
    });
}

#[test]
fn checkpoints_come_earlier_on_a_small_file_system_and_never_at_each_write() {
    let reserve = |megabytes: u64| DatabaseRoom::reserving(megabytes << 20);
    assert_eq!(checkpoint_pages(&reserve(256)), CHECKPOINT_PAGES_MAX);
    assert_eq!(checkpoint_pages(&reserve(255)), CHECKPOINT_PAGES_MAX * 255 / 256);
    assert_eq!(checkpoint_pages(&reserve(1)), CHECKPOINT_PAGES_MIN);
    assert_eq!(checkpoint_pages(&reserve(0)), CHECKPOINT_PAGES_MIN);
}
