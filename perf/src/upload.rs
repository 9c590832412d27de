//! Uploads: where they go, their bodies, and what is remembered of them to read them back.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::body::{self, BodyPattern, BodySource};
use crate::catalog::Catalog;
use crate::command_line::DestinationOptions;
use crate::connection::{Connection, Sent};
use crate::failure::Failure;
use crate::load_loop::Operation;
use crate::target::Target;
use crate::template::{Template, Values};

/// Bodies are hashed in slices of this size, between which other connections get their turn.
const HASH_SLICE_BYTES: usize = 64 * 1024;
/// Bodies above this are hashed before the clock starts, where their digest is needed at all: doing it meanwhile would
/// leave the server without work.
const HASHED_BEFORE_BYTES_MIN: u64 = 16 << 20;
/// The most bodies that are hashed before the clock starts.
const HASHED_BEFORE_MAX: u64 = 256;

/// What the uploads of a run have in common.
#[derive(Debug)]
pub(crate) struct UploadPlan {
    /// A request before each upload, whose answer says where the upload goes.
    begin: Option<Template>,
    upload: Template,
    pattern: BodyPattern,
    /// Bodies that have been hashed already, by their first stamp.
    hashed: Mutex<VecDeque<(u64, String)>>,
    catalog: Option<Mutex<Catalog>>,
}

impl UploadPlan {
    /// Uploads by a request, each perhaps after another one that says where to.
    pub(crate) fn new(begin: Option<Template>, upload: Template, pattern: BodyPattern) -> Self {
        Self { begin, upload, pattern, hashed: Mutex::default(), catalog: None }
    }

    /// `PUT` of one key after the other, or `POST` of objects without a key.
    pub(crate) fn for_destination(
        target: &Target,
        destination: &DestinationOptions,
        with_key: bool,
        pattern: BodyPattern,
    ) -> anyhow::Result<Self> {
        let DestinationOptions { namespace, tenant, keys_prefix, storage_class } = destination;
        let class = storage_class.map(|class| format!("storage_class={}", class.as_str()));
        let line = if with_key {
            // A prefix of its own for each run: an upload to a key that is there already is another operation.
            let prefix = keys_prefix.clone().unwrap_or_else(|| format!("run-{:016x}", body::run_seed()));
            let query = class.map(|class| format!("?{class}")).unwrap_or_default();
            format!("PUT /v1/keys/{namespace}/{tenant}/{prefix}/{{number}}{query}")
        } else {
            let query = class.map(|class| format!("&{class}")).unwrap_or_default();
            format!("POST /v1/objects?namespace={namespace}&tenant_id={tenant}{query}")
        };
        let upload = Template::new(&line, &target.authority, Some(pattern.size_bytes()))?;
        Ok(Self::new(None, upload, pattern))
    }

    /// Remembers some of the uploads.
    pub(crate) fn with_catalog(self, catalog: Catalog) -> Self {
        Self { catalog: Some(Mutex::new(catalog)), ..self }
    }

    /// What was remembered, and the bodies that it is about.
    pub(crate) fn into_catalog(self) -> Option<(Catalog, BodyPattern)> {
        let catalog = self.catalog?.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some((catalog, self.pattern))
    }

    /// Hashes large bodies before the clock starts, if their digests are needed.
    pub(crate) async fn hash_before(self: &Arc<Self>, uploads: u64) {
        if !self.upload.needs_sha256() || self.pattern.size_bytes() < HASHED_BEFORE_BYTES_MIN {
            return;
        }
        let mut uploader = Uploader::new(Arc::clone(self));
        for _ in 0..uploads.min(HASHED_BEFORE_MAX) {
            uploader.body.begin();
            uploader.hash_body().await;
            self.hashed().push_back((uploader.body.first_stamp(), uploader.sha256.clone()));
        }
    }

    fn hashed(&self) -> MutexGuard<'_, VecDeque<(u64, String)>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the uploads of one connection, one after the other.
#[derive(Debug)]
pub(crate) struct Uploader {
    plan: Arc<UploadPlan>,
    head: Vec<u8>,
    head_is_sent: bool,
    body: BodySource,
    sha256: String,
    location: String,
}

impl Uploader {
    /// Sends uploads of this plan.
    pub(crate) fn new(plan: Arc<UploadPlan>) -> Self {
        let body = plan.pattern.source();
        Self {
            plan,
            head: Vec::new(),
            head_is_sent: false,
            body,
            sha256: String::new(),
            location: String::new(),
        }
    }

    /// Chooses the next body.
    pub(crate) async fn next_body(&mut self) {
        if !self.plan.upload.needs_sha256() {
            self.body.begin();
            return;
        }
        let hashed = self.plan.hashed().pop_front();
        if let Some((first_stamp, sha256)) = hashed {
            self.body.begin_with(first_stamp);
            self.sha256 = sha256;
        } else {
            self.body.begin();
            self.hash_body().await;
        }
    }

    /// Starts the upload of the chosen body; nothing of it is sent yet.
    pub(crate) fn begin(&mut self, number: u64) {
        let values = Values { number, sha256: &self.sha256, location: &self.location };
        self.plan.upload.write(values, &mut self.head);
        self.head_is_sent = false;
    }

    /// Sends the head if it has not been sent, and so many bytes of the body or what is left of it.
    pub(crate) async fn send(
        &mut self,
        connection: &mut Connection,
        bytes_max: u64,
    ) -> Result<Sent, Failure> {
        let mut allowed_bytes = bytes_max;
        loop {
            let head = if self.head_is_sent { &[][..] } else { &self.head[..] };
            let piece = self.body.piece(usize::try_from(allowed_bytes).unwrap_or(usize::MAX));
            if head.is_empty() && piece.is_empty() {
                return Ok(Sent::Whole);
            }
            if connection.send(head, piece).await? == Sent::AnsweredEarly {
                return Ok(Sent::AnsweredEarly);
            }
            let piece_bytes = piece.len();
            self.head_is_sent = true;
            self.body.advance(piece_bytes);
            allowed_bytes -= piece_bytes as u64;
        }
    }

    /// How much of the body has not been sent.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.body.remaining_bytes()
    }

    async fn hash_body(&mut self) {
        let first_stamp = self.body.first_stamp();
        let mut hasher = Sha256::new();
        while self.body.remaining_bytes() > 0 {
            let piece = self.body.piece(HASH_SLICE_BYTES);
            hasher.update(piece);
            let piece_bytes = piece.len();
            self.body.advance(piece_bytes);
            if self.body.remaining_bytes() > 0 {
                tokio::task::yield_now().await;
            }
        }
        self.sha256.clear();
        for byte in hasher.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(self.sha256, "{byte:02x}");
        }
        self.body.begin_with(first_stamp);
    }

    /// Asks where the upload goes.
    async fn ask_for_location(
        &mut self,
        connection: &mut Connection,
        begin: &Template,
    ) -> Result<(), Failure> {
        begin.write(Values::default(), &mut self.head);
        connection.send(&self.head, &[]).await?;
        let head = connection.receive_head().await?;
        if !head.is_success() {
            return Err(connection.receive_refusal(&head).await);
        }
        self.keep_location(connection.location(&head));
        connection.receive_body(&head, |_| {}).await
    }

    fn keep_location(&mut self, location: Option<&str>) {
        self.location.clear();
        if let Some(location) = location {
            self.location.push_str(path_of(location));
        }
    }

    /// Reads the answer to the upload, and remembers it if it is one of those that are kept.
    async fn receive_answer(&mut self, connection: &mut Connection, number: u64) -> Result<(), Failure> {
        let plan = Arc::clone(&self.plan);
        let Some(catalog) = &plan.catalog else {
            return check_status(connection.receive_success().await?.status);
        };
        let head = connection.receive_head().await?;
        if !head.is_success() {
            return Err(connection.receive_refusal(&head).await);
        }
        self.keep_location(connection.location(&head));
        connection.receive_body(&head, |_| {}).await?;
        check_status(head.status)?;
        let values = Values { number, sha256: &self.sha256, location: &self.location };
        let mut catalog = catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.note(values, self.body.first_stamp());
        Ok(())
    }
}

impl Operation for Uploader {
    async fn prepare(&mut self) {
        self.next_body().await;
    }

    async fn perform(&mut self, connection: &mut Connection, number: u64) -> Result<u64, Failure> {
        let plan = Arc::clone(&self.plan);
        if let Some(begin) = &plan.begin {
            self.ask_for_location(connection, begin).await?;
        }
        self.begin(number);
        // An answer that came before the end of the body is read like any other: it says why.
        self.send(connection, u64::MAX).await?;
        self.receive_answer(connection, number).await?;
        Ok(self.plan.pattern.size_bytes())
    }
}

fn check_status(status: u16) -> Result<(), Failure> {
    match status {
        200 | 201 | 204 => Ok(()),
        other => Err(Failure::status(other, b"a success, but not one of an upload (200, 201 or 204)")),
    }
}

/// The path and query of a `Location`, which may be a whole URL.
fn path_of(location: &str) -> &str {
    let Some((_, after_scheme)) = location.split_once("://") else {
        return location;
    };
    after_scheme.find('/').map_or("/", |slash| &after_scheme[slash..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::StorageClass;

    fn head(storage_class: Option<StorageClass>, with_key: bool) -> String {
        let target: Target = "http://127.0.0.1:8080".parse().unwrap();
        let destination = DestinationOptions {
            namespace: "bench".to_owned(),
            tenant: "perf".to_owned(),
            keys_prefix: Some("a/b".to_owned()),
            storage_class,
        };
        let pattern = BodyPattern::for_run(4096, 1);
        let plan = UploadPlan::for_destination(&target, &destination, with_key, pattern).unwrap();
        let mut uploader = Uploader::new(Arc::new(plan));
        uploader.begin(17);
        String::from_utf8(uploader.head).unwrap()
    }

    #[test]
    fn uploads_go_where_they_are_asked_to() {
        assert!(head(None, true).starts_with("PUT /v1/keys/bench/perf/a/b/17 HTTP/1.1\r\n"));
        assert!(
            head(Some(StorageClass::Hot), true)
                .starts_with("PUT /v1/keys/bench/perf/a/b/17?storage_class=hot HTTP/1.1\r\n")
        );
        assert!(
            head(Some(StorageClass::Cold), false).starts_with(
                "POST /v1/objects?namespace=bench&tenant_id=perf&storage_class=cold HTTP/1.1\r\n"
            )
        );
    }

    #[tokio::test]
    async fn the_digest_of_a_body_is_known_before_it_is_sent() {
        let upload = Template::new("PUT /{sha256}", "127.0.0.1", Some(200_000)).unwrap();
        let plan = UploadPlan::new(None, upload, BodyPattern::for_run(200_000, 1));
        let mut uploader = Uploader::new(Arc::new(plan));
        uploader.next_body().await;
        let mut hasher = Sha256::new();
        while uploader.remaining_bytes() > 0 {
            let piece = uploader.body.piece(usize::MAX);
            hasher.update(piece);
            let piece_bytes = piece.len();
            uploader.body.advance(piece_bytes);
        }
        let sha256: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(uploader.sha256, sha256);
    }

    #[test]
    fn a_location_may_be_a_path_or_a_url() {
        assert_eq!(path_of("/a?b"), "/a?b");
        assert_eq!(path_of("http://127.0.0.1:80/a?b"), "/a?b");
        assert_eq!(path_of("http://127.0.0.1"), "/");
    }
}
