//! What the kernel says about a process (proc(5)): its memory, its CPU time, its children and its limit of open files.

use std::fs;

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clock ticks of a second in `/proc`. The kernel gives all programs the same 100, whatever its own timer is.
pub(crate) const TICKS_PER_SECOND: u64 = 100;
/// Files that are open beside the sockets: standard streams, the poller, `/proc`, the results.
const OTHER_OPEN_FILES: u64 = 32;

/// A process, by its name in `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process(String);

/// The memory of a process in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResidentMemory {
    /// What is resident now (`VmRSS`).
    pub(crate) now_kib: u64,
    /// The most that was resident since the process began (`VmHWM`).
    pub(crate) peak_kib: u64,
}

impl Process {
    /// The process with this id.
    pub(crate) fn with_id(id: u32) -> Self {
        Self(id.to_string())
    }

    /// This process.
    pub(crate) fn this() -> Self {
        Self("self".to_owned())
    }

    /// The process with this id and all that it and its children have started, as a server with workers has.
    pub(crate) fn with_descendants(id: u32) -> anyhow::Result<Vec<Self>> {
        let parents = parents_of_all()?;
        let mut ids = vec![id];
        let mut position = 0;
        while position < ids.len() {
            let parent = ids[position];
            ids.extend(parents.iter().filter(|(_, its_parent)| *its_parent == parent).map(|(id, _)| *id));
            position += 1;
        }
        Ok(ids.into_iter().map(Self::with_id).collect())
    }

    /// Lets the kernel forget the most that was resident before now. Not every kernel can, and then it stays.
    pub(crate) fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.0), "5");
    }

    /// Reads its CPU time in microseconds, of all its threads, in user and kernel mode.
    pub(crate) fn cpu_time_us(&self) -> anyhow::Result<u64> {
        let ticks = parse_cpu_ticks(&self.read("stat")?).context("/proc/…/stat has no CPU times")?;
        Ok(ticks * (1_000_000 / TICKS_PER_SECOND))
    }

    /// Reads its resident memory.
    pub(crate) fn resident_memory(&self) -> anyhow::Result<ResidentMemory> {
        parse_resident_memory(&self.read("status")?)
            .context("/proc/…/status has no VmRSS and VmHWM: the process has ended")
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0))
            .with_context(|| format!("process {} cannot be watched", self.0))
    }
}

/// Raises the limit of open files as far as it goes, for this process and those that it starts, and refuses a number of
/// connections that it would cut short in the middle of a run.
pub(crate) fn require_open_files(connections: u64) -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("the limit of open files could not be raised")?;
    let open_files_max = maximum.unwrap_or(u64::MAX);
    ensure!(
        connections.saturating_add(OTHER_OPEN_FILES) <= open_files_max,
        "{connections} connections need more open files than the hard limit of {open_files_max}: raise that with \
         `ulimit -Hn`, or ask for fewer connections"
    );
    Ok(())
}

/// All processes with their parents.
fn parents_of_all() -> anyhow::Result<Vec<(u32, u32)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc cannot be read")? {
        let name = entry.context("/proc cannot be read")?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has ended since has no children either.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat"))
            && let Some(parent) = parse_parent(&stat)
        {
            parents.push((id, parent));
        }
    }
    Ok(parents)
}

fn parse_parent(stat: &str) -> Option<u32> {
    // The state and the parent are the first two fields after the name.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    // The name of the program is in parentheses and may have blanks and parentheses itself, so that the fields are
    // counted from the last one. Fields 14 and 15 are utime and stime, and the first one after the name is field 3.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_ascii_whitespace().skip(14 - 3).map(|field| field.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

fn parse_resident_memory(status: &str) -> Option<ResidentMemory> {
    let field_kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(ResidentMemory { now_kib: field_kib("VmRSS:")?, peak_kib: field_kib("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 5 5 20 0 1 0 100 1000 10";
        assert_eq!(parse_cpu_ticks(stat), Some(100));
        assert_eq!(parse_parent(stat), Some(1));
        assert_eq!(parse_cpu_ticks("42 (a) S 1 2"), None);
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn memory_is_found() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_resident_memory(status), Some(ResidentMemory { now_kib: 1024, peak_kib: 2048 }));
        assert_eq!(parse_resident_memory("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_can_be_watched() {
        let memory = Process::this().resident_memory().unwrap();
        assert!(memory.now_kib > 0 && memory.peak_kib > 0);
        Process::this().cpu_time_us().unwrap();
        assert!(Process::with_id(u32::MAX).cpu_time_us().is_err());
        assert!(require_open_files(1).is_ok());
        assert!(require_open_files(u64::MAX - 1).is_err());
    }
}
