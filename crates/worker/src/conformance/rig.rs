//! What the checks have in common: engines with their events, and ways to wait for something.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{Bed, BedOptions, Event, Make, Peer, PeerRead};
use crate::operation::{
    Closing, ConnectionId, Engine, Failure, ListenerId, Operation, Slot, Taken, Time,
};

/// Nothing takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

/// What comes by itself has come after this time.
const QUIET: Duration = Duration::from_millis(30);

/// How long to wait for the engine while a peer has something to do too.
const MOMENT: Duration = Duration::from_millis(1);

/// The listener of most checks.
pub(super) const LISTENER: ListenerId = ListenerId(0);

/// Sizes that no check comes near to.
pub(super) const OPTIONS: BedOptions =
    BedOptions { connections_max: 128, listeners: 1, engines: 1, linger_bytes_max: 1 << 18 };

/// A bed, what its first engine has delivered, and what must hold of all of it.
pub(super) struct Rig<B: Bed> {
    pub(super) bed: B,
    /// Delivered, and not yet looked at.
    pub(super) events: VecDeque<Event>,
    /// The time of the last completion.
    last: Time,
}

impl<B: Bed> Rig<B> {
    /// Accepts from the first listener.
    pub(super) fn new(make: Make<'_, B>) -> Self {
        Self::with(make, &OPTIONS)
    }

    pub(super) fn with(make: Make<'_, B>, options: &BedOptions) -> Self {
        let mut rig = Self::idle(make, options);
        rig.submit(Operation::Accept { listener: LISTENER });
        rig
    }

    /// Accepts nothing.
    pub(super) fn idle(make: Make<'_, B>, options: &BedOptions) -> Self {
        Self { bed: make(options), events: VecDeque::new(), last: Time(0) }
    }

    pub(super) fn engine(&mut self) -> &mut B::Engine {
        &mut self.bed.engines()[0]
    }

    pub(super) fn now(&mut self) -> Time {
        self.engine().now()
    }

    pub(super) fn submit(&mut self, operation: Operation<'_>) {
        self.engine().submit(operation);
    }

    pub(super) fn receive(&mut self, connection: ConnectionId) {
        self.submit(Operation::Receive { connection });
    }

    pub(super) fn send(&mut self, connection: ConnectionId, bytes: impl Into<Bytes>) {
        self.submit(Operation::Send { connection, bytes: bytes.into() });
    }

    pub(super) fn offer(&mut self, frame: &Bytes, targets: &[Slot]) {
        self.submit(Operation::Offer { frame: frame.clone(), targets });
    }

    pub(super) fn close(&mut self, connection: ConnectionId, how: Closing) {
        self.submit(Operation::Close { connection, how });
    }

    /// One wait of the first engine.
    pub(super) fn wait(&mut self, deadline: Time) {
        let (events, last) = (&mut self.events, &mut self.last);
        self.bed.engines()[0]
            .wait(deadline, |time, completion| {
                assert!(time >= *last, "completions are told in the order of their times");
                *last = time;
                events.push_back(completion.into());
            })
            .expect("the engine goes on");
    }

    /// One wait for a moment, for loops in which a peer acts too.
    pub(super) fn turn(&mut self) {
        let soon = self.now() + MOMENT;
        self.wait(soon);
    }

    /// Waits until everything that comes by itself has come.
    pub(super) fn settle(&mut self) {
        let deadline = self.now() + QUIET;
        while self.now() < deadline {
            self.wait(deadline);
        }
    }

    /// Nothing is left to look at, and nothing comes.
    #[track_caller]
    pub(super) fn assert_silent(&mut self) {
        self.settle();
        assert!(self.events.is_empty(), "unexpected: {:?}", self.events);
    }

    /// Calls `step` between waits until it has a result.
    #[track_caller]
    pub(super) fn repeat<T>(&mut self, mut step: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = self.now() + PATIENCE;
        loop {
            if let Some(found) = step(self) {
                return found;
            }
            assert!(self.now() < deadline, "it never came; there is {:?}", self.events);
            self.turn();
        }
    }

    /// The next event that `wanted` recognises; the others stay.
    #[track_caller]
    pub(super) fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        self.repeat(|rig| rig.find(&mut wanted))
    }

    /// The next event, whatever it is.
    #[track_caller]
    pub(super) fn next(&mut self) -> Event {
        self.repeat(|rig| rig.events.pop_front())
    }

    /// That event, if it is there.
    pub(super) fn find<T>(&mut self, wanted: impl FnMut(&Event) -> Option<T>) -> Option<T> {
        let (index, found) = self
            .events
            .iter()
            .map(wanted)
            .enumerate()
            .find_map(|(index, found)| Some((index, found?)))?;
        self.events.remove(index);
        Some(found)
    }

    #[track_caller]
    pub(super) fn expect(&mut self, expected: &Event) {
        self.until(|event| (event == expected).then_some(()));
    }

    /// A client that has been accepted.
    #[track_caller]
    pub(super) fn client(&mut self) -> (ConnectionId, B::Peer) {
        let peer = self.connect();
        (self.accepted(&peer), peer)
    }

    /// So many of them, in slot order.
    #[track_caller]
    pub(super) fn clients(&mut self, count: usize) -> Vec<(ConnectionId, B::Peer)> {
        let peers: Vec<B::Peer> = (0..count).map(|_| self.connect()).collect();
        let mut clients: Vec<_> =
            peers.into_iter().map(|peer| (self.accepted(&peer), peer)).collect();
        clients.sort_by_key(|(connection, _)| connection.slot);
        clients
    }

    #[track_caller]
    pub(super) fn connect(&mut self) -> B::Peer {
        self.bed.connect(LISTENER).expect("the listener is open")
    }

    #[track_caller]
    pub(super) fn accepted(&mut self, peer: &B::Peer) -> ConnectionId {
        let address = peer.address();
        self.until(|event| match event {
            Event::Accepted(connection, _, of) if *of == address => Some(*connection),
            _ => None,
        })
    }

    #[track_caller]
    pub(super) fn sent(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Sent(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub(super) fn refused(&mut self, connection: ConnectionId) -> Result<Taken, Failure> {
        self.until(|event| match event {
            Event::Refused(to, outcome) if *to == connection => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Waits until so many targets of offers have been decided.
    #[track_caller]
    pub(super) fn offered(&mut self, targets: u32) {
        let mut decided = 0;
        while decided < targets {
            decided += self.until(|event| match event {
                Event::Offered(targets) => Some(*targets),
                _ => None,
            });
        }
        assert_eq!(decided, targets, "each target is decided once");
    }

    /// Bytes received from a connection, until there are so many.
    #[track_caller]
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

    /// Has a peer write all of it, while the engine goes on.
    #[track_caller]
    pub(super) fn write(&mut self, peer: &mut B::Peer, bytes: &[u8]) {
        let mut written = 0;
        self.repeat(|_| {
            written += peer.write(&bytes[written..]);
            (written == bytes.len()).then_some(())
        });
    }

    /// Has a peer read exactly so many bytes.
    #[track_caller]
    pub(super) fn read(&mut self, peer: &mut B::Peer, count: usize) -> Vec<u8> {
        let mut received = Vec::with_capacity(count);
        self.repeat(|_| {
            while received.len() < count {
                match peer.read(&mut received) {
                    PeerRead::Bytes => {}
                    PeerRead::Nothing => return None,
                    end => panic!("{end:?} after {} of {count} bytes", received.len()),
                }
            }
            Some(())
        });
        assert_eq!(received.len(), count, "no more than was sent");
        received
    }

    /// Has a peer read to the end: what it read, and how it ended.
    #[track_caller]
    pub(super) fn read_to_end(&mut self, peer: &mut B::Peer) -> (Vec<u8>, PeerRead) {
        let mut received = Vec::new();
        let end = self.repeat(|_| {
            loop {
                match peer.read(&mut received) {
                    PeerRead::Bytes => {}
                    PeerRead::Nothing => return None,
                    end => return Some(end),
                }
            }
        });
        (received, end)
    }

    /// Sends the rest of what was refused, until the socket has taken all of it and the peer has
    /// read `count` bytes in all.
    #[track_caller]
    pub(super) fn drain(
        &mut self,
        connection: ConnectionId,
        mut rest: Bytes,
        peer: &mut B::Peer,
        count: usize,
    ) -> Vec<u8> {
        let mut received = Vec::with_capacity(count);
        self.repeat(|rig| {
            while peer.read(&mut received) == PeerRead::Bytes {}
            let sent = rig.find(|event| match event {
                Event::Sent(to, outcome) if *to == connection => Some(outcome.clone()),
                _ => None,
            });
            if let Some(outcome) = sent {
                let taken = outcome.expect("the peer is there");
                assert!(taken.bytes == rest, "what was sent comes back");
                rest = rest.slice(taken.taken..);
            }
            if rig.find(|event| (*event == Event::Writable(connection)).then_some(())).is_some() {
                assert!(!rest.is_empty(), "Writable follows only what left a rest");
                rig.send(connection, rest.clone());
            }
            (rest.is_empty() && received.len() >= count).then_some(())
        });
        assert_eq!(received.len(), count, "no more than was sent");
        received
    }

    /// Offers bytes to a peer that does not read until it takes nothing more. Says what it was
    /// offered in all, and what of it is still to be sent: `Writable` will come, and has not.
    #[track_caller]
    pub(super) fn fill(&mut self, connection: ConnectionId) -> (Bytes, Bytes) {
        let all = pattern(B::OVERWHELMING_BYTES);
        self.offer(&all, &[connection.slot]);
        let taken = self.refused(connection).expect("the peer is there");
        assert!(taken.bytes == all && taken.taken < all.len(), "it was not overwhelmed");
        self.offered(1);
        let mut rest = all.slice(taken.taken..);
        loop {
            self.settle();
            let writable = Event::Writable(connection);
            if self.find(|event| (*event == writable).then_some(())).is_none() {
                return (all, rest);
            }
            // Bytes have moved on into the peer's socket.
            self.send(connection, rest.clone());
            let taken = self.sent(connection).expect("the peer is there");
            rest = rest.slice(taken.taken..);
            assert!(!rest.is_empty(), "it was not overwhelmed");
        }
    }

    /// The engine has lost nothing and was told nothing that it did not understand.
    #[track_caller]
    pub(super) fn assert_clean(&mut self) {
        let counts = self.engine().counts();
        assert_eq!((counts.completions_stale, counts.accepts_failed), (0, 0), "{counts:?}");
    }
}

/// Bytes in which a shift by anything but a multiple of a large prime shows.
pub(super) fn pattern(count: usize) -> Bytes {
    const PERIOD: usize = 65_521;
    let mut state = 1_u32;
    let mut next = || {
        // A linear congruential generator's upper byte; its lower ones have short periods.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    let mut bytes = period.repeat(count.div_ceil(PERIOD));
    bytes.truncate(count);
    bytes.into()
}

/// The slots of clients.
pub(super) fn slots<P>(clients: &[(ConnectionId, P)]) -> Vec<Slot> {
    clients.iter().map(|(connection, _)| connection.slot).collect()
}
