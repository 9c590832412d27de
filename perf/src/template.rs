//! Requests as text with places for what differs from one to the next: `PUT /perf/{number}`.
//!
//! A peer is described by such lines alone, so that a new one needs no code.

use std::io::Write as _;

use anyhow::{Context as _, bail};

/// The head of a request, up to the empty line.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Number,
    Sha256,
    Location,
}

/// What the places are filled with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    /// `{number}`: that of the operation.
    pub(crate) number: u64,
    /// `{sha256}`: that of the body, in lower-case hexadecimal digits.
    pub(crate) sha256: &'a str,
    /// `{location}`: where an earlier answer pointed to.
    pub(crate) location: &'a str,
}

impl Template {
    /// Makes a head of a line such as `PUT /path`. The length of the body is named if there is one.
    pub(crate) fn new(line: &str, authority: &str, body_bytes: Option<u64>) -> anyhow::Result<Self> {
        let (method, path) = line.split_once(' ').context("a request is a method and a path")?;
        if !path.starts_with(['/', '{']) || !line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        {
            bail!("`{line}` is not a request line");
        }
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(body_bytes) = body_bytes {
            head.push_str("Content-Type: application/octet-stream\r\n");
            head.push_str(&format!("Content-Length: {body_bytes}\r\n"));
        }
        head.push_str("\r\n");
        Self::parse(&head)
    }

    fn parse(mut text: &str) -> anyhow::Result<Self> {
        let mut pieces = Vec::new();
        while let Some((before, rest)) = text.split_once('{') {
            let (name, after) = rest.split_once('}').context("a `{` has no `}`")?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "number" => Piece::Number,
                "sha256" => Piece::Sha256,
                "location" => Piece::Location,
                other => bail!("`{{{other}}}` stands for nothing"),
            });
            text = after;
        }
        pieces.push(Piece::Text(text.to_owned()));
        Ok(Self(pieces))
    }

    /// Whether the digest of the body has to be known before it is sent.
    pub(crate) fn needs_sha256(&self) -> bool {
        self.0.contains(&Piece::Sha256)
    }

    /// Writes the head in place of what was in the buffer.
    pub(crate) fn write(&self, values: Values<'_>, head: &mut Vec<u8>) {
        head.clear();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => head.extend_from_slice(text.as_bytes()),
                // Writing to a vector cannot fail.
                Piece::Number => drop(write!(head, "{}", values.number)),
                Piece::Sha256 => head.extend_from_slice(values.sha256.as_bytes()),
                Piece::Location => head.extend_from_slice(values.location.as_bytes()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled() {
        let template = Template::new("PUT /a/{number}?d={sha256}", "127.0.0.1:80", Some(7)).unwrap();
        assert!(template.needs_sha256());
        let mut head = b"left over".to_vec();
        template.write(Values { number: 17, sha256: "ab", location: "" }, &mut head);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "PUT /a/17?d=ab HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: 7\r\n\r\n"
        );
        let template = Template::new("GET {location}", "127.0.0.1:80", None).unwrap();
        let mut head = Vec::new();
        template.write(Values { location: "/x", ..Values::default() }, &mut head);
        assert_eq!(head, b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n");
    }

    #[test]
    fn what_is_no_request_line_is_refused() {
        for line in ["PUT", "PUT x", "PUT /{number", "PUT /{other}", "PUT /a\r\nX: y"] {
            assert!(Template::new(line, "127.0.0.1:80", None).is_err(), "{line:?}");
        }
    }
}
