//! A load generator for JustStorage and for the servers it is compared with, and the runs that compare them.
//!
//! It speaks HTTP/1.1 by hand over plain sockets on one thread, so that it costs less for each operation than the
//! server under test and fits on a core of its own. Bodies are streamed in both directions and never held whole.
//! It must never be pointed at another machine: [`target`] refuses every address that is not a loopback one.

mod command_line;
mod target;

mod harness;

mod bound;
mod get;
mod put;
mod slow;

mod companion;
mod load_loop;
mod pacer;

mod catalog;
mod template;
mod upload;

mod body;
mod chunks;
mod connection;
mod digest;
mod failure;
mod response;

mod machine;
mod monitor;
mod process;
mod report;
mod tally;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::Runtime;

use crate::command_line::{CONNECTIONS_MAX, Command, CommandLine, ServerOptions};
use crate::report::Report;

fn main() -> ExitCode {
    match carry_out(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => {
            process::require_open_files(CONNECTIONS_MAX)?;
            runtime()?.block_on(harness::run(options))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Render(options) => harness::render(&options).map(|()| ExitCode::SUCCESS),
        Command::Bound(options) => bound::serve(&options).map(|()| ExitCode::SUCCESS),
        Command::Put(options) => load(&options.server.clone(), options.pace.connections, put::run(options)),
        Command::Get(options) => load(&options.server.clone(), options.pace.connections, get::run(options)),
        Command::Slow(options) => load(&options.server.clone(), options.connections, slow::run(options)),
    }
}

/// Runs a command and hands its results over.
fn load(
    server: &ServerOptions,
    connections: u64,
    run: impl Future<Output = anyhow::Result<Report>>,
) -> anyhow::Result<ExitCode> {
    process::require_open_files(connections)?;
    let report = runtime()?.block_on(run)?;
    print!("{report}");
    if let Some(path) = &server.json {
        report.write_json(path)?;
    }
    Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One thread and no more: it has one core, and the other cores are the server's.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("the runtime could not be started")
}
