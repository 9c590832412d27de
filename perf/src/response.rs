//! The head of a response (RFC 9112): status line and the few fields that frame and describe the body.
//!
//! Strict on purpose: a server under load that answers with anything but clean HTTP should fail the run, not be
//! guessed at. It allocates nothing, since it runs once for every operation.

use std::ops::Range;

use crate::digest::{self, DigestText};

/// A longer head is refused.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What the head of a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// The status code.
    pub(crate) status: u16,
    /// The length of the body that follows; zero where it comes in chunks.
    pub(crate) content_length_bytes: u64,
    /// Whether the body comes in chunks, as lists of some servers do.
    pub(crate) is_chunked: bool,
    /// Where in the head the value of `Location` stands.
    pub(crate) location: Option<Range<usize>>,
    /// Whether another request may be sent on the connection.
    pub(crate) keep_alive: bool,
    /// The SHA-256 of the `Repr-Digest` field.
    pub(crate) repr_digest: Option<DigestText>,
    /// The length of the head itself, with the empty line.
    pub(crate) head_bytes: usize,
}

impl ResponseHead {
    /// Whether the real answer is still to come (1xx).
    pub(crate) fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether the request was understood and done (2xx).
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why a response cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads a head from the start of what has been received; `None` as long as it is not whole.
pub(crate) fn parse_head(received: &[u8]) -> Result<Option<ResponseHead>, Malformed> {
    let Some((status_line, mut position)) = next_line(received)? else {
        return Ok(None);
    };
    let (status, version_keeps_alive) = parse_status_line(status_line)?;
    let mut fields = Fields::default();
    loop {
        let Some((line, line_bytes)) = next_line(&received[position..])? else {
            return Ok(None);
        };
        if line.is_empty() {
            position += line_bytes;
            break;
        }
        fields.add(line, position)?;
        position += line_bytes;
    }
    Ok(Some(ResponseHead {
        status,
        content_length_bytes: fields.body_length_bytes(status)?,
        is_chunked: fields.is_chunked,
        location: fields.location,
        keep_alive: version_keeps_alive && !fields.connection_close,
        repr_digest: fields.repr_digest,
        head_bytes: position,
    }))
}

/// The first line without its end, and its length with it.
fn next_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some(line_feed) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    match bytes[..line_feed].strip_suffix(b"\r") {
        Some(line) => Ok(Some((line, line_feed + 1))),
        None => Err(Malformed("a line of the head does not end in CR LF")),
    }
}

/// The status code, and whether the version keeps connections open.
fn parse_status_line(line: &[u8]) -> Result<(u16, bool), Malformed> {
    const MALFORMED: Malformed = Malformed("the status line is not `HTTP/1.x nnn reason`");
    let (version_keeps_alive, rest) = if let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") {
        (true, rest)
    } else if let Some(rest) = line.strip_prefix(b"HTTP/1.0 ") {
        (false, rest)
    } else {
        return Err(MALFORMED);
    };
    let (code, after_code) = rest.split_at_checked(3).ok_or(MALFORMED)?;
    if !matches!(after_code.first(), None | Some(b' ')) {
        return Err(MALFORMED);
    }
    match parse_decimal(code) {
        Some(status @ 100..=599) => Ok((status as u16, version_keeps_alive)),
        _ => Err(MALFORMED),
    }
}

/// The fields that matter, collected line by line.
#[derive(Debug, Default)]
struct Fields {
    content_length_bytes: Option<u64>,
    connection_close: bool,
    is_chunked: bool,
    location: Option<Range<usize>>,
    repr_digest: Option<DigestText>,
}

impl Fields {
    /// Takes a line that starts at this position of the head.
    fn add(&mut self, line: &[u8], line_start: usize) -> Result<(), Malformed> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed("a field has no colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed("a field name is empty or has white space in it"));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let length_bytes = parse_decimal(value).ok_or(Malformed("Content-Length is not a number"))?;
            if self.content_length_bytes.is_some_and(|known| known != length_bytes) {
                return Err(Malformed("there are two Content-Lengths that differ"));
            }
            self.content_length_bytes = Some(length_bytes);
        } else if name.eq_ignore_ascii_case(b"connection") {
            let mut options = value.split(|byte| *byte == b',').map(|option| option.trim_ascii());
            self.connection_close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case(b"repr-digest") {
            self.repr_digest = digest::find_sha256(value).map_err(Malformed)?.or(self.repr_digest);
        } else if name.eq_ignore_ascii_case(b"location") {
            let value_start =
                line_start + colon + 1 + line[colon + 1..].len() - line[colon + 1..].trim_ascii_start().len();
            self.location = Some(value_start..value_start + value.len());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("the body has a Transfer-Encoding other than chunked"));
            }
            self.is_chunked = true;
        }
        Ok(())
    }

    fn body_length_bytes(&self, status: u16) -> Result<u64, Malformed> {
        // These have no body, whatever their fields say (RFC 9112, section 6.3).
        if status < 200 || status == 204 || status == 304 {
            return Ok(0);
        }
        if self.is_chunked {
            return Ok(0);
        }
        self.content_length_bytes.ok_or(Malformed("there is no Content-Length"))
    }
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = (*byte as char).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ResponseHead {
        parse_head(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_head_gives_status_length_and_its_own_length() {
        let text = "HTTP/1.1 201 Created\r\nServer: x\r\ncontent-LENGTH:  12 \r\nDate: now\r\n\r\n";
        let head = parse(&format!("{text}hello, world"));
        assert_eq!((head.status, head.content_length_bytes, head.keep_alive), (201, 12, true));
        assert_eq!(head.head_bytes, text.len());
        assert_eq!(head.repr_digest, None);
        assert!(head.is_success() && !head.is_interim());
    }

    #[test]
    fn every_cut_through_a_head_asks_for_more() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(parse_head(&text.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(parse(text).head_bytes, text.len());
    }

    #[test]
    fn connections_close_when_the_server_says_so() {
        let keep_alive = |start: &str| parse(&format!("{start}\r\nContent-Length: 0\r\n\r\n")).keep_alive;
        assert!(keep_alive("HTTP/1.1 200 OK"));
        assert!(keep_alive("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
        assert!(!keep_alive("HTTP/1.1 200 OK\r\nConnection: Close"));
        assert!(!keep_alive("HTTP/1.1 200 OK\r\nconnection: keep-alive, close"));
        assert!(!keep_alive("HTTP/1.0 200 OK"));
    }

    #[test]
    fn answers_without_a_body_need_no_length() {
        for status in ["100 Continue", "204 No Content", "304 Not Modified", "304"] {
            let head = parse(&format!("HTTP/1.1 {status}\r\n\r\n"));
            assert_eq!(head.content_length_bytes, 0, "{status}");
            assert_eq!(head.is_interim(), status.starts_with("100"));
        }
    }

    #[test]
    fn the_location_is_found_where_it_stands() {
        let text = "HTTP/1.1 202 Accepted\r\nServer: x\r\nLocation:  /a/b \r\nContent-Length: 0\r\n\r\n";
        assert_eq!(&text[parse(text).location.unwrap()], "/a/b");
    }

    #[test]
    fn the_digest_is_found() {
        let digest = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        let head = parse(&format!(
            "HTTP/1.1 200 OK\r\nRepr-Digest: sha-256=:{digest}:\r\nContent-Length: 3\r\n\r\n"
        ));
        assert_eq!(head.repr_digest.as_ref().map(|text| &text[..]), Some(digest.as_bytes()));
    }

    #[test]
    fn what_is_not_clean_http_is_refused() {
        for head in [
            "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nRepr-Digest: sha-256=:short:\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(parse_head(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
