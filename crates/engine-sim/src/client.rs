//! A client's socket on the virtual network.

use std::net::SocketAddr;

use worker::Failure;

use crate::{
    link::{LinkId, Side},
    network::Network,
};

/// A client that has begun to connect. It may write at once; its bytes follow its knock.
#[derive(Debug)]
pub struct Client {
    network: Network,
    link: LinkId,
}

/// What became of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRead {
    /// So many bytes that had arrived, at least one.
    Bytes(usize),
    /// Nothing has.
    Nothing,
    /// The server has sent FIN, and all before it was read.
    Finished,
    /// The connection is broken, or was refused.
    Broken(Failure),
}

impl Client {
    pub(crate) fn new(network: Network, link: LinkId) -> Self {
        Self { network, link }
    }

    pub(crate) fn link(&self) -> LinkId {
        self.link
    }

    /// The client's own address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.network.state.borrow().address(self.link)
    }

    /// Writes what the socket takes now, and says how much that is.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.network.state.borrow_mut().write(self.link, Side::Client, bytes)
    }

    /// Reads at most so many bytes, and puts them behind those that were received before.
    pub fn read(&mut self, bytes_max: usize, received: &mut Vec<u8>) -> ClientRead {
        let mut state = self.network.state.borrow_mut();
        let count = state.read(self.link, Side::Client, bytes_max, received);
        if count > 0 {
            return ClientRead::Bytes(count);
        }
        if let Some(failure) = state.broken(self.link, Side::Client) {
            return ClientRead::Broken(failure);
        }
        if state.is_at_its_end(self.link, Side::Client) {
            return ClientRead::Finished;
        }
        ClientRead::Nothing
    }

    /// Sends FIN behind what was written, and can go on reading.
    pub fn finish(&mut self) {
        self.network.state.borrow_mut().finish(self.link, Side::Client);
    }

    /// Closes the socket: FIN, or RST where bytes are unread; what comes later is answered by RST.
    pub fn close(&mut self) {
        self.network.state.borrow_mut().close(self.link, Side::Client);
    }

    /// Is out of reach from now on: nothing comes through, either way, and nobody is told.
    pub fn vanish(&mut self) {
        self.network.state.borrow_mut().vanish(self.link);
    }

    /// Sends RST.
    pub fn reset(&mut self) {
        self.network.state.borrow_mut().reset(self.link, Side::Client);
    }

    /// True exactly when the socket takes something.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.network.state.borrow_mut().is_writable(self.link, Side::Client)
    }

    /// True exactly when it carries no more bytes.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.network.state.borrow_mut().broken(self.link, Side::Client).is_some()
    }

    /// True exactly when there is something to read, be it the end.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let mut state = self.network.state.borrow_mut();
        state.arrived_bytes(self.link, Side::Client) > 0
            || state.broken(self.link, Side::Client).is_some()
            || state.is_at_its_end(self.link, Side::Client)
    }
}
