//! Several parts of a blob on their way to a client, each behind its head.

use super::blob_transfer::{SendError, send_blob};
use super::connection::OUTPUT_BYTES_MAX;
use super::http1::Multipart;
use super::transport::Transport;
use crate::application::ports::{BlobReader, BlobStore};
use crate::domain::value_objects::TenantId;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::data_plane::runtime::DataFile;

/// Several parts of a blob, sent on account of a tenant.
pub(super) struct BlobParts<Reader> {
    pub(super) reader: Reader,
    pub(super) multipart: Multipart,
    pub(super) tenant_id: TenantId,
}

/// Sends part after part, behind the output that waits already, each as if it were the only one.
///
/// There can be another answer until something of this one has left: small parts wait for company first, as small answers
/// do.
pub(super) async fn send_parts<S>(
    store: &S,
    transport: &mut Transport,
    BlobParts { reader, multipart, tenant_id }: &BlobParts<S::Reader>,
) -> Result<(), SendError>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
{
    let mut has_left = false;
    for (index, range) in multipart.ranges().iter().enumerate() {
        if transport.output_len() > OUTPUT_BYTES_MAX {
            transport.flush().await.map_err(SendError::Client)?;
            has_left = true;
        }
        // It was the client that was waited for until now.
        transport.watch().work();
        multipart.append_head(index, transport.output());
        let waiting = transport.output_len();
        match send_blob(store, transport, reader, *range, tenant_id).await {
            Err(SendError::Nothing(error)) if has_left => return Err(SendError::Part(error)),
            sent => sent?,
        }
        has_left |= transport.output_len() < waiting;
    }
    multipart.append_end(transport.output());
    Ok(())
}
