//! Where a listing by key, or of the versions of a key, goes on: tokens like those of the plain listing, which serve no
//! other listing than the one that they come from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::list_objects::{InvalidCursor, MARK_BYTES, mark_of};
use crate::application::key_listing::{KeyPosition, KeyQuery, VersionQuery};
use crate::domain::value_objects::{Key, KeyPrefix};

/// The first part of what the queries are marked by: no namespace is called so.
const KEYS: &str = "?prefix&delimiter";
const VERSIONS: &str = "?versions";

/// The token of a page of keys that follows: the mark of the query, what the last page ended with, and what of that stands
/// behind the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCursor {
    /// Only what comes behind this.
    pub after: KeyPosition,
}

impl KeyCursor {
    /// The token for whoever asked `query`.
    pub fn encode(&self, query: &KeyQuery) -> String {
        let (kind, text) = match &self.after {
            KeyPosition::Key(text) => (b'k', text),
            KeyPosition::Common(text) => (b'c', text),
        };
        let mut bytes = mark_of_keys(query).to_vec();
        bytes.push(kind);
        bytes.extend(text.bytes().skip(query.prefix.as_str().len()));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token that was made for `query`.
    ///
    /// # Errors
    /// [`InvalidCursor`].
    pub fn decode(token: &str, query: &KeyQuery) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidCursor)?;
        let (mark, position) = bytes.split_first_chunk::<MARK_BYTES>().ok_or(InvalidCursor)?;
        let (kind, rest) = position.split_first().ok_or(InvalidCursor)?;
        let rest = std::str::from_utf8(rest).map_err(|_| InvalidCursor)?;
        let text = format!("{}{rest}", query.prefix.as_str());
        if *mark != mark_of_keys(query) || text.len() > Key::BYTES_MAX || KeyPrefix::parse(rest).is_err() {
            return Err(InvalidCursor);
        }
        match kind {
            b'k' => Ok(Self { after: KeyPosition::Key(text) }),
            b'c' => Ok(Self { after: KeyPosition::Common(text) }),
            _ => Err(InvalidCursor),
        }
    }
}

/// The token of a page of versions that follows: the last sequence of the page before, and a mark of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionCursor {
    /// Only versions below this sequence.
    pub before: u64,
}

impl VersionCursor {
    /// The token for whoever asked `query`.
    pub fn encode(self, query: &VersionQuery) -> String {
        let mut bytes = self.before.to_be_bytes().to_vec();
        bytes.extend(mark_of_versions(query));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token that was made for `query`.
    ///
    /// # Errors
    /// [`InvalidCursor`].
    pub fn decode(token: &str, query: &VersionQuery) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidCursor)?;
        let (before, mark) = bytes.split_first_chunk::<8>().ok_or(InvalidCursor)?;
        match *mark == mark_of_versions(query) {
            true => Ok(Self { before: u64::from_be_bytes(*before) }),
            false => Err(InvalidCursor),
        }
    }
}

fn mark_of_keys(query: &KeyQuery) -> [u8; MARK_BYTES] {
    mark_of(&[
        KEYS,
        query.scope.namespace.as_str(),
        query.scope.tenant_id.as_str(),
        query.prefix.as_str(),
        query.delimiter.as_ref().map_or("", |delimiter| delimiter.as_str()),
        query.storage_class.map_or("", |class| class.as_str()),
    ])
}

fn mark_of_versions(query: &VersionQuery) -> [u8; MARK_BYTES] {
    let scope = &query.key_path.scope;
    mark_of(&[VERSIONS, scope.namespace.as_str(), scope.tenant_id.as_str(), query.key_path.key.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::key_path;
    use crate::application::fakes::a_scope;
    use crate::application::ports::ListQuery;
    use crate::application::use_cases::Cursor;
    use crate::domain::value_objects::{Delimiter, ObjectStatus, StorageClass};

    fn a_query(prefix: &str, delimiter: Option<&str>) -> KeyQuery {
        KeyQuery {
            scope: a_scope("models", "acme"),
            prefix: KeyPrefix::parse(prefix).unwrap(),
            delimiter: delimiter.map(|delimiter| Delimiter::parse(delimiter).unwrap()),
            storage_class: None,
            limit: 10,
            after: None,
        }
    }

    #[test]
    fn a_cursor_of_keys_is_good_for_its_own_query_only() {
        let query = a_query("a/", Some("/"));
        for after in [
            KeyPosition::Key("a/b".into()),
            KeyPosition::Key("a/".into()),
            KeyPosition::Common("a/\u{10ffff}/".into()),
            KeyPosition::Key(format!("a/{}", "k".repeat(1022))),
        ] {
            let cursor = KeyCursor { after };
            let token = cursor.encode(&query);
            assert_eq!(KeyCursor::decode(&token, &query), Ok(cursor.clone()));
            let more_at_once = KeyQuery { limit: 500, ..query.clone() };
            assert_eq!(KeyCursor::decode(&token, &more_at_once), Ok(cursor));
            for other in [
                KeyQuery { scope: a_scope("models", "other"), ..query.clone() },
                KeyQuery { scope: a_scope("data", "acme"), ..query.clone() },
                KeyQuery { storage_class: Some(StorageClass::Hot), ..query.clone() },
                a_query("a", Some("/")),
                a_query("", Some("/")),
                a_query("a/", None),
                a_query("a/", Some("//")),
            ] {
                assert_eq!(KeyCursor::decode(&token, &other), Err(InvalidCursor));
            }
        }
    }

    #[test]
    fn a_cursor_of_versions_is_good_for_its_own_key_only() {
        let query = VersionQuery { key_path: key_path("k"), limit: 1, before: None };
        let token = VersionCursor { before: 77 }.encode(&query);
        assert_eq!(VersionCursor::decode(&token, &query), Ok(VersionCursor { before: 77 }));
        let other = VersionQuery { key_path: key_path("kk"), ..query.clone() };
        assert_eq!(VersionCursor::decode(&token, &other), Err(InvalidCursor));

        let plain = ListQuery {
            scope: a_scope("models", "acme"),
            status: ObjectStatus::Committed,
            storage_class: None,
            limit: 1,
            before: None,
        };
        let plain_token = Cursor { before: 77 }.encode(&plain);
        assert_eq!(Cursor::decode(&token, &plain), Err(InvalidCursor));
        assert_eq!(VersionCursor::decode(&plain_token, &query), Err(InvalidCursor));
        assert_eq!(KeyCursor::decode(&plain_token, &a_query("", None)), Err(InvalidCursor));
    }

    #[test]
    fn what_was_never_given_is_no_cursor_of_keys() {
        let query = a_query("a", None);
        let with = |position: &[u8]| URL_SAFE_NO_PAD.encode([&mark_of_keys(&query)[..], position].concat());
        assert!(KeyCursor::decode(&with(b"kb"), &query).is_ok());
        let long = format!("k{}", "b".repeat(1024));
        for position in [&b""[..], b"x", b"kb\0", b"kb\n", b"k\xff", b"c\xf4\x90\x80\x80", long.as_bytes()] {
            assert_eq!(KeyCursor::decode(&with(position), &query), Err(InvalidCursor), "{position:?}");
        }
        for token in ["", "x", "AAAA", "!!!", &with(b"kb")[1..]] {
            assert_eq!(KeyCursor::decode(token, &query), Err(InvalidCursor));
        }
    }
}
