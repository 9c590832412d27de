//! What a server answers: objects, pages of them, and problems.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, header};

use super::errors::ClientError;
use crate::domain::value_objects::ContentHash;

/// An object as a server tells of it, and as `--json` shows it: the same fields in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RemoteObject {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) tenant_id: String,
    pub(super) key: Option<String>,
    pub(super) status: String,
    pub(super) storage_class: String,
    pub(super) content_hash: Option<String>,
    pub(super) size_bytes: Option<u64>,
    pub(super) content_type: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

impl RemoteObject {
    /// Its bytes, once they are known.
    pub(super) fn version(&self) -> Option<Version> {
        let content_hash = ContentHash::from_hex(self.content_hash.as_deref()?).ok()?;
        Some(Version { content_hash, size_bytes: self.size_bytes? })
    }
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) objects: Vec<RemoteObject>,
    #[serde(default)]
    pub(super) common_prefixes: Vec<String>,
    pub(super) next_cursor: Option<String>,
}

/// Why not (RFC 9457). Anything may be missing where a proxy has answered.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    pub(super) detail: Option<String>,
    pub(super) code: Option<String>,
    pub(super) parameter: Option<String>,
}

/// The bytes that an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) content_hash: ContentHash,
    pub(super) size_bytes: u64,
}

impl Version {
    /// The strong entity tag that the server has for it.
    pub(super) fn entity_tag(&self) -> String {
        format!("\"sha256-{}\"", self.content_hash)
    }

    /// What the head of an answer says, whether of the whole or of a part.
    ///
    /// # Errors
    /// [`ClientError::Foreign`] if it does not say it.
    pub(super) fn of_answer(headers: &HeaderMap, what: &str) -> Result<Self, ClientError> {
        let foreign = |reason| ClientError::Foreign { what: what.to_owned(), reason };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = text(header::ETAG).and_then(|tag| tag.strip_prefix("\"sha256-")?.strip_suffix('"'));
        let content_hash = tag.and_then(|hex| ContentHash::from_hex(hex).ok());
        let content_hash = content_hash.ok_or_else(|| foreign("its ETag is no hash"))?;
        let size_bytes = match text(header::CONTENT_RANGE) {
            Some(range) => range.rsplit_once('/').and_then(|(_, total)| total.parse().ok()),
            None => text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        };
        let size_bytes = size_bytes.ok_or_else(|| foreign("it does not say how long it is"))?;
        Ok(Self { content_hash, size_bytes })
    }
}

/// A server's words as they can be shown on a terminal, which would obey control characters.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => Cow::Owned(text.replace(char::is_control, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// Where the bytes of a `206` begin.
pub(super) fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(header::HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_version_of_an_answer_is_that_of_the_whole() {
        let tag = format!("\"sha256-{}\"", "ab".repeat(32));
        let whole = head(&[(header::ETAG, &tag), (header::CONTENT_LENGTH, "7")]);
        let version = Version::of_answer(&whole, "k").unwrap();
        assert_eq!((version.size_bytes, version.entity_tag()), (7, tag.clone()));
        let part = [
            (header::ETAG, tag.as_str()),
            (header::CONTENT_LENGTH, "7"),
            (header::CONTENT_RANGE, "bytes 3-9/10"),
        ];
        assert_eq!(Version::of_answer(&head(&part), "k").unwrap().size_bytes, 10);
        assert_eq!(first_byte(&head(&part)), Some(3));
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        assert_eq!(shown("a ä\u{1b}[2Jb\r\n"), "a ä\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }

    #[test]
    fn an_answer_that_names_no_version_is_refused() {
        let tag = format!("\"sha256-{}\"", "ab".repeat(32));
        let weak = format!("W/{tag}");
        for fields in [
            &[(header::CONTENT_LENGTH, "7")][..],
            &[(header::ETAG, "\"x\""), (header::CONTENT_LENGTH, "7")],
            &[(header::ETAG, &weak), (header::CONTENT_LENGTH, "7")],
            &[(header::ETAG, &tag)],
            &[(header::ETAG, &tag), (header::CONTENT_RANGE, "bytes 0-1/*")],
        ] {
            assert!(Version::of_answer(&head(fields), "k").is_err(), "{fields:?}");
        }
        for range in ["", "bytes 3", "bytes */7", "items 3-4/5"] {
            assert_eq!(first_byte(&head(&[(header::CONTENT_RANGE, range)])), None, "{range}");
        }
    }
}
