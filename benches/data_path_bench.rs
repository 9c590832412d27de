//! The parts of the data path that every request pays for: head parser, chunked decoder, hashing.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use just_storage::api::http1::{BodyDecoder, BodyFraming, HeadLimits, HeadParser, RequestHead};
use sha2::{Digest as _, Sha256};

const HEAD: &[u8] = b"GET /v1/keys/models/acme/llama/model.safetensors HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-Id: 0123456789abcdef\r\n\r\n";

fn head(criterion: &mut Criterion) {
    let limits = HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 32 * 1024, fields_max: 100 };
    let mut request = RequestHead::default();
    let mut group = criterion.benchmark_group("http1");
    group.throughput(Throughput::Elements(1));
    group.bench_function("head", |bencher| {
        bencher.iter(|| HeadParser::default().parse(black_box(HEAD), &limits, &mut request).is_ok());
    });
    let mut chunked = Vec::new();
    for _ in 0..64 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.extend_from_slice(&[7; 1024]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    group.throughput(Throughput::Bytes(chunked.len() as u64));
    group.bench_function("chunked body of 64 KiB", |bencher| {
        bencher.iter(|| {
            let (mut decoder, mut position) = (BodyDecoder::new(BodyFraming::Chunked), 0);
            while !decoder.has_ended() {
                match decoder.decode(black_box(&chunked[position..]), usize::MAX) {
                    Ok(decoded) => position += decoded.consumed,
                    Err(_) => break,
                }
            }
            position
        });
    });
    group.finish();
}

fn hashing(criterion: &mut Criterion) {
    let slice = vec![7; 128 * 1024];
    let mut group = criterion.benchmark_group("sha256");
    group.throughput(Throughput::Bytes(slice.len() as u64));
    group.bench_function("slice of 128 KiB", |bencher| bencher.iter(|| Sha256::digest(black_box(&slice))));
    group.finish();
}

criterion_group!(benches, head, hashing);
criterion_main!(benches);
