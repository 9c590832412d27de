//! The bodies of uploads: any length, incompressible, and no two alike, out of one block of memory.
//!
//! ```text
//! block    | stamp | noise … 4 KiB | stamp | noise … 4 KiB | …    sent again and again, with new stamps each time
//! ```
//!
//! The noise is made once, because making it for every body would cost more than sending it. The stamp is the next
//! number of one counter, so that no two pages of a run are the same: neither whole objects nor equal parts of them
//! can be stored once and counted twice. Pages from the same place in the block share their noise, which only a
//! server that compresses across objects, or with a window of more than a mebibyte, could profit from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Every so many bytes of a body there is a stamp.
const PAGE_BYTES: usize = 4096;
/// The length of a stamp.
const STAMP_BYTES: usize = 8;
/// The largest block, however long the bodies are.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// The smallest block of a body that is longer.
const BLOCK_BYTES_MIN: usize = 16 * 1024;
/// What the blocks of all connections may take together, for more than some hundred of them.
const BLOCKS_BYTES_MAX: usize = 512 << 20;

/// The noise that all bodies of a run are cut from.
#[derive(Debug)]
pub(crate) struct BodyPattern {
    noise: Box<[u8]>,
    stamps: Arc<AtomicU64>,
    size_bytes: u64,
}

impl BodyPattern {
    /// Makes the noise for bodies of one size, of which as many are under way at a time as there are connections.
    /// No two runs make the same.
    pub(crate) fn for_run(size_bytes: u64, connections: u64) -> Self {
        Self::from_seed(size_bytes, connections, run_seed())
    }

    fn from_seed(size_bytes: u64, connections: u64, seed: u64) -> Self {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX).max(1);
        let share_bytes = (BLOCKS_BYTES_MAX / connections).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        // A block is whole pages, or else all of the body, so that the stamps keep their distance across blocks.
        let whole_pages_bytes = share_bytes / PAGE_BYTES * PAGE_BYTES;
        let block_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX).min(whole_pages_bytes);

        let mut state = seed;
        let mut noise = Vec::with_capacity(block_bytes + STAMP_BYTES);
        while noise.len() < block_bytes {
            noise.extend_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        noise.truncate(block_bytes);
        Self { noise: noise.into(), stamps: Arc::new(AtomicU64::new(split_mix(&mut state))), size_bytes }
    }

    /// A source of bodies for one connection. It has a block of its own: what is being sent must not change.
    pub(crate) fn source(&self) -> BodySource {
        BodySource {
            block: self.noise.clone(),
            stamps: Arc::clone(&self.stamps),
            size_bytes: self.size_bytes,
            first_stamp: 0,
            next_stamp: 0,
            position: 0,
            remaining_bytes: 0,
        }
    }

    /// The length of every body.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// Gives out one body after the other, piece by piece.
#[derive(Debug)]
pub(crate) struct BodySource {
    block: Box<[u8]>,
    stamps: Arc<AtomicU64>,
    size_bytes: u64,
    /// The stamp of the body's first page, by which the whole body is known.
    first_stamp: u64,
    next_stamp: u64,
    /// Where in the block the next piece starts.
    position: usize,
    /// What is left of the body, from the position on.
    remaining_bytes: u64,
}

impl BodySource {
    /// Starts the next body, and forgets what is left of the last one.
    pub(crate) fn begin(&mut self) {
        let pages = self.size_bytes.div_ceil(PAGE_BYTES as u64);
        self.begin_with(self.stamps.fetch_add(pages, Ordering::Relaxed));
    }

    /// Starts the body with this first stamp once more: to send what has been hashed, or to compare what comes back.
    pub(crate) fn begin_with(&mut self, first_stamp: u64) {
        (self.first_stamp, self.next_stamp) = (first_stamp, first_stamp);
        self.remaining_bytes = self.size_bytes;
        self.begin_block();
    }

    /// The stamp of this body's first page.
    pub(crate) fn first_stamp(&self) -> u64 {
        self.first_stamp
    }

    /// Whether these bytes are the next ones of the body; passes over them if so.
    pub(crate) fn continues_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let piece = self.piece(bytes.len());
            if piece.is_empty() || piece != &bytes[..piece.len()] {
                return false;
            }
            let piece_bytes = piece.len();
            bytes = &bytes[piece_bytes..];
            self.advance(piece_bytes);
        }
        true
    }

    /// How much of the body has not been sent.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// The next bytes of the body, as many as lie together up to a limit; none at its end.
    pub(crate) fn piece(&self, bytes_max: usize) -> &[u8] {
        let end = (self.position + bytes_max.min(self.block.len())).min(self.used_block_bytes());
        &self.block[self.position..end]
    }

    /// Takes note that so many bytes of the last piece have been sent.
    pub(crate) fn advance(&mut self, sent_bytes: usize) {
        self.position += sent_bytes;
        self.remaining_bytes -= sent_bytes as u64;
        if self.position == self.block.len() {
            self.begin_block();
        }
    }

    /// The end of this body in the block: that of the block, or less in the last block of a body.
    fn used_block_bytes(&self) -> usize {
        let remaining_bytes = usize::try_from(self.remaining_bytes).unwrap_or(usize::MAX);
        self.position.saturating_add(remaining_bytes).min(self.block.len())
    }

    fn begin_block(&mut self) {
        self.position = 0;
        let used_bytes = self.used_block_bytes();
        for page in self.block[..used_bytes].chunks_mut(PAGE_BYTES) {
            let stamp_bytes = page.len().min(STAMP_BYTES);
            // A last page shorter than a stamp gets the start of one.
            page[..stamp_bytes].copy_from_slice(&self.next_stamp.to_le_bytes()[..stamp_bytes]);
            self.next_stamp = self.next_stamp.wrapping_add(1);
        }
    }
}

/// A number that differs between runs, from the clock and the process.
pub(crate) fn run_seed() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Only the low 64 bits of the nanoseconds change between runs.
    let mut state = since_epoch.as_nanos() as u64 ^ (u64::from(std::process::id()) << 40);
    split_mix(&mut state)
}

/// The next number of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn whole_body(source: &mut BodySource, piece_bytes_max: usize) -> Vec<u8> {
        let mut body = Vec::new();
        source.begin();
        while source.remaining_bytes() > 0 {
            let piece = source.piece(piece_bytes_max);
            assert!(!piece.is_empty() && piece.len() <= piece_bytes_max);
            body.extend_from_slice(piece);
            let sent_bytes = piece.len();
            source.advance(sent_bytes);
        }
        assert!(source.piece(piece_bytes_max).is_empty());
        body
    }

    #[test]
    fn bodies_have_their_size_whatever_the_pieces() {
        let block = BLOCK_BYTES_MAX as u64;
        for size_bytes in
            [8, 9, 4095, 4096, 4097, 4099, block - 1, block, block + 1, 2 * block, 2 * block + 4099]
        {
            let mut source = BodyPattern::from_seed(size_bytes, 1, 7).source();
            for piece_bytes_max in [1000, 4096, usize::MAX] {
                assert_eq!(whole_body(&mut source, piece_bytes_max).len() as u64, size_bytes);
            }
        }
    }

    #[test]
    fn no_two_whole_pages_of_a_run_are_alike() {
        let pattern = BodyPattern::from_seed((2 * BLOCK_BYTES_MAX + 5000) as u64, 1, 7);
        let mut sources = [pattern.source(), pattern.source()];
        let mut pages = HashSet::new();
        for _ in 0..2 {
            for source in &mut sources {
                for page in whole_body(source, usize::MAX).chunks_exact(PAGE_BYTES) {
                    assert!(pages.insert(page.to_vec()));
                }
            }
        }
    }

    #[test]
    fn no_two_bodies_are_alike_even_of_the_smallest_size() {
        let mut source = BodyPattern::from_seed(8, 1, 7).source();
        let bodies: HashSet<_> = (0..1000).map(|_| whole_body(&mut source, usize::MAX)).collect();
        assert_eq!(bodies.len(), 1000);
    }

    #[test]
    fn a_body_that_was_not_sent_whole_is_forgotten() {
        let mut source = BodyPattern::from_seed(10_000, 1, 7).source();
        source.begin();
        source.advance(5_000);
        assert_eq!(whole_body(&mut source, usize::MAX).len(), 10_000);
    }

    #[test]
    fn a_body_is_known_again_by_its_first_stamp() {
        let size_bytes = (2 * BLOCK_BYTES_MAX + 5000) as u64;
        let pattern = BodyPattern::from_seed(size_bytes, 1, 7);
        let mut source = pattern.source();
        let mut body = whole_body(&mut source, usize::MAX);
        let mut expected = pattern.source();
        expected.begin_with(source.first_stamp());
        assert!(body.chunks(1000).all(|piece| expected.continues_with(piece)));
        assert_eq!(expected.remaining_bytes(), 0);
        body[BLOCK_BYTES_MAX + 9] ^= 1;
        expected.begin_with(source.first_stamp());
        assert!(!expected.continues_with(&body));
    }

    #[test]
    fn noise_differs_between_seeds_and_uses_every_byte_value_evenly() {
        let pattern = BodyPattern::from_seed(1 << 20, 1, 1);
        assert_ne!(pattern.noise, BodyPattern::from_seed(1 << 20, 1, 2).noise);
        let mut counts = [0_u32; 256];
        pattern.noise.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (3600..4600).contains(count)));
    }

    #[test]
    fn many_connections_share_a_bounded_amount_of_memory() {
        for connections in [1, 512, 1000, 16_000] {
            let block_bytes = BodyPattern::from_seed(1 << 30, connections, 7).noise.len();
            assert_eq!(block_bytes % PAGE_BYTES, 0);
            assert!(block_bytes * connections as usize <= BLOCKS_BYTES_MAX);
        }
    }
}
