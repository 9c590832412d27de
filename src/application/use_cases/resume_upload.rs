//! Taking an object in piece by piece: each piece is durable before it is acknowledged, and the last one makes the
//! object, exactly once, however often that has to be tried.

use std::time::Duration;

use super::upload_object::{Uploaded, name, refuse_early};
use crate::application::errors::{SourceError, UploadError};
use crate::application::ports::{BlobStore, ByteSource, Clock, ObjectName, ObjectRepository, Room as _};
use crate::application::staging::{
    Checksum, Opened, PARTS_MAX, StagedOrder, StagedProgress, StagedRole, StagedUpload, StagingError,
    StagingSession, UploadStaging,
};
use crate::domain::entities::{Reach, StoredObject};
use crate::domain::value_objects::{ObjectStatus, Timestamp, UploadId};

/// What uploads in pieces may be, and how long they wait.
#[derive(Debug, Clone, Copy)]
pub struct ResumeLimits {
    /// The longest, in bytes.
    pub bytes_max: u64,
    /// How many of a tenant may wait in each root, whole or not.
    pub uploads_max: usize,
    /// How long one waits for its next piece.
    pub kept_for: Duration,
}

/// What a request brings for an upload.
#[derive(Debug)]
pub struct Piece<'s, Source> {
    /// Where it belongs.
    pub offset: u64,
    /// How long it will be, if its sender says.
    pub bytes: Option<u64>,
    /// How long the whole upload is, if its sender says that only now.
    pub length: Option<u64>,
    /// What it has to be.
    pub checksum: Option<Checksum>,
    /// The bytes.
    pub source: &'s mut Source,
}

/// How an upload stands, and what it has just become.
#[derive(Debug)]
pub struct Resumed {
    /// The upload.
    pub upload: StagedUpload,
    /// Its object, where this very request has made it.
    pub uploaded: Option<Uploaded>,
}

/// Makes an upload and takes its first piece, which may be none or all of it.
///
/// # Errors
/// [`StagingError`]. There is no upload then.
pub async fn create_upload<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: StagedOrder,
    piece: Piece<'_, impl ByteSource<B>>,
    limits: ResumeLimits,
) -> Result<Resumed, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let mut session = make((store, repository, clock), order, piece.length, limits).await?;
    let result = take((store, repository, clock), &mut session, piece, limits).await;
    let upload = session.upload().clone();
    if result.is_err() {
        // Whoever is told of an error is told no name: nobody could go on with it.
        let _ = session.remove().await;
    }
    session.release().await;
    Ok(Resumed { upload, uploaded: result? })
}

/// Makes an upload of others that are whole, one after the other. They go once its object is there.
///
/// # Errors
/// [`StagingError`]. The parts are as they were.
pub async fn join_uploads<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: StagedOrder,
    parts: &[UploadId],
    limits: ResumeLimits,
) -> Result<Resumed, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let ports = (store, repository, clock);
    let (mut source, found) = store.parts(parts).await?;
    let mut length = 0u64;
    for (id, part) in parts.iter().zip(&found) {
        let refused = |reason| Err(StagingError::NotAPart { part: *id, reason });
        // Whoever does not reach it is told no more than of one that is not there.
        let is_gone = part.progress.is_done || clock.now() >= part.progress.expires_at;
        if is_gone || part.order.object.scope != order.object.scope {
            return refused("there is no such upload");
        }
        if part.order.role != StagedRole::Part {
            return refused("it is no partial upload");
        }
        if !part.progress.is_whole() {
            return refused("not all of its bytes are here");
        }
        length = length.saturating_add(part.progress.offset);
    }
    if length > limits.bytes_max {
        return Err(SourceError::TooLarge { bytes_max: limits.bytes_max }.into());
    }
    let mut session = make(ports, order, Some(length), limits).await?;
    let piece = Piece { offset: 0, bytes: Some(length), length: None, checksum: None, source: &mut source };
    let mut result = take(ports, &mut session, piece, limits).await;
    if let Some(error) = S::take_failure(&mut source) {
        result = Err(error.into());
    }
    let upload = session.upload().clone();
    if result.is_err() {
        // It can be asked for again, and nobody knows the name of this one.
        let _ = session.remove().await;
    }
    session.release().await;
    let uploaded = result?;
    store.remove_parts(source).await?;
    Ok(Resumed { upload, uploaded })
}

/// Takes the next piece of an upload. With the last one, its object is made.
///
/// # Errors
/// [`StagingError`]. What came of the piece until then is kept, unless it had a checksum.
pub async fn resume_upload<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    (id, reach): (&UploadId, &Reach),
    piece: Piece<'_, impl ByteSource<B>>,
    limits: ResumeLimits,
) -> Result<Resumed, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let now = clock.now();
    let mut session = match store.resume(id).await? {
        Opened::Session(session) => session,
        Opened::Done(upload) => {
            let upload = visible(upload, reach, now)?;
            if matches!(upload.order.role, StagedRole::Joined(_)) {
                return Err(StagingError::TakesNoBytes);
            }
            return match (piece.offset == upload.progress.offset, piece.bytes) {
                (true, Some(0)) => Ok(Resumed { upload, uploaded: None }),
                (true, _) => Err(StagingError::LengthChanged { length: upload.progress.offset }),
                (false, _) => Err(StagingError::OffsetMismatch { offset: upload.progress.offset }),
            };
        }
    };
    let result = match visible(session.upload().clone(), reach, now) {
        Ok(upload) if matches!(upload.order.role, StagedRole::Joined(_)) => Err(StagingError::TakesNoBytes),
        Ok(_) => take((store, repository, clock), &mut session, piece, limits).await,
        Err(error) => Err(error),
    };
    let upload = session.upload().clone();
    session.release().await;
    Ok(Resumed { upload, uploaded: result? })
}

/// How an upload stands. One whose bytes are all here, and whose object is not, has lost whoever was to make it: that is
/// done now, so that nobody takes for done what is not.
///
/// # Errors
/// [`StagingError`]
pub async fn look_at_upload<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    id: &UploadId,
    reach: &Reach,
) -> Result<Resumed, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let now = clock.now();
    let upload = visible(store.look(id).await?, reach, now)?;
    let is_part = upload.order.role == StagedRole::Part;
    if upload.progress.is_done || is_part || !upload.progress.is_whole() {
        return Ok(Resumed { upload, uploaded: None });
    }
    let mut session = match store.resume(id).await? {
        Opened::Session(session) => session,
        Opened::Done(upload) => return Ok(Resumed { upload, uploaded: None }),
    };
    let result = finish((store, repository, clock), &mut session, R::Room::default(), Tried::Perhaps).await;
    let upload = session.upload().clone();
    session.release().await;
    result.map(|uploaded| Resumed { upload, uploaded: Some(uploaded) })
}

/// Removes an upload. Its object, if it has become one, stays.
///
/// # Errors
/// [`StagingError`]
pub async fn terminate_upload<S: UploadStaging>(
    (store, clock): (&S, &impl Clock),
    id: &UploadId,
    reach: &Reach,
) -> Result<(), StagingError> {
    let now = clock.now();
    match store.resume(id).await? {
        Opened::Done(upload) => {
            visible(upload, reach, now)?;
            Ok(store.forget_done(id).await?)
        }
        Opened::Session(mut session) => {
            let result = match visible(session.upload().clone(), reach, now) {
                Ok(_) => session.remove().await.map_err(StagingError::from),
                Err(error) => Err(error),
            };
            session.release().await;
            result
        }
    }
}

/// The upload, for whoever reaches it and comes in time.
fn visible(upload: StagedUpload, reach: &Reach, now: Timestamp) -> Result<StagedUpload, StagingError> {
    if !reach.includes(&upload.order.object.scope) {
        return Err(StagingError::NotFound);
    }
    if now >= upload.progress.expires_at { Err(StagingError::Expired) } else { Ok(upload) }
}

/// Makes an upload without bytes.
async fn make<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    order: StagedOrder,
    length: Option<u64>,
    limits: ResumeLimits,
) -> Result<S::Session, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    if length.is_some_and(|length| length > limits.bytes_max) {
        return Err(SourceError::TooLarge { bytes_max: limits.bytes_max }.into());
    }
    let waiting = store.waiting(&order.id).await?;
    if waiting.uploads >= limits.uploads_max {
        return Err(StagingError::TooMany { uploads_max: limits.uploads_max });
    }
    // Room that is not there now is not there when it is needed: its sender is spared the way.
    let bytes = waiting.bytes.saturating_add(length.unwrap_or(0));
    let room = repository.reserve_room(&order.object.scope.tenant_id, bytes).map_err(UploadError::from)?;
    refuse_early(repository, &order.object, &order.precondition).await?;
    let progress =
        StagedProgress { offset: 0, length, expires_at: later(clock, limits.kept_for), is_done: false };
    let session = store.create(StagedUpload { order, progress }).await?;
    drop(room);
    Ok(session)
}

/// Takes a piece, and makes the object if it was the last.
async fn take<S, R, B>(
    ports: (&S, &R, &impl Clock),
    session: &mut S::Session,
    piece: Piece<'_, impl ByteSource<B>>,
    limits: ResumeLimits,
) -> Result<Option<Uploaded>, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let (store, repository, _) = ports;
    let StagedUpload { order, progress } = session.upload().clone();
    if piece.offset != progress.offset {
        return Err(StagingError::OffsetMismatch { offset: progress.offset });
    }
    let length = match (progress.length, piece.length) {
        (Some(length), Some(other)) if length != other => return Err(StagingError::LengthChanged { length }),
        (None, Some(length)) if length > limits.bytes_max => {
            return Err(SourceError::TooLarge { bytes_max: limits.bytes_max }.into());
        }
        (None, Some(length)) if length < progress.offset => {
            return Err(StagingError::LengthChanged { length: progress.offset });
        }
        (known, said) => known.or(said),
    };
    let end = progress.offset.saturating_add(piece.bytes.unwrap_or(0));
    if end > length.unwrap_or(limits.bytes_max) {
        return Err(SourceError::TooLarge { bytes_max: length.unwrap_or(limits.bytes_max) }.into());
    }
    // What waits counts as much as what is stored, and as what is on its way. Its own bytes are among those that wait.
    let tenant_id = &order.object.scope.tenant_id;
    let wanted = length.unwrap_or(end);
    let was_whole = progress.is_whole();
    let says_nothing = was_whole || piece.bytes == Some(0) && length == progress.length;
    let others = match says_nothing {
        true => 0,
        false => store.waiting(&order.id).await?.bytes.saturating_sub(progress.offset),
    };
    let room = repository.reserve_room(tenant_id, wanted.saturating_add(others));
    let mut room = room.map_err(UploadError::from)?;
    room.resize(wanted).map_err(UploadError::from)?;

    if let Some(length) = piece.length {
        session.set_length(length);
    }
    if !says_nothing {
        session.receive(piece.source, piece.checksum, limits.kept_for).await?;
    }
    let progress = session.upload().progress;
    room.resize(progress.offset.max(wanted)).map_err(UploadError::from)?;
    if order.role == StagedRole::Part || !progress.is_whole() {
        return Ok(None);
    }
    let tried = if was_whole { Tried::Perhaps } else { Tried::Never };
    finish(ports, session, room, tried).await.map(Some)
}

/// Whether somebody may have committed the object already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Never,
    Perhaps,
}

/// Makes the object of an upload whose bytes are all here.
async fn finish<S, R, B>(
    (store, repository, clock): (&S, &R, &impl Clock),
    session: &mut S::Session,
    mut room: R::Room,
    tried: Tried,
) -> Result<Uploaded, StagingError>
where
    S: BlobStore<Buffer = B> + UploadStaging<Buffer = B>,
    R: ObjectRepository<Buffer = B>,
{
    let StagedUpload { order, progress } = session.upload().clone();
    let (content_hash, size_bytes) = (session.content_hash(), progress.offset);
    if let Some(declared) = order.declared.filter(|declared| *declared != content_hash) {
        session.remove().await?;
        return Err(UploadError::DigestMismatch { declared, actual: content_hash }.into());
    }
    let mut object = order.object;
    if tried == Tried::Perhaps {
        let found = repository.inspect(&ObjectName::Id(object.id)).await.map_err(UploadError::from)?;
        if let Some(object) = found {
            session.finish().await?;
            return Ok(Uploaded { object, content_hash, replaced: false });
        }
        room = repository.reserve_room(&object.scope.tenant_id, size_bytes).map_err(UploadError::from)?;
    }
    let place = session.publish().await?;
    object.status = ObjectStatus::Committed;
    object.content_hash = Some(content_hash);
    object.size_bytes = Some(size_bytes);
    object.updated_at = clock.now().max(object.created_at);
    let stored = StoredObject { object: object.clone(), content_hash, size_bytes, place, damaged: false };
    match name((store, repository), stored, order.precondition, room).await {
        Ok(replaced) => {
            // What cannot be noted is found out the next time.
            if let Err(error) = session.finish().await {
                tracing::warn!(%error, "the end of an upload could not be noted; its object is there");
            }
            Ok(Uploaded { object, content_hash, replaced })
        }
        Err(UploadError::PreconditionFailed) => {
            session.remove().await?;
            Err(UploadError::PreconditionFailed.into())
        }
        // The bytes wait for the next try: an empty piece, or a look.
        Err(error) => Err(error.into()),
    }
}

fn later(clock: &impl Clock, kept_for: Duration) -> Timestamp {
    let millis = i64::try_from(kept_for.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(clock.now().as_millis().saturating_add(millis))
}

/// Whether so many parts can be joined.
pub fn can_join(parts: usize) -> bool {
    (1..=PARTS_MAX).contains(&parts)
}
