//! How a connection ends. CLOSE alone leaves the socket open for as long as anything is armed on
//! it, so it comes last: what is armed is cancelled by its tag, and its own completion, whatever
//! the cancellation says, is what is waited for. `Finish` does just that; `Linger` sends FIN and
//! reads on before, since unread bytes at a CLOSE turn it into a reset that destroys the reply;
//! `Abort` connects to nowhere, which sends RST, frees what is queued, and ends everything armed.

use std::collections::VecDeque;

use worker::{Closing, Completion, ConnectionId, Slot, Time};

use crate::{
    engine::RingEngine,
    queue::Entry,
    sends,
    slots::{Flags, Phase, tagged_mut},
    tag::{Kind, Tag},
};

/// Shutdowns: each occupies a kernel worker thread for a moment, so few run at once.
#[derive(Debug)]
pub(crate) struct Shutdowns {
    waiting: VecDeque<ConnectionId>,
    in_flight: u32,
    in_flight_max: u32,
}

impl Shutdowns {
    pub(crate) fn new(in_flight_max: u32) -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0, in_flight_max: in_flight_max.max(1) }
    }
}

impl RingEngine {
    pub(crate) fn close(&mut self, connection: ConnectionId, how: Closing) {
        let slot = connection.slot;
        let Some(state) = self.slots.connection_mut(connection) else { return };
        match (how, state.phase) {
            (Closing::Finish, Phase::Open) => self.end(slot),
            // Nothing is left to read: the FIN of a CLOSE does no harm.
            (Closing::Linger, Phase::Open) if state.has(Flags::ENDED) => self.end(slot),
            (Closing::Linger, Phase::Open) => self.linger(connection),
            (Closing::Abort, Phase::Open | Phase::Lingering | Phase::Ending) => self.abort(slot),
            // The CLOSE is on its way already, or the close that was asked for before goes on.
            _ => {}
        }
    }

    /// Sends FIN when a worker thread is to be had, and meanwhile reads on.
    fn linger(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection) else { return };
        state.phase = Phase::Lingering;
        state.flags.insert(Flags::WANTED);
        self.list_to_arm(connection.slot);
        self.shutdowns.waiting.push_back(connection);
    }

    /// Submits the shutdowns that may run now.
    pub(crate) fn shut_down(&mut self) {
        while self.shutdowns.in_flight < self.shutdowns.in_flight_max {
            let Some(connection) = self.shutdowns.waiting.pop_front() else { return };
            let slot = connection.slot;
            let state = self.slots.connection_mut(connection);
            // Whoever has gone on to the CLOSE needs none.
            let Some(state) = state.filter(|state| state.phase == Phase::Lingering) else {
                continue;
            };
            state.flags.insert(Flags::SHUTDOWN);
            let (file, tag) = (state.file(slot), state.tag(Kind::Shutdown, slot));
            self.shutdowns.in_flight += 1;
            self.push(&Entry::shutdown(file, tag));
        }
    }

    /// The FIN is out, or could not be sent because the connection is gone.
    pub(crate) fn on_shutdown(&mut self, tag: Tag, result: i32) {
        self.shutdowns.in_flight = self.shutdowns.in_flight.saturating_sub(1);
        let Some(state) = tagged_mut(&mut self.slots, tag) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.flags.remove(Flags::SHUTDOWN);
        if result < 0 && state.phase == Phase::Lingering {
            self.end(tag.slot);
        } else {
            self.close_if_idle(tag.slot);
        }
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

    /// Cancels what is armed; the CLOSE follows when nothing is in flight.
    pub(crate) fn end(&mut self, slot: Slot) {
        self.cancel_armed(slot);
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.phase = Phase::Ending;
        state.flags.remove(Flags::WANTED);
        if state.has(Flags::WRITE_POLL) {
            let tag = state.tag(Kind::WritePoll, slot);
            self.push(&Entry::cancel(tag));
        }
        self.close_if_idle(slot);
    }

    /// Resets the connection. What is armed completes by that.
    fn abort(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot).filter(|state| !state.has(Flags::ABORT)) else {
            return;
        };
        state.phase = Phase::Ending;
        state.flags.remove(Flags::WANTED);
        state.flags.insert(Flags::ABORT);
        let (file, tag) = (state.file(slot), state.tag(Kind::Abort, slot));
        self.push(&sends::abort(file, tag));
    }

    /// The connection is reset. If it could not be, it is closed like any other.
    pub(crate) fn on_abort(&mut self, tag: Tag, result: i32) {
        let Some(state) = tagged_mut(&mut self.slots, tag) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.flags.remove(Flags::ABORT);
        if result < 0 {
            self.end(tag.slot);
        } else {
            self.close_if_idle(tag.slot);
        }
    }

    /// Submits the CLOSE of a connection that ends, if the kernel holds nothing else of it.
    pub(crate) fn close_if_idle(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.phase != Phase::Ending || state.in_flight() {
            return;
        }
        state.phase = Phase::Closing;
        let tag = state.tag(Kind::Close, slot);
        let entry = match state.socket.take() {
            Some(socket) => Entry::close_file(socket, tag),
            None => Entry::close_place(slot, tag),
        };
        self.push(&entry);
    }

    /// The socket is closed, whatever the result: the slot is free.
    pub(crate) fn on_closed(
        &mut self,
        now: Time,
        tag: Tag,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        if tagged_mut(&mut self.slots, tag).is_none_or(|state| state.phase != Phase::Closing) {
            self.counts.completions_stale += 1;
            return;
        }
        let connection = self.slots.connection(tag.slot);
        self.slots.release(tag.slot);
        on_completion(now, Completion::Closed { connection });
    }
}
