//! A client of HTTP/1.1 that does nothing by itself: it sends the bytes it is given, and reads one answer exactly, so
//! that tests can send what no library would, and see everything that comes back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::description::assert_described;

/// Longer than anything here takes on a busy machine; a test that runs into it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// A head of the server's is far smaller.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header fields to send: names and values.
pub(crate) type Fields<'a> = &'a [(&'a str, &'a str)];

/// One connection to the server, as it is or with TLS over it.
pub(crate) struct Connection<S = TcpStream> {
    stream: S,
    /// What has come and belongs to no answer that was read yet.
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The statuses of the 1xx answers before it.
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    /// Names as they came, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("the server takes connections")
    }

    pub(crate) fn try_open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(socket(address)?))
    }

    /// A second handle, so that one thread can send while another one reads.
    pub(crate) fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be duplicated")
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a connection can be half closed");
    }

    /// Goes away as a program does that crashes with unread input: the server sees a reset, and no orderly end.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a connection can be reset");
    }

    /// The port that it comes from.
    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().expect("a connection has an address").port()
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// What a listing with these parameters shows, all pages of it.
    pub(crate) fn list(&mut self, query: &str) -> Vec<Value> {
        let (mut objects, mut cursor) = (Vec::new(), String::new());
        loop {
            let response = self.exchange("GET", &format!("/v1/objects?{query}{cursor}"), &[], b"");
            assert_eq!(response.status, 200, "{response:?}");
            let mut page = response.json();
            objects.append(page["objects"].as_array_mut().expect("a page has objects"));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return objects,
            }
        }
    }

    /// Sends a request with a body of known length, and reads its answer, which has to be one that is described.
    pub(crate) fn exchange(
        &mut self,
        method: &str,
        target: &str,
        fields: Fields<'_>,
        body: &[u8],
    ) -> Response {
        self.try_exchange(method, target, fields, body).expect("the server answers")
    }

    pub(crate) fn try_exchange(
        &mut self,
        method: &str,
        target: &str,
        fields: Fields<'_>,
        body: &[u8],
    ) -> io::Result<Response> {
        self.try_send(request(method, target, fields, body))?;
        let response = self.read_response(method == "HEAD")?;
        assert_described(method, target, &response);
        Ok(response)
    }

    /// Reads an answer to anything but `HEAD`.
    pub(crate) fn response(&mut self) -> Response {
        self.read_response(false).expect("the server answers")
    }

    /// Reads one answer and not a byte more. The body's length is known from the head alone (RFC 9112 §6.3).
    pub(crate) fn read_response(&mut self, to_head: bool) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.read_head()?;
            if (100..200).contains(&status) {
                interim.push(status);
                continue;
            }
            let mut response = Response { interim, status, headers, body: Vec::new() };
            if !to_head && !matches!(status, 204 | 304) {
                let length = response.header("Content-Length").expect("every answer says its length");
                response.body = self.read_exactly(length.parse().expect("a length is a number"))?;
            }
            return Ok(response);
        }
    }

    /// Waits for the head of the next answer and gives its status, without taking anything of it.
    pub(crate) fn status_ahead(&mut self) -> u16 {
        while !self.received.windows(4).any(|window| window == b"\r\n\r\n") {
            self.receive().expect("the server answers");
        }
        let status = self.received.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        status.and_then(|digits| digits.parse().ok()).expect("a status is a number")
    }

    /// Reads the head of a 1xx answer alone.
    pub(crate) fn interim(&mut self) -> u16 {
        let (status, _) = self.read_head().expect("the server answers");
        assert!((100..200).contains(&status), "{status} is final");
        status
    }

    /// Reads to the end of the connection, and holds the server to have closed it in order, without a word more.
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.received), "", "nothing follows the answer");
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("the server goes on: {:?}", byte[0] as char),
            Err(error) => panic!("the server has not closed the connection: {error}"),
        }
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(self.received.len() < HEAD_BYTES_MAX, "the head of an answer ends");
            self.receive()?;
        };
        let head: Vec<u8> = self.received.drain(..end + 4).collect();
        let head = std::str::from_utf8(&head[..end]).expect("the head of an answer is ASCII");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("a head has a first line");
        let status = status_line.strip_prefix("HTTP/1.1 ").expect("the server speaks HTTP/1.1");
        let (status, _) = status.split_once(' ').expect("a space follows the status (RFC 9112 §4)");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a field is a name and a value");
            (name.to_owned(), value.to_owned())
        });
        Ok((status.parse().expect("a status is a number"), headers.collect()))
    }

    fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let buffered = self.received.len().min(length);
        let mut body: Vec<u8> = self.received.drain(..buffered).collect();
        body.resize(length, 0);
        self.stream.read_exact(&mut body[buffered..])?;
        Ok(body)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

/// The state of a connection of this machine as the kernel shows it, seen from the server (proc(5)).
pub(crate) fn kernel_state(server_port: u16, client_port: u16) -> Option<String> {
    let (own, other) = (format!(":{server_port:04X}"), format!(":{client_port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel shows its connections");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row[1].ends_with(&own) && row[2].ends_with(&other)).map(|row| row[3].to_owned())
}

/// A socket that waits as long as tests do.
pub(crate) fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Response {
    /// The value of the only field of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands once in {:?}", self.headers);
        value
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The code of the problem that it is, if it is one.
    pub(crate) fn json_code(&self) -> Option<String> {
        let problem: Value = serde_json::from_slice(&self.body).ok()?;
        problem["code"].as_str().map(str::to_owned)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Holds the answer to be this problem in the form of RFC 9457, and gives its body.
    pub(crate) fn assert_problem(&self, status: u16, code: &str, case: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{case}: {text}");
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{case}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{case}: {text}");
        assert_eq!(problem["status"], status, "{case}");
        assert_eq!(problem["request_id"].as_str(), self.header("X-Request-Id"), "{case}");
        for member in ["type", "title", "detail", "instance", "request_id"] {
            assert!(problem[member].is_string(), "{case}: {member} in {text}");
        }
        problem
    }
}

/// A request with a body of known length; without a body, it says nothing of one.
pub(crate) fn request(method: &str, target: &str, fields: Fields<'_>, body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let framed = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    if !framed && (!body.is_empty() || matches!(method, "POST" | "PUT")) {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    request
}
