//! `Range` (RFC 9110 §14.2).

use crate::domain::value_objects::RangeRequest;

/// What a `Range` field asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeHeader {
    /// Another unit, or malformed: as if the field were not there.
    Ignored,
    /// One part.
    One(RangeRequest),
    /// More than one part.
    Several,
}

/// Reads the value of a `Range` field.
pub fn parse_range(value: &str) -> RangeHeader {
    let Some((unit, specs)) = value.split_once('=') else { return RangeHeader::Ignored };
    if !unit.eq_ignore_ascii_case("bytes") {
        return RangeHeader::Ignored;
    }
    let specs = specs.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let Some(ranges) = specs.map(parse_spec).collect::<Option<Vec<_>>>() else { return RangeHeader::Ignored };
    match ranges.as_slice() {
        [] => RangeHeader::Ignored,
        [one] => RangeHeader::One(*one),
        _ => RangeHeader::Several,
    }
}

fn parse_spec(spec: &str) -> Option<RangeRequest> {
    match spec.split_once('-')? {
        ("", length) => Some(RangeRequest::Suffix { length: position(length)? }),
        (first, "") => Some(RangeRequest::From { first: position(first)? }),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(RangeRequest::FromTo { first, last })
        }
    }
}

/// `1*DIGIT`. A number past 64 bits lies behind every object; the largest one stands for it.
fn position(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_every_form() {
        for (value, expected) in [
            ("bytes=0-0", RangeHeader::One(RangeRequest::FromTo { first: 0, last: 0 })),
            ("Bytes=5-", RangeHeader::One(RangeRequest::From { first: 5 })),
            ("bytes=-5", RangeHeader::One(RangeRequest::Suffix { length: 5 })),
            ("bytes= 1-2 ", RangeHeader::One(RangeRequest::FromTo { first: 1, last: 2 })),
            ("bytes=1-2,,", RangeHeader::One(RangeRequest::FromTo { first: 1, last: 2 })),
            (
                "bytes=1-99999999999999999999",
                RangeHeader::One(RangeRequest::FromTo { first: 1, last: u64::MAX }),
            ),
            ("bytes=1-2, 3-4", RangeHeader::Several),
        ] {
            assert_eq!(parse_range(value), expected, "{value}");
        }
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1-2,x",
            "lines=1-2",
            "bytes 1-2",
        ] {
            assert_eq!(parse_range(value), RangeHeader::Ignored, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "(bytes=)?[0-9,\\- ]{0,40}") {
            parse_range(&value);
        }
    }
}
