//! Receiving. epoll tells of a socket once, when something has come; it is then received from once a
//! turn, into the buffer that all share, until it has nothing left. A receive that does not fill the
//! buffer has emptied the socket, as epoll(7) says of streams, so that a message costs one system
//! call; where the stream ends, has failed or has an urgent mark, epoll says so, and reading goes on
//! until there is nothing.
//!
//! An edge comes whether the worker wants bytes or not: it is kept, and `Receive` finds it.

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{RecvFlags, recv},
};
use sockets::{ReceiveFailure, receive_failure};
use worker::{Completion, ConnectionId, Reception, Slot, Time};

use crate::{
    engine::EpollEngine,
    slots::{Flags, Phase, Tag},
};

/// What a connection is watched for from its beginning to its end.
pub(crate) const WATCHED: EventFlags =
    EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

/// Something was broken. Always told, whether asked for or not.
const BROKEN: EventFlags = EventFlags::ERR.union(EventFlags::HUP);

/// There is more to learn than bytes.
const MORE: EventFlags = BROKEN.union(EventFlags::RDHUP).union(EventFlags::PRI);

/// Connections received from in a turn; the others come first in the next.
const RECEIVES_MAX: usize = 256;

impl EpollEngine {
    pub(crate) fn receive(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection).filter(|state| !state.has(Flags::ENDED))
        else {
            return;
        };
        state.flags.insert(Flags::WANTED);
        self.list_if_ready(connection.slot);
    }

    pub(crate) fn stop_receiving(&mut self, connection: ConnectionId) {
        if let Some(state) = self.slots.open_mut(connection) {
            state.flags.remove(Flags::WANTED);
        }
    }

    /// Puts a slot on the list of those to receive from, if there is something and it is wanted.
    pub(crate) fn list_if_ready(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.flags.contains(Flags::WANTED | Flags::READABLE) && !state.has(Flags::LISTED) {
            state.flags.insert(Flags::LISTED);
            self.ready.push_back(slot);
        }
    }

    /// epoll has said something of a connection.
    pub(crate) fn handle_event(
        &mut self,
        now: Time,
        tag: Tag,
        flags: EventFlags,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = ConnectionId { slot: tag.place, generation: tag.generation };
        let Some(state) = self.slots.connection_mut(connection) else {
            self.counts.completions_stale += 1;
            return;
        };
        if flags.intersects(MORE | EventFlags::IN) {
            state.flags.insert(Flags::READABLE);
            state.flags.set(Flags::MORE, state.has(Flags::MORE) || flags.intersects(MORE));
        }
        // A broken socket is writable too: the next send says what is wrong.
        let writable = flags.intersects(BROKEN | EventFlags::OUT);
        if writable && state.has(Flags::OWES_WRITABLE) {
            self.deliver_writable(now, connection, on_completion);
        }
        self.list_if_ready(tag.place);
    }

    /// Receives once from each slot on the list, as far as a turn goes.
    pub(crate) fn receive_ready(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        self.ready.extend(self.resting.rested(now));
        for _ in 0..self.ready.len().min(RECEIVES_MAX) {
            let Some(slot) = self.ready.pop_front() else { return };
            let Some(state) = self.slots.slot_mut(slot) else { continue };
            state.flags.remove(Flags::LISTED);
            if state.flags.contains(Flags::WANTED | Flags::READABLE) {
                self.receive_once(now, slot, on_completion);
                self.list_if_ready(slot);
            }
        }
    }

    /// Receives from a connection later: the kernel has no memory for its bytes.
    pub(crate) fn receive_later(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.flags.insert(Flags::LISTED);
        self.resting.rest(now, slot);
    }

    fn receive_once(
        &mut self,
        now: Time,
        slot: Slot,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = self.slots.connection(slot);
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let Some(socket) = &state.socket else { return };
        self.counts.enters += 1;
        let outcome = match recv(socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((length @ 1.., _)) => {
                if length < self.buffer.len() && !state.has(Flags::MORE) {
                    state.flags.remove(Flags::READABLE);
                }
                if state.phase == Phase::Lingering {
                    return self.count_lingered(slot, length);
                }
                Reception::Bytes(&mut self.buffer[..length])
            }
            Ok(_) => Reception::Finished,
            Err(Errno::AGAIN) => {
                state.flags.remove(Flags::READABLE | Flags::MORE);
                return;
            }
            Err(errno) => match receive_failure(errno.raw_os_error()) {
                ReceiveFailure::Lost(failure) => Reception::Failed(failure),
                // In the next turn.
                ReceiveFailure::Passing => return,
                ReceiveFailure::Exhausted => return self.receive_later(now, slot),
            },
        };
        if !matches!(outcome, Reception::Bytes(_)) {
            state.flags.insert(Flags::ENDED);
            state.flags.remove(Flags::WANTED);
            if state.phase == Phase::Lingering {
                return self.end(slot);
            }
        }
        on_completion(now, Completion::Received { connection, outcome });
    }
}
