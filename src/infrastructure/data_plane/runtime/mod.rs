//! The only place that names monoio's types: a core's event loop and its clock, its sockets (`stream`), its files
//! (`data_file`). Behind it the runtime could be exchanged.
//!
//! What monoio 0.2.4 asks of its users, and is kept here: buffers move into each call and come back with its
//! result, since dropping a future does not stop the kernel; a read that must be given up is cancelled and then
//! awaited, never dropped; nothing yields without I/O in between.

mod data_file;
mod stream;

use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use io_uring::{IoUring, Probe, opcode};
use monoio::net::UnixStream;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use thiserror::Error;

pub use self::data_file::DataFile;
pub(super) use self::stream::RawSocket;
pub use self::stream::{FileSender, Listener, ShutDownHandle, Stream, StreamInTransit};

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

/// monoio shows descriptors as numbers only; system calls want to know that they are open.
#[allow(unsafe_code, reason = "monoio shows descriptors as numbers only")]
fn borrowed(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: the callers hold an open descriptor for the length of one system call: a file's comes from the
    // `DataFile` that is borrowed meanwhile, a socket's from its own `Stream`,
    // from a `FileSender` or `RawSocket` that borrows that, or from a handle that its owner drops
    // before the stream (`ConnectionTable::register` demands it).
    unsafe { BorrowedFd::borrow_raw(*fd) }
}
