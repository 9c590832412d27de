//! The object repository as a core sees it: messages to the metadata plane, and the object cache in front of them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::object_cache::ObjectCache;
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
}

impl MetadataClient {
    /// A client that remembers what it finds in `cache`, which all cores share.
    pub fn new(channel: DataEnd, cache: Arc<ObjectCache>) -> Self {
        Self { channel, cache }
    }

    async fn write(&self, write: Write) -> Result<WriteOutcome, RepositoryError> {
        let (reply, outcome) = oneshot::channel();
        send(&self.channel.writes, WriteRequest { write, reply })?;
        outcome.await.unwrap_or(Err(RepositoryError::Unavailable))
    }

    async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, RepositoryError> {
        let (reply, answer) = oneshot::channel();
        send(&self.channel.queries, query(reply))?;
        answer.await.unwrap_or(Err(RepositoryError::Unavailable))
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
        self.ask(Query::Check).await
    }

    async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, RepositoryError> {
        self.ask(|reply| Query::Inspect(name.clone(), reply)).await
    }

    async fn list(&self, query: ListQuery) -> Result<ListPage, RepositoryError> {
        self.ask(|reply| Query::List(query, reply)).await
    }
}
