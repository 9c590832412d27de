//! `DELETE` of one object or of a key.

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::{Conditions, Fields, RequestHead};
use super::super::query::Parameters;
use super::super::service::Service;
use super::{Body, Response};
use crate::application::ports::{BlobStore, DeleteOutcome, ObjectName, ObjectRepository};
use crate::application::use_cases::delete_object;

pub(super) async fn delete<S: BlobStore, R: ObjectRepository, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    name: ObjectName,
) -> Result<Response<S::Reader>, Problem> {
    Parameters::parse(head.query(), &[])?;
    let precondition = Conditions::of(head).into_precondition();
    match delete_object(&service.repository, &name, precondition).await? {
        DeleteOutcome::Deleted { ids, key_path } => Ok(Response {
            status: 204,
            object: None,
            fields: Fields::default(),
            body: Body::None,
            change: service.audit_log.is_on().then(|| Box::new(Change::Deleted { ids, key_path })),
        }),
        DeleteOutcome::NotFound => Err(Problem::not_found()),
        DeleteOutcome::PreconditionFailed => Err(Problem::precondition_failed()),
    }
}
