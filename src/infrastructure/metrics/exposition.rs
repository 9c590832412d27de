//! The text that Prometheus reads (its exposition format 0.0.4). Of the crates that write it, one writes OpenMetrics, whose
//! names of counters `promtool` does not take, and the other comes with cells that all cores would contend for: it is a
//! page of code (decision 0019).

use std::fmt::{Display, Write as _};

use super::cells::Merged;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up, and back to 0 with a new process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
    /// One whose name says something else than its kind.
    Untyped,
}

/// A text that grows.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Its content type.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a metric, all of whose values follow. `help` is one line of plain words.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Untyped => "untyped",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.0, name }
    }

    /// A metric of one value.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &'static str, value: impl Display) {
        self.family(name, kind, help).value(&[], value);
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A metric, to be given its values.
#[derive(Debug)]
pub struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a value with its labels.
    pub fn value(&mut self, labels: &[(&'static str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, None, value)
    }

    /// Adds a histogram with its labels.
    pub fn histogram(&mut self, labels: &[(&'static str, &str)], merged: &Merged) -> &mut Self {
        for (bound, count) in merged.cumulative() {
            self.line("_bucket", labels, Some(bound), count);
        }
        self.line("_sum", labels, None, merged.sum()).line("_count", labels, None, merged.count())
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&'static str, &str)],
        bound: Option<&'static str>,
        value: impl Display,
    ) -> &mut Self {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            self.text.push(before);
            self.text.push_str(name);
            self.text.push_str("=\"");
            push_escaped(self.text, value);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }
}

fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cells::Durations;
    use super::*;

    #[test]
    fn values_stand_behind_their_name_and_labels() {
        let mut text = Exposition::default();
        text.single("up", Kind::Gauge, "Whether it is.", 1);
        text.family("asked_total", Kind::Counter, "How often.")
            .value(&[("by", "a\"b\\c\nd"), ("status", "200")], 7)
            .value(&[("by", "")], 0.5);
        assert_eq!(
            text.into_text(),
            "# HELP up Whether it is.\n# TYPE up gauge\nup 1\n\
             # HELP asked_total How often.\n# TYPE asked_total counter\n\
             asked_total{by=\"a\\\"b\\\\c\\nd\",status=\"200\"} 7\nasked_total{by=\"\"} 0.5\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_all() {
        let durations = Durations::default();
        durations.record(Duration::from_millis(1));
        let mut text = Exposition::default();
        text.family("d", Kind::Histogram, "D.").histogram(&[("m", "GET")], &Durations::merge([&durations]));
        let text = text.into_text();
        assert!(text.contains("\nd_bucket{m=\"GET\",le=\"0.0005\"} 0\nd_bucket{m=\"GET\",le=\"0.001\"} 1\n"));
        assert!(
            text.ends_with(
                "d_bucket{m=\"GET\",le=\"+Inf\"} 1\nd_sum{m=\"GET\"} 0.001\nd_count{m=\"GET\"} 1\n"
            )
        );
    }
}
