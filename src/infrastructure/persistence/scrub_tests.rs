use sha2::{Digest as _, Sha256};

use super::super::batch::BatchContext;
use super::super::database::{DatabaseSettings, DatabaseUrl};
use super::super::recovery::claim_root;
use super::*;
use crate::application::contract::a_commit;
use crate::application::ports::ObjectCommit;
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, InstanceId, StorageClass};
use crate::infrastructure::plane_channel::Write;

const SETTINGS: DatabaseSettings = DatabaseSettings::OF_TEST;
/// As fast as it can: what is tried is what it does, not when.
const AT_ONCE: ScrubSettings =
    ScrubSettings { interval: Duration::from_secs(3600), bytes_per_second: u64::MAX };

/// Some contents, stored as files.
struct World {
    directory: tempfile::TempDir,
    scrub: Scrub,
    commits: Vec<ObjectCommit>,
}

impl World {
    async fn with(blobs: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Arc::new(Database::open(&url, SETTINGS).await.unwrap());
        for class in StorageClass::ALL {
            claim_root(&database, roots.of(class)).await.unwrap();
        }
        let scrub = Scrub::new(database, Latch::default(), roots, (AT_ONCE, false), Arc::default()).unwrap();
        let scrub = Scrub { error_pause: Duration::from_millis(1), ..scrub };
        let mut world = Self { directory, scrub, commits: Vec::new() };
        for number in 1..=blobs {
            world.store(number).await;
        }
        world
    }

    /// A content of as many bytes as its number, whose hash is really its.
    async fn store(&mut self, number: u8) {
        let body = vec![number; number.into()];
        let mut commit = a_commit(None, number, number.into());
        let hash = ContentHash::from_bytes(Sha256::digest(&body).into());
        commit.stored.content_hash = hash;
        commit.stored.object.content_hash = Some(hash);
        std::fs::write(self.path_of(&commit.stored.location()), &body).unwrap();
        let context =
            BatchContext { writer: InstanceId::from_i64(7), now: Timestamp::from_millis(0), tick: 0 };
        let mut next_sequence = self.commits.len() as u64 + 1;
        self.scrub
            .database
            .apply(&[Write::Commit(commit.clone())], &mut next_sequence, context)
            .await
            .unwrap();
        self.commits.push(commit);
    }

    fn path_of(&self, location: &BlobLocation) -> std::path::PathBuf {
        self.scrub.roots.of(location.storage_class).blob_path(location)
    }

    /// Alters the file of a content.
    fn flip(&self, commit: &ObjectCommit) {
        let path = self.path_of(&commit.stored.location());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    /// How many copies the database knows to be no good.
    async fn damaged(&self) -> u64 {
        self.scrub.database.damaged_blobs().await.unwrap()
    }

    async fn look(&mut self) -> Option<ScrubState> {
        self.scrub.look().await.unwrap()
    }

    /// Makes the pass that is due.
    async fn pass(&mut self) -> ScrubState {
        let state = self.look().await.expect("a pass is due");
        self.scrub.pass(state).await;
        let state = self.state().await;
        assert!(!state.is_running && state.finished_at.is_some(), "{state:?}");
        state
    }

    async fn state(&self) -> ScrubState {
        self.scrub.database.scrub_state().await.unwrap().unwrap()
    }

    /// As when the interval is over.
    async fn age(&self) {
        let state = self.state().await;
        let aged = ScrubState { started_at: Timestamp::from_millis(0), beats: state.beats + 1, ..state };
        assert!(self.scrub.database.put_scrub_state(&aged, Some(state.beats)).await.unwrap());
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn a_pass_marks_what_is_lost_or_altered_and_nothing_else() {
    block_on(async {
        let mut world = World::with(40).await;
        world.flip(&world.commits[3]);
        std::fs::remove_file(world.path_of(&world.commits[7].stored.location())).unwrap();
        std::fs::write(world.path_of(&world.commits[9].stored.location()), "of another length").unwrap();
        let state = world.pass().await;
        assert_eq!((state.blobs, state.damaged), (40, 3));
        assert_eq!(state.bytes, (1..=40).sum::<u64>());
        assert_eq!(world.damaged().await, 3);
        let counted = &world.scrub.metrics.scrub;
        assert_eq!((counted.checked_blobs.get(), counted.damaged_blobs.get()), (40, 3));
        assert_eq!(world.look().await, None, "the next one is not due");

        // A second pass finds the same, which is no news; what reads well again loses its mark.
        world.flip(&world.commits[3]);
        world.age().await;
        assert_eq!(world.pass().await.damaged, 2);
        assert_eq!(world.damaged().await, 2);
        assert_eq!(world.scrub.metrics.scrub.damaged_blobs.get(), 3);
    });
}

#[test]
fn what_is_removed_or_moved_meanwhile_is_not_damage() {
    block_on(async {
        let world = World::with(3).await;
        let row = |number: usize| {
            let location = world.commits[number].stored.location();
            world.scrub.database.blob((location.content_hash, location.storage_class))
        };
        let (gone, moved) = (row(0).await.unwrap().unwrap(), row(1).await.unwrap().unwrap());
        for commit in &world.commits[..2] {
            std::fs::remove_file(world.path_of(&commit.stored.location())).unwrap();
        }
        let mut pass = Pass::new(&world.scrub, ScrubState::begin(None, Timestamp::from_millis(0)));
        world.scrub.database.put_scrub_state(&pass.state, None).await.unwrap();
        // What was read of the rows is of before.
        let Database::Sqlite(database) = &*world.scrub.database else { panic!("it is one") };
        let change = "DELETE FROM blobs WHERE size_bytes = 1; \
                      UPDATE blobs SET place = '0000000000000007-ff' WHERE size_bytes = 2";
        sqlx::raw_sql(change).execute(&database.writer).await.unwrap();
        for row in [gone, moved] {
            assert!(pass.step(&[row]).await.is_ok());
        }
        assert_eq!((pass.state.blobs, pass.state.damaged, world.damaged().await), (0, 0, 0));
    });
}

#[test]
fn a_root_that_is_not_there_is_waited_for_and_not_taken_for_loss() {
    block_on(async {
        let mut world = World::with(5).await;
        let (hot, away) = (world.directory.path().join("hot"), world.directory.path().join("away"));
        std::fs::rename(&hot, &away).unwrap();
        let state = world.look().await.unwrap();
        let back = async {
            for _ in 0..50 {
                sleep(Duration::from_millis(1)).await;
                assert_eq!(world.damaged().await, 0);
            }
            std::fs::rename(&away, &hot).unwrap();
        };
        tokio::join!(world.scrub.pass(state), back);
        let state = world.state().await;
        assert_eq!((state.is_running, state.blobs, state.damaged), (false, 5, 0));
    });
}

#[test]
fn a_pass_goes_on_where_it_was() {
    block_on(async {
        let mut world = World::with(20).await;
        let page = world.scrub.database.blob_page(BlobFilter::All, None, 100).await.unwrap();
        let state = world.look().await.unwrap();
        let mut pass = Pass::new(&world.scrub, state);
        assert!(pass.step(&page[..12]).await.is_ok());
        drop(pass);
        // As a server notes it that ends in order.
        note_place(&world.scrub.database, &world.scrub.place()).await.unwrap();
        let noted = world.state().await;
        assert!(noted.is_running && noted.beats > state.beats);
        assert_eq!((noted.blobs, noted.after.unwrap().0), (12, page[11].location.content_hash));
        let progress = noted.pass().progress;
        assert!(progress > 0.0 && progress < 1.0, "{progress}");

        let before = world.scrub.metrics.scrub.checked_blobs.get();
        assert_eq!(world.pass().await.blobs, 20);
        assert_eq!(world.scrub.metrics.scrub.checked_blobs.get() - before, 8, "only those behind it");
    });
}

#[test]
fn of_several_servers_one_makes_the_pass() {
    block_on(async {
        let mut world = World::with(4).await;
        let state = world.look().await.unwrap();
        world.scrub.is_shared = true;
        assert_eq!(world.look().await, None, "somebody is at it");
        // It has gone on.
        let next = ScrubState { beats: state.beats + 1, ..state };
        assert!(world.scrub.database.put_scrub_state(&next, Some(state.beats)).await.unwrap());
        world.scrub.seen = world.scrub.seen.map(|(beats, since)| (beats, since - TAKEOVER));
        assert_eq!(world.look().await, None, "it was heard of");
        // And then not any more.
        world.scrub.seen = world.scrub.seen.map(|(beats, since)| (beats, since - TAKEOVER));
        let ours = world.look().await.expect("it is anybody's");
        assert_eq!(ours, ScrubState { beats: next.beats + 1, ..next });
        // Who was taken for dead notices when it next says how far it is, and changes nothing.
        let late = Scrub { store_interval: Duration::ZERO, place: ScrubPlace::default(), ..world.scrub };
        assert!(matches!(Pass::new(&late, next).run().await, Err(Interruption::TakenOver)));
        assert_eq!(late.database.scrub_state().await.unwrap(), Some(ours));
    });
}

#[test]
fn a_pass_is_due_an_interval_after_the_last_one_began() {
    let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
    let state = ScrubState::begin(None, at(1000));
    let interval = Duration::from_secs(60);
    assert!(!state.is_due(at(1000), interval) && !state.is_due(at(1059), interval));
    assert!(state.is_due(at(1060), interval));
    assert!(state.is_due(at(999), interval), "the clock has gone back");
}

#[test]
fn small_blobs_are_read_together_and_large_ones_alone() {
    let row = |size_bytes| BlobRow {
        location: a_commit(None, 1, 1).stored.location(),
        size_bytes,
        ref_count: 1,
        zero_since: None,
        leased_until: 0,
        damaged: false,
    };
    let lengths = |sizes: &[u64]| {
        let rows: Vec<_> = sizes.iter().copied().map(row).collect();
        steps(&rows).map(<[BlobRow]>::len).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&[]), [0; 0]);
    assert_eq!(lengths(&[1; 33]), [16, 16, 1], "each counts as 64 KiB");
    assert_eq!(lengths(&[1, STEP_BYTES, 1, STEP_BYTES + 1, u64::MAX / 2, 1, 1]), [1, 1, 1, 1, 1, 2]);
    assert_eq!(lengths(&[STEP_BYTES / 2, STEP_BYTES / 2, 1]), [2, 1]);
}
