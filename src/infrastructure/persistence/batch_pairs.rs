//! The test that every database passes: each pair of writes means the same in one batch and in two.

use super::batch::BatchContext;
use super::database::Database;
use crate::application::contract::{a_commit, key_path};
use crate::application::ports::{ObjectCommit, ObjectUpdate, SeenObject};
use crate::domain::value_objects::{
    EntityTags, InstanceId, Key, ObjectStatus, Precondition, StorageClass, Timestamp,
};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};

/// Who writes in [`every_pair_is_the_same_in_one_batch_and_in_two`].
pub(super) const WRITER: InstanceId = InstanceId::from_i64(1);

/// What is left of a pair of writes.
pub(super) const ROWS_IN_WORDS: &str = "the id, status, hash, date, key, class and metadata of each object by sequence; the hash, class, count, place and state of each blob; \
     all garbage; what each tenant has";

/// A database that can be emptied and looked at.
pub(super) trait PairWorld {
    /// The database without a row, but for the instance [`WRITER`].
    async fn emptied(&mut self) -> &Database;

    /// [`ROWS_IN_WORDS`].
    async fn rows(&self) -> Vec<String>;
}

pub(super) async fn every_pair_is_the_same_in_one_batch_and_in_two(world: &mut impl PairWorld) {
    let kinds = kinds_of_writes();
    let first = kinds.iter().find_map(committed).cloned();
    for one in &kinds {
        for two in &kinds {
            let updates = [one, two].iter().any(|write| matches!(write, Write::Update(_)));
            // What is changed has to be there.
            let first = first.as_ref().filter(|_| updates);
            let befores = [None, Some(a_commit(Some("k"), 9, 9)), Some(a_damaged_commit()), first.cloned()];
            for before in befores {
                let commits = [one, two].into_iter().filter_map(committed).chain(&before);
                let ids: Vec<_> = commits.map(|commit| commit.stored.object.id).collect();
                if (1..ids.len()).any(|index| ids[..index].contains(&ids[index])) {
                    continue; // an object is committed once
                }
                let together = outcome_of(world, before.as_ref(), &[&[one.clone(), two.clone()]]).await;
                let (first, second) = (std::slice::from_ref(one), std::slice::from_ref(two));
                let apart = outcome_of(world, before.as_ref(), &[first, second]).await;
                assert_eq!(together, apart, "{one:?} then {two:?}: {ROWS_IN_WORDS}");
            }
        }
    }
}

fn committed(write: &Write) -> Option<&ObjectCommit> {
    match write {
        Write::Commit(commit) => Some(commit),
        _ => None,
    }
}

/// Of the content that most of the writes are about.
fn a_damaged_commit() -> ObjectCommit {
    let mut commit = a_commit(None, 1, 99);
    commit.stored.damaged = true;
    commit
}

fn kinds_of_writes() -> Vec<Write> {
    let if_none = Precondition { if_none_match: Some(EntityTags::Any), ..Precondition::default() };
    let first = a_commit(Some("k"), 1, 1);
    let second = a_commit(Some("k"), 2, 2);
    let again = a_commit(Some("other"), 1, 3);
    let conditional = ObjectCommit { precondition: if_none, ..a_commit(Some("k"), 4, 4) };
    let mut reserved = a_commit(Some("k"), 5, 5);
    let mut writing = reserved.stored.object.clone();
    writing.status = ObjectStatus::Writing;
    (writing.content_hash, writing.size_bytes) = (None, None);
    reserved.stored.object.id = writing.id;
    let delete = |commit: &ObjectCommit| Write::Delete {
        id: commit.stored.object.id,
        precondition: Precondition::default(),
    };
    let mend = |commit: &ObjectCommit, number| {
        let lost = commit.stored.location();
        Write::Mend { lost, place: lost.place.with_number(number) }
    };
    let update = |commit: &ObjectCommit| {
        let mut object = commit.stored.object.clone();
        object.metadata = object.metadata.merged([("said", Some("more"))]).unwrap();
        object.updated_at = Timestamp::from_millis(object.updated_at.as_millis() + 1);
        ObjectUpdate { seen: SeenObject::of(&commit.stored.object), object, copy: None }
    };
    let rename = |commit: &ObjectCommit, key: Option<&str>| {
        let mut update = update(commit);
        update.object.key = key.map(|key| Key::parse(key).unwrap());
        Write::Update(update)
    };
    let chill = |commit: &ObjectCommit, number| {
        let mut update = update(commit);
        update.object.storage_class = StorageClass::Cold;
        update.copy = Some(commit.stored.place.with_number(number));
        Write::Update(update)
    };
    // As it is after any of these.
    let mut later = first.clone();
    later.stored.object = update(&first).object;
    vec![
        Write::Update(update(&first)),
        rename(&first, Some("other")),
        rename(&again, Some("k")),
        rename(&later, None),
        chill(&first, 201),
        chill(&again, 202),
        Write::Commit(first.clone()),
        Write::Commit(second.clone()),
        Write::Commit(again.clone()),
        Write::Commit(conditional),
        Write::Reserve(writing.clone()),
        Write::Commit(reserved.clone()),
        Write::Abandon(writing.id),
        delete(&first),
        delete(&second),
        delete(&again),
        Write::DeleteKey { key_path: key_path("k"), precondition: Precondition::default() },
        mend(&first, 101),
        mend(&a_damaged_commit(), 102),
    ]
}

/// All outcomes of the batches in order, and all rows that they leave. What was there before may be damaged by then.
async fn outcome_of(
    world: &mut impl PairWorld,
    before: Option<&ObjectCommit>,
    batches: &[&[Write]],
) -> (Vec<WriteOutcome>, Vec<String>) {
    let database = world.emptied().await;
    let (mut outcomes, mut next_sequence) = (Vec::new(), 1);
    let context = BatchContext { writer: WRITER, now: Timestamp::from_millis(5), tick: 7 };
    if let Some(commit) = before {
        database.apply(&[Write::Commit(commit.clone())], &mut next_sequence, context).await.unwrap();
        if commit.stored.damaged {
            assert!(database.mark(&commit.stored.location(), true).await.unwrap());
        }
    }
    for writes in batches {
        let applied = database.apply(writes, &mut next_sequence, context).await;
        outcomes.extend(applied.unwrap().outcomes);
    }
    (outcomes, world.rows().await)
}
