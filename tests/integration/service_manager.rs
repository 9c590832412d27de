//! What a service manager is told (sd_notify(3)), on a socket of the test's own.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::server::{Server, serve_command, wait_until};
use crate::tls::Identity;

/// Longer than the server takes to tell anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket that the server tells things, and what it is known as.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).unwrap(), path.to_str().unwrap().to_owned())
    }

    /// In the namespace without files, where systemd's own is.
    fn abstract_one(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Self::of(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    }

    fn of(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name }
    }

    /// The next thing that it is told, as lines.
    fn told(&self) -> Vec<String> {
        let mut datagram = [0; 4096];
        let length = self.socket.recv(&mut datagram).unwrap();
        let text = std::str::from_utf8(&datagram[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next one that is not for the watchdog.
    fn told_of_state(&self) -> Vec<String> {
        loop {
            let told = self.told();
            if told != ["WATCHDOG=1"] {
                return told;
            }
        }
    }
}

fn start(manager: &Manager, flags: &[&str], variables: &[(&str, &str)]) -> Server {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut command = serve_command(directory.path(), flags);
    command.args(["--log-format", "json"]).env("NOTIFY_SOCKET", &manager.name);
    command.envs(variables.iter().copied());
    Server::listening(command, &directory)
}

#[test]
fn a_service_manager_is_told_when_the_server_serves_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let abstract_name = format!("just_storage-test-{}", std::process::id());
    for manager in [Manager::at(&directory.path().join("notify")), Manager::abstract_one(&abstract_name)] {
        let server = start(&manager, &[], &[]);
        assert_eq!(manager.told(), ["READY=1", "STATUS=serving"]);
        assert_eq!(server.get("/health/ready").status, 200, "it says so when it is true");
        server.terminate();
        assert_eq!(manager.told()[0], "STOPPING=1");
    }
}

#[test]
fn a_service_manager_is_told_of_files_that_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    let identity = Identity::make(directory.path(), "server");
    let server = start(&manager, &identity.flags(), &[]);
    assert_eq!(manager.told()[0], "READY=1");
    for _ in 0..2 {
        server.signal(Signal::HUP);
        let told = manager.told();
        assert_eq!(told[0], "RELOADING=1");
        let moment = told[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(moment.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.told()[0], "READY=1");
    }
}

#[test]
fn a_reload_ends_no_server_that_a_service_manager_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    let server = start(&manager, &[], &[]);
    assert_eq!(manager.told()[0], "READY=1");
    server.signal(Signal::HUP);
    assert_eq!(server.get("/health").status, 200);
    let (status, _) = server.stop();
    assert_eq!(status.code(), Some(0), "it has drained, and not been ended by the first signal");
}

#[test]
fn a_watchdog_is_told_again_and_again_that_the_cores_are_alive() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    let server = start(&manager, &["--cores=3"], &[("WATCHDOG_USEC", "1000000")]);
    assert_eq!(manager.told()[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.told(), ["WATCHDOG=1"]);
    }
    server.terminate();
    assert_eq!(manager.told_of_state()[0], "STOPPING=1");
}

#[test]
fn a_watchdog_of_another_process_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    let own = std::process::id().to_string();
    let server = start(&manager, &[], &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", &own)]);
    assert_eq!(manager.told()[0], "READY=1");
    // The server looks for a stop as often as for the watchdog.
    wait_until("an answer", || (server.get("/health").status == 200).then_some(()));
    server.terminate();
    assert_eq!(manager.told()[0], "STOPPING=1");
}

#[test]
fn a_service_manager_that_is_gone_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    let Manager { socket, name } = manager;
    drop(socket);
    let manager = Manager { socket: UnixDatagram::unbound().unwrap(), name };
    let server = start(&manager, &[], &[]);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.stop().0.code(), Some(0));
}
