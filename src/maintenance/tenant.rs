//! `just_storage tenant`: what tenants have, and what the operator lets them have at most.

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::audit::{AuditTrail, ToolChange};
use super::store::{Store, keep_what_is_set};
use super::{MaintenanceError, Verdict};
use crate::config::{AuditArguments, StoreArguments};
use crate::domain::entities::{Quota, QuotaLimits};
use crate::domain::value_objects::TenantId;

/// What `tenant` is told.
#[derive(Debug, Args)]
pub struct TenantArguments {
    #[command(subcommand)]
    action: TenantAction,
}

#[derive(Debug, Subcommand)]
enum TenantAction {
    /// Show all tenants that have objects or limits
    List(ListArguments),
    /// Show one tenant
    Show(ShowArguments),
    /// Set what a tenant may have at most; a limit that is not named stays as it is
    Set(SetArguments),
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
    /// The tenant
    #[arg(value_parser = TenantId::parse)]
    tenant: TenantId,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SetArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The tenant
    #[arg(value_parser = TenantId::parse)]
    tenant: TenantId,
    /// The most bytes, such as 5000000 or 10GiB; none for no limit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    bytes_max: Option<Limit>,
    /// The most objects; none for no limit
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    objects_max: Option<Limit>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    audit: AuditArguments,
}

/// A limit as it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    AtMost(u64),
    None,
}

impl Limit {
    fn number(self) -> Option<u64> {
        match self {
            Self::AtMost(number) => Some(number),
            Self::None => None,
        }
    }
}

pub(super) async fn run(arguments: TenantArguments) -> Result<Verdict, MaintenanceError> {
    match arguments.action {
        TenantAction::List(ListArguments { store, json }) => {
            let paths = store.into_paths()?;
            let tenants = Store::with(&paths, async |store| Ok(store.database.tenants().await?)).await?;
            tenants.iter().for_each(|(tenant_id, quota)| print(tenant_id, *quota, json));
        }
        TenantAction::Show(ShowArguments { store, tenant, json }) => {
            let paths = store.into_paths()?;
            let quota = Store::with(&paths, async |store| Ok(store.database.quota(&tenant).await?)).await?;
            print(&tenant, quota, json);
        }
        TenantAction::Set(arguments) => set(arguments).await?,
    }
    Ok(Verdict::Clean)
}

async fn set(arguments: SetArguments) -> Result<(), MaintenanceError> {
    let SetArguments { store, tenant, bytes_max, objects_max, json, audit } = arguments;
    let paths = store.into_paths()?;
    let audit = AuditTrail::open(audit)?;
    let quota = Store::with(&paths, async |store| {
        let before = store.database.quota(&tenant).await?.limits;
        let limits = QuotaLimits {
            bytes_max: bytes_max.map_or(before.bytes_max, Limit::number),
            objects_max: objects_max.map_or(before.objects_max, Limit::number),
        };
        store.database.set_limits(&tenant, limits).await?;
        keep_what_is_set(&store.database, &paths).await;
        Ok(store.database.quota(&tenant).await?)
    })
    .await?;
    print(&tenant, quota, json);
    audit.tell(ToolChange::LimitsSet(&tenant, quota.limits))
}

/// As the interface shows a tenant.
#[derive(Serialize)]
struct Line<'a> {
    tenant_id: &'a str,
    bytes: u64,
    objects: u64,
    bytes_max: Option<u64>,
    objects_max: Option<u64>,
}

fn print(tenant_id: &TenantId, Quota { usage, limits }: Quota, json: bool) {
    if json {
        let line = Line {
            tenant_id: tenant_id.as_str(),
            bytes: usage.bytes,
            objects: usage.objects,
            bytes_max: limits.bytes_max,
            objects_max: limits.objects_max,
        };
        return println!("{}", serde_json::to_string(&line).unwrap_or_default());
    }
    let at_most =
        |limit: Option<String>| limit.map_or("no limit".to_owned(), |limit| format!("at most {limit}"));
    println!(
        "{tenant_id}: {} ({}) in {} objects ({})",
        HumanBytes(usage.bytes),
        at_most(limits.bytes_max.map(|bytes| HumanBytes(bytes).to_string())),
        HumanCount(usage.objects),
        at_most(limits.objects_max.map(|objects| HumanCount(objects).to_string())),
    );
}

fn parse_count(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit::None);
    }
    parse_number(text, 1)
}

/// A number, or one with a unit of 1024 bytes, their square and so on.
fn parse_bytes(text: &str) -> Result<Limit, String> {
    const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    if text == "none" {
        return Ok(Limit::None);
    }
    match UNITS.into_iter().find_map(|(unit, bytes)| text.strip_suffix(unit).map(|rest| (rest, bytes))) {
        Some((number, bytes)) => parse_number(number.trim_end(), bytes),
        None => parse_number(text, 1),
    }
}

fn parse_number(text: &str, unit: u64) -> Result<Limit, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|_| digits).and_then(|number| number.checked_mul(unit));
    let number = number.filter(|number| *number <= QuotaLimits::LIMIT_MAX);
    number.map(Limit::AtMost).ok_or_else(|| "a limit is none or a number up to 2^63 - 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_with_a_unit_or_none() {
        for (text, limit) in [
            ("0", Limit::AtMost(0)),
            ("5000000", Limit::AtMost(5_000_000)),
            ("1KiB", Limit::AtMost(1024)),
            ("10 GiB", Limit::AtMost(10 << 30)),
            ("9223372036854775807", Limit::AtMost(QuotaLimits::LIMIT_MAX)),
            ("none", Limit::None),
        ] {
            assert_eq!(parse_bytes(text), Ok(limit), "{text}");
        }
        for text in ["", "-1", "+1", "1.5GiB", "GiB", "10GB", "all", "9223372036854775808", "8388608TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_count("7"), Ok(Limit::AtMost(7)));
        assert_eq!(parse_count("none"), Ok(Limit::None));
        assert!(parse_count("1KiB").is_err());
    }
}
