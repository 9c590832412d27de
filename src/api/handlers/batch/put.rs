//! `POST /v1/batch/put`: each file of a tar archive becomes an object. (A list of contents is read in `refer`.)
//!
//! Small files are taken out of the body one after the other and become durable beside each other, so that many share a
//! write of the log while the next ones come in; a large one is stored as it comes, as an upload of its own is, and those
//! before it go on meanwhile:
//!
//! ```text
//! body ─► entry ─► here from end to end: begin ─► durable ┐
//!         entry ─► small: take in, begin ───────► durable ├─► results, in the order of the entries
//!         entry ─► large: store as it comes ──────────────┘
//! ```
//! Conditions of the head hold for each file, and a file's own records say otherwise for it alone.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt as _};

use super::super::super::archive_body::{ArchiveBody, ArchiveFailure, WHOLE_BYTES_MAX};
use super::super::super::audit_log::{Change, audit_unavailable};
use super::super::super::batches::{
    BATCH_ITEMS_MAX, BATCH_NAMES_BYTES_MAX, FILES_IN_FLIGHT_MAX, ITEMS_BETWEEN_TURNS,
};
use super::super::super::errors::Problem;
use super::super::super::http1::{Conditions, RequestHead};
use super::super::super::query::Parameters;
use super::super::super::request_body::RequestBody;
use super::super::super::service::Service;
use super::super::super::tar::{Entry, EntryKind};
use super::super::{Response, scope_of, upload};
use super::records::precondition;
use super::refer::{Together, is_list, refer};
use super::{Audited, ItemAudit, ResultDto, answer, once_there_is_room, refuse_fields};
use crate::application::errors::{SourceError, StoreError, UploadError};
use crate::application::ports::{
    Begun, BlobStore, ByteSource, Clock, ObjectRepository, ReadPace, ReadProgress,
};
use crate::application::use_cases::{UploadOrder, Uploaded, begin_upload, begin_whole, upload_object};
use crate::domain::entities::Principal;
use crate::domain::value_objects::{ContentHash, ContentType, Key, Precondition, StorageClass};
use crate::infrastructure::data_plane::buffers::{Block, SMALL_BLOCK_BYTES};

/// Files up to this size are stored beside each other. One that has come whole with others goes straight to where it is
/// written from; another that fits a small block goes there.
const SMALL_BYTES_MAX: u64 = WHOLE_BYTES_MAX;
/// How many bytes of them are on their way at once.
const BYTES_IN_FLIGHT_MAX: usize = 2 * 1024 * 1024;
/// How much of a name that cannot be a key is told.
const NAME_BYTES_TOLD_MAX: usize = Key::BYTES_MAX;
/// Fields of a head that could hold for the archive alone, and are about nothing that is stored.
const ABOUT_THE_ARCHIVE: [&str; 3] = ["If-Modified-Since", "Content-Digest", "Repr-Digest"];

/// Answers when the archive has ended and every file is durable, or has failed.
pub(in super::super) async fn put<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    (principal, request_id): (&Principal, &str),
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let parameters = Parameters::parse(head.query(), &["namespace", "tenant_id", "storage_class", "prefix"])?;
    let scope = scope_of(&parameters, principal)?;
    let storage_class = parameters.parsed("storage_class", StorageClass::parse)?.unwrap_or(StorageClass::Hot);
    let prefix = parameters.get("prefix").unwrap_or_default();
    Key::parse(&format!("{prefix}x"))
        .map_err(|error| Problem::parameter("invalid_parameter", "prefix", error))?;
    refuse_fields(head, &ABOUT_THE_ARCHIVE)?;
    let precondition = Conditions::of(head).into_precondition();
    let mut order = upload::order(head, scope.clone(), None, storage_class, precondition)?;
    // What is said of the archive's type is not said of the files in it.
    order.content_type = ContentType::octet_stream();
    let bytes_max = service.limits.body_bytes_max;
    if order.length_bytes.is_some_and(|length| length > bytes_max) {
        return Err(SourceError::TooLarge { bytes_max }.into());
    }
    let _place = service.batches.begin(principal.reach.tenant_id())?;
    let audit = ItemAudit::new(&service.audit_log, head, body, (principal, request_id));
    if is_list(head) {
        return refer(service, body, Together { order, prefix, principal, audit }).await;
    }
    let _upload = service.metrics.upload();
    let mut archive = ArchiveBody::new(&service.store, &scope.tenant_id, body)?;
    let mut intake = Intake::new(service, order, prefix, audit);
    let taken = intake.take_all(&mut archive).await;
    intake.settle().await;
    let (index, mut lines) = (intake.count, intake.lines);
    if let Err(problem) = taken {
        if lines.is_empty() {
            return Err(problem);
        }
        // What stands stands, and is told.
        ResultDto::of_problem(index, &problem).append_to(&mut lines);
    }
    Ok(answer(lines))
}

/// What is being stored of an archive.
struct Intake<'s, S, R, C> {
    service: &'s Service<S, R, C>,
    order: UploadOrder,
    prefix: &'s str,
    audit: ItemAudit<'s>,
    /// The entries that there is no result of yet, in their order.
    in_flight: VecDeque<InFlight<'s>>,
    /// What is [tended](InFlight::Tended) of them, and what has come of those that have ended.
    tended: FuturesOrdered<LocalBoxFuture<'s, (Item, Outcome)>>,
    tended_outcomes: VecDeque<(Item, Outcome)>,
    bytes_in_flight: usize,
    /// Two files of the same key are stored one after the other: the later one is the newer one.
    keys_in_flight: HashSet<Key>,
    /// How many entries there have been, and how long their names are together.
    count: usize,
    name_bytes: usize,
    /// The results so far.
    lines: Vec<u8>,
}

/// What became of an entry.
type Outcome = Result<Uploaded, Problem>;

/// What comes of an entry, and when.
enum InFlight<'s> {
    /// This, at once.
    Settled(Box<(Item, Outcome)>),
    /// What this says, which need not be asked before those ahead of it have ended.
    ByItself(Item, LocalBoxFuture<'s, Result<Uploaded, UploadError>>),
    /// The next outcome of those that have to be polled all the while.
    Tended,
}

/// An entry that there is a result of, or will be.
struct Item {
    index: usize,
    name: String,
    key: Option<Key>,
    size_bytes: u64,
    /// How many bytes in memory it has been.
    held_bytes: usize,
}

impl<'s, S, R, C> Intake<'s, S, R, C>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    fn new(service: &'s Service<S, R, C>, order: UploadOrder, prefix: &'s str, audit: ItemAudit<'s>) -> Self {
        Self {
            service,
            order,
            prefix,
            audit,
            in_flight: VecDeque::new(),
            tended: FuturesOrdered::new(),
            tended_outcomes: VecDeque::new(),
            bytes_in_flight: 0,
            keys_in_flight: HashSet::new(),
            count: 0,
            name_bytes: 0,
            lines: Vec::new(),
        }
    }

    /// Takes one entry after the other, until the archive ends or cannot be read on.
    async fn take_all<'b: 's, 't: 's>(
        &mut self,
        archive: &mut ArchiveBody<'b, 't, S>,
    ) -> Result<(), Problem> {
        for entries in 1_usize.. {
            // Many that are empty come in one read.
            if entries.is_multiple_of(ITEMS_BETWEEN_TURNS) {
                let turns = self.beside(pin!(archive.take_turns())).await;
                turns.map_err(|failure| told(failure, archive.offset()))?;
            }
            let entry = self.beside(pin!(archive.next_entry())).await;
            let Some(entry) = entry.map_err(|failure| told(failure, archive.offset()))? else {
                return Ok(());
            };
            if entry.kind == EntryKind::Directory {
                continue;
            }
            let of_records = entry.own_records.iter().map(|(name, value)| name.len() + value.len());
            self.name_bytes += entry.name.len() + of_records.sum::<usize>();
            if self.count == BATCH_ITEMS_MAX || self.name_bytes > BATCH_NAMES_BYTES_MAX {
                let detail = format!(
                    "a batch has at most {BATCH_ITEMS_MAX} files, and {BATCH_NAMES_BYTES_MAX} bytes of names and conditions"
                );
                return Err(Problem::new(413, "batch_too_large", detail));
            }
            let taken = self.take(archive, entry).await;
            taken.map_err(|failure| told(failure, archive.offset()))?;
        }
        Ok(())
    }

    async fn take<'b: 's, 't: 's>(
        &mut self,
        archive: &mut ArchiveBody<'b, 't, S>,
        entry: Entry,
    ) -> Result<(), ArchiveFailure> {
        let (index, size_bytes) = (self.count, entry.size_bytes);
        let admitted = match precondition(&self.order.precondition, &entry.own_records) {
            Ok(precondition) => self.admit(&entry).await.map(|key| (key, precondition)),
            Err(problem) => Err(problem),
        };
        let item = |key, held_bytes| {
            let name = String::from_utf8(entry.name);
            let name = name.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            Item { index, name, key, size_bytes, held_bytes }
        };
        let (key, precondition) = match admitted {
            Ok(admitted) => admitted,
            Err(problem) => {
                self.push(InFlight::Settled(Box::new((item(None, 0), Err(problem)))));
                return Ok(());
            }
        };
        let service = self.service;
        if size_bytes > SMALL_BYTES_MAX {
            let ports = (&service.store, &service.repository, &service.clock);
            let order = self.order_of(&key, &precondition, size_bytes);
            let mut uploading = Box::pin(upload_object(ports, order, archive));
            let uploaded = self.beside(uploading.as_mut()).await;
            drop(uploading);
            // Where the body has failed, that is told of it and not of the file.
            archive.take_failure()?;
            let result = uploaded.map_err(Problem::from);
            self.push(InFlight::Settled(Box::new((item(Some(key), 0), result))));
            return Ok(());
        }
        // No more than SMALL_BYTES_MAX, so that it is a usize anywhere.
        let held_bytes = size_bytes as usize;
        while self.in_flight.len() >= FILES_IN_FLIGHT_MAX
            || self.bytes_in_flight + held_bytes > BYTES_IN_FLIGHT_MAX
        {
            service.repository.hasten();
            if !self.settle_one().await {
                break;
            }
        }
        if let Some((content_hash, bytes)) = archive.whole() {
            let order = self.order_of(&key, &precondition, size_bytes);
            let ports = (&service.repository, &service.clock);
            let begun = self.beside(pin!(begin_whole(ports, order, (content_hash, bytes)))).await;
            self.bytes_in_flight += held_bytes;
            self.keys_in_flight.insert(key.clone());
            self.push_begun(item(Some(key), held_bytes), begun);
            return Ok(());
        }
        if held_bytes <= SMALL_BLOCK_BYTES {
            let begun = self.begin(archive, &key, &precondition).await?;
            self.bytes_in_flight += held_bytes;
            self.keys_in_flight.insert(key.clone());
            self.push_begun(item(Some(key), held_bytes), begun);
            return Ok(());
        }
        let content = self.beside(pin!(archive.content())).await?;
        let order = self.order_of(&key, &precondition, size_bytes);
        self.bytes_in_flight += held_bytes;
        self.keys_in_flight.insert(key.clone());
        let item = item(Some(key), held_bytes);
        let stored = async move { store_small(service, order, &content).await };
        self.push_tended(item, stored.boxed_local());
        Ok(())
    }

    /// What is said of a file before its first byte.
    fn order_of(&self, key: &Key, precondition: &Precondition, length_bytes: u64) -> UploadOrder {
        let (key, length_bytes) = (Some(key.clone()), Some(length_bytes));
        UploadOrder { key, length_bytes, precondition: precondition.clone(), ..self.order.clone() }
    }

    /// Takes in a file that fits a small block, and begins to store it.
    async fn begin<'b: 's, 't: 's>(
        &mut self,
        archive: &mut ArchiveBody<'b, 't, S>,
        key: &Key,
        precondition: &Precondition,
    ) -> Result<
        Result<
            Begun<'s, impl Future<Output = Result<Uploaded, UploadError>> + use<'s, 'b, 't, S, R, C>>,
            UploadError,
        >,
        ArchiveFailure,
    > {
        let ports = (&self.service.store, &self.service.repository, &self.service.clock);
        let length_bytes = archive.content_left();
        loop {
            let order = self.order_of(key, precondition, length_bytes);
            let begun = self.beside(pin!(begin_upload(ports, order, archive))).await;
            archive.take_failure()?;
            match begun {
                // All blocks are lent, and this batch may have some of them.
                Err(UploadError::Store(StoreError::Overloaded))
                    if length_bytes == archive.content_left() && self.settle_one().await => {}
                begun => return Ok(begun),
            }
        }
    }

    /// The key that a file is stored under.
    async fn admit(&mut self, entry: &Entry) -> Result<Key, Problem> {
        if let EntryKind::Other(kind) = entry.kind {
            return Err(Problem::new(
                400,
                "unsupported_entry",
                format!("only files are stored, and this is {kind}"),
            ));
        }
        let invalid = |reason: &dyn std::fmt::Display| Problem::new(400, "invalid_key", reason.to_string());
        let name = std::str::from_utf8(&entry.name).map_err(|_| invalid(&"the name is not UTF-8"))?;
        let name = name.strip_prefix("./").unwrap_or(name);
        let key = match self.prefix {
            "" => Key::parse(name),
            prefix => Key::parse(&format!("{prefix}{name}")),
        };
        let key = key.map_err(|error| invalid(&error))?;
        if self.keys_in_flight.contains(&key) || !self.audit.takes_changes() {
            self.settle().await;
        }
        if !self.audit.takes_changes() {
            return Err(audit_unavailable());
        }
        Ok(key)
    }

    fn push(&mut self, in_flight: InFlight<'s>) {
        self.count += 1;
        self.in_flight.push_back(in_flight);
    }

    fn push_begun<F>(&mut self, item: Item, begun: Result<Begun<'s, F>, UploadError>)
    where
        F: Future<Output = Result<Uploaded, UploadError>> + 's,
    {
        match begun {
            Ok(Begun::ByItself(stored)) => self.push(InFlight::ByItself(item, stored.boxed_local())),
            Ok(Begun::Tended(stored)) => self.push_tended(item, stored),
            Err(error) => self.push(InFlight::Settled(Box::new((item, Err(error.into()))))),
        }
    }

    fn push_tended(&mut self, item: Item, stored: LocalBoxFuture<'s, Result<Uploaded, UploadError>>) {
        let outcome = stored.map(|stored| (item, stored.map_err(Problem::from)));
        self.tended.push_back(outcome.boxed_local());
        self.push(InFlight::Tended);
    }

    /// What has come of the first of those that are in flight, once that is known; `None` if there is none.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Option<(Item, Outcome)>> {
        while let Poll::Ready(Some(outcome)) = self.tended.poll_next_unpin(context) {
            self.tended_outcomes.push_back(outcome);
        }
        let stored = match self.in_flight.front_mut() {
            Some(InFlight::ByItself(_, stored)) => Some(ready!(stored.poll_unpin(context))),
            Some(InFlight::Tended) if self.tended_outcomes.is_empty() => return Poll::Pending,
            _ => None,
        };
        Poll::Ready(match (self.in_flight.pop_front(), stored) {
            (Some(InFlight::ByItself(item, _)), Some(stored)) => Some((item, stored.map_err(Problem::from))),
            (Some(InFlight::Settled(settled)), _) => Some(*settled),
            (Some(InFlight::Tended), _) => self.tended_outcomes.pop_front(),
            _ => None,
        })
    }

    /// Waits for `future`, while what is in flight goes on. Mostly there is nothing to wait for, and then it is not looked
    /// at: its turn comes with the next read.
    async fn beside<F: Future>(&mut self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|context| {
            let polled = future.as_mut().poll(context);
            if polled.is_pending() {
                while let Poll::Ready(Some((item, outcome))) = self.poll_first(context) {
                    self.note(item, outcome);
                }
            }
            polled
        })
        .await
    }

    /// Waits for all that is in flight.
    async fn settle(&mut self) {
        self.service.repository.hasten();
        while self.settle_one().await {}
    }

    /// Waits for the first of those that are in flight; `false` if there is none.
    async fn settle_one(&mut self) -> bool {
        let first = poll_fn(|context| self.poll_first(context)).await;
        first.map(|(item, outcome)| self.note(item, outcome)).is_some()
    }

    /// Writes down what became of an entry.
    fn note(&mut self, item: Item, outcome: Outcome) {
        let Item { index, name, key, size_bytes, held_bytes } = item;
        self.bytes_in_flight -= held_bytes;
        if let Some(key) = &key {
            self.keys_in_flight.remove(key);
        }
        let told_name = Some(&name[..name.floor_char_boundary(NAME_BYTES_TOLD_MAX)]);
        let scope = Some(&self.order.scope);
        let audited = Audited { scope, key: key.as_ref(), object_id: None, bytes_in: size_bytes };
        match outcome {
            Ok(uploaded) => {
                let status = if uploaded.replaced { 200 } else { 201 };
                ResultDto {
                    index,
                    name: told_name,
                    key: key.as_ref().map(Key::as_str).filter(|_| !self.prefix.is_empty()),
                    status,
                    id: Some(uploaded.object.id),
                    content_hash: Some(uploaded.content_hash),
                    size_bytes: Some(size_bytes),
                    ..ResultDto::default()
                }
                .append_to(&mut self.lines);
                self.audit.tell_change(status, || Change::Stored(uploaded), &audited);
            }
            Err(problem) => {
                ResultDto { name: told_name, ..ResultDto::of_problem(index, &problem) }
                    .append_to(&mut self.lines);
                self.audit.tell_problem(&problem, &audited);
            }
        }
    }
}

/// Why the rest of an archive is not stored.
fn told(failure: ArchiveFailure, offset: u64) -> Problem {
    match failure {
        ArchiveFailure::Source(error) => error.into(),
        ArchiveFailure::Archive(error) => {
            Problem::new(400, "invalid_archive", format!("{error}, at byte {offset} of the body"))
        }
    }
}

/// Stores a file that is in memory.
async fn store_small<S, R, C>(
    service: &Service<S, R, C>,
    order: UploadOrder,
    content: &[u8],
) -> Result<Uploaded, UploadError>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let ports = (&service.store, &service.repository, &service.clock);
    once_there_is_room(async || upload_object(ports, order.clone(), &mut Content(content)).await).await
}

/// Content that is in memory, and not read yet.
struct Content<'c>(&'c [u8]);

impl ByteSource<Block> for Content<'_> {
    async fn read(&mut self, mut block: Block, _: ReadPace) -> (Result<ReadProgress, SourceError>, Block) {
        if self.0.is_empty() {
            return (Ok(ReadProgress::End), block);
        }
        let count = block.append(self.0);
        self.0 = &self.0[count..];
        (Ok(ReadProgress::Bytes(count)), block)
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(None)
    }
}
