//! SHA-256 (FIPS 180-4) of two messages in the time of one.
//!
//! Each round of SHA-256 waits for the one before, so that the processor's own instructions for it (`sha256rnds2`, four
//! cycles each, one of which can begin every two) are idle half of the time. Rounds of two messages, one after the other
//! by turns, fill that: 3.4 instead of 1.7 GB/s on an AMD EPYC. The idea is that of multi-buffer hashing (Gopal et al.,
//! *Processing Multiple Buffers in Parallel to Increase Performance on Intel Architecture Processors*, 2010).
//!
//! Where the processor has no such instructions, two messages take as long as one and another.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
mod two_blocks;

/// The length of a hash.
pub const HASH_BYTES: usize = 32;
/// The length of a state that is kept.
pub const STATE_BYTES: usize = 32 + 8 + BLOCK_BYTES;
const BLOCK_BYTES: usize = 64;
/// Where a block that ends a message has the message's length.
const LENGTH_OFFSET: usize = BLOCK_BYTES - 8;
/// FIPS 180-4, section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

type Block = [u8; BLOCK_BYTES];

/// The hash of a message that comes bit by bit.
#[derive(Clone)]
pub struct Sha256 {
    chained: [u32; 8],
    /// Of the whole message so far, partial block included.
    length_bytes: u64,
    /// What came behind the last whole block; the rest is zeros.
    partial: Block,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sha256").field("length_bytes", &self.length_bytes).finish_non_exhaustive()
    }
}

impl Sha256 {
    /// Of no bytes yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { chained: INITIAL, length_bytes: 0, partial: [0; BLOCK_BYTES] }
    }

    /// The hash of bytes that are all here.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> [u8; HASH_BYTES] {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete_block(bytes).as_chunks();
        if !blocks.is_empty() {
            compress256(&mut self.chained, blocks);
        }
        self.keep(blocks.len(), rest);
    }

    /// The hash of all bytes so far; more may follow.
    #[must_use]
    pub fn finish(&self) -> [u8; HASH_BYTES] {
        let mut chained = self.chained;
        let last = self.last_block(&mut chained);
        compress256(&mut chained, &[last]);
        hash_of(chained)
    }

    /// The block that ends the message. Where what is left of it and its length need one before, that is taken into `chained`.
    fn last_block(&self, chained: &mut [u32; 8]) -> Block {
        let mut last = self.partial;
        let partial_bytes = self.partial_bytes();
        last[partial_bytes] = 0x80;
        if partial_bytes >= LENGTH_OFFSET {
            compress256(chained, &[last]);
            last = [0; BLOCK_BYTES];
        }
        last[LENGTH_OFFSET..].copy_from_slice(&self.length_bytes.wrapping_mul(8).to_be_bytes());
        last
    }

    /// All there is to know to go on later:
    ///
    /// | offset | bytes | |
    /// |---|---|---|
    /// | 0 | 32 | the chained value, eight words, little-endian |
    /// | 32 | 8 | how many whole blocks there were, little-endian |
    /// | 40 | 1 | how many bytes came behind them |
    /// | 41 | 63 | these bytes, and zeros |
    ///
    /// It is what sha2 0.11 makes of its own.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.chained) {
            *bytes = word.to_le_bytes();
        }
        let partial_bytes = self.partial_bytes();
        bytes[32..40].copy_from_slice(&(self.length_bytes / BLOCK_BYTES as u64).to_le_bytes());
        bytes[40] = partial_bytes as u8;
        bytes[41..].copy_from_slice(&self.partial[..BLOCK_BYTES - 1]);
        bytes
    }

    /// The state that gave these bytes; `None` if none did.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; STATE_BYTES]) -> Option<Self> {
        let (words, rest) = bytes.split_first_chunk::<32>()?;
        let (blocks, rest) = rest.split_first_chunk()?;
        let (partial_bytes, kept) = rest.split_first()?;
        let mut chained = [0; 8];
        for (word, bytes) in chained.iter_mut().zip(words.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let (kept, zeros) = kept.split_at_checked(usize::from(*partial_bytes))?;
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        let whole_bytes = u64::from_le_bytes(*blocks).checked_mul(BLOCK_BYTES as u64)?;
        let mut state = Self { chained, length_bytes: whole_bytes, partial: [0; BLOCK_BYTES] };
        state.keep(0, kept);
        Some(state)
    }

    fn partial_bytes(&self) -> usize {
        (self.length_bytes % BLOCK_BYTES as u64) as usize
    }

    /// Fills the partial block, if there is one, and says what is left of the bytes: there are none, where the
    /// block is partial still.
    fn complete_block<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let start = self.partial_bytes();
        if start == 0 {
            return bytes;
        }
        let (fitting, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - start));
        self.partial[start..start + fitting.len()].copy_from_slice(fitting);
        self.length_bytes += fitting.len() as u64;
        if start + fitting.len() == BLOCK_BYTES {
            compress256(&mut self.chained, &[self.partial]);
            self.partial = [0; BLOCK_BYTES];
        }
        rest
    }

    /// Notes whole blocks that have been compressed, and keeps what came behind them. If there is any, no block is
    /// partial.
    fn keep(&mut self, blocks: usize, rest: &[u8]) {
        self.length_bytes += (blocks * BLOCK_BYTES + rest.len()) as u64;
        if !rest.is_empty() {
            self.partial[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Goes on with two messages beside each other: as far as both have bytes in half of the time. Each gets all of its
/// bytes.
pub fn update_both(first: (&mut Sha256, &[u8]), second: (&mut Sha256, &[u8])) {
    let ((first, first_bytes), (second, second_bytes)) = (first, second);
    let (first_blocks, first_rest) = first.complete_block(first_bytes).as_chunks();
    let (second_blocks, second_rest) = second.complete_block(second_bytes).as_chunks();
    let common = first_blocks.len().min(second_blocks.len());
    let (first_common, first_alone) = first_blocks.split_at(common);
    let (second_common, second_alone) = second_blocks.split_at(common);
    compress_both((&mut first.chained, first_common), (&mut second.chained, second_common));
    for (state, alone) in [(&mut first.chained, first_alone), (&mut second.chained, second_alone)] {
        if !alone.is_empty() {
            compress256(state, alone);
        }
    }
    first.keep(first_blocks.len(), first_rest);
    second.keep(second_blocks.len(), second_rest);
}

/// The hashes of two messages that are all here.
#[must_use]
pub fn digest_both(first: &[u8], second: &[u8]) -> [[u8; HASH_BYTES]; 2] {
    let (mut first_hash, mut second_hash) = (Sha256::new(), Sha256::new());
    update_both((&mut first_hash, first), (&mut second_hash, second));
    let (mut first_chained, mut second_chained) = (first_hash.chained, second_hash.chained);
    let first_last = first_hash.last_block(&mut first_chained);
    let second_last = second_hash.last_block(&mut second_chained);
    compress_both((&mut first_chained, &[first_last]), (&mut second_chained, &[second_last]));
    [hash_of(first_chained), hash_of(second_chained)]
}

fn hash_of(chained: [u32; 8]) -> [u8; HASH_BYTES] {
    let mut hash = [0; HASH_BYTES];
    for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(chained) {
        *bytes = word.to_be_bytes();
    }
    hash
}

/// As many blocks of each.
fn compress_both(first: (&mut [u32; 8], &[Block]), second: (&mut [u32; 8], &[Block])) {
    #[cfg(target_arch = "x86_64")]
    if let Some(instructions) = two_blocks::Instructions::detect() {
        instructions.compress(first, second);
        return;
    }
    compress256(first.0, first.1);
    compress256(second.0, second.1);
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test that cannot go on fails")]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;
    use sha2::digest::common::hazmat::SerializableState as _;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
    }

    #[test]
    fn known_messages_have_their_published_hashes() {
        // FIPS 180-4's examples, of one block and of two.
        let hex = |hash: [u8; HASH_BYTES]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (message, hash) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ] {
            assert_eq!(hex(Sha256::digest(message.as_bytes())), hash);
        }
    }

    #[test]
    fn a_message_may_end_at_every_place_of_a_block() {
        let message = bytes(3 * BLOCK_BYTES);
        for length in 0..=message.len() {
            let expected: [u8; HASH_BYTES] = sha2::Sha256::digest(&message[..length]).into();
            assert_eq!(Sha256::digest(&message[..length]), expected, "{length} bytes");
        }
    }

    #[test]
    fn a_kept_state_is_that_of_sha2_and_goes_on_from_there() {
        let message = bytes(200);
        for split in 0..=message.len() {
            let mut whole = Sha256::new();
            whole.update(&message[..split]);
            let theirs = sha2::Sha256::new_with_prefix(&message[..split]);
            assert_eq!(whole.to_bytes()[..], theirs.serialize()[..], "{split} bytes");
            let mut resumed = Sha256::from_bytes(&whole.to_bytes()).expect("its own bytes are a state");
            resumed.update(&message[split..]);
            assert_eq!(resumed.finish(), Sha256::digest(&message), "{split} bytes");
        }
    }

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        let state = Sha256::new().to_bytes();
        let with = |offset: usize, byte: u8| {
            let mut other = state;
            other[offset] = byte;
            Sha256::from_bytes(&other).is_none()
        };
        assert!(with(40, 64), "a whole block is not partial");
        assert!(with(41, 1), "behind the partial block are zeros");
        assert!(with(39, 0xff), "more bytes than there can be");
        assert!(!with(40, 63));
    }

    proptest! {
        #[test]
        fn two_beside_each_other_are_as_each_alone(
            pieces in prop::collection::vec((0_usize..700, 0_usize..700), 1..6),
            first_alone in 0_usize..130,
            second_alone in 0_usize..130,
        ) {
            let message = bytes(10_000);
            let (mut first, mut second) = (Sha256::new(), Sha256::new());
            first.update(&message[..first_alone]);
            // Another message, so that one that gets the other's bytes is noticed.
            let other = &message[2_000..];
            second.update(&other[..second_alone]);
            let (mut first_at, mut second_at) = (first_alone, second_alone);
            for (first_bytes, second_bytes) in pieces {
                let (first_end, second_end) = (first_at + first_bytes, second_at + second_bytes);
                update_both((&mut first, &message[first_at..first_end]), (&mut second, &other[second_at..second_end]));
                (first_at, second_at) = (first_end, second_end);
            }
            prop_assert_eq!(first.finish(), Sha256::digest(&message[..first_at]));
            prop_assert_eq!(second.finish(), Sha256::digest(&other[..second_at]));
        }

        #[test]
        fn two_whole_ones_have_the_hashes_of_each_alone(first in 0_usize..300, second in 0_usize..9_000) {
            let message = bytes(10_000);
            let (first, second) = (&message[1..=first], &message[..second]);
            prop_assert_eq!(digest_both(first, second), [Sha256::digest(first), Sha256::digest(second)]);
        }
    }
}
