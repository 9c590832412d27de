//! One connection to the server: sends requests in pieces and reads answers, one exchange at a time.
//!
//! It watches for an answer while it sends. A server that refuses a large or slow upload answers before the end of
//! the body, and a client that only sends would see a broken connection in place of the status.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::chunks::Chunks;
use crate::failure::{Failure, FailureKind};
use crate::response::{self, HEAD_BYTES_MAX, ResponseHead};

/// So many connections share a source address, well below the number of ports that one has.
const CONNECTIONS_OF_SOURCE_MAX: u64 = 4_000;
/// How much of the body of an unexpected answer is kept to be shown.
const EXCERPT_BYTES_MAX: usize = 300;

/// Whether a piece of a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it.
    Whole,
    /// The server answered before that; what is left must not be sent.
    AnsweredEarly,
}

/// An open connection and what has been received on it.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// The part of the buffer that has been received and not been read.
    unread_start: usize,
    unread_end: usize,
    /// Whether the request under way was given up, so that the connection cannot carry another.
    request_cut_short: bool,
    reusable: bool,
}

impl Connection {
    /// Opens a connection that reads through a buffer of the given size. Pages of the buffer that no answer is long
    /// enough to reach are never touched, so that a large one costs nothing. The index of the connection in its run
    /// chooses the loopback address that it comes from, or ports would run out.
    pub(crate) async fn open(address: SocketAddr, index: u64, buffer_bytes: usize) -> Result<Self, Failure> {
        let source = match address.ip() {
            // The first ones come from where everything comes from.
            IpAddr::V4(_) if index >= CONNECTIONS_OF_SOURCE_MAX => {
                let last_byte = 1 + (index / CONNECTIONS_OF_SOURCE_MAX).min(250) as u8;
                Some(Ipv4Addr::new(127, 0, 0, last_byte))
            }
            _ => None,
        };
        Ok(Self {
            address,
            source,
            stream: connect(address, source).await?,
            buffer: vec![0; buffer_bytes.max(HEAD_BYTES_MAX)].into(),
            unread_start: 0,
            unread_end: 0,
            request_cut_short: false,
            reusable: true,
        })
    }

    /// Opens the connection anew and drops what was received on the old one.
    pub(crate) async fn reopen(&mut self) -> Result<(), Failure> {
        self.stream = connect(self.address, self.source).await?;
        (self.unread_start, self.unread_end) = (0, 0);
        (self.request_cut_short, self.reusable) = (false, true);
        Ok(())
    }

    /// Whether the last exchange ended so that another can follow.
    pub(crate) fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// Sends two pieces one after the other, if possible with one system call: a head and the start of its body.
    pub(crate) async fn send(&mut self, first: &[u8], second: &[u8]) -> Result<Sent, Failure> {
        self.reusable = false;
        let mut pieces = [IoSlice::new(first), IoSlice::new(second)];
        let mut unsent = &mut pieces[..];
        // Advancing by nothing drops the pieces that are empty.
        IoSlice::advance_slices(&mut unsent, 0);
        while !unsent.is_empty() {
            let (reader, mut writer) = self.stream.split();
            // An answer is looked for only where sending has to wait, which a small request never does.
            let sent = tokio::select! {
                biased;
                sent = writer.write_vectored(unsent) => Some(sent),
                _ = reader.readable() => None,
            };
            match sent {
                Some(Ok(sent_bytes)) => IoSlice::advance_slices(&mut unsent, sent_bytes),
                Some(Err(error)) => return self.answer_after_failed_send(error).await,
                None if self.try_receive()? => {
                    self.request_cut_short = true;
                    return Ok(Sent::AnsweredEarly);
                }
                None => {}
            }
        }
        Ok(Sent::Whole)
    }

    /// Waits until some of an answer is there. It can be dropped while it waits, and nothing is lost.
    pub(crate) async fn wait_for_answer(&mut self) -> Result<(), Failure> {
        let received_bytes = self.stream.read(&mut self.buffer[self.unread_end..]).await.map_err(lost)?;
        self.note_received(received_bytes)
    }

    /// Says that the rest of a request will not be sent, since the answer has begun.
    pub(crate) fn cut_request_short(&mut self) {
        self.request_cut_short = true;
    }

    /// Reads the head of the final answer.
    pub(crate) async fn receive_head(&mut self) -> Result<ResponseHead, Failure> {
        loop {
            let unread = &self.buffer[self.unread_start..self.unread_end];
            match response::parse_head(unread).map_err(|reason| malformed(reason.0))? {
                Some(head) => {
                    self.unread_start += head.head_bytes;
                    if !head.is_interim() {
                        return Ok(head);
                    }
                }
                None => {
                    self.make_room()?;
                    self.wait_for_answer().await?;
                }
            }
        }
    }

    /// Reads the body that belongs to a head and shows it, piece by piece.
    pub(crate) async fn receive_body(
        &mut self,
        head: &ResponseHead,
        mut show: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Failure> {
        let mut framing = if head.is_chunked {
            Framing::Chunked(Chunks::new())
        } else {
            Framing::Length { missing_bytes: head.content_length_bytes }
        };
        loop {
            let unread = &self.buffer[self.unread_start..self.unread_end];
            let has_ended = framing.read(unread, &mut show).map_err(malformed)?;
            (self.unread_start, self.unread_end) = (0, 0);
            if has_ended {
                break;
            }
            self.wait_for_answer().await?;
        }
        self.reusable = head.keep_alive && !self.request_cut_short;
        Ok(())
    }

    /// Reads a whole answer to an upload: its head if that is a success, otherwise a failure with its status.
    pub(crate) async fn receive_success(&mut self) -> Result<ResponseHead, Failure> {
        let head = self.receive_head().await?;
        if !head.is_success() {
            return Err(self.receive_refusal(&head).await);
        }
        self.receive_body(&head, |_| {}).await?;
        if self.request_cut_short {
            return Err(malformed("the server answered with success before it had the whole body"));
        }
        Ok(head)
    }

    /// Sends a request that has no body, and reads its whole answer, whatever that is.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<ResponseHead, Failure> {
        self.send(request, &[]).await?;
        let head = self.receive_head().await?;
        self.receive_body(&head, |_| {}).await?;
        Ok(head)
    }

    /// The value of `Location` in the head that has just been received, of which the body has not been read.
    pub(crate) fn location(&self, head: &ResponseHead) -> Option<&str> {
        let place = head.location.clone()?;
        let head_start = self.unread_start.checked_sub(head.head_bytes)?;
        std::str::from_utf8(self.buffer.get(head_start + place.start..head_start + place.end)?).ok()
    }

    /// Reads the body of an answer that was not expected, and makes a failure of it.
    pub(crate) async fn receive_refusal(&mut self, head: &ResponseHead) -> Failure {
        let mut excerpt = Vec::new();
        let keep_excerpt = |piece: &[u8]| {
            let room_bytes = EXCERPT_BYTES_MAX - excerpt.len();
            excerpt.extend_from_slice(&piece[..piece.len().min(room_bytes)]);
        };
        match self.receive_body(head, keep_excerpt).await {
            Ok(()) => Failure::status(head.status, &excerpt),
            Err(failure) => failure,
        }
    }

    /// A connection that the server has closed for writing may still hold the reason why.
    async fn answer_after_failed_send(&mut self, error: io::Error) -> Result<Sent, Failure> {
        self.request_cut_short = true;
        match self.wait_for_answer().await {
            Ok(()) => Ok(Sent::AnsweredEarly),
            Err(_) => Err(lost(error)),
        }
    }

    /// Receives what is there; says whether it was anything.
    fn try_receive(&mut self) -> Result<bool, Failure> {
        match self.stream.try_read(&mut self.buffer[self.unread_end..]) {
            Ok(received_bytes) => self.note_received(received_bytes).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(lost(error)),
        }
    }

    fn note_received(&mut self, received_bytes: usize) -> Result<(), Failure> {
        if received_bytes == 0 {
            return Err(lost("the server closed the connection before the end of its answer"));
        }
        self.unread_end += received_bytes;
        Ok(())
    }

    /// Moves the start of a head to the start of the buffer, so that the rest of it fits.
    fn make_room(&mut self) -> Result<(), Failure> {
        self.buffer.copy_within(self.unread_start..self.unread_end, 0);
        self.unread_end -= self.unread_start;
        self.unread_start = 0;
        if self.unread_end >= HEAD_BYTES_MAX {
            return Err(malformed("the head of the response is too long"));
        }
        Ok(())
    }
}

/// How the end of a body is known.
#[derive(Debug)]
enum Framing {
    Length { missing_bytes: u64 },
    Chunked(Chunks),
}

impl Framing {
    /// Reads and shows the next bytes; says whether the body has ended.
    fn read(&mut self, bytes: &[u8], show: &mut (impl FnMut(&[u8]) + Send)) -> Result<bool, &'static str> {
        match self {
            Self::Length { missing_bytes } => {
                let Some(still_missing_bytes) = missing_bytes.checked_sub(bytes.len() as u64) else {
                    return Err("there are bytes after the end of the response");
                };
                show(bytes);
                *missing_bytes = still_missing_bytes;
                Ok(still_missing_bytes == 0)
            }
            Self::Chunked(chunks) => {
                chunks.read(bytes, show)?;
                Ok(chunks.has_ended())
            }
        }
    }
}

async fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> Result<TcpStream, Failure> {
    let not_connected = |error| Failure::new(FailureKind::NotConnected, error);
    let stream = match source {
        None => TcpStream::connect(address).await,
        Some(source) => {
            let socket = TcpSocket::new_v4().map_err(not_connected)?;
            socket.bind(SocketAddr::from((source, 0))).map_err(not_connected)?;
            socket.connect(address).await
        }
    }
    .map_err(not_connected)?;
    // Small requests must leave at once, or what is measured is Nagle's algorithm.
    stream.set_nodelay(true).map_err(not_connected)?;
    Ok(stream)
}

fn lost(reason: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::ConnectionLost, reason)
}

fn malformed(reason: &str) -> Failure {
    Failure::new(FailureKind::MalformedResponse, reason)
}
