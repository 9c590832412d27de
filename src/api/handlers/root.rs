//! `/`: what this server is; and what arrives here of a body that is sent to it. `/openapi.json`: what can be asked.

use super::super::errors::Problem;
use super::super::http1::{Fields, RequestHead};
use super::super::openapi;
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::{Body, Response};

/// The largest body that is sent back.
const ECHO_BYTES_MAX: usize = 64 * 1024;

/// `GET /`
pub(super) fn describe<Reader>(head: &RequestHead) -> Result<Response<Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let description = serde_json::json!({
        "service": "JustStorage",
        "version": env!("CARGO_PKG_VERSION"),
        "objects": "/v1/objects",
        "keys": "/v1/keys/{namespace}/{tenant_id}/{key}",
        "health": "/health",
        "openapi": "/openapi.json",
    });
    Ok(Response::json(200, description.to_string().into_bytes()))
}

/// `GET /openapi.json`
pub(super) fn openapi<Reader>(head: &RequestHead) -> Result<Response<Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    Ok(Response::json(200, openapi::json().to_vec()))
}

/// `POST /`: the body comes back as it was understood, so that whoever sets up a proxy can see what it makes of
/// chunks and lengths. Nothing is kept.
pub(super) async fn echo<Reader>(
    head: &RequestHead,
    body: &mut RequestBody<'_>,
) -> Result<Response<Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let bytes = body.read_whole(ECHO_BYTES_MAX).await?;
    let mut fields = Fields::default();
    fields.add_lines(
        "Content-Type: application/octet-stream\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: sandbox; default-src 'none'\r\n",
    );
    Ok(Response { status: 200, object: None, fields, body: Body::Bytes(bytes), change: None })
}
