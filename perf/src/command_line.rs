//! The command line: its commands, and a bound on everything that they can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::load_loop::{LoadPlan, Pace};
use crate::monitor::Watched;
use crate::target::Target;

/// The most connections of one run.
pub(crate) const CONNECTIONS_MAX: u64 = 16_000;
/// The longest run, and the longest wait for its last operations.
const SECONDS_MAX: u64 = 3_600;
/// How long a run is when neither a duration nor a number of operations is given.
const SECONDS_DEFAULT: u64 = 10;
/// A body holds one whole stamp at least, or it could not differ from the others.
const SIZE_BYTES_MIN: u64 = 8;
/// One tebibyte, far more than any run can move.
const SIZE_BYTES_MAX: u64 = 1 << 40;

/// Loads an object server on this machine and reports rates, latencies and what they cost.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The kinds of load.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs scenarios against this server and its peers in turns, and writes results, a table and plots.
    Run(RunOptions),
    /// Makes the table and the plots of results that are there already.
    Render(RenderOptions),
    /// Receives uploads, hashes them and keeps nothing: the most that any server that hashes could do.
    Bound(BoundOptions),
    /// Uploads unique, incompressible objects.
    Put(PutOptions),
    /// Downloads one path.
    Get(GetOptions),
    /// Holds many uploads open that send very slowly, then finishes them.
    Slow(SlowOptions),
}

/// The options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The scenarios, by the names of their files without `.toml` [default: all].
    pub(crate) scenarios: Vec<String>,
    /// Where scenarios, peers and fio's jobs are described.
    #[arg(long, value_name = "DIRECTORY", default_value = "perf")]
    pub(crate) descriptions: PathBuf,
    /// Where servers keep their data. It is removed after the run.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/perf-data")]
    pub(crate) data: PathBuf,
    /// Where results, table and plots go.
    #[arg(long, value_name = "DIRECTORY", default_value = "perf/results")]
    pub(crate) results: PathBuf,
    /// Rounds of each scenario, in place of its own number.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub(crate) rounds: Option<u64>,
    /// Seconds of each measurement, in place of the scenario's own.
    #[arg(long, value_parser = seconds())]
    pub(crate) seconds: Option<u64>,
    /// Leaves out whatever would need more objects than this to be stored first.
    #[arg(long, value_name = "N")]
    pub(crate) objects_max: Option<u64>,
    /// Asks only these peers, beside our own server.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) peers: Option<Vec<String>>,
    /// The core that servers run on.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// The core that the generator runs on.
    #[arg(long, default_value_t = 1)]
    pub(crate) load_core: usize,
}

/// The options of `render`.
#[derive(Debug, Args)]
pub(crate) struct RenderOptions {
    /// The results, as `run` has written them. What later files have of a scenario replaces what earlier ones had.
    #[arg(required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Where the table and the plots go.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) output: PathBuf,
}

/// The options of `bound`.
#[derive(Debug, Args)]
pub(crate) struct BoundOptions {
    /// The loopback port.
    #[arg(long)]
    pub(crate) port: u16,
}

/// Which server is loaded and watched, and where the results go.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerOptions {
    /// The server, as in `http://127.0.0.1:8080`; only loopback addresses are taken.
    #[arg(long)]
    pub(crate) url: Target,
    /// Watches the memory and CPU time of this process, which should be the server.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Counts the flushes of the device that holds this directory, which should be the server's.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Also writes the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// How long operations that are under way at the end may take to finish before they count as errors.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = seconds())]
    pub(crate) grace_seconds: u64,
}

impl ServerOptions {
    /// What is watched during a run.
    pub(crate) fn watched(&self) -> Watched {
        Watched { server_pid: self.server_pid, data: self.data.clone() }
    }

    /// A run against the server.
    pub(crate) fn plan(&self, pace: &PaceOptions, buffer_bytes: usize) -> LoadPlan {
        LoadPlan {
            address: self.url.address,
            watched: self.watched(),
            connections: pace.connections,
            pace: Pace {
                rate_per_second: pace.rate,
                warm_up: Duration::from_secs(pace.warm_up_seconds),
                length: Duration::from_secs(pace.seconds()),
                operations_max: pace.count.unwrap_or(u64::MAX),
                grace: Duration::from_secs(self.grace_seconds),
            },
            buffer_bytes,
            first_number: 0,
            settle_request: None,
        }
    }
}

/// How hard and how long a loop works.
#[derive(Debug, Clone, Args)]
pub(crate) struct PaceOptions {
    /// Keep-alive connections, each with one operation at a time.
    #[arg(long, default_value_t = 64, value_parser = connections())]
    pub(crate) connections: u64,
    /// Operations that become due each second, whatever the server does; latency then counts from when one was due.
    /// Without a rate, each connection starts its next operation when the last one is answered.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// What starts in so many seconds before is done and not counted.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX))]
    pub(crate) warm_up_seconds: u64,
    /// No operation is started after this time [default: 10, or 3600 with --count].
    #[arg(long, value_parser = seconds())]
    seconds: Option<u64>,
    /// Stops after this many operations, if the time is not over before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

impl PaceOptions {
    /// The time after which no operation is started.
    pub(crate) fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.count.is_some() { SECONDS_MAX } else { SECONDS_DEFAULT })
    }
}

/// Where uploads go.
#[derive(Debug, Clone, Args)]
pub(crate) struct DestinationOptions {
    /// The namespace of the uploads.
    #[arg(long, default_value = "bench", value_parser = path_text)]
    pub(crate) namespace: String,
    /// The tenant of the uploads.
    #[arg(long, default_value = "perf", value_parser = path_text)]
    pub(crate) tenant: String,
    /// What the keys start with, before `/` and a number [default: one that no other run has].
    #[arg(long, value_name = "PREFIX", value_parser = path_text)]
    pub(crate) keys_prefix: Option<String>,
    /// The storage class that is asked for; none is named unless this is given.
    #[arg(long, value_enum)]
    pub(crate) storage_class: Option<StorageClass>,
}

/// Which root of the server the bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StorageClass {
    /// What is read again and again.
    Hot,
    /// What is kept.
    Cold,
}

impl StorageClass {
    /// The class as the server spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }
}

/// The options of `put`.
#[derive(Debug, Args)]
pub(crate) struct PutOptions {
    /// The server.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// How hard and how long.
    #[command(flatten)]
    pub(crate) pace: PaceOptions,
    /// Where the uploads go.
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,
    /// The length of each body in bytes.
    #[arg(long = "size", value_name = "BYTES", default_value_t = 4096, value_parser = size_bytes())]
    pub(crate) size_bytes: u64,
    /// Creates objects without a key by `POST /v1/objects` instead of `PUT /v1/keys/…`.
    #[arg(long, conflicts_with = "keys_prefix")]
    pub(crate) post: bool,
}

/// The options of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// The server.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// How hard and how long.
    #[command(flatten)]
    pub(crate) pace: PaceOptions,
    /// The path that is downloaded, with its query if it has one.
    #[arg(long, value_parser = request_target)]
    pub(crate) path: String,
    /// Compares the SHA-256 of every hundredth body with its `Repr-Digest`, where the answer has one.
    #[arg(long)]
    pub(crate) verify: bool,
}

/// The options of `slow`.
#[derive(Debug, Args)]
pub(crate) struct SlowOptions {
    /// The server.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Where the uploads go.
    #[command(flatten)]
    pub(crate) destination: DestinationOptions,
    /// Connections, all opened at once, each with one upload.
    #[arg(long, default_value_t = 1000, value_parser = connections())]
    pub(crate) connections: u64,
    /// How fast each body is sent.
    #[arg(long, value_name = "RATE", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) bytes_per_second: u64,
    /// The length of each body in bytes.
    #[arg(long = "size", value_name = "BYTES", default_value_t = 65_536, value_parser = size_bytes())]
    pub(crate) size_bytes: u64,
    /// How long the bodies are sent slowly, before the rest follows at full speed.
    #[arg(long, default_value_t = 20, value_parser = seconds())]
    pub(crate) seconds: u64,
}

fn connections() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=CONNECTIONS_MAX)
}

fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=SECONDS_MAX)
}

/// Takes a rate that the clock can tell apart.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.1 to 1000000".to_owned()),
    }
}

fn size_bytes() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(SIZE_BYTES_MIN..=SIZE_BYTES_MAX)
}

/// Takes text that stands in a path and in a query as it is, so that nothing has to be percent-encoded.
fn path_text(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("only letters, digits and `.`, `_`, `-`, `/` are taken".to_owned());
    }
    Ok(text.to_owned())
}

/// Takes a path that cannot break out of the request line.
fn request_target(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a path starts with `/` and has only visible ASCII in it".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_count_alone_lifts_the_default_duration() {
        let parse = |arguments: &str| {
            let line = format!("perf get --url http://127.0.0.1 --path / {arguments}");
            match CommandLine::try_parse_from(line.split_whitespace()).unwrap().command {
                Command::Get(options) => options.pace.seconds(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(parse(""), SECONDS_DEFAULT);
        assert_eq!(parse("--count 5"), SECONDS_MAX);
        assert_eq!(parse("--count 5 --seconds 7"), 7);
    }

    #[test]
    fn everything_has_a_bound() {
        for arguments in [
            "get --url http://127.0.0.1 --path / --connections 16001",
            "get --url http://127.0.0.1 --path / --connections 0",
            "get --url http://127.0.0.1 --path / --seconds 3601",
            "get --url http://10.0.0.1 --path /",
            "get --url http://127.0.0.1 --path x",
            "get --url http://127.0.0.1 --path / --rate 0",
            "get --url http://127.0.0.1 --path / --rate inf",
            "put --url http://127.0.0.1 --size 7",
            "put --url http://127.0.0.1 --keys-prefix a?b",
            "slow --url http://127.0.0.1 --bytes-per-second 0",
        ] {
            let words = std::iter::once("perf").chain(arguments.split_whitespace());
            assert!(CommandLine::try_parse_from(words).is_err(), "{arguments}");
        }
    }
}
