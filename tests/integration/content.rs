//! Bytes to store that are different for every seed and the same in every run, and what names them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Marsaglia's xorshift64*: good enough to vary tests, and a failing run can be repeated from its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `bound - 1`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// `length` bytes that nothing else of another seed looks like.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// The content hash as the API writes it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of `Repr-Digest` (RFC 9530 §3).
pub(crate) fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

/// The entity tag that the API gives this content.
pub(crate) fn etag(bytes: &[u8]) -> String {
    format!("\"sha256-{}\"", sha256_hex(bytes))
}

/// A body in chunks of at most `chunk_bytes` (RFC 9112 §7.1), with these lines as its trailer section.
pub(crate) fn chunked(bytes: &[u8], chunk_bytes: usize, trailers: &[&str]) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes.len() + 64);
    for chunk in bytes.chunks(chunk_bytes) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n");
    for line in trailers {
        body.extend_from_slice(format!("{line}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}
