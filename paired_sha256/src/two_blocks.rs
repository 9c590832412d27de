//! The compression function of SHA-256 on blocks of two messages, their instructions in turns.
#![allow(unsafe_code, reason = "instructions that not every processor has, and a load by pointer")]

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi32,
    _mm_set_epi64x, _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::Block;

/// A message's chained value, and its next blocks.
pub(crate) type Lane<'m> = (&'m mut [u32; 8], &'m [Block]);

/// Messages at once. Three need more registers than there are: they were slower than two.
const LANES: usize = 2;
/// FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// That this processor has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Instructions(());

impl Instructions {
    /// `None` if it has not. The standard library remembers what the processor said.
    pub(crate) fn detect() -> Option<Self> {
        let are_there = std::arch::is_x86_feature_detected!("sha")
            && std::arch::is_x86_feature_detected!("ssse3")
            && std::arch::is_x86_feature_detected!("sse4.1");
        are_there.then_some(Self(()))
    }

    /// Goes on with two chained values, by as many blocks as both messages have.
    pub(crate) fn compress(self, first: Lane<'_>, second: Lane<'_>) {
        // SAFETY: the processor has the instructions, or there would be no `self`.
        unsafe { compress_lanes(first, second) }
    }
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress_lanes(first: Lane<'_>, second: Lane<'_>) {
    // Words of a message are big-endian.
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (states, blocks) = ([first.0, second.0], [first.1, second.1]);
    let (mut abef, mut cdgh) = ([_mm_setzero_si128(); LANES], [_mm_setzero_si128(); LANES]);
    for lane in 0..LANES {
        (abef[lane], cdgh[lane]) = load(states[lane]);
    }
    for (first_block, second_block) in blocks[0].iter().zip(blocks[1]) {
        let before = (abef, cdgh);
        let mut words = [[_mm_setzero_si128(); 4]; LANES];
        for (words, block) in words.iter_mut().zip([first_block, second_block]) {
            for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
                *word = _mm_shuffle_epi8(load_bytes(bytes), swap);
            }
        }
        // Four rounds, with the words of one quarter.
        macro_rules! rounds {
            ($group:expr, $quarter:expr) => {
                let constants = _mm_set_epi32(
                    CONSTANTS[4 * $group + 3].cast_signed(),
                    CONSTANTS[4 * $group + 2].cast_signed(),
                    CONSTANTS[4 * $group + 1].cast_signed(),
                    CONSTANTS[4 * $group].cast_signed(),
                );
                for lane in 0..LANES {
                    let sums = _mm_add_epi32(words[lane][$quarter], constants);
                    cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sums);
                    abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(sums, 0x0e));
                }
            };
        }
        // The same, with the next words of the message's schedule.
        macro_rules! scheduled_rounds {
            ($group:expr, $quarter:expr) => {
                for words in &mut words {
                    words[$quarter] = schedule(
                        words[$quarter],
                        words[($quarter + 1) % 4],
                        words[($quarter + 2) % 4],
                        words[($quarter + 3) % 4],
                    );
                }
                rounds!($group, $quarter);
            };
        }
        rounds!(0, 0);
        rounds!(1, 1);
        rounds!(2, 2);
        rounds!(3, 3);
        scheduled_rounds!(4, 0);
        scheduled_rounds!(5, 1);
        scheduled_rounds!(6, 2);
        scheduled_rounds!(7, 3);
        scheduled_rounds!(8, 0);
        scheduled_rounds!(9, 1);
        scheduled_rounds!(10, 2);
        scheduled_rounds!(11, 3);
        scheduled_rounds!(12, 0);
        scheduled_rounds!(13, 1);
        scheduled_rounds!(14, 2);
        scheduled_rounds!(15, 3);
        for lane in 0..LANES {
            abef[lane] = _mm_add_epi32(abef[lane], before.0[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], before.1[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        store(state, abef[lane], cdgh[lane]);
    }
}

/// The four words of the schedule behind these sixteen (FIPS 180-4, section 6.2.2).
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn schedule(first: __m128i, second: __m128i, third: __m128i, fourth: __m128i) -> __m128i {
    let sums = _mm_add_epi32(_mm_sha256msg1_epu32(first, second), _mm_alignr_epi8(fourth, third, 4));
    _mm_sha256msg2_epu32(sums, fourth)
}

#[target_feature(enable = "sse4.1")]
#[inline]
fn load_bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: sixteen bytes may be read where the reference points, and the load asks for no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// A chained value as the rounds want it: words a, b, e, f and c, d, g, h, the first of each in the highest place.
#[target_feature(enable = "ssse3,sse4.1")]
fn load(state: &[u32; 8]) -> (__m128i, __m128i) {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[target_feature(enable = "ssse3,sse4.1")]
fn store(state: &mut [u32; 8], abef: __m128i, cdgh: __m128i) {
    *state = [
        _mm_extract_epi32(abef, 3),
        _mm_extract_epi32(abef, 2),
        _mm_extract_epi32(cdgh, 3),
        _mm_extract_epi32(cdgh, 2),
        _mm_extract_epi32(abef, 1),
        _mm_extract_epi32(abef, 0),
        _mm_extract_epi32(cdgh, 1),
        _mm_extract_epi32(cdgh, 0),
    ]
    .map(i32::cast_unsigned);
}
