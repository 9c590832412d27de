//! Reads the configuration, runs the command, and turns its end into an exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use just_storage::client::{self, shell};
use just_storage::config::{Command, CommandLine, ServeArguments};
use just_storage::maintenance::{self, with_causes};
use just_storage::server::serve_until_signalled;

/// A wrong setting; clap exits with the same code for a wrong flag.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Ask(command) => client::run(command),
        Command::Maintain(command) => maintenance::run(command),
        Command::Completions(arguments) => shell::complete(CommandLine::command(), &arguments),
        Command::Man(arguments) => shell::manual(CommandLine::command(), &arguments),
    }
}

fn serve(arguments: ServeArguments) -> ExitCode {
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
