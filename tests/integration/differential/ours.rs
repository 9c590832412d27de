//! This server's reading: its head parser and body decoder, in the order in which a connection uses them.

use just_storage::api::http1::{BodyDecoder, HeadLimits, HeadParser, Method, RequestHead};

use super::{End, Message, Part, Reading};

/// As large as they may be, so that it is not a limit that refuses.
const LIMITS: HeadLimits = HeadLimits {
    request_line_bytes_max: 64 * 1024,
    header_bytes_max: 64 * 1024,
    fields_max: HeadLimits::FIELDS_CEILING,
};

/// Bytes that come in pieces, of which some are used already.
struct Input<'b> {
    bytes: &'b [u8],
    used: usize,
    come: usize,
    piece: usize,
}

impl Input<'_> {
    fn available(&self) -> &[u8] {
        &self.bytes[self.used..self.come]
    }

    /// The next piece; `false` at the end.
    fn receive(&mut self) -> bool {
        let before = self.come;
        self.come = self.bytes.len().min(self.come + self.piece);
        self.come > before
    }
}

/// Reads requests until there are no more.
pub(super) fn read(bytes: &[u8], piece: usize) -> Reading {
    let mut input = Input { bytes, used: 0, come: 0, piece };
    let mut messages = Vec::new();
    let mut head = RequestHead::default();
    loop {
        if let Some(end) = read_head(&mut input, &mut head) {
            return Reading { messages, end };
        }
        let (method, target) = (method(&head), target(&head));
        match read_body(&mut input, &head) {
            Ok(body) => messages.push(Message { method, target, body }),
            Err(None) => return Reading { messages, end: End::Within(Part::Body(method, target)) },
            Err(Some(why)) => return Reading { messages, end: End::Refused(why) },
        }
        if !head.keeps_alive() {
            return Reading { messages, end: End::Clean };
        }
    }
}

/// Reads a head, or says why there is none.
fn read_head(input: &mut Input<'_>, head: &mut RequestHead) -> Option<End> {
    let mut parser = HeadParser::default();
    loop {
        match parser.parse(input.available(), &LIMITS, head) {
            Ok(Some(length)) => {
                input.used += length;
                return None;
            }
            Ok(None) if input.receive() => {}
            Ok(None) if input.available().is_empty() => return Some(End::Clean),
            Ok(None) => return Some(End::Within(Part::Head)),
            Err(error) => return Some(End::Refused(error.to_string())),
        }
    }
}

/// Reads a body; `None` as its error is the end of the bytes.
fn read_body(input: &mut Input<'_>, head: &RequestHead) -> Result<Vec<u8>, Option<String>> {
    let (mut decoder, mut body) = (BodyDecoder::new(head.framing()), Vec::new());
    while !decoder.has_ended() {
        let decoded = decoder.decode(input.available(), 11).map_err(|error| Some(error.to_string()))?;
        body.extend_from_slice(&input.available()[decoded.content.clone()]);
        input.used += decoded.consumed;
        if decoded.consumed == 0 && !input.receive() {
            return Err(None);
        }
    }
    Ok(body)
}

fn method(head: &RequestHead) -> String {
    head.method().as_str().to_owned()
}

/// The name under which both readings know this method.
pub(super) fn known_method(token: &str) -> String {
    let known = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Patch,
        Method::Delete,
        Method::Options,
        Method::Trace,
        Method::Connect,
    ];
    let known = known.into_iter().map(Method::as_str).find(|known| *known == token);
    known.unwrap_or(Method::Unknown.as_str()).to_owned()
}

fn target(head: &RequestHead) -> String {
    head.query().map_or_else(|| head.path().to_owned(), |query| format!("{}?{query}", head.path()))
}

/// Whether the bytes end within a line of chunked framing, so that what is wrong with it shows only at its end.
pub(super) fn may_be_refused_later(bytes: &[u8]) -> bool {
    !bytes.ends_with(b"\n")
}
