//! API keys: given out and taken back beside the servers that they open.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::maintenance::tool_on;
use crate::raw::Response;
use crate::server::{Server, program, wait_until};
use crate::site::Site;

const REQUIRED: [&str; 2] = ["--auth-mode", "required"];
const KEY: &str = "/v1/keys/models/acme/k";

/// A store, and where its database is if that is not in its directory.
struct Store<'s> {
    directory: &'s Path,
    url: Option<&'s str>,
}

impl Store<'_> {
    /// Makes a key and gives all that is told of it.
    fn create(&self, flags: &[&str]) -> Value {
        let output = tool_on(self.directory, self.url, &[&["key", "create", "--json"], flags].concat());
        serde_json::from_str(&output.assert_code(0)).expect("it is JSON")
    }

    fn list(&self) -> Vec<Value> {
        let output = tool_on(self.directory, self.url, &["key", "list", "--json"]);
        serde_json::from_str(&output.assert_code(0)).expect("it is JSON")
    }

    fn revoke(&self, id: &str) {
        tool_on(self.directory, self.url, &["key", "revoke", id]).assert_code(0);
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().expect("it is a text")
}

fn with_key(server: &Server, key: &str, method: &str, target: &str) -> Response {
    let body: &[u8] = if method == "PUT" { b"body" } else { b"" };
    server.request(method, target, &[("X-API-Key", key)], body)
}

fn assert_refused(server: &Server, key: &str, case: &str) {
    with_key(server, key, "GET", KEY).assert_problem(401, "invalid_token", case);
}

/// Goes on using a key until it is refused: using it does not keep it alive.
fn wait_until_refused(server: &Server, key: &str, case: &str) {
    wait_until(case, || match with_key(server, key, "GET", KEY).status {
        401 => Some(()),
        200 => None,
        other => panic!("{case}: {other}"),
    });
}

/// Gives keys out, uses them on each server, and takes them back.
fn assert_keys_work(store: &Store<'_>, servers: &[&Server]) {
    let made = store.create(&["--tenant", "acme", "--scope", "read,write", "--label", "a training job"]);
    let (id, key) = (text(&made, "id"), text(&made, "key"));
    assert!(key.starts_with(&format!("jsk_{id}_")) && key.len() == 64, "{key}");
    for server in servers {
        assert!(matches!(with_key(server, key, "PUT", KEY).status, 200 | 201));
        assert_eq!(with_key(server, key, "GET", KEY).body, b"body");
        let bearer = format!("bearer {key}");
        assert_eq!(server.request("GET", KEY, &[("Authorization", &bearer)], b"").status, 200);
        with_key(server, key, "DELETE", KEY).assert_problem(403, "forbidden", "it may not delete");
        with_key(server, key, "GET", "/v1/keys/models/other/k").assert_problem(
            403,
            "forbidden",
            "not its tenant",
        );
        assert_refused(server, &format!("{}A", &key[..key.len() - 1]), "another secret");
        assert_refused(server, &key.replace(id, "0123456789abcdef"), "another id");
    }
    let narrow =
        store.create(&["--tenant", "*", "--scope", "read", "--namespace", "data", "--namespace", "logs"]);
    let everything = store.create(&["--tenant", "*", "--scope", "read", "--scope", "delete"]);
    for server in servers {
        with_key(server, text(&narrow, "key"), "GET", KEY).assert_problem(
            403,
            "forbidden",
            "not its namespace",
        );
        assert_eq!(with_key(server, text(&narrow, "key"), "GET", "/v1/keys/data/acme/k").status, 404);
        assert_eq!(with_key(server, text(&everything, "key"), "GET", KEY).status, 200);
    }

    let listed = store.list();
    assert_eq!(listed.len(), 3);
    for (shown, made) in listed.iter().zip([&made, &narrow, &everything]) {
        assert!(shown.get("key").is_none(), "{shown}");
        for member in
            ["id", "tenant_id", "namespaces", "scope", "label", "created_at", "expires_at", "revoked_at"]
        {
            assert_eq!(shown[member], made[member], "{member}");
        }
    }
    assert_eq!(listed[0]["label"], "a training job");
    assert_eq!(listed[1]["namespaces"], serde_json::json!(["data", "logs"]));

    store.revoke(id);
    for server in servers {
        wait_until_refused(server, key, "a revoked key stops working");
        assert_eq!(with_key(server, text(&everything, "key"), "GET", KEY).status, 200, "another one goes on");
    }
    assert!(store.list()[0]["revoked_at"].is_string());
}

#[test]
fn a_key_opens_a_server_until_it_is_revoked() {
    let server = Server::start_with(&REQUIRED);
    let directory = server.directory();
    server.get(KEY).assert_problem(401, "unauthorized", "no credential");
    assert_keys_work(&Store { directory: directory.path(), url: None }, &[&server]);
}

#[test]
fn a_key_opens_every_server_of_a_database_until_it_is_revoked() {
    let site = Site::new();
    let (one, two) = (site.start("one", &REQUIRED), site.start("two", &REQUIRED));
    let directory: Arc<_> = site.directory.clone();
    assert_keys_work(&Store { directory: directory.path(), url: Some(&site.url) }, &[&one, &two]);
}

#[test]
fn a_key_is_good_until_it_expires() {
    let server = Server::start_with(&REQUIRED);
    let directory = server.directory();
    let store = Store { directory: directory.path(), url: None };
    let lasting =
        store.create(&["--tenant", "acme", "--scope", "read,write", "--expires-at", "2999-01-01T00:00:00Z"]);
    assert_eq!(with_key(&server, text(&lasting, "key"), "PUT", KEY).status, 201);
    let brief = store.create(&["--tenant", "acme", "--scope", "read", "--expires-in", "3s"]);
    wait_until_refused(&server, text(&brief, "key"), "a key ends");
    assert_eq!(with_key(&server, text(&lasting, "key"), "GET", KEY).status, 200);
    let run = tool_on(directory.path(), None, &["key", "list"]).assert_code(0);
    let lines: Vec<&str> = run.lines().collect();
    assert!(lines[0].contains(" until 2999-01-01") && lines[1].contains(" expired "), "{run}");
}

#[test]
fn a_key_is_told_once_and_its_secret_is_kept_nowhere() {
    let server = Server::start_with(&REQUIRED);
    let directory = server.directory();
    let run = tool_on(directory.path(), None, &["key", "create", "--tenant", "acme", "--scope", "read"]);
    let said = run.errors.clone();
    let output = run.assert_code(0);
    let key = output.trim_end();
    assert_eq!(output, format!("{key}\n"), "a script takes it as it is");
    assert_eq!(with_key(&server, key, "GET", KEY).status, 404);
    let secret = &key[21..];
    let listed = tool_on(directory.path(), None, &["key", "list"]).assert_code(0);
    assert!(listed.contains(&key[4..20]) && !listed.contains(secret) && !said.contains(secret));
    let (_, lines) = server.stop();
    assert!(!lines.join("\n").contains(secret));
    for path in crate::server::files_below(directory.path()) {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{} holds the secret", path.display());
    }
}

#[test]
fn what_cannot_be_a_key_is_refused_by_name() {
    let server = Server::start_with(&REQUIRED);
    let directory = server.directory();
    for (arguments, words) in [
        (&["key", "create", "--scope", "read"][..], "--tenant"),
        (&["key", "create", "--tenant", "acme"], "--scope"),
        (&["key", "create", "--tenant", "a b", "--scope", "read"], "--tenant"),
        (&["key", "create", "--tenant", "acme", "--scope", "own"], "--scope"),
        (&["key", "create", "--tenant", "acme", "--scope", "read", "--namespace", "A"], "--namespace"),
        (&["key", "create", "--tenant", "acme", "--scope", "read", "--expires-in", "1w"], "--expires-in"),
        (
            &["key", "create", "--tenant", "acme", "--scope", "read", "--expires-at", "2001-01-01T00:00:00Z"],
            "has expired already",
        ),
        (&["key", "revoke", "0123456789abcdef"], "0123456789abcdef"),
        (&["key", "revoke", "jsk_"], "16 lower-case"),
    ] {
        let run = tool_on(directory.path(), None, arguments);
        assert!(run.errors.contains(words), "{arguments:?}: {}", run.errors);
        run.assert_code(2);
    }
    let nowhere = tempfile::tempdir().unwrap();
    let run = tool_on(nowhere.path(), None, &["key", "list"]);
    assert!(run.errors.contains("there is no database"), "{}", run.errors);
    run.assert_code(2);
    assert_eq!(program().arg("key").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_key_that_cannot_be_looked_up_is_not_called_bad() {
    let mut site = Site::new();
    let impatient = ["--db-acquire-timeout-secs=2", "--db-answer-timeout-secs=2"];
    let server = site.start("one", &[&REQUIRED[..], &impatient].concat());
    let directory = site.directory.clone();
    let url = site.url.clone();
    let store = Store { directory: directory.path(), url: Some(&url) };
    let made = store.create(&["--tenant", "acme", "--scope", "read"]);
    site.postgres.crash();
    let response = with_key(&server, text(&made, "key"), "GET", KEY);
    response.assert_problem(503, "metadata_unavailable", "the database is away");
    assert_eq!(response.header("Retry-After"), Some("1"));
    site.postgres.start_again();
    wait_until("the database", || {
        (with_key(&server, text(&made, "key"), "GET", KEY).status == 404).then_some(())
    });
}
