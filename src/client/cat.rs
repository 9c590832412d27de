//! `just_storage cat`: objects to standard output.

use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use clap::Args;

use super::address::{Address, target_of_id, target_of_key};
use super::answers::Version;
use super::download::{Sink, download};
use super::errors::ClientError;
use super::remote::{Remote, RemoteArguments};

/// What `cat` is told.
#[derive(Debug, Args)]
pub struct CatArguments {
    /// NAMESPACE/TENANT/KEY, or id:ID; several come one behind the other
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    #[command(flatten)]
    remote: RemoteArguments,
}

pub(super) fn cat(arguments: CatArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, 1)?;
    let mut output = io::stdout().lock();
    for address in &arguments.addresses {
        let target = match address {
            Address::Key(path) => target_of_key(path),
            Address::Id(id) => target_of_id(*id),
            Address::Below(_) => {
                return Err(ClientError::Usage("a prefix is no object; fetch it with get".to_owned()));
            }
        };
        let what = address.to_string();
        let mut sink = OutputSink { output: &mut output, what: &what, written: false };
        download(&remote, &target, &what, None, &mut sink)?;
    }
    output.flush().map_err(ClientError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output, from which nothing can be taken back.
struct OutputSink<'a> {
    output: &'a mut StdoutLock<'static>,
    what: &'a str,
    written: bool,
}

impl Sink for OutputSink<'_> {
    fn start_over(&mut self, _: Version) -> Result<(), ClientError> {
        if self.written { Err(ClientError::Replaced(self.what.to_owned())) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.written = true;
        self.output.write_all(bytes).map_err(ClientError::Output)
    }
}
