//! Metrics: what they count, how they read, and who is told them.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::raw::Connection;
use crate::server::{SCOPE, Server, wait_until};
use crate::tokens::{claims, strict_server, token, token_of};

/// The text, which has to be well-formed in every respect.
fn scrape(connection: &mut Connection, fields: &[(&str, &str)]) -> String {
    let response = connection.exchange("GET", "/metrics", fields, b"");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(response.body).unwrap();
    assert_well_formed(&text);
    text
}

/// A sample: its labels, and its value behind them.
fn samples<'t>(text: &'t str, name: &str) -> Vec<(&'t str, f64)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let samples = lines.filter_map(|rest| match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once("} "),
        None => rest.strip_prefix(' ').map(|value| ("", value)),
    });
    samples.map(|(labels, value)| (labels, value.parse().unwrap())).collect()
}

/// The value of one sample.
fn value(text: &str, name: &str, labels: &str) -> f64 {
    let samples = samples(text, name);
    let found = samples.iter().find(|(told, _)| *told == labels);
    found.unwrap_or_else(|| panic!("{name}{{{labels}}} is not among {samples:?}")).1
}

/// Reads the text more strictly than Prometheus does, and holds it to what `promtool check metrics` asks for.
fn assert_well_formed(text: &str) {
    let (mut families, mut family, mut seen) = (HashSet::new(), ("", ""), HashSet::new());
    let mut buckets: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect(line);
            assert!(families.insert(name), "{line}: told twice");
            assert!(words.ends_with('.') && !words.contains('\\'), "{line}");
            help = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').expect(line);
            assert_eq!(help.take(), Some(family.0), "{line}: help comes first");
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(family.0.chars().all(word), "{line}");
            assert!(["counter", "gauge", "histogram", "untyped"].contains(&family.1), "{line}");
            let is_total = family.0.ends_with("_total");
            assert!(family.1 == "untyped" || is_total == (family.1 == "counter"), "{line}");
        } else {
            let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} stands in {family:?}"));
            let suffixes: &[&str] =
                if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            let (labels, number) = rest.rsplit_once(' ').expect(line);
            let number: f64 = number.parse().expect(line);
            assert!(number >= 0.0, "{line}");
            assert!(seen.insert((name, labels)), "{line}: told twice");
            let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
            assert!(labels.is_empty() || inner.is_some_and(are_labels), "{line}");
            if suffix == "_bucket" {
                let (others, _) = labels.rsplit_once("le=").expect(line);
                let others = others.trim_end_matches([',', '{']);
                let of_series = buckets.entry(format!("{}{others}", family.0)).or_default();
                assert!(of_series.last().is_none_or(|before| *before <= number), "{line}");
                of_series.push(number);
            } else if suffix == "_count" {
                let series = format!("{}{}", family.0, labels.trim_end_matches('}'));
                assert_eq!(buckets[&series].last(), Some(&number), "{line}: the last bucket has all");
            }
        }
    }
    assert!(text.ends_with('\n'));
}

/// Names, each with a value in quotes.
fn are_labels(text: &str) -> bool {
    text.split("\",").all(|label| {
        let Some((name, value)) = label.split_once("=\"") else { return false };
        let value = value.trim_end_matches('"');
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && !value.contains('"')
    })
}

#[test]
fn a_known_set_of_requests_is_counted_exactly() {
    let server = Server::start_with(&["--cores", "2"]);
    let mut connections: Vec<_> = (0..4).map(|_| server.connect()).collect();
    let target = |number: usize| format!("/v1/keys/models/acme/{number}");
    for (number, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.exchange("PUT", &target(number), &[], b"0123456789").status, 201);
        assert_eq!(connection.exchange("GET", &target(number), &[], b"").status, 200);
        assert_eq!(connection.exchange("GET", "/v1/keys/models/acme/none", &[], b"").status, 404);
        assert_eq!(connection.exchange("GET", "/v1/keys/imagined/acme/none", &[], b"").status, 404);
        assert_eq!(connection.exchange("GET", "/v1/objects/1", &[], b"").status, 400);
    }
    assert_eq!(connections[0].exchange("GET", &target(1), &[("Range", "bytes=2-4")], b"").status, 206);
    assert_eq!(connections[0].exchange("HEAD", &target(1), &[], b"").status, 200);
    assert_eq!(connections[0].exchange("DELETE", &target(1), &[], b"").status, 204);
    let created = connections[0].exchange("POST", &format!("/v1/objects?{SCOPE}"), &[], &[7; 100_000]);
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(connections[1].exchange("GET", &format!("/v1/objects/{id}"), &[], b"").status, 200);

    // What another core has answered it may count a moment after the client has all of it.
    let text = wait_until("all of it is counted", || {
        let text = scrape(&mut connections[0], &[]);
        let read = r#"method="GET",status="200",namespace="models""#;
        (value(&text, "activestorage_requests_total", read) >= 5.0).then_some(text)
    });
    for (labels, count) in [
        (r#"method="PUT",status="201",namespace="models""#, 4.0),
        (r#"method="GET",status="200",namespace="models""#, 5.0),
        (r#"method="GET",status="206",namespace="models""#, 1.0),
        (r#"method="GET",status="404",namespace="models""#, 4.0),
        (r#"method="GET",status="404",namespace="other""#, 4.0),
        (r#"method="GET",status="400",namespace="""#, 4.0),
        (r#"method="HEAD",status="200",namespace="models""#, 1.0),
        (r#"method="DELETE",status="204",namespace="models""#, 1.0),
        (r#"method="POST",status="201",namespace="models""#, 1.0),
    ] {
        assert_eq!(value(&text, "activestorage_requests_total", labels), count, "{labels}");
    }
    assert_eq!(samples(&text, "activestorage_requests_total").len(), 9, "and nothing else: {text}");
    let durations = "activestorage_request_duration_seconds_count";
    assert_eq!(value(&text, durations, r#"method="GET",namespace="models""#), 10.0);
    assert_eq!(value(&text, "activestorage_errors_total", r#"code="not_found""#), 8.0);
    assert_eq!(value(&text, "activestorage_errors_total", r#"code="invalid_parameter""#), 4.0);
    let models = r#"namespace="models""#;
    assert_eq!(value(&text, "activestorage_request_body_bytes_total", models), 100_040.0);
    // Its own answers are JSON, and so are those to what is not there.
    assert!(value(&text, "activestorage_response_body_bytes_total", models) > 100_043.0);
    assert_eq!(value(&text, "activestorage_connections", ""), 4.0);
    assert_eq!(value(&text, "activestorage_connections_accepted_total", ""), 4.0);
    assert_eq!(value(&text, "activestorage_requests_in_flight", ""), 1.0, "this one");
    // The large object has a file; each change is in the log.
    let syncs = |kind: &str| {
        let labels = format!(r#"storage_class="hot",kind="{kind}""#);
        value(&text, "activestorage_sync_duration_seconds_count", &labels)
    };
    assert_eq!(syncs("file"), 1.0);
    let records = value(&text, "activestorage_log_batch_records_sum", r#"storage_class="hot""#);
    assert!((6.0..=8.0).contains(&records), "{records}");
    assert!(syncs("log") >= 1.0 && syncs("log") <= records);
    let (hits, misses) = (
        value(&text, "activestorage_cache_hits_total", ""),
        value(&text, "activestorage_cache_misses_total", ""),
    );
    assert_eq!(hits + misses, 15.0, "every look at an object");
    assert!(value(&text, "activestorage_build_info", samples(&text, "activestorage_build_info")[0].0) == 1.0);
    assert_eq!(value(&text, "activestorage_root_read_only", r#"storage_class="hot""#), 0.0);
}

#[test]
fn objects_are_counted_once_somebody_asks() {
    for ack in ["log", "database"] {
        let server = Server::start_with(&["--ack", ack]);
        let mut connection = server.connect();
        for (namespace, tenant, length) in
            [("models", "acme", 10), ("models", "acme", 20), ("data", "other", 30)]
        {
            let target = format!("/v1/objects?namespace={namespace}&tenant_id={tenant}");
            assert_eq!(connection.exchange("POST", &target, &[], &vec![7; length]).status, 201);
        }
        let cold = format!("/v1/objects?{SCOPE}&storage_class=cold");
        assert_eq!(connection.exchange("POST", &cold, &[], &[7; 40]).status, 201);
        let text = wait_until("objects to be counted", || {
            let text = scrape(&mut connection, &[]);
            (!samples(&text, "activestorage_objects_total").is_empty()).then_some(text)
        });
        let objects = "activestorage_objects_total";
        assert_eq!(value(&text, objects, r#"namespace="models",tenant="acme",status="COMMITTED""#), 3.0);
        assert_eq!(value(&text, objects, r#"namespace="data",tenant="other",status="COMMITTED""#), 1.0);
        let bytes = "activestorage_storage_bytes";
        assert_eq!(value(&text, bytes, r#"storage_class="hot",namespace="models""#), 30.0);
        assert_eq!(value(&text, bytes, r#"storage_class="cold",namespace="models""#), 40.0);
        assert!(value(&text, "activestorage_objects_counted_timestamp_seconds", "") > 1e9);
        let free = value(&text, "activestorage_root_free_bytes", r#"storage_class="hot""#);
        assert!(
            free > 0.0 && free <= value(&text, "activestorage_root_size_bytes", r#"storage_class="hot""#)
        );
    }
}

#[test]
fn namespaces_past_the_bound_are_told_as_others() {
    let server = Server::start();
    let mut connection = server.connect();
    for number in 0..70 {
        assert_eq!(connection.exchange("PUT", &format!("/v1/keys/n{number}/acme/k"), &[], b"x").status, 201);
    }
    let text = scrape(&mut connection, &[]);
    assert_eq!(samples(&text, "activestorage_requests_total").len(), 65);
    let other = r#"method="PUT",status="201",namespace="other""#;
    assert_eq!(value(&text, "activestorage_requests_total", other), 6.0);
}

#[test]
fn what_is_under_way_is_told() {
    let server = Server::start();
    let (mut upload, mut connection) = (server.connect(), server.connect());
    upload.send("PUT /v1/keys/models/acme/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12");
    wait_until("the upload to be seen", || {
        let text = scrape(&mut connection, &[]);
        (value(&text, "activestorage_uploads_in_flight", "") == 1.0).then_some(())
    });
    upload.send("345");
    assert_eq!(upload.response().status, 201);
    drop(upload);
    wait_until("its end to be seen", || {
        let text = scrape(&mut connection, &[]);
        let now = |name| value(&text, name, "");
        (now("activestorage_uploads_in_flight") == 0.0 && now("activestorage_connections") == 1.0)
            .then_some(())
    });
}

#[test]
fn an_admin_is_told_and_names_are_for_whoever_reaches_everything() {
    let server = strict_server(&[]);
    let mut connection = server.connect();
    let field = |token: &str| format!("Bearer {token}");
    let operator = field(&token_of("*"));
    let put = connection.exchange("PUT", "/v1/keys/models/acme/k", &[("Authorization", &operator)], b"body");
    assert_eq!(put.status, 201);
    connection.exchange("GET", "/metrics", &[], b"").assert_problem(401, "unauthorized", "nobody");
    let reader = field(&token(&claims("*", "read write delete")));
    connection.exchange("GET", "/metrics", &[("Authorization", &reader)], b"").assert_problem(
        403,
        "forbidden",
        "without the scope",
    );
    let counted = |connection: &mut Connection, field: &str| {
        wait_until("objects to be counted", || {
            let text = scrape(connection, &[("Authorization", field)]);
            (!samples(&text, "activestorage_objects_total").is_empty()).then_some(text)
        })
    };
    let text = counted(&mut connection, &operator);
    assert!(text.contains(r#"namespace="models""#) && text.contains(r#"tenant="acme""#));
    let mut elsewhere = claims("*", "admin");
    elsewhere["namespaces"] = serde_json::json!(["data"]);
    for token in [token(&claims("acme", "admin")), token(&elsewhere)] {
        let text = counted(&mut connection, &field(&token));
        assert!(!text.contains("models") && !text.contains("acme"), "{text}");
        let all = r#"namespace="other",tenant="other",status="COMMITTED""#;
        assert_eq!(value(&text, "activestorage_objects_total", all), 1.0);
    }
}

/// Where the listener for metrics is.
fn metrics_address(server: &mut Server) -> SocketAddr {
    let line = server.wait_for_line("the address of metrics", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("metrics are at"))
    });
    line["address"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_listener_of_their_own_tells_metrics_to_anybody_and_nothing_else() {
    let mut server = strict_server(&["--metrics-addr", "127.0.0.1:0"]);
    let address = metrics_address(&mut server);
    let mut connection = Connection::open(address);
    let text = scrape(&mut connection, &[]);
    assert_eq!(value(&text, "activestorage_connections", ""), 0.0, "those of its own are apart");
    assert_eq!(connection.exchange("HEAD", "/metrics", &[], b"").status, 200);
    assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
    for target in ["/", "/health/ready", "/v1/keys/models/acme/k", "/v1/tenants/acme", "/nothing"] {
        let field = format!("Bearer {}", token_of("*"));
        let response = connection.exchange("GET", target, &[("Authorization", &field)], b"");
        response.assert_problem(404, "no_route", target);
    }
    connection.exchange("PUT", "/v1/keys/models/acme/k", &[], b"body").assert_problem(
        404,
        "no_route",
        "an upload",
    );
    connection.exchange("POST", "/metrics", &[], b"").assert_problem(405, "method_not_allowed", "POST");
    server.get("/metrics").assert_problem(401, "unauthorized", "the other listener");
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn metrics_are_told_when_all_connections_are_taken() {
    let mut server =
        Server::start_with(&["--connections-max", "1", "--cores", "1", "--metrics-addr", "127.0.0.1:0"]);
    let address = metrics_address(&mut server);
    let mut taken = server.connect();
    assert_eq!(taken.exchange("GET", "/health", &[], b"").status, 200);
    assert_eq!(server.connect().response().status, 503);
    let text = scrape(&mut Connection::open(address), &[]);
    assert_eq!(value(&text, "activestorage_connections", ""), 1.0);
    assert_eq!(value(&text, "activestorage_connections_refused_total", ""), 1.0);
    assert_eq!(value(&text, "activestorage_errors_total", r#"code="too_many_connections""#), 1.0);
}

#[test]
fn two_servers_cannot_tell_metrics_at_one_address() {
    let mut server = Server::start_with(&["--metrics-addr", "127.0.0.1:0"]);
    let address = metrics_address(&mut server).to_string();
    let directory = tempfile::tempdir().unwrap();
    let command = crate::server::serve_command(directory.path(), &["--metrics-addr", &address]);
    let refusal = crate::server::refused(command);
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(refusal.stderr.contains(&format!("METRICS_ADDR {address}")), "{}", refusal.stderr);
}

/// Where it is installed, the tool that Prometheus brings for this has nothing to say.
#[test]
fn promtool_has_nothing_to_say() {
    let Ok(version) = Command::new("promtool").arg("--version").output() else { return };
    assert!(version.status.success());
    let server = Server::start();
    let mut connection = server.connect();
    assert_eq!(connection.exchange("PUT", "/v1/keys/models/acme/k", &[], b"body").status, 201);
    assert_eq!(connection.list(SCOPE).len(), 1);
    let text = wait_until("objects to be counted", || {
        let text = scrape(&mut connection, &[]);
        text.contains("activestorage_objects_total{").then_some(text)
    });
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
