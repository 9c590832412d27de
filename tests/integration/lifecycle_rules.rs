//! Rules for the life of objects: what an operator sets, what it would do, and what passes do with it while clients go on,
//! servers are killed and clocks leap.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::content::content;
use crate::maintenance::{Run, put, sql, target, tool};
use crate::server::{SCOPE, Server, program, serve_command, wait_until};
use crate::site::Site;

/// Passes as often as they may be.
const EAGER: [&str; 2] = ["--lifecycle-interval-secs", "1"];
/// Both points of durability, with such passes.
const ACKS: [[&str; 4]; 2] =
    [["--ack", "log", EAGER[0], EAGER[1]], ["--ack", "database", EAGER[0], EAGER[1]]];

/// Runs `just_storage lifecycle …` on the store in `directory`.
fn lifecycle(directory: &Path, arguments: &[&str]) -> Run {
    tool(directory, &[&["lifecycle"], arguments].concat())
}

/// What it says of each object that is due.
fn planned(directory: &Path) -> Vec<Value> {
    let said = lifecycle(directory, &["plan", "--objects", "--json"]).assert_code(0);
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("object_id").is_some()).collect()
}

fn ids<'v>(objects: impl IntoIterator<Item = &'v Value>, name: &str) -> BTreeSet<String> {
    objects.into_iter().map(|object| object[name].as_str().unwrap().to_owned()).collect()
}

fn put_at(server: &Server, path: &str, body: &[u8]) -> Value {
    let response = server.request("PUT", &format!("/v1/keys/{path}"), &[], body);
    assert!(matches!(response.status, 200 | 201), "{response:?}");
    response.json()
}

/// Waits until a listing shows no more than so many objects, and gives them.
fn wait_for_objects(server: &Server, query: &str, count: usize) -> Vec<Value> {
    wait_until("what is due to go", || {
        let objects = server.list(query);
        (objects.len() <= count).then_some(objects)
    })
}

fn metric(server: &Server, name: &str) -> u64 {
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("there is no {name} in {text}"))
}

/// Waits until a whole pass has been made that began after this was called.
fn wait_for_a_pass(server: &Server) {
    let passes = || metric(server, "activestorage_lifecycle_passes_total");
    let before = passes();
    wait_until("two more passes", || (passes() >= before + 2).then_some(()));
}

#[test]
fn a_rule_that_is_set_beside_the_server_leaves_the_newest_versions_of_each_key() {
    for flags in ACKS {
        let server = Server::start_with(&flags);
        let directory = server.directory();
        let mut kept = BTreeSet::new();
        for path in ["models/acme/k", "models/acme/dir/k", "models/zeta/k", "models/acme/once"] {
            let versions = if path.ends_with("once") { 1 } else { 5 };
            let versions: Vec<_> = (0..versions)
                .map(|number| put_at(&server, path, format!("{path} {number}").as_bytes()))
                .collect();
            kept.extend(ids(versions.iter().rev().take(2), "id"));
            // Of another namespace.
            (0..3).for_each(|number| drop(put_at(&server, "data/acme/k", &[number])));
        }
        (0..3).for_each(|_| drop(server.create(b"no key")));
        let planned_before = lifecycle(directory.path(), &["plan"]).assert_code(0);
        assert_eq!(planned_before, "nothing is due\n");
        let said = lifecycle(directory.path(), &["set", "models", "--keep-versions", "2"]).assert_code(0);
        assert_eq!(said, "models: the newest 2 versions kept\n");
        wait_for_objects(&server, SCOPE, 8);
        wait_for_objects(&server, "namespace=models&tenant_id=zeta", 2);
        wait_for_a_pass(&server);
        let left = [server.list(SCOPE), server.list("namespace=models&tenant_id=zeta")].concat();
        let with_key: BTreeSet<_> = ids(left.iter().filter(|object| !object["key"].is_null()), "id");
        assert_eq!(with_key, kept, "{flags:?}");
        assert_eq!(left.len(), kept.len() + 3, "what has no key has no versions");
        assert_eq!(server.list("namespace=data&tenant_id=acme").len(), 12);
        assert_eq!(server.get("/v1/keys/models/acme/dir/k").body, b"models/acme/dir/k 4");
        assert_eq!(metric(&server, "activestorage_lifecycle_deleted_objects_total"), 9);
        assert_eq!(lifecycle(directory.path(), &["plan"]).assert_code(0), "nothing is due\n");
        tool(directory.path(), &["validate"]).assert_code(0);
    }
}

#[test]
fn a_pass_does_exactly_what_the_dry_run_said_and_tells_the_audit_log() {
    for flags in ACKS {
        let server = Server::start_with(&["--ack", flags[1]]);
        let directory = server.directory();
        for number in 0..40 {
            put(&server, &format!("k{}", number % 7), format!("{number}").as_bytes());
            put_at(&server, "logs/acme/k", format!("{number}").as_bytes());
            put_at(&server, "logs/other/k", format!("{number}").as_bytes());
        }
        assert_eq!(server.stop().0.code(), Some(0));
        // Every fourth object is a hundred days older.
        sql(
            directory.path(),
            "UPDATE objects SET created_at = created_at - 100 * 86400000 WHERE sequence % 4 = 0",
        );
        for rule in [
            &["set", "models", "--keep-versions", "4", "--delete-after-days", "90"][..],
            &["set", "logs", "--delete-after-days", "100"],
        ] {
            lifecycle(directory.path(), rule).assert_code(0);
        }
        let planned_objects = planned(directory.path());
        let again = planned(directory.path());
        assert_eq!(planned_objects, again, "it changes nothing");
        let planned_ids = ids(&planned_objects, "object_id");
        assert_eq!(planned_ids.len(), planned_objects.len(), "each counts once");
        let totals = lifecycle(directory.path(), &["plan", "--json"]).assert_code(0);
        let totals: Vec<Value> = totals.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let counted: u64 = totals.iter().map(|total| total["objects"].as_u64().unwrap()).sum();
        assert_eq!(counted, planned_objects.len() as u64, "{totals:?}");
        assert_eq!(totals.len(), 3, "{totals:?}");
        let of_logs = lifecycle(directory.path(), &["plan", "logs"]).assert_code(0);
        assert!(
            of_logs.starts_with("logs: would delete ")
                && of_logs.ends_with(": made 100 days ago or earlier\n")
        );
        assert_eq!(of_logs.lines().count(), 1);

        let audit = directory.path().join("audit.log");
        let server = Server::start_on(
            &directory,
            &[&flags[..], &["--audit-log-file", audit.to_str().unwrap()]].concat(),
        );
        wait_for_a_pass(&server);
        let left: Vec<Value> = ["models&tenant_id=acme", "logs&tenant_id=acme", "logs&tenant_id=other"]
            .iter()
            .flat_map(|scope| server.list(&format!("namespace={scope}")))
            .collect();
        assert_eq!(left.len(), 120 - planned_ids.len(), "{flags:?}");
        assert!(ids(&left, "id").is_disjoint(&planned_ids));
        assert_eq!(server.stop().0.code(), Some(0));
        let text = std::fs::read_to_string(&audit).unwrap();
        let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told.len(), planned_objects.len());
        for planned_object in &planned_objects {
            let line = told.iter().find(|line| line["object_id"] == planned_object["object_id"]).unwrap();
            assert_eq!(line["event"], "object_deleted");
            let rule = format!("{}=", planned_object["rule"].as_str().unwrap());
            assert!(line["rule"].as_str().unwrap().starts_with(&rule), "{line}");
            for name in ["namespace", "tenant_id", "key", "size_bytes"] {
                assert_eq!(line[name], planned_object[name], "{line}");
            }
        }
        assert_eq!(planned(directory.path()), Vec::<Value>::new());
        tool(directory.path(), &["validate"]).assert_code(0);
    }
}

#[test]
fn the_newest_versions_stay_whoever_writes_meanwhile() {
    const KEPT: usize = 3;
    const KEYS: usize = 4;
    const VERSIONS_MIN: usize = 60;
    for flags in ACKS {
        let server = Server::start_with(&flags);
        let directory = server.directory();
        lifecycle(directory.path(), &["set", "models", "--keep-versions", "3"]).assert_code(0);
        let deleted = || metric(&server, "activestorage_lifecycle_deleted_objects_total");
        let has_begun = AtomicBool::new(false);
        let written: Vec<Vec<String>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..KEYS)
                .map(|key| {
                    let (server, has_begun) = (&server, &has_begun);
                    scope.spawn(move || {
                        let mut ids = Vec::new();
                        while !has_begun.load(Ordering::Relaxed) || ids.len() < VERSIONS_MIN {
                            let body = format!("{key} {}", ids.len());
                            let object = put(server, &format!("k{key}"), body.as_bytes());
                            ids.push(object["id"].as_str().unwrap().to_owned());
                            // What was written last is there, and so are those before it.
                            for id in ids.iter().rev().take(KEPT) {
                                let response = server.get(&format!("/v1/objects/{id}"));
                                assert_eq!(response.status, 200, "of {} versions: {response:?}", ids.len());
                            }
                        }
                        ids
                    })
                })
                .collect();
            wait_until("a pass to act", || (deleted() > 0).then_some(()));
            has_begun.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let left = wait_for_objects(&server, SCOPE, KEYS * KEPT);
        let newest = written.iter().flat_map(|ids| ids.iter().rev().take(KEPT).cloned());
        assert_eq!(ids(&left, "id"), newest.collect(), "{flags:?}");
        tool(directory.path(), &["validate"]).assert_code(0);
    }
}

#[test]
fn a_pass_that_a_kill_ends_is_made_anew() {
    const VERSIONS: usize = 240;
    for flags in ACKS {
        let server = Server::start_with(&["--ack", flags[1]]);
        let directory = server.directory();
        let mut connection = server.connect();
        for number in 0..VERSIONS {
            let response = connection.exchange("PUT", &target("k"), &[], format!("{number}").as_bytes());
            assert!(matches!(response.status, 200 | 201));
        }
        lifecycle(directory.path(), &["set", "models", "--keep-versions", "2"]).assert_code(0);
        assert_eq!(server.stop().0.code(), Some(0));
        let mut last = VERSIONS;
        while last > 2 {
            let mut server = Server::start_on(&directory, &flags);
            let aim = last.saturating_sub(80).max(2);
            let left = wait_for_objects(&server, SCOPE, aim).len();
            assert!(left < last && left >= 2, "{left} of {last}");
            assert_eq!(server.get(&target("k")).body, format!("{}", VERSIONS - 1).as_bytes());
            last = left;
            server.kill();
        }
        let server = Server::start_on(&directory, &flags);
        wait_for_a_pass(&server);
        assert_eq!(server.list(SCOPE).len(), 2, "{flags:?}");
        wait_until("a clean store", || tool(directory.path(), &["validate"]).succeeded().then_some(()));
    }
}

/// Lets a command see a wall clock that is off by `offset`, while its monotonic one is not.
fn off_by(mut command: Command, offset: &str) -> Command {
    // The loader puts the machine's own directory in the place of $LIB.
    command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
    command.env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

fn start_off_by(directory: &Arc<TempDir>, offset: &str) -> Server {
    let command = serve_command(directory.path(), &[&EAGER[..], &["--log-format", "json"]].concat());
    Server::listening(off_by(command, offset), directory)
}

#[test]
fn a_clock_that_leaps_makes_nothing_due_before_somebody_says_that_it_is_right() {
    let server = Server::start_with(&EAGER);
    let directory = server.directory();
    put(&server, "k", b"precious");
    lifecycle(directory.path(), &["set", "models", "--delete-after-days", "30"]).assert_code(0);
    wait_for_a_pass(&server);
    assert_eq!(metric(&server, "activestorage_lifecycle_rests"), 0);
    assert_eq!(server.stop().0.code(), Some(0));
    let tool_off_by = |offset: &str, arguments: &[&str]| {
        let mut command = off_by(program(), offset);
        command.arg("lifecycle").args(arguments).arg("--data-dir").arg(directory.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    for restart in 0..2 {
        let mut server = start_off_by(&directory, "+3650d");
        server.wait_for_line("a word about the clock", |line| {
            line["message"].as_str().is_some_and(|message| message.contains("the wall clock has leapt"))
        });
        wait_until("to be told", || (metric(&server, "activestorage_lifecycle_rests") == 1).then_some(()));
        assert_eq!(server.get(&target("k")).body, b"precious", "start {restart}");
        let [planned, warned] = tool_off_by("+3650d", &["plan"]);
        assert!(planned.starts_with("models: would delete 1 objects, 8 B"), "{planned}");
        assert!(warned.contains("the wall clock has leapt"), "{warned}");
        assert_eq!(server.stop().0.code(), Some(0));
    }
    // Somebody has set it right.
    let server = Server::start_on(&directory, &EAGER);
    wait_for_a_pass(&server);
    assert_eq!(server.get(&target("k")).body, b"precious");
    assert_eq!(server.stop().0.code(), Some(0));
    // Or it was right.
    let server = start_off_by(&directory, "+31d");
    wait_until("to be told", || (metric(&server, "activestorage_lifecycle_rests") == 1).then_some(()));
    assert_eq!(server.get(&target("k")).status, 200);
    let [said, _] = tool_off_by("+31d", &["trust-clock"]);
    assert!(said.ends_with(", and is trusted\n"), "{said}");
    wait_until("what is due to go", || (server.get(&target("k")).status == 404).then_some(()));
}

#[test]
fn servers_that_share_a_database_do_it_together() {
    let site = Site::new();
    let servers = ["one", "two"].map(|node| {
        site.start(node, &[&EAGER[..], &["--gc-grace-secs=0", "--gc-interval-secs=10"]].concat())
    });
    for number in 0..60 {
        put(&servers[number % 2], &format!("k{}", number % 5), format!("{number}").as_bytes());
    }
    site.tool(&["lifecycle", "set", "models", "--keep-versions", "3"]).assert_code(0);
    for server in &servers {
        let left = wait_for_objects(server, SCOPE, 15);
        assert_eq!(left.len(), 15);
    }
    site.postgres.ask("UPDATE objects SET created_at = created_at - 8640000000 WHERE key = 'k1'");
    site.tool(&["lifecycle", "set", "models", "--delete-after-days", "100"]).assert_code(0);
    wait_for_objects(&servers[0], SCOPE, 12);
    servers.iter().for_each(wait_for_a_pass);
    let deleted =
        servers.iter().map(|server| metric(server, "activestorage_lifecycle_deleted_objects_total"));
    assert_eq!(deleted.sum::<u64>(), 48, "each is deleted by one of them");
    site.wait_until_in_order(&servers[0]);
    assert!(site.tool(&["validate"]).assert_code(0).ends_with("\nclean\n"));
}

#[test]
fn the_operator_sets_shows_and_takes_back_rules() {
    let server = Server::start();
    let directory = server.directory();
    let of = |arguments: &[&str]| lifecycle(directory.path(), arguments).assert_code(0);
    assert_eq!(of(&["list"]), "");
    assert_eq!(of(&["show", "models"]), "models: no rule\n");
    let said = of(&["set", "models", "--delete-after-days", "36500", "--keep-versions", "10000"]);
    assert_eq!(said, "models: deleted after 36500 days; the newest 10000 versions kept\n");
    let said = of(&["set", "models", "--delete-after-days", "none"]);
    assert_eq!(said, "models: the newest 10000 versions kept\n", "what is not named stays as it is");
    of(&["set", "data", "--delete-after-days", "1"]);
    let shown: Value = serde_json::from_str(&of(&["show", "data", "--json"])).unwrap();
    assert_eq!(
        shown,
        json!({"namespace": "data", "cold_after_days": null, "delete_after_days": 1, "keep_versions": null})
    );
    assert_eq!(of(&["list"]), "data: deleted after 1 days\nmodels: the newest 10000 versions kept\n");
    let audit = directory.path().join("audit.log");
    of(&["clear", "data", "--audit-log-file", audit.to_str().unwrap()]);
    assert_eq!(of(&["list", "--json"]).lines().count(), 1);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&audit).unwrap()).unwrap();
    assert_eq!((&line["event"], &line["namespace"]), (&"lifecycle_set".into(), &"data".into()));
    assert_eq!(line.get("delete_after_days"), Some(&Value::Null));
    for arguments in [
        &["set", "models", "--delete-after-days", "0"][..],
        &["set", "models", "--delete-after-days", "36501"],
        &["set", "models", "--keep-versions", "0"],
        &["set", "models", "--keep-versions", "10001"],
        &["set", "models", "--keep-versions", "-1"],
        &["set", "models", "--keep-versions", "all"],
        &["set", "Models", "--keep-versions", "1"],
        &["set"],
        &["show"],
        &["plan", "a/b"],
        &["forget", "models"],
    ] {
        lifecycle(directory.path(), arguments).assert_code(2);
    }
    assert_eq!(of(&["show", "models"]), "models: the newest 10000 versions kept\n", "nothing was changed");
}

#[test]
fn what_nobody_reads_is_moved_with_its_bytes_and_what_somebody_reads_stays() {
    for flags in ACKS {
        // No pass in its life.
        let server = Server::start_with(&["--ack", flags[1]]);
        let directory = server.directory();
        for length in [20, 300_000] {
            for name in ["read", "unread", "asked"] {
                put(&server, &format!("{name}{length}"), &content(length as u64, length));
            }
        }
        let of = |arguments: &[&str]| lifecycle(directory.path(), arguments).assert_code(0);
        // From its answer on, this server notes what is read. A look at the head is no read.
        let rule = br#"{"cold_after_days":30,"keep_versions":9}"#;
        let response = server.request("PUT", "/v1/namespaces/models/lifecycle", &[], rule);
        assert_eq!(response.json()["cold_after_days"], 30, "{response:?}");
        let said = of(&["set", "models", "--keep-versions", "8"]);
        assert_eq!(said, "models: cold after 30 days without a read; the newest 8 versions kept\n");
        for length in [20, 300_000] {
            let read = server.get(&target(&format!("read{length}")));
            assert_eq!(read.body.len(), length);
            assert_eq!(server.request("HEAD", &target(&format!("asked{length}")), &[], b"").status, 200);
        }
        assert_eq!(of(&["plan"]), "nothing is due\n", "nobody knows who read them before");
        assert_eq!(server.stop().0.code(), Some(0));
        sql(
            directory.path(),
            "UPDATE objects SET created_at = created_at - 100 * 86400000;
             UPDATE lifecycle_rules SET reads_noted_since = reads_noted_since - 100 * 86400000",
        );
        let due = planned(directory.path());
        assert_eq!(due.len(), 4, "{due:?}");
        assert!(of(&["plan"]).starts_with("models: would move 4 objects, "));

        let server = Server::start_on(&directory, &flags);
        wait_for_a_pass(&server);
        let cold = server.list(&format!("{SCOPE}&storage_class=cold"));
        assert_eq!(ids(&cold, "id"), ids(&due, "object_id"), "{flags:?}");
        let hot = server.list(&format!("{SCOPE}&storage_class=hot"));
        let hot: BTreeSet<_> = ids(&hot, "key");
        assert_eq!(hot, ["read20", "read300000"].map(str::to_owned).into());
        assert_eq!(metric(&server, "activestorage_lifecycle_moved_objects_total"), 4);
        for length in [20, 300_000] {
            for name in ["read", "unread", "asked"] {
                let response = server.get(&target(&format!("{name}{length}")));
                assert_eq!(response.body, content(length as u64, length), "{name}{length}");
            }
        }
        tool(directory.path(), &["validate"]).assert_code(0);
        // They are where they are to be, also for whoever starts anew.
        drop(server);
        let server = Server::start_on(&directory, &flags);
        assert_eq!(server.list(&format!("{SCOPE}&storage_class=cold")).len(), 4);
        assert_eq!(server.get(&target("unread300000")).body, content(300_000, 300_000));
    }
}

#[test]
fn a_rule_is_set_over_http_too_and_holds_at_once() {
    const RULE: &str = "/v1/namespaces/models/lifecycle";
    let server = Server::start_with(&EAGER);
    let rule_of = |days: Value, versions: Value| json!({"namespace": "models", "cold_after_days": null, "delete_after_days": days, "keep_versions": versions});
    assert_eq!(server.get(RULE).json(), rule_of(Value::Null, Value::Null));
    (0..4).for_each(|number| drop(put(&server, "k", &[number])));
    let set = |body: &str| server.request("PUT", RULE, &[], body.as_bytes());
    let response = set(r#"{"keep_versions":1,"delete_after_days":30}"#);
    assert_eq!((response.status, response.json()), (200, rule_of(30.into(), 1.into())));
    assert_eq!(server.get(RULE).json(), rule_of(30.into(), 1.into()));
    assert_eq!(server.request("HEAD", RULE, &[], b"").status, 200);
    let shown = lifecycle(server.directory().path(), &["show", "models"]).assert_code(0);
    assert_eq!(shown, "models: deleted after 30 days; the newest 1 versions kept\n");
    wait_for_objects(&server, SCOPE, 1);
    assert_eq!(server.get(&target("k")).body, [3]);

    for body in [
        "",
        "null",
        "[1]",
        r#"{"keep_versions":0}"#,
        r#"{"delete_after_days":36501}"#,
        r#"{"cold_after_days":0}"#,
        r#"{"days":1}"#,
    ] {
        set(body).assert_problem(400, "invalid_rule", body);
    }
    set(&" ".repeat(1025)).assert_problem(413, "body_too_large", "a long one");
    server.get(&format!("{RULE}?x=1")).assert_problem(400, "unknown_parameter", "a parameter");
    server.get("/v1/namespaces/-a/lifecycle").assert_problem(400, "invalid_parameter", "a bad name");
    server.get("/v1/namespaces/models").assert_problem(404, "no_route", "no such path");
    let response = server.request("DELETE", RULE, &[], b"");
    response.assert_problem(405, "method_not_allowed", "DELETE");
    assert_eq!(response.header("Allow"), Some("GET, HEAD, PUT"));
    assert_eq!(server.get(RULE).json(), rule_of(30.into(), 1.into()), "nothing was changed");
    assert_eq!(set("{}").json(), rule_of(Value::Null, Value::Null));
    assert_eq!(lifecycle(server.directory().path(), &["list"]).assert_code(0), "");
}
