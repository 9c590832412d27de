//! Changes of the metadata as the details of a pack's records, and back. Without any input or output.
//!
//! A change is its tag and its fields, one after the other: numbers little-endian, texts with a length of two bytes
//! before them, a list with its count before it, what may be absent with a byte 0 or 1 before it.

use thiserror::Error;

use crate::application::ports::{ObjectCommit, ObjectUpdate, SeenObject};
use crate::domain::entities::{BlobLocation, KeyPath, Object, Scope, StoredObject};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{
    ContentHash, ContentType, EntityTags, InstanceId, Key, Metadata, Namespace, ObjectId, ObjectStatus,
    PackId, Place, Precondition, StorageClass, TenantId, Timestamp,
};
use crate::infrastructure::plane_channel::Write;

const COMMIT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_KEY: u8 = 3;
const MEND: u8 = 4;
const UPDATE: u8 = 5;
const MOVE: u8 = 6;

const PLACE_HERE: u8 = 0;
const PLACE_FILE: u8 = 1;
const PLACE_PACK: u8 = 2;

/// Why a record's details are not a change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DetailsError {
    /// They end too early, or too late.
    #[error("a logged change has not its length")]
    Length,
    /// A tag that this version does not know.
    #[error("a logged change is of no kind that this version knows")]
    Kind,
    /// A value that breaks the rule of its type.
    #[error("a logged change holds a value that is none: {0}")]
    Value(#[from] InvalidValue),
}

/// Whether a change is written to the log. The others leave nothing behind that a restart would miss.
pub fn is_logged(write: &Write) -> bool {
    match write {
        Write::Commit(_)
        | Write::Delete { .. }
        | Write::DeleteKey { .. }
        | Write::Update(_)
        | Write::Mend { .. } => true,
        Write::Reserve(_) | Write::Abandon(_) | Write::Check | Write::Void | Write::EndPack { .. } => false,
    }
}

/// Appends the details of a change. `has_body`: the bytes of a commit or of a move are the record's own body.
pub fn encode(write: &Write, has_body: bool, details: &mut Vec<u8>) {
    let mut encoder = Encoder(details);
    match write {
        Write::Commit(commit) => {
            encoder.u8(COMMIT);
            encoder.commit(commit, has_body);
        }
        Write::Update(update) => encoder.update(update, has_body),
        Write::Delete { id, precondition } => {
            encoder.u8(DELETE);
            encoder.bytes(id.as_bytes());
            encoder.precondition(precondition);
        }
        Write::DeleteKey { key_path, precondition } => {
            encoder.u8(DELETE_KEY);
            encoder.scope(&key_path.scope);
            encoder.text(key_path.key.as_str());
            encoder.precondition(precondition);
        }
        Write::Mend { lost, place } => {
            encoder.u8(MEND);
            encoder.class(lost.storage_class);
            encoder.bytes(lost.content_hash.as_bytes());
            encoder.place(&lost.place);
            encoder.place(place);
        }
        Write::Reserve(_) | Write::Abandon(_) | Write::Check | Write::Void | Write::EndPack { .. } => {
            crate::invariant::broken("only what is logged is encoded for the log")
        }
    }
}

/// Reads a change. `content_hash` is the record's, and `here` is where the record stands.
///
/// # Errors
/// [`DetailsError`].
pub fn decode(details: &[u8], content_hash: ContentHash, here: Place) -> Result<Write, DetailsError> {
    let mut decoder = Decoder { rest: details, here };
    let write = match decoder.u8()? {
        COMMIT => Write::Commit(decoder.commit(content_hash)?),
        DELETE => {
            let id = ObjectId::from_slice(decoder.take(16)?)?;
            Write::Delete { id, precondition: decoder.precondition()? }
        }
        DELETE_KEY => {
            let (scope, key) = (decoder.scope()?, Key::parse(decoder.text()?)?);
            Write::DeleteKey { key_path: KeyPath { scope, key }, precondition: decoder.precondition()? }
        }
        UPDATE | MOVE => Write::Update(decoder.update(details[0] == MOVE, content_hash)?),
        MEND => {
            let (storage_class, content_hash) = (decoder.class()?, decoder.hash()?);
            let lost = BlobLocation { storage_class, content_hash, place: decoder.place()? };
            Write::Mend { lost, place: decoder.place()? }
        }
        _ => return Err(DetailsError::Kind),
    };
    if decoder.rest.is_empty() { Ok(write) } else { Err(DetailsError::Length) }
}

struct Encoder<'d>(&'d mut Vec<u8>);

impl Encoder<'_> {
    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u16(&mut self, number: usize) {
        // The longest text of any kind is a metadata value of 16 KiB.
        let Ok(number) = u16::try_from(number) else {
            crate::invariant::broken("a length in a logged change fits two bytes")
        };
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.u16(text.len());
        self.bytes(text.as_bytes());
    }

    fn optional<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn class(&mut self, class: StorageClass) {
        self.u8(u8::from(class == StorageClass::Cold));
    }

    fn scope(&mut self, scope: &Scope) {
        self.text(scope.namespace.as_str());
        self.text(scope.tenant_id.as_str());
    }

    fn place(&mut self, place: &Place) {
        let (tag, name, number) = match place {
            Place::File { instance, number } => (PLACE_FILE, instance.to_i64().cast_unsigned(), *number),
            Place::Pack { pack, offset } => (PLACE_PACK, pack.to_u64(), *offset),
        };
        self.u8(tag);
        self.u64(name);
        self.u64(number);
    }

    fn tags(&mut self, tags: &EntityTags) {
        match tags {
            EntityTags::Any => self.u8(0),
            EntityTags::Hashes(hashes) => {
                self.u8(1);
                self.u16(hashes.len());
                hashes.iter().for_each(|hash| self.bytes(hash.as_bytes()));
            }
        }
    }

    fn precondition(&mut self, precondition: &Precondition) {
        self.optional(precondition.if_match.as_ref(), Self::tags);
        self.optional(precondition.if_none_match.as_ref(), Self::tags);
        self.optional(precondition.if_unmodified_since, Self::i64);
    }

    fn commit(&mut self, commit: &ObjectCommit, has_body: bool) {
        let StoredObject { object, size_bytes, place, .. } = &commit.stored;
        self.named(object, *size_bytes);
        self.copy(place, has_body);
        self.words(object);
        self.precondition(&commit.precondition);
    }

    /// What an object is called, and what it is.
    fn named(&mut self, object: &Object, size_bytes: u64) {
        self.bytes(object.id.as_bytes());
        self.scope(&object.scope);
        self.optional(object.key.as_ref(), |encoder, key| encoder.text(key.as_str()));
        self.class(object.storage_class);
        self.u64(size_bytes);
    }

    fn copy(&mut self, place: &Place, has_body: bool) {
        if has_body { self.u8(PLACE_HERE) } else { self.place(place) }
    }

    /// What is said about an object, and when.
    fn words(&mut self, object: &Object) {
        self.text(object.content_type.as_str());
        self.u16(object.metadata.iter().count());
        for (name, value) in object.metadata.iter() {
            self.text(name);
            self.text(value);
        }
        self.i64(object.created_at.as_millis());
        self.i64(object.updated_at.as_millis());
    }

    fn update(&mut self, update: &ObjectUpdate, has_body: bool) {
        let ObjectUpdate { seen, object, copy } = update;
        self.u8(if copy.is_some() { MOVE } else { UPDATE });
        self.class(seen.storage_class);
        self.i64(seen.updated_at.as_millis());
        self.named(object, object.size_bytes.unwrap_or(0));
        if let Some(place) = copy {
            self.copy(place, has_body);
        }
        self.words(object);
    }
}

struct Decoder<'d> {
    rest: &'d [u8],
    here: Place,
}

impl<'d> Decoder<'d> {
    fn take(&mut self, length: usize) -> Result<&'d [u8], DetailsError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DetailsError::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DetailsError> {
        self.take(N)?.try_into().map_err(|_| DetailsError::Length)
    }

    fn u8(&mut self) -> Result<u8, DetailsError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<usize, DetailsError> {
        Ok(u16::from_le_bytes(self.array()?).into())
    }

    fn u64(&mut self) -> Result<u64, DetailsError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, DetailsError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'d str, DetailsError> {
        let length = self.u16()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| DetailsError::Value(InvalidValue::Key))
    }

    fn optional<T>(
        &mut self,
        decode: impl FnOnce(&mut Self) -> Result<T, DetailsError>,
    ) -> Result<Option<T>, DetailsError> {
        match self.u8()? {
            0 => Ok(None),
            1 => decode(self).map(Some),
            _ => Err(DetailsError::Kind),
        }
    }

    fn hash(&mut self) -> Result<ContentHash, DetailsError> {
        Ok(ContentHash::from_bytes(self.array()?))
    }

    fn class(&mut self) -> Result<StorageClass, DetailsError> {
        match self.u8()? {
            0 => Ok(StorageClass::Hot),
            1 => Ok(StorageClass::Cold),
            _ => Err(DetailsError::Kind),
        }
    }

    fn scope(&mut self) -> Result<Scope, DetailsError> {
        let (namespace, tenant_id) = (Namespace::parse(self.text()?)?, TenantId::parse(self.text()?)?);
        Ok(Scope { namespace, tenant_id })
    }

    fn place(&mut self) -> Result<Place, DetailsError> {
        let tag = self.u8()?;
        if tag == PLACE_HERE {
            return Ok(self.here);
        }
        let (name, number) = (self.u64()?, self.u64()?);
        match tag {
            PLACE_FILE => Ok(Place::File { instance: InstanceId::from_i64(name.cast_signed()), number }),
            PLACE_PACK => Ok(Place::Pack { pack: PackId::from_u64(name), offset: number }),
            _ => Err(DetailsError::Kind),
        }
    }

    fn tags(&mut self) -> Result<EntityTags, DetailsError> {
        match self.u8()? {
            0 => Ok(EntityTags::Any),
            1 => {
                let count = self.u16()?;
                (0..count).map(|_| self.hash()).collect::<Result<_, _>>().map(EntityTags::Hashes)
            }
            _ => Err(DetailsError::Kind),
        }
    }

    fn precondition(&mut self) -> Result<Precondition, DetailsError> {
        Ok(Precondition {
            if_match: self.optional(Self::tags)?,
            if_none_match: self.optional(Self::tags)?,
            if_unmodified_since: self.optional(Self::i64)?,
        })
    }

    fn commit(&mut self, content_hash: ContentHash) -> Result<ObjectCommit, DetailsError> {
        let (mut object, size_bytes) = self.named(content_hash)?;
        let place = self.place()?;
        self.words(&mut object)?;
        let stored = StoredObject { object, content_hash, size_bytes, place, damaged: false };
        Ok(ObjectCommit { stored, precondition: self.precondition()?, is_first_version: false })
    }

    fn update(&mut self, moves: bool, content_hash: ContentHash) -> Result<ObjectUpdate, DetailsError> {
        let storage_class = self.class()?;
        let seen = SeenObject { storage_class, updated_at: Timestamp::from_millis(self.i64()?) };
        let (mut object, _) = self.named(content_hash)?;
        let copy = if moves { Some(self.place()?) } else { None };
        self.words(&mut object)?;
        Ok(ObjectUpdate { seen, object, copy })
    }

    /// An object by its names, of which nothing is said yet, and its size.
    fn named(&mut self, content_hash: ContentHash) -> Result<(Object, u64), DetailsError> {
        let id = ObjectId::from_slice(self.take(16)?)?;
        let scope = self.scope()?;
        let key = self.optional(|decoder| Ok(Key::parse(decoder.text()?)?))?;
        let (storage_class, size_bytes) = (self.class()?, self.u64()?);
        let object = Object {
            id,
            scope,
            key,
            status: ObjectStatus::Committed,
            storage_class,
            content_hash: Some(content_hash),
            size_bytes: Some(size_bytes),
            content_type: ContentType::octet_stream(),
            metadata: Metadata::default(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
        };
        Ok((object, size_bytes))
    }

    /// Reads [`Encoder::words`].
    fn words(&mut self, object: &mut Object) -> Result<(), DetailsError> {
        object.content_type = ContentType::parse(self.text()?)?;
        for _ in 0..self.u16()? {
            object.metadata.insert(self.text()?, self.text()?)?;
        }
        object.created_at = Timestamp::from_millis(self.i64()?);
        object.updated_at = Timestamp::from_millis(self.i64()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;
    use crate::application::contract::a_commit;

    fn here() -> Place {
        Place::Pack { pack: PackId::from_u64(77), offset: 4144 }
    }

    fn some_changes() -> Vec<Write> {
        let hash = ContentHash::from_bytes([3; 32]);
        let precondition = Precondition {
            if_match: Some(EntityTags::Hashes(vec![hash, ContentHash::from_bytes([4; 32])])),
            if_none_match: Some(EntityTags::Any),
            if_unmodified_since: Some(-7),
        };
        let mut with_all = a_commit(Some("a/k\u{e9}y"), 3, 1);
        with_all.stored.object.storage_class = StorageClass::Cold;
        with_all.stored.object.metadata.insert("framework", "torch 2").unwrap();
        with_all.stored.object.metadata.insert("a", "").unwrap();
        with_all.precondition = precondition.clone();
        let mut packed = a_commit(None, 5, 2);
        packed.stored.place = here();
        let key_path = with_all.stored.object.key_path().unwrap();
        let lost = with_all.stored.location();
        let seen = SeenObject { storage_class: StorageClass::Hot, updated_at: Timestamp::from_millis(-9) };
        let updated =
            |commit: &ObjectCommit, copy| ObjectUpdate { seen, object: commit.stored.object.clone(), copy };
        vec![
            Write::Update(updated(&with_all, None)),
            Write::Update(updated(&packed, None)),
            Write::Update(updated(&with_all, Some(lost.place))),
            Write::Update(updated(&packed, Some(here()))),
            Write::Delete { id: with_all.stored.object.id, precondition: precondition.clone() },
            Write::DeleteKey { key_path, precondition },
            Write::Mend { lost, place: here() },
            Write::Commit(with_all),
            Write::Commit(packed),
        ]
    }

    fn encoded(write: &Write, has_body: bool) -> (Vec<u8>, ContentHash) {
        let mut details = Vec::new();
        encode(write, has_body, &mut details);
        let hash = match write {
            Write::Commit(commit) => commit.stored.content_hash,
            Write::Update(update) => update.object.content_hash.unwrap(),
            _ => ContentHash::from_bytes([0; 32]),
        };
        (details, hash)
    }

    #[test]
    fn changes_round_trip() {
        for write in some_changes() {
            assert!(is_logged(&write));
            let (details, hash) = encoded(&write, false);
            assert_eq!(decode(&details, hash, here()), Ok(write));
        }
    }

    #[test]
    fn a_commit_with_a_body_is_where_its_record_is() {
        let write = Write::Commit(a_commit(Some("k"), 9, 4));
        let (details, hash) = encoded(&write, true);
        let Ok(Write::Commit(commit)) = decode(&details, hash, here()) else { panic!("a commit comes back") };
        assert_eq!(commit.stored.place, here());
    }

    #[test]
    fn a_move_with_a_body_is_where_its_record_is() {
        let (commit, seen) = (a_commit(None, 9, 4), SeenObject::of(&a_commit(None, 9, 4).stored.object));
        let (object, copy) = (commit.stored.object, Some(commit.stored.place));
        let (details, hash) = encoded(&Write::Update(ObjectUpdate { seen, object, copy }), true);
        let Ok(Write::Update(update)) = decode(&details, hash, here()) else {
            panic!("an update comes back")
        };
        assert_eq!(update.copy, Some(here()));
    }

    #[test]
    fn details_that_end_early_or_late_are_no_change() {
        for write in some_changes() {
            let (mut details, hash) = encoded(&write, false);
            for length in 0..details.len() {
                assert!(decode(&details[..length], hash, here()).is_err(), "{write:?} cut to {length}");
            }
            details.push(0);
            assert_eq!(decode(&details, hash, here()), Err(DetailsError::Length));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_decoder(bytes: Vec<u8>) {
            let _ = decode(&bytes, ContentHash::from_bytes([0; 32]), here());
        }
    }
}
