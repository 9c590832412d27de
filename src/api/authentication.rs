//! Who asks: the credential of a request, and what is said where there is none or it is not enough (RFC 6750).
//!
//! All of this comes before the body of a request is asked for, and where a credential was good a moment ago, it makes
//! nothing and asks nobody.

use std::rc::Rc;
use std::sync::Arc;

use super::errors::Problem;
use super::http1::{BodyFraming, Method, RequestHead};
use super::router::Route;
use super::service::Service;
use super::signed_url::SignedQuery;
use crate::application::credentials::{
    ApiKeySecret, AuthenticationError, Authenticator, CurrentVerifier, RateExceeded, RequestRates,
    UrlSignatures, UrlSigningKeys, Verified,
};
use crate::application::ports::{ApiKeyRepository, Clock};
use crate::domain::entities::{Forbidden, Permission, Principal, Reach};
use crate::domain::value_objects::ContentHash;

/// The field that names what could let a request in (RFC 9110 §11.6.1).
const CHALLENGE: &str = "WWW-Authenticate";
const REALM: &str = "Bearer realm=\"just_storage\"";

/// The field that names a content instead of sending it.
pub(super) const BLOB_REFERENCE: &str = "X-Blob-Reference";

/// Whom a core lets in.
pub enum Access {
    /// Everybody, to do everything.
    Open(Rc<Principal>),
    /// Whoever shows a good credential; and whoever shows none, to where none is needed.
    Credentials {
        /// What credentials are worth.
        authenticator: Authenticator,
        /// Whoever shows none.
        nobody: Rc<Principal>,
        /// What signatures of URLs are worth, where there is a secret to sign them with.
        signatures: Option<UrlSignatures>,
    },
}

impl Access {
    /// Everybody.
    pub fn open() -> Self {
        Self::Open(Rc::new(Principal::anybody()))
    }

    /// Whoever shows an API key that is good, or a token where there is something to verify it with, or a URL that one
    /// of these has signed where there is something to sign it with; and that as often as its rate allows, where there is
    /// one.
    pub fn with_credentials(
        tokens: Option<CurrentVerifier>,
        signing: Option<Arc<UrlSigningKeys>>,
        rates: Option<Arc<RequestRates>>,
    ) -> Self {
        Self::Credentials {
            signatures: signing.map(|keys| UrlSignatures::new(keys, tokens.clone(), rates.clone())),
            authenticator: Authenticator::new(tokens, rates),
            nobody: Rc::new(Principal::nobody()),
        }
    }
}

/// Who asks.
pub(super) struct Asker {
    pub(super) principal: Rc<Principal>,
    /// Whether they may ask something now. What is refused for this is refused to somebody who is known.
    pub(super) within_rate: Result<(), RateExceeded>,
    /// What the body has to be, where the URL is signed for that.
    pub(super) digest: Option<Box<ContentHash>>,
    /// How long the content has to be that is referred to, where the URL is signed for a size.
    pub(super) reference_bytes: Option<u64>,
}

impl Asker {
    /// Somebody who may ask as often as they like.
    pub(super) fn unlimited(principal: &Rc<Principal>) -> Self {
        Self { principal: principal.clone(), within_rate: Ok(()), digest: None, reference_bytes: None }
    }

    fn of_credential(Verified { principal, within_rate }: Verified) -> Self {
        Self { principal, within_rate, digest: None, reference_bytes: None }
    }
}

/// Whether a request on this route has to say who asks.
pub(super) fn needs_credential(route: &Route) -> bool {
    match route {
        Route::Root | Route::Health | Route::Ready | Route::OpenApi => false,
        Route::Objects
        | Route::Object(_)
        | Route::ObjectInfo(_)
        | Route::Key(_)
        | Route::Blob(_)
        | Route::MissingBlobs
        | Route::Tenant(_)
        | Route::Lifecycle(_)
        | Route::Metrics
        | Route::Uploads
        | Route::Upload(_)
        | Route::Sign
        | Route::BatchGet
        | Route::BatchPut
        | Route::BatchDelete => true,
    }
}

/// What a request on this route needs to be permitted; `None` where that is nothing, or not to be seen from here.
pub fn needed_permission(route: &Route, method: Method) -> Option<Permission> {
    match route {
        Route::Root | Route::Health | Route::Ready | Route::OpenApi => None,
        Route::Objects | Route::Object(_) | Route::ObjectInfo(_) | Route::Key(_) => Some(match method {
            Method::Get | Method::Head => Permission::Read,
            Method::Post | Method::Put | Method::Patch => Permission::Write,
            Method::Delete => Permission::Delete,
            Method::Options | Method::Trace | Method::Connect | Method::Unknown => Permission::Admin,
        }),
        // Whoever may begin an upload may give it up; the object that it becomes is another matter.
        Route::Uploads | Route::Upload(_) => Some(Permission::Write),
        Route::Blob(_) => Some(Permission::Read),
        // It says what is there and keeps it, for whoever is about to write.
        Route::MissingBlobs => Some(Permission::Write),
        Route::Tenant(_) | Route::Lifecycle(_) | Route::Metrics => Some(Permission::Admin),
        Route::BatchGet => Some(Permission::Read),
        Route::BatchPut => Some(Permission::Write),
        Route::BatchDelete => Some(Permission::Delete),
        // What the request needs that is to be signed, which its body tells: the handler asks for that.
        Route::Sign => None,
    }
}

/// Finds out who asks, and whether they may ask now. On a route that needs no credential, nobody is asked for one, and it
/// is not looked at. Of a URL that is signed, the head is left with what the request itself says.
///
/// # Errors
/// `401`; `400` where there are two credentials; `403` for a signed URL that lets nobody in; `503` where it cannot be
/// found out whether an API key is good.
pub(super) async fn authenticate<S, R: ApiKeyRepository, C: Clock>(
    service: &Service<S, R, C>,
    head: &mut RequestHead,
    route: &Route,
) -> Result<Asker, Problem> {
    let (authenticator, nobody, signatures) = match &service.access {
        Access::Open(anybody) => return Ok(Asker::unlimited(anybody)),
        Access::Credentials { authenticator, nobody, signatures } => (authenticator, nobody, signatures),
    };
    if !needs_credential(route) {
        return Ok(Asker::unlimited(nobody));
    }
    // Either of the slow ways is rare, and its state would be part of every connection.
    match shown(head)? {
        Shown::Credential(credential) => {
            if let Some(verified) = authenticator.remembered(credential) {
                return Ok(Asker::of_credential(verified));
            }
            let verified = authenticator.verify(credential, &service.repository, &service.clock);
            Box::pin(verified).await.map(Asker::of_credential).map_err(unauthenticated)
        }
        Shown::SignedUrl => {
            let signatures = signatures.as_ref().ok_or_else(invalid_signature)?;
            let (asker, own_bytes) = Box::pin(verify_url(service, signatures, head, route)).await?;
            head.cut_query(own_bytes);
            Ok(asker)
        }
    }
}

/// What is said of a target that no route has. None is ever signed: a URL that means to be signed is not what it was.
pub(super) fn refuse_target<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    problem: Problem,
) -> Problem {
    match &service.access {
        Access::Credentials { .. } if SignedQuery::is_meant(head.query()) => invalid_signature(),
        Access::Credentials { .. } | Access::Open(_) => problem,
    }
}

/// Whom a signed URL lets in, to do the one thing that it is for, and how much of its query is the request's own. The
/// signature comes first: before it has been found good, nothing that it covers is told or asked of anybody.
async fn verify_url<S, R: ApiKeyRepository, C: Clock>(
    service: &Service<S, R, C>,
    signatures: &UrlSignatures,
    head: &RequestHead,
    route: &Route,
) -> Result<(Asker, usize), Problem> {
    let SignedQuery { terms, signed, signature, own_bytes } =
        head.query().and_then(SignedQuery::read).ok_or_else(invalid_signature)?;
    let needed = needed_permission(route, head.method()).ok_or_else(invalid_signature)?;
    if !signatures.have_signed(&terms.signer, &[head.path(), "?", signed], signature)
        || !terms.permit(head.method())
    {
        return Err(invalid_signature());
    }
    if service.clock.now() >= terms.until {
        return Err(Problem::new(403, "signature_expired", "the time that the URL was signed for is over"));
    }
    let ports = (&service.repository, &service.clock);
    let permitted = signatures.still_permit(&terms.signer, needed, &terms.scope, ports).await?;
    let within_rate = permitted.ok_or_else(|| {
        let detail = "whoever signed the URL may not do this any more";
        Problem::new(403, "signer_not_permitted", detail)
    })?;
    // Of what is not sent, the size is known once it has been found.
    let reference_bytes = terms.size_bytes.filter(|_| head.has(BLOB_REFERENCE));
    if let Some(size_bytes) = terms.size_bytes.filter(|size| head.framing() != BodyFraming::Length(*size))
        && reference_bytes.is_none()
    {
        let detail = format!(
            "the URL is signed for a body of {size_bytes} bytes, which its Content-Length has to say"
        );
        return Err(Problem::new(403, "signed_size_mismatch", detail));
    }
    let principal = Principal {
        credential_id: Some(terms.signer.credential_id()),
        reach: Reach::new(Some(terms.scope.tenant_id), Some(vec![terms.scope.namespace])),
        permissions: [needed].into_iter().collect(),
    };
    let digest = terms.digest.map(Box::new);
    Ok((Asker { principal: Rc::new(principal), within_rate, digest, reference_bytes }, own_bytes))
}

/// Whether the principal may do this at all, and may name what the path names.
///
/// # Errors
/// `403`.
pub(super) fn authorise(principal: &Principal, route: &Route, method: Method) -> Result<(), Problem> {
    let Some(needed) = needed_permission(route, method) else { return Ok(()) };
    principal.check_permission(needed)?;
    match route {
        Route::Key(path) => Ok(principal.check_scope(&path.scope)?),
        // The scope stands in the query, and is checked where that is read; or an id says nothing of it.
        Route::Objects | Route::Object(_) | Route::ObjectInfo(_) => Ok(()),
        Route::Uploads | Route::Upload(_) => Ok(()),
        Route::BatchGet | Route::BatchPut | Route::BatchDelete => Ok(()),
        // The tenant does.
        Route::Blob(_) | Route::MissingBlobs => Ok(()),
        // Only the operator's is enough, whichever tenant it is: the handler looks.
        Route::Tenant(_) | Route::Lifecycle(_) => Ok(()),
        // The same for what is to be signed, and that stands in the body.
        Route::Sign => Ok(()),
        // Whoever does not reach everything is told no names.
        Route::Metrics => Ok(()),
        Route::Root | Route::Health | Route::Ready | Route::OpenApi => Ok(()),
    }
}

/// How a request says who asks.
pub(super) enum Shown<'h> {
    /// By a credential, as it was sent.
    Credential(&'h [u8]),
    /// By a URL that means to be signed.
    SignedUrl,
}

/// The one way in which a request says who asks.
pub(super) fn shown(head: &RequestHead) -> Result<Shown<'_>, Problem> {
    let mut found = None;
    for (name, value) in head.fields() {
        let shown = if name.eq_ignore_ascii_case("authorization") {
            bearer(value)
        } else if name.eq_ignore_ascii_case("x-api-key") {
            if ApiKeySecret::is_meant(value) { Ok(value) } else { Err(invalid_token()) }
        } else {
            continue;
        };
        if found.replace(shown).is_some() {
            return Err(repeated());
        }
    }
    match (found, SignedQuery::is_meant(head.query())) {
        (None, false) => Err(unauthorized()),
        (None, true) => Ok(Shown::SignedUrl),
        (Some(shown), false) => shown.map(Shown::Credential),
        (Some(_), true) => Err(repeated()),
    }
}

/// `Bearer` and a token, whose characters are those of RFC 6750 §2.1; the verifiers look at them.
fn bearer(value: &[u8]) -> Result<&[u8], Problem> {
    const SCHEME: &[u8] = b"Bearer";
    let (scheme, rest) = value.split_at_checked(SCHEME.len()).unwrap_or((value, b""));
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(|byte| *byte == b' ');
    // Another scheme is no token that went bad; it is none.
    if !is_bearer { Err(unauthorized()) } else { Ok(rest.trim_ascii()) }
}

pub(super) fn unauthorized() -> Problem {
    let mut problem =
        Problem::new(401, "unauthorized", "this needs a credential: a bearer token or an API key");
    problem.fields.add(CHALLENGE, REALM);
    problem
}

pub(super) fn invalid_token() -> Problem {
    let mut problem = Problem::new(401, "invalid_token", "the credential is not valid, or is so no more");
    problem.fields.add(CHALLENGE, format_args!("{REALM}, error=\"invalid_token\""));
    problem
}

/// What is said where a credential is found to be none.
pub(super) fn unauthenticated(error: AuthenticationError) -> Problem {
    match error {
        AuthenticationError::Invalid => invalid_token(),
        AuthenticationError::Repository(error) => error.into(),
    }
}

/// The same whatever is wrong with it.
fn invalid_signature() -> Problem {
    Problem::new(403, "signature_invalid", "the URL is not one that was signed here for this request")
}

fn repeated() -> Problem {
    let mut problem = Problem::new(400, "repeated_credential", "there is more than one credential");
    problem.fields.add(CHALLENGE, format_args!("{REALM}, error=\"invalid_request\""));
    problem
}

impl From<Forbidden> for Problem {
    fn from(forbidden: Forbidden) -> Self {
        match forbidden {
            Forbidden::Permission(needed) => {
                let needed = needed.as_str();
                let mut problem =
                    Self::new(403, "forbidden", format!("the credential does not permit {needed}"));
                let challenge = format_args!("{REALM}, error=\"insufficient_scope\", scope=\"{needed}\"");
                problem.fields.add(CHALLENGE, challenge);
                problem
            }
            Forbidden::Scope => {
                Self::new(403, "forbidden", "the credential does not reach this tenant or this namespace")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::http1::{HeadLimits, HeadParser};
    use super::*;

    fn shown_by(target: &str, fields: &str) -> Result<Vec<u8>, (u16, &'static str)> {
        let limits = HeadLimits { request_line_bytes_max: 1000, header_bytes_max: 10_000, fields_max: 10 };
        let mut head = RequestHead::default();
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        HeadParser::default().parse(text.as_bytes(), &limits, &mut head).unwrap();
        match super::shown(&head) {
            Ok(Shown::Credential(credential)) => Ok(credential.to_vec()),
            Ok(Shown::SignedUrl) => Ok(b"(the URL)".to_vec()),
            Err(problem) => Err((problem.status, problem.code)),
        }
    }

    fn shown(fields: &str) -> Result<Vec<u8>, (u16, &'static str)> {
        shown_by("/?cursor=signed_by=me", fields)
    }

    #[test]
    fn a_signed_url_is_a_credential_like_others() {
        for target in ["/?signature=", "/?a&signed_by", "/?signed_=&b", "/?signature"] {
            assert_eq!(shown_by(target, "").as_deref(), Ok(&b"(the URL)"[..]), "{target}");
            for fields in
                ["X-API-Key: jsk_x\r\n", "Authorization: Bearer a\r\n", "Authorization: Basic b\r\n"]
            {
                assert_eq!(shown_by(target, fields), Err((400, "repeated_credential")), "{target} {fields}");
            }
        }
        for target in ["/", "/?", "/?namespace=signed_", "/?key=signature=", "/?Signature=", "/signature="] {
            assert_eq!(shown_by(target, ""), Err((401, "unauthorized")), "{target}");
        }
    }

    #[test]
    fn one_credential_is_found_in_either_field() {
        for (fields, expected) in [
            ("Authorization: Bearer a.b.c\r\n", "a.b.c"),
            ("authorization: bEARER   a\r\n", "a"),
            ("X-API-Key: jsk_x\r\n", "jsk_x"),
            ("Authorization: Bearer\r\n", ""),
            ("Authorization: Bearer a b\r\n", "a b"),
        ] {
            assert_eq!(shown(fields).as_deref(), Ok(expected.as_bytes()), "{fields}");
        }
        assert_eq!(shown("X-API-Key: a.b.c\r\n"), Err((401, "invalid_token")), "a token is no key");
        for fields in
            ["", "Authorization: Basic YTpi\r\n", "Authorization: Bearera\r\n", "Authorization: \r\n"]
        {
            assert_eq!(shown(fields), Err((401, "unauthorized")), "{fields}");
        }
        for fields in [
            "Authorization: Bearer a\r\nX-API-Key: jsk_x\r\n",
            "X-API-Key: a\r\nX-Api-Key: a\r\n",
            "Authorization: Bearer a\r\nAuthorization: Basic b\r\n",
        ] {
            assert_eq!(shown(fields), Err((400, "repeated_credential")), "{fields}");
        }
    }
}
