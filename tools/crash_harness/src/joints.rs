//! Uploads that are parts of one object, which is made when they are joined.
//!
//! ```text
//! content   ├──────────┬──────┬─────────────┤
//! parts     each an upload of its own, over any number of cuts
//! joined    in one request: the object is there and the parts are gone, or they are all as they were; where nobody was told,
//!           the object may be there and its parts too
//! ```
//! A part that is gone is in the object, or lost.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::{Client, Request, TENANT};
use crate::content::Content;
use crate::journal::{Change, NAMESPACE, Share, StorageClass};
use crate::random::Random;
use crate::under_way::Long;
use crate::uploads::{Done, PROTOCOL, Upload, any_content};
use crate::work::{Cut, VERSIONS_MAX, any_class};

/// How many objects of a client come in parts at once.
const JOINTS_MAX: usize = 2;
/// How many parts one has at most.
const PARTS_MAX: usize = 3;

/// An object that comes in parts.
#[derive(Debug)]
pub(crate) struct Joint {
    pub(crate) number: u64,
    /// Of which key of its client it is to be a version.
    pub(crate) entry: usize,
    pub(crate) content: Content,
    pub(crate) class: StorageClass,
    /// The parts that are not made yet, the last one first.
    pub(crate) unmade: Vec<Range<usize>>,
    /// It was to be joined, and there was no answer.
    pub(crate) is_unsure: bool,
    /// Of one that is unsure, a part is gone.
    pub(crate) misses_part: bool,
    /// It is given up, or there, and the parts that are left go.
    pub(crate) is_over: bool,
}

impl Joint {
    fn any(number: u64, entry: usize, random: &mut Random) -> Self {
        let (content, class) = (any_content(random), any_class(random));
        let mut borders: Vec<_> =
            (0..random.index(PARTS_MAX)).map(|_| random.index(content.length + 1)).collect();
        borders.extend([0, content.length]);
        borders.sort_unstable();
        let mut unmade: Vec<_> = borders.windows(2).map(|pair| pair[0]..pair[1]).collect();
        unmade.reverse();
        Self { number, entry, content, class, unmade, is_unsure: false, misses_part: false, is_over: false }
    }

    /// Takes over whether its object is there, once that is known.
    pub(crate) fn settle(&mut self, is_there: bool) -> Result<()> {
        let misses_part = std::mem::take(&mut self.misses_part);
        ensure!(is_there || !misses_part, "a part is gone, and no object is there: {self:?}");
        self.is_unsure = false;
        self.is_over |= is_there;
        Ok(())
    }
}

/// Begins another object, unless enough are begun; says whether.
pub(crate) fn begin(share: &mut Share, random: &mut Random) -> bool {
    let free = share.settled();
    if share.uploads.joints.len() >= JOINTS_MAX || free.is_empty() {
        return false;
    }
    share.uploads.next_joint += 1;
    let joint = Joint::any(share.uploads.next_joint, free[random.index(free.len())], random);
    share.uploads.joints.push(joint);
    true
}

/// One whose parts are all here, if there is any.
pub(crate) fn ready(share: &Share) -> Option<usize> {
    let is_whole = |joint: &Joint| {
        let mut parts = share.uploads.parts_of(joint.number);
        joint.unmade.is_empty() && parts.all(|part| part.is_known_whole())
    };
    let entry_is_free = |joint: &Joint| {
        let entry = &share.entries[joint.entry];
        entry.in_doubt.is_none() && entry.versions.len() < VERSIONS_MAX
    };
    let joints = &share.uploads.joints;
    joints
        .iter()
        .position(|joint| !joint.is_over && !joint.is_unsure && entry_is_free(joint) && is_whole(joint))
}

/// Joins the parts of one that is ready.
///
/// # Errors
/// An answer that the server must not give.
pub(crate) fn join(client: &mut Client, share: &mut Share, index: usize, cut: &Cut<'_>) -> Result<bool> {
    let joint = &mut share.uploads.joints[index];
    let (number, length) = (joint.number, joint.content.length);
    let target = format!(
        "/v1/uploads?namespace={NAMESPACE}&tenant_id={TENANT}&key={}&storage_class={}",
        share.entries[joint.entry].key,
        joint.class.word()
    );
    joint.is_unsure = true;
    share.entries[joint.entry].in_doubt = Some(Change::Put(joint.content, joint.class));
    let mut parts: Vec<_> = share.uploads.parts_of(number).collect();
    parts.sort_by_key(|part| part.place());
    let urls: Vec<_> = parts.into_iter().map(|part| part.target.clone()).collect();
    let fields = format!("{PROTOCOL}Upload-Concat: final;{}\r\n", urls.join(" "));
    let running = cut.under_way.begin(Long::Join);
    let halfway = || running.is_halfway();
    share.uploads.nameless += 1;
    let request = Request { method: "POST", target: &target, fields: &fields, body: &[], halfway: &halfway };
    let answer = client.send(request);
    drop(running);
    let answer = match answer {
        Ok(answer) if !cut.has_begun() => answer,
        _ => return Ok(false),
    };
    match answer.status {
        201 => {}
        408 | 423 | 500.. => return Ok(false),
        status => {
            let body = String::from_utf8_lossy(&answer.body);
            bail!("{target} was joined from {urls:?} with status {status}: {body}")
        }
    }
    let id = answer.field("X-Object-Id").context("what is joined is an object")?.to_owned();
    let target = answer.field("Location").context("an upload has a name")?.to_owned();
    let told = answer.field("Upload-Offset").map(str::to_owned);
    ensure!(told == Some(length.to_string()), "{target} is as long as its parts, and told {told:?}");
    share.uploads.nameless -= 1;
    let joint = share.uploads.joints.swap_remove(index);
    share.entries[joint.entry].happened(&id);
    share.uploads.done.push(Done { target, length, id, is_joined: true });
    let parts = share.uploads.open.extract_if(.., |upload| upload.is_part_of(number));
    let targets: Vec<_> = parts.map(|part| part.target).collect();
    share.uploads.gone.extend(targets);
    Ok(true)
}

/// A part that is not made yet, of any that is not given up: as an upload without a name.
pub(crate) fn next_unmade(share: &Share) -> Option<Upload> {
    let joint = share.uploads.joints.iter().find(|joint| !joint.is_over && !joint.unmade.is_empty())?;
    let range = joint.unmade.last()?.clone();
    Some(Upload::part((joint.number, range), joint.entry, joint.content, joint.class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_content_in_its_order() {
        let mut random = Random::new(9);
        let mut counts = [0; PARTS_MAX + 1];
        for number in 0..200 {
            let joint = Joint::any(number, 0, &mut random);
            let mut end = 0;
            for part in joint.unmade.iter().rev() {
                assert_eq!(part.start, end);
                end = part.end;
            }
            assert_eq!(end, joint.content.length);
            counts[joint.unmade.len()] += 1;
        }
        assert!(counts[0] == 0 && counts[1..].iter().all(|count| *count > 30), "{counts:?}");
    }

    #[test]
    fn a_part_is_gone_only_with_the_object_there() {
        for (misses_part, is_there, holds) in
            [(false, false, true), (false, true, true), (true, true, true), (true, false, false)]
        {
            let mut joint = Joint::any(1, 0, &mut Random::new(2));
            (joint.is_unsure, joint.misses_part) = (true, misses_part);
            assert_eq!(joint.settle(is_there).is_ok(), holds);
            assert!(!holds || (joint.is_unsure, joint.is_over) == (false, is_there));
        }
    }
}
