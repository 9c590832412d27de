//! What is appended to a log, and whose memory its bytes are in.

use crate::domain::value_objects::ContentHash;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::plane_channel::{Reply, Ticket, Write, WriteOutcome};

/// The bytes of a small blob.
pub struct Content<'b> {
    /// What they are.
    pub content_hash: ContentHash,
    /// They themselves.
    pub bytes: ContentBytes<'b>,
}

/// Whose memory they are in.
pub enum ContentBytes<'b> {
    /// The log's now.
    Given(Block),
    /// Their owner's still, who may have other use for it right away.
    Lent(&'b [u8]),
}

impl ContentBytes<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(block) => block.bytes(),
            Self::Lent(bytes) => bytes,
        }
    }

    pub(super) fn keep(self) -> Body {
        match self {
            Self::Given(block) => Body::Given(block),
            Self::Lent(bytes) => Body::Copied(bytes.to_vec()),
        }
    }
}

/// When a change is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Now,
    /// With those that follow it: nobody waits for it before there are no more, who then [says so](super::PackLog::hasten).
    OthersFollow,
}

/// A change of the metadata, on its way into the log and from there to the metadata plane.
pub struct Change {
    /// What to change.
    pub write: Write,
    /// Its place in the order.
    pub ticket: Ticket,
    /// Where the outcome goes, if anybody waits for it. If nobody does, the change counts as acknowledged as soon as it
    /// is durable.
    pub reply: Option<Reply<WriteOutcome>>,
}

/// The bytes of one that waits.
pub(super) enum Body {
    None,
    Given(Block),
    Copied(Vec<u8>),
}

impl Body {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Given(block) => block.bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}
