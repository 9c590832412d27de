//! The caller's own words about an object.

use std::collections::BTreeMap;

use super::content_type::is_token;
use crate::domain::errors::InvalidValue;

/// String to string: lower-case token names, each once; values of visible ASCII and spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<Box<str>, Box<str>>);

impl Metadata {
    /// The most bytes of all names and values together.
    pub const BYTES_MAX: usize = 16 * 1024;

    /// Adds one entry.
    ///
    /// # Errors
    /// The rule that it breaks; the metadata is then as it was before.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), InvalidValue> {
        if !is_token(name) || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidValue::MetadataName);
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(InvalidValue::MetadataValue);
        }
        if self.0.contains_key(name) {
            return Err(InvalidValue::MetadataRepeated);
        }
        if self.byte_length() + name.len() + value.len() > Self::BYTES_MAX {
            return Err(InvalidValue::MetadataTooLarge);
        }
        self.0.insert(name.into(), value.into());
        Ok(())
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte_length(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_sorted() {
        let mut metadata = Metadata::default();
        metadata.insert("framework", "torch 2.4").unwrap();
        metadata.insert("arch", "").unwrap();
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("arch", ""), ("framework", "torch 2.4")]);
    }

    #[test]
    fn each_rule_has_its_error() {
        let mut metadata = Metadata::default();
        assert_eq!(metadata.insert("", "x"), Err(InvalidValue::MetadataName));
        assert_eq!(metadata.insert("Upper", "x"), Err(InvalidValue::MetadataName));
        assert_eq!(metadata.insert("a:b", "x"), Err(InvalidValue::MetadataName));
        assert_eq!(metadata.insert("a", "tab\t"), Err(InvalidValue::MetadataValue));
        assert_eq!(metadata.insert("a", "\u{e9}"), Err(InvalidValue::MetadataValue));
        metadata.insert("a", "x").unwrap();
        assert_eq!(metadata.insert("a", "y"), Err(InvalidValue::MetadataRepeated));
    }

    #[test]
    fn sixteen_kibibytes_fit_and_one_byte_more_does_not() {
        let mut metadata = Metadata::default();
        metadata.insert("a", &"x".repeat(Metadata::BYTES_MAX - 1)).unwrap();
        assert_eq!(metadata.insert("b", ""), Err(InvalidValue::MetadataTooLarge));
    }
}
