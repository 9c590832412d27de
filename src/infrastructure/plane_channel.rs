//! What crosses between the planes: commands one way, replies the other, and nothing else. Both queues are
//! bounded; full means that a caller is told so, never that it waits without an end.

use tokio::sync::{mpsc, oneshot};

use crate::application::errors::RepositoryError;
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, ListPage, ListQuery, ObjectCommit, ObjectName,
};
use crate::domain::entities::{BlobLocation, KeyPath, Object, StoredObject};
use crate::domain::value_objects::{ObjectId, Place, Precondition};

/// How many writes wait for the metadata plane at most.
pub const WRITES_QUEUED_MAX: usize = 4096;
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
    /// Let a content be served from another copy, because the one that is named has been found lost or damaged.
    Mend {
        /// The copy that is no good.
        lost: BlobLocation,
        /// The durable one that takes its place.
        place: Place,
    },
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
    /// Of a mending: whether the lost copy was still the one that is named.
    Mended(bool),
}

/// A write on its way.
#[derive(Debug)]
pub struct WriteRequest {
    /// What to change.
    pub write: Write,
    /// Where the outcome goes.
    pub reply: Reply<WriteOutcome>,
}

/// A question to the metadata. Queries run beside each other and beside the writes.
#[derive(Debug)]
pub enum Query {
    /// A committed object and its place.
    Find(ObjectName, Reply<Option<StoredObject>>),
    /// An object in any state but `DELETED`.
    Inspect(ObjectName, Reply<Option<Object>>),
    /// A page of a listing.
    List(ListQuery, Reply<ListPage>),
    /// Whether the database answers.
    Check(Reply<()>),
}

/// The data plane's end.
#[derive(Debug, Clone)]
pub struct DataEnd {
    /// Takes writes.
    pub writes: mpsc::Sender<WriteRequest>,
    /// Takes queries.
    pub queries: mpsc::Sender<Query>,
}

/// The metadata plane's end. Its queues close when the last core has gone.
#[derive(Debug)]
pub struct MetadataEnd {
    /// Gives writes.
    pub writes: mpsc::Receiver<WriteRequest>,
    /// Gives queries.
    pub queries: mpsc::Receiver<Query>,
}

/// The channel between the planes.
pub fn plane_channel() -> (DataEnd, MetadataEnd) {
    let (writes, write_queue) = mpsc::channel(WRITES_QUEUED_MAX);
    let (queries, query_queue) = mpsc::channel(QUERIES_QUEUED_MAX);
    (DataEnd { writes, queries }, MetadataEnd { writes: write_queue, queries: query_queue })
}
