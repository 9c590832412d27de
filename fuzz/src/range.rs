//! `Range`, and what of an object it means. The first eight bytes are the object's size.

use just_storage::api::http1::{RANGES_MAX, RangeHeader, parse_range};

pub fn check(data: &[u8]) {
    let Some((size, value)) = data.split_first_chunk::<8>() else { return };
    let (size, Ok(value)) = (u64::from_le_bytes(*size), std::str::from_utf8(value)) else { return };
    let requests = match parse_range(value) {
        RangeHeader::Ignored => return,
        RangeHeader::One(request) => vec![request],
        RangeHeader::Several(requests) => requests,
    };
    assert!(requests.len() <= RANGES_MAX);
    for range in requests.into_iter().filter_map(|request| request.resolve(size)) {
        assert!(range.length >= 1 && range.offset.checked_add(range.length).is_some_and(|end| end <= size));
        assert!(range.last() < size);
    }
}
