//! Who talks to a server whose disks fail, and remembers what it has acknowledged.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::disk::within_patience;
use crate::journal::{Content, check_files};
use crate::server::Server;

/// Longer than any limit of the server under test: an answer that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A body that one helper thread writes in one go.
pub(super) const SMALL_BYTES: usize = 4_000;
/// A body that is streamed; short enough for the server to read to its end after a refusal.
pub(super) const LARGE_BYTES: usize = 700_000;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `code` of a problem, or nothing.
    pub(super) code: String,
    body: Vec<u8>,
}

/// One client of one server.
pub(super) struct Witness {
    server: Server,
    acknowledged: BTreeMap<String, Content>,
    next_seed: u64,
}

impl Witness {
    pub(super) fn new(server: Server) -> Self {
        Self { server, acknowledged: BTreeMap::new(), next_seed: 1000 }
    }

    /// Goes on with another server, which is started when `end` has seen this one off.
    pub(super) fn restart(
        self,
        end: impl FnOnce(Server) -> Result<()>,
        start: impl FnOnce() -> Result<Server>,
    ) -> Result<Self> {
        end(self.server)?;
        Ok(Self { server: start()?, ..self })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Ends the server, and says how many objects it has that were acknowledged.
    pub(super) fn finish(self) -> Result<usize> {
        self.server.stop()?;
        Ok(self.acknowledged.len())
    }

    /// Puts a new object of so many bytes, none of which the server has seen.
    pub(super) fn put(&mut self, length: usize) -> Result<Answer> {
        let content = Content { seed: self.next_seed, length };
        // Two seeds that differ in the lowest bit alone make the same bytes.
        self.next_seed += 2;
        let key = format!("k{:06}", content.seed);
        let answer = self.request("PUT", &target(&key), &content.bytes())?;
        if matches!(answer.status, 200 | 201) {
            self.acknowledged.insert(key, content);
        }
        Ok(answer)
    }

    /// Puts an object that has to be taken.
    pub(super) fn must_put(&mut self, length: usize) -> Result<()> {
        let answer = self.put(length)?;
        ensure!(answer.status == 201, "an upload of {length} bytes is answered {answer}");
        Ok(())
    }

    /// Puts until it is refused, and gives the refusal.
    pub(super) fn put_until_refused(&mut self, length: usize) -> Result<Answer> {
        const OBJECTS_MAX: usize = 20_000;
        for _ in 0..OBJECTS_MAX {
            let answer = self.put(length)?;
            if answer.status != 201 {
                return Ok(answer);
            }
        }
        bail!("{OBJECTS_MAX} uploads of {length} bytes are taken")
    }

    /// Tries until an upload is taken again, by the same server.
    pub(super) fn put_until_taken(&mut self, length: usize) -> Result<()> {
        let taken = || Ok((self.put(length)?.status == 201).then_some(()));
        within_patience("have an upload taken again", taken)?;
        within_patience("see it ready again", || Ok(self.failed_checks()?.is_empty().then_some(())))
    }

    /// Deletes the object that was acknowledged first.
    pub(super) fn delete_oldest(&mut self) -> Result<()> {
        let (key, _) = self.acknowledged.pop_first().context("there is an object to delete")?;
        let answer = self.request("DELETE", &target(&key), &[])?;
        ensure!(answer.status == 204, "a delete is answered {answer}");
        Ok(())
    }

    /// Reads everything that was acknowledged, byte for byte.
    pub(super) fn check(&self) -> Result<()> {
        self.acknowledged.iter().try_for_each(|(key, content)| self.check_one(key, *content))
    }

    /// Reads the object that was acknowledged last. Nobody has read it before, unless [`check`](Self::check) has.
    pub(super) fn read_newest(&self) -> Result<Answer> {
        let (key, content) = self.acknowledged.last_key_value().context("there is an object to read")?;
        let answer = self.request("GET", &target(key), &[])?;
        ensure!(answer.status != 200 || answer.body == content.bytes(), "{key} is not what was acknowledged");
        Ok(answer)
    }

    /// Reads the object that was acknowledged first, which has to work.
    pub(super) fn check_oldest(&self) -> Result<()> {
        let (key, content) = self.acknowledged.first_key_value().context("there is an object to read")?;
        self.check_one(key, *content)
    }

    fn check_one(&self, key: &str, content: Content) -> Result<()> {
        let (answer, expected) = (self.request("GET", &target(key), &[])?, content.bytes());
        if answer.status == 200 && answer.body == expected {
            return Ok(());
        }
        let same = answer.body.iter().zip(&expected).take_while(|(one, other)| one == other).count();
        bail!("{key} is not what was acknowledged: {answer}, the first {same} of {} bytes", expected.len())
    }

    /// Every blob file belongs to an object, and every object has one.
    pub(super) fn check_files(&self, data: &Path) -> Result<()> {
        check_files(&self.server, data)
    }

    pub(super) fn must_live(&self) -> Result<()> {
        let answer = self.request("GET", "/health", &[])?;
        ensure!(answer.status == 200, "/health is answered {answer}");
        Ok(())
    }

    pub(super) fn must_be_ready(&self) -> Result<()> {
        self.failed_checks().and_then(|failed| {
            ensure!(failed.is_empty(), "it is not ready: {failed:?}");
            Ok(())
        })
    }

    /// It must not be ready, because of this check at least.
    pub(super) fn must_not_be_ready(&self, check: &str) -> Result<()> {
        let failed = self.failed_checks()?;
        ensure!(failed.iter().any(|failed| failed == check), "{check} has not failed: {failed:?}");
        Ok(())
    }

    /// It must not be ready, because of this check alone.
    pub(super) fn must_not_be_ready_for(&self, check: &str) -> Result<()> {
        let failed = self.failed_checks()?;
        ensure!(failed == [check], "the checks that failed are {failed:?}");
        Ok(())
    }

    fn failed_checks(&self) -> Result<Vec<String>> {
        let answer = self.request("GET", "/health/ready", &[])?;
        let report: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let checks = report["checks"].as_object().context("readiness has checks")?;
        let failed = checks.iter().filter(|(_, verdict)| *verdict != "ok");
        let failed: Vec<_> = failed.map(|(name, _)| name.clone()).collect();
        let expected = if failed.is_empty() { 200 } else { 503 };
        ensure!(answer.status == expected, "{failed:?} have failed, and the status is {}", answer.status);
        Ok(failed)
    }

    /// One request on a connection of its own.
    fn request(&self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        exchange(self.server.port(), method, target, body).with_context(|| format!("{method} {target}"))
    }
}

/// One request and its answer, on a connection of their own.
pub(super) fn exchange(port: u16, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // A server that has answered already may take no more of the body.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Answer::parse(&bytes)
}

fn target(key: &str) -> String {
    format!("/v1/keys/crash/harness/{key}")
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let end =
            bytes.windows(4).position(|window| window == b"\r\n\r\n").context("an answer has a head")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
        let body = bytes[end + 4..].to_vec();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default().to_owned();
        Ok(Self { status, code, body })
    }

    /// The answer has to be this one.
    pub(super) fn must_be(&self, status: u16, code: &str) -> Result<()> {
        ensure!(self.status == status && self.code == code, "{self}, not {status} {code}");
        Ok(())
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.status, self.code)
    }
}
