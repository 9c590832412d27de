//! `Range` (RFC 9110 §14.2).

use crate::domain::value_objects::RangeRequest;

/// The most ranges that one field may ask for. A longer one is ignored, as the standard allows (RFC 9110 §14.2).
pub const RANGES_MAX: usize = 256;

/// What a `Range` field asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeHeader {
    /// Another unit, malformed, or more than [`RANGES_MAX`]: as if the field were not there.
    Ignored,
    /// One part.
    One(RangeRequest),
    /// More than one part, in the order in which they are asked for.
    Several(Vec<RangeRequest>),
}

/// Reads the value of a `Range` field.
pub fn parse_range(value: &str) -> RangeHeader {
    let Some((unit, specs)) = value.split_once('=') else { return RangeHeader::Ignored };
    if !unit.eq_ignore_ascii_case("bytes") {
        return RangeHeader::Ignored;
    }
    let specs = specs.split(',').map(|spec| spec.trim_matches([' ', '\t']));
    let mut specs = specs.filter(|spec| !spec.is_empty()).map(parse_spec);
    let Some(first) = specs.next().flatten() else { return RangeHeader::Ignored };
    // Where there is no other, which is so most often, this takes no memory.
    let Some(others) = specs.take(RANGES_MAX).collect::<Option<Vec<_>>>() else {
        return RangeHeader::Ignored;
    };
    match others.len() {
        0 => RangeHeader::One(first),
        RANGES_MAX.. => RangeHeader::Ignored,
        _ => RangeHeader::Several([&[first], others.as_slice()].concat()),
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
            (
                "bytes=1-2, ,-4\t,3-",
                RangeHeader::Several(vec![
                    RangeRequest::FromTo { first: 1, last: 2 },
                    RangeRequest::Suffix { length: 4 },
                    RangeRequest::From { first: 3 },
                ]),
            ),
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
            "bytes=x,1-2",
            "lines=1-2",
            "bytes 1-2",
        ] {
            assert_eq!(parse_range(value), RangeHeader::Ignored, "{value}");
        }
    }

    #[test]
    fn ranges_are_counted() {
        let of = |count: usize| parse_range(&format!("bytes={}", vec!["0-0"; count].join(", ,")));
        let RangeHeader::Several(ranges) = of(RANGES_MAX) else { panic!("as many as may be") };
        assert_eq!(ranges.len(), 256);
        assert_eq!(of(RANGES_MAX + 1), RangeHeader::Ignored);
        assert_eq!(of(5 * RANGES_MAX), RangeHeader::Ignored);
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "(bytes=)?[0-9,\\- ]{0,40}") {
            if let RangeHeader::Several(ranges) = parse_range(&value) {
                prop_assert!((2..=RANGES_MAX).contains(&ranges.len()));
            }
        }
    }
}
