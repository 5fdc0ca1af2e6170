//! How links are lost: they break, and both ends learn of it, or a client gets out of reach, and nobody
//! does.

use std::time::Duration;

use worker::Failure;

use super::{Happening, State};
use crate::{
    link::{LinkId, Side},
    reached::{BROKEN_LINK, GIVEN_UP, OUT_OF_REACH},
};

/// How long the server's end waits at most before it gives up a client that is out of reach.
const GIVE_UP_MS_MAX: u64 = 60_000;

impl State {
    /// A middlebox or a dead path: both ends learn at once, each in its way.
    pub(super) fn break_link(&mut self, id: LinkId) {
        let failures = [Failure::Reset, Failure::TimedOut, Failure::Unreachable, Failure::Other(5)];
        let failure = *self.chance.one(&failures);
        self.note(id as u64, "the link breaks", 0);
        self.reached.count(BROKEN_LINK);
        let link = &mut self.links[id];
        for (side, failure) in [(Side::Client, Failure::Reset), (Side::Server, failure)] {
            link.end(side).broken.get_or_insert(failure);
            link.to(side).forget_arrived();
            link.from(side).forget_unsent();
        }
        self.touch(id, Side::Client);
        self.touch(id, Side::Server);
    }

    /// From now on nothing comes through, either way, and nobody is told.
    pub(crate) fn vanish(&mut self, id: LinkId) {
        self.note(id as u64, "out of reach", 0);
        self.reached.count(OUT_OF_REACH);
        self.links[id].is_lost = true;
    }

    /// Nobody has acknowledged what the server's end has sent, if it still waits for that.
    pub(super) fn give_up(&mut self, id: LinkId) {
        let link = &mut self.links[id];
        if link.end(Side::Server).broken.is_some() || link.slot.is_none() {
            return;
        }
        link.end(Side::Server).broken = Some(Failure::TimedOut);
        link.to(Side::Server).forget_arrived();
        link.from(Side::Server).forget_unsent();
        self.note(id as u64, "given up", 0);
        self.reached.count(GIVEN_UP);
        self.touch(id, Side::Server);
    }

    /// What is sent does not arrive. The server's end waits for its acknowledgement.
    pub(super) fn swallow(&mut self, id: LinkId, sender: Side) {
        if sender == Side::Server && !std::mem::replace(&mut self.links[id].is_given_up, true) {
            let span = Duration::from_millis(self.chance.long(1_000..=GIVE_UP_MS_MAX));
            self.at(self.now + span, Happening::GiveUp(id));
        }
    }
}
