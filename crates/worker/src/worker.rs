//! A worker: the core and its handler, and the turn that drives both. Completions and letters come
//! in, time passes, and then everything that follows is handed to the engine as one batch: wakes
//! first, then replies and closes, then a chunk of pings and fan-out.

mod frames;
mod handshake;
mod moving;
mod offering;

use std::{io, mem};

use bytes::{Buf, BytesMut};
use mesh::{Delivery, Endpoint};

use crate::{
    actions::Actions,
    breakage,
    connections::{Farewell, Flags, State},
    core::{Core, Outgoing},
    handler::{Chunk, Handler},
    operation::{
        Completion, ConnectionId, Engine, OFFER_TARGETS_MAX, Operation, Reception, Slot, Time,
    },
    options::Options,
    sight::Sight,
    stats::{CloseReason, Gauges, Stage},
};

/// One worker: its connections, its handler, and nothing of the kernel.
#[derive(Debug)]
pub struct Worker<H: Handler> {
    handler: H,
    core: Core,
    chunk: Chunk,
    targets: Vec<Slot>,
    looks: Vec<ConnectionId>,
    /// True exactly when the handler holds something back for which there was no room.
    is_holding: bool,
}

/// How soon the worker looks again while something is held back: room comes without a wake-up.
const HELD_PERIOD_NS: u64 = 1_000_000;

/// What a connection may send ahead of what its share of the turns decodes; with more it is not
/// received from until all of it is decoded.
const HELD_AHEAD_BYTES_MAX: usize = 16 << 10;

/// Letters taken in one turn.
const LETTERS_PER_TURN_MAX: usize = 256;

/// Connections closed by a drain in one turn.
const DRAIN_CLOSES_PER_TURN_MAX: usize = 64;

impl<H: Handler> Worker<H> {
    /// A worker without connections, that accepts from every listener at its first turn. `member`
    /// is its place in the mesh.
    #[must_use]
    pub fn new(options: Options, handler: H, member: mesh::Member, now: Time) -> Self {
        Self {
            handler,
            core: Core::new(options, member, now),
            chunk: Chunk::new(OFFER_TARGETS_MAX),
            targets: Vec::with_capacity(OFFER_TARGETS_MAX),
            looks: Vec::new(),
            is_holding: false,
        }
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// How it stands now, as far as it knows without its handler.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.core.gauges()
    }

    /// The connection in this slot, unless nobody is there who is open.
    #[must_use]
    pub fn sight(&self, slot: Slot) -> Option<Sight> {
        self.core.sight(slot)
    }

    /// True exactly when it was told to drain and every listener and connection is gone.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.core.drain.is_some()
            && self.core.listeners_open == 0
            && self.core.connections.len() == 0
    }

    /// One turn: waits for something to do, does all of it, and hands what follows to the engine.
    ///
    /// # Errors
    /// The engine is useless.
    pub fn turn<E: Engine>(
        &mut self,
        engine: &mut E,
        endpoint: &mut Endpoint<H::Letter>,
    ) -> io::Result<()> {
        let mut deadline = self.deadline();
        // Where the fan-out is full, letters lie until it has gone on, which `deadline` knows of:
        // they are no reason not to wait, and none to be woken for.
        let takes_letters = self.core.fanout_room(1, 0);
        let is_parked = takes_letters && deadline > self.core.now() && endpoint.park();
        if takes_letters && !is_parked {
            deadline = Time(0);
        }
        self.wait(engine, endpoint, deadline)?;
        if is_parked {
            endpoint.unpark();
        }
        self.core.report.engine = engine.counts();
        self.take_letters(endpoint);
        self.go_on(endpoint);
        self.is_holding = self.handler.poll_held(&mut Actions { core: &mut self.core, endpoint });
        self.handle_time(endpoint);
        self.core.end_input(engine.now());
        self.submit(engine, endpoint);
        self.core.end_turn(engine.now());
        Ok(())
    }

    /// Waits until the deadline, and handles what has completed.
    fn wait<E: Engine>(
        &mut self,
        engine: &mut E,
        endpoint: &mut Endpoint<H::Letter>,
        deadline: Time,
    ) -> io::Result<()> {
        let mut is_first = true;
        engine.wait(deadline, |now, completion| {
            if mem::take(&mut is_first) {
                self.begin_turn(endpoint, now, deadline);
            }
            self.handle(endpoint, completion);
        })?;
        if is_first {
            self.begin_turn(endpoint, engine.now(), deadline);
        }
        self.core.check_budget();
        self.tell_closed(endpoint);
        Ok(())
    }

    /// Begins with who has waited for this turn.
    #[inline]
    fn begin_turn(&mut self, endpoint: &mut Endpoint<H::Letter>, now: Time, deadline: Time) {
        self.core.begin_turn(now, deadline);
        if !self.core.unverified.is_empty() {
            self.verify_waiting(endpoint);
        }
    }

    /// When the next turn is due though nothing happens.
    fn deadline(&self) -> Time {
        let core = &self.core;
        let has_work = !core.outbox.is_empty()
            || !core.resumed.is_empty()
            || !core.deferred.is_empty()
            || !core.unverified.is_empty()
            || core.fanout.has_work()
            || core.fanout.in_flight() > 0
            || core.heartbeat.as_ref().is_some_and(crate::heartbeat::Heartbeat::has_pings)
            || core.is_over_budget()
            || core.is_aging_behind()
            || core.is_drain_behind();
        if has_work {
            return Time(0);
        }
        let (now, tick) = (core.now(), core.tick());
        let mut deadline = core.fanout.deadline().unwrap_or(Time::NEVER);
        if let Some(span) = core.wheel.next_in(tick) {
            deadline = deadline.min(now + span + crate::wheel::TICK);
        }
        if let Some(heartbeat) = &core.heartbeat {
            deadline = deadline.min(now + heartbeat.next_in(tick) + crate::wheel::TICK);
        }
        if let Some(due) = core.rates.as_ref().and_then(crate::rates::Rates::deadline) {
            deadline = deadline.min(due);
        }
        deadline = deadline.min(self.handler.deadline());
        if self.is_holding {
            deadline = deadline.min(Time(now.0 + HELD_PERIOD_NS));
        }
        if let Some(period) = core.age_period() {
            deadline = deadline.min(now + period);
        }
        if core.drain.is_some() {
            deadline = deadline.min(now + crate::wheel::TICK);
        }
        deadline
    }

    fn handle(&mut self, endpoint: &mut Endpoint<H::Letter>, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { connection, listener, peer } => {
                self.core.accept(connection, listener, peer);
            }
            Completion::StoppedAccepting { .. } => self.core.listeners_open -= 1,
            Completion::Received { connection, outcome } => {
                if self.core.connections.get(connection).is_some() {
                    self.handle_received(endpoint, connection, outcome);
                }
            }
            Completion::Sent { connection, outcome } => self.core.handle_sent(connection, outcome),
            Completion::Writable { connection } => self.core.handle_writable(connection),
            Completion::Refused { connection, outcome } => {
                self.core.handle_refused(connection, outcome);
            }
            Completion::Offered { targets } => self.core.fanout.handle_offered(targets),
            Completion::Closed { connection } => self.core.handle_closed(connection),
            Completion::Woken => {}
        }
        self.tell_closed(endpoint);
    }

    /// Tells the handler which connections are no longer open.
    fn tell_closed(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        while let Some((connection, reason)) = self.core.closed.pop() {
            let Self { handler, core, .. } = self;
            core.note_close(connection, reason, || handler.purpose(connection));
            handler.on_close(&mut Actions { core, endpoint }, connection, reason);
        }
    }

    fn handle_received(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        outcome: Reception<'_>,
    ) {
        match outcome {
            Reception::Finished => self.core.handle_finished(connection),
            Reception::Failed(failure) => self.core.fail(connection, failure),
            Reception::Bytes(bytes) => {
                self.core.report.received_bytes += bytes.len() as u64;
                self.core.hear(connection);
                self.handle_bytes(endpoint, connection, bytes);
            }
        }
    }

    fn handle_bytes(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
    ) {
        let Some(record) = self.core.connections.get(connection) else { return };
        match (record.state, record.farewell) {
            (State::Announced, _) => self.handle_announcement(endpoint, connection, bytes),
            (State::Handshaking, _) => self.handle_head(endpoint, connection, bytes),
            (State::Waiting, _) => self.hold_head(connection, bytes),
            (State::Open, _) if record.has(Flags::PAUSED) || record.held_bytes() > 0 => {
                self.hold(connection, bytes);
            }
            (State::Open, _) => {
                let left = self.core.shares.left(connection.slot);
                let taken = self.decode(endpoint, connection, bytes, left);
                if taken < bytes.len() {
                    self.keep_rest(connection, &bytes[taken..]);
                }
            }
            (State::Closing, farewell) => {
                let identity = self.core.connections.identity_mut(connection.slot);
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                identity.discarded = identity.discarded.saturating_add(length);
                if identity.discarded > self.core.options.limits.linger_bytes_max {
                    self.core.cut(connection, CloseReason::Stalled);
                } else if farewell == Farewell::AwaitClose {
                    self.decode(endpoint, connection, bytes, u32::MAX);
                }
            }
            (State::Terminating | State::Free, _) => {}
        }
    }

    /// Keeps what an open connection has sent beyond its share of the turn, or at its pause.
    fn keep_rest(&mut self, connection: ConnectionId, rest: &[u8]) {
        let Some(record) = self.core.connections.get(connection) else { return };
        if record.state != State::Open {
            return;
        }
        if !record.has(Flags::PAUSED) {
            self.defer(connection);
        }
        self.hold(connection, rest);
    }

    /// The connection goes on in the next turn.
    fn defer(&mut self, connection: ConnectionId) {
        self.core.report.share_deferrals += 1;
        self.core.deferred.push(connection);
    }

    /// Keeps what a connection sends that has to wait: what was on its way when receiving was
    /// stopped, or what comes while its share of each turn is less.
    fn hold(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if !self.has_partial_room(bytes.len()) {
            self.core.close(connection, CloseReason::Overloaded);
            return self.core.handle_peer_done_badly(connection);
        }
        self.core.partial_bytes += bytes.len();
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        record.hold(bytes);
        if record.held_bytes() > HELD_AHEAD_BYTES_MAX {
            self.pause(connection);
        }
    }

    fn has_partial_room(&self, bytes: usize) -> bool {
        let held = (self.core.partial_bytes + bytes) as u64;
        held <= self.core.options.limits.partial_total_bytes_max
    }

    // Letters and time.

    fn take_letters(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        for _ in 0..LETTERS_PER_TURN_MAX {
            if !self.core.fanout_room(1, 0) {
                return;
            }
            let Some(delivery) = endpoint.take() else { return };
            if breakage::swaps_letters()
                && let Some(later) = endpoint.take()
            {
                self.handle_letter(endpoint, later);
            }
            self.handle_letter(endpoint, delivery);
        }
    }

    fn handle_letter(&mut self, endpoint: &mut Endpoint<H::Letter>, delivery: Delivery<H::Letter>) {
        let hop = self.core.now().since(Time(delivery.posted_at));
        self.core.record(Stage::Hop, hop);
        let mut actions = Actions { core: &mut self.core, endpoint };
        self.handler.on_letter(&mut actions, delivery.from, delivery.letter);
        self.tell_closed(endpoint);
    }

    /// Lets resumed connections go on with what they had sent.
    fn go_on(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        let now = self.core.now();
        while let Some(connection) = self.core.rates.as_mut().and_then(|it| it.poll_due(now)) {
            self.core.resume(connection);
        }
        if self.core.resumed.is_empty() && self.core.deferred.is_empty() {
            return;
        }
        for connection in mem::take(&mut self.core.resumed) {
            self.go_on_with(endpoint, connection);
            self.tell_closed(endpoint);
        }
        self.core.resumed.append(&mut self.core.deferred);
    }

    /// Decodes a share of what is kept of what a connection has sent. It is a whole one: all that
    /// came of it in this turn was kept, unless it paused and is resumed in one turn.
    fn go_on_with(&mut self, endpoint: &mut Endpoint<H::Letter>, connection: ConnectionId) {
        let Some(record) = self.core.connections.get(connection) else { return };
        let was_paused = record.has(Flags::PAUSED);
        if record.state != State::Open || !(was_paused || record.held_bytes() > 0) {
            return;
        }
        let now = self.core.now();
        if was_paused
            && let Some(rates) = &mut self.core.rates
            && rates.is_over(connection, now)
        {
            // Its handler lets it go on; it has sent more than its rate all the same.
            self.core.report.rate_pauses += 1;
            return rates.pause(connection);
        }
        let mut held = self.core.release_held(connection).unwrap_or_default();
        let share = self.core.shares.whole();
        let taken = self.decode(endpoint, connection, &mut held, share);
        held.advance(taken);
        let Some(record) = self.core.connections.get(connection) else { return };
        let must_wait = record.has(Flags::PAUSED) || held.has_remaining();
        match record.state {
            State::Open if must_wait => self.keep_on_holding(connection, held, was_paused),
            State::Open | State::Closing if record.has(Flags::FINISHED) => {
                self.core.handle_finished(connection);
            }
            State::Open | State::Closing if was_paused => {
                self.core.await_pong_anew(connection);
                let receive = Operation::Receive { connection };
                self.core.outbox.push(Outgoing::Operation(receive));
            }
            _ => {}
        }
    }

    /// Puts back what is left of what was kept, and the pause with it.
    fn keep_on_holding(&mut self, connection: ConnectionId, held: BytesMut, was_paused: bool) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        self.core.partial_bytes += held.len();
        record.put_held(held);
        let goes_on = !record.has(Flags::PAUSED);
        if goes_on && was_paused {
            record.flags.insert(Flags::PAUSED);
            self.core.paused += 1;
        }
        // Fragments take more room when they are decoded than they took before.
        if !self.has_partial_room(0) {
            return self.give_up_partial(connection);
        }
        if goes_on {
            self.defer(connection);
        }
    }

    fn handle_time(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        let (now, tick) = (self.core.now(), self.core.tick());
        while let Some(look) = self.core.wheel.poll(tick, &mut self.looks) {
            for connection in mem::take(&mut self.looks) {
                self.core.handle_look(connection, look);
            }
        }
        if let Some(mut heartbeat) = self.core.heartbeat.take() {
            heartbeat.handle_time(tick, self.core.connections.slots_used());
            let mut unanswered = Vec::new();
            let now_us = self.core.now_us();
            heartbeat.poll_unanswered(tick, now_us, &self.core.connections, &mut unanswered);
            self.core.heartbeat = Some(heartbeat);
            for connection in unanswered
                .into_iter()
                .filter_map(|slot| self.core.connections.id_at(slot))
                .collect::<Vec<_>>()
            {
                self.core.cut(connection, CloseReason::NoPong);
            }
        }
        self.core.handle_age();
        self.core.handle_drain(DRAIN_CLOSES_PER_TURN_MAX);
        self.tell_closed(endpoint);
        self.core.fanout.handle_time(now);
        while let Some(publications) = self.core.fanout.poll_finished(now) {
            for publication in publications {
                self.core.record(Stage::Fanout, now.since(publication.received_at()));
                if breakage::keeps_publications() {
                    mem::forget(publication);
                }
            }
        }
    }

    // To the engine.

    fn submit<E: Engine>(&mut self, engine: &mut E, endpoint: &mut Endpoint<H::Letter>) {
        while let Some(member) = endpoint.poll_wake() {
            engine.submit(Operation::Wake { member });
        }
        self.submit_pings();
        let mut outbox = mem::take(&mut self.core.outbox);
        for outgoing in outbox.drain(..) {
            match outgoing {
                // Its end may have come since, behind what was on its way when it was paused.
                Outgoing::Operation(Operation::Receive { connection })
                    if self.core.has_finished(connection) => {}
                Outgoing::Operation(operation) => engine.submit(operation),
                Outgoing::Reply(slot, frame) => {
                    self.core.report.sent_bytes += frame.len() as u64;
                    self.core.fanout.submit_others(1);
                    engine.submit(Operation::Offer { frame, targets: &[slot] });
                }
            }
        }
        self.core.outbox = outbox;
        if !self.targets.is_empty() {
            self.core.report.sent_bytes += (self.targets.len() * wire::PING.len()) as u64;
            self.core.fanout.submit_others(self.targets.len());
            engine.submit(Operation::Offer { frame: wire::PING, targets: &self.targets });
            self.targets.clear();
        }
        self.submit_fanout(engine, endpoint);
    }

    fn submit_pings(&mut self) {
        let Self { core, targets, .. } = self;
        let (tick, now_us) = (core.tick(), core.now_us());
        let Core { heartbeat: Some(heartbeat), connections, options, .. } = core else { return };
        let targets_max = (options.limits.fanout_targets_max as usize).min(OFFER_TARGETS_MAX);
        heartbeat.poll_pings(tick, now_us, connections, targets_max, targets);
    }
}

/// Turns until drained.
///
/// # Errors
/// The engine is useless.
pub fn run<H: Handler, E: Engine>(
    worker: &mut Worker<H>,
    engine: &mut E,
    endpoint: &mut Endpoint<H::Letter>,
) -> io::Result<()> {
    while !worker.is_drained() {
        worker.turn(engine, endpoint)?;
    }
    Ok(())
}
