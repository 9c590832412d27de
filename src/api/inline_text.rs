//! Text that most often is short, and then lies in the value itself: a request has an id and a path of its own, which go to
//! another thread with its record, and would each be an allocation here and a release there.

use std::fmt;
use std::ops::Deref;

use smallvec::{Array, SmallVec};

/// Text that is allocated only where it is longer than `A`.
pub struct InlineText<A: Array<Item = u8>>(SmallVec<A>);

/// The id of a request: as long as those that the server makes, and seldom longer.
pub type RequestId = InlineText<[u8; 36]>;

/// The path of a request, as long as those of most keys.
pub type PathText = InlineText<[u8; 64]>;

impl<A: Array<Item = u8>> From<&str> for InlineText<A> {
    fn from(text: &str) -> Self {
        Self(SmallVec::from_slice(text.as_bytes()))
    }
}

impl<A: Array<Item = u8>> InlineText<A> {
    /// The text as it is sent, without a look at what it is made of.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `text`, a hyphen, and `number` in hexadecimal digits.
    pub fn numbered(text: &str, number: u64) -> Self {
        let mut digits = [0; 16];
        let mut start = digits.len();
        let mut left = number;
        loop {
            start -= 1;
            digits[start] = b"0123456789abcdef"[(left & 15) as usize];
            left >>= 4;
            if left == 0 {
                break;
            }
        }
        let mut bytes = SmallVec::from_slice(text.as_bytes());
        bytes.push(b'-');
        bytes.extend_from_slice(&digits[start..]);
        Self(bytes)
    }
}

impl<A: Array<Item = u8>> Deref for InlineText<A> {
    type Target = str;

    fn deref(&self) -> &str {
        // Whole texts alone are put in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<A: Array<Item = u8>> Clone for InlineText<A> {
    fn clone(&self) -> Self {
        Self(SmallVec::from_slice(&self.0))
    }
}

impl<A: Array<Item = u8>> fmt::Debug for InlineText<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

impl<A: Array<Item = u8>> fmt::Display for InlineText<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_whether_it_was_short_or_long() {
        for length in [0, 1, 36, 37, 500] {
            let text = "\u{e9}".repeat(length / 2) + &"x".repeat(length % 2);
            let kept = RequestId::from(&*text);
            assert_eq!((&*kept, &*kept.clone(), kept.to_string()), (&*text, &*text, text.clone()));
        }
    }

    #[test]
    fn numbers_are_hexadecimal_without_zeros_before_them() {
        for number in [0, 9, 10, 16, 0xabc, u64::MAX] {
            assert_eq!(&*RequestId::numbered("a-0", number), format!("a-0-{number:x}"));
        }
    }
}
