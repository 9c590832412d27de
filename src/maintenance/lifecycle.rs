//! `just_storage lifecycle`: what becomes of a namespace's objects with time, and what that would be now.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::audit::{AuditTrail, ToolChange};
use super::store::{Store, keep_what_is_set};
use super::{MaintenanceError, Verdict};
use crate::application::lifecycle::DueObject;
use crate::config::{AuditArguments, StoreArguments};
use crate::domain::entities::{ClockMark, ClockMarks, DueAction, LifecycleRule, Usage};
use crate::domain::value_objects::{Key, Namespace, Timestamp};

/// What `lifecycle` is told.
#[derive(Debug, Args)]
pub struct LifecycleArguments {
    #[command(subcommand)]
    action: LifecycleAction,
}

#[derive(Debug, Subcommand)]
enum LifecycleAction {
    /// Show the rules of all namespaces that have one
    List(ListArguments),
    /// Show the rule of one namespace
    Show(ShowArguments),
    /// Set the rule of a namespace; what is not named stays as it is
    Set(SetArguments),
    /// Take the rule of a namespace back
    Clear(ClearArguments),
    /// Say what the next pass would do and why, and change nothing
    Plan(PlanArguments),
    /// Say that the wall clock is right, after it has leapt or no server has run for long
    TrustClock(TrustClockArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The namespace
    #[arg(value_parser = Namespace::parse)]
    namespace: Namespace,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SetArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The namespace
    #[arg(value_parser = Namespace::parse)]
    namespace: Namespace,
    /// Move hot objects to the cold class after so many days without a read; none for never
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    cold_after_days: Option<Number>,
    /// Delete objects after so many days, the newest version of a key too; none for never
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    delete_after_days: Option<Number>,
    /// Delete versions of a key behind the newest so many; none to keep all
    #[arg(long, value_name = "COUNT", value_parser = parse_versions)]
    keep_versions: Option<Number>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

#[derive(Debug, Args)]
struct ClearArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The namespace
    #[arg(value_parser = Namespace::parse)]
    namespace: Namespace,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

#[derive(Debug, Args)]
struct PlanArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The namespace; all without one
    #[arg(value_parser = Namespace::parse)]
    namespace: Option<Namespace>,
    /// Name each object too
    #[arg(long)]
    objects: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TrustClockArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    audit: AuditArguments,
}

/// A number of a rule as it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Of(u32),
    None,
}

impl Number {
    fn of_rule(self) -> Option<u32> {
        match self {
            Self::Of(number) => Some(number),
            Self::None => None,
        }
    }
}

pub(super) async fn run(arguments: LifecycleArguments) -> Result<Verdict, MaintenanceError> {
    match arguments.action {
        LifecycleAction::List(ListArguments { store, json }) => {
            let paths = store.into_paths()?;
            let rules =
                Store::with(&paths, async |store| Ok(store.database.lifecycle_rules().await?)).await?;
            rules.iter().for_each(|(namespace, standing)| print_rule(namespace, standing.rule, json));
        }
        LifecycleAction::Show(ShowArguments { store, namespace, json }) => {
            let paths = store.into_paths()?;
            let rule = Store::with(&paths, async |store| rule_of(store, &namespace).await).await?;
            print_rule(&namespace, rule, json);
        }
        LifecycleAction::Set(arguments) => set(arguments).await?,
        LifecycleAction::Clear(ClearArguments { store, namespace, json, audit }) => {
            let change = Change { store, namespace, json, audit };
            change.make(|_| LifecycleRule::default()).await?;
        }
        LifecycleAction::Plan(arguments) => plan(arguments).await?,
        LifecycleAction::TrustClock(arguments) => trust_clock(arguments).await?,
    }
    Ok(Verdict::Clean)
}

async fn rule_of(store: &Store, namespace: &Namespace) -> Result<LifecycleRule, MaintenanceError> {
    let standing = store.database.lifecycle_rule(namespace).await?;
    Ok(standing.map(|standing| standing.rule).unwrap_or_default())
}

async fn set(arguments: SetArguments) -> Result<(), MaintenanceError> {
    let SetArguments { store, namespace, cold_after_days, delete_after_days, keep_versions, json, audit } =
        arguments;
    let changed = |number: Option<Number>, before| number.map_or(before, Number::of_rule);
    let change = Change { store, namespace, json, audit };
    change
        .make(|before| LifecycleRule {
            cold_after_days: changed(cold_after_days, before.cold_after_days),
            delete_after_days: changed(delete_after_days, before.delete_after_days),
            keep_versions: changed(keep_versions, before.keep_versions),
        })
        .await
}

/// A change of a namespace's rule.
struct Change {
    store: StoreArguments,
    namespace: Namespace,
    json: bool,
    audit: AuditArguments,
}

impl Change {
    async fn make(self, to: impl FnOnce(LifecycleRule) -> LifecycleRule) -> Result<(), MaintenanceError> {
        let Self { store, namespace, json, audit } = self;
        let paths = store.into_paths()?;
        let audit = AuditTrail::open(audit)?;
        let rule = Store::with(&paths, async |store| {
            let rule = to(rule_of(store, &namespace).await?);
            store.database.set_lifecycle_rule(&namespace, rule, now()).await?;
            keep_what_is_set(&store.database, &paths).await;
            Ok(rule)
        })
        .await?;
        print_rule(&namespace, rule, json);
        audit.tell(ToolChange::RuleSet(&namespace, rule))
    }
}

/// Goes through all that a pass goes through, and adds up what it would do.
async fn plan(arguments: PlanArguments) -> Result<(), MaintenanceError> {
    let PlanArguments { store, namespace, objects, json } = arguments;
    let paths = store.into_paths()?;
    Store::with(&paths, async |store| {
        let (database, now) = (&store.database, now());
        let mark = ClockMark { wall: now, tick: database.ticks().await? };
        let is_trusted = database.would_trust_clock(mark).await?;
        let (mut totals, mut from) = (BTreeMap::<_, (LifecycleRule, Usage)>::new(), None);
        loop {
            let page = database.due_page(from, now, namespace.as_ref()).await?;
            for candidate in page.candidates {
                let Some(due) = database.still_due(candidate, now).await? else { continue };
                if objects {
                    print_object(&due, json);
                }
                let of_rule = (due.object.scope.namespace.clone(), due.action);
                let (_, usage) = totals.entry(of_rule).or_insert((due.rule, Usage::default()));
                *usage = usage.plus(Usage::of_object(due.object.size_bytes.unwrap_or(0)));
            }
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        for ((namespace, action), (rule, usage)) in &totals {
            print_total(namespace, (*action, *rule), *usage, json);
        }
        if totals.is_empty() && !json {
            println!("nothing is due");
        }
        if !is_trusted {
            eprintln!(
                "the wall clock has leapt by more than a day, or the store was restored or rebuilt: nothing is done until the \
                 clock has been steady for a day, or `just_storage lifecycle trust-clock` says that it is right"
            );
        }
        Ok(())
    })
    .await
}

async fn trust_clock(arguments: TrustClockArguments) -> Result<(), MaintenanceError> {
    let paths = arguments.store.into_paths()?;
    let audit = AuditTrail::open(arguments.audit)?;
    let now = now();
    Store::with(&paths, async |store| {
        let mark = ClockMark { wall: now, tick: store.database.ticks().await? };
        Ok(store.database.set_clock_marks(ClockMarks::trusting(mark)).await?)
    })
    .await?;
    println!("the wall clock says {now}, and is trusted");
    audit.tell(ToolChange::ClockTrusted)
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// As the interface shows a rule.
#[derive(Serialize)]
struct RuleLine<'a> {
    namespace: &'a str,
    cold_after_days: Option<u32>,
    delete_after_days: Option<u32>,
    keep_versions: Option<u32>,
}

fn print_rule(namespace: &Namespace, rule: LifecycleRule, json: bool) {
    let LifecycleRule { cold_after_days, delete_after_days, keep_versions } = rule;
    if json {
        let namespace = namespace.as_str();
        return print_json(&RuleLine { namespace, cold_after_days, delete_after_days, keep_versions });
    }
    let parts = [
        cold_after_days.map(|days| format!("cold after {days} days without a read")),
        delete_after_days.map(|days| format!("deleted after {days} days")),
        keep_versions.map(|versions| format!("the newest {versions} versions kept")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => println!("{namespace}: no rule"),
        false => println!("{namespace}: {}", parts.join("; ")),
    }
}

/// One object that is due.
#[derive(Serialize)]
struct ObjectLine<'a> {
    namespace: &'a str,
    tenant_id: &'a str,
    key: Option<&'a str>,
    object_id: String,
    size_bytes: u64,
    action: &'static str,
    rule: &'static str,
}

fn print_object(due: &DueObject, json: bool) {
    let DueObject { object, action, rule } = due;
    let (namespace, tenant_id) = (object.scope.namespace.as_str(), object.scope.tenant_id.as_str());
    let (key, size_bytes) = (object.key.as_ref().map(Key::as_str), object.size_bytes.unwrap_or(0));
    if json {
        return print_json(&ObjectLine {
            namespace,
            tenant_id,
            key,
            object_id: object.id.to_string(),
            size_bytes,
            action: verb(*action),
            rule: action.rule_name(),
        });
    }
    let key = key.map(|key| format!(" {key}")).unwrap_or_default();
    println!(
        "would {} {namespace}/{tenant_id}{key} {}, {}: {}",
        verb(*action),
        object.id,
        HumanBytes(size_bytes),
        reason(*action, *rule)
    );
}

/// What a rule would do in a namespace.
#[derive(Serialize)]
struct TotalLine<'a> {
    namespace: &'a str,
    action: &'static str,
    rule: &'static str,
    objects: u64,
    bytes: u64,
}

fn print_total(namespace: &Namespace, (action, rule): (DueAction, LifecycleRule), usage: Usage, json: bool) {
    let Usage { objects, bytes } = usage;
    if json {
        let (namespace, rule) = (namespace.as_str(), action.rule_name());
        return print_json(&TotalLine { namespace, action: verb(action), rule, objects, bytes });
    }
    println!(
        "{namespace}: would {} {} objects, {}: {}",
        verb(action),
        HumanCount(objects),
        HumanBytes(bytes),
        reason(action, rule)
    );
}

fn verb(action: DueAction) -> &'static str {
    match action {
        DueAction::DeleteForAge | DueAction::DeleteOldVersion => "delete",
        DueAction::MoveToCold => "move",
    }
}

fn reason(action: DueAction, rule: LifecycleRule) -> String {
    let number = action.number_in(rule).unwrap_or(0);
    match action {
        DueAction::DeleteForAge => format!("made {number} days ago or earlier"),
        DueAction::DeleteOldVersion => format!("behind the newest {number} versions of a key"),
        DueAction::MoveToCold => format!("not read for {number} days"),
    }
}

fn print_json(line: &impl Serialize) {
    // A struct of texts and numbers always has a JSON form.
    println!("{}", serde_json::to_string(line).unwrap_or_default());
}

fn parse_days(text: &str) -> Result<Number, String> {
    parse_number(text, LifecycleRule::DAYS_MAX)
}

fn parse_versions(text: &str) -> Result<Number, String> {
    parse_number(text, LifecycleRule::VERSIONS_MAX)
}

fn parse_number(text: &str, max: u32) -> Result<Number, String> {
    if text == "none" {
        return Ok(Number::None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|number| digits && (1..=max).contains(number));
    number.map(Number::Of).ok_or_else(|| format!("it is none or a number from 1 to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_within_their_limits_or_none() {
        for (text, number) in [
            ("1", Number::Of(1)),
            ("36500", Number::Of(36_500)),
            ("007", Number::Of(7)),
            ("none", Number::None),
        ] {
            assert_eq!(parse_days(text), Ok(number), "{text}");
        }
        for text in ["", "0", "-1", "+1", "1.5", "36501", "1d", "all", "99999999999"] {
            assert!(parse_days(text).is_err(), "{text}");
        }
        assert_eq!(parse_versions("10000"), Ok(Number::Of(10_000)));
        assert!(parse_versions("10001").is_err());
    }
}
