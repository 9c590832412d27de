//! A part of an object's bytes, asked for and granted.

/// What a caller asks for, before the object's size is known (RFC 9110 §14.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeRequest {
    /// `bytes=first-last`, both counted from zero and included.
    FromTo {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, not before `first`.
        last: u64,
    },
    /// `bytes=first-`: from there to the end.
    From {
        /// Offset of the first byte.
        first: u64,
    },
    /// `bytes=-length`: the last bytes.
    Suffix {
        /// How many of them.
        length: u64,
    },
}

/// A part that exists: `length` is at least 1, and `offset + length` at most the object's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl RangeRequest {
    /// The part of an object of `size_bytes` that is meant, or `None` if it has no byte there (RFC 9110 §14.1.2).
    pub fn resolve(self, size_bytes: u64) -> Option<ByteRange> {
        let (offset, end) = match self {
            Self::FromTo { first, last } => (first, last.saturating_add(1).min(size_bytes)),
            Self::From { first } => (first, size_bytes),
            Self::Suffix { length } => (size_bytes.saturating_sub(length), size_bytes),
        };
        (offset < end).then(|| ByteRange { offset, length: end - offset })
    }
}

impl ByteRange {
    /// Offset of the last byte.
    pub fn last(self) -> u64 {
        self.offset + self.length - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_granted_lies_inside_the_object(size: u64, first: u64, last: u64, length: u64) {
            for request in [RangeRequest::FromTo { first, last: last.max(first) }, RangeRequest::From { first }, RangeRequest::Suffix { length }] {
                if let Some(range) = request.resolve(size) {
                    prop_assert!(range.length >= 1);
                    prop_assert!(range.offset.checked_add(range.length).is_some_and(|end| end <= size));
                }
            }
        }
    }

    #[test]
    fn edges() {
        let range = |offset, length| Some(ByteRange { offset, length });
        assert_eq!(RangeRequest::FromTo { first: 0, last: 0 }.resolve(10), range(0, 1));
        assert_eq!(RangeRequest::FromTo { first: 9, last: u64::MAX }.resolve(10), range(9, 1));
        assert_eq!(RangeRequest::FromTo { first: 10, last: 10 }.resolve(10), None);
        assert_eq!(RangeRequest::From { first: 10 }.resolve(10), None);
        assert_eq!(RangeRequest::Suffix { length: 0 }.resolve(10), None);
        assert_eq!(RangeRequest::Suffix { length: 99 }.resolve(10), range(0, 10));
        assert_eq!(RangeRequest::Suffix { length: 1 }.resolve(0), None);
        assert_eq!(range(2, 3).map(ByteRange::last), Some(4));
    }
}
