//! The loop of a run: connections that do one operation after the other, as fast as they can or at a given rate.
//!
//! ```text
//! closed  every connection starts its next operation when its last one is answered; latency is that of the operation
//! open    an operation becomes due every 1/rate seconds, whatever the server does; whichever connection is free takes
//!         it; latency counts from the moment it was due, so that a server that stalls is charged for all who waited
//! ```
//!
//! All connections are open before the clock starts. What starts in the warm-up is done and not counted. No operation
//! becomes due after the end; those that are late or under way are waited for and counted, and the time until the last
//! of them (and until the server says that it has settled, where it has something to settle) is what rates are taken
//! from.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::failure::{Failure, FailureKind};
use crate::monitor::{Monitor, ResourceUse, Watched};
use crate::pacer::{self, Pacer};
use crate::tally::Tally;

/// How long to wait before a connection that was refused is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// After so many refusals in a row a connection gives up.
const RECONNECT_TRIES_MAX: u32 = 20;
/// How long after the end an operation may begin that was due before it.
pub(crate) const LATE_START_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a server that has not settled is asked again.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// What one connection does again and again.
pub(crate) trait Operation: Send + 'static {
    /// Gets ready for the next operation. What it takes is the generator's work, and no part of the latency.
    fn prepare(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Does it once and gives the length of the body that was moved. The number is that of the operation in the run.
    fn perform(
        &mut self,
        connection: &mut Connection,
        number: u64,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// What a run does to which server.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    /// What is watched during the run.
    pub(crate) watched: Watched,
    /// Keep-alive connections, each with one operation at a time.
    pub(crate) connections: u64,
    /// How hard and how long.
    pub(crate) pace: Pace,
    /// What one read takes at most.
    pub(crate) buffer_bytes: usize,
    /// The number of the first operation.
    pub(crate) first_number: u64,
    /// A request that the server answers with 200 once everything that it has acknowledged is in its place. The clock
    /// stops only then.
    pub(crate) settle_request: Option<String>,
}

/// How hard and how long a run works.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Operations that become due each second; without it, the loop is closed.
    pub(crate) rate_per_second: Option<f64>,
    /// What starts before this is not counted.
    pub(crate) warm_up: Duration,
    /// The time after the warm-up in which operations start.
    pub(crate) length: Duration,
    /// The most operations, those of the warm-up too.
    pub(crate) operations_max: u64,
    /// How long what is under way at the end may take before it counts as failed.
    pub(crate) grace: Duration,
}

/// What a run has given.
#[derive(Debug)]
pub(crate) struct RunResult {
    /// What was counted.
    pub(crate) tally: Tally,
    /// From the end of the warm-up to the end of the last operation, or to when the server had settled.
    pub(crate) elapsed: Duration,
    /// How long after they were due the operations of an open loop were issued, in microseconds.
    pub(crate) lags_us: Option<Histogram<u64>>,
    /// What it cost.
    pub(crate) resources: ResourceUse,
    /// The number after that of the last operation.
    pub(crate) next_number: u64,
}

/// Runs operations until the time or the count of the pace is reached.
pub(crate) async fn run<O: Operation>(
    plan: &LoadPlan,
    mut new_operation: impl FnMut() -> O,
) -> anyhow::Result<RunResult> {
    let mut pairs = Vec::new();
    for index in 0..plan.connections {
        pairs.push((open(plan, index).await?, new_operation()));
    }
    let started = Instant::now();
    let measured_from = started + plan.pace.warm_up;
    let end = measured_from + plan.pace.length;
    let shared = Arc::new(Shared::new(plan, started, end)?);
    let mut tasks = JoinSet::new();
    let pacer = Pacer::start(&plan.pace, started, end, Arc::clone(&shared.due))?;
    for (connection, operation) in pairs {
        tasks.spawn(drive(connection, operation, Arc::clone(&shared)));
    }
    tokio::time::sleep_until(measured_from.into()).await;
    let monitor = Monitor::start(&plan.watched)?;
    let unfinished = join_until(&mut tasks, end + plan.pace.grace).await?;
    let lags_us = pacer.finish();
    if let Some(request) = &plan.settle_request {
        settle(plan, request, Instant::now() + plan.pace.grace).await?;
    }
    let elapsed = measured_from.elapsed();

    let Some(shared) = Arc::into_inner(shared) else {
        bail!("a connection is still at work after the end");
    };
    shared.count_what_never_started();
    let next_number = plan.first_number + shared.taken();
    let mut tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.count_unfinished(unfinished);
    let resources = monitor.finish(elapsed, &mut tally)?;
    Ok(RunResult { tally, elapsed, lags_us, resources, next_number })
}

/// Waits for tasks, and ends those that take too long; gives the number of these.
pub(crate) async fn join_until<T: 'static>(
    tasks: &mut JoinSet<T>,
    last_moment: Instant,
) -> anyhow::Result<usize> {
    let all_joined = async {
        while let Some(joined) = tasks.join_next().await {
            joined.context("the task of a connection failed")?;
        }
        anyhow::Ok(())
    };
    if let Ok(joined) = tokio::time::timeout_at(last_moment.into(), all_joined).await {
        return joined.map(|()| 0);
    }
    let unfinished = tasks.len();
    tasks.shutdown().await;
    Ok(unfinished)
}

/// Asks until the server answers that it has settled.
async fn settle(plan: &LoadPlan, request: &str, last_moment: Instant) -> anyhow::Result<()> {
    let mut connection = open(plan, 0).await?;
    while Instant::now() < last_moment {
        if let Ok(answer) = connection.exchange(request.as_bytes()).await
            && answer.status == 200
        {
            return Ok(());
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
        if !connection.is_reusable() {
            connection = open(plan, 0).await?;
        }
    }
    bail!("the server had not settled when the grace was over");
}

async fn open(plan: &LoadPlan, index: u64) -> anyhow::Result<Connection> {
    match Connection::open(plan.address, index, plan.buffer_bytes).await {
        Ok(connection) => Ok(connection),
        Err(failure) => bail!("no connection to {}: {}", plan.address, failure.detail),
    }
}

/// What the connections of a run share. They all run on one thread, so that the lock is never waited for; it is
/// there because the runtime wants its tasks to be movable, and costs next to nothing.
#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    taken: AtomicU64,
    first_number: u64,
    operations_max: u64,
    started: Instant,
    measured_from: Instant,
    end: Instant,
    /// Operations of an open loop that become due each second.
    rate_per_second: Option<f64>,
    /// One permit for each operation of an open loop that is due and has not been taken.
    due: Arc<Semaphore>,
}

/// An operation that a connection has taken on.
#[derive(Debug, Clone, Copy)]
struct Taken {
    number: u64,
    /// When its latency begins.
    begins: Instant,
}

impl Shared {
    fn new(plan: &LoadPlan, started: Instant, end: Instant) -> anyhow::Result<Self> {
        Ok(Self {
            tally: Mutex::new(Tally::new()?),
            taken: AtomicU64::new(0),
            first_number: plan.first_number,
            operations_max: plan.pace.operations_max,
            started,
            measured_from: started + plan.pace.warm_up,
            end,
            rate_per_second: plan.pace.rate_per_second,
            due: Arc::new(Semaphore::new(0)),
        })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed).min(self.operations_max)
    }

    /// Takes the next operation as soon as there is one, and nothing once there will be none.
    async fn take(&self) -> Option<Taken> {
        if self.rate_per_second.is_some() {
            // Closed means that nothing becomes due any more.
            self.due.acquire().await.ok()?.forget();
        }
        let now = Instant::now();
        let last_moment = self.end + self.rate_per_second.map_or(Duration::ZERO, |_| LATE_START_MAX);
        if now >= last_moment {
            return None;
        }
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        if index >= self.operations_max {
            // Those that wait for a permit would wait for nothing.
            self.due.close();
            return None;
        }
        let begins = self.rate_per_second.map_or(now, |rate| self.started + pacer::due_after(index, rate));
        Some(Taken { number: self.first_number + index, begins })
    }

    fn count(&self, taken: Taken, performed: Result<u64, Failure>) {
        match performed {
            Ok(body_bytes) if taken.begins >= self.measured_from => {
                self.tally().count_operation(taken.begins.elapsed(), body_bytes);
            }
            Ok(_) => {}
            Err(failure) => self.tally().count_failure(failure),
        }
    }

    /// What was due in an open loop and found no free connection soon enough is the worst of all, and must not be
    /// missing from what is reported.
    fn count_what_never_started(&self) {
        let Some(rate_per_second) = self.rate_per_second else {
            return;
        };
        let length = self.end - self.started;
        let mut index = self.taken();
        while index < self.operations_max && pacer::due_after(index, rate_per_second) < length {
            self.tally().count_failure(Failure::new(
                FailureKind::NotStarted,
                "due, and no connection was free, nor soon after the end",
            ));
            index += 1;
        }
    }
}

async fn drive<O: Operation>(mut connection: Connection, mut operation: O, shared: Arc<Shared>) {
    loop {
        if !connection.is_reusable() && !reconnect(&mut connection, &shared).await {
            return;
        }
        operation.prepare().await;
        // A reconnect and the preparation took time that is not part of a closed loop's operation.
        let Some(taken) = shared.take().await else {
            return;
        };
        let performed = operation.perform(&mut connection, taken.number).await;
        shared.count(taken, performed);
    }
}

/// Opens a connection anew; says whether that was possible before the end.
async fn reconnect(connection: &mut Connection, shared: &Shared) -> bool {
    for _ in 0..RECONNECT_TRIES_MAX {
        match connection.reopen().await {
            Ok(()) => {
                shared.tally().reconnects += 1;
                return true;
            }
            Err(failure) => shared.tally().count_failure(failure),
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
        if Instant::now() >= shared.end {
            break;
        }
    }
    false
}
