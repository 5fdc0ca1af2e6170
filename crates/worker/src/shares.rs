//! How much of what one connection sends is decoded in one turn: as many frames as its share has,
//! and what is beyond waits for the next turn. So nobody's fragments, pings or tiny messages hold up
//! what the turn does for everybody else. What the turn has verified is counted here as well.

use crate::operation::Slot;

/// Counters of a turn. Connections whose slots are so many apart have one in common: then one of
/// them may find less than its share in a turn, and has its own in the next.
const COUNTERS: usize = 1024;

/// What each connection has had decoded since the turn began.
#[derive(Debug)]
pub(crate) struct Shares {
    frames_max: u32,
    /// The number of the turn, which may begin again at 0: who has had nothing for 2^32 turns may
    /// then find less than its share once.
    turn: u32,
    counters: Box<[Counter; COUNTERS]>,
    /// Of all connections together.
    verifications: Counter,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    /// Of another turn, it counts as none.
    turn: u32,
    times: u32,
}

impl Counter {
    const NONE: Self = Self { turn: 0, times: 0 };

    fn in_turn(self, turn: u32) -> u32 {
        if self.turn == turn { self.times } else { 0 }
    }

    fn add(&mut self, turn: u32, times: u32) {
        *self = Self { turn, times: self.in_turn(turn).saturating_add(times) };
    }
}

impl Shares {
    /// Nobody has had anything.
    pub(crate) fn new(frames_max: u32) -> Self {
        let counters = Box::new([Counter::NONE; COUNTERS]);
        Self { frames_max, turn: 0, counters, verifications: Counter::NONE }
    }

    /// Everybody has a whole share again.
    pub(crate) fn begin_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// A whole share.
    pub(crate) fn whole(&self) -> u32 {
        self.frames_max
    }

    /// What is left of a connection's share.
    pub(crate) fn left(&self, slot: Slot) -> u32 {
        self.frames_max.saturating_sub(self.counters[slot as usize % COUNTERS].in_turn(self.turn))
    }

    /// So many more frames were decoded.
    pub(crate) fn take(&mut self, slot: Slot, frames: u32) {
        self.counters[slot as usize % COUNTERS].add(self.turn, frames);
    }

    /// How many tokens were verified in this turn.
    pub(crate) fn verifications(&self) -> u32 {
        self.verifications.in_turn(self.turn)
    }

    /// One more was verified.
    pub(crate) fn take_verification(&mut self) {
        self.verifications.add(self.turn, 1);
    }

    /// Memory that is reserved whatever the load.
    pub(crate) fn fixed_bytes(&self) -> usize {
        size_of_val(&*self.counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_whole_again_with_the_next_turn() {
        let mut shares = Shares::new(10);
        shares.take(3, 4);
        assert_eq!((shares.left(3), shares.left(4)), (6, 10));
        shares.take(3, 9);
        assert_eq!(shares.left(3), 0);
        shares.begin_turn();
        assert_eq!((shares.left(3), shares.whole()), (10, 10));
    }
}
