//! What scenarios and peers say in their files.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Which servers are compared with each other. Two leagues are never mixed: one that syncs before it answers does other
/// work than one that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum League {
    /// This project's server.
    Ours,
    /// What it answered for is on the disk.
    Durable,
    /// As it comes, which is: not on the disk yet.
    Shipped,
    /// No store at all, but the most that one could do.
    Bound,
}

/// A server, and how it is started, asked and stopped. `{port}`, `{port_1}` to `{port_4}`, `{data}`, `{prefix}`, `{self}`
/// (this program) stand for what the run chooses; in requests also `{number}`, `{sha256}`, `{location}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    /// As it stands in tables.
    pub(crate) name: String,
    pub(crate) league: League,
    /// What it has done before it answers.
    pub(crate) promise: String,
    /// How it is installed.
    pub(crate) install: String,
    /// Without this program it is absent.
    pub(crate) program: String,
    /// A command that tells its version, first line.
    #[serde(default)]
    pub(crate) version: Vec<String>,
    pub(crate) start: Vec<String>,
    /// Files in its data directory before it starts.
    #[serde(default)]
    pub(crate) files: Vec<DataFile>,
    /// Directories below its data directory.
    #[serde(default)]
    pub(crate) directories: Vec<String>,
    /// A path that is answered with less than 500 once it is ready.
    pub(crate) ready: String,
    /// Requests that make what uploads need.
    #[serde(default)]
    pub(crate) prepare: Vec<String>,
    /// A request before each upload, whose `Location` the upload may name.
    pub(crate) put_begin: Option<String>,
    pub(crate) put: String,
    /// An upload of the cold class, read back by the `Location` of its answer.
    pub(crate) put_cold: Option<String>,
    /// An upload that is read back by the `Location` of its answer.
    pub(crate) put_for_id: Option<String>,
    pub(crate) get: Option<String>,
    pub(crate) list: Option<String>,
    /// Answered with 200 when all that it has acknowledged is in its place.
    pub(crate) settle: Option<String>,
}

/// A file that a peer wants to find.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    Put,
    Get,
    List,
}

/// One line or several of the table: the same work on several servers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) work: Work,
    pub(crate) body_bytes: u64,
    /// A point of the curve for each.
    pub(crate) connections: Vec<u64>,
    /// Objects stored before, a server and a point of the curve for each.
    #[serde(default = "nothing_stored")]
    pub(crate) objects: Vec<u64>,
    pub(crate) seconds: u64,
    #[serde(default)]
    pub(crate) warm_up_seconds: u64,
    /// The most operations of a measurement.
    pub(crate) count: Option<u64>,
    /// Operations that become due each second; without it the loop is closed.
    pub(crate) rate: Option<f64>,
    /// What is to be measured alone and beside an upload, in turns.
    pub(crate) beside_upload: Option<BesideUpload>,
    pub(crate) rounds: u64,
    /// The files of the peers, without `.toml`.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
    /// Reads by id where a server has ids.
    #[serde(default)]
    pub(crate) by_id: bool,
    /// Stores in the cold class where a server has one, and drops what the page cache holds before each measurement.
    #[serde(default)]
    pub(crate) cold: bool,
    /// Lets every round begin with servers that have stored nothing, so that each is about the same work.
    #[serde(default)]
    pub(crate) fresh: bool,
    /// A job of fio that gives the bound.
    pub(crate) fio: Option<String>,
    #[serde(default)]
    pub(crate) goals: Vec<Goal>,
}

/// An upload that goes on beside the work, which is done at a rate that leaves room for it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BesideUpload {
    /// The length of the upload. It is followed by another one as long as the measurement lasts.
    pub(crate) body_bytes: u64,
    /// The rate of the work: so much of what the same server does of it in the same round, alone and in a closed loop.
    pub(crate) percent_of_peak: f64,
}

/// Under which conditions a point is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Conditions {
    /// The work alone.
    #[default]
    Alone,
    /// The work alone and in a closed loop, so that the rate for the others is known.
    Peak,
    /// The work, and a large upload at the same time.
    BesideUpload,
}

impl Scenario {
    /// The conditions that each of its points is measured under.
    pub(crate) fn conditions(&self) -> &'static [Conditions] {
        match self.beside_upload {
            Some(_) => &[Conditions::Peak, Conditions::Alone, Conditions::BesideUpload],
            None => &[Conditions::Alone],
        }
    }
}

fn nothing_stored() -> Vec<u64> {
    vec![0]
}

/// A figure of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Operations a second.
    Rate,
    /// Megabytes a second.
    Megabytes,
    /// Megabytes for each second of the server's CPU time.
    MegabytesPerCpuSecond,
    /// The median latency.
    P50Us,
    /// What 99 of 100 latencies are below.
    P99Us,
    /// The most memory of the server.
    RssPeakMib,
}

/// What a scenario should reach; one of the bounds is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    /// As it stands in the table.
    pub(crate) text: String,
    pub(crate) measure: Measure,
    /// The point that it is about; without it, the worst of all.
    pub(crate) connections: Option<u64>,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    /// A league, of which the best counts, or the name of a server. `alone` is the same server without an upload
    /// beside it.
    pub(crate) against: Option<String>,
    pub(crate) times_at_least: Option<f64>,
    pub(crate) times_at_most: Option<f64>,
    pub(crate) plus_at_most: Option<f64>,
    /// How far the last point may be below the best.
    pub(crate) fall_percent_max: Option<f64>,
}

/// Reads a description by its name.
pub(crate) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> anyhow::Result<T> {
    let path = directory.join(format!("{name}.toml"));
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))
}

/// The names of all descriptions in a directory, sorted.
pub(crate) fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("{} cannot be read", directory.display()))?;
    let names =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    fn directory(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn all_scenarios_are_understood_and_name_peers_and_jobs_that_are_there() {
        let peers = names(&directory("peers")).unwrap();
        for name in names(&directory("scenarios")).unwrap() {
            let scenario: Scenario = read(&directory("scenarios"), &name).unwrap();
            assert!(scenario.peers.iter().all(|peer| peers.contains(peer)), "{name}");
            assert!(!scenario.connections.is_empty() && !scenario.objects.is_empty(), "{name}");
            if let Some(job) = &scenario.fio {
                assert!(directory("fio").join(format!("{job}.fio")).exists(), "{name}");
            }
            for goal in &scenario.goals {
                let bounds = [goal.at_least, goal.at_most, goal.times_at_least, goal.times_at_most];
                let others = [goal.plus_at_most, goal.fall_percent_max];
                assert_eq!(bounds.iter().chain(&others).flatten().count(), 1, "{name}: {}", goal.text);
            }
        }
    }

    #[test]
    fn all_peers_are_understood() {
        for name in names(&directory("peers")).unwrap() {
            let peer: Peer = read(&directory("peers"), &name).unwrap();
            for line in
                [Some(peer.put), peer.put_begin, peer.get, peer.list, peer.settle].into_iter().flatten()
            {
                let line = line.replace("{prefix}", "x");
                Template::new(&line, "127.0.0.1", None).unwrap();
            }
        }
    }
}
