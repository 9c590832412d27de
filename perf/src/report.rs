//! The results of a run, as aligned lines for people and as JSON for scripts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::FailureKind;
use crate::load_loop::RunResult;
use crate::monitor::{ResourceUse, ServerUse};
use crate::tally::FailureCount;

/// Above this share of its core the generator may be what is measured.
const GENERATOR_CPU_PERCENT_MAX: f64 = 85.0;
const BYTES_PER_MEGABYTE: f64 = 1_000_000.0;

/// All that a run has to say.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    command: &'static str,
    #[serde(flatten)]
    pub(crate) measurement: Measurement,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_uploads: Option<SlowUploads>,
}

/// The figures of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    errors_by_kind: BTreeMap<String, ErrorCount>,
    reconnects: u64,
    pub(crate) elapsed_seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) megabytes_per_second: f64,
    pub(crate) latency_us: Latency,
    /// How long after they were due the operations of an open loop were issued: what the generator was late with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lag_us: Option<Latency>,
    #[serde(flatten)]
    pub(crate) resources: ResourceUse,
    pub(crate) generator_is_too_busy: bool,
}

/// How many bodies were compared with their digests.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verification {
    /// Those that had the digest that was promised.
    pub(crate) verified: u64,
    /// Those that came without one.
    pub(crate) without_digest: u64,
}

/// What became of slow uploads.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SlowUploads {
    /// All of them.
    pub(crate) connections: u64,
    /// Those that were whole and answered with success in the slow time.
    pub(crate) succeeded_while_slow: u64,
    /// Those that were refused or lost in the slow time, by status or kind.
    pub(crate) refused_while_slow: BTreeMap<String, u64>,
    /// Those that were still sending at the end of it.
    pub(crate) still_sending: u64,
    /// Those of the still sending that were answered with success, after the rest of their body.
    pub(crate) succeeded_after: u64,
    /// Those of the still sending that were refused or lost after all, by status or kind.
    pub(crate) refused_after: BTreeMap<String, u64>,
}

impl SlowUploads {
    /// Counts an upload that was answered with success.
    pub(crate) fn count_success(&mut self, was_still_sending: bool) {
        *if was_still_sending { &mut self.succeeded_after } else { &mut self.succeeded_while_slow } += 1;
    }

    /// Counts one that was not.
    pub(crate) fn count_refusal(&mut self, kind: FailureKind, was_still_sending: bool) {
        let refused = if was_still_sending { &mut self.refused_after } else { &mut self.refused_while_slow };
        *refused.entry(kind.to_string()).or_default() += 1;
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ErrorCount {
    count: u64,
    first_detail: String,
}

/// Latencies in microseconds at some shares of the operations.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

impl Latency {
    fn of(counted_us: &Histogram<u64>) -> Self {
        let at = |quantile| counted_us.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: counted_us.max() }
    }
}

impl Measurement {
    /// Sums up a run.
    pub(crate) fn of(result: RunResult) -> Self {
        let RunResult { tally, elapsed, lags_us, resources, .. } = result;
        // A run has a length, but a division by zero must not reach the JSON.
        let elapsed_seconds = elapsed.as_secs_f64().max(1e-6);
        Self {
            operations: tally.operations,
            errors: tally.failures_total(),
            latency_us: Latency::of(&tally.latencies_us),
            lag_us: lags_us.as_ref().map(Latency::of),
            errors_by_kind: tally.failures.into_iter().map(error_entry).collect(),
            reconnects: tally.reconnects,
            elapsed_seconds,
            operations_per_second: tally.operations as f64 / elapsed_seconds,
            megabytes_per_second: tally.body_bytes as f64 / BYTES_PER_MEGABYTE / elapsed_seconds,
            generator_is_too_busy: resources.generator_cpu_percent > GENERATOR_CPU_PERCENT_MAX,
            resources,
        }
    }

    /// What was moved for each second of the server's CPU time, if the server was watched and worked.
    pub(crate) fn megabytes_per_server_cpu_second(&self) -> Option<f64> {
        let server = self.resources.server.as_ref().filter(|server| server.cpu_us > 0)?;
        Some(self.megabytes_per_second * self.elapsed_seconds / (server.cpu_us as f64 / 1e6))
    }

    /// Device flushes for each operation, if the device was watched.
    pub(crate) fn flushes_per_operation(&self) -> Option<f64> {
        let flushes = self.resources.machine.device_flushes?;
        (self.operations > 0).then(|| flushes as f64 / self.operations as f64)
    }

    /// What went wrong, in one line.
    pub(crate) fn errors_in_words(&self) -> String {
        let words = self.errors_by_kind.iter();
        let words = words.map(|(kind, error)| format!("{kind} × {} ({})", error.count, error.first_detail));
        words.collect::<Vec<_>>().join(", ")
    }
}

impl Report {
    /// Sums up a run of a command.
    pub(crate) fn new(command: &'static str, result: RunResult) -> Self {
        Self { command, measurement: Measurement::of(result), verification: None, slow_uploads: None }
    }

    /// Adds what `get --verify` found.
    pub(crate) fn with_verification(self, verification: Option<Verification>) -> Self {
        Self { verification, ..self }
    }

    /// Adds what became of slow uploads.
    pub(crate) fn with_slow_uploads(self, slow_uploads: SlowUploads) -> Self {
        Self { slow_uploads: Some(slow_uploads), ..self }
    }

    /// Whether anything failed.
    pub(crate) fn has_errors(&self) -> bool {
        self.measurement.errors > 0
    }

    /// Writes the results to a file.
    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the results could not be made JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
    }
}

fn error_entry((kind, known): (FailureKind, FailureCount)) -> (String, ErrorCount) {
    (kind.to_string(), ErrorCount { count: known.count, first_detail: known.first_detail })
}

impl fmt::Display for Report {
    fn fmt(&self, lines: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = &self.measurement;
        line(lines, "operations", measured.operations, self.command)?;
        line(lines, "errors", measured.errors, "")?;
        for (kind, error) in &measured.errors_by_kind {
            line(lines, &format!("  {kind}"), error.count, &error.first_detail)?;
        }
        line(lines, "reconnects", measured.reconnects, "")?;
        line(lines, "elapsed", format_args!("{:.3}", measured.elapsed_seconds), "s")?;
        line(lines, "rate", format_args!("{:.2}", measured.operations_per_second), "ops/s")?;
        line(lines, "throughput", format_args!("{:.2}", measured.megabytes_per_second), "MB/s")?;
        line(lines, "latency p50", measured.latency_us.p50, "µs")?;
        line(lines, "latency p90", measured.latency_us.p90, "µs")?;
        line(lines, "latency p99", measured.latency_us.p99, "µs")?;
        line(lines, "latency p99.9", measured.latency_us.p99_9, "µs")?;
        line(lines, "latency max", measured.latency_us.max, "µs")?;
        if let Some(lag_us) = &measured.lag_us {
            line(lines, "sent late p50", lag_us.p50, "µs, by this program")?;
            line(lines, "sent late p99", lag_us.p99, "µs")?;
            line(lines, "sent late max", lag_us.max, "µs")?;
        }
        if let Some(verification) = &self.verification {
            line(lines, "digests verified", verification.verified, "")?;
            line(lines, "without a digest", verification.without_digest, "")?;
        }
        if let Some(slow_uploads) = &self.slow_uploads {
            write_slow_uploads(lines, slow_uploads)?;
        }
        let warning = if measured.generator_is_too_busy {
            "%  WARNING: above 85 %, so that the generator may be the bottleneck"
        } else {
            "%"
        };
        line(
            lines,
            "generator CPU",
            format_args!("{:.1}", measured.resources.generator_cpu_percent),
            warning,
        )?;
        let machine = &measured.resources.machine;
        line(lines, "others' CPU", format_args!("{:.1}", machine.others_cpu_percent), "%")?;
        line(lines, "steal", format_args!("{:.1}", machine.steal_percent), "%")?;
        if let Some(flushes) = machine.device_flushes {
            line(lines, "device flushes", flushes, "")?;
        }
        match &measured.resources.server {
            Some(server) => write_server(lines, server),
            None => Ok(()),
        }
    }
}

fn write_slow_uploads(lines: &mut fmt::Formatter<'_>, uploads: &SlowUploads) -> fmt::Result {
    line(lines, "slow uploads", uploads.connections, "")?;
    line(lines, "  2xx while slow", uploads.succeeded_while_slow, "")?;
    for (kind, count) in &uploads.refused_while_slow {
        line(lines, &format!("  {kind} while slow"), count, "")?;
    }
    line(lines, "  still sending", uploads.still_sending, "")?;
    line(lines, "  2xx after", uploads.succeeded_after, "")?;
    for (kind, count) in &uploads.refused_after {
        line(lines, &format!("  {kind} after"), count, "")?;
    }
    Ok(())
}

fn write_server(lines: &mut fmt::Formatter<'_>, server: &ServerUse) -> fmt::Result {
    line(lines, "server CPU", format_args!("{:.1}", server.cpu_percent), "%")?;
    if let Some(cpu_us) = server.cpu_us_per_operation {
        line(lines, "server CPU each", format_args!("{cpu_us:.1}"), "µs/op")?;
    }
    line(lines, "server RSS before", format_args!("{:.1}", server.rss_before_mib), "MiB")?;
    line(lines, "server RSS peak", format_args!("{:.1}", server.rss_peak_mib), "MiB")?;
    line(lines, "server RSS after", format_args!("{:.1}", server.rss_after_mib), "MiB")
}

/// One line: what it is, its value, and the unit or a remark.
fn line(lines: &mut fmt::Formatter<'_>, label: &str, value: impl fmt::Display, remark: &str) -> fmt::Result {
    // Arguments that are made in place do not take a width by themselves.
    let value = value.to_string();
    writeln!(lines, "{}", format!("{label:<32}{value:>14} {remark}").trim_end())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;
    use crate::machine::MachineUse;
    use crate::tally::{Tally, histogram};

    fn report() -> Report {
        let mut tally = Tally::new().unwrap();
        for latency_us in 1..=1000 {
            tally.count_operation(Duration::from_micros(latency_us), 4096);
        }
        tally.count_failure(Failure::status(503, b"busy"));
        let machine = MachineUse { steal_percent: 0.0, others_cpu_percent: 0.0, device_flushes: Some(500) };
        let resources = ResourceUse { generator_cpu_percent: 91.0, machine, server: None };
        let mut lags_us = histogram().unwrap();
        lags_us.record(7).unwrap();
        let elapsed = Duration::from_secs(2);
        Report::new("put", RunResult { tally, elapsed, lags_us: Some(lags_us), resources, next_number: 0 })
    }

    #[test]
    fn rates_are_taken_from_the_elapsed_time() {
        let report = report();
        let measured = &report.measurement;
        assert_eq!(measured.operations_per_second, 500.0);
        assert_eq!(measured.megabytes_per_second, 2.048);
        assert_eq!(measured.flushes_per_operation(), Some(0.5));
        assert_eq!(
            (measured.latency_us.p50, measured.latency_us.p99, measured.latency_us.max),
            (500, 990, 1000)
        );
        assert!(report.has_errors());
    }

    #[test]
    fn the_text_names_errors_and_a_busy_generator() {
        let text = report().to_string();
        assert!(text.lines().any(|line| line.starts_with("  503 ") && line.ends_with(" 1 busy")), "{text}");
        assert!(text.contains("WARNING"), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("sent late p99 ") && line.ends_with(" 7 µs")),
            "{text}"
        );
    }

    #[test]
    fn the_json_has_flat_names_with_units() {
        let json = serde_json::to_value(report().with_slow_uploads(SlowUploads::default())).unwrap();
        assert_eq!(json["errors_by_kind"]["503"]["count"], 1);
        assert_eq!(json["latency_us"]["p99.9"], 999);
        assert_eq!(json["generator_cpu_percent"], 91.0);
        assert_eq!(json["slow_uploads"]["still_sending"], 0);
        assert!(json.get("verification").is_none());
    }
}
