//! What an open connection sends: frames become messages, pongs, closes and violations.

use std::mem;

use mesh::Endpoint;
use wire::{CloseCode, CloseFrame, Decoder, Event, Inflater, Input, Violation};

use super::Worker;
use crate::{
    actions::Actions,
    connections::{Farewell, Flags, State},
    core::Outgoing,
    handler::{Flow, Handler},
    operation::{ConnectionId, Operation},
    stats::CloseReason,
};

/// Of a message every so many bytes count as a frame.
const KIB: usize = 1024;

impl<H: Handler> Worker<H> {
    /// Decodes at most so many frames, and returns how many bytes need not be looked at again: all
    /// unless the connection has paused, or `frames_max` was reached.
    pub(super) fn decode(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
        frames_max: u32,
    ) -> usize {
        let length = bytes.len();
        let Some(record) = self.core.connections.get_mut(connection) else { return length };
        let mut decoder = mem::take(&mut record.decoder);
        let before = decoder.buffered_bytes();
        let mut inflater = record.window.map(|_| self.core.compression.take_inflater());
        let mut input = Input::limited(bytes, frames_max);
        let inflates = inflater.as_deref_mut();
        let is_over = self.decode_input(endpoint, connection, &mut decoder, &mut input, inflates);
        if let Some(inflater) = inflater {
            self.core.compression.put_inflater(inflater);
        }
        self.core.shares.take(connection.slot, frames_max.saturating_sub(input.frames_left()));
        let after = if is_over { 0 } else { decoder.buffered_bytes() };
        let Some(record) = self.core.connections.get_mut(connection) else {
            self.core.partial_bytes -= before;
            return length;
        };
        if is_over || record.state == State::Terminating {
            self.core.partial_bytes -= before;
            return length;
        }
        record.decoder = decoder;
        self.core.partial_bytes = self.core.partial_bytes + after - before;
        let rest = input.rest().len();
        if after > before && !self.has_partial_room(0) {
            self.give_up_partial(connection);
        }
        length - rest
    }

    /// There is no room for what is incomplete: without it nothing more can be decoded.
    pub(super) fn give_up_partial(&mut self, connection: ConnectionId) {
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
                Some((State::Open, false)) => {}
                // Nobody acts on it any more, and there is a bound on what is read of it.
                Some((State::Closing, _)) => input.lift_limit(),
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
                    let kibibytes = message.payload.len() / KIB;
                    let mut actions = Actions { core: &mut self.core, endpoint };
                    let flow = self.handler.on_message(&mut actions, connection, message);
                    self.heed(connection, flow);
                    input.count_more(u32::try_from(kibibytes).unwrap_or(u32::MAX));
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
            // Most reads bring one frame, and it lay whole in them: nothing is left to be asked for.
            if input.rest().is_empty() && decoder.buffered_bytes() == 0 {
                return false;
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

    pub(super) fn pause(&mut self, connection: ConnectionId) {
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
}
