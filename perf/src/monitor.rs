//! Watches what a run costs: the CPU time of this process, and the memory and CPU time of the server and of whatever it
//! has started.
//!
//! The server's peak memory comes from the kernel where it grew during the run. Where it did not, because something
//! before the run needed more, the largest sample is the best that is known.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::failure::{Failure, FailureKind};
use crate::machine::{MachineCounters, MachineUse};
use crate::process::{Process, ResidentMemory};
use crate::tally::Tally;

/// How often the server's memory is looked at. Each look costs this process some 20 µs.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// What is watched during a run beside this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// The server; what it has started is watched with it.
    pub(crate) server_pid: Option<u32>,
    /// A directory on the device that the server writes to.
    pub(crate) data: Option<PathBuf>,
}

/// What a run has cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResourceUse {
    /// The share of one core that this process used.
    pub(crate) generator_cpu_percent: f64,
    /// What the machine did meanwhile.
    #[serde(flatten)]
    pub(crate) machine: MachineUse,
    /// What the server used, if it was watched and lived to the end.
    pub(crate) server: Option<ServerUse>,
}

/// What the server has used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerUse {
    /// Its CPU time during the run.
    pub(crate) cpu_us: u64,
    /// The share of one core that this is.
    pub(crate) cpu_percent: f64,
    /// Its CPU time for each operation that succeeded; not known if none did.
    pub(crate) cpu_us_per_operation: Option<f64>,
    /// Its resident memory just before the run.
    pub(crate) rss_before_mib: f64,
    /// The most during the run.
    pub(crate) rss_peak_mib: f64,
    /// What was left just after the run.
    pub(crate) rss_after_mib: f64,
    /// The most since the server was started.
    pub(crate) rss_peak_since_start_mib: f64,
}

/// A run that is being watched.
#[derive(Debug)]
pub(crate) struct Monitor {
    generator_cpu_before_us: u64,
    watched: Watched,
    machine_before: MachineCounters,
    server: Option<ServerWatch>,
}

#[derive(Debug)]
struct ServerWatch {
    processes: Vec<Process>,
    cpu_before_us: u64,
    memory_before: ResidentMemory,
    sampled_peak_kib: Arc<AtomicU64>,
    sampler: JoinHandle<()>,
}

impl Monitor {
    /// Begins to watch this process, the machine, and the server if its id is known.
    pub(crate) fn start(watched: &Watched) -> anyhow::Result<Self> {
        let server = watched.server_pid.map(ServerWatch::start).transpose()?;
        Ok(Self {
            generator_cpu_before_us: Process::this().cpu_time_us()?,
            watched: watched.clone(),
            machine_before: MachineCounters::read(watched.data.as_deref())?,
            server,
        })
    }

    /// Ends the watch. A server that is gone is counted as a failure of the run.
    pub(crate) fn finish(self, elapsed: Duration, tally: &mut Tally) -> anyhow::Result<ResourceUse> {
        let generator_cpu_us = Process::this().cpu_time_us()?.saturating_sub(self.generator_cpu_before_us);
        let machine_after = MachineCounters::read(self.watched.data.as_deref())?;
        let mut server_use = None;
        if let Some(watch) = self.server {
            match watch.finish(elapsed, tally.operations) {
                Ok(used) => server_use = Some(used),
                Err(error) => tally.count_failure(Failure::new(FailureKind::ServerGone, error)),
            }
        }
        let own_cpu_us = generator_cpu_us + server_use.as_ref().map_or(0, |server| server.cpu_us);
        Ok(ResourceUse {
            generator_cpu_percent: percent(generator_cpu_us, elapsed),
            machine: machine_after.since(self.machine_before, own_cpu_us, elapsed),
            server: server_use,
        })
    }
}

impl ServerWatch {
    fn start(server_pid: u32) -> anyhow::Result<Self> {
        let processes = Process::with_descendants(server_pid)?;
        let memory_before = memory_of(&processes)?;
        let sampled_peak_kib = Arc::new(AtomicU64::new(memory_before.now_kib));
        let sampler = tokio::spawn(sample(processes.clone(), Arc::clone(&sampled_peak_kib)));
        Ok(Self {
            cpu_before_us: cpu_time_of(&processes)?,
            processes,
            memory_before,
            sampled_peak_kib,
            sampler,
        })
    }

    fn finish(self, elapsed: Duration, operations: u64) -> anyhow::Result<ServerUse> {
        self.sampler.abort();
        let cpu_us = cpu_time_of(&self.processes)?.saturating_sub(self.cpu_before_us);
        let memory_after = memory_of(&self.processes)?;
        let sampled_peak_kib = self.sampled_peak_kib.load(Ordering::Relaxed).max(memory_after.now_kib);
        let peak_kib = peak_during(self.memory_before, sampled_peak_kib, memory_after);
        Ok(ServerUse {
            cpu_us,
            cpu_percent: percent(cpu_us, elapsed),
            cpu_us_per_operation: (operations > 0).then(|| cpu_us as f64 / operations as f64),
            rss_before_mib: mebibytes(self.memory_before.now_kib),
            rss_peak_mib: mebibytes(peak_kib),
            rss_after_mib: mebibytes(memory_after.now_kib),
            rss_peak_since_start_mib: mebibytes(memory_after.peak_kib),
        })
    }
}

fn cpu_time_of(processes: &[Process]) -> anyhow::Result<u64> {
    processes.iter().map(Process::cpu_time_us).sum()
}

/// The memory of all of them together: what they share is counted for each, which is kinder to nobody than to a server
/// that is one process.
fn memory_of(processes: &[Process]) -> anyhow::Result<ResidentMemory> {
    let mut sum = ResidentMemory { now_kib: 0, peak_kib: 0 };
    for process in processes {
        let memory = process.resident_memory()?;
        sum.now_kib += memory.now_kib;
        sum.peak_kib += memory.peak_kib;
    }
    Ok(sum)
}

async fn sample(processes: Vec<Process>, peak_kib: Arc<AtomicU64>) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        // A process that is gone is noticed at the end of the run.
        let Ok(memory) = memory_of(&processes) else {
            return;
        };
        peak_kib.fetch_max(memory.now_kib, Ordering::Relaxed);
    }
}

fn peak_during(before: ResidentMemory, sampled_peak_kib: u64, after: ResidentMemory) -> u64 {
    if after.peak_kib > before.peak_kib { after.peak_kib } else { sampled_peak_kib }
}

fn percent(cpu_us: u64, elapsed: Duration) -> f64 {
    cpu_us as f64 / elapsed.as_micros().max(1) as f64 * 100.0
}

fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_that_of_the_run_and_not_of_what_was_before() {
        let memory = |now_kib, peak_kib| ResidentMemory { now_kib, peak_kib };
        assert_eq!(peak_during(memory(10, 12), 15, memory(11, 20)), 20);
        assert_eq!(peak_during(memory(10, 90), 15, memory(11, 90)), 15);
    }
}
