//! The one place where an error becomes a status: exhaustively, so that a new error has to choose its own.

use serde::Serialize;
use utoipa::ToSchema;

use super::http1::{BodyError, DigestError, Fields, HeadError, status_title};
use crate::application::credentials::RateExceeded;
use crate::application::errors::{
    DownloadError, QuotaExceeded, RepositoryError, SourceError, StoreError, UploadError,
};
use crate::application::staging::StagingError;
use crate::application::use_cases::{InvalidCursor, UpdateError};

/// When to come back after `503`.
pub(super) const RETRY_AFTER_SECONDS: u32 = 1;

/// An answer that says what went wrong (RFC 9457).
#[derive(Debug, Clone)]
pub struct Problem {
    pub(super) status: u16,
    /// A stable word for programs.
    pub(super) code: &'static str,
    /// A sentence for people. That of a 5xx says nothing of what is behind it; the log does.
    pub(super) detail: String,
    /// The query parameter or header field that is wrong.
    pub(super) parameter: Option<String>,
    /// `Allow`, `Content-Range` and the like.
    pub(super) fields: Fields,
    /// Whether what follows on the connection cannot be trusted.
    pub(super) closes: bool,
}

/// A problem as callers see it (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDto<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    request_id: &'a str,
}

impl Problem {
    pub(super) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        let (detail, fields) = (detail.into(), Fields::default());
        let mut problem = Self { status, code, detail, parameter: None, fields, closes: false };
        if status == 503 {
            problem.fields.add("Retry-After", RETRY_AFTER_SECONDS);
        }
        problem
    }

    /// A query parameter, path segment or header field that is wrong.
    pub(super) fn parameter(code: &'static str, name: &str, detail: impl std::fmt::Display) -> Self {
        Self { parameter: Some(name.to_owned()), ..Self::new(400, code, format!("{name}: {detail}")) }
    }

    pub(super) fn no_route() -> Self {
        Self::new(404, "no_route", "there is nothing at this path")
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "not_found", "there is no such object")
    }

    pub(super) fn no_upload() -> Self {
        Self::new(404, "not_found", "there is no such upload")
    }

    pub(super) fn precondition_failed() -> Self {
        Self::new(412, "precondition_failed", "what is there now is not what the condition asks for")
    }

    pub(super) fn quota_exceeded() -> Self {
        Self::new(507, "quota_exceeded", QuotaExceeded.to_string())
    }

    pub(super) fn not_implemented(name: &str) -> Self {
        let detail = format!("{name} is not implemented here, and ignoring it would change the meaning");
        Self { parameter: Some(name.to_owned()), ..Self::new(501, "not_implemented", detail) }
    }

    pub(super) fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// The body.
    pub(super) fn to_json(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let problem = ProblemDto {
            r#type: "about:blank",
            title: status_title(self.status),
            status: self.status,
            detail: &self.detail,
            instance,
            code: self.code,
            parameter: self.parameter.as_deref(),
            request_id,
        };
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

impl From<RateExceeded> for Problem {
    fn from(error: RateExceeded) -> Self {
        let mut problem = Self::new(429, "rate_limited", error.to_string());
        // Whole seconds (RFC 9110 §10.2.3), and never too few of them.
        let seconds = error.retry_after.as_millis().div_ceil(1000).max(1);
        problem.fields.add("Retry-After", seconds);
        problem
    }
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        let (status, code) = match error {
            HeadError::BareLineFeed
            | HeadError::BareCarriageReturnOrNul
            | HeadError::ObsoleteFold
            | HeadError::RequestLine
            | HeadError::Target
            | HeadError::Field => (400, "malformed_request"),
            HeadError::Host => (400, "invalid_host"),
            HeadError::ContentLength | HeadError::LengthAndCoding | HeadError::TransferEncoding => {
                (400, "invalid_framing")
            }
            HeadError::RequestLineTooLong => (414, "request_line_too_long"),
            HeadError::HeaderTooLarge => (431, "header_too_large"),
            HeadError::UnknownCoding => (501, "unknown_transfer_coding"),
            HeadError::Version => (505, "unsupported_version"),
        };
        Self::new(status, code, error.to_string()).closing()
    }
}

impl From<BodyError> for SourceError {
    fn from(error: BodyError) -> Self {
        let rule = match error {
            BodyError::ChunkSize => "a chunk size is not a hexadecimal number",
            BodyError::BareControl => "a line of the chunked framing holds a bare LF, CR or NUL",
            BodyError::ChunkExtension => "a chunk extension is malformed or too long",
            BodyError::ChunkEnd => "a chunk is longer than its size",
            BodyError::Trailer => "a trailer field is malformed or may not be one",
        };
        Self::Malformed { rule }
    }
}

impl From<DigestError> for Problem {
    fn from(error: DigestError) -> Self {
        Self::new(400, "digest_invalid", error.to_string())
    }
}

impl From<InvalidCursor> for Problem {
    fn from(error: InvalidCursor) -> Self {
        Self::parameter("invalid_cursor", "cursor", error)
    }
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let detail = error.to_string();
        match error {
            // Nobody is there to read it; the log shows it.
            SourceError::Disconnected => Self::new(400, "body_incomplete", detail).closing(),
            SourceError::TooSlow => Self::new(408, "body_too_slow", detail).closing(),
            SourceError::TooLarge { .. } => Self::new(413, "body_too_large", detail).closing(),
            SourceError::Malformed { .. } => Self::new(400, "invalid_framing", detail).closing(),
            SourceError::DigestInvalid => Self::new(400, "digest_invalid", detail),
            SourceError::QuotaExceeded(_) => Self::quota_exceeded().closing(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::new(507, "no_space", "the storage is full"),
            StoreError::ReadOnly => {
                Self::new(503, "storage_read_only", "this storage class takes no writes now")
            }
            StoreError::Overloaded => Self::new(503, "overloaded", "too much at once"),
            StoreError::TimedOut => Self::new(503, "storage_timeout", "the storage does not answer now"),
            StoreError::Missing | StoreError::Damaged => {
                tracing::error!(%error, "a blob cannot be served");
                Self::new(500, "blob_damaged", "the stored bytes are damaged")
            }
            StoreError::Io { .. } => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "the storage failed");
                Self::new(503, "storage_error", "the storage failed")
            }
        }
    }
}

impl From<RepositoryError> for Problem {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Overloaded => Self::new(503, "overloaded", "too much at once"),
            RepositoryError::NoSpace => Self::new(507, "no_space", "the metadata storage is full"),
            RepositoryError::Unavailable => {
                Self::new(503, "metadata_unavailable", "the metadata cannot be reached now")
            }
        }
    }
}

impl From<DownloadError> for Problem {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Store(error) => error.into(),
            DownloadError::Repository(error) => error.into(),
        }
    }
}

impl From<UpdateError> for Problem {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::NotFound => Self::not_found(),
            UpdateError::PreconditionFailed => Self::precondition_failed(),
            UpdateError::Metadata(error) => Self::parameter("invalid_metadata", "metadata", error),
            UpdateError::Busy => Self::new(409, "object_busy", error.to_string()),
            UpdateError::Store(error) => error.into(),
            UpdateError::Repository(error) => error.into(),
        }
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Source(error) => error.into(),
            UploadError::Store(error) => error.into(),
            UploadError::Repository(error) => error.into(),
            UploadError::DigestMismatch { .. } => Self::new(400, "digest_mismatch", error.to_string()),
            UploadError::PreconditionFailed => Self::precondition_failed(),
            UploadError::QuotaExceeded(_) => Self::quota_exceeded(),
            UploadError::ContentMissing => Self::new(404, "not_found", error.to_string()),
            // Only a signed URL says what a content has to be.
            UploadError::SizeMismatch { .. } => Self::new(403, "signed_size_mismatch", error.to_string()),
        }
    }
}

impl From<StagingError> for Problem {
    fn from(error: StagingError) -> Self {
        let detail = error.to_string();
        match error {
            StagingError::NotFound => Self::no_upload(),
            StagingError::Expired => Self::new(410, "upload_expired", detail),
            StagingError::Locked => {
                let mut problem = Self::new(423, "upload_locked", detail);
                problem.fields.add("Retry-After", RETRY_AFTER_SECONDS);
                problem
            }
            StagingError::TooMany { .. } => Self::new(507, "too_many_uploads", detail),
            StagingError::OffsetMismatch { offset } => {
                let mut problem = Self::new(409, "offset_mismatch", detail);
                problem.fields.add("Upload-Offset", offset);
                problem
            }
            StagingError::LengthChanged { .. } => Self::new(409, "length_changed", detail),
            StagingError::ChecksumMismatch => Self::new(460, "checksum_mismatch", detail),
            StagingError::TakesNoBytes => Self::new(403, "upload_joined", detail),
            StagingError::NotAPart { .. } => Self::new(400, "invalid_upload_concat", detail),
            StagingError::Upload(error) => error.into(),
        }
    }
}
