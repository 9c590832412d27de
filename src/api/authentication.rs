//! Who asks: the credential of a request, and what is said where there is none or it is not enough (RFC 6750).
//!
//! All of this comes before the body of a request is asked for, and where a credential was good a moment ago, it makes
//! nothing and asks nobody.

use std::rc::Rc;

use super::errors::Problem;
use super::http1::{Method, RequestHead};
use super::router::Route;
use super::service::Service;
use crate::application::credentials::{ApiKeySecret, AuthenticationError, Authenticator, CurrentVerifier};
use crate::application::ports::{ApiKeyRepository, Clock};
use crate::domain::entities::{Forbidden, Permission, Principal};

/// The field that names what could let a request in (RFC 9110 §11.6.1).
const CHALLENGE: &str = "WWW-Authenticate";
const REALM: &str = "Bearer realm=\"just_storage\"";

/// Whom a core lets in.
pub enum Access {
    /// Everybody, to do everything.
    Open(Rc<Principal>),
    /// Whoever shows a good credential; and whoever shows none, to where none is needed.
    Credentials(Authenticator, Rc<Principal>),
}

impl Access {
    /// Everybody.
    pub fn open() -> Self {
        Self::Open(Rc::new(Principal::anybody()))
    }

    /// Whoever shows an API key that is good, or a token where there is something to verify it with.
    pub fn with_credentials(tokens: Option<CurrentVerifier>) -> Self {
        Self::Credentials(Authenticator::new(tokens), Rc::new(Principal::nobody()))
    }
}

/// What a request on this route needs to be permitted; `None` where it needs no credential at all.
pub fn needed_permission(route: &Route, method: Method) -> Option<Permission> {
    match route {
        Route::Root | Route::Health | Route::Ready => None,
        Route::Objects | Route::Object(_) | Route::ObjectInfo(_) | Route::Key(_) => Some(match method {
            Method::Get | Method::Head => Permission::Read,
            Method::Post | Method::Put | Method::Patch => Permission::Write,
            Method::Delete => Permission::Delete,
            Method::Options | Method::Trace | Method::Connect | Method::Unknown => Permission::Admin,
        }),
        Route::Tenant(_) | Route::Metrics => Some(Permission::Admin),
    }
}

/// Finds out who asks. On a route that needs no credential, nobody is asked for one, and it is not looked at.
///
/// # Errors
/// `401`; `400` where there are two credentials; `503` where it cannot be found out whether an API key is good.
pub(super) async fn authenticate<S, R: ApiKeyRepository, C: Clock>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    route: &Route,
) -> Result<Rc<Principal>, Problem> {
    let (authenticator, nobody) = match &service.access {
        Access::Open(anybody) => return Ok(anybody.clone()),
        Access::Credentials(authenticator, nobody) => (authenticator, nobody),
    };
    if needed_permission(route, head.method()).is_none() {
        return Ok(nobody.clone());
    }
    let credential = credential(head)?;
    if let Some(principal) = authenticator.remembered(credential) {
        return Ok(principal);
    }
    // This is rare, and its state would be part of every connection.
    let verified = Box::pin(authenticator.verify(credential, &service.repository, &service.clock)).await;
    verified.map_err(|error| match error {
        AuthenticationError::Invalid => invalid_token(),
        AuthenticationError::Repository(error) => error.into(),
    })
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
        // Only the operator's is enough, whichever tenant it is: the handler looks.
        Route::Tenant(_) => Ok(()),
        // Whoever does not reach everything is told no names.
        Route::Metrics => Ok(()),
        Route::Root | Route::Health | Route::Ready => Ok(()),
    }
}

/// The one credential of a request, as it was sent.
fn credential(head: &RequestHead) -> Result<&[u8], Problem> {
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
    match found {
        None => Err(unauthorized()),
        Some(shown) => shown,
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

fn unauthorized() -> Problem {
    let mut problem =
        Problem::new(401, "unauthorized", "this needs a credential: a bearer token or an API key");
    problem.fields.add(CHALLENGE, REALM);
    problem
}

fn invalid_token() -> Problem {
    let mut problem = Problem::new(401, "invalid_token", "the credential is not valid, or is so no more");
    problem.fields.add(CHALLENGE, format_args!("{REALM}, error=\"invalid_token\""));
    problem
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

    fn shown(fields: &str) -> Result<Vec<u8>, (u16, &'static str)> {
        let limits = HeadLimits { request_line_bytes_max: 1000, header_bytes_max: 10_000, fields_max: 10 };
        let mut head = RequestHead::default();
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        HeadParser::default().parse(text.as_bytes(), &limits, &mut head).unwrap();
        credential(&head).map(<[u8]>::to_vec).map_err(|problem| (problem.status, problem.code))
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
