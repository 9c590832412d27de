//! Streams of requests that are nearly right: valid ones, and what smugglers do to them.

use proptest::prelude::*;
use proptest::sample::select;

/// Valid requests.
const REQUESTS: [&str; 14] = [
    "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HEAD /health HTTP/1.1\r\nHost: [::1]:80\r\nAccept: */*\r\n\r\n",
    "GET http://other:80/p HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Type: a/b\r\n\r\n",
    "DELETE /k HTTP/1.1\r\nHost: h\r\nContent-Length: 34\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT /k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3;x=y\r\nabc\r\n00b;z\r\n0123456789a\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    "POST /v1/objects?namespace=a&tenant_id=b HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "BREW /pot HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\tChunked \r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "PATCH /k HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
];

/// What is put in.
const SNIPPETS: [&str; 88] = [
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\n\n",
    "\n\r\n",
    "\r\r\n",
    " ",
    "\t",
    "\r\n ",
    "\r\n\t",
    "\0",
    "\x0b",
    "\x0c",
    "\x08",
    "\x7f",
    "\u{85}",
    "\u{a0}",
    "\u{e9}",
    "\u{212a}",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "'",
    "\\",
    "/",
    "?",
    "#",
    "*",
    "@",
    "%",
    "<",
    "[",
    "]",
    "{",
    "|",
    "^",
    "`",
    "+",
    "-",
    "0",
    "00",
    "0x",
    "1",
    "5",
    "_",
    ".",
    "a",
    "f",
    "G",
    "5\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "ffffffffffffffff",
    "10000000000000000",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 3\r\n",
    "content-length:6\r\n",
    "Content-Length",
    "Content_Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "transfer-encoding:chunked\r\n",
    "Transfer-Encoding",
    "Transfer-Encoding: x\r\n",
    "chunked",
    "identity",
    ", chunked",
    "chunked, ",
    "Host: other\r\n",
    "Host:\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/2.0",
    "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    "X: ",
];

/// One thing that is done to a stream.
#[derive(Debug, Clone)]
enum Mutation {
    /// Put a snippet in anywhere.
    Insert(&'static str),
    /// Put a snippet where a line begins.
    InsertLine(&'static str),
    /// Put a snippet before, or behind, a colon.
    AtColon(&'static str, bool),
    /// Take a few bytes out.
    Remove(usize),
    /// Put another byte in the place of one.
    Replace(u8),
    /// The line once more.
    RepeatLine,
    RemoveLine,
    /// The line and the next one, the other way round.
    SwapLines,
    /// The end of a line becomes this.
    EndLine(&'static str),
    /// Letters change their case.
    OtherCase,
    /// A digit becomes another one.
    Digit(u8),
    /// Everything behind is not there yet.
    Cut,
}

/// Requests, one behind the other, and what is done to them at places between 0 and 65,535 of all.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    requests: Vec<&'static str>,
    mutations: Vec<(Mutation, u16)>,
}

/// Streams of one to three requests.
pub(super) fn streams() -> impl Strategy<Value = Stream> {
    let snippet = || select(&SNIPPETS[..]);
    let mutation = prop_oneof![
        4 => snippet().prop_map(Mutation::Insert),
        4 => snippet().prop_map(Mutation::InsertLine),
        3 => (snippet(), any::<bool>()).prop_map(|(snippet, before)| Mutation::AtColon(snippet, before)),
        2 => (1_usize..4).prop_map(Mutation::Remove),
        2 => any::<u8>().prop_map(Mutation::Replace),
        2 => Just(Mutation::RepeatLine),
        1 => Just(Mutation::RemoveLine),
        1 => Just(Mutation::SwapLines),
        2 => select(&["\n", "\r", "\r\r\n", "", "\n\r", " \r\n", "\r\n\r\n"][..]).prop_map(Mutation::EndLine),
        1 => Just(Mutation::OtherCase),
        2 => (0_u8..16).prop_map(Mutation::Digit),
        1 => Just(Mutation::Cut),
    ];
    let requests = proptest::collection::vec(select(&REQUESTS[..]), 1..4);
    let mutations = proptest::collection::vec((mutation, any::<u16>()), 0..4);
    (requests, mutations).prop_map(|(requests, mutations)| Stream { requests, mutations })
}

impl Stream {
    /// What is sent.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.requests.concat().into_bytes();
        for (mutation, place) in &self.mutations {
            mutation.apply(&mut bytes, *place);
        }
        bytes
    }
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>, place: u16) {
        let scaled = |count: usize| usize::from(place) * count / (usize::from(u16::MAX) + 1);
        let position = scaled(bytes.len() + 1);
        match self {
            Self::Insert(snippet) => insert(bytes, position, snippet),
            Self::InsertLine(snippet) => {
                let starts = starts_of_lines(bytes);
                insert(bytes, starts[scaled(starts.len())], snippet);
            }
            Self::AtColon(snippet, before) => {
                let colons = positions(bytes, |byte| byte == b':');
                if !colons.is_empty() {
                    insert(bytes, colons[scaled(colons.len())] + usize::from(!before), snippet);
                }
            }
            Self::Remove(count) => drop(bytes.drain(position..bytes.len().min(position + count))),
            Self::Replace(byte) => {
                if let Some(old) = bytes.get_mut(position) {
                    *old = *byte;
                }
            }
            Self::RepeatLine | Self::RemoveLine | Self::SwapLines => self.apply_to_line(bytes, place),
            Self::EndLine(end) => {
                let ends = positions(bytes, |byte| byte == b'\r');
                if !ends.is_empty() {
                    let start = ends[scaled(ends.len())];
                    let length = if bytes.get(start + 1) == Some(&b'\n') { 2 } else { 1 };
                    bytes.splice(start..start + length, end.bytes());
                }
            }
            Self::OtherCase => {
                let end = bytes.len().min(position + 12);
                for byte in &mut bytes[position..end] {
                    if byte.is_ascii_alphabetic() {
                        *byte ^= 0x20;
                    }
                }
            }
            Self::Digit(digit) => {
                let digits = positions(bytes, |byte| byte.is_ascii_hexdigit());
                if !digits.is_empty() {
                    bytes[digits[scaled(digits.len())]] = b"0123456789abcdef"[usize::from(*digit)];
                }
            }
            Self::Cut => bytes.truncate(position),
        }
    }

    fn apply_to_line(&self, bytes: &mut Vec<u8>, place: u16) {
        let mut lines: Vec<Vec<u8>> =
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.is_empty() {
            return;
        }
        let index = usize::from(place) * lines.len() / (usize::from(u16::MAX) + 1);
        match self {
            Self::RepeatLine => lines.insert(index, lines[index].clone()),
            Self::RemoveLine => drop(lines.remove(index)),
            _ => {
                let other = (index + 1) % lines.len();
                lines.swap(index, other);
            }
        }
        *bytes = lines.concat();
    }
}

fn insert(bytes: &mut Vec<u8>, position: usize, snippet: &str) {
    bytes.splice(position..position, snippet.bytes());
}

fn positions(bytes: &[u8], is_one: impl Fn(u8) -> bool) -> Vec<usize> {
    bytes.iter().enumerate().filter(|(_, byte)| is_one(**byte)).map(|(index, _)| index).collect()
}

/// Where lines begin; there is one at least.
fn starts_of_lines(bytes: &[u8]) -> Vec<usize> {
    let behind = positions(bytes, |byte| byte == b'\n').into_iter().map(|end| end + 1);
    std::iter::once(0).chain(behind).collect()
}
