//! A body whose bytes are counted against its tenant's quota as they come.

use crate::application::errors::{QuotaExceeded, SourceError};
use crate::application::ports::{BodyState, ByteSource, ReadPace, ReadProgress, Room};
use crate::domain::value_objects::ContentHash;

/// Of a body whose length is not known, how much more room is held at most than bytes have come.
const AHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// A source, and the room that is held for what comes from it.
pub(super) struct MeteredSource<'s, S, R> {
    source: &'s mut S,
    room: R,
    /// What the room is enough for.
    room_bytes: u64,
    received_bytes: u64,
}

impl<'s, S, R: Room> MeteredSource<'s, S, R> {
    /// A body for which room for so many bytes is held already.
    pub(super) fn new(source: &'s mut S, room: R, room_bytes: u64) -> Self {
        Self { source, room, room_bytes, received_bytes: 0 }
    }

    /// Gives up the body.
    pub(super) fn into_room(self) -> R {
        self.room
    }

    fn count(&mut self, bytes: u64) -> Result<(), QuotaExceeded> {
        self.received_bytes += bytes;
        if self.received_bytes <= self.room_bytes {
            return Ok(());
        }
        // As much again, so that a short body holds little. Where that is no longer to be had, its bytes alone may be.
        let ahead_bytes = self.received_bytes + self.received_bytes.min(AHEAD_BYTES_MAX);
        self.room_bytes = match self.room.resize(ahead_bytes) {
            Ok(()) => ahead_bytes,
            Err(QuotaExceeded) => {
                self.room.resize(self.received_bytes)?;
                self.received_bytes
            }
        };
        Ok(())
    }
}

impl<B, S: ByteSource<B>, R: Room> ByteSource<B> for MeteredSource<'_, S, R> {
    async fn gather(&mut self) -> Result<BodyState, SourceError> {
        self.source.gather().await
    }

    async fn read(&mut self, buffer: B, pace: ReadPace) -> (Result<ReadProgress, SourceError>, B) {
        let (progress, buffer) = self.source.read(buffer, pace).await;
        let counted = match progress {
            Ok(ReadProgress::Bytes(count)) => self.count(count as u64),
            _ => Ok(()),
        };
        (counted.map_err(SourceError::from).and(progress), buffer)
    }

    async fn take_turns(&mut self) {
        self.source.take_turns().await;
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        self.source.declared_hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::{FakeSource, block_on};

    /// Room up to a limit, and the most that was ever held of it.
    #[derive(Debug, Default)]
    struct LimitedRoom {
        bytes_max: u64,
        most_bytes: u64,
    }

    impl Room for LimitedRoom {
        fn resize(&mut self, bytes: u64) -> Result<(), QuotaExceeded> {
            if bytes > self.bytes_max {
                return Err(QuotaExceeded);
            }
            self.most_bytes = self.most_bytes.max(bytes);
            Ok(())
        }
    }

    /// Reads all of a body; `Err` with what had come when it was cut.
    fn read(body_bytes: usize, bytes_max: u64) -> Result<LimitedRoom, usize> {
        let mut source = FakeSource::of(&vec![1; body_bytes]);
        let mut metered = MeteredSource::new(&mut source, LimitedRoom { bytes_max, most_bytes: 0 }, 0);
        let mut bytes = Vec::new();
        loop {
            let (progress, read) = block_on(metered.read(bytes, ReadPace::Patient));
            bytes = read;
            match progress {
                Ok(ReadProgress::End) => return Ok(metered.into_room()),
                Ok(_) => {}
                Err(_) => return Err(bytes.len()),
            }
        }
    }

    #[test]
    fn room_is_held_at_most_a_step_ahead_of_the_bytes() {
        let short = read(1000, u64::MAX).unwrap();
        assert_eq!(short.most_bytes, 2000);
        let long = read(5_000_000, u64::MAX).unwrap();
        assert!((5_000_000..=5_000_000 + AHEAD_BYTES_MAX).contains(&long.most_bytes));
    }

    #[test]
    fn a_body_may_be_exactly_as_long_as_there_is_room() {
        assert_eq!(read(100_000, 100_000).unwrap().most_bytes, 100_000);
        let cut = read(100_001, 100_000).unwrap_err();
        assert!((100_000..=100_001).contains(&cut));
        assert_eq!(read(0, 0).unwrap().most_bytes, 0);
    }
}
