//! What the kernel says about a process (proc(5)): its memory, its CPU time and its limit of open files.

use std::fs;

use anyhow::{Context as _, ensure};

/// Clock ticks of a second in `/proc`. The kernel gives all programs the same 100, whatever its own timer is.
const TICKS_PER_SECOND: u64 = 100;
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

/// Refuses a number of connections that the limit of open files would cut short in the middle of a run.
pub(crate) fn require_open_files(connections: u64) -> anyhow::Result<()> {
    let limits = Process::this().read("limits")?;
    let open_files_max =
        parse_open_files_max(&limits).context("/proc/self/limits has no limit of open files")?;
    ensure!(
        connections.saturating_add(OTHER_OPEN_FILES) <= open_files_max,
        "{connections} connections need more open files than the limit of {open_files_max}: raise it with \
         `ulimit -n`, or ask for fewer connections"
    );
    Ok(())
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

fn parse_open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft_limit => soft_limit.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 5 5 20 0 1 0 100 1000 10";
        assert_eq!(parse_cpu_ticks(stat), Some(100));
        assert_eq!(parse_cpu_ticks("42 (a) S 1 2"), None);
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn memory_and_limits_are_found() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_resident_memory(status), Some(ResidentMemory { now_kib: 1024, peak_kib: 2048 }));
        assert_eq!(parse_resident_memory("Name:\tx\n"), None);
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024      4096     files\n";
        assert_eq!(parse_open_files_max(limits), Some(1024));
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
