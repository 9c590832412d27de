//! An API key as its holder has it: `jsk_<id>_<secret>`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::domain::entities::{ApiKey, ApiKeyId};

/// What every key begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "jsk_";
/// How many random bytes the secret is.
const SECRET_BYTES: usize = 32;

/// An API key with its secret part. It is shown by nothing but [`NewApiKey`].
pub struct ApiKeySecret {
    id: ApiKeyId,
    secret: [u8; SECRET_BYTES],
}

impl ApiKeySecret {
    /// Whether a credential means to be a key.
    pub fn is_meant(credential: &[u8]) -> bool {
        credential.starts_with(PREFIX.as_bytes())
    }

    /// Reads a key. There is one way to write each.
    pub fn parse(credential: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(credential).ok()?.strip_prefix(PREFIX)?;
        let (id, secret) = text.split_at_checked(ApiKeyId::DIGITS)?;
        let secret = URL_SAFE_NO_PAD.decode(secret.strip_prefix('_')?).ok()?;
        Some(Self { id: ApiKeyId::parse(id).ok()?, secret: secret.try_into().ok()? })
    }

    /// Its public part.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// Whether this is the key that was kept, in a time that tells nothing of how much of it is.
    pub fn is_of(&self, kept: &ApiKey) -> bool {
        self.id == kept.id && bool::from(self.hash().ct_eq(&kept.secret_hash))
    }

    /// The secret is 256 random bits: nobody finds it by hashing guesses, and so one round is enough.
    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// A key at the one moment when it can be told to somebody.
pub struct NewApiKey(ApiKeySecret);

impl NewApiKey {
    /// How many random bytes a key is made of.
    pub const RANDOM_BYTES: usize = size_of::<u64>() + SECRET_BYTES;

    /// A key of these bytes, which are to be random.
    pub fn of_random(bytes: &[u8; Self::RANDOM_BYTES]) -> Self {
        let (mut id, mut secret) = ([0; size_of::<u64>()], [0; SECRET_BYTES]);
        id.copy_from_slice(&bytes[..size_of::<u64>()]);
        secret.copy_from_slice(&bytes[size_of::<u64>()..]);
        Self(ApiKeySecret { id: ApiKeyId::from_u64(u64::from_be_bytes(id)), secret })
    }

    /// Its public part.
    pub fn id(&self) -> ApiKeyId {
        self.0.id
    }

    /// What is to be kept of its secret part.
    pub fn secret_hash(&self) -> [u8; 32] {
        self.0.hash()
    }
}

/// The whole key, with its secret.
impl fmt::Display for NewApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}_{}", self.0.id, URL_SAFE_NO_PAD.encode(self.0.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::an_api_key;

    #[test]
    fn a_key_is_read_as_it_was_told_and_no_other_way() {
        let new = NewApiKey::of_random(&[0xa5; NewApiKey::RANDOM_BYTES]);
        let text = new.to_string();
        assert_eq!(text.len(), PREFIX.len() + ApiKeyId::DIGITS + 1 + 43);
        let kept = ApiKey { secret_hash: new.secret_hash(), ..an_api_key(new.id()) };
        let read = ApiKeySecret::parse(text.as_bytes()).unwrap();
        assert!(read.is_of(&kept));
        assert!(!read.is_of(&ApiKey { id: ApiKeyId::from_u64(1), ..kept.clone() }));
        let other = NewApiKey::of_random(&[0xa6; NewApiKey::RANDOM_BYTES]).secret_hash();
        assert!(!read.is_of(&ApiKey { secret_hash: other, ..kept }));

        let last = text.chars().last().unwrap();
        let same_bits_otherwise = char::from(last as u8 + 1);
        for wrong in [
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}A"),
            &format!("{text}="),
            &text.to_uppercase(),
            &text.replacen('_', "-", 2),
            &format!("{}{same_bits_otherwise}", &text[..text.len() - 1]),
            "jsk_",
            "jsk__",
            "jsk_äääääääääääääääää",
        ] {
            assert!(ApiKeySecret::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(ApiKeySecret::is_meant(b"jsk_") && !ApiKeySecret::is_meant(b"JSK_x"));
    }
}
