//! What the system knows of this process, under the names that every Prometheus client gives it. Reads `/proc`, which is
//! no disk, but is no memory of this process either: not for a core.

use std::fs;
use std::time::SystemTime;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::exposition::{Exposition, Kind};

/// Appends what can be found out.
pub fn write_process(text: &mut Exposition, started: SystemTime) {
    let seconds = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    text.single("process_start_time_seconds", Kind::Gauge, "When the process started.", seconds);
    if let Some(usage) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(usage) {
        let help = "User and system CPU time.";
        text.single("process_cpu_seconds_total", Kind::Counter, help, usage.cpu_seconds);
        let help = "Memory that the process has.";
        text.single("process_resident_memory_bytes", Kind::Gauge, help, usage.resident_bytes);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let open = descriptors.count().saturating_sub(1);
        text.single("process_open_fds", Kind::Gauge, "Open file descriptors.", open);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        text.single("process_max_fds", Kind::Gauge, "The most file descriptors that may be open.", limit);
    }
}

struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
}

/// Of a line of proc_pid_stat(5).
fn usage(stat: &str) -> Option<Usage> {
    // The name may hold anything, and ends with the last bracket. `state` is the first field behind it, and the third in all.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(Usage {
        cpu_seconds: ticks as f64 / clock_ticks_per_second() as f64,
        resident_bytes: field(24)? * page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_found_behind_its_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4 9 0 0 0 300 50 0 0 20 0 4 0 99 1000 25 184 0";
        let usage = usage(stat).unwrap();
        assert_eq!(usage.resident_bytes, 25 * page_size() as u64);
        assert!((usage.cpu_seconds - 350.0 / clock_ticks_per_second() as f64).abs() < 1e-9);
        assert!(super::usage("7 (x").is_none() && super::usage("7 (x) S 1").is_none());
    }

    #[test]
    fn this_process_is_told_of() {
        let mut text = Exposition::default();
        write_process(&mut text, SystemTime::now());
        assert_eq!(text.into_text().matches("# TYPE process_").count(), 5);
    }
}
