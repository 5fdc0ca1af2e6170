//! Sends and offers: how much of each a socket takes, and what is to be told of it. A send is one to
//! one connection, and so is each target of an offer.

use std::time::Duration;

use bytes::Bytes;
use worker::{ConnectionId, Lost, OFFER_TARGETS_MAX, Slot, Taken, Time};

use super::SimEngine;
use crate::{
    link::Side,
    network::State,
    outcome::Outcome,
    reached::{EAGAIN, SHORT_SEND},
    sent::SentCounts,
    table::{Connection, Phase, Sending},
    tally::Tally,
};

/// How long a socket that took nothing is not writable, at most.
const SEND_REST_US_MAX: u64 = 2_000;

impl SimEngine {
    pub(super) fn send(&mut self, state: &mut State, id: ConnectionId, bytes: Bytes) {
        if bytes.is_empty() {
            self.breach(format!("Send of nothing to {id:?}"));
        }
        if let Some(wrong) = self.judge_answer(state.now, id, &bytes) {
            self.breach(format!("{id:?} {wrong}"));
        }
        self.check_debt(id.slot, state.now);
        let Some(connection) = self.table.open(id) else {
            self.breach(format!("Send to {id:?}, which is not open"));
            return;
        };
        if connection.sending == Sending::Waiting {
            self.breaches.push(format!("Send to {id:?} before Writable"));
        }
        let sent = |decided: &Outcome| matches!(decided, Outcome::Sent(of, _) if *of == id);
        if self.decided.iter().any(sent) {
            self.breaches.push(format!("a second Send to {id:?} before the first was told"));
        }
        let limits = &self.options.promises.addresses;
        if let Some(wrong) = state.hosts.judge(&mut connection.arrival, &bytes, limits) {
            self.breaches.push(format!("{id:?} {wrong}: {:?}", connection.arrival));
        }
        let is_behind = connection.sending == Sending::Refused;
        // Else it may be the rest of a message, which may begin with anything.
        let is_frame = is_behind || connection.tally.is_between();
        connection.watch.handle_send(state.now, &bytes, is_frame);
        if bytes.starts_with(b"HTTP/1.1 101 ") {
            connection.tally = Tally::Head(0);
        }
        let outcome = transmit(state, self.storm_until, connection, &bytes, &mut self.counted);
        let left = match is_behind {
            true => Tally::left_of(&bytes, 0),
            false => { connection.tally }.take(&bytes[taken(&outcome)..]),
        };
        self.untold.push((id, left));
        self.looks.push(id.slot);
        state.note(connection.link as u64, "sent", taken(&outcome));
        self.decided.push(Outcome::sent(id, bytes, outcome));
    }

    pub(super) fn offer(&mut self, state: &mut State, frame: &Bytes, targets: &[Slot]) {
        let in_order = targets.windows(2).all(|pair| pair[0] < pair[1]);
        if targets.is_empty() || targets.len() > OFFER_TARGETS_MAX || !in_order {
            self.breach(format!("Offer to {targets:?}: too many, none, or not in slot order"));
        }
        for slot in targets {
            self.offered += 1;
            let open = self.table.at(*slot).filter(|(_, of)| of.phase == Phase::Open);
            let Some((id, connection)) = open else {
                self.breach(format!("Offer to slot {slot}, where nothing is open"));
                continue;
            };
            if connection.sending == Sending::Waiting {
                self.breaches.push(format!("Offer to {id:?} before Writable"));
            }
            let outcome = transmit(state, self.storm_until, connection, frame, &mut self.counted);
            state.note(connection.link as u64, "offered", taken(&outcome));
            self.untold.push((id, Tally::left_of(frame, taken(&outcome))));
            if outcome != Ok(frame.len()) {
                self.looks.push(*slot);
                self.decided.push(Outcome::refused(id, frame.clone(), outcome));
            }
        }
    }

    /// After a close nothing is told of what became of earlier sends.
    pub(super) fn forget_decided(&mut self, id: ConnectionId) {
        for forgotten in self.decided.extract_if(.., |decided| decided.connection() == Some(id)) {
            match forgotten {
                Outcome::Sent(_, outcome) => {
                    self.sends_decided += 1;
                    let taken = outcome.map_or(0, |outcome| outcome.taken);
                    self.counted.bytes_unknown += taken as u64;
                }
                Outcome::Refused(_, outcome) => {
                    let left = match outcome {
                        Ok(Taken { bytes, taken }) => bytes.len() - taken,
                        Err(Lost { bytes, .. }) => bytes.len(),
                    };
                    self.counted.bytes_presumed += left as u64;
                }
                _ => {}
            }
        }
        for (_, messages) in self.untold.extract_if(.., |(of, _)| *of == id) {
            self.counted.unknown += messages;
        }
    }
}

/// Offers bytes to a socket: how many it takes.
fn transmit(
    state: &mut State,
    storm_until: Time,
    connection: &mut Connection,
    bytes: &Bytes,
    counted: &mut SentCounts,
) -> Result<usize, worker::Failure> {
    if let Some(failure) = state.broken(connection.link, Side::Server) {
        connection.send_failed = true;
        connection.watch.failure = Some(failure);
        return Err(failure);
    }
    if connection.sending != Sending::Free {
        return Ok(0);
    }
    let mut room = state.room(connection.link, Side::Server).min(bytes.len());
    let faults = state.options.faults;
    let refuses = if state.now < storm_until { 0.9 } else { faults.refused_sends };
    if state.chance.of(refuses) {
        room = 0;
        let rest = Duration::from_micros(state.chance.long(0..=SEND_REST_US_MAX));
        connection.rests_from_sending_until = state.now + rest;
        state.tick(state.now + rest);
    } else if room > 1 && state.chance.of(faults.short_sends) {
        room = state.chance.number(1..=room - 1);
    }
    let count = state.write(connection.link, Side::Server, &bytes[..room]);
    take(state, connection, &bytes[..count], counted);
    if count < bytes.len() {
        connection.sending = Sending::Refused;
        connection.watch.handle_refused(state.now);
        state.reached.count(if count > 0 { SHORT_SEND } else { EAGAIN });
    }
    Ok(count)
}

/// Counts what a socket has taken.
fn take(state: &mut State, connection: &mut Connection, bytes: &[u8], counted: &mut SentCounts) {
    let Connection { tally, piece, taken, .. } = connection;
    *taken += bytes.len() as u64;
    counted.bytes += bytes.len() as u64;
    counted.taken += tally.take_showing(bytes, |payload, is_last| {
        if !is_last || !piece.is_empty() {
            piece.extend_from_slice(payload);
        }
        if is_last {
            let payload = if piece.is_empty() { payload } else { &piece[..] };
            // What stands for no message its receiver will not take.
            counted.saved_bytes += state.payloads.saving(payload).unwrap_or(0);
            piece.clear();
        }
    });
}

fn taken(outcome: &Result<usize, worker::Failure>) -> usize {
    *outcome.as_ref().unwrap_or(&0)
}
