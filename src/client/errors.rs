//! Why a command did not do what it was told, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use thiserror::Error;

use crate::domain::value_objects::ContentHash;

/// What kind of end it was: the exit code, and the word for it in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of many, or something on this machine.
    Failed,
    /// The command makes no sense; nothing was done.
    Usage,
    /// What it is about is not there.
    NotFound,
    /// No credential, a bad one, or one that may not.
    Refused,
    /// Bytes are not what they should be.
    Mismatch,
    /// No answer.
    Unreachable,
    /// An answer that will not be another one soon: full, over a limit, busy all the time, broken.
    Declined,
}

impl Kind {
    /// Stands in `docs/CLIENT.md`, and never changes.
    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Mismatch => 5,
            Self::Unreachable => 6,
            Self::Declined => 7,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Mismatch => "mismatch",
            Self::Unreachable => "unreachable",
            Self::Declined => "declined",
        }
    }

    /// Whether whatever comes next would end the same way.
    pub(super) fn ends_everything(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable)
    }
}

/// Why a command, or a part of it, did not do what it was told.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// The command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be a key.
    #[error("{path:?} cannot be stored: {reason}")]
    Name {
        /// Its name, which may hold anything: shown with escapes.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// This machine's files failed.
    #[error("cannot {operation} {path}")]
    Files {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not one version of itself.
    #[error("{0} changed while it was read; the server keeps nothing of it")]
    Changed(PathBuf),
    /// Two runs write the same file.
    #[error("{0} is being fetched by another run")]
    Busy(PathBuf),
    /// Standard input failed.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// Whoever reads the output has gone.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// There is no such object.
    #[error("{0}: there is no such object")]
    NotFound(String),
    /// There is no such object, but there are others whose keys go on behind it.
    #[error("{0}: there is no such object; what lies below it is {0}/")]
    OnlyBelow(String),
    /// The server does not let this credential do that.
    #[error("{what}: {detail} ({status})")]
    Refused {
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// The server's own words.
        detail: String,
    },
    /// The server will have it, but not now.
    #[error("{what}: {detail} ({status})")]
    Later {
        /// What was asked for.
        what: String,
        /// 408, 429, 502, 503 or 504.
        status: u16,
        /// The server's own words.
        detail: String,
        /// When to come back, if it says so.
        retry_after: Option<Duration>,
    },
    /// The server will not have it.
    #[error("{what}: {detail} ({status})")]
    Declined {
        /// What was asked for.
        what: String,
        /// Its status.
        status: u16,
        /// The server's own words.
        detail: String,
        /// The query parameter or field that it does not like.
        parameter: Option<String>,
    },
    /// The server has other bytes than were sent.
    #[error("{what}: the server has {stored}, sent was {sent}; it was taken back")]
    StoredOther {
        /// What was sent.
        what: String,
        /// The hash of what was sent.
        sent: ContentHash,
        /// The hash of what it has.
        stored: ContentHash,
    },
    /// The bytes that came are not those that the server named.
    #[error("{what}: what came is {received}, not {expected}; it was thrown away")]
    ReceivedOther {
        /// What was fetched.
        what: String,
        /// The hash of what was promised.
        expected: ContentHash,
        /// The hash of what came.
        received: ContentHash,
    },
    /// The server found that the bytes are not those of the digest.
    #[error("{0}: the bytes changed on their way")]
    DigestMismatch(String),
    /// A new version came while part of the old one was already written out.
    #[error("{0} was replaced while it was read")]
    Replaced(String),
    /// No answer, or one that broke off.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Its address.
        server: String,
        /// Whether it might be reached the next time.
        transient: bool,
        /// What happened.
        #[source]
        source: ureq::Error,
    },
    /// Something answered that is not a server of this kind.
    #[error("{what}: this is no answer of a JustStorage server: {reason}")]
    Foreign {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl ClientError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) | Self::Name { .. } => Kind::Usage,
            Self::Files { .. } | Self::Changed(_) | Self::Busy(_) | Self::Input(_) | Self::Output(_) => {
                Kind::Failed
            }
            Self::NotFound(_) | Self::OnlyBelow(_) => Kind::NotFound,
            Self::Refused { .. } => Kind::Refused,
            Self::StoredOther { .. } | Self::ReceivedOther { .. } | Self::DigestMismatch(_) => Kind::Mismatch,
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Later { .. } | Self::Declined { .. } | Self::Replaced(_) | Self::Foreign { .. } => {
                Kind::Declined
            }
        }
    }

    pub(super) fn files(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { operation, path, source }
    }
}
