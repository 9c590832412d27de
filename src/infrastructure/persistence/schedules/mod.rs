//! The race of everything that writes, removes and reads copies of the same few contents: uploads, deletions,
//! references, moves between classes, menders, a scrub, collectors, sweeps after a crash, backups and downloads, on the real repository and real
//! files.
//!
//! Each schedule is a world of its own: two contents, two keys, and five to nine actors whose steps a random scheduler
//! interleaves. Many worlds go through one database at once, so that a batch's cost is shared.
//!
//! ```text
//! actors:   write file · commit · compare · mend · discard | look up · copy · update · compare · mend · discard
//!           | lease · refer | delete | look up · open | mark                                     (a world's own)
//! shared:   batch · collect · read garbage · remove files · forget garbage (two collectors)
//!           list · ask · remove (sweep) | hold · snapshot · check · release (backup) | crash and restart
//! ```
//! `SCHEDULES` says how many; `SCHEDULES_SEED` runs one wave again, which a failure names.

mod actors;
mod guards;
mod mover;
mod random;
mod shared;
mod store;
mod verdict;
mod wave;
mod world;

use std::time::Instant;

use guards::Guard;
use random::Random;
use store::{Store, in_memory};

use super::throwaway_postgres::ThrowawayPostgres;

/// How many worlds share a database at a time.
const WORLDS: usize = 400;
/// How many schedules run where nobody says.
const SCHEDULES: usize = 20_000;
/// How many run on PostgreSQL.
const SCHEDULES_POSTGRES: usize = 2_000;
/// Within how many a missing guard must show. Most take a few hundred, the rarest some tens of thousands.
const SCHEDULES_WITHOUT_GUARD: usize = 500_000;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs schedules until one fails; gives how many did not.
async fn run(
    store: &Store,
    schedules: usize,
    worlds: usize,
    without: Option<Guard>,
) -> Result<usize, (usize, String)> {
    if let Some(seed) = setting("SCHEDULES_SEED") {
        return wave::run(store, seed, worlds, without).await.map(|()| worlds).map_err(|story| (0, story));
    }
    let mut seeds = Random::new(u64::from(std::process::id()) ^ uuid::Uuid::new_v4().as_u64_pair().0);
    let mut done = 0;
    while done < schedules {
        let seed = seeds.next();
        wave::run(store, seed, worlds, without).await.map_err(|story| (done, story))?;
        done += worlds;
    }
    Ok(done)
}

#[test]
fn no_schedule_removes_what_is_needed() {
    let schedules = setting("SCHEDULES").map_or(SCHEDULES, |schedules| usize::try_from(schedules).unwrap());
    let begin = Instant::now();
    let ran = block_on(async { run(&Store::on_sqlite().await, schedules, WORLDS, None).await });
    match ran {
        Ok(done) => println!("{done} schedules in {:.1?}", begin.elapsed()),
        Err((done, story)) => panic!("after {done} schedules: {story}"),
    }
}

#[test]
fn without_any_of_its_guards_a_place_is_lost() {
    for guard in Guard::ALL {
        let ran = block_on(async {
            run(&Store::on_sqlite().await, SCHEDULES_WITHOUT_GUARD, WORLDS, Some(guard)).await
        });
        match ran {
            Ok(done) => panic!("{done} schedules do not notice that {guard:?} is missing"),
            Err((done, story)) => {
                println!("without {guard:?}, after {done}: {}", story.lines().next().unwrap_or_default());
            }
        }
    }
}

#[test]
fn a_seed_tells_the_same_story_again() {
    let tell = || {
        block_on(async { wave::run(&Store::on_sqlite().await, 7, WORLDS, Some(Guard::PlaceOfItsOwn)).await })
    };
    let story = tell().unwrap_err();
    assert!(story.contains("\nSCHEDULES_SEED=7 ") && story.contains("\nworld "), "{story}");
    assert_eq!(tell().unwrap_err(), story);
}

#[test]
fn no_schedule_of_two_servers_removes_what_is_needed() {
    let postgres = ThrowawayPostgres::start();
    let url: super::database::DatabaseUrl = postgres.database().parse().unwrap();
    let begin = Instant::now();
    let ran = block_on(async {
        let store = Store::on(in_memory(), &[url.clone(), url]).await;
        run(&store, SCHEDULES_POSTGRES, 250, None).await
    });
    match ran {
        Ok(done) => println!("{done} schedules in {:.1?}", begin.elapsed()),
        Err((done, story)) => panic!("after {done} schedules: {story}"),
    }
}
