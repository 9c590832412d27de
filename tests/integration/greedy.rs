//! Many clients at once that take their time, or take more than they give. Limits are as short as they can be set and
//! the crowds small enough for any machine; `tools/greedy.py` does the same with thousands and the limits that are
//! documented, and measures what others notice of it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::content::content;
use crate::raw::{Connection, kernel_state, request};
use crate::server::{Server, serve_command, wait_until};

const KEY: &str = "/v1/keys/models/acme/k";
/// How many come at once.
const CROWD: usize = 600;
/// Between two bytes of each of them.
const TRICKLE: Duration = Duration::from_millis(100);

/// Lets this test, and the servers that it starts, have as many descriptors as they may.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A crowd whose every member has sent the same first bytes.
fn crowd(server: &Server, first: &str) -> Vec<TcpStream> {
    raise_descriptor_limit();
    let open = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    (0..CROWD).map(|_| open()).collect()
}

/// What has come, and whether that was the end.
fn read_some(stream: &mut TcpStream, answer: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            // Of a connection that was closed while a byte was on its way to it.
            Err(_) => return true,
        }
    }
}

/// Sends `byte` from everyone now and then, until the server has closed all connections; what each was told.
fn trickle_until_cut(mut crowd: Vec<TcpStream>, byte: u8, mut meanwhile: impl FnMut()) -> Vec<String> {
    let mut answers = Vec::new();
    let mut open: Vec<_> = crowd.drain(..).map(|stream| (stream, Vec::new())).collect();
    wait_until("an end of everyone", || {
        let mut still_open = Vec::new();
        for (mut stream, mut answer) in open.drain(..) {
            let sent = stream.write(&[byte]);
            match read_some(&mut stream, &mut answer) || sent.is_err() {
                true => answers.push(String::from_utf8(answer).unwrap()),
                false => still_open.push((stream, answer)),
            }
        }
        open = still_open;
        meanwhile();
        std::thread::sleep(TRICKLE);
        open.is_empty().then_some(())
    });
    answers
}

#[test]
fn a_crowd_of_heads_that_trickle_is_cut_and_harms_nobody() {
    let server = Server::start_with(&["--header-timeout-secs", "2"]);
    assert_eq!(server.request("PUT", KEY, &[], b"kept").status, 201);
    let before = server.sockets();
    let crowd = crowd(&server, "GET /health HTTP/1.1\r\nHost: h\r\nX: ");
    let mut honest = server.connect();
    let answers = trickle_until_cut(crowd, b'x', || {
        assert_eq!(honest.exchange("GET", KEY, &[], b"").body, b"kept");
        assert_eq!(server.get(KEY).body, b"kept", "on a new connection too");
    });
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 408 ")), "{answers:#?}");
    drop(honest);
    wait_until("no connection is left", || (server.sockets() <= before).then_some(()));
}

#[test]
fn a_crowd_of_bodies_that_trickle_is_cut_and_keeps_no_memory_from_others() {
    // Blocks for 416 bodies: fewer than there are slow ones.
    let server = Server::start_with(&[
        "--cores=1",
        "--buffer-bytes-max=8388608",
        "--body-timeout-secs=3",
        "--body-bytes-per-second-min=1000",
    ]);
    assert_eq!(server.request("PUT", KEY, &[], b"first").status, 201);
    let before = server.sockets();
    let slow = "/v1/keys/models/acme/slow";
    let crowd = crowd(&server, &format!("PUT {slow} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"));
    let (mut honest, large) = (server.connect(), content(1, 300_000));
    let answers = trickle_until_cut(crowd, b'x', || {
        assert_eq!(honest.exchange("PUT", KEY, &[], &large).status, 200);
        assert_eq!(server.request("PUT", KEY, &[], b"small").status, 200);
    });
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 408 ")), "{answers:#?}");
    assert_eq!(server.get(slow).status, 404);
    drop(honest);
    wait_until("no connection is left", || (server.sockets() <= before).then_some(()));
    wait_until("no file is left", || server.files("tmp").is_empty().then_some(()));
}

#[test]
fn uploads_that_stop_in_the_middle_leave_memory_to_others() {
    // 6.5 MiB for what is received: enough for a small block each, and for little more.
    let server = Server::start_with(&["--cores=1", "--buffer-bytes-max=8388608", "--body-timeout-secs=3600"]);
    raise_descriptor_limit();
    let begun = [
        "PUT /v1/keys/models/acme/half HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n",
        "POST /v1/uploads?namespace=models&tenant_id=acme HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\n\
         Upload-Length: 1000000\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: 1000000\r\n\r\n",
    ];
    let half = content(1, 100_000);
    let stopped = |number: usize| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(begun[number % begun.len()].as_bytes()).unwrap();
        stream.write_all(&half).unwrap();
        stream
    };
    let crowd: Vec<_> = (0..160).map(stopped).collect();
    wait_until("an upload has room", || {
        // One that has none is told so in the middle, and its connection ends.
        let answer = server.connect().try_exchange("PUT", KEY, &[], &content(2, 300_000));
        answer.is_ok_and(|response| response.status < 300).then_some(())
    });
    drop(crowd);
}

#[test]
fn a_crowd_that_says_nothing_is_closed_without_a_word_and_harms_nobody() {
    let server = Server::start_with(&["--idle-timeout-secs", "2"]);
    let before = server.sockets();
    let mut crowd = crowd(&server, "");
    assert_eq!(server.request("PUT", KEY, &[], b"kept").status, 201);
    assert_eq!(server.get(KEY).body, b"kept");
    for stream in &mut crowd {
        let mut answer = Vec::new();
        wait_until("its end", || read_some(stream, &mut answer).then_some(()));
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    wait_until("no connection is left", || (server.sockets() <= before).then_some(()));
}

#[test]
fn a_crowd_that_comes_and_goes_at_once_leaves_nothing() {
    let server = Server::start();
    let before = server.sockets();
    for first in ["", "GET /heal", "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"] {
        drop(crowd(&server, first));
        assert_eq!(server.get("/health").status, 200);
    }
    wait_until("no connection is left", || (server.sockets() <= before).then_some(()));
}

/// Sends the same request again and again and reads nothing, until the server has ended the connection.
fn ask_until_cut(connection: &Connection, request: &[u8]) {
    let (mut sender, packet) = (connection.sender(), request.repeat(64));
    let error = loop {
        if let Err(error) = sender.write_all(&packet) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[test]
fn a_client_that_reads_no_answer_is_cut_and_the_kernel_keeps_none_of_it() {
    let server = Server::start_with(&["--send-timeout-secs", "1"]);
    let before = server.sockets();
    // Many answers that wait together, one that is sent from memory, and one that comes in blocks.
    for (class, length) in [("hot", 4096), ("hot", 16 << 20), ("cold", 16 << 20)] {
        let target = format!("/v1/objects?namespace=models&tenant_id=acme&storage_class={class}");
        let stored = server.request("POST", &target, &[], &content(1, length)).json();
        let get = request("GET", &format!("/v1/objects/{}", stored["id"].as_str().unwrap()), &[], b"");
        wait_until("nobody is left", || (server.sockets() <= before).then_some(()));
        let mut greedy = server.connect();
        greedy.send(&get);
        wait_until("it is being served", || (server.sockets() > before).then_some(()));
        if length == 4096 {
            ask_until_cut(&greedy, &get);
        }
        wait_until("its descriptor is closed", || (server.sockets() <= before).then_some(()));
        let state = kernel_state(server.address().port(), greedy.port());
        assert_eq!(state, None, "{class} {length}: what was not read waits for nobody");
    }
}

/// A client whose kernel has room for next to nothing that it does not read.
fn narrow_client(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.connect(&server.address().into()).unwrap();
    socket.into()
}

/// Once the server has sent all of such an answer, its kernel holds most of it.
const HELD_BYTES: usize = 15_000;

#[test]
fn a_client_that_does_not_take_what_the_kernel_holds_for_it_is_cut_too() {
    let server = Server::start_with(&["--idle-timeout-secs", "1", "--send-timeout-secs", "1"]);
    let before = server.sockets();
    assert_eq!(server.request("PUT", KEY, &[], &content(1, HELD_BYTES)).status, 201);
    wait_until("no connection is left", || (server.sockets() <= before).then_some(()));
    for fields in [&[][..], &[("Connection", "close")]] {
        let mut greedy = narrow_client(&server);
        greedy.write_all(&request("GET", KEY, fields, b"")).unwrap();
        wait_until("it is being served", || (server.sockets() > before).then_some(()));
        wait_until("its descriptor is closed", || (server.sockets() <= before).then_some(()));
        let state = kernel_state(server.address().port(), greedy.local_addr().unwrap().port());
        assert_eq!(state, None, "{fields:?}: what was not read waits for nobody");
    }
}

#[test]
fn a_client_that_takes_its_answer_slowly_has_all_of_it() {
    let limits = ["--idle-timeout-secs=1", "--send-timeout-secs=5", "--body-bytes-per-second-min=1"];
    let server = Server::start_with(&limits);
    let body = content(1, HELD_BYTES);
    assert_eq!(server.request("PUT", KEY, &[], &body).status, 201);
    for fields in [&[][..], &[("Connection", "close")]] {
        let mut slow = narrow_client(&server);
        slow.write_all(&request("GET", KEY, fields, b"")).unwrap();
        let (mut answer, mut bytes) = (Vec::new(), [0; 1000]);
        while !answer.ends_with(&body) {
            // Longer in all than an idle connection lasts, and than it lasts once it was found to take something.
            std::thread::sleep(5 * TRICKLE);
            match slow.read(&mut bytes).unwrap() {
                0 => panic!("{fields:?}: the answer ends after {} bytes", answer.len()),
                count => answer.extend_from_slice(&bytes[..count]),
            }
        }
    }
}

/// A server that may have this many descriptors and no more.
fn server_with_descriptors(limit: u32, flags: &[&str]) -> Server {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let serve = serve_command(directory.path(), flags);
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]);
    limited.arg(serve.get_program()).args(serve.get_args()).args(["--log-format", "json"]);
    limited.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Server::listening(limited, &directory)
}

/// Whether a new connection is served now.
fn is_served(server: &Server) -> bool {
    let served = || {
        let mut stream = TcpStream::connect(server.address())?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(&request("GET", "/health", &[], b""))?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        io::Result::Ok(start == *b"HTTP/1.1 200")
    };
    served().unwrap_or(false)
}

#[test]
fn a_server_without_descriptors_for_all_serves_whom_it_has_and_the_others_once_there_are_some() {
    let server = server_with_descriptors(64, &[]);
    let mut first = server.connect();
    assert_eq!(first.exchange("PUT", KEY, &[], b"kept").status, 201);
    for round in 0..3 {
        let crowd = crowd(&server, "");
        wait_until("somebody is not served", || (!is_served(&server)).then_some(()));
        assert_eq!(first.exchange("GET", KEY, &[], b"").body, b"kept", "round {round}");
        assert_eq!(first.exchange("PUT", KEY, &[], b"kept").status, 200, "round {round}");
        drop(crowd);
        wait_until("a new connection is served", || is_served(&server).then_some(()));
    }
}

#[test]
fn files_that_are_kept_open_leave_descriptors_for_connections() {
    // Each has a file of its own: more of them than there are descriptors.
    let server = server_with_descriptors(128, &["--pack-blob-bytes-max", "0"]);
    let mut connection = server.connect();
    let targets: Vec<_> = (0..150).map(|n| format!("/v1/keys/models/acme/{n}")).collect();
    for (n, target) in targets.iter().enumerate() {
        assert_eq!(connection.exchange("PUT", target, &[], &content(n as u64, 100)).status, 201);
    }
    for (n, target) in targets.iter().enumerate() {
        assert!(connection.exchange("GET", target, &[], b"").body == content(n as u64, 100), "{target}");
    }
    assert!(is_served(&server), "{:#?}", server.descriptors());
}
