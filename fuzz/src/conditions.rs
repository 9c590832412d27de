//! Conditional fields, as lines of a request, held against an object.

use just_storage::api::http1::{Conditions, HeadLimits, HeadParser, RequestHead, Verdict};
use just_storage::domain::value_objects::{ContentHash, CurrentVersion, Timestamp};

const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 64, header_bytes_max: 8192, fields_max: 64 };

pub fn check(data: &[u8]) {
    let request = [b"GET / HTTP/1.1\r\nHost: h\r\n", data, b"\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    if !matches!(HeadParser::default().parse(&request, &LIMITS, &mut head), Ok(Some(_))) {
        return;
    }
    let conditions = Conditions::of(&head);
    let current = CurrentVersion {
        content_hash: ContentHash::from_bytes([0xab; 32]),
        updated_at: Timestamp::from_millis(1_000_000_000_500),
    };
    let verdict = conditions.verdict(&current);
    let _ = Conditions::range_applies(&head, &current);
    let precondition = conditions.into_precondition();
    if verdict == Verdict::Failed {
        assert!(!precondition.is_empty() && !precondition.holds(Some(&current)));
    }
    if precondition.is_empty() {
        assert!(precondition.holds(Some(&current)) && precondition.holds(None));
    }
}
