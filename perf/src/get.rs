//! `get`: downloads of one path. Bodies are read and dropped; some are hashed and compared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::command_line::GetOptions;
use crate::connection::Connection;
use crate::digest::BodyDigest;
use crate::failure::{Failure, FailureKind};
use crate::load_loop::{self, Operation};
use crate::report::{Report, Verification};
use crate::response::ResponseHead;

/// One of so many bodies is hashed: hashing all of them would make the generator the bottleneck.
const VERIFIED_EVERY: u64 = 100;
/// What one read takes at most. With half of this, bodies of 64 MiB kept the generator too busy; with twice as much,
/// bodies of 1 MiB lost a fifth of their rate, because what is read no longer stays in the cache of the core.
pub(crate) const BUFFER_BYTES: usize = 128 * 1024;

/// Runs the command.
pub(crate) async fn run(options: GetOptions) -> anyhow::Result<Report> {
    let GetOptions { server, pace, path, verify } = options;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.url.authority);
    let shared = Arc::new(Shared { request: request.into_bytes(), verify, ..Shared::default() });
    let new_operation = || Get(Arc::clone(&shared));
    let result = load_loop::run(&server.plan(&pace, BUFFER_BYTES), new_operation).await?;

    let verification = verify.then(|| Verification {
        verified: shared.verified.load(Ordering::Relaxed),
        without_digest: shared.without_digest.load(Ordering::Relaxed),
    });
    Ok(Report::new("get", result).with_verification(verification))
}

/// What the downloads of a run share.
#[derive(Debug, Default)]
struct Shared {
    request: Vec<u8>,
    verify: bool,
    /// The length of the first body. All have the same path, so that all must have the same length.
    body_bytes: OnceLock<u64>,
    verified: AtomicU64,
    without_digest: AtomicU64,
}

/// The downloads of one connection.
#[derive(Debug)]
struct Get(Arc<Shared>);

impl Operation for Get {
    async fn perform(&mut self, connection: &mut Connection, number: u64) -> Result<u64, Failure> {
        let shared = &*self.0;
        connection.send(&shared.request, &[]).await?;
        let head = connection.receive_head().await?;
        if head.status != 200 {
            return Err(connection.receive_refusal(&head).await);
        }
        if shared.verify && number.is_multiple_of(VERIFIED_EVERY) {
            shared.receive_verified(connection, &head).await?;
        } else {
            connection.receive_body(&head, |_| {}).await?;
        }
        shared.check_length(head.content_length_bytes)
    }
}

impl Shared {
    async fn receive_verified(
        &self,
        connection: &mut Connection,
        head: &ResponseHead,
    ) -> Result<(), Failure> {
        let Some(promised) = head.repr_digest else {
            self.without_digest.fetch_add(1, Ordering::Relaxed);
            return connection.receive_body(head, |_| {}).await;
        };
        let mut digest = BodyDigest::default();
        connection.receive_body(head, |piece| digest.update(piece)).await?;
        let received = digest.finish();
        if received != promised {
            let [received, promised] =
                [received, promised].map(|text| String::from_utf8_lossy(&text).into_owned());
            let detail = format!("the body has SHA-256 {received}, Repr-Digest says {promised}");
            return Err(Failure::new(FailureKind::DigestMismatch, detail));
        }
        self.verified.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn check_length(&self, body_bytes: u64) -> Result<u64, Failure> {
        let first_bytes = *self.body_bytes.get_or_init(|| body_bytes);
        if body_bytes != first_bytes {
            let detail = format!("a body of {body_bytes} bytes after one of {first_bytes} bytes");
            return Err(Failure::new(FailureKind::LengthChanged, detail));
        }
        Ok(body_bytes)
    }
}
