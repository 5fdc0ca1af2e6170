//! Closing connections that are older than they may be. A cursor walks the table in slot order, an
//! eighth of it a period, and of that only so much a turn that everything else is soon looked at.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::Core;
use crate::{
    operation::{ConnectionId, Slot},
    stats::CloseReason,
    wheel::{TICK, Tick},
};

/// Slots looked at in one turn: they lie side by side, so this takes some ten microseconds.
const LOOKS_PER_TURN_MAX: usize = 4096;

/// Connections closed in one turn: each is a send.
const CLOSES_PER_TURN_MAX: usize = 64;

/// The cursor.
#[derive(Debug)]
pub(super) struct Aging {
    /// The slots of the current period that have not been looked at.
    next: usize,
    end: usize,
    /// When the period began.
    began: Tick,
}

impl Aging {
    pub(super) fn new() -> Self {
        Self { next: 0, end: 0, began: Tick(0) }
    }
}

impl Core {
    /// How often the cursor has another eighth of the table to walk.
    pub(crate) fn age_period(&self) -> Option<Duration> {
        let age_max = self.options.connection_age_max?;
        Some((age_max / 200).clamp(TICK, Duration::from_secs(1)))
    }

    /// Whether slots of the current period have not been looked at.
    pub(crate) fn is_aging_behind(&self) -> bool {
        self.aging.next < self.aging.end
    }

    /// Closes those of the next slots that are too old, each by an age of its own.
    pub(crate) fn handle_age(&mut self) {
        let (Some(age_max), Some(period)) = (self.options.connection_age_max, self.age_period())
        else {
            return;
        };
        let tick = self.tick();
        if !self.is_aging_behind() && tick.since(self.aging.began) >= period {
            let slots = self.connections.slots_used();
            let next = if self.aging.next < slots { self.aging.next } else { 0 };
            let end = slots.min(next + slots.div_ceil(8));
            self.aging = Aging { next, end, began: tick };
        }
        let end = self.aging.end.min(self.aging.next + LOOKS_PER_TURN_MAX);
        let mut closes = 0;
        while self.aging.next < end && closes < CLOSES_PER_TURN_MAX {
            let slot = Slot::try_from(self.aging.next).expect("slots are numbers of 32 bits");
            self.aging.next += 1;
            let age = tick.since(self.connections.identity(slot).accepted);
            if let Some(connection) = self.connections.id_at(slot)
                && age >= age_max.mul_f64(0.9)
                && age >= age_max.mul_f64(0.9 + 0.2 * self.share(connection))
            {
                self.close(connection, CloseReason::Moving);
                closes += 1;
            }
        }
    }

    /// A number from 0 to 1 that is the connection's own, and another in the next run.
    fn share(&self, connection: ConnectionId) -> f64 {
        let id = u64::from(connection.slot) << 32 | u64::from(connection.generation);
        let mut random = StdRng::seed_from_u64(self.options.seed ^ id);
        random.random()
    }
}
