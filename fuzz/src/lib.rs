//! What is done with the bytes that a fuzz target is given, a module for each. libFuzzer calls them from `fuzz_targets/`;
//! `tests/integration/fuzz_corpora.rs` has this file as a module of its own, and calls them on whatever toolchain is there.

pub mod archive;
pub mod chunked_body;
pub mod conditions;
pub mod credentials;
pub mod cursor;
pub mod digest_fields;
pub mod pack_records;
pub mod query;
pub mod range;
pub mod request_head;
pub mod signed_url;
