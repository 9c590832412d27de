//! `just_storage key`: gives API keys out, lists them, and takes them back. A key is told once, when it is made; what is
//! kept of it is not enough to make it again.
//!
//! Servers look a key up when it is shown to them, and remember for some seconds what they have found: so a new one works
//! at once, and one that was taken back no longer than that.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;

use super::audit::{AuditTrail, ToolChange};
use super::store::keep_what_is_set;
use super::{MaintenanceError, Verdict};
use crate::application::credentials::NewApiKey;
use crate::config::{AuditArguments, StoreArguments, StorePaths};
use crate::domain::entities::{ApiKey, ApiKeyId, Permission, Reach};
use crate::domain::value_objects::{Namespace, TenantId, Timestamp};
use crate::infrastructure::persistence::Database;

/// The longest life that a key can be given; without one, it has no end.
const LIFE_DAYS_MAX: u64 = 36_500;

/// What `key` is told.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key, and tell it once
    Create(Box<CreateKeyArguments>),
    /// Show all keys that were ever made, without their secrets
    List(ListKeysArguments),
    /// Take a key back: it stops working within seconds, on every server
    Revoke(RevokeKeyArguments),
}

/// What `key create` is told.
#[derive(Debug, Args)]
pub struct CreateKeyArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Whose objects it reaches; * for everybody's
    #[arg(long, value_name = "TENANT", value_parser = parse_tenant)]
    tenant: TenantChoice,
    /// A namespace that it reaches; may stand several times [default: all]
    #[arg(long, value_name = "NAMESPACE", value_parser = Namespace::parse)]
    namespace: Vec<Namespace>,
    /// What it may do: read, write, delete, admin; may stand several times
    #[arg(long, value_name = "SCOPE", value_parser = Permission::parse, value_delimiter = ',', required = true)]
    scope: Vec<Permission>,
    /// How long it is good: a number with s, m, h or d behind it [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_life, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// Until when it is good, as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    expires_at: Option<Timestamp>,
    /// What it is for, in your own words
    #[arg(long, value_name = "TEXT", value_parser = ApiKey::parse_label)]
    label: Option<String>,
    /// One JSON object instead of the key alone
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

/// What `key list` is told.
#[derive(Debug, Args)]
pub struct ListKeysArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// One JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// What `key revoke` is told.
#[derive(Debug, Args)]
pub struct RevokeKeyArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Its id: the 16 digits behind jsk_
    #[arg(value_parser = ApiKeyId::parse)]
    id: ApiKeyId,
    #[command(flatten)]
    audit: AuditArguments,
}

/// One tenant, or `*`.
#[derive(Debug, Clone)]
struct TenantChoice(Option<TenantId>);

fn parse_tenant(text: &str) -> Result<TenantChoice, String> {
    match text {
        Reach::EVERY_TENANT => Ok(TenantChoice(None)),
        named => {
            TenantId::parse(named).map(|tenant_id| TenantChoice(Some(tenant_id))).map_err(|e| e.to_string())
        }
    }
}

fn parse_life(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 86_400;
    let rule = || format!("a time is a number with s, m, h or d behind it, {LIFE_DAYS_MAX} days at most");
    let unit = text.chars().next_back().filter(char::is_ascii);
    let seconds = match unit {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => DAY,
        _ => return Err(rule()),
    };
    let number = &text[..text.len() - 1];
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|number| digits && *number > 0);
    let whole = number.and_then(|number| number.checked_mul(seconds));
    whole.filter(|whole| *whole <= LIFE_DAYS_MAX * DAY).map(Duration::from_secs).ok_or_else(rule)
}

fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let moment = text.parse::<jiff::Timestamp>();
    let moment = moment.map_err(|_| "a moment is written as 2027-01-31T12:00:00Z".to_owned())?;
    Ok(Timestamp::from_millis(moment.as_millisecond()))
}

/// A key as it is shown. The secret is there at its making alone.
#[derive(Debug, Serialize)]
struct KeyDto<'k> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    tenant_id: &'k str,
    /// `null` for all.
    namespaces: Option<Vec<&'k str>>,
    scope: String,
    label: Option<&'k str>,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl<'k> KeyDto<'k> {
    fn of(kept: &'k ApiKey, key: Option<String>) -> Self {
        let moment = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
        let names = |names: &'k [Namespace]| names.iter().map(Namespace::as_str).collect();
        Self {
            id: kept.id.to_string(),
            key,
            tenant_id: kept.reach.tenant(),
            namespaces: kept.reach.namespaces().map(names),
            scope: kept.permissions.to_string(),
            label: kept.label.as_deref(),
            created_at: kept.created_at.to_string(),
            expires_at: moment(kept.expires_at),
            revoked_at: moment(kept.revoked_at),
        }
    }
}

pub(super) async fn run(command: KeyCommand) -> Result<Verdict, MaintenanceError> {
    match command {
        KeyCommand::Create(arguments) => create(*arguments).await,
        KeyCommand::List(arguments) => list(arguments).await,
        KeyCommand::Revoke(arguments) => revoke(arguments).await,
    }
}

/// A key is no object: the log does not matter for it, only the database does.
async fn with_database<T>(
    paths: &StorePaths,
    work: impl AsyncFnOnce(&Database) -> Result<T, MaintenanceError>,
) -> Result<T, MaintenanceError> {
    let database = Database::open_existing(&paths.database_url).await?;
    let done = work(&database).await;
    database.close().await;
    done
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

async fn create(arguments: CreateKeyArguments) -> Result<Verdict, MaintenanceError> {
    let CreateKeyArguments { store, tenant, namespace, scope, expires_in, expires_at, label, json, audit } =
        arguments;
    let paths = store.into_paths()?;
    let created_at = now();
    let life = expires_in.map(|life| i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
    let ends = life.map(|millis| Timestamp::from_millis(created_at.as_millis().saturating_add(millis)));
    let expires_at = ends.or(expires_at);
    if expires_at.is_some_and(|expires_at| expires_at <= created_at) {
        return Err(MaintenanceError::ExpiredKey);
    }
    let new = NewApiKey::of_random(&random()?);
    let kept = ApiKey {
        id: new.id(),
        secret_hash: new.secret_hash(),
        reach: Reach::new(tenant.0, (!namespace.is_empty()).then_some(namespace)),
        permissions: scope.into_iter().collect(),
        label,
        created_at,
        expires_at,
        revoked_at: None,
    };
    let audit = AuditTrail::open(audit)?;
    let put = async |database: &Database| {
        database.put_api_key(&kept).await?;
        keep_what_is_set(database, &paths).await;
        Ok(())
    };
    with_database(&paths, put).await?;
    match json {
        true => print_json(&KeyDto::of(&kept, Some(new.to_string()))),
        false => {
            println!("{new}");
            eprintln!("this is the only time that the key is shown; its id is {}", kept.id);
        }
    }
    audit.tell(ToolChange::KeyCreated(&kept))?;
    Ok(Verdict::Clean)
}

async fn list(arguments: ListKeysArguments) -> Result<Verdict, MaintenanceError> {
    let paths = arguments.store.into_paths()?;
    let keys = with_database(&paths, async |database| Ok(database.api_keys().await?)).await?;
    if arguments.json {
        print_json(&keys.iter().map(|kept| KeyDto::of(kept, None)).collect::<Vec<_>>());
        return Ok(Verdict::Clean);
    }
    let now = now();
    for kept in &keys {
        println!("{}", line(kept, now));
    }
    Ok(Verdict::Clean)
}

/// A key in one line: id, state, and what it is good for.
fn line(kept: &ApiKey, now: Timestamp) -> String {
    let state = match (kept.revoked_at, kept.expires_at) {
        (Some(revoked_at), _) => format!("revoked {revoked_at}"),
        (None, Some(expires_at)) if expires_at <= now => format!("expired {expires_at}"),
        (None, Some(expires_at)) => format!("until {expires_at}"),
        (None, None) => "for ever".to_owned(),
    };
    let namespaces = match kept.reach.namespaces() {
        Some(names) => names.iter().map(Namespace::as_str).collect::<Vec<_>>().join(","),
        None => "*".to_owned(),
    };
    let (tenant, permissions) = (kept.reach.tenant(), kept.permissions);
    let label = kept.label.as_deref().map(|label| format!("  {label}")).unwrap_or_default();
    format!("{}  tenant={tenant}  namespaces={namespaces}  scope={permissions}  {state}{label}", kept.id)
}

async fn revoke(arguments: RevokeKeyArguments) -> Result<Verdict, MaintenanceError> {
    let RevokeKeyArguments { store, id, audit } = arguments;
    let paths = store.into_paths()?;
    let audit = AuditTrail::open(audit)?;
    let revoke = async |database: &Database| {
        let known = database.revoke_api_key(id, now()).await?;
        keep_what_is_set(database, &paths).await;
        Ok(known)
    };
    let known = with_database(&paths, revoke).await?;
    match known {
        true => println!("revoked {id}; servers forget it within seconds"),
        false => return Err(MaintenanceError::NoSuchKey(id)),
    }
    audit.tell(ToolChange::KeyRevoked(id))?;
    Ok(Verdict::Clean)
}

fn print_json(value: &impl Serialize) {
    // A struct of texts always has a JSON form.
    println!("{}", serde_json::to_string(value).unwrap_or_default());
}

/// Random bytes of the kernel's. A read of so few is never a short one (getrandom(2)).
fn random() -> Result<[u8; NewApiKey::RANDOM_BYTES], MaintenanceError> {
    let mut bytes = [0; NewApiKey::RANDOM_BYTES];
    let failed = |error: rustix::io::Errno| MaintenanceError::Random(error.into());
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty()).map_err(failed)?;
    match filled == bytes.len() {
        true => Ok(bytes),
        false => Err(MaintenanceError::Random(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_with_a_unit() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("12h", 43_200), ("90d", 7_776_000)] {
            assert_eq!(parse_life(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert!(parse_life("36500d").is_ok());
        for text in
            ["", "d", "1", "0d", "-1d", "+1d", "1.5d", "36501d", "99999999999999999999s", "1ä", "1w", "1 d"]
        {
            assert!(parse_life(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_says_its_zone() {
        assert_eq!(parse_moment("1970-01-01T00:00:01Z"), Ok(Timestamp::from_millis(1000)));
        assert_eq!(parse_moment("1970-01-01T01:00:01+01:00"), Ok(Timestamp::from_millis(1000)));
        for text in ["", "tomorrow", "2027-01-31", "2027-01-31T12:00:00"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
    }
}
