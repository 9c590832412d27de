//! The program as a client of any server: sends, fetches, lists, removes, compares.
//!
//! It speaks the HTTP interface and nothing else, and knows of this server's inside only the words that both share: keys,
//! namespaces, hashes. Results go to standard output, progress and errors to standard error, and the exit code says
//! what kind of end it was. No file is ever whole in memory unless it is small.

mod address;
mod answers;
mod cat;
mod destination;
mod download;
mod errors;
mod get;
mod hashing;
mod listing;
mod local_tree;
mod ls;
mod progress;
mod put;
mod references;
mod remote;
mod remove;
mod report;
pub mod shell;
mod stat;
mod transfers;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

pub use cat::CatArguments;
use errors::ClientError;
pub use get::GetArguments;
pub use ls::ListArguments;
pub use put::PutArguments;
pub use remove::RemoveArguments;
pub use stat::StatArguments;
pub use verify::VerifyArguments;

use crate::maintenance::with_causes;

/// What can be asked of a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Send files and directories to a server
    Put(PutArguments),
    /// Fetch an object, or everything below a prefix, from a server
    Get(GetArguments),
    /// List what a server has
    Ls(ListArguments),
    /// Remove objects from a server
    Rm(RemoveArguments),
    /// Show what a server knows of an object
    Stat(StatArguments),
    /// Write objects from a server to standard output
    Cat(CatArguments),
    /// Compare files with what a server has, by SHA-256 and without fetching them
    Verify(VerifyArguments),
}

/// Does what the command says.
pub fn run(command: ClientCommand) -> ExitCode {
    let (json, ended) = match command {
        ClientCommand::Put(arguments) => (arguments.json(), put::put(arguments)),
        ClientCommand::Get(arguments) => (arguments.json(), get::get(arguments)),
        ClientCommand::Ls(arguments) => (arguments.json(), ls::list(arguments)),
        ClientCommand::Rm(arguments) => (arguments.json(), remove::remove(arguments)),
        ClientCommand::Stat(arguments) => (arguments.json(), stat::stat(arguments)),
        ClientCommand::Cat(arguments) => (false, cat::cat(arguments)),
        ClientCommand::Verify(arguments) => (arguments.json(), verify::verify(arguments)),
    };
    ended.unwrap_or_else(|error| {
        // Whoever reads the output has gone; there is nobody to be told.
        if !matches!(error, ClientError::Output(_)) {
            eprintln!("just_storage: {}", with_causes(&error));
            if json {
                report::print_failure(&error);
            }
        }
        error.kind().exit_code()
    })
}
