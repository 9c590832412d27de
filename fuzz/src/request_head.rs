//! Heads of requests, and the routes that they lead to. The first byte says how the rest comes: at once, or in two parts.

use just_storage::api::http1::{HeadLimits, HeadParser, RequestHead};

const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 512, header_bytes_max: 2048, fields_max: 32 };

fn parse(parts: &[&[u8]]) -> Option<Result<(usize, RequestHead), ()>> {
    let (mut parser, mut head) = (HeadParser::default(), RequestHead::default());
    for part in parts {
        match parser.parse(part, &LIMITS, &mut head) {
            Ok(Some(length)) => return Some(Ok((length, head))),
            Ok(None) => {}
            Err(_) => return Some(Err(())),
        }
    }
    None
}

pub fn check(data: &[u8]) {
    let Some((cut, input)) = data.split_first() else { return };
    let whole = parse(&[input]);
    let cut = usize::from(*cut).min(input.len());
    let in_parts = parse(&[&input[..cut], input]);
    let lengths = |parsed: &Option<Result<(usize, RequestHead), ()>>| {
        parsed.as_ref().map(|parsed| parsed.as_ref().map(|(length, head)| (*length, head.framing())).ok())
    };
    assert_eq!(lengths(&whole), lengths(&in_parts), "how the bytes come changes nothing");
    let Some(Ok((length, head))) = whole else { return };
    assert!(input[..length].ends_with(b"\r\n\r\n"));
    assert!(head.path().starts_with('/') || matches!(head.method().as_str(), "OPTIONS" | "CONNECT"));
    assert!(
        head.path().bytes().chain(head.query().unwrap_or("").bytes()).all(|byte| byte.is_ascii_graphic())
    );
    for (name, value) in head.fields() {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'));
        assert!(value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'));
    }
    assert!(head.values("host").count() <= 1 && head.values("content-length").count() <= 1);
    assert!(!(head.has("content-length") && head.has("transfer-encoding")));
    let _ = just_storage::api::route(&head);
}
