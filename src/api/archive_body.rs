//! A request's body that is a tar archive: its entries, one after the other, and the content of each.
//!
//! A small file for the log that lies whole in what has come is hashed there, together with the next one, if that does too: two take
//! little more than the time of one.

use std::ops::Range;
use std::time::Instant;

use paired_sha256::{Sha256, digest_both};

use super::request_body::RequestBody;
use super::tar::{ArchiveError, Entry, EntryKind, Reader, Step};
use crate::application::errors::{SourceError, StoreError};
use crate::application::ports::{BlobStore, BufferSize, ByteSource, ReadPace, ReadProgress};
use crate::domain::value_objects::{ContentHash, TenantId};
use crate::infrastructure::data_plane::buffers::{Block, SMALL_BLOCK_BYTES};
use crate::infrastructure::metrics::{Phase, note_since};

/// The longest content that is hashed where it lies.
pub(super) const WHOLE_BYTES_MAX: u64 = 64 * 1024;
/// The most bytes of one read: those small files of it that are begun without a turn for others hold the core for about
/// 200 µs.
const READ_BYTES_MAX: usize = 128 * 1024;

/// Why no more entries can be had.
#[derive(Debug)]
pub(super) enum ArchiveFailure {
    Archive(ArchiveError),
    Source(SourceError),
}

impl From<ArchiveError> for ArchiveFailure {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<SourceError> for ArchiveFailure {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// One archive.
pub(super) struct ArchiveBody<'b, 't, S> {
    store: &'b S,
    tenant_id: &'b TenantId,
    body: &'b mut RequestBody<'t>,
    reader: Reader,
    /// What has come and is not used up; there is one between reads.
    window: Option<Block>,
    used: usize,
    /// The content of the entry that was read last, where all of it is here.
    whole: Option<Whole>,
    /// What has been read behind that.
    ahead: Option<Ahead>,
    failure: Option<ArchiveFailure>,
}

/// A content that lies in the window from end to end.
struct Whole {
    part: Range<usize>,
    hash: ContentHash,
}

/// What follows an entry whose content is here.
enum Ahead {
    Entry(Entry, Option<Whole>),
    Broken(ArchiveError),
}

impl<'b, 't, S: BlobStore<Buffer = Block>> ArchiveBody<'b, 't, S> {
    /// # Errors
    /// There is no memory to read into.
    pub(super) fn new(
        store: &'b S,
        tenant_id: &'b TenantId,
        body: &'b mut RequestBody<'t>,
    ) -> Result<Self, StoreError> {
        let window = store.lend(BufferSize::Small, tenant_id).ok_or(StoreError::Overloaded)?;
        let (reader, window) = (Reader::default(), Some(window));
        Ok(Self { store, tenant_id, body, reader, window, used: 0, whole: None, ahead: None, failure: None })
    }

    /// How far into the archive it has been read.
    pub(super) fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// The next entry, or `None` after the last. What is left of the content of the one before is passed over.
    ///
    /// # Errors
    /// [`ArchiveFailure`]; then nothing more can be read.
    pub(super) async fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveFailure> {
        self.take_failure()?;
        self.whole = None;
        match self.ahead.take() {
            Some(Ahead::Entry(entry, whole)) => {
                self.whole = whole;
                return Ok(Some(entry));
            }
            Some(Ahead::Broken(error)) => return Err(error.into()),
            None => {}
        }
        loop {
            if let Step::Entry(entry) = self.read_on()? {
                self.look_ahead(&entry);
                return Ok(Some(entry));
            }
            if !self.fill().await? {
                self.reader.finish()?;
                return Ok(None);
            }
        }
    }

    /// Reads what is here.
    fn read_on(&mut self) -> Result<Step, ArchiveError> {
        let rest = self.window.as_ref().map_or(&[][..], |window| &window.bytes()[self.used..]);
        let (used, step) = self.reader.read(rest)?;
        self.used += used;
        Ok(step)
    }

    /// Hashes the content of an entry that has just been read, if all of it is here, and that of the next one with it.
    fn look_ahead(&mut self, entry: &Entry) {
        let Some(first) = self.take_whole(entry) else { return };
        let (next, second) = match self.read_on() {
            Ok(Step::Entry(next)) => {
                let second = self.take_whole(&next);
                (Some(Ok(next)), second)
            }
            Ok(Step::More) => (None, None),
            Err(error) => (Some(Err(error)), None),
        };
        let started = Instant::now();
        let bytes = self.window.as_ref().map_or(&[][..], Block::bytes);
        let (first_hash, second) = match second {
            None => (Sha256::digest(&bytes[first.clone()]), None),
            Some(second) => {
                let [first_hash, hash] = digest_both(&bytes[first.clone()], &bytes[second.clone()]);
                (first_hash, Some(Whole { part: second, hash: ContentHash::from_bytes(hash) }))
            }
        };
        note_since(Phase::Hash, started);
        self.whole = Some(Whole { part: first, hash: ContentHash::from_bytes(first_hash) });
        self.ahead = next.map(|next| match next {
            Ok(next) => Ahead::Entry(next, second),
            Err(error) => Ahead::Broken(error),
        });
    }

    /// Where the content of an entry is that has just been read, if all of it is here and goes to the log as it is. It
    /// counts as read then.
    fn take_whole(&mut self, entry: &Entry) -> Option<Range<usize>> {
        let is_small = entry.kind == EntryKind::File
            && entry.size_bytes <= WHOLE_BYTES_MAX
            && self.store.leaves_loose(entry.size_bytes);
        let length = usize::try_from(entry.size_bytes).ok().filter(|_| is_small)?;
        if self.content_here(length).len() < length {
            return None;
        }
        let start = self.used;
        self.take(length);
        Some(start..self.used)
    }

    /// The content of the entry that was read last, and its hash, where it has been hashed already.
    pub(super) fn whole(&self) -> Option<(ContentHash, &[u8])> {
        let (Whole { part, hash }, window) = (self.whole.as_ref()?, self.window.as_ref()?);
        Some((*hash, &window.bytes()[part.clone()]))
    }

    /// Lets everything else on the core have its turn, between two entries.
    ///
    /// # Errors
    /// [`ArchiveFailure`]: nobody sends the rest.
    pub(super) async fn take_turns(&mut self) -> Result<(), ArchiveFailure> {
        Ok(self.body.take_turns().await?)
    }

    /// How much is left of the content of the entry that was read last.
    pub(super) fn content_left(&self) -> u64 {
        self.reader.content_left()
    }

    /// What has kept somebody from reading a content.
    ///
    /// # Errors
    /// That, once.
    pub(super) fn take_failure(&mut self) -> Result<(), ArchiveFailure> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// All the content of a small file.
    ///
    /// # Errors
    /// As [`next_entry`](Self::next_entry).
    pub(super) async fn content(&mut self) -> Result<Vec<u8>, ArchiveFailure> {
        let mut content = Vec::with_capacity(usize::try_from(self.reader.content_left()).unwrap_or(0));
        while self.reader.content_left() > 0 {
            let part = self.content_here(usize::MAX);
            content.extend_from_slice(part);
            let count = part.len();
            self.take(count);
            if count == 0 && !self.fill().await? {
                return Err(ArchiveError::CutOff.into());
            }
        }
        Ok(content)
    }

    /// What is here of the content of this entry.
    fn content_here(&self, bytes_max: usize) -> &[u8] {
        let rest = self.window.as_ref().map_or(&[][..], |window| &window.bytes()[self.used..]);
        let left = usize::try_from(self.reader.content_left()).unwrap_or(usize::MAX);
        &rest[..rest.len().min(left).min(bytes_max)]
    }

    fn take(&mut self, count: usize) {
        self.used += count;
        self.reader.take_content(count);
    }

    fn take_window(&mut self) -> Block {
        match self.window.take() {
            Some(window) => window,
            None => crate::invariant::broken("there is a window between reads"),
        }
    }

    /// Reads on; `false` at the end of the body. A large block is held only while bytes keep coming.
    async fn fill(&mut self) -> Result<bool, SourceError> {
        let mut window = self.take_window();
        window.drop_front(std::mem::take(&mut self.used));
        loop {
            let pace = if window.is_large() { ReadPace::Brisk } else { ReadPace::Patient };
            let (progress, block) = self.body.read_up_to(window, pace, READ_BYTES_MAX).await;
            window = block;
            let wanted = match progress {
                Ok(ReadProgress::Bytes(_)) if !window.is_large() && window.room() == 0 => BufferSize::Large,
                Ok(ReadProgress::Stalled) => BufferSize::Small,
                progress => {
                    self.window = Some(window);
                    return progress.map(|progress| progress != ReadProgress::End);
                }
            };
            if let Some(mut other) = self.store.lend(wanted, self.tenant_id)
                && other.append(window.bytes()) == window.len()
            {
                window = other;
            }
            if wanted == BufferSize::Large {
                self.window = Some(window);
                return Ok(true);
            }
        }
    }
}

/// The content of the entry that was read last, for whoever stores it.
impl<S: BlobStore<Buffer = Block>> ByteSource<Block> for ArchiveBody<'_, '_, S> {
    async fn read(&mut self, mut block: Block, pace: ReadPace) -> (Result<ReadProgress, SourceError>, Block) {
        let left = self.reader.content_left();
        if left == 0 {
            return (Ok(ReadProgress::End), block);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let (progress, block) = loop {
            let here = self.content_here(block.room().min(READ_BYTES_MAX));
            if !here.is_empty() {
                let count = block.append(here);
                self.take(count);
                return (Ok(ReadProgress::Bytes(count)), block);
            }
            // Nothing of it has come yet. What is left of a small file comes with those behind it, in one read.
            if left <= SMALL_BLOCK_BYTES {
                match self.fill().await {
                    Ok(true) => {}
                    Ok(false) => break (Ok(ReadProgress::End), block),
                    Err(error) => break (Err(error), block),
                }
            } else {
                // That of a large one goes straight to where it is wanted.
                let (progress, block) = self.body.read_up_to(block, pace, left).await;
                if let Ok(ReadProgress::Bytes(count)) = progress {
                    self.reader.take_content(count);
                }
                break (progress, block);
            }
        };
        let progress = match progress {
            Ok(ReadProgress::End) => {
                self.failure = Some(ArchiveError::CutOff.into());
                Err(SourceError::Disconnected)
            }
            Err(error) => {
                let rule = "the archive could not be read on";
                self.failure = Some(error.into());
                Err(SourceError::Malformed { rule })
            }
            progress => progress,
        };
        (progress, block)
    }

    /// What is declared of the body is about the archive.
    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(None)
    }
}
