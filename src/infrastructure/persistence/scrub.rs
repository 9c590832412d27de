//! The server's own scrub: one pass after the other through all blobs, at a gentle rate. What is lost or altered is marked,
//! as the tool of the same name does it.
//!
//! ```text
//! rows, by hash ─► read on a helper thread, around the page cache ─► pace ─► wrong? read once more ─► mark, by place
//! ```
//! Hashes are spread evenly, so that the hash that a pass has come to says which share of the blobs it has checked; what
//! comes or goes meanwhile does so before that place or behind it. How far it is stands in the database: a restart goes on
//! from there, and of several servers one makes the pass. Each change of that row names the one that was seen before, and a
//! pass that nobody has gone on with for [`TAKEOVER`] is anybody's.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::batch::BlobKey;
use super::blob_check::{CheckOutcome, Pace, Sight, conclude, is_there};
use super::database::Database;
use super::errors::DatabaseError;
use super::group_commit::Latch;
use super::maintenance::{BlobFilter, BlobRow};
use crate::domain::value_objects::Timestamp;
use crate::infrastructure::metrics::{PlaneMetrics, ScrubPass};
use crate::infrastructure::storage::{READ_BYTES, ReadBuffer, Roots};

/// How many rows are read at once.
const PAGE_ROWS: u32 = 256;
/// What a helper reads in one go at most, before it rests.
const STEP_BYTES: u64 = READ_BYTES as u64;
/// What a small blob counts as: a disk that has to go to it could read about so much meanwhile, or far more.
const BLOB_COST_BYTES: u64 = 64 * 1024;
/// Between two looks whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How often a pass notes how far it is: what a crash makes it read again.
const STORE_INTERVAL: Duration = Duration::from_secs(30);
/// For how long a pass of another server must not have gone on. The longest rest of a living one is a step at the lowest rate
/// or [`ERROR_PAUSE`].
const TAKEOVER: Duration = Duration::from_secs(150);
/// Before something that could not be read is looked at once more.
const ERROR_PAUSE: Duration = Duration::from_secs(30);

/// How the server reads what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// From the beginning of one pass to that of the next; zero for none.
    pub interval: Duration,
    /// What is read in a second at most.
    pub bytes_per_second: u64,
}

impl ScrubSettings {
    /// No scrub.
    pub const NEVER: Self = Self { interval: Duration::ZERO, bytes_per_second: 1 };
}

/// How far the scrub of all servers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubState {
    /// Goes up with each change.
    pub(super) beats: u64,
    /// Whether a pass has begun and not come to its end.
    pub(super) is_running: bool,
    /// When it did, or the last one.
    pub(super) started_at: Timestamp,
    /// When the last one came to its end.
    pub(super) finished_at: Option<Timestamp>,
    /// The last blob that it has checked.
    pub(super) after: Option<BlobKey>,
    /// What it has checked.
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    /// How many of them were lost or altered.
    pub(super) damaged: u64,
}

impl ScrubState {
    /// A pass that begins now, after what was seen.
    fn begin(seen: Option<&Self>, now: Timestamp) -> Self {
        Self {
            beats: seen.map_or(1, |seen| seen.beats + 1),
            is_running: true,
            started_at: now,
            finished_at: seen.and_then(|seen| seen.finished_at),
            after: None,
            blobs: 0,
            bytes: 0,
            damaged: 0,
        }
    }

    /// Whether the next pass may begin. A clock that has gone back says nothing of how long ago the last one did.
    fn is_due(&self, now: Timestamp, interval: Duration) -> bool {
        let since = now.as_millis().saturating_sub(self.started_at.as_millis());
        u128::try_from(since).map_or(true, |since| since >= interval.as_millis())
    }

    fn pass(&self) -> ScrubPass {
        let position = self.after.map_or(0, |(hash, _)| {
            let [a, b, c, d, ..] = *hash.as_bytes();
            u32::from_be_bytes([a, b, c, d])
        });
        let progress = if self.is_running { f64::from(position) / f64::from(u32::MAX) } else { 1.0 };
        ScrubPass { started_at: self.started_at, finished_at: self.finished_at, progress }
    }
}

/// Where a pass is, for whoever ends the server.
pub(super) type ScrubPlace = Rc<RefCell<Option<ScrubState>>>;

/// Makes passes until it is dropped.
pub(super) struct Scrub {
    database: Arc<Database>,
    latch: Latch,
    roots: Roots,
    settings: ScrubSettings,
    metrics: Arc<PlaneMetrics>,
    is_shared: bool,
    /// What another server's pass was last seen to have come to, and since when.
    seen: Option<(u64, Instant)>,
    place: ScrubPlace,
    store_interval: Duration,
    error_pause: Duration,
}

impl Scrub {
    /// `None` where the settings say that there is to be none.
    pub(super) fn new(
        database: Arc<Database>,
        latch: Latch,
        roots: Roots,
        (settings, is_shared): (ScrubSettings, bool),
        metrics: Arc<PlaneMetrics>,
    ) -> Option<Self> {
        metrics.scrub.set_interval(settings.interval);
        (!settings.interval.is_zero()).then(|| Self {
            database,
            latch,
            roots,
            settings,
            metrics,
            is_shared,
            seen: None,
            place: ScrubPlace::default(),
            store_interval: STORE_INTERVAL,
            error_pause: ERROR_PAUSE,
        })
    }

    /// Where its pass is: to be noted, with [`note_place`], once it has been dropped.
    pub(super) fn place(&self) -> ScrubPlace {
        self.place.clone()
    }

    pub(super) async fn run(mut self) {
        while !self.latch.is_set() {
            match self.look().await {
                Ok(Some(state)) => self.pass(state).await,
                Ok(None) => {}
                Err(error) => drop(self.latch.judge(&error)),
            }
            sleep(LOOK_INTERVAL.min(self.settings.interval)).await;
        }
    }

    /// Looks how far the scrub is; gives the pass that this server has to begin or to go on with.
    async fn look(&mut self) -> Result<Option<ScrubState>, DatabaseError> {
        let (found, now) = (self.database.scrub_state().await?, Timestamp::from(SystemTime::now()));
        if let Some(state) = &found {
            self.metrics.scrub.set_pass(state.pass());
        }
        let next = match &found {
            None => ScrubState::begin(None, now),
            // Where nobody shares the database, it is a former run's, or was given up for an error.
            Some(state) if state.is_running => match !self.is_shared || self.is_abandoned(state.beats) {
                true => ScrubState { beats: state.beats + 1, ..*state },
                false => return Ok(None),
            },
            Some(state) if state.is_due(now, self.settings.interval) => ScrubState::begin(Some(state), now),
            Some(_) => return Ok(None),
        };
        let is_ours = self.database.put_scrub_state(&next, found.map(|state| state.beats)).await?;
        Ok(is_ours.then_some(next))
    }

    /// Whether nobody has gone on with a pass for long enough, as far as this server has seen: no clock is shared.
    fn is_abandoned(&mut self, beats: u64) -> bool {
        let now = Instant::now();
        let (_, since) = match self.seen {
            Some(seen) if seen.0 == beats => seen,
            _ => *self.seen.insert((beats, now)),
        };
        now.duration_since(since) >= TAKEOVER
    }

    async fn pass(&self, state: ScrubState) {
        let begun = Instant::now();
        let ended = Pass::new(self, state).run().await;
        self.place.take();
        match ended {
            Ok(ScrubState { blobs, bytes, damaged, .. }) => {
                let took_secs = begun.elapsed().as_secs();
                tracing::info!(blobs, bytes, damaged, took_secs, "the scrub has read every blob");
            }
            Err(Interruption::Database(error)) => drop(self.latch.judge(&error)),
            Err(Interruption::Helper(error)) => {
                tracing::warn!(%error, "the scrub has stopped; it goes on in a minute");
            }
            Err(Interruption::TakenOver) => tracing::info!("another server goes on with the scrub"),
            Err(Interruption::Latched) => {}
        }
    }
}

/// Notes how far a pass was that has been dropped, so that the next start goes on from there.
pub(super) async fn note_place(database: &Database, place: &ScrubPlace) -> Result<(), DatabaseError> {
    let Some(state) = place.take() else { return Ok(()) };
    let next = ScrubState { beats: state.beats + 1, ..state };
    // Where another server has gone on, that one knows better.
    database.put_scrub_state(&next, Some(state.beats)).await.map(drop)
}

/// Why a pass ends before it has read everything.
enum Interruption {
    Database(DatabaseError),
    /// A helper thread could not be had, or has died.
    Helper(io::Error),
    /// Another server has not heard of this one for too long.
    TakenOver,
    /// Nothing can be noted any more.
    Latched,
}

impl From<DatabaseError> for Interruption {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

/// One pass on its way.
struct Pass<'s> {
    scrub: &'s Scrub,
    state: ScrubState,
    stored: Instant,
    pace: Pace,
    /// `None` while a helper has it.
    buffer: Option<ReadBuffer>,
    root_was_away: bool,
    /// Since the damage that is known was last counted.
    marks_changed: bool,
}

impl<'s> Pass<'s> {
    fn new(scrub: &'s Scrub, state: ScrubState) -> Self {
        let (stored, pace) = (Instant::now(), Pace::new(scrub.settings.bytes_per_second));
        Self { scrub, state, stored, pace, buffer: None, root_was_away: false, marks_changed: false }
    }

    async fn run(mut self) -> Result<ScrubState, Interruption> {
        self.beat().await?;
        loop {
            let page = self.scrub.database.blob_page(BlobFilter::All, self.state.after, PAGE_ROWS).await?;
            if page.is_empty() {
                break;
            }
            for rows in steps(&page) {
                self.step(rows).await?;
            }
        }
        let ended = self.state;
        self.state.is_running = false;
        self.state.finished_at = Some(Timestamp::from(SystemTime::now()));
        self.state.after = None;
        self.store().await?;
        self.scrub.metrics.scrub.set_pass(self.state.pass());
        Ok(ended)
    }

    async fn step(&mut self, rows: &[BlobRow]) -> Result<(), Interruption> {
        let (sights, cost_bytes) = match rows {
            // Its pieces have kept the pace.
            [row] => (vec![self.read(row).await?], 0),
            _ => (self.read_all(rows).await?, rows.iter().map(cost_bytes).sum()),
        };
        for (row, sight) in rows.iter().zip(sights) {
            self.conclude(row, sight).await?;
            self.state.after = Some((row.location.content_hash, row.location.storage_class));
        }
        self.beat().await?;
        self.pace.wait_after(cost_bytes).await;
        Ok(())
    }

    /// Reads small blobs, all at once.
    async fn read_all(&mut self, rows: &[BlobRow]) -> Result<Vec<Sight>, Interruption> {
        let (roots, own) = (self.scrub.roots.clone(), rows.to_vec());
        let look_at_all = move |buffer: &mut ReadBuffer| {
            let look = |row: &BlobRow| Sight::of(roots.of(row.location.storage_class), row, buffer);
            own.iter().map(look).collect()
        };
        let sights = self.on_helper(look_at_all).await?;
        self.scrub.metrics.scrub.checked_bytes.add(rows.iter().map(|row| row.size_bytes).sum());
        Ok(sights)
    }

    /// Reads a blob piece by piece.
    async fn read(&mut self, row: &BlobRow) -> Result<Sight, Interruption> {
        let (root, own) = (self.scrub.roots.of(row.location.storage_class).clone(), *row);
        let opened = self.on_helper(move |buffer| Sight::begin(&root, &own, buffer)).await?;
        let mut reading = match opened {
            Ok(reading) => reading,
            Err(sight) => return Ok(sight),
        };
        let mut left = cost_bytes(row);
        loop {
            let read = move |buffer: &mut ReadBuffer| {
                let piece = reading.read_piece(buffer);
                (reading, piece)
            };
            let (back, piece) = self.on_helper(read).await?;
            reading = back;
            match piece {
                Ok(0) => {
                    self.pace.wait_after(left).await;
                    return Ok(Sight::end(reading, row));
                }
                Ok(bytes) => {
                    self.scrub.metrics.scrub.checked_bytes.add(bytes);
                    left = left.saturating_sub(bytes);
                    self.pace.wait_after(bytes).await;
                    self.beat().await?;
                }
                Err(error) => return Ok(Sight::Unread(error)),
            }
        }
    }

    /// What seems to be wrong is read once more first: memory, a cable or a controller may have been, for a moment.
    async fn conclude(&mut self, row: &BlobRow, sight: Sight) -> Result<(), Interruption> {
        let mut sight = match sight {
            Sight::Whole => Sight::Whole,
            Sight::Lost(_) => self.read_again(row).await?,
            // So that a disk which does not answer for a while is not taken for one that has lost everything.
            Sight::Unread(_) => {
                self.rest().await?;
                self.read_again(row).await?
            }
        };
        let outcome = loop {
            match conclude(&self.scrub.database, &self.scrub.roots, row, sight).await? {
                CheckOutcome::RootAway => sight = self.read_again(row).await?,
                outcome => break outcome,
            }
        };
        self.root_was_away = false;
        self.tell(row, outcome);
        Ok(())
    }

    /// Reads a blob once its root is there. What was not found before may have been looked for while the root was away, and
    /// it need not be away any more when somebody asks.
    async fn read_again(&mut self, row: &BlobRow) -> Result<Sight, Interruption> {
        let class = row.location.storage_class;
        while !is_there(&self.scrub.database, &self.scrub.roots, class).await? {
            if !std::mem::replace(&mut self.root_was_away, true) {
                let path = self.scrub.roots.of(class).path();
                tracing::error!(root = %path.display(), "the scrub waits: the root is not there");
            }
            self.rest().await?;
        }
        self.read(row).await
    }

    fn tell(&mut self, row: &BlobRow, outcome: CheckOutcome) {
        let (hash, class) = (row.location.content_hash, row.location.storage_class);
        let metrics = &self.scrub.metrics.scrub;
        match outcome {
            // Not in the pass at all.
            CheckOutcome::Replaced | CheckOutcome::RootAway => return,
            CheckOutcome::Unread(error) => {
                metrics.unread_blobs.add(1);
                tracing::warn!(%hash, %class, %error, "the scrub could not read a blob");
                return;
            }
            CheckOutcome::Whole => {}
            CheckOutcome::Mended => {
                self.marks_changed = true;
                tracing::info!(%hash, %class, "a blob that was marked as damaged is whole after all");
            }
            CheckOutcome::Damaged { what, is_news } => {
                self.state.damaged += 1;
                if is_news {
                    self.marks_changed = true;
                    metrics.damaged_blobs.add(1);
                    let (place, objects) = (row.location.place, row.ref_count);
                    tracing::error!(%hash, %class, %place, objects, what, "a stored blob is damaged");
                }
            }
        }
        metrics.checked_blobs.add(1);
        self.state.blobs += 1;
        self.state.bytes += row.size_bytes;
    }

    async fn rest(&mut self) -> Result<(), Interruption> {
        sleep(self.scrub.error_pause).await;
        self.beat().await
    }

    /// Says that the pass goes on, and now and then notes how far it is.
    async fn beat(&mut self) -> Result<(), Interruption> {
        if self.scrub.latch.is_set() {
            return Err(Interruption::Latched);
        }
        if self.stored.elapsed() >= self.scrub.store_interval {
            self.store().await?;
        }
        self.scrub.metrics.scrub.set_pass(self.state.pass());
        self.scrub.place.replace(Some(self.state));
        Ok(())
    }

    async fn store(&mut self) -> Result<(), Interruption> {
        let seen = self.state.beats;
        self.state.beats += 1;
        if !self.scrub.database.put_scrub_state(&self.state, Some(seen)).await? {
            return Err(Interruption::TakenOver);
        }
        self.stored = Instant::now();
        if std::mem::take(&mut self.marks_changed) {
            self.scrub.metrics.scrub.set_damaged(self.scrub.database.damaged_blobs().await?);
        }
        Ok(())
    }

    /// Has `work` done on a helper thread, with the memory that reads take.
    async fn on_helper<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut ReadBuffer) -> T + Send + 'static,
    ) -> Result<T, Interruption> {
        let mut buffer = self.buffer.take().unwrap_or_default();
        let done = spawn_blocking(move || (work(&mut buffer), buffer)).await;
        let (done, buffer) = done.map_err(|error| Interruption::Helper(io::Error::other(error)))?;
        self.buffer = Some(buffer);
        Ok(done)
    }
}

/// What reading a blob costs its disk.
fn cost_bytes(row: &BlobRow) -> u64 {
    row.size_bytes.max(BLOB_COST_BYTES)
}

/// Blobs that are read in one go each: a large one alone, small ones together.
fn steps(mut rows: &[BlobRow]) -> impl Iterator<Item = &[BlobRow]> {
    std::iter::from_fn(move || {
        let mut cost = 0;
        let fits = |row: &&BlobRow| {
            cost += cost_bytes(row);
            cost <= STEP_BYTES
        };
        let count = rows.iter().take_while(fits).count().max(1).min(rows.len());
        let (step, rest) = rows.split_at(count);
        rows = rest;
        (!step.is_empty()).then_some(step)
    })
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
