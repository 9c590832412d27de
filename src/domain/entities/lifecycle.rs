//! What becomes of a namespace's objects with time, as its operator has set it, and whether the wall clock can be trusted
//! with that. Plain code: what a pass does, a dry run foretells by the same rules.

use std::fmt;

use crate::domain::value_objects::{StorageClass, Timestamp};

const DAY_MILLIS: i64 = 86_400_000;

/// What an operator has set for a namespace. `None` is no such rule; each rule stands for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LifecycleRule {
    /// After so many days without a read, a hot object becomes a cold one.
    pub cold_after_days: Option<u32>,
    /// After so many days an object is deleted, the newest version of a key too.
    pub delete_after_days: Option<u32>,
    /// So many versions of a key stay, the newest; those behind them are deleted.
    pub keep_versions: Option<u32>,
}

impl LifecycleRule {
    /// The longest time, in days.
    pub const DAYS_MAX: u32 = 36_500;
    /// The most versions.
    pub const VERSIONS_MAX: u32 = 10_000;

    /// Whether there are none.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether all numbers are within what a rule may say. Nothing is due at once, and a key keeps a version.
    pub fn is_within_limits(self) -> bool {
        let within = |number: Option<u32>, max: u32| number.is_none_or(|number| (1..=max).contains(&number));
        within(self.cold_after_days, Self::DAYS_MAX)
            && within(self.delete_after_days, Self::DAYS_MAX)
            && within(self.keep_versions, Self::VERSIONS_MAX)
    }

    /// Until when an object of a class was made, at the latest, that may be due at `now` for its age. `None` where none can.
    pub fn made_until(self, storage_class: StorageClass, now: Timestamp) -> Option<Timestamp> {
        let cold_after_days = self.cold_after_days.filter(|_| storage_class == StorageClass::Hot);
        let days = [self.delete_after_days, cold_after_days].into_iter().flatten().min()?;
        Some(Timestamp::from_millis(now.as_millis().saturating_sub(i64::from(days) * DAY_MILLIS)))
    }
}

/// A rule as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandingRule {
    /// The rule.
    pub rule: LifecycleRule,
    /// Since when reads are noted: an object that was read before looks as if it never had been. `None` where they are not.
    pub reads_noted_since: Option<Timestamp>,
}

impl StandingRule {
    /// What is to be done with an object at `now`. What makes an object go comes before what moves it.
    pub fn decide(&self, facts: &ObjectFacts, now: Timestamp) -> Option<DueAction> {
        let for_days = |since: Timestamp, days: u32| {
            now.as_millis().saturating_sub(since.as_millis()) >= i64::from(days) * DAY_MILLIS
        };
        let LifecycleRule { cold_after_days, delete_after_days, keep_versions } = self.rule;
        if delete_after_days.is_some_and(|days| for_days(facts.created_at, days)) {
            return Some(DueAction::DeleteForAge);
        }
        if keep_versions.is_some_and(|kept| facts.newer_versions >= u64::from(kept)) {
            return Some(DueAction::DeleteOldVersion);
        }
        let (days, noted_since) = cold_after_days.zip(self.reads_noted_since)?;
        let read = facts.last_read.map_or(facts.created_at, Day::end);
        let is_unread = for_days(read.max(facts.created_at).max(noted_since), days);
        (facts.storage_class == StorageClass::Hot && is_unread).then_some(DueAction::MoveToCold)
    }
}

/// What of a committed object the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Which root its bytes are in.
    pub storage_class: StorageClass,
    /// When its upload began.
    pub created_at: Timestamp,
    /// The last day on which a read of it was noted.
    pub last_read: Option<Day>,
    /// How many versions of its key are newer, counted up to what is kept. Without a key there are none.
    pub newer_versions: u64,
}

/// What is to be done with an object, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueAction {
    /// It is older than its namespace keeps anything.
    DeleteForAge,
    /// Enough versions of its key are newer.
    DeleteOldVersion,
    /// Nobody has read it for so long.
    MoveToCold,
}

impl DueAction {
    /// The rule that it comes from, by its name.
    pub fn rule_name(self) -> &'static str {
        match self {
            Self::DeleteForAge => "delete_after_days",
            Self::DeleteOldVersion => "keep_versions",
            Self::MoveToCold => "cold_after_days",
        }
    }

    /// The number that the rule has.
    pub fn number_in(self, rule: LifecycleRule) -> Option<u32> {
        match self {
            Self::DeleteForAge => rule.delete_after_days,
            Self::DeleteOldVersion => rule.keep_versions,
            Self::MoveToCold => rule.cold_after_days,
        }
    }
}

/// A day of the wall clock (UTC), as a number since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(i32);

impl Day {
    /// The day of a moment.
    pub fn of(moment: Timestamp) -> Self {
        let number = moment.as_millis().div_euclid(DAY_MILLIS);
        Self(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }))
    }

    /// A day from its number.
    pub const fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// When it is over: a read of that day was not later.
    pub fn end(self) -> Timestamp {
        Timestamp::from_millis((i64::from(self.0) + 1).saturating_mul(DAY_MILLIS))
    }

    /// The first day that counts at `now` for a rule of so many days: reads before it are as good as none.
    pub fn oldest_of_interest(now: Timestamp, cold_after_days: u32) -> Self {
        let Self(today) = Self::of(now);
        Self(today.saturating_sub_unsigned(cold_after_days).saturating_sub(1))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = Timestamp::from_millis(i64::from(self.0) * DAY_MILLIS).to_string();
        formatter.write_str(begin.split('T').next().unwrap_or_default())
    }
}

/// What the wall clock said when the database's own clock, which nobody can set, said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMark {
    /// By the wall clock.
    pub wall: Timestamp,
    /// By the database's clock, in milliseconds.
    pub tick: u64,
}

impl ClockMark {
    /// By how many milliseconds the wall clock has gone further than the database's since `earlier`.
    fn lead_since(self, earlier: Self) -> i64 {
        let wall = self.wall.as_millis().saturating_sub(earlier.wall.as_millis());
        wall.saturating_sub(self.tick.cast_signed().saturating_sub(earlier.tick.cast_signed()))
    }
}

/// Whether the wall clock can be trusted with the age of objects.
///
/// The database's clock stands still while no server runs, and the wall clock does not: a leap of it is either that, or
/// somebody has set it, or it was never right. Nobody can tell these apart. So a leap of more than a day counts only once
/// the clock has gone on steadily for a day of the database's, or an operator has said that it is right. A clock that is
/// behind makes nothing due that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMarks {
    /// The last one that was trusted.
    pub trusted: ClockMark,
    /// The first one behind a leap that has not been trusted yet.
    pub leapt: Option<ClockMark>,
}

impl ClockMarks {
    /// How far the wall clock may go ahead of the database's between two looks.
    pub const LEAP_MILLIS_MAX: i64 = DAY_MILLIS;
    /// For how long of the database's clock it must then have been steady.
    pub const STEADY_MILLIS: u64 = DAY_MILLIS.cast_unsigned();

    /// A clock that is trusted as it is.
    pub fn trusting(now: ClockMark) -> Self {
        Self { trusted: now, leapt: None }
    }

    /// A clock of which nothing is known, so that it is not trusted before it has been steady.
    pub fn resting(now: ClockMark) -> Self {
        Self { trusted: ClockMark { wall: Timestamp::from_millis(0), tick: now.tick }, leapt: Some(now) }
    }

    /// The marks as they are after a look.
    #[must_use]
    pub fn after_look(self, now: ClockMark) -> Self {
        if now.lead_since(self.trusted) <= Self::LEAP_MILLIS_MAX {
            return Self::trusting(now);
        }
        let is_steady = |since: &ClockMark| now.lead_since(*since).abs() <= Self::LEAP_MILLIS_MAX;
        match self.leapt.filter(is_steady) {
            Some(since) if now.tick.saturating_sub(since.tick) >= Self::STEADY_MILLIS => Self::trusting(now),
            Some(since) => Self { leapt: Some(since), ..self },
            None => Self { leapt: Some(now), ..self },
        }
    }

    /// Whether the clock is trusted.
    pub fn is_trusted(self) -> bool {
        self.leapt.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 20_000 * DAY_MILLIS;

    fn days_ago(days: i64) -> Timestamp {
        Timestamp::from_millis(NOW - days * DAY_MILLIS)
    }

    fn an_object(age_days: i64) -> ObjectFacts {
        ObjectFacts {
            storage_class: StorageClass::Hot,
            created_at: days_ago(age_days),
            last_read: None,
            newer_versions: 0,
        }
    }

    fn decided(rule: LifecycleRule, facts: ObjectFacts) -> Option<DueAction> {
        let noted = rule.cold_after_days.map(|_| days_ago(1000));
        StandingRule { rule, reads_noted_since: noted }.decide(&facts, days_ago(0))
    }

    fn delete_after(days: u32) -> LifecycleRule {
        LifecycleRule { delete_after_days: Some(days), ..LifecycleRule::default() }
    }

    fn keep(versions: u32) -> LifecycleRule {
        LifecycleRule { keep_versions: Some(versions), ..LifecycleRule::default() }
    }

    fn cold_after(days: u32) -> LifecycleRule {
        LifecycleRule { cold_after_days: Some(days), ..LifecycleRule::default() }
    }

    #[test]
    fn numbers_at_their_edges() {
        for (days, versions, within) in
            [(1, 1, true), (36_500, 10_000, true), (0, 1, false), (36_501, 1, false), (1, 0, false)]
        {
            let rule = LifecycleRule {
                cold_after_days: Some(days),
                delete_after_days: Some(days),
                keep_versions: Some(versions),
            };
            assert_eq!(rule.is_within_limits(), within, "{rule:?}");
        }
        assert!(!keep(10_001).is_within_limits());
        assert!(LifecycleRule::default().is_within_limits() && LifecycleRule::default().is_none());
    }

    #[test]
    fn an_object_goes_when_its_days_are_over_and_not_a_moment_before() {
        assert_eq!(decided(delete_after(30), an_object(30)), Some(DueAction::DeleteForAge));
        let mut younger = an_object(30);
        younger.created_at = Timestamp::from_millis(younger.created_at.as_millis() + 1);
        assert_eq!(decided(delete_after(30), younger), None);
        let cold = ObjectFacts { storage_class: StorageClass::Cold, ..an_object(30) };
        assert_eq!(decided(delete_after(30), cold), Some(DueAction::DeleteForAge));
        assert_eq!(decided(LifecycleRule::default(), an_object(40_000)), None);
        assert_eq!(decided(delete_after(30), an_object(-400)), None, "made by a clock that was ahead");
    }

    #[test]
    fn versions_behind_those_that_are_kept_go_however_young() {
        let with_newer = |newer_versions| ObjectFacts { newer_versions, ..an_object(0) };
        assert_eq!(decided(keep(3), with_newer(2)), None);
        assert_eq!(decided(keep(3), with_newer(3)), Some(DueAction::DeleteOldVersion));
        assert_eq!(decided(keep(1), with_newer(0)), None, "the newest stays");
        let both = LifecycleRule { delete_after_days: Some(1), ..keep(1) };
        assert_eq!(decided(both, an_object(1)), Some(DueAction::DeleteForAge), "the newest goes for its age");
    }

    #[test]
    fn an_object_is_moved_when_nobody_has_read_it_since_its_days_began() {
        let read = |days| ObjectFacts { last_read: Some(Day::of(days_ago(days))), ..an_object(400) };
        assert_eq!(decided(cold_after(30), an_object(400)), Some(DueAction::MoveToCold));
        assert_eq!(decided(cold_after(30), an_object(29)), None, "it is young");
        // The read may have been at the end of its day.
        assert_eq!(decided(cold_after(30), read(30)), None);
        assert_eq!(decided(cold_after(30), read(31)), Some(DueAction::MoveToCold));
        let cold = ObjectFacts { storage_class: StorageClass::Cold, ..an_object(400) };
        assert_eq!(decided(cold_after(30), cold), None);
        let both = LifecycleRule { delete_after_days: Some(400), ..cold_after(30) };
        assert_eq!(decided(both, read(0)), Some(DueAction::DeleteForAge), "reads keep nothing from going");
    }

    #[test]
    fn reads_that_were_not_noted_yet_keep_an_object_where_it_is() {
        let new = |noted| StandingRule { rule: cold_after(30), reads_noted_since: noted };
        assert_eq!(new(Some(days_ago(29))).decide(&an_object(400), days_ago(0)), None);
        let moved = Some(DueAction::MoveToCold);
        assert_eq!(new(Some(days_ago(30))).decide(&an_object(400), days_ago(0)), moved);
        assert_eq!(new(None).decide(&an_object(400), days_ago(0)), None);
    }

    #[test]
    fn what_can_be_due_is_found_by_when_it_was_made() {
        let rule = LifecycleRule { delete_after_days: Some(90), ..cold_after(30) };
        assert_eq!(rule.made_until(StorageClass::Hot, days_ago(0)), Some(days_ago(30)));
        assert_eq!(rule.made_until(StorageClass::Cold, days_ago(0)), Some(days_ago(90)));
        assert_eq!(cold_after(30).made_until(StorageClass::Cold, days_ago(0)), None);
        assert_eq!(keep(1).made_until(StorageClass::Hot, days_ago(0)), None);
    }

    #[test]
    fn reads_that_no_rule_looks_at_any_more_make_no_difference() {
        let oldest = Day::oldest_of_interest(days_ago(0), 30);
        let read = |day: Day| ObjectFacts { last_read: Some(day), ..an_object(400) };
        assert_eq!(
            decided(cold_after(30), read(Day::from_number(oldest.number() - 1))),
            Some(DueAction::MoveToCold)
        );
        assert_eq!(oldest, Day::of(days_ago(31)));
        assert_eq!(Day::of(Timestamp::from_millis(-1)).number(), -1);
        assert_eq!(Day::of(Timestamp::from_millis(0)).end(), Timestamp::from_millis(DAY_MILLIS));
        assert_eq!(Day::from_number(0).to_string(), "1970-01-01");
    }

    /// The wall clock at so many days, and the database's at so many.
    fn mark(wall_days: f64, tick_days: f64) -> ClockMark {
        let millis = |days: f64| (days * DAY_MILLIS as f64) as i64;
        ClockMark { wall: Timestamp::from_millis(NOW + millis(wall_days)), tick: millis(tick_days) as u64 }
    }

    #[test]
    fn a_clock_that_goes_as_the_database_s_is_trusted() {
        let mut marks = ClockMarks::trusting(mark(0.0, 0.0));
        for hour in 1..1000 {
            let days = f64::from(hour) / 24.0;
            marks = marks.after_look(mark(days, days));
            assert!(marks.is_trusted());
        }
        // Downtime of less than a day, and a clock that is set back.
        assert!(marks.after_look(mark(1000.0 / 24.0 + 0.9, 1000.0 / 24.0)).is_trusted());
        assert!(marks.after_look(mark(-4000.0, 1000.0 / 24.0)).is_trusted());
    }

    #[test]
    fn a_clock_of_which_nothing_is_known_is_trusted_once_it_has_been_steady_for_a_day() {
        let resting = ClockMarks::resting(mark(0.0, 5.0));
        assert!(!resting.is_trusted());
        let later = resting.after_look(mark(0.9, 5.9));
        assert!(!later.is_trusted() && later.leapt == resting.leapt);
        assert_eq!(later.after_look(mark(1.0, 6.0)), ClockMarks::trusting(mark(1.0, 6.0)));
        let leapt = later.after_look(mark(30.0, 6.0));
        assert!(!leapt.is_trusted() && leapt.leapt != resting.leapt, "it begins anew");
    }

    #[test]
    fn a_leap_counts_once_the_clock_has_been_steady_for_a_day() {
        let trusted = ClockMarks::trusting(mark(0.0, 0.0));
        let leapt = trusted.after_look(mark(3650.0, 0.1));
        assert!(!leapt.is_trusted());
        assert_eq!(leapt.trusted, trusted.trusted);
        let later = leapt.after_look(mark(3650.9, 1.0));
        assert_eq!(later.leapt, leapt.leapt, "it is the first mark that counts");
        assert!(!later.is_trusted());
        assert!(later.after_look(mark(3651.0, 1.1)).is_trusted());
        let again = later.after_look(mark(9000.0, 1.1));
        assert!(!again.is_trusted() && again.leapt != leapt.leapt, "another leap begins anew");
        assert_eq!(
            later.after_look(mark(1.2, 1.2)),
            ClockMarks::trusting(mark(1.2, 1.2)),
            "it was set right"
        );
        // A clock that is not steady is never trusted.
        let back = later.after_look(mark(3600.0, 1.1));
        assert_eq!(back.leapt, Some(mark(3600.0, 1.1)));
    }
}
