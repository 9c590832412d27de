//! `GET` and `HEAD` of an object or key, and what is known of an object.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::errors::Problem;
use super::super::http1::{Conditions, Fields, Method, RangeHeader, RequestHead, Verdict, parse_range};
use super::super::query::Parameters;
use super::super::service::Service;
use super::{Body, Response, object_json};
use crate::application::ports::{BlobStore, Freshness, ObjectName, ObjectRepository};
use crate::application::use_cases::{Download, download_object};
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::ByteRange;

/// `GET /v1/objects/{id}/info`
pub(super) async fn info<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let object = service.repository.inspect(&name).await?.ok_or_else(Problem::not_found)?;
    Ok(Response::json(200, object_json(&object)))
}

/// As [`download`], and notes that the object was read: by `GET`, also where the client turns out to have it.
pub(super) async fn download_noted<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
    freshness: Freshness,
) -> Result<Response<S::Reader>, Problem> {
    let response = download(service, head, name, freshness).await?;
    if let (Method::Get, Some(stored)) = (head.method(), &response.object) {
        service.repository.note_read(&stored.object);
    }
    Ok(response)
}

/// `GET` or `HEAD` of an object's bytes.
pub(super) async fn download<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
    freshness: Freshness,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let conditions = Conditions::of(head);
    let answer = |object: &Arc<StoredObject>| decide(head, &conditions, object).transpose();
    match download_object(&service.store, &service.repository, &name, freshness, answer).await? {
        Download::NotFound => Err(Problem::not_found()),
        Download::Answered(answer) => answer,
        Download::Open { object, reader } => {
            let part = requested_part(head, &object)?;
            let range = part.unwrap_or(ByteRange { offset: 0, length: object.size_bytes });
            let mut fields = Fields::default();
            if part.is_some() {
                let (last, size) = (range.last(), object.size_bytes);
                fields.add("Content-Range", format_args!("bytes {}-{last}/{size}", range.offset));
            }
            let status = if part.is_some() { 206 } else { 200 };
            let body = match range.length {
                0 => Body::Bytes(Vec::new()),
                _ => Body::Blob(reader, range, object.object.scope.tenant_id.clone()),
            };
            Ok(Response { status, object: Some(object), fields, body, change: None })
        }
    }
}

/// The answer, if the object alone is enough for one.
fn decide<Reader>(
    head: &RequestHead,
    conditions: &Conditions,
    object: &Arc<StoredObject>,
) -> Result<Option<Response<Reader>>, Problem> {
    let about = |status, body| {
        let (object, fields) = (Some(object.clone()), Fields::default());
        Ok(Some(Response { status, object, fields, body, change: None }))
    };
    match conditions.verdict(&object.current_version()) {
        Verdict::Failed => return Err(Problem::precondition_failed()),
        Verdict::NotModified => return about(304, Body::None),
        Verdict::Proceed => {}
    }
    if head.method() == Method::Head {
        return about(200, Body::Withheld(object.size_bytes));
    }
    requested_part(head, object)?;
    Ok(None)
}

/// The part that a `GET` asks for, or `None` for the whole (RFC 9110 §14.2).
fn requested_part(head: &RequestHead, object: &StoredObject) -> Result<Option<ByteRange>, Problem> {
    let Some(value) = head.single("range") else { return Ok(None) };
    if !Conditions::range_applies(head, &object.current_version()) {
        return Ok(None);
    }
    match parse_range(value) {
        RangeHeader::Ignored => Ok(None),
        RangeHeader::Several => Err(Problem::not_implemented("Range")),
        RangeHeader::One(request) => match request.resolve(object.size_bytes) {
            Some(range) => Ok(Some(range)),
            None => {
                let mut problem =
                    Problem::new(416, "range_not_satisfiable", "the object has no byte in this range");
                problem.fields.add("Content-Range", format_args!("bytes */{}", object.size_bytes));
                Err(problem)
            }
        },
    }
}

/// Adds what every answer about an object's bytes says. The last five hold for all of them.
pub fn add_object_fields(fields: &mut Fields, object: &StoredObject) {
    let hex = object.content_hash.to_hex();
    fields.add_with("ETag", |value| {
        value.extend_from_slice(b"\"sha256-");
        value.extend_from_slice(hex.as_bytes());
        value.push(b'"');
    });
    fields.add_with("Repr-Digest", |value| {
        value.extend_from_slice(b"sha-256=:");
        object.content_hash.append_base64(value);
        value.push(b':');
    });
    fields.add("Content-Type", object.object.content_type.as_str());
    fields.add("Last-Modified", httpdate::HttpDate::from(SystemTime::from(object.object.updated_at)));
    for (name, value) in object.object.metadata.iter() {
        fields.add_prefixed("X-Object-Meta-", name, value);
    }
    fields.add_lines(
        "Accept-Ranges: bytes\r\n\
         Cache-Control: private, no-cache\r\n\
         Vary: Authorization, X-API-Key\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: sandbox; default-src 'none'\r\n",
    );
}
