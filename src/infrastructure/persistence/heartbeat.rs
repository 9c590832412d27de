//! A server's claim of its name, where servers share a database: renewed every few seconds, and given up for good when
//! another server has taken the name. What protects the metadata is that no batch of an ended instance commits; the
//! heartbeat makes a server notice before it has something to write.

use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::group_commit::Latch;
use crate::domain::value_objects::InstanceId;

/// Between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// Renews the claim of one name for one instance.
pub(super) struct Heartbeat {
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    pub(super) instance: InstanceId,
    pub(super) node: Arc<str>,
}

impl Heartbeat {
    /// Beats until it is dropped, or the name is lost.
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            match self.database.heartbeat(self.instance, &self.node).await {
                Ok(true) => self.latch.answered(),
                Ok(false) => {
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
}
