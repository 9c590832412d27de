//! What one core counts below HTTP.

use std::sync::OnceLock;
use std::time::Duration;

use super::cells::{Counter, Durations, Sizes};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::data_plane::buffers::BufferPool;

/// One core's cells.
#[derive(Default)]
pub struct CoreMetrics {
    /// Names that the object cache or the index of ids knew.
    pub cache_hits: Counter,
    /// Names that the database was asked for.
    pub cache_misses: Counter,
    /// Objects that rules of namespaces have deleted.
    pub lifecycle_deleted: Counter,
    /// Objects that they have moved to the other class.
    pub lifecycle_moved: Counter,
    /// Passes through all rules that came to their end.
    pub lifecycle_passes: Counter,
    /// Passes that an error ended.
    pub lifecycle_failed_passes: Counter,
    /// Whether the last pass did nothing, because the wall clock cannot be trusted: 0 or 1.
    pub lifecycle_rests: Counter,
    hot: RootMetrics,
    cold: RootMetrics,
    buffers: OnceLock<BufferPool>,
}

/// What a core does with one root.
#[derive(Debug, Default)]
pub struct RootMetrics {
    /// Batches of the log, each one durable write.
    pub log_syncs: Durations,
    /// Records of each.
    pub log_batch_records: Sizes,
    /// Bytes of all.
    pub log_bytes: Counter,
    /// Blob files: synced, linked and their directory synced.
    pub file_syncs: Durations,
    /// Durable writes that failed or took too long.
    pub failed_syncs: Counter,
}

impl CoreMetrics {
    /// What the core does with the root of a class.
    pub fn root(&self, class: StorageClass) -> &RootMetrics {
        match class {
            StorageClass::Hot => &self.hot,
            StorageClass::Cold => &self.cold,
        }
    }

    /// Tells of the blocks of the core's pool from now on.
    pub fn watch_buffers(&self, buffers: BufferPool) {
        self.buffers.get_or_init(|| buffers);
    }

    /// Bytes of blocks that are lent.
    pub(super) fn buffer_bytes_lent(&self) -> u64 {
        self.buffers.get().map_or(0, |buffers| buffers.bytes_lent() as u64)
    }
}

impl RootMetrics {
    /// A batch of the log was written durably.
    pub fn note_log_batch(&self, records: usize, bytes: u64, duration: Duration) {
        self.log_syncs.record(duration);
        self.log_batch_records.record(records);
        self.log_bytes.add(bytes);
    }
}
