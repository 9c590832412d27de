//! The body of a request: a counted number of bytes, or chunks and a trailer section (RFC 9112 §6–§7).

use std::ops::Range;

use thiserror::Error;

use super::head::BodyFraming;

/// A chunk's size line, with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// All trailer fields together.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// A body that is refused. The connection is closed after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// A chunk's size is not 1 to 16 hexadecimal digits.
    #[error("a chunk size is not a hexadecimal number")]
    ChunkSize,
    /// A line of the framing ends with LF alone, or has CR or NUL in it.
    #[error("a line of the chunked framing holds a bare LF, CR or NUL")]
    BareControl,
    /// A chunk extension is not one, or its line is over 256 bytes.
    #[error("a chunk extension is malformed or too long")]
    ChunkExtension,
    /// The bytes of a chunk are not followed by CRLF.
    #[error("a chunk is longer than its size")]
    ChunkEnd,
    /// A trailer field is malformed, too large, or one that may not stand there (RFC 9110 §6.5.1).
    #[error("a trailer field is malformed or may not be one")]
    Trailer,
}

/// What a step of decoding found in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes of the input are done with.
    pub consumed: usize,
    /// Which of them are content.
    pub content: Range<usize>,
}

/// Where a body is.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    trailer_bytes: usize,
    trailer_digest: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of content remain, and with them the body ends.
    Counted(u64),
    /// A chunk's size line comes next.
    ChunkLine,
    /// So many bytes of a chunk remain.
    Chunk(u64),
    /// The CRLF behind a chunk comes next.
    ChunkEnd,
    /// A line of the trailer section, or its end, comes next.
    Trailer,
    Ended,
}

impl BodyDecoder {
    /// At the start of a body.
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::Length(0) => State::Ended,
            BodyFraming::Length(length) => State::Counted(length),
            BodyFraming::Chunked => State::ChunkLine,
        };
        Self { state, trailer_bytes: 0, trailer_digest: None }
    }

    /// Whether the whole body has been consumed.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// How many of the next bytes are content for certain, so that they can be received where they are wanted
    /// instead of being decoded.
    pub fn content_ahead(&self) -> u64 {
        match self.state {
            State::Counted(remaining) | State::Chunk(remaining) => remaining,
            _ => 0,
        }
    }

    /// Whether the body ends within `input`, or is broken there.
    pub fn ends_within(&self, input: &[u8]) -> bool {
        let (state, trailer_bytes) = (self.state, self.trailer_bytes);
        let mut ahead = Self { state, trailer_bytes, trailer_digest: None };
        let mut position = 0;
        while !ahead.has_ended() {
            match ahead.decode(&input[position..], usize::MAX) {
                Ok(decoded) if decoded.consumed > 0 => position += decoded.consumed,
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
        true
    }

    /// Notes that `count` bytes of the content ahead have been received elsewhere.
    pub fn advance(&mut self, count: u64) {
        self.state = match self.state {
            State::Counted(remaining) if count < remaining => State::Counted(remaining - count),
            State::Counted(remaining) if count == remaining => State::Ended,
            State::Chunk(remaining) if count < remaining => State::Chunk(remaining - count),
            State::Chunk(remaining) if count == remaining => State::ChunkEnd,
            state if count == 0 => state,
            _ => crate::invariant::broken("a body does not advance past its content"),
        };
    }

    /// The values of the `Repr-Digest` fields of the trailer section, once the body has ended.
    pub fn trailer_digest(&self) -> Option<&[u8]> {
        self.trailer_digest.as_deref()
    }

    /// Consumes framing up to the next content, and of that at most `content_max` bytes. Where nothing is consumed,
    /// and the body has not ended, more input is needed.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(&mut self, input: &[u8], content_max: usize) -> Result<Decoded, BodyError> {
        let mut position = 0;
        loop {
            let rest = &input[position..];
            match self.state {
                State::Ended => return Ok(Decoded { consumed: position, content: position..position }),
                State::Counted(remaining) | State::Chunk(remaining) => {
                    let available = rest.len().min(content_max);
                    let count = available.min(usize::try_from(remaining).unwrap_or(usize::MAX));
                    self.advance(count as u64);
                    let end = position + count;
                    return Ok(Decoded { consumed: end, content: position..end });
                }
                State::ChunkLine | State::ChunkEnd | State::Trailer => match self.frame(rest)? {
                    0 => return Ok(Decoded { consumed: position, content: position..position }),
                    count => position += count,
                },
            }
        }
    }

    /// One line of framing; 0 if it is not whole yet.
    fn frame(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        if self.state == State::ChunkEnd {
            return self.chunk_end(input);
        }
        let line_max = if self.state == State::ChunkLine { CHUNK_LINE_BYTES_MAX } else { TRAILER_BYTES_MAX };
        let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(line_max + 2)]) else {
            return if input.len() < line_max + 2 {
                self.check_unfinished(input)
            } else {
                Err(self.too_long())
            };
        };
        let line = input[..end].strip_suffix(b"\r").ok_or(BodyError::BareControl)?;
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Err(BodyError::BareControl);
        }
        match self.state {
            State::ChunkLine => {
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
            }
            _ if line.is_empty() => self.state = State::Ended,
            _ => self.trailer_field(line)?,
        }
        Ok(end + 1)
    }

    /// A line that is not whole is refused as soon as it cannot become one.
    fn check_unfinished(&self, input: &[u8]) -> Result<usize, BodyError> {
        let starts_wrong = input.first().is_some_and(|first| !first.is_ascii_hexdigit());
        if self.state == State::ChunkLine && starts_wrong { Err(BodyError::ChunkSize) } else { Ok(0) }
    }

    fn too_long(&self) -> BodyError {
        if self.state == State::ChunkLine { BodyError::ChunkExtension } else { BodyError::Trailer }
    }

    fn chunk_end(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        match input {
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkLine;
                Ok(2)
            }
            [] | [b'\r'] => Ok(0),
            _ => Err(BodyError::ChunkEnd),
        }
    }

    fn trailer_field(&mut self, line: &[u8]) -> Result<(), BodyError> {
        self.trailer_bytes += line.len() + 2;
        let colon = memchr::memchr(b':', line).ok_or(BodyError::Trailer)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let is_token = std::str::from_utf8(name).is_ok_and(crate::domain::value_objects::is_token);
        let plain = is_plain(value);
        let value = value.trim_ascii();
        if !is_token || !plain || changes_framing_or_routing(name) || self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(BodyError::Trailer);
        }
        if name.eq_ignore_ascii_case(b"repr-digest") {
            match &mut self.trailer_digest {
                Some(values) => {
                    values.push(b',');
                    values.extend_from_slice(value);
                }
                None => self.trailer_digest = Some(value.to_vec()),
            }
        }
        Ok(())
    }
}

/// `chunk-size [ chunk-ext ]` (RFC 9112 §7.1): 1 to 16 hexadecimal digits, so that no size overflows 64 bits.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 {
        return Err(BodyError::ChunkSize);
    }
    if line.len() > CHUNK_LINE_BYTES_MAX || !is_plain(&line[digits..]) {
        return Err(BodyError::ChunkExtension);
    }
    let extension = line[digits..].trim_ascii_start();
    // White space is taken before an extension only, never between the size and the end of the line.
    if line.len() > digits && !extension.starts_with(b";") {
        return Err(BodyError::ChunkSize);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BodyError::ChunkSize)?;
    u64::from_str_radix(text, 16).map_err(|_| BodyError::ChunkSize)
}

/// Without control characters but the tab: a form feed is white space to Rust, and none to HTTP (RFC 9110 §5.6.3).
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// Fields that a recipient who merges trailers into the header would obey (RFC 9110 §6.5.1).
fn changes_framing_or_routing(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 12] = [
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"expect",
        b"host",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"x-api-key",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes input that comes in pieces of `piece` bytes; content, and what was left unconsumed.
    fn decode_all(
        framing: BodyFraming,
        input: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, bool), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut content, mut buffer) = (Vec::new(), Vec::new());
        for part in input.chunks(piece) {
            buffer.extend_from_slice(part);
            loop {
                let decoded = decoder.decode(&buffer, 7)?;
                content.extend_from_slice(&buffer[decoded.content.clone()]);
                buffer.drain(..decoded.consumed);
                if decoded.consumed == 0 {
                    break;
                }
            }
        }
        Ok((content, buffer, decoder.has_ended()))
    }

    fn chunked(input: &str) -> Result<(Vec<u8>, Vec<u8>, bool), BodyError> {
        decode_all(BodyFraming::Chunked, input.as_bytes(), usize::MAX)
    }

    #[test]
    fn a_body_ends_within_an_input_that_holds_all_of_it_or_its_mistake_and_no_other() {
        let whole = b"5\r\nhello\r\n3;x\r\nyou\r\n0\r\nA: b\r\n\r\n";
        let chunks = BodyDecoder::new(BodyFraming::Chunked);
        for length in 0..=whole.len() {
            assert_eq!(chunks.ends_within(&whole[..length]), length == whole.len(), "{length}");
        }
        assert!(chunks.ends_within(b"5\r\nhello!"), "what is wrong with it need not be waited for");
        let counted = BodyDecoder::new(BodyFraming::Length(3));
        assert!(!counted.ends_within(b"ab") && counted.ends_within(b"abc") && counted.ends_within(b"abcd"));
        assert!(BodyDecoder::new(BodyFraming::Length(0)).ends_within(b""));
    }

    #[test]
    fn chunks_extensions_and_trailers_are_taken_apart() {
        let input = "5;a=b\r\nhello\r\n00C ; x=\"y\"\r\n wonderful w\r\n0\r\nA: b\r\nRepr-Digest: sha-256=:x:\r\n\r\nnext";
        for piece in 1..input.len() {
            let (content, rest, ended) = decode_all(BodyFraming::Chunked, input.as_bytes(), piece).unwrap();
            assert_eq!(
                (content.as_slice(), rest.as_slice(), ended),
                (&b"hello wonderful w"[..], &b"next"[..], true)
            );
        }
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        decoder.decode(b"0\r\nrepr-digest: a\r\nRepr-Digest:b\r\n\r\n", 9).unwrap();
        assert_eq!(decoder.trailer_digest(), Some(&b"a,b"[..]));
    }

    #[test]
    fn a_counted_body_ends_at_its_count() {
        let (content, rest, ended) = decode_all(BodyFraming::Length(5), b"hello!", 4).unwrap();
        assert_eq!((content.as_slice(), rest.as_slice(), ended), (&b"hello"[..], &b"!"[..], true));
        assert!(BodyDecoder::new(BodyFraming::Length(0)).has_ended());
        let mut decoder = BodyDecoder::new(BodyFraming::Length(5));
        assert_eq!(decoder.content_ahead(), 5);
        decoder.advance(5);
        assert!(decoder.has_ended());
    }

    #[test]
    fn chunks_that_two_parties_could_read_differently_are_refused() {
        for (input, error) in [
            ("\r\n", BodyError::ChunkSize),
            ("g\r\n", BodyError::ChunkSize),
            ("+5\r\n", BodyError::ChunkSize),
            ("-5\r\n", BodyError::ChunkSize),
            (" 5\r\n", BodyError::ChunkSize),
            ("5 \r\n", BodyError::ChunkSize),
            ("5 x\r\n", BodyError::ChunkSize),
            ("0x5\r\n", BodyError::ChunkSize),
            ("11111111111111111\r\n", BodyError::ChunkSize),
            ("5;a\n", BodyError::BareControl),
            ("5\n", BodyError::BareControl),
            ("5;a\rb\r\n", BodyError::BareControl),
            ("5;a\x01\r\n", BodyError::ChunkExtension),
            ("5\x0c;a\r\n", BodyError::ChunkExtension),
            ("5\x0c\r\n", BodyError::ChunkExtension),
            ("5\r\nhello!", BodyError::ChunkEnd),
            ("5\r\nhello\n", BodyError::ChunkEnd),
            ("0\r\nA: b\n\r\n", BodyError::BareControl),
            ("0\r\nno colon\r\n", BodyError::Trailer),
            ("0\r\nA : b\r\n", BodyError::Trailer),
            ("0\r\n folded: b\r\n", BodyError::Trailer),
            ("0\r\nA:\x0cb\r\n", BodyError::Trailer),
            ("0\r\nA: b\x0c\r\n", BodyError::Trailer),
            ("0\r\nContent-Length: 5\r\n", BodyError::Trailer),
            ("0\r\ntransfer-encoding: chunked\r\n", BodyError::Trailer),
            ("0\r\nHost: h\r\n", BodyError::Trailer),
        ] {
            assert_eq!(chunked(input), Err(error), "{input:?}");
        }
        assert!(chunked("ffffffffffffffff\r\n").is_ok(), "the largest size that 64 bits hold");
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        let extension = |bytes: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(bytes - 2));
        assert!(chunked(&extension(CHUNK_LINE_BYTES_MAX)).unwrap().2);
        assert_eq!(chunked(&extension(CHUNK_LINE_BYTES_MAX + 1)), Err(BodyError::ChunkExtension));
        let endless = format!("1;{}", "e".repeat(CHUNK_LINE_BYTES_MAX + 9));
        assert_eq!(chunked(&endless), Err(BodyError::ChunkExtension));

        let trailer = |bytes: usize| format!("0\r\nA: {}\r\n\r\n", "b".repeat(bytes - 5));
        assert!(chunked(&trailer(TRAILER_BYTES_MAX)).unwrap().2);
        assert_eq!(chunked(&trailer(TRAILER_BYTES_MAX + 1)), Err(BodyError::Trailer));
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
        assert_eq!(chunked(&many), Err(BodyError::Trailer));
    }

    proptest! {
        #[test]
        fn what_was_chunked_comes_back(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..9), piece in 1usize..50) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            let (content, rest, ended) = decode_all(BodyFraming::Chunked, &input, piece).unwrap();
            prop_assert_eq!(content, chunks.concat());
            prop_assert!(rest.is_empty() && ended);
        }

        #[test]
        fn no_input_panics(input in "[0-9a-f;: \r\n\tA-Z]{0,80}", piece in 1usize..80) {
            let _ = decode_all(BodyFraming::Chunked, input.as_bytes(), piece);
        }
    }
}
