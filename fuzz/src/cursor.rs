//! Cursors of listings. The first eight bytes are a place in one.

use just_storage::application::key_listing::{KeyPosition, KeyQuery};
use just_storage::application::ports::ListQuery;
use just_storage::application::use_cases::{Cursor, KeyCursor};
use just_storage::domain::entities::Scope;
use just_storage::domain::value_objects::{Delimiter, KeyPrefix, Namespace, ObjectStatus, TenantId};

pub fn check(data: &[u8]) {
    let Some((before, token)) = data.split_first_chunk::<8>() else { return };
    let (before, Ok(token)) = (u64::from_le_bytes(*before), std::str::from_utf8(token)) else { return };
    let (Ok(namespace), Ok(tenant_id)) = (Namespace::parse("models"), TenantId::parse("acme")) else {
        return;
    };
    let query = ListQuery {
        scope: Scope { namespace, tenant_id },
        status: ObjectStatus::Committed,
        storage_class: None,
        limit: 100,
        before: None,
    };
    let own = Cursor { before }.encode(&query);
    assert_eq!(Cursor::decode(&own, &query), Ok(Cursor { before }));
    // What is taken is what would have been given.
    if let Ok(cursor) = Cursor::decode(token, &query) {
        assert_eq!(cursor.encode(&query), token);
    }
    check_by_key(token, query.scope);
}

/// The same for a listing by key, where the bytes are what the last page ended with, too.
fn check_by_key(token: &str, scope: Scope) {
    let (Ok(prefix), Ok(delimiter)) = (KeyPrefix::parse("a/"), Delimiter::parse("/")) else { return };
    let query =
        KeyQuery { scope, prefix, delimiter: Some(delimiter), storage_class: None, limit: 100, after: None };
    let text = format!("a/{token}");
    let own = KeyCursor { after: KeyPosition::Key(text.clone()) };
    let can_be = KeyPrefix::parse(&text).is_ok();
    assert_eq!(KeyCursor::decode(&own.encode(&query), &query).ok(), can_be.then_some(own));
    if let Ok(cursor) = KeyCursor::decode(token, &query) {
        assert_eq!(cursor.encode(&query), token);
    }
}
