//! Sockets that change engines: another one goes on with all of them, in places of its own.

use std::collections::BTreeMap;

use worker::{ConnectionId, Slot};

use super::SimEngine;
use crate::{
    chance::Chance,
    table::{Phase, Sending},
};

impl SimEngine {
    /// Another engine takes over the sockets and listeners of this one, and what was counted for the
    /// history, but neither places nor generations. Says where each connection stands there. Nothing
    /// may be on its way: the worker has settled.
    pub(crate) fn hand_over(
        &mut self,
        chance: &mut Chance,
    ) -> BTreeMap<ConnectionId, ConnectionId> {
        let is_settled = self.submitted.is_empty() && !self.has_news() && self.told.is_empty();
        let mut other = Self::new(self.network.clone(), self.member, self.options);
        std::mem::swap(self, &mut other);
        let old = other;
        if !is_settled {
            self.breach("connections were moved with something on its way".to_owned());
        }
        self.accepting = old.accepting;
        self.accepts_rest_until = old.accepts_rest_until;
        self.counted = old.counted;
        self.ended = old.ended;
        self.storm_until = old.storm_until;
        (self.accepted, self.closed) = (old.accepted, old.closed);
        (self.sends, self.sends_decided) = (old.sends, old.sends_decided);
        self.breaches.extend(old.breaches);
        // Who was about to be pinged may now stand behind those that just were.
        (self.grown, self.excused) = (self.network.now(), self.network.now());
        let connections = old.table.into_connections();
        // Among some that stay free.
        let slots_max = connections.len() * 2 + 8;
        let mut slots: Vec<Slot> = (0..self.options.connections_max).take(slots_max).collect();
        chance.shuffle(&mut slots);
        let network = self.network.clone();
        let mut state = network.state.borrow_mut();
        // They are about places that there are no more.
        drop(state.take_server_news(self.member));
        let moved = connections.into_iter().zip(slots).map(|((id, connection), slot)| {
            state.place(connection.link, Some(slot));
            state.note(connection.link as u64, "handed over", slot as usize);
            self.looks.push(slot);
            if connection.phase == Phase::Open && connection.sending == Sending::Waiting {
                self.refusing.push(slot);
            }
            (id, self.table.put(slot, connection))
        });
        moved.collect()
    }
}
