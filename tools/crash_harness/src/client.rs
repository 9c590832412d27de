//! A client that speaks just enough HTTP/1.1.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Long enough for any answer of a server that lives.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The tenant of everything that the harness sends.
pub(crate) const TENANT: &str = "harness";

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Names and values, as they came.
    fields: Vec<(String, String)>,
}

impl Answer {
    /// The value of a field of the head.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let named = self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// One without a body.
    #[cfg(test)]
    pub(crate) fn of(status: u16, fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { status, body: Vec::new(), fields: fields.collect() }
    }
}

/// What a client asks for.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// Lines of the head.
    pub(crate) fields: &'a str,
    pub(crate) body: &'a [u8],
    /// Called when half of the body has been sent, or all of it, if it is short.
    pub(crate) halfway: &'a dyn Fn(),
}

impl Request<'_> {
    /// A body that is shorter goes out at once.
    const HALVED_BYTES_MIN: usize = 4096;

    fn head(&self) -> Vec<u8> {
        let Self { method, target, fields, body, .. } = self;
        let length = body.len();
        format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {length}\r\n\r\n")
            .into_bytes()
    }
}

/// An object, as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) key: String,
    /// Storage class and content hash, which together are one file: `hot/2cf2…`.
    pub(crate) blob: String,
    /// Its storage class.
    pub(crate) class: String,
    /// What was said of it last; 0 for nothing.
    pub(crate) label: u64,
}

/// One keep-alive connection, made when it is needed.
pub(crate) struct Client {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, connection: None }
    }

    pub(crate) fn get(&mut self, target: &str) -> Result<Answer> {
        self.request("GET", target, &[])
    }

    /// All objects of a namespace in that status, newest first, old versions of a key among them.
    pub(crate) fn list(&mut self, namespace: &str, status: &str) -> Result<Vec<Listed>> {
        let mut objects = Vec::new();
        let mut cursor = String::new();
        loop {
            let target = format!(
                "/v1/objects?namespace={namespace}&tenant_id={TENANT}&status={status}&limit=1000{cursor}"
            );
            let answer = self.get(&target)?;
            if answer.status != 200 {
                bail!("a listing came to status {}", answer.status);
            }
            let page: serde_json::Value = serde_json::from_slice(&answer.body)?;
            let listed = page["objects"].as_array().context("a listing has objects")?;
            objects.extend(listed.iter().map(listed_object));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(objects),
            }
        }
    }

    /// One request and its answer. Any error leaves the outcome in doubt.
    pub(crate) fn request(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        let fields = match method {
            "PATCH" => "Content-Type: application/merge-patch+json\r\n",
            _ => "",
        };
        self.send(Request { method, target, fields, body, halfway: &|| {} })
    }

    /// The same with more in it.
    pub(crate) fn send(&mut self, request: Request<'_>) -> Result<Answer> {
        let result = self.exchange(request);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    /// Promises a whole body, sends so much of it, and goes away.
    pub(crate) fn break_off(&mut self, request: Request<'_>, sent: usize) -> Result<()> {
        let mut head = request.head();
        head.extend_from_slice(&request.body[..sent]);
        // Closed in any case.
        let mut connection = self.open()?;
        connection.get_mut().write_all(&head)?;
        (request.halfway)();
        Ok(())
    }

    /// The connection, which is kept for another request only if somebody puts it back.
    fn open(&mut self) -> Result<BufReader<TcpStream>> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(BufReader::new(stream))
    }

    fn exchange(&mut self, request: Request<'_>) -> Result<Answer> {
        let mut connection = self.open()?;
        let half = match request.body.len() {
            length @ Request::HALVED_BYTES_MIN.. => length / 2,
            length => length,
        };
        let (first, second) = request.body.split_at(half);
        let mut head = request.head();
        head.extend_from_slice(first);
        connection.get_mut().write_all(&head)?;
        (request.halfway)();
        connection.get_mut().write_all(second)?;
        let (answer, closes) = read_answer(&mut connection, request.method != "HEAD")?;
        if !closes {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

fn listed_object(object: &serde_json::Value) -> Listed {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    Listed {
        id: text("id"),
        key: text("key"),
        blob: format!("{}/{}", text("storage_class"), text("content_hash")),
        class: text("storage_class"),
        label: object["metadata"]["label"].as_str().and_then(|label| label.parse().ok()).unwrap_or(0),
    }
}

/// The answer, and whether the connection ends behind it.
fn read_answer(connection: &mut impl BufRead, has_body: bool) -> Result<(Answer, bool)> {
    let (mut line, mut fields) = (String::new(), Vec::new());
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
    let (mut length, mut closes) = (0, false);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            bail!("the answer ends in its head");
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => {
                match name {
                    _ if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
                    _ if name.eq_ignore_ascii_case("connection") => closes = value == "close",
                    _ => {}
                }
                fields.push((name.to_owned(), value.to_owned()));
            }
            None if line == "\r\n" => break,
            None => bail!("the head of the answer has the line {line:?}"),
        }
    }
    let mut body = vec![0; if has_body { length } else { 0 }];
    connection.read_exact(&mut body)?;
    Ok((Answer { status, body, fields }, closes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Answer, bool)> {
        read_answer(&mut text.as_bytes(), true)
    }

    #[test]
    fn an_answer_is_its_status_and_its_whole_body() {
        let (answer, closes) = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 ").unwrap();
        assert_eq!((answer.status, &answer.body[..], closes), (200, &b"abc"[..], false));
        let (answer, closes) = read("HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.body.len(), closes), (503, 0, true));
    }

    #[test]
    fn an_answer_to_a_head_has_its_fields_alone() {
        let text = "HTTP/1.1 200 OK\r\nUpload-Offset: 7\r\nContent-Length: 3\r\n\r\nHTTP/1.1 ";
        let (answer, _) = read_answer(&mut text.as_bytes(), false).unwrap();
        assert_eq!((answer.field("upload-offset"), answer.field("location")), (Some("7"), None));
        assert!(answer.body.is_empty());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
