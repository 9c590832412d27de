//! From the bytes of an archive to its entries.

use thiserror::Error;

use super::BLOCK_BYTES;
use super::header::{
    self, CHECKSUM, Header, KIND, MAGIC, MAP_GOES_ON, MAP_GOES_ON_AGAIN, NAME, PREFIX, SIZE, USTAR,
};

/// The most bytes of pax records, or of a GNU long name, before one entry.
pub(crate) const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// What begins a file of gzip, zstd or xz. No name of a file that can be a key begins so.
const COMPRESSED: [&[u8]; 3] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"];

/// What the keywords of records begin with that this store has a meaning for.
pub(crate) const OWN_RECORDS: &str = "JUSTSTORAGE.";

/// Why the rest of an archive cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ArchiveError {
    #[error("the archive is compressed; it is taken as tar writes it without compressing it")]
    Compressed,
    #[error("a header does not have the sum that it says")]
    Checksum,
    #[error("a header has a number that is none")]
    Number,
    #[error("a link, directory or device says that it has content")]
    StrayContent,
    #[error("there are more than {EXTENSION_BYTES_MAX} bytes of records or name before an entry")]
    ExtensionTooLong,
    #[error("pax records are malformed")]
    Records,
    #[error("global pax records name a path or a size, or are this store's own")]
    GlobalRecords,
    #[error("one block of zeros is followed by something else")]
    LoneZeroBlock,
    #[error("there is something behind the end of the archive")]
    Trailing,
    #[error("the archive ends without its two blocks of zeros")]
    CutOff,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    /// Something else, by its name.
    Other(&'static str),
}

/// What begins an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) name: Vec<u8>,
    /// How much content follows.
    pub(crate) size_bytes: u64,
    /// The records about it that are this store's own, by what stands behind [`OWN_RECORDS`].
    pub(crate) own_records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What came of a look at the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// There has to be more of it.
    More,
    /// An entry begins. What is not [taken](Reader::take_content) of its content is passed over.
    Entry(Entry),
}

/// Reads one archive.
#[derive(Debug)]
pub(crate) struct Reader {
    state: State,
    /// Of the content of the entry, or of whatever is before the next header.
    content_left: u64,
    padding_left: u64,
    extensions: Extensions,
    /// How much has been used of the archive.
    offset: u64,
}

#[derive(Debug)]
enum State {
    Header,
    Extension(ExtensionKind, Vec<u8>),
    /// The rest of the map of an old sparse file stands before the content.
    SparseMap,
    ZeroBlock,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtensionKind {
    Records,
    GlobalRecords,
    LongName,
    LongLink,
}

/// What has been said ahead of the next entry.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    is_sparse: bool,
    own_records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Reader {
    fn default() -> Self {
        let extensions = Extensions::default();
        Self { state: State::Header, content_left: 0, padding_left: 0, extensions, offset: 0 }
    }
}

impl Reader {
    /// How far it has read: where the archive is broken, if it is.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on from the beginning of `input`: how much of it is used, and what came of it. [`Step::More`] also comes where
    /// all of it is used.
    ///
    /// # Errors
    /// [`ArchiveError`]; then nothing more can be read.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(usize, Step), ArchiveError> {
        let mut used = 0;
        loop {
            used += self.pass_over(&input[used..]);
            let rest = &input[used..];
            if rest.is_empty() || self.content_left > 0 || self.padding_left > 0 {
                return Ok((used, Step::More));
            }
            match &mut self.state {
                State::Extension(kind, bytes) => {
                    // It was passed over into its bytes, to the end.
                    let (kind, bytes) = (*kind, std::mem::take(bytes));
                    self.state = State::Header;
                    self.extensions.read(kind, &bytes)?;
                }
                State::End => {
                    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                    self.offset += zeros as u64;
                    used += zeros;
                    return if used == input.len() {
                        Ok((used, Step::More))
                    } else {
                        Err(ArchiveError::Trailing)
                    };
                }
                State::Header | State::ZeroBlock | State::SparseMap => {
                    if self.offset == 0 && COMPRESSED.iter().any(|start| rest.starts_with(start)) {
                        return Err(ArchiveError::Compressed);
                    }
                    let Some(block) = rest.first_chunk::<BLOCK_BYTES>() else {
                        return Ok((used, Step::More));
                    };
                    let entry = self.read_block(block)?;
                    self.offset += BLOCK_BYTES as u64;
                    used += BLOCK_BYTES;
                    if let Some(entry) = entry {
                        return Ok((used, Step::Entry(entry)));
                    }
                }
            }
        }
    }

    /// How much is left of the content of the entry that was read last.
    pub(crate) fn content_left(&self) -> u64 {
        match self.state {
            State::Extension(..) => 0,
            _ => self.content_left,
        }
    }

    /// Says that `count` bytes of the content have been taken out of the input.
    pub(crate) fn take_content(&mut self, count: usize) {
        self.content_left = self.content_left.saturating_sub(count as u64);
        self.offset += count as u64;
    }

    /// Says that there is no more input.
    ///
    /// # Errors
    /// [`ArchiveError::CutOff`], if there should be: also between two entries, since whoever is stopped while it writes an
    /// archive may stop there.
    pub(crate) fn finish(&self) -> Result<(), ArchiveError> {
        match self.state {
            State::End => Ok(()),
            _ => Err(ArchiveError::CutOff),
        }
    }

    /// Uses up what nobody asks for, and what belongs to an extension.
    fn pass_over(&mut self, input: &[u8]) -> usize {
        let content = at_most(self.content_left, input.len());
        if let State::Extension(_, bytes) = &mut self.state {
            bytes.extend_from_slice(&input[..content]);
        }
        self.content_left -= content as u64;
        let padding = match self.content_left {
            0 => at_most(self.padding_left, input.len() - content),
            _ => 0,
        };
        self.padding_left -= padding as u64;
        self.offset += (content + padding) as u64;
        content + padding
    }

    fn read_block(&mut self, block: &Header) -> Result<Option<Entry>, ArchiveError> {
        match self.state {
            State::ZeroBlock if *block == [0; BLOCK_BYTES] => self.state = State::End,
            State::ZeroBlock => return Err(ArchiveError::LoneZeroBlock),
            State::SparseMap => {
                if block[MAP_GOES_ON_AGAIN] == 0 {
                    return Ok(Some(self.begin_sparse()));
                }
            }
            _ if *block == [0; BLOCK_BYTES] => self.state = State::ZeroBlock,
            _ => return self.read_header(block),
        }
        Ok(None)
    }

    fn read_header(&mut self, header: &Header) -> Result<Option<Entry>, ArchiveError> {
        let sum = header::number(&header[CHECKSUM]).ok_or(ArchiveError::Number)?;
        if sum != header::checksum(header) {
            return Err(ArchiveError::Checksum);
        }
        let size_bytes = header::number(&header[SIZE]).ok_or(ArchiveError::Number)?;
        let extension = match header[KIND] {
            b'x' => Some(ExtensionKind::Records),
            b'g' => Some(ExtensionKind::GlobalRecords),
            b'L' => Some(ExtensionKind::LongName),
            b'K' => Some(ExtensionKind::LongLink),
            _ => None,
        };
        if let Some(kind) = extension {
            if size_bytes > EXTENSION_BYTES_MAX {
                return Err(ArchiveError::ExtensionTooLong);
            }
            self.expect_content(size_bytes);
            self.state = State::Extension(kind, Vec::new());
            return Ok(None);
        }
        let extensions = std::mem::take(&mut self.extensions);
        let size_bytes = extensions.size_bytes.unwrap_or(size_bytes);
        let name = extensions.name.unwrap_or_else(|| name_of(header));
        let kind = match header[KIND] {
            _ if extensions.is_sparse => EntryKind::Other("a sparse file"),
            // Before there was a kind for them.
            0 if name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File,
            b'5' => EntryKind::Directory,
            b'1' => EntryKind::Other("a hard link"),
            b'2' => EntryKind::Other("a symbolic link"),
            b'3' | b'4' => EntryKind::Other("a device"),
            b'6' => EntryKind::Other("a pipe"),
            b'S' => EntryKind::Other("a sparse file"),
            _ => EntryKind::Other("of a kind that is not known here"),
        };
        // Some readers pass such content over, and some take it for the next header.
        if size_bytes > 0 && matches!(header[KIND], b'1'..=b'6') {
            return Err(ArchiveError::StrayContent);
        }
        self.expect_content(size_bytes);
        if header[KIND] == b'S' && header[MAP_GOES_ON] != 0 {
            self.state = State::SparseMap;
            self.extensions.name = Some(name);
            self.extensions.size_bytes = Some(size_bytes);
            (self.content_left, self.padding_left) = (0, 0);
            return Ok(None);
        }
        Ok(Some(Entry { kind, name, size_bytes, own_records: extensions.own_records }))
    }

    fn begin_sparse(&mut self) -> Entry {
        let Extensions { name, size_bytes, .. } = std::mem::take(&mut self.extensions);
        let (name, size_bytes) = (name.unwrap_or_default(), size_bytes.unwrap_or(0));
        self.state = State::Header;
        self.expect_content(size_bytes);
        Entry { kind: EntryKind::Other("a sparse file"), name, size_bytes, own_records: Vec::new() }
    }

    fn expect_content(&mut self, size_bytes: u64) {
        self.content_left = size_bytes;
        self.padding_left = (BLOCK_BYTES as u64 - size_bytes % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
    }
}

impl Extensions {
    fn read(&mut self, kind: ExtensionKind, bytes: &[u8]) -> Result<(), ArchiveError> {
        match kind {
            ExtensionKind::LongLink => {}
            ExtensionKind::LongName => self.name = Some(header::text(bytes).to_vec()),
            ExtensionKind::Records => {
                // There is one block of records before an entry; of more, the last one is bounded as one is.
                self.own_records.clear();
                for record in Records(bytes) {
                    self.read_record(record?)?;
                }
            }
            ExtensionKind::GlobalRecords => {
                let mut global = Self::default();
                for record in Records(bytes) {
                    global.read_record(record?)?;
                }
                // They would be about every entry that follows, which nobody means.
                let is_about_path = global.name.is_some() || global.size_bytes.is_some() || global.is_sparse;
                if is_about_path || !global.own_records.is_empty() {
                    return Err(ArchiveError::GlobalRecords);
                }
            }
        }
        Ok(())
    }

    fn read_record(&mut self, (keyword, value): (&[u8], &[u8])) -> Result<(), ArchiveError> {
        match keyword {
            b"path" if !self.is_sparse => self.name = Some(value.to_vec()),
            b"size" => {
                let digits = std::str::from_utf8(value).ok();
                let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                let size = digits.and_then(|digits| digits.parse().ok()).ok_or(ArchiveError::Records)?;
                self.size_bytes = Some(size);
            }
            b"GNU.sparse.name" => (self.name, self.is_sparse) = (Some(value.to_vec()), true),
            _ if keyword.starts_with(b"GNU.sparse.") => self.is_sparse = true,
            _ => {
                if let Some(name) = keyword.strip_prefix(OWN_RECORDS.as_bytes()) {
                    self.own_records.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// `<length> <keyword>=<value>\n`, where the length is that of all of it.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(ArchiveError::Records))
    }
}

impl<'a> Records<'a> {
    fn take(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().position(|byte| *byte == b' ')?;
        let digits = std::str::from_utf8(&self.0[..space]).ok()?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let length: usize = digits.parse().ok().filter(|_| is_number)?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        self.0 = rest;
        Some((&record[..equals], &record[equals + 1..]))
    }
}

fn name_of(header: &Header) -> Vec<u8> {
    let (name, prefix) = (header::text(&header[NAME]), header::text(&header[PREFIX]));
    if prefix.is_empty() || &header[MAGIC] != USTAR {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn at_most(bytes: u64, there: usize) -> usize {
    usize::try_from(bytes).map_or(there, |bytes| bytes.min(there))
}
