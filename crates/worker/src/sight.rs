//! An open connection as it is shown to whoever asks which ones there are: what its record and its
//! identity say already, so that nothing is kept for it.

use std::{net::SocketAddr, time::Duration};

use crate::{
    connections::State,
    core::Core,
    operation::{ConnectionId, Slot},
    send_queue::SendQueue,
};

/// An open connection at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Which.
    pub connection: ConnectionId,
    /// Its client: the address that it was accepted from, or what a trusted proxy has said.
    pub peer: SocketAddr,
    /// How long ago it was accepted, to 1/64 of a second.
    pub age: Duration,
    /// How long ago a byte of it was heard, to 1/64 of a second.
    pub silence: Duration,
    /// Bytes queued for it, and the charge of every frame.
    pub send_queue_bytes: u64,
}

impl Core {
    /// The connection in this slot, if it is open.
    pub(crate) fn sight(&self, slot: Slot) -> Option<Sight> {
        let connection = self.connections.id_at(slot)?;
        let record = self.connections.get(connection)?;
        if record.state != State::Open {
            return None;
        }
        let identity = self.connections.identity(slot);
        let tick = self.tick();
        Some(Sight {
            connection,
            peer: identity.peer(),
            age: tick.since(identity.accepted),
            silence: tick.since(record.heard),
            send_queue_bytes: record.queue().map_or(0, SendQueue::bytes) as u64,
        })
    }
}
