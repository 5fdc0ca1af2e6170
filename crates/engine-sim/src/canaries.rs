//! Breaks that the histories must notice, one line of the product or of the engine each: what has
//! never caught anything shows nothing.

use worker::{
    CloseReason,
    breakage::{self, Break},
};

use crate::{
    history::{self, Broken, Summary},
    scenario::Scenario,
};

/// A break, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Canary {
    /// Names it on the command line.
    pub name: &'static str,
    /// What is wrong, in a few words.
    pub says: &'static str,
    /// `None`: it is the engine's.
    broken: Option<Break>,
}

/// All of them.
pub const CANARIES: [Canary; 21] = [
    Canary {
        name: "rest-dropped",
        says: "a partial send's rest is dropped",
        broken: Some(Break::RestDropped),
    },
    Canary {
        name: "generation-ignored",
        says: "a completion's generation is not checked",
        broken: Some(Break::GenerationIgnored),
    },
    Canary {
        name: "busy-offered",
        says: "a busy connection is offered frames",
        broken: Some(Break::BusyOffered),
    },
    Canary {
        name: "letters-swapped",
        says: "two letters of one sender change places",
        broken: Some(Break::LettersSwapped),
    },
    Canary {
        name: "heard-ignored",
        says: "the pong deadline ignores heard bytes",
        broken: Some(Break::HeardIgnored),
    },
    Canary { name: "slot-reused", says: "a slot is used again before `Closed`", broken: None },
    Canary {
        name: "write-timeout-ignored",
        says: "`latest` knows no write timeout",
        broken: Some(Break::WriteTimeoutIgnored),
    },
    Canary {
        name: "drops-uncounted",
        says: "dropped messages are not counted",
        broken: Some(Break::DropsUncounted),
    },
    Canary {
        name: "window-ignored",
        says: "publications ignore a receiver's window",
        broken: Some(Break::WindowIgnored),
    },
    Canary {
        name: "queue-bound-doubled",
        says: "a queue holds twice what it may",
        broken: Some(Break::QueueBoundDoubled),
    },
    Canary {
        name: "refused-bytes-counted",
        says: "refused bytes stay counted as sent",
        broken: Some(Break::RefusedBytesCounted),
    },
    Canary {
        name: "slow-without-cause",
        says: "who is quick is closed as slow",
        broken: Some(Break::EndedWithoutCause(CloseReason::SlowConsumer)),
    },
    Canary {
        name: "over-budget-without-cause",
        says: "who has nothing queued is over budget",
        broken: Some(Break::EndedWithoutCause(CloseReason::OverBudget)),
    },
    Canary {
        name: "gone-without-cause",
        says: "who is there is taken for gone",
        broken: Some(Break::EndedWithoutCause(CloseReason::PeerGone)),
    },
    Canary {
        name: "closed-without-cause",
        says: "who has said nothing is told that it closed",
        broken: Some(Break::EndedWithoutCause(CloseReason::PeerClosed)),
    },
    Canary {
        name: "full-too-early",
        says: "503 is said when half the places are free",
        broken: Some(Break::FullTooEarly),
    },
    Canary {
        name: "budget-doubled",
        says: "all queues hold twice their budget",
        broken: Some(Break::BudgetDoubled),
    },
    Canary {
        name: "pings-forgotten",
        says: "nobody is pinged",
        broken: Some(Break::PingsForgotten),
    },
    Canary {
        name: "publications-kept",
        says: "what was delivered is kept in memory",
        broken: Some(Break::PublicationsKept),
    },
    Canary {
        name: "removed-kept",
        says: "who is removed stays",
        broken: Some(Break::Kept(CloseReason::Removed)),
    },
    Canary {
        name: "expired-kept",
        says: "whose token has ended stays",
        broken: Some(Break::Kept(CloseReason::TokenExpired)),
    },
];

impl Canary {
    /// Runs the history of a seed with this break.
    ///
    /// # Errors
    /// The break was noticed.
    pub fn run(&self, seed: u64, deeds_max: usize) -> Result<Summary, Box<Broken>> {
        let mut scenario = Scenario::new(seed);
        scenario.reuses_slots = self.broken.is_none();
        breakage::set(self.broken);
        let outcome = history::run_scenario(scenario, deeds_max);
        breakage::set(None);
        outcome
    }
}
