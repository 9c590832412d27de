//! What the audit log is told of an object that a rule has deleted: nobody has asked for it, so the rule stands where a
//! credential would.

use std::mem::size_of;
use std::time::SystemTime;

use serde::Serialize;

use crate::application::lifecycle::DueObject;
use crate::domain::entities::DueAction;
use crate::domain::value_objects::{Key, Timestamp};

/// One object, and what came of it.
#[derive(Debug)]
pub struct RuleRecord {
    due: Box<DueObject>,
    /// `false` where it may or may not have happened.
    is_done: bool,
    moment: SystemTime,
}

/// Its line. What is not known is left out.
#[derive(Debug, Serialize)]
struct Line<'r> {
    timestamp: String,
    event: &'static str,
    /// The rule that asked for it, as `keep_versions=5`.
    rule: String,
    tenant_id: &'r str,
    namespace: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    object_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
}

impl RuleRecord {
    /// Of what a pass has just done, or tried to.
    pub fn new(due: DueObject, is_done: bool) -> Self {
        Self { due: Box::new(due), is_done, moment: SystemTime::now() }
    }

    /// About what it takes in memory. A key is counted as if it were the longest.
    pub(super) fn weight_bytes(&self) -> usize {
        size_of::<Self>() + size_of::<DueObject>() + Key::BYTES_MAX
    }

    /// Appends its line.
    pub(super) fn append_to(&self, lines: &mut Vec<u8>) {
        // A struct of texts and numbers always has a JSON form, in which a line break is none.
        let _ = serde_json::to_writer(&mut *lines, &self.line());
        lines.push(b'\n');
    }

    fn line(&self) -> Line<'_> {
        let DueObject { object, action, rule } = &*self.due;
        let number = action.number_in(*rule).unwrap_or(0);
        Line {
            timestamp: Timestamp::from(self.moment).to_string(),
            event: match (self.is_done, action) {
                (true, DueAction::DeleteForAge | DueAction::DeleteOldVersion) => "object_deleted",
                (true, DueAction::MoveToCold) => "object_moved",
                (false, _) => "failed",
            },
            rule: format!("{}={number}", action.rule_name()),
            tenant_id: object.scope.tenant_id.as_str(),
            namespace: object.scope.namespace.as_str(),
            key: object.key.as_ref().map(Key::as_str),
            object_id: object.id.to_string(),
            content_hash: object.content_hash.map(|hash| hash.to_string()),
            size_bytes: object.size_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::application::contract::a_commit;
    use crate::domain::entities::LifecycleRule;

    #[test]
    fn a_line_names_the_rule_and_the_object() {
        let rule =
            LifecycleRule { cold_after_days: Some(30), delete_after_days: Some(400), keep_versions: Some(5) };
        let object = a_commit(Some("a \"key\""), 7, 1).stored.object;
        for (action, is_done, event, by) in [
            (DueAction::DeleteForAge, true, "object_deleted", "delete_after_days=400"),
            (DueAction::DeleteOldVersion, true, "object_deleted", "keep_versions=5"),
            (DueAction::MoveToCold, true, "object_moved", "cold_after_days=30"),
            (DueAction::DeleteForAge, false, "failed", "delete_after_days=400"),
        ] {
            let mut lines = Vec::new();
            RuleRecord::new(DueObject { object: object.clone(), action, rule }, is_done)
                .append_to(&mut lines);
            let line: Value = serde_json::from_slice(lines.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!((&line["event"], &line["rule"]), (&event.into(), &by.into()));
            assert_eq!(line["object_id"], object.id.to_string());
            assert_eq!((&line["namespace"], &line["tenant_id"]), (&"models".into(), &"acme".into()));
            assert_eq!((&line["key"], &line["size_bytes"]), (&"a \"key\"".into(), &7.into()));
            assert_eq!(line["content_hash"], "07".repeat(32));
            assert!(line.get("credential").is_none());
        }
    }
}
