//! Passes through what the rules of namespaces make due: a task of the first core, which does it as requests would and at
//! a pace that leaves them theirs.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cores::{CoreService, rests};
use crate::api::{AuditLog, RuleRecord};
use crate::application::lifecycle::DueObject;
use crate::application::use_cases::{DueOutcome, PassKeeper, PassReport, PassStep, apply_lifecycle};
use crate::domain::entities::DueAction;
use crate::infrastructure::metrics::CoreMetrics;

/// How long after its start a server waits with the first pass at most, so that a start has no more to do than it has.
const FIRST_PASS_DELAY: Duration = Duration::from_secs(60);
/// Between two looks for what is due: a look of the metadata plane takes some milliseconds.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How many objects a pass deletes in a second at most.
const DELETIONS_PER_SECOND_MAX: u32 = 500;
/// How many bytes it copies into the cold class in a second at most, in the long run.
const MOVED_BYTES_PER_SECOND_MAX: u64 = 50 * 1024 * 1024;

/// What makes a server's passes.
pub(super) struct Passes {
    pub(super) service: Weak<CoreService>,
    pub(super) metrics: Arc<CoreMetrics>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) interval: Duration,
}

/// One pass on its way.
struct Pass<'p> {
    audit_log: AuditLog,
    metrics: &'p CoreMetrics,
    stopped: &'p watch::Receiver<bool>,
}

impl Passes {
    /// Makes one after the other until the core ends. What one did not do, the next one does.
    pub(super) async fn run(self) {
        let mut stopped = self.stopped.clone();
        let mut wait = self.interval.min(FIRST_PASS_DELAY);
        while rests(wait, &mut stopped).await
            && let Some(service) = self.service.upgrade()
        {
            self.pass(&service).await;
            wait = self.interval;
        }
    }

    async fn pass(&self, service: &Rc<CoreService>) {
        let (audit_log, metrics) = (service.audit_log.clone(), &*self.metrics);
        let pass = Pass { audit_log, metrics, stopped: &self.stopped };
        let begun = Instant::now();
        match apply_lifecycle((&service.store, &service.repository, &service.clock), &pass).await {
            Ok(report) => {
                metrics.lifecycle_passes.add(u64::from(report.is_whole));
                metrics.lifecycle_rests.set(u64::from(report.rests));
                tell(&report, begun.elapsed());
            }
            Err(error) => {
                metrics.lifecycle_failed_passes.add(1);
                tracing::warn!(%error, "a pass through the rules of namespaces has ended early; the next one begins anew");
            }
        }
    }
}

fn tell(report: &PassReport, took: Duration) {
    let PassReport { deleted, moved, not_moved, is_whole, rests } = report;
    if *rests {
        return tracing::warn!(
            "the wall clock has leapt by more than a day, or the store was restored or rebuilt: until the clock has been \
             steady for a day, no rule of a namespace does anything; if it is right, `just_storage lifecycle trust-clock` says so"
        );
    }
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if *not_moved > 0 {
        tracing::warn!(
            objects = not_moved,
            "objects that nobody reads could not be moved; the next pass tries again"
        );
    }
    match deleted.objects + moved.objects {
        0 => tracing::debug!(is_whole, took_ms, "a pass through the rules of namespaces found nothing due"),
        _ => tracing::info!(
            deleted = deleted.objects,
            deleted_bytes = deleted.bytes,
            moved = moved.objects,
            moved_bytes = moved.bytes,
            is_whole,
            took_ms,
            "did what rules of namespaces made due"
        ),
    }
}

impl PassKeeper for Pass<'_> {
    async fn turn(&self, step: PassStep) -> bool {
        let pause = match step {
            PassStep::Look => LOOK_PAUSE,
            PassStep::Act => Duration::from_secs(1) / DELETIONS_PER_SECOND_MAX,
            PassStep::Copied(bytes) => {
                Duration::from_millis(bytes.saturating_mul(1000) / MOVED_BYTES_PER_SECOND_MAX)
            }
        };
        // A large object is a long pause; a stop does not wait for it.
        let goes_on = rests(pause, &mut self.stopped.clone()).await;
        let may_tell = !self.audit_log.is_on() || self.audit_log.takes_changes();
        if !may_tell {
            tracing::warn!("the audit log takes no lines: what rules of namespaces make due has to wait");
        }
        may_tell && goes_on
    }

    fn tell(&self, due: &DueObject, outcome: DueOutcome) {
        if outcome == DueOutcome::Passed {
            return;
        }
        let is_done = outcome == DueOutcome::Done;
        if is_done {
            let counter = match due.action {
                DueAction::DeleteForAge | DueAction::DeleteOldVersion => &self.metrics.lifecycle_deleted,
                DueAction::MoveToCold => &self.metrics.lifecycle_moved,
            };
            counter.add(1);
        }
        if self.audit_log.is_on() {
            self.audit_log.push_rule(RuleRecord::new(due.clone(), is_done));
        }
    }
}
