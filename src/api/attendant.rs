//! A task of a core that is there while it has something to do, and after each step of it lets everything else on the core
//! have its turn.

use std::cell::{Cell, OnceCell};

use crate::infrastructure::data_plane::runtime::{Turnstile, spawn_unless_ended};

/// What is known of such a task.
#[derive(Default)]
pub(super) struct Attendant {
    is_there: Cell<bool>,
    turnstile: OnceCell<Turnstile>,
}

impl Attendant {
    /// Makes what takes descriptors, if there are some, and says whether it is there.
    pub(super) fn prepare(&self) -> bool {
        if self.turnstile.get().is_none()
            && let Ok(turnstile) = Turnstile::new()
        {
            let _ = self.turnstile.set(turnstile);
        }
        self.turnstile.get().is_some()
    }

    /// Whether there is one, which is started now if need be. Also where the core ends, it says in the end that it has
    /// [gone](Self::has_gone).
    pub(super) fn is_there_or<F: Future<Output = ()> + 'static>(&self, start: impl FnOnce() -> F) -> bool {
        if !self.is_there.get() && self.prepare() {
            self.is_there.set(true);
            spawn_unless_ended(start());
        }
        self.is_there.get()
    }

    /// Lets everything else have its turn.
    pub(super) async fn rest(&self) {
        if let Some(turnstile) = self.turnstile.get() {
            turnstile.pass().await;
        }
    }

    /// It has ended.
    pub(super) fn has_gone(&self) {
        self.is_there.set(false);
    }

    /// Whether there is one.
    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.is_there.get()
    }
}
