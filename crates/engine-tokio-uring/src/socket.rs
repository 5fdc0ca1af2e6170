//! A connection's socket. tokio-uring lends its sockets by number and not as borrowed descriptors, so
//! that the system calls here go by number as well; the number is valid for as long as the socket.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use socket2_raw::SockRef;
use tokio_uring::net::TcpStream;

/// The socket of one connection. It blocks, as a read through the ring must be able to wait.
pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Waits in the ring for bytes, and takes as many as fit into `bytes_max`.
    pub(crate) async fn read(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let (outcome, bytes) = self.0.read(Vec::with_capacity(bytes_max)).await;
        outcome.map(|_| bytes)
    }

    /// Takes what has arrived, without waiting for it.
    pub(crate) fn receive(&self, room: &mut [u8]) -> Result<usize, Errno> {
        recv(self.0.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)
    }

    /// Gives what the socket takes, without waiting for room.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
    }

    /// Ends one direction, or both. Whoever waits for that direction in the kernel waits no more.
    ///
    /// # Errors
    /// The connection is gone, and so nobody waits.
    pub(crate) fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    /// Has the close send RST and throw away what is queued (socket(7), SO_LINGER).
    pub(crate) fn reset_on_close(&self) {
        // No TCP socket refuses it.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Socket({})", self.as_raw_fd())
    }
}
