//! Claims of `docs/PERFORMANCE.md` as ratios: ours and what it is held against run in turns within one measurement, so
//! that a busy or another machine changes both. Ends with 1 where a ratio is over its bound.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run fails by panicking")]

use std::cell::RefCell;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput};
use just_storage::api::http1::{DateCache, Fields, HeadParser, RequestHead, ResponseHead};
use just_storage::api::{AccessLog, AccessLogReader, AccessRecord, Wording, add_object_fields, route};
use just_storage::application::ports::{BlobStore as _, BlobUpload as _};
use just_storage::domain::value_objects::StorageClass;
use just_storage::infrastructure::data_plane::buffers::{BufferPool, LARGE_BLOCK_BYTES};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::pwrite;
use sha2::{Digest as _, Sha256};

mod samples;
mod site;

use site::{BodyInMemory, PIECE_BYTES, Site, get_small, put};

const SMALL_BYTES: usize = 4096;
const LARGE_BYTES: usize = 32 * 1024 * 1024;
/// So many calls are timed together where one is too short for the clock.
const CALLS: u32 = 1000;

/// A time divided by another one.
struct Ratio;

impl Measurement for Ratio {
    type Intermediate = ();
    type Value = f64;

    /// Every benchmark here measures by itself, so that this is never asked.
    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        0.0
    }

    fn add(&self, one: &f64, other: &f64) -> f64 {
        one + other
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Ratio {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        "×"
    }

    fn scale_throughputs(&self, _: f64, _: &Throughput, _: &mut [f64]) -> &'static str {
        "×"
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "×"
    }
}

/// A claim, and the ratios that were measured of it.
struct Claim {
    name: &'static str,
    ratio_max: f64,
    measured: RefCell<Vec<f64>>,
}

impl Claim {
    fn new(name: &'static str, ratio_max: f64) -> Self {
        Self { name, ratio_max, measured: RefCell::default() }
    }

    /// Takes `ours` and `reference` in turns, the order alternating, and gives the sum of the ratios.
    async fn ratios(
        &self,
        iterations: u64,
        mut ours: impl AsyncFnMut() -> Duration,
        mut reference: impl FnMut() -> Duration,
    ) -> f64 {
        let mut sum = 0.0;
        for iteration in 0..iterations {
            let (ours, reference) = if iteration % 2 == 0 {
                let ours = ours().await;
                (ours, reference())
            } else {
                let reference = reference();
                (ours().await, reference)
            };
            let ratio = ours.as_secs_f64() / reference.as_secs_f64();
            self.measured.borrow_mut().push(ratio);
            sum += ratio;
        }
        sum
    }

    /// The median, and whether it keeps the bound. `None` if the claim was left out of this run.
    fn verdict(&self) -> Option<(f64, bool)> {
        let mut measured = self.measured.borrow_mut();
        measured.sort_by(f64::total_cmp);
        let median = *measured.get(measured.len() / 2)?;
        Some((median, median <= self.ratio_max))
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}

/// Taking in a large body, hashed and on its way to the disk, against the slower of the two by itself: one is to run
/// beside the other.
fn large_upload(criterion: &mut Criterion<Ratio>, claim: &Claim) {
    let (site, body) = (Site::new(), vec![7; LARGE_BYTES]);
    criterion.bench_function(claim.name, |bencher| {
        bencher.iter_custom(|iterations| {
            site.on_core(async |store, _| {
                let ours = async || {
                    let started = Instant::now();
                    let length = Some(LARGE_BYTES as u64);
                    let upload = store.begin(StorageClass::Hot, length, &samples::tenant_id());
                    let (mut upload, mut source) = (upload.expect("an upload"), BodyInMemory::new(&body));
                    upload.receive_first(&mut source).await.expect("bytes are taken");
                    upload.receive_rest(&mut source).await.expect("bytes are taken");
                    started.elapsed()
                };
                let reference = || timed(|| hash_copied(&body)).max(timed(|| write_directly(&body)));
                claim.ratios(iterations, ours, reference).await
            })
        });
    });
}

/// SHA-256 and the copy that receiving is.
fn hash_copied(body: &[u8]) -> [u8; 32] {
    let (mut hasher, mut block) = (Sha256::new(), vec![0; PIECE_BYTES]);
    for piece in body.chunks(PIECE_BYTES) {
        block[..piece.len()].copy_from_slice(piece);
        hasher.update(black_box(&block[..piece.len()]));
    }
    hasher.finalize().into()
}

/// The same bytes to a file without a name, in blocks of the same size and around the page cache as well.
fn write_directly(body: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::DIRECT;
    let file =
        open(env!("CARGO_TARGET_TMPDIR"), flags, Mode::RUSR | Mode::WUSR).expect("a file without a name");
    let pool = BufferPool::new(2 * LARGE_BLOCK_BYTES);
    let mut block = pool.large_block(&samples::tenant_id()).expect("an aligned block");
    let mut offset = 0;
    for piece in body.chunks(LARGE_BLOCK_BYTES) {
        block.clear();
        block.append(piece);
        let written = pwrite(&file, block.bytes(), offset).expect("bytes are written");
        assert_eq!(written, piece.len(), "a block is written whole");
        offset += piece.len() as u64;
    }
}

/// Our part of a small `GET` without its bytes, against the server's part of the system calls that carry it.
fn head_against_tcp(criterion: &mut Criterion<Ratio>, claim: &Claim) {
    let (object, date) = (samples::stored_object(), DateCache::default());
    let (mut head, mut output) = (RequestHead::default(), Vec::with_capacity(2 * SMALL_BYTES));
    let (mut client, mut server) = connected();
    let (answer, mut input) = (vec![7; SMALL_BYTES + 512], vec![0; SMALL_BYTES + 512]);
    let mut ours_once = || {
        let parsed = HeadParser::default().parse(samples::GET_BY_KEY, &samples::HEAD_LIMITS, &mut head);
        assert!(parsed.is_ok() && route(&head).is_ok(), "the sample has a route");
        let request_id = head.single("x-request-id").unwrap_or_default().as_bytes();
        let response =
            ResponseHead { status: 200, request_id, length_bytes: Some(object.size_bytes), connection: None };
        output.clear();
        let add_fields = |fields: &mut Fields| add_object_fields(fields, black_box(&object));
        response.append_to(&date, Instant::now(), add_fields, &mut output);
    };
    let mut reference_once = || {
        client.write_all(samples::GET_BY_KEY).expect("the request is sent");
        let length = samples::GET_BY_KEY.len();
        let taken = timed(|| {
            server.read_exact(&mut input[..length]).expect("the request comes");
            server.write_all(&answer).expect("the answer is sent");
        });
        client.read_exact(&mut input).expect("the answer comes");
        taken
    };
    let site = Site::new();
    criterion.bench_function(claim.name, |bencher| {
        bencher.iter_custom(|iterations| {
            site.on_core(async |_, _| {
                let ours = async || timed(|| (0..CALLS).for_each(|_| ours_once()));
                let reference = || (0..CALLS).map(|_| reference_once()).sum();
                claim.ratios(iterations, ours, reference).await
            })
        });
    });
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("a TCP socket");
    (client, server)
}

/// A small blob that is in memory, through the store, against one pread(2) of the same.
fn cached_read(criterion: &mut Criterion<Ratio>, claim: &Claim) {
    let site = Site::new();
    let location = site.on_core(async |store, _| put(&store, StorageClass::Hot, &[7; SMALL_BYTES]).await);
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.write_all_at(&[7; SMALL_BYTES], 0).expect("bytes are written");
    let mut room = [0; SMALL_BYTES];
    criterion.bench_function(claim.name, |bencher| {
        bencher.iter_custom(|iterations| {
            site.on_core(async |store, _| {
                let mut bytes = get_small(&store, &location, Vec::new(), SMALL_BYTES).await;
                let ours = async || {
                    let started = Instant::now();
                    for _ in 0..CALLS {
                        bytes.clear();
                        bytes = get_small(&store, &location, std::mem::take(&mut bytes), SMALL_BYTES).await;
                    }
                    started.elapsed()
                };
                let reference =
                    || timed(|| (0..CALLS).for_each(|_| file.read_exact_at(&mut room, 0).expect("a read")));
                claim.ratios(iterations, ours, reference).await
            })
        });
    });
}

/// A request told to the log by hand, against the JSON of the log's other lines.
fn request_log(criterion: &mut Criterion<Ratio>, claim: &Claim) {
    let (log, reader) = AccessLog::new();
    let (mut wording, mut output) = (Wording::new(true), Vec::new());
    let general =
        tracing::Dispatch::new(tracing_subscriber::fmt().json().with_writer(std::io::sink).finish());
    let site = Site::new();
    criterion.bench_function(claim.name, |bencher| {
        bencher.iter_custom(|iterations| {
            site.on_core(async |_, _| {
                let ours = async || timed(|| tell(&log, &reader, &mut wording, &mut output));
                let reference = || timed(|| tracing::dispatcher::with_default(&general, tell_generally));
                claim.ratios(iterations, ours, reference).await
            })
        });
    });
}

fn a_record() -> AccessRecord {
    AccessRecord {
        method: "GET",
        path: "/v1/keys/models/acme/llama/model.safetensors".into(),
        status: 200,
        bytes_in: 0,
        bytes_out: 4096,
        ended: SystemTime::now(),
        duration: Duration::from_micros(7),
        request_id: "0123456789abcdef".into(),
        traceparent: None,
        asker: None,
    }
}

fn tell(log: &AccessLog, reader: &AccessLogReader, wording: &mut Wording, output: &mut Vec<u8>) {
    (0..CALLS).for_each(|_| log.push(a_record()));
    output.clear();
    reader.drain(wording, output);
}

fn tell_generally() {
    for _ in 0..CALLS {
        let AccessRecord { method, path, status, bytes_in, bytes_out, duration, request_id, .. } = a_record();
        let duration_us = duration.as_micros() as u64;
        tracing::info!(
            target: "access", method, path = &*path, status, bytes_in, bytes_out, duration_us,
            request_id = &*request_id, "request"
        );
    }
}

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .with_measurement(Ratio)
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    type Measure = fn(&mut Criterion<Ratio>, &Claim);
    let claims: [(Claim, Measure); 4] = [
        (Claim::new("32 MiB taken in / hashed or written alone", 1.25), large_upload),
        (Claim::new("head of GET parsed, routed, answered / its TCP", 0.33), head_against_tcp),
        (Claim::new("cached 4 KiB through the store / pread", 2.0), cached_read),
        (Claim::new("request logged by hand / in general", 0.5), request_log),
    ];
    for (claim, measure) in &claims {
        measure(&mut criterion, claim);
    }
    criterion.final_summary();
    let mut all_hold = true;
    for (claim, _) in &claims {
        let Some((median, holds)) = claim.verdict() else { continue };
        all_hold &= holds;
        let word = if holds { "holds" } else { "DOES NOT HOLD" };
        println!("{:50} {median:.3} × (at most {:.2}): {word}", claim.name, claim.ratio_max);
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
