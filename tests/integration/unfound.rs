//! Objects that their tenants have and do not find by their content: a tool finds them, and mends that.

use crate::content::{content, sha256_hex};
use crate::maintenance::{Run, put, sql, tool};
use crate::server::Server;
use crate::site::Site;

/// As nothing leaves it that is known: blobs that have forgotten the object that they were to be found by.
const FORGET_FIRST_OBJECTS: &str = "UPDATE blobs SET first_object = 0";

fn blob(body: &[u8]) -> String {
    format!("/v1/blobs/sha256:{}?tenant_id=acme", sha256_hex(body))
}

fn is_mended(server: &Server, tool: impl Fn(&[&str]) -> Run, forget: impl Fn()) {
    let bodies = [content(1, 300), content(2, 100_000)];
    for body in &bodies {
        put(server, "once", body);
        assert_eq!(server.get(&blob(body)).status, 200);
    }
    // Of these the second is in the index.
    put(server, "twice", b"x");
    put(server, "again", b"x");
    assert_eq!(server.get(&blob(b"x")).status, 200, "the database has all of them");
    forget();
    for body in &bodies {
        assert_eq!(server.get(&blob(body)).status, 404, "nothing else finds it");
    }
    let found = tool(&["validate"]).assert_code(1);
    assert!(found.contains("objects_found_by_no_content: 3 ") && found.contains("gc --repair"), "{found}");
    for command in [&["gc"][..], &["gc", "--dry-run", "--repair"]] {
        let said = tool(command).assert_code(1);
        assert!(said.contains("3 objects are found by no content\n    0"), "{said}");
        assert!(said.contains("--repair has them found again"), "{said}");
    }
    let said = tool(&["gc", "--repair"]).assert_code(0);
    assert!(said.contains("3 of them are found again"), "{said}");
    for body in bodies.iter().map(Vec::as_slice).chain([&b"x"[..]]) {
        assert!(server.get(&blob(body)).body == body);
    }
    assert!(!tool(&["gc"]).assert_code(0).contains("found"));
    tool(&["validate"]).assert_code(0);
}

#[test]
fn objects_that_no_content_finds_are_found_again_on_demand() {
    let server = Server::start();
    let directory = server.directory();
    let forget = || sql(directory.path(), FORGET_FIRST_OBJECTS);
    is_mended(&server, |command| tool(directory.path(), command), forget);
    let site = Site::new();
    let server = site.start("one", &[]);
    is_mended(&server, |command| site.tool(command), || drop(site.postgres.ask(FORGET_FIRST_OBJECTS)));
}
