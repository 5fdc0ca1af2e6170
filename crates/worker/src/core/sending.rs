//! How bytes leave: at once where the socket takes them, else through a queue that lives only as
//! long as something is in it, within its bounds.

use bytes::{Bytes, BytesMut};
use wire::Message;

use super::{Core, Outgoing};
use crate::{
    breakage,
    connections::{Connection, Farewell, Flags, State},
    handler::Audience,
    operation::{Closing, ConnectionId, Failure, Lost, Operation, Slot, Taken},
    options::SlowConsumer,
    send_queue::{Content, Frame, SendQueue},
    stats::{CloseReason, DropReason, withdraw},
};

impl Core {
    /// Sends a message to an open connection, compressed if it may be and repays.
    pub(crate) fn send_message(&mut self, connection: ConnectionId, message: Message<'_>) {
        let Message { opcode, payload } = message;
        let window = self.connections.get(connection).and_then(|record| record.window);
        let window = window.filter(|_| self.compression.is_worth(payload.len()));
        let deflated = window.and_then(|it| self.compression.encode(opcode, payload, it));
        if let Some(frame) = &deflated {
            self.report.count_saved(1, wire::message_frame_bytes(payload.len()), frame);
        }
        let frame = deflated.unwrap_or_else(|| wire::encode_message(opcode, payload));
        self.send_messages(connection, frame, 1, None);
    }

    /// Sends whole frames that were published to this audience, if to any.
    pub(crate) fn send_messages(
        &mut self,
        connection: ConnectionId,
        frames: Bytes,
        messages: u32,
        audience: Option<Audience>,
    ) {
        let Some(record) = self.connections.get(connection) else { return };
        if record.state != State::Open {
            return;
        }
        self.report.messages_delivered += u64::from(messages);
        if record.is_busy() {
            self.enqueue(connection, frames, messages, Content::Messages(audience));
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
        self.enqueue(connection, frame, 0, Content::Control);
    }

    /// Queues frames for a connection that is busy.
    fn enqueue(&mut self, connection: ConnectionId, bytes: Bytes, messages: u32, content: Content) {
        let (charge, queued) = (self.frame_charge(), self.tick());
        let frame = Frame { bytes, messages, content, queued };
        self.with_queue(connection, |queue| queue.push(frame, charge));
        self.set_write_deadline(connection, false);
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
        let (charge, queued) = (self.frame_charge(), self.tick());
        let frame = Frame { bytes, messages: 0, content: Content::Opaque, queued };
        self.with_queue(connection, |queue| queue.push(frame, charge));
        self.flush(connection);
    }

    /// Sends what is queued, if the socket may take it.
    pub(super) fn flush(&mut self, connection: ConnectionId) {
        let bytes_max = self.options.limits.send_bytes_max as usize;
        let Some(record) = self.connections.get(connection) else { return };
        if record.has(Flags::SENDING) || record.has(Flags::UNWRITABLE) || record.queue().is_none() {
            return;
        }
        if let Some(bytes) =
            self.with_queue(connection, |queue| queue.poll_send(bytes_max)).flatten()
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
        match outcome {
            Err(failure) => {
                let charge = self.frame_charge();
                let lost = self.with_queue(connection, |queue| queue.fail_send(charge));
                self.count_dropped(lost.unwrap_or(0), DropReason::Gone);
                self.fail(connection, failure);
            }
            Ok(taken) => {
                let (charge, count) = (self.frame_charge(), taken.taken);
                self.report.sent_bytes += count as u64;
                self.with_queue(connection, |queue| queue.complete_send(count, charge));
                if count < taken.bytes.len() {
                    self.handle_unwritable(connection, count > 0);
                } else {
                    self.handle_progress(connection, true);
                }
            }
        }
    }

    pub(crate) fn handle_refused(
        &mut self,
        connection: ConnectionId,
        outcome: Result<Taken, Lost>,
    ) {
        if self.connections.get(connection).is_none() {
            return;
        }
        match outcome {
            Err(Lost { bytes, failure }) => {
                let (_, messages) = wire::message_boundary(&bytes, bytes.len());
                self.count_dropped(messages.into(), DropReason::Gone);
                self.uncount_sent(bytes.len());
                self.fail(connection, failure);
            }
            Ok(taken) => {
                // Only this policy asks, and the answer is looked for among all jobs.
                let is_latest = self.options.slow_consumer == SlowConsumer::Latest;
                let audience = if is_latest { self.fanout.audience_of(&taken.bytes) } else { None };
                let frame = Frame::refused(&taken, audience, self.tick());
                // All of it was counted when it was offered, in the last report maybe.
                self.uncount_sent(taken.bytes.len() - taken.taken);
                let Some(record) = self.connections.get_mut(connection) else { return };
                if record.has(Flags::TRUNCATED) && taken.taken == 0 {
                    // A message before it in the same batch was cut, and this has not begun either.
                    record.flags.insert(Flags::UNWRITABLE);
                    return self.count_dropped(frame.messages.into(), DropReason::SlowConsumer);
                }
                if record.state == State::Terminating {
                    let lost = frame.messages_left(taken.taken);
                    return self.count_dropped(lost, DropReason::Gone);
                }
                let charge = self.frame_charge();
                let count = taken.taken;
                if !(count > 0 && breakage::drops_rests()) {
                    self.with_queue(connection, |queue| queue.push_refused(frame, count, charge));
                }
                self.handle_unwritable(connection, count > 0);
            }
        }
    }

    /// So many bytes that were offered, and counted then, were not taken.
    fn uncount_sent(&mut self, bytes: usize) {
        if breakage::counts_refused_bytes() {
            return;
        }
        let report = &mut self.report;
        withdraw(&mut report.sent_bytes, &mut report.sent_bytes_withdrawn, bytes as u64);
    }

    /// The socket did not take all that it was given.
    fn handle_unwritable(&mut self, connection: ConnectionId, made_way: bool) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.flags.insert(Flags::UNWRITABLE);
        let state = record.state;
        self.connections.update_sending(connection.slot);
        if state == State::Open {
            self.set_write_deadline(connection, made_way);
            self.check_queue(connection);
        } else if made_way {
            self.set_deadline(connection, self.options.close_timeout);
        }
    }

    pub(crate) fn handle_writable(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.flags.remove(Flags::UNWRITABLE);
        self.handle_progress(connection, false);
    }

    /// The socket has taken everything that was sent, or may take more.
    fn handle_progress(&mut self, connection: ConnectionId, made_way: bool) {
        self.with_queue(connection, |_| ());
        self.flush(connection);
        let Some(record) = self.connections.get_mut(connection) else { return };
        match record.state {
            State::Open if record.queue().is_none() => {
                record.flags.remove(Flags::DEADLINE);
                breakage::ends_without_cause(self, connection);
            }
            State::Open => self.set_write_deadline(connection, made_way),
            State::Closing => {
                let is_said = record.queue().is_none() && !record.has(Flags::SENDING);
                self.set_deadline(connection, self.options.close_timeout);
                if is_said {
                    self.handle_last_words_sent(connection);
                }
            }
            State::Free
            | State::Announced
            | State::Handshaking
            | State::Waiting
            | State::Terminating => {}
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

    /// Holds the bound of a connection's queue.
    pub(super) fn check_queue(&mut self, connection: ConnectionId) {
        let Some(queue) = self.connections.get(connection).and_then(Connection::queue) else {
            return;
        };
        // Without the charge of one frame: the smallest bound takes one message of the greatest size.
        let mut bytes_max = self.options.limits.send_queue_bytes_max + self.frame_charge() as u64;
        if breakage::doubles_queue_bound() {
            bytes_max *= 2;
        }
        let mut bytes = queue.bytes() as u64;
        if self.options.slow_consumer != SlowConsumer::Close {
            bytes = self.drop_messages(connection, bytes_max);
        }
        if bytes > bytes_max {
            self.close(connection, CloseReason::SlowConsumer);
        }
    }

    /// Drops what the policy lets go of a queue, and returns how many bytes are left.
    fn drop_messages(&mut self, connection: ConnectionId, bytes_max: u64) -> u64 {
        let charge = self.frame_charge();
        let is_latest = self.options.slow_consumer == SlowConsumer::Latest;
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let dropped = self.with_queue(connection, |queue| {
            let replaced = if is_latest { queue.keep_latest(charge) } else { 0 };
            (replaced, queue.drop_oldest(bytes_max, charge), queue.bytes() as u64)
        });
        let (replaced, oldest, bytes) = dropped.unwrap_or_default();
        self.count_dropped(replaced, DropReason::Replaced);
        if !breakage::forgets_to_count_drops() {
            self.count_dropped(oldest, DropReason::Oldest);
        }
        bytes
    }
}
