//! `GET /metrics`: what the server tells of itself, as Prometheus reads it.

use std::sync::Arc;

use super::super::errors::Problem;
use super::super::http1::{Fields, RequestHead};
use super::super::query::Parameters;
use super::{Body, Response};
use crate::application::errors::StoreError;
use crate::domain::entities::Principal;
use crate::infrastructure::data_plane::deadline_list::WaitLimit;
use crate::infrastructure::data_plane::helpers::HelperPool;
use crate::infrastructure::metrics::{Exposition, Names};

/// Appends all that is told.
pub type WriteMetrics = Arc<dyn Fn(&mut Exposition, Names) + Send + Sync>;

/// Makes the page. With many namespaces that takes longer than a core may be held, so that a thread beside it does it: one,
/// which starts when it is first asked.
pub struct MetricsPage {
    helper: HelperPool,
    write: WriteMetrics,
}

impl MetricsPage {
    /// A page that `write` fills, on a thread that calls `prepare_thread` first; waited for up to `limit`.
    pub fn new(
        write: WriteMetrics,
        limit: WaitLimit,
        prepare_thread: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { helper: HelperPool::new(1, limit, prepare_thread), write }
    }

    /// Nothing.
    pub fn empty(limit: WaitLimit) -> Self {
        Self::new(Arc::new(|_, _| ()), limit, || ())
    }

    async fn text(&self, names: Names) -> Result<String, Problem> {
        let write = self.write.clone();
        let text = self.helper.run(move || {
            let mut text = Exposition::default();
            write(&mut text, names);
            text.into_text()
        });
        // The thread has too much to do, or does not get to do it.
        text.await.map_err(|_| StoreError::Overloaded.into())
    }
}

/// `GET /metrics`. To whoever does not reach everything no namespace and no tenant is named.
pub(super) async fn metrics<Reader>(
    page: &MetricsPage,
    head: &RequestHead,
    principal: &Principal,
) -> Result<Response<Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let names = if principal.reach.is_everything() { Names::Told } else { Names::Withheld };
    let text = page.text(names).await?;
    let mut fields = Fields::default();
    fields.add("Content-Type", Exposition::CONTENT_TYPE).add_lines("Cache-Control: no-store\r\n");
    Ok(Response { status: 200, object: None, fields, body: Body::Bytes(text.into_bytes()), change: None })
}
