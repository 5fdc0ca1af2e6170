//! Clients on TCP sockets for the conformance suite, and a listener for them on loopback.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use worker::conformance::{Peer, PeerRead};

/// More than a connection to a [`TcpPeer`] takes, both its sockets together, while it does not read.
pub const OVERWHELMING_BYTES: usize = 16 << 20;

/// A client on a socket that does not block.
#[derive(Debug)]
pub struct TcpPeer(TcpStream);

/// A listener on a port of the kernel's choice, and its address.
///
/// # Errors
/// As of the system calls.
pub fn listener() -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

impl TcpPeer {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // What a peer does not read is soon too much.
        socket.set_recv_buffer_size(1 << 16)?;
        socket.connect(&address.into())?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket.into()))
    }
}

impl Peer for TcpPeer {
    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is connected")
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes).unwrap_or(0)
    }

    fn read(&mut self, received: &mut Vec<u8>) -> PeerRead {
        let mut bytes = [0; 1 << 16];
        match self.0.read(&mut bytes) {
            Ok(0) => PeerRead::Finished,
            Ok(count) => {
                received.extend_from_slice(&bytes[..count]);
                PeerRead::Bytes
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => PeerRead::Nothing,
            Err(_) => PeerRead::Reset,
        }
    }

    fn finish(&mut self) {
        // The engine may have reset it already.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    fn reset(&mut self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("any socket lingers");
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is one more");
        self.0 = unconnected.into();
    }
}
