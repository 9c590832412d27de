use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use futures_util::join;
use sqlx::Row as _;

use super::*;
use crate::application::contract::{
    a_commit, api_key_contract, key_path, lifecycle_contract, repository_contract,
};
use crate::application::errors::RepositoryError;
use crate::application::fakes::{FakeClock, an_object, block_on};
use crate::application::key_listing_contract::key_listing_contract;
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, Freshness, ObjectCommit, ObjectRepository as _,
};
use crate::domain::value_objects::{EntityTags, ObjectId, ObjectStatus, Precondition};
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::data_plane::metadata_client::MetadataClient;
use crate::infrastructure::data_plane::object_cache::ObjectCache;
use crate::infrastructure::persistence::batch_pairs::{
    PairWorld, WRITER, every_pair_is_the_same_in_one_batch_and_in_two,
};
use crate::infrastructure::persistence::database::{Database, DatabaseUrl};
use crate::infrastructure::persistence::errors::Consequence;
use crate::infrastructure::persistence::maintenance_contract::{give_out_or_change, maintenance_contract};
use crate::infrastructure::persistence::postgres_migrations::migrate;
use crate::infrastructure::persistence::throwaway_postgres::ThrowawayPostgres;
use crate::infrastructure::persistence::{GcSettings, MetadataPlane, ScrubSettings};
use crate::infrastructure::plane_channel::{
    BATCH_WRITES_MAX, DataEnd, Durability, WriteOutcome, plane_channel,
};
use crate::infrastructure::quota_ledger::QuotaRoom;
use crate::infrastructure::storage::Roots;

const SETTINGS: DatabaseSettings = DatabaseSettings { max_connections: 4, ..DatabaseSettings::OF_TEST };

/// A new database.
fn database_of(postgres: &ThrowawayPostgres) -> DatabaseUrl {
    postgres.database().parse().unwrap()
}

/// Both roots in one directory.
fn roots_in(directory: &std::path::Path) -> Roots {
    Roots::open(&directory.join("hot"), &directory.join("cold")).unwrap()
}

/// A server's metadata plane, as a core sees it.
fn start(url: &DatabaseUrl, node: &str, roots: Roots) -> MetadataClient {
    client(start_plane(url, node, roots))
}

/// A core's own view of the plane, which stays on its thread.
fn client(data_end: DataEnd) -> MetadataClient {
    MetadataClient::new(data_end, Arc::new(ObjectCache::default()), WaitLimit::none(), None)
}

fn start_plane(url: &DatabaseUrl, node: &str, roots: Roots) -> DataEnd {
    let (data_end, metadata_end) = plane_channel(Durability::Transaction);
    let plane = MetadataPlane {
        open_packs: Arc::default(),
        url: url.clone(),
        settings: SETTINGS,
        roots,
        instance: InstanceId::generate(),
        node: node.into(),
        clock: FakeClock::default(),
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
    };
    plane.start(metadata_end).unwrap();
    data_end
}

/// Two servers that start at the same time on an empty database and empty roots.
fn start_two(url: &DatabaseUrl, directory: &std::path::Path) -> (MetadataClient, MetadataClient) {
    let (one, two) = start_two_planes(url, directory);
    (client(one), client(two))
}

fn start_two_planes(url: &DatabaseUrl, directory: &std::path::Path) -> (DataEnd, DataEnd) {
    let start_one = |node: &'static str| {
        let (url, directory) = (url.clone(), directory.to_path_buf());
        thread::spawn(move || start_plane(&url, node, roots_in(&directory)))
    };
    let (one, two) = (start_one("one"), start_one("two"));
    (one.join().unwrap(), two.join().unwrap())
}

fn block_on_tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn open(url: &DatabaseUrl) -> Database {
    Database::open(url, SETTINGS).await.unwrap()
}

fn pool(database: &Database) -> &PgPool {
    let Database::Postgres(database) = database else { panic!("it is PostgreSQL") };
    &database.readers
}

async fn begin_writer(database: &Database) {
    database.begin_instance(WRITER, "node", Timestamp::from_millis(0)).await.unwrap();
}

async fn apply(database: &Database, writes: &[Write]) -> Vec<WriteOutcome> {
    let context = BatchContext { writer: WRITER, now: Timestamp::from_millis(5), tick: 7 };
    database.apply(writes, &mut 0, context).await.unwrap().outcomes
}

fn is_committed(outcome: &Result<CommitOutcome, RepositoryError>) -> bool {
    matches!(outcome, Ok(CommitOutcome::Committed { .. }))
}

#[test]
fn the_metadata_plane_on_postgresql_keeps_the_contract_of_lifecycles() {
    let postgres = ThrowawayPostgres::start();
    let directories = RefCell::new(Vec::new());
    lifecycle_contract(|| {
        let directory = tempfile::tempdir().unwrap();
        let client = start(&database_of(&postgres), "node", roots_in(directory.path()));
        directories.borrow_mut().push(directory);
        client
    });
}

#[test]
fn the_metadata_plane_on_postgresql_keeps_the_contract() {
    let postgres = ThrowawayPostgres::start();
    let directories = RefCell::new(Vec::new());
    repository_contract(|| {
        let directory = tempfile::tempdir().unwrap();
        let client = start(&database_of(&postgres), "node", roots_in(directory.path()));
        directories.borrow_mut().push(directory);
        client
    });
}

#[test]
fn the_metadata_plane_on_postgresql_lists_keys_as_the_model_does() {
    let postgres = ThrowawayPostgres::start();
    // An order that people expect is not that of bytes.
    for url in [database_of(&postgres), postgres.database_in_order_of("en-US").parse().unwrap()] {
        let directory = tempfile::tempdir().unwrap();
        key_listing_contract(&start(&url, "node", roots_in(directory.path())));
    }
}

#[test]
fn the_metadata_plane_on_postgresql_keeps_the_contract_of_keys() {
    let postgres = ThrowawayPostgres::start();
    let (url, directory) = (database_of(&postgres), tempfile::tempdir().unwrap());
    let client = start(&url, "node", roots_in(directory.path()));
    block_on_tokio(async {
        let database = Database::open_existing(&url).await.unwrap();
        api_key_contract(&client, async |key| give_out_or_change(&database, key).await).await;
    });
}

struct PostgresPairs(Database);

impl PairWorld for PostgresPairs {
    async fn emptied(&mut self) -> &Database {
        // Faster than TRUNCATE, which makes new files.
        sqlx::raw_sql(
            "DELETE FROM objects; DELETE FROM blobs; DELETE FROM garbage; DELETE FROM leases; \
             DELETE FROM tenant_usage",
        )
        .execute(pool(&self.0))
        .await
        .unwrap();
        &self.0
    }

    async fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for query in [
            "SELECT concat(id, status, content_hash, updated_at, key, storage_class, metadata,
                CASE WHEN status = 1 THEN indexed END) FROM objects ORDER BY sequence",
            "SELECT concat(content_hash, storage_class, ref_count, place, damaged,
                (SELECT o.id FROM objects AS o WHERE o.sequence = first_object AND ref_count > 0)) FROM blobs ORDER BY 1",
            "SELECT concat(content_hash, storage_class, place, size_bytes) FROM garbage ORDER BY 1",
            "SELECT concat_ws(' ', tenant_id, bytes, objects) FROM tenant_usage WHERE objects <> 0 OR bytes <> 0",
        ] {
            for row in sqlx::query(query).fetch_all(pool(&self.0)).await.unwrap() {
                rows.push(row.get::<String, _>(0));
            }
        }
        rows
    }
}

#[test]
fn a_batch_is_the_same_as_its_writes_one_after_the_other() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        let mut world = PostgresPairs(open(&url).await);
        begin_writer(&world.0).await;
        every_pair_is_the_same_in_one_batch_and_in_two(&mut world).await;
    });
}

#[test]
fn tools_may_rely_on_it() {
    let postgres = ThrowawayPostgres::start();
    let (url, other_url) = (database_of(&postgres), database_of(&postgres));
    block_on_tokio(async {
        let (database, other) = (open(&url).await, open(&other_url).await);
        begin_writer(&database).await;
        maintenance_contract(&database, &other).await;
        // What a tool opens is what a server has made; and it goes on writing behind all that was restored.
        for url in [&url, &other_url] {
            Database::open_existing(url).await.unwrap();
        }
        begin_writer(&other).await;
        apply(&other, &[Write::Commit(a_commit(Some("k"), 200, 1))]).await;
        let found = other.find(&ObjectName::Key(key_path("k"))).await.unwrap().unwrap();
        assert_eq!(found.size_bytes, 200, "it is the newest version");
    });
}

#[test]
fn a_database_that_cannot_hold_every_key_is_refused() {
    let postgres = ThrowawayPostgres::start();
    let url: DatabaseUrl = postgres.database_in("LATIN1").parse().unwrap();
    let Err(error) = block_on_tokio(Database::open(&url, SETTINGS)) else { panic!("it must not open") };
    assert!(error.source.to_string().contains("LATIN1"), "{error:?}");
}

/// Makes the schema that of before the migration that made these tables.
const OLDER: &str = "DELETE FROM _sqlx_migrations WHERE version = 7; \
                     DROP TABLE lifecycle_rules, object_reads, lifecycle_clock";

#[test]
fn a_migration_that_others_hold_up_gives_way_to_those_behind_it_and_names_them() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        open(&url).await.close().await;
        postgres.ask(OLDER);
        let DatabaseUrl::Postgres(address) = &url else { panic!("it is one") };
        let options = address.options().unwrap();
        // As another server has it while it makes the same table.
        let held = postgres.hold("CREATE TABLE lifecycle_rules (namespace text)");
        let patience = Duration::from_secs(3);
        let migrated = migrate(&migrator(), &options, SETTINGS.acquire_timeout, patience).await;
        let error = migrated.unwrap_err().source.to_string();
        assert!(error.contains("others hold what it needs: session "), "{error}");
        assert!(error.contains("(psql, postgres, idle in transaction) for "), "{error}");
        drop(held);
        migrate(&migrator(), &options, SETTINGS.acquire_timeout, patience).await.unwrap();
        open(&url).await;
    });
}

#[test]
fn a_table_of_somebody_else_stops_a_migration_at_once() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    postgres.ask("CREATE TABLE objects (foreign_to_us text)");
    let Err(error) = block_on_tokio(Database::open(&url, SETTINGS)) else { panic!("it must not open") };
    assert_eq!(error.operation, "migrate the database");
    assert!(error.source.to_string().contains("objects"), "{error:?}");
}

#[test]
fn a_full_batch_takes_sequences_of_its_own() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        let database = open(&url).await;
        begin_writer(&database).await;
        let full: Vec<_> =
            (0..BATCH_WRITES_MAX as u64).map(|number| Write::Commit(a_commit(None, 1, number))).collect();
        apply(&database, &full).await;
        apply(&database, &[Write::Commit(a_commit(None, 1, 1))]).await;
    });
    let counts =
        postgres.ask("SELECT count(*), max(sequence) - min(sequence), max(ref_count) FROM objects, blobs");
    assert_eq!(counts, format!("{0}|{1}|{0}", BATCH_WRITES_MAX + 1, BATCH_WRITES_MAX));
}

/// Every statement, and the indexes that it finds its rows by; none for those that find none.
const INDEXES: [(&str, &[&str]); 71] = [
    (queries::BEGIN_BATCH, &["instances_pkey", "clock_pkey"]),
    (queries::HELD_BY_ID, &["objects_id_key"]),
    (queries::HELD_VERSIONS, &["objects_keyed"]),
    (queries::HELD_BLOBS, &["blobs_pkey"]),
    (queries::PUT_OBJECTS, &["objects_id_key"]),
    (queries::DELETE_OBJECTS, &["objects_id_key"]),
    (queries::ABANDON_OBJECTS, &["objects_id_key"]),
    (queries::PUT_BLOBS, &["blobs_pkey"]),
    (queries::PUT_GARBAGE, &[]),
    (queries::FIND_BY_ID, &["objects_id_key", "blobs_pkey"]),
    (queries::FIND_BY_KEY, &["objects_keyed", "blobs_pkey"]),
    (queries::INSPECT_BY_ID, &["objects_id_key"]),
    (queries::FIND_BY_ID_WITHIN, &["objects_id_key", "blobs_pkey"]),
    (queries::FIND_EACH_BY_ID, &["objects_id_key", "blobs_pkey"]),
    (queries::FIND_EACH_BY_KEY, &["objects_keyed", "blobs_pkey"]),
    (queries::INSPECT_BY_ID_WITHIN, &["objects_id_key"]),
    (queries::COUNT_OBJECTS, &["objects_pkey"]),
    (queries::LIST_BOTH, &["objects_listed"]),
    (queries::LIST_CLASS, &["objects_listed"]),
    (queries::LIST_KEYS, &["objects_keyed"]),
    (queries::LIST_KEYS_OF_CLASS, &["objects_keyed", "objects_pkey"]),
    (queries::LIST_VERSIONS, &["objects_keyed"]),
    (queries::PLACES_NAMED, &["blobs_pkey", "garbage_pkey"]),
    (queries::CLAIM_NODE, &["nodes_pkey"]),
    (queries::END_INSTANCES_OF_NODE, &["instances_of_node"]),
    (queries::BEGIN_INSTANCE, &[]),
    (queries::CLEAR_WRITING, &["objects_writing", "instances_of_node"]),
    (queries::DEAD_INSTANCES, &["instances_of_node"]),
    (queries::FORGET_INSTANCES, &["instances_pkey"]),
    (queries::HEARTBEAT, &["nodes_pkey", "clock_pkey"]),
    (queries::ROOT, &["roots_pkey"]),
    (queries::PUT_ROOT, &["roots_pkey"]),
    (queries::TRANSACTION_STATUS, &[]),
    (queries::LAST_SEQUENCE, &["instances_pkey"]),
    (queries::TICKS, &["clock_pkey", "blobs_unreferenced", "objects_forgotten"]),
    (queries::STORE_TICKS, &["clock_pkey"]),
    (queries::COLLECT_BLOBS, &["blobs_unreferenced", "blobs_pkey"]),
    (queries::PURGE_OBJECTS, &["objects_forgotten", "objects_pkey"]),
    (queries::FORGET_LEASES, &["leases_expiring", "leases_pkey"]),
    (queries::CONTENTS, &["blobs_pkey", "leases_pkey", "objects_pkey", "objects_by_content"]),
    (
        queries::LEASE_CONTENTS,
        &["blobs_pkey", "leases_pkey", "objects_pkey", "objects_by_content", "clock_pkey"],
    ),
    (queries::GARBAGE, &["garbage_pkey"]),
    (queries::FORGET_GARBAGE, &["garbage_pkey"]),
    (queries::EXPORT_OBJECTS, &["objects_pkey"]),
    (queries::HELD_QUOTAS, &["tenant_limits_pkey", "tenant_usage_pkey"]),
    (queries::QUOTAS, &["tenant_limits_pkey", "tenant_usage_pkey"]),
    (queries::QUOTAS_OF, &["tenant_limits_pkey", "tenant_usage_pkey"]),
    (queries::PUT_USAGE, &["tenant_usage_pkey"]),
    (queries::SET_LIMITS, &["tenant_limits_pkey"]),
    (queries::DROP_LIMITS, &["tenant_limits_pkey"]),
    (queries::NOTE_OUTSIDE_CHANGE, &["clock_pkey"]),
    (queries::API_KEY, &["api_keys_pkey"]),
    (queries::API_KEYS, &[]),
    (queries::PUT_API_KEY, &[]),
    (queries::REVOKE_API_KEY, &["api_keys_pkey"]),
    (queries::LIFECYCLE_RULE, &["lifecycle_rules_pkey"]),
    (queries::LIFECYCLE_RULES_AFTER, &["lifecycle_rules_pkey"]),
    (queries::SET_LIFECYCLE_RULE, &["lifecycle_rules_pkey"]),
    (queries::DROP_LIFECYCLE_RULE, &["lifecycle_rules_pkey"]),
    (queries::NEXT_TENANT, &["objects_listed"]),
    (queries::AGES_END, &["objects_listed"]),
    (queries::AGES, &["objects_listed", "object_reads_pkey"]),
    (queries::VERSIONS_BEFORE, &["objects_keyed"]),
    (
        queries::LIFECYCLE_FACTS,
        &["objects_id_key", "lifecycle_rules_pkey", "object_reads_pkey", "objects_keyed"],
    ),
    (queries::NOTE_READS, &["object_reads_pkey"]),
    (queries::FORGET_READS, &["object_reads_by_day", "object_reads_pkey"]),
    (queries::LIFECYCLE_CLOCK, &["lifecycle_clock_pkey"]),
    (queries::SET_LIFECYCLE_CLOCK, &["lifecycle_clock_pkey"]),
    (queries::SCRUB_STATE, &["scrub_pkey"]),
    (queries::PUT_SCRUB_STATE, &["scrub_pkey"]),
    (queries::DAMAGED_BLOBS, &["blobs_damaged"]),
];

#[test]
fn the_indexes_of_every_statement_are_known() {
    let statements = include_str!("postgres_queries.rs").matches("pub(super) const").count();
    assert_eq!(INDEXES.len(), statements, "a new statement says here what it is found by");
}

/// How PostgreSQL would run a statement, whatever its parameters are.
async fn plan_of(connection: &mut PgConnection, query: &str) -> String {
    let parameters = (1..=16).rev().find(|number| query.contains(&format!("${number}"))).unwrap_or(0);
    let nulls = vec!["NULL"; parameters].join(", ");
    let nulls = if parameters == 0 { String::new() } else { format!("({nulls})") };
    let explain = format!("PREPARE p AS {query}; EXPLAIN EXECUTE p {nulls}; DEALLOCATE p");
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect::<Vec<String>>().join("\n")
}

/// What is wrong with the plans of the statements.
async fn strange_plans(connection: &mut PgConnection, tables: &str) -> String {
    let mut strange = String::new();
    for (query, indexes) in INDEXES {
        let plan = plan_of(connection, query).await;
        // People read all keys, of which there are few.
        let is_list = query == queries::API_KEYS;
        let reads_all =
            plan.contains("Seq Scan") && !is_list || indexes.iter().any(|index| !plan.contains(index));
        // What is read is what is given.
        let reads_more =
            [queries::LIST_BOTH, queries::LIST_CLASS].contains(&query) && plan.contains("Filter");
        // The two halves of a page are merged; nothing else is sorted.
        let sorts = plan.contains("Sort  (") && query != queries::LIST_BOTH && !is_list;
        if reads_all || reads_more || sorts {
            strange.push_str(&format!("on {tables} tables, not by {indexes:?}: {query}\n{plan}\n\n"));
        }
    }
    strange
}

/// How many blocks of tables and indexes a statement looks at; those of `FILL` are thousands.
async fn blocks_read(connection: &mut PgConnection, query: &str, parameters: &str) -> (u64, String) {
    let explain =
        format!("PREPARE p AS {query}; EXPLAIN (ANALYZE, BUFFERS) EXECUTE p ({parameters}); DEALLOCATE p");
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let counts = plan.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared ")).unwrap();
    let counts = counts.split(' ').filter_map(|word| word.split_once('=')?.1.parse::<u64>().ok());
    (counts.sum(), plan.join("\n"))
}

/// Most of it is of one tenant and one state: what the planner knows of the columns says little of what an index saves.
const FILL: &str = "
    INSERT INTO objects
    SELECT n, gen_random_uuid(), 'models', CASE WHEN n % 5000 = 0 THEN 'small' ELSE 'acme' END,
           CASE WHEN n % 2 = 0 THEN 'k' || n % 20 END, status, (n % 9 = 0)::int, sha256(int8send(n)), 1, 'a/b', '{}',
           n % 7, 0, 0, CASE WHEN status = 3 THEN n END, n % 8 = 1
    FROM (SELECT n, CASE n % 500 WHEN 1 THEN 3 WHEN 3 THEN 0 ELSE 1 END AS status
          FROM generate_series(1, 100000) AS n) AS numbered;
    INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place, zero_since)
    SELECT sha256(int8send(n)), (n % 9 = 0)::int, 1, (n % 500 > 1)::int, 'p', CASE WHEN n % 500 <= 1 THEN n END
    FROM generate_series(1, 100000) AS n;
    INSERT INTO garbage SELECT sha256(int8send(n)), 0, 'p', 1 FROM generate_series(1, 100000) AS n;
    INSERT INTO tenant_usage SELECT 't' || n / 4, n % 4, 1, 1 FROM generate_series(1, 100000) AS n;
    INSERT INTO tenant_limits SELECT 't' || n, 1, 1 FROM generate_series(1, 10000) AS n;
    INSERT INTO leases SELECT sha256(int8send(n)), 'acme', 0, n, gen_random_uuid(), 'models', 0
    FROM generate_series(1, 100000) AS n;
    INSERT INTO lifecycle_rules SELECT 'n' || n, 1, 1, 1, 1 FROM generate_series(1, 1000) AS n;
    INSERT INTO object_reads SELECT id, sequence % 99 FROM objects WHERE sequence % 3 = 0;
    INSERT INTO instances SELECT n, 'node-' || n % 5, 0, n % 5 > 0 FROM generate_series(1, 1000) AS n;
    INSERT INTO nodes SELECT 'node-' || n, n, now() FROM generate_series(1, 1000) AS n";

#[test]
fn every_statement_uses_its_indexes_on_empty_tables_and_on_large_ones() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        let database = open(&url).await;
        let mut connection = pool(&database).acquire().await.unwrap();
        let mut strange = strange_plans(&mut connection, "empty").await;
        sqlx::raw_sql(FILL).execute(&mut *connection).await.unwrap();
        strange += &strange_plans(&mut connection, "large").await;
        sqlx::raw_sql("VACUUM ANALYZE").execute(&mut *connection).await.unwrap();
        strange += &strange_plans(&mut connection, "analysed").await;
        assert!(strange.is_empty(), "{strange}");
        for (query, parameters) in [
            (queries::LIST_BOTH, "'models', 'small', 1::smallint, 9223372036854775807, 101"),
            (queries::LIST_CLASS, "'models', 'small', 1::smallint, 9223372036854775807, 101, 1::smallint"),
            (queries::LIST_BOTH, "'models', 'nobody', 1::smallint, 9223372036854775807, 101"),
            (queries::LIST_BOTH, "'models', 'acme', 1::smallint, 50000, 101"),
            (queries::LIST_KEYS, "'models', 'acme', '', '~', 0, NULL, '~', 101"),
            (queries::LIST_KEYS, "'models', 'acme', '', '~', 0, 'k', '~', 101"),
            (queries::LIST_KEYS, "'models', 'small', 'k', 'k~', 1, '/', '~', 101"),
            (queries::LIST_KEYS_OF_CLASS, "'models', 'acme', '', '~', 0, NULL, '~', 101, 1::smallint, 1101"),
            (queries::LIST_VERSIONS, "'models', 'acme', 'k2', 9223372036854775807, 101"),
            (queries::LIST_VERSIONS, "'models', 'acme', 'k2', 50000, 101"),
            (queries::FIND_BY_KEY, "'models', 'acme', 'k2'"),
            (queries::FIND_BY_KEY, "'models', 'small', 'k2'"),
            (queries::FIND_EACH_BY_KEY, "'models', 'small', '{k2,k4}'"),
            (queries::HELD_VERSIONS, "'{models}', '{small}', '{k2}', '{1}'"),
            (queries::NEXT_TENANT, "'models', 'acme'"),
            (queries::NEXT_TENANT, "'models', ''"),
            (queries::AGES_END, "'models', 'small', 1::smallint, 0, 100"),
            (queries::AGES_END, "'models', 'acme', 1::smallint, 50000, 100"),
            (queries::AGES, "'models', 'small', 0::smallint, 0, 100000, 0"),
            (queries::VERSIONS_BEFORE, "'models', 'acme', 'k2', 50000, 100"),
            (queries::VERSIONS_BEFORE, "'models', 'small', 'k9', 0, 100"),
        ] {
            let (blocks, told) = blocks_read(&mut connection, query, parameters).await;
            assert!(blocks < 200, "{blocks} blocks for {query} of {parameters}\n{told}");
        }
    });
}

#[test]
fn of_two_servers_that_write_on_one_condition_one_wins() {
    let postgres = ThrowawayPostgres::start();
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = start_two(&database_of(&postgres), directory.path());
    block_on(async {
        for round in 0..30 {
            let key = format!("k{round}");
            let if_none = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
            let conditional =
                |content| ObjectCommit { precondition: if_none.clone(), ..a_commit(Some(&key), content, 1) };
            let outcomes = join!(
                one.commit(conditional(1), QuotaRoom::default()),
                two.commit(conditional(2), QuotaRoom::default())
            );
            let wins = [&outcomes.0, &outcomes.1].map(is_committed);
            assert!(wins[0] ^ wins[1], "{outcomes:?}");
            assert!(outcomes.0.is_ok() && outcomes.1.is_ok(), "{outcomes:?}");
        }
    });
    assert_eq!(postgres.ask("SELECT count(*) FROM objects"), "30");
    assert_eq!(postgres.ask("SELECT sum(ref_count) FROM blobs"), "30");
    assert_eq!(postgres.ask("SELECT count(*) FROM roots WHERE claimed"), "2");
}

#[test]
fn the_same_content_from_two_servers_is_counted_and_kept_once() {
    let postgres = ThrowawayPostgres::start();
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = start_two(&database_of(&postgres), directory.path());
    block_on(async {
        for content in 0..20 {
            let (first, second) = (a_commit(Some("a"), content, 1), a_commit(Some("b"), content, 2));
            let ids = [first.stored.object.id, second.stored.object.id];
            let outcomes =
                join!(one.commit(first, QuotaRoom::default()), two.commit(second, QuotaRoom::default()));
            let (
                Ok(CommitOutcome::Committed { place, .. }),
                Ok(CommitOutcome::Committed { place: other, .. }),
            ) = outcomes
            else {
                panic!("{outcomes:?}")
            };
            assert_eq!(place, other);
            if content % 2 == 0 {
                deleted_once_each(&one, &two, ids).await;
            }
        }
    });
    assert_eq!(postgres.ask("SELECT DISTINCT ref_count FROM blobs ORDER BY 1"), "0\n2");
    assert_eq!(
        postgres.ask("SELECT count(*) FROM blobs WHERE (ref_count = 0) <> (zero_since IS NOT NULL)"),
        "0"
    );
}

#[test]
fn two_busy_servers_get_in_each_others_way_and_lose_nothing() {
    const ROUNDS: u64 = 40;
    const AT_ONCE: u64 = 32;
    let postgres = ThrowawayPostgres::start();
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = start_two_planes(&database_of(&postgres), directory.path());
    thread::scope(|scope| {
        for (server, data_end) in [one, two].into_iter().enumerate() {
            scope.spawn(move || {
                let client = client(data_end);
                block_on(async {
                    for round in 0..ROUNDS {
                        let commits = (0..AT_ONCE).map(|number| {
                            let key = format!("{server}/{round}/{number}");
                            // Few contents, so that both count the same blobs up.
                            client.commit(
                                a_commit(Some(&key), (number % 100) as u8 + 100 * server as u8, number),
                                QuotaRoom::default(),
                            )
                        });
                        let outcomes = futures_util::future::join_all(commits).await;
                        assert!(outcomes.iter().all(is_committed), "{outcomes:?}");
                    }
                });
            });
        }
    });
    let all = (2 * ROUNDS * AT_ONCE).to_string();
    assert_eq!(postgres.ask("SELECT count(*) FROM objects"), all);
    assert_eq!(postgres.ask("SELECT sum(ref_count) FROM blobs"), all);
}

/// Both servers delete both objects at the same time.
async fn deleted_once_each(one: &MetadataClient, two: &MetadataClient, ids: [ObjectId; 2]) {
    for id in ids {
        let outcomes =
            join!(one.delete(id, Precondition::default()), two.delete(id, Precondition::default()));
        let deleted = [outcomes.0.unwrap(), outcomes.1.unwrap()]
            .iter()
            .filter(|outcome| matches!(outcome, DeleteOutcome::Deleted { .. }))
            .count();
        assert_eq!(deleted, 1);
    }
}

#[test]
fn who_takes_a_name_ends_the_server_that_had_it() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    let directory = tempfile::tempdir().unwrap();
    let former = start(&url, "one", roots_in(directory.path()));
    let other = start(&url, "two", roots_in(directory.path()));
    let mut writing = an_object("models", "acme", None);
    writing.status = ObjectStatus::Writing;
    let writing_elsewhere = crate::domain::entities::Object { id: ObjectId::generate(), ..writing.clone() };
    block_on(async {
        former.reserve(&writing).await.unwrap();
        other.reserve(&writing_elsewhere).await.unwrap();
        let later = start(&url, "one", roots_in(directory.path()));
        let left = later.inspect(&ObjectName::Id(writing.id)).await.unwrap();
        assert_eq!(left, None, "its reservation is cleared");
        let kept = later.inspect(&ObjectName::Id(writing_elsewhere.id)).await.unwrap();
        assert_eq!(kept, Some(writing_elsewhere), "that of another server is not");
        assert_eq!(
            former.commit(a_commit(None, 1, 1), QuotaRoom::default()).await,
            Err(RepositoryError::Unavailable)
        );
        assert_eq!(former.check().await, Err(RepositoryError::Unavailable));
        for alive in [&other, &later] {
            assert!(is_committed(&alive.commit(a_commit(None, 1, 1), QuotaRoom::default()).await));
        }
    });
}

#[test]
fn a_server_notices_that_its_name_is_taken_before_it_writes() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    let directory = tempfile::tempdir().unwrap();
    let former = start(&url, "one", roots_in(directory.path()));
    let later = start(&url, "one", roots_in(directory.path()));
    block_on(async {
        wait_for(async || former.check().await == Err(RepositoryError::Unavailable)).await;
        assert_eq!(later.check().await, Ok(()));
    });
}

/// Looks again and again until it is so.
async fn wait_for(so: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !so().await {
        assert!(begin.elapsed() < Duration::from_secs(30), "it has not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lost_database_is_told_and_found_again() {
    let mut postgres = ThrowawayPostgres::start();
    let directory = tempfile::tempdir().unwrap();
    let client = start(&database_of(&postgres), "one", roots_in(directory.path()));
    block_on(async {
        let before = a_commit(Some("k"), 1, 1);
        assert!(is_committed(&client.commit(before.clone(), QuotaRoom::default()).await));
        postgres.crash();
        let name = ObjectName::Id(before.stored.object.id);
        assert_eq!(
            client.commit(a_commit(Some("k"), 2, 2), QuotaRoom::default()).await,
            Err(RepositoryError::Unavailable)
        );
        assert_eq!(client.check().await, Err(RepositoryError::Unavailable));
        assert_eq!(client.find(&name, Freshness::Current).await, Err(RepositoryError::Unavailable));
        postgres.start_again();
        wait_for(async || client.check().await.is_ok()).await;
        assert!(is_committed(&client.commit(a_commit(Some("k"), 3, 3), QuotaRoom::default()).await));
        assert!(client.find(&name, Freshness::Current).await.unwrap().is_some());
    });
    assert_eq!(postgres.ask("SELECT count(*) FROM objects"), "2");
}

/// When a [`Cutter`] cuts the connection on which it sees a COMMIT.
#[derive(Debug, Clone, Copy)]
enum Cut {
    BeforeTheCommitArrives,
    WhileItIsOnItsWay,
    AfterItHasArrived,
    /// And the client is told what a server says that panics, and finds nobody there afterwards.
    AnsweredByAPanic,
}

/// What PostgreSQL 15 sends as it ends because there is no space for its log: severity, code, message.
const PANIC: &[u8] = b"SPANIC\0VPANIC\0C53100\0Mcould not write to file\0\0";

/// Stands between a server and its database and cuts the connection of one COMMIT.
struct Cutter {
    port: u16,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Cutter {
    fn before(database_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(Mutex::new(None));
        let shared = cut.clone();
        thread::spawn(move || {
            let gone = Arc::new(AtomicBool::new(false));
            for client in listener.incoming().take_while(|_| !gone.load(Ordering::Relaxed)) {
                let (client, cut, gone) = (client.unwrap(), shared.clone(), gone.clone());
                let database = TcpStream::connect(("127.0.0.1", database_port)).unwrap();
                let (from, to) = (database.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || copy_answers(from, to));
                thread::spawn(move || copy_until_cut(client, database, &cut, &gone));
            }
        });
        Self { port, cut }
    }
}

fn copy_answers(mut database: TcpStream, mut client: TcpStream) {
    let _ = std::io::copy(&mut database, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

fn copy_until_cut(
    mut client: TcpStream,
    mut database: TcpStream,
    cut: &Mutex<Option<Cut>>,
    gone: &AtomicBool,
) {
    let pause = || thread::sleep(Duration::from_millis(500));
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let commits = bytes[..count].windows(7).any(|window| window == b"COMMIT\0");
        let cut = if commits { cut.lock().unwrap().take() } else { None };
        if let Some(Cut::AnsweredByAPanic) = cut {
            gone.store(true, Ordering::Relaxed);
            let length = u32::try_from(4 + PANIC.len()).unwrap().to_be_bytes();
            client.write_all(&[b"E", &length[..], PANIC].concat()).unwrap();
        }
        if cut.is_some() {
            client.shutdown(Shutdown::Both).unwrap();
        }
        match cut {
            Some(Cut::BeforeTheCommitArrives | Cut::AnsweredByAPanic) => break,
            Some(Cut::WhileItIsOnItsWay) => pause(),
            Some(Cut::AfterItHasArrived) | None => {}
        }
        if database.write_all(&bytes[..count]).is_err() {
            break;
        }
        if cut.is_some() {
            pause();
        }
    }
    let _ = database.shutdown(Shutdown::Both);
}

#[test]
fn a_commit_whose_answer_is_lost_happens_once() {
    let postgres = ThrowawayPostgres::start();
    postgres.database();
    let cutter = Cutter::before(postgres.port);
    let url = postgres.latest_through(cutter.port).parse().unwrap();
    block_on_tokio(async {
        let database = open(&url).await;
        begin_writer(&database).await;
        for cut in [Cut::AfterItHasArrived, Cut::BeforeTheCommitArrives, Cut::WhileItIsOnItsWay] {
            *cutter.cut.lock().unwrap() = Some(cut);
            let commit = Write::Commit(a_commit(Some("k"), 1, 1));
            let outcomes = apply(&database, std::slice::from_ref(&commit)).await;
            assert!(cutter.cut.lock().unwrap().is_none(), "{cut:?}: the connection was not cut");
            assert!(
                matches!(outcomes[..], [WriteOutcome::Committed(CommitOutcome::Committed { .. })]),
                "{cut:?}: {outcomes:?}"
            );
        }
    });
    assert_eq!(postgres.ask("SELECT count(*), max(ref_count) FROM objects, blobs"), "3|3");
}

#[test]
fn a_full_disk_that_ends_the_database_in_a_commit_leaves_its_outcome_open() {
    let postgres = ThrowawayPostgres::start();
    postgres.database();
    let cutter = Cutter::before(postgres.port);
    let url = postgres.latest_through(cutter.port).parse().unwrap();
    block_on_tokio(async {
        let database = open(&url).await;
        begin_writer(&database).await;
        *cutter.cut.lock().unwrap() = Some(Cut::AnsweredByAPanic);
        let context = BatchContext { writer: WRITER, now: Timestamp::from_millis(5), tick: 7 };
        let applied = database.apply(&[Write::Commit(a_commit(Some("k"), 1, 1))], &mut 0, context).await;
        let error = applied.unwrap_err();
        let cause = std::error::Error::source(&error.source).map(ToString::to_string);
        assert!(cause.is_some_and(|cause| cause.contains("could not write to file")), "{error:?}");
        assert_eq!(error.consequence(), Consequence::Unknown, "its bytes must stay");
    });
}

#[test]
fn what_a_batch_works_on_is_not_collected() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        let database = open(&url).await;
        begin_writer(&database).await;
        let commit = a_commit(Some("k"), 1, 1);
        apply(&database, &[Write::Commit(commit.clone())]).await;
        let delete = Write::DeleteKey { key_path: key_path("k"), precondition: Precondition::default() };
        apply(&database, &[delete]).await;

        let key = (commit.stored.content_hash, commit.stored.object.storage_class);
        let mut batch = pool(&database).begin().await.unwrap();
        let held = bind_blob_keys(sqlx::query(queries::HELD_BLOBS), std::iter::once(key));
        assert_eq!(held.fetch_all(&mut *batch).await.unwrap().len(), 1);
        let collected = database.collect(1000, 0, 10).await.unwrap();
        assert_eq!(collected, Collected { blobs: 0, objects: 1, leases: 0 });
        batch.rollback().await.unwrap();

        let collected = database.collect(1000, 993, 10).await.unwrap();
        assert_eq!(collected, Collected { blobs: 1, objects: 0, leases: 0 }, "it died at tick 7");
        let garbage = database.garbage(10, &[]).await.unwrap();
        assert_eq!(
            garbage.iter().map(|garbage| garbage.file).collect::<Vec<_>>(),
            [commit.stored.location()]
        );
        database.forget_garbage(&garbage).await.unwrap();
        assert!(database.garbage(10, &[]).await.unwrap().is_empty());
        assert_eq!(database.ticks().await.unwrap(), 1000);
    });
}

#[test]
fn nothing_is_dead_before_the_grace_has_passed_once() {
    let postgres = ThrowawayPostgres::start();
    let url = database_of(&postgres);
    block_on_tokio(async {
        let database = open(&url).await;
        begin_writer(&database).await;
        let commit = Write::Commit(a_commit(Some("k"), 1, 1));
        let delete = Write::DeleteKey { key_path: key_path("k"), precondition: Precondition::default() };
        apply(&database, &[commit, delete]).await;
        assert_eq!(database.collect(500, 600, 10).await.unwrap(), Collected::default());
    });
}
