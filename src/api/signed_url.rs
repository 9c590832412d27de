//! What a signed URL looks like, written and read:
//!
//! ```text
//! {path}?[{parameters of the request}&]signed_method=…&signed_namespace=…&signed_tenant=…&signed_by=…&signed_until_ms=…
//!     [&signed_size_bytes=…][&signed_digest=…]&signature=…
//! ```
//!
//! The signature is over every byte before it, from the path's first on. So there is no second way to write what was
//! signed: a parameter that is moved, repeated, encoded otherwise or left out makes another text, which nobody has
//! signed. Of the URL's beginning, scheme and host, nothing is signed: proxies change it.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::handlers::DOWNLOAD;
use super::http1::Method;
use super::query::Parameters;
use super::router::Route;
use crate::application::credentials::Signer;
use crate::domain::entities::{KeyPath, Scope};
use crate::domain::value_objects::{
    ContentHash, Key, Namespace, ObjectId, StorageClass, TenantId, Timestamp,
};

const METHOD: &str = "signed_method";
const NAMESPACE: &str = "signed_namespace";
const TENANT: &str = "signed_tenant";
const SIGNER: &str = "signed_by";
const UNTIL: &str = "signed_until_ms";
const SIZE: &str = "signed_size_bytes";
const DIGEST: &str = "signed_digest";
/// All that is signed, in order.
const TERMS: [&str; 7] = [METHOD, NAMESPACE, TENANT, SIGNER, UNTIL, SIZE, DIGEST];
const SIGNATURE: &str = "signature=";

/// What a digest is called by.
const SHA_256: &str = "sha256:";

/// What a URL can be signed for: one method on one object or key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its bytes, as a file of this name if there is one.
    Object(ObjectId, Option<String>),
    /// What is known of it.
    ObjectInfo(ObjectId),
    /// The bytes of the key's newest version, as a file of this name if there is one.
    Key(KeyPath, Option<String>),
    /// A new object, that may be a version of a key.
    NewObject {
        /// Where it is filed.
        scope: Scope,
        /// Which key.
        key: Option<Key>,
        /// Which class, if one is said.
        storage_class: Option<StorageClass>,
    },
}

impl Target {
    /// Whether a body becomes an object there.
    pub(super) fn is_upload(&self, method: Method) -> bool {
        matches!((self, method), (Self::NewObject { .. }, Method::Post) | (Self::Key(..), Method::Put))
    }

    /// The route that serves it.
    pub fn route(&self) -> Route {
        match self {
            Self::Object(id, _) => Route::Object(*id),
            Self::ObjectInfo(id) => Route::ObjectInfo(*id),
            Self::Key(path, _) => Route::Key(path.clone()),
            Self::NewObject { .. } => Route::Objects,
        }
    }

    /// Path and query of a request for it, in which nothing is escaped but what has to be, so that no client or proxy
    /// that puts URLs into order changes it.
    fn append_to(&self, url: &mut String) {
        // Writing into a string cannot fail.
        let _ = match self {
            Self::Object(id, _) => write!(url, "/v1/objects/{id}"),
            Self::ObjectInfo(id) => write!(url, "/v1/objects/{id}/info"),
            Self::Key(KeyPath { scope, key }, _) => {
                write!(url, "/v1/keys/{}/{}/{}", scope.namespace, scope.tenant_id, Escaped(key.as_str()))
            }
            Self::NewObject { scope, key, storage_class } => {
                let mut written =
                    write!(url, "/v1/objects?namespace={}&tenant_id={}", scope.namespace, scope.tenant_id);
                if let Some(key) = key {
                    written = write!(url, "&key={}", Escaped(key.as_str()));
                }
                if let Some(storage_class) = storage_class {
                    written = write!(url, "&storage_class={}", storage_class.as_str());
                }
                written
            }
        };
        if let Self::Object(_, Some(file_name)) | Self::Key(_, Some(file_name)) = self {
            let _ = write!(url, "?{DOWNLOAD}={}", Escaped(file_name));
        }
    }
}

/// Text with escapes for all but the unreserved characters (RFC 3986 §2.3), `/` and `:`.
pub(super) struct Escaped<'t>(pub(super) &'t str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                formatter.write_char(char::from(byte))
            }
            _ => write!(formatter, "%{byte:02X}"),
        })
    }
}

/// Under which terms a URL lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The method; `GET` lets `HEAD` in too.
    pub method: Method,
    /// Where the object or key is filed.
    pub scope: Scope,
    /// On whose account.
    pub signer: Signer,
    /// From when on no more.
    pub until: Timestamp,
    /// How long the body has to be.
    pub size_bytes: Option<u64>,
    /// What the body has to be.
    pub digest: Option<ContentHash>,
}

impl Terms {
    /// Whether they let this method in.
    pub(super) fn permit(&self, method: Method) -> bool {
        self.method == method || (self.method == Method::Get && method == Method::Head)
    }

    /// The URL with all of these terms, which `sign` signs.
    pub fn sign(&self, target: &Target, sign: impl FnOnce(&str) -> String) -> String {
        let mut url = String::new();
        target.append_to(&mut url);
        let begin = if url.contains('?') { '&' } else { '?' };
        let Self { method, scope: Scope { namespace, tenant_id }, signer, until, .. } = self;
        // Writing into a string cannot fail.
        let _ = write!(
            url,
            "{begin}{METHOD}={}&{NAMESPACE}={namespace}&{TENANT}={tenant_id}&{SIGNER}={}&{UNTIL}={}",
            method.as_str(),
            Escaped(&signer.name()),
            until.as_millis()
        );
        if let Some(size_bytes) = self.size_bytes {
            let _ = write!(url, "&{SIZE}={size_bytes}");
        }
        if let Some(digest) = self.digest {
            let _ = write!(url, "&{DIGEST}={SHA_256}{digest}");
        }
        let signature = sign(&url);
        url.push('&');
        url.push_str(SIGNATURE);
        url.push_str(&signature);
        url
    }
}

/// The signed part of a URL, as it came. Nothing of it is true before its signature has been found good.
pub struct SignedQuery<'q> {
    /// What it says.
    pub terms: Terms,
    /// Everything that is signed behind the path and the `?`.
    pub signed: &'q str,
    /// And what it is signed with.
    pub signature: &'q str,
    /// How many bytes of the query are the request's own.
    pub own_bytes: usize,
}

impl<'q> SignedQuery<'q> {
    /// Whether a query means to be signed. A whole signed one is, and so is what is left of it once any of its
    /// parameters has been spoilt.
    pub fn is_meant(query: Option<&str>) -> bool {
        let is_ours = |pair: &str| pair.starts_with("signed_") || pair.starts_with("signature");
        query.is_some_and(|query| query.split('&').any(is_ours))
    }

    /// Reads a query that means to be signed. `None` if it is nothing that was ever written here.
    pub fn read(query: &'q str) -> Option<Self> {
        let (signed, signature) = query.rsplit_once('&')?;
        let signature = signature.strip_prefix(SIGNATURE)?;
        let begin = |text: &str| text.strip_prefix(METHOD).is_some_and(|rest| rest.starts_with('='));
        let (own_bytes, terms) = match begin(signed) {
            true => (0, signed),
            false => {
                let ends = signed.match_indices('&').map(|(end, _)| end);
                let (own, terms) =
                    ends.map(|end| signed.split_at(end)).find(|(_, rest)| begin(&rest[1..]))?;
                (own.len(), &terms[1..])
            }
        };
        let terms = read_terms(&Parameters::parse(Some(terms), &TERMS).ok()?)?;
        Some(Self { terms, signed, signature, own_bytes })
    }
}

fn read_terms(parameters: &Parameters<'_>) -> Option<Terms> {
    Some(Terms {
        method: parse_method(parameters.get(METHOD)?)?,
        scope: Scope {
            namespace: Namespace::parse(parameters.get(NAMESPACE)?).ok()?,
            tenant_id: TenantId::parse(parameters.get(TENANT)?).ok()?,
        },
        signer: Signer::parse(parameters.get(SIGNER)?)?,
        until: Timestamp::from_millis(parameters.get(UNTIL)?.parse().ok()?),
        size_bytes: match parameters.get(SIZE) {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        },
        digest: match parameters.get(DIGEST) {
            Some(text) => Some(parse_digest(text)?),
            None => None,
        },
    })
}

/// A method that a URL can be signed for.
pub(super) fn parse_method(text: &str) -> Option<Method> {
    let methods = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete];
    methods.into_iter().find(|method| method.as_str() == text)
}

/// Reads `sha256:` and 64 lower-case or upper-case digits.
pub(super) fn parse_digest(text: &str) -> Option<ContentHash> {
    text.strip_prefix(SHA_256).and_then(|hex| ContentHash::from_hex(hex).ok())
}

/// A path as it may be shown: a signed URL whose `?` was escaped by mistake is all path, and good still where somebody
/// takes the mistake back.
pub(super) fn without_signature(path: &str) -> Cow<'_, str> {
    // Most paths hold neither sign, and need no more than one look.
    let shown = memchr::memchr2(b'=', b'%', path.as_bytes())
        .and_then(|_| path.find("signature=").or_else(|| path.find("signature%3")));
    match shown {
        None => Cow::Borrowed(path),
        Some(start) => Cow::Owned(format!("{}signature=...", &path[..start])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::router::find;
    use super::*;
    use crate::domain::entities::{ApiKeyId, CredentialId};

    fn scope() -> Scope {
        Scope { namespace: Namespace::parse("models").unwrap(), tenant_id: TenantId::parse("acme").unwrap() }
    }

    fn terms(method: Method) -> Terms {
        Terms {
            method,
            scope: scope(),
            signer: Signer::ApiKey(ApiKeyId::from_u64(0xab)),
            until: Timestamp::from_millis(1_795_468_200_120),
            size_bytes: None,
            digest: None,
        }
    }

    fn key(text: &str) -> Target {
        Target::Key(KeyPath { scope: scope(), key: Key::parse(text).unwrap() }, None)
    }

    /// Stands for a signature: whatever it is of, so that a reader can hold it to that.
    fn sign(message: &str) -> String {
        message.len().to_string()
    }

    #[test]
    fn a_url_says_all_its_terms_and_is_signed_as_it_stands() {
        let url = terms(Method::Get).sign(&key("llama/a b+ä:?.bin"), sign);
        assert_eq!(
            url,
            "/v1/keys/models/acme/llama/a%20b%2B%C3%A4:%3F.bin?signed_method=GET&signed_namespace=models\
             &signed_tenant=acme&signed_by=jsk:00000000000000ab&signed_until_ms=1795468200120&signature=171"
        );
        let id = ObjectId::generate();
        let url = terms(Method::Delete).sign(&Target::Object(id, None), sign);
        assert!(url.starts_with(&format!("/v1/objects/{id}?signed_method=DELETE&signed_")), "{url}");
        let url = terms(Method::Get).sign(&Target::Object(id, Some("a b.bin".into())), sign);
        assert!(url.starts_with(&format!("/v1/objects/{id}?download=a%20b.bin&signed_method=GET&")), "{url}");
        let digest = ContentHash::from_bytes([0xab; 32]);
        let bound = Terms { size_bytes: Some(5), digest: Some(digest), ..terms(Method::Post) };
        let new = Target::NewObject {
            scope: scope(),
            key: Some(Key::parse("a&b=c").unwrap()),
            storage_class: Some(StorageClass::Cold),
        };
        let url = bound.sign(&new, sign);
        let expected = format!(
            "/v1/objects?namespace=models&tenant_id=acme&key=a%26b%3Dc&storage_class=cold&signed_method=POST\
             &signed_namespace=models&signed_tenant=acme&signed_by=jsk:00000000000000ab\
             &signed_until_ms=1795468200120&signed_size_bytes=5&signed_digest=sha256:{digest}&signature="
        );
        assert_eq!(url, format!("{expected}{}", expected.len() - "&signature=".len()));
        let read = SignedQuery::read(url.split_once('?').unwrap().1).unwrap();
        assert_eq!(read.terms, bound);
        let own = "namespace=models&tenant_id=acme&key=a%26b%3Dc&storage_class=cold";
        assert_eq!(read.own_bytes, own.len());
    }

    proptest! {
        #[test]
        fn what_was_signed_reads_the_same(
            text in "[^\\x00-\\x1f]{1,40}",
            name in "[!-~]{1,60}",
            file_name in prop::option::of("[^\\x00-\\x1f]{0,20}"),
            size_bytes: Option<u64>,
            method in 0..5usize,
            at: u32,
        ) {
            let Ok(key) = Key::parse(&text) else { return Ok(()) };
            let method = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete][method];
            let written = Terms {
                signer: Signer::Token(CredentialId::new("jwt", &name, || "#".into())),
                size_bytes,
                until: Timestamp::from_millis(i64::from(at)),
                ..terms(method)
            };
            let path = KeyPath { scope: scope(), key };
            let new =
                Target::NewObject { scope: scope(), key: Some(path.key.clone()), storage_class: None };
            for target in [Target::Key(path.clone(), file_name.clone()), new] {
                let url = written.sign(&target, sign);
                prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{}", url);
                let (path, query) = url.split_once('?').unwrap();
                prop_assert_eq!(find(path).unwrap(), target.route());
                prop_assert!(SignedQuery::is_meant(Some(query)));
                let read = SignedQuery::read(query).unwrap();
                prop_assert_eq!(&read.terms, &written);
                // What was signed is all of the path, and of the query up to the signature.
                prop_assert_eq!(sign(&format!("{path}?{}", read.signed)), read.signature);
                let own = &query[..read.own_bytes];
                let known = ["namespace", "tenant_id", "key", "download"];
                let parameters = Parameters::parse(Some(own), &known).unwrap();
                if let Target::NewObject { key: Some(key), .. } = &target {
                    prop_assert_eq!(parameters.get("key").unwrap(), key.as_str());
                } else {
                    prop_assert_eq!(parameters.get("download"), file_name.as_deref());
                }
            }
        }
    }

    #[test]
    fn what_is_left_of_a_spoilt_one_still_means_to_be_signed() {
        let url = terms(Method::Get).sign(&key("k"), sign);
        let query = url.split_once('?').unwrap().1;
        for index in 0..query.len() {
            let mut spoilt = query.as_bytes().to_vec();
            spoilt[index] ^= 1;
            let spoilt = String::from_utf8(spoilt).unwrap();
            assert!(SignedQuery::is_meant(Some(&spoilt)), "{spoilt}");
        }
        for query in [None, Some(""), Some("namespace=signed_"), Some("key=signature=x"), Some("Signed_by=x")]
        {
            assert!(!SignedQuery::is_meant(query), "{query:?}");
        }
    }

    #[test]
    fn what_was_never_written_is_not_read() {
        let url = terms(Method::Get).sign(&key("k"), sign);
        let query = url.split_once('?').unwrap().1;
        assert!(SignedQuery::read(query).is_some());
        let (signed, signature) = query.rsplit_once('&').unwrap();
        for wrong in [
            "",
            "signature=x",
            signed,
            &format!("{signature}&{signed}"),
            &format!("{query}&x=1"),
            &format!("{signed}&signed_by=jsk:00000000000000ab&{signature}"),
            &format!("{signed}&x=1&{signature}"),
            &query.replace("signed_method=GET", "signed_method=PATCH"),
            &query.replace("signed_method=GET", "signed_method=get"),
            &query.replace("signed_method=GET&", ""),
            &query.replace("signed_tenant=acme&", ""),
            &query.replace("signed_tenant=acme", "signed_tenant="),
            &query.replace("signed_until_ms=1", "signed_until_ms=x"),
            &query.replace("signed_by=jsk:", "signed_by="),
            &query.replace("&signature", "&signed_size_bytes=-1&signature"),
            &query.replace("&signature", "&signed_digest=sha256:00&signature"),
        ] {
            assert!(SignedQuery::read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn get_lets_head_in_and_nothing_else_does() {
        let methods = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete];
        for signed in methods {
            for method in methods {
                let expected = signed == method || (signed, method) == (Method::Get, Method::Head);
                assert_eq!(terms(signed).permit(method), expected, "{signed:?} {method:?}");
            }
        }
    }

    #[test]
    fn a_signature_that_stands_in_a_path_is_not_shown() {
        let url = terms(Method::Get).sign(&key("k"), |_| "dGVzdA".to_owned());
        assert_eq!(without_signature("/v1/keys/models/acme/k"), "/v1/keys/models/acme/k");
        for mistaken in [url.replace('?', "%3F"), url.replace('?', "%3f").replace('=', "%3D")] {
            let shown = without_signature(&mistaken);
            assert!(!shown.contains("dGVzdA") && shown.ends_with("signature=..."), "{shown}");
        }
    }
}
