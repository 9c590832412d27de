//! The connections of one core and how long each may still take. No connection sets a timer: it notes what it waits
//! for, and a sweep a few times a second shuts down the sockets of those that have waited too long. What they wait
//! for then ends, and they find out why. Very many are swept a part at a time, and others have their turn in between.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::closing_queue::ClosingQueue;
use super::core_company::CoreCompany;
use crate::infrastructure::data_plane::runtime::{ShutDownHandle, Stream, sleep};

const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How many connections are looked at together at least: this holds the core for some 20 µs.
const SWEEP_PART_MIN: usize = 512;
/// A sweep has so many parts at most, or it would take longer than one may come late.
const SWEEP_PARTS_MAX: usize = 50;
/// Between two parts.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Between two requests.
    pub idle: Duration,
    /// From the first byte of a head to its last, and for a handshake.
    pub header: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
    /// The least rate of a body over longer times, and of an answer that the kernel alone is still sending.
    pub body_bytes_per_second_min: u64,
    /// Between two pieces of an answer that the client takes.
    pub send: Duration,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The end of the handshake.
    Handshake,
    /// The next request.
    Idle,
    /// The rest of a head.
    Header,
    /// More of a body.
    Body,
    /// The client to take an answer.
    Send,
    /// This server.
    Work,
    /// The client to close.
    Drain,
}

/// One connection's entry.
pub struct Watch {
    phase: Cell<Phase>,
    deadline: Cell<Instant>,
    timed_out: Cell<bool>,
    /// Of an idle connection: what its client had not taken when that was last looked at.
    untaken_bytes: Cell<usize>,
    socket: ShutDownHandle,
    company: Rc<CoreCompany>,
    timeouts: Timeouts,
}

impl Watch {
    /// It waits for the handshake to end, which may take as long as a head.
    pub fn handshake(&self) {
        self.enter(Phase::Handshake, self.timeouts.header);
    }

    /// It waits for a request, of which nothing has come yet.
    pub fn idle(&self) {
        self.enter(Phase::Idle, self.timeouts.idle);
    }

    /// It waits for the rest of a head. The time counts from the first call.
    pub fn header(&self) {
        if self.phase.get() != Phase::Header {
            self.enter(Phase::Header, self.timeouts.header);
        }
    }

    /// It waits for more of a body, for as long as `budget` allows.
    pub fn body(&self, budget: &BodyBudget) {
        self.enter(Phase::Body, budget.0);
    }

    /// The time that a body may take before its first byte.
    pub fn body_budget(&self) -> BodyBudget {
        BodyBudget(self.timeouts.body)
    }

    /// It waits for the client to take some of an answer.
    pub fn send(&self) {
        self.enter(Phase::Send, self.timeouts.send);
    }

    /// It waits for this server.
    pub fn work(&self) {
        self.phase.set(Phase::Work);
    }

    /// It waits for the client to close, for so long.
    pub fn drain(&self, limit: Duration) {
        self.enter(Phase::Drain, limit);
    }

    /// Whether its time is over.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out.get()
    }

    /// The time of the last sweep: near enough for what lasts seconds.
    pub fn now(&self) -> Instant {
        self.company.now()
    }

    /// What it has in common with the others of its core.
    pub(super) fn company(&self) -> &CoreCompany {
        &self.company
    }

    fn enter(&self, phase: Phase, limit: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.company.now() + limit);
        self.untaken_bytes.set(usize::MAX);
    }

    fn sweep(&self, now: Instant, draining: bool) {
        let phase = self.phase.get();
        let over = phase != Phase::Work && now > self.deadline.get();
        if over && !self.timed_out.get() {
            self.time_out(phase, now);
        } else if draining && matches!(phase, Phase::Handshake | Phase::Idle) {
            self.socket.stop_reading();
        }
    }

    fn time_out(&self, phase: Phase, now: Instant) {
        let untaken_bytes = if phase == Phase::Idle { self.socket.untaken_bytes() } else { 0 };
        if untaken_bytes > 0 && self.is_taking(untaken_bytes) {
            // It is not idle: the kernel is still sending what went before.
            return self.deadline.set(now + self.timeouts.send);
        }
        self.timed_out.set(true);
        match phase {
            // A client that takes nothing will not take the rest of it either.
            Phase::Send => self.socket.reset(),
            Phase::Idle if untaken_bytes > 0 => self.socket.reset(),
            // The answer can still be sent; what is read next is the end.
            Phase::Idle | Phase::Header | Phase::Body => self.socket.stop_reading(),
            Phase::Handshake | Phase::Drain | Phase::Work => self.socket.stop(),
        }
    }

    /// Whether the client has taken, since the last look, what a client must at least.
    fn is_taking(&self, untaken_bytes: usize) -> bool {
        let taken_bytes = self.untaken_bytes.replace(untaken_bytes).saturating_sub(untaken_bytes) as u64;
        taken_bytes >= self.timeouts.body_bytes_per_second_min.saturating_mul(self.timeouts.send.as_secs())
    }
}

/// How long the next piece of a body may take. Every byte buys time at the least rate, up to the longest pause, so
/// that neither silence nor a trickle holds a connection for ever; this server's own time is not counted.
#[derive(Debug, Clone, Copy)]
pub struct BodyBudget(Duration);

impl BodyBudget {
    /// So many bytes have come after a wait since `waited_from`.
    pub fn progress(&mut self, watch: &Watch, waited_from: Instant, bytes: u64) {
        let waited = watch.now().saturating_duration_since(waited_from);
        let bought = Duration::from_secs_f64(bytes as f64 / watch.timeouts.body_bytes_per_second_min as f64);
        self.0 = (self.0.saturating_sub(waited) + bought).min(watch.timeouts.body);
    }
}

/// All connections of a core.
pub struct ConnectionTable {
    entries: RefCell<Entries>,
    company: Rc<CoreCompany>,
    closing_queue: Rc<ClosingQueue>,
    draining: Cell<bool>,
    timeouts: Timeouts,
    connections_max: usize,
    refusals_max: usize,
    refusals: Cell<usize>,
}

/// Each has a place of its own, so that a sweep can go on where it was.
#[derive(Default)]
struct Entries {
    places: Vec<Option<Rc<Watch>>>,
    free: Vec<usize>,
}

impl Entries {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn enter(&mut self, watch: Rc<Watch>) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(watch);
                place
            }
            None => {
                self.places.push(Some(watch));
                self.places.len() - 1
            }
        }
    }

    fn leave(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }
}

/// The right of a connection too many to be answered, given up when dropped.
pub struct RefusalPlace(Rc<ConnectionTable>);

impl Drop for RefusalPlace {
    fn drop(&mut self) {
        self.0.refusals.set(self.0.refusals.get() - 1);
    }
}

/// A connection's place in the table, given up when dropped.
pub struct Registration {
    table: Rc<ConnectionTable>,
    place: usize,
    watch: Rc<Watch>,
}

impl Registration {
    /// The table that it is in.
    pub fn table(&self) -> &Rc<ConnectionTable> {
        &self.table
    }

    /// The connection's entry.
    pub fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().leave(self.place);
    }
}

impl ConnectionTable {
    /// An empty table for at most `connections_max` connections, and `refusals_max` more while they are refused.
    pub fn new(timeouts: Timeouts, connections_max: usize, refusals_max: usize) -> Rc<Self> {
        Rc::new(Self {
            entries: RefCell::default(),
            company: Rc::new(CoreCompany::new(Instant::now())),
            closing_queue: Rc::default(),
            draining: Cell::new(false),
            timeouts,
            connections_max,
            refusals_max,
            refusals: Cell::new(0),
        })
    }

    /// Lets a connection too many be answered, unless too many are.
    pub fn refusal_place(self: &Rc<Self>) -> Option<RefusalPlace> {
        if self.refusals.get() >= self.refusals_max {
            return None;
        }
        self.refusals.set(self.refusals.get() + 1);
        Some(RefusalPlace(self.clone()))
    }

    /// Enters a connection, unless there are too many. The handle's socket must stay open until the registration
    /// is dropped.
    pub fn register(self: &Rc<Self>, socket: ShutDownHandle) -> Option<Registration> {
        if self.len() >= self.connections_max {
            return None;
        }
        let watch = Rc::new(Watch {
            phase: Cell::new(Phase::Idle),
            deadline: Cell::new(self.company.now() + self.timeouts.idle),
            timed_out: Cell::new(false),
            untaken_bytes: Cell::new(usize::MAX),
            socket,
            company: self.company.clone(),
            timeouts: self.timeouts,
        });
        let place = self.entries.borrow_mut().enter(watch.clone());
        Some(Registration { table: self.clone(), place, watch })
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes what takes descriptors of the core, while there are some.
    pub fn prepare(&self) {
        self.closing_queue.prepare();
        self.company.prepare();
    }

    /// Closes a connection that has ended, once it is its turn.
    pub(super) fn close(&self, registration: Registration, stream: Stream) {
        registration.watch().work();
        self.closing_queue.close(registration, stream, self.len());
    }

    /// Whether the server is going down, so that no connection is kept for another request.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Sweeps until the core ends.
    pub async fn sweep_forever(&self) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            let mut place = 0;
            while let Some(behind) = self.sweep_from(place, Instant::now()) {
                place = behind;
                sleep(SWEEP_PAUSE).await;
            }
        }
    }

    /// Shuts down the sockets of those whose time is over at `now`, in one part of all places from `first` on, and says
    /// where the next part begins, if there is one.
    pub fn sweep_from(&self, first: usize, now: Instant) -> Option<usize> {
        self.company.set_now(now);
        let entries = self.entries.borrow();
        let part = SWEEP_PART_MIN.max(entries.places.len().div_ceil(SWEEP_PARTS_MAX));
        for watch in entries.places.iter().skip(first).take(part).flatten() {
            watch.sweep(now, self.draining.get());
        }
        Some(first + part).filter(|behind| *behind < entries.places.len())
    }

    fn for_each(&self, what: impl Fn(&Watch)) {
        self.entries.borrow().places.iter().flatten().for_each(|watch| what(watch));
    }

    /// Lets running requests end within `limit`, closes idle connections at once and the rest at last.
    pub async fn drain(&self, limit: Duration) {
        const STEP: Duration = Duration::from_millis(10);
        self.draining.set(true);
        self.for_each(|watch| watch.sweep(Instant::now(), true));
        let started = Instant::now();
        while !self.is_empty() && started.elapsed() < limit {
            sleep(STEP).await;
        }
        if !self.is_empty() {
            tracing::warn!(connections = self.len(), "the drain limit is over; connections are cut");
            self.for_each(|watch| watch.socket.stop());
            // The connections' tasks see their sockets end, and clean up after themselves.
            let cut = Instant::now();
            while !self.is_empty() && cut.elapsed() < limit.min(Duration::from_secs(1)) {
                sleep(STEP).await;
            }
        }
    }
}
