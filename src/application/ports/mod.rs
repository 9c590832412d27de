//! What the use cases need from the world. Each port has two implementations at least: the real one and the
//! in-memory fake that the use cases are tested on.
//!
//! They are native `async fn` without `Send`: a data-plane core never moves a future to another thread, and
//! nothing on the way of a byte is boxed.
#![allow(async_fn_in_trait, reason = "used through generics inside this crate; Send is not wanted on a core")]

mod blobs;
mod objects;

use super::errors::RepositoryError;
use crate::domain::entities::{ApiKey, ApiKeyId};
use crate::domain::value_objects::Timestamp;

pub use blobs::{
    BlobReader, BlobStore, BlobUpload, BodyState, BufferSize, ByteBuffer, ByteSource, Published, ReadPace,
    ReadProgress, Section,
};
pub use objects::{
    Begun, CommitOutcome, DeleteOutcome, Freshness, LEASE_SECONDS, ListPage, ListQuery, LooseCommit,
    LooseOutcome, ObjectCommit, ObjectName, ObjectRepository, ObjectUpdate, Room, SeenObject, UpdateOutcome,
};

/// The wall clock, for the dates that objects carry.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// What is known of a key before it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStanding {
    /// Nothing: it may be one of any number of guesses. Those wait for each other, and for nothing else to wait for them.
    Unproven,
    /// The very same key, with its secret, was good before. Nobody sends many of those who does not have them.
    Proven,
}

/// The API keys that have been given out.
pub trait ApiKeyRepository {
    /// What is kept of a key, whether or not it is still good.
    ///
    /// # Errors
    /// [`RepositoryError`].
    async fn find_api_key(
        &self,
        id: ApiKeyId,
        standing: KeyStanding,
    ) -> Result<Option<ApiKey>, RepositoryError>;
}
