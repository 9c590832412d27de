//! How many batches a core has under way. Each may hold some megabytes (names, what was found under them, results, and what
//! is on its way), which no pool of buffers counts: so there are few at once, and no tenant has all of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::errors::Problem;
use crate::application::errors::StoreError;
use crate::domain::value_objects::TenantId;
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::data_plane::helpers::HelperPool;

/// How many files, ids or keys a batch has at most.
pub(super) const BATCH_ITEMS_MAX: usize = 10_000;
/// How many bytes their names have together at most, or the body that lists them.
pub(super) const BATCH_NAMES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How many of a batch are asked for, or deleted, at once.
pub(super) const ITEMS_IN_FLIGHT_MAX: usize = 256;
/// How many of them are begun, or looked through, before everything else on the core has its turn: some 200 µs at most.
pub(super) const ITEMS_BETWEEN_TURNS: usize = 32;
/// How many small files of one are on their way at once: twice as many of 4 KiB as fit one write of the log, so that the
/// next one is full when a write has ended.
pub(super) const FILES_IN_FLIGHT_MAX: usize = 512;
/// How many objects that bring no bytes are committed at once: they hold next to nothing.
pub(super) const REFERENCES_IN_FLIGHT_MAX: usize = 512;
/// How many batches a core has under way.
const BATCHES_AT_ONCE_MAX: usize = 8;
/// How many of them belong to one tenant; all operators count as one.
const BATCHES_OF_TENANT_MAX: usize = BATCHES_AT_ONCE_MAX / 2;

/// The batches of one core.
pub struct Batches {
    places: Rc<RefCell<HashMap<Option<TenantId>, usize>>>,
    /// Reads what they ask for, which takes longer than a core may be held.
    helper: HelperPool,
}

/// A batch that is under way.
pub(super) struct BatchPlace {
    places: Rc<RefCell<HashMap<Option<TenantId>, usize>>>,
    tenant_id: Option<TenantId>,
}

impl Batches {
    /// None under way. What they ask for is read on a thread that calls `prepare_thread` first; it is waited for up to
    /// `limit`.
    pub fn new(limit: WaitLimit, prepare_thread: impl Fn() + Send + Sync + 'static) -> Self {
        Self { places: Rc::default(), helper: HelperPool::new(1, limit, prepare_thread) }
    }

    /// A place for one more of a tenant's, or of the operator's.
    ///
    /// # Errors
    /// `503`: there are enough.
    pub(super) fn begin(&self, tenant_id: Option<&TenantId>) -> Result<BatchPlace, Problem> {
        let mut places = self.places.borrow_mut();
        let all: usize = places.values().sum();
        let tenant_id = tenant_id.cloned();
        let own = places.get(&tenant_id).copied().unwrap_or(0);
        if all >= BATCHES_AT_ONCE_MAX || own >= BATCHES_OF_TENANT_MAX {
            return Err(Problem::new(503, "overloaded", "there are too many batches at once"));
        }
        places.insert(tenant_id.clone(), own + 1);
        Ok(BatchPlace { places: self.places.clone(), tenant_id })
    }

    /// Reads a body beside the core.
    ///
    /// # Errors
    /// What `read` says, or `503`: the thread has too much to do, or does not get to do it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let read = self.helper.run(read).await;
        read.map_err(|_| StoreError::Overloaded)?
    }
}

impl Drop for BatchPlace {
    fn drop(&mut self) {
        let mut places = self.places.borrow_mut();
        if let Some(count) = places.get_mut(&self.tenant_id) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.tenant_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_has_more_than_half_of_the_places_and_all_come_back() {
        let batches = Batches::new(WaitLimit::none(), || ());
        let tenant = |name: &str| Some(TenantId::parse(name).unwrap());
        let begin = |tenant_id: &Option<TenantId>| batches.begin(tenant_id.as_ref());
        let (acme, operator) = (tenant("acme"), None);
        let mut held: Vec<_> = (0..BATCHES_OF_TENANT_MAX).map(|_| begin(&acme).unwrap()).collect();
        assert_eq!(
            begin(&acme).err().map(|problem| (problem.status, problem.code)),
            Some((503, "overloaded"))
        );
        held.extend((0..BATCHES_OF_TENANT_MAX - 1).map(|_| begin(&operator).unwrap()));
        held.push(begin(&tenant("other")).unwrap());
        assert!(begin(&operator).is_err() && begin(&tenant("third")).is_err(), "there are enough in all");
        held.pop();
        assert!(begin(&tenant("third")).is_ok());
        drop(held);
        assert!(batches.places.borrow().is_empty());
    }
}
