//! What a piece of an upload says that it is, truly or not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use paired_sha256::Sha256;
use sha1::{Digest as _, Sha1};

use crate::random::Random;

/// One piece in so many says what it is.
const CHECKED_ONE_IN: u64 = 3;
/// And of those, one in so many says what it is not.
const WRONG_ONE_IN: u64 = 4;

/// The checksum of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) is_wrong: bool,
    is_sha1: bool,
}

impl Checksum {
    /// Mostly none.
    pub(crate) fn any(random: &mut Random) -> Option<Self> {
        if random.below(CHECKED_ONE_IN) > 0 {
            return None;
        }
        Some(Self { is_wrong: random.below(WRONG_ONE_IN) == 0, is_sha1: random.below(2) == 0 })
    }

    /// The line of the head for this piece.
    pub(crate) fn field(self, piece: &[u8]) -> String {
        let (name, mut digest) = match self.is_sha1 {
            true => ("sha1", Sha1::digest(piece).to_vec()),
            false => ("sha256", Sha256::digest(piece).to_vec()),
        };
        digest[0] ^= u8::from(self.is_wrong);
        format!("Upload-Checksum: {name} {}\r\n", STANDARD.encode(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_says_what_it_is_or_is_not() {
        let field = |is_wrong, is_sha1| Checksum { is_wrong, is_sha1 }.field(b"abc");
        assert_eq!(field(false, true), "Upload-Checksum: sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=\r\n");
        let sha256 = "Upload-Checksum: sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\r\n";
        assert_eq!(field(false, false), sha256);
        assert_ne!(field(true, false), sha256);
    }

    #[test]
    fn every_kind_comes() {
        let mut random = Random::new(5);
        let some: Vec<_> = (0..500).map(|_| Checksum::any(&mut random)).collect();
        for (is_wrong, is_sha1) in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(some.contains(&Some(Checksum { is_wrong, is_sha1 })));
        }
        assert!(some.contains(&None));
    }
}
