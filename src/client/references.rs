//! Files whose bytes a server has already: many of them become objects with one request that says only what they are.

use std::cell::Cell;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use ureq::http::header::{self, HeaderName};

use super::errors::ClientError;
use super::hashing::hash_files;
use super::local_tree::LocalFile;
use super::remote::Remote;
use crate::domain::entities::Scope;
use crate::domain::value_objects::ContentHash;

/// How many files are gone through at once: referred to, and what is left of them sent. As many as one request names.
const FILES_AT_ONCE: usize = 10_000;
/// How many bytes they have at most, unless one file has more: what had to be hashed for nothing is sent while it is still
/// in memory.
const BYTES_AT_ONCE: u64 = 1024 * 1024 * 1024;
/// The longest list that a server takes.
const LIST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What stands around the items of a list.
const LIST: (&[u8], &[u8]) = (br#"{"items":["#, b"]}");
/// From this size on a file is referred to before it is sent, whatever became of others.
const LARGE_BYTES_MIN: u64 = 64 * 1024;
/// So many of the smaller files are referred to ahead of the others, which are only if the server has half of these: where all
/// is new, that takes the time of a few files, and no more.
const SAMPLES: usize = 64;

/// The files in parts that are gone through one after the other.
pub(super) fn parts(files: &[LocalFile]) -> Vec<&[LocalFile]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0_u64);
    for (index, file) in files.iter().enumerate() {
        let is_full = index - start == FILES_AT_ONCE || bytes.saturating_add(file.size_bytes) > BYTES_AT_ONCE;
        if is_full && index > start {
            parts.push(&files[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(file.size_bytes);
    }
    parts.push(&files[start..]);
    parts
}

/// How files are referred to.
pub(super) struct References<'a> {
    remote: &'a Remote,
    /// Header fields with metadata for every object.
    metadata: Vec<(HeaderName, &'a str)>,
    content_type: Option<&'a str>,
    workers: u16,
    /// Whether the server knows how.
    is_understood: Cell<bool>,
}

/// A file that has become an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Referred {
    /// Which of the files.
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) content_hash: ContentHash,
    pub(super) size_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    digest: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

#[derive(Deserialize)]
struct Outcome {
    index: usize,
    status: u16,
    id: Option<String>,
    content_hash: Option<String>,
    size_bytes: Option<u64>,
}

impl<'a> References<'a> {
    /// With these header fields, which say what every object is.
    pub(super) fn new(remote: &'a Remote, fields: &'a [(HeaderName, String)], workers: u16) -> Self {
        let fields = fields.iter().map(|(name, value)| (name.clone(), value.as_str()));
        let (types, metadata): (Vec<_>, Vec<_>) = fields.partition(|(name, _)| *name == header::CONTENT_TYPE);
        let content_type = types.first().map(|(_, value)| *value);
        Self { remote, metadata, content_type, workers, is_understood: Cell::new(true) }
    }

    /// Makes objects of those of the files that their tenant has the bytes of, as far as these are worth asking about, and says
    /// which. A file that cannot be read, or that the server will not have, is told of when it is sent.
    pub(super) fn refer(
        &self,
        files: &[LocalFile],
        wanted: &[usize],
        hashes: &mut [Option<ContentHash>],
    ) -> Vec<Referred> {
        let is_large = |index: &usize| files[*index].size_bytes >= LARGE_BYTES_MIN;
        let (large, small): (Vec<usize>, Vec<usize>) = wanted.iter().copied().partition(is_large);
        let step = small.len().div_ceil(SAMPLES).max(1);
        let (ahead, others): (Vec<_>, Vec<_>) =
            small.into_iter().enumerate().partition(|(place, _)| place % step == 0);
        let ahead: HashSet<usize> = ahead.into_iter().map(|(_, index)| index).collect();
        let mut first: Vec<_> = large.into_iter().chain(ahead.iter().copied()).collect();
        first.sort_unstable();
        let mut referred = self.refer_each(files, &first, hashes);
        let there = referred.iter().filter(|referred| ahead.contains(&referred.index)).count();
        if 2 * there >= ahead.len() {
            let others: Vec<_> = others.into_iter().map(|(_, index)| index).collect();
            referred.append(&mut self.refer_each(files, &others, hashes));
        }
        referred
    }

    fn refer_each(
        &self,
        files: &[LocalFile],
        wanted: &[usize],
        hashes: &mut [Option<ContentHash>],
    ) -> Vec<Referred> {
        let mut referred = Vec::new();
        if !self.is_understood.get() {
            return referred;
        }
        hash_files(files, wanted, hashes, self.workers);
        let (mut list, mut listed) = (LIST.0.to_vec(), Vec::new());
        for index in wanted {
            let Some(hash) = hashes[*index] else { continue };
            let item = self.item(&files[*index], &hash);
            if list.len() + 1 + item.len() + LIST.1.len() > LIST_BYTES_MAX || listed.len() == FILES_AT_ONCE {
                self.send(files, std::mem::replace(&mut list, LIST.0.to_vec()), &listed, &mut referred);
                listed.clear();
            }
            if !listed.is_empty() {
                list.push(b',');
            }
            list.extend_from_slice(&item);
            listed.push((*index, hash));
        }
        self.send(files, list, &listed, &mut referred);
        referred
    }

    fn item(&self, file: &LocalFile, hash: &ContentHash) -> Vec<u8> {
        let (key, digest) = (file.target.key.as_str(), format!("sha256:{hash}"));
        // A struct of texts always has a JSON form.
        serde_json::to_vec(&Item { key, digest: &digest, content_type: self.content_type })
            .unwrap_or_default()
    }

    fn send(
        &self,
        files: &[LocalFile],
        mut list: Vec<u8>,
        listed: &[(usize, ContentHash)],
        referred: &mut Vec<Referred>,
    ) {
        let Some((first, _)) = listed.first().filter(|_| self.is_understood.get()) else { return };
        list.extend_from_slice(LIST.1);
        match self.ask(&files[*first].target.scope, &list) {
            Ok(outcomes) => referred.extend(outcomes.into_iter().filter_map(|outcome| done(outcome, listed))),
            // What has passed by then, or keeps anything from being sent, is found out when the files are.
            Err(
                ClientError::Later { .. } | ClientError::Unreachable { .. } | ClientError::Refused { .. },
            ) => {}
            Err(_) => self.is_understood.set(false),
        }
    }

    /// At worst, what was asked for twice becomes a version twice.
    fn ask(&self, Scope { namespace, tenant_id }: &Scope, list: &[u8]) -> Result<Vec<Outcome>, ClientError> {
        let target = format!("/v1/batch/put?namespace={namespace}&tenant_id={tenant_id}");
        let mut fields = vec![(header::CONTENT_TYPE, "application/json")];
        fields.extend_from_slice(&self.metadata);
        self.remote.retrying_whole(|_| {
            let answer = self.remote.send(self.remote.request("POST", &target, &fields, list)?, &target)?;
            self.remote.read_json_lines(answer, &target)
        })
    }
}

/// The object that an item has become, if it has, and is what was asked for.
fn done(outcome: Outcome, listed: &[(usize, ContentHash)]) -> Option<Referred> {
    let (index, content_hash) = *listed.get(outcome.index)?;
    let stored = ContentHash::from_hex(outcome.content_hash.as_deref()?).ok()?;
    let is_done = matches!(outcome.status, 200 | 201) && stored == content_hash;
    let (id, size_bytes) = (outcome.id?, outcome.size_bytes);
    is_done.then_some(Referred { index, id, content_hash, size_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entities::KeyPath;
    use crate::domain::value_objects::{Key, Namespace, TenantId};

    fn file(size_bytes: u64) -> LocalFile {
        let (namespace, tenant_id) = (Namespace::parse("models").unwrap(), TenantId::parse("acme").unwrap());
        let target = KeyPath { scope: Scope { namespace, tenant_id }, key: Key::parse("k").unwrap() };
        LocalFile { path: "k".into(), target, size_bytes }
    }

    #[test]
    fn parts_have_so_many_files_and_so_much_in_them() {
        let lengths = |sizes: &[u64]| {
            let files: Vec<_> = sizes.iter().copied().map(file).collect();
            parts(&files).iter().map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [0]);
        assert_eq!(lengths(&[0; 10_000]), [10_000]);
        assert_eq!(lengths(&[0; 20_001]), [10_000, 10_000, 1]);
        let all = BYTES_AT_ONCE;
        assert_eq!(lengths(&[all, 1, all - 1, 1, all + 1, u64::MAX, u64::MAX, 0, 0]), [1, 2, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn only_what_was_asked_for_counts_as_done() {
        let hash = ContentHash::from_bytes([7; 32]);
        let listed = [(3, ContentHash::from_bytes([1; 32])), (5, hash)];
        let outcome = |index, status| Outcome {
            index,
            status,
            id: Some("id".to_owned()),
            content_hash: Some(hash.to_string()),
            size_bytes: Some(9),
        };
        let referred = Referred { index: 5, id: "id".to_owned(), content_hash: hash, size_bytes: Some(9) };
        assert_eq!(done(outcome(1, 201), &listed).as_ref(), Some(&referred));
        assert_eq!(done(outcome(1, 200), &listed), Some(referred));
        assert_eq!(done(outcome(0, 201), &listed), None, "this is another content");
        assert_eq!(done(outcome(2, 201), &listed), None, "there is no such item");
        assert_eq!(done(outcome(1, 404), &listed), None);
        assert_eq!(done(Outcome { id: None, ..outcome(1, 201) }, &listed), None);
    }
}
