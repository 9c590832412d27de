//! `just_storage put`: files and directories become objects.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use clap::Args;
use sha2::{Digest as _, Sha256};
use ureq::SendBody;
use ureq::http::header::{self, HeaderName};

use super::address::{Address, Prefix, address_of, target_of_id, target_of_key};
use super::answers::{RemoteObject, Version};
use super::errors::ClientError;
use super::get::version_of;
use super::hashing::{self, HashingReader, hash_files};
use super::listing::list_below;
use super::local_tree::{self, LocalFile, files_below, utf8_name};
use super::progress::{FileProgress, Progress};
use super::references::{References, Referred, parts};
use super::remote::{Remote, RemoteArguments, WorkerArguments};
use super::report::{Line, Report};
use super::transfers::{Next, in_parallel};
use crate::domain::entities::KeyPath;
use crate::domain::value_objects::{ContentHash, ContentType, Metadata as ObjectMetadata};

/// Up to this size a file is read into memory, so that its digest can go ahead of it: the server then keeps nothing that
/// differs. A longer one is hashed while it is sent, and compared with what the server says that it has.
const WHOLE_BYTES_MAX: u64 = 1024 * 1024;
/// Standard input as a source.
const STANDARD_INPUT: &str = "-";

/// What `put` is told.
#[derive(Debug, Args)]
pub struct PutArguments {
    /// Files and directories, or - for standard input
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// NAMESPACE/TENANT/KEY for one file; NAMESPACE/TENANT/PREFIX/ for what goes below it under its own name. What is in a
    /// directory goes below the address, whether that ends in a slash or not
    #[arg(value_name = "ADDRESS")]
    destination: Address,
    /// Leave out what the server has with the same bytes already
    #[arg(long)]
    update: bool,
    /// The content type of everything that is sent [default: application/octet-stream]
    #[arg(long, value_name = "TYPE", value_parser = ContentType::parse)]
    content_type: Option<ContentType>,
    /// Metadata for everything that is sent; can be said more than once
    #[arg(long = "meta", value_name = "NAME=VALUE", value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    workers: WorkerArguments,
    /// One JSON object a line for each file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArguments,
}

impl PutArguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Header fields that say what every object is.
    fn fields(&self) -> Result<Vec<(HeaderName, String)>, ClientError> {
        let mut fields = Vec::new();
        if let Some(content_type) = &self.content_type {
            fields.push((header::CONTENT_TYPE, content_type.as_str().to_owned()));
        }
        for (name, value) in &self.metadata {
            let name = HeaderName::try_from(format!("x-object-meta-{name}"));
            let name = name.map_err(|_| ClientError::Usage("--meta: a name is too long".to_owned()))?;
            fields.push((name, value.clone()));
        }
        Ok(fields)
    }
}

fn parse_metadata(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("metadata is NAME=VALUE")?;
    let name = name.to_ascii_lowercase();
    ObjectMetadata::default().insert(&name, value).map_err(|error| error.to_string())?;
    Ok((name, value.to_owned()))
}

pub(super) fn put(arguments: PutArguments) -> Result<ExitCode, ClientError> {
    let remote = Remote::new(&arguments.remote, arguments.workers.jobs)?;
    let sender = Sender { fields: arguments.fields()?, remote };
    if arguments.sources.iter().any(|source| source.as_os_str() == STANDARD_INPUT) {
        return put_standard_input(&arguments, &sender);
    }
    let files = plan(&arguments.sources, &arguments.destination)?;
    let there =
        if arguments.update { There::look(&sender.remote, &files, &arguments)? } else { There::default() };
    let bytes = files.iter().map(|file| file.size_bytes).sum();
    let report = Report::new(arguments.json, ("sent", "file"), Progress::new(files.len() as u64, bytes));
    put_all(&files, &sender, there, &arguments, &report);
    Ok(report.finish())
}

/// Leaves out what the server has, refers to what it has the bytes of, and sends the rest, some files at a time.
fn put_all(files: &[LocalFile], sender: &Sender, there: There, arguments: &PutArguments, report: &Report) {
    let There { known, mut hashes } = there;
    let workers = arguments.workers.jobs;
    let references = References::new(&sender.remote, &sender.fields, workers);
    let stopped = AtomicBool::new(false);
    let note = |next| {
        stopped.fetch_or(next == Next::Stop, Ordering::Relaxed);
    };
    for part in parts(files) {
        hashes.resize(part.len(), None);
        let alike: Vec<_> =
            (0..part.len()).filter(|index| same_size(&part[*index], &known).is_some()).collect();
        hash_files(part, &alike, &mut hashes, workers);
        let is_same = |index: usize, version: &Version| hashes[index] == Some(version.content_hash);
        let mut left = Vec::with_capacity(part.len());
        for (index, file) in part.iter().enumerate() {
            match same_size(file, &known).filter(|version| is_same(index, version)) {
                Some(version) => note(kept(file, version, report)),
                None => left.push(index),
            }
        }
        // Of one file nothing is asked.
        if files.len() > 1 && !stopped.load(Ordering::Relaxed) {
            let referred = references.refer(part, &left, &mut hashes);
            referred.iter().for_each(|referred| note(shared(&part[referred.index], referred, report)));
            let done: HashSet<_> = referred.iter().map(|referred| referred.index).collect();
            left.retain(|index| !done.contains(index));
        }
        if !stopped.load(Ordering::Relaxed) {
            in_parallel(&left, workers, |index| {
                let next = sender.put_reported(&part[*index], report);
                note(next);
                next
            });
        }
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        hashes.clear();
    }
}

/// Which file goes where, before anything is sent.
fn plan(sources: &[PathBuf], destination: &Address) -> Result<Vec<LocalFile>, ClientError> {
    let mut files: Vec<LocalFile> = Vec::new();
    for source in sources {
        let metadata = fs::metadata(source).map_err(ClientError::files("read", source))?;
        match destination {
            Address::Id(_) => return Err(no_version()),
            _ if metadata.is_dir() => files.append(&mut files_below(source, &below(destination)?)?),
            Address::Below(prefix) => {
                files.push(local_tree::file(source.clone(), &metadata, prefix, utf8_name(source)?)?);
            }
            Address::Key(target) if metadata.is_file() && sources.len() == 1 => files.push(LocalFile {
                path: source.clone(),
                target: target.clone(),
                size_bytes: metadata.len(),
            }),
            Address::Key(_) if sources.len() == 1 => {
                let reason =
                    "it is neither a file nor a directory; send it through standard input".to_owned();
                return Err(ClientError::Name { path: source.clone(), reason });
            }
            Address::Key(_) => {
                let reason =
                    format!("{destination} is one key; end it with a slash to put several files below it");
                return Err(ClientError::Usage(reason));
            }
        }
    }
    let mut targets: Vec<&KeyPath> = files.iter().map(|file| &file.target).collect();
    targets.sort_unstable();
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(ClientError::Usage(format!("two of the files would both become {}", address_of(pair[0]))))
        }
        None => Ok(files),
    }
}

/// The newest bytes of keys.
type Known = BTreeMap<String, Version>;

/// What is there already.
#[derive(Default)]
struct There {
    known: Known,
    /// What the first of the files are.
    hashes: Vec<Option<ContentHash>>,
}

impl There {
    /// Asks the server, and hashes the first files meanwhile.
    fn look(remote: &Remote, files: &[LocalFile], arguments: &PutArguments) -> Result<Self, ClientError> {
        let first = parts(files)[0];
        let (mut hashes, all) = (vec![None; first.len()], Vec::from_iter(0..first.len()));
        let known = thread::scope(|scope| {
            scope.spawn(|| hash_files(first, &all, &mut hashes, arguments.workers.jobs));
            known(remote, files, arguments)
        });
        Ok(Self { known: known?, hashes })
    }
}

/// What the server has of what is to be sent.
fn known(remote: &Remote, files: &[LocalFile], arguments: &PutArguments) -> Result<Known, ClientError> {
    if let (Address::Key(path), [file]) = (&arguments.destination, files)
        && file.target == *path
    {
        return match version_of(remote, &target_of_key(path), &address_of(path)) {
            Ok(version) => Ok(Known::from([(path.key.to_string(), version)])),
            Err(ClientError::NotFound(_)) => Ok(Known::new()),
            Err(error) => Err(error),
        };
    }
    let listed = list_below(remote, &below(&arguments.destination)?)?.keyed.into_iter();
    Ok(listed.filter_map(|(key, object)| object.version().map(|version| (key, version))).collect())
}

/// The address as what directories go below.
fn below(destination: &Address) -> Result<Prefix, ClientError> {
    match destination {
        Address::Below(prefix) => Ok(prefix.clone()),
        Address::Key(KeyPath { scope, key }) => Ok(Prefix { scope: scope.clone(), text: format!("{key}/") }),
        Address::Id(_) => Err(no_version()),
    }
}

fn no_version() -> ClientError {
    ClientError::Usage("a version that is there cannot be changed; put a key".to_owned())
}

/// A body of unknown length, which can be read once: what fails is not tried again.
fn put_standard_input(arguments: &PutArguments, sender: &Sender) -> Result<ExitCode, ClientError> {
    let (Address::Key(target), [_]) = (&arguments.destination, &arguments.sources[..]) else {
        return Err(ClientError::Usage("standard input goes to a key, and alone".to_owned()));
    };
    let report = Report::new(arguments.json, ("sent", "file"), Progress::of_unknown());
    let address = address_of(target);
    let sent = {
        let progress = report.progress().begin(&address, 0);
        let tell = |bytes| progress.add(bytes);
        let mut body = HashingReader::new(io::stdin().lock(), None, &tell);
        let sent = sender.send_stream(target, &address, &mut body, &[]);
        match body.failure.take() {
            Some(failure) => Err(ClientError::Input(failure)),
            None => sent.and_then(|object| sender.compare(object, &address, hashing::finish(body.hasher))),
        }
    };
    reported(&report, &address, None, sent);
    Ok(report.finish())
}

/// How objects are sent.
struct Sender {
    remote: Remote,
    fields: Vec<(HeaderName, String)>,
}

/// What a file was when its bytes were read, and must still have been at the end.
#[derive(PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Sender {
    fn put_reported(&self, file: &LocalFile, report: &Report) -> Next {
        let address = address_of(&file.target);
        let progress = report.progress().begin(&address, file.size_bytes);
        reported(report, &address, Some(&file.path), self.put_file(file, &address, &progress))
    }

    /// `PUT` of a key may be done again: at worst the same bytes become a version twice.
    fn put_file(
        &self,
        file: &LocalFile,
        address: &str,
        progress: &FileProgress<'_>,
    ) -> Result<RemoteObject, ClientError> {
        let told = Cell::new(0);
        self.remote.retrying_whole(|_| {
            progress.take_back(told.replace(0));
            let tell = |bytes| {
                told.set(told.get() + bytes);
                progress.add(bytes);
            };
            let mut source = File::open(&file.path).map_err(ClientError::files("open", &file.path))?;
            let metadata = source.metadata().map_err(ClientError::files("read", &file.path))?;
            let stamp = Stamp::of(&metadata);
            if stamp.length <= WHOLE_BYTES_MAX {
                let bytes = read_whole(source, stamp.length, &file.path)?;
                let object = self.put_whole(&file.target, address, &bytes)?;
                tell(stamp.length);
                return Ok(object);
            }
            let mut body = HashingReader::new(&mut source, Some(stamp.length), &tell);
            let length = stamp.length.to_string();
            // A refusal comes before the bytes have gone.
            let fields = [(header::CONTENT_LENGTH, length.as_str()), (header::EXPECT, "100-continue")];
            let sent = self.send_stream(&file.target, address, &mut body, &fields);
            if let Some(failure) = body.failure.take() {
                return Err(ClientError::files("read", &file.path)(failure));
            }
            let hash = hashing::finish(body.hasher);
            let object = self.compare(sent?, address, hash)?;
            let after = source.metadata().map_err(ClientError::files("read", &file.path))?;
            if Stamp::of(&after) != stamp {
                self.take_back(&object);
                return Err(ClientError::Changed(file.path.clone()));
            }
            Ok(object)
        })
    }

    fn put_whole(&self, target: &KeyPath, address: &str, bytes: &[u8]) -> Result<RemoteObject, ClientError> {
        let hash = ContentHash::from_bytes(Sha256::digest(bytes).into());
        let mut digest = b"sha-256=:".to_vec();
        hash.append_base64(&mut digest);
        digest.push(b':');
        let digest = String::from_utf8_lossy(&digest);
        let fields = self.all_fields(&[(HeaderName::from_static("repr-digest"), &digest)]);
        let request = self.remote.request("PUT", &target_of_key(target), &fields, bytes)?;
        let answer = self.remote.send(request, address)?;
        let object = self.remote.read_json(answer, address)?;
        self.compare(object, address, hash)
    }

    fn send_stream<R: io::Read>(
        &self,
        target: &KeyPath,
        address: &str,
        body: &mut HashingReader<'_, R>,
        fields: &[(HeaderName, &str)],
    ) -> Result<RemoteObject, ClientError> {
        let fields = self.all_fields(fields);
        let body = SendBody::from_reader(body);
        let request = self.remote.request("PUT", &target_of_key(target), &fields, body)?;
        let answer = self.remote.send(request, address)?;
        self.remote.read_json(answer, address)
    }

    fn all_fields<'a>(&'a self, fields: &[(HeaderName, &'a str)]) -> Vec<(HeaderName, &'a str)> {
        let own = self.fields.iter().map(|(name, value)| (name.clone(), value.as_str()));
        own.chain(fields.iter().cloned()).collect()
    }

    /// Holds the server to the bytes that were sent.
    fn compare(
        &self,
        object: RemoteObject,
        address: &str,
        sent: ContentHash,
    ) -> Result<RemoteObject, ClientError> {
        match object.version().map(|version| version.content_hash) {
            Some(stored) if stored == sent => Ok(object),
            Some(stored) => {
                self.take_back(&object);
                Err(ClientError::StoredOther { what: address.to_owned(), sent, stored })
            }
            None => Err(ClientError::Foreign { what: address.to_owned(), reason: "it names no hash" }),
        }
    }

    /// Removes a version that should not be, as well as that can be done: the failure is told in any case.
    fn take_back(&self, object: &RemoteObject) {
        let Ok(Address::Id(id)) = format!("id:{}", object.id).parse() else { return };
        if let Ok(request) = self.remote.request("DELETE", &target_of_id(id), &[], ()) {
            let _ = self.remote.send(request, &object.id);
        }
    }
}

/// What the server has, if it is as long as the file.
fn same_size<'k>(file: &LocalFile, known: &'k Known) -> Option<&'k Version> {
    let there = known.get(file.target.key.as_str());
    there.filter(|version| version.size_bytes == file.size_bytes)
}

/// All of a small file, if it is as long as it was.
fn read_whole(source: File, length: u64, path: &Path) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::with_capacity(length as usize + 1);
    source.take(length + 1).read_to_end(&mut bytes).map_err(ClientError::files("read", path))?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(ClientError::Changed(path.to_owned())),
    }
}

/// Says of a file that the server has the same already.
fn kept(file: &LocalFile, version: &Version, report: &Report) -> Next {
    finished(file, report, Line { outcome: "kept", ..Line::default() }, version)
}

/// Says of a file that the server had its bytes.
fn shared(file: &LocalFile, referred: &Referred, report: &Report) -> Next {
    let size_bytes = referred.size_bytes.unwrap_or(file.size_bytes);
    let version = Version { content_hash: referred.content_hash, size_bytes };
    finished(file, report, Line { outcome: "sent", id: Some(&referred.id), ..Line::default() }, &version)
}

fn finished(file: &LocalFile, report: &Report, line: Line<'_>, version: &Version) -> Next {
    let address = address_of(&file.target);
    report.progress().begin(&address, file.size_bytes).add(file.size_bytes);
    let (path, hash) = (file.path.to_string_lossy(), version.content_hash.to_string());
    let (address, path) = (Some(address.as_str()), Some(&*path));
    let (size_bytes, content_hash) = (Some(version.size_bytes), Some(hash.as_str()));
    report.done(&Line { address, path, size_bytes, content_hash, ..line })
}

fn reported(
    report: &Report,
    address: &str,
    path: Option<&Path>,
    outcome: Result<RemoteObject, ClientError>,
) -> Next {
    let path = path.map(Path::to_string_lossy);
    match outcome {
        Ok(object) => report.done(&Line {
            outcome: "sent",
            address: Some(address),
            path: path.as_deref(),
            id: Some(&object.id),
            size_bytes: object.size_bytes,
            content_hash: object.content_hash.as_deref(),
            ..Line::default()
        }),
        Err(error) => {
            report.failed(&error, Line { address: Some(address), path: path.as_deref(), ..Line::default() })
        }
    }
}
