//! How keys are asked for together: what they begin with, and what divides the rest.

use smol_str::SmolStr;

use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::Key;

/// What keys begin with: UTF-8 of at most as many bytes as a key has, without control characters. The empty one is that
/// of every key. It need not be the beginning of any key that there can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeyPrefix(SmolStr);

impl KeyPrefix {
    /// Checks a prefix that is already percent-decoded.
    ///
    /// # Errors
    /// [`InvalidValue::KeyPrefix`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text.len() <= Key::BYTES_MAX && !text.chars().any(char::is_control) {
            true => Ok(Self(text.into())),
            false => Err(InvalidValue::KeyPrefix),
        }
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What `key`, which begins with this prefix, has in common with all others that go on like it up to the first
    /// delimiter behind the prefix, with that delimiter. `None` if there is none.
    pub fn common<'k>(&self, delimiter: Option<&Delimiter>, key: &'k str) -> Option<&'k str> {
        let (delimiter, rest) = (delimiter?.as_str(), key.get(self.0.len()..)?);
        let end = self.0.len() + rest.find(delimiter)? + delimiter.len();
        key.get(..end)
    }
}

/// What divides keys into levels, as `/` does: any text of 1 to 64 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delimiter(SmolStr);

impl Delimiter {
    /// The most bytes that a delimiter may have: it is looked for in every key that a listing comes to.
    pub const BYTES_MAX: usize = 64;

    /// Checks a delimiter that is already percent-decoded.
    ///
    /// # Errors
    /// [`InvalidValue::Delimiter`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match (1..=Self::BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
            true => Ok(Self(text.into())),
            false => Err(InvalidValue::Delimiter),
        }
    }

    /// The delimiter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_delimiters_are_as_long_as_they_may_be() {
        for text in ["", "/", "a//b", "..", "%_\\", "ä", "\u{10ffff}", &"k".repeat(1024)] {
            assert_eq!(KeyPrefix::parse(text).unwrap().as_str(), text);
        }
        for text in ["a\0", "\n", "a\u{85}", &"k".repeat(1025)] {
            assert_eq!(KeyPrefix::parse(text), Err(InvalidValue::KeyPrefix), "{text:?}");
        }
        for text in ["/", "ab", "\u{10ffff}", &"k".repeat(64)] {
            assert_eq!(Delimiter::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "\0", "/\n", &"k".repeat(65), &"ä".repeat(33)] {
            assert_eq!(Delimiter::parse(text), Err(InvalidValue::Delimiter), "{text:?}");
        }
    }

    #[test]
    fn keys_have_in_common_what_ends_with_the_first_delimiter_behind_the_prefix() {
        let slash = Delimiter::parse("/").unwrap();
        for (prefix, delimiter, key, common) in [
            ("", "/", "a/b/c", Some("a/")),
            ("a", "/", "a/b/c", Some("a/")),
            ("a/", "/", "a/b/c", Some("a/b/")),
            ("a/b/", "/", "a/b/c", None),
            ("a/b/c", "/", "a/b/c", None),
            ("", "b/", "a/b/c", Some("a/b/")),
            ("ä", "ö", "äöö", Some("äö")),
            ("", "aa", "aaaa", Some("aa")),
            ("a", "aa", "aaaa", Some("aaa")),
        ] {
            let (prefix, delimiter) =
                (KeyPrefix::parse(prefix).unwrap(), Delimiter::parse(delimiter).unwrap());
            assert_eq!(prefix.common(Some(&delimiter), key), common, "{prefix:?} {delimiter:?} {key}");
            assert_eq!(prefix.common(None, key), None);
        }
        assert_eq!(KeyPrefix::parse("longer").unwrap().common(Some(&slash), "a/b"), None);
    }
}
