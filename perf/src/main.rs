//! A load generator for JustStorage and for the servers it is compared with.
//!
//! It speaks HTTP/1.1 by hand over plain sockets on one thread, so that it costs less for each operation than the
//! server under test and fits on a core of its own. Bodies are streamed in both directions and never held whole.
//! It must never be pointed at another machine: [`target`] refuses every address that is not a loopback one.

mod command_line;
mod target;

mod get;
mod put;
mod slow;

mod closed_loop;
mod upload;

mod body;
mod connection;
mod digest;
mod failure;
mod response;

mod monitor;
mod process;
mod report;
mod tally;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::command_line::{Command, CommandLine};
use crate::report::Report;

fn main() -> ExitCode {
    match load(CommandLine::parse()) {
        Ok(report) if report.has_errors() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command and hands its results over.
fn load(command_line: CommandLine) -> anyhow::Result<Report> {
    let json = command_line.command.server().json.clone();
    process::require_open_files(command_line.command.connections())?;

    // One thread and no more: it has one core, and the other cores are the server's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("the runtime could not be started")?;
    let report = runtime.block_on(run(command_line.command))?;

    print!("{report}");
    if let Some(path) = &json {
        report.write_json(path)?;
    }
    Ok(report)
}

async fn run(command: Command) -> anyhow::Result<Report> {
    match command {
        Command::Put(options) => put::run(options).await,
        Command::Get(options) => get::run(options).await,
        Command::Slow(options) => slow::run(options).await,
    }
}
