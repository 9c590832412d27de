//! What the server has acknowledged, and what it may have done without saying so.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};

use crate::client::{Client, Listed, TENANT};
use crate::content::Content;
use crate::uploads::Uploads;

/// Where the journal's objects are.
pub(crate) const NAMESPACE: &str = "crash";

/// What the key of a version ends with that was given another one.
const RENAMED: &str = ".renamed";

/// An object that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) content: Content,
    pub(crate) class: StorageClass,
    /// What was said of it last; 0 for nothing.
    pub(crate) label: u64,
    /// Whether it has the other key.
    pub(crate) renamed: bool,
}

impl Version {
    /// Everything that a listing shows of it, but for its content.
    fn shown(&self, key: &str) -> Shown {
        let key = if self.renamed { format!("{key}{RENAMED}") } else { key.to_owned() };
        Shown { id: self.id.clone(), key, class: self.class.word().to_owned(), label: self.label }
    }
}

/// What a listing shows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    id: String,
    key: String,
    class: String,
    label: u64,
}

/// Where an object's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageClass {
    Hot,
    Cold,
}

impl StorageClass {
    /// As the server calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Hot => Self::Cold,
            Self::Cold => Self::Hot,
        }
    }
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Content, StorageClass),
    /// All versions of the key.
    DeleteKey,
    /// The version at this index.
    DeleteVersion(usize),
    /// Say this of the version at this index.
    Label(usize, u64),
    /// Move it to the other class.
    Move(usize),
    /// Give it the other key, or take it back: it is the newest then.
    Rename(usize),
}

/// One key: its versions as they were acknowledged, oldest first, and what was asked for and not answered.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) versions: Vec<Version>,
    pub(crate) in_doubt: Option<Change>,
    /// The ids of what was deleted since the last check.
    gone: Vec<String>,
}

impl Entry {
    pub(crate) fn new(key: String) -> Self {
        Self { key, versions: Vec::new(), in_doubt: None, gone: Vec::new() }
    }

    /// Whether the key itself has a version.
    pub(crate) fn is_absent(&self) -> bool {
        self.versions.iter().all(|version| version.renamed)
    }

    /// The other key.
    pub(crate) fn other_key(&self) -> String {
        format!("{}{RENAMED}", self.key)
    }

    /// The versions after a change; `id` is the object that a put makes.
    fn after(&self, change: Change, id: &str) -> Vec<Version> {
        let mut versions = self.versions.clone();
        match change {
            Change::Put(content, class) => {
                versions.push(Version { id: id.to_owned(), content, class, label: 0, renamed: false });
            }
            Change::DeleteKey => versions.retain(|version| version.renamed),
            Change::DeleteVersion(index) => drop(versions.remove(index)),
            Change::Label(index, label) => versions[index].label = label,
            Change::Move(index) => versions[index].class = versions[index].class.other(),
            Change::Rename(index) => {
                let mut version = versions.remove(index);
                version.renamed = !version.renamed;
                versions.push(version);
            }
        }
        versions
    }

    /// Takes over the change that was in doubt: it has happened, and `id` is the object that a put has made.
    pub(crate) fn happened(&mut self, id: &str) {
        let Some(change) = self.in_doubt.take() else { return };
        let before = std::mem::take(&mut self.versions);
        self.versions = Self { versions: before.clone(), ..Self::new(self.key.clone()) }.after(change, id);
        let there = |version: &&Version| self.versions.iter().any(|other| other.id == version.id);
        let gone: Vec<_> = before.iter().filter(|version| !there(version)).collect();
        self.gone.extend(gone.into_iter().map(|version| version.id.clone()));
    }

    /// Compares what is there, oldest first, with what was acknowledged. A change in doubt has happened whole or not at
    /// all, and is settled by what is seen: whether it has.
    fn settle(&mut self, found: &[Shown]) -> Result<bool> {
        let shown = |versions: &[Version]| -> Vec<Shown> {
            versions.iter().map(|version| version.shown(&self.key)).collect()
        };
        if shown(&self.versions) == found {
            self.in_doubt = None;
            return Ok(false);
        }
        let newest = found.last().map(|newest| newest.id.clone()).unwrap_or_default();
        if self.in_doubt.is_some_and(|change| shown(&self.after(change, &newest)) == found) {
            self.happened(&newest);
            return Ok(true);
        }
        let known = |found: &&Shown| self.versions.iter().any(|version| version.id == found.id);
        let there = |version: &&Version| found.iter().any(|found| found.id == version.id);
        let (lost, strange) = (
            self.versions.iter().filter(|version| !there(version)).count(),
            found.iter().filter(|found| !known(found)).count(),
        );
        bail!("{lost} versions are lost, {strange} came back or were never sent; found {found:?} of {self:?}")
    }

    /// Reads the key, every version, and what was deleted lately.
    fn read_all(&mut self, client: &mut Client) -> Result<()> {
        self.read_key(client)?;
        self.versions.iter().try_for_each(|version| read_version(client, version))?;
        self.gone.drain(..).try_for_each(|id| read_deleted(client, &id))
    }

    /// Reads both keys: the newest version of each, or nothing.
    pub(crate) fn read_key(&self, client: &mut Client) -> Result<()> {
        for (key, renamed) in [(&self.key, false), (&self.other_key(), true)] {
            let answer = client.get(&key_target(key))?;
            match self.versions.iter().rfind(|version| version.renamed == renamed) {
                None if answer.status == 404 => {}
                Some(version) if answer.status == 200 && answer.body == version.content.bytes() => {}
                newest => bail!(
                    "the key {key} should be {newest:?}, and is {} bytes with status {}",
                    answer.body.len(),
                    answer.status
                ),
            }
        }
        Ok(())
    }

    /// Forgets which objects were deleted, once somebody has seen that they are gone.
    pub(crate) fn forget_deleted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }
}

/// An acknowledged version must be there byte for byte.
pub(crate) fn read_version(client: &mut Client, version: &Version) -> Result<()> {
    let answer = client.get(&id_target(&version.id))?;
    if answer.status == 200 && answer.body == version.content.bytes() {
        return Ok(());
    }
    bail!("{version:?} is {} bytes with status {}", answer.body.len(), answer.status)
}

/// A deleted object must not be there.
pub(crate) fn read_deleted(client: &mut Client, id: &str) -> Result<()> {
    match client.get(&id_target(id))?.status {
        404 => Ok(()),
        status => bail!("the deleted object {id} answers with status {status}"),
    }
}

pub(crate) fn key_target(key: &str) -> String {
    format!("/v1/keys/{NAMESPACE}/{TENANT}/{key}")
}

pub(crate) fn id_target(id: &str) -> String {
    format!("/v1/objects/{id}")
}

/// What belongs to one client alone: a key has one change under way at most.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) entries: Vec<Entry>,
    pub(crate) uploads: Uploads,
    /// Those whose changes went in one batch that was not answered.
    pub(crate) batch: Vec<usize>,
}

impl Share {
    /// Those with no change in doubt.
    pub(crate) fn settled(&self) -> Vec<usize> {
        (0..self.entries.len()).filter(|index| self.entries[*index].in_doubt.is_none()).collect()
    }
}

/// What became of changes that nobody was told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Batches of which a part has happened, and a part has not.
    pub(crate) split_batches: u64,
    /// Uploads that go on behind the offset that was told last.
    pub(crate) ahead: u64,
    /// Uploads whose object was made by whoever asked after the crash, or before it with nobody told.
    pub(crate) completed: u64,
    /// Joins that were done with nobody told.
    pub(crate) joined: u64,
}

/// All keys, in shares that each belong to one client.
pub(crate) struct Journal {
    shares: Vec<Share>,
    pub(crate) seen: Seen,
}

impl Journal {
    pub(crate) fn new(clients: u32, keys: u32) -> Self {
        let share = |client| Share {
            entries: (0..keys).map(|key| Entry::new(format!("{client}/{key}"))).collect(),
            ..Share::default()
        };
        Self { shares: (0..clients).map(share).collect(), seen: Seen::default() }
    }

    pub(crate) fn shares(&mut self) -> impl Iterator<Item = &mut Share> {
        self.shares.iter_mut()
    }

    /// How many uploads wait for their next piece, and how many states there may be at most: of those too that were made
    /// without a word to anybody.
    pub(crate) fn waiting_uploads(&self) -> std::ops::RangeInclusive<usize> {
        let (mut open, mut perhaps) = (0, 0);
        for share in &self.shares {
            open += share.uploads.open_count();
            perhaps += share.uploads.perhaps_count();
        }
        open..=open + perhaps
    }

    /// How many objects there are.
    pub(crate) fn present(&self) -> usize {
        self.shares.iter().flat_map(|share| &share.entries).map(|entry| entry.versions.len()).sum()
    }

    /// Compares everything that is there with everything that was acknowledged, and reads it.
    pub(crate) fn check(&mut self, port: u16) -> Result<()> {
        let mut client = Client::new(port);
        // Before the listing: whoever asks for an upload that is whole has its object made.
        for (number, share) in self.shares.iter_mut().enumerate() {
            let checked = share.uploads.check(&mut client, &mut share.entries, &mut self.seen);
            checked.with_context(|| format!("uploads of client {number}"))?;
        }
        let half_done = client.list(NAMESPACE, "WRITING")?;
        if !half_done.is_empty() {
            bail!("uploads of a dead server are still listed: {half_done:?}");
        }
        self.settle(&client.list(NAMESPACE, "COMMITTED")?)?;
        std::thread::scope(|scope| {
            let readers: Vec<_> = (self.shares.iter_mut())
                .map(|share| {
                    scope.spawn(move || {
                        let mut client = Client::new(port);
                        share.entries.iter_mut().try_for_each(|entry| entry.read_all(&mut client))
                    })
                })
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().unwrap_or_else(|_| bail!("a reader panicked")))
        })
    }

    fn settle(&mut self, newest_first: &[Listed]) -> Result<()> {
        let mut found: HashMap<&str, Vec<Shown>> = HashMap::new();
        for Listed { id, key, class, label, .. } in newest_first.iter().rev() {
            let shown = Shown { id: id.clone(), key: key.clone(), class: class.clone(), label: *label };
            found.entry(key.strip_suffix(RENAMED).unwrap_or(key)).or_default().push(shown);
        }
        for share in &mut self.shares {
            let mut happened = Vec::new();
            for index in 0..share.entries.len() {
                let entry = &mut share.entries[index];
                let ids = found.remove(entry.key.as_str()).unwrap_or_default();
                let was_in_doubt = entry.in_doubt.is_some();
                let has_happened = entry.settle(&ids).with_context(|| format!("key {}", entry.key))?;
                if was_in_doubt && share.batch.contains(&index) {
                    happened.push(has_happened);
                }
                share.uploads.settle(index, has_happened, &mut self.seen)?;
            }
            share.batch.clear();
            self.seen.split_batches += u64::from(happened.contains(&true) && happened.contains(&false));
        }
        match found.into_iter().next() {
            None => Ok(()),
            Some((key, ids)) => bail!("nobody sent {key}, which is {ids:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content { seed: 1, length: 1 };
    const PUT: Change = Change::Put(CONTENT, StorageClass::Hot);

    /// A key with these versions, and a change that nobody has answered.
    fn entry(ids: &[&str], in_doubt: Option<Change>) -> Entry {
        let version = |id: &&str| Version {
            id: (*id).to_owned(),
            content: CONTENT,
            class: StorageClass::Hot,
            label: 0,
            renamed: false,
        };
        Entry { in_doubt, versions: ids.iter().map(version).collect(), ..Entry::new("k".into()) }
    }

    /// What the key is taken to be after these ids were found, if that can be.
    fn settled(ids: &[&str], in_doubt: Option<Change>, found: &[&str]) -> Option<Vec<String>> {
        let mut entry = entry(ids, in_doubt);
        let shown =
            |id: &&str| Shown { id: (*id).to_owned(), key: "k".into(), class: "hot".into(), label: 0 };
        entry.settle(&found.iter().map(shown).collect::<Vec<_>>()).ok()?;
        assert_eq!(entry.in_doubt, None);
        Some(entry.versions.into_iter().map(|version| version.id).collect())
    }

    #[test]
    fn what_was_acknowledged_must_be_all_there_is() {
        assert_eq!(settled(&[], None, &[]), Some(vec![]));
        assert_eq!(settled(&["a", "b"], None, &["a", "b"]), Some(vec!["a".into(), "b".into()]));
        for found in [&["a"][..], &[], &["b", "a"], &["a", "b", "c"], &["a", "c"]] {
            assert_eq!(settled(&["a", "b"], None, found), None, "{found:?}");
        }
    }

    #[test]
    fn a_put_in_doubt_is_there_or_not_behind_everything_older() {
        assert_eq!(settled(&["a"], Some(PUT), &["a"]), Some(vec!["a".into()]));
        assert_eq!(settled(&["a"], Some(PUT), &["a", "b"]), Some(vec!["a".into(), "b".into()]));
        for found in [&["b"][..], &[], &["b", "a"], &["a", "b", "c"]] {
            assert_eq!(settled(&["a"], Some(PUT), found), None, "{found:?}");
        }
    }

    #[test]
    fn a_deletion_in_doubt_is_whole_or_not_at_all() {
        let versions = ["a", "b", "c"];
        let all = Some(versions.map(str::to_owned).to_vec());
        for change in [Change::DeleteKey, Change::DeleteVersion(1)] {
            assert_eq!(settled(&versions, Some(change), &versions), all);
            assert_eq!(settled(&versions, Some(change), &["a"]), None);
            assert_eq!(settled(&versions, Some(change), &["b", "c"]), None);
        }
        assert_eq!(settled(&versions, Some(Change::DeleteKey), &[]), Some(vec![]));
        let others = Some(vec!["a".into(), "c".into()]);
        assert_eq!(settled(&versions, Some(Change::DeleteVersion(1)), &["a", "c"]), others);
        assert_eq!(settled(&versions, Some(Change::DeleteVersion(1)), &[]), None);
    }

    #[test]
    fn a_patch_in_doubt_is_whole_or_not_at_all() {
        for (change, shown) in [
            (Change::Label(0, 7), [("a", "k", "hot", 7), ("b", "k", "hot", 0)]),
            (Change::Move(1), [("a", "k", "hot", 0), ("b", "k", "cold", 0)]),
            (Change::Rename(0), [("b", "k", "hot", 0), ("a", "k.renamed", "hot", 0)]),
        ] {
            let found = shown.map(|(id, key, class, label)| Shown {
                id: id.into(),
                key: key.into(),
                class: class.into(),
                label,
            });
            let mut changed = entry(&["a", "b"], Some(change));
            assert!(changed.settle(&found).is_ok(), "{change:?}");
            assert!(changed.in_doubt.is_none() && changed.forget_deleted().is_empty());
            assert!(changed.settle(&found).is_ok(), "it is known now");
            assert!(entry(&["a", "b"], None).settle(&found).is_err(), "nobody asked for {change:?}");
            let mut half = found.clone();
            half[1].class = "warm".into();
            assert!(entry(&["a", "b"], Some(change)).settle(&half).is_err());
        }
    }

    #[test]
    fn what_was_deleted_is_looked_for_until_it_was_missed() {
        let mut entry = entry(&["a", "b", "c"], Some(Change::DeleteVersion(0)));
        entry.happened("");
        entry.in_doubt = Some(Change::DeleteKey);
        entry.happened("");
        assert_eq!(entry.forget_deleted(), ["a", "b", "c"]);
        assert_eq!(entry.forget_deleted(), [""; 0]);
    }

    #[test]
    fn a_batch_of_which_a_part_has_happened_is_counted() {
        let listed = |id: &str, key: &str| Listed {
            id: id.into(),
            key: key.into(),
            blob: String::new(),
            class: "hot".into(),
            label: 0,
        };
        for (found, split) in [(&["0/0", "0/1"][..], 0), (&[], 0), (&["0/1"], 1)] {
            let mut journal = Journal::new(1, 3);
            for index in [0, 1] {
                journal.shares[0].entries[index].in_doubt = Some(PUT);
                journal.shares[0].batch.push(index);
            }
            let found: Vec<_> = found.iter().map(|key| listed(key, key)).collect();
            journal.settle(&found).unwrap();
            assert_eq!(journal.seen.split_batches, split, "{found:?}");
            journal.settle(&found).unwrap();
            assert_eq!(journal.seen.split_batches, split, "once");
        }
    }

    #[test]
    fn an_object_of_no_key_is_noticed() {
        let listed = |id: &str, key: &str| Listed {
            id: id.into(),
            key: key.into(),
            blob: String::new(),
            class: "hot".into(),
            label: 0,
        };
        let mut journal = Journal::new(1, 1);
        journal.shares[0].entries[0] = entry(&["a", "b"], None);
        journal.shares[0].entries[0].key = "0/0".into();
        let (newest, oldest) = (listed("b", "0/0"), listed("a", "0/0"));
        assert!(journal.settle(&[newest.clone(), oldest.clone()]).is_ok());
        assert!(journal.settle(&[oldest.clone(), newest.clone()]).is_err());
        assert!(journal.settle(&[newest, listed("x", "stranger"), oldest]).is_err());
    }
}
