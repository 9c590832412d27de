//! What a database can answer, sorted by what has to follow.

use sqlx::postgres::PgDatabaseError;
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
    /// The database cannot be trusted until a restart: a sync or a read has failed, or the file is damaged. Or it is
    /// this server that cannot be, since another one goes by its name.
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

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
mod sqlstate {
    pub(super) const INVALID_PARAMETER_VALUE: &str = "22023";
    pub(super) const UNIQUE_VIOLATION: &str = "23505";
    pub(super) const SERIALIZATION_FAILURE: &str = "40001";
    pub(super) const DEADLOCK_DETECTED: &str = "40P01";
    pub(super) const DISK_FULL: &str = "53100";
    pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";
    /// Connection exceptions, and shutdown or start of the server.
    pub(super) const LOST_CONNECTION: [&str; 2] = ["08", "57P0"];
    pub(super) const DATA_CORRUPTED: &str = "XX001";
    pub(super) const INDEX_CORRUPTED: &str = "XX002";
}

/// The row of this instance says that it has ended, or is gone.
#[derive(Debug, Error)]
#[error("another server goes by this server's name (NODE_NAME) now")]
pub(super) struct NameTaken;

impl NameTaken {
    pub(super) fn into_database_error() -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(Self))
    }

    fn is_cause_of(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::AnyDriverError(cause) if cause.is::<Self>())
    }
}

/// An I/O error of a disk that turns out to be full: what was to be written had no room when it was synced.
#[derive(Debug, Error)]
#[error("{0} (the disk is full)")]
struct DiskFull(#[source] sqlx::Error);

/// A database that does not answer in time is a lost connection.
pub(super) fn silence() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Keys are UTF-8. In another encoding some of them could not be stored, at any time, while all else works.
#[derive(Debug, Error)]
#[error("its encoding is {0} and has to be UTF8")]
pub(super) struct WrongEncoding(String);

impl WrongEncoding {
    pub(super) fn into_database_error(encoding: String) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(Self(encoding)))
    }
}

/// The database answered a COMMIT with an error and ended, or its answer was lost, and what became of the transaction
/// could not be found out. What the error says of itself is then no longer all that counts: a server that runs out of
/// space for its log panics with the same code that elsewhere means that nothing was done.
#[derive(Debug, Error)]
#[error("it may have happened or not ({0})")]
pub(super) struct Unsettled(#[source] sqlx::Error);

impl Unsettled {
    pub(super) fn after(error: sqlx::Error) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(Self(error)))
    }
}

/// Others keep what a migration needs, for longer than it is waited for.
#[derive(Debug, Error)]
#[error("others hold what it needs: {holders} ({refusal})")]
pub(super) struct LocksHeld {
    holders: String,
    #[source]
    refusal: sqlx::Error,
}

impl LocksHeld {
    pub(super) fn into_database_error(holders: String, refusal: sqlx::Error) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(Self { holders, refusal }))
    }
}

/// Whether a lock could not be had within `lock_timeout`.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some(sqlstate::LOCK_NOT_AVAILABLE)
}

/// Whether another transaction came between, so that the same one may succeed now.
pub(super) fn is_race(error: &sqlx::Error) -> bool {
    let races = [sqlstate::SERIALIZATION_FAILURE, sqlstate::DEADLOCK_DETECTED, sqlstate::UNIQUE_VIOLATION];
    postgres_code(error).is_some_and(|code| races.contains(&code))
}

/// Whether PostgreSQL says that a transaction's name is none that it has given.
pub(super) fn says_unknown_transaction(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some(sqlstate::INVALID_PARAMETER_VALUE)
}

fn postgres_code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

impl DatabaseError {
    /// Names what was tried.
    pub fn of(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { operation, source }
    }

    /// Whether SQLite could not read, write or sync.
    pub(super) fn is_io_error(&self) -> bool {
        self.sqlite_code() == Some(sqlite_code::IO_ERROR)
    }

    /// The same error, of a disk that is known to be full.
    pub(super) fn of_full_disk(self) -> Self {
        Self { source: sqlx::Error::AnyDriverError(Box::new(DiskFull(self.source))), ..self }
    }

    /// An extended code has its primary code in the lowest byte.
    fn sqlite_code(&self) -> Option<u32> {
        let code = self.source.as_database_error()?.code()?;
        code.parse::<u32>().ok().map(|code| code & 0xff)
    }

    /// Whether there was nobody to ask, or who was asked has gone.
    pub fn is_lost_connection(&self) -> bool {
        match postgres_code(&self.source) {
            Some(code) => sqlstate::LOST_CONNECTION.iter().any(|class| code.starts_with(class)),
            None => matches!(&self.source, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut),
        }
    }

    /// What follows.
    pub fn consequence(&self) -> Consequence {
        if NameTaken::is_cause_of(&self.source) {
            return Consequence::Latch;
        }
        if let Some(code) = postgres_code(&self.source) {
            return match code {
                sqlstate::DISK_FULL => Consequence::NoSpace,
                sqlstate::DATA_CORRUPTED | sqlstate::INDEX_CORRUPTED => Consequence::Latch,
                _ => Consequence::Unknown,
            };
        }
        match self.sqlite_code() {
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
