//! The conditional fields of a request (RFC 9110 §13), read into the rules of the store.

use super::head::RequestHead;
use crate::domain::value_objects::{ContentHash, CurrentVersion, EntityTags, Precondition, Timestamp};

/// All conditions of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`, compared strongly.
    pub if_match: Option<EntityTags>,
    /// `If-None-Match`, compared weakly.
    pub if_none_match: Option<EntityTags>,
    /// `If-Modified-Since`, in seconds since the epoch.
    pub if_modified_since: Option<i64>,
    /// `If-Unmodified-Since`, in seconds since the epoch.
    pub if_unmodified_since: Option<i64>,
}

/// What follows for a `GET` or `HEAD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as usual.
    Proceed,
    /// `304`
    NotModified,
    /// `412`
    Failed,
}

/// Whether `W/"…"` is the same tag (RFC 9110 §8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Conditions {
    /// Reads them from a head.
    pub fn of(head: &RequestHead) -> Self {
        Self {
            if_match: head.list("if-match").map(|list| entity_tags(&list, Comparison::Strong)),
            if_none_match: head.list("if-none-match").map(|list| entity_tags(&list, Comparison::Weak)),
            if_modified_since: head.single("if-modified-since").and_then(http_date),
            if_unmodified_since: head.single("if-unmodified-since").and_then(http_date),
        }
    }

    /// What must hold for a write.
    pub fn into_precondition(self) -> Precondition {
        Precondition {
            if_match: self.if_match,
            if_none_match: self.if_none_match,
            if_unmodified_since: self.if_unmodified_since,
        }
    }

    /// What follows for a read of `current`, in the order of RFC 9110 §13.2.2.
    pub fn verdict(&self, current: &CurrentVersion) -> Verdict {
        let unchanged = Precondition {
            if_match: self.if_match.clone(),
            if_none_match: None,
            if_unmodified_since: self.if_unmodified_since,
        };
        if !unchanged.holds(Some(current)) {
            return Verdict::Failed;
        }
        let fresh = match (&self.if_none_match, self.if_modified_since) {
            (Some(EntityTags::Any), _) => false,
            (Some(EntityTags::Hashes(hashes)), _) => !hashes.contains(&current.content_hash),
            (None, Some(since)) => current.updated_at.as_seconds() > since,
            (None, None) => true,
        };
        if fresh { Verdict::Proceed } else { Verdict::NotModified }
    }

    /// Whether a `Range` is to be obeyed (RFC 9110 §13.1.5). A date never matches: two changes can share a second.
    pub fn range_applies(head: &RequestHead, current: &CurrentVersion) -> bool {
        let own = |tag: &str| own_tag(tag.trim(), Comparison::Strong) == Some(current.content_hash);
        !head.has("if-range") || head.single("if-range").is_some_and(own)
    }
}

/// Puts `If-Match` or `If-None-Match`, by its name in lower case, into what must hold for a write, in the place of what was
/// said before. `false` if it is neither.
pub fn set_condition(precondition: &mut Precondition, name: &str, value: &str) -> bool {
    match name {
        "if-match" => precondition.if_match = Some(entity_tags(value, Comparison::Strong)),
        "if-none-match" => precondition.if_none_match = Some(entity_tags(value, Comparison::Weak)),
        _ => return false,
    }
    true
}

/// Reads `*` or a list of tags. What is not one of ours matches nothing and is left out.
fn entity_tags(list: &str, comparison: Comparison) -> EntityTags {
    if list.trim() == "*" {
        return EntityTags::Any;
    }
    // Our own tags hold no comma, so that a strange tag cut in two still matches nothing.
    EntityTags::Hashes(list.split(',').filter_map(|tag| own_tag(tag.trim(), comparison)).collect())
}

fn own_tag(tag: &str, comparison: Comparison) -> Option<ContentHash> {
    let tag = match tag.strip_prefix("W/") {
        Some(_) if comparison == Comparison::Strong => return None,
        Some(tag) => tag,
        None => tag,
    };
    let hex = tag.strip_prefix("\"sha256-")?.strip_suffix('"')?;
    // Tags are compared byte by byte, and ours are written in lower case.
    if hex.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    ContentHash::from_hex(hex).ok()
}

/// RFC 9110 §5.6.7: a field that is no date is ignored.
fn http_date(text: &str) -> Option<i64> {
    httpdate::parse_http_date(text).ok().map(|time| Timestamp::from(time).as_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http1::head::{HeadLimits, HeadParser};

    fn head(fields: &str) -> RequestHead {
        let limits = HeadLimits { request_line_bytes_max: 999, header_bytes_max: 9999, fields_max: 20 };
        let mut head = RequestHead::default();
        let input = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        HeadParser::default().parse(input.as_bytes(), &limits, &mut head).unwrap().unwrap();
        head
    }

    #[test]
    fn verdicts_in_the_order_of_the_standard() {
        let hash = ContentHash::from_bytes([0xab; 32]);
        let current =
            CurrentVersion { content_hash: hash, updated_at: Timestamp::from_millis(1_000_000_000_500) };
        let (own, other) = (format!("\"sha256-{hash}\""), format!("\"sha256-{}\"", "0".repeat(64)));
        let (same, earlier) = ("Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:39 GMT");
        for (fields, verdict) in [
            ("X: y".to_owned(), Verdict::Proceed),
            (format!("If-None-Match: {own}"), Verdict::NotModified),
            (format!("If-None-Match: W/{own}"), Verdict::NotModified),
            (format!("If-None-Match: \"x\", {own}"), Verdict::NotModified),
            (format!("If-None-Match: \"x\"\r\nIf-None-Match: {own}"), Verdict::NotModified),
            ("If-None-Match: *".to_owned(), Verdict::NotModified),
            (format!("If-None-Match: {other}"), Verdict::Proceed),
            (format!("If-None-Match: {}", own.to_uppercase()), Verdict::Proceed),
            (format!("If-Match: {own}"), Verdict::Proceed),
            (format!("If-Match: W/{own}"), Verdict::Failed),
            (format!("If-Match: {other}"), Verdict::Failed),
            (format!("If-Match: {other}\r\nIf-None-Match: {own}"), Verdict::Failed),
            (format!("If-Modified-Since: {same}"), Verdict::NotModified),
            (format!("If-Modified-Since: {earlier}"), Verdict::Proceed),
            (format!("If-Modified-Since: {same}\r\nIf-None-Match: {other}"), Verdict::Proceed),
            (format!("If-Unmodified-Since: {same}"), Verdict::Proceed),
            (format!("If-Unmodified-Since: {earlier}"), Verdict::Failed),
            (format!("If-Unmodified-Since: {earlier}\r\nIf-Match: {own}"), Verdict::Proceed),
            ("If-Modified-Since: yesterday".to_owned(), Verdict::Proceed),
        ] {
            assert_eq!(Conditions::of(&head(&fields)).verdict(&current), verdict, "{fields}");
        }
    }

    #[test]
    fn if_range_is_a_strong_tag_or_nothing() {
        let hash = ContentHash::from_bytes([0xab; 32]);
        let current = CurrentVersion { content_hash: hash, updated_at: Timestamp::from_millis(0) };
        assert!(Conditions::range_applies(&head("X: y"), &current));
        assert!(Conditions::range_applies(&head(&format!("If-Range: \"sha256-{hash}\"")), &current));
        for value in [
            format!("W/\"sha256-{hash}\""),
            "\"x\"".into(),
            "Thu, 01 Jan 1970 00:00:00 GMT".into(),
            "*".into(),
            "".into(),
            // One tag and not a list.
            format!("\"x\", \"sha256-{hash}\""),
            format!("\"sha256-{hash}\"\r\nIf-Range: \"sha256-{hash}\""),
        ] {
            assert!(!Conditions::range_applies(&head(&format!("If-Range: {value}")), &current), "{value}");
        }
    }
}
