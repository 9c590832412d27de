//! Signatures of URLs: who has made one, with which secret, and whether they may still do what it lets others do.
//!
//! What is signed is text here; what it says is the business of whoever reads it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::CREDENTIAL_BYTES_MAX;
use super::api_key_secret::ApiKeySecret;
use super::authenticator::{AuthenticationError, CurrentVerifier, find_good_key, until};
use super::request_rate::{RateExceeded, RequestRates};
use super::verification_keys::{KeyDigest, KeyError, SECRET_BYTES_MIN};
use super::verified_credentials::{Entry, REMEMBERED_FOR, Verified, VerifiedCredentials};
use crate::application::errors::RepositoryError;
use crate::application::ports::{ApiKeyRepository, Clock, KeyStanding};
use crate::domain::entities::{ApiKeyId, CredentialId, Permission, Principal, Reach, Scope};
use crate::domain::value_objects::Timestamp;

/// The most secrets at once: the one that signs, and the one that did so before.
pub const SIGNING_SECRETS_MAX: usize = 2;
/// What every signed message begins with: no signature that was made for something else with the same secret is one of
/// a URL.
const PURPOSE: &[u8] = b"just_storage signed URL, version 1\n";

/// The secrets that URLs are signed with (HMAC of RFC 2104 with SHA-256). The first one signs, all of them verify, so
/// that one can follow the other.
pub struct UrlSigningKeys(Vec<Hmac<Sha256>>);

impl UrlSigningKeys {
    /// One or two secrets, one a line.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of_secrets(text: &str) -> Result<Self, KeyError> {
        let key = |secret: &str| match secret.len() {
            // HMAC takes a secret of any length, so that the second case is the same as the first.
            ..SECRET_BYTES_MIN => Err(KeyError::SecretTooShort),
            _ => Hmac::new_from_slice(secret.as_bytes()).map_err(|_| KeyError::SecretTooShort),
        };
        let keys = text.lines().filter(|line| !line.is_empty()).map(key).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(KeyError::None),
            1..=SIGNING_SECRETS_MAX => Ok(Self(keys)),
            _ => Err(KeyError::TooMany(SIGNING_SECRETS_MAX)),
        }
    }

    fn sign(&self, anchor: &KeyDigest, message: &[&str]) -> String {
        // There is a first one: it was counted.
        let signature = self.0.first().map(|key| mac(key, anchor, message).finalize().into_bytes());
        signature.map(|signature| URL_SAFE_NO_PAD.encode(signature)).unwrap_or_default()
    }

    /// Compared in a time that tells nothing of how much of the signature is right.
    fn have_signed(&self, anchor: &KeyDigest, message: &[&str], signature: &[u8]) -> bool {
        self.0.iter().any(|key| mac(key, anchor, message).verify_slice(signature).is_ok())
    }
}

/// The purpose and the anchor have fixed lengths, and the message is what remains: it can be read in one way.
fn mac(key: &Hmac<Sha256>, anchor: &KeyDigest, message: &[&str]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(PURPOSE);
    mac.update(anchor.as_bytes());
    message.iter().for_each(|part| mac.update(part.as_bytes()));
    mac
}

/// Who has signed, by the name that stands in what they signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// An API key.
    ApiKey(ApiKeyId),
    /// Whoever showed a token, by the token's name for them.
    Token(CredentialId),
}

impl Signer {
    const API_KEY: &'static str = "jsk:";
    const TOKEN: &'static str = "jwt:";

    /// The name.
    pub fn name(&self) -> String {
        match self {
            Self::ApiKey(id) => format!("{}{id}", Self::API_KEY),
            Self::Token(name) => name.as_str().to_owned(),
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(id) = name.strip_prefix(Self::API_KEY) {
            return ApiKeyId::parse(id).ok().map(Self::ApiKey);
        }
        let of_token = name.strip_prefix(Self::TOKEN)?;
        Some(Self::Token(CredentialId::new("jwt", of_token, String::new)))
    }

    /// For the log: by whom a URL was signed that somebody has shown.
    pub fn credential_id(&self) -> CredentialId {
        let name = self.name();
        let digest = || {
            let digest: [u8; 32] = Sha256::digest(&name).into();
            digest[..8].iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        };
        CredentialId::new("url", &name, digest)
    }
}

/// Somebody whose credential is good at this moment, and who is about to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentSigner {
    /// The name that goes into what they sign.
    pub signer: Signer,
    /// What they may do themselves.
    pub principal: Principal,
    /// When their own credential ends, if that is known already.
    pub expires_at: Option<Timestamp>,
    /// For a token, the key that has verified it: once that is no longer in force, what was signed on the strength of
    /// it is good for nothing. An API key is looked up by its name instead.
    anchor: KeyDigest,
}

/// API keys are good whichever keys for tokens are in force.
const KEY_EPOCH: u64 = 0;

/// One core's judge of signatures.
pub struct UrlSignatures {
    keys: Arc<UrlSigningKeys>,
    tokens: Option<CurrentVerifier>,
    /// What signers are held to, where they are: what their URLs ask is asked by them.
    rates: Option<Arc<RequestRates>>,
    /// Keys that have signed, and were good a moment ago. Apart from credentials that were shown: nobody becomes
    /// somebody by showing the name of a key.
    signers: VerifiedCredentials,
}

impl UrlSignatures {
    /// Signs with these secrets, for whoever shows an API key, or a token where there is something to verify it with.
    pub fn new(
        keys: Arc<UrlSigningKeys>,
        tokens: Option<CurrentVerifier>,
        rates: Option<Arc<RequestRates>>,
    ) -> Self {
        Self { keys, tokens, rates, signers: VerifiedCredentials::default() }
    }

    /// Who shows this credential, which has let them in a moment ago. It is looked at anew: what is remembered of it says neither when it ends nor which
    /// key has verified it, and may be over.
    ///
    /// # Errors
    /// [`AuthenticationError`].
    pub async fn present(
        &self,
        credential: &[u8],
        keys: &impl ApiKeyRepository,
        clock: &impl Clock,
    ) -> Result<PresentSigner, AuthenticationError> {
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(AuthenticationError::Invalid);
        }
        if ApiKeySecret::is_meant(credential) {
            let key = find_good_key(credential, KeyStanding::Proven, keys, clock).await?;
            let (signer, principal) = (Signer::ApiKey(key.id), key.principal());
            return Ok(PresentSigner {
                signer,
                principal,
                expires_at: key.expires_at,
                anchor: KeyDigest::NONE,
            });
        }
        let verified = self.tokens.as_ref().and_then(|tokens| tokens.get().verify(credential, clock.now()));
        let verified = verified.ok_or(AuthenticationError::Invalid)?;
        // A token always has a name.
        let name = verified.principal.credential_id.clone().ok_or(AuthenticationError::Invalid)?;
        Ok(PresentSigner {
            signer: Signer::Token(name),
            principal: verified.principal,
            expires_at: Some(verified.expires_at),
            anchor: verified.key,
        })
    }

    /// Signs a message, which names the signer.
    pub fn sign(&self, signer: &PresentSigner, message: &str) -> String {
        self.keys.sign(&signer.anchor, &[message])
    }

    /// Whether the signature of a message, which may come in parts, is one that was made here for this signer, and the
    /// key is still in force that verified their token.
    pub fn have_signed(&self, signer: &Signer, message: &[&str], signature: &str) -> bool {
        // There is one way to write each signature: bits that are left over are nought.
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        match (signer, &self.tokens) {
            (Signer::ApiKey(_), _) => self.keys.have_signed(&KeyDigest::NONE, message, &signature),
            (Signer::Token(_), Some(tokens)) => {
                let verifier = tokens.get();
                verifier.key_digests().any(|anchor| self.keys.have_signed(&anchor, message, &signature))
            }
            (Signer::Token(_), None) => false,
        }
    }

    /// Whether a signer, whose signature is good, may do what they have signed by their own credential too: `None` if not.
    /// Of a token that was settled when it was shown: what was signed ends with it, and carries what it reached. If so,
    /// the request is charged to the signer.
    ///
    /// # Errors
    /// An API key cannot be looked up.
    pub async fn still_permit(
        &self,
        signer: &Signer,
        needed: Permission,
        scope: &Scope,
        (keys, clock): (&impl ApiKeyRepository, &impl Clock),
    ) -> Result<Option<Result<(), RateExceeded>>, RepositoryError> {
        let id = match signer {
            Signer::ApiKey(id) => *id,
            Signer::Token(name) => return Ok(Some(self.charge_token(name, scope))),
        };
        let (remembered_as, begun) = (id.as_u64().to_be_bytes(), Instant::now());
        let permitted = |Verified { principal, within_rate }: Verified| {
            let permits = principal.check_permission(needed).is_ok() && principal.check_scope(scope).is_ok();
            permits.then_some(within_rate)
        };
        if let Some(verified) = self.signers.charge(&remembered_as, begun, KEY_EPOCH) {
            return Ok(permitted(verified));
        }
        // Nobody can have guessed it: its holder has signed.
        let (kept, now) = (keys.find_api_key(id, KeyStanding::Proven).await?, clock.now());
        let Some(key) = kept.filter(|key| key.is_good_at(now)) else { return Ok(None) };
        let good_for = key.expires_at.map_or(REMEMBERED_FOR, |expires_at| until(expires_at, now));
        let principal = key.principal();
        let account = self.rates.as_ref().and_then(|rates| rates.account_of(&principal));
        let until = begun + good_for.min(REMEMBERED_FOR);
        let entry = Entry { principal: Rc::new(principal), account, key_epoch: KEY_EPOCH, until };
        let verified = entry.charge(Instant::now());
        self.signers.put(&remembered_as, entry);
        Ok(permitted(verified))
    }

    fn charge_token(&self, name: &CredentialId, scope: &Scope) -> Result<(), RateExceeded> {
        let Some(rates) = &self.rates else { return Ok(()) };
        let holder = Principal {
            credential_id: Some(name.clone()),
            reach: Reach::new(Some(scope.tenant_id.clone()), None),
            permissions: Default::default(),
        };
        rates.account_of(&holder).map_or(Ok(()), |account| account.charge(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use super::super::{NewApiKey, RequestRate, TokenVerifier, VerificationKeys};
    use super::*;
    use crate::application::fakes::{FakeRepository, a_scope, an_api_key, block_on};
    use crate::domain::entities::ApiKey;

    const SECRET: &str = "a secret of thirty-two bytes: 01";
    const OTHER: &str = "a secret of thirty-two bytes: 02";
    const NOW: Timestamp = Timestamp::from_millis(1_795_468_200_000);
    const MESSAGE: &str = "/v1/keys/models/acme/k?signed_by=…";

    struct At(Cell<Timestamp>);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            self.0.get()
        }
    }

    fn keys(secrets: &[&str]) -> Arc<UrlSigningKeys> {
        Arc::new(UrlSigningKeys::of_secrets(&secrets.join("\n")).unwrap())
    }

    fn of_key(id: ApiKeyId) -> Signer {
        Signer::ApiKey(id)
    }

    #[test]
    fn a_signature_is_the_hmac_of_purpose_anchor_and_message() {
        let signed = keys(&[SECRET]).sign(&KeyDigest::NONE, &["/v1/a", "?b"]);
        let whole = [PURPOSE, &[0; 32], b"/v1/a?b"].concat();
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        // Another implementation of the same.
        let expected = jsonwebtoken::crypto::sign(&whole, &key, jsonwebtoken::Algorithm::HS256).unwrap();
        assert_eq!(signed, expected);
        assert_eq!(signed.len(), 43);
    }

    #[test]
    fn one_secret_or_two_that_nobody_guesses() {
        let of = |text: &str| UrlSigningKeys::of_secrets(text).err();
        for (text, error) in [
            (SECRET.to_owned(), None),
            (format!("{SECRET}\n"), None),
            (format!("{SECRET}\n\n{OTHER}\n"), None),
            (SECRET[1..].to_owned(), Some(KeyError::SecretTooShort)),
            (format!("{SECRET}\nshort"), Some(KeyError::SecretTooShort)),
            (String::new(), Some(KeyError::None)),
            ("\n\n".to_owned(), Some(KeyError::None)),
            (format!("{SECRET}\n{OTHER}\n{SECRET}x"), Some(KeyError::TooMany(2))),
        ] {
            assert_eq!(of(&text), error, "{text:?}");
        }
    }

    #[test]
    fn the_first_secret_signs_and_both_verify() {
        let signer = of_key(ApiKeyId::from_u64(1));
        let signatures = |secrets: &[&str]| UrlSignatures::new(keys(secrets), None, None);
        let by_old = keys(&[SECRET]).sign(&KeyDigest::NONE, &[MESSAGE]);
        let both = signatures(&[OTHER, SECRET]);
        assert!(both.have_signed(&signer, &[MESSAGE], &by_old), "one that was given out before the change");
        let by_new = both.keys.sign(&KeyDigest::NONE, &[MESSAGE]);
        assert!(signatures(&[OTHER]).have_signed(&signer, &[MESSAGE], &by_new));
        assert!(!signatures(&[OTHER]).have_signed(&signer, &[MESSAGE], &by_old), "the old one has gone");
        // In parts or whole, it is the same message; and there is one way to write a signature.
        assert!(both.have_signed(&signer, &[&MESSAGE[..3], &MESSAGE[3..]], &by_new));
        assert!(!both.have_signed(&signer, &[&MESSAGE[1..]], &by_new));
        let same_bits_otherwise = char::from(by_new.as_bytes()[42] + 1);
        for wrong in [
            "",
            &by_new[..42],
            &format!("{by_new}="),
            &format!("{by_new}A"),
            &format!("{}{same_bits_otherwise}", &by_new[..42]),
        ] {
            assert!(!both.have_signed(&signer, &[MESSAGE], wrong), "{wrong}");
        }
    }

    #[test]
    fn a_signer_has_one_name() {
        let token = |name: &str| Signer::Token(CredentialId::new("jwt", name, || "#0".into()));
        for (signer, name) in [
            (of_key(ApiKeyId::from_u64(0xab)), "jsk:00000000000000ab"),
            (token("alice@example"), "jwt:alice@example"),
            (token("a:b&c=d%"), "jwt:a:b&c=d%"),
            (token(&"x".repeat(76)), &format!("jwt:{}", "x".repeat(76))),
            (token(""), "jwt:#0"),
        ] {
            assert_eq!(signer.name(), name);
            assert_eq!(Signer::parse(name), Some(signer.clone()));
            assert!(signer.credential_id().as_str().len() <= CredentialId::BYTES_MAX);
        }
        assert_eq!(of_key(ApiKeyId::from_u64(0xab)).credential_id().as_str(), "url:jsk:00000000000000ab");
        for name in ["", "jsk", "jsk:", "jsk:00000000000000AB", "url:jsk:00000000000000ab", "alice"] {
            assert_eq!(Signer::parse(name), None, "{name}");
        }
    }

    #[test]
    fn an_api_key_signs_as_long_as_it_is_good_and_what_it_may_do_itself() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let new = NewApiKey::of_random(&[7; NewApiKey::RANDOM_BYTES]);
        let key = ApiKey { secret_hash: new.secret_hash(), ..an_api_key(new.id()) };
        let text = new.to_string();
        let signatures = UrlSignatures::new(keys(&[SECRET]), None, None);
        let present = || block_on(signatures.present(text.as_bytes(), &repository, &clock));
        assert_eq!(present(), Err(AuthenticationError::Invalid), "it is not kept");
        let end = Timestamp::from_millis(NOW.as_millis() + 1000);
        repository.put_api_key(ApiKey { expires_at: Some(end), ..key.clone() });
        let signer = present().unwrap();
        assert_eq!((&signer.signer, signer.expires_at), (&of_key(key.id), Some(end)));
        let signature = signatures.sign(&signer, MESSAGE);
        assert!(signatures.have_signed(&signer.signer, &[MESSAGE], &signature));

        let permits = |needed, scope: &Scope| {
            // Nothing is remembered, so that each of these is asked for.
            let signatures = UrlSignatures::new(keys(&[SECRET]), None, None);
            let ports = (&repository, &clock);
            let permitted = block_on(signatures.still_permit(&signer.signer, needed, scope, ports));
            permitted.map(|permitted| permitted.is_some())
        };
        let own = a_scope("models", "acme");
        assert_eq!(permits(Permission::Read, &own), Ok(true));
        assert_eq!(permits(Permission::Delete, &own), Ok(false), "it may not do that itself");
        assert_eq!(permits(Permission::Read, &a_scope("logs", "acme")), Ok(false));
        assert_eq!(permits(Permission::Read, &a_scope("models", "other")), Ok(false));
        repository.put_api_key(ApiKey { permissions: Default::default(), ..key.clone() });
        assert_eq!(permits(Permission::Read, &own), Ok(false), "it may do less than it might when it signed");
        repository.put_api_key(ApiKey { revoked_at: Some(NOW), ..key.clone() });
        assert_eq!(permits(Permission::Read, &own), Ok(false));
        assert_eq!(present(), Err(AuthenticationError::Invalid));
        repository.put_api_key(ApiKey { expires_at: Some(end), ..key });
        clock.0.set(end);
        assert_eq!(permits(Permission::Read, &own), Ok(false));
        let nobody = block_on(signatures.still_permit(
            &of_key(ApiKeyId::from_u64(1)),
            Permission::Read,
            &own,
            (&repository, &clock),
        ));
        assert_eq!(nobody, Ok(None));
    }

    #[test]
    fn a_signer_is_remembered_for_a_moment_and_no_longer_than_their_key_is_good() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let signatures = UrlSignatures::new(keys(&[SECRET]), None, None);
        let (lasting, brief) = (an_api_key(ApiKeyId::from_u64(1)), an_api_key(ApiKeyId::from_u64(2)));
        let end = Timestamp::from_millis(NOW.as_millis() + 1);
        repository.put_api_key(lasting.clone());
        repository.put_api_key(ApiKey { expires_at: Some(end), ..brief.clone() });
        let own = a_scope("models", "acme");
        let permits = |id| {
            let read = Permission::Read;
            let signer = of_key(id);
            let permitted = signatures.still_permit(&signer, read, &own, (&repository, &clock));
            block_on(permitted).map(|permitted| permitted.is_some())
        };
        assert_eq!((permits(lasting.id), permits(brief.id)), (Ok(true), Ok(true)));
        std::thread::sleep(std::time::Duration::from_millis(2));
        repository.fail_next_key(RepositoryError::Unavailable);
        assert_eq!(permits(lasting.id), Ok(true), "nobody is asked");
        assert_eq!(permits(brief.id), Err(RepositoryError::Unavailable), "it is asked for again");
    }

    #[test]
    fn what_a_url_asks_is_asked_by_its_signer() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let once_a_second = RequestRate::new(NonZeroU32::MIN, NonZeroU32::MIN);
        let rates = Arc::new(RequestRates::new(once_a_second));
        let signatures = UrlSignatures::new(keys(&[SECRET]), None, Some(rates.clone()));
        let (key, own) = (an_api_key(ApiKeyId::from_u64(1)), a_scope("models", "acme"));
        repository.put_api_key(key.clone());
        let token = Signer::Token(CredentialId::new("jwt", "alice", String::new));
        for signer in [of_key(key.id), token] {
            let ask = || {
                let ports = (&repository, &clock);
                block_on(signatures.still_permit(&signer, Permission::Read, &own, ports)).unwrap().unwrap()
            };
            assert_eq!(ask(), Ok(()));
            assert!(ask().is_err(), "{signer:?}");
        }
        let account = rates.account_of(&key.principal()).unwrap();
        assert!(account.charge(Instant::now()).is_err(), "the key itself has been charged");
    }

    #[test]
    fn what_a_token_has_signed_ends_with_the_key_that_verified_it() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let verifier =
            |secrets: &str| TokenVerifier::new(VerificationKeys::of_secrets(secrets).unwrap(), None, None);
        let tokens = CurrentVerifier::new(verifier(OTHER));
        let signatures = UrlSignatures::new(keys(&[SECRET]), Some(tokens.clone()), None);
        let expires_at = NOW.as_seconds() + 60;
        let claims =
            serde_json::json!({"exp": expires_at, "tenant_id": "acme", "scope": "read", "sub": "alice"});
        let key = jsonwebtoken::EncodingKey::from_secret(OTHER.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        let present = || block_on(signatures.present(token.as_bytes(), &repository, &clock));
        let signer = present().unwrap();
        assert_eq!(signer.signer.name(), "jwt:alice");
        assert_eq!(signer.expires_at, Some(Timestamp::from_millis(expires_at * 1000)));
        assert_eq!(signer.principal.permissions.to_string(), "read");
        let signature = signatures.sign(&signer, MESSAGE);
        let is_good = || signatures.have_signed(&signer.signer, &[MESSAGE], &signature);
        assert!(is_good());
        let other = Signer::Token(CredentialId::new("jwt", "bob", String::new));
        assert!(signatures.have_signed(&other, &[MESSAGE], &signature), "the name is in the message alone");
        let as_key = of_key(ApiKeyId::from_u64(1));
        assert!(!signatures.have_signed(&as_key, &[MESSAGE], &signature));

        tokens.replace(verifier(&format!("{SECRET}\n{OTHER}")));
        assert!(is_good(), "while one key follows the other, both are in force");
        tokens.replace(verifier(SECRET));
        assert!(!is_good());
        assert_eq!(present(), Err(AuthenticationError::Invalid));
        assert!(!UrlSignatures::new(keys(&[SECRET]), None, None).have_signed(
            &signer.signer,
            &[MESSAGE],
            &signature
        ));
    }

    #[test]
    fn what_is_too_long_to_be_a_credential_is_not_looked_at() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        repository.fail_next_key(RepositoryError::Unavailable);
        let signatures = UrlSignatures::new(keys(&[SECRET]), None, None);
        let credential = format!("jsk_{}", "x".repeat(CREDENTIAL_BYTES_MAX - 3));
        let present = block_on(signatures.present(credential.as_bytes(), &repository, &clock));
        assert_eq!(present, Err(AuthenticationError::Invalid));
    }
}
