//! From a credential to whoever shows it.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::CREDENTIAL_BYTES_MAX;
use super::api_key_secret::ApiKeySecret;
use super::request_rate::RequestRates;
use super::token_verifier::TokenVerifier;
use super::verified_credentials::{Entry, REMEMBERED_FOR, Verified, VerifiedCredentials};
use crate::application::errors::RepositoryError;
use crate::application::ports::{ApiKeyRepository, Clock, KeyStanding};
use crate::domain::entities::{ApiKey, Principal};
use crate::domain::value_objects::Timestamp;

/// The verifier of tokens that is in force, which all cores share. Another one can take its place at any time, and is
/// in force everywhere when it has: what cores remember from before counts no more.
#[derive(Debug, Clone)]
pub struct CurrentVerifier(Arc<InForce>);

#[derive(Debug)]
struct InForce {
    verifier: RwLock<Arc<TokenVerifier>>,
    /// How often another one has taken its place.
    epoch: AtomicU64,
}

impl CurrentVerifier {
    /// Begins with this one.
    pub fn new(verifier: TokenVerifier) -> Self {
        Self(Arc::new(InForce { verifier: RwLock::new(Arc::new(verifier)), epoch: AtomicU64::new(0) }))
    }

    /// Puts another one in its place.
    pub fn replace(&self, verifier: TokenVerifier) {
        *self.0.verifier.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
        // In this order: what is verified in the new epoch was verified by the new one.
        self.0.epoch.fetch_add(1, Ordering::Release);
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// The one that is in force. Asked only for credentials that are not remembered, and held for no longer than a
    /// clone takes.
    pub(super) fn get(&self) -> Arc<TokenVerifier> {
        self.0.verifier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why nobody is known to show a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// It is no good. Why, its sender is not told.
    #[error("the credential is not valid")]
    Invalid,
    /// Whether it is good cannot be found out.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// One core's judge of credentials.
pub struct Authenticator {
    /// None where no tokens are taken, but keys alone.
    tokens: Option<CurrentVerifier>,
    /// What all credentials are held to, where they are.
    rates: Option<Arc<RequestRates>>,
    verified: VerifiedCredentials,
}

impl Authenticator {
    /// Takes API keys, and tokens where there is something to verify them with.
    pub fn new(tokens: Option<CurrentVerifier>, rates: Option<Arc<RequestRates>>) -> Self {
        Self { tokens, rates, verified: VerifiedCredentials::default() }
    }

    /// Charges a request to this credential, if it was good a moment ago. Makes nothing and asks nobody.
    pub fn remembered(&self, credential: &[u8]) -> Option<Verified> {
        self.verified.charge(credential, Instant::now(), self.key_epoch())
    }

    fn key_epoch(&self) -> u64 {
        self.tokens.as_ref().map_or(0, CurrentVerifier::epoch)
    }

    /// Finds out whether a credential is good; if it is, charges a request to it and remembers it.
    ///
    /// # Errors
    /// [`AuthenticationError`].
    pub async fn verify(
        &self,
        credential: &[u8],
        keys: &impl ApiKeyRepository,
        clock: &impl Clock,
    ) -> Result<Verified, AuthenticationError> {
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(AuthenticationError::Invalid);
        }
        // What is true of a key now may have been so for as long as it takes to be told.
        let (begun, key_epoch) = (Instant::now(), self.key_epoch());
        let found = match ApiKeySecret::is_meant(credential) {
            true => self.verify_key(credential, keys, clock).await,
            false => self.verify_token(credential, clock).ok_or(AuthenticationError::Invalid),
        };
        let (principal, good_for) = found.inspect_err(|error| {
            if *error == AuthenticationError::Invalid {
                self.verified.forget(credential);
            }
        })?;
        let account = self.rates.as_ref().and_then(|rates| rates.account_of(&principal));
        let until = begun + good_for.min(REMEMBERED_FOR);
        let entry = Entry { principal: Rc::new(principal), account, key_epoch, until };
        let verified = entry.charge(Instant::now());
        self.verified.put(credential, entry);
        Ok(verified)
    }

    async fn verify_key(
        &self,
        credential: &[u8],
        keys: &impl ApiKeyRepository,
        clock: &impl Clock,
    ) -> Result<(Principal, Duration), AuthenticationError> {
        let standing =
            if self.verified.was_good(credential) { KeyStanding::Proven } else { KeyStanding::Unproven };
        let good = find_good_key(credential, standing, keys, clock).await?;
        let good_for = good.expires_at.map_or(REMEMBERED_FOR, |expires_at| until(expires_at, clock.now()));
        Ok((good.principal(), good_for))
    }

    fn verify_token(&self, credential: &[u8], clock: &impl Clock) -> Option<(Principal, Duration)> {
        let now = clock.now();
        let verified = self.tokens.as_ref()?.get().verify(credential, now)?;
        Some((verified.principal, until(verified.expires_at, now)))
    }
}

/// What is kept of the API key that a credential is.
///
/// # Errors
/// [`AuthenticationError::Invalid`] if it is none that is good at this moment.
pub(super) async fn find_good_key(
    credential: &[u8],
    standing: KeyStanding,
    keys: &impl ApiKeyRepository,
    clock: &impl Clock,
) -> Result<ApiKey, AuthenticationError> {
    let shown = ApiKeySecret::parse(credential).ok_or(AuthenticationError::Invalid)?;
    let kept = keys.find_api_key(shown.id(), standing).await?;
    let good = kept.filter(|kept| shown.is_of(kept) && kept.is_good_at(clock.now()));
    good.ok_or(AuthenticationError::Invalid)
}

/// How long it is until then; nothing once it is past.
pub(super) fn until(moment: Timestamp, now: Timestamp) -> Duration {
    let millis = moment.as_millis().saturating_sub(now.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use super::super::{NewApiKey, RateExceeded, RequestRate, VerificationKeys};
    use super::*;
    use crate::application::fakes::{FakeRepository, an_api_key, block_on};

    const NOW: Timestamp = Timestamp::from_millis(1_795_468_200_000);

    struct At(Cell<Timestamp>);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            self.0.get()
        }
    }

    fn a_key(seed: u8) -> (String, ApiKey) {
        let new = NewApiKey::of_random(&[seed; NewApiKey::RANDOM_BYTES]);
        (new.to_string(), ApiKey { secret_hash: new.secret_hash(), ..an_api_key(new.id()) })
    }

    #[test]
    fn a_key_that_is_kept_is_good_and_then_remembered() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let authenticator = Authenticator::new(None, None);
        let verify = |text: &str| {
            let verified = block_on(authenticator.verify(text.as_bytes(), &repository, &clock));
            verified.map(|verified| verified.principal)
        };
        let (text, key) = a_key(1);
        assert_eq!(verify(&text), Err(AuthenticationError::Invalid), "it is not kept");
        repository.put_api_key(key.clone());
        assert_eq!(authenticator.remembered(text.as_bytes()), None);
        assert_eq!(*verify(&text).unwrap(), key.principal());
        let remembered = authenticator.remembered(text.as_bytes()).unwrap();
        assert_eq!((&*remembered.principal, remembered.within_rate), (&key.principal(), Ok(())));

        let (other_text, _) = a_key(2);
        let mixed = format!("{}{}", &text[..21], &other_text[21..]);
        assert_eq!(verify(&mixed), Err(AuthenticationError::Invalid), "the secret of another key");
        repository.put_api_key(ApiKey { revoked_at: Some(NOW), ..key.clone() });
        assert_eq!(verify(&text), Err(AuthenticationError::Invalid));
        repository.put_api_key(ApiKey { expires_at: Some(NOW), ..key });
        assert_eq!(verify(&text), Err(AuthenticationError::Invalid));
    }

    #[test]
    fn a_key_that_nobody_can_be_asked_about_is_not_called_bad() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        repository.fail_next_key(RepositoryError::Unavailable);
        let (text, _) = a_key(1);
        let verified = block_on(Authenticator::new(None, None).verify(text.as_bytes(), &repository, &clock));
        assert_eq!(verified, Err(AuthenticationError::Repository(RepositoryError::Unavailable)));
    }

    #[test]
    fn a_key_is_not_remembered_past_its_end() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let (text, key) = a_key(1);
        let end = Timestamp::from_millis(NOW.as_millis() + 1);
        repository.put_api_key(ApiKey { expires_at: Some(end), ..key });
        let authenticator = Authenticator::new(None, None);
        assert!(block_on(authenticator.verify(text.as_bytes(), &repository, &clock)).is_ok());
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(authenticator.remembered(text.as_bytes()), None);
    }

    #[test]
    fn a_key_that_was_good_is_not_looked_up_as_a_guess_would_be() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let (text, key) = a_key(1);
        repository.put_api_key(key.clone());
        let authenticator = Authenticator::new(None, None);
        let verify = |text: &str| block_on(authenticator.verify(text.as_bytes(), &repository, &clock));
        let (guess, _) = a_key(2);
        let mixed = format!("{}{}", &text[..21], &guess[21..]);
        let mut standings = Vec::new();
        for shown in [&guess, &text, &text, &mixed, &guess, &text] {
            let _ = verify(shown);
            standings.push(repository.last_key_standing());
        }
        repository.fail_next_key(RepositoryError::Unavailable);
        assert!(verify(&text).is_err(), "which says nothing about the key");
        repository.put_api_key(ApiKey { revoked_at: Some(NOW), ..key });
        for _ in 0..2 {
            assert_eq!(verify(&text), Err(AuthenticationError::Invalid));
            standings.push(repository.last_key_standing());
        }
        use KeyStanding::{Proven, Unproven};
        let expected = [Unproven, Unproven, Proven, Unproven, Unproven, Proven, Proven, Unproven];
        assert_eq!(standings, expected);
    }

    #[test]
    fn every_request_is_charged_once_whichever_core_it_comes_to() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let (text, key) = a_key(1);
        repository.put_api_key(key.clone());
        let (per_second, burst) = (NonZeroU32::MIN, NonZeroU32::MIN.saturating_add(3));
        let rates = Arc::new(RequestRates::new(RequestRate::new(per_second, burst)));
        let cores = [(); 2].map(|()| Authenticator::new(None, Some(rates.clone())));
        let verify =
            |core: &Authenticator| block_on(core.verify(text.as_bytes(), &repository, &clock)).unwrap();
        let remembered = |core: &Authenticator| core.remembered(text.as_bytes()).unwrap();
        let [one, other] = &cores;
        for verified in [verify(one), verify(other), remembered(one), remembered(other)] {
            assert_eq!(verified.within_rate, Ok(()));
        }
        for verified in [remembered(one), remembered(other), verify(one)] {
            let RateExceeded { retry_after } = verified.within_rate.unwrap_err();
            assert!(retry_after <= Duration::from_secs(1));
            assert_eq!(*verified.principal, key.principal(), "it is known who is refused");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_looked_at() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let secret = "s".repeat(32);
        let keys = VerificationKeys::of_secrets(&secret).unwrap();
        let verifier = CurrentVerifier::new(TokenVerifier::new(keys, None, None));
        let authenticator = Authenticator::new(Some(verifier.clone()), None);
        let verify = |text: &str| block_on(authenticator.verify(text.as_bytes(), &repository, &clock));
        // The length is made up by a claim that nobody reads.
        let token = |bytes: usize| {
            let unpadded = signed(&secret, "");
            let more = (bytes - unpadded.len()) * 3 / 4;
            (0..4).map(|extra| signed(&secret, &"x".repeat(more + extra))).find(|token| token.len() >= bytes)
        };
        let longest = token(CREDENTIAL_BYTES_MAX).unwrap();
        assert_eq!(longest.len(), CREDENTIAL_BYTES_MAX);
        assert!(verify(&longest).is_ok());
        assert_eq!(verify(&token(CREDENTIAL_BYTES_MAX + 1).unwrap()), Err(AuthenticationError::Invalid));

        let other = VerificationKeys::of_secrets(&"t".repeat(32)).unwrap();
        assert!(authenticator.remembered(longest.as_bytes()).is_some());
        verifier.replace(TokenVerifier::new(other, None, None));
        assert_eq!(authenticator.remembered(longest.as_bytes()), None, "not even for a moment");
        assert_eq!(verify(&longest), Err(AuthenticationError::Invalid), "its key is no longer in force");
        assert_eq!(
            block_on(Authenticator::new(None, None).verify(longest.as_bytes(), &repository, &clock)),
            Err(AuthenticationError::Invalid),
            "where there are keys alone, no token is good"
        );
    }

    fn signed(secret: &str, padding: &str) -> String {
        let claims = serde_json::json!({
            "exp": NOW.as_seconds() + 60, "tenant_id": "acme", "scope": "read", "padding": padding,
        });
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }
}
