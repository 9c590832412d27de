//! An object moves to the other class, as `update_object` moves it: its bytes are copied there, a change of the object as
//! it was seen names the copy, and the old one is the collector's.

use super::actors::{Actor, Answer, Around, Next, Question, any_committed};
use super::guards::Guard;
use super::world::{World, other_class};
use crate::application::ports::{ObjectName, ObjectUpdate, SeenObject, UpdateOutcome};
use crate::domain::entities::StoredObject;
use crate::domain::value_objects::{ObjectId, Place, Timestamp};
use crate::infrastructure::plane_channel::{Write, WriteOutcome};

/// How often it looks again where others have changed the object meanwhile.
const TRIES_MAX: u32 = 5;

/// Moves one object.
#[derive(Default)]
pub(super) struct Mover {
    id: Option<ObjectId>,
    /// Its content, in the class that it moves to, and the copy there that nothing names yet.
    own: Option<(usize, Place)>,
    /// The copy that was read.
    source: Option<(usize, Place)>,
    tries: u32,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Looks,
    IsTold,
    Asks(Box<ObjectUpdate>),
    IsUpdated,
    Compares(Place),
    Mends,
    Ends,
}

impl Mover {
    fn look(&mut self, world: &mut World, around: &mut Around<'_>) -> Next {
        let Some(id) = self.id.or_else(|| any_committed(world, around.random)) else {
            return if around.random.chance(80) { Next::Again } else { Next::Over };
        };
        (self.id, self.stage) = (Some(id), Stage::IsTold);
        self.tries += 1;
        world.note("looks at what it is to move", None);
        Next::Ask(Question::Find(ObjectName::Id(id)))
    }

    /// Copies what it was told, unless it has a copy already.
    fn copy(
        &mut self,
        stored: &StoredObject,
        world: &mut World,
        around: &mut Around<'_>,
    ) -> Result<Stage, String> {
        let from = world.content_of(&stored.content_hash, stored.object.storage_class);
        let to = self.own.map_or(other_class(from), |(to, _)| to);
        if stored.damaged || from == to {
            return Ok(Stage::Ends);
        }
        let own = match self.own {
            Some((_, own)) => own,
            None if world.is_whole(from, stored.place) => {
                let own = around.places.next();
                world.note("copies", Some(stored.place));
                world.write_file(to, own);
                own
            }
            None if world.damaged.contains(&stored.place) => return Ok(Stage::Ends),
            None => return Err(format!("a mover was told {}, and found nothing there", stored.place)),
        };
        (self.own, self.source) = (Some((to, own)), Some((from, stored.place)));
        let mut object = stored.object.clone();
        object.storage_class = world.contents[to].class;
        object.updated_at = Timestamp::from_millis(object.updated_at.as_millis() + 1);
        let seen = SeenObject::of(&stored.object);
        Ok(Stage::Asks(Box::new(ObjectUpdate { seen, object, copy: Some(own) })))
    }

    /// `None` where the copy is an object's now.
    fn after_update(&self, own: Place, outcome: &UpdateOutcome) -> Option<Stage> {
        match outcome {
            UpdateOutcome::Changed if self.tries < TRIES_MAX => Some(Stage::Looks),
            UpdateOutcome::Changed | UpdateOutcome::NotFound => Some(Stage::Ends),
            UpdateOutcome::Updated { place: Some(kept), .. } if *kept != own => Some(Stage::Compares(*kept)),
            UpdateOutcome::Updated { .. } => None,
        }
    }
}

impl Actor for Mover {
    fn name(&self) -> &'static str {
        "mover"
    }

    fn step(
        &mut self,
        world: &mut World,
        around: &mut Around<'_>,
        answer: Option<Answer>,
    ) -> Result<Next, String> {
        match (std::mem::take(&mut self.stage), self.own) {
            (Stage::Looks, _) => Ok(self.look(world, around)),
            (Stage::IsTold, _) => {
                self.stage = match answer {
                    Some(Answer::Found(Some(stored))) => self.copy(&stored, world, around)?,
                    _ => Stage::Ends,
                };
                Ok(Next::Again)
            }
            (Stage::Asks(update), own) => {
                world.note("asks for its move", own.map(|(_, place)| place));
                self.stage = Stage::IsUpdated;
                Ok(Next::write(Write::Update(*update)))
            }
            (Stage::IsUpdated, Some((_, own))) => {
                let Some(Answer::Outcome(WriteOutcome::Updated(outcome))) = answer else {
                    return Err("a move was not answered as one".to_owned());
                };
                if let (UpdateOutcome::Updated { .. }, Some((from, read))) = (&outcome, self.source)
                    && around.without == Some(Guard::OldCopyStays)
                {
                    world.discard(from, read, around.roots);
                }
                let Some(stage) = self.after_update(own, &outcome) else { return Ok(Next::Over) };
                self.stage = stage;
                Ok(Next::Again)
            }
            (Stage::Compares(kept), Some((to, _))) if world.is_whole(to, kept) => {
                self.stage = Stage::Ends;
                Ok(Next::Again)
            }
            (Stage::Compares(kept), Some((to, own))) => {
                world.note("finds the other copy lost", Some(kept));
                self.stage = Stage::Mends;
                let lost = world.contents[to].at(kept);
                Ok(Next::write(Write::Mend { lost, place: own }))
            }
            (Stage::Mends, _) if matches!(answer, Some(Answer::Outcome(WriteOutcome::Mended(true)))) => {
                Ok(Next::Over)
            }
            (Stage::Mends | Stage::Ends, own) => {
                if let Some((to, own)) = own {
                    world.discard(to, own, around.roots);
                }
                Ok(Next::Over)
            }
            (Stage::IsUpdated | Stage::Compares(_), None) => Err("a mover has no copy to name".to_owned()),
        }
    }
}
