//! API keys: credentials that the store itself gives out, and can take back.

use std::fmt;

use super::{CredentialId, Permissions, Principal, Reach};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::Timestamp;

/// The public part of an API key: 64 random bits, as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiKeyId(u64);

impl ApiKeyId {
    /// How many digits it has.
    pub const DIGITS: usize = 16;

    /// An id of these bits.
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Reads its digits.
    ///
    /// # Errors
    /// [`InvalidValue::ApiKeyId`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u64::from_str_radix(text, 16).ok().filter(|_| digits && text.len() == Self::DIGITS);
        bits.map(Self).ok_or(InvalidValue::ApiKeyId)
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Debug for ApiKeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What is kept of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public part.
    pub id: ApiKeyId,
    /// The SHA-256 of its secret part, which is kept nowhere.
    pub secret_hash: [u8; 32],
    /// Which objects it reaches.
    pub reach: Reach,
    /// What it lets its holder do.
    pub permissions: Permissions,
    /// What it is for, in its maker's words.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is good for nothing, if that was said.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// The most characters of a label.
    pub const LABEL_CHARACTERS_MAX: usize = 200;

    /// Checks the words about a key: they are shown in lists.
    ///
    /// # Errors
    /// [`InvalidValue::Label`].
    pub fn parse_label(text: &str) -> Result<String, InvalidValue> {
        let fits = text.chars().count() <= Self::LABEL_CHARACTERS_MAX && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned()).ok_or(InvalidValue::Label)
    }

    /// Whether it is good at this moment.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Whoever shows it.
    pub fn principal(&self) -> Principal {
        let id = self.id.to_string();
        Principal {
            credential_id: Some(CredentialId::new("jsk", &id, String::new)),
            reach: self.reach.clone(),
            permissions: self.permissions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_lower_case_digits() {
        let id = ApiKeyId::from_u64(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!(ApiKeyId::parse("00000000000000ab"), Ok(id));
        for text in
            ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000abc", "00000000000000ag"]
        {
            assert_eq!(ApiKeyId::parse(text), Err(InvalidValue::ApiKeyId), "{text}");
        }
    }

    #[test]
    fn a_key_is_good_until_it_expires_or_is_revoked() {
        let at = Timestamp::from_millis;
        let key = ApiKey {
            id: ApiKeyId::from_u64(1),
            secret_hash: [0; 32],
            reach: Reach::everything(),
            permissions: Permissions::all(),
            label: None,
            created_at: at(0),
            expires_at: None,
            revoked_at: None,
        };
        assert!(key.is_good_at(at(i64::MAX)));
        let expiring = ApiKey { expires_at: Some(at(10)), ..key.clone() };
        assert!(expiring.is_good_at(at(9)) && !expiring.is_good_at(at(10)));
        assert!(!ApiKey { revoked_at: Some(at(5)), ..key.clone() }.is_good_at(at(1)));
        assert_eq!(key.principal().credential_id.unwrap().as_str(), "jsk:0000000000000001");
    }

    #[test]
    fn a_label_is_short_and_has_no_control_characters() {
        let longest = "ä".repeat(ApiKey::LABEL_CHARACTERS_MAX);
        assert!(ApiKey::parse_label(&longest).is_ok() && ApiKey::parse_label("").is_ok());
        for text in [&format!("{longest}ä"), "a\nb", "\u{1b}[2J"] {
            assert_eq!(ApiKey::parse_label(text), Err(InvalidValue::Label));
        }
    }
}
