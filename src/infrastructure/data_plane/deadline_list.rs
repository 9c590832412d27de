//! How long a core's tasks wait for what others do for them: helper threads, the kernel, the metadata plane. None of
//! these can be made to end, so it is the wait that ends. No wait sets a timer: each enters its deadline in its core's
//! list, and a sweep of the list wakes those that are late.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::runtime::sleep;

/// A wait may last longer than its limit by so much.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The waits of one core.
pub struct DeadlineList {
    /// The time of the last sweep: near enough for limits of seconds.
    clock: Cell<Instant>,
    waits: RefCell<Waits>,
}

#[derive(Default)]
struct Waits {
    slots: Vec<Option<Wait>>,
    free: Vec<usize>,
}

struct Wait {
    deadline: Instant,
    waker: Waker,
}

impl DeadlineList {
    /// An empty list.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { clock: Cell::new(Instant::now()), waits: RefCell::default() })
    }

    /// Sweeps until the core ends.
    pub async fn sweep_forever(&self) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            self.sweep(Instant::now());
        }
    }

    /// Wakes those whose deadline has passed at `now`.
    pub fn sweep(&self, now: Instant) {
        self.clock.set(now);
        for wait in self.waits.borrow().slots.iter().flatten() {
            if wait.deadline <= now {
                wait.waker.wake_by_ref();
            }
        }
    }

    fn enter(&self, wait: Wait) -> usize {
        let mut waits = self.waits.borrow_mut();
        match waits.free.pop() {
            Some(slot) => {
                waits.slots[slot] = Some(wait);
                slot
            }
            None => {
                waits.slots.push(Some(wait));
                waits.slots.len() - 1
            }
        }
    }

    fn leave(&self, slot: usize) {
        let mut waits = self.waits.borrow_mut();
        waits.slots[slot] = None;
        waits.free.push(slot);
    }
}

/// A limit for waits of one kind, on one core.
#[derive(Clone)]
pub struct WaitLimit {
    list: Rc<DeadlineList>,
    limit: Duration,
}

impl WaitLimit {
    /// Waits in `list` that end after `limit`, or up to 200 ms later.
    pub fn new(list: &Rc<DeadlineList>, limit: Duration) -> Self {
        Self { list: list.clone(), limit }
    }

    /// Another limit in the same list.
    #[must_use]
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self { list: self.list.clone(), limit }
    }

    /// No wait ends before what it waits for.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::new(&DeadlineList::new(), Duration::MAX)
    }

    /// `future`'s output, or `None` if it takes longer than the limit. The future is the caller's still, who says what
    /// becomes of what it waited for.
    pub fn within<F: Future + Unpin>(&self, future: F) -> Within<'_, F> {
        Within { limit: self, future, begun: None, entered: None }
    }

    /// As [`within`](Self::within), of a wait that began before anybody waited.
    pub fn within_since<F: Future + Unpin>(&self, begun: Instant, future: F) -> Within<'_, F> {
        Within { limit: self, future, begun: Some(begun), entered: None }
    }
}

/// A wait with a limit.
pub struct Within<'l, F> {
    limit: &'l WaitLimit,
    future: F,
    /// When it began, if not with the first look.
    begun: Option<Instant>,
    entered: Option<Entered>,
}

#[derive(Clone, Copy)]
struct Entered {
    slot: usize,
    deadline: Instant,
}

impl<F: Future + Unpin> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // First, so that what has come at the last moment counts.
        if let Poll::Ready(output) = Pin::new(&mut self.future).poll(context) {
            return Poll::Ready(Some(output));
        }
        let list = &self.limit.list;
        match self.entered {
            None => {
                let begun = self.begun.unwrap_or(list.clock.get());
                let Some(deadline) = begun.checked_add(self.limit.limit) else {
                    return Poll::Pending;
                };
                if deadline <= list.clock.get() {
                    return Poll::Ready(None);
                }
                let slot = list.enter(Wait { deadline, waker: context.waker().clone() });
                self.entered = Some(Entered { slot, deadline });
            }
            Some(entered) if entered.deadline <= list.clock.get() => return Poll::Ready(None),
            Some(entered) => {
                if let Some(wait) = &mut list.waits.borrow_mut().slots[entered.slot] {
                    wait.waker.clone_from(context.waker());
                }
            }
        }
        Poll::Pending
    }
}

impl<F> Drop for Within<'_, F> {
    fn drop(&mut self) {
        if let Some(entered) = self.entered {
            self.limit.list.leave(entered.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::application::fakes::block_on;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_wait_ends_at_its_limit_and_not_before() {
        let list = DeadlineList::new();
        let start = list.clock.get();
        let limit = WaitLimit::new(&list, LIMIT);
        let mut wait = pin!(limit.within(pending::<()>()));
        assert_eq!(wait.as_mut().now_or_never(), None);
        list.sweep(start + LIMIT - Duration::from_millis(1));
        assert_eq!(wait.as_mut().now_or_never(), None);
        list.sweep(start + LIMIT);
        assert_eq!(wait.as_mut().now_or_never(), Some(None));
    }

    #[test]
    fn a_wait_that_began_before_ends_as_much_sooner() {
        let list = DeadlineList::new();
        let start = list.clock.get();
        let limit = WaitLimit::new(&list, LIMIT);
        list.sweep(start + LIMIT / 2);
        let mut wait = pin!(limit.within_since(start, pending::<()>()));
        assert_eq!(wait.as_mut().now_or_never(), None);
        list.sweep(start + LIMIT);
        assert_eq!(wait.as_mut().now_or_never(), Some(None));
        assert_eq!(
            limit.within_since(start, pending::<()>()).now_or_never(),
            Some(None),
            "it is over already"
        );
        assert_eq!(limit.within_since(start, ready(1)).now_or_never(), Some(Some(1)));
        assert!(list.waits.borrow().slots.iter().flatten().count() == 1);
    }

    #[test]
    fn a_late_wait_is_woken() {
        let list = DeadlineList::new();
        let limit = WaitLimit::new(&list, LIMIT);
        let sweep = async {
            list.sweep(Instant::now() + 2 * LIMIT);
        };
        let (output, ()) = block_on(futures_util::future::join(limit.within(pending::<()>()), sweep));
        assert_eq!(output, None);
    }

    #[test]
    fn what_comes_at_the_last_moment_counts() {
        let list = DeadlineList::new();
        let limit = WaitLimit::new(&list, LIMIT);
        list.sweep(Instant::now() + 2 * LIMIT);
        assert_eq!(block_on(limit.within(ready(1))), Some(1));
    }

    #[test]
    fn waits_leave_the_list_when_they_end() {
        let list = DeadlineList::new();
        let limit = WaitLimit::new(&list, LIMIT);
        for _ in 0..3 {
            let mut waits: Vec<_> = (0..4).map(|_| limit.within(pending::<()>())).collect();
            assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        }
        let waits = list.waits.borrow();
        assert_eq!((waits.slots.len(), waits.free.len()), (4, 4));
    }
}
