//! `put`: uploads in a closed loop, each with a body of its own.

use crate::body::BodyPattern;
use crate::closed_loop::{self, Operation};
use crate::command_line::PutOptions;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::report::Report;
use crate::response::HEAD_BYTES_MAX;
use crate::upload::{UploadHeads, Uploader};

/// Runs the command.
pub(crate) async fn run(options: PutOptions) -> anyhow::Result<Report> {
    let PutOptions { server, pace, destination, size_bytes, post } = options;
    let heads = if post {
        UploadHeads::without_key(&server.url, &destination, size_bytes)
    } else {
        UploadHeads::by_key(&server.url, &destination, size_bytes)
    };
    let pattern = BodyPattern::for_run(size_bytes, pace.connections);
    let new_operation = || Put { uploader: Uploader::new(heads.clone(), pattern.source()), size_bytes };
    let result = closed_loop::run(&server, &pace, HEAD_BYTES_MAX, new_operation).await?;
    Ok(Report::new("put", result))
}

/// The uploads of one connection.
#[derive(Debug)]
struct Put {
    uploader: Uploader,
    size_bytes: u64,
}

impl Operation for Put {
    async fn perform(&mut self, connection: &mut Connection, number: u64) -> Result<u64, Failure> {
        self.uploader.begin(number);
        // An answer that came before the end of the body is read like any other: it says why.
        self.uploader.send(connection, u64::MAX).await?;
        match connection.receive_success().await?.status {
            200 | 201 => Ok(self.size_bytes),
            other => Err(Failure::status(other, b"a success, but not one of an upload (200 or 201)")),
        }
    }
}
