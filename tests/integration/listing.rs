//! `GET /v1/objects`: newest first, page by page, and nothing of anybody else's.

use serde_json::{Value, json};

use crate::server::{SCOPE, Server};

fn ids(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["id"].as_str().expect("an object has an id")).collect()
}

fn create(server: &Server, query: &str, body: &str) -> Value {
    let response = server.request("POST", &format!("/v1/objects?{query}"), &[], body.as_bytes());
    assert_eq!(response.status, 201, "{response:?}");
    response.json()
}

#[test]
fn objects_are_listed_newest_first_and_as_they_were_answered() {
    let server = Server::start();
    assert_eq!(server.get(&format!("/v1/objects?{SCOPE}")).json()["objects"], json!([]));
    let mut created: Vec<Value> =
        (0..5).map(|n| create(&server, &format!("{SCOPE}&key=k{n}"), &format!("{n}"))).collect();
    created.reverse();
    let response = server.get(&format!("/v1/objects?{SCOPE}"));
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    let expected = json!({"objects": created, "common_prefixes": [], "next_cursor": null});
    assert_eq!(response.json(), expected);
    assert_eq!(response.header("Link"), None, "there is no next page");
}

#[test]
fn pages_follow_each_other_through_cursor_and_link_without_gap_or_repeat() {
    let server = Server::start();
    let mut created: Vec<Value> = (0..7).map(|n| create(&server, SCOPE, &format!("{n}"))).collect();
    created.reverse();
    for limit in [1, 2, 3, 6, 7, 8, 1000] {
        let mut seen = Vec::new();
        let mut target = format!("/v1/objects?{SCOPE}&limit={limit}");
        loop {
            let response = server.get(&target);
            let page = response.json();
            let objects = page["objects"].as_array().unwrap();
            assert!(objects.len() <= limit);
            seen.extend(objects.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else {
                assert_eq!(response.header("Link"), None);
                break;
            };
            assert_eq!(objects.len(), limit, "a page that has a next one is full");
            // RFC 8288 §3: the target in angle brackets, the relation behind it.
            let link = response.header("Link").unwrap();
            let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
            assert!(next.contains(&format!("cursor={cursor}")), "{link}");
            target = next.to_owned();
        }
        assert_eq!(seen, created, "limit={limit}");
    }
}

#[test]
fn what_comes_and_goes_between_two_pages_moves_nothing_else() {
    let server = Server::start();
    let created: Vec<Value> = (0..6).map(|n| create(&server, SCOPE, &format!("{n}"))).collect();
    let first = server.get(&format!("/v1/objects?{SCOPE}&limit=2")).json();
    assert_eq!(ids(first["objects"].as_array().unwrap()), [&created[5]["id"], &created[4]["id"]]);
    // One of the first page goes, one of the second goes, and a new one comes.
    for gone in [&created[4], &created[3]] {
        let target = format!("/v1/objects/{}", gone["id"].as_str().unwrap());
        assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);
    }
    create(&server, SCOPE, "new");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = server.get(&format!("/v1/objects?{SCOPE}&limit=2&cursor={cursor}")).json();
    assert_eq!(ids(second["objects"].as_array().unwrap()), [&created[2]["id"], &created[1]["id"]]);
}

#[test]
fn a_cursor_serves_its_own_query_with_any_limit_and_no_other_query() {
    let server = Server::start();
    let created: Vec<Value> = (0..3).map(|n| create(&server, SCOPE, &format!("{n}"))).collect();
    let first = server.get(&format!("/v1/objects?{SCOPE}&limit=1")).json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/objects?{SCOPE}&limit=9&cursor={cursor}")).json();
    assert_eq!(ids(rest["objects"].as_array().unwrap()), [&created[1]["id"], &created[0]["id"]]);

    let middle = cursor.len() / 2;
    let flipped = if &cursor[middle..=middle] == "A" { "B" } else { "A" };
    let changed = format!("{}{flipped}{}", &cursor[..middle + 3], &cursor[middle + 4..]);
    for query in [
        format!("namespace=models&tenant_id=other&cursor={cursor}"),
        format!("namespace=other&tenant_id=acme&cursor={cursor}"),
        format!("{SCOPE}&status=DELETED&cursor={cursor}"),
        format!("{SCOPE}&storage_class=hot&cursor={cursor}"),
        format!("{SCOPE}&cursor="),
        format!("{SCOPE}&cursor=x"),
        format!("{SCOPE}&cursor={}", &cursor[1..]),
        format!("{SCOPE}&cursor={cursor}{cursor}"),
        format!("{SCOPE}&cursor={}", "A".repeat(22)),
        format!("{SCOPE}&cursor={changed}"),
    ] {
        let response = server.get(&format!("/v1/objects?{query}"));
        let problem = response.assert_problem(400, "invalid_cursor", &query);
        assert_eq!(problem["parameter"], "cursor");
    }
}

#[test]
fn storage_class_and_status_choose_what_is_listed() {
    let server = Server::start();
    let hot = create(&server, SCOPE, "1");
    let cold = create(&server, &format!("{SCOPE}&storage_class=cold"), "2");
    let gone = create(&server, &format!("{SCOPE}&storage_class=cold"), "3");
    let target = format!("/v1/objects/{}", gone["id"].as_str().unwrap());
    assert_eq!(server.request("DELETE", &target, &[], b"").status, 204);

    for (filter, expected) in [
        ("", vec![&cold, &hot]),
        ("&status=COMMITTED", vec![&cold, &hot]),
        ("&storage_class=hot", vec![&hot]),
        ("&storage_class=cold", vec![&cold]),
        ("&storage_class=hot&status=DELETED", vec![]),
        ("&status=WRITING", vec![]),
    ] {
        let listed = server.list(&format!("{SCOPE}{filter}"));
        assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "{filter}");
    }
    let deleted = server.list(&format!("{SCOPE}&storage_class=cold&status=DELETED"));
    assert_eq!((ids(&deleted), &deleted[0]["status"]), (ids(&[gone]), &json!("DELETED")));
}

#[test]
fn nothing_of_another_tenant_or_namespace_is_listed() {
    let server = Server::start();
    let own = create(&server, SCOPE, "1");
    create(&server, "namespace=models&tenant_id=other", "2");
    create(&server, "namespace=other&tenant_id=acme", "3");
    create(&server, "namespace=models&tenant_id=acme.", "4");
    create(&server, "namespace=models&tenant_id=ACME", "5");
    assert_eq!(server.list(SCOPE), [own]);
    assert!(server.list("namespace=models&tenant_id=nobody").is_empty());
}

#[test]
fn a_page_has_100_objects_where_no_limit_is_given() {
    let server = Server::start();
    let mut connection = server.connect();
    for n in 0..101 {
        let target = format!("/v1/objects?{SCOPE}");
        let response = connection.exchange("POST", &target, &[], format!("{n}").as_bytes());
        assert_eq!(response.status, 201);
    }
    let page = connection.exchange("GET", &format!("/v1/objects?{SCOPE}"), &[], b"").json();
    assert_eq!(page["objects"].as_array().unwrap().len(), 100);
    assert!(page["next_cursor"].is_string());
    assert_eq!(server.list(SCOPE).len(), 101);
}

#[test]
fn head_of_a_listing_is_its_head_alone() {
    let server = Server::start();
    create(&server, SCOPE, "1");
    let get = server.get(&format!("/v1/objects?{SCOPE}"));
    let head = server.request("HEAD", &format!("/v1/objects?{SCOPE}"), &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("Content-Length"), get.header("Content-Length"));
}
