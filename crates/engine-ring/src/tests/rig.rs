//! An engine with one listener, and clients on plain sockets.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use worker::{Closing, ConnectionId, Engine, Failure, ListenerId, Operation, Slot, Taken, Time};

pub(super) use worker::conformance::Event;

use crate::{Descriptors, RingEngine, RingOptions, engine::Start};

/// Nothing on this machine takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Those that fit this kernel; `RINGWAY_DESCRIPTORS=ordinary` takes the others where both do.
fn descriptors() -> Descriptors {
    match std::env::var("RINGWAY_DESCRIPTORS").as_deref() {
        Ok("ordinary") => Descriptors::Ordinary,
        Ok("direct") => Descriptors::Direct,
        _ => Descriptors::probe().unwrap(),
    }
}

/// What this kernel has: direct descriptors too, where it lets go of them.
pub(super) fn all_descriptors() -> Vec<Descriptors> {
    let mut all = vec![Descriptors::Ordinary];
    all.extend(Some(Descriptors::probe().unwrap()).filter(|it| *it == Descriptors::Direct));
    all
}

/// Sizes that no test comes near to.
pub(super) fn options() -> RingOptions {
    RingOptions {
        descriptors: descriptors(),
        connections_max: 4096,
        submission_entries: 256,
        completion_entries: 2048,
        receive_buffers: 64,
        receive_buffer_bytes: 1024,
        accepts_armed_max: 32,
        settle: Duration::ZERO,
        linger_bytes_max: 256 * 1024,
        shutdowns_max: 64,
        multishot_share: 16,
        multishot_messages_min: 8,
    }
}

/// The smallest sizes that the limits allow.
pub(super) fn tiny() -> RingOptions {
    RingOptions {
        connections_max: 8,
        submission_entries: 8,
        completion_entries: 16,
        receive_buffers: 4,
        receive_buffer_bytes: 64,
        ..options()
    }
}

pub(super) fn listener(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

pub(super) struct Rig {
    pub(super) engine: RingEngine,
    pub(super) address: SocketAddr,
    /// Delivered, and not yet looked at.
    pub(super) events: VecDeque<Event>,
}

impl Rig {
    /// Accepts from the start.
    pub(super) fn new(options: &RingOptions) -> Self {
        Self::with(options, listener(loopback()), Start { inline: true, extra: &[] })
    }

    pub(super) fn with(options: &RingOptions, listener: TcpListener, start: Start) -> Self {
        let address = listener.local_addr().unwrap();
        let mut engine = RingEngine::start(options, vec![listener], start).unwrap();
        engine.submit(Operation::Accept { listener: ListenerId(0) });
        Self { engine, address, events: VecDeque::new() }
    }

    /// Both ways of sending: inline, and where the self-test has failed.
    pub(super) fn both(options: &RingOptions) -> [Self; 2] {
        [true, false]
            .map(|inline| Self::with(options, listener(loopback()), Start { inline, extra: &[] }))
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

    pub(super) fn send(&mut self, connection: ConnectionId, bytes: impl Into<Bytes>) {
        self.engine.submit(Operation::Send { connection, bytes: bytes.into() });
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

    pub(super) fn sent(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Sent(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    pub(super) fn refused(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Refused(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    pub(super) fn expect(&mut self, expected: &Event) {
        self.until(|event| (event == expected).then_some(()));
    }

    /// Sends the rest of what was refused until the socket has taken all of it.
    pub(super) fn drain(&mut self, connection: ConnectionId, mut rest: Bytes) {
        while !rest.is_empty() {
            self.expect(&Event::Writable(connection));
            self.send(connection, rest);
            let taken = self.sent(connection).unwrap();
            rest = taken.bytes.slice(taken.taken..);
        }
    }

    /// Nothing came that nobody asked for.
    pub(super) fn assert_clean(&self) {
        let counts = self.engine.counts();
        assert_eq!(counts.completions_stale, 0);
        assert_eq!(counts.accepts_failed, 0);
    }
}
