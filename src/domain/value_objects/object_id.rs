//! The name that the store gives an object.

use std::fmt;

use uuid::Uuid;

use crate::domain::errors::InvalidValue;

/// A UUID of version 7 (RFC 9562): ids made later sort later, which keeps their index compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(Uuid);

impl ObjectId {
    /// Length of the hyphenated form.
    pub const TEXT_LENGTH: usize = 36;

    /// A new id, of the present moment.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the hyphenated form of 36 characters.
    ///
    /// # Errors
    /// [`InvalidValue::ObjectId`] for any other form: braces, URNs and bare digits are not ids here.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() != Self::TEXT_LENGTH {
            return Err(InvalidValue::ObjectId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidValue::ObjectId)
    }

    /// Reads 16 bytes, as a database gives them back.
    ///
    /// # Errors
    /// [`InvalidValue::ObjectId`] for any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidValue> {
        Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidValue::ObjectId)
    }

    /// The hyphenated form, without an allocation.
    pub fn write_to(self, text: &mut [u8; Self::TEXT_LENGTH]) -> &str {
        self.0.hyphenated().encode_lower(text)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = ObjectId::generate();
        assert_eq!(ObjectId::parse(&id.to_string()), Ok(id));
        assert_eq!(ObjectId::parse(&id.to_string().to_uppercase()), Ok(id));
        assert_eq!(ObjectId::from_slice(id.as_bytes()), Ok(id));
        assert_eq!(id.write_to(&mut [0; ObjectId::TEXT_LENGTH]), id.to_string());
        for text in
            ["", "x", &id.to_string().replace('-', ""), &format!("{{{id}}}"), &format!("urn:uuid:{id}")]
        {
            assert_eq!(ObjectId::parse(text), Err(InvalidValue::ObjectId));
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<_> = (0..1000).map(|_| ObjectId::generate()).collect();
        assert!(ids.is_sorted());
    }
}
