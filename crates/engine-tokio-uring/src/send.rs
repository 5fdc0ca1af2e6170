//! Sends and offers: the socket is given the bytes when they are submitted, and takes what it has
//! room for. What it refuses is told in the next `wait`, before anything else, and nothing more is
//! sent to it until then: the rest must be the next bytes. Then a task watches the socket for room.
//!
//! The ring has no part in it: a WRITE of tokio-uring waits in the kernel where the socket is full,
//! whether the socket blocks or not, and nothing could take the bytes back.

use std::convert::Infallible;

use bytes::Bytes;
use nix::errno::Errno;
use sockets::failure;
use tokio::sync::oneshot;
use worker::{Completion, ConnectionId, Failure, Lost, Slot, Taken, Time};

use crate::{
    engine::TokioUringEngine,
    slots::{Flags, Phase},
    tasks::Start,
};

/// What became of one send or of one target of an offer.
#[derive(Debug)]
pub(crate) struct Decided {
    connection: ConnectionId,
    /// True exactly when it was a `Send`.
    sent: bool,
    bytes: Bytes,
    /// How many of the bytes were taken.
    taken: Result<usize, Failure>,
}

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
        let Some(socket) = state.socket.as_ref().filter(|_| !state.flags.contains(Flags::REFUSED))
        else {
            return Ok(0);
        };
        self.counts.enters += 1;
        let taken = match socket.send(bytes) {
            Ok(taken) => Ok(taken),
            // A kernel without memory for the bytes has refused them.
            Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS | Errno::EINTR) => Ok(0),
            Err(errno) => Err(failure(errno as i32)),
        };
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
        for Decided { connection, sent, bytes, taken } in decided.drain(..) {
            let Some(state) = self.slots.open_mut(connection) else { continue };
            state.flags.remove(Flags::REFUSED);
            if taken.is_ok_and(|taken| taken < bytes.len()) {
                self.watch(connection);
            }
            let completion = match (sent, taken) {
                (true, taken) => {
                    let outcome = taken.map(|taken| Taken { bytes, taken });
                    Completion::Sent { connection, outcome }
                }
                (false, Ok(taken)) => {
                    Completion::Refused { connection, outcome: Ok(Taken { bytes, taken }) }
                }
                (false, Err(failure)) => {
                    Completion::Refused { connection, outcome: Err(Lost { bytes, failure }) }
                }
            };
            on_completion(now, completion);
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
