//! What a worker knows and does without its handler: how connections begin, are sent to, and end.
//! What is to go to the engine gathers in an outbox, in order, until the turn hands it over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mesh::Member;
use rand::{Rng, SeedableRng, rngs::StdRng};
use wire::{CloseFrame, StatusCode};

use crate::{
    connections::{Connection, Connections, Farewell, Held, Identity, State},
    fanout::Fanout,
    handler::{Audience, Readiness},
    heartbeat::Heartbeat,
    operation::{Closing, ConnectionId, Failure, ListenerId, Operation, Slot, Taken, Time},
    options::Options,
    publication::Publication,
    send_queue::{InFlight, SendQueue},
    stats::{CloseReason, ClosedConnection, Gauges, RefusalReason, Report, Stage},
    wheel::{TICK, Tick, Wheel},
};

/// Something for the engine.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Operation(Operation<'static>),
    /// A frame for one connection, as an offer: nothing more is heard of it when it is taken.
    Reply(Slot, Bytes),
}

/// A worker without its handler.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) connections: Connections,
    pub(crate) fanout: Fanout,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) wheel: Wheel,
    pub(crate) outbox: Vec<Outgoing>,
    /// Connections that are no longer open, of which the handler has not been told.
    pub(crate) closed: Vec<(ConnectionId, CloseReason)>,
    /// Connections that were told to go on.
    pub(crate) resumed: Vec<ConnectionId>,
    pub(crate) report: Box<Report>,
    pub(crate) drain: Option<Drain>,
    pub(crate) listeners_open: u16,
    pub(crate) handshakes: u32,
    pub(crate) head_bytes: usize,
    pub(crate) partial_bytes: usize,
    pub(crate) paused: u32,
    /// Publications of clients of this worker in this turn, for the `encode` stage.
    pub(crate) publications_received: u32,
    send_queue_bytes: usize,
    /// The slot from which connections are next looked at for their age, and when they last were.
    age_next: usize,
    age_looked: Tick,
    started: Time,
    now: Time,
    turn_started: Time,
    /// By how much turns came late in all: peers are not blamed for it.
    late: Duration,
}

/// Closing everyone, evenly.
#[derive(Debug)]
pub(crate) struct Drain {
    started: Tick,
    over: Duration,
    next: usize,
}

/// A turn that comes so much later than it wanted to did not run: its peers are given the time.
const LATE_MIN: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) fn new(options: Options, member: Member, now: Time) -> Self {
        let limits = &options.limits;
        let slots = options.connections_max as usize + limits.surplus_connections_max as usize;
        let outbox = (0..options.listeners)
            .map(|listener| Operation::Accept { listener: ListenerId(listener) })
            .map(Outgoing::Operation)
            .collect();
        let joined_bytes_max = limits.coalesce_bytes_max as usize;
        Self {
            connections: Connections::new(slots),
            fanout: Fanout::new(member, options.coalesce_delay, joined_bytes_max),
            heartbeat: options
                .ping_interval
                .map(|interval| Heartbeat::new(interval, options.pong_timeout, Tick(0))),
            wheel: Wheel::new(),
            outbox,
            closed: Vec::new(),
            resumed: Vec::new(),
            report: Box::default(),
            drain: None,
            listeners_open: options.listeners,
            handshakes: 0,
            head_bytes: 0,
            partial_bytes: 0,
            paused: 0,
            publications_received: 0,
            send_queue_bytes: 0,
            age_next: 0,
            age_looked: Tick(0),
            started: now,
            now,
            turn_started: now,
            late: Duration::ZERO,
            options,
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The peers' clock: it stands still while the worker does.
    pub(crate) fn tick(&self) -> Tick {
        Tick::at(self.now.since(self.started).saturating_sub(self.late))
    }

    /// A batch was collected at `now`, by a wait that was to end at `deadline`.
    pub(crate) fn begin_turn(&mut self, now: Time, deadline: Time) {
        let late = now.since(self.now.max(deadline));
        if late > LATE_MIN {
            self.late += late;
        }
        self.now = self.now.max(now);
        self.turn_started = self.now;
        self.publications_received = 0;
    }

    /// The handling of a turn's input is over.
    pub(crate) fn end_input(&mut self, now: Time) {
        if self.publications_received > 0 {
            let span = now.since(self.turn_started);
            self.report.record_many(Stage::Encode, span, self.publications_received);
        }
    }

    /// The turn is over.
    pub(crate) fn end_turn(&mut self, now: Time) {
        self.report.record(Stage::Turn, now.since(self.turn_started));
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.drain {
            Some(_) => Readiness::Draining,
            None if self.connections.open() >= self.options.connections_max => Readiness::Full,
            None => Readiness::Ready,
        }
    }

    // Beginning.

    pub(crate) fn accept(&mut self, connection: ConnectionId, identity: Identity) {
        let tick = self.tick();
        self.connections.insert(connection, identity, tick);
        self.handshakes += 1;
        self.set_deadline(connection, self.options.handshake_timeout);
        self.outbox.push(Outgoing::Operation(Operation::Receive { connection }));
    }

    /// The upgrade is accepted: its 101 leaves before anything else.
    pub(crate) fn open(&mut self, connection: ConnectionId, response: Bytes) {
        let accepted = self.connections.identity(connection.slot).accepted;
        self.report.record(Stage::Handshake, self.now.since(accepted));
        self.report.opened += 1;
        self.handshakes -= 1;
        self.connections.count_open();
        if let Some(record) = self.connections.get_mut(connection) {
            record.state = State::Open;
            record.has_deadline = false;
        }
        self.send_alone(connection, response);
    }

    // Sending.

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
        self.check_queue(connection, 0);
    }

    /// Queues frames for a connection that is busy.
    pub(crate) fn enqueue(&mut self, connection: ConnectionId, frames: Bytes, messages: u32) {
        let (charge, tick) = (self.frame_charge(), self.tick());
        let is_first = self.connections.get(connection).is_some_and(|it| it.queue.is_none());
        self.with_queue(connection, |queue| queue.push(frames, messages, tick, charge));
        if is_first {
            self.set_deadline(connection, self.options.write_timeout);
        }
        self.check_queue(connection, messages);
    }

    fn reply(&mut self, slot: Slot, frames: Bytes) {
        if let Some(Outgoing::Reply(last, bytes)) = self.outbox.last_mut()
            && *last == slot
        {
            let mut joined = std::mem::take(bytes)
                .try_into_mut()
                .unwrap_or_else(|shared| bytes::BytesMut::from(&shared[..]));
            joined.extend_from_slice(&frames);
            *bytes = joined.freeze();
            return;
        }
        self.outbox.push(Outgoing::Reply(slot, frames));
    }

    /// Sends what is not made of frames, or is the last: its completion is awaited.
    fn send_alone(&mut self, connection: ConnectionId, bytes: Bytes) {
        let (charge, tick) = (self.frame_charge(), self.tick());
        self.with_queue(connection, |queue| queue.push_opaque(bytes, tick, charge));
        self.flush(connection);
    }

    /// Sends what is queued, if the socket may take it.
    fn flush(&mut self, connection: ConnectionId) {
        let (bytes_max, charge) =
            (self.options.limits.send_bytes_max as usize, self.frame_charge());
        let Some(record) = self.connections.get(connection) else { return };
        if record.is_sending || record.is_unwritable || record.queue.is_none() {
            return;
        }
        if let Some(bytes) =
            self.with_queue(connection, |queue| queue.poll_send(bytes_max, charge)).flatten()
        {
            if let Some(record) = self.connections.get_mut(connection) {
                record.is_sending = true;
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
        if !record.is_sending {
            return;
        }
        record.is_sending = false;
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
                self.put_back(connection, taken, as_sent);
            }
        }
    }

    fn put_back(&mut self, connection: ConnectionId, taken: Taken, as_sent: InFlight) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.state == State::Terminating {
            return;
        }
        record.is_unwritable = true;
        let is_open = record.state == State::Open;
        let (charge, messages, made_way) = (self.frame_charge(), as_sent.messages, taken.taken > 0);
        self.with_queue(connection, |queue| queue.push_rest(taken, as_sent, charge));
        if is_open {
            self.set_write_deadline(connection);
            self.check_queue(connection, messages);
        } else if made_way {
            self.set_deadline(connection, self.options.close_timeout);
        }
    }

    pub(crate) fn handle_writable(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.is_unwritable = false;
        self.handle_progress(connection);
    }

    /// The socket has taken everything that was sent, or may take more.
    fn handle_progress(&mut self, connection: ConnectionId) {
        self.with_queue(connection, |_| ());
        self.flush(connection);
        let Some(record) = self.connections.get_mut(connection) else { return };
        match record.state {
            State::Open if record.queue.is_none() => record.has_deadline = false,
            State::Open => self.set_write_deadline(connection),
            State::Closing => {
                let is_said = record.queue.is_none() && !record.is_sending;
                self.set_deadline(connection, self.options.close_timeout);
                if is_said {
                    self.handle_last_words_sent(connection);
                }
            }
            State::Free | State::Handshaking | State::Terminating => {}
        }
    }

    fn handle_last_words_sent(&mut self, connection: ConnectionId) {
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
    fn with_queue<R>(
        &mut self,
        connection: ConnectionId,
        change: impl FnOnce(&mut SendQueue) -> R,
    ) -> Option<R> {
        let record = self.connections.get_mut(connection)?;
        let mut queue = record.queue.take().unwrap_or_default();
        self.send_queue_bytes -= queue.bytes();
        let result = change(&mut queue);
        self.send_queue_bytes += queue.bytes();
        if !queue.is_empty() {
            record.queue = Some(queue);
        }
        self.connections.update_sending(connection.slot);
        Some(result)
    }

    fn frame_charge(&self) -> usize {
        self.options.limits.send_queue_frame_charge_bytes as usize
    }

    /// Holds the bounds of a connection's queue and of all queues.
    fn check_queue(&mut self, connection: ConnectionId, messages: u32) {
        let Some(queue) = self.connections.get(connection).and_then(|it| it.queue.as_ref()) else {
            return;
        };
        let _ = messages;
        if queue.bytes() as u64 > self.options.limits.send_queue_bytes_max {
            self.close(connection, CloseReason::SlowConsumer);
        }
        while self.send_queue_bytes as u64 > self.options.limits.send_queue_total_bytes_max {
            let Some(debtor) = self.worst_debtor() else { return };
            self.cut(debtor, CloseReason::OverBudget);
        }
    }

    /// Who has the most bytes queued for the longest time.
    fn worst_debtor(&self) -> Option<ConnectionId> {
        let tick = self.tick();
        let debt = |slot: Slot| {
            let queue = self.connections.record(slot as usize).queue.as_ref()?;
            let age = queue.oldest().map_or(0, |oldest| tick.since(oldest).as_millis());
            Some((queue.bytes() as u128 * (age + 1), slot))
        };
        let (_, slot) = self.connections.queued().iter().filter_map(debt).max()?;
        self.connections.id_at(slot)
    }

    // Ending.

    /// Closes an open connection with a reason that has a Close frame.
    pub(crate) fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        let (code, text) = reason.close().unwrap_or((wire::CloseCode::INTERNAL_ERROR, ""));
        let mut words = Vec::new();
        wire::encode_close(Some(CloseFrame { code, reason: text }), &mut words);
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
        self.leave_open(connection, reason);
        if reason == CloseReason::SlowConsumer {
            let charge = self.frame_charge();
            let lost = self.with_queue(connection, |queue| queue.truncate(charge)).unwrap_or(0);
            self.count_dropped(lost);
        }
        self.say_last_words(connection, farewell, words);
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

    /// Refuses a handshake for a reason whose response needs no words of the handler.
    pub(crate) fn refuse_with(
        &mut self,
        connection: ConnectionId,
        refusal: RefusalReason,
        headers: &[(&str, &str)],
        text: &str,
    ) {
        let status: StatusCode = refusal.status();
        self.refuse(connection, Some(refusal), wire::encode_response(status, headers, text));
    }

    fn say_last_words(&mut self, connection: ConnectionId, farewell: Farewell, words: Bytes) {
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
        if record.queue.is_none() && !record.is_sending {
            self.terminate(connection, Closing::Finish);
        }
    }

    /// What the peer sends on a connection that was waiting for its Close means nothing any more.
    pub(crate) fn handle_peer_done_badly(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        if record.state == State::Closing && record.farewell == Farewell::AwaitClose {
            record.farewell = Farewell::Linger;
            if record.queue.is_none() && !record.is_sending {
                self.handle_last_words_sent(connection);
            }
        }
    }

    /// The peer's FIN.
    pub(crate) fn handle_finished(&mut self, connection: ConnectionId) {
        match self.connections.get(connection).map(|it| it.state) {
            Some(State::Handshaking) => {
                self.leave_handshake(connection);
                self.report.refused[RefusalReason::Gone as usize] += 1;
                self.terminate(connection, Closing::Finish);
            }
            Some(State::Open) => {
                self.leave_open(connection, CloseReason::PeerGone);
                self.terminate(connection, Closing::Finish);
            }
            Some(State::Closing) => self.handle_peer_done(connection),
            Some(State::Free | State::Terminating) | None => {}
        }
    }

    /// The socket is broken.
    pub(crate) fn fail(&mut self, connection: ConnectionId, failure: Failure) {
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
            Some(State::Handshaking) => {
                self.leave_handshake(connection);
                self.report.refused[RefusalReason::Gone as usize] += 1;
            }
            Some(State::Closing) => {}
            Some(State::Free | State::Terminating) | None => return,
        }
        self.terminate(connection, Closing::Abort);
    }

    fn leave_open(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.connections.count_no_longer_open();
        self.report.closed[reason as usize] += 1;
        self.release_held(connection);
        self.closed.push((connection, reason));
    }

    fn leave_handshake(&mut self, connection: ConnectionId) {
        self.handshakes -= 1;
        if let Some(held) = self.connections.get_mut(connection).and_then(|it| it.held.take()) {
            self.head_bytes -= held.len();
        }
    }

    /// Gives up what a paused connection has sent.
    pub(crate) fn release_held(&mut self, connection: ConnectionId) -> Option<Held> {
        let record = self.connections.get_mut(connection)?;
        if std::mem::take(&mut record.is_paused) {
            self.paused -= 1;
        }
        let held = record.held.take()?;
        self.partial_bytes -= held.len();
        Some(held)
    }

    /// Hands the connection to the engine to be ended: nothing is sent or read any more.
    fn terminate(&mut self, connection: ConnectionId, how: Closing) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.state = State::Terminating;
        record.has_deadline = false;
        record.is_sending = false;
        record.is_unwritable = false;
        self.partial_bytes -= std::mem::take(&mut record.decoder).buffered_bytes();
        if let Some(queue) = record.queue.take() {
            self.send_queue_bytes -= queue.bytes();
            self.count_dropped(queue.messages());
        }
        self.connections.update_sending(connection.slot);
        self.outbox.push(Outgoing::Operation(Operation::Close { connection, how }));
    }

    fn count_dropped(&mut self, messages: u64) {
        self.report.messages_dropped += messages;
        self.report.messages_delivered = self.report.messages_delivered.saturating_sub(messages);
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

    // Time.

    pub(crate) fn set_deadline(&mut self, connection: ConnectionId, span: Duration) {
        let deadline = self.tick().after(span);
        self.set_deadline_at(connection, deadline);
    }

    fn set_write_deadline(&mut self, connection: ConnectionId) {
        let oldest = self.connections.get(connection).and_then(|it| it.queue.as_ref()?.oldest());
        if let Some(oldest) = oldest {
            self.set_deadline_at(connection, oldest.after(self.options.write_timeout));
        }
    }

    fn set_deadline_at(&mut self, connection: ConnectionId, deadline: Tick) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.deadline = deadline;
        record.has_deadline = true;
        if !record.is_in_wheel || deadline.is_before(record.look) {
            record.look = self.wheel.insert(connection, deadline);
            record.is_in_wheel = true;
        }
    }

    /// The wheel has come to `look` for the connection.
    pub(crate) fn handle_look(&mut self, connection: ConnectionId, look: Tick) {
        let tick = self.tick();
        let Some(record) = self.connections.get_mut(connection) else { return };
        if !record.is_in_wheel || record.look != look {
            return;
        }
        record.is_in_wheel = false;
        if !record.has_deadline {
            return;
        }
        if tick.is_before(record.deadline) {
            let deadline = record.deadline;
            return self.set_deadline_at(connection, deadline);
        }
        record.has_deadline = false;
        match record.state {
            State::Handshaking => self.refuse_with(
                connection,
                RefusalReason::Timeout,
                &[],
                "the request head was not complete in time",
            ),
            State::Open => self.cut(connection, CloseReason::Stalled),
            State::Closing => self.cut(connection, CloseReason::Stalled),
            State::Terminating => {
                let how = Closing::Abort;
                self.outbox.push(Outgoing::Operation(Operation::Close { connection, how }));
            }
            State::Free => {}
        }
    }

    /// A byte was heard.
    pub(crate) fn hear(&mut self, connection: ConnectionId) {
        let tick = self.tick();
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.heard = tick;
        if std::mem::take(&mut record.awaiting_pong) {
            let span = tick.since(record.pinged);
            self.report.record(Stage::Ping, span);
        }
    }

    // The handler's wishes.

    pub(crate) fn fanout_room(&self, publications: usize, bytes: usize) -> bool {
        let limits = &self.options.limits;
        self.fanout.publications() + publications <= limits.fanout_publications_max as usize
            && (self.fanout.bytes() + bytes) as u64 <= limits.fanout_bytes_max
    }

    pub(crate) fn publish(&mut self, audience: Audience, publication: Arc<Publication>) {
        self.publications_received += u32::from(publication.received_at() >= self.turn_started);
        self.fanout.publish(audience, publication, self.now);
    }

    pub(crate) fn resume(&mut self, connection: ConnectionId) {
        self.resumed.push(connection);
    }

    pub(crate) fn count_refused_publication(&mut self) {
        self.report.publications_refused += 1;
    }

    pub(crate) fn record(&mut self, stage: Stage, span: Duration) {
        self.report.record(stage, span);
    }

    pub(crate) fn drain(&mut self, over: Duration) {
        let started = self.tick();
        if let Some(drain) = &mut self.drain {
            drain.over = Duration::ZERO;
            return;
        }
        self.drain = Some(Drain { started, over, next: 0 });
        for listener in 0..self.options.listeners {
            let listener = ListenerId(listener);
            self.outbox.push(Outgoing::Operation(Operation::StopAccepting { listener }));
        }
    }

    /// Closes those connections whose moment of the drain has come, at most so many.
    pub(crate) fn handle_drain(&mut self, closes_max: usize) {
        let tick = self.tick();
        let slots = self.connections.slots_used();
        let Some(drain) = &mut self.drain else { return };
        let passed = tick.since(drain.started).as_nanos();
        let over = drain.over.as_nanos();
        let goal = if passed >= over { slots as u128 } else { slots as u128 * passed / over };
        let goal = usize::try_from(goal).unwrap_or(slots).min(drain.next + closes_max);
        let from = drain.next;
        drain.next = goal.max(from);
        for slot in from..goal {
            let slot = Slot::try_from(slot).expect("slots are numbers of 32 bits");
            if let Some(connection) = self.connections.id_at(slot) {
                self.close(connection, CloseReason::Restarting);
            }
        }
        let drain = self.drain.as_mut().expect("it was there above");
        if drain.next >= slots && passed >= over && self.connections.open() > 0 {
            drain.next = 0;
        }
    }

    /// How often an eighth of the table is looked through for connections that are too old.
    pub(crate) fn age_period(&self) -> Option<Duration> {
        let age_max = self.options.connection_age_max?;
        Some((age_max / 200).clamp(TICK, Duration::from_secs(1)))
    }

    /// Closes those of the next eighth of the table that are too old, each by an age of its own.
    pub(crate) fn handle_age(&mut self) {
        let (Some(age_max), Some(period)) = (self.options.connection_age_max, self.age_period())
        else {
            return;
        };
        let tick = self.tick();
        if tick.since(self.age_looked) < period {
            return;
        }
        self.age_looked = tick;
        let slots = self.connections.slots_used();
        let from = if self.age_next < slots { self.age_next } else { 0 };
        self.age_next = slots.min(from + slots.div_ceil(8));
        for slot in from..self.age_next {
            let slot = Slot::try_from(slot).expect("slots are numbers of 32 bits");
            let age = self.now.since(self.connections.identity(slot).accepted);
            if let Some(connection) = self.connections.id_at(slot)
                && age >= age_max.mul_f64(0.9)
                && age >= age_max.mul_f64(0.9 + 0.2 * self.share(connection))
            {
                self.close(connection, CloseReason::Moving);
            }
        }
    }

    /// A number from 0 to 1 that is the connection's own, and another in the next run.
    fn share(&self, connection: ConnectionId) -> f64 {
        let id = u64::from(connection.slot) << 32 | u64::from(connection.generation);
        let mut random = StdRng::seed_from_u64(self.options.seed ^ id);
        random.random()
    }

    /// Whether the drain has closes to make now.
    pub(crate) fn is_drain_behind(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| {
            self.tick().since(drain.started) >= drain.over && self.connections.open() > 0
        })
    }

    pub(crate) fn swap_report(&mut self, mut empty: Box<Report>) -> Box<Report> {
        empty.reset();
        let limits = &self.options.limits;
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.report.gauges = Gauges {
            connections: self.connections.open(),
            connections_max: self.options.connections_max,
            handshakes: self.handshakes,
            send_queues: narrow(self.connections.queued().len()),
            send_queue_bytes: self.send_queue_bytes as u64,
            send_queue_bytes_max: limits.send_queue_total_bytes_max,
            partial_bytes: self.partial_bytes as u64,
            partial_bytes_max: limits.partial_total_bytes_max,
            handshake_bytes: self.head_bytes as u64,
            handshake_bytes_max: limits.handshake_total_bytes_max,
            inbox_letters_max: limits.mesh_letters_max,
            fanout_jobs: narrow(self.fanout.jobs()),
            fanout_publications: narrow(self.fanout.publications()),
            fanout_publications_max: limits.fanout_publications_max,
            fanout_bytes: self.fanout.bytes() as u64,
            fanout_bytes_max: limits.fanout_bytes_max,
            publishers_paused: self.paused,
            ..Gauges::default()
        };
        std::mem::replace(&mut self.report, empty)
    }

    pub(crate) fn record_of(&self, connection: ConnectionId) -> Option<&Connection> {
        self.connections.get(connection)
    }
}
