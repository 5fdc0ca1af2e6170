//! A worker: the core and its handler, and the turn that drives both. Completions and letters come
//! in, time passes, and then everything that follows is handed to the engine as one batch: wakes
//! first, then replies and closes, then a chunk of pings and fan-out.

mod moving;
mod offering;

use std::{io, mem, net::SocketAddr};

use bytes::Bytes;
use mesh::Endpoint;
use wire::{
    BadRequest, CloseCode, CloseFrame, Decoder, Event, Inflater, Input, NoUpgrade, Request,
    Violation,
};

use crate::{
    actions::Actions,
    connections::{Farewell, Flags, State},
    core::{Core, Outgoing},
    handler::{Answer, Chunk, Flow, Handler, Readiness},
    operation::{
        Completion, ConnectionId, Engine, OFFER_TARGETS_MAX, Operation, Reception, Slot, Time,
    },
    options::Options,
    stats::{CloseReason, Gauges, RefusalReason, Stage},
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
                self.core.begin_turn(now, deadline);
            }
            self.handle(endpoint, completion);
        })?;
        if is_first {
            self.core.begin_turn(engine.now(), deadline);
        }
        Ok(())
    }

    /// When the next turn is due though nothing happens.
    fn deadline(&self) -> Time {
        let core = &self.core;
        let has_work = !core.outbox.is_empty()
            || !core.resumed.is_empty()
            || core.fanout.has_work()
            || core.fanout.in_flight() > 0
            || core.heartbeat.as_ref().is_some_and(crate::heartbeat::Heartbeat::has_pings)
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
            Completion::Accepted { connection, peer, .. } => {
                self.core.accept(connection, peer);
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
            (State::Handshaking, _) => self.handle_head(endpoint, connection, bytes),
            (State::Open, _) if record.has(Flags::PAUSED) => self.hold(connection, bytes),
            (State::Open, _) => self.decode(endpoint, connection, bytes),
            (State::Closing, farewell) => {
                let identity = self.core.connections.identity_mut(connection.slot);
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                identity.discarded = identity.discarded.saturating_add(length);
                if identity.discarded > self.core.options.limits.linger_bytes_max {
                    self.core.cut(connection, CloseReason::Stalled);
                } else if farewell == Farewell::AwaitClose {
                    self.decode(endpoint, connection, bytes);
                }
            }
            (State::Terminating | State::Free, _) => {}
        }
    }

    /// Keeps what a paused connection sends: what was on its way when receiving was stopped.
    fn hold(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if !self.has_partial_room(bytes.len()) {
            return self.core.close(connection, CloseReason::Overloaded);
        }
        self.core.partial_bytes += bytes.len();
        if let Some(record) = self.core.connections.get_mut(connection) {
            record.hold(bytes);
        }
    }

    fn has_partial_room(&self, bytes: usize) -> bool {
        let held = (self.core.partial_bytes + bytes) as u64;
        held <= self.core.options.limits.partial_total_bytes_max
    }

    // The handshake.

    fn handle_head(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
    ) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        let Some(mut held) = record.take_held() else {
            return match wire::parse_request(bytes) {
                Ok(Some((request, length))) => {
                    self.handle_request(
                        endpoint,
                        connection,
                        &request,
                        length,
                        &mut bytes[length..],
                    );
                }
                Ok(None) => self.hold_head(connection, bytes),
                Err(bad) => self.refuse_bad(connection, bad),
            };
        };
        self.core.head_bytes -= held.len();
        held.extend_from_slice(bytes);
        // A head ends with a line: without a new one there is nothing to parse, however slowly it
        // comes.
        let parsed = if bytes.contains(&b'\n') { wire::parse_request(&held) } else { Ok(None) };
        match parsed {
            Ok(Some((request, length))) => {
                self.handle_request(endpoint, connection, &request, length, &mut held[length..]);
            }
            Ok(None) => self.hold_head(connection, &held),
            Err(bad) => self.refuse_bad(connection, bad),
        }
    }

    fn hold_head(&mut self, connection: ConnectionId, head: &[u8]) {
        let limits = &self.core.options.limits;
        if head.len() > limits.handshake_bytes_max as usize {
            return self.refuse_large_head(connection);
        }
        if (self.core.head_bytes + head.len()) as u64 > limits.handshake_total_bytes_max {
            return self.refuse_unready(connection, RefusalReason::Full);
        }
        self.core.head_bytes += head.len();
        if let Some(record) = self.core.connections.get_mut(connection) {
            record.hold(head);
        }
    }

    fn refuse_bad(&mut self, connection: ConnectionId, bad: BadRequest) {
        let reason = match bad {
            BadRequest::Malformed(_) => RefusalReason::Malformed,
            BadRequest::TooManyHeaders => RefusalReason::HeadTooLarge,
        };
        self.core.refuse_with(connection, reason, &[], bad.text());
    }

    fn refuse_large_head(&mut self, connection: ConnectionId) {
        self.core.refuse_with(
            connection,
            RefusalReason::HeadTooLarge,
            &[],
            "the request head is too large: send fewer or shorter headers",
        );
    }

    fn refuse_unready(&mut self, connection: ConnectionId, reason: RefusalReason) {
        let text = match reason {
            RefusalReason::Draining => "this server is going down: connect again",
            _ => "this server is full: try again later",
        };
        self.core.refuse_with(connection, reason, &[("Retry-After", "5")], text);
    }

    fn handle_request(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        request: &Request,
        head_bytes: usize,
        rest: &mut [u8],
    ) {
        if head_bytes > self.core.options.limits.handshake_bytes_max as usize {
            return self.refuse_large_head(connection);
        }
        let peer: SocketAddr = self.core.connections.identity(connection.slot).peer();
        let readiness = self.core.readiness();
        match self.handler.on_request(request, peer, readiness) {
            Answer::Respond(response) => {
                let bytes =
                    wire::encode_response(response.status, &response.headers, &response.text);
                self.respond(connection, request, response.refusal, bytes);
            }
            Answer::Upgrade { subprotocol, extensions, admission } => {
                match wire::encode_upgrade(request, subprotocol, extensions) {
                    Err(no_upgrade) => self.refuse_upgrade(connection, request, no_upgrade),
                    Ok(_) if readiness == Readiness::Full => {
                        self.refuse_unready(connection, RefusalReason::Full);
                    }
                    Ok(_) if readiness == Readiness::Draining => {
                        self.refuse_unready(connection, RefusalReason::Draining);
                    }
                    Ok(upgrade) => {
                        self.core.open(connection, upgrade);
                        let mut actions = Actions { core: &mut self.core, endpoint };
                        self.handler.on_open(&mut actions, connection, admission);
                        if !rest.is_empty() {
                            self.handle_bytes(endpoint, connection, rest);
                        }
                    }
                }
            }
        }
    }

    /// Answers a request that is understood and no upgrade.
    fn respond(
        &mut self,
        connection: ConnectionId,
        request: &Request,
        refusal: Option<RefusalReason>,
        response: Bytes,
    ) {
        let is_head = request.method() == "HEAD";
        let response = if is_head { wire::without_content(&response) } else { response };
        self.core.refuse(connection, refusal, response);
    }

    fn refuse_upgrade(
        &mut self,
        connection: ConnectionId,
        request: &Request,
        no_upgrade: NoUpgrade,
    ) {
        let reason = match no_upgrade {
            NoUpgrade::Malformed(_) => RefusalReason::Malformed,
            NoUpgrade::Method => RefusalReason::Method,
            NoUpgrade::Missing => RefusalReason::NoUpgrade,
            NoUpgrade::Version => RefusalReason::WrongVersion,
        };
        let response =
            wire::encode_response(no_upgrade.status(), no_upgrade.headers(), no_upgrade.text());
        self.respond(connection, request, Some(reason), response);
    }

    // Frames.

    fn decode(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
    ) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        let mut decoder = mem::take(&mut record.decoder);
        let before = decoder.buffered_bytes();
        let mut inflater = record.window.map(|_| self.core.compression.take_inflater());
        let mut input = Input::new(bytes);
        let inflates = inflater.as_deref_mut();
        let is_over = self.decode_input(endpoint, connection, &mut decoder, &mut input, inflates);
        if let Some(inflater) = inflater {
            self.core.compression.put_inflater(inflater);
        }
        let after = if is_over { 0 } else { decoder.buffered_bytes() };
        let Some(record) = self.core.connections.get_mut(connection) else {
            self.core.partial_bytes -= before;
            return;
        };
        if is_over || record.state == State::Terminating {
            self.core.partial_bytes -= before;
            return;
        }
        record.decoder = decoder;
        let is_paused = record.has(Flags::PAUSED);
        self.core.partial_bytes = self.core.partial_bytes + after - before;
        if is_paused && !input.rest().is_empty() {
            self.hold(connection, input.rest());
        }
        if after > before && !self.has_partial_room(0) {
            self.give_up_partial(connection);
        }
    }

    /// There is no room for what is incomplete: without it nothing more can be decoded.
    fn give_up_partial(&mut self, connection: ConnectionId) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        self.core.partial_bytes -= mem::take(&mut record.decoder).buffered_bytes();
        self.core.close(connection, CloseReason::Overloaded);
        self.core.handle_peer_done_badly(connection);
    }

    /// Decodes until the input is used up, the connection pauses, or nothing more is to be heard
    /// from it: then `true`.
    fn decode_input(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        decoder: &mut Decoder,
        input: &mut Input<'_>,
        mut inflater: Option<&mut Inflater>,
    ) -> bool {
        let message_bytes_max = self.core.options.limits.message_bytes_max as usize;
        loop {
            let state =
                self.core.connections.get(connection).map(|it| (it.state, it.has(Flags::PAUSED)));
            match state {
                Some((State::Open, false) | (State::Closing, _)) => {}
                Some((State::Open, true)) => return false,
                _ => return true,
            }
            let polled = match inflater.as_deref_mut() {
                None => decoder.poll(input, message_bytes_max),
                Some(inflater) => decoder.poll_deflated(input, message_bytes_max, inflater),
            };
            match polled {
                Ok(None) => return false,
                Ok(Some(Event::Message(message))) => {
                    if !matches!(state, Some((State::Open, _))) {
                        continue;
                    }
                    self.core.report.messages_received += 1;
                    let mut actions = Actions { core: &mut self.core, endpoint };
                    let flow = self.handler.on_message(&mut actions, connection, message);
                    self.heed(connection, flow);
                }
                Ok(Some(Event::Ping(payload))) => {
                    let mut pong = Vec::with_capacity(payload.len() + 2);
                    wire::encode_pong(payload, &mut pong);
                    self.core.send_control(connection, pong.into());
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    self.handle_close(connection, close);
                    return true;
                }
                Err(violation) => {
                    self.handle_violation(connection, violation);
                    return true;
                }
            }
        }
    }

    /// Pauses a connection that its handler wants paused, or that has sent more than its rate.
    fn heed(&mut self, connection: ConnectionId, flow: Flow) {
        let now = self.core.now();
        let is_over =
            self.core.rates.as_mut().is_some_and(|rates| rates.handle_message(connection, now));
        match flow {
            Flow::Pause => self.pause(connection),
            Flow::Continue if is_over => {
                self.pause(connection);
                self.core.report.rate_pauses += 1;
                if let Some(rates) = &mut self.core.rates {
                    rates.pause(connection);
                }
            }
            Flow::Continue => {}
        }
    }

    fn pause(&mut self, connection: ConnectionId) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        if record.state != State::Open || !record.raise(Flags::PAUSED) {
            return;
        }
        self.core.paused += 1;
        let stop = Operation::StopReceiving { connection };
        self.core.outbox.push(Outgoing::Operation(stop));
    }

    /// RFC 6455 section 5.5.1: a Close is answered with one, which usually echoes its code.
    fn handle_close(&mut self, connection: ConnectionId, close: Option<CloseFrame<'_>>) {
        let mut words = Vec::new();
        let echo = close.map(|close| CloseFrame { code: close.code, reason: "" });
        wire::encode_close(echo, &mut words);
        let reason = CloseReason::PeerClosed;
        self.core.begin_closing(connection, reason, Farewell::Finish, words.into());
        self.core.handle_peer_done(connection);
    }

    fn handle_violation(&mut self, connection: ConnectionId, violation: Violation) {
        let reason = match violation.code {
            CloseCode::UNSUPPORTED_DATA => CloseReason::UnsupportedData,
            CloseCode::INVALID_PAYLOAD => CloseReason::InvalidPayload,
            CloseCode::MESSAGE_TOO_BIG => CloseReason::MessageTooBig,
            _ => CloseReason::ProtocolError,
        };
        let close = CloseFrame { code: violation.code, reason: violation.reason };
        let mut words = Vec::new();
        wire::encode_close(Some(close), &mut words);
        self.core.begin_closing(connection, reason, Farewell::Linger, words.into());
        self.core.handle_peer_done_badly(connection);
    }

    // Letters and time.

    fn take_letters(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        for _ in 0..LETTERS_PER_TURN_MAX {
            if !self.core.fanout_room(1, 0) {
                return;
            }
            let Some(delivery) = endpoint.take() else { return };
            let hop = self.core.now().since(Time(delivery.posted_at));
            self.core.record(Stage::Hop, hop);
            let mut actions = Actions { core: &mut self.core, endpoint };
            self.handler.on_letter(&mut actions, delivery.from, delivery.letter);
            self.tell_closed(endpoint);
        }
    }

    /// Lets resumed connections go on with what they had sent.
    fn go_on(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        let now = self.core.now();
        while let Some(connection) = self.core.rates.as_mut().and_then(|it| it.poll_due(now)) {
            self.core.resume(connection);
        }
        for connection in mem::take(&mut self.core.resumed) {
            let is_paused =
                self.core.connections.get(connection).is_some_and(|it| it.has(Flags::PAUSED));
            if !is_paused {
                continue;
            }
            if let Some(mut held) = self.core.release_held(connection) {
                self.decode(endpoint, connection, &mut held);
            }
            if let Some(record) = self.core.connections.get(connection)
                && !record.has(Flags::PAUSED)
                && matches!(record.state, State::Open | State::Closing)
            {
                if record.has(Flags::FINISHED) {
                    self.core.handle_finished(connection);
                } else {
                    let receive = Operation::Receive { connection };
                    self.core.outbox.push(Outgoing::Operation(receive));
                }
            }
            self.tell_closed(endpoint);
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
