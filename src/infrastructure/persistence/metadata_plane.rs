//! The thread that the metadata lives on: started once, asked through the plane channel, ended when the last core
//! has gone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};

use thiserror::Error;
use tokio::task::LocalSet;

use super::batch::BatchContext;
use super::census::Census;
use super::collector::{Collector, GcSettings, GraceClock};
use super::database::{Database, DatabaseSettings, DatabaseUrl};
use super::errors::DatabaseError;
use super::group_commit::{GroupCommit, Latch, LogQueue};
use super::heartbeat::Heartbeat;
use super::holds::HoldWatch;
use super::lifecycle::Lifecycles;
use super::pack_space::PackSpace;
use super::policies::PolicyKeeper;
use super::quotas::Quotas;
use super::reader::{Reader, answer_queries};
use super::recovery::{claim_root, sweep};
use super::replay::replay;
use super::scrub::{Scrub, ScrubSettings, note_place};
use crate::application::ports::Clock;
use crate::domain::value_objects::{InstanceId, StorageClass};
use crate::infrastructure::metrics::PlaneMetrics;
use crate::infrastructure::plane_channel::{LogOrder, MetadataEnd};
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{DatabaseRoom, OpenPacks, ReplayError, RootError, Roots};

/// Why the metadata plane does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The thread or its runtime cannot be made.
    #[error("cannot start the metadata thread")]
    Thread(#[source] io::Error),
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A root cannot be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A root that the database knows is not there.
    #[error(
        "the {class} storage root {path} is empty, but the database knows one with objects in it: is its disk \
         mounted?"
    )]
    RootMissing {
        /// Which root.
        class: StorageClass,
        /// Where it should be.
        path: PathBuf,
    },
    /// A root belongs to another database.
    #[error(
        "the {class} storage root {path} belongs to another database; if that is lost, `just_storage rebuild` makes it \
         anew"
    )]
    ForeignRoot {
        /// Which root.
        class: StorageClass,
        /// Where it is.
        path: PathBuf,
    },
    /// The log cannot be applied to the database.
    #[error("the log cannot be applied to the database")]
    Log(#[from] ReplayError),
    /// The thread ended before it could say why.
    #[error("the metadata thread ended while it started")]
    Lost,
}

/// What the plane needs to start.
pub struct MetadataPlane<C> {
    /// Which database.
    pub url: DatabaseUrl,
    /// How its connections are kept.
    pub settings: DatabaseSettings,
    /// The roots that belong to it.
    pub roots: Roots,
    /// This run of the process.
    pub instance: InstanceId,
    /// This server's name among others of the database. An earlier run under the same name is dead.
    pub node: String,
    /// The packs that cores are writing to.
    pub open_packs: Arc<OpenPacks>,
    /// What an embedded database needs on its disk.
    pub room: Option<DatabaseRoom>,
    /// For the dates of changes.
    pub clock: C,
    /// How what nothing refers to is removed.
    pub gc: GcSettings,
    /// How what is stored is read, to see whether it is what it was.
    pub scrub: ScrubSettings,
    /// Called after a tool beside the server has changed something that caches must not outlive.
    pub on_outside_change: Box<dyn Fn() + Send>,
    /// Where cores find commits in the log without the database.
    pub index: Option<Arc<RecordIndex>>,
    /// Where it counts.
    pub metrics: Arc<PlaneMetrics>,
}

impl<C: Clock + Send + 'static> MetadataPlane<C> {
    /// Starts the thread and waits until it is ready to serve. It ends by itself, with everything flushed, when
    /// the last sender of the channel is gone.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self, channel: MetadataEnd) -> Result<JoinHandle<()>, StartError> {
        let (report, started) = std_mpsc::channel();
        let thread = thread::Builder::new().name("metadata".into());
        let handle = thread.spawn(move || self.run(channel, &report)).map_err(StartError::Thread)?;
        started.recv().unwrap_or(Err(StartError::Lost))?;
        Ok(handle)
    }

    fn run(self, channel: MetadataEnd, report: &std_mpsc::Sender<Result<(), StartError>>) {
        give_way_to_cores();
        // Who waits for the report waits for exactly one message, so it cannot fail to arrive.
        let send = |result| drop(report.send(result));
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return send(Err(StartError::Thread(error))),
        };
        LocalSet::new().block_on(&runtime, async {
            match self.prepare(&channel).await {
                Ok(service) => {
                    send(Ok(()));
                    service.serve(channel).await;
                }
                Err(error) => send(Err(error)),
            }
        });
    }

    async fn prepare(self, channel: &MetadataEnd) -> Result<Service<C>, StartError> {
        let order = channel.order.clone();
        let database = Database::open(&self.url, self.settings).await?;
        for class in StorageClass::ALL {
            claim_root(&database, self.roots.of(class)).await?;
        }
        let cleared = database.begin_instance(self.instance, &self.node, self.clock.now()).await?;
        if cleared > 0 {
            tracing::info!(cleared, "cleared uploads that a former run left unfinished");
        }
        let ticks = GraceClock::starting_at(database.ticks().await?);
        let next_sequence = self.apply_log(&database, ticks).await?;
        let (database, latch) = (Arc::new(database), Latch::default());
        self.metrics.watch(latch.state());
        let quotas = Quotas::new(database.clone(), channel.quotas.clone());
        quotas.refresh().await?;
        let lifecycles = Lifecycles::new(database.clone(), ticks, channel.noted.clone());
        lifecycles.refresh().await?;
        let policies = PolicyKeeper::new(database.clone(), self.roots.clone());
        if let Some(order) = &order {
            order.start_at(next_sequence);
        }
        let commit = GroupCommit {
            database: database.clone(),
            latch: latch.clone(),
            clock: self.clock,
            instance: self.instance,
            next_sequence,
            ticks,
            quotas: quotas.clone(),
            metrics: self.metrics.clone(),
            log: order.clone().map(|order| LogQueue {
                order,
                roots: self.roots.clone(),
                room: self.room,
                index: self.index.clone(),
            }),
        };
        let collector = Collector {
            database: database.clone(),
            latch: latch.clone(),
            roots: self.roots.clone(),
            ticks,
            settings: self.gc,
            holds: HoldWatch::default(),
            packs: (!self.url.is_shared()).then(|| PackSpace {
                database: database.clone(),
                roots: self.roots.clone(),
                instance: self.instance,
                open: self.open_packs,
                order: order.clone(),
            }),
            metrics: self.metrics.clone(),
        };
        let scrub = Scrub::new(
            database.clone(),
            latch.clone(),
            self.roots.clone(),
            (self.scrub, self.url.is_shared()),
            self.metrics.clone(),
        );
        let census = Census {
            database: database.clone(),
            latch: latch.clone(),
            roots: self.roots.clone(),
            metrics: self.metrics.clone(),
            order: order.clone(),
        };
        let heartbeat = Heartbeat {
            database: database.clone(),
            latch: latch.clone(),
            instance: self.instance,
            node: self.node.into(),
            outside_changes: database.outside_changes().await?,
            on_outside_change: self.on_outside_change,
            quotas: quotas.clone(),
            lifecycles: lifecycles.clone(),
            policies: policies.clone(),
            is_shared: self.url.is_shared(),
        };
        let asked = (quotas.clone(), lifecycles.clone());
        let mut reader = Reader::new(asked, database.clone(), latch, self.settings, order.clone());
        (reader.metrics, reader.ticks, reader.index) = (self.metrics, ticks, self.index);
        Ok(Service {
            database,
            reader,
            commit,
            collector,
            census,
            scrub,
            heartbeat,
            quotas,
            lifecycles,
            policies,
            roots: self.roots,
            order,
        })
    }
}

impl<C: Clock> MetadataPlane<C> {
    /// Brings the database up to the log, and says which sequence comes next. Where other servers share the database,
    /// there is no log to apply.
    async fn apply_log(&self, database: &Database, ticks: GraceClock) -> Result<u64, StartError> {
        if self.url.is_shared() {
            return Ok(database.next_sequence().await?);
        }
        let context = BatchContext { writer: self.instance, now: self.clock.now(), tick: ticks.now() };
        let report = replay(database, &self.roots, context).await?;
        if report.applied > 0 {
            tracing::info!(changes = report.applied, "applied what only the log had");
        }
        Ok(database.next_sequence().await?.max(report.last_sequence + 1))
    }
}

/// Where cores have no processor of their own, an answer must not wait until a transaction has had its turn. The
/// threads that are started from here are as polite.
fn give_way_to_cores() {
    const NICE: i32 = 5;
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the metadata thread runs at the cores' priority");
    }
}

struct Service<C> {
    database: Arc<Database>,
    reader: Reader,
    commit: GroupCommit<C>,
    collector: Collector,
    census: Census,
    scrub: Option<Scrub>,
    heartbeat: Heartbeat,
    quotas: Arc<Quotas>,
    lifecycles: Arc<Lifecycles>,
    policies: Arc<PolicyKeeper>,
    roots: Roots,
    order: Option<Arc<LogOrder>>,
}

impl<C: Clock + Send + 'static> Service<C> {
    async fn serve(self, channel: MetadataEnd) {
        let node = self.heartbeat.node.clone();
        let (ticks, latch) = (self.collector.ticks, self.collector.latch.clone());
        let sweep = log_sweep(self.database.clone(), self.roots, node);
        let sweeping = tokio::task::spawn_local(sweep);
        let learning = tokio::task::spawn_local(learn_keys(self.database.clone(), self.order));
        let beating = tokio::task::spawn_local(self.heartbeat.run());
        let keeping_quotas = tokio::task::spawn_local(self.quotas.run());
        let keeping_rules = tokio::task::spawn_local(self.lifecycles.run());
        let keeping_policies = tokio::task::spawn_local(self.policies.clone().run());
        let collecting = tokio::task::spawn_local(self.collector.run());
        let counting = tokio::task::spawn_local(self.census.run());
        let scrub_place = self.scrub.as_ref().map(Scrub::place);
        let scrubbing = self.scrub.map(|scrub| tokio::task::spawn_local(scrub.run()));
        let queries = answer_queries(self.reader, channel.queries);
        tokio::join!(self.commit.run(channel.writes), queries);
        // What they have not done yet, the next start does.
        sweeping.abort();
        learning.abort();
        collecting.abort();
        counting.abort();
        beating.abort();
        keeping_quotas.abort();
        keeping_rules.abort();
        keeping_policies.abort();
        if !latch.is_set() {
            self.policies.finish().await;
        }
        if let Some(scrubbing) = scrubbing {
            scrubbing.abort();
            // It has to be gone before its place is noted.
            let _ = scrubbing.await;
        }
        // Otherwise each stop would set the grace of everything back to where the last cycle stored it.
        if !latch.is_set()
            && let Err(error) = self.database.store_ticks(ticks.now()).await
        {
            tracing::warn!(error = %error.source, "the clock could not be stored: what waits for it waits longer");
        }
        if !latch.is_set()
            && let Some(place) = scrub_place
            && let Err(error) = note_place(&self.database, &place).await
        {
            tracing::warn!(error = %error.source, "the scrub's place could not be noted: some of it is read again");
        }
        self.database.close().await;
    }
}

/// Tells the cores which keys there are. Until they know all, each `PUT` with a key waits for the database.
async fn learn_keys(database: Arc<Database>, order: Option<Arc<LogOrder>>) {
    const KEYS_AT_ONCE: u32 = 2000;
    let Some(keys) = order.as_ref().and_then(|order| order.keys()) else { return };
    let mut last = None;
    loop {
        let some = match database.keys_after(last.as_ref(), KEYS_AT_ONCE).await {
            Ok(some) => some,
            Err(error) => {
                tracing::warn!(error = %error.source, "the keys could not be read: each PUT with one waits for the database");
                return;
            }
        };
        some.iter().for_each(|key_path| keys.add(key_path));
        match some.into_iter().next_back() {
            Some(key_path) => last = Some(key_path),
            None => return keys.complete(),
        }
    }
}

async fn log_sweep(database: Arc<Database>, roots: Roots, node: Arc<str>) {
    match sweep(database, roots, &node).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "swept files that former runs left without an object"),
        Err(error) => tracing::warn!(%error, "the sweep of former runs stopped; the next start tries again"),
    }
}
