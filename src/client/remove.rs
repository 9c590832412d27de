//! `just_storage rm`: objects go.

use std::process::ExitCode;

use clap::Args;

use super::address::{Address, address_of, target_of_id, target_of_key};
use super::errors::ClientError;
use super::listing::list_below;
use super::progress::Progress;
use super::remote::{Remote, RemoteArguments, WorkerArguments};
use super::report::{Line, Report};
use super::transfers::{Next, in_parallel};
use crate::domain::entities::KeyPath;
use crate::domain::value_objects::Key;

/// What `rm` is told.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// NAMESPACE/TENANT/KEY for all versions of a key, id:ID for one version, NAMESPACE/TENANT/PREFIX/ for every key below it
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Needed for a prefix
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    workers: WorkerArguments,
    /// One JSON object a line for each key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl RemoveArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) fn remove(arguments: RemoveArguments) -> Result<ExitCode, ClientError> {
    if !arguments.recursive
        && let Some(prefix) = arguments.addresses.iter().find(|one| matches!(one, Address::Below(_)))
    {
        return Err(ClientError::Usage(format!(
            "{prefix} may be many keys; say --recursive to remove them all"
        )));
    }
    let remote = Remote::new(&arguments.remote, arguments.workers.jobs)?;
    let mut targets = Vec::new();
    for address in &arguments.addresses {
        match address {
            Address::Key(path) => targets.push((address.to_string(), target_of_key(path))),
            Address::Id(id) => targets.push((address.to_string(), target_of_id(*id))),
            Address::Below(prefix) => {
                let listing = list_below(&remote, prefix)?;
                if listing.keyed.is_empty() {
                    return Err(ClientError::NotFound(prefix.to_string()));
                }
                // Checked when it was listed.
                let keys = listing.keyed.keys().filter_map(|key| Key::parse(key).ok());
                let paths = keys.map(|key| KeyPath { scope: prefix.scope.clone(), key });
                targets.extend(paths.map(|path| (address_of(&path), target_of_key(&path))));
            }
        }
    }
    let report = Report::new(arguments.json, ("removed", "key"), Progress::new(targets.len() as u64, 0));
    in_parallel(&targets, arguments.workers.jobs, |(address, target)| {
        remove_one(&remote, address, target, &report)
    });
    Ok(report.finish())
}

fn remove_one(remote: &Remote, address: &str, target: &str, report: &Report) -> Next {
    let removed = remote.retrying_whole(|this| {
        match remote.send(remote.request("DELETE", target, &[], ())?, address) {
            // The try before has done it, and its answer was lost.
            Err(ClientError::NotFound(_)) if this.again => Ok(()),
            answer => answer.map(drop),
        }
    });
    let line = Line { outcome: "removed", address: Some(address), ..Line::default() };
    match removed {
        Ok(()) => report.done(&line),
        Err(error) => report.failed(&error, line),
    }
}
