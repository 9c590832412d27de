//! Reads the configuration, runs the command, and turns its end into an exit code.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use just_storage::config::{Command, CommandLine};
use just_storage::server::serve_until_signalled;

/// A wrong setting; clap exits with the same code for a wrong flag.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let Command::Serve(arguments) = CommandLine::parse().command;
    let config = match arguments.into_config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("just_storage: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match serve_until_signalled(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("just_storage: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}
