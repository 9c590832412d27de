//! One world: two contents, two keys, and what its actors and its database should agree on.

use std::collections::HashSet;
use std::fs;

use super::random::Random;
use super::wave::SHARDS;
use crate::application::ports::{CommitOutcome, DeleteOutcome, ObjectCommit, ObjectUpdate, UpdateOutcome};
use crate::domain::entities::{BlobLocation, KeyPath, Object, Scope, StoredObject};
use crate::domain::value_objects::{
    ContentHash, ContentType, EntityTags, Key, Metadata, Namespace, ObjectId, ObjectStatus, Place,
    Precondition, StorageClass, TenantId, Timestamp,
};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};
use crate::infrastructure::storage::{BlobFile, Roots, remove_blob_files};

/// How many contents a world has. Few, so that everybody is about the same.
pub(super) const CONTENTS: usize = 2;
/// Each of them may be in both classes: the first numbers are where it is put mostly, the others the other class.
pub(super) const STORED: usize = 2 * CONTENTS;
/// How many keys.
pub(super) const KEYS: usize = 2;
/// All bodies are as long.
const BODY_BYTES: usize = 8;

/// Bytes in a class, and what they are called. The hash is no hash of them: it only has to be theirs alone.
pub(super) struct Content {
    pub(super) hash: ContentHash,
    pub(super) class: StorageClass,
    body: [u8; BODY_BYTES],
    /// The path of a copy up to its place.
    path: String,
}

impl Content {
    fn new(world: usize, number: usize, class: StorageClass, roots: &Roots) -> Self {
        let name = (world * CONTENTS + number) as u64;
        let mut hash = [0; 32];
        hash[0] = u8::try_from(name % u64::from(SHARDS)).unwrap();
        hash[1..9].copy_from_slice(&name.to_be_bytes());
        let hash = ContentHash::from_bytes(hash);
        let shard = format!("blobs/{:02x}/{hash}-", hash.as_bytes()[0]);
        let path = roots.of(class).path().join(shard).into_os_string().into_string().unwrap();
        Self { hash, class, body: name.to_be_bytes(), path }
    }

    pub(super) fn at(&self, place: Place) -> BlobLocation {
        BlobLocation { storage_class: self.class, content_hash: self.hash, place }
    }
}

/// The same content in the other class.
pub(super) fn other_class(content: usize) -> usize {
    (content + CONTENTS) % STORED
}

/// Which content, mostly in its usual class.
pub(super) fn any_stored(random: &mut Random) -> usize {
    let content = random.below(CONTENTS);
    if random.chance(15) { other_class(content) } else { content }
}

/// Which world a file belongs to.
pub(super) fn world_of(file: &BlobFile) -> usize {
    let name: [u8; 8] = file.content_hash.as_bytes()[1..9].try_into().unwrap();
    usize::try_from(u64::from_be_bytes(name)).unwrap() / CONTENTS
}

/// An object that was committed.
pub(super) struct KnownObject {
    pub(super) id: ObjectId,
    pub(super) content: usize,
    /// Where its bytes were then, as a cache would remember it.
    pub(super) place: Place,
    pub(super) committed: bool,
    /// When it was changed last, as far as anybody was told.
    updated_at: Timestamp,
}

/// What happened in a world, for whoever has to understand a failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub(super) time: u64,
    pub(super) actor: Option<usize>,
    pub(super) what: &'static str,
    pub(super) place: Option<Place>,
}

pub(super) struct World {
    pub(super) number: usize,
    pub(super) contents: [Content; STORED],
    pub(super) keys: [KeyPath; KEYS],
    pub(super) objects: Vec<KnownObject>,
    /// The copy that served each content when it was last told.
    pub(super) serving: [Option<Place>; STORED],
    /// The copies that the test itself has damaged: nobody can be blamed for them.
    pub(super) damaged: HashSet<Place>,
    /// Files that actors removed since somebody last looked whether a row names them.
    pub(super) discarded: Vec<BlobFile>,
    /// Deletions that were told before the commits.
    deleted_early: HashSet<ObjectId>,
    pub(super) notes: Vec<Note>,
    /// The time and the actor of the notes to come.
    pub(super) now: (u64, Option<usize>),
    /// Whether outcomes come in the order in which their batches were committed.
    ordered: bool,
    ids: u64,
}

impl World {
    pub(super) fn new(number: usize, ordered: bool, roots: &Roots, random: &mut Random) -> Self {
        let scope = || Scope {
            namespace: Namespace::parse("models").unwrap(),
            tenant_id: TenantId::parse("acme").unwrap(),
        };
        let key = |name: usize| Key::parse(&format!("{number}/{name}")).unwrap();
        let usual: [StorageClass; CONTENTS] =
            std::array::from_fn(|_| if random.chance(70) { StorageClass::Hot } else { StorageClass::Cold });
        let content = |stored: usize| {
            let (content, usual) = (stored % CONTENTS, usual[stored % CONTENTS]);
            let other = StorageClass::ALL.into_iter().find(|class| *class != usual).unwrap();
            Content::new(number, content, if stored < CONTENTS { usual } else { other }, roots)
        };
        Self {
            number,
            contents: std::array::from_fn(content),
            keys: std::array::from_fn(|name| KeyPath { scope: scope(), key: key(name) }),
            objects: Vec::new(),
            serving: [None; STORED],
            damaged: HashSet::new(),
            discarded: Vec::new(),
            deleted_early: HashSet::new(),
            notes: Vec::new(),
            now: (0, None),
            ordered,
            ids: 0,
        }
    }

    pub(super) fn note(&mut self, what: &'static str, place: Option<Place>) {
        let (time, actor) = self.now;
        self.notes.push(Note { time, actor, what, place });
    }

    pub(super) fn new_id(&mut self) -> ObjectId {
        self.ids += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.number as u64).to_be_bytes());
        bytes[8..].copy_from_slice(&self.ids.to_be_bytes());
        ObjectId::from_slice(&bytes).unwrap()
    }

    /// An object whose upload has begun.
    pub(super) fn object(&self, id: ObjectId, content: usize, key: Option<usize>) -> Object {
        Object {
            id,
            scope: self.keys[0].scope.clone(),
            key: key.map(|key| self.keys[key].key.clone()),
            status: ObjectStatus::Writing,
            storage_class: self.contents[content].class,
            content_hash: None,
            size_bytes: None,
            content_type: ContentType::octet_stream(),
            metadata: Metadata::default(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
        }
    }

    /// The commit of an object, with its bytes at `place`.
    pub(super) fn commit(
        &self,
        mut object: Object,
        content: usize,
        place: Place,
        only_if_absent: bool,
    ) -> Write {
        let content_hash = self.contents[content].hash;
        object.status = ObjectStatus::Committed;
        (object.content_hash, object.size_bytes) = (Some(content_hash), Some(BODY_BYTES as u64));
        let size_bytes = BODY_BYTES as u64;
        let stored = StoredObject { object, content_hash, size_bytes, place, damaged: false };
        let if_none_match = only_if_absent.then_some(EntityTags::Any);
        Write::Commit(ObjectCommit {
            stored,
            precondition: Precondition { if_none_match, ..Precondition::default() },
            is_first_version: false,
            is_reference: false,
        })
    }

    pub(super) fn write_file(&mut self, content: usize, place: Place) {
        let content = &self.contents[content];
        fs::write(format!("{}{place}", content.path), content.body).unwrap();
        self.note("writes its copy", Some(place));
    }

    /// As the store removes the copy of an upload that another copy serves.
    pub(super) fn discard(&mut self, content: usize, place: Place, roots: &Roots) {
        let content = &self.contents[content];
        let file = content.at(place);
        remove_blob_files(roots.of(content.class), &[file]).unwrap();
        self.discarded.push(file);
        self.note("removes its own copy", Some(place));
    }

    /// Whether the copy is there with all its bytes. What the store looks at when it opens one (the length) tells the
    /// damage that this test does.
    pub(super) fn is_whole(&self, content: usize, place: Place) -> bool {
        let content = &self.contents[content];
        fs::read(format!("{}{place}", content.path)).is_ok_and(|bytes| bytes == content.body)
    }

    /// Loses or cuts a copy, as a disk might. `false` if it is not there.
    pub(super) fn damage(&mut self, content: usize, place: Place, whole: bool) -> bool {
        let path = format!("{}{place}", self.contents[content].path);
        let done = match whole {
            true => fs::remove_file(path),
            false => fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(3)),
        };
        if done.is_ok() {
            self.damaged.insert(place);
            self.note("damages the copy", Some(place));
        }
        done.is_ok()
    }

    /// Which content a location is of.
    pub(super) fn content_of(&self, hash: &ContentHash, class: StorageClass) -> usize {
        self.contents.iter().position(|content| content.hash == *hash && content.class == class).unwrap()
    }

    /// How many committed objects a content has.
    pub(super) fn count(&self, content: usize) -> usize {
        self.objects.iter().filter(|object| object.committed && object.content == content).count()
    }

    /// Holds what the database answers against what is known and against the files.
    pub(super) fn outcome(&mut self, write: &Write, outcome: &WriteOutcome) -> Result<(), String> {
        match (write, outcome) {
            (Write::Commit(commit), WriteOutcome::Committed(outcome)) => self.committed(commit, outcome),
            (_, WriteOutcome::Deleted(DeleteOutcome::Deleted { ids, .. })) => self.deleted(ids),
            (Write::Mend { lost, place }, WriteOutcome::Mended(true)) => self.mended(lost, *place),
            (Write::Update(update), WriteOutcome::Updated(UpdateOutcome::Updated { place, .. })) => {
                self.moved(update, *place)
            }
            _ => {
                self.note("is refused, or nothing has changed", None);
                Ok(())
            }
        }
    }

    fn committed(&mut self, commit: &ObjectCommit, outcome: &CommitOutcome) -> Result<(), String> {
        let CommitOutcome::Committed { place, .. } = outcome else {
            self.note("is refused by its condition", None);
            return Ok(());
        };
        let object = &commit.stored.object;
        let content = self.content_of(&commit.stored.content_hash, object.storage_class);
        self.note("is committed, served from", Some(*place));
        self.serves(content, *place)?;
        let committed = !self.deleted_early.remove(&object.id);
        let (id, updated_at) = (object.id, object.updated_at);
        self.objects.push(KnownObject { id, content, place: *place, committed, updated_at });
        Ok(())
    }

    fn moved(&mut self, update: &ObjectUpdate, place: Option<Place>) -> Result<(), String> {
        let Some((copy, place)) = update.copy_location().zip(place) else {
            return Err(format!("{} has moved, and nobody says where", update.object.id));
        };
        let content = self.content_of(&copy.content_hash, copy.storage_class);
        self.note("has moved, and is served from", Some(place));
        self.serves(content, place)?;
        let ObjectUpdate { object, .. } = update;
        match self.objects.iter_mut().find(|known| known.id == object.id) {
            Some(known) if known.updated_at < object.updated_at => {
                (known.content, known.place, known.updated_at) = (content, place, object.updated_at);
                Ok(())
            }
            // Where two servers write at once, word of a later move may come first.
            Some(_) if !self.ordered => Ok(()),
            _ => Err(format!("{} has moved, and was not there as it was seen", object.id)),
        }
    }

    /// A copy that a row names now, for one object more.
    fn serves(&mut self, content: usize, place: Place) -> Result<(), String> {
        if !self.damaged.contains(&place) && !self.is_whole(content, place) {
            return Err(format!("an object is served from {place}, which is not there"));
        }
        if let Some(serving) = self.serving[content].filter(|_| self.ordered && self.count(content) > 0)
            && serving != place
            && !self.damaged.contains(&serving)
        {
            return Err(format!("{place} took the place of {serving}, which was whole"));
        }
        self.serving[content] = Some(place);
        Ok(())
    }

    fn deleted(&mut self, ids: &[ObjectId]) -> Result<(), String> {
        self.note("deletes", None);
        for id in ids {
            match self.objects.iter_mut().find(|object| object.id == *id) {
                Some(object) if object.committed => object.committed = false,
                // Where two servers write at once, word of the commit may come after word of the deletion.
                None if !self.ordered => drop(self.deleted_early.insert(*id)),
                _ => return Err(format!("{id} was deleted, and was not there")),
            }
        }
        Ok(())
    }

    fn mended(&mut self, lost: &BlobLocation, place: Place) -> Result<(), String> {
        let content = self.content_of(&lost.content_hash, lost.storage_class);
        self.note("lets its copy serve", Some(place));
        if !self.damaged.contains(&lost.place) {
            return Err(format!("{} was whole and was replaced by {place}", lost.place));
        }
        if let Some(serving) = self.serving[content].filter(|_| self.ordered)
            && serving != lost.place
        {
            return Err(format!("{place} took the place of {serving}, which nobody found lost"));
        }
        if !self.is_whole(content, place) {
            return Err(format!("{place} is to serve and is not there"));
        }
        self.serving[content] = Some(place);
        Ok(())
    }
}
