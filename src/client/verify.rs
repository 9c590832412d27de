//! `just_storage verify`: whether files here and objects there are the same, by their hashes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::address::{Address, Prefix, address_of, target_of_id, target_of_key};
use super::answers::Version;
use super::errors::ClientError;
use super::get::version_of;
use super::hashing::hash_file;
use super::listing::{Listing, list_below};
use super::local_tree::{LocalFile, file, files_below, utf8_name};
use super::progress::Progress;
use super::remote::{Remote, RemoteArguments, WorkerArguments};
use super::report::{Line, Report};
use super::transfers::{Next, in_parallel};
use crate::domain::entities::KeyPath;

/// What `verify` is told.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// A file, or a directory
    local: PathBuf,
    /// NAMESPACE/TENANT/KEY or id:ID for a file, or NAMESPACE/TENANT/PREFIX/ for one that lies below under its own name; for a
    /// directory what its files lie below
    address: Address,
    /// Let the server have more than the directory has
    #[arg(long)]
    one_way: bool,
    #[command(flatten)]
    workers: WorkerArguments,
    /// One JSON object a line for each file and key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl VerifyArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) fn verify(arguments: VerifyArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, arguments.workers.jobs)?;
    let metadata = fs::metadata(&arguments.local).map_err(ClientError::files("read", &arguments.local))?;
    if metadata.is_dir() {
        return verify_directory(&remote, &arguments);
    }
    let (address, target) = match &arguments.address {
        Address::Key(path) => (address_of(path), target_of_key(path)),
        Address::Id(id) => (arguments.address.to_string(), target_of_id(*id)),
        // Where `put` sends it.
        Address::Below(prefix) => {
            let (local, name) = (arguments.local.clone(), utf8_name(&arguments.local)?);
            let LocalFile { target, .. } = file(local, &metadata, prefix, name)?;
            (address_of(&target), target_of_key(&target))
        }
    };
    let there = version_of(&remote, &target, &address)?;
    let report = Report::new(arguments.json, ("verified", "file"), Progress::new(1, metadata.len()));
    compare(&arguments.local, metadata.len(), &address, Some(there), &report);
    Ok(report.finish())
}

fn verify_directory(remote: &Remote, arguments: &VerifyArguments) -> Result<ExitCode, ClientError> {
    let prefix = match &arguments.address {
        Address::Below(prefix) => prefix.clone(),
        Address::Key(KeyPath { scope, key }) => Prefix { scope: scope.clone(), text: format!("{key}/") },
        Address::Id(_) => return Err(ClientError::Usage("an id is no directory".to_owned())),
    };
    let files = files_below(&arguments.local, &prefix)?;
    let listing = list_below(remote, &prefix)?;
    let bytes = files.iter().map(|file| file.size_bytes).sum();
    let report = Report::new(arguments.json, ("verified", "file"), Progress::new(files.len() as u64, bytes));
    in_parallel(&files, arguments.workers.jobs, |file| {
        let there = listing.keyed.get(file.target.key.as_str()).and_then(|object| object.version());
        compare(&file.path, file.size_bytes, &address_of(&file.target), there, &report)
    });
    if !arguments.one_way {
        tell_extra(&files, &listing, &prefix, &report);
    }
    Ok(report.finish())
}

/// What the server has and the directory has not.
fn tell_extra(files: &[LocalFile], listing: &Listing, prefix: &Prefix, report: &Report) {
    let here: BTreeSet<&str> = files.iter().map(|file| file.target.key.as_str()).collect();
    for (key, object) in &listing.keyed {
        if !here.contains(key.as_str()) {
            let address = format!("{}/{}/{key}", prefix.scope.namespace, prefix.scope.tenant_id);
            let (outcome, address) = ("extra", Some(address.as_str()));
            let (size_bytes, content_hash) = (object.size_bytes, object.content_hash.as_deref());
            report.differs(&Line { outcome, address, size_bytes, content_hash, ..Line::default() });
        }
    }
}

fn compare(
    path: &std::path::Path,
    size_bytes: u64,
    address: &str,
    there: Option<Version>,
    report: &Report,
) -> Next {
    let shown = path.to_string_lossy();
    let line = Line { address: Some(address), path: Some(&shown), ..Line::default() };
    let Some(there) = there else {
        return report.differs(&Line { outcome: "missing", ..line });
    };
    let hashed = {
        let progress = report.progress().begin(address, size_bytes);
        hash_file(path, |bytes| progress.add(bytes))
    };
    match hashed {
        Ok(here) => {
            let (local, remote) = (here.to_string(), there.content_hash.to_string());
            let line = Line { size_bytes: Some(there.size_bytes), content_hash: Some(&remote), ..line };
            if here == there.content_hash {
                report.done(&Line { outcome: "equal", ..line })
            } else {
                report.differs(&Line { outcome: "differs", local_hash: Some(&local), ..line })
            }
        }
        Err(error) => report.failed(&error, line),
    }
}
