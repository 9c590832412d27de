//! Namespaces and tenants: the two names that every object is filed under.

use std::fmt;
use std::sync::Arc;

use crate::domain::errors::InvalidValue;

/// A family of objects, such as `models`: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

/// Whose objects they are: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl Namespace {
    /// The most bytes that a namespace may have.
    pub const BYTES_MAX: usize = 63;

    /// Checks a namespace.
    ///
    /// # Errors
    /// [`InvalidValue::Namespace`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
        if upper || !is_name(text, Self::BYTES_MAX) {
            return Err(InvalidValue::Namespace);
        }
        Ok(Self(text.into()))
    }

    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TenantId {
    /// The most bytes that a tenant id may have.
    pub const BYTES_MAX: usize = 128;

    /// Checks a tenant id.
    ///
    /// # Errors
    /// [`InvalidValue::TenantId`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if !is_name(text, Self::BYTES_MAX) {
            return Err(InvalidValue::TenantId);
        }
        Ok(Self(text.into()))
    }

    /// The tenant id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_their_edges() {
        assert!(Namespace::parse(&"n".repeat(63)).is_ok());
        assert!(Namespace::parse(&"n".repeat(64)).is_err());
        assert!(TenantId::parse(&"T".repeat(128)).is_ok());
        assert!(TenantId::parse(&"T".repeat(129)).is_err());
        assert!(TenantId::parse("Acme.eu-1_x").is_ok());
        assert!(Namespace::parse("Acme").is_err());
        for text in ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\0"] {
            assert!(Namespace::parse(text).is_err(), "{text:?}");
            assert!(TenantId::parse(text).is_err(), "{text:?}");
        }
    }
}
