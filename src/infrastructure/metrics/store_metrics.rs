//! What the store below HTTP tells of itself: the cells of all cores added up, and what is looked at when asked.

use std::sync::Arc;
use std::time::SystemTime;

use super::cells::{Durations, Sizes};
use super::core_metrics::{CoreMetrics, RootMetrics};
use super::exposition::{Exposition, Kind};
use super::plane_metrics::{Figures, PlaneMetrics, index};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::data_plane::object_cache::ObjectCache;
use crate::infrastructure::plane_channel::Queues;
use crate::infrastructure::storage::Roots;

/// Whether the names of namespaces and tenants are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As they are.
    Told,
    /// Not to somebody who does not reach all of them: everything is of others.
    Withheld,
}

/// Where the store's numbers come from.
pub struct StoreMetrics {
    /// The cells of each core.
    pub cores: Vec<Arc<CoreMetrics>>,
    /// Those of the metadata plane.
    pub plane: Arc<PlaneMetrics>,
    /// What waits for it.
    pub queues: Queues,
    /// What all cores remember.
    pub cache: Arc<ObjectCache>,
    /// Where the bytes are.
    pub roots: Roots,
}

impl StoreMetrics {
    /// Appends all of it. Waits for nothing but locks that are held for a few instructions.
    pub fn write_to(&self, text: &mut Exposition, names: Names) {
        let figures = self.plane.ask();
        write_objects(&figures, text, names);
        self.write_collector(text);
        self.write_lifecycle(text);
        self.plane.scrub.write_to(text);
        write_packs(&figures, text);
        self.write_storage(text);
        self.write_roots(&figures, text);
        self.write_metadata(text);
        self.write_memory(text);
    }

    fn write_collector(&self, text: &mut Exposition) {
        let plane = &self.plane;
        for (name, help, counter) in [
            ("activestorage_gc_runs_total", "Cycles of the garbage collector.", &plane.gc_runs),
            (
                "activestorage_gc_failed_runs_total",
                "Cycles of the garbage collector that an error ended.",
                &plane.gc_failed_runs,
            ),
            (
                "activestorage_gc_deleted_blobs_total",
                "Blobs whose bytes the garbage collector has removed.",
                &plane.gc_deleted_blobs,
            ),
            (
                "activestorage_gc_deleted_bytes_total",
                "Bytes of the blobs that the garbage collector has removed.",
                &plane.gc_deleted_bytes,
            ),
            ("activestorage_packs_removed_total", "Packs that have been removed.", &plane.packs_removed),
            (
                "activestorage_pack_blobs_moved_total",
                "Blobs that have been moved to another pack.",
                &plane.pack_blobs_moved,
            ),
        ] {
            text.single(name, Kind::Counter, help, counter.get());
        }
        let help = "Whether a backup keeps the garbage collector from removing bytes.";
        text.single("activestorage_gc_held", Kind::Gauge, help, plane.gc_held.get());
    }

    fn write_lifecycle(&self, text: &mut Exposition) {
        let sum = |of: fn(&CoreMetrics) -> u64| self.cores.iter().map(|core| of(core)).sum::<u64>();
        let help = "Objects that rules of namespaces have deleted.";
        let deleted = sum(|core| core.lifecycle_deleted.get());
        text.single("activestorage_lifecycle_deleted_objects_total", Kind::Counter, help, deleted);
        let help = "Objects that rules of namespaces have moved to the cold class.";
        let moved = sum(|core| core.lifecycle_moved.get());
        text.single("activestorage_lifecycle_moved_objects_total", Kind::Counter, help, moved);
        let help = "Passes through the rules of namespaces.";
        let passes = sum(|core| core.lifecycle_passes.get());
        text.single("activestorage_lifecycle_passes_total", Kind::Counter, help, passes);
        let help = "Passes through the rules of namespaces that an error ended.";
        let failed = sum(|core| core.lifecycle_failed_passes.get());
        text.single("activestorage_lifecycle_failed_passes_total", Kind::Counter, help, failed);
        let help = "Whether rules of namespaces do nothing, because the wall clock has leapt.";
        let rests = sum(|core| core.lifecycle_rests.get());
        text.single("activestorage_lifecycle_rests", Kind::Gauge, help, rests);
    }

    fn write_storage(&self, text: &mut Exposition) {
        let help = "How long a durable write took: a batch of the log, or a blob file with its directory.";
        let mut family = text.family("activestorage_sync_duration_seconds", Kind::Histogram, help);
        for class in StorageClass::ALL {
            let log = Durations::merge(self.of_root(class).map(|root| &root.log_syncs));
            let files = Durations::merge(self.of_root(class).map(|root| &root.file_syncs));
            family.histogram(&[("storage_class", class.as_str()), ("kind", "log")], &log);
            family.histogram(&[("storage_class", class.as_str()), ("kind", "file")], &files);
        }
        let help = "Durable writes that failed or took too long; none is tried again.";
        let mut family = text.family("activestorage_sync_failures_total", Kind::Counter, help);
        for class in StorageClass::ALL {
            let failed: u64 = self.of_root(class).map(|root| root.failed_syncs.get()).sum();
            family.value(&[("storage_class", class.as_str())], failed);
        }
        let help = "Records of a batch of the log.";
        let mut family = text.family("activestorage_log_batch_records", Kind::Histogram, help);
        for class in StorageClass::ALL {
            let records = Sizes::merge(self.of_root(class).map(|root| &root.log_batch_records));
            family.histogram(&[("storage_class", class.as_str())], &records);
        }
        let help = "Bytes written to the log.";
        let mut family = text.family("activestorage_log_written_bytes_total", Kind::Counter, help);
        for class in StorageClass::ALL {
            let bytes: u64 = self.of_root(class).map(|root| root.log_bytes.get()).sum();
            family.value(&[("storage_class", class.as_str())], bytes);
        }
    }

    fn write_roots(&self, figures: &Figures, text: &mut Exposition) {
        let help = "Whether a storage root takes no more writes.";
        let mut family = text.family("activestorage_root_read_only", Kind::Gauge, help);
        for class in StorageClass::ALL {
            let is_read_only = self.roots.of(class).is_read_only();
            family.value(&[("storage_class", class.as_str())], u8::from(is_read_only));
        }
        let roots =
            || StorageClass::ALL.into_iter().filter_map(|class| Some((class, figures.roots[index(class)]?)));
        if roots().next().is_none() {
            return;
        }
        let help = "Size of the file system of a storage root.";
        let mut family = text.family("activestorage_root_size_bytes", Kind::Gauge, help);
        for (class, root) in roots() {
            family.value(&[("storage_class", class.as_str())], root.size_bytes);
        }
        let help = "What can still be written to the file system of a storage root.";
        let mut family = text.family("activestorage_root_free_bytes", Kind::Gauge, help);
        for (class, root) in roots() {
            family.value(&[("storage_class", class.as_str())], root.free_bytes);
        }
    }

    fn write_metadata(&self, text: &mut Exposition) {
        let plane = &self.plane;
        text.family(
            "activestorage_commit_duration_seconds",
            Kind::Histogram,
            "How long a transaction took that applied changes of the metadata.",
        )
        .histogram(&[], &Durations::merge([&plane.commits]));
        text.family(
            "activestorage_commit_batch_writes",
            Kind::Histogram,
            "Changes of the metadata in a transaction.",
        )
        .histogram(&[], &Sizes::merge([&plane.commit_writes]));
        let help = "Transactions that did not go through.";
        text.single("activestorage_commit_failures_total", Kind::Counter, help, plane.failed_commits.get());
        text.family(
            "activestorage_query_duration_seconds",
            Kind::Histogram,
            "How long a query of the metadata took, from its turn to its answer.",
        )
        .histogram(&[], &Durations::merge([&plane.queries]));
        text.family("activestorage_queue_depth", Kind::Gauge, "What waits for the metadata plane.")
            .value(&[("queue", "writes")], self.queues.writes())
            .value(&[("queue", "queries")], self.queues.queries());
        if let Some(backlog) = self.queues.backlog() {
            let help = "Changes that have a place in the log and are not in the database yet.";
            text.single("activestorage_log_backlog_changes", Kind::Gauge, help, backlog);
        }
        let (latched, away) = plane.state();
        let help = "Whether the metadata plane takes no more writes until a restart.";
        text.single("activestorage_metadata_read_only", Kind::Gauge, help, u8::from(latched));
        let help = "Whether the database did not answer when it was last asked.";
        text.single("activestorage_database_away", Kind::Gauge, help, u8::from(away));
    }

    fn write_memory(&self, text: &mut Exposition) {
        let sum = |of: fn(&CoreMetrics) -> u64| self.cores.iter().map(|core| of(core)).sum::<u64>();
        let help = "Names that the object cache or the index of ids knew.";
        text.single("activestorage_cache_hits_total", Kind::Counter, help, sum(|core| core.cache_hits.get()));
        let help = "Names that neither knew, so that the database was asked.";
        let misses = sum(|core| core.cache_misses.get());
        text.single("activestorage_cache_misses_total", Kind::Counter, help, misses);
        let help = "Names in the object cache.";
        text.single("activestorage_cache_entries", Kind::Gauge, help, self.cache.names_cached());
        let help = "Memory lent to bodies on their way in or out.";
        let lent = sum(CoreMetrics::buffer_bytes_lent);
        text.single("activestorage_buffer_lent_bytes", Kind::Gauge, help, lent);
    }

    fn of_root(&self, class: StorageClass) -> impl Iterator<Item = &RootMetrics> {
        self.cores.iter().map(move |core| core.root(class))
    }
}

/// Nothing before they have been counted for the first time.
fn write_objects(figures: &Figures, text: &mut Exposition, names: Names) {
    let Some(objects) = &figures.objects else { return };
    let named = names == Names::Told;
    let mut family =
        text.family("activestorage_objects_total", Kind::Untyped, "Objects, as they were last counted.");
    for ((namespace, tenant, status), count) in objects.objects(named) {
        family.value(&[("namespace", namespace), ("tenant", tenant), ("status", status)], count);
    }
    let help = "Bytes of committed objects, as they were last counted; a content counts for each object that has it.";
    let mut family = text.family("activestorage_storage_bytes", Kind::Gauge, help);
    for ((class, namespace), bytes) in objects.bytes(named) {
        family.value(&[("storage_class", class), ("namespace", namespace)], bytes);
    }
    let Some((counted, took)) = objects.counted() else { return };
    let seconds = counted.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "When objects were last counted.";
    text.single("activestorage_objects_counted_timestamp_seconds", Kind::Gauge, help, seconds);
    let help = "How long that took.";
    text.single("activestorage_objects_counting_duration_seconds", Kind::Gauge, help, took.as_secs_f64());
}

fn write_packs(figures: &Figures, text: &mut Exposition) {
    for (name, help, of) in [
        ("activestorage_packs", "Packs.", (|packs| packs.packs) as fn(super::PackFigures) -> u64),
        ("activestorage_pack_live_bytes", "Bytes of packs that are in use.", |packs| packs.live_bytes),
        ("activestorage_pack_dead_bytes", "Bytes of packs that nothing needs any more.", |packs| {
            packs.dead_bytes
        }),
    ] {
        let mut family = text.family(name, Kind::Gauge, help);
        for class in StorageClass::ALL {
            family.value(&[("storage_class", class.as_str())], of(figures.packs[index(class)]));
        }
    }
}
