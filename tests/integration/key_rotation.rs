//! The keys that tokens are verified with, exchanged while the server runs.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::maintenance::tool_on;
use crate::raw::Connection;
use crate::server::{Server, wait_until};
use crate::tokens::{SECRET, claims, strict_server, token_of};

const KEY: &str = "/v1/keys/models/acme/k";
const OTHER_KEY: &str = "/v1/keys/models/acme/other";
const RENEWED: &str = "tokens are verified with the keys as they are now";
const KEPT: &str = "the keys of tokens cannot be read again; tokens are verified with the old ones";

/// A file of keys, what is written to it in turn, and a token of each key.
struct Rotation {
    setting: &'static str,
    algorithm: &'static str,
    /// With the first key, with both, with the second.
    contents: [String; 3],
    /// Of which nothing can be used.
    broken: Vec<String>,
    tokens: [String; 2],
}

impl Rotation {
    fn secrets() -> Self {
        const OTHER: &str = "a secret of thirty-two bytes: 02";
        let token = |secret: &str| {
            let key = EncodingKey::from_secret(secret.as_bytes());
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims("acme", "read write"), &key).unwrap()
        };
        Self {
            setting: "--jwt-secret-file",
            algorithm: "HS256",
            contents: [format!("{SECRET}\n"), format!("{SECRET}\n{OTHER}\n"), format!("{OTHER}\n")],
            broken: vec![String::new(), "too short\n".into(), format!("{SECRET}\nshort\n")],
            tokens: [SECRET, OTHER].map(token),
        }
    }

    fn key_set() -> Self {
        let set: Value = serde_json::from_str(include_str!("../credentials/keys.json")).unwrap();
        let of_names = |names: &[&str]| {
            let keys = set["keys"].as_array().unwrap().iter();
            let named: Vec<&Value> =
                keys.filter(|key| names.iter().any(|name| key["kid"] == *name)).collect();
            assert_eq!(named.len(), names.len());
            json!({ "keys": named }).to_string()
        };
        Self {
            setting: "--jwt-jwks-file",
            algorithm: "ES256",
            contents: [of_names(&["ec-one"]), of_names(&["ec-one", "ec-two"]), of_names(&["ec-two"])],
            broken: vec!["{\"keys\":[".into(), of_names(&["rsa-one"]), of_names(&[])],
            tokens: [
                of_pair("ec-one", include_bytes!("../credentials/ec_one.private.pem")),
                of_pair("ec-two", include_bytes!("../credentials/ec_two.private.pem")),
            ],
        }
    }

    fn public_keys() -> Self {
        let (one, two) = (
            include_str!("../credentials/ec_one.public.pem"),
            include_str!("../credentials/ec_two.public.pem"),
        );
        Self {
            setting: "--jwt-public-key-file",
            contents: [one.into(), format!("{one}{two}"), two.into()],
            broken: vec![
                one[..one.len() / 2].into(),
                include_str!("../credentials/ec_one.private.pem").into(),
            ],
            ..Self::key_set()
        }
    }
}

fn of_pair(name: &str, private: &[u8]) -> String {
    let header = Header { kid: Some(name.into()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(private).unwrap();
    jsonwebtoken::encode(&header, &claims("acme", "read write"), &key).unwrap()
}

fn lines_with<'l>(lines: &'l [String], message: &str) -> Vec<Value> {
    let told = |line: &&'l String| line.contains(message);
    lines.iter().filter(told).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Puts other keys in the place of those that are there, as a tool does that is careful: in one step.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Has the keys read again, and gives the line that is logged of it.
fn renew(server: &Server, message: &str) -> Value {
    let before = lines_with(&server.log_lines(), message).len();
    server.signal(Signal::HUP);
    wait_until(message, || lines_with(&server.log_lines(), message).into_iter().nth(before))
}

fn status(connection: &mut Connection, token: &str) -> u16 {
    connection.exchange("GET", KEY, &[("Authorization", &format!("Bearer {token}"))], b"").status
}

#[test]
fn keys_are_exchanged_while_the_server_runs() {
    for rotation in [Rotation::secrets(), Rotation::key_set(), Rotation::public_keys()] {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("keys");
        let [first, both, second] = &rotation.contents;
        std::fs::write(&path, first).unwrap();
        let source = [rotation.setting, path.to_str().unwrap(), "--jwt-algorithm", rotation.algorithm];
        // One body waits for all that is done here.
        let server = Server::start_with(&[&source[..], &["--body-timeout-secs", "3600"]].concat());
        let mut connections: Vec<_> = std::iter::repeat_with(|| server.connect()).take(4).collect();
        let mut assert_all = |[one, two]: [u16; 2], case: &str| {
            for connection in &mut connections {
                let statuses = rotation.tokens.each_ref().map(|token| status(connection, token));
                assert_eq!(statuses, [one, two], "{} {case}", rotation.setting);
            }
        };
        assert_all([404, 401], "the first key");
        replace(&path, both);
        assert_all([404, 401], "nothing is read before it is asked for");
        assert_eq!(renew(&server, RENEWED)["keys"], 2);
        assert_all([404, 404], "both keys");

        let mut upload = server.connect();
        upload.send(format!(
            "PUT {OTHER_KEY} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n",
            rotation.tokens[0]
        ));
        assert_eq!(upload.status_ahead(), 100, "it has been let in");
        replace(&path, second);
        assert_eq!(renew(&server, RENEWED)["keys"], 1);
        assert_all([401, 404], "a key that is gone opens nothing more, not even for a moment");

        for broken in &rotation.broken {
            replace(&path, broken);
            let line = renew(&server, KEPT);
            let name = rotation.setting.trim_start_matches('-').replace('-', "_").to_uppercase();
            assert_eq!(line["level"], "ERROR");
            assert!(line["error"].as_str().unwrap().starts_with(&name), "{line}");
            assert!(
                broken.lines().all(|line| line.len() < 20 || !server.log_lines().join("").contains(line))
            );
            assert_all([401, 404], "what cannot be used changes nothing");
        }
        std::fs::remove_file(&path).unwrap();
        renew(&server, KEPT);
        assert_all([401, 404], "nor does what is not there");
        replace(&path, first);
        renew(&server, RENEWED);
        assert_all([404, 401], "and then it goes on");
        upload.send("hello");
        assert_eq!(upload.response().status, 201, "what had begun goes on");
    }
}

#[test]
fn an_api_key_goes_on_when_the_keys_of_tokens_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets");
    std::fs::write(&path, SECRET).unwrap();
    let server = Server::start_with(&["--jwt-secret-file", path.to_str().unwrap()]);
    let arguments = ["key", "create", "--tenant", "acme", "--scope", "read"];
    let key = tool_on(server.directory().path(), None, &arguments).assert_code(0);
    let mut connection = server.connect();
    for _ in 0..3 {
        assert_eq!(status(&mut connection, key.trim_end()), 404);
        renew(&server, RENEWED);
    }
}

#[test]
fn without_a_file_to_read_again_sighup_ends_the_server_as_ever() {
    let mut server = strict_server(&[]);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(status(&mut server.connect(), &token_of("acme")), 404);
    server.signal(Signal::HUP);
    assert_eq!(server.wait().signal(), Some(Signal::HUP.as_raw()));
}
