//! What tools may rely on, whichever database it is.

use super::batch::BatchContext;
use super::batch_pairs::WRITER;
use super::collector::Collected;
use super::database::Database;
use super::holds::Hold;
use super::maintenance::{BlobFilter, BlobRow, ExportedRow, ImportedRows, Miscount};
use super::scrub::ScrubState;
use crate::application::contract::{a_commit, key_path};
use crate::application::fakes::{an_api_key, an_object};
use crate::application::ports::{CommitOutcome, ObjectCommit, ObjectName};
use crate::domain::entities::{ApiKey, ApiKeyId, LifecycleRule, QuotaLimits, StandingRule};
use crate::domain::value_objects::{Namespace, ObjectStatus, Precondition, StorageClass, Timestamp};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};

/// Runs all of it. `database` is empty but for the instance [`WRITER`], `other` is quite empty.
pub(super) async fn maintenance_contract(database: &Database, other: &Database) {
    assert!(database.is_empty().await.unwrap());
    let commits = fill(database).await;
    blobs_come_in_pages(database).await;
    objects_are_counted_page_by_page(database, &commits).await;
    a_damaged_copy_is_known_and_gives_way(database, &commits[0]).await;
    how_far_the_scrub_is_is_one_row_of_whoever_saw_it_last(database).await;
    a_hold_keeps_bytes(database).await;
    keys_are_given_out_listed_and_revoked(database).await;
    reservations_of_ended_runs_are_cleared(database).await;
    a_copy_of_everything_is_the_same_elsewhere(database, other).await;
    wrong_counts_are_found_and_mended(other).await;
}

async fn apply(database: &Database, writes: &[Write], tick: u64) -> Vec<WriteOutcome> {
    let context = BatchContext { writer: WRITER, now: Timestamp::from_millis(5), tick };
    let mut next_sequence = database.next_sequence().await.unwrap();
    database.apply(writes, &mut next_sequence, context).await.unwrap().outcomes
}

/// Ten contents in either class, one of them twice, and one that nothing refers to any more.
async fn fill(database: &Database) -> Vec<ObjectCommit> {
    let mut commits: Vec<_> = (0..20).map(|number| a_commit(Some("k"), number / 2, number.into())).collect();
    for commit in commits.iter_mut().skip(1).step_by(2) {
        commit.stored.object.storage_class = StorageClass::Cold;
    }
    commits.push(a_commit(None, 3, 100));
    commits.push(a_commit(Some("gone"), 77, 101));
    let writes: Vec<_> = commits.iter().cloned().map(Write::Commit).collect();
    apply(database, &writes, 1).await;
    let delete = Write::DeleteKey { key_path: key_path("gone"), precondition: Precondition::default() };
    apply(database, &[delete], 40).await;
    assert_eq!(database.ticks().await.unwrap(), 40, "the clock was seen to be there");
    commits
}

async fn objects_are_counted_page_by_page(database: &Database, commits: &[ObjectCommit]) {
    for at_once in [1, 4, 1000] {
        let (mut counted, mut after) = (Vec::new(), 0);
        loop {
            let page = database.count_objects(after, at_once).await.unwrap();
            assert!(page.iter().map(|counted| counted.objects).sum::<u64>() <= at_once.into());
            let Some(last) = page.iter().map(|counted| counted.last_sequence).max() else { break };
            assert!(last > after);
            after = last;
            counted.extend(page);
        }
        let sum_of = |status, class| {
            let some =
                counted.iter().filter(|counted| (counted.status, counted.storage_class) == (status, class));
            some.fold((0, 0), |(objects, bytes), some| (objects + some.objects, bytes + some.bytes))
        };
        let (gone, there) = commits.split_last().unwrap();
        for class in StorageClass::ALL {
            let of_class = || there.iter().filter(|commit| commit.stored.object.storage_class == class);
            let bytes: u64 = of_class().map(|commit| commit.stored.size_bytes).sum();
            assert_eq!(
                sum_of(ObjectStatus::Committed, class),
                (of_class().count() as u64, bytes),
                "{at_once}"
            );
        }
        assert_eq!(sum_of(ObjectStatus::Deleted, StorageClass::Hot), (1, gone.stored.size_bytes));
        let scope = &gone.stored.object.scope;
        let owner = (scope.namespace.clone(), scope.tenant_id.clone());
        assert!(counted.iter().all(|counted| counted.owner == owner));
    }
}

async fn how_far_the_scrub_is_is_one_row_of_whoever_saw_it_last(database: &Database) {
    assert_eq!(database.scrub_state().await.unwrap(), None);
    let state = ScrubState {
        beats: 1,
        is_running: true,
        started_at: Timestamp::from_millis(7),
        finished_at: None,
        after: None,
        blobs: 0,
        bytes: 0,
        damaged: 0,
    };
    let location = a_commit(None, 5, 5).stored.location();
    let after = Some((location.content_hash, StorageClass::Cold));
    let finished_at = Some(Timestamp::from_millis(8));
    let next = ScrubState {
        beats: 2,
        is_running: false,
        finished_at,
        after,
        blobs: 3,
        bytes: 1 << 40,
        damaged: 2,
        ..state
    };
    for (state, seen, is_put) in [
        (state, None, true),
        (state, None, false),
        (next, Some(7), false),
        (next, Some(1), true),
        (next, Some(1), false),
    ] {
        assert_eq!(database.put_scrub_state(&state, seen).await.unwrap(), is_put, "{seen:?}");
    }
    assert_eq!(database.scrub_state().await.unwrap(), Some(next));
}

async fn blobs_come_in_pages(database: &Database) {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = database.blob_page(BlobFilter::All, after, 4).await.unwrap();
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = Some((last.location.content_hash, last.location.storage_class));
        seen.extend(page);
    }
    assert_eq!(seen.len(), 21);
    let key = |row: &BlobRow| (row.location.content_hash, row.location.storage_class);
    assert!(seen.is_sorted_by_key(|row| (key(row).0.as_bytes().to_vec(), key(row).1 == StorageClass::Cold)));
    assert_eq!(seen.iter().map(|row| row.ref_count).sum::<i64>(), 21);
    for row in &seen {
        assert_eq!(database.blob(key(row)).await.unwrap(), Some(*row));
    }
    let unreferenced = database.blob_page(BlobFilter::Unreferenced, None, 100).await.unwrap();
    assert_eq!(
        unreferenced.iter().map(|row| (row.ref_count, row.zero_since)).collect::<Vec<_>>(),
        [(0, Some(40))]
    );
    let findings = database.check_rows().await.unwrap();
    assert!(findings.iter().all(|(_, finding)| finding.count == 0), "{findings:?}");
}

/// What the contract of keys asks of a tool.
pub(super) async fn give_out_or_change(database: &Database, key: &ApiKey) {
    match key.revoked_at {
        Some(revoked_at) => assert!(database.revoke_api_key(key.id, revoked_at).await.unwrap()),
        None => database.put_api_key(key).await.unwrap(),
    }
}

async fn keys_are_given_out_listed_and_revoked(database: &Database) {
    let at = Timestamp::from_millis;
    let older = an_api_key(ApiKeyId::from_u64(u64::MAX));
    let newer = ApiKey { created_at: at(2_000), ..an_api_key(ApiKeyId::from_u64(1)) };
    database.put_api_key(&newer).await.unwrap();
    database.put_api_key(&older).await.unwrap();
    assert!(database.put_api_key(&older).await.is_err(), "no key takes the place of another");
    assert_eq!(database.api_keys().await.unwrap(), [older.clone(), newer.clone()]);
    assert!(!database.revoke_api_key(ApiKeyId::from_u64(7), at(3_000)).await.unwrap());
    assert!(database.revoke_api_key(older.id, at(3_000)).await.unwrap());
    assert!(database.revoke_api_key(older.id, at(4_000)).await.unwrap(), "again, which changes nothing");
    let revoked = ApiKey { revoked_at: Some(at(3_000)), ..older };
    assert_eq!(database.api_key(revoked.id).await.unwrap().as_ref(), Some(&revoked));
    assert_eq!(database.api_keys().await.unwrap(), [revoked, newer]);
}

async fn a_damaged_copy_is_known_and_gives_way(database: &Database, commit: &ObjectCommit) {
    let location = commit.stored.location();
    let changes = database.outside_changes().await.unwrap();
    assert!(database.mark(&location, true).await.unwrap());
    assert_ne!(database.outside_changes().await.unwrap(), changes, "servers are told");
    let elsewhere =
        crate::domain::entities::BlobLocation { place: location.place.with_number(999), ..location };
    assert!(!database.mark(&elsewhere, false).await.unwrap(), "it is another copy");
    let name = ObjectName::Id(commit.stored.object.id);
    assert!(database.find(&name).await.unwrap().unwrap().damaged);
    let findings = database.check_rows().await.unwrap();
    let found: Vec<_> = findings.iter().filter(|(_, finding)| finding.count > 0).collect();
    assert!(
        matches!(found[..], [(name, finding)] if *name == "damaged_blobs" && finding.count == 1),
        "{found:?}"
    );

    assert!(database.mark(&location, false).await.unwrap());
    assert!(!database.find(&name).await.unwrap().unwrap().damaged, "it was whole after all");
    database.mark(&location, true).await.unwrap();
    let again = a_commit(None, 0, 500);
    let place = again.stored.place;
    let outcomes = apply(database, &[Write::Commit(again)], 41).await;
    let expected = CommitOutcome::Committed { replaced: false, place };
    assert_eq!(outcomes, [WriteOutcome::Committed(expected)], "the new copy serves");
    let found = database.find(&name).await.unwrap().unwrap();
    assert_eq!((found.place, found.damaged), (place, false));
    let garbage = database.garbage(10, &[]).await.unwrap();
    assert_eq!(garbage.iter().map(|garbage| garbage.file).collect::<Vec<_>>(), [location]);
    assert_eq!(database.garbage_totals().await.unwrap(), (1, 0));
    let unnamed = database.unnamed_files(&[location, elsewhere]).await.unwrap();
    assert_eq!(unnamed, [elsewhere], "garbage is the collector's, not the sweep's");
}

async fn a_hold_keeps_bytes(database: &Database) {
    database.take_hold(7, "test", Timestamp::from_millis(0)).await.unwrap();
    assert_eq!(database.holds().await.unwrap(), [Hold { id: 7, beats: 0 }]);
    assert!(database.garbage(10, &[]).await.unwrap().is_empty());
    let collected = database.collect(1000, 0, 10).await.unwrap();
    assert_eq!(
        collected,
        Collected { blobs: 1, objects: 1, leases: 0 },
        "what is dead is forgotten all the same"
    );
    assert!(database.garbage(10, &[]).await.unwrap().is_empty());
    assert_eq!(database.garbage(10, &[7]).await.unwrap().len(), 2, "an abandoned hold does not count");
    assert!(database.renew_hold(7).await.unwrap());
    assert!(!database.forget_hold(Hold { id: 7, beats: 0 }).await.unwrap(), "its holder lives");
    assert!(database.forget_hold(Hold { id: 7, beats: 1 }).await.unwrap());
    assert!(!database.renew_hold(7).await.unwrap());
    database.take_hold(8, "test", Timestamp::from_millis(0)).await.unwrap();
    database.release_hold(8).await.unwrap();
    let garbage = database.garbage(10, &[]).await.unwrap();
    assert_eq!(garbage.len(), 2);
    database.forget_garbage(&garbage).await.unwrap();
}

async fn reservations_of_ended_runs_are_cleared(database: &Database) {
    let mut writing = an_object("models", "acme", None);
    writing.status = ObjectStatus::Writing;
    apply(database, &[Write::Reserve(writing.clone())], 50).await;
    assert_eq!(database.abandoned_reservations().await.unwrap(), 0);
    assert_eq!(database.clear_reservations().await.unwrap(), 0);
    let instances = database.instances().await.unwrap();
    let [run] = &instances[..] else { panic!("{instances:?}") };
    assert_eq!((run.id, run.ended), (WRITER, false));
    database.end_instances_of("node").await.unwrap();
    assert!(database.instances().await.unwrap()[0].ended);
    assert_eq!(database.abandoned_reservations().await.unwrap(), 1);
    let findings = database.check_rows().await.unwrap();
    let left = findings.iter().find(|(name, _)| *name == "reservations_of_ended_runs").unwrap();
    assert_eq!(left.1.count, 1);
    assert_eq!(database.clear_reservations().await.unwrap(), 1);
    assert_eq!(database.inspect(&ObjectName::Id(writing.id)).await.unwrap(), None);
}

async fn exported(database: &Database) -> Vec<ExportedRow> {
    let mut rows = Vec::new();
    let mut take = |row| {
        rows.push(row);
        Ok(())
    };
    database.export(&mut take).await.unwrap();
    rows
}

async fn a_copy_of_everything_is_the_same_elsewhere(database: &Database, other: &Database) {
    let tenant_id = a_commit(None, 1, 1).stored.object.scope.tenant_id;
    let limits = QuotaLimits { bytes_max: Some(1 << 40), objects_max: None };
    database.set_limits(&tenant_id, limits).await.unwrap();
    let (namespace, noted_since) = (Namespace::parse("logs").unwrap(), Timestamp::from_millis(77));
    let rule = LifecycleRule { cold_after_days: Some(3), ..LifecycleRule::default() };
    database.set_lifecycle_rule(&namespace, rule, Timestamp::from_millis(5)).await.unwrap();
    let rows = exported(database).await;
    let Some(ExportedRow::Clock { ticks }) = rows.first() else { panic!("the clock comes first") };
    let mut imported = ImportedRows::default();
    for row in &rows {
        match row {
            ExportedRow::Clock { .. } => {}
            ExportedRow::Limits { tenant_id, limits } => imported.limits.push((tenant_id.clone(), *limits)),
            ExportedRow::Rule { namespace, rule } => {
                imported.rules.push((namespace.clone(), *rule, noted_since));
            }
            ExportedRow::Object { sequence, object } => {
                imported.objects.push((*sequence, (**object).clone()))
            }
            ExportedRow::Blob(blob) => imported.blobs.push(*blob),
        }
    }
    assert_eq!((imported.objects.len(), imported.blobs.len()), (22, 20));
    let mut imported = Some(imported);
    assert!(other.is_empty().await.unwrap());
    other.import(*ticks, &mut || Ok(imported.take())).await.unwrap();
    assert!(!other.is_empty().await.unwrap());
    assert_eq!(exported(other).await, rows);
    let standing = StandingRule { rule, reads_noted_since: Some(noted_since) };
    assert_eq!(other.lifecycle_rules().await.unwrap(), [(namespace, standing)]);
    let quota = other.quota(&tenant_id).await.unwrap();
    assert_eq!((quota, quota.limits), (database.quota(&tenant_id).await.unwrap(), limits));
    assert_eq!((quota.usage.objects, other.wrong_usage().await.unwrap().count), (22, 0));
    assert_eq!(other.tenants().await.unwrap(), [(tenant_id, quota)]);
}

async fn wrong_counts_are_found_and_mended(database: &Database) {
    assert!(database.miscounts(10).await.unwrap().is_empty());
    let right = database.blob_page(BlobFilter::All, None, 3).await.unwrap();
    let wrong = right.iter().zip([5, 0, 1]).map(|(row, ref_count)| BlobRow { ref_count, ..*row });
    let mut rows = Some(ImportedRows { blobs: wrong.collect(), ..ImportedRows::default() });
    database.import(0, &mut || Ok(rows.take())).await.unwrap();
    let found = database.miscounts(10).await.unwrap();
    let keys: Vec<_> =
        right.iter().map(|row| (row.location.content_hash, row.location.storage_class)).collect();
    let expected = [
        Miscount { key: keys[0], ref_count: 5, objects: right[0].ref_count },
        Miscount { key: keys[1], ref_count: 0, objects: right[1].ref_count },
    ];
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(expected.iter().all(|miscount| found.contains(miscount)), "{found:?}");
    let findings = database.check_rows().await.unwrap();
    let counts = findings.iter().find(|(name, _)| *name == "wrong_counts").unwrap();
    assert_eq!(counts.1.count, 2);
    assert_eq!(database.recount(&keys).await.unwrap(), 2);
    assert!(database.miscounts(10).await.unwrap().is_empty());
    assert_eq!(database.blob_page(BlobFilter::All, None, 3).await.unwrap(), right);
}
