//! What is read from a pack. Checksums keep strange bytes out, so that besides raw bytes, whole batches with strange
//! contents are made here, and then changed. The first byte says which.

use just_storage::domain::value_objects::{ContentHash, PackId, Place};
use just_storage::infrastructure::storage::log_record;
use just_storage::infrastructure::storage::pack_format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchLink, PackHeader, RecordHeader, RecordKind, records,
};

const PACK: PackId = PackId::from_u64(0x0123_4567_89ab_cdef);
const OFFSET: u64 = 4096;

pub fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => raw(bytes),
        1 => change(bytes),
        2 => batch(bytes),
        _ => checksummed(bytes),
    }
}

/// Whatever a disk may hold.
fn raw(bytes: &[u8]) {
    if let Ok(header) = PackHeader::decode(bytes) {
        assert_eq!(PackHeader::decode(&header.encode()), Ok(header));
    }
    if let Ok(header) = BatchHeader::decode(bytes, PACK) {
        assert!(header.padded_length() >= header.length);
        let _ = header.next_link();
        let _ = header.verify(bytes);
    }
    if let Ok(header) = RecordHeader::decode(bytes) {
        let _ = header.record_bytes();
    }
}

/// The details of a change: what can be read can be written, and then it reads the same.
fn change(bytes: &[u8]) {
    let (hash, here) = (ContentHash::from_bytes([7; 32]), Place::Pack { pack: PACK, offset: OFFSET });
    let Ok(write) = log_record::decode(bytes, hash, here) else { return };
    assert!(log_record::is_logged(&write));
    let mut details = Vec::new();
    log_record::encode(&write, false, &mut details);
    assert_eq!(log_record::decode(&details, hash, here), Ok(write));
}

/// A batch whose records have these contents, each up to a zero byte; then one bit of it is another one.
fn batch(bytes: &[u8]) {
    let Some((bit, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(64).collect();
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    for part in &parts {
        append(&mut batch, part);
    }
    let count = u32::try_from(parts.len()).unwrap_or(0);
    BatchHeader::seal(&mut batch, PACK, BatchLink::FIRST, count);
    let Ok(header) = BatchHeader::decode(&batch, PACK) else { panic!("a batch that was sealed is one") };
    assert!(header.verify(&batch) && header.length == batch.len() as u64);
    let read: Result<Vec<_>, _> = records(&batch, PACK, OFFSET).collect();
    let bodies = read.map(|records| records.iter().map(|record| record.body.to_vec()).collect::<Vec<_>>());
    assert_eq!(bodies, Ok(parts.iter().map(|part| part.to_vec()).collect()));

    let bit = usize::from(u16::from_le_bytes(*bit)) % (batch.len() * 8);
    batch[bit / 8] ^= 1 << (bit % 8);
    assert!(!BatchHeader::decode(&batch, PACK).is_ok_and(|header| header.verify(&batch)), "bit {bit}");
    // Read all the same, as by whoever looks for what can be saved.
    let _ = records(&batch, PACK, OFFSET).count();
}

/// A record that says any lengths of itself, with the checksums that belong to it.
fn checksummed(bytes: &[u8]) {
    let Some((lengths, rest)) = bytes.split_first_chunk::<8>() else { return };
    let number =
        |at: usize| u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]);
    let (body_bytes, details_bytes) = (number(0), number(4));
    let body = &rest[..rest.len().min(body_bytes as usize)];
    let details = &rest[body.len()..];
    let details = &details[..details.len().min(details_bytes as usize)];
    let header = RecordHeader {
        kind: RecordKind::Change,
        pack: PACK,
        offset: OFFSET + BATCH_HEADER_BYTES as u64,
        sequence: 1,
        content_hash: ContentHash::from_bytes([7; 32]),
        body_bytes,
        body_checksum: crc32c::crc32c(body),
        details_bytes,
    };
    let batch = [&[0; BATCH_HEADER_BYTES], &header.encode(details)[..], rest].concat();
    match records(&batch, PACK, OFFSET).next() {
        Some(Ok(record)) => assert_eq!((record.header, record.body, record.details), (header, body, details)),
        Some(Err(_)) => assert!(body.len() + details.len() < body_bytes as usize + details_bytes as usize),
        None => panic!("there is a record"),
    }
}

fn append(batch: &mut Vec<u8>, body: &[u8]) {
    let header = RecordHeader {
        kind: RecordKind::Data,
        pack: PACK,
        offset: OFFSET + batch.len() as u64,
        sequence: 0,
        content_hash: ContentHash::from_bytes([7; 32]),
        body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        body_checksum: crc32c::crc32c(body),
        details_bytes: 0,
    };
    header.append_record(batch, body, &[]);
}
