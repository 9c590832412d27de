//! `X-Blob-Reference`: an upload that names a content which its tenant has, instead of sending it.

use super::super::authentication::BLOB_REFERENCE;
use super::super::errors::Problem;
use super::super::http1::{BodyFraming, RequestHead};
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::super::signed_url::parse_digest;
use crate::application::errors::SourceError;
use crate::application::ports::{BlobStore, ByteSource as _, Clock, ObjectRepository};
use crate::application::use_cases::{UploadOrder, Uploaded, refer_to_content};
use crate::domain::entities::{Forbidden, Principal};
use crate::domain::value_objects::ContentHash;
use crate::infrastructure::data_plane::buffers::Block;

/// The content that stands for the body, if one does.
pub(super) fn reference(head: &RequestHead) -> Result<Option<ContentHash>, Problem> {
    if !head.has(BLOB_REFERENCE) {
        return Ok(None);
    }
    let hash = head.single(BLOB_REFERENCE).and_then(parse_digest);
    let reason = "it is sha256: and 64 hexadecimal digits, once";
    hash.map(Some).ok_or_else(|| Problem::parameter("invalid_parameter", BLOB_REFERENCE, reason))
}

/// Makes the object. The digest that the body is held to, or declares, is about the content.
pub(super) async fn refer<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    (order, content_hash): (UploadOrder, ContentHash),
    principal: &Principal,
) -> Result<Uploaded, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    let reach = principal.reach.of_tenant(&order.scope.tenant_id).ok_or(Forbidden::Scope)?;
    read_nothing(head, body).await?;
    if body.declared_hash()?.is_some_and(|declared| declared != content_hash) {
        let detail = "the declared digest is not that of the content that is referred to";
        return Err(Problem::new(400, "digest_mismatch", detail));
    }
    let order = UploadOrder { length_bytes: body.reference_bytes(), ..order };
    let ports = (&service.store, &service.repository, &service.clock);
    Ok(refer_to_content(ports, order, content_hash, &reach).await?)
}

/// Reads a body that has to be empty: chunks have an end, and perhaps a digest behind it.
async fn read_nothing(head: &RequestHead, body: &mut RequestBody<'_>) -> Result<(), Problem> {
    let reason = "what is stored is the content that it names; the body has to be empty";
    let not_empty = || Problem::parameter("body_beside_reference", BLOB_REFERENCE, reason);
    if matches!(head.framing(), BodyFraming::Length(1..)) {
        return Err(not_empty());
    }
    match body.read_whole(0).await {
        Ok(_) => Ok(()),
        Err(SourceError::TooLarge { .. }) => Err(not_empty().closing()),
        Err(error) => Err(error.into()),
    }
}
