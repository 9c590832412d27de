//! The object repository as a core sees it: messages to the metadata plane, and the object cache in front of them.
//!
//! Where the log is the point of durability, a change goes through it first: it is written to this core's pack, and from
//! there, in the order of all changes, to the metadata plane.
//!
//! No answer is waited for longer than a limit. A write that is late may still happen: what it changes in the cache
//! is forgotten when it ends, and not only when its caller gives up.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};

use super::buffers::Block;
use super::deadline_list::WaitLimit;
use super::object_cache::{ObjectCache, Ticket as CacheTicket};
use super::read_notes::ReadNotes;
use super::recorded_objects::{Look, RecordedObjects as Records};
use super::runtime::{Task, spawn};
use crate::application::errors::{QuotaExceeded, RepositoryError, StoreError, UploadError};
use crate::application::key_listing::{KeyPage, KeyQuery, VersionQuery};
use crate::application::lifecycle::{DueCandidate, DueCursor, DueObject, DuePage, LifecycleRepository};
use crate::application::ports::{
    ApiKeyRepository, Begun, CommitOutcome, DeleteOutcome, Freshness, KeyStanding, ListPage, ListQuery,
    LooseCommit, LooseOutcome, ObjectCommit, ObjectName, ObjectRepository, ObjectUpdate, UpdateOutcome,
};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, KeyPath, LifecycleRule, Object, Quota, QuotaLimits, Reach, StoredContent,
    StoredObject,
};
use crate::domain::value_objects::{
    ContentHash, Namespace, ObjectId, PackId, Place, Precondition, StorageClass, TenantId, Timestamp,
};
use crate::infrastructure::backlog::Share;
use crate::infrastructure::lifecycle_channel::LifecycleQuery;
use crate::infrastructure::metrics::{CoreMetrics, Phase, note_since};
use crate::infrastructure::plane_channel::{DataEnd, Query, Reply, Ticket, Write, WriteOutcome};
use crate::infrastructure::quota_ledger::QuotaRoom;
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::log_record::is_logged;
use crate::infrastructure::storage::{Appending, Change, Content, ContentBytes, Pace, PackFiles, Packs};

/// How many API keys a core looks up at once of those that may be guesses. Whoever sends a flood of them waits behind
/// itself, and the metadata plane has one more question from each core at the most.
pub const GUESSES_AT_ONCE_MAX: usize = 1;

/// How often a change of a batch looks for a place in the order of the log, which it waits for each time.
const TICKET_TRIES_MAX: usize = 8;
/// An upload that is received within this time, or up to 200 ms more, is not noted before it is committed.
const RESERVE_AFTER: Duration = Duration::from_millis(100);

/// A core's way to the metadata plane.
#[derive(Clone)]
pub struct MetadataClient {
    channel: DataEnd,
    cache: Arc<ObjectCache>,
    limit: WaitLimit,
    reserve_after: WaitLimit,
    log: Option<Rc<Packs>>,
    /// Where commits are found without the database.
    records: Option<Records>,
    /// Turns in the order of asking. No more wait than there are connections.
    guesses: Rc<Semaphore>,
    reads: Rc<ReadNotes>,
    telling: Rc<Telling>,
    metrics: Arc<CoreMetrics>,
}

/// The task that tells the metadata plane of reads, while there is one.
#[derive(Default)]
struct Telling {
    is_under_way: Cell<bool>,
    task: RefCell<Option<Task<()>>>,
}

impl MetadataClient {
    /// A client that remembers what it finds in `cache`, which all cores share, and waits up to `limit` for each answer.
    /// With a log, changes go through that first.
    pub fn new(channel: DataEnd, cache: Arc<ObjectCache>, limit: WaitLimit, log: Option<Rc<Packs>>) -> Self {
        let guesses = Rc::new(Semaphore::new(GUESSES_AT_ONCE_MAX));
        let reads = Rc::new(ReadNotes::new(channel.noted_namespaces()));
        let (telling, metrics) = Default::default();
        let reserve_after = limit.with_limit(RESERVE_AFTER);
        let records = None;
        Self { channel, cache, limit, reserve_after, log, records, guesses, reads, telling, metrics }
    }

    /// The same, which finds commits in the log before it asks the metadata plane.
    #[must_use]
    pub fn finding_in(self, index: Option<Arc<RecordIndex>>, packs: &Rc<PackFiles>) -> Self {
        Self { records: index.map(|index| Records::new(index, packs.clone())), ..self }
    }

    /// The same, which counts in the core's own cells.
    #[must_use]
    pub fn counting_in(self, metrics: Arc<CoreMetrics>) -> Self {
        Self { metrics, ..self }
    }

    async fn write(&self, write: Write) -> Result<WriteOutcome, RepositoryError> {
        self.write_with(write, QuotaRoom::default()).await
    }

    async fn write_with(&self, mut write: Write, room: QuotaRoom) -> Result<WriteOutcome, RepositoryError> {
        let (reply, outcome) = oneshot::channel();
        let Some(packs) = self.log.as_ref().filter(|_| is_logged(&write)) else {
            self.channel.write(write, reply, room)?;
            return self.outcome(outcome).await;
        };
        let log = packs.for_change(match &write {
            Write::Commit(commit) => commit.stored.object.storage_class,
            Write::Update(update) => update.object.storage_class,
            _ => StorageClass::Hot,
        });
        let (ticket, is_new) = self.ticket(Share::Alone, &write).await?;
        if let Write::Commit(commit) = &mut write {
            commit.is_first_version = is_new;
        }
        let sequence = ticket.sequence();
        let ticket = ticket.with_room(room);
        let appended = log.append_change(Change { write, ticket, reply: Some(reply) }, None).await;
        let appended = appended.map_err(|error| log_failed(&error));
        self.logged_outcome(appended, outcome, sequence).await
    }

    /// A place in the order of the log, as soon as the database is not too far behind; and whether it is that of the
    /// first version that the change's key can have.
    async fn ticket(&self, share: Share, write: &Write) -> Result<(Ticket, bool), RepositoryError> {
        if let Some(order) = self.channel.order().filter(|order| order.is_crowded(share)) {
            let (room, started) = (std::pin::pin!(order.room(share)), Instant::now());
            let found = self.limit.within(room).await;
            note_since(Phase::Queue, started);
            found.ok_or(RepositoryError::Overloaded)?;
        }
        let take = || self.channel.ticket_in(share, write);
        let key_path = match write {
            Write::Commit(commit) => commit.stored.object.key_path(),
            // Of a key that it gives an object, too, it must be known that it has a version.
            Write::Update(update) => update.object.key_path(),
            _ => None,
        };
        match key_path.zip(self.channel.order().and_then(|order| order.keys())) {
            Some((key_path, keys)) => keys.claim(&key_path, take),
            None => Ok((take()?, false)),
        }
    }

    /// As [`ticket`](Self::ticket). Where others were faster than a batch's change that had waited for room, it waits once
    /// more.
    async fn ticket_within(&self, share: Share, write: &Write) -> Result<(Ticket, bool), RepositoryError> {
        let tries = if share == Share::Batched { TICKET_TRIES_MAX } else { 1 };
        for _ in 1..tries {
            match self.ticket(share, write).await {
                Err(RepositoryError::Overloaded) => {}
                taken => return taken,
            }
        }
        self.ticket(share, write).await
    }

    /// What the metadata plane says, or `None` if it takes too long.
    async fn answer<F: Future + Unpin>(&self, reply: F) -> Option<F::Output> {
        let started = Instant::now();
        let answer = self.limit.within(reply).await;
        note_since(Phase::Database, started);
        answer
    }

    async fn outcome(
        &self,
        mut outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>,
    ) -> Result<WriteOutcome, RepositoryError> {
        match self.answer(&mut outcome).await {
            Some(outcome) => outcome.unwrap_or(Err(RepositoryError::Unavailable)),
            None => {
                self.clear_when_late(outcome);
                Err(RepositoryError::Unavailable)
            }
        }
    }

    /// The outcome of a change that was to be appended to the log. Whatever is in the log happens, sooner or later, also
    /// where nobody waits for it any more.
    async fn logged_outcome<E: From<RepositoryError>>(
        &self,
        appended: Result<Place, E>,
        outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>,
        sequence: u64,
    ) -> Result<WriteOutcome, E> {
        let outcome = match appended {
            Ok(_) => {
                let answer = self.answer(outcome).await;
                answer.and_then(Result::ok).unwrap_or(Err(RepositoryError::Unavailable)).map_err(E::from)
            }
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.clear_when_applied(sequence);
        }
        outcome
    }

    /// As [`clear_when_late`](Self::clear_when_late), for a change in the log.
    fn clear_when_applied(&self, sequence: u64) {
        let Some(order) = self.channel.order().cloned() else { return };
        let cache = self.cache.clone();
        drop(spawn(async move {
            order.is_applied(sequence, || order.has_ended()).await;
            cache.clear();
        }));
    }

    /// What the cache has learnt between now and then is from before the change. Clearing it all is simple, and rare.
    fn clear_when_late(&self, outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>) {
        let cache = self.cache.clone();
        drop(spawn(outcome.map(move |_| cache.clear())));
    }

    /// Writes bytes and commit to the log. Without a key, and with one that is new, nothing depends on what is there
    /// already: then it is enough that both are durable, and the database learns of it in its own time.
    async fn begin_log_loose(
        &self,
        commit: LooseCommit<ContentBytes<'_>>,
        room: QuotaRoom,
        share: Share,
    ) -> Result<LooseBegun, UploadError> {
        let Some(packs) = &self.log else {
            crate::invariant::broken("bytes are loose only where there is a log")
        };
        let LooseCommit { object, content_hash, bytes, precondition } = commit;
        let (log, size_bytes) = (packs.of(object.storage_class), bytes.bytes().len() as u64);
        let room = self.channel.quotas().secure(room, &object.scope.tenant_id, size_bytes);
        let Ok(room) = room else { return Ok(LooseBegun::QuotaExceeded) };
        // Where it will be is known when its batch is written.
        let place = Place::Pack { pack: PackId::from_u64(0), offset: 0 };
        let stored = StoredObject { object, content_hash, size_bytes, place, damaged: false };
        let (has_key, holds_for_new) = (stored.object.key.is_some(), precondition.holds(None));
        let mut write = Write::Commit(ObjectCommit {
            stored,
            precondition,
            is_first_version: false,
            is_reference: false,
        });
        let (ticket, is_new) = self.ticket_within(share, &write).await?;
        if let Write::Commit(commit) = &mut write {
            commit.is_first_version = is_new;
        }
        let sequence = ticket.sequence();
        let is_asked = has_key && !(is_new && holds_for_new);
        let (reply, asked) = match &write {
            Write::Commit(commit) if is_asked => {
                let (reply, outcome) = oneshot::channel();
                (Some(reply), Some(Asked { outcome, key_path: commit.stored.object.key_path() }))
            }
            _ => (None, None),
        };
        let change = Change { write, ticket: ticket.with_room(room), reply };
        let pace = match share {
            Share::Batched if !is_asked => Pace::OthersFollow,
            _ => Pace::Now,
        };
        let appending = log.begin_change(change, Some(Content { content_hash, bytes }), pace);
        Ok(LooseBegun::Appending { appending, asked, sequence })
    }

    /// What comes of it.
    async fn loose_outcome(&self, begun: LooseBegun) -> Result<LooseOutcome, UploadError> {
        let LooseBegun::Appending { appending, asked, sequence } = begun else {
            return Ok(LooseOutcome::QuotaExceeded);
        };
        let appended = match appending {
            Ok(appending) => appending.durable().await,
            Err(error) => Err(error),
        };
        let appended = appended.map_err(UploadError::from);
        let Some(Asked { outcome, key_path }) = asked else {
            return appended.map(|_| LooseOutcome::Committed { replaced: false });
        };
        let outcome = self.logged_outcome(appended, outcome, sequence).await;
        // Also after an error: the commit may have happened all the same.
        if let Some(key_path) = key_path {
            self.cache.forget(&ObjectName::Key(key_path));
        }
        match outcome? {
            WriteOutcome::Committed(CommitOutcome::Committed { replaced, .. }) => {
                Ok(LooseOutcome::Committed { replaced })
            }
            WriteOutcome::Committed(CommitOutcome::PreconditionFailed) => {
                Ok(LooseOutcome::PreconditionFailed)
            }
            WriteOutcome::Committed(CommitOutcome::QuotaExceeded) => Ok(LooseOutcome::QuotaExceeded),
            _ => crate::invariant::broken("a commit is answered with a commit"),
        }
    }

    /// Writes bytes and the change that names them to the log, in the class that the object moves to.
    async fn log_loose_update(
        &self,
        mut update: ObjectUpdate,
        bytes: Block,
    ) -> Result<WriteOutcome, UploadError> {
        let (Some(packs), Some(content_hash)) = (&self.log, update.object.content_hash) else {
            crate::invariant::broken("bytes are loose only where there is a log, and are those of an object")
        };
        let log = packs.of(update.object.storage_class);
        // Where it will be is known when its batch is written.
        update.copy = Some(Place::Pack { pack: PackId::from_u64(0), offset: 0 });
        let write = Write::Update(update);
        let (ticket, _) = self.ticket(Share::Alone, &write).await?;
        let (sequence, (reply, outcome)) = (ticket.sequence(), oneshot::channel());
        let change = Change { write, ticket, reply: Some(reply) };
        let content = Content { content_hash, bytes: ContentBytes::Given(bytes) };
        let appended = log.append_change(change, Some(content)).await;
        self.logged_outcome(appended.map_err(UploadError::from), outcome, sequence).await
    }

    /// Forgets what an object was, before anybody is told that it has changed.
    fn forget_updated<E>(
        &self,
        id: ObjectId,
        key_path: Option<KeyPath>,
        outcome: Result<WriteOutcome, E>,
    ) -> Result<UpdateOutcome, E> {
        let outcome = match outcome {
            Ok(WriteOutcome::Updated(outcome)) => outcome,
            Ok(_) => crate::invariant::broken("an update is answered with an update"),
            Err(error) => {
                // It may have happened, and what the object's key was is not known here.
                self.cache.clear();
                return Err(error);
            }
        };
        if let UpdateOutcome::Updated { key_before, .. } = &outcome {
            self.cache.forget(&ObjectName::Id(id));
            for key_path in key_before.iter().chain(&key_path) {
                self.cache.forget(&ObjectName::Key(key_path.clone()));
            }
        }
        Ok(outcome)
    }

    async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, RepositoryError> {
        let (reply, answer) = oneshot::channel();
        self.channel.ask(query(reply))?;
        let answer = self.answer(answer).await;
        answer.and_then(Result::ok).unwrap_or(Err(RepositoryError::Unavailable))
    }

    /// What the cache knows under a name. What is remembered and out of reach is asked for as if it were not remembered: the
    /// database, too, finds nothing, and takes as long as it does for what does not exist.
    fn remembered(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
        if !is_rememberable(name) {
            return None;
        }
        let object = self.cache.get(&name.of_anybody())?;
        if !name.reaches(&object.object.scope) {
            return None;
        }
        self.metrics.cache_hits.add(1);
        Some(object)
    }

    /// What the log has under a name, if it is that of an object whose commit is found there.
    async fn recorded(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
        let records = self.records.as_ref()?;
        let ticket = self.sampled_ticket(records, name);
        let object = match records.look(name)? {
            Look::Found(object) => object,
            // Boxed, since it is rare and larger than all the rest.
            Look::OnDisk(places) => Box::pin(records.read(name, &places)).await?,
        };
        self.take_recorded(name, ticket, object)
    }

    /// The same as far as it is in memory. Of many that are on a disk, each would wait for the one before.
    fn recorded_in_memory(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
        let records = self.records.as_ref()?;
        let ticket = self.sampled_ticket(records, name);
        match records.look(name)? {
            Look::Found(object) => self.take_recorded(name, ticket, object),
            Look::OnDisk(_) => None,
        }
    }

    fn sampled_ticket(&self, records: &Records, name: &ObjectName) -> Option<CacheTicket> {
        records.is_sampled().then(|| self.cache.ticket(&name.of_anybody()))
    }

    fn take_recorded(
        &self,
        name: &ObjectName,
        ticket: Option<CacheTicket>,
        object: Arc<StoredObject>,
    ) -> Option<Arc<StoredObject>> {
        if let Some(ticket) = ticket {
            self.cache.fill(ticket, &name.of_anybody(), object.clone());
        }
        if !name.reaches(&object.object.scope) {
            return None;
        }
        self.metrics.cache_hits.add(1);
        Some(object)
    }

    /// Keeps what has been found, or that nothing has.
    fn remember(
        &self,
        ticket: CacheTicket,
        name: &ObjectName,
        freshness: Freshness,
        found: Option<&Arc<StoredObject>>,
    ) {
        match found {
            _ if !is_rememberable(name) => {}
            Some(object) => self.cache.fill(ticket, &name.of_anybody(), object.clone()),
            // It may be there for others; only one that was within reach can have been found gone.
            None if matches!(name, ObjectName::IdWithin(..)) && freshness == Freshness::Cached => {}
            None => self.cache.forget(&name.of_anybody()),
        }
    }

    /// Tells of the reads that wait to be told of, in a task of its own, if it is time to.
    pub fn tell_reads_when_due(&self, now: Timestamp) {
        self.reads.turn_to(now);
        if self.reads.are_due() {
            self.spawn_telling(now);
        }
    }

    /// Tells of the reads that wait to be told of.
    pub async fn tell_reads(&self, now: Timestamp) {
        let ids = self.reads.take();
        if ids.is_empty() {
            return;
        }
        match self.note_reads(ids.clone(), now).await {
            Ok(()) => self.reads.are_told(&ids, now),
            Err(_) => self.reads.put_back(ids),
        }
    }

    /// The same before the core ends, once nothing is being told any more: a task that outlived its core would keep the
    /// metadata plane from ending.
    pub async fn tell_last_reads(&self, now: Timestamp) {
        let before = self.telling.task.take();
        if let Some(before) = before {
            before.await;
        }
        self.tell_reads(now).await;
    }

    fn spawn_telling(&self, now: Timestamp) {
        if self.telling.is_under_way.replace(true) {
            return;
        }
        let client = self.clone();
        let task = spawn(async move {
            client.tell_reads(now).await;
            client.telling.is_under_way.set(false);
        });
        *self.telling.task.borrow_mut() = Some(task);
    }

    async fn ask_lifecycle<T>(
        &self,
        query: impl FnOnce(Reply<T>) -> LifecycleQuery,
    ) -> Result<T, RepositoryError> {
        self.ask(|reply| Query::Lifecycle(query(reply))).await
    }

    async fn delete_and_forget(&self, write: Write) -> Result<DeleteOutcome, RepositoryError> {
        let outcome = match self.write(write).await {
            Ok(WriteOutcome::Deleted(outcome)) => outcome,
            Ok(_) => crate::invariant::broken("a delete is answered with a deletion"),
            Err(error) => {
                // It may have happened, and what the object's key was is not known here.
                self.cache.clear();
                return Err(error);
            }
        };
        if let DeleteOutcome::Deleted { ids, key_path } = &outcome {
            ids.iter().for_each(|id| self.cache.forget(&ObjectName::Id(*id)));
            if let Some(key_path) = key_path {
                self.cache.forget(&ObjectName::Key(key_path.clone()));
            }
        }
        Ok(outcome)
    }
}

/// Bytes and commit on their way into the log.
enum LooseBegun {
    Appending {
        appending: Result<Appending, StoreError>,
        /// Where something depends on what is there already.
        asked: Option<Asked>,
        sequence: u64,
    },
    QuotaExceeded,
}

/// What the database is asked about a commit whose key may have a version. Of one that is new, nothing can be remembered.
struct Asked {
    outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>,
    key_path: Option<KeyPath>,
}

/// What a change that is not in the log is to whoever asked for it.
fn log_failed(error: &StoreError) -> RepositoryError {
    match error {
        StoreError::NoSpace => RepositoryError::NoSpace,
        StoreError::Overloaded => RepositoryError::Overloaded,
        StoreError::ReadOnly
        | StoreError::TimedOut
        | StoreError::Missing
        | StoreError::Damaged
        | StoreError::Io { .. } => RepositoryError::Unavailable,
    }
}

impl ObjectRepository for MetadataClient {
    type Buffer = Block;
    type Room = QuotaRoom;

    fn reserve_room(&self, tenant_id: &TenantId, bytes: u64) -> Result<QuotaRoom, QuotaExceeded> {
        self.channel.quotas().reserve(tenant_id, bytes)
    }

    async fn reservation_due(&self) {
        let _ = self.reserve_after.within(std::future::pending::<()>()).await;
    }

    async fn reserve(&self, object: &Object) -> Result<(), RepositoryError> {
        self.write(Write::Reserve(object.clone())).await.map(|_| ())
    }

    async fn abandon(&self, id: ObjectId) -> Result<(), RepositoryError> {
        self.write(Write::Abandon(id)).await.map(|_| ())
    }

    async fn commit(&self, commit: ObjectCommit, room: QuotaRoom) -> Result<CommitOutcome, RepositoryError> {
        let (tenant_id, size_bytes) = (&commit.stored.object.scope.tenant_id, commit.stored.size_bytes);
        let Ok(room) = self.channel.quotas().secure(room, tenant_id, size_bytes) else {
            return Ok(CommitOutcome::QuotaExceeded);
        };
        let key_path = commit.stored.object.key_path();
        let outcome = self.write_with(Write::Commit(commit), room).await;
        // Also after an error: the commit may have happened all the same.
        if let Some(key_path) = key_path {
            self.cache.forget(&ObjectName::Key(key_path));
        }
        match outcome? {
            WriteOutcome::Committed(outcome) => Ok(outcome),
            _ => crate::invariant::broken("a commit is answered with a commit"),
        }
    }

    async fn commit_loose(
        &self,
        commit: LooseCommit<Block>,
        room: QuotaRoom,
    ) -> Result<LooseOutcome, UploadError> {
        let commit = commit.with_bytes(ContentBytes::Given);
        let begun = self.begin_log_loose(commit, room, Share::Alone).await?;
        self.loose_outcome(begun).await
    }

    async fn begin_loose<'r>(
        &'r self,
        commit: LooseCommit<&[u8]>,
        room: QuotaRoom,
    ) -> Result<Begun<'r, impl Future<Output = Result<LooseOutcome, UploadError>> + use<'r>>, UploadError>
    {
        let commit = commit.with_bytes(ContentBytes::Lent);
        Ok(match self.begin_log_loose(commit, room, Share::Batched).await? {
            // Hundreds wait beside each other, and hardly any of them for the database.
            LooseBegun::Appending { appending: Ok(appending), asked: None, .. } => {
                Begun::ByItself(appending.durable().map(|appended| {
                    let outcome = appended.map(|_| LooseOutcome::Committed { replaced: false });
                    outcome.map_err(UploadError::from)
                }))
            }
            begun => Begun::Tended(Box::pin(self.loose_outcome(begun))),
        })
    }

    fn hasten(&self) {
        if let Some(packs) = &self.log {
            packs.hot.hasten();
            packs.cold.hasten();
        }
    }

    async fn delete(
        &self,
        id: ObjectId,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError> {
        self.delete_and_forget(Write::Delete { id, precondition }).await
    }

    async fn delete_key(
        &self,
        key_path: &KeyPath,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError> {
        self.delete_and_forget(Write::DeleteKey { key_path: key_path.clone(), precondition }).await
    }

    async fn update(&self, update: ObjectUpdate) -> Result<UpdateOutcome, RepositoryError> {
        let (id, key_path) = (update.object.id, update.object.key_path());
        let outcome = self.write(Write::Update(update)).await;
        self.forget_updated(id, key_path, outcome)
    }

    async fn update_loose(&self, update: ObjectUpdate, bytes: Block) -> Result<UpdateOutcome, UploadError> {
        let (id, key_path) = (update.object.id, update.object.key_path());
        let outcome = self.log_loose_update(update, bytes).await;
        self.forget_updated(id, key_path, outcome)
    }

    async fn mend(&self, lost: &BlobLocation, place: Place) -> Result<bool, RepositoryError> {
        match self.write(Write::Mend { lost: *lost, place }).await? {
            // Names in the cache still lead to the lost copy; whoever misses it there asks again.
            WriteOutcome::Mended(mended) => Ok(mended),
            _ => crate::invariant::broken("a mending is answered with a mending"),
        }
    }

    async fn find(
        &self,
        name: &ObjectName,
        freshness: Freshness,
    ) -> Result<Option<Arc<StoredObject>>, RepositoryError> {
        if freshness == Freshness::Cached {
            if let Some(object) = self.remembered(name) {
                return Ok(Some(object));
            }
            if let Some(object) = self.recorded(name).await {
                return Ok(Some(object));
            }
        }
        self.metrics.cache_misses.add(1);
        let ticket = self.cache.ticket(&name.of_anybody());
        let found = self.ask(|reply| Query::Find(name.clone(), freshness, reply)).await?.map(Arc::new);
        self.remember(ticket, name, freshness, found.as_ref());
        Ok(found)
    }

    async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<Arc<StoredObject>>>, RepositoryError> {
        let known = |name| self.remembered(name).or_else(|| self.recorded_in_memory(name));
        let mut found: Vec<_> = names.iter().map(known).collect();
        let missing: Vec<_> = (0..names.len()).filter(|index| found[*index].is_none()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        self.metrics.cache_misses.add(missing.len() as u64);
        let tickets: Vec<_> =
            missing.iter().map(|index| self.cache.ticket(&names[*index].of_anybody())).collect();
        let asked = missing.iter().map(|index| names[*index].clone()).collect();
        let answers = self.ask(|reply| Query::FindEach(asked, reply)).await?;
        for ((index, ticket), answer) in missing.into_iter().zip(tickets).zip(answers) {
            found[index] = answer.map(Arc::new);
            self.remember(ticket, &names[index], Freshness::Cached, found[index].as_ref());
        }
        Ok(found)
    }

    fn note_read(&self, object: &Object) {
        if self.reads.note(object) {
            self.spawn_telling(Timestamp::from(SystemTime::now()));
        }
    }

    async fn check(&self) -> Result<(), RepositoryError> {
        self.write(Write::Check).await?;
        self.ask(Query::Check).await
    }

    async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, RepositoryError> {
        self.ask(|reply| Query::Inspect(name.clone(), reply)).await
    }

    async fn list(&self, query: ListQuery) -> Result<ListPage, RepositoryError> {
        self.ask(|reply| Query::List(query, reply)).await
    }

    async fn list_keys(&self, query: KeyQuery) -> Result<KeyPage, RepositoryError> {
        self.ask(|reply| Query::ListKeys(Box::new(query), reply)).await
    }

    async fn list_versions(&self, query: VersionQuery) -> Result<ListPage, RepositoryError> {
        self.ask(|reply| Query::ListVersions(query, reply)).await
    }

    async fn lease(
        &self,
        hashes: Vec<ContentHash>,
        reach: &Reach,
    ) -> Result<Vec<StoredContent>, RepositoryError> {
        self.ask(|reply| Query::Lease(hashes, reach.clone(), reply)).await
    }

    async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, RepositoryError> {
        self.ask(|reply| Query::Quota(tenant_id.clone(), reply)).await
    }

    async fn set_limits(&self, tenant_id: &TenantId, limits: QuotaLimits) -> Result<Quota, RepositoryError> {
        self.ask(|reply| Query::SetLimits(tenant_id.clone(), limits, reply)).await
    }
}

impl LifecycleRepository for MetadataClient {
    async fn lifecycle_rule(&self, namespace: &Namespace) -> Result<LifecycleRule, RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::Rule(namespace.clone(), reply)).await
    }

    async fn set_lifecycle_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::SetRule(namespace.clone(), rule, now, reply)).await
    }

    async fn note_reads(&self, ids: Vec<ObjectId>, now: Timestamp) -> Result<(), RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::NoteReads(ids, now, reply)).await
    }

    async fn begin_pass(&self, now: Timestamp) -> Result<bool, RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::BeginPass(now, reply)).await
    }

    async fn due_page(&self, from: Option<DueCursor>, now: Timestamp) -> Result<DuePage, RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::DuePage(from, now, reply)).await
    }

    async fn still_due(
        &self,
        candidate: DueCandidate,
        now: Timestamp,
    ) -> Result<Option<DueObject>, RepositoryError> {
        self.ask_lifecycle(|reply| LifecycleQuery::StillDue(candidate, now, reply)).await
    }
}

impl ApiKeyRepository for MetadataClient {
    async fn find_api_key(
        &self,
        id: ApiKeyId,
        standing: KeyStanding,
    ) -> Result<Option<ApiKey>, RepositoryError> {
        let _turn = match standing {
            KeyStanding::Proven => None,
            KeyStanding::Unproven => {
                let turn = self.limit.within(pin!(self.guesses.acquire())).await;
                // They are closed by nobody.
                Some(turn.ok_or(RepositoryError::Overloaded)?)
            }
        };
        self.ask(|reply| Query::FindApiKey(id, reply)).await
    }
}

/// What a tenant has by its content changes with objects of any name, and with time: that is always asked for.
fn is_rememberable(name: &ObjectName) -> bool {
    !matches!(name, ObjectName::Content(..))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::{Duration, Instant};

    use futures_util::FutureExt as _;

    use super::super::deadline_list::DeadlineList;
    use super::super::runtime::{IoDriver, run, sleep};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::infrastructure::plane_channel::{Durability, plane_channel};

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_plane_that_does_not_answer_is_waited_for_up_to_the_limit() {
        let (data_end, _metadata_end) = plane_channel(Durability::Transaction);
        let deadlines = DeadlineList::new();
        let limit = WaitLimit::new(&deadlines, LIMIT);
        let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), limit, None);
        let name = ObjectName::Id(ObjectId::generate());
        let mut asking = pin!(client.inspect(&name));
        assert_eq!(asking.as_mut().now_or_never(), None);
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        assert_eq!(asking.now_or_never(), Some(Err(RepositoryError::Unavailable)));
    }

    #[test]
    fn an_upload_is_worth_a_note_when_it_has_lasted_for_a_while() {
        let (data_end, _metadata_end) = plane_channel(Durability::Transaction);
        let deadlines = DeadlineList::new();
        let (begun, limit) = (Instant::now(), WaitLimit::new(&deadlines, LIMIT));
        deadlines.sweep(begun);
        let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), limit, None);
        let mut due = pin!(client.reservation_due());
        assert_eq!(due.as_mut().now_or_never(), None);
        deadlines.sweep(begun + RESERVE_AFTER - Duration::from_nanos(1));
        assert_eq!(due.as_mut().now_or_never(), None);
        deadlines.sweep(begun + RESERVE_AFTER);
        assert_eq!(due.now_or_never(), Some(()));
    }

    #[test]
    fn keys_that_may_be_guesses_wait_for_each_other_and_nothing_waits_for_them() {
        let (data_end, mut metadata_end) = plane_channel(Durability::Transaction);
        let deadlines = DeadlineList::new();
        let limit = WaitLimit::new(&deadlines, LIMIT);
        let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), limit, None);
        let find = |bits, standing| Box::pin(client.find_api_key(ApiKeyId::from_u64(bits), standing));
        let mut asked = || match metadata_end.queries.try_recv().ok()?.query {
            Query::FindApiKey(id, reply) => Some((id.as_u64(), reply)),
            query => panic!("nobody asks {query:?}"),
        };
        let mut guesses: Vec<_> = (0..5).map(|bits| find(bits, KeyStanding::Unproven)).collect();
        for guess in &mut guesses {
            assert_eq!(guess.now_or_never(), None);
        }
        let (first, reply) = asked().unwrap();
        assert!(first == 0 && asked().is_none(), "so many at once, and no more");
        let mut proven = find(9, KeyStanding::Proven);
        assert_eq!((&mut proven).now_or_never(), None);
        assert_eq!(asked().unwrap().0, 9, "a key that was good waits for none of them");

        reply.send(Ok(None)).unwrap();
        assert_eq!(guesses.remove(0).now_or_never(), Some(Ok(None)));
        for guess in guesses.iter_mut().rev() {
            assert_eq!(guess.now_or_never(), None);
        }
        let (second, _reply) = asked().unwrap();
        assert!(second == 1 && asked().is_none(), "in the order in which they came");
        drop(guesses.remove(1));
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        let late: Vec<_> = guesses.drain(1..).map(|guess| guess.now_or_never()).collect();
        assert_eq!(late, [const { Some(Err(RepositoryError::Overloaded)) }; 2], "nobody asked about these");
        assert_eq!(guesses.remove(0).now_or_never(), Some(Err(RepositoryError::Unavailable)));
        assert_eq!(find(7, KeyStanding::Unproven).now_or_never(), None);
        assert_eq!(asked().unwrap().0, 7, "and others have their turn");
    }

    #[test]
    fn what_is_cached_before_a_late_write_ends_is_forgotten() {
        let test = async {
            let (data_end, mut metadata_end) = plane_channel(Durability::Transaction);
            let (cache, deadlines) = (Arc::new(ObjectCache::default()), DeadlineList::new());
            let limit = WaitLimit::new(&deadlines, LIMIT);
            let client = MetadataClient::new(data_end, cache.clone(), limit, None);
            let commit = a_commit(Some("k"), 1, 1);
            let (name, stored) = (ObjectName::Id(commit.stored.object.id), Arc::new(commit.stored.clone()));
            let mut committing = pin!(client.commit(commit, QuotaRoom::default()));
            assert_eq!(committing.as_mut().now_or_never(), None);
            deadlines.sweep(Instant::now() + 2 * LIMIT);
            assert_eq!(committing.now_or_never(), Some(Err(RepositoryError::Unavailable)));

            cache.fill(cache.ticket(&name), &name, stored.clone());
            assert_eq!(cache.get(&name), Some(stored));
            let request = metadata_end.writes.try_recv().unwrap();
            let place =
                Place::File { instance: crate::domain::value_objects::InstanceId::from_i64(1), number: 1 };
            let outcome = CommitOutcome::Committed { replaced: true, place };
            request.reply.unwrap().send(Ok(WriteOutcome::Committed(outcome))).unwrap();
            while cache.get(&name).is_some() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        run(IoDriver::Epoll, test).unwrap();
    }
}
