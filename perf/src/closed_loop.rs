//! The closed loop: every connection has one operation under way and starts the next when it is answered.
//!
//! All connections are open before the clock starts. No operation starts after the end; those that are under way are
//! waited for and counted, and the time until the last of them is what rates are taken from.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use crate::command_line::{PaceOptions, ServerOptions};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::monitor::{Monitor, ResourceUse};
use crate::tally::Tally;

/// How long to wait before a connection that was refused is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// After so many refusals in a row a connection gives up.
const RECONNECT_TRIES_MAX: u32 = 20;

/// What one connection does again and again.
pub(crate) trait Operation: Send + 'static {
    /// Does it once and gives the length of the body that was moved. The number is that of the operation in the run.
    fn perform(
        &mut self,
        connection: &mut Connection,
        number: u64,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// What a run has given.
#[derive(Debug)]
pub(crate) struct RunResult {
    /// What was counted.
    pub(crate) tally: Tally,
    /// From the first operation to the end of the last.
    pub(crate) elapsed: Duration,
    /// What it cost.
    pub(crate) resources: ResourceUse,
}

/// Runs operations until the time or the count of the pace is reached.
pub(crate) async fn run<O: Operation>(
    server: &ServerOptions,
    pace: &PaceOptions,
    buffer_bytes: usize,
    mut new_operation: impl FnMut() -> O,
) -> anyhow::Result<RunResult> {
    let mut pairs = Vec::new();
    for _ in 0..pace.connections {
        pairs.push((open(server, buffer_bytes).await?, new_operation()));
    }
    let monitor = Monitor::start(server.server_pid)?;
    let started = Instant::now();
    let shared = Arc::new(Shared {
        tally: Mutex::new(Tally::new()?),
        next_number: AtomicU64::new(0),
        operations_max: pace.count.unwrap_or(u64::MAX),
        end: started + Duration::from_secs(pace.seconds()),
    });
    let mut tasks = JoinSet::new();
    for (connection, operation) in pairs {
        tasks.spawn(drive(connection, operation, Arc::clone(&shared)));
    }
    let last_moment = shared.end + Duration::from_secs(server.grace_seconds);
    let unfinished = join_until(&mut tasks, last_moment).await?;
    let elapsed = started.elapsed();

    let Some(shared) = Arc::into_inner(shared) else {
        bail!("a connection is still at work after the end");
    };
    let mut tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.count_unfinished(unfinished);
    let resources = monitor.finish(elapsed, &mut tally)?;
    Ok(RunResult { tally, elapsed, resources })
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

async fn open(server: &ServerOptions, buffer_bytes: usize) -> anyhow::Result<Connection> {
    match Connection::open(server.url.address, buffer_bytes).await {
        Ok(connection) => Ok(connection),
        Err(failure) => bail!("no connection to {}: {}", server.url.address, failure.detail),
    }
}

/// What the connections of a run share. They all run on one thread, so that the lock is never waited for; it is
/// there because the runtime wants its tasks to be movable, and costs next to nothing.
#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    next_number: AtomicU64,
    operations_max: u64,
    end: Instant,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next operation, as long as there is one.
    fn take_number(&self) -> Option<u64> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        (number < self.operations_max).then_some(number)
    }
}

async fn drive<O: Operation>(mut connection: Connection, mut operation: O, shared: Arc<Shared>) {
    let mut now = Instant::now();
    while now < shared.end {
        if !connection.is_reusable() && !reconnect(&mut connection, &shared).await {
            return;
        }
        let Some(number) = shared.take_number() else {
            return;
        };
        // A reconnect took time that is not part of the operation.
        let started = Instant::now();
        let performed = operation.perform(&mut connection, number).await;
        now = Instant::now();
        match performed {
            Ok(body_bytes) => shared.tally().count_operation(now - started, body_bytes),
            Err(failure) => shared.tally().count_failure(failure),
        }
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
