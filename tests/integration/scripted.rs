//! A server that says what a test tells it to, so that a client can be seen with answers that no real one gives.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the server does with one connection: one request is read, and one answer given.
pub(crate) enum Step {
    /// Sends these bytes and closes.
    Answer(Vec<u8>),
    /// Hands the request on to a real server, and cuts its answer after so many bytes.
    Cut(SocketAddr, usize),
    /// Hands the request on, and the whole answer back.
    Forward(SocketAddr),
}

/// One that goes through its steps, one for each connection, and then takes no more.
pub(crate) struct Scripted {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heads = requests.clone();
        thread::spawn(move || {
            for step in steps {
                let (client, _) = listener.accept().unwrap();
                take(client, &step, &heads);
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// An answer with a length, after which the connection is closed.
pub(crate) fn answer(status: &str, fields: &[(&str, &str)], body: &[u8]) -> Step {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
    if fields.iter().all(|(name, _)| *name != "Content-Length") {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Step::Answer(bytes)
}

fn take(client: TcpStream, step: &Step, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    heads.lock().unwrap().push(head.clone());
    match step {
        Step::Answer(bytes) => (&client).write_all(bytes).unwrap(),
        Step::Cut(server, bytes) => hand_on(&client, *server, &head, &body, *bytes as u64),
        Step::Forward(server) => hand_on(&client, *server, &head, &body, u64::MAX),
    }
}

/// Asks the real server on a connection that it closes behind its answer.
fn hand_on(mut client: &TcpStream, server: SocketAddr, head: &str, body: &[u8], bytes: u64) {
    let mut server = TcpStream::connect(server).unwrap();
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes()).unwrap();
    server.write_all(body).unwrap();
    // The client may have gone meanwhile.
    let _ = std::io::copy(&mut server.take(bytes), &mut client);
}
