//! What the kernel says about the machine: how busy its processors are, what the host has taken from them, and how often
//! the device under the data has been flushed.
//!
//! The flushes are the proof of a durable server: one that answers faster than its device flushes has either put many
//! answers behind one flush, or none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::process::TICKS_PER_SECOND;

/// What was counted up to one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineCounters {
    /// All ticks of all processors.
    total_ticks: u64,
    /// Those in which they worked for somebody here.
    busy_ticks: u64,
    /// Those that the host took.
    steal_ticks: u64,
    /// Flush requests of the watched device that are done.
    flushes: Option<u64>,
}

/// What the machine did between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineUse {
    /// The share of the time of all processors that the host took away.
    pub(crate) steal_percent: f64,
    /// The share of one core that neither the server nor the generator used: the work of others, and of the kernel on
    /// nobody's account.
    pub(crate) others_cpu_percent: f64,
    /// Flushes of the device that holds the data, if it was watched.
    pub(crate) device_flushes: Option<u64>,
}

impl MachineCounters {
    /// Reads the counters, that of flushes for the device that holds this directory.
    pub(crate) fn read(data: Option<&Path>) -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
        let [total_ticks, busy_ticks, steal_ticks] =
            parse_processors(&stat).context("/proc/stat has no line of all processors")?;
        Ok(Self { total_ticks, busy_ticks, steal_ticks, flushes: data.and_then(flushes_below) })
    }

    /// What happened from then to now, of which some was the work of the generator and the server.
    pub(crate) fn since(self, before: Self, own_cpu_us: u64, elapsed: Duration) -> MachineUse {
        let ticks = self.total_ticks.saturating_sub(before.total_ticks).max(1);
        let steal_ticks = self.steal_ticks.saturating_sub(before.steal_ticks);
        let busy_us = self.busy_ticks.saturating_sub(before.busy_ticks) * (1_000_000 / TICKS_PER_SECOND);
        let others_us = busy_us.saturating_sub(own_cpu_us);
        MachineUse {
            steal_percent: steal_ticks as f64 / ticks as f64 * 100.0,
            others_cpu_percent: others_us as f64 / elapsed.as_micros().max(1) as f64 * 100.0,
            device_flushes: self.flushes.zip(before.flushes).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// Total, busy and stolen ticks of the first line of `/proc/stat` (proc(5)).
fn parse_processors(stat: &str) -> Option<[u64; 3]> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two already.
    let [user, nice, system, idle, wait, interrupts, soft_interrupts, steal] = *ticks.first_chunk()?;
    let busy = user + nice + system + interrupts + soft_interrupts;
    Some([busy + idle + wait + steal, busy, steal])
}

/// The flushes of the device under a path; `None` where there is no device with a counter, as under tmpfs.
fn flushes_below(path: &Path) -> Option<u64> {
    let device = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    parse_flushes(&fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
}

/// The sixteenth field (Documentation/block/stat.rst in the kernel's sources).
fn parse_flushes(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(15)?.parse().ok()
}

/// What the figures were made on, in words for the results.
pub(crate) fn describe(data: &Path) -> String {
    let system = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Not those that this process may use, which has been pinned to one.
    let processors = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_default();
    let memory_kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0);
    format!(
        "{processors} cores ({model}), {} GiB, Linux {}, data on {}",
        memory_kib.div_ceil(1 << 20),
        system.release().to_string_lossy(),
        file_system_of(data, &read("/proc/self/mounts"))
            .unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the file system of the deepest mount above a path, with the options that tell how much it promises.
fn file_system_of(path: &Path, mounts: &str) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_device, place, kind) = (words.next()?, words.next()?, words.next()?);
        path.starts_with(place).then_some((place.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_flushes_are_counted() {
        let stat = "cpu  10 20 30 400 50 6 7 80 9 9\ncpu0 1 2 3\n";
        assert_eq!(parse_processors(stat), Some([603, 73, 80]));
        assert_eq!(parse_processors("cpu0 1 2 3"), None);
        assert_eq!(parse_flushes(" 1 2 3 4 5 6 7 8 0 10 11 12 13 14 15 16 17\n"), Some(16));
        assert_eq!(parse_flushes("1 2 3"), None);
    }

    #[test]
    fn the_deepest_mount_names_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(file_system_of(Path::new("/proc/self"), mounts), Some("proc".to_owned()));
        assert_eq!(file_system_of(Path::new("/usr"), mounts), Some("ext4".to_owned()));
    }

    #[test]
    fn use_is_what_happened_in_between() {
        let before = MachineCounters { total_ticks: 0, busy_ticks: 0, steal_ticks: 0, flushes: Some(3) };
        let after = MachineCounters { total_ticks: 200, busy_ticks: 150, steal_ticks: 10, flushes: Some(8) };
        let used = after.since(before, 1_000_000, Duration::from_secs(1));
        assert_eq!((used.steal_percent, used.others_cpu_percent), (5.0, 50.0));
        assert_eq!(used.device_flushes, Some(5));
    }
}
