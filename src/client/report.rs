//! What a command says of what it did: a line of JSON for each thing, or one line at the end, and the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde::Serialize;

use super::errors::{ClientError, Kind};
use super::progress::Progress;
use super::transfers::Next;
use crate::maintenance::with_causes;

/// One thing that was done, or failed, as `--json` shows it. What does not apply is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Line<'a> {
    /// What became of it: `sent`, `fetched`, `kept` (it was the same already), `removed`, `equal`, `differs`, `missing`,
    /// `extra`, `failed`.
    pub(super) outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_hash: Option<&'a str>,
    /// The hash of the file here, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) local_hash: Option<&'a str>,
    /// The kind of failure; the exit code if everything fails so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a str>,
}

/// What becomes of a command with many parts, told by several threads.
pub(super) struct Report {
    json: bool,
    /// What was done to what went well, and what that is: `sent`, `file`.
    words: (&'static str, &'static str),
    progress: Progress,
    started: Instant,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    done: u64,
    /// That had nothing to be done.
    kept: u64,
    bytes: u64,
    failed: u64,
    worst: Option<Kind>,
    /// Failures of more than one kind.
    mixed: bool,
}

impl Tally {
    fn count(&mut self, kind: Kind) {
        self.failed += 1;
        self.mixed |= self.worst.is_some_and(|other| other != kind);
        // Bytes that are wrong must not be lost sight of behind anything else; then comes what has ended everything.
        let rank = |kind: Kind| (kind == Kind::Mismatch, kind.ends_everything());
        if self.worst.is_none_or(|other| rank(kind) > rank(other)) {
            self.worst = Some(kind);
        }
    }

    fn verdict(&self) -> Option<Kind> {
        let worst = self.worst?;
        let plain = worst != Kind::Mismatch && !worst.ends_everything();
        let in_part = self.mixed || self.done + self.kept > 0;
        Some(if plain && in_part { Kind::Failed } else { worst })
    }
}

impl Report {
    pub(super) fn new(json: bool, words: (&'static str, &'static str), progress: Progress) -> Self {
        Self { json, words, progress, started: Instant::now(), tally: Mutex::default() }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Something went well.
    pub(super) fn done(&self, line: &Line<'_>) -> Next {
        self.tally(|tally| {
            if line.outcome == "kept" {
                tally.kept += 1;
            } else {
                tally.done += 1;
                tally.bytes += line.size_bytes.unwrap_or(0);
            }
        });
        self.print(line)
    }

    /// Something failed. The error is said at once, whatever form the results have.
    pub(super) fn failed(&self, error: &ClientError, line: Line<'_>) -> Next {
        if matches!(error, ClientError::Output(_)) {
            return Next::Stop;
        }
        let (kind, words) = (error.kind(), with_causes(error));
        let first = self.tally(|tally| {
            let before = tally.worst;
            tally.count(kind);
            before != Some(kind)
        });
        // What ends everything is found by every worker at once, and said by one.
        if first || !kind.ends_everything() {
            self.progress.suspend(|| eprintln!("just_storage: {words}"));
        }
        let next =
            self.print(&Line { outcome: "failed", kind: Some(kind.as_str()), error: Some(&words), ..line });
        if kind.ends_everything() { Next::Stop } else { next }
    }

    /// Something is not as it should be, and the line says how.
    pub(super) fn differs(&self, line: &Line<'_>) -> Next {
        self.tally(|tally| tally.count(Kind::Mismatch));
        if !self.json {
            let name = line.address.unwrap_or_default();
            return self.printed(self.progress.suspend(|| writeln!(io::stdout(), "{} {name}", line.outcome)));
        }
        self.print(line)
    }

    /// The last word, and the exit code.
    pub(super) fn finish(self) -> ExitCode {
        self.progress.finish();
        let tally = self.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !self.json {
            let (verb, noun) = self.words;
            let plural = if tally.done == 1 { "" } else { "s" };
            let mut words = format!("{verb} {} {noun}{plural}", HumanCount(tally.done));
            if tally.bytes > 0 {
                words += &format!(", {}", HumanBytes(tally.bytes));
            }
            if tally.kept > 0 {
                words += &format!(", {} were the same already", HumanCount(tally.kept));
            }
            if tally.failed > 0 {
                words += &format!(", {} not", HumanCount(tally.failed));
            }
            eprintln!("{words}, in {:#}", HumanDuration(self.started.elapsed()));
        }
        tally.verdict().map_or(ExitCode::SUCCESS, Kind::exit_code)
    }

    fn tally<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        // A thread that panicked while it counted has left whole numbers.
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn print(&self, line: &Line<'_>) -> Next {
        if !self.json {
            return Next::Continue;
        }
        self.printed(self.progress.suspend(|| print_json(line)))
    }

    /// Nothing more is done for somebody who no longer reads what is said of it.
    fn printed<E>(&self, outcome: Result<(), E>) -> Next {
        if outcome.is_ok() {
            return Next::Continue;
        }
        self.tally(|tally| tally.count(Kind::Failed));
        Next::Stop
    }
}

/// One line of JSON on standard output.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), ClientError> {
    let mut line = serde_json::to_vec(value).map_err(|error| ClientError::Output(error.into()))?;
    line.push(b'\n');
    io::stdout().write_all(&line).map_err(ClientError::Output)
}

/// The failure of a whole command, where results are JSON.
pub(super) fn print_failure(error: &ClientError) {
    let (words, kind) = (with_causes(error), error.kind().as_str());
    let line = Line { outcome: "failed", kind: Some(kind), error: Some(&words), ..Line::default() };
    // Who cannot be told is told by the exit code.
    let _ = print_json(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(done: u64, kinds: &[Kind]) -> Option<Kind> {
        let mut tally = Tally { done, ..Tally::default() };
        kinds.iter().for_each(|kind| tally.count(*kind));
        tally.verdict()
    }

    #[test]
    fn the_exit_code_is_that_of_all_failures_or_of_the_worst() {
        use Kind::{Declined, Failed, Mismatch, NotFound, Refused, Unreachable};
        for (done, kinds, expected) in [
            (3, &[][..], None),
            (0, &[NotFound, NotFound], Some(NotFound)),
            (1, &[NotFound], Some(Failed)),
            (0, &[NotFound, Declined], Some(Failed)),
            (5, &[NotFound, Mismatch, Declined], Some(Mismatch)),
            (5, &[Mismatch, Unreachable], Some(Mismatch)),
            (5, &[NotFound, Unreachable], Some(Unreachable)),
            (5, &[Refused], Some(Refused)),
            (5, &[Unreachable, Refused], Some(Unreachable)),
        ] {
            assert_eq!(verdict(done, kinds), expected, "{done} done, {kinds:?}");
        }
    }
}
