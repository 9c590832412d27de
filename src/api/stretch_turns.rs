//! While brief requests are served on a core, large downloads have turns there: a few of them send a stretch, and then
//! everything else that has become ready has its turn. Otherwise hundreds that are ready together, each for a short stretch
//! only, would all go before whoever asks for something small.
//!
//! A turn is held by nobody: it is given, and used at once or not at all, so that a client that takes its time has no other
//! wait for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::attendant::Attendant;

/// How much a download sends in its turn, and of a block always: it holds the core for some 75 µs, and less would cost it much more.
pub(super) const STRETCH_BYTES_MAX: usize = 256 * 1024;
/// How many have their turn before everything else on the core has it.
const STRETCHES_AT_ONCE_MAX: usize = 2;

/// The turns of one core, in the order of asking.
#[derive(Default)]
pub(super) struct StretchTurns {
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
    usher: Attendant,
}

impl StretchTurns {
    /// Makes what takes descriptors, if there are some.
    pub(super) fn prepare(&self) {
        self.usher.prepare();
    }

    /// Waits for a turn. `false` where there are none to be had: then everybody goes when they are ready.
    pub(super) async fn turn(self: &Rc<Self>) -> bool {
        if !self.usher.is_there_or(|| Usher(self.clone()).give_turns()) {
            return false;
        }
        let (give, given) = oneshot::channel();
        self.waiting.borrow_mut().push_back(give);
        // An usher that has gone, since the core ends, has left none waiting.
        given.await.is_ok()
    }
}

/// Who gives them, while anybody waits.
struct Usher(Rc<StretchTurns>);

impl Usher {
    async fn give_turns(self) {
        let turns = &self.0;
        loop {
            turns.usher.rest().await;
            let mut waiting = turns.waiting.borrow_mut();
            if waiting.is_empty() {
                break;
            }
            let mut given = 0;
            while given < STRETCHES_AT_ONCE_MAX
                && let Some(give) = waiting.pop_front()
            {
                // Whoever has gone meanwhile needs none.
                given += usize::from(give.send(()).is_ok());
            }
        }
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        self.0.usher.has_gone();
        self.0.waiting.take();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;
    use crate::infrastructure::data_plane::runtime::{IoDriver, Turnstile, run, spawn};

    #[test]
    fn a_few_have_their_turn_at_a_time_and_everything_else_in_between() {
        run(IoDriver::IoUring, async {
            let (turns, turnstile) = (Rc::<StretchTurns>::default(), Turnstile::new().unwrap());
            let (count, done) = (3 * STRETCHES_AT_ONCE_MAX + 1, Rc::<Cell<usize>>::default());
            let all = (0..count).map(|_| {
                let (turns, done) = (turns.clone(), done.clone());
                spawn(async move {
                    assert!(turns.turn().await);
                    done.set(done.get() + 1);
                })
            });
            let all: Vec<_> = all.collect();
            let mut before = 0;
            while before < count {
                turnstile.pass().await;
                assert!(done.get() - before <= STRETCHES_AT_ONCE_MAX, "{} {before}", done.get());
                before = done.get();
            }
            join_all(all).await;
            while turns.usher.is_there() {
                turnstile.pass().await;
            }
        })
        .unwrap();
    }

    #[test]
    fn those_that_have_gone_take_no_turn_and_all_others_have_one_with_either_driver() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            run(driver, async {
                let turns = Rc::<StretchTurns>::default();
                for _ in 0..2 {
                    for _ in 0..STRETCHES_AT_ONCE_MAX {
                        assert!(pin!(turns.turn()).now_or_never().is_none());
                    }
                    let others = (0..STRETCHES_AT_ONCE_MAX).map(|_| turns.turn());
                    assert_eq!(join_all(others).await, [true; STRETCHES_AT_ONCE_MAX]);
                }
            })
            .unwrap();
        }
    }
}
