//! The credentials that a core has found good a moment ago, so that it need not find that out for each request.

use std::cell::RefCell;
use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::domain::entities::Principal;

/// For how long a credential counts as good once it has been found so: a key that is revoked works for as long at most.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many credentials a core remembers; with the longest ones that is 4 MiB.
pub const CREDENTIALS_REMEMBERED_MAX: usize = 512;

/// What one core remembers. Bad credentials are not among it: a flood of them leaves nothing behind.
pub(super) struct VerifiedCredentials {
    /// By their bytes, all of which are compared; the hash of them has a key that nobody outside knows.
    entries: RefCell<LruCache<Box<[u8]>, Entry, RandomState>>,
}

struct Entry {
    principal: Rc<Principal>,
    until: Instant,
}

impl Default for VerifiedCredentials {
    fn default() -> Self {
        let capacity = NonZeroUsize::MIN.saturating_add(CREDENTIALS_REMEMBERED_MAX - 1);
        Self { entries: RefCell::new(LruCache::with_hasher(capacity, RandomState::new())) }
    }
}

impl VerifiedCredentials {
    /// Whoever shows this credential, if that is remembered.
    pub(super) fn get(&self, credential: &[u8], now: Instant) -> Option<Rc<Principal>> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get(credential)?;
        if entry.until <= now {
            entries.pop(credential);
            return None;
        }
        Some(entry.principal.clone())
    }

    /// Remembers whoever has just shown a good credential, which may be known to be so for some time yet.
    pub(super) fn put(&self, credential: &[u8], principal: Rc<Principal>, good_for: Duration, now: Instant) {
        let until = now + good_for.min(REMEMBERED_FOR);
        self.entries.borrow_mut().put(credential.into(), Entry { principal, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(credentials: &VerifiedCredentials, credential: &[u8], now: Instant) -> bool {
        credentials.get(credential, now).is_some()
    }

    #[test]
    fn a_credential_is_remembered_for_a_moment_and_never_longer_than_it_is_good() {
        let (credentials, begin) = (VerifiedCredentials::default(), Instant::now());
        let principal = Rc::new(Principal::anybody());
        let (long, short) = (Duration::from_secs(3600), Duration::from_secs(1));
        let just_before = Duration::from_millis(1);
        credentials.put(b"long", principal.clone(), long, begin);
        credentials.put(b"short", principal, short, begin);
        assert!(!remembered(&credentials, b"lon", begin) && !remembered(&credentials, b"", begin));
        assert!(remembered(&credentials, b"short", begin + short - just_before));
        assert!(!remembered(&credentials, b"short", begin + short));
        assert!(remembered(&credentials, b"long", begin + REMEMBERED_FOR - just_before));
        assert!(!remembered(&credentials, b"long", begin + REMEMBERED_FOR));
        assert_eq!(credentials.entries.borrow().len(), 0, "what is over is not kept");
    }

    #[test]
    fn the_number_of_credentials_is_bounded() {
        let (credentials, now) = (VerifiedCredentials::default(), Instant::now());
        let principal = Rc::new(Principal::anybody());
        for number in 0..=CREDENTIALS_REMEMBERED_MAX {
            credentials.put(&number.to_be_bytes(), principal.clone(), REMEMBERED_FOR, now);
        }
        assert_eq!(credentials.entries.borrow().len(), CREDENTIALS_REMEMBERED_MAX);
        assert!(!remembered(&credentials, &0usize.to_be_bytes(), now), "the oldest has gone");
        assert!(remembered(&credentials, &CREDENTIALS_REMEMBERED_MAX.to_be_bytes(), now));
    }
}
