//! Objects in JSON, byte for byte as [`ObjectDto`](crate::application::dto::ObjectDto) and
//! [`ListDto`](crate::application::dto::ListDto) serialise. A page has a thousand of them, and most of what a serialiser does
//! for each is to look for what must be escaped in names that never change.

use serde::Serialize as _;

use super::super::http1::{append_decimal, append_timestamp};
use crate::domain::entities::Object;
use crate::domain::value_objects::ObjectId;

/// What an object without a key or metadata is in JSON, and a little more.
const OBJECT_JSON_BYTES: usize = 512;

/// One object.
pub(super) fn object_json(object: &Object) -> Vec<u8> {
    let mut json = Vec::with_capacity(OBJECT_JSON_BYTES);
    append_object(&mut json, object);
    json
}

/// A page of a listing.
pub(super) fn page_json(
    objects: &[Object],
    common_prefixes: &[String],
    next_cursor: Option<&str>,
) -> Vec<u8> {
    let mut json = Vec::with_capacity((objects.len() + 1) * OBJECT_JSON_BYTES);
    append_list(&mut json, b"{\"objects\":", objects, append_object);
    append_list(&mut json, b",\"common_prefixes\":", common_prefixes, |json, common| {
        append_text(json, b"", common);
    });
    match next_cursor {
        Some(cursor) => append_text(&mut json, b",\"next_cursor\":", cursor),
        None => json.extend_from_slice(b",\"next_cursor\":null"),
    }
    json.push(b'}');
    json
}

fn append_object(json: &mut Vec<u8>, object: &Object) {
    append_plain(json, b"{\"id\":", object.id.write_to(&mut [0; ObjectId::TEXT_LENGTH]));
    append_text(json, b",\"namespace\":", object.scope.namespace.as_str());
    append_text(json, b",\"tenant_id\":", object.scope.tenant_id.as_str());
    match &object.key {
        Some(key) => append_text(json, b",\"key\":", key.as_str()),
        None => json.extend_from_slice(b",\"key\":null"),
    }
    append_plain(json, b",\"status\":", object.status.as_str());
    append_plain(json, b",\"storage_class\":", object.storage_class.as_str());
    match object.content_hash {
        Some(hash) => append_plain(json, b",\"content_hash\":", hash.to_hex().as_str()),
        None => json.extend_from_slice(b",\"content_hash\":null"),
    }
    json.extend_from_slice(b",\"size_bytes\":");
    match object.size_bytes {
        Some(size_bytes) => append_decimal(json, size_bytes),
        None => json.extend_from_slice(b"null"),
    }
    append_text(json, b",\"content_type\":", object.content_type.as_str());
    json.extend_from_slice(b",\"metadata\":{");
    for (index, (name, value)) in object.metadata.iter().enumerate() {
        append_text(json, if index == 0 { b"" } else { b"," }, name);
        append_text(json, b":", value);
    }
    json.extend_from_slice(b"},\"created_at\":\"");
    append_timestamp(object.created_at, json);
    json.extend_from_slice(b"\",\"updated_at\":\"");
    append_timestamp(object.updated_at, json);
    json.extend_from_slice(b"\"}");
}

fn append_list<T>(json: &mut Vec<u8>, name: &[u8], items: &[T], append: impl Fn(&mut Vec<u8>, &T)) {
    json.extend_from_slice(name);
    json.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        append(json, item);
    }
    json.push(b']');
}

/// Appends a text behind its name, or whatever else stands before it.
pub(super) fn append_text(json: &mut Vec<u8>, name: &[u8], text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        return append_plain(json, name, text);
    }
    json.extend_from_slice(name);
    // A text always has a JSON form, in which a line break is none.
    let _ = text.serialize(&mut serde_json::Serializer::new(json));
}

/// Appends a text in which nothing is to be escaped.
pub(super) fn append_plain(json: &mut Vec<u8>, name: &[u8], text: &str) {
    json.extend_from_slice(name);
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::application::dto::{ListDto, ObjectDto};
    use crate::application::fakes::an_object;
    use crate::domain::value_objects::{
        ContentHash, ContentType, Key, Metadata, ObjectStatus, StorageClass, Timestamp,
    };

    fn objects() -> impl Strategy<Value = Object> {
        let names = (prop::option::of("[a-z\"\\\\ /ä\u{2028}]{1,9}"), "[ -~]{0,9}");
        let metadata = prop::collection::btree_map("[a-z0-9!#.^_`|~-]{1,9}", "[ -~]{0,9}", 0..3);
        let content = (any::<Option<[u8; 32]>>(), any::<Option<u64>>());
        let states = prop::sample::select(vec![
            (ObjectStatus::Writing, StorageClass::Hot),
            (ObjectStatus::Committed, StorageClass::Cold),
        ]);
        (names, metadata, content, states, any::<[i64; 2]>()).prop_map(
            |((key, charset), metadata, (hash, size_bytes), (status, storage_class), moments)| {
                let mut entries = Metadata::default();
                metadata.iter().for_each(|(name, value)| entries.insert(name, value).unwrap());
                let content_type = format!("text/plain; charset={charset:?}");
                Object {
                    key: key.and_then(|key| Key::parse(&key).ok()),
                    status,
                    storage_class,
                    content_hash: hash.map(ContentHash::from_bytes),
                    size_bytes,
                    content_type: ContentType::parse(&content_type)
                        .unwrap_or_else(|_| ContentType::octet_stream()),
                    metadata: entries,
                    created_at: Timestamp::from_millis(moments[0] >> 16),
                    updated_at: Timestamp::from_millis(moments[1] >> 24),
                    ..an_object("models", "acme", None)
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_object_and_a_page_are_what_they_serialise_to(
            page in prop::collection::vec(objects(), 0..3),
            common_prefixes in prop::collection::vec(any::<String>(), 0..3),
            next_cursor in any::<Option<String>>(),
        ) {
            for object in &page {
                let expected = serde_json::to_vec(&ObjectDto::from(object)).unwrap();
                prop_assert_eq!(object_json(object), expected);
            }
            let next_cursor = next_cursor.as_deref();
            let expected = ListDto {
                objects: page.iter().map(ObjectDto::from).collect(),
                common_prefixes: &common_prefixes,
                next_cursor,
            };
            let json = page_json(&page, &common_prefixes, next_cursor);
            prop_assert_eq!(json, serde_json::to_vec(&expected).unwrap());
        }
    }
}
