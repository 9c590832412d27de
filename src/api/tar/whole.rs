//! Whole archives in memory, for the fuzz target of archives. Servers never hold one.

use super::{EntryKind, Reader, Step, append_end, append_header, append_padding};

/// The name of an entry, and its content if it is a file.
type NamedContent = (Vec<u8>, Option<Vec<u8>>);

/// Everything in an archive that comes in pieces of so many bytes. `None` if it is not one from its beginning to its end.
pub fn read_archive(archive: &[u8], piece_bytes: usize) -> Option<Vec<NamedContent>> {
    let (mut reader, mut used, mut come) = (Reader::default(), 0, 0);
    let mut entries: Vec<NamedContent> = Vec::new();
    loop {
        if let Some((_, Some(content))) = entries.last_mut() {
            let there = &archive[used..come];
            let left = usize::try_from(reader.content_left()).unwrap_or(usize::MAX);
            let part = &there[..there.len().min(left)];
            content.extend_from_slice(part);
            reader.take_content(part.len());
            used += part.len();
        }
        let (count, step) = reader.read(&archive[used..come]).ok()?;
        used += count;
        debug_assert_eq!(reader.offset(), used as u64);
        match step {
            Step::Entry(entry) => {
                let is_file = entry.kind == EntryKind::File;
                entries.push((entry.name, is_file.then(Vec::new)));
            }
            Step::More if come == archive.len() => {
                reader.finish().ok()?;
                return Some(entries);
            }
            Step::More => come = archive.len().min(come.saturating_add(piece_bytes.max(1))),
        }
    }
}

/// An archive of these files, by their names.
pub fn write_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        append_header(&mut archive, name, content.len() as u64, 0);
        archive.extend_from_slice(content);
        append_padding(&mut archive, content.len() as u64);
    }
    append_end(&mut archive);
    archive
}
