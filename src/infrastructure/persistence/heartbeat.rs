//! What a server says and asks once a second. It renews its claim of its name, where servers share a database, and gives
//! up for good when another server has taken the name: what protects the metadata is that no batch of an ended
//! instance commits; the heartbeat makes a server notice before it has something to write. And it asks whether a tool
//! beside it has changed something that its caches must not outlive.

use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::group_commit::Latch;
use super::lifecycle::Lifecycles;
use super::policies::PolicyKeeper;
use super::quotas::Quotas;
use crate::domain::value_objects::InstanceId;

/// Between two heartbeats: how long a change by a tool may go unnoticed.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Speaks for one instance of one name.
pub(super) struct Heartbeat {
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    pub(super) instance: InstanceId,
    pub(super) node: Arc<str>,
    /// The last change by a tool that is known of.
    pub(super) outside_changes: u64,
    /// Told of each later one.
    pub(super) on_outside_change: Box<dyn Fn() + Send>,
    /// Told too; and each time, where other servers count what they store.
    pub(super) quotas: Arc<Quotas>,
    /// Told of each, since rules may be among them.
    pub(super) lifecycles: Arc<Lifecycles>,
    /// Told of each, since it may be about one of these.
    pub(super) policies: Arc<PolicyKeeper>,
    pub(super) is_shared: bool,
}

impl Heartbeat {
    /// Beats until it is dropped, or the name is lost.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            match self.database.heartbeat(self.instance, &self.node).await {
                Ok(Some(outside_changes)) => {
                    self.latch.answered();
                    self.compare(outside_changes);
                }
                Ok(None) => {
                    tracing::error!(
                        node = &*self.node,
                        "another server has taken this server's name: give each its own NODE_NAME"
                    );
                    return self.latch.set();
                }
                // Nobody can take the name while the database is away, and requests say that it is.
                Err(error) => tracing::debug!(error = %error.source, "no heartbeat"),
            }
        }
    }

    fn compare(&mut self, outside_changes: u64) {
        if outside_changes != self.outside_changes {
            self.outside_changes = outside_changes;
            (self.on_outside_change)();
            self.quotas.ask();
            self.lifecycles.ask();
            self.policies.ask();
        } else if self.is_shared {
            self.quotas.ask();
        }
    }
}
