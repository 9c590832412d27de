//! Which of many files a server has the bytes of already, so that they need not be sent.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::json;
use ureq::http::header;

use super::errors::ClientError;
use super::hashing::hash_file;
use super::local_tree::LocalFile;
use super::remote::Remote;
use super::transfers::{Next, in_parallel};
use crate::domain::value_objects::{ContentHash, TenantId};

/// How many files are asked about at once. They are hashed before, and sent after: so few that what is not missing is
/// referred to long before its lease ends, and so many that the question costs nothing.
pub(super) const FILES_AT_ONCE: usize = 1000;

/// What a server is asked with.
pub(super) struct References<'a> {
    remote: &'a Remote,
    workers: u16,
    /// Whether the server is one that can be asked.
    usable: AtomicBool,
}

#[derive(Deserialize)]
struct Missing {
    missing: Vec<String>,
}

impl<'a> References<'a> {
    pub(super) fn new(remote: &'a Remote, workers: u16) -> Self {
        Self { remote, workers, usable: AtomicBool::new(true) }
    }

    /// Of each file, the hash of its bytes if its tenant has them there. A file that cannot be read, or a server that cannot be
    /// asked, is told of when the file is sent.
    pub(super) fn of(
        &self,
        files: &[LocalFile],
        wanted: impl Fn(&LocalFile) -> bool + Sync,
    ) -> Vec<Option<ContentHash>> {
        let mut there = vec![None; files.len()];
        let numbered: Vec<_> = files.iter().enumerate().filter(|(_, file)| wanted(file)).collect();
        let Some((_, first)) = numbered.first().filter(|_| self.usable.load(Ordering::Relaxed)) else {
            return there;
        };
        let hashed = Mutex::new(Vec::with_capacity(numbered.len()));
        in_parallel(&numbered, self.workers, |(index, file)| {
            if let Ok(hash) = hash_file(&file.path, |_| {}) {
                hashed.lock().unwrap_or_else(PoisonError::into_inner).push((*index, hash));
            }
            Next::Continue
        });
        let hashed = hashed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let distinct: HashSet<_> = hashed.iter().map(|(_, hash)| *hash).collect();
        let missing = match self.missing(&first.target.scope.tenant_id, &distinct) {
            Ok(missing) => missing,
            // Whatever passes is not waited for: what would be spared might take less time.
            Err(ClientError::Later { .. }) => return there,
            Err(_) => {
                self.usable.store(false, Ordering::Relaxed);
                return there;
            }
        };
        for (index, hash) in hashed {
            there[index] = Some(hash).filter(|hash| !missing.contains(&digest(hash)));
        }
        there
    }

    fn missing(
        &self,
        tenant_id: &TenantId,
        hashes: &HashSet<ContentHash>,
    ) -> Result<HashSet<String>, ClientError> {
        let digests: Vec<_> = hashes.iter().map(digest).collect();
        let body = json!({ "digests": digests }).to_string();
        let target = format!("/v1/blobs/missing?tenant_id={tenant_id}");
        let fields = [(header::CONTENT_TYPE, "application/json")];
        let request = self.remote.request("POST", &target, &fields, body.as_str())?;
        let answer = self.remote.send(request, &target)?;
        let Missing { missing } = self.remote.read_json(answer, &target)?;
        Ok(missing.into_iter().collect())
    }
}

/// A hash as the server is told it.
pub(super) fn digest(hash: &ContentHash) -> String {
    format!("sha256:{hash}")
}
