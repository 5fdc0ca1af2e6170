//! An engine with one listener, and clients on plain sockets.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use sockets::peer;
use worker::{Closing, ConnectionId, Engine, ListenerId, Operation, Slot, Time};

pub(super) use worker::conformance::Event;

use crate::{TokioUringEngine, TokioUringOptions};

/// Nothing on this machine takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Sizes that no test comes near to.
pub(super) fn options() -> TokioUringOptions {
    TokioUringOptions {
        connections_max: 4096,
        submission_entries: 256,
        completion_entries: 2048,
        receive_bytes: 16 << 10,
        accepts_armed_max: 32,
        settle: Duration::ZERO,
        linger_bytes_max: 256 * 1024,
    }
}

/// The smallest sizes.
pub(super) fn tiny() -> TokioUringOptions {
    TokioUringOptions {
        connections_max: 8,
        submission_entries: 8,
        completion_entries: 16,
        receive_bytes: 64,
        accepts_armed_max: 1,
        ..options()
    }
}

pub(super) struct Rig {
    pub(super) engine: TokioUringEngine,
    pub(super) address: SocketAddr,
    /// Delivered, and not yet looked at.
    pub(super) events: VecDeque<Event>,
}

impl Rig {
    /// Accepts from the start.
    pub(super) fn new(options: &TokioUringOptions) -> Self {
        Self::with(options, peer::listener().unwrap().0)
    }

    pub(super) fn with(options: &TokioUringOptions, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let mut engine = TokioUringEngine::new(options, vec![listener]).unwrap();
        engine.submit(Operation::Accept { listener: ListenerId(0) });
        Self { engine, address, events: VecDeque::new() }
    }

    /// One wait that does not wait.
    pub(super) fn turn(&mut self) {
        self.wait(Time(0));
    }

    pub(super) fn wait(&mut self, deadline: Time) {
        let events = &mut self.events;
        self.engine.wait(deadline, |_, completion| events.push_back(completion.into())).unwrap();
    }

    /// The next event that `wanted` recognises; the others stay.
    pub(super) fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = self.engine.now() + PATIENCE;
        loop {
            for index in 0..self.events.len() {
                if let Some(found) = wanted(&self.events[index]) {
                    self.events.remove(index);
                    return found;
                }
            }
            assert!(self.engine.now() < deadline, "never came; there is {:?}", self.events);
            self.wait(deadline);
        }
    }

    pub(super) fn expect(&mut self, expected: &Event) {
        self.until(|event| (event == expected).then_some(()));
    }

    pub(super) fn client(&mut self) -> (ConnectionId, TcpStream) {
        let client = TcpStream::connect(self.address).unwrap();
        (self.accepted(&client), client)
    }

    /// A client whose socket takes little before it is full.
    pub(super) fn slow_client(&mut self) -> (ConnectionId, TcpStream) {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        client.connect(&self.address.into()).unwrap();
        let client = client.into();
        (self.accepted(&client), client)
    }

    fn accepted(&mut self, client: &TcpStream) -> ConnectionId {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = client.local_addr().unwrap();
        self.until(|event| match event {
            Event::Accepted(connection, ListenerId(0), peer) if *peer == address => {
                Some(*connection)
            }
            _ => None,
        })
    }

    pub(super) fn receive(&mut self, connection: ConnectionId) {
        self.engine.submit(Operation::Receive { connection });
    }

    pub(super) fn offer(&mut self, frame: &Bytes, targets: &[Slot]) {
        self.engine.submit(Operation::Offer { frame: frame.clone(), targets });
    }

    pub(super) fn close(&mut self, connection: ConnectionId, how: Closing) {
        self.engine.submit(Operation::Close { connection, how });
    }

    /// Bytes received from a connection, until there are so many.
    pub(super) fn received(&mut self, connection: ConnectionId, count: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < count {
            received.extend(self.until(|event| match event {
                Event::Bytes(from, bytes) if *from == connection => Some(bytes.clone()),
                _ => None,
            }));
        }
        received
    }

    /// Nothing came that nobody asked for.
    pub(super) fn assert_clean(&self) {
        let counts = self.engine.counts();
        assert_eq!((counts.completions_stale, counts.accepts_failed), (0, 0));
    }
}
