//! How a connection ends. The socket is closed when no task has it any more; a task that waits is
//! ended by what it waits for. `Finish` shuts both directions down, which sends FIN and ends the
//! read; `Linger` sends FIN and reads on before, since unread bytes at a close turn it into a reset
//! that destroys the reply; `Abort` ends the read without sending anything, and closes with a linger
//! time of zero, which sends RST and frees what is queued (socket(7)).

use std::net::Shutdown;

use worker::{Closing, Completion, ConnectionId, Slot, Time};

use crate::{
    engine::TokioUringEngine,
    slots::{Flags, Phase},
};

impl TokioUringEngine {
    pub(crate) fn close(&mut self, connection: ConnectionId, how: Closing) {
        let slot = connection.slot;
        let Some(state) = self.slots.connection_mut(connection) else { return };
        match (how, state.phase) {
            (Closing::Finish, Phase::Open) => self.end(slot),
            // Nothing is left to read: the FIN of a close does no harm.
            (Closing::Linger, Phase::Open) if state.has(Flags::ENDED) => self.end(slot),
            (Closing::Linger, Phase::Open) => self.linger(slot),
            (Closing::Abort, Phase::Open | Phase::Lingering | Phase::Ending) => self.abort(slot),
            // It is closed already, or the close that was asked for before goes on.
            _ => {}
        }
    }

    /// Sends FIN, and reads on.
    fn linger(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        state.phase = Phase::Lingering;
        state.flags.insert(Flags::WANTED);
        self.counts.enters += 1;
        if socket.shut_down(Shutdown::Write).is_err() {
            // The connection is gone.
            return self.end(slot);
        }
        self.list_to_read(slot);
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

    /// Ends what waits, sending FIN; the close follows.
    pub(crate) fn end(&mut self, slot: Slot) {
        self.end_waits(slot, Shutdown::Both);
    }

    /// Ends what waits, sending nothing; the close that follows resets the connection.
    fn abort(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        self.counts.enters += 1;
        socket.reset_on_close();
        self.end_waits(slot, Shutdown::Read);
    }

    fn end_waits(&mut self, slot: Slot, how: Shutdown) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        state.phase = Phase::Ending;
        state.flags.remove(Flags::WANTED);
        state.watch = None;
        if state.has(Flags::READING) {
            self.counts.enters += 1;
            // Where the connection is gone the read has ended by that.
            let _ = socket.shut_down(how);
        }
        self.close_if_idle(slot);
    }

    /// Closes the socket of a connection that ends, if no task has it.
    pub(crate) fn close_if_idle(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.phase != Phase::Ending || state.is_waited_for() {
            return;
        }
        self.counts.enters += 1;
        state.socket = None;
        state.phase = Phase::Ended;
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
