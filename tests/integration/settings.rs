//! Settings: flags over environment over defaults, and what cannot be honoured stops the start with its name.

use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Server, program, refused, serve_command};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";

fn directory() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

#[test]
fn a_bad_flag_stops_the_start_with_its_name() {
    for (flag, value) in [
        ("--listen-addr", "localhost"),
        ("--listen-addr", "127.0.0.1"),
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
    let help = program().args(["serve", "--help"]).env("DATABASE_URL", "postgres://me:secret@h/d").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("DATABASE_URL") && !help.contains("secret"), "{help}");
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
        (&["--auth-mode", "required"], &["AUTH_MODE=required", "AUTH_MODE=none"]),
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
        command.args(["serve", "--data-dir"]).arg(directory.path()).args(arguments);
        auth_mode.map(|mode| command.env("AUTH_MODE", mode));
        refused(command)
    };
    for (arguments, auth_mode) in [
        (&["--listen-addr", "127.0.0.1:0"][..], None),
        (&["--listen-addr", "127.0.0.1:0"], Some("required")),
        (&["--listen-addr", "127.0.0.1:0", "--dev"], Some("required")),
    ] {
        let refusal = start(arguments, auth_mode);
        assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
        assert!(refusal.stderr.contains("AUTH_MODE=required needs credentials"), "{}", refusal.stderr);
    }
    let refusal = start(&["--listen-addr", "0.0.0.0:0", "--dev"], None);
    assert_eq!(refusal.code, Some(2), "{}", refusal.stderr);
    assert!(refusal.stderr.contains("LISTEN_ADDR 0.0.0.0:0 is not loopback"), "{}", refusal.stderr);

    let mut command = program();
    command.args(["serve", "--listen-addr", "127.0.0.1:0", "--log-format", "json", "--data-dir"]);
    command.arg(directory.path()).env("AUTH_MODE", "none");
    assert_eq!(Server::listening(command, &directory).get("/health").status, 200, "unless told so in words");
}

#[test]
fn what_this_version_does_not_have_is_refused_and_never_ignored() {
    for (name, value) in [
        ("JWT_SECRET", "secret"),
        ("JWT_SECRET_FILE", "/secret"),
        ("JWT_JWKS_FILE", "/keys"),
        ("METRICS_ADDR", "127.0.0.1:9"),
    ] {
        let directory = directory();
        let mut command = serve_command(directory.path(), &[]);
        command.env(name, value);
        let refusal = refused(command);
        assert_eq!(refusal.code, Some(2), "{name}: {}", refusal.stderr);
        assert!(refusal.stderr.contains(name), "{name}: {}", refusal.stderr);
        assert!(!refusal.stderr.contains("secret"), "a secret is not told: {}", refusal.stderr);
    }
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
