//! Settings that belong together, as they are given, and what they are to the parts of the server.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::choices::{LogFormat, LogLevel, Switch};
use super::{Authentication, ConfigError};
use crate::api::http1::HeadLimits;
use crate::api::{Limits, Timeouts, TimingSettings};
use crate::application::credentials::RequestRate;
use crate::fault_injection::gc_interval;
use crate::infrastructure::data_plane::tls_configuration::TlsFiles;
use crate::infrastructure::persistence::{DatabaseSettings, GcSettings};

/// So many seconds' worth of requests may come at once, where nothing else is said.
const BURST_SECONDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArguments {
    /// The certificate and its chain in PEM; with it the listener speaks HTTPS only. Read again on SIGHUP, as is the key
    #[arg(long, env, value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// The private key of the certificate in PEM
    #[arg(long, env, value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
}

impl TlsArguments {
    pub(super) fn files(self) -> Result<Option<TlsFiles>, ConfigError> {
        match (self.tls_cert_file, self.tls_key_file) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (Some(_), None) => Err(ConfigError::HalfOfTls("TLS_CERT_FILE", "TLS_KEY_FILE")),
            (None, Some(_)) => Err(ConfigError::HalfOfTls("TLS_KEY_FILE", "TLS_CERT_FILE")),
            (None, None) => Ok(None),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArguments {
    /// The largest body
    #[arg(long, env, value_name = "BYTES", default_value_t = 1 << 40, value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    body_bytes_max: u64,
    /// The largest header section
    #[arg(long, env, value_name = "BYTES", default_value_t = 32 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    header_bytes_max: u32,
    /// The longest request line
    #[arg(long, env, value_name = "BYTES", default_value_t = 8 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1 << 16))]
    request_line_bytes_max: u32,
    /// The most header fields
    #[arg(long, env, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=HeadLimits::FIELDS_CEILING as i64))]
    header_fields_max: u32,
    /// The most connections, over all cores
    #[arg(long, env, value_name = "COUNT", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(super) connections_max: u32,
    /// The most memory for bodies on their way in or out, over all cores
    #[arg(long, env, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(8 << 20..=1 << 40))]
    pub(super) buffer_bytes_max: u64,
    /// The most uploads of a tenant that wait for more of their bytes, in each storage class
    #[arg(long, env, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    uploads_max: u32,
    /// For how long an upload waits for more of its bytes
    #[arg(long, env, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    upload_expires_secs: u64,
    /// The most requests a second with one credential, over all cores; 0 is no limit
    #[arg(long, env, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate_limit_per_second: u32,
    /// How many of them may come at once after a pause [default: those of two seconds]
    #[arg(long, env, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate_limit_burst: Option<u32>,
}

impl LimitArguments {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            head: HeadLimits {
                request_line_bytes_max: self.request_line_bytes_max as usize,
                header_bytes_max: self.header_bytes_max as usize,
                fields_max: self.header_fields_max as usize,
            },
            body_bytes_max: self.body_bytes_max,
            uploads_max: self.uploads_max as usize,
            uploads_kept_for: Duration::from_secs(self.upload_expires_secs),
        }
    }

    pub(super) fn request_rate(
        &self,
        authentication: &Authentication,
    ) -> Result<Option<RequestRate>, ConfigError> {
        match (NonZeroU32::new(self.rate_limit_per_second), self.rate_limit_burst, authentication) {
            (None, Some(_), _) => Err(ConfigError::BurstWithoutRate),
            (None, None, _) => Ok(None),
            (Some(_), _, Authentication::None) => Err(ConfigError::RateOfNobody),
            (Some(per_second), burst, Authentication::Required { .. }) => {
                let burst = burst.and_then(NonZeroU32::new);
                Ok(Some(RequestRate::new(
                    per_second,
                    burst.unwrap_or(per_second.saturating_mul(BURST_SECONDS)),
                )))
            }
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
pub(super) struct TimeoutArguments {
    /// How long a connection may be silent between requests
    #[arg(long, env, value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout_secs: u64,
    /// How long a request head may take
    #[arg(long, env, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    header_timeout_secs: u64,
    /// How long a body may pause
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    body_timeout_secs: u64,
    /// The least rate of a body over longer times
    #[arg(long, env, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    body_bytes_per_second_min: u64,
    /// How long a client may take none of an answer
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    send_timeout_secs: u64,
    /// How long a storage root may take to do one thing that it is asked
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) storage_timeout_secs: u64,
    /// How long the metadata may take to answer
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) metadata_timeout_secs: u64,
    /// How long running requests may take after SIGTERM
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(super) drain_timeout_secs: u64,
}

impl TimeoutArguments {
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            idle: Duration::from_secs(self.idle_timeout_secs),
            header: Duration::from_secs(self.header_timeout_secs),
            body: Duration::from_secs(self.body_timeout_secs),
            body_bytes_per_second_min: self.body_bytes_per_second_min,
            send: Duration::from_secs(self.send_timeout_secs),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Database connections")]
pub(super) struct DatabaseArguments {
    /// The most connections that read
    #[arg(long, env, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    db_max_connections: u32,
    /// The connections that stay open
    #[arg(long, env, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    db_min_connections: u32,
    /// How long a query waits for a connection
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    db_acquire_timeout_secs: u64,
    /// How long PostgreSQL may take over a query or a transaction
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    db_answer_timeout_secs: u64,
    /// After how long without use a connection is closed
    #[arg(long, env, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    db_idle_timeout_secs: u64,
    /// After how long in all a connection is closed
    #[arg(long, env, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    db_max_lifetime_secs: u64,
}

impl DatabaseArguments {
    pub(super) fn settings(&self) -> Result<DatabaseSettings, ConfigError> {
        if self.db_min_connections > self.db_max_connections {
            return Err(ConfigError::Connections);
        }
        Ok(DatabaseSettings {
            max_connections: self.db_max_connections,
            min_connections: self.db_min_connections,
            acquire_timeout: Duration::from_secs(self.db_acquire_timeout_secs),
            answer_timeout: Duration::from_secs(self.db_answer_timeout_secs),
            idle_timeout: Duration::from_secs(self.db_idle_timeout_secs),
            max_lifetime: Duration::from_secs(self.db_max_lifetime_secs),
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Garbage collection")]
pub(super) struct GcArguments {
    /// How often what nothing refers to is looked for
    #[arg(long, env, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    gc_interval_secs: u64,
    #[command(flatten)]
    collection: CollectionArguments,
}

impl GcArguments {
    pub(super) fn settings(&self) -> GcSettings {
        GcSettings {
            interval: gc_interval().unwrap_or(Duration::from_secs(self.gc_interval_secs)),
            ..self.collection.settings()
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Scrub")]
pub(super) struct ServerScrubArguments {
    /// From the beginning of one pass through all that is stored to that of the next; 0 for none
    #[arg(long, env, value_name = "SECONDS", default_value_t = 604_800, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub(super) scrub_interval_secs: u64,
    /// How many bytes it reads in a second at most; a blob counts as 64 KiB at least
    #[arg(long, env, value_name = "BYTES", default_value_t = 8 << 20, value_parser = clap::value_parser!(u64).range(1 << 16..=1 << 40))]
    pub(super) scrub_bytes_per_second: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Rules of namespaces")]
pub(super) struct LifecycleSettings {
    /// How often what rules of namespaces make due is looked for
    #[arg(long, env, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(super) lifecycle_interval_secs: u64,
}

/// What the collector and `gc` have in common.
#[derive(Debug, Args)]
pub struct CollectionArguments {
    /// How much of it is forgotten in one transaction
    #[arg(long, env, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    gc_batch_size: u32,
    /// For how long nothing must have referred to it
    #[arg(long, env, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    gc_grace_secs: u64,
}

impl CollectionArguments {
    /// What one cycle needs to know.
    pub fn settings(&self) -> GcSettings {
        GcSettings {
            interval: Duration::ZERO,
            batch_size: self.gc_batch_size,
            grace: Duration::from_secs(self.gc_grace_secs),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArguments {
    /// How the log reads; auto is text on a terminal and JSON otherwise
    #[arg(long, env, value_enum, default_value = "auto")]
    pub(super) log_format: LogFormat,
    /// What is logged; requests are told at info
    #[arg(long, env, value_enum, default_value = "info")]
    pub(super) log_level: LogLevel,
    /// From how many milliseconds of work on a request is logged with its phases; 0 for none
    #[arg(long, env, value_name = "MILLISECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    slow_request_ms: u64,
    /// Whether answers say in Server-Timing how long their phases took
    #[arg(long, env, value_enum, default_value = "off")]
    server_timing: Switch,
}

impl LogArguments {
    pub(super) fn timing(&self) -> TimingSettings {
        TimingSettings {
            server_timing: self.server_timing == Switch::On,
            slow_request: Some(self.slow_request_ms).filter(|ms| *ms > 0).map(Duration::from_millis),
        }
    }
}

/// What the server and the tools that change credentials or limits have in common.
#[derive(Debug, Args)]
#[command(next_help_heading = "Audit log")]
pub struct AuditArguments {
    /// A file that is told of every change, refusal and credential, a JSON object a line; made if it is not there, and made anew where it is moved away [default: none]
    #[arg(long, env, value_name = "FILE")]
    audit_log_file: Option<PathBuf>,
}

impl AuditArguments {
    /// Where the file is, if there is to be one.
    pub fn into_path(self) -> Option<PathBuf> {
        self.audit_log_file
    }
}
