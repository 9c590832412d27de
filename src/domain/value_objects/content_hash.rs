//! The SHA-256 of an object's bytes: its name in the store.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::errors::InvalidValue;

/// SHA-256 (FIPS 180-4) of a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; Self::BYTES]);

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

impl ContentHash {
    /// Length of a digest in bytes.
    pub const BYTES: usize = 32;
    /// Length of a digest in hexadecimal digits.
    pub const HEX_LENGTH: usize = 64;

    /// Takes the 32 bytes of a digest.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Takes 32 bytes out of a slice, as a database gives them back.
    ///
    /// # Errors
    /// [`InvalidValue::ContentHash`] for any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidValue> {
        bytes.try_into().map(Self).map_err(|_| InvalidValue::ContentHash)
    }

    /// Reads 64 hexadecimal digits of either case.
    ///
    /// # Errors
    /// [`InvalidValue::ContentHash`] for anything else: only 64 digits ever become a path.
    pub fn from_hex(text: &str) -> Result<Self, InvalidValue> {
        let digits: &[u8; Self::HEX_LENGTH] =
            text.as_bytes().try_into().map_err(|_| InvalidValue::ContentHash)?;
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16).ok_or(InvalidValue::ContentHash)?;
            let low = (pair[1] as char).to_digit(16).ok_or(InvalidValue::ContentHash)?;
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(bytes))
    }

    /// Reads standard padded base64, the form of RFC 9530 digest fields.
    ///
    /// # Errors
    /// [`InvalidValue::ContentHash`] if it is not base64 of exactly 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidValue> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidValue::ContentHash)?;
        Self::from_slice(&bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, without an allocation.
    pub fn to_hex(self) -> HexDigits {
        let mut digits = [0; Self::HEX_LENGTH];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
            pair[1] = HEX_DIGITS[usize::from(byte & 15)];
        }
        HexDigits(digits)
    }

    /// Appends the padded base64 of the digest.
    pub fn append_base64(self, text: &mut Vec<u8>) {
        let start = text.len();
        text.resize(start + 44, 0);
        // 32 bytes are always 44 base64 characters, so the slice always has room.
        let written = STANDARD.encode_slice(self.0, &mut text[start..]).unwrap_or(0);
        text.truncate(start + written);
    }
}

/// The hexadecimal digits of a [`ContentHash`], on the stack.
pub struct HexDigits([u8; ContentHash::HEX_LENGTH]);

impl HexDigits {
    /// The digits as ASCII bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as text.
    pub fn as_str(&self) -> &str {
        // Digits are ASCII, so that they are always a text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for HexDigits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex().fmt(formatter)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ContentHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hex_and_base64_round_trip(bytes: [u8; 32]) {
            let hash = ContentHash::from_bytes(bytes);
            prop_assert_eq!(ContentHash::from_hex(&hash.to_string()), Ok(hash));
            prop_assert_eq!(ContentHash::from_hex(&hash.to_string().to_uppercase()), Ok(hash));
            let mut text = b"sha-256=:".to_vec();
            hash.append_base64(&mut text);
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(ContentHash::from_base64(&text[9..]), Ok(hash));
        }

        #[test]
        fn nothing_but_64_digits_is_a_hash(text in ".{0,80}") {
            let accepted = ContentHash::from_hex(&text).is_ok();
            prop_assert_eq!(accepted, text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn base64_of_another_length_or_alphabet_is_refused() {
        for text in ["", "AAAA", &"A".repeat(44), &"-".repeat(44), &format!("{}=", "A".repeat(42))] {
            assert_eq!(ContentHash::from_base64(text), Err(InvalidValue::ContentHash), "{text}");
        }
    }
}
