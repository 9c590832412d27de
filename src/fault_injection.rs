//! What a test build can be told to do otherwise: leave out a sync, so that the crash harness can be seen to notice,
//! and collect more often than is allowed. In any build without the feature `fault-injection`, which nothing turns on
//! by itself, the answers are constants.

use std::time::Duration;

/// The syncs that durability rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurableSync {
    /// Of a blob's bytes.
    File,
    /// Of the directory that names it.
    Directory,
    /// Of the database's log.
    Database,
    /// Of a pack's batches.
    Log,
}

/// Whether to leave a sync out: never, but in a test build whose environment says so (`SKIP_SYNC=file`).
#[cfg(not(feature = "fault-injection"))]
pub(crate) const fn skips(_: DurableSync) -> bool {
    false
}

/// Whether to leave a sync out, as the environment of this test build says.
#[cfg(feature = "fault-injection")]
pub(crate) fn skips(sync: DurableSync) -> bool {
    let name = match sync {
        DurableSync::File => "file",
        DurableSync::Directory => "directory",
        DurableSync::Database => "database",
        DurableSync::Log => "log",
    };
    std::env::var("SKIP_SYNC").is_ok_and(|skipped| skipped == name)
}

/// How often to collect instead of what the settings say: never so, but in a test build.
#[cfg(not(feature = "fault-injection"))]
pub(crate) const fn gc_interval() -> Option<Duration> {
    None
}

/// How often to collect, if the environment of this test build says (`GC_INTERVAL_MS=5`).
#[cfg(feature = "fault-injection")]
pub(crate) fn gc_interval() -> Option<Duration> {
    std::env::var("GC_INTERVAL_MS").ok()?.parse().ok().map(Duration::from_millis)
}
