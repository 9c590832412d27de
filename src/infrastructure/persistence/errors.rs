//! What a database can answer, sorted by what has to follow.

use thiserror::Error;

use crate::application::errors::RepositoryError;

/// A failed operation on the database.
#[derive(Debug, Error)]
#[error("cannot {operation}")]
pub struct DatabaseError {
    /// What was tried.
    pub operation: &'static str,
    /// What the database said.
    #[source]
    pub source: sqlx::Error,
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing was done; it works again once there is room.
    NoSpace,
    /// The database cannot be trusted until a restart: a sync or a read has failed, or the file is damaged.
    Latch,
    /// It may work the next time. Whether this time's change happened is not known.
    Unknown,
}

/// <https://www.sqlite.org/rescode.html>, primary codes.
mod sqlite_code {
    pub(super) const IO_ERROR: u32 = 10;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const NOT_A_DATABASE: u32 = 26;
}

impl DatabaseError {
    /// Names what was tried.
    pub fn of(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { operation, source }
    }

    /// What follows.
    pub fn consequence(&self) -> Consequence {
        let code = self.source.as_database_error().and_then(|error| error.code());
        // An extended code has its primary code in the lowest byte.
        match code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
            Some(sqlite_code::FULL) => Consequence::NoSpace,
            Some(sqlite_code::IO_ERROR | sqlite_code::CORRUPT | sqlite_code::NOT_A_DATABASE) => {
                Consequence::Latch
            }
            _ => Consequence::Unknown,
        }
    }
}

impl From<Consequence> for RepositoryError {
    fn from(consequence: Consequence) -> Self {
        match consequence {
            Consequence::NoSpace => Self::NoSpace,
            Consequence::Latch | Consequence::Unknown => Self::Unavailable,
        }
    }
}
