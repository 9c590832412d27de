//! What the cores share and run short of: the channel to the metadata plane, helper threads, descriptors, and the table
//! of connections.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run fails by panicking")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use just_storage::api::{ConnectionTable, Timeouts};
use just_storage::application::ports::{BlobStore as _, Freshness, ObjectName, ObjectRepository as _};
use just_storage::domain::value_objects::StorageClass;
use just_storage::infrastructure::data_plane::helpers::{HelperPool, WRITE_HELPERS_MAX};
use just_storage::infrastructure::data_plane::metadata_client::MetadataClient;
use just_storage::infrastructure::data_plane::object_cache::ObjectCache;
use just_storage::infrastructure::data_plane::runtime::Listener;
use just_storage::infrastructure::plane_channel::{DataEnd, Durability, Query, plane_channel};

mod samples;
mod site;

use site::{Site, driver, put};

/// As many requests as are in the figures of `docs/PERFORMANCE.md`.
const AT_ONCE: u64 = 64;
const CONNECTIONS: usize = 10_000;
/// Twice as many as a core keeps open.
const BLOBS: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Times what a core asks the metadata plane behind `data_end`, one at a time and many at once.
fn asked(
    group: &mut BenchmarkGroup<'_, WallTime>,
    site: &Site,
    data_end: &DataEnd,
    name: &str,
    ask: impl AsyncFn(&MetadataClient),
) {
    for at_once in [1, AT_ONCE] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("{name}, {at_once} at once"), |bencher| {
            bencher.iter_custom(|iterations| {
                site.on_core(async |_, limit| {
                    let cache = Arc::new(ObjectCache::new(None));
                    let repository = MetadataClient::new(data_end.clone(), cache, limit, None);
                    let started = Instant::now();
                    for _ in 0..iterations {
                        join_all((0..at_once).map(|_| ask(&repository))).await;
                    }
                    started.elapsed()
                })
            });
        });
    }
}

fn channel(criterion: &mut Criterion) {
    let site = Site::new();
    let name = ObjectName::Id(samples::stored_object().object.id);
    let find = async |repository: &MetadataClient| {
        let found = repository.find(&name, Freshness::Current).await;
        assert!(found.is_ok_and(|object| object.is_none()), "nothing is there");
    };
    let mut group = criterion.benchmark_group("channel");
    let (data_end, thread) = start_empty_plane();
    asked(&mut group, &site, &data_end, "there and back", find);
    drop(data_end);
    thread.join().expect("the thread ends");

    let (data_end, thread) = site.start_metadata_plane();
    asked(&mut group, &site, &data_end, "question to SQLite", find);
    asked(&mut group, &site, &data_end, "durable write to SQLite", async |repository| {
        repository.check().await.expect("the database takes writes");
    });
    drop(data_end);
    thread.join().expect("the metadata plane ends");
    group.finish();
}

/// A metadata plane without a database: it knows no object.
fn start_empty_plane() -> (DataEnd, JoinHandle<()>) {
    let (data_end, mut metadata_end) = plane_channel(Durability::Transaction);
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            while let Some(query) = metadata_end.queries.recv().await {
                if let Query::Find(_, _, reply) = query.query {
                    reply.send(Ok(None)).expect("the core waits");
                }
            }
        });
    });
    (data_end, thread)
}

fn helpers(criterion: &mut Criterion) {
    let site = Site::new();
    let mut group = criterion.benchmark_group("helper threads");
    for at_once in [1, WRITE_HELPERS_MAX as u64, 1000] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("empty job, {at_once} at once"), |bencher| {
            bencher.iter_custom(|iterations| {
                site.on_core(async |_, limit| {
                    let pool = HelperPool::new(WRITE_HELPERS_MAX, limit, || {});
                    let run = async || join_all((0..at_once).map(|_| pool.run(|| ()))).await;
                    // The threads start with the first jobs.
                    run().await;
                    let started = Instant::now();
                    for _ in 0..iterations {
                        assert!(run().await.iter().all(Result::is_ok), "no job is refused");
                    }
                    started.elapsed()
                })
            });
        });
    }
    group.finish();
}

fn descriptors(criterion: &mut Criterion) {
    let site = Site::new();
    let locations = site.on_core(async |store, _| {
        let body = [7; 1];
        join_all((0..BLOBS).map(|_| put(&store, StorageClass::Hot, &body))).await
    });
    let open_descriptors = || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let kept = site.on_core(async |store, _| {
        let before = open_descriptors();
        for location in &locations {
            store.open(location, 1).await.expect("the blob opens");
        }
        open_descriptors() - before
    });
    println!("\ndescriptors kept by a core that has opened {BLOBS} blobs: {kept}\n");

    let mut group = criterion.benchmark_group("descriptors");
    for (name, used) in
        [("blob that is open", &locations[..1]), ("blob that has been closed", &locations[..])]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                site.on_core(async |store, _| {
                    for location in used {
                        store.open(location, 1).await.expect("the blob opens");
                    }
                    let started = Instant::now();
                    for location in used.iter().cycle().take(iterations as usize) {
                        store.open(location, 1).await.expect("the blob opens");
                    }
                    started.elapsed()
                })
            });
        });
    }
    group.finish();
}

fn connection_table(criterion: &mut Criterion) {
    let timeouts = Timeouts {
        idle: TIMEOUT,
        header: TIMEOUT,
        body: TIMEOUT,
        body_bytes_per_second_min: 1,
        send: TIMEOUT,
    };
    let site = Site::new();
    let mut group = criterion.benchmark_group("connection table");
    site.on_core(async |_, _| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let listener = Listener::from_std(listener, driver()).expect("a listener");
        let _client = TcpStream::connect(address).expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        // One socket stands for all: nothing is done to it while no time is over.
        let table = ConnectionTable::new(timeouts, CONNECTIONS, 1);
        let mut entered: Vec<_> =
            (0..CONNECTIONS).map(|_| table.register(stream.shut_down_handle()).expect("a place")).collect();
        group.throughput(Throughput::Elements(CONNECTIONS as u64));
        group.bench_function(format!("sweep of {CONNECTIONS}"), |bencher| {
            bencher.iter(|| {
                let mut place = Some(0);
                while let Some(first) = place {
                    place = table.sweep_from(first, Instant::now());
                }
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one too many beside {CONNECTIONS}"), |bencher| {
            bencher.iter(|| assert!(table.register(stream.shut_down_handle()).is_none()));
        });
        entered.pop();
        group.bench_function(format!("the last of {CONNECTIONS} comes and goes"), |bencher| {
            bencher.iter(|| assert!(table.register(stream.shut_down_handle()).is_some()));
        });
        drop(entered);
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = channel, helpers, descriptors, connection_table);
criterion_main!(benches);
