//! Files that a core reads and writes: through the ring, or where there is none by helper threads; and what the page cache
//! has of them, without a wait.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use monoio::buf::IoBufMut;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::ReadWriteFlags;

use super::super::buffers::{Block, Content, Room, Tail, read_with};
use super::super::deadline_list::WaitLimit;
use super::super::helpers::{HelperError, HelperPool};
use super::{IoDriver, borrowed};

/// What Linux reads ahead by default of a file that is read on and on (`read_ahead_kb`): so much is on its way from the
/// disk together.
const READ_AHEAD_BYTES: usize = 128 * 1024;

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

    pub(super) fn descriptor(&self) -> RawFd {
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
