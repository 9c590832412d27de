//! What is counted where, how it is told, and the listener that tells nothing else.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::cores::CoreService;
use super::door::ACCEPT_PAUSE;
use crate::api::connection::serve_metrics;
use crate::api::{ConnectionTable, RequestLabels, RequestMetrics, Timeouts, WriteMetrics, write_requests};
use crate::config::Config;
use crate::infrastructure::data_plane::object_cache::ObjectCache;
use crate::infrastructure::data_plane::runtime::{IoDriver, Listener, sleep, spawn};
use crate::infrastructure::metrics::{CoreMetrics, Kind, PlaneMetrics, StoreMetrics, write_process};
use crate::infrastructure::plane_channel::{Durability, Queues};
use crate::infrastructure::storage::Roots;

/// How many connections the listener for metrics has at most. One too many is closed without a word.
const METRICS_CONNECTIONS_MAX: usize = 64;
/// Connections too many there that are told so at once.
const METRICS_REFUSALS_MAX: usize = 8;

/// The cells of all planes.
#[derive(Clone)]
pub(super) struct Cells {
    pub(super) requests: Vec<Arc<RequestMetrics>>,
    pub(super) cores: Vec<Arc<CoreMetrics>>,
    pub(super) plane: Arc<PlaneMetrics>,
}

impl Cells {
    pub(super) fn for_cores(count: usize) -> Self {
        let labels = Arc::<RequestLabels>::default();
        let requests = || Arc::new(RequestMetrics::new(labels.clone()));
        Self {
            requests: std::iter::repeat_with(requests).take(count).collect(),
            cores: std::iter::repeat_with(Arc::default).take(count).collect(),
            plane: Arc::default(),
        }
    }

    pub(super) fn write(
        &self,
        (queues, cache, roots): (Queues, Arc<ObjectCache>, Roots),
        (config, driver): (&Config, IoDriver),
    ) -> WriteMetrics {
        let (requests, started, build) = (self.requests.clone(), SystemTime::now(), build(config, driver));
        let (cores, plane) = (self.cores.clone(), self.plane.clone());
        let store = StoreMetrics { cores, plane, queues, cache, roots };
        Arc::new(move |text, names| {
            write_requests(&requests, text, names);
            store.write_to(text, names);
            let help = "What this server is.";
            text.family("activestorage_build_info", Kind::Gauge, help).value(&build, 1);
            write_process(text, started);
        })
    }
}

fn build(config: &Config, driver: IoDriver) -> [(&'static str, &'static str); 4] {
    let database = if config.paths.database_url.is_shared() { "postgresql" } else { "sqlite" };
    let ack = match config.durability {
        Durability::Log => "log",
        Durability::Transaction => "database",
    };
    let driver = match driver {
        IoDriver::IoUring => "io_uring",
        IoDriver::Epoll => "epoll",
    };
    [("version", env!("CARGO_PKG_VERSION")), ("database", database), ("ack", ack), ("io_driver", driver)]
}

/// Where connections come in that may ask for metrics alone. They have places of their own, so that a server with as many
/// connections as it takes still tells of it.
pub(super) struct MetricsDoor {
    listener: Listener,
    table: Rc<ConnectionTable>,
    service: Rc<CoreService>,
}

impl MetricsDoor {
    pub(super) fn open(
        listener: TcpListener,
        driver: IoDriver,
        timeouts: Timeouts,
        service: Rc<CoreService>,
    ) -> io::Result<Self> {
        let table = ConnectionTable::new(timeouts, METRICS_CONNECTIONS_MAX, METRICS_REFUSALS_MAX);
        drop(spawn({
            let table = table.clone();
            async move { table.sweep_forever().await }
        }));
        Ok(Self { listener: Listener::from_std(listener, driver)?, table, service })
    }

    pub(super) async fn accept(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Without it answers are only later, not wrong.
                    let _ = stream.set_nodelay();
                    if let Some(registration) = self.table.register(stream.shut_down_handle()) {
                        drop(spawn(serve_metrics(self.service.clone(), stream, registration)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    pub(super) async fn drain(self, limit: Duration) {
        let Self { listener, table, service } = self;
        drop((listener, service));
        table.drain(limit).await;
    }
}
