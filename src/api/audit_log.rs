//! The audit log: one line for each request that would change something, and for each that was refused. As with the access
//! log, a core hands a record over and goes on, and the audit thread words it. But here nothing is dropped: while lines
//! cannot be written, or too many wait, no change is begun.

use std::fmt::Display;
use std::mem::size_of;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::access_log::AccessRecord;
use super::errors::Problem;
use super::handlers::UPLOADS_PATH;
use super::http1::{Method, RequestHead};
use super::query::Parameters;
use super::router::{Route, find};
use super::rule_record::RuleRecord;
use super::signed_url::without_signature;
use crate::application::use_cases::Uploaded;
use crate::domain::entities::{KeyPath, LifecycleRule, Object, QuotaLimits, Reach, Scope};
use crate::domain::value_objects::{ContentHash, Key, Namespace, ObjectId, TenantId, Timestamp};

/// How many bytes of records wait for the audit thread at most. Past that no change is begun, and refusals are counted
/// instead of told; the changes that run already still have their lines.
const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What every path begins with where something can be changed.
const CHANGEABLE: &str = "/v1/";
/// And where nothing is, whatever the method.
const READING: &str = "/v1/batch/get";
const UNAVAILABLE: &str = "audit_unavailable";

/// A core's end.
#[derive(Debug, Clone)]
pub struct AuditLog {
    records: Option<Sender<Told>>,
    state: Arc<State>,
}

/// The audit thread's end.
#[derive(Debug)]
pub struct AuditReader {
    records: Receiver<Told>,
    state: Arc<State>,
}

/// What both ends know.
#[derive(Debug, Default)]
struct State {
    /// The weight of the records that wait, or have been taken and are not written yet.
    queued_bytes: AtomicUsize,
    /// Whether the last try to write has failed.
    unwritable: AtomicBool,
    /// The requests that changed nothing and will have no line.
    not_recorded: AtomicU64,
}

/// How a request stands before it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Only a refusal of it is told: it changes nothing, or nothing is told of anything.
    Reading,
    /// It would change something, and will have its line.
    Change,
    /// It would change something, and no line could tell of it.
    Barred,
}

/// What a request has changed.
#[derive(Debug)]
pub(super) enum Change {
    Stored(Uploaded),
    Updated(Object),
    Deleted {
        ids: Vec<ObjectId>,
        key_path: Option<KeyPath>,
    },
    Limits(QuotaLimits),
    Lifecycle(LifecycleRule),
    Signed(SignedUrl),
    /// So many contents are kept for a tenant.
    Leased(TenantId, usize),
}

/// What a URL was signed for.
#[derive(Debug)]
pub(super) struct SignedUrl {
    pub(super) method: &'static str,
    pub(super) scope: Scope,
    pub(super) key: Option<Key>,
    pub(super) object_id: Option<ObjectId>,
    pub(super) until: Timestamp,
}

/// What there is to tell of a request that stands in no access log.
#[derive(Debug)]
pub(super) struct Note {
    /// What it has changed, if that is known.
    change: Option<Box<Change>>,
    /// Why it came to nothing, if it did.
    code: Option<&'static str>,
    /// What its query names, where nothing else does.
    query_names: Names,
    /// Whether its line has to stand, whatever waits.
    is_kept: bool,
}

/// What a request is about.
#[derive(Debug, Default)]
struct Names {
    tenant_id: Option<TenantId>,
    namespace: Option<Namespace>,
    key: Option<Key>,
    object_id: Option<ObjectId>,
}

/// Everything that is told of a request.
#[derive(Debug)]
pub(super) struct AuditRecord {
    pub(super) request: AccessRecord,
    pub(super) peer: SocketAddr,
    pub(super) note: Note,
}

/// Everything that is told.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of requests, which are not to wait for memory")]
enum Told {
    /// Of a request.
    Request(AuditRecord),
    /// Of what a rule has done.
    Rule(RuleRecord),
}

/// What is answered where no line could tell of a change.
pub(super) fn audit_unavailable() -> Problem {
    Problem::new(503, UNAVAILABLE, "changes cannot be told to the audit log now, and are not made")
}

/// Whether a credential, or what it permits, was not enough.
pub(super) fn is_refusal(problem: &Problem) -> bool {
    matches!(problem.status, 401 | 403 | 429)
}

impl AuditLog {
    /// A log and its reader.
    pub fn new() -> (Self, AuditReader) {
        let (records, queue) = channel();
        let state = Arc::<State>::default();
        (Self { records: Some(records), state: state.clone() }, AuditReader { records: queue, state })
    }

    /// A log that nobody reads.
    pub fn off() -> Self {
        Self { records: None, state: Arc::default() }
    }

    /// Whether anything is told.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// Whether a change that is begun now will have its line. Where nothing is told, none needs one.
    pub fn takes_changes(&self) -> bool {
        !self.state.unwritable.load(Ordering::Relaxed) && self.has_room()
    }

    pub(super) fn standing(&self, head: &RequestHead) -> Standing {
        let path = head.path();
        let changes = matches!(head.method(), Method::Post | Method::Put | Method::Patch | Method::Delete)
            // Whoever looks at an upload whose last byte is there makes its object, if nobody has.
            || head.method() == Method::Head && path.starts_with(UPLOADS_PATH);
        match self.is_on() && changes && path.starts_with(CHANGEABLE) && path != READING {
            false => Standing::Reading,
            true if self.takes_changes() => Standing::Change,
            true => Standing::Barred,
        }
    }

    /// Hands a record over. Never waits. One of a request that has changed nothing is only counted where too much waits.
    pub(super) fn push(&self, record: AuditRecord) {
        if self.records.is_some() && !record.note.is_kept && !self.has_room() {
            self.state.not_recorded.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.send(Told::Request(record));
    }

    /// Hands over what a rule has done, which always has its line. Never waits.
    pub fn push_rule(&self, record: RuleRecord) {
        self.send(Told::Rule(record));
    }

    fn send(&self, told: Told) {
        let Some(records) = &self.records else { return };
        self.state.queued_bytes.fetch_add(told.weight_bytes(), Ordering::Relaxed);
        // The reader lives as long as the cores do.
        let _ = records.send(told);
    }

    fn has_room(&self) -> bool {
        self.state.queued_bytes.load(Ordering::Relaxed) < QUEUED_BYTES_MAX
    }
}

impl AuditReader {
    /// Words what waits, as lines behind what `lines` holds, until it has `bytes_max`, and says how much of the queue
    /// that was. It counts as waiting until it is [`written`](Self::written).
    pub fn take(&self, bytes_max: usize, lines: &mut Vec<u8>) -> usize {
        let mut weight_bytes = 0;
        while lines.len() < bytes_max {
            let Ok(record) = self.records.try_recv() else { break };
            weight_bytes += record.weight_bytes();
            record.append_to(lines);
        }
        match self.state.not_recorded.swap(0, Ordering::Relaxed) {
            0 => {}
            count => {
                let timestamp = SystemTime::now().into();
                append_line(&NotRecorded { timestamp, event: "not_recorded", count }, lines);
            }
        }
        weight_bytes
    }

    /// So much of the queue stands in the file.
    pub fn written(&self, weight_bytes: usize) {
        self.state.queued_bytes.fetch_sub(weight_bytes, Ordering::Relaxed);
    }

    /// Says whether the file can be written.
    pub fn set_writable(&self, writable: bool) {
        self.state.unwritable.store(!writable, Ordering::Relaxed);
    }
}

impl Note {
    /// Of a request that was done.
    pub(super) fn of_change(change: Option<Box<Change>>) -> Self {
        Self { change, code: None, query_names: Names::default(), is_kept: true }
    }

    /// Of one of many that a request was about, and that may or may not have been done.
    pub(super) fn of_failed_item(
        code: &'static str,
        scope: Option<&Scope>,
        key: Option<&Key>,
        object_id: Option<ObjectId>,
    ) -> Self {
        let query_names = Names {
            tenant_id: scope.map(|scope| scope.tenant_id.clone()),
            namespace: scope.map(|scope| scope.namespace.clone()),
            key: key.cloned(),
            object_id,
        };
        Self { change: None, code: Some(code), query_names, is_kept: true }
    }

    /// Of one that was not. What a change that was let in came to is always told: with some problems, it may have been
    /// made.
    pub(super) fn of_problem(standing: Standing, problem: &Problem, head: &RequestHead) -> Self {
        let query_names = Names::of_query(head).unwrap_or_default();
        Self { change: None, code: Some(problem.code), query_names, is_kept: standing == Standing::Change }
    }
}

impl Names {
    /// What a query names that a path does not. Nothing where it is not one.
    fn of_query(head: &RequestHead) -> Option<Self> {
        const KNOWN: [&str; 9] = [
            "namespace",
            "tenant_id",
            "key",
            "storage_class",
            "status",
            "prefix",
            "delimiter",
            "limit",
            "cursor",
        ];
        let has_scope = |prefix| head.path().starts_with(prefix);
        let is_named = matches!(head.path(), "/v1/objects" | UPLOADS_PATH);
        if !is_named && !has_scope("/v1/blobs/") && !has_scope("/v1/batch/") {
            return None;
        }
        let parameters = Parameters::parse(head.query(), &KNOWN).ok()?;
        Some(Self {
            tenant_id: parameters.get("tenant_id").and_then(|text| TenantId::parse(text).ok()),
            namespace: parameters.get("namespace").and_then(|text| Namespace::parse(text).ok()),
            key: parameters.get("key").and_then(|text| Key::parse(text).ok()),
            object_id: None,
        })
    }
}

/// A line, in the order in which it is read. What is not known is left out.
#[derive(Debug, Serialize)]
struct Line<'r> {
    #[serde(serialize_with = "as_text")]
    timestamp: Timestamp,
    event: &'static str,
    method: &'static str,
    path: &'r str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_tenant: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text_if_any")]
    object_id: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text_if_any")]
    content_hash: Option<ContentHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    /// Set to nothing is `null`; not set is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_max: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cold_after_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_after_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_versions: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text_if_any")]
    expires_at: Option<Timestamp>,
    bytes_in: u64,
    request_id: &'r str,
    #[serde(serialize_with = "as_text")]
    peer: SocketAddr,
}

/// Stands where lines could not be written, for requests that changed nothing and have none.
#[derive(Debug, Serialize)]
struct NotRecorded {
    #[serde(serialize_with = "as_text")]
    timestamp: Timestamp,
    event: &'static str,
    count: u64,
}

impl Told {
    fn weight_bytes(&self) -> usize {
        match self {
            Self::Request(record) => record.weight_bytes(),
            Self::Rule(record) => record.weight_bytes(),
        }
    }

    fn append_to(&self, lines: &mut Vec<u8>) {
        match self {
            Self::Request(record) => record.append_to(lines),
            Self::Rule(record) => record.append_to(lines),
        }
    }
}

impl AuditRecord {
    /// About what it takes in memory.
    fn weight_bytes(&self) -> usize {
        let texts = self.request.path.len() + self.request.request_id.len();
        let change = self.note.change.as_ref().map_or(0, |change| match change.as_ref() {
            Change::Stored(_)
            | Change::Updated(_)
            | Change::Limits(_)
            | Change::Lifecycle(_)
            | Change::Signed(_)
            | Change::Leased(..) => size_of::<Change>(),
            Change::Deleted { ids, .. } => size_of::<Change>() + size_of_val(ids.as_slice()),
        });
        size_of::<Self>() + texts + change
    }

    /// Appends its line. A signature that a client has made a part of the path is no name of anything, and told to nobody.
    fn append_to(&self, lines: &mut Vec<u8>) {
        let path = without_signature(&self.request.path);
        append_line(&self.line(&path, find(&path).ok().as_ref()), lines);
    }

    /// As a line. `route` is what its path leads to, if it leads anywhere.
    fn line<'r>(&'r self, path: &'r str, route: Option<&'r Route>) -> Line<'r> {
        let Self { request, peer, note } = self;
        let AccessRecord { method, status, bytes_in, ended, request_id, asker, .. } = request;
        let own_tenant = asker.as_ref().and_then(|(_, tenant_id)| tenant_id.as_ref());
        let mut line = Line {
            timestamp: Timestamp::from(*ended),
            event: event(*status, note),
            method,
            path,
            status: *status,
            code: note.code,
            credential: asker.as_ref().map(|(credential_id, _)| credential_id.as_str()),
            credential_tenant: asker
                .as_ref()
                .map(|(_, tenant_id)| tenant_id.as_ref().map_or(Reach::EVERY_TENANT, TenantId::as_str)),
            tenant_id: note.query_names.tenant_id.as_ref().or(own_tenant).map(TenantId::as_str),
            namespace: note.query_names.namespace.as_ref().map(Namespace::as_str),
            key: note.query_names.key.as_ref().map(Key::as_str),
            object_id: note.query_names.object_id,
            versions: None,
            contents: None,
            content_hash: None,
            size_bytes: None,
            bytes_max: None,
            objects_max: None,
            cold_after_days: None,
            delete_after_days: None,
            keep_versions: None,
            signed_method: None,
            expires_at: None,
            bytes_in: *bytes_in,
            request_id,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        };
        match route {
            Some(Route::Key(key_path)) => line.name(key_path),
            Some(Route::Object(id) | Route::ObjectInfo(id)) => line.object_id = Some(*id),
            Some(Route::Lifecycle(namespace)) => line.namespace = Some(namespace.as_str()),
            Some(Route::Tenant(tenant_id)) => line.tenant_id = Some(tenant_id.as_str()),
            Some(Route::Blob(hash)) => line.content_hash = Some(*hash),
            Some(
                Route::Root
                | Route::Health
                | Route::Ready
                | Route::OpenApi
                | Route::Metrics
                | Route::Objects
                | Route::MissingBlobs
                | Route::Uploads
                | Route::Upload(_)
                | Route::Sign
                | Route::BatchGet
                | Route::BatchPut
                | Route::BatchDelete,
            )
            | None => {}
        }
        match note.change.as_deref() {
            Some(Change::Stored(Uploaded { object, content_hash, .. })) => {
                line.tenant_id = Some(object.scope.tenant_id.as_str());
                line.namespace = Some(object.scope.namespace.as_str());
                line.key = object.key.as_ref().map(Key::as_str);
                line.object_id = Some(object.id);
                line.content_hash = Some(*content_hash);
                line.size_bytes = object.size_bytes;
            }
            Some(Change::Updated(object)) => {
                line.tenant_id = Some(object.scope.tenant_id.as_str());
                line.namespace = Some(object.scope.namespace.as_str());
                line.key = object.key.as_ref().map(Key::as_str);
                line.object_id = Some(object.id);
            }
            Some(Change::Deleted { ids, key_path }) => {
                if let Some(key_path) = key_path {
                    line.name(key_path);
                }
                match ids.as_slice() {
                    [id] => line.object_id = Some(*id),
                    several => line.versions = Some(several.len()),
                }
            }
            Some(Change::Limits(limits)) => {
                line.bytes_max = Some(limits.bytes_max);
                line.objects_max = Some(limits.objects_max);
            }
            Some(Change::Leased(tenant_id, contents)) => {
                line.tenant_id = Some(tenant_id.as_str());
                line.contents = Some(*contents);
            }
            Some(Change::Lifecycle(rule)) => {
                line.cold_after_days = Some(rule.cold_after_days);
                line.delete_after_days = Some(rule.delete_after_days);
                line.keep_versions = Some(rule.keep_versions);
            }
            Some(Change::Signed(SignedUrl { method, scope, key, object_id, until })) => {
                line.tenant_id = Some(scope.tenant_id.as_str());
                line.namespace = Some(scope.namespace.as_str());
                line.key = key.as_ref().map(Key::as_str);
                line.object_id = *object_id;
                line.signed_method = Some(method);
                line.expires_at = Some(*until);
            }
            None => {}
        }
        line
    }
}

impl<'r> Line<'r> {
    fn name(&mut self, key_path: &'r KeyPath) {
        self.tenant_id = Some(key_path.scope.tenant_id.as_str());
        self.namespace = Some(key_path.scope.namespace.as_str());
        self.key = Some(key_path.key.as_str());
    }
}

/// What happened, in one word that stays.
fn event(status: u16, note: &Note) -> &'static str {
    match (status, note.change.as_deref()) {
        (401 | 403 | 429, _) => "refused",
        (_, Some(Change::Stored(_))) if status == 200 => "object_replaced",
        (_, Some(Change::Stored(_))) => "object_created",
        (_, Some(Change::Updated(_))) => "object_updated",
        (_, Some(Change::Deleted { .. })) => "object_deleted",
        (_, Some(Change::Limits(_))) => "limits_set",
        (_, Some(Change::Lifecycle(_))) => "lifecycle_set",
        (_, Some(Change::Signed(_))) => "url_signed",
        (_, Some(Change::Leased(..))) => "contents_leased",
        (..=399, None) => "changed",
        _ if note.code == Some(UNAVAILABLE) => "refused",
        _ => "failed",
    }
}

fn append_line(line: &impl Serialize, lines: &mut Vec<u8>) {
    // A struct of texts and numbers always has a JSON form, in which a line break is none.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_text_if_any<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::domain::entities::{CredentialId, Scope};

    fn a_record(method: &'static str, path: &str, status: u16, note: Note) -> AuditRecord {
        let request = AccessRecord {
            method,
            path: path.into(),
            status,
            bytes_in: 0,
            bytes_out: 0,
            ended: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_468_200_120),
            duration: Duration::ZERO,
            request_id: "\"r\\".into(),
            traceparent: None,
            asker: None,
        };
        AuditRecord { request, peer: "[::ffff:127.0.0.1]:9".parse().unwrap(), note }
    }

    fn refused(is_kept: bool) -> AuditRecord {
        let note = Note { change: None, code: Some("unauthorized"), query_names: Names::default(), is_kept };
        a_record("GET", &"/".repeat(100_000), 401, note)
    }

    fn lines(reader: &AuditReader) -> Vec<Value> {
        let mut lines = Vec::new();
        let weight_bytes = reader.take(usize::MAX, &mut lines);
        reader.written(weight_bytes);
        let lines = String::from_utf8(lines).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
    }

    #[test]
    fn a_line_says_what_was_deleted_and_by_whom() {
        let scope = Scope {
            namespace: Namespace::parse("models").unwrap(),
            tenant_id: TenantId::parse("a").unwrap(),
        };
        let key_path = KeyPath { scope, key: Key::parse("k\"\u{2028}ä").unwrap() };
        let id = ObjectId::generate();
        let change = Change::Deleted { ids: vec![id], key_path: Some(key_path) };
        let note = Note::of_change(Some(Box::new(change)));
        let mut record = a_record("DELETE", &format!("/v1/objects/{id}"), 204, note);
        record.request.asker = Some((CredentialId::new("jsk", "0b", String::new), None));
        let (log, reader) = AuditLog::new();
        log.push(record);
        let line = lines(&reader).remove(0);
        let expected = serde_json::json!({
            "timestamp": "2026-11-23T21:10:00.120Z",
            "event": "object_deleted",
            "method": "DELETE",
            "path": format!("/v1/objects/{id}"),
            "status": 204,
            "credential": "jsk:0b",
            "credential_tenant": "*",
            "tenant_id": "a",
            "namespace": "models",
            "key": "k\"\u{2028}ä",
            "object_id": id.to_string(),
            "bytes_in": 0,
            "request_id": "\"r\\",
            "peer": "127.0.0.1:9",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_says_what_was_changed_of_an_object() {
        let object = crate::application::fakes::an_object("models", "acme", Some("k"));
        let id = object.id.to_string();
        let note = Note::of_change(Some(Box::new(Change::Updated(object))));
        let (log, reader) = AuditLog::new();
        log.push(a_record("PATCH", &format!("/v1/objects/{id}"), 200, note));
        let line = lines(&reader).remove(0);
        for (name, value) in [
            ("event", "object_updated"),
            ("tenant_id", "acme"),
            ("namespace", "models"),
            ("key", "k"),
            ("object_id", &id),
        ] {
            assert_eq!(line[name], value, "{line}");
        }
    }

    #[test]
    fn past_the_limit_no_change_is_begun_refusals_are_counted_and_what_was_begun_is_told() {
        let (log, reader) = AuditLog::new();
        let weight = refused(false).weight_bytes();
        let most = QUEUED_BYTES_MAX.div_ceil(weight);
        (1..most).for_each(|_| log.push(refused(false)));
        assert!(log.takes_changes());
        log.push(refused(false));
        assert!(!log.takes_changes());
        log.push(refused(false));
        log.push(refused(false));
        log.push(refused(true));
        let told = lines(&reader);
        assert_eq!(told.len(), most + 2);
        assert_eq!((&told[most + 1]["event"], &told[most + 1]["count"]), (&"not_recorded".into(), &2.into()));
        assert!(log.takes_changes());
        assert!(lines(&reader).is_empty(), "it is told once");
    }

    #[test]
    fn no_change_is_begun_while_lines_cannot_be_written() {
        let (log, reader) = AuditLog::new();
        reader.set_writable(false);
        assert!(!log.takes_changes());
        log.push(refused(false));
        assert_eq!(lines(&reader).len(), 1, "there is room for refusals");
        reader.set_writable(true);
        assert!(log.takes_changes());
        assert!(AuditLog::off().takes_changes() && !AuditLog::off().is_on());
    }

    #[test]
    fn lines_are_taken_in_pieces_and_wait_until_they_are_written() {
        let (log, reader) = AuditLog::new();
        (0..3).for_each(|_| log.push(refused(false)));
        let mut first = Vec::new();
        let weight_bytes = reader.take(1, &mut first);
        assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 1);
        let queued = || log.state.queued_bytes.load(Ordering::Relaxed);
        assert_eq!(queued(), 3 * weight_bytes);
        reader.written(weight_bytes);
        assert_eq!(queued(), 2 * weight_bytes);
        assert_eq!(lines(&reader).len(), 2);
        assert_eq!(queued(), 0);
    }

    #[test]
    fn what_came_to_nothing_says_what_it_was_about() {
        let note = |code| Note { code: Some(code), ..Note::of_change(None) };
        let (log, reader) = AuditLog::new();
        let rows = [
            ("PUT", "/v1/keys/models/acme/a%0a%22b", 400, "invalid_parameter", "failed"),
            ("PUT", "/v1/keys/models/acme/a%22b", 412, "precondition_failed", "failed"),
            ("PUT", "/v1/tenants/acme", 403, "forbidden", "refused"),
            ("GET", "/v1/keys/models/acme/a%22b", 429, "too_many_requests", "refused"),
            ("DELETE", "/v1/nothing", 503, UNAVAILABLE, "refused"),
        ];
        for (method, path, status, code, _) in rows {
            log.push(a_record(method, path, status, note(code)));
        }
        for (line, (method, path, status, code, event)) in lines(&reader).iter().zip(rows) {
            assert_eq!((&line["method"], &line["path"]), (&method.into(), &path.into()));
            assert_eq!(
                (&line["status"], &line["code"], &line["event"]),
                (&status.into(), &code.into(), &event.into())
            );
            let tenant = if path.contains("acme") && status != 400 { "acme".into() } else { Value::Null };
            assert_eq!(line["tenant_id"], tenant, "{line}");
            let key = if path.ends_with("/a%22b") { "a\"b".into() } else { Value::Null };
            assert_eq!(line["key"], key, "{line}");
        }
    }
}
