//! Settings: flags over environment over defaults, and what cannot be honoured stops the start with its name.

use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Server, program, refused, serve_command};
use crate::tokens::{SECRET, token_of, with_token};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

fn directory() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

#[test]
fn a_bad_flag_stops_the_start_with_its_name() {
    for (flag, value) in [
        ("--listen-addr", "localhost"),
        ("--listen-addr", "127.0.0.1"),
        ("--metrics-addr", "9090"),
        ("--auth-mode", "maybe"),
        ("--ack", "never"),
        ("--cores", "0"),
        ("--cores", "many"),
        ("--io-driver", "kqueue"),
        ("--body-bytes-max", "0"),
        ("--body-bytes-max", "1GB"),
        ("--header-bytes-max", "1"),
        ("--header-fields-max", "7"),
        ("--header-fields-max", "100000"),
        ("--request-line-bytes-max", "1000000"),
        ("--connections-max", "0"),
        ("--buffer-bytes-max", "1"),
        ("--idle-timeout-secs", "0"),
        ("--header-timeout-secs", "-1"),
        ("--body-timeout-secs", "1.5"),
        ("--body-bytes-per-second-min", "0"),
        ("--send-timeout-secs", "86401"),
        ("--drain-timeout-secs", "x"),
        ("--db-max-connections", "0"),
        ("--log-format", "xml"),
        ("--log-level", "loud"),
        ("--gc-interval-secs", "9"),
        ("--gc-batch-size", "1001"),
        ("--no-such-flag", "x"),
    ] {
        let directory = directory();
        let mut command = program();
        command.args(["serve", "--dev", "--data-dir"]).arg(directory.path()).arg(format!("{flag}={value}"));
        let refusal = refused(command);
        assert_eq!(refusal.code, Some(2), "{flag}={value}: {}", refusal.stderr);
        assert!(refusal.stderr.contains(flag), "{flag}={value}: {}", refusal.stderr);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was begun");
    }
}

#[test]
fn a_bad_environment_variable_stops_the_start_as_a_flag_does() {
    for (name, flag, value) in [
        ("BODY_BYTES_MAX", "--body-bytes-max", "lots"),
        ("LOG_LEVEL", "--log-level", "loud"),
        ("IDLE_TIMEOUT_SECS", "--idle-timeout-secs", ""),
        ("CORES", "--cores", "0"),
    ] {
        let directory = directory();
        let mut command = serve_command(directory.path(), &[]);
        command.env(name, value);
        let refusal = refused(command);
        assert_eq!(refusal.code, Some(2), "{name}={value}: {}", refusal.stderr);
        assert!(refusal.stderr.contains(flag), "{name}={value}: {}", refusal.stderr);
    }
}

#[test]
fn a_password_in_the_url_of_the_database_is_never_shown() {
    for url in [
        "postgres://me:secret@h:port/d",
        "postgres://me:secret@h:99999/d",
        "postgresql://me:sec/ret:secret@h/d",
        "postgres://me:secret@h/d?sslmode=maybe",
        "postgres:/me:secret@h/d",
        "mysql://me:secret@h/d",
        "secret.db",
        "sqlite://:secret:",
        "sqlite://m.db?key=secret",
        "",
    ] {
        let directory = directory();
        let flag = format!("--database-url={url}");
        let mut by_variable = serve_command(directory.path(), &[]);
        by_variable.env("DATABASE_URL", url);
        for command in [serve_command(directory.path(), &[&flag]), by_variable] {
            let refusal = refused(command);
            assert_eq!(refusal.code, Some(2), "{url}: {}", refusal.stderr);
            assert!(refusal.stderr.contains("DATABASE_URL"), "{url}: {}", refusal.stderr);
            assert!(!refusal.stderr.contains("secret"), "{url}: {}", refusal.stderr);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was begun");
        }
    }
    // Another setting is wrong, and nobody can be asked at the address.
    for (flags, code) in [(&["--cores", "0"][..], 2), (&["--db-acquire-timeout-secs", "1"], 1)] {
        let directory = directory();
        let mut command = serve_command(directory.path(), flags);
        command.env("DATABASE_URL", "postgres://me:secret@127.0.0.1:1/d");
        let refusal = refused(command);
        assert_eq!(refusal.code, Some(code), "{}", refusal.stderr);
        assert!(!refusal.stderr.contains("secret"), "{}", refusal.stderr);
    }
    let help =
        program().args(["serve", "--help"]).env("DATABASE_URL", "postgres://me:swordfish@h/d").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("DATABASE_URL") && !help.contains("swordfish"), "{help}");
}

#[test]
fn the_url_of_the_database_can_be_in_a_file() {
    let directory = directory();
    let (url, database) = (directory.path().join("url"), directory.path().join("elsewhere.db"));
    std::fs::write(&url, format!("sqlite://{}\n", database.display())).unwrap();
    let mut command = serve_command(directory.path(), &["--log-format", "json"]);
    command.env("DATABASE_URL_FILE", &url);
    let server = Server::listening(command, &directory);
    assert_eq!(server.request("POST", UPLOAD, &[], b"x").status, 201);
    assert_eq!(server.stop().0.code(), Some(0));
    assert!(database.exists() && !directory.path().join("metadata.db").exists());
    let mut validate = program();
    validate.args(["validate", "--data-dir"]).arg(directory.path()).env("DATABASE_URL_FILE", &url);
    assert_eq!(validate.status().unwrap().code(), Some(0), "tools take it too");

    std::fs::write(&url, "postgres://me:secret@h:port/d").unwrap();
    let mut command = serve_command(directory.path(), &[]);
    command.env("DATABASE_URL_FILE", &url);
    let refusal = refused(command);
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    assert!(!refusal.stderr.contains("secret"), "{}", refusal.stderr);
}

#[test]
fn settings_that_do_not_go_together_are_refused_by_name() {
    for (flags, words) in [
        (
            &["--hot-storage-root", "/tmp/same", "--cold-storage-root", "/tmp/same"][..],
            &["HOT_STORAGE_ROOT", "COLD_STORAGE_ROOT"][..],
        ),
        (&["--hot-storage-root", "/tmp/same", "--cold-storage-root", "/tmp/./same/"], &["HOT_STORAGE_ROOT"]),
        (
            &["--db-min-connections", "9", "--db-max-connections", "3"],
            &["DB_MIN_CONNECTIONS", "DB_MAX_CONNECTIONS"],
        ),
        (&["--jwt-issuer", "me"], &["JWT_ISSUER", "JWT_SECRET_FILE"]),
        (&["--auth-mode", "none", "--jwt-secret", SECRET], &["AUTH_MODE=none", "JWT_SECRET"]),
        (&["--jwt-secret", &SECRET[1..]], &["JWT_SECRET", "32 bytes"]),
        (&["--jwt-secret-file", "/no/such/file"], &["JWT_SECRET_FILE", "/no/such/file"]),
        (
            &["--database-url", "sqlite:///m.db", "--database-url-file", "/f"],
            &["DATABASE_URL and DATABASE_URL_FILE are both set"],
        ),
        (&["--database-url-file", "/no/such/file"], &["DATABASE_URL_FILE", "/no/such/file"]),
        (&["--tls-cert-file", "/cert"], &["TLS_CERT_FILE is set", "TLS_KEY_FILE is not"]),
        (&["--tls-key-file", "/key"], &["TLS_KEY_FILE is set", "TLS_CERT_FILE is not"]),
    ] {
        let refusal = refused(serve_command(directory().path(), flags));
        assert_eq!(refusal.code, Some(2), "{flags:?}: {}", refusal.stderr);
        for word in words {
            assert!(refusal.stderr.contains(word), "{flags:?}: {}", refusal.stderr);
        }
    }
}

#[test]
fn nobody_serves_without_credentials_by_accident() {
    let directory = directory();
    let start = |arguments: &[&str], auth_mode: Option<&str>| {
        let mut command = program();
        command.args(["serve", "--log-format", "json", "--data-dir"]).arg(directory.path()).args(arguments);
        auth_mode.map(|mode| command.env("AUTH_MODE", mode));
        command
    };
    let refusal = refused(start(&["--listen-addr", "0.0.0.0:0", "--dev"], None));
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    assert!(refusal.stderr.contains("LISTEN_ADDR 0.0.0.0:0 is not loopback"), "{}", refusal.stderr);
    for (arguments, auth_mode, status) in [
        (&["--listen-addr", "127.0.0.1:0"][..], None, 401),
        (&["--listen-addr", "127.0.0.1:0"], Some("required"), 401),
        (&["--listen-addr", "127.0.0.1:0", "--dev"], Some("required"), 401),
        (&["--listen-addr", "127.0.0.1:0", "--dev", "--jwt-secret", SECRET], None, 401),
        (&["--listen-addr", "127.0.0.1:0"], Some("none"), 200),
        (&["--listen-addr", "127.0.0.1:0", "--dev"], None, 200),
    ] {
        let server = Server::listening(start(arguments, auth_mode), &directory);
        assert_eq!(server.get("/health").status, 200, "{arguments:?}");
        assert_eq!(server.get(UPLOAD).status, status, "{arguments:?} {auth_mode:?}");
    }
}

#[test]
fn keys_for_tokens_come_from_where_they_are_said_to() {
    let (directory, keys) = (directory(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/credentials"));
    let secrets = directory.path().join("secrets");
    std::fs::write(&secrets, format!("{}\n{SECRET}\n", "x".repeat(32))).unwrap();
    for (name, value, algorithm) in [
        ("JWT_SECRET", SECRET.to_owned(), "HS256"),
        ("JWT_SECRET_FILE", secrets.to_str().unwrap().to_owned(), "HS256"),
        ("JWT_JWKS_FILE", format!("{keys}/keys.json"), "HS256"),
        ("JWT_JWKS_FILE", format!("{keys}/keys.json"), "EdDSA"),
        ("JWT_PUBLIC_KEY_FILE", format!("{keys}/ed_one.public.pem"), "EdDSA"),
    ] {
        let mut command = serve_command(directory.path(), &["--log-format", "json"]);
        command.env(name, &value).env("JWT_ALGORITHM", algorithm);
        let server = Server::listening(command, &directory);
        let by_secret = with_token(&server, &token_of("acme"), "GET", UPLOAD, b"").status;
        assert_eq!(by_secret, if algorithm == "HS256" { 200 } else { 401 }, "{name} {algorithm}");
        let pem = std::fs::read(format!("{keys}/ed_one.private.pem")).unwrap();
        let key = jsonwebtoken::EncodingKey::from_ed_pem(&pem).unwrap();
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        let by_pair = jsonwebtoken::encode(&header, &crate::tokens::claims("acme", "read"), &key).unwrap();
        let by_pair = with_token(&server, &by_pair, "GET", UPLOAD, b"").status;
        assert_eq!(by_pair, if algorithm == "EdDSA" { 200 } else { 401 }, "{name} {algorithm}");
        let (_, lines) = server.stop();
        assert!(!lines.join("\n").contains(SECRET));
    }
    let help = program().args(["serve", "--help"]).env("JWT_SECRET", SECRET).output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains(SECRET));
}

#[test]
fn the_environment_sets_what_no_flag_does() {
    let directory = directory();
    let mut command = program();
    command.args(["serve", "--dev"]);
    for (name, value) in [
        ("DATA_DIR", directory.path().join("data").to_str().unwrap()),
        ("COLD_STORAGE_ROOT", directory.path().join("elsewhere/cold").to_str().unwrap()),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("LOG_FORMAT", "json"),
        ("BODY_BYTES_MAX", "10"),
        ("NODE_NAME", "a-name"),
    ] {
        command.env(name, value);
    }
    let mut server = Server::listening(command, &directory);
    let line = server.wait_for_line("the name", |line| line["node"].is_string());
    assert_eq!(line["node"], "a-name");
    assert_eq!(server.request("POST", UPLOAD, &[], b"0123456789").status, 201);
    let response = server.request("POST", UPLOAD, &[], b"01234567890");
    response.assert_problem(413, "body_too_large", "11 of 10 bytes");
    for made in ["data/metadata.db", "data/hot/just_storage.root", "elsewhere/cold/just_storage.root"] {
        assert!(directory.path().join(made).is_file(), "{made}");
    }
}

#[test]
fn flags_win_over_the_environment() {
    let (other, directory) = (directory(), directory());
    let flags = ["--body-bytes-max", "20", "--log-format", "json", "--log-level", "info"];
    let mut command = serve_command(directory.path(), &flags);
    command.env("DATA_DIR", other.path()).env("BODY_BYTES_MAX", "10");
    command.env("LISTEN_ADDR", "192.0.2.1:1").env("LOG_FORMAT", "text").env("LOG_LEVEL", "error");
    let server = Server::listening(command, &directory);
    assert_eq!(server.request("POST", UPLOAD, &[], b"0123456789abcdef").status, 201);
    assert!(directory.path().join("metadata.db").is_file());
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
}

#[test]
fn a_data_directory_that_cannot_be_is_refused_by_name() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refusal = refused(serve_command(&path, &[]));
        assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
        assert!(refusal.stderr.contains(&format!("DATA_DIR {}", path.display())), "{}", refusal.stderr);
    }
    let root = file.to_str().unwrap();
    let refusal = refused(serve_command(directory.path(), &["--hot-storage-root", root]));
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(refusal.stderr.contains(&format!("hot storage root {root}")), "{}", refusal.stderr);
}

#[test]
fn help_lists_every_setting_that_is_documented() {
    let output = program().args(["serve", "--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SETTINGS.md");
    let documentation = std::fs::read_to_string(documentation).unwrap();
    // Rows of its tables: | `NAME` | …
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: Vec<&str> = rows.collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        let flag = format!("--{}", name.trim_start_matches('-').to_lowercase().replace('_', "-"));
        assert!(help.contains(&flag), "{name} is documented and not in the help");
        // A value that may hold a password is not shown, and has no `=` then.
        let variable = format!("[env: {name}");
        assert!(name.starts_with('-') || help.contains(&variable), "{name} as a variable");
    }
}
