//! Several parts of one representation in one body: `multipart/byteranges` (RFC 9110 §14.6, RFC 2046 §5.1).

use std::fmt::{self, Display, Write as _};

use uuid::Uuid;

use super::response::append;
use crate::domain::value_objects::{ByteRange, ContentType};

/// What stands around the parts of a body, and how long all of it is:
///
/// ```text
/// --{boundary}
/// Content-Type: {that of the whole}
/// Content-Range: bytes 0-1/10
///
/// {two bytes}
/// --{boundary}
/// …
/// --{boundary}--
/// ```
///
/// The boundary has 122 random bits and is made anew for each answer: it stands in no part by accident, and nobody who
/// stores bytes can know what would end a part of them early.
#[derive(Debug)]
pub struct Multipart {
    boundary: Uuid,
    content_type: ContentType,
    /// The size of the whole representation.
    size_bytes: u64,
    ranges: Vec<ByteRange>,
}

impl Multipart {
    /// These parts of a representation of `size_bytes`, in this order.
    pub fn new(ranges: Vec<ByteRange>, content_type: ContentType, size_bytes: u64) -> Self {
        Self { boundary: Uuid::new_v4(), content_type, size_bytes, ranges }
    }

    /// The parts, in the order in which they are sent.
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// The media type of the body.
    pub fn content_type(&self) -> impl Display {
        fmt::from_fn(move |text| write!(text, "multipart/byteranges; boundary={}", self.boundary.simple()))
    }

    /// The length of the body: what is appended around the parts is counted as it is written, so that it cannot differ.
    pub fn length_bytes(&self) -> u64 {
        let mut length = Length(0);
        for (index, range) in self.ranges.iter().enumerate() {
            length.add(self.head(index));
            length.0 += range.length;
        }
        length.add(self.end());
        length.0
    }

    /// Appends what stands before a part.
    pub fn append_head(&self, index: usize, bytes: &mut Vec<u8>) {
        append(bytes, self.head(index));
    }

    /// Appends what stands behind the last part.
    pub fn append_end(&self, bytes: &mut Vec<u8>) {
        append(bytes, self.end());
    }

    fn head(&self, index: usize) -> impl Display {
        fmt::from_fn(move |text| {
            let (boundary, content_type) = (self.boundary.simple(), self.content_type.as_str());
            let (range, size) = (self.ranges[index], self.size_bytes);
            let line_end = if index == 0 { "" } else { "\r\n" };
            write!(text, "{line_end}--{boundary}\r\nContent-Type: {content_type}\r\n")?;
            write!(text, "Content-Range: bytes {}-{}/{size}\r\n\r\n", range.offset, range.last())
        })
    }

    fn end(&self) -> impl Display {
        fmt::from_fn(move |text| write!(text, "\r\n--{}--\r\n", self.boundary.simple()))
    }
}

/// Counts what is written.
struct Length(u64);

impl Length {
    fn add(&mut self, value: impl Display) {
        // Counting cannot fail.
        let _ = write!(self, "{value}");
    }
}

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole body, of an object whose bytes are given by their offsets.
    fn body(multipart: &Multipart) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, range) in multipart.ranges().iter().enumerate() {
            multipart.append_head(index, &mut bytes);
            bytes.extend((range.offset..=range.last()).map(|offset| b'0' + (offset % 10) as u8));
        }
        multipart.append_end(&mut bytes);
        bytes
    }

    #[test]
    fn parts_stand_behind_their_heads_between_boundaries() {
        let ranges = vec![ByteRange { offset: 8, length: 2 }, ByteRange { offset: 0, length: 1 }];
        let multipart = Multipart::new(ranges, ContentType::octet_stream(), 10);
        let content_type = multipart.content_type().to_string();
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        assert!(boundary.len() == 32 && boundary.bytes().all(|byte| byte.is_ascii_hexdigit()), "{boundary}");
        let head = |range: &str| {
            format!(
                "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/10\r\n\r\n"
            )
        };
        let expected = format!("{}89\r\n{}0\r\n--{boundary}--\r\n", head("8-9"), head("0-0"));
        assert_eq!(String::from_utf8(body(&multipart)).unwrap(), expected);
    }

    #[test]
    fn no_two_bodies_have_the_same_boundary() {
        let new = || Multipart::new(Vec::new(), ContentType::octet_stream(), 0).content_type().to_string();
        assert_ne!(new(), new());
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_what_is_written(parts in prop::collection::vec((0..10_000u64, 1..50u64), 1..20)) {
            let ranges = parts.into_iter().map(|(offset, length)| ByteRange { offset, length }).collect();
            let multipart = Multipart::new(ranges, ContentType::parse("text/plain; charset=utf-8").unwrap(), 10_050);
            prop_assert_eq!(multipart.length_bytes(), body(&multipart).len() as u64);
        }
    }
}
