//! What crosses between the planes about rules: questions like any other query's, and which namespaces reads are noted of.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::plane_channel::Reply;
use crate::application::errors::RepositoryError;
use crate::application::lifecycle::{DueCandidate, DueCursor, DueObject, DuePage};
use crate::domain::entities::LifecycleRule;
use crate::domain::value_objects::{Namespace, ObjectId, Timestamp};

/// The namespaces with a rule that asks when objects were read.
pub type NotedNamespaces = Arc<HashSet<Namespace>>;

/// A question about rules, or a change of what they are decided by. None of it changes an object, or is in any log.
#[derive(Debug)]
pub enum LifecycleQuery {
    /// The rule of a namespace.
    Rule(Namespace, Reply<LifecycleRule>),
    /// Gives a namespace a rule, at a moment.
    SetRule(Namespace, LifecycleRule, Timestamp, Reply<()>),
    /// Notes that objects were read, on the day of a moment.
    NoteReads(Vec<ObjectId>, Timestamp, Reply<()>),
    /// Looks at the clock before a pass.
    BeginPass(Timestamp, Reply<bool>),
    /// The step of a pass that begins here.
    DuePage(Option<DueCursor>, Timestamp, Reply<DuePage>),
    /// What is to be done with a candidate.
    StillDue(DueCandidate, Timestamp, Reply<Option<DueObject>>),
}

impl LifecycleQuery {
    /// Answers with an error. A caller that has gone no longer wants to know.
    pub fn refuse(self, error: RepositoryError) {
        let _ = match self {
            Self::Rule(_, reply) => reply.send(Err(error)).map_err(drop),
            Self::SetRule(.., reply) | Self::NoteReads(.., reply) => reply.send(Err(error)).map_err(drop),
            Self::BeginPass(_, reply) => reply.send(Err(error)).map_err(drop),
            Self::DuePage(.., reply) => reply.send(Err(error)).map_err(drop),
            Self::StillDue(.., reply) => reply.send(Err(error)).map_err(drop),
        };
    }

    /// Whether it changes something, which a database that takes no writes must not be asked for.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::SetRule(..) | Self::NoteReads(..) | Self::BeginPass(..))
    }
}

/// Where the metadata plane says which namespaces reads are noted of.
pub type NotedSender = watch::Sender<NotedNamespaces>;
/// Where a core hears of it.
pub type NotedReceiver = watch::Receiver<NotedNamespaces>;
