//! Where there are many connections, those that have ended wait in a queue until they are closed, a few at a time. To close
//! one takes the core several times as long as to see that it has ended, and ten thousand clients can go away at once: whoever
//! has asked for something meanwhile would wait for all of them.
//!
//! One task closes all, instead of waking those that wait: monoio asks the kernel for what has come only once no task is
//! ready any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::attendant::Attendant;
use super::connection_table::Registration;
use crate::infrastructure::data_plane::runtime::Stream;

/// How many are closed before everything else on the core has its turn. No more than one is accepted in that time, so that
/// those that wait do not become more and more.
const CLOSED_AT_ONCE_MAX: usize = 4;
/// On a core with fewer connections nobody waits for long, and each is closed at once.
const CONNECTIONS_MIN: usize = 64;

/// The connections of one core that have ended and are still open. They keep their places among all others.
#[derive(Default)]
pub(super) struct ClosingQueue {
    ended: RefCell<VecDeque<(Registration, Stream)>>,
    closer: Attendant,
}

impl ClosingQueue {
    /// Makes what takes descriptors, if there are some.
    pub(super) fn prepare(&self) {
        self.closer.prepare();
    }

    /// Closes a connection in its turn, on a core that has so many.
    pub(super) fn close(self: &Rc<Self>, registration: Registration, stream: Stream, connections: usize) {
        // Where there is no descriptor for a turnstile, what is closed at once leaves one.
        if connections < CONNECTIONS_MIN || !self.closer.is_there_or(|| Closer(self.clone()).close_all()) {
            return close((registration, stream));
        }
        self.ended.borrow_mut().push_back((registration, stream));
    }
}

/// The registration holds the socket's number, and goes before the socket does.
fn close((registration, stream): (Registration, Stream)) {
    drop(registration);
    drop(stream);
}

/// Who closes them. What is left when the core ends goes with it.
struct Closer(Rc<ClosingQueue>);

impl Closer {
    async fn close_all(self) {
        let queue = &self.0;
        loop {
            queue.closer.rest().await;
            let mut ended = queue.ended.borrow_mut();
            if ended.is_empty() {
                break;
            }
            let count = ended.len().min(CLOSED_AT_ONCE_MAX);
            ended.drain(..count).for_each(close);
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.closer.has_gone();
        self.0.ended.take();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::connection_table::{ConnectionTable, Timeouts};
    use super::*;
    use crate::infrastructure::data_plane::runtime::{IoDriver, Listener, Turnstile, run, sleep};

    const LONG: Duration = Duration::from_secs(30);

    /// Connections that have ended, of a table that nothing else is in.
    async fn ended(count: usize, driver: IoDriver) -> (Rc<ConnectionTable>, Vec<(Registration, Stream)>) {
        let timeouts =
            Timeouts { idle: LONG, header: LONG, body: LONG, body_bytes_per_second_min: 1, send: LONG };
        let table = ConnectionTable::new(timeouts, count, 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::from_std(listener, driver).unwrap();
        let mut connections = Vec::new();
        for _ in 0..count {
            drop(TcpStream::connect(address).unwrap());
            let (stream, _) = listener.accept().await.unwrap();
            connections.push((table.register(stream.shut_down_handle()).unwrap(), stream));
        }
        (table, connections)
    }

    #[test]
    fn a_few_are_closed_at_a_time_and_everything_else_has_its_turn_in_between() {
        run(IoDriver::IoUring, async {
            let (table, connections) = ended(3 * CLOSED_AT_ONCE_MAX + 1, IoDriver::IoUring).await;
            let (queue, turnstile) = (Rc::new(ClosingQueue::default()), Turnstile::new().unwrap());
            let mut left = table.len();
            for (registration, stream) in connections {
                queue.close(registration, stream, CONNECTIONS_MIN);
            }
            assert_eq!(table.len(), left, "none is closed at once");
            while left > 0 {
                turnstile.pass().await;
                assert!(left - table.len() <= CLOSED_AT_ONCE_MAX, "{left} {}", table.len());
                left = table.len();
            }
            while queue.closer.is_there() {
                turnstile.pass().await;
            }
        })
        .unwrap();
    }

    #[test]
    fn all_are_closed_with_either_driver_and_again() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            run(driver, async {
                let queue = Rc::new(ClosingQueue::default());
                for _ in 0..2 {
                    let (table, connections) = ended(10, driver).await;
                    for (registration, stream) in connections {
                        queue.close(registration, stream, CONNECTIONS_MIN);
                    }
                    while !table.is_empty() {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn with_few_connections_nobody_waits() {
        run(IoDriver::IoUring, async {
            let (table, connections) = ended(2, IoDriver::IoUring).await;
            let queue = Rc::new(ClosingQueue::default());
            for (registration, stream) in connections {
                queue.close(registration, stream, CONNECTIONS_MIN - 1);
            }
            assert!(table.is_empty() && !queue.closer.is_there());
        })
        .unwrap();
    }
}
