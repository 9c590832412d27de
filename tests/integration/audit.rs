//! The audit log: one line for each change, refusal and credential, none of them with a secret, and no change without one.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::content::sha256_hex;
use crate::maintenance::tool_on;
use crate::raw::Fields;
use crate::server::{Server, refused, serve_command, wait_until};
use crate::tokens::{SECRET, claims, token, token_of};

const KEY: &str = "/v1/keys/models/acme/k";
const OBJECTS: &str = "/v1/objects?namespace=models&tenant_id=acme";
const CREDENTIALS: [&str; 4] = ["--auth-mode", "required", "--jwt-secret", SECRET];

fn directory() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

/// A server in a directory, with its audit log in a file of that.
fn audited(directory: &Arc<TempDir>, flags: &[&str]) -> (Server, PathBuf) {
    let path = directory.path().join("audit.log");
    let server =
        Server::start_on(directory, &[flags, &["--audit-log-file", path.to_str().unwrap()]].concat());
    (server, path)
}

/// The whole lines of a file, each of which has to be JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the file is text");
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))).collect()
}

fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    wait_until("lines of the audit log", || {
        let lines = lines(path);
        (lines.len() >= count).then_some(lines)
    })
}

/// Something that is sent, and what the audit log tells of it; `null` is nothing.
struct Row<'a> {
    request: (&'a str, &'a str, Option<&'a str>, Fields<'a>, &'a [u8]),
    status: u16,
    told: Value,
}

#[test]
fn every_change_and_every_refusal_has_one_line_and_a_good_read_none() {
    let directory = directory();
    let (server, path) = audited(&directory, &CREDENTIALS);
    let tokens = [token_of("acme"), token_of("*"), token(&claims("acme", "read"))];
    let [acme, operator, reader] = tokens.each_ref().map(|token| Some(token.as_str()));
    let row = |method, target, token, fields, body, status, told| Row {
        request: (method, target, token, fields, body),
        status,
        told,
    };
    let named = |event: &str| json!({"event": event, "tenant_id": "acme", "namespace": "models", "key": "k"});
    let with = |mut told: Value, more: Value| {
        told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        told
    };
    let by = |told: Value, tenant: &str| {
        with(told, json!({"credential": "jwt:tester", "credential_tenant": tenant}))
    };
    let problem = |event: &str, code: &str| json!({"event": event, "code": code});
    let hash = sha256_hex(b"ten bytes.");
    let rows = [
        row("GET", KEY, acme, &[], b"", 404, Value::Null),
        row(
            "PUT",
            KEY,
            acme,
            &[],
            b"ten bytes.",
            201,
            by(with(named("object_created"), json!({"size_bytes": 10, "content_hash": hash})), "acme"),
        ),
        row("PUT", KEY, operator, &[], b"new", 200, by(named("object_replaced"), "*")),
        row(
            "PUT",
            KEY,
            acme,
            &[("If-None-Match", "*")],
            b"x",
            412,
            with(named("failed"), json!({"code": "precondition_failed"})),
        ),
        row(
            "PUT",
            KEY,
            acme,
            &[("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")],
            b"x",
            400,
            with(named("failed"), json!({"code": "digest_mismatch"})),
        ),
        row("GET", KEY, acme, &[], b"", 200, Value::Null),
        row("HEAD", KEY, acme, &[], b"", 200, Value::Null),
        row("GET", OBJECTS, acme, &[], b"", 200, Value::Null),
        row("GET", "/health", None, &[], b"", 200, Value::Null),
        row("GET", "/nowhere", None, &[], b"", 404, Value::Null),
        row("POST", "/", None, &[], b"echo", 200, Value::Null),
        row(
            "POST",
            OBJECTS,
            acme,
            &[],
            b"1234",
            201,
            json!({"event": "object_created", "tenant_id": "acme", "namespace": "models", "size_bytes": 4}),
        ),
        row(
            "PATCH",
            "/v1/objects/0193a5c0-0000-7000-8000-000000000000",
            acme,
            &[("Content-Type", "application/merge-patch+json")],
            b"{}",
            404,
            json!({"event": "failed", "code": "not_found", "object_id": "0193a5c0-0000-7000-8000-000000000000"}),
        ),
        row("PATCH", "/v1/objects", acme, &[], b"", 405, problem("failed", "method_not_allowed")),
        row("PUT", "/v1/keys/models/acme/..", acme, &[], b"", 400, problem("failed", "invalid_parameter")),
        row("GET", KEY, None, &[], b"", 401, with(named("refused"), json!({"code": "unauthorized"}))),
        row(
            "GET",
            KEY,
            Some("nonsense"),
            &[],
            b"",
            401,
            with(named("refused"), json!({"code": "invalid_token"})),
        ),
        row("DELETE", KEY, None, &[], b"", 401, with(named("refused"), json!({"code": "unauthorized"}))),
        row(
            "PUT",
            KEY,
            reader,
            &[],
            b"x",
            403,
            by(with(named("refused"), json!({"code": "forbidden"})), "acme"),
        ),
        row(
            "GET",
            "/v1/keys/models/other/k",
            acme,
            &[],
            b"",
            403,
            by(json!({"event": "refused", "tenant_id": "other", "key": "k"}), "acme"),
        ),
        row(
            "POST",
            "/v1/objects?namespace=data&tenant_id=other&key=a",
            acme,
            &[],
            b"x",
            403,
            by(json!({"event": "refused", "tenant_id": "other", "namespace": "data", "key": "a"}), "acme"),
        ),
        row(
            "PUT",
            "/v1/tenants/acme",
            operator,
            &[],
            br#"{"bytes_max":1000000}"#,
            200,
            by(
                json!({"event": "limits_set", "tenant_id": "acme", "bytes_max": 1_000_000, "objects_max": null}),
                "*",
            ),
        ),
        row("PUT", "/v1/tenants/acme", acme, &[], b"{}", 403, problem("refused", "forbidden")),
        row(
            "DELETE",
            KEY,
            acme,
            &[],
            b"",
            204,
            by(with(named("object_deleted"), json!({"versions": 2})), "acme"),
        ),
        row("DELETE", KEY, acme, &[], b"", 404, with(named("failed"), json!({"code": "not_found"}))),
    ];
    let mut connection = server.connect();
    let local = connection.stream().local_addr().unwrap().to_string();
    for (index, Row { request: (method, target, token, fields, body), status, .. }) in rows.iter().enumerate()
    {
        let (id, credential) = (format!("row-{index}"), token.map(|token| format!("Bearer {token}")));
        let own = credential.iter().map(|credential| ("Authorization", credential.as_str()));
        let fields: Vec<_> =
            fields.iter().copied().chain([("X-Request-Id", id.as_str())]).chain(own).collect();
        let response = connection.exchange(method, target, &fields, body);
        assert_eq!(response.status, *status, "{method} {target}: {response:?}");
        if response.closes() {
            connection = server.connect();
        }
    }
    assert_eq!(server.stop().0.code(), Some(0));
    let lines = lines(&path);
    let mut expected = 0;
    for (index, Row { request: (method, target, token, _, body), status, told }) in rows.iter().enumerate() {
        let id = format!("row-{index}");
        let own: Vec<_> = lines.iter().filter(|line| line["request_id"] == id.as_str()).collect();
        let Value::Object(told) = told else {
            assert!(own.is_empty(), "{own:?}");
            continue;
        };
        expected += 1;
        let [line] = own.as_slice() else { panic!("{method} {target}: {own:?}") };
        for (name, value) in told {
            assert!(line.get(name).is_some_and(|told| told == value), "{name} is {value} in {line}");
        }
        let path = target.split('?').next().unwrap();
        assert_eq!(
            (&line["method"], &line["path"], &line["status"]),
            (&(*method).into(), &path.into(), &(*status).into())
        );
        assert!(line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!(
            line.get("credential").is_some(),
            token.is_some_and(|token| token != "nonsense")
                && *status != 405
                && line["code"] != "invalid_parameter"
        );
        if *status < 300 {
            assert_eq!(line["bytes_in"], body.len(), "{line}");
            assert!(line.get("code").is_none(), "{line}");
        }
    }
    assert_eq!(lines.len(), expected, "and nothing else: {lines:#?}");
    assert!(lines.iter().any(|line| line["peer"] == local.as_str()));
    let all = std::fs::read_to_string(&path).unwrap();
    let secrets = tokens.iter().map(String::as_str).chain([SECRET, "Bearer"]);
    assert!(secrets.into_iter().all(|secret| !all.contains(secret)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn whatever_comes_a_line_is_one_json_object_without_what_stood_in_the_query() {
    let directory = directory();
    let (server, path) = audited(&directory, &[]);
    let rows = [
        ("/v1/keys/models/acme/\"}\\{", 201),
        ("/v1/keys/models/acme/%22%5c%7d%e2%80%a8%f0%9f%92%be", 201),
        ("/v1/keys/models/acme/%0a%7b%7d", 400),
        ("/v1/keys/models/acme/%00", 400),
        ("/v1/keys/models/acme/%ff%fe", 400),
        ("/v1/keys/models/acme/k?signature=hidden", 400),
        ("/v1/\u{1}", 400),
    ];
    for (target, status) in rows {
        let response = server.request("PUT", target, &[("X-Request-Id", "\"\\{}")], b"x");
        assert_eq!(response.status, status, "{target}");
    }
    server.stop();
    let lines = lines(&path);
    assert_eq!(lines.len(), rows.len() - 1, "a head that cannot be read is no request: {lines:#?}");
    for (line, (target, status)) in lines.iter().zip(rows) {
        assert_eq!(
            (&line["path"], &line["status"]),
            (&target.split('?').next().unwrap().into(), &status.into())
        );
        assert_eq!(line["request_id"], "\"\\{}");
    }
    assert_eq!((&lines[0]["key"], &lines[1]["key"]), (&"\"}\\{".into(), &"\"\\}\u{2028}💾".into()));
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hidden"));
}

#[test]
fn a_thousand_writes_at_once_have_a_thousand_lines_and_tools_write_between_them() {
    const CLIENTS: usize = 20;
    const WRITES: usize = 50;
    const TOOLS: usize = 4;
    let directory = directory();
    let (server, path) = audited(&directory, &[]);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = server.connect();
            scope.spawn(move || {
                for write in 0..WRITES {
                    let id = format!("{client}-{write}");
                    let response = connection.exchange(
                        "PUT",
                        &format!("/v1/keys/models/acme/{id}"),
                        &[("X-Request-Id", &id)],
                        id.as_bytes(),
                    );
                    assert_eq!(response.status, 201);
                }
            });
        }
        for _ in 0..TOOLS {
            let (directory, path) = (directory.clone(), path.to_str().unwrap());
            scope.spawn(move || {
                let set = ["tenant", "set", "other", "--objects-max", "1", "--audit-log-file", path];
                tool_on(directory.path(), None, &set).assert_code(0);
            });
        }
    });
    server.stop();
    let lines = lines(&path);
    assert_eq!(lines.len(), CLIENTS * WRITES + TOOLS);
    let ids: std::collections::BTreeSet<_> =
        lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    assert_eq!(ids.len(), CLIENTS * WRITES);
    assert_eq!(lines.iter().filter(|line| line["event"] == "limits_set").count(), TOOLS);
}

#[test]
fn what_tools_change_is_told_beside_a_running_server_without_the_key() {
    let directory = directory();
    let (server, path) = audited(&directory, &CREDENTIALS);
    let file = ["--audit-log-file", path.to_str().unwrap()];
    let tool = |arguments: &[&str]| tool_on(directory.path(), None, &[arguments, &file].concat());
    let flags = ["--tenant", "acme", "--scope", "read,write", "--namespace", "models", "--expires-in", "1h"];
    let made =
        tool(&[&["key", "create", "--json", "--label", "a \"job\""], &flags[..]].concat()).assert_code(0);
    let made: Value = serde_json::from_str(&made).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(server.request("PUT", KEY, &[("X-API-Key", key)], b"x").status, 201);
    wait_for_lines(&path, 2);
    tool(&["tenant", "set", "acme", "--bytes-max", "none", "--objects-max", "9"]).assert_code(0);
    tool(&["key", "revoke", id]).assert_code(0);
    let credential = format!("jsk:{id}");
    let expected = [
        json!({"event": "key_created", "credential": credential, "tenant_id": "acme", "credential_tenant": "acme",
            "namespaces": ["models"], "scope": "read write", "expires_at": made["expires_at"]}),
        json!({"event": "object_created", "credential": credential, "credential_tenant": "acme", "key": "k"}),
        json!({"event": "limits_set", "tenant_id": "acme", "bytes_max": null, "objects_max": 9}),
        json!({"event": "key_revoked", "credential": credential}),
    ];
    let told = lines(&path);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, expected) in told.iter().zip(&expected) {
        for (name, value) in expected.as_object().unwrap() {
            assert!(line.get(name).is_some_and(|told| told == value), "{name} is {value} in {line}");
        }
        assert_eq!(line["uid"].is_u64(), line["event"] != "object_created", "{line}");
    }
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&key[21..]));

    // What came to nothing, and what changes nothing.
    tool(&["key", "revoke", "0123456789abcdef"]).assert_code(2);
    tool_on(directory.path(), None, &["key", "list"]).assert_code(0);
    assert_eq!(lines(&path).len(), expected.len());
    for arguments in [&["key", "create", "--tenant", "acme", "--scope", "read"][..], &["key", "revoke", id]] {
        let nowhere = ["--audit-log-file", directory.path().to_str().unwrap()];
        let run = tool_on(directory.path(), None, &[arguments, &nowhere].concat());
        assert!(run.errors.contains("AUDIT_LOG_FILE"), "{}", run.errors);
        run.assert_code(2);
    }
    let listed = tool_on(directory.path(), None, &["key", "list", "--json"]).assert_code(0);
    assert_eq!(
        serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().len(),
        1,
        "nothing was made"
    );
}

#[test]
fn a_file_that_is_moved_away_is_followed_by_a_new_one() {
    let (server, path) = audited(&directory(), &[]);
    let put = |key: &str| server.request("PUT", &format!("/v1/keys/models/acme/{key}"), &[], b"x").status;
    assert_eq!(put("a"), 201);
    wait_for_lines(&path, 1);
    let moved = path.with_extension("1");
    std::fs::rename(&path, &moved).unwrap();
    wait_until("a new file", || path.exists().then_some(()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(put("b"), 201);
    assert_eq!(wait_for_lines(&path, 1)[0]["key"], "b");
    let old = lines(&moved);
    assert_eq!((old.len(), &old[0]["key"]), (1, &"a".into()));
}

#[test]
fn while_no_line_can_be_written_nothing_is_changed_and_then_all_lines_are_there() {
    let directory = directory();
    let path = directory.path().join("audit.log");
    let place = |target: &Path| {
        let new = directory.path().join("new");
        symlink(target, &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    place(Path::new("/dev/full"));
    let (server, _) = audited(&directory, &CREDENTIALS);
    let acme = format!("Bearer {}", token_of("acme"));
    let credential = [("Authorization", acme.as_str())];
    let mut changes = 0;
    let mut put = || {
        changes += 1;
        server.request("PUT", KEY, &credential, b"x")
    };
    // The first line is what shows that the file is full.
    assert_eq!(put().status, 201);
    let refusal = wait_until("a refusal", || Some(put()).filter(|response| response.status == 503));
    refusal.assert_problem(503, "audit_unavailable", "the file is full");
    assert_eq!(refusal.header("Retry-After"), Some("1"));
    assert_eq!(server.request("DELETE", KEY, &credential, b"").status, 503);
    assert_eq!(server.request("GET", KEY, &credential, b"").body, b"x", "reads go on");
    assert_eq!(server.request("GET", KEY, &[], b"").status, 401);
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, &ready.json()["checks"]["audit_log"]), (503, &"failed".into()));

    let file = directory.path().join("file");
    place(&file);
    wait_until("changes", || Some(put()).filter(|response| response.status == 200));
    assert_eq!(server.get("/health/ready").json()["checks"]["audit_log"], "ok");
    let (_, log) = server.stop();
    let told = lines(&file);
    assert_eq!(told.len(), changes + 2, "{told:#?}");
    assert_eq!(told[0]["event"], "object_created");
    let refused =
        told.iter().filter(|line| line["event"] == "refused" && line["code"] == "audit_unavailable");
    assert_eq!(
        refused.count(),
        changes + 1 - told.iter().filter(|line| line["key"] == "k" && line["object_id"].is_string()).count()
    );
    assert!(told.iter().any(|line| line["status"] == 401));
    for words in ["the audit log cannot be written", "the audit log is written again"] {
        assert_eq!(log.iter().filter(|line| line.contains(words)).count(), 1, "{words}");
    }
}

#[test]
fn a_server_whose_audit_log_cannot_be_opened_does_not_start() {
    let directory = directory();
    for path in [directory.path().to_owned(), directory.path().join("missing/audit.log")] {
        let path = path.to_str().unwrap();
        let refusal = refused(serve_command(directory.path(), &["--audit-log-file", path]));
        assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
        let sentence = format!("AUDIT_LOG_FILE {path}: cannot open it: ");
        assert!(refusal.stderr.contains(&sentence), "{}", refusal.stderr);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was begun");
    }
}

#[test]
fn a_store_that_is_made_anew_is_told() {
    let directory = directory();
    let (server, _) = audited(&directory, &CREDENTIALS);
    let acme = format!("Bearer {}", token_of("acme"));
    assert_eq!(server.request("PUT", KEY, &[("Authorization", &acme)], b"x").status, 201);
    let place = tempfile::tempdir().unwrap();
    let (backup, told) = (place.path().join("backup"), place.path().join("audit.log"));
    let backup = backup.to_str().unwrap();
    tool_on(directory.path(), None, &["backup", backup]).assert_code(0);
    assert!(server.stop().0.success());

    let restored = place.path().join("restored");
    std::fs::create_dir(&restored).unwrap();
    let audit = |path: &Path| format!("--audit-log-file={}", path.display());
    let nowhere = audit(place.path());
    let run = tool_on(&restored, None, &["restore", backup, &nowhere]);
    assert!(run.errors.contains("AUDIT_LOG_FILE"), "{}", run.errors);
    run.assert_code(2);
    assert_eq!(std::fs::read_dir(&restored).unwrap().count(), 0, "nothing was begun");
    tool_on(&restored, None, &["restore", backup, &audit(&told)]).assert_code(0);
    tool_on(&restored, None, &["restore", backup, &audit(&told)]).assert_code(2);

    std::fs::remove_file(directory.path().join("metadata.db")).unwrap();
    let run = tool_on(directory.path(), None, &["rebuild", &nowhere]);
    assert!(run.errors.contains("AUDIT_LOG_FILE"), "{}", run.errors);
    run.assert_code(2);
    assert!(!directory.path().join("metadata.db").exists(), "nothing was begun");
    tool_on(directory.path(), None, &["rebuild", &audit(&told)]).assert_code(0);

    let manifest = std::fs::read(place.path().join("backup/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let told = lines(&told);
    let expected = [
        json!({"event": "store_restored", "backup_created_at": manifest["created_at"], "objects": 1}),
        json!({"event": "database_rebuilt", "changes": 1, "from_copy": false}),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, expected) in told.iter().zip(&expected) {
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(line.get(name), Some(value), "{name} in {line}");
        }
        assert!(line["uid"].is_u64(), "{line}");
    }
}
