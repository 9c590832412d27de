//! Finds the end of a body that comes in chunks (RFC 9112, section 7.1), without keeping any of it.

/// A longer size line or trailer is refused.
const LINE_BYTES_MAX: usize = 4096;

/// Where in the body the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    SizeLine,
    Data {
        remaining_bytes: u64,
    },
    /// The line end behind the data of a chunk.
    DataEnd,
    TrailerLine,
    Ended,
}

/// Reads the framing of one body, piece by piece.
#[derive(Debug)]
pub(crate) struct Chunks {
    place: Place,
    line: Vec<u8>,
}

impl Chunks {
    /// At the start of a body.
    pub(crate) fn new() -> Self {
        Self { place: Place::SizeLine, line: Vec::new() }
    }

    /// Whether the whole body has been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.place == Place::Ended
    }

    /// Reads the next bytes and shows those that are data. Fails with the reason, also for bytes behind the end.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        show: &mut (impl FnMut(&[u8]) + Send),
    ) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            match self.place {
                Place::Ended => return Err("there are bytes after the end of the response"),
                Place::Data { remaining_bytes } => {
                    let here = usize::try_from(remaining_bytes).unwrap_or(usize::MAX).min(bytes.len());
                    show(&bytes[..here]);
                    bytes = &bytes[here..];
                    let remaining_bytes = remaining_bytes - here as u64;
                    self.place =
                        if remaining_bytes == 0 { Place::DataEnd } else { Place::Data { remaining_bytes } };
                }
                Place::SizeLine | Place::DataEnd | Place::TrailerLine => {
                    let line_feed = bytes.iter().position(|byte| *byte == b'\n');
                    let end = line_feed.map_or(bytes.len(), |position| position + 1);
                    self.line.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end..];
                    if self.line.len() > LINE_BYTES_MAX {
                        return Err("a line between chunks is too long");
                    }
                    if line_feed.is_some() {
                        self.end_line()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), &'static str> {
        let line = self.line.strip_suffix(b"\r\n").ok_or("a line between chunks does not end in CR LF")?;
        self.place = match self.place {
            Place::SizeLine => match parse_size(line).ok_or("the size of a chunk is not a number")? {
                0 => Place::TrailerLine,
                remaining_bytes => Place::Data { remaining_bytes },
            },
            Place::DataEnd if line.is_empty() => Place::SizeLine,
            Place::DataEnd => return Err("a chunk is longer than its size"),
            _ if line.is_empty() => Place::Ended,
            place => place,
        };
        self.line.clear();
        Ok(())
    }
}

fn parse_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8], piece_bytes: usize) -> Result<(Vec<u8>, bool), &'static str> {
        let (mut chunks, mut data) = (Chunks::new(), Vec::new());
        for piece in body.chunks(piece_bytes) {
            chunks.read(piece, &mut |bytes: &[u8]| data.extend_from_slice(bytes))?;
        }
        Ok((data, chunks.has_ended()))
    }

    #[test]
    fn chunks_are_joined_wherever_they_are_cut() {
        let body = b"5\r\nhello\r\nA;x=y\r\n, 123world\r\n0\r\nTrailer: x\r\n\r\n";
        for piece_bytes in 1..=body.len() {
            assert_eq!(read(body, piece_bytes), Ok((b"hello, 123world".to_vec(), true)));
        }
        assert_eq!(read(&body[..body.len() - 1], 7).map(|(_, ended)| ended), Ok(false));
    }

    #[test]
    fn what_is_not_clean_is_refused() {
        for body in ["5\nhello", "x\r\n", "\r\n", "1\r\nab\r\n", "0\r\n\r\nmore"] {
            assert!(read(body.as_bytes(), 100).is_err(), "{body:?}");
        }
    }
}
