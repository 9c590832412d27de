//! `Range`, and what of an object it means. The first eight bytes are the object's size.
#![no_main]

use just_storage::api::http1::{RangeHeader, parse_range};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((size, value)) = data.split_first_chunk::<8>() else { return };
    let (size, Ok(value)) = (u64::from_le_bytes(*size), std::str::from_utf8(value)) else { return };
    let RangeHeader::One(request) = parse_range(value) else { return };
    if let Some(range) = request.resolve(size) {
        assert!(range.length >= 1 && range.offset.checked_add(range.length).is_some_and(|end| end <= size));
        assert!(range.last() < size);
    }
});
