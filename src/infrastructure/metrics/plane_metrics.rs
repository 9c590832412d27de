//! What the metadata plane counts, and what it has found out last.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::cells::{Counter, Durations, Sizes};
use super::scrub_metrics::ScrubMetrics;
use super::store_figures::{ObjectCounts, PackFigures, RootFigures};
use crate::domain::value_objects::StorageClass;

/// The metadata plane's cells.
#[derive(Debug, Default)]
pub struct PlaneMetrics {
    /// Transactions that applied writes.
    pub commits: Durations,
    /// Writes of each.
    pub commit_writes: Sizes,
    /// Transactions that did not go through.
    pub failed_commits: Counter,
    /// Queries, from their turn to their answer.
    pub queries: Durations,
    /// Cycles of the collector that came to their end.
    pub gc_runs: Counter,
    /// Cycles that an error ended.
    pub gc_failed_runs: Counter,
    /// Places whose bytes it has removed.
    pub gc_deleted_blobs: Counter,
    /// How many bytes those were.
    pub gc_deleted_bytes: Counter,
    /// Packs that it has removed.
    pub packs_removed: Counter,
    /// Blobs that it has moved to another pack.
    pub pack_blobs_moved: Counter,
    /// Whether a backup keeps it from removing bytes: 0 or 1.
    pub gc_held: Counter,
    /// What the scrub has found.
    pub scrub: ScrubMetrics,
    state: OnceLock<PlaneState>,
    figures: Mutex<Figures>,
    asked: Notify,
}

/// Whether the metadata plane can do its work, as it says itself.
#[derive(Debug)]
pub struct PlaneState {
    /// It takes no more writes until a restart.
    pub latched: Arc<AtomicBool>,
    /// The database did not answer when it was last asked.
    pub away: Arc<AtomicBool>,
}

/// What cannot be counted as it happens, and is looked at now and then.
#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    pub(super) objects: Option<ObjectCounts>,
    pub(super) packs: [PackFigures; 2],
    pub(super) roots: [Option<RootFigures>; 2],
}

impl PlaneMetrics {
    /// Tells of this state from now on.
    pub fn watch(&self, state: PlaneState) {
        // There is one metadata plane, and it starts once.
        let _ = self.state.set(state);
    }

    /// Takes over what objects there are.
    pub fn set_objects(&self, objects: ObjectCounts) {
        self.figures_mut().objects = Some(objects);
    }

    /// Takes over what is in packs.
    pub fn set_packs(&self, class: StorageClass, packs: PackFigures) {
        self.figures_mut().packs[index(class)] = packs;
    }

    /// Takes over how much room a root has.
    pub fn set_root(&self, class: StorageClass, root: Option<RootFigures>) {
        self.figures_mut().roots[index(class)] = root;
    }

    /// Waits until somebody has asked for figures since the last time.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// What was found out last; and asks for it to be found out anew.
    pub(super) fn ask(&self) -> Figures {
        self.asked.notify_one();
        self.figures_mut().clone()
    }

    /// Whether it takes no more writes, and whether the database is away.
    pub(super) fn state(&self) -> (bool, bool) {
        let is_set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        self.state.get().map_or((false, false), |state| (is_set(&state.latched), is_set(&state.away)))
    }

    fn figures_mut(&self) -> MutexGuard<'_, Figures> {
        // Each figure is replaced as a whole.
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn index(class: StorageClass) -> usize {
    match class {
        StorageClass::Hot => 0,
        StorageClass::Cold => 1,
    }
}
