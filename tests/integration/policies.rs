//! What operators set outlives the database: API keys, limits of tenants, rules of namespaces.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::content::content;
use crate::maintenance::{put, sql, target, tool};
use crate::server::{SCOPE, Server, wait_until};

const FILE: &str = "hot/snapshots/policies.jsonl";
/// Passes as often as they may be.
const EAGER: [&str; 2] = ["--lifecycle-interval-secs", "1"];

/// What the tools list of all that is set.
fn everything_set(directory: &Path) -> [String; 3] {
    [&["key", "list", "--json"][..], &["tenant", "list", "--json"], &["lifecycle", "list", "--json"]]
        .map(|command| tool(directory, command).assert_code(0))
}

fn lose_the_database(directory: &Path) {
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(directory.join(name));
    }
}

fn set_over_http(server: &Server, target: &str, body: &str) {
    let json = [("Content-Type", "application/json")];
    let response = server.request("PUT", target, &json, body.as_bytes());
    assert_eq!(response.status, 200, "{response:?}");
}

fn rests(server: &Server) -> bool {
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    text.lines().any(|line| line == "activestorage_lifecycle_rests 1")
}

#[test]
fn a_rebuilt_database_has_what_was_set_by_tools_and_over_http_beside_a_server_and_without_one() {
    let server = Server::start();
    let directory = server.directory();
    let set = |command: &[&str]| tool(directory.path(), command).assert_code(0);
    put(&server, "k", b"x");
    set(&["key", "create", "--tenant", "acme", "--scope", "read"]);
    let first: Value = serde_json::from_str(&set(&["key", "list", "--json"])).unwrap();
    set(&["key", "revoke", first[0]["id"].as_str().unwrap()]);
    set(&["tenant", "set", "acme", "--bytes-max", "1GiB"]);
    set(&["lifecycle", "set", "models", "--keep-versions", "5"]);
    set(&["lifecycle", "set", "logs", "--keep-versions", "5"]);
    set(&["lifecycle", "clear", "logs"]);
    set_over_http(&server, "/v1/tenants/zeta", r#"{"objects_max":7}"#);
    set_over_http(&server, "/v1/namespaces/data/lifecycle", r#"{"delete_after_days":30}"#);
    let in_file = |word: &str| fs::read_to_string(directory.path().join(FILE)).unwrap().contains(word);
    wait_until("the server keeps it", || (in_file("zeta") && in_file("data")).then_some(()));
    // The last change comes too late for the server to notice it by itself.
    set_over_http(&server, "/v1/tenants/last", r#"{"objects_max":9}"#);
    server.stop();
    set(&["key", "create", "--tenant", "*", "--scope", "admin"]);
    let before = everything_set(directory.path());
    assert!(before[1].contains("last") && before[2].lines().count() == 2, "{before:?}");
    assert_eq!(serde_json::from_str::<Value>(&before[0]).unwrap().as_array().unwrap().len(), 2);

    lose_the_database(directory.path());
    let said = set(&["rebuild"]);
    assert!(
        said.ends_with(
            "2 API keys, the limits of 3 tenants and the rules of 2 namespaces are as they were last set\n"
        ),
        "{said}"
    );
    assert_eq!(everything_set(directory.path()), before);
    let server = Server::start_on(&directory, &EAGER);
    assert_eq!(server.get(&target("k")).body, b"x");
    wait_until("nothing to be known of the clocks", || rests(&server).then_some(()));
    server.stop();

    // Without that file it is as it was before there was one, and a damaged one is not taken for it.
    lose_the_database(directory.path());
    let path = directory.path().join(FILE);
    let kept = fs::read_to_string(&path).unwrap();
    fs::write(&path, kept.replace("zeta", "beta")).unwrap();
    let run = tool(directory.path(), &["rebuild"]);
    assert!(run.errors.contains("policies.jsonl is damaged"), "{}", run.errors);
    run.assert_code(2);
    assert!(!directory.path().join("metadata.db").exists(), "nothing was made");
    fs::remove_file(&path).unwrap();
    assert!(set(&["rebuild"]).contains("there is no copy of what operators have set"));
    assert_eq!(everything_set(directory.path()).map(|said| said.len() > 60), [false, true, false]);
}

#[test]
fn a_restored_store_has_the_rules_and_they_rest_until_somebody_says_so() {
    let server = Server::start();
    let directory = server.directory();
    for number in 0..3 {
        put(&server, "k", &content(number, 300));
    }
    server.stop();
    // As if it were a year old: what the rule would delete is what the backup may be wanted for.
    sql(directory.path(), "UPDATE objects SET created_at = created_at - 400 * 86400000");
    let rule = ["lifecycle", "set", "models", "--delete-after-days", "365", "--cold-after-days", "7"];
    tool(directory.path(), &rule).assert_code(0);
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    tool(directory.path(), &["backup", backup.to_str().unwrap()]).assert_code(0);
    let manifest = fs::read_to_string(backup.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"format\": 3"), "{manifest}");

    let restored = Arc::new(tempfile::tempdir().unwrap());
    tool(restored.path(), &["restore", backup.to_str().unwrap()]).assert_code(0);
    let rules = |directory: &Path| tool(directory, &["lifecycle", "list"]).assert_code(0);
    assert_eq!(rules(restored.path()), rules(directory.path()));
    assert!(restored.path().join(FILE).exists());
    let plan = tool(restored.path(), &["lifecycle", "plan"]);
    assert!(plan.errors.contains("the store was restored or rebuilt"), "{}", plan.errors);
    assert!(plan.assert_code(0).contains("would delete 3 objects"));
    let server = Server::start_on(&restored, &EAGER);
    wait_until("a pass that rests", || rests(&server).then_some(()));
    assert_eq!(server.list(SCOPE).len(), 3);
    tool(restored.path(), &["lifecycle", "trust-clock"]).assert_code(0);
    wait_until("they are deleted", || server.list(SCOPE).is_empty().then_some(()));
    wait_until("the pass to be told of", || (!rests(&server)).then_some(()));
}
