//! Resumable uploads (tus 1.0): pieces over any number of connections, servers and clients that are killed, two clients on
//! one upload; and every field that can be wrong.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha1::Digest as _;

use crate::content::{Random, chunked, content, sha256_hex};
use crate::raw::{Connection, Response};
use crate::server::{SCOPE, Server, wait_until};
use crate::tokens::{strict_server, token_of, with_token};

const VERSION: (&str, &str) = ("Tus-Resumable", "1.0.0");
const PIECE: (&str, &str) = ("Content-Type", "application/offset+octet-stream");
/// Both points of durability.
const ACKS: [&[&str]; 2] = [&["--ack", "log"], &["--ack", "database"]];

fn target(query: &str) -> String {
    format!("/v1/uploads?{SCOPE}{query}")
}

/// Makes an upload of so many bytes and gives where it is.
fn create(server: &Server, query: &str, length: usize, fields: &[(&str, &str)]) -> String {
    let length = length.to_string();
    let fields = [&[VERSION, ("Upload-Length", &length)], fields].concat();
    let response = server.request("POST", &target(query), &fields, b"");
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(response.header("Tus-Resumable"), Some("1.0.0"));
    assert!(response.header("Upload-Expires").is_some());
    location(&response)
}

fn location(response: &Response) -> String {
    response.header("Location").expect("an upload has a place").to_owned()
}

fn patch(connection: &mut Connection, upload: &str, offset: usize, body: &[u8]) -> Response {
    connection.exchange("PATCH", upload, &[VERSION, PIECE, ("Upload-Offset", &offset.to_string())], body)
}

fn head(server: &Server, upload: &str) -> Response {
    server.request("HEAD", upload, &[VERSION], b"")
}

fn offset(response: &Response) -> usize {
    response.header("Upload-Offset").expect("there is an offset").parse().expect("an offset is a number")
}

/// What an upload that goes on says of itself.
fn offset_of(server: &Server, upload: &str) -> usize {
    let response = head(server, upload);
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    offset(&response)
}

/// Holds that an upload has become this object, and no other has come of it.
fn assert_became(server: &Server, upload: &str, body: &[u8]) -> String {
    let response = head(server, upload);
    assert_eq!((response.status, offset(&response)), (200, body.len()), "{response:?}");
    let id = response.header("X-Object-Id").expect("it has become an object").to_owned();
    let downloaded = server.get(&format!("/v1/objects/{id}"));
    assert_eq!(downloaded.status, 200);
    assert!(downloaded.body == body, "the bytes are those that were sent");
    let listed = server.list(&format!("{SCOPE}&limit=1000"));
    assert_eq!(listed.iter().filter(|object| object["id"] == *id).count(), 1);
    let info = server.get(&format!("/v1/objects/{id}/info")).json();
    assert_eq!(info["content_hash"], sha256_hex(body));
    id
}

#[test]
fn an_upload_in_pieces_becomes_one_object() {
    for flags in ACKS {
        let server = Server::start_with(flags);
        let body = content(1, 300_000);
        let words = "filename bW9kZWwuYmlu,filetype dGV4dC9wbGFpbg==,is_confidential";
        let metadata = [("Upload-Metadata", words), ("X-Object-Meta-Framework", "torch")];
        let upload = create(&server, "&key=a/b&storage_class=cold", body.len(), &metadata);
        assert_eq!(offset_of(&server, &upload), 0);
        let mut connection = server.connect();
        let mut sent = 0;
        for length in [1, 0, 4095, 100_000, 195_904] {
            let response = patch(&mut connection, &upload, sent, &body[sent..sent + length]);
            sent += length;
            assert_eq!((response.status, offset(&response)), (204, sent), "{response:?}");
            assert_eq!(response.header("Tus-Resumable"), Some("1.0.0"));
            assert_eq!(response.header("X-Object-Id").is_some(), sent == body.len());
            let looked = head(&server, &upload);
            assert_eq!(offset(&looked), sent);
            assert_eq!(looked.header("Upload-Length"), Some("300000"));
            assert_eq!(looked.header("Upload-Metadata"), Some(words));
        }
        let id = assert_became(&server, &upload, &body);
        let object = server.get(&format!("/v1/objects/{id}/info")).json();
        assert_eq!((&object["key"], &object["storage_class"]), (&json!("a/b"), &json!("cold")));
        assert_eq!(object["content_type"], "text/plain");
        assert_eq!(object["metadata"], json!({"filename": "model.bin", "framework": "torch"}));
        assert!(server.get("/v1/keys/models/acme/a/b").body == body);
        assert!(server.files("uploads/open").is_empty(), "the bytes are the blob's alone");
        // Asking again changes nothing, and nothing more is taken.
        let again = patch(&mut connection, &upload, sent, b"");
        assert_eq!((again.status, again.header("X-Object-Id")), (204, Some(id.as_str())));
        patch(&mut connection, &upload, sent, b"x").assert_problem(409, "length_changed", "behind the end");
        patch(&mut server.connect(), &upload, 0, &body).assert_problem(
            409,
            "offset_mismatch",
            "from the start",
        );
        // The object outlives what is known of its upload.
        assert_eq!(server.request("DELETE", &upload, &[VERSION], b"").status, 204);
        assert_eq!(head(&server, &upload).status, 404);
        assert_eq!(server.get(&format!("/v1/objects/{id}")).status, 200);
        assert!(server.files("uploads").is_empty());
    }
}

#[test]
fn an_upload_can_come_with_its_creation() {
    let server = Server::start();
    for length in [0, 1, 4096, 65_536, 65_537, 1_500_000] {
        let body = content(2 + length as u64, length);
        let fields = [VERSION, PIECE, ("Upload-Length", &*length.to_string())];
        let response = server.request("POST", &target(""), &fields, &body);
        assert_eq!((response.status, offset(&response)), (201, length), "{response:?}");
        assert!(response.header("X-Object-Id").is_some());
        assert_became(&server, &location(&response), &body);
        // A part of it, chunked.
        let fields = [VERSION, PIECE, ("Upload-Length", "2000000"), ("Transfer-Encoding", "chunked")];
        let response = server.request("POST", &target(""), &fields, &chunked(&body, 7000, &[]));
        assert_eq!((response.status, offset(&response)), (201, length), "{response:?}");
        let upload = location(&response);
        let rest = content(3, 2_000_000 - length);
        assert_eq!(patch(&mut server.connect(), &upload, length, &rest).status, 204);
        assert_became(&server, &upload, &[body, rest].concat());
    }
    // The same content once more is the same blob.
    let twice = content(3, 100_000);
    for _ in 0..2 {
        let upload = create(&server, "", twice.len(), &[]);
        assert_eq!(patch(&mut server.connect(), &upload, 0, &twice).status, 204);
        assert_became(&server, &upload, &twice);
    }
    let hash = sha256_hex(&twice);
    let copies = || {
        let files = server.files("blobs");
        files.iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&hash)).count()
    };
    wait_until("one copy alone", || (copies() == 1).then_some(()));
}

/// Begins a piece and sends the first of it.
fn begin(server: &Server, upload: &str, offset: usize, length: usize, first: &[u8]) -> Connection {
    let mut connection = server.connect();
    connection.send(format!(
        "PATCH {upload} HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n"
    ));
    connection.send(first);
    connection
}

#[test]
fn a_client_that_is_killed_has_sent_what_has_come() {
    let server = Server::start();
    let body = content(4, 500_000);
    let upload = create(&server, "", body.len(), &[]);
    let mut sent = 0;
    for length in [100, 5000, 200_000, 128 * 1024] {
        let connection = begin(&server, &upload, sent, body.len() - sent, &body[sent..sent + length]);
        connection.finish_sending();
        drop(connection);
        sent += length;
        wait_until("what came", || (offset_of(&server, &upload) == sent).then_some(()));
        wait_until("the end of the lock", || {
            (patch(&mut server.connect(), &upload, sent, b"").status == 204).then_some(())
        });
    }
    // A reset drops what is under way, and no more than that.
    begin(&server, &upload, sent, body.len() - sent, &body[sent..sent + 50_000]).reset();
    // The server may come to that piece only now: then it has the upload for a while, and more of it afterwards.
    let status = wait_until("the end of the lock", || {
        let sent = offset_of(&server, &upload);
        let status = patch(&mut server.connect(), &upload, sent, &body[sent..]).status;
        (!matches!(status, 409 | 423)).then_some(status)
    });
    assert_eq!(status, 204);
    assert_became(&server, &upload, &body);
}

#[test]
fn a_server_that_is_killed_goes_on_where_it_was() {
    let mut random = Random::new(5);
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut server = Server::start_on(&directory, &[]);
    for round in 0..6 {
        let body = content(100 + round, 3_000_000);
        let upload = create(&server, &format!("&key=round-{round}"), body.len(), &[]);
        let mut acknowledged = 0;
        while acknowledged < body.len() {
            let length = (1 + random.below(1_500_000) as usize).min(body.len() - acknowledged);
            let response = patch(
                &mut server.connect(),
                &upload,
                acknowledged,
                &body[acknowledged..acknowledged + length],
            );
            assert_eq!(response.status, 204, "{response:?}");
            acknowledged += length;
            if acknowledged == body.len() {
                break;
            }
            // In the middle of the next piece, or before it.
            let under_way = random.below((body.len() - acknowledged) as u64) as usize;
            let next = &body[acknowledged..acknowledged + under_way];
            let _connection = begin(&server, &upload, acknowledged, body.len() - acknowledged, next);
            thread::sleep(Duration::from_millis(random.below(20)));
            server.kill();
            server = Server::start_on(&directory, &[]);
            let found = offset_of(&server, &upload);
            assert!((acknowledged..=acknowledged + under_way).contains(&found), "{found} of {acknowledged}");
            acknowledged = found;
        }
        assert_became(&server, &upload, &body);
    }
    server.kill();
    server = Server::start_on(&directory, &[]);
    assert_eq!(server.list(&format!("{SCOPE}&limit=1000")).len(), 6, "each once");
}

#[test]
fn a_server_that_is_killed_at_the_end_makes_the_object_once() {
    let mut random = Random::new(6);
    for flags in ACKS {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let mut server = Server::start_on(&directory, flags);
        for round in 0..12 {
            let body = content(200 + round, 200_000);
            let upload = create(&server, "&key=k", body.len(), &[]);
            let _connection = begin(&server, &upload, 0, body.len(), &body);
            // Not a wait for anything: the moment is what varies.
            thread::sleep(Duration::from_micros(random.below(12_000)));
            server.kill();
            server = Server::start_on(&directory, flags);
            let found = offset_of(&server, &upload);
            if found < body.len() {
                assert_eq!(patch(&mut server.connect(), &upload, found, &body[found..]).status, 204);
            }
            assert_became(&server, &upload, &body);
            assert_eq!(server.list(&format!("{SCOPE}&limit=1000")).len() as u64, round + 1, "each once");
        }
        assert_eq!(server.list(&format!("{SCOPE}&status=WRITING")), Vec::<serde_json::Value>::new());
        wait_until("the sweep of what no object names", || {
            (server.files("blobs").len() == 12 && server.files("uploads/open").is_empty()).then_some(())
        });
    }
}

#[test]
fn a_wrong_offset_changes_nothing() {
    let server = Server::start();
    let body = content(7, 10_000);
    let upload = create(&server, "", body.len(), &[]);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &body[..6000]).status, 204);
    for wrong in [0, 5999, 6001, 10_000] {
        let response = patch(&mut server.connect(), &upload, wrong, b"wrong");
        response.assert_problem(409, "offset_mismatch", "another offset");
        assert_eq!(offset(&response), 6000, "it says where to go on");
        assert_eq!(offset_of(&server, &upload), 6000);
    }
    assert_eq!(patch(&mut server.connect(), &upload, 6000, &body[6000..]).status, 204);
    assert_became(&server, &upload, &body);
}

#[test]
fn of_two_clients_on_one_upload_one_writes() {
    let server = Server::start_with(&["--cores", "2"]);
    let body = content(8, 400_000);
    // On a busy machine it may be the second client who comes first; then another upload is tried.
    let (upload, mut first, refused) = wait_until("the lock", || {
        let upload = create(&server, "", body.len(), &[]);
        let first = begin(&server, &upload, 0, body.len(), &body[..100_000]);
        let second = patch(&mut server.connect(), &upload, 0, &content(9, 1000));
        (second.status == 423).then_some((upload, first, second))
    });
    refused.assert_problem(423, "upload_locked", "the second client");
    assert_eq!(refused.header("Retry-After"), Some("1"));
    let deleted = server.request("DELETE", &upload, &[VERSION], b"");
    deleted.assert_problem(423, "upload_locked", "while somebody is at it");
    assert_eq!(head(&server, &upload).status, 200, "whoever asks is told what is durable");
    first.send(&body[100_000..]);
    assert_eq!(first.response().status, 204);
    assert_became(&server, &upload, &body);
    // Many at once, with the same bytes: each is told one thing, and the object is one.
    let upload = create(&server, "", body.len(), &[]);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..8).map(|_| scope.spawn(|| patch(&mut server.connect(), &upload, 0, &body).status)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 204 | 409 | 423)), "{statuses:?}");
    assert_became(&server, &upload, &body);
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    let server = Server::start();
    let upload = create(&server, "", 100_000, &[]);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &content(1, 50_000)).status, 204);
    let deleted = server.request("DELETE", &upload, &[VERSION], b"");
    assert_eq!((deleted.status, deleted.header("Tus-Resumable")), (204, Some("1.0.0")));
    for method in ["HEAD", "DELETE"] {
        assert_eq!(server.request(method, &upload, &[VERSION], b"").status, 404);
    }
    patch(&mut server.connect(), &upload, 50_000, b"x").assert_problem(404, "not_found", "after its end");
    assert!(server.files("uploads").is_empty());
    server.assert_nothing_kept("terminated");
}

#[test]
fn an_upload_that_has_expired_is_gone() {
    let server = Server::start_with(&["--upload-expires-secs", "2"]);
    let body = content(1, 50_000);
    let upload = create(&server, "", 100_000, &[]);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &body).status, 204);
    let done = create(&server, "", body.len(), &[]);
    assert_eq!(patch(&mut server.connect(), &done, 0, &body).status, 204);
    assert_eq!(server.files("uploads").len(), 3);
    wait_until("its end", || matches!(head(&server, &upload).status, 404 | 410).then_some(()));
    let late = patch(&mut server.connect(), &upload, body.len(), b"x");
    assert!(matches!(late.status, 404 | 410), "whichever comes first, the date or the sweep: {late:?}");
    wait_until("the sweep", || server.files("uploads").is_empty().then_some(()));
    assert_eq!(server.list(SCOPE).len(), 1, "what has become an object stays");
    assert_eq!(head(&server, &done).status, 404);
}

#[test]
fn a_piece_that_does_not_have_its_checksum_is_dropped() {
    let server = Server::start();
    let body = content(10, 200_000);
    let upload = create(&server, "", body.len(), &[]);
    let sha1 = |bytes: &[u8]| format!("sha1 {}", STANDARD.encode(sha1::Sha1::digest(bytes)));
    let sha256 = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(sha1_compatible_sha256(bytes)));
    let send = |offset: usize, bytes: &[u8], checksum: &str| {
        let fields = [VERSION, PIECE, ("Upload-Offset", &*offset.to_string()), ("Upload-Checksum", checksum)];
        server.request("PATCH", &upload, &fields, bytes)
    };
    send(0, &body[..70_000], &sha1(b"other")).assert_problem(460, "checksum_mismatch", "sha1");
    assert_eq!(offset_of(&server, &upload), 0);
    assert_eq!(send(0, &body[..70_000], &sha1(&body[..70_000])).status, 204);
    send(70_000, &body[70_000..], &sha256(b"other")).assert_problem(460, "checksum_mismatch", "sha256");
    assert_eq!(offset_of(&server, &upload), 70_000, "not even the last byte counts");
    for wrong in ["md5 AAAA", "sha1", "sha1 AAAA", "sha1 ****", "", "sha256  "] {
        send(70_000, &body[70_000..], wrong).assert_problem(400, "invalid_checksum", wrong);
    }
    // Where it breaks off, what it was cannot be told.
    let checksum = sha1(&body[70_000..]);
    let mut connection = server.connect();
    connection.send(format!(
        "PATCH {upload} HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 70000\r\nUpload-Checksum: {checksum}\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: 130000\r\n\r\n"
    ));
    connection.send(&body[70_000..150_000]);
    drop(connection);
    // The server may come to that piece only now, and then has the upload for a while.
    let status = wait_until("the end of the lock", || {
        let status = send(70_000, &body[70_000..], &sha256(&body[70_000..])).status;
        (status != 423).then_some(status)
    });
    assert_eq!(status, 204);
    assert_became(&server, &upload, &body);
}

fn sha1_compatible_sha256(bytes: &[u8]) -> Vec<u8> {
    let hex = sha256_hex(bytes);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn partial_uploads_are_joined_in_their_order() {
    let server = Server::start();
    let part = |bytes: &[u8]| {
        let upload = create(&server, "", bytes.len(), &[("Upload-Concat", "partial")]);
        assert_eq!(patch(&mut server.connect(), &upload, 0, bytes).status, 204);
        let looked = head(&server, &upload);
        assert_eq!(looked.header("Upload-Concat"), Some("partial"));
        assert_eq!(looked.header("X-Object-Id"), None, "a part is no object");
        upload
    };
    let (first, second) = (content(11, 1_200_001), content(12, 77));
    let (a, b) = (part(&first), part(&second));
    let url = format!("http://elsewhere.example:81{b}");
    let words = format!("final;{a} {url} {b}");
    let fields = [VERSION, ("Upload-Concat", &*words), ("Upload-Metadata", "filename YWI=")];
    let joined = server.request("POST", &target("&key=joined"), &fields, b"");
    assert_eq!(joined.status, 201, "{joined:?}");
    let upload = location(&joined);
    let whole = [first.clone(), second.clone(), second.clone()].concat();
    let id = assert_became(&server, &upload, &whole);
    let looked = head(&server, &upload);
    assert_eq!(looked.header("Upload-Concat"), Some(&*words));
    assert_eq!(looked.header("Upload-Length"), Some(&*whole.len().to_string()));
    let object = server.get(&format!("/v1/objects/{id}/info")).json();
    assert_eq!((&object["key"], &object["metadata"]), (&json!("joined"), &json!({"filename": "ab"})));
    let more = patch(&mut server.connect(), &upload, whole.len(), b"");
    more.assert_problem(403, "upload_joined", "a joined upload takes nothing");
    // Its parts have gone into it.
    assert_eq!(head(&server, &a).status, 404);
    assert!(server.files("uploads/open").is_empty());

    let unfinished = create(&server, "", 10, &[("Upload-Concat", "partial")]);
    let plain = create(&server, "", 10, &[]);
    let elsewhere = format!("/v1/uploads/hot-{}-{}", "0".repeat(16), "0".repeat(32));
    for (words, status, code) in [
        (format!("final;{unfinished}"), 400, "invalid_upload_concat"),
        (format!("final;{plain}"), 400, "invalid_upload_concat"),
        (format!("final;{elsewhere}"), 400, "invalid_upload_concat"),
        (format!("final;{unfinished} /x"), 400, "invalid_upload_concat"),
        ("final;".to_owned(), 400, "invalid_upload_concat"),
        (format!("final{unfinished}"), 400, "invalid_upload_concat"),
        (format!("final;{}", format!("{unfinished} ").repeat(101)), 400, "invalid_upload_concat"),
        ("whole".to_owned(), 400, "invalid_upload_concat"),
    ] {
        let refused = server.request("POST", &target(""), &[VERSION, ("Upload-Concat", &*words)], b"");
        refused.assert_problem(status, code, &words);
    }
    let part = part(b"part");
    let words = format!("final;{part}");
    let with_length = [VERSION, ("Upload-Concat", &*words), ("Upload-Length", "4")];
    let refused = server.request("POST", &target(""), &with_length, b"");
    refused.assert_problem(400, "invalid_header", "a length of what is joined");
    let other = "/v1/uploads?namespace=other&tenant_id=acme";
    let refused = server.request("POST", other, &[VERSION, ("Upload-Concat", &*words)], b"");
    refused.assert_problem(400, "invalid_upload_concat", "in another namespace");
    assert_eq!(offset_of(&server, &part), 4, "what was refused has taken nothing");
}

#[test]
fn a_length_can_be_said_later_and_then_stands() {
    let server = Server::start();
    let body = content(13, 100_000);
    let fields = [VERSION, ("Upload-Defer-Length", "1")];
    let response = server.request("POST", &target(""), &fields, b"");
    assert_eq!(response.status, 201, "{response:?}");
    let upload = location(&response);
    assert_eq!(head(&server, &upload).header("Upload-Defer-Length"), Some("1"));
    assert_eq!(head(&server, &upload).header("Upload-Length"), None);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &body[..60_000]).status, 204);
    let with_length = |length: &str, offset: &str, bytes: &[u8]| {
        let fields = [VERSION, PIECE, ("Upload-Offset", offset), ("Upload-Length", length)];
        server.request("PATCH", &upload, &fields, bytes)
    };
    with_length("59999", "60000", b"").assert_problem(409, "length_changed", "less than is here");
    assert_eq!(with_length("100000", "60000", &body[60_000..70_000]).status, 204);
    assert_eq!(head(&server, &upload).header("Upload-Length"), Some("100000"));
    assert_eq!(head(&server, &upload).header("Upload-Defer-Length"), None);
    with_length("100001", "70000", b"x").assert_problem(409, "length_changed", "another length");
    assert_eq!(patch(&mut server.connect(), &upload, 70_000, &body[70_000..]).status, 204);
    assert_became(&server, &upload, &body);
    // And at the very end, with no more bytes.
    let response =
        server.request("POST", &target(""), &[VERSION, PIECE, ("Upload-Defer-Length", "1")], &body);
    let upload = location(&response);
    assert_eq!(head(&server, &upload).header("X-Object-Id"), None);
    let fields = [VERSION, PIECE, ("Upload-Offset", "100000"), ("Upload-Length", "100000")];
    assert_eq!(server.request("PATCH", &upload, &fields, b"").status, 204);
    assert_became(&server, &upload, &body);
}

#[test]
fn a_condition_holds_at_the_end_too() {
    let server = Server::start();
    let body = content(14, 20_000);
    let absent = [("If-None-Match", "*")];
    let upload = create(&server, "&key=k", body.len(), &absent);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &body[..10_000]).status, 204);
    assert_eq!(server.request("PUT", "/v1/keys/models/acme/k", &[], b"first").status, 201);
    let refused = patch(&mut server.connect(), &upload, 10_000, &body[10_000..]);
    refused.assert_problem(412, "precondition_failed", "the key is there by now");
    assert_eq!(head(&server, &upload).status, 404, "nothing is kept of what can never be");
    assert!(server.files("uploads").is_empty());
    let fields = [VERSION, ("Upload-Length", "3"), ("If-None-Match", "*")];
    let early = server.request("POST", &target("&key=k"), &fields, b"");
    early.assert_problem(412, "precondition_failed", "before any byte");
    let version = format!("\"sha256-{}\"", sha256_hex(b"first"));
    let upload = create(&server, "&key=k", body.len(), &[("If-Match", &version)]);
    assert_eq!(patch(&mut server.connect(), &upload, 0, &body).status, 204);
    assert!(server.get("/v1/keys/models/acme/k").body == body);
    let without_key = server.request("POST", &target(""), &fields, b"");
    without_key.assert_problem(501, "not_implemented", "a condition on nothing");
    // And so does a digest of the whole.
    let digest = format!("sha-256=:{}:", STANDARD.encode(sha1_compatible_sha256(b"other")));
    let upload = create(&server, "", body.len(), &[("Repr-Digest", &digest)]);
    let refused = patch(&mut server.connect(), &upload, 0, &body);
    refused.assert_problem(400, "digest_mismatch", "another content");
    assert_eq!(head(&server, &upload).status, 404);
}

#[test]
fn what_waits_counts_for_its_tenant() {
    let server = Server::start_with(&["--uploads-max", "3"]);
    let limits = json!({"bytes_max": 100_000}).to_string();
    assert_eq!(server.request("PUT", "/v1/tenants/acme", &[], limits.as_bytes()).status, 200);
    let refuse =
        |length: &str| server.request("POST", &target(""), &[VERSION, ("Upload-Length", length)], b"");
    refuse("100001").assert_problem(507, "quota_exceeded", "more than there can be");
    let (first, second) = (create(&server, "", 60_000, &[]), create(&server, "", 60_000, &[]));
    let body = content(15, 60_000);
    assert_eq!(patch(&mut server.connect(), &first, 0, &body[..50_000]).status, 204);
    let late = patch(&mut server.connect(), &second, 0, &body);
    late.assert_problem(507, "quota_exceeded", "beside what waits already");
    assert_eq!(offset_of(&server, &second), 0);
    assert_eq!(patch(&mut server.connect(), &first, 50_000, &body[50_000..]).status, 204);
    assert_became(&server, &first, &body);
    let tenant = server.get("/v1/tenants/acme").json();
    assert_eq!((&tenant["bytes"], &tenant["objects"]), (&json!(60_000), &json!(1)));
    create(&server, "", 1, &[]);
    create(&server, "", 1, &[]);
    refuse("1").assert_problem(507, "too_many_uploads", "three wait already");
    assert_eq!(server.request("DELETE", &second, &[VERSION], b"").status, 204);
    create(&server, "", 1, &[]);
}

#[test]
fn a_method_can_stand_in_a_field() {
    let server = Server::start();
    let upload = create(&server, "", 5, &[]);
    let post = |method: &str, body: &[u8]| {
        let fields = [VERSION, PIECE, ("Upload-Offset", "0"), ("X-HTTP-Method-Override", method)];
        server.request("POST", &upload, &fields, body)
    };
    for wrong in ["HEAD", "GET", "patch", "", "PATCH, DELETE"] {
        post(wrong, b"").assert_problem(400, "invalid_method_override", wrong);
    }
    let fields = [VERSION, PIECE, ("Upload-Offset", "0"), ("X-HTTP-Method-Override", "DELETE")];
    let refused = server.request("PATCH", &upload, &fields, b"hello");
    refused.assert_problem(400, "invalid_method_override", "another one than it has");
    assert_eq!(post("PATCH", b"hello").status, 204);
    assert_became(&server, &upload, b"hello");
    assert_eq!(post("DELETE", b"").status, 204);
    assert_eq!(head(&server, &upload).status, 404);
}

#[test]
fn what_is_spoken_is_told() {
    let server = Server::start_with(&["--body-bytes-max", "1000"]);
    let response = server.request("OPTIONS", "/v1/uploads", &[], b"");
    assert_eq!(response.status, 204);
    assert_eq!(response.header("Tus-Resumable"), Some("1.0.0"));
    assert_eq!(response.header("Tus-Version"), Some("1.0.0"));
    assert_eq!(response.header("Tus-Max-Size"), Some("1000"));
    assert_eq!(response.header("Tus-Checksum-Algorithm"), Some("sha256,sha1"));
    let extensions =
        "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation";
    assert_eq!(response.header("Tus-Extension"), Some(extensions));
    let fields = [VERSION, ("Upload-Length", "1001")];
    let refused = server.request("POST", &target(""), &fields, b"");
    refused.assert_problem(413, "body_too_large", "one more than the most");
    create(&server, "", 1000, &[]);
}

#[test]
fn every_field_that_is_wrong_is_refused() {
    let server = Server::start();
    let upload = create(&server, "", 5, &[]);
    let unsaid = format!("/v1/uploads/hot-{}-{}", "0".repeat(16), "0".repeat(32));
    type Case<'c> = (&'c str, &'c str, Vec<(&'c str, &'c str)>, &'c [u8], u16, &'c str);
    let new = target("");
    let length = ("Upload-Length", "5");
    let at = ("Upload-Offset", "0");
    let cases: Vec<Case<'_>> = vec![
        ("POST", &new, vec![length], b"", 412, "tus_version"),
        ("POST", &new, vec![("Tus-Resumable", "0.2.2"), length], b"", 412, "tus_version"),
        ("POST", &new, vec![VERSION, VERSION, length], b"", 412, "tus_version"),
        ("POST", &new, vec![VERSION], b"", 400, "missing_header"),
        ("POST", &new, vec![VERSION, ("Upload-Length", "-1")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, ("Upload-Length", "+1")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, ("Upload-Length", "")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, ("Upload-Length", "18446744073709551616")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, ("Upload-Length", "18446744073709551615")], b"", 413, "body_too_large"),
        ("POST", &new, vec![VERSION, length, length], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, length, ("Upload-Defer-Length", "1")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, ("Upload-Defer-Length", "2")], b"", 400, "invalid_header"),
        ("POST", &new, vec![VERSION, length], b"hello", 415, "unsupported_media_type"),
        ("POST", &new, vec![VERSION, PIECE, length], b"hello!", 413, "body_too_large"),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Upload-Metadata", "a b c")],
            b"",
            400,
            "invalid_upload_metadata",
        ),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Upload-Metadata", "a *")],
            b"",
            400,
            "invalid_upload_metadata",
        ),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Upload-Metadata", "a,a")],
            b"",
            400,
            "invalid_upload_metadata",
        ),
        ("POST", &new, vec![VERSION, length, ("Upload-Metadata", ",")], b"", 400, "invalid_upload_metadata"),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Upload-Metadata", "filetype eA==")],
            b"",
            400,
            "invalid_upload_metadata",
        ),
        ("POST", &new, vec![VERSION, length, ("X-Object-Meta-a", "\u{e9}")], b"", 400, "invalid_metadata"),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Content-Range", "bytes 0-4/5")],
            b"",
            400,
            "content_range_refused",
        ),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Content-Encoding", "gzip")],
            b"",
            415,
            "unsupported_content_encoding",
        ),
        (
            "POST",
            &new,
            vec![VERSION, length, ("Content-Digest", "sha-256=:AA==:")],
            b"",
            501,
            "not_implemented",
        ),
        ("POST", &new, vec![VERSION, length, ("Repr-Digest", "sha-256=:AA==:")], b"", 400, "digest_invalid"),
        ("POST", &new, vec![VERSION, length, ("X-Blob-Reference", "x")], b"", 501, "not_implemented"),
        ("POST", "/v1/uploads", vec![VERSION, length], b"", 400, "missing_parameter"),
        ("POST", "/v1/uploads?x=y", vec![VERSION, length], b"", 400, "unknown_parameter"),
        ("PATCH", &upload, vec![PIECE, at], b"hello", 412, "tus_version"),
        ("PATCH", &upload, vec![VERSION, at], b"hello", 415, "unsupported_media_type"),
        (
            "PATCH",
            &upload,
            vec![VERSION, ("Content-Type", "text/plain"), at],
            b"hello",
            415,
            "unsupported_media_type",
        ),
        ("PATCH", &upload, vec![VERSION, PIECE], b"hello", 400, "missing_header"),
        ("PATCH", &upload, vec![VERSION, PIECE, ("Upload-Offset", "x")], b"hello", 400, "invalid_header"),
        ("PATCH", &upload, vec![VERSION, PIECE, ("Upload-Offset", "-0")], b"hello", 400, "invalid_header"),
        ("PATCH", &upload, vec![VERSION, PIECE, at, at], b"hello", 400, "invalid_header"),
        ("PATCH", &upload, vec![VERSION, PIECE, at], b"hello!", 413, "body_too_large"),
        ("PATCH", &upload, vec![VERSION, PIECE, at, ("Upload-Length", "6")], b"hello", 409, "length_changed"),
        (
            "PATCH",
            &upload,
            vec![VERSION, PIECE, at, ("Content-Range", "bytes 0-4/5")],
            b"hello",
            400,
            "content_range_refused",
        ),
        (
            "PATCH",
            &upload,
            vec![VERSION, PIECE, at, ("Content-Encoding", "br")],
            b"hello",
            415,
            "unsupported_content_encoding",
        ),
        ("PATCH", &upload, vec![VERSION, PIECE, at, ("Repr-Digest", "x")], b"hello", 501, "not_implemented"),
        ("PATCH", &unsaid, vec![VERSION, PIECE, at], b"hello", 404, "not_found"),
        ("PATCH", "/v1/uploads/1", vec![VERSION, PIECE, at], b"hello", 400, "invalid_parameter"),
        ("DELETE", &upload, vec![], b"", 412, "tus_version"),
        ("DELETE", &unsaid, vec![VERSION], b"", 404, "not_found"),
        ("PUT", &upload, vec![VERSION], b"", 405, "method_not_allowed"),
        ("GET", &upload, vec![VERSION], b"", 405, "method_not_allowed"),
        ("GET", "/v1/uploads", vec![VERSION], b"", 405, "method_not_allowed"),
    ];
    for (method, target, fields, body, status, code) in cases {
        let case = format!("{method} {target} {fields:?}");
        let response = server.request(method, target, &fields, body);
        response.assert_problem(status, code, &case);
        assert_eq!(response.header("Tus-Resumable"), Some("1.0.0"), "{case}");
        assert_eq!(response.header("Tus-Version").is_some(), status == 412, "{case}");
    }
    // Chunked, what is too much is seen only when it comes; what had room counts.
    let fields = [VERSION, PIECE, at, ("Transfer-Encoding", "chunked")];
    let response = server.request("PATCH", &upload, &fields, &chunked(b"hello!", 4, &[]));
    response.assert_problem(413, "body_too_large", "a sixth byte of five");
    assert_became(&server, &upload, b"hello");
    assert_eq!(server.list(SCOPE).len(), 1);
}

#[test]
fn an_upload_is_its_tenants_alone() {
    let server = strict_server(&[]);
    let acme = token_of("acme");
    let bearer = format!("Bearer {acme}");
    let fields = [VERSION, ("Upload-Length", "5"), ("Authorization", &*bearer)];
    let upload = location(&server.request("POST", &target(""), &fields, b""));
    let other = format!("Bearer {}", token_of("other"));
    for (method, body) in [("HEAD", &b""[..]), ("PATCH", b"hello"), ("DELETE", b"")] {
        let fields = [VERSION, PIECE, ("Upload-Offset", "0"), ("Authorization", &*other)];
        let response = server.request(method, &upload, &fields, body);
        assert_eq!(response.status, 404, "{method}");
        assert_eq!(response.header("Upload-Offset"), None);
    }
    let mut elsewhere = crate::tokens::claims("acme", "write");
    elsewhere["namespaces"] = json!(["other"]);
    let elsewhere = format!("Bearer {}", crate::tokens::token(&elsewhere));
    let fields = [VERSION, ("Authorization", &*elsewhere)];
    assert_eq!(server.request("HEAD", &upload, &fields, b"").status, 404);
    let sign = json!({"method": "PATCH", "path": upload, "expires_in_seconds": 60}).to_string();
    let server = strict_server(&["--url-signing-key", crate::tokens::SECRET]);
    for method in ["PATCH", "POST", "DELETE"] {
        let body = sign.replace("PATCH", method);
        let response = with_token(&server, &acme, "POST", "/v1/sign", body.as_bytes());
        response.assert_problem(400, "invalid_parameter", "no URL is signed for an upload in pieces");
    }
}

#[test]
fn what_is_changed_is_told_and_a_look_is_not() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let path = directory.path().join("audit");
    let server = Server::start_on(&directory, &["--audit-log-file", path.to_str().unwrap()]);
    let upload = create(&server, "&key=k", 5, &[]);
    offset_of(&server, &upload);
    assert_eq!(patch(&mut server.connect(), &upload, 0, b"he").status, 204);
    assert_eq!(patch(&mut server.connect(), &upload, 2, b"llo").status, 204);
    let id = assert_became(&server, &upload, b"hello");
    assert_eq!(server.request("DELETE", &upload, &[VERSION], b"").status, 204);
    let lines = wait_until("the lines", || {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= 4).then_some(lines)
    });
    let told: Vec<_> = lines.iter().map(|line| (line["method"].clone(), line["event"].clone())).collect();
    let expected =
        [("POST", "changed"), ("PATCH", "changed"), ("PATCH", "object_created"), ("DELETE", "changed")];
    assert_eq!(told, expected.map(|(method, event)| (json!(method), json!(event))));
    assert_eq!((&lines[2]["object_id"], &lines[2]["key"]), (&json!(id), &json!("k")));
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let server = Server::start();
    let fields =
        [VERSION, PIECE, ("Upload-Length", "5"), ("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    let refused = server.request("POST", &target(""), &fields, b"hello");
    refused.assert_problem(460, "checksum_mismatch", "at once with its creation");
    assert!(server.files("uploads").is_empty());
    let mut connection = server.connect();
    connection.send(format!(
        "POST {} HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 100000\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: 100000\r\n\r\n",
        target("")
    ));
    connection.send([7; 50_000]);
    wait_until("its beginning", || (!server.files("uploads").is_empty()).then_some(()));
    drop(connection);
    wait_until("the end of it", || server.files("uploads").is_empty().then_some(()));
    server.assert_nothing_kept("nobody knows its name");
}
