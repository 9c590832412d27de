//! The checksum of bytes of which a part has been summed already: what is known is not read again where that is cheaper.
//!
//! CRC-32C (RFC 3720 §12.1) is a remainder of polynomials: that of two parts is that of the first, times x to the number of
//! bits of the second, plus that of the second.

/// The polynomial, with its bits from the lowest power to the highest.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^8, x^16, x^32, … as remainders: what a checksum is multiplied with for 1, 2, 4, … bytes behind it.
const POWERS: [u32; 32] = powers();
/// A multiplication takes about as long as summing so many bytes that are near the processor.
const BYTES_A_MULTIPLICATION: usize = 1024;

/// The checksum of what has `checksum` and of `bytes` behind it, which have `known` by themselves.
pub(super) fn append_known(checksum: u32, bytes: &[u8], known: u32) -> u32 {
    if bytes.len() < BYTES_A_MULTIPLICATION * bytes.len().count_ones() as usize {
        return crc32c::crc32c_append(checksum, bytes);
    }
    let shifted = POWERS.iter().enumerate().filter(|(bit, _)| bytes.len() >> bit & 1 == 1);
    shifted.fold(checksum, |product, (_, power)| times(*power, product)) ^ known
}

const fn powers() -> [u32; 32] {
    // x^8: the highest bit is x^0.
    let mut powers = [1 << 23; 32];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = times(powers[index - 1], powers[index - 1]);
        index += 1;
    }
    powers
}

/// The product of two polynomials, as a remainder.
const fn times(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    let mut bits = u32::BITS;
    while bits > 0 {
        // All ones, or none.
        product ^= right & 0_u32.wrapping_sub(left >> 31);
        left <<= 1;
        right = right >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(right & 1);
        bits -= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn a_part_of_any_length_is_appended() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|number| (number * 31 + number / 251) as u8).collect();
        for first in [0, 1, 100] {
            for length in (0..6_000).chain([8_192, 10_000, 16_384, 65_535, 65_536, 65_537]) {
                let (first, second) = (&bytes[..first], &bytes[first..first + length]);
                let known = crc32c::crc32c(second);
                let whole = crc32c::crc32c(&bytes[..first.len() + length]);
                assert_eq!(append_known(crc32c::crc32c(first), second, known), whole, "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn multiplying_is_what_the_library_does(first: u32, second: u32, length in 0_usize..1 << 20) {
            let shifted = POWERS.iter().enumerate().filter(|(bit, _)| length >> bit & 1 == 1);
            let product = shifted.fold(first, |product, (_, power)| times(*power, product));
            assert_eq!(product ^ second, crc32c::crc32c_combine(first, second, length));
        }

        #[test]
        fn one_is_the_highest_bit(factor in any::<u32>()) {
            assert_eq!(times(1 << 31, factor), factor);
            assert_eq!(times(factor, 1 << 31), factor);
        }
    }
}
