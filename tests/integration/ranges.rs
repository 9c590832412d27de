//! Several ranges of one object in one answer: `multipart/byteranges` (RFC 9110 §14.6, §15.3.7.2).

use crate::content::{Random, content, etag, repr_digest};
use crate::raw::{Connection, Response, request};
use crate::server::{SCOPE, Server};

/// Ten bytes whose every range is easy to see.
const DIGITS: &[u8] = b"0123456789";
const KEY: &str = "/v1/keys/models/acme/k";

/// One part as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) content_type: String,
    pub(crate) content_range: String,
    pub(crate) bytes: Vec<u8>,
}

/// Takes a body apart, and holds it to consist of parts and boundaries alone.
pub(crate) fn parts(response: &Response) -> Vec<Part> {
    assert_eq!(response.status, 206, "{:?}", response.headers);
    assert_eq!(response.header("Content-Range"), None, "RFC 9110 §15.3.7.2");
    let content_type = response.header("Content-Type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").expect(content_type);
    let delimiter = format!("--{boundary}");
    let mut rest = response.body.strip_prefix(delimiter.as_bytes()).expect("it begins with a boundary");
    let mut parts = Vec::new();
    loop {
        if rest == b"--\r\n" {
            return parts;
        }
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a part has a head");
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        let [empty, content_type, content_range] = head.split("\r\n").collect::<Vec<_>>()[..] else {
            panic!("a head has two fields: {head}");
        };
        assert_eq!(empty, "");
        let content_range = content_range.strip_prefix("Content-Range: bytes ").expect(content_range);
        let (first, rest_of_range) = content_range.split_once('-').unwrap();
        let (last, _) = rest_of_range.split_once('/').unwrap();
        let length = last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1;
        let bytes = &rest[end + 4..end + 4 + length];
        parts.push(Part {
            content_type: content_type.strip_prefix("Content-Type: ").expect(content_type).to_owned(),
            content_range: content_range.to_owned(),
            bytes: bytes.to_vec(),
        });
        rest =
            rest[end + 4 + length..].strip_prefix(format!("\r\n{delimiter}").as_bytes()).expect("a boundary");
    }
}

fn get(connection: &mut Connection, target: &str, range: &str) -> Response {
    connection.exchange("GET", target, &[("Range", range)], b"")
}

#[test]
fn several_ranges_are_the_parts_of_one_body_in_their_order() {
    let server = Server::start();
    let fields = [("Content-Type", "text/x-digits; a=\"b\""), ("X-Object-Meta-A", "b")];
    let object = server.request("PUT", KEY, &fields, DIGITS).json();
    let by_id = format!("/v1/objects/{}", object["id"].as_str().unwrap());
    // One connection: an answer of a wrong length would be noticed by the next one.
    let mut connection = server.connect();
    for target in [KEY, &by_id] {
        for (range, expected) in [
            ("bytes=0-1,4-5", &[("0-1/10", "01"), ("4-5/10", "45")][..]),
            ("bytes=5-6 , ,0-1,-1", &[("5-6/10", "56"), ("0-1/10", "01"), ("9-9/10", "9")]),
            ("bytes=8-,0-0,7-99", &[("8-9/10", "89"), ("0-0/10", "0"), ("7-9/10", "789")]),
            // No byte is there for the second one.
            ("bytes=0-0,10-,1-1", &[("0-0/10", "0"), ("1-1/10", "1")]),
            // Parts may overlap, up to the size of the whole.
            ("bytes=0-4,0-4", &[("0-4/10", "01234"), ("0-4/10", "01234")]),
        ] {
            let response = get(&mut connection, target, range);
            let found = parts(&response);
            let found: Vec<_> = found
                .iter()
                .map(|part| (part.content_range.as_str(), std::str::from_utf8(&part.bytes).unwrap()))
                .collect();
            assert_eq!(found, expected, "{range}");
            assert!(parts(&response).iter().all(|part| part.content_type == "text/x-digits; a=\"b\""));
            for (name, value) in [
                ("ETag", etag(DIGITS)),
                ("Repr-Digest", repr_digest(DIGITS)),
                ("Accept-Ranges", "bytes".to_owned()),
                ("Cache-Control", "private, no-cache".to_owned()),
                ("X-Content-Type-Options", "nosniff".to_owned()),
                ("X-Object-Meta-a", "b".to_owned()),
            ] {
                assert_eq!(response.header(name), Some(value.as_str()), "{name}");
            }
            assert!(response.header("Last-Modified").is_some());
            let head = connection.exchange("HEAD", target, &[("Range", range)], b"");
            assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")), "{range}");
        }
    }
    let boundary = |response: Response| response.header("Content-Type").unwrap().to_owned();
    let [one, other] = [(); 2].map(|()| boundary(get(&mut connection, KEY, "bytes=0-0,2-2")));
    assert_ne!(one, other, "nobody can know it");
}

#[test]
fn where_one_range_is_left_there_is_no_multipart_and_where_none_is_nothing() {
    let server = Server::start();
    assert_eq!(server.request("PUT", KEY, &[], DIGITS).status, 201);
    let mut connection = server.connect();
    for (range, bytes, content_range) in [
        ("bytes=10-,3-5", "345", "bytes 3-5/10"),
        ("bytes=3-5,10-20,-0", "345", "bytes 3-5/10"),
        ("bytes=99-,-3,98-", "789", "bytes 7-9/10"),
    ] {
        let response = get(&mut connection, KEY, range);
        assert_eq!((response.status, response.body.as_slice()), (206, bytes.as_bytes()), "{range}");
        assert_eq!(response.header("Content-Range"), Some(content_range), "{range}");
        assert_eq!(response.header("Content-Type"), Some("application/octet-stream"), "{range}");
    }
    for range in ["bytes=10-,11-", "bytes=-0,-0", "bytes=99999999999999999999-,10-10"] {
        let response = get(&mut connection, KEY, range);
        response.assert_problem(416, "range_not_satisfiable", range);
        assert_eq!(response.header("Content-Range"), Some("bytes */10"), "{range}");
    }
    assert_eq!(connection.exchange("PUT", KEY, &[], b"").status, 200);
    get(&mut connection, KEY, "bytes=0-,-1").assert_problem(416, "range_not_satisfiable", "it is empty");
}

#[test]
fn what_asks_for_more_than_there_is_is_given_the_whole_once() {
    let server = Server::start();
    assert_eq!(server.request("PUT", KEY, &[], DIGITS).status, 201);
    let mut connection = server.connect();
    let with_holes = format!("bytes={}", ["0-0"; 5].join(","));
    assert_eq!(parts(&get(&mut connection, KEY, &with_holes)).len(), 5);
    for range in [
        "bytes=0-,0-",
        "bytes=0-5,0-4",
        "bytes=-10,0-0",
        "bytes=0-99999999999999999999,5-99999999999999999999",
        "bytes=0-1,x",
        "bytes=0-1,5-4",
        "bytes=0-1,2",
        "lines=0-1,4-5",
    ] {
        let response = get(&mut connection, KEY, range);
        assert_eq!((response.status, response.body.as_slice()), (200, DIGITS), "{range}");
        assert_eq!(response.header("Content-Type"), Some("application/octet-stream"), "{range}");
    }
    // The field stands once, as any that is no list.
    let twice = [("Range", "bytes=0-1"), ("Range", "bytes=4-5")];
    assert_eq!(connection.exchange("GET", KEY, &twice, b"").status, 200);
}

#[test]
fn there_are_256_ranges_at_most() {
    let server = Server::start();
    let body = content(1, 4096);
    assert_eq!(server.request("PUT", KEY, &[], &body).status, 201);
    let mut connection = server.connect();
    let range = |count: usize| {
        let specs: Vec<_> = (0..count).map(|n| format!("{}-{}", 15 * n, 15 * n + 9)).collect();
        format!("bytes={}", specs.join(","))
    };
    let found = parts(&get(&mut connection, KEY, &range(256)));
    assert_eq!(found.len(), 256);
    for (n, part) in found.iter().enumerate() {
        assert!(part.bytes == body[15 * n..15 * n + 10], "part {n}");
    }
    let response = get(&mut connection, KEY, &range(257));
    assert!(response.status == 200 && response.body == body, "{}", response.status);
    // Those that cannot be met count too.
    let response = get(&mut connection, KEY, &format!("{},9999-", range(256)));
    assert!(response.status == 200 && response.body == body, "{}", response.status);
}

#[test]
fn conditions_go_before_several_ranges_too() {
    let server = Server::start();
    assert_eq!(server.request("PUT", KEY, &[], DIGITS).status, 201);
    let (own, other) = (etag(DIGITS), etag(b"other"));
    for (field, status) in [
        (("If-None-Match", own.as_str()), 304),
        (("If-Match", &other), 412),
        (("If-Range", &other), 200),
        (("If-Range", &own), 206),
    ] {
        let response = server.request("GET", KEY, &[("Range", "bytes=0-1,4-5"), field], b"");
        assert_eq!(response.status, status, "{field:?}");
    }
}

#[test]
fn parts_of_every_size_are_exact_wherever_the_bytes_lie() {
    let mut random = Random::new(20);
    for driver in ["auto", "epoll"] {
        let server = Server::start_with(&["--io-driver", driver]);
        // In the log, and in files of both classes.
        for (length, class) in [(60_000, "hot"), ((3 << 20) + 777, "hot"), ((3 << 20) + 778, "cold")] {
            let body = content(length as u64, length);
            let query = format!("/v1/objects?{SCOPE}&storage_class={class}");
            let id = server.request("POST", &query, &[], &body).json()["id"].as_str().unwrap().to_owned();
            let target = format!("/v1/objects/{id}");
            let mut connection = server.connect();
            for round in 0..12 {
                let ranges: Vec<_> = (0..2 + random.below(6))
                    .map(|_| {
                        // Below and above what is sent with its head, and over several blocks.
                        let most = [10, 16_384, 16_385, 100_000, 1 << 20][random.below(5) as usize];
                        let first = random.below(length as u64) as usize;
                        (first, (first + random.below(most) as usize).min(length - 1))
                    })
                    .collect();
                let specs: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
                let response = get(&mut connection, &target, &format!("bytes={}", specs.join(",")));
                let case = format!("{driver} {class} {length}, round {round}: {specs:?}");
                if ranges.iter().map(|(first, last)| last - first + 1).sum::<usize>() > length {
                    assert!(response.status == 200 && response.body == body, "{case}");
                    continue;
                }
                let found = parts(&response);
                assert_eq!(found.len(), ranges.len(), "{case}");
                for (part, (first, last)) in found.iter().zip(ranges) {
                    assert_eq!(part.content_range, format!("{first}-{last}/{length}"), "{case}");
                    assert!(part.bytes == body[first..=last], "{case}: {}", part.content_range);
                }
            }
        }
    }
}

#[test]
fn answers_of_parts_stand_in_line_with_others_and_are_counted_whole() {
    let mut server = Server::start();
    let body = content(1, 200_000);
    assert_eq!(server.request("PUT", KEY, &[], &body).status, 201);
    let mut connection = server.connect();
    let rows = ["bytes=0-9", "bytes=0-9,20-29", "bytes=0-99999,100000-100009", "bytes=100000-100009,0-99999"];
    let requests: Vec<u8> =
        rows.iter().flat_map(|range| request("GET", KEY, &[("Range", range)], b"")).collect();
    connection.send(requests);
    assert!(connection.response().body == body[..10]);
    for range in &rows[1..] {
        let response = connection.response();
        let bytes: Vec<_> = parts(&response).into_iter().map(|part| part.bytes.len()).collect();
        assert_eq!(bytes.len(), 2, "{range}");
        server.wait_for_line("the length that was sent", |line| line["bytes_out"] == response.body.len());
    }
}
