//! Breaks that the histories must notice, one line of the product or of the engine each: what has
//! never caught anything shows nothing.

use worker::breakage::{self, Break};

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
pub const CANARIES: [Canary; 11] = [
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
