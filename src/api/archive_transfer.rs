//! Many objects on their way to a client as one tar archive. How long it is has been known since all of them were found; small
//! ones leave many in one write. Those that are in memory are read many at once as well, and the others a few ahead.

use std::pin::pin;

use futures_util::stream::{self, StreamExt as _};

use super::batches::BatchPlace;
use super::blob_transfer::{SendError, send_blob};
use super::service::Service;
use super::tar::{END_BYTES, append_end, append_header, append_padding, entry_bytes};
use super::transport::Transport;
use crate::application::errors::StoreError;
use crate::application::ports::{BlobReader, BlobStore, Freshness, ObjectName, ObjectRepository};
use crate::domain::entities::{BlobLocation, StoredObject};
use crate::domain::value_objects::{ByteRange, Key, ObjectId, TenantId, Timestamp};
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::data_plane::runtime::DataFile;

/// The last entry of every archive: what became of each item, a line of JSON for each.
pub(super) const RESULTS_NAME: &str = ".just_storage/results.jsonl";
/// Parts up to this size are read ahead of their turn; a larger one is sent as a download is.
const READ_BYTES_MAX: u64 = 64 * 1024;
/// How many of them.
const READS_AHEAD_MAX: usize = 16;
/// From one on that is not in memory, so many are read ahead before memory is looked into again.
const READ_APART: usize = 4 * READS_AHEAD_MAX;
/// How much waits to leave in one write: with what one look into memory adds, the core is busy with it for about 200 µs.
const GATHERED_BYTES: usize = 192 * 1024;
/// What that takes as a rule. More is taken by small objects with long names.
const OUTPUT_BYTES: usize = 2 * GATHERED_BYTES;

/// An archive that is about to be sent.
pub(super) struct Archive {
    parts: Vec<Part>,
    results: Vec<u8>,
    made_at: Timestamp,
    length_bytes: u64,
    _place: BatchPlace,
}

/// A part of an object, under a name.
pub(super) struct Part {
    pub(super) name: Key,
    pub(super) range: ByteRange,
    id: ObjectId,
    tenant_id: TenantId,
    location: BlobLocation,
    size_bytes: u64,
    updated_at: Timestamp,
    /// How long it is in the archive.
    entry_bytes: u64,
}

impl Part {
    pub(super) fn new(name: Key, object: &StoredObject, range: ByteRange) -> Self {
        let entry_bytes = entry_bytes(name.as_str(), range.length);
        Self {
            name,
            range,
            id: object.object.id,
            tenant_id: object.object.scope.tenant_id.clone(),
            location: object.location(),
            size_bytes: object.size_bytes,
            updated_at: object.object.updated_at,
            entry_bytes,
        }
    }

    /// What it is found by where it is a small object as a whole.
    fn whole(&self) -> Option<(BlobLocation, u64)> {
        let is_whole = self.range.length == self.size_bytes && self.size_bytes <= READ_BYTES_MAX;
        is_whole.then_some((self.location, self.size_bytes))
    }

    fn append_header(&self, output: &mut Vec<u8>) {
        append_header(output, self.name.as_str(), self.range.length, self.updated_at.as_seconds());
    }
}

impl Archive {
    /// These parts, and behind them the results.
    pub(super) fn new(parts: Vec<Part>, results: Vec<u8>, made_at: Timestamp, place: BatchPlace) -> Self {
        let of_parts: u64 = parts.iter().map(|part| part.entry_bytes).sum();
        let length_bytes = of_parts + entry_bytes(RESULTS_NAME, results.len() as u64) + END_BYTES;
        Self { parts, results, made_at, length_bytes, _place: place }
    }

    pub(super) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }
}

/// What is known of a part when its turn comes.
enum Content<Reader> {
    Bytes(Vec<u8>),
    Open(Reader),
}

/// Sends all of it behind the output that waits already. A blob that turns out damaged cuts it off.
pub(super) async fn send_archive<S, R, C>(
    service: &Service<S, R, C>,
    transport: &mut Transport,
    archive: &Archive,
) -> Result<(), SendError>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository,
{
    let (mut rest, mut scratch) = (&archive.parts[..], Vec::new());
    while !rest.is_empty() {
        let output = transport.output();
        output.reserve_exact(OUTPUT_BYTES.saturating_sub(output.len()));
        let mut count = append_run(&service.store, rest, &mut scratch, output);
        if count == 0 {
            count = rest.len().min(READ_APART);
            send_apart(service, transport, &rest[..count]).await?;
        }
        rest = &rest[count..];
        if transport.output_len() >= GATHERED_BYTES {
            transport.send_output().await.map_err(SendError::Client)?;
            transport.watch().work();
        }
    }
    let (output, size) = (transport.output(), archive.results.len() as u64);
    append_header(output, RESULTS_NAME, size, archive.made_at.as_seconds());
    for piece in archive.results.chunks(GATHERED_BYTES) {
        if transport.output_len() >= GATHERED_BYTES {
            transport.flush().await.map_err(SendError::Client)?;
        }
        transport.output().extend_from_slice(piece);
    }
    append_padding(transport.output(), size);
    append_end(transport.output());
    Ok(())
}

/// Appends the first of these parts, as far as one look into memory finds them, and says how many those were.
fn append_run(store: &impl BlobStore, parts: &[Part], scratch: &mut Vec<u8>, output: &mut Vec<u8>) -> usize {
    let mut found = parts.iter();
    store.read_run(parts.iter().map_while(Part::whole), scratch, |content| {
        let Some(part) = found.next() else { return };
        part.append_header(output);
        output.extend_from_slice(content);
        append_padding(output, part.range.length);
    })
}

/// Sends parts that are read each by itself, a few ahead of their turn.
async fn send_apart<S, R, C>(
    service: &Service<S, R, C>,
    transport: &mut Transport,
    parts: &[Part],
) -> Result<(), SendError>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository,
{
    let loads = parts.iter().map(|part| async move { (part, load(service, part).await) });
    let mut loads = pin!(stream::iter(loads).buffered(READS_AHEAD_MAX));
    while let Some((part, content)) = loads.next().await {
        let content = content.map_err(SendError::Part)?;
        part.append_header(transport.output());
        match content {
            Content::Bytes(bytes) => transport.output().extend_from_slice(&bytes),
            Content::Open(reader) => {
                let sent = send_blob(&service.store, transport, &reader, part.range, &part.tenant_id).await;
                sent.map_err(|error| match error {
                    SendError::Nothing(error) => SendError::Part(error),
                    other => other,
                })?;
            }
        }
        append_padding(transport.output(), part.range.length);
        if transport.output_len() >= GATHERED_BYTES {
            transport.send_output().await.map_err(SendError::Client)?;
            transport.watch().work();
        }
    }
    Ok(())
}

/// Reads a part, or opens it where it is large.
async fn load<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    part: &Part,
) -> Result<Content<S::Reader>, StoreError> {
    match load_from(&service.store, part, &part.location).await {
        Err(StoreError::Missing | StoreError::Damaged) => {}
        loaded => return loaded,
    }
    // The place may be one that was given up since it was remembered; the object is the same, or gone.
    let current = service.repository.find(&ObjectName::Id(part.id), Freshness::Current).await;
    match current.ok().flatten().filter(|object| !object.damaged) {
        Some(object) => load_from(&service.store, part, &object.location()).await,
        None => Err(StoreError::Missing),
    }
}

async fn load_from<S: BlobStore>(
    store: &S,
    part: &Part,
    location: &BlobLocation,
) -> Result<Content<S::Reader>, StoreError> {
    if part.range.length == 0 {
        return Ok(Content::Bytes(Vec::new()));
    }
    let reader = store.open(location, part.size_bytes).await?;
    if part.range.length > READ_BYTES_MAX {
        return Ok(Content::Open(reader));
    }
    // No longer than that, so that it is a usize anywhere.
    let (read, bytes) = reader.read_exact(Vec::new(), part.range.offset, part.range.length as usize).await;
    read.map(|()| Content::Bytes(bytes))
}
