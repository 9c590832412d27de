//! The head of a response, written straight into the bytes that are sent.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

/// A status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusLine(pub u16);

impl StatusLine {
    /// Appends the status line.
    pub fn append_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(b"HTTP/1.1 ");
        append_decimal(bytes, self.0.into());
        bytes.push(b' ');
        bytes.extend_from_slice(status_title(self.0).as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
}

/// The reason phrase of a status that this server sends (RFC 9110 §15).
pub fn status_title(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        423 => "Locked",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        // tus 1.0
        460 => "Checksum Mismatch",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

/// The head of an answer, from its status to the empty line.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Its status.
    pub status: u16,
    /// Which request it answers.
    pub request_id: &'a [u8],
    /// How long its body is, where it says so.
    pub length_bytes: Option<u64>,
    /// What it says of the connection, where that is not what the version means by itself.
    pub connection: Option<&'static str>,
}

/// What an ordinary head is not longer than.
const HEAD_BYTES: usize = 1024;

impl ResponseHead<'_> {
    /// Appends the head as it is sent, with the fields that `add_fields` adds.
    pub fn append_to(
        &self,
        date: &DateCache,
        now: Instant,
        add_fields: impl FnOnce(&mut Fields),
        output: &mut Vec<u8>,
    ) {
        output.reserve(HEAD_BYTES);
        StatusLine(self.status).append_to(output);
        date.append_field(now, output);
        output.extend_from_slice(b"X-Request-Id: ");
        output.extend_from_slice(self.request_id);
        output.extend_from_slice(b"\r\n");
        // In place, behind what is there already.
        let mut fields = Fields(std::mem::take(output));
        add_fields(&mut fields);
        *output = fields.0;
        if let Some(length) = self.length_bytes {
            output.extend_from_slice(b"Content-Length: ");
            append_decimal(output, length);
            output.extend_from_slice(b"\r\n");
        }
        if let Some(connection) = self.connection {
            output.extend_from_slice(b"Connection: ");
            output.extend_from_slice(connection.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b"\r\n");
    }
}

/// The header fields of a response. Values are ours or were checked when they came in: none holds a line break.
#[derive(Debug, Default, Clone)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.add_prefixed("", name, value)
    }

    /// Adds a field whose name has two parts.
    pub fn add_prefixed(&mut self, prefix: &str, name: &str, value: impl Display) -> &mut Self {
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        append(&mut self.0, value);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a field whose name has two parts, of a value that is text already: without the machinery of [`Display`],
    /// which takes a hundred instructions for each.
    pub fn add_text(&mut self, prefix: &str, name: &str, value: &str) -> &mut Self {
        for part in [prefix, name, ": ", value, "\r\n"] {
            self.0.extend_from_slice(part.as_bytes());
        }
        self
    }

    /// Adds all of another's.
    pub fn add_all(&mut self, other: &Self) -> &mut Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// Adds text that is already whole fields, each with its line end.
    pub fn add_lines(&mut self, lines: &str) -> &mut Self {
        self.0.extend_from_slice(lines.as_bytes());
        self
    }

    /// Lets `write` append the value of a field.
    pub fn add_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        write(&mut self.0);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Whether a field of this name, spelt so, is there.
    pub fn has(&self, name: &str) -> bool {
        let mut lines = self.0.split(|byte| *byte == b'\n');
        lines.any(|line| line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':')))
    }

    /// The fields as they are sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub(super) fn append(bytes: &mut Vec<u8>, value: impl Display) {
    // Writing into a vector cannot fail.
    let _ = write!(bytes, "{value}");
}

/// Appends a number in decimal digits.
pub(crate) fn append_decimal(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The `Date` of responses, made once a second (RFC 9110 §6.6.1).
#[derive(Debug)]
pub struct DateCache {
    made: Cell<Option<Instant>>,
    text: RefCell<String>,
}

impl Default for DateCache {
    fn default() -> Self {
        Self { made: Cell::new(None), text: RefCell::default() }
    }
}

impl DateCache {
    /// Appends the `Date` field, at most half a second late.
    pub fn append_field(&self, now: Instant, bytes: &mut Vec<u8>) {
        let old = self.made.get().is_none_or(|made| now.duration_since(made) > Duration::from_millis(500));
        if old {
            self.made.set(Some(now));
            *self.text.borrow_mut() = httpdate::fmt_http_date(SystemTime::now());
        }
        bytes.extend_from_slice(b"Date: ");
        bytes.extend_from_slice(self.text.borrow().as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_as_lines() {
        let mut bytes = Vec::new();
        StatusLine(206).append_to(&mut bytes);
        let mut fields = Fields::default();
        fields.add("Content-Length", 5).add_with("ETag", |value| value.extend_from_slice(b"\"x\""));
        bytes.extend_from_slice(fields.as_bytes());
        assert_eq!(bytes, b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: \"x\"\r\n");
    }

    #[test]
    fn a_head_ends_with_an_empty_line_and_says_no_more_than_it_knows() {
        let (date, now) = (DateCache::default(), Instant::now());
        let written = |length_bytes, connection| {
            let head = ResponseHead { status: 200, request_id: b"a-1", length_bytes, connection };
            let add_field = |fields: &mut Fields| {
                fields.add_prefixed("X-", "Y", "z");
            };
            let mut bytes = b"before\r\n".to_vec();
            head.append_to(&date, now, add_field, &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        let mut date_field = Vec::new();
        date.append_field(now, &mut date_field);
        let date_field = String::from_utf8(date_field).unwrap();
        let common = format!("before\r\nHTTP/1.1 200 OK\r\n{date_field}X-Request-Id: a-1\r\nX-Y: z\r\n");
        assert_eq!(written(None, None), format!("{common}\r\n"));
        let whole = format!("{common}Content-Length: 5\r\nConnection: close\r\n\r\n");
        assert_eq!(written(Some(5), Some("close")), whole);
    }

    #[test]
    fn the_date_is_one_of_http() {
        let mut bytes = Vec::new();
        DateCache::default().append_field(Instant::now(), &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let date = text.strip_prefix("Date: ").unwrap().strip_suffix("\r\n").unwrap();
        assert!(httpdate::parse_http_date(date).is_ok());
    }
}
