//! A hash table in a file that grows by one bucket at a time: linear hashing (Litwin 1980, "Linear Hashing: A New Tool for
//! File and Table Addressing"). It is a cache: where a bucket is full, an entry makes room for a newer one.
//!
//! ```text
//! file    ┌ bucket 0 ─┬ bucket 1 ─┬ … ┬ bucket n − 1 ┐        1,024 bytes each
//! bucket  64 entries, in no order
//! entry   tag (4) · what stands under it (12)            all zeros: empty
//! ```
//! With n buckets and 2ᴸ ≤ n < 2ᴸ⁺¹, a tag's bucket is its lower L + 1 bits where there is such a bucket, and its lower L bits
//! otherwise. The next bucket takes over what of bucket n − 2ᴸ then belongs to it.
//!
//! Any thread looks, one thread writes. Who looks in the middle of a write may miss what is there, and may see half an entry;
//! both are for the caller to bear. Nobody waits for a disk: what is not in the page cache is not found.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2, pwrite};
use smallvec::SmallVec;

const BUCKET_BYTES: usize = 1024;
const ENTRY_BYTES: usize = 16;
const ENTRIES: usize = BUCKET_BYTES / ENTRY_BYTES;
/// How many buckets there are at the beginning.
const BUCKETS_MIN: u32 = 64;
/// How many entries a bucket has on average before there is one more. Those that have not been divided yet have up to twice as
/// many: of these, one in five hundred is full.
const ENTRIES_MEAN: u64 = 22;

/// What stands under a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Some bits of a name, which others may share. Never 0.
    pub(super) tag: u32,
    /// Any numbers. One with the same tag and the same first number takes the place of the one before.
    pub(super) words: [u32; 3],
}

impl Entry {
    fn is_before(&self, newer: &Self) -> bool {
        self.tag == newer.tag && self.words[0] == newer.words[0]
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let words = std::iter::once(&self.tag).chain(&self.words);
        for (room, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *room = word.to_le_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let word = |index: usize| bytes.as_chunks().0.get(index).map_or(0, |word| u32::from_le_bytes(*word));
        Self { tag: word(0), words: [word(1), word(2), word(3)] }
    }
}

/// What may stand under one tag: hardly ever more than one.
pub(super) type Candidates = SmallVec<[Entry; 2]>;

/// A bucket in memory.
struct Bucket([u8; BUCKET_BYTES]);

impl Bucket {
    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.as_chunks().0.iter().map(Entry::decode)
    }

    /// Of these, as many as there is room for.
    fn of(entries: impl Iterator<Item = Entry>) -> Self {
        let mut bucket = Self([0; BUCKET_BYTES]);
        for (room, entry) in bucket.0.as_chunks_mut().0.iter_mut().zip(entries) {
            *room = entry.encode();
        }
        bucket
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    buckets: AtomicU32,
    buckets_max: u32,
}

/// What came of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The table has one more.
    New,
    /// It has taken the place of another one.
    InPlace,
    /// Its bucket is not in memory: it is fetched now, for the next one.
    NotInMemory,
}

impl Table {
    /// An empty table in an empty file, of up to so many buckets.
    pub(super) fn new(file: File, buckets_max: u32) -> io::Result<Self> {
        let table = Self { file, buckets: AtomicU32::new(BUCKETS_MIN), buckets_max };
        for bucket in 0..BUCKETS_MIN {
            table.write(bucket, &Bucket([0; BUCKET_BYTES]))?;
        }
        Ok(table)
    }

    /// What may stand under a tag, as far as that is in memory.
    pub(super) fn find(&self, tag: u32) -> Candidates {
        let bucket = bucket_of(tag, self.buckets.load(Ordering::Acquire));
        let Some(bucket) = self.read(bucket) else { return Candidates::new() };
        bucket.entries().filter(|entry| entry.tag == tag).collect()
    }

    /// Notes an entry. `count` is how many there are.
    ///
    /// # Errors
    /// As write(2). Nobody may look into the table any more then.
    pub(super) fn insert(&self, entry: Entry, count: u64) -> io::Result<Inserted> {
        let buckets = self.buckets.load(Ordering::Relaxed);
        if count >= u64::from(buckets) * ENTRIES_MEAN && buckets < self.buckets_max {
            self.split(buckets)?;
        }
        let index = bucket_of(entry.tag, self.buckets.load(Ordering::Relaxed));
        let Some(bucket) = self.read(index) else {
            self.fetch(index);
            return Ok(Inserted::NotInMemory);
        };
        let before = bucket.entries().position(|there| there.is_before(&entry));
        let room = || bucket.entries().position(|there| there.tag == 0);
        let (place, inserted) = match (before, before.is_none().then(room).flatten()) {
            (Some(place), _) => (place, Inserted::InPlace),
            (None, Some(place)) => (place, Inserted::New),
            // Which one goes is as good as random.
            (None, None) => (entry.words[2] as usize % ENTRIES, Inserted::InPlace),
        };
        let offset = offset_of(index) + (place * ENTRY_BYTES) as u64;
        self.write_all(&entry.encode(), offset)?;
        Ok(inserted)
    }

    /// Adds a bucket.
    fn split(&self, buckets: u32) -> io::Result<()> {
        let source = buckets - (1 << buckets.ilog2());
        let Some(bucket) = self.read(source) else {
            // Later, then.
            self.fetch(source);
            return Ok(());
        };
        let used = || bucket.entries().filter(|entry| entry.tag != 0);
        let goes = |entry: &Entry| bucket_of(entry.tag, buckets + 1) == buckets;
        self.write(buckets, &Bucket::of(used().filter(goes)))?;
        // Who looks from now on looks there.
        self.buckets.store(buckets + 1, Ordering::Release);
        self.write(source, &Bucket::of(used().filter(|entry| !goes(entry))))
    }

    fn read(&self, bucket: u32) -> Option<Bucket> {
        let mut read = Bucket([0; BUCKET_BYTES]);
        let mut room = [IoSliceMut::new(&mut read.0)];
        let length = preadv2(&self.file, &mut room, offset_of(bucket), ReadWriteFlags::NOWAIT);
        (length == Ok(BUCKET_BYTES)).then_some(read)
    }

    fn write(&self, bucket: u32, content: &Bucket) -> io::Result<()> {
        self.write_all(&content.0, offset_of(bucket))
    }

    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match pwrite(&self.file, bytes, offset)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Has the kernel read a bucket.
    fn fetch(&self, bucket: u32) {
        // It is only later without it.
        let _ = fadvise(
            &self.file,
            offset_of(bucket),
            std::num::NonZeroU64::new(BUCKET_BYTES as u64),
            Advice::WillNeed,
        );
    }
}

fn offset_of(bucket: u32) -> u64 {
    u64::from(bucket) * BUCKET_BYTES as u64
}

fn bucket_of(tag: u32, buckets: u32) -> u32 {
    let lower = (1_u32 << buckets.ilog2()) - 1;
    let wide = tag & (lower << 1 | 1);
    if wide < buckets { wide } else { tag & lower }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32) -> Entry {
        // Odd multipliers make all tags different, and their lower bits as good as random.
        let tag = number.wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA6B);
        Entry { tag: tag.max(1), words: [number, 5, number / 7] }
    }

    fn table(buckets_max: u32) -> Table {
        Table::new(tempfile::tempfile().unwrap(), buckets_max).unwrap()
    }

    /// Inserts the entries of these numbers, and says how many the table counts.
    fn fill(table: &Table, numbers: std::ops::Range<u32>) -> u64 {
        let insert = |count, number| match table.insert(entry(number), count).unwrap() {
            Inserted::New => count + 1,
            Inserted::InPlace => count,
            Inserted::NotInMemory => panic!("what has just been written is in memory"),
        };
        numbers.fold(0, insert)
    }

    fn found(table: &Table, numbers: std::ops::Range<u32>) -> usize {
        numbers.filter(|number| table.find(entry(*number).tag).contains(&entry(*number))).count()
    }

    #[test]
    fn what_was_inserted_is_found_while_the_table_grows() {
        let table = table(1 << 20);
        let count = fill(&table, 0..100_000);
        assert!(table.buckets.load(Ordering::Relaxed) as usize > 100_000 / ENTRIES);
        let (lost, found) = (100_000 - count, found(&table, 0..100_000));
        assert!(lost < 100, "{lost} went for others");
        assert!(found as u64 >= count - lost, "{found} of {count}");
        assert_eq!(self::found(&table, 100_000..110_000), 0);
    }

    #[test]
    fn a_full_bucket_lets_an_entry_go_for_a_newer_one() {
        let table = table(BUCKETS_MIN);
        let room = BUCKETS_MIN * ENTRIES as u32;
        let count = fill(&table, 0..4 * room);
        assert_eq!(table.buckets.load(Ordering::Relaxed), BUCKETS_MIN);
        assert_eq!(count, u64::from(room));
        assert_eq!(found(&table, 0..4 * room), room as usize);
        assert_eq!(found(&table, 4 * room - 1..4 * room), 1, "the newest is there");
    }

    #[test]
    fn an_entry_takes_the_place_of_the_one_before() {
        let table = table(BUCKETS_MIN);
        assert_eq!(table.insert(entry(7), 0).unwrap(), Inserted::New);
        let newer = Entry { words: [7, 8, 9], ..entry(7) };
        assert_eq!(table.insert(newer, 1).unwrap(), Inserted::InPlace);
        assert_eq!(table.find(entry(7).tag).to_vec(), [newer]);
        let other = Entry { words: [9; 3], ..entry(7) };
        assert_eq!(table.insert(other, 1).unwrap(), Inserted::New);
        assert_eq!(table.find(entry(7).tag).to_vec(), [newer, other]);
    }

    #[test]
    fn a_tag_belongs_to_the_bucket_that_it_goes_to_when_one_is_added() {
        for buckets in BUCKETS_MIN..1000 {
            for tag in (1..100_000).step_by(37) {
                let (before, after) = (bucket_of(tag, buckets), bucket_of(tag, buckets + 1));
                let source = buckets - (1 << buckets.ilog2());
                assert!(before < buckets && (after == before || (before == source && after == buckets)));
            }
        }
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let entry = Entry { tag: 0x0102_0304, words: [0x8506_0708, 0x090A_0B0C, 0x0D0E_0F10] };
        assert_eq!(Entry::decode(&entry.encode()), entry);
    }
}
