//! `just_storage health`, as an image's health check runs it.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Output;
use std::thread;

use crate::server::{Server, program};
use crate::tls::Identity;

fn health(arguments: &[&str], listen_addr: Option<&str>) -> Output {
    let mut command = program();
    command.arg("health").args(arguments);
    command.envs(listen_addr.map(|address| ("LISTEN_ADDR", address)));
    command.output().unwrap()
}

#[test]
fn a_server_is_well_while_it_answers() {
    let server = Server::start();
    let address = server.address().to_string();
    let everywhere = format!("0.0.0.0:{}", server.address().port());
    for listen_addr in [&address, &everywhere] {
        let output = health(&[], Some(listen_addr));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "HTTP/1.1 200 OK: {\"status\":\"ok\"}\n");
    }
    assert_eq!(health(&[&server.url("/health/ready")], None).status.code(), Some(0));
    // Another path is no sign of health.
    assert_eq!(health(&[&server.url("/v1/nothing")], None).status.code(), Some(1));

    std::fs::remove_dir_all(server.directory().path().join("hot/tmp")).unwrap();
    assert_eq!(health(&[&server.url("/health")], None).status.code(), Some(0), "the process lives");
    let output = health(&[&server.url("/health/ready")], None);
    assert_eq!(output.status.code(), Some(1), "but is not ready");
    assert!(String::from_utf8(output.stdout).unwrap().contains("hot_storage"), "and says why");

    let address = server.address().to_string();
    assert_eq!(server.stop().0.code(), Some(0));
    let output = health(&[], Some(&address));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&address));
}

#[test]
fn a_server_that_speaks_tls_lives_though_it_is_not_understood() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(&Identity::make(directory.path(), "server").flags());
    assert_eq!(health(&[], Some(&server.address().to_string())).status.code(), Some(0));
    let ready = server.url("/health/ready");
    assert_eq!(health(&[&ready], None).status.code(), Some(1), "whether it is ready it has not said");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let output = health(&[&url, "--timeout-secs=1"], None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_answer_is_read_to_a_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let talker = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // Until it is hung up on.
        while stream.write_all(&[b'x'; 1024]).is_ok() {}
    });
    assert_eq!(health(&[&url, "--timeout-secs=60"], None).status.code(), Some(1));
    talker.join().unwrap();
}

#[test]
fn a_wrong_url_is_refused_by_its_rule() {
    for url in ["https://localhost/", "localhost:8080", "http://"] {
        let output = health(&[url], None);
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("http://HOST:PORT/PATH"));
    }
}
