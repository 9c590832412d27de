//! What crosses between the planes: commands one way, replies the other, and nothing else. Both queues are
//! bounded; full means that a caller is told so, never that it waits without an end.

mod log_order;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot, watch};

use crate::application::errors::RepositoryError;
use crate::application::key_listing::{KeyPage, KeyQuery, VersionQuery};
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, Freshness, ListPage, ListQuery, ObjectCommit, ObjectName, ObjectUpdate,
    UpdateOutcome,
};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, KeyPath, Object, Quota, QuotaLimits, Reach, StoredContent, StoredObject,
};
use crate::domain::value_objects::{
    ContentHash, ObjectId, PackId, Place, Precondition, StorageClass, TenantId,
};
use crate::infrastructure::backlog::{BATCHED_QUEUED_MAX, Share};
use crate::infrastructure::lifecycle_channel::{LifecycleQuery, NotedNamespaces, NotedReceiver, NotedSender};
use crate::infrastructure::quota_ledger::{QuotaLedger, QuotaRoom};

pub use self::log_order::{LogOrder, PackMark, Ticket};

/// How many writes wait for the metadata plane at most, beside those of batches.
pub const WRITES_QUEUED_MAX: usize = 4096;
/// The most writes of one transaction.
pub const BATCH_WRITES_MAX: usize = 1024;
/// How many queries wait for the metadata plane at most.
pub const QUERIES_QUEUED_MAX: usize = 4096;

/// The way back of one reply.
pub type Reply<T> = oneshot::Sender<Result<T, RepositoryError>>;

/// A change of the metadata. Writes are applied in the order of the queue, many in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Note an object that is being written.
    Reserve(Object),
    /// Commit an object.
    Commit(ObjectCommit),
    /// Take back a reservation.
    Abandon(ObjectId),
    /// Forget one object.
    Delete {
        /// Which one.
        id: ObjectId,
        /// What must hold for it.
        precondition: Precondition,
    },
    /// Forget every version of a key.
    DeleteKey {
        /// Which key.
        key_path: KeyPath,
        /// What must hold for its newest version.
        precondition: Precondition,
    },
    /// Change nothing that anyone sees, durably: only whether that works is of interest.
    Check,
    /// A place in the order of the log that turned out to be empty.
    Void,
    /// A pack whose log cannot be written any more: what lies in it from `end` on does not count, whatever it is.
    EndPack {
        /// Which pack.
        pack: PackId,
        /// Which root it is in.
        storage_class: StorageClass,
        /// Where its log ends.
        end: u64,
    },
    /// Change a committed object.
    Update(ObjectUpdate),
    /// Let a content be served from another copy, because the one that is named has been found lost or damaged.
    Mend {
        /// The copy that is no good.
        lost: BlobLocation,
        /// The durable one that takes its place.
        place: Place,
    },
}

impl Write {
    /// Whether it brings something that the database has to keep, or asks whether that would be possible.
    fn takes_room(&self) -> bool {
        matches!(self, Self::Reserve(_) | Self::Commit(_) | Self::Update(_) | Self::Check)
    }
}

/// What came of a [`Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Of a reservation, of its end, or of a check.
    Done,
    /// Of a commit.
    Committed(CommitOutcome),
    /// Of a deletion.
    Deleted(DeleteOutcome),
    /// Of a change of an object.
    Updated(UpdateOutcome),
    /// Of a mending: whether the lost copy was still the one that is named.
    Mended(bool),
}

/// A write on its way.
#[derive(Debug)]
pub struct WriteRequest {
    /// What to change.
    pub write: Write,
    /// Where the outcome goes, if anybody waits for it.
    pub reply: Option<Reply<WriteOutcome>>,
    /// Its place in the order of all changes, where the log gives that order.
    pub sequence: Option<u64>,
    /// How far its pack has been applied with it, if it is in one.
    pub mark: Option<PackMark>,
    /// What it holds of its tenant's quota, until that has been counted.
    pub room: QuotaRoom,
    /// Whose share of the backlog it is in.
    pub share: Share,
}

/// A question to the metadata. Queries run beside each other and beside the writes.
#[derive(Debug)]
pub enum Query {
    /// A committed object and its place. Where that has just turned out not to hold it, it is asked for the current one.
    Find(ObjectName, Freshness, Reply<Option<StoredObject>>),
    /// The same of many, in their order, whatever the age of the places.
    FindEach(Vec<ObjectName>, Reply<Vec<Option<StoredObject>>>),
    /// An object in any state but `DELETED`.
    Inspect(ObjectName, Reply<Option<Object>>),
    /// A page of a listing.
    List(ListQuery, Reply<ListPage>),
    /// A page of a listing by key.
    ListKeys(Box<KeyQuery>, Reply<KeyPage>),
    /// A page of the versions of a key.
    ListVersions(VersionQuery, Reply<ListPage>),
    /// Which contents a tenant has, with a lease on them. That is no change of any object either.
    Lease(Vec<ContentHash>, Reach, Reply<Vec<StoredContent>>),
    /// What a tenant has and may have.
    Quota(TenantId, Reply<Quota>),
    /// Gives a tenant these limits instead of those that it had. It is no change of any object, and in no log.
    SetLimits(TenantId, QuotaLimits, Reply<Quota>),
    /// What is kept of an API key. No change in the log is about one, so that it waits for none.
    FindApiKey(ApiKeyId, Reply<Option<ApiKey>>),
    /// What is about rules for the life of objects.
    Lifecycle(LifecycleQuery),
    /// Whether the database answers.
    Check(Reply<()>),
}

/// A question on its way.
#[derive(Debug)]
pub struct QueryRequest {
    /// What is asked.
    pub query: Query,
    /// The change that must have been applied before it is answered; 0 for none.
    pub after: u64,
}

/// The data plane's end.
#[derive(Debug, Clone)]
pub struct DataEnd {
    writes: mpsc::Sender<WriteRequest>,
    queries: mpsc::Sender<QueryRequest>,
    order: Option<Arc<LogOrder>>,
    quotas: Arc<QuotaLedger>,
    noted: NotedReceiver,
}

impl DataEnd {
    /// Sends a write that is in no log.
    ///
    /// # Errors
    /// [`RepositoryError::Overloaded`] if the queue is full, [`RepositoryError::Unavailable`] if nobody takes from it.
    pub fn write(
        &self,
        write: Write,
        reply: Reply<WriteOutcome>,
        room: QuotaRoom,
    ) -> Result<(), RepositoryError> {
        if self.order.is_some() {
            self.ticket(&write)?.with_room(room).send(write, Some(reply), None);
            return Ok(());
        }
        let share = Share::Alone;
        let request = WriteRequest { write, reply: Some(reply), sequence: None, mark: None, room, share };
        self.writes.try_send(request).map_err(refused)
    }

    /// As [`ticket_in`](Self::ticket_in), for a change that comes alone.
    ///
    /// # Errors
    /// As there.
    pub fn ticket(&self, write: &Write) -> Result<Ticket, RepositoryError> {
        self.ticket_in(Share::Alone, write)
    }

    /// Takes the next place in the order of the log, for this change.
    ///
    /// # Errors
    /// As [`write`](Self::write), [`RepositoryError::NoSpace`] while the database has none, and
    /// [`RepositoryError::Unavailable`] once it takes no more.
    pub fn ticket_in(&self, share: Share, write: &Write) -> Result<Ticket, RepositoryError> {
        let Some(order) = &self.order else {
            crate::invariant::broken("there are tickets only where there is a log")
        };
        if order.has_ended() {
            return Err(RepositoryError::Unavailable);
        }
        if order.stalled.load(Ordering::Relaxed) || order.is_short() && write.takes_room() {
            return Err(RepositoryError::NoSpace);
        }
        // Those that wait for the ones before them count too, wherever they wait.
        if order.behind_in(share, *order.applied.borrow()) >= share.changes_max() {
            return Err(RepositoryError::Overloaded);
        }
        let place = self.writes.clone().try_reserve_owned().map_err(refused)?;
        // The place in the queue first: whoever has a place in the order has to keep it.
        order.batched.note_taken(share);
        let sequence = order.next.fetch_add(1, Ordering::SeqCst);
        Ok(Ticket { sequence, order: order.clone(), place: Some(place), room: QuotaRoom::default(), share })
    }

    /// Sends a query, which will see all that anybody has been told of.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn ask(&self, query: Query) -> Result<(), RepositoryError> {
        let after = self.order.as_ref().map_or(0, |order| order.acknowledged());
        self.queries.try_send(QueryRequest { query, after }).map_err(refused)
    }

    /// The order of the log, where there is one.
    pub fn order(&self) -> Option<&Arc<LogOrder>> {
        self.order.as_ref()
    }

    /// What tenants may have.
    pub fn quotas(&self) -> &Arc<QuotaLedger> {
        &self.quotas
    }

    /// Of which namespaces reads are noted.
    pub fn noted_namespaces(&self) -> NotedReceiver {
        self.noted.clone()
    }

    /// How much waits.
    pub fn queues(&self) -> Queues {
        let (writes, queries) = (self.writes.downgrade(), self.queries.downgrade());
        Queues { writes, queries, order: self.order.clone() }
    }
}

/// How much waits for the metadata plane, for whoever keeps neither queue open.
#[derive(Debug, Clone)]
pub struct Queues {
    writes: mpsc::WeakSender<WriteRequest>,
    queries: mpsc::WeakSender<QueryRequest>,
    order: Option<Arc<LogOrder>>,
}

impl Queues {
    /// Writes that have a place in the queue.
    pub fn writes(&self) -> usize {
        waiting(&self.writes)
    }

    /// Queries that nobody has taken yet.
    pub fn queries(&self) -> usize {
        waiting(&self.queries)
    }

    /// Changes of the log that are not in the database yet, where there is a log.
    pub fn backlog(&self) -> Option<u64> {
        self.order.as_ref().map(|order| order.backlog())
    }
}

fn waiting<T>(queue: &mpsc::WeakSender<T>) -> usize {
    queue.upgrade().map_or(0, |queue| queue.max_capacity() - queue.capacity())
}

fn refused<T>(error: mpsc::error::TrySendError<T>) -> RepositoryError {
    match error {
        mpsc::error::TrySendError::Full(_) => RepositoryError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => RepositoryError::Unavailable,
    }
}

/// The metadata plane's end. Its queues close when the last core has gone.
#[derive(Debug)]
pub struct MetadataEnd {
    /// Gives writes.
    pub writes: mpsc::Receiver<WriteRequest>,
    /// Gives queries.
    pub queries: mpsc::Receiver<QueryRequest>,
    /// The order of the log, where there is one.
    pub order: Option<Arc<LogOrder>>,
    /// What tenants may have.
    pub quotas: Arc<QuotaLedger>,
    /// Says of which namespaces reads are noted.
    pub noted: NotedSender,
}

/// Which of the two is the point of durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A log that the cores write: changes arrive with their places in its order.
    Log,
    /// The database's transaction.
    Transaction,
}

/// The channel between the planes.
pub fn plane_channel(durability: Durability) -> (DataEnd, MetadataEnd) {
    let batched_max = if durability == Durability::Log { BATCHED_QUEUED_MAX } else { 0 };
    let (writes, write_queue) = mpsc::channel(WRITES_QUEUED_MAX + batched_max);
    let (queries, query_queue) = mpsc::channel(QUERIES_QUEUED_MAX);
    let order = (durability == Durability::Log).then(Arc::<LogOrder>::default);
    let quotas = Arc::<QuotaLedger>::default();
    let (noted, noted_source) = watch::channel(NotedNamespaces::default());
    let data_end =
        DataEnd { writes, queries, order: order.clone(), quotas: quotas.clone(), noted: noted_source };
    (data_end, MetadataEnd { writes: write_queue, queries: query_queue, order, quotas, noted })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_ticket_that_is_dropped_leaves_no_gap() {
        let (data_end, mut metadata_end) = plane_channel(Durability::Log);
        metadata_end.order.as_ref().unwrap().start_at(7);
        let (first, second) =
            (data_end.ticket(&Write::Void).unwrap(), data_end.ticket(&Write::Void).unwrap());
        second.send(Write::Check, None, None);
        drop(first);
        let mut arrived: Vec<_> = std::iter::from_fn(|| metadata_end.writes.try_recv().ok()).collect();
        arrived.sort_by_key(|request| request.sequence);
        let sequences: Vec<_> = arrived.iter().map(|request| request.sequence).collect();
        assert_eq!(sequences, [Some(7), Some(8)]);
        assert_eq!((&arrived[0].write, &arrived[1].write), (&Write::Void, &Write::Check));
    }

    #[test]
    fn a_change_wakes_the_metadata_plane_where_somebody_waits_or_a_batch_is_whole() {
        let (data_end, _metadata_end) = plane_channel(Durability::Log);
        let order = data_end.order().unwrap();
        order.start_at(1);
        let send = |reply| data_end.ticket(&Write::Check).unwrap().send(Write::Check, reply, None);
        (1..BATCH_WRITES_MAX).for_each(|_| send(None));
        assert_eq!(order.wanted().now_or_never(), None);
        send(None);
        assert_eq!(order.wanted().now_or_never(), Some(false));
        send(None);
        assert_eq!(order.wanted().now_or_never(), None);
        send(Some(oneshot::channel().0));
        assert_eq!(order.wanted().now_or_never(), Some(true));
        assert_eq!(order.is_applied(1, || false).now_or_never(), None);
        assert_eq!(order.wanted().now_or_never(), Some(true));
    }

    #[test]
    fn a_full_queue_gives_no_place_in_the_order() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        metadata_end.order.as_ref().unwrap().start_at(1);
        let tickets: Vec<_> = std::iter::from_fn(|| data_end.ticket(&Write::Void).ok()).collect();
        assert_eq!(tickets.len(), WRITES_QUEUED_MAX);
        assert!(matches!(data_end.ticket(&Write::Void), Err(RepositoryError::Overloaded)));
        assert_eq!(metadata_end.order.unwrap().backlog(), WRITES_QUEUED_MAX as u64);
        assert_eq!(data_end.queues().writes(), WRITES_QUEUED_MAX);
    }

    #[test]
    fn whoever_looks_at_the_queues_keeps_them_not_open() {
        let (data_end, mut metadata_end) = plane_channel(Durability::Transaction);
        let queues = data_end.queues();
        data_end.ask(Query::Check(oneshot::channel().0)).unwrap();
        assert_eq!((queues.writes(), queues.queries(), queues.backlog()), (0, 1, None));
        drop(data_end);
        assert!(metadata_end.queries.try_recv().is_ok());
        assert_eq!(metadata_end.queries.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
        assert_eq!(queues.queries(), 0);
    }

    #[test]
    fn from_three_quarters_of_the_queue_on_a_change_waits_for_room() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        let order = metadata_end.order.unwrap();
        order.start_at(1);
        let of_queue = WRITES_QUEUED_MAX * 3 / 4;
        let mut tickets: Vec<_> = (1..of_queue).map(|_| data_end.ticket(&Write::Void).unwrap()).collect();
        assert!(!order.is_crowded(Share::Alone));
        tickets.push(data_end.ticket(&Write::Void).unwrap());
        assert!(order.is_crowded(Share::Alone));
        order.note_applied(1);
        assert!(!order.is_crowded(Share::Alone));
    }

    #[test]
    fn a_whole_batch_waits_for_nobody_and_is_in_nobodys_way() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        let order = metadata_end.order.unwrap();
        order.start_at(1);
        let ticket = |share| data_end.ticket_in(share, &Write::Void);
        let of_batch = |count: usize| (0..count).map(|_| ticket(Share::Batched).unwrap()).collect::<Vec<_>>();
        let first = of_batch(9_999);
        assert!(!order.is_crowded(Share::Batched));
        let last = of_batch(1);
        assert!(order.is_crowded(Share::Batched) && !order.is_crowded(Share::Alone));

        // Whoever waits for room has the database catch up, and needs no more than that.
        let mut room = std::pin::pin!(order.room(Share::Batched));
        assert_eq!(room.as_mut().now_or_never(), None);
        assert_eq!(order.wanted().now_or_never(), Some(true));
        order.note_applied_with(1, 1);
        assert_eq!(room.now_or_never(), Some(()));

        let rest = of_batch(BATCHED_QUEUED_MAX - 9_999);
        assert!(matches!(ticket(Share::Batched), Err(RepositoryError::Overloaded)));
        // One place of the queue is that of the change that counts as applied.
        let alone: Vec<_> = (1..WRITES_QUEUED_MAX).map(|_| ticket(Share::Alone).unwrap()).collect();
        assert_eq!(order.backlog(), (BATCHED_QUEUED_MAX + WRITES_QUEUED_MAX - 1) as u64);
        assert!(ticket(Share::Alone).is_err());
        drop((first, last, rest, alone));
    }

    #[test]
    fn changes_of_batches_wake_nobody() {
        let (data_end, _metadata_end) = plane_channel(Durability::Log);
        let order = data_end.order().unwrap();
        order.start_at(1);
        let send = |share| data_end.ticket_in(share, &Write::Check).unwrap().send(Write::Check, None, None);
        (0..2 * BATCH_WRITES_MAX).for_each(|_| send(Share::Batched));
        (1..BATCH_WRITES_MAX).for_each(|_| send(Share::Alone));
        assert_eq!(order.wanted().now_or_never(), None);
        send(Share::Alone);
        assert_eq!(order.wanted().now_or_never(), Some(false));
        order.note_applied_with(3 * BATCH_WRITES_MAX as u64, 2 * BATCH_WRITES_MAX as u64);
        send(Share::Alone);
        assert_eq!(order.wanted().now_or_never(), None);

        assert!(!order.has_batch_in_hand());
        let ticket = data_end.ticket_in(Share::Batched, &Write::Void).unwrap();
        assert!(order.has_batch_in_hand());
        drop(ticket);
        assert!(!order.has_batch_in_hand());
    }

    #[test]
    fn a_database_that_has_ended_takes_no_more() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        metadata_end.order.as_ref().unwrap().end();
        assert!(matches!(data_end.ticket(&Write::Void), Err(RepositoryError::Unavailable)));
    }

    #[test]
    fn a_query_waits_for_what_was_acknowledged_before_it() {
        let (data_end, mut metadata_end) = plane_channel(Durability::Log);
        data_end.order().unwrap().acknowledge(9);
        data_end.order().unwrap().acknowledge(8);
        let (reply, _) = oneshot::channel();
        data_end.ask(Query::Check(reply)).unwrap();
        assert_eq!(metadata_end.queries.try_recv().unwrap().after, 9);
    }

    #[test]
    fn a_database_without_space_stops_what_would_be_written() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        metadata_end.order.as_ref().unwrap().set_stalled(true);
        assert!(matches!(data_end.ticket(&Write::Void), Err(RepositoryError::NoSpace)));
        metadata_end.order.as_ref().unwrap().set_stalled(false);
        assert!(data_end.ticket(&Write::Void).is_ok());
    }

    #[test]
    fn a_database_short_of_space_still_takes_deletes() {
        let (data_end, metadata_end) = plane_channel(Durability::Log);
        metadata_end.order.as_ref().unwrap().set_short(true);
        let commit = Write::Commit(crate::application::contract::a_commit(None, 1, 1));
        assert!(matches!(data_end.ticket(&commit), Err(RepositoryError::NoSpace)));
        assert!(matches!(data_end.ticket(&Write::Check), Err(RepositoryError::NoSpace)));
        let delete = Write::Delete { id: ObjectId::generate(), precondition: Precondition::default() };
        assert!(data_end.ticket(&delete).is_ok());
    }
}
