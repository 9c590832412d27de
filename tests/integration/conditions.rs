//! Conditional requests (RFC 9110 §13) and ranges (§14) on objects.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::content::{content, etag, sha256_hex};
use crate::raw::Fields;
use crate::server::Server;

/// Ten bytes whose every range is easy to see.
const DIGITS: &[u8] = b"0123456789";

fn create(server: &Server, body: &[u8]) -> (String, Value) {
    let object = server.create(body);
    (format!("/v1/objects/{}", object["id"].as_str().unwrap()), object)
}

/// The second of the last change, moved by so many seconds, as an HTTP date.
pub(crate) fn http_date(object: &Value, moved_by: i64) -> String {
    let updated: jiff::Timestamp = object["updated_at"].as_str().unwrap().parse().unwrap();
    let second = u64::try_from(updated.as_second() + moved_by).unwrap();
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
}

#[test]
fn every_condition_has_its_verdict_in_the_order_of_the_standard() {
    let server = Server::start();
    let (target, object) = create(&server, DIGITS);
    let (own, other) = (etag(DIGITS), etag(b"other"));
    let (weak, upper) = (format!("W/{own}"), format!("\"sha256-{}\"", sha256_hex(DIGITS).to_uppercase()));
    let (same, before, after) = (http_date(&object, 0), http_date(&object, -1), http_date(&object, 60));
    let several = format!("{other}, \"x\" , {own}");
    let cases: [(Fields<'_>, u16); 31] = [
        (&[("If-None-Match", &own)], 304),
        (&[("If-None-Match", &weak)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", &several)], 304),
        (&[("If-None-Match", &other), ("If-None-Match", &own)], 304),
        (&[("If-None-Match", &other)], 200),
        (&[("If-None-Match", &upper)], 200),
        (&[("If-None-Match", "sha256")], 200),
        (&[("If-Match", &own)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", &several)], 200),
        (&[("If-Match", &other)], 412),
        (&[("If-Match", &weak)], 412),
        (&[("If-Match", &upper)], 412),
        (&[("If-Match", "")], 412),
        (&[("If-Modified-Since", &same)], 304),
        (&[("If-Modified-Since", &after)], 304),
        (&[("If-Modified-Since", &before)], 200),
        (&[("If-Modified-Since", "yesterday")], 200),
        (&[("If-Unmodified-Since", &same)], 200),
        (&[("If-Unmodified-Since", &after)], 200),
        (&[("If-Unmodified-Since", &before)], 412),
        (&[("If-Unmodified-Since", "yesterday")], 200),
        // §13.2.2: If-Match before If-Unmodified-Since, which counts only without it; both before the others.
        (&[("If-Match", &own), ("If-Unmodified-Since", &before)], 200),
        (&[("If-Match", &other), ("If-None-Match", &own)], 412),
        (&[("If-Match", &own), ("If-None-Match", &own)], 304),
        (&[("If-Unmodified-Since", &before), ("If-None-Match", &own)], 412),
        // If-Modified-Since counts only without If-None-Match.
        (&[("If-None-Match", &other), ("If-Modified-Since", &after)], 200),
        (&[("If-None-Match", &own), ("If-Modified-Since", &before)], 304),
        // A condition is decided before a range is looked at.
        (&[("If-None-Match", &own), ("Range", "bytes=0-1")], 304),
        (&[("If-Match", &other), ("Range", "bytes=99-")], 412),
    ];
    for (fields, status) in cases {
        for method in ["GET", "HEAD"] {
            let response = server.request(method, &target, fields, b"");
            assert_eq!(response.status, status, "{method} {fields:?}");
            match status {
                200 if method == "GET" => assert_eq!(response.body, DIGITS),
                // §15.4.5: what a 200 would have said of the object, a 304 says too.
                304 => {
                    assert_eq!(response.header("ETag"), Some(own.as_str()));
                    assert_eq!(response.header("Cache-Control"), Some("private, no-cache"));
                    assert_eq!(response.header("Vary"), Some("Authorization, X-API-Key"));
                }
                412 if method == "GET" => {
                    response.assert_problem(412, "precondition_failed", &format!("{fields:?}"));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn conditions_hold_for_the_newest_version_of_a_key_too() {
    let server = Server::start();
    let target = "/v1/keys/models/acme/k";
    assert_eq!(server.request("PUT", target, &[], b"old").status, 201);
    assert_eq!(server.request("PUT", target, &[], DIGITS).status, 200);
    for (body, status) in [(DIGITS, 304), (b"old", 200)] {
        let response = server.request("GET", target, &[("If-None-Match", &etag(body))], b"");
        assert_eq!(response.status, status);
    }
}

#[test]
fn a_delete_by_id_obeys_its_conditions() {
    let server = Server::start();
    let (target, object) = create(&server, DIGITS);
    let before = http_date(&object, -1);
    for field in
        [("If-Match", etag(b"other").as_str()), ("If-Unmodified-Since", &before), ("If-None-Match", "*")]
    {
        let response = server.request("DELETE", &target, &[field], b"");
        response.assert_problem(412, "precondition_failed", field.0);
    }
    assert_eq!(server.get(&target).status, 200);
    assert_eq!(server.request("DELETE", &target, &[("If-Match", &etag(DIGITS))], b"").status, 204);
}

#[test]
fn every_condition_of_a_write_has_its_verdict_in_the_order_of_the_standard() {
    let server = Server::start();
    let target = "/v1/keys/models/acme/k";
    let (own, other) = (etag(DIGITS), etag(b"other"));
    let several = format!("{other}, {own}");
    let weak = format!("W/{own}");
    let object = server.request("PUT", target, &[], DIGITS).json();
    let (after, before) = (http_date(&object, 600), http_date(&object, -600));
    let cases: [(Fields<'_>, bool); 21] = [
        (&[("If-Match", &own)], true),
        (&[("If-Match", "*")], true),
        (&[("If-Match", &several)], true),
        (&[("If-Match", &other)], false),
        (&[("If-Match", &weak)], false),
        (&[("If-Match", "")], false),
        (&[("If-None-Match", &other)], true),
        (&[("If-None-Match", &own)], false),
        (&[("If-None-Match", &weak)], false),
        (&[("If-None-Match", &several)], false),
        (&[("If-None-Match", "*")], false),
        (&[("If-Unmodified-Since", &after)], true),
        (&[("If-Unmodified-Since", &before)], false),
        (&[("If-Unmodified-Since", "yesterday")], true),
        // §13.2.2: If-Unmodified-Since counts only without If-Match, If-None-Match with either.
        (&[("If-Match", &own), ("If-Unmodified-Since", &before)], true),
        (&[("If-Match", &other), ("If-Unmodified-Since", &after)], false),
        (&[("If-Match", &own), ("If-None-Match", &own)], false),
        (&[("If-Match", &own), ("If-None-Match", &other)], true),
        (&[("If-Unmodified-Since", &after), ("If-None-Match", "*")], false),
        // §13.1.3, §14.2: these are for reads alone.
        (&[("If-Modified-Since", &after)], true),
        (&[("Range", "bytes=99-"), ("If-Range", &other)], true),
    ];
    for (fields, goes_through) in cases {
        for method in ["PUT", "DELETE"] {
            let response = server.request(method, target, fields, if method == "PUT" { DIGITS } else { b"" });
            match (goes_through, method) {
                (false, _) => {
                    response.assert_problem(412, "precondition_failed", &format!("{method} {fields:?}"));
                }
                (true, "PUT") => assert_eq!(response.status, 200, "{fields:?}"),
                (true, _) => {
                    assert_eq!(response.status, 204, "{fields:?}");
                    assert_eq!(server.request("PUT", target, &[], DIGITS).status, 201);
                }
            }
        }
    }
}

#[test]
fn where_there_is_nothing_no_condition_is_looked_at_but_for_a_put() {
    let server = Server::start();
    let (key, id) = ("/v1/keys/models/acme/absent", format!("/v1/objects/{}", uuid::Uuid::now_v7()));
    let own = etag(DIGITS);
    for field in [("If-Match", own.as_str()), ("If-Match", "*"), ("If-None-Match", "*"), ("If-Range", "x")] {
        // §13.2.1: without its conditions, the answer would not be 2xx or 412.
        for (method, target) in
            [("GET", key), ("HEAD", key), ("DELETE", key), ("GET", &id), ("HEAD", &id), ("DELETE", &id)]
        {
            let response = server.request(method, target, &[field], b"");
            assert_eq!(response.status, 404, "{method} {target} {field:?}");
        }
        let malformed = server.request("PUT", "/v1/keys/models/acme/a//b", &[field], b"");
        malformed.assert_problem(400, "invalid_parameter", field.0);
    }
    server.request("PUT", key, &[("If-Match", "*")], DIGITS).assert_problem(412, "precondition_failed", "*");
    server.assert_nothing_kept("nothing was there to match");
}

#[test]
fn one_range_of_every_form_is_given_or_refused() {
    let server = Server::start();
    let (target, _) = create(&server, DIGITS);
    for (range, expected, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=0-9", "0123456789", "bytes 0-9/10"),
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=4-99999999999999999999999", "456789", "bytes 4-9/10"),
        ("bytes=0-", "0123456789", "bytes 0-9/10"),
        ("bytes=9-", "9", "bytes 9-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=-10", "0123456789", "bytes 0-9/10"),
        ("bytes=-1000", "0123456789", "bytes 0-9/10"),
        ("BYTES=1-2", "12", "bytes 1-2/10"),
        ("bytes= 1-2 ,", "12", "bytes 1-2/10"),
    ] {
        let response = server.request("GET", &target, &[("Range", range)], b"");
        assert_eq!((response.status, response.body.as_slice()), (206, expected.as_bytes()), "{range}");
        assert_eq!(response.header("Content-Range"), Some(content_range), "{range}");
        assert_eq!(response.header("ETag"), Some(etag(DIGITS).as_str()), "{range}");
        // RFC 9110 §14.2: a range is defined for GET alone.
        let head = server.request("HEAD", &target, &[("Range", range)], b"");
        assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")), "{range}");
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=99999999999999999999999-", "bytes=-0"] {
        let response = server.request("GET", &target, &[("Range", range)], b"");
        response.assert_problem(416, "range_not_satisfiable", range);
        assert_eq!(response.header("Content-Range"), Some("bytes */10"), "{range}");
    }
}

#[test]
fn a_range_that_is_none_is_as_if_it_were_not_there() {
    let server = Server::start();
    let (target, _) = create(&server, DIGITS);
    for range in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=--1",
        "bytes 1-2",
        "lines=1-2",
        "bytes=1-2,x",
        "=1-2",
        "1-2",
    ] {
        let response = server.request("GET", &target, &[("Range", range)], b"");
        assert_eq!((response.status, response.body.as_slice()), (200, DIGITS), "{range:?}");
        assert_eq!(response.header("Content-Range"), None, "{range:?}");
    }
}

#[test]
fn no_range_of_an_empty_object_can_be_met() {
    let server = Server::start();
    let (target, _) = create(&server, b"");
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        let response = server.request("GET", &target, &[("Range", range)], b"");
        response.assert_problem(416, "range_not_satisfiable", range);
        assert_eq!(response.header("Content-Range"), Some("bytes */0"), "{range}");
    }
}

#[test]
fn a_range_applies_only_while_its_if_range_names_this_content() {
    let server = Server::start();
    let (target, object) = create(&server, DIGITS);
    let (own, date) = (etag(DIGITS), http_date(&object, 0));
    let (weak, other) = (format!("W/{own}"), etag(b"other"));
    let (list, twice) = (format!("\"x\", {own}"), format!("{own}, {own}"));
    for (if_range, status) in [
        (own.as_str(), 206),
        (&other, 200),
        (&weak, 200),
        (&date, 200),
        (&list, 200),
        (&twice, 200),
        ("*", 200),
        ("x", 200),
        ("", 200),
    ] {
        let fields = [("Range", "bytes=2-3"), ("If-Range", if_range)];
        let response = server.request("GET", &target, &fields, b"");
        let expected = if status == 206 { b"23".as_slice() } else { DIGITS };
        assert_eq!((response.status, response.body.as_slice()), (status, expected), "{if_range:?}");
    }
    // Where the range does not apply, it cannot fail either.
    let fields = [("Range", "bytes=99-"), ("If-Range", other.as_str())];
    assert_eq!(server.request("GET", &target, &fields, b"").status, 200);
    // Without a range, If-Range says nothing.
    assert_eq!(server.request("GET", &target, &[("If-Range", &other)], b"").status, 200);
}

#[test]
fn ranges_of_large_objects_are_exact_at_every_block_edge() {
    let server = Server::start();
    let body = content(3, (3 << 20) + 777);
    let (target, _) = create(&server, &body);
    let mut connection = server.connect();
    for edge in [4096, 16_384, 131_072, 1 << 20, 2 << 20, 3 << 20] {
        for first in [edge - 1, edge, edge + 1] {
            for length in [1, 4096, 16_384, 16_385, (1 << 20) + 1] {
                let last = (first + length - 1).min(body.len() - 1);
                let range = format!("bytes={first}-{last}");
                let response = connection.exchange("GET", &target, &[("Range", &range)], b"");
                assert_eq!(response.status, 206, "{range}");
                assert!(response.body == body[first..=last], "{range} comes back as it was");
            }
        }
    }
}
