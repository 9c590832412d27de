//! How many requests a second a credential may make, counted over all cores of this process.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A). All that is kept of a credential is one moment: when it will
//! have paid for what it has asked, at one request an interval.
//!
//! ```text
//!             now               arrival
//!  ────────────┼───────────────────┼──────────┼───────► time
//!              │◄── not paid yet ─►│◄interval►│
//!              │◄────── burst at most ───────►│
//! ```
//! A request moves that moment on by one interval, counted from now at the earliest, and is refused where this would
//! put it more than a burst ahead. So no stretch of time ever sees more than a burst and what is paid in it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::domain::entities::{CredentialId, Principal};
use crate::domain::value_objects::TenantId;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How many credentials are kept account of, in all shards: 10 MiB, and 30 MiB where all have the longest names.
pub const ACCOUNTS_MAX: usize = SHARDS * SHARD_ACCOUNTS_MAX;
/// Whoever takes an account waits for others that do so in the same shard.
const SHARDS: usize = 64;
/// So many are looked through where there is no room for one more, which is a matter of microseconds.
const SHARD_ACCOUNTS_MAX: usize = 1024;

/// What every credential is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    interval_nanos: u64,
    burst_nanos: u64,
}

impl RequestRate {
    /// So many requests a second in the long run, and up to `burst` of them at once after a pause.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        // Rounded up, so that it is never more than was said.
        let interval_nanos = NANOS_PER_SECOND.div_ceil(u64::from(per_second.get()));
        Self { interval_nanos, burst_nanos: interval_nanos * u64::from(burst.get()) }
    }
}

/// A credential has asked for more than its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the credential makes more requests than it may")]
pub struct RateExceeded {
    /// How long it is until one more will be let through.
    pub retry_after: Duration,
}

/// What one credential has asked.
#[derive(Debug)]
pub(super) struct RateAccount {
    rate: RequestRate,
    /// What the nanoseconds are counted from.
    begun: Instant,
    arrival_nanos: AtomicU64,
}

impl RateAccount {
    /// Charges one request, or says why not. One that is refused costs nothing: whoever goes on asking all the same is
    /// let through at its rate.
    pub(super) fn charge(&self, now: Instant) -> Result<(), RateExceeded> {
        let RequestRate { interval_nanos, burst_nanos } = self.rate;
        let now = nanos_between(self.begun, now);
        let mut arrival = self.arrival_nanos.load(Ordering::Relaxed);
        loop {
            let next = arrival.max(now) + interval_nanos;
            if let Some(too_far @ 1..) = (next - now).checked_sub(burst_nanos) {
                return Err(RateExceeded { retry_after: Duration::from_nanos(too_far) });
            }
            // The number is all there is: nothing else has to be seen along with it.
            let changed =
                self.arrival_nanos.compare_exchange_weak(arrival, next, Ordering::Relaxed, Ordering::Relaxed);
            match changed {
                Ok(_) => return Ok(()),
                Err(other) => arrival = other,
            }
        }
    }
}

fn nanos_between(begun: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(begun);
    // Five centuries fit.
    elapsed.as_secs() * NANOS_PER_SECOND + u64::from(elapsed.subsec_nanos())
}

/// A credential's name is unique within its tenant: who signs tokens for one of them may call people as another one does.
type Holder = (CredentialId, Option<TenantId>);

/// The accounts of all credentials, which all cores share. A core asks here only when it has verified a credential, and
/// keeps the account as long as it remembers that.
#[derive(Debug)]
pub struct RequestRates {
    rate: RequestRate,
    begun: Instant,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<Holder, Arc<RateAccount>>,
    /// The latest arrival of those that were dropped. Whoever is new here may be one of them and starts from there, so
    /// that nobody gets more by being dropped.
    dropped_nanos: u64,
}

impl RequestRates {
    /// Nobody has asked anything yet.
    pub fn new(rate: RequestRate) -> Self {
        let (begun, hasher) = (Instant::now(), RandomState::new());
        Self { rate, begun, shards: std::array::from_fn(|_| Mutex::default()), hasher }
    }

    /// The account of whoever shows a credential.
    pub(super) fn account_of(&self, principal: &Principal) -> Option<Arc<RateAccount>> {
        let holder = (principal.credential_id.clone()?, principal.reach.tenant_id().cloned());
        let shard = &self.shards[self.hasher.hash_one(&holder) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = shard.accounts.get(&holder) {
            return Some(account.clone());
        }
        if shard.accounts.len() == SHARD_ACCOUNTS_MAX {
            shard.drop_one();
        }
        let account = Arc::new(RateAccount {
            rate: self.rate,
            begun: self.begun,
            arrival_nanos: AtomicU64::new(shard.dropped_nanos),
        });
        shard.accounts.insert(holder, account.clone());
        Some(account)
    }
}

impl Shard {
    /// Drops the account that is missed least: one that no core has, since its holder would have two otherwise; and of
    /// those the one that has been paid for the longest time, or will be first.
    fn drop_one(&mut self) {
        let rank = |(_, account): &(&Holder, &Arc<RateAccount>)| {
            (Arc::strong_count(account) > 1, account.arrival_nanos.load(Ordering::Relaxed))
        };
        let Some(holder) = self.accounts.iter().min_by_key(rank).map(|(holder, _)| holder.clone()) else {
            return;
        };
        if let Some(account) = self.accounts.remove(&holder) {
            self.dropped_nanos = self.dropped_nanos.max(account.arrival_nanos.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::entities::{Permissions, Reach};

    fn rate(per_second: u32, burst: u32) -> RequestRate {
        RequestRate::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap())
    }

    fn holder(name: &str, tenant_id: &str) -> Principal {
        Principal {
            credential_id: Some(CredentialId::new("jwt", name, || "#".into())),
            reach: Reach::parse(tenant_id, None::<[&str; 0]>).unwrap(),
            permissions: Permissions::all(),
        }
    }

    fn account(rates: &RequestRates, name: &str) -> Arc<RateAccount> {
        rates.account_of(&holder(name, "acme")).unwrap()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_an_interval() {
        let rates = RequestRates::new(rate(10, 3));
        let (account, begun) = (account(&rates, "a"), rates.begun);
        let charge = |at_millis| account.charge(begun + millis(at_millis));
        assert_eq!([charge(0), charge(0), charge(0)], [Ok(()); 3]);
        assert_eq!(charge(0), Err(RateExceeded { retry_after: millis(100) }), "one more than the burst");
        assert_eq!(charge(99), Err(RateExceeded { retry_after: millis(1) }));
        assert_eq!(charge(100), Ok(()), "it has waited as it was told");
        assert_eq!(charge(100), Err(RateExceeded { retry_after: millis(100) }));
        // What is not used is saved up, and no more than a burst of it.
        assert_eq!([charge(10_000), charge(10_000), charge(10_000)], [Ok(()); 3]);
        assert_eq!(charge(10_000), Err(RateExceeded { retry_after: millis(100) }));
        assert_eq!([charge(10_200), charge(10_200)], [Ok(()); 2]);
        assert!(charge(10_200).is_err(), "two intervals have paid for two");
    }

    #[test]
    fn a_burst_of_one_is_an_even_pace() {
        let rates = RequestRates::new(rate(2, 1));
        let (account, begun) = (account(&rates, "a"), rates.begun);
        for step in 0..10 {
            let at = begun + millis(500 * step);
            assert_eq!(account.charge(at), Ok(()));
            assert_eq!(account.charge(at), Err(RateExceeded { retry_after: millis(500) }));
        }
    }

    #[test]
    fn a_rate_that_no_nanoseconds_divide_is_not_exceeded() {
        let rates = RequestRates::new(rate(7, 1));
        let account = account(&rates, "a");
        let through = (0..70_000).filter(|tenth| account.charge(rates.begun + millis(*tenth) / 10).is_ok());
        assert_eq!(through.count(), 49, "in seven seconds");
        // The largest numbers that there are have room in what is counted with.
        let extreme = RequestRate::new(NonZeroU32::MIN, NonZeroU32::MAX);
        assert_eq!(extreme.burst_nanos, u64::from(u32::MAX) * NANOS_PER_SECOND);
    }

    #[test]
    fn one_holder_takes_nothing_from_another() {
        let rates = RequestRates::new(rate(1, 2));
        let (greedy, modest) = (account(&rates, "greedy"), account(&rates, "modest"));
        for step in 0..100 {
            let _ = greedy.charge(rates.begun + millis(10 * step));
        }
        let now = rates.begun + millis(1000);
        assert_eq!([modest.charge(now), modest.charge(now)], [Ok(()); 2]);
        assert!(Arc::ptr_eq(&greedy, &account(&rates, "greedy")), "it has one account, whichever core asks");
        let elsewhere = rates.account_of(&holder("greedy", "other")).unwrap();
        assert!(!Arc::ptr_eq(&greedy, &elsewhere), "a name is one tenant's");
        assert!(rates.account_of(&Principal::nobody()).is_none());
    }

    #[test]
    fn two_threads_get_no_more_than_one_would() {
        const BURST: u32 = 10_000;
        let rates = RequestRates::new(rate(1, BURST));
        // All of it at one moment, so that nothing is paid meanwhile.
        let charge_all = || {
            let account = account(&rates, "a");
            (0..BURST).filter(|_| account.charge(rates.begun).is_ok()).count()
        };
        let both = thread::scope(|scope| {
            let (one, other) = (scope.spawn(charge_all), scope.spawn(charge_all));
            one.join().unwrap() + other.join().unwrap()
        });
        assert_eq!(both, BURST as usize);
    }

    #[test]
    fn accounts_are_bounded_and_those_that_are_paid_go_first() {
        let mut shard = Shard::default();
        let account = |arrival| {
            let (rate, begun) = (rate(1, 1), Instant::now());
            Arc::new(RateAccount { rate, begun, arrival_nanos: AtomicU64::new(arrival) })
        };
        let key = |name: &str| (CredentialId::new("jwt", name, || "#".into()), None);
        let held = account(1);
        for (name, account) in [("held", held.clone()), ("paid", account(2)), ("owes", account(3))] {
            shard.accounts.insert(key(name), account);
        }
        for (gone, dropped_nanos) in [("paid", 2), ("owes", 3), ("held", 3)] {
            shard.drop_one();
            assert!(!shard.accounts.contains_key(&key(gone)), "{gone}");
            assert_eq!(shard.dropped_nanos, dropped_nanos);
        }
        shard.drop_one();
    }

    #[test]
    fn whoever_makes_room_for_itself_gains_nothing() {
        let rates = RequestRates::new(rate(1, 5));
        let shard_of = |name: &str| {
            let holder = (holder(name, "acme").credential_id.unwrap(), TenantId::parse("acme").ok());
            rates.hasher.hash_one(&holder) as usize % SHARDS
        };
        let mut neighbours =
            (0..).map(|number: u32| number.to_string()).filter(|name| shard_of(name) == shard_of("0"));
        let kept = || rates.shards[shard_of("0")].lock().unwrap().accounts.len();
        for at in 0..=SHARD_ACCOUNTS_MAX {
            assert_eq!(kept(), at);
            let account = account(&rates, &neighbours.next().unwrap());
            while account.charge(rates.begun + millis(at as u64)).is_ok() {}
        }
        // One too many: the first of them has gone, and owes what it owed.
        let _newcomer = account(&rates, &neighbours.next().unwrap());
        assert_eq!(kept(), SHARD_ACCOUNTS_MAX);
        let again = account(&rates, "0");
        let told = again.charge(rates.begun).unwrap_err().retry_after;
        assert!(told >= millis(1000), "{told:?}");
        assert_eq!(again.charge(rates.begun + told), Ok(()));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_a_burst_and_its_rate(
            per_second in 1..2000u32,
            burst in 1..50u32,
            pauses_micros in proptest::collection::vec(0..5000u64, 1..300),
        ) {
            let rates = RequestRates::new(rate(per_second, burst));
            let account = account(&rates, "a");
            let (mut at, mut through) = (Duration::ZERO, Vec::new());
            for pause in pauses_micros {
                at += Duration::from_micros(pause);
                match account.charge(rates.begun + at) {
                    Ok(()) => through.push(at),
                    Err(RateExceeded { retry_after }) => {
                        // What it is told is true, to the nanosecond.
                        let early = retry_after - Duration::from_nanos(1);
                        prop_assert!(account.charge(rates.begun + at + early).is_err());
                    }
                }
            }
            for (index, from) in through.iter().enumerate() {
                for (further, to) in through[index..].iter().enumerate() {
                    let paid = (*to - *from).as_secs_f64() * f64::from(per_second);
                    prop_assert!((further + 1) as f64 <= f64::from(burst) + paid + 1e-6);
                }
            }
        }
    }
}
