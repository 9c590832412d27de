//! The shapes in which objects leave the store.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::domain::entities::{LifecycleRule, Object, Quota};
use crate::domain::value_objects::{Metadata, Namespace, TenantId};

/// An object as callers see it. A field that is not known yet is `null`, never left out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Object)]
pub struct ObjectDto<'a> {
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, format = "uuid")]
    id: &'a crate::domain::value_objects::ObjectId,
    namespace: &'a str,
    tenant_id: &'a str,
    #[schema(required)]
    key: Option<&'a str>,
    #[schema(pattern = "^(WRITING|COMMITTED|DELETING|DELETED)$")]
    status: &'static str,
    #[schema(pattern = "^(hot|cold)$")]
    storage_class: &'static str,
    /// SHA-256, as 64 hexadecimal digits.
    #[schema(required, pattern = "^[0-9a-f]{64}$")]
    content_hash: Option<String>,
    #[schema(required)]
    size_bytes: Option<u64>,
    content_type: &'a str,
    #[serde(serialize_with = "as_map")]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    metadata: &'a Metadata,
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, format = DateTime)]
    created_at: crate::domain::value_objects::Timestamp,
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, format = DateTime)]
    updated_at: crate::domain::value_objects::Timestamp,
}

impl<'a> From<&'a Object> for ObjectDto<'a> {
    fn from(object: &'a Object) -> Self {
        Self {
            id: &object.id,
            namespace: object.scope.namespace.as_str(),
            tenant_id: object.scope.tenant_id.as_str(),
            key: object.key.as_ref().map(|key| key.as_str()),
            status: object.status.as_str(),
            storage_class: object.storage_class.as_str(),
            content_hash: object.content_hash.map(|hash| hash.to_string()),
            size_bytes: object.size_bytes,
            content_type: object.content_type.as_str(),
            metadata: &object.metadata,
            created_at: object.created_at,
            updated_at: object.updated_at,
        }
    }
}

/// A page of a listing as callers see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = List)]
pub struct ListDto<'a> {
    /// The objects: newest first, or by key where a prefix or a delimiter was given.
    pub objects: Vec<ObjectDto<'a>>,
    /// What other keys have in common up to a delimiter, each once and in order; empty where none was asked for.
    pub common_prefixes: &'a [String],
    /// How to ask for the next page, or `null` after the last.
    #[schema(required)]
    pub next_cursor: Option<&'a str>,
}

/// What a tenant has and may have, as the operator sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantDto<'a> {
    tenant_id: &'a str,
    bytes: u64,
    objects: u64,
    #[schema(required)]
    bytes_max: Option<u64>,
    #[schema(required)]
    objects_max: Option<u64>,
}

impl<'a> TenantDto<'a> {
    /// Of this tenant.
    pub fn new(tenant_id: &'a TenantId, Quota { usage, limits }: Quota) -> Self {
        Self {
            tenant_id: tenant_id.as_str(),
            bytes: usage.bytes,
            objects: usage.objects,
            bytes_max: limits.bytes_max,
            objects_max: limits.objects_max,
        }
    }
}

/// The rule of a namespace, as the operator sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lifecycle)]
pub struct LifecycleDto<'a> {
    namespace: &'a str,
    #[schema(required)]
    cold_after_days: Option<u32>,
    #[schema(required)]
    delete_after_days: Option<u32>,
    #[schema(required)]
    keep_versions: Option<u32>,
}

impl<'a> LifecycleDto<'a> {
    /// Of this namespace.
    pub fn new(namespace: &'a Namespace, rule: LifecycleRule) -> Self {
        let LifecycleRule { cold_after_days, delete_after_days, keep_versions } = rule;
        Self { namespace: namespace.as_str(), cold_after_days, delete_after_days, keep_versions }
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_map<S: Serializer>(metadata: &Metadata, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in metadata.iter() {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::an_object;
    use crate::domain::value_objects::ObjectStatus;

    #[test]
    fn what_is_not_known_is_null_and_never_left_out() {
        let mut object = an_object("models", "acme", None);
        object.status = ObjectStatus::Writing;
        let json: serde_json::Value = serde_json::to_value(ObjectDto::from(&object)).unwrap();
        for field in ["key", "content_hash", "size_bytes"] {
            assert!(json.get(field).is_some_and(serde_json::Value::is_null), "{field}");
        }
        assert_eq!(json["status"], "WRITING");
        assert_eq!(json["metadata"], serde_json::json!({}));
        assert_eq!(json.as_object().unwrap().len(), 12);
    }
}
