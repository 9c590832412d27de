//! From a credential to whoever shows it.

use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::CREDENTIAL_BYTES_MAX;
use super::api_key_secret::ApiKeySecret;
use super::token_verifier::TokenVerifier;
use super::verified_credentials::{REMEMBERED_FOR, VerifiedCredentials};
use crate::application::errors::RepositoryError;
use crate::application::ports::{ApiKeyRepository, Clock};
use crate::domain::entities::Principal;
use crate::domain::value_objects::Timestamp;

/// The verifier of tokens that is in force, which all cores share. Another one can take its place at any time, and is
/// in force everywhere once what cores remember is over.
#[derive(Debug, Clone)]
pub struct CurrentVerifier(Arc<RwLock<Arc<TokenVerifier>>>);

impl CurrentVerifier {
    /// Begins with this one.
    pub fn new(verifier: TokenVerifier) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(verifier))))
    }

    /// Puts another one in its place.
    pub fn replace(&self, verifier: TokenVerifier) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
    }

    /// The one that is in force. Asked only for credentials that are not remembered, and held for no longer than a
    /// clone takes.
    fn get(&self) -> Arc<TokenVerifier> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
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
    verified: VerifiedCredentials,
}

impl Authenticator {
    /// Takes API keys, and tokens where there is something to verify them with.
    pub fn new(tokens: Option<CurrentVerifier>) -> Self {
        Self { tokens, verified: VerifiedCredentials::default() }
    }

    /// Whoever shows this credential, if it was good a moment ago. Makes nothing and asks nobody.
    pub fn remembered(&self, credential: &[u8]) -> Option<Rc<Principal>> {
        self.verified.get(credential, Instant::now())
    }

    /// Finds out whether a credential is good, and remembers it if it is.
    ///
    /// # Errors
    /// [`AuthenticationError`].
    pub async fn verify(
        &self,
        credential: &[u8],
        keys: &impl ApiKeyRepository,
        clock: &impl Clock,
    ) -> Result<Rc<Principal>, AuthenticationError> {
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(AuthenticationError::Invalid);
        }
        // What is true of a key now may have been so for as long as it takes to be told.
        let begun = Instant::now();
        let (principal, good_for) = match ApiKeySecret::is_meant(credential) {
            true => self.verify_key(credential, keys, clock).await?,
            false => self.verify_token(credential, clock).ok_or(AuthenticationError::Invalid)?,
        };
        let principal = Rc::new(principal);
        self.verified.put(credential, principal.clone(), good_for, begun);
        Ok(principal)
    }

    async fn verify_key(
        &self,
        credential: &[u8],
        keys: &impl ApiKeyRepository,
        clock: &impl Clock,
    ) -> Result<(Principal, Duration), AuthenticationError> {
        let shown = ApiKeySecret::parse(credential).ok_or(AuthenticationError::Invalid)?;
        let kept = keys.find_api_key(shown.id()).await?;
        let now = clock.now();
        let good = kept.filter(|kept| shown.is_of(kept) && kept.is_good_at(now));
        let good = good.ok_or(AuthenticationError::Invalid)?;
        Ok((good.principal(), good.expires_at.map_or(REMEMBERED_FOR, |expires_at| until(expires_at, now))))
    }

    fn verify_token(&self, credential: &[u8], clock: &impl Clock) -> Option<(Principal, Duration)> {
        let now = clock.now();
        let verified = self.tokens.as_ref()?.get().verify(credential, now)?;
        Some((verified.principal, until(verified.expires_at, now)))
    }
}

fn until(moment: Timestamp, now: Timestamp) -> Duration {
    let millis = moment.as_millis().saturating_sub(now.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::{NewApiKey, VerificationKeys};
    use super::*;
    use crate::application::fakes::{FakeRepository, an_api_key, block_on};
    use crate::domain::entities::ApiKey;

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
        let authenticator = Authenticator::new(None);
        let verify = |text: &str| block_on(authenticator.verify(text.as_bytes(), &repository, &clock));
        let (text, key) = a_key(1);
        assert_eq!(verify(&text), Err(AuthenticationError::Invalid), "it is not kept");
        repository.put_api_key(key.clone());
        assert_eq!(authenticator.remembered(text.as_bytes()), None);
        assert_eq!(*verify(&text).unwrap(), key.principal());
        assert_eq!(authenticator.remembered(text.as_bytes()).as_deref(), Some(&key.principal()));

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
        let verified = block_on(Authenticator::new(None).verify(text.as_bytes(), &repository, &clock));
        assert_eq!(verified, Err(AuthenticationError::Repository(RepositoryError::Unavailable)));
    }

    #[test]
    fn a_key_is_not_remembered_past_its_end() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let (text, key) = a_key(1);
        let end = Timestamp::from_millis(NOW.as_millis() + 1);
        repository.put_api_key(ApiKey { expires_at: Some(end), ..key });
        let authenticator = Authenticator::new(None);
        assert!(block_on(authenticator.verify(text.as_bytes(), &repository, &clock)).is_ok());
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(authenticator.remembered(text.as_bytes()), None);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_looked_at() {
        let (repository, clock) = (FakeRepository::default(), At(Cell::new(NOW)));
        let secret = "s".repeat(32);
        let keys = VerificationKeys::of_secrets(&secret).unwrap();
        let verifier = CurrentVerifier::new(TokenVerifier::new(keys, None, None));
        let authenticator = Authenticator::new(Some(verifier.clone()));
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
        verifier.replace(TokenVerifier::new(other, None, None));
        assert_eq!(verify(&longest), Err(AuthenticationError::Invalid), "its key is no longer in force");
        assert_eq!(
            block_on(Authenticator::new(None).verify(longest.as_bytes(), &repository, &clock)),
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
