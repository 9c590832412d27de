//! The composition root: the one place that names concrete types. Builds both planes, runs them, and takes them
//! down in order.
//!
//! ```text
//! start:  lock data directory ─► open roots ─► bind ─► metadata plane (migrate, claim roots, clear) ─► listen ─► cores
//! stop:   SIGTERM ─► cores stop accepting, drain ─► channel closes ─► metadata plane flushes ─► log ends
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::future::join;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::Socket;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::connection::{refuse, serve};
use crate::api::{Access, AccessLog, ConnectionTable, DateCache, RequestIds, Service, SystemClock};
use crate::application::credentials::CurrentVerifier;
use crate::config::{Authentication, Config, ConfigError, IoDriverChoice, LogLevel, buffer_bytes_of_core};
use crate::domain::value_objects::{InstanceId, StorageClass};
use crate::infrastructure::data_plane::buffers::BufferPool;
use crate::infrastructure::data_plane::core_shares::{CoreShare, CoreShares};
use crate::infrastructure::data_plane::deadline_list::{DeadlineList, WaitLimit};
use crate::infrastructure::data_plane::metadata_client::MetadataClient;
use crate::infrastructure::data_plane::object_cache::{ObjectCache, SHARED_AGE_MAX};
use crate::infrastructure::data_plane::runtime::{
    IoDriver, IoUringRefused, Listener, Stream, StreamInTransit, probe_io_uring, run, sleep, spawn,
};
use crate::infrastructure::data_plane::tls::TlsAcceptor;
use crate::infrastructure::data_plane::tls_configuration::{TlsConfiguration, TlsError};
use crate::infrastructure::machine::raise_descriptor_limit;
use crate::infrastructure::persistence::{MetadataPlane, StartError};
use crate::infrastructure::plane_channel::{DataEnd, Durability, plane_channel};
use crate::infrastructure::storage::{
    DataDirectoryLock, DatabaseLock, DatabaseRoom, FileStore, FileStoreParts, LockError, OpenPacks, PackLog,
    PackLogParts, Packs, PlaceSequence, RootError, RootHelpers, Roots,
};
use crate::logging;
use crate::maintenance::with_causes;
use crate::service_manager::{CoreBeats, ServiceManager};

/// Connections that the kernel holds until a core accepts them.
const BACKLOG: i32 = 4096;
/// Connections on their way to one core. More stay on the core that accepted them.
const ARRIVALS_MAX: usize = 1024;
/// How long `/health/ready` waits for those it asks: whoever asks it is not patient either.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How long the metadata plane may take to end after the cores.
const METADATA_END_LIMIT: Duration = Duration::from_secs(10);
/// How often a core looks whether blobs that it has open have been removed, and shows that it is alive.
const LOOK_AROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How long a core waits before it accepts again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server does not start, or did not end well.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The log cannot be started.
    #[error("cannot start the log")]
    Log(#[source] io::Error),
    /// The keys that tokens are verified with cannot be had any more.
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
    /// The address cannot be listened on.
    #[error("LISTEN_ADDR {address}: cannot listen")]
    Listen {
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
    raise_descriptor_limit();
    let tls = config.tls.clone().map(TlsConfiguration::load).transpose()?.map(Arc::new);
    let _data_directory = DataDirectoryLock::acquire(&config.paths.data_dir)?;
    let _database = config.paths.database_url.file().map(DatabaseLock::acquire).transpose()?;
    let driver = choose_driver(config.io_driver)?;
    let tokens = match &config.authentication {
        Authentication::Required { tokens: Some(settings) } => Some(CurrentVerifier::new(settings.load()?)),
        Authentication::Required { tokens: None } | Authentication::None => None,
    };
    let roots = Roots::open(&config.paths.hot_storage_root, &config.paths.cold_storage_root)?;
    let allowed_cpus = sched_getaffinity(None).unwrap_or_default();
    let cpus = usable_cpus(&allowed_cpus, config.cores);
    let (sockets, address) = bind(config.listen_addr, cpus.len())?;
    let node = config.node_name.clone().unwrap_or_else(|| format!("{}:{}", host_name(), address.port()));
    let instance = InstanceId::generate();
    let (data_end, metadata_end) = plane_channel(config.durability);
    let cache = Arc::new(ObjectCache::new(config.paths.database_url.is_shared().then_some(SHARED_AGE_MAX)));
    let open_packs = Arc::new(OpenPacks::default());
    let room = leave_room_for_database(config, &roots)?;
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
        on_outside_change: {
            let cache = cache.clone();
            Box::new(move || cache.clear())
        },
    };
    let metadata_thread = plane.start(metadata_end)?;
    DataDirectoryLock::make_durable(&config.paths.data_dir)?;

    let signals = Signals::catch(tls.clone())?;
    let listeners = listen(sockets, address)?;
    let (stop, stopped) = watch::channel(false);
    let (arrivals, arriving): (Vec<_>, Vec<_>) = cpus.iter().map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
    let beats = CoreBeats::new(cpus.len());
    let template = CoreTemplate {
        config: config.clone(),
        tokens,
        driver,
        tls: tls.clone(),
        roots,
        data_end,
        cache,
        places: Arc::new(PlaceSequence::new(instance)),
        open_packs,
        instance,
        access_log,
        stopped,
        core_count: cpus.len(),
        beats: beats.clone(),
        shares: CoreShares::new(cpus.len()),
        arrivals,
        allowed_cpus,
    };
    let cores: Vec<_> = cpus
        .into_iter()
        .zip(listeners.into_iter().zip(arriving))
        .enumerate()
        .map(|(index, (cpu, (listener, arriving)))| template.clone().start(index, cpu, listener, arriving))
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
    let alone = bind_one(address, PortSharing::Alone);
    drop(alone.map_err(|source| ServerError::Listen { address, source })?);
    for _ in 0..count {
        let bound = bind_one(address, PortSharing::WithOtherCores);
        let (socket, bound) = bound.map_err(|source| ServerError::Listen { address, source })?;
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

fn listen(sockets: Vec<Socket>, address: SocketAddr) -> Result<Vec<TcpListener>, ServerError> {
    let listen_on_one = |socket: Socket| {
        socket.listen(BACKLOG).map_err(|source| ServerError::Listen { address, source })?;
        Ok(socket.into())
    };
    sockets.into_iter().map(listen_on_one).collect()
}

/// What the process is told from outside. Each signal counts from here on, also before it is waited for.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    /// Without TLS there is nothing to read again, and the end of a terminal ends the server as ever.
    hang_up: Option<(Signal, Arc<TlsConfiguration>)>,
}

impl Signals {
    fn catch(tls: Option<Arc<TlsConfiguration>>) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServerError::Threads)?;
        let entered = runtime.enter();
        let catch = |kind| signal(kind).map_err(ServerError::Threads);
        let terminate = catch(SignalKind::terminate())?;
        let interrupt = catch(SignalKind::interrupt())?;
        let hang_up = match tls {
            Some(tls) => Some((catch(SignalKind::hangup())?, tls)),
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

    /// Reads the certificate again on SIGHUP. SIGTERM or SIGINT is `true`; a core that ends by itself is `false`.
    fn wait_for_end(self, cores: &[JoinHandle<io::Result<()>>], manager: &mut ServiceManager) -> bool {
        const LOOK: Duration = Duration::from_millis(500);
        let Self { runtime, mut terminate, mut interrupt, mut hang_up } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return true,
                    _ = interrupt.recv() => return true,
                    tls = hung_up(&mut hang_up) => {
                        manager.reloading();
                        reload(tls);
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

async fn hung_up(hang_up: &mut Option<(Signal, Arc<TlsConfiguration>)>) -> &TlsConfiguration {
    match hang_up {
        Some((signal, tls)) => {
            signal.recv().await;
            tls
        }
        None => std::future::pending().await,
    }
}

fn reload(tls: &TlsConfiguration) {
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
    driver: IoDriver,
    tls: Option<Arc<TlsConfiguration>>,
    roots: Roots,
    data_end: DataEnd,
    cache: Arc<ObjectCache>,
    places: Arc<PlaceSequence>,
    open_packs: Arc<OpenPacks>,
    instance: InstanceId,
    access_log: AccessLog,
    stopped: watch::Receiver<bool>,
    core_count: usize,
    beats: CoreBeats,
    shares: CoreShares,
    /// Where each core takes the connections that others have accepted for it.
    arrivals: Vec<mpsc::Sender<Arrival>>,
    /// What the process was started with, and helper threads go back to.
    allowed_cpus: CpuSet,
}

/// A connection for another core than the one that accepted it, and its place there.
type Arrival = (StreamInTransit, CoreShare);

type CoreService = Service<FileStore, MetadataClient, SystemClock>;

impl CoreTemplate {
    fn start(
        self,
        index: usize,
        cpu: usize,
        listener: TcpListener,
        arriving: mpsc::Receiver<Arrival>,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            let mut own = CpuSet::new();
            own.set(cpu);
            if let Err(error) = sched_setaffinity(None, &own) {
                tracing::warn!(%error, cpu, "the core could not be pinned");
            }
            run(self.driver, self.serve(index, listener, arriving))?
        })
    }

    async fn serve(
        self,
        index: usize,
        listener: TcpListener,
        mut arriving: mpsc::Receiver<Arrival>,
    ) -> io::Result<()> {
        let listener = Listener::from_std(listener, self.driver)?;
        let deadlines = DeadlineList::new();
        let service = Rc::new(self.service(index, &deadlines));
        service.store.prepare();
        let table = service.table.clone();
        drop(spawn({
            let table = table.clone();
            async move { table.sweep_forever().await }
        }));
        drop(spawn(async move { deadlines.sweep_forever().await }));
        drop(spawn(look_around(index, self.beats, Rc::downgrade(&service))));
        let mut stopped = self.stopped.clone();
        let tls = self.tls.map(TlsAcceptor::new);
        let door = Door { index, service, tls, shares: self.shares, arrivals: self.arrivals };
        futures_util::future::select(
            std::pin::pin!(join(door.accept(listener), door.take_arrivals(&mut arriving))),
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
        table.drain(self.config.drain_timeout).await;
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
        let log = packs.with_changes.then(|| packs.clone());
        let parts = FileStoreParts {
            roots: self.roots.clone(),
            buffers: BufferPool::new(buffer_bytes_of_core(config.buffer_bytes_max, self.core_count)),
            helpers,
            driver: self.driver,
            places: self.places.clone(),
            packs,
        };
        let connections_max = config.connections_max.div_ceil(self.core_count);
        Service {
            store: FileStore::new(parts),
            repository: MetadataClient::new(
                self.data_end.clone(),
                self.cache.clone(),
                limit(config.metadata_timeout),
                log,
            ),
            clock: SystemClock,
            access: match config.authentication {
                Authentication::None => Access::open(),
                Authentication::Required { .. } => Access::with_credentials(self.tokens.clone()),
            },
            limits: config.limits,
            ready_limit: limit(READY_LIMIT.min(config.storage_timeout).min(config.metadata_timeout)),
            table: ConnectionTable::new(config.timeouts, connections_max),
            access_log: self.access_log.clone(),
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

/// Gives back the space of removed blobs that this core has open, and shows that it is alive, until the core ends.
async fn look_around(core: usize, beats: CoreBeats, service: Weak<CoreService>) {
    loop {
        sleep(LOOK_AROUND_INTERVAL).await;
        let Some(service) = service.upgrade() else { return };
        service.store.close_removed();
        beats.beat(core);
    }
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
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.place(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
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
            Err(error) => tracing::warn!(%error, "cannot hand over a connection"),
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
                if let Some(place) = service.table.refusal_place() {
                    drop(spawn(refuse(service, stream, place)));
                }
            }
        }
    }
}
