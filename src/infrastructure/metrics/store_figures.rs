//! What there is of objects, packs and room, as it is told: as much as can be shown, and the rest together.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::OTHER;
use crate::domain::value_objects::{Namespace, ObjectStatus, StorageClass, TenantId};

/// How many tenants of namespaces are shown by name: those with the most objects.
pub const TENANTS_SHOWN_MAX: usize = 100;
/// How many are told apart while objects are counted; what comes past them counts with the others.
const TENANTS_COUNTED_MAX: usize = 16 * 1024;

type Owner = (Namespace, TenantId);

/// How many objects there are and how large they are, by whom they belong to.
#[derive(Debug, Default, Clone)]
pub struct ObjectCounts {
    owners: BTreeMap<Owner, Counts>,
    others: Counts,
    counted: Option<(SystemTime, Duration)>,
}

/// By state, and of committed ones the bytes by class.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    objects: [u64; STATUSES.len()],
    bytes: [u64; StorageClass::ALL.len()],
}

const STATUSES: [ObjectStatus; 4] =
    [ObjectStatus::Writing, ObjectStatus::Committed, ObjectStatus::Deleting, ObjectStatus::Deleted];

impl Counts {
    fn add(&mut self, other: &Self) {
        self.objects.iter_mut().zip(other.objects).for_each(|(sum, count)| *sum += count);
        self.bytes.iter_mut().zip(other.bytes).for_each(|(sum, count)| *sum += count);
    }

    fn total(&self) -> u64 {
        self.objects.iter().sum()
    }
}

impl ObjectCounts {
    /// Adds so many objects of one owner, state and class.
    pub fn add(&mut self, owner: Owner, state: (ObjectStatus, StorageClass), objects: u64, bytes: u64) {
        let mut counts = Counts::default();
        if let Some(index) = STATUSES.iter().position(|status| *status == state.0) {
            counts.objects[index] = objects;
        }
        if state.0 == ObjectStatus::Committed
            && let Some(index) = StorageClass::ALL.iter().position(|class| *class == state.1)
        {
            counts.bytes[index] = bytes;
        }
        match self.owners.len() < TENANTS_COUNTED_MAX || self.owners.contains_key(&owner) {
            true => self.owners.entry(owner).or_default().add(&counts),
            false => self.others.add(&counts),
        }
    }

    /// Keeps the names of those with the most objects, and says when this was counted and how long it took.
    pub fn end(&mut self, counted: SystemTime, took: Duration) {
        self.counted = Some((counted, took));
        if self.owners.len() <= TENANTS_SHOWN_MAX {
            return;
        }
        let mut by_count: Vec<_> = std::mem::take(&mut self.owners).into_iter().collect();
        by_count.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total()));
        for (_, counts) in by_count.split_off(TENANTS_SHOWN_MAX) {
            self.others.add(&counts);
        }
        self.owners = by_count.into_iter().collect();
    }

    /// When this was counted, and how long that took.
    pub(super) fn counted(&self) -> Option<(SystemTime, Duration)> {
        self.counted
    }

    /// How many objects, by namespace, tenant and state. Without names all are of others.
    pub(super) fn objects(&self, named: bool) -> BTreeMap<(&str, &str, &'static str), u64> {
        let mut sums = BTreeMap::new();
        for (namespace, tenant_id, counts) in self.all(named) {
            for (status, count) in STATUSES.iter().zip(counts.objects).filter(|(_, count)| *count > 0) {
                *sums.entry((namespace, tenant_id, status.as_str())).or_default() += count;
            }
        }
        sums
    }

    /// How many bytes committed objects have, by class and namespace.
    pub(super) fn bytes(&self, named: bool) -> BTreeMap<(&'static str, &str), u64> {
        let mut sums = BTreeMap::new();
        for (namespace, _, counts) in self.all(named) {
            for (class, count) in StorageClass::ALL.iter().zip(counts.bytes).filter(|(_, count)| *count > 0) {
                *sums.entry((class.as_str(), namespace)).or_default() += count;
            }
        }
        sums
    }

    fn all(&self, named: bool) -> impl Iterator<Item = (&str, &str, &Counts)> {
        let owners = self.owners.iter().map(move |((namespace, tenant_id), counts)| match named {
            true => (namespace.as_str(), tenant_id.as_str(), counts),
            false => (OTHER, OTHER, counts),
        });
        owners.chain([(OTHER, OTHER, &self.others)])
    }
}

/// What is in the packs of one root.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PackFigures {
    /// How many packs there are.
    pub packs: u64,
    /// Bytes that rows name.
    pub live_bytes: u64,
    /// Bytes that were written and are not needed.
    pub dead_bytes: u64,
}

/// The room of one root's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootFigures {
    /// How large it is.
    pub size_bytes: u64,
    /// How much of it can still be written.
    pub free_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(tenant_id: &str) -> Owner {
        (Namespace::parse("models").unwrap(), TenantId::parse(tenant_id).unwrap())
    }

    const COMMITTED: (ObjectStatus, StorageClass) = (ObjectStatus::Committed, StorageClass::Hot);

    #[test]
    fn those_with_the_most_objects_are_shown_and_the_rest_together() {
        let mut counts = ObjectCounts::default();
        for tenant in 0..=TENANTS_SHOWN_MAX as u64 {
            counts.add(owner(&format!("t{tenant}")), COMMITTED, 1 + tenant, 10);
        }
        counts.end(SystemTime::UNIX_EPOCH, Duration::ZERO);
        let objects = counts.objects(true);
        assert_eq!(objects.len(), TENANTS_SHOWN_MAX + 1);
        assert_eq!(objects[&(OTHER, OTHER, "COMMITTED")], 1, "the one with the fewest");
        assert_eq!(objects[&("models", "t1", "COMMITTED")], 2);
        assert_eq!(objects.values().sum::<u64>(), (1..=101).sum::<u64>());
        let bytes = counts.bytes(true);
        assert_eq!((bytes[&("hot", "models")], bytes[&("hot", OTHER)]), (1000, 10));
    }

    #[test]
    fn no_more_owners_are_told_apart_than_there_is_memory_for() {
        let mut counts = ObjectCounts::default();
        for tenant in 0..TENANTS_COUNTED_MAX + 5 {
            counts.add(owner(&format!("t{tenant}")), COMMITTED, 1, 1);
        }
        assert_eq!((counts.owners.len(), counts.others.total()), (TENANTS_COUNTED_MAX, 5));
        counts.add(owner("t0"), COMMITTED, 1, 1);
        assert_eq!(counts.others.total(), 5);
    }

    #[test]
    fn without_names_everything_is_of_others() {
        let mut counts = ObjectCounts::default();
        counts.add(owner("a"), COMMITTED, 2, 20);
        counts.add(owner("b"), (ObjectStatus::Deleted, StorageClass::Cold), 1, 5);
        let objects = counts.objects(false);
        let expected = [((OTHER, OTHER, "COMMITTED"), 2), ((OTHER, OTHER, "DELETED"), 1)];
        assert_eq!(objects.into_iter().collect::<Vec<_>>(), expected);
        let bytes = counts.bytes(false);
        assert_eq!(bytes.into_iter().collect::<Vec<_>>(), [(("hot", OTHER), 20)], "what is deleted has none");
    }
}
