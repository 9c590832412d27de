//! Doing what the rules of namespaces make due: one pass through all of them.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

use super::delete_object;
use crate::application::errors::RepositoryError;
use crate::application::lifecycle::{DueObject, LifecycleRepository};
use crate::application::ports::{Clock, DeleteOutcome, ObjectName, ObjectRepository};
use crate::domain::entities::{DueAction, Usage};
use crate::domain::value_objects::{EntityTags, Precondition};

/// What a pass asks of whoever runs it.
pub trait PassKeeper {
    /// Waits until the pass may take its next step. `false` ends it.
    async fn turn(&self, step: PassStep) -> bool;

    /// Is told what came of a due object. What somebody else was faster with is not told.
    fn tell(&self, due: &DueObject, outcome: Result<(), RepositoryError>);
}

/// What a pass is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassStep {
    /// Look for what is due.
    Look,
    /// Do what is due with an object.
    Act,
}

/// What a pass has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassReport {
    /// What was deleted.
    pub deleted: Usage,
    /// Whether it came to its end.
    pub is_whole: bool,
    /// Whether it did nothing, because the clock cannot be trusted.
    pub rests: bool,
}

/// Goes through everything that has a rule, and does what is due at the moment at which it begins: later steps of the clock
/// make nothing more so. Each object is looked at once more right before, together with the rule.
///
/// Everything goes the way on which requests go. An error ends the pass; the next one begins anew.
///
/// # Errors
/// [`RepositoryError`].
pub async fn apply_lifecycle<R: ObjectRepository + LifecycleRepository>(
    repository: &R,
    clock: &impl Clock,
    keeper: &impl PassKeeper,
) -> Result<PassReport, RepositoryError> {
    let (now, mut report) = (clock.now(), PassReport::default());
    if !repository.begin_pass(now).await? {
        return Ok(PassReport { rests: true, ..report });
    }
    let mut from = None;
    loop {
        if !keeper.turn(PassStep::Look).await {
            return Ok(report);
        }
        let page = repository.due_page(from, now).await?;
        for candidate in page.candidates {
            if !keeper.turn(PassStep::Act).await {
                return Ok(report);
            }
            let Some(due) = repository.still_due(candidate, now).await? else { continue };
            let done = act(repository, &due).await;
            match done {
                Ok(true) => {
                    report.deleted =
                        report.deleted.plus(Usage::of_object(due.object.size_bytes.unwrap_or(0)));
                    keeper.tell(&due, Ok(()));
                }
                Ok(false) => {}
                Err(error) => {
                    // It may have happened.
                    keeper.tell(&due, Err(error));
                    return Err(error);
                }
            }
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(PassReport { is_whole: true, ..report }),
        }
    }
}

/// Does what is due. `false` if it was done already, or something else is there by now.
async fn act<R: ObjectRepository>(repository: &R, due: &DueObject) -> Result<bool, RepositoryError> {
    match due.action {
        DueAction::DeleteForAge | DueAction::DeleteOldVersion => {
            let hashes = EntityTags::Hashes(due.object.content_hash.into_iter().collect());
            let precondition = Precondition { if_match: Some(hashes), ..Precondition::default() };
            let outcome = delete_object(repository, &ObjectName::Id(due.object.id), precondition).await?;
            Ok(matches!(outcome, DeleteOutcome::Deleted { .. }))
        }
        // No rule asks for it yet.
        DueAction::MoveToCold => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::fakes::{FakeClock, FakeRepository, block_on};
    use crate::domain::entities::LifecycleRule;
    use crate::domain::value_objects::{Namespace, ObjectId, Timestamp};

    /// Lets so many steps be taken, and remembers what it was told.
    struct Keeper {
        steps: Cell<u32>,
        told: RefCell<Vec<(ObjectId, DueAction, bool)>>,
    }

    impl Keeper {
        fn of_steps(steps: u32) -> Self {
            Self { steps: Cell::new(steps), told: RefCell::default() }
        }
    }

    impl PassKeeper for Keeper {
        async fn turn(&self, _: PassStep) -> bool {
            self.steps.replace(self.steps.get().saturating_sub(1)) > 0
        }

        fn tell(&self, due: &DueObject, outcome: Result<(), RepositoryError>) {
            self.told.borrow_mut().push((due.object.id, due.action, outcome.is_ok()));
        }
    }

    /// Of a key with three versions and two other objects, and a rule that keeps one version.
    fn a_repository() -> (FakeRepository, Vec<ObjectId>) {
        let repository = FakeRepository::default();
        let keys = [Some("k"), Some("k"), Some("k"), Some("other"), None];
        let ids = (1_u8..).zip(keys).map(|(content, key)| {
            let commit = a_commit(key, content, content.into());
            let id = commit.stored.object.id;
            block_on(repository.commit(commit, Default::default())).unwrap();
            id
        });
        let ids = ids.collect();
        let rule = LifecycleRule { keep_versions: Some(1), ..LifecycleRule::default() };
        let namespace = Namespace::parse("models").unwrap();
        block_on(repository.set_lifecycle_rule(&namespace, rule, Timestamp::from_millis(0))).unwrap();
        (repository, ids)
    }

    #[test]
    fn a_pass_does_what_is_due_and_the_next_one_nothing() {
        let (repository, ids) = a_repository();
        let keeper = Keeper::of_steps(u32::MAX);
        let pass = || block_on(apply_lifecycle(&repository, &FakeClock::default(), &keeper)).unwrap();
        let deleted = Usage { bytes: 3, objects: 2 };
        assert_eq!(pass(), PassReport { deleted, is_whole: true, rests: false });
        let told = keeper.told.take();
        assert_eq!(told.len(), 2);
        assert!(ids[..2].iter().all(|id| told.contains(&(*id, DueAction::DeleteOldVersion, true))));
        assert_eq!(pass(), PassReport { is_whole: true, ..PassReport::default() });
        assert!(keeper.told.take().is_empty());
        assert_eq!(repository.object_count(), 3);
    }

    #[test]
    fn a_pass_that_is_ended_says_what_it_has_done() {
        let (repository, _) = a_repository();
        // To look, and for the first object.
        let keeper = Keeper::of_steps(2);
        let report = block_on(apply_lifecycle(&repository, &FakeClock::default(), &keeper)).unwrap();
        assert_eq!((report.deleted.objects, report.is_whole), (1, false));
    }

    #[test]
    fn nothing_is_done_by_a_clock_that_has_leapt() {
        let (repository, _) = a_repository();
        repository.distrust_clock();
        let keeper = Keeper::of_steps(u32::MAX);
        let report = block_on(apply_lifecycle(&repository, &FakeClock::default(), &keeper)).unwrap();
        assert_eq!(report, PassReport { rests: true, ..PassReport::default() });
        assert_eq!(repository.object_count(), 5);
    }

    #[test]
    fn an_error_is_told_and_ends_the_pass() {
        let (repository, _) = a_repository();
        repository.fail_next_delete(RepositoryError::Unavailable);
        let keeper = Keeper::of_steps(u32::MAX);
        let pass = block_on(apply_lifecycle(&repository, &FakeClock::default(), &keeper));
        assert_eq!(pass, Err(RepositoryError::Unavailable));
        assert!(matches!(keeper.told.take()[..], [(_, DueAction::DeleteOldVersion, false)]));
        assert_eq!(repository.object_count(), 5);
    }
}
