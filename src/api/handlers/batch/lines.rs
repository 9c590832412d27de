//! The lines of a batch's answer. There are thousands of them, and most of what a serialiser does for each is to look for
//! what must be escaped in names that never change.

use super::super::super::http1::append_decimal;
use super::super::json::{self, append_plain};
use super::ResultDto;
use crate::domain::value_objects::ObjectId;

impl ResultDto<'_> {
    /// Appends its JSON form, as `Serialize` gives it, and a line break.
    pub(super) fn append_to(&self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(b"{\"index\":");
        append_decimal(lines, self.index as u64);
        append_text(lines, b",\"name\":", self.name);
        append_text(lines, b",\"key\":", self.key);
        append_number(lines, b",\"status\":", Some(u64::from(self.status)));
        if let Some(id) = self.id {
            append_plain(lines, b",\"id\":", id.write_to(&mut [0; ObjectId::TEXT_LENGTH]));
        }
        if let Some(content_hash) = self.content_hash {
            append_plain(lines, b",\"content_hash\":", content_hash.to_hex().as_str());
        }
        append_number(lines, b",\"size_bytes\":", self.size_bytes);
        append_text(lines, b",\"content_range\":", self.content_range.as_deref());
        append_number(lines, b",\"versions\":", self.versions.map(|versions| versions as u64));
        append_text(lines, b",\"code\":", self.code);
        append_text(lines, b",\"detail\":", self.detail);
        lines.extend_from_slice(b"}\n");
    }
}

fn append_number(lines: &mut Vec<u8>, name: &[u8], number: Option<u64>) {
    if let Some(number) = number {
        lines.extend_from_slice(name);
        append_decimal(lines, number);
    }
}

fn append_text(lines: &mut Vec<u8>, name: &[u8], text: Option<&str>) {
    if let Some(text) = text {
        json::append_text(lines, name, text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::value_objects::ContentHash;

    proptest! {
        #[test]
        fn a_line_is_what_its_result_serialises_to(
            (index, status, with_id) in any::<(usize, u16, bool)>(),
            texts in any::<(Option<String>, Option<String>, Option<String>, Option<String>)>(),
            (hash, size_bytes, versions) in any::<(Option<[u8; 32]>, Option<u64>, Option<usize>)>(),
            code in prop::option::of(prop::sample::select(vec!["not_found", "a\"b\\c\n"])),
        ) {
            let (name, key, content_range, detail) = texts;
            let result = ResultDto {
                index,
                name: name.as_deref(),
                key: key.as_deref(),
                status,
                id: with_id.then(ObjectId::generate),
                content_hash: hash.map(ContentHash::from_bytes),
                size_bytes,
                content_range,
                versions,
                code,
                detail: detail.as_deref(),
            };
            let mut line = b"before".to_vec();
            result.append_to(&mut line);
            let expected = format!("before{}\n", serde_json::to_string(&result).unwrap());
            prop_assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}
