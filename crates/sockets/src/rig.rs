//! An engine under test with one listener on loopback, and clients on plain sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, VecDeque},
    env::consts::ARCH,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use bytes::Bytes;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use socket2::{Domain, SockRef, Socket, Type};
use worker::{Closing, ConnectionId, Engine, Failure, ListenerId, Operation, Slot, Taken, Time};

pub use worker::conformance::Event;

use crate::peer;

/// Nothing on this machine takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An engine that a [`Rig`] can start.
pub trait Rigged: Engine + Sized {
    /// Its sizes and bounds.
    type Options;

    /// Starts it with these listeners.
    fn rigged(options: &Self::Options, listeners: Vec<TcpListener>) -> Self;
}

/// An engine that accepts from its only listener. Every method fails by panicking.
#[derive(Debug)]
pub struct Rig<E> {
    /// The engine under test.
    pub engine: E,
    /// Of its listener.
    pub address: SocketAddr,
    /// Delivered, and not yet looked at.
    pub events: VecDeque<Event>,
}

impl<E: Rigged> Rig<E> {
    /// An engine that accepts from the start.
    #[must_use]
    pub fn new(options: &E::Options) -> Self {
        Self::with(options, peer::listener().unwrap().0)
    }

    /// The same with a listener of the caller's.
    #[must_use]
    pub fn with(options: &E::Options, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        Self::of(E::rigged(options, vec![listener]), address)
    }
}

impl<E: Engine> Rig<E> {
    /// An engine whose only listener has this address.
    #[must_use]
    pub fn of(mut engine: E, address: SocketAddr) -> Self {
        engine.submit(Operation::Accept { listener: ListenerId(0) });
        Self { engine, address, events: VecDeque::new() }
    }

    /// One wait that does not wait.
    pub fn turn(&mut self) {
        self.wait(Time(0));
    }

    /// One wait.
    pub fn wait(&mut self, deadline: Time) {
        let events = &mut self.events;
        self.engine.wait(deadline, |_, completion| events.push_back(completion.into())).unwrap();
    }

    /// The next event that `wanted` recognises; the others stay.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
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

    /// Waits for this event; others stay.
    pub fn expect(&mut self, expected: &Event) {
        self.until(|event| (event == expected).then_some(()));
    }

    /// A client that has been accepted.
    pub fn client(&mut self) -> (ConnectionId, TcpStream) {
        let client = TcpStream::connect(self.address).unwrap();
        (self.accepted(&client), client)
    }

    /// A client whose socket takes little before it is full.
    pub fn slow_client(&mut self) -> (ConnectionId, TcpStream) {
        self.client_with_buffer(4096)
    }

    /// A client whose socket has so many bytes for what it has not read.
    pub fn client_with_buffer(&mut self, bytes: usize) -> (ConnectionId, TcpStream) {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(bytes).unwrap();
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

    /// Has the engine receive.
    pub fn receive(&mut self, connection: ConnectionId) {
        self.engine.submit(Operation::Receive { connection });
    }

    /// Has the engine send.
    pub fn send(&mut self, connection: ConnectionId, bytes: impl Into<Bytes>) {
        self.engine.submit(Operation::Send { connection, bytes: bytes.into() });
    }

    /// Has the engine offer.
    pub fn offer(&mut self, frame: &Bytes, targets: &[Slot]) {
        self.engine.submit(Operation::Offer { frame: frame.clone(), targets });
    }

    /// Has the engine close.
    pub fn close(&mut self, connection: ConnectionId, how: Closing) {
        self.engine.submit(Operation::Close { connection, how });
    }

    /// Bytes received from a connection, until there are so many.
    pub fn received(&mut self, connection: ConnectionId, count: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < count {
            received.extend(self.until(|event| match event {
                Event::Bytes(from, bytes) if *from == connection => Some(bytes.clone()),
                _ => None,
            }));
        }
        received
    }

    /// What became of a send.
    pub fn sent(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Sent(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    /// What became of an offer that was refused.
    pub fn refused(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Refused(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Sends the rest of what was refused until the socket has taken all of it.
    pub fn drain(&mut self, connection: ConnectionId, mut rest: Bytes) {
        while !rest.is_empty() {
            self.expect(&Event::Writable(connection));
            self.send(connection, rest);
            let taken = self.sent(connection).unwrap();
            rest = taken.bytes.slice(taken.taken..);
        }
    }

    /// System calls of what is done in between.
    pub fn calls(&mut self, act: impl FnOnce(&mut Self)) -> u64 {
        let before = self.engine.counts().enters;
        act(self);
        self.engine.counts().enters - before
    }

    /// Nothing came that nobody asked for.
    pub fn assert_clean(&self) {
        let counts = self.engine.counts();
        assert_eq!((counts.completions_stale, counts.accepts_failed), (0, 0));
    }
}

/// Has a client's socket reset the connection when it is dropped.
pub fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Who has sent much more than a turn takes keeps nobody from it: at most so many of its bytes come
/// before those of another, and none is lost.
///
/// # Panics
/// The engine does otherwise.
pub fn keeps_nobody_from_a_turn<E: Rigged>(options: &E::Options, loud_bytes_max: usize) {
    const LOUD_BYTES: usize = 6400;
    let mut rig = Rig::<E>::new(options);
    let (loud, mut loud_client) = rig.client();
    let (quiet, mut quiet_client) = rig.client();
    for connection in [loud, quiet] {
        rig.receive(connection);
    }
    rig.turn();
    loud_client.write_all(&[b'x'; LOUD_BYTES]).unwrap();
    quiet_client.write_all(b"hello").unwrap();
    assert_eq!(rig.received(quiet, 5), b"hello");
    let length = |event: &Event| match event {
        Event::Bytes(from, bytes) if *from == loud => bytes.len(),
        _ => 0,
    };
    let first: usize = rig.events.iter().map(length).sum();
    assert!(first <= loud_bytes_max, "{first} bytes came first");
    assert_eq!(rig.received(loud, LOUD_BYTES).len(), LOUD_BYTES);
}

/// Has the kernel find no memory for what this thread receives from a socket, from now on: recvfrom(2)
/// of it says ENOMEM.
pub fn starve(socket: &impl AsRawFd) {
    let descriptor = u64::try_from(socket.as_raw_fd()).unwrap();
    let is_it =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, descriptor).unwrap();
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_recvfrom, vec![SeccompRule::new(vec![is_it]).unwrap()])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOMEM.cast_unsigned()),
        ARCH.try_into().unwrap(),
    );
    apply_filter(&BpfProgram::try_from(filter.unwrap()).unwrap()).unwrap();
}
