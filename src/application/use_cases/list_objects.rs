//! Where a listing goes on: a token that is bound to the query that it came from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::application::ports::ListQuery;

/// The token of a page that follows. It holds the last sequence of the page before and a mark of the query, so
/// that it cannot be carried over to another scope, state or class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Only objects below this sequence.
    pub before: u64,
}

/// A cursor that was not made for this query, or not by this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cursor is not one of this query")]
pub struct InvalidCursor;

pub(super) const MARK_BYTES: usize = 8;

impl Cursor {
    /// The token for whoever asked `query`.
    pub fn encode(self, query: &ListQuery) -> String {
        let mut bytes = self.before.to_be_bytes().to_vec();
        bytes.extend(mark(query));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token that was made for `query`.
    ///
    /// # Errors
    /// [`InvalidCursor`].
    pub fn decode(token: &str, query: &ListQuery) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidCursor)?;
        let (before, marked) = bytes.split_first_chunk::<8>().ok_or(InvalidCursor)?;
        if marked != mark(query) {
            return Err(InvalidCursor);
        }
        Ok(Self { before: u64::from_be_bytes(*before) })
    }
}

fn mark(query: &ListQuery) -> [u8; MARK_BYTES] {
    mark_of(&[
        query.scope.namespace.as_str(),
        query.scope.tenant_id.as_str(),
        query.status.as_str(),
        query.storage_class.map_or("", |class| class.as_str()),
    ])
}

/// Not a secret: it catches mistakes, and the query itself decides what can be seen.
pub(super) fn mark_of(parts: &[&str]) -> [u8; MARK_BYTES] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&digest[..MARK_BYTES]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::a_scope;
    use crate::domain::value_objects::{ObjectStatus, StorageClass};

    #[test]
    fn a_cursor_is_good_for_its_own_query_only() {
        let query = ListQuery {
            scope: a_scope("models", "acme"),
            status: ObjectStatus::Committed,
            storage_class: None,
            limit: 10,
            before: None,
        };
        let token = Cursor { before: 77 }.encode(&query);
        assert_eq!(Cursor::decode(&token, &query), Ok(Cursor { before: 77 }));
        let more_at_once = ListQuery { limit: 500, before: Some(3), ..query.clone() };
        assert_eq!(Cursor::decode(&token, &more_at_once), Ok(Cursor { before: 77 }));

        for other in [
            ListQuery { scope: a_scope("models", "other"), ..query.clone() },
            ListQuery { scope: a_scope("modelsacme", "x"), ..query.clone() },
            ListQuery { status: ObjectStatus::Deleted, ..query.clone() },
            ListQuery { storage_class: Some(StorageClass::Hot), ..query.clone() },
        ] {
            assert_eq!(Cursor::decode(&token, &other), Err(InvalidCursor));
        }
        for strange in ["", "x", "AAAA", &format!("{token}A"), &token[1..], "!!!"] {
            assert_eq!(Cursor::decode(strange, &query), Err(InvalidCursor));
        }
    }
}
