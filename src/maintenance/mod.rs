//! What an operator does to a store, beside its server or without one: collect, scrub, validate, back up, restore, give
//! out keys.
//!
//! A tool talks to the database and the storage roots themselves, not to the server. It opens what is there and makes
//! nothing; what it cannot use it names, and has then changed nothing. The database tells a running server what it has
//! to know: a hold stops its collector, a mark of damage reaches its caches within a second.

mod audit;
mod backup;
mod backup_format;
mod doctor;
mod gc;
mod health;
mod keys;
mod lifecycle;
mod progress;
mod rebuild;
mod restore;
mod scrub;
mod store;
mod tenant;
mod transfer;
mod validate;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use thiserror::Error;

use crate::config::ConfigError;
use crate::domain::entities::ApiKeyId;
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::audit_file::AuditFileError;
use crate::infrastructure::persistence::{
    CopyError, CycleError, DatabaseError, OpenError, PoliciesError, StartError,
};
use crate::infrastructure::storage::{LockError, ReplayError, RootError};

pub use backup::BackupArguments;
use backup_format::BackupError;
pub use doctor::DoctorArguments;
pub use gc::CollectArguments;
pub use health::HealthArguments;
pub use keys::{CreateKeyArguments, KeyCommand, ListKeysArguments, RevokeKeyArguments};
pub use lifecycle::LifecycleArguments;
pub use rebuild::RebuildArguments;
pub use restore::RestoreArguments;
pub use scrub::ScrubArguments;
pub use tenant::TenantArguments;
pub use validate::ValidateArguments;

/// The tools.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Remove what nothing refers to any more, and what ended runs have left
    Gc(CollectArguments),
    /// Read every blob and compare it with its hash
    Scrub(ScrubArguments),
    /// Check that metadata and files agree; changes nothing
    Validate(ValidateArguments),
    /// Copy the store to a directory, also while it is served
    Backup(BackupArguments),
    /// Fill an empty store from a backup
    Restore(RestoreArguments),
    /// Make a lost SQLite database anew, from its copy in the hot root and the log in the packs
    Rebuild(RebuildArguments),
    /// Give out API keys, list them, and take them back
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show what tenants have, and set what they may have at most
    Tenant(TenantArguments),
    /// Show and set what becomes of a namespace's objects with time, and what that would be now
    Lifecycle(Box<LifecycleArguments>),
    /// Find out whether this machine is fit for a server with these settings, and how to mend what is not
    Doctor(Box<DoctorArguments>),
    /// Ask a running server whether it is well
    Health(HealthArguments),
}

/// How a tool's work came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Everything is as it should be.
    Clean,
    /// Something is not; the output says what.
    NotClean,
}

/// It is not as it should be, or the work ended half way.
const NOT_CLEAN: u8 = 1;
/// The tool could not begin, and has changed nothing.
const REFUSED: u8 = 2;

/// Why a tool did not do its work.
#[derive(Debug, Error)]
enum MaintenanceError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A storage root cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A storage root is of another store.
    #[error("the {class} storage root {path} does not belong to this database")]
    ForeignRoot {
        /// Which root.
        class: StorageClass,
        /// Where it is.
        path: PathBuf,
    },
    /// The data directory or the database cannot be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A server that is to be given up still speaks.
    #[error(
        "the server {node} was heard from {seconds} s ago: stop it first, or wait until it is silent for {limit} s"
    )]
    NodeAlive {
        /// Its name.
        node: String,
        /// How long ago.
        seconds: i64,
        /// How long it must be.
        limit: i64,
    },
    /// There is no such server.
    #[error("no running server has ever gone by the name {0} here")]
    NoSuchNode(String),
    /// A backup cannot be made there, or is none.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A store that is to be filled holds something already.
    #[error("{0} holds objects already: a backup is restored into an empty store")]
    NotEmpty(String),
    /// The store to be filled cannot be made ready.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What is to be rebuilt is there.
    #[error("{0} is there: a database is rebuilt only where it is lost; move it out of the way first")]
    DatabaseThere(PathBuf),
    /// The database keeps itself.
    #[error("only a SQLite database is rebuilt from the log; PostgreSQL has its own ways")]
    NotRebuilt,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReplayError),
    /// The copy of what operators have set cannot be read.
    #[error(transparent)]
    Policies(#[from] PoliciesError),
    /// A running server is behind.
    #[error(
        "the running server has not brought its log into the database within a minute; is its disk full?"
    )]
    LogNotApplied,
    /// The database failed half way.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A copy of the metadata failed half way.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The collector's cycle failed half way.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// The file system failed half way.
    #[error("cannot {operation} {path}")]
    Files {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Bytes may have been removed that a backup needs.
    #[error("the hold on the collector was lost, so this backup may lack bytes: make it again")]
    HoldLost,
    /// A key that would never be good.
    #[error("a key that has expired already is good for nothing")]
    ExpiredKey,
    /// There is no such key.
    #[error("there is no API key with the id {0}")]
    NoSuchKey(ApiKeyId),
    /// The system gives no random bytes.
    #[error("cannot get random bytes for a key")]
    Random(#[source] std::io::Error),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(AuditFileError),
    /// The audit log could be opened, and not written then.
    #[error("this was done, but the audit log does not tell of it")]
    NotAudited(#[source] AuditFileError),
    /// The tool's own runtime cannot be made.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

impl MaintenanceError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Open(_)
            | Self::Root(_)
            | Self::ForeignRoot { .. }
            | Self::Lock(_)
            | Self::NodeAlive { .. }
            | Self::NoSuchNode(_)
            | Self::Backup(_)
            | Self::NotEmpty(_)
            | Self::Start(_)
            | Self::Log(_)
            | Self::Policies(_)
            | Self::LogNotApplied
            | Self::DatabaseThere(_)
            | Self::NotRebuilt
            | Self::ExpiredKey
            | Self::NoSuchKey(_)
            | Self::Random(_)
            | Self::Audit(_)
            | Self::Runtime(_) => REFUSED,
            Self::Database(_)
            | Self::Copy(_)
            | Self::Cycle(_)
            | Self::Files { .. }
            | Self::HoldLost
            | Self::NotAudited(_) => NOT_CLEAN,
        }
    }

    fn files(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { operation, path, source }
    }
}

/// Does what the command says. Results go to standard output, progress and errors to standard error.
pub fn run(command: MaintenanceCommand) -> ExitCode {
    match run_to_verdict(command) {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::NotClean) => ExitCode::from(NOT_CLEAN),
        Err(error) => {
            eprintln!("just_storage: {}", with_causes(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_to_verdict(command: MaintenanceCommand) -> Result<Verdict, MaintenanceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(MaintenanceError::Runtime)?.block_on(async {
        match command {
            MaintenanceCommand::Gc(arguments) => gc::collect(arguments).await,
            MaintenanceCommand::Scrub(arguments) => scrub::scrub(arguments).await,
            MaintenanceCommand::Validate(arguments) => validate::validate(arguments).await,
            MaintenanceCommand::Backup(arguments) => backup::back_up(arguments).await,
            MaintenanceCommand::Restore(arguments) => restore::restore(arguments).await,
            MaintenanceCommand::Rebuild(arguments) => rebuild::rebuild(arguments).await,
            MaintenanceCommand::Key(command) => keys::run(command).await,
            MaintenanceCommand::Tenant(arguments) => tenant::run(arguments).await,
            MaintenanceCommand::Lifecycle(arguments) => lifecycle::run(*arguments).await,
            MaintenanceCommand::Doctor(arguments) => doctor::examine(*arguments).await,
            MaintenanceCommand::Health(arguments) => health::ask(arguments),
        }
    })
}

/// An error and everything that led to it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}
