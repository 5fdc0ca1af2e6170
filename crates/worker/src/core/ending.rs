//! How connections end: with last words and a farewell, or without. Each leaves the states it was
//! in through one function, and the table only when the engine has said `Closed`.

use bytes::{Bytes, BytesMut};
use wire::{CloseFrame, Upgrade};

use super::{Core, Outgoing};
use crate::{
    connections::{Connection, Farewell, Flags, State},
    operation::{Closing, ConnectionId, Failure, Operation},
    stats::{CloseReason, ClosedConnection, DropReason, RefusalReason, withdraw},
};

impl Core {
    /// Closes an open connection with a reason that has a Close frame.
    pub(crate) fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        let mut words = Vec::new();
        encode_close(reason, &mut words);
        self.begin_closing(connection, reason, Farewell::AwaitClose, words.into());
    }

    /// Says the last words of an open connection.
    pub(crate) fn begin_closing(
        &mut self,
        connection: ConnectionId,
        reason: CloseReason,
        farewell: Farewell,
        words: Bytes,
    ) {
        let Some(record) = self.connections.get(connection) else { return };
        if record.state != State::Open {
            return;
        }
        let (is_paused, has_finished) = (record.has(Flags::PAUSED), record.has(Flags::FINISHED));
        // What is kept is thrown away: its Close may be in it, and where its next frame begins is
        // not known any more.
        let farewell = if record.held_bytes() > 0 { Farewell::Linger } else { farewell };
        self.leave_open(connection, reason);
        if reason == CloseReason::SlowConsumer {
            let charge = self.frame_charge();
            let lost = self.with_queue(connection, |queue| queue.truncate(charge)).unwrap_or(0);
            self.count_dropped(lost, DropReason::SlowConsumer);
            if let Some(record) = self.connections.get_mut(connection) {
                record.flags.insert(Flags::TRUNCATED);
            }
        }
        self.say_last_words(connection, farewell, words);
        if has_finished {
            self.handle_peer_done(connection);
        } else if is_paused {
            self.outbox.push(Outgoing::Operation(Operation::Receive { connection }));
        }
    }

    /// Refuses a handshake with a response.
    pub(crate) fn refuse(
        &mut self,
        connection: ConnectionId,
        refusal: Option<RefusalReason>,
        response: Bytes,
    ) {
        self.leave_handshake(connection);
        if let Some(refusal) = refusal {
            self.report.refused[refusal as usize] += 1;
        }
        self.say_last_words(connection, Farewell::Linger, response);
    }

    /// Refuses a handshake in the words of an upgrade: the 101 and, behind it, a Close frame.
    pub(crate) fn dismiss(
        &mut self,
        connection: ConnectionId,
        upgrade: &Upgrade,
        close: CloseReason,
        refusal: RefusalReason,
    ) {
        self.leave_handshake(connection);
        self.report.refused[refusal as usize] += 1;
        let mut words = upgrade.response.to_vec();
        encode_close(close, &mut words);
        self.say_last_words(connection, Farewell::AwaitClose, words.into());
    }

    /// Refuses a handshake without a word.
    pub(crate) fn reset_handshake(&mut self, connection: ConnectionId, refusal: RefusalReason) {
        self.leave_handshake(connection);
        self.report.refused[refusal as usize] += 1;
        self.terminate(connection, Closing::Abort);
    }

    /// Refuses a handshake for a reason whose response needs no words of the handler.
    pub(crate) fn refuse_with(
        &mut self,
        connection: ConnectionId,
        refusal: RefusalReason,
        headers: &[(&str, &str)],
        text: &str,
    ) {
        let status = refusal.status();
        self.refuse(connection, Some(refusal), wire::encode_response(status, headers, text));
    }

    pub(super) fn say_last_words(
        &mut self,
        connection: ConnectionId,
        farewell: Farewell,
        words: Bytes,
    ) {
        if let Some(record) = self.connections.get_mut(connection) {
            record.state = State::Closing;
            record.farewell = farewell;
        }
        self.set_deadline(connection, self.options.close_timeout);
        self.send_alone(connection, words);
    }

    /// The peer has sent Close, or what amounts to it, on a connection that is closing.
    pub(crate) fn handle_peer_done(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.state != State::Closing {
            return;
        }
        record.farewell = Farewell::Finish;
        if record.queue().is_none() && !record.has(Flags::SENDING) {
            self.terminate(connection, Closing::Finish);
        }
    }

    /// What the peer sends on a connection that was waiting for its Close means nothing any more.
    pub(crate) fn handle_peer_done_badly(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.state == State::Closing && record.farewell == Farewell::AwaitClose {
            record.farewell = Farewell::Linger;
            if record.queue().is_none() && !record.has(Flags::SENDING) {
                self.handle_last_words_sent(connection);
            }
        }
    }

    /// The peer's FIN.
    pub(crate) fn handle_finished(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.flags.insert(Flags::FINISHED);
        match record.state {
            State::Announced | State::Handshaking => {
                self.leave_handshake(connection);
                self.report.refused[RefusalReason::Gone as usize] += 1;
                self.terminate(connection, Closing::Finish);
            }
            // What it sent before is still to be handled.
            State::Waiting => {}
            State::Open if record.has(Flags::PAUSED) || record.held_bytes() > 0 => {}
            State::Open => {
                self.leave_open(connection, CloseReason::PeerGone);
                self.drop_queue(connection, DropReason::Gone);
                self.terminate(connection, Closing::Finish);
            }
            State::Closing => self.handle_peer_done(connection),
            State::Free | State::Terminating => {}
        }
    }

    /// The socket is broken.
    pub(crate) fn fail(&mut self, connection: ConnectionId, failure: Failure) {
        if let Some(record) = self.connections.get_mut(connection) {
            record.flags.insert(Flags::FINISHED);
        }
        self.cut(
            connection,
            match failure {
                Failure::Reset => CloseReason::Reset,
                Failure::TimedOut => CloseReason::TimedOut,
                Failure::Unreachable => CloseReason::Unreachable,
                Failure::Other(_) => CloseReason::Failed,
            },
        );
    }

    /// Ends a connection without a word.
    pub(crate) fn cut(&mut self, connection: ConnectionId, reason: CloseReason) {
        match self.connections.get(connection).map(|it| it.state) {
            Some(State::Open) => self.leave_open(connection, reason),
            Some(State::Announced | State::Handshaking | State::Waiting) => {
                self.leave_handshake(connection);
                self.report.refused[RefusalReason::Gone as usize] += 1;
            }
            Some(State::Closing) => {}
            Some(State::Free | State::Terminating) | None => return,
        }
        let dropped = match reason {
            CloseReason::OverBudget => DropReason::OverBudget,
            CloseReason::Stalled => DropReason::Stalled,
            CloseReason::NoPong => DropReason::NoPong,
            _ => DropReason::Gone,
        };
        self.drop_queue(connection, dropped);
        self.terminate(connection, Closing::Abort);
    }

    pub(super) fn leave_open(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.connections.count_no_longer_open(connection.slot);
        self.report.closed[reason as usize] += 1;
        self.release_held(connection);
        self.closed.push((connection, reason));
    }

    pub(super) fn leave_handshake(&mut self, connection: ConnectionId) {
        self.handshakes -= 1;
        if let Some(held) = self.connections.get_mut(connection).and_then(Connection::take_held) {
            self.head_bytes -= held.len();
        }
    }

    /// Gives up what is kept of what a connection has sent, and its pause.
    pub(crate) fn release_held(&mut self, connection: ConnectionId) -> Option<BytesMut> {
        let record = self.connections.get_mut(connection)?;
        if record.lower(Flags::PAUSED) {
            self.paused -= 1;
        }
        let held = record.take_held()?;
        self.partial_bytes -= held.len();
        Some(held)
    }

    /// Hands the connection to the engine to be ended: nothing is sent or read any more.
    pub(super) fn terminate(&mut self, connection: ConnectionId, how: Closing) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.state = State::Terminating;
        record.flags.remove(Flags::DEADLINE);
        record.flags.remove(Flags::SENDING);
        record.flags.remove(Flags::UNWRITABLE);
        self.partial_bytes -= std::mem::take(&mut record.decoder).buffered_bytes();
        debug_assert!(record.queue().is_none(), "a queue has left, or has been dropped");
        self.connections.update_sending(connection.slot);
        self.outbox.push(Outgoing::Operation(Operation::Close { connection, how }));
    }

    /// Throws away what has not left.
    fn drop_queue(&mut self, connection: ConnectionId, reason: DropReason) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.queue().is_some() {
            let queue = record.with_queue(std::mem::take);
            self.send_queue_bytes -= queue.bytes();
            self.count_dropped(queue.messages(), reason);
        }
    }

    pub(super) fn count_dropped(&mut self, messages: u64, reason: DropReason) {
        let report = &mut self.report;
        report.messages_dropped[reason as usize] += messages;
        withdraw(&mut report.messages_delivered, &mut report.messages_withdrawn, messages);
    }

    /// Notes a close for the log, unless there are too many.
    pub(crate) fn note_close(
        &mut self,
        connection: ConnectionId,
        reason: CloseReason,
        purpose: impl FnOnce() -> String,
    ) {
        if reason.is_ordinary() {
            return;
        }
        let logged = self.report.closes.iter().filter(|it| it.reason == reason).count();
        if logged >= self.options.limits.closes_logged_max as usize {
            self.report.closes_unlogged[reason as usize] += 1;
            return;
        }
        let peer = self.connections.identity(connection.slot).peer();
        self.report.closes.push(ClosedConnection { connection, peer, purpose: purpose(), reason });
    }
}

/// The Close frame of a reason that has one.
fn encode_close(reason: CloseReason, words: &mut Vec<u8>) {
    let (code, text) = reason.close().unwrap_or((wire::CloseCode::INTERNAL_ERROR, ""));
    wire::encode_close(Some(CloseFrame { code, reason: text }), words);
}
