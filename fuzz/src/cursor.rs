//! Cursors of listings. The first eight bytes are a place in one.

use just_storage::application::ports::ListQuery;
use just_storage::application::use_cases::Cursor;
use just_storage::domain::entities::Scope;
use just_storage::domain::value_objects::{Namespace, ObjectStatus, TenantId};

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
}
