//! The credentials that a core has found good a moment ago, so that it need not find that out for each request.

use std::cell::RefCell;
use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::request_rate::{RateAccount, RateExceeded};
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

/// A credential that is good, at the moment of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whoever shows it.
    pub principal: Rc<Principal>,
    /// Whether it may ask something now. What is refused for this is refused to somebody who is known.
    pub within_rate: Result<(), RateExceeded>,
}

/// What is known of a credential that was found good.
pub(super) struct Entry {
    pub(super) principal: Rc<Principal>,
    /// What it has asked, where that is limited.
    pub(super) account: Option<Arc<RateAccount>>,
    /// With which keys for tokens in force.
    pub(super) key_epoch: u64,
    /// Until when it counts as good.
    pub(super) until: Instant,
}

impl Entry {
    /// Charges one request at this moment.
    pub(super) fn charge(&self, now: Instant) -> Verified {
        let within_rate = self.account.as_ref().map_or(Ok(()), |account| account.charge(now));
        Verified { principal: self.principal.clone(), within_rate }
    }
}

impl Default for VerifiedCredentials {
    fn default() -> Self {
        let capacity = NonZeroUsize::MIN.saturating_add(CREDENTIALS_REMEMBERED_MAX - 1);
        Self { entries: RefCell::new(LruCache::with_hasher(capacity, RandomState::new())) }
    }
}

impl VerifiedCredentials {
    /// Charges a request to this credential, if it is known to be good at this moment and with these keys in force.
    pub(super) fn charge(&self, credential: &[u8], now: Instant, key_epoch: u64) -> Option<Verified> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get(credential)?;
        (now < entry.until && entry.key_epoch == key_epoch).then(|| entry.charge(now))
    }

    /// Whether it was good when it was last looked at, however long ago.
    pub(super) fn was_good(&self, credential: &[u8]) -> bool {
        self.entries.borrow().contains(credential)
    }

    /// Remembers a good credential. It stays when its time is over, until others need its place.
    pub(super) fn put(&self, credential: &[u8], entry: Entry) {
        self.entries.borrow_mut().put(credential.into(), entry);
    }

    /// Forgets one that is good no more.
    pub(super) fn forget(&self, credential: &[u8]) {
        self.entries.borrow_mut().pop(credential);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(until: Instant) -> Entry {
        Entry { principal: Rc::new(Principal::anybody()), account: None, key_epoch: 1, until }
    }

    fn remembered(credentials: &VerifiedCredentials, credential: &[u8], now: Instant) -> bool {
        credentials.charge(credential, now, 1).is_some()
    }

    #[test]
    fn a_credential_is_remembered_until_its_time_is_over_and_known_for_longer() {
        let (credentials, begin) = (VerifiedCredentials::default(), Instant::now());
        let (until, just_before) = (begin + Duration::from_secs(1), Duration::from_millis(1));
        credentials.put(b"known", entry(until));
        assert!(!remembered(&credentials, b"know", begin) && !remembered(&credentials, b"", begin));
        assert!(remembered(&credentials, b"known", until - just_before));
        assert!(!remembered(&credentials, b"known", until));
        assert!(credentials.was_good(b"known") && !credentials.was_good(b"know"));
        credentials.forget(b"known");
        assert!(!remembered(&credentials, b"known", begin) && !credentials.was_good(b"known"));
    }

    #[test]
    fn other_keys_end_what_is_remembered() {
        let (credentials, begin) = (VerifiedCredentials::default(), Instant::now());
        credentials.put(b"known", entry(begin + REMEMBERED_FOR));
        assert!(credentials.charge(b"known", begin, 2).is_none() && credentials.was_good(b"known"));
    }

    #[test]
    fn the_number_of_credentials_is_bounded() {
        let (credentials, now) = (VerifiedCredentials::default(), Instant::now());
        for number in 0..=CREDENTIALS_REMEMBERED_MAX {
            credentials.put(&number.to_be_bytes(), entry(now + REMEMBERED_FOR));
        }
        assert_eq!(credentials.entries.borrow().len(), CREDENTIALS_REMEMBERED_MAX);
        assert!(!credentials.was_good(&0usize.to_be_bytes()), "the oldest has gone");
        assert!(remembered(&credentials, &CREDENTIALS_REMEMBERED_MAX.to_be_bytes(), now));
    }
}
