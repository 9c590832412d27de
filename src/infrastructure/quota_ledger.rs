//! What tenants with limits have and may have, as all cores and the metadata plane know it: who decides whether there is
//! room for an upload before its first byte is asked for.
//!
//! ```text
//! applied (the database's count) + reserved (uploads on their way) ≤ limit
//!
//! upload:   reserve ──► grow with the bytes ──► commit ──► applied by the database
//!                                                          └─► settle: from reserved to applied, in one step
//! dropped:  whatever of that was reserved is free again
//! ```
//! What is reserved travels with the commit and is given up only when the database's count has it, so that no two uploads
//! are ever let in for the same room. With `ACK=log` nothing else decides: what is in the log cannot be refused any more,
//! and the database is this process's alone. Where other servers share it, each transaction looks too, and this here
//! spares senders bodies that would be thrown away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::application::errors::QuotaExceeded;
use crate::application::ports::Room;
use crate::domain::entities::{Quota, QuotaLimits, Usage, UsageChange};
use crate::domain::value_objects::TenantId;

/// The accounts of all tenants that have limits.
#[derive(Debug, Default)]
pub struct QuotaLedger {
    /// Whether there are any: most servers have none, and nobody then looks further.
    has_accounts: AtomicBool,
    accounts: RwLock<HashMap<TenantId, Arc<Account>>>,
}

/// One tenant's.
#[derive(Debug, Default)]
struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Its usage is what the database has counted.
    quota: Quota,
    /// What uploads on their way hold.
    reserved: Usage,
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        // The lock is held for a few sums, which cannot panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets one upload hold `now` instead of `before`, if there is as much.
    fn exchange(&mut self, before: Usage, now: Usage) -> Result<(), QuotaExceeded> {
        let reserved = self.reserved.minus(before).plus(now);
        if !self.quota.limits.admit(self.quota.usage.plus(reserved)) {
            return Err(QuotaExceeded);
        }
        self.reserved = reserved;
        Ok(())
    }
}

impl QuotaLedger {
    /// Sets room aside for one object of `bytes`. Of a tenant without limits nothing is held.
    ///
    /// # Errors
    /// [`QuotaExceeded`]
    pub fn reserve(&self, tenant_id: &TenantId, bytes: u64) -> Result<QuotaRoom, QuotaExceeded> {
        if !self.has_accounts.load(Ordering::Acquire) {
            return Ok(QuotaRoom(None));
        }
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = accounts.get(tenant_id) else { return Ok(QuotaRoom(None)) };
        let usage = Usage::of_object(bytes);
        account.state().exchange(Usage::default(), usage)?;
        Ok(QuotaRoom(Some(Held { account: account.clone(), usage })))
    }

    /// Makes sure that an object about to be committed is held room for, if its tenant was given limits only after its
    /// upload had begun.
    ///
    /// # Errors
    /// [`QuotaExceeded`]
    pub fn secure(
        &self,
        room: QuotaRoom,
        tenant_id: &TenantId,
        bytes: u64,
    ) -> Result<QuotaRoom, QuotaExceeded> {
        if room.0.is_some() { Ok(room) } else { self.reserve(tenant_id, bytes) }
    }

    /// Notes a batch that the database has applied: what its commits had reserved counts as applied from now on.
    pub fn settle(&self, changes: &[(TenantId, UsageChange)], mut rooms: Vec<QuotaRoom>) {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        if accounts.is_empty() {
            return;
        }
        for (tenant_id, change) in changes {
            let Some(account) = accounts.get(tenant_id) else { continue };
            let mut state = account.state();
            state.quota.usage = state.quota.usage.changed_by(*change);
            for room in rooms.extract_if(.., |room| room.is_of(account)) {
                state.reserved = state.reserved.minus(room.into_usage());
            }
        }
        // What is left was refused in the transaction, and is free again.
    }

    /// Takes over what the database says. No batch may come between its saying so and this.
    pub fn replace(&self, quotas: Vec<(TenantId, Quota)>) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        for account in accounts.values() {
            account.state().quota.limits = QuotaLimits::default();
        }
        for (tenant_id, quota) in quotas {
            accounts.entry(tenant_id).or_default().state().quota = quota;
        }
        // Whose limits are gone stays as long as uploads hold room: it may be given limits again before they end.
        accounts
            .retain(|_, account| !account.state().quota.limits.is_none() || Arc::strong_count(account) > 1);
        self.has_accounts.store(!accounts.is_empty(), Ordering::Release);
    }
}

/// Room for one object of a tenant, or nothing where the tenant has no limits. Dropped, it is free again.
#[derive(Debug, Default)]
pub struct QuotaRoom(Option<Held>);

#[derive(Debug)]
struct Held {
    account: Arc<Account>,
    usage: Usage,
}

impl QuotaRoom {
    /// Whether there is something to give back.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }

    fn is_of(&self, account: &Arc<Account>) -> bool {
        self.0.as_ref().is_some_and(|held| Arc::ptr_eq(&held.account, account))
    }

    /// What was held, which whoever asks takes back.
    fn into_usage(mut self) -> Usage {
        self.0.take().map(|held| held.usage).unwrap_or_default()
    }
}

impl Room for QuotaRoom {
    fn resize(&mut self, bytes: u64) -> Result<(), QuotaExceeded> {
        let Some(held) = self.0.as_mut().filter(|held| held.usage.bytes != bytes) else { return Ok(()) };
        let now = Usage::of_object(bytes);
        let mut state = held.account.state();
        match bytes < held.usage.bytes {
            // Less is always given, also where limits have come down since.
            true => state.reserved = state.reserved.minus(held.usage).plus(now),
            false => state.exchange(held.usage, now)?,
        }
        drop(state);
        held.usage = now;
        Ok(())
    }
}

impl Drop for QuotaRoom {
    fn drop(&mut self) {
        if let Some(Held { account, usage }) = self.0.take() {
            let mut state = account.state();
            state.reserved = state.reserved.minus(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn limited(bytes: u64, objects: u64) -> Quota {
        let limits = QuotaLimits { bytes_max: Some(bytes), objects_max: Some(objects) };
        Quota { usage: Usage::default(), limits }
    }

    fn ledger_of(quota: Quota) -> QuotaLedger {
        let ledger = QuotaLedger::default();
        ledger.replace(vec![(tenant("acme"), quota)]);
        ledger
    }

    fn one_object(bytes: u64) -> Vec<(TenantId, UsageChange)> {
        let mut change = UsageChange::default();
        change.add_object(bytes);
        vec![(tenant("acme"), change)]
    }

    #[test]
    fn whoever_has_no_limits_may_have_anything() {
        let ledger = QuotaLedger::default();
        assert!(!ledger.reserve(&tenant("acme"), u64::MAX).unwrap().is_held());
        let ledger = ledger_of(limited(0, 0));
        assert!(ledger.reserve(&tenant("acme"), 0).is_err());
        assert!(!ledger.reserve(&tenant("other"), u64::MAX).unwrap().is_held());
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_dropped() {
        let ledger = ledger_of(limited(10, 3));
        let room = ledger.reserve(&tenant("acme"), 10).unwrap();
        assert!(ledger.reserve(&tenant("acme"), 1).is_err());
        let empty = ledger.reserve(&tenant("acme"), 0).unwrap();
        drop(room);
        let mut room = ledger.reserve(&tenant("acme"), 4).unwrap();
        assert!(room.resize(11).is_err());
        room.resize(10).unwrap();
        assert!(ledger.reserve(&tenant("acme"), 1).is_err());
        room.resize(9).unwrap();
        let last = ledger.reserve(&tenant("acme"), 1).unwrap();
        assert!(ledger.reserve(&tenant("acme"), 0).is_err(), "three objects are on their way");
        drop((empty, room, last));
        assert!(ledger.reserve(&tenant("acme"), 10).is_ok());
    }

    #[test]
    fn what_is_applied_takes_the_place_of_what_was_reserved() {
        let ledger = ledger_of(limited(10, 2));
        let rooms = vec![ledger.reserve(&tenant("acme"), 10).unwrap(), QuotaRoom::default()];
        ledger.settle(&one_object(10), rooms);
        assert!(ledger.reserve(&tenant("acme"), 1).is_err());
        assert!(ledger.reserve(&tenant("acme"), 0).is_ok());
        let mut gone = UsageChange::default();
        gone.take_object(10);
        ledger.settle(&[(tenant("acme"), gone)], Vec::new());
        let refused = ledger.reserve(&tenant("acme"), 10).unwrap();
        ledger.settle(&[], vec![refused]);
        assert!(ledger.reserve(&tenant("acme"), 10).is_ok(), "what the transaction refused is free again");
    }

    #[test]
    fn limits_that_come_down_refuse_what_comes_and_let_go_what_goes() {
        let ledger = ledger_of(limited(10, 10));
        let mut room = ledger.reserve(&tenant("acme"), 8).unwrap();
        ledger.replace(vec![(tenant("acme"), limited(4, 10))]);
        assert!(ledger.reserve(&tenant("acme"), 0).is_err());
        room.resize(6).unwrap();
        assert!(room.resize(7).is_err());
        drop(room);
        assert!(ledger.reserve(&tenant("acme"), 4).is_ok());
    }

    #[test]
    fn room_is_remembered_while_a_tenant_has_no_limits_for_a_while() {
        let ledger = ledger_of(limited(10, 10));
        let room = ledger.reserve(&tenant("acme"), 8).unwrap();
        ledger.replace(Vec::new());
        assert!(ledger.reserve(&tenant("acme"), 100).is_ok());
        ledger.replace(vec![(tenant("acme"), limited(10, 10))]);
        assert!(ledger.reserve(&tenant("acme"), 3).is_err());
        drop(room);
        assert!(ledger.reserve(&tenant("acme"), 10).is_ok());
        ledger.replace(Vec::new());
        assert!(!ledger.has_accounts.load(Ordering::Acquire));
    }

    #[test]
    fn an_upload_that_began_before_the_limits_is_looked_at_in_the_end() {
        let ledger = QuotaLedger::default();
        let early = ledger.reserve(&tenant("acme"), 8).unwrap();
        ledger.replace(vec![(tenant("acme"), limited(8, 1))]);
        let room = ledger.secure(early, &tenant("acme"), 8).unwrap();
        assert!(room.is_held());
        assert!(ledger.secure(QuotaRoom::default(), &tenant("acme"), 0).is_err());
        assert!(ledger.secure(room, &tenant("acme"), 8).is_ok(), "it is not counted twice");
    }

    #[test]
    fn of_many_at_once_exactly_as_many_are_let_in_as_fit() {
        let ledger = ledger_of(limited(100, 1000));
        let rooms: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rooms = Vec::new();
                        for attempt in 0..50 {
                            match ledger.reserve(&tenant("acme"), 10) {
                                Ok(room) if attempt % 2 == 0 => ledger.settle(&one_object(10), vec![room]),
                                Ok(room) => rooms.push(room),
                                Err(QuotaExceeded) => {}
                            }
                        }
                        rooms
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let account = ledger.accounts.read().unwrap()[&tenant("acme")].clone();
        let state = account.state();
        assert_eq!(state.quota.usage.plus(state.reserved), Usage { bytes: 100, objects: 10 });
        drop(state);
        drop(rooms);
        assert_eq!(account.state().reserved, Usage::default());
    }
}
