//! Taking the core apart into records of connections, and putting it together again.

use super::{Core, Outgoing};
use crate::{
    connections::{Connection, Flags, Identity, State},
    operation::{ConnectionId, Operation},
    rates::Rates,
    send_queue::SendQueue,
    wheel::{Tick, Wheel},
};

impl Core {
    /// Forgets all connections and what is published to them. Options, listeners, drain, heartbeat,
    /// report and clock stay.
    pub(crate) fn forget(&mut self) {
        let connections = &self.connections;
        let id_at = |slot| connections.id_at(slot);
        self.outbox.retain(|outgoing| outgoing.connection(id_at).is_none());
        self.connections = self.connections.succeed();
        self.fanout = self.fanout.succeed();
        self.wheel = Wheel::starting_at(self.tick());
        self.rates = self.options.publish_rate_max.map(Rates::new);
        self.closed.clear();
        self.resumed.clear();
        self.deferred.clear();
        self.unverified.clear();
        self.handshakes = 0;
        self.head_bytes = 0;
        self.partial_bytes = 0;
        self.paused = 0;
        self.send_queue_bytes = 0;
    }

    /// What is to go to the engine for one connection and has not gone yet, in order.
    pub(crate) fn outgoing(&self, connection: ConnectionId) -> Vec<Outgoing> {
        let id_at = |slot| self.connections.id_at(slot);
        let outgoing = self.outbox.iter().filter(|it| it.connection(id_at) == Some(connection));
        outgoing.cloned().collect()
    }

    /// Puts a connection back, and into all sums.
    pub(crate) fn restore(
        &mut self,
        connection: ConnectionId,
        state: Connection,
        identity: Identity,
    ) {
        let tick = self.tick();
        let record = self.connections.insert(connection, identity, tick);
        *record = state;
        record.generation = connection.generation;
        record.flags.remove(Flags::IN_WHEEL);
        let held = record.held_bytes();
        let (state, is_paused) = (record.state, record.has(Flags::PAUSED));
        self.partial_bytes += record.decoder.buffered_bytes();
        self.send_queue_bytes += record.queue().map_or(0, SendQueue::bytes);
        match state {
            State::Announced | State::Handshaking | State::Waiting => {
                self.handshakes += 1;
                self.head_bytes += held;
                if state == State::Waiting {
                    self.unverified.push_back(connection);
                }
            }
            State::Open => {
                self.connections.count_open(connection.slot);
                self.partial_bytes += held;
                self.paused += u32::from(is_paused);
            }
            State::Free | State::Closing | State::Terminating => {}
        }
        self.connections.update_sending(connection.slot);
    }

    /// Lets a connection's times be as far from now as they were from the moment of its export.
    pub(crate) fn shift_times(
        &mut self,
        connection: ConnectionId,
        exported: Tick,
        exported_us: u32,
    ) {
        let (tick, now_us) = (self.tick(), self.now_us());
        let Some(record) = self.connections.get_mut(connection) else { return };
        let shift = |then: &mut Tick| then.0 = then.0.wrapping_add(tick.0).wrapping_sub(exported.0);
        shift(&mut record.heard);
        shift(&mut record.deadline);
        record.with_queue(|queue| queue.times_mut().for_each(shift));
        record.timed_us = record.timed_us.wrapping_add(now_us).wrapping_sub(exported_us);
        let (deadline, has_deadline) = (record.deadline, record.has(Flags::DEADLINE));
        let awaiting_pong = record.has(Flags::AWAITING_PONG);
        shift(&mut self.connections.identity_mut(connection.slot).accepted);
        if has_deadline {
            self.set_deadline_at(connection, deadline);
        }
        if let Some(heartbeat) = &mut self.heartbeat
            && awaiting_pong
        {
            heartbeat.watch(tick, connection.slot);
        }
    }
}

impl Outgoing {
    /// Whom it is about, if it is about one connection. `id_at` says who is in a slot.
    fn connection(
        &self,
        id_at: impl Fn(crate::operation::Slot) -> Option<ConnectionId>,
    ) -> Option<ConnectionId> {
        match self {
            Self::Reply(slot, _) => id_at(*slot),
            Self::Operation(
                Operation::Receive { connection }
                | Operation::StopReceiving { connection }
                | Operation::Send { connection, .. }
                | Operation::Close { connection, .. },
            ) => Some(*connection),
            Self::Operation(
                Operation::Accept { .. }
                | Operation::StopAccepting { .. }
                | Operation::Offer { .. }
                | Operation::Wake { .. },
            ) => None,
        }
    }

    /// The same for another connection.
    pub(crate) fn to(mut self, other: ConnectionId) -> Self {
        match &mut self {
            Self::Reply(slot, _) => *slot = other.slot,
            Self::Operation(
                Operation::Receive { connection }
                | Operation::StopReceiving { connection }
                | Operation::Send { connection, .. }
                | Operation::Close { connection, .. },
            ) => *connection = other,
            Self::Operation(_) => {}
        }
        self
    }
}
