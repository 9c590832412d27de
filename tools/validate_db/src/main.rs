//! Checks that a store's metadata and files agree: the same as `just_storage validate`, as a program of its own for
//! machines that shall not have the server.

use std::process::ExitCode;

use clap::Parser;
use just_storage::maintenance::{MaintenanceCommand, ValidateArguments, run};

/// Check that the metadata and the files of a JustStorage store agree; changes nothing
#[derive(Debug, Parser)]
#[command(name = "validate_db", max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    arguments: ValidateArguments,
}

fn main() -> ExitCode {
    run(MaintenanceCommand::Validate(CommandLine::parse().arguments))
}
