//! Receiving. An idle connection waits with a read of a few bytes in the ring, into a buffer of its
//! own, since tokio-uring has no poll and the kernel writes into what a waiting read brought along.
//! A read that fills it has probably left something: that is received at once, without the ring,
//! into the one buffer that all connections share. Read again is at the start of the next turn,
//! after the worker has parsed the bytes: most connections are closed at that moment, and then the
//! kernel holds nothing of them.
//!
//! A read cannot be taken back. After `StopReceiving` it stays, and may bring its few bytes.

use std::io;

use nix::errno::Errno;
use sockets::{ReceiveFailure, receive_failure};
use worker::{Completion, ConnectionId, Reception, Slot, Time};

use crate::{
    engine::TokioUringEngine,
    slots::{Flags, Phase},
    tasks::Start,
};

/// What a waiting read takes: most messages of a client that chats, and the head of larger ones.
pub(crate) const FIRST_BYTES: usize = 128;

/// Receives in a row from one connection before the others get their turn.
const RECEIVES_IN_ROW_MAX: usize = 4;

impl TokioUringEngine {
    pub(crate) fn receive(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection).filter(|state| !state.has(Flags::ENDED))
        else {
            return;
        };
        state.flags.insert(Flags::WANTED);
        self.list_to_read(connection.slot);
    }

    pub(crate) fn stop_receiving(&mut self, connection: ConnectionId) {
        if let Some(state) = self.slots.open_mut(connection) {
            state.flags.remove(Flags::WANTED);
        }
    }

    /// Puts a slot on the list of those to read from, unless a read waits: its end lists it.
    pub(crate) fn list_to_read(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.receives() && !state.flags.intersects(Flags::READING | Flags::LISTED) {
            state.flags.insert(Flags::LISTED);
            self.to_read.push(slot);
        }
    }

    /// Starts a read for every slot on the list that is still to be received from.
    pub(crate) fn start_reads(&mut self, now: Time) {
        self.to_read.extend(self.resting.rested(now));
        for slot in self.to_read.drain(..) {
            let connection = self.slots.connection(slot);
            let Some(state) = self.slots.slot_mut(slot) else { continue };
            state.flags.remove(Flags::LISTED);
            let Some(socket) = state.socket.clone().filter(|_| state.receives()) else { continue };
            if !state.has(Flags::READING) {
                state.flags.insert(Flags::READING);
                self.starts.push(Start::Read { connection, socket });
            }
        }
    }

    /// A read has ended.
    pub(crate) fn on_read(
        &mut self,
        now: Time,
        connection: ConnectionId,
        outcome: io::Result<Vec<u8>>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let slot = connection.slot;
        let Some(state) = self.slots.connection_mut(connection) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.flags.remove(Flags::READING);
        match outcome {
            // After that the socket is closed: what came is lost, as what comes is.
            _ if state.phase == Phase::Ending => self.close_if_idle(slot),
            Ok(bytes) if bytes.is_empty() => self.on_end(now, slot, None, on_completion),
            Ok(bytes) => self.on_first_bytes(now, slot, bytes, on_completion),
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                self.on_end(now, slot, Some(errno), on_completion);
            }
        }
        self.list_to_read(slot);
    }

    /// Hands the bytes of a read to the worker, together with what is behind them.
    fn on_first_bytes(
        &mut self,
        now: Time,
        slot: Slot,
        mut bytes: Vec<u8>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let receives = self.slots.slot_mut(slot).is_some_and(|state| state.receives());
        if bytes.len() < FIRST_BYTES || !receives {
            return self.hand_over(now, slot, &mut bytes, on_completion);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let mut filled = bytes.len();
        for _ in 0..RECEIVES_IN_ROW_MAX {
            let Some(state) = self.slots.slot_mut(slot).filter(|state| state.receives()) else {
                break;
            };
            let Some(socket) = &state.socket else { break };
            self.counts.enters += 1;
            let outcome = socket.receive(&mut buffer[filled..]);
            filled += outcome.unwrap_or(0);
            if filled > 0 {
                self.hand_over(now, slot, &mut buffer[..filled], on_completion);
            }
            if filled < buffer.len() {
                match outcome {
                    Ok(1..) => {}
                    Ok(0) => self.on_end(now, slot, None, on_completion),
                    Err(errno) => self.on_end(now, slot, Some(errno), on_completion),
                }
                break;
            }
            filled = 0;
        }
        self.buffer = buffer;
    }

    /// Reads from a connection later: the kernel has no memory for its bytes.
    fn receive_later(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.flags.insert(Flags::LISTED);
        self.resting.rest(now, slot);
    }

    /// Hands bytes to the worker, or throws them away.
    fn hand_over(
        &mut self,
        now: Time,
        slot: Slot,
        bytes: &mut [u8],
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = self.slots.connection(slot);
        match self.slots.slot_mut(slot).map(|state| state.phase) {
            Some(Phase::Open) => {
                let outcome = Reception::Bytes(bytes);
                on_completion(now, Completion::Received { connection, outcome });
            }
            Some(Phase::Lingering) => self.count_lingered(slot, bytes.len()),
            _ => {}
        }
    }

    /// The stream has ended, or failed.
    fn on_end(
        &mut self,
        now: Time,
        slot: Slot,
        errno: Option<Errno>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = self.slots.connection(slot);
        let outcome = match errno.map(|errno| receive_failure(errno as i32)) {
            None => Reception::Finished,
            Some(ReceiveFailure::Lost(failure)) => Reception::Failed(failure),
            // It is read again.
            Some(ReceiveFailure::Passing) => return,
            Some(ReceiveFailure::Exhausted) => return self.receive_later(now, slot),
        };
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.flags.insert(Flags::ENDED);
        state.flags.remove(Flags::WANTED);
        match state.phase {
            Phase::Open => on_completion(now, Completion::Received { connection, outcome }),
            Phase::Lingering => self.end(slot),
            _ => {}
        }
    }
}
