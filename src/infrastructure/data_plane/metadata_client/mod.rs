//! The object repository as a core sees it: messages to the metadata plane, and the object cache in front of them.
//!
//! Where the log is the point of durability, a change goes through it first: it is written to this core's pack, and from
//! there, in the order of all changes, to the metadata plane.
//!
//! No answer is waited for longer than a limit. A write that is late may still happen: what it changes in the cache
//! is forgotten when it ends, and not only when its caller gives up.

mod finding;
mod logged;
mod telling;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};

use super::buffers::Block;
use super::deadline_list::WaitLimit;
use super::object_cache::ObjectCache;
use super::read_notes::ReadNotes;
use super::recorded_objects::RecordedObjects as Records;
use crate::application::errors::{QuotaExceeded, RepositoryError, UploadError};
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
    ContentHash, Namespace, ObjectId, Place, Precondition, TenantId, Timestamp,
};
use crate::infrastructure::backlog::Share;
use crate::infrastructure::lifecycle_channel::LifecycleQuery;
use crate::infrastructure::metrics::{CoreMetrics, Phase, note_since};
use crate::infrastructure::plane_channel::{DataEnd, Query, Reply, Write, WriteOutcome};
use crate::infrastructure::quota_ledger::QuotaRoom;
use crate::infrastructure::record_index::RecordIndex;
use crate::infrastructure::storage::{ContentBytes, PackFiles, Packs};

use logged::LooseBegun;
use telling::Telling;

/// How many API keys a core looks up at once of those that may be guesses. Whoever sends a flood of them waits behind
/// itself, and the metadata plane has one more question from each core at the most.
pub const GUESSES_AT_ONCE_MAX: usize = 1;
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

    async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, RepositoryError> {
        let (reply, answer) = oneshot::channel();
        self.channel.ask(query(reply))?;
        let answer = self.answer(answer).await;
        answer.and_then(Result::ok).unwrap_or(Err(RepositoryError::Unavailable))
    }

    async fn ask_lifecycle<T>(
        &self,
        query: impl FnOnce(Reply<T>) -> LifecycleQuery,
    ) -> Result<T, RepositoryError> {
        self.ask(|reply| Query::Lifecycle(query(reply))).await
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
