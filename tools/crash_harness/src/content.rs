//! Bodies that need not be kept to be compared: each is made again from two numbers.

use crate::random::Random;

/// Of so few contents that every client sends them, some bodies are.
const SHARED_CONTENTS: u64 = 8;

/// A body, by the two numbers that it is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) length: usize,
}

impl Content {
    /// Mostly small, some across each border of the storage engine, and one in four out of a few that everybody has.
    pub(crate) fn any(random: &mut Random) -> Self {
        if random.below(4) == 0 {
            return Self::shared(random.below(SHARED_CONTENTS));
        }
        let length = match random.below(120) {
            0 => 1_000_000 + random.below(1_500_000),
            1..13 => 16_380 + random.below(10),
            13..25 => 60_000 + random.below(300_000),
            25..37 => random.below(3),
            _ => random.below(9000),
        };
        Self { seed: random.next(), length: length as usize }
    }

    /// One of the contents that all clients have, of a size of its own.
    pub(crate) fn shared(number: u64) -> Self {
        Self { seed: number, length: 1000 + 4096 * number as usize }
    }

    /// The bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        // The generator knows no even seeds; two contents must not be one.
        let mut random = Random::new(self.seed << 1);
        let mut bytes = Vec::with_capacity(self.length + 8);
        while bytes.len() < self.length {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(self.length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_the_same_each_time_and_no_other() {
        let contents = (0..SHARED_CONTENTS).map(Content::shared);
        let bytes: Vec<_> = contents.clone().map(Content::bytes).collect();
        for (index, content) in contents.enumerate() {
            assert_eq!(content.bytes(), bytes[index]);
            assert_eq!(content.length, bytes[index].len());
        }
        for (index, one) in bytes.iter().enumerate() {
            assert!(bytes[..index].iter().all(|other| other[..1000] != one[..1000]), "{index}");
        }
    }

    #[test]
    fn contents_reach_both_sides_of_every_border() {
        let mut random = Random::new(1);
        let lengths: Vec<_> = (0..2000).map(|_| Content::any(&mut random).length).collect();
        for border in [1, 16_384, 16_385, 262_144, 1 << 20] {
            assert!(lengths.iter().any(|length| *length < border), "{border}");
            assert!(lengths.iter().any(|length| *length >= border), "{border}");
        }
    }
}
