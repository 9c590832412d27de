//! One line a request, written off the cores: a core hands over a small record and goes on; the log thread words it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime};

use super::http1::append_decimal;
use super::inline_text::{PathText, RequestId};
use super::signed_url::without_signature;
use crate::domain::entities::{CredentialId, Reach};
use crate::domain::value_objects::{TenantId, Timestamp};

/// How many records wait for the log thread at most; more are dropped and counted.
pub(super) const RECORDS_QUEUED_MAX: usize = 16 * 1024;

/// What is told of a request.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// Its method.
    pub method: &'static str,
    /// The path of its target, without the query.
    pub path: PathText,
    /// The status of its answer.
    pub status: u16,
    /// Bytes of its body that were taken in.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// When its answer was done.
    pub ended: SystemTime,
    /// From the end of the head to the end of the answer.
    pub duration: Duration,
    /// Its id.
    pub request_id: RequestId,
    /// The trace that it belongs to and the span that it came from (W3C Trace Context), if it said so.
    pub traceparent: Option<String>,
    /// Who asked, where that is known: the name of the credential, never the credential, and its tenant.
    pub asker: Option<(CredentialId, Option<TenantId>)>,
}

/// A core's end.
#[derive(Debug, Clone)]
pub struct AccessLog {
    records: Option<SyncSender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

/// The log thread's end.
#[derive(Debug)]
pub struct AccessLogReader {
    records: Receiver<AccessRecord>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// A log and its reader.
    pub fn new() -> (Self, AccessLogReader) {
        let (records, queue) = sync_channel(RECORDS_QUEUED_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        (
            Self { records: Some(records), dropped: dropped.clone() },
            AccessLogReader { records: queue, dropped },
        )
    }

    /// A log that nobody reads.
    pub fn off() -> Self {
        Self { records: None, dropped: Arc::default() }
    }

    /// Whether a record would be read.
    pub fn is_on(&self) -> bool {
        self.records.is_some()
    }

    /// Hands a record over, or drops it where too many wait. Never waits.
    pub fn push(&self, record: AccessRecord) {
        if let Some(records) = &self.records
            && records.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AccessLogReader {
    /// Words everything that waits, as lines behind what `output` holds; `false` once the last core has gone.
    pub fn drain(&self, wording: &mut Wording, output: &mut Vec<u8>) -> bool {
        let alive = loop {
            match self.records.try_recv() {
                Ok(record) => wording.append(&record, output),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        match self.dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            dropped => tracing::warn!(dropped, "requests came faster than they could be logged"),
        }
        alive
    }
}

/// How requests are worded: in the shape of all other lines of the log, but by hand. At tens of thousands of
/// requests a second the general way took a fifth of a core.
#[derive(Debug)]
pub struct Wording {
    json: bool,
    /// The second of the last record and its text.
    second: (i64, String),
}

impl Wording {
    /// As JSON objects, or as text.
    pub fn new(json: bool) -> Self {
        Self { json, second: (i64::MIN, String::new()) }
    }

    fn append(&mut self, record: &AccessRecord, output: &mut Vec<u8>) {
        let ended = Timestamp::from(record.ended);
        if self.second.0 != ended.as_seconds() {
            let whole = Timestamp::from_millis(ended.as_seconds() * 1000).to_string();
            self.second = (ended.as_seconds(), whole.trim_end_matches(".000Z").to_owned());
        }
        let (second, millis) = (&self.second.1, ended.as_millis().rem_euclid(1000));
        let mut line = Line { output, json: self.json };
        line.begin(second, millis);
        // Method, path and id are visible ASCII; two of those need escaping.
        line.text("method", record.method);
        line.text("path", &escaped_if(self.json, &without_signature(&record.path)));
        line.number("status", record.status.into());
        line.number("bytes_in", record.bytes_in);
        line.number("bytes_out", record.bytes_out);
        line.number("duration_us", u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX));
        line.text("request_id", &escaped_if(self.json, &record.request_id));
        if let Some((credential_id, tenant_id)) = &record.asker {
            line.text("credential", credential_id.as_str());
            let tenant = tenant_id.as_ref().map_or(Reach::EVERY_TENANT, |tenant_id| tenant_id.as_str());
            line.text("tenant_id", tenant);
        }
        let trace = record.traceparent.as_deref().and_then(|text| text.get(3..35).zip(text.get(36..52)));
        if let Some((trace_id, parent_id)) = trace {
            line.text("trace_id", trace_id);
            line.text("parent_id", parent_id);
        }
        line.end();
    }
}

/// A line that is being written, field by field: every one has a name and a value, as JSON or as text.
struct Line<'o> {
    output: &'o mut Vec<u8>,
    json: bool,
}

impl Line<'_> {
    fn begin(&mut self, second: &str, millis: i64) {
        self.put(if self.json { "{\"timestamp\":\"" } else { "" });
        self.put(second);
        // Three digits, with the zeros before them.
        let start = self.output.len();
        append_decimal(self.output, 1000 + millis.unsigned_abs());
        self.output[start] = b'.';
        self.put(match self.json {
            true => "Z\",\"level\":\"INFO\",\"message\":\"request\",",
            false => "Z  INFO access: request",
        });
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        match self.json {
            true => ["\"", value, "\","].into_iter().for_each(|part| self.put(part)),
            false => self.put(value),
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        append_decimal(self.output, value);
        self.put(if self.json { "," } else { "" });
    }

    fn name(&mut self, name: &str) {
        let (before, behind) = if self.json { ("\"", "\":") } else { (" ", "=") };
        [before, name, behind].into_iter().for_each(|part| self.put(part));
    }

    fn end(&mut self) {
        self.put(if self.json { "\"target\":\"access\"}\n" } else { "\n" });
    }

    fn put(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
    }
}

fn escaped_if(json: bool, text: &str) -> Cow<'_, str> {
    if json { escaped(text) } else { Cow::Borrowed(text) }
}

fn escaped(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'"', b'\\', text.as_bytes()).is_some() {
        Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_record() -> AccessRecord {
        AccessRecord {
            method: "GET",
            path: "/".into(),
            status: 200,
            bytes_in: 0,
            bytes_out: 0,
            ended: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_468_200_120),
            duration: Duration::from_micros(7),
            request_id: "".into(),
            traceparent: None,
            asker: None,
        }
    }

    #[test]
    fn records_past_the_limit_are_dropped_and_counted() {
        let (log, reader) = AccessLog::new();
        (0..RECORDS_QUEUED_MAX).for_each(|_| log.push(a_record()));
        assert_eq!(log.dropped.load(Ordering::Relaxed), 0);
        log.push(a_record());
        assert_eq!(log.dropped.load(Ordering::Relaxed), 1);
        let (mut wording, mut lines) = (Wording::new(true), Vec::new());
        assert!(reader.drain(&mut wording, &mut lines));
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), RECORDS_QUEUED_MAX);
        drop(log);
        assert!(!reader.drain(&mut wording, &mut lines));
    }

    #[test]
    fn a_line_is_json_whatever_the_path() {
        let record = AccessRecord { path: r#"/a"b\c"#.into(), ..a_record() };
        let mut line = Vec::new();
        Wording::new(true).append(&record, &mut line);
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((json["path"].as_str(), json["duration_us"].as_u64()), (Some(r#"/a"b\c"#), Some(7)));
        assert_eq!(json["timestamp"], "2026-11-23T21:10:00.120Z");
        let mut line = Vec::new();
        Wording::new(false).append(&record, &mut line);
        assert!(
            String::from_utf8(line)
                .unwrap()
                .starts_with("2026-11-23T21:10:00.120Z  INFO access: request method=GET")
        );
        assert!(json.get("credential").is_none() && json.get("tenant_id").is_none());
    }

    #[test]
    fn a_line_names_the_trace() {
        let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        let record = AccessRecord { traceparent, ..a_record() };
        let mut line = Vec::new();
        Wording::new(true).append(&record, &mut line);
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(json["parent_id"], "b7ad6b7169203331");
        let mut line = Vec::new();
        Wording::new(false).append(&record, &mut line);
        let end = " trace_id=0af7651916cd43dd8448eb211c80319c parent_id=b7ad6b7169203331\n";
        assert!(String::from_utf8(line).unwrap().ends_with(end));
    }

    #[test]
    fn a_line_names_who_asked() {
        let credential_id = CredentialId::new("jsk", "00000000000000ab", String::new);
        let acme = TenantId::parse("acme").unwrap();
        for (tenant_id, told) in [(Some(acme), "acme"), (None, "*")] {
            let record = AccessRecord { asker: Some((credential_id.clone(), tenant_id)), ..a_record() };
            let mut line = Vec::new();
            Wording::new(true).append(&record, &mut line);
            let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(
                (&json["credential"], &json["tenant_id"]),
                (&"jsk:00000000000000ab".into(), &told.into())
            );
            let mut line = Vec::new();
            Wording::new(false).append(&record, &mut line);
            let end = format!(" credential=jsk:00000000000000ab tenant_id={told}\n");
            assert!(String::from_utf8(line).unwrap().ends_with(&end));
        }
    }
}
