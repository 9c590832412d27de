//! What the connections of one core have in common: the time of the last sweep, and whether requests are served there that
//! take the core for a moment only. Whoever moves much then does less of it at a stretch, so that these need not wait for
//! long; alone on its core, it does as much as is cheapest.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::stretch_turns::StretchTurns;

/// A request that moves no more than this, in both directions together, is brief.
pub(super) const BRIEF_BYTES_MAX: u64 = 64 * 1024;
/// For so long after a brief request others are expected. With the steps of the clock it is up to a tenth of a second less:
/// ten requests a second and more count, and a probe now and then slows nothing down.
const BRIEF_EXPECTED: Duration = Duration::from_millis(200);

/// What the connections of one core have in common.
pub(super) struct CoreCompany {
    now: Cell<Instant>,
    last_brief: Cell<Option<Instant>>,
    turns: Rc<StretchTurns>,
}

impl CoreCompany {
    /// No request has been served.
    pub(super) fn new(now: Instant) -> Self {
        Self { now: Cell::new(now), last_brief: Cell::default(), turns: Rc::default() }
    }

    /// The time of the last sweep.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// A sweep begins.
    pub(super) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// A request has been served that moved so many bytes.
    pub(super) fn note_request(&self, moved_bytes: u64) {
        if moved_bytes <= BRIEF_BYTES_MAX {
            self.last_brief.set(Some(self.now.get()));
        }
    }

    /// Makes what takes descriptors.
    pub(super) fn prepare(&self) {
        self.turns.prepare();
    }

    /// Where brief requests are to be expected, waits for a turn to send a
    /// [stretch](super::stretch_turns::STRETCH_BYTES_MAX). `false` where there is none to wait for.
    pub(super) async fn turn(&self) -> bool {
        self.expects_brief() && self.turns.turn().await
    }

    /// Whether brief requests are to be expected.
    pub(super) fn expects_brief(&self) -> bool {
        self.last_brief
            .get()
            .is_some_and(|last| self.now.get().saturating_duration_since(last) < BRIEF_EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brief_requests_are_expected_for_a_while_after_one() {
        let started = Instant::now();
        let company = CoreCompany::new(started);
        assert!(!company.expects_brief());
        company.note_request(BRIEF_BYTES_MAX + 1);
        assert!(!company.expects_brief(), "one that moves much is no brief one");
        company.note_request(BRIEF_BYTES_MAX);
        assert!(company.expects_brief());
        company.set_now(started + BRIEF_EXPECTED - Duration::from_nanos(1));
        assert!(company.expects_brief());
        company.set_now(started + BRIEF_EXPECTED);
        assert!(!company.expects_brief());
    }
}
