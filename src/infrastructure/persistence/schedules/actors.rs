//! Who does what in a world, a step at a time. Whatever the scheduler puts between two steps of one actor, a server
//! can do too. A new kind is a new [`Actor`] with a line in [`KINDS`].

use super::guards::Guard;
use super::mover::Mover;
use super::random::Random;
use super::shared::{GRACE, LEASE};
use super::world::{CONTENTS, KEYS, World, any_stored, other_class};
use crate::application::ports::{CommitOutcome, ObjectName};
use crate::domain::entities::{BlobLocation, Reach, StoredContent, StoredObject};
use crate::domain::value_objects::{ContentHash, ObjectId, Place, Precondition};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};
use crate::infrastructure::storage::{PlaceSequence, Roots};

type MakeActor = fn(&mut Random) -> Box<dyn Actor>;

/// Each kind and how often it is met.
pub(super) const KINDS: [(usize, MakeActor); 7] = [
    (8, |random| Box::new(Uploader::new(random))),
    (6, |random| Box::new(Deleter::new(random))),
    (3, |random| Box::new(Referrer::new(random))),
    (4, |random| Box::new(Reader::new(random))),
    (5, |_| Box::new(Mover::default())),
    (1, |random| Box::new(Damager { content: any_stored(random) })),
    (1, |random| Box::new(Scrub { content: any_stored(random), name: None })),
];

/// What an actor has besides its world.
pub(super) struct Around<'a> {
    pub(super) roots: &'a Roots,
    pub(super) places: &'a PlaceSequence,
    pub(super) random: &'a mut Random,
    pub(super) without: Option<Guard>,
}

/// What an actor waits for.
pub(super) enum Question {
    /// Goes with the next batch, or one after.
    Write(Box<Write>),
    /// Whoever is told a place goes on within the grace period.
    Find(ObjectName),
    /// Note that a copy is damaged.
    Mark(BlobLocation),
    /// Keep a content, if it is there.
    Lease(ContentHash, Reach),
}

impl Next {
    pub(super) fn write(write: Write) -> Self {
        Self::Ask(Question::Write(Box::new(write)))
    }
}

/// What an actor has waited for.
pub(super) enum Answer {
    Outcome(WriteOutcome),
    Found(Option<Box<StoredObject>>),
    Marked(bool),
    Leased(Option<StoredContent>),
}

/// How an actor goes on.
pub(super) enum Next {
    /// At any time.
    Again,
    /// After an answer.
    Ask(Question),
    Over,
}

/// Somebody in a world. `Err` says which promise is broken.
pub(super) trait Actor {
    fn name(&self) -> &'static str;

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String>;
}

/// Takes a content in, as `upload_object` does.
struct Uploader {
    content: usize,
    key: Option<usize>,
    only_if_absent: bool,
    reserves: bool,
    breaks_off: bool,
    id: Option<ObjectId>,
    stage: UploadStage,
}

#[derive(Clone, Copy)]
enum UploadStage {
    Begins,
    Writes,
    Commits(Place),
    IsCommitted(Place),
    Compares { own: Place, kept: Place },
    Mends(Place),
    Discards(Place),
    Ends,
}

impl Uploader {
    fn new(random: &mut Random) -> Self {
        let key = random.chance(60).then(|| random.below(KEYS));
        let reserves = random.chance(15);
        Self {
            content: any_stored(random),
            key,
            only_if_absent: key.is_some() && random.chance(25),
            reserves,
            breaks_off: reserves && random.chance(15),
            id: None,
            stage: UploadStage::Begins,
        }
    }

    fn begin(&mut self, world: &mut World) -> Next {
        self.stage = UploadStage::Writes;
        if !self.reserves {
            return Next::Again;
        }
        world.note("reserves", None);
        let id = self.id(world);
        Next::write(Write::Reserve(world.object(id, self.content, self.key)))
    }

    fn commit(&mut self, own: Place, world: &mut World, around: &Around<'_>) -> Next {
        let id = self.id(world);
        if self.breaks_off {
            world.discard(self.content, own, around.roots);
            self.stage = UploadStage::Ends;
            return Next::write(Write::Abandon(id));
        }
        world.note("asks for its commit", Some(own));
        self.stage = UploadStage::IsCommitted(own);
        let object = world.object(id, self.content, self.key);
        Next::write(world.commit(object, self.content, own, self.only_if_absent))
    }

    fn compare(&mut self, own: Place, kept: Place, world: &mut World) -> Next {
        if world.is_whole(self.content, kept) {
            self.stage = UploadStage::Discards(own);
            return Next::Again;
        }
        world.note("finds the other copy lost", Some(kept));
        self.stage = UploadStage::Mends(own);
        let lost = world.contents[self.content].at(kept);
        Next::write(Write::Mend { lost, place: own })
    }

    fn id(&mut self, world: &mut World) -> ObjectId {
        *self.id.get_or_insert_with(|| world.new_id())
    }

    fn after_commit(own: Place, outcome: &CommitOutcome, without: Option<Guard>) -> UploadStage {
        match outcome {
            CommitOutcome::Committed { .. } if without == Some(Guard::OwnCopyServes) => {
                UploadStage::Discards(own)
            }
            CommitOutcome::Committed { place, .. } if *place == own => UploadStage::Ends,
            CommitOutcome::Committed { place, .. } => UploadStage::Compares { own, kept: *place },
            CommitOutcome::PreconditionFailed
            | CommitOutcome::QuotaExceeded
            | CommitOutcome::ContentMissing => UploadStage::Discards(own),
        }
    }

    fn own_place(&self, world: &World, around: &Around<'_>) -> Place {
        let place = around.places.next();
        match around.without {
            Some(Guard::PlaceOfItsOwn) => place.with_number((world.number * CONTENTS + self.content) as u64),
            _ => place,
        }
    }
}

impl Actor for Uploader {
    fn name(&self) -> &'static str {
        "uploader"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String> {
        let content = self.content;
        match self.stage {
            UploadStage::Begins => Ok(self.begin(world)),
            UploadStage::Writes => {
                let place = self.own_place(world, around);
                if around.without != Some(Guard::BytesFirst) {
                    world.write_file(content, place);
                }
                self.stage = UploadStage::Commits(place);
                Ok(Next::Again)
            }
            UploadStage::Commits(own) => Ok(self.commit(own, world, around)),
            UploadStage::IsCommitted(own) => {
                let Some(Answer::Outcome(WriteOutcome::Committed(outcome))) = answer else {
                    return Err("a commit was not answered as one".to_owned());
                };
                if around.without == Some(Guard::BytesFirst) {
                    world.write_file(content, own);
                }
                self.stage = Self::after_commit(own, &outcome, around.without);
                Ok(Next::Again)
            }
            UploadStage::Compares { own, kept } => Ok(self.compare(own, kept, world)),
            UploadStage::Mends(own) => {
                self.stage = match answer {
                    Some(Answer::Outcome(WriteOutcome::Mended(true))) => UploadStage::Ends,
                    _ => UploadStage::Discards(own),
                };
                Ok(Next::Again)
            }
            UploadStage::Discards(own) => {
                world.discard(content, own, around.roots);
                Ok(Next::Over)
            }
            UploadStage::Ends => Ok(Next::Over),
        }
    }
}

/// Makes an object of a content that is there, as `refer_to_content` does, or without a lease, as `refer_to_found`.
struct Referrer {
    content: usize,
    key: Option<usize>,
    /// Whether it takes a lease first.
    leases: bool,
    /// Whether an object named it when it was asked for, in its usual class and in the other one.
    is_named: [bool; 2],
    /// Until when the content is there for certain.
    until: u64,
    stage: ReferStage,
}

#[derive(Clone, Copy)]
enum ReferStage {
    Asks,
    IsTold,
    Refers(Place),
    IsCommitted,
}

impl Referrer {
    fn new(random: &mut Random) -> Self {
        let key = random.chance(40).then(|| random.below(KEYS));
        let content = random.below(CONTENTS);
        let leases = random.chance(50);
        Self { content, key, leases, is_named: [false; 2], until: 0, stage: ReferStage::Asks }
    }
}

impl Actor for Referrer {
    fn name(&self) -> &'static str {
        "referrer"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String> {
        match self.stage {
            ReferStage::Asks => {
                let tenant_id = &world.keys[0].scope.tenant_id;
                let Some(reach) = Reach::everything().of_tenant(tenant_id) else { return Ok(Next::Over) };
                self.is_named = [self.content, other_class(self.content)].map(|one| world.count(one) > 0);
                // Of what is leased already, half the time may be over.
                self.until = world.now.0 + if self.leases { LEASE / 2 + GRACE } else { GRACE - 1 };
                self.stage = ReferStage::IsTold;
                let hash = world.contents[self.content].hash;
                Ok(Next::Ask(match self.leases {
                    true => Question::Lease(hash, reach),
                    false => Question::Find(ObjectName::Content(hash, reach)),
                }))
            }
            ReferStage::IsTold => {
                let location = match answer {
                    Some(Answer::Leased(Some(leased))) => leased.location,
                    Some(Answer::Found(Some(found))) => found.location(),
                    _ => {
                        self.stage = ReferStage::Asks;
                        // Who has no lease waits for each answer.
                        let goes_on = around.random.chance(if self.leases { 80 } else { 30 });
                        return Ok(if goes_on { Next::Again } else { Next::Over });
                    }
                };
                let place = location.place;
                world.note(if self.leases { "has a lease on" } else { "was told" }, Some(place));
                let there = world.content_of(&location.content_hash, location.storage_class);
                // What only a lease holds is not held longer.
                let [usual, other] = self.is_named;
                if !(if there == self.content { usual } else { other }) {
                    self.until = 0;
                }
                self.content = there;
                self.stage = ReferStage::Refers(place);
                Ok(Next::Again)
            }
            // Objects go meanwhile, and collectors come.
            ReferStage::Refers(_) if around.random.chance(70) => Ok(Next::Again),
            ReferStage::Refers(place) => {
                world.note("asks for its reference", Some(place));
                self.stage = ReferStage::IsCommitted;
                let id = world.new_id();
                let object = world.object(id, self.content, self.key);
                let mut write = world.commit(object, self.content, place, false);
                if let Write::Commit(commit) = &mut write {
                    commit.is_reference = true;
                }
                Ok(Next::write(write))
            }
            ReferStage::IsCommitted => match answer {
                Some(Answer::Outcome(WriteOutcome::Committed(CommitOutcome::ContentMissing)))
                    if world.now.0 <= self.until =>
                {
                    Err("a content has gone that somebody has leased, or has just been told of".to_owned())
                }
                _ => Ok(Next::Over),
            },
        }
    }
}

/// Deletes objects by id or by key, one after the other.
struct Deleter {
    key: Option<usize>,
    deletions: usize,
}

impl Deleter {
    fn new(random: &mut Random) -> Self {
        let key = random.chance(40).then(|| random.below(KEYS));
        Self { key, deletions: 1 + random.below(3) }
    }
}

impl Actor for Deleter {
    fn name(&self) -> &'static str {
        "deleter"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        _: Option<Answer>,
    ) -> Result<Next, String> {
        if self.deletions == 0 {
            return Ok(Next::Over);
        }
        self.deletions -= 1;
        let precondition = Precondition::default();
        if let Some(key) = self.key {
            world.note("asks for the deletion of a key", None);
            return Ok(Next::write(Write::DeleteKey { key_path: world.keys[key].clone(), precondition }));
        }
        let Some(id) = any_committed(world, around.random) else { return Ok(Next::Again) };
        world.note("asks for the deletion of an object", None);
        Ok(Next::write(Write::Delete { id, precondition }))
    }
}

pub(super) fn any_committed(world: &World, random: &mut Random) -> Option<ObjectId> {
    let committed = world.objects.iter().filter(|object| object.committed);
    let ids: Vec<_> = committed.map(|object| object.id).collect();
    (!ids.is_empty()).then(|| ids[random.below(ids.len())])
}

/// Downloads, as `download_object` does: from the place that a cache remembers, and if the copy has gone from there,
/// from the place that the database names now.
struct Reader {
    by_key: Option<usize>,
    stage: ReadStage,
}

#[derive(Clone, Copy)]
enum ReadStage {
    Looks,
    Opens { id: ObjectId, content: usize, place: Place },
    IsTold,
}

impl Reader {
    fn new(random: &mut Random) -> Self {
        let by_key = random.chance(30).then(|| random.below(KEYS));
        Self { by_key, stage: ReadStage::Looks }
    }

    /// The answer is the last: the copy that it names has to be there.
    fn look_again(&mut self, world: &mut World, id: ObjectId) -> Next {
        world.note("looks it up", None);
        self.stage = ReadStage::IsTold;
        let name = match self.by_key {
            Some(key) => ObjectName::Key(world.keys[key].clone()),
            None => ObjectName::Id(id),
        };
        Next::Ask(Question::Find(name))
    }
}

impl Actor for Reader {
    fn name(&self) -> &'static str {
        "reader"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String> {
        match self.stage {
            ReadStage::Looks => {
                let Some(known) = world.objects.iter().rfind(|object| object.committed) else {
                    return Ok(if around.random.chance(80) { Next::Again } else { Next::Over });
                };
                let (id, content, place) = (known.id, known.content, known.place);
                if around.random.chance(40) {
                    return Ok(self.look_again(world, id));
                }
                world.note("remembers", Some(place));
                self.stage = ReadStage::Opens { id, content, place };
                Ok(Next::Again)
            }
            ReadStage::Opens { content, place, .. } if world.is_whole(content, place) => Ok(Next::Over),
            ReadStage::Opens { id, .. } => Ok(self.look_again(world, id)),
            ReadStage::IsTold => {
                let Some(Answer::Found(Some(stored))) = answer else { return Ok(Next::Over) };
                let place = stored.place;
                world.note("was told", Some(place));
                let content = world.content_of(&stored.content_hash, stored.object.storage_class);
                match world.is_whole(content, place) {
                    _ if world.damaged.contains(&place) => Ok(Next::Over),
                    _ if stored.damaged => Err(format!("{place} counts as damaged, and nobody damaged it")),
                    true => Ok(Next::Over),
                    false => Err(format!("a reader was told {place}, and found nothing there")),
                }
            }
        }
    }
}

/// Loses or cuts the copy that serves, as a disk might.
struct Damager {
    content: usize,
}

impl Actor for Damager {
    fn name(&self) -> &'static str {
        "damager"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        _: Option<Answer>,
    ) -> Result<Next, String> {
        let content = self.content;
        let damaged = world.serving[content]
            .is_some_and(|place| world.damage(content, place, around.random.chance(50)));
        Ok(if damaged || around.random.chance(30) { Next::Over } else { Next::Again })
    }
}

/// Looks at the copy that serves, and marks it if it is no good.
struct Scrub {
    content: usize,
    name: Option<BlobLocation>,
}

impl Actor for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String> {
        let content = self.content;
        if let (Some(Answer::Marked(serves)), Some(copy)) = (answer, self.name) {
            world.note(if serves { "marks" } else { "comes too late to mark" }, Some(copy.place));
            return match serves && !world.damaged.contains(&copy.place) {
                true => Err(format!("{} serves, was never damaged, and is not there", copy.place)),
                false => Ok(Next::Over),
            };
        }
        let Some(place) = world.serving[content] else { return Ok(Next::Over) };
        if world.is_whole(content, place) {
            return Ok(if around.random.chance(30) { Next::Over } else { Next::Again });
        }
        let copy = world.contents[content].at(place);
        self.name = Some(copy);
        Ok(Next::Ask(Question::Mark(copy)))
    }
}
