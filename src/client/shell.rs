//! What makes the program at home in a shell: completions and man pages, made from the same description of its commands
//! as `--help`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// What `completions` is told.
#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// For which shell
    shell: Shell,
}

/// What `man` is told.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// The command that the page is about [default: the program]
    #[arg(value_name = "COMMAND")]
    path: Vec<String>,
    /// Write the pages of all commands here instead
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    directory: Option<PathBuf>,
}

/// Writes completions of `program` to standard output.
pub fn complete(mut program: Command, arguments: &CompletionArguments) -> ExitCode {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, name, &mut script);
    written(io::stdout().write_all(&script))
}

/// Writes a page of `program` to standard output, or all to a directory.
pub fn manual(program: Command, arguments: &ManArguments) -> ExitCode {
    let mut program = without_help(program);
    program.build();
    if let Some(directory) = &arguments.directory {
        return written(clap_mangen::generate_to(program, directory));
    }
    let mut command = &program;
    for name in &arguments.path {
        let Some(found) = command.find_subcommand(name) else {
            eprintln!("just_storage: there is no command {name}");
            return ExitCode::from(2);
        };
        command = found;
    }
    let mut page = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut page);
    written(rendered.and_then(|()| io::stdout().write_all(&page)))
}

/// Without the command that only shows what a page says.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn written(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("just_storage: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}
