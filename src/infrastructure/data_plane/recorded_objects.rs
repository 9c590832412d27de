//! Objects that are found by their commits in the log, without the database.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::application::ports::ObjectName;
use crate::domain::entities::{Reach, StoredObject};
use crate::domain::value_objects::ObjectId;
use crate::infrastructure::record_index::{RecordIndex, RecordPlaces};
use crate::infrastructure::storage::{CommitLook, PackFiles};

/// One in so many of what is looked for here is remembered in the object cache too: what is asked for often comes there soon, and what
/// is asked for once drives nothing out.
const SAMPLED_ONE_IN: u32 = 8;

/// What an object is looked for in, on one core.
#[derive(Clone)]
pub struct RecordedObjects {
    index: Arc<RecordIndex>,
    packs: Rc<PackFiles>,
    looks: Rc<Cell<u32>>,
}

/// What has been found without waiting.
pub enum Look {
    /// The object.
    Found(Arc<StoredObject>),
    /// It may be in one of these places, which takes a disk.
    OnDisk(RecordPlaces),
}

impl RecordedObjects {
    /// What is in the packs that the index knows.
    pub fn new(index: Arc<RecordIndex>, packs: Rc<PackFiles>) -> Self {
        Self { index, packs, looks: Rc::default() }
    }

    /// An object by its name; `None` where nothing is known of it here.
    pub fn look(&self, name: &ObjectName) -> Option<Look> {
        let (id, reach) = id_of(name)?;
        let places = self.index.places(id, reach.and_then(Reach::tenant_id));
        let mut is_on_disk = false;
        for place in &places {
            match self.packs.look_at_commit(id, place) {
                CommitLook::Found(object) => return Some(Look::Found(object)),
                CommitLook::NotInMemory => is_on_disk = true,
                CommitLook::Other => {}
            }
        }
        is_on_disk.then_some(Look::OnDisk(places))
    }

    /// The same from a disk.
    pub async fn read(&self, name: &ObjectName, places: &RecordPlaces) -> Option<Arc<StoredObject>> {
        let (id, _) = id_of(name)?;
        for place in places {
            if let Some(object) = self.packs.read_commit(id, place).await {
                return Some(object);
            }
        }
        None
    }

    /// Whether the next one that is looked for is to be remembered.
    pub fn is_sampled(&self) -> bool {
        let looks = self.looks.get();
        self.looks.set(looks.wrapping_add(1));
        looks.is_multiple_of(SAMPLED_ONE_IN)
    }
}

fn id_of(name: &ObjectName) -> Option<(ObjectId, Option<&Reach>)> {
    match name {
        ObjectName::Id(id) => Some((*id, None)),
        ObjectName::IdWithin(id, reach) => Some((*id, Some(reach))),
        ObjectName::Key(_) | ObjectName::Content(..) => None,
    }
}
