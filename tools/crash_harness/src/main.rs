//! Drives a real server with many clients, cuts it down at random moments, and checks after each restart that what was
//! acknowledged is what is there. See docs/RELIABILITY.md for how to run it and what it found.
//!
//! ```text
//! crash_harness --binary target/release/just_storage --cycles 2000 kill
//! crash_harness --binary target/release/just_storage --cycles 1000 power-cut --file-system ext4     (as root)
//! crash_harness --binary target/release/just_storage faults                                         (as root)
//! ```

mod client;
mod faults;
mod journal;
mod machine;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::client::{Client, Work};
use crate::journal::{Journal, Random, check_files};
use crate::machine::{Machine, PlainDirectory, PowerCutDevice};
use crate::server::Server;

/// What the harness is told.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server under test.
    #[arg(long)]
    binary: PathBuf,
    /// Where its data goes; must be empty.
    #[arg(long)]
    directory: PathBuf,
    /// How many times it is cut down.
    #[arg(long, default_value_t = 50)]
    cycles: u32,
    /// How many clients work at once.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// How many keys each client owns.
    #[arg(long, default_value_t = 40)]
    keys: u32,
    /// The longest run before a cut.
    #[arg(long, default_value_t = 250)]
    run_ms_max: u64,
    /// What all chance comes from; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    cut: Cut,
}

/// How the server is cut down.
#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "a power cut is called so")]
enum Cut {
    /// `kill -9`: the process goes, what the kernel holds stays.
    Kill,
    /// The file system goes too, with all that was not synced.
    PowerCut {
        /// Which one.
        #[arg(long, value_enum)]
        file_system: FileSystem,
    },
    /// Not cut down at all: its disks fill up, fail and hang under it.
    Faults {
        /// Only the scenarios whose names begin so.
        #[arg(default_value = "")]
        only: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("seed {seed}");
    match run(&arguments, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash_harness: {error:#} (seed {seed})");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut machine: Box<dyn Machine> = match &arguments.cut {
        Cut::Faults { only } => return faults::run(&arguments.binary, &arguments.directory, only),
        Cut::Kill => Box::new(PlainDirectory::new(&arguments.directory)?),
        Cut::PowerCut { file_system } => Box::new(PowerCutDevice::new(&arguments.directory, *file_system)?),
    };
    let mut random = Random::new(seed);
    let mut journal = Journal::new(arguments.clients, arguments.keys);
    let (mut operations, mut slowest_start) = (0, Duration::ZERO);
    let started = Instant::now();
    for cycle in 1..=arguments.cycles {
        let server = Server::start(&arguments.binary, &machine.data_directory())?;
        slowest_start = slowest_start.max(server.ready_after());
        journal.check(&server).with_context(|| format!("after cut {}", cycle - 1))?;
        operations += work_until_cut(&server, &mut journal, &mut random, arguments, machine.as_mut())?;
        server.reap()?;
        machine.recover()?;
        if cycle % 50 == 0 || cycle == arguments.cycles {
            println!(
                "{cycle} cuts, {operations} acknowledged, {} objects, slowest start {} ms, {} s",
                journal.present(),
                slowest_start.as_millis(),
                started.elapsed().as_secs()
            );
        }
    }
    let server = Server::start(&arguments.binary, &machine.data_directory())?;
    journal.check(&server).context("after the last cut")?;
    check_files(&server, &machine.data_directory())?;
    server.stop()?;
    machine.finish()?;
    println!("nothing acknowledged was lost, nothing deleted came back, no file is left over");
    Ok(())
}

/// Lets all clients work for a random while, cuts, and says how much was acknowledged.
fn work_until_cut(
    server: &Server,
    journal: &mut Journal,
    random: &mut Random,
    arguments: &Arguments,
    machine: &mut dyn Machine,
) -> Result<u64> {
    let stop = AtomicBool::new(false);
    let run = Duration::from_millis(20 + random.below(arguments.run_ms_max.max(21) - 20));
    let results = std::thread::scope(|scope| {
        let clients: Vec<_> = journal
            .shares()
            .map(|share| {
                let (stop, seed) = (&stop, random.next());
                let client = Client::new(server.port());
                scope.spawn(move || Work { client, share, random: Random::new(seed) }.run_until(stop))
            })
            .collect();
        std::thread::sleep(run);
        let cut = machine.cut(server);
        stop.store(true, Ordering::Relaxed);
        let acknowledged: Result<Vec<u64>> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect();
        cut.and(acknowledged)
    });
    Ok(results?.into_iter().sum())
}
