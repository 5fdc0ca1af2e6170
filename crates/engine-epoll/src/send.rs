//! Sends and offers: the socket is given the bytes when they are submitted, and takes what it has
//! room for. What it refuses is told in the next `wait`, before anything else, and nothing more is
//! sent to it until then: the rest must be the next bytes. Only while a socket owes `Writable` does
//! epoll watch for room in it.

use bytes::Bytes;
use rustix::{
    event::epoll::{self, EventFlags},
    net::{SendFlags, send},
};
use sockets::{Decided, refused};
use worker::{Completion, ConnectionId, Failure, Slot, Time};

use crate::{
    engine::EpollEngine,
    receive::WATCHED,
    slots::{Flags, Phase, Tag},
};

impl EpollEngine {
    pub(crate) fn send(&mut self, connection: ConnectionId, bytes: Bytes) {
        if self.slots.open_mut(connection).is_some() {
            let taken = self.put(connection.slot, &bytes);
            self.decided.push(Decided { connection, sent: true, bytes, taken });
        }
    }

    pub(crate) fn offer(&mut self, frame: &Bytes, targets: &[Slot]) {
        for &slot in targets {
            self.offered += 1;
            if self.slots.slot_mut(slot).is_none_or(|state| state.phase != Phase::Open) {
                continue;
            }
            let taken = self.put(slot, frame);
            if taken != Ok(frame.len()) {
                let connection = self.slots.connection(slot);
                let bytes = frame.clone();
                self.decided.push(Decided { connection, sent: false, bytes, taken });
            }
        }
    }

    /// Gives a socket bytes; says how many it has taken. Behind bytes that were refused it takes
    /// none, though it may have room by now.
    #[inline]
    fn put(&mut self, slot: Slot, bytes: &[u8]) -> Result<usize, Failure> {
        let Some(state) = self.slots.slot_mut(slot) else { return Ok(0) };
        let Some(socket) = state.socket.as_ref().filter(|_| !state.has(Flags::REFUSED)) else {
            return Ok(0);
        };
        self.counts.enters += 1;
        let taken = send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            .or_else(|errno| refused(errno.raw_os_error()));
        if taken != Ok(bytes.len()) {
            state.flags.insert(Flags::REFUSED);
        }
        taken
    }

    /// Tells the worker what was decided, before anything else of the turn.
    pub(crate) fn deliver_decided(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let mut decided = std::mem::take(&mut self.decided);
        for decided in decided.drain(..) {
            let Some(state) = self.slots.open_mut(decided.connection) else { continue };
            state.flags.remove(Flags::REFUSED);
            if decided.is_short() {
                self.owe_writable(decided.connection);
            }
            on_completion(now, decided.into_completion());
        }
        // Telling decides nothing: the room is kept.
        self.decided = decided;
        let targets = std::mem::take(&mut self.offered);
        if targets > 0 {
            on_completion(now, Completion::Offered { targets });
        }
    }

    /// Has epoll say when the socket takes bytes again; it says so too where that is now.
    fn owe_writable(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection) else { return };
        if !state.has(Flags::OWES_WRITABLE) {
            state.flags.insert(Flags::OWES_WRITABLE);
            self.watch(connection, WATCHED | EventFlags::OUT);
        }
    }

    /// The socket takes bytes again, or has failed. What lingers is owed nothing.
    pub(crate) fn deliver_writable(
        &mut self,
        now: Time,
        connection: ConnectionId,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(state) = self.slots.connection_mut(connection) else { return };
        state.flags.remove(Flags::OWES_WRITABLE);
        let open = state.phase == Phase::Open;
        self.watch(connection, WATCHED);
        if open {
            on_completion(now, Completion::Writable { connection });
        }
    }

    /// Changes what epoll watches a socket for.
    fn watch(&mut self, connection: ConnectionId, flags: EventFlags) {
        let Some(state) = self.slots.connection_mut(connection) else { return };
        let Some(socket) = &state.socket else { return };
        self.counts.enters += 1;
        // It is watched already, and a change needs no memory.
        if let Err(error) = epoll::modify(&self.epoll, socket, Tag::from(connection).pack(), flags)
        {
            self.fail(std::io::Error::other(format!("epoll_ctl failed: {error}")));
        }
    }
}
