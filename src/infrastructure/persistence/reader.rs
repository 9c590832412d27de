//! Answers queries: beside each other, as many at once as there are connections to read on, and each once the log has been
//! applied as far as it has to see.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::collector::GraceClock;
use super::contents::LeaseTerm;
use super::database::{Database, DatabaseSettings};
use super::errors::DatabaseError;
use super::finds::{Find, Finds};
use super::group_commit::Latch;
use super::lifecycle::Lifecycles;
use super::quotas::Quotas;
use crate::application::errors::RepositoryError;
use crate::application::ports::{Freshness, ObjectName};
use crate::domain::entities::StoredObject;
use crate::infrastructure::lifecycle_channel::LifecycleQuery;
use crate::infrastructure::metrics::PlaneMetrics;
use crate::infrastructure::plane_channel::{LogOrder, QUERIES_QUEUED_MAX, Query, QueryRequest, Reply};
use crate::infrastructure::record_index::RecordIndex;

/// Runs queries beside each other, as many at once as there are connections to read on.
pub(super) async fn answer_queries(reader: Reader, mut queue: mpsc::Receiver<QueryRequest>) {
    let (reader, finds) = (Rc::new(reader), Rc::<Finds>::default());
    let places = Arc::new(Semaphore::new(QUERIES_QUEUED_MAX));
    while let Some(request) = queue.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match request {
            QueryRequest { query: Query::Find(name, Freshness::Cached, reply), after }
                if Find::is_one_step(&name) =>
            {
                finds.add(&reader, Find::new(name, reply, after, place));
            }
            request => {
                let reader = reader.clone();
                tokio::task::spawn_local(async move {
                    reader.take(request).await;
                    drop(place);
                });
            }
        }
    }
    // All places are free again once the last query has been answered.
    let _ = places.acquire_many(u32::try_from(QUERIES_QUEUED_MAX).unwrap_or(u32::MAX)).await;
}

/// What queries are answered with.
pub(super) struct Reader {
    quotas: Arc<Quotas>,
    lifecycles: Arc<Lifecycles>,
    pub(super) database: Arc<Database>,
    pub(super) latch: Latch,
    running: Semaphore,
    queries_max: usize,
    /// How long a query waits for its turn.
    turn_timeout: Duration,
    /// How far the log has been applied, where there is one.
    order: Option<Arc<LogOrder>>,
    pub(super) metrics: Arc<PlaneMetrics>,
    /// For leases.
    pub(super) ticks: GraceClock,
    /// What is told where objects were found.
    pub(super) index: Option<Arc<RecordIndex>>,
}

impl Reader {
    pub(super) fn new(
        (quotas, lifecycles): (Arc<Quotas>, Arc<Lifecycles>),
        database: Arc<Database>,
        latch: Latch,
        settings: DatabaseSettings,
        order: Option<Arc<LogOrder>>,
    ) -> Self {
        let queries_max = settings.max_connections as usize;
        let (running, turn_timeout) = (Semaphore::new(queries_max), settings.acquire_timeout);
        let (metrics, ticks, index) = (Arc::default(), GraceClock::starting_at(0), None);
        Self {
            quotas,
            lifecycles,
            database,
            latch,
            running,
            queries_max,
            turn_timeout,
            order,
            metrics,
            ticks,
            index,
        }
    }

    /// Looks a name up, and lets cores find what there is without asking here again.
    async fn find(&self, name: &ObjectName) -> Result<Option<StoredObject>, DatabaseError> {
        let ticket = self.index.as_ref().map(|index| index.ticket());
        let found = self.database.find(name).await?;
        for (index, ticket) in self.index.iter().zip(ticket).filter(|_| name.is_id()) {
            found.iter().for_each(|found| index.note(ticket, found));
        }
        Ok(found)
    }

    /// The same for many.
    pub(super) async fn find_each(
        &self,
        names: &[ObjectName],
    ) -> Result<Vec<Option<StoredObject>>, DatabaseError> {
        let ticket = self.index.as_ref().map(|index| index.ticket());
        let found = self.database.find_each(names).await?;
        for (index, ticket) in self.index.iter().zip(ticket) {
            let by_id = names.iter().zip(&found).filter(|(name, _)| name.is_id());
            by_id.filter_map(|(_, found)| found.as_ref()).for_each(|found| index.note(ticket, found));
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(super) fn of_test(database: Arc<Database>, order: Option<Arc<LogOrder>>) -> Self {
        let settings =
            DatabaseSettings { acquire_timeout: Duration::from_secs(30), ..DatabaseSettings::OF_TEST };
        let quotas = Quotas::new(database.clone(), Arc::default());
        let (noted, _) = tokio::sync::watch::channel(Default::default());
        let lifecycles = Lifecycles::new(database.clone(), GraceClock::starting_at(0), noted);
        Self::new((quotas, lifecycles), database, Latch::default(), settings, order)
    }

    /// Waits until the database has what the query must see. `false` if it never will.
    async fn catches_up(&self, after: u64) -> bool {
        let Some(order) = self.order.as_ref().filter(|_| after > 0) else { return true };
        order.is_applied(after, || self.latch.is_set()).await
    }

    /// Whether the database has it already.
    pub(super) fn has_applied(&self, after: u64) -> bool {
        self.order.as_ref().is_none_or(|order| order.has_applied(after))
    }

    /// Waits for a query's turn.
    ///
    /// While the database is away one query at a time finds out whether it is back, and the others are refused at
    /// once: each of them would wait as long for the same answer, and those behind them for many times that.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, RepositoryError> {
        let Ok(Ok(turn)) = timeout(self.turn_timeout, self.running.acquire()).await else {
            return Err(RepositoryError::Overloaded);
        };
        let is_first = self.running.available_permits() + 1 == self.queries_max;
        if self.latch.is_away() && !is_first { Err(RepositoryError::Unavailable) } else { Ok(turn) }
    }

    /// Waits for the query's turn, and answers it. Whether the server is ready is told without waiting for anybody.
    pub(super) async fn take(&self, QueryRequest { query, after }: QueryRequest) {
        if let Query::Check(reply) = query {
            return self.check(reply).await;
        }
        let Some(query) = self.answer_ahead(query, after).await else { return };
        let is_logged = !matches!(query, Query::FindApiKey(..));
        if is_logged && !self.catches_up(after).await {
            return refuse(query, RepositoryError::Unavailable);
        }
        let _turn = match self.turn().await {
            Ok(turn) => turn,
            Err(error) => return refuse(query, error),
        };
        let started = Instant::now();
        self.answer(query).await;
        self.metrics.queries.record(started.elapsed());
    }

    /// Answers what need not wait for the log. What was acknowledged and is not in the database yet has only made
    /// something new, and perhaps mended a lost copy of the same content: so an object that is found stands, and its place
    /// too unless it was found lost. What is missing, and a list, has to wait.
    async fn answer_ahead(&self, query: Query, after: u64) -> Option<Query> {
        let Some(order) = &self.order else { return Some(query) };
        let goes_ahead = matches!(query, Query::Find(_, Freshness::Cached, _) | Query::FindEach(..));
        if !goes_ahead || order.has_applied(after) {
            return Some(query);
        }
        let Ok(Ok(_turn)) = timeout(self.turn_timeout, self.running.acquire()).await else {
            refuse(query, RepositoryError::Overloaded);
            return None;
        };
        let started = Instant::now();
        let left = match query {
            Query::Find(name, freshness, reply) => match self.find(&name).await {
                Ok(Some(found)) if !found.damaged => {
                    respond(reply, &self.latch, Ok(Some(found)));
                    None
                }
                _ => Some(Query::Find(name, freshness, reply)),
            },
            Query::FindEach(names, reply) => match self.find_each(&names).await {
                Ok(found) if found.iter().flatten().filter(|found| !found.damaged).count() == names.len() => {
                    respond(reply, &self.latch, Ok(found));
                    None
                }
                _ => Some(Query::FindEach(names, reply)),
            },
            other => Some(other),
        };
        self.metrics.queries.record(started.elapsed());
        left
    }

    async fn check(&self, reply: Reply<()>) {
        if self.latch.is_set() {
            return refuse(Query::Check(reply), RepositoryError::Unavailable);
        }
        respond(reply, &self.latch, self.database.check().await);
    }

    async fn answer(&self, query: Query) {
        let Self { database, latch, .. } = self;
        match query {
            Query::Find(name, _, reply) => respond(reply, latch, self.find(&name).await),
            Query::FindEach(names, reply) => respond(reply, latch, self.find_each(&names).await),
            Query::Inspect(name, reply) => respond(reply, latch, database.inspect(&name).await),
            Query::List(query, reply) => respond(reply, latch, database.list(&query).await),
            Query::ListKeys(query, reply) => respond(reply, latch, database.list_keys(&query).await),
            Query::ListVersions(query, reply) => respond(reply, latch, database.list_versions(&query).await),
            Query::Lease(hashes, reach, reply) => {
                if latch.is_set() {
                    return refuse(Query::Lease(hashes, reach, reply), RepositoryError::Unavailable);
                }
                let term = LeaseTerm::from(self.ticks.now());
                respond(reply, latch, database.lease(&hashes, &reach, term).await);
            }
            Query::Quota(tenant_id, reply) => respond(reply, latch, database.quota(&tenant_id).await),
            Query::SetLimits(tenant_id, limits, reply) => {
                if latch.is_set() {
                    return refuse(Query::Quota(tenant_id, reply), RepositoryError::Unavailable);
                }
                respond(reply, latch, self.quotas.set_limits(&tenant_id, limits).await);
            }
            Query::FindApiKey(id, reply) => respond(reply, latch, database.api_key(id).await),
            Query::Lifecycle(query) => self.answer_lifecycle(query).await,
            Query::Check(reply) => self.check(reply).await,
        }
    }

    async fn answer_lifecycle(&self, query: LifecycleQuery) {
        let Self { lifecycles, latch, .. } = self;
        if latch.is_set() && query.is_change() {
            return query.refuse(RepositoryError::Unavailable);
        }
        match query {
            LifecycleQuery::Rule(namespace, reply) => {
                respond(reply, latch, lifecycles.rule(&namespace).await);
            }
            LifecycleQuery::SetRule(namespace, rule, now, reply) => {
                respond(reply, latch, lifecycles.set_rule(&namespace, rule, now).await);
            }
            LifecycleQuery::NoteReads(ids, now, reply) => {
                respond(reply, latch, lifecycles.note_reads(ids, now).await);
            }
            LifecycleQuery::BeginPass(now, reply) => {
                respond(reply, latch, lifecycles.begin_pass(now).await);
            }
            LifecycleQuery::DuePage(from, now, reply) => {
                respond(reply, latch, lifecycles.due_page(from, now).await);
            }
            LifecycleQuery::StillDue(candidate, now, reply) => {
                respond(reply, latch, lifecycles.still_due(candidate, now).await);
            }
        }
    }
}

/// A caller that has gone no longer wants to know.
fn refuse(query: Query, error: RepositoryError) {
    let _ = match query {
        Query::Lifecycle(query) => return query.refuse(error),
        Query::Find(_, _, reply) => reply.send(Err(error)).map_err(drop),
        Query::FindEach(_, reply) => reply.send(Err(error)).map_err(drop),
        Query::Inspect(_, reply) => reply.send(Err(error)).map_err(drop),
        Query::List(_, reply) | Query::ListVersions(_, reply) => reply.send(Err(error)).map_err(drop),
        Query::ListKeys(_, reply) => reply.send(Err(error)).map_err(drop),
        Query::Lease(_, _, reply) => reply.send(Err(error)).map_err(drop),
        Query::Quota(_, reply) | Query::SetLimits(_, _, reply) => reply.send(Err(error)).map_err(drop),
        Query::FindApiKey(_, reply) => reply.send(Err(error)).map_err(drop),
        Query::Check(reply) => reply.send(Err(error)).map_err(drop),
    };
}

fn respond<T>(reply: Reply<T>, latch: &Latch, result: Result<T, DatabaseError>) {
    if result.is_ok() {
        latch.answered();
    }
    let _: Result<(), _> =
        oneshot::Sender::send(reply, result.map_err(|error| latch.judge(&error))).map_err(drop);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::batch::BatchContext;
    use super::super::database::DatabaseUrl;
    use super::*;
    use crate::application::contract::a_commit;
    use crate::domain::value_objects::{InstanceId, ObjectId, PackId, Place, Timestamp};
    use crate::infrastructure::plane_channel::Write;

    /// Asks while the first change of the log has been acknowledged and is not applied.
    async fn ask(reader: &Reader, id: ObjectId, freshness: Freshness) -> bool {
        let (reply, answer) = oneshot::channel();
        let query = Query::Find(ObjectName::Id(id), freshness, reply);
        let mut asking = std::pin::pin!(reader.take(QueryRequest { query, after: 1 }));
        tokio::select! {
            () = &mut asking => matches!(answer.await, Ok(Ok(Some(_)))),
            // Whoever waits for the log has said so.
            _ = reader.order.as_ref().unwrap().wanted() => {
                assert!(asking.now_or_never().is_none());
                false
            }
        }
    }

    #[tokio::test]
    async fn what_is_found_by_its_id_need_not_be_asked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Arc::new(Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap());
        let mut reader = Reader::of_test(database.clone(), None);
        let index = RecordIndex::in_directory(directory.path()).unwrap();
        reader.index = Some(index.clone());
        let place = |offset| Place::Pack { pack: PackId::from_u64(7), offset };
        let mut commits = [a_commit(Some("a"), 1, 1), a_commit(Some("b"), 2, 1), a_commit(Some("c"), 3, 1)];
        commits.iter_mut().zip([1, 2, 3]).for_each(|(commit, offset)| commit.stored.place = place(offset));
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        let writes = commits.each_ref().map(|commit| Write::Commit(commit.clone()));
        database.apply(&writes, &mut 1, context).await.unwrap();
        assert!(database.mark(&commits[2].stored.location(), true).await.unwrap());

        let [first, second, lost] = commits.each_ref().map(|commit| ObjectName::Id(commit.stored.object.id));
        let by_key = ObjectName::Key(commits[1].stored.object.key_path().unwrap());
        assert!(reader.find(&first).await.unwrap().is_some());
        assert_eq!(reader.find_each(&[by_key, lost]).await.unwrap().iter().flatten().count(), 2);
        let noted = commits.each_ref().map(|commit| index.places(commit.stored.object.id, None).len());
        assert_eq!(noted, [1, 0, 0], "not by a key, and not what is lost");
        reader.find_each(&[second]).await.unwrap();
        assert_eq!(index.places(commits[1].stored.object.id, None).len(), 1);
    }

    #[tokio::test]
    async fn only_what_is_missing_or_lost_waits_for_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::in_directory(directory.path());
        let database = Arc::new(Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap());
        let order = Arc::new(LogOrder::default());
        let reader = Reader::of_test(database.clone(), Some(order));
        let commit = a_commit(None, 1, 1);
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        database.apply(&[Write::Commit(commit.clone())], &mut 1, context).await.unwrap();

        let id = commit.stored.object.id;
        assert!(ask(&reader, id, Freshness::Cached).await, "it stands, whatever came after");
        assert!(!ask(&reader, id, Freshness::Current).await, "its copy may have been mended");
        assert!(!ask(&reader, ObjectId::generate(), Freshness::Cached).await, "it may be new");
        assert!(database.mark(&commit.stored.location(), true).await.unwrap());
        assert!(!ask(&reader, id, Freshness::Cached).await, "its copy may have been mended");
    }
}
