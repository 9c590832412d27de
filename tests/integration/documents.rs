//! What the documents tell a newcomer to type works as it is printed: their `sh` blocks are run from top to bottom, in a
//! fresh directory, against the servers that they start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Server, program};

/// What the documents assume of the machine, and what stands in for it here: a port of the kernel's choice, and a
/// directory of the test's own. All else is run to the letter.
const DOCUMENTED_ADDRESS: &str = "127.0.0.1:8080";
/// What stands for a server with credentials, of which `$KEY` is one.
const DOCUMENTED_STORE: &str = "https://store.example";
const DOCUMENTED_DIRECTORY: &str = "/srv/just_storage";
/// Runs all tests, this one among them.
const THE_TESTS: &str = "tools/test.sh\n";

/// The ways in which the documents start a server.
const SERVE: [&str; 2] = ["cargo run --release -- serve", "just_storage serve"];

/// A directory to type commands in, with the program in the path.
struct Terminal {
    directory: TempDir,
    server: Option<Server>,
    key: Option<String>,
}

impl Terminal {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let terminal = Self { directory, server: None, key: None };
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
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", self.path("bin").display()));
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

/// Runs the first block of a document, which is for a server that runs already.
fn run_first(document: &str) -> String {
    let mut terminal = Terminal::new();
    terminal.serve(" --dev");
    let first = blocks(document).into_iter().next().expect("there is a block");
    terminal.run(&first).unwrap_or_else(|failure| panic!("{document}:\n{failure}"))
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
fn what_the_client_page_begins_with_works_as_printed() {
    assert!(run_first("docs/CLIENT.md").contains(r#"{"layers": 2}"#), "cat shows what was put");
}

#[test]
fn a_directory_is_migrated_as_printed() {
    run_first("docs/MIGRATING.md");
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
