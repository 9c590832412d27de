//! Tells the metadata plane of reads, in a task of its own.

use std::cell::{Cell, RefCell};

use super::super::runtime::{Task, spawn};
use super::MetadataClient;
use crate::application::lifecycle::LifecycleRepository as _;
use crate::domain::value_objects::Timestamp;

/// The task that tells the metadata plane of reads, while there is one.
#[derive(Default)]
pub(super) struct Telling {
    is_under_way: Cell<bool>,
    task: RefCell<Option<Task<()>>>,
}

impl MetadataClient {
    /// Tells of the reads that wait to be told of, in a task of its own, if it is time to.
    pub fn tell_reads_when_due(&self, now: Timestamp) {
        self.reads.turn_to(now);
        if self.reads.are_due() {
            self.spawn_telling(now);
        }
    }

    /// Tells of the reads that wait to be told of.
    pub async fn tell_reads(&self, now: Timestamp) {
        let ids = self.reads.take();
        if ids.is_empty() {
            return;
        }
        match self.note_reads(ids.clone(), now).await {
            Ok(()) => self.reads.are_told(&ids, now),
            Err(_) => self.reads.put_back(ids),
        }
    }

    /// The same before the core ends, once nothing is being told any more: a task that outlived its core would keep the
    /// metadata plane from ending.
    pub async fn tell_last_reads(&self, now: Timestamp) {
        let before = self.telling.task.take();
        if let Some(before) = before {
            before.await;
        }
        self.tell_reads(now).await;
    }

    pub(super) fn spawn_telling(&self, now: Timestamp) {
        if self.telling.is_under_way.replace(true) {
            return;
        }
        let client = self.clone();
        let task = spawn(async move {
            client.tell_reads(now).await;
            client.telling.is_under_way.set(false);
        });
        *self.telling.task.borrow_mut() = Some(task);
    }
}
