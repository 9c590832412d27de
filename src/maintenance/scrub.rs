//! `just_storage scrub`: reads every blob at a bounded rate and compares it with its hash. What is lost or altered is
//! marked, so that it is never served again and the next upload of its content replaces it.

use clap::Args;

use super::gc::name;
use super::progress::Progress;
use super::store::Store;
use super::{MaintenanceError, Verdict};
use crate::config::StoreArguments;
use crate::infrastructure::persistence::{BlobFilter, BlobRow, CheckOutcome, Pace, Sight, conclude};
use crate::infrastructure::storage::ReadBuffer;

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
        buffer: ReadBuffer::default(),
    };
    let (mut damaged, mut unread) = (0_u64, 0_u64);
    let mut pages = store.blobs(BlobFilter::All);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            match scrub_blob(store, &mut reader, row).await? {
                Found::Good => {}
                Found::Damaged => damaged += 1,
                Found::Unread => unread += 1,
            }
        }
    }
    reader.progress.finish();
    if damaged > 0 {
        println!("{damaged} of them are damaged; whoever uploads their content again mends them");
    }
    if unread > 0 {
        println!("{unread} of them could not be read, which says nothing of their bytes");
    }
    Ok(if damaged == 0 && unread == 0 { Verdict::Clean } else { Verdict::NotClean })
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

/// What became of one blob.
enum Found {
    Good,
    /// The database knows it.
    Damaged,
    Unread,
}

async fn scrub_blob(store: &Store, reader: &mut Reader, row: &BlobRow) -> Result<Found, MaintenanceError> {
    let sight = reader.read(store, row).await;
    reader.progress.add_blob();
    let blob = name(&row.location);
    Ok(match conclude(&store.database, &store.roots, row, sight).await? {
        CheckOutcome::Whole | CheckOutcome::Replaced => Found::Good,
        CheckOutcome::Mended => {
            reader.progress.say(&format!("{blob}: whole after all, no longer marked"));
            Found::Good
        }
        CheckOutcome::Damaged { what, .. } => {
            reader.progress.say(&format!("{blob}: {what}; {} objects name it", row.ref_count));
            Found::Damaged
        }
        CheckOutcome::Unread(error) => {
            reader.progress.say(&format!("{blob}: it could not be read: {error}"));
            Found::Unread
        }
        CheckOutcome::RootAway => {
            let (class, path) =
                (row.location.storage_class, store.roots.of(row.location.storage_class).path().into());
            return Err(MaintenanceError::ForeignRoot { class, path });
        }
    })
}

struct Reader {
    pace: Pace,
    progress: Progress,
    buffer: ReadBuffer,
}

impl Reader {
    async fn read(&mut self, store: &Store, row: &BlobRow) -> Sight {
        let root = store.roots.of(row.location.storage_class);
        let mut reading = match Sight::begin(root, row, &mut self.buffer) {
            Ok(reading) => reading,
            Err(sight) => return sight,
        };
        loop {
            match reading.read_piece(&mut self.buffer) {
                Ok(0) => return Sight::end(reading, row),
                Ok(bytes) => {
                    self.progress.add_bytes(bytes);
                    self.pace.wait_after(bytes).await;
                }
                Err(error) => return Sight::Unread(error),
            }
        }
    }
}
