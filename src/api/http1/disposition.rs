//! `Content-Disposition: attachment` (RFC 6266): the name under which a client is asked to keep a download.

use std::io::Write as _;

/// The longest name that a caller may choose, in bytes of UTF-8: what file systems take (NAME_MAX).
pub const FILE_NAME_BYTES_MAX: usize = 255;

/// A name that is none of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is the name of a file: at most 255 bytes, without slashes, backslashes and control characters, not . or .."
)]
pub struct InvalidFileName;

/// Looks at a name that a caller has chosen. What could lead out of the directory where it is kept is refused, though
/// every recipient has to look for that itself (RFC 6266 §4.3).
///
/// # Errors
/// [`InvalidFileName`]
pub fn check_file_name(name: &str) -> Result<(), InvalidFileName> {
    let is_odd = |character: char| matches!(character, '/' | '\\') || character.is_control();
    let is_name = name.len() <= FILE_NAME_BYTES_MAX && !matches!(name, "." | "..") && !name.contains(is_odd);
    if is_name { Ok(()) } else { Err(InvalidFileName) }
}

/// Appends the value of the field, with the name in both of its forms: as it is (RFC 8187), and for clients that do not
/// know that form in ASCII, where `_` stands for whatever one of them could take for something else (RFC 6266
/// appendix D). So nothing in a name can end the value, or the line.
pub fn append_attachment(name: &str, value: &mut Vec<u8>) {
    value.extend_from_slice(b"attachment; filename=\"");
    value.extend(name.chars().map(|character| match character {
        '"' | '%' | '/' | '\\' => b'_',
        // Visible, or a space.
        ' '..='~' => character as u8,
        _ => b'_',
    }));
    value.extend_from_slice(b"\"; filename*=UTF-8''");
    for byte in name.bytes() {
        if is_attribute_byte(byte) {
            value.push(byte);
        } else {
            // Writing into a vector cannot fail.
            let _ = write!(value, "%{byte:02X}");
        }
    }
}

/// RFC 8187 §3.2.1: what needs no escape.
fn is_attribute_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::query::percent_decode;

    fn attachment(name: &str) -> String {
        let mut value = Vec::new();
        append_attachment(name, &mut value);
        String::from_utf8(value).unwrap()
    }

    #[test]
    fn a_name_is_given_in_both_forms() {
        for (name, plain, extended) in [
            ("model.bin", "model.bin", "model.bin"),
            ("two words", "two words", "two%20words"),
            ("naïve.bin", "na_ve.bin", "na%C3%AFve.bin"),
            ("€ rates", "_ rates", "%E2%82%AC%20rates"),
            ("a\"; filename=\"b", "a_; filename=_b", "a%22%3B%20filename%3D%22b"),
            ("100%41", "100_41", "100%2541"),
            ("a\\b/c", "a_b_c", "a%5Cb%2Fc"),
            ("'(*)'", "'(*)'", "%27%28%2A%29%27"),
            ("a\r\nb\u{7f}\0", "a__b__", "a%0D%0Ab%7F%00"),
        ] {
            let expected = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}");
            assert_eq!(attachment(name), expected, "{name:?}");
        }
    }

    #[test]
    fn names_of_files_are_taken_and_what_leads_elsewhere_is_not() {
        let (longest, longest_wide) = ("n".repeat(255), format!("n{}", "ä".repeat(127)));
        for name in ["a", "...", ".hidden", "a b", "日本", "a:b*?<>|\"%", &longest, &longest_wide] {
            assert_eq!(check_file_name(name), Ok(()), "{name}");
        }
        let (long, wide) = ("n".repeat(256), "ä".repeat(128));
        for name in [".", "..", "/", "a/b", "../a", "a\\b", "a\0", "a\r\nb", "\u{7f}", "\u{85}", &long, &wide]
        {
            assert_eq!(check_file_name(name), Err(InvalidFileName), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_name_holds_the_value_stays_one(name: String) {
            let value = attachment(&name);
            prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", value);
            let rest = value.strip_prefix("attachment; filename=\"").unwrap();
            let (plain, extended) = rest.split_once("\"; filename*=UTF-8''").unwrap();
            prop_assert!(!plain.contains(['"', '\\']));
            prop_assert_eq!(percent_decode(extended).unwrap(), name.as_str());
        }
    }
}
