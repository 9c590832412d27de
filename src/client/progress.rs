//! How far transfers are: bars on a terminal, nothing elsewhere. Always on standard error, so that they never get among
//! the results.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A file from this size on has a bar of its own.
const OWN_BAR_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// The bars of a command.
pub(super) struct Progress {
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
}

impl Progress {
    /// Of work on `files` files of `bytes` bytes in all.
    pub(super) fn new(files: u64, bytes: u64) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let total = ProgressBar::new(bytes).with_style(style(
                "{prefix} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
            ));
            let plural = if files == 1 { "" } else { "s" };
            let total = all.add(total.with_prefix(format!("{files} file{plural}")));
            Bars { all, total }
        });
        Self { bars }
    }

    /// Of work whose size is not known.
    pub(super) fn of_unknown() -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let total = all.add(ProgressBar::no_length());
            Bars { all, total: total.with_style(style("{spinner} {bytes}, {binary_bytes_per_sec}")) }
        });
        Self { bars }
    }

    /// The beginning of one file.
    pub(super) fn begin(&self, name: &str, bytes: u64) -> FileProgress<'_> {
        let own = self.bars.as_ref().filter(|_| bytes >= OWN_BAR_BYTES_MIN).map(|bars| {
            let bar = ProgressBar::new(bytes).with_style(style("  {wide_msg} {bytes} of {total_bytes}"));
            bars.all.add(bar.with_message(name.to_owned()))
        });
        FileProgress { progress: self, own }
    }

    /// Runs what writes to the terminal without the bars in its way.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.all.suspend(print),
            None => print(),
        }
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.total.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that is wrong is a bar that is plain.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How far one file is.
pub(super) struct FileProgress<'a> {
    progress: &'a Progress,
    own: Option<ProgressBar>,
}

impl FileProgress<'_> {
    /// Some more of it.
    pub(super) fn add(&self, bytes: u64) {
        if let Some(bars) = &self.progress.bars {
            bars.total.inc(bytes);
            if let Some(own) = &self.own {
                own.inc(bytes);
            }
        }
    }

    /// It begins again.
    pub(super) fn take_back(&self, bytes: u64) {
        if let Some(bars) = &self.progress.bars {
            bars.total.dec(bytes);
            if let Some(own) = &self.own {
                own.dec(bytes);
            }
        }
    }
}

impl Drop for FileProgress<'_> {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            own.finish_and_clear();
        }
    }
}
