//! `/v1/uploads`: the resumable uploads of tus 1.0 (<https://tus.io/protocols/resumable-upload>), with the extensions
//! creation, creation-with-upload, creation-defer-length, checksum, expiration, termination and concatenation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::{BodyFraming, Conditions, Fields, Method, RequestHead, parse_digests};
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::upload::{metadata, refuse_part_or_coding};
use super::{Body, Response, scope_of};
use crate::application::ports::{BlobStore, Clock, ObjectRepository};
use crate::application::staging::{
    Checksum, PARTS_MAX, StagedOrder, StagedRole, StagedUpload, UploadStaging, tenant_mark,
};
use crate::application::use_cases::{
    Piece, ResumeLimits, Resumed, can_join, create_upload, join_uploads, look_at_upload, resume_upload,
    terminate_upload,
};
use crate::domain::entities::{Object, Principal};
use crate::domain::value_objects::{
    ContentType, Key, Metadata, ObjectId, ObjectStatus, Precondition, StorageClass, UploadId,
};
use crate::infrastructure::data_plane::buffers::Block;

/// The one version of the protocol that is spoken.
const VERSION: &str = "1.0.0";
const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation";
/// What every answer about an upload says, also one that comes from before it was looked at.
pub(in super::super) const VERSION_LINE: &str = "Tus-Resumable: 1.0.0\r\n";
/// The parameters of a new upload.
const OF_A_NEW_ONE: [&str; 4] = ["namespace", "tenant_id", "key", "storage_class"];
/// The media type of a piece.
const PIECE_TYPE: &str = "application/offset+octet-stream";
/// What every path of them begins with.
pub(in super::super) const PATH: &str = "/v1/uploads";

/// A request for an upload, with all that it takes to serve it.
pub(super) struct Exchange<'r, 'b, S, R, C> {
    pub(super) service: &'r Service<S, R, C>,
    pub(super) head: &'r RequestHead,
    pub(super) body: &'r mut RequestBody<'b>,
    pub(super) principal: &'r Principal,
}

impl<S, R, C> Exchange<'_, '_, S, R, C>
where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    R: ObjectRepository<Buffer = Block>,
    C: Clock,
{
    /// `POST` and `OPTIONS` of `/v1/uploads`.
    pub(super) async fn collection(self) -> Result<Response<S::Reader>, Problem> {
        if self.head.method() == Method::Options {
            let parameters = Parameters::parse(self.head.query(), &OF_A_NEW_ONE)?;
            // Whoever says where an upload is to go is told whether it may.
            if parameters.get("tenant_id").is_some() {
                scope_of(&parameters, self.principal)?;
            }
            return Ok(self.options());
        }
        check_version(self.head)?;
        self.create().await
    }

    /// Everything about one upload.
    pub(super) async fn one(self, id: UploadId) -> Result<Response<S::Reader>, Problem> {
        check_version(self.head)?;
        Parameters::parse(self.head.query(), &[])?;
        let own = self.principal.reach.tenant_id();
        if own.is_some_and(|tenant_id| tenant_mark(tenant_id) != id.tenant_mark()) {
            return Err(Problem::no_upload());
        }
        match method(self.head)? {
            Method::Patch => self.patch(&id).await,
            Method::Delete => self.terminate(&id).await,
            _ => self.look(&id).await,
        }
    }

    fn limits(&self) -> ResumeLimits {
        let limits = &self.service.limits;
        ResumeLimits {
            bytes_max: limits.body_bytes_max,
            uploads_max: limits.uploads_max,
            kept_for: limits.uploads_kept_for,
        }
    }

    fn options(&self) -> Response<S::Reader> {
        let mut response = empty(204);
        response.fields.add("Tus-Version", VERSION);
        response.fields.add("Tus-Extension", EXTENSIONS);
        response.fields.add("Tus-Max-Size", self.service.limits.body_bytes_max);
        response.fields.add("Tus-Checksum-Algorithm", Checksum::ALGORITHMS);
        response
    }

    async fn create(self) -> Result<Response<S::Reader>, Problem> {
        let (head, limits) = (self.head, self.limits());
        let (order, joined) = self.order()?;
        let ports = (&self.service.store, &self.service.repository, &self.service.clock);
        let bytes = body_bytes(head);
        if bytes != Some(0) {
            check_piece_type(head)?;
        }
        let location = format!("{PATH}/{}", order.id);
        let is_joined = !joined.is_empty();
        let length = length_at_creation(head, is_joined)?;
        let checksum = checksum(head)?;
        if is_joined && bytes != Some(0) {
            let reason = "an upload that is joined from others has no bytes of its own";
            return Err(Problem::parameter("invalid_upload_concat", "Upload-Concat", reason));
        }
        let _upload = self.service.metrics.upload();
        let resumed = match is_joined {
            true => Box::pin(join_uploads(ports, order, &joined, limits)).await?,
            false => {
                let piece = Piece { offset: 0, bytes, length, checksum, source: self.body };
                Box::pin(create_upload(ports, order, piece, limits)).await?
            }
        };
        let mut response = self.service.answer(201, resumed);
        response.fields.add("Location", location);
        Ok(response)
    }

    async fn patch(self, id: &UploadId) -> Result<Response<S::Reader>, Problem> {
        let head = self.head;
        check_piece_type(head)?;
        refuse_part_or_coding(head)?;
        for name in ["Repr-Digest", "Content-Digest"] {
            if head.has(name) {
                return Err(Problem::not_implemented(name));
            }
        }
        let offset = number(head, "Upload-Offset")?;
        let offset = offset.ok_or_else(|| missing("Upload-Offset"))?;
        let (length, checksum) = (number(head, "Upload-Length")?, checksum(head)?);
        let ports = (&self.service.store, &self.service.repository, &self.service.clock);
        let (reach, limits) = (&self.principal.reach, self.limits());
        let piece = Piece { offset, bytes: body_bytes(head), length, checksum, source: self.body };
        let _upload = self.service.metrics.upload();
        let resumed = Box::pin(resume_upload(ports, (id, reach), piece, limits)).await?;
        Ok(self.service.answer(204, resumed))
    }

    async fn look(self, id: &UploadId) -> Result<Response<S::Reader>, Problem> {
        let ports = (&self.service.store, &self.service.repository, &self.service.clock);
        let resumed = Box::pin(look_at_upload(ports, id, &self.principal.reach)).await?;
        let StagedUpload { order, progress } = &resumed.upload;
        let mut fields = Fields::default();
        match progress.length {
            Some(length) => fields.add("Upload-Length", length),
            None => fields.add("Upload-Defer-Length", 1),
        };
        if !order.words.is_empty() {
            fields.add("Upload-Metadata", &order.words);
        }
        match &order.role {
            StagedRole::Whole => {}
            StagedRole::Part => drop(fields.add("Upload-Concat", "partial")),
            StagedRole::Joined(words) => drop(fields.add("Upload-Concat", words)),
        }
        let mut response = self.service.answer(200, resumed);
        response.fields.add_all(&fields);
        response.fields.add("Cache-Control", "no-store");
        Ok(response)
    }

    async fn terminate(self, id: &UploadId) -> Result<Response<S::Reader>, Problem> {
        let ports = (&self.service.store, &self.service.clock);
        Box::pin(terminate_upload(ports, id, &self.principal.reach)).await?;
        Ok(empty(204))
    }

    /// What the head says of a new upload, and which others it is joined from.
    fn order(&self) -> Result<(StagedOrder, Vec<UploadId>), Problem> {
        let head = self.head;
        let parameters = Parameters::parse(head.query(), &OF_A_NEW_ONE)?;
        let scope = scope_of(&parameters, self.principal)?;
        let key = parameters.parsed("key", Key::parse)?;
        let storage_class =
            parameters.parsed("storage_class", StorageClass::parse)?.unwrap_or(StorageClass::Hot);
        let precondition = precondition(head, key.is_some())?;
        refuse_part_or_coding(head)?;
        if head.has("content-digest") {
            return Err(Problem::not_implemented("Content-Digest"));
        }
        let (content_type, metadata, words) = words(head)?;
        let (role, joined) = role(head)?;
        let now = self.service.clock.now();
        let order = StagedOrder {
            id: UploadId::generate(storage_class, tenant_mark(&scope.tenant_id)),
            object: Object {
                id: ObjectId::generate(),
                scope,
                key,
                status: ObjectStatus::Writing,
                storage_class,
                content_hash: None,
                size_bytes: None,
                content_type,
                metadata,
                created_at: now,
                updated_at: now,
            },
            precondition,
            declared: parse_digests(head.values("repr-digest"))?,
            words: words.into(),
            role,
        };
        Ok((order, joined))
    }
}

impl<S, R, C> Service<S, R, C> {
    /// How an upload stands now. Whoever sent the last of it is told what it has become.
    fn answer<Reader>(&self, status: u16, Resumed { upload, uploaded }: Resumed) -> Response<Reader> {
        let mut response = empty(status);
        let progress = &upload.progress;
        response.fields.add("Upload-Offset", progress.offset);
        let expires = httpdate::fmt_http_date(progress.expires_at.into());
        response.fields.add("Upload-Expires", expires);
        if progress.is_done || uploaded.is_some() {
            response.fields.add("X-Object-Id", upload.order.object.id);
        }
        let uploaded = uploaded.filter(|_| self.audit_log.is_on());
        response.change = uploaded.map(|uploaded| Box::new(Change::Stored(uploaded)));
        response
    }
}

fn empty<Reader>(status: u16) -> Response<Reader> {
    let body = if status == 204 { Body::None } else { Body::Bytes(Vec::new()) };
    Response { status, object: None, fields: Fields::default(), body, change: None }
}

fn missing(name: &str) -> Problem {
    Problem::parameter("missing_header", name, "this header field is needed")
}

/// A method that a client could not send stands in a field instead.
fn method(head: &RequestHead) -> Result<Method, Problem> {
    const FIELD: &str = "X-HTTP-Method-Override";
    let invalid = |reason| Err(Problem::parameter("invalid_method_override", FIELD, reason));
    match (head.method(), head.list(FIELD).as_deref()) {
        (Method::Post, Some("PATCH")) => Ok(Method::Patch),
        (Method::Post, Some("DELETE")) => Ok(Method::Delete),
        (Method::Post, Some("HEAD")) => invalid("a POST is answered with a body, and a HEAD is not"),
        (Method::Post, _) => invalid("a POST to an upload says here that it is a PATCH or a DELETE"),
        (method, None) => Ok(method),
        (method, Some(other)) if other == method.as_str() => Ok(method),
        (_, Some(_)) => invalid("only a POST can be another method"),
    }
}

fn check_version(head: &RequestHead) -> Result<(), Problem> {
    if head.single("tus-resumable") == Some(VERSION) {
        return Ok(());
    }
    let detail = "Tus-Resumable: 1.0.0 is the version that is spoken, and has to stand in every request";
    let mut problem = Problem::new(412, "tus_version", detail);
    problem.fields.add("Tus-Version", VERSION);
    Err(problem)
}

fn check_piece_type(head: &RequestHead) -> Result<(), Problem> {
    let given = head.single("content-type").unwrap_or_default();
    if given.trim().eq_ignore_ascii_case(PIECE_TYPE) {
        return Ok(());
    }
    Err(Problem::new(415, "unsupported_media_type", format!("a piece of an upload is {PIECE_TYPE}")))
}

fn body_bytes(head: &RequestHead) -> Option<u64> {
    match head.framing() {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::Chunked => None,
    }
}

/// A number of bytes in a field.
fn number(head: &RequestHead, name: &'static str) -> Result<Option<u64>, Problem> {
    if !head.has(name) {
        return Ok(None);
    }
    let digits = head.single(name).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    let reason = "it is one number of bytes, in decimal digits";
    number.map(Some).ok_or_else(|| Problem::parameter("invalid_header", name, reason))
}

/// How long a new upload will be, if that is known. One that is joined is as long as its parts.
fn length_at_creation(head: &RequestHead, is_joined: bool) -> Result<Option<u64>, Problem> {
    const DEFERRED: &str = "Upload-Defer-Length";
    let length = number(head, "Upload-Length")?;
    match (length, head.list(DEFERRED).as_deref()) {
        (None, None) if is_joined => Ok(None),
        (_, _) if is_joined => {
            let reason = "an upload that is joined is as long as its parts";
            Err(Problem::parameter("invalid_header", "Upload-Length", reason))
        }
        (Some(length), None) => Ok(Some(length)),
        (None, Some("1")) => Ok(None),
        (None, None) => Err(missing("Upload-Length")),
        _ => Err(Problem::parameter(
            "invalid_header",
            DEFERRED,
            "it is 1, and stands instead of Upload-Length",
        )),
    }
}

/// What must hold for the key in the end. Without a key there is nothing that it could be about.
fn precondition(head: &RequestHead, has_key: bool) -> Result<Precondition, Problem> {
    let unmeant = ["If-Match", "If-None-Match", "If-Unmodified-Since"];
    match unmeant.into_iter().find(|name| !has_key && head.has(name)) {
        Some(name) => Err(Problem::not_implemented(name)),
        None => Ok(Conditions::of(head).into_precondition()),
    }
}

/// `Upload-Checksum: sha1 <base64>`
fn checksum(head: &RequestHead) -> Result<Option<Checksum>, Problem> {
    const FIELD: &str = "Upload-Checksum";
    if !head.has(FIELD) {
        return Ok(None);
    }
    let parsed = head.single(FIELD).and_then(|text| {
        let (algorithm, digest) = text.trim().split_once(' ')?;
        Checksum::new(algorithm, &STANDARD.decode(digest.trim()).ok()?)
    });
    let reason = "it is sha1 or sha256, a space, and the digest in base64";
    parsed.map(Some).ok_or_else(|| Problem::parameter("invalid_checksum", FIELD, reason))
}

/// What the client says of the content, in the protocol's words and in this store's: the media type is `filetype`, the
/// rest is the object's metadata where it can be. What cannot be (other than visible ASCII) is given back as it came.
fn words(head: &RequestHead) -> Result<(ContentType, Metadata, String), Problem> {
    const FIELD: &str = "Upload-Metadata";
    let invalid =
        |reason: &dyn std::fmt::Display| Problem::parameter("invalid_upload_metadata", FIELD, reason);
    let mut metadata = metadata(head)?;
    let mut content_type = ContentType::octet_stream();
    let text = head.list(FIELD).unwrap_or_default();
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(invalid(&"it is ASCII"));
    }
    let mut names: Vec<&str> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
        let (name, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD.decode(value.trim()).map_err(|_| invalid(&"a value is not base64"))?;
        if name.is_empty() || names.contains(&name) {
            return Err(invalid(&"a name is missing, or stands twice"));
        }
        names.push(name);
        let Ok(value) = std::str::from_utf8(&value) else { continue };
        if name == "filetype" {
            if !value.is_empty() {
                content_type = ContentType::parse(value).map_err(|error| invalid(&error))?;
            }
            continue;
        }
        let plain = !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if plain && crate::domain::value_objects::is_token(name) {
            metadata.insert(&name.to_ascii_lowercase(), value).map_err(|error| invalid(&error))?;
        }
    }
    Ok((content_type, metadata, text))
}

/// `Upload-Concat`: what a new upload is for, and which others it is joined from.
fn role(head: &RequestHead) -> Result<(StagedRole, Vec<UploadId>), Problem> {
    const FIELD: &str = "Upload-Concat";
    let invalid = |reason: &str| Problem::parameter("invalid_upload_concat", FIELD, reason);
    if !head.has(FIELD) {
        return Ok((StagedRole::Whole, Vec::new()));
    }
    let words = head.single(FIELD).map(str::trim).unwrap_or_default();
    if !words.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(invalid("it is visible ASCII"));
    }
    if words == "partial" {
        return Ok((StagedRole::Part, Vec::new()));
    }
    let urls = words.strip_prefix("final;").ok_or_else(|| invalid("it is partial, or final; and URLs"))?;
    let parts: Option<Vec<_>> = urls.split(' ').filter(|url| !url.is_empty()).map(upload_of_url).collect();
    let parts = parts.ok_or_else(|| invalid("a URL is not that of an upload here"))?;
    if !can_join(parts.len()) {
        return Err(invalid(&format!("it names 1 to {PARTS_MAX} uploads")));
    }
    Ok((StagedRole::Joined(words.into()), parts))
}

/// The upload of a URL, absolute or relative: whatever stands before the path is for whoever came here by it.
fn upload_of_url(url: &str) -> Option<UploadId> {
    let (before, id) = url.rsplit_once('/')?;
    before.ends_with(PATH).then(|| UploadId::parse(id).ok()).flatten()
}
