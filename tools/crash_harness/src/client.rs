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
        let result = self.exchange(method, target, body);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn exchange(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        let connection = match self.connection.take() {
            Some(connection) => self.connection.insert(connection),
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                self.connection.insert(BufReader::new(stream))
            }
        };
        let length = body.len();
        let media_type = match method {
            "PATCH" => "Content-Type: application/merge-patch+json\r\n",
            _ => "",
        };
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{media_type}Content-Length: {length}\r\n\r\n")
                .into_bytes();
        request.extend_from_slice(body);
        connection.get_mut().write_all(&request)?;
        let (answer, closes) = read_answer(connection)?;
        if closes {
            self.connection = None;
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
fn read_answer(connection: &mut impl BufRead) -> Result<(Answer, bool)> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
    let (mut length, mut closes) = (0, false);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            bail!("the answer ends in its head");
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            Some((name, value)) if name.eq_ignore_ascii_case("connection") => closes = value == "close",
            Some(_) => {}
            None if line == "\r\n" => break,
            None => bail!("the head of the answer has the line {line:?}"),
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((Answer { status, body }, closes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Answer, bool)> {
        read_answer(&mut text.as_bytes())
    }

    #[test]
    fn an_answer_is_its_status_and_its_whole_body() {
        let (answer, closes) = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 ").unwrap();
        assert_eq!((answer.status, &answer.body[..], closes), (200, &b"abc"[..], false));
        let (answer, closes) = read("HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.body.len(), closes), (503, 0, true));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
