//! Keeps the cores' ledger of quotas ([`QuotaLedger`]) as the database has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::{sleep, timeout};

use super::database::Database;
use super::errors::DatabaseError;
use crate::domain::entities::{Quota, QuotaLimits};
use crate::domain::value_objects::TenantId;
use crate::infrastructure::quota_ledger::QuotaLedger;

/// How long a look may take that nobody asked for: batches wait for it, also where the database does not answer.
const REFRESH_LIMIT: Duration = Duration::from_secs(1);
/// Before a look that failed is tried again.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// The ledger, and who may change it.
pub(super) struct Quotas {
    database: Arc<Database>,
    ledger: Arc<QuotaLedger>,
    /// Whoever has it applies a batch and tells the ledger, or reads the database's count and tells that: with one of them
    /// within the other, a batch would count twice or not at all.
    turn: Mutex<()>,
    asked: Notify,
}

impl Quotas {
    pub(super) fn new(database: Arc<Database>, ledger: Arc<QuotaLedger>) -> Arc<Self> {
        Arc::new(Self { database, ledger, turn: Mutex::default(), asked: Notify::default() })
    }

    /// Waits until nobody reads the count. To be kept from before a batch until the ledger knows of it.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn ledger(&self) -> &QuotaLedger {
        &self.ledger
    }

    /// Takes over what the database says now.
    pub(super) async fn refresh(&self) -> Result<(), DatabaseError> {
        let _turn = self.turn().await;
        self.ledger.replace(self.database.quotas().await?);
        Ok(())
    }

    /// Gives a tenant these limits, which count when this returns, and says what it has.
    pub(super) async fn set_limits(
        &self,
        tenant_id: &TenantId,
        limits: QuotaLimits,
    ) -> Result<Quota, DatabaseError> {
        self.database.set_limits(tenant_id, limits).await?;
        self.refresh().await?;
        self.database.quota(tenant_id).await
    }

    /// Something may have changed: the ledger is brought up to date soon, and nobody waits for it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Does what is asked for until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.asked.notified().await;
            while !matches!(timeout(REFRESH_LIMIT, self.refresh()).await, Ok(Ok(()))) {
                tracing::debug!("what tenants may have could not be read yet");
                sleep(REFRESH_PAUSE).await;
            }
        }
    }
}
