//! `just_storage scrub`: reads every blob at a bounded rate and compares it with its hash. What is lost or altered is
//! marked, so that it is never served again and the next upload of its content replaces it.

use std::io::{self, IoSliceMut};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use sha2::{Digest as _, Sha256};

use super::gc::name;
use super::progress::Progress;
use super::store::Store;
use super::{MaintenanceError, Verdict};
use crate::config::StoreArguments;
use crate::domain::value_objects::ContentHash;
use crate::infrastructure::persistence::{BlobFilter, BlobRow};
use crate::infrastructure::storage::{Extent, open_stored};

/// What is read at once.
const READ_BYTES: usize = 1 << 20;
/// `RWF_DONTCACHE` (preadv2(2), Linux 6.14): what the scrub brings into the page cache leaves it at once, and what was
/// there before, because it is in use, stays.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What `scrub` is told.
#[derive(Debug, Args)]
pub struct ScrubArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// How many bytes are read in a second at most
    #[arg(long, env, value_name = "BYTES", default_value_t = 100 << 20, value_parser = clap::value_parser!(u64).range(1 << 16..=1 << 40))]
    scrub_bytes_per_second: u64,
}

pub(super) async fn scrub(arguments: ScrubArguments) -> Result<Verdict, MaintenanceError> {
    let bytes_per_second = arguments.scrub_bytes_per_second;
    Store::with(&arguments.store.into_paths()?, async |store| scrub_all(store, bytes_per_second).await).await
}

async fn scrub_all(store: &Store, bytes_per_second: u64) -> Result<Verdict, MaintenanceError> {
    let mut reader = Reader {
        pace: Pace::new(bytes_per_second),
        progress: Progress::new("scrubbed", total_bytes(store).await?),
        buffer: vec![0; READ_BYTES],
        flags: DONT_CACHE,
    };
    let mut damaged = 0;
    let mut pages = store.blobs(BlobFilter::All);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            damaged += u64::from(scrub_blob(store, &mut reader, row).await?);
        }
    }
    reader.progress.finish();
    if damaged == 0 {
        return Ok(Verdict::Clean);
    }
    println!("{damaged} of them are damaged; whoever uploads their content again mends them");
    Ok(Verdict::NotClean)
}

async fn total_bytes(store: &Store) -> Result<u64, MaintenanceError> {
    let (mut pages, mut total) = (store.blobs(BlobFilter::All), 0);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(total);
        }
        total += page.iter().map(|row| row.size_bytes).sum::<u64>();
    }
}

/// Whether the blob is damaged; the database knows it then.
async fn scrub_blob(store: &Store, reader: &mut Reader, row: &BlobRow) -> Result<bool, MaintenanceError> {
    let root = store.roots.of(row.location.storage_class);
    let read = match open_stored(root, &row.location) {
        Ok(Some(extent)) => reader.read(&extent).await,
        Ok(None) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    };
    reader.progress.add_blob();
    let what = match read {
        Ok((hash, _)) if hash == row.location.content_hash => None,
        Ok((_, length)) if length != row.size_bytes => {
            Some(format!("{length} bytes instead of {}", row.size_bytes))
        }
        Ok((hash, _)) => Some(format!("its bytes have the hash {hash}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("its file is gone".into()),
        Err(error) => Some(format!("it cannot be read: {error}")),
    };
    match what {
        None => {
            if row.damaged && store.database.mark(&row.location, false).await? {
                reader.progress.say(&format!("{}: whole after all, no longer marked", name(&row.location)));
            }
            Ok(false)
        }
        // The row names another copy by now, or none: then this one was rightly removed.
        Some(_) if !store.still_serves(row).await? => Ok(false),
        Some(what) => {
            let objects = row.ref_count;
            reader.progress.say(&format!("{}: {what}; {objects} objects name it", name(&row.location)));
            Ok(row.damaged || store.database.mark(&row.location, true).await?)
        }
    }
}

struct Reader {
    pace: Pace,
    progress: Progress,
    buffer: Vec<u8>,
    flags: ReadWriteFlags,
}

impl Reader {
    /// The hash and the length of what is there of a blob.
    async fn read(&mut self, blob: &Extent) -> io::Result<(ContentHash, u64)> {
        let (mut hasher, mut length) = (Sha256::new(), 0);
        while length < blob.length {
            let wanted = self.buffer.len().min(usize::try_from(blob.length - length).unwrap_or(usize::MAX));
            let room = &mut [IoSliceMut::new(&mut self.buffer[..wanted])];
            let count = match preadv2(&blob.file, room, blob.offset + length, self.flags) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                // This kernel or file system does not know it.
                Err(Errno::OPNOTSUPP | Errno::INVAL) if self.flags == DONT_CACHE => {
                    self.flags = ReadWriteFlags::empty();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            hasher.update(&self.buffer[..count]);
            length += count as u64;
            self.progress.add_bytes(count as u64);
            self.pace.wait_after(count as u64).await;
        }
        Ok((ContentHash::from_bytes(hasher.finalize().into()), length))
    }
}

/// Keeps a rate: never ahead of it, and no making up for what was missed.
struct Pace {
    bytes_per_second: u64,
    /// When the next bytes may be read.
    next: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Instant::now() }
    }

    async fn wait_after(&mut self, bytes: u64) {
        tokio::time::sleep_until(self.read(bytes, Instant::now()).into()).await;
    }

    /// Counts bytes that were read, and says when the next may be.
    fn read(&mut self, bytes: u64, now: Instant) -> Instant {
        self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_not_made_up_for() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let mut pace = Pace { bytes_per_second: 1000, next: start };
        assert_eq!(pace.read(2000, start), start + seconds(2));
        assert_eq!(pace.read(1000, start + seconds(2)), start + seconds(3));
        // The disk took longer than the rate allows: what was missed is missed.
        assert_eq!(pace.read(1000, start + seconds(10)), start + seconds(11));
    }
}
