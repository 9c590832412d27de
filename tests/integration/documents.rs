//! What the documents tell a newcomer to type works as it is printed: their `sh` blocks are run from top to bottom, in a
//! fresh directory, against the servers that they start.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Server, program, wait_until};

/// What the documents assume of the machine, and what stands in for it here: a port of the kernel's choice, and a
/// directory of the test's own. All else is run to the letter.
const DOCUMENTED_ADDRESS: &str = "127.0.0.1:8080";
/// What stands for a server with credentials, of which `$KEY` is one.
const DOCUMENTED_STORE: &str = "https://store.example";
const DOCUMENTED_DIRECTORY: &str = "/srv/just_storage";
/// Where a system keeps what all its users share.
const DOCUMENTED_SHARE: &str = "/usr/local/share";
/// Runs all tests, this one among them.
const THE_TESTS: &str = "tools/test.sh\n";

/// The ways in which the documents start a server.
const SERVE: [&str; 2] = ["cargo run --release -- serve", "just_storage serve"];

/// A directory to type commands in, with the program in the path.
struct Terminal {
    directory: TempDir,
    server: Option<Server>,
    key: Option<String>,
    /// What `s3:` is to rclone.
    s3: Option<S3Store>,
}

impl Terminal {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let terminal = Self { directory, server: None, key: None, s3: None };
        std::fs::create_dir(terminal.path("bin")).unwrap();
        std::fs::create_dir(terminal.path("work")).unwrap();
        // The documents pack this repository's own `docs` as an example.
        std::fs::create_dir(terminal.path("work/docs")).unwrap();
        std::fs::write(terminal.path("work/docs/a.md"), "text").unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_just_storage"), terminal.path("bin/just_storage"))
            .unwrap();
        // An answer that is an error is one for the shell too.
        std::fs::write(terminal.path(".curlrc"), "silent\nshow-error\nfail-with-body\n").unwrap();
        terminal
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command as it can be run here.
    fn here(&self, text: &str) -> String {
        let directory = self.path("srv");
        let text = text.replace(DOCUMENTED_STORE, &format!("http://{DOCUMENTED_ADDRESS}"));
        let text = text.replace(DOCUMENTED_DIRECTORY, directory.to_str().expect("its path is text"));
        let share = self.path("share");
        let text = text.replace(DOCUMENTED_SHARE, share.to_str().expect("its path is text"));
        match &self.server {
            Some(server) => text.replace(DOCUMENTED_ADDRESS, &server.address().to_string()),
            None => text,
        }
    }

    /// Runs one block; what a command of it says or fails with is the answer.
    fn run(&mut self, block: &str) -> Result<String, String> {
        if let Some(arguments) = SERVE.iter().find_map(|serve| block.trim_end().strip_prefix(serve)) {
            self.serve(arguments);
            return Ok(String::new());
        }
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &self.here(block)]);
        shell
            .current_dir(self.path("work"))
            .env("HOME", self.directory.path())
            .env("CURL_HOME", self.directory.path());
        if let Some(server) = &self.server {
            shell.env("JUST_STORAGE_URL", format!("http://{}", server.address()));
        }
        if let Some(key) = &self.key {
            shell.env("KEY", key);
        }
        if let Some(s3) = &self.s3 {
            shell.envs(s3.remote());
        }
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{CHECKERS}:{path}", self.path("bin").display()));
        let output = shell.stdin(Stdio::null()).output().expect("bash can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("{block}{text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Starts a server with the documented arguments in the place of the one that ran until now.
    fn serve(&mut self, arguments: &str) {
        self.server = None;
        let directory = Arc::new(tempfile::tempdir().expect("there is room for a directory"));
        let mut command = program();
        command.arg("serve").args(self.here(arguments).split_whitespace()).current_dir(directory.path());
        command.env("LISTEN_ADDR", "127.0.0.1:0").env("LOG_FORMAT", "json");
        self.server = Some(Server::listening(command, &directory));
    }
}

/// What `tools/install_rclone.sh` brings, among others.
const CHECKERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/checkers/bin");

/// An S3 store with some objects in it, served by rclone: gone when dropped.
struct S3Store {
    server: Child,
    port: u16,
}

impl S3Store {
    fn holding(directory: &Path, objects: &[(&str, &str)]) -> Self {
        for (path, body) in objects {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().expect("it is in a bucket")).unwrap();
            std::fs::write(path, body).unwrap();
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let path = std::env::var("PATH").unwrap_or_default();
        // It ends with the test also when that is killed.
        let server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "rclone", "serve", "s3", "--auth-key", "key,secret", "--addr"])
            .arg(format!("127.0.0.1:{port}"))
            .arg(directory)
            .env("PATH", format!("{CHECKERS}:{path}"))
            .env("HOME", directory)
            .stderr(Stdio::null())
            .spawn();
        let mut server = server.expect("it starts");
        wait_until("an S3 store", || {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none(), "there is no rclone that serves S3: tools/install_rclone.sh");
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self { server, port }
    }

    /// The settings that make it rclone's remote of the name `s3`.
    fn remote(&self) -> [(&'static str, String); 5] {
        [
            ("RCLONE_CONFIG_S3_TYPE", "s3".to_owned()),
            ("RCLONE_CONFIG_S3_PROVIDER", "Other".to_owned()),
            ("RCLONE_CONFIG_S3_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("RCLONE_CONFIG_S3_ACCESS_KEY_ID", "key".to_owned()),
            ("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The `sh` blocks of a document, in order.
fn blocks(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect("the document can be read");
    let blocks = text.split("\n```sh\n").skip(1);
    blocks
        .map(|rest| rest.split_inclusive("```").next().unwrap().trim_end_matches("```").to_owned())
        .collect()
}

/// Runs a whole document.
fn run(document: &str) -> Vec<String> {
    let mut terminal = Terminal::new();
    let told = blocks(document).into_iter().filter(|block| block != THE_TESTS);
    let outputs: Vec<_> = told
        .map(|block| terminal.run(&block).unwrap_or_else(|failure| panic!("{document}:\n{failure}")))
        .collect();
    assert!(terminal.server.is_some(), "{document} starts no server");
    outputs
}

#[test]
fn every_command_of_the_readme_works_as_printed() {
    let outputs = run("README.md");
    let told = outputs.join("\n");
    assert!(told.contains("hello, model") && told.contains(r#""objects":[{"id""#), "{told}");
}

#[test]
fn every_command_of_the_quickstart_works_as_printed() {
    let outputs = run("docs/QUICKSTART.md");
    assert!(outputs.len() >= 8, "{outputs:#?}");
    assert!(outputs.concat().contains("HTTP/1.1 200 OK"), "headers are shown: {outputs:#?}");
}

/// Runs all blocks of a document that is for a server which runs already.
fn run_beside_server(terminal: &mut Terminal, document: &str) -> String {
    terminal.serve(" --dev");
    let told = blocks(document);
    let told = told.iter().map(|block| terminal.run(block));
    told.map(|told| told.unwrap_or_else(|failure| panic!("{document}:\n{failure}"))).collect()
}

#[test]
fn every_curl_line_of_the_api_works_as_printed() {
    const DOCUMENT: &str = "docs/API.md";
    let (mut open, mut strict) = (Terminal::new(), Terminal::new());
    open.serve("--dev");
    let signing_key = "ab".repeat(32);
    strict.serve(&format!("--data-dir {DOCUMENTED_DIRECTORY} --url-signing-key {signing_key}"));
    let create =
        format!("just_storage key create --data-dir {DOCUMENTED_DIRECTORY} --tenant acme --scope read\n");
    strict.key = Some(strict.run(&create).expect("a key is made").trim_end().to_owned());
    let mut told = String::new();
    for block in blocks(DOCUMENT) {
        let terminal = if block.contains("$KEY") { &mut strict } else { &mut open };
        told += &terminal.run(&block).unwrap_or_else(|failure| panic!("{DOCUMENT}:\n{failure}"));
    }
    for sign in [
        "\"url\"",
        "\"missing\":[]",
        "\"stage\":\"final\"",
        "X-Object-Id: ",
        "\"keep_versions\":5",
        "\"status\":404",
    ] {
        assert!(told.contains(sign), "{sign} is not in {told}");
    }
}

#[test]
fn every_command_of_the_client_page_works_as_printed() {
    let mut terminal = Terminal::new();
    std::fs::create_dir_all(terminal.path("share/man/man1")).unwrap();
    let told = run_beside_server(&mut terminal, "docs/CLIENT.md");
    assert!(told.contains(r#"{"layers": 2}"#), "cat shows what was put: {told}");
    assert!(told.contains("SYNOPSIS"), "the manual is shown: {told}");
    let completions = terminal.path(".local/share/bash-completion/completions/just_storage");
    assert!(std::fs::read_to_string(completions).unwrap().contains("just_storage"));
    assert!(terminal.path("share/man/man1/just_storage-put.1").exists());
}

#[test]
fn every_way_of_migrating_works_as_printed() {
    let mut terminal = Terminal::new();
    let objects = [("bucket/prefix/model.bin", "weights of old"), ("bucket/prefix/a/b.bin", "more of them")];
    terminal.s3 = Some(S3Store::holding(&terminal.path("s3"), &objects));
    run_beside_server(&mut terminal, "docs/MIGRATING.md");
    for (object, body) in objects {
        let back = object.replace("bucket", "work/back");
        assert_eq!(std::fs::read_to_string(terminal.path(&back)).unwrap(), body, "{object}");
    }
}

#[test]
fn a_command_that_fails_is_noticed() {
    let mut terminal = Terminal::new();
    terminal.serve("--dev");
    assert!(terminal.run("curl http://127.0.0.1:8080/health\n").is_ok());
    let failure =
        terminal.run("curl http://127.0.0.1:8080/v1/keys/models/acme/none | cat\ntrue\n").unwrap_err();
    assert!(failure.contains("not_found"), "{failure}");
    assert!(terminal.run("false\ntrue\n").is_err());
}
