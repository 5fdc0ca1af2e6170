//! How much of what one connection sends is decoded in one turn: as many frames as its share has,
//! and what is beyond waits for the next turn. So nobody's fragments, pings or tiny messages hold up
//! what the turn does for everybody else.

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
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    /// Of another turn, it counts as none.
    turn: u32,
    frames: u32,
}

impl Shares {
    /// Nobody has had anything.
    pub(crate) fn new(frames_max: u32) -> Self {
        let counters = Box::new([Counter { turn: 0, frames: 0 }; COUNTERS]);
        Self { frames_max, turn: 0, counters }
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
        let counter = self.counters[slot as usize % COUNTERS];
        let had = if counter.turn == self.turn { counter.frames } else { 0 };
        self.frames_max.saturating_sub(had)
    }

    /// So many more frames were decoded.
    pub(crate) fn take(&mut self, slot: Slot, frames: u32) {
        let counter = &mut self.counters[slot as usize % COUNTERS];
        let had = if counter.turn == self.turn { counter.frames } else { 0 };
        *counter = Counter { turn: self.turn, frames: had.saturating_add(frames) };
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
