//! Signed URLs. The first byte says whether the rest is a query as it may come, or what a URL is to be signed for; that is
//! then good as it was signed, and in no other way.

use just_storage::api::http1::{HeadLimits, HeadParser, Method, RequestHead};
use just_storage::api::{Route, SignedQuery, Target, Terms, route};
use just_storage::application::credentials::Signer;
use just_storage::domain::entities::{ApiKeyId, CredentialId, KeyPath, Scope};
use just_storage::domain::value_objects::{ContentHash, Key, Namespace, ObjectId, TenantId, Timestamp};
use sha2::{Digest as _, Sha256};

const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 32_768, header_bytes_max: 64, fields_max: 4 };
const METHODS: [Method; 5] = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete];

pub fn check(data: &[u8]) {
    match data {
        [] => {}
        [kind, text @ ..] if kind % 2 == 0 => {
            if let Ok(text) = std::str::from_utf8(text) {
                query(text);
            }
        }
        [_, terms @ ..] => made(terms),
    }
}

/// Stands for a signature: nobody can make another text that has the same.
fn sign(message: &str) -> String {
    ContentHash::from_bytes(Sha256::digest(message).into()).to_string()
}

fn scope() -> Option<Scope> {
    Some(Scope { namespace: Namespace::parse("models").ok()?, tenant_id: TenantId::parse("acme").ok()? })
}

/// Any query: one that is read was all read, and means to be signed.
fn query(text: &str) {
    let Some(read) = SignedQuery::read(text) else { return };
    assert!(SignedQuery::is_meant(Some(text)));
    assert_eq!(format!("{}&signature={}", read.signed, read.signature), text);
    assert!(read.own_bytes <= read.signed.len());
    assert!(METHODS.contains(&read.terms.method));
    // Its terms, written as they are written here, are the same.
    let Ok(key) = Key::parse("k") else { return };
    let target = Target::Key(KeyPath { scope: read.terms.scope.clone(), key }, None);
    let again = read.terms.sign(&target, sign);
    let (_, again) = again.split_once('?').unwrap_or_default();
    assert_eq!(SignedQuery::read(again).map(|again| again.terms), Some(read.terms));
}

/// Terms: the method, the target, a moment, where a byte is changed and how; then a key, the name of a file and that of the
/// signer on a line each.
fn made(bytes: &[u8]) {
    let Some((&[method, target, place_low, place_high, bits, a, b, c, d], text)) =
        bytes.split_first_chunk::<9>()
    else {
        return;
    };
    let (Ok(text), Some(scope)) = (std::str::from_utf8(text), scope()) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or("");
    let (key, file_name, signer) = (line(), line(), line());
    let Ok(key) = Key::parse(key) else { return };
    let moment = i32::from_le_bytes([a, b, c, d]);
    let is_bound = target & 0x80 != 0;
    let terms = Terms {
        method: METHODS[usize::from(method) % METHODS.len()],
        scope: scope.clone(),
        signer: match signer {
            "" => Signer::ApiKey(ApiKeyId::from_u64(u64::from(bits))),
            name => Signer::Token(CredentialId::new("jwt", name, || "#".to_owned())),
        },
        until: Timestamp::from_millis(i64::from(moment)),
        size_bytes: is_bound.then_some(moment.unsigned_abs().into()),
        digest: is_bound.then(|| ContentHash::from_bytes([bits; 32])),
    };
    let file_name = (!file_name.is_empty()).then(|| file_name.to_owned());
    let Ok(id) = ObjectId::parse("0193a5c0-0000-7000-8000-000000000000") else { return };
    let target = match target % 4 {
        0 => Target::Object(id, file_name),
        1 => Target::ObjectInfo(id),
        2 => Target::Key(KeyPath { scope, key }, file_name),
        _ => Target::NewObject { scope, key: Some(key), storage_class: None },
    };
    let url = terms.sign(&target, sign);
    assert_eq!(served(&url), Some((target.route(), terms.clone())), "{url}");

    let mut changed = url.clone().into_bytes();
    let place = usize::from(u16::from_le_bytes([place_low, place_high])) % changed.len();
    changed[place] ^= bits.max(1);
    let Ok(changed) = String::from_utf8(changed) else { return };
    assert_eq!(served(&changed), None, "byte {place} of {url} was changed, and it is good still");
    assert_eq!(served(&url[..place]), None, "it was cut short");
    assert_eq!(served(&format!("{url}&")), None, "something follows");
}

/// What a URL leads to and under which terms, if it is good.
fn served(url: &str) -> Option<(Route, Terms)> {
    let request = format!("GET {url} HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut head = RequestHead::default();
    let parsed = HeadParser::default().parse(request.as_bytes(), &LIMITS, &mut head);
    parsed.ok()??;
    let read = SignedQuery::read(head.query()?)?;
    let is_good = sign(&format!("{}?{}", head.path(), read.signed)) == read.signature;
    is_good.then(|| Some((route(&head).ok()?, read.terms)))?
}
