//! Where in the log an object's commit stands, by the object's id. Together with the record there it answers a `GET` by id
//! that no core remembers, without the database and on the core that was asked.
//!
//! It is a cache with one simple rule: an entry is a hint where to look, and what is found there counts only if it is the
//! commit of that very object as it was when the entry was made, and nothing has changed or removed the object since. Records do
//! not change; what is changed or removed is noted in memory, in the order of the log, before anybody is told that it has been.
//!
//! ```text
//! the database has applied      a commit: its place is noted      a change, a deletion: the id is noted as stale
//! a core is asked for an id     stale? ─ no ─► places under its tag ─► the record there ─► is it the commit of that id?
//! ```
//! An entry has 15 bits of the tenant too, so that whoever asks for another tenant's object finds as much as for one that does
//! not exist, and in the same time.
//!
//! The places are in a file without a name, which the kernel keeps in memory as far as there is room; what it does not hold is
//! asked of the database, as is everything after a start until it has been asked for once.

mod packs;
mod table;

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use fastbloom::AtomicBloomFilter;
use rustix::fs::{Mode, OFlags, open};
use smallvec::SmallVec;

use self::packs::NumberedPacks;
use self::table::{Entry, Inserted, Table};
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::{ObjectId, PackId, Place, StorageClass, TenantId, Timestamp};

/// How large the file may become, in KiB: twenty million objects and more.
pub const RECORD_INDEX_KIB_MAX: u32 = 1 << 20;
/// How many objects may have been changed or removed before the index begins anew.
pub const STALE_OBJECTS_MAX: u64 = 3_000_000;
/// With four hashes, one object in a hundred is taken for stale when so many are: 4 MiB.
const STALE_BITS: usize = 10 * STALE_OBJECTS_MAX as usize;
const STALE_HASHES: u32 = 4;
/// An entry's three words, from the lowest bit on: when the object was last changed, as far as that fits; the number of the pack and
/// the owner; where in the pack the record begins, which root that is in, and how long the body is, about.
const NUMBER_BITS: u32 = 17;
const OWNER_BITS: u32 = u32::BITS - NUMBER_BITS;
const OFFSET_BITS: u32 = 28;
/// The lengths that are told apart: up to each of these, or longer.
const LENGTHS: [u16; 7] = [256, 512, 1024, 2048, 3072, 4096, 8192];

/// Where a commit may stand: in the pack of a root, from this byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Which root.
    pub storage_class: StorageClass,
    /// Which pack.
    pub pack: PackId,
    /// Where in it the record begins.
    pub offset: u64,
    /// Which of [`LENGTHS`] the body has.
    length: u32,
    /// When the object was last changed: milliseconds since 1970, the lower 32 bits.
    updated_lower: u32,
}

/// Where an object's commit may stand: hardly ever more than one place.
pub type RecordPlaces = SmallVec<[RecordPlace; 2]>;

/// The index. Cores look into it; the metadata plane alone, on its one thread, writes to it.
#[derive(Debug)]
pub struct RecordIndex {
    directory: PathBuf,
    hasher: RandomState,
    /// `None` where it cannot be written any more.
    current: RwLock<Option<Generation>>,
    generation: AtomicU64,
}

/// From one new beginning to the next.
#[derive(Debug)]
struct Generation {
    table: Table,
    packs: NumberedPacks,
    entries: AtomicU64,
    /// The objects that have been changed or removed, and some others.
    stale: AtomicBloomFilter<RandomState>,
    stale_count: AtomicU64,
}

/// The state of the index before a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexTicket(u64);

impl RecordIndex {
    /// An empty index, in a file without a name in `directory`.
    ///
    /// # Errors
    /// As open(2) and write(2); [`io::ErrorKind::Unsupported`] where the file system has no files without a name.
    pub fn in_directory(directory: &Path) -> io::Result<Arc<Self>> {
        let current = RwLock::new(Some(Generation::begin(directory)?));
        let (directory, hasher) = (directory.to_owned(), RandomState::new());
        Ok(Arc::new(Self { directory, hasher, current, generation: AtomicU64::new(0) }))
    }

    /// Where the commit of an object may stand: one of this tenant, or of any. What is found there is its commit only if it says
    /// so.
    pub fn places(&self, id: ObjectId, tenant_id: Option<&TenantId>) -> RecordPlaces {
        let current = self.current();
        let Some(current) = current.as_ref().filter(|current| !current.is_stale(&id)) else {
            return RecordPlaces::new();
        };
        let owner = tenant_id.map(|tenant_id| self.owner(tenant_id));
        let found = current.table.find(self.tag(&id));
        let found = found.iter().map(|entry| Hint::unpack(entry.words));
        let within = found.filter(|hint| owner.is_none_or(|owner| hint.owner == owner));
        within.filter_map(|hint| current.place_of(&hint)).collect()
    }

    /// To be taken before a query whose answer will be noted.
    pub fn ticket(&self) -> IndexTicket {
        IndexTicket(self.generation.load(Ordering::Acquire))
    }

    /// Notes where an object's commit stands: one that has been applied just now, or one that was found by a query behind
    /// `ticket`. What has become stale meanwhile stays so.
    pub fn note(&self, ticket: IndexTicket, stored: &StoredObject) {
        let Place::Pack { pack, offset } = stored.place else { return };
        if ticket != self.ticket() || stored.damaged {
            return;
        }
        let object = &stored.object;
        let (tag, owner) = (self.tag(&object.id), self.owner(&object.scope.tenant_id));
        let updated_lower = lower_bits(object.updated_at);
        let length = length_of(stored.size_bytes);
        let place = RecordPlace { storage_class: object.storage_class, pack, offset, length, updated_lower };
        let noted = match self.current().as_ref() {
            Some(current) => current.note(tag, owner, &place),
            None => return,
        };
        match noted {
            Ok(Noted::Done) => {}
            Ok(Noted::NoNumber) => self.clear(),
            Err(error) => {
                tracing::warn!(%error, "the index of ids cannot be written: the database is asked instead, until a restart");
                self.replace(None);
            }
        }
    }

    /// Notes that an object has been changed or removed. To be called once the database has it, and before anybody is told.
    pub fn mark_stale(&self, id: &ObjectId) {
        let marked = self.current().as_ref().map(|current| current.mark_stale(id));
        if marked.is_some_and(|count| count >= STALE_OBJECTS_MAX) {
            self.clear();
        }
    }

    /// Begins anew, where it is not known what has changed.
    pub fn clear(&self) {
        if self.current().is_none() {
            return;
        }
        match Generation::begin(&self.directory) {
            Ok(generation) => self.replace(Some(generation)),
            Err(error) => {
                tracing::warn!(%error, "the index of ids cannot begin anew: the database is asked instead, until a restart");
                self.replace(None);
            }
        }
    }

    fn replace(&self, generation: Option<Generation>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        let before = std::mem::replace(&mut *current, generation);
        drop(current);
        // Nobody waits while the kernel gives back a large file.
        drop(before);
    }

    fn current(&self) -> RwLockReadGuard<'_, Option<Generation>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, id: &ObjectId) -> u32 {
        // 0 is an empty place.
        (self.hasher.hash_one(id) as u32).max(1)
    }

    fn owner(&self, tenant_id: &TenantId) -> u32 {
        self.hasher.hash_one(tenant_id) as u32 & mask(OWNER_BITS)
    }
}

impl Generation {
    fn begin(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        let file = File::from(open(directory, flags, Mode::RUSR | Mode::WUSR)?);
        let table = Table::new(file, RECORD_INDEX_KIB_MAX)?;
        let stale =
            AtomicBloomFilter::with_num_bits(STALE_BITS).hasher(RandomState::new()).hashes(STALE_HASHES);
        let (packs, entries, stale_count) = Default::default();
        Ok(Self { table, packs, entries, stale, stale_count })
    }

    fn note(&self, tag: u32, owner: u32, place: &RecordPlace) -> io::Result<Noted> {
        let Some(offset) = u32::try_from(place.offset).ok().filter(|offset| *offset <= mask(OFFSET_BITS))
        else {
            return Ok(Noted::Done);
        };
        let Some(number) = self.packs.number(place.pack) else { return Ok(Noted::NoNumber) };
        let RecordPlace { storage_class, length, updated_lower, .. } = *place;
        let hint = Hint { updated_lower, number, owner, offset, length, storage_class };
        let entry = Entry { tag, words: hint.pack() };
        if self.table.insert(entry, self.entries.load(Ordering::Relaxed))? == Inserted::New {
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Noted::Done)
    }

    fn place_of(&self, hint: &Hint) -> Option<RecordPlace> {
        let Hint { storage_class, updated_lower, offset, length, number, .. } = *hint;
        let pack = self.packs.pack(number)?;
        Some(RecordPlace { storage_class, pack, offset: offset.into(), length, updated_lower })
    }

    fn mark_stale(&self, id: &ObjectId) -> u64 {
        self.stale.insert(id);
        // Whoever sees the answer that this comes before sees the count too.
        self.stale_count.fetch_add(1, Ordering::Release) + 1
    }

    fn is_stale(&self, id: &ObjectId) -> bool {
        self.stale_count.load(Ordering::Acquire) > 0 && self.stale.contains(id)
    }
}

/// What came of noting a place.
enum Noted {
    /// It is noted, or cannot be.
    Done,
    /// There are too many packs.
    NoNumber,
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hint {
    updated_lower: u32,
    number: u32,
    owner: u32,
    offset: u32,
    length: u32,
    storage_class: StorageClass,
}

impl Hint {
    fn pack(&self) -> [u32; 3] {
        let Self { updated_lower, number, owner, offset, length, storage_class } = *self;
        let class = u32::from(storage_class == StorageClass::Cold);
        [updated_lower, number | owner << NUMBER_BITS, offset | (class | length << 1) << OFFSET_BITS]
    }

    fn unpack([updated_lower, second, third]: [u32; 3]) -> Self {
        let rest = third >> OFFSET_BITS;
        Self {
            updated_lower,
            number: second & mask(NUMBER_BITS),
            owner: second >> NUMBER_BITS,
            offset: third & mask(OFFSET_BITS),
            length: rest >> 1,
            storage_class: if rest & 1 == 0 { StorageClass::Hot } else { StorageClass::Cold },
        }
    }
}

impl RecordPlace {
    /// Whether a commit there is of the object as it was when the place was noted.
    pub fn is_as_noted(&self, stored: &StoredObject) -> bool {
        lower_bits(stored.object.updated_at) == self.updated_lower
    }

    /// How long the body is at most, in bytes; `None` where it is longer than all that are told apart.
    pub fn body_bytes_max(&self) -> Option<usize> {
        LENGTHS.get(self.length as usize).copied().map(usize::from)
    }
}

/// Which of [`LENGTHS`] it is.
fn length_of(body_bytes: u64) -> u32 {
    LENGTHS.iter().take_while(|length| u64::from(**length) < body_bytes).fold(0, |index, _| index + 1)
}

fn lower_bits(moment: Timestamp) -> u32 {
    moment.as_millis() as u32
}

const fn mask(bits: u32) -> u32 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;

    const OFFSET_MAX: u64 = mask(OFFSET_BITS) as u64;

    fn stored(class: StorageClass, offset: u64) -> StoredObject {
        let mut stored = a_commit(None, 1, 1).stored;
        stored.object.storage_class = class;
        stored.place = Place::Pack { pack: PackId::from_u64(0x8000_0000_0000_0001), offset };
        stored
    }

    fn index() -> (tempfile::TempDir, Arc<RecordIndex>) {
        let directory = tempfile::tempdir().unwrap();
        let index = RecordIndex::in_directory(directory.path()).unwrap();
        (directory, index)
    }

    fn finds(index: &RecordIndex, stored: &StoredObject) -> bool {
        let places = index.places(stored.object.id, None);
        let place = |found: &RecordPlace| Place::Pack { pack: found.pack, offset: found.offset };
        let is_it = |found: &RecordPlace| {
            (found.storage_class, place(found)) == (stored.object.storage_class, stored.place)
                && found.is_as_noted(stored)
        };
        assert!(places.iter().all(is_it), "{places:?}");
        !places.is_empty()
    }

    #[test]
    fn what_was_noted_is_found_until_it_is_stale() {
        let (_directory, index) = index();
        let (object, other) = (stored(StorageClass::Hot, 4144), stored(StorageClass::Cold, OFFSET_MAX));
        assert!(!finds(&index, &object));
        index.note(index.ticket(), &object);
        index.note(index.ticket(), &other);
        assert!(finds(&index, &object) && finds(&index, &other));
        index.mark_stale(&object.object.id);
        assert!(!finds(&index, &object));
        index.note(index.ticket(), &object);
        assert!(!finds(&index, &object), "what was found before it became stale says nothing");
        assert!(finds(&index, &other));
    }

    #[test]
    fn what_belongs_to_another_tenant_is_not_found() {
        let (_directory, index) = index();
        let object = stored(StorageClass::Hot, 4144);
        index.note(index.ticket(), &object);
        let (id, owner) = (object.object.id, &object.object.scope.tenant_id);
        assert_eq!(index.places(id, Some(owner)).len(), 1);
        assert!(index.places(id, Some(&TenantId::parse("somebody-else").unwrap())).is_empty());
    }

    #[test]
    fn what_lies_in_no_pack_or_too_far_behind_is_not_noted() {
        let (_directory, index) = index();
        let (mut in_file, far) = (stored(StorageClass::Hot, 1), stored(StorageClass::Hot, OFFSET_MAX + 1));
        in_file.place = a_commit(None, 1, 1).stored.place;
        for object in [&in_file, &far] {
            index.note(index.ticket(), object);
            assert!(index.places(object.object.id, None).is_empty(), "{:?}", object.place);
        }
    }

    #[test]
    fn a_commit_counts_only_as_the_object_was() {
        let (_directory, index) = index();
        let mut object = stored(StorageClass::Hot, 4144);
        index.note(index.ticket(), &object);
        let place = index.places(object.object.id, None)[0];
        object.object.updated_at = Timestamp::from_millis(object.object.updated_at.as_millis() + 1);
        assert!(!place.is_as_noted(&object));
    }

    #[test]
    fn an_answer_from_before_a_new_beginning_is_not_noted() {
        let (_directory, index) = index();
        let (object, ticket) = (stored(StorageClass::Hot, 4144), index.ticket());
        index.note(ticket, &object);
        index.clear();
        assert!(!finds(&index, &object));
        index.note(ticket, &object);
        assert!(!finds(&index, &object));
        index.note(index.ticket(), &object);
        assert!(finds(&index, &object));
    }

    #[test]
    fn it_begins_anew_when_too_much_is_stale() {
        let (_directory, index) = index();
        let (object, stale) = (stored(StorageClass::Hot, 4144), ObjectId::generate());
        index.note(index.ticket(), &object);
        let ticket = index.ticket();
        for _ in 1..STALE_OBJECTS_MAX {
            index.mark_stale(&stale);
        }
        assert!(finds(&index, &object) && index.ticket() == ticket);
        index.mark_stale(&stale);
        assert!(!finds(&index, &object) && index.ticket() != ticket);
    }

    #[test]
    fn where_there_can_be_no_file_the_database_is_asked() {
        let (directory, index) = index();
        let object = stored(StorageClass::Hot, 4144);
        drop(directory);
        index.clear();
        index.note(index.ticket(), &object);
        index.mark_stale(&object.object.id);
        index.clear();
        assert!(!finds(&index, &object));
        assert!(RecordIndex::in_directory(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn an_entry_says_what_it_was_made_of() {
        for storage_class in StorageClass::ALL {
            let (updated_lower, number, offset) = (u32::MAX, mask(NUMBER_BITS) - 4, mask(OFFSET_BITS) - 1);
            for (owner, length) in [(0, 0), (0x5A5A & mask(OWNER_BITS), 5), (mask(OWNER_BITS), 7)] {
                let hint = Hint { updated_lower, number, owner, offset, length, storage_class };
                assert_eq!(Hint::unpack(hint.pack()), hint);
            }
        }
    }

    #[test]
    fn lengths_are_told_apart() {
        let (_directory, index) = index();
        for (body_bytes, most) in
            [(0, Some(256)), (256, Some(256)), (257, Some(512)), (8192, Some(8192)), (8193, None)]
        {
            let mut object = stored(StorageClass::Hot, 4144);
            object.size_bytes = body_bytes;
            index.note(index.ticket(), &object);
            assert_eq!(index.places(object.object.id, None)[0].body_bytes_max(), most);
        }
    }

    #[test]
    fn it_begins_anew_when_packs_have_no_number_left() {
        let (_directory, index) = index();
        let mut object = stored(StorageClass::Hot, 4144);
        let ticket = index.ticket();
        for number in 0..1 << NUMBER_BITS {
            object.place = Place::Pack { pack: PackId::from_u64(number), offset: 1 };
            index.note(ticket, &object);
        }
        assert_eq!(index.ticket(), ticket);
        object.place = Place::Pack { pack: PackId::from_u64(1 << NUMBER_BITS), offset: 1 };
        index.note(ticket, &object);
        assert!(index.ticket() != ticket && !finds(&index, &object));
    }
}
