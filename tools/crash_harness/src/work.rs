//! What a client does between two cuts.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::batches::batch;
use crate::client::{Client, TENANT};
use crate::content::Content;
use crate::journal::{Change, Entry, NAMESPACE, Share, StorageClass, Version, id_target, key_target};
use crate::random::Random;
use crate::under_way::UnderWay;
use crate::uploads;

/// More versions of a key are not kept, so that reading all of them stays short.
pub(crate) const VERSIONS_MAX: usize = 4;
/// One step in so many is a batch.
const BATCH_ONE_IN: u64 = 12;
/// One step in so many is about an upload in pieces.
const UPLOAD_ONE_IN: u64 = 4;

/// The cut that is to come, and what clients tell whoever makes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut<'a> {
    pub(crate) begun: &'a AtomicBool,
    pub(crate) under_way: &'a UnderWay,
}

impl Cut<'_> {
    /// Whether an answer that has come just now is none any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }
}

/// How a change went.
#[derive(Debug)]
pub(crate) enum Outcome {
    Acknowledged,
    /// The server said that it cannot, which promises nothing.
    Refused(u16),
    /// There was no answer.
    Unanswered(anyhow::Error),
    /// The answer came after the cut had begun.
    TooLate,
}

/// Asks for a change. It is in doubt until it is acknowledged, which must be before the cut begins: without power
/// nobody answers, but a process lives on for a moment when its disk has gone, and file systems that were shut down
/// have let syncs succeed that were under way.
///
/// # Errors
/// An answer that the server must not give.
pub(crate) fn perform(
    client: &mut Client,
    entry: &mut Entry,
    change: Change,
    cut_begun: &AtomicBool,
) -> Result<Outcome> {
    entry.in_doubt = Some(change);
    let absent = entry.is_absent();
    let (answer, expected) = match change {
        Change::Put(content, StorageClass::Hot) => {
            (client.request("PUT", &key_target(&entry.key), &content.bytes()), if absent { 201 } else { 200 })
        }
        // A key alone does not say the class.
        Change::Put(content, StorageClass::Cold) => {
            let scope = format!("namespace={NAMESPACE}&tenant_id={TENANT}&key={}", entry.key);
            let target = format!("/v1/objects?{scope}&storage_class=cold");
            (client.request("POST", &target, &content.bytes()), 201)
        }
        Change::DeleteKey => {
            (client.request("DELETE", &key_target(&entry.key), &[]), if absent { 404 } else { 204 })
        }
        Change::DeleteVersion(index) => {
            let id = &entry.versions.get(index).context("only a version that is there is deleted")?.id;
            (client.request("DELETE", &id_target(id), &[]), 204)
        }
        Change::Label(index, _) | Change::Move(index) | Change::Rename(index) => {
            let version = entry.versions.get(index).context("only a version that is there is changed")?;
            let patch = patch(change, version, entry);
            (client.request("PATCH", &id_target(&version.id), patch.to_string().as_bytes()), 200)
        }
    };
    if answer.is_ok() && cut_begun.load(Ordering::SeqCst) {
        return Ok(Outcome::TooLate);
    }
    let answer = match answer {
        Ok(answer) if answer.status == expected => answer,
        Ok(answer) if answer.status == 408 || answer.status >= 500 => {
            return Ok(Outcome::Refused(answer.status));
        }
        Ok(answer) => bail!("{entry:?} was answered with status {}, not {expected}", answer.status),
        Err(error) => return Ok(Outcome::Unanswered(error)),
    };
    let object: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let id = object["id"].as_str().unwrap_or_default();
    if matches!(change, Change::Put(..)) && id.is_empty() {
        bail!("the answer to {change:?} names no object");
    }
    entry.happened(id);
    Ok(Outcome::Acknowledged)
}

/// What makes this change of a version.
fn patch(change: Change, version: &Version, entry: &Entry) -> serde_json::Value {
    match change {
        Change::Label(_, label) => json!({"metadata": {"label": label.to_string()}}),
        Change::Rename(_) if version.renamed => json!({"key": entry.key}),
        Change::Rename(_) => json!({"key": entry.other_key()}),
        _ => json!({"storage_class": version.class.other().word()}),
    }
}

/// A client at work on the keys that are its own.
pub(crate) struct Work<'j> {
    pub(crate) client: Client,
    pub(crate) share: &'j mut Share,
    pub(crate) random: Random,
}

impl Work<'_> {
    /// Puts, overwrites and deletes until it is told to stop, which is after the cut; says how much was acknowledged.
    pub(crate) fn run_until(mut self, stop: &AtomicBool, cut: Cut<'_>) -> Result<u64> {
        let mut acknowledged = 0;
        while !stop.load(Ordering::Relaxed) {
            let Some(more) = self.step(&cut)? else { break };
            acknowledged += more;
        }
        Ok(acknowledged)
    }

    /// One request, or some; `None` if there is no key left whose changes are all known.
    fn step(&mut self, cut: &Cut<'_>) -> Result<Option<u64>> {
        let Self { client, share, random } = self;
        let settled = share.settled();
        if settled.is_empty() {
            return Ok(None);
        }
        if random.below(BATCH_ONE_IN) == 0 {
            return batch(client, share, random, cut).map(Some);
        }
        if random.below(UPLOAD_ONE_IN) == 0 {
            return uploads::step(client, share, random, cut).map(|done| Some(u64::from(done)));
        }
        let entry = &mut share.entries[settled[random.index(settled.len())]];
        let change = choose(random, entry);
        let outcome = perform(client, entry, change, cut.begun)?;
        Ok(Some(u64::from(matches!(outcome, Outcome::Acknowledged))))
    }
}

/// Mostly puts, and patches, and deletions by key and by id; of a key with many versions, none that makes them more.
fn choose(random: &mut Random, entry: &Entry) -> Change {
    let versions = entry.versions.len();
    let index = random.index(versions.max(1));
    let deletes = match (random.below(4), versions) {
        (0, 1..) => return any_patch(random, index),
        _ => versions >= VERSIONS_MAX || random.below(5) == 0,
    };
    match (deletes, random.below(3)) {
        (true, 1..) if versions > 0 => Change::DeleteVersion(index),
        (true, _) => Change::DeleteKey,
        (false, _) => Change::Put(Content::any(random), any_class(random)),
    }
}

fn any_patch(random: &mut Random, index: usize) -> Change {
    match random.below(3) {
        0 => Change::Label(index, 1 + random.below(1000)),
        1 => Change::Move(index),
        _ => Change::Rename(index),
    }
}

/// Mostly hot.
pub(crate) fn any_class(random: &mut Random) -> StorageClass {
    if random.below(6) == 0 { StorageClass::Cold } else { StorageClass::Hot }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_chosen_and_versions_stay_few() {
        let mut random = Random::new(7);
        let mut entry = Entry::new("k".into());
        let mut kinds = [0; 7];
        for number in 0..2000 {
            let change = choose(&mut random, &entry);
            kinds[match change {
                Change::Put(_, StorageClass::Hot) => 0,
                Change::Put(_, StorageClass::Cold) => 1,
                Change::DeleteKey => 2,
                Change::DeleteVersion(_) => 3,
                Change::Label(..) => 4,
                Change::Move(_) => 5,
                Change::Rename(_) => 6,
            }] += 1;
            entry.in_doubt = Some(change);
            entry.happened(&number.to_string());
            assert!(entry.versions.len() <= VERSIONS_MAX, "{number}");
        }
        assert!(kinds.iter().all(|count| *count > 40), "{kinds:?}");
        assert!(entry.versions.iter().all(|Version { id, .. }| !id.is_empty()));
    }
}
