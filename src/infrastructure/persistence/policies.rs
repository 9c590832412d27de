//! What operators have set, kept a second time beside the database: API keys, limits of tenants, rules of namespaces. They
//! are no change of an object, so that no log has them, and a copy of the database is made only now and then (decision
//! 0030). A small file in the hot root has all of them, for `rebuild`.
//!
//! ```text
//! change, committed ─► lock ─► read all of them ─► file of another name, synced ─► its name, synced ─► unlock
//! ```
//! Whoever has the lock reads what all who had it before have committed, so that the file never goes back. It is a line of
//! JSON for each, and one at the end with the hash of those before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::database::Database;
use super::errors::DatabaseError;
use super::snapshot;
use crate::domain::entities::{
    ApiKey, ApiKeyId, ClockMark, ClockMarks, LifecycleRule, Permissions, QuotaLimits, Reach,
};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{ContentHash, Namespace, TenantId, Timestamp};
use crate::infrastructure::storage::{Roots, make_durable_directory, sync_directory};

const FILE: &str = "policies.jsonl";
const UNFINISHED: &str = "policies.unfinished";
/// The format that this program writes, and the latest that it reads.
const FORMAT: u32 = 1;
/// Hashes of secrets are nobody's business.
const FILE_MODE: u32 = 0o600;
/// Before a file that could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// How long a stop waits for what was set last.
const LAST_LIMIT: Duration = Duration::from_secs(1);

/// All that operators have set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policies {
    pub(crate) keys: Vec<ApiKey>,
    pub(crate) limits: Vec<(TenantId, QuotaLimits)>,
    pub(crate) rules: Vec<(Namespace, LifecycleRule)>,
}

/// Why the file cannot be written, or is none.
#[derive(Debug, Error)]
pub(crate) enum PoliciesError {
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It cannot be read or written.
    #[error("{0} cannot be read or written")]
    File(PathBuf, #[source] io::Error),
    /// A later version of the program wrote it.
    #[error("{path} has the format {found}, and this program reads {FORMAT}: use a newer program")]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is not as it was written.
    #[error(
        "{path} is damaged: {what}; without it, API keys, limits and rules are as an older copy has them, if there is one: \
         move it away to go on so"
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Format(u32),
    ApiKey(KeyLine),
    Limits(LimitsLine),
    Rule(RuleLine),
    End(EndLine),
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyLine {
    id: String,
    secret_hash: String,
    tenant: String,
    namespaces: Option<Vec<String>>,
    scope: String,
    label: Option<String>,
    created_at_millis: i64,
    expires_at_millis: Option<i64>,
    revoked_at_millis: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LimitsLine {
    tenant_id: String,
    bytes_max: Option<u64>,
    objects_max: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleLine {
    namespace: String,
    cold_after_days: Option<u32>,
    delete_after_days: Option<u32>,
    keep_versions: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndLine {
    sha256: String,
}

/// Writes the file anew, as the database is now. Where servers share a database, that is its own business, and nothing is
/// done.
///
/// # Errors
/// [`PoliciesError`].
pub(crate) async fn keep_policies(database: &Database, roots: &Roots) -> Result<(), PoliciesError> {
    bring_up_to_date(database, roots, false).await
}

/// As [`keep_policies`]. What says the same already is left alone only where it is known to be durable: a file that is found may
/// be one whose sync failed, or was not lived to see, and a failed sync is not tried again but made good by another file.
async fn bring_up_to_date(database: &Database, roots: &Roots, is_durable: bool) -> Result<(), PoliciesError> {
    if matches!(database, Database::Postgres(_)) {
        return Ok(());
    }
    let directory = snapshot::directory(roots);
    let locking = directory.clone();
    let lock = move || {
        make_durable_directory(&locking)?;
        let lock = File::open(&locking)?;
        lock.lock()?;
        Ok(lock)
    };
    let lock = blocking(&directory, lock).await?;
    let bytes = database.policies().await?.to_bytes();
    let (writing, path) = (directory.clone(), directory.join(FILE));
    let write = move || {
        let _lock = lock;
        if is_durable && fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let unfinished = writing.join(UNFINISHED);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync_directory(&writing)
    };
    blocking(&directory, write).await
}

/// What the file says, if there is one. Blocks.
///
/// # Errors
/// [`PoliciesError`].
pub(crate) fn kept_policies(roots: &Roots) -> Result<Option<Policies>, PoliciesError> {
    let path = snapshot::directory(roots).join(FILE);
    match fs::read(&path) {
        Ok(bytes) => Policies::from_bytes(&path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PoliciesError::File(path, error)),
    }
}

impl Database {
    async fn policies(&self) -> Result<Policies, DatabaseError> {
        let limits = self.quotas().await?.into_iter().map(|(tenant_id, quota)| (tenant_id, quota.limits));
        let rules = self.lifecycle_rules().await?.into_iter();
        let mut policies = Policies {
            keys: self.api_keys().await?,
            limits: limits.collect(),
            rules: rules.map(|(namespace, standing)| (namespace, standing.rule)).collect(),
        };
        policies.limits.sort_unstable_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        Ok(policies)
    }

    /// Makes limits and rules what they were last, whatever an older copy of this database had. A key stays that either has,
    /// and is revoked if it is in either. Where nothing is known of the clocks, rules rest until they can be trusted.
    ///
    /// # Errors
    /// [`DatabaseError`]; then some are done.
    pub(crate) async fn take_policies(
        &self,
        policies: &Policies,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let before = self.policies().await?;
        for (tenant_id, _) in &before.limits {
            if !policies.limits.iter().any(|(kept, _)| kept == tenant_id) {
                self.set_limits(tenant_id, QuotaLimits::default()).await?;
            }
        }
        for (tenant_id, limits) in &policies.limits {
            self.set_limits(tenant_id, *limits).await?;
        }
        for (namespace, _) in &before.rules {
            if !policies.rules.iter().any(|(kept, _)| kept == namespace) {
                self.set_lifecycle_rule(namespace, LifecycleRule::default(), now).await?;
            }
        }
        for (namespace, rule) in &policies.rules {
            self.set_lifecycle_rule(namespace, *rule, now).await?;
        }
        for key in &policies.keys {
            if !before.keys.iter().any(|there| there.id == key.id) {
                self.put_api_key(key).await?;
            }
            if let Some(revoked_at) = key.revoked_at {
                self.revoke_api_key(key.id, revoked_at).await?;
            }
        }
        if !policies.rules.is_empty() && self.clock_marks().await?.is_none() {
            let mark = ClockMark { wall: now, tick: self.ticks().await? };
            self.set_clock_marks(ClockMarks::resting(mark)).await?;
        }
        Ok(())
    }
}

/// Keeps the file of a server.
pub(super) struct PolicyKeeper {
    database: Arc<Database>,
    roots: Roots,
    asked: Notify,
    /// Whether this server has made the file durable, and has not failed to since.
    is_durable: AtomicBool,
}

impl PolicyKeeper {
    pub(super) fn new(database: Arc<Database>, roots: Roots) -> Arc<Self> {
        Arc::new(Self { database, roots, asked: Notify::new(), is_durable: AtomicBool::new(false) })
    }

    /// Something may have been set: the file is brought up to date soon, and nobody waits for it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Does so at once, and then as often as it is asked, until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            while let Err(error) = self.keep().await {
                tracing::warn!(error = %error, "what operators have set is in the database alone, which `rebuild` could not bring back");
                sleep(RETRY_PAUSE).await;
            }
            self.asked.notified().await;
        }
    }

    /// Once more, behind everything that was set. The next start does what this does not.
    pub(super) async fn finish(&self) {
        let _ = timeout(LAST_LIMIT, self.keep()).await;
    }

    async fn keep(&self) -> Result<(), PoliciesError> {
        let was_durable = self.is_durable.swap(false, Ordering::Relaxed);
        bring_up_to_date(&self.database, &self.roots, was_durable).await?;
        self.is_durable.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Policies {
    fn to_bytes(&self) -> Vec<u8> {
        let keys = self.keys.iter().map(|key| Line::ApiKey(KeyLine::of(key)));
        let limits = self.limits.iter().map(|(tenant_id, limits)| {
            Line::Limits(LimitsLine {
                tenant_id: tenant_id.as_str().into(),
                bytes_max: limits.bytes_max,
                objects_max: limits.objects_max,
            })
        });
        let rules = self.rules.iter().map(|(namespace, rule)| {
            Line::Rule(RuleLine {
                namespace: namespace.as_str().into(),
                cold_after_days: rule.cold_after_days,
                delete_after_days: rule.delete_after_days,
                keep_versions: rule.keep_versions,
            })
        });
        let mut bytes = Vec::new();
        for line in std::iter::once(Line::Format(FORMAT)).chain(keys).chain(limits).chain(rules) {
            append(&mut bytes, &line);
        }
        let end = EndLine { sha256: hash_of(&bytes) };
        append(&mut bytes, &Line::End(end));
        bytes
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, PoliciesError> {
        let damaged = |what: String| PoliciesError::Damaged { path: path.into(), what };
        let mut policies = Self::default();
        let mut read_bytes = 0;
        let mut has_ended = false;
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let wrong = |what: &str| damaged(format!("line {}: {what}", index + 1));
            let parsed: Line = serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))?;
            let invalid = |error: InvalidValue| wrong(&error.to_string());
            match parsed {
                _ if has_ended => return Err(wrong("it stands behind the end")),
                Line::Format(found) if found > FORMAT => {
                    return Err(PoliciesError::Newer { path: path.into(), found });
                }
                Line::Format(_) => {}
                Line::ApiKey(key) => policies.keys.push(key.into_key().map_err(invalid)?),
                Line::Limits(LimitsLine { tenant_id, bytes_max, objects_max }) => {
                    let tenant_id = TenantId::parse(&tenant_id).map_err(invalid)?;
                    policies.limits.push((tenant_id, QuotaLimits { bytes_max, objects_max }));
                }
                Line::Rule(RuleLine { namespace, cold_after_days, delete_after_days, keep_versions }) => {
                    let rule = LifecycleRule { cold_after_days, delete_after_days, keep_versions };
                    policies.rules.push((Namespace::parse(&namespace).map_err(invalid)?, rule));
                }
                Line::End(EndLine { sha256 }) if sha256 == hash_of(&bytes[..read_bytes]) => has_ended = true,
                Line::End(_) => return Err(wrong("what is before it has another hash")),
            }
            read_bytes += line.len();
        }
        if has_ended { Ok(policies) } else { Err(damaged("it has no end".to_owned())) }
    }
}

impl KeyLine {
    fn of(key: &ApiKey) -> Self {
        let names = |names: &[Namespace]| names.iter().map(|name| name.as_str().to_owned()).collect();
        Self {
            id: key.id.to_string(),
            secret_hash: ContentHash::from_bytes(key.secret_hash).to_string(),
            tenant: key.reach.tenant().into(),
            namespaces: key.reach.namespaces().map(names),
            scope: key.permissions.to_string(),
            label: key.label.clone(),
            created_at_millis: key.created_at.as_millis(),
            expires_at_millis: key.expires_at.map(Timestamp::as_millis),
            revoked_at_millis: key.revoked_at.map(Timestamp::as_millis),
        }
    }

    fn into_key(self) -> Result<ApiKey, InvalidValue> {
        let namespaces = self.namespaces.as_ref().map(|names| names.iter().map(String::as_str));
        Ok(ApiKey {
            id: ApiKeyId::parse(&self.id)?,
            secret_hash: *ContentHash::from_hex(&self.secret_hash)?.as_bytes(),
            reach: Reach::parse(&self.tenant, namespaces)?,
            permissions: Permissions::of_words(&self.scope),
            label: self.label,
            created_at: Timestamp::from_millis(self.created_at_millis),
            expires_at: self.expires_at_millis.map(Timestamp::from_millis),
            revoked_at: self.revoked_at_millis.map(Timestamp::from_millis),
        })
    }
}

fn append(bytes: &mut Vec<u8>, line: &Line) {
    // Texts and numbers always have a JSON form, in which a line break is none.
    let _ = serde_json::to_writer(&mut *bytes, line);
    bytes.push(b'\n');
}

fn hash_of(bytes: &[u8]) -> String {
    ContentHash::from_bytes(Sha256::digest(bytes).into()).to_string()
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PoliciesError> {
    let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| PoliciesError::File(path.join(FILE), error))
}

#[cfg(test)]
mod tests {
    use super::super::database::{DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::fakes::an_api_key;

    const NOW: Timestamp = Timestamp::from_millis(1_795_468_200_000);

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn namespace(name: &str) -> Namespace {
        Namespace::parse(name).unwrap()
    }

    fn limits(bytes_max: u64) -> QuotaLimits {
        QuotaLimits { bytes_max: Some(bytes_max), objects_max: None }
    }

    fn keep(versions: u32) -> LifecycleRule {
        LifecycleRule { keep_versions: Some(versions), ..LifecycleRule::default() }
    }

    fn some() -> Policies {
        let operators = ApiKey {
            reach: Reach::parse("*", Some(["models", "data"])).unwrap(),
            label: Some("zwei\nZeilen \"ä\"".to_owned()),
            expires_at: Some(Timestamp::from_millis(i64::MAX)),
            revoked_at: Some(Timestamp::from_millis(-1)),
            created_at: Timestamp::from_millis(2_000),
            ..an_api_key(ApiKeyId::from_u64(u64::MAX))
        };
        Policies {
            keys: vec![an_api_key(ApiKeyId::from_u64(1)), operators],
            limits: vec![(tenant("acme"), limits(QuotaLimits::LIMIT_MAX)), (tenant("zeta"), limits(0))],
            rules: vec![
                (namespace("data"), LifecycleRule { cold_after_days: Some(7), ..keep(3) }),
                (namespace("models"), keep(1)),
            ],
        }
    }

    fn read(bytes: &[u8]) -> Result<Policies, PoliciesError> {
        Policies::from_bytes(Path::new("file"), bytes)
    }

    #[test]
    fn what_was_written_reads_the_same_or_not_at_all() {
        for policies in [some(), Policies::default()] {
            let bytes = policies.to_bytes();
            assert_eq!(read(&bytes).unwrap(), policies);
            for length in 0..bytes.len() - 1 {
                assert!(read(&bytes[..length]).is_err(), "cut to {length}");
            }
            for (at, bit) in (0..bytes.len()).zip([1, 2, 4, 8, 16].into_iter().cycle()) {
                let mut altered = bytes.clone();
                altered[at] ^= bit;
                // White space around the last line is not in its hash, and means nothing.
                assert!(read(&altered).is_err() || read(&altered).unwrap() == policies, "byte {at}");
            }
            assert!(read(&[&bytes[..], &bytes[..]].concat()).is_err());
        }
        let newer = read(b"{\"format\":2}\n{\"what\":1}\n").unwrap_err();
        assert!(newer.to_string().contains("has the format 2"), "{newer}");
    }

    const SETTINGS: DatabaseSettings = DatabaseSettings::OF_TEST;

    async fn a_database(directory: &Path) -> Database {
        Database::open(&DatabaseUrl::in_directory(directory), SETTINGS).await.unwrap()
    }

    #[tokio::test]
    async fn an_older_database_becomes_what_was_set_last() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let database = a_database(directory.path()).await;
        assert_eq!(kept_policies(&roots).unwrap(), None);
        let policies = some();
        database.take_policies(&policies, NOW).await.unwrap();
        keep_policies(&database, &roots).await.unwrap();
        assert_eq!(kept_policies(&roots).unwrap().as_ref(), Some(&policies));
        let marks = database.clock_marks().await.unwrap();
        assert!(!marks.unwrap().is_trusted(), "nothing is known of the clocks");

        let other = tempfile::tempdir().unwrap();
        let older = a_database(other.path()).await;
        let trusting = ClockMarks::trusting(ClockMark { wall: NOW, tick: 0 });
        older.set_clock_marks(trusting).await.unwrap();
        older.set_limits(&tenant("gone"), limits(5)).await.unwrap();
        older.set_limits(&tenant("acme"), limits(5)).await.unwrap();
        older.set_lifecycle_rule(&namespace("gone"), keep(9), NOW).await.unwrap();
        older.set_lifecycle_rule(&namespace("models"), keep(9), NOW).await.unwrap();
        let of_both = ApiKey { revoked_at: None, ..policies.keys[1].clone() };
        let only_there = an_api_key(ApiKeyId::from_u64(7));
        let revoked_there = &policies.keys[0];
        for key in [&of_both, &only_there, revoked_there] {
            older.put_api_key(key).await.unwrap();
        }
        older.revoke_api_key(revoked_there.id, NOW).await.unwrap();
        older.take_policies(&policies, NOW).await.unwrap();
        let taken = older.policies().await.unwrap();
        assert_eq!((&taken.limits, &taken.rules), (&policies.limits, &policies.rules));
        let key = |id| taken.keys.iter().find(|key| key.id == id).unwrap();
        assert_eq!(taken.keys.len(), 3);
        assert_eq!(key(of_both.id), &policies.keys[1], "it was revoked since");
        assert_eq!(key(only_there.id), &only_there);
        assert_eq!(key(revoked_there.id).revoked_at, Some(NOW));
        assert_eq!(older.clock_marks().await.unwrap(), Some(trusting));
    }

    #[tokio::test]
    async fn the_file_is_the_owner_s_and_is_not_written_for_nothing() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("hot"), &directory.path().join("cold")).unwrap();
        let database = Arc::new(a_database(directory.path()).await);
        let keeper = PolicyKeeper::new(database.clone(), roots.clone());
        keeper.keep().await.unwrap();
        let path = snapshot::directory(&roots).join(FILE);
        let written = fs::metadata(&path).unwrap();
        assert_eq!(written.mode() & 0o777, FILE_MODE);
        let number = || fs::metadata(&path).unwrap().ino();
        keeper.keep().await.unwrap();
        assert_eq!(number(), written.ino());
        // Who finds a file does not know that it is durable.
        let another = PolicyKeeper::new(database.clone(), roots.clone());
        // A name of its own, or its number could be given away again.
        fs::hard_link(&path, directory.path().join("first")).unwrap();
        another.keep().await.unwrap();
        assert_ne!(number(), written.ino());
        let second = number();
        fs::hard_link(&path, directory.path().join("second")).unwrap();
        database.set_limits(&tenant("acme"), limits(1)).await.unwrap();
        another.keep().await.unwrap();
        assert_ne!(number(), second);
        assert_eq!(kept_policies(&roots).unwrap().unwrap().limits, [(tenant("acme"), limits(1))]);
    }
}
