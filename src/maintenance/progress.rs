//! How far a tool is: a bar on a terminal, a line now and then elsewhere. Always on standard error, so that it never
//! gets among the results.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    /// What is done, such as `scrubbed`.
    verb: &'static str,
    bar: Option<ProgressBar>,
    blobs: u64,
    bytes: u64,
    last_line: Instant,
}

impl Progress {
    /// Of work on `bytes_total` bytes in all.
    pub(super) fn new(verb: &'static str, bytes_total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{msg} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(bytes_total).with_style(style).with_message(verb)
        });
        Self { verb, bar, blobs: 0, bytes: 0, last_line: Instant::now() }
    }

    /// Some bytes of a blob.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None if self.last_line.elapsed() >= LINE_INTERVAL => {
                self.last_line = Instant::now();
                eprintln!("{self}");
            }
            None => {}
        }
    }

    /// The end of a blob.
    pub(super) fn add_blob(&mut self) {
        self.blobs += 1;
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// The last word.
    pub(super) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        println!("{self}");
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (blobs, bytes) = (HumanCount(self.blobs), HumanBytes(self.bytes));
        write!(formatter, "{} {blobs} blobs, {bytes}", self.verb)
    }
}
