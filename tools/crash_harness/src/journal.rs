//! What the server has acknowledged, and what it may have done without saying so.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::{Client, Outcome};
use crate::server::Server;

/// A body, by the two numbers that it is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) length: usize,
}

impl Content {
    /// The bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut random = Random::new(self.seed);
        let mut bytes = Vec::with_capacity(self.length + 8);
        while bytes.len() < self.length {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(self.length);
        bytes
    }
}

/// One key: what was acknowledged last, and what was asked for and not answered.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) acknowledged: Option<Content>,
    /// The change that the cut met, if one was under way.
    pub(crate) in_doubt: Option<Option<Content>>,
}

/// All keys, in shares that each belong to one client: a key has one change under way at most.
pub(crate) struct Journal {
    shares: Vec<Vec<Entry>>,
}

impl Journal {
    pub(crate) fn new(clients: u32, keys: u32) -> Self {
        let entry =
            |client, key| Entry { key: format!("{client}/{key}"), acknowledged: None, in_doubt: None };
        let share = |client| (0..keys).map(|key| entry(client, key)).collect();
        Self { shares: (0..clients).map(share).collect() }
    }

    pub(crate) fn shares(&mut self) -> impl Iterator<Item = &mut Vec<Entry>> {
        self.shares.iter_mut()
    }

    /// How many keys have an object.
    pub(crate) fn present(&self) -> usize {
        self.shares.iter().flatten().filter(|entry| entry.acknowledged.is_some()).count()
    }

    /// Reads every key. What was acknowledged must be there; what was in doubt may have happened or not, and is
    /// settled by what is seen.
    pub(crate) fn check(&mut self, server: &Server) -> Result<()> {
        let mut client = Client::new(server.port());
        for entry in self.shares.iter_mut().flatten() {
            let found = client.get(&entry.key)?;
            let candidates = std::iter::once(entry.acknowledged).chain(entry.in_doubt);
            let seen = candidates.into_iter().find(|candidate| match (candidate, &found) {
                (None, Outcome::Absent) => true,
                (Some(content), Outcome::Bytes(bytes)) => *bytes == content.bytes(),
                _ => false,
            });
            match seen {
                Some(seen) => (entry.acknowledged, entry.in_doubt) = (seen, None),
                None => bail!("{entry:?} is not what was acknowledged: {}", found.describe()),
            }
        }
        Ok(())
    }
}

/// Waits until every blob file belongs to an object, and every object's content has exactly one.
pub(crate) fn check_files(server: &Server, data: &Path) -> Result<()> {
    let mut client = Client::new(server.port());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let needed = client.listed_hashes()?;
        let files = blob_files(data)?;
        let distinct: HashSet<_> = files.iter().cloned().collect();
        if distinct == needed && distinct.len() == files.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let (left, missing) =
                (distinct.difference(&needed).count(), needed.difference(&distinct).count());
            bail!("{} files: {left} belong to no object, {missing} are missing", files.len());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The hashes in the names of all blob files.
fn blob_files(data: &Path) -> Result<Vec<String>> {
    let mut hashes = Vec::new();
    for class in ["hot", "cold"] {
        for shard in fs::read_dir(data.join(class).join("blobs")).context("list blobs")? {
            for file in fs::read_dir(shard?.path())? {
                let name = file?.file_name().to_string_lossy().into_owned();
                hashes.push(name.split('-').next().unwrap_or_default().to_owned());
            }
        }
    }
    Ok(hashes)
}

/// Chance that can be repeated (xorshift64*, Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit.max(1)
    }
}
