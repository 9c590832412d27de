//! Whether a stored blob is what its row says, and what follows where it is not: for the tool that scrubs and for the
//! server that does.
//!
//! A blob may move, give way to another copy or be removed at any time meanwhile. So what is found to be wrong counts only
//! if the row still names the very copy that was read: it is marked by its place.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::database::Database;
use super::errors::DatabaseError;
use super::maintenance::BlobRow;
use crate::domain::value_objects::{ContentHash, StorageClass};
use crate::infrastructure::storage::{BlobReading, ReadBuffer, Roots, StorageRoot};

/// What a look at a blob has shown.
#[derive(Debug)]
pub(crate) enum Sight {
    /// Its bytes are what they should be.
    Whole,
    /// They are not.
    Lost(Loss),
    /// They could not be read.
    Unread(io::Error),
}

/// What has become of a blob's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// There is nothing at their place, or something else.
    Gone,
    /// There are so many of them.
    OfAnotherLength {
        /// How many there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
    /// They have this hash.
    Altered(ContentHash),
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("its file is gone"),
            Self::OfAnotherLength { found, expected } => {
                write!(formatter, "{found} bytes instead of {expected}")
            }
            Self::Altered(hash) => write!(formatter, "its bytes have the hash {hash}"),
        }
    }
}

impl Sight {
    /// Opens a blob; what is wrong without reading it is told at once. Blocks.
    pub(crate) fn begin(
        root: &StorageRoot,
        row: &BlobRow,
        buffer: &mut ReadBuffer,
    ) -> Result<BlobReading, Self> {
        match BlobReading::open(root, &row.location, buffer) {
            Ok(Some(reading)) if reading.length() == row.size_bytes => Ok(reading),
            Ok(Some(reading)) => {
                let (found, expected) = (reading.length(), row.size_bytes);
                Err(Self::Lost(Loss::OfAnotherLength { found, expected }))
            }
            Ok(None) => Err(Self::Lost(Loss::Gone)),
            Err(error) => Err(Self::Unread(error)),
        }
    }

    /// Of a blob that was read to its end.
    pub(crate) fn end(reading: BlobReading, row: &BlobRow) -> Self {
        match reading.content_hash() {
            hash if hash == row.location.content_hash => Self::Whole,
            hash => Self::Lost(Loss::Altered(hash)),
        }
    }

    /// Reads a whole blob. Blocks.
    pub(super) fn of(root: &StorageRoot, row: &BlobRow, buffer: &mut ReadBuffer) -> Self {
        let mut reading = match Self::begin(root, row, buffer) {
            Ok(reading) => reading,
            Err(sight) => return sight,
        };
        loop {
            match reading.read_piece(buffer) {
                Ok(0) => return Self::end(reading, row),
                Ok(_) => {}
                Err(error) => return Self::Unread(error),
            }
        }
    }
}

/// What follows from it.
#[derive(Debug)]
pub(crate) enum CheckOutcome {
    /// It is what it should be.
    Whole,
    /// It is, and was marked as damaged until now.
    Mended,
    /// It is lost or altered, and the database knows.
    Damaged {
        /// In words.
        what: String,
        /// Whether the database did not know before.
        is_news: bool,
    },
    /// The row names another copy by now, or none: then this one was rightly removed.
    Replaced,
    /// It could not be read, which says nothing of its bytes.
    Unread(io::Error),
    /// Its root does not show that it is the database's, so that nothing can be said of what is in it: its disk may not be
    /// mounted.
    RootAway,
}

/// Tells the database what was seen, where it has to know.
pub(crate) async fn conclude(
    database: &Database,
    roots: &Roots,
    row: &BlobRow,
    sight: Sight,
) -> Result<CheckOutcome, DatabaseError> {
    let what = match sight {
        Sight::Whole => {
            let mended = row.damaged && database.mark(&row.location, false).await?;
            return Ok(if mended { CheckOutcome::Mended } else { CheckOutcome::Whole });
        }
        Sight::Unread(error) if !is_of_the_disk(&error) => return Ok(CheckOutcome::Unread(error)),
        Sight::Unread(error) => format!("it cannot be read: {error}"),
        Sight::Lost(Loss::Gone) if !is_there(database, roots, row.location.storage_class).await? => {
            return Ok(CheckOutcome::RootAway);
        }
        Sight::Lost(loss) => loss.to_string(),
    };
    let now = database.blob((row.location.content_hash, row.location.storage_class)).await?;
    match now {
        Some(now) if now.location != row.location => Ok(CheckOutcome::Replaced),
        None => Ok(CheckOutcome::Replaced),
        Some(now) if now.damaged => Ok(CheckOutcome::Damaged { what, is_news: false }),
        Some(_) => Ok(match database.mark(&row.location, true).await? {
            true => CheckOutcome::Damaged { what, is_news: true },
            false => CheckOutcome::Replaced,
        }),
    }
}

/// Whether the error says that the disk does not have the bytes any more. Others are of this process or of who may what
/// (no descriptors, no memory, no permission).
fn is_of_the_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // The last two: how block devices tell a sector that cannot be read, and how file systems tell that what they hold
    // is not what they wrote.
    let of_the_disk = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|code| of_the_disk.iter().any(|errno| errno.raw_os_error() == code))
}

/// Whether the root of a class is there, and is the one that the database knows.
pub(super) async fn is_there(
    database: &Database,
    roots: &Roots,
    class: StorageClass,
) -> Result<bool, DatabaseError> {
    let known = database.root(class).await?.map(|row| row.identity);
    let root = roots.of(class).clone();
    let found = spawn_blocking(move || root.read_identity()).await;
    Ok(known.is_some() && found.is_ok_and(|found| found.is_ok_and(|found| found == known)))
}

/// Keeps a rate: never ahead of it, and no making up for what was missed.
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the next bytes may be read.
    next: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Instant::now() }
    }

    /// Waits as long as so many bytes may take.
    pub(crate) async fn wait_after(&mut self, bytes: u64) {
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

    #[test]
    fn what_a_process_lacks_says_nothing_of_a_disk() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::INVAL] {
            assert!(!is_of_the_disk(&errno.into()), "{errno}");
        }
        for errno in [Errno::IO, Errno::NODATA, Errno::UCLEAN] {
            assert!(is_of_the_disk(&errno.into()), "{errno}");
        }
        assert!(!is_of_the_disk(&io::ErrorKind::UnexpectedEof.into()));
    }
}
