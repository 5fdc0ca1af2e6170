//! What a visitor says when it is open: messages, whole or in fragments, plain or compressed, and
//! pings.

use std::time::Duration;

use super::Visitor;
use crate::{
    deflate,
    frames::{self, BINARY, COMPRESSED, PING, PONG, TEXT},
    guard::Kind,
    reached::{DEFLATED_FRAGMENTS, FRAGMENTS},
    world::World,
};

/// The most fragments of a message.
const FRAGMENTS_MAX: usize = 9;

impl Visitor {
    /// A message, or a ping.
    pub(super) fn say(&mut self, world: &mut World) {
        let says_ping = self.plan.messages == 0 || self.plan.pings > 0 && world.chance.of(0.5);
        if says_ping {
            self.plan.pings -= 1;
            self.ping(world);
        } else {
            self.plan.messages -= 1;
            self.publish(world);
        }
        let pauses = world.chance.of(0.15);
        let span = if pauses { self.plan.pause } else { self.plan.period };
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.next_message = world.network.now() + Duration::from_nanos(world.chance.long(0..=ns));
    }

    fn publish(&mut self, world: &mut World) {
        let World { scenario, network, chance, compression, fragments, ledger, .. } = world;
        let mut opcode = *chance.one(&[TEXT, BINARY]);
        let is_reader = self.entry.as_ref().is_some_and(|it| it.token.kind == Kind::Reader);
        if (!scenario.client_publish || is_reader) && !self.subscription.echo {
            self.has_left = true;
            self.answer = Some(1008);
            return self.send(opcode, true, b"may not be said", world);
        }
        let bytes = chance.number(0..=scenario.message_bytes);
        let mut payload = ledger.publish(self.stream, network.now(), opcode, bytes);
        let mut row = FRAGMENTS;
        if self.window_bits.is_some() && compression.of(0.6) {
            payload = deflate::deflate(&payload, compression);
            opcode |= COMPRESSED;
            row = DEFLATED_FRAGMENTS;
        }
        let begin = self.written + self.unsent.len() as u64;
        if scenario.fragments && fragments.of(0.3) {
            ledger.expect(self.stream, row);
            self.send_in_fragments(opcode, &payload, world);
        } else if chance.of(0.2) {
            let at = chance.number(0..=payload.len());
            self.send(opcode, false, &payload[..at], world);
            if world.chance.of(0.5) {
                self.ping(world);
            }
            self.send(0, true, &payload[at..], world);
        } else {
            self.send(opcode, true, &payload, world);
        }
        let end = self.written + self.unsent.len() as u64;
        if opcode & COMPRESSED != 0
            && let Some(link) = self.link()
        {
            world.network.state.borrow_mut().note_compressed(link, (begin, end));
        }
    }

    /// In three fragments or more, cut anywhere, some of them empty, and with control frames between
    /// them (RFC 6455 section 5.4): a ping between the first two, and any anywhere else.
    fn send_in_fragments(&mut self, opcode: u8, payload: &[u8], world: &mut World) {
        let count = world.fragments.number(3..=FRAGMENTS_MAX);
        let mut cuts: Vec<usize> =
            (1..count).map(|_| world.fragments.number(0..=payload.len())).collect();
        cuts.sort_unstable();
        self.send(opcode, false, &payload[..cuts[0]], world);
        self.ping(world);
        for ends in cuts.windows(2) {
            self.send(0, false, &payload[ends[0]..ends[1]], world);
            while world.fragments.of(0.3) {
                match world.fragments.of(0.5) {
                    true => self.ping(world),
                    // Nobody has asked for it (RFC 6455 section 5.5.3).
                    false => self.send(PONG, true, b"unasked", world),
                }
            }
        }
        self.send(0, true, &payload[cuts[cuts.len() - 1]..], world);
    }

    fn ping(&mut self, world: &mut World) {
        self.pinged += 1;
        let payload = self.pinged.to_be_bytes();
        self.send(PING, true, &payload, world);
    }

    pub(super) fn send(&mut self, opcode: u8, is_final: bool, payload: &[u8], world: &mut World) {
        let key = world.chance.long(0..=u64::from(u32::MAX));
        let key = u32::try_from(key).unwrap_or(0).to_be_bytes();
        self.unsent.extend(frames::frame(opcode, is_final, payload, key));
    }
}
