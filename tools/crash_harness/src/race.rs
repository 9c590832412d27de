//! No cuts: few contents that are put, deleted and put again at full speed, beside the collector. Whatever was
//! acknowledged must be there at any moment, so that a file that is removed wrongly shows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::Arguments;
use crate::client::Client;
use crate::collect::Collecting;
use crate::content::Content;
use crate::files::check_files;
use crate::journal::{Change, Entry, Journal, read_deleted, read_version};
use crate::machine::{Machine as _, PlainDirectory};
use crate::random::Random;
use crate::server::Server;
use crate::work::{Outcome, any_class, perform};

/// So few that each of them loses its last object again and again.
const CONTENTS: u64 = 12;
/// So few versions that a client holds.
const KEYS_OF_A_CLIENT: u32 = 2;
const VERSIONS_MAX: usize = 2;
/// How often a line is printed.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Races for so many minutes.
///
/// # Errors
/// Any answer that is not as it was acknowledged.
pub(crate) fn race(arguments: &Arguments, minutes: u64, seed: u64) -> Result<()> {
    let machine = PlainDirectory::new(&arguments.directory)?;
    let places = machine.places();
    let server = Server::start(&arguments.binary, &places)?;
    let mut random = Random::new(seed);
    let mut journal = Journal::new(arguments.clients, KEYS_OF_A_CLIENT);
    let collecting = Collecting::new(&arguments.binary, &places);
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let clients: Vec<_> = journal
            .shares()
            .map(|share| {
                let client = Client::new(server.port());
                let share = &mut share.entries;
                let racer = Racer { client, share, random: Random::new(random.next()), counts: &counts };
                let stop = &stop;
                scope.spawn(move || {
                    let raced = racer.run_until(stop);
                    // Who has seen something wrong ends the race for all.
                    stop.store(true, Ordering::Relaxed);
                    raced
                })
            })
            .collect();
        let collector = arguments.collect.then(|| scope.spawn(|| collecting.run()));
        counts.report_until(Duration::from_secs(60 * minutes), &stop);
        stop.store(true, Ordering::Relaxed);
        collecting.end();
        let raced: Vec<Result<()>> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect();
        let collections = collector.map_or(Ok(0), |collector| {
            collector.join().unwrap_or_else(|_| bail!("the collector's thread panicked"))
        });
        raced.into_iter().collect::<Result<()>>().and(collections)
    });
    let collections = result?;
    journal.check(server.port()).context("after the race")?;
    check_files(server.port(), &places).context("after the race")?;
    server.stop()?;
    println!(
        "every read was as acknowledged, no file is left over; {collections} collections beside the server"
    );
    Ok(())
}

/// What all clients have done.
#[derive(Default)]
struct Counts {
    changes: AtomicU64,
    reads: AtomicU64,
}

impl Counts {
    /// Prints a line now and then, until the time is over or somebody has stopped the race.
    fn report_until(&self, duration: Duration, stop: &AtomicBool) {
        const LOOK: Duration = Duration::from_millis(100);
        let started = Instant::now();
        let mut reported = Duration::ZERO;
        while started.elapsed() < duration && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK.min(duration));
            if (reported + REPORT_INTERVAL..duration).contains(&started.elapsed()) {
                reported += REPORT_INTERVAL;
                self.print(reported);
            }
        }
        self.print(started.elapsed());
    }

    fn print(&self, elapsed: Duration) {
        let (changes, reads) = (self.changes.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed));
        println!("{changes} changes, {reads} reads, {} s", elapsed.as_secs());
    }
}

/// A client that looks at what it was told at once, and again later.
struct Racer<'j> {
    client: Client,
    share: &'j mut Vec<Entry>,
    random: Random,
    counts: &'j Counts,
}

impl Racer<'_> {
    fn run_until(mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let changed = self.random.index(self.share.len());
            self.change(changed)?;
            let looked_at = self.random.index(self.share.len());
            self.look_at(looked_at)?;
        }
        Ok(())
    }

    /// Changes a key and reads what has become of it.
    fn change(&mut self, index: usize) -> Result<()> {
        let entry = &mut self.share[index];
        let change = choose(&mut self.random, entry);
        match perform(&mut self.client, entry, change, &AtomicBool::new(false))? {
            Outcome::Acknowledged => {}
            Outcome::Refused(status) => bail!("{change:?} was refused with status {status}"),
            Outcome::TooLate => bail!("{change:?} was answered after a cut that nobody made"),
            Outcome::Unanswered(error) => return Err(error.context(format!("{change:?} was not answered"))),
        }
        self.counts.changes.fetch_add(1, Ordering::Relaxed);
        let changed = match change {
            Change::Put(..) => entry.versions.last(),
            Change::Move(index) => entry.versions.get(index),
            _ => None,
        };
        if let Some(changed) = changed {
            read_version(&mut self.client, changed).context("at once")?;
        }
        for id in entry.forget_deleted() {
            read_deleted(&mut self.client, &id).context("at once")?;
        }
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a key and one of its versions, whenever they were written.
    fn look_at(&mut self, index: usize) -> Result<()> {
        let entry = &self.share[index];
        entry.read_key(&mut self.client).context("later")?;
        if !entry.versions.is_empty() {
            let version = &entry.versions[self.random.index(entry.versions.len())];
            read_version(&mut self.client, version).context("later")?;
        }
        self.counts.reads.fetch_add(2, Ordering::Relaxed);
        Ok(())
    }
}

/// Puts one of the few contents where there is room, and deletes as often; moves some.
fn choose(random: &mut Random, entry: &Entry) -> Change {
    let versions = entry.versions.len();
    if versions > 0 && random.below(5) == 0 {
        return Change::Move(random.index(versions));
    }
    let puts = versions == 0 || (versions < VERSIONS_MAX && random.below(2) == 0);
    match (puts, random.below(3)) {
        (true, _) => Change::Put(Content::shared(random.below(CONTENTS)), any_class(random)),
        (false, 0) => Change::DeleteKey,
        (false, _) => Change::DeleteVersion(random.index(versions)),
    }
}
