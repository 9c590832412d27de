//! hyper's reading: its server connection over memory, with a service that notes what it is given.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body as _, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};

use super::ours::known_method;
use super::{End, Message, Part, Reading};

/// Why a body is refused.
pub(super) const IN_BODY: &str = "in a body";

/// A connection on which all bytes have come, and where nobody reads the answers.
struct Memory {
    bytes: Vec<u8>,
    used: usize,
}

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = buffer.remaining().min(self.bytes.len() - self.used);
        buffer.put_slice(&self.bytes[self.used..self.used + count]);
        self.used += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads requests until there are no more.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let noted = Rc::new(RefCell::new((Vec::new(), None)));
    let service = service_fn(|request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            let (method, target) = (known_method(request.method().as_str()), target(request.uri()));
            let read = read_body(request.into_body()).await;
            let mut noted = noted.borrow_mut();
            match read {
                Ok(body) => noted.0.push(Message { method, target, body }),
                Err(true) => noted.1 = Some(End::Within(Part::Body(method, target))),
                Err(false) => noted.1 = Some(End::Refused(IN_BODY.to_owned())),
            }
            let mut response = Response::new(String::new());
            // An answer that is no success, so that CONNECT makes no tunnel of the connection.
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        }
    });
    let memory = Memory { bytes: bytes.to_vec(), used: 0 };
    let connection =
        http1::Builder::new().half_close(true).max_headers(128).serve_connection(memory, service);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime needs nothing");
    let end = match runtime.block_on(connection) {
        Ok(()) => End::Clean,
        Err(error) if error.is_incomplete_message() => End::Within(Part::Head),
        Err(error) => End::Refused(error.to_string()),
    };
    let (messages, in_body) = noted.take();
    Reading { messages, end: in_body.unwrap_or(end) }
}

/// Reads a body; the error is whether it was cut short, and not refused.
async fn read_body(mut body: Incoming) -> Result<Vec<u8>, bool> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            Err(error) => {
                let source =
                    std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
                let cut = source.is_some_and(|source| source.kind() == io::ErrorKind::UnexpectedEof);
                return Err(cut || error.is_incomplete_message());
            }
        }
    }
    Ok(bytes)
}

fn target(uri: &Uri) -> String {
    match (uri.path_and_query(), uri.authority()) {
        (Some(target), _) => target.to_string(),
        (None, authority) => authority.map(ToString::to_string).unwrap_or_default(),
    }
}
