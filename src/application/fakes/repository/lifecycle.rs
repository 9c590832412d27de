//! What rules make due, looked for in all that there is.

use super::{FakeRepository, FakeRepositoryState};
use crate::application::errors::RepositoryError;
use crate::application::lifecycle::{
    DueCandidate, DueCursor, DueObject, DuePage, FoundBy, LifecycleRepository,
};
use crate::domain::entities::{Day, DueAction, LifecycleRule, Object, ObjectFacts, StandingRule};
use crate::domain::value_objects::{Namespace, ObjectId, ObjectStatus, Place, Timestamp};

impl FakeRepositoryState {
    fn facts(&self, sequence: u64, object: &Object) -> ObjectFacts {
        let is_newer = |(other, _): &&(Object, Option<Place>)| {
            other.status == ObjectStatus::Committed && other.key_path() == object.key_path()
        };
        let newer = self.objects.range(sequence + 1..).map(|(_, other)| other).filter(is_newer);
        ObjectFacts {
            storage_class: object.storage_class,
            created_at: object.created_at,
            last_read: self.reads.get(&object.id).copied(),
            newer_versions: if object.key.is_some() { newer.count() as u64 } else { 0 },
        }
    }

    /// What is due by itself.
    fn due(&self, now: Timestamp) -> Vec<DueObject> {
        let due = |(sequence, (object, _)): (&u64, &(Object, Option<Place>))| {
            let standing = self.rules.get(&object.scope.namespace)?;
            let action = standing.decide(&self.facts(*sequence, object), now)?;
            let is_committed = object.status == ObjectStatus::Committed;
            is_committed.then(|| DueObject { object: object.clone(), action, rule: standing.rule })
        };
        self.objects.iter().filter_map(due).collect()
    }
}

impl LifecycleRepository for FakeRepository {
    async fn lifecycle_rule(&self, namespace: &Namespace) -> Result<LifecycleRule, RepositoryError> {
        Ok(self.0.borrow().rules.get(namespace).map(|standing| standing.rule).unwrap_or_default())
    }

    async fn set_lifecycle_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let mut state = self.0.borrow_mut();
        let before = state.rules.remove(namespace).and_then(|standing| standing.reads_noted_since);
        let reads_noted_since = rule.cold_after_days.map(|_| before.unwrap_or(now));
        if !rule.is_none() {
            state.rules.insert(namespace.clone(), StandingRule { rule, reads_noted_since });
        }
        Ok(())
    }

    async fn note_reads(&self, ids: Vec<ObjectId>, now: Timestamp) -> Result<(), RepositoryError> {
        let mut state = self.0.borrow_mut();
        for id in ids {
            let day = state.reads.entry(id).or_insert(Day::of(now));
            *day = Day::of(now).max(*day);
        }
        Ok(())
    }

    async fn begin_pass(&self, _: Timestamp) -> Result<bool, RepositoryError> {
        Ok(!self.0.borrow().clock_distrusted)
    }

    async fn due_page(&self, _: Option<DueCursor>, now: Timestamp) -> Result<DuePage, RepositoryError> {
        let candidate = |due: &DueObject| DueCandidate {
            id: due.object.id,
            found_by: match due.action {
                DueAction::DeleteOldVersion => FoundBy::Versions,
                DueAction::DeleteForAge | DueAction::MoveToCold => FoundBy::Age,
            },
            versions_counted: due.rule.keep_versions.unwrap_or(0),
        };
        let candidates = self.0.borrow().due(now).iter().map(candidate).collect();
        Ok(DuePage { candidates, next: None })
    }

    async fn still_due(
        &self,
        candidate: DueCandidate,
        now: Timestamp,
    ) -> Result<Option<DueObject>, RepositoryError> {
        let due = self.0.borrow().due(now);
        let is_meant =
            |due: &DueObject| due.object.id == candidate.id && candidate.found_by.leads_to(due.action);
        Ok(due.into_iter().find(is_meant))
    }
}

#[test]
fn the_fake_repository_keeps_the_contract_of_lifecycles() {
    crate::application::contract::lifecycle_contract(FakeRepository::default);
}
