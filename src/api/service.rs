//! What the connections of one core share: ports, limits, and the small things that every answer needs.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::audit_log::AuditLog;
use super::authentication::Access;
use super::batches::Batches;
use super::connection_table::ConnectionTable;
use super::handlers::MetricsPage;
use super::http1::{DateCache, HeadLimits};
use super::inline_text::RequestId;
use super::output_pool::OutputPool;
use super::request_metrics::RequestRecorder;
use super::request_timing::TimingSettings;
use super::upload_turns::UploadTurns;
use crate::application::ports::Clock;
use crate::domain::value_objects::Timestamp;
use crate::infrastructure::data_plane::deadline_list::WaitLimit;

/// What a request may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Its head.
    pub head: HeadLimits,
    /// Its body, in bytes.
    pub body_bytes_max: u64,
    /// How many uploads of a tenant wait for more in each root.
    pub uploads_max: usize,
    /// For how long each of them does.
    pub uploads_kept_for: Duration,
}

/// One core's service over its ports.
pub struct Service<S, R, C> {
    /// The blobs.
    pub store: S,
    /// The metadata.
    pub repository: R,
    /// The wall clock.
    pub clock: C,
    /// Whom it lets in.
    pub access: Access,
    /// What requests may be.
    pub limits: Limits,
    /// Whose turn it is to be stored.
    pub upload_turns: UploadTurns,
    /// Its batches.
    pub batches: Batches,
    /// How long each check of readiness may take.
    pub ready_limit: WaitLimit,
    /// Its connections.
    pub table: Rc<ConnectionTable>,
    /// What their answers are put together in.
    pub outputs: Rc<OutputPool>,
    /// Where requests are told of.
    pub access_log: AccessLog,
    /// Where changes and refusals are told of.
    pub audit_log: AuditLog,
    /// What is told of how long they take.
    pub timing: TimingSettings,
    /// Where they are counted.
    pub metrics: RequestRecorder,
    /// Where that is told.
    pub metrics_page: MetricsPage,
    /// `Date`.
    pub date: DateCache,
    /// `X-Request-Id`.
    pub request_ids: RequestIds,
}

/// Makes ids for requests that bring none: the process instance and core, and a running number.
#[derive(Debug)]
pub struct RequestIds {
    prefix: String,
    next: Cell<u64>,
}

impl RequestIds {
    /// Ids that begin with `prefix`.
    pub fn new(prefix: String) -> Self {
        Self { prefix, next: Cell::new(1) }
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        RequestId::numbered(&self.prefix, self.next.replace(self.next.get() + 1))
    }
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        std::time::SystemTime::now().into()
    }
}
