//! The composition root: the one place that names concrete types. Builds both planes, runs them, and takes them
//! down in order.
//!
//! ```text
//! start:  lock data directory ─► open roots ─► bind ─► metadata plane (migrate, claim roots, clear) ─► listen ─► cores
//! stop:   SIGTERM ─► cores stop accepting, drain ─► channel closes ─► metadata plane flushes ─► log ends
//! ```

mod lifecycle;
mod metrics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::future::{Either, OptionFuture, join, join3};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::Socket;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::connection::{refuse, serve};
use crate::api::{
    Access, AccessLog, AuditLog, Batches, ConnectionTable, DateCache, MetricsPage, RequestIds,
    RequestRecorder, Service, SystemClock, UploadTurns, WriteMetrics,
};
use crate::application::credentials::{CurrentVerifier, RequestRates, UrlSigningKeys};
use crate::application::ports::Clock as _;
use crate::auditing::{self, AuditStartError};
use crate::config::{
    Authentication, Config, ConfigError, IoDriverChoice, LogLevel, TokenSettings, buffer_bytes_of_core,
};
use crate::domain::value_objects::{InstanceId, StorageClass};
use crate::infrastructure::data_plane::buffers::BufferPool;
use crate::infrastructure::data_plane::core_shares::{CoreShare, CoreShares};
use crate::infrastructure::data_plane::deadline_list::{DeadlineList, WaitLimit};
use crate::infrastructure::data_plane::descriptors::{self, DescriptorShares};
use crate::infrastructure::data_plane::metadata_client::MetadataClient;
use crate::infrastructure::data_plane::object_cache::{ObjectCache, SHARED_AGE_MAX};
use crate::infrastructure::data_plane::runtime::{
    IoDriver, IoUringRefused, Listener, Stream, StreamInTransit, probe_io_uring, run, sleep, spawn,
};
use crate::infrastructure::data_plane::tls::TlsAcceptor;
use crate::infrastructure::data_plane::tls_configuration::{TlsConfiguration, TlsError};
use crate::infrastructure::persistence::{MetadataPlane, StartError};
use crate::infrastructure::plane_channel::{DataEnd, Durability, plane_channel};
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{
    DataDirectoryLock, DatabaseLock, DatabaseRoom, FileStore, FileStoreParts, Hashing, LockError, OpenPacks,
    PackLog, PackLogParts, Packs, PlaceSequence, RootError, RootHelpers, Roots,
};
use crate::logging;
use crate::maintenance::with_causes;
use crate::service_manager::{CoreBeats, ServiceManager};

use lifecycle::Passes;
use metrics::{Cells, MetricsDoor};

/// Connections that the kernel holds until a core accepts them.
const BACKLOG: i32 = 4096;
/// What the kernel takes for a connection ahead of what it can send. More of it makes no download faster, and is what
/// a crowd that reads nothing would fill the machine's memory with (`TCP_NOTSENT_LOWAT` of tcp(7)).
const NOT_SENT_BYTES_MAX: u32 = 128 * 1024;
/// Connections on their way to one core. More stay on the core that accepted them.
const ARRIVALS_MAX: usize = 1024;
/// How long `/health/ready` waits for those it asks: whoever asks it is not patient either.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How long the metadata plane may take to end after the cores.
const METADATA_END_LIMIT: Duration = Duration::from_secs(10);
/// How often a core looks whether blobs that it has open have been removed, and shows that it is alive.
const LOOK_AROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How often uploads that have expired are looked for, if they wait for long.
const UPLOAD_SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(600);
/// How long a core waits before it accepts again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server does not start, or did not end well.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The log cannot be started.
    #[error("cannot start the log")]
    Log(#[source] io::Error),
    /// The audit log cannot be started.
    #[error(transparent)]
    Audit(#[from] AuditStartError),
    /// The keys that tokens are verified with, or URLs signed with, cannot be had any more.
    #[error(transparent)]
    Keys(#[from] ConfigError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory or the database cannot be had, or another server has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A storage root cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The metadata plane does not start.
    #[error(transparent)]
    Metadata(#[from] StartError),
    /// io_uring was asked for and is refused.
    #[error("IO_DRIVER=io-uring: {0}")]
    IoUring(#[from] IoUringRefused),
    /// An address cannot be listened on.
    #[error("{setting} {address}: cannot listen")]
    Listen {
        /// Which setting names it.
        setting: &'static str,
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread cannot be made, or signals cannot be waited for.
    #[error("cannot start the server's threads")]
    Threads(#[source] io::Error),
    /// A core ended by itself.
    #[error("a core has failed")]
    CoreFailed,
    /// The metadata plane did not end when the cores had.
    #[error("the metadata plane does not end: the database, or a request that waits for a disk, hangs")]
    MetadataHangs,
}

/// Serves until SIGTERM or SIGINT, and then ends in order.
///
/// # Errors
/// [`ServerError`].
pub fn serve_until_signalled(config: Config) -> Result<(), ServerError> {
    let (access_log, access_reader) = AccessLog::new();
    let log = logging::start(config.log_format, config.log_level, access_reader).map_err(ServerError::Log)?;
    let access_log = if config.log_level >= LogLevel::Info { access_log } else { AccessLog::off() };
    let result = serve_with_log(&config, access_log);
    log.finish();
    result
}

fn serve_with_log(config: &Config, access_log: AccessLog) -> Result<(), ServerError> {
    let (audit_log, audit_thread) = auditing::start(config.audit_log_file.as_deref())?;
    let result = serve_with_logs(config, access_log, audit_log);
    if let Some(audit_thread) = audit_thread {
        audit_thread.finish();
    }
    result
}

fn serve_with_logs(config: &Config, access_log: AccessLog, audit_log: AuditLog) -> Result<(), ServerError> {
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let tls = config.tls.clone().map(TlsConfiguration::load).transpose()?.map(Arc::new);
    let _data_directory = DataDirectoryLock::acquire(&config.paths.data_dir)?;
    let _database = config.paths.database_url.file().map(DatabaseLock::acquire).transpose()?;
    let driver = choose_driver(config.io_driver)?;
    let tokens = match &config.authentication {
        Authentication::Required { tokens: Some(settings) } => {
            Some((settings, CurrentVerifier::new(settings.load()?)))
        }
        Authentication::Required { tokens: None } | Authentication::None => None,
    };
    let url_signing = config.url_signing.as_ref().map(|settings| settings.load()).transpose()?.map(Arc::new);
    let roots = Roots::open(&config.paths.hot_storage_root, &config.paths.cold_storage_root)?;
    let allowed_cpus = sched_getaffinity(None).unwrap_or_default();
    let cpus = usable_cpus(&allowed_cpus, config.cores);
    let (sockets, address) = bind(config.listen_addr, cpus.len())?;
    let metrics_socket = config.metrics_addr.map(bind_for_metrics).transpose()?;
    let node = config.node_name.clone().unwrap_or_else(|| format!("{}:{}", host_name(), address.port()));
    let instance = InstanceId::generate();
    let (data_end, metadata_end) = plane_channel(config.durability);
    let cache = Arc::new(ObjectCache::new(config.paths.database_url.is_shared().then_some(SHARED_AGE_MAX)));
    let index = index_of_records(config);
    let open_packs = Arc::new(OpenPacks::default());
    let room = leave_room_for_database(config, &roots)?;
    let cells = Cells::for_cores(cpus.len());
    let write_metrics = cells.write((data_end.queues(), cache.clone(), roots.clone()), (config, driver));
    let plane = MetadataPlane {
        url: config.paths.database_url.clone(),
        settings: config.database,
        roots: roots.clone(),
        instance,
        node: node.clone(),
        open_packs: open_packs.clone(),
        room,
        clock: SystemClock,
        gc: config.gc,
        scrub: config.scrub,
        on_outside_change: {
            let (cache, index) = (cache.clone(), index.clone());
            Box::new(move || {
                cache.clear();
                index.iter().for_each(|index| index.clear());
            })
        },
        index: index.clone(),
        metrics: cells.plane.clone(),
    };
    let metadata_thread = plane.start(metadata_end)?;
    DataDirectoryLock::make_durable(&config.paths.data_dir)?;

    let descriptors = share_descriptors(config, cpus.len());
    let renewable = Renewable::new(tls.clone(), tokens.as_ref());
    let signals = Signals::catch(renewable)?;
    let listeners = listen(sockets, address)?;
    let mut metrics_listener = match metrics_socket {
        Some((socket, address)) => {
            let listener = listen_on("METRICS_ADDR", socket, address)?;
            tracing::info!(%address, "metrics are at http://{address}/metrics");
            Some(listener)
        }
        None => None,
    };
    let (stop, stopped) = watch::channel(false);
    let (arrivals, arriving): (Vec<_>, Vec<_>) = cpus.iter().map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
    let beats = CoreBeats::new(cpus.len());
    let template = CoreTemplate {
        config: config.clone(),
        tokens: tokens.map(|(_, verifier)| verifier),
        rates: config.request_rate.map(RequestRates::new).map(Arc::new),
        url_signing,
        driver,
        tls: tls.clone(),
        roots,
        data_end,
        cache,
        index,
        places: Arc::new(PlaceSequence::new(instance)),
        open_packs,
        instance,
        access_log,
        audit_log,
        stopped,
        core_count: cpus.len(),
        descriptors,
        beats: beats.clone(),
        shares: CoreShares::new(cpus.len()),
        arrivals,
        allowed_cpus,
        cells,
        write_metrics,
    };
    let cores: Vec<_> = cpus
        .into_iter()
        .zip(listeners.into_iter().zip(arriving))
        .enumerate()
        .map(|(index, (cpu, (listener, arriving)))| {
            // The first core tells of all of them.
            let doors = Doors { listener, arriving, metrics: metrics_listener.take() };
            template.clone().start(index, cpu, doors)
        })
        .collect::<io::Result<_>>()
        .map_err(ServerError::Threads)?;
    drop(template);
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(%address, node, cores = cores.len(), "listening on {scheme}://{address}");
    let mut manager = ServiceManager::new(beats);
    manager.ready("serving");

    let ended_well = signals.wait_for_end(&cores, &mut manager);
    manager.stopping();
    tracing::info!("stopping: no new connections, running requests may finish");
    let _ = stop.send(true);
    // Every core is waited for, also behind one that has failed.
    let failed_cores =
        cores.into_iter().map(JoinHandle::join).filter(|end| !matches!(end, Ok(Ok(())))).count();
    // The last core's sender is gone: the plane finishes its queue, flushes, and ends.
    let metadata_end = join_within(metadata_thread, METADATA_END_LIMIT);
    tracing::info!("stopped");
    match metadata_end {
        None => Err(ServerError::MetadataHangs),
        Some(true) if ended_well && failed_cores == 0 => Ok(()),
        Some(_) => Err(ServerError::CoreFailed),
    }
}

/// Divides what this process may open, once it has opened what it needs itself.
fn share_descriptors(config: &Config, cores: usize) -> DescriptorShares {
    let shares = DescriptorShares::of_process(cores);
    let (wanted, possible) = (config.connections_max, shares.connections_max);
    if possible < wanted {
        // Nothing is wrong: where the default is not possible, nobody has asked for it.
        tracing::info!(
            connections_max = wanted,
            possible,
            "the limit of open files is too low for so many connections; fewer are taken"
        );
    }
    DescriptorShares { connections_max: wanted.min(possible), ..shares }
}

/// Where commits are found without the database. Where it cannot be made, everything is asked of that.
fn index_of_records(config: &Config) -> Option<Arc<RecordIndex>> {
    // Without a log there are no commits in packs.
    if config.durability != Durability::Log {
        return None;
    }
    RecordIndex::in_directory(&config.paths.data_dir)
        .inspect_err(
            |error| tracing::warn!(%error, "there is no index of ids: each GET by an id asks the database"),
        )
        .ok()
}

/// Lets uploads leave room to an embedded database that shares a file system with a root.
fn leave_room_for_database(config: &Config, roots: &Roots) -> Result<Option<DatabaseRoom>, LockError> {
    let Some(directory) = config.paths.database_url.directory() else { return Ok(None) };
    let room = DatabaseRoom::of(directory).and_then(|room| {
        roots.leave_room_for(&room)?;
        Ok(Some(room))
    });
    room.map_err(|source| {
        let path = config.paths.data_dir.clone();
        LockError::Directory { path, operation: "see what it shares with the roots", source }
    })
}

/// Whether the thread ended well, or `None` if it has not ended: on a disk that hangs it may never do so. Nobody waits
/// for what it still has to do.
fn join_within(thread: JoinHandle<()>, limit: Duration) -> Option<bool> {
    const LOOK: Duration = Duration::from_millis(10);
    let started = Instant::now();
    while !thread.is_finished() && started.elapsed() < limit {
        thread::sleep(LOOK);
    }
    thread.is_finished().then(|| thread.join().is_ok())
}

fn choose_driver(choice: IoDriverChoice) -> Result<IoDriver, IoUringRefused> {
    match (choice, probe_io_uring()) {
        (IoDriverChoice::Epoll, _) => Ok(IoDriver::Epoll),
        (_, Ok(())) => Ok(IoDriver::IoUring),
        (IoDriverChoice::IoUring, Err(refused)) => Err(refused),
        (IoDriverChoice::Auto, Err(refused)) => {
            tracing::warn!("{refused}; serving through epoll instead, which is slower");
            Ok(IoDriver::Epoll)
        }
    }
}

/// The first `wanted` of the processors that this process may use.
fn usable_cpus(allowed: &CpuSet, wanted: Option<u16>) -> Vec<usize> {
    let mut cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if cpus.is_empty() {
        cpus.push(0);
    }
    // More cores than there are share processors: slower, and still correct.
    let wanted = wanted.map_or(cpus.len(), usize::from);
    cpus.iter().copied().cycle().take(wanted).collect()
}

/// One socket for each core on the same address: the kernel spreads connections over them, once they listen. Bound
/// before the metadata plane starts, since the port is part of the server's name; until then, clients are refused.
fn bind(address: SocketAddr, count: usize) -> Result<(Vec<Socket>, SocketAddr), ServerError> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    // A socket that shares its port may join any other that does, also those of a server of other data. One that
    // shares it with nobody shows first that the port is free.
    let setting = "LISTEN_ADDR";
    let alone = bind_one(address, PortSharing::Alone);
    drop(alone.map_err(|source| ServerError::Listen { setting, address, source })?);
    for _ in 0..count {
        let bound = bind_one(address, PortSharing::WithOtherCores);
        let (socket, bound) = bound.map_err(|source| ServerError::Listen { setting, address, source })?;
        // With port 0 the first one is given a port, which the others share.
        address = bound;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

/// Whether other sockets of this user may be bound to the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortSharing {
    Alone,
    WithOtherCores,
}

fn bind_one(address: SocketAddr, sharing: PortSharing) -> io::Result<(Socket, SocketAddr)> {
    let domain = socket2::Domain::for_address(address);
    let socket = Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == PortSharing::WithOtherCores)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

/// One socket that no other may share the port of.
fn bind_for_metrics(address: SocketAddr) -> Result<(Socket, SocketAddr), ServerError> {
    let bound = bind_one(address, PortSharing::Alone);
    bound.map_err(|source| ServerError::Listen { setting: "METRICS_ADDR", address, source })
}

fn listen(sockets: Vec<Socket>, address: SocketAddr) -> Result<Vec<TcpListener>, ServerError> {
    sockets.into_iter().map(|socket| listen_on("LISTEN_ADDR", socket, address)).collect()
}

fn listen_on(setting: &'static str, socket: Socket, address: SocketAddr) -> Result<TcpListener, ServerError> {
    // The connections inherit it. A kernel that does not know it only holds more for each of them.
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX);
    socket.listen(BACKLOG).map_err(|source| ServerError::Listen { setting, address, source })?;
    Ok(socket.into())
}

/// What the process is told from outside. Each signal counts from here on, also before it is waited for.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    /// Where there is nothing to read again, the end of a terminal ends the server as ever.
    hang_up: Option<(Signal, Renewable)>,
}

impl Signals {
    fn catch(renewable: Option<Renewable>) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServerError::Threads)?;
        let entered = runtime.enter();
        let catch = |kind| signal(kind).map_err(ServerError::Threads);
        let terminate = catch(SignalKind::terminate())?;
        let interrupt = catch(SignalKind::interrupt())?;
        let hang_up = match renewable {
            Some(renewable) => Some((catch(SignalKind::hangup())?, renewable)),
            None => {
                // A service manager's reload must not end it: there is no terminal, and a signal that has been caught
                // once stays caught.
                if ServiceManager::is_there() {
                    drop(catch(SignalKind::hangup())?);
                }
                None
            }
        };
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hang_up })
    }

    /// Reads files again on SIGHUP. SIGTERM or SIGINT is `true`; a core that ends by itself is `false`.
    fn wait_for_end(self, cores: &[JoinHandle<io::Result<()>>], manager: &mut ServiceManager) -> bool {
        const LOOK: Duration = Duration::from_millis(500);
        let Self { runtime, mut terminate, mut interrupt, mut hang_up } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return true,
                    _ = interrupt.recv() => return true,
                    renewable = hung_up(&mut hang_up) => {
                        manager.reloading();
                        renewable.renew();
                        manager.ready("serving");
                    }
                    () = tokio::time::sleep(LOOK) => {
                        if cores.iter().any(JoinHandle::is_finished) {
                            return false;
                        }
                        manager.note_life();
                    }
                }
            }
        })
    }
}

async fn hung_up(hang_up: &mut Option<(Signal, Renewable)>) -> &Renewable {
    match hang_up {
        Some((signal, renewable)) => {
            signal.recv().await;
            renewable
        }
        None => std::future::pending().await,
    }
}

/// What came from files and can be read from them again, while the server runs. What cannot be used there changes
/// nothing.
struct Renewable {
    certificate: Option<Arc<TlsConfiguration>>,
    token_keys: Option<(TokenSettings, CurrentVerifier)>,
}

impl Renewable {
    /// `None` where nothing came from a file.
    fn new(
        certificate: Option<Arc<TlsConfiguration>>,
        tokens: Option<&(&TokenSettings, CurrentVerifier)>,
    ) -> Option<Self> {
        let in_file = tokens.filter(|(settings, _)| settings.source().1.is_some());
        let token_keys = in_file.map(|(settings, verifier)| ((*settings).clone(), verifier.clone()));
        (certificate.is_some() || token_keys.is_some()).then_some(Self { certificate, token_keys })
    }

    fn renew(&self) {
        if let Some(tls) = &self.certificate {
            renew_certificate(tls);
        }
        if let Some((settings, current)) = &self.token_keys {
            renew_token_keys(settings, current);
        }
    }
}

fn renew_token_keys(settings: &TokenSettings, current: &CurrentVerifier) {
    match settings.load() {
        Ok(verifier) => {
            let (keys, (setting, _)) = (verifier.keys().count(), settings.source());
            current.replace(verifier);
            tracing::info!(keys, setting, "tokens are verified with the keys as they are now");
        }
        // It names the setting, and its cause too.
        Err(error) => tracing::error!(
            %error,
            "the keys of tokens cannot be read again; tokens are verified with the old ones"
        ),
    }
}

fn renew_certificate(tls: &TlsConfiguration) {
    let certificate = tls.files().certificate.display();
    match tls.reload() {
        Ok(()) => tracing::info!(%certificate, "new connections are shown the certificate as it is now"),
        Err(error) => {
            let error = with_causes(&error);
            tracing::error!(
                error,
                "the certificate cannot be read again; new connections are shown the old one"
            );
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What every core is made from.
#[derive(Clone)]
struct CoreTemplate {
    config: Config,
    /// What tokens are verified with, on all cores.
    tokens: Option<CurrentVerifier>,
    /// What all of them hold credentials to.
    rates: Option<Arc<RequestRates>>,
    /// What URLs are signed with, on all cores.
    url_signing: Option<Arc<UrlSigningKeys>>,
    driver: IoDriver,
    tls: Option<Arc<TlsConfiguration>>,
    roots: Roots,
    data_end: DataEnd,
    cache: Arc<ObjectCache>,
    index: Option<Arc<RecordIndex>>,
    places: Arc<PlaceSequence>,
    open_packs: Arc<OpenPacks>,
    instance: InstanceId,
    access_log: AccessLog,
    audit_log: AuditLog,
    stopped: watch::Receiver<bool>,
    core_count: usize,
    descriptors: DescriptorShares,
    beats: CoreBeats,
    shares: CoreShares,
    /// Where each core takes the connections that others have accepted for it.
    arrivals: Vec<mpsc::Sender<Arrival>>,
    /// What the process was started with, and helper threads go back to.
    allowed_cpus: CpuSet,
    cells: Cells,
    write_metrics: WriteMetrics,
}

/// Where connections come to a core.
struct Doors {
    listener: TcpListener,
    arriving: mpsc::Receiver<Arrival>,
    /// Where they may ask for metrics alone.
    metrics: Option<TcpListener>,
}

/// A connection for another core than the one that accepted it, and its place there.
type Arrival = (StreamInTransit, CoreShare);

type CoreService = Service<FileStore, MetadataClient, SystemClock>;

impl CoreTemplate {
    fn start(self, index: usize, cpu: usize, doors: Doors) -> io::Result<JoinHandle<io::Result<()>>> {
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
}

impl CoreTemplate {
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
async fn rests(duration: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // An error means that the other end is gone, which is the same as a stop.
    let stop = std::pin::pin!(async { drop(stopped.wait_for(|stopped| *stopped).await) });
    let wait = std::pin::pin!(sleep(duration));
    matches!(futures_util::future::select(wait, stop).await, Either::Left(_))
}

/// Where connections come into a core.
struct Door {
    index: usize,
    service: Rc<CoreService>,
    tls: Option<TlsAcceptor>,
    shares: CoreShares,
    arrivals: Vec<mpsc::Sender<Arrival>>,
}

impl Door {
    /// Accepts connections, for whichever core has the fewest.
    async fn accept(&self, listener: Listener) {
        let mut failed_before = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failed_before = false;
                    self.place(stream);
                }
                Err(error) => {
                    // Told once, and not at every try, until there is a descriptor again.
                    if !std::mem::replace(&mut failed_before, true) {
                        tracing::warn!(%error, "cannot accept a connection; trying on");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes the connections that other cores have accepted for this one.
    async fn take_arrivals(&self, arriving: &mut mpsc::Receiver<Arrival>) {
        while let Some(arrival) = arriving.recv().await {
            self.arrive(arrival);
        }
    }

    fn place(&self, stream: Stream) {
        let share = self.shares.claim(self.index);
        if share.core() == self.index {
            return self.admit(stream, share);
        }
        // The core is going down, or has very many to take: it stays here.
        let Ok(permit) = self.arrivals[share.core()].try_reserve() else {
            return self.admit(stream, share);
        };
        match stream.depart() {
            Ok(stream) => permit.send((stream, share)),
            // It takes a second descriptor to hand one over, and there is none: it stays here too.
            Err(stream) => self.admit(*stream, share),
        }
    }

    fn arrive(&self, (stream, share): Arrival) {
        match stream.arrive() {
            Ok(stream) => self.admit(stream, share),
            Err(error) => tracing::warn!(%error, "cannot take over a connection"),
        }
    }

    fn admit(&self, mut stream: Stream, share: CoreShare) {
        // Without it answers are only later, not wrong.
        let _ = stream.set_nodelay();
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.accept(&mut stream)) {
            return tracing::warn!(%error, "cannot begin a TLS handshake");
        }
        let service = self.service.clone();
        match service.table.register(stream.shut_down_handle()) {
            Some(registration) => drop(spawn(async move {
                serve(service, stream, registration).await;
                drop(share);
            })),
            None => {
                service.metrics.refuse_connection();
                if let Some(place) = service.table.refusal_place() {
                    drop(spawn(refuse(service, stream, place)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each connection holds from its beginning to its end, besides what it receives into.
    const CONNECTION_BYTES_MAX: usize = 5 * 1024;

    #[test]
    fn a_connection_holds_the_state_of_a_download_and_of_nothing_larger() {
        fn size_of_output<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_output(serve::<FileStore, MetadataClient, SystemClock>);
        assert!(bytes <= CONNECTION_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn the_kernel_holds_little_for_a_connection_that_takes_nothing() {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (socket, address) = bind_one(any_port, PortSharing::Alone).unwrap();
        let listener = listen_on("LISTEN_ADDR", socket, address).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), NOT_SENT_BYTES_MAX);
    }
}
