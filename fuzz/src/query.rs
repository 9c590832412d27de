//! Queries, and the paths of keys.

use just_storage::api::http1::{HeadLimits, HeadParser, RequestHead};
use just_storage::api::{Route, read_query, route};

const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 1024, fields_max: 8 };

const KNOWN: [&str; 6] = ["namespace", "tenant_id", "storage_class", "status", "limit", "cursor"];

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(parameters) = read_query(text, &KNOWN) {
        assert!(parameters.len() <= text.split('&').count());
        // Decoded once: nothing grows by it.
        assert!(parameters.iter().all(|(_, value)| value.len() <= text.len()));
    }
    let request = format!("PUT /v1/keys/{text} HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut head = RequestHead::default();
    if !matches!(HeadParser::default().parse(request.as_bytes(), &LIMITS, &mut head), Ok(Some(_))) {
        return;
    }
    if let Ok(Route::Key(path)) = route(&head) {
        let key = path.key.as_str();
        assert!((1..=1024).contains(&key.len()) && !key.chars().any(char::is_control));
        assert!(key.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
        for name in [path.scope.namespace.as_str(), path.scope.tenant_id.as_str()] {
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
            assert!(name.starts_with(|first: char| first.is_ascii_alphanumeric()));
        }
    }
}
