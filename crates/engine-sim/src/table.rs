//! The connection table of a virtual engine, and what it knows of each connection.
//!
//! ```text
//!     Open ──Finish, Abort──▶ Ended ──told──▶ (free, next generation)
//!       └────Linger──▶ Lingering ──FIN, failure, bytes enough, Abort──▶ Ended
//! ```

use std::collections::BTreeSet;

use worker::{ConnectionId, Slot, Time};

use crate::{hosts::Arrival, link::LinkId, tally::Tally, watch::Watch};

/// Where a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// FIN is out, and so many bytes were read and thrown away.
    Lingering(usize),
    /// Its socket is closed, which is still to be told.
    Ended,
}

/// What has become of the last bytes that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// All were taken.
    Free,
    /// Some were refused, which the worker has not been told: what comes behind is refused too.
    Refused,
    /// The worker was told, and must not send before it is told `Writable`.
    Waiting,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: LinkId,
    pub(crate) phase: Phase,
    /// True exactly when `Receive` was submitted and nothing has ended it.
    pub(crate) receiving: bool,
    /// True exactly when receiving was stopped, and what was on its way may still be told once.
    pub(crate) trailing: bool,
    /// True exactly when the end of the stream or a failure was told.
    pub(crate) ended: bool,
    /// True exactly when a send has failed: a socket tells its failure only once.
    pub(crate) send_failed: bool,
    pub(crate) sending: Sending,
    /// There was no buffer: nothing is received until then.
    pub(crate) rests_until: Time,
    /// It took nothing, though there was room: it is not writable until then.
    pub(crate) rests_from_sending_until: Time,
    /// What its worker owes it.
    pub(crate) watch: Watch,
    /// How things stood when it was accepted.
    pub(crate) arrival: Arrival,
    /// Where its socket is in what it has taken.
    pub(crate) tally: Tally,
    /// How many bytes that is.
    pub(crate) taken: u64,
    /// How many bytes its worker was told that have come.
    pub(crate) told: u64,
    /// Of the payload that it is in, if that is compressed.
    pub(crate) piece: Vec<u8>,
}

impl Connection {
    /// True exactly when it will be worth a look though nothing happens.
    pub(crate) fn rests(&self, now: Time) -> bool {
        self.rests_until > now || self.rests_from_sending_until > now
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    connection: Option<Connection>,
}

/// All connections of an engine.
#[derive(Debug)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: BTreeSet<Slot>,
    slots_used: Slot,
}

impl Table {
    pub(crate) fn new(connections_max: u32) -> Self {
        Self {
            places: (0..connections_max).map(|_| Place::default()).collect(),
            free: (0..connections_max).collect(),
            slots_used: 0,
        }
    }

    /// Gives a link the lowest free slot: a slot that was just freed is soon used again.
    pub(crate) fn insert(
        &mut self,
        link: LinkId,
        arrival: Arrival,
        now: Time,
    ) -> Option<ConnectionId> {
        let slot = self.free.pop_first()?;
        self.slots_used = self.slots_used.max(slot + 1);
        let place = &mut self.places[slot as usize];
        place.connection = Some(Connection {
            link,
            phase: Phase::Open,
            receiving: false,
            trailing: false,
            ended: false,
            send_failed: false,
            sending: Sending::Free,
            rests_until: Time(0),
            rests_from_sending_until: Time(0),
            watch: Watch::new(now),
            arrival,
            tally: Tally::Nothing,
            taken: 0,
            told: 0,
            piece: Vec::new(),
        });
        Some(ConnectionId { slot, generation: place.generation })
    }

    /// Puts a connection of another table into a free slot.
    pub(crate) fn put(&mut self, slot: Slot, connection: Connection) -> ConnectionId {
        self.free.remove(&slot);
        self.slots_used = self.slots_used.max(slot + 1);
        let place = &mut self.places[slot as usize];
        place.connection = Some(connection);
        ConnectionId { slot, generation: place.generation }
    }

    /// All that are there, in slot order.
    pub(crate) fn into_connections(self) -> Vec<(ConnectionId, Connection)> {
        let places = (0..).zip(self.places);
        let connections = places.filter_map(|(slot, Place { generation, connection })| {
            Some((ConnectionId { slot, generation }, connection?))
        });
        connections.collect()
    }

    /// Frees the slot for a new generation.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let place = &mut self.places[slot as usize];
        place.connection = None;
        place.generation = place.generation.wrapping_add(1);
        self.free.insert(slot);
    }

    /// Places that were ever used are below this.
    pub(crate) fn slots_used(&self) -> Slot {
        self.slots_used
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The connection in a slot, with its id.
    pub(crate) fn at(&mut self, slot: Slot) -> Option<(ConnectionId, &mut Connection)> {
        let place = self.places.get_mut(slot as usize)?;
        let id = ConnectionId { slot, generation: place.generation };
        place.connection.as_mut().map(|connection| (id, connection))
    }

    /// The connection of that id, unless it is gone.
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let (of_slot, connection) = self.at(id.slot)?;
        (of_slot == id).then_some(connection)
    }

    /// The same, to be looked at.
    pub(crate) fn peek(&self, id: ConnectionId) -> Option<&Connection> {
        let place = self.places.get(id.slot as usize)?;
        place.connection.as_ref().filter(|_| place.generation == id.generation)
    }

    /// The connection of that id, if its close was not submitted.
    pub(crate) fn open(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.get(id).filter(|connection| connection.phase == Phase::Open)
    }

    /// All connections, in slot order.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().filter_map(|place| place.connection.as_ref())
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
