//! How many connections each core has, so that new ones go where there are fewest. The kernel spreads them over the
//! cores' listeners by a hash of their addresses, which is uneven for as many as a server has; a core that accepts one
//! hands it to the core with the fewest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The connections of all cores.
#[derive(Debug, Clone)]
pub struct CoreShares(Arc<[AtomicUsize]>);

/// One connection's place on a core, given up when dropped.
#[derive(Debug)]
pub struct CoreShare {
    shares: CoreShares,
    core: usize,
}

impl CoreShares {
    /// No connection on any of `count` cores.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicUsize::new(0)).collect())
    }

    /// A place on the core with the fewest connections: on `own`, where no other has fewer.
    pub fn claim(&self, own: usize) -> CoreShare {
        loop {
            let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            let fewest = counts.min_by_key(|(core, count)| (*count, *core != own));
            let (core, count) = fewest.unwrap_or((own, 0));
            // Two cores that see the same fewest do not both take it.
            let claimed =
                self.0[core].compare_exchange_weak(count, count + 1, Ordering::Relaxed, Ordering::Relaxed);
            if claimed.is_ok() {
                return CoreShare { shares: self.clone(), core };
            }
        }
    }
}

impl CoreShare {
    /// Which core it is on.
    pub fn core(&self) -> usize {
        self.core
    }
}

impl Drop for CoreShare {
    fn drop(&mut self) {
        self.shares.0[self.core].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(shares: &CoreShares) -> Vec<usize> {
        shares.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn places_are_even_whichever_core_asks_for_them() {
        let shares = CoreShares::new(3);
        let claimed: Vec<_> = (0..10).map(|_| shares.claim(1)).collect();
        assert_eq!(claimed[0].core(), 1, "where it is, unless another core has fewer");
        assert_eq!(counts(&shares), [3, 4, 3]);
        drop(claimed);
        assert_eq!(counts(&shares), [0, 0, 0]);
    }

    #[test]
    fn what_was_given_up_is_filled_first() {
        let shares = CoreShares::new(2);
        let mut claimed: Vec<_> = (0..8).map(|_| shares.claim(0)).collect();
        claimed.retain(|share| share.core() == 0);
        let more: Vec<_> = (0..4).map(|_| shares.claim(0).core()).collect();
        assert_eq!(more, [1, 1, 1, 1], "each was given up again at once");
    }

    #[test]
    fn places_are_even_also_when_all_cores_ask_at_once() {
        let shares = CoreShares::new(4);
        let claimed: Vec<_> = std::thread::scope(|scope| {
            let ask = |own| {
                let shares = &shares;
                scope.spawn(move || (0..1000).map(|_| shares.claim(own)).collect::<Vec<_>>())
            };
            let threads: Vec<_> = (0..4).map(ask).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claimed.len(), 4000);
        let counts = counts(&shares);
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        // A count that rises while another is looked at makes it one too many for each core that asks.
        assert!(spread <= 4, "{counts:?}");
    }
}
