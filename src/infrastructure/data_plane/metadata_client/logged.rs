//! Changes that go through the log: each has its place in the order of all changes before it is appended, and is durable
//! once it is; what comes of it, the metadata plane says where anybody has to know.

use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::super::buffers::Block;
use super::super::runtime::spawn;
use super::MetadataClient;
use crate::application::errors::{RepositoryError, StoreError, UploadError};
use crate::application::ports::{
    CommitOutcome, LooseCommit, LooseOutcome, ObjectCommit, ObjectName, ObjectUpdate,
};
use crate::domain::entities::{KeyPath, StoredObject};
use crate::domain::value_objects::{PackId, Place, StorageClass};
use crate::infrastructure::backlog::Share;
use crate::infrastructure::metrics::{Phase, note_since};
use crate::infrastructure::plane_channel::{Ticket, Write, WriteOutcome};
use crate::infrastructure::quota_ledger::QuotaRoom;
use crate::infrastructure::storage::log_record::is_logged;
use crate::infrastructure::storage::{Appending, Change, Content, ContentBytes, Pace};

/// How often a change of a batch looks for a place in the order of the log, which it waits for each time.
const TICKET_TRIES_MAX: usize = 8;

/// Bytes and commit on their way into the log.
pub(super) enum LooseBegun {
    Appending {
        appending: Result<Appending, StoreError>,
        /// Where something depends on what is there already.
        asked: Option<Asked>,
        sequence: u64,
    },
    QuotaExceeded,
}

/// What the database is asked about a commit whose key may have a version. Of one that is new, nothing can be remembered.
pub(super) struct Asked {
    outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>,
    key_path: Option<KeyPath>,
}

impl MetadataClient {
    pub(super) async fn write(&self, write: Write) -> Result<WriteOutcome, RepositoryError> {
        self.write_with(write, QuotaRoom::default()).await
    }

    pub(super) async fn write_with(
        &self,
        mut write: Write,
        room: QuotaRoom,
    ) -> Result<WriteOutcome, RepositoryError> {
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
    pub(super) fn clear_when_late(&self, outcome: oneshot::Receiver<Result<WriteOutcome, RepositoryError>>) {
        let cache = self.cache.clone();
        drop(spawn(outcome.map(move |_| cache.clear())));
    }

    /// Writes bytes and commit to the log. Without a key, and with one that is new, nothing depends on what is there
    /// already: then it is enough that both are durable, and the database learns of it in its own time.
    pub(super) async fn begin_log_loose(
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
    pub(super) async fn loose_outcome(&self, begun: LooseBegun) -> Result<LooseOutcome, UploadError> {
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
    pub(super) async fn log_loose_update(
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
