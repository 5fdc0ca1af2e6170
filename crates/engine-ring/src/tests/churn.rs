//! Everything at once, in an order drawn from a seed: whatever clients and worker do to each other,
//! the engine keeps its contract and every slot comes back.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use worker::{Closing, ConnectionId, Engine, Operation, Slot};

use crate::RingOptions;

use super::rig::{Event, Rig, options, tiny};

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

struct Churn {
    rig: Rig,
    dice: Dice,
    known: HashMap<ConnectionId, Known>,
    clients: Vec<TcpStream>,
    offered: u32,
    closed: usize,
    received: usize,
}

impl Churn {
    fn new(rig: Rig, seed: u64) -> Self {
        Self {
            rig,
            dice: Dice(seed),
            known: HashMap::new(),
            clients: Vec::new(),
            offered: 0,
            closed: 0,
            received: 0,
        }
    }

    fn step(&mut self) {
        match self.dice.roll(10) {
            0 if self.clients.len() < CLIENTS_MAX => {
                let client = TcpStream::connect(self.rig.address).unwrap();
                client.set_nonblocking(true).unwrap();
                self.clients.push(client);
            }
            1..=3 => self.act_as_client(),
            4..=7 => self.act_as_worker(),
            _ => {
                self.rig.turn();
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
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
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
                self.rig.close(connection, Closing::Abort);
            }
            return;
        }
        match action {
            0..=7 => self.rig.receive(connection),
            8..=9 => self.rig.engine.submit(Operation::StopReceiving { connection }),
            10..=13 if !known.sending && !known.refused => {
                known.sending = true;
                let bytes = vec![b's'; 1 << self.dice.roll(20)];
                self.rig.send(connection, bytes);
            }
            14..=17 => self.offer(&connections),
            18..=19 => {
                known.closing = true;
                let ways = [Closing::Finish, Closing::Linger, Closing::Abort];
                let how = self.dice.pick(&ways).unwrap();
                self.rig.close(connection, how);
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
        let frame = Bytes::from(vec![b'o'; 1 << self.dice.roll(18)]);
        self.offered += u32::try_from(targets.len()).unwrap();
        self.rig.offer(&frame, &targets);
    }

    /// Checks everything that was delivered against what is known.
    fn look(&mut self) {
        while let Some(event) = self.rig.events.pop_front() {
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
    fn finish(mut self, connections_max: u32) {
        drop(std::mem::take(&mut self.clients));
        let deadline = self.rig.engine.now() + Duration::from_secs(20);
        // Who waited in the backlog is accepted when a slot is free.
        let mut turns_without_connections = 0;
        while turns_without_connections < 3 {
            self.rig.turn();
            self.look();
            let connections: Vec<ConnectionId> = self.known.keys().copied().collect();
            turns_without_connections += 1;
            if !connections.is_empty() {
                turns_without_connections = 0;
            }
            for connection in connections {
                self.known.get_mut(&connection).unwrap().closing = true;
                self.rig.close(connection, Closing::Abort);
            }
            assert!(self.rig.engine.now() < deadline, "{} are left", self.known.len());
        }
        assert_eq!(self.offered, 0);
        assert!(self.closed > 20 && self.received > 1000, "the test is too easy");
        let armed = connections_max.min(32);
        assert_eq!(self.rig.engine.slots.free_count(), connections_max - armed);
        assert_eq!(self.rig.engine.counts().multishots, 0);
        self.rig.assert_clean();
    }
}

fn churn(options: &RingOptions) {
    for seed in [3, 1_000_003, 0x9e37_79b9_7f4a_7c15, 0xdead_beef, 7 << 40, u64::MAX] {
        for rig in Rig::both(options) {
            let mut churn = Churn::new(rig, seed);
            for _ in 0..STEPS {
                churn.step();
            }
            churn.finish(options.connections_max);
        }
    }
}

#[test]
fn whatever_happens_every_slot_comes_back() {
    churn(&RingOptions { multishot_messages_min: 2, shutdowns_max: 2, ..options() });
}

#[test]
fn whatever_happens_on_a_tiny_ring_every_slot_comes_back() {
    churn(&RingOptions { multishot_messages_min: 2, multishot_share: 2, ..tiny() });
}
