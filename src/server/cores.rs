//! A core: what it is made from, what it serves, and what it does beside that until the server stops.

use std::io;
use std::net::TcpListener;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::future::{Either, OptionFuture, join, join3};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::{mpsc, watch};

use super::door::{Arrival, Door};
use super::lifecycle::Passes;
use super::metrics::{Cells, MetricsDoor};
use crate::api::{
    Access, AccessLog, AuditLog, Batches, ConnectionTable, DateCache, MetricsPage, RequestIds,
    RequestRecorder, Service, SystemClock, UploadTurns, WriteMetrics,
};
use crate::application::credentials::{CurrentVerifier, RequestRates, UrlSigningKeys};
use crate::application::ports::Clock as _;
use crate::config::{Authentication, Config, buffer_bytes_of_core};
use crate::domain::value_objects::{InstanceId, StorageClass};
use crate::infrastructure::data_plane::buffers::BufferPool;
use crate::infrastructure::data_plane::core_shares::CoreShares;
use crate::infrastructure::data_plane::deadline_list::{DeadlineList, WaitLimit};
use crate::infrastructure::data_plane::descriptors::DescriptorShares;
use crate::infrastructure::data_plane::metadata_client::MetadataClient;
use crate::infrastructure::data_plane::object_cache::ObjectCache;
use crate::infrastructure::data_plane::runtime::{IoDriver, Listener, run, sleep, spawn};
use crate::infrastructure::data_plane::tls::TlsAcceptor;
use crate::infrastructure::data_plane::tls_configuration::TlsConfiguration;
use crate::infrastructure::plane_channel::{DataEnd, Durability};
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{
    FileStore, FileStoreParts, Hashing, OpenPacks, PackLog, PackLogParts, Packs, PlaceSequence, RootHelpers,
    Roots,
};
use crate::service_manager::CoreBeats;

/// How long `/health/ready` waits for those it asks: whoever asks it is not patient either.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How often a core looks whether blobs that it has open have been removed, and shows that it is alive.
const LOOK_AROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How often uploads that have expired are looked for, if they wait for long.
const UPLOAD_SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(600);

/// What every core is made from.
#[derive(Clone)]
pub(super) struct CoreTemplate {
    pub(super) config: Config,
    /// What tokens are verified with, on all cores.
    pub(super) tokens: Option<CurrentVerifier>,
    /// What all of them hold credentials to.
    pub(super) rates: Option<Arc<RequestRates>>,
    /// What URLs are signed with, on all cores.
    pub(super) url_signing: Option<Arc<UrlSigningKeys>>,
    pub(super) driver: IoDriver,
    pub(super) tls: Option<Arc<TlsConfiguration>>,
    pub(super) roots: Roots,
    pub(super) data_end: DataEnd,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) index: Option<Arc<RecordIndex>>,
    pub(super) places: Arc<PlaceSequence>,
    pub(super) open_packs: Arc<OpenPacks>,
    pub(super) instance: InstanceId,
    pub(super) access_log: AccessLog,
    pub(super) audit_log: AuditLog,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) core_count: usize,
    pub(super) descriptors: DescriptorShares,
    pub(super) beats: CoreBeats,
    pub(super) shares: CoreShares,
    /// Where each core takes the connections that others have accepted for it.
    pub(super) arrivals: Vec<mpsc::Sender<Arrival>>,
    /// What the process was started with, and helper threads go back to.
    pub(super) allowed_cpus: CpuSet,
    pub(super) cells: Cells,
    pub(super) write_metrics: WriteMetrics,
}

/// Where connections come to a core.
pub(super) struct Doors {
    pub(super) listener: TcpListener,
    pub(super) arriving: mpsc::Receiver<Arrival>,
    /// Where they may ask for metrics alone.
    pub(super) metrics: Option<TcpListener>,
}

/// What a core serves with.
pub(super) type CoreService = Service<FileStore, MetadataClient, SystemClock>;

impl CoreTemplate {
    /// Runs a core on a thread of its own until the server stops.
    pub(super) fn start(
        self,
        index: usize,
        cpu: usize,
        doors: Doors,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            let mut own = CpuSet::new();
            own.set(cpu);
            if let Err(error) = sched_setaffinity(None, &own) {
                tracing::warn!(%error, cpu, "the core could not be pinned");
            }
            run(self.driver, self.serve(index, doors))?
        })
    }

    async fn serve(self, index: usize, doors: Doors) -> io::Result<()> {
        let Doors { listener, mut arriving, metrics } = doors;
        let listener = Listener::from_std(listener, self.driver)?;
        let deadlines = DeadlineList::new();
        let service = Rc::new(self.service(index, &deadlines));
        service.store.prepare();
        let table = service.table.clone();
        table.prepare();
        drop(spawn({
            let table = table.clone();
            async move { table.sweep_forever().await }
        }));
        drop(spawn(async move { deadlines.sweep_forever().await }));
        drop(spawn(look_around(index, self.beats, Rc::downgrade(&service))));
        // One for the whole server is enough.
        let housekeeping = (index == 0).then(|| {
            let passes = Passes {
                service: Rc::downgrade(&service),
                metrics: self.cells.cores[index].clone(),
                stopped: self.stopped.clone(),
                interval: self.config.lifecycle_interval,
            };
            let kept_for = self.config.limits.uploads_kept_for;
            let sweep = remove_expired_uploads(kept_for, Rc::downgrade(&service), self.stopped.clone());
            join(spawn(passes.run()), spawn(sweep))
        });
        let repository = service.repository.clone();
        let (driver, timeouts) = (self.driver, self.config.timeouts);
        let open = |listener| MetricsDoor::open(listener, driver, timeouts, service.clone());
        let metrics_door = metrics.map(open).transpose()?;
        let mut stopped = self.stopped.clone();
        let tls = self.tls.map(TlsAcceptor::new);
        let door = Door { index, service, tls, shares: self.shares, arrivals: self.arrivals };
        futures_util::future::select(
            std::pin::pin!(join3(
                door.accept(listener),
                door.take_arrivals(&mut arriving),
                OptionFuture::from(metrics_door.as_ref().map(MetricsDoor::accept)),
            )),
            // An error means that the other end is gone, which is the same as a stop.
            std::pin::pin!(async move { drop(stopped.wait_for(|stopped| *stopped).await) }),
        )
        .await;
        // What another core has handed over until now has been accepted, and is served as such.
        arriving.close();
        while let Ok(arrival) = arriving.try_recv() {
            door.arrive(arrival);
        }
        drop(door);
        let limit = self.config.drain_timeout;
        let metrics_drained = OptionFuture::from(metrics_door.map(|door| door.drain(limit)));
        join(table.drain(limit), metrics_drained).await;
        // What a task still asks the metadata plane keeps that from ending, and outlives its core if nobody waits for it.
        let housekeeping = std::pin::pin!(OptionFuture::from(housekeeping));
        futures_util::future::select(housekeeping, std::pin::pin!(sleep(limit))).await;
        repository.tell_last_reads(SystemClock.now()).await;
        Ok(())
    }

    fn service(&self, index: usize, deadlines: &Rc<DeadlineList>) -> CoreService {
        let allowed_cpus = self.allowed_cpus;
        // Helpers start on a pinned core and are not to stay there. Where that is refused, they work where they are.
        let unpin = move || {
            let _ = sched_setaffinity(None, &allowed_cpus);
        };
        let config = &self.config;
        let limit = |limit| WaitLimit::new(deadlines, limit);
        let helpers = RootHelpers::new(&limit(config.storage_timeout), unpin);
        let packs = Rc::new(self.packs(index, &helpers));
        let metrics = self.cells.cores[index].clone();
        let buffer_bytes = buffer_bytes_of_core(config.buffer_bytes_max, self.core_count);
        let buffers = BufferPool::new(buffer_bytes);
        metrics.watch_buffers(buffers.clone());
        let log = packs.with_changes.then(|| packs.clone());
        let parts = FileStoreParts {
            roots: self.roots.clone(),
            buffers,
            helpers,
            driver: self.driver,
            places: self.places.clone(),
            packs,
            open_files: self.descriptors.open_files,
            hashing: Hashing::default(),
            metrics: metrics.clone(),
        };
        let ready_limit = limit(READY_LIMIT.min(config.storage_timeout).min(config.metadata_timeout));
        let connections_max = self.descriptors.connections_max.div_ceil(self.core_count);
        let store = FileStore::new(parts);
        Service {
            repository: MetadataClient::new(
                self.data_end.clone(),
                self.cache.clone(),
                limit(config.metadata_timeout),
                log,
            )
            .finding_in(self.index.clone(), store.pack_files())
            .counting_in(metrics),
            store,
            clock: SystemClock,
            access: match config.authentication {
                Authentication::None => Access::open(),
                Authentication::Required { .. } => {
                    let (tokens, signing) = (self.tokens.clone(), self.url_signing.clone());
                    Access::with_credentials(tokens, signing, self.rates.clone())
                }
            },
            limits: config.limits,
            upload_turns: UploadTurns::new(self.core_count, buffer_bytes, limit(config.storage_timeout)),
            batches: Batches::new(ready_limit.clone(), unpin),
            ready_limit: ready_limit.clone(),
            table: ConnectionTable::new(config.timeouts, connections_max, self.descriptors.refusals_max),
            outputs: Rc::default(),
            access_log: self.access_log.clone(),
            audit_log: self.audit_log.clone(),
            timing: config.timing,
            metrics: RequestRecorder::new(self.cells.requests[index].clone()),
            metrics_page: MetricsPage::new(self.write_metrics.clone(), ready_limit, unpin),
            date: DateCache::default(),
            request_ids: RequestIds::new(format!("{}-{index}", self.instance)),
        }
    }

    fn packs(&self, index: usize, helpers: &RootHelpers) -> Packs {
        let log = |class| {
            PackLog::new(PackLogParts {
                root: self.roots.of(class).clone(),
                helpers: helpers.writing(class).clone(),
                driver: self.driver,
                instance: self.instance,
                core: u32::try_from(index).unwrap_or(u32::MAX),
                order: self.data_end.order().cloned(),
                open: self.open_packs.clone(),
                metrics: self.cells.cores[index].clone(),
            })
        };
        let config = &self.config;
        Packs {
            hot: log(StorageClass::Hot),
            cold: log(StorageClass::Cold),
            // Other servers of a shared database would not know what lies in the packs of this one.
            blob_bytes_max: if config.paths.database_url.is_shared() {
                0
            } else {
                config.pack_blob_bytes_max
            },
            with_changes: config.durability == Durability::Log,
        }
    }
}

/// Gives back the space of removed blobs that this core has open, tells of what was read, and shows that it is alive, until the core ends.
async fn look_around(core: usize, beats: CoreBeats, service: Weak<CoreService>) {
    loop {
        sleep(LOOK_AROUND_INTERVAL).await;
        let Some(service) = service.upgrade() else { return };
        service.store.close_removed();
        service.repository.tell_reads_when_due(service.clock.now());
        beats.beat(core);
    }
}

/// Removes uploads whose time is over, until the core ends. Now and then is enough: nobody can go on with them.
async fn remove_expired_uploads(
    kept_for: Duration,
    service: Weak<CoreService>,
    mut stopped: watch::Receiver<bool>,
) {
    let interval = (kept_for / 10).clamp(LOOK_AROUND_INTERVAL, UPLOAD_SWEEP_INTERVAL_MAX);
    // At once, too: what a crash has cut off half way is put right.
    loop {
        let Some(service) = service.upgrade() else { return };
        let removed = service.store.remove_expired_uploads(service.clock.now()).await;
        if removed > 0 {
            tracing::info!(removed, "removed uploads that had expired");
        }
        drop(service);
        if !rests(interval, &mut stopped).await {
            return;
        }
    }
}

/// Waits, and says whether to go on then: not if the server is told to stop meanwhile.
pub(super) async fn rests(duration: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // An error means that the other end is gone, which is the same as a stop.
    let stop = std::pin::pin!(async { drop(stopped.wait_for(|stopped| *stopped).await) });
    let wait = std::pin::pin!(sleep(duration));
    matches!(futures_util::future::select(wait, stop).await, Either::Left(_))
}
