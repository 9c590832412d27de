//! A blob on its way to a client: out of the page cache, past this process's memory, where it is there; through blocks,
//! read some way ahead, where it is not.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::core_company::BRIEF_BYTES_MAX;
use super::transport::Transport;
use crate::application::errors::StoreError;
use crate::application::ports::{BlobReader, BlobStore, BufferSize};
use crate::domain::value_objects::{ByteRange, TenantId};
use crate::infrastructure::data_plane::buffers::{ALIGNMENT_BYTES, Block};
use crate::infrastructure::data_plane::runtime::{DataFile, Task, spawn};
use crate::infrastructure::metrics::{Phase, note_since};

/// Parts up to this size are read behind their heads and leave with them in one piece.
const INLINE_BYTES_MAX: u64 = 16 * 1024;
/// How much leaves the page cache at once: a core does this in about 150 µs.
const SECTION_BYTES_MAX: u64 = 512 * 1024;
/// How many blocks of one download are read while another one is sent. With fewer a disk has pauses.
const READS_AHEAD_MAX: usize = 4;
/// A client that takes a block within this time gets a large one next.
const FAST_SEND: Duration = Duration::from_millis(50);

/// Why a blob was not sent, or not whole.
pub(super) enum SendError {
    /// The store failed before anything was sent: there can be another answer.
    Nothing(StoreError),
    /// The store failed in the middle: the answer is cut off, never completed.
    Part(StoreError),
    /// The client has gone, or takes nothing.
    Client(io::Error),
}

/// Sends a part of a blob, behind the output that waits already.
pub(super) async fn send_blob<S>(
    store: &S,
    transport: &mut Transport,
    reader: &S::Reader,
    range: ByteRange,
    tenant_id: &TenantId,
) -> Result<(), SendError>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
{
    if range.length <= INLINE_BYTES_MAX {
        return append_blob(transport, reader, range).await;
    }
    // What is brief itself keeps others waiting for no longer than those keep it.
    let in_turns = range.length > BRIEF_BYTES_MAX;
    let rest = match transport.is_encrypted() {
        // The client is not to see the bytes as they lie there.
        true => range,
        false => send_from_memory(transport, reader, range, in_turns).await?,
    };
    if rest.length == 0 {
        return Ok(());
    }
    // Also where no byte of the blob has been sent, its head may have been.
    let untouched = transport.output_len() > 0;
    transport.watch().work();
    let first = store.lend(BufferSize::Small, tenant_id).ok_or(StoreError::Overloaded);
    let mut blocks = ReadAhead { store, reader, tenant_id, unread: rest, in_flight: VecDeque::new() };
    let first = match first {
        Ok(block) => blocks.read_now(block).await,
        Err(error) => Err(error),
    };
    let first = first.map_err(if untouched { SendError::Nothing } else { SendError::Part })?;
    send_in_blocks(transport, blocks, first, in_turns).await
}

/// A small part goes straight behind its head.
async fn append_blob<Rd: BlobReader>(
    transport: &mut Transport,
    reader: &Rd,
    range: ByteRange,
) -> Result<(), SendError> {
    let output = transport.take_output();
    // At most INLINE_BYTES_MAX, so that it is a usize anywhere.
    let (result, output) = reader.read_exact(output, range.offset, range.length as usize).await;
    transport.give_back_output(output);
    result.map_err(SendError::Nothing)
}

/// Sends what is in memory from the beginning on, and returns what is left: where something is not, the rest is
/// another's.
async fn send_from_memory<Rd>(
    transport: &mut Transport,
    reader: &Rd,
    range: ByteRange,
    in_turns: bool,
) -> Result<ByteRange, SendError>
where
    Rd: BlobReader<Source = DataFile>,
{
    let mut rest = range;
    if reader.in_memory(first_section(rest, SECTION_BYTES_MAX)).is_none() {
        return Ok(rest);
    }
    let files = transport.send_files().await.map_err(SendError::Client)?;
    while rest.length > 0 {
        let started = Instant::now();
        let room = files.room().await;
        note_since(Phase::Client, started);
        room.map_err(SendError::Client)?;
        let bytes_max = if in_turns { files.stretch(SECTION_BYTES_MAX).await } else { SECTION_BYTES_MAX };
        // Only now: while the client took its time, the memory may have gone to others.
        let Some(section) = reader.in_memory(first_section(rest, bytes_max)) else { break };
        // In memory, so that what fails is the connection; or the file has become shorter than it was.
        let sent = files.send(section.source, section.offset, section.length as usize);
        let count = sent.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SendError::Part(StoreError::Damaged),
            _ => SendError::Client(error),
        })?;
        rest = behind(rest, count as u64);
    }
    Ok(rest)
}

fn first_section(range: ByteRange, bytes_max: u64) -> ByteRange {
    ByteRange { offset: range.offset, length: range.length.min(bytes_max) }
}

fn behind(range: ByteRange, count: u64) -> ByteRange {
    ByteRange { offset: range.offset + count, length: range.length - count }
}

/// Sends block after block. They are small, one ahead, while the client is slow; large, and more of them, while it is
/// fast.
async fn send_in_blocks<S>(
    transport: &mut Transport,
    mut blocks: ReadAhead<'_, S>,
    first: Block,
    in_turns: bool,
) -> Result<(), SendError>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block>,
{
    let (mut block, mut size) = (first, BufferSize::Small);
    loop {
        blocks.start_reads(size);
        let started = Instant::now();
        let (sent, spent) = transport.send_block(block, in_turns).await;
        sent.map_err(SendError::Client)?;
        note_since(Phase::Client, started);
        size = if started.elapsed() < FAST_SEND { BufferSize::Large } else { BufferSize::Small };
        transport.watch().work();
        block = match blocks.next(spent).await {
            Some(read) => read.map_err(SendError::Part)?,
            None => return Ok(()),
        };
    }
}

/// The reads of one download, in order.
struct ReadAhead<'s, S: BlobStore> {
    store: &'s S,
    reader: &'s S::Reader,
    tenant_id: &'s TenantId,
    /// What no read has been started for.
    unread: ByteRange,
    /// Each runs on by itself, also when the download ends, and gives its block back.
    in_flight: VecDeque<Task<Result<Block, StoreError>>>,
}

impl<S> ReadAhead<'_, S>
where
    S: BlobStore<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block>,
{
    /// Starts as many reads as blocks of this size allow. One is always tried for, with a small block if need be; more
    /// than that only with large ones, of which there are many then.
    fn start_reads(&mut self, size: BufferSize) {
        while self.unread.length > 0 && self.in_flight.len() < READS_AHEAD_MAX {
            let large = match size {
                BufferSize::Large => self.store.lend(BufferSize::Large, self.tenant_id),
                BufferSize::Small => None,
            };
            let lent = match large {
                None if self.in_flight.is_empty() => self.store.lend(BufferSize::Small, self.tenant_id),
                large => large,
            };
            let Some(block) = lent else { return };
            let part = self.take_part(&block);
            self.in_flight.push_back(spawn(read(self.reader.clone(), block, part)));
        }
    }

    /// The next bytes, or `None` behind the last. `spent` is read into where no other block was free.
    async fn next(&mut self, mut spent: Block) -> Option<Result<Block, StoreError>> {
        match self.in_flight.pop_front() {
            Some(read) => {
                drop(spent);
                Some(read.await)
            }
            None if self.unread.length == 0 => None,
            None => {
                spent.clear();
                Some(self.read_now(spent).await)
            }
        }
    }

    /// Reads the next bytes into an empty block.
    async fn read_now(&mut self, block: Block) -> Result<Block, StoreError> {
        let part = self.take_part(&block);
        read(self.reader.clone(), block, part).await
    }

    /// Where the next bytes are, for an empty block. All but the last end where a page does, so that every further read
    /// begins where direct I/O can.
    fn take_part(&mut self, block: &Block) -> ByteRange {
        let room = block.room() as u64 - self.unread.offset % ALIGNMENT_BYTES as u64;
        let part = ByteRange { length: self.unread.length.min(room), ..self.unread };
        self.unread = behind(self.unread, part.length);
        part
    }
}

async fn read<Rd: BlobReader<Buffer = Block>>(
    reader: Rd,
    block: Block,
    part: ByteRange,
) -> Result<Block, StoreError> {
    // No longer than the block, so that it is a usize anywhere.
    reader.read_buffer(block, part.offset, part.length as usize).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;

    use super::*;
    use crate::api::stretch_turns::STRETCH_BYTES_MAX;
    use crate::api::{ConnectionTable, Timeouts};
    use crate::application::ports::Section;
    use crate::domain::entities::BlobLocation;
    use crate::domain::value_objects::StorageClass;
    use crate::infrastructure::data_plane::buffers::{BufferPool, LARGE_BLOCK_BYTES};
    use crate::infrastructure::data_plane::deadline_list::WaitLimit;
    use crate::infrastructure::data_plane::helpers::{HelperPool, READ_HELPERS_MAX};
    use crate::infrastructure::data_plane::runtime::{IoDriver, Listener, run};
    use crate::infrastructure::storage::FileStore;

    /// A store that only lends blocks.
    struct Lender(BufferPool);

    impl BlobStore for Lender {
        type Buffer = Block;
        type Upload = <FileStore as BlobStore>::Upload;
        type Reader = FailingReader;

        fn begin(&self, _: StorageClass, _: Option<u64>, _: &TenantId) -> Result<Self::Upload, StoreError> {
            Err(StoreError::ReadOnly)
        }

        async fn open(&self, _: &BlobLocation, _: u64) -> Result<FailingReader, StoreError> {
            Err(StoreError::Missing)
        }

        fn lend(&self, _: BufferSize, _: &TenantId) -> Option<Block> {
            self.0.small_block()
        }

        async fn check(&self, _: StorageClass) -> Result<(), StoreError> {
            Err(StoreError::ReadOnly)
        }

        async fn discard(&self, _: &BlobLocation) {}
    }

    /// Looks as if it were in memory a few times, and then cannot be read from the disk either.
    #[derive(Clone)]
    struct FailingReader {
        file: Rc<DataFile>,
        looks_left: Rc<Cell<usize>>,
    }

    impl BlobReader for FailingReader {
        type Buffer = Block;
        type Source = DataFile;

        fn in_memory(&self, part: ByteRange) -> Option<Section<'_, DataFile>> {
            self.looks_left.set(self.looks_left.get().checked_sub(1)?);
            Some(Section { source: &self.file, offset: part.offset, length: part.length })
        }

        async fn read_exact(&self, bytes: Vec<u8>, _: u64, _: usize) -> (Result<(), StoreError>, Vec<u8>) {
            (Err(StoreError::Damaged), bytes)
        }

        async fn read_buffer(&self, _: Block, _: u64, _: usize) -> Result<Block, StoreError> {
            Err(StoreError::Damaged)
        }
    }

    /// More than goes with its head, and as much as the kernel takes from whoever nobody reads.
    const LENGTH: u64 = 100_000;

    /// What comes of a blob that is lost after so many looks.
    struct Sent {
        outcome: Result<(), SendError>,
        /// How much of the answer still waits to be sent.
        waits: usize,
        /// How much the client has received.
        received: usize,
    }

    async fn sent_after(looks: usize, driver: IoDriver, (length, beside_brief): (u64, bool)) -> Sent {
        let second = Duration::from_secs(1);
        let (idle, header, body, send) = (second, second, second, second);
        let table =
            ConnectionTable::new(Timeouts { idle, header, body, body_bytes_per_second_min: 1, send }, 1, 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = Listener::from_std(listener, driver).unwrap().accept().await.unwrap();
        let registration = table.register(stream.shut_down_handle()).unwrap();
        if beside_brief {
            registration.watch().company().note_request(1);
        }
        let mut transport = Transport::new(stream, registration.watch().clone(), Rc::default());
        transport.output().extend_from_slice(b"head");

        let helpers = Rc::new(HelperPool::new(READ_HELPERS_MAX, WaitLimit::none(), || ()));
        let file = DataFile::from_std(File::open("/proc/self/exe").unwrap(), driver, &helpers).unwrap();
        let reader = FailingReader { file: Rc::new(file), looks_left: Rc::new(Cell::new(looks)) };
        let store = Lender(BufferPool::new(8 * LARGE_BLOCK_BYTES));
        let tenant_id = TenantId::parse("a").unwrap();
        let range = ByteRange { offset: 0, length };
        let outcome = send_blob(&store, &mut transport, &reader, range, &tenant_id).await;
        let waits = transport.output_len();
        drop(registration);
        transport.into_stream().finish_sending();
        Sent { outcome, waits, received: client.read_to_end(&mut Vec::new()).unwrap() }
    }

    #[test]
    fn a_blob_that_is_lost_gets_another_answer_only_while_its_head_has_not_left() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let test = async {
                let sent = sent_after(0, driver, (LENGTH, false)).await;
                assert!(matches!(sent.outcome, Err(SendError::Nothing(StoreError::Damaged))));
                assert_eq!((sent.waits, sent.received), (4, 0));
                // The first look lets the head leave. No byte of the blob has followed it.
                let sent = sent_after(1, driver, (LENGTH, false)).await;
                assert!(matches!(sent.outcome, Err(SendError::Part(StoreError::Damaged))));
                assert_eq!((sent.waits, sent.received), (0, 4));
            };
            run(driver, test).unwrap();
        }
    }

    #[test]
    fn beside_brief_requests_a_blob_is_sent_in_short_stretches() {
        for driver in [IoDriver::IoUring, IoDriver::Epoll] {
            let test = async {
                // The first look sends nothing, and each other one a stretch.
                let two = (2 * STRETCH_BYTES_MAX as u64, true);
                let received = sent_after(2, driver, two).await.received;
                assert!((5..=4 + STRETCH_BYTES_MAX).contains(&received), "{received}");
                assert_eq!(
                    sent_after(usize::MAX, driver, (LENGTH, true)).await.received,
                    4 + LENGTH as usize
                );
            };
            run(driver, test).unwrap();
        }
    }
}
