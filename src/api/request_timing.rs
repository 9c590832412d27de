//! What a request says of the trace that it belongs to, and what is told of its time: to the client in `Server-Timing`, to
//! the operator where it took long.

use std::time::Duration;

use super::http1::{Fields, RequestHead};
use super::signed_url::without_signature;
use crate::infrastructure::metrics::{Phase, Phases};

/// What is told of a request's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimingSettings {
    /// Whether answers say how long their phases took.
    pub server_timing: bool,
    /// A request whose work took so long is logged with its phases; `None` for none.
    pub slow_request: Option<Duration>,
}

/// The phases that are told, by the names that they have in `Server-Timing` and in the log.
const TOLD: [(&str, Phase); 5] = [
    ("queue", Phase::Queue),
    ("hash", Phase::Hash),
    ("write", Phase::Write),
    ("sync", Phase::Sync),
    ("db", Phase::Database),
];

/// Adds `Server-Timing` (W3C), in milliseconds. A phase that there was none of is left out.
pub(super) fn add_server_timing(fields: &mut Fields, phases: &Phases) {
    let told =
        TOLD.map(|(name, phase)| (name, phases.of(phase))).into_iter().filter(|(_, took)| !took.is_zero());
    let told: Vec<String> =
        told.map(|(name, took)| format!("{name};dur={:.3}", took.as_secs_f64() * 1000.0)).collect();
    if !told.is_empty() {
        fields.add("Server-Timing", told.join(", "));
    }
}

impl TimingSettings {
    /// Whether this server took long over a request. What its client took is not counted.
    pub(super) fn is_slow(&self, duration: Duration, phases: &Phases) -> bool {
        self.slow_request.is_some_and(|limit| duration.saturating_sub(phases.of(Phase::Client)) >= limit)
    }
}

/// Tells the operator of a request that took long.
pub(super) fn log_slow(head: &RequestHead, request_id: &str, duration: Duration, phases: &Phases) {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let us = |phase| micros(phases.of(phase));
    tracing::warn!(
        method = head.method().as_str(),
        path = &*without_signature(head.path()),
        request_id,
        trace_id = traceparent(head).map(trace_id),
        duration_us = micros(duration),
        queue_us = us(Phase::Queue),
        hash_us = us(Phase::Hash),
        write_us = us(Phase::Write),
        sync_us = us(Phase::Sync),
        db_us = us(Phase::Database),
        client_us = us(Phase::Client),
        "slow request"
    );
}

/// The `traceparent` of a request (W3C Trace Context §3.2), if it is one: version, trace, parent and flags. One of a later
/// version may have more behind them.
pub(super) fn traceparent(head: &RequestHead) -> Option<&str> {
    const BYTES: usize = 55;
    let text = head.single("traceparent")?;
    let (known, more) = text.split_at_checked(BYTES)?;
    let mut parts = known.split('-');
    let mut part = |length: usize| {
        let is_hexadecimal = |part: &&str| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        parts.next().filter(is_hexadecimal)
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let may_have_more = more.is_empty() || version != "00" && more.starts_with('-');
    (version != "ff" && may_have_more && !is_zero(trace) && !is_zero(parent)).then_some(known)
}

/// The trace of a `traceparent`.
pub(super) fn trace_id(traceparent: &str) -> &str {
    traceparent.get(3..35).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::super::http1::{HeadLimits, HeadParser};
    use super::*;

    fn head(field: &str) -> RequestHead {
        head_of("/", field)
    }

    fn head_of(target: &str, field: &str) -> RequestHead {
        let limits = HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 8192, fields_max: 10 };
        let mut head = RequestHead::default();
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{field}\r\n");
        HeadParser::default().parse(text.as_bytes(), &limits, &mut head).unwrap();
        head
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_taken_in_and_what_is_none_is_not() {
        let read = |value: &str| traceparent(&head(&format!("traceparent: {value}\r\n"))).map(str::to_owned);
        assert_eq!(read(PARENT).as_deref(), Some(PARENT));
        assert_eq!(trace_id(PARENT), "0af7651916cd43dd8448eb211c80319c");
        let later = PARENT.replacen("00", "01", 1);
        assert_eq!(read(&format!("{later}-more")), Some(later));
        for none in [
            "",
            "00",
            &PARENT[1..],
            &PARENT.to_uppercase(),
            &format!("{PARENT}-more"),
            &format!("{PARENT}0"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &PARENT.replace('-', "_"),
        ] {
            assert_eq!(read(none), None, "{none}");
        }
        assert_eq!(traceparent(&head("")), None);
        assert_eq!(traceparent(&head(&format!("traceparent: {PARENT}\r\n").repeat(2))), None);
    }

    /// What a slow request for `target` is told as.
    fn told(target: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            log_slow(&head_of(target, ""), "of-this-test", Duration::from_secs(2), &Phases::default());
        });
        let bytes = lines.0.lock().unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_request_is_told_without_its_signature() {
        for target in ["/v1/keys/n/t/k?signature=secret", "/v1/keys/n/t/k%3Fsignature=secret&x=secret"] {
            let told = told(target);
            assert!(told.contains("slow request") && told.contains("/v1/keys/n/t/k"), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn what_the_client_took_makes_no_request_slow() {
        let settings =
            TimingSettings { slow_request: Some(Duration::from_secs(1)), ..TimingSettings::default() };
        let phases = Phases::default();
        assert!(settings.is_slow(Duration::from_secs(1), &phases));
        assert!(!settings.is_slow(Duration::from_millis(999), &phases));
        assert!(!TimingSettings::default().is_slow(Duration::MAX, &phases));
    }
}
