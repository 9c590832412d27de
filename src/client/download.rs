//! The bytes of one version, asked for again from where they broke off, and compared with their hash at the end.

use std::io::Read as _;

use sha2::{Digest as _, Sha256};
use ureq::http::{Response, header};
use ureq::{Body, BodyReader};

use super::answers::{Version, first_byte};
use super::errors::ClientError;
use super::hashing::{self, COPY_BYTES};
use super::remote::Remote;
use crate::domain::value_objects::ContentHash;

/// What bytes go to.
pub(super) trait Sink {
    /// All bytes begin anew, and are of this version.
    ///
    /// # Errors
    /// If what has been written cannot be taken back.
    fn start_over(&mut self, version: Version) -> Result<(), ClientError>;

    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError>;
}

/// How much of which version a sink has.
#[derive(Clone)]
pub(super) struct Beginning {
    pub(super) version: Version,
    pub(super) length: u64,
    /// Of these bytes.
    pub(super) hasher: Sha256,
}

/// Brings all that is not in `beginning` to the sink, and gives the version that it then has. The bytes are those that the
/// server named: otherwise it is [`ClientError::ReceivedOther`].
pub(super) fn download(
    remote: &Remote,
    target: &str,
    what: &str,
    beginning: Option<Beginning>,
    sink: &mut impl Sink,
) -> Result<Version, ClientError> {
    let mut transfer = Transfer { remote, target, what, state: beginning, sink };
    if transfer.state.as_ref().is_none_or(|state| state.length != state.version.size_bytes) {
        remote.retrying(|_| {
            let before = transfer.state.as_ref().map(|state| state.length);
            let outcome = transfer.attempt();
            let after = transfer.state.as_ref().map(|state| state.length);
            (outcome, after > before)
        })?;
    }
    let whole = transfer.state.ok_or_else(|| foreign(what, "it brought nothing"))?;
    let received: ContentHash = hashing::finish(whole.hasher);
    let expected = whole.version.content_hash;
    if received != expected {
        return Err(ClientError::ReceivedOther { what: what.to_owned(), expected, received });
    }
    Ok(whole.version)
}

struct Transfer<'a, S> {
    remote: &'a Remote,
    target: &'a str,
    what: &'a str,
    state: Option<Beginning>,
    sink: &'a mut S,
}

impl<S: Sink> Transfer<'_, S> {
    fn attempt(&mut self) -> Result<(), ClientError> {
        let (range, tag);
        let mut fields = Vec::new();
        if let Some(state) = self.state.as_ref().filter(|state| state.length > 0) {
            range = format!("bytes={}-", state.length);
            tag = state.version.entity_tag();
            fields.extend([(header::RANGE, range.as_str()), (header::IF_RANGE, tag.as_str())]);
        }
        let request = self.remote.request("GET", self.target, &fields, ())?;
        let answer = match self.remote.send(request, self.what) {
            // More than there is of it: what is here is not the beginning of that version.
            Err(ClientError::Declined { status: 416, .. }) => {
                let request = self.remote.request("GET", self.target, &[], ())?;
                self.remote.send(request, self.what)?
            }
            answer => answer?,
        };
        self.begin(&answer)?;
        self.copy(answer.into_body().into_reader())
    }

    /// Finds out where the bytes of the answer belong.
    fn begin(&mut self, answer: &Response<Body>) -> Result<(), ClientError> {
        let version = Version::of_answer(answer.headers(), self.what)?;
        if answer.status() == 206 {
            let expected = self.state.as_ref().map(|state| (state.version, Some(state.length)));
            return match expected == Some((version, first_byte(answer.headers()))) {
                true => Ok(()),
                false => Err(foreign(self.what, "it is not the part that was asked for")),
            };
        }
        self.sink.start_over(version)?;
        self.state = Some(Beginning { version, length: 0, hasher: Sha256::new() });
        Ok(())
    }

    fn copy(&mut self, mut body: BodyReader<'_>) -> Result<(), ClientError> {
        let Some(state) = &mut self.state else { return Err(foreign(self.what, "it brought nothing")) };
        let mut buffer = vec![0; COPY_BYTES.min(state.version.size_bytes.max(1) as usize)];
        loop {
            let count = body.read(&mut buffer).map_err(|error| self.remote.unreachable(error.into()))?;
            if count == 0 {
                break;
            }
            if count as u64 > state.version.size_bytes - state.length {
                return Err(foreign(self.what, "it is longer than it said"));
            }
            self.sink.write(&buffer[..count])?;
            state.hasher.update(&buffer[..count]);
            state.length += count as u64;
        }
        match state.length == state.version.size_bytes {
            true => Ok(()),
            false => Err(foreign(self.what, "it is shorter than it said")),
        }
    }
}

fn foreign(what: &str, reason: &'static str) -> ClientError {
    ClientError::Foreign { what: what.to_owned(), reason }
}
