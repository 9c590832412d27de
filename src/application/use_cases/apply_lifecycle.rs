//! Doing what the rules of namespaces make due: one pass through all of them.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

use super::{ObjectPatch, UpdateError, delete_object, update_object};
use crate::application::errors::{RepositoryError, StoreError};
use crate::application::lifecycle::{DueObject, LifecycleRepository};
use crate::application::ports::{BlobStore, Clock, DeleteOutcome, ObjectName, ObjectRepository};
use crate::domain::entities::{DueAction, Usage};
use crate::domain::value_objects::{EntityTags, Precondition, StorageClass};

/// What a pass asks of whoever runs it.
pub trait PassKeeper {
    /// Waits until the pass may take its next step. `false` ends it.
    async fn turn(&self, step: PassStep) -> bool;

    /// Is told what came of a due object. What somebody else was faster with is not told.
    fn tell(&self, due: &DueObject, outcome: DueOutcome);
}

/// What a pass is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassStep {
    /// Look for what is due.
    Look,
    /// Do what is due with an object.
    Act,
    /// Go on after so many bytes have been copied.
    Copied(u64),
}

/// What came of an object that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueOutcome {
    /// It is deleted, or in the other class.
    Done,
    /// It is as it was, or, where the metadata did not answer, perhaps not.
    Failed,
    /// Somebody was faster, or something else is there by now.
    Passed,
}

/// What a pass has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassReport {
    /// What was deleted.
    pub deleted: Usage,
    /// What was moved to the cold class.
    pub moved: Usage,
    /// How many objects could not be moved, or were not tried any more.
    pub not_moved: u64,
    /// Whether it came to its end.
    pub is_whole: bool,
    /// Whether it did nothing, because the clock cannot be trusted.
    pub rests: bool,
}

/// Goes through everything that has a rule, and does what is due at the moment at which it begins: later steps of the clock
/// make nothing more so. Each object is looked at once more right before, together with the rule.
///
/// Everything goes the way on which requests go. An error of the metadata ends the pass; the next one begins anew. One of
/// the storage ends the moves of this pass, unless it is about that one blob: what is to be deleted goes all the same.
///
/// # Errors
/// [`RepositoryError`].
pub async fn apply_lifecycle<S, R>(
    (store, repository, clock): (&S, &R, &impl Clock),
    keeper: &impl PassKeeper,
) -> Result<PassReport, RepositoryError>
where
    S: BlobStore,
    R: ObjectRepository<Buffer = S::Buffer> + LifecycleRepository,
{
    let (now, mut report) = (clock.now(), PassReport::default());
    if !repository.begin_pass(now).await? {
        return Ok(PassReport { rests: true, ..report });
    }
    let (mut from, mut moves_stand_still) = (None, false);
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
            let size_bytes = due.object.size_bytes.unwrap_or(0);
            let outcome = match due.action {
                DueAction::DeleteForAge | DueAction::DeleteOldVersion => delete(repository, &due).await,
                DueAction::MoveToCold if moves_stand_still => {
                    report.not_moved += 1;
                    continue;
                }
                DueAction::MoveToCold => match move_to_cold((store, repository, clock), &due).await {
                    Err(UpdateError::Repository(error)) => Err(error),
                    Err(error) => {
                        moves_stand_still = !is_of_one_blob(&error);
                        report.not_moved += 1;
                        Ok(DueOutcome::Failed)
                    }
                    Ok(outcome) => Ok(outcome),
                },
            };
            keeper.tell(&due, outcome.unwrap_or(DueOutcome::Failed));
            if outcome? == DueOutcome::Done {
                let of_action = match due.action {
                    DueAction::DeleteForAge | DueAction::DeleteOldVersion => &mut report.deleted,
                    DueAction::MoveToCold => &mut report.moved,
                };
                *of_action = of_action.plus(Usage::of_object(size_bytes));
            }
            if due.action == DueAction::MoveToCold && !keeper.turn(PassStep::Copied(size_bytes)).await {
                return Ok(report);
            }
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(PassReport { is_whole: true, ..report }),
        }
    }
}

/// What must hold of an object that is due: its content, which an id never changes.
fn precondition_of(due: &DueObject) -> Precondition {
    let hashes = EntityTags::Hashes(due.object.content_hash.into_iter().collect());
    Precondition { if_match: Some(hashes), ..Precondition::default() }
}

async fn delete<R: ObjectRepository>(repository: &R, due: &DueObject) -> Result<DueOutcome, RepositoryError> {
    let name = ObjectName::Id(due.object.id);
    Ok(match delete_object(repository, &name, precondition_of(due)).await? {
        DeleteOutcome::Deleted { .. } => DueOutcome::Done,
        DeleteOutcome::NotFound | DeleteOutcome::PreconditionFailed => DueOutcome::Passed,
    })
}

async fn move_to_cold<S, R>(ports: (&S, &R, &impl Clock), due: &DueObject) -> Result<DueOutcome, UpdateError>
where
    S: BlobStore,
    R: ObjectRepository<Buffer = S::Buffer>,
{
    let patch = ObjectPatch { storage_class: Some(StorageClass::Cold), ..ObjectPatch::default() };
    let name = ObjectName::Id(due.object.id);
    match update_object(ports, &name, &patch, &precondition_of(due)).await {
        Ok(updated) if updated.changed => Ok(DueOutcome::Done),
        Ok(_) | Err(UpdateError::NotFound | UpdateError::PreconditionFailed | UpdateError::Busy) => {
            Ok(DueOutcome::Passed)
        }
        Err(error) => Err(error),
    }
}

/// Whether what keeps a blob from being moved says nothing of others.
fn is_of_one_blob(error: &UpdateError) -> bool {
    matches!(error, UpdateError::Store(StoreError::Missing | StoreError::Damaged) | UpdateError::Metadata(_))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::fakes::{FakeClock, FakeRepository, FakeSource, FakeStore, an_order, block_on};
    use crate::application::ports::Freshness;
    use crate::application::use_cases::upload_object;
    use crate::domain::entities::LifecycleRule;
    use crate::domain::value_objects::{Namespace, ObjectId, Timestamp};

    /// Lets so many steps be taken, and remembers what it was told.
    struct Keeper {
        steps: Cell<u32>,
        told: RefCell<Vec<(ObjectId, DueAction, DueOutcome)>>,
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

        fn tell(&self, due: &DueObject, outcome: DueOutcome) {
            self.told.borrow_mut().push((due.object.id, due.action, outcome));
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
        let pass = || {
            block_on(apply_lifecycle((&FakeStore::default(), &repository, &FakeClock::default()), &keeper))
                .unwrap()
        };
        let deleted = Usage { bytes: 3, objects: 2 };
        assert_eq!(pass(), PassReport { deleted, is_whole: true, ..PassReport::default() });
        let told = keeper.told.take();
        assert_eq!(told.len(), 2);
        assert!(ids[..2].iter().all(|id| told.contains(&(
            *id,
            DueAction::DeleteOldVersion,
            DueOutcome::Done
        ))));
        assert_eq!(pass(), PassReport { is_whole: true, ..PassReport::default() });
        assert!(keeper.told.take().is_empty());
        assert_eq!(repository.object_count(), 3);
    }

    #[test]
    fn a_pass_that_is_ended_says_what_it_has_done() {
        let (repository, _) = a_repository();
        // To look, and for the first object.
        let keeper = Keeper::of_steps(2);
        let report =
            block_on(apply_lifecycle((&FakeStore::default(), &repository, &FakeClock::default()), &keeper))
                .unwrap();
        assert_eq!((report.deleted.objects, report.is_whole), (1, false));
    }

    #[test]
    fn nothing_is_done_by_a_clock_that_has_leapt() {
        let (repository, _) = a_repository();
        repository.distrust_clock();
        let keeper = Keeper::of_steps(u32::MAX);
        let report =
            block_on(apply_lifecycle((&FakeStore::default(), &repository, &FakeClock::default()), &keeper))
                .unwrap();
        assert_eq!(report, PassReport { rests: true, ..PassReport::default() });
        assert_eq!(repository.object_count(), 5);
    }

    #[test]
    fn an_error_is_told_and_ends_the_pass() {
        let (repository, _) = a_repository();
        repository.fail_next_delete(RepositoryError::Unavailable);
        let keeper = Keeper::of_steps(u32::MAX);
        let pass =
            block_on(apply_lifecycle((&FakeStore::default(), &repository, &FakeClock::default()), &keeper));
        assert_eq!(pass, Err(RepositoryError::Unavailable));
        assert!(matches!(keeper.told.take()[..], [(_, DueAction::DeleteOldVersion, DueOutcome::Failed)]));
        assert_eq!(repository.object_count(), 5);
    }

    /// Two hot objects that nobody has ever read.
    fn unread(store: &FakeStore, repository: &FakeRepository) -> Vec<ObjectId> {
        let clock = FakeClock::default();
        let put = |body: &[u8]| {
            let ports = (store, repository, &clock);
            block_on(upload_object(ports, an_order(None), &mut FakeSource::of(body))).unwrap().object.id
        };
        let ids = vec![put(b"one"), put(b"two")];
        let rule = LifecycleRule { cold_after_days: Some(1), ..LifecycleRule::default() };
        let namespace = Namespace::parse("models").unwrap();
        block_on(repository.set_lifecycle_rule(&namespace, rule, Timestamp::from_millis(0))).unwrap();
        ids
    }

    /// A day later than everything.
    struct LateClock;

    impl Clock for LateClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(10 * 86_400_000)
        }
    }

    #[test]
    fn what_nobody_reads_is_moved_and_its_bytes_with_it() {
        let (store, repository) = (FakeStore::default(), FakeRepository::default());
        let ids = unread(&store, &repository);
        block_on(repository.note_reads(vec![ids[1]], LateClock.now())).unwrap();
        let keeper = Keeper::of_steps(u32::MAX);
        let pass = || block_on(apply_lifecycle((&store, &repository, &LateClock), &keeper)).unwrap();
        let moved = Usage { bytes: 3, objects: 1 };
        assert_eq!(pass(), PassReport { moved, is_whole: true, ..PassReport::default() });
        assert_eq!(keeper.told.take(), [(ids[0], DueAction::MoveToCold, DueOutcome::Done)]);
        let class_of = |id| block_on(repository.inspect(&ObjectName::Id(id))).unwrap().unwrap().storage_class;
        assert_eq!([class_of(ids[0]), class_of(ids[1])], [StorageClass::Cold, StorageClass::Hot]);
        assert_eq!(pass(), PassReport { is_whole: true, ..PassReport::default() });
    }

    #[test]
    fn a_storage_that_takes_nothing_ends_the_moves_and_not_the_pass() {
        let (store, repository) = (FakeStore::default(), FakeRepository::default());
        let ids = unread(&store, &repository);
        store.fail_next_publish(StoreError::NoSpace);
        let keeper = Keeper::of_steps(u32::MAX);
        let report = block_on(apply_lifecycle((&store, &repository, &LateClock), &keeper)).unwrap();
        assert_eq!(report, PassReport { not_moved: 2, is_whole: true, ..PassReport::default() });
        assert!(matches!(keeper.told.take()[..], [(_, DueAction::MoveToCold, DueOutcome::Failed)]));
        let class_of = |id| block_on(repository.inspect(&ObjectName::Id(id))).unwrap().unwrap().storage_class;
        assert!(ids.iter().all(|id| class_of(*id) == StorageClass::Hot));
    }

    #[test]
    fn a_blob_that_is_lost_keeps_no_other_from_being_moved() {
        let (store, repository) = (FakeStore::default(), FakeRepository::default());
        let ids = unread(&store, &repository);
        let lost = block_on(repository.find(&ObjectName::Id(ids[0]), Freshness::Current)).unwrap().unwrap();
        block_on(store.discard(&lost.location()));
        let keeper = Keeper::of_steps(u32::MAX);
        let report = block_on(apply_lifecycle((&store, &repository, &LateClock), &keeper)).unwrap();
        assert_eq!((report.moved.objects, report.not_moved, report.is_whole), (1, 1, true));
    }
}
