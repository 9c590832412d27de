//! `put`: uploads, each with a body of its own.

use std::sync::Arc;

use crate::body::BodyPattern;
use crate::command_line::PutOptions;
use crate::load_loop;
use crate::report::Report;
use crate::response::HEAD_BYTES_MAX;
use crate::upload::{UploadPlan, Uploader};

/// Runs the command.
pub(crate) async fn run(options: PutOptions) -> anyhow::Result<Report> {
    let PutOptions { server, pace, destination, size_bytes, post } = options;
    let pattern = BodyPattern::for_run(size_bytes, pace.connections);
    let uploads = Arc::new(UploadPlan::for_destination(&server.url, &destination, !post, pattern)?);
    let new_operation = || Uploader::new(Arc::clone(&uploads));
    let result = load_loop::run(&server.plan(&pace, HEAD_BYTES_MAX), new_operation).await?;
    Ok(Report::new("put", result))
}
