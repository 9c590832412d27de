//! The fields of one block of 512 bytes.

use std::ops::Range;

use super::BLOCK_BYTES;

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const OWNER: Range<usize> = 108..116;
pub(super) const GROUP: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MODIFIED: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const KIND: usize = 156;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const PREFIX: Range<usize> = 345..500;
/// Of an old GNU sparse file: whether more of its map follows the header; and whether yet more follows that.
pub(super) const MAP_GOES_ON: usize = 482;
pub(super) const MAP_GOES_ON_AGAIN: usize = 504;

/// What stands in [`MAGIC`] where there is a [`PREFIX`]. GNU tar keeps other things there.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";

pub(super) type Header = [u8; BLOCK_BYTES];

/// The sum of all bytes, with spaces for those of the sum itself.
pub(super) fn checksum(header: &Header) -> u64 {
    // Of so few bytes it fits half of the number that it is held against, and is there twice as fast.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let spaces = CHECKSUM.len() as u32 * u32::from(b' ');
    u64::from(sum(&header[..CHECKSUM.start]) + sum(&header[CHECKSUM.end..]) + spaces)
}

/// A text up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal digits with spaces before them and a space or NUL behind; or, as GNU tar writes large ones, base 256
/// with the first bit set.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        return rest
            .iter()
            .try_fold(0_u64, |number, byte| number.checked_mul(256).map(|number| number | u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8).map(|number| number + u64::from(digit - b'0')),
        _ => None,
    })
}
