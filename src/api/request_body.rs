//! A request's body on its way from the connection to whoever takes it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connection_table::BodyBudget;
use super::http1::{BodyDecoder, RequestHead, parse_digests};
use super::transport::Transport;
use crate::application::errors::SourceError;
use crate::application::ports::{BodyState, ByteSource, ReadPace, ReadProgress};
use crate::domain::value_objects::ContentHash;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::metrics::{Phase, note_since};

/// The most bytes of one read: the kernel copies them in about 100 µs. With each read it also tells the sender of new
/// room, so that few long ones take less of the core than many short ones.
const READ_BYTES_MAX: usize = 512 * 1024;
/// The same while brief requests are served on the core: copied and hashed, it holds that for some 50 µs.
const READ_BYTES_IN_COMPANY_MAX: usize = 64 * 1024;
/// How much of a body waits in the connection's own input, until it is worth a block of its own. Together with what comes
/// next it fits there.
const GATHERED_BYTES: usize = 4 * 1024;
/// How long a large block waits for bytes before others may have it.
const PATIENCE: Duration = Duration::from_millis(200);

/// One body.
pub(super) struct RequestBody<'t> {
    transport: &'t mut Transport,
    decoder: BodyDecoder,
    /// `100 Continue` is owed before the first wait.
    continue_owed: bool,
    received_bytes: u64,
    bytes_max: u64,
    declared: Option<ContentHash>,
    /// How long the content has to be that stands for the body, if it has to be.
    reference_bytes: Option<u64>,
    budget: BodyBudget,
    /// The connection has ended, or the body is broken: nothing more can be read from it.
    failed: bool,
}

impl<'t> RequestBody<'t> {
    pub(super) fn new(transport: &'t mut Transport, head: &RequestHead, bytes_max: u64) -> Self {
        let budget = transport.watch().body_budget();
        Self {
            transport,
            decoder: BodyDecoder::new(head.framing()),
            continue_owed: head.expects_continue(),
            received_bytes: 0,
            bytes_max,
            declared: None,
            reference_bytes: None,
            budget,
            failed: false,
        }
    }

    /// Holds the body to a hash, whatever its sender declares.
    pub(super) fn hold_to(&mut self, hash: ContentHash) {
        self.declared = Some(hash);
    }

    /// Holds whatever stands for the body to a size.
    pub(super) fn hold_reference_to(&mut self, size_bytes: Option<u64>) {
        self.reference_bytes = size_bytes;
    }

    /// How long the content has to be that stands for the body, if it has to be.
    pub(super) fn reference_bytes(&self) -> Option<u64> {
        self.reference_bytes
    }

    /// Notes the hash that the header declares; `false` if the body is held to another one.
    pub(super) fn declare(&mut self, hash: Option<ContentHash>) -> bool {
        match (self.declared, hash) {
            (Some(held_to), Some(hash)) => held_to == hash,
            (held_to, hash) => {
                self.declared = held_to.or(hash);
                true
            }
        }
    }

    /// Whether all of it has come, with its head.
    pub(super) fn is_here(&self) -> bool {
        self.decoder.ends_within(self.transport.input())
    }

    /// Content that has been read.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Who sends it.
    pub(super) fn peer(&self) -> SocketAddr {
        self.transport.peer()
    }

    /// Lets everything else on the core have its turn, in the middle of work that waits for nothing.
    ///
    /// # Errors
    /// [`SourceError::Disconnected`], where nobody waits for the answer any more.
    pub(super) async fn take_turns(&mut self) -> Result<(), SourceError> {
        self.transport.take_turns().await.map_err(|_| self.fail(SourceError::Disconnected))
    }

    /// Reads a small body whole.
    ///
    /// # Errors
    /// [`SourceError::TooLarge`] past `bytes_max`; otherwise as [`ByteSource::read`].
    pub(super) async fn read_whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        while !self.decoder.has_ended() {
            let decoded = self.decode_input(usize::MAX)?;
            bytes.extend_from_slice(&self.transport.input()[decoded.content.clone()]);
            self.transport.consume(decoded.consumed);
            if bytes.len() > bytes_max {
                return Err(SourceError::TooLarge { bytes_max: bytes_max as u64 });
            }
            if decoded.consumed == 0 {
                self.receive().await?;
            }
        }
        Ok(bytes)
    }

    /// Gives up the body. What has come of it already is dropped; `true` if that was all, so that the next request
    /// can follow.
    pub(super) fn finish(mut self) -> bool {
        while !self.failed && !self.decoder.has_ended() {
            match self.decode_input(usize::MAX) {
                Ok(decoded) if decoded.consumed > 0 => self.transport.consume(decoded.consumed),
                _ => return false,
            }
        }
        self.decoder.has_ended()
    }

    fn decode_input(&mut self, content_max: usize) -> Result<super::http1::Decoded, SourceError> {
        let decoded = self.decoder.decode(self.transport.input(), content_max).map_err(|error| {
            self.failed = true;
            SourceError::from(error)
        })?;
        self.count(decoded.content.len() as u64)?;
        Ok(decoded)
    }

    fn count(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.received_bytes += bytes;
        if self.received_bytes > self.bytes_max {
            self.failed = true;
            return Err(SourceError::TooLarge { bytes_max: self.bytes_max });
        }
        Ok(())
    }

    /// Waits for more input.
    async fn receive(&mut self) -> Result<(), SourceError> {
        let waited_from = self.before_wait().await?;
        let started = Instant::now();
        let received = self.transport.receive().await;
        note_since(Phase::Client, started);
        let count = self.after_wait(received, waited_from)?;
        debug_assert!(count > 0);
        Ok(())
    }

    async fn before_wait(&mut self) -> Result<Instant, SourceError> {
        if std::mem::take(&mut self.continue_owed) {
            self.transport.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let flushed = self.transport.flush().await;
        flushed.map_err(|_| self.fail(SourceError::Disconnected))?;
        let watch = self.transport.watch();
        watch.body(&self.budget);
        Ok(watch.now())
    }

    fn after_wait(&mut self, result: io::Result<usize>, from: Instant) -> Result<usize, SourceError> {
        let watch = self.transport.watch();
        match result {
            Ok(count) if count > 0 => {
                self.budget.progress(watch, from, count as u64);
                watch.work();
                Ok(count)
            }
            _ if watch.has_timed_out() => Err(self.fail(SourceError::TooSlow)),
            _ => Err(self.fail(SourceError::Disconnected)),
        }
    }

    fn fail(&mut self, error: SourceError) -> SourceError {
        self.failed = true;
        error
    }

    /// As [`ByteSource::read`], but no more than so much at once.
    pub(super) async fn read_up_to(
        &mut self,
        mut block: Block,
        pace: ReadPace,
        bytes_max: usize,
    ) -> (Result<ReadProgress, SourceError>, Block) {
        let bytes_max = bytes_max.min(self.read_bytes_max());
        loop {
            if self.decoder.has_ended() {
                return (Ok(ReadProgress::End), block);
            }
            if !self.transport.input().is_empty() {
                let decoded = match self.decode_input(block.room().min(bytes_max)) {
                    Ok(decoded) => decoded,
                    Err(error) => return (Err(error), block),
                };
                let count = block.append(&self.transport.input()[decoded.content]);
                self.transport.consume(decoded.consumed);
                if count > 0 {
                    return (Ok(ReadProgress::Bytes(count)), block);
                }
                if decoded.consumed > 0 {
                    continue;
                }
            }
            if self.transport.input().is_empty() && self.decoder.content_ahead() > 0 {
                return self.receive_into(block, pace, bytes_max).await;
            }
            if let Err(error) = self.receive().await {
                return (Err(error), block);
            }
        }
    }

    /// Whether brief requests are served on the core, which should not wait for long.
    fn is_in_company(&self) -> bool {
        self.transport.watch().company().expects_brief()
    }

    /// How much is read at once, which is also hashed at a stretch.
    fn read_bytes_max(&self) -> usize {
        match self.is_in_company() {
            true => READ_BYTES_IN_COMPANY_MAX,
            false => READ_BYTES_MAX,
        }
    }

    /// Receives content straight into the block, past the connection's own input.
    async fn receive_into(
        &mut self,
        block: Block,
        pace: ReadPace,
        bytes_max: usize,
    ) -> (Result<ReadProgress, SourceError>, Block) {
        let ahead = usize::try_from(self.decoder.content_ahead()).unwrap_or(usize::MAX);
        let patience = (pace == ReadPace::Brisk).then_some(PATIENCE);
        // A read of what is there already is done at once, and its hash comes before whatever has become ready meanwhile:
        // what waited for the hash before is answered first.
        if self.is_in_company()
            && let Err(error) = self.take_turns().await
        {
            return (Err(error), block);
        }
        let waited_from = match self.before_wait().await {
            Ok(waited_from) => waited_from,
            Err(error) => return (Err(error), block),
        };
        let started = Instant::now();
        let (result, block) = self.transport.receive_into(block, ahead.min(bytes_max), patience).await;
        note_since(Phase::Client, started);
        let progress = match result.transpose() {
            None => {
                self.budget.progress(self.transport.watch(), waited_from, 0);
                Ok(ReadProgress::Stalled)
            }
            Some(result) => self.after_wait(result, waited_from).and_then(|count| {
                self.decoder.advance(count as u64);
                self.count(count as u64)?;
                Ok(ReadProgress::Bytes(count))
            }),
        };
        (progress, block)
    }
}

impl ByteSource<Block> for RequestBody<'_> {
    async fn gather(&mut self) -> Result<BodyState, SourceError> {
        loop {
            if self.decoder.ends_within(self.transport.input()) {
                return Ok(BodyState::Ended);
            }
            if self.transport.input().len() >= GATHERED_BYTES {
                return Ok(BodyState::Open);
            }
            self.receive().await?;
        }
    }

    async fn read(&mut self, block: Block, pace: ReadPace) -> (Result<ReadProgress, SourceError>, Block) {
        self.read_up_to(block, pace, READ_BYTES_MAX).await
    }

    async fn take_turns(&mut self) {
        // The inherent one. What is wrong with the connection shows again in the next read.
        let _ = RequestBody::take_turns(self).await;
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        let in_trailer = parse_digests(self.decoder.trailer_digest().into_iter());
        let in_trailer = in_trailer.map_err(|_| SourceError::DigestInvalid)?;
        match (self.declared, in_trailer) {
            (Some(header), Some(trailer)) if header != trailer => Err(SourceError::DigestInvalid),
            (header, trailer) => Ok(header.or(trailer)),
        }
    }
}
