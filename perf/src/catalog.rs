//! What is remembered of the objects that a run has stored, so that another can read them back and know what they should
//! be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::body::{self, BodyPattern, BodySource};
use crate::connection::Connection;
use crate::failure::{Failure, FailureKind};
use crate::load_loop::Operation;
use crate::template::{Template, Values};

/// The most objects that are remembered of a run. More would only take memory: reads are spread over all of them.
const ENTRIES_MAX: u64 = 65_536;
/// One of so many bodies is compared with what was uploaded: comparing all of them would make the generator the bottleneck.
const COMPARED_EVERY: u64 = 100;

/// Some of the objects of a run, evenly spread.
#[derive(Debug)]
pub(crate) struct Catalog {
    download: Template,
    every: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    request: Box<[u8]>,
    first_stamp: u64,
}

impl Catalog {
    /// Remembers objects of a run of so many, by the request that reads them.
    pub(crate) fn new(download: Template, objects: u64) -> Self {
        Self { download, every: objects.div_ceil(ENTRIES_MAX).max(1), entries: Vec::new() }
    }

    /// Takes note of an object, if it is one of those that are remembered.
    pub(crate) fn note(&mut self, values: Values<'_>, first_stamp: u64) {
        if values.number.is_multiple_of(self.every) {
            let mut request = Vec::new();
            self.download.write(values, &mut request);
            self.entries.push(Entry { request: request.into(), first_stamp });
        }
    }
}

/// In which order objects are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadOrder {
    /// Any, with repetitions.
    Random,
    /// One after the other, as they were stored.
    AsStored,
}

/// What the downloads of a run have in common.
#[derive(Debug)]
pub(crate) struct DownloadPlan {
    catalog: Catalog,
    pattern: BodyPattern,
    order: ReadOrder,
    compared: AtomicU64,
}

impl DownloadPlan {
    /// Reads these objects, which have these bodies.
    pub(crate) fn new(catalog: Catalog, pattern: BodyPattern, order: ReadOrder) -> Self {
        Self { catalog, pattern, order, compared: AtomicU64::new(0) }
    }

    /// How many bodies have been compared with what was uploaded, and were the same.
    pub(crate) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let entries = (self.catalog.entries.len() as u64).max(1);
        let index = match self.order {
            ReadOrder::AsStored => number % entries,
            ReadOrder::Random => body::split_mix(&mut { number }) % entries,
        };
        self.catalog.entries.get(index as usize)
    }
}

/// The downloads of one connection.
#[derive(Debug)]
pub(crate) struct Downloader {
    plan: Arc<DownloadPlan>,
    /// What is expected, from the first comparison on.
    expected: Option<BodySource>,
}

impl Downloader {
    /// Reads objects of this plan.
    pub(crate) fn new(plan: Arc<DownloadPlan>) -> Self {
        Self { plan, expected: None }
    }
}

impl Operation for Downloader {
    async fn perform(&mut self, connection: &mut Connection, number: u64) -> Result<u64, Failure> {
        let Some(entry) = self.plan.entry(number) else {
            return Err(Failure::new(FailureKind::NotStarted, "nothing was stored that could be read"));
        };
        connection.send(&entry.request, &[]).await?;
        let head = connection.receive_head().await?;
        if head.status != 200 {
            return Err(connection.receive_refusal(&head).await);
        }
        let mut body_bytes = 0;
        if !number.is_multiple_of(COMPARED_EVERY) {
            connection.receive_body(&head, |piece| body_bytes += piece.len() as u64).await?;
        } else {
            let expected = self.expected.get_or_insert_with(|| self.plan.pattern.source());
            expected.begin_with(entry.first_stamp);
            let mut is_same = true;
            let compare = |piece: &[u8]| {
                body_bytes += piece.len() as u64;
                is_same &= expected.continues_with(piece);
            };
            connection.receive_body(&head, compare).await?;
            if !is_same {
                return Err(Failure::new(
                    FailureKind::BodyChanged,
                    "the body is not the one that was uploaded",
                ));
            }
            self.plan.compared.fetch_add(1, Ordering::Relaxed);
        }
        if body_bytes != self.plan.pattern.size_bytes() {
            let detail = format!("{body_bytes} bytes of {}", self.plan.pattern.size_bytes());
            return Err(Failure::new(FailureKind::LengthChanged, detail));
        }
        Ok(body_bytes)
    }
}

/// The same request again and again, whose answer may be anything: a list, of which the length changes with its names.
#[derive(Debug, Clone)]
pub(crate) struct Lister(pub(crate) Arc<[u8]>);

impl Operation for Lister {
    async fn perform(&mut self, connection: &mut Connection, _number: u64) -> Result<u64, Failure> {
        connection.send(&self.0, &[]).await?;
        let head = connection.receive_head().await?;
        if head.status != 200 {
            return Err(connection.receive_refusal(&head).await);
        }
        let mut body_bytes = 0;
        connection.receive_body(&head, |piece| body_bytes += piece.len() as u64).await?;
        Ok(body_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_remembered_evenly() {
        let download = Template::new("GET /{number}", "127.0.0.1", None).unwrap();
        let mut catalog = Catalog::new(download, 1_000_000);
        (0..1_000_000).for_each(|number| catalog.note(Values { number, ..Values::default() }, number));
        assert!(
            catalog.entries.len() as u64 <= ENTRIES_MAX && catalog.entries.len() as u64 > ENTRIES_MAX / 2
        );
        assert!(catalog.entries.last().unwrap().first_stamp > 990_000);
    }
}
