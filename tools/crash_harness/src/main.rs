//! Drives a real server with many clients, cuts it down at random moments, and checks after each restart that what was
//! acknowledged is what is there. See docs/RELIABILITY.md for how to run it and what it found.
//!
//! ```text
//! crash_harness --binary target/release/just_storage --directory cuts --cycles 2000 kill
//! crash_harness --binary target/release/just_storage --directory cuts --cycles 1000 power-cut --file-system ext4
//! crash_harness --binary target/release/just_storage --directory race --collect race --minutes 60
//! crash_harness --binary target/release/just_storage --directory faults faults
//! ```
//! Power cuts and faults need root. A server that was built with the feature `fault-injection` finds in the environment which
//! sync it leaves out (`SKIP_SYNC`) and how often it collects (`GC_INTERVAL_MS`).

mod aim;
mod batches;
mod checksums;
mod client;
mod collect;
mod content;
mod cuts;
mod disk;
mod faults;
mod files;
mod fill;
mod joints;
mod journal;
mod machine;
mod race;
mod random;
mod server;
mod under_way;
mod uploads;
mod volatile;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::cuts::Campaign;
use crate::disk::{DeviceKind, DiskKind, FileSystem};
use crate::machine::{PlainDirectory, PowerCutMachine};

/// What the harness is told. The server gets its environment: unless that says `ACK=database`, small blobs lie in packs,
/// which are the point of durability.
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
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// The longest run before a cut.
    #[arg(long, default_value_t = 250)]
    run_ms_max: u64,
    /// How many small objects are there from the beginning.
    #[arg(long, default_value_t = 0)]
    objects: u64,
    /// After how many cuts the files are compared with the objects; after the last one they always are.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    check_files_every: u32,
    /// Run `gc` over and over beside the server.
    #[arg(long)]
    collect: bool,
    /// What all chance comes from; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    mode: Mode,
}

/// What happens to the server.
#[derive(Debug, Clone, Subcommand)]
enum Mode {
    /// `kill -9`: the process goes, what the kernel holds stays.
    Kill,
    /// The disk goes too, with all that was not synced.
    PowerCut {
        /// What is on it.
        #[arg(long, value_enum)]
        file_system: FileSystem,
        /// What it is.
        #[arg(long, value_enum, default_value = "loop")]
        device: DeviceKind,
        /// Put the database on a disk of its own.
        #[arg(long)]
        separate_database: bool,
    },
    /// Nothing, but few contents come and go at full speed.
    Race {
        /// For how long.
        #[arg(long)]
        minutes: u64,
    },
    /// Its disks fill up, fail and hang under it.
    Faults {
        /// Only the scenarios whose names begin so.
        #[arg(default_value = "")]
        only: String,
    },
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
    let directory = &arguments.directory;
    match &arguments.mode {
        Mode::Kill => Campaign::new(arguments, Box::new(PlainDirectory::new(directory)?), seed).run(),
        Mode::PowerCut { file_system, device, separate_database } => {
            let kind = DiskKind { file_system: *file_system, device: *device };
            let machine = if *separate_database {
                PowerCutMachine::with_separate_database(directory, kind)?
            } else {
                PowerCutMachine::with_one_disk(directory, kind)?
            };
            Campaign::new(arguments, Box::new(machine), seed).run()
        }
        Mode::Race { minutes } => race::race(arguments, *minutes, seed),
        Mode::Faults { only } => faults::run(&arguments.binary, directory, only),
    }
}
