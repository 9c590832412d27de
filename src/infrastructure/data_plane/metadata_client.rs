//! The object repository as a core sees it: messages to the metadata plane, and the object cache in front of them.
//!
//! No answer is waited for longer than a limit. A write that is late may still happen: what it changes in the cache
//! is forgotten when it ends, and not only when its caller gives up.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};

use super::deadline_list::WaitLimit;
use super::object_cache::ObjectCache;
use super::runtime::spawn;
use crate::application::errors::RepositoryError;
use crate::application::ports::{
    CommitOutcome, DeleteOutcome, Freshness, ListPage, ListQuery, ObjectCommit, ObjectName, ObjectRepository,
};
use crate::domain::entities::{BlobLocation, KeyPath, Object, StoredObject};
use crate::domain::value_objects::{ObjectId, Place, Precondition};
use crate::infrastructure::plane_channel::{DataEnd, Query, Reply, Write, WriteOutcome, WriteRequest};

/// A core's way to the metadata plane.
#[derive(Clone)]
pub struct MetadataClient {
    channel: DataEnd,
    cache: Arc<ObjectCache>,
    limit: WaitLimit,
}

impl MetadataClient {
    /// A client that remembers what it finds in `cache`, which all cores share, and waits up to `limit` for each answer.
    pub fn new(channel: DataEnd, cache: Arc<ObjectCache>, limit: WaitLimit) -> Self {
        Self { channel, cache, limit }
    }

    async fn write(&self, write: Write) -> Result<WriteOutcome, RepositoryError> {
        let (reply, mut outcome) = oneshot::channel();
        send(&self.channel.writes, WriteRequest { write, reply })?;
        match self.limit.within(&mut outcome).await {
            Some(outcome) => outcome.unwrap_or(Err(RepositoryError::Unavailable)),
            None => {
                let cache = self.cache.clone();
                // What the cache has learnt between now and then is from before the change. Clearing it all is
                // simple, and rare.
                drop(spawn(outcome.map(move |_| cache.clear())));
                Err(RepositoryError::Unavailable)
            }
        }
    }

    async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, RepositoryError> {
        let (reply, answer) = oneshot::channel();
        send(&self.channel.queries, query(reply))?;
        let answer = self.limit.within(answer).await;
        answer.and_then(Result::ok).unwrap_or(Err(RepositoryError::Unavailable))
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

fn send<T>(queue: &mpsc::Sender<T>, message: T) -> Result<(), RepositoryError> {
    queue.try_send(message).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => RepositoryError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => RepositoryError::Unavailable,
    })
}

impl ObjectRepository for MetadataClient {
    async fn reserve(&self, object: &Object) -> Result<(), RepositoryError> {
        self.write(Write::Reserve(object.clone())).await.map(|_| ())
    }

    async fn abandon(&self, id: ObjectId) -> Result<(), RepositoryError> {
        self.write(Write::Abandon(id)).await.map(|_| ())
    }

    async fn commit(&self, commit: ObjectCommit) -> Result<CommitOutcome, RepositoryError> {
        let key_path = commit.stored.object.key_path();
        let outcome = self.write(Write::Commit(commit)).await;
        // Also after an error: the commit may have happened all the same.
        if let Some(key_path) = key_path {
            self.cache.forget(&ObjectName::Key(key_path));
        }
        match outcome? {
            WriteOutcome::Committed(outcome) => Ok(outcome),
            _ => crate::invariant::broken("a commit is answered with a commit"),
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
        if freshness == Freshness::Cached
            && let Some(object) = self.cache.get(name)
        {
            return Ok(Some(object));
        }
        let ticket = self.cache.ticket(name);
        let found = self.ask(|reply| Query::Find(name.clone(), reply)).await?.map(Arc::new);
        match &found {
            Some(object) => self.cache.fill(ticket, name, object.clone()),
            None => self.cache.forget(name),
        }
        Ok(found)
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
    use crate::infrastructure::plane_channel::plane_channel;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_plane_that_does_not_answer_is_waited_for_up_to_the_limit() {
        let (data_end, _metadata_end) = plane_channel();
        let deadlines = DeadlineList::new();
        let limit = WaitLimit::new(&deadlines, LIMIT);
        let client = MetadataClient::new(data_end, Arc::new(ObjectCache::default()), limit);
        let name = ObjectName::Id(ObjectId::generate());
        let mut asking = pin!(client.inspect(&name));
        assert_eq!(asking.as_mut().now_or_never(), None);
        deadlines.sweep(Instant::now() + 2 * LIMIT);
        assert_eq!(asking.now_or_never(), Some(Err(RepositoryError::Unavailable)));
    }

    #[test]
    fn what_is_cached_before_a_late_write_ends_is_forgotten() {
        let test = async {
            let (data_end, mut metadata_end) = plane_channel();
            let (cache, deadlines) = (Arc::new(ObjectCache::default()), DeadlineList::new());
            let limit = WaitLimit::new(&deadlines, LIMIT);
            let client = MetadataClient::new(data_end, cache.clone(), limit);
            let commit = a_commit(Some("k"), 1, 1);
            let (name, stored) = (ObjectName::Id(commit.stored.object.id), Arc::new(commit.stored.clone()));
            let mut committing = pin!(client.commit(commit));
            assert_eq!(committing.as_mut().now_or_never(), None);
            deadlines.sweep(Instant::now() + 2 * LIMIT);
            assert_eq!(committing.now_or_never(), Some(Err(RepositoryError::Unavailable)));

            cache.fill(cache.ticket(&name), &name, stored.clone());
            assert_eq!(cache.get(&name), Some(stored));
            let request = metadata_end.writes.try_recv().unwrap();
            let place = Place { instance: crate::domain::value_objects::InstanceId::from_i64(1), number: 1 };
            let outcome = CommitOutcome::Committed { replaced: true, place };
            request.reply.send(Ok(WriteOutcome::Committed(outcome))).unwrap();
            while cache.get(&name).is_some() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        run(IoDriver::Epoll, test).unwrap();
    }
}
