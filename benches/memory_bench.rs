//! What a request allocates on its core, told by a counting allocator, and what a block of the buffer pool costs, also
//! where the pool has none to lend.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run fails by panicking")]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::iter::from_fn;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use criterion::{Criterion, criterion_group, criterion_main};
use just_storage::api::connection::serve;
use just_storage::api::{
    Access, AccessLog, AuditLog, Batches, ConnectionTable, DateCache, Limits, MetricsPage, RequestIds,
    RequestMetrics, RequestRecorder, Service, SystemClock, Timeouts, TimingSettings, UploadTurns,
};
use just_storage::application::ports::{ObjectCommit, ObjectRepository as _};
use just_storage::domain::value_objects::{Precondition, StorageClass};
use just_storage::infrastructure::data_plane::buffers::{BufferPool, LARGE_BLOCK_BYTES};
use just_storage::infrastructure::data_plane::deadline_list::WaitLimit;
use just_storage::infrastructure::data_plane::metadata_client::MetadataClient;
use just_storage::infrastructure::data_plane::object_cache::ObjectCache;
use just_storage::infrastructure::data_plane::runtime::Listener;
use just_storage::infrastructure::plane_channel::DataEnd;
use just_storage::infrastructure::storage::FileStore;

mod samples;
mod site;

use site::{Site, driver, put};

const BODY_BYTES: usize = 4096;
/// Enough for what is rare in a connection's life to vanish among what is in each request.
const REQUESTS: u64 = 500;
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(60),
    header: Duration::from_secs(60),
    body: Duration::from_secs(60),
    body_bytes_per_second_min: 1,
    send: Duration::from_secs(60),
};

fn allocations(_: &mut Criterion) {
    let get = samples::GET_BY_KEY.to_vec();
    let put = [samples::PUT_BY_KEY, &[7; BODY_BYTES]].concat();
    println!("\nallocated on the core by each request, on a connection that is kept:");
    for (name, request) in [("GET of 4 KiB, in the object cache", get), ("PUT of 4 KiB", put)] {
        // What both runs share is what the core and the connection take to start and end.
        let (once, twice) = (counted(&request, REQUESTS), counted(&request, 2 * REQUESTS));
        let each = |count: fn(&AllocationInfo) -> u64| {
            (count(&twice).saturating_sub(count(&once))) as f64 / REQUESTS as f64
        };
        let (times, bytes) = (each(|info| info.count_total), each(|info| info.bytes_total));
        println!("  {name:35} {times:6.1} allocations, {bytes:8.0} bytes");
    }
    println!();
}

/// What a core's thread allocates while it serves so many requests.
fn counted(request: &[u8], requests: u64) -> AllocationInfo {
    let site = Site::new();
    let (data_end, metadata_plane) = site.start_metadata_plane();
    let counted = measure(|| {
        site.on_core(async |store, limit| serve_requests(store, limit, data_end, request, requests).await);
    });
    metadata_plane.join().expect("the metadata plane ends");
    counted
}

async fn serve_requests(
    store: FileStore,
    limit: WaitLimit,
    data_end: DataEnd,
    request: &[u8],
    requests: u64,
) {
    let repository = MetadataClient::new(data_end, Arc::new(ObjectCache::new(None)), limit.clone(), None);
    let location = put(&store, StorageClass::Hot, &[7; BODY_BYTES]).await;
    let mut stored = samples::stored_object();
    (stored.content_hash, stored.place) = (location.content_hash, location.place);
    stored.object.content_hash = Some(location.content_hash);
    let commit = ObjectCommit {
        stored,
        precondition: Precondition::default(),
        is_first_version: false,
        is_reference: false,
    };
    repository.commit(commit, Default::default()).await.expect("the object is committed");

    // Its reader takes nothing meanwhile: the queue holds more records than there are requests.
    let (access_log, _reader) = AccessLog::new();
    let service = Rc::new(Service {
        store,
        repository,
        clock: SystemClock,
        access: Access::open(),
        limits: Limits {
            head: samples::HEAD_LIMITS,
            body_bytes_max: u64::MAX,
            uploads_max: 1000,
            uploads_kept_for: Duration::from_secs(86_400),
        },
        upload_turns: UploadTurns::new(1, usize::MAX, limit.clone()),
        batches: Batches::new(limit.clone(), || ()),
        ready_limit: limit.clone(),
        table: ConnectionTable::new(TIMEOUTS, 1, 1),
        outputs: Rc::default(),
        access_log,
        audit_log: AuditLog::off(),
        timing: TimingSettings::default(),
        metrics: RequestRecorder::new(Arc::new(RequestMetrics::new(Arc::default()))),
        metrics_page: MetricsPage::empty(limit),
        date: DateCache::default(),
        request_ids: RequestIds::new("bench".to_owned()),
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let request = request.to_vec();
    let client = thread::spawn(move || ask(address, &request, requests));
    let listener = Listener::from_std(listener, driver()).expect("a listener");
    let (stream, _) = listener.accept().await.expect("a connection");
    let registration = service.table.register(stream.shut_down_handle()).expect("a place");
    serve(service, stream, registration).await;
    client.join().expect("every request was answered");
}

/// Sends the request again and again over one connection, each after the answer to the one before.
fn ask(address: SocketAddr, request: &[u8], requests: u64) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let mut answer = Vec::new();
    for _ in 0..requests {
        stream.write_all(request).expect("the request is sent");
        answer.clear();
        while !is_whole(&answer) {
            let mut piece = [0; 16 * 1024];
            let count = stream.read(&mut piece).expect("an answer");
            assert_ne!(count, 0, "the server goes on");
            answer.extend_from_slice(&piece[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&answer));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).expect("a head of text");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    answer.len() == end + 4 + length
}

fn buffer_pool(criterion: &mut Criterion) {
    let tenant_id = samples::tenant_id();
    let mut group = criterion.benchmark_group("buffer pool");
    let pool = BufferPool::new(8 * LARGE_BLOCK_BYTES);
    group.bench_function("small block, lent and given back", |bencher| {
        bencher.iter(|| black_box(pool.small_block()).is_some());
    });
    group.bench_function("large block, lent and given back", |bencher| {
        bencher.iter(|| black_box(pool.large_block(&tenant_id)).is_some());
    });
    let of_tenant: Vec<_> = from_fn(|| pool.large_block(&tenant_id)).collect();
    group.bench_function("large block, refused at the tenant's limit", |bencher| {
        bencher.iter(|| black_box(pool.large_block(&tenant_id)).is_none());
    });
    let rest: Vec<_> = from_fn(|| pool.small_block()).collect();
    group.bench_function("small block, refused at the pool's limit", |bencher| {
        bencher.iter(|| black_box(pool.small_block()).is_none());
    });
    drop((of_tenant, rest));
    group.finish();
}

criterion_group!(benches, allocations, buffer_pool);
criterion_main!(benches);
