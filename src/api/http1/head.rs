//! The head of a request: request line and header section (RFC 9112 §2–§6), read strictly.
//!
//! httparse splits lines into names and values. What it lets pass and this does not: bare LF, a second Host, a
//! repeated or signed Content-Length, Content-Length beside Transfer-Encoding, bytes outside ASCII in the target.

use std::ops::Range;

use thiserror::Error;

/// What a head may be at most.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the request line.
    pub request_line_bytes_max: usize,
    /// Bytes of the header section.
    pub header_bytes_max: usize,
    /// Fields of the header section, at most [`HeadLimits::FIELDS_CEILING`].
    pub fields_max: usize,
}

impl HeadLimits {
    /// What `fields_max` cannot exceed.
    pub const FIELDS_CEILING: usize = 128;
}

/// A head that is refused. The connection is closed after the answer: where the next request begins is not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    /// A line ends with LF alone (RFC 9112 §2.2 permits it; nobody needs it, and smugglers do).
    #[error("a line ends with a bare LF")]
    BareLineFeed,
    /// CR without LF behind it, or NUL (RFC 9112 §2.2, RFC 9110 §5.5).
    #[error("a line holds a bare CR or NUL")]
    BareCarriageReturnOrNul,
    /// A field continues on a second line (RFC 9112 §5.2).
    #[error("a header field is folded over two lines")]
    ObsoleteFold,
    /// The request line is not `method SP target SP version`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A request line of a version that this server does not speak.
    #[error("the HTTP version is not supported")]
    Version,
    /// The target is not in origin-form or absolute-form, or has bytes that a URI has not.
    #[error("the request target is malformed")]
    Target,
    /// A field line is not `name ":" OWS value OWS`.
    #[error("a header field is malformed")]
    Field,
    /// The request line is over its limit.
    #[error("the request line is too long")]
    RequestLineTooLong,
    /// The header section is over its limit of bytes or fields.
    #[error("the header section is too large")]
    HeaderTooLarge,
    /// HTTP/1.1 without Host, two of them, or one that is no host and port (RFC 9112 §3.2).
    #[error("there is not exactly one valid Host field")]
    Host,
    /// A Content-Length that is not one number of decimal digits (RFC 9112 §6.3).
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// Content-Length and Transfer-Encoding together (RFC 9112 §6.1).
    #[error("Content-Length and Transfer-Encoding are both there")]
    LengthAndCoding,
    /// A Transfer-Encoding in which chunked is not last, or stands twice, or beside nothing, or in HTTP/1.0 (RFC 9112
    /// §6.1).
    #[error("Transfer-Encoding is malformed")]
    TransferEncoding,
    /// A transfer coding other than chunked.
    #[error("the transfer coding is not implemented")]
    UnknownCoding,
}

/// The methods of RFC 9110 §9.3 and RFC 5789.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `CONNECT`
    Connect,
    /// Any other token.
    Unknown,
}

impl Method {
    fn from_token(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => Self::Unknown,
        }
    }

    /// The method's token, or `UNKNOWN`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The two versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a body's end is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// So many bytes; 0 where nothing is said.
    Length(u64),
    /// By its last chunk.
    Chunked,
}

/// A parsed head. It owns its bytes and is filled anew for each request of a connection, so that a request
/// allocates nothing for it.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    method: Method,
    version: Version,
    /// The target, apart from `bytes` as text that need not be checked again.
    target: String,
    /// Where its path lies in it.
    path: Range<usize>,
    /// Where its query does.
    query: Option<Range<usize>>,
    framing: BodyFraming,
    expects_continue: bool,
    has_other_expectation: bool,
    keeps_alive: bool,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            method: Method::Unknown,
            version: Version::Http11,
            target: String::new(),
            path: 0..0,
            query: None,
            framing: BodyFraming::Length(0),
            expects_continue: false,
            has_other_expectation: false,
            keeps_alive: true,
        }
    }
}

impl RequestHead {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The path of the target, still percent-encoded; begins with `/`.
    pub fn path(&self) -> &str {
        self.target.get(self.path.clone()).unwrap_or_default()
    }

    /// The query of the target without its `?`, still encoded.
    pub fn query(&self) -> Option<&str> {
        self.query.clone().map(|range| self.target.get(range).unwrap_or_default())
    }

    /// Goes on with no more of the query than so many bytes from its beginning, and with none where that is nothing.
    pub fn cut_query(&mut self, bytes: usize) {
        self.query = self.query.take().filter(|_| bytes > 0);
        if let Some(query) = &mut self.query {
            query.end = query.end.min(query.start + bytes);
        }
    }

    /// How the body's end is known.
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client waits for `100 Continue` (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether an expectation other than `100-continue` stands there.
    pub fn has_other_expectation(&self) -> bool {
        self.has_other_expectation
    }

    /// Whether the client wants the connection for more requests (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// All fields, names as they came.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (ascii(&self.bytes[name.clone()]), &self.bytes[value.clone()]))
    }

    /// The values of all fields of this name, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_bytes();
        self.fields
            .iter()
            .filter(move |(other, _)| self.bytes[other.clone()].eq_ignore_ascii_case(name))
            .map(|(_, value)| &self.bytes[value.clone()])
    }

    /// Whether a field of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The value of the only field of this name, as text. `None` if there is none, several, or something else
    /// than ASCII in it: such a field says nothing that could be relied on.
    pub fn single<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next().filter(|value| value.is_ascii())?;
        values.next().is_none().then(|| ascii(value))
    }

    /// The values of all fields of this name as one list (RFC 9110 §5.3).
    pub fn list(&self, name: &str) -> Option<String> {
        let mut values = self.values(name).peekable();
        values.peek()?;
        let texts: Vec<_> = values.map(String::from_utf8_lossy).collect();
        Some(texts.join(", "))
    }
}

/// Bytes that were checked to be ASCII when the head was parsed.
fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Finds the end of a head in bytes that come piece by piece, looking at each byte once.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// Everything before has been looked at.
    scanned: usize,
    /// Where the line that is being looked at begins.
    line_start: usize,
    /// Where the header section begins, once the request line is whole.
    fields_start: Option<usize>,
    field_count: usize,
}

/// Empty lines before a request line that are passed over (RFC 9112 §2.2 asks for one at least).
const LEADING_EMPTY_LINES_MAX: usize = 4;

impl HeadParser {
    /// Looks at all bytes that have come so far. When the head is whole, fills `head` and says how many bytes it
    /// was, and is ready for the next one.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Option<usize>, HeadError> {
        let skipped = leading_empty_lines(input);
        if self.scanned < skipped {
            (self.scanned, self.line_start) = (skipped, skipped);
        }
        let Some(end) = self.find_end(input, skipped, limits)? else {
            return Ok(None);
        };
        head.fill(&input[skipped..end])?;
        *self = Self::default();
        Ok(Some(end))
    }

    fn find_end(
        &mut self,
        input: &[u8],
        start: usize,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, HeadError> {
        while let Some(position) = memchr::memchr(b'\n', &input[self.scanned..]) {
            let line_end = self.scanned + position + 1;
            let line =
                input[self.line_start..line_end].strip_suffix(b"\r\n").ok_or(HeadError::BareLineFeed)?;
            if memchr::memchr2(b'\r', 0, line).is_some() {
                return Err(HeadError::BareCarriageReturnOrNul);
            }
            (self.scanned, self.line_start) = (line_end, line_end);
            match self.fields_start {
                // httparse would pass over any number of them, and the limit of the request line would not hold.
                None if line.is_empty() => return Err(HeadError::RequestLine),
                None => {
                    within(line.len(), limits.request_line_bytes_max, HeadError::RequestLineTooLong)?;
                    self.fields_start = Some(line_end);
                }
                Some(_) if line.is_empty() => return Ok(Some(line_end)),
                Some(fields_start) => {
                    if line.starts_with(b" ") || line.starts_with(b"\t") {
                        return Err(HeadError::ObsoleteFold);
                    }
                    self.field_count += 1;
                    within(self.field_count, limits.fields_max, HeadError::HeaderTooLarge)?;
                    within(line_end - fields_start, limits.header_bytes_max, HeadError::HeaderTooLarge)?;
                }
            }
        }
        self.scanned = input.len();
        match self.fields_start {
            None => {
                within(input.len() - start, limits.request_line_bytes_max + 2, HeadError::RequestLineTooLong)?
            }
            Some(from) => within(input.len() - from, limits.header_bytes_max + 2, HeadError::HeaderTooLarge)?,
        }
        Ok(None)
    }
}

fn within(count: usize, max: usize, error: HeadError) -> Result<(), HeadError> {
    if count <= max { Ok(()) } else { Err(error) }
}

fn leading_empty_lines(input: &[u8]) -> usize {
    input.chunks_exact(2).take(LEADING_EMPTY_LINES_MAX).take_while(|pair| *pair == b"\r\n").count() * 2
}

impl RequestHead {
    /// Takes a whole head, from the first byte of the request line to the empty line.
    fn fill(&mut self, input: &[u8]) -> Result<(), HeadError> {
        self.bytes.clear();
        self.bytes.extend_from_slice(input);
        self.fields.clear();
        let bytes = std::mem::take(&mut self.bytes);
        let result = self.split(&bytes).and_then(|()| self.interpret(&bytes));
        self.bytes = bytes;
        result
    }

    fn split(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        let mut storage = [const { std::mem::MaybeUninit::uninit() }; HeadLimits::FIELDS_CEILING];
        let mut request = httparse::Request::new(&mut []);
        let status = request.parse_with_uninit_headers(bytes, &mut storage).map_err(|error| match error {
            httparse::Error::Version if names_a_version(bytes) => HeadError::Version,
            httparse::Error::Version | httparse::Error::Token | httparse::Error::NewLine => {
                HeadError::RequestLine
            }
            httparse::Error::TooManyHeaders => HeadError::HeaderTooLarge,
            _ => HeadError::Field,
        })?;
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err(HeadError::RequestLine);
        };
        if status != httparse::Status::Complete(bytes.len()) {
            return Err(HeadError::RequestLine);
        }
        self.method = Method::from_token(method);
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        self.take_target(target)?;
        for field in request.headers.iter() {
            let value = field.value.trim_ascii();
            // A value of nothing but white space trims to a slice that may begin anywhere; it has no bytes.
            let value = if value.is_empty() { 0..0 } else { range_in(bytes, value) };
            self.fields.push((range_in(bytes, field.name.as_bytes()), value));
        }
        Ok(())
    }

    /// origin-form, or absolute-form of which only path and query are looked at (RFC 9112 §3.2.2).
    fn take_target(&mut self, target: &str) -> Result<(), HeadError> {
        if !target.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#') {
            return Err(HeadError::Target);
        }
        self.target.clear();
        self.target.push_str(target);
        let has_scheme = |scheme: &&str| {
            target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        let scheme_length = ["http://", "https://"].into_iter().find(has_scheme).map_or(0, str::len);
        let authority_length = match scheme_length {
            0 => 0,
            _ => target[scheme_length..].find(['/', '?']).unwrap_or(target.len() - scheme_length),
        };
        let path_start = scheme_length + authority_length;
        if scheme_length > 0 && !is_host_and_port(&target.as_bytes()[scheme_length..path_start]) {
            return Err(HeadError::Target);
        }
        let path = &target[path_start..];
        let query_start = path.find('?');
        self.query = query_start.map(|start| path_start + start + 1..target.len());
        self.path = path_start..path_start + query_start.unwrap_or(path.len());
        let origin_form = path.starts_with('/');
        // Targets of one method each (RFC 9112 §3.2.3, §3.2.4), which the router has no path for.
        let other_form = match self.method {
            Method::Options => target == "*",
            Method::Connect => is_authority_form(target),
            _ => false,
        };
        if origin_form || other_form { Ok(()) } else { Err(HeadError::Target) }
    }

    fn interpret(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        let mut host: Option<&[u8]> = None;
        let mut length: Option<u64> = None;
        let mut codings: Option<String> = None;
        let (mut closes, mut keeps) = (false, false);
        (self.expects_continue, self.has_other_expectation) = (false, false);
        for (name, value) in &self.fields {
            let (name, value) = (&bytes[name.clone()], &bytes[value.clone()]);
            if name.eq_ignore_ascii_case(b"host") {
                if host.replace(value).is_some() {
                    return Err(HeadError::Host);
                }
            } else if name.eq_ignore_ascii_case(b"content-length") {
                if length.replace(content_length(value)?).is_some() {
                    return Err(HeadError::ContentLength);
                }
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                let text = std::str::from_utf8(value).map_err(|_| HeadError::TransferEncoding)?;
                match &mut codings {
                    Some(list) => {
                        list.push(',');
                        list.push_str(text);
                    }
                    None => codings = Some(text.to_owned()),
                }
            } else if name.eq_ignore_ascii_case(b"connection") {
                closes |= has_token(value, b"close");
                keeps |= has_token(value, b"keep-alive");
            } else if name.eq_ignore_ascii_case(b"expect") {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= known;
                self.has_other_expectation |= !known;
            }
        }
        self.check_host(host)?;
        self.framing = self.frame(length, codings.as_deref())?;
        // RFC 9110 §10.1.1: a 100-continue expectation from HTTP/1.0 is ignored.
        self.expects_continue &= self.version == Version::Http11;
        self.keeps_alive = !closes && (self.version == Version::Http11 || keeps);
        Ok(())
    }

    fn check_host(&self, host: Option<&[u8]>) -> Result<(), HeadError> {
        let valid = match host {
            // Empty where the target has no authority to tell of (RFC 9112 §3.2).
            Some(host) => host.is_empty() || is_host_and_port(host),
            None => self.version == Version::Http10,
        };
        if valid { Ok(()) } else { Err(HeadError::Host) }
    }

    fn frame(&self, length: Option<u64>, codings: Option<&str>) -> Result<BodyFraming, HeadError> {
        let Some(codings) = codings else { return Ok(BodyFraming::Length(length.unwrap_or(0))) };
        if length.is_some() {
            return Err(HeadError::LengthAndCoding);
        }
        if self.version == Version::Http10 {
            return Err(HeadError::TransferEncoding);
        }
        let list: Vec<_> = codings.split(',').map(|coding| coding.trim_matches([' ', '\t'])).collect();
        let chunked = list.iter().filter(|coding| coding.eq_ignore_ascii_case("chunked")).count();
        match list.as_slice() {
            // A list may hold empty elements (RFC 9110 §5.6.1), but to some the last one is then no coding.
            list if list.contains(&"") => Err(HeadError::TransferEncoding),
            [only] if chunked == 1 && only.len() == 7 => Ok(BodyFraming::Chunked),
            [.., last] if chunked == 1 && last.eq_ignore_ascii_case("chunked") => {
                Err(HeadError::UnknownCoding)
            }
            [_, ..] if chunked == 0 => Err(HeadError::UnknownCoding),
            _ => Err(HeadError::TransferEncoding),
        }
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2): a name, or an address in brackets, and digits. User information before it is
/// an error (RFC 9110 §4.2.4).
fn is_host_and_port(text: &[u8]) -> bool {
    let (name, port, in_brackets) = match text {
        [b'[', literal @ ..] => match memchr::memchr(b']', literal) {
            Some(end) => (&literal[..end], &literal[end + 1..], true),
            None => return false,
        },
        _ => {
            let (name, port) = text.split_at(memchr::memchr(b':', text).unwrap_or(text.len()));
            (name, port, false)
        }
    };
    let in_name = |byte: &u8| is_reg_name_byte(*byte) || (in_brackets && *byte == b':');
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_port && !name.is_empty() && name.iter().all(in_name)
}

/// RFC 3986 §3.2.2.
fn is_reg_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%')
        || matches!(byte, b'!' | b'$' | b'&'..=b',' | b';' | b'=')
}

/// `uri-host ":" port` (RFC 9112 §3.2.3), in which the port has to be there.
fn is_authority_form(target: &str) -> bool {
    let has_port = target.contains(':') && target.ends_with(|last: char| last.is_ascii_digit());
    has_port && is_host_and_port(target.as_bytes())
}

/// RFC 9110 §8.6: `1*DIGIT`, and no more than 64 bits of it.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    ascii(value).parse().map_err(|_| HeadError::ContentLength)
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether the request line is three words and the last is `HTTP/d.d`, of whatever digits.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (_, _, version, rest) = (words.next(), words.next(), words.next(), words.next());
    let digits = match version {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => [*major, *minor],
        _ => return false,
    };
    rest.is_none() && digits.iter().all(u8::is_ascii_digit)
}

/// Where `part` lies in `whole`, of which it is a slice.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits =
        HeadLimits { request_line_bytes_max: 200, header_bytes_max: 400, fields_max: 8 };

    fn parse(input: &[u8]) -> Result<Option<(usize, RequestHead)>, HeadError> {
        let mut head = RequestHead::default();
        let end = HeadParser::default().parse(input, &LIMITS, &mut head)?;
        Ok(end.map(|end| (end, head)))
    }

    fn parsed(input: &str) -> RequestHead {
        parse(input.as_bytes()).unwrap().unwrap().1
    }

    fn refused(input: &str) -> HeadError {
        parse(input.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head = parsed(
            "PUT /v1/keys/a%20b?x=1&y HTTP/1.1\r\nhoSt:\tlocalhost:80 \r\nX-A:\r\nContent-length: 42\r\nExpect: 100-Continue\r\n\r\n",
        );
        assert_eq!((head.method(), head.version()), (Method::Put, Version::Http11));
        assert_eq!((head.path(), head.query()), ("/v1/keys/a%20b", Some("x=1&y")));
        assert_eq!((head.single("host"), head.single("x-a")), (Some("localhost:80"), Some("")));
        assert_eq!(head.framing(), BodyFraming::Length(42));
        assert!(head.expects_continue() && head.keeps_alive() && !head.has_other_expectation());
    }

    #[test]
    fn a_query_can_be_cut_to_its_beginning() {
        for (bytes, left) in
            [(0, None), (1, Some("a")), (3, Some("a=b")), (5, Some("a=b&c")), (9, Some("a=b&c"))]
        {
            let mut head = parsed("GET /x?a=b&c HTTP/1.1\r\nHost: h\r\n\r\n");
            head.cut_query(bytes);
            assert_eq!((head.path(), head.query(), head.single("host")), ("/x", left, Some("h")));
        }
        let mut head = parsed("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        head.cut_query(1);
        assert_eq!(head.query(), None);
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_the_same() {
        let input = b"\r\nGET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\nGET /next";
        let (mut parser, mut head) = (HeadParser::default(), RequestHead::default());
        let whole =
            (1..=input.len()).find_map(|end| parser.parse(&input[..end], &LIMITS, &mut head).unwrap());
        assert_eq!(whole, Some(input.len() - 9));
        assert_eq!((head.path(), head.single("a")), ("/x", Some("b")));
    }

    #[test]
    fn absolute_form_is_taken_without_its_authority() {
        let head = parsed("GET http://other/p?q HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((head.path(), head.query()), ("/p", Some("q")));
        for target in [
            "http:///p",
            "http://h",
            "http://h?q",
            "http://u@h/p",
            "http://h:x/p",
            "http://[::1/p",
            "ftp://h/p",
            "p",
            "*",
            "/a b",
            "/a\u{e9}",
            "/a#b",
            "h:80",
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let error = refused(&request);
            assert!(matches!(error, HeadError::Target | HeadError::RequestLine), "{target}: {error:?}");
        }
    }

    #[test]
    fn what_two_parties_could_read_differently_is_refused() {
        let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        for (fields, error) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", HeadError::LengthAndCoding),
            ("Content-Length: 5\r\nContent-Length: 5", HeadError::ContentLength),
            ("Content-Length: 5\r\nContent-Length: 6", HeadError::ContentLength),
            ("Content-Length: 5, 5", HeadError::ContentLength),
            ("Content-Length: +5", HeadError::ContentLength),
            ("Content-Length: -5", HeadError::ContentLength),
            ("Content-Length: 0x5", HeadError::ContentLength),
            ("Content-Length: 5 5", HeadError::ContentLength),
            ("Content-Length:", HeadError::ContentLength),
            ("Content-Length: 99999999999999999999", HeadError::ContentLength),
            ("Transfer-Encoding: chunked, chunked", HeadError::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", HeadError::TransferEncoding),
            ("Transfer-Encoding: chunked, gzip", HeadError::TransferEncoding),
            ("Transfer-Encoding:", HeadError::TransferEncoding),
            ("Transfer-Encoding: chunked,", HeadError::TransferEncoding),
            ("Transfer-Encoding: ,chunked", HeadError::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding:", HeadError::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked", HeadError::UnknownCoding),
            ("Transfer-Encoding: identity", HeadError::UnknownCoding),
            ("Transfer-Encoding: xchunked", HeadError::UnknownCoding),
            ("Transfer-Encoding : chunked", HeadError::Field),
            ("X: a\r\n folded", HeadError::ObsoleteFold),
            ("X: a\r\n\tfolded", HeadError::ObsoleteFold),
            ("X: a\nY: b", HeadError::BareLineFeed),
            ("X: a\rb", HeadError::BareCarriageReturnOrNul),
            ("X: a\0b", HeadError::BareCarriageReturnOrNul),
            ("X: a\x07b", HeadError::Field),
            ("X[]: a", HeadError::Field),
            (": a", HeadError::Field),
            ("no colon", HeadError::Field),
            ("Host: other", HeadError::Host),
        ] {
            assert_eq!(refused(&with(fields)), error, "{fields:?}");
        }
        assert_eq!(parsed(&with("Transfer-Encoding: Chunked")).framing(), BodyFraming::Chunked);
    }

    #[test]
    fn request_lines_and_hosts_that_are_none() {
        for (input, error) in [
            ("GET / \r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("GET /\r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::RequestLine),
            (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", HeadError::Version),
            ("GET / http/1.1\r\nHost: h\r\n\r\n", HeadError::RequestLine),
            ("GET / HTTP/1.1\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", HeadError::Host),
            ("OPTIONS x HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::Target),
            ("CONNECT * HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::Target),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
        ] {
            assert_eq!(refused(input), error, "{input:?}");
        }
        let old = parsed("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n");
        assert!(!old.expects_continue() && !old.keeps_alive());
        assert!(parsed("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keeps_alive());
        assert!(!parsed("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, close\r\n\r\n").keeps_alive());
        assert!(parsed("GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n").has_other_expectation());
        assert_eq!(parsed("BREW / HTTP/1.1\r\nHost: h\r\n\r\n").method(), Method::Unknown);
    }

    #[test]
    fn the_targets_of_two_methods_are_theirs_alone() {
        assert_eq!(parsed("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").path(), "*");
        for target in ["h:80", "[::1]:80", "127.0.0.1:1"] {
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            assert_eq!(parsed(&request).path(), target);
        }
        for target in ["h", "[::1]", "h:", ":80", "u@h:80", "h:80/"] {
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(refused(&request), HeadError::Target, "{target}");
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_counted() {
        let request = |count: usize| format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n".repeat(count));
        assert_eq!(parsed(&request(LEADING_EMPTY_LINES_MAX)).path(), "/");
        assert_eq!(refused(&request(LEADING_EMPTY_LINES_MAX + 1)), HeadError::RequestLine);
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        let line = |bytes: usize| format!("GET /{} HTTP/1.1", "x".repeat(bytes - 14));
        let request = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
        assert_eq!(parsed(&request(&line(200))).path().len(), 187);
        assert_eq!(refused(&request(&line(201))), HeadError::RequestLineTooLong);
        assert_eq!(refused(&"x".repeat(203)), HeadError::RequestLineTooLong, "without waiting for its end");

        let fields =
            |bytes: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(bytes - 14));
        assert!(parsed(&fields(400)).has("x"));
        assert_eq!(refused(&fields(401)), HeadError::HeaderTooLarge);
        let endless = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(400));
        assert_eq!(refused(&endless), HeadError::HeaderTooLarge);

        let count =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(parsed(&count(8)).fields().count(), 8);
        assert_eq!(refused(&count(9)), HeadError::HeaderTooLarge);
    }

    proptest! {
        #[test]
        fn no_input_panics_and_no_split_of_it_matters(input in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            check_split(&input, cut);
        }

        #[test]
        fn no_near_request_panics(fields in "([A-Za-z:]{0,9}[: \r\n\t,0-9]{0,4}(chunked|close|5|h)?(\r\n)?){0,9}", cut in 0usize..200) {
            check_split(format!("POST /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n").as_bytes(), cut);
        }
    }

    fn check_split(input: &[u8], cut: usize) {
        let whole = parse(input).map(|parsed| parsed.map(|(end, head)| (end, head.framing())));
        let (mut parser, mut head) = (HeadParser::default(), RequestHead::default());
        let cut = cut.min(input.len());
        let pieces = match parser.parse(&input[..cut], &LIMITS, &mut head) {
            Ok(None) => parser.parse(input, &LIMITS, &mut head),
            other => other,
        };
        let pieces = pieces.map(|end| end.map(|end| (end, head.framing())));
        // Cut into pieces, an error may be told earlier, and so be another one.
        assert_eq!(whole.is_ok(), pieces.is_ok());
        if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
            assert_eq!(whole, pieces);
        }
    }
}
