//! What rules make due, found in steps of a bounded size, and what the metadata plane answers about rules.
//!
//! A step finds candidates from afar, by indexes that are there for other reasons; [`Database::still_due`] then looks at one
//! object, with everything that its fate hangs on, in one statement. A pass and a dry run go through both alike.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::collector::GraceClock;
use super::database::Database;
use super::errors::DatabaseError;
use crate::application::lifecycle::{
    DueCandidate, DueCursor, DueObject, DuePage, DuePlace, DueStage, FoundBy, VersionPlace,
};
use crate::domain::entities::{
    ClockMark, ClockMarks, Day, LifecycleRule, Object, ObjectFacts, Scope, StandingRule,
};
use crate::domain::value_objects::{Key, Namespace, ObjectId, StorageClass, TenantId, Timestamp};
use crate::infrastructure::lifecycle_channel::NotedSender;

/// How many objects a step looks at: some milliseconds.
pub(super) const OBJECTS_AT_ONCE: u32 = 1000;
/// How many rules are read at once.
const RULES_AT_ONCE: u32 = 1000;
/// How many reads are forgotten in one transaction.
const READS_FORGOTTEN_AT_ONCE: u32 = 1000;
/// How long a look at the rules may take that nobody asked for.
const REFRESH_LIMIT: Duration = Duration::from_secs(1);
/// Before a look that failed is tried again.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A version of a key, as a step reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VersionRow {
    pub(super) key: Key,
    pub(super) sequence: u64,
    pub(super) id: ObjectId,
}

/// Everything that an object's fate hangs on, as it is at one moment.
#[derive(Debug, Clone)]
pub(super) struct LifecycleFacts {
    pub(super) object: Object,
    pub(super) last_read: Option<Day>,
    pub(super) newer_versions: u64,
    pub(super) standing: StandingRule,
}

/// A part of the objects of a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgesPage<'s> {
    pub(super) scope: &'s Scope,
    pub(super) storage_class: StorageClass,
    /// Behind this sequence,
    pub(super) after: u64,
    /// up to this one.
    pub(super) last: u64,
    /// Made by then.
    pub(super) made_until: Timestamp,
}

impl Database {
    /// All rules, in the order of their namespaces.
    pub(crate) async fn lifecycle_rules(&self) -> Result<Vec<(Namespace, StandingRule)>, DatabaseError> {
        let mut rules: Vec<(Namespace, StandingRule)> = Vec::new();
        loop {
            let last = rules.last().map(|(namespace, _)| namespace.clone());
            let page = self.lifecycle_rules_after(last.as_ref(), RULES_AT_ONCE).await?;
            if page.is_empty() {
                return Ok(rules);
            }
            rules.extend(page);
        }
    }

    /// The step of a pass that begins at `from`, through all namespaces or through one.
    pub(crate) async fn due_page(
        &self,
        from: Option<DueCursor>,
        now: Timestamp,
        only: Option<&Namespace>,
    ) -> Result<DuePage, DatabaseError> {
        let Some(DueCursor { namespace, place }) = from else {
            let next = match only {
                Some(namespace) => Some(first_tenant(namespace.clone())),
                None => self.next_namespace(None).await?,
            };
            return Ok(DuePage { candidates: Vec::new(), next });
        };
        let Some(standing) = self.lifecycle_rule(&namespace).await? else {
            return self.page_of_next_namespace(&namespace, only).await;
        };
        let (tenant_id, stage) = match place {
            DuePlace::Objects(tenant_id, stage) => (tenant_id, stage),
            DuePlace::Tenants(after) => match self.next_tenant(&namespace, after.as_ref()).await? {
                Some(tenant_id) => (tenant_id, DueStage::Versions(None)),
                None => return self.page_of_next_namespace(&namespace, only).await,
            },
        };
        let scope = Scope { namespace, tenant_id };
        let (candidates, next_stage) = match stage {
            DueStage::Versions(before) => self.step_through_versions(&scope, standing.rule, before).await?,
            DueStage::Ages(class, after) => {
                self.step_through_ages(&scope, &standing, (class, after), now).await?
            }
        };
        let Scope { namespace, tenant_id } = scope;
        let place = match next_stage {
            Some(stage) => DuePlace::Objects(tenant_id, stage),
            None => DuePlace::Tenants(Some(tenant_id)),
        };
        Ok(DuePage { candidates, next: Some(DueCursor { namespace, place }) })
    }

    /// What is to be done with a candidate.
    pub(crate) async fn still_due(
        &self,
        candidate: DueCandidate,
        now: Timestamp,
    ) -> Result<Option<DueObject>, DatabaseError> {
        let facts = self.lifecycle_facts(candidate.id, candidate.versions_counted).await?;
        let Some(LifecycleFacts { object, last_read, newer_versions, standing }) = facts else {
            return Ok(None);
        };
        let (storage_class, created_at) = (object.storage_class, object.created_at);
        let facts = ObjectFacts { storage_class, created_at, last_read, newer_versions };
        let action = standing.decide(&facts, now).filter(|action| candidate.found_by.leads_to(*action));
        Ok(action.map(|action| DueObject { object, action, rule: standing.rule }))
    }

    /// Whether the wall clock would be trusted, if a pass began at `now`. Changes nothing.
    pub(crate) async fn would_trust_clock(&self, now: ClockMark) -> Result<bool, DatabaseError> {
        let marks = self.clock_marks().await?;
        Ok(marks.is_none_or(|marks| marks.after_look(now).is_trusted()))
    }

    async fn page_of_next_namespace(
        &self,
        namespace: &Namespace,
        only: Option<&Namespace>,
    ) -> Result<DuePage, DatabaseError> {
        let next = match only {
            Some(_) => None,
            None => self.next_namespace(Some(namespace)).await?,
        };
        Ok(DuePage { candidates: Vec::new(), next })
    }

    async fn next_namespace(&self, after: Option<&Namespace>) -> Result<Option<DueCursor>, DatabaseError> {
        let next = self.lifecycle_rules_after(after, 1).await?.pop();
        Ok(next.map(|(namespace, _)| first_tenant(namespace)))
    }

    async fn step_through_versions(
        &self,
        scope: &Scope,
        rule: LifecycleRule,
        before: Option<VersionPlace>,
    ) -> Result<(Vec<DueCandidate>, Option<DueStage>), DatabaseError> {
        let ages = Some(DueStage::Ages(StorageClass::Hot, 0));
        let Some(kept) = rule.keep_versions else { return Ok((Vec::new(), ages)) };
        let from = before.as_ref().map(|place| (&place.key, place.sequence));
        let rows = self.versions_before(scope, from, OBJECTS_AT_ONCE).await?;
        let is_end = rows.len() < OBJECTS_AT_ONCE as usize;
        let (candidates, last) = behind_the_kept(rows, before, kept);
        let next = match last {
            Some(place) if !is_end => Some(DueStage::Versions(Some(place))),
            _ => ages,
        };
        Ok((candidates, next))
    }

    async fn step_through_ages(
        &self,
        scope: &Scope,
        standing: &StandingRule,
        (storage_class, after): (StorageClass, u64),
        now: Timestamp,
    ) -> Result<(Vec<DueCandidate>, Option<DueStage>), DatabaseError> {
        let next_class = match storage_class {
            StorageClass::Hot => Some(DueStage::Ages(StorageClass::Cold, 0)),
            StorageClass::Cold => None,
        };
        let Some(made_until) = standing.rule.made_until(storage_class, now) else {
            return Ok((Vec::new(), next_class));
        };
        let Some(last) = self.ages_end(scope, (storage_class, after), OBJECTS_AT_ONCE).await? else {
            return Ok((Vec::new(), next_class));
        };
        let rows = self.ages(AgesPage { scope, storage_class, after, last, made_until }).await?;
        let may_be_due = |(_, created_at, last_read): &(ObjectId, Timestamp, Option<Day>)| {
            let (created_at, last_read) = (*created_at, *last_read);
            let facts = ObjectFacts { storage_class, created_at, last_read, newer_versions: 0 };
            standing.decide(&facts, now).is_some()
        };
        let versions_counted = standing.rule.keep_versions.unwrap_or(0);
        let candidate =
            |(id, ..): (ObjectId, _, _)| DueCandidate { id, found_by: FoundBy::Age, versions_counted };
        let candidates = rows.into_iter().filter(may_be_due).map(candidate).collect();
        Ok((candidates, Some(DueStage::Ages(storage_class, last))))
    }
}

fn first_tenant(namespace: Namespace) -> DueCursor {
    DueCursor { namespace, place: DuePlace::Tenants(None) }
}

/// Those of the versions, which come newest first, that have at least `kept` newer ones, and the place of the last.
fn behind_the_kept(
    rows: Vec<VersionRow>,
    before: Option<VersionPlace>,
    kept: u32,
) -> (Vec<DueCandidate>, Option<VersionPlace>) {
    let (mut candidates, mut last) = (Vec::new(), before);
    for VersionRow { key, sequence, id } in rows {
        let seen = match last {
            Some(place) if place.key == key => place.seen + 1,
            _ => 1,
        };
        if seen > u64::from(kept) {
            candidates.push(DueCandidate { id, found_by: FoundBy::Versions, versions_counted: kept });
        }
        last = Some(VersionPlace { key, sequence, seen });
    }
    (candidates, last)
}

/// The rules as cores know them, and what is answered about them.
pub(super) struct Lifecycles {
    database: Arc<Database>,
    ticks: GraceClock,
    noted: NotedSender,
    asked: Notify,
}

impl Lifecycles {
    pub(super) fn new(database: Arc<Database>, ticks: GraceClock, noted: NotedSender) -> Arc<Self> {
        Arc::new(Self { database, ticks, noted, asked: Notify::default() })
    }

    /// Tells cores of which namespaces reads are noted.
    pub(super) async fn refresh(&self) -> Result<(), DatabaseError> {
        let rules = self.database.lifecycle_rules().await?;
        let noted = rules.into_iter().filter(|(_, standing)| standing.rule.cold_after_days.is_some());
        let noted: HashSet<Namespace> = noted.map(|(namespace, _)| namespace).collect();
        self.noted.send_if_modified(|known| {
            let is_new = **known != noted;
            if is_new {
                *known = Arc::new(noted);
            }
            is_new
        });
        Ok(())
    }

    /// The rules may have changed: cores know soon, and nobody waits for it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Does what is asked for until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.asked.notified().await;
            while !matches!(timeout(REFRESH_LIMIT, self.refresh()).await, Ok(Ok(()))) {
                tracing::debug!("the rules of namespaces could not be read yet");
                sleep(REFRESH_PAUSE).await;
            }
        }
    }

    pub(super) async fn rule(&self, namespace: &Namespace) -> Result<LifecycleRule, DatabaseError> {
        let standing = self.database.lifecycle_rule(namespace).await?;
        Ok(standing.map(|standing| standing.rule).unwrap_or_default())
    }

    pub(super) async fn set_rule(
        &self,
        namespace: &Namespace,
        rule: LifecycleRule,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        self.database.set_lifecycle_rule(namespace, rule, now).await?;
        self.refresh().await
    }

    pub(super) async fn note_reads(
        &self,
        mut ids: Vec<ObjectId>,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        // Servers that note the same ones take their rows in the same order, and none of them twice.
        ids.sort_unstable();
        ids.dedup();
        self.database.note_reads(&ids, Day::of(now)).await
    }

    /// Notes how the clocks stand, and clears reads that no rule looks at any more. Whether the wall clock is trusted.
    pub(super) async fn begin_pass(&self, now: Timestamp) -> Result<bool, DatabaseError> {
        let mark = ClockMark { wall: now, tick: self.ticks.now() };
        let marks = match self.database.clock_marks().await? {
            Some(marks) => marks.after_look(mark),
            None => ClockMarks::trusting(mark),
        };
        self.database.set_clock_marks(marks).await?;
        if marks.is_trusted() {
            self.forget_old_reads(now).await?;
        }
        Ok(marks.is_trusted())
    }

    async fn forget_old_reads(&self, now: Timestamp) -> Result<(), DatabaseError> {
        let rules = self.database.lifecycle_rules().await?;
        let longest = rules.iter().filter_map(|(_, standing)| standing.rule.cold_after_days).max();
        let oldest = Day::oldest_of_interest(now, longest.unwrap_or(0));
        while self.database.forget_reads(oldest, READS_FORGOTTEN_AT_ONCE).await? > 0 {}
        Ok(())
    }

    pub(super) async fn due_page(
        &self,
        from: Option<DueCursor>,
        now: Timestamp,
    ) -> Result<DuePage, DatabaseError> {
        self.database.due_page(from, now, None).await
    }

    pub(super) async fn still_due(
        &self,
        candidate: DueCandidate,
        now: Timestamp,
    ) -> Result<Option<DueObject>, DatabaseError> {
        self.database.still_due(candidate, now).await
    }
}

/// Reads the columns of a rule, and since when reads are noted. A number that no rule may have is as good as none.
pub(super) fn standing_rule(numbers: [Option<i64>; 3], reads_noted_since: Option<i64>) -> StandingRule {
    let [cold_after_days, delete_after_days, keep_versions] = numbers
        .map(|number| number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0));
    StandingRule {
        rule: LifecycleRule { cold_after_days, delete_after_days, keep_versions },
        reads_noted_since: reads_noted_since.map(Timestamp::from_millis),
    }
}

/// Reads the columns of the clock's marks.
pub(super) fn clock_marks(trusted: [i64; 2], leapt: [Option<i64>; 2]) -> ClockMarks {
    let mark =
        |[wall, tick]: [i64; 2]| ClockMark { wall: Timestamp::from_millis(wall), tick: tick.cast_unsigned() };
    let leapt = leapt[0].zip(leapt[1]).map(|(wall, tick)| mark([wall, tick]));
    ClockMarks { trusted: mark(trusted), leapt }
}

/// A name that comes after every key: longer than one may be, of the last character that there is.
pub(super) fn behind_every_key() -> String {
    "\u{10ffff}".repeat(Key::BYTES_MAX / 4 + 1)
}

/// The first tenant is the one behind this.
pub(super) fn tenant_text(after: Option<&TenantId>) -> &str {
    after.map_or("", TenantId::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, sequence: u64) -> VersionRow {
        VersionRow { key: Key::parse(key).unwrap(), sequence, id: ObjectId::generate() }
    }

    #[test]
    fn versions_are_counted_across_steps() {
        let rows = vec![row("b", 9), row("b", 5), row("a", 8), row("a", 7), row("a", 6), row("a", 1)];
        let all = behind_the_kept(rows.clone(), None, 2);
        let ids: Vec<_> = all.0.iter().map(|candidate| candidate.id).collect();
        assert_eq!(ids, [rows[4].id, rows[5].id]);
        for cut in 0..rows.len() {
            let (before, behind) = rows.split_at(cut);
            let (mut candidates, last) = behind_the_kept(before.to_vec(), None, 2);
            let (more, end) = behind_the_kept(behind.to_vec(), last, 2);
            candidates.extend(more);
            assert_eq!((candidates, end), all, "cut before {cut}");
        }
    }

    #[test]
    fn a_number_that_no_rule_may_have_does_nothing() {
        for number in [0, -1, i64::MIN, i64::MAX] {
            assert!(standing_rule([Some(number); 3], None).rule.is_none(), "{number}");
        }
    }

    #[test]
    fn nothing_comes_behind_every_key() {
        assert!(behind_every_key().len() > Key::BYTES_MAX);
        let last = "\u{10ffff}".repeat(Key::BYTES_MAX / 4);
        assert!(last.len() <= Key::BYTES_MAX && last < behind_every_key());
    }
}
