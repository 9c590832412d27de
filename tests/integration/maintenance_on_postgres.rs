//! The tools on PostgreSQL, beside the servers that share it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::content::content;
use crate::maintenance::{delete, file_of, put, target, tool, tool_on};
use crate::server::{SCOPE, Server, wait_until};
use crate::site::Site;

impl Site {
    pub(crate) fn tool(&self, arguments: &[&str]) -> crate::maintenance::Run {
        tool_on(self.directory.path(), Some(&self.url), arguments)
    }

    fn assert_clean(&self) {
        assert!(self.tool(&["validate"]).assert_code(0).ends_with("\nclean\n"));
    }
}

#[test]
fn a_store_is_collected_scrubbed_and_mended_beside_its_servers() {
    let site = Site::new();
    let (one, two) = (site.start("one", &[]), site.start("two", &[]));
    let (damaged, gone) = (content(1, 3000), content(2, 3000));
    put(&one, "damaged", &damaged);
    put(&two, "gone", &gone);
    delete(&one, "gone");
    site.assert_clean();
    assert!(site.tool(&["gc", "--dry-run"]).assert_code(0).contains("would keep hot "));
    let done = site.tool(&["gc", "--gc-grace-secs", "0"]).assert_code(0);
    assert!(done.starts_with("removed 1 blobs"), "{done}");
    assert_eq!(one.files("blobs").len(), 1);

    assert_eq!(two.get(&target("damaged")).status, 200);
    fs::write(file_of(&one, &damaged), content(3, 3000)).unwrap();
    site.tool(&["scrub"]).assert_code(1);
    for server in [&one, &two] {
        wait_until("the damage is known", || (server.get(&target("damaged")).status == 500).then_some(()));
    }
    put(&two, "again", &damaged);
    wait_until("it is mended", || (one.get(&target("damaged")).body == damaged).then_some(()));
    site.tool(&["gc"]).assert_code(0);
    assert_eq!(one.files("blobs").len(), 1, "the altered copy is gone");

    site.postgres.ask("UPDATE blobs SET ref_count = 9");
    assert!(site.tool(&["validate"]).assert_code(1).contains("wrong_counts: 1 "));
    site.tool(&["gc", "--repair"]).assert_code(0);
    site.assert_clean();
}

#[test]
fn a_server_that_never_comes_back_is_given_up_by_name() {
    let site = Site::new();
    let one = site.start("one", &[]);
    let mut two = site.start("two", &[]);
    let body = content(1, 3000);
    put(&two, "k", &body);
    let file = file_of(&one, &body);
    let mut connection = two.connect();
    connection.send(b"PUT /v1/keys/models/acme/big HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n");
    connection.send(content(2, 3_000_000));
    let writing = format!("{SCOPE}&status=WRITING");
    wait_until("the reservation", || (!one.list(&writing).is_empty()).then_some(()));
    two.kill();
    let left = PathBuf::from(format!("{}ff", file.display()));
    fs::write(&left, "left").unwrap();

    site.tool(&["gc"]).assert_code(0);
    assert!(left.exists() && !one.list(&writing).is_empty(), "it might come back");
    let run = site.tool(&["gc", "--dead-node", "two"]);
    assert!(run.errors.contains("the server two was heard from"), "{}", run.errors);
    run.assert_code(2);
    let run = site.tool(&["gc", "--dead-node", "three"]);
    assert!(run.errors.contains("the name three"), "{}", run.errors);
    run.assert_code(2);
    site.postgres.ask("UPDATE nodes SET heartbeat_at = now() - interval '1 minute' WHERE name = 'two'");
    let done = site.tool(&["gc", "--dead-node", "two"]).assert_code(0);
    assert!(done.contains("cleared 1 uploads") && done.contains("removed 1 files"), "{done}");
    assert!(!left.exists() && one.list(&writing).is_empty());
    assert_eq!(one.get(&target("k")).body, body, "what it had committed stays");
    site.assert_clean();
}

#[test]
fn a_backup_moves_a_store_from_one_database_to_the_other_and_back() {
    let bodies: Vec<_> = (0..20).map(|seed| content(seed, 1 + 700 * seed as usize)).collect();
    let assert_holds = |server: &Server| {
        for (number, body) in bodies.iter().enumerate() {
            assert!(server.get(&target(&format!("k{number}"))).body == *body, "k{number}");
        }
        assert_eq!(server.get(&target("versions")).body, b"two", "the order of commits is kept");
    };
    let sqlite = Server::start();
    for (number, body) in bodies.iter().enumerate() {
        put(&sqlite, &format!("k{number}"), body);
    }
    put(&sqlite, "versions", b"one");
    put(&sqlite, "versions", b"two");
    let backups = tempfile::tempdir().unwrap();
    let there = backups.path().join("there");
    tool(sqlite.directory().path(), &["backup", there.to_str().unwrap()]).assert_code(0);

    let site = Site::new();
    site.tool(&["restore", there.to_str().unwrap()]).assert_code(0);
    site.assert_clean();
    let run = site.tool(&["restore", there.to_str().unwrap()]);
    assert!(run.errors.contains("holds objects already"), "{}", run.errors);
    run.assert_code(2);
    let server = site.start("one", &[]);
    assert_holds(&server);
    put(&server, "versions", b"three");
    assert_eq!(server.get(&target("versions")).body, b"three", "new commits come behind the restored ones");
    put(&server, "versions", b"two");

    let back = backups.path().join("back");
    site.tool(&["backup", back.to_str().unwrap()]).assert_code(0);
    let restored = Arc::new(tempfile::tempdir().unwrap());
    tool(restored.path(), &["restore", "--copy", back.to_str().unwrap()]).assert_code(0);
    tool(restored.path(), &["scrub"]).assert_code(0);
    assert_holds(&Server::start_on(&restored, &[]));
}
