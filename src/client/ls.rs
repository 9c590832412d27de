//! `just_storage ls`: what a server has.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Args;

use super::address::{Address, Prefix};
use super::answers::{RemoteObject, shown};
use super::errors::ClientError;
use super::listing::{Listing, list_below, list_level};
use super::remote::{Remote, RemoteArguments};
use super::stat;

/// What `ls` is told.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// NAMESPACE/TENANT, NAMESPACE/TENANT/PREFIX/, NAMESPACE/TENANT/KEY or id:ID
    address: Address,
    /// Everything below, not only up to the next slash
    #[arg(short, long)]
    recursive: bool,
    /// One JSON object a line; always everything below
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl ListArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) fn list(arguments: ListArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, 1)?;
    let mut output = BufWriter::new(io::stdout().lock());
    let printed = match &arguments.address {
        Address::Below(prefix) => {
            let listing = match arguments.recursive || arguments.json {
                true => list_below(&remote, prefix)?,
                false => list_level(&remote, prefix)?,
            };
            if listing.keyed.is_empty() && listing.directories.is_empty() && !prefix.text.is_empty() {
                return Err(ClientError::NotFound(prefix.to_string()));
            }
            print(&listing, prefix, &arguments, &mut output)
        }
        Address::Key(_) | Address::Id(_) => {
            let object = stat::object(&remote, &arguments.address)?;
            print_object(&object, arguments.json, &mut output)
        }
    };
    printed.and_then(|()| output.flush()).map_err(ClientError::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn print(
    listing: &Listing,
    prefix: &Prefix,
    arguments: &ListArguments,
    output: &mut impl Write,
) -> io::Result<()> {
    // With how many keys are below, where they have been counted here.
    let mut directories: BTreeMap<&str, u64> = BTreeMap::new();
    directories.extend(listing.directories.iter().map(|directory| (directory.as_str(), 0)));
    for (key, object) in &listing.keyed {
        let rest = &key[prefix.text.len()..];
        match rest.find('/').filter(|_| !arguments.recursive && !arguments.json) {
            Some(slash) => *directories.entry(&key[..=prefix.text.len() + slash]).or_default() += 1,
            None => print_object(object, arguments.json, output)?,
        }
    }
    for (directory, keys) in directories {
        let words = if keys > 0 { format!("{keys} below") } else { String::new() };
        writeln!(output, "{:>15}  {words:<24}  {}", "", shown(directory))?;
    }
    for object in &listing.keyless {
        print_object(object, arguments.json, output)?;
    }
    Ok(())
}

/// Size, time and name, in columns that a program can split.
fn print_object(object: &RemoteObject, json: bool, output: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *output, object)?;
        return writeln!(output);
    }
    let id = format!("id:{}", object.id);
    let name = object.key.as_ref().unwrap_or(&id);
    let (size, updated) = (object.size_bytes.unwrap_or_default(), shown(&object.updated_at));
    writeln!(output, "{size:>15}  {updated:<24}  {}", shown(name))
}
