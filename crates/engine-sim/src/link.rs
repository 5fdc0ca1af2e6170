//! A connection as the network knows it: two ends and a pipe each way.

use std::{net::SocketAddr, time::Duration};

use worker::{Failure, Slot};

use crate::pipe::Pipe;

/// A link by number. Numbers are not used again.
pub(crate) type LinkId = usize;

/// Whose end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// One end of a link.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// Why it carries no more bytes.
    pub(crate) broken: Option<Failure>,
    /// True exactly when its program has closed it: what still arrives is answered by a reset.
    pub(crate) closed: bool,
}

/// A link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    /// Which engine, and which of its listeners.
    pub(crate) listener: (usize, usize),
    pub(crate) latency: Duration,
    /// True exactly when the listener's queue has taken it.
    pub(crate) established: bool,
    /// True exactly when its client is out of reach: nothing comes through, either way.
    pub(crate) is_lost: bool,
    /// True exactly when the server's end has sent something since, for which it will be given up.
    pub(crate) is_given_up: bool,
    /// Where it stands in its engine's table, while it does.
    pub(crate) slot: Option<Slot>,
    /// True exactly when something has happened to the client's end that nobody has asked for.
    pub(crate) has_client_news: bool,
    /// Where compressed messages begin and end among the bytes of the client, in order.
    pub(crate) compressed: Vec<(u64, u64)>,
    client: End,
    server: End,
    /// From the client to the server.
    up: Pipe,
    /// From the server to the client.
    down: Pipe,
}

impl Link {
    pub(crate) fn new(
        address: SocketAddr,
        listener: (usize, usize),
        latency: Duration,
        pipe: impl Fn() -> Pipe,
    ) -> Self {
        Self {
            address,
            listener,
            latency,
            established: false,
            is_lost: false,
            is_given_up: false,
            slot: None,
            has_client_news: false,
            compressed: Vec::new(),
            client: End::default(),
            server: End::default(),
            up: pipe(),
            down: pipe(),
        }
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// The pipe that this side writes.
    pub(crate) fn from(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.up,
            Side::Server => &mut self.down,
        }
    }

    /// The pipe that this side reads.
    pub(crate) fn to(&mut self, side: Side) -> &mut Pipe {
        self.from(side.other())
    }
}
