//! Where a core's connections come from, and what goes over them: from memory, from files, through TLS.

use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller};
use monoio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::super::buffers::{Block, Content, Room, Tail};
use super::super::tls::{RECORD_BYTES_MAX, TlsFailure, TlsSession};
use super::data_file::DataFile;
use super::{IoDriver, borrowed, within};

/// Where a core's connections come from.
pub struct Listener {
    socket: TcpListener,
    driver: IoDriver,
}

impl Listener {
    /// Takes over a bound, listening socket.
    ///
    /// # Errors
    /// It cannot be registered with the core.
    pub fn from_std(listener: StdListener, driver: IoDriver) -> io::Result<Self> {
        // The ring waits by itself; epoll needs a socket that does not.
        listener.set_nonblocking(driver == IoDriver::Epoll)?;
        Ok(Self { socket: TcpListener::from_std(listener)?, driver })
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2): out of descriptors, mostly.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (socket, peer) = self.socket.accept().await?;
        Ok((Stream { socket, driver: self.driver, peer, tls: None }, peer))
    }
}

/// One connection.
pub struct Stream {
    socket: TcpStream,
    driver: IoDriver,
    /// Who has made it. A connection that has been cut no longer says so itself.
    peer: SocketAddr,
    /// Between the socket and those who read and write, where the listener speaks TLS.
    tls: Option<Box<TlsSession>>,
}

/// A connection on its way from the core that accepted it to another one.
#[derive(Debug)]
pub struct StreamInTransit {
    socket: std::net::TcpStream,
    driver: IoDriver,
    peer: SocketAddr,
}

impl StreamInTransit {
    /// The connection, on the core that calls this.
    ///
    /// # Errors
    /// It cannot be registered with the core.
    pub fn arrive(self) -> io::Result<Stream> {
        let socket = TcpStream::from_std(self.socket)?;
        Ok(Stream { socket, driver: self.driver, peer: self.peer, tls: None })
    }
}

impl Stream {
    /// Takes the connection off this core, before anything has been read from it.
    ///
    /// # Errors
    /// The connection itself, which stays where it is: there is no descriptor left.
    pub fn depart(self) -> Result<StreamInTransit, Box<Self>> {
        // monoio lets go of a descriptor only by closing it; the second one keeps the connection open.
        match borrowed(&self.socket.as_raw_fd()).try_clone_to_owned() {
            Ok(second) => Ok(StreamInTransit { socket: second.into(), driver: self.driver, peer: self.peer }),
            Err(_) => Err(Box::new(self)),
        }
    }

    /// Sends small answers at once instead of waiting for more.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.socket.set_nodelay(true)
    }

    /// Who has made this connection.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// A way to end what this connection waits for, from outside.
    pub fn shut_down_handle(&self) -> ShutDownHandle {
        ShutDownHandle(self.socket.as_raw_fd())
    }

    /// Lets all that is read and written from now on pass through TLS.
    pub(in super::super) fn speak_tls(&mut self, session: Box<TlsSession>) {
        self.tls = Some(session);
    }

    /// Whether what is read and written passes through TLS: then nothing is sent ahead, and no files.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Agrees on keys with the peer, where TLS is spoken. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// [`TlsFailure`]. Where the peer speaks no TLS, none is spoken from then on either, so that it can be told.
    pub async fn handshake(&mut self) -> Result<(), TlsFailure> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let result = tls.handshake(RawSocket(&self.socket)).await;
        if matches!(result, Err(TlsFailure::PlainText)) {
            self.tls = None;
        }
        result
    }

    /// Whether some of what was sent is still here, since the peer has no room for it.
    pub fn is_held_up(&self) -> bool {
        queued_bytes::<NOT_SENT>(&self.socket.as_raw_fd()) > 0
    }

    /// Ends the sending half: the peer reads all that was sent, and then the end.
    pub fn finish_sending(&mut self) {
        self.say_end();
        shut_down(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Tells the peer that all was sent that was to be sent, where an end of the connection alone does not say so.
    pub fn say_end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(RawSocket(&self.socket));
        }
    }

    /// Appends what comes to `bytes`, into its spare capacity, up to `bytes_max`. 0 is the end. What comes through TLS
    /// may need more room, and takes it: up to one record.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn read(&mut self, mut bytes: Vec<u8>, bytes_max: usize) -> (io::Result<usize>, Vec<u8>) {
        if let Some(tls) = &mut self.tls {
            let wanted = bytes_max.min(RECORD_BYTES_MAX);
            let mut room = wanted;
            let append = |part: &[u8]| {
                let count = part.len().min(room);
                bytes.extend_from_slice(&part[..count]);
                room -= count;
                count
            };
            let result = tls.read(RawSocket(&self.socket), wanted, append).await;
            return (result, bytes);
        }
        let (result, tail) = self.socket.read(Tail { bytes, bytes_max }).await;
        (result, tail.bytes)
    }

    /// Appends what comes to a block's content, up to `bytes_max`. 0 is the end.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn read_block(&mut self, mut block: Block, bytes_max: usize) -> (io::Result<usize>, Block) {
        if let Some(tls) = &mut self.tls {
            let result = read_tls_block(tls, &self.socket, &mut block, bytes_max).await;
            return (result, block);
        }
        let (result, room) = self.socket.read(Room { block, bytes_max }).await;
        (result, room.block)
    }

    /// As [`read_block`](Self::read_block), but gives the block back after `patience` with `None` if nothing came.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn read_block_within(
        &mut self,
        mut block: Block,
        bytes_max: usize,
        patience: Duration,
    ) -> (io::Result<Option<usize>>, Block) {
        if let Some(tls) = &mut self.tls {
            let read = within(patience, read_tls_block(tls, &self.socket, &mut block, bytes_max)).await;
            return (read.transpose(), block);
        }
        let canceller = Canceller::new();
        let mut read = pin!(self.socket.cancelable_read(Room { block, bytes_max }, canceller.handle()));
        let (result, room) = match select(read.as_mut(), pin!(monoio::time::sleep(patience))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                canceller.cancel();
                // Bytes may have come at the last moment: then they count.
                read.await
            }
        };
        let result = match result {
            Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => Ok(None),
            other => other.map(Some),
        };
        (result, room.block)
    }

    /// Sends some of `bytes` from `start` on, and says how many that were.
    ///
    /// # Errors
    /// As send(2).
    pub async fn write(&mut self, bytes: Vec<u8>, start: usize) -> (io::Result<usize>, Vec<u8>) {
        if let Some(tls) = &mut self.tls {
            return (tls.write(RawSocket(&self.socket), &bytes[start..]).await, bytes);
        }
        let (result, slice) = self.socket.write(bytes.slice(start..)).await;
        (result, slice.into_inner())
    }

    /// Sends some of a part of a block's content, and says how much that was.
    ///
    /// # Errors
    /// As send(2).
    pub async fn write_block(&mut self, block: Block, range: Range<usize>) -> (io::Result<usize>, Block) {
        if let Some(tls) = &mut self.tls {
            return (tls.write(RawSocket(&self.socket), &block.bytes()[range]).await, block);
        }
        let (result, content) = self.socket.write(Content { block, range }).await;
        (result, content.block)
    }

    /// Whether some of what a write took has not been sent yet. It is before anything else is waited for.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unsent())
    }

    /// Waits until some of that has been sent.
    ///
    /// # Errors
    /// As send(2).
    pub async fn send_rest(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.send_rest(RawSocket(&self.socket)).await,
            None => Ok(()),
        }
    }

    /// Waits until there is room to send. Where there is already, as a rule, everything else on the core has its turn.
    ///
    /// # Errors
    /// As poll(2).
    pub async fn take_turns(&self) -> io::Result<()> {
        self.socket.writable(false).await
    }

    /// Sends as much of `bytes` as there is room for, at once, and says how much that was. The kernel keeps the last of
    /// it back for a moment, to send it together with what follows.
    pub fn send_ahead(&mut self, bytes: &[u8]) -> usize {
        let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // What is wrong with the connection shows again with what follows.
        rustix::net::send(borrowed(&self.socket.as_raw_fd()), bytes, flags).unwrap_or(0)
    }

    /// Lets files be sent from where they are. Until it is dropped, nothing else sends or reads here.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn file_sender(&mut self) -> io::Result<FileSender<'_>> {
        FileSender::new(&self.socket, self.driver)
    }
}

async fn read_tls_block(
    tls: &mut TlsSession,
    socket: &TcpStream,
    block: &mut Block,
    bytes_max: usize,
) -> io::Result<usize> {
    let wanted = bytes_max.min(block.room());
    let mut room = wanted;
    let append = |part: &[u8]| {
        let count = block.append(&part[..part.len().min(room)]);
        room -= count;
        count
    };
    tls.read(RawSocket(socket), wanted, append).await
}

/// A socket for whoever has memory of its own: waiting and moving bytes are apart, so that no memory is held while
/// nothing moves, and the kernel holds none over a wait.
#[derive(Clone, Copy)]
pub(in super::super) struct RawSocket<'s>(&'s TcpStream);

impl RawSocket<'_> {
    /// Waits until something has come. Also where it has already, everything else on the core has its turn.
    pub(in super::super) async fn readable(self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// Waits until there is room to send, in the same way.
    pub(in super::super) async fn writable(self) -> io::Result<()> {
        self.0.writable(false).await
    }

    /// Takes at once what has come; 0 is the end, and `None` that nothing has come.
    pub(in super::super) fn receive(self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(borrowed(&self.0.as_raw_fd()), room, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends at once what there is room for, and says how much that was.
    pub(in super::super) fn send(self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(borrowed(&self.0.as_raw_fd()), bytes, flags) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// A connection while it sends from files: bytes go from the page cache to the socket, without passing through this
/// process.
pub struct FileSender<'s> {
    socket: &'s TcpStream,
    /// Whether the socket is to wait again afterwards.
    waits: bool,
}

impl<'s> FileSender<'s> {
    fn new(socket: &'s TcpStream, driver: IoDriver) -> io::Result<Self> {
        // sendfile(2) would hold the core while the client takes its time, where the socket lets it.
        let waits = driver == IoDriver::IoUring;
        if waits {
            rustix::io::ioctl_fionbio(borrowed(&socket.as_raw_fd()), true)?;
        }
        Ok(Self { socket, waits })
    }

    /// Waits until the client has taken enough for more to be sent. Also where it has already, this lets everything
    /// else on the core have its turn.
    ///
    /// # Errors
    /// As poll(2).
    pub async fn room(&self) -> io::Result<()> {
        self.socket.writable(false).await
    }

    /// Sends at once up to `bytes_max` bytes of `file` from `offset` on, and says how many that were: none, where there
    /// is no room. The bytes should be [in memory](DataFile::is_in_memory), or this waits for the disk.
    ///
    /// # Errors
    /// As sendfile(2); [`io::ErrorKind::UnexpectedEof`] if the file ends there.
    pub fn send(&self, file: &DataFile, mut offset: u64, bytes_max: usize) -> io::Result<usize> {
        let (socket, file) = (self.socket.as_raw_fd(), file.descriptor());
        match rustix::fs::sendfile(borrowed(&socket), borrowed(&file), Some(&mut offset), bytes_max) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for FileSender<'_> {
    fn drop(&mut self) {
        if self.waits {
            // Where this fails, reads that find nothing end the connection instead of waiting.
            let _ = rustix::io::ioctl_fionbio(borrowed(&self.socket.as_raw_fd()), false);
        }
    }
}

/// Ends what a connection waits for. To be dropped before its [`Stream`].
#[derive(Debug)]
pub struct ShutDownHandle(RawFd);

impl ShutDownHandle {
    /// How much of what was sent the peer has not taken yet.
    pub fn untaken_bytes(&self) -> usize {
        queued_bytes::<SENT_AND_NOT_ACKNOWLEDGED>(&self.0)
    }

    /// What is read next, behind what has come already, is the end.
    pub fn stop_reading(&self) {
        shut_down(self.0, Shutdown::Read);
    }

    /// Reads and sends end at once.
    pub fn stop(&self) {
        shut_down(self.0, Shutdown::Both);
    }

    /// Reads and sends end at once, and what the peer has not taken is dropped when the connection is closed. Otherwise
    /// the kernel would keep offering it for minutes, and up to `net.ipv4.tcp_wmem` of memory for each connection.
    pub fn reset(&self) {
        // Where this fails, the kernel gives up by itself, only later.
        let _ = rustix::net::sockopt::set_socket_linger(borrowed(&self.0), Some(Duration::ZERO));
        self.stop();
    }
}

/// `SIOCOUTQ` of tcp(7): what the peer has not acknowledged.
const SENT_AND_NOT_ACKNOWLEDGED: Opcode = 0x5411;
/// `SIOCOUTQNSD`: what has not left, since the peer has no room for it.
const NOT_SENT: Opcode = 0x894B;

/// What the kernel holds to send on a connection; nothing, where it does not say.
#[allow(unsafe_code, reason = "rustix knows no such operation of its own")]
fn queued_bytes<const OPERATION: Opcode>(socket: &RawFd) -> usize {
    // SAFETY: both operations of a TCP socket write one `int` to where they are told, and change nothing.
    let queued = unsafe { rustix::ioctl::ioctl(borrowed(socket), Getter::<OPERATION, c_int>::new()) };
    queued.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}

/// shutdown(2) never waits. Its failure is of no interest: the connection is gone already then.
fn shut_down(fd: RawFd, how: Shutdown) {
    let _ = rustix::net::shutdown(borrowed(&fd), how);
}
