//! The store over HTTP/1.1: bytes to requests, requests to use cases, outcomes to responses. Runs on a data-plane
//! core. Nothing outside this module knows HTTP; nothing in it knows SQL or where a blob lies.

mod access_log;
mod archive_body;
mod archive_transfer;
mod attendant;
mod audit_log;
mod authentication;
mod batches;
mod blob_transfer;
mod closing_queue;
pub mod connection;
mod connection_table;
mod core_company;
mod errors;
mod handlers;
pub mod http1;
mod inline_text;
mod multipart_transfer;
pub mod openapi;
mod output_pool;
mod query;
mod request_body;
mod request_metrics;
mod request_timing;
mod router;
mod rule_record;
mod service;
mod signed_url;
mod stretch_turns;
mod tar;
mod transport;
mod upload_turns;

pub use access_log::{AccessLog, AccessLogReader, AccessRecord, Wording};
pub use audit_log::{AuditLog, AuditReader};
pub use authentication::{Access, needed_permission};
pub use batches::Batches;
pub use connection_table::{ConnectionTable, Timeouts};
pub use errors::Problem;
pub use handlers::{MetricsPage, WriteMetrics, add_object_fields};
pub use http1::DateCache;
pub use inline_text::{InlineText, PathText, RequestId};
pub use output_pool::OutputPool;
pub use request_metrics::{NAMESPACES_MAX, RequestLabels, RequestMetrics, RequestRecorder, write_requests};
pub use request_timing::TimingSettings;
pub use router::{Route, route};
pub use rule_record::RuleRecord;
pub use service::{Limits, RequestIds, Service, SystemClock};
pub use upload_turns::UploadTurns;

/// For the fuzz targets of archives and of signed URLs, which nothing else outside needs.
#[doc(hidden)]
pub use self::{
    signed_url::{SignedQuery, Target, Terms},
    tar::{read_archive, write_archive},
};

/// The parameters of a query, for the fuzz target of queries, which nothing else outside needs. `None` if they are
/// refused.
#[doc(hidden)]
pub fn read_query(query: &str, known: &[&'static str]) -> Option<Vec<(&'static str, String)>> {
    let parameters = query::Parameters::parse(Some(query), known).ok()?;
    let value = |name: &&'static str| parameters.get(name).map(|value| (*name, value.to_owned()));
    Some(known.iter().filter_map(value).collect())
}
