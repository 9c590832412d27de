//! What the process is allowed on its machine: descriptors, threads, memory, system calls. Read from the kernel by
//! `doctor`; a question that the kernel does not answer is `None`, and never an error.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Where control groups are, by convention (file-hierarchy(7)).
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// How many descriptors the process can have at most, once it has asked for them.
pub fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// How many bytes the process may lock into memory.
pub fn locked_bytes_max() -> u64 {
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// How many threads the process's control group can have.
pub fn threads_max() -> Option<u64> {
    control_group_limit(&ControlGroupLimit { controller: "pids", unified: "pids.max", own: "pids.max" })
}

/// How much memory the process can have: what its control group allows, or what the machine has.
pub fn memory_bytes_max() -> Option<u64> {
    let limit =
        ControlGroupLimit { controller: "memory", unified: "memory.max", own: "memory.limit_in_bytes" };
    let installed = fs::read_to_string("/proc/meminfo").ok().and_then(|text| installed_bytes(&text));
    control_group_limit(&limit).into_iter().chain(installed).min()
}

/// How the process's system calls are filtered (proc(5), `Seccomp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemCallFilter {
    /// All of them reach the kernel.
    None,
    /// A filter decides: a container runtime's profile, or a service manager's.
    Filtered,
}

/// Whether a filter decides which system calls reach the kernel.
pub fn system_call_filter() -> Option<SystemCallFilter> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    match status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?.trim() {
        "0" => Some(SystemCallFilter::None),
        _ => Some(SystemCallFilter::Filtered),
    }
}

/// A limit of control groups: in the one hierarchy of version 2, and in its own hierarchy of version 1.
struct ControlGroupLimit {
    controller: &'static str,
    unified: &'static str,
    own: &'static str,
}

/// The least limit of the process's group and those around it, where there is one.
fn control_group_limit(limit: &ControlGroupLimit) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let (hierarchy, file, group) = limit_file(line, limit)?;
        let base = Path::new(CONTROL_GROUPS).join(hierarchy);
        let group = base.join(group.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|group| group.starts_with(&base));
        groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
    });
    limits.min()
}

/// Where a line of `/proc/self/cgroup` says that a limit stands: the hierarchy's directory, the file, and the group's
/// directory in the hierarchy (cgroups(7)).
fn limit_file<'l>(line: &'l str, limit: &ControlGroupLimit) -> Option<(&'static str, &'static str, &'l str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    if controllers.is_empty() {
        return Some(("", limit.unified, group));
    }
    let is_it = controllers.split(',').any(|controller| controller == limit.controller);
    is_it.then_some((limit.controller, limit.own, group))
}

/// `MemTotal` of `/proc/meminfo`.
fn installed_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_looked_for_where_the_kernel_says_that_the_group_is() {
        let pids = ControlGroupLimit { controller: "pids", unified: "pids.max", own: "pids.own" };
        assert_eq!(limit_file("0::/a/b", &pids), Some(("", "pids.max", "/a/b")));
        assert_eq!(limit_file("9:cpu,pids:/a:b", &pids), Some(("pids", "pids.own", "/a:b")));
        for line in ["9:cpu:/a", "1:name=systemd:/a", "", "9:pids"] {
            assert_eq!(limit_file(line, &pids), None, "{line}");
        }
    }

    #[test]
    fn memory_is_counted_in_bytes() {
        assert_eq!(installed_bytes("MemTotal:       24 kB\nMemFree: 1 kB\n"), Some(24_576));
        assert_eq!(installed_bytes("MemFree: 1 kB\n"), None);
        assert!(memory_bytes_max().is_some_and(|bytes| bytes > 0));
    }
}
