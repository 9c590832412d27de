//! Tar archives. The first byte says what the rest is, the second one in what pieces it comes, which are no whole blocks.

use just_storage::api::{read_archive, write_archive};

const BLOCK_BYTES: usize = 512;
/// How many files are made: each takes a block, however little is in it.
const FILES_MAX: usize = 8;
/// Where the sum of a header stands.
const CHECKSUM: std::ops::Range<usize> = 148..156;

pub fn check(data: &[u8]) {
    let [kind, piece, bytes @ ..] = data else { return };
    let piece = usize::from(*piece) * 3 + 61;
    match kind % 3 {
        0 => raw(bytes, piece),
        1 => with_sums(bytes, piece),
        _ => made(bytes, piece),
    }
}

/// Whatever may come.
fn raw(bytes: &[u8], piece: usize) {
    let whole = read_archive(bytes, usize::MAX);
    assert_eq!(whole, read_archive(bytes, piece), "how the bytes come changes nothing");
    let Some(entries) = whole else { return };
    let contents: usize = entries.iter().filter_map(|(_, content)| content.as_ref()).map(Vec::len).sum();
    assert!(contents + 2 * BLOCK_BYTES <= bytes.len());
    // What was read can be written, and reads the same.
    let named = |(name, content): &(Vec<u8>, Option<Vec<u8>>)| {
        let name = String::from_utf8(name.clone()).ok().filter(|name| !name.contains('\0'))?;
        Some((name, content.clone()?))
    };
    let files: Vec<_> = entries.iter().filter_map(named).collect();
    reads_as_written(&files, piece);
}

/// Blocks that have the sums that they would need if they were headers: what else is in them is looked at then.
fn with_sums(bytes: &[u8], piece: usize) {
    let mut archive = bytes.to_vec();
    archive.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    for block in archive.chunks_exact_mut(BLOCK_BYTES).filter(|block| block.iter().any(|byte| *byte != 0)) {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM.start..CHECKSUM.end - 1].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    archive.resize(archive.len() + 2 * BLOCK_BYTES, 0);
    raw(&archive, piece);
}

/// Files with these names and contents, a zero byte behind each; then one bit of the first header is another one.
fn made(bytes: &[u8], piece: usize) {
    let Some((bit, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let mut parts = bytes.split(|byte| *byte == 0).take(2 * FILES_MAX);
    let mut files = Vec::new();
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        files.push((String::from_utf8_lossy(name).into_owned(), content.to_vec()));
    }
    let mut archive = reads_as_written(&files, piece);
    let before = read_archive(&archive, usize::MAX);
    let bit = usize::from(u16::from_le_bytes(*bit)) % (BLOCK_BYTES * 8);
    archive[bit / 8] ^= 1 << (bit % 8);
    let after = read_archive(&archive, usize::MAX);
    assert!(after.is_none() || after == before, "bit {bit} of a header was changed, and nobody noticed");
}

fn reads_as_written(files: &[(String, Vec<u8>)], piece: usize) -> Vec<u8> {
    let named: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let archive = write_archive(&named);
    let expected: Vec<_> =
        files.iter().map(|(name, content)| (name.clone().into_bytes(), Some(content.clone()))).collect();
    assert_eq!(read_archive(&archive, piece), Some(expected));
    archive
}
