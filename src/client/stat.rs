//! `just_storage stat`: what a server knows of an object.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::address::{Address, target_of_id, target_of_key};
use super::answers::{RemoteObject, shown};
use super::errors::ClientError;
use super::get::version_of;
use super::listing;
use super::remote::{Remote, RemoteArguments};
use super::report::print_json;

/// What `stat` is told.
#[derive(Debug, Args)]
pub struct StatArguments {
    /// NAMESPACE/TENANT/KEY, or id:ID
    address: Address,
    /// The object as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl StatArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) fn stat(arguments: StatArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, 1)?;
    let object = object(&remote, &arguments.address)?;
    match arguments.json {
        true => print_json(&object)?,
        false => print(&object, &mut io::stdout().lock()).map_err(ClientError::Output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// An object by its address.
pub(super) fn object(remote: &Remote, address: &Address) -> Result<RemoteObject, ClientError> {
    match address {
        Address::Id(id) => remote.get_json(&format!("{}/info", target_of_id(*id)), &address.to_string()),
        Address::Key(path) => {
            // Whether it is there is known at once; where it stands in a listing takes longer to find.
            version_of(remote, &target_of_key(path), &address.to_string())
                .map_err(|error| listing::or_below(error, remote, address))?;
            listing::find(remote, path)
        }
        Address::Below(_) => {
            Err(ClientError::Usage("this is about one object: a key, without a slash at its end".to_owned()))
        }
    }
}

fn print(object: &RemoteObject, output: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(output, "{name:<14}{}", shown(value));
    line("id", &object.id)?;
    line("namespace", &object.namespace)?;
    line("tenant_id", &object.tenant_id)?;
    line("key", object.key.as_deref().unwrap_or("-"))?;
    line("status", &object.status)?;
    line("storage_class", &object.storage_class)?;
    line("content_hash", object.content_hash.as_deref().unwrap_or("-"))?;
    line("size_bytes", &object.size_bytes.map_or_else(|| "-".to_owned(), |size| size.to_string()))?;
    line("content_type", &object.content_type)?;
    for (name, value) in &object.metadata {
        line("metadata", &format!("{name}={value}"))?;
    }
    line("created_at", &object.created_at)?;
    line("updated_at", &object.updated_at)
}
