//! What is kept of an upload beside its bytes, in a file that outlives the server.
//!
//! ```text
//! 0      a slot: offset, length, state of the hash, expiry, number, CRC32C
//! 4096   the other slot
//! 8192   the order: object, condition, words of the client, CRC32C
//! ```
//! The order is written once, before the file has its name. Of the slots, the one with the lower number is overwritten, so
//! that one that is torn or lost leaves the one before: the offset may fall back then, to where all bytes are durable
//! still, and never goes ahead of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use paired_sha256::{STATE_BYTES, Sha256};

use super::super::log_record::{decode, encode};
use crate::application::ports::ObjectCommit;
use crate::application::staging::{StagedOrder, StagedProgress, StagedRole, StagedUpload};
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::{ContentHash, InstanceId, ObjectStatus, Place, Timestamp, UploadId};
use crate::infrastructure::plane_channel::Write;

/// How far the slots and the order are apart: no write of one touches a block of another.
const SPACING_BYTES: u64 = 4096;
/// Of a slot or an order of this version.
const SLOT_MAGIC: [u8; 8] = *b"JSUPLSL1";
const ORDER_MAGIC: [u8; 8] = *b"JSUPLOR1";
/// What an order may take: a key, metadata, and a header section of the client's words.
const ORDER_BYTES_MAX: usize = 4 * 1024 * 1024;
const SLOT_BYTES: usize = 8 + 16 + 8 + 8 + 8 + 8 + 1 + STATE_BYTES + 4;
/// Where no length is known.
const NO_LENGTH: u64 = u64::MAX;

/// One acknowledgement: how far an upload has come, and the hash of all bytes until there.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The how-manieth it is.
    pub(super) number: u64,
    pub(super) progress: StagedProgress,
    pub(super) hasher: Sha256,
}

impl Slot {
    /// Before the first byte.
    pub(super) fn first(progress: StagedProgress) -> Self {
        Self { number: 0, progress, hasher: Sha256::new() }
    }

    fn encode(&self, id: &UploadId) -> [u8; SLOT_BYTES] {
        let StagedProgress { offset, length, expires_at, is_done } = self.progress;
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        bytes.extend_from_slice(&SLOT_MAGIC);
        bytes.extend_from_slice(id.random().as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&length.unwrap_or(NO_LENGTH).to_le_bytes());
        bytes.extend_from_slice(&expires_at.as_millis().to_le_bytes());
        bytes.push(u8::from(is_done));
        bytes.extend_from_slice(&self.hasher.to_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        match bytes.try_into() {
            Ok(bytes) => bytes,
            Err(_) => crate::invariant::broken("a slot has its length"),
        }
    }

    /// `None` for what is none, or of another upload.
    fn decode(bytes: &[u8], id: &UploadId) -> Option<Self> {
        let (covered, crc) = bytes.split_at_checked(SLOT_BYTES - 4)?;
        let mut reader = Reader(covered);
        if crc32c::crc32c(covered).to_le_bytes() != *crc
            || reader.array::<8>()? != SLOT_MAGIC
            || reader.array::<16>()? != *id.random().as_bytes()
        {
            return None;
        }
        let (number, offset, length) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let expires_at = Timestamp::from_millis(i64::from_le_bytes(reader.array()?));
        let is_done = match reader.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let state: [u8; STATE_BYTES] = reader.array()?;
        let hasher = Sha256::from_bytes(&state)?;
        let length = (length != NO_LENGTH).then_some(length);
        let progress = StagedProgress { offset, length, expires_at, is_done };
        Some(Self { number, progress, hasher })
    }
}

/// Writes all of a file that has no name yet.
pub(super) fn write_first(file: &File, upload: &StagedUpload) -> io::Result<()> {
    let mut order = Vec::from(ORDER_MAGIC);
    let details = encode_order(&upload.order);
    order.extend_from_slice(&(details.len() as u64).to_le_bytes());
    order.extend_from_slice(&details);
    order.extend_from_slice(&crc32c::crc32c(&order).to_le_bytes());
    file.write_all_at(&order, 2 * SPACING_BYTES)?;
    write_slot(file, &upload.order.id, &Slot::first(upload.progress))
}

/// Overwrites the older slot.
pub(super) fn write_slot(file: &File, id: &UploadId, slot: &Slot) -> io::Result<()> {
    file.write_all_at(&slot.encode(id), slot.number % 2 * SPACING_BYTES)
}

/// The newest slot that is whole.
pub(super) fn read_slot(file: &File, id: &UploadId) -> io::Result<Option<Slot>> {
    let mut newest: Option<Slot> = None;
    for index in 0..2 {
        let mut bytes = [0; SLOT_BYTES];
        match file.read_exact_at(&mut bytes, index * SPACING_BYTES) {
            Ok(()) => {}
            // The second one may never have been written, and the file end before it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        }
        let slot = Slot::decode(&bytes, id).filter(|slot| slot.number % 2 == index);
        if let Some(slot) = slot
            && newest.as_ref().is_none_or(|newest| newest.number < slot.number)
        {
            newest = Some(slot);
        }
    }
    Ok(newest)
}

/// The order, or `None` where it is damaged.
pub(super) fn read_order(file: &File, id: &UploadId) -> io::Result<Option<StagedOrder>> {
    let mut head = [0; 16];
    let read = file.read_exact_at(&mut head, 2 * SPACING_BYTES);
    let length = Reader(&head[8..]).u64().and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| read.is_ok() && *length <= ORDER_BYTES_MAX) else {
        return Ok(None);
    };
    let mut bytes = Vec::from(head);
    bytes.resize(head.len() + length + 4, 0);
    match file.read_exact_at(&mut bytes[head.len()..], 2 * SPACING_BYTES + head.len() as u64) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (covered, crc) = bytes.split_at(head.len() + length);
    if crc32c::crc32c(covered).to_le_bytes() != *crc || covered[..8] != ORDER_MAGIC {
        return Ok(None);
    }
    Ok(decode_order(&covered[head.len()..], id))
}

/// The object and its condition stand as they stand in the log, with a content and a place that say nothing yet.
fn encode_order(order: &StagedOrder) -> Vec<u8> {
    let mut commit = Vec::new();
    let stored = StoredObject {
        object: order.object.clone(),
        content_hash: NO_CONTENT,
        size_bytes: 0,
        place: nowhere(),
        damaged: false,
    };
    let precondition = order.precondition.clone();
    let write =
        Write::Commit(ObjectCommit { stored, precondition, is_first_version: false, is_reference: false });
    encode(&write, false, &mut commit);
    let (role, joined) = match &order.role {
        StagedRole::Whole => (0, ""),
        StagedRole::Part => (1, ""),
        StagedRole::Joined(words) => (2, &**words),
    };
    let declared = order.declared;
    let mut details = vec![role, u8::from(declared.is_some())];
    details.extend_from_slice(declared.unwrap_or(NO_CONTENT).as_bytes());
    for part in [&commit, order.words.as_bytes(), joined.as_bytes()] {
        details.extend_from_slice(&(part.len() as u64).to_le_bytes());
        details.extend_from_slice(part);
    }
    details
}

fn decode_order(details: &[u8], id: &UploadId) -> Option<StagedOrder> {
    let mut reader = Reader(details);
    let [role, is_declared] = reader.array()?;
    let hash = ContentHash::from_bytes(reader.array()?);
    let declared = match is_declared {
        0 => None,
        1 => Some(hash),
        _ => return None,
    };
    let commit = reader.part()?;
    let words = std::str::from_utf8(reader.part()?).ok()?;
    let joined = std::str::from_utf8(reader.part()?).ok()?;
    let Ok(Write::Commit(commit)) = decode(commit, NO_CONTENT, nowhere()) else { return None };
    let ObjectCommit { stored, precondition, .. } = commit;
    let mut object = stored.object;
    (object.status, object.content_hash, object.size_bytes) = (ObjectStatus::Writing, None, None);
    let role = match role {
        0 => StagedRole::Whole,
        1 => StagedRole::Part,
        2 => StagedRole::Joined(joined.into()),
        _ => return None,
    };
    reader.0.is_empty().then(|| StagedOrder {
        id: *id,
        object,
        precondition,
        declared,
        words: words.into(),
        role,
    })
}

const NO_CONTENT: ContentHash = ContentHash::from_bytes([0; 32]);

fn nowhere() -> Place {
    Place::File { instance: InstanceId::from_i64(0), number: 0 }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn part(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::application::fakes::an_object;
    use crate::domain::value_objects::{
        ContentType, EntityTags, Key, Precondition, StorageClass, TenantMark,
    };

    fn an_upload() -> StagedUpload {
        let mut object = an_object("models", "acme", Some("a/b"));
        object.status = ObjectStatus::Writing;
        (object.content_hash, object.size_bytes) = (None, None);
        object.content_type = ContentType::parse("text/plain; charset=utf-8").unwrap();
        object.key = Some(Key::parse("a/b").unwrap());
        object.metadata.insert("filename", "x y").unwrap();
        let order = StagedOrder {
            id: UploadId::generate(StorageClass::Hot, TenantMark::from_u64(1)),
            object,
            precondition: Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() },
            declared: Some(ContentHash::from_bytes([7; 32])),
            words: "filename eCB5".into(),
            role: StagedRole::Joined("final;/a /b".into()),
        };
        StagedUpload { order, progress: progress(0) }
    }

    fn progress(offset: u64) -> StagedProgress {
        let expires_at = Timestamp::from_millis(1_795_468_200_120);
        StagedProgress { offset, length: Some(100), expires_at, is_done: false }
    }

    fn slot(number: u64, content: &[u8]) -> Slot {
        let mut hasher = Sha256::new();
        hasher.update(content);
        Slot { number, progress: progress(content.len() as u64), hasher }
    }

    #[test]
    fn an_upload_is_read_as_it_was_written() {
        let file = tempfile::tempfile().unwrap();
        for role in [StagedRole::Whole, StagedRole::Part, an_upload().order.role] {
            let mut upload = an_upload();
            upload.order.role = role;
            upload.order.declared = None;
            for upload in [an_upload(), upload] {
                write_first(&file, &upload).unwrap();
                assert_eq!(read_order(&file, &upload.order.id).unwrap().unwrap(), upload.order);
                let first = read_slot(&file, &upload.order.id).unwrap().unwrap();
                assert_eq!((first.number, first.progress), (0, upload.progress));
            }
        }
    }

    #[test]
    fn the_state_of_a_hash_goes_on_from_any_byte() {
        let id = an_upload().order.id;
        let content: Vec<u8> = (0..300u32).map(|index| (index * 7) as u8).collect();
        let whole = Sha256::digest(&content);
        for split in 0..content.len() {
            let kept = slot(1, &content[..split]).encode(&id);
            let mut hasher = Slot::decode(&kept, &id).unwrap().hasher;
            hasher.update(&content[split..]);
            assert_eq!(hasher.finish(), whole, "{split}");
        }
    }

    #[test]
    fn whatever_byte_is_altered_no_offset_goes_ahead() {
        let upload = an_upload();
        let id = &upload.order.id;
        let mut file = tempfile::tempfile().unwrap();
        write_first(&file, &upload).unwrap();
        write_slot(&file, id, &slot(1, b"ten bytes.")).unwrap();
        write_slot(&file, id, &slot(2, b"ten bytes.and ten..")).unwrap();
        let newest = |file: &File| read_slot(file, id).unwrap().map(|slot| slot.progress.offset);
        assert_eq!(newest(&file), Some(19));
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for index in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                file.write_all_at(&[bytes[index] ^ bit], index as u64).unwrap();
                let in_newest = index < SLOT_BYTES;
                assert_eq!(newest(&file), Some(if in_newest { 10 } else { 19 }), "{index}");
                let order = read_order(&file, id).unwrap();
                assert_eq!(order.is_some(), index < 2 * SPACING_BYTES as usize, "{index}");
            }
            file.write_all_at(&bytes[index..=index], index as u64).unwrap();
        }
        // Torn at any byte, the newest one gives way to the one before.
        let torn = slot(4, b"ten bytes.and ten..and more").encode(id);
        for length in 1..SLOT_BYTES {
            file.write_all_at(&bytes[..SLOT_BYTES], 0).unwrap();
            file.write_all_at(&torn[..length], 0).unwrap();
            // As long as nothing of it differs, it is still the one that was there.
            let fell_back = if torn[..length] == bytes[..length] { 19 } else { 10 };
            assert_eq!(newest(&file), Some(fell_back), "{length}");
        }
        // And one of another upload, or in the wrong place, is none.
        let other = UploadId::generate(StorageClass::Hot, TenantMark::from_u64(1));
        assert!(read_slot(&file, &other).unwrap().is_none());
        file.write_all_at(&slot(3, b"abc").encode(id), 0).unwrap();
        assert_eq!(newest(&file), Some(10));
        file.set_len(20).unwrap();
        file.flush().unwrap();
        assert_eq!(newest(&file), None);
        assert!(read_order(&file, id).unwrap().is_none());
    }
}
