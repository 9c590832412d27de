//! The storage engine on a core of its own, through the port that uploads and downloads use: durable puts and cached
//! gets, small and large, in both classes. Files stay until the end: some file systems are slow to make new ones
//! right after others were removed.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run fails by panicking")]

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use just_storage::application::ports::BlobStore as _;
use just_storage::domain::value_objects::StorageClass;
use just_storage::infrastructure::storage::FileStore;

mod samples;
mod site;

use site::{Site, get_large, get_small, put};

const SMALL_BYTES: usize = 4096;
const LARGE_BYTES: usize = 16 * 1024 * 1024;
/// As many uploads as share the disk in the figures of `docs/PERFORMANCE.md`.
const AT_ONCE: u64 = 64;

/// Times `once`, so many times over, on a core whose helper threads have started.
fn on_core<'g>(
    group: &mut BenchmarkGroup<'g, WallTime>,
    site: &Site,
    name: String,
    once: impl AsyncFn(&FileStore) -> Duration,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            site.on_core(async |store, _| {
                once(&store).await;
                let mut taken = Duration::ZERO;
                for _ in 0..iterations {
                    taken += once(&store).await;
                }
                taken
            })
        });
    });
}

fn puts(criterion: &mut Criterion) {
    let site = Site::new();
    let (small, large) = (vec![7; SMALL_BYTES], vec![7; LARGE_BYTES]);
    let mut group = criterion.benchmark_group("put");
    for class in StorageClass::ALL {
        group.throughput(Throughput::Elements(1));
        on_core(&mut group, &site, format!("4 KiB, {class}"), async |store| {
            let started = Instant::now();
            put(store, class, &small).await;
            started.elapsed()
        });
        group.throughput(Throughput::Elements(AT_ONCE));
        on_core(&mut group, &site, format!("4 KiB, {class}, {AT_ONCE} at once"), async |store| {
            let started = Instant::now();
            join_all((0..AT_ONCE).map(|_| put(store, class, &small))).await;
            started.elapsed()
        });
        group.throughput(Throughput::Bytes(LARGE_BYTES as u64));
        on_core(&mut group, &site, format!("16 MiB, {class}"), async |store| {
            let started = Instant::now();
            let location = put(store, class, &large).await;
            let taken = started.elapsed();
            // A disk would fill up with these.
            store.discard(&location).await;
            taken
        });
    }
    group.finish();
}

fn gets(criterion: &mut Criterion) {
    let site = Site::new();
    let (small, large) = (vec![7; SMALL_BYTES], vec![7; LARGE_BYTES]);
    let mut group = criterion.benchmark_group("get, in page cache");
    for class in StorageClass::ALL {
        let location = site.on_core(async |store, _| put(&store, class, &small).await);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("4 KiB, {class}"), |bencher| {
            bencher.iter_custom(|iterations| {
                site.on_core(async |store, _| {
                    let mut bytes = get_small(&store, &location, Vec::new(), SMALL_BYTES).await;
                    let started = Instant::now();
                    for _ in 0..iterations {
                        bytes.clear();
                        bytes = get_small(&store, &location, bytes, SMALL_BYTES).await;
                    }
                    started.elapsed()
                })
            });
        });
        let location = site.on_core(async |store, _| put(&store, class, &large).await);
        group.throughput(Throughput::Bytes(LARGE_BYTES as u64));
        on_core(&mut group, &site, format!("16 MiB, {class}"), async |store| {
            let started = Instant::now();
            get_large(store, &location, LARGE_BYTES as u64).await;
            started.elapsed()
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = puts, gets);
criterion_main!(benches);
