//! Where an object stands between its first byte and its last trace.

use crate::domain::errors::InvalidValue;

/// The states of an object. Only `Committed` ones can be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectStatus {
    /// Its bytes are still coming in.
    Writing,
    /// Durable, listed and served.
    Committed,
    /// Being forgotten in more than one step.
    Deleting,
    /// Forgotten; the row stays until the collector removes it.
    Deleted,
}

impl ObjectStatus {
    /// Reads the name that the interface uses.
    ///
    /// # Errors
    /// [`InvalidValue::ObjectStatus`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        [Self::Writing, Self::Committed, Self::Deleting, Self::Deleted]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(InvalidValue::ObjectStatus)
    }

    /// The name that the interface uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "WRITING",
            Self::Committed => "COMMITTED",
            Self::Deleting => "DELETING",
            Self::Deleted => "DELETED",
        }
    }
}
