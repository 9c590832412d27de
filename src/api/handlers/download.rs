//! `GET` and `HEAD` of an object or key, and what is known of an object.

use std::sync::Arc;

use super::super::errors::Problem;
use super::super::http1::{
    Conditions, Fields, Method, Multipart, RangeHeader, RequestHead, Verdict, append_attachment,
    append_http_date, check_file_name, parse_range,
};
use super::super::multipart_transfer::BlobParts;
use super::super::query::Parameters;
use super::super::service::Service;
use super::json::object_json;
use super::{Body, Response};
use crate::application::ports::{BlobStore, Freshness, ObjectName, ObjectRepository};
use crate::application::use_cases::{Download, download_object};
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::{ByteRange, RangeRequest};

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

/// The name of the parameter that asks for an object as a file, which a client keeps under this name or, where it is empty,
/// under the last part of the key.
pub(in crate::api) const DOWNLOAD: &str = "download";

/// As [`download`], and notes that the object was read: by `GET`, also where the client turns out to have it.
pub(super) async fn download_noted<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
    freshness: Freshness,
) -> Result<Response<S::Reader>, Problem> {
    let response = download(service, head, name, freshness).await?;
    note_read(service, head, &response);
    Ok(response)
}

/// Notes that the object of an answer was read, if it was.
pub(super) fn note_read<S, R: ObjectRepository, C, Reader>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    response: &Response<Reader>,
) {
    if let (Method::Get, Some(stored)) = (head.method(), &response.object) {
        service.repository.note_read(&stored.object);
    }
}

/// `GET` or `HEAD` of an object's bytes.
pub(super) async fn download<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
    freshness: Freshness,
) -> Result<Response<S::Reader>, Problem> {
    let parameters = Parameters::parse(head.query(), &[DOWNLOAD])?;
    answer(service, head, name, freshness, file_name(&parameters)?).await
}

/// The name under which a client is asked to keep what it reads.
pub(super) fn file_name<'p>(parameters: &'p Parameters<'_>) -> Result<Option<&'p str>, Problem> {
    parameters.parsed(DOWNLOAD, check_file_name)?;
    Ok(parameters.get(DOWNLOAD))
}

/// The same, whatever its query says besides.
pub(super) async fn answer<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
    freshness: Freshness,
    file_name: Option<&str>,
) -> Result<Response<S::Reader>, Problem> {
    let conditions = Conditions::of(head);
    let answer = |object: &Arc<StoredObject>| decide(head, &conditions, object, file_name).transpose();
    match download_object(&service.store, &service.repository, &name, freshness, answer).await? {
        Download::NotFound => Err(Problem::not_found()),
        Download::Answered(answer) => answer,
        Download::Open { object, reader } => {
            let tenant_id = object.object.scope.tenant_id.clone();
            let mut fields = Fields::default();
            add_disposition(&mut fields, &object, file_name);
            let (status, body) = match requested(head, &object)? {
                Requested::Whole => match object.size_bytes {
                    0 => (200, Body::Bytes(Vec::new())),
                    length => (200, Body::Blob(reader, ByteRange { offset: 0, length }, tenant_id)),
                },
                Requested::Part(range) => {
                    let (last, size) = (range.last(), object.size_bytes);
                    fields.add("Content-Range", format_args!("bytes {}-{last}/{size}", range.offset));
                    (206, Body::Blob(reader, range, tenant_id))
                }
                Requested::Parts(ranges) => {
                    let content_type = object.object.content_type.clone();
                    let multipart = Multipart::new(ranges, content_type, object.size_bytes);
                    (206, Body::Parts(Box::new(BlobParts { reader, multipart, tenant_id })))
                }
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
    file_name: Option<&str>,
) -> Result<Option<Response<Reader>>, Problem> {
    let about = |status, fields, body| {
        let object = Some(object.clone());
        Ok(Some(Response { status, object, fields, body, change: None }))
    };
    let mut fields = Fields::default();
    match conditions.verdict(&object.current_version()) {
        Verdict::Failed => return Err(Problem::precondition_failed()),
        Verdict::NotModified => return about(304, fields, Body::None),
        Verdict::Proceed => {}
    }
    if head.method() == Method::Head {
        add_disposition(&mut fields, object, file_name);
        return about(200, fields, Body::Withheld(object.size_bytes));
    }
    requested(head, object)?;
    Ok(None)
}

/// Asks the client to keep the bytes as a file, where that is what it wants.
fn add_disposition(fields: &mut Fields, object: &StoredObject, file_name: Option<&str>) {
    let Some(chosen) = file_name else { return };
    fields.add_with("Content-Disposition", |value| match &object.object.key {
        _ if !chosen.is_empty() => append_attachment(chosen, value),
        Some(key) => append_attachment(key.last_segment(), value),
        None => append_attachment(&object.object.id.to_string(), value),
    });
}

/// What a `GET` asks for.
enum Requested {
    Whole,
    Part(ByteRange),
    /// Two at least.
    Parts(Vec<ByteRange>),
}

/// What a `GET` asks for of an object (RFC 9110 §14.2).
fn requested(head: &RequestHead, object: &StoredObject) -> Result<Requested, Problem> {
    let Some(value) = head.single("range") else { return Ok(Requested::Whole) };
    if !Conditions::range_applies(head, &object.current_version()) {
        return Ok(Requested::Whole);
    }
    let found = match parse_range(value) {
        RangeHeader::Ignored => Some(Requested::Whole),
        RangeHeader::One(request) => request.resolve(object.size_bytes).map(Requested::Part),
        RangeHeader::Several(requests) => several(&requests, object.size_bytes),
    };
    found.ok_or_else(|| {
        let mut problem =
            Problem::new(416, "range_not_satisfiable", "the object has no byte in what was asked for");
        problem.fields.add("Content-Range", format_args!("bytes */{}", object.size_bytes));
        problem
    })
}

/// Those of several parts that exist, in the order in which they are asked for; `None` if there is none. What is more than
/// the whole, since parts overlap, is the whole: nobody is sent more than there is for a few bytes (RFC 9110 §14.2).
fn several(requests: &[RangeRequest], size_bytes: u64) -> Option<Requested> {
    let ranges: Vec<_> = requests.iter().filter_map(|request| request.resolve(size_bytes)).collect();
    let total = ranges.iter().fold(0, |total: u64, range| total.saturating_add(range.length));
    match ranges.as_slice() {
        [] => None,
        [one] => Some(Requested::Part(*one)),
        _ if total > size_bytes => Some(Requested::Whole),
        _ => Some(Requested::Parts(ranges)),
    }
}

/// Adds what every answer about an object's bytes says. For how long it may be kept, the answer says itself.
pub fn add_object_fields(fields: &mut Fields, object: &StoredObject) {
    add_fields_of(fields, object, object.object.content_type.as_str());
}

/// The same, of a body that has another media type. The last four fields hold for all objects.
pub(super) fn add_fields_of(fields: &mut Fields, object: &StoredObject, content_type: &str) {
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
    fields.add_text("", "Content-Type", content_type);
    fields.add_with("Last-Modified", |value| append_http_date(object.object.updated_at, value));
    for (name, value) in object.object.metadata.iter() {
        fields.add_text("X-Object-Meta-", name, value);
    }
    fields.add_lines(
        "Accept-Ranges: bytes\r\n\
         Vary: Authorization, X-API-Key\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: sandbox; default-src 'none'\r\n",
    );
}
