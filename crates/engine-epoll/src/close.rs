//! How a connection ends. `Finish` closes the socket, which sends FIN behind what was sent; `Linger`
//! sends FIN and reads on before, since unread bytes at a close turn it into a reset that destroys
//! the reply; `Abort` closes with a linger time of zero, which sends RST and frees what is queued
//! (socket(7)). The kernel takes a closed socket out of epoll by itself.

use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt::set_socket_linger};
use worker::{Closing, Completion, ConnectionId, Slot, Time};

use crate::{
    engine::EpollEngine,
    slots::{Flags, Phase},
};

impl EpollEngine {
    pub(crate) fn close(&mut self, connection: ConnectionId, how: Closing) {
        let slot = connection.slot;
        let Some(state) = self.slots.connection_mut(connection) else { return };
        match (how, state.phase) {
            (Closing::Finish, Phase::Open) => self.end(slot),
            // Nothing is left to read: the FIN of a close does no harm.
            (Closing::Linger, Phase::Open) if state.has(Flags::ENDED) => self.end(slot),
            (Closing::Linger, Phase::Open) => self.linger(slot),
            (Closing::Abort, Phase::Open | Phase::Lingering) => self.abort(slot),
            // The close that was asked for before goes on.
            _ => {}
        }
    }

    /// Sends FIN, and reads on.
    fn linger(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        self.counts.enters += 1;
        if shutdown(socket, Shutdown::Write).is_err() {
            // The connection is gone.
            return self.end(slot);
        }
        state.phase = Phase::Lingering;
        state.flags.insert(Flags::WANTED);
        self.list_if_ready(slot);
    }

    /// Counts what was thrown away; a peer that sends on and on is not listened to for ever.
    pub(crate) fn count_lingered(&mut self, slot: Slot, bytes: usize) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        state.lingered_bytes = state.lingered_bytes.saturating_add(bytes);
        if state.lingered_bytes >= self.linger_bytes_max {
            self.end(slot);
        }
    }

    /// Resets the connection. If that cannot be, it is closed like any other.
    fn abort(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        self.counts.enters += 1;
        let _ = set_socket_linger(socket, Some(Duration::ZERO));
        self.end(slot);
    }

    /// Closes the socket; the worker is told in the next `wait`, or in this one.
    pub(crate) fn end(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        self.counts.enters += 1;
        state.socket = None;
        state.phase = Phase::Ended;
        state.flags.remove(Flags::WANTED);
        self.ended.push(slot);
    }

    /// Tells the worker which connections are gone, and frees their slots.
    pub(crate) fn deliver_ended(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let mut ended = std::mem::take(&mut self.ended);
        for slot in ended.drain(..) {
            let connection = self.slots.connection(slot);
            self.slots.release(slot);
            on_completion(now, Completion::Closed { connection });
        }
        self.ended = ended;
    }
}
