//! Small blobs that lie behind each other in a pack, as those do that came together: one look into the page cache reads many
//! of them. Runs on a data-plane core, and waits for nothing.
//!
//! ```text
//! header · blob · details · header · blob · details · padding, header of a batch · header · blob …
//! └────────────────────── one read, RUN_BYTES_MAX at most ───────────────────────────────────┘
//! ```

use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader};
use crate::domain::value_objects::{ContentHash, PackId};
use crate::infrastructure::data_plane::runtime::DataFile;

/// How much is read at once, with all that lies between the blobs: the core looks through it in about 50 µs.
const RUN_BYTES_MAX: usize = 128 * 1024;
/// And so many blobs, however small they are.
const RUN_BLOBS_MAX: usize = 64;
/// What may lie between one blob and the next. More than that is another run.
const GAP_BYTES_MAX: u64 = 8 * 1024;

/// One of the blobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunBlob {
    /// Where its record begins.
    pub(super) offset: u64,
    pub(super) content_hash: ContentHash,
    pub(super) size_bytes: u64,
}

impl RunBlob {
    /// Where its bytes end.
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(RECORD_HEADER_BYTES as u64)?.checked_add(self.size_bytes)
    }
}

/// Hands the blobs at the beginning of `blobs` that lie behind each other to `take`, as long as they are in memory and as they
/// were written, and says how many those were. `scratch` is memory that is used over and over.
pub(super) fn read_run(
    (file, pack): (&DataFile, PackId),
    blobs: impl Iterator<Item = RunBlob> + Clone,
    scratch: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
) -> usize {
    let Some((start, length, count)) = extent(blobs.clone()) else { return 0 };
    scratch.resize(RUN_BYTES_MAX, 0);
    let read = file.read_cached_into(&mut scratch[..length], start);
    let read = &scratch[..read];
    let contents = blobs.take(count).map_while(|blob| content(read, blob, start, pack));
    contents.inspect(|content| take(content)).count()
}

/// Where the first of these blobs begins, how long it is with all that lie close enough behind it, and how many they are.
fn extent(mut blobs: impl Iterator<Item = RunBlob>) -> Option<(u64, usize, usize)> {
    let first = blobs.next()?;
    let length_to = |end: u64| {
        let length = usize::try_from(end - first.offset).ok();
        length.filter(|length| *length <= RUN_BYTES_MAX)
    };
    let (mut end, mut count) = (first.end()?, 1);
    let mut length = length_to(end)?;
    for blob in blobs.take(RUN_BLOBS_MAX - 1) {
        let gap = blob.offset.checked_sub(end).filter(|gap| *gap <= GAP_BYTES_MAX);
        let Some((blob_end, blob_length)) =
            gap.and(blob.end()).and_then(|end| length_to(end).map(|length| (end, length)))
        else {
            break;
        };
        (end, length, count) = (blob_end, blob_length, count + 1);
    }
    Some((first.offset, length, count))
}

/// The bytes of a blob out of what was read from `start` on, if its record is all there, is its own, and is as it was written.
fn content(read: &[u8], blob: RunBlob, start: u64, pack: PackId) -> Option<&[u8]> {
    let from = usize::try_from(blob.offset.checked_sub(start)?).ok()?;
    let to = usize::try_from(blob.end()?.checked_sub(start)?).ok()?;
    let (header, content) = read.get(from..to)?.split_at(RECORD_HEADER_BYTES);
    let header = RecordHeader::decode(header).ok()?;
    let is_whole = header.is_of(pack, blob.offset, &blob.content_hash, blob.size_bytes)
        && crc32c::crc32c(content) == header.body_checksum;
    is_whole.then_some(content)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::rc::Rc;

    use super::super::pack_format::RecordKind;
    use super::super::sha256;
    use super::*;
    use crate::infrastructure::data_plane::deadline_list::WaitLimit;
    use crate::infrastructure::data_plane::helpers::HelperPool;
    use crate::infrastructure::data_plane::runtime::{self, IoDriver};

    const PACK: u64 = 7;

    /// A record of these bytes at `offset` of a file, and what it is found by.
    fn write(file: &File, offset: u64, body: &[u8]) -> RunBlob {
        let (pack, content_hash) = (PackId::from_u64(PACK), sha256(body));
        let header = RecordHeader {
            kind: RecordKind::Data,
            pack,
            offset,
            sequence: 0,
            content_hash,
            body_bytes: u32::try_from(body.len()).unwrap(),
            body_checksum: crc32c::crc32c(body),
            details_bytes: 0,
        };
        let mut record = Vec::new();
        header.append_record(&mut record, body, &[]);
        file.write_all_at(&record, offset).unwrap();
        RunBlob { offset, content_hash, size_bytes: body.len() as u64 }
    }

    /// What one look finds of these blobs.
    fn found(file: &File, blobs: &[RunBlob]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let file = file.try_clone().unwrap();
        let read = async {
            let helpers = Rc::new(HelperPool::new(1, WaitLimit::none(), || ()));
            let file = DataFile::from_std(file, IoDriver::IoUring, &helpers).unwrap();
            let take = |content: &[u8]| found.push(content.to_vec());
            let pack = PackId::from_u64(PACK);
            let count = read_run((&file, pack), blobs.iter().copied(), &mut Vec::new(), take);
            file.close().await;
            count
        };
        let count = runtime::run(IoDriver::IoUring, read).unwrap();
        assert_eq!(count, found.len());
        found
    }

    #[test]
    fn what_lies_close_behind_each_other_is_read_together() {
        let file = tempfile::tempfile().unwrap();
        let (first, gap) = (write(&file, 4096, b"first"), GAP_BYTES_MAX);
        let second = write(&file, first.end().unwrap() + gap, &[]);
        let third = write(&file, second.end().unwrap(), &[3; 5000]);
        let far = write(&file, third.end().unwrap() + gap + 1, b"far");
        assert_eq!(found(&file, &[first, second, third, far]), [&b"first"[..], &[], &[3; 5000]]);
        assert_eq!(found(&file, &[far, first]), [b"far"]);
        assert_eq!(found(&file, &[first, first, second]), [b"first"], "it does not lie behind itself");
        assert!(found(&file, &[]).is_empty());
    }

    #[test]
    fn a_run_has_an_end() {
        let file = tempfile::tempfile().unwrap();
        let most = RUN_BYTES_MAX - RECORD_HEADER_BYTES;
        let whole = write(&file, 0, &vec![1; most]);
        assert_eq!(found(&file, &[whole]).len(), 1);
        let longer = write(&file, 0, &vec![1; most + 1]);
        assert!(found(&file, &[longer]).is_empty());
        let half = write(&file, 0, &vec![2; RUN_BYTES_MAX / 2 - RECORD_HEADER_BYTES]);
        let rest = write(&file, half.end().unwrap(), &vec![3; RUN_BYTES_MAX / 2 - RECORD_HEADER_BYTES]);
        assert_eq!(found(&file, &[half, rest]).len(), 2);
        let behind = write(&file, half.end().unwrap() + 1, &vec![3; RUN_BYTES_MAX / 2 - RECORD_HEADER_BYTES]);
        assert_eq!(found(&file, &[half, behind]).len(), 1);
        let empty = |number: usize| write(&file, (number * RECORD_HEADER_BYTES) as u64, b"");
        let many: Vec<_> = (0..=RUN_BLOBS_MAX).map(empty).collect();
        assert_eq!(found(&file, &many).len(), RUN_BLOBS_MAX);
    }

    #[test]
    fn what_is_not_as_it_was_written_ends_a_run() {
        let file = tempfile::tempfile().unwrap();
        let first = write(&file, 0, b"first");
        let second = write(&file, first.end().unwrap(), b"second");
        let cut = RunBlob { offset: second.end().unwrap(), ..second };
        assert_eq!(found(&file, &[first, second, cut]), [&b"first"[..], b"second"]);
        let other = RunBlob { content_hash: first.content_hash, ..second };
        assert_eq!(found(&file, &[first, other]), [b"first"]);
        file.write_all_at(b"X", second.end().unwrap() - 1).unwrap();
        assert_eq!(found(&file, &[first, second]), [b"first"]);
        let far = RunBlob { offset: u64::MAX, ..second };
        assert_eq!(found(&file, &[first, far]), [b"first"]);
        assert!(found(&file, &[far]).is_empty());
    }
}
