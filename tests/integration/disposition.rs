//! `?download=`: bytes that a browser keeps as a file (RFC 6266).

use crate::content::etag;
use crate::raw::{Fields, Response};
use crate::server::{SCOPE, Server};

const KEY: &str = "/v1/keys/models/acme/llama/my%20model.bin";

fn disposition(response: &Response) -> Option<&str> {
    assert!(matches!(response.status, 200 | 206), "{response:?}");
    response.header("Content-Disposition")
}

#[test]
fn a_download_is_kept_under_the_name_that_is_asked_for_or_that_of_its_key() {
    let server = Server::start();
    let created = server.request("PUT", KEY, &[], b"0123456789").json();
    let by_id = format!("/v1/objects/{}", created["id"].as_str().unwrap());
    let without_key = server.create(b"x")["id"].as_str().unwrap().to_owned();
    for target in [KEY, &by_id] {
        assert_eq!(disposition(&server.get(target)), None, "nobody has asked for it");
        for (query, plain, extended) in [
            ("download=a.bin", "a.bin", "a.bin"),
            ("download=a+b%2B.bin", "a b+.bin", "a%20b+.bin"),
            ("download=na%C3%AFve%22%25.bin", "na_ve__.bin", "na%C3%AFve%22%25.bin"),
            ("download=", "my model.bin", "my%20model.bin"),
            ("download", "my model.bin", "my%20model.bin"),
        ] {
            let expected = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}");
            let target = format!("{target}?{query}");
            let requests: [(&str, Fields<'_>); 4] = [
                ("GET", &[]),
                ("HEAD", &[]),
                ("GET", &[("Range", "bytes=0-1")]),
                ("GET", &[("Range", "bytes=0-1,4-5")]),
            ];
            for (method, fields) in requests {
                let response = server.request(method, &target, fields, b"");
                assert_eq!(disposition(&response), Some(expected.as_str()), "{method} {target} {fields:?}");
            }
            let unchanged = server.request("GET", &target, &[("If-None-Match", &etag(b"0123456789"))], b"");
            assert_eq!((unchanged.status, unchanged.header("Content-Disposition")), (304, None));
        }
    }
    let response = server.get(&format!("/v1/objects/{without_key}?download"));
    let expected = format!("attachment; filename=\"{without_key}\"; filename*=UTF-8''{without_key}");
    assert_eq!(disposition(&response), Some(expected.as_str()), "it has no key");
}

#[test]
fn a_name_that_is_none_of_a_file_is_refused() {
    let server = Server::start();
    let key = server.request("PUT", KEY, &[], b"x").json();
    let by_id = format!("/v1/objects/{}", key["id"].as_str().unwrap());
    let longest = "%C3%A4".repeat(127) + "n";
    for target in [KEY, &by_id] {
        assert!(disposition(&server.get(&format!("{target}?download={longest}"))).is_some(), "255 bytes");
        for name in [
            ".",
            "..",
            "/",
            "a/b",
            "..%2Fa",
            "a%5Cb",
            "%00",
            "a%0D%0ASet-Cookie:%20a=b",
            "a%0Ab",
            "%7F",
            "%C2%85",
            "%ff",
            "%zz",
            &format!("{longest}n"),
        ] {
            for method in ["GET", "HEAD"] {
                let response = server.request(method, &format!("{target}?download={name}"), &[], b"");
                assert_eq!((response.status, response.header("Set-Cookie")), (400, None), "{method} {name}");
                if method == "GET" {
                    let problem = response.assert_problem(400, "invalid_parameter", name);
                    assert_eq!(problem["parameter"], "download");
                }
            }
        }
        for (query, code, parameter) in [
            ("download=a&download=b", "repeated_parameter", "download"),
            ("download=a&x=1", "unknown_parameter", "x"),
            ("Download=a", "unknown_parameter", "Download"),
        ] {
            let problem = server.get(&format!("{target}?{query}")).assert_problem(400, code, query);
            assert_eq!(problem["parameter"], parameter);
        }
    }
    // It means something for bytes that are read, and nowhere else.
    for (method, target) in [
        ("PUT", KEY.to_owned()),
        ("DELETE", KEY.to_owned()),
        ("DELETE", by_id.clone()),
        ("GET", format!("{by_id}/info")),
        ("POST", format!("/v1/objects?{SCOPE}&")),
        ("GET", format!("/v1/objects?{SCOPE}&")),
    ] {
        let mark = if target.contains('?') { "" } else { "?" };
        let response = server.request(method, &format!("{target}{mark}download=a"), &[], b"");
        let problem = response.assert_problem(400, "unknown_parameter", method);
        assert_eq!(problem["parameter"], "download");
    }
}
