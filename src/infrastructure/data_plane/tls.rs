//! TLS on one connection. rustls is driven by hand, between the socket and whoever reads and writes, so that a
//! connection that waits holds no buffer: what comes is received into memory that all connections of a core share,
//! deciphered there, and handed on; what goes is enciphered into memory that they share too. A connection has bytes of
//! its own only while a record has come in part, or the socket has not taken one whole.
//!
//! Nothing here is held by the kernel, so that dropping any wait loses nothing. `docs/decisions/0013` says why.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use thiserror::Error;

use super::runtime::{RawSocket, Stream};
use super::tls_configuration::TlsConfiguration;

/// The most plaintext of one record (RFC 8446 §5.1).
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record of ours or of most clients' takes besides its plaintext; it is 29 bytes at most.
const RECORD_OVERHEAD_BYTES: usize = 32;
const RECORD_HEADER_BYTES: usize = 5;
/// What is enciphered and sent at once: a core does this in about 60 µs, and then others have their turn.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// What is received and deciphered at once: all that a body's reader asks for.
const RECEIVE_BYTES_MAX: usize = 136 * 1024;
/// What may have come of messages that are not whole. rustls allows as much where it keeps them itself.
const INCOMPLETE_BYTES_MAX: usize = 64 * 1024;
/// Once the connections of a core hold so much that their clients have not taken, each enciphers one record at a time.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Room for what rustls has to say beside our bytes: alerts, answers to new keys.
const CONTROL_BYTES_MAX: usize = 4 * 1024;

/// What a core makes of new connections where the listener speaks TLS.
pub struct TlsAcceptor {
    configuration: Arc<TlsConfiguration>,
    core: Rc<CoreMemory>,
}

impl TlsAcceptor {
    /// For one core.
    pub fn new(configuration: Arc<TlsConfiguration>) -> Self {
        Self { configuration, core: CoreMemory::new() }
    }

    /// Lets a connection of which nothing has been read speak TLS, with the certificate of this moment. Its handshake
    /// is still to come.
    ///
    /// # Errors
    /// What rustls says; random numbers are not to be had.
    pub fn accept(&self, stream: &mut Stream) -> Result<(), TlsFailure> {
        let connection = UnbufferedServerConnection::new(self.configuration.current())?;
        stream.speak_tls(Box::new(TlsSession {
            connection,
            incomplete: Vec::new(),
            plaintext: Plaintext::default(),
            unsent: Unsent { bytes: Vec::new(), start: 0, core: self.core.clone() },
            peer_closed: false,
        }));
        Ok(())
    }
}

/// What the connections of a core share. None keeps any of it over a wait.
struct CoreMemory {
    incoming: RefCell<Box<[u8]>>,
    outgoing: RefCell<Box<[u8]>>,
    /// What all of them hold that has not been sent.
    unsent_bytes: Cell<usize>,
}

impl CoreMemory {
    fn new() -> Rc<Self> {
        let records = BATCH_BYTES_MAX / RECORD_BYTES_MAX;
        let outgoing = BATCH_BYTES_MAX + records * RECORD_OVERHEAD_BYTES + CONTROL_BYTES_MAX;
        Rc::new(Self {
            incoming: RefCell::new(vec![0; INCOMPLETE_BYTES_MAX + RECEIVE_BYTES_MAX].into()),
            outgoing: RefCell::new(vec![0; outgoing].into()),
            unsent_bytes: Cell::new(0),
        })
    }
}

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum TlsFailure {
    /// The client speaks HTTP without TLS.
    #[error("the client does not speak TLS")]
    PlainText,
    /// The client breaks the protocol, or the two have nothing in common.
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    /// The connection is lost.
    #[error(transparent)]
    Connection(#[from] io::Error),
}

impl From<TlsFailure> for io::Error {
    fn from(failure: TlsFailure) -> Self {
        match failure {
            TlsFailure::Connection(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// One connection's TLS.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    /// What has come of a record, or of a message in several records, that is not whole.
    incomplete: Vec<u8>,
    plaintext: Plaintext,
    unsent: Unsent,
    /// The client has said that nothing more follows.
    peer_closed: bool,
}

/// What came of a look at the socket.
enum Received {
    /// So many bytes of plaintext have been taken.
    Bytes(usize),
    /// The connection has ended, without the client having said so.
    End,
}

impl TlsSession {
    /// Agrees on keys. Nothing else may be asked for before.
    pub(super) async fn handshake(&mut self, socket: RawSocket<'_>) -> Result<(), TlsFailure> {
        while self.connection.is_handshaking() {
            self.send_all(socket).await?;
            socket.readable().await?;
            // A client may send its first request behind its last message.
            match self.receive(socket, RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES, &mut |_: &[u8]| 0)? {
                Received::Bytes(_) => {}
                Received::End => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
        Ok(self.send_all(socket).await?)
    }

    /// Waits for plaintext, hands it to `take` in parts, which says how much of each it takes, and returns how much
    /// that was in all. 0 is an end that the client has announced; about `bytes_max` are asked for.
    ///
    /// # Errors
    /// As recv(2); [`io::ErrorKind::UnexpectedEof`] where the connection ends without the client having said so.
    pub(super) async fn read(
        &mut self,
        socket: RawSocket<'_>,
        bytes_max: usize,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> io::Result<usize> {
        let records = bytes_max.div_ceil(RECORD_BYTES_MAX);
        let wanted = bytes_max.saturating_add(records * RECORD_OVERHEAD_BYTES);
        loop {
            let taken = self.plaintext.take(&mut take);
            if taken > 0 || self.peer_closed {
                return Ok(taken);
            }
            socket.readable().await?;
            match self.receive(socket, wanted, &mut take)? {
                Received::Bytes(0) => {}
                Received::Bytes(taken) => return Ok(taken),
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Enciphers some of `plaintext`, sends as much of that as there is room for, and says how much it took. What has
    /// not been sent is owed ([`has_unsent`](Self::has_unsent)).
    pub(super) async fn write(&mut self, socket: RawSocket<'_>, plaintext: &[u8]) -> io::Result<usize> {
        self.send_all(socket).await?;
        if plaintext.len() > RECORD_BYTES_MAX {
            // There is more to come: everything else on the core has its turn, also where there is room.
            socket.writable().await?;
        }
        let core = self.unsent.core.clone();
        let batch = match core.unsent_bytes.get() {
            ..UNSENT_BYTES_MAX => BATCH_BYTES_MAX,
            _ => RECORD_BYTES_MAX,
        };
        let part = &plaintext[..plaintext.len().min(batch)];
        let mut room = core.outgoing.borrow_mut();
        let length = self.encipher(&mut room, |traffic, room| traffic.encrypt(part, room))?;
        let sent = socket.send(&room[..length])?;
        self.unsent.keep(&room[sent..length]);
        Ok(part.len())
    }

    /// Whether what was taken has not all been sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.rest().is_empty()
    }

    /// Waits until some of what is owed has been sent.
    pub(super) async fn send_rest(&mut self, socket: RawSocket<'_>) -> io::Result<()> {
        while self.has_unsent() {
            let sent = socket.send(self.unsent.rest())?;
            if sent > 0 {
                self.unsent.advance(sent);
                return Ok(());
            }
            socket.writable().await?;
        }
        Ok(())
    }

    async fn send_all(&mut self, socket: RawSocket<'_>) -> io::Result<()> {
        while self.has_unsent() {
            self.send_rest(socket).await?;
        }
        Ok(())
    }

    /// Says that nothing more follows, where that can be said at once. What the client has been sent until now is all
    /// that it was to be sent.
    pub(super) fn close(&mut self, socket: RawSocket<'_>) {
        if self.has_unsent() || self.connection.is_handshaking() {
            return;
        }
        let core = self.unsent.core.clone();
        let mut room = core.outgoing.borrow_mut();
        // A connection that has failed has nothing more to say, and one that is lost is not told.
        if let Ok(length) = self.encipher(&mut room, |traffic, room| traffic.queue_close_notify(room)) {
            let _ = socket.send(&room[..length]);
        }
    }

    /// Receives what has come of about `wanted` bytes, and hands its plaintext to `take`.
    fn receive(
        &mut self,
        socket: RawSocket<'_>,
        wanted: usize,
        take: &mut impl FnMut(&[u8]) -> usize,
    ) -> Result<Received, TlsFailure> {
        let core = self.unsent.core.clone();
        let mut incoming = core.incoming.borrow_mut();
        let held = self.incomplete.len();
        incoming[..held].copy_from_slice(&self.incomplete);
        // The rest of a record that has begun, in any case.
        let room = wanted.max(self.record_rest()).min(RECEIVE_BYTES_MAX);
        let filled = match socket.receive(&mut incoming[held..held + room])? {
            None => return Ok(Received::Bytes(0)),
            Some(0) => return Ok(Received::End),
            Some(count) => held + count,
        };
        if held == 0 && self.connection.is_handshaking() && incoming[0].is_ascii_alphabetic() {
            // No record begins with a letter; every request does.
            return Err(TlsFailure::PlainText);
        }
        let taken = self.decipher(&mut incoming[..filled], take);
        if self.has_unsent() {
            // An answer to new keys, or the reason why this ends. What is wrong with the socket shows with what follows.
            let sent = socket.send(self.unsent.rest()).unwrap_or(0);
            self.unsent.advance(sent);
        }
        Ok(Received::Bytes(taken?))
    }

    /// How much of the record that has begun is still to come.
    fn record_rest(&self) -> usize {
        let whole = match self.incomplete.get(3..RECORD_HEADER_BYTES) {
            Some(&[high, low]) => RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])),
            _ => RECORD_HEADER_BYTES,
        };
        whole.saturating_sub(self.incomplete.len())
    }

    /// Works off all records that are whole, and keeps the rest. Says how much plaintext was taken.
    fn decipher(
        &mut self,
        incoming: &mut [u8],
        take: &mut impl FnMut(&[u8]) -> usize,
    ) -> Result<usize, TlsFailure> {
        let (mut used, mut taken) = (0, 0);
        let end = loop {
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(&mut incoming[used..]);
            used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        used += record.discard;
                        taken += self.plaintext.hand_on(record.payload, take);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => self.unsent.encode(data)?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(_) => break Ok(taken),
                Err(error) => break Err(error),
            }
        };
        if end.is_err() {
            // What is left to do is to tell the client why.
            while let Ok(ConnectionState::EncodeTlsData(alert)) =
                self.connection.process_tls_records(&mut incoming[used..]).state
            {
                self.unsent.encode(alert)?;
            }
        }
        // What stands behind the client's last word is ignored (RFC 8446 §6.1).
        let rest = if self.peer_closed { &[][..] } else { &incoming[used..] };
        if rest.len() > INCOMPLETE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        if rest.is_empty() {
            self.incomplete = Vec::new();
        } else {
            self.incomplete.clear();
            self.incomplete.extend_from_slice(rest);
        }
        Ok(end?)
    }

    /// Lets `write` encipher into `room`, behind what rustls has to say first, and gives the length of both.
    fn encipher(
        &mut self,
        room: &mut [u8],
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        let mut length = 0;
        loop {
            // rustls remembers how far it is in what has come in part: it has to see it again, though it has not grown.
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(&mut self.incomplete);
            match state.map_err(TlsFailure::from)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let written = write(&mut traffic, &mut room[length..]).map_err(io::Error::other)?;
                    return Ok(length + written);
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    length += data.encode(&mut room[length..]).map_err(io::Error::other)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                // Both sides have said their last word.
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            self.incomplete.drain(..discard);
        }
    }
}

/// Plaintext that nobody has taken yet: the rest of a record that was longer than what its reader had room for.
#[derive(Default)]
struct Plaintext {
    bytes: Vec<u8>,
    start: usize,
}

impl Plaintext {
    /// Hands on what is held.
    fn take(&mut self, take: &mut impl FnMut(&[u8]) -> usize) -> usize {
        if self.bytes.is_empty() {
            return 0;
        }
        let taken = take(&self.bytes[self.start..]);
        self.start += taken;
        if self.start == self.bytes.len() {
            *self = Self::default();
        }
        taken
    }

    /// Hands on what has just been deciphered, behind what is held, and holds what is not taken.
    fn hand_on(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8]) -> usize) -> usize {
        let taken = if self.bytes.is_empty() { take(bytes) } else { 0 };
        self.bytes.extend_from_slice(&bytes[taken..]);
        taken
    }
}

/// What has been enciphered and the socket had no room for.
struct Unsent {
    bytes: Vec<u8>,
    start: usize,
    core: Rc<CoreMemory>,
}

impl Unsent {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.core.unsent_bytes.set(self.core.unsent_bytes.get() + bytes.len());
    }

    fn encode(&mut self, mut data: EncodeTlsData<'_, ServerConnectionData>) -> Result<(), TlsFailure> {
        // Told of no room, it says how much it needs.
        let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return Ok(()) };
        let mut record = vec![0; needed.required_size];
        let length = data.encode(&mut record).map_err(io::Error::other)?;
        self.keep(&record[..length]);
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
        self.core.unsent_bytes.set(self.core.unsent_bytes.get() - count);
        if self.start == self.bytes.len() {
            (self.bytes, self.start) = (Vec::new(), 0);
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.advance(self.rest().len());
    }
}
