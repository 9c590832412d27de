//! Who may hold how many of this process's descriptors.
//!
//! Connections get most of them, blobs and packs that are kept open for reading some, and the rest is for what is open
//! only for a while: uploads, the database, the next pack. Without shares, the files that are kept open would one day
//! leave nothing for a connection, or idle connections nothing for a file.

use std::fs;
use std::io;
use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system says that there is no limit, as many as Linux allows a process by default.
const UNLIMITED: usize = 1 << 20;
/// What a core has open itself: its ring or epoll instance, its listener, what wakes it, and both ends of its turnstile.
const CORE_DESCRIPTORS: usize = 6;
/// What a core has at least for its requests, however many connections there are: a blob, which may be open twice, a
/// pack, and a connection that is refused.
const REQUEST_DESCRIPTORS: usize = 4;
/// How many connections too many a core answers at once at most.
const REFUSALS_PER_CORE_MAX: usize = 128;
/// How many blobs a core keeps open for reading at most. A large one of the cold class is open twice.
const OPEN_BLOBS_PER_CORE_MAX: usize = 512;
/// How many packs a core keeps open for reading at most.
const OPEN_PACKS_PER_CORE_MAX: usize = 128;

/// How many files a core keeps open for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// Blobs with a file of their own.
    pub blobs_max: NonZeroUsize,
    /// Packs.
    pub packs_max: NonZeroUsize,
}

impl OpenFiles {
    /// As many as are of use, up to these.
    fn up_to(blobs: usize, packs: usize) -> Self {
        let at_least_one = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            blobs_max: at_least_one(blobs.min(OPEN_BLOBS_PER_CORE_MAX)),
            packs_max: at_least_one(packs.min(OPEN_PACKS_PER_CORE_MAX)),
        }
    }
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self::up_to(OPEN_BLOBS_PER_CORE_MAX, OPEN_PACKS_PER_CORE_MAX)
    }
}

/// What there is for connections, and for files that are kept open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorShares {
    /// Over all cores.
    pub connections_max: usize,
    /// How many connections too many each core answers at once. More are closed without a word.
    pub refusals_max: usize,
    /// On each core.
    pub open_files: OpenFiles,
}

impl DescriptorShares {
    /// Shares for `cores` cores of what this process may open beyond what it has open now.
    pub fn of_process(cores: usize) -> Self {
        Self::of(limit().saturating_sub(open_now()), cores)
    }

    /// The same of so many.
    pub fn of(spare: usize, cores: usize) -> Self {
        let spare = spare.saturating_sub(cores * (CORE_DESCRIPTORS + REQUEST_DESCRIPTORS));
        let kept_open_per_core = spare * 3 / 20 / cores.max(1);
        let packs = (kept_open_per_core / 8).min(OPEN_PACKS_PER_CORE_MAX);
        Self {
            connections_max: (spare / 5 * 4).max(1),
            refusals_max: (spare / 40 / cores.max(1)).clamp(1, REFUSALS_PER_CORE_MAX),
            open_files: OpenFiles::up_to((kept_open_per_core - packs) / 2, packs),
        }
    }
}

/// Lets this process open as many files as it may at most. Login shells and service managers set a lower limit for the
/// sake of programs that use select(2).
///
/// # Errors
/// As setrlimit(2).
pub fn raise_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(UNLIMITED).min(UNLIMITED)
}

/// How many descriptors this process has; where the kernel does not show them, about as many as a start needs.
fn open_now() -> usize {
    const OF_A_START: usize = 48;
    fs::read_dir("/proc/self/fd").map_or(OF_A_START, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_something_for_what_is_open_for_a_while() {
        for cores in [1, 2, 8, 64] {
            for limit in [2_000, 4_096, 20_000, 1 << 20] {
                let shares = DescriptorShares::of(limit, cores);
                let open = shares.open_files;
                let files = 2 * open.blobs_max.get() + open.packs_max.get();
                let kept = cores * (files + shares.refusals_max + CORE_DESCRIPTORS);
                let rest = limit.saturating_sub(shares.connections_max + kept);
                assert!(rest >= limit / 50, "{limit} for {cores}: {shares:?}");
            }
        }
    }

    #[test]
    fn twenty_thousand_are_enough_for_fifteen_thousand_connections_and_all_files_that_are_of_use() {
        let shares = DescriptorShares::of(19_900, 2);
        assert!(shares.connections_max >= 15_000, "{shares:?}");
        assert_eq!(shares.open_files, OpenFiles::default());
    }

    #[test]
    fn a_limit_that_is_too_low_still_lets_somebody_in() {
        let shares = DescriptorShares::of(0, 2);
        assert_eq!((shares.connections_max, shares.open_files), (1, OpenFiles::up_to(1, 1)));
    }
}
