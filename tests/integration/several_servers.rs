//! Two servers on one PostgreSQL and one pair of roots: what either has acknowledged, both keep, while they write,
//! delete and collect the same contents, and while one of them is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::conditions::http_date;
use crate::content::{Random, content, etag, sha256_hex};
use crate::raw::{Connection, Response};
use crate::server::{SCOPE, Server, wait_until};
use crate::site::{EAGER_COLLECTORS, Site};

const WRITERS_OF_A_SERVER: u64 = 3;
/// How often one of the servers is killed at least.
const KILLS_MIN: u64 = 6;
/// One of every size that is treated differently. All writers send the same few.
const CONTENT_BYTES: [usize; 5] = [1, 900, 16_385, 100_000, 300_000];

/// One client of one server, and what it has been told.
struct Writer<'a> {
    random: Random,
    contents: &'a [Vec<u8>],
    /// Objects that nobody else deletes, and their contents.
    own: BTreeMap<String, usize>,
    /// Versions of keys that all writers put and nobody deletes.
    kept: Vec<(String, usize)>,
}

impl<'a> Writer<'a> {
    fn new(seed: u64, contents: &'a [Vec<u8>]) -> Self {
        Self { random: Random::new(seed), contents, own: BTreeMap::new(), kept: Vec::new() }
    }

    /// Works until the server is gone or the round is over.
    fn work(&mut self, address: SocketAddr, over: &AtomicBool) {
        let Ok(mut connection) = Connection::try_open(address) else { return };
        while !over.load(Ordering::Relaxed) && self.step(&mut connection).is_ok() {}
    }

    fn step(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let number = self.random.below(3);
        match self.random.below(10) {
            0..3 => self.create(connection),
            3..5 => self.delete_own(connection),
            5 => self.read_own(connection),
            6 => self.put_kept(connection, &format!("/v1/keys/models/acme/kept/{number}")),
            7..9 => {
                let content = self.any_content();
                let target = format!("/v1/keys/models/acme/changing/{number}");
                let response = connection.try_exchange("PUT", &target, &[], &self.contents[content])?;
                assert!(matches!(response.status, 200 | 201), "{response:?}");
                Ok(())
            }
            _ => {
                let target = format!("/v1/keys/models/acme/changing/{number}");
                let response = connection.try_exchange("DELETE", &target, &[], b"")?;
                assert!(matches!(response.status, 204 | 404), "{response:?}");
                Ok(())
            }
        }
    }

    fn create(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let content = self.any_content();
        let target = format!("/v1/objects?{SCOPE}");
        let response = connection.try_exchange("POST", &target, &[], &self.contents[content])?;
        assert_eq!(response.status, 201, "{response:?}");
        self.own.insert(id_of(&response), content);
        Ok(())
    }

    fn delete_own(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let Some(id) = self.any_own() else { return Ok(()) };
        // Whatever comes of it, it is not known to be there any more.
        self.own.remove(&id);
        let response = connection.try_exchange("DELETE", &format!("/v1/objects/{id}"), &[], b"")?;
        assert_eq!(response.status, 204, "{response:?}");
        Ok(())
    }

    fn read_own(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let Some(id) = self.any_own() else { return Ok(()) };
        let response = connection.try_exchange("GET", &format!("/v1/objects/{id}"), &[], b"")?;
        assert_is(&response, &self.contents[self.own[&id]], &id);
        Ok(())
    }

    fn put_kept(&mut self, connection: &mut Connection, target: &str) -> std::io::Result<()> {
        let content = self.any_content();
        let response = connection.try_exchange("PUT", target, &[], &self.contents[content])?;
        assert!(matches!(response.status, 200 | 201), "{response:?}");
        self.kept.push((id_of(&response), content));
        Ok(())
    }

    fn any_content(&mut self) -> usize {
        self.random.below(CONTENT_BYTES.len() as u64) as usize
    }

    fn any_own(&mut self) -> Option<String> {
        let index = self.random.below(self.own.len().max(1) as u64);
        self.own.keys().nth(index as usize).cloned()
    }
}

fn id_of(response: &Response) -> String {
    response.json()["id"].as_str().expect("an object has an id").to_owned()
}

fn assert_is(response: &Response, content: &[u8], what: &str) {
    assert_eq!(response.status, 200, "{what}: {response:?}");
    assert!(response.body == content, "{what} is not as it was sent");
}

#[test]
fn what_two_servers_acknowledge_is_kept_while_one_is_killed_and_both_collect() {
    let site = Site::new();
    let contents: Vec<_> =
        (1..).zip(CONTENT_BYTES).map(|(seed, length_bytes)| content(seed, length_bytes)).collect();
    let one = site.start("one", &EAGER_COLLECTORS);
    let mut two = site.start("two", &EAGER_COLLECTORS);
    let mut writers: Vec<_> =
        (1..=2 * WRITERS_OF_A_SERVER).map(|seed| Writer::new(seed, &contents)).collect();
    let mut random = Random::new(7);
    let mut kills = 0;
    while kills < KILLS_MIN || !has_collected(&one) {
        let pause = Duration::from_millis(300 + random.below(1000));
        two = write_and_kill(&site, &one, two, &mut writers, pause);
        kills += 1;
    }
    drop((one, two));
    let servers = ["one", "two"].map(|node| site.start(node, &EAGER_COLLECTORS));
    assert!(writers.iter().all(|writer| !writer.kept.is_empty()), "every writer was told something");
    for server in &servers {
        assert_kept(server, &writers, &contents);
    }
    site.wait_until_in_order(&servers[0]);
}

fn has_collected(server: &Server) -> bool {
    server.log_lines().iter().any(|line| line.contains("removed what nothing refers to"))
}

/// Writes on both servers, kills the second in the middle, and starts it again while the first goes on.
fn write_and_kill(
    site: &Site,
    one: &Server,
    mut two: Server,
    writers: &mut [Writer<'_>],
    pause: Duration,
) -> Server {
    let addresses = [one.address(), two.address()];
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        for (writer, address) in writers.iter_mut().zip(addresses.into_iter().cycle()) {
            scope.spawn(move || writer.work(address, over));
        }
        // Not a wait for anything: the moment is what varies.
        thread::sleep(pause);
        two.kill();
        let again = site.start("two", &EAGER_COLLECTORS);
        over.store(true, Ordering::Relaxed);
        again
    })
}

fn assert_kept(server: &Server, writers: &[Writer<'_>], contents: &[Vec<u8>]) {
    let mut connection = server.connect();
    let mut get = |target: String| connection.exchange("GET", &target, &[], b"");
    for writer in writers {
        let kept = writer.kept.iter().map(|(id, content)| (id, content));
        for (id, content) in writer.own.iter().chain(kept) {
            assert_is(&get(format!("/v1/objects/{id}")), &contents[*content], id);
        }
    }
    for number in 0..3 {
        let response = get(format!("/v1/keys/models/acme/changing/{number}"));
        let whole = contents.contains(&response.body);
        assert!(response.status == 404 || (response.status == 200 && whole), "{}", response.status);
    }
}

#[test]
fn of_many_clients_of_two_servers_one_creates_a_key() {
    let site = Site::new();
    let servers = ["one", "two"].map(|node| site.start(node, &[]));
    let clients = 50 * servers.len();
    for round in 0..4 {
        let (target, start) = (format!("/v1/keys/models/acme/round/{round}"), Barrier::new(clients));
        let statuses: Vec<u16> = thread::scope(|scope| {
            let puts: Vec<_> = (0..clients)
                .map(|client| {
                    let (mut connection, target, start) = (servers[client % 2].connect(), &target, &start);
                    scope.spawn(move || {
                        start.wait();
                        let body = client.to_string();
                        let fields = &[("If-None-Match", "*")];
                        connection.exchange("PUT", target, fields, body.as_bytes()).status
                    })
                })
                .collect();
            puts.into_iter().map(|put| put.join().unwrap()).collect()
        });
        let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
        assert_eq!((count(201), count(412)), (1, clients - 1), "{statuses:?}");
    }
    assert_eq!(site.postgres.ask("SELECT count(*), sum(ref_count) FROM blobs WHERE ref_count > 0"), {
        let distinct = site.postgres.ask("SELECT count(DISTINCT content_hash) FROM objects");
        format!("{distinct}|4")
    });
}

const MERGE_PATCH: (&str, &str) = ("Content-Type", "application/merge-patch+json");

/// What so many clients of each server are answered that all begin at once; the number of a client tells what it asks.
fn at_once(
    servers: &[Server; 2],
    clients: usize,
    ask: impl Fn(&mut Connection, usize) -> Response + Sync,
) -> Vec<Response> {
    let (start, ask) = (Barrier::new(2 * clients), &ask);
    thread::scope(|scope| {
        let asked: Vec<_> = (0..2 * clients)
            .map(|client| {
                let (mut connection, start) = (servers[client % 2].connect(), &start);
                scope.spawn(move || {
                    start.wait();
                    ask(&mut connection, client)
                })
            })
            .collect();
        asked.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn count(responses: &[Response], status: u16) -> usize {
    responses.iter().filter(|response| response.status == status).count()
}

#[test]
fn of_many_patches_to_two_servers_from_one_date_one_is_made() {
    let site = Site::new();
    let servers = ["one", "two"].map(|node| site.start(node, &[]));
    let mut object = servers[0].create(b"body");
    let target = format!("/v1/objects/{}", object["id"].as_str().unwrap());
    for round in 0..3 {
        let date = http_date(&object, 0);
        // Dates are of whole seconds: from the next one on, a change is seen by its date.
        let next = httpdate::parse_http_date(&http_date(&object, 1)).unwrap();
        wait_until("the next second", || (SystemTime::now() >= next).then_some(()));
        let class = if round % 2 == 0 { "cold" } else { "hot" };
        let responses = at_once(&servers, 10, |connection, client| {
            let patch = json!({"metadata": {"winner": client.to_string()}, "storage_class": class});
            let fields = [MERGE_PATCH, ("If-Unmodified-Since", date.as_str())];
            connection.exchange("PATCH", &target, &fields, patch.to_string().as_bytes())
        });
        let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
        assert_eq!((count(&responses, 200), count(&responses, 412)), (1, 19), "{statuses:?}");
        let winner = responses.iter().position(|response| response.status == 200).unwrap();
        object = responses[winner].json();
        assert_eq!(object["metadata"], json!({"winner": winner.to_string()}));
        for server in &servers {
            assert_eq!(server.list(SCOPE), [object.clone()], "both tell of the same");
            assert_is(&server.get(&target), b"body", "its bytes, wherever they are");
        }
    }
}

#[test]
fn under_one_tag_two_servers_replace_a_key_once_and_make_every_patch() {
    const KEY: &str = "/v1/keys/models/acme/k";
    let site = Site::new();
    let servers = ["one", "two"].map(|node| site.start(node, &EAGER_COLLECTORS));
    let mut body = content(1, 100_000);
    let mut versions = vec![servers[0].request("PUT", KEY, &[], &body).json()];
    for round in 0..3 {
        let (own, other) = (etag(&body), etag(b"other"));
        let target = format!("/v1/objects/{}", versions[round]["id"].as_str().unwrap());
        let new = |client: usize| content(100 * round as u64 + client as u64, 50_000);
        let responses = at_once(&servers, 8, |connection, client| match client % 8 {
            // The tag is that of the content, which no patch changes.
            0..4 => {
                let class = if client % 4 < 2 { "cold" } else { "hot" };
                let patch = json!({"metadata": {client.to_string(): "said"}, "storage_class": class});
                let fields = [MERGE_PATCH, ("If-Match", own.as_str())];
                connection.exchange("PATCH", &target, &fields, patch.to_string().as_bytes())
            }
            4..6 => {
                let fields = [MERGE_PATCH, ("If-Match", other.as_str())];
                connection.exchange("PATCH", &target, &fields, br#"{"metadata":{"never":"said"}}"#)
            }
            _ => connection.exchange("PUT", KEY, &[("If-Match", own.as_str())], &new(client)),
        });
        let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
        let of = |roles: std::ops::Range<usize>, status: u16| {
            let answers = responses.iter().enumerate().filter(|(client, _)| roles.contains(&(client % 8)));
            answers.filter(|(_, response)| response.status == status).count()
        };
        assert_eq!((of(0..4, 200), of(4..6, 412)), (8, 4), "{statuses:?}");
        assert_eq!((of(6..8, 200), of(6..8, 412)), (1, 3), "{statuses:?}");
        let winner = (0..16).find(|client| client % 8 >= 6 && responses[*client].status == 200).unwrap();
        versions.push(responses[winner].json());
        body = new(winner);
        let listed = servers[round % 2].list(SCOPE);
        assert_eq!(listed.len(), versions.len(), "one version more");
        let id = &versions[round]["id"];
        let patched = listed.iter().find(|object| object["id"] == *id).unwrap();
        let said: Vec<_> = patched["metadata"].as_object().unwrap().keys().cloned().collect();
        let expected: BTreeSet<_> =
            (0..16).filter(|client| client % 8 < 4).map(|client| client.to_string()).collect();
        assert_eq!(said, Vec::from_iter(expected), "all of them, and nothing else");
        let newest: Value = listed[0]["id"].clone();
        assert_eq!(newest, versions[round + 1]["id"]);
    }
    for server in &servers {
        wait_until("the newest version on both", || (server.get(KEY).body == body).then_some(()));
    }
    site.wait_until_in_order(&servers[0]);
}

#[test]
fn what_one_server_changes_the_other_serves_for_a_second_at_most() {
    let site = Site::new();
    let [one, two] = ["one", "two"].map(|node| site.start(node, &[]));
    const TARGET: &str = "/v1/keys/models/acme/k";
    assert_eq!(one.request("PUT", TARGET, &[], b"0").status, 201);
    let mut version = 0;
    // Until an old answer was seen once: there is a cache whose age is worth looking at.
    let stale = wait_until("an answer from the cache", || {
        assert_eq!(two.get(TARGET).status, 200);
        version += 1;
        let body = version.to_string();
        assert_eq!(one.request("PUT", TARGET, &[], body.as_bytes()).status, 200);
        let replaced = Instant::now();
        seen_last_but(&two, TARGET, &|response| response.header("ETag") == Some(&*etag(body.as_bytes())))
            .map(|seen| seen - replaced)
    });
    assert!(stale < STALENESS_MAX, "an old version was served after {stale:?}");

    let id = id_of(&one.request("POST", &format!("/v1/objects?{SCOPE}"), &[], b"object"));
    let by_id = format!("/v1/objects/{id}");
    for (target, deleted) in [(by_id.as_str(), by_id.as_str()), (TARGET, TARGET)] {
        assert_eq!(two.get(target).status, 200);
        assert_eq!(one.request("DELETE", deleted, &[], b"").status, 204);
        let gone = Instant::now();
        if let Some(seen) = seen_last_but(&two, target, &|response| response.status == 404) {
            assert!(seen - gone < STALENESS_MAX, "{target} was served {:?} after its end", seen - gone);
        }
    }
    let hash = sha256_hex(b"object");
    assert!(two.list(SCOPE).iter().all(|object| object["content_hash"] != hash), "listings are never cached");
}

/// As `docs/SETTINGS.md` has it.
const STALENESS_MAX: Duration = Duration::from_secs(1);

/// Asks until the answer is the new one, and says when the last old one was asked for. That is a promise of the cache
/// however slow everything else is: an entry's age counts from before its query, which was before the change.
fn seen_last_but(server: &Server, target: &str, is_new: &dyn Fn(&Response) -> bool) -> Option<Instant> {
    let mut connection = server.connect();
    let mut seen = None;
    wait_until("the new answer", || {
        let asked = Instant::now();
        let response = connection.exchange("GET", target, &[], b"");
        if is_new(&response) {
            return Some(seen);
        }
        assert_eq!(response.status, 200, "{response:?}");
        seen = Some(asked);
        None
    })
}

#[test]
fn a_server_that_waits_with_its_migration_says_for_whom() {
    let site = Site::new();
    let (status, _) = site.start("one", &[]).stop();
    assert!(status.success());
    site.postgres.ask(
        "DELETE FROM _sqlx_migrations WHERE version = 7; \
         DROP TABLE lifecycle_rules, object_reads, lifecycle_clock",
    );
    let held = site.postgres.hold("CREATE TABLE lifecycle_rules (namespace text)");
    thread::scope(|scope| {
        let starting = scope.spawn(|| site.start("one", &[]));
        // It waits, and has looked for whom since.
        let waits = "SELECT count(*) FROM pg_stat_activity AS waiting, pg_stat_activity AS looking \
                     WHERE waiting.application_name = 'just_storage' AND waiting.wait_event_type = 'Lock' \
                       AND looking.application_name = 'just_storage' AND looking.state = 'idle' \
                       AND looking.query LIKE '%pg_blocking_pids%' AND looking.query_start > waiting.query_start";
        wait_until("the migration to wait", || (site.postgres.ask(waits) != "0").then_some(()));
        drop(held);
        let server = starting.join().unwrap();
        assert_eq!(server.get("/health/ready").status, 200);
        let lines = server.log_lines();
        let told = lines.iter().find(|line| line.contains("waits for what others hold"));
        assert!(told.is_some_and(|line| line.contains("psql, postgres, idle in transaction")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("bringing the schema of the database up to date")));
    });
}
