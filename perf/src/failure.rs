//! How an operation can fail, in kinds that can be counted.

use std::fmt;

/// What went wrong, as it is counted and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FailureKind {
    /// An answer, but not the one that was expected.
    Status(u16),
    /// No connection could be opened.
    NotConnected,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// The answer is not HTTP as this tool reads it, or it answers what was not asked.
    MalformedResponse,
    /// The same path had a body of another length before.
    LengthChanged,
    /// The body is not the one that its digest promises.
    DigestMismatch,
    /// Not done when the time to finish was over.
    Unfinished,
    /// Due in an open loop, and never begun.
    NotStarted,
    /// The body is not the one that was uploaded.
    BodyChanged,
    /// The watched server process ended during the run.
    ServerGone,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "{status}"),
            Self::NotConnected => formatter.write_str("not_connected"),
            Self::ConnectionLost => formatter.write_str("connection_lost"),
            Self::MalformedResponse => formatter.write_str("malformed_response"),
            Self::LengthChanged => formatter.write_str("length_changed"),
            Self::DigestMismatch => formatter.write_str("digest_mismatch"),
            Self::Unfinished => formatter.write_str("unfinished"),
            Self::NotStarted => formatter.write_str("not_started"),
            Self::BodyChanged => formatter.write_str("body_changed"),
            Self::ServerGone => formatter.write_str("server_gone"),
        }
    }
}

/// One failure and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it is counted as.
    pub(crate) kind: FailureKind,
    /// For people: the first one of each kind is shown.
    pub(crate) detail: String,
}

impl Failure {
    /// A failure of a kind, with what is known about it.
    pub(crate) fn new(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string() }
    }

    /// An answer that was not expected, with the start of its body.
    pub(crate) fn status(status: u16, body_excerpt: &[u8]) -> Self {
        let excerpt = String::from_utf8_lossy(body_excerpt);
        // The body is not trusted on a terminal: control characters would be obeyed there.
        Self::new(FailureKind::Status(status), excerpt.replace(char::is_control, " ").trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excerpt_of_a_body_is_safe_to_print() {
        let failure = Failure::status(503, b"{\r\n\x1b[31m\"title\": \"busy\"}\n");
        assert_eq!(failure.kind.to_string(), "503");
        assert_eq!(failure.detail, "{   [31m\"title\": \"busy\"}");
    }
}
