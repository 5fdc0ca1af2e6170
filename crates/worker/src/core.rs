//! What a worker knows and does without its handler: how connections begin, what is due when, and
//! what the handler may ask. How they are sent to and how they end stands in the files below.
//! What is to go to the engine gathers in an outbox, in order, until the turn hands it over.

mod aging;
mod budget;
mod ending;
mod moving;
mod sending;
mod settings;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh::Member;
use wire::Upgrade;

use self::aging::Aging;
use crate::{
    addresses::Verdict,
    breakage,
    compression::Compression,
    connections::{Connections, Flags, Identity, State},
    fanout::Fanout,
    handler::{Audience, Readiness},
    heartbeat::Heartbeat,
    operation::{Closing, ConnectionId, ListenerId, Operation, Slot, Time},
    options::{Options, SlowConsumer},
    publication::Publication,
    rates::Rates,
    send_queue::SendQueue,
    shares::Shares,
    stats::{CloseReason, Gauges, RefusalReason, Report, Stage},
    wheel::{Tick, Wheel},
};

/// Something for the engine.
#[derive(Debug, Clone)]
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
    pub(crate) compression: Compression,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) wheel: Wheel,
    pub(crate) rates: Option<Rates>,
    pub(crate) outbox: Vec<Outgoing>,
    /// Connections that are no longer open, of which the handler has not been told.
    pub(crate) closed: Vec<(ConnectionId, CloseReason)>,
    /// Connections that were told to go on, or had more to decode than their share of a turn.
    pub(crate) resumed: Vec<ConnectionId>,
    /// Those of this turn: they are resumed in the next.
    pub(crate) deferred: Vec<ConnectionId>,
    pub(crate) shares: Shares,
    /// Connections that wait for a verification, the longest first. Those that have ended since are
    /// passed over.
    pub(crate) unverified: VecDeque<ConnectionId>,
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
    aging: Aging,
    started: Time,
    now: Time,
    turn_started: Time,
    /// Since when the worker has not waited.
    busy_since: Time,
    turn_ended: Time,
    /// By how much turns came late in all: peers are not blamed for it.
    late: Duration,
    /// A delay that is no more is theirs.
    late_max: Duration,
}

/// Closing everyone, evenly.
#[derive(Debug)]
pub(crate) struct Drain {
    started: Tick,
    over: Duration,
    next: usize,
}

/// A turn that comes later than it was due by more did not run: its peers are given the time since
/// the one before, but for so much of it.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The same where something is to come sooner: two delays must not use up what it may take.
fn late_max(options: &Options) -> Duration {
    let spans = [options.handshake_timeout, options.write_timeout, options.close_timeout];
    let pong_timeout = options.ping_interval.map(|_| options.pong_timeout);
    spans.into_iter().chain(pong_timeout).fold(LATE_MAX * 4, Duration::min) / 4
}

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
            compression: Compression::new(limits.compression_bytes_min as usize),
            heartbeat: options
                .ping_interval
                .map(|interval| Heartbeat::new(interval, options.pong_timeout, Tick(0))),
            wheel: Wheel::new(),
            rates: options.publish_rate_max.map(Rates::new),
            outbox,
            closed: Vec::new(),
            resumed: Vec::new(),
            deferred: Vec::new(),
            shares: Shares::new(limits.receive_frames_max),
            unverified: VecDeque::new(),
            report: Box::default(),
            drain: None,
            listeners_open: options.listeners,
            handshakes: 0,
            head_bytes: 0,
            partial_bytes: 0,
            paused: 0,
            publications_received: 0,
            send_queue_bytes: 0,
            aging: Aging::new(),
            started: now,
            now,
            turn_started: now,
            busy_since: now,
            turn_ended: now,
            late: Duration::ZERO,
            late_max: late_max(&options),
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

    /// The peers' clock in microseconds, as far as they fit: they wrap after 71 minutes.
    #[expect(clippy::cast_possible_truncation, reason = "only differences are looked at")]
    pub(crate) fn now_us(&self) -> u32 {
        self.now.since(self.started).saturating_sub(self.late).as_micros() as u32
    }

    /// A batch was collected at `now`, by a wait that was to end at `deadline`.
    pub(crate) fn begin_turn(&mut self, now: Time, deadline: Time) {
        if now.since(self.now.max(deadline)) > self.late_max {
            // What completed may have waited all the time. Not all of it is given back, or the
            // clock of a worker whose turns are long would never go on.
            self.late += now.since(self.now).saturating_sub(self.late_max);
        }
        self.now = self.now.max(now);
        self.turn_started = self.now;
        // What the engine sends as it is entered belongs to the turn, unless it waited there as well.
        self.busy_since = if deadline > self.turn_ended { self.now } else { self.turn_ended };
        self.publications_received = 0;
        self.shares.begin_turn();
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
        self.report.record(Stage::Turn, now.since(self.busy_since));
        self.turn_ended = now;
    }

    /// Verifications that this turn may still make.
    pub(crate) fn verifications_left(&self) -> u32 {
        self.options.limits.verifications_max.saturating_sub(self.shares.verifications())
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.drain {
            Some(_) => Readiness::Draining,
            None if self.connections.open() >= self.options.connections_max => Readiness::Full,
            None if breakage::fills_too_early()
                && self.connections.open() >= self.options.connections_max / 2 =>
            {
                Readiness::Full
            }
            None => Readiness::Ready,
        }
    }

    // Beginning.

    pub(crate) fn accept(
        &mut self,
        connection: ConnectionId,
        listener: ListenerId,
        peer: SocketAddr,
    ) {
        let (tick, now_us) = (self.tick(), self.now_us());
        self.connections.insert(connection, Identity::new(peer, tick), tick).timed_us = now_us;
        self.handshakes += 1;
        self.set_deadline(connection, self.options.handshake_timeout);
        self.outbox.push(Outgoing::Operation(Operation::Receive { connection }));
        if let Some(rates) = &mut self.rates {
            rates.begin(connection.slot);
        }
        let announcing = &self.options.proxies.announcing;
        if announcing.get(usize::from(listener.0)) == Some(&true) {
            if let Some(record) = self.connections.get_mut(connection) {
                record.state = State::Announced;
            }
        } else {
            self.meet(connection, peer);
        }
    }

    /// The connection is seen to come from `peer`. `false`: from there no more may come. Whom a
    /// trusted proxy speaks for, it says in the request: it has no account itself.
    pub(crate) fn meet(&mut self, connection: ConnectionId, peer: SocketAddr) -> bool {
        self.connections.identity_mut(connection.slot).set_peer(peer);
        self.options.proxies.trust(peer.ip()) || self.enter(connection)
    }

    /// The connection's client is known: it goes on its address's account. `false`: there is no
    /// room on it.
    pub(crate) fn enter(&mut self, connection: ConnectionId) -> bool {
        let identity = self.connections.identity_mut(connection.slot);
        let Some(addresses) = self.options.addresses.as_ref().filter(|_| !identity.counted) else {
            return true;
        };
        identity.counted = true;
        match addresses.enter(identity.peer().ip(), self.now) {
            Verdict::Welcome => return true,
            Verdict::Refuse(reason) => {
                let text = "too many connections or handshakes from this address: try again later";
                self.refuse_with(connection, reason, &[("Retry-After", "5")], text);
            }
            Verdict::Reset(reason) => self.reset_handshake(connection, reason),
        }
        false
    }

    /// The kernel holds nothing of the connection any more.
    pub(crate) fn handle_closed(&mut self, connection: ConnectionId) {
        if self.connections.get(connection).is_none() {
            return;
        }
        let identity = self.connections.identity(connection.slot);
        if let Some(addresses) = self.options.addresses.as_ref().filter(|_| identity.counted) {
            addresses.leave(identity.peer().ip());
        }
        self.connections.remove(connection);
    }

    /// The upgrade is accepted: its 101 leaves before anything else.
    pub(crate) fn open(&mut self, connection: ConnectionId, upgrade: Upgrade) {
        let now_us = self.now_us();
        self.report.opened += 1;
        self.handshakes -= 1;
        if let Some(record) = self.connections.get_mut(connection) {
            record.state = State::Open;
            record.window = upgrade.deflate;
            record.flags.remove(Flags::DEADLINE);
            let us = now_us.wrapping_sub(record.timed_us);
            self.report.record(Stage::Handshake, Duration::from_micros(us.into()));
        }
        self.connections.count_open(connection.slot);
        self.send_alone(connection, upgrade.response);
    }

    // Time.

    pub(crate) fn set_deadline(&mut self, connection: ConnectionId, span: Duration) {
        let deadline = self.tick().after(span);
        self.set_deadline_at(connection, deadline);
    }

    /// How long what is queued may go on waiting. `made_way`: the socket has just taken a byte.
    fn set_write_deadline(&mut self, connection: ConnectionId, made_way: bool) {
        let Some(record) = self.connections.get(connection) else { return };
        let Some(oldest) = record.queue().and_then(SendQueue::oldest) else { return };
        let timeout = self.options.write_timeout;
        match self.options.slow_consumer {
            SlowConsumer::Close => self.set_deadline_at(connection, oldest.after(timeout)),
            SlowConsumer::Latest if breakage::ignores_write_timeout() => {}
            SlowConsumer::DropOldest | SlowConsumer::Latest => {
                // What is dropped takes its age with it: only the socket's own progress counts.
                if made_way || !record.has(Flags::DEADLINE) {
                    self.set_deadline(connection, timeout);
                }
            }
        }
    }

    fn set_deadline_at(&mut self, connection: ConnectionId, deadline: Tick) {
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.deadline = deadline;
        record.flags.insert(Flags::DEADLINE);
        if !record.has(Flags::IN_WHEEL) || deadline.is_before(record.look) {
            record.look = self.wheel.insert(connection, deadline);
            record.flags.insert(Flags::IN_WHEEL);
        }
    }

    /// The wheel has come to `look` for the connection.
    pub(crate) fn handle_look(&mut self, connection: ConnectionId, look: Tick) {
        let tick = self.tick();
        let Some(record) = self.connections.get_mut(connection) else { return };
        if !record.has(Flags::IN_WHEEL) || record.look != look {
            return;
        }
        record.flags.remove(Flags::IN_WHEEL);
        if !record.has(Flags::DEADLINE) {
            return;
        }
        if tick.is_before(record.deadline) {
            let deadline = record.deadline;
            return self.set_deadline_at(connection, deadline);
        }
        record.flags.remove(Flags::DEADLINE);
        match record.state {
            State::Announced => self.reset_handshake(connection, RefusalReason::Timeout),
            State::Handshaking => self.refuse_with(
                connection,
                RefusalReason::Timeout,
                &[],
                "the request head was not complete in time",
            ),
            State::Open | State::Closing => self.cut(connection, CloseReason::Stalled),
            State::Terminating => {
                let how = Closing::Abort;
                self.outbox.push(Outgoing::Operation(Operation::Close { connection, how }));
            }
            // From when its head was complete it is we who take the time.
            State::Waiting | State::Free => {}
        }
    }

    /// A byte was heard.
    pub(crate) fn hear(&mut self, connection: ConnectionId) {
        let (tick, now_us) = (self.tick(), self.now_us());
        let Some(record) = self.connections.get_mut(connection) else { return };
        record.heard = tick;
        if !breakage::ignores_heard() && record.lower(Flags::AWAITING_PONG) {
            let us = now_us.wrapping_sub(record.timed_us);
            self.report.record(Stage::Ping, Duration::from_micros(us.into()));
        }
    }

    /// It is received from again: from now on it has all the time there is for its pong, which
    /// nobody could hear before.
    pub(crate) fn await_pong_anew(&mut self, connection: ConnectionId) {
        let now_us = self.now_us();
        if let Some(record) = self.connections.get_mut(connection)
            && record.has(Flags::AWAITING_PONG)
        {
            record.timed_us = now_us;
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

    /// Whether nothing more can be received from it.
    pub(crate) fn has_finished(&self, connection: ConnectionId) -> bool {
        self.connections.get(connection).is_some_and(|record| record.has(Flags::FINISHED))
    }

    /// Whether it is to go on in this turn or the next.
    pub(crate) fn is_resumed(&self, connection: ConnectionId) -> bool {
        self.resumed.contains(&connection) || self.deferred.contains(&connection)
    }

    pub(crate) fn count_refused_publication(&mut self) {
        self.report.publications_refused += 1;
    }

    #[inline]
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

    /// Whether the drain has closes to make now.
    pub(crate) fn is_drain_behind(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| {
            self.tick().since(drain.started) >= drain.over && self.connections.open() > 0
        })
    }

    /// Memory that is reserved whatever the load.
    fn fixed_bytes(&self) -> usize {
        size_of::<Self>()
            + self.connections.fixed_bytes()
            + self.wheel.fixed_bytes()
            + self.report.fixed_bytes()
            + self.shares.fixed_bytes()
    }

    pub(crate) fn swap_report(&mut self, mut empty: Box<Report>) -> Box<Report> {
        empty.reset();
        (self.report.deflated, self.report.inflated) = self.compression.take_converted();
        self.report.gauges = self.gauges();
        std::mem::replace(&mut self.report, empty)
    }

    /// How the worker stands now, as far as it knows without its handler.
    pub(crate) fn gauges(&self) -> Gauges {
        let limits = &self.options.limits;
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Gauges {
            connections: self.connections.open(),
            connections_max: self.options.connections_max,
            connections_deflate: self.connections.inflating_len(),
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
            fixed_bytes: self.fixed_bytes() as u64,
            ..Gauges::default()
        }
    }
}
