//! JSON Web Tokens (RFC 7519), signed as RFC 7515 says, and nothing that these allow beyond what is needed: three parts,
//! one algorithm, no extension, no key from the token itself (RFC 8725).
//!
//! The signature is looked at before anything in the claims is, and the claims are read once, into types that take
//! nothing but what belongs there: a claim of another kind than it should be is a bad token, never one that is not there.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use super::verification_keys::VerificationKeys;
use crate::domain::entities::{CredentialId, Permissions, Principal, Reach};
use crate::domain::value_objects::Timestamp;

/// By how much the clocks of whoever made a token and of this server may differ.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(30);
/// A moment in seconds that no token's clock has: the end of the year 9999. What lies behind is a mistake or a trick.
const SECONDS_MAX: u64 = 253_402_300_799;

/// What tokens are held to.
#[derive(Debug)]
pub struct TokenVerifier {
    keys: VerificationKeys,
    issuer: Option<String>,
    audience: Option<String>,
}

/// A token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Whoever shows it.
    pub principal: Principal,
    /// When it stops being good, by its own word.
    pub expires_at: Timestamp,
}

/// The head of a token (RFC 7515 §4.1), as far as it decides anything. Where a key is to be had (`jku`, `jwk`, `x5u`,
/// `x5c`) is not the token's to say, and is not even read.
#[derive(Deserialize)]
struct Head {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    cty: Option<String>,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    /// Extensions that have to be understood (RFC 7515 §4.1.11). None is.
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
    /// Whether the payload is encoded (RFC 7797). It is.
    #[serde(default, deserialize_with = "present")]
    b64: Option<IgnoredAny>,
    /// That it is encrypted (RFC 7516), which is another thing altogether.
    #[serde(default, deserialize_with = "present")]
    enc: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    zip: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "present")]
    sub: Option<String>,
    tenant_id: String,
    #[serde(default, deserialize_with = "present")]
    namespaces: Option<Vec<String>>,
    #[serde(default)]
    scope: String,
}

/// RFC 7519 §4.1.3
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes(&self, own: &str) -> bool {
        match self {
            Self::One(named) => named == own,
            Self::Several(named) => named.iter().any(|named| named == own),
        }
    }
}

/// A member that is there has a value of its type: `null` is not the same as its absence, which may mean "all".
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TokenVerifier {
    /// Holds tokens to these keys, and to an issuer and an audience where one is said.
    pub fn new(keys: VerificationKeys, issuer: Option<String>, audience: Option<String>) -> Self {
        Self { keys, issuer, audience }
    }

    /// What a token is worth at this moment; `None` if nothing.
    pub fn verify(&self, token: &[u8], now: Timestamp) -> Option<VerifiedToken> {
        let token = std::str::from_utf8(token).ok()?;
        let (message, signature) = token.rsplit_once('.')?;
        let (head, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let head: Head = decode(head)?;
        if !self.takes(&head) || !self.keys.have_signed(message.as_bytes(), signature, head.kid.as_deref()) {
            return None;
        }
        let claims: Claims = decode(claims)?;
        if !self.takes_claims(&claims, now) {
            return None;
        }
        let namespaces = claims.namespaces.as_ref().map(|names| names.iter().map(String::as_str));
        let reach = Reach::parse(&claims.tenant_id, namespaces).ok()?;
        let anonymous = || {
            let digest: [u8; 32] = Sha256::digest(token).into();
            digest[..8].iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        };
        let principal = Principal {
            credential_id: Some(CredentialId::new("jwt", claims.sub.as_deref().unwrap_or(""), anonymous)),
            reach,
            permissions: Permissions::of_words(&claims.scope),
        };
        Some(VerifiedToken { principal, expires_at: moment(claims.exp) })
    }

    fn takes(&self, head: &Head) -> bool {
        let is_token = |typ: &String| {
            let typ = typ.strip_prefix("application/").unwrap_or(typ);
            // A token of another kind was made for another purpose (RFC 8725 §3.11).
            typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt")
        };
        let extended = [&head.crit, &head.b64, &head.enc, &head.zip].into_iter().any(Option::is_some);
        head.alg == self.keys.algorithm().as_str()
            && head.typ.as_ref().is_none_or(is_token)
            && head.cty.is_none()
            && !extended
    }

    fn takes_claims(&self, claims: &Claims, now: Timestamp) -> bool {
        let leeway = i64::try_from(TOKEN_LEEWAY.as_millis()).unwrap_or(0);
        let now = now.as_millis();
        let is_moment = |seconds: u64| seconds <= SECONDS_MAX;
        let starts = |nbf: u64| is_moment(nbf) && moment(nbf).as_millis() <= now + leeway;
        is_moment(claims.exp)
            && now < moment(claims.exp).as_millis() + leeway
            && claims.nbf.is_none_or(starts)
            && self.issuer.as_ref().is_none_or(|own| claims.iss.as_ref() == Some(own))
            && self
                .audience
                .as_ref()
                .is_none_or(|own| claims.aud.as_ref().is_some_and(|aud| aud.includes(own)))
    }
}

fn moment(seconds: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// Reads a part of a token: base64url without padding, of one JSON object in which no member that is read stands twice.
fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    // An array would be taken for the members in their order.
    bytes.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&bytes).ok()).flatten()
}

#[cfg(test)]
#[path = "token_verifier_tests.rs"]
mod tests;
