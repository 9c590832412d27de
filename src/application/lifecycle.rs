//! What rules about the life of objects are applied through: the port, and how what is due is gone through in steps.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

use super::errors::RepositoryError;
use crate::domain::entities::{DueAction, LifecycleRule, Object};
use crate::domain::value_objects::{Key, Namespace, ObjectId, StorageClass, TenantId, Timestamp};

/// How far a pass is: namespaces with rules in their order, in each its tenants, and of each tenant what the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCursor {
    /// In which namespace.
    pub namespace: Namespace,
    /// Where in it.
    pub place: DuePlace,
}

/// A place in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DuePlace {
    /// Before the tenant that comes after this one; before the first for `None`.
    Tenants(Option<TenantId>),
    /// In what a tenant has.
    Objects(TenantId, DueStage),
}

/// One of the ways in which a tenant's objects are gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DueStage {
    /// By key, from the last to the first, and the versions of each from the newest on.
    Versions(Option<VersionPlace>),
    /// Those of a class, in the order of their commits, behind this sequence.
    Ages(StorageClass, u64),
}

/// Which version comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPlace {
    /// Behind this key,
    pub key: Key,
    /// this version of it,
    pub sequence: u64,
    /// and so many versions of it, that one among them.
    pub seen: u64,
}

/// An object that a look from afar has found: whether it is due, [`still_due`](LifecycleRepository::still_due) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueCandidate {
    /// Which object.
    pub id: ObjectId,
    /// How it was found. What is due by the other way is found in that, so that nothing counts twice.
    pub found_by: FoundBy,
    /// Up to how many newer versions are counted.
    pub versions_counted: u32,
}

/// What a candidate was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// Its place among the versions of its key.
    Versions,
    /// Its age.
    Age,
}

impl FoundBy {
    /// Whether this way leads to what is to be done.
    pub fn leads_to(self, action: DueAction) -> bool {
        (self == Self::Versions) == (action == DueAction::DeleteOldVersion)
    }
}

/// A step of a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DuePage {
    /// What may be due; often nothing.
    pub candidates: Vec<DueCandidate>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<DueCursor>,
}

/// An object that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueObject {
    /// The object, committed.
    pub object: Object,
    /// What is to be done with it.
    pub action: DueAction,
    /// By which rule.
    pub rule: LifecycleRule,
}

/// The rules of namespaces, and what they make due.
pub trait LifecycleRepository {
    /// The rule of a namespace; one that nothing is set for has none.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn lifecycle_rule(&self, namespace: &Namespace) -> Result<LifecycleRule, RepositoryError>;

    /// Gives a namespace this rule instead of the one that it had. From `now` on reads are noted, if it asks for them and
    /// the one before did not.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` it may or may not have happened.
    async fn set_lifecycle_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp,
    ) -> Result<(), RepositoryError>;

    /// Notes that these objects were read on the day of `now`.
    ///
    /// # Errors
    /// [`RepositoryError`]; after `Unavailable` it may or may not have happened.
    async fn note_reads(&self, ids: Vec<ObjectId>, now: Timestamp) -> Result<(), RepositoryError>;

    /// Looks at the clock before a pass. `false` if `now` is behind a leap of it that nobody has accounted for: then
    /// nothing may be done because of anything's age.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn begin_pass(&self, now: Timestamp) -> Result<bool, RepositoryError>;

    /// The step of a pass that begins at `from`, or its first one.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn due_page(&self, from: Option<DueCursor>, now: Timestamp) -> Result<DuePage, RepositoryError>;

    /// What is to be done with a candidate, by the rule of its namespace and what is there, both as they are now.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn still_due(
        &self,
        candidate: DueCandidate,
        now: Timestamp,
    ) -> Result<Option<DueObject>, RepositoryError>;
}
