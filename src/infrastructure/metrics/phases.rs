//! Where a request's time goes. What does a request's work notes how long each part of it took; what that was for is not
//! passed along: a core polls one request at a time, and what is noted during a poll is that request's.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for the log's turn.
    Queue,
    /// Its bytes are hashed.
    Hash,
    /// Its bytes go to a file.
    Write,
    /// What was written becomes durable.
    Sync,
    /// The metadata plane is asked.
    Database,
    /// The client sends, or takes what is sent.
    Client,
}

/// How long each phase of a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    nanos: [u64; 6],
}

thread_local! {
    /// Those of the request that is polled. What is noted outside of one is of no interest.
    static CURRENT: Cell<Phases> = const { Cell::new(Phases { nanos: [0; 6] }) };
}

impl Phases {
    /// How long a phase took.
    pub fn of(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.nanos[phase as usize])
    }

    /// Adds what comes later in the same request.
    #[must_use]
    pub fn plus(mut self, later: Self) -> Self {
        self.nanos.iter_mut().zip(later.nanos).for_each(|(sum, nanos)| *sum += nanos);
        self
    }
}

/// Notes that the request that is polled now has spent so long in a phase.
pub fn note(phase: Phase, duration: Duration) {
    let mut phases = CURRENT.get();
    phases.nanos[phase as usize] += u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    CURRENT.set(phases);
}

/// Notes the time since `started`.
pub fn note_since(phase: Phase, started: Instant) {
    note(phase, started.elapsed());
}

/// `future`, with what is noted while it is polled.
pub fn timed<F: Future>(future: Pin<&mut F>) -> Timed<'_, F> {
    Timed { future, phases: Phases::default() }
}

/// See [`timed`].
pub struct Timed<'f, F> {
    future: Pin<&'f mut F>,
    phases: Phases,
}

impl<F: Future> Future for Timed<'_, F> {
    type Output = (F::Output, Phases);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before = CURRENT.replace(self.phases);
        let polled = self.future.as_mut().poll(context);
        self.phases = CURRENT.replace(before);
        polled.map(|output| (output, self.phases))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::future::join;

    use super::*;
    use crate::application::fakes::block_on;

    /// Notes half, lets others have their turn, and notes the rest.
    async fn work(phase: Phase, millis: u64) {
        note(phase, Duration::from_millis(millis / 2));
        let mut polled = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        note(phase, Duration::from_millis(millis / 2));
    }

    #[test]
    fn requests_that_take_turns_have_each_their_own_phases() {
        let (one, other) = (pin!(work(Phase::Sync, 10)), pin!(work(Phase::Hash, 4)));
        let (((), one), ((), other)) = block_on(join(timed(one), timed(other)));
        assert_eq!((one.of(Phase::Sync), one.of(Phase::Hash)), (Duration::from_millis(10), Duration::ZERO));
        assert_eq!(
            (other.of(Phase::Sync), other.of(Phase::Hash)),
            (Duration::ZERO, Duration::from_millis(4))
        );
        assert_eq!(one.plus(other).of(Phase::Hash), Duration::from_millis(4));
    }
}
