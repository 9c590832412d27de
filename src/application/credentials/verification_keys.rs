//! The keys that tokens are verified with. Several at once let their owner change to a new one: while both are here,
//! tokens of either are good.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::crypto::verify;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use thiserror::Error;

/// The fewest bytes of a secret for HS256 (RFC 7518 §3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// The bytes of an RSA modulus: 2048 bits at least (RFC 7518 §3.3), and no more than a core can go through at a stretch.
const RSA_MODULUS_BYTES: RangeInclusive<usize> = 256..=512;
/// The bytes of an Ed25519 public key (RFC 8032 §5.1.5).
const ED25519_KEY_BYTES: usize = 32;
/// The most keys at once. A token that does not say which one it is of is tried with each.
pub(super) const KEYS_MAX: usize = 16;

/// How tokens are signed. One of these is configured, and no token chooses another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256
    Rs256,
    /// ECDSA on P-256 with SHA-256
    Es256,
    /// Ed25519
    EdDsa,
}

impl TokenAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// The name that stands in the head of a token (RFC 7518 §3.1, RFC 8037 §3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    const fn of_crate(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }

    /// Whether a key of a set is one for this algorithm. A set may hold others, which are other parties' business.
    fn fits(self, key: &Jwk) -> bool {
        let named = key.common.key_algorithm.is_none_or(|named| named.to_string() == self.as_str());
        let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let kind = match (self, &key.algorithm) {
            (Self::Hs256, AlgorithmParameters::OctetKey(_)) | (Self::Rs256, AlgorithmParameters::RSA(_)) => {
                true
            }
            (Self::Es256, AlgorithmParameters::EllipticCurve(key)) => key.curve == EllipticCurve::P256,
            (Self::EdDsa, AlgorithmParameters::OctetKeyPair(key)) => key.curve == EllipticCurve::Ed25519,
            _ => false,
        };
        named && signs && kind
    }
}

/// A name that is none of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it is HS256, RS256, ES256 or EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for TokenAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(UnknownAlgorithm)
    }
}

/// Keys that cannot be used. The message names the rule, never the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("there is no key in it")]
    None,
    /// More than are tried.
    #[error("there are more than {max} keys in it", max = KEYS_MAX)]
    TooMany,
    /// A secret that could be guessed.
    #[error("a secret for HS256 has {min} bytes at least", min = SECRET_BYTES_MIN)]
    SecretTooShort,
    /// A modulus that could be factored, or holds a core up.
    #[error("an RSA key has 2048 to 4096 bits")]
    RsaLength,
    /// Not a key of this kind.
    #[error("it is not PEM with public keys for {0}")]
    Pem(&'static str),
    /// Not a set of keys.
    #[error("it is not a JSON Web Key Set (RFC 7517)")]
    KeySet,
    /// A set without a key that could be used.
    #[error("there is no key for {0} in it")]
    NoneFits(&'static str),
    /// A key of the set that is broken.
    #[error("a key for {0} in it is broken")]
    Broken(&'static str),
}

/// A key and the name that its set gives it.
struct VerificationKey {
    name: Option<String>,
    key: DecodingKey,
}

/// All keys of one algorithm.
pub struct VerificationKeys {
    algorithm: TokenAlgorithm,
    keys: Vec<VerificationKey>,
}

impl fmt::Debug for VerificationKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} keys for {}", self.keys.len(), self.algorithm.as_str())
    }
}

impl VerificationKeys {
    /// Secrets for HS256, one a line.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of_secrets(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().filter(|line| !line.is_empty());
        let keys = lines.map(|line| (None, DecodingKey::from_secret(line.as_bytes())));
        Self::checked(TokenAlgorithm::Hs256, keys)
    }

    /// Public keys in PEM, one behind the other.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of_pem(algorithm: TokenAlgorithm, text: &str) -> Result<Self, KeyError> {
        const BEGIN: &str = "-----BEGIN ";
        let wrong = KeyError::Pem(algorithm.as_str());
        let read = match algorithm {
            TokenAlgorithm::Hs256 => return Err(wrong),
            TokenAlgorithm::Rs256 => DecodingKey::from_rsa_pem,
            TokenAlgorithm::Es256 => DecodingKey::from_ec_pem,
            TokenAlgorithm::EdDsa => DecodingKey::from_ed_pem,
        };
        let key = |part: &str| {
            // A private key has no business here, and is not taken for its public half.
            let is_public =
                ["PUBLIC KEY-----", "RSA PUBLIC KEY-----"].iter().any(|tag| part.starts_with(tag));
            let key = read(format!("{BEGIN}{part}").as_bytes());
            key.ok().filter(|_| is_public).map(|key| (None, key)).ok_or(wrong)
        };
        let keys = text.split(BEGIN).skip(1).map(key).collect::<Result<Vec<_>, _>>()?;
        Self::checked(algorithm, keys)
    }

    /// A JSON Web Key Set (RFC 7517 §5). Keys of other kinds are passed over.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of_key_set(algorithm: TokenAlgorithm, text: &str) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct KeySet {
            keys: Vec<serde_json::Value>,
        }
        let set: KeySet = serde_json::from_str(text).map_err(|_| KeyError::KeySet)?;
        let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let fitting: Vec<Jwk> = known.filter(|key| algorithm.fits(key)).collect();
        if fitting.is_empty() {
            return Err(KeyError::NoneFits(algorithm.as_str()));
        }
        let read = |jwk: Jwk| Ok((jwk.common.key_id.clone(), DecodingKey::from_jwk(&jwk)?));
        let keys: jsonwebtoken::errors::Result<Vec<_>> = fitting.into_iter().map(read).collect();
        Self::checked(algorithm, keys.map_err(|_| KeyError::Broken(algorithm.as_str()))?)
    }

    fn checked(
        algorithm: TokenAlgorithm,
        keys: impl IntoIterator<Item = (Option<String>, DecodingKey)>,
    ) -> Result<Self, KeyError> {
        let check = |(name, key)| check(algorithm, &key).map(|()| VerificationKey { name, key });
        let keys = keys.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(KeyError::None),
            1..=KEYS_MAX => Ok(Self { algorithm, keys }),
            _ => Err(KeyError::TooMany),
        }
    }

    /// How the tokens are signed that they verify.
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Whether one of them made this signature. A token that names its key is held to that one, where keys have names.
    pub fn have_signed(&self, message: &[u8], signature: &str, named: Option<&str>) -> bool {
        let meant = |key: &&VerificationKey| match (&key.name, named) {
            (Some(name), Some(named)) => name == named,
            _ => true,
        };
        let algorithm = self.algorithm.of_crate();
        self.keys
            .iter()
            .filter(meant)
            .any(|key| verify(signature, message, &key.key, algorithm).unwrap_or(false))
    }
}

/// Finds out at start what would otherwise fail with the first token, or with none.
fn check(algorithm: TokenAlgorithm, key: &DecodingKey) -> Result<(), KeyError> {
    let broken = KeyError::Broken(algorithm.as_str());
    match (algorithm, key.kind()) {
        (TokenAlgorithm::Hs256, DecodingKeyKind::SecretOrDer(secret)) => {
            return if secret.len() < SECRET_BYTES_MIN { Err(KeyError::SecretTooShort) } else { Ok(()) };
        }
        (TokenAlgorithm::Rs256, kind) => {
            let modulus = match kind {
                DecodingKeyKind::RsaModulusExponent { n, .. } => n.clone(),
                DecodingKeyKind::SecretOrDer(der) => {
                    let components = DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key;
                    components(der).map_err(|_| broken)?.0
                }
            };
            let bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
            if !RSA_MODULUS_BYTES.contains(&bytes) {
                return Err(KeyError::RsaLength);
            }
        }
        (TokenAlgorithm::EdDsa, DecodingKeyKind::SecretOrDer(key)) if key.len() != ED25519_KEY_BYTES => {
            return Err(broken);
        }
        _ => {}
    }
    // Whatever the signature, a key that is none is an error here, and one that is one is not.
    verify("AAAA", b"", key, algorithm.of_crate()).map(drop).map_err(|_| broken)
}
