//! A body that comes as a test wants it to.

use std::future::pending;

use crate::application::errors::SourceError;
use crate::application::ports::{ByteSource, ReadPace, ReadProgress};
use crate::domain::value_objects::ContentHash;

/// A body that comes in pieces of at most 16 KiB.
pub(crate) struct FakeSource {
    body: Vec<u8>,
    position: usize,
    end: Option<SourceError>,
    hangs: bool,
    declared: Option<ContentHash>,
    piece_bytes_max: usize,
}

impl FakeSource {
    pub(crate) fn of(body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            position: 0,
            end: None,
            hangs: false,
            declared: None,
            piece_bytes_max: 16 * 1024,
        }
    }

    pub(crate) fn ending_with(mut self, error: SourceError) -> Self {
        self.end = Some(error);
        self
    }

    pub(crate) fn hanging(mut self) -> Self {
        self.hangs = true;
        self
    }

    pub(crate) fn declaring(mut self, hash: ContentHash) -> Self {
        self.declared = Some(hash);
        self
    }

    pub(crate) fn set_piece_bytes_max(&mut self, piece_bytes_max: usize) {
        self.piece_bytes_max = piece_bytes_max;
    }

    pub(crate) fn bytes_read(&self) -> usize {
        self.position
    }
}

impl ByteSource<Vec<u8>> for FakeSource {
    async fn read(
        &mut self,
        mut buffer: Vec<u8>,
        _pace: ReadPace,
    ) -> (Result<ReadProgress, SourceError>, Vec<u8>) {
        let piece = &self.body[self.position..];
        let piece = &piece[..piece.len().min(self.piece_bytes_max)];
        if piece.is_empty() {
            if self.hangs {
                pending::<()>().await;
            }
            return match self.end.take() {
                Some(error) => (Err(error), buffer),
                None => (Ok(ReadProgress::End), buffer),
            };
        }
        buffer.extend_from_slice(piece);
        self.position += piece.len();
        (Ok(ReadProgress::Bytes(piece.len())), buffer)
    }

    fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
        Ok(self.declared)
    }
}
