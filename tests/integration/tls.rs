//! The same server with TLS on its listener: what clients of different kinds see, how connections end, and how the
//! certificate is replaced. Each test makes its own certificates with the command of OpenSSL.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion, version,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::content::{chunked, content, sha256_hex};
use crate::ranges::parts;
use crate::raw::{Connection, kernel_state, request, socket};
use crate::server::{SCOPE, Server, program, refused, serve_command, wait_until};

const UPLOAD: &str = "/v1/objects?namespace=models&tenant_id=acme";
const KEY: &str = "/v1/keys/models/acme/k";
const DRIVERS: [&str; 2] = ["io-uring", "epoll"];

/// A certificate and its key, in files.
pub(crate) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    /// A new one for this machine, which signs itself.
    pub(crate) fn make(directory: &Path, name: &str) -> Self {
        const SETTINGS: &str = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n\
             [name]\nCN = localhost\n\
             [extensions]\nsubjectAltName = DNS:localhost,IP:127.0.0.1\nbasicConstraints = critical,CA:FALSE\n";
        let settings = directory.join("settings");
        std::fs::write(&settings, SETTINGS).unwrap();
        let identity = Self {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        };
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-config"]).arg(&settings);
        command.arg("-keyout").arg(&identity.key).arg("-out").arg(&identity.certificate);
        let made = command.output().expect("openssl can be run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        identity
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }

    /// Puts this one where another one was.
    fn replace(&self, other: &Self) {
        std::fs::copy(&self.certificate, &other.certificate).unwrap();
        std::fs::copy(&self.key, &other.key).unwrap();
    }

    pub(crate) fn flags(&self) -> [&str; 4] {
        let (certificate, key) = (self.certificate.to_str().unwrap(), self.key.to_str().unwrap());
        ["--tls-cert-file", certificate, "--tls-key-file", key]
    }
}

/// A server that speaks TLS, and what it shows.
struct TlsServer {
    server: Server,
    identity: Identity,
    directory: TempDir,
}

type TlsConnection<S = TcpStream> = Connection<StreamOwned<ClientConnection, S>>;

impl TlsServer {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::make(directory.path(), "server");
        let server = Server::start_with(&[flags, &identity.flags()].concat());
        Self { server, identity, directory }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn connect(&self) -> TlsConnection {
        self.connect_as(&client(&[&self.identity]))
    }

    fn connect_as(&self, client: &Arc<ClientConfig>) -> TlsConnection {
        self.connect_over(client, socket(self.address()).unwrap()).unwrap()
    }

    fn connect_over<S: Read + Write>(
        &self,
        client: &Arc<ClientConfig>,
        mut socket: S,
    ) -> io::Result<TlsConnection<S>> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(client.clone(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Connection::over(StreamOwned::new(connection, socket)))
    }

    fn assert_nothing_kept(&self, case: &str) {
        self.server.assert_nothing_kept_of(case, |query| self.connect().list(query));
    }

    /// Runs curl against it, with its certificate as the only one that is trusted.
    fn curl(&self, arguments: &[&str], target: &str) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "--cacert"]).arg(&self.identity.certificate).args(arguments);
        command.arg(format!("https://{}{target}", self.address()));
        command.stdin(Stdio::null()).output().expect("curl can be run")
    }
}

/// A client that trusts these, and remembers its sessions.
fn client(trusted: &[&Identity]) -> Arc<ClientConfig> {
    client_with(trusted, &[&version::TLS13, &version::TLS12], &[])
}

fn client_with(
    trusted: &[&Identity],
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.der()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

fn tls(connection: &mut TlsConnection) -> &mut ClientConnection {
    &mut connection.stream().conn
}

/// The alert that ended a handshake.
fn alert(result: io::Result<TlsConnection>) -> AlertDescription {
    let error = result.err().expect("there is no connection");
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert: {other:?}"),
    }
}

#[test]
fn the_program_as_a_client_trusts_whom_it_is_told_to() {
    let server = TlsServer::start(&[]);
    let url = format!("https://localhost:{}", server.address().port());
    let bytes = content(31, 3 * 1024 * 1024);
    let path = server.directory.path().join("f");
    std::fs::write(&path, &bytes).unwrap();
    let run = |arguments: &[&str], trusted: &Path| {
        let mut command = program();
        command.env("JUST_STORAGE_URL", &url).args(arguments).stdin(Stdio::null());
        command.arg("--ca-file").arg(trusted).output().expect("the program starts")
    };
    let (put, trusted) = (["put", path.to_str().unwrap(), "models/acme/f"], &server.identity.certificate);
    let sent = run(&put, trusted);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(run(&["cat", "models/acme/f"], trusted).stdout, bytes);
    // Another certificate, and a file that holds none.
    let other = Identity::make(server.directory.path(), "other");
    assert_eq!(run(&put, &other.certificate).status.code(), Some(6));
    assert_eq!(run(&put, &path).status.code(), Some(2));
}

#[test]
fn objects_of_every_size_go_both_ways() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--io-driver", driver]);
        for version in [&version::TLS12, &version::TLS13] {
            let client = client_with(&[&tls_server.identity], &[version], &[b"h2", b"http/1.1"]);
            let mut connection = tls_server.connect_as(&client);
            assert_eq!(tls(&mut connection).protocol_version(), Some(version.version));
            assert_eq!(tls(&mut connection).alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200);
            for length in [0, 1, 16_383, 16_384, 16_385, 100_000, 5_000_001] {
                let body = content(length as u64, length);
                assert!(connection.exchange("PUT", KEY, &[], &body).status < 300, "{driver} {length}");
                assert!(connection.exchange("GET", KEY, &[], b"").body == body, "{driver} {length}");
                let sent = chunked(&body, 50_000, &["X: y"]);
                let fields = [("Transfer-Encoding", "chunked")];
                assert!(connection.exchange("PUT", KEY, &fields, &sent).status < 300, "{driver} {length}");
                let part = connection.exchange("GET", KEY, &[("Range", "bytes=7-70000")], b"");
                assert!(length < 8 || part.body == body[7..length.min(70_001)], "{driver} {length}");
            }
        }
    }
}

#[test]
fn a_large_body_is_the_same_on_both_sides() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--io-driver", driver]);
        let body = content(5, 64 << 20);
        let mut connection = tls_server.connect();
        let stored = connection.exchange("POST", UPLOAD, &[], &body).json();
        assert_eq!(stored["content_hash"], sha256_hex(&body), "{driver}");
        let target = format!("/v1/objects/{}", stored["id"].as_str().unwrap());
        let received = connection.exchange("GET", &target, &[], b"").body;
        assert_eq!(sha256_hex(&received), sha256_hex(&body), "{driver}");
    }
}

#[test]
fn several_ranges_are_the_parts_of_one_body() {
    for driver in DRIVERS {
        let tls = TlsServer::start(&["--io-driver", driver]);
        let mut connection = tls.connect();
        // In a pack, in a file, and over many records; in both classes, since cold ones are read around the page cache.
        for (seed, length, class) in
            [(1, 3000, "hot"), (2, 700_000, "hot"), (3, 5_000_000, "hot"), (4, 5_000_000, "cold")]
        {
            let body = content(seed, length);
            let target = format!("{UPLOAD}&storage_class={class}");
            let id = connection.exchange("POST", &target, &[], &body).json()["id"].clone();
            let target = format!("/v1/objects/{}", id.as_str().unwrap());
            let last = length - 1;
            let wanted = [(0, 0), (last - 1500, last), (7, 999), (1000, last - 1600), (5, 5)];
            let ranges: Vec<_> = wanted.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            // Twice on one connection: an answer of a wrong length would be noticed by the next one.
            for ranges in [&ranges[..], &ranges[..2], &ranges[3..]] {
                let range = format!("bytes={}", ranges.join(","));
                let response = connection.exchange("GET", &target, &[("Range", &range)], b"");
                let parts = parts(&response);
                let told: Vec<_> = parts.iter().map(|part| part.content_range.clone()).collect();
                let expected: Vec<_> = ranges.iter().map(|range| format!("{range}/{length}")).collect();
                assert_eq!(told, expected, "{driver}");
                for (part, range) in parts.iter().zip(ranges) {
                    let (first, last) = range.split_once('-').unwrap();
                    let range = first.parse::<usize>().unwrap()..=last.parse().unwrap();
                    assert!(part.bytes == body[range.clone()], "{driver}: {range:?} of {length}");
                }
            }
        }
        // A client that goes in the middle of a part leaves the server as it was.
        let body = content(5, 8_000_000);
        assert_eq!(connection.exchange("PUT", KEY, &[], &body).status, 201);
        let mut leaving = tls.connect();
        leaving.send(request("GET", KEY, &[("Range", "bytes=0-3999999,4000001-7999999")], b""));
        drop(leaving);
        let response = connection.exchange("GET", KEY, &[("Range", "bytes=0-1,3-7999999")], b"");
        assert!(parts(&response)[1].bytes == body[3..], "{driver}");
    }
}

#[test]
fn curl_uploads_and_downloads() {
    let tls_server = TlsServer::start(&[]);
    let (sent, received) =
        (tls_server.directory.path().join("sent"), tls_server.directory.path().join("received"));
    let (sent, received) = (sent.to_str().unwrap(), received.to_str().unwrap());
    for length in [10, 3_000_000] {
        std::fs::write(sent, content(1, length)).unwrap();
        let output = tls_server.curl(&["-T", sent, "-w", "%{http_code} %{http_version}"], KEY);
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && words.ends_with(" 1.1"), "{output:?}");
        let output = tls_server.curl(&["-o", received], KEY);
        assert!(output.status.success(), "{output:?}");
        assert!(std::fs::read(received).unwrap() == content(1, length), "{length} bytes");
    }
    let stranger = Identity::make(tls_server.directory.path(), "stranger");
    let output = tls_server.curl(&["--cacert", stranger.certificate.to_str().unwrap()], "/health");
    assert_eq!(output.status.code(), Some(60), "curl trusts nobody it was not told to trust: {output:?}");
}

#[test]
fn a_client_that_does_not_know_the_certificate_refuses_it_and_harms_nobody() {
    let tls_server = TlsServer::start(&[]);
    let stranger = Identity::make(tls_server.directory.path(), "stranger");
    let client = client(&[&stranger]);
    for _ in 0..10 {
        let refused = tls_server.connect_over(&client, socket(tls_server.address()).unwrap());
        let error = refused.err().expect("there is no connection");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    assert_eq!(tls_server.connect().exchange("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_client_that_speaks_only_http_2_is_told_that_there_is_no_common_protocol() {
    let tls_server = TlsServer::start(&[]);
    for version in [&version::TLS12, &version::TLS13] {
        let client = client_with(&[&tls_server.identity], &[version], &[b"h2"]);
        let refused = tls_server.connect_over(&client, socket(tls_server.address()).unwrap());
        assert_eq!(alert(refused), AlertDescription::NoApplicationProtocol);
    }
}

#[test]
fn versions_before_1_2_are_refused() {
    let tls_server = TlsServer::start(&[]);
    for (version, accepted) in [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-cipher", "DEFAULT@SECLEVEL=0", version, "-connect"]);
        let output = command.arg(tls_server.address().to_string()).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.success(), accepted, "{version}: {output:?}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(accepted || words.contains(" alert "), "{version}: {words}");
    }
}

#[test]
fn http_without_tls_is_told_so_and_closed() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--io-driver", driver]);
        for (method, body) in [("GET", Vec::new()), ("PUT", content(1, 300_000))] {
            let mut connection = tls_server.server.connect();
            let response = connection.exchange(method, KEY, &[], &body);
            response.assert_problem(400, "tls_required", method);
            assert!(response.closes(), "{driver} {method}");
            connection.assert_closed();
        }
        let mut connection = tls_server.server.connect();
        connection.send([0; 100]);
        let mut rest = Vec::new();
        // An alert, or nothing: what begins like neither is not answered in HTTP.
        let _ = connection.stream().read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP"), "{driver}: {rest:?}");
        tls_server.assert_nothing_kept(driver);
    }
}

/// Lets through one byte at a time in both directions.
struct ByteByByte(TcpStream);

impl Read for ByteByByte {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(&mut room[..1])
    }
}

impl Write for ByteByByte {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..1])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn records_that_come_byte_by_byte_are_the_same() {
    let tls_server = TlsServer::start(&[]);
    for version in [&version::TLS12, &version::TLS13] {
        let client = client_with(&[&tls_server.identity], &[version], &[]);
        // In records of the usual length, and in the shortest that this client makes: its first message is in several
        // of them, too.
        for record_bytes_max in [None, Some(32)] {
            let mut client = ClientConfig::clone(&client);
            client.max_fragment_size = record_bytes_max;
            let slow = ByteByByte(socket(tls_server.address()).unwrap());
            let mut connection = tls_server.connect_over(&Arc::new(client), slow).unwrap();
            let body = content(1, 20_000);
            assert!(connection.exchange("PUT", KEY, &[], &body).status < 300, "{record_bytes_max:?}");
            assert!(connection.exchange("GET", KEY, &[], b"").body == body, "{record_bytes_max:?}");
        }
    }
}

#[test]
fn a_first_message_is_kept_up_to_a_limit_and_no_longer() {
    let tls_server = TlsServer::start(&[]);
    // A ClientHello of just under 64 KiB, by its header, and one of more; the first comes in records of 16 KiB each.
    for (length, records) in [(0xffff, 4), (0x1_0000, 1), (0xff_ffff, 1)] {
        let mut connection = tls_server.server.connect();
        let message = [&[1][..], &u32::to_be_bytes(length)[1..], &[0; 0x1_0000]].concat();
        for record in message.chunks(0x4000).take(records) {
            connection.send([&[0x16, 3, 1, 0x40, 0][..], record].concat());
        }
        // The last one brings it to its end, or over the limit.
        let _ = connection.try_send([&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat());
        let mut rest = Vec::new();
        let end = connection.stream().read_to_end(&mut rest);
        assert!(!end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "{length} bytes");
    }
    assert_eq!(tls_server.connect().exchange("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_handshake_that_stalls_is_cut_at_the_limit_for_heads() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--header-timeout-secs", "1", "--io-driver", driver]);
        // The header of a record of 512 bytes, and the beginning of a ClientHello.
        let begun: [&[u8]; 3] = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"];
        for begun in begun {
            for trickles in [false, true] {
                let mut stalled = tls_server.server.connect();
                stalled.send(begun);
                let mut sender = stalled.sender();
                // Bytes that keep coming buy no time.
                let trickling = trickles.then(|| {
                    thread::spawn(move || {
                        while sender.write_all(&[3]).is_ok() {
                            thread::sleep(Duration::from_millis(50));
                        }
                    })
                });
                // It ends, in order or not; that it never does would fail the test by its patience.
                let mut rest = Vec::new();
                let end = stalled.stream().read_to_end(&mut rest);
                let timed_out = end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                assert!(!timed_out, "{driver}: {begun:?}");
                drop(stalled);
                if let Some(thread) = trickling {
                    thread.join().unwrap();
                }
            }
        }
        let mut connection = tls_server.connect();
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200, "{driver}: it has ended");
    }
}

#[test]
fn an_idle_connection_is_closed_with_the_notice_that_nothing_follows() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--idle-timeout-secs", "1", "--io-driver", driver]);
        let (mut silent, mut served) = (tls_server.connect(), tls_server.connect());
        assert_eq!(served.exchange("GET", "/health", &[], b"").status, 200);
        // An end without the notice would be an error here.
        silent.assert_closed();
        served.assert_closed();
    }
}

#[test]
fn a_stop_closes_idle_connections_with_notice_and_lets_an_upload_finish() {
    let mut tls_server = TlsServer::start(&[]);
    let body = content(1, 400_000);
    let mut idle = tls_server.connect();
    assert_eq!(idle.exchange("GET", "/health", &[], b"").status, 200);
    let mut upload = tls_server.connect();
    upload.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    upload.send(&body[..100_000]);
    let writing = format!("{SCOPE}&status=WRITING");
    wait_until("the upload runs", || tls_server.connect().list(&writing).pop());
    tls_server.server.terminate();
    idle.assert_closed();
    upload.send(&body[100_000..]);
    let response = upload.response();
    assert!(response.status == 201 && response.closes(), "{response:?}");
    upload.assert_closed();
    assert_eq!(tls_server.server.wait().code(), Some(0));
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    for driver in DRIVERS {
        let mut tls_server = TlsServer::start(&["--io-driver", driver]);
        let body = content(1, 400_000);
        let counted = ("Content-Length: 400000\r\n", body.clone());
        let chunks = ("Transfer-Encoding: chunked\r\n", chunked(&body, 30_000, &[]));
        for (fields, whole) in [counted, chunks] {
            for sent in [0, 10, 100_000, whole.len() - 1] {
                let (id, case) =
                    (format!("cut-{}-{sent}", whole.len()), format!("{driver} {fields}{sent} bytes"));
                let mut connection = tls_server.connect();
                let head = format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\n{fields}\r\n");
                connection.send(head);
                connection.send(&whole[..sent]);
                // The socket goes without a word of TLS.
                drop(connection);
                let line = tls_server.server.wait_for_line(&case, |line| line["request_id"] == id.as_str());
                assert_eq!(line["status"], 400, "{case}");
                tls_server.assert_nothing_kept(&case);
            }
        }
    }
}

#[test]
fn an_upload_that_ends_early_with_notice_is_told_so() {
    let tls_server = TlsServer::start(&[]);
    for (length, sent) in [(100, 10), (400_000, 100_000)] {
        let mut connection = tls_server.connect();
        connection.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        connection.send(content(1, sent));
        tls(&mut connection).send_close_notify();
        connection.send("");
        let response = connection.response();
        response.assert_problem(400, "body_incomplete", &format!("{sent} of {length}"));
        connection.assert_closed();
        tls_server.assert_nothing_kept("half a body");
    }
}

#[test]
fn requests_in_one_packet_are_answered_in_order() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--io-driver", driver]);
        let bodies: Vec<Vec<u8>> =
            [0, 1, 5000, 16_384, 40_000, 2_000_000].map(|length| content(length as u64, length)).into();
        let mut connection = tls_server.connect();
        let create = |body: &Vec<u8>| connection.exchange("POST", UPLOAD, &[], body).json();
        let objects: Vec<Value> = bodies.iter().map(create).collect();
        let target = |index: usize| format!("/v1/objects/{}", objects[index]["id"].as_str().unwrap());
        let requests = (0..60).flat_map(|index| request("GET", &target(index % bodies.len()), &[], b""));
        connection.send(requests.collect::<Vec<u8>>());
        for index in 0..60 {
            assert!(connection.response().body == bodies[index % bodies.len()], "{driver} answer {index}");
        }
        // A body with the next request behind it, in records that end where neither does.
        let put = |body: &[u8]| [request("PUT", KEY, &[], body), request("GET", KEY, &[], b"")].concat();
        for length in [1, 16_000, 16_384, 100_000] {
            let body = content(9, length);
            connection.send(put(&body));
            assert!(connection.response().status < 300, "{driver} {length}");
            assert!(connection.response().body == body, "{driver} {length}");
        }
    }
}

#[test]
fn a_client_that_sends_on_after_a_refusal_reads_its_answer() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--body-bytes-max", "1000", "--io-driver", driver]);
        for round in 0..10 {
            let mut connection = tls_server.connect();
            connection.send([request("PUT", KEY, &[], b""), content(1, 10)].concat());
            assert!(connection.response().status < 300);
            let mut connection = tls_server.connect();
            connection.send(request("PUT", KEY, &[], &content(1, 500_000)));
            let response = connection.response();
            response.assert_problem(413, "body_too_large", &format!("{driver} {round}"));
            connection.assert_closed();
        }
    }
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_without_notice() {
    for driver in DRIVERS {
        let mut tls_server = TlsServer::start(&["--send-timeout-secs", "3", "--io-driver", driver]);
        let body = content(1, 32 << 20);
        let mut connection = tls_server.connect();
        let stored = connection.exchange("POST", UPLOAD, &[], &body).json();
        let target = format!("/v1/objects/{}", stored["id"].as_str().unwrap());
        let mut stuck = tls_server.connect();
        stuck.send(request("GET", &target, &[("X-Request-Id", "stuck")], b""));
        assert!(
            connection.exchange("GET", &target, &[], b"").body == body,
            "another client is served meanwhile"
        );
        tls_server.server.wait_for_line("the end of the stuck one", |line| line["request_id"] == "stuck");
        let rest = stuck.read_response(false);
        assert!(rest.is_err(), "{driver}: an answer that was cut off is never completed");
        let port = stuck.stream().get_ref().local_addr().unwrap().port();
        let state = kernel_state(tls_server.address().port(), port);
        assert_eq!(state, None, "{driver}: what was not read waits for nobody");
    }
}

#[test]
fn bodies_that_trickle_are_cut_and_keep_no_memory_from_others() {
    // Blocks for 448 bodies: fewer than there are slow ones.
    let limits = [
        "--cores=1",
        "--buffer-bytes-max=8388608",
        "--body-timeout-secs=5",
        "--body-bytes-per-second-min=1000",
    ];
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&[&limits[..], &["--io-driver", driver]].concat());
        let client = client(&[&tls_server.identity]);
        let mut crowd: Vec<_> = (0..480).map(|_| tls_server.connect_as(&client)).collect();
        let (mut honest, large) = (tls_server.connect(), content(1, 300_000));
        for slow in &mut crowd {
            slow.send("PUT /v1/keys/models/acme/slow HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        }
        for round in 0..3 {
            crowd.iter_mut().for_each(|slow| slow.send("x"));
            assert!(honest.exchange("PUT", KEY, &[], &large).status < 300, "{driver} {round}");
        }
        for slow in &mut crowd {
            assert_eq!(slow.response().status, 408, "{driver}");
            slow.assert_closed();
        }
        assert_eq!(honest.exchange("GET", "/v1/keys/models/acme/slow", &[], b"").status, 404);
    }
}

#[test]
fn new_keys_may_be_asked_for_at_any_time() {
    let tls_server = TlsServer::start(&[]);
    let mut connection = tls_server.connect();
    let body = content(1, 300_000);
    for round in 0..5 {
        tls(&mut connection).refresh_traffic_keys().unwrap();
        assert!(connection.exchange("PUT", KEY, &[], &body).status < 300, "round {round}");
        connection.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
        connection.send(&body[..100_001]);
        tls(&mut connection).refresh_traffic_keys().unwrap();
        connection.send(&body[100_001..]);
        assert_eq!(connection.response().status, 200, "round {round}");
        assert!(connection.exchange("GET", KEY, &[], b"").body == body, "round {round}");
    }
}

/// An id that the server made names its core: `<instance>-<core>-<number>`.
fn core_of(connection: &mut TlsConnection) -> String {
    let response = connection.exchange("GET", "/health", &[], b"");
    response.header("X-Request-Id").unwrap().rsplit('-').nth(1).unwrap().to_owned()
}

#[test]
fn a_session_is_resumed_on_any_core() {
    for driver in DRIVERS {
        let tls_server = TlsServer::start(&["--cores", "2", "--io-driver", driver]);
        for version in [&version::TLS12, &version::TLS13] {
            let client = client_with(&[&tls_server.identity], &[version], &[]);
            let mut first = tls_server.connect_as(&client);
            assert_eq!(tls(&mut first).handshake_kind(), Some(HandshakeKind::Full));
            let mut cores = vec![core_of(&mut first)];
            // Connections stay open, so that they are on both cores in turns.
            let mut open = vec![first];
            for _ in 0..6 {
                let mut next = tls_server.connect_as(&client);
                assert_eq!(tls(&mut next).handshake_kind(), Some(HandshakeKind::Resumed), "{driver}");
                cores.push(core_of(&mut next));
                open.push(next);
            }
            cores.sort();
            cores.dedup();
            assert_eq!(cores, ["0", "1"], "{driver}");
        }
    }
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    for driver in DRIVERS {
        let mut tls_server = TlsServer::start(&["--io-driver", driver]);
        let new = Identity::make(tls_server.directory.path(), "new");
        let old = tls_server.identity.der();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([old.clone(), new.der()]);
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let shown = |connection: &mut TlsConnection| tls(connection).peer_certificates().unwrap()[0].clone();

        let body = content(1, 400_000);
        let (mut idle, mut upload) = (tls_server.connect_as(&client), tls_server.connect_as(&client));
        assert_eq!(idle.exchange("GET", "/health", &[], b"").status, 200);
        assert_eq!(shown(&mut idle), old);
        upload.send(format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
        upload.send(&body[..100_000]);

        let is_about = |line: &Value, level: &str| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == level && message.contains("new connections are shown")
        };
        new.replace(&tls_server.identity);
        tls_server.server.signal(Signal::HUP);
        tls_server.server.wait_for_line("the new certificate", |line| is_about(line, "INFO"));
        // This client has tickets from before. They resume nothing that the old certificate stands behind.
        let mut fresh = tls_server.connect_as(&client);
        assert_eq!(shown(&mut fresh), new.der(), "{driver}");
        assert_eq!(fresh.exchange("GET", "/health", &[], b"").status, 200);
        upload.send(&body[100_000..]);
        assert_eq!(upload.response().status, 201, "{driver}: what had begun goes on");
        assert!(idle.exchange("GET", KEY, &[], b"").body == body, "{driver}");
        assert_eq!(shown(&mut idle), old);

        std::fs::write(&tls_server.identity.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        tls_server.server.signal(Signal::HUP);
        let line = tls_server.server.wait_for_line("the bad one", |line| is_about(line, "ERROR"));
        assert!(line["error"].as_str().unwrap().contains("TLS_CERT_FILE"), "{line}");
        let mut again = tls_server.connect_as(&client);
        assert_eq!(shown(&mut again), new.der(), "{driver}: the last good one stays");
        for connection in [&mut idle, &mut upload, &mut fresh, &mut again] {
            assert_eq!(connection.exchange("GET", "/health", &[], b"").status, 200, "{driver}");
        }
    }
}

#[test]
fn a_bad_certificate_keeps_no_good_keys_of_tokens_from_being_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let secrets = directory.path().join("secrets");
    std::fs::write(&secrets, "x".repeat(32)).unwrap();
    let mut tls_server = TlsServer::start(&["--jwt-secret-file", secrets.to_str().unwrap()]);
    let authorization = format!("Bearer {}", crate::tokens::token_of("acme"));
    let mut connection = tls_server.connect();
    let mut status =
        || connection.exchange("GET", KEY, &[("Authorization", authorization.as_str())], b"").status;
    assert_eq!(status(), 401);
    std::fs::write(&secrets, crate::tokens::SECRET).unwrap();
    std::fs::write(&tls_server.identity.certificate, "no certificate").unwrap();
    tls_server.server.signal(Signal::HUP);
    for (level, words) in
        [("ERROR", "new connections are shown the old one"), ("INFO", "the keys as they are now")]
    {
        tls_server.server.wait_for_line(words, |line| {
            line["level"] == level && line["message"].as_str().is_some_and(|message| message.contains(words))
        });
    }
    assert_eq!(status(), 404);
}

#[test]
fn a_connection_too_many_is_told_to_come_back_over_tls_too() {
    let tls_server = TlsServer::start(&["--connections-max", "1", "--cores", "1"]);
    let mut first = tls_server.connect();
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200);
    for _ in 0..5 {
        let mut second = tls_server.connect();
        second.send(request("PUT", KEY, &[], &content(1, 100_000)));
        let response = second.response();
        assert_eq!(response.status, 503);
        assert!(response.header("Retry-After").is_some() && response.closes(), "{response:?}");
        second.assert_closed();
    }
    assert_eq!(first.exchange("GET", "/health", &[], b"").status, 200, "the first one is not disturbed");
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (Identity::make(directory.path(), "one"), Identity::make(directory.path(), "other"));
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let missing = directory.path().join("missing");
    let (empty, bad) =
        (write("empty", ""), write("bad", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"));
    let nonsense = write("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let bad_key = write("bad_key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let huge = write("huge", &"x".repeat((1 << 20) + 1));
    for (certificate, key, name) in [
        (&missing, &one.key, "TLS_CERT_FILE"),
        (&directory.path().to_owned(), &one.key, "TLS_CERT_FILE"),
        (&empty, &one.key, "TLS_CERT_FILE"),
        (&bad, &one.key, "TLS_CERT_FILE"),
        (&nonsense, &one.key, "TLS_CERT_FILE"),
        (&huge, &one.key, "TLS_CERT_FILE"),
        (&one.key, &one.key, "TLS_CERT_FILE"),
        (&one.certificate, &missing, "TLS_KEY_FILE"),
        (&one.certificate, &empty, "TLS_KEY_FILE"),
        (&one.certificate, &bad_key, "TLS_KEY_FILE"),
        (&one.certificate, &one.certificate, "TLS_KEY_FILE"),
        (&one.certificate, &other.key, "TLS_KEY_FILE"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let mut command = serve_command(data.path(), &[]);
        command.env("TLS_CERT_FILE", certificate).env("TLS_KEY_FILE", key);
        let refusal = refused(command);
        assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
        let named = format!("just_storage: {name} ");
        assert!(refusal.stderr.contains(&named), "{certificate:?} {key:?}: {}", refusal.stderr);
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "nothing was begun");
    }
}
