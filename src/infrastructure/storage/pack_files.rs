//! The packs that a core has open for reading, and the commits in them.

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use lru::LruCache;

use super::file_store::{FileStoreParts, helper_failed};
use super::log_record;
use super::pack_file::open_pack;
use super::pack_format::{RECORD_HEADER_BYTES, RecordHeader, RecordKind};
use crate::application::errors::StoreError;
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::{ObjectId, PackId, Place, StorageClass};
use crate::infrastructure::data_plane::runtime::{DataFile, spawn};
use crate::infrastructure::plane_channel::Write;
use crate::infrastructure::record_index::RecordPlace;

/// How much is read behind a body that may be as long as it is thought to be: the details of most changes.
const DETAILS_BYTES_FIRST: usize = 512;
/// How much is read of a record whose body is long.
const HEADER_BYTES_FIRST: usize = 4096;
/// The longest details that are looked into.
const DETAILS_BYTES_MAX: usize = 4096;

/// What a look at a record has found.
#[derive(Debug)]
pub enum CommitLook {
    /// The commit of the object that was asked for.
    Found(Arc<StoredObject>),
    /// Something else, or nothing.
    Other,
    /// It takes a disk, or its pack is not open.
    NotInMemory,
}

/// The open packs of one core.
pub struct PackFiles {
    parts: Rc<FileStoreParts>,
    open: RefCell<LruCache<(StorageClass, PackId), Rc<DataFile>>>,
    recent: Rc<RecentRecord>,
}

/// The beginning of the record that was looked at last: whoever looks at a commit most often reads its body next.
#[derive(Default)]
pub(super) struct RecentRecord {
    place: Cell<Option<(PackId, u64)>>,
    bytes: RefCell<Vec<u8>>,
}

impl RecentRecord {
    /// So many bytes of the record at that place, if they are here.
    pub(super) fn read<T>(
        &self,
        place: (PackId, u64),
        length: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        if self.place.get() != Some(place) {
            return None;
        }
        self.bytes.borrow().get(..length).map(take)
    }
}

impl PackFiles {
    /// None yet, and up to so many.
    pub(super) fn new(parts: Rc<FileStoreParts>, open_max: NonZeroUsize) -> Rc<Self> {
        let open = RefCell::new(LruCache::new(open_max));
        Rc::new(Self { parts, open, recent: Rc::default() })
    }

    /// A pack that is open already.
    pub(super) fn opened(&self, class: StorageClass, pack: PackId) -> Option<Rc<DataFile>> {
        self.open.borrow_mut().get(&(class, pack)).cloned()
    }

    /// A pack, which is opened if need be.
    pub(super) async fn open(&self, class: StorageClass, pack: PackId) -> Result<Rc<DataFile>, StoreError> {
        if let Some(file) = self.opened(class, pack) {
            return Ok(file);
        }
        let (root, helpers) = (self.parts.roots.of(class).clone(), self.parts.helpers.reading(class));
        let file = helpers.run(move || open_pack(&root, pack)).await.map_err(helper_failed)??;
        let file = DataFile::from_std(file, self.parts.driver, helpers)
            .map_err(|error| StoreError::io("register a pack", error))?;
        let file = Rc::new(file);
        self.open.borrow_mut().put((class, pack), file.clone());
        Ok(file)
    }

    /// Closes those that have been removed while they were open here.
    pub(super) fn close_removed(&self) {
        let removed: Vec<_> = {
            let open = self.open.borrow();
            open.iter().filter(|(_, file)| file.is_removed()).map(|(key, _)| *key).collect()
        };
        for (class, pack) in removed {
            let file = self.open.borrow_mut().pop(&(class, pack));
            if let Some(file) = file.and_then(Rc::into_inner) {
                let helpers = self.parts.helpers.writing(class).clone();
                drop(spawn(async move { file.close_removed(&helpers).await }));
            }
        }
    }

    /// What is kept of the last look at a commit.
    pub(super) fn recent(&self) -> &Rc<RecentRecord> {
        &self.recent
    }

    /// The commit of an object, if the record at that place is it, as far as memory has it. Waits for nothing.
    pub fn look_at_commit(&self, id: ObjectId, place: &RecordPlace) -> CommitLook {
        let Some(file) = self.opened(place.storage_class, place.pack) else { return CommitLook::NotInMemory };
        self.recent.place.set(None);
        let mut first = self.recent.bytes.borrow_mut();
        first.clear();
        file.read_cached(&mut first, first_bytes(place), place.offset);
        if first.len() < RECORD_HEADER_BYTES {
            return CommitLook::NotInMemory;
        }
        self.recent.place.set(Some((place.pack, place.offset)));
        let Some((header, body_end, end)) = header_of_commit(&first, place) else { return CommitLook::Other };
        let mut rest = Vec::new();
        let details = match first.get(body_end..end) {
            Some(details) => details,
            None => {
                file.read_cached(&mut rest, end - body_end, place.offset + body_end as u64);
                if rest.len() < end - body_end {
                    return CommitLook::NotInMemory;
                }
                &rest
            }
        };
        commit_of(id, &header, &first, details, place).map_or(CommitLook::Other, CommitLook::Found)
    }

    /// The same, from wherever it is.
    pub async fn read_commit(&self, id: ObjectId, place: &RecordPlace) -> Option<Arc<StoredObject>> {
        let file = self.open(place.storage_class, place.pack).await.ok()?;
        let length = first_bytes(place);
        let first = file.read_at(Vec::with_capacity(length), length, place.offset).await;
        let first = first.ok().filter(|first| first.len() >= RECORD_HEADER_BYTES)?;
        let (header, body_end, end) = header_of_commit(&first, place)?;
        if let Some(details) = first.get(body_end..end) {
            return commit_of(id, &header, &first, details, place);
        }
        let length = end - body_end;
        let details = file.read_at(Vec::with_capacity(length), length, place.offset + body_end as u64).await;
        let details = details.ok().filter(|details| details.len() == length)?;
        commit_of(id, &header, &first, &details, place)
    }
}

/// How much of a record is read at first: most small ones, whole.
fn first_bytes(place: &RecordPlace) -> usize {
    place.body_bytes_max().map_or(HEADER_BYTES_FIRST, |body_bytes_max| {
        RECORD_HEADER_BYTES + body_bytes_max + DETAILS_BYTES_FIRST
    })
}

/// The header of a change that has its bytes with it, and where in its record the details begin and end.
fn header_of_commit(first: &[u8], place: &RecordPlace) -> Option<(RecordHeader, usize, usize)> {
    let header = RecordHeader::decode(first).ok()?;
    let details_bytes = header.details_bytes as usize;
    let is_it =
        header.kind == RecordKind::Change && header.pack == place.pack && header.offset == place.offset;
    let body_end = RECORD_HEADER_BYTES + header.body_bytes as usize;
    (is_it && details_bytes <= DETAILS_BYTES_MAX).then_some((header, body_end, body_end + details_bytes))
}

/// The object, if the details are those of its commit, and its bytes are in the same record.
fn commit_of(
    id: ObjectId,
    header: &RecordHeader,
    header_bytes: &[u8],
    details: &[u8],
    place: &RecordPlace,
) -> Option<Arc<StoredObject>> {
    if !RecordHeader::is_whole(header_bytes, details) {
        return None;
    }
    let here = Place::Pack { pack: place.pack, offset: place.offset };
    let Ok(Write::Commit(commit)) = log_record::decode(details, header.content_hash, here) else {
        return None;
    };
    let stored = commit.stored;
    let is_it = stored.object.id == id
        && stored.place == here
        && stored.object.storage_class == place.storage_class
        && stored.size_bytes == u64::from(header.body_bytes)
        && !commit.is_reference
        && place.is_as_noted(&stored);
    is_it.then(|| Arc::new(stored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::ports::ObjectCommit;
    use crate::infrastructure::record_index::RecordIndex;

    const PACK: PackId = PackId::from_u64(7);
    const OFFSET: u64 = 4144;

    /// A commit, where the index says that its record is, and that record without its body.
    fn recorded(metadata_bytes: usize) -> (ObjectCommit, RecordPlace, Vec<u8>, Vec<u8>) {
        let mut commit = a_commit(Some("k"), 1, 5);
        commit.stored.place = Place::Pack { pack: PACK, offset: OFFSET };
        commit.stored.object.metadata.insert("note", &"x".repeat(metadata_bytes)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let index = RecordIndex::in_directory(directory.path()).unwrap();
        index.note(index.ticket(), &commit.stored);
        let place = index.places(commit.stored.object.id, None)[0];
        let mut details = Vec::new();
        log_record::encode(&Write::Commit(commit.clone()), true, &mut details);
        let header = RecordHeader {
            kind: RecordKind::Change,
            pack: PACK,
            offset: OFFSET,
            sequence: 1,
            content_hash: commit.stored.content_hash,
            body_bytes: u32::try_from(commit.stored.size_bytes).unwrap(),
            body_checksum: 0,
            details_bytes: u32::try_from(details.len()).unwrap(),
        };
        let header = header.encode(&details).to_vec();
        (commit, place, header, details)
    }

    fn read(id: ObjectId, place: &RecordPlace, header: &[u8], details: &[u8]) -> Option<Arc<StoredObject>> {
        let (decoded, body_end, end) = header_of_commit(header, place)?;
        assert_eq!(end - body_end, details.len());
        commit_of(id, &decoded, header, details, place)
    }

    #[test]
    fn a_record_is_the_commit_of_its_object_alone_and_only_while_it_is_whole() {
        let (commit, place, header, details) = recorded(9);
        let id = commit.stored.object.id;
        assert_eq!(read(id, &place, &header, &details).as_deref(), Some(&commit.stored));
        assert_eq!(read(ObjectId::generate(), &place, &header, &details), None);
        let elsewhere: [fn(&mut RecordPlace); 3] = [
            |place| place.pack = PackId::from_u64(8),
            |place| place.offset += 1,
            |place| place.storage_class = StorageClass::Cold,
        ];
        for move_to in elsewhere {
            let mut elsewhere = place;
            move_to(&mut elsewhere);
            assert_eq!(read(id, &elsewhere, &header, &details), None, "{elsewhere:?}");
        }
        for index in 0..details.len() {
            let mut changed = details.clone();
            changed[index] ^= 1;
            assert_eq!(read(id, &place, &header, &changed), None, "byte {index}");
        }
    }

    #[test]
    fn long_details_are_left_to_the_database() {
        let (.., details) = recorded(0);
        let room = DETAILS_BYTES_MAX - details.len();
        let (commit, place, header, details) = recorded(room);
        assert_eq!(details.len(), DETAILS_BYTES_MAX);
        assert!(read(commit.stored.object.id, &place, &header, &details).is_some());
        let (commit, place, header, details) = recorded(room + 1);
        assert_eq!(read(commit.stored.object.id, &place, &header, &details), None);
    }
}
