//! A caller's own name for an object inside a namespace and tenant.

use std::fmt;

use smol_str::SmolStr;

use crate::domain::errors::InvalidValue;

/// UTF-8 of 1 to 1024 bytes; may contain `/`. No segment is empty, `.` or `..`, and no character is a control
/// character, so that a key is safe to show and can be mirrored into any file system. Never used as a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(SmolStr);

impl Key {
    /// The most bytes that a key may have.
    pub const BYTES_MAX: usize = 1024;

    /// Checks a key that is already percent-decoded.
    ///
    /// # Errors
    /// [`InvalidValue::Key`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let segments_are_plain = text.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if text.len() > Self::BYTES_MAX || !segments_are_plain || text.chars().any(char::is_control) {
            return Err(InvalidValue::Key);
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the last `/`: a file of this key would be called so.
    pub fn last_segment(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, segment)| segment)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_key_is_called_as_its_end() {
        for (key, name) in [("a", "a"), ("a/b", "b"), ("a/b/c d", "c d")] {
            assert_eq!(Key::parse(key).unwrap().last_segment(), name);
        }
    }

    #[test]
    fn keys_of_people_are_taken() {
        for text in
            ["a", "llama/model.safetensors", "a b", "ä/ö", "...", "a/.hidden", "%2e%2e", &"k".repeat(1024)]
        {
            assert_eq!(Key::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn keys_that_could_mislead_are_refused() {
        for text in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            &"k".repeat(1025),
        ] {
            assert_eq!(Key::parse(text), Err(InvalidValue::Key), "{text:?}");
        }
    }
}
