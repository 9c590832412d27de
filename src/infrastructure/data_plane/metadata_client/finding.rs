//! What is known of objects without the database: what the object cache remembers, and what the log has under an id. And what
//! is forgotten of both when something changes.

use std::sync::Arc;

use super::super::object_cache::Ticket as CacheTicket;
use super::super::recorded_objects::{Look, RecordedObjects as Records};
use super::MetadataClient;
use crate::application::errors::RepositoryError;
use crate::application::ports::{DeleteOutcome, Freshness, ObjectName, UpdateOutcome};
use crate::domain::entities::{KeyPath, StoredObject};
use crate::domain::value_objects::ObjectId;
use crate::infrastructure::plane_channel::{Write, WriteOutcome};

impl MetadataClient {
    /// What the cache knows under a name. What is remembered and out of reach is asked for as if it were not remembered: the
    /// database, too, finds nothing, and takes as long as it does for what does not exist.
    pub(super) fn remembered(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
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
    pub(super) async fn recorded(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
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
    pub(super) fn recorded_in_memory(&self, name: &ObjectName) -> Option<Arc<StoredObject>> {
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
    pub(super) fn remember(
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

    /// Forgets what an object was, before anybody is told that it has changed.
    pub(super) fn forget_updated<E>(
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

    pub(super) async fn delete_and_forget(&self, write: Write) -> Result<DeleteOutcome, RepositoryError> {
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

/// What a tenant has by its content changes with objects of any name, and with time: that is always asked for.
fn is_rememberable(name: &ObjectName) -> bool {
    !matches!(name, ObjectName::Content(..))
}
