//! `kill -9` at any moment: what was acknowledged is there, what was not is there whole or not at all, and what was
//! left behind is swept.
//!
//! Clients write keys of their own, so that each knows what the server has told it, while the server is killed at a
//! random moment; then it is started again and compared with all that the clients know. `CRASH_ROUNDS` says how
//! often (50), `CRASH_SEED` repeats a run as far as the moments of the kills allow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::content::{Random, chunked, content, sha256_hex};
use crate::raw::Connection;
use crate::server::{SCOPE, Server, wait_until};

const CLIENTS: u64 = 4;
const KEYS_OF_A_CLIENT: u64 = 6;
/// A fresh directory now and then keeps the check of everything in it short.
const ROUNDS_ON_A_DIRECTORY: u64 = 10;

/// What was sent, to be made again from its seed when it is compared.
struct Content {
    seed: u64,
    length: usize,
    hash: String,
}

impl Content {
    fn new(seed: u64, length: usize) -> Arc<Self> {
        Arc::new(Self { seed, length, hash: sha256_hex(&content(seed, length)) })
    }

    fn bytes(&self) -> Vec<u8> {
        content(self.seed, self.length)
    }
}

/// What a client was doing when the server died: it may have happened or not.
enum InFlight {
    Put(Arc<Content>),
    Delete,
}

/// What a client knows of one of its keys.
#[derive(Default)]
struct KnownKey {
    /// Ids and contents of all acknowledged versions, oldest first.
    versions: Vec<(String, Arc<Content>)>,
    in_flight: Option<InFlight>,
}

/// One writer.
struct Client {
    random: Random,
    shared: Vec<Arc<Content>>,
    keys: BTreeMap<String, KnownKey>,
    /// The hashes of all contents that were ever acknowledged or seen.
    hashes: BTreeSet<String>,
}

impl Client {
    fn new(number: u64, seed: u64, shared: &[Arc<Content>]) -> Self {
        let keys =
            (0..KEYS_OF_A_CLIENT).map(|key| (format!("client-{number}/key-{key}"), KnownKey::default()));
        let random = Random::new(seed.wrapping_add(number));
        Self { random, shared: shared.to_vec(), keys: keys.collect(), hashes: BTreeSet::new() }
    }

    /// Writes until the server is gone.
    fn write(&mut self, address: SocketAddr) {
        let Ok(mut connection) = Connection::try_open(address) else { return };
        while self.step(&mut connection) {}
    }

    /// One operation; `false` if its outcome is not known.
    fn step(&mut self, connection: &mut Connection) -> bool {
        let name = {
            let index = self.random.below(KEYS_OF_A_CLIENT);
            self.keys.keys().nth(usize::try_from(index).unwrap()).unwrap().clone()
        };
        if self.random.below(4) == 0 { self.delete(connection, &name) } else { self.put(connection, &name) }
    }

    fn put(&mut self, connection: &mut Connection, name: &str) -> bool {
        let content = self.any_content();
        let bytes = content.bytes();
        let key = self.keys.get_mut(name).unwrap();
        key.in_flight = Some(InFlight::Put(content.clone()));
        let target = format!("/v1/keys/models/acme/{name}");
        let answer = if self.random.below(4) == 0 {
            let body = chunked(&bytes, 7000, &[]);
            connection.try_exchange("PUT", &target, &[("Transfer-Encoding", "chunked")], &body)
        } else {
            connection.try_exchange("PUT", &target, &[], &bytes)
        };
        let Ok(response) = answer else { return false };
        let expected = if key.versions.is_empty() { 201 } else { 200 };
        assert_eq!(response.status, expected, "PUT {name}: {response:?}");
        let object = response.json();
        assert_eq!(object["content_hash"], content.hash, "{name}");
        self.hashes.insert(content.hash.clone());
        key.versions.push((object["id"].as_str().unwrap().to_owned(), content));
        key.in_flight = None;
        true
    }

    fn delete(&mut self, connection: &mut Connection, name: &str) -> bool {
        let key = self.keys.get_mut(name).unwrap();
        key.in_flight = Some(InFlight::Delete);
        let target = format!("/v1/keys/models/acme/{name}");
        let Ok(response) = connection.try_exchange("DELETE", &target, &[], b"") else { return false };
        let expected = if key.versions.is_empty() { 404 } else { 204 };
        assert_eq!(response.status, expected, "DELETE {name}: {response:?}");
        key.versions.clear();
        key.in_flight = None;
        true
    }

    /// Of every size that is treated differently, and now and then what another client sends too.
    fn any_content(&mut self) -> Arc<Content> {
        let random = &mut self.random;
        let length = match random.below(10) {
            0..2 => {
                return self.shared[usize::try_from(random.below(self.shared.len() as u64)).unwrap()].clone();
            }
            2..6 => 1 + random.below(1000),
            6..8 => 15_000 + random.below(3000),
            _ => 1 + random.below(300 * 1024),
        };
        Content::new(random.next(), usize::try_from(length).unwrap())
    }

    /// Compares what is listed of each key with what is known of it, and learns what became of the operation that
    /// was under way.
    fn learn(&mut self, listed: &BTreeMap<String, Vec<Value>>) {
        for (name, key) in &mut self.keys {
            let found: Vec<(&str, &str)> = listed
                .get(name)
                .into_iter()
                .flatten()
                .rev()
                .map(|object| (text(object, "id"), text(object, "content_hash")))
                .collect();
            let known: Vec<(&str, &str)> =
                key.versions.iter().map(|(id, content)| (id.as_str(), content.hash.as_str())).collect();
            match key.in_flight.take() {
                Some(InFlight::Put(content)) if found.len() == known.len() + 1 => {
                    let (newest, older) = found.split_last().unwrap();
                    assert_eq!((older, newest.1), (&known[..], content.hash.as_str()), "{name}: half a PUT");
                    let id = newest.0.to_owned();
                    self.hashes.insert(content.hash.clone());
                    key.versions.push((id, content));
                }
                // All of its versions or none: a DELETE is one change.
                Some(InFlight::Delete) if found.is_empty() => key.versions.clear(),
                _ => assert_eq!(found, known, "{name}: what was acknowledged is there, and nothing else"),
            }
        }
    }
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().expect("a committed object has all its fields")
}

/// Says how to repeat a run that failed.
struct Replay {
    seed: u64,
    round: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed in round {} of a run that CRASH_SEED={} begins again", self.round, self.seed);
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("CRASH_ROUNDS and CRASH_SEED are numbers"))
}

#[test]
fn whatever_was_acknowledged_survives_a_kill_at_any_moment() {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let seed = from_environment("CRASH_SEED").unwrap_or_else(|| clock() as u64 >> 10);
    let rounds = from_environment("CRASH_ROUNDS").unwrap_or(50);
    let mut replay = Replay { seed, round: 0 };
    let mut random = Random::new(seed);
    for first in (0..rounds).step_by(usize::try_from(ROUNDS_ON_A_DIRECTORY).unwrap()) {
        let shared: Vec<_> =
            [1, 900, 16_384, 100_000].map(|length| Content::new(random.next(), length)).to_vec();
        let seed = random.next();
        let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(number, seed, &shared)).collect();
        let mut server = Server::start();
        for round in first..rounds.min(first + ROUNDS_ON_A_DIRECTORY) {
            replay.round = round;
            let pause = Duration::from_millis(20 + random.below(130));
            write_and_kill(&mut server, &mut clients, pause);
            server = Server::start_on(&server.directory(), &[]);
            assert_holds(&server, &mut clients);
        }
    }
}

fn write_and_kill(server: &mut Server, clients: &mut [Client], pause: Duration) {
    let address = server.address();
    thread::scope(|scope| {
        let writers: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(move || client.write(address))).collect();
        // Not a wait for anything: the moment is what varies.
        thread::sleep(pause);
        server.kill();
        for writer in writers {
            writer.join().expect("every answer was as expected");
        }
    });
}

fn assert_holds(server: &Server, clients: &mut [Client]) {
    assert_eq!(
        server.list(&format!("{SCOPE}&status=WRITING")),
        Vec::<Value>::new(),
        "nobody writes any more"
    );
    let objects = server.list(&format!("{SCOPE}&limit=1000"));
    let mut listed: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in &objects {
        listed.entry(text(object, "key").to_owned()).or_default().push(object.clone());
    }
    for client in &mut *clients {
        client.learn(&listed);
    }
    let known: usize =
        clients.iter().flat_map(|client| client.keys.values()).map(|key| key.versions.len()).sum();
    assert_eq!(known, objects.len(), "every object is one that somebody sent");

    let mut connection = server.connect();
    for object in &objects {
        let response = connection.exchange("GET", &format!("/v1/objects/{}", text(object, "id")), &[], b"");
        assert_eq!(response.status, 200, "{object}");
        assert_eq!(object["size_bytes"], response.body.len());
        assert_eq!(sha256_hex(&response.body), text(object, "content_hash"), "{object}");
    }
    for (name, key) in clients.iter().flat_map(|client| &client.keys) {
        let response = connection.exchange("GET", &format!("/v1/keys/models/acme/{name}"), &[], b"");
        match key.versions.last() {
            Some((_, content)) => assert!(response.body == content.bytes(), "{name} is its newest version"),
            None => assert_eq!(response.status, 404, "{name}"),
        }
    }
    wait_until("the sweep of what no object names", || {
        strange_files(server, clients).is_empty().then_some(())
    });
}

/// Files that no object ever needed: of contents that nobody was told of, second copies, temporary ones. The bytes
/// of deleted objects may still be there.
fn strange_files(server: &Server, clients: &[Client]) -> Vec<String> {
    let mut needed: BTreeSet<&str> =
        clients.iter().flat_map(|client| &client.hashes).map(String::as_str).collect();
    let mut strange: Vec<String> = Vec::new();
    for path in server.files("blobs") {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Each once: what was taken from the set is found no second time.
        if !needed.remove(&name[..64]) {
            strange.push(name.to_owned());
        }
    }
    let temporary = server.files("tmp");
    strange.extend(temporary.iter().map(|path| path.display().to_string()));
    strange
}
