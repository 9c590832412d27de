//! `slow`: many uploads at once that send very slowly, as over bad networks or from clients that mean harm.
//!
//! ```text
//! connect, head │ a few bytes every half second …            │ the rest at full speed │ answer
//!               └ refused: counted by status                 └ still sending: counted
//! ```
//!
//! A refused upload counts as an error here, even where refusing it is what the server should do: whether it is, is
//! for the reader of the numbers to say. The latency of an upload is the time from its last byte to its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use crate::body::BodyPattern;
use crate::command_line::SlowOptions;
use crate::connection::{Connection, Sent};
use crate::failure::Failure;
use crate::load_loop::{RunResult, join_until};
use crate::monitor::Monitor;
use crate::report::{Report, SlowUploads};
use crate::response::HEAD_BYTES_MAX;
use crate::tally::Tally;
use crate::upload::{UploadPlan, Uploader};

/// How often each connection sends the bytes that are due.
const TICK: Duration = Duration::from_millis(500);

/// Runs the command.
pub(crate) async fn run(options: SlowOptions) -> anyhow::Result<Report> {
    let pattern = BodyPattern::for_run(options.size_bytes, options.connections);
    let plan = UploadPlan::for_destination(&options.server.url, &options.destination, true, pattern)?;
    let plan = Arc::new(plan);
    let uploaders: Vec<_> = (0..options.connections).map(|_| Uploader::new(Arc::clone(&plan))).collect();

    let monitor = Monitor::start(&options.server.watched())?;
    let started = Instant::now();
    let end = started + Duration::from_secs(options.seconds);
    let last_moment = end + Duration::from_secs(options.server.grace_seconds);
    let connections = options.connections;
    let shared = Arc::new(Shared { counts: Mutex::new(Counts::new()?), options, started, end });

    let mut tasks = JoinSet::new();
    for (number, uploader) in (0..).zip(uploaders) {
        tasks.spawn(upload_slowly(Arc::clone(&shared), uploader, number));
    }
    let unfinished = join_until(&mut tasks, last_moment).await?;
    let elapsed = started.elapsed();

    let Some(shared) = Arc::into_inner(shared) else {
        bail!("a connection is still at work after the end");
    };
    let Counts { mut tally, mut uploads } =
        shared.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.count_unfinished(unfinished);
    let resources = monitor.finish(elapsed, &mut tally)?;
    uploads.connections = connections;
    let result = RunResult { tally, elapsed, lags_us: None, resources, next_number: connections };
    Ok(Report::new("slow", result).with_slow_uploads(uploads))
}

/// What the connections of a run share, on one thread.
#[derive(Debug)]
struct Shared {
    counts: Mutex<Counts>,
    options: SlowOptions,
    started: Instant,
    end: Instant,
}

#[derive(Debug)]
struct Counts {
    tally: Tally,
    uploads: SlowUploads,
}

impl Counts {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { tally: Tally::new()?, uploads: SlowUploads::default() })
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticks of one connection, between those of the others, so that they do not all send at the same moment.
    fn ticks(&self, number: u64) -> Interval {
        let share = (number % self.options.connections) as f64 / self.options.connections as f64;
        let mut ticks = tokio::time::interval_at((self.started + TICK.mul_f64(share)).into(), TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }

    /// How many bytes of each body should have been sent by now.
    fn due_bytes(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due_bytes = elapsed_ms.saturating_mul(self.options.bytes_per_second) / 1000;
        due_bytes.min(self.options.size_bytes)
    }
}

async fn upload_slowly(shared: Arc<Shared>, mut uploader: Uploader, number: u64) {
    let mut still_sending = false;
    let answered = attempt(&shared, &mut uploader, number, &mut still_sending).await;

    let mut counts = shared.counts();
    let Counts { tally, uploads } = &mut *counts;
    match answered {
        Ok(latency) => {
            tally.count_operation(latency, shared.options.size_bytes);
            uploads.count_success(still_sending);
        }
        Err(failure) => {
            uploads.count_refusal(failure.kind, still_sending);
            tally.count_failure(failure);
        }
    }
}

/// One upload; gives the time from the last byte to the answer.
async fn attempt(
    shared: &Shared,
    uploader: &mut Uploader,
    number: u64,
    still_sending: &mut bool,
) -> Result<Duration, Failure> {
    let mut connection = Connection::open(shared.options.server.url.address, number, HEAD_BYTES_MAX).await?;
    uploader.next_body().await;
    uploader.begin(number);
    let sent = dribble(shared, &mut connection, uploader, number).await?;
    if sent == Sent::Whole && uploader.remaining_bytes() > 0 {
        *still_sending = true;
        shared.counts().uploads.still_sending += 1;
        uploader.send(&mut connection, u64::MAX).await?;
    }
    // An answer that came before the end of the body is read like any other: it says why.
    let last_byte_sent = Instant::now();
    connection.receive_success().await?;
    Ok(last_byte_sent.elapsed())
}

/// Sends what is due at every tick, until the end, the last byte or an answer.
async fn dribble(
    shared: &Shared,
    connection: &mut Connection,
    uploader: &mut Uploader,
    number: u64,
) -> Result<Sent, Failure> {
    let mut ticks = shared.ticks(number);
    // The head goes at once, so that all uploads have begun from the start.
    if uploader.send(connection, 0).await? == Sent::AnsweredEarly {
        return Ok(Sent::AnsweredEarly);
    }
    while uploader.remaining_bytes() > 0 {
        tokio::select! {
            biased;
            answer = connection.wait_for_answer() => {
                answer?;
                connection.cut_request_short();
                return Ok(Sent::AnsweredEarly);
            }
            // All uploads end their slow time at the same moment, not at their next ticks.
            () = tokio::time::sleep_until(shared.end.into()) => break,
            _ = ticks.tick() => {}
        }
        let sent_bytes = shared.options.size_bytes - uploader.remaining_bytes();
        let behind_bytes = shared.due_bytes().saturating_sub(sent_bytes);
        if uploader.send(connection, behind_bytes).await? == Sent::AnsweredEarly {
            return Ok(Sent::AnsweredEarly);
        }
    }
    Ok(Sent::Whole)
}
