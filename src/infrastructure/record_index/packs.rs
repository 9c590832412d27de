//! Short numbers for packs, whose ids are long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};

use crate::domain::value_objects::PackId;

/// How many packs have a number at most: no store has as many, unless it has been up for long and has removed most.
const PACKS_NUMBERED_MAX: usize = 1 << super::NUMBER_BITS;

/// The packs that have a number.
#[derive(Debug, Default)]
pub(super) struct NumberedPacks {
    by_number: RwLock<Vec<PackId>>,
    by_pack: Mutex<HashMap<PackId, u32>>,
}

impl NumberedPacks {
    /// The pack of a number.
    pub(super) fn pack(&self, number: u32) -> Option<PackId> {
        let packs = self.by_number.read().unwrap_or_else(PoisonError::into_inner);
        packs.get(number as usize).copied()
    }

    /// The number of a pack, which gets one if there is one left.
    pub(super) fn number(&self, pack: PackId) -> Option<u32> {
        let mut by_pack = self.by_pack.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = by_pack.get(&pack) {
            return Some(*number);
        }
        let mut by_number = self.by_number.write().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(by_number.len()).ok().filter(|_| by_number.len() < PACKS_NUMBERED_MAX)?;
        by_number.push(pack);
        by_pack.insert(pack, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_keeps_its_number_and_there_are_so_many() {
        let packs = NumberedPacks::default();
        let most = PACKS_NUMBERED_MAX as u64;
        for id in 0..most {
            assert_eq!(packs.number(PackId::from_u64(id << 8)), u32::try_from(id).ok());
        }
        assert_eq!(packs.number(PackId::from_u64(1)), None);
        assert_eq!(packs.number(PackId::from_u64(5 << 8)), Some(5));
        assert_eq!((packs.pack(5), packs.pack(u32::MAX)), (Some(PackId::from_u64(5 << 8)), None));
    }
}
