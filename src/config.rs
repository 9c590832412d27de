//! Every setting, its limit and its default. Flags win over the environment, the environment over defaults; `--dev`
//! changes defaults only. A setting that cannot be honoured stops the start with its name.

mod choices;
mod credentials;
mod groups;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use crate::api::{Limits, Timeouts, TimingSettings};
use crate::application::credentials::{KeyError, RequestRate};
use crate::client::ClientCommand;
use crate::client::shell::{CompletionArguments, ManArguments};
use crate::infrastructure::data_plane::buffers::LARGE_BLOCK_BYTES;
use crate::infrastructure::data_plane::tls_configuration::TlsFiles;
use crate::infrastructure::persistence::{
    DatabaseSettings, DatabaseUrl, DatabaseUrlError, GcSettings, ScrubSettings,
};
use crate::infrastructure::plane_channel::Durability;
use crate::maintenance::MaintenanceCommand;

pub use choices::{Ack, IoDriverChoice, LogFormat, LogLevel, Switch};
pub use credentials::{AuthMode, Authentication, TokenSettings, UrlSigningSettings};
use credentials::{CredentialArguments, read};
pub use groups::{AuditArguments, CollectionArguments};
use groups::{
    DatabaseArguments, GcArguments, LifecycleSettings, LimitArguments, LogArguments, ServerScrubArguments,
    TimeoutArguments, TlsArguments,
};

/// The largest blob that goes into a pack, where nothing else is said and packs are the log.
const PACK_BLOB_BYTES_MAX: u32 = 64 * 1024;

/// What the program is told on its command line.
#[derive(Debug, Parser)]
#[command(name = "just_storage", version, about, max_term_width = 100)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve objects over HTTP
    Serve(Box<ServeArguments>),
    /// Ask something of a server
    #[command(flatten)]
    Ask(ClientCommand),
    /// Look after a store, also while it is served
    #[command(flatten)]
    Maintain(MaintenanceCommand),
    /// Print what a shell completes commands with
    Completions(CompletionArguments),
    /// Print a manual page
    Man(ManArguments),
}

/// Where a store is, as it was given: to the server and to the tools alike.
#[derive(Debug, Args)]
pub struct StoreArguments {
    /// Defaults for one's own machine: data in ./data; a server listens on loopback only and asks no credentials
    #[arg(long)]
    dev: bool,
    /// Where the metadata is: sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE [default: sqlite://{DATA_DIR}/metadata.db]
    // Text here, read in `into_paths`: clap would show a bad one whole, with the password in it.
    #[arg(long, env, value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// A file with that URL alone in it, for one that has a password
    #[arg(long, env, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// Where everything is that has no other place [default: /data; with --dev: ./data]
    #[arg(long, env, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where hot objects' bytes are [default: {DATA_DIR}/hot]
    #[arg(long, env, value_name = "DIR")]
    hot_storage_root: Option<PathBuf>,
    /// Where cold objects' bytes are [default: {DATA_DIR}/cold]
    #[arg(long, env, value_name = "DIR")]
    cold_storage_root: Option<PathBuf>,
}

/// Where a store is.
#[derive(Debug, Clone)]
pub struct StorePaths {
    /// Where everything is that has no other place.
    pub data_dir: PathBuf,
    /// Where the metadata is.
    pub database_url: DatabaseUrl,
    /// Where hot bytes are.
    pub hot_storage_root: PathBuf,
    /// Where cold bytes are.
    pub cold_storage_root: PathBuf,
}

impl StoreArguments {
    /// Fills in defaults and checks what goes together.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn into_paths(self) -> Result<StorePaths, ConfigError> {
        let data_dir = self.data_dir.unwrap_or_else(|| if self.dev { "data" } else { "/data" }.into());
        let database_url = match (self.database_url, self.database_url_file) {
            (Some(_), Some(_)) => return Err(ConfigError::TwoDatabaseUrls),
            (Some(text), None) => text.parse().map_err(ConfigError::DatabaseUrl)?,
            (None, Some(path)) => {
                let setting = "DATABASE_URL_FILE";
                let text = read(&path).map_err(|source| ConfigError::KeyFile { setting, path, source })?;
                text.trim().parse().map_err(ConfigError::DatabaseUrl)?
            }
            (None, None) => DatabaseUrl::in_directory(&data_dir),
        };
        let hot_storage_root = self.hot_storage_root.unwrap_or_else(|| data_dir.join("hot"));
        let cold_storage_root = self.cold_storage_root.unwrap_or_else(|| data_dir.join("cold"));
        if same_directory(&hot_storage_root, &cold_storage_root) {
            return Err(ConfigError::SameRoot);
        }
        Ok(StorePaths { data_dir, database_url, hot_storage_root, cold_storage_root })
    }
}

/// The settings of `serve`, as they were given.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Address and port to listen on [default: 0.0.0.0:8080; with --dev: 127.0.0.1:8080]
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    listen_addr: Option<SocketAddr>,
    /// Address and port of a listener that answers GET /metrics alone, over plain HTTP and without a credential [default: none]
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// When 201 is answered: after the log's durable write (SQLite alone) or after the database's transaction [default: log with SQLite, database with PostgreSQL]
    #[arg(long, env, value_enum)]
    ack: Option<Ack>,
    /// The largest blob that goes into a pack; a larger one gets a file of its own, and with 0 each does [default: 65536 with ACK=log, otherwise 0]
    #[arg(long, env, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=512 * 1024))]
    pack_blob_bytes_max: Option<u32>,
    /// How many cores serve [default: all that the process may use]
    #[arg(long, env, value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: Option<u16>,
    /// This server's name among others of one database [default: host name and port]
    #[arg(long, env, value_name = "NAME")]
    node_name: Option<String>,
    /// How the cores talk to the kernel; auto takes io_uring where it is allowed
    #[arg(long, env, value_enum, default_value = "auto")]
    io_driver: IoDriverChoice,
    #[command(flatten)]
    credentials: CredentialArguments,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    timeouts: TimeoutArguments,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    gc: GcArguments,
    #[command(flatten)]
    scrub: ServerScrubArguments,
    #[command(flatten)]
    lifecycle: LifecycleSettings,
    #[command(flatten)]
    log: LogArguments,
    #[command(flatten)]
    audit: AuditArguments,
}

/// Settings that are each valid and do not go together, or ask for what is not there.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not the URL of a database. The text is not shown: a password may stand in it.
    #[error("DATABASE_URL: {0}")]
    DatabaseUrl(#[source] DatabaseUrlError),
    /// Two databases.
    #[error("DATABASE_URL and DATABASE_URL_FILE are both set; unset one of them")]
    TwoDatabaseUrls,
    /// A port without credentials that others could reach was not asked for in words.
    #[error(
        "LISTEN_ADDR {0} is not loopback: with --dev, say AUTH_MODE=required to ask for credentials, or AUTH_MODE=none to \
         let everyone in who reaches it"
    )]
    OpenToOthers(SocketAddr),
    /// Keys for credentials that nobody is asked for.
    #[error("AUTH_MODE=none asks nobody for a credential, but {0} is set; unset one of them")]
    CredentialsNotAsked(&'static str),
    /// A rate for credentials that nobody is asked for.
    #[error(
        "AUTH_MODE=none asks nobody for a credential, so that RATE_LIMIT_PER_SECOND limits nobody; unset one of them"
    )]
    RateOfNobody,
    /// A burst of nothing.
    #[error("RATE_LIMIT_BURST is set and RATE_LIMIT_PER_SECOND is not, so that there is no limit")]
    BurstWithoutRate,
    /// Something about tokens, and nothing to verify them with.
    #[error(
        "{0} is set, but there is nothing to verify tokens with: set one of JWT_SECRET, JWT_SECRET_FILE, \
         JWT_PUBLIC_KEY_FILE and JWT_JWKS_FILE"
    )]
    TokensWithoutKeys(&'static str),
    /// Keys from two places.
    #[error("{0} and {1} are both set; keys come from one of them")]
    TwoKeySources(&'static str, &'static str),
    /// Public keys of no algorithm.
    #[error("{0} needs JWT_ALGORITHM: HS256, RS256, ES256 or EdDSA")]
    NoAlgorithm(&'static str),
    /// A secret for public keys, or the other way round.
    #[error("JWT_ALGORITHM={0} does not go with {1}")]
    WrongAlgorithm(&'static str, &'static str),
    /// A file that cannot be read.
    #[error("{setting}: cannot read {path}: {source}")]
    KeyFile {
        /// Which setting names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Keys that cannot be used.
    #[error("{setting}: {source}")]
    Keys {
        /// Which setting names them.
        setting: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{0} is set and {1} is not; TLS needs both")]
    HalfOfTls(&'static str, &'static str),
    /// One directory for two things.
    #[error("HOT_STORAGE_ROOT and COLD_STORAGE_ROOT are the same directory; each class needs its own")]
    SameRoot,
    /// Other servers read the database, so that it has to be written before the answer.
    #[error("ACK=log is for SQLite; with PostgreSQL, which other servers read, it is ACK=database")]
    LogOfShared,
    /// More connections kept than allowed.
    #[error("DB_MIN_CONNECTIONS is larger than DB_MAX_CONNECTIONS")]
    Connections,
}

/// Settings that were checked together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the store is.
    pub paths: StorePaths,
    /// How database connections are kept.
    pub database: DatabaseSettings,
    /// What must be durable before `201`.
    pub durability: Durability,
    /// The largest blob that goes into a pack.
    pub pack_blob_bytes_max: usize,
    /// Where to listen.
    pub listen_addr: SocketAddr,
    /// Where to answer for metrics alone, if anywhere.
    pub metrics_addr: Option<SocketAddr>,
    /// Whom to let in.
    pub authentication: Authentication,
    /// How often each of them may ask, if that is limited.
    pub request_rate: Option<RequestRate>,
    /// What URLs are signed with, if they are.
    pub url_signing: Option<UrlSigningSettings>,
    /// How many cores serve; all where it is not said.
    pub cores: Option<u16>,
    /// This server's name.
    pub node_name: Option<String>,
    /// How to talk to the kernel.
    pub io_driver: IoDriverChoice,
    /// Where the certificate is, if the listener speaks TLS.
    pub tls: Option<TlsFiles>,
    /// What requests may be.
    pub limits: Limits,
    /// The most connections.
    pub connections_max: usize,
    /// The most memory for bodies.
    pub buffer_bytes_max: usize,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How long a storage root may take for one thing.
    pub storage_timeout: Duration,
    /// How long the metadata may take to answer.
    pub metadata_timeout: Duration,
    /// How long running requests may take after SIGTERM.
    pub drain_timeout: Duration,
    /// How what nothing refers to is removed.
    pub gc: GcSettings,
    /// How what is stored is read, to see whether it is what it was.
    pub scrub: ScrubSettings,
    /// Between two passes through the rules of namespaces.
    pub lifecycle_interval: Duration,
    /// How the log reads.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: LogLevel,
    /// Where changes and refusals are told of, if anywhere.
    pub audit_log_file: Option<PathBuf>,
    /// What is told of how long requests take.
    pub timing: TimingSettings,
}

impl ServeArguments {
    /// Fills in defaults and checks what goes together.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let listen_addr = self.listen_addr();
        let url_signing = self.credentials.url_signing()?;
        let authentication =
            self.credentials.authentication(self.store.dev, listen_addr, url_signing.as_ref())?;
        let request_rate = self.limits.request_rate(&authentication)?;
        let paths = self.store.into_paths()?;
        let durability = match (self.ack, paths.database_url.is_shared()) {
            (Some(Ack::Log), true) => return Err(ConfigError::LogOfShared),
            (Some(Ack::Log) | None, false) => Durability::Log,
            (Some(Ack::Database), _) | (None, true) => Durability::Transaction,
        };
        let pack_blob_bytes_max = self.pack_blob_bytes_max.unwrap_or(match durability {
            Durability::Log => PACK_BLOB_BYTES_MAX,
            Durability::Transaction => 0,
        });
        Ok(Config {
            paths,
            database: self.database.settings()?,
            durability,
            pack_blob_bytes_max: pack_blob_bytes_max as usize,
            listen_addr,
            metrics_addr: self.metrics_addr,
            authentication,
            request_rate,
            url_signing,
            cores: self.cores,
            node_name: self.node_name,
            io_driver: self.io_driver,
            tls: self.tls.files()?,
            limits: self.limits.limits(),
            connections_max: self.limits.connections_max as usize,
            buffer_bytes_max: usize::try_from(self.limits.buffer_bytes_max).unwrap_or(usize::MAX),
            timeouts: self.timeouts.timeouts(),
            storage_timeout: Duration::from_secs(self.timeouts.storage_timeout_secs),
            metadata_timeout: Duration::from_secs(self.timeouts.metadata_timeout_secs),
            drain_timeout: Duration::from_secs(self.timeouts.drain_timeout_secs),
            gc: self.gc.settings(),
            scrub: ScrubSettings {
                interval: Duration::from_secs(self.scrub.scrub_interval_secs),
                bytes_per_second: self.scrub.scrub_bytes_per_second,
            },
            lifecycle_interval: Duration::from_secs(self.lifecycle.lifecycle_interval_secs),
            log_format: self.log.log_format,
            log_level: self.log.log_level,
            audit_log_file: self.audit.into_path(),
            timing: self.log.timing(),
        })
    }

    fn listen_addr(&self) -> SocketAddr {
        let default = if self.store.dev { [127, 0, 0, 1] } else { [0, 0, 0, 0] };
        self.listen_addr.unwrap_or_else(|| SocketAddr::from((default, 8080)))
    }
}

/// Compared as they are written, and where both exist, as they are.
fn same_directory(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.components().collect());
    real(one) == real(other)
}

/// A core's share of what is set for all of them: at least a few large blocks.
pub fn buffer_bytes_of_core(buffer_bytes_max: usize, cores: usize) -> usize {
    (buffer_bytes_max / cores).max(4 * LARGE_BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let line = ["just_storage", "serve"].iter().chain(arguments);
        let Command::Serve(serve) =
            CommandLine::try_parse_from(line).map_err(|error| error.to_string())?.command
        else {
            panic!("it is told to serve")
        };
        serve.into_config().map_err(|error| error.to_string())
    }

    #[test]
    fn dev_changes_defaults_and_nothing_else() {
        let dev = config(&["--dev"]).unwrap();
        assert_eq!(
            (dev.paths.data_dir, dev.listen_addr.to_string()),
            ("data".into(), "127.0.0.1:8080".into())
        );
        assert_eq!(dev.paths.database_url.to_string(), "sqlite://data/metadata.db");
        let own = config(&[
            "--dev",
            "--data-dir",
            "/x",
            "--listen-addr",
            "127.0.0.1:0",
            "--cold-storage-root",
            "/y",
        ]);
        let own = own.unwrap();
        let paths = own.paths;
        assert_eq!((paths.data_dir, paths.hot_storage_root), ("/x".into(), "/x/hot".into()));
        assert_eq!((paths.cold_storage_root, own.listen_addr.port()), ("/y".into(), 0));
        let plain = config(&["--auth-mode", "none"]).unwrap();
        assert_eq!(
            (plain.paths.data_dir, plain.listen_addr.to_string()),
            ("/data".into(), "0.0.0.0:8080".into())
        );
    }

    #[test]
    fn small_blobs_go_into_packs_where_the_log_is_the_point_of_durability() {
        for (flags, expected) in [
            (&["--dev"][..], (Durability::Log, 65_536)),
            (&["--dev", "--ack", "log"], (Durability::Log, 65_536)),
            (&["--dev", "--pack-blob-bytes-max", "0"], (Durability::Log, 0)),
            (&["--dev", "--ack", "database"], (Durability::Transaction, 0)),
            (
                &["--dev", "--ack", "database", "--pack-blob-bytes-max", "4096"],
                (Durability::Transaction, 4096),
            ),
            (&["--dev", "--database-url", "postgres://h/d"], (Durability::Transaction, 0)),
        ] {
            let config = config(flags).unwrap();
            assert_eq!((config.durability, config.pack_blob_bytes_max), expected, "{flags:?}");
        }
    }

    #[test]
    fn a_port_without_credentials_is_opened_only_in_words() {
        const SECRET: &str = "0123456789abcdef0123456789abcdef";
        assert!(config(&["--dev", "--listen-addr", "0.0.0.0:1"]).unwrap_err().contains("not loopback"));
        for (flags, expected) in [
            (&["--dev"][..], "None"),
            (&["--dev", "--listen-addr", "0.0.0.0:1", "--auth-mode", "none"], "None"),
            (&["--auth-mode", "none"], "None"),
            // Keys alone: they are in the database.
            (&[], "Required { tokens: None }"),
            (&["--dev", "--auth-mode", "required"], "Required { tokens: None }"),
            (
                &["--dev", "--listen-addr", "0.0.0.0:1", "--auth-mode", "required"],
                "Required { tokens: None }",
            ),
            (&["--jwt-secret", SECRET], "Required { tokens: Some(HS256 by JWT_SECRET) }"),
            (&["--dev", "--jwt-secret", SECRET], "Required { tokens: Some(HS256 by JWT_SECRET) }"),
            (&["--dev", "--url-signing-key", SECRET], "Required { tokens: None }"),
        ] {
            assert_eq!(format!("{:?}", config(flags).unwrap().authentication), expected, "{flags:?}");
        }
    }

    #[test]
    fn settings_of_tokens_go_together_or_are_named() {
        const SECRET: &str = "0123456789abcdef0123456789abcdef";
        for (flags, words) in [
            (&["--jwt-secret", &SECRET[1..]][..], &["JWT_SECRET", "32 bytes"][..]),
            (&["--jwt-secret", ""], &["JWT_SECRET", "no key"]),
            (&["--jwt-secret", SECRET, "--auth-mode", "none"], &["JWT_SECRET", "AUTH_MODE=none"]),
            (&["--jwt-secret", SECRET, "--jwt-jwks-file", "f"], &["JWT_SECRET", "JWT_JWKS_FILE"]),
            (&["--jwt-secret", SECRET, "--jwt-algorithm", "RS256"], &["JWT_ALGORITHM=RS256", "JWT_SECRET"]),
            (&["--jwt-public-key-file", "f", "--jwt-algorithm", "HS256"], &["HS256", "JWT_PUBLIC_KEY_FILE"]),
            (&["--jwt-public-key-file", "f"], &["JWT_ALGORITHM", "JWT_PUBLIC_KEY_FILE"]),
            (&["--jwt-jwks-file", "/no/file", "--jwt-algorithm", "ES256"], &["JWT_JWKS_FILE", "/no/file"]),
            (&["--jwt-algorithm", "none", "--jwt-secret", SECRET], &["--jwt-algorithm"]),
            (&["--jwt-algorithm", "hs256", "--jwt-secret", SECRET], &["--jwt-algorithm"]),
            (&["--jwt-issuer", "me"], &["JWT_ISSUER", "JWT_SECRET_FILE"]),
            (&["--dev", "--jwt-audience", "me"], &["JWT_AUDIENCE"]),
            (&["--url-signing-key", &SECRET[1..]], &["URL_SIGNING_KEY", "32 bytes"]),
            (&["--url-signing-key", ""], &["URL_SIGNING_KEY", "no key"]),
            (
                &["--url-signing-key", SECRET, "--url-signing-key-file", "f"],
                &["URL_SIGNING_KEY", "URL_SIGNING_KEY_FILE"],
            ),
            (&["--url-signing-key-file", "/no/file"], &["URL_SIGNING_KEY_FILE", "/no/file"]),
            (&["--url-signing-key", SECRET, "--auth-mode", "none"], &["URL_SIGNING_KEY", "AUTH_MODE=none"]),
        ] {
            let error = config(flags).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{flags:?}: {error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }

    #[test]
    fn a_rate_is_for_credentials_and_its_burst_is_two_seconds() {
        let rate = |per_second, burst| {
            let [per_second, burst] = [per_second, burst].map(|number| NonZeroU32::new(number).unwrap());
            Some(RequestRate::new(per_second, burst))
        };
        for (flags, expected) in [
            (&[][..], None),
            (&["--rate-limit-per-second", "0"], None),
            (&["--dev", "--rate-limit-per-second", "0"], None),
            (&["--rate-limit-per-second", "1"], rate(1, 2)),
            (&["--rate-limit-per-second", "1000000"], rate(1_000_000, 2_000_000)),
            (&["--rate-limit-per-second", "50", "--rate-limit-burst", "1"], rate(50, 1)),
            (&["--rate-limit-per-second", "50", "--rate-limit-burst", "10000000"], rate(50, 10_000_000)),
        ] {
            assert_eq!(config(flags).unwrap().request_rate, expected, "{flags:?}");
        }
        for (flags, words) in [
            (&["--dev", "--rate-limit-per-second", "1"][..], "AUTH_MODE=none"),
            (&["--auth-mode", "none", "--rate-limit-per-second", "1"], "RATE_LIMIT_PER_SECOND"),
            (&["--rate-limit-burst", "1"], "RATE_LIMIT_BURST"),
            (&["--rate-limit-per-second", "1000001"], "--rate-limit-per-second"),
            (&["--rate-limit-per-second", "1", "--rate-limit-burst", "0"], "--rate-limit-burst"),
            (&["--rate-limit-per-second", "1", "--rate-limit-burst", "10000001"], "--rate-limit-burst"),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn bad_settings_are_named() {
        for (arguments, name) in [
            (&["--dev", "--listen-addr", "localhost"][..], "--listen-addr"),
            (&["--dev", "--database-url", "postgres://h:x/d"], "DATABASE_URL"),
            (&["--dev", "--database-url", "mysql://h/d"], "DATABASE_URL"),
            (&["--dev", "--cores", "0"], "--cores"),
            (&["--dev", "--header-bytes-max", "1023"], "--header-bytes-max"),
            (&["--dev", "--header-fields-max", "129"], "--header-fields-max"),
            (&["--dev", "--buffer-bytes-max", "1"], "--buffer-bytes-max"),
            (&["--dev", "--idle-timeout-secs", "0"], "--idle-timeout-secs"),
            (&["--dev", "--storage-timeout-secs", "0"], "--storage-timeout-secs"),
            (&["--dev", "--metadata-timeout-secs", "86401"], "--metadata-timeout-secs"),
            (&["--dev", "--log-format", "xml"], "--log-format"),
            (&["--dev", "--log-level", "loud"], "--log-level"),
            (&["--dev", "--db-min-connections", "9", "--db-max-connections", "8"], "DB_MIN_CONNECTIONS"),
            (&["--dev", "--hot-storage-root", "a/./b", "--cold-storage-root", "a/b"], "HOT_STORAGE_ROOT"),
            (&["--dev", "--ack", "log", "--database-url", "postgres://h/d"], "ACK=log"),
            (&["--dev", "--pack-blob-bytes-max", "524289"], "--pack-blob-bytes-max"),
            (&["--dev", "--jwt-secret", "s"], "JWT_SECRET"),
            (&["--dev", "--tls-cert-file", "f"], "TLS_KEY_FILE"),
            (&["--dev", "--tls-key-file", "f"], "TLS_CERT_FILE"),
            (&["--dev", "--gc-interval-secs", "9"], "--gc-interval-secs"),
            (&["--dev", "--gc-batch-size", "1001"], "--gc-batch-size"),
            (&["--dev", "--gc-batch-size", "0"], "--gc-batch-size"),
            (&["--dev", "--scrub-interval-secs", "31536001"], "--scrub-interval-secs"),
            (&["--dev", "--scrub-bytes-per-second", "65535"], "--scrub-bytes-per-second"),
            (&["--dev", "--scrub-bytes-per-second", "1099511627777"], "--scrub-bytes-per-second"),
            (&["--dev", "--lifecycle-interval-secs", "0"], "--lifecycle-interval-secs"),
            (&["--dev", "--lifecycle-interval-secs", "604801"], "--lifecycle-interval-secs"),
            (&["--dev", "--metrics-addr", "9090"], "--metrics-addr"),
        ] {
            let error = config(arguments).unwrap_err();
            assert!(error.contains(name), "{arguments:?}: {error}");
        }
    }
}
