//! The composition root: the one place that names concrete types. Builds both planes, runs them, and takes them
//! down in order.
//!
//! ```text
//! start:  lock data directory ─► open roots ─► bind ─► metadata plane (migrate, claim roots, clear) ─► listen ─► cores
//! stop:   SIGTERM ─► cores stop accepting, drain ─► channel closes ─► metadata plane flushes ─► log ends
//! ```

mod cores;
mod door;
mod lifecycle;
mod listening;
mod metrics;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::api::{AccessLog, AuditLog, SystemClock};
use crate::application::credentials::{CurrentVerifier, RequestRates};
use crate::auditing::{self, AuditStartError};
use crate::config::{Authentication, Config, ConfigError, IoDriverChoice, LogLevel};
use crate::domain::value_objects::InstanceId;
use crate::infrastructure::data_plane::core_shares::CoreShares;
use crate::infrastructure::data_plane::descriptors::{self, DescriptorShares};
use crate::infrastructure::data_plane::object_cache::{ObjectCache, SHARED_AGE_MAX};
use crate::infrastructure::data_plane::runtime::{IoDriver, IoUringRefused, probe_io_uring};
use crate::infrastructure::data_plane::tls_configuration::{TlsConfiguration, TlsError};
use crate::infrastructure::persistence::{MetadataPlane, StartError};
use crate::infrastructure::plane_channel::{Durability, plane_channel};
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{
    DataDirectoryLock, DatabaseLock, DatabaseRoom, LockError, OpenPacks, PlaceSequence, RootError, Roots,
};
use crate::logging;
use crate::service_manager::{CoreBeats, ServiceManager};

use cores::{CoreTemplate, Doors};
use listening::{bind, bind_for_metrics, listen, listen_on};
use metrics::Cells;
use signals::{Renewable, Signals};

/// Connections on their way to one core. More stay on the core that accepted them.
const ARRIVALS_MAX: usize = 1024;
/// How long the metadata plane may take to end after the cores.
const METADATA_END_LIMIT: Duration = Duration::from_secs(10);

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

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
