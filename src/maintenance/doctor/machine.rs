//! The kernel, what it allows this process, and the address to listen on.

use std::io;
use std::net::TcpListener;
use std::thread::available_parallelism;

use indicatif::{BinaryBytes, HumanCount};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Check;
use crate::config::{Config, IoDriverChoice};
use crate::infrastructure::data_plane::descriptors::DescriptorShares;
use crate::infrastructure::data_plane::helpers::{READ_HELPERS_MAX, WRITE_HELPERS_MAX};
use crate::infrastructure::data_plane::runtime::{IoUringRefused, probe_io_uring};
use crate::infrastructure::data_plane::tls_configuration::TlsConfiguration;
use crate::infrastructure::machine::{
    SystemCallFilter, descriptors_max, locked_bytes_max, memory_bytes_max, system_call_filter, threads_max,
};
use crate::infrastructure::storage::DataDirectoryLock;
use crate::maintenance::with_causes;

/// The first kernel with all that the server cannot do without, and the first that it is at its best on.
const KERNEL_MIN: (u32, u32) = (5, 15);
const KERNEL_GOOD: (u32, u32) = (6, 1);
/// What is open when a server shares its descriptors out.
const DESCRIPTORS_OF_PROCESS: u64 = 64;
/// Threads besides those of cores and their helpers, without the one for each connection to SQLite.
const THREADS_OF_PROCESS: u64 = 8;
/// What the server takes besides buffers for bodies: caches, the filter of known keys, what connections hold.
const MEMORY_BESIDE_BUFFERS_BYTES: u64 = 256 << 20;
/// Kernels from this one on do not count a ring as locked memory.
const KERNEL_WITH_FREE_RINGS: (u32, u32) = (5, 12);
/// What the rings of one core take where they are counted.
const RING_BYTES_PER_CORE: u64 = 256 << 10;

pub(super) fn examine(config: &Config) -> Vec<Check> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let cores = cores(config);
    let mut checks = vec![
        kernel(&release),
        io_uring(config.io_driver),
        user(geteuid().as_raw()),
        descriptors(config, cores, descriptors_max()),
        threads(config, cores, threads_max()),
        memory(config, memory_bytes_max()),
        locked_memory(&release, cores, locked_bytes_max()),
        address(config),
    ];
    if let Some(files) = config.tls.clone() {
        checks.push(match TlsConfiguration::load(files) {
            Ok(_) => Check::right("tls", "the certificate and its key can be used"),
            Err(error) => {
                let remedy = "see TLS in docs/OPERATIONS.md; the server's user has to be able to read both";
                Check::wrong("tls", with_causes(&error), remedy)
            }
        });
    }
    checks
}

fn cores(config: &Config) -> u64 {
    config.cores.map_or_else(|| available_parallelism().map_or(1, |cores| cores.get() as u64), u64::from)
}

/// The first two numbers of a release, which is how kernels are compared.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Check {
    const NAME: &str = "kernel";
    let found = format!("Linux {release}");
    match version(release) {
        Some(version) if version < KERNEL_MIN => Check::wrong(NAME, found, "take Linux 5.15 or later"),
        Some(version) if version < KERNEL_GOOD => Check::poor(NAME, found, "Linux 6.1 or later is faster"),
        Some(_) | None => Check::right(NAME, found),
    }
}

fn io_uring(choice: IoDriverChoice) -> Check {
    const NAME: &str = "io_uring";
    let refused = match (choice, probe_io_uring()) {
        (IoDriverChoice::Epoll, _) => return Check::right(NAME, "not asked for: IO_DRIVER=epoll"),
        (_, Ok(())) => return Check::right(NAME, "there, with every operation that the server uses"),
        (_, Err(refused)) => refused,
    };
    let remedy = match &refused {
        IoUringRefused::SetUp(error) => why_refused(error),
        IoUringRefused::Operations(_) => "take Linux 6.1 or later".to_owned(),
    };
    match (choice, refused) {
        (IoDriverChoice::Auto, IoUringRefused::SetUp(error)) => {
            Check::poor(NAME, format!("refused ({error}); epoll serves instead, slower"), remedy)
        }
        (IoDriverChoice::Auto, refused) => {
            Check::poor(NAME, format!("{refused}; epoll serves instead, slower"), remedy)
        }
        (_, IoUringRefused::SetUp(error)) => {
            Check::wrong(NAME, format!("IO_DRIVER=io-uring, and it is refused ({error})"), remedy)
        }
        (_, refused) => Check::wrong(NAME, format!("IO_DRIVER=io-uring: {refused}"), remedy),
    }
}

/// Who has refused a ring, as far as it can be seen from inside, and what to tell them.
fn why_refused(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (Errno::from_io_error(error), disabled.trim(), system_call_filter()) {
        (Some(Errno::NOSYS), ..) => "this kernel is built without it: take another one".to_owned(),
        (Some(Errno::NOMEM), ..) => "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)".to_owned(),
        (_, "1" | "2", _) => "turn it on: sysctl -w kernel.io_uring_disabled=0".to_owned(),
        (_, _, Some(SystemCallFilter::Filtered)) => {
            "a filter of system calls is in force: let io_uring_setup, io_uring_enter and io_uring_register through, \
             as deploy/docker/seccomp.json does"
                .to_owned()
        }
        _ => "look at what the kernel's security modules say of it".to_owned(),
    }
}

fn user(user: u32) -> Check {
    match user {
        0 => {
            Check::right("user", "root, so that what it finds of rights holds for a server run by root alone")
        }
        _ => Check::right("user", format!("user {user}, as which the server has to run too")),
    }
}

fn descriptors(config: &Config, cores: u64, allowed: u64) -> Check {
    const NAME: &str = "descriptors";
    let spare = allowed.saturating_sub(DESCRIPTORS_OF_PROCESS);
    let to_size = |count| usize::try_from(count).unwrap_or(usize::MAX);
    let (room, wanted) =
        (DescriptorShares::of(to_size(spare), to_size(cores)).connections_max, config.connections_max);
    let found = format!("{} allowed, of which CONNECTIONS_MAX={wanted}", HumanCount(allowed));
    if room >= wanted {
        return Check::right(NAME, format!("{found} are for connections"));
    }
    let found = format!("{found} would have more than its share: the server takes {room} connections");
    let raise =
        "raise the hard limit (ulimit -Hn, LimitNOFILE= in a unit, ulimits: nofile: in a Compose file)";
    Check::poor(NAME, found, format!("{raise}, or set CONNECTIONS_MAX={room}"))
}

fn threads(config: &Config, cores: u64, allowed: Option<u64>) -> Check {
    const NAME: &str = "threads";
    let helpers = 2 * (WRITE_HELPERS_MAX + READ_HELPERS_MAX) as u64;
    let wanted = cores * (1 + helpers) + u64::from(config.database.max_connections) + THREADS_OF_PROCESS;
    let Some(allowed) = allowed else {
        return Check::right(NAME, format!("no limit, and up to {} wanted", HumanCount(wanted)));
    };
    let found = format!("{} allowed, and up to {} wanted", HumanCount(allowed), HumanCount(wanted));
    match allowed >= wanted {
        true => Check::right(NAME, found),
        false => {
            let remedy =
                "raise the limit (TasksMax= in a unit, pids_limit: in a Compose file), or set fewer CORES";
            Check::poor(NAME, found, remedy)
        }
    }
}

fn memory(config: &Config, allowed: Option<u64>) -> Check {
    const NAME: &str = "memory";
    let buffers = config.buffer_bytes_max as u64;
    let wanted = buffers.saturating_add(MEMORY_BESIDE_BUFFERS_BYTES);
    let Some(allowed) = allowed else {
        return Check::right(NAME, format!("no limit, and about {} wanted", BinaryBytes(wanted)));
    };
    let found = format!(
        "{} to be had, and about {} wanted, with BUFFER_BYTES_MAX={buffers}",
        BinaryBytes(allowed),
        BinaryBytes(wanted)
    );
    match allowed {
        _ if allowed < buffers => Check::wrong(NAME, found, "give it more, or set BUFFER_BYTES_MAX lower"),
        _ if allowed < wanted => Check::poor(NAME, found, "give it more, or set BUFFER_BYTES_MAX lower"),
        _ => Check::right(NAME, found),
    }
}

fn locked_memory(release: &str, cores: u64, allowed: u64) -> Check {
    const NAME: &str = "locked_memory";
    if version(release).is_none_or(|version| version >= KERNEL_WITH_FREE_RINGS) {
        return Check::right(NAME, "no limit of it matters: this kernel does not count rings");
    }
    let wanted = cores * RING_BYTES_PER_CORE;
    let found = format!("{} allowed, and {} wanted by rings", BinaryBytes(allowed), BinaryBytes(wanted));
    match allowed >= wanted {
        true => Check::right(NAME, found),
        false => Check::wrong(NAME, found, "raise the limit (ulimit -l, LimitMEMLOCK= in a unit)"),
    }
}

fn address(config: &Config) -> Check {
    const NAME: &str = "address";
    let address = config.listen_addr;
    let error = match TcpListener::bind(address) {
        Ok(_) => return Check::right(NAME, format!("{address} is free")),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse if DataDirectoryLock::is_held(&config.paths.data_dir) => {
            Check::right(NAME, format!("{address} is taken, as it should be: a server runs on this store"))
        }
        io::ErrorKind::AddrInUse => {
            let remedy = "stop what listens there (ss -ltnp tells), or set another LISTEN_ADDR";
            Check::wrong(NAME, format!("{address} is taken"), remedy)
        }
        io::ErrorKind::PermissionDenied => {
            let remedy = "set a LISTEN_ADDR with a port from 1024 on, or give it AmbientCapabilities=CAP_NET_BIND_SERVICE";
            Check::wrong(NAME, format!("{address} is not for this user"), remedy)
        }
        _ => Check::wrong(
            NAME,
            format!("{address} cannot be listened on ({error})"),
            "set LISTEN_ADDR to an address of this machine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::config::{Command, CommandLine};
    use clap::Parser as _;

    fn config(flags: &[&str]) -> Config {
        let line = ["just_storage", "serve", "--dev", "--cores=2"].iter().chain(flags);
        let Command::Serve(serve) = CommandLine::try_parse_from(line).unwrap().command else {
            panic!("it is told to serve")
        };
        serve.into_config().unwrap()
    }

    #[test]
    fn kernels_are_compared_by_their_first_two_numbers() {
        for (release, state) in [
            ("5.14.0-427.el9.x86_64", State::Wrong),
            ("5.15.0-1", State::Poor),
            ("6.0.19", State::Poor),
            ("6.1.0-13-amd64", State::Right),
            ("10.0", State::Right),
            ("unknown", State::Right),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn descriptors_have_to_be_enough_for_connections_and_what_is_open_beside_them() {
        let config = config(&["--connections-max=100"]);
        let is_right = |allowed: &u64| descriptors(&config, 2, *allowed).state == State::Right;
        let wanted = (0..1000).find(is_right).unwrap();
        assert!(wanted > 100 + DESCRIPTORS_OF_PROCESS);
        let check = descriptors(&config, 2, wanted - 1);
        assert_eq!(check.state, State::Poor);
        assert!(check.remedy.unwrap().contains("CONNECTIONS_MAX=96"));
    }

    #[test]
    fn threads_and_memory_have_to_be_enough() {
        let config = config(&["--buffer-bytes-max=8388608", "--db-max-connections=10"]);
        let wanted = 2 * (1 + 2 * (24 + 8)) + 10 + 8;
        for (allowed, state) in [(None, State::Right), (Some(wanted), State::Right), (Some(1), State::Poor)] {
            assert_eq!(threads(&config, 2, allowed).state, state, "{allowed:?}");
        }
        for (allowed, state) in [
            (None, State::Right),
            (Some((8 << 20) + (256 << 20)), State::Right),
            (Some((8 << 20) + (256 << 20) - 1), State::Poor),
            (Some(8 << 20), State::Poor),
            (Some((8 << 20) - 1), State::Wrong),
        ] {
            assert_eq!(memory(&config, allowed).state, state, "{allowed:?}");
        }
    }

    #[test]
    fn locked_memory_matters_to_old_kernels_alone() {
        assert_eq!(locked_memory("6.1.0", 2, 0).state, State::Right);
        assert_eq!(locked_memory("5.11.0", 2, 64 << 10).state, State::Wrong);
        assert_eq!(locked_memory("5.11.0", 2, 512 << 10).state, State::Right);
    }
}
