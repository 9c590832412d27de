//! `GET /v1/objects` with `prefix` or `delimiter`, and `?versions` of a key: level by level, page by page, and what is
//! refused.

use serde_json::{Value, json};

use crate::raw::{Connection, Response};
use crate::server::{SCOPE, Server};
use crate::site::Site;
use crate::tokens::{claims, strict_server, token, token_of, with_token};

fn put(connection: &mut Connection, key: &str, body: &str) -> Value {
    let response = connection.exchange("PUT", &format!("/v1/keys/models/acme/{key}"), &[], body.as_bytes());
    assert!(matches!(response.status, 200 | 201), "{response:?}");
    response.json()
}

fn listed(connection: &mut Connection, query: &str) -> Response {
    let response = connection.exchange("GET", &format!("/v1/objects?{SCOPE}&{query}"), &[], b"");
    assert_eq!(response.status, 200, "{query}: {response:?}");
    response
}

/// The keys and the common prefixes of a page.
fn names(page: &Value) -> (Vec<&str>, Vec<&str>) {
    let keys = page["objects"].as_array().unwrap().iter().map(|object| object["key"].as_str().unwrap());
    let prefixes = page["common_prefixes"].as_array().unwrap().iter().map(|prefix| prefix.as_str().unwrap());
    (keys.collect(), prefixes.collect())
}

/// The target of a `Link` to the next page (RFC 8288).
fn next(response: &Response) -> Option<String> {
    let link = response.header("Link")?;
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(target.expect("it is a link to the next page").to_owned())
}

#[test]
fn keys_are_listed_level_by_level() {
    let server = Server::start();
    let mut connection = server.connect();
    put(&mut connection, "llama/config.json", "old");
    let mut objects: Vec<Value> =
        ["README", "llama/config.json", "llama/shards/0", "llama/shards/1", "llama.txt"]
            .map(|key| put(&mut connection, key, key))
            .into();
    server.create(b"without a key");
    objects.sort_by(|one, other| one["key"].as_str().cmp(&other["key"].as_str()));
    for all in ["prefix=", "prefix", "prefix=&limit=1000", "prefix=&status=COMMITTED", "delimiter=//"] {
        let expected = json!({"objects": objects, "common_prefixes": [], "next_cursor": null});
        assert_eq!(listed(&mut connection, all).json(), expected, "{all}");
    }
    for (query, keys, prefixes) in [
        ("delimiter=/", vec!["README", "llama.txt"], vec!["llama/"]),
        ("prefix=&delimiter=%2F", vec!["README", "llama.txt"], vec!["llama/"]),
        ("prefix=llama", vec!["llama.txt", "llama/config.json", "llama/shards/0", "llama/shards/1"], vec![]),
        ("prefix=llama&delimiter=/", vec!["llama.txt"], vec!["llama/"]),
        ("prefix=llama/&delimiter=/", vec!["llama/config.json"], vec!["llama/shards/"]),
        ("prefix=llama%2fshards/", vec!["llama/shards/0", "llama/shards/1"], vec![]),
        ("prefix=llama/shards/1", vec!["llama/shards/1"], vec![]),
        ("delimiter=a", vec!["README"], vec!["lla"]),
        ("prefix=l&delimiter=/s", vec!["llama.txt", "llama/config.json"], vec!["llama/s"]),
        ("prefix=llama//", vec![], vec![]),
        ("prefix=/", vec![], vec![]),
        ("prefix=%25", vec![], vec![]),
        ("prefix=_", vec![], vec![]),
        ("prefix=LLAMA", vec![], vec![]),
    ] {
        assert_eq!(names(&listed(&mut connection, query).json()), (keys, prefixes), "{query}");
    }
    let get = connection.exchange("GET", &format!("/v1/objects?{SCOPE}&delimiter=/"), &[], b"");
    let head = connection.exchange("HEAD", &format!("/v1/objects?{SCOPE}&delimiter=/"), &[], b"");
    assert_eq!((head.status, head.header("Content-Length")), (200, get.header("Content-Length")));
}

#[test]
fn names_of_every_kind_are_found_by_what_they_begin_with() {
    let server = Server::start();
    let mut connection = server.connect();
    let keys = ["a%25b", "a%20b", "a%2Bb", "a%26b=%3E", "%C3%A4/%C3%B6", "%F4%8F%BF%BF/x", "%F4%8F%BF%BFy"];
    for key in keys {
        put(&mut connection, key, "x");
    }
    for (query, key) in [
        ("prefix=a%25", "a%b"),
        ("prefix=a+", "a b"),
        ("prefix=a%2B", "a+b"),
        ("prefix=a%26b=%3E", "a&b=>"),
        ("prefix=%C3%A4", "ä/ö"),
        ("prefix=%F4%8F%BF%BFy", "\u{10ffff}y"),
    ] {
        assert_eq!(names(&listed(&mut connection, query).json()).0, [key], "{query}");
    }
    let page = listed(&mut connection, "delimiter=/").json();
    assert_eq!(names(&page).1, ["ä/", "\u{10ffff}/"]);
    // The next page is reached by the link as it stands, whatever is in the query.
    let mut target = format!("/v1/objects?{SCOPE}&prefix=%F4%8F%BF%BF&delimiter=%26+%22%3E&limit=1");
    let mut seen = Vec::new();
    loop {
        let response = connection.exchange("GET", &target, &[], b"");
        seen.extend(names(&response.json()).0.iter().map(|name| (*name).to_owned()));
        match next(&response) {
            Some(next) => target = next,
            None => break,
        }
    }
    assert_eq!(seen, ["\u{10ffff}/x", "\u{10ffff}y"]);
}

#[test]
fn pages_of_a_level_follow_each_other_without_gap_or_repeat() {
    let server = Server::start();
    let mut connection = server.connect();
    for n in 0..30 {
        put(&mut connection, &format!("{}/{n:02}", n % 6), "x");
        put(&mut connection, &format!("k{n:02}"), "x");
    }
    let whole = listed(&mut connection, "delimiter=/").json();
    let (keys, prefixes) = names(&whole);
    assert_eq!((keys.len(), &prefixes[..]), (30, &["0/", "1/", "2/", "3/", "4/", "5/"][..]));
    for limit in [1, 5, 6, 7, 35, 36, 37] {
        let (mut seen, mut count) = ((Vec::new(), Vec::new()), 0);
        let mut target = format!("/v1/objects?{SCOPE}&delimiter=/&limit={limit}");
        loop {
            let response = connection.exchange("GET", &target, &[], b"");
            let page = response.json();
            let (keys, prefixes) = names(&page);
            seen.0.extend(keys.iter().map(|key| (*key).to_owned()));
            seen.1.extend(prefixes.iter().map(|prefix| (*prefix).to_owned()));
            count += 1;
            let cursor = page["next_cursor"].as_str();
            let Some(next) = next(&response) else {
                assert_eq!(cursor, None);
                break;
            };
            assert_eq!(keys.len() + prefixes.len(), limit, "a page that has a next one is full");
            assert!(
                next.ends_with(&format!("&delimiter=/&limit={limit}&cursor={}", cursor.unwrap())),
                "{next}"
            );
            target = next;
        }
        assert_eq!(seen.0, keys, "limit={limit}");
        assert_eq!(seen.1, prefixes, "limit={limit}");
        assert_eq!(count, 36_usize.div_ceil(limit), "limit={limit}");
    }
    // What comes and goes between two pages moves nothing else.
    let first = listed(&mut connection, "prefix=k&limit=2").json();
    let cursor = first["next_cursor"].as_str().unwrap();
    for gone in ["k01", "k02"] {
        let target = format!("/v1/keys/models/acme/{gone}");
        assert_eq!(connection.exchange("DELETE", &target, &[], b"").status, 204);
    }
    put(&mut connection, "k00a", "behind");
    put(&mut connection, "k03a", "ahead");
    let second = listed(&mut connection, &format!("prefix=k&limit=3&cursor={cursor}")).json();
    assert_eq!(names(&second).0, ["k03", "k03a", "k04"]);
}

#[test]
fn a_class_is_that_of_the_newest_version() {
    let server = Server::start();
    let mut connection = server.connect();
    for (key, class) in
        [("a/1", "cold"), ("a/2", "hot"), ("a/2", "cold"), ("b/1", "cold"), ("b/1", "hot"), ("c", "hot")]
    {
        let target = format!("/v1/objects?{SCOPE}&key={key}&storage_class={class}");
        assert_eq!(connection.exchange("POST", &target, &[], b"x").status, 201);
    }
    for (query, keys, prefixes) in [
        ("prefix=&storage_class=cold", vec!["a/1", "a/2"], vec![]),
        ("prefix=&storage_class=hot", vec!["b/1", "c"], vec![]),
        ("delimiter=/&storage_class=cold", vec![], vec!["a/"]),
        ("delimiter=/&storage_class=hot", vec!["c"], vec!["b/"]),
        ("prefix=a/2&storage_class=hot", vec![], vec![]),
    ] {
        assert_eq!(names(&listed(&mut connection, query).json()), (keys, prefixes), "{query}");
    }
}

#[test]
fn a_cursor_of_keys_serves_its_own_query_with_any_limit_and_no_other_query() {
    let server = Server::start();
    let mut connection = server.connect();
    for key in ["a/1", "a/2", "a/3"] {
        put(&mut connection, key, "x");
        put(&mut connection, "a/1", key);
    }
    let of = |connection: &mut Connection, target: &str| {
        let page = connection.exchange("GET", target, &[], b"").json();
        page["next_cursor"].as_str().expect("there is a next page").to_owned()
    };
    let cursor = of(&mut connection, &format!("/v1/objects?{SCOPE}&prefix=a/&limit=1"));
    let rest = listed(&mut connection, &format!("prefix=a/&limit=9&cursor={cursor}")).json();
    assert_eq!(names(&rest).0, ["a/2", "a/3"]);
    let plain = of(&mut connection, &format!("/v1/objects?{SCOPE}&limit=1"));
    let versions = of(&mut connection, "/v1/keys/models/acme/a/1?versions&limit=1");
    for (target, cursor) in [
        (format!("/v1/objects?{SCOPE}"), &cursor),
        (format!("/v1/objects?{SCOPE}&prefix=a"), &cursor),
        (format!("/v1/objects?{SCOPE}&prefix="), &cursor),
        (format!("/v1/objects?{SCOPE}&prefix=a/&delimiter=/"), &cursor),
        (format!("/v1/objects?{SCOPE}&prefix=a/&storage_class=hot"), &cursor),
        ("/v1/objects?namespace=models&tenant_id=other&prefix=a/".into(), &cursor),
        ("/v1/objects?namespace=other&tenant_id=acme&prefix=a/".into(), &cursor),
        ("/v1/keys/models/acme/a/1?versions".into(), &cursor),
        (format!("/v1/objects?{SCOPE}&prefix=a/"), &plain),
        (format!("/v1/objects?{SCOPE}&prefix="), &plain),
        ("/v1/keys/models/acme/a/1?versions".into(), &plain),
        (format!("/v1/objects?{SCOPE}"), &versions),
        (format!("/v1/objects?{SCOPE}&prefix=a/1"), &versions),
        ("/v1/keys/models/acme/a/2?versions".into(), &versions),
        ("/v1/keys/models/other/a/1?versions".into(), &versions),
    ] {
        let response = connection.exchange("GET", &format!("{target}&cursor={cursor}"), &[], b"");
        assert_eq!(response.assert_problem(400, "invalid_cursor", &target)["parameter"], "cursor");
    }
    for cursor in ["", "x", "AAAA", &cursor[1..], &format!("{cursor}A"), &"A".repeat(2000)] {
        let target = format!("/v1/objects?{SCOPE}&prefix=a/&cursor={cursor}");
        connection.exchange("GET", &target, &[], b"").assert_problem(400, "invalid_cursor", &target);
    }
}

#[test]
fn all_versions_of_a_key_are_listed_newest_first() {
    let server = Server::start();
    let mut connection = server.connect();
    let key = "a%20b/%2526";
    let mut versions: Vec<Value> = (0..7).map(|n| put(&mut connection, key, &format!("{n}"))).collect();
    put(&mut connection, "a%20b/%2526/below", "x");
    put(&mut connection, "a%20b", "x");
    versions.reverse();
    let target = format!("/v1/keys/models/acme/{key}?versions");
    for spelling in [
        target.clone(),
        format!("{target}="),
        format!("{target}&limit=7"),
        format!("/v1/keys/models/acme/{key}?limit=1000&versions"),
    ] {
        let expected = json!({"objects": versions, "common_prefixes": [], "next_cursor": null});
        assert_eq!(connection.exchange("GET", &spelling, &[], b"").json(), expected, "{spelling}");
    }
    let head = connection.exchange("HEAD", &target, &[], b"");
    assert_eq!((head.status, head.header("Content-Type")), (200, Some("application/json")));
    for limit in [1, 3, 6, 7, 8] {
        let (mut seen, mut target) = (Vec::new(), format!("{target}&limit={limit}"));
        loop {
            let response = connection.exchange("GET", &target, &[], b"");
            seen.extend(response.json()["objects"].as_array().unwrap().iter().cloned());
            match next(&response) {
                Some(next) => target = next,
                None => break,
            }
        }
        assert_eq!(seen, versions, "limit={limit}");
    }
    let newest = format!("/v1/objects/{}", versions[0]["id"].as_str().unwrap());
    assert_eq!(connection.exchange("DELETE", &newest, &[], b"").status, 204);
    let left = connection.exchange("GET", &target, &[], b"").json();
    assert_eq!(left["objects"].as_array().unwrap()[..], versions[1..]);
    // Gone altogether, it is no key; a listing that had begun ends.
    let page = connection.exchange("GET", &format!("{target}&limit=2"), &[], b"");
    let cursor = page.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(connection.exchange("DELETE", &format!("/v1/keys/models/acme/{key}"), &[], b"").status, 204);
    connection.exchange("GET", &target, &[], b"").assert_problem(404, "not_found", "it is gone");
    let rest = connection.exchange("GET", &format!("{target}&cursor={cursor}"), &[], b"").json();
    assert_eq!(rest, json!({"objects": [], "common_prefixes": [], "next_cursor": null}));
}

#[test]
fn what_is_wrong_is_refused_by_its_name() {
    let server = Server::start();
    let mut connection = server.connect();
    put(&mut connection, "k", "x");
    let list = format!("/v1/objects?{SCOPE}");
    let key = "/v1/keys/models/acme/k";
    let (long, long_delimiter) = ("k".repeat(1025), "d".repeat(65));
    for (method, target, code, parameter) in [
        ("GET", format!("{list}&prefix=a&prefix=a"), "repeated_parameter", "prefix"),
        ("GET", format!("{list}&delimiter=/&delimiter=/"), "repeated_parameter", "delimiter"),
        ("GET", format!("{list}&prefix={long}"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=%00"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=a%0A"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=%C2%85"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=%C3"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=%ff"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&prefix=%"), "invalid_parameter", "prefix"),
        ("GET", format!("{list}&delimiter="), "invalid_parameter", "delimiter"),
        ("GET", format!("{list}&delimiter"), "invalid_parameter", "delimiter"),
        ("GET", format!("{list}&delimiter={long_delimiter}"), "invalid_parameter", "delimiter"),
        ("GET", format!("{list}&delimiter=%00"), "invalid_parameter", "delimiter"),
        ("GET", format!("{list}&prefix=&status=DELETED"), "invalid_parameter", "status"),
        ("GET", format!("{list}&delimiter=/&status=WRITING"), "invalid_parameter", "status"),
        ("GET", format!("{list}&prefix=&status=x"), "invalid_parameter", "status"),
        ("GET", format!("{list}&prefix=&storage_class=warm"), "invalid_parameter", "storage_class"),
        ("GET", format!("{list}&prefix=&limit=0"), "invalid_parameter", "limit"),
        ("GET", format!("{list}&prefix=&limit=1001"), "invalid_parameter", "limit"),
        ("GET", format!("{list}&prefix=&start_after=a"), "unknown_parameter", "start_after"),
        ("GET", format!("{list}&versions"), "unknown_parameter", "versions"),
        ("GET", "/v1/objects?namespace=models&prefix=".into(), "missing_parameter", "tenant_id"),
        ("GET", "/v1/objects?tenant_id=acme&delimiter=/".into(), "missing_parameter", "namespace"),
        ("POST", format!("{list}&prefix=a"), "unknown_parameter", "prefix"),
        ("GET", format!("{key}?versions=1"), "invalid_parameter", "versions"),
        ("GET", format!("{key}?versions=true"), "invalid_parameter", "versions"),
        ("GET", format!("{key}?versions&versions"), "repeated_parameter", "versions"),
        ("GET", format!("{key}?versions&limit=0"), "invalid_parameter", "limit"),
        ("GET", format!("{key}?versions&limit=1&limit=1"), "repeated_parameter", "limit"),
        ("GET", format!("{key}?versions&prefix="), "unknown_parameter", "prefix"),
        ("GET", format!("{key}?versions&storage_class=hot"), "unknown_parameter", "storage_class"),
        ("GET", format!("{key}?Versions"), "unknown_parameter", "Versions"),
        ("GET", format!("{key}?limit=1"), "unknown_parameter", "limit"),
        ("GET", format!("{key}?cursor=x"), "unknown_parameter", "cursor"),
        ("PUT", format!("{key}?versions"), "unknown_parameter", "versions"),
        ("DELETE", format!("{key}?versions"), "unknown_parameter", "versions"),
    ] {
        let body: &[u8] = if matches!(method, "PUT" | "POST") { b"x" } else { b"" };
        let problem = server.request(method, &target, &[], body).assert_problem(400, code, &target);
        assert_eq!(problem["parameter"], parameter, "{target}");
    }
    let longest = format!("{list}&prefix={}&delimiter={}", "k".repeat(1024), "d".repeat(64));
    assert_eq!(connection.exchange("GET", &longest, &[], b"").status, 200);
    let none = connection.exchange("GET", "/v1/keys/models/acme/none?versions", &[], b"");
    none.assert_problem(404, "not_found", "there is no such key");
    let versions = connection.exchange("GET", &format!("{key}?versions"), &[], b"").json();
    assert_eq!(versions["objects"].as_array().unwrap().len(), 1, "nothing was changed or deleted");
}

#[test]
fn keys_and_versions_are_for_whoever_may_read_them() {
    let server = strict_server(&[]);
    let stored = with_token(&server, &token_of("acme"), "PUT", "/v1/keys/models/acme/k", b"x");
    assert_eq!(stored.status, 201);
    let elsewhere = |namespace: &str| {
        let mut claims = claims("acme", "read");
        claims["namespaces"] = json!([namespace]);
        token(&claims)
    };
    for target in [
        "/v1/keys/models/acme/k?versions",
        "/v1/objects?namespace=models&tenant_id=acme&prefix=",
        "/v1/objects?namespace=models&tenant_id=acme&delimiter=/",
    ] {
        server.get(target).assert_problem(401, "unauthorized", target);
        for refused in [
            token(&claims("acme", "write delete admin")),
            token_of("other"),
            token_of("acm"),
            elsewhere("data"),
        ] {
            let response = with_token(&server, &refused, "GET", target, b"");
            response.assert_problem(403, "forbidden", target);
        }
        for reader in [token(&claims("acme", "read")), token_of("*"), elsewhere("models")] {
            let response = with_token(&server, &reader, "GET", target, b"");
            assert_eq!((response.status, names(&response.json()).0), (200, vec!["k"]), "{target}");
        }
    }
}

#[test]
fn what_one_server_has_acknowledged_any_server_lists() {
    let site = Site::new();
    let (one, two) = (site.start("one", &[]), site.start("two", &[]));
    let (mut one, mut two) = (one.connect(), two.connect());
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        put(writer, &format!("d{n:02}/k"), "x");
        put(writer, "k", &n.to_string());
        let page = listed(reader, "delimiter=/").json();
        let (keys, prefixes) = names(&page);
        assert_eq!((keys, prefixes.len()), (vec!["k"], n + 1));
        let versions = reader.exchange("GET", "/v1/keys/models/acme/k?versions", &[], b"").json();
        assert_eq!(versions["objects"].as_array().unwrap().len(), n + 1);
    }
}
