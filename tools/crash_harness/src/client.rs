//! A client that speaks just enough HTTP/1.1, and the work that it does.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::journal::{Content, Entry, Random};

/// Long enough for any answer of a server that lives.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a request came to.
pub(crate) enum Outcome {
    Bytes(Vec<u8>),
    Absent,
    Status(u16),
}

impl Outcome {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Absent => "absent".into(),
            Self::Status(status) => format!("status {status}"),
        }
    }
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

    pub(crate) fn get(&mut self, key: &str) -> Result<Outcome> {
        match self.request("GET", &key_target(key), &[])? {
            (200, bytes) => Ok(Outcome::Bytes(bytes)),
            (404, _) => Ok(Outcome::Absent),
            (status, _) => Ok(Outcome::Status(status)),
        }
    }

    /// The content hashes of all objects, old versions of a key among them.
    pub(crate) fn listed_hashes(&mut self) -> Result<HashSet<String>> {
        let mut hashes = HashSet::new();
        let mut cursor = String::new();
        loop {
            let target = format!("/v1/objects?namespace=crash&tenant_id=harness&limit=1000{cursor}");
            let (status, body) = self.request("GET", &target, &[])?;
            let page: serde_json::Value = serde_json::from_slice(&body)?;
            let objects =
                page["objects"].as_array().with_context(|| format!("a listing, not status {status}"))?;
            hashes.extend(
                objects.iter().filter_map(|object| object["content_hash"].as_str()).map(str::to_owned),
            );
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(hashes),
            }
        }
    }

    /// One request and its answer. Any error leaves the outcome in doubt.
    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let result = self.exchange(method, target, body);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn exchange(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
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
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        connection.get_mut().write_all(&request)?;
        read_answer(connection)
    }
}

fn key_target(key: &str) -> String {
    format!("/v1/keys/crash/harness/{key}")
}

fn read_answer(connection: &mut BufReader<TcpStream>) -> Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
    let mut length = 0;
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            bail!("the answer ends in its head");
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((status, body))
}

/// A client at work on the keys that are its own.
pub(crate) struct Work<'j> {
    pub(crate) client: Client,
    pub(crate) share: &'j mut Vec<Entry>,
    pub(crate) random: Random,
}

impl Work<'_> {
    /// Puts, overwrites and deletes until the cut; says how much was acknowledged.
    pub(crate) fn run_until(mut self, stop: &AtomicBool) -> Result<u64> {
        let mut acknowledged = 0;
        while !stop.load(Ordering::Relaxed) {
            let index = self.random.below(self.share.len() as u64) as usize;
            let change = self.choose();
            let entry = &mut self.share[index];
            if entry.in_doubt.is_some() {
                continue;
            }
            entry.in_doubt = Some(change);
            let answer = match change {
                Some(content) => self.client.request("PUT", &key_target(&entry.key), &content.bytes()),
                None => self.client.request("DELETE", &key_target(&entry.key), &[]),
            };
            match answer {
                Ok((200 | 201 | 204 | 404, _)) => {
                    (entry.acknowledged, entry.in_doubt) = (change, None);
                    acknowledged += 1;
                }
                // A refusal promises nothing; after a power cut the server may well refuse.
                Ok(_) => {}
                // The cut, most likely. Either way the change stays in doubt.
                Err(_) if self.share.iter().all(|entry| entry.in_doubt.is_some()) => break,
                Err(_) => {}
            }
        }
        Ok(acknowledged)
    }

    /// Mostly small bodies, some across each border of the storage engine, some that other clients have too, and
    /// some deletes.
    fn choose(&mut self) -> Option<Content> {
        let length = match self.random.below(10) {
            0 | 1 => return None,
            2 => 16_380 + self.random.below(10) as usize,
            3 => 60_000 + self.random.below(300_000) as usize,
            4 => self.random.below(3) as usize,
            _ => self.random.below(9000) as usize,
        };
        // One in four is a content out of a few that everybody has.
        let seed = if self.random.below(4) == 0 { self.random.below(8) } else { self.random.next() };
        let length = if seed < 8 { 1000 + 4096 * seed as usize } else { length };
        Some(Content { seed, length })
    }
}
