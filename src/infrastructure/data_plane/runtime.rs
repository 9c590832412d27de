//! The only file that names monoio's types: a core's event loop, its sockets, its files, its clock. Behind it the
//! runtime could be exchanged.
//!
//! What monoio 0.2.4 asks of its users, and is kept here: buffers move into each call and come back with its
//! result, since dropping a future does not stop the kernel; a read that must be given up is cancelled and then
//! awaited, never dropped; nothing yields without I/O in between.

use std::cell::Cell;
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use io_uring::{IoUring, Probe, opcode};
use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller};
use monoio::net::{TcpListener, TcpStream, UnixStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::ioctl::{Getter, Opcode};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use thiserror::Error;

use super::buffers::{Block, Content, Room, Tail, read_with};
use super::deadline_list::WaitLimit;
use super::helpers::{HelperError, HelperPool};
use super::tls::{RECORD_BYTES_MAX, TlsFailure, TlsSession};

/// How a core talks to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoDriver {
    /// Through io_uring.
    IoUring,
    /// Through epoll for sockets and helper threads for files, where io_uring is refused.
    Epoll,
}

/// Why io_uring cannot be used here, and how to mend it.
#[derive(Debug, Error)]
pub enum IoUringRefused {
    /// `io_uring_setup` was denied.
    #[error(
        "io_uring is refused here ({0}): container runtimes block it by default, and the sysctl \
         kernel.io_uring_disabled turns it off; allow io_uring_setup, io_uring_enter and io_uring_register in the \
         seccomp profile"
    )]
    SetUp(#[source] io::Error),
    /// The kernel is too old.
    #[error("this kernel's io_uring lacks what the server needs ({0}); Linux 6.1 or later has all of it")]
    Operations(String),
}

const RING_ENTRIES: u32 = 1024;
/// Room for what the kernel has done. By it the kernel also sizes the table of all that is waited for, and this is where
/// that is largest: monoio has what closes a connection cancelled too, for which a chain of that table is looked through.
const RING_COMPLETIONS: u32 = 8192;
/// What Linux reads ahead by default of a file that is read on and on (`read_ahead_kb`): so much is on its way from the
/// disk together.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// Whether io_uring and the operations that this server uses are there.
///
/// # Errors
/// [`IoUringRefused`], which says how to mend it.
pub fn probe_io_uring() -> Result<(), IoUringRefused> {
    let ring = IoUring::new(8).map_err(IoUringRefused::SetUp)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(IoUringRefused::SetUp)?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Close::CODE, "close"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::Read::CODE, "read"),
        (opcode::Recv::CODE, "receive"),
        (opcode::Send::CODE, "send"),
        (opcode::Timeout::CODE, "timeout"),
        (opcode::Write::CODE, "write"),
    ];
    let missing = needed.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name);
    match missing.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => Ok(()),
        missing => Err(IoUringRefused::Operations(missing)),
    }
}

/// How long the core's thread runs at a stretch while others want its processor. Helper threads are given longer ones, so
/// that it goes before them when something has come for it, and has no more of the processor for that.
const SLICE_NANOSECONDS: u64 = 200_000;

/// Asks the kernel for short slices of the processor for this thread, and for ordinary ones for those that it starts. Linux
/// before 6.12 has no such wish, a filter of system calls may refuse it, and whoever has given this process another policy
/// knows what for: then all stays as it is.
#[allow(unsafe_code, reason = "no crate in use has these system calls")]
fn ask_for_short_slices() {
    let mut wish = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (this_thread, bytes, none) = (0 as libc::pid_t, size_of_val(&wish), 0 as libc::c_uint);
    let wish_is = &raw mut wish;
    // SAFETY: sched_getattr(2) writes no more than so many bytes to where it is told, which lives until it returns.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, this_thread, wish_is, bytes, none) } == 0;
    if !known || i64::from(wish.sched_policy) != i64::from(libc::SCHED_OTHER) {
        return;
    }
    wish.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    wish.sched_runtime = SLICE_NANOSECONDS;
    // SAFETY: sched_setattr(2) reads the structure, whose length stands in it, and writes at most that length back.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw mut wish, none) };
}

/// Runs `main` on this thread until it is done.
///
/// # Errors
/// The ring or epoll instance cannot be made.
pub fn run<F: Future>(driver: IoDriver, main: F) -> io::Result<F::Output> {
    ask_for_short_slices();
    match driver {
        IoDriver::IoUring => {
            let tuned = build_ring(&tuned_ring());
            // Kernels before 6.1 do not know the flags; the plain ring does the same work a little slower.
            let mut runtime = tuned.or_else(|_| build_ring(&IoUring::builder()))?;
            Ok(runtime.block_on(noted(main)))
        }
        IoDriver::Epoll => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
            Ok(runtime.block_on(noted(main)))
        }
    }
}

thread_local! {
    /// Whether this thread's tasks run: until its main future has ended.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

async fn noted<F: Future>(main: F) -> F::Output {
    RUNNING.set(true);
    let output = main.await;
    RUNNING.set(false);
    output
}

/// Only this thread submits, and what the kernel has to do for its connections it does when the core asks for it: for some
/// twenty at a time, so that what these need is still in the processor's caches when their turn comes, however many others
/// are ready.
fn tuned_ring() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_defer_taskrun().setup_single_issuer().setup_cqsize(RING_COMPLETIONS);
    builder
}

fn build_ring(
    ring: &io_uring::Builder,
) -> io::Result<monoio::Runtime<monoio::time::TimeDriver<IoUringDriver>>> {
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring.clone())
        .enable_timer()
        .build()
}

/// Starts a task on this core.
pub fn spawn<T: 'static>(task: impl Future<Output = T> + 'static) -> Task<T> {
    Task(monoio::spawn(task))
}

/// Starts a task on this core, or drops it, if the core has ended and what is left of its tasks is being dropped.
pub fn spawn_unless_ended(task: impl Future<Output = ()> + 'static) {
    if RUNNING.get() {
        drop(spawn(task));
    }
}

/// A task of this core, which is also the wait for its end. Dropping it lets the task run on.
pub struct Task<T>(monoio::task::JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Waits.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// `future`'s output, or `None` if it takes longer than `limit`. The future must not hold an operation of the
/// ring whose loss would matter: it is dropped.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    match select(pin!(future), pin!(monoio::time::sleep(limit))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// A socket of a core's own that is always ready: who waits for it lets everything else on the core have its turn, where
/// there is io_uring. Through epoll it may be passed at once.
pub struct Turnstile {
    socket: UnixStream,
    /// Without it, the socket would be ready in another way.
    _other_end: std::os::unix::net::UnixStream,
}

impl Turnstile {
    /// Takes two descriptors.
    ///
    /// # Errors
    /// There are none left.
    pub fn new() -> io::Result<Self> {
        let (own, _other_end) = std::os::unix::net::UnixStream::pair()?;
        Ok(Self { socket: UnixStream::from_std(own)?, _other_end })
    }

    /// Waits until everything else that is ready has had its turn.
    pub async fn pass(&self) {
        // It cannot fail in a way that matters: the turn is over all the same.
        let _ = self.socket.writable(false).await;
    }
}

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
    pub(super) fn speak_tls(&mut self, session: Box<TlsSession>) {
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
pub(super) struct RawSocket<'s>(&'s TcpStream);

impl RawSocket<'_> {
    /// Waits until something has come. Also where it has already, everything else on the core has its turn.
    pub(super) async fn readable(self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// Waits until there is room to send, in the same way.
    pub(super) async fn writable(self) -> io::Result<()> {
        self.0.writable(false).await
    }

    /// Takes at once what has come; 0 is the end, and `None` that nothing has come.
    pub(super) fn receive(self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(borrowed(&self.0.as_raw_fd()), room, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends at once what there is room for, and says how much that was.
    pub(super) fn send(self, bytes: &[u8]) -> io::Result<usize> {
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

/// monoio shows descriptors as numbers only; system calls want to know that they are open.
#[allow(unsafe_code, reason = "monoio shows descriptors as numbers only")]
fn borrowed(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: the callers hold an open descriptor for the length of one system call: a file's comes from the
    // `DataFile` that is borrowed meanwhile, a socket's from its own `Stream`,
    // from a `FileSender` or `RawSocket` that borrows that, or from a handle that its owner drops
    // before the stream (`ConnectionTable::register` demands it).
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

/// A file that a core reads and writes.
pub struct DataFile(FileAccess);

enum FileAccess {
    Ring(monoio::fs::File, WaitLimit),
    /// monoio's epoll driver would read and write files on the core itself.
    Helpers(Arc<File>, Rc<HelperPool>),
}

impl DataFile {
    /// Takes over an open file.
    ///
    /// # Errors
    /// It cannot be registered with the core.
    pub fn from_std(file: File, driver: IoDriver, helpers: &Rc<HelperPool>) -> io::Result<Self> {
        Ok(Self(match driver {
            IoDriver::IoUring => FileAccess::Ring(monoio::fs::File::from_std(file)?, helpers.limit().clone()),
            IoDriver::Epoll => FileAccess::Helpers(Arc::new(file), helpers.clone()),
        }))
    }

    fn descriptor(&self) -> RawFd {
        match &self.0 {
            FileAccess::Ring(file, _) => file.as_raw_fd(),
            FileAccess::Helpers(file, _) => file.as_raw_fd(),
        }
    }

    /// Whether all of `length` bytes from `offset` on are in the page cache now. Never waits for a disk; where the
    /// kernel does not tell, the answer is no. A stretch of less than `READ_AHEAD_BYTES` that is being read in the
    /// middle of what is there already may be missed.
    pub fn is_in_memory(&self, offset: u64, length: u64) -> bool {
        let fd = self.descriptor();
        let Some(last) = offset.checked_add(length).and_then(|end| end.checked_sub(1)) else { return false };
        let page_bytes = rustix::param::page_size() as u64;
        let pages = last / page_bytes - offset / page_bytes + 1;
        if pages_cached(borrowed(&fd), offset, length) != Some(pages) {
            return false;
        }
        // A page that is on its way from the disk counts as cached too. Pages are read many at a time, and not always
        // in order: one byte of each stretch tells of those around it. The last one first, which most often says no.
        let mut looks = (offset..=last).rev().step_by(READ_AHEAD_BYTES);
        looks.all(|position| self.is_byte_in_memory(position))
    }

    fn is_byte_in_memory(&self, offset: u64) -> bool {
        let fd = self.descriptor();
        let mut byte = [0];
        let mut room = [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(borrowed(&fd), &mut room, offset, ReadWriteFlags::NOWAIT) == Ok(1)
    }

    /// Appends what the page cache holds of `bytes_max` bytes of the file from `offset` on, at once, or nothing.
    /// Never waits for a disk: what is not in memory is left for [`read_at`](Self::read_at).
    pub fn read_cached(&self, bytes: &mut Vec<u8>, bytes_max: usize, offset: u64) {
        let FileAccess::Ring(file, _) = &self.0 else { return };
        read_in_memory(borrowed(&file.as_raw_fd()), &mut [], bytes, bytes_max, offset);
    }

    /// As [`read_cached`](Self::read_cached), into memory that is there: how much of it has been filled.
    pub fn read_cached_into(&self, room: &mut [u8], offset: u64) -> usize {
        let FileAccess::Ring(file, _) = &self.0 else { return 0 };
        let (fd, mut room) = (file.as_raw_fd(), [io::IoSliceMut::new(room)]);
        rustix::io::preadv2(borrowed(&fd), &mut room, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    /// As [`read_cached`](Self::read_cached) for `bytes_max` bytes that stand behind `header` in the file: whether the
    /// page cache had all of both. If not, nothing is appended.
    pub fn read_cached_behind(
        &self,
        header: &mut [u8],
        bytes: &mut Vec<u8>,
        bytes_max: usize,
        offset: u64,
    ) -> bool {
        let FileAccess::Ring(file, _) = &self.0 else { return false };
        let (start, wanted) = (bytes.len(), header.len() + bytes_max);
        let whole = read_in_memory(borrowed(&file.as_raw_fd()), header, bytes, bytes_max, offset) == wanted;
        if !whole {
            bytes.truncate(start);
        }
        whole
    }

    /// Appends up to `bytes_max` bytes of the file from `offset` on to `bytes`, into its spare capacity. After an error
    /// `bytes` does not come back: a read that is late may still write to it.
    ///
    /// # Errors
    /// As read(2); [`io::ErrorKind::TimedOut`] past the limit.
    pub async fn read_at(&self, bytes: Vec<u8>, bytes_max: usize, offset: u64) -> io::Result<Vec<u8>> {
        let (result, tail) = self.read_into(Tail { bytes, bytes_max }, offset).await?;
        result.map(|_| tail.bytes)
    }

    /// Appends up to `bytes_max` bytes of the file from `offset` on to a block's content. After an error the block
    /// does not come back here, but to its pool, once nothing writes to it any more.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub async fn read_block_at(
        &self,
        block: Block,
        bytes_max: usize,
        offset: u64,
    ) -> io::Result<(usize, Block)> {
        let (result, room) = self.read_into(Room { block, bytes_max }, offset).await?;
        result.map(|count| (count, room.block))
    }

    async fn read_into<B: IoBufMut + Send>(
        &self,
        mut buffer: B,
        offset: u64,
    ) -> io::Result<(io::Result<usize>, B)> {
        match &self.0 {
            FileAccess::Ring(file, limit) => {
                // A read that is dropped keeps its buffer and its file until the kernel has done with both.
                let read = limit.within(pin!(file.read_at(buffer, offset))).await;
                read.ok_or_else(|| io::ErrorKind::TimedOut.into())
            }
            FileAccess::Helpers(file, helpers) => {
                let file = file.clone();
                let job = move || {
                    let result = read_with(&mut buffer, |room| {
                        let (filled, _) = rustix::io::pread(&*file, room, offset)?;
                        Ok(filled.len())
                    });
                    (result, buffer)
                };
                helpers.run(job).await.map_err(helper_failed)
            }
        }
    }

    /// Whether the file has lost its last name, so that only those who have it open keep its blocks. Asks nobody but the
    /// kernel's memory, so that it never waits; where it cannot tell, the answer is no.
    pub fn is_removed(&self) -> bool {
        let fd = self.descriptor();
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let looked = rustix::fs::statx(borrowed(&fd), c"", flags, StatxFlags::NLINK);
        looked.is_ok_and(|status| status.stx_nlink == 0)
    }

    /// Closes a file that has been removed. Its blocks are freed by whoever closes it last, which takes a while: that
    /// is a helper thread.
    pub async fn close_removed(self, helpers: &HelperPool) {
        match self.0 {
            FileAccess::Ring(file, _) => {
                let kept = rustix::io::dup(borrowed(&file.as_raw_fd()));
                let _ = file.close().await;
                helpers.dispose(kept);
            }
            FileAccess::Helpers(file, _) => helpers.dispose(file),
        }
    }

    /// Closes the file, once nothing else uses it.
    pub async fn close(self) {
        if let FileAccess::Ring(file, _) = self.0 {
            // A failure is of no interest: what had to be durable has been synced.
            let _ = file.close().await;
        }
    }

    /// Writes a block's whole content at `offset`, and gives the block back. Through the ring it waits without a limit:
    /// whoever limits it lets the write run on.
    ///
    /// # Errors
    /// As write(2).
    pub async fn write_block_at(&self, block: Block, offset: u64) -> io::Result<Block> {
        match &self.0 {
            FileAccess::Ring(file, _) => write_whole(file, block, offset).await,
            FileAccess::Helpers(file, helpers) => {
                let file = file.clone();
                let job = move || {
                    std::os::unix::fs::FileExt::write_all_at(&*file, block.bytes(), offset).map(|()| block)
                };
                helpers.run(job).await.map_err(helper_failed)?
            }
        }
    }
}

async fn write_whole(file: &monoio::fs::File, block: Block, offset: u64) -> io::Result<Block> {
    let length = block.len();
    let mut content = Content { block, range: 0..length };
    while !content.range.is_empty() {
        let position = content.range.start as u64;
        let (result, back) = file.write_at(content, offset + position).await;
        content = back;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => content.range.start += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(content.block)
}

/// Reads what the page cache holds of a file from `offset` on: first into `header`, then up to `bytes_max` bytes behind what
/// `bytes` has, into spare capacity that nobody has to make zeros of before. Says how many bytes that was, of both
/// together; never waits for a disk.
#[allow(
    unsafe_code,
    reason = "rustix reads several pieces into memory that holds something already, and no other"
)]
fn read_in_memory(
    file: BorrowedFd<'_>,
    header: &mut [u8],
    bytes: &mut Vec<u8>,
    bytes_max: usize,
    offset: u64,
) -> usize {
    let Ok(offset) = libc::off64_t::try_from(offset) else { return 0 };
    bytes.reserve_exact(bytes_max);
    let room = &mut bytes.spare_capacity_mut()[..bytes_max];
    let pieces = [
        libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
    ];
    // SAFETY: preadv2(2) reads two `struct iovec` and writes to the memory that they name, which is borrowed here alone
    // until it returns. The descriptor is open, since borrowed.
    let read = unsafe {
        libc::preadv2(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as c_int, offset, libc::RWF_NOWAIT)
    };
    // An error is a negative number.
    let read = usize::try_from(read).unwrap_or(0);
    let length = bytes.len() + read.saturating_sub(header.len()).min(bytes_max);
    // SAFETY: the pieces were filled in their order, so that what came behind the header stands in the spare capacity.
    unsafe { bytes.set_len(length) };
    read
}

/// How many pages of a part of a file are in the page cache, or `None` where the kernel does not tell: before Linux 6.5,
/// or behind a filter of system calls.
#[allow(unsafe_code, reason = "no crate in use has this system call")]
fn pages_cached(file: BorrowedFd<'_>, offset: u64, length: u64) -> Option<u64> {
    /// The same number on every architecture that Linux has had it on.
    const CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Part {
        offset: u64,
        length: u64,
    }
    let part = Part { offset, length };
    // Cached, dirty, under write-back, evicted, evicted lately.
    let mut counts = [0_u64; 5];
    // SAFETY: cachestat(2) reads one `struct cachestat_range` (two 64-bit numbers) and writes one `struct cachestat`
    // (five of them); both live and are borrowed here alone until it returns. The descriptor is open, since borrowed.
    let result = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const part, &raw mut counts, 0 as libc::c_uint)
    };
    (result == 0).then_some(counts[0])
}

fn helper_failed(error: HelperError) -> io::Error {
    match error {
        HelperError::TimedOut => io::ErrorKind::TimedOut.into(),
        HelperError::Overloaded | HelperError::Lost => io::Error::other(error),
    }
}
