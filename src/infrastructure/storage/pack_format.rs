//! The bytes of a pack, without any input or output. `docs/STORAGE_FORMAT.md` is the same for readers without this
//! code.
//!
//! ```text
//! pack    ┌ header block ┬ batch 0 ────────┬ batch 1 ──┬ … ┬ zeros, written ahead ──┐
//!         └ 4096 bytes   ┴ multiple of 4096 ┴ …        ┴ … ┴ up to `pack_bytes`     ┘
//! batch   header, then records back to back, then zeros up to the block
//! record  header, then the body (a blob's bytes), then the details (what the change is)
//! ```
//! Numbers are little-endian. A batch carries its number and its predecessor's checksum, and at most one batch of a
//! pack is ever in flight: so a bad batch with a good one behind it had been acknowledged, and a bad one with nothing
//! good behind it is where the log ends. The body stands right behind the record's header, so that a small blob is one
//! read.

use std::ops::Range;

use thiserror::Error;

use super::checksums::append_known;
use crate::domain::value_objects::{ContentHash, InstanceId, PackId, StorageClass};

/// What batches are aligned and padded to: what direct I/O asks for.
pub const PACK_BLOCK_BYTES: usize = 4096;
/// A record's header.
pub const RECORD_HEADER_BYTES: usize = 96;
/// A batch's header.
pub const BATCH_HEADER_BYTES: usize = 48;
/// The longest batch, with its padding.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

const PACK_MAGIC: [u8; 8] = *b"JSPACK\x00\x01";
const BATCH_MAGIC: [u8; 4] = *b"JSBT";
const RECORD_MAGIC: [u8; 4] = *b"JSRC";

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    /// No header of a pack of this format.
    #[error("this is not a pack of this version")]
    Pack,
    /// Not a batch, or one whose checksum is wrong, or of another pack or place.
    #[error("there is no whole batch here")]
    Batch,
    /// A record that does not fit what surrounds it.
    #[error("a record is not as it was written")]
    Record,
}

/// What a pack says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// Its name.
    pub pack: PackId,
    /// How long the file was made.
    pub pack_bytes: u64,
    /// The run of the server that made it.
    pub instance: InstanceId,
    /// Which of its cores writes to it.
    pub core: u32,
    /// Whose bytes it holds.
    pub storage_class: StorageClass,
}

impl PackHeader {
    const LENGTH: usize = 48;

    /// The first block of the pack.
    pub fn encode(&self) -> [u8; PACK_BLOCK_BYTES] {
        let mut block = [0; PACK_BLOCK_BYTES];
        block[..8].copy_from_slice(&PACK_MAGIC);
        block[8..16].copy_from_slice(&self.pack.to_u64().to_le_bytes());
        block[16..24].copy_from_slice(&self.pack_bytes.to_le_bytes());
        block[24..32].copy_from_slice(&self.instance.to_i64().to_le_bytes());
        block[32..36].copy_from_slice(&self.core.to_le_bytes());
        block[36] = u8::from(self.storage_class == StorageClass::Cold);
        let checksum = crc32c::crc32c(&block[..Self::LENGTH - 4]);
        block[Self::LENGTH - 4..Self::LENGTH].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block.
    ///
    /// # Errors
    /// [`FormatError::Pack`].
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let block = block.get(..Self::LENGTH).ok_or(FormatError::Pack)?;
        let whole = crc32c::crc32c(&block[..Self::LENGTH - 4]) == u32_at(block, Self::LENGTH - 4);
        if block[..8] != PACK_MAGIC || !whole {
            return Err(FormatError::Pack);
        }
        let storage_class = match block[36] {
            0 => StorageClass::Hot,
            1 => StorageClass::Cold,
            _ => return Err(FormatError::Pack),
        };
        Ok(Self {
            pack: PackId::from_u64(u64_at(block, 8)),
            pack_bytes: u64_at(block, 16),
            instance: InstanceId::from_i64(u64_at(block, 24).cast_signed()),
            core: u32_at(block, 32),
            storage_class,
        })
    }
}

/// Where in a log a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLink {
    /// The how-manieth of its pack.
    pub number: u64,
    /// The checksum of the batch before it; 0 for the first.
    pub previous_checksum: u32,
}

impl BatchLink {
    /// Of a pack's first batch.
    pub const FIRST: Self = Self { number: 0, previous_checksum: 0 };

    /// Of the batch behind this one, which has such a checksum. No log is so long that its numbers end; a header that says
    /// so is followed by the first one.
    fn next(self, checksum: u32) -> Self {
        Self { number: self.number.wrapping_add(1), previous_checksum: checksum }
    }
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Where it stands.
    pub link: BatchLink,
    /// How many records it has.
    pub records: u32,
    /// Its length in bytes, header and all records, without the padding.
    pub length: u64,
    /// Of everything behind the first eight bytes.
    pub checksum: u32,
}

impl BatchHeader {
    /// Writes the header of a batch that is whole otherwise, its records behind room for the header, and returns what
    /// the next one links to.
    pub fn seal(batch: &mut [u8], pack: PackId, link: BatchLink, records: u32) -> BatchLink {
        Self::seal_with(batch, (pack, link, records), std::iter::empty())
    }

    /// As [`seal`](Self::seal), where these parts of the batch have these checksums, in the order in which they stand there.
    pub(super) fn seal_with(
        batch: &mut [u8],
        (pack, link, records): (PackId, BatchLink, u32),
        known: impl Iterator<Item = (Range<usize>, u32)>,
    ) -> BatchLink {
        let length = batch.len() as u64;
        batch[..4].copy_from_slice(&BATCH_MAGIC);
        batch[8..16].copy_from_slice(&pack.to_u64().to_le_bytes());
        batch[16..24].copy_from_slice(&link.number.to_le_bytes());
        batch[24..28].copy_from_slice(&link.previous_checksum.to_le_bytes());
        batch[28..32].copy_from_slice(&records.to_le_bytes());
        batch[32..40].copy_from_slice(&length.to_le_bytes());
        batch[40..BATCH_HEADER_BYTES].fill(0);
        let (mut checksum, mut end) = (0, 8);
        for (part, known) in known {
            checksum = crc32c::crc32c_append(checksum, &batch[end..part.start]);
            checksum = append_known(checksum, &batch[part.clone()], known);
            end = part.end;
        }
        let checksum = crc32c::crc32c_append(checksum, &batch[end..]);
        batch[4..8].copy_from_slice(&checksum.to_le_bytes());
        link.next(checksum)
    }

    /// Reads a header. Whether the batch is whole is for [`verify`](Self::verify) to say.
    ///
    /// # Errors
    /// [`FormatError::Batch`] if there is none of this pack.
    pub fn decode(bytes: &[u8], pack: PackId) -> Result<Self, FormatError> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(FormatError::Batch)?;
        let length = u64_at(bytes, 32);
        let of_this_pack = bytes[..4] == BATCH_MAGIC && u64_at(bytes, 8) == pack.to_u64();
        if !of_this_pack || length < BATCH_HEADER_BYTES as u64 || length > BATCH_BYTES_MAX as u64 {
            return Err(FormatError::Batch);
        }
        Ok(Self {
            link: BatchLink { number: u64_at(bytes, 16), previous_checksum: u32_at(bytes, 24) },
            records: u32_at(bytes, 28),
            length,
            checksum: u32_at(bytes, 4),
        })
    }

    /// Whether `batch`, its whole length without the padding, is as it was written.
    pub fn verify(&self, batch: &[u8]) -> bool {
        batch.len() as u64 == self.length && crc32c::crc32c(&batch[8..]) == self.checksum
    }

    /// Its length with the padding.
    pub fn padded_length(&self) -> u64 {
        self.length.next_multiple_of(PACK_BLOCK_BYTES as u64)
    }

    /// What the next batch links to.
    pub fn next_link(&self) -> BatchLink {
        self.link.next(self.checksum)
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Bytes alone: what they are called stands elsewhere, or will.
    Data,
    /// A change of the metadata. Its bytes, if it has any, are the body.
    Change,
}

/// What a record says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it is about.
    pub kind: RecordKind,
    /// The pack that it was written to.
    pub pack: PackId,
    /// Where in the pack it begins.
    pub offset: u64,
    /// The change's place in the order of all changes; 0 for data.
    pub sequence: u64,
    /// What the body is; zeros without a body.
    pub content_hash: ContentHash,
    /// The length of the body.
    pub body_bytes: u32,
    /// The checksum of the body.
    pub body_checksum: u32,
    /// The length of the details.
    pub details_bytes: u32,
}

impl RecordHeader {
    /// Appends a whole record.
    pub fn append_record(&self, batch: &mut Vec<u8>, body: &[u8], details: &[u8]) {
        let start = batch.len();
        batch.extend_from_slice(&self.encode(details));
        batch.extend_from_slice(body);
        batch.extend_from_slice(details);
        if batch.len() - start != self.record_bytes() {
            crate::invariant::broken("a record's header gives the lengths of its parts");
        }
    }

    /// The header, with the checksum over it and the details.
    pub fn encode(&self, details: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..4].copy_from_slice(&RECORD_MAGIC);
        header[8..16].copy_from_slice(&self.pack.to_u64().to_le_bytes());
        header[16..24].copy_from_slice(&self.offset.to_le_bytes());
        header[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        header[32..36].copy_from_slice(&self.body_bytes.to_le_bytes());
        header[36..40].copy_from_slice(&self.body_checksum.to_le_bytes());
        header[40..44].copy_from_slice(&self.details_bytes.to_le_bytes());
        header[44] = u8::from(self.kind == RecordKind::Change);
        header[48..80].copy_from_slice(self.content_hash.as_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), details);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// Reads a header, without the details that its checksum covers too.
    ///
    /// # Errors
    /// [`FormatError::Record`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = bytes.get(..RECORD_HEADER_BYTES).ok_or(FormatError::Record)?;
        let kind = match header[44] {
            0 => RecordKind::Data,
            1 => RecordKind::Change,
            _ => return Err(FormatError::Record),
        };
        if header[..4] != RECORD_MAGIC {
            return Err(FormatError::Record);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&header[48..80]);
        Ok(Self {
            kind,
            pack: PackId::from_u64(u64_at(header, 8)),
            offset: u64_at(header, 16),
            sequence: u64_at(header, 24),
            body_bytes: u32_at(header, 32),
            body_checksum: u32_at(header, 36),
            details_bytes: u32_at(header, 40),
            content_hash: ContentHash::from_bytes(hash),
        })
    }

    /// Whether a header, as its bytes, and its details are as they were written.
    pub fn is_whole(header: &[u8], details: &[u8]) -> bool {
        let covered = header.get(8..RECORD_HEADER_BYTES);
        covered.is_some_and(|covered| {
            crc32c::crc32c_append(crc32c::crc32c(covered), details) == u32_at(header, 4)
        })
    }

    /// The lengths of header, body and details together.
    pub fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body_bytes as usize + self.details_bytes as usize
    }

    /// Whether this is the record of that content at that place.
    pub fn is_of(&self, pack: PackId, offset: u64, content_hash: &ContentHash, size_bytes: u64) -> bool {
        self.pack == pack
            && self.offset == offset
            && self.content_hash == *content_hash
            && u64::from(self.body_bytes) == size_bytes
    }
}

/// A record with its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'b> {
    /// What it says of itself.
    pub header: RecordHeader,
    /// The blob.
    pub body: &'b [u8],
    /// What the change is.
    pub details: &'b [u8],
}

/// The records of a batch that has been verified and begins at `offset` of `pack`.
pub fn records(
    batch: &[u8],
    pack: PackId,
    offset: u64,
) -> impl Iterator<Item = Result<Record<'_>, FormatError>> {
    let mut position = BATCH_HEADER_BYTES;
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || position >= batch.len() {
            return None;
        }
        let record = record_at(batch, position, pack, offset);
        match &record {
            Ok(record) => position += record.header.record_bytes(),
            Err(_) => failed = true,
        }
        Some(record)
    })
}

fn record_at(batch: &[u8], position: usize, pack: PackId, offset: u64) -> Result<Record<'_>, FormatError> {
    let rest = &batch[position..];
    let header = RecordHeader::decode(rest)?;
    let body_end = RECORD_HEADER_BYTES.checked_add(header.body_bytes as usize).ok_or(FormatError::Record)?;
    let body = rest.get(RECORD_HEADER_BYTES..body_end).ok_or(FormatError::Record)?;
    let details_end = body_end.checked_add(header.details_bytes as usize).ok_or(FormatError::Record)?;
    let details = rest.get(body_end..details_end).ok_or(FormatError::Record)?;
    let here = header.pack == pack && header.offset == offset + position as u64;
    if !here || !RecordHeader::is_whole(rest, details) || crc32c::crc32c(body) != header.body_checksum {
        return Err(FormatError::Record);
    }
    Ok(Record { header, body, details })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn pack() -> PackId {
        PackId::from_u64(0x0123_4567_89ab_cdef)
    }

    fn a_batch(offset: u64, parts: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        for (index, (body, details)) in parts.iter().enumerate() {
            let header = RecordHeader {
                kind: if details.is_empty() { RecordKind::Data } else { RecordKind::Change },
                pack: pack(),
                offset: offset + batch.len() as u64,
                sequence: index as u64,
                content_hash: ContentHash::from_bytes([7; 32]),
                body_bytes: u32::try_from(body.len()).unwrap(),
                body_checksum: crc32c::crc32c(body),
                details_bytes: u32::try_from(details.len()).unwrap(),
            };
            header.append_record(&mut batch, body, details);
        }
        let count = u32::try_from(parts.len()).unwrap();
        BatchHeader::seal(&mut batch, pack(), BatchLink { number: 3, previous_checksum: 9 }, count);
        batch
    }

    #[test]
    fn a_pack_header_round_trips_and_a_changed_one_is_refused() {
        let header = PackHeader {
            pack: pack(),
            pack_bytes: 1 << 28,
            instance: InstanceId::from_i64(-5),
            core: 3,
            storage_class: StorageClass::Cold,
        };
        let block = header.encode();
        assert_eq!(PackHeader::decode(&block), Ok(header));
        for at in 0..PackHeader::LENGTH {
            let mut changed = block;
            changed[at] ^= 1;
            assert_eq!(PackHeader::decode(&changed), Err(FormatError::Pack), "byte {at}");
        }
        assert_eq!(PackHeader::decode(&block[..20]), Err(FormatError::Pack));
    }

    #[test]
    fn every_changed_bit_of_a_batch_is_noticed() {
        let batch = a_batch(4096, &[(b"hello", b"details"), (b"", b"x"), (b"only bytes", b"")]);
        let header = BatchHeader::decode(&batch, pack()).unwrap();
        assert!(header.verify(&batch));
        assert_eq!((header.records, header.padded_length()), (3, 4096));
        for bit in 0..batch.len() * 8 {
            let mut changed = batch.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let noticed = BatchHeader::decode(&changed, pack()).is_ok_and(|header| header.verify(&changed));
            assert!(!noticed, "bit {bit}");
        }
    }

    #[test]
    fn a_record_elsewhere_is_not_the_record_that_is_asked_for() {
        let batch = a_batch(4096, &[(b"hello", b"")]);
        assert!(records(&batch, pack(), 4096).all(|record| record.is_ok()));
        assert!(records(&batch, pack(), 8192).any(|record| record.is_err()));
        assert!(records(&batch, PackId::from_u64(1), 4096).any(|record| record.is_err()));
        let record = records(&batch, pack(), 4096).next().unwrap().unwrap();
        let (hash, other) = (ContentHash::from_bytes([7; 32]), ContentHash::from_bytes([8; 32]));
        assert!(record.header.is_of(pack(), 4096 + BATCH_HEADER_BYTES as u64, &hash, 5));
        assert!(!record.header.is_of(pack(), 4096 + BATCH_HEADER_BYTES as u64, &other, 5));
        assert!(!record.header.is_of(pack(), 4096 + BATCH_HEADER_BYTES as u64, &hash, 6));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(parts in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20)) {
            let parts: Vec<_> = parts.iter().map(|(body, details)| (&body[..], &details[..])).collect();
            let batch = a_batch(8192, &parts);
            let read: Vec<_> = records(&batch, pack(), 8192).map(Result::unwrap).collect();
            assert_eq!(read.iter().map(|record| (record.body, record.details)).collect::<Vec<_>>(), parts);
            assert_eq!(BatchHeader::decode(&batch, pack()).unwrap().records as usize, read.len());
        }

        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let _ = PackHeader::decode(&bytes);
            let _ = BatchHeader::decode(&bytes, pack());
            let mut batch = vec![0; BATCH_HEADER_BYTES];
            batch.extend_from_slice(&bytes);
            let _ = records(&batch, pack(), 0).count();
            batch[BATCH_HEADER_BYTES..].iter_mut().zip(RECORD_MAGIC).for_each(|(byte, magic)| *byte = magic);
            let _ = records(&batch, pack(), 0).count();
        }
    }
}
