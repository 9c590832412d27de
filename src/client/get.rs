//! `just_storage get`: objects become files.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use sha2::Sha256;

use super::address::{Address, Prefix, address_of, target_of_id, target_of_key};
use super::answers::{RemoteObject, Version};
use super::destination::{Destination, Partial, Place};
use super::download::{Beginning, Sink, download};
use super::errors::ClientError;
use super::hashing;
use super::listing::{list_below, or_below};
use super::progress::{FileProgress, Progress};
use super::remote::{Remote, RemoteArguments, WorkerArguments};
use super::report::{Line, Report};
use super::transfers::in_parallel;
use crate::domain::entities::KeyPath;
use crate::domain::value_objects::{Key, ObjectId};

/// What `get` is told.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// NAMESPACE/TENANT/KEY, id:ID, or NAMESPACE/TENANT/PREFIX/ for everything below it
    source: Address,
    /// The file, or the directory that everything goes below; what is there with the same bytes is not fetched again
    #[arg(default_value = ".")]
    destination: PathBuf,
    #[command(flatten)]
    workers: WorkerArguments,
    /// One JSON object a line for each file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl GetArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) fn get(arguments: GetArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, arguments.workers.jobs)?;
    if let Address::Below(prefix) = &arguments.source {
        return get_below(&remote, prefix, &arguments);
    }
    let (target, name) = match &arguments.source {
        Address::Id(id) => (target_of_id(*id), name_of(&remote, *id)?),
        Address::Key(path) => (target_of_key(path), path.key.clone()),
        Address::Below(_) => return Err(ClientError::Usage("a prefix is no file".to_owned())),
    };
    let address = arguments.source.to_string();
    let version = version_of(&remote, &target, &address)
        .map_err(|error| or_below(error, &remote, &arguments.source))?;
    let place = place_of_one(&arguments.destination, &name)?;
    let report = Report::new(arguments.json, ("fetched", "file"), Progress::new(1, version.size_bytes));
    let fetch = Fetch { remote: &remote, target: &target, address: &address, version, id: None };
    fetch.reported(Ok(place), &report);
    Ok(report.finish())
}

/// What the server has at a path now.
pub(super) fn version_of(remote: &Remote, target: &str, what: &str) -> Result<Version, ClientError> {
    remote.retrying_whole(|_| {
        let answer = remote.send(remote.request("HEAD", target, &[], ())?, what)?;
        Version::of_answer(answer.headers(), what)
    })
}

/// What a file of this version is called: as its key, or as its id where it has none.
fn name_of(remote: &Remote, id: ObjectId) -> Result<Key, ClientError> {
    let object: RemoteObject = remote.get_json(&format!("{}/info", target_of_id(id)), &format!("id:{id}"))?;
    let name = object.key.unwrap_or_else(|| id.to_string());
    Key::parse(&name).map_err(|error| ClientError::Usage(error.to_string()))
}

/// A file's place: below the directory that is named under the last part of its key, or as it is named.
fn place_of_one(destination: &Path, name: &Key) -> Result<Place, ClientError> {
    let is_directory = destination.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_directory && !destination.is_dir() {
        let named = destination.file_name().zip(destination.parent());
        let (name, parent) = named.ok_or_else(|| {
            ClientError::Usage(format!("{} is not the name of a file", destination.display()))
        })?;
        return Destination::open(parent)?.place(name);
    }
    let last = name.as_str().rsplit('/').next().unwrap_or_default();
    let directory =
        if is_directory { Destination::create(destination) } else { Destination::open(destination) };
    directory?.place(last.as_ref())
}

fn get_below(remote: &Remote, prefix: &Prefix, arguments: &GetArguments) -> Result<ExitCode, ClientError> {
    let listing = list_below(remote, prefix)?;
    let mut objects = Vec::new();
    for (key, object) in &listing.keyed {
        // Checked when it was listed.
        let (Ok(key), Some(version)) = (Key::parse(key), object.version()) else { continue };
        objects.push((KeyPath { scope: prefix.scope.clone(), key }, object, version));
    }
    if objects.is_empty() {
        return Err(ClientError::NotFound(prefix.to_string()));
    }
    let destination = Destination::create(&arguments.destination)?;
    let bytes = objects.iter().map(|(_, _, version)| version.size_bytes).sum();
    let report = Report::new(arguments.json, ("fetched", "file"), Progress::new(objects.len() as u64, bytes));
    in_parallel(&objects, arguments.workers.jobs, |(path, object, version)| {
        let (target, address) = (target_of_key(path), address_of(path));
        let name = path.key.as_str().strip_prefix(&prefix.text).unwrap_or_default();
        let place = Key::parse(name).map_err(|error| ClientError::Usage(error.to_string()));
        let place = place.and_then(|name| destination.place_below(&name));
        let (id, version) = (Some(object.id.as_str()), *version);
        Fetch { remote, target: &target, address: &address, version, id }.reported(place, &report)
    });
    Ok(report.finish())
}

/// One file on its way.
struct Fetch<'a> {
    remote: &'a Remote,
    target: &'a str,
    address: &'a str,
    /// What it was when it was asked for; it may be another one when it comes.
    version: Version,
    id: Option<&'a str>,
}

impl Fetch<'_> {
    fn reported(&self, place: Result<Place, ClientError>, report: &Report) -> super::transfers::Next {
        let address = Some(self.address);
        let place = match place {
            Ok(place) => place,
            Err(error) => return report.failed(&error, Line { address, ..Line::default() }),
        };
        let path = place.path.to_string_lossy();
        let path = Some(&*path);
        let fetched = {
            let progress = report.progress().begin(self.address, self.version.size_bytes);
            self.fetch(&place, &progress)
        };
        match fetched {
            Ok((outcome, version)) => {
                let hash = version.content_hash.to_string();
                // A version that came in between has another id.
                let id = self.id.filter(|_| version == self.version);
                let (size_bytes, content_hash) = (Some(version.size_bytes), Some(hash.as_str()));
                report.done(&Line { outcome, address, path, id, size_bytes, content_hash, ..Line::default() })
            }
            Err(error) => report.failed(&error, Line { address, path, ..Line::default() }),
        }
    }

    fn fetch(
        &self,
        place: &Place,
        progress: &FileProgress<'_>,
    ) -> Result<(&'static str, Version), ClientError> {
        if place.holds(&self.version) {
            progress.add(self.version.size_bytes);
            return Ok(("kept", self.version));
        }
        let mut partial = place.partial(self.version)?;
        let (hasher, length) =
            hashing::hash_rest(&mut partial.file, |bytes| progress.add(bytes.len() as u64))
                .map_err(|error| partial.failed(error))?;
        let beginning = self.beginning(&mut partial, hasher, length, progress)?;
        let mut sink = PartialSink { place, partial: Some(partial), length, progress };
        let downloaded = download(self.remote, self.target, self.address, beginning, &mut sink);
        let Some(partial) = sink.partial else {
            return downloaded.map(|version| ("fetched", version));
        };
        match downloaded {
            Ok(version) => {
                partial.keep()?;
                Ok(("fetched", version))
            }
            Err(error) => {
                if matches!(error, ClientError::ReceivedOther { .. }) || sink.length == 0 {
                    partial.throw_away();
                }
                Err(error)
            }
        }
    }

    /// What is there of the file, if it can be a beginning.
    fn beginning(
        &self,
        partial: &mut Partial<'_>,
        hasher: Sha256,
        length: u64,
        progress: &FileProgress<'_>,
    ) -> Result<Option<Beginning>, ClientError> {
        if length == 0 {
            return Ok(None);
        }
        if length <= self.version.size_bytes {
            return Ok(Some(Beginning { version: self.version, length, hasher }));
        }
        progress.take_back(length);
        start_over(partial)?;
        Ok(None)
    }
}

fn start_over(partial: &mut Partial<'_>) -> Result<(), ClientError> {
    let emptied = partial.file.set_len(0).and_then(|()| partial.file.seek(SeekFrom::Start(0)));
    emptied.map(drop).map_err(|error| partial.failed(error))
}

/// Bytes go to a partial file; those of another version to another one.
struct PartialSink<'a> {
    place: &'a Place,
    /// `None` only where a new one could not be made.
    partial: Option<Partial<'a>>,
    length: u64,
    progress: &'a FileProgress<'a>,
}

impl Sink for PartialSink<'_> {
    fn start_over(&mut self, version: Version) -> Result<(), ClientError> {
        self.progress.take_back(self.length);
        self.length = 0;
        if self.partial.as_ref().is_none_or(|partial| partial.version != version) {
            if let Some(old) = self.partial.take() {
                old.throw_away();
            }
            self.partial = Some(self.place.partial(version)?);
        }
        self.partial.as_mut().map_or(Ok(()), start_over)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let Some(partial) = &mut self.partial else { return Ok(()) };
        partial.file.write_all(bytes).map_err(|error| partial.failed(error))?;
        self.length += bytes.len() as u64;
        self.progress.add(bytes.len() as u64);
        Ok(())
    }
}
