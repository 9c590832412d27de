//! Which objects a core has sent that a rule asks about, until the metadata plane has been told: an id each, no more than
//! there is room for, and nothing at all where no namespace has such a rule.

use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::size_of;
use std::time::{Duration, Instant};

use crate::domain::entities::{Day, Object};
use crate::domain::value_objects::{ObjectId, StorageClass, Timestamp};
use crate::infrastructure::lifecycle_channel::{NotedNamespaces, NotedReceiver};

/// How many objects a core remembers as read and not told yet. When there are so many, they are told at once.
pub const READS_NOTED_MAX: usize = 4096;
/// How many it remembers as told for the day, so that they need not be told again.
pub const READS_TOLD_MAX: usize = 16_384;
/// How long a read is told of at the latest: so much of it a killed server forgets.
pub const READS_TOLD_WITHIN: Duration = Duration::from_secs(60);

/// One core's notes.
pub struct ReadNotes(RefCell<Notes>);

struct Notes {
    source: NotedReceiver,
    namespaces: NotedNamespaces,
    waiting: HashSet<ObjectId>,
    told: HashSet<ObjectId>,
    told_on: Day,
    told_at: Instant,
}

impl ReadNotes {
    /// Notes of the namespaces that `source` names.
    pub fn new(mut source: NotedReceiver) -> Self {
        let namespaces = source.borrow_and_update().clone();
        let mut notes = Notes {
            source,
            namespaces,
            waiting: HashSet::new(),
            told: HashSet::new(),
            told_on: Day::from_number(0),
            told_at: Instant::now(),
        };
        notes.make_room();
        Self(RefCell::new(notes))
    }

    /// Notes that an object was read. `true` if those that wait have to be told now.
    pub fn note(&self, object: &Object) -> bool {
        let notes = &mut *self.0.borrow_mut();
        // An error says that the metadata plane has ended, and with it the changes.
        if notes.source.has_changed().unwrap_or(false) {
            notes.namespaces = notes.source.borrow_and_update().clone();
            notes.make_room();
        }
        let is_asked_for = !notes.namespaces.is_empty()
            && object.storage_class == StorageClass::Hot
            && notes.namespaces.contains(&object.scope.namespace);
        if !is_asked_for || notes.told.contains(&object.id) || notes.waiting.len() >= READS_NOTED_MAX {
            return false;
        }
        notes.waiting.insert(object.id) && notes.waiting.len() == READS_NOTED_MAX
    }

    /// Whether it is time to tell what waits.
    pub fn are_due(&self) -> bool {
        let notes = self.0.borrow();
        !notes.waiting.is_empty() && notes.told_at.elapsed() >= READS_TOLD_WITHIN
    }

    /// Takes what waits to be told.
    pub fn take(&self) -> Vec<ObjectId> {
        let mut notes = self.0.borrow_mut();
        notes.told_at = Instant::now();
        notes.waiting.drain().collect()
    }

    /// What was taken has been told as read at `now`.
    pub fn are_told(&self, ids: &[ObjectId], now: Timestamp) {
        let (mut notes, today) = (self.0.borrow_mut(), Day::of(now));
        if notes.told_on != today || notes.told.len() + ids.len() > READS_TOLD_MAX {
            notes.told.clear();
            notes.told_on = today;
        }
        notes.told.extend(ids);
    }

    /// What was taken could not be told: it waits again, as far as there is room.
    pub fn put_back(&self, ids: Vec<ObjectId>) {
        let mut notes = self.0.borrow_mut();
        let room = READS_NOTED_MAX.saturating_sub(notes.waiting.len());
        notes.waiting.extend(ids.into_iter().take(room));
    }

    /// Forgets that anything was told, where a day has begun since: it is read on that day too.
    pub fn turn_to(&self, now: Timestamp) {
        let mut notes = self.0.borrow_mut();
        if notes.told_on != Day::of(now) {
            notes.told.clear();
        }
    }
}

impl Notes {
    /// Makes the room that there can be, before it is needed: no `GET` waits for memory.
    fn make_room(&mut self) {
        if !self.namespaces.is_empty() {
            self.waiting.reserve(READS_NOTED_MAX.saturating_sub(self.waiting.len()));
            self.told.reserve(READS_TOLD_MAX.saturating_sub(self.told.len()));
        }
    }
}

/// About what a core's notes take while a namespace has such a rule.
const _: () = assert!((READS_NOTED_MAX + READS_TOLD_MAX) * 2 * (size_of::<ObjectId>() + 1) < 1 << 20);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::application::fakes::an_object;

    fn noted(names: &[&str]) -> NotedNamespaces {
        Arc::new(names.iter().map(|name| an_object(name, "acme", None).scope.namespace).collect())
    }

    #[test]
    fn only_hot_objects_of_namespaces_that_ask_for_it_are_noted() {
        let (sender, source) = watch::channel(noted(&[]));
        let notes = ReadNotes::new(source);
        let object = an_object("models", "acme", None);
        notes.note(&object);
        assert!(notes.take().is_empty());
        sender.send_replace(noted(&["models"]));
        notes.note(&object);
        notes.note(&object);
        notes.note(&an_object("data", "acme", None));
        notes.note(&Object { storage_class: StorageClass::Cold, ..an_object("models", "acme", None) });
        assert_eq!(notes.take(), [object.id]);
        sender.send_replace(noted(&[]));
        notes.note(&object);
        assert!(notes.take().is_empty());
    }

    #[test]
    fn what_was_told_is_told_again_on_another_day_only() {
        let (_sender, source) = watch::channel(noted(&["models"]));
        let (notes, object) = (ReadNotes::new(source), an_object("models", "acme", None));
        let day = |number: i64| Timestamp::from_millis(number * 86_400_000);
        notes.note(&object);
        notes.are_told(&notes.take(), day(1));
        notes.turn_to(day(1));
        notes.note(&object);
        assert!(notes.take().is_empty());
        notes.turn_to(day(2));
        notes.note(&object);
        let taken = notes.take();
        assert_eq!(taken, [object.id]);
        notes.put_back(taken);
        assert_eq!(notes.take(), [object.id], "it could not be told");
    }

    #[test]
    fn when_there_is_no_room_they_are_told_at_once() {
        let (_sender, source) = watch::channel(noted(&["models"]));
        let notes = ReadNotes::new(source);
        let note = || notes.note(&an_object("models", "acme", None));
        assert!((1..READS_NOTED_MAX).all(|_| !note()));
        assert!(note());
        assert!(!note(), "whoever was told so is about to take them");
        let taken = notes.take();
        assert_eq!(taken.len(), READS_NOTED_MAX);
        note();
        notes.put_back(taken);
        assert_eq!(notes.take().len(), READS_NOTED_MAX);
    }
}
