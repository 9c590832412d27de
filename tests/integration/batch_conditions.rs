//! What must hold for the files of a batch: said of all of them in the head, or of one in the archive.

use std::process::Command;

use crate::batches::{archive, entry, file, results, told};
use crate::content::{content, etag};
use crate::server::{FILES, SCOPE, Server};

const PUT: &str = "/v1/batch/put?namespace=models&tenant_id=acme";
const FAILED: (u64, &str) = (412, "precondition_failed");

fn key(name: &str) -> String {
    format!("/v1/keys/models/acme/{name}")
}

/// A file that says of itself what must hold.
fn only_if(name: &str, content: &[u8], records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(keyword, value): &(&str, &str)| {
        let rest = format!(" JUSTSTORAGE.{keyword}={value}\n");
        let digits = if rest.len() + 2 < 100 { 2 } else { 3 };
        format!("{}{rest}", rest.len() + digits)
    };
    let records: String = records.iter().map(record).collect();
    [entry("about", b'x', records.as_bytes()), file(name, content)].concat()
}

fn put(server: &Server, fields: &[(&str, &str)], parts: &[Vec<u8>]) -> Vec<serde_json::Value> {
    results(&server.request("POST", PUT, fields, &archive(parts)))
}

#[test]
fn a_condition_of_the_head_holds_for_each_file_and_one_of_a_file_for_it_alone() {
    for flags in [&[][..], &FILES, &["--ack", "database"]] {
        let server = Server::start_with(flags);
        let large = content(1, 200_000);
        assert_eq!(server.request("PUT", &key("there"), &[], b"old").status, 201);
        assert_eq!(server.request("PUT", &key("large"), &[], b"old").status, 201);
        let only_new = [("If-None-Match", "*")];
        let parts = [
            file("there", b"new"),
            file("new", b"new"),
            file("large", &large),
            file("new-large", &large),
            // It has come by now.
            file("new", b"newer"),
        ];
        let stored = put(&server, &only_new, &parts);
        assert_eq!(told(&stored), [FAILED, (201, ""), FAILED, (201, ""), FAILED], "{flags:?}");
        assert_eq!(server.get(&key("there")).body, b"old");
        assert_eq!(server.get(&key("new")).body, b"new");
        assert!(server.get(&key("new-large")).body == large);
        assert_eq!(server.list(SCOPE).len(), 4);

        let (old, other) = (etag(b"old"), etag(b"other"));
        let parts = [
            only_if("there", b"1", &[("if-match", &other)]),
            only_if("there", b"2", &[("if-match", &format!("{other}, {old}"))]),
            only_if("absent", b"3", &[("if-match", "*")]),
            only_if("absent", b"4", &[("if-none-match", "*")]),
            only_if("large", &large, &[("if-none-match", &old)]),
            only_if("large", &large, &[("if-match", &old), ("if-none-match", &other)]),
            // Nothing is said of this one.
            file("there", b"5"),
        ];
        let stored = put(&server, &[], &parts);
        let expected = [FAILED, (200, ""), FAILED, (201, ""), FAILED, (200, ""), (200, "")];
        assert_eq!(told(&stored), expected, "{flags:?}");
        assert!(server.get(&key("large")).body == large);
        // A file's own word goes before that for all.
        let parts = [only_if("there", b"6", &[("if-none-match", &other)]), file("there", b"7")];
        assert_eq!(told(&put(&server, &only_new, &parts)), [(200, ""), FAILED]);
        let long_ago = [("If-Unmodified-Since", "Sun, 09 Sep 2001 01:46:39 GMT")];
        assert_eq!(told(&put(&server, &long_ago, &[file("there", b"8")])), [FAILED]);
        assert_eq!(server.get(&key("there")).body, b"6");
    }
}

#[test]
fn a_record_that_means_nothing_here_keeps_its_file_from_being_stored_and_no_other() {
    let server = Server::start();
    let parts = [
        only_if("a", b"a", &[("if-modified-since", "*")]),
        only_if("b", &content(1, 200_000), &[("reference", "x")]),
        file("c", b"c"),
    ];
    let stored = put(&server, &[], &parts);
    let unknown = (400, "unknown_record");
    assert_eq!(told(&stored), [unknown, unknown, (201, "")]);
    assert!(stored[0]["detail"].as_str().unwrap().contains("JUSTSTORAGE.if-modified-since"), "{}", stored[0]);
    let record = entry("about", b'g', b"30 JUSTSTORAGE.if-none-match=*\n");
    let problem = server.request("POST", PUT, &[], &archive(&[record, file("d", b"d")]));
    problem.assert_problem(400, "invalid_archive", "of all files the head says it");
}

#[test]
fn gnu_tar_and_python_say_what_must_hold() {
    let server = Server::start();
    assert_eq!(server.request("PUT", &key("there"), &[], b"old").status, 201);
    let directory = tempfile::tempdir().unwrap();
    for name in ["there", "new"] {
        std::fs::write(directory.path().join(name), name).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.args(["-c", "--format=posix", "--pax-option=JUSTSTORAGE.if-none-match:=*", "there", "new"]);
    let packed = tar.current_dir(directory.path()).output().expect("there is a tar");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let stored = results(&server.request("POST", PUT, &[], &packed.stdout));
    assert_eq!(told(&stored), [FAILED, (201, "")]);

    let script = format!(
        "import io, sys, tarfile\n\
         with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT) as archive:\n    \
             entry = tarfile.TarInfo('there')\n    \
             entry.size = 3\n    \
             entry.pax_headers = {{'JUSTSTORAGE.if-match': '{}'}}\n    \
             archive.addfile(entry, io.BytesIO(b'new'))\n",
        etag(b"old")
    );
    let packed = Command::new("python3").args(["-c", &script]).output().expect("there is a Python");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    for expected in [(200, ""), FAILED] {
        assert_eq!(told(&results(&server.request("POST", PUT, &[], &packed.stdout))), [expected]);
    }
    assert_eq!(server.get(&key("there")).body, b"new");
}
