//! Uploads in pieces (tus 1.0) that go on over any number of cuts, from where the server says that they do.
//!
//! ```text
//! sent by the client    ├──────────────────────────────┤
//! on the server's disk  ├──────────────────┤ ?
//! told to the client    ├───────────┤
//! ```
//! What the server tells after a cut lies between the other two. An upload whose bytes are all there is an object, once,
//! as soon as somebody has asked for it. A piece with a checksum counts whole, or not at all. Uploads may be parts, which
//! `joints` makes one object of.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};

use crate::checksums::Checksum;
use crate::client::{Answer, Client, Request, TENANT};
use crate::content::Content;
use crate::joints::{self, Joint};
use crate::journal::{Change, Entry, NAMESPACE, Seen, Share, StorageClass};
use crate::random::Random;
use crate::under_way::Long;
use crate::work::{Cut, VERSIONS_MAX, any_class};

/// How many uploads of a client wait for their next piece at most.
const OPEN_MAX: usize = 4;
/// Of how many that are done a client remembers what they have become.
const DONE_MAX: usize = 4;
/// One step in so many gives an upload up.
const GIVEN_UP_ONE_IN: u64 = 12;
/// One piece in so many breaks off.
const BROKEN_OFF_ONE_IN: u64 = 8;

/// An upload whose name is known, and whose end is not.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) target: String,
    /// Of which key of its client it is to be a version.
    entry: usize,
    content: Content,
    class: StorageClass,
    /// Of which object it is a part, and which part of it.
    part: Option<(u64, Range<usize>)>,
    /// The last offset that was told before a cut began.
    told: usize,
    /// No byte behind this was ever sent, but for pieces that do not count.
    sent: usize,
    latest: Latest,
    /// A piece that was broken off may still be on its way.
    has_stray: bool,
    /// How it stands is asked before it goes on.
    is_unsure: bool,
    /// How long it is comes with its last piece.
    defers_length: bool,
    /// It was to be given up, and there was no answer.
    is_ending: bool,
}

/// What the last piece may have brought, where that is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Latest {
    /// Any number of its bytes.
    Bytes,
    /// All of them, up to here, or none.
    Whole(usize),
    Nothing,
}

/// What an upload has become.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) target: String,
    pub(crate) length: usize,
    pub(crate) id: String,
    /// It was joined from others.
    pub(crate) is_joined: bool,
}

/// The uploads of one client.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pub(crate) open: Vec<Upload>,
    pub(crate) done: Vec<Done>,
    /// Those that must not be there any more.
    pub(crate) gone: Vec<String>,
    /// How many may be there whose name nobody was told.
    pub(crate) nameless: usize,
    /// Objects that come in parts, which are among those that are open.
    pub(crate) joints: Vec<Joint>,
    pub(crate) next_joint: u64,
}

/// What the server tells of an upload.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It goes on here.
    At(usize),
    /// It has become this object.
    Became(String),
    /// It is not there.
    Gone,
    /// It cannot say now.
    Busy,
}

impl Upload {
    /// One of which nothing has been sent, and whose name is not known.
    fn new(entry: usize, content: Content, class: StorageClass) -> Self {
        Self {
            target: String::new(),
            entry,
            content,
            class,
            part: None,
            told: 0,
            sent: 0,
            latest: Latest::Bytes,
            has_stray: false,
            is_unsure: false,
            defers_length: false,
            is_ending: false,
        }
    }

    /// The same, as a part of an object.
    pub(crate) fn part(
        part: (u64, Range<usize>),
        entry: usize,
        content: Content,
        class: StorageClass,
    ) -> Self {
        Self { part: Some(part), ..Self::new(entry, content, class) }
    }

    pub(crate) fn is_part_of(&self, joint: u64) -> bool {
        self.part.as_ref().is_some_and(|(number, _)| *number == joint)
    }

    /// Where in its object it begins, and where it ends.
    pub(crate) fn place(&self) -> (usize, usize) {
        self.part.as_ref().map_or((0, self.content.length), |(_, range)| (range.start, range.end))
    }

    /// Whether all of it is there, and nothing is asked any more.
    pub(crate) fn is_known_whole(&self) -> bool {
        self.told == self.length() && !self.is_unsure && !self.is_ending && !self.defers_length
    }

    fn length(&self) -> usize {
        let (start, end) = self.place();
        end - start
    }

    /// All of it.
    fn bytes(&self) -> Vec<u8> {
        let (start, end) = self.place();
        let mut bytes = self.content.bytes();
        bytes.truncate(end);
        bytes.split_off(start)
    }

    /// It goes on there, and nothing else can have come.
    fn is_known_at(&mut self, offset: usize) {
        (self.told, self.latest, self.is_unsure) = (offset, Latest::Bytes, false);
    }

    /// Holds an offset that was told against what is known.
    fn must_allow(&self, offset: usize) -> Result<()> {
        ensure!(offset >= self.told, "{offset} of {self:?}: bytes are lost whose offset was told");
        ensure!(offset <= self.sent, "{offset} of {self:?}: there are bytes that were never sent");
        let is_allowed = match self.latest {
            _ if self.has_stray || offset == self.told => true,
            Latest::Bytes => true,
            Latest::Whole(end) => offset == end,
            Latest::Nothing => false,
        };
        ensure!(is_allowed, "{offset} of {self:?}: a piece with a checksum counts in part");
        Ok(())
    }

    /// What an answer says of it.
    fn standing(&self, answer: &Answer) -> Result<Standing> {
        match answer.status {
            404 => return Ok(Standing::Gone),
            // Another request of this client may not have come to its end.
            408 | 423 | 500.. => return Ok(Standing::Busy),
            200 | 201 | 204 | 409 => {}
            status => bail!("{self:?} was answered with status {status}"),
        }
        let offset = answer.field("Upload-Offset").context("an upload has an offset")?;
        let offset = offset.parse().context("an offset is a number")?;
        self.must_allow(offset)?;
        let is_whole = offset == self.length();
        match answer.field("X-Object-Id") {
            Some(id) if is_whole && self.part.is_none() => Ok(Standing::Became(id.to_owned())),
            Some(id) => bail!("{self:?} has become {id} with {offset} bytes"),
            None if is_whole && self.part.is_none() && !self.defers_length && answer.status != 409 => {
                bail!("{self:?} is whole and no object")
            }
            None => Ok(Standing::At(offset)),
        }
    }
}

impl Uploads {
    /// How many wait for their next piece for certain.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// How many more may be found among those that wait: the nameless, and what was put aside without a sync of that.
    pub(crate) fn perhaps_count(&self) -> usize {
        self.nameless + self.done.len()
    }

    /// The parts that are made of an object.
    pub(crate) fn parts_of(&self, joint: u64) -> impl Iterator<Item = &Upload> {
        self.open.iter().filter(move |upload| upload.is_part_of(joint))
    }

    fn joint_of(&mut self, upload: &Upload) -> Option<&mut Joint> {
        self.joints.iter_mut().find(|joint| upload.is_part_of(joint.number))
    }

    /// A part has been given up, and with it what it is a part of.
    fn give_up_joint(&mut self, part: &Upload) {
        if let Some(joint) = self.joint_of(part) {
            joint.is_over = true;
        }
    }

    /// Takes over whether a change of that key that was in doubt has happened.
    pub(crate) fn settle(&mut self, entry: usize, has_happened: bool, seen: &mut Seen) -> Result<()> {
        for joint in self.joints.iter_mut().filter(|joint| joint.entry == entry && joint.is_unsure) {
            joint.settle(has_happened)?;
            seen.joined += u64::from(has_happened);
        }
        self.forget_joints();
        Ok(())
    }

    /// Forgets what is over and has no part left.
    fn forget_joints(&mut self) {
        let Self { joints, open, .. } = self;
        joints.retain(|joint| !joint.is_over || open.iter().any(|upload| upload.is_part_of(joint.number)));
    }

    /// Holds what the server says after a cut against what it said before, and remembers what it says now.
    ///
    /// # Errors
    /// Something that was told is not so any more.
    pub(crate) fn check(
        &mut self,
        client: &mut Client,
        entries: &mut [Entry],
        seen: &mut Seen,
    ) -> Result<()> {
        for target in self.gone.drain(..) {
            let status = look(client, &target)?.status;
            ensure!(status == 404, "{target} was given up, and is answered with status {status}");
        }
        for mut upload in std::mem::take(&mut self.open) {
            let answer = look(client, &upload.target)?;
            match upload.standing(&answer)? {
                Standing::At(offset) => {
                    seen.ahead += u64::from(offset > upload.told);
                    upload.is_known_at(offset);
                    (upload.is_ending, upload.has_stray) = (false, false);
                    self.open.push(upload);
                }
                Standing::Became(id) => {
                    seen.completed += 1;
                    self.became(upload, id, entries)?;
                }
                Standing::Gone if upload.is_ending => self.give_up_joint(&upload),
                Standing::Gone if self.joint_of(&upload).is_some_and(|joint| joint.is_unsure) => {
                    if let Some(joint) = self.joint_of(&upload) {
                        joint.misses_part = true;
                    }
                }
                Standing::Gone => bail!("{upload:?} is lost"),
                Standing::Busy => bail!("{upload:?} is answered with status {}", answer.status),
            }
        }
        self.forget_joints();
        self.done.iter().try_for_each(|done| done.check(client))
    }

    /// Takes over that an upload is done.
    fn became(&mut self, upload: Upload, id: String, entries: &mut [Entry]) -> Result<()> {
        let entry = &mut entries[upload.entry];
        let put = Change::Put(upload.content, upload.class);
        ensure!(entry.in_doubt == Some(put), "{upload:?} has become {id} behind the back of {entry:?}");
        entry.happened(&id);
        let (target, length) = (upload.target, upload.content.length);
        self.done.push(Done { target, length, id, is_joined: false });
        Ok(())
    }
}

impl Done {
    /// Whoever asks again is told the same, and nothing comes of it.
    fn check(&self, client: &mut Client) -> Result<()> {
        let touched = touch(client, &self.target, self.length)?;
        if self.is_joined {
            ensure!(
                touched.status == 403,
                "{self:?} takes no bytes, and is touched with status {}",
                touched.status
            );
        }
        for answer in [Some(look(client, &self.target)?), Some(touched).filter(|_| !self.is_joined)] {
            let Some(answer) = answer else { continue };
            let told = (answer.field("X-Object-Id"), answer.field("Upload-Offset"));
            let same = told == (Some(&*self.id), Some(&*self.length.to_string()));
            ensure!(same, "{self:?} is told {told:?} with status {}", answer.status);
        }
        Ok(())
    }
}

/// Takes the next step of one of a client's uploads; says whether it was acknowledged.
///
/// # Errors
/// An answer that the server must not give.
pub(crate) fn step(
    client: &mut Client,
    share: &mut Share,
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<bool> {
    let open = share.uploads.open.len();
    if share.uploads.done.len() > DONE_MAX {
        return forget(client, share, cut);
    }
    if let Some(joint) = joints::ready(share).filter(|_| random.below(2) == 0) {
        return joints::join(client, share, joint, cut);
    }
    if open < OPEN_MAX && random.below(open as u64 + 1) == 0 {
        if let Some(part) = joints::next_unmade(share) {
            return create(client, share, part, random, cut);
        }
        if random.below(3) == 0 && joints::begin(share, random) {
            return Ok(false);
        }
        return create_whole(client, share, random, cut);
    }
    if open == 0 {
        return Ok(false);
    }
    let index = random.index(open);
    let upload = share.uploads.open[index].clone();
    let (is_waited_for, is_over) =
        share.uploads.joint_of(&upload).map_or((false, false), |joint| (joint.is_unsure, joint.is_over));
    if is_waited_for {
        // Whether it is there still is not known.
        return Ok(false);
    }
    if is_over || random.below(GIVEN_UP_ONE_IN) == 0 {
        return give_up(client, share, index, cut);
    }
    if share.uploads.open[index].is_unsure {
        return ask(client, share, index, cut);
    }
    next_piece(client, share, index, random, cut)
}

fn create_whole(client: &mut Client, share: &mut Share, random: &mut Random, cut: &Cut<'_>) -> Result<bool> {
    let has_room = |index: &usize| share.entries[*index].versions.len() < VERSIONS_MAX;
    let free: Vec<_> = share.settled().into_iter().filter(has_room).collect();
    if free.is_empty() {
        return Ok(false);
    }
    let entry = free[random.index(free.len())];
    let content = any_content(random);
    let class = any_class(random);
    create(client, share, Upload::new(entry, content, class), random, cut)
}

/// Makes an upload, which may come with its first bytes, and with all of them.
fn create(
    client: &mut Client,
    share: &mut Share,
    upload: Upload,
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<bool> {
    let length = upload.length();
    let first = if random.below(3) == 0 { random.index(length + 1) } else { 0 };
    let defers_length = first < length && random.below(4) == 0;
    let ends = first == length && upload.part.is_none();
    let entry = &mut share.entries[upload.entry];
    if ends {
        entry.in_doubt = Some(Change::Put(upload.content, upload.class));
    }
    let scope = format!("namespace={NAMESPACE}&tenant_id={TENANT}&storage_class={}", upload.class.word());
    let (target, role) = match upload.part {
        Some(_) => (format!("/v1/uploads?{scope}"), "Upload-Concat: partial\r\n"),
        None => (format!("/v1/uploads?{scope}&key={}", entry.key), ""),
    };
    let length_field = match defers_length {
        true => "Upload-Defer-Length: 1\r\n".to_owned(),
        false => format!("Upload-Length: {length}\r\n"),
    };
    let bytes = upload.bytes();
    let checksum = Checksum::any(random).filter(|checksum| !checksum.is_wrong && first > 0);
    let checksum = checksum.map(|checksum| checksum.field(&bytes[..first])).unwrap_or_default();
    let fields = format!("{PROTOCOL}{PIECE}{role}{length_field}{checksum}");
    let running = cut.under_way.begin(Long::Piece);
    let halfway = || running.is_halfway();
    let request = Request {
        method: "POST",
        target: &target,
        fields: &fields,
        body: &bytes[..first],
        halfway: &halfway,
    };
    let answer = client.send(request);
    drop(running);
    share.uploads.nameless += 1;
    let answer = match answer {
        Ok(answer) if !cut.has_begun() => answer,
        _ => return Ok(false),
    };
    match answer.status {
        201 => {}
        408 | 423 | 500.. => return Ok(false),
        status => bail!("{target} was answered with status {status}"),
    }
    share.uploads.nameless -= 1;
    let target = answer.field("Location").context("an upload has a name")?.to_owned();
    let upload = Upload { target, told: first, sent: first, defers_length, ..upload };
    if let Some(joint) = share.uploads.joint_of(&upload) {
        joint.unmade.pop();
    }
    match upload.standing(&answer)? {
        Standing::At(_) => share.uploads.open.push(upload),
        Standing::Became(id) => share.uploads.became(upload, id, &mut share.entries)?,
        other => bail!("{upload:?} was made, and is {other:?}"),
    }
    Ok(true)
}

/// Mostly long enough for several pieces.
pub(crate) fn any_content(random: &mut Random) -> Content {
    if random.below(3) == 0 {
        return Content::any(random);
    }
    Content { seed: random.next(), length: 1 + random.index(700_000) }
}

fn next_piece(
    client: &mut Client,
    share: &mut Share,
    index: usize,
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<bool> {
    let upload = &mut share.uploads.open[index];
    let entry = &mut share.entries[upload.entry];
    let (offset, length, is_part) = (upload.told, upload.length(), upload.part.is_some());
    let most = length - offset;
    let piece = if random.below(2) == 0 { most } else { random.index(most + 1) };
    let end = offset + piece;
    let is_last = end == length;
    let ends = is_last && !is_part;
    if ends && (entry.in_doubt.is_some() || entry.versions.len() >= VERSIONS_MAX) {
        // It would be a second change of that key, or one version too many.
        return Ok(false);
    }
    let bytes = upload.bytes();
    let length_field = match upload.defers_length && is_last {
        true => format!("Upload-Length: {length}\r\n"),
        false => String::new(),
    };
    // A wrong one says nothing else, which could count by itself.
    let checksum =
        Checksum::any(random).filter(|checksum| piece > 0 && (!checksum.is_wrong || length_field.is_empty()));
    let is_wrong = checksum.is_some_and(|checksum| checksum.is_wrong);
    let checksum_field = checksum.map(|checksum| checksum.field(&bytes[offset..end])).unwrap_or_default();
    let fields = piece_fields(offset, &format!("{length_field}{checksum_field}"));
    let running = cut.under_way.begin(Long::Piece);
    let halfway = || running.is_halfway();
    let (target, body) = (&upload.target, &bytes[offset..end]);
    let request = Request { method: "PATCH", target, fields: &fields, body, halfway: &halfway };
    upload.is_unsure = true;
    upload.latest = match checksum {
        None => Latest::Bytes,
        Some(_) if is_wrong => Latest::Nothing,
        Some(_) => Latest::Whole(end),
    };
    if !is_last && piece > 0 && random.below(BROKEN_OFF_ONE_IN) == 0 {
        let sent = random.index(piece);
        if checksum.is_some() {
            upload.latest = Latest::Nothing;
        } else {
            upload.sent = upload.sent.max(offset + sent);
            upload.has_stray = true;
        }
        // Whether it has come is asked before the next one.
        let _ = client.break_off(request, sent);
        return Ok(false);
    }
    if ends && !is_wrong {
        entry.in_doubt = Some(Change::Put(upload.content, upload.class));
    }
    if !is_wrong {
        upload.sent = upload.sent.max(end);
    }
    let answer = client.send(request);
    drop(running);
    let answer = match answer {
        Ok(answer) if !cut.has_begun() => answer,
        _ => return Ok(false),
    };
    if is_wrong && answer.status == 460 {
        // That none of it counts shows when it is asked.
        return Ok(true);
    }
    let is_taken = answer.status == 204 && !is_wrong;
    match upload.standing(&answer)? {
        Standing::At(told) if is_taken && told == end && !ends => {
            upload.is_known_at(told);
            upload.defers_length &= !is_last;
        }
        Standing::Became(id) if is_taken && ends => {
            let upload = share.uploads.open.swap_remove(index);
            share.uploads.became(upload, id, &mut share.entries)?;
        }
        // One that broke off may have come only now, with the same bytes.
        Standing::At(_) if answer.status == 409 => return Ok(false),
        Standing::Busy => return Ok(false),
        other => bail!("the piece to {end} of {upload:?} was answered with {} and {other:?}", answer.status),
    }
    Ok(true)
}

/// Asks where it goes on, as a client does that has lost its server.
fn ask(client: &mut Client, share: &mut Share, index: usize, cut: &Cut<'_>) -> Result<bool> {
    let upload = &mut share.uploads.open[index];
    let answer = match look(client, &upload.target) {
        Ok(answer) if !cut.has_begun() => answer,
        _ => return Ok(false),
    };
    match upload.standing(&answer)? {
        Standing::At(offset) => {
            upload.told = offset;
            // The bytes of a piece that broke off may be on their way to the disk still, and the lock with them.
            let now = match touch(client, &upload.target, offset) {
                Ok(now) if !cut.has_begun() => now,
                _ => return Ok(false),
            };
            match upload.standing(&now)? {
                Standing::At(offset) if now.status == 204 => upload.is_known_at(offset),
                Standing::At(offset) => upload.told = offset,
                Standing::Became(id) => {
                    let upload = share.uploads.open.swap_remove(index);
                    share.uploads.became(upload, id, &mut share.entries)?;
                }
                Standing::Busy => {}
                Standing::Gone => bail!("{upload:?} is lost"),
            }
        }
        Standing::Became(id) => {
            let upload = share.uploads.open.swap_remove(index);
            share.uploads.became(upload, id, &mut share.entries)?;
        }
        Standing::Gone if upload.is_ending => {
            let upload = share.uploads.open.swap_remove(index);
            share.uploads.give_up_joint(&upload);
            share.uploads.forget_joints();
        }
        Standing::Gone => bail!("{upload:?} is lost"),
        Standing::Busy => return Ok(false),
    }
    Ok(true)
}

fn give_up(client: &mut Client, share: &mut Share, index: usize, cut: &Cut<'_>) -> Result<bool> {
    let upload = &mut share.uploads.open[index];
    let put = Change::Put(upload.content, upload.class);
    if upload.part.is_none() && share.entries[upload.entry].in_doubt == Some(put) {
        // It may be done already, and then stays for whoever asks.
        return Ok(false);
    }
    let was_ending = upload.is_ending;
    (upload.is_unsure, upload.is_ending) = (true, true);
    let answer = match client.send(delete(&upload.target)) {
        Ok(answer) if !cut.has_begun() => answer,
        _ => return Ok(false),
    };
    match answer.status {
        204 => {}
        // It was given up before in this run, and that had no answer or a busy one.
        404 if was_ending => {}
        408 | 423 | 500.. => return Ok(false),
        status => {
            let body = String::from_utf8_lossy(&answer.body);
            bail!("{upload:?} was given up with status {status}: {body}")
        }
    }
    let upload = share.uploads.open.swap_remove(index);
    share.uploads.give_up_joint(&upload);
    share.uploads.forget_joints();
    share.uploads.gone.push(upload.target);
    Ok(true)
}

/// Gives up what is known of the oldest that is done: its object stays.
fn forget(client: &mut Client, share: &mut Share, cut: &Cut<'_>) -> Result<bool> {
    let done = share.uploads.done.remove(0);
    share.uploads.nameless += 1;
    match client.send(delete(&done.target)) {
        Ok(answer) if !cut.has_begun() && answer.status == 204 => {
            share.uploads.nameless -= 1;
            share.uploads.gone.push(done.target);
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(crate) const PROTOCOL: &str = "Tus-Resumable: 1.0.0\r\n";
const PIECE: &str = "Content-Type: application/offset+octet-stream\r\n";

fn piece_fields(offset: usize, more: &str) -> String {
    format!("{PROTOCOL}{PIECE}Upload-Offset: {offset}\r\n{more}")
}

/// Asks for nothing but whether it goes on there.
fn touch(client: &mut Client, target: &str, offset: usize) -> Result<Answer> {
    let fields = piece_fields(offset, "");
    client.send(Request { method: "PATCH", target, fields: &fields, body: &[], halfway: &|| {} })
}

fn look(client: &mut Client, target: &str) -> Result<Answer> {
    client.send(Request { method: "HEAD", target, fields: PROTOCOL, body: &[], halfway: &|| {} })
}

fn delete(target: &str) -> Request<'_> {
    Request { method: "DELETE", target, fields: PROTOCOL, body: &[], halfway: &|| {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upload of ten bytes, of which six were told and eight sent.
    fn upload() -> Upload {
        Upload {
            target: "/v1/uploads/x".into(),
            told: 6,
            sent: 8,
            is_unsure: true,
            ..Upload::new(0, Content { seed: 1, length: 10 }, StorageClass::Hot)
        }
    }

    fn standing(upload: &Upload, status: u16, fields: &[(&str, &str)]) -> Result<Standing> {
        upload.standing(&Answer::of(status, fields))
    }

    #[test]
    fn an_offset_lies_between_what_was_told_and_what_was_sent() {
        for (offset, holds) in
            [("5", false), ("6", true), ("7", true), ("8", true), ("9", false), ("x", false)]
        {
            let told = standing(&upload(), 200, &[("Upload-Offset", offset)]);
            assert_eq!(told.is_ok(), holds, "{offset}: {told:?}");
        }
        assert_eq!(standing(&upload(), 404, &[]).unwrap(), Standing::Gone);
        assert_eq!(standing(&upload(), 423, &[]).unwrap(), Standing::Busy);
        assert!(standing(&upload(), 400, &[]).is_err());
    }

    #[test]
    fn a_piece_with_a_checksum_counts_whole_or_not_at_all() {
        for (latest, holds) in [
            (Latest::Bytes, [true; 3]),
            (Latest::Whole(8), [true, false, true]),
            (Latest::Nothing, [true, false, false]),
        ] {
            let allowed = [6, 7, 8].map(|offset| Upload { latest, ..upload() }.must_allow(offset).is_ok());
            assert_eq!(allowed, holds, "{latest:?}");
            let stray = Upload { latest, has_stray: true, ..upload() };
            assert!(stray.must_allow(7).is_ok() && stray.must_allow(9).is_err());
        }
    }

    #[test]
    fn a_part_is_no_object_and_is_its_part_of_the_bytes() {
        let content = Content { seed: 1, length: 10 };
        let part = Upload { told: 4, sent: 4, ..Upload::part((7, 3..7), 0, content, StorageClass::Hot) };
        assert_eq!((part.bytes(), part.length()), (content.bytes()[3..7].to_vec(), 4));
        assert!(part.is_known_whole() && part.is_part_of(7) && !part.is_part_of(8));
        let end = ("Upload-Offset", "4");
        assert_eq!(standing(&part, 200, &[end]).unwrap(), Standing::At(4));
        assert!(standing(&part, 200, &[end, ("X-Object-Id", "a")]).is_err());
    }

    #[test]
    fn a_whole_upload_is_an_object_and_no_other_is() {
        let whole = Upload { sent: 10, ..upload() };
        let (end, id) = (("Upload-Offset", "10"), ("X-Object-Id", "a"));
        assert_eq!(standing(&whole, 200, &[end, id]).unwrap(), Standing::Became("a".into()));
        assert!(standing(&whole, 200, &[end]).is_err());
        assert!(standing(&whole, 200, &[("Upload-Offset", "8"), id]).is_err());
        // Nobody may have told it how long it is.
        let deferring = Upload { defers_length: true, ..whole };
        assert_eq!(standing(&deferring, 200, &[end]).unwrap(), Standing::At(10));
    }

    #[test]
    fn what_becomes_of_an_upload_is_the_change_that_was_in_doubt() {
        let whole = upload();
        let mut entries = [Entry::new("k".into())];
        let mut uploads = Uploads::default();
        assert!(uploads.became(whole.clone(), "a".into(), &mut entries).is_err());
        entries[0].in_doubt = Some(Change::Put(whole.content, whole.class));
        uploads.became(whole, "a".into(), &mut entries).unwrap();
        assert_eq!(entries[0].versions.iter().map(|version| &*version.id).collect::<Vec<_>>(), ["a"]);
        assert_eq!((uploads.open_count(), uploads.perhaps_count()), (0, 1));
    }
}
