//! Everything at once, in an order drawn from a seed: whatever clients and worker do to each other,
//! the engine keeps its contract. The clients are on TCP sockets.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::{
    collections::{HashMap, VecDeque},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::SockRef;
use worker::{Closing, ConnectionId, Engine, Operation, Slot, Time, conformance::Event};

/// Drives an engine that accepts from its only listener, at `address`, and has no connection yet;
/// in the end it has none again, and every offer is decided.
///
/// # Panics
/// The engine breaks its contract.
pub fn churn(engine: &mut impl Engine, address: SocketAddr, seed: u64) {
    let mut churn = Churn::new(engine, address, seed);
    for _ in 0..STEPS {
        churn.step();
    }
    churn.finish();
}

const STEPS: usize = 4000;
const CLIENTS_MAX: usize = 30;

/// Numbers that look random (xorshift), the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.roll(from.len())])
    }
}

/// What a worker knows of a connection.
#[derive(Default)]
struct Known {
    closing: bool,
    /// A `Send` is submitted and not completed.
    sending: bool,
    /// A send was refused, and `Writable` has not come.
    refused: bool,
    ended: bool,
}

struct Churn<'a, E> {
    engine: &'a mut E,
    address: SocketAddr,
    events: VecDeque<Event>,
    dice: Dice,
    known: HashMap<ConnectionId, Known>,
    clients: Vec<TcpStream>,
    offered: u32,
    closed: usize,
    received: usize,
}

impl<'a, E: Engine> Churn<'a, E> {
    fn new(engine: &'a mut E, address: SocketAddr, seed: u64) -> Self {
        Self {
            engine,
            address,
            events: VecDeque::new(),
            dice: Dice(seed),
            known: HashMap::new(),
            clients: Vec::new(),
            offered: 0,
            closed: 0,
            received: 0,
        }
    }

    /// One wait that does not wait.
    fn turn(&mut self) {
        let events = &mut self.events;
        self.engine
            .wait(Time(0), |_, completion| events.push_back(completion.into()))
            .expect("the engine goes on");
    }

    fn close(&mut self, connection: ConnectionId, how: Closing) {
        self.engine.submit(Operation::Close { connection, how });
    }

    fn step(&mut self) {
        match self.dice.roll(10) {
            0 if self.clients.len() < CLIENTS_MAX => {
                let client = TcpStream::connect(self.address).unwrap();
                client.set_nonblocking(true).unwrap();
                self.clients.push(client);
            }
            1..=3 => self.act_as_client(),
            4..=7 => self.act_as_worker(),
            _ => {
                self.turn();
                self.look();
            }
        }
    }

    fn act_as_client(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.dice.roll(self.clients.len());
        let client = &mut self.clients[index];
        match self.dice.roll(12) {
            0..=5 => drop(client.write(&vec![b'c'; 1 + self.dice.roll(3000)])),
            6..=8 => drop(client.read(&mut [0; 100_000])),
            9 => drop(client.shutdown(Shutdown::Write)),
            10 => drop(self.clients.swap_remove(index)),
            _ => {
                let client = self.clients.swap_remove(index);
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    }

    fn act_as_worker(&mut self) {
        let mut connections: Vec<ConnectionId> = self.known.keys().copied().collect();
        connections.sort_unstable();
        let Some(connection) = self.dice.pick(&connections) else { return };
        let action = self.dice.roll(20);
        let known = self.known.get_mut(&connection).unwrap();
        if known.closing {
            if action == 0 {
                self.close(connection, Closing::Abort);
            }
            return;
        }
        match action {
            0..=7 => self.engine.submit(Operation::Receive { connection }),
            8..=9 => self.engine.submit(Operation::StopReceiving { connection }),
            10..=13 if !known.sending && !known.refused => {
                known.sending = true;
                let bytes = vec![b's'; 1 << self.dice.roll(20)];
                self.engine.submit(Operation::Send { connection, bytes: bytes.into() });
            }
            14..=17 => self.offer(&connections),
            18..=19 => {
                known.closing = true;
                let ways = [Closing::Finish, Closing::Linger, Closing::Abort];
                let how = self.dice.pick(&ways).unwrap();
                self.close(connection, how);
            }
            _ => {}
        }
    }

    fn offer(&mut self, connections: &[ConnectionId]) {
        let targets: Vec<Slot> = connections
            .iter()
            .filter(|connection| !self.known[connection].closing && !self.known[connection].refused)
            .map(|connection| connection.slot)
            .collect();
        let frame = vec![b'o'; 1 << self.dice.roll(18)].into();
        self.offered += u32::try_from(targets.len()).unwrap();
        self.engine.submit(Operation::Offer { frame, targets: &targets });
    }

    /// Checks everything that was delivered against what is known.
    fn look(&mut self) {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Accepted(connection, ..) => {
                    assert!(self.known.insert(connection, Known::default()).is_none());
                    let others = self.known.keys().filter(|other| other.slot == connection.slot);
                    assert_eq!(others.count(), 1, "the slot is taken");
                }
                Event::Bytes(connection, bytes) => {
                    assert!(!bytes.is_empty() && !self.open(connection).ended);
                    self.received += bytes.len();
                }
                Event::Finished(connection) | Event::Failed(connection, _) => {
                    let known = self.open(connection);
                    assert!(!known.ended);
                    known.ended = true;
                }
                Event::Sent(connection, outcome) => {
                    let known = self.open(connection);
                    assert!(known.sending);
                    known.sending = false;
                    known.refused |= outcome.is_err()
                        || outcome.is_ok_and(|taken| taken.taken < taken.bytes.len());
                }
                Event::Refused(connection, outcome) => {
                    assert!(
                        outcome.is_err()
                            || outcome.is_ok_and(|taken| taken.taken < taken.bytes.len())
                    );
                    self.open(connection).refused = true;
                }
                Event::Writable(connection) => {
                    let known = self.open(connection);
                    assert!(known.refused);
                    known.refused = false;
                }
                Event::Offered(targets) => self.offered -= targets,
                Event::Closed(connection) => {
                    assert!(self.known.remove(&connection).unwrap().closing);
                    self.closed += 1;
                }
                Event::Woken | Event::StoppedAccepting(_) => panic!("nobody asked"),
            }
        }
    }

    fn open(&mut self, connection: ConnectionId) -> &mut Known {
        let known = self.known.get_mut(&connection).expect("the connection is known");
        assert!(!known.closing, "only Closed follows a close");
        known
    }

    /// Closes what is left; then nothing is left.
    fn finish(mut self) {
        drop(std::mem::take(&mut self.clients));
        let deadline = self.engine.now() + Duration::from_secs(20);
        // Who waited in the backlog is accepted when a slot is free.
        let mut turns_without_connections = 0;
        while turns_without_connections < 3 {
            self.turn();
            self.look();
            let connections: Vec<ConnectionId> = self.known.keys().copied().collect();
            turns_without_connections += 1;
            if !connections.is_empty() {
                turns_without_connections = 0;
            }
            for connection in connections {
                self.known.get_mut(&connection).unwrap().closing = true;
                self.close(connection, Closing::Abort);
            }
            assert!(self.engine.now() < deadline, "{} are left", self.known.len());
        }
        assert_eq!(self.offered, 0);
        assert!(self.closed > 20 && self.received > 1000, "the test is too easy");
    }
}
