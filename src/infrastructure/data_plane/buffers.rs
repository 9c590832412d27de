//! Aligned, pooled memory that bytes are received into and written from, and the adaptors through which the ring
//! sees it. Runs on a data-plane core; blocks also travel to that core's helper threads and back.
//!
//! Two sizes: every transfer starts with a small block, and gets a large one only while bytes keep coming. All
//! blocks of a core together stay under a fixed number of bytes; large ones leave a quarter of it to the small
//! ones, and no tenant holds more than half of it in large ones. What is received leaves an eighth to what is sent:
//! uploads that wait for a disk must not keep anyone from reading. And of that, what its sender may take its time over
//! leaves a sixteenth to bodies that have come whole: those hold a block for only as long as this server takes.
//!
//! A large block is half a huge page, where there is one.
//!
//! The unsafe code of this crate is in this file (allocation, and the pointers that the ring reads and writes), but for five
//! calls in `runtime/`.
#![allow(unsafe_code, reason = "owned buffers are shown to the kernel by pointer")]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use monoio::buf::{IoBuf, IoBufMut};

use crate::application::ports::ByteBuffer;
use crate::domain::value_objects::TenantId;

/// What direct I/O asks of addresses, lengths and offsets, on every block device in use.
pub const ALIGNMENT_BYTES: usize = 4096;
/// What a transfer starts with.
pub const SMALL_BLOCK_BYTES: usize = 16 * 1024;
/// What a transfer goes on with while it is fast: measured, larger blocks gain little more.
pub const LARGE_BLOCK_BYTES: usize = 1024 * 1024;
/// What a huge page holds on the machines in use. Large blocks are cut out of so much.
const SLAB_BYTES: usize = 2 * LARGE_BLOCK_BYTES;

/// The blocks of one core.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    small: Vec<Memory>,
    large: Vec<Memory>,
    bytes_lent: usize,
    large_bytes_lent: usize,
    large_bytes_by_tenant: HashMap<TenantId, usize>,
}

/// Zeroed memory of one of the two sizes, aligned for direct I/O.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    /// What it is a half of, unless it was allocated by itself.
    slab: Option<Arc<Slab>>,
}

/// Memory for two large blocks, a huge page where the kernel has one. For a direct write the kernel looks up, pins and
/// describes to the disk each page of a block: one then, and 256 otherwise, which are more than one request of a virtual
/// disk may have.
struct Slab(NonNull<u8>);

// SAFETY: `Memory` owns its allocation alone, as a `Box<[u8]>` does; nothing about it is tied to a thread.
unsafe impl Send for Memory {}

// SAFETY: `Slab` owns its allocation; the two `Memory` that write to it do not overlap. It is not tied to a thread.
unsafe impl Send for Slab {}

// SAFETY: nothing can be done with a shared `Slab` but to hold it.
unsafe impl Sync for Slab {}

impl Slab {
    fn allocate() -> Self {
        let layout = layout(SLAB_BYTES, SLAB_BYTES);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        // SAFETY: the range is the allocation, and this advice changes nothing of what is in it. Where it is not taken,
        // the pages are small ones.
        unsafe { libc::madvise(start.as_ptr().cast(), SLAB_BYTES, libc::MADV_HUGEPAGE) };
        // This takes the page, and holds the core for as long as two blocks of small pages would.
        // SAFETY: the range is the allocation, of which nobody else knows yet.
        unsafe { std::ptr::write_bytes(start.as_ptr(), 0, SLAB_BYTES) };
        Self(start)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with this very layout and is freed once, here, when no half of it is left.
        unsafe { dealloc(self.0.as_ptr(), layout(SLAB_BYTES, SLAB_BYTES)) };
    }
}

impl Memory {
    /// Two large blocks that lie in one huge page.
    fn large_pair() -> [Self; 2] {
        let slab = Arc::new(Slab::allocate());
        // SAFETY: the second half begins inside the allocation.
        let halves = [slab.0, unsafe { slab.0.add(LARGE_BLOCK_BYTES) }];
        halves.map(|start| Self { start, capacity: LARGE_BLOCK_BYTES, slab: Some(slab.clone()) })
    }

    fn allocate(capacity: usize) -> Self {
        let layout = layout(capacity, ALIGNMENT_BYTES);
        // SAFETY: the layout's size is one of the two block sizes, so it is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity, slab: None }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.slab.is_some() {
            return;
        }
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), layout(self.capacity, ALIGNMENT_BYTES)) };
    }
}

fn layout(bytes: usize, alignment: usize) -> Layout {
    match Layout::from_size_align(bytes, alignment) {
        Ok(layout) => layout,
        Err(_) => crate::invariant::broken("a block size is a valid layout"),
    }
}

impl BufferPool {
    /// A pool that never lends more than `bytes_max` bytes at once.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared { bytes_max, state: Mutex::default() }))
    }

    /// A small block to send from, unless the whole pool is lent.
    pub fn small_block(&self) -> Option<Block> {
        self.small_block_up_to(self.0.bytes_max)
    }

    /// Whether there is a small block to receive a body of so many bytes into now, which may come whole if it fits.
    pub fn can_receive(&self, length_bytes: Option<u64>) -> bool {
        let may_come_whole = length_bytes.is_some_and(|bytes| bytes <= SMALL_BLOCK_BYTES as u64);
        let bytes_max = if may_come_whole { self.whole_bodies_max() } else { self.receive_bytes_max() };
        self.0.lock().bytes_lent + SMALL_BLOCK_BYTES <= bytes_max
    }

    /// A small block to receive into, unless only what is kept for sending and for whole bodies is left.
    pub fn small_block_to_receive(&self) -> Option<Block> {
        self.small_block_up_to(self.receive_bytes_max())
    }

    /// A small block for a body that has come whole already, unless only what is kept for sending is left.
    pub fn small_block_for_whole_body(&self) -> Option<Block> {
        self.small_block_up_to(self.whole_bodies_max())
    }

    fn whole_bodies_max(&self) -> usize {
        self.0.bytes_max - self.0.bytes_max / 8
    }

    fn receive_bytes_max(&self) -> usize {
        self.whole_bodies_max() - self.0.bytes_max / 16
    }

    fn small_block_up_to(&self, bytes_max: usize) -> Option<Block> {
        let mut state = self.0.lock();
        if state.bytes_lent + SMALL_BLOCK_BYTES > bytes_max {
            return None;
        }
        state.bytes_lent += SMALL_BLOCK_BYTES;
        let memory = state.small.pop();
        drop(state);
        Some(self.block(memory.unwrap_or_else(|| Memory::allocate(SMALL_BLOCK_BYTES)), None))
    }

    /// A large block, unless too many are lent, or too many of them to this tenant.
    pub fn large_block(&self, tenant_id: &TenantId) -> Option<Block> {
        let mut state = self.0.lock();
        let of_tenant = state.large_bytes_by_tenant.get(tenant_id).copied().unwrap_or(0);
        let over_all = state.bytes_lent + LARGE_BLOCK_BYTES > self.0.bytes_max
            || state.large_bytes_lent + LARGE_BLOCK_BYTES > self.0.bytes_max / 4 * 3;
        if over_all || of_tenant + LARGE_BLOCK_BYTES > self.0.bytes_max / 2 {
            return None;
        }
        state.bytes_lent += LARGE_BLOCK_BYTES;
        state.large_bytes_lent += LARGE_BLOCK_BYTES;
        state.large_bytes_by_tenant.insert(tenant_id.clone(), of_tenant + LARGE_BLOCK_BYTES);
        let memory = state.large.pop();
        drop(state);
        let memory = memory.unwrap_or_else(|| {
            let [memory, other] = Memory::large_pair();
            self.0.lock().large.push(other);
            memory
        });
        Some(self.block(memory, Some(tenant_id.clone())))
    }

    /// A large block that is nobody's share, for one that uses it over and over. The other half of its huge page is left
    /// unused.
    pub fn sole_large_block() -> Block {
        let pool = Self::new(LARGE_BLOCK_BYTES);
        pool.0.lock().bytes_lent = LARGE_BLOCK_BYTES;
        let [memory, _] = Memory::large_pair();
        pool.block(memory, None)
    }

    /// A large block that is nobody's share, full of zeros.
    pub fn sole_large_block_of_zeros() -> Block {
        let mut block = Self::sole_large_block();
        // As it was allocated.
        block.length = LARGE_BLOCK_BYTES;
        block
    }

    /// Both halves of a huge page, for one that uses them by turns over and over.
    pub fn sole_large_blocks() -> [Block; 2] {
        let pool = Self::new(SLAB_BYTES);
        pool.0.lock().bytes_lent = SLAB_BYTES;
        Memory::large_pair().map(|memory| pool.block(memory, None))
    }

    /// How many bytes are lent now.
    pub fn bytes_lent(&self) -> usize {
        self.0.lock().bytes_lent
    }

    fn block(&self, memory: Memory, tenant_id: Option<TenantId>) -> Block {
        Block { memory: Some(memory), length: 0, tenant_id, pool: self.0.clone() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, the counts would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_back(&self, memory: Memory, tenant_id: Option<TenantId>) {
        let mut state = self.lock();
        state.bytes_lent -= memory.capacity;
        let Some(tenant_id) = tenant_id else {
            state.small.push(memory);
            return;
        };
        state.large_bytes_lent -= memory.capacity;
        if let Some(bytes) = state.large_bytes_by_tenant.get_mut(&tenant_id) {
            *bytes -= memory.capacity;
            if *bytes == 0 {
                state.large_bytes_by_tenant.remove(&tenant_id);
            }
        }
        state.large.push(memory);
    }
}

/// A lent block: `length` bytes of content at its start, room behind them. Goes back to its pool when dropped,
/// also when the ring held it last.
pub struct Block {
    /// Taken only by `drop`.
    memory: Option<Memory>,
    length: usize,
    /// Whose share a large block counts in; small blocks count in nobody's.
    tenant_id: Option<TenantId>,
    pool: Arc<Shared>,
}

impl Block {
    fn memory(&self) -> &Memory {
        match &self.memory {
            Some(memory) => memory,
            None => crate::invariant::broken("a block has its memory until it is dropped"),
        }
    }

    /// Bytes of content.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of content and room together.
    pub fn capacity(&self) -> usize {
        self.memory().capacity
    }

    /// Bytes of room behind the content.
    pub fn room(&self) -> usize {
        self.capacity() - self.length
    }

    /// Whether it is one of the large ones.
    pub fn is_large(&self) -> bool {
        self.tenant_id.is_some()
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Forgets the content behind the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Forgets the first `count` bytes of the content. What is behind them moves to the front.
    pub fn drop_front(&mut self, count: usize) {
        let count = count.min(self.length);
        let start = self.memory().start.as_ptr();
        // SAFETY: both ranges lie in the content, which `self` owns alone; `copy` allows them to overlap.
        unsafe { std::ptr::copy(start.add(count), start, self.length - count) };
        self.length -= count;
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is `capacity` bytes long, zeroed when made, and `length <= capacity`; `self` is
        // borrowed, so nothing writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.memory().start.as_ptr(), self.length) }
    }

    /// The content, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory().start.as_ptr(), self.length) }
    }

    /// Copies as much of `bytes` behind the content as there is room for, and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let start = self.memory().start.as_ptr();
        // SAFETY: `length + count <= capacity`, and `bytes` cannot overlap memory that `self` owns alone.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(self.length), count) };
        self.length += count;
        count
    }

    /// Extends the content with zeros to a multiple of [`ALIGNMENT_BYTES`], as direct I/O wants its length.
    pub fn pad_to_alignment(&mut self) {
        let padded = self.length.next_multiple_of(ALIGNMENT_BYTES);
        let start = self.memory().start.as_ptr();
        // SAFETY: the capacity is a multiple of the alignment, so `padded <= capacity`.
        unsafe { std::ptr::write_bytes(start.add(self.length), 0, padded - self.length) };
        self.length = padded;
    }
}

impl ByteBuffer for Block {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn append(&mut self, bytes: &[u8]) -> usize {
        self.append(bytes)
    }

    fn clear(&mut self) {
        self.clear();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.take_back(memory, self.tenant_id.take());
        }
    }
}

/// A block's room, as the ring's target of a read: what is read is appended to the content.
pub(super) struct Room {
    pub(super) block: Block,
    pub(super) bytes_max: usize,
}

// SAFETY: the pointer is inside the block's own allocation, which does not move when `Room` does; `bytes_total`
// never reaches past its end; and `set_init` is given the count of bytes that were read there.
unsafe impl IoBufMut for Room {
    fn write_ptr(&mut self) -> *mut u8 {
        self.block.memory().start.as_ptr().wrapping_add(self.block.length)
    }

    fn bytes_total(&mut self) -> usize {
        self.block.room().min(self.bytes_max)
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.block.length += count;
    }
}

/// A part of a block's content, as the ring's source of a write.
pub(super) struct Content {
    pub(super) block: Block,
    pub(super) range: Range<usize>,
}

// SAFETY: the range lies in the block's content (its makers take it from there), the allocation does not move
// when `Content` does, and nothing writes to a block that is inside one.
unsafe impl IoBuf for Content {
    fn read_ptr(&self) -> *const u8 {
        self.block.bytes()[self.range.clone()].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.range.len()
    }
}

/// A vector's spare capacity, as the ring's target of a read: what is read is appended.
pub(super) struct Tail {
    pub(super) bytes: Vec<u8>,
    pub(super) bytes_max: usize,
}

// SAFETY: the pointer is into the vector's own allocation, which does not move when `Tail` does; `bytes_total`
// never reaches past its capacity; and `set_init` is given the count of bytes that were read there.
unsafe impl IoBufMut for Tail {
    fn write_ptr(&mut self) -> *mut u8 {
        self.bytes.spare_capacity_mut().as_mut_ptr().cast()
    }

    fn bytes_total(&mut self) -> usize {
        (self.bytes.capacity() - self.bytes.len()).min(self.bytes_max)
    }

    unsafe fn set_init(&mut self, count: usize) {
        let length = self.bytes.len() + count;
        // SAFETY: the caller promises that `count` bytes were written behind the old length.
        unsafe { self.bytes.set_len(length) };
    }
}

/// Reads into a ring buffer with a plain system call, for helper threads.
pub(super) fn read_with(
    buffer: &mut impl IoBufMut,
    read: impl FnOnce(&mut [MaybeUninit<u8>]) -> std::io::Result<usize>,
) -> std::io::Result<usize> {
    let (start, total) = (buffer.write_ptr(), buffer.bytes_total());
    // SAFETY: `IoBufMut` promises `total` writable bytes at `start`; `buffer` is borrowed for as long.
    let room = unsafe { std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), total) };
    let count = read(room)?;
    if count > total {
        crate::invariant::broken("a read returns no more than it was asked for");
    }
    // SAFETY: `read` has filled the first `count` bytes of the room.
    unsafe { buffer.set_init(count) };
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(text: &str) -> TenantId {
        TenantId::parse(text).unwrap()
    }

    #[test]
    fn content_is_appended_up_to_the_capacity() {
        let pool = BufferPool::new(SMALL_BLOCK_BYTES);
        let mut block = pool.small_block().unwrap();
        assert_eq!(block.append(b"abc"), 3);
        assert_eq!(block.append(&[1; SMALL_BLOCK_BYTES]), SMALL_BLOCK_BYTES - 3);
        assert_eq!((&block.bytes()[..4], block.room()), (&b"abc\x01"[..], 0));
        assert_eq!(block.bytes().as_ptr() as usize % ALIGNMENT_BYTES, 0);
        block.truncate(5);
        block.drop_front(2);
        assert_eq!(block.bytes(), b"c\x01\x01");
        block.drop_front(4);
        assert!(block.is_empty());
    }

    #[test]
    fn padding_is_zeros_even_in_a_block_that_was_used_before() {
        let pool = BufferPool::new(SMALL_BLOCK_BYTES);
        let mut block = pool.small_block().unwrap();
        block.append(&[7; SMALL_BLOCK_BYTES]);
        drop(block);
        let mut block = pool.small_block().unwrap();
        block.append(b"x");
        block.pad_to_alignment();
        assert_eq!(block.len(), ALIGNMENT_BYTES);
        assert!(block.bytes()[1..].iter().all(|byte| *byte == 0));
        block.pad_to_alignment();
        assert_eq!(block.len(), ALIGNMENT_BYTES);
    }

    #[test]
    fn the_pool_never_lends_more_than_its_limit() {
        let pool = BufferPool::new(2 * SMALL_BLOCK_BYTES);
        let first = pool.small_block().unwrap();
        let _second = pool.small_block().unwrap();
        assert!(pool.small_block().is_none());
        drop(first);
        assert!(pool.small_block().is_some());
    }

    #[test]
    fn what_is_received_leaves_an_eighth_to_what_is_sent_and_a_sixteenth_to_what_has_come() {
        const WHOLE: Option<u64> = Some(SMALL_BLOCK_BYTES as u64);
        const MORE: Option<u64> = Some(SMALL_BLOCK_BYTES as u64 + 1);
        let pool = BufferPool::new(16 * SMALL_BLOCK_BYTES);
        let can_receive = || [WHOLE, MORE, None].map(|length_bytes| pool.can_receive(length_bytes));
        assert_eq!(can_receive(), [true, true, true]);
        let received: Vec<_> = std::iter::from_fn(|| pool.small_block_to_receive()).collect();
        assert_eq!(can_receive(), [true, false, false]);
        let whole: Vec<_> = std::iter::from_fn(|| pool.small_block_for_whole_body()).collect();
        assert_eq!(can_receive(), [false, false, false]);
        let sent: Vec<_> = std::iter::from_fn(|| pool.small_block()).collect();
        assert_eq!((received.len(), whole.len(), sent.len()), (13, 1, 2));
    }

    #[test]
    fn large_blocks_leave_room_for_small_ones_and_for_other_tenants() {
        let pool = BufferPool::new(8 * LARGE_BLOCK_BYTES);
        let of_a: Vec<_> = std::iter::from_fn(|| pool.large_block(&tenant("a"))).collect();
        assert_eq!(of_a.len(), 4, "half of the pool for one tenant");
        let of_b: Vec<_> = std::iter::from_fn(|| pool.large_block(&tenant("b"))).collect();
        assert_eq!(of_b.len(), 2, "three quarters of the pool for all of them");
        assert!(pool.small_block().is_some());
        drop(of_a);
        assert!(pool.large_block(&tenant("b")).is_some());
        drop(of_b);
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn large_blocks_lie_in_pairs_and_are_zeros() {
        let pool = BufferPool::new(8 * LARGE_BLOCK_BYTES);
        let blocks: Vec<_> = std::iter::from_fn(|| pool.large_block(&tenant("a"))).collect();
        let start = |block: &Block| block.memory().start.as_ptr() as usize;
        for pair in blocks.chunks(2) {
            assert_eq!(start(&pair[0]) % SLAB_BYTES, 0);
            assert_eq!(start(&pair[1]), start(&pair[0]) + LARGE_BLOCK_BYTES);
        }
        drop(pool);
        for mut block in blocks {
            // What is left of a pair outlives the other half, and the pool.
            block.length = LARGE_BLOCK_BYTES;
            assert!(block.bytes().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn the_ring_appends_behind_what_is_there() {
        let mut tail = Tail { bytes: Vec::with_capacity(8), bytes_max: 3 };
        tail.bytes.push(b'a');
        let read = |room: &mut [MaybeUninit<u8>]| {
            room.fill(MaybeUninit::new(b'b'));
            Ok(room.len())
        };
        assert_eq!(read_with(&mut tail, read).unwrap(), 3);
        assert_eq!(tail.bytes, b"abbb");
        let pool = BufferPool::new(SMALL_BLOCK_BYTES);
        let mut room = Room { block: pool.small_block().unwrap(), bytes_max: usize::MAX };
        room.block.append(b"x");
        assert_eq!(read_with(&mut room, read).unwrap(), SMALL_BLOCK_BYTES - 1);
        assert_eq!(&room.block.bytes()[..3], b"xbb");
    }
}
