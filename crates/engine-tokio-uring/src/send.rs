//! Sends and offers: the socket is given the bytes when they are submitted, and takes what it has
//! room for. What it refuses is told in the next `wait`, before anything else, and nothing more is
//! sent to it until then: the rest must be the next bytes. Then a task watches the socket for room.
//!
//! The ring has no part in it: a WRITE of tokio-uring waits in the kernel where the socket is full,
//! whether the socket blocks or not, and nothing could take the bytes back.

use std::convert::Infallible;

use bytes::Bytes;
use sockets::{Decided, refused};
use tokio::sync::oneshot;
use worker::{Completion, ConnectionId, Failure, Slot, Time};

use crate::{
    engine::TokioUringEngine,
    slots::{Flags, Phase},
    tasks::Start,
};

impl TokioUringEngine {
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
        let taken = socket.send(bytes).or_else(|errno| refused(errno as i32));
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
                self.watch(decided.connection);
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

    /// Has a task watch the socket for room.
    fn watch(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection).filter(|it| !it.has(Flags::WATCHED))
        else {
            return;
        };
        let Some(socket) = state.socket.clone() else { return };
        let (watch, end) = oneshot::channel::<Infallible>();
        state.watch = Some(watch);
        state.flags.insert(Flags::WATCHED);
        self.starts.push(Start::Watch { connection, socket, end });
    }

    /// The socket takes bytes again, or has failed, which the next send will say; or nobody asks.
    pub(crate) fn on_watched(
        &mut self,
        now: Time,
        connection: ConnectionId,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(state) = self.slots.connection_mut(connection) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.flags.remove(Flags::WATCHED);
        state.watch = None;
        if state.phase == Phase::Open {
            on_completion(now, Completion::Writable { connection });
        }
        self.close_if_idle(connection.slot);
    }
}
