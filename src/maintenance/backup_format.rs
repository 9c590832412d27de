//! What a backup is made of. It is the same for either database, so that a store can move from one to the other.
//!
//! ```text
//! DIR/metadata.jsonl               one JSON object a line: the clock, the limits of tenants, the rules of namespaces, the
//!                                  objects in the order of their commits, the blobs
//! DIR/hot/ab/<hash>-<place>        the bytes, as they are named in the storage roots
//! DIR/cold/…
//! DIR/manifest.json                written last: a directory without it is no backup
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::domain::entities::{BlobLocation, LifecycleRule, Object, QuotaLimits, Scope};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{
    ContentHash, ContentType, Key, Metadata, Namespace, ObjectId, ObjectStatus, Place, StorageClass,
    TenantId, Timestamp,
};
use crate::infrastructure::persistence::{BlobRow, ExportedRow};

/// The latest one that this program writes and reads.
pub(super) const FORMAT: u32 = 3;
/// What it writes where no namespace has a rule, for programs that know of none.
pub(super) const FORMAT_WITHOUT_RULES: u32 = 2;
/// What it writes where no tenant has limits either.
pub(super) const FORMAT_WITHOUT_LIMITS: u32 = 1;
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const METADATA: &str = "metadata.jsonl";

/// Why a directory cannot take a backup, or is none. Nothing has been changed.
#[derive(Debug, Error)]
pub(super) enum BackupError {
    /// A backup goes into a directory of its own.
    #[error("{0} is not empty: a backup goes into a new directory")]
    NotEmpty(PathBuf),
    /// There is nothing, or something else, or a backup that was never finished.
    #[error("{0} is not a finished backup: it has no {MANIFEST}")]
    Unfinished(PathBuf),
    /// A later version of the program wrote it.
    #[error("{path} has the backup format {found}, and this program reads {FORMAT}: use a newer program")]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file of it is not as it was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be read.
    #[error("{0} cannot be read")]
    Io(PathBuf, #[source] io::Error),
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) program: String,
    pub(super) created_at: String,
    /// What it was made from.
    pub(super) database: String,
    pub(super) objects: u64,
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    /// Blobs whose bytes could not be had, since the store itself has lost them.
    pub(super) damaged_blobs: u64,
    pub(super) metadata_sha256: String,
}

impl Manifest {
    pub(super) fn read(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                BackupError::Unfinished(directory.into())
            }
            _ => BackupError::Io(path.clone(), error),
        })?;
        // The format first: what else a later one says need not be known here.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged =
            |error: serde_json::Error| BackupError::Damaged { path: path.clone(), what: error.to_string() };
        let Format { format } = serde_json::from_str(&text).map_err(damaged)?;
        if !(FORMAT_WITHOUT_LIMITS..=FORMAT).contains(&format) {
            return Err(BackupError::Newer { path: directory.into(), found: format });
        }
        serde_json::from_str(&text).map_err(damaged)
    }

    /// Makes the backup one, durably.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut file = File::create_new(directory.join(MANIFEST))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        writeln!(file)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()
    }
}

/// The file of a blob's bytes in a backup.
pub(super) fn blob_path(directory: &Path, location: &BlobLocation) -> PathBuf {
    let hash = location.content_hash;
    let shard = format!("{:02x}", hash.as_bytes()[0]);
    directory.join(location.storage_class.as_str()).join(shard).join(format!("{hash}-{}", location.place))
}

/// One line of the metadata.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Clock { ticks: u64 },
    Limits(LimitsLine),
    Rule(RuleLine),
    Object(ObjectLine),
    Blob(BlobLine),
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
struct ObjectLine {
    sequence: u64,
    id: String,
    namespace: String,
    tenant_id: String,
    key: Option<String>,
    status: String,
    storage_class: String,
    content_hash: Option<String>,
    size_bytes: Option<u64>,
    content_type: String,
    metadata: Vec<(String, String)>,
    created_at_millis: i64,
    updated_at_millis: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct BlobLine {
    content_hash: String,
    storage_class: String,
    place: String,
    size_bytes: u64,
    ref_count: i64,
    damaged: bool,
}

impl From<&ExportedRow> for Line {
    fn from(row: &ExportedRow) -> Self {
        match row {
            ExportedRow::Clock { ticks } => Self::Clock { ticks: *ticks },
            ExportedRow::Limits { tenant_id, limits } => Self::Limits(LimitsLine {
                tenant_id: tenant_id.as_str().into(),
                bytes_max: limits.bytes_max,
                objects_max: limits.objects_max,
            }),
            ExportedRow::Rule { namespace, rule } => Self::Rule(RuleLine {
                namespace: namespace.as_str().into(),
                cold_after_days: rule.cold_after_days,
                delete_after_days: rule.delete_after_days,
                keep_versions: rule.keep_versions,
            }),
            ExportedRow::Object { sequence, object } => Self::Object(ObjectLine {
                sequence: *sequence,
                id: object.id.to_string(),
                namespace: object.scope.namespace.as_str().into(),
                tenant_id: object.scope.tenant_id.as_str().into(),
                key: object.key.as_ref().map(|key| key.as_str().into()),
                status: object.status.as_str().into(),
                storage_class: object.storage_class.as_str().into(),
                content_hash: object.content_hash.map(|hash| hash.to_string()),
                size_bytes: object.size_bytes,
                content_type: object.content_type.as_str().into(),
                metadata: object.metadata.iter().map(|(name, value)| (name.into(), value.into())).collect(),
                created_at_millis: object.created_at.as_millis(),
                updated_at_millis: object.updated_at.as_millis(),
            }),
            ExportedRow::Blob(row) => Self::Blob(BlobLine {
                content_hash: row.location.content_hash.to_string(),
                storage_class: row.location.storage_class.as_str().into(),
                place: row.location.place.to_string(),
                size_bytes: row.size_bytes,
                ref_count: row.ref_count,
                damaged: row.damaged,
            }),
        }
    }
}

impl TryFrom<Line> for ExportedRow {
    type Error = InvalidValue;

    fn try_from(line: Line) -> Result<Self, InvalidValue> {
        Ok(match line {
            Line::Clock { ticks } => Self::Clock { ticks },
            Line::Limits(LimitsLine { tenant_id, bytes_max, objects_max }) => Self::Limits {
                tenant_id: TenantId::parse(&tenant_id)?,
                limits: QuotaLimits { bytes_max, objects_max },
            },
            Line::Rule(RuleLine { namespace, cold_after_days, delete_after_days, keep_versions }) => {
                Self::Rule {
                    namespace: Namespace::parse(&namespace)?,
                    rule: LifecycleRule { cold_after_days, delete_after_days, keep_versions },
                }
            }
            Line::Object(line) => {
                Self::Object { sequence: line.sequence, object: Box::new(line.try_into()?) }
            }
            Line::Blob(line) => Self::Blob(BlobRow {
                location: BlobLocation {
                    storage_class: StorageClass::parse(&line.storage_class)?,
                    content_hash: ContentHash::from_hex(&line.content_hash)?,
                    place: Place::parse(&line.place)?,
                },
                size_bytes: line.size_bytes,
                ref_count: line.ref_count,
                zero_since: None,
                leased_until: 0,
                damaged: line.damaged,
            }),
        })
    }
}

impl TryFrom<ObjectLine> for Object {
    type Error = InvalidValue;

    fn try_from(line: ObjectLine) -> Result<Self, InvalidValue> {
        let mut metadata = Metadata::default();
        for (name, value) in &line.metadata {
            metadata.insert(name, value)?;
        }
        Ok(Self {
            id: ObjectId::parse(&line.id)?,
            scope: Scope {
                namespace: Namespace::parse(&line.namespace)?,
                tenant_id: TenantId::parse(&line.tenant_id)?,
            },
            key: line.key.as_deref().map(Key::parse).transpose()?,
            status: ObjectStatus::parse(&line.status)?,
            storage_class: StorageClass::parse(&line.storage_class)?,
            content_hash: line.content_hash.as_deref().map(ContentHash::from_hex).transpose()?,
            size_bytes: line.size_bytes,
            content_type: ContentType::parse(&line.content_type)?,
            metadata,
            created_at: Timestamp::from_millis(line.created_at_millis),
            updated_at: Timestamp::from_millis(line.updated_at_millis),
        })
    }
}

/// Writes the metadata, and hashes what it writes.
pub(super) struct MetadataWriter {
    file: io::BufWriter<File>,
    hasher: Sha256,
}

impl MetadataWriter {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let file = File::create_new(directory.join(METADATA))?;
        Ok(Self { file: io::BufWriter::new(file), hasher: Sha256::new() })
    }

    pub(super) fn write(&mut self, row: &ExportedRow) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line::from(row))?;
        line.push(b'\n');
        self.hasher.update(&line);
        self.file.write_all(&line)
    }

    /// The hash of everything, once that is durable.
    pub(super) fn finish(self) -> io::Result<String> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(ContentHash::from_bytes(self.hasher.finalize().into()).to_string())
    }
}

/// Reads the metadata line by line.
pub(super) struct MetadataReader {
    path: PathBuf,
    file: BufReader<File>,
    hasher: Sha256,
    line: Vec<u8>,
    number: u64,
}

impl MetadataReader {
    pub(super) fn open(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(METADATA);
        let file = File::open(&path).map_err(|error| BackupError::Io(path.clone(), error))?;
        Ok(Self { path, file: BufReader::new(file), hasher: Sha256::new(), line: Vec::new(), number: 0 })
    }

    /// The next row, or nothing behind the last.
    pub(super) fn next(&mut self) -> Result<Option<ExportedRow>, BackupError> {
        self.line.clear();
        let read = self.file.read_until(b'\n', &mut self.line);
        if read.map_err(|error| BackupError::Io(self.path.clone(), error))? == 0 {
            return Ok(None);
        }
        self.hasher.update(&self.line);
        self.number += 1;
        let number = self.number;
        let damaged = |what: String| BackupError::Damaged {
            path: self.path.clone(),
            what: format!("line {number}: {what}"),
        };
        let line: Line = serde_json::from_slice(&self.line).map_err(|error| damaged(error.to_string()))?;
        ExportedRow::try_from(line).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// Whether everything that was read is what was written.
    pub(super) fn check(self, manifest: &Manifest) -> Result<(), BackupError> {
        let hash = ContentHash::from_bytes(self.hasher.finalize().into()).to_string();
        if hash == manifest.metadata_sha256 {
            return Ok(());
        }
        Err(BackupError::Damaged { path: self.path, what: format!("it has the hash {hash}") })
    }
}
