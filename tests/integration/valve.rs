//! Stands between a server and its database, and stops forwarding without closing anything: so a network looks that
//! drops every packet, or a database whose machine stands still.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// An open valve, until it is closed.
pub(crate) struct Valve {
    pub(crate) port: u16,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        drop(self.opened.wait_while(self.closed.lock().unwrap(), |closed| *closed).unwrap());
    }
}

impl Valve {
    pub(crate) fn before(database_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate::default());
        let shared = gate.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                shared.pass();
                let client = client.unwrap();
                let database = TcpStream::connect(("127.0.0.1", database_port)).unwrap();
                let (from, to) = (database.try_clone().unwrap(), client.try_clone().unwrap());
                let (there, back) = (shared.clone(), shared.clone());
                thread::spawn(move || forward(client, database, &there));
                thread::spawn(move || forward(from, to, &back));
            }
        });
        Self { port, gate }
    }

    /// From now on nothing gets through, in either direction.
    pub(crate) fn close(&self) {
        *self.gate.closed.lock().unwrap() = true;
    }

    /// What has waited gets through.
    pub(crate) fn open(&self) {
        *self.gate.closed.lock().unwrap() = false;
        self.gate.opened.notify_all();
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        gate.pass();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
