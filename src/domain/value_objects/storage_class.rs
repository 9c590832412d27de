//! Which of the two roots an object's bytes live in.

use std::fmt;

use crate::domain::errors::InvalidValue;

/// `hot` for what is read again and again, `cold` for what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageClass {
    /// Served through the page cache.
    Hot,
    /// Kept on the larger, slower root.
    Cold,
}

impl StorageClass {
    /// Both classes.
    pub const ALL: [Self; 2] = [Self::Hot, Self::Cold];

    /// Reads `hot` or `cold`.
    ///
    /// # Errors
    /// [`InvalidValue::StorageClass`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(InvalidValue::StorageClass)
    }

    /// `hot` or `cold`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }
}

impl fmt::Display for StorageClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
