//! How bytes leave: at once where the socket takes them, else through a queue that lives only as
//! long as something is in it, within its bounds.

use bytes::{Bytes, BytesMut};

use super::{Core, Outgoing};
use crate::{
    connections::{Connection, Farewell, Flags, State},
    operation::{Closing, ConnectionId, Failure, Operation, Slot, Taken},
    send_queue::{InFlight, SendQueue},
    stats::{CloseReason, DropReason},
};

impl Core {
    /// Sends whole frames to an open connection, behind what is queued for it.
    pub(crate) fn send(&mut self, connection: ConnectionId, frame: Bytes) {
        self.send_messages(connection, frame, 1);
    }

    pub(crate) fn send_messages(&mut self, connection: ConnectionId, frames: Bytes, messages: u32) {
        let Some(record) = self.connections.get(connection) else { return };
        if record.state != State::Open {
            return;
        }
        self.report.messages_delivered += u64::from(messages);
        if record.is_busy() {
            self.enqueue(connection, frames, messages);
        } else {
            self.reply(connection.slot, frames);
        }
    }

    /// Sends a control frame, before data that has not begun to leave.
    pub(crate) fn send_control(&mut self, connection: ConnectionId, frame: Bytes) {
        let Some(record) = self.connections.get(connection) else { return };
        if record.state != State::Open {
            return;
        }
        if !record.is_busy() {
            return self.reply(connection.slot, frame);
        }
        let (charge, tick) = (self.frame_charge(), self.tick());
        self.with_queue(connection, |queue| queue.push_control(frame, tick, charge));
        self.check_queue(connection);
    }

    /// Queues frames for a connection that is busy.
    pub(crate) fn enqueue(&mut self, connection: ConnectionId, frames: Bytes, messages: u32) {
        let (charge, tick) = (self.frame_charge(), self.tick());
        let is_first = self.connections.get(connection).is_some_and(|it| it.queue().is_none());
        self.with_queue(connection, |queue| queue.push(frames, messages, tick, charge));
        if is_first {
            self.set_deadline(connection, self.options.write_timeout);
        }
        self.check_queue(connection);
    }

    pub(super) fn reply(&mut self, slot: Slot, frames: Bytes) {
        if let Some(Outgoing::Reply(last, bytes)) = self.outbox.last_mut()
            && *last == slot
        {
            let mut joined = std::mem::take(bytes)
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            joined.extend_from_slice(&frames);
            *bytes = joined.freeze();
            return;
        }
        self.outbox.push(Outgoing::Reply(slot, frames));
    }

    /// Sends what is not made of frames, or is the last: its completion is awaited.
    pub(super) fn send_alone(&mut self, connection: ConnectionId, bytes: Bytes) {
        let (charge, tick) = (self.frame_charge(), self.tick());
        self.with_queue(connection, |queue| queue.push_opaque(bytes, tick, charge));
        self.flush(connection);
    }

    /// Sends what is queued, if the socket may take it.
    pub(super) fn flush(&mut self, connection: ConnectionId) {
        let (bytes_max, charge) =
            (self.options.limits.send_bytes_max as usize, self.frame_charge());
        let Some(record) = self.connections.get(connection) else { return };
        if record.has(Flags::SENDING) || record.has(Flags::UNWRITABLE) || record.queue().is_none() {
            return;
        }
        if let Some(bytes) =
            self.with_queue(connection, |queue| queue.poll_send(bytes_max, charge)).flatten()
        {
            if let Some(record) = self.connections.get_mut(connection) {
                record.flags.insert(Flags::SENDING);
            }
            self.outbox.push(Outgoing::Operation(Operation::Send { connection, bytes }));
        }
        self.connections.update_sending(connection.slot);
    }

    pub(crate) fn handle_sent(
        &mut self,
        connection: ConnectionId,
        outcome: Result<Taken, Failure>,
    ) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if !record.has(Flags::SENDING) {
            return;
        }
        record.flags.remove(Flags::SENDING);
        let sent = self.with_queue(connection, SendQueue::complete_send).flatten();
        match (outcome, sent) {
            (Err(failure), _) => self.fail(connection, failure),
            (Ok(taken), Some(sent)) => {
                self.report.sent_bytes += taken.taken as u64;
                if taken.taken < taken.bytes.len() {
                    self.put_back(connection, taken, sent);
                } else {
                    self.handle_progress(connection);
                }
            }
            (Ok(_), None) => {}
        }
    }

    pub(crate) fn handle_refused(
        &mut self,
        connection: ConnectionId,
        outcome: Result<Taken, Failure>,
    ) {
        if self.connections.get(connection).is_none() {
            return;
        }
        match outcome {
            Err(failure) => self.fail(connection, failure),
            Ok(taken) => {
                let (_, messages) = wire::message_boundary(&taken.bytes, taken.bytes.len());
                let as_sent = InFlight::unqueued(0, messages, self.tick());
                self.report.sent_bytes += taken.taken as u64;
                if let Some(record) = self.connections.get_mut(connection)
                    && record.has(Flags::TRUNCATED)
                    && taken.taken == 0
                {
                    // A message before it in the same batch was cut, and this has not begun either.
                    record.flags.insert(Flags::UNWRITABLE);
                    return self.count_dropped(messages.into(), DropReason::SlowConsumer);
                }
                self.put_back(connection, taken, as_sent);
            }
        }
    }

    pub(super) fn put_back(&mut self, connection: ConnectionId, taken: Taken, as_sent: InFlight) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.state == State::Terminating {
            return;
        }
        record.flags.insert(Flags::UNWRITABLE);
        let is_open = record.state == State::Open;
        let (charge, made_way) = (self.frame_charge(), taken.taken > 0);
        self.with_queue(connection, |queue| queue.push_rest(taken, as_sent, charge));
        if is_open {
            self.set_write_deadline(connection);
            self.check_queue(connection);
        } else if made_way {
            self.set_deadline(connection, self.options.close_timeout);
        }
    }

    pub(crate) fn handle_writable(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.flags.remove(Flags::UNWRITABLE);
        self.handle_progress(connection);
    }

    /// The socket has taken everything that was sent, or may take more.
    pub(super) fn handle_progress(&mut self, connection: ConnectionId) {
        self.with_queue(connection, |_| ());
        self.flush(connection);
        let Some(record) = self.connections.get_mut(connection) else { return };
        match record.state {
            State::Open if record.queue().is_none() => record.flags.remove(Flags::DEADLINE),
            State::Open => self.set_write_deadline(connection),
            State::Closing => {
                let is_said = record.queue().is_none() && !record.has(Flags::SENDING);
                self.set_deadline(connection, self.options.close_timeout);
                if is_said {
                    self.handle_last_words_sent(connection);
                }
            }
            State::Free | State::Handshaking | State::Terminating => {}
        }
    }

    pub(super) fn handle_last_words_sent(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get(connection) else { return };
        match record.farewell {
            Farewell::AwaitClose => {}
            Farewell::Finish => self.terminate(connection, Closing::Finish),
            Farewell::Linger => {
                self.terminate(connection, Closing::Linger);
                self.set_deadline(connection, self.options.close_timeout);
            }
        }
    }

    /// Changes a connection's queue, making and unmaking it, and keeps the sums true.
    pub(super) fn with_queue<R>(
        &mut self,
        connection: ConnectionId,
        change: impl FnOnce(&mut SendQueue) -> R,
    ) -> Option<R> {
        let record = self.connections.get_mut(connection)?;
        let (before, after, result) = record.with_queue(|queue| {
            let before = queue.bytes();
            let result = change(queue);
            (before, queue.bytes(), result)
        });
        self.send_queue_bytes = self.send_queue_bytes + after - before;
        self.connections.update_sending(connection.slot);
        Some(result)
    }

    pub(super) fn frame_charge(&self) -> usize {
        self.options.limits.send_queue_frame_charge_bytes as usize
    }

    /// Holds the bounds of a connection's queue and of all queues.
    pub(super) fn check_queue(&mut self, connection: ConnectionId) {
        let Some(queue) = self.connections.get(connection).and_then(Connection::queue) else {
            return;
        };
        // Without the charge of one frame: the smallest bound takes one message of the greatest size.
        let bytes = queue.bytes().saturating_sub(self.frame_charge());
        if bytes as u64 > self.options.limits.send_queue_bytes_max {
            self.close(connection, CloseReason::SlowConsumer);
        }
        while self.send_queue_bytes as u64 > self.options.limits.send_queue_total_bytes_max {
            let Some(debtor) = self.worst_debtor() else { return };
            self.cut(debtor, CloseReason::OverBudget);
        }
    }

    /// Who has the most bytes queued for the longest time.
    pub(super) fn worst_debtor(&self) -> Option<ConnectionId> {
        let tick = self.tick();
        let debt = |slot: Slot| {
            let queue = self.connections.record(slot as usize).queue()?;
            let age = queue.oldest().map_or(0, |oldest| tick.since(oldest).as_millis());
            Some((queue.bytes() as u128 * (age + 1), slot))
        };
        let (_, slot) = self.connections.queued().iter().filter_map(debt).max()?;
        self.connections.id_at(slot)
    }
}
