//! The caller's own words about an object.

use std::collections::BTreeMap;

use super::content_type::is_token;
use crate::domain::errors::InvalidValue;

/// String to string: lower-case token names, each once; values of visible ASCII and spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    entries: BTreeMap<Box<str>, Box<str>>,
    /// Of all names and values. Counted along, since there can be thousands of them.
    byte_length: usize,
}

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
        if self.entries.contains_key(name) {
            return Err(InvalidValue::MetadataRepeated);
        }
        let byte_length = self.byte_length + name.len() + value.len();
        if byte_length > Self::BYTES_MAX {
            return Err(InvalidValue::MetadataTooLarge);
        }
        self.entries.insert(name.into(), value.into());
        self.byte_length = byte_length;
        Ok(())
    }

    /// These entries and others over them: a value is set, and where there is none, the name goes (RFC 7396). What holds
    /// for metadata holds for what comes out.
    ///
    /// # Errors
    /// The rule that an entry breaks.
    pub fn merged<'p>(
        &'p self,
        patch: impl IntoIterator<Item = (&'p str, Option<&'p str>)>,
    ) -> Result<Self, InvalidValue> {
        let mut entries: BTreeMap<_, _> = self.iter().collect();
        for (name, value) in patch {
            match value {
                Some(value) => entries.insert(name, value),
                None => entries.remove(name),
            };
        }
        let mut merged = Self::default();
        entries.into_iter().try_for_each(|(name, value)| merged.insert(name, value))?;
        Ok(merged)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
    fn a_patch_sets_and_removes_and_what_comes_out_keeps_the_rules() {
        let mut metadata = Metadata::default();
        metadata.insert("kept", "1").unwrap();
        metadata.insert("gone", "2").unwrap();
        metadata.insert("set", "3").unwrap();
        let merged =
            metadata.merged([("gone", None), ("Never there", None), ("set", Some("")), ("a", Some("b"))]);
        assert_eq!(merged.unwrap().iter().collect::<Vec<_>>(), [("a", "b"), ("kept", "1"), ("set", "")]);
        assert_eq!(metadata.merged([("A", Some("b"))]), Err(InvalidValue::MetadataName));
        assert_eq!(metadata.merged([("a", Some("\n"))]), Err(InvalidValue::MetadataValue));
        let most = "x".repeat(Metadata::BYTES_MAX - "kept1set".len());
        let full = metadata.merged([("gone", None), ("set", Some(most.as_str()))]).unwrap();
        assert_eq!(full.merged([("kept", Some("22"))]), Err(InvalidValue::MetadataTooLarge));
        assert_eq!(full.merged([("kept", Some("2"))]).unwrap().byte_length, Metadata::BYTES_MAX);
    }

    #[test]
    fn sixteen_kibibytes_fit_and_one_byte_more_does_not() {
        let mut metadata = Metadata::default();
        metadata.insert("a", &"x".repeat(Metadata::BYTES_MAX - 1)).unwrap();
        assert_eq!(metadata.insert("b", ""), Err(InvalidValue::MetadataTooLarge));
    }
}
