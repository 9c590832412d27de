//! One connection from its first request to its last answer.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;

use super::access_log::AccessRecord;
use super::archive_transfer::send_archive;
use super::audit_log::{AuditRecord, Note, Standing, audit_unavailable, is_refusal};
use super::authentication::{Asker, authenticate, refuse_target};
use super::blob_transfer::{SendError, send_blob};
use super::connection_table::{ConnectionTable, RefusalPlace, Registration};
use super::errors::Problem;
use super::handlers::{Admitted, Body, Response, UPLOADS_PATH, UPLOADS_VERSION_LINE, download_anew, handle};
use super::http1::{Fields, HeadParser, Method, RequestHead, ResponseHead, StatusLine, Version};
use super::inline_text::RequestId;
use super::multipart_transfer::send_parts;
use super::request_body::RequestBody;
use super::request_metrics::{Answered, NamespaceLabel};
use super::request_timing::{add_server_timing, log_slow, traceparent};
use super::router::{Route, route};
use super::service::Service;
use super::signed_url::without_signature;
use super::transport::Transport;
use crate::application::errors::StoreError;
use crate::application::lifecycle::LifecycleRepository;
use crate::application::ports::{ApiKeyRepository, BlobReader, BlobStore, Clock, ObjectRepository};
use crate::application::staging::UploadStaging;
use crate::domain::entities::Principal;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::data_plane::runtime::{DataFile, Stream, within};
use crate::infrastructure::data_plane::tls::TlsFailure;
use crate::infrastructure::metrics::{Phases, timed};

/// Answers to requests that came together are held back up to this size.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Up to this size on a core with very many connections: each of them has its turn the sooner.
const OUTPUT_BYTES_IN_CROWD_MAX: usize = 16 * 1024;
/// How many are very many.
const CROWD_CONNECTIONS_MIN: usize = 256;
/// What is still read of a client that sends on after it was refused.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// For how long.
const LINGER: Duration = Duration::from_secs(2);
/// A longer id of the caller's is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What a connection may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// Whatever its credentials are good for.
    Service,
    /// What the server tells of itself, without a credential.
    Metrics,
}

/// Serves a connection until either side ends it. A bug in one request ends its connection, and no other.
pub async fn serve<S, R, C>(service: Rc<Service<S, R, C>>, stream: Stream, registration: Registration)
where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository<Buffer = Block> + ApiKeyRepository + LifecycleRepository,
    C: Clock,
{
    let _connection = service.metrics.connection();
    serve_through(Entrance::Service, &service, stream, registration).await;
}

/// The same for one that may ask for metrics alone.
pub async fn serve_metrics<S, R, C>(service: Rc<Service<S, R, C>>, stream: Stream, registration: Registration)
where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository<Buffer = Block> + ApiKeyRepository + LifecycleRepository,
    C: Clock,
{
    serve_through(Entrance::Metrics, &service, stream, registration).await;
}

async fn serve_through<S, R, C>(
    entrance: Entrance,
    service: &Service<S, R, C>,
    stream: Stream,
    registration: Registration,
) where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository<Buffer = Block> + ApiKeyRepository + LifecycleRepository,
    C: Clock,
{
    let transport = Transport::new(stream, registration.watch().clone(), service.outputs.clone());
    let table = registration.table().clone();
    let mut connection =
        Connection { entrance, service, table, transport, head: RequestHead::default(), responded: None };
    let served = AssertUnwindSafe(connection.serve()).catch_unwind().await;
    if served.is_err() {
        tracing::error!("a request panicked; its connection is closed");
    }
    let stream = connection.transport.into_stream();
    connection.table.close(registration, stream);
}

/// Whether answers that are held back leave now, of one of so many connections.
fn is_enough_held_back(bytes: usize, connections: impl FnOnce() -> usize) -> bool {
    bytes > OUTPUT_BYTES_MAX || bytes > OUTPUT_BYTES_IN_CROWD_MAX && connections() >= CROWD_CONNECTIONS_MIN
}

/// Answers a connection too many, and waits a little for the client to read the answer.
pub async fn refuse<S, R, C>(service: Rc<Service<S, R, C>>, mut stream: Stream, _place: RefusalPlace) {
    if stream.is_encrypted() && !matches!(within(LINGER, stream.handshake()).await, Some(Ok(()))) {
        return;
    }
    let mut bytes = too_many_connections(&service);
    let mut sent = 0;
    while sent < bytes.len() {
        let (result, back) = stream.write(bytes, sent).await;
        bytes = back;
        match result {
            Ok(count) if count > 0 => sent += count,
            _ => return,
        }
    }
    stream.finish_sending();
    let drop_input = async {
        bytes.clear();
        // What comes is written over again and again, and never looked at.
        while let (Ok(1..), back) = stream.read(std::mem::take(&mut bytes), usize::MAX).await {
            bytes = back;
            bytes.clear();
        }
    };
    let _ = within(LINGER, drop_input).await;
}

fn too_many_connections<S, R, C>(service: &Service<S, R, C>) -> Vec<u8> {
    let request_id = service.request_ids.next();
    let problem = Problem::new(503, "too_many_connections", "the server has as many connections as it takes");
    service.metrics.count_error(problem.code);
    let json = problem.to_json("", &request_id);
    let mut fields = problem.fields;
    fields.add("X-Request-Id", request_id).add("Content-Length", json.len());
    fields.add_lines("Content-Type: application/problem+json\r\nConnection: close\r\n");
    let mut bytes = Vec::new();
    StatusLine(problem.status).append_to(&mut bytes);
    service.date.append_field(Instant::now(), &mut bytes);
    bytes.extend_from_slice(fields.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&json);
    bytes
}

struct Connection<'s, S, R, C> {
    entrance: Entrance,
    service: &'s Service<S, R, C>,
    table: Rc<ConnectionTable>,
    transport: Transport,
    head: RequestHead,
    responded: Option<Responded>,
}

/// What became of an answer.
struct Responded {
    status: u16,
    bytes_out: u64,
    /// Whether the connection can go on.
    whole: bool,
}

/// What has left of an answer, or waits to leave with others.
enum Sent {
    /// All of it.
    Whole(Responded),
    /// Nothing, since the store failed at once: there can be another answer.
    Nothing(StoreError),
}

/// What is known of a request besides its head.
struct Exchange {
    request_id: RequestId,
    /// Who asks, once that is known.
    principal: Option<Rc<Principal>>,
    closes: bool,
    /// What the audit log will tell of it besides, if it tells of it.
    note: Option<Box<Note>>,
    /// What its time went to, until its answer was begun.
    phases: Phases,
}

impl<S, R, C> Connection<'_, S, R, C>
where
    S: BlobStore<Buffer = Block> + UploadStaging<Buffer = Block>,
    S::Reader: BlobReader<Buffer = Block, Source = DataFile>,
    R: ObjectRepository<Buffer = Block> + ApiKeyRepository + LifecycleRepository,
    C: Clock,
{
    async fn serve(&mut self) {
        match self.transport.handshake().await {
            Ok(()) => self.serve_requests().await,
            Err(TlsFailure::PlainText) => {
                self.service.metrics.fail_handshake();
                return self.refuse(Problem::new(400, "tls_required", "this port speaks HTTPS only")).await;
            }
            Err(error) => {
                self.service.metrics.fail_handshake();
                return tracing::debug!(%error, "a TLS handshake has failed");
            }
        }
        // An answer that was cut off is not to look as if it had ended.
        if self.responded.as_ref().is_none_or(|responded| responded.whole) {
            self.transport.say_end();
        }
    }

    async fn serve_requests(&mut self) {
        let mut parser = HeadParser::default();
        loop {
            match self.read_head(&mut parser).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(problem) => return self.refuse(problem).await,
            }
            if !self.serve_request().await {
                return;
            }
        }
    }

    /// Reads the next head; `false` where the client has gone, or has been idle for too long.
    async fn read_head(&mut self, parser: &mut HeadParser) -> Result<bool, Problem> {
        loop {
            if let Some(length) =
                parser.parse(self.transport.input(), &self.service.limits.head, &mut self.head)?
            {
                self.transport.consume(length);
                return Ok(true);
            }
            if self.transport.flush().await.is_err() {
                return Ok(false);
            }
            let begun = !self.transport.input().is_empty();
            let watch = self.transport.watch();
            if begun {
                watch.header()
            } else {
                watch.idle()
            }
            if !begun && self.table.is_draining() {
                return Ok(false);
            }
            match self.transport.receive().await {
                Ok(count) if count > 0 => {}
                _ if begun && self.transport.watch().has_timed_out() => {
                    return Err(Problem::new(408, "header_too_slow", "the request head came too slowly"));
                }
                _ => return Ok(false),
            }
        }
    }

    /// Answers a head that could not be read, and closes.
    async fn refuse(&mut self, problem: Problem) {
        let started = Instant::now();
        let request_id = self.service.request_ids.next();
        let phases = Phases::default();
        let exchange = Exchange { request_id, principal: None, closes: true, note: None, phases };
        self.head = RequestHead::default();
        self.service.metrics.count_error(problem.code);
        let response = Response::problem(problem, "", &exchange.request_id);
        self.respond(&exchange, response).await;
        let duration = started.elapsed();
        self.count(&exchange, (NamespaceLabel::NONE, 0), duration, phases);
        self.log(exchange, 0, duration);
        self.transport.linger(LINGER_BYTES_MAX, LINGER).await;
    }

    /// Serves the request whose head was read; `false` if the connection has ended with it.
    async fn serve_request(&mut self) -> bool {
        let request_id = self.request_id();
        let started = Instant::now();
        let _request = self.service.metrics.request();
        // Whoever waits for the answers before should not wait for what this request does.
        let quick = matches!(self.head.method(), Method::Get | Method::Head);
        if !quick && self.transport.flush().await.is_err() {
            return false;
        }
        self.transport.watch().work();
        let standing = self.service.audit_log.standing(&self.head);
        let admitted = match standing {
            Standing::Barred => Err(audit_unavailable()),
            Standing::Change | Standing::Reading => self.admit().await,
        };
        let principal = admitted.as_ref().ok().map(|admitted| admitted.asker.principal.clone());
        let mut body = RequestBody::new(&mut self.transport, &self.head, self.service.limits.body_bytes_max);
        let (mut result, phases) = match admitted {
            Ok(admitted) => {
                timed(pin!(handle(self.service, &self.head, &mut body, &request_id, admitted))).await
            }
            Err(problem) => (Err(problem), Phases::default()),
        };
        let bytes_in = body.received_bytes();
        let body_ended = body.finish();
        self.transport.watch().work();

        let refused = result.as_ref().is_err_and(|problem| problem.closes);
        let closes = refused || !body_ended || !self.head.keeps_alive() || self.table.is_draining();
        let note = self.note(standing, &mut result);
        let exchange = Exchange { request_id, principal, closes, note, phases };
        let response = self.or_problem(result, &exchange);
        let namespace = self.service.metrics.label(&self.head, &response);
        let ((), sending) = timed(pin!(self.respond(&exchange, response))).await;
        let duration = started.elapsed();
        self.count(&exchange, (namespace, bytes_in), duration, phases.plus(sending));
        self.log(exchange, bytes_in, duration);
        let whole = self.responded.as_ref().is_some_and(|responded| responded.whole);
        if whole && closes {
            if body_ended {
                // Its answer may wait for company; there will be none.
                self.transport.see_off().await;
            } else {
                self.transport.linger(LINGER_BYTES_MAX, LINGER).await;
            }
        }
        whole && !closes
    }

    /// What is asked for, and by whom.
    async fn admit(&mut self) -> Result<Admitted, Problem> {
        let route = route(&self.head).map_err(|problem| refuse_target(self.service, &self.head, problem))?;
        let asker = match (self.entrance, &route) {
            (Entrance::Service, _) => authenticate(self.service, &mut self.head, &route).await?,
            (Entrance::Metrics, Route::Metrics | Route::Health) => {
                Asker::unlimited(&Rc::new(Principal::anybody()))
            }
            (Entrance::Metrics, _) => return Err(Problem::no_route()),
        };
        Ok(Admitted { route, asker })
    }

    /// What the audit log is to know of a request: of each that would change something, and of each that was refused.
    fn note(
        &self,
        standing: Standing,
        result: &mut Result<Response<S::Reader>, Problem>,
    ) -> Option<Box<Note>> {
        let refused = result.as_ref().is_err_and(is_refusal) && self.service.audit_log.is_on();
        // A look may have changed something, and mostly has not.
        let only_looked = self.head.method() == Method::Head
            && result.as_ref().is_ok_and(|response| response.change.is_none());
        if (standing == Standing::Reading || only_looked) && !refused {
            return None;
        }
        Some(Box::new(match result {
            Ok(response) => Note::of_change(response.change.take()),
            Err(problem) => Note::of_problem(standing, problem, &self.head),
        }))
    }

    /// The caller's own id, if it is short and visible.
    fn request_id(&self) -> RequestId {
        let own = self.head.single("x-request-id").filter(|id| {
            !id.is_empty()
                && id.len() <= REQUEST_ID_BYTES_MAX
                && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
        own.map_or_else(|| self.service.request_ids.next(), RequestId::from)
    }

    async fn respond(&mut self, exchange: &Exchange, response: Response<S::Reader>) {
        let status = response.status;
        let mut sent = self.send(exchange, response).await;
        if let (Ok(Sent::Nothing(StoreError::Missing | StoreError::Damaged)), Some(principal)) =
            (&sent, &exchange.principal)
        {
            // Its place may be one that was given up since it was remembered. This is rare, and its state would be part
            // of every connection.
            let anew = Box::pin(download_anew(self.service, &self.head, principal)).await;
            sent = self.send(exchange, self.or_problem(anew, exchange)).await;
        }
        if let Ok(Sent::Nothing(error)) = sent {
            sent = self.send(exchange, self.or_problem(Err(Problem::from(error)), exchange)).await;
        }
        self.responded = Some(match sent {
            Ok(Sent::Whole(responded)) => responded,
            _ => Responded { status, bytes_out: 0, whole: false },
        });
    }

    fn or_problem(
        &self,
        result: Result<Response<S::Reader>, Problem>,
        exchange: &Exchange,
    ) -> Response<S::Reader> {
        result.unwrap_or_else(|problem| {
            self.service.metrics.count_error(problem.code);
            Response::problem(problem, &without_signature(self.head.path()), &exchange.request_id)
        })
    }

    async fn send(&mut self, exchange: &Exchange, mut response: Response<S::Reader>) -> io::Result<Sent> {
        let withheld = self.head.method() == Method::Head;
        let before = self.transport.output_len();
        let status = response.status;
        if withheld && let Body::Bytes(bytes) = &response.body {
            response.body = Body::Withheld(bytes.len() as u64);
        }
        self.append_head(exchange, &response);
        let (store, transport) = (&self.service.store, &mut self.transport);
        let (result, bytes_out) = match response.body {
            Body::None | Body::Withheld(_) => (Ok(()), 0),
            Body::Bytes(bytes) => {
                // The results of a batch may be megabytes.
                for piece in bytes.chunks(OUTPUT_BYTES_MAX) {
                    if transport.output_len() > OUTPUT_BYTES_MAX {
                        transport.flush().await?;
                    }
                    transport.output().extend_from_slice(piece);
                }
                (Ok(()), bytes.len() as u64)
            }
            Body::Archive(archive) => {
                // This is rare, and its state would be part of every connection.
                let sent = Box::pin(send_archive(self.service, transport, &archive)).await;
                // Its head may have left, with what came before: nothing else can be said instead.
                let sent = sent.map_err(|error| match error {
                    SendError::Nothing(error) => SendError::Part(error),
                    error => error,
                });
                (sent, archive.length_bytes())
            }
            Body::Blob(reader, range, tenant_id) => {
                (send_blob(store, transport, &reader, range, &tenant_id).await, range.length)
            }
            // This is rare, and its state would be part of every connection.
            Body::Parts(parts) => {
                (Box::pin(send_parts(store, transport, &parts)).await, parts.multipart.length_bytes())
            }
        };
        match result {
            Ok(()) => {}
            Err(SendError::Nothing(error)) => {
                self.transport.output().truncate(before);
                return Ok(Sent::Nothing(error));
            }
            Err(SendError::Part(error)) => {
                tracing::error!(%error, "an answer was cut off");
                return Err(io::Error::other(error));
            }
            Err(SendError::Client(error)) => return Err(error),
        }
        if is_enough_held_back(self.transport.output_len(), || self.table.len()) {
            self.transport.flush().await?;
        }
        Ok(Sent::Whole(Responded { status, bytes_out, whole: true }))
    }

    fn append_head(&mut self, exchange: &Exchange, response: &Response<S::Reader>) {
        let now = self.transport.watch().now();
        let old = self.head.version() == Version::Http10;
        let length_bytes = match &response.body {
            Body::None => None,
            Body::Withheld(length) => Some(*length),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Blob(_, range, _) => Some(range.length),
            Body::Parts(parts) => Some(parts.multipart.length_bytes()),
            Body::Archive(archive) => Some(archive.length_bytes()),
        };
        let connection = match exchange.closes {
            true => Some("close"),
            false => old.then_some("keep-alive"),
        };
        let (status, request_id) = (response.status, exchange.request_id.as_bytes());
        let head = ResponseHead { status, request_id, length_bytes, connection };
        let says_timing = self.service.timing.server_timing;
        let is_of_upload = self.head.path().starts_with(UPLOADS_PATH);
        let add_fields = |fields: &mut Fields| {
            response.add_fields(fields);
            if is_of_upload {
                fields.add_lines(UPLOADS_VERSION_LINE);
            }
            if says_timing {
                add_server_timing(fields, &exchange.phases);
            }
        };
        head.append_to(&self.service.date, now, add_fields, self.transport.output());
    }

    fn count(
        &self,
        exchange: &Exchange,
        (namespace, bytes_in): (NamespaceLabel, u64),
        duration: Duration,
        phases: Phases,
    ) {
        let Some(responded) = &self.responded else { return };
        let method = self.head.method();
        let Responded { status, bytes_out, .. } = *responded;
        self.transport.watch().company().note_request(bytes_in.saturating_add(bytes_out));
        self.service.metrics.count(namespace, Answered { method, status, duration, bytes_in, bytes_out });
        if self.service.timing.is_slow(duration, &phases) {
            log_slow(&self.head, &exchange.request_id, duration, &phases);
        }
    }

    fn log(&mut self, exchange: Exchange, bytes_in: u64, duration: Duration) {
        let Some(responded) = &self.responded else { return };
        if !self.service.access_log.is_on() && exchange.note.is_none() {
            return;
        }
        let record = AccessRecord {
            method: self.head.method().as_str(),
            path: self.head.path().into(),
            status: responded.status,
            bytes_in,
            bytes_out: responded.bytes_out,
            ended: SystemTime::now(),
            duration,
            request_id: exchange.request_id,
            traceparent: traceparent(&self.head).map(str::to_owned),
            asker: exchange.principal.as_deref().and_then(|principal| {
                let tenant_id = principal.reach.tenant_id().cloned();
                principal.credential_id.clone().map(|credential_id| (credential_id, tenant_id))
            }),
        };
        if let Some(note) = exchange.note {
            let (request, peer) = (record.clone(), self.transport.peer());
            self.service.audit_log.push(AuditRecord { request, peer, note: *note });
        }
        if self.service.access_log.is_on() {
            self.service.access_log.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_crowd_less_is_held_back() {
        let leaves = |bytes, connections| is_enough_held_back(bytes, || connections);
        for (bytes_max, connections) in [
            (OUTPUT_BYTES_MAX, CROWD_CONNECTIONS_MIN - 1),
            (OUTPUT_BYTES_IN_CROWD_MAX, CROWD_CONNECTIONS_MIN),
        ] {
            assert!(!leaves(bytes_max, connections), "{bytes_max} of {connections}");
            assert!(leaves(bytes_max + 1, connections), "{bytes_max} of {connections}");
        }
    }
}
