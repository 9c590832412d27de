//! The batch that a log writes next, while it fills. The bytes of a record are put where they will be written from as they
//! come, when they have just been hashed and are near the processor; its header is written when it is known where in which
//! pack the batch will stand. Runs on a data-plane core, and waits for nothing.
//!
//! ```text
//! batch header │ record header │ body │ details │ record header │ body │ details │ …
//!  at the end  │  at the end   │ as they come   │  at the end   │ as they come   │
//! ```

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::log_entry::Change;
use super::pack_format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchHeader, BatchLink, RECORD_HEADER_BYTES, RecordHeader,
    RecordKind,
};
use super::pack_log::Durable;
use crate::application::errors::StoreError;
use crate::application::ports::ObjectUpdate;
use crate::domain::entities::Object;
use crate::domain::value_objects::{ContentHash, PackId, Place};
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::plane_channel::Write;

/// What is to be written.
pub(super) struct Entry {
    /// By which it is found among those that wait.
    pub(super) number: u64,
    /// What its body is, if it has one.
    pub(super) content_hash: Option<ContentHash>,
    pub(super) body_bytes: u32,
    /// Of the body, or of no bytes.
    pub(super) body_checksum: u32,
    pub(super) details_bytes: u32,
    pub(super) change: Option<Change>,
    pub(super) durable: oneshot::Sender<Result<Durable, StoreError>>,
}

impl Entry {
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body_bytes as usize + self.details_bytes as usize
    }

    pub(super) fn fail(self, error: StoreError) {
        // Whoever has gone no longer wants to know. The ticket goes too, and tells those behind it.
        let _ = self.durable.send(Err(error));
    }

    /// Notes where its record will be, and says what the header of that is.
    fn settle(&mut self, pack: PackId, offset: u64) -> RecordHeader {
        let place = Place::Pack { pack, offset };
        let named_hash = match self.change.as_mut().map(|change| &mut change.write) {
            Some(Write::Commit(commit)) => {
                if self.content_hash.is_some() {
                    commit.stored.place = place;
                }
                Some(commit.stored.content_hash)
            }
            Some(Write::Update(ObjectUpdate { object: Object { content_hash, .. }, copy, .. })) => {
                if self.content_hash.is_some() {
                    *copy = Some(place);
                }
                *content_hash
            }
            _ => None,
        };
        RecordHeader {
            kind: if self.change.is_some() { RecordKind::Change } else { RecordKind::Data },
            pack,
            offset,
            sequence: self.change.as_ref().map_or(0, |change| change.ticket.sequence()),
            content_hash: self.content_hash.or(named_hash).unwrap_or(ContentHash::from_bytes([0; 32])),
            body_bytes: self.body_bytes,
            body_checksum: self.body_checksum,
            details_bytes: self.details_bytes,
        }
    }
}

/// A batch that fills.
pub(super) struct Filling {
    block: Block,
    entries: VecDeque<Entry>,
}

/// A batch that is ready to be written.
pub(super) struct Sealed {
    /// All of it, with its padding.
    pub(super) block: Block,
    /// What its records are about, and where each is.
    pub(super) entries: Vec<(Place, Entry)>,
    /// What the next one links to.
    pub(super) next_link: BatchLink,
}

impl Filling {
    /// One without a record, in this block.
    pub(super) fn new(mut block: Block) -> Self {
        block.clear();
        block.append(&[0; BATCH_HEADER_BYTES]);
        Self { block, entries: VecDeque::new() }
    }

    /// Its bytes so far, with its header.
    pub(super) fn len(&self) -> usize {
        self.block.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those that are in it, in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether a record fits behind those that are there.
    pub(super) fn has_room(&self, entry: &Entry) -> bool {
        self.block.len() + entry.record_bytes() <= BATCH_BYTES_MAX
    }

    /// Appends a record that there is room for.
    pub(super) fn push(&mut self, entry: Entry, body: &[u8], details: &[u8]) {
        for part in [&[0; RECORD_HEADER_BYTES][..], body, details] {
            if self.block.append(part) != part.len() {
                crate::invariant::broken("a batch has room for the records that fit it");
            }
        }
        self.entries.push_back(entry);
    }

    /// Takes records out. Those behind them move up.
    pub(super) fn take_out(&mut self, mut is_taken: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        let (mut from, mut to) = (BATCH_HEADER_BYTES, BATCH_HEADER_BYTES);
        for entry in std::mem::take(&mut self.entries) {
            let length = entry.record_bytes();
            if is_taken(&entry) {
                taken.push(entry);
            } else {
                if from != to {
                    self.block.bytes_mut().copy_within(from..from + length, to);
                }
                to += length;
                self.entries.push_back(entry);
            }
            from += length;
        }
        self.block.truncate(to);
        taken
    }

    /// Keeps the first `count` records, and moves those behind them to another block.
    pub(super) fn split_off(&mut self, count: usize, block: Block) -> Self {
        let kept: usize = self.entries.iter().take(count).map(Entry::record_bytes).sum();
        let mut rest = Self::new(block);
        rest.block.append(&self.block.bytes()[BATCH_HEADER_BYTES + kept..]);
        self.block.truncate(BATCH_HEADER_BYTES + kept);
        rest.entries = self.entries.split_off(count);
        rest
    }

    /// Completes the batch, which begins at `offset` of its pack.
    pub(super) fn seal(self, (pack, offset): (PackId, u64), link: BatchLink) -> Sealed {
        let Self { mut block, entries } = self;
        let mut position = BATCH_HEADER_BYTES;
        let settle = |mut entry: Entry| {
            let record = &mut block.bytes_mut()[position..position + entry.record_bytes()];
            let record_offset = offset + position as u64;
            position += record.len();
            let (head, rest) = record.split_at_mut(RECORD_HEADER_BYTES);
            let header = entry.settle(pack, record_offset);
            head.copy_from_slice(&header.encode(&rest[entry.body_bytes as usize..]));
            (Place::Pack { pack, offset: record_offset }, entry)
        };
        let entries: Vec<_> = entries.into_iter().map(settle).collect();
        let records = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut end = BATCH_HEADER_BYTES;
        let known = entries.iter().map(|(_, entry)| {
            let start = end + RECORD_HEADER_BYTES;
            end += entry.record_bytes();
            (start..start + entry.body_bytes as usize, entry.body_checksum)
        });
        let next_link = BatchHeader::seal_with(block.bytes_mut(), (pack, link, records), known);
        block.pad_to_alignment();
        Sealed { block, entries, next_link }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack_format::{PACK_BLOCK_BYTES, Record, records};
    use super::*;
    use crate::domain::value_objects::{ObjectId, Precondition};
    use crate::infrastructure::data_plane::buffers::BufferPool;
    use crate::infrastructure::plane_channel::{Durability, plane_channel};

    const PACK: PackId = PackId::from_u64(5);
    const OFFSET: u64 = 3 * PACK_BLOCK_BYTES as u64;

    fn body(number: u64) -> Vec<u8> {
        vec![number as u8; 100 * number as usize]
    }

    fn entry(number: u64) -> Entry {
        let (body, (durable, _)) = (body(number), oneshot::channel());
        Entry {
            number,
            content_hash: Some(ContentHash::from_bytes([number as u8; 32])),
            body_bytes: u32::try_from(body.len()).unwrap(),
            body_checksum: crc32c::crc32c(&body),
            details_bytes: 2,
            change: None,
            durable,
        }
    }

    fn filling(numbers: std::ops::Range<u64>) -> Filling {
        let mut filling = Filling::new(BufferPool::sole_large_block());
        numbers.for_each(|number| filling.push(entry(number), &body(number), &[number as u8, b'd']));
        filling
    }

    /// Seals a batch, and says whose records are in it.
    fn sealed(filling: Filling) -> Vec<u64> {
        let Sealed { block, entries, next_link } = filling.seal((PACK, OFFSET), BatchLink::FIRST);
        let header = BatchHeader::decode(block.bytes(), PACK).unwrap();
        assert_eq!((header.next_link(), header.padded_length()), (next_link, block.len() as u64));
        let batch = &block.bytes()[..header.length as usize];
        assert!(header.verify(batch));
        let read: Vec<_> = records(batch, PACK, OFFSET).map(Result::unwrap).collect();
        assert_eq!((read.len(), header.records as usize), (entries.len(), entries.len()));
        for (Record { header, body: bytes, details }, (place, entry)) in read.iter().zip(&entries) {
            assert_eq!(*place, Place::Pack { pack: PACK, offset: header.offset });
            assert_eq!((*bytes, *details), (&body(entry.number)[..], &[entry.number as u8, b'd'][..]));
            assert_eq!(Some(header.content_hash), entry.content_hash);
        }
        entries.iter().map(|(_, entry)| entry.number).collect()
    }

    #[test]
    fn what_was_put_in_is_sealed_in_its_order() {
        assert!(sealed(filling(0..0)).is_empty());
        assert_eq!(sealed(filling(0..9)), (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_taken_out_leaves_no_gap() {
        let mut filling = filling(0..7);
        let taken = filling.take_out(|entry| [0, 3, 6].contains(&entry.number));
        assert_eq!(taken.iter().map(|entry| entry.number).collect::<Vec<_>>(), [0, 3, 6]);
        filling.push(entry(7), &body(7), b"\x07d");
        assert_eq!(sealed(filling), [1, 2, 4, 5, 7]);
    }

    #[test]
    fn what_is_split_off_is_a_batch_of_its_own() {
        for count in 0..=5 {
            let mut first = filling(0..5);
            let rest = first.split_off(count, BufferPool::sole_large_block());
            assert_eq!(sealed(first), (0..count as u64).collect::<Vec<_>>());
            assert_eq!(sealed(rest), (count as u64..5).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_batch_has_room_up_to_its_last_byte() {
        let mut filling = filling(0..0);
        let mut large = entry(1);
        let room = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - RECORD_HEADER_BYTES;
        (large.body_bytes, large.details_bytes) = (u32::try_from(room).unwrap(), 0);
        assert!(filling.has_room(&large));
        large.details_bytes = 1;
        assert!(!filling.has_room(&large));
        (large.body_bytes, large.details_bytes) = (0, u32::try_from(room).unwrap());
        filling.push(large, &[], &vec![0; room]);
        assert!(!filling.has_room(&entry(0)));
        assert_eq!(filling.seal((PACK, OFFSET), BatchLink::FIRST).block.len(), BATCH_BYTES_MAX);
    }

    #[test]
    fn a_change_without_a_body_is_of_no_content() {
        let (data_end, _metadata_end) = plane_channel(Durability::Log);
        let write = Write::Delete { id: ObjectId::generate(), precondition: Precondition::default() };
        let change = Change { ticket: data_end.ticket(&write).unwrap(), write, reply: None };
        let sequence = change.ticket.sequence();
        let mut filling = filling(0..0);
        let deletion =
            Entry { content_hash: None, body_bytes: 0, body_checksum: 0, change: Some(change), ..entry(0) };
        filling.push(deletion, &[], b"\0d");
        let Sealed { block, .. } = filling.seal((PACK, OFFSET), BatchLink::FIRST);
        let length = BatchHeader::decode(block.bytes(), PACK).unwrap().length as usize;
        let record = records(&block.bytes()[..length], PACK, OFFSET).next().unwrap().unwrap();
        assert_eq!((record.header.kind, record.header.sequence), (RecordKind::Change, sequence));
        assert_eq!(record.header.content_hash, ContentHash::from_bytes([0; 32]));
    }
}
