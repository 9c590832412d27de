//! How many instructions callgrind counts in what every request passes through: head parser, router, credentials,
//! response writer. Unlike times they hardly move on a busy machine. `tools/check_instructions.py` holds them to the baseline.
//!
//! What a function is given is made in its `setup`, and so not counted; what it returns is dropped behind the count.
//! Whatever is reused between the requests of a connection has been used once before.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run fails by panicking")]
#![allow(missing_docs, reason = "the macros make public items without a word")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use gungraun::{library_benchmark, library_benchmark_group, main};
use just_storage::api::http1::{
    BodyDecoder, BodyFraming, DateCache, Fields, HeadLimits, HeadParser, RequestHead, ResponseHead,
};
use just_storage::api::{Problem, Route, SystemClock, add_object_fields, route};
use just_storage::application::credentials::{Authenticator, NewApiKey, RequestRate, RequestRates, Verified};
use just_storage::application::ports::ObjectCommit;
use just_storage::domain::entities::StoredObject;
use just_storage::domain::value_objects::{ContentHash, PackId, Precondition};
use just_storage::infrastructure::plane_channel::Write;
use just_storage::infrastructure::storage::log_record;
use just_storage::infrastructure::storage::pack_format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchLink, RecordHeader, RecordKind,
};

mod samples;

/// A parser that has read one head, and the next one.
fn warm_parser(input: &'static [u8]) -> (HeadParser, HeadLimits, RequestHead, &'static [u8]) {
    (HeadParser::default(), samples::HEAD_LIMITS, samples::parsed(input), input)
}

#[library_benchmark(setup = warm_parser)]
#[bench::get(samples::GET_BY_KEY)]
#[bench::get_from_a_browser(samples::GET_FROM_A_BROWSER)]
#[bench::put(samples::PUT_BY_KEY)]
fn parse_head(
    (mut parser, limits, mut head, input): (HeadParser, HeadLimits, RequestHead, &'static [u8]),
) -> (bool, RequestHead) {
    (parser.parse(black_box(input), &limits, &mut head).is_ok(), head)
}

#[library_benchmark(setup = samples::chunked)]
#[bench::chunks_of_1_kib(1024)]
fn decode_64_kib(input: Vec<u8>) -> (usize, Vec<u8>) {
    let (mut decoder, mut position) = (BodyDecoder::new(BodyFraming::Chunked), 0);
    while let Ok(decoded) = decoder.decode(black_box(&input[position..]), usize::MAX) {
        position += decoded.consumed;
        if decoder.has_ended() {
            break;
        }
    }
    (position, input)
}

#[library_benchmark(setup = samples::parsed)]
#[bench::key(samples::GET_BY_KEY)]
#[bench::key_with_escapes(samples::GET_BY_ESCAPED_KEY)]
#[bench::object(samples::GET_BY_ID)]
#[bench::no_route(samples::GET_NOTHING)]
fn find_route(head: RequestHead) -> (Result<Route, Problem>, RequestHead) {
    (route(black_box(&head)), head)
}

/// A `Date` that has been made already, and room that was used before.
fn warm_output() -> (DateCache, Instant, Vec<u8>) {
    let (date, now, mut output) = (DateCache::default(), Instant::now(), Vec::with_capacity(4096));
    date.append_field(now, &mut output);
    output.clear();
    (date, now, output)
}

fn warm_writer() -> (StoredObject, DateCache, Instant, Vec<u8>) {
    let (date, now, output) = warm_output();
    (samples::stored_object(), date, now, output)
}

#[library_benchmark(setup = warm_writer)]
#[bench::download()]
fn write_head_of(
    (object, date, now, mut output): (StoredObject, DateCache, Instant, Vec<u8>),
) -> (Vec<u8>, StoredObject, DateCache) {
    let head = ResponseHead {
        status: 200,
        request_id: b"0123456789abcdef",
        length_bytes: Some(object.size_bytes),
        connection: None,
    };
    let add_fields = |fields: &mut Fields| add_object_fields(fields, black_box(&object));
    head.append_to(&date, now, add_fields, &mut output);
    (output, object, date)
}

#[library_benchmark(setup = warm_output)]
#[bench::without_fields()]
fn write_bare_head((date, now, mut output): (DateCache, Instant, Vec<u8>)) -> (Vec<u8>, DateCache) {
    let head = ResponseHead {
        status: 204,
        request_id: black_box(b"0123456789abcdef"),
        length_bytes: None,
        connection: None,
    };
    head.append_to(&date, now, |_| {}, &mut output);
    (output, date)
}

/// A commit as the log gets it, its body, and a batch with room.
fn change_and_batch(body_bytes: usize) -> (Write, Vec<u8>, Vec<u8>, Vec<u8>) {
    let commit = ObjectCommit {
        stored: samples::stored_object(),
        precondition: Precondition::default(),
        is_first_version: false,
        is_reference: false,
    };
    let mut batch = vec![0; BATCH_HEADER_BYTES + 2 * body_bytes];
    batch.truncate(BATCH_HEADER_BYTES);
    (Write::Commit(commit), vec![7; body_bytes], Vec::with_capacity(512), batch)
}

#[library_benchmark(setup = change_and_batch)]
#[bench::of_4_kib(4096)]
fn encode_pack_record(
    (write, body, mut details, mut batch): (Write, Vec<u8>, Vec<u8>, Vec<u8>),
) -> (BatchLink, Vec<u8>, Write, Vec<u8>) {
    log_record::encode(black_box(&write), true, &mut details);
    let pack = PackId::from_u64(7);
    let header = RecordHeader {
        kind: RecordKind::Change,
        pack,
        offset: 4096 + BATCH_HEADER_BYTES as u64,
        sequence: 1,
        content_hash: ContentHash::from_bytes([7; 32]),
        body_bytes: 4096,
        body_checksum: crc32c::crc32c(&body),
        details_bytes: details.len() as u32,
    };
    header.append_record(&mut batch, &body, &details);
    let link = BatchHeader::seal(&mut batch, pack, BatchLink::FIRST, 1);
    (link, batch, write, body)
}

/// A core that has found one API key good a moment ago, and the key.
fn core_that_knows_a_key(rate: Option<RequestRate>) -> (Authenticator, String) {
    let key = NewApiKey::of_random(&[7; NewApiKey::RANDOM_BYTES]);
    let rates = rate.map(RequestRates::new).map(Arc::new);
    let (authenticator, text) = (Authenticator::new(None, rates), key.to_string());
    let repository = samples::OneApiKey(&key);
    let verified = authenticator.verify(text.as_bytes(), &repository, &SystemClock);
    verified.now_or_never().expect("it is looked up at once").expect("it is good");
    authenticator.remembered(text.as_bytes()).expect("it is remembered");
    (authenticator, text)
}

/// Large enough for all that the benchmark asks.
fn rate() -> Option<RequestRate> {
    let per_second = NonZeroU32::new(1000)?;
    Some(RequestRate::new(per_second, per_second))
}

#[library_benchmark(setup = core_that_knows_a_key)]
#[bench::api_key(None)]
#[bench::api_key_with_a_rate(rate())]
fn know_credential(
    (authenticator, key): (Authenticator, String),
) -> (Option<Verified>, Authenticator, String) {
    (authenticator.remembered(black_box(key.as_bytes())), authenticator, key)
}

library_benchmark_group!(name = parser, benchmarks = [parse_head, decode_64_kib]);
library_benchmark_group!(name = router, benchmarks = find_route);
library_benchmark_group!(name = credentials, benchmarks = know_credential);
library_benchmark_group!(name = response_writer, benchmarks = [write_head_of, write_bare_head]);
library_benchmark_group!(name = pack_encoding, benchmarks = encode_pack_record);

main!(library_benchmark_groups = [parser, router, credentials, response_writer, pack_encoding]);
