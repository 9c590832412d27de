//! What the server has acknowledged, and what it may have done without saying so.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};

use crate::client::{Client, Listed, TENANT};
use crate::content::Content;

/// Where the journal's objects are.
pub(crate) const NAMESPACE: &str = "crash";

/// An object that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) content: Content,
}

/// Where an object's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageClass {
    Hot,
    Cold,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Content, StorageClass),
    /// All versions of the key.
    DeleteKey,
    /// The version at this index.
    DeleteVersion(usize),
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

    /// Takes over the change that was in doubt: it has happened, and `id` is the object that a put has made.
    pub(crate) fn happened(&mut self, id: &str) {
        match self.in_doubt.take() {
            Some(Change::Put(content, _)) => self.versions.push(Version { id: id.to_owned(), content }),
            Some(Change::DeleteKey) => {
                self.gone.extend(self.versions.drain(..).map(|version| version.id));
            }
            Some(Change::DeleteVersion(index)) => self.gone.push(self.versions.remove(index).id),
            None => {}
        }
    }

    /// Compares the ids that are there, oldest first, with the acknowledged ones. A change in doubt has happened
    /// whole or not at all, and is settled by what is seen.
    fn settle(&mut self, found: &[&str]) -> Result<()> {
        if self.shows(found, None) {
            self.in_doubt = None;
            return Ok(());
        }
        if self.in_doubt.is_some() && self.shows(found, self.in_doubt) {
            self.happened(found.last().copied().unwrap_or_default());
            return Ok(());
        }
        let known = |id: &&str| self.versions.iter().any(|version| version.id == *id);
        let (lost, strange) = (
            self.versions.iter().filter(|version| !found.contains(&version.id.as_str())).count(),
            found.iter().filter(|id| !known(id)).count(),
        );
        bail!("{lost} versions are lost, {strange} came back or were never sent; found {found:?} of {self:?}")
    }

    /// Whether these are the versions after that change.
    fn shows(&self, found: &[&str], change: Option<Change>) -> bool {
        let known = self.versions.iter().map(|version| version.id.as_str());
        match change {
            None => known.eq(found.iter().copied()),
            Some(Change::Put(..)) => match found.split_last() {
                Some((_, older)) => known.eq(older.iter().copied()),
                None => false,
            },
            Some(Change::DeleteKey) => found.is_empty(),
            Some(Change::DeleteVersion(deleted)) => {
                let kept = known.enumerate().filter(|(index, _)| *index != deleted);
                kept.map(|(_, id)| id).eq(found.iter().copied())
            }
        }
    }

    /// Reads the key, every version, and what was deleted lately.
    fn read_all(&mut self, client: &mut Client) -> Result<()> {
        self.read_key(client)?;
        self.versions.iter().try_for_each(|version| read_version(client, version))?;
        self.gone.drain(..).try_for_each(|id| read_deleted(client, &id))
    }

    /// Reads the key: its newest version, or nothing.
    pub(crate) fn read_key(&self, client: &mut Client) -> Result<()> {
        let answer = client.get(&key_target(&self.key))?;
        match self.versions.last() {
            None if answer.status == 404 => Ok(()),
            Some(version) if answer.status == 200 && answer.body == version.content.bytes() => Ok(()),
            newest => bail!(
                "the key {} should be {newest:?}, and is {} bytes with status {}",
                self.key,
                answer.body.len(),
                answer.status
            ),
        }
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

/// All keys, in shares that each belong to one client: a key has one change under way at most.
pub(crate) struct Journal {
    shares: Vec<Vec<Entry>>,
}

impl Journal {
    pub(crate) fn new(clients: u32, keys: u32) -> Self {
        let share = |client| (0..keys).map(|key| Entry::new(format!("{client}/{key}"))).collect();
        Self { shares: (0..clients).map(share).collect() }
    }

    pub(crate) fn shares(&mut self) -> impl Iterator<Item = &mut Vec<Entry>> {
        self.shares.iter_mut()
    }

    /// How many objects there are.
    pub(crate) fn present(&self) -> usize {
        self.shares.iter().flatten().map(|entry| entry.versions.len()).sum()
    }

    /// Compares everything that is there with everything that was acknowledged, and reads it.
    pub(crate) fn check(&mut self, port: u16) -> Result<()> {
        let mut client = Client::new(port);
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
                        share.iter_mut().try_for_each(|entry| entry.read_all(&mut client))
                    })
                })
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().unwrap_or_else(|_| bail!("a reader panicked")))
        })
    }

    fn settle(&mut self, newest_first: &[Listed]) -> Result<()> {
        let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
        for object in newest_first.iter().rev() {
            found.entry(&object.key).or_default().push(&object.id);
        }
        for entry in self.shares.iter_mut().flatten() {
            let ids = found.remove(entry.key.as_str()).unwrap_or_default();
            entry.settle(&ids).with_context(|| format!("key {}", entry.key))?;
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
        let version = |id: &&str| Version { id: (*id).to_owned(), content: CONTENT };
        Entry { in_doubt, versions: ids.iter().map(version).collect(), ..Entry::new("k".into()) }
    }

    /// What the key is taken to be after these ids were found, if that can be.
    fn settled(ids: &[&str], in_doubt: Option<Change>, found: &[&str]) -> Option<Vec<String>> {
        let mut entry = entry(ids, in_doubt);
        entry.settle(found).ok()?;
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
    fn what_was_deleted_is_looked_for_until_it_was_missed() {
        let mut entry = entry(&["a", "b", "c"], Some(Change::DeleteVersion(0)));
        entry.happened("");
        entry.in_doubt = Some(Change::DeleteKey);
        entry.happened("");
        assert_eq!(entry.forget_deleted(), ["a", "b", "c"]);
        assert_eq!(entry.forget_deleted(), [""; 0]);
    }

    #[test]
    fn an_object_of_no_key_is_noticed() {
        let listed = |id: &str, key: &str| Listed { id: id.into(), key: key.into(), blob: String::new() };
        let mut journal = Journal::new(1, 1);
        journal.shares[0][0] = entry(&["a", "b"], None);
        journal.shares[0][0].key = "0/0".into();
        let (newest, oldest) = (listed("b", "0/0"), listed("a", "0/0"));
        assert!(journal.settle(&[newest.clone(), oldest.clone()]).is_ok());
        assert!(journal.settle(&[oldest.clone(), newest.clone()]).is_err());
        assert!(journal.settle(&[newest, listed("x", "stranger"), oldest]).is_err());
    }
}
