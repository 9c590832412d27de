//! `/v1/blobs`: contents by what they are, for whoever has them.

use std::cell::Cell;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::RequestHead;
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::super::signed_url::parse_digest;
use super::{CACHE_CONTROL, DOWNLOAD, Response, download, parse_object};
use crate::application::ports::{BlobStore, Freshness, LEASE_SECONDS, ObjectName, ObjectRepository};
use crate::domain::entities::{Forbidden, Principal, Reach, StoredContent};
use crate::domain::value_objects::{ContentHash, TenantId};

/// How many digests one request asks about at most.
pub(in crate::api) const DIGESTS_MAX: usize = 10_000;
/// The largest body: as many digests, and as much again of white space between them as anybody has use for.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How many such bodies a core has in memory at once.
const BODIES_AT_ONCE_MAX: usize = 4;

thread_local! {
    /// How many there are on this core.
    static BODIES: Cell<usize> = const { Cell::new(0) };
}

/// `GET` or `HEAD` of `/v1/blobs/sha256:{hex}`. What the tenant does not have is asked for and answered as what is not there.
pub(super) async fn download<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    hash: ContentHash,
    principal: &Principal,
    freshness: Freshness,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &["tenant_id", DOWNLOAD])?;
    let (_, reach) = tenant(&parameters, principal)?;
    let own_name = hash.to_hex().to_string();
    let file_name = download::file_name(&parameters)?
        .map(|chosen| if chosen.is_empty() { own_name.as_str() } else { chosen });
    let name = ObjectName::Content(hash, reach);
    let mut response = download::answer(service, head, name, freshness, file_name).await?;
    // Under this name there will never be anything else.
    response.fields.add(CACHE_CONTROL, "private, max-age=31536000, immutable");
    Ok(response)
}

/// As [`download()`], and notes that the object was read by which the tenant has the content.
pub(super) async fn download_noted<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    hash: ContentHash,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let response = download(service, head, hash, principal, Freshness::Cached).await?;
    download::note_read(service, head, &response);
    Ok(response)
}

/// `POST /v1/blobs/missing`
pub(super) async fn missing<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    principal: &Principal,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &["tenant_id"])?;
    let (tenant_id, reach) = tenant(&parameters, principal)?;
    let _turn = Turn::take().ok_or_else(|| Problem::new(503, "overloaded", "too much at once"))?;
    // Beside the core, which thousands of digests would hold for milliseconds.
    let bytes = body.read_whole(BODY_BYTES_MAX).await?;
    let (asked, hashes) = service.batches.read(move || Asked::parse(&bytes).map(Asked::with_hashes)).await?;
    let leased = service.repository.lease(hashes, &reach).await?;
    let (json, contents) = service.batches.read(move || Ok(asked.without(&leased))).await?;
    let mut response = Response::json(200, json);
    response.change = service.audit_log.is_on().then(|| Box::new(Change::Leased(tenant_id, contents)));
    Ok(response)
}

/// The tenant that a query names, and what of it is within reach.
fn tenant(parameters: &Parameters<'_>, principal: &Principal) -> Result<(TenantId, Reach), Problem> {
    let tenant_id = parameters.required("tenant_id", TenantId::parse)?;
    let reach = principal.reach.of_tenant(&tenant_id).ok_or(Forbidden::Scope)?;
    Ok((tenant_id, reach))
}

/// One of the few places for a body, until this is dropped.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        let taken = BODIES.get();
        (taken < BODIES_AT_ONCE_MAX).then(|| {
            BODIES.set(taken + 1);
            Self
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BODIES.set(BODIES.get() - 1);
    }
}

/// What is asked about.
#[derive(Deserialize, ToSchema)]
#[schema(as = Digests)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct MissingBody {
    /// `sha256:` and 64 hexadecimal digits each.
    #[schema(max_items = 10000)]
    digests: Vec<String>,
}

/// What is not there.
#[derive(Serialize, ToSchema)]
#[schema(as = Missing)]
pub(in crate::api) struct MissingDto<'a> {
    /// Those of the digests whose contents have to be sent, in the order in which they were asked about, each once.
    missing: Vec<&'a str>,
    /// For how long the others are kept.
    lease_seconds: u32,
}

/// Read and answered beside the core: the digests of a body, each once and in its order, as they were written and what they mean.
struct Asked {
    digests: Vec<(String, ContentHash)>,
}

impl Asked {
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let unreadable = |detail: String| Problem::new(400, "invalid_digests", detail);
        let MissingBody { digests } = parse_object(body).map_err(unreadable)?;
        let invalid = |reason: String| Problem::parameter("invalid_parameter", "digests", reason);
        if digests.len() > DIGESTS_MAX {
            return Err(invalid(format!("there are more than {DIGESTS_MAX}")));
        }
        let mut seen = HashSet::with_capacity(digests.len());
        let mut asked = Vec::with_capacity(digests.len());
        for (index, text) in digests.into_iter().enumerate() {
            let hash = parse_digest(&text);
            let hash = hash
                .ok_or_else(|| invalid(format!("number {index} is not sha256: and 64 hexadecimal digits")))?;
            if seen.insert(hash) {
                asked.push((text, hash));
            }
        }
        Ok(Self { digests: asked })
    }

    fn with_hashes(self) -> (Self, Vec<ContentHash>) {
        let hashes = self.digests.iter().map(|(_, hash)| *hash).collect();
        (self, hashes)
    }

    /// Those that are missing, as JSON, and how many are there.
    fn without(&self, leased: &[StoredContent]) -> (Vec<u8>, usize) {
        let whole = leased.iter().filter(|content| !content.damaged);
        let there: HashSet<_> = whole.map(|content| content.location.content_hash).collect();
        let is_missing = |(_, hash): &&(String, ContentHash)| !there.contains(hash);
        let missing = self.digests.iter().filter(is_missing).map(|(text, _)| text.as_str()).collect();
        let answer = MissingDto { missing, lease_seconds: LEASE_SECONDS };
        // A struct of texts and numbers always has a JSON form.
        (serde_json::to_vec(&answer).unwrap_or_default(), there.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    fn body_of(count: usize) -> Vec<u8> {
        let digests: Vec<_> = (0..count).map(digest).collect();
        serde_json::to_vec(&serde_json::json!({ "digests": digests })).unwrap()
    }

    #[test]
    fn digests_come_each_once_in_their_order() {
        let body = format!(
            r#"{{"digests":["{}","{}","{}","{}"]}}"#,
            digest(2),
            digest(10),
            digest(2),
            digest(10).to_uppercase().replace("SHA", "sha")
        );
        let asked = Asked::parse(body.as_bytes()).unwrap_or_else(|_| panic!("they are digests"));
        let texts: Vec<_> = asked.digests.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, [digest(2), digest(10)]);
        assert!(Asked::parse(br#"{"digests":[]}"#).is_ok_and(|asked| asked.digests.is_empty()));
    }

    #[test]
    fn so_many_digests_fit_and_no_more() {
        let (most, more) = (body_of(DIGESTS_MAX), body_of(DIGESTS_MAX + 1));
        assert!(more.len() < BODY_BYTES_MAX);
        assert!(Asked::parse(&most).is_ok_and(|asked| asked.digests.len() == DIGESTS_MAX));
        let problem = Asked::parse(&more).err().unwrap();
        assert_eq!((problem.status, problem.parameter.as_deref()), (400, Some("digests")));
        assert_eq!(DIGESTS_MAX, 10_000);
    }

    #[test]
    fn anything_else_is_refused() {
        for body in [
            "",
            "[]",
            "{",
            "null",
            "{}",
            r#"{"digests":null}"#,
            r#"{"digests":"sha256:00"}"#,
            r#"{"digests":[1]}"#,
            r#"{"digests":[],"x":1}"#,
            r#"{"digests":[],"digests":[]}"#,
            r#"{"digests":[]} x"#,
            r#"[["sha256:00"]]"#,
        ] {
            let problem = Asked::parse(body.as_bytes()).err();
            assert_eq!(problem.map(|problem| problem.code), Some("invalid_digests"), "{body}");
        }
        for text in ["", "sha256:", "sha256:00", &digest(0)[7..], &format!("{}0", digest(0)), "sha512:00"] {
            let body = serde_json::json!({ "digests": [digest(1), text] }).to_string();
            let problem = Asked::parse(body.as_bytes()).err().unwrap();
            assert_eq!((problem.code, problem.parameter.as_deref()), ("invalid_parameter", Some("digests")));
        }
    }

    #[test]
    fn a_core_holds_few_bodies_at_once() {
        let mut turns: Vec<_> = std::iter::from_fn(Turn::take).collect();
        assert_eq!(turns.len(), BODIES_AT_ONCE_MAX);
        drop(turns.pop());
        assert!(Turn::take().is_some());
    }
}
