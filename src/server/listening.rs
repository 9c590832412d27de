//! The sockets that the server listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::Socket;

use super::ServerError;

/// Connections that the kernel holds until a core accepts them.
const BACKLOG: i32 = 4096;
/// What the kernel takes for a connection ahead of what it can send. More of it makes no download faster, and is what
/// a crowd that reads nothing would fill the machine's memory with (`TCP_NOTSENT_LOWAT` of tcp(7)).
const NOT_SENT_BYTES_MAX: u32 = 128 * 1024;

/// One socket for each core on the same address: the kernel spreads connections over them, once they listen. Bound
/// before the metadata plane starts, since the port is part of the server's name; until then, clients are refused.
pub(super) fn bind(address: SocketAddr, count: usize) -> Result<(Vec<Socket>, SocketAddr), ServerError> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    // A socket that shares its port may join any other that does, also those of a server of other data. One that
    // shares it with nobody shows first that the port is free.
    let setting = "LISTEN_ADDR";
    let alone = bind_one(address, PortSharing::Alone);
    drop(alone.map_err(|source| ServerError::Listen { setting, address, source })?);
    for _ in 0..count {
        let bound = bind_one(address, PortSharing::WithOtherCores);
        let (socket, bound) = bound.map_err(|source| ServerError::Listen { setting, address, source })?;
        // With port 0 the first one is given a port, which the others share.
        address = bound;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

/// Whether other sockets of this user may be bound to the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortSharing {
    Alone,
    WithOtherCores,
}

fn bind_one(address: SocketAddr, sharing: PortSharing) -> io::Result<(Socket, SocketAddr)> {
    let domain = socket2::Domain::for_address(address);
    let socket = Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == PortSharing::WithOtherCores)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

/// One socket that no other may share the port of.
pub(super) fn bind_for_metrics(address: SocketAddr) -> Result<(Socket, SocketAddr), ServerError> {
    let bound = bind_one(address, PortSharing::Alone);
    bound.map_err(|source| ServerError::Listen { setting: "METRICS_ADDR", address, source })
}

pub(super) fn listen(sockets: Vec<Socket>, address: SocketAddr) -> Result<Vec<TcpListener>, ServerError> {
    sockets.into_iter().map(|socket| listen_on("LISTEN_ADDR", socket, address)).collect()
}

pub(super) fn listen_on(
    setting: &'static str,
    socket: Socket,
    address: SocketAddr,
) -> Result<TcpListener, ServerError> {
    // The connections inherit it. A kernel that does not know it only holds more for each of them.
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX);
    socket.listen(BACKLOG).map_err(|source| ServerError::Listen { setting, address, source })?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_holds_little_for_a_connection_that_takes_nothing() {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (socket, address) = bind_one(any_port, PortSharing::Alone).unwrap();
        let listener = listen_on("LISTEN_ADDR", socket, address).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), NOT_SENT_BYTES_MAX);
    }
}
