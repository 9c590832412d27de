//! `Repr-Digest` and `Content-Digest`, a field on each line.

use just_storage::api::http1::parse_digests;

pub fn check(data: &[u8]) {
    let lines = || data.split(|byte| *byte == b'\n');
    let Ok(Some(hash)) = parse_digests(lines()) else { return };
    let mut field = b"sha-256=:".to_vec();
    hash.append_base64(&mut field);
    field.push(b':');
    assert_eq!(parse_digests([field.as_slice()].into_iter()), Ok(Some(hash)));
    // A field that says the same once more changes nothing.
    assert_eq!(parse_digests(lines().chain([field.as_slice()])), Ok(Some(hash)));
}
