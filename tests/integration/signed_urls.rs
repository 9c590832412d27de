//! Signed URLs: they let others do one thing, for a while, and nothing once a byte of them has changed.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::content::content;
use crate::maintenance::tool_on;
use crate::raw::{Connection, Response};
use crate::server::{SCOPE, Server, wait_until};
use crate::tokens::{SECRET, claims, now, strict_server, token, token_of, with_token};

const URL_SECRET: &str = "a secret that URLs are signed with";
const KEY: &str = "/v1/keys/models/acme/a%20key";
const SEVEN_DAYS: u64 = 7 * 24 * 60 * 60;

fn signing_server(flags: &[&str]) -> Server {
    strict_server(&[&["--url-signing-key", URL_SECRET], flags].concat())
}

/// What a URL is asked for with.
fn order(method: &str, path: &str) -> Value {
    json!({"method": method, "path": path, "expires_in_seconds": 600})
}

fn ask(server: &Server, token: &str, order: &Value) -> Response {
    with_token(server, token, "POST", "/v1/sign", order.to_string().as_bytes())
}

/// A URL for what is asked for, signed by whoever shows the token.
fn sign_as(server: &Server, token: &str, order: &Value) -> String {
    let response = ask(server, token, order);
    assert_eq!(response.status, 200, "{order}: {response:?}");
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    let answer = response.json();
    assert!(moment(&answer["expires_at"]) > SystemTime::now(), "{answer}");
    answer["url"].as_str().unwrap().to_owned()
}

fn sign(server: &Server, method: &str, path: &str) -> String {
    sign_as(server, &token_of("acme"), &order(method, path))
}

/// A moment as answers tell it.
fn moment(text: &Value) -> SystemTime {
    let moment: jiff::Timestamp = text.as_str().unwrap().parse().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_millis(moment.as_millisecond().try_into().unwrap())
}

/// An object of the tenant, which has a key as well.
fn store(server: &Server, body: &[u8]) -> String {
    let response = with_token(server, &token_of("acme"), "PUT", KEY, body);
    assert!(matches!(response.status, 200 | 201), "{response:?}");
    response.json()["id"].as_str().unwrap().to_owned()
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn assert_nothing_kept(server: &Server, case: &str) {
    let operator = token_of("*");
    let list = |query: &str| {
        let response = with_token(server, &operator, "GET", &format!("/v1/objects?{query}"), b"");
        response.json()["objects"].as_array().unwrap().clone()
    };
    server.assert_nothing_kept_of(case, list);
}

#[test]
fn a_url_lets_anybody_do_its_one_thing() {
    let server = signing_server(&[]);
    let id = store(&server, b"ten bytes.");
    for path in [KEY, &format!("/v1/objects/{id}")] {
        let url = sign(&server, "GET", path);
        assert!(url.starts_with(&format!("{path}?signed_method=GET&")), "{url}");
        let whole = server.get(&url);
        assert_eq!((whole.status, &whole.body[..]), (200, &b"ten bytes."[..]));
        assert_eq!(server.request("HEAD", &url, &[], b"").header("Content-Length"), Some("10"));
        let part = server.request("GET", &url, &[("Range", "bytes=4-8")], b"");
        assert_eq!((part.status, &part.body[..]), (206, &b"bytes"[..]));
        let tag = whole.header("ETag").unwrap();
        assert_eq!(server.request("GET", &url, &[("If-None-Match", tag)], b"").status, 304);
        assert_eq!(server.request("GET", &url, &[("If-Match", "\"x\"")], b"").status, 412);
        let absolute = server.url(&url);
        assert_eq!(server.get(&absolute).status, 200, "scheme and host are no part of what is signed");

        let head_alone = sign(&server, "HEAD", path);
        assert_eq!(server.request("HEAD", &head_alone, &[], b"").status, 200);
        server.get(&head_alone).assert_problem(403, "signature_invalid", "HEAD alone");
    }
    let info = server.get(&sign(&server, "GET", &format!("/v1/objects/{id}/info"))).json();
    assert_eq!(info["id"], id.as_str());

    let put = sign(&server, "PUT", "/v1/keys/models/acme/new");
    assert_eq!(server.request("PUT", &put, &[("X-Object-Meta-A", "b")], b"one").status, 201);
    let twice = server.request("PUT", &put, &[("If-None-Match", "*")], b"two");
    twice.assert_problem(412, "precondition_failed", "conditions hold as ever");
    assert_eq!(server.request("PUT", &put, &[], b"two").status, 200);
    let post = sign(&server, "POST", &format!("/v1/objects?{SCOPE}&key=posted+one&storage_class=cold"));
    let created = server.request("POST", &post, &[], b"three");
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!((&created["key"], &created["storage_class"]), (&json!("posted one"), &json!("cold")));

    let delete = sign(&server, "DELETE", &format!("/v1/objects/{}", created["id"].as_str().unwrap()));
    assert_eq!(server.request("DELETE", &delete, &[], b"").status, 204);
    server.request("DELETE", &delete, &[], b"").assert_problem(404, "not_found", "it is gone");
    let delete = sign(&server, "DELETE", "/v1/keys/models/acme/new");
    assert_eq!(server.request("DELETE", &delete, &[], b"").status, 204);
}

#[test]
fn the_name_of_the_file_is_signed_with_the_rest() {
    let server = signing_server(&[]);
    let id = store(&server, b"ten bytes.");
    for path in [KEY, &format!("/v1/objects/{id}")] {
        for (query, name) in [("download=my+model.bin", "my model.bin"), ("download", "a key")] {
            let url = sign(&server, "GET", &format!("{path}?{query}"));
            for method in ["GET", "HEAD"] {
                let response = server.request(method, &url, &[], b"");
                assert_eq!(response.status, 200, "{url}");
                let disposition = response.header("Content-Disposition").unwrap();
                assert!(
                    disposition.starts_with(&format!("attachment; filename=\"{name}\"; ")),
                    "{disposition}"
                );
            }
            let mut connection = server.connect();
            for changed in [
                url.replace("download=", "download=x"),
                url.replace("my%20model.bin", "my+model.bin"),
                url.replace("?download=", "?"),
                url.replace("&signed_method", "&download=x&signed_method"),
                format!("{url}&download=x"),
            ] {
                if changed != url {
                    assert_invalid(&mut connection, "GET", &changed, "another name");
                }
            }
        }
        let plain = sign(&server, "GET", path);
        let named = plain.replace("?signed_method", "?download=x&signed_method");
        assert_invalid(&mut server.connect(), "GET", &named, "no name was signed");
    }
    let order = |method, path: String| ask(&server, &token_of("acme"), &order(method, &path));
    for (method, path) in [
        ("PUT", format!("{KEY}?download=a")),
        ("DELETE", format!("{KEY}?download=a")),
        ("GET", format!("/v1/objects/{id}/info?download=a")),
    ] {
        order(method, path).assert_problem(400, "unknown_parameter", method);
    }
    order("GET", format!("{KEY}?download=a%2Fb")).assert_problem(400, "invalid_parameter", "a slash");
}

/// Every way to change one byte, and many to change more: what was changed, and the target then.
fn tampered(url: &str) -> Vec<(String, String)> {
    let (path, query) = url.split_once('?').unwrap();
    let mut found = Vec::new();
    // Without its first slash, a target is none that a request could have.
    for (index, byte) in url.char_indices().skip(1).filter(|(_, byte)| *byte != '?') {
        let (before, behind) = (&url[..index], &url[index + 1..]);
        let case =
            if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        for other in ['A', '0', '&', '=', '%', '+', case].into_iter().filter(|other| *other != byte) {
            found.push((format!("{index} is {other}"), format!("{before}{other}{behind}")));
        }
        let escaped = format!("{before}%{:02x}{behind}", u32::from(byte));
        found.push((format!("{index} is escaped"), escaped));
        found.push((format!("{index} is left out"), format!("{before}{behind}")));
        found.push((format!("{index} stands twice"), format!("{before}{byte}{byte}{behind}")));
    }
    let pairs: Vec<&str> = query.split('&').collect();
    let with = |pairs: &[&str]| format!("{path}?{}", pairs.join("&"));
    for (index, pair) in pairs.iter().enumerate() {
        let others: Vec<&str> = [&pairs[..index], &pairs[index + 1..]].concat();
        found.push((format!("without {pair}"), with(&others)));
        found.push((format!("{pair} twice"), with(&[&pairs[..], &[pair]].concat())));
        for place in 0..others.len() {
            let mut moved = others.clone();
            moved.insert(place, pair);
            found.extend((moved != pairs).then(|| (format!("{pair} at {place}"), with(&moved))));
        }
        let empty = format!("{}=", pair.split_once('=').unwrap().0);
        let emptied = [&pairs[..index], &[&empty], &pairs[index + 1..]].concat();
        found.push((format!("{pair} is empty"), with(&emptied)));
        // As far as something of it still means to be signed.
        found.push((format!("it ends with {pair}"), with(&pairs[..=index])));
        found.retain(|(_, target)| target != url);
    }
    for own in ["namespace=models", "tenant_id=acme", "x", "signed_size_bytes=1", "signature=x"] {
        found.push((format!("{own} before it"), format!("{path}?{own}&{query}")));
        found.push((format!("{own} behind it"), format!("{url}&{own}")));
    }
    for (from, to) in [
        ("/models/", "/data/"),
        ("/acme/", "/other/"),
        ("a%20key", "a%20ke"),
        ("a%20key", "a+key"),
        ("%20", "%2520"),
        ("/keys/models/acme/a%20key", "/objects"),
        ("=acme", "=other"),
        ("=models", "=data"),
        ("signed_until_ms=", "signed_until_ms=9"),
        ("signed_until_ms=", "signed_until_ms=-"),
    ] {
        found.extend(url.contains(from).then(|| (format!("{from} is {to}"), url.replace(from, to))));
    }
    found
}

fn assert_invalid(connection: &mut Connection, method: &str, target: &str, case: &str) -> Value {
    let response = connection.exchange(method, target, &[], b"");
    let mut problem = response.assert_problem(403, "signature_invalid", &format!("{case}: {target}"));
    assert!(response.header("WWW-Authenticate").is_none());
    let members = problem.as_object_mut().unwrap();
    members.remove("instance");
    members.remove("request_id");
    problem
}

#[test]
fn whatever_is_changed_in_a_url_it_lets_nobody_in() {
    let server = signing_server(&[]);
    let id = store(&server, b"ten bytes.");
    let mut connection = server.connect();
    let mut cases = 0;
    let mut answers = Vec::new();
    for path in [KEY, &format!("/v1/objects/{id}")] {
        let url = sign(&server, "GET", path);
        for (case, target) in tampered(&url) {
            answers.push(assert_invalid(&mut connection, "GET", &target, &case));
            cases += 1;
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            answers.push(assert_invalid(&mut connection, method, &url, method));
        }
        // Without the question mark there is no query, and nobody says who asks.
        let all_path = url.replacen('?', "&", 1);
        assert!(matches!(connection.exchange("GET", &all_path, &[], b"").status, 400 | 401), "{all_path}");
        let fields = [("Authorization", &*format!("Bearer {}", token_of("acme")))];
        let both = connection.exchange("GET", &url, &fields, b"");
        both.assert_problem(400, "repeated_credential", "a credential besides");
        assert_eq!(connection.exchange("GET", &url, &[], b"").status, 200, "it is good itself");
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "nothing tells what was changed");
    assert!(cases > 4000, "{cases}");
}

#[test]
fn what_a_url_does_is_all_that_it_does() {
    let server = signing_server(&[]);
    store(&server, b"kept");
    let mut connection = server.connect();
    let get = sign(&server, "GET", KEY);
    for (method, body) in [("PUT", &b"other"[..]), ("DELETE", b"")] {
        let response = connection.exchange(method, &get, &[], body);
        response.assert_problem(403, "signature_invalid", method);
    }
    let put = sign(&server, "PUT", KEY);
    assert_invalid(&mut connection, "GET", &put, "what may be written is not read");
    assert_invalid(&mut connection, "DELETE", &put, "or deleted");
    let query = get.split_once('?').unwrap().1;
    for target in ["/v1/objects", "/v1/tenants/acme", "/v1/keys/models/acme/other"] {
        assert_invalid(&mut connection, "GET", &format!("{target}?{query}"), "another path");
    }
    let response = connection.exchange("POST", &format!("/v1/sign?{query}"), &[], b"{}");
    response.assert_problem(403, "signature_invalid", "no URL signs another");
    let again =
        with_token(&server, &token_of("acme"), "POST", "/v1/sign", order("GET", &get).to_string().as_bytes());
    again.assert_problem(400, "unknown_parameter", "a URL that is signed already");
    let response = connection.exchange("GET", &format!("/health?{query}"), &[], b"");
    response.assert_problem(400, "unknown_parameter", "where nobody is asked who they are");
    assert_eq!(connection.exchange("GET", &get, &[], b"").body, b"kept");
}

#[test]
fn a_url_is_good_until_its_time_and_no_longer() {
    let server = signing_server(&[]);
    store(&server, b"body");
    let brief = json!({"method": "GET", "path": KEY, "expires_in_seconds": 1});
    let answer = ask(&server, &token_of("acme"), &brief).json();
    let (ends, url) = (moment(&answer["expires_at"]), answer["url"].as_str().unwrap());
    let mut connection = server.connect();
    wait_until("its end", || {
        let asked = SystemTime::now();
        let response = connection.exchange("GET", url, &[], b"");
        match response.status {
            200 => assert!(asked < ends, "it was let in after its end"),
            _ => {
                response.assert_problem(403, "signature_expired", "its end");
                assert!(SystemTime::now() >= ends, "it was refused before its end");
            }
        }
        (response.status != 200).then_some(())
    });
    let late = url.replace("signature=", "signature=x");
    assert_invalid(&mut connection, "GET", &late, "that one is over is told of what was signed alone");

    for (seconds, status) in [(0, 400), (1, 200), (SEVEN_DAYS, 200), (SEVEN_DAYS + 1, 400)] {
        let order = json!({"method": "GET", "path": KEY, "expires_in_seconds": seconds});
        let mut long = claims("acme", "read");
        long["exp"] = json!(now() + 2 * SEVEN_DAYS);
        let before = SystemTime::now();
        let response = ask(&server, &token(&long), &order);
        assert_eq!(response.status, status, "{seconds}: {response:?}");
        if status == 200 {
            let answer = response.json();
            let until = |from: SystemTime| from + Duration::from_secs(seconds);
            let times = until(before) - Duration::from_millis(1)..=until(SystemTime::now());
            // Times are told in whole milliseconds.
            assert!(times.contains(&moment(&answer["expires_at"])), "{answer}");
            assert_eq!(server.get(answer["url"].as_str().unwrap()).status, 200);
        }
    }
}

#[test]
fn a_url_grants_no_more_than_its_signer_has() {
    let server = signing_server(&[]);
    let id = store(&server, b"body");
    let by_id = format!("/v1/objects/{id}");
    let nowhere = "/v1/objects/0193a5c0-0000-7000-8000-000000000000";
    let narrow = |namespaces: &[&str]| {
        let mut claims = claims("acme", "read write delete");
        claims["namespaces"] = json!(namespaces);
        token(&claims)
    };
    let post = format!("/v1/objects?{SCOPE}");
    for (signer, scope, method, path, status, code) in [
        ("acme", "read", "GET", KEY, 200, ""),
        ("acme", "read", "HEAD", &*by_id, 200, ""),
        ("acme", "write delete admin", "GET", KEY, 403, "forbidden"),
        ("acme", "read", "PUT", KEY, 403, "forbidden"),
        ("acme", "read write", "DELETE", &*by_id, 403, "forbidden"),
        ("acme", "read delete", "POST", &*post, 403, "forbidden"),
        ("other", "read", "GET", KEY, 403, "forbidden"),
        ("other", "write", "POST", &*post, 403, "forbidden"),
        ("other", "read", "GET", &*by_id, 404, "not_found"),
        ("acme", "read", "GET", nowhere, 404, "not_found"),
        ("*", "read", "GET", &*by_id, 200, ""),
    ] {
        let case = format!("{signer} {scope}: {method} {path}");
        let response = ask(&server, &token(&claims(signer, scope)), &order(method, path));
        match status {
            200 => assert_eq!(response.status, 200, "{case}: {response:?}"),
            _ => drop(response.assert_problem(status, code, &case)),
        }
    }
    let own = sign_as(&server, &narrow(&["models"]), &order("GET", &by_id));
    assert_eq!(server.get(&own).body, b"body");
    let response = ask(&server, &narrow(&["data"]), &order("GET", &by_id));
    response.assert_problem(404, "not_found", "an id in a namespace out of reach");
    let response = ask(&server, &narrow(&["data"]), &order("PUT", KEY));
    response.assert_problem(403, "forbidden", "a key in a namespace out of reach");
    // What a foreign id is answered with is what one is that does not exist.
    let (foreign, absent) = (order("GET", &by_id), order("GET", nowhere));
    let told = |order: &Value| {
        let mut problem = ask(&server, &token_of("other"), order).json();
        problem["request_id"] = Value::Null;
        problem
    };
    assert_eq!(told(&foreign), told(&absent));

    let mut ending = claims("acme", "read");
    let ends = now() + 60;
    ending["exp"] = json!(ends);
    let answer = ask(&server, &token(&ending), &order("GET", KEY)).json();
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
    assert_eq!(moment(&answer["expires_at"]), ends, "it ends with the token");
    ending["exp"] = json!(now() - 10);
    assert_eq!(with_token(&server, &token(&ending), "GET", KEY, b"").status, 200, "clocks may differ");
    let response = ask(&server, &token(&ending), &order("GET", KEY));
    response.assert_problem(401, "invalid_token", "what has ended by its own word signs nothing");
    let response = server.request("POST", "/v1/sign", &[], order("GET", KEY).to_string().as_bytes());
    response.assert_problem(401, "unauthorized", "nobody");
}

#[test]
fn a_url_dies_with_the_key_that_signed_it() {
    let server = signing_server(&[]);
    let directory = server.directory();
    store(&server, b"body");
    let create = |flags: &[&str]| -> Value {
        let flags =
            [&["key", "create", "--json", "--tenant", "acme", "--scope", "read,write"], flags].concat();
        serde_json::from_str(&tool_on(directory.path(), None, &flags).assert_code(0)).unwrap()
    };
    let sign_with = |made: &Value, method: &str| {
        let order = order(method, KEY).to_string();
        let fields = [("X-API-Key", made["key"].as_str().unwrap())];
        let response = server.request("POST", "/v1/sign", &fields, order.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    };
    let (revoked, lasting) = (create(&[]), create(&[]));
    let url = |answer: &Value| answer["url"].as_str().unwrap().to_owned();
    let (get, put) = (url(&sign_with(&revoked, "GET")), url(&sign_with(&revoked, "PUT")));
    let others = url(&sign_with(&lasting, "GET"));
    assert_eq!(server.get(&get).body, b"body");
    assert_eq!(server.request("PUT", &put, &[], b"body").status, 200);
    tool_on(directory.path(), None, &["key", "revoke", revoked["id"].as_str().unwrap()]).assert_code(0);
    let mut connection = server.connect();
    // Going on with it does not keep it alive.
    wait_until("the end of a revoked key", || {
        let response = connection.exchange("GET", &get, &[], b"");
        (response.status != 200).then(|| response.assert_problem(403, "signer_not_permitted", "its URL"))
    });
    wait_until("the same for what it wrote", || {
        let response = server.request("PUT", &put, &[], b"more");
        (response.status != 200).then(|| response.assert_problem(403, "signer_not_permitted", "its URL"))
    });
    assert_eq!(server.get(&others).status, 200, "another key's goes on");

    let brief = create(&["--expires-in", "3s"]);
    let answer = sign_with(&brief, "GET");
    assert_eq!(answer["expires_at"], brief["expires_at"], "no longer than the key itself");
    wait_until("the end of a key", || {
        let status = server.get(&url(&answer)).status;
        assert!(matches!(status, 200 | 403));
        (status == 403).then_some(())
    });
}

#[test]
fn secrets_and_keys_are_changed_one_after_the_other() {
    const NEXT: &str = "another secret that URLs are signed with";
    const NEXT_TOKENS: &str = "a secret of thirty-two bytes: 02";
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let (secrets, tokens) = (directory.path().join("urls"), directory.path().join("tokens"));
    let started = |url_secrets: &[&str], token_secrets: &[&str]| {
        fs::write(&secrets, url_secrets.join("\n")).unwrap();
        fs::write(&tokens, token_secrets.join("\n")).unwrap();
        let (secrets, tokens) = (secrets.to_str().unwrap(), tokens.to_str().unwrap());
        let flags = ["--auth-mode=required", "--url-signing-key-file", secrets, "--jwt-secret-file", tokens];
        Server::start_on(&directory, &flags)
    };
    let server = started(&[URL_SECRET], &[SECRET]);
    store(&server, b"body");
    let old = sign(&server, "GET", KEY);
    server.stop();
    let server = started(&[NEXT, URL_SECRET], &[SECRET]);
    let new = sign(&server, "GET", KEY);
    assert_eq!((server.get(&old).status, server.get(&new).status), (200, 200));
    server.stop();
    let server = started(&[NEXT], &[NEXT_TOKENS, SECRET]);
    assert_eq!(server.get(&new).status, 200, "another key for tokens besides changes nothing");
    server.get(&old).assert_problem(403, "signature_invalid", "its secret is gone");
    server.stop();
    let server = started(&[NEXT], &[NEXT_TOKENS]);
    server.get(&new).assert_problem(403, "signature_invalid", "the key of its signer's token is gone");
}

#[test]
fn an_upload_is_held_to_its_size_and_its_digest() {
    for body in [b"five!".to_vec(), content(3, 300_000)] {
        let server = signing_server(&[]);
        let bound = |size: Option<u64>, digest: Option<String>, path: &str, method: &str| {
            let mut order = order(method, path);
            (order["size_bytes"], order["digest"]) = (json!(size), json!(digest));
            sign_as(&server, &token_of("acme"), &order)
        };
        let size = body.len() as u64;
        let mut other = body.clone();
        other[0] ^= 1;
        let post = format!("/v1/objects?{SCOPE}");
        for (method, path) in [("PUT", KEY), ("POST", post.as_str())] {
            let sized = bound(Some(size), None, path, method);
            for wrong in [&body[1..], &[&body[..], b"x"].concat(), b""] {
                let response = server.request(method, &sized, &[], wrong);
                response.assert_problem(403, "signed_size_mismatch", "another size");
            }
            let chunked = [("Transfer-Encoding", "chunked")];
            let response = server.request(method, &sized, &chunked, b"5\r\nfive!\r\n0\r\n\r\n");
            response.assert_problem(403, "signed_size_mismatch", "a size that is not said");
            let mut asking = server.connect();
            asking.send(format!(
                "{method} {sized} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                size + 1
            ));
            let response = asking.response();
            assert_eq!((response.status, &response.interim[..]), (403, &[][..]), "it is not asked for");

            let both = bound(Some(size), Some(digest(&body)), path, method);
            let digest_alone = bound(None, Some(digest(&body)), path, method);
            for url in [&both, &digest_alone] {
                let response = server.request(method, url, &[], &other);
                response.assert_problem(400, "digest_mismatch", "another content");
                let declared = [("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")];
                let response = server.request(method, url, &declared, &body);
                response.assert_problem(400, "digest_mismatch", "another digest");
            }
            let response = server.request(method, &digest_alone, &chunked, b"5\r\nother\r\n0\r\n\r\n");
            response.assert_problem(400, "digest_mismatch", "another content in chunks");
            for url in
                [&both.replace(&format!("={size}&"), "=1&"), &both.replace(&digest(&body), &digest(&other))]
            {
                let response = server.request(method, url, &[], &other);
                response.assert_problem(403, "signature_invalid", "terms of one's own");
            }
        }
        assert_nothing_kept(&server, "none of these");
        for (method, path) in [("PUT", KEY), ("POST", post.as_str())] {
            let both = bound(Some(size), Some(digest(&body)), path, method);
            assert_eq!(server.request(method, &both, &[], &body).status, 201);
        }
        for (member, value) in [("size_bytes", json!(1)), ("digest", json!(digest(b"")))] {
            let mut order = order("GET", KEY);
            order[member] = value;
            let problem = ask(&server, &token_of("acme"), &order);
            let problem = problem.assert_problem(400, "invalid_parameter", "a download has none");
            assert_eq!(problem["parameter"], member);
        }
    }
}

#[test]
fn where_nothing_is_signed_with_nothing_is_signed_or_let_in() {
    let signing = signing_server(&[]);
    let id = store(&signing, b"body");
    let url = sign(&signing, "GET", KEY);
    let without = strict_server(&[]);
    let order = order("GET", &format!("/v1/objects/{id}"));
    ask(&without, &token_of("acme"), &order).assert_problem(501, "no_signing_key", "no secret");
    without.get(&url).assert_problem(403, "signature_invalid", "no secret");
    let open = Server::start();
    let response = open.request("POST", "/v1/sign", &[], order.to_string().as_bytes());
    response.assert_problem(501, "no_signing_key", "nobody is asked for credentials");
    open.get(&url).assert_problem(400, "unknown_parameter", "nobody is asked for credentials");
}

#[test]
fn an_order_that_is_none_is_refused() {
    let server = signing_server(&[]);
    let token = token_of("acme");
    let refused = |body: &[u8]| with_token(&server, &token, "POST", "/v1/sign", body);
    refused(b"{}").assert_problem(400, "invalid_sign_request", "nothing in it");
    refused(br#"{"method":"GET","path":"/v1/keys/models/acme/k","expires_in_seconds":1,"x":1}"#)
        .assert_problem(400, "invalid_sign_request", "an unknown member");
    let mut longest = order("GET", "/v1/keys/models/acme/").to_string().into_bytes();
    longest.resize(8 * 1024, b' ');
    refused(&longest).assert_problem(400, "invalid_parameter", "it is read whole");
    longest.push(b' ');
    refused(&longest).assert_problem(413, "body_too_large", "over the limit");
    let response = with_token(&server, &token, "POST", "/v1/sign?x=1", b"{}");
    response.assert_problem(400, "unknown_parameter", "a parameter");
    let key = "k".repeat(1024);
    let url = sign(&server, "GET", &format!("/v1/keys/models/acme/{key}"));
    server.get(&url).assert_problem(404, "not_found", "the longest key");
}

#[test]
fn neither_signatures_nor_secrets_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit.log");
    let flags = ["--log-level", "trace", "--audit-log-file", audit.to_str().unwrap()];
    let server = signing_server(&flags);
    store(&server, b"body");
    let url = sign(&server, "GET", KEY);
    let signature = url.rsplit_once("signature=").unwrap().1;
    let mut told = Vec::new();
    for (method, target) in [
        ("GET", url.clone()),
        ("PUT", url.clone()),
        ("PATCH", url.clone()),
        ("GET", url.replace("acme", "other")),
        ("GET", url.replace('?', "%3F")),
        ("GET", url.replace('?', "%3F").replace('=', "%3D")),
        ("GET", format!("{url}&x")),
        ("GET", format!("/health?{}", url.split_once('?').unwrap().1)),
    ] {
        let response = server.request(method, &target, &[("X-Request-Id", "of-this-test")], b"");
        told.push(format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body)));
    }
    let both = [("X-API-Key", "jsk_x")];
    told.push(String::from_utf8_lossy(&server.request("GET", &url, &both, b"").body).into_owned());
    let (_, lines) = server.stop();
    let of_requests = lines.iter().filter(|line| line.contains("of-this-test"));
    assert_eq!(of_requests.count(), 8);
    let shown = lines.iter().find(|line| line.contains("of-this-test") && line.contains("\"status\":200"));
    assert!(shown.unwrap().contains(r#""credential":"url:jwt:tester","tenant_id":"acme""#), "{shown:?}");
    let audited = std::fs::read_to_string(&audit).unwrap();
    assert!(audited.matches("of-this-test").count() >= 4, "{audited}");
    for line in lines.iter().chain(&told).chain([&audited]) {
        assert!(!line.contains(signature) && !line.contains(URL_SECRET), "{line}");
    }
}
