//! Syncs that a test build can be told to leave out, so that the crash harness can be seen to notice. In any build
//! without the feature `fault-injection`, which nothing turns on by itself, the answer is a constant.

/// The syncs that durability rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurableSync {
    /// Of a blob's bytes.
    File,
    /// Of the directory that names it.
    Directory,
    /// Of the database's log.
    Database,
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
    };
    std::env::var("SKIP_SYNC").is_ok_and(|skipped| skipped == name)
}
