//! Entries of an archive as they are sent: regular files, whose names are keys.

use super::BLOCK_BYTES;
use super::header::{
    self, CHECKSUM, GROUP, Header, KIND, MAGIC, MODE, MODIFIED, NAME, OWNER, PREFIX, SIZE, USTAR,
};

/// How long the end of an archive is.
pub(crate) const END_BYTES: u64 = 2 * BLOCK_BYTES as u64;
/// What every file is: readable by all, written by its owner, who is whoever unpacks it.
const FILE_MODE: u64 = 0o644;
/// The name of what is about the next entry, for readers that do not know of such.
const RECORDS_NAME: &str = "././@PaxHeader";
/// The largest number of 11 octal digits.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// Appends what stands before the content of a file.
pub(crate) fn append_header(archive: &mut Vec<u8>, name: &str, size_bytes: u64, modified_seconds: i64) {
    let records = records_of(name, size_bytes);
    let modified = u64::try_from(modified_seconds).unwrap_or(0).min(OCTAL_MAX);
    if !records.is_empty() {
        append_block(archive, ("", RECORDS_NAME), b'x', (records.len() as u64, modified));
        archive.extend_from_slice(records.as_bytes());
        append_padding(archive, records.len() as u64);
    }
    // Where a record says it, this is for those who do not read records.
    let size = if size_bytes > OCTAL_MAX { 0 } else { size_bytes };
    append_block(archive, split(name).unwrap_or(("", cut(name))), b'0', (size, modified));
}

/// Appends what stands behind a content of so many bytes.
pub(crate) fn append_padding(archive: &mut Vec<u8>, size_bytes: u64) {
    archive.resize(archive.len() + padding_bytes(size_bytes), 0);
}

/// Appends the end of the archive.
pub(crate) fn append_end(archive: &mut Vec<u8>) {
    archive.resize(archive.len() + 2 * BLOCK_BYTES, 0);
}

/// How long a file is in an archive, with all that stands around its content.
pub(crate) fn entry_bytes(name: &str, size_bytes: u64) -> u64 {
    let padded = |bytes: u64| bytes + padding_bytes(bytes) as u64;
    let records = match records_of(name, size_bytes).len() as u64 {
        0 => 0,
        bytes => BLOCK_BYTES as u64 + padded(bytes),
    };
    records + BLOCK_BYTES as u64 + padded(size_bytes)
}

fn padding_bytes(size_bytes: u64) -> usize {
    // Less than a block, so that it is a usize anywhere.
    let over = (size_bytes % BLOCK_BYTES as u64) as usize;
    (BLOCK_BYTES - over) % BLOCK_BYTES
}

/// What of name and size a header has no room for.
fn records_of(name: &str, size_bytes: u64) -> String {
    let mut records = String::new();
    if split(name).is_none() {
        records.push_str(&record("path", name));
    }
    if size_bytes > OCTAL_MAX {
        records.push_str(&record("size", &size_bytes.to_string()));
    }
    records
}

/// `<length> <keyword>=<value>\n`. The length counts its own digits.
fn record(keyword: &str, value: &str) -> String {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {keyword}={value}\n")
}

/// A name as prefix and name, with a slash between that neither has, if they fit.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME.len() {
        return Some(("", name));
    }
    let slashes = name.match_indices('/').map(|(at, _)| at);
    let mut fitting =
        slashes.filter(|at| (1..=PREFIX.len()).contains(at) && name.len() - at - 1 <= NAME.len());
    fitting.next().map(|at| (&name[..at], &name[at + 1..]))
}

/// As much of a name as fits.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME.len())]
}

fn append_block(archive: &mut Vec<u8>, (prefix, name): (&str, &str), kind: u8, (size, modified): (u64, u64)) {
    let mut header: Header = [0; BLOCK_BYTES];
    header[NAME][..name.len()].copy_from_slice(name.as_bytes());
    header[PREFIX][..prefix.len()].copy_from_slice(prefix.as_bytes());
    write_octal(&mut header[MODE], FILE_MODE);
    write_octal(&mut header[OWNER], 0);
    write_octal(&mut header[GROUP], 0);
    write_octal(&mut header[SIZE], size);
    write_octal(&mut header[MODIFIED], modified);
    header[KIND] = kind;
    header[MAGIC].copy_from_slice(USTAR);
    let sum = header::checksum(&header);
    // Six digits, a NUL and a space, as it has been since the first tar.
    write_octal(&mut header[CHECKSUM.start..CHECKSUM.end - 1], sum);
    header[CHECKSUM.end - 1] = b' ';
    archive.extend_from_slice(&header);
}

/// Digits to the last but one byte of a field, and a NUL.
fn write_octal(field: &mut [u8], mut number: u64) {
    let Some((_, digits)) = field.split_last_mut() else { return };
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 8) as u8;
        number /= 8;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header::{MAP_GOES_ON, MAP_GOES_ON_AGAIN};
    use super::super::reader::EXTENSION_BYTES_MAX;
    use super::super::{ArchiveError, Entry, EntryKind, Reader, Step};
    use super::*;

    /// An archive of these files.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files {
            let before = bytes.len() as u64;
            append_header(&mut bytes, name, content.len() as u64, 1_700_000_000);
            bytes.extend_from_slice(content);
            append_padding(&mut bytes, content.len() as u64);
            assert_eq!(bytes.len() as u64 - before, entry_bytes(name, content.len() as u64), "{name}");
        }
        append_end(&mut bytes);
        bytes
    }

    /// Everything in an archive that comes in pieces of `piece` bytes.
    fn read(archive: &[u8], piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
        let (mut reader, mut input, mut entries) =
            (Reader::default(), Vec::new(), Vec::<(Entry, Vec<u8>)>::new());
        for part in archive.chunks(piece) {
            input.extend_from_slice(part);
            loop {
                if let Some((entry, content)) = entries.last_mut()
                    && entry.kind == EntryKind::File
                {
                    let count = input.len().min(usize::try_from(reader.content_left()).unwrap_or(usize::MAX));
                    content.extend(input.drain(..count));
                    reader.take_content(count);
                }
                let (used, step) = reader.read(&input)?;
                input.drain(..used);
                match step {
                    Step::Entry(entry) => entries.push((entry, Vec::new())),
                    Step::More => break,
                }
            }
        }
        reader.finish()?;
        assert_eq!(reader.offset(), archive.len() as u64);
        Ok(entries)
    }

    fn files(archive: &[u8]) -> Vec<(String, EntryKind, Vec<u8>)> {
        let named = |(entry, content): (Entry, Vec<u8>)| {
            (String::from_utf8(entry.name).unwrap(), entry.kind, content)
        };
        read(archive, usize::MAX).unwrap().into_iter().map(named).collect()
    }

    /// A block of another writer's.
    fn block(name: &str, kind: u8, size: u64, change: impl FnOnce(&mut Header)) -> Vec<u8> {
        let mut bytes = Vec::new();
        append_block(&mut bytes, ("", name), kind, (size, 0));
        let mut header: Header = bytes.try_into().unwrap();
        change(&mut header);
        let sum = header::checksum(&header);
        write_octal(&mut header[CHECKSUM.start..CHECKSUM.end - 1], sum);
        header.to_vec()
    }

    fn recorded(text: &str) -> String {
        let (keyword, value) = text.split_once('=').unwrap();
        record(keyword, value)
    }

    fn padded(content: &[u8]) -> Vec<u8> {
        let mut bytes = content.to_vec();
        append_padding(&mut bytes, content.len() as u64);
        bytes
    }

    fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = parts.concat();
        append_end(&mut bytes);
        bytes
    }

    #[test]
    fn names_are_where_there_is_room_for_them() {
        let (hundred, long) = ("n".repeat(100), "n".repeat(101));
        let (deep, deeper) =
            (format!("{}/{hundred}", "d".repeat(155)), format!("{}/{hundred}", "d".repeat(156)));
        for (name, blocks) in [(&hundred, 1), (&long, 3), (&deep, 1), (&deeper, 3), (&"ä".repeat(512), 5)] {
            assert_eq!(entry_bytes(name, 0), blocks * 512, "{name}");
            assert_eq!(files(&archive(&[(name, b"x")])), [(name.clone(), EntryKind::File, b"x".to_vec())]);
        }
    }

    #[test]
    fn sizes_past_eight_gibibytes_stand_in_a_record() {
        assert_eq!(entry_bytes("a", OCTAL_MAX), 512 + OCTAL_MAX + 1);
        assert_eq!(entry_bytes("a", OCTAL_MAX + 1), 3 * 512 + OCTAL_MAX + 1);
        for size in [OCTAL_MAX, OCTAL_MAX + 1, u64::MAX / 2] {
            let mut header = Vec::new();
            append_header(&mut header, "a", size, 0);
            let (_, step) = Reader::default().read(&header).unwrap();
            let (kind, name) = (EntryKind::File, b"a".to_vec());
            let expected = Entry { kind, name, size_bytes: size, own_records: Vec::new() };
            assert_eq!(step, Step::Entry(expected));
        }
    }

    #[test]
    fn what_other_writers_write_is_understood() {
        let large = |header: &mut Header| {
            header[SIZE].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        };
        let gnu = |header: &mut Header| {
            header[MAGIC].copy_from_slice(b"ustar  \0");
            header[PREFIX][0] = b'9';
        };
        let old = |header: &mut Header| header[MAGIC].fill(0);
        let long = "l".repeat(600);
        let sparse = "22 GNU.sparse.major=1\n29 GNU.sparse.name=real-name\n14 path=other\n";
        assert_eq!(
            sparse,
            ["GNU.sparse.major=1", "GNU.sparse.name=real-name", "path=other"].map(recorded).concat()
        );
        let bytes = ended(&[
            block("base256", b'0', 0, large),
            padded(b"abc"),
            block("gnu", b'0', 0, gnu),
            block("old", 0, 1, old),
            padded(b"o"),
            block("old/", 0, 0, old),
            block("directory/", b'5', 0, |_| ()),
            block("link", b'2', 0, |_| ()),
            block("././@LongLink", b'L', 601, gnu),
            padded(format!("{long}\0").as_bytes()),
            block("cut", b'0', 2, gnu),
            padded(b"ll"),
            block("g", b'g', 13, |_| ()),
            padded(b"13 comment=x\n"),
            block("x", b'x', 19, |_| ()),
            padded(b"9 path=p\n10 size=4\n"),
            block("short", b'0', 0, |_| ()),
            padded(b"size"),
            block("sparse", b'S', 3, |header| header[MAP_GOES_ON] = 1),
            block("map", 0, 0, |header| header[MAP_GOES_ON_AGAIN] = 1),
            block("map", 0, 0, |_| ()),
            padded(b"abc"),
            block("x", b'x', sparse.len() as u64, |_| ()),
            padded(sparse.as_bytes()),
            block("pax-sparse", b'0', 3, |_| ()),
            padded(b"abc"),
            block("last", b'0', 0, |_| ()),
        ]);
        let file = |name: &str, content: &[u8]| (name.to_owned(), EntryKind::File, content.to_vec());
        let other = |name: &str, kind| (name.to_owned(), kind, Vec::new());
        let expected = [
            file("base256", b"abc"),
            file("gnu", b""),
            file("old", b"o"),
            other("old/", EntryKind::Directory),
            other("directory/", EntryKind::Directory),
            other("link", EntryKind::Other("a symbolic link")),
            file(&long, b"ll"),
            file("p", b"size"),
            other("sparse", EntryKind::Other("a sparse file")),
            other("real-name", EntryKind::Other("a sparse file")),
            file("last", b""),
        ];
        assert_eq!(files(&bytes), expected);
        for piece in [1, 7, 511, 512, 513] {
            assert_eq!(read(&bytes, piece).unwrap().len(), expected.len());
        }
    }

    #[test]
    fn a_broken_archive_is_read_up_to_where_it_breaks() {
        let whole = archive(&[("a", b"one"), ("b", b"")]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length], usize::MAX), Err(ArchiveError::CutOff), "{length}");
        }
        let mut flipped = whole.clone();
        flipped[1024] = b'c';
        let records =
            |text: &str| ended(&[block("x", b'x', text.len() as u64, |_| ()), padded(text.as_bytes())]);
        let global =
            |text: &str| ended(&[block("g", b'g', text.len() as u64, |_| ()), padded(text.as_bytes())]);
        for (bytes, error) in [
            // As `tar -z` and its like begin, however little comes of it.
            (b"\x1f\x8b\x08".to_vec(), ArchiveError::Compressed),
            ([&b"\x1f\x8b\x08"[..], &[7; 2000]].concat(), ArchiveError::Compressed),
            (b"\x28\xb5\x2f\xfd\x04".to_vec(), ArchiveError::Compressed),
            (b"\xfd7zXZ\0\0".to_vec(), ArchiveError::Compressed),
            ([whole.as_slice(), b"\x1f\x8b\x08"].concat(), ArchiveError::Trailing),
            (flipped, ArchiveError::Checksum),
            (block("a", b'0', 0, |header| header[SIZE][3] = b'9'), ArchiveError::Number),
            (block("a", b'0', 0, |header| header[SIZE].fill(0xff)), ArchiveError::Number),
            (
                block("a", b'0', 0, |header| {
                    header[SIZE].copy_from_slice(&[0x80, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
                }),
                ArchiveError::Number,
            ),
            (block("a", b'1', 1, |_| ()), ArchiveError::StrayContent),
            (block("a", b'5', 1, |_| ()), ArchiveError::StrayContent),
            (block("a", b'x', EXTENSION_BYTES_MAX + 1, |_| ()), ArchiveError::ExtensionTooLong),
            (records("9 path=ab"), ArchiveError::Records),
            (records("99 path=a\n"), ArchiveError::Records),
            (records("+9 path=a\n"), ArchiveError::Records),
            (records(" path=a\n"), ArchiveError::Records),
            (records("9 path a\n"), ArchiveError::Records),
            (records("10 size=-1\n"), ArchiveError::Records),
            (records("1 "), ArchiveError::Records),
            (global("9 path=a\n"), ArchiveError::GlobalRecords),
            (global("9 size=1\n"), ArchiveError::GlobalRecords),
            (global(&recorded("JUSTSTORAGE.if-match=*")), ArchiveError::GlobalRecords),
            ([whole.clone(), vec![0; 9000], vec![1]].concat(), ArchiveError::Trailing),
            ([whole[..whole.len() - 512].to_vec(), whole.clone()].concat(), ArchiveError::LoneZeroBlock),
        ] {
            assert_eq!(read(&bytes, usize::MAX).map(|entries| entries.len()), Err(error));
        }
        assert_eq!(read(&[whole, vec![0; 9000]].concat(), 4096).unwrap().len(), 2, "archives are padded");
    }

    #[test]
    fn records_of_this_store_s_own_are_about_the_next_entry_alone() {
        let records = |texts: &[&str]| {
            let records: String = texts.iter().map(|text| recorded(text)).collect();
            [block("x", b'x', records.len() as u64, |_| ()), padded(records.as_bytes())].concat()
        };
        let bytes = ended(&[
            records(&["comment=x", "JUSTSTORAGE.if-match=\"a\"", "OTHER.if-match=b", "JUSTSTORAGE.=="]),
            block("a", b'0', 0, |_| ()),
            block("b", b'0', 0, |_| ()),
            records(&["JUSTSTORAGE.x=gone"]),
            records(&["JUSTSTORAGE.y=", "path=c"]),
            block("short", b'0', 0, |_| ()),
        ]);
        let entries = read(&bytes, usize::MAX).unwrap();
        let own: Vec<_> = entries.iter().map(|(entry, _)| (&entry.name[..], &entry.own_records)).collect();
        let record = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(
            own,
            [
                (&b"a"[..], &vec![record("if-match", "\"a\""), record("", "=")]),
                (b"b", &vec![]),
                (b"c", &vec![record("y", "")]),
            ]
        );
    }

    #[test]
    fn records_may_be_exactly_as_long_as_they_may_be() {
        let records = record("comment", &"c".repeat(usize::try_from(EXTENSION_BYTES_MAX).unwrap() - 15));
        assert_eq!(records.len() as u64, EXTENSION_BYTES_MAX);
        let bytes = ended(&[
            block("x", b'x', EXTENSION_BYTES_MAX, |_| ()),
            records.into_bytes(),
            block("a", b'0', 0, |_| ()),
        ]);
        assert_eq!(files(&bytes).len(), 1);
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back(
            files in proptest::collection::vec(("[a-zä/]{1,300}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6),
            piece in 1usize..3000,
        ) {
            let named: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
            let read = read(&archive(&named), piece).unwrap();
            prop_assert_eq!(read.len(), files.len());
            for ((entry, content), (name, expected)) in read.into_iter().zip(&files) {
                prop_assert_eq!((&entry.name[..], entry.kind), (name.as_bytes(), EntryKind::File));
                prop_assert_eq!(&content, expected);
            }
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000), piece in 1usize..3000) {
            let _ = read(&bytes, piece);
        }

        #[test]
        fn no_change_of_an_archive_panics(
            changes in proptest::collection::vec((0usize..4096, any::<u8>()), 0..8),
            kind in proptest::sample::select(b"0123457xgLKSVMD\0".to_vec()),
            fix in any::<bool>(),
        ) {
            let mut bytes = archive(&[(&"n".repeat(300), &[7; 700]), ("b", b"b")]);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes[KIND] = kind;
            if fix {
                // The first header, so that what is in it is looked at.
                let mut header: Header = bytes[..512].try_into().unwrap();
                let sum = header::checksum(&header);
                write_octal(&mut header[CHECKSUM.start..CHECKSUM.end - 1], sum);
                header[CHECKSUM.end - 1] = b' ';
                bytes[..512].copy_from_slice(&header);
            }
            let _ = read(&bytes, usize::MAX);
        }
    }
}
