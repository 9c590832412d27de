//! What tools tell the audit log: the same file that servers append to, and the same words.

use std::time::SystemTime;

use rustix::process::getuid;
use serde::Serialize;

use super::MaintenanceError;
use crate::config::AuditArguments;
use crate::domain::entities::{ApiKey, ApiKeyId, CredentialId, LifecycleRule, QuotaLimits};
use crate::domain::value_objects::{Namespace, TenantId, Timestamp};
use crate::infrastructure::audit_file::AuditFile;

/// Where a tool tells what it has changed, if anywhere.
#[derive(Debug)]
pub(super) struct AuditTrail(Option<AuditFile>);

/// What a tool has changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum ToolChange<'c> {
    KeyCreated(&'c ApiKey),
    KeyRevoked(ApiKeyId),
    LimitsSet(&'c TenantId, QuotaLimits),
    RuleSet(&'c Namespace, LifecycleRule),
    ClockTrusted,
    /// An empty store has what a backup had.
    Restored {
        /// When the backup was made, as it says itself.
        backup_created_at: &'c str,
        objects: u64,
    },
    /// A database was made anew.
    Rebuilt {
        /// How many changes came from the log, behind the copy.
        changes: u64,
        /// Whether there was a copy to begin with.
        from_copy: bool,
    },
}

/// A line. What is not of this event is left out.
#[derive(Debug, Default, Serialize)]
struct Line<'c> {
    timestamp: String,
    event: &'static str,
    /// Which was made or taken back: a tool is not asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_tenant: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'c str>,
    /// `null` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Option<Vec<&'c str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// `null` for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_max: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'c str>,
    /// `null` for no such rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    cold_after_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_after_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_versions: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_created_at: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_copy: Option<bool>,
    /// Whose process it was, in the words of the system.
    uid: u32,
}

impl AuditTrail {
    /// Opens the file, before anything is changed.
    pub(super) fn open(arguments: AuditArguments) -> Result<Self, MaintenanceError> {
        let file = arguments.into_path().map(|path| AuditFile::open(&path)).transpose();
        file.map(Self).map_err(MaintenanceError::Audit)
    }

    /// Tells of a change that was made.
    pub(super) fn tell(self, change: ToolChange<'_>) -> Result<(), MaintenanceError> {
        let Some(mut file) = self.0 else { return Ok(()) };
        // A struct of texts and numbers always has a JSON form.
        let mut line = serde_json::to_vec(&Line::of(change, SystemTime::now().into())).unwrap_or_default();
        line.push(b'\n');
        file.follow().and_then(|()| file.append(&line)).map_err(MaintenanceError::NotAudited)
    }
}

impl<'c> Line<'c> {
    fn of(change: ToolChange<'c>, now: Timestamp) -> Self {
        let plain = Self { timestamp: now.to_string(), uid: getuid().as_raw(), ..Self::default() };
        match change {
            ToolChange::KeyCreated(key) => Self {
                event: "key_created",
                credential: Some(name(key.id)),
                credential_tenant: Some(key.reach.tenant()),
                tenant_id: key.reach.tenant_id().map(TenantId::as_str),
                namespaces: Some(
                    key.reach.namespaces().map(|names| names.iter().map(Namespace::as_str).collect()),
                ),
                scope: Some(key.permissions.to_string()),
                expires_at: Some(key.expires_at.map(|moment| moment.to_string())),
                ..plain
            },
            ToolChange::KeyRevoked(id) => Self { event: "key_revoked", credential: Some(name(id)), ..plain },
            ToolChange::LimitsSet(tenant_id, limits) => Self {
                event: "limits_set",
                tenant_id: Some(tenant_id.as_str()),
                bytes_max: Some(limits.bytes_max),
                objects_max: Some(limits.objects_max),
                ..plain
            },
            ToolChange::RuleSet(namespace, rule) => Self {
                event: "lifecycle_set",
                namespace: Some(namespace.as_str()),
                cold_after_days: Some(rule.cold_after_days),
                delete_after_days: Some(rule.delete_after_days),
                keep_versions: Some(rule.keep_versions),
                ..plain
            },
            ToolChange::ClockTrusted => Self { event: "clock_trusted", ..plain },
            ToolChange::Restored { backup_created_at, objects } => Self {
                event: "store_restored",
                backup_created_at: Some(backup_created_at),
                objects: Some(objects),
                ..plain
            },
            ToolChange::Rebuilt { changes, from_copy } => Self {
                event: "database_rebuilt",
                changes: Some(changes),
                from_copy: Some(from_copy),
                ..plain
            },
        }
    }
}

/// The key as it is named wherever it is used.
fn name(id: ApiKeyId) -> String {
    CredentialId::of_api_key(id).as_str().to_owned()
}
