//! What everyone in a history shares.

use std::net::SocketAddr;

use worker::Time;

use crate::{
    chance::Chance, guard::Guard, guest::Removal, ledger::Ledger, network::Network, queues::Queues,
    scenario::Scenario,
};

/// The network, the dice, and what is known of the past.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) network: Network,
    pub(crate) chance: Chance,
    /// The dice of compression alone: where there is none, a seed is the history that it would be
    /// if there never were.
    pub(crate) compression: Chance,
    /// The dice of messages in many fragments, for the same reason.
    pub(crate) fragments: Chance,
    /// The dice of connections that change engines, for the same reason.
    pub(crate) handovers: Chance,
    /// The dice of what the guest wishes beside publishing, and of visitors that vanish, for the same
    /// reason.
    pub(crate) wishes: Chance,
    pub(crate) vanishing: Chance,
    /// Tokens, where they are needed.
    pub(crate) guard: Option<Guard>,
    /// Whom the guest wanted removed.
    pub(crate) removals: Vec<Removal>,
    /// When connections last went over to another engine.
    pub(crate) handed_over: Time,
    pub(crate) ledger: Ledger,
    pub(crate) queues: Queues,
    /// Close frames that visitors have sent by themselves.
    pub(crate) goodbyes: u64,
    /// Visits that have ended.
    pub(crate) visits: Vec<Visit>,
    /// How many visits there have been.
    pub(crate) visits_begun: usize,
    /// Visits whose visitor was told 101 and not an end, now and at most.
    pub(crate) open: usize,
    pub(crate) open_max: usize,
}

impl World {
    /// A visitor was told 101.
    pub(crate) fn count_open(&mut self) {
        self.open += 1;
        self.open_max = self.open_max.max(self.open);
    }
}

/// A visit that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) visitor: usize,
    pub(crate) address: SocketAddr,
    /// True exactly when the server had said 101.
    pub(crate) was_open: bool,
    pub(crate) end: End,
    /// True exactly when the visitor has ended it itself, politely or not.
    pub(crate) has_left: bool,
    /// The status or Close code that what it did must be answered with.
    pub(crate) answer: Option<u16>,
    /// True exactly when it has read, answered and sent as it should all along.
    pub(crate) was_good: bool,
    /// True exactly when it was not let in for its token, or may not have been: then its 101 had a
    /// Close frame behind it, and no worker says more about it.
    pub(crate) is_dismissed: bool,
}

/// How a visit ended, as the visitor was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this answer to its request.
    Refused(u16),
    /// With a Close frame of the server, which carried this code or none.
    Closed(Option<u16>),
    /// The connection ended without a word.
    Cut,
}
